"""Ways to join the mechanism with a learned model. Each is a wrapper around any model, and a model: wrappers nest."""

from dataclasses import replace

import torch
from torch import Tensor

from raycadian import config
from raycadian.models.base import ModelSpec, Wrapper, mean_over_valid
from raycadian.types import SIGNAL, Batch, Prediction


class Residual(Wrapper):
    """The inner model sees what the mechanism leaves over of the past and predicts what it will leave over.

    quantiles = mechanism + inner quantiles; parts mechanism and correction (B, H) add up to the median, exactly. The
    loss is the correction's: shifting forecast and truth alike changes no error.
    """

    def view(self, batch: Batch) -> Batch:
        return left_over(batch)

    def restore(self, prediction: Prediction, batch: Batch) -> Prediction:
        quantiles = prediction.quantiles
        mechanism = batch["mechanism"][:, self.spec.context :].to(quantiles.dtype)
        parts = {"mechanism": mechanism, "correction": quantiles[..., self.spec.middle]}
        return Prediction(mechanism.unsqueeze(-1) + quantiles, parts)


def left_over(batch: Batch) -> Batch:
    """The batch with the mechanism subtracted from the target channel, past and future.

    `shift` (B, L+H) is all that wrappers have subtracted so far: past + shift is glucose again.
    """
    assert "mechanism" in batch, "cut the windows with a mechanism"
    mechanism, past = batch["mechanism"], batch["past"]
    context = past.shape[1]
    rest = past[..., :1] - mechanism[:, :context, None]
    shift = batch.get("shift", 0) + mechanism
    viewed = {**batch, "past": torch.cat([rest, past[..., 1:]], dim=-1), "shift": shift}
    if "target" in batch:
        viewed["target"] = batch["target"] - mechanism[:, context:]
    return viewed


class Exogenous(Wrapper):
    """The mechanism's signals join the known channels: the inner model may use them over context and horizon."""

    @classmethod
    def inner_spec(cls, spec: ModelSpec, section: config.Exogenous) -> ModelSpec:
        return replace(spec, known=spec.known + signal_keys(section))

    def view(self, batch: Batch) -> Batch:
        columns = [batch[name] for name in signal_keys(self.config)]
        return {**batch, "known": torch.cat([batch["known"], torch.stack(columns, dim=-1)], dim=-1)}


def signal_keys(section: config.Exogenous) -> tuple[str, ...]:
    """Their names in a batch. The mechanism's own curve is there already."""
    return tuple("mechanism" if name == "glucose" else SIGNAL + name for name in section.signals)


class Physics(Wrapper):
    """The inner model, whose loss also asks for the mechanism's rate of change.

    loss = inner loss + weight * mean over the horizon of (dy/dt - dM/dt)^2, y the median forecast, M the mechanism,
    both in mg/dL per hour, by differences from the last point of the context on. Glucose moves by about 30 mg/dL in an
    hour: the mean square is some hundreds, where the pinball loss is 3 to 10 mg/dL. (Karniadakis et al. 2021, Nature
    Reviews Physics 3:422-440, on losses from equations.)
    """

    def forward_loss(self, batch: Batch) -> tuple[Prediction, Tensor]:
        prediction, loss = super().forward_loss(batch)
        return prediction, loss + self.config.weight * self.penalty(prediction, batch)

    def penalty(self, prediction: Prediction, batch: Batch) -> Tensor:
        """(mg/dL per hour)^2, over the steps that have a measured target: those that the inner loss looks at."""
        assert "mechanism" in batch, "cut the windows with a mechanism"
        last = self.spec.context - 1
        median = prediction.quantiles[..., self.spec.middle]
        path = torch.cat([batch["past"][:, -1:, 0].to(median.dtype), median], dim=1)
        if "shift" in batch:  # inside a residual: glucose is what is left over plus what was subtracted
            path = path + batch["shift"][:, last:]
        rate = (path - batch["mechanism"][:, last:]).diff(dim=1) * (60.0 / self.spec.dt_min)
        return mean_over_valid(rate.square(), batch["target"])


class Staged(Wrapper):
    """The inner model. How it trains (training/stages.py) is all that is said of it: the forecast is the inner's."""
