"""What errors mean for a person: time in range, costly errors, hypo- and hyperglycaemic events. Vectorised, mg/dL."""

from dataclasses import dataclass

import numpy as np

from raycadian.types import GLUCOSE

RANGE_MGDL = (70.0, 180.0)
"""Target range, both ends included (Battelino et al., Diabetes Care 42:1593, 2019)."""
EVENT_MIN = 15.0
"""An event lasts at least so long (Danne et al., Diabetes Care 40:1631, 2017, for hypoglycaemia; here for both)."""


def is_glucose(target: str) -> bool:
    """Whether a forecast of this channel has ranges, events and error grids: what else asks `Predictions.glycemic`."""
    return target == GLUCOSE


def in_range(glucose: np.ndarray) -> np.ndarray:
    """1 within RANGE_MGDL, 0 outside, NaN where missing."""
    low, high = RANGE_MGDL
    return np.where(np.isnan(glucose), np.nan, (glucose >= low) & (glucose <= high))


def cost(truth: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    """1 to 2.5: the weight of a squared error in the glucose-specific MSE (gMSE).

    Overestimates count up to 2.5 times where truth is low (towards 55 mg/dL and below), underestimates up to twice
    where it is high (towards 255 and above). Del Favero, Facchinetti, Cobelli, IEEE Trans Biomed Eng 59:1281 (2012),
    eq. 4 to 9, with the published constants.
    """
    low = _smooth_step(85.0 - truth, 30.0) * _smooth_step(forecast - truth, 10.0)
    high = _smooth_step(truth - 155.0, 100.0) * _smooth_step(truth - forecast, 20.0)
    return 1 + 1.5 * low + 1.0 * high


def _smooth_step(x: np.ndarray, width: float) -> np.ndarray:
    """0 up to 0, 1 from `width` on, in between two quartics with continuous slope."""
    xi = np.clip(2 * x / width - 1, -1, 1)
    square = xi * xi  # powers by pow() would take ten times as long
    return 0.5 + xi * (1 - square + 0.5 * np.abs(xi) * square)


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
    """(..., H) bool -> (...) bool: points in a row cover at least EVENT_MIN minutes, each standing for dt_min."""
    points = _event_points(dt_min)
    if beyond.shape[-1] < points:
        return np.zeros(beyond.shape[:-1], dtype=bool)
    return np.lib.stride_tricks.sliding_window_view(beyond, points, axis=-1).all(-1).any(-1)


def _event_points(dt_min: float) -> int:
    return max(1, int(np.ceil(EVENT_MIN / dt_min - 1e-9)))


def onset_min(truth: np.ndarray, origin: np.ndarray, excursion: Excursion, dt_min: float) -> np.ndarray:
    """(W, H), glucose at the origin (W,) -> minutes to the first measured event (W,).

    NaN where there is none, or where it may be under way: the origin is beyond the threshold already, or missing.
    """
    points = _event_points(dt_min)
    if truth.shape[-1] < points:
        return np.full(len(truth), np.nan)
    runs = np.lib.stride_tricks.sliding_window_view(excursion.beyond(truth), points, axis=-1).all(-1)
    later = runs.any(-1) & ~excursion.beyond(origin) & ~np.isnan(origin)
    return np.where(later, dt_min * (runs.argmax(-1) + 1), np.nan)


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


def onset_ratios(
    subject: np.ndarray, time_utc: np.ndarray, onset: np.ndarray, alarm: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per window (W,): what to sum above and below the line for events that begin after the origin.

    `onset` (W,) minutes to it, of `onset_min`. onset_sensitivity_pct: the share of windows before an onset that
    alarm. lead_time_min: from the first alarm to the onset, once for each event (a subject and the moment of its
    onset) that any window alarms for; at most the horizon, as no window further off can hold the event, and in steps
    of the windows' spacing. The "warning time" of Harvey et al., Diabetes Technol Ther 14:719 (2012).
    """
    before = ~np.isnan(onset)
    rings = np.flatnonzero(before & alarm)
    moment = time_utc[rings].astype("datetime64[s]").astype(np.int64) + np.round(60 * onset[rings]).astype(np.int64)
    order = np.lexsort((-onset[rings], moment, subject[rings]))
    rings, moment = rings[order], moment[order]
    new = (np.diff(moment) != 0) | (subject[rings][1:] != subject[rings][:-1])
    first = np.zeros(len(onset))
    first[rings[np.r_[True, new][: len(rings)]]] = 1.0
    lead = np.where(first > 0, onset, 0.0)
    return {"onset_sensitivity_pct": (100.0 * before * alarm, before.astype(float)), "lead_time_min": (lead, first)}


def false_alarms_per_day(
    subject: np.ndarray, time_utc: np.ndarray, actual: np.ndarray, alarm: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Per window (W,): false alarms that begin there, and the days that it stands for; their sums' ratio is the rate.

    Neighbouring windows that alarm are one alarm (a person hears it once); it is false if none of its windows holds
    an event. A window stands for the time to the next one: the smallest spacing between windows of one subject; NaN
    where nobody has two.
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
