"""From a recipe to a run: data, mechanism, model, training, predictions, scores, report."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from raycadian import manifest, telemetry
from raycadian.config import Recipe, Training, mechanism_of, model_name, signals_of, staged_of
from raycadian.data.mechanism import Mechanism
from raycadian.data.snapshot import Snapshot
from raycadian.errors import CheckpointError, at_boundary
from raycadian.files import path_inside
from raycadian.modalities.prepare import prepare
from raycadian.models import base, checkpoint
from raycadian.models.build import build
from raycadian.models.seen import require_unseen, seen_cycles
from raycadian.runs import (
    RUNS,
    Clock,
    Run,
    environment,
    experiment_key,
    finish,
    open_run,
    predictions_file,
    write_json,
    write_recipe,
    writing_folder,
)  # fmt: skip
from raycadian.tasks import task_of
from raycadian.tasks.base import Cut, Data
from raycadian.training import crossfit, loop, model_card, stages
from raycadian.training.leakage import earlier_of, require_apart
from raycadian.training.loop import Metrics, OnEpoch, OnStep, Trained

SNAPSHOTS = Path("snapshots")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """A trained model with the mechanism it was trained on."""

    model: base.Model
    trained: Trained
    mechanism: Mechanism | None


def load_data(recipe: Recipe, snapshots: Path = SNAPSHOTS, snapshot: Snapshot | None = None) -> Data:
    """Prepare the recipe's data set below `snapshots`, a path or a URL (or reuse its snapshot), open the series, split.
    Raises ValueError, OSError."""
    data = task_of(recipe).load(recipe, snapshot or prepare(Path(recipe.dataset), snapshots))
    if data.reading is not None:
        level = logging.WARNING if data.reading.streams_by_itself else logging.INFO
        log.log(level, "data are %s: %s", data.reading.mode, data.reading.why, extra={"once": data.reading.why})
    return data


def fit_model(
    data: Data,
    recipe: Recipe,
    *,
    state: Path | None = None,
    on_epoch: OnEpoch = lambda metrics: None,
    on_step: OnStep = lambda epoch, done, total: None,
    callbacks: Sequence[Any] = (),
    weights: Mapping[str, torch.Tensor] | None = None,
) -> Fitted:
    """Fit the mechanism and train `recipe.model`: what a run and a trial both do.

    `callbacks`: Ray Train's, where it trains. `weights`: parameters to begin with, by name; statistics and closed forms
    stay the training data's. Raises ValueError.
    """
    loop.seed_everything(recipe.training.seed)
    require_apart(recipe, data.split)
    task = task_of(recipe)
    cut = task.cut(data, recipe)
    model = _built(recipe, data, cut)
    if weights is not None:
        _begin_with(model, weights)
    fit = partial(_train, model, on_epoch=on_epoch, on_step=on_step, callbacks=callbacks)
    staged = None if recipe.start else staged_of(recipe.model)  # what goes on from a run has had its stages
    if staged is None:
        trained = fit(cut, recipe.training, state)
    else:
        simulated = partial(
            stages.simulated_windows, cut, staged.simulated, mechanism_of(recipe.model), recipe.window,
            recipe.window.stride, signals_of(recipe.model),
        )  # fmt: skip
        refit = partial(task.cut, data, recipe)
        trained, cut = stages.train(model, staged, recipe.training, cut, simulated, refit, fit, state)
    model.cpu().eval().calibrate(cut.val)
    return Fitted(model, trained, cut.mechanism)


def _built(recipe: Recipe, data: Data, cut: Cut) -> base.Model:
    """The recipe's model with the statistics of its training windows, or as the run left it that goes on."""
    task = task_of(recipe)
    model = build(recipe.model, task.spec(recipe, data.series.dt_s))
    if recipe.task.metric is not None:
        model.monitor = recipe.task.headline.monitor
    require_unseen(model, data.cycles)
    task.before_training(model, data)
    if recipe.start is None:
        model.fit_statistics(cut.train)
    else:
        _go_on(model, recipe.start)
    return model


def _train(
    model: base.Model, cut: Cut, training: Training, state: Path | None, earlier: Sequence[Metrics] = (), *,
    on_epoch: OnEpoch, on_step: OnStep, callbacks: Sequence[Any],
) -> Trained:  # fmt: skip
    """The loop, in this process or on Ray Train's workers."""
    trains = any(p.requires_grad for p in model.parameters())
    if not trains or training.in_process:
        return loop.train(
            model, cut.train, cut.val, training, state=state, earlier=earlier, on_epoch=on_epoch, on_step=on_step
        )
    from raycadian.training import distributed  # the one door to ray.train

    assert state is not None, "workers need a folder for their state"
    return distributed.train(
        model, cut.train, cut.val, training, state=state, earlier=earlier, on_epoch=on_epoch, callbacks=callbacks
    )


def _go_on(model: base.Model, start: str) -> None:
    """Give a model the weights and statistics of a complete run of the same model. Raises ValueError."""
    earlier = checkpoint.load(open_run(start).path / "checkpoint")
    if (earlier.config, earlier.spec) != (model.config, model.spec):
        raise ValueError(
            f"start: {start} is a run of {model_name(earlier.config)} for {earlier.spec}, the recipe's is "
            f"{model_name(model.config)} for {model.spec}; model, window and quantiles must be the same"
        )
    model.load_state_dict(earlier.state_dict())


@torch.no_grad()
def _begin_with(model: base.Model, weights: Mapping[str, torch.Tensor]) -> None:
    own = dict(model.named_parameters())
    assert own.keys() == weights.keys(), own.keys() ^ weights.keys()
    for name, parameter in own.items():
        parameter.copy_(weights[name])


def train_run(
    recipe: Recipe,
    data: Data,
    *,
    runs: Path = RUNS,
    resume: bool = False,
    against: Sequence[Run] = (),
    on_epoch: OnEpoch = lambda metrics: None,
    on_step: OnStep = lambda epoch, done, total: None,
) -> Run:
    """Train, predict, score and report one model; the run folder appears whole or not at all.

    `against`: runs on the same windows that the report's leaderboard sets beside this one.
    """
    clock, began, key = Clock(), datetime.now(UTC), experiment_key(recipe, data.snapshot_id)
    task, named = task_of(recipe), telemetry.bound(recipe=recipe.name, run=f"{recipe.name}-{key}")
    with named, writing_folder(runs, recipe.name, key, resume) as folder:
        write_recipe(folder / "recipe.yaml", recipe)
        data.split.write(folder / "split.json")
        with clock.stage("train"):
            fitted = fit_model(data, recipe, state=folder / "state", on_epoch=on_epoch, on_step=on_step)
            crossfit.calibrate(fitted.model, data, recipe, fit_model, folder / "state")
        checkpoint.save(fitted.model, folder / "checkpoint")
        write_json(folder / "checkpoint/preprocessing.json", task.preprocessing(data, recipe, fitted.mechanism))
        looks = [_look("run")] if task.tests else []
        with clock.stage("predict"):
            model = checkpoint.load(folder / "checkpoint")
            predictions = task.predict(data, recipe, model, fitted.mechanism)
        for part, own in predictions.items():
            own.write_parquet(folder / predictions_file(part))
        if (canary := task.canary(data, recipe, fitted.mechanism)) is not None:
            canary.write(folder)
        with clock.stage("score"):
            task.score(folder, recipe, predictions, fitted.trained.history)
        if fitted.mechanism is not None:
            write_json(folder / "mechanism.json", fitted.mechanism.records)
        metadata = _metadata(recipe, data, fitted, began) | {"against": [other.name for other in against]}
        metadata |= {"test_looks": looks}
        model_card.write(folder, recipe, metadata)
        with clock.stage("report"):
            task.report(folder, recipe, metadata, against)
        write_json(folder / "metadata.json", metadata | {"seconds": clock.seconds, "finished_utc": datetime.now(UTC)})
        shutil.rmtree(folder / "state", ignore_errors=True)
        manifest.write(folder)
        return Run(finish(folder))


def read_predictions(run: Run, part: str = "test") -> Any:
    """What a run says of the windows of a part: val, test, and of a further label test_<label>."""
    return task_of(run.recipe).read(run.path, part)


def results_of(run: Run, label: str = "") -> Any:
    """What a run's test scores are computed from; of a further label by its name."""
    manifest.require_intact(run.path, "recipe.yaml", "checkpoint")
    return task_of(run.recipe).results(run.path, run.recipe, label)


def rescore(run: Run) -> Run:
    """Score a complete run's predictions again and rewrite its tables and report, beside the runs that it was set
    against and that are still there. It is one more look at the test data, and recorded as such. Raises ValueError."""
    manifest.require_intact(run.path, "recipe.yaml", "metadata.json")
    lacking = (LookupError, TypeError, AttributeError)
    with manifest.rewritten(run.path), at_boundary(CheckpointError, f"{run.path}: damaged", *lacking):
        _rescore(run)
    return run


def _rescore(run: Run) -> None:
    others = [Run(path_inside(run.path.parent, name)) for name in run.metadata["against"]]
    others = [other for other in others if (other.path / "metadata.json").is_file()]
    recipe, task = run.recipe, task_of(run.recipe)
    kept = [part for part in task.parts(recipe) if (run.path / predictions_file(part)).is_file()]
    predictions = {part: task.read(run.path, part) for part in kept}
    task.score(run.path, recipe, predictions, run.metadata["training"]["history"])
    metadata = run.metadata | {"test_looks": [*run.metadata.get("test_looks", []), _look("score")]}
    if "seen" in metadata:  # a run of before has no card
        model_card.write(run.path, recipe, metadata)
    task.report(run.path, recipe, metadata, others)
    write_json(run.path / "metadata.json", metadata)


def _look(by: str) -> dict[str, Any]:
    """A look at the test data: when, and by which verb. Nothing was chosen by what it showed: that is validation's."""
    return {"utc": datetime.now(UTC), "by": by}


def _seen(recipe: Recipe, data: Data, model: base.Model) -> dict[str, Any]:
    """NHANES cycles that the weights have seen, in training and in pretraining, and the runs that they went on from
    with the number of people who trained these."""
    runs = {run.folder.name: run.split.counts()["train"]["subjects"] for run in earlier_of(recipe)}
    return {"cycles": sorted(data.cycles), "pretraining_cycles": sorted(seen_cycles(model)), "runs": runs}


def _metadata(recipe: Recipe, data: Data, fitted: Fitted, began: datetime) -> dict[str, Any]:
    parameters = list(fitted.model.parameters())
    trained = asdict(fitted.trained)
    trained |= trained.pop("how")
    return {
        "status": "complete",
        "model": model_name(recipe.model),
        "snapshot": data.snapshot_id,
        "split": data.split.counts(),
        "data": {"licence": data.licence, "citation": data.citation},
        "reading": None if data.reading is None else data.reading.record,
        "seen": _seen(recipe, data, fitted.model),
        **task_of(recipe).record(data, recipe),
        "started_utc": began,
        "seed": recipe.training.seed,
        "parameters": sum(p.numel() for p in parameters),
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
        "training": trained,
        "mechanism": None if fitted.mechanism is None else fitted.mechanism.diagnostics,
        "environment": environment(),
    }
