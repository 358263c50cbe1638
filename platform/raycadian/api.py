"""What the functions of `import raycadian as rc` do, and what they return."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from datetime import timezone as fixed_offset
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from raycadian import quickstart, workflow
from raycadian.config import Recipe, load_recipe
from raycadian.config.schema import assignment, parse, with_value
from raycadian.data.snapshot import Snapshot
from raycadian.dataframes import history_of, per_mgdl, zone_of
from raycadian.experiments import runner
from raycadian.modalities.cgm.builder import MGDL, MMOLL
from raycadian.modalities.guesses import in_python
from raycadian.quickstart import CardOptions, sources_of
from raycadian.runs import Run
from raycadian.runs import open_run as open_folder
from raycadian.serving.forecaster import Forecaster
from raycadian.tasks import task_of
from raycadian.tracking import registry

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
        self, readings: pd.Series | pd.DataFrame | str | Path, *, unit: str = MGDL, timezone: str | None = None,
        person: str | None = None, card: str | Path | None = None, settings: Mapping[str, Any] | None = None,
    ) -> pd.DataFrame:  # fmt: skip
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
            person: Whose, where the readings are of several people: their id in the column that tells them apart.
            card: Of an export: the card that says how it is read; recognised by content if left out.
            settings: Of an export: dotted path -> value of the card in place of what is recognised, such as
                `{"columns.glucose": "gl"}`.

        Returns:
            A row a step: `time` in the person's zone, `median`, quantiles `q0.05` ..., and, of a hybrid, the parts that
            add up to the median.

        Raises:
            ValueError: Too few readings, a gap at the end, a unit that the values contradict, or times without a zone.
        """
        if unit not in (MGDL, MMOLL):
            raise ValueError(f"unit {unit!r}: expected {MGDL} or {MMOLL}")
        with python_words(but=("unit", "subject", "format", "modality")):
            if isinstance(readings, str | Path):
                options = CardOptions(timezone=timezone, settings=as_settings(settings))
                known = Path(card) if card is not None else None
                history = quickstart.history(Path(readings), options, None, card=known, person=person)
            else:
                history, timezone = history_of(readings, unit, timezone, person)
            answer = self._forecaster.answer(history)
        zone = timezone
        table = pd.DataFrame({"time": _local(answer.time_utc, answer.utc_offset_min, zone), "median": answer.median})
        for level, values in zip(answer.levels, answer.quantiles.T, strict=True):
            table[f"q{level:g}"] = values
        table = table.assign(**answer.parts)
        return table.assign(**{name: table[name] / per_mgdl(unit) for name in table.columns.drop("time")})


def _local(time_utc: np.ndarray, offset_min: int, zone: Any) -> pd.DatetimeIndex:
    """In a zone, or at the offset that the readings state."""
    own = fixed_offset(timedelta(minutes=int(offset_min)))
    return pd.DatetimeIndex(time_utc, tz="UTC").tz_convert(zone_of(zone) or own)


def _shown_in_notebooks(figure: Figure) -> Figure:
    """A figure without pyplot is drawn by Jupyter only where it can draw itself."""

    def png(self: Figure) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()

    figure._repr_png_ = MethodType(png, figure)  # type: ignore[attr-defined]
    return figure


# --- what is done ---------------------------------------------------------------------------------------------------


def as_settings(values: Mapping[str, Any] | None) -> tuple[str, ...]:
    """As `--set` has them."""
    return tuple(f"{path}={json.dumps(value)}" for path, value in (values or {}).items())


def options(
    unit: str | None, timezone: str | None, subject: str | None, format: str | None, modality: str | None,
    values: Mapping[str, Any] | None,
) -> CardOptions:  # fmt: skip
    return CardOptions(unit, timezone, subject, format, modality, as_settings(values))


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
        data = workflow.usable_data(loaded, snapshots)
        return TrainedRun(workflow.train(loaded, data, line, runs=runs, resume=resume).path)


def tune(
    recipe: RecipeLike, overrides: tuple[str, ...], runs: Path, snapshots: Path, resume: bool, quiet: bool
) -> Sweep:
    loaded = _recipe(recipe, overrides)
    with _telling(quiet) as line:
        return workflow.tune(loaded, workflow.usable_data(loaded, snapshots), line, runs=runs, resume=resume)


def experiment(
    recipe: RecipeLike, overrides: tuple[str, ...], runs: Path, snapshots: Path, resume: bool, quiet: bool
) -> Experiment:
    with _telling(quiet) as line:
        result = runner.run(_recipe(recipe, overrides), line, runs=runs, snapshots=snapshots, resume=resume)
    return Experiment(result.path, result.table)


def rhythm(
    source: Source, options: CardOptions, by: str, scoring: str, figure: Path | None, quiet: bool
) -> pd.DataFrame:
    from raycadian.modalities.actigraphy.actogram import write_figure
    from raycadian.modalities.actigraphy.rhythm import read_rhythms, tables

    if by not in ("person", "night"):
        raise ValueError(f"by={by!r}: expected 'person' or 'night'")
    with _telling(quiet) as line:
        card, folder = quickstart.card_of(sources_of(_paths(source)), options, line.keep)
        everybody, _ = read_rhythms(card, folder, scoring, line.prepared)
        if figure is not None:
            write_figure(everybody, figure)
    return dict(zip(("person", "night"), tables(everybody), strict=True))[by]


def open_run(run: str | Path, runs: Path) -> TrainedRun:
    return TrainedRun(open_folder(run, runs).path)


def compare(names: Sequence[str | Path | TrainedRun], runs: Path) -> workflow.Comparison:
    return workflow.compare([_folder(name, runs) for name in names])


def load_forecaster(run: str | Path | TrainedRun | None, runs: Path) -> GlucoseForecaster:
    with python_words():
        if run is None or (isinstance(run, str) and not _is_folder(run, runs) and run in registry.champions(runs)):
            return GlucoseForecaster(Forecaster.load(registry.champion(run, runs=runs).path))
        return GlucoseForecaster(Forecaster.load(_folder(run, runs).path))


def _is_folder(run: str, runs: Path) -> bool:
    """What names a folder is a run, whatever the state of the registry is."""
    return Path(run).is_dir() or (runs / run).is_dir()


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
            print(in_python(text))

    def _show(self, text: str) -> None:
        if not self._quiet and _changes_in_place():
            print(f"\r{text.ljust(self._width)}", end="\r", flush=True)
            self._width = len(text)

    def prepared(self, stage: str, done: int, total: int | None) -> None:
        self._show(f"prepare · {stage} · {done} of {total or '?'}")

    def stage(self, text: str) -> None:
        self._show(text)

    def epoch(self, metrics: dict[str, float]) -> None:
        if not math.isnan(metrics["train/loss"]):  # else fitted in closed form
            self._show(f"epoch {metrics['epoch']:.0f}")

    def trial(self, record: dict[str, Any]) -> None:
        self._show(f"trial {record['ended']} of {record['of']}")


def _changes_in_place() -> bool:
    """Whether what is shown can be written over: on a terminal and in a notebook, not in a file or a pipe."""
    return sys.stdout.isatty() or type(sys.stdout).__module__.startswith("ipykernel.")


@contextmanager
def _telling(quiet: bool) -> Iterator[_Line]:
    line = _Line(quiet)
    with python_words():
        try:
            yield line
        finally:
            line._show("")


@contextmanager
def python_words(but: Sequence[str] = ()) -> Iterator[None]:
    """Errors name arguments of functions where they name options of the command line (see `in_python`)."""
    try:
        yield
    except ValueError as error:
        error.args = (in_python(str(error), but), *error.args[1:])
        raise
