"""Meal times estimated from glucose alone, as the reference implementation does (pfun-cma-model, estimate_mealtimes)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

BIN_H = 2.0
LEAD_H = 0.05  # a meal begins this long before the bin whose mean rose


def meal_times(t_h: Tensor | np.ndarray, glucose_mgdl: Tensor | np.ndarray, n: int = 3) -> Tensor:
    """(S, n) hours, ascending: starts of the `n` 2-hour bins of the day whose mean glucose rose most over the bin before.

    t_h (S, T) or (T,) local hours, wrapped to a day here; glucose_mgdl (S, T) or (T,), NaN = missing. Bins without a
    reading make no rise; where fewer than `n` rises are left, the missing times are NaN, at the end. Nothing is invented:
    `fit_cma` marks such a person as not fitted. The bin from midnight has no bin before it, as in the reference.
    Raises ValueError for n outside 1..11 and for shapes that differ.
    """
    bins = int(24 / BIN_H)
    if not 1 <= n < bins:
        raise ValueError(f"expected 1 to {bins - 1} meals a day, found {n}")
    glucose = torch.as_tensor(glucose_mgdl, dtype=torch.float64)
    hour = torch.as_tensor(t_h, dtype=torch.float64)
    if hour.shape[-1:] != glucose.shape[-1:]:
        raise ValueError(f"t_h {tuple(hour.shape)} and glucose {tuple(glucose.shape)} differ in their number of points")
    rise = _bin_means(hour.expand_as(glucose), glucose, bins).diff(dim=-1)
    order = rise.nan_to_num(-torch.inf).argsort(dim=-1, descending=True, stable=True)[..., :n]
    start_h = BIN_H * (order + 1).double() - LEAD_H
    return torch.where(rise.gather(-1, order).isnan(), torch.nan, start_h).sort(dim=-1).values  # NaN sorts last


def _bin_means(hour: Tensor, glucose: Tensor, bins: int) -> Tensor:
    """Mean of the readings in each bin of the day, (..., bins); NaN where there is none."""
    seen = ~glucose.isnan()
    bin_of = ((hour / BIN_H + 1e-9).floor().long()) % bins  # 5.999... is 6 o'clock in rounding
    zeros = glucose.new_zeros((*glucose.shape[:-1], bins))
    total = zeros.scatter_add(-1, bin_of, glucose.nan_to_num(0.0))
    return total / zeros.scatter_add(-1, bin_of, seen.to(zeros.dtype))  # 0 / 0 is NaN, as wanted
