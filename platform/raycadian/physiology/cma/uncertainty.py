"""How certain parameters, offset and gains are: Laplace's approximation at the optimum."""

import torch
from torch import Tensor

from raycadian.physiology.cma.gains import Gains
from raycadian.physiology.cma.objective import slope_mix
from raycadian.physiology.cma.problem import Problem

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
