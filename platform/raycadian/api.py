"""What the functions of `import raycadian as rc` do, and what they return."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from datetime import timezone as fixed_offset
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from raycadian import quickstart, workflow
from raycadian.config import Recipe, load_recipe
from raycadian.config.schema import assignment, parse, with_value
from raycadian.config.units import known_zone
from raycadian.data import clock
from raycadian.data.snapshot import Snapshot
from raycadian.experiments import runner
from raycadian.modalities.cgm.builder import MGDL, MMOLL
from raycadian.modalities.cgm.readers import read_person
from raycadian.modalities.cgm.request import History, to_mgdl
from raycadian.modalities.columns import SUBJECTS, plain
from raycadian.modalities.detect import make_card
from raycadian.quickstart import CardOptions, sources_of
from raycadian.runs import Run
from raycadian.runs import open_run as open_folder
from raycadian.serving.forecaster import Forecaster, read_history
from raycadian.tasks import task_of
from raycadian.tracking import registry
from raycadian.training.pipeline import load_data
from raycadian.types import MGDL_PER_MMOLL, Issues

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from raycadian.training.tune import Sweep

Source = str | Path | Sequence[str | Path]
RecipeLike = str | Path | Recipe | Mapping[str, Any]


# --- what is returned -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainedRun:
    """A complete run: its folder holds the recipe, the model, predictions, scores and a report."""

    path: Path

    def __repr__(self) -> str:
        return f"TrainedRun({str(self.path)!r})"

    @property
    def _run(self) -> Run:
        return Run(self.path)

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.path.name

    @property
    def recipe(self) -> Recipe:
        """What was run, with everything that it leaves to defaults."""
        return self._run.recipe

    @property
    def metadata(self) -> dict[str, Any]:
        """Commit, versions, seeds, snapshot, hardware, durations, the history of training."""
        return self._run.metadata

    @property
    def report(self) -> Path:
        """The page with everything about the run; opens offline in any browser."""
        return self.path / "report.html"

    def predictions(self, split: str = "test") -> pd.DataFrame:
        """What the model said of each window of a split, beside what was measured.

        Args:
            split: `"test"` or `"val"`; of a further label of the same model `"test_<label>"`.

        Returns:
            Of a forecast a row a window and step: `subject`, `scope` (id: seen in training, ood: held out whole),
            `origin_utc`, `time_utc`, `ahead_min`, `truth` (NaN where nothing was measured), `median`, quantiles `q0.05`
            ..., and the parts that add up to the median, in the unit of what is forecast (glucose: mg/dL). Of a label a
            row a window: `subject`, `case`, `time_utc`, `label`, `score`, `weight`, `lead_s`; of a classifier also the
            calibrated `probability`, and `alarm`.

        Raises:
            ValueError: The run has no such split.
        """
        recipe = self.recipe
        task = task_of(recipe)
        if split not in (there := task.parts(recipe)):
            raise ValueError(f"{self.name} has no predictions of {split!r}; it has {', '.join(there) or 'none'}")
        return task.frame(self.path, recipe, split)

    def scores(self) -> pd.DataFrame:
        """Every score of the test data: a row a metric, horizon and group, with its interval over people.

        Raises ValueError where nothing is tested (pretraining).
        """
        return self._table("detailed_results.csv")

    def leaderboard(self) -> pd.DataFrame:
        """This run and those that it was set against, best first, on identical test windows. Raises ValueError."""
        return self._table("leaderboard.csv")

    def _table(self, name: str) -> pd.DataFrame:
        if not (self.path / name).is_file():
            raise ValueError(f"{self.name} has no {name}: nothing of it was tested; `metadata` has its training")
        return pd.read_csv(self.path / name)

    def plot(self) -> Figure:
        """Test windows with what was said of them: of a forecast the best, typical and worst ones. Raises
        ValueError."""
        return _shown_in_notebooks(task_of(self.recipe).figure(self.path, self.recipe))

    def forecaster(self) -> GlucoseForecaster:
        """The run's model, ready to forecast. Raises ValueError where it does not forecast glucose."""
        return GlucoseForecaster(Forecaster.load(self.path))


@dataclass(frozen=True)
class Outcome:
    """What `run` left. `runs`: best on validation data first · `leaderboard`: on test data, best first · `champion`:
    the run that is served for this data set · `reason`: why it is."""

    runs: tuple[TrainedRun, ...]
    main: TrainedRun
    leaderboard: pd.DataFrame
    champion: TrainedRun | None
    reason: str

    @property
    def best(self) -> TrainedRun:
        """The run with the best score on validation data."""
        return self.runs[0]

    @property
    def report(self) -> Path:
        """The page that sets the recipe's model beside its peers."""
        return self.main.report

    def predictions(self, split: str = "test") -> pd.DataFrame:
        """Of the best run: see `TrainedRun.predictions`."""
        return self.best.predictions(split)

    def plot(self) -> Figure:
        """Of the best run: see `TrainedRun.plot`."""
        return self.best.plot()

    def forecaster(self) -> GlucoseForecaster:
        """Of the best run: see `GlucoseForecaster`."""
        return self.best.forecaster()


@dataclass(frozen=True)
class Experiment:
    """What `experiment` left: a folder with a page, figures and tables."""

    path: Path
    table: dict[str, Any]

    @property
    def report(self) -> Path:
        """The page with its figures; opens offline."""
        return self.path / "report.html"

    def differences(self) -> pd.DataFrame:
        """A row a pair of models: which is better, by how much, whether that is noise, and a sentence that says so."""
        return pd.DataFrame(self.table["differences"])


class GlucoseForecaster:
    """A run's model behind the code that cut its training windows: what it forecasts here, it answers at the
    endpoint."""

    def __init__(self, forecaster: Forecaster) -> None:
        self._forecaster = forecaster

    def __repr__(self) -> str:
        return f"GlucoseForecaster({self.name!r})"

    @property
    def name(self) -> str:
        """The run's."""
        return self._forecaster.name

    def describe(self) -> dict[str, Any]:
        """The model's kind, its context and horizon in points, the minutes between points, its quantiles."""
        return self._forecaster.describe()

    def forecast(
        self, readings: pd.Series | pd.DataFrame | str | Path, *, unit: str = MGDL, timezone: str | None = None
    ) -> pd.DataFrame:
        """What is expected after the last reading.

        Args:
            readings: One person's glucose: a Series with an index of timestamps; a DataFrame with the columns `time`
                and `glucose`, or a column `glucose` and an index of times; or the path of an export. In any order; a
                day or more gives a mechanism the person's own fit. Values outside 20 to 600 mg/dL are left out, with
                a warning.
            unit: Of the readings and of the answer, `"mg/dL"` or `"mmol/L"`; an export says its own, and is answered in
                this one.
            timezone: Of the person, such as `"Europe/Madrid"`. Needed where times have no zone; where they have one,
                local hours are taken from it unless this names another.

        Returns:
            A row a step: `time` in the person's zone, `median`, quantiles `q0.05` ..., and, of a hybrid, the parts that
            add up to the median.

        Raises:
            ValueError: Too few readings, a gap at the end, a unit that the values contradict, or times without a zone.
        """
        if unit not in (MGDL, MMOLL):
            raise ValueError(f"unit {unit!r}: expected {MGDL} or {MMOLL}")
        if isinstance(readings, str | Path):
            history, zone = _history_of_file(Path(readings), timezone), timezone
        else:
            history, zone = _history(readings, unit, timezone)
        answer = self._forecaster.answer(history)
        table = pd.DataFrame({"time": _local(answer.time_utc, answer.utc_offset_min, zone), "median": answer.median})
        for level, values in zip(answer.levels, answer.quantiles.T, strict=True):
            table[f"q{level:g}"] = values
        table = table.assign(**answer.parts)
        return table.assign(**{name: table[name] / _per_mgdl(unit) for name in table.columns.drop("time")})


def _per_mgdl(unit: str) -> float:
    return MGDL_PER_MMOLL if unit == MMOLL else 1.0


def _history_of_file(path: Path, timezone: str | None) -> History:
    if timezone is None:
        return read_history(path)
    card, _ = make_card([path], modality="cgm", overrides=(f"timezone={timezone}",))
    issues = Issues()
    return History.of(read_person(path, card, issues), issues)


def _history(readings: pd.Series | pd.DataFrame, unit: str, timezone: str | None) -> tuple[History, Any]:
    """In mg/dL and UTC, and the zone of the answer."""
    times, glucose = _columns(readings)
    zone = timezone or times.tz
    if zone is None:
        raise ValueError("the times have no zone: give timezone='Europe/Madrid', or 'UTC', or localise the times")
    known_zone(timezone)
    issues = Issues()
    mgdl = to_mgdl(glucose, unit, issues)
    for kind, n in issues.counts.items():
        warnings.warn(f"{n} of {len(glucose)} readings: {kind}", stacklevel=4)
    utc = _from_clock(times, zone) if times.tz is None else times.tz_convert("UTC").tz_localize(None)
    local = utc.tz_localize("UTC").tz_convert(_zone(zone)).tz_localize(None)
    offset_min = ((local - utc) // pd.Timedelta(minutes=1)).to_numpy(np.int64)
    seconds = utc.to_numpy("datetime64[s]").astype(np.int64)
    return History(None, seconds, mgdl, offset_min, issues=issues), zone


def _from_clock(times: pd.DatetimeIndex, zone: str) -> pd.DatetimeIndex:
    """UTC of a local clock; an hour that happens twice is told by the order."""
    shown = times.to_numpy("datetime64[ns]")
    second = clock.second_time(shown, clock.repeated(shown, zone), None)
    return pd.DatetimeIndex(clock.to_utc(shown, zone, second)[0])


def _columns(readings: pd.Series | pd.DataFrame) -> tuple[pd.DatetimeIndex, np.ndarray]:
    """Times and values of one person. Raises ValueError where they can't be told."""
    if not isinstance(readings, pd.Series | pd.DataFrame):
        raise ValueError(f"readings: expected a Series, a DataFrame or the path of an export, found {type(readings)}")
    if isinstance(readings, pd.DataFrame):
        _require_one_person(readings)
        if "glucose" not in readings:
            raise ValueError(
                f"readings: expected a column glucose, found {', '.join(map(str, readings.columns))}; rename it, or "
                "give the path of the file, whose columns are recognised"
            )
        readings = readings.set_index("time")["glucose"] if "time" in readings else readings["glucose"]
    if not isinstance(readings.index, pd.DatetimeIndex):
        raise ValueError(
            f"readings: expected times, found an index of {readings.index.dtype}; give a column time as timestamps, "
            "e.g. pd.to_datetime(readings.time, format='%d/%m/%Y %H:%M'): text may be day first or month first"
        )
    if readings.index.isna().any():
        raise ValueError(f"readings: {readings.index.isna().sum()} of {len(readings)} have no time; leave them out")
    try:
        return readings.index, readings.to_numpy(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"readings: expected numbers ({error}); convert them") from None


def _require_one_person(readings: pd.DataFrame) -> None:
    for column in readings.columns:
        if plain(str(column)) in SUBJECTS and (people := readings[column].nunique()) > 1:
            raise ValueError(
                f"readings: expected one person, found {people} in the column {column}; choose one, e.g. "
                f"readings[readings[{column!r}] == {readings[column].iloc[-1]!r}]"
            )


def _local(time_utc: np.ndarray, offset_min: int, zone: Any) -> pd.DatetimeIndex:
    """In a zone, or at the offset that the readings state."""
    own = fixed_offset(timedelta(minutes=int(offset_min)))
    return pd.DatetimeIndex(time_utc, tz="UTC").tz_convert(_zone(zone) or own)


def _zone(zone: Any) -> Any:
    """A zone by name as the library has it that knows all names."""
    return ZoneInfo(zone) if isinstance(zone, str) else zone


def _shown_in_notebooks(figure: Figure) -> Figure:
    """A figure without pyplot is drawn by Jupyter only where it can draw itself."""

    def png(self: Figure) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()

    figure._repr_png_ = MethodType(png, figure)  # type: ignore[attr-defined]
    return figure


# --- what is done ---------------------------------------------------------------------------------------------------


def settings(values: Mapping[str, Any] | None) -> tuple[str, ...]:
    """As `--set` has them."""
    return tuple(f"{path}={json.dumps(value)}" for path, value in (values or {}).items())


def options(
    unit: str | None, timezone: str | None, subject: str | None, format: str | None, modality: str | None,
    values: Mapping[str, Any] | None,
) -> CardOptions:  # fmt: skip
    return CardOptions(unit, timezone, subject, format, modality, settings(values))


def prepare(source: Source, options: CardOptions, snapshots: Path, quiet: bool) -> Snapshot:
    with _telling(quiet) as line:
        return quickstart.prepare(sources_of(_paths(source)), options, snapshots, line.prepared, line.keep).snapshot


def run(
    source: Source | Recipe | Mapping[str, Any], options: CardOptions, runs: Path, snapshots: Path, resume: bool,
    quiet: bool,
) -> Outcome:  # fmt: skip
    with _telling(quiet) as line:
        if isinstance(source, Recipe | Mapping):
            recipe = _recipe(source, options.settings)
        else:
            named = sources_of(_paths(source))
            recipe, _ = quickstart.recipe(named, options, runs, snapshots, line.prepared, line.keep)
        outcome = workflow.run(recipe, line, runs=runs, snapshots=snapshots, resume=resume)
    promotion = outcome.promotion
    champion = promotion.run if promotion.promoted else promotion.previous
    return Outcome(
        tuple(TrainedRun(run.path) for run in outcome.ranked), TrainedRun(outcome.main.path), outcome.leaderboard,
        champion and TrainedRun(runs / champion), promotion.reason,
    )  # fmt: skip


def train(
    recipe: RecipeLike, overrides: tuple[str, ...], runs: Path, snapshots: Path, resume: bool, quiet: bool
) -> TrainedRun:
    loaded = _recipe(recipe, overrides)
    with _telling(quiet) as line:
        return TrainedRun(workflow.train(loaded, load_data(loaded, snapshots), line, runs=runs, resume=resume).path)


def tune(
    recipe: RecipeLike, overrides: tuple[str, ...], runs: Path, snapshots: Path, resume: bool, quiet: bool
) -> Sweep:
    loaded = _recipe(recipe, overrides)
    with _telling(quiet) as line:
        return workflow.tune(loaded, load_data(loaded, snapshots), line, runs=runs, resume=resume)


def experiment(
    recipe: RecipeLike, overrides: tuple[str, ...], runs: Path, snapshots: Path, resume: bool, quiet: bool
) -> Experiment:
    with _telling(quiet) as line:
        result = runner.run(_recipe(recipe, overrides), line, runs=runs, snapshots=snapshots, resume=resume)
    return Experiment(result.path, result.table)


def open_run(run: str | Path, runs: Path) -> TrainedRun:
    return TrainedRun(open_folder(run, runs).path)


def compare(names: Sequence[str | Path | TrainedRun], runs: Path) -> workflow.Comparison:
    return workflow.compare([_folder(name, runs) for name in names])


def load_forecaster(run: str | Path | TrainedRun | None, runs: Path) -> GlucoseForecaster:
    if run is None or (isinstance(run, str) and run in registry.champions(runs)):
        return GlucoseForecaster(Forecaster.load(registry.champion(run, runs=runs).path))
    return GlucoseForecaster(Forecaster.load(_folder(run, runs).path))


def _folder(run: str | Path | TrainedRun, runs: Path) -> Run:
    return Run(run.path) if isinstance(run, TrainedRun) else open_folder(run, runs)


def _paths(source: Source) -> list[str | Path]:
    return [source] if isinstance(source, str | Path) else list(source)


def _recipe(recipe: RecipeLike, overrides: tuple[str, ...]) -> Recipe:
    if isinstance(recipe, str | Path):
        return load_recipe(recipe, overrides)
    raw = recipe.model_dump(mode="json") if isinstance(recipe, Recipe) else dict(recipe)
    for path, value in map(assignment, overrides):
        raw = with_value(raw, path, value)
    return parse(Recipe, raw, source="the recipe")


class _Line(workflow.Quiet):
    """Progress in one line that changes; what is said of files stays."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._width = quiet, 0

    def keep(self, text: str) -> None:
        if not self._quiet:
            self._show("")
            print(text)

    def _show(self, text: str) -> None:
        if not self._quiet:
            print(f"\r{text.ljust(self._width)}", end="\r", flush=True)
            self._width = len(text)

    def prepared(self, stage: str, done: int, total: int | None) -> None:
        self._show(f"prepare · {stage} · {done} of {total or '?'}")

    def stage(self, text: str) -> None:
        self._show(text)

    def epoch(self, metrics: dict[str, float]) -> None:
        self._show(f"epoch {metrics['epoch']:.0f}")

    def trial(self, record: dict[str, Any]) -> None:
        self._show(f"trial {record['ended']} of {record['of']}")


@contextmanager
def _telling(quiet: bool) -> Any:
    line = _Line(quiet)
    try:
        yield line
    finally:
        line._show("")
