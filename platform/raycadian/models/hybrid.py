"""The residual hybrid: mechanism + learned correction. A wrapper around any model, and a model: wrappers nest."""

from __future__ import annotations

import torch

from raycadian.models.base import Wrapper
from raycadian.types import Batch, Prediction


class Residual(Wrapper):
    """The inner model sees what the mechanism leaves over of the past and predicts what it will leave over.

    quantiles = mechanism + inner quantiles; parts mechanism and correction (B, H) add up to the median, exactly. The loss
    is the correction's: shifting forecast and truth alike changes no error.
    """

    def view(self, batch: Batch) -> Batch:
        return left_over(batch)

    def restore(self, found: Prediction, batch: Batch) -> Prediction:
        mechanism = batch["mechanism"][:, self.spec.context :].to(found.quantiles.dtype)
        parts = {"mechanism": mechanism, "correction": found.quantiles[..., self.spec.middle]}
        return Prediction(mechanism.unsqueeze(-1) + found.quantiles, parts)


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
