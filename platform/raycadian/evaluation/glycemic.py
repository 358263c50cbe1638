"""What errors mean for a person: Clarke zones, time in range, hypo- and hyperglycaemic events. Vectorised, mg/dL."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RANGE_MGDL = (70.0, 180.0)
"""Target range, both ends included (Battelino et al., Diabetes Care 42:1593, 2019)."""
EVENT_MIN = 15.0
"""An event lasts at least so long (Danne et al., Diabetes Care 40:1631, 2017, for hypoglycaemia; here for both)."""


def clarke_zones(reference: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Zones A to E of the Clarke error grid as letters, the inputs' shape; "" where either is NaN.

    Clarke, Cox, Gonder-Frederick, Carter, Pohl, Diabetes Care 10:622 (1987). Zones are tested in the order A, E, C, D,
    the rest is B, so each point has one zone. The published grid ends at 400 mg/dL; its lines are not prolonged: overestimates
    at a reference above 290 mg/dL are B.
    """
    r, p = np.asarray(reference, dtype=float), np.asarray(predicted, dtype=float)
    a = ((r <= 70) & (p <= 70)) | (np.abs(p - r) <= 0.2 * r)
    e = ((r >= 180) & (p <= 70)) | ((r <= 70) & (p >= 180))
    c = ((r >= 70) & (r <= 290) & (p >= r + 110)) | ((r >= 130) & (r <= 180) & (p <= 7 / 5 * r - 182))
    d = ((r >= 240) & (p >= 70) & (p <= 180)) | ((r <= 175 / 3) & (p >= 70) & (p <= 180))
    d |= (r >= 175 / 3) & (r <= 70) & (p >= 6 / 5 * r)
    return np.select([np.isnan(r) | np.isnan(p), a, e, c, d], ["", "A", "E", "C", "D"], "B")


def in_range(glucose: np.ndarray) -> np.ndarray:
    """1 within RANGE_MGDL, 0 outside, NaN where missing."""
    low, high = RANGE_MGDL
    return np.where(np.isnan(glucose), np.nan, (glucose >= low) & (glucose <= high))


@dataclass(frozen=True)
class Excursion:
    """Glucose beyond a threshold, strictly."""

    name: str
    threshold_mgdl: float
    above: bool

    def beyond(self, glucose: np.ndarray) -> np.ndarray:
        return glucose > self.threshold_mgdl if self.above else glucose < self.threshold_mgdl


EXCURSIONS = (
    Excursion("hypo70", 70.0, above=False),
    Excursion("hypo54", 54.0, above=False),
    Excursion("hyper180", 180.0, above=True),
    Excursion("hyper250", 250.0, above=True),
)


def has_event(beyond: np.ndarray, dt_min: float) -> np.ndarray:
    """(..., H) bool -> (...) bool: whether points in a row cover at least EVENT_MIN minutes, each standing for dt_min."""
    points = max(1, int(np.ceil(EVENT_MIN / dt_min - 1e-9)))
    if beyond.shape[-1] < points:
        return np.zeros(beyond.shape[:-1], dtype=bool)
    return np.lib.stride_tricks.sliding_window_view(beyond, points, axis=-1).all(-1).any(-1)


def measured_event(truth: np.ndarray, excursion: Excursion, dt_min: float) -> np.ndarray:
    """(..., H) -> (...): 1 where the horizon holds an event, 0 where not, NaN where missing points leave it open."""
    beyond, missing = excursion.beyond(truth), np.isnan(truth)
    surely = has_event(beyond, dt_min)
    return np.where(surely | ~has_event(beyond | missing, dt_min), surely.astype(float), np.nan)


def forecast_event(glucose: np.ndarray, excursion: Excursion, dt_min: float) -> np.ndarray:
    """(..., H) -> (...) bool: whether a forecast (the median, or a quantile) raises the alarm."""
    return has_event(excursion.beyond(glucose), dt_min)


def alarm_ratios(actual: np.ndarray, alarm: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per window (W,): what to sum above and below the line for sensitivity, precision and F1, in percent.

    actual (W,) 1, 0 or NaN · alarm (W,) bool. Windows left open count nowhere. F1 = 2 hits / (events + alarms).
    """
    known = ~np.isnan(actual)
    event, alarm = (actual == 1).astype(float), (alarm & known).astype(float)
    hit = 100.0 * event * alarm
    return {"sensitivity_pct": (hit, event), "precision_pct": (hit, alarm), "f1_pct": (2 * hit, event + alarm)}


def false_alarms_per_day(
    subject: np.ndarray, time_utc: np.ndarray, actual: np.ndarray, alarm: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Per window (W,): false alarms that begin there, and the days that it stands for; their sums' ratio is the rate.

    Neighbouring windows that alarm are one alarm (a person hears it once); it is false if none of its windows holds an
    event. A window stands for the time to the next one: the smallest spacing between windows of one subject; NaN where nobody
    has two.
    """
    order = np.lexsort((time_utc, subject))
    inverse = np.argsort(order)
    gap = np.diff(time_utc[order].astype("datetime64[s]").astype(np.int64)) / 86400
    same = subject[order][1:] == subject[order][:-1]
    spacing = gap[same & (gap > 0)].min(initial=np.inf)
    joined = np.r_[False, same & (gap <= spacing)]
    rings, event, known = alarm[order], actual[order] == 1, ~np.isnan(actual[order])
    begins = rings & ~(joined & np.r_[False, rings[:-1]])
    number = np.cumsum(begins) * rings  # 0: no alarm; windows of one alarm share its number
    real = np.bincount(number, event, minlength=1) > 0
    judged = np.bincount(number, known, minlength=1) > 0
    false = begins & ~real[number] & judged[number]
    days = known * (spacing if np.isfinite(spacing) else np.nan)
    return false[inverse].astype(float), days[inverse]
