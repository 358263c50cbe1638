"""Readings of many days as one daily profile, and curves as means over bins of the day."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from raycadian.physiology.arrays import Array, ArrayLike, like
from raycadian.physiology.cma import equations as cma


class DayProfile(NamedTuple):
    """Mean glucose by time of day, (T,): mean hour of the readings in a bin, their mean (NaN where none), their
    number."""

    t_h: Array
    glucose_mgdl: Array
    count: Array


def day_profile(local_h: ArrayLike, glucose_mgdl: ArrayLike, dt_min: float = 5.0) -> DayProfile:
    """Readings (N,) of one person at local hours, any number of days, as one daily profile of T = 24 h / dt points.

    For readings on the grid the residual sum of squares of any daily curve f splits into
    sum_i (y_i - f(t_i))^2 = sum_b count_b (mean_b - f(t_b))^2 + (scatter within bins, which no curve can change):
    fit the profile with `weight=count` in place of all the readings. NaN readings don't count.
    Raises ValueError unless dt divides the day and the shapes agree.
    """
    bins = round(24 * 60 / dt_min)
    if bins < 1 or not math.isclose(bins * dt_min, 24 * 60):
        raise ValueError(f"dt_min must divide a day of 1440 minutes, found {dt_min}")
    back, (hour, glucose) = like(local_h, glucose_mgdl)
    hour, glucose = cma.clock(hour.double()), glucose.double()
    if hour.shape != glucose.shape or hour.ndim != 1:
        raise ValueError(
            f"expected hours and glucose of one shape (N,); found {tuple(hour.shape)} and {tuple(glucose.shape)}"
        )
    seen = ~glucose.isnan()
    means = bin_means(hour[seen][None], glucose[seen][None], torch.ones_like(hour[seen])[None], bins)
    hour, glucose, count = (value[0] for value in means)
    return back(DayProfile(hour, torch.where(count > 0, glucose, torch.nan), count))


def bin_means(hour: Tensor, y: Tensor, w: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted mean hour and y, and sum of w, in each bin of the day, (R, bins). Empty: middle of the bin, 0, 0."""
    index = (hour * (bins / 24.0) + 1e-6).long().clamp(max=bins - 1)  # a reading on an edge begins its bin
    hour_sum, y_sum, total = (w.new_zeros(len(w), bins).scatter_add(1, index, v) for v in (w * hour, w * y, w))
    middle = (torch.arange(bins, dtype=w.dtype, device=w.device) + 0.5) * (24.0 / bins)
    safe = torch.where(total > 0, total, 1.0)
    return torch.where(total > 0, hour_sum / safe, middle), y_sum / safe, total
