"""A bounded, damped Newton search of many rows at once, with secant corrections of the Hessian, and where it starts: on
a grid of six parameters, of which only pairs of shapes need computing.

Shape legend as in fit.py.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from raycadian.physiology.cma import equations as cma
from raycadian.physiology.cma.objective import FLAT, evaluate
from raycadian.physiology.cma.problem import Problem, take_rows

_RESUMED = 1e-3  # damping where the search on all points takes over from the coarse one


class Search(NamedTuple):
    """Where each row stands: theta (R, P), F (R,), half of F's gradient (R, P), half its Gauss-Newton Hessian (R, P,
    P); and what the search has learnt: the correction of that Hessian (R, P, P), damping (R,)."""

    theta: Tensor
    F: Tensor
    gradient: Tensor
    hessian: Tensor
    correction: Tensor
    damping: Tensor


def begin(data: Problem, theta: Tensor, correction: Tensor | None = None) -> Search:
    """A search that starts at theta (R, P), from nothing or with what a coarser one has learnt."""
    F, gradient, hessian = evaluate(data, theta)
    if correction is None:
        return Search(theta, F, gradient, hessian, torch.zeros_like(hessian), torch.full_like(F, 0.3))
    return Search(theta, F, gradient, hessian, correction, torch.full_like(F, _RESUMED))


def improve(data: Problem, search: Search, steps: int, moved: float) -> Search:
    """After at most `steps` steps of every row. Rows that moved by less than `moved` of the range drop out."""
    whole, row = [part.clone() for part in search], torch.arange(len(search.F), device=search.F.device)
    for _ in range(steps):
        search, moving = _advance(data, search, moved)
        for values, part in zip(whole, search, strict=True):
            values[row] = part
        if not moving.all():
            keep = moving.nonzero()[:, 0]
            data, search, row = take_rows(data, keep), take_rows(search, keep), row[keep]
        if not len(row):
            break
    return Search(*whole)


def _advance(data: Problem, search: Search, moved: float) -> tuple[Search, Tensor]:
    """One bounded, damped Newton step of every row, kept where F falls; and which rows still move.

    Gauss-Newton alone crawls here, for residuals are large: a symmetric rank-one secant correction supplies the second
    derivatives of G (as in NL2SOL: Dennis, Gay and Welsch 1981), absolute eigenvalues keep the step downhill.
    """
    theta = _step(data, search)
    trial = (theta, *evaluate(data, theta))
    better = trial[1] < search.F + 1e-12  # at the end F is rounding while the gradient is still exact
    kept = (
        torch.where(better.view(-1, *(1,) * (new.ndim - 1)), new, old) for new, old in zip(trial, search, strict=False)
    )
    damping = torch.where(better, 0.2 * search.damping, 5.0 * search.damping).clamp(1e-12, 1e12)
    moving = ((theta - search.theta) / (data.upper - data.lower)).abs().amax(1) > moved
    return Search(*kept, _secant(search, theta, *trial[2:]), damping), moving


def _step(data: Problem, search: Search) -> Tensor:
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


def _secant(search: Search, theta: Tensor, gradient: Tensor, hessian: Tensor) -> Tensor:
    """The rank-one update that makes Hessian + correction map this step to this change of gradient."""
    step = (theta - search.theta)[..., None]
    missing = (gradient - search.gradient)[..., None] - (hessian + search.correction) @ step
    scale = (missing * step).sum(1, keepdim=True)
    sound = scale.abs() > 1e-8 * missing.norm(dim=1, keepdim=True) * step.norm(dim=1, keepdim=True)
    update = missing @ missing.mT / torch.where(sound, scale, 1.0)
    sound = sound & update.isfinite().all(2, keepdim=True).all(1, keepdim=True)
    return search.correction + torch.where(sound, update, 0.0)


_SCREENED = 16  # fits whose starts are screened at once: a grid of them fits into the cache
# Where starts are looked for. Cm = 0 is left out: G has no slope in Cm or toff there, and no search leaves it.
GRID = {
    "d": (-10.0, -6.0, -2.5, 0.5, 3.5, 7.5, 11.5), "taup": (0.8, 1.8), "taug": (0.3, 0.5, 0.8, 1.1, 1.4, 1.8, 2.3, 2.8),
    "B": (0.03, 0.12, 0.4, 1.0), "Cm": (0.15, 0.4, 0.65, 0.9, 1.15, 1.4, 1.65, 1.9),
    "toff": (-2.5, -1.25, 0.0, 1.25, 2.5),
}  # fmt: skip
MAX_STARTS = len(GRID["Cm"]) * len(GRID["toff"])


def screened_starts(data: Problem, starts: int) -> Tensor:
    """(R, starts, P): the best point of the grid for each of the best pairs (Cm, toff), best first."""
    minima = [
        grid_objective(take_rows(data, rows))[0].min(1)
        for rows in torch.arange(len(data.y), device=data.y.device).split(_SCREENED)
    ]
    value, inner = (torch.cat(parts) for parts in zip(*minima, strict=True))
    sizes = tuple(len(values) for values in GRID.values())
    pair = value.argsort(dim=1, stable=True)[:, :starts]
    at = torch.unravel_index(inner.gather(1, pair), sizes[:4]) + torch.unravel_index(pair, sizes[4:])
    return torch.stack([value.new_tensor(grid)[i] for grid, i in zip(GRID.values(), at, strict=True)], -1)


def grid_objective(data: Problem) -> tuple[Tensor, tuple[int, ...]]:
    """F on the grid with one gain for all meals, (R, d * taup * taug * B, Cm * toff), and the grid's sizes.

    G = P(d, taup, taug) + M B (1 + Q(Cm, toff)): inner products of P's, Q's and y give every sum of squares.
    """
    d, taup, taug, B, Cm, toff = (data.y.new_tensor(values) for values in GRID.values())
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
    sizes = tuple(len(values) for values in GRID.values())
    inner, outer = _grid_penalty(data, (d, taup, taug, B[:, 0])), _grid_penalty(data, (Cm, toff), first=4)
    return F.flatten(1, 2).add_(inner[:, :, None]).add_(outer[:, None]), sizes


def _grid_fit(variance: Tensor, covariance: Tensor, most: Tensor) -> Tensor:
    """ln R of y with variance 1. The arguments are used up: this runs over millions of points."""
    gain = covariance.div(variance.clamp_(min=FLAT**0.5)).clamp_(min=0.0).minimum(most)
    return covariance.mul_(-2.0).addcmul_(gain, variance).mul_(gain).add_(1.0).clamp_(min=1e-6).log_()


def _grid_penalty(data: Problem, grids: tuple[Tensor, ...], first: int = 0) -> Tensor:
    """The prior's part of F for parameters `first` on, over the product of their grids, (R, points)."""
    total = data.y.new_zeros(len(data.y), 1)
    for k, values in enumerate(grids, start=first):
        one = data.precision[:, k, None] * (values - data.mean[:, k, None]).square()
        total = (total[:, :, None] + one[:, None]).flatten(1)
    return total


def _centred(shape: Tensor, w: Tensor) -> Tensor:
    return shape - (shape @ w.mT)
