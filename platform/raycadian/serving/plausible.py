"""What glucose can be, and what no sensor of it shows: a forecast is kept within the one, readings are judged by the
other."""

from typing import NamedTuple

import numpy as np

from raycadian.types import GLUCOSE_MAX_MGDL, GLUCOSE_MIN_MGDL

# Glucose itself changes by 5 mg/dL a minute at most (Fabris, Kovatchev: Glucose Monitoring Devices, Academic Press,
# 2020, chapter 11, equation 11.23). A reading has noise of about 5 mg/dL: three standard deviations of a difference are
# 4 mg/dL a minute over 5 minutes, and 2 over 10.
_FASTEST_MGDL_MIN, _FASTEST_TWICE_MGDL_MIN = 10.0, 7.0
_NEAREST_MIN, _ROW_MIN = 5.0, 30.0  # nearer readings, a scan between two say, differ by noise; readings of one row
_MOST_JUMPS, _MOST_SHARE = 2, 0.1  # of the changes in a context, beyond which nothing can be said
_SWING_MGDL_MIN, _SWING_MIN, _SWINGS = 3.0, 30.0, 4  # a turn: two such changes, of readings so near; turns in a row
BEYOND = "forecast step beyond 20-600 mg/dL (set to the bound)"
JUMP = "change faster than glucose's: 10 mg/dL a minute, or 7 twice in a row (sensor error?)"
SWING = "reading in a row of changes back and forth, which glucose doesn't make (two sensors in one record?)"
UNLIKE = "reading beyond what the model was trained on"


class Numbers(NamedTuple):
    """One forecast, mg/dL: quantiles (H, Q), parts name -> (H,)."""

    quantiles: np.ndarray
    parts: dict[str, np.ndarray]


def clipped(mgdl: np.ndarray) -> np.ndarray:
    """Within what glucose can be."""
    return np.clip(mgdl, GLUCOSE_MIN_MGDL, GLUCOSE_MAX_MGDL)


def bounded(forecast: Numbers, middle: int) -> tuple[Numbers, int]:
    """The forecast within what glucose can be, and at how many steps that changed a quantile. Quantiles stay in order,
    parts add up to the median by one more, `bounds`. Raises ValueError where the median is beyond for most of it."""
    within = clipped(forecast.quantiles)
    moved = within - forecast.quantiles
    steps = int(moved.any(axis=1).sum())
    if not steps:
        return forecast, 0
    median, change = forecast.quantiles[:, middle], moved[:, middle]
    if 2 * np.count_nonzero(change) > len(change):
        raise ValueError(
            f"the model's forecast goes from {median.min():.0f} to {median.max():.0f} mg/dL, which glucose can't be; "
            "check the readings before the last for sensor errors"
        )
    parts = forecast.parts | {"bounds": change} if forecast.parts and change.any() else forecast.parts
    return Numbers(within, parts), steps


def swings(time_s: np.ndarray, glucose_mgdl: np.ndarray) -> int:
    """How many readings (M,) of a context stand in a row in which each change undoes the one before, all of them fast:
    two sensors that write into one record, say.

    In 660,000 readings of 328 people's sensors two such rows begin, and 0.01% of the 3-hour, 0.07% of the 24-hour
    windows hold one; where two sensors do write into one record (UoM2304 of the T1D-UOM data) every window holds one.
    """
    minutes, change = _changes(time_s, glucose_mgdl, nearest_min=1.0)
    fast = (np.abs(change) > _SWING_MGDL_MIN * minutes) & (minutes <= _SWING_MIN)
    turns = np.concatenate([[False], fast[1:] & fast[:-1] & (change[1:] * change[:-1] < 0), [False]])
    begin, end = (np.flatnonzero(edge) for edge in (turns[1:] & ~turns[:-1], turns[:-1] & ~turns[1:]))
    in_a_row = end - begin
    return int(in_a_row[in_a_row >= _SWINGS].sum())


def jumps(time_s: np.ndarray, glucose_mgdl: np.ndarray) -> int:
    """How many changes between readings (M,) of a context, NaN none, are faster than glucose's. Raises ValueError where
    so many are by themselves that they are no sensor's.

    In 492,000 readings of 238 people's sensors 0.3% of the 3-hour, 2.6% of the 24-hour windows hold such a change.
    """
    minutes, change = _changes(time_s, glucose_mgdl, _NEAREST_MIN)
    alone = np.abs(change) > _FASTEST_MGDL_MIN * minutes
    if alone.sum() > max(_MOST_JUMPS, _MOST_SHARE * len(minutes)):
        raise ValueError(
            f"{alone.sum()} of {len(minutes)} changes between readings are faster than {_FASTEST_MGDL_MIN:g} mg/dL a "
            "minute, which is no glucose's; check the sensor, or that they are one person's"
        )
    fast = (np.abs(change) > _FASTEST_TWICE_MGDL_MIN * minutes) & (minutes <= _ROW_MIN)
    beside = np.concatenate([[False], fast, [False]])  # whatever its direction
    return int((alone | (fast & (beside[:-2] | beside[2:]))).sum())


def _changes(time_s: np.ndarray, glucose_mgdl: np.ndarray, nearest_min: float) -> tuple[np.ndarray, np.ndarray]:
    """Between readings (M,) in time order, NaN none: minutes, `nearest_min` at least, and mg/dL, (M-1,) each."""
    known = np.isfinite(glucose_mgdl)
    order = np.argsort(time_s[known], kind="stable")
    return np.maximum(np.diff(time_s[known][order]) / 60.0, nearest_min), np.diff(glucose_mgdl[known][order])
