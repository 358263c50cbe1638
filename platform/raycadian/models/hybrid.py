"""The residual hybrid: mechanism + learned correction. A wrapper around any model, and a model: wrappers nest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from raycadian import config
from raycadian.models.base import Model, Spec, TrainingWindows
from raycadian.types import Batch, Prediction


class Residual(Model):
    """The inner model sees what the mechanism leaves over of the past and predicts what it will leave over.

    quantiles = mechanism + inner quantiles; parts mechanism and correction (B, H) add up to the median, exactly.
    """

    needs_mechanism = True

    def __init__(self, spec: Spec, config: config.Residual, inner: Model):
        super().__init__(spec, config)
        self.inner = inner

    def forward(self, batch: Batch) -> Prediction:
        found = self.inner(left_over(batch)).quantiles
        mechanism = batch["mechanism"][:, self.spec.context :].to(found.dtype)
        parts = {"mechanism": mechanism, "correction": found[..., self.spec.middle]}
        return Prediction(mechanism.unsqueeze(-1) + found, parts)

    def prepare(self, windows: TrainingWindows) -> None:
        self.inner.prepare(_LeftOver(windows))

    def calibrate(self, windows: TrainingWindows) -> None:
        self.inner.calibrate(_LeftOver(windows))


def left_over(batch: Batch) -> Batch:
    """The batch with the mechanism subtracted from the target channel, past and future.

    `shift` (B, L+H) is all that wrappers have subtracted so far: past + shift is glucose again.
    """
    assert "mechanism" in batch, "cut the windows with a mechanism"
    mechanism, past = batch["mechanism"], batch["past"]
    context = past.shape[1]
    rest = past[..., :1] - mechanism[:, :context, None]
    found = {**batch, "past": torch.cat([rest, past[..., 1:]], dim=-1), "shift": batch.get("shift", 0) + mechanism}
    if "target" in batch:
        found["target"] = batch["target"] - mechanism[:, context:]
    return found


@dataclass(frozen=True)
class _LeftOver:
    """Windows as the inner model sees them."""

    windows: TrainingWindows

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, index: Tensor) -> Batch:
        return left_over(self.windows.batch(index))

    def batches(self, batch_size: int) -> Iterator[Batch]:
        return map(left_over, self.windows.batches(batch_size))
