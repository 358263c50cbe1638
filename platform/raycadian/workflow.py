"""Whole verbs that join several layers: train one run, or go from a data set to a champion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pandas as pd

from raycadian.config import Forecasting, Pretraining, Recipe, headline, model_name, override, protocol_of
from raycadian.evaluation.forecast.compare import differences, rank_models
from raycadian.evaluation.forecast.significance import Ranks
from raycadian.tracking import registry
from raycadian.tracking.live import tracked, tracked_sweep
from raycadian.training import labelling
from raycadian.training.pipeline import SNAPSHOTS, Data, board_of, load_data, read_predictions, train_run
from raycadian.training.run import RUNS, Run, experiment_key, find_complete

if TYPE_CHECKING:
    from raycadian.training.tune import Sweep


class Progress(Protocol):
    """What long work tells: a person watches it, a machine ignores it."""

    def stage(self, text: str) -> None: ...
    def epoch(self, metrics: dict[str, float]) -> None: ...
    def step(self, epoch: int, done: int, total: int) -> None: ...
    def trial(self, record: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """What `run` left: the recipe's own run; all, best on validation first; the leaderboard on test data; the promotion."""

    main: Run
    ranked: list[Run]
    leaderboard: pd.DataFrame
    promotion: registry.Promotion
    sweep: Path | None


def train(
    recipe: Recipe,
    data: Data,
    progress: Progress,
    *,
    runs: Path = RUNS,
    resume: bool = False,
    against: Iterable[Run] = (),
) -> Run:
    """Train and score one model, tracked, logged in MLflow. `resume` reuses a complete run of the same recipe and data."""
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
    data = load_data(recipe, snapshots)
    sweep = None
    if recipe.tuning is not None:
        progress.stage(f"tune {recipe.tuning.trials} trials")
        sweep = tune(recipe, data, progress, runs=runs, resume=resume)
        recipe = override(recipe, sweep.best, f"{recipe.name}, best trial")
    peers = [*also, *(train(r, data, progress, runs=runs, resume=resume) for r in peers_of(recipe))]
    main = train(recipe, data, progress, runs=runs, resume=resume, against=peers)
    best = headline(recipe.task)
    ranked = sorted([main, *peers], key=lambda r: r.summary["val"][best.name]["value"], reverse=best.better == "high")
    promotion = registry.promote(ranked[0], runs=runs)
    return Outcome(main, ranked, _leaderboard(ranked), promotion, sweep.path if sweep else None)


def _leaderboard(runs: list[Run]) -> pd.DataFrame:
    if not isinstance(runs[0].recipe.task, Pretraining):
        return compare(runs).leaderboard
    rows = [{"model": label(r, runs), "loss": r.summary["val"]["loss"]["value"]} for r in runs]
    return pd.DataFrame(rows)


def peers_of(recipe: Recipe) -> list[Recipe]:
    """A recipe for each model that the recipe compares with."""
    return [
        recipe.model_copy(update={"name": f"{recipe.name}-{model_name(m)}", "model": m, "compare": (), "tuning": None})
        for m in recipe.compare
    ]


@dataclass(frozen=True)
class Comparison:
    """Runs of one protocol on identical test windows: who leads, and for each pair whether that is noise."""

    protocol: str
    leaderboard: pd.DataFrame
    differences: pd.DataFrame
    ranks: Ranks | None


def compare(runs: list[Run]) -> Comparison:
    """Raises ValueError where the runs' protocols or windows differ."""
    protocol, *others = [protocol_of(r.recipe) for r in runs]
    for run, other in zip(runs[1:], others, strict=True):
        if other != protocol:
            raise ValueError(
                f"{run.name} is scored by another protocol: {other}; {runs[0].name}: {protocol}; compare runs of one recipe"
            )
    if not isinstance(runs[0].recipe.task, Forecasting):
        return _compare_labels(protocol, runs)
    named, settings = {label(r, runs): read_predictions(r) for r in runs}, runs[0].recipe.evaluation
    drawn = {"bootstrap": settings.bootstrap, "confidence": settings.confidence, "seed": settings.seed}
    board = board_of(named, runs[0].recipe)
    ranked = len(named) > 2 and board.n_subjects[0] > 1
    ranks = rank_models(named, alpha=1 - settings.confidence) if ranked else None
    return Comparison(protocol, board, differences(named, **drawn), ranks)


def _compare_labels(protocol: str, runs: list[Run]) -> Comparison:
    recipe = runs[0].recipe
    if isinstance(recipe.task, Pretraining):
        raise ValueError("a pretraining says nothing of a window: compare runs that take it up, or their val/loss")
    named = {label(r, runs): labelling.said_by(r.path, r.recipe) for r in runs}
    return Comparison(protocol, labelling.board_of(named, recipe), labelling.differences_of(named, recipe), None)


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
