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
        x = batch["past"].to(self.center.dtype)  # (B, L, C)
        last = max(1, round(1 / (60 * self.spec.dt_min)))  # points of a second
        levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=x.dtype, device=x.device)
        half = x.shape[1] // 2
        parts = [
            x.mean(1, keepdim=True), x.std(1, correction=0, keepdim=True), x.quantile(levels, dim=1).movedim(0, 1),
            x.diff(dim=1).std(1, correction=0, keepdim=True), x[:, -last:].mean(1, keepdim=True),
            x[:, half:].mean(1, keepdim=True) - x[:, : max(half, 1)].mean(1, keepdim=True),
        ]  # fmt: skip
        return torch.cat(parts, dim=1).flatten(1)

    def prepare(self, windows: TrainingWindows) -> None:
        super().prepare(windows)
        found = torch.cat([self.features(batch) for batch in spaced(windows, _SAMPLE)])
        self.center.copy_(found.mean(0))
        self.spread.copy_(found.std(0, correction=0).clamp(min=1e-6))
