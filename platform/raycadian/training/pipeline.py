"""From a recipe to a run: data, mechanism, model, training, predictions, scores, report."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from raycadian import telemetry
from raycadian.config import (
    CMAMechanism,
    Conformal,
    Evaluation,
    Forecasting,
    Grid,
    Model,
    Pretraining,
    Recipe,
    Training,
    mechanism_of,
    model_name,
    protocol_of,
    signals_of,
    staged_of,
)
from raycadian.data.label_windows import WindowIndex
from raycadian.data.mechanism import Mechanism, fit_mechanism
from raycadian.data.series import Series
from raycadian.data.snapshot import Snapshot
from raycadian.data.split import SplitManifest, make_split
from raycadian.data.windows import Windows, cut_windows
from raycadian.evaluation import report
from raycadian.evaluation.forecast import event_probability, event_scores, metrics
from raycadian.evaluation.forecast import report as forecast_report
from raycadian.evaluation.forecast.compare import leaderboard
from raycadian.evaluation.forecast.predictions import Predictions
from raycadian.modalities.cards import AnyCard, card_of, modality_of
from raycadian.modalities.prepare import prepare
from raycadian.models import base, checkpoint
from raycadian.models.build import build
from raycadian.models.masked import Masked
from raycadian.models.seen import require_unseen, seen_cycles
from raycadian.physiology.cma.insights import Insight, insights
from raycadian.training import crossfit, labelling, loop, model_card, stages
from raycadian.training.leakage import earlier_of, require_apart
from raycadian.training.loop import Metrics, OnEpoch, OnStep, Trained
from raycadian.training.run import (
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
from raycadian.training.stages import Cut
from raycadian.types import GLUCOSE, OOD

SNAPSHOTS = Path("snapshots")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """What every model of a recipe shares: the series, the split, the grid; of a task with labels the card and the places
    of its windows, the NHANES cycles whose people these are, and who was left out of the cohort at each step. licence and
    citation: what the card says of them."""

    snapshot_id: str
    series: Series
    split: SplitManifest
    grid: Grid | None
    card: AnyCard | None = None
    places: WindowIndex | None = None
    cycles: frozenset[str] = frozenset()
    cohort: tuple[dict[str, Any], ...] = ()
    licence: str = ""
    citation: str = ""


@dataclass(frozen=True)
class Fitted:
    """A trained model with the mechanism it was trained on."""

    model: base.Model
    trained: Trained
    mechanism: Mechanism | None


def load_data(recipe: Recipe, snapshots: Path = SNAPSHOTS, snapshot: Snapshot | None = None) -> Data:
    """Prepare the recipe's data set below `snapshots`, a path or a URL (or reuse its snapshot), open the series, split.
    Raises ValueError, OSError."""
    snapshot = snapshot or prepare(Path(recipe.dataset), snapshots)
    card = card_of(snapshot)
    terms = {"licence": card.license, "citation": card.citation}
    if not isinstance(recipe.task, Forecasting):
        series, split, places = labelling.load(recipe, snapshot)
        cycles, cohort = labelling.cycles_of(snapshot), labelling.cohort_of(snapshot, recipe)
        return Data(snapshot.id, series, split, None, card, places, cycles, cohort, **terms)
    series = modality_of(card).series(snapshot, recipe.window.past)
    lengths: dict[str, list[int]] = {}
    for subject, n in zip(series.subject_of, np.diff(series.offsets), strict=True):
        lengths.setdefault(series.subjects[subject], []).append(int(n))
    grid = getattr(card, "grid", None)
    return Data(snapshot.id, series, make_split(lengths, recipe.split, snapshot.id, series.dt_s), grid, **terms)


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
    """Fit the mechanism, prepare and train `recipe.model`: what a run and a trial both do. `callbacks`: Ray Train's,
    where it trains. `weights`: parameters to begin with, by name; statistics and closed forms stay the training
    data's. Raises ValueError."""
    loop.seed_everything(recipe.training.seed)
    require_apart(recipe, data.split)
    cut = _cut(data, recipe)
    model = build(recipe.model, spec_of(recipe, data.series.dt_s))
    require_unseen(model, data.cycles)
    if isinstance(model, Masked):
        model.remember(data.cycles)
    if recipe.start is None:
        model.fit_statistics(cut.train)
    else:
        _go_on(model, recipe.start)
    if weights is not None:
        _begin_with(model, weights)

    fit = partial(_train, model, on_epoch=on_epoch, on_step=on_step, callbacks=callbacks)
    staged = staged_of(recipe.model)
    if (
        staged is None or recipe.start is not None
    ):  # stages lead up to a model; one that goes on from a run has had them
        trained = fit(cut, recipe.training, state)
    else:
        simulated = partial(
            stages.simulated_windows, cut, staged.simulated, _mechanism_config(recipe.model), recipe.window,
            recipe.window.stride, signals_of(recipe.model),
        )  # fmt: skip
        refit = partial(_cut, data, recipe)
        trained, cut = stages.train(model, staged, recipe.training, cut, simulated, refit, fit, state)
    model.cpu().eval().calibrate(cut.val)
    return Fitted(model, trained, cut.mechanism)


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


def _cut(data: Data, recipe: Recipe, correction_mgdl: np.ndarray | None = None) -> Cut:
    """The mechanism, fitted to glucose less `correction_mgdl`, and the windows to train and validate on."""
    if data.places is not None:
        return Cut(
            None, *(labelling.windows_of(data.series, data.split, data.places, recipe, s) for s in ("train", "val"))
        )
    mechanism = fit_mechanism_of(data, recipe, correction_mgdl)
    train = windows_of(data, recipe, "train", recipe.window.stride, mechanism)
    return Cut(mechanism, train, windows_of(data, recipe, "val", recipe.window.eval_stride, mechanism))


def _go_on(model: base.Model, start: str) -> None:
    """Give a model the weights and statistics of a complete run of the same model. Raises ValueError."""
    found = checkpoint.load(open_run(start).path / "checkpoint")
    if (found.config, found.spec) != (model.config, model.spec):
        raise ValueError(
            f"start: {start} is a run of {model_name(found.config)} for {found.spec}, the recipe's is "
            f"{model_name(model.config)} for {model.spec}; model, window and quantiles must be the same"
        )
    model.load_state_dict(found.state_dict())


@torch.no_grad()
def _begin_with(model: base.Model, weights: Mapping[str, torch.Tensor]) -> None:
    own = dict(model.named_parameters())
    assert own.keys() == weights.keys(), own.keys() ^ weights.keys()
    for name, parameter in own.items():
        parameter.copy_(weights[name])


def population_of(start: Run) -> dict[str, Any] | None:
    """The population's mechanism as a run fitted it."""
    return json.loads((start.path / "checkpoint" / "preprocessing.json").read_text(encoding="utf-8"))["population"]


def fit_mechanism_of(data: Data, recipe: Recipe, correction_mgdl: np.ndarray | None = None) -> Mechanism | None:
    """Along the series, with the population's fit from the training ranges, or from the run that training goes on from."""
    config = mechanism_of(recipe.model)
    if config is None:
        return None
    length = recipe.window.context + recipe.window.horizon
    population = None if recipe.start is None else population_of(open_run(recipe.start))
    return fit_mechanism(
        data.series, config, length, train=data.split.of("train"), signals=signals_of(recipe.model),
        correction_mgdl=correction_mgdl, population=population,
    )  # fmt: skip


def windows_of(data: Data, recipe: Recipe, split: str, stride: int, mechanism: Mechanism | None) -> Windows:
    window, training = recipe.window, split == "train"
    anchor = window.train_anchor if training else window.anchor
    try:
        found = cut_windows(data.series, data.split.of(split), window, stride, mechanism, anchor)
        return found.sample(window.train_windows, recipe.training.seed) if training and window.train_windows else found
    except ValueError as error:
        raise ValueError(f"{split}: {error}") from None


def spec_of(recipe: Recipe, dt_s: float) -> base.ModelSpec:
    if not isinstance(recipe.task, Forecasting):
        return labelling.spec_of(recipe, dt_s)
    window = recipe.window
    return base.ModelSpec(
        context=window.context, horizon=window.horizon, dt_min=dt_s / 60, past=window.past, known=window.known,
        quantiles=recipe.task.quantiles,
    )  # fmt: skip


@torch.inference_mode()
def predict(model: base.Model, windows: Windows, held_out: set[str], batch_size: int = 1024) -> Predictions:
    """Forecast every window, in order. `held_out`: subjects of scope ood."""
    model = deepcopy(model).double().eval()  # in float64 no forecast depends on its batch: the served one is the same
    columns: dict[str, list[np.ndarray]] = {}
    for batch in windows.batches(batch_size):
        found = model(batch)
        rows = {name: batch[name] for name in ("subject", "time_s", "local_h", "target")}
        rows |= {"past": batch["past"][:, :, 0], "quantiles": found.quantiles}
        rows |= {f"part:{name}": part for name, part in found.parts.items()}
        for name, value in rows.items():
            columns.setdefault(name, []).append(value.numpy())
    table = {name: np.concatenate(values) for name, values in columns.items()}
    subject = np.array(windows.series.subjects)[table["subject"]]
    return Predictions(
        subject=subject,
        time_utc=table["time_s"].astype("datetime64[s]"),
        local_h=table["local_h"],
        truth=table["target"],
        quantiles=table["quantiles"],
        levels=np.array(model.spec.quantiles),
        parts={name[5:]: value for name, value in table.items() if name.startswith("part:")},
        dt_min=windows.series.dt_s / 60,
        scope=np.where(np.isin(subject, sorted(held_out)), OOD, "id"),
        past=table["past"],
        target=windows.series.channels[0],
    )


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
    named = telemetry.bound(recipe=recipe.name, run=f"{recipe.name}-{key}")
    with named, writing_folder(runs, recipe.name, key, resume) as folder:
        write_recipe(folder / "recipe.yaml", recipe)
        data.split.write(folder / "split.json")
        with clock.stage("train"):
            fitted = fit_model(data, recipe, state=folder / "state", on_epoch=on_epoch, on_step=on_step)
            if isinstance(recipe.model, Conformal) and recipe.model.folds:
                crossfit.calibrate(fitted.model, data, recipe, fit_model, folder / "state")
        checkpoint.save(fitted.model, folder / "checkpoint")
        write_json(folder / "checkpoint" / "preprocessing.json", preprocessing(data, recipe, fitted.mechanism))
        looked = [] if isinstance(recipe.task, Pretraining) else [_look("run")]
        with clock.stage("predict"):
            predictions = _predict_splits(data, recipe, checkpoint.load(folder / "checkpoint"), fitted.mechanism)
        for split, found in predictions.items():
            found.write_parquet(folder / predictions_file(split))
        with clock.stage("score"):
            _write_scores(folder, recipe, predictions, fitted.trained.history)
        if fitted.mechanism is not None:
            write_json(folder / "mechanism.json", fitted.mechanism.records)
        metadata = _metadata(recipe, data, fitted, began) | {"against": [other.name for other in against]}
        metadata |= {"test_looks": looked}
        model_card.write(folder, recipe, metadata)
        with clock.stage("report"):
            write_run_report(folder, recipe, metadata, against)
        write_json(folder / "metadata.json", metadata | {"seconds": clock.seconds, "finished_utc": datetime.now(UTC)})
        shutil.rmtree(folder / "state", ignore_errors=True)
        return Run(finish(folder))


def preprocessing(data: Data, recipe: Recipe, mechanism: Mechanism | None) -> dict[str, Any]:
    """What serving needs to cut the same windows: grid, window, and the population's mechanism."""
    if data.card is not None:
        return labelling.preprocessing(data.card, data.snapshot_id, recipe)
    return {
        "grid": None if data.grid is None else data.grid.model_dump(mode="json"),
        "window": recipe.window.model_dump(mode="json"),
        "mechanism": None if mechanism is None else _mechanism_config(recipe.model).model_dump(mode="json"),
        "population": None if mechanism is None else mechanism.population,
        "snapshot": data.snapshot_id,
    }


def _mechanism_config(model: Model) -> CMAMechanism:
    config = mechanism_of(model)
    assert config is not None
    return config


def _predict_splits(data: Data, recipe: Recipe, model: base.Model, mechanism: Mechanism | None) -> dict[str, Any]:
    if data.places is not None:
        return labelling.predict_splits(data.series, data.split, data.places, recipe, model)
    model = model.double()  # the endpoint's forecast of the same window is then the same to 1e-9 mg/dL
    held_out = {r.subject for r in data.split.ranges if r.scope == OOD}
    stride = recipe.window.eval_stride
    return {
        split: predict(model, windows_of(data, recipe, split, stride, mechanism), held_out) for split in ("val", "test")
    }


def forecast_test(run: Run, recipe: Recipe, data: Data) -> Predictions:
    """What a run's model says of the test windows of another recipe's data, of which it learns nothing; a mechanism is
    fitted to each person's history there, as it would be when serving. Raises ValueError where the windows differ."""
    model = checkpoint.load(run.path / "checkpoint").double()
    if spec_of(recipe, data.series.dt_s) != model.spec:
        raise ValueError(f"{run.name} forecasts {model.spec}, asked for is {spec_of(recipe, data.series.dt_s)}")
    mechanism = fit_mechanism_of(data, recipe.model_copy(update={"model": run.recipe.model, "start": str(run.path)}))
    windows = windows_of(data, recipe, "test", recipe.window.eval_stride, mechanism)
    return predict(model, windows, {r.subject for r in data.split.ranges if r.scope == OOD})


def read_predictions(run: Run | Path, split: str = "test") -> Predictions:
    folder = run.path if isinstance(run, Run) else run
    return Predictions.read_parquet(folder / predictions_file(split))


def _write_scores(folder: Path, recipe: Recipe, predictions: dict[str, Any], history: list[Metrics]) -> None:
    if not isinstance(recipe.task, Forecasting):
        labelling.write_scores(folder, recipe, predictions, history)
        return
    settings = recipe.evaluation
    tables = {
        split: metrics.score(p, bootstrap=settings.bootstrap, confidence=settings.confidence, seed=settings.seed)
        for split, p in predictions.items()
    }
    if predictions["test"].target == GLUCOSE:
        tables["test"] = _with_lows(folder, predictions, tables["test"], settings)
    tables["test"].to_csv(folder / "detailed_results.csv", index=False)
    write_json(folder / "metrics_summary.json", {split: _headline(table) for split, table in tables.items()})


def _with_lows(folder: Path, predictions: dict[str, Any], table: pd.DataFrame, settings: Evaluation) -> pd.DataFrame:
    """Test scores with those of the calibrated probability of a low, whose calibration is written."""
    calibrations, reasons = event_probability.fit_lows(predictions["val"])
    for reason in reasons:
        log.warning("no calibrated probability: %s", reason)
    event_probability.write_calibrations(folder / "event_calibration.json", calibrations)
    lows = event_scores.probability_scores(
        predictions["test"],
        calibrations,
        bootstrap=settings.bootstrap,
        confidence=settings.confidence,
        seed=settings.seed,
    )
    return pd.concat([table, lows], ignore_index=True) if len(lows) else table


def _headline(table: Any) -> dict[str, Any]:
    """Each metric over the whole horizon, all subjects: value and interval."""
    whole = table[(table.scope == "all") & (table.kind != "step")]
    whole = whole[whole.horizon_min == whole.horizon_min.max()]
    return {row.metric: {"value": row.value, "low": row.low, "high": row.high} for row in whole.itertuples()}


def write_run_report(folder: Path, recipe: Recipe, metadata: dict[str, Any], against: Sequence[Run]) -> Path:
    """(Re)write report.html of a run folder, with a paired leaderboard over it and `against`."""
    if not isinstance(recipe.task, Forecasting):
        return labelling.write_report(folder, recipe, metadata, against)
    named = {model_name(recipe.model): read_predictions(folder)}
    for other in against:
        named.setdefault(model_name(other.recipe.model), read_predictions(other))
    board = board_of(named, recipe)
    board.to_csv(folder / "leaderboard.csv", index=False)
    records = _records(folder)
    subtitle = f"{recipe.description or recipe.dataset}; {recipe.split.kind} split; {protocol_of(recipe)}"
    shown = forecast_report.sections(named, board, [_in_words(r) for r in records], read_predictions(folder, "val"))
    return report.write_report(
        folder, title=recipe.name, subtitle=subtitle, sections=shown, metadata=metadata,
        definitions=metrics.__doc__ or "",
    )  # fmt: skip


def rescore(run: Run) -> Run:
    """Score a complete run's predictions again and rewrite its tables and report, beside the runs that it was set against
    and that are still there. It is one more look at the test data, and recorded as such."""
    others = [Run(run.path.parent / name) for name in run.metadata["against"]]
    others = [other for other in others if (other.path / "metadata.json").is_file()]
    if isinstance(run.recipe.task, Forecasting):
        splits = [split for split in ("val", "test") if (run.path / predictions_file(split)).is_file()]
        predictions: dict[str, Any] = {split: read_predictions(run, split) for split in splits}
    else:
        predictions = {name: labelling.read_predictions(run.path, name) for name in labelling.parts_of(run.recipe)}
    _write_scores(run.path, run.recipe, predictions, run.metadata["training"]["history"])
    metadata = run.metadata | {"test_looks": [*run.metadata.get("test_looks", []), _look("score")]}
    if "seen" in metadata:  # a run of before has no card
        model_card.write(run.path, run.recipe, metadata)
    write_run_report(run.path, run.recipe, metadata, others)
    write_json(run.path / "metadata.json", metadata)
    return run


def _look(by: str) -> dict[str, Any]:
    """A look at the test data: when, and by which verb. Nothing was chosen by what it showed: that is validation's."""
    return {"utc": datetime.now(UTC), "by": by}


def board_of(named: dict[str, Predictions], recipe: Recipe) -> Any:
    settings = recipe.evaluation
    return leaderboard(named, bootstrap=settings.bootstrap, confidence=settings.confidence, seed=settings.seed)


def _records(folder: Path) -> list[dict[str, Any]]:
    """The population's fit and each person's latest own one."""
    path = folder / "mechanism.json"
    if not path.is_file():
        return []
    latest = {r["subject"]: r for r in json.loads(path.read_text(encoding="utf-8"))}
    return list(latest.values())


def _in_words(record: dict[str, Any]) -> dict[str, Any]:
    """One fit as a row for people."""
    row = {i.parameter: f"{i.number}: {i.reading}{_caution(i)}" for i in insights(record)}
    meals = ", ".join(f"{hour:.1f} h" for hour in record["tM"])
    return {"subject": record["subject"], **row, "meals": meals, "fit RMSE, mg/dL": record.get("rmse_readings_mgdl")}


def _caution(insight: Insight) -> str:
    return " (at a bound)" if insight.at_bound else "" if insight.informed else " (as assumed)"


def _seen(recipe: Recipe, data: Data, model: base.Model) -> dict[str, Any]:
    """NHANES cycles that the weights have seen, in training and in pretraining, and the runs that they went on from with the
    number of people who trained these."""
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
        "seen": _seen(recipe, data, fitted.model),
        **(
            {}
            if data.places is None
            else {
                "windows": labelling.window_counts(data.series, data.split, data.places, recipe),
                "weights": labelling.weighing(data.series, data.split, data.places, recipe),
                "cohort": labelling.followed(data.cohort, data.series, data.split, data.places, recipe),
            }
        ),
        "started_utc": began,
        "seed": recipe.training.seed,
        "parameters": sum(p.numel() for p in parameters),
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
        "training": trained,
        "mechanism": None if fitted.mechanism is None else fitted.mechanism.diagnostics,
        "environment": environment(),
    }
