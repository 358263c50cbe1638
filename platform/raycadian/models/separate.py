"""Several labels by a model that knows one: each has its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from raycadian.config import LabelModelConfig
from raycadian.models.base import Builder, ModelSpec, TrainingWindows
from raycadian.models.label import LabelModel
from raycadian.types import Batch


class Separate(LabelModel):
    """What is fitted in closed form shares nothing between labels: one of `members` each, on the windows whose label is
    known."""

    def __init__(self, spec: ModelSpec, section: LabelModelConfig, members: Sequence[LabelModel]):
        super().__init__(spec, section)
        self.members = nn.ModuleList(members)

    def score(self, batch: Batch) -> Tensor:
        return torch.stack([member.score(batch) for member in self.members], dim=1)

    def fit_statistics(self, windows: TrainingWindows) -> None:
        super().fit_statistics(windows)
        for i, member in enumerate(self.members):
            member.fit_statistics(_OneLabel(windows, i))

    def calibrate(self, windows: TrainingWindows) -> None:
        for i, member in enumerate(self.members):
            member.calibrate(_OneLabel(windows, i))


class OneLabelModel(LabelModel):
    """A model that knows one label at a time."""

    @classmethod
    def build(cls, section: Any, spec: ModelSpec, builder: Builder) -> LabelModel:
        if spec.labels == 1:
            return cls(spec, section)
        alone = replace(spec, labels=1)
        return Separate(spec, section, [cls(alone, section) for _ in range(spec.labels)])


@dataclass(frozen=True)
class _OneLabel:
    """Windows with the label of number `which` alone."""

    windows: TrainingWindows
    which: int

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, index: Tensor) -> Batch:
        return self._of_one(self.windows.batch(index))

    def batches(self, batch_size: int) -> Iterator[Batch]:
        return map(self._of_one, self.windows.batches(batch_size))

    def labels(self) -> Tensor:
        return self.windows.labels()[:, self.which]

    def weights(self) -> Tensor:
        return self.windows.weights()

    def _of_one(self, batch: Batch) -> Batch:
        return batch | {"label": batch["label"][:, self.which]}
