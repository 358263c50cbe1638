"""Days of one person by their own adapter, at the endpoint as offline.

No Ray, no HTTP. D days of a recording.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from raycadian.data.series import Series
from raycadian.evaluation.label.decision import Decision
from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.actigraphy.request import RecordedDays
from raycadian.modalities.request import ESTIMATE_NOTE, Request
from raycadian.personal.adapter import adapted
from raycadian.personal.days import DAY_S, Days, activity_of, day_windows, days_of_window, read_recording, usable
from raycadian.personal.store import PersonRecord
from raycadian.personal.verdict import PersonalDecision
from raycadian.physiology.rhythms.daily import of_activity
from raycadian.serving.predictor import Predictor, each
from raycadian.types import Issues, Recording

if TYPE_CHECKING:
    from raycadian.serving.label import LabelPredictor


class DayRequest(Request, Protocol):
    """One person's activity. channel: the one it has, None where it may have several · start: local clock,
    datetime64[s], from which windows count, None for that of the first day."""

    @property
    def channel(self) -> str | None: ...

    @property
    def start(self) -> np.datetime64 | None: ...

    def days(self, card: ActigraphyCard, issues: Issues) -> list[Recording]:
        """Recordings of whole local days. Raises ValueError."""
        ...


@dataclass(frozen=True)
class PersonalEstimate:
    """What is said of D days.

    day (D,) datetime64[D] · begin_s (D,) of its window, seconds after the local clock that was sent, or the recording's
    · value (D,) probability, low, high (D,) with 90% of its uncertainty (NaN without an adapter), all NaN where the
    window can't be used · deviations (D, F) in standard deviations of the person's own, NaN unknown.
    """

    by: "DayPredictor"
    day: np.ndarray
    begin_s: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    deviations: np.ndarray
    warnings: dict[str, int]

    @property
    def title(self) -> str:
        person = self.by.person
        kept = "their adapter" if person.adapter_kept else "the population's model"
        return (
            f"{person.subject} by {self.by.name}, {kept}; deviations in standard deviations of their own. "
            f"{ESTIMATE_NOTE}\n{person.metadata['verdict']}"
        )

    def of_day(self, day: str | None) -> "PersonalEstimate":
        """One day's part. Raises ValueError for a day that is not there, or of which nothing can be said, and why."""
        if day is None:
            return self
        chosen = self.day.astype(str) == day
        if not chosen.any():
            raise ValueError(
                f"{day}: nothing is said of it; the recording gives {self.day[0]} to {self.day[-1]}: days that are "
                "whole, from midnight to midnight, with those before that its window takes; write it as "
                f"{self.day[-1]}, or bring a longer recording"
            )
        if np.isnan(self.value[chosen]).all():
            told = self.day[~np.isnan(self.value)]
            most = f"the last day with one is {told[-1]}" if len(told) else "no day of the recording has one"
            raise ValueError(
                f"{day}: no estimate, since more of its window is missing or not worn than the model takes "
                f"(window.max_missing); {most}"
            )
        arrays = {
            name: getattr(self, name)[chosen] for name in ("day", "begin_s", "value", "low", "high", "deviations")
        }
        return replace(self, **arrays)

    def as_frame(self) -> pd.DataFrame:
        """One row a day, with what is furthest from usual."""
        names, z = np.array(self.by.person.baseline.names), np.nan_to_num(self.deviations)
        furthest = np.abs(z).argmax(1)
        words = [f"{names[f]} {row[f]:+.1f}" for f, row in zip(furthest, z, strict=True)]
        columns = {"day": self.day.astype(str), "risk": self.value, "low": self.low, "high": self.high}
        return pd.DataFrame(columns | {"alarm": self.value > self.by.decision.threshold, "furthest from usual": words})

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as the endpoint answers."""
        by = self.by
        return {
            "subject": by.person.subject,
            **by.served.labels_dict(),
            "threshold": by.decision.threshold,
            "windows": [self._window(i) for i in range(len(self.day))],
            "personal": by.person.described,
            "warnings": self.warnings,
            "note": ESTIMATE_NOTE,
        }

    def _window(self, i: int) -> dict[str, Any]:
        value, low, high = (_or_none(x[i]) for x in (self.value, self.low, self.high))
        used = value is not None
        return {
            "begin_s": float(self.begin_s[i]),
            "end_s": float(self.begin_s[i] + self.by.served.window.length_s),
            "rejected": {} if used else {channel: ["missing"] for channel in self.by.served.window.past},
            "probability": value,
            "alarm": value > self.by.decision.threshold if used else None,
            "day": str(self.day[i]),
            "low": low,
            "high": high,
            "deviations": dict(zip(self.by.person.baseline.names, map(_or_none, self.deviations[i]), strict=True)),
        }


class DayPredictor(Predictor):
    """Days of one person, by the code that cut the days that the adapter was trained on."""

    def __init__(self, served: "LabelPredictor", person: PersonRecord, weights: Mapping[str, Tensor]):
        assert served.decision is not None, served.name
        self.name, self.path, self.card = served.name, served.path, served.card
        self.served, self.person = served, person
        self.model = adapted(served.model, person, weights)
        self.decision = _decision(served.decision, person)

    def personalised(self, person: PersonRecord, weights: Mapping[str, Tensor]) -> "DayPredictor":
        return self.served.personalised(person, weights)

    def read(self, path: Path, card: Path | None = None) -> RecordedDays:
        """The person's export. Raises ValueError."""
        issues = Issues()
        recordings = read_recording(path, self.person.subject, self.card, card, self.name, issues)
        return RecordedDays(self.person.subject, recordings, issues)

    def example(self) -> dict[str, Any]:
        return self.served.example()

    def _answers(self, requests: Sequence[DayRequest]) -> list[PersonalEstimate | ValueError]:
        return each(self._estimate, requests)

    def _estimate(self, request: DayRequest) -> PersonalEstimate:
        """Wear is told before the level is changed, as of a file. Raises ValueError."""
        channel, factor = (self.person.metadata[name] for name in ("channel", "factor"))
        if request.channel not in (None, channel):
            raise ValueError(f"{self.person.subject} calibrated by {channel}, found {request.channel}; send that unit")
        issues, window = Issues(), self.served.window
        recordings = request.days(self.card, issues)
        if not recordings:
            days = window.length_s / DAY_S
            raise ValueError(f"no whole day, from midnight to midnight, was sent; the model sees {days:g} days at once")
        series, days = activity_of(recordings, window, channel, factor, self.card.min_valid_hours)
        chosen = self._whole(series, days)
        value, low, high = self._values(series, days, chosen)
        z = self.person.baseline.deviations(of_activity(days.values[chosen]))
        begin_s = self._begin_s(series, days, chosen, request.start)
        return PersonalEstimate(self, days.date[chosen], begin_s, value, low, high, z, issues.counts)

    def _begin_s(self, series: Series, days: Days, chosen: np.ndarray, start: np.datetime64 | None) -> np.ndarray:
        first = days.date[chosen] - (days_of_window(self.served.window, series.dt_s) - 1)
        begin = first.astype("datetime64[s]") - (first[0].astype("datetime64[s]") if start is None else start)
        return begin.astype(np.int64)

    def _whole(self, series: Series, days: Days) -> np.ndarray:
        """The days (D,) that have those before them that the model sees. Raises ValueError where there is none."""
        before = (days_of_window(self.served.window, series.dt_s) - 1) * days.values.shape[1]
        recording = np.searchsorted(series.offsets, days.first, side="right") - 1
        whole = np.flatnonzero(days.first - before >= series.offsets[recording])
        if not len(whole):
            raise ValueError(
                f"the model sees {self.served.window.length_s / DAY_S:g} days at once, the longest stretch has "
                f"{np.diff(series.offsets).max() * series.dt_s / DAY_S:.0f}; send more"
            )
        return whole

    def _values(self, series: Series, days: Days, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """value, low, high (D,) of the chosen days; NaN where a window can't be used."""
        good = usable(series, days, self.served.window)[chosen]
        value, low, high = np.full((3, len(chosen)), np.nan)
        if good.any():
            value[good], low[good], high[good] = self._decided(series, days, chosen[good])
        return value, low, high

    @torch.inference_mode()
    def _decided(self, series: Series, days: Days, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        cut = day_windows(series, days, chosen, np.zeros(len(chosen)), self.served.window).windows
        score = np.concatenate([self.model(batch).score.double().numpy() for batch in cut.batches(64)])
        if not np.isfinite(score).all():
            raise ValueError("the model gives no finite estimate for these days; check them")
        probability = self.decision.probability(score, np.zeros(len(score), np.int8))
        if not isinstance(self.decision, PersonalDecision):
            return probability, *np.full((2, len(score)), np.nan)
        return probability, *self.decision.interval(probability)


def _decision(population: Decision, person: PersonRecord) -> Decision | PersonalDecision:
    if not person.adapter_kept:
        return population
    fitted = person.metadata["decision"]
    return PersonalDecision(population, fitted["slope"], fitted["offset"], tuple(map(tuple, fitted["covariance"])))


def _or_none(value: float) -> float | None:
    return None if value != value else float(value)
