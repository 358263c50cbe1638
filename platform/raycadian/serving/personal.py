"""A served model as one person's: the population's, their adapter on it, their calibration, how far a day is from their usual.

No Ray, no HTTP. D days of a recording.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from raycadian.config import Forecasting
from raycadian.data.series import Series
from raycadian.evaluation.label.decision import Decision
from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.personal.adapter import load_weights, personal
from raycadian.personal.calibrate import activity_of, read_recording, require_same_weights
from raycadian.personal.days import DAY_S, Days, day_windows, days_of_window, usable
from raycadian.personal.store import Person, Store
from raycadian.personal.verdict import PersonalDecision
from raycadian.physiology.rhythms.daily import of_activity
from raycadian.serving.classifier import NOTE, Activity, Classifier, Sent
from raycadian.serving.forecaster import Forecast, Forecaster, History
from raycadian.training.run import Run
from raycadian.types import Issues, Recording


def load_person(
    served: Classifier | Forecaster, run: Run, person: Person, store: Store
) -> "PersonalClassifier | PersonalForecaster":
    """What is served, adapted to a person. Raises ValueError where they calibrated another model, or their files are damaged."""
    require_same_weights(person, run)
    adapter = store.adapter(person.subject)
    if isinstance(served, Forecaster):
        return PersonalForecaster(served, person, adapter)
    return PersonalClassifier(served, run, person, adapter)


def open_person(run: Run, person: Person, store: Store) -> "PersonalClassifier | PersonalForecaster":
    """A run's model, loaded and adapted to a person. Raises ValueError."""
    served = Forecaster if isinstance(run.recipe.task, Forecasting) else Classifier
    return load_person(served.load(run.path), run, person, store)


@dataclass(eq=False)
class Adapted:
    """A place on a replica for one person's model. Ray's multiplexer makes and evicts places, no more: it can't drop a
    model, and logs what an error says that is raised while it makes one. So the place is filled and emptied here."""

    model: "PersonalClassifier | PersonalForecaster | None" = None

    def filled(
        self, served: Classifier | Forecaster, run: Run, person: Person, store: Store
    ) -> "PersonalClassifier | PersonalForecaster":
        """The person's model, loaded where the place is empty or has that of an earlier run. Raises ValueError."""
        found = self.model
        if found is None or found.served is not served:
            found = self.model = load_person(served, run, person, store)
        return found


def drop_deleted(held: Mapping[str, Adapted], store: Store) -> None:
    """Empty the places, by version, of people who are deleted or have calibrated anew."""
    for version, place in list(held.items()):
        if place.model is not None and not store.holds(place.model.person.subject, version):
            place.model = None


def described(person: Person) -> dict[str, Any]:
    """What an answer says of the adapter behind it. `kept: population` where held-out days did not speak for the adapter."""
    names = ("adapter", "kept", "verdict", "calibrated_utc")
    return {name: person.metadata[name] for name in names} | {"baseline_days": person.baseline.days}


# --- labels of days ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PersonalEstimate:
    """What is said of D days: day (D,) datetime64[D] · begin_s (D,) of its window, seconds after `start` (the local clock that was
    sent, or the recording's) · value (D,) probability, low, high (D,) with 90% of its uncertainty (NaN without an adapter), all NaN
    where the window can't be used · deviations (D, F) in standard deviations of the person's own, NaN unknown."""

    by: "PersonalClassifier"
    day: np.ndarray
    begin_s: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    deviations: np.ndarray
    warnings: dict[str, int]

    @property
    def title(self) -> str:
        kept = "their adapter" if self.by.person.metadata["kept"] == "adapter" else "the population's model"
        return f"{self.by.person.subject} by {self.by.served.name}, {kept}; deviations in standard deviations of their own. {NOTE}"

    def of_day(self, day: str | None) -> "PersonalEstimate":
        """One day's part. Raises ValueError for a day that is not there."""
        if day is None:
            return self
        chosen = self.day.astype(str) == day
        if not chosen.any():
            raise ValueError(f"{day}: nothing is said of it; the recording gives {self.day[0]} to {self.day[-1]}")
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
            **by.served.describe(),
            "threshold": by.decision.threshold,
            "windows": [self._window(i) for i in range(len(self.day))],
            "personal": described(by.person),
            "warnings": self.warnings,
            "note": NOTE,
        }

    def _window(self, i: int) -> dict[str, Any]:
        value, low, high = (_plain(x[i]) for x in (self.value, self.low, self.high))
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
            "deviations": dict(zip(self.by.person.baseline.names, map(_plain, self.deviations[i]), strict=True)),
        }


class PersonalClassifier:
    """Days of one person, by the code that cut the days that the adapter was trained on."""

    def __init__(self, served: Classifier, run: Run, person: Person, adapter: Mapping[str, Tensor]):
        assert isinstance(served.card, ActigraphyCard) and served.decision is not None, served.name
        self.served, self.run, self.person, self.card = served, run, person, served.card
        self.model: Any = served.model
        self.decision: Decision | PersonalDecision = served.decision
        if person.metadata["kept"] == "adapter":
            self.model = personal(served.model, person.baseline)
            load_weights(self.model, adapter)
            self.model.eval()
            how = person.metadata["decision"]
            self.decision = PersonalDecision(
                served.decision, how["slope"], how["offset"], tuple(map(tuple, how["covariance"]))
            )

    def estimate(self, sent: Sent) -> PersonalEstimate:
        """Of what was sent to the endpoint; as of a file, wear is told before the level is changed. Raises ValueError."""
        if not isinstance(sent, Activity):
            raise ValueError(f"{self.served.name} answers on /v1/actigraphy; send the person's days there")
        issues, how = Issues(), self.person.metadata
        if sent.channel != how["channel"]:
            raise ValueError(
                f"{self.person.subject} calibrated by {how['channel']}, found {sent.channel}; send that unit"
            )
        found = [recording for recording, *_ in self.served.days_of(sent, self.card, issues)]
        return self._estimated(found, how["channel"], how["factor"], issues, sent.start)

    def of_file(self, path: Path, card: Path | None = None) -> PersonalEstimate:
        """Of a person's export. Raises ValueError."""
        issues = Issues()
        recordings = read_recording(path, self.person.subject, self.run, card, issues)
        how = self.person.metadata
        return self._estimated(recordings, how["channel"], how["factor"], issues, None)

    def _estimated(
        self, recordings: Sequence[Recording], channel: str, factor: float, issues: Issues, start: np.datetime64 | None
    ) -> PersonalEstimate:
        window = self.served.window
        if not recordings:
            raise ValueError(
                f"no whole day, from midnight to midnight, was sent; the model sees {window.length_s / DAY_S:g} days at once"
            )
        series, days = activity_of(list(recordings), window, channel, factor, self.card.min_valid_hours)
        chosen = self._whole(series, days)
        good = usable(series, days, window)[chosen]
        value, low, high = np.full((3, len(chosen)), np.nan)
        if good.any():
            value[good], low[good], high[good] = self._said(series, days, chosen[good])
        z = self.person.baseline.deviations(of_activity(days.values[chosen]))
        first = days.date[chosen] - (days_of_window(window, series.dt_s) - 1)
        begin = first.astype("datetime64[s]") - (first[0].astype("datetime64[s]") if start is None else start)
        return PersonalEstimate(self, days.date[chosen], begin.astype(np.int64), value, low, high, z, issues.counts)

    def _whole(self, series: Series, days: Days) -> np.ndarray:
        """The days (D,) that have those before them that the model sees. Raises ValueError where there is none."""
        before = (days_of_window(self.served.window, series.dt_s) - 1) * days.values.shape[1]
        recording = np.searchsorted(series.offsets, days.first, side="right") - 1
        found = np.flatnonzero(days.first - before >= series.offsets[recording])
        if not len(found):
            raise ValueError(
                f"the model sees {self.served.window.length_s / DAY_S:g} days at once, the longest stretch has "
                f"{np.diff(series.offsets).max() * series.dt_s / DAY_S:.0f}; send more"
            )
        return found

    @torch.inference_mode()
    def _said(self, series: Series, days: Days, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        cut = day_windows(series, days, chosen, np.zeros(len(chosen)), self.served.window).windows
        score = np.concatenate([self.model(batch).score.double().numpy() for batch in cut.batches(64)])
        if not np.isfinite(score).all():
            raise ValueError("the model gives no finite estimate for these days; check them")
        probability = self.decision.probability(score, np.zeros(len(score), np.int8))
        if not isinstance(self.decision, PersonalDecision):
            return probability, *np.full((2, len(score)), np.nan)
        return probability, *self.decision.interval(probability)


def _plain(value: float) -> float | None:
    return None if value != value else float(value)


# --- forecasts --------------------------------------------------------------------------------------------------------


class PersonalForecaster(Forecaster):
    """Forecasts of one person, by the population's code and their adapter."""

    def __init__(self, served: Forecaster, person: Person, adapter: Mapping[str, Tensor]):
        model = served.model
        if person.metadata["kept"] == "adapter":
            model = personal(served.model, person.baseline)
            load_weights(model, adapter)
        super().__init__(served.name, model, served.grid, served.window, served.mechanism, served.population)
        self.served, self.person = served, person

    def forecast_batch(self, histories: Sequence[History]) -> list[Forecast | ValueError]:
        told = described(self.person)
        return [
            f if isinstance(f, ValueError) else replace(f, personal=told) for f in super().forecast_batch(histories)
        ]
