"""What is fitted, made ready: checked input, reasons why a series can't be fitted, prior, bounds, standardised curves.

Shape legend as in fit.py.
"""

import math
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from raycadian.config import Prior
from raycadian.physiology.cma import equations as cma

MIN_POINTS = 12  # fewer can't carry eight unknowns
CELL_H = 2.0  # residuals of a daily curve are correlated over about this long
_WIDTH = (math.exp(math.sqrt(math.log(2.0))) - math.exp(-math.sqrt(math.log(2.0)))) / 2.0  # of K at half its height
_GAIN_PER_RANGE = 1.3  # a meal's peak raises G by 1.3 / (1 + I_E), and I_E < 0.69 in the bounds: by 1 / 1.3 at least


def checked(glucose: Tensor, t_h: Tensor, weight: Tensor | None, tM: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Float64 t_h, glucose, weight (S, T; weight 0 where glucose is missing) and tM (S, M). Raises ValueError."""
    glucose = glucose.double()
    if glucose.ndim != 2:
        raise ValueError(f"glucose_mgdl is (S, T), one row a fit; found {tuple(glucose.shape)}")
    weight = torch.ones_like(glucose) if weight is None else weight.to(glucose)
    t_h, tM = t_h.to(glucose), tM.to(glucose)
    if t_h.shape not in (glucose.shape, glucose.shape[1:]) or weight.shape != glucose.shape:
        raise ValueError(
            f"t_h {tuple(t_h.shape)} and weight {tuple(weight.shape)} don't fit glucose_mgdl {tuple(glucose.shape)}"
        )
    if tM.ndim not in (1, 2) or (tM.ndim == 2 and len(tM) != len(glucose)) or tM.shape[-1] < 1:
        raise ValueError(f"tM is ({len(glucose)}, M) or (M,), at least one meal; found {tuple(tM.shape)}")
    for name, bad in (
        ("t_h", ~t_h.isfinite()), ("glucose_mgdl", glucose.isinf()), ("weight", ~(weight.isfinite() & (weight >= 0))),
    ):  # fmt: skip
        if bad.any():
            where = tuple(bad.nonzero()[0].tolist())
            raise ValueError(
                f"{name} has {int(bad.sum())} values that are not finite or negative, the first at {where}"
            )
    weight = torch.where(glucose.isnan(), 0.0, weight)
    return cma.clock(t_h).expand_as(glucose), glucose, weight, tM.expand(len(glucose), -1)


def reasons_not_fitted(glucose: Tensor, seen: Tensor, tM: Tensor) -> tuple[str, ...]:
    """Why each series can't be fitted; empty where it can."""
    n = seen.sum(1)
    high, low = torch.where(seen, glucose, -torch.inf).amax(1), torch.where(seen, glucose, torch.inf).amin(1)
    constant = high - low <= 1e-9 * torch.maximum(high.abs(), low.abs())
    few, timeless = n < MIN_POINTS, ~tM.isfinite().all(1)
    reasons = [""] * len(n)
    for i in (few | constant | timeless).nonzero()[:, 0].tolist():
        if few[i]:
            reasons[i] = f"{int(n[i])} points; at least {MIN_POINTS} are needed" if n[i] else "all missing"
        elif constant[i]:
            reasons[i] = f"constant at {high[i].item():g} mg/dL"
        else:
            reasons[i] = "meal times unknown: too few 2-hour bins of the day hold readings"
    return tuple(reasons)


def prior_moments(prior: Prior | None, weight: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and precision (P,) of the prior; precision 0 where there is none, 1e12 (the parameter is fixed) at most."""
    normals = [getattr(prior, name, None) for name in cma.PARAMETERS]
    mean = [p.mean if p else 0.0 for p in normals]
    precision = [weight / max(p.sd, 1e-6) ** 2 if p else 0.0 for p in normals]
    return like.new_tensor(mean), like.new_tensor(precision)


def bounds(hour: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds, (S, P) each: the model's, and taug such that a response lasts a sampling interval."""
    both = hour.new_tensor([cma.BOUNDS[name] for name in cma.PARAMETERS]).expand(len(hour), -1, 2)
    lower, upper = both[:, :, 0].clone(), both[:, :, 1]
    gap_h = torch.where(seen, hour, torch.nan).sort(dim=1).values.diff(dim=1)
    gap_h = torch.where(gap_h > 1e-6, gap_h, torch.nan).nanmedian(dim=1).values.nan_to_num(0.0)
    shortest = (gap_h / _WIDTH).sqrt().clamp(max=cma.DEFAULTS["taug"])  # sparse data keep the usual response
    taug = cma.PARAMETERS.index("taug")
    lower[:, taug] = torch.maximum(lower[:, taug], shortest)
    return lower, upper


class Problem(NamedTuple):
    """R standardised curves. hour, y (mean 0, variance 1 under w), w (sums to 1) (R, T), y and w 0 where missing ·
    log_since (R, J, K, T): J gains, each of K meals and days · n (R,) independent values · gain_max (R,) · bounds
    lower, upper, and mean and precision of the prior (R, P)."""

    hour: Tensor
    y: Tensor
    w: Tensor
    log_since: Tensor
    n: Tensor
    gain_max: Tensor
    lower: Tensor
    upper: Tensor
    mean: Tensor
    precision: Tensor

    @property
    def gains(self) -> int:
        return self.log_since.shape[1]

    @property
    def meals(self) -> int:
        """Meals of a gain: how often it counts the baseline."""
        return self.log_since.shape[2] // cma.MEAL_DAYS


Rows = TypeVar("Rows", bound=NamedTuple)


def take_rows(value: Rows, index: Tensor) -> Rows:
    return type(value)(*(part[index] for part in value))


def standardised(hour, y, w, tM, mean, precision, gains: int = 1) -> Problem:
    seen = w > 0
    cells = w.new_zeros(len(w), round(24 / CELL_H))
    n = (cells.scatter_add(1, (hour / CELL_H).long().clamp(max=cells.shape[1] - 1), w) > 0).sum(1).to(w)
    span = torch.where(seen, y, -torch.inf).amax(1) - torch.where(seen, y, torch.inf).amin(1)
    every = (value.expand(len(w), -1) for value in (mean, precision))
    return Problem(hour, y, w, log_since_meals(hour, tM, gains), n, span * _GAIN_PER_RANGE, *bounds(hour, seen), *every)


def log_since_meals(hour: Tensor, tM: Tensor, gains: int) -> Tensor:
    """(R, J, K, T): the meals of each of J gains, and of the days before."""
    days = torch.stack(cma.periodic_log_since(hour[:, None], tM[:, :, None]), 2)  # (R, M, MEAL_DAYS, T)
    return days.view(len(hour), gains, -1, hour.shape[1])
