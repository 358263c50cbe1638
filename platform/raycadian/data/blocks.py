"""Format 2 of a snapshot: many people's tables one below the other in blocks, and an index that finds each person's.

    subjects-*.parquet    a row a subject: sha256, events, judged, and JSON: quality, attributes
    recordings.parquet    a row a recording: parquet.HEAD_SCHEMA
    index.parquet         a row a piece: subject, table, file, row, n_rows; a subject's pieces in their order
    blocks/<file>         subject, then the columns of the table: recordings, events or quality

Subjects are sorted within a block and from block to block. A block is closed at about 100 MB, wherever that is: whoever
has more rows than are left in one goes on in the next.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raycadian.data import storage
from raycadian.data.parquet import HEAD_SCHEMA, REPAIR, Heads, read_table, readable
from raycadian.types import RECORDING, SUBJECT

BLOCK_BYTES = 100_000_000  # a block that has as many is closed
_ROWS = 65_536  # of a row group, at least: small people share one
_MOST_ROWS = 1 << 20  # of a row group, as of what is written at once
FOLDER = "blocks"
RECORDS = "records-"  # then a name and its own hash: what a modality finds again when it prepares more of the same
SUBJECTS = "subjects-"  # then its own hash: equal recordings can come with other figures, of another file
INDEX_SCHEMA = pa.schema(
    [(SUBJECT, pa.string()), ("table", pa.string()), ("file", pa.string()), ("row", pa.int64()), ("n_rows", pa.int64())]
)
SUBJECT_SCHEMA = pa.schema(
    [
        (SUBJECT, pa.string()),
        ("sha256", pa.string()),  # null: no recording of the subject could be used
        ("events", pa.int64()),
        ("judged", pa.int64()),
        ("quality", pa.string()),
        ("attributes", pa.string()),
        ("rest", pa.string()),  # of the row that the subject's worker answered with; none in snapshots of before
    ]
)
TABLES = ("recordings", "events", "quality")  # in which order a subject's are written
Piece = tuple[str, str, int, int]
"""table, file, first row there, number of rows."""


@dataclass(frozen=True)
class Entry:
    """What a snapshot knows of a subject that has a recording, beside its tables."""

    sha256: str
    events: int
    judged: int
    attributes: list[dict[str, Any]]


@dataclass(frozen=True)
class HeadTable:
    """recordings.parquet: recordings without their values, a subject's one below the other."""

    columns: Heads
    rows: dict[str, slice]

    @staticmethod
    def read(snapshot: Path) -> "HeadTable":
        table = read_table(snapshot / "recordings.parquet", set(HEAD_SCHEMA.names))
        columns = {name: table[name].to_numpy() for name in HEAD_SCHEMA.names}
        return HeadTable(columns, _slices(columns[SUBJECT]))

    def of(self, subject: str) -> Heads:
        own = self.rows[subject]
        return {name: values[own] for name, values in self.columns.items()}

    def points(self, subject: str) -> list[int]:
        return self.columns["n_points"][self.rows[subject]].tolist()


class Blocks:
    """What data/snapshot.py reads a snapshot of format 2 through. Raises ValueError where a file is damaged."""

    def __init__(self, path: Path, subjects: str):
        self._path = path
        self.heads = HeadTable.read(path)
        people = read_table(path / subjects, set(SUBJECT_SCHEMA.names) - {"rest"}).to_pylist()
        self.entries = {row[SUBJECT]: _entry(row) for row in people if row["sha256"] is not None}
        self._quality = {row[SUBJECT]: row["quality"] for row in people}
        self._rest = {row[SUBJECT]: row["rest"] for row in people if row.get("rest") is not None}
        index = read_table(path / "index.parquet", set(INDEX_SCHEMA.names)).to_pydict()
        self._pieces: dict[tuple[str, str], list[tuple[str, int, int]]] = {}
        columns = (index[name] for name in INDEX_SCHEMA.names)
        for subject, table, file, row, n_rows in zip(*columns, strict=True):
            self._pieces.setdefault((subject, table), []).append((file, row, n_rows))

    @property
    def quality(self) -> dict[str, dict[str, Any]]:
        """subject -> its figures, of those without a recording too."""
        return {subject: json.loads(text) for subject, text in self._quality.items()}

    def rest(self, subject: str) -> dict[str, Any]:
        """What else its worker answered of a subject; nothing in snapshots of before."""
        return json.loads(self._rest.get(subject, "{}"))

    def row(self, subject: str) -> dict[str, Any]:
        """What data/writer.py wrote of a subject, as its worker answered it."""
        row = {SUBJECT: subject, "quality": json.loads(self._quality[subject])} | self.rest(subject)
        if (entry := self.entries.get(subject)) is None:
            return row
        heads = self.heads.of(subject)
        start = heads["start_utc"].astype("datetime64[s]").astype(str)
        columns = (heads[RECORDING], start, heads["utc_offset_min"], heads["dt_s"], heads["n_points"])
        row |= {"sha256": entry.sha256, "events": entry.events}
        row["heads"] = [list(head) for head in zip(*(column.tolist() for column in columns), strict=True)]
        row["pieces"] = [[name, *piece] for name in TABLES for piece in self._pieces.get((subject, name), ())]
        return row | ({"attributes": entry.attributes} if entry.attributes else {})

    def agrees(self, lengths: dict[str, list[int]]) -> bool:
        """Whether the recordings' points are those of the index and its subjects."""
        pieces = {s: sum(n for _, _, n in self._pieces.get((s, "recordings"), ())) for s in self.entries}
        return pieces == {s: sum(points) for s, points in lengths.items()}

    def recordings(self, subjects: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
        """The table of recordings of each subject; of neighbours each row group is read once."""
        return self._tables("recordings", subjects)

    def events(self, subjects: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
        """As `recordings`, of subjects that have events."""
        return self._tables("events", subjects)

    def judged(self, subject: str) -> pa.Table:
        return next(self._tables("quality", [subject]))[1]

    def _tables(self, name: str, subjects: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
        pieces = [(subject, *piece) for subject in subjects for piece in self._of(subject, name)]
        last, parts = None, []
        for file, own in groupby(pieces, key=lambda piece: piece[1]):
            with opened(self._path / FOLDER / file) as reader:
                for subject, _, row, n_rows in own:
                    if last is not None and subject != last:
                        yield last, pa.concat_tables(parts)
                        parts = []
                    last = subject
                    parts.append(reader.rows(row, n_rows))
        if last is not None:
            yield last, pa.concat_tables(parts)

    def _of(self, subject: str, table: str) -> list[tuple[str, int, int]]:
        if (pieces := self._pieces.get((subject, table))) is None:
            raise ValueError(f"{self._path}/index.parquet: no {table} of subject {subject!r}; {REPAIR}")
        return pieces


def _entry(row: dict[str, Any]) -> Entry:
    attributes = [] if row["attributes"] is None else json.loads(row["attributes"])
    return Entry(row["sha256"], row["events"], row["judged"] or 0, attributes)


def _slices(values: np.ndarray) -> dict[str, slice]:
    """Where each value's run lies; equal values are neighbours."""
    first = np.flatnonzero(np.append(True, values[1:] != values[:-1])) if len(values) else np.empty(0, int)
    return {values[a]: slice(int(a), int(b)) for a, b in zip(first, np.append(first[1:], len(values)), strict=True)}


class _Reader:
    """Rows of one block, in rising order best: the row group read last is kept."""

    def __init__(self, path: Path, file: pq.ParquetFile):
        self._path, self._file = path, file
        about = file.metadata
        self._edges = np.cumsum([0, *(about.row_group(i).num_rows for i in range(about.num_row_groups))])
        self._columns = [name for name in file.schema_arrow.names if name != SUBJECT]
        self._held: tuple[int, pa.Table] | None = None

    def rows(self, row: int, n_rows: int) -> pa.Table:
        """The rows [row, row + n_rows), without the subject."""
        if row + n_rows > self._edges[-1]:
            raise ValueError(f"{self._path}: {self._edges[-1]} rows, expected {row + n_rows} or more; {REPAIR}")
        first = int(np.searchsorted(self._edges, row, side="right")) - 1
        last = int(np.searchsorted(self._edges, row + n_rows, side="left"))
        own = pa.concat_tables([self._group(number) for number in range(first, last)])
        return own.slice(row - int(self._edges[first]), n_rows)

    def _group(self, number: int) -> pa.Table:
        if self._held is None or self._held[0] != number:
            with readable(self._path):
                self._held = number, self._file.read_row_group(number, self._columns)
        return self._held[1]


class PieceReader:
    """Pieces of a snapshot, in their order best: a few blocks are held open, one a table of neighbours."""

    def __init__(self, snapshot: Path):
        self._folder = snapshot / FOLDER
        self._open: dict[str, tuple[ExitStack, _Reader]] = {}

    def __enter__(self) -> "PieceReader":
        return self

    def __exit__(self, *error: Any) -> None:
        for stack, _ in self._open.values():
            stack.close()

    def rows(self, file: str, row: int, n_rows: int) -> pa.Table:
        """Raises StorageError where the block is damaged."""
        if file not in self._open:
            if len(self._open) == len(TABLES):
                self._open.pop(next(iter(self._open)))[0].close()
            stack = ExitStack()
            self._open[file] = stack, stack.enter_context(opened(self._folder / file))
        return self._open[file][1].rows(row, n_rows)


@contextmanager
def opened(path: Path) -> Iterator[_Reader]:
    """A block while it is read. Raises ValueError where it is damaged, OSError where the storage can't be reached."""
    with storage.reading(path, f"{path}: no such file; {REPAIR}") as source:
        with readable(path):
            file = pq.ParquetFile(source, page_checksum_verification=True, pre_buffer=True)
        with file:
            yield _Reader(path, file)


# --- writing ----------------------------------------------------------------------------------------------------------


class BlockWriter:
    """Writes the tables of one group of subjects, one after another, into blocks of their own below `snapshot`. They
    depend on the group and what is in it alone. `files`: their bytes by their path, once it is left."""

    def __init__(self, snapshot: Path, group: int):
        self._folder, self._group = snapshot / FOLDER, group
        self._open: dict[tuple[str, tuple[str, ...]], _File] = {}
        self._number = 0
        self.files: dict[str, int] = {}

    def __enter__(self) -> "BlockWriter":
        storage.make_folder(self._folder)  # no parents: a run that was cleaned away must not come back
        return self

    def __exit__(self, *error: Any) -> None:
        for key in list(self._open):
            self._close(key, *error)

    def add(self, subject: str, name: str, table: pa.Table) -> list[Piece]:
        """Rows of a subject's table, below those that it has there; where they are."""
        pieces = []
        for begin in range(0, len(table), _MOST_ROWS):
            pieces.append(self._add(name, _with_subject(table.slice(begin, _MOST_ROWS), subject)))
        return pieces

    def _add(self, name: str, rows: pa.Table) -> Piece:
        key = name, tuple(rows.column_names)  # whoever has other channels has a block of other columns
        file = self._open.get(key) or self._begin(key, rows.schema)
        piece = name, file.path.name, file.n_rows, len(rows)
        if file.add(rows) >= BLOCK_BYTES:
            self._close(key)
        return piece

    def _begin(self, key: tuple[str, tuple[str, ...]], schema: pa.Schema) -> "_File":
        path = self._folder / f"{self._group:05d}-{self._number:02d}-{key[0]}.parquet"
        self._number += 1
        self._open[key] = _File(path, schema)
        return self._open[key]

    def _close(self, key: tuple[str, tuple[str, ...]], *error: Any) -> None:
        file = self._open.pop(key)
        file.close(*error)
        self.files[f"{FOLDER}/{file.path.name}"] = file.n_bytes


class _File:
    """One block as it is written: small tables wait until they fill a row group."""

    def __init__(self, path: Path, schema: pa.Schema):
        self.path, self.n_rows, self.n_bytes = path, 0, 0
        self._waiting: list[pa.Table] = []
        self._n_waiting = 0
        self._stack = ExitStack()
        self._sink = self._stack.enter_context(storage.writing(path))
        self._stack.callback(self._measure)  # when the footer is written and the file is still open
        options = {"compression": "zstd", "write_page_checksum": True}
        self._writer = self._stack.enter_context(pq.ParquetWriter(self._sink, schema, **options))

    def add(self, rows: pa.Table) -> int:
        """The bytes that it has so far."""
        self._waiting.append(rows)
        self.n_rows += len(rows)
        self._n_waiting += len(rows)
        if self._n_waiting >= _ROWS:
            self._flush()
        return self._sink.tell()

    def _flush(self) -> None:
        rows = pa.concat_tables(self._waiting).unify_dictionaries()
        self._waiting, self._n_waiting = [], 0
        self._writer.write_table(rows, row_group_size=max(len(rows), 1))
        del rows
        pa.default_memory_pool().release_unused()  # else it keeps what the next case is read into

    def close(self, *error: Any) -> None:
        if self._waiting and not any(error):
            self._flush()
        self._stack.__exit__(*(error or (None, None, None)))

    def _measure(self) -> None:
        self.n_bytes = self._sink.tell()


def _with_subject(table: pa.Table, subject: str) -> pa.Table:
    codes = pa.array(np.zeros(len(table), np.int32))
    return table.add_column(0, SUBJECT, pa.DictionaryArray.from_arrays(codes, pa.array([subject], pa.string())))
