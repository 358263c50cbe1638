"""Signals as networks take them: standardised by what training windows measured."""

import torch
from torch import Tensor, nn

from raycadian.models.base import ModelSpec, TrainingWindows, spaced
from raycadian.types import Batch

_BATCH = 256
_LEAST = 0.1  # of the standard deviation over all points: at a point where few ever moved one who does is no giant


class Scaling(nn.Module):
    """The past less its mean over training windows, divided by their standard deviation; points that were not measured
    are at the mean: 0. Per channel, over all points of the window (`points` 1) or at each of them (`points` L), then at
    least a tenth of that over all."""

    mean: Tensor
    sd: Tensor

    def __init__(self, channels: int, points: int = 1):
        super().__init__()
        self.register_buffer("mean", torch.zeros(points, channels))
        self.register_buffer("sd", torch.ones(points, channels))

    def forward(self, batch: Batch) -> Tensor:
        """(B, L, C)."""
        scaled = (batch["past"].to(self.mean.dtype) - self.mean) / self.sd
        return torch.where(batch["past_mask"], scaled, 0.0)

    @torch.no_grad()
    def fit_statistics(self, windows: TrainingWindows) -> None:
        """From all training windows, in one pass. Raises ValueError for a channel of which nothing was measured."""
        sums = torch.zeros(3, *self.mean.shape, dtype=torch.float64)  # count, sum, sum of squares
        for batch in windows.batches(_BATCH):
            seen = batch["past_mask"].double()
            value = batch["past"].double() * seen
            parts = torch.stack([seen.sum(0), value.sum(0), value.square().sum(0)])
            sums += parts if len(self.mean) > 1 else parts.sum(1, keepdim=True)
        if empty := (sums[0].sum(0) == 0).nonzero().flatten().tolist():
            raise ValueError(f"past channels {empty} have no measured point in any training window; take others")
        mean, sd = _moments(sums)
        over_all_mean, over_all = _moments(sums.sum(1, keepdim=True))
        self.mean.copy_(torch.where(sums[0] > 0, mean, over_all_mean))
        sd = torch.maximum(sd, _LEAST * over_all)
        self.sd.copy_(torch.where(sd > 1e-6 * (1 + mean.abs()), sd, 1.0))


def _moments(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation from count, sum and sum of squares, (3, points, C)."""
    mean = sums[1] / sums[0].clamp(min=1)
    return mean, (sums[2] / sums[0].clamp(min=1) - mean.square()).clamp(min=0).sqrt()


_SAMPLE = 4096  # windows that give the statistics


class KnownCovariates(nn.Module):
    """Known channels less their mean over training windows, divided by their standard deviation (1 where constant)."""

    mean: Tensor
    sd: Tensor

    def __init__(self, spec: ModelSpec):
        super().__init__()
        self.register_buffer("mean", torch.zeros(len(spec.known)))
        self.register_buffer("sd", torch.ones(len(spec.known)))

    def forward(self, batch: Batch) -> Tensor:
        """(B, L+H, K)."""
        return (batch["known"].to(self.mean.dtype) - self.mean) / self.sd

    @torch.no_grad()
    def fit_statistics(self, windows: TrainingWindows) -> None:
        values = torch.cat([batch["known"] for batch in spaced(windows, _SAMPLE)]).double().flatten(0, 1)
        sd = values.std(0, correction=0)
        self.mean.copy_(values.mean(0))
        self.sd.copy_(torch.where(sd > 1e-6, sd, 1.0))
