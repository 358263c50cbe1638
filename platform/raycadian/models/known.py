"""The channels that are known over context and horizon, as models that take them see them."""

import torch
from torch import Tensor, nn

from raycadian.models.base import ModelSpec, TrainingWindows, spaced
from raycadian.types import Batch

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
