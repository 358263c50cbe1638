"""Learning from unlabelled signals: hide patches, rebuild the signal, count the error. For any backbone of patches."""

from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from raycadian import config, manifest
from raycadian.errors import CheckpointError
from raycadian.files import read_json
from raycadian.models.base import Model, ModelSpec
from raycadian.models.seen import joined_cycles
from raycadian.types import Batch, Reconstruction


class Masked(Model):
    """Masked autoencoding (He et al. 2022). A subclass says what is rebuilt and how.

    One draw of hidden patches serves a batch; in training it comes from torch's generator, in evaluation it is always
    the same, so that losses compare. The loss is the mean squared error over all points that were measured, or those of
    hidden patches alone (`error`).
    """

    monitor = "val/loss"

    def __init__(self, spec: ModelSpec, section: config.Masked, patches: int):
        super().__init__(spec, section)
        self.patches = patches

    def remember_cycles(self, cycles: Iterable[str]) -> None:
        """Add the NHANES cycles that it learns from to those that its network has seen; the checkpoint keeps them."""
        inner = self.config.inner
        seen = joined_cycles(inner.cycles, cycles)
        self.config = self.config.model_copy(update={"inner": inner.model_copy(update={"cycles": seen})})

    @abstractmethod
    def signal(self, batch: Batch) -> Tensor:
        """(B, L, C): what is to be rebuilt, standardised."""

    @abstractmethod
    def rebuild(self, signal: Tensor, batch: Batch, hidden: Tensor) -> Tensor:
        """(B, L, C), from the patches where hidden (P,) is False."""

    def forward(self, batch: Batch) -> Reconstruction:
        return self._rebuilt(self.signal(batch), batch)

    def _rebuilt(self, signal: Tensor, batch: Batch) -> Reconstruction:
        generator = None if self.training else torch.Generator().manual_seed(0)
        hidden = draw(self.patches, self.config.share, generator).to(signal.device)
        return Reconstruction(self.rebuild(signal, batch, hidden), hidden)

    def forward_loss(self, batch: Batch) -> tuple[Reconstruction, Tensor]:
        reconstruction, _, loss = self._errors(batch)
        return reconstruction, loss

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """diagnostics: n, the number of points measured; mae and mse over them, standardised."""
        _, error, loss = self._errors(batch)
        error, seen = error.detach(), batch["past_mask"]
        means = {"mae": mean_where(error.abs(), seen), "mse": mean_where(error.square(), seen)}
        return loss, {"n": seen.sum(), **means}

    def _errors(self, batch: Batch) -> tuple[Reconstruction, Tensor, Tensor]:
        signal, counted = self.signal(batch), batch["past_mask"]
        reconstruction = self._rebuilt(signal, batch)
        if self.config.error == "hidden":
            counted = counted & reconstruction.hidden.repeat_interleave(signal.shape[1] // self.patches).unsqueeze(-1)
        error = reconstruction.signal.to(signal.dtype) - signal
        return reconstruction, error, mean_where(error.square(), counted)


def draw(patches: int, share: float, generator: torch.Generator | None = None) -> Tensor:
    """(P,) bool on the CPU: `share` of the patches, at random, that are hidden; at least one is and one is not.

    Raises ValueError where there are fewer than two.
    """
    if patches < 2:
        raise ValueError(
            f"of two patches or more some are rebuilt from the others; found {patches}: lengthen the window"
        )
    count = min(max(round(share * patches), 1), patches - 1)
    hidden = torch.zeros(patches, dtype=torch.bool)
    hidden[torch.randperm(patches, generator=generator)[:count]] = True
    return hidden


def mean_where(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of the values that count; 0 where none does."""
    return (values * (counted / counted.sum().clamp(min=1))).sum()


def is_ours(folder: Path) -> bool:
    """Whether a folder is a checkpoint of this platform, and not one of others."""
    path = folder / "config.json"
    return path.is_file() and '"weights_sha256"' in path.read_text(encoding="utf-8", errors="replace")


def load_encoder(folder: Path, section: config.PretrainedNetwork, encoder: nn.Module, prefix: str) -> dict[str, Any]:
    """The weights of a run of `masked` into an encoder as `section` describes it, whole or not at all; what the run's
    network was, in the words of its section. Raises ValueError."""
    manifest.require_intact(folder.parent, folder.name)
    inner = _pretrained_inner(folder)
    shape = section.encoder_shape()
    saved = {name: inner.get(name) for name in shape}
    if saved != shape:
        lines = [f"{name}: {saved[name]}, here {shape[name]}" for name in shape if saved[name] != shape[name]]
        raise ValueError(f"{folder} was pretrained with another network: {'; '.join(lines)}; set these to the first")
    try:
        weights = load_file(folder / "model.safetensors")
        inside = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        encoder.load_state_dict(inside, strict=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder}: the weights can't be read: {error}; copy the checkpoint again") from error
    return inner


def _pretrained_inner(folder: Path) -> dict[str, Any]:
    """The section of the network inside `masked` of a checkpoint."""
    try:
        model = read_json(folder / "config.json")["model"]
        kind, inner = model["kind"], model.get("inner", {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder}: no readable config.json ({error}); expected the checkpoint of a run of `masked`"
        ) from error
    if kind != "masked":
        raise ValueError(f"{folder}: expected the checkpoint of a run of `masked`, found one of {kind!r}")
    return inner
