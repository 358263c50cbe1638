"""Forecasts of windows beside what happened: the table that every score is computed from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from raycadian.errors import CheckpointError, at_boundary
from raycadian.evaluation.forecast.glycemic import is_glucose
from raycadian.files import parse_json, written_whole
from raycadian.types import GLUCOSE, ID, OOD

_PER_WINDOW = ("subject", "time_utc", "local_h", "truth", "quantiles", "scope", "past")  # parts beside them
_META = "raycadian"
NOT_AS_WRITTEN = (ValueError, TypeError, LookupError, AttributeError, pa.ArrowException)
"""What a table raises that is none of ours, while its columns are taken out."""


@dataclass(frozen=True)
class Predictions:
    """W windows, H horizon steps, Q quantile levels; of `target`, in the unit that its name says (glucose: mg/dL).

    subject (W,) str · time_utc (W,) datetime64[s] of the last context point · local_h (W,) its local hour · truth (W,
    H), NaN where not measured · quantiles (W, H, Q), finite, non-decreasing in Q · levels (Q,), rising, with 0.5 ·
    parts: additive decomposition of the median, name -> (W, H) · dt_min: minutes a step · scope (W,) id (subject seen
    in training) or ood (held out whole); all id where none is given · past (W, P) the last points before the
    forecast, or none.

    Raises ValueError where shapes disagree or a forecast is not finite: a forecast that is missing can't be scored, and
    to leave it out would reward it.
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
    target: str = GLUCOSE

    def __post_init__(self) -> None:
        if self.scope is None:
            object.__setattr__(self, "scope", np.full(len(self.subject), ID))
        self._check_shapes()
        self._check_levels()
        self._check_values()

    def _check_shapes(self) -> None:
        if self.truth.ndim != 2:
            raise ValueError(f"predictions.truth: expected (windows, steps), found shape {self.truth.shape}")
        windows, steps = self.truth.shape
        expected: dict[str, tuple] = dict.fromkeys(("subject", "time_utc", "local_h", "scope"), (windows,))
        expected["quantiles"] = (windows, steps, len(self.levels))
        actual = {name: getattr(self, name).shape for name in expected}
        for name, part in self.parts.items():
            expected[f"parts[{name!r}]"], actual[f"parts[{name!r}]"] = (windows, steps), part.shape
        if self.past is not None:
            expected["past"], actual["past"] = (windows, *self.past.shape[1:2]), self.past.shape
        for name, shape in expected.items():
            if actual[name] != shape:
                raise ValueError(f"predictions.{name}: expected shape {shape}, found {actual[name]}")

    def _check_levels(self) -> None:
        levels = [float(v) for v in self.levels]
        if levels != sorted(set(levels)) or 0.5 not in levels or not all(0 < v < 1 for v in levels):
            raise ValueError(f"predictions.levels rise strictly inside (0, 1) and contain 0.5; found {levels}")

    def _check_values(self) -> None:
        if not self.dt_min > 0:
            raise ValueError(f"predictions.dt_min: expected minutes above 0, found {self.dt_min}")
        self._refuse(~np.isfinite(self.quantiles).all((1, 2)), "the forecast is not finite: the model diverged")
        self._refuse((np.diff(self.quantiles, axis=-1) < 0).any((1, 2)), "quantiles decrease with their level")
        self._refuse(np.isinf(self.truth).any(1), "the truth is infinite")
        odd = sorted(set(self.scope.tolist()) - {ID, OOD})
        if odd:
            raise ValueError(f"predictions.scope: expected {ID} or {OOD}, found {odd}")

    def _refuse(self, wrong: np.ndarray, what: str) -> None:
        if wrong.any():
            i = int(np.argmax(wrong))
            where = f"first window {i}, {self.subject[i]} at {self.time_utc[i]}"
            raise ValueError(f"predictions: {what} in {int(wrong.sum())} of {len(self)} windows ({where})")

    def __len__(self) -> int:
        return len(self.subject)

    @property
    def glycemic(self) -> bool:
        """Whether it is glucose, of which there are ranges, events and error grids."""
        return is_glucose(self.target)

    @property
    def median(self) -> np.ndarray:
        """(W, H): the point forecast."""
        return self.quantiles[:, :, list(self.levels).index(0.5)]

    @property
    def horizon_min(self) -> np.ndarray:
        """(H,) minutes after the last context point."""
        return self.dt_min * np.arange(1, self.truth.shape[1] + 1)

    @property
    def key_steps(self) -> list[int]:
        """The steps that tables and figures show: 30 and 60 minutes ahead where the forecast has them, and the last."""
        shown = [i for i, minutes in enumerate(self.horizon_min) if minutes in (30.0, 60.0)]
        return sorted({*shown, self.truth.shape[1] - 1})

    def select(self, mask: np.ndarray) -> "Predictions":
        """The windows where `mask` (W,) is true, or the windows that an index names, in its order."""
        taken = {f.name: getattr(self, f.name) for f in fields(self)}
        taken |= {name: taken[name][mask] for name in _PER_WINDOW if taken[name] is not None}
        taken["parts"] = {name: part[mask] for name, part in self.parts.items()}
        return Predictions(**taken)

    def as_frame(self) -> pd.DataFrame:
        """Long: a row a window and step, W * H rows.

        subject · scope · origin_utc, the last reading before the forecast · time_utc, forecast for · ahead_min · truth,
        NaN where nothing was measured · median · q0.05 ..., the quantiles · a column for each part of the median.
        """
        windows, steps = self.truth.shape
        ahead = np.tile((self.horizon_min * 60).astype("timedelta64[s]"), windows)
        origin = self.time_utc.repeat(steps)
        columns = {
            "subject": self.subject.repeat(steps), "scope": self.scope.repeat(steps), "origin_utc": origin,
            "time_utc": origin + ahead, "ahead_min": np.tile(self.horizon_min, windows), "truth": self.truth.ravel(),
            "median": self.median.ravel(),
        }  # fmt: skip
        columns |= {f"q{level:g}": self.quantiles[:, :, i].ravel() for i, level in enumerate(self.levels)}
        return pd.DataFrame(columns | {name: part.ravel() for name, part in self.parts.items()})

    @staticmethod
    def concat(pieces: Sequence["Predictions"]) -> "Predictions":
        """One after the other. Raises ValueError where levels, steps, parts or past differ."""
        first = pieces[0]
        for i, other in enumerate(pieces):
            if _layout(other) != _layout(first):
                raise ValueError(
                    f"predictions to join differ: {_layout(first)} at first, {_layout(other)} in piece {i}"
                )
        joined = {
            name: np.concatenate([getattr(p, name) for p in pieces])
            for name in _PER_WINDOW
            if getattr(first, name) is not None
        }
        parts = {name: np.concatenate([p.parts[name] for p in pieces]) for name in first.parts}
        return Predictions(**joined, parts=parts, levels=first.levels, dt_min=first.dt_min, target=first.target)

    def write_parquet(self, path: Path) -> None:
        """One row a window; horizon arrays as lists, one column a quantile (`q0.05` ...). Whole or not at all."""
        columns: dict[str, Any] = {
            "subject": pa.array(self.subject.tolist(), pa.string()),
            "time_utc": pa.array(self.time_utc.astype("datetime64[s]")),
            "local_h": self.local_h,
            "scope": pa.array(self.scope.tolist(), pa.string()),
            "truth": _lists(self.truth),
        }
        columns |= {f"q{level:g}": _lists(self.quantiles[:, :, i]) for i, level in enumerate(self.levels)}
        columns |= {f"part:{name}": _lists(part) for name, part in self.parts.items()}
        if self.past is not None:
            columns["past"] = _lists(self.past)
        meta = {"levels": [float(v) for v in self.levels], "dt_min": float(self.dt_min), "target": self.target}
        write_table(path, columns, meta)

    @staticmethod
    def read_parquet(path: Path) -> "Predictions":
        """Raises CheckpointError for a file that is missing, damaged or no table of predictions."""
        table, meta = read_table(path)
        if "levels" not in meta:
            raise CheckpointError(
                f"{path}: no table of predictions (written by `raycadian train`); columns {table.column_names}"
            )
        with at_boundary(CheckpointError, f"{path}: damaged", *NOT_AS_WRITTEN):
            return Predictions._of(table, meta)

    @staticmethod
    def _of(table: pa.Table, meta: dict[str, Any]) -> "Predictions":
        names = table.column_names
        return Predictions(
            subject=np.array(table["subject"].to_pylist(), dtype=str),
            time_utc=table["time_utc"].to_numpy().astype("datetime64[s]"),
            local_h=table["local_h"].to_numpy(),
            truth=_matrix(table["truth"]),
            quantiles=np.stack([_matrix(table[f"q{level:g}"]) for level in meta["levels"]], axis=-1),
            levels=np.array(meta["levels"]),
            parts={name[5:]: _matrix(table[name]) for name in names if name.startswith("part:")},
            dt_min=meta["dt_min"],
            scope=np.array(table["scope"].to_pylist(), dtype=str),
            past=_matrix(table["past"]) if "past" in names else None,
            target=meta.get("target", GLUCOSE),
        )


def write_table(path: Path, columns: dict[str, Any], meta: dict[str, Any]) -> None:
    """Columns of predictions as Parquet, and beside them what holds for all. Whole or not at all."""
    table = pa.table(columns).replace_schema_metadata({_META: json.dumps(meta)})
    with written_whole(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


_ROWS_A_BYTE = 10  # of predictions, whose truths alone don't compress that far


def read_table(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """The columns, and what holds for all: empty where another program wrote the file. Raises CheckpointError."""
    try:
        if not path.is_file():  # a pipe would never end
            raise ValueError("no such file, or no regular one")
        rows, most = pq.read_metadata(path).num_rows, _ROWS_A_BYTE * path.stat().st_size + 100_000
        if rows > most:
            raise ValueError(f"{rows:,} rows in a file that can hold {most:,}")
        table = pq.read_table(path, page_checksum_verification=True)
        return table, parse_json((table.schema.metadata or {}).get(_META.encode(), b"{}"))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise CheckpointError(f"{path}: not readable as predictions: {error}") from None


def _layout(p: Predictions) -> dict[str, Any]:
    past = None if p.past is None else p.past.shape[1]
    return {
        "levels": [float(v) for v in p.levels],
        "steps": p.truth.shape[1],
        "dt_min": p.dt_min,
        "parts": sorted(p.parts),
        "past": past,
        "target": p.target,
    }


def _lists(matrix: np.ndarray) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(matrix).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1])


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    flat = (
        pa.concat_arrays([c.flatten() for c in column.chunks])
        if column.num_chunks
        else pa.array([], column.type.value_type)
    )
    return flat.to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
