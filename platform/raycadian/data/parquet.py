"""How recordings lie in Parquet: the long table of a subject, its events, the table of all recordings, their hash."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from raycadian.data import storage
from raycadian.data.grid import extents, owners, seconds
from raycadian.data.marks import Marks, QualityMask
from raycadian.errors import StorageError
from raycadian.types import OBSERVED, RECORDING, SUBJECT, TIME_UTC, Recording

Heads = Mapping[str, np.ndarray]
"""Of one subject: the columns of HEAD_SCHEMA."""
REPAIR = "delete the folder and run `raycadian prepare` again"  # the fix that every damage has

EVENT_SCHEMA = pa.schema([(TIME_UTC, pa.timestamp("ms")), ("kind", pa.string()), ("value", pa.float64())])
# a head is a recording without its values: a row of recordings.parquet
HEAD_SCHEMA = pa.schema(
    [
        (SUBJECT, pa.string()),
        (RECORDING, pa.int32()),
        ("start_utc", pa.timestamp("ms")),
        ("utc_offset_min", pa.int32()),
        ("dt_s", pa.float64()),
        ("n_points", pa.int64()),
    ]
)


QUALITY_COLUMNS = {RECORDING, "point"}  # of quality.parquet, beside one a channel


def to_table(recordings: list[Recording], columns: Sequence[str] = ()) -> pa.Table:
    """Recordings one below the other, in the long format of a snapshot's blocks: the recording's number, the `columns`
    in their order (time_utc, observed, names of channels), then those that are not among them: observed, and the
    channels, which all recordings have, by name."""
    start_s, n_points = extents(recordings)
    table = {RECORDING: pa.array(np.repeat([r.index for r in recordings], n_points), pa.int32())}
    for name in dict.fromkeys([*columns, OBSERVED, *sorted(recordings[0].channels)]):
        if name == TIME_UTC:
            step_ms = np.concatenate([np.arange(len(r)) * r.dt_s * 1000 for r in recordings]).round().astype(np.int64)
            table[name] = pa.array(np.repeat(start_s * 1000, n_points) + step_ms, pa.timestamp("ms"))
        elif name == OBSERVED:
            table[name] = pa.array(np.concatenate([r.observed for r in recordings]))
        else:
            table[name] = _column(recordings, name)
    return pa.table(table)


def _column(recordings: list[Recording], name: str) -> pa.Array:
    return pa.array(np.concatenate([r.channels[name] for r in recordings]), pa.float32(), from_pandas=True)


def from_table(heads: Heads, table: pa.Table, events: pd.DataFrame | None) -> list[Recording]:
    """The inverse of `to_table`; events return to the recording that they fall in. Raises ValueError."""
    names = [name for name in table.column_names if name not in (RECORDING, TIME_UTC, OBSERVED)]
    channels = {name: table[name].to_numpy() for name in names}
    observed = table[OBSERVED].to_numpy()
    subject, n_points, dt_s = heads[SUBJECT][0], heads["n_points"], float(heads["dt_s"][0])
    edges = np.cumsum([0, *n_points])
    starts = heads["start_utc"].astype("datetime64[s]")
    if edges[-1] != len(table):
        raise ValueError(f"subject {subject!r}: {len(table)} points, expected {edges[-1]}; {REPAIR}")
    if events is not None:
        owner = owners(seconds(events[TIME_UTC]), starts.astype(np.int64), n_points, dt_s)
    numbers, offsets = heads[RECORDING].tolist(), heads["utc_offset_min"].tolist()
    return [
        Recording(
            subject, numbers[i], starts[i], offsets[i], dt_s,
            {name: values[edges[i] : edges[i + 1]] for name, values in channels.items()},
            observed[edges[i] : edges[i + 1]],
            None if events is None else events[owner == i].reset_index(drop=True),
        )
        for i in range(len(starts))
    ]  # fmt: skip


def quality_table(judged: list[QualityMask]) -> pa.Table:
    """The judged stretches of a subject's recordings, in order, one below the other."""
    sizes = [len(next(iter(j.reasons.values()))) for j in judged]
    columns = {
        RECORDING: pa.array(np.repeat(np.arange(len(judged)), sizes), pa.int32()),
        "point": pa.array(
            np.concatenate([np.arange(n) * j.hop for n, j in zip(sizes, judged, strict=True)]), pa.int64()
        ),
    }
    names = judged[0].reasons
    return pa.table(columns | {c: np.concatenate([j.reasons[c] for j in judged]).astype(np.int32) for c in names})


def marks_of(
    heads: Heads, events: pd.DataFrame, quality: pa.Table | None, stretch_s: tuple[float, float],
    attributes: list[dict[str, Any]],
) -> list[Marks]:  # fmt: skip
    """Of a subject's recordings, in order: the inverse of `quality_table`, with the numerics that fall in each.
    stretch_s: seconds that quality is judged on, and from one such stretch to the next."""
    subject, numbers, lengths = heads[SUBJECT][0], heads[RECORDING].tolist(), heads["n_points"].tolist()
    start, dt_s = heads["start_utc"].astype("datetime64[s]").astype(np.int64), float(heads["dt_s"][0])
    time_s = events[TIME_UTC].to_numpy("datetime64[ms]").astype(np.int64) / 1000
    owner = owners(time_s, start, heads["n_points"], dt_s)
    kind, value = events["kind"].to_numpy(), events["value"].to_numpy()
    length, hop = (round(seconds_ / dt_s) for seconds_ in stretch_s)
    marks = []
    for i, (number, n) in enumerate(zip(numbers, lengths, strict=True)):
        own = {k: (owner == i) & (kind == k) for k in dict.fromkeys(kind[owner == i])}
        numerics = {k: (time_s[chosen] - start[i], value[chosen]) for k, chosen in own.items()}
        mask = None if quality is None else _mask_of(quality, number, length, hop)
        marks.append(Marks(subject, number, n, dt_s, mask, numerics, attributes[i] if attributes else {}))
    return marks


def _mask_of(quality: pa.Table, number: int, length: int, hop: int) -> QualityMask:
    rows = quality.filter(pa.compute.equal(quality[RECORDING], number))
    return QualityMask(length, hop, {c: rows[c].to_numpy() for c in rows.column_names if c not in QUALITY_COLUMNS})


def subject_hash(recordings: list[Recording], events: pd.DataFrame, marks: Sequence[Marks] = ()) -> str:
    """SHA-256 over one subject's values and what lies beside them: independent of Parquet and the machine's bytes."""
    content = ContentHash()
    for recording in recordings:
        content.add(recording)
    return content.of(events, marks)


def head_columns(heads: list[list]) -> Heads:
    """One subject's, of rows as `heads_table` takes them."""
    table = heads_table(heads)
    return {name: table[name].to_numpy() for name in table.column_names}


def heads_table(heads: list[list]) -> pa.Table:
    """Rows in the order of HEAD_SCHEMA, start_utc as ISO 8601, as recordings.parquet."""
    columns = dict(zip(HEAD_SCHEMA.names, zip(*heads, strict=True), strict=True))
    columns["start_utc"] = np.array(columns["start_utc"], dtype="datetime64[ms]")
    return pa.table(columns, HEAD_SCHEMA)


class ContentHash:
    """One subject's hash as its recordings come, in order: `add` each, then `of` what is beside them."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, r: Recording) -> None:
        head = [r.subject, r.index, str(r.start_utc), r.utc_offset_min, r.dt_s, len(r), sorted(r.channels)]
        self._digest.update(json.dumps(head).encode())
        for name in sorted(r.channels):
            self._digest.update(_bytes(r.channels[name], "<f4"))
        self._digest.update(r.observed.astype(np.uint8).tobytes())

    def of(self, events: pd.DataFrame, marks: Sequence[Marks]) -> str:
        digest = self._digest.copy()
        digest.update(json.dumps(events["kind"].tolist()).encode())
        digest.update(events[TIME_UTC].to_numpy("datetime64[ms]").astype("<i8").tobytes())
        digest.update(_bytes(events["value"].to_numpy(), "<f8"))
        if not any(m.judged or m.attributes for m in marks):
            return digest.hexdigest()
        digest = hashlib.sha256(digest.hexdigest().encode())
        for m in marks:
            digest.update(json.dumps([m.number, dict(m.attributes)], sort_keys=True).encode())
            for channel in sorted(m.judged.reasons if m.judged else ()):
                digest.update(json.dumps([channel, m.judged.length, m.judged.hop]).encode())
                digest.update(np.asarray(m.judged.reasons[channel]).astype("<i4").tobytes())
        return digest.hexdigest()


def _bytes(values: np.ndarray, dtype: str) -> bytes:
    """Little-endian, every NaN the same."""
    return np.where(np.isnan(values), np.nan, values).astype(dtype).tobytes()


def events_table(events: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(events[EVENT_SCHEMA.names], EVENT_SCHEMA, preserve_index=False, safe=False)


def write_table(table: pa.Table, path: Path) -> int:
    """Write one Parquet file; its bytes."""
    return storage.write_bytes(path, pack(table))


def pack(table: pa.Table) -> memoryview:
    """A Parquet file in memory: object storage takes it in one request."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return memoryview(sink.getvalue())


def read_table(path: Path, columns: set[str]) -> pa.Table:
    """One Parquet file, its checksums verified. Raises StorageError where it is damaged or lacks a column, OSError
    where the storage can't be reached."""
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file; {REPAIR}") from None
    with readable(path), pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
        table = file.read()
    if lacking := columns - set(table.column_names):
        raise StorageError(f"{path}: lacks the columns {sorted(lacking)}; {REPAIR}")
    return table


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Arrow's errors over bytes that are no Parquet as a StorageError; those of the storage have a number, and stay."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise StorageError(f"{path}: not readable as Parquet ({error}); {REPAIR}") from None
