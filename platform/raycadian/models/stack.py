"""Several models of a label, as one."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from raycadian import config
from raycadian.models import logistic
from raycadian.models.base import Builder, ModelSpec, TrainingWindows, spaced
from raycadian.models.label import LabelModel, weights_of
from raycadian.types import Batch, LabelPrediction

_SAMPLE = 65536  # validation windows that weigh the members


class Stack(LabelModel):
    """Stacking (Wolpert, Neural Networks 5:241, 1992): weight . members' scores + constant, for each label alone.

    The scores are log odds or numbers in the label's unit. Members train as if alone, the mean of their losses
    together; `calibrate` finds the weights, none below 0, on validation labels: a logistic regression, whose
    probabilities are calibrated by its making, or least squares. Until then each counts alike.
    """

    weight: Tensor
    constant: Tensor

    def __init__(self, spec: ModelSpec, section: config.Stack, members: Sequence[LabelModel]):
        super().__init__(spec, section)
        self.members = nn.ModuleList(members)
        self.register_buffer("weight", torch.full((len(members), *spec.label_shape), 1 / len(members)))
        self.register_buffer("constant", torch.zeros(spec.label_shape))

    @classmethod
    def build(cls, section: config.Stack, spec: ModelSpec, builder: Builder) -> Self:
        return cls(spec, section, [builder.build(member, spec) for member in section.members])

    def score(self, batch: Batch) -> Tensor:
        return self._joined([member(batch) for member in self.members])

    def _joined(self, predictions: Sequence[LabelPrediction]) -> Tensor:
        scores = torch.stack([prediction.score for prediction in predictions], dim=1)
        return (scores * self.weight).sum(1) + self.constant

    def forward_loss(self, batch: Batch) -> tuple[LabelPrediction, Tensor]:
        predictions, losses = zip(*(member.forward_loss(batch) for member in self.members), strict=True)
        return LabelPrediction(self._joined(predictions)), torch.stack(losses).mean()

    def fit_statistics(self, windows: TrainingWindows) -> None:
        for member in self.members:
            member.fit_statistics(windows)

    @torch.no_grad()
    def calibrate(self, windows: TrainingWindows) -> None:
        for member in self.members:
            member.calibrate(windows)
        parts = [
            (torch.stack([member(batch).score for member in self.members], dim=1), batch["label"], weights_of(batch))
            for batch in spaced(windows, _SAMPLE, batch_size=256)
        ]
        scores, label, weight = (torch.cat(part).double().numpy() for part in zip(*parts, strict=True))
        scores, label = scores.reshape(*scores.shape[:2], -1), label.reshape(len(label), -1)
        fits = [self._weighed(scores[..., i], label[:, i], weight) for i in range(self.spec.labels)]
        weights, constants = (np.stack(part, axis=-1) for part in zip(*fits, strict=True))
        self.weight.copy_(torch.from_numpy(weights).view_as(self.weight))
        self.constant.copy_(torch.from_numpy(constants).view_as(self.constant))

    def _weighed(self, scores: np.ndarray, label: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, float]:
        """Weights (M,) and constant of one label from its members' scores (N, M)."""
        known = ~np.isnan(label)
        if len(np.unique(label[known])) < 2:
            raise ValueError(
                f"stack: {known.sum()} validation labels are known, all the same: nothing to weigh its members by; "
                "take another split.seed or more subjects"
            )
        x, wanted, weight = scores[known], label[known], weight[known]
        return logistic.fit(x, wanted, logistic=self.link.logistic, weight=weight, nonnegative=True)
