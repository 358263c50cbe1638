"""What a task is: what lies between a snapshot and a report, where one kind of question differs from another.

training/pipeline.py walks a recipe through it; workflow.py and the experiments ask it to compare. TASKS in __init__.py
lists each once.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import pandas as pd

from raycadian.config import Recipe
from raycadian.data.mechanism import Mechanism
from raycadian.data.reading import Reading
from raycadian.data.series import Series
from raycadian.data.snapshot import Snapshot
from raycadian.data.split import SplitManifest
from raycadian.evaluation.forecast.significance import Ranks
from raycadian.models.base import Model, ModelSpec
from raycadian.runs import Run
from raycadian.tasks.canary import Canary


@dataclass(frozen=True)
class Data:
    """What every model of a recipe shares: the series and the split.

    cycles: the NHANES cycles whose people these are · licence, citation: what the card says of them · reading: how the
    series is read, and why.
    """

    snapshot_id: str
    series: Series
    split: SplitManifest
    licence: str = ""
    citation: str = ""
    reading: Reading | None = None
    cycles: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Cut:
    """The windows to train and validate on, and the mechanism that they carry."""

    mechanism: Mechanism | None
    train: Any
    val: Any


@dataclass(frozen=True)
class Comparison:
    """Runs of one protocol on identical test windows: who leads, and for each pair whether that is noise."""

    protocol: str
    leaderboard: pd.DataFrame
    differences: pd.DataFrame
    ranks: Ranks | None


D = TypeVar("D", bound=Data)
Predictions = Mapping[str, Any]
"""By the name of a part: val, test, and of a further label test_<label>."""


class Task(ABC, Generic[D]):
    """One kind of question. Every method that reads raises ValueError for what does not fit, and says what does."""

    tolerance: ClassVar[tuple[float, float]] = (0.0, 0.0)
    """Relative and absolute, between `predicted` and `scored`."""
    tests: ClassVar[bool] = True
    """Whether a run looks at test windows."""

    @abstractmethod
    def load(self, recipe: Recipe, snapshot: Snapshot) -> D:
        """Series and split of a snapshot, and what else all models of the recipe share."""

    @abstractmethod
    def spec(self, recipe: Recipe, dt_s: float) -> ModelSpec:
        """What a model of the recipe must fit."""

    @abstractmethod
    def windows(self, data: D, recipe: Recipe, split: str, mechanism: Mechanism | None = None) -> Any:
        """The windows of one part of the split: to train on, or to be scored."""

    def require_windows(self, data: D, recipe: Recipe) -> None:
        """Before anything is trained. Raises ValueError where there is nothing to train on, or to validate with."""
        for split in ("train", "val"):
            self.windows(data, recipe, split)

    @abstractmethod
    def cut(self, data: D, recipe: Recipe, correction_mgdl: Any = None) -> Cut:
        """The windows to train and validate on; a mechanism is fitted to glucose less the correction (P,)."""

    def before_training(self, model: Model, data: D) -> None:
        """What a built model is told before it trains."""

    @abstractmethod
    def predict(self, data: D, recipe: Recipe, model: Model, mechanism: Mechanism | None) -> Predictions:
        """What a trained model says of validation and test windows."""

    @abstractmethod
    def parts(self, recipe: Recipe) -> list[str]:
        """The names under which a run keeps what `predict` gave."""

    @abstractmethod
    def read(self, folder: Path, part: str = "test") -> Any:
        """A part of what `predict` gave, from a run's folder."""

    def canary(self, data: D, recipe: Recipe, mechanism: Mechanism | None) -> Canary | None:
        """A few of the windows that `predict` predicts for test; None of a task that predicts none."""
        return None

    def scored(self, run: Run, canary: Canary) -> np.ndarray:
        """What the run's predictions say of the windows of a canary, the first axis; NaN where nothing is known."""
        raise ValueError(f"{run.name}: task {run.recipe.task.kind} predicts nothing that could be compared")

    def predicted(self, model: Model, canary: Canary) -> np.ndarray:
        """What a model says of them, in the shape of `scored`."""
        raise ValueError(f"a task without predictions says nothing of {len(canary.rows)} windows")

    def frame(self, folder: Path, recipe: Recipe, part: str = "test") -> pd.DataFrame:
        """The same as a table for people, in long form."""
        raise ValueError(f"{folder.name}: task {recipe.task.kind} says nothing of a window that could be listed")

    def figure(self, folder: Path, recipe: Recipe) -> Any:
        """Test windows with what was said of them, as a matplotlib figure."""
        raise ValueError(f"{folder.name}: task {recipe.task.kind} says nothing of a window that could be drawn")

    @abstractmethod
    def results(self, folder: Path, recipe: Recipe, label: str = "") -> Any:
        """What a run's test scores are computed from, as `leaderboard` and `differences` take it."""

    @abstractmethod
    def join(self, results: Sequence[Any]) -> Any:
        """The results of several runs, each on windows of its own, as one."""

    @abstractmethod
    def require_same_windows(self, one: Any, other: Any, name: str) -> None:
        """Raises ValueError where the results of two models are not of identical windows. `name`: the other's."""

    @abstractmethod
    def test_on(self, run: Run, recipe: Recipe, data: D) -> Any:
        """What a run's model says of the test windows of other data, from which it learns nothing."""

    def everybody(self, run: Run, snapshot: Snapshot, *, last: bool) -> tuple[Any, dict[str, str]]:
        """What a run's model says of everybody of a snapshot: of each window as the recipe cuts test windows, or from
        the `last` point of each person's record; None where it says nothing. And of whom it says nothing, and why."""
        raise ValueError(f"{run.name}: a model of task {run.recipe.task.kind} answers one file at a time")

    @abstractmethod
    def score(self, folder: Path, recipe: Recipe, predictions: Predictions, history: list[dict[str, float]]) -> None:
        """Write metrics_summary.json and the tables of scores into a run's folder."""

    @abstractmethod
    def validation_score(self, run: Run) -> float:
        """The headline score over what the run keeps of validation windows, computed anew; of pretraining, over its
        history."""

    @abstractmethod
    def leaderboard(self, named: Mapping[str, Any], recipe: Recipe) -> pd.DataFrame:
        """Models by name, the best first, with intervals over people. `named`: `results` of each."""

    @abstractmethod
    def differences(self, named: Mapping[str, Any], recipe: Recipe) -> pd.DataFrame:
        """A row a pair of models: which is better, and whether that is noise."""

    def ranks(self, named: Mapping[str, Any], recipe: Recipe) -> Ranks | None:
        """Ranks over people, where the task has them."""
        return None

    @abstractmethod
    def report(self, folder: Path, recipe: Recipe, metadata: dict[str, Any], against: Sequence[Run]) -> Path:
        """(Re)write report.html and leaderboard.csv of a run's folder, over it and `against`."""

    @abstractmethod
    def preprocessing(self, data: D, recipe: Recipe, mechanism: Mechanism | None) -> dict[str, Any]:
        """What serving needs to cut the same windows."""

    def record(self, data: D, recipe: Recipe) -> dict[str, Any]:
        """What a run's metadata says beside what every task's says."""
        return {}
