"""The gains of all meals at once: least squares in a box, a row a problem. R rows, J gains."""

from typing import NamedTuple

import torch
from torch import Tensor

from raycadian.physiology.cma.problem import Problem

_SWEEPS = 50  # over the gains; one or two are needed
FLAT = 1e-14  # variance of a G that doesn't vary


class Gains(NamedTuple):
    """Least squares in [0, most]: gain (R, J), residual sum of squares (R,), 1 where a gain is free (R, J)."""

    gain: Tensor
    rss: Tensor
    free: Tensor


def solve_gains(gram: Tensor, data: Problem) -> Gains:
    """The gains of a centred `gram_matrix`."""
    J = slice(2, 2 + data.gains)
    A, b, total, most = gram[:, J, J], gram[:, J, 1], gram[:, 1, 1], data.gain_max[:, None]
    gain = _one_gain(A[:, 0], b, most) if data.gains == 1 else boxed_least_squares(A, b, most)
    rss = total - 2.0 * (gain * b).sum(1) + (gain * (A @ gain[:, :, None])[:, :, 0]).sum(1)
    least = 1e-12 if gram.dtype == torch.float64 else 1e-6  # rounding
    return Gains(gain, rss.clamp(min=least), ((gain > 0) & (gain < most)).to(gain))


def rounding_variance(like: Tensor) -> float:
    """Below this the variance of a curve is rounding."""
    return FLAT if like.dtype == torch.float64 else FLAT**0.5


def _one_gain(variance: Tensor, covariance: Tensor, most: Tensor) -> Tensor:
    flat = rounding_variance(variance)
    best = torch.where(variance > flat, covariance / variance.clamp(min=flat), 0.0)
    return torch.minimum(best.clamp(min=0.0), most)


def boxed_least_squares(A: Tensor, b: Tensor, most: Tensor) -> Tensor:
    """The x (R, J) in [0, most] (R, 1) that minimises x A x - 2 b x: an active set for each row.

    A sweep of coordinate descent says which gains are free; steps to the minimum over those, each ended by the first
    bound that it meets, lead to the minimum of a face; where the conditions of Kuhn and Tucker hold there, it is the
    solution, else the next sweep leaves it downhill. No face comes twice (as in Lawson and Hanson 1974), so this ends.
    """
    solution, row = torch.zeros_like(b), torch.arange(len(b), device=b.device)
    x = torch.zeros_like(b)
    for _ in range(_SWEEPS):
        x = _sweep(A, b, most, x)
        for _ in range(b.shape[1]):
            x = _to_minimum(A, b, most, x)
        solution[row] = x
        wrong = ~_is_solution(A, b, most, x)
        if not wrong.any():
            break
        A, b, most, x, row = (value[wrong] for value in (A, b, most, x, row))
    return solution


def _sweep(A: Tensor, b: Tensor, most: Tensor, x: Tensor) -> Tensor:
    """Coordinate descent, once over the gains."""
    x, flat = x.clone(), rounding_variance(A)
    for j in range(b.shape[1]):
        own = A[:, j, j]
        best = x[:, j] + (b[:, j] - (A[:, j] * x).sum(1)) / own.clamp(min=flat)
        x[:, j] = torch.where(own > flat, best, 0.0).clamp(min=0.0).minimum(most[:, 0])
    return x


def _to_minimum(A: Tensor, b: Tensor, most: Tensor, x: Tensor) -> Tensor:
    """From x towards the minimum over the gains that are free, as far as the bounds allow."""
    free = ((x > 0) & (x < most)).to(x)
    push = free * (b - (A @ x[:, :, None])[:, :, 0])
    step = free * solve_free(A, free, push[:, :, None])[:, :, 0]
    room = torch.where(step < 0, -x, most - x)
    length = torch.where(step != 0, room / step, torch.inf).amin(1, keepdim=True).clamp(max=1.0)
    return (x + length * step).clamp(min=0.0).minimum(most)


def _is_solution(A: Tensor, b: Tensor, most: Tensor, x: Tensor) -> Tensor:
    """Kuhn and Tucker's conditions, (R,): no slope over free gains, none that leads inside from a bound."""
    push = b - (A @ x[:, :, None])[:, :, 0]
    diagonal = A.diagonal(dim1=1, dim2=2)
    slack = (1e-10 if A.dtype == torch.float64 else 1e-5) * (diagonal.sqrt() + diagonal * most) + rounding_variance(A)
    return (((push <= slack) | (x >= most)) & ((push >= -slack) | (x <= 0))).all(1)


def solve_free(A: Tensor, free: Tensor, right: Tensor) -> Tensor:
    """A^-1 right (R, J, N) over the free rows and columns of A (R, J, J); right is 0 in the others."""
    flat = rounding_variance(A)
    if A.shape[1] == 1:
        return right / A.clamp(min=flat)
    A = A * free[:, :, None] * free[:, None, :] + torch.diag_embed(1.0 - free + flat)
    return torch.linalg.solve_ex(A, right).result
