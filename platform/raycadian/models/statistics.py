"""Linear models of a label on variables made by hand: what a network has to beat."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raycadian import config
from raycadian.models import features
from raycadian.models.base import LabelModel, Spec, TrainingWindows, spaced
from raycadian.types import Batch

_SAMPLE = 16384  # training windows that tell mean and spread of the variables


class Statistics(LabelModel):
    """Logistic regression (classify) or least squares (regress) on features.py's variables.

    They are standardised by training windows; one that a window lacks is at its mean. Trained by the same loop as the
    networks.
    """

    def __init__(self, spec: Spec, section: config.Statistics):
        super().__init__(spec, section)
        size = len(features.names(section.features, spec))
        self.register_buffer("center", torch.zeros(size))
        self.register_buffer("spread", torch.ones(size))
        self.linear = nn.Linear(size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def score(self, batch: Batch) -> Tensor:
        x = torch.nan_to_num((self.variables(batch) - self.center) / self.spread)
        return self.linear(x.to(self.linear.weight.dtype)).squeeze(-1)

    def variables(self, batch: Batch) -> Tensor:
        """(B, F), NaN = missing."""
        batch = {**batch, "past": batch["past"].to(self.center.dtype)}
        return features.compute(self.config.features, batch, self.spec)

    def prepare(self, windows: TrainingWindows) -> None:
        super().prepare(windows)
        found = torch.cat([self.variables(batch) for batch in spaced(windows, _SAMPLE)])
        center = found.nanmean(0)
        self.center.copy_(center.nan_to_num())
        self.spread.copy_((found - center).square().nanmean(0).sqrt().nan_to_num().clamp(min=1e-6))
