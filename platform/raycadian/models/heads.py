"""From a point forecast to quantiles that never cross. The 0.5 level stays the point forecast, exactly."""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import stdtrit
from torch import Tensor, nn

from raycadian.models.base import Forecaster, ModelSpec, mean_over_valid, pinball
from raycadian.types import Batch, Prediction

_RESOLUTION_MGDL = 1.0  # of sensors: no distribution is narrower


class Headed(Forecaster):
    """A model that gives a distribution: its quantiles serve, its own loss trains."""

    @abstractmethod
    def distribution(self, batch: Batch) -> "Quantiles | StudentT": ...

    def forward(self, batch: Batch) -> Prediction:
        return Prediction(self.distribution(batch).quantiles)

    def forward_loss(self, batch: Batch) -> tuple[Prediction, Tensor]:
        distribution, target = self.distribution(batch), batch["target"]
        loss = mean_over_valid(distribution.loss(torch.nan_to_num(target)), target)
        return Prediction(distribution.quantiles), loss


@dataclass(frozen=True)
class Quantiles:
    """Quantiles (B, H, Q) at levels (Q,), trained by the pinball loss in mg/dL."""

    quantiles: Tensor
    levels: Tensor

    def loss(self, target: Tensor) -> Tensor:
        return pinball(self.quantiles, target, self.levels)


@dataclass(frozen=True)
class StudentT:
    """Student's t around loc (B, H) mg/dL, trained by its negative log-likelihood in nats. quantiles (B, H, Q)."""

    loc: Tensor
    scale: Tensor
    freedom: Tensor
    quantiles: Tensor

    def loss(self, target: Tensor) -> Tensor:
        return -torch.distributions.StudentT(self.freedom, self.loc, self.scale, validate_args=False).log_prob(target)


class QuantileOffsets(nn.Module):
    """Student's t from its median and a raw width: scale = 1 mg/dL + softplus(raw) * unit, degrees of freedom > 2
    (a variance exists) one a step, which training learns. Heavy tails keep one wild reading from widening all."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.levels = spec.quantiles
        self.raw = nn.Parameter(torch.full((spec.horizon,), 3.0))  # about 5 degrees of freedom

    def forward(self, median: Tensor, raw: Tensor, unit: Tensor) -> StudentT:
        """median, raw (B, H), unit (B, 1) or () mg/dL."""
        scale = _RESOLUTION_MGDL + F.softplus(raw).to(median.dtype) * unit
        freedom = 2.0 + F.softplus(self.raw).to(median.dtype)
        # torch has no inverse of Student's distribution; its quantiles' slope in the degrees of freedom is not needed
        factors = stdtrit(freedom.detach().double().cpu().numpy()[:, None], np.array(self.levels))
        factors[:, self.levels.index(0.5)] = 0.0
        steps = torch.from_numpy(factors).to(median)
        return StudentT(median, scale, freedom, median.unsqueeze(-1) + scale.unsqueeze(-1) * steps)


def residual_offsets(residual: Tensor, levels: tuple[float, ...]) -> Tensor:
    """Offsets (H, Q) from a point forecast to its quantiles: the empirical quantiles of residuals (N, H), NaN =
    missing.

    The 0.5 level is 0; levels below it are held at or below 0, those above at or above, so that the median is the point
    forecast and levels never cross. Raises ValueError where a step has no residual.
    """
    values = residual.numpy()
    empty = np.flatnonzero(np.isnan(values).all(axis=0))
    if len(empty):
        raise ValueError(
            f"no training window has a measured value at horizon step {empty[0] + 1}; bring more data or shorten the "
            "horizon"
        )
    offsets = torch.from_numpy(np.nanquantile(values, levels, axis=0).T.astype(np.float32))
    level = torch.tensor(levels)
    return torch.where(level < 0.5, offsets.clamp(max=0), torch.where(level > 0.5, offsets.clamp(min=0), 0))


def around(median: Tensor, steps: Tensor, middle: int) -> Tensor:
    """Quantiles (..., Q) from the median (...,) and the positive steps (..., Q-1) from each level to the next."""
    below = -steps[..., :middle].flip(-1).cumsum(-1).flip(-1)
    above = steps[..., middle:].cumsum(-1)
    centre = median.unsqueeze(-1)
    return torch.cat([centre + below, centre, centre + above], dim=-1)
