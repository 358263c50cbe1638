"""The objective F of fit.py with half its gradient and its Gauss-Newton Hessian, gains and offset projected out.

Shape legend as in fit.py.
"""

import math

import torch
from torch import Tensor

from raycadian.physiology.cma import equations as cma
from raycadian.physiology.cma.gains import solve_free, solve_gains
from raycadian.physiology.cma.problem import Problem


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
    """(R, 5 + 4 J, P): the columns of `gram_matrix` that make the slope of the whole curve, sum_j gain_j G_j, in each
    parameter."""
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
