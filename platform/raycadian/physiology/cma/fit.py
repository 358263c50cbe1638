"""Fitting the CMA model to glucose in mg/dL: batched, bounded, several starts, optional priors.

Observation model: glucose = offset + sum_i gain_i * g_i(t), g_i the share of meal i in the periodic day of `cma.periodic`,
gain_i >= 0: one gain for all meals (offset + gain * G), or one a meal. B is in every g_i, so a gain scales its meal's
part of the baseline too. Offset and gains are linear, so they are solved in closed form for every trial value of the six
parameters (variable projection, Golub and Pereyra 1973; its Hessian without the projector's second derivatives, as
Kaufman 1975).

Two limits keep out responses that no reading has seen (else a spike between two readings, and a huge gain, fit anything):
a response lasts at least one sampling interval at half its height, which for 5-minute data means taug >= 0.30, above the
model's own bound of 0.1; and a gain is at most 1.3 times the range of the data, more than a sampled meal can need.

Objective, minimised over theta = (d, taup, taug, B, Cm, toff) inside the bounds:

    F(theta) = n ln R(theta) + prior_weight * sum_k ((theta_k - mean_k) / sd_k)^2

R is the weighted residual sum of squares over that of the weighted mean. The logarithm comes from profiling the noise
variance out: fits don't depend on the unit of glucose, nor the prior's strength on the noise. Residuals of a daily curve
are correlated over about two hours, so n is not the number of readings but that of 2-hour cells of the day which hold any:
12 for a full day. Without priors F orders parameters as least squares does.

The model depends on the hour of day alone. So least squares over many days equals the fit of the mean daily profile,
weighted by its counts, up to a constant of the sum of squares: see `day_profile`.

Uncertainty: F is -2 ln of the posterior (gains, offset and the noise's variance profiled out), so half its Hessian at
the optimum is the posterior's precision (Laplace; Gauss-Newton's Hessian, the usual one for least squares). See `_spread`.

Shape legend: S fits, R rows (fits x starts), T times, M meals, J gains (1 or M), P = 6 parameters. float64, but for the
search of a start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from raycadian.config import Prior
from raycadian.physiology.cma import equations as cma

MIN_POINTS = 12  # fewer can't carry eight unknowns
CELL_H = 2.0  # residuals of a daily curve are correlated over about this long

_SCREENED = 16  # fits whose starts are screened at once: a grid of them fits into the cache
_CHUNK = 256  # fits at once: enough to hide the cost of a call; they take about 100 MB
_COARSE_BINS = 96  # starts are screened and compared on 15-minute means
_HALF_STEPS, _STEPS = 8, 60  # after so many steps half of the starts are left, after as many again one
_COARSE_MOVED, _MOVED = 1e-4, 1e-9  # of a parameter's range: converged
_RESUMED = 1e-3  # damping where the search on all points takes over from the coarse one
_SWEEPS = 50  # over the gains; one or two are needed
_INFORMED = 0.9  # a posterior sd of less than this share of the prior's: the data say something
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

    d, taup, taug, B, Cm, toff, offset_mgdl, rmse_mgdl (weighted) (S,) · gain_mgdl (S, M), all equal where one gain was
    fitted · tM (S, M) h · n_points (S,) int · ok (S,) bool · reason: one text a fit, empty where ok.
    In the order of cma.PARAMETERS: at_bound (S, P) bool, at a bound of the fit · sd (S, P) of the posterior (Laplace),
    NaN at a bound, where the posterior is one-sided · informed (S, P) bool: sd below 0.9 of the prior's, so the data say something.
    sd_offset_mgdl (S,), sd_gain_mgdl (S, M), NaN for a gain at a bound · condition (S,): of the posterior's precision scaled
    to a unit diagonal, over the parameters inside their bounds, offset and gains; large where they stand in for one another.
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
    sd: Tensor
    sd_offset_mgdl: Tensor
    sd_gain_mgdl: Tensor
    condition: Tensor
    informed: Tensor
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
        """The fitted curve, offset + sum_i gain_i g_i, (S, T) mg/dL at local hours t_h (S, T) or (T,); 24 h periodic."""
        return self.offset_mgdl[:, None] + (self.gain_mgdl[:, :, None] * self.signals(t_h)["g"]).sum(1)

    def to_records(self) -> list[dict[str, Any]]:
        """One JSON-able mapping a fit; floats keep every bit. NaN becomes None; `at_bound` and `informed` name the
        parameters; `sd_d` and so on are their standard deviations."""
        columns = {name: getattr(self, name).tolist() for name in _TENSORS}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return [_record(row) | {"reason": reason} for row, reason in zip(rows, self.reason, strict=True)]

    @classmethod
    def from_records(cls, records: Sequence[Mapping[str, Any]]) -> "CMAFit":
        """The inverse of `to_records`; other keys are left alone. Records of before there were uncertainties have NaN
        there, and one gain. Raises ValueError where a key lacks or meals differ."""
        missing = sorted({name for r in records for name in (*_NEEDED, "reason") if name not in r})
        if missing or not records:
            raise ValueError(f"not records of CMA fits: {len(records)} found, lacking {missing}")
        if len({len(r["tM"]) for r in records}) > 1:
            raise ValueError("the records differ in their number of meals: they can't be one CMAFit")
        rows = [_row(r) for r in records]
        kinds = {"n_points": torch.int64} | dict.fromkeys(("ok", "at_bound", "informed"), torch.bool)
        tensors = {
            name: torch.tensor([row[name] for row in rows], dtype=kinds.get(name, torch.float64)) for name in _TENSORS
        }
        return cls(**tensors, reason=tuple(r["reason"] for r in records))


_NEEDED = (*cma.PARAMETERS, "tM", "offset_mgdl", "gain_mgdl", "rmse_mgdl", "n_points", "at_bound", "ok")
_TENSORS = (*_NEEDED, "sd", "sd_offset_mgdl", "sd_gain_mgdl", "condition", "informed")


def _record(row: dict[str, Any]) -> dict[str, Any]:
    """One fit's values by `_TENSORS`, in words and without NaN."""
    sd = dict(zip((f"sd_{name}" for name in cma.PARAMETERS), row["sd"], strict=True))
    named = {key: [p for p, at in zip(cma.PARAMETERS, row[key], strict=True) if at] for key in ("at_bound", "informed")}
    plain = {name: value for name, value in row.items() if name != "sd"}
    return {name: _json(value) for name, value in (plain | sd | named).items()}


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_record`."""
    unknown = [math.nan] * len(record["tM"])
    gain = record["gain_mgdl"]
    row = {"sd_gain_mgdl": unknown, "sd_offset_mgdl": None, "condition": None, "informed": ()} | dict(record)
    row["gain_mgdl"] = gain if isinstance(gain, list | tuple) else [gain] * len(unknown)
    row["sd"] = [record.get(f"sd_{name}") for name in cma.PARAMETERS]
    row |= {key: [name in row[key] for name in cma.PARAMETERS] for key in ("at_bound", "informed")}
    return {name: _number(row[name]) for name in _TENSORS}


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
    gains: Literal["one", "per_meal"] = "one",
) -> CMAFit:
    """Fit S daily curves at once. Deterministic: equal input gives equal bits on one machine.

    t_h (S, T) or (T,) local hours: one day, or a `day_profile`; glucose_mgdl (S, T), NaN = missing; weight (S, T), the
    number of readings behind a point (1 unless given); tM (S, M) or (M,) meal times in hours (meals.meal_times).
    `gains`: one for all meals, or one a meal. `starts` points, the best of a screened grid, are improved by a bounded Newton-like search; the best of them is
    carried to convergence. The bounds are cma.BOUNDS, but for taug as said above, and hold exactly.

    A series that can't be fitted (fewer than MIN_POINTS points, constant, meal times unknown) doesn't stop the others:
    its `ok` is False and its `reason` says why. Raises ValueError for shapes that differ, for times, weights or glucose
    that are infinite, and for negative weights. Small arrays gain nothing from threads: OMP_NUM_THREADS=1 is best.
    """
    t_h, glucose, weight, tM = _checked(t_h, glucose_mgdl, weight, tM, starts, prior_weight)
    reason = _reasons(glucose, weight > 0, tM)
    ok = torch.tensor([not text for text in reason], device=t_h.device)
    mean, precision = _moments(prior, prior_weight, t_h)
    J = 1 if gains == "one" else tM.shape[1]
    parts = [
        _fit_chunk(t_h[i], glucose[i], weight[i], tM[i], mean, precision, starts, J)
        for i in ok.nonzero()[:, 0].split(_CHUNK) if len(i)
    ]  # fmt: skip
    return _fits(parts, ok, tM, J, reason, _bounds(t_h, weight > 0), (weight > 0).sum(1))


def _fits(parts: list["_Found"], ok: Tensor, tM: Tensor, J: int, reason, bounds, n_points: Tensor) -> CMAFit:
    """What the chunks found, at the rows that could be fitted."""
    P, M = len(cma.PARAMETERS), tM.shape[1]

    def whole(name: str, columns: int) -> Tensor:
        out = tM.new_full((len(ok), columns), torch.nan)
        if parts:
            out[ok] = torch.cat([getattr(part, name).view(-1, columns) for part in parts]).to(out)
        return out

    theta, sd = whole("theta", P), whole("sd", P + 1 + J)
    return CMAFit(
        *theta.unbind(1), tM=tM, offset_mgdl=whole("offset", 1)[:, 0], gain_mgdl=whole("gain", J).expand(-1, M),
        rmse_mgdl=whole("rmse", 1)[:, 0], n_points=n_points, at_bound=(theta == bounds[0]) | (theta == bounds[1]),
        sd=sd[:, :P], sd_offset_mgdl=sd[:, P], sd_gain_mgdl=sd[:, P + 1 :].expand(-1, M),
        condition=whole("condition", 1)[:, 0], informed=whole("informed", P) == 1, ok=ok, reason=reason,
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
    log_since (R, J, K, T): J gains, each of K meals and days · n (R,) independent values · gain_max (R,) · bounds lower,
    upper, and mean and precision of the prior (R, P)."""

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


def _rows(value: Rows, index: Tensor) -> Rows:
    return type(value)(*(part[index] for part in value))


class _Found(NamedTuple):
    """Of a chunk: parameters (S, P) · offset (S,), gains (S, J), RMSE (S,) in mg/dL · sd (S, P + 1 + J) of parameters,
    offset and gains, NaN at a bound · condition (S,) · informed (S, P) bool."""

    theta: Tensor
    offset: Tensor
    gain: Tensor
    rmse: Tensor
    sd: Tensor
    condition: Tensor
    informed: Tensor


def _fit_chunk(t_h, glucose, weight, tM, mean, precision, starts: int, gains: int) -> _Found:
    w = weight / weight.sum(1, keepdim=True)
    centre = (w * glucose.nan_to_num(0.0)).sum(1, keepdim=True)
    y = torch.where(w > 0, glucose - centre, 0.0)
    scale = (w * y.square()).sum(1, keepdim=True).sqrt()
    data = _standardised(t_h, y / scale, w, tM, mean, precision, gains)
    theta = _improve(data, _best_start(data, tM, starts), _STEPS, _MOVED).theta
    raw = _gram(data, theta)
    solved = _solve_gains(raw - raw[:, :, :1] * raw[:, :1, :], data)
    offset = centre[:, 0] - scale[:, 0] * (solved.gain * raw[:, 0, 2 : 2 + gains]).sum(1)
    sd, condition, informed = _spread(data, theta, raw, solved)
    sd[:, theta.shape[1] :] *= scale
    return _Found(theta, offset, solved.gain * scale, solved.rss.sqrt() * scale[:, 0], sd, condition, informed)


def _best_start(data: _Data, tM: Tensor, starts: int) -> "_Search":
    """The best of several starts for each of S fits, screened and improved on 15-minute means in float32."""
    hour, y, w = _binned(data.hour, data.y, data.w, _COARSE_BINS)
    coarse = data._replace(hour=hour, y=y, w=w, log_since=_log_since(hour, tM, data.gains))
    coarse = _Data(*(part.float() for part in coarse))
    theta = _screened(coarse, starts)
    several = _rows(coarse, _of_each(len(tM), starts, tM.device))
    theta = torch.minimum(torch.maximum(theta.flatten(0, 1), several.lower), several.upper)
    found = _improve(several, _begin(several, theta), _HALF_STEPS, _COARSE_MOVED)
    half = (starts + 1) // 2
    found = _improve(
        _rows(coarse, _of_each(len(tM), half, tM.device)), _best(found, starts, half), _HALF_STEPS, _COARSE_MOVED
    )
    found = _improve(coarse, _best(found, half, 1), _STEPS, _COARSE_MOVED)
    theta = torch.minimum(torch.maximum(found.theta.to(data.y), data.lower), data.upper)
    return _begin(data, theta, found.correction.to(data.y))


def _of_each(fits: int, n: int, device: torch.device) -> Tensor:
    """Numbers of `fits` fits, each n times, (fits * n,)."""
    return torch.arange(fits, device=device).repeat_interleave(n)


def _best(search: "_Search", of: int, n: int) -> "_Search":
    """The best n of every `of` rows of a search."""
    best = search.F.view(-1, of).argsort(dim=1, stable=True)[:, :n]
    first = torch.arange(len(best), device=best.device)[:, None] * of
    return _rows(search, (first + best).flatten())


def _standardised(hour, y, w, tM, mean, precision, gains: int = 1) -> _Data:
    seen = w > 0
    cells = w.new_zeros(len(w), round(24 / CELL_H))
    n = (cells.scatter_add(1, (hour / CELL_H).long().clamp(max=cells.shape[1] - 1), w) > 0).sum(1).to(w)
    span = torch.where(seen, y, -torch.inf).amax(1) - torch.where(seen, y, torch.inf).amin(1)
    every = (value.expand(len(w), -1) for value in (mean, precision))
    return _Data(hour, y, w, _log_since(hour, tM, gains), n, span * _GAIN_PER_RANGE, *_bounds(hour, seen), *every)


def _log_since(hour: Tensor, tM: Tensor, gains: int) -> Tensor:
    """(R, J, K, T): the meals of each of J gains, and of the days before."""
    days = torch.stack(cma.periodic_log_since(hour[:, None], tM[:, :, None]), 2)  # (R, M, MEAL_DAYS, T)
    return days.view(len(hour), gains, -1, hour.shape[1])


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


class _Gains(NamedTuple):
    """Least squares in [0, most]: gain (R, J), residual sum of squares (R,), 1 where a gain is free (R, J)."""

    gain: Tensor
    rss: Tensor
    free: Tensor


def _gram(data: _Data, theta: Tensor) -> Tensor:
    """Weighted inner products (R, 5 + 4 J, 5 + 4 J) of: the constant · y · for each gain its curve G_j, and G_j's slopes
    in d, taup and taug · what B, Cm and toff change in every G_j."""
    d, taup, taug, B, Cm, toff = theta[:, :, None].unbind(1)
    I_E, I_d, I_p = cma.insulin(data.hour, d, taup)
    since = data.log_since - 2.0 * torch.log(taug)[:, None, None]
    kernel = since.square().neg_().exp_()
    scale = (1.3 / (1.0 + I_E))[:, None]
    meals = kernel.sum(2) * scale  # (R, J, T)
    by_taug = kernel.mul_(since).sum(2) * (scale * (4.0 / taug)[:, None])
    by_I = meals * (scale * (-1.0 / 1.3))
    hour_angle = (data.hour + toff) * (math.pi / 6.0)
    shape = data.meals * (1.0 + cma.meal_distribution(data.hour, Cm, toff))
    wave = -0.5 * data.meals * B * torch.sin(Cm * hour_angle)  # d cos^2(x) = -sin(2x) dx
    parts = (
        (torch.ones_like(shape), data.y),
        (meals + (B * shape)[:, None], by_I * I_d[:, None], by_I * I_p[:, None], by_taug),
    )
    rest = (shape, wave * hour_angle, wave * (Cm * (math.pi / 6.0)))
    columns = torch.cat([torch.stack(parts[0], 1), *parts[1], torch.stack(rest, 1)], 1).mul_(data.w.sqrt()[:, None])
    return columns @ columns.mT


def _mix(gain: Tensor) -> Tensor:
    """(R, 5 + 4 J, P): the columns of `_gram` that make the slope of the whole curve, sum_j gain_j G_j, in each parameter."""
    gains, P = gain.shape[1], len(cma.PARAMETERS)
    mix = gain.new_zeros(len(gain), 5 + 4 * gains, P)
    for k in range(3):
        mix[:, 2 + (k + 1) * gains : 2 + (k + 2) * gains, k] = gain
        mix[:, 2 + 4 * gains + k, 3 + k] = gain.sum(1)
    return mix


def _evaluate(data: _Data, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """F, half its gradient and Hessian, from inner products of the columns, offset and gains projected out."""
    gram = _gram(data, theta)
    gram = gram - gram[:, :, :1] * gram[:, :1, :]  # the offset: every column less its weighted mean
    gain, rss, free = _solve_gains(gram, data)
    mix, J = _mix(gain), slice(2, 2 + data.gains)
    slopes = gram @ mix  # of every column with each parameter's, (R, 5 + 4 J, P)
    by_gain = free[:, :, None] * slopes[:, J]
    projected = by_gain.mT @ _solve_free(gram[:, J, J], free, by_gain)
    curvature = mix.mT @ slopes - projected
    slope = (gain[:, :, None] * slopes[:, J]).sum(1) - slopes[:, 1]
    strength = (data.n / rss)[:, None]
    away = theta - data.mean
    F = data.n * rss.log() + (data.precision * away.square()).sum(-1)
    hessian = strength[:, :, None] * curvature + torch.diag_embed(data.precision)
    return F, strength * slope + data.precision * away, hessian


def _solve_gains(gram: Tensor, data: _Data) -> _Gains:
    """The gains of a centred `_gram`."""
    J = slice(2, 2 + data.gains)
    A, b, total, most = gram[:, J, J], gram[:, J, 1], gram[:, 1, 1], data.gain_max[:, None]
    gain = _one_gain(A[:, 0], b, most) if data.gains == 1 else _boxed(A, b, most)
    rss = total - 2.0 * (gain * b).sum(1) + (gain * (A @ gain[:, :, None])[:, :, 0]).sum(1)
    least = 1e-12 if gram.dtype == torch.float64 else 1e-6  # rounding
    return _Gains(gain, rss.clamp(min=least), ((gain > 0) & (gain < most)).to(gain))


def _flat(like: Tensor) -> float:
    """Below this the variance of a curve is rounding."""
    return _FLAT if like.dtype == torch.float64 else _FLAT**0.5


def _one_gain(variance: Tensor, covariance: Tensor, most: Tensor) -> Tensor:
    flat = _flat(variance)
    best = torch.where(variance > flat, covariance / variance.clamp(min=flat), 0.0)
    return torch.minimum(best.clamp(min=0.0), most)


def _boxed(A: Tensor, b: Tensor, most: Tensor) -> Tensor:
    """The x (R, J) in [0, most] (R, 1) that minimises x A x - 2 b x: an active set for each row.

    A sweep of coordinate descent says which gains are free; steps to the minimum over those, each ended by the first
    bound that it meets, lead to the minimum of a face; where the conditions of Kuhn and Tucker hold there, it is the
    solution, else the next sweep leaves it downhill. No face comes twice (as in Lawson and Hanson 1974), so this ends.
    """
    found, row = torch.zeros_like(b), torch.arange(len(b), device=b.device)
    x = torch.zeros_like(b)
    for _ in range(_SWEEPS):
        x = _sweep(A, b, most, x)
        for _ in range(b.shape[1]):
            x = _to_minimum(A, b, most, x)
        found[row] = x
        wrong = ~_is_solution(A, b, most, x)
        if not wrong.any():
            break
        A, b, most, x, row = (value[wrong] for value in (A, b, most, x, row))
    return found


def _sweep(A: Tensor, b: Tensor, most: Tensor, x: Tensor) -> Tensor:
    """Coordinate descent, once over the gains."""
    x, flat = x.clone(), _flat(A)
    for j in range(b.shape[1]):
        own = A[:, j, j]
        best = x[:, j] + (b[:, j] - (A[:, j] * x).sum(1)) / own.clamp(min=flat)
        x[:, j] = torch.where(own > flat, best, 0.0).clamp(min=0.0).minimum(most[:, 0])
    return x


def _to_minimum(A: Tensor, b: Tensor, most: Tensor, x: Tensor) -> Tensor:
    """From x towards the minimum over the gains that are free, as far as the bounds allow."""
    free = ((x > 0) & (x < most)).to(x)
    push = free * (b - (A @ x[:, :, None])[:, :, 0])
    step = free * _solve_free(A, free, push[:, :, None])[:, :, 0]
    room = torch.where(step < 0, -x, most - x)
    length = torch.where(step != 0, room / step, torch.inf).amin(1, keepdim=True).clamp(max=1.0)
    return (x + length * step).clamp(min=0.0).minimum(most)


def _is_solution(A: Tensor, b: Tensor, most: Tensor, x: Tensor) -> Tensor:
    """Kuhn and Tucker's conditions, (R,): no slope over free gains, none that leads inside from a bound."""
    push = b - (A @ x[:, :, None])[:, :, 0]
    diagonal = A.diagonal(dim1=1, dim2=2)
    slack = (1e-10 if A.dtype == torch.float64 else 1e-5) * (diagonal.sqrt() + diagonal * most) + _flat(A)
    return (((push <= slack) | (x >= most)) & ((push >= -slack) | (x <= 0))).all(1)


def _solve_free(A: Tensor, free: Tensor, right: Tensor) -> Tensor:
    """A^-1 right (R, J, N) over the free rows and columns of A (R, J, J); right is 0 in the others."""
    flat = _flat(A)
    if A.shape[1] == 1:
        return right / A.clamp(min=flat)
    A = A * free[:, :, None] * free[:, None, :] + torch.diag_embed(1.0 - free + flat)
    return torch.linalg.solve_ex(A, right).result


# --- uncertainty ------------------------------------------------------------------------------------------------------


def _spread(data: _Data, theta: Tensor, raw: Tensor, solved: _Gains) -> tuple[Tensor, Tensor, Tensor]:
    """sd, condition and informed as in `_Found`, standardised. Laplace's approximation: F is -2 ln posterior, so half its Gauss-Newton Hessian, jointly in parameters, offset and
    gains, is the posterior's precision. The bounds count as a normal of the uniform distribution's variance: without
    them a direction that neither data nor prior hold would have any sd."""
    P, J = theta.shape[1], data.gains
    width = data.upper - data.lower
    prior = data.precision + 12.0 / width.square()
    pick = torch.eye(raw.shape[1]).to(raw)[:, [0, *range(2, 2 + J)]].expand(len(raw), -1, -1)
    mix = torch.cat([_mix(solved.gain), pick], 2)
    precision = (data.n / solved.rss)[:, None, None] * (mix.mT @ raw @ mix)
    precision = precision + torch.diag_embed(torch.cat([prior, torch.zeros_like(pick[:, 0])], 1))
    held = torch.cat(
        [
            (theta <= data.lower) | (theta >= data.upper),
            theta.new_zeros(len(theta), 1, dtype=torch.bool),
            solved.free < 1,
        ],
        1,
    )
    covariance, condition = _inverse(precision, held)
    sd = torch.where(held, torch.nan, covariance.diagonal(dim1=1, dim2=2).sqrt())
    return (sd, condition, ~held[:, :P] & (sd[:, :P] < _INFORMED * prior.rsqrt()))


def _inverse(precision: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse over what isn't held, and the condition number of the precision scaled to a unit diagonal."""
    loose = (~held).to(precision)
    unit = torch.where(held, 1.0, precision.diagonal(dim1=1, dim2=2).clamp(min=1e-300).rsqrt())
    scaled = precision * (unit * loose)[:, :, None] * (unit * loose)[:, None, :] + torch.diag_embed(1.0 - loose)
    value, vector = torch.linalg.eigh(scaled)
    value = value.clamp(min=1e-14)
    inverse = (vector / value[:, None, :]) @ vector.mT * unit[:, :, None] * unit[:, None, :]
    return inverse, value[:, -1] / value[:, 0]


# --- starts: a grid of six parameters, of which only pairs of shapes need computing -----------------------------------


def _screened(data: _Data, starts: int) -> Tensor:
    """(R, starts, P): the best point of the grid for each of the best pairs (Cm, toff), best first."""
    found = [
        _grid_minimum(_rows(data, rows)) for rows in torch.arange(len(data.y), device=data.y.device).split(_SCREENED)
    ]
    value, inner = (torch.cat(parts) for parts in zip(*found, strict=True))
    sizes = tuple(len(values) for values in _GRID.values())
    pair = value.argsort(dim=1, stable=True)[:, :starts]
    at = torch.unravel_index(inner.gather(1, pair), sizes[:4]) + torch.unravel_index(pair, sizes[4:])
    return torch.stack([value.new_tensor(grid)[i] for grid, i in zip(_GRID.values(), at, strict=True)], -1)


def _grid_minimum(data: _Data) -> tuple[Tensor, Tensor]:
    """F minimised over d, taup, taug and B, and where, (R, Cm * toff)."""
    return _grid_objective(data)[0].min(1)


def _grid_objective(data: _Data) -> tuple[Tensor, tuple[int, ...]]:
    """F on the grid with one gain for all meals, (R, d * taup * taug * B, Cm * toff), and the grid's sizes.

    G = P(d, taup, taug) + M B (1 + Q(Cm, toff)): inner products of P's, Q's and y give every sum of squares.
    """
    d, taup, taug, B, Cm, toff = (data.y.new_tensor(values) for values in _GRID.values())
    w, meals = data.w[:, None], data.gains * data.meals
    I_E = cma.circadian(data.hour[:, None, None], d[:, None, None], taup[:, None])["I_E"]
    kernel = cma.meal_response(data.log_since.flatten(1, 2)[:, None], taug[:, None, None]).sum(2)
    P = _centred((1.3 * kernel[:, None, None] / (1.0 + I_E)[:, :, :, None]).flatten(1, 3), w)
    Q = meals * cma.meal_distribution(data.hour[:, None, None], Cm[:, None, None], toff[:, None])
    Q = _centred(Q.flatten(1, 2), w)
    P_y, Q_y = (P @ (w.mT * data.y[..., None])), (Q @ (w.mT * data.y[..., None]))
    P_P, Q_Q = (P.square() @ w.mT), (Q.square() @ w.mT)
    P_Q = (P * w) @ Q.mT
    B = B[:, None]
    variance = P_P[:, :, None] + 2.0 * B * P_Q[:, :, None] + B.square() * Q_Q.mT[:, None]
    covariance = P_y[:, :, None] + B * Q_y.mT[:, None]
    F = _grid_fit(variance, covariance, data.gain_max[:, None, None, None]).mul_(data.n[:, None, None, None])
    sizes = tuple(len(values) for values in _GRID.values())
    inner, outer = _grid_penalty(data, (d, taup, taug, B[:, 0])), _grid_penalty(data, (Cm, toff), first=4)
    return F.flatten(1, 2).add_(inner[:, :, None]).add_(outer[:, None]), sizes


def _grid_fit(variance: Tensor, covariance: Tensor, most: Tensor) -> Tensor:
    """ln R of y with variance 1. The arguments are used up: this runs over millions of points."""
    gain = covariance.div(variance.clamp_(min=_FLAT**0.5)).clamp_(min=0.0).minimum(most)
    return covariance.mul_(-2.0).addcmul_(gain, variance).mul_(gain).add_(1.0).clamp_(min=1e-6).log_()


def _grid_penalty(data: _Data, grids: tuple[Tensor, ...], first: int = 0) -> Tensor:
    """The prior's part of F for parameters `first` on, over the product of their grids, (R, points)."""
    total = data.y.new_zeros(len(data.y), 1)
    for k, values in enumerate(grids, start=first):
        one = data.precision[:, k, None] * (values - data.mean[:, k, None]).square()
        total = (total[:, :, None] + one[:, None]).flatten(1)
    return total


def _centred(shape: Tensor, w: Tensor) -> Tensor:
    return shape - (shape @ w.mT)


# --- the search -------------------------------------------------------------------------------------------------------


def _begin(data: _Data, theta: Tensor, correction: Tensor | None = None) -> _Search:
    """A search that starts at theta (R, P), from nothing or with what a coarser one has learnt."""
    F, gradient, hessian = _evaluate(data, theta)
    if correction is None:
        return _Search(theta, F, gradient, hessian, torch.zeros_like(hessian), torch.full_like(F, 0.3))
    return _Search(theta, F, gradient, hessian, correction, torch.full_like(F, _RESUMED))


def _improve(data: _Data, search: _Search, steps: int, moved: float) -> _Search:
    """After at most `steps` steps of every row. Rows that moved by less than `moved` of the range drop out."""
    found, row = [part.clone() for part in search], torch.arange(len(search.F), device=search.F.device)
    for _ in range(steps):
        search, moving = _advance(data, search, moved)
        for whole, part in zip(found, search, strict=True):
            whole[row] = part
        if not moving.all():
            keep = moving.nonzero()[:, 0]
            data, search, row = _rows(data, keep), _rows(search, keep), row[keep]
        if not len(row):
            break
    return _Search(*found)


def _advance(data: _Data, search: _Search, moved: float) -> tuple[_Search, Tensor]:
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
    moving = ((theta - search.theta) / (data.upper - data.lower)).abs().amax(1) > moved
    return _Search(*kept, _secant(search, theta, *trial[2:]), damping), moving


def _step(data: _Data, search: _Search) -> Tensor:
    """The next theta, (R, P). A parameter at a bound that its gradient pushes against stays there."""
    theta, g = search.theta, search.gradient
    free = ~(((theta <= data.lower) & (g > 0)) | ((theta >= data.upper) & (g < 0)))
    # for a direction without any slope, such as toff at Cm = 0; in float32 a diagonal near 0 is rounding
    flat = (1e-9 if theta.dtype == torch.float64 else 1e-4) / (data.upper - data.lower).square()
    unit = torch.where(free, (search.hessian.diagonal(dim1=-2, dim2=-1).clamp(min=0.0) + flat).rsqrt(), 0.0)
    scaled = (search.hessian + search.correction) * unit[:, :, None] * unit[:, None, :] + torch.diag_embed(
        (~free).to(unit)
    )
    step = -_damped(scaled, g * unit, search.damping) * unit
    return torch.minimum(torch.maximum(theta + step, data.lower), data.upper)


def _damped(scaled: Tensor, g: Tensor, damping: Tensor) -> Tensor:
    """(|H| + damping)^-1 g, where |H| has the absolute eigenvalues of H = scaled (R, P, P). Most are positive definite,
    and Cholesky's factors say which in a tenth of the time."""
    shifted = scaled + torch.diag_embed(damping[:, None].expand_as(g))
    _, indefinite = torch.linalg.cholesky_ex(scaled)
    along = torch.cholesky_solve(g[:, :, None], torch.linalg.cholesky_ex(shifted).L)[:, :, 0]
    if (rows := indefinite.nonzero()[:, 0]).numel():
        # in float64: in float32 it doesn't always converge
        value, vector = (part.to(g) for part in torch.linalg.eigh(scaled[rows].double()))
        inner = (vector.mT @ g[rows][:, :, None])[:, :, 0] / (value.abs().clamp(min=1e-8) + damping[rows, None])
        along[rows] = (vector @ inner[:, :, None])[:, :, 0]
    return along


def _secant(search: _Search, theta: Tensor, gradient: Tensor, hessian: Tensor) -> Tensor:
    """The rank-one update that makes Hessian + correction map this step to this change of gradient."""
    step = (theta - search.theta)[..., None]
    missing = (gradient - search.gradient)[..., None] - (hessian + search.correction) @ step
    scale = (missing * step).sum(1, keepdim=True)
    sound = scale.abs() > 1e-8 * missing.norm(dim=1, keepdim=True) * step.norm(dim=1, keepdim=True)
    update = missing @ missing.mT / torch.where(sound, scale, 1.0)
    sound = sound & update.isfinite().all(2, keepdim=True).all(1, keepdim=True)
    return search.correction + torch.where(sound, update, 0.0)
