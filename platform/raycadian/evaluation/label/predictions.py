"""Scores of windows beside their labels: the table that every metric of classify and regress is computed from."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from raycadian.errors import CheckpointError, at_boundary
from raycadian.evaluation.forecast.predictions import NOT_AS_WRITTEN, read_table, write_table

_TEXT = ("subject", "case")


@dataclass(frozen=True)
class LabelPredictions:
    """W windows in the order of cases and time.

    subject, case (W,) str · time_utc (W,) datetime64[s] of the last point · label (W,), known · score (W,), log odds
    (classify) or the label's unit (regress), finite · weight (W,) of the person, above 0 · lead_s (W,) seconds to the
    onset of the next episode, NaN where there is none · step_s between neighbouring windows.

    Raises ValueError where shapes disagree or a score is not finite.
    """

    subject: np.ndarray
    case: np.ndarray
    time_utc: np.ndarray
    label: np.ndarray
    score: np.ndarray
    weight: np.ndarray
    lead_s: np.ndarray
    kind: Literal["classify", "regress"]
    step_s: float

    def __post_init__(self) -> None:
        shapes = {name: getattr(self, name).shape for name in _COLUMNS}
        if len(set(shapes.values())) != 1 or self.label.ndim != 1:
            raise ValueError(f"predictions: expected one value a window, found shapes {shapes}")
        if not (wrong := ~np.isfinite(self.score)).any() and np.isfinite(self.label).all() and (self.weight > 0).all():
            return
        i = int(np.argmax(wrong))
        where = f"first window {i}, case {self.case[i]} at {self.time_utc[i]}"
        raise ValueError(
            f"predictions: {int(wrong.sum())} of {len(self)} scores are not finite ({where}): the model diverged"
        )

    def __len__(self) -> int:
        return len(self.label)

    def select(self, mask: np.ndarray) -> "LabelPredictions":
        """The windows of a mask or of an index."""
        return replace(self, **{name: getattr(self, name)[mask] for name in _COLUMNS})

    def as_frame(self) -> pd.DataFrame:
        """A row a window: the columns above, of which `score` is log odds (classify) or the estimate (regress)."""
        return pd.DataFrame({name: getattr(self, name) for name in _COLUMNS})

    @staticmethod
    def concat(pieces: Sequence["LabelPredictions"]) -> "LabelPredictions":
        """One after the other, of one kind and step."""
        columns = {name: np.concatenate([getattr(p, name) for p in pieces]) for name in _COLUMNS}
        return replace(pieces[0], **columns)

    def write_parquet(self, path: Path) -> None:
        """One row a window. Whole or not at all."""
        columns = {name: getattr(self, name) for name in _COLUMNS}
        columns |= {name: pa.array(columns[name].tolist(), pa.string()) for name in _TEXT}
        columns["time_utc"] = pa.array(self.time_utc.astype("datetime64[s]"))
        write_table(path, columns, {"kind": self.kind, "step_s": self.step_s})

    @staticmethod
    def read_parquet(path: Path) -> "LabelPredictions":
        """Raises CheckpointError for a file that is missing, damaged or no table of predictions of a label."""
        table, meta = read_table(path)
        if meta.keys() != {"kind", "step_s"}:
            raise CheckpointError(f"{path}: no table of predictions of a label; columns {table.column_names}")
        with at_boundary(CheckpointError, f"{path}: damaged", *NOT_AS_WRITTEN):
            columns = {name: table[name].to_numpy() for name in _COLUMNS if name not in _TEXT}
            columns |= {name: np.array(table[name].to_pylist(), dtype=str) for name in _TEXT}
            return LabelPredictions(**columns | {"time_utc": columns["time_utc"].astype("datetime64[s]")}, **meta)


_COLUMNS = tuple(f.name for f in fields(LabelPredictions) if f.name not in ("kind", "step_s"))
