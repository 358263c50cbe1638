"""Where a search starts: a grid of six parameters, of which only pairs of shapes need computing."""

import torch
from torch import Tensor

from raycadian.physiology.cma import equations as cma
from raycadian.physiology.cma.gains import FLAT
from raycadian.physiology.cma.problem import Problem, take_rows

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
