"""Fitting the CMA model to glucose in mg/dL: batched, bounded, several starts, optional priors.

Observation model: glucose = offset + gain * G(t), G the periodic day of `cma.periodic`, gain >= 0. Offset and gain are
linear, so they are solved in closed form for every trial value of the six parameters (variable projection).

Two limits keep out responses that no reading has seen (else a spike between two readings, and a huge gain, fit anything):
a response lasts at least one sampling interval at half its height, which for 5-minute data means taug >= 0.30, above the
model's own bound of 0.1; and the gain is at most 1.3 times the range of the data, more than a sampled meal can need.

Objective, minimised over theta = (d, taup, taug, B, Cm, toff) inside the bounds:

    F(theta) = n ln R(theta) + prior_weight * sum_k ((theta_k - mean_k) / sd_k)^2

R is the weighted residual sum of squares over that of the weighted mean. The logarithm comes from profiling the noise
variance out: fits don't depend on the unit of glucose, nor the prior's strength on the noise. Residuals of a daily curve
are correlated over about two hours, so n is not the number of readings but that of 2-hour cells of the day which hold any:
12 for a full day. Without priors F orders parameters as least squares does.

The model depends on the hour of day alone. So least squares over many days equals the fit of the mean daily profile,
weighted by its counts, up to a constant of the sum of squares: see `day_profile`.

Shape legend: S fits, R rows (fits x starts), T times, M meals, P = 6 parameters. All float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from raycadian.config import Prior
from raycadian.physiology import cma

MIN_POINTS = 12  # fewer can't carry eight unknowns
CELL_H = 2.0  # residuals of a daily curve are correlated over about this long

_CHUNK = 64  # fits at once: large enough to hide the cost of a call, small enough for the cache
_COARSE_BINS = 96  # starts are screened and compared on 15-minute means
_COARSE_STEPS, _STEPS = 12, 60
_MOVED = 1e-11  # of a parameter's range: converged
_FLAT = 1e-14  # variance of a G that doesn't vary
_WIDTH = (math.exp(math.sqrt(math.log(2.0))) - math.exp(-math.sqrt(math.log(2.0)))) / 2.0  # of K at half its height
_GAIN_PER_RANGE = 1.3  # a meal's peak raises G by 1.3 / (1 + I_E), and I_E < 0.69 in the bounds: by 1 / 1.3 at least

# Where starts are looked for. Cm = 0 is left out: G has no slope in Cm or toff there, and no search leaves it.
_GRID = {
    "d": (-10.0, -6.0, -2.5, 0.5, 3.5, 7.5, 11.5), "taup": (0.8, 1.8), "taug": (0.3, 0.5, 0.8, 1.1, 1.4, 1.8, 2.3, 2.8),
    "B": (0.03, 0.12, 0.4, 1.0), "Cm": (0.15, 0.4, 0.65, 0.9, 1.15, 1.4, 1.65, 1.9), "toff": (-2.5, -1.25, 0.0, 1.25, 2.5),
}  # fmt: skip
MAX_STARTS = len(_GRID["Cm"]) * len(_GRID["toff"])


# --- what a caller sees ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CMAFit:
    """S fitted people (or days). Parameters are NaN where `ok` is False, and `reason` says why.

    d, taup, taug, B, Cm, toff, offset_mgdl, gain_mgdl, rmse_mgdl (weighted) (S,) · tM (S, M) h · n_points (S,) int ·
    at_bound (S, P) bool, in the order of cma.PARAMETERS, at a bound of the fit · ok (S,) bool · reason: one text a fit, empty where ok.
    """

    d: Tensor
    taup: Tensor
    taug: Tensor
    B: Tensor
    Cm: Tensor
    toff: Tensor
    tM: Tensor
    offset_mgdl: Tensor
    gain_mgdl: Tensor
    rmse_mgdl: Tensor
    n_points: Tensor
    at_bound: Tensor
    ok: Tensor
    reason: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ok)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> "CMAFit":
        """Some of the fits, in the order asked; an integer gives a CMAFit of one. Raises IndexError."""
        rows = torch.arange(len(self), device=self.ok.device)[index].reshape(-1)
        tensors = {name: getattr(self, name)[rows] for name in _TENSORS}
        return CMAFit(**tensors, reason=tuple(self.reason[i] for i in rows.tolist()))

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The six parameters, (S,) each, as `cma.periodic` takes them."""
        return {name: getattr(self, name) for name in cma.PARAMETERS}

    def signals(self, t_h: Tensor) -> dict[str, Tensor]:
        """`cma.periodic` at local hours t_h (S, T) or (T,): L, m, c, a, I_S, I_E, G (S, T) and g (S, M, T), without unit."""
        return cma.periodic(t_h.to(self.d), **self.parameters, tM=self.tM)

    def glucose_mgdl(self, t_h: Tensor) -> Tensor:
        """The fitted curve, offset + gain * G, (S, T) mg/dL at local hours t_h (S, T) or (T,); 24 h periodic."""
        return self.offset_mgdl[:, None] + self.gain_mgdl[:, None] * self.signals(t_h)["G"]

    def to_records(self) -> list[dict[str, Any]]:
        """One JSON-able mapping a fit; floats keep every bit. NaN becomes None; `at_bound` names the parameters."""
        columns = {name: getattr(self, name).tolist() for name in _TENSORS}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return [
            {name: _json(value) for name, value in row.items()}
            | {"at_bound": [p for p, at in zip(cma.PARAMETERS, row["at_bound"], strict=True) if at], "reason": reason}
            for row, reason in zip(rows, self.reason, strict=True)
        ]

    @classmethod
    def from_records(cls, records: Sequence[Mapping[str, Any]]) -> "CMAFit":
        """The inverse of `to_records`; other keys are left alone. Raises ValueError where a key lacks or meals differ."""
        missing = sorted({name for r in records for name in (*_TENSORS, "reason") if name not in r})
        if missing or not records:
            raise ValueError(f"not records of CMA fits: {len(records)} found, lacking {missing}")
        if len({len(r["tM"]) for r in records}) > 1:
            raise ValueError("the records differ in their number of meals: they can't be one CMAFit")
        bound = [[name in r["at_bound"] for name in cma.PARAMETERS] for r in records]
        kinds = {"n_points": torch.int64, "ok": torch.bool}
        tensors = {
            name: torch.tensor([_number(r[name]) for r in records], dtype=kinds.get(name, torch.float64))
            for name in _TENSORS if name != "at_bound"
        }  # fmt: skip
        return cls(**tensors, at_bound=torch.tensor(bound), reason=tuple(r["reason"] for r in records))


_TENSORS = (
    *cma.PARAMETERS, "tM", "offset_mgdl", "gain_mgdl", "rmse_mgdl", "n_points", "at_bound", "ok",
)  # fmt: skip


def _json(value: Any) -> Any:
    if isinstance(value, list):
        return [_json(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _number(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_number(v) for v in value]
    return math.nan if value is None else value


class DayProfile(NamedTuple):
    """Mean glucose by time of day, (T,): mean hour of the readings in a bin, their mean (NaN where none), their number."""

    t_h: Tensor
    glucose_mgdl: Tensor
    count: Tensor


def day_profile(local_h: Tensor | np.ndarray, glucose_mgdl: Tensor | np.ndarray, dt_min: float = 5.0) -> DayProfile:
    """Readings (N,) of one person at local hours, any number of days, as one daily profile of T = 24 h / dt points.

    For readings on the grid the residual sum of squares of any daily curve f splits into
    sum_i (y_i - f(t_i))^2 = sum_b count_b (mean_b - f(t_b))^2 + (scatter within bins, which no curve can change):
    fit the profile with `weight=count` in place of all the readings. NaN readings don't count.
    Raises ValueError unless dt divides the day and the shapes agree.
    """
    bins = round(24 * 60 / dt_min)
    if bins < 1 or not math.isclose(bins * dt_min, 24 * 60):
        raise ValueError(f"dt_min must divide a day of 1440 minutes, found {dt_min}")
    glucose = torch.as_tensor(glucose_mgdl, dtype=torch.float64)
    hour = cma.clock(torch.as_tensor(local_h, dtype=torch.float64))
    if hour.shape != glucose.shape or hour.ndim != 1:
        raise ValueError(
            f"expected hours and glucose of one shape (N,); found {tuple(hour.shape)} and {tuple(glucose.shape)}"
        )
    seen = ~glucose.isnan()
    means = _binned(hour[seen][None], glucose[seen][None], torch.ones_like(hour[seen])[None], bins)
    hour, glucose, count = (value[0] for value in means)
    return DayProfile(hour, torch.where(count > 0, glucose, torch.nan), count)


def fit_cma(
    t_h: Tensor,
    glucose_mgdl: Tensor,
    *,
    weight: Tensor | None = None,
    tM: Tensor,
    prior: Prior | None = None,
    prior_weight: float = 1.0,
    starts: int = 4,
) -> CMAFit:
    """Fit S daily curves at once. Deterministic: equal input gives equal bits on one machine.

    t_h (S, T) or (T,) local hours: one day, or a `day_profile`; glucose_mgdl (S, T), NaN = missing; weight (S, T), the
    number of readings behind a point (1 unless given); tM (S, M) or (M,) meal times in hours (meals.meal_times).
    `starts` points, the best of a screened grid, are improved by a bounded Newton-like search; the best of them is
    carried to convergence. The bounds are cma.BOUNDS, but for taug as said above, and hold exactly.

    A series that can't be fitted (fewer than MIN_POINTS points, constant, meal times unknown) doesn't stop the others:
    its `ok` is False and its `reason` says why. Raises ValueError for shapes that differ, for times, weights or glucose
    that are infinite, and for negative weights. Small arrays gain nothing from threads: OMP_NUM_THREADS=1 is best.
    """
    t_h, glucose, weight, tM = _checked(t_h, glucose_mgdl, weight, tM, starts, prior_weight)
    reason = _reasons(glucose, weight > 0, tM)
    ok = torch.tensor([not text for text in reason], device=t_h.device)
    mean, precision = _moments(prior, prior_weight, t_h)
    rows = ok.nonzero()[:, 0]
    parts = [
        _fit_chunk(t_h[i], glucose[i], weight[i], tM[i], mean, precision, starts) for i in rows.split(_CHUNK) if len(i)
    ]
    found = t_h.new_full((len(t_h), len(cma.PARAMETERS) + 3), torch.nan)
    if parts:
        found[rows] = torch.cat(parts)
    *parameters, offset, gain, rmse = found.unbind(1)
    lower, upper = _bounds(t_h, weight > 0)
    theta = found[:, : len(cma.PARAMETERS)]
    return CMAFit(
        *parameters, tM=tM, offset_mgdl=offset, gain_mgdl=gain, rmse_mgdl=rmse, n_points=(weight > 0).sum(1),
        at_bound=(theta == lower) | (theta == upper), ok=ok, reason=reason,
    )  # fmt: skip


# --- input ----------------------------------------------------------------------------------------------------------


def _checked(t_h, glucose, weight, tM, starts: int, prior_weight: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Float64 t_h, glucose, weight (S, T; weight 0 where glucose is missing) and tM (S, M). Raises ValueError."""
    if not 1 <= starts <= MAX_STARTS or not 0 <= prior_weight < math.inf:
        raise ValueError(f"expected 1 to {MAX_STARTS} starts and prior_weight >= 0, found {starts} and {prior_weight}")
    glucose = torch.as_tensor(glucose).double()
    if glucose.ndim != 2:
        raise ValueError(f"glucose_mgdl is (S, T), one row a fit; found {tuple(glucose.shape)}")
    weight = torch.ones_like(glucose) if weight is None else torch.as_tensor(weight).to(glucose)
    t_h, tM = torch.as_tensor(t_h).to(glucose), torch.as_tensor(tM).to(glucose)
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


def _reasons(glucose: Tensor, seen: Tensor, tM: Tensor) -> tuple[str, ...]:
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


def _moments(prior: Prior | None, weight: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and precision (P,) of the prior; precision 0 where there is none, 1e12 (the parameter is fixed) at most."""
    found = [getattr(prior, name, None) for name in cma.PARAMETERS]
    mean = [p.mean if p else 0.0 for p in found]
    precision = [weight / max(p.sd, 1e-6) ** 2 if p else 0.0 for p in found]
    return like.new_tensor(mean), like.new_tensor(precision)


def _bounds(hour: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds, (S, P) each: the model's, and taug such that a response lasts a sampling interval."""
    both = hour.new_tensor([cma.BOUNDS[name] for name in cma.PARAMETERS]).expand(len(hour), -1, 2)
    lower, upper = both[:, :, 0].clone(), both[:, :, 1]
    gap_h = torch.where(seen, hour, torch.nan).sort(dim=1).values.diff(dim=1)
    gap_h = torch.where(gap_h > 1e-6, gap_h, torch.nan).nanmedian(dim=1).values.nan_to_num(0.0)
    shortest = (gap_h / _WIDTH).sqrt().clamp(max=cma.DEFAULTS["taug"])  # sparse data keep the usual response
    taug = cma.PARAMETERS.index("taug")
    lower[:, taug] = torch.maximum(lower[:, taug], shortest)
    return lower, upper


# --- one chunk ------------------------------------------------------------------------------------------------------


class _Data(NamedTuple):
    """R standardised curves. hour, y (mean 0, variance 1 under w), w (sums to 1) (R, T), y and w 0 where missing ·
    log_since (R, M * MEAL_DAYS, T) · n (R,) independent values · gain_max (R,) · bounds lower, upper, and mean and
    precision of the prior (R, P)."""

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
    def meals(self) -> int:
        return self.log_since.shape[1] // cma.MEAL_DAYS


Rows = TypeVar("Rows", bound=NamedTuple)


def _rows(value: Rows, index: Tensor) -> Rows:
    return type(value)(*(part[index] for part in value))


def _fit_chunk(t_h, glucose, weight, tM, mean, precision, starts: int) -> Tensor:
    """(S, P + 3): parameters, offset, gain and RMSE in mg/dL."""
    w = weight / weight.sum(1, keepdim=True)
    centre = (w * glucose.nan_to_num(0.0)).sum(1, keepdim=True)
    y = torch.where(w > 0, glucose - centre, 0.0)
    scale = (w * y.square()).sum(1, keepdim=True).sqrt()
    data = _standardised(t_h, y / scale, w, tM, mean, precision)
    theta, _ = _improve(data, _best_start(data, tM, starts), _STEPS)
    G = cma.periodic(t_h, **dict(zip(cma.PARAMETERS, theta.unbind(1), strict=True)), tM=tM)["G"]
    G_mean = (w * G).sum(1, keepdim=True)
    away = G - G_mean
    sums = ((w * u * v).sum(1) for u, v in ((away, away), (away, data.y), (data.y, data.y)))
    gain, rss, _ = _solve_gain(*sums, data.gain_max)
    linear = torch.stack([-gain * G_mean[:, 0], gain, rss.sqrt()], 1) * scale
    linear[:, 0] += centre[:, 0]
    return torch.cat([theta, linear], 1)


def _best_start(data: _Data, tM: Tensor, starts: int) -> Tensor:
    """(S, P): the best of several starts, screened and improved on 15-minute means."""
    hour, y, w = _binned(data.hour, data.y, data.w, _COARSE_BINS)
    coarse = data._replace(hour=hour, y=y, w=w, log_since=_log_since(hour, tM))
    theta = _screened(coarse, starts)
    several = _rows(coarse, torch.arange(len(tM), device=tM.device).repeat_interleave(starts))
    theta = torch.minimum(torch.maximum(theta.flatten(0, 1), several.lower), several.upper)
    theta, F = _improve(several, theta, _COARSE_STEPS)
    best = F.view(-1, starts).argmin(1, keepdim=True)
    return theta.view(-1, starts, theta.shape[1]).take_along_dim(best[:, :, None], 1)[:, 0]


def _standardised(hour, y, w, tM, mean, precision) -> _Data:
    seen = w > 0
    cells = w.new_zeros(len(w), round(24 / CELL_H))
    n = (cells.scatter_add(1, (hour / CELL_H).long().clamp(max=cells.shape[1] - 1), w) > 0).sum(1).to(w)
    span = torch.where(seen, y, -torch.inf).amax(1) - torch.where(seen, y, torch.inf).amin(1)
    every = (value.expand(len(w), -1) for value in (mean, precision))
    return _Data(hour, y, w, _log_since(hour, tM), n, span * _GAIN_PER_RANGE, *_bounds(hour, seen), *every)


def _log_since(hour: Tensor, tM: Tensor) -> Tensor:
    """(R, M * MEAL_DAYS, T)."""
    return torch.cat(cma.periodic_log_since(hour[:, None], tM[:, :, None]), 1)


def _binned(hour: Tensor, y: Tensor, w: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted mean hour and y, and sum of w, in each bin of the day, (R, bins). Empty: middle of the bin, 0, 0."""
    index = (hour * (bins / 24.0) + 1e-6).long().clamp(max=bins - 1)  # a reading on an edge begins its bin
    hour_sum, y_sum, total = (w.new_zeros(len(w), bins).scatter_add(1, index, v) for v in (w * hour, w * y, w))
    middle = (torch.arange(bins, dtype=w.dtype, device=w.device) + 0.5) * (24.0 / bins)
    safe = torch.where(total > 0, total, 1.0)
    return torch.where(total > 0, hour_sum / safe, middle), y_sum / safe, total


# --- the objective and its derivatives ------------------------------------------------------------------------------


class _Search(NamedTuple):
    """Where each row stands: theta (R, P), F (R,), half of F's gradient (R, P), half its Gauss-Newton Hessian (R, P, P);
    and what the search has learnt: the correction of that Hessian (R, P, P), damping (R,)."""

    theta: Tensor
    F: Tensor
    gradient: Tensor
    hessian: Tensor
    correction: Tensor
    damping: Tensor


def _columns(data: _Data, theta: Tensor) -> Tensor:
    """(R, 3 + P, T): the constant, y, G and dG/dtheta, each times sqrt(w)."""
    d, taup, taug, B, Cm, toff = theta[:, :, None].unbind(1)
    day = cma.circadian(data.hour, d, taup)
    I_d, I_p = cma.insulin_derivatives(data.hour, d, taup, day)
    kernel = cma.meal_response(data.log_since, taug[:, None])
    scale = 1.3 / (1.0 + day["I_E"])
    meals = kernel.sum(1) * scale
    kernel_slope = (kernel * (data.log_since - 2.0 * torch.log(taug[:, None]))).sum(1) * (4.0 / taug)
    by_I = -meals / (1.0 + day["I_E"])
    hour_angle = (data.hour + toff) * (math.pi / 6.0)
    shape = 1.0 + cma.meal_distribution(data.hour, Cm, toff)
    wave = -0.5 * data.meals * B * torch.sin(Cm * hour_angle)  # d cos^2(x) = -sin(2x) dx
    out = torch.stack([
        torch.ones_like(meals), data.y, meals + data.meals * B * shape, by_I * I_d, by_I * I_p, kernel_slope * scale,
        data.meals * shape, wave * hour_angle, wave * (Cm * (math.pi / 6.0)),
    ], dim=1)  # fmt: skip
    return out.mul_(data.w.sqrt()[:, None])


def _evaluate(data: _Data, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """F, half its gradient and Hessian, from inner products of the columns, offset and gain projected out."""
    columns = _columns(data, theta)
    gram = columns @ columns.mT
    gram = gram - gram[:, :, :1] * gram[:, :1, :]  # the offset: every column less its weighted mean
    gain, rss, free = _solve_gain(gram[:, 2, 2], gram[:, 1, 2], gram[:, 1, 1], data.gain_max)
    g, by_G = gain[:, None], gram[:, 3:, 2]
    slope = -g * (gram[:, 3:, 1] - g * by_G)
    projected = (free / gram[:, 2, 2].clamp(min=_FLAT))[:, None, None] * by_G[:, :, None] * by_G[:, None, :]
    curvature = g.square()[:, :, None] * (gram[:, 3:, 3:] - projected)
    strength = (data.n / rss)[:, None]
    away = theta - data.mean
    F = data.n * rss.log() + (data.precision * away.square()).sum(-1)
    hessian = strength[:, :, None] * curvature + torch.diag_embed(data.precision)
    return F, strength * slope + data.precision * away, hessian


def _solve_gain(variance: Tensor, covariance: Tensor, total: Tensor, most: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The least-squares gain in [0, most], the residual sum of squares (kept above rounding), 1 where the gain is free."""
    best = torch.where(variance > _FLAT, covariance / variance.clamp(min=_FLAT), 0.0)
    gain = torch.minimum(best.clamp(min=0.0), most)
    rss = total - 2.0 * gain * covariance + gain.square() * variance
    return gain, rss.clamp(min=1e-12), (gain == best).to(gain)


# --- starts: a grid of six parameters, of which only pairs of shapes need computing -----------------------------------


def _screened(data: _Data, starts: int) -> Tensor:
    """(R, starts, P): the best point of the grid for each of the best pairs (Cm, toff), best first."""
    F, sizes = _grid_objective(data)
    value, inner = F.flatten(1, 4).min(1)  # over d, taup, taug, B: (R, Cm * toff)
    pair = value.argsort(dim=1, stable=True)[:, :starts]
    at = torch.unravel_index(inner.gather(1, pair), sizes[:4]) + torch.unravel_index(pair, sizes[4:])
    return torch.stack([F.new_tensor(grid)[i] for grid, i in zip(_GRID.values(), at, strict=True)], -1)


def _grid_objective(data: _Data) -> tuple[Tensor, tuple[int, ...]]:
    """F on the grid, (R, d, taup, taug, B, Cm * toff), and the grid's sizes.

    G = P(d, taup, taug) + M B (1 + Q(Cm, toff)): inner products of P's, Q's and y give every sum of squares.
    """
    d, taup, taug, B, Cm, toff = (data.y.new_tensor(values) for values in _GRID.values())
    w = data.w[:, None]
    I_E = cma.circadian(data.hour[:, None, None], d[:, None, None], taup[:, None])["I_E"]
    kernel = cma.meal_response(data.log_since[:, None], taug[:, None, None]).sum(2)
    P = _centred((1.3 * kernel[:, None, None] / (1.0 + I_E)[:, :, :, None]).flatten(1, 3), w)
    Q = data.meals * cma.meal_distribution(data.hour[:, None, None], Cm[:, None, None], toff[:, None])
    Q = _centred(Q.flatten(1, 2), w)
    P_y, Q_y = (P @ (w.mT * data.y[..., None])), (Q @ (w.mT * data.y[..., None]))
    P_P, Q_Q = (P.square() @ w.mT), (Q.square() @ w.mT)
    P_Q = (P * w) @ Q.mT
    B = B[:, None]
    variance = P_P[:, :, None] + 2.0 * B * P_Q[:, :, None] + B.square() * Q_Q.mT[:, None]
    covariance = P_y[:, :, None] + B * Q_y.mT[:, None]
    _, rss, _ = _solve_gain(variance, covariance, variance.new_ones(()), data.gain_max[:, None, None, None])
    sizes = tuple(len(values) for values in _GRID.values())
    F = (data.n[:, None, None, None] * rss.log()).view(-1, *sizes)
    for k, values in enumerate((d, taup, taug, B[:, 0], Cm, toff)):
        penalty = data.precision[:, k, None] * (values - data.mean[:, k, None]).square()
        F = F + penalty.view(-1, *(sizes[k] if i == k else 1 for i in range(len(sizes))))
    return F.flatten(5, 6), sizes


def _centred(shape: Tensor, w: Tensor) -> Tensor:
    return shape - (shape @ w.mT)


# --- the search -------------------------------------------------------------------------------------------------------


def _improve(data: _Data, theta: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """theta (R, P) after at most `steps` steps of every row, and F (R,). Rows that have converged drop out."""
    F, gradient, hessian = _evaluate(data, theta)
    search = _Search(theta, F, gradient, hessian, torch.zeros_like(hessian), torch.full_like(F, 0.3))
    theta, F, row = theta.clone(), F.clone(), torch.arange(len(theta), device=theta.device)
    for _ in range(steps):
        search, moving = _advance(data, search)
        theta[row], F[row] = search.theta, search.F
        if not moving.all():
            keep = moving.nonzero()[:, 0]
            data, search, row = _rows(data, keep), _rows(search, keep), row[keep]
        if not len(row):
            break
    return theta, F


def _advance(data: _Data, search: _Search) -> tuple[_Search, Tensor]:
    """One bounded, damped Newton step of every row, kept where F falls; and which rows still move.

    Gauss-Newton alone crawls here, for residuals are large: a symmetric rank-one secant correction supplies the second
    derivatives of G (as in NL2SOL: Dennis, Gay and Welsch 1981), absolute eigenvalues keep the step downhill.
    """
    theta = _step(data, search)
    trial = (theta, *_evaluate(data, theta))
    better = trial[1] < search.F + 1e-12  # at the end F is rounding while the gradient is still exact
    kept = (
        torch.where(better.view(-1, *(1,) * (new.ndim - 1)), new, old) for new, old in zip(trial, search, strict=False)
    )
    damping = torch.where(better, 0.2 * search.damping, 5.0 * search.damping).clamp(1e-12, 1e12)
    moving = ((theta - search.theta) / (data.upper - data.lower)).abs().amax(1) > _MOVED
    return _Search(*kept, _secant(search, theta, *trial[2:]), damping), moving


def _step(data: _Data, search: _Search) -> Tensor:
    """The next theta, (R, P). A parameter at a bound that its gradient pushes against stays there."""
    theta, g = search.theta, search.gradient
    free = ~(((theta <= data.lower) & (g > 0)) | ((theta >= data.upper) & (g < 0)))
    flat = 1e-9 / (data.upper - data.lower).square()  # for a direction without any slope, such as toff at Cm = 0
    unit = torch.where(free, (search.hessian.diagonal(dim1=-2, dim2=-1) + flat).rsqrt(), 0.0)
    scaled = (search.hessian + search.correction) * unit[:, :, None] * unit[:, None, :] + torch.diag_embed(
        (~free).to(unit)
    )
    value, vector = torch.linalg.eigh(scaled)
    along = (vector.mT @ (g * unit)[..., None])[..., 0] / (value.abs().clamp(min=1e-8) + search.damping[:, None])
    step = -(vector @ along[..., None])[..., 0] * unit
    return torch.minimum(torch.maximum(theta + step, data.lower), data.upper)


def _secant(search: _Search, theta: Tensor, gradient: Tensor, hessian: Tensor) -> Tensor:
    """The rank-one update that makes Hessian + correction map this step to this change of gradient."""
    step = (theta - search.theta)[..., None]
    missing = (gradient - search.gradient)[..., None] - (hessian + search.correction) @ step
    scale = (missing * step).sum(1, keepdim=True)
    sound = scale.abs() > 1e-8 * missing.norm(dim=1, keepdim=True) * step.norm(dim=1, keepdim=True)
    update = missing @ missing.mT / torch.where(sound, scale, 1.0)
    sound = sound & update.isfinite().all(2, keepdim=True).all(1, keepdim=True)
    return search.correction + torch.where(sound, update, 0.0)
