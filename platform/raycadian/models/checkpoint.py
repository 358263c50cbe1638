"""Models on disk: model.safetensors (weights and preprocessing statistics) and config.json. No pickle.

A folder appears whole or not at all. Loading needs neither the training data nor the source of a pretrained network.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch.overrides import TorchFunctionMode

from raycadian import config, manifest
from raycadian.errors import CheckpointError
from raycadian.files import read_json, replaced_folder, sha256
from raycadian.models import adapters
from raycadian.models.base import Model, ModelSpec
from raycadian.models.build import build

LARGEST_WEIGHTS = 8 << 30  # bytes; the largest model here has a few million numbers
_WEIGHTS, _CONFIG = "model.safetensors", "config.json"


def save(model: Model, folder: Path) -> None:
    """Write a checkpoint; one that is there already is replaced only once the new one is complete."""
    with replaced_folder(folder) as temporary:
        weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        save_file(weights, temporary / _WEIGHTS)
        (temporary / _CONFIG).write_text(json.dumps(_description(model, temporary), indent=1), encoding="utf-8")


def load(folder: Path) -> Model:
    """The saved model, in evaluation mode on the CPU. Raises CheckpointError for what is missing, damaged, mismatching
    or not finite."""
    manifest.require_intact(folder.parent, folder.name)
    raw = read_json(folder / _CONFIG)
    try:
        return _loaded(folder, raw).eval()
    except Exception as error:  # whatever a description that nobody checked makes of building
        raise CheckpointError(f"{folder}: damaged checkpoint: {error}; copy it again, or train again") from error


def _loaded(folder: Path, raw: dict[str, Any]) -> Model:
    section = TypeAdapter(config.Model).validate_python(raw["model"])
    weights = _read_weights(folder / _WEIGHTS, raw["weights_sha256"])
    with SizeLimit(weights):
        model = build(section, ModelSpec.from_dict(raw["spec"]), iter(_architectures(raw)))
    model.load_state_dict(weights, strict=True)
    for name, value in model.named_parameters():  # buffers may hold bounds that are infinite
        if not value.isfinite().all():
            raise ValueError(f"{_WEIGHTS}: {name} is not finite")
    return model


def _read_weights(path: Path, expected: str) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise ValueError(f"no {path.name}")
    if (n_bytes := path.stat().st_size) > LARGEST_WEIGHTS:
        raise ValueError(f"{path.name} has {n_bytes:,} bytes, at most {LARGEST_WEIGHTS:,}")
    if (digest := sha256(path)) != expected:
        raise ValueError(
            f"{path.name} is not the file that was saved (sha256 {digest[:12]}, expected {str(expected)[:12]})"
        )
    weights = load_file(path)
    for name, value in weights.items():
        if value.is_floating_point() and value.isnan().any():
            raise ValueError(f"{path.name}: {name} is not a number in {int(value.isnan().sum())} places")
    return weights


def export_pretrained(model: Model, folder: Path) -> None:
    """Write the TTM inside `model` as Hugging Face does, LoRA merged: what `ttm.pretrained: <folder>` starts from.

    Its point forecasts are the model's (within a hybrid: its correction's); the layer that gives the other quantiles is
    ours, not part of the format, and starts afresh. Raises ValueError where there is no TTM inside.
    """
    networks = [part.network for part in model.modules() if getattr(part, "exports_network", False)]
    if len(networks) != 1:
        name = config.model_name(model.config)
        raise ValueError(f"only one ttm can be exported, alone or wrapped; found {len(networks)} in {name}")
    with replaced_folder(folder) as temporary, _without_bars():
        adapters.merged(networks[0]).save_pretrained(temporary)


@contextmanager
def _without_bars() -> Iterator[None]:
    """Hugging Face's bar of shards says nothing of a network of one."""
    from transformers.utils import logging as hugging_face

    shown = hugging_face.is_progress_bar_enabled()
    hugging_face.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hugging_face.enable_progress_bar()


def weights_sha256(folder: Path) -> str:
    """Of the weights, as the checkpoint's description says. Raises CheckpointError."""
    digest = read_json(folder / _CONFIG).get("weights_sha256")
    if not isinstance(digest, str):
        raise CheckpointError(f"{folder / _CONFIG}: weights_sha256: expected text, found {digest!r}")
    return digest


def _networks(model: Model) -> list[Any]:
    """Granite's networks inside, in the order of building."""
    return [part.network for part in model.modules() if isinstance(part, Model) and hasattr(part, "network")]


def _description(model: Model, folder: Path) -> dict[str, Any]:
    return {
        "model": model.config.model_dump(mode="json"),
        "spec": model.spec.to_dict(),
        "architectures": [network.config.to_dict() for network in _networks(model)],
        "weights_sha256": sha256(folder / _WEIGHTS),
    }


def _architectures(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """Checkpoints from before ensembles hold one `architecture`, or null."""
    if "architectures" in raw:
        return raw["architectures"]
    return [] if raw["architecture"] is None else [raw["architecture"]]


class SizeLimit(TorchFunctionMode):
    """While it is on, tensors can't be made that are far more, or far larger, than the weights that will fill them: a
    description of a checkpoint can ask for any size. Raises ValueError."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self._room = 1_000 + 20 * len(weights)
        self._elements = 16 * sum(value.numel() for value in weights.values()) + 50_000_000

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FACTORIES:  # asked on a device without memory: what is too large is never made
            self._elements -= func(*args, **(kwargs | {"device": "meta"})).numel()
            self._room -= 1
            if self._room < 0 or self._elements < 0:
                raise ValueError(f"{_CONFIG} describes a model far larger than its weights")
        return func(*args, **kwargs)


_FACTORIES = {
    torch.empty,
    torch.zeros,
    torch.ones,
    torch.full,
    torch.rand,
    torch.randn,
    torch.eye,
    torch.arange,
    torch.linspace,
    torch.tensor,
}
