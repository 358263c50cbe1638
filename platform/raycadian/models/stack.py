"""Several models of a label, as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from raycadian import config
from raycadian.models import logistic
from raycadian.models.base import LabelModel, Spec, TrainingWindows, spaced
from raycadian.types import Batch, LabelPrediction

_SAMPLE = 65536  # validation windows that weigh the members


class Stack(LabelModel):
    """Stacking (Wolpert, Neural Networks 5:241, 1992): weight . members' scores + constant.

    The scores are log odds or numbers in the label's unit. Members train as if alone, the mean of their losses together;
    `calibrate` finds the weights, none below 0, on validation labels: a logistic regression, whose probabilities are
    calibrated by its making, or least squares. Until then each counts alike.
    """

    weight: Tensor
    constant: Tensor

    def __init__(self, spec: Spec, section: config.Stack, members: Sequence[LabelModel]):
        super().__init__(spec, section)
        self.members = nn.ModuleList(members)
        self.register_buffer("weight", torch.full((len(members),), 1 / len(members)))
        self.register_buffer("constant", torch.zeros(()))

    def score(self, batch: Batch) -> Tensor:
        return self._joined([member(batch) for member in self.members])

    def _joined(self, found: Sequence[LabelPrediction]) -> Tensor:
        scores = torch.stack([one.score for one in found], dim=1)
        return (scores * self.weight).sum(1) + self.constant

    def learn(self, batch: Batch) -> tuple[LabelPrediction, Tensor]:
        found, losses = zip(*(member.learn(batch) for member in self.members), strict=True)
        return LabelPrediction(self._joined(found)), torch.stack(losses).mean()

    def prepare(self, windows: TrainingWindows) -> None:
        for member in self.members:
            member.prepare(windows)

    @torch.no_grad()
    def calibrate(self, windows: TrainingWindows) -> None:
        for member in self.members:
            member.calibrate(windows)
        parts = [
            (torch.stack([member(batch).score for member in self.members], dim=1), batch["label"])
            for batch in spaced(windows, _SAMPLE, batch_size=256)
        ]
        scores, label = (torch.cat(part).double().numpy() for part in zip(*parts, strict=True))
        known = ~np.isnan(label)
        if len(np.unique(label[known])) < 2:
            raise ValueError(
                f"stack: {known.sum()} validation labels are known, all the same: nothing to weigh its members by; take "
                "another split.seed or more subjects"
            )
        weight, constant = logistic.fit(
            scores[known], label[known], logistic=self.spec.task == "classify", nonnegative=True
        )
        self.weight.copy_(torch.from_numpy(weight))
        self.constant.fill_(constant)
