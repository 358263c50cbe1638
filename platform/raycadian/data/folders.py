"""Format 1 of a snapshot, of before the blocks: a folder a subject. It is read, and no longer written.

manifest.json             also: subjects (id -> sha256, points, events, judged), quality (id -> its figures)
recordings.parquet        as in format 2
attributes.json           subject -> the case and the columns of the table of people, a row a recording
subject=<quoted id>/      part-0.parquet: recording, observed, a column a channel; events.parquet; quality.parquet
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from raycadian.data import storage
from raycadian.data.blocks import Entry, HeadTable
from raycadian.data.parquet import EVENT_SCHEMA, QUALITY_COLUMNS, read_table
from raycadian.files import parse_json
from raycadian.types import OBSERVED, RECORDING


class Folders:
    """What data/snapshot.py reads a snapshot of format 1 through; see `blocks.Blocks`."""

    def __init__(self, path: Path, manifest: dict[str, Any]):
        self._path, self._manifest = path, manifest

    @cached_property
    def entries(self) -> dict[str, Entry]:
        rows = self._manifest["subjects"].items()
        return {
            s: Entry(row["sha256"], row["events"], row.get("judged") or 0, self._attributes.get(s, []))
            for s, row in rows
        }

    @cached_property
    def heads(self) -> HeadTable:
        return HeadTable.read(self._path)

    @property
    def quality(self) -> dict[str, dict[str, Any]]:
        return self._manifest["quality"]

    def agrees(self, lengths: dict[str, list[int]]) -> bool:
        return lengths == {s: list(row["points"]) for s, row in self._manifest["subjects"].items()}

    def recordings(self, subjects: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
        columns = {RECORDING, OBSERVED, *self._manifest.get("columns", ())}  # snapshots of before don't state them
        for subject in subjects:
            yield subject, read_table(self._folder(subject) / "part-0.parquet", columns)

    def events(self, subjects: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
        for subject in subjects:
            yield subject, read_table(self._folder(subject) / "events.parquet", set(EVENT_SCHEMA.names))

    def judged(self, subject: str) -> pa.Table:
        return read_table(self._folder(subject) / "quality.parquet", QUALITY_COLUMNS)

    @cached_property
    def _attributes(self) -> dict[str, list[dict[str, Any]]]:
        if "attributes.json" not in self._manifest["files"]:
            return {}
        return parse_json(storage.read_bytes(self._path / "attributes.json"))

    def _folder(self, subject: str) -> Path:
        """`subject=<id>` with everything but letters, digits and `_.-~` quoted: no id leaves the snapshot."""
        return self._path / f"subject={quote(subject, safe='')}"
