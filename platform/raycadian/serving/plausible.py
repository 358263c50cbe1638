"""What glucose can be, and what no sensor of it shows: a forecast is kept within the one, readings are judged by the
other."""

from typing import NamedTuple

import numpy as np

from raycadian.types import GLUCOSE_MAX_MGDL, GLUCOSE_MIN_MGDL

_FASTEST_MGDL_MIN = 10.0  # glucose itself changes by 5 at most
_MOST_JUMPS, _MOST_SHARE = 2, 0.1  # of the changes in a context, beyond which nothing can be said
BEYOND = "forecast step beyond 20-600 mg/dL (set to the bound)"
JUMP = "change faster than 10 mg/dL a minute, which is no glucose's (sensor error?)"
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


def jumps(time_s: np.ndarray, glucose_mgdl: np.ndarray) -> int:
    """How often readings (M,) of a context, NaN none, change faster than glucose. Raises ValueError where so many do
    that they are no sensor's."""
    known = np.isfinite(glucose_mgdl)
    order = np.argsort(time_s[known], kind="stable")
    time, glucose = time_s[known][order], glucose_mgdl[known][order]
    minutes = np.maximum(np.diff(time) / 60.0, 1.0)
    n = int((np.abs(np.diff(glucose)) > _FASTEST_MGDL_MIN * minutes).sum())
    if n > max(_MOST_JUMPS, _MOST_SHARE * len(minutes)):
        raise ValueError(
            f"{n} of {len(minutes)} changes between readings are faster than {_FASTEST_MGDL_MIN:g} mg/dL a minute, "
            "which is no glucose's; check the sensor, or that they are one person's"
        )
    return n
