"""Linear models of a label on statistics of each channel: what a network has to beat."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raycadian import config
from raycadian.models.base import LabelModel, Spec, TrainingWindows, spaced
from raycadian.types import Batch

_SAMPLE = 16384  # training windows that tell mean and spread of the statistics
PER_CHANNEL = ("mean", "sd", "5%", "25%", "median", "75%", "95%", "sd of the slope", "last second", "trend")


class Statistics(LabelModel):
    """Logistic regression (classify) or least squares (regress) on PER_CHANNEL of each channel.

    The statistics are standardised by training windows. Trained by the same loop as the networks.
    """

    def __init__(self, spec: Spec, section: config.Statistics):
        super().__init__(spec, section)
        size = len(PER_CHANNEL) * len(spec.past)
        self.register_buffer("center", torch.zeros(size))
        self.register_buffer("spread", torch.ones(size))
        self.linear = nn.Linear(size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def score(self, batch: Batch) -> Tensor:
        x = (self.features(batch) - self.center) / self.spread
        return self.linear(x.to(self.linear.weight.dtype)).squeeze(-1)

    def features(self, batch: Batch) -> Tensor:
        """(B, PER_CHANNEL x C)."""
        return channel_statistics(batch["past"].to(self.center.dtype), self.spec.dt_min)

    def prepare(self, windows: TrainingWindows) -> None:
        super().prepare(windows)
        found = torch.cat([self.features(batch) for batch in spaced(windows, _SAMPLE)])
        self.center.copy_(found.mean(0))
        self.spread.copy_(found.std(0, correction=0).clamp(min=1e-6))


def channel_statistics(x: Tensor, dt_min: float) -> Tensor:
    """PER_CHANNEL of each channel of (B, L, C), (B, PER_CHANNEL x C): a statistic's channels stand together."""
    last = max(1, round(1 / (60 * dt_min)))  # points of a second
    half = x.shape[1] // 2
    parts = [
        x.mean(1, keepdim=True), x.std(1, correction=0, keepdim=True), _quantiles(x, (0.05, 0.25, 0.5, 0.75, 0.95)),
        x.diff(dim=1).std(1, correction=0, keepdim=True), x[:, -last:].mean(1, keepdim=True),
        x[:, half:].mean(1, keepdim=True) - x[:, : max(half, 1)].mean(1, keepdim=True),
    ]  # fmt: skip
    return torch.cat(parts, dim=1).flatten(1)


def _quantiles(x: Tensor, levels: tuple[float, ...]) -> Tensor:
    """(B, levels, C), interpolated linearly; torch's own refuses more than 16 million values."""
    place = torch.tensor(levels, dtype=x.dtype, device=x.device) * (x.shape[1] - 1)
    below, ordered = place.long(), x.sort(dim=1).values
    above = (below + 1).clamp(max=x.shape[1] - 1)
    return ordered[:, below].lerp(ordered[:, above], (place - below)[:, None].expand(-1, x.shape[2]))
