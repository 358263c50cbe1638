"""Snapshots: the recordings of a data set as Parquet, named by the hash of their content, written once.

    snapshots/<name>-<hash12>/
      manifest.json              card, content hash, the modality's version, sources, counts, issues, sizes
      subjects-<hash8>.parquet  a row a subject: hash, figures of quality, the columns of the table of people
      recordings.parquet         subject, recording, start_utc, utc_offset_min, dt_s, n_points
      index.parquet              where each subject's rows lie in the blocks
      blocks/
        00000-00-recordings.parquet    subject, recording, observed, a column a channel; of glucose time_utc too
        00000-01-events.parquet        subject, time_utc, kind, value: every event of the subject
        00000-02-quality.parquet       subject, recording, point, a column a channel: the reasons against each stretch

A block has about 100 MB at most, however many subjects there are and however long they are (data/blocks.py); snapshots
of before, a folder a subject, are read too (data/folders.py). How it is written: data/writer.py; from what:
modalities/prepare.py. A snapshots' folder lies on this machine, on a shared file system, or in object storage
(data/storage.py).
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from raycadian.data import storage
from raycadian.data.blocks import SUBJECTS, Blocks
from raycadian.data.folders import Folders
from raycadian.data.marks import Marks
from raycadian.data.parquet import EVENT_SCHEMA, REPAIR, from_table, marks_of, subject_hash
from raycadian.files import parse_json, path_inside
from raycadian.types import TIME_UTC, Recording

FORMAT = 2  # of the manifest and the layout
_OF_BEFORE = 1  # a folder a subject
_STRETCH_S = (10.0, 10.0)  # of quality, where the card names none: nothing is judged then


@dataclass(frozen=True)
class Snapshot:
    """An immutable data set. `Snapshot.open(path)` checks the manifest and the size of every file. `chosen`: some of
    its people, who are read as from the whole."""

    path: Path
    manifest: dict[str, Any]
    chosen: tuple[str, ...] | None = None

    @staticmethod
    def open(path: str | Path) -> "Snapshot":
        """Raises ValueError where the folder is no snapshot, of another version, or not whole."""
        path = storage.resolve_path(path)
        snapshot = Snapshot(path, read_manifest(path))
        sizes = storage.sizes(path)
        for name, n_bytes in snapshot.manifest["files"].items():
            file = _member(path, name)
            if sizes.get(name) != n_bytes:
                raise ValueError(f"{file}: expected {n_bytes} bytes, found {sizes.get(name, 'no file')}; {REPAIR}")
        return snapshot

    def __reduce__(self) -> tuple[Any, ...]:
        """Without its index, which another process reads where it needs it."""
        return Snapshot, (self.path, self.manifest, self.chosen)

    @property
    def id(self) -> str:
        return self.manifest["id"]

    @property
    def name(self) -> str:
        """Of the data set, as its card has it."""
        return self.manifest["card"]["name"]

    @property
    def whole(self) -> bool:
        return self.chosen is None

    @cached_property
    def _tables(self) -> Blocks | Folders:
        if self.manifest["format"] == _OF_BEFORE:
            return Folders(self.path, self.manifest)
        return Blocks(self.path, next(name for name in self.manifest["files"] if name.startswith(SUBJECTS)))

    @cached_property
    def subjects(self) -> list[str]:
        """Ids of the subjects that have a recording, sorted."""
        return sorted(self._tables.entries if self.chosen is None else self.chosen)

    def part(self, subjects: Sequence[str]) -> "Snapshot":
        """Some of its people, who are read as from the whole. Raises ValueError."""
        own = Snapshot(self.path, self.manifest, tuple(self._known(subject) for subject in subjects))
        own.__dict__["_tables"] = self._tables  # the index is read once
        return own

    @property
    def lengths(self) -> dict[str, list[int]]:
        """Points of each recording in time order, by subject: what a split needs."""
        return {s: self._tables.heads.points(s) for s in self.subjects}

    @property
    def quality(self) -> dict[str, dict[str, Any]]:
        """subject -> its figures of quality, of those without a recording too."""
        return self._tables.quality

    @property
    def attributes(self) -> dict[str, list[dict[str, Any]]]:
        """subject -> a row a recording of the table of cases or people; empty of a modality that has none."""
        return {s: own for s in self.subjects if (own := self._tables.entries[s].attributes)}

    def recordings(self, subject: str) -> list[Recording]:
        """The subject's recordings in time order, equal to what was written. Raises ValueError."""
        return next(self.each([subject]))[1]

    def each(self, subjects: Sequence[str] | None = None) -> Iterator[tuple[str, list[Recording]]]:
        """Each subject with its recordings, of all or of those named: neighbours are read together. Raises
        ValueError."""
        chosen = self.subjects if subjects is None else [self._known(subject) for subject in subjects]
        events = self._tables.events([s for s in chosen if self._tables.entries[s].events])
        for subject, table in self._tables.recordings(chosen):
            own = _frame(next(events)[1]) if self._tables.entries[subject].events else None
            yield subject, from_table(self._tables.heads.of(subject), table, own)

    def events(self, subject: str) -> pd.DataFrame:
        """Every event of the subject (time_utc, kind, value), also those outside its recordings."""
        known = self._tables.entries[self._known(subject)].events
        return _frame(next(self._tables.events([subject]))[1] if known else EVENT_SCHEMA.empty_table())

    def marks(self, subject: str) -> list[Marks]:
        """What is known of the subject's recordings beside their channels, which are not read. Raises ValueError."""
        entry, heads = self._tables.entries[self._known(subject)], self._tables.heads.of(subject)
        quality = self._tables.judged(subject) if entry.judged else None
        return marks_of(heads, self.events(subject), quality, self._stretch_s, entry.attributes)

    @property
    def _stretch_s(self) -> tuple[float, float]:
        """Seconds that quality is judged on, and from one stretch to the next, as the card says."""
        quality = self.manifest["card"].get("quality")
        return (quality["window_s"], quality["hop_s"]) if quality else _STRETCH_S

    def verify(self) -> None:
        """Read everything and compare its hash with what was noted. Raises ValueError."""
        hashes = {s: subject_hash(own, self.events(s), self.marks(s)) for s, own in self.each()}
        for subject, sha256 in hashes.items():
            if sha256 != self._tables.entries[subject].sha256:
                raise ValueError(f"{self.path}: the data of subject {subject!r} are not what was written; {REPAIR}")
        if (sha256 := combined_hash(sorted(hashes.items()))) != self.manifest["content_sha256"]:
            raise ValueError(f"{self.path}: content hash {sha256} is not the manifest's; {REPAIR}")

    def require_sound(self) -> None:
        """Raises ValueError where manifest and index contradict one another; or the data the manifest, which are read
        where a file was written after it."""
        hashes = {s: entry.sha256 for s, entry in self._tables.entries.items()}
        if combined_hash(sorted(hashes.items())) != self.manifest["content_sha256"]:
            raise ValueError(f"{self.path / 'manifest.json'}: its subjects are not those it was written with; {REPAIR}")
        lengths = {s: self._tables.heads.points(s) for s in self._tables.heads.rows}
        if not self._tables.agrees(lengths):
            raise ValueError(f"{self.path / 'recordings.parquet'}: is not the index of the manifest; {REPAIR}")
        if any(self.path.joinpath(name).stat().st_mtime_ns > self._written_ns for name in self._local_files):
            self.verify()
            with suppress(OSError):  # sound: not to be read again
                os.utime(self.path / "manifest.json")

    def is_sound(self) -> bool:
        try:
            self.require_sound()
        except (ValueError, LookupError, TypeError, AttributeError):
            return False
        return True

    def row(self, subject: str) -> dict[str, Any]:
        """What is known of a subject, with or without a recording, as data/writer.py has it."""
        return self._tables.row(subject)

    @property
    def made_of(self) -> dict[str, str | None]:
        """subject -> what its data hang on, where that was said."""
        return {subject: self._tables.rest(subject).get("made_of") for subject in self.quality}

    @property
    def _local_files(self) -> list[str]:
        return [] if storage.remote(self.path) else list(self.manifest["files"])

    @property
    def _written_ns(self) -> int:
        return (self.path / "manifest.json").stat().st_mtime_ns

    def _known(self, subject: str) -> str:
        if subject not in self._tables.entries:
            raise ValueError(f"{self.id} has no subject {subject!r}; it has {', '.join(self.subjects[:5])} ...")
        return subject


def _frame(events: pa.Table) -> pd.DataFrame:
    return events.to_pandas(ignore_metadata=True).astype({TIME_UTC: "datetime64[ns]"})


def snapshots(out: str | Path = Path("snapshots"), name: str = "*") -> list[Snapshot]:
    """The whole snapshots below `out`, of one card or of all, by id. Damaged and half-written ones are not listed."""
    whole = []
    for folder in folders(out, name):
        try:
            whole.append(Snapshot.open(folder))
        except ValueError:
            continue
    return whole


def folders(out: str | Path, name: str = "*") -> list[Path]:
    """Where snapshots of a card lie, or of all: whole ones or not."""
    below = storage.children(storage.resolve_path(out))
    return [f for f in below if fnmatchcase(f.name, f"{name}-*") and not f.name.startswith(".")]


def combined_hash(hashes: Iterable[tuple[str, str]]) -> str:
    """Of a snapshot, from those of its subjects, which come sorted."""
    digest = hashlib.sha256(b"[")
    for number, pair in enumerate(hashes):
        digest.update(f"{', ' if number else ''}{json.dumps(pair)}".encode())
    digest.update(b"]")
    return digest.hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    file = path / "manifest.json"
    try:
        manifest = parse_json(storage.read_bytes(file))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"{path}: no snapshot here (no manifest.json); make one with `raycadian prepare CARD`"
        ) from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}; {REPAIR}") from None
    version = manifest.get("format")
    if version not in (_OF_BEFORE, FORMAT):
        raise ValueError(
            f"{file}: format {version!r}, this version reads {_OF_BEFORE} and {FORMAT}; run `raycadian prepare` again"
        )
    needed = {"id", "key", "content_sha256", "card", "counts", "issues", "files"}
    needed |= {"subjects", "quality"} if version == _OF_BEFORE else set()
    if lacking := needed - set(manifest):
        raise ValueError(f"{file}: lacks {sorted(lacking)}; {REPAIR}")
    return manifest


def _member(folder: Path, name: str) -> Path:
    try:
        return path_inside(folder, name)
    except ValueError:
        raise ValueError(f"{folder}/manifest.json: file {name!r} lies outside the snapshot; {REPAIR}") from None
