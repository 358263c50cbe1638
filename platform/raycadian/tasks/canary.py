"""A few test windows as the model takes them, kept with the run, and where its predictions of them stand: whoever loads
the run later can see whether it still says the same."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from raycadian.errors import CheckpointError, at_boundary
from raycadian.types import Batch

FILE = "canary.safetensors"
_MOST_BYTES = 1 << 28
_TRUTH = ("target", "label", "weight")  # what a model does not take


@dataclass(frozen=True)
class Canary:
    """batch of W windows · rows (W, parts) int64 of their predictions in the tables of the task's test parts, -1 where
    a window is in none."""

    batch: Batch
    rows: np.ndarray

    def write(self, folder: Path) -> None:
        tensors = {f"batch.{name}": v.contiguous() for name, v in self.batch.items() if name not in _TRUTH}
        save_file(tensors | {"rows": torch.from_numpy(self.rows).contiguous()}, folder / FILE)

    @staticmethod
    def read(folder: Path) -> "Canary | None":
        """None in a run of before. Raises CheckpointError."""
        path = folder / FILE
        if not path.is_file():
            return None
        with at_boundary(CheckpointError, f"{path}: damaged", OSError, SafetensorError, LookupError, ValueError):
            if path.stat().st_size > _MOST_BYTES:
                raise ValueError(f"{path.stat().st_size:,} bytes, at most {_MOST_BYTES:,}")
            tensors = load_file(path)
            rows = tensors.pop("rows").numpy()
            return Canary({name.removeprefix("batch."): value for name, value in tensors.items()}, rows)


def spread(windows: int, most: int = 4) -> np.ndarray:
    """Up to so many of them, from the first to the last."""
    return np.unique(np.linspace(0, windows - 1, most).astype(np.int64))


def rows_of(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows of a table of predictions, NaN where a window has none. Raises CheckpointError where it is too short."""
    if len(rows) and rows.max() >= len(table):
        raise CheckpointError(f"the predictions have {len(table)} windows, the stored one is number {rows.max()}")
    chosen = table[rows].astype(np.float64)
    chosen[rows < 0] = np.nan
    return chosen


def require_same(predicted: np.ndarray, scored: np.ndarray, relative: float, absolute: float) -> int:
    """How many windows (their first axis) were compared: those whose prediction is known. Raises CheckpointError where
    what the model says of them now is not what was scored."""
    if predicted.shape != scored.shape:
        raise CheckpointError(f"the model predicts in shape {predicted.shape}, what was scored is of {scored.shape}")
    known = np.isfinite(scored)
    wrong = known & ~np.isclose(predicted, scored, rtol=relative, atol=absolute)
    if wrong.any():
        at = tuple(np.argwhere(wrong)[0].tolist())
        raise CheckpointError(
            f"the model does not say what its predictions say: {predicted[at]:.6g} instead of {scored[at]:.6g} at {at} "
            f"of {len(predicted)} stored windows"
        )
    return int(known.reshape(len(known), -1).any(1).sum())
