"""Whole verbs that join several layers: train one run, or go from a data set to a champion."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from raycadian.config import Recipe, model_name, override
from raycadian.errors import BoundaryError
from raycadian.runs import RUNS, Run, experiment_key, find_complete, require_one_protocol
from raycadian.tasks import task_of
from raycadian.tasks.base import Comparison, Data
from raycadian.tracking import registry
from raycadian.tracking.live import tracked, tracked_sweep
from raycadian.training.pipeline import SNAPSHOTS, load_data, results_of, train_run

if TYPE_CHECKING:
    from raycadian.training.tune import Sweep


log = logging.getLogger(__name__)


class Progress(Protocol):
    """What long work tells: a person watches it, a machine ignores it."""

    def stage(self, text: str) -> None: ...
    def epoch(self, metrics: dict[str, float]) -> None: ...
    def step(self, epoch: int, done: int, total: int) -> None: ...
    def trial(self, record: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """What `run` left: the recipe's own run; all, best on validation first; the leaderboard on test; the promotion."""

    main: Run
    ranked: list[Run]
    leaderboard: pd.DataFrame
    promotion: registry.Promotion
    sweep: Path | None


def usable_data(recipe: Recipe, snapshots: Path = SNAPSHOTS) -> Data:
    """As `load_data`; raises ValueError too where there is no window to train on or to validate with, before anything
    is trained or tuned."""
    data = load_data(recipe, snapshots)
    task_of(recipe).require_windows(data, recipe)
    return data


def train(
    recipe: Recipe,
    data: Data,
    progress: Progress,
    *,
    runs: Path = RUNS,
    resume: bool = False,
    against: Iterable[Run] = (),
) -> Run:
    """Train and score one model, tracked, logged in MLflow. `resume` reuses a complete run of this recipe and data."""
    done = find_complete(runs, recipe.name, experiment_key(recipe, data.snapshot_id)) if resume else None
    if done is not None:
        progress.stage(f"reuse {done.name}")
        return Run(done)
    progress.stage(f"train {model_name(recipe.model)}")
    with tracked(recipe, runs) as track:

        def on_epoch(metrics: dict[str, float]) -> None:
            track(metrics)
            progress.epoch(metrics)

        run = train_run(
            recipe, data, runs=runs, resume=resume, against=list(against), on_epoch=on_epoch, on_step=progress.step
        )
    with registry.recording(run.name):
        registry.log_run(run, runs=runs)
    return run


def tune(recipe: Recipe, data: Data, progress: Progress, *, runs: Path = RUNS, resume: bool = False) -> Sweep:
    """Sweep the recipe's search space, each trial told to the trackers that the recipe turns on as it ends."""
    from raycadian.training.tune import sweep  # the one door to ray.tune

    with tracked_sweep(recipe, runs) as track:

        def on_trial(record: dict[str, Any]) -> None:
            track(record)
            progress.trial(record)

        return sweep(recipe, data, runs=runs, resume=resume, on_trial=on_trial)


def run(
    recipe: Recipe, progress: Progress, *, runs: Path = RUNS, snapshots: Path = SNAPSHOTS, resume: bool = False,
    also: Sequence[Run] = (),
) -> Outcome:  # fmt: skip
    """Prepare, tune (where the recipe asks), train the model and its peers, score, promote the best, report.

    `also`: complete runs on the same windows that compete too. Models are chosen on validation data; the leaderboard
    shows the test data, once.
    """
    progress.stage(f"prepare {recipe.dataset}")
    data = usable_data(recipe, snapshots)
    sweep = None
    if recipe.tuning is not None:
        progress.stage(f"tune {recipe.tuning.trials} trials")
        sweep = tune(recipe, data, progress, runs=runs, resume=resume)
        recipe = override(recipe, sweep.best, f"{recipe.name}, best trial")
    peers = [*also, *(train(r, data, progress, runs=runs, resume=resume) for r in peers_of(recipe))]
    main = train(recipe, data, progress, runs=runs, resume=resume, against=peers)
    best = recipe.task.headline
    ranked = sorted([main, *peers], key=lambda r: r.summary["val"][best.name]["value"], reverse=best.better == "high")
    promotion = _promoted(ranked[0], runs, snapshots)
    return Outcome(main, ranked, _leaderboard(ranked), promotion, sweep.path if sweep else None)


def promote(run: Run, *, runs: Path = RUNS, snapshots: Path = SNAPSHOTS, force: bool = False) -> registry.Promotion:
    """As registry.promote, once the run, loaded as it will be served, says what its predictions say. Raises
    ValueError."""
    from raycadian.serving.canary import require_as_scored  # with every predictor

    return registry.promote(run, check=lambda run: require_as_scored(run, snapshots), runs=runs, force=force)


def _promoted(run: Run, runs: Path, snapshots: Path) -> registry.Promotion:
    """The end of long work, which is not lost because the registry, or the run's check, refuses."""
    try:
        return promote(run, runs=runs, snapshots=snapshots)
    except BoundaryError as error:
        log.warning("%s is not promoted: %s", run.name, error)
        name = registry.registered_name(run.recipe)
        return registry.Promotion(False, name, run.name, None, f"not promoted, `raycadian promote {run.name}`: {error}")


def _leaderboard(runs: list[Run]) -> pd.DataFrame:
    recipe = runs[0].recipe
    return task_of(recipe).leaderboard({label(r, runs): results_of(r) for r in runs}, recipe)


def peers_of(recipe: Recipe) -> list[Recipe]:
    """A recipe for each model that the recipe compares with."""
    return [
        recipe.model_copy(update={"name": f"{recipe.name}-{model_name(m)}", "model": m, "compare": (), "tuning": None})
        for m in recipe.compare
    ]


def compare(runs: list[Run]) -> Comparison:
    """Runs of one protocol on identical test windows. Raises ValueError where the runs' protocols or windows differ."""
    protocol = require_one_protocol(runs)
    recipe, named = runs[0].recipe, {label(run, runs): results_of(run) for run in runs}
    task = task_of(recipe)
    return Comparison(
        protocol, task.leaderboard(named, recipe), task.differences(named, recipe), task.ranks(named, recipe)
    )


def label(run: Run, among: list[Run]) -> str:
    """The model's name, or the run's where two runs have the same model."""
    name = model_name(run.recipe.model)
    return name if sum(model_name(r.recipe.model) == name for r in among) == 1 else run.name


class Quiet:
    """Progress that says nothing."""

    def stage(self, text: str) -> None: ...
    def epoch(self, metrics: dict[str, float]) -> None: ...
    def step(self, epoch: int, done: int, total: int) -> None: ...
    def trial(self, record: dict[str, Any]) -> None: ...
