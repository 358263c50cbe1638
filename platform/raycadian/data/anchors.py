"""Where a forecast may begin: any point, local midnight, a meal. One rule, whatever cuts the windows."""

import numpy as np

from raycadian.config import Anchor
from raycadian.data.series import Series
from raycadian.physiology.cma.meals import meal_times
from raycadian.types import CARBS

MEAL_G = 10.0  # less is a snack, or the treatment of a low
MEALS_APART_MIN = 60.0  # carbohydrate sooner after other carbohydrate belongs to the same meal
DAY_S = 86400
MEALS_A_DAY = 3


def begins_at(series: Series, recording: int, anchor: Anchor) -> np.ndarray:
    """(n,) bool for the points of a recording: True where the last context point of a forecast may lie.

    midnight: the first point at or after local midnight · meal: the first point of a meal of at least 10 g after an
    hour without carbohydrate · estimated_meal: the first point at or after one of the three times of day at which the
    person's glucose rises most, by the whole of their record: this chooses which windows are scored, looking back, and
    is nothing that a model sees. Raises ValueError where the series has no meals.
    """
    points = slice(int(series.offsets[recording]), int(series.offsets[recording + 1]))
    match anchor:
        case "any":
            return np.ones(points.stop - points.start, dtype=bool)
        case "midnight":
            return _reaches(series, recording, np.zeros(1))
        case "meal":
            return _first_of_meals(series, points)
        case "estimated_meal":
            return _reaches(series, recording, _estimated_meals_s(series, int(series.subject_of[recording])))


def _reaches(series: Series, recording: int, clock_s: np.ndarray) -> np.ndarray:
    """Points at which the local clock (seconds of day) has just reached one of `clock_s`."""
    local_s = _local_s(series, recording)
    return ((local_s[:, None] - clock_s) % DAY_S < series.dt_s).any(1)


def _local_s(series: Series, recording: int) -> np.ndarray:
    n = int(series.offsets[recording + 1] - series.offsets[recording])
    begin = series.start_s[recording] + 60 * series.utc_offset_min[recording]
    return (begin + np.arange(n) * series.dt_s) % DAY_S


def _first_of_meals(series: Series, points: slice) -> np.ndarray:
    if CARBS not in series.channels:
        raise ValueError(f"anchor meal: {CARBS} is not among the past channels {list(series.channels)}; add it")
    carbs = series.table[1 + series.channels.index(CARBS), points]
    eaten = np.flatnonzero(carbs > 0)
    alone = np.diff(eaten, prepend=-len(carbs) - DAY_S) * series.dt_s >= 60 * MEALS_APART_MIN
    first = np.zeros(len(carbs), dtype=bool)
    first[eaten[alone]] = carbs[eaten[alone]] >= MEAL_G
    return first


def _estimated_meals_s(series: Series, subject: int) -> np.ndarray:
    """Seconds of day of a person's meals, as `physiology.meals` estimates them from all their readings."""
    mine = np.flatnonzero(series.subject_of == subject)
    hours = np.concatenate([_local_s(series, r) for r in mine]) / 3600
    glucose = np.concatenate([series.table[0, series.offsets[r] : series.offsets[r + 1]] for r in mine])
    meals_h = meal_times(hours, glucose, MEALS_A_DAY)
    return meals_h[~np.isnan(meals_h)] * 3600
