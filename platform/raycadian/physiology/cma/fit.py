"""Fitting the CMA model to glucose in mg/dL: batched, bounded, several starts, optional priors.

Observation model: glucose = offset + sum_i gain_i * g_i(t), g_i the share of meal i in the periodic day of
`cma.periodic`, gain_i >= 0: one gain for all meals (offset + gain * G), or one a meal. B is in every g_i, so a gain
scales its meal's part of the baseline too. Offset and gains are linear, so they are solved in closed form for every
trial value of the six parameters (variable projection, Golub and Pereyra 1973; its Hessian without the projector's
second derivatives, as Kaufman 1975).

Two limits keep out responses that no reading has seen (else a spike between two readings, and a huge gain, fit
anything): a response lasts at least one sampling interval at half its height, which for 5-minute data means taug >=
0.30, above the model's own bound of 0.1; and a gain is at most 1.3 times the range of the data, more than a sampled
meal can need.

Objective, minimised over theta = (d, taup, taug, B, Cm, toff) inside the bounds:

    F(theta) = n ln R(theta) + prior_weight * sum_k ((theta_k - mean_k) / sd_k)^2

R is the weighted residual sum of squares over that of the weighted mean. The logarithm comes from profiling the noise
variance out: fits don't depend on the unit of glucose, nor the prior's strength on the noise. Residuals of a daily
curve are correlated over about two hours, so n is not the number of readings but that of 2-hour cells of the day which
hold any: 12 for a full day. Without priors F orders parameters as least squares does.

The model depends on the hour of day alone. So least squares over many days equals the fit of the mean daily profile,
weighted by its counts, up to a constant of the sum of squares: that fit takes `weight`, the counts.

Uncertainty: F is -2 ln of the posterior (gains, offset and the noise's variance profiled out), so half its Hessian at
the optimum is the posterior's precision (Laplace; Gauss-Newton's Hessian, the usual one for least squares). See
objective.py.

Shape legend: S fits, R rows (fits x starts), T times, M meals, J gains (1 or M), P = 6 parameters. float64, but for the
search of a start.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from raycadian.config import Prior
from raycadian.physiology.arrays import ArrayLike, like
from raycadian.physiology.cma import equations as cma
from raycadian.physiology.cma.objective import gram_matrix, posterior_spread, solve_gains
from raycadian.physiology.cma.problem import (
    Problem,
    bounds,
    checked,
    log_since_meals,
    prior_moments,
    reasons_not_fitted,
    standardised,
    take_rows,
)
from raycadian.physiology.cma.result import CMAFit
from raycadian.physiology.cma.search import MAX_STARTS, Search, begin, improve, screened_starts

_CHUNK = 256  # fits at once: enough to hide the cost of a call; they take about 100 MB
_COARSE_BINS = 96  # starts are screened and compared on 15-minute means
_HALF_STEPS, _STEPS = 8, 60  # after so many steps half of the starts are left, after as many again one
_COARSE_MOVED, _MOVED = 1e-4, 1e-9  # of a parameter's range: converged


def fit_cma(
    t_h: ArrayLike,
    glucose_mgdl: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    tM: ArrayLike,
    prior: Prior | None = None,
    prior_weight: float = 1.0,
    starts: int = 4,
    gains: Literal["one", "per_meal"] = "one",
) -> CMAFit:
    """Fit S daily curves at once. Deterministic: equal input gives equal bits on one machine.

    t_h (S, T) or (T,) local hours: one day, or bins of many; glucose_mgdl (S, T), NaN = missing; weight (S, T), the
    number of readings behind a point (1 unless given); tM (S, M) or (M,) meal times in hours (meals.meal_times).
    `gains`: one for all meals, or one a meal. `starts` points, the best of a screened grid, are improved by a bounded
    Newton-like search; the best of them is carried to convergence. The bounds are cma.BOUNDS, but for taug as said
    above, and hold exactly. Tensors give a fit of tensors, NumPy arrays one of arrays.

    A series that can't be fitted (fewer than MIN_POINTS points, constant, meal times unknown) doesn't stop the others:
    its `ok` is False and its `reason` says why. Raises ValueError for shapes that differ, for times, weights or glucose
    that are infinite, and for negative weights. Small arrays gain nothing from threads: OMP_NUM_THREADS=1 is best.
    """
    if not 1 <= starts <= MAX_STARTS or not 0 <= prior_weight < math.inf:
        raise ValueError(f"expected 1 to {MAX_STARTS} starts and prior_weight >= 0, found {starts} and {prior_weight}")
    back, inputs = like(glucose_mgdl, t_h, weight, tM)
    t_h, glucose, weight, tM = checked(*inputs)
    reason = reasons_not_fitted(glucose, weight > 0, tM)
    ok = torch.tensor([not text for text in reason], device=t_h.device)
    mean, precision = prior_moments(prior, prior_weight, t_h)
    J = 1 if gains == "one" else tM.shape[1]
    parts = [
        _fit_chunk(t_h[i], glucose[i], weight[i], tM[i], mean, precision, starts, J)
        for i in ok.nonzero()[:, 0].split(_CHUNK) if len(i)
    ]  # fmt: skip
    return _joined(parts, ok, tM, J, reason, bounds(t_h, weight > 0), (weight > 0).sum(1)).map(back)


def _joined(parts: list["FittedChunk"], ok: Tensor, tM: Tensor, J: int, reason, bounds, n_points: Tensor) -> CMAFit:
    """The chunks' fits at the rows that could be fitted, NaN elsewhere."""
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


class FittedChunk(NamedTuple):
    """Of a chunk: parameters (S, P) · offset (S,), gains (S, J), RMSE (S,) in mg/dL · sd (S, P + 1 + J) of parameters,
    offset and gains, NaN at a bound · condition (S,) · informed (S, P) bool."""

    theta: Tensor
    offset: Tensor
    gain: Tensor
    rmse: Tensor
    sd: Tensor
    condition: Tensor
    informed: Tensor


def _fit_chunk(t_h, glucose, weight, tM, mean, precision, starts: int, gains: int) -> FittedChunk:
    w = weight / weight.sum(1, keepdim=True)
    centre = (w * glucose.nan_to_num(0.0)).sum(1, keepdim=True)
    y = torch.where(w > 0, glucose - centre, 0.0)
    scale = (w * y.square()).sum(1, keepdim=True).sqrt()
    data = standardised(t_h, y / scale, w, tM, mean, precision, gains)
    theta = improve(data, _best_start(data, tM, starts), _STEPS, _MOVED).theta
    raw = gram_matrix(data, theta)
    solved = solve_gains(raw - raw[:, :, :1] * raw[:, :1, :], data)
    offset = centre[:, 0] - scale[:, 0] * (solved.gain * raw[:, 0, 2 : 2 + gains]).sum(1)
    sd, condition, informed = posterior_spread(data, theta, raw, solved)
    sd[:, theta.shape[1] :] *= scale
    return FittedChunk(theta, offset, solved.gain * scale, solved.rss.sqrt() * scale[:, 0], sd, condition, informed)


def _best_start(data: Problem, tM: Tensor, starts: int) -> Search:
    """The best of several starts for each of S fits, screened and improved on 15-minute means in float32."""
    hour, y, w = _bin_means(data.hour, data.y, data.w, _COARSE_BINS)
    coarse = data._replace(hour=hour, y=y, w=w, log_since=log_since_meals(hour, tM, data.gains))
    coarse = Problem(*(part.float() for part in coarse))
    theta = screened_starts(coarse, starts)
    several = take_rows(coarse, _of_each(len(tM), starts, tM.device))
    theta = torch.minimum(torch.maximum(theta.flatten(0, 1), several.lower), several.upper)
    search = improve(several, begin(several, theta), _HALF_STEPS, _COARSE_MOVED)
    half = (starts + 1) // 2
    halved = take_rows(coarse, _of_each(len(tM), half, tM.device))
    search = improve(halved, _best(search, starts, half), _HALF_STEPS, _COARSE_MOVED)
    search = improve(coarse, _best(search, half, 1), _STEPS, _COARSE_MOVED)
    theta = torch.minimum(torch.maximum(search.theta.to(data.y), data.lower), data.upper)
    return begin(data, theta, search.correction.to(data.y))


def _of_each(fits: int, n: int, device: torch.device) -> Tensor:
    """Numbers of `fits` fits, each n times, (fits * n,)."""
    return torch.arange(fits, device=device).repeat_interleave(n)


def _best(search: Search, of: int, n: int) -> Search:
    """The best n of every `of` rows of a search."""
    best = search.F.view(-1, of).argsort(dim=1, stable=True)[:, :n]
    first = torch.arange(len(best), device=best.device)[:, None] * of
    return take_rows(search, (first + best).flatten())


def _bin_means(hour: Tensor, y: Tensor, w: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted mean hour and y, and sum of w, in each bin of the day, (R, bins). Empty: middle of the bin, 0, 0."""
    index = (hour * (bins / 24.0) + 1e-6).long().clamp(max=bins - 1)  # a reading on an edge begins its bin
    hour_sum, y_sum, total = (w.new_zeros(len(w), bins).scatter_add(1, index, v) for v in (w * hour, w * y, w))
    middle = (torch.arange(bins, dtype=w.dtype, device=w.device) + 0.5) * (24.0 / bins)
    safe = torch.where(total > 0, total, 1.0)
    return torch.where(total > 0, hour_sum / safe, middle), y_sum / safe, total
