"""Tiny Time Mixer (Ekambaram et al. 2024) as a forecaster: granite's network, and what makes quantiles of it."""

import math
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycadian import config
from raycadian.models import adapters
from raycadian.models.base import Builder, ModelSpec, TrainingWindows
from raycadian.models.heads import Headed, QuantileOffsets, Quantiles, StudentT, around
from raycadian.models.scaling import KnownCovariates
from raycadian.types import Batch

ADAPTED_LAYERS = ("fc1", "fc2", "attn_layer")
"""Linear layers that a person's adapter adds to."""


class TTM(Headed):
    """TTM's forecast as the median, with increments to the other quantiles (or the width of a Student's t) from the
    decoder's state.

    It scales every window itself by the mean and standard deviation of what was measured. All past channels enter
    (`mix_channel` in the decoder where there are several), glucose alone is forecast. `exogenous`: the known channels
    enter too, standardised, as granite's exogenous channels: over the context beside glucose, and over the horizon into
    a block that mixes them into every step with its neighbours. It mixes what it is given, so glucose is scaled before.
    """

    adaptable = "network", ADAPTED_LAYERS
    exports_network = True

    def __init__(self, spec: ModelSpec, section: config.TTM, network: nn.Module):
        from raycadian.models import granite

        super().__init__(spec, section)
        self.network = network
        self.steps = Steps(spec, network.config, section.head)
        self.tails = QuantileOffsets(spec) if section.head == "student_t" else None
        self.known = KnownCovariates(spec) if section.exogenous else None
        backbone = network.backbone
        adapters.apply(section.adapter, network, backbone, granite.backbone_layers(backbone), network.head)
        self.frequency = granite.frequency(network.config, spec.dt_min)

    @classmethod
    def build(cls, section: config.TTM, spec: ModelSpec, builder: Builder) -> Self:
        from raycadian.models import granite  # imports granite-tsfm: 4 s that other models don't pay

        if builder.restoring:
            return cls(spec, section, granite.saved_network(builder.architecture(), spec))
        if section.pretrained is not None:
            return cls(spec, section, granite.pretrained_network(spec, section))
        return cls(spec, section, granite.random_network(spec, section))

    @property
    def backbone(self) -> nn.Module:
        return self.network.backbone

    def distribution(self, batch: Batch) -> Quantiles | StudentT:
        median, state, scale = self._forecast(batch) if self.known is None else self._with_known(batch)
        raw = self.steps(state)
        if self.tails is not None:
            return self.tails(median, raw[..., 0], scale)
        return Quantiles(around(median, raw.to(scale.dtype) * scale.unsqueeze(-1), self.spec.middle), self.levels)

    def fit_statistics(self, windows: TrainingWindows) -> None:
        if self.known is not None:
            self.known.fit_statistics(windows)

    def _forecast(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Median (B, H) mg/dL, the decoder's state (B, patches, width), the window's deviation (B, 1) mg/dL."""
        past = batch["past"].to(self.levels.dtype)
        output = self._run(past, batch["past_mask"])
        return output.prediction_outputs[..., 0], output.decoder_hidden_state[:, 0], output.scale[:, 0]

    def _with_known(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The same, with the known channels behind the past ones."""
        past, known = batch["past"].to(self.levels.dtype), self.known(batch)
        mask, context = batch["past_mask"], self.spec.context
        past, centre, scale = self.network.backbone.scaler(past, mask)
        seen = mask.new_ones(len(past), context, known.shape[-1])
        unknown = past.new_zeros(len(past), self.spec.horizon, past.shape[-1])
        output = self._run(
            torch.cat([past, known[:, :context]], dim=-1),
            torch.cat([mask, seen], dim=-1),
            torch.cat([unknown, known[:, context:]], dim=-1),
        )
        median = output.prediction_outputs[..., 0] * scale[..., 0] + centre[..., 0]
        return median, output.decoder_hidden_state[:, 0], scale[..., 0]

    def _run(self, past: Tensor, mask: Tensor, future: Tensor | None = None) -> Any:
        token = None if self.frequency is None else torch.full((len(past),), self.frequency, device=past.device)
        return self.network(past, past_observed_mask=mask, future_values=future, return_loss=False, freq_token=token)


class Steps(nn.Module):
    """Positive steps between neighbouring quantiles from the decoder's state, in the window's standard deviations; or
    the one raw width of a distribution.

    Granite's own `multi_quantile_head` sees the shape of the forecast alone, and takes symmetric levels only.
    """

    def __init__(self, spec: ModelSpec, network: Any, head: config.Head):
        super().__init__()
        self.positive = head == "quantiles"
        self.shape = (spec.horizon, len(spec.quantiles) - 1 if self.positive else 1)
        width = network.decoder_d_model if network.use_decoder else network.d_model
        steps = math.prod(self.shape)
        # none where the median alone is wanted
        self.linear = nn.Linear(network.num_patches * width, steps) if steps else None

    def forward(self, state: Tensor) -> Tensor:
        """state (B, patches, width) -> (B, H, Q-1), or (B, H, 1)."""
        if self.linear is None:
            return state.new_empty(len(state), *self.shape)
        raw = self.linear(state.flatten(1)).unflatten(1, self.shape)
        return F.softplus(raw) if self.positive else raw
