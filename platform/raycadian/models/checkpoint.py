"""Models on disk: model.safetensors (weights and preprocessing statistics) and config.json. No pickle.

A folder appears whole or not at all. Loading needs neither the training data nor the source of a pretrained network.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from raycadian import config
from raycadian.files import replaced_folder
from raycadian.models import adapters
from raycadian.models.base import Model, ModelSpec
from raycadian.models.build import build

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"


def save(model: Model, folder: Path) -> None:
    """Write a checkpoint; one that is there already is replaced only once the new one is complete."""
    with replaced_folder(folder) as temporary:
        weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        save_file(weights, temporary / _WEIGHTS)
        (temporary / _CONFIG).write_text(json.dumps(_description(model, temporary), indent=1), encoding="utf-8")


def load(folder: Path) -> Model:
    """The saved model, in evaluation mode on the CPU. Raises ValueError for what is missing, damaged or mismatching."""
    raw = _read_description(folder)
    try:
        section = TypeAdapter(config.Model).validate_python(raw["model"])
        model = build(section, ModelSpec.from_dict(raw["spec"]), iter(_architectures(raw)))
        digest, expected = _digest(folder / _WEIGHTS), raw["weights_sha256"]
        if digest != expected:
            raise ValueError(
                f"{_WEIGHTS} is not the file that was saved (sha256 {digest[:12]}, expected {expected[:12]})"
            )
        model.load_state_dict(load_file(folder / _WEIGHTS), strict=True)
    except (KeyError, TypeError, OSError, RuntimeError, SafetensorError, ValidationError, ValueError) as error:
        raise ValueError(f"{folder}: damaged checkpoint: {error}; copy it again, or train again") from error
    return model.eval()


def export_pretrained(model: Model, folder: Path) -> None:
    """Write the TTM inside `model` as Hugging Face does, LoRA merged: what `ttm.pretrained: <folder>` starts from.

    Its point forecasts are the model's (within a hybrid: its correction's); the layer that gives the other quantiles is
    ours, not part of the format, and starts afresh. Raises ValueError where there is no TTM inside.
    """
    networks = [part.network for part in model.modules() if getattr(part, "exports_network", False)]
    if len(networks) != 1:
        name = config.model_name(model.config)
        raise ValueError(f"only one ttm can be exported, alone or wrapped; found {len(networks)} in {name}")
    with replaced_folder(folder) as temporary:
        adapters.merged(networks[0]).save_pretrained(temporary)


def _networks(model: Model) -> list[Any]:
    """Granite's networks inside, in the order of building."""
    return [part.network for part in model.modules() if isinstance(part, Model) and hasattr(part, "network")]


def _description(model: Model, folder: Path) -> dict[str, Any]:
    return {
        "model": model.config.model_dump(mode="json"),
        "spec": model.spec.to_dict(),
        "architectures": [network.config.to_dict() for network in _networks(model)],
        "weights_sha256": _digest(folder / _WEIGHTS),
    }


def _architectures(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """Checkpoints from before ensembles hold one `architecture`, or null."""
    if "architectures" in raw:
        return raw["architectures"]
    return [] if raw["architecture"] is None else [raw["architecture"]]


def _read_description(folder: Path) -> dict[str, Any]:
    try:
        raw = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: no readable {_CONFIG} ({error}); expected a checkpoint's folder") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{folder}: {_CONFIG} holds {type(raw).__name__}, expected an object")
    return raw


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
