"""PAT's published weights: Keras' .h5 files into the encoder, whole or not at all. The one door to h5py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from raycadian.models.pat_encoder import FEED_FORWARD, WIDTH, ConvEmbedding, Encoder

if TYPE_CHECKING:
    import h5py

_LARGEST_BYTES = 256 * 2**20  # of a file; PAT-H, the largest, has 16 MB
_SAVED_MODEL = "model_weights/"  # the group that Keras puts a whole model's weights under


def load(encoder: Encoder, path: Path) -> None:
    """Every weight of `encoder` from the file. Raises ValueError for a file that is not HDF5, or in which a weight is
    missing, superfluous, of another shape or not finite; the encoder is then as it was."""
    expected = layout(encoder)
    arrays = _read(path, {name: shape for name, (_, shape) in expected.items()})
    like = encoder.state_dict()
    weights = {ours: _ours(arrays[name], like[ours]) for name, (ours, _) in expected.items()}
    encoder.load_state_dict(weights, strict=True)


def layout(encoder: Encoder) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Keras' name of each weight: (the encoder's name of it, its shape in the file)."""
    names = _embedding(encoder)
    for i in range(encoder.size.layers):
        names |= _block(f"encoder_layer_{i + 1}", f"layers.{i}", encoder.size.heads)
    return names


def _embedding(encoder: Encoder) -> dict[str, tuple[str, tuple[int, ...]]]:
    if not isinstance(encoder.embedding, ConvEmbedding):
        return _pair("dense/dense", "embedding", (encoder.size.patch, WIDTH))
    name = "conv1d_patch_embedding"
    return _pair(f"{name}/{name}", "embedding.convolution", (encoder.embedding.convolution.kernel_size[0], 1, WIDTH))


def _block(theirs: str, ours: str, heads: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    root = f"{theirs}_transformer/{theirs}"
    names: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name in ("query", "key", "value"):
        names |= _pair(f"{root}_attention/{name}", f"{ours}.attention.{name}", (WIDTH, heads, WIDTH), (heads, WIDTH))
    names |= _pair(f"{root}_attention/attention_output", f"{ours}.attention.output", (heads, WIDTH, WIDTH))
    names |= _pair(f"{root}_ff1", f"{ours}.ff1", (WIDTH, FEED_FORWARD))
    names |= _pair(f"{root}_ff2", f"{ours}.ff2", (FEED_FORWARD, WIDTH))
    for name in ("norm1", "norm2"):
        names[f"{root}_{name}/gamma:0"] = (f"{ours}.{name}.weight", (WIDTH,))
        names[f"{root}_{name}/beta:0"] = (f"{ours}.{name}.bias", (WIDTH,))
    return names


def _pair(
    theirs: str, ours: str, kernel: tuple[int, ...], bias: tuple[int, ...] | None = None
) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        f"{theirs}/kernel:0": (f"{ours}.weight", kernel),
        f"{theirs}/bias:0": (f"{ours}.bias", bias or kernel[-1:]),
    }


def _ours(value: np.ndarray, like: Tensor) -> Tensor:
    """Keras multiplies from the right and splits heads into an axis of their own; torch does neither."""
    match like.ndim:
        case 1:
            value = value.reshape(-1)
        case 2:
            value = value.reshape(like.shape[1], like.shape[0]).T
        case 3:
            value = value.transpose(2, 1, 0)  # (kernel, in, out) of a convolution
    return torch.from_numpy(np.ascontiguousarray(value))


def _read(path: Path, expected: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The arrays of the file by name, float32. Nothing is read before names and shapes are known to be right."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file (working directory {Path.cwd()}); expected PAT's weights as Keras' .h5")
    if path.stat().st_size > _LARGEST_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size} bytes; expected PAT's weights, {_LARGEST_BYTES} at most")
    import h5py  # 0.2 s that other models don't pay

    try:
        with h5py.File(path, "r") as file:
            sets = _datasets(file)
            _require_same(path, expected, sets)
            arrays = {name: sets[name][()].astype(np.float32) for name in expected}
    except (OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: not a whole HDF5 file: {error}; fetch PAT's .h5 again") from error
    if wild := sorted(name for name, value in arrays.items() if not np.isfinite(value).all()):
        raise ValueError(f"{path}: weights are not finite: {_some(wild)}; fetch the file again")
    return arrays


def _datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """By path, of a saved model below the group of its weights; links, soft and to other files, are not followed."""
    import h5py

    sets: dict[str, h5py.Dataset] = {}

    def keep(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            sets[name] = item

    file.visititems(keep)
    inside = {name.removeprefix(_SAVED_MODEL): one for name, one in sets.items() if name.startswith(_SAVED_MODEL)}
    return inside or sets


def _require_same(path: Path, expected: dict[str, tuple[int, ...]], sets: dict[str, h5py.Dataset]) -> None:
    """Every difference at once: what loads in part is another network than the published one."""
    wrong = []
    if missing := sorted(expected.keys() - sets.keys()):
        wrong.append(f"missing {_some(missing)}")
    if extra := sorted(sets.keys() - expected.keys()):
        wrong.append(f"superfluous {_some(extra)}")
    for name in sorted(expected.keys() & sets.keys()):
        one = sets[name]
        if one.shape != expected[name]:
            wrong.append(f"{name}: expected {expected[name]}, found {one.shape}")
        elif one.dtype.kind != "f" or one.is_virtual or one.external:
            wrong.append(f"{name}: expected floating-point numbers in the file itself, found {one.dtype}")
    if wrong:
        raise ValueError(
            f"{path} does not hold the encoder that the recipe describes: {'; '.join(wrong[:6])}; set pat.size and "
            "pat.embedding to those of the file"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
