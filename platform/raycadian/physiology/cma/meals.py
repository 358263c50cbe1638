"""Meal times estimated from glucose alone, as the reference implementation does (pfun-cma-model, estimate_mealtimes);
and what other meals would change in a fitted curve."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raycadian.physiology.arrays import Array, ArrayLike, like
from raycadian.physiology.cma import equations as cma
from raycadian.physiology.cma.result import CMAFit

BIN_H = 2.0
LEAD_H = 0.05  # a meal begins this long before the bin whose mean rose


def meal_times(t_h: ArrayLike, glucose_mgdl: ArrayLike, n: int = 3) -> Array:
    """(S, n) hours, ascending: starts of the `n` 2-hour bins of the day whose mean glucose rose most over the bin
    before.

    t_h (S, T) or (T,) local hours, wrapped to a day here; glucose_mgdl (S, T) or (T,), NaN = missing. Bins without a
    reading make no rise; where fewer than `n` rises are left, the missing times are NaN, at the end. Nothing is
    invented: `fit_cma` marks such a person as not fitted. The bin from midnight has no bin before it, as in the
    reference. Raises ValueError for n outside 1..11 and for shapes that differ.
    """
    bins = int(24 / BIN_H)
    if not 1 <= n < bins:
        raise ValueError(f"expected 1 to {bins - 1} meals a day, found {n}")
    back, (hour, glucose) = like(t_h, glucose_mgdl)
    hour, glucose = hour.double(), glucose.double()
    if hour.shape[-1:] != glucose.shape[-1:]:
        raise ValueError(f"t_h {tuple(hour.shape)} and glucose {tuple(glucose.shape)} differ in their number of points")
    rise = _bin_means(hour.expand_as(glucose), glucose, bins).diff(dim=-1)
    order = rise.nan_to_num(-torch.inf).argsort(dim=-1, descending=True, stable=True)[..., :n]
    start_h = BIN_H * (order + 1).double() - LEAD_H
    return back(torch.where(rise.gather(-1, order).isnan(), torch.nan, start_h).sort(dim=-1).values)  # NaN sorts last


def _bin_means(hour: Tensor, glucose: Tensor, bins: int) -> Tensor:
    """Mean of the readings in each bin of the day, (..., bins); NaN where there is none."""
    seen = ~glucose.isnan()
    bin_of = ((hour / BIN_H + 1e-9).floor().long()) % bins  # 5.999... is 6 o'clock in rounding
    zeros = glucose.new_zeros((*glucose.shape[:-1], bins))
    total = zeros.scatter_add(-1, bin_of, glucose.nan_to_num(0.0))
    return total / zeros.scatter_add(-1, bin_of, seen.to(zeros.dtype))  # 0 / 0 is NaN, as wanted


# --- what if meals were other ones ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Meal:
    """A meal at `hour` of the local clock, `size` times the usual meal that is nearest on the clock."""

    hour: float
    size: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.hour < 24 and 0 <= self.size < math.inf):
            raise ValueError(f"a meal has an hour from 0 to 24 and a size >= 0, found {self.hour} and {self.size}")

    @property
    def clock(self) -> str:
        """HH:MM."""
        minutes = round(self.hour * 60) % 1440
        return f"{minutes // 60:02}:{minutes % 60:02}"

    def __str__(self) -> str:
        return self.clock if self.size == 1.0 else f"{self.clock}x{self.size:g}"


_MEAL = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?:[x*](\d+(?:\.\d+)?))?")


def parse_meal(text: str) -> Meal:
    """HH:MM, or HH:MMxSIZE: 20:00x0.5. Raises ValueError."""
    parts = _MEAL.fullmatch(text.strip())
    if not parts:
        raise ValueError(f"{text!r} is no meal: expected HH:MM, or HH:MMxSIZE such as 20:00x0.5, half the usual")
    return Meal(int(parts[1]) + int(parts[2]) / 60.0, float(parts[3] or 1.0))


def usual_meals(fit: CMAFit) -> tuple[Meal, ...]:
    """The meals of a single fit."""
    return tuple(Meal(hour) for hour in (fit.tM[0] % 24.0).tolist())


def difference_mgdl(fit: CMAFit, origin_h: float, since_h: ArrayLike, meals: Sequence[Meal]) -> Array:
    """What changes in the curve of a single fit, (T,) mg/dL, if from `origin_h` (local hours) on these meals were
    eaten, daily, in place of the usual ones; since_h (T,) hours after the origin.

    Meals up to the origin go on acting, and the baseline stays: with r_h(t) the response 1.3 K / (1 + I_E) to meals at
    clock time h that begin after the origin, and gain_near(h) that of the usual meal nearest to h on the clock,
    difference = sum_meals size gain_near(h) r_h - sum_usual gain_i r_i.
    """
    back, (since_h, *_) = like(since_h)
    fit = fit.tensors()
    usual, gain = fit.tM[0] % 24.0, fit.gain_mgdl[0]
    scale = 1.3 / (1.0 + fit.signals(origin_h + since_h)["I_E"][0])
    total = -(gain[:, None] * _later_responses(fit.taug, origin_h, since_h, usual)).sum(0)
    if meals:
        hours = usual.new_tensor([meal.hour for meal in meals])
        size = usual.new_tensor([meal.size for meal in meals])
        apart = (hours[:, None] - usual + 12.0).remainder(24.0) - 12.0
        total = total + (
            (size * gain[apart.abs().argmin(1)])[:, None] * _later_responses(fit.taug, origin_h, since_h, hours)
        ).sum(0)
    return back(scale * total)


def _later_responses(taug: Tensor, origin_h: float, since_h: Tensor, hours: Tensor) -> Tensor:
    """K of each meal's daily occurrences after the origin, (M, T), of which each acts as long as in `cma.periodic`."""
    delay = 24.0 - (origin_h - hours).remainder(24.0)  # (0, 24]: a meal at the origin belongs to the past
    ago = since_h - delay[:, None]
    days = (ago / 24.0).floor()
    responses = (
        torch.where(days >= day, cma.meal_response(cma.log_since(ago - 24.0 * (days - day)), taug), 0.0)
        for day in range(cma.MEAL_DAYS)
    )
    return sum(responses)
