"""The next values of a channel as quantiles: its windows, its forecasts, its scores and report."""

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from raycadian import manifest
from raycadian.config import Evaluation, Grid, Recipe, mechanism_of, model_name, signals_of
from raycadian.data.mechanism import Mechanism, fit_latest, fit_mechanism
from raycadian.data.reading import Reading, reading_of
from raycadian.data.series import Series, open_series
from raycadian.data.snapshot import Snapshot
from raycadian.data.split import Range, SplitManifest, make_split, same_people
from raycadian.data.training_range import TrainingRange
from raycadian.data.windows import NoWindow, Windows, cut_windows, latest, without_context
from raycadian.errors import CheckpointError
from raycadian.evaluation.forecast import compare, event_probability, event_scores, metrics, report
from raycadian.evaluation.forecast.predictions import Predictions
from raycadian.evaluation.forecast.significance import Ranks
from raycadian.evaluation.report import write_report
from raycadian.files import read_json, write_json
from raycadian.modalities.cards import card_of, modality_of
from raycadian.models import checkpoint
from raycadian.models.base import Model, ModelSpec
from raycadian.physiology.cma.insights import Insight, insights
from raycadian.runs import Run, open_run, predictions_file
from raycadian.tasks.base import Cut, Data, Task
from raycadian.tasks.canary import Canary, rows_of, spread
from raycadian.tasks.over import over
from raycadian.types import ID, OOD, Batch

log = logging.getLogger(__name__)
_SCORED = ("val", "test")


@dataclass(frozen=True)
class ForecastData(Data):
    """grid: how irregular readings became the series; None where the source is even by itself."""

    grid: Grid | None = None


class ForecastTask(Task[ForecastData]):
    """Forecasts of glucose, or of a numeric of biosignals."""

    tolerance = (1e-6, 1e-3)  # in the unit of the target

    def load(self, recipe: Recipe, snapshot: Snapshot) -> ForecastData:
        reading = reading_of(recipe.training, snapshot, recipe.window.past)
        series = _series_of(recipe, snapshot, reading)
        split = make_split(series.lengths, recipe.split, snapshot.id, series.dt_s)
        return replace(_data_of(snapshot, series, split), reading=reading.of(series))

    def spec(self, recipe: Recipe, dt_s: float) -> ModelSpec:
        window = recipe.window
        return ModelSpec(
            context=window.context, horizon=window.horizon, dt_min=dt_s / 60, past=window.past, known=window.known,
            quantiles=recipe.task.quantiles,
        )  # fmt: skip

    def windows(self, data: ForecastData, recipe: Recipe, split: str, mechanism: Mechanism | None = None) -> Windows:
        window, training = recipe.window, split == "train"
        anchor, stride = (window.train_anchor, window.stride) if training else (window.anchor, window.eval_stride)
        try:
            windows = cut_windows(data.series, data.split.of(split), window, stride, mechanism, anchor)
            drawn = training and window.train_windows
            return windows.sample(window.train_windows, recipe.training.seed) if drawn else windows
        except ValueError as error:
            raise type(error)(f"{split}: {error}") from None

    def require_windows(self, data: ForecastData, recipe: Recipe) -> None:
        super().require_windows(data, recipe)
        _require_changes(data.series)

    def cut(self, data: ForecastData, recipe: Recipe, correction_mgdl: np.ndarray | None = None) -> Cut:
        mechanism = fit_mechanism_of(data, recipe, correction_mgdl)
        return Cut(mechanism, *(self.windows(data, recipe, split, mechanism) for split in ("train", "val")))

    def predict(
        self, data: ForecastData, recipe: Recipe, model: Model, mechanism: Mechanism | None
    ) -> dict[str, Predictions]:
        model = model.double()  # the endpoint's forecast of the same window is then the same to 1e-9 mg/dL
        strangers = held_out(data)
        return {s: predict(model, self.windows(data, recipe, s, mechanism), strangers) for s in _SCORED}

    def canary(self, data: ForecastData, recipe: Recipe, mechanism: Mechanism | None) -> Canary:
        windows = self.windows(data, recipe, "test", mechanism)
        several = spread(len(windows), most=64)
        whole = windows.batch(torch.from_numpy(several))["past_mask"][:, :, 0].all(1).numpy()
        rows = np.union1d(spread(len(windows)), several[whole][:2])  # which hold all that a request would
        return Canary(windows.batch(torch.from_numpy(rows)), rows[:, None])

    def scored(self, run: Run, canary: Canary) -> np.ndarray:
        return rows_of(self.read(run.path).quantiles, canary.rows[:, 0])

    @torch.inference_mode()
    def predicted(self, model: Model, canary: Canary) -> np.ndarray:
        return deepcopy(model).double().eval()(canary.batch).quantiles.numpy()

    def parts(self, recipe: Recipe) -> list[str]:
        return list(_SCORED)

    def read(self, folder: Path, part: str = "test") -> Predictions:
        manifest.require_intact(folder, predictions_file(part))
        return Predictions.read_parquet(folder / predictions_file(part))

    def frame(self, folder: Path, recipe: Recipe, part: str = "test") -> pd.DataFrame:
        return self.read(folder, part).as_frame()

    def figure(self, folder: Path, recipe: Recipe) -> Any:
        from raycadian.evaluation.forecast.figures import examples

        return examples(self.read(folder))

    def results(self, folder: Path, recipe: Recipe, label: str = "") -> Predictions:
        return self.read(folder)

    def join(self, results: Sequence[Predictions]) -> Predictions:
        return Predictions.concat(list(results))

    def require_same_windows(self, one: Predictions, other: Predictions, name: str) -> None:
        compare.require_same_windows(one, other, name)

    def test_on(self, run: Run, recipe: Recipe, data: ForecastData) -> Predictions:
        """A mechanism is fitted to each person's history there, as it would be when serving."""
        model = self._model(run, recipe, data.series.dt_s)
        own = recipe.model_copy(update={"model": run.recipe.model, "start": str(run.path)})
        mechanism = fit_mechanism_of(data, own)
        return predict(model, self.windows(data, recipe, "test", mechanism), held_out(data))

    def _model(self, run: Run, recipe: Recipe, dt_s: float) -> Model:
        model = checkpoint.load(run.path / "checkpoint").double()
        if (spec := self.spec(recipe, dt_s)) != model.spec:
            raise ValueError(f"{run.name} forecasts {model.spec}, asked for is {spec}")
        return model

    def everybody(self, run: Run, snapshot: Snapshot, *, last: bool) -> tuple[Predictions | None, dict[str, str]]:
        """Scope id: people of the data set that the run trained on, who may be in its training windows."""
        data = _data_of(snapshot, _series_of(run.recipe, snapshot), _all_tested(run, snapshot))
        return self._from_the_end(run, snapshot, data) if last else self._every_window(run, data)

    def _every_window(self, run: Run, data: ForecastData) -> tuple[Predictions | None, dict[str, str]]:
        try:
            predictions = self.test_on(run, run.recipe, data)
        except NoWindow as error:
            return None, dict.fromkeys(data.series.subjects, str(error))
        without = set(data.series.subjects) - set(predictions.subject.tolist())
        return predictions, dict.fromkeys(
            sorted(without), "no window fits: the record is too short or has too many gaps"
        )

    def _from_the_end(
        self, run: Run, snapshot: Snapshot, data: ForecastData
    ) -> tuple[Predictions | None, dict[str, str]]:
        """Only of those whose last recording can be forecast from."""
        recipe, refused = run.recipe, without_context(data.series, run.recipe.window)
        if len(refused) == len(data.series.subjects):
            return None, refused
        if refused:
            kept = [subject for subject in data.series.subjects if subject not in refused]
            data = replace(data, series=_series_of(recipe, snapshot.part(kept)))
        mechanism = _latest_mechanism(run, data.series)
        model = _exact(self._model(run, recipe, data.series.dt_s))
        forecasts = _forecast(model, latest(data.series, recipe.window, mechanism))
        return _predictions(forecasts, data.series, model.spec.quantiles, held_out(data)), refused

    def score(
        self, folder: Path, recipe: Recipe, predictions: Mapping[str, Predictions], history: list[dict[str, float]]
    ) -> None:
        tables = {split: metrics.score(p, recipe.evaluation) for split, p in predictions.items()}
        if predictions["test"].glycemic:
            tables["test"] = _with_lows(folder, predictions, tables["test"], recipe.evaluation)
        tables["test"].to_csv(folder / "detailed_results.csv", index=False)
        write_json(folder / "metrics_summary.json", {split: _summary(table) for split, table in tables.items()})

    def validation_score(self, run: Run) -> float:
        return metrics.overall(self.read(run.path, "val"), run.recipe.task.headline.name)

    def leaderboard(self, named: Mapping[str, Predictions], recipe: Recipe) -> pd.DataFrame:
        return compare.leaderboard(dict(named), recipe.evaluation, metric=recipe.task.headline.name)

    def differences(self, named: Mapping[str, Predictions], recipe: Recipe) -> pd.DataFrame:
        return compare.differences(dict(named), recipe.evaluation, metric=recipe.task.headline.name)

    def ranks(self, named: Mapping[str, Predictions], recipe: Recipe) -> Ranks | None:
        people = len(np.unique(next(iter(named.values())).subject))
        if len(named) <= 2 or people <= 1:
            return None
        alpha = 1 - recipe.evaluation.confidence
        return compare.rank_models(dict(named), recipe.task.headline.name, alpha=alpha)

    def report(self, folder: Path, recipe: Recipe, metadata: dict[str, Any], against: Sequence[Run]) -> Path:
        named = {model_name(recipe.model): self.read(folder)}
        for other in against:
            named.setdefault(model_name(other.recipe.model), self.read(other.path))
        board = self.leaderboard(named, recipe)
        board.to_csv(folder / "leaderboard.csv", index=False)
        fits = [_in_words(record) for record in _latest_fits(folder)]
        sections = report.sections(named, board, fits, self.read(folder, "val"))
        return write_report(
            folder, title=recipe.name, subtitle=subtitle_of(recipe), sections=sections, metadata=metadata,
            definitions=metrics.__doc__ or "",
        )  # fmt: skip

    def preprocessing(self, data: ForecastData, recipe: Recipe, mechanism: Mechanism | None) -> dict[str, Any]:
        """Grid, window, the population's mechanism, and where the training data lie."""
        config = mechanism_of(recipe.model)
        return {
            "grid": None if data.grid is None else data.grid.model_dump(mode="json"),
            "window": recipe.window.model_dump(mode="json"),
            "mechanism": None if mechanism is None or config is None else config.model_dump(mode="json"),
            "population": None if mechanism is None else mechanism.population,
            "snapshot": data.snapshot_id,
            "training_range": TrainingRange.of(data.series, data.split.of("train")).as_dict(),
        }


def _series_of(recipe: Recipe, snapshot: Snapshot, reading: Reading | None = None) -> Series:
    opener = open_series if reading is None else reading.open
    return modality_of(card_of(snapshot)).series(snapshot, recipe.window.past, opener)


def _data_of(snapshot: Snapshot, series: Series, split: SplitManifest) -> ForecastData:
    card = card_of(snapshot)
    return ForecastData(
        snapshot_id=snapshot.id, series=series, split=split,
        licence=card.license, citation=card.citation, grid=getattr(card, "grid", None),
    )  # fmt: skip


def _all_tested(run: Run, snapshot: Snapshot) -> SplitManifest:
    """Every point is to be forecast; of whom the run trained on, the scope is id."""
    trained = SplitManifest.read(run.path / "split.json")
    known = {r.subject for r in trained.of("train")} if same_people(trained.snapshot, snapshot.id) else set()
    lengths = snapshot.lengths.items()
    ranges = [Range(s, i, 0, n, "test", ID if s in known else OOD) for s, own in lengths for i, n in enumerate(own)]
    return SplitManifest(trained.config, snapshot.id, tuple(ranges))


def _latest_mechanism(run: Run, series: Series) -> Mechanism | None:
    """Fitted to each person's history up to the end, as the endpoint does."""
    config, window = mechanism_of(run.recipe.model), run.recipe.window
    if config is None:
        return None
    population = population_of(run)
    assert population is not None, run.path
    return fit_latest(
        series, config, window.context, window.context + window.horizon, population=population, known={},
        signals=signals_of(run.recipe.model),
    )  # fmt: skip


def _require_changes(series: Series) -> None:
    """Raises ValueError where the target is one and the same value; read only until it is another one."""
    known: float | None = None
    for begin, stop in zip(series.offsets, series.offsets[1:], strict=False):
        target = series.values(int(begin), int(stop))[0]
        target = target[np.isfinite(target)]
        known = float(target[0]) if known is None and len(target) else known
        if (target != known).any():
            return
    if known is None:  # nothing was measured, which is told elsewhere
        return
    raise ValueError(
        f"every reading of {series.channels[0]} is {known:g}: nothing can be learnt; is it the right column?"
    )


def subtitle_of(recipe: Recipe) -> str:
    """Below a report's title: the data set, who was held out, and how windows were cut."""
    return f"{recipe.description or recipe.dataset}; {recipe.split.kind} split; {recipe.protocol}"


def held_out(data: Data) -> set[str]:
    """The people who are in no training range."""
    return {r.subject for r in data.split.ranges if r.scope == OOD}


def population_of(start: Run) -> dict[str, Any] | None:
    """The population's mechanism as a run fitted it."""
    path = start.path / "checkpoint" / "preprocessing.json"
    preprocessing = read_json(path)
    if "population" not in preprocessing:
        raise CheckpointError(f"{path}: no population; copy the run again")
    return preprocessing["population"]


def fit_mechanism_of(data: ForecastData, recipe: Recipe, correction_mgdl: np.ndarray | None = None) -> Mechanism | None:
    """Along the series, with the population's fit of the training ranges, or of the run that training goes on from."""
    config = mechanism_of(recipe.model)
    if config is None:
        return None
    length = recipe.window.context + recipe.window.horizon
    population = None if recipe.start is None else population_of(open_run(recipe.start))
    return fit_mechanism(
        data.series, config, length, train=data.split.of("train"), signals=signals_of(recipe.model),
        correction_mgdl=correction_mgdl, population=population,
    )  # fmt: skip


def predict(model: Model, windows: Windows, strangers: set[str], batch_size: int = 1024) -> Predictions:
    """Forecast every window, in order, on Ray where that takes less time. `strangers`: subjects of scope ood."""
    table = over(windows, partial(_forecast, _exact(model)), batch_size)
    return _predictions(table, windows.series, model.spec.quantiles, strangers)


def _exact(model: Model) -> Model:
    """In float64 no forecast depends on its batch: the served one is the same."""
    return deepcopy(model).double().eval()


@torch.inference_mode()
def _forecast(model: Model, batch: Batch) -> dict[str, np.ndarray]:
    forecast = model(batch)
    rows = {name: batch[name] for name in ("subject", "time_s", "local_h", "target")}
    rows |= {"past": batch["past"][:, :, 0], "quantiles": forecast.quantiles}
    rows |= {f"part:{name}": part for name, part in forecast.parts.items()}
    return {name: value.numpy() for name, value in rows.items()}


def _predictions(
    table: Mapping[str, np.ndarray], series: Series, levels: Sequence[float], strangers: set[str]
) -> Predictions:
    subject = np.array(series.subjects)[table["subject"]]
    return Predictions(
        subject=subject,
        time_utc=table["time_s"].astype("datetime64[s]"),
        local_h=table["local_h"],
        truth=table["target"],
        quantiles=table["quantiles"],
        levels=np.array(levels),
        parts={name[5:]: value for name, value in table.items() if name.startswith("part:")},
        dt_min=series.dt_s / 60,
        scope=np.where(np.isin(subject, sorted(strangers)), OOD, "id"),
        past=table["past"],
        target=series.channels[0],
    )


def _with_lows(
    folder: Path, predictions: Mapping[str, Predictions], table: pd.DataFrame, evaluation: Evaluation
) -> pd.DataFrame:
    """Test scores with those of the calibrated probability of a low, whose calibration is written."""
    calibrations, reasons = event_probability.fit_lows(predictions["val"])
    if reasons:
        text = f"no calibrated probability of a low: {', '.join(reasons)} for validation; some must hold one, some none"
        log.warning("%s", text, extra={"once": text})
    event_probability.write_calibrations(folder / "event_calibration.json", calibrations)
    lows = event_scores.probability_scores(predictions["test"], calibrations, evaluation)
    return pd.concat([table, lows], ignore_index=True) if len(lows) else table


def _summary(table: pd.DataFrame) -> dict[str, Any]:
    """Each metric over the whole horizon, all subjects: value and interval."""
    whole = table[(table.scope == "all") & (table.kind != "step")]
    whole = whole[whole.horizon_min == whole.horizon_min.max()]
    return {row.metric: {"value": row.value, "low": row.low, "high": row.high} for row in whole.itertuples()}


def _latest_fits(folder: Path) -> list[dict[str, Any]]:
    """The population's fit and each person's latest own one."""
    path = folder / "mechanism.json"
    if not path.is_file():
        return []
    latest = {r["subject"]: r for r in read_json(path, list, largest=1 << 30)}  # a fit for each person and refit
    return list(latest.values())


def _in_words(record: dict[str, Any]) -> dict[str, Any]:
    """One fit as a row for people."""
    row = {i.parameter: f"{i.number}: {i.reading}{_caution(i)}" for i in insights(record)}
    meals = ", ".join(f"{hour:.1f} h" for hour in record["tM"])
    return {"subject": record["subject"], **row, "meals": meals, "fit RMSE, mg/dL": record.get("rmse_readings_mgdl")}


def _caution(insight: Insight) -> str:
    return " (at a bound)" if insight.at_bound else "" if insight.informed else " (as assumed)"
