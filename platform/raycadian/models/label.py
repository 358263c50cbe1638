"""What every model of a label is: one score a window and label, whose unit its link knows."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from raycadian.config import LabelModelConfig, ModelConfig
from raycadian.models.base import Builder, Model, ModelSpec, TrainingWindows, Viewed, mean_over_valid
from raycadian.models.link import LINKS
from raycadian.types import Batch, LabelPrediction


class LabelModel(Model):
    """A subclass gives `score`, and calls `super().fit_statistics` in its own.

    `link` says what a score is: a log odds (classify), or standard deviations about the mean training label (regress).
    Of several labels each has weight, mean and standard deviation of its own, and the loss is the mean over all that
    are known.
    """

    monitor = "val/loss"

    positive_weight: Tensor
    label_mean: Tensor
    label_sd: Tensor

    def __init__(self, spec: ModelSpec, config: ModelConfig):
        super().__init__(spec, config)
        self.link = LINKS[spec.task]
        self.register_buffer("positive_weight", torch.ones(spec.label_shape))
        self.register_buffer("label_mean", torch.zeros(spec.label_shape))
        self.register_buffer("label_sd", torch.ones(spec.label_shape))

    @abstractmethod
    def score(self, batch: Batch) -> Tensor:
        """(B, *spec.label_shape), in the link's unit."""

    def forward(self, batch: Batch) -> LabelPrediction:
        """A log odds, or a number in the label's unit: (B, *spec.label_shape)."""
        return LabelPrediction(self.link.in_unit(self, self._score(batch)))

    def _score(self, batch: Batch) -> Tensor:
        """Out of mixed precision, which would round a label's unit."""
        return self.score(batch).to(self.label_mean.dtype)

    def forward_loss(self, batch: Batch) -> tuple[LabelPrediction, Tensor]:
        score, label = self._score(batch), batch["label"]
        weight = weights_of(batch).to(score.dtype).view(-1, *[1] * (score.dim() - 1))
        loss = mean_over_valid(self.each_loss(score, label) * weight, label)
        return LabelPrediction(self.link.in_unit(self, score)), loss

    def each_loss(self, score: Tensor, label: Tensor) -> Tensor:
        """As label: of a score, which is in its own unit; of an unknown label, that of 0."""
        return self.link.each_loss(self, score, torch.nan_to_num(label).to(score.dtype))

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """diagnostics: n, the number of known labels; mae and mse of the label (classify: of its probability);
        classify: ranks (2, SCORE_BINS), how many windows without and with the (first) label have a probability in each
        bin."""
        prediction, loss = self.forward_loss(batch)
        label, value = batch["label"], self.link.to_label(prediction.score.detach())
        error = value - torch.nan_to_num(label)
        errors = {"mae": mean_over_valid(error.abs(), label), "mse": mean_over_valid(error.square(), label)}
        first = (x if x.dim() == 1 else x[:, 0] for x in (value, label))
        return loss, {"n": (~torch.isnan(label)).sum(), **errors, **self.link.diagnostics(*first)}

    def fit_statistics(self, windows: TrainingWindows) -> None:
        """Weight, mean and standard deviation of the training labels. Raises ValueError where they are all the same."""
        labels, weights = windows.labels().double().view(len(windows), -1), windows.weights().double()
        moments = [_moments_of(label[~label.isnan()], weights[~label.isnan()]) for label in labels.T]
        mean, sd = torch.tensor(moments, dtype=torch.float64).T.view(2, *self.spec.label_shape)
        self.link.fit(self, mean, sd, self.spec.balanced)


def _moments_of(label: Tensor, weight: Tensor) -> tuple[float, float]:
    """Weighed mean and standard deviation of known labels (N,). Raises ValueError where they are all the same."""
    if len(label) == 0 or label.min() == label.max():
        raise ValueError(
            f"training labels: {len(label)} known, all the same; take another split.seed, more subjects, or another "
            "label"
        )
    mean = (weight * label).sum() / weight.sum()
    variance = (weight * (label - mean).square()).sum() / weight.sum() * len(label) / (len(label) - 1)
    return mean.item(), variance.sqrt().item()


def weights_of(batch: Batch) -> Tensor:
    """(B,): how much each window counts; 1 where the loss isn't weighed."""
    return batch["weight"] if "weight" in batch else torch.ones(len(batch["past"]), device=batch["past"].device)


class Separate(LabelModel):
    """What is fitted in closed form shares nothing between labels: one of `members` each, on windows of known label."""

    def __init__(self, spec: ModelSpec, section: LabelModelConfig, members: Sequence[LabelModel]):
        super().__init__(spec, section)
        self.members = nn.ModuleList(members)

    def score(self, batch: Batch) -> Tensor:
        return torch.stack([member.score(batch) for member in self.members], dim=1)

    def fit_statistics(self, windows: TrainingWindows) -> None:
        super().fit_statistics(windows)
        for i, member in enumerate(self.members):
            member.fit_statistics(_one_label(windows, i))

    def calibrate(self, windows: TrainingWindows) -> None:
        for i, member in enumerate(self.members):
            member.calibrate(_one_label(windows, i))


class OneLabelModel(LabelModel):
    """A model that knows one label at a time."""

    @classmethod
    def build(cls, section: Any, spec: ModelSpec, builder: Builder) -> LabelModel:
        if spec.labels == 1:
            return cls(spec, section)
        alone = replace(spec, labels=1)
        return Separate(spec, section, [cls(alone, section) for _ in range(spec.labels)])


@dataclass(frozen=True)
class _OneLabel(Viewed):
    """Windows with the label of number `which` alone."""

    which: int

    def labels(self) -> Tensor:
        return self.windows.labels()[:, self.which]


def _one_label(windows: TrainingWindows, which: int) -> _OneLabel:
    return _OneLabel(windows, lambda batch: batch | {"label": batch["label"][:, which]}, which)
