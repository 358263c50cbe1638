"""TTM's backbone with a head for a label, and its pretraining on signals without one.

Shapes as in types.py, and: P patches   D width of a patch's embedding
"""

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from raycadian import config
from raycadian.models import adapters, ttm
from raycadian.models.base import Builder, ModelSpec, TrainingWindows, spaced
from raycadian.models.label import LabelModel
from raycadian.models.masked import Masked, is_ours, load_encoder
from raycadian.models.seen import joined_cycles
from raycadian.types import Batch

_HIDDEN = 128  # width of the head `mlp`
_SAMPLE = 16384  # training windows that tell how levels vary


class TTMLabel(LabelModel):
    """The mean over each piece's patches, of each channel, goes to the head, with the piece's level.

    TTM standardises every piece by its own mean and standard deviation, and so forgets both: the head gets them back,
    standardised by training windows, since a pressure of 60 mmHg is not one of 90.
    """

    adaptable = "network", ttm.ADAPTED_LAYERS
    centre: Tensor
    spread: Tensor

    def __init__(self, spec: ModelSpec, section: config.TTMLabel, network: nn.Module):
        from raycadian.models import granite

        super().__init__(spec, section)
        self.network = network
        level = 2 * len(spec.past)
        self.register_buffer("centre", torch.zeros(level))
        self.register_buffer("spread", torch.ones(level))
        width = section.pieces * (len(spec.past) * network.config.d_model + level)
        self.head = _head(section, width, spec.labels)
        adapters.apply(section.adapter, network, network, granite.backbone_layers(network), self.head)
        self.frequency = granite.frequency(network.config, spec.dt_min)

    @classmethod
    def build(cls, section: config.TTMLabel, spec: ModelSpec, builder: Builder) -> Self:
        network, section = _backbone(section, spec, builder)
        return cls(spec, section, network)

    @property
    def backbone(self) -> nn.Module:
        return self.network

    def score(self, batch: Batch) -> Tensor:
        past, mask = _pieces(batch, self.config.pieces, self.centre.dtype)
        token = None if self.frequency is None else torch.full((len(past),), self.frequency, device=past.device)
        output = self.network(past, past_observed_mask=mask, freq_token=token)
        level = (_level(output.loc, output.scale) - self.centre) / self.spread
        state = torch.cat([output.last_hidden_state.mean(2).flatten(1).to(level.dtype), level], dim=1)
        return self.head(state.reshape(len(batch["past"]), -1)).view(-1, *self.spec.label_shape)

    @torch.no_grad()
    def fit_statistics(self, windows: TrainingWindows) -> None:
        super().fit_statistics(windows)
        levels = []
        for batch in spaced(windows, _SAMPLE):
            past, mask = _pieces(batch, self.config.pieces, self.centre.dtype)
            levels.append(_level(*self.network.scaler(past, mask)[1:]))
        level = torch.cat(levels)
        self.centre.copy_(level.mean(0))
        self.spread.copy_(level.std(0, correction=0).clamp(min=1e-6))


class MaskedTTM(Masked):
    """Hidden patches are 0, the window's mean, in what the backbone sees; a linear layer rebuilds every patch."""

    def __init__(self, spec: ModelSpec, section: config.Masked, network: nn.Module):
        from raycadian.models import granite

        patch = network.config.patch_length
        super().__init__(spec, section, spec.context // section.inner.pieces // patch)
        self.network = network
        self.decoder = nn.Linear(network.config.d_model, patch)
        self.frequency = granite.frequency(network.config, spec.dt_min)

    @classmethod
    def build(cls, section: config.Masked, spec: ModelSpec, builder: Builder) -> Self:
        network, inner = _backbone(section.inner, spec, builder)
        return cls(spec, section.with_parts([inner]), network)

    def signal(self, batch: Batch) -> Tensor:
        past, mask = _pieces(batch, self.config.inner.pieces, self.levels.dtype)
        scaled = self.network.scaler(past, mask)[0]
        return torch.where(mask, scaled, 0.0).reshape(batch["past"].shape)

    def rebuild(self, signal: Tensor, batch: Batch, hidden: Tensor) -> Tensor:
        pieces = signal.unflatten(1, (self.config.inner.pieces, -1)).flatten(0, 1)
        gone = hidden.repeat_interleave(pieces.shape[1] // len(hidden)).unsqueeze(-1)
        patches = self.network.patching(pieces.masked_fill(gone, 0.0))  # (B, C, P, patch)
        token = None if self.frequency is None else torch.full((len(pieces),), self.frequency, device=signal.device)
        states = self.network.encoder(patches, return_dict=True, freq_token=token).last_hidden_state
        rebuilt = self.decoder(states[:, :, -len(hidden) :])  # a frequency's token stands before the patches
        return rebuilt.flatten(2).mT.reshape(signal.shape)


def _backbone(section: config.TTMLabel, spec: ModelSpec, builder: Builder) -> tuple[nn.Module, config.TTMLabel]:
    """The backbone, with the weights of `section.pretrained` where it names some, and the section with the NHANES
    cycles that they have seen; a checkpoint of ours says them itself. Raises ValueError."""
    from raycadian.models import granite

    if builder.restoring:
        return granite.saved_backbone(builder.architecture()), section
    if spec.context % section.pieces:
        raise ValueError(
            f"ttm_label.pieces {section.pieces} don't divide the window's {spec.context} points; take a divisor of it"
        )
    context, channels = spec.context // section.pieces, len(spec.past)
    if section.pretrained is None:
        return granite.random_backbone(section, context, channels), section
    if is_ours(Path(section.pretrained).expanduser()):
        backbone = granite.random_backbone(section, context, channels)
        known = load_encoder(Path(section.pretrained).expanduser(), section, backbone, "network.").get("cycles")
        return backbone, section.model_copy(update={"cycles": joined_cycles(known, section.cycles) or None})
    return granite.pretrained_backbone(section, context, channels), section


def _head(section: config.TTMLabel, width: int, labels: int) -> nn.Module:
    if section.head == "linear":
        return nn.Sequential(nn.Dropout(section.dropout), nn.Linear(width, labels))
    return nn.Sequential(
        nn.Dropout(section.dropout), nn.Linear(width, _HIDDEN), nn.GELU(), nn.Dropout(section.dropout),
        nn.Linear(_HIDDEN, labels),
    )  # fmt: skip


def _pieces(batch: Batch, pieces: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Past and mask, (B x pieces, L / pieces, C)."""
    return tuple(
        part.unflatten(1, (pieces, -1)).flatten(0, 1) for part in (batch["past"].to(dtype), batch["past_mask"])
    )


def _level(loc: Tensor, scale: Tensor) -> Tensor:
    """(B, 2 C): mean and log standard deviation of each channel, from TTM's scaler (B, 1, C)."""
    return torch.cat([loc, scale.log()], dim=1).flatten(1)
