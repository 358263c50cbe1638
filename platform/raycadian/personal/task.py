"""What calibrating a model to one person takes, whatever its task: inputs, days, parts in time, and what a task
adds."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from raycadian.config import Training
from raycadian.data.series import Series
from raycadian.files import read_json
from raycadian.models.base import Model
from raycadian.personal.days import Days, Labels
from raycadian.personal.store import PersonRecord
from raycadian.personal.verdict import PersonalDecision, Verdict
from raycadian.physiology.rhythms.daily import Baseline
from raycadian.runs import Run
from raycadian.types import Issues

MOST_BASELINE_DAYS = 28
HELD_OUT_SHARE = 0.2  # of the days choose the epoch, and as many are held out
LEAST_DAYS = 3  # of either
COMMON: dict[str, Any] = {
    "device": "cpu", "precision": "fp32", "schedule": "constant", "warmup_steps": 0, "workers": 1, "strategy": "ddp",
}  # fmt: skip


@dataclass(frozen=True)
class CalibrationInputs:
    """What one calibration is made from. `channel`: of the recording, in place of the one the model reads."""

    run: Run
    subject: str
    recording: Path
    episodes: Path | None = None
    card: Path | None = None
    channel: str | None = None


class BaselineRule(NamedTuple):
    """What is usual: `features` of days by `names`, of at least `least` valid days, which are days `words`."""

    names: tuple[str, ...]
    features: Callable[[np.ndarray], np.ndarray]
    least: int
    words: str

    def baseline(self, days: Days) -> Baseline:
        """Of the first valid days. Raises ValueError where there are too few."""
        date, values = self.first(days)
        return Baseline.of(self.names, self.features(values), date)

    def first(self, days: Days) -> tuple[np.ndarray, np.ndarray]:
        """date (B,), values (B, points of a day) of the first valid days, MOST_BASELINE_DAYS at most. Raises
        ValueError."""
        valid = np.flatnonzero(days.valid)[:MOST_BASELINE_DAYS]
        if len(valid) < self.least:
            raise ValueError(
                f"a baseline needs {self.least} days {self.words}, found {int(days.valid.sum())} of the recording's "
                f"{len(days.date)} ({days.date[0]} to {days.date[-1]}); record longer, or wear the device for more of "
                "the day"
            )
        return days.date[valid], days.values[valid]


class PersonDays(NamedTuple):
    """One person's recording by days; `about`: how it was brought to what the model reads, kept in metadata."""

    series: Series
    days: Days
    about: dict[str, Any]


class Parts(NamedTuple):
    """One person's windows, a part after the other in time: the first train, the next choose the epoch and calibrate,
    the last are held out and say whether the adapter is kept. `described`: what each holds · words: what trains."""

    train: Any
    val: Any
    held_out: Any
    described: dict[str, Any]
    words: str


class PersonalTask(ABC):
    """How a run of one task is calibrated to one person."""

    settings: ClassVar[Training]
    rule: ClassVar[BaselineRule]

    def __init__(self, run: Run):
        self.run = run
        self.preprocessing: dict[str, Any] = read_json(run.path / "checkpoint" / "preprocessing.json")

    @abstractmethod
    def labels(self, inputs: CalibrationInputs, before: PersonRecord | None) -> Labels:
        """Of days, those kept before and the new ones. Raises ValueError for inputs that don't go with the task."""

    @abstractmethod
    def days(
        self, inputs: CalibrationInputs, before: PersonRecord | None, population: Model, issues: Issues
    ) -> PersonDays:
        """Of the person's recording, as the model takes them. Raises ValueError."""

    @abstractmethod
    def parts(self, person: PersonDays, labels: Labels, issues: Issues) -> Parts:
        """Raises ValueError where the days don't give windows to each part."""

    @abstractmethod
    def judge(self, model: Model, population: Model, parts: Parts) -> tuple[PersonalDecision | None, Verdict]:
        """How the adapted model's log odds become probabilities (forecasts: None), and what held-out days say of it."""
