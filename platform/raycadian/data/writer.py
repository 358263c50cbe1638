"""How a snapshot comes to be: in a workspace of its own, a subject at a time, then published whole or not at all.

A subject's row, which the worker that wrote it answers with: subject, issues, quality; and where it has a recording
pieces (where its rows lie in the blocks), sha256, events, observed, heads; attributes, judged and conflicting where the
modality has them; made_of where it says what the data hang on.
"""

import glob
import hashlib
import json
import logging
import os
import socket
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from raycadian.data import storage
from raycadian.data.blocks import (
    INDEX_SCHEMA,
    RECORDS,
    SUBJECT_SCHEMA,
    SUBJECTS,
    BlockWriter,
    Piece,
    PieceReader,
)
from raycadian.data.marks import Marks
from raycadian.data.parquet import (
    EVENT_SCHEMA,
    HEAD_SCHEMA,
    REPAIR,
    events_table,
    heads_table,
    pack,
    subject_hash,
    to_table,
)
from raycadian.data.snapshot import FORMAT, Snapshot, combined_hash, folders, read_manifest
from raycadian.files import on_disk, own_folder
from raycadian.types import SUBJECT, Issues, Recording

Row = dict[str, Any]
log = logging.getLogger(__name__)
_REST = ("issues", "observed", "judged", "conflicting", "made_of")  # of a row: what no column has as it was
_RENEWED = (SUBJECTS, RECORDS)  # how files begin that other recordings needn't have changed
_TOGETHER = 2_000  # rows that become a piece of a table at once


def write_subject(
    blocks: BlockWriter, subject: str, recordings: list[Recording], events: pd.DataFrame | None = None,
    marks: Sequence[Marks] = (), columns: Sequence[str] = (),
) -> Row:  # fmt: skip
    """Write one subject's recordings and events; the part of its row about them, nothing without a recording. Marks:
    the attributes of each recording. `columns`: the first of its table, in their order."""
    if not recordings:
        return {}
    events = EVENT_SCHEMA.empty_table().to_pandas() if events is None else events
    row = {
        "pieces": blocks.add(subject, "recordings", to_table(recordings, columns))
        + blocks.add(subject, "events", events_table(events)),
        "sha256": subject_hash(recordings, events, marks),
        "events": len(events),
        "observed": sum(int(r.observed.sum()) for r in recordings),
        "heads": [head_of(r) for r in recordings],
    }
    return row | ({"attributes": [dict(m.attributes) for m in marks]} if marks else {})


def copy_subject(blocks: BlockWriter, subject: str, row: Row, source: PieceReader) -> Row:
    """Write a subject as it is in another snapshot; its row. Raises StorageError."""
    if "pieces" not in row:
        return row
    pieces: list[Piece] = []
    for table, file, first, n_rows in row["pieces"]:
        pieces += blocks.add(subject, table, source.rows(file, first, n_rows))
    return row | {"pieces": pieces}


def head_of(recording: Recording) -> list[Any]:
    """A recording without its values, as HEAD_SCHEMA has it but for the subject; JSON holds it."""
    start = str(recording.start_utc.astype("datetime64[s]"))
    return [recording.index, start, recording.utc_offset_min, recording.dt_s, len(recording)]


class SpooledRows:
    """The rows of all subjects, in a file of this machine while a snapshot is written: memory holds their names, and
    one row at a time."""

    def __init__(self) -> None:
        self._file = tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".jsonl")  # noqa: SIM115 - left below
        self.subjects: list[str] = []
        self.n_usable = 0

    def __enter__(self) -> "SpooledRows":
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()

    def add(self, row: Row) -> None:
        self._file.write(json.dumps(row) + "\n")
        self.subjects.append(row[SUBJECT])
        self.n_usable += "sha256" in row

    def __iter__(self) -> Iterator[Row]:
        self._file.flush()
        with open(self._file.name, encoding="utf-8") as file:
            yield from map(json.loads, file)

    def __len__(self) -> int:
        return len(self.subjects)

    @property
    def usable(self) -> "_Usable":
        return _Usable(self)


@dataclass(frozen=True)
class _Usable:
    """Those rows that have a recording."""

    rows: SpooledRows

    def __iter__(self) -> Iterator[Row]:
        return (row for row in self.rows if "sha256" in row)

    def __len__(self) -> int:
        return self.rows.n_usable


def finish(
    folder: Path, rows: SpooledRows, files: dict[str, int], about: dict[str, Any],
    records: Mapping[str, pa.Table] = MappingProxyType({}),
) -> dict[str, Any]:  # fmt: skip
    """Write what finds the subjects in their blocks, and manifest.json, into the folder where the blocks are; the
    manifest. `rows`: sorted by subject, at least one with a recording · `files`: the blocks' bytes · `about`: what the
    manifest says beside that, `card` at least · `records`: what the modality wants to find again."""
    named = {SUBJECTS: _packed(rows, _people, SUBJECT_SCHEMA)}
    named |= {f"{RECORDS}{name}-": pack(table) for name, table in records.items()}
    hashed = {name: f"{name}{hashlib.sha256(packed).hexdigest()[:8]}.parquet" for name, packed in named.items()}
    files = files | {hashed[name]: storage.write_bytes(folder / hashed[name], named[name]) for name in named} | {
        name: storage.write_bytes(folder / name, _packed(rows.usable, of, schema))
        for name, of, schema in (
            ("recordings.parquet", _heads, HEAD_SCHEMA), ("index.parquet", _pieces, INDEX_SCHEMA),
        )
    }  # fmt: skip
    sha256 = combined_hash((row[SUBJECT], row["sha256"]) for row in rows.usable)
    manifest = {
        "format": FORMAT,
        "id": f"{about['card']['name']}-{sha256[:12]}",
        "content_sha256": sha256,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        **about,
        "records": {name: hashed[f"{RECORDS}{name}-"] for name in records},
        "files": files,
    }
    storage.write_bytes(folder / "manifest.json", json.dumps(manifest, indent=1).encode())
    return manifest


def _packed(rows: Iterable[Row], of: Any, schema: pa.Schema) -> memoryview:
    """`of(rows)` of some rows at a time, one below the other, as a Parquet file in memory."""
    remaining, sink = iter(rows), pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True) as writer:
        while some := list(islice(remaining, _TOGETHER)):
            writer.write_table(of(some))
    return memoryview(sink.getvalue())


def _people(rows: Sequence[Row]) -> pa.Table:
    kept = ("sha256", "events", "judged")
    columns = {SUBJECT: [row[SUBJECT] for row in rows]} | {name: [row.get(name) for row in rows] for name in kept}
    columns["quality"] = [json.dumps(row["quality"], sort_keys=True) for row in rows]
    columns["attributes"] = [
        json.dumps(row["attributes"], sort_keys=True) if "attributes" in row else None for row in rows
    ]
    columns["rest"] = [json.dumps({n: row[n] for n in _REST if n in row}) for row in rows]
    return pa.table(columns, SUBJECT_SCHEMA)


def _heads(rows: Sequence[Row]) -> pa.Table:
    return heads_table([[row[SUBJECT], *head] for row in rows for head in row["heads"]])


def _pieces(rows: Sequence[Row]) -> pa.Table:
    pieces = [[row[SUBJECT], *piece] for row in rows for piece in row["pieces"]]
    return pa.table(dict(zip(INDEX_SCHEMA.names, zip(*pieces, strict=True), strict=True)), INDEX_SCHEMA)


def issues_of(counted: dict[str, dict]) -> Issues:
    """The inverse of `Issues.as_dict`."""
    counts = {kind: entry["count"] for kind, entry in counted.items()}
    return Issues(counts, {kind: entry["examples"] for kind, entry in counted.items()})


def prepared(out: Path, name: str, key: str) -> Snapshot | None:
    """The snapshot below `out` that was made of the same, and is sound at a glance: names and sizes of its files, and
    its index."""
    for folder in folders(out, glob.escape(name)):
        with suppress(ValueError):  # half-written, or of somebody else
            if read_manifest(folder)["key"] == key:
                return _sound(folder)
    return None


def _sound(folder: Path) -> Snapshot | None:
    try:
        snapshot = Snapshot.open(folder)
        snapshot.require_sound()
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        log.warning("a damaged snapshot is prepared again: %s", str(error).removesuffix(f"; {REPAIR}"))
        return None
    return snapshot


def publish(built: Path, target: Path, manifest: dict[str, Any]) -> Snapshot:
    """The finished folder appears under its id. Equal content that is there already stays, with the newer manifest and
    figures; where it is damaged, or of an earlier format, the new one takes its place."""
    if (there := _whole(target)) is not None:
        _renew(built, there, manifest)
    else:
        storage.remove(target)
        storage.publish(built, target, last="manifest.json")
    return Snapshot.open(target)


def _whole(target: Path) -> Snapshot | None:
    """What is there, where it is of this format and its data are what was written."""
    try:
        there = Snapshot.open(target)
        if there.manifest["format"] != FORMAT:
            return None
        there.verify()
    except ValueError:
        return None
    return there


def _renew(built: Path, there: Snapshot, manifest: dict[str, Any]) -> None:
    """The manifest, and the tables of subjects and files that it names, into a snapshot that is there: blocks stay."""
    own = {name: n for name, n in manifest["files"].items() if name.startswith(_RENEWED)}
    kept = {name: n for name, n in there.manifest["files"].items() if not name.startswith(_RENEWED)}
    for name in own:
        storage.replace(built / name, there.path / name)
    body = json.dumps(manifest | {"files": kept | own}, indent=1).encode()
    storage.write_bytes(built / "manifest.json", body)
    storage.replace(built / "manifest.json", there.path / "manifest.json")


@contextmanager
def workspace(out: Path) -> Iterator[Path]:
    """A folder of this process below `out`, gone afterwards whatever happens; those of dead processes go too."""
    if not storage.remote(out):
        own_folder(out)
    prefix = f".preparing-{socket.gethostname()}-"
    for left in storage.children(out):
        if left.name.startswith(prefix) and not _alive(left):
            storage.remove(left)
    work = out / f"{prefix}{os.getpid()}-{time.time():.0f}-{uuid.uuid4().hex[:8]}"
    with nullcontext() if storage.remote(out) else on_disk(out):
        storage.make_folder(work)
        try:
            yield work
        finally:
            storage.remove(work)


def _alive(folder: Path) -> bool:
    """Whether the process that a workspace is named after still runs (and is not a later one with its number)."""
    import psutil

    try:
        pid, made = folder.name.split("-")[-3:-1]
        return psutil.Process(int(pid)).create_time() <= int(made) + 1
    except (psutil.Error, ValueError):
        return False
