"""The objective F of fit.py with half its gradient and its Gauss-Newton Hessian, gains and offset projected out; the
gains of all meals, least squares in a box, a row a problem; and how certain all are, by Laplace's approximation.

Shape legend as in fit.py.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from raycadian.physiology.cma import equations as cma
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


def gram_matrix(data: Problem, theta: Tensor) -> Tensor:
    """Weighted inner products (R, 5 + 4 J, 5 + 4 J) of: the constant · y · for each gain its curve G_j, and G_j's
    slopes in d, taup and taug · what B, Cm and toff change in every G_j."""
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


def slope_mix(gain: Tensor) -> Tensor:
    """(R, 5 + 4 J, P): columns of `gram_matrix` for the slope of the whole curve, sum_j gain_j G_j, by parameter."""
    gains, P = gain.shape[1], len(cma.PARAMETERS)
    mix = gain.new_zeros(len(gain), 5 + 4 * gains, P)
    for k in range(3):
        mix[:, 2 + (k + 1) * gains : 2 + (k + 2) * gains, k] = gain
        mix[:, 2 + 4 * gains + k, 3 + k] = gain.sum(1)
    return mix


def evaluate(data: Problem, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """F, half its gradient and Hessian, from inner products of the columns, offset and gains projected out."""
    gram = gram_matrix(data, theta)
    gram = gram - gram[:, :, :1] * gram[:, :1, :]  # the offset: every column less its weighted mean
    gain, rss, free = solve_gains(gram, data)
    mix, J = slope_mix(gain), slice(2, 2 + data.gains)
    slopes = gram @ mix  # of every column with each parameter's, (R, 5 + 4 J, P)
    by_gain = free[:, :, None] * slopes[:, J]
    projected = by_gain.mT @ solve_free(gram[:, J, J], free, by_gain)
    curvature = mix.mT @ slopes - projected
    slope = (gain[:, :, None] * slopes[:, J]).sum(1) - slopes[:, 1]
    strength = (data.n / rss)[:, None]
    away = theta - data.mean
    F = data.n * rss.log() + (data.precision * away.square()).sum(-1)
    hessian = strength[:, :, None] * curvature + torch.diag_embed(data.precision)
    return F, strength * slope + data.precision * away, hessian


_INFORMED = 0.9  # a posterior sd of less than this share of the prior's: the data say something


def posterior_spread(data: Problem, theta: Tensor, raw: Tensor, solved: Gains) -> tuple[Tensor, Tensor, Tensor]:
    """sd, condition and informed as in fit.py's `FittedChunk`, standardised.

    F is -2 ln posterior, so half its Gauss-Newton Hessian, jointly in parameters, offset and gains, is the posterior's
    precision. The bounds count as a normal of the uniform distribution's variance: without them a direction that
    neither data nor prior hold would have any sd.
    """
    P, J = theta.shape[1], data.gains
    width = data.upper - data.lower
    prior = data.precision + 12.0 / width.square()
    pick = torch.eye(raw.shape[1]).to(raw)[:, [0, *range(2, 2 + J)]].expand(len(raw), -1, -1)
    mix = torch.cat([slope_mix(solved.gain), pick], 2)
    precision = (data.n / solved.rss)[:, None, None] * (mix.mT @ raw @ mix)
    precision = precision + torch.diag_embed(torch.cat([prior, torch.zeros_like(pick[:, 0])], 1))
    at_bound, offset = (theta <= data.lower) | (theta >= data.upper), theta.new_zeros(len(theta), 1, dtype=torch.bool)
    held = torch.cat([at_bound, offset, solved.free < 1], 1)
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
