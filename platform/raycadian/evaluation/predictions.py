"""What a forecaster said about windows, beside what happened: the table that every score is computed from."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True)
class Predictions:
    """W windows, H horizon steps, Q quantile levels; glucose in mg/dL. Raises ValueError where shapes disagree.

    subject (W,) str · time_utc (W,) datetime64[s] of the last context point · local_h (W,) its local hour · truth (W, H),
    NaN where not measured · quantiles (W, H, Q), non-decreasing in Q · levels (Q,), rising, with 0.5 · parts: additive
    decomposition of the median, name -> (W, H) · dt_min: minutes a step · scope (W,) id (subject seen in training) or
    ood (held out whole) · past (W, P) the last points before the forecast, or none.
    """

    subject: np.ndarray
    time_utc: np.ndarray
    local_h: np.ndarray
    truth: np.ndarray
    quantiles: np.ndarray
    levels: np.ndarray
    parts: dict[str, np.ndarray] = field(default_factory=dict)
    dt_min: float = 5.0
    scope: np.ndarray | None = None
    past: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.scope is None:
            object.__setattr__(self, "scope", np.full(len(self.subject), "id"))
        windows, steps = self.truth.shape
        expected = {
            "subject": (windows,), "time_utc": (windows,), "local_h": (windows,), "scope": (windows,),
            "quantiles": (windows, steps, len(self.levels)),
        }  # fmt: skip
        for name, shape in expected.items():
            found = getattr(self, name).shape
            if found != shape:
                raise ValueError(f"predictions.{name}: expected shape {shape}, found {found}")
        for name, part in self.parts.items():
            if part.shape != (windows, steps):
                raise ValueError(f"predictions.parts[{name!r}]: expected shape {(windows, steps)}, found {part.shape}")
        if list(self.levels) != sorted(set(self.levels)) or 0.5 not in self.levels:
            raise ValueError(f"predictions.levels must rise and contain 0.5; found {list(self.levels)}")

    def __len__(self) -> int:
        return len(self.subject)

    @property
    def median(self) -> np.ndarray:
        """(W, H): the point forecast."""
        return self.quantiles[:, :, list(self.levels).index(0.5)]

    @property
    def horizon_min(self) -> np.ndarray:
        """(H,) minutes after the last context point."""
        return self.dt_min * np.arange(1, self.truth.shape[1] + 1)

    def select(self, mask: np.ndarray) -> "Predictions":
        """The windows where `mask` (W,) is true, or the windows that an index names."""
        taken = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("subject", "time_utc", "local_h", "truth", "quantiles", "scope", "past"):
            taken[name] = None if taken[name] is None else taken[name][mask]
        taken["parts"] = {name: part[mask] for name, part in self.parts.items()}
        return Predictions(**taken)

    def write_parquet(self, path: Path) -> None:
        """One row a window; horizon arrays as lists, one column a quantile (`q0.05` ...). Whole or not at all."""
        columns: dict[str, Any] = {
            "subject": pa.array(self.subject.tolist(), pa.string()), "time_utc": pa.array(self.time_utc.astype("datetime64[s]")),
            "local_h": self.local_h, "scope": pa.array(self.scope.tolist(), pa.string()), "truth": _lists(self.truth),
        }  # fmt: skip
        columns |= {f"q{level:g}": _lists(self.quantiles[:, :, i]) for i, level in enumerate(self.levels)}
        columns |= {f"part:{name}": _lists(part) for name, part in self.parts.items()}
        if self.past is not None:
            columns["past"] = _lists(self.past)
        meta = {"levels": [float(v) for v in self.levels], "dt_min": self.dt_min}
        table = pa.table(columns).replace_schema_metadata({"raycadian": json.dumps(meta)})
        temporary = path.with_name(f".{path.name}-{os.getpid()}")
        pq.write_table(table, temporary, compression="zstd")
        temporary.replace(path)

    @staticmethod
    def read_parquet(path: Path) -> "Predictions":
        """Raises ValueError for a file that is missing or no table of predictions."""
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise ValueError(f"{path}: not readable as predictions: {error}") from None
        meta = json.loads((table.schema.metadata or {}).get(b"raycadian", b"{}"))
        if "levels" not in meta:
            raise ValueError(f"{path}: no table of predictions (written by `raycadian train`); found {table.column_names}")
        names = table.column_names
        return Predictions(
            subject=np.array(table["subject"].to_pylist(), dtype=object).astype(str),
            time_utc=table["time_utc"].to_numpy().astype("datetime64[s]"),
            local_h=table["local_h"].to_numpy(),
            truth=_matrix(table["truth"]),
            quantiles=np.stack([_matrix(table[f"q{level:g}"]) for level in meta["levels"]], axis=-1),
            levels=np.array(meta["levels"]),
            parts={name[5:]: _matrix(table[name]) for name in names if name.startswith("part:")},
            dt_min=meta["dt_min"],
            scope=np.array(table["scope"].to_pylist(), dtype=object).astype(str),
            past=_matrix(table["past"]) if "past" in names else None,
        )


def _lists(matrix: np.ndarray) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(matrix).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1])


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), -1)
