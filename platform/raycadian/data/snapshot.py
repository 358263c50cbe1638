"""Snapshots: the recordings of a data set as partitioned Parquet, named by the hash of their content, written once.

    snapshots/<name>-<hash12>/
      manifest.json             card, content hash, the modality's version, sources, counts, issues, quality, sizes
      recordings.parquet        subject, recording, start_utc, utc_offset_min, dt_s, n_points
      attributes.json           subject -> the case and the columns of the table of people, a row a recording
      subject=<quoted id>/
        part-0.parquet          recording, observed, a column a channel; of glucose time_utc too (null = missing)
        events.parquet          time_utc, kind, value: every event of the subject, where there are any
        quality.parquet         recording, point, a column a channel: the reasons against each judged stretch

attributes.json and quality.parquet where the modality has them. How it is written: data/writer.py; from what:
modalities/prepare.py. A snapshots' folder lies on this machine, on a shared file system, or in object storage
(data/storage.py).
"""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from raycadian.data import storage
from raycadian.data.marks import Marks
from raycadian.data.parquet import (
    EVENT_SCHEMA,
    HEAD_SCHEMA,
    QUALITY_COLUMNS,
    REPAIR,
    folder_name,
    from_table,
    marks_of,
    read_table,
    subject_hash,
)
from raycadian.files import parse_json, path_inside
from raycadian.types import OBSERVED, RECORDING, SUBJECT, TIME_UTC, Recording

FORMAT = 1  # of the manifest and the layout
_STRETCH_S = (10.0, 10.0)  # of quality, where the card names none: nothing is judged then


@dataclass(frozen=True)
class Snapshot:
    """An immutable data set. `Snapshot.open(path)` checks the manifest and the size of every file."""

    path: Path
    manifest: dict[str, Any]
    whole: bool = True

    @staticmethod
    def open(path: str | Path) -> "Snapshot":
        """Raises ValueError where the folder is no snapshot, of another version, or not whole."""
        path = storage.resolve_path(path)
        snapshot = Snapshot(path, _read_manifest(path))
        sizes = storage.sizes(path)
        for name, n_bytes in snapshot.manifest["files"].items():
            file = _member(path, name)
            if sizes.get(name) != n_bytes:
                raise ValueError(f"{file}: expected {n_bytes} bytes, found {sizes.get(name, 'no file')}; {REPAIR}")
        return snapshot

    @property
    def id(self) -> str:
        return self.manifest["id"]

    @property
    def name(self) -> str:
        """Of the data set, as its card has it."""
        return self.manifest["card"]["name"]

    @cached_property
    def subjects(self) -> list[str]:
        """Ids of the subjects that have a recording, sorted."""
        return sorted(self.manifest["subjects"])

    def part(self, subjects: list[str]) -> "Snapshot":
        """Some of its people, who are read as from the whole. Raises ValueError."""
        kept = {self._known(subject): self.manifest["subjects"][subject] for subject in subjects}
        return Snapshot(self.path, self.manifest | {"subjects": kept}, whole=False)

    @property
    def lengths(self) -> dict[str, list[int]]:
        """Points of each recording in time order, by subject: what a split needs."""
        return {s: list(self.manifest["subjects"][s]["points"]) for s in self.subjects}

    def recordings(self, subject: str) -> list[Recording]:
        """The subject's recordings in time order, equal to what was written. Raises ValueError."""
        heads = self._heads.get_group(self._known(subject))
        columns = {RECORDING, OBSERVED, *self.manifest.get("columns", ())}  # snapshots of before don't state them
        table = read_table(self._folder(subject) / "part-0.parquet", columns)
        events = self.events(subject) if self._has_events(subject) else None
        return from_table(heads, table, events)

    def events(self, subject: str) -> pd.DataFrame:
        """Every event of the subject (time_utc, kind, value), also those outside its recordings."""
        if not self._has_events(subject):
            return EVENT_SCHEMA.empty_table().to_pandas().astype({TIME_UTC: "datetime64[ns]"})
        table = read_table(self._folder(subject) / "events.parquet", set(EVENT_SCHEMA.names))
        return table.to_pandas(ignore_metadata=True).astype({TIME_UTC: "datetime64[ns]"})

    def marks(self, subject: str) -> list[Marks]:
        """What is known of the subject's recordings beside their channels, which are not read. Raises ValueError."""
        heads, folder = self._heads.get_group(self._known(subject)), self._folder(subject)
        quality = None
        if self.manifest["subjects"][subject].get("judged"):
            quality = read_table(folder / "quality.parquet", QUALITY_COLUMNS)
        return marks_of(heads, self.events(subject), quality, self._stretch_s, self.attributes.get(subject, []))

    @property
    def _stretch_s(self) -> tuple[float, float]:
        """Seconds that quality is judged on, and from one stretch to the next, as the card says."""
        quality = self.manifest["card"].get("quality")
        return (quality["window_s"], quality["hop_s"]) if quality else _STRETCH_S

    @cached_property
    def attributes(self) -> dict[str, list[dict[str, Any]]]:
        """subject -> a row a recording of the table of cases or people; empty of a modality that has none."""
        if "attributes.json" not in self.manifest["files"]:
            return {}
        return parse_json(storage.read_bytes(self.path / "attributes.json"))

    def verify(self) -> None:
        """Read everything and compare its hash with the manifest's. Raises ValueError."""
        hashes = {s: subject_hash(self.recordings(s), self.events(s), self.marks(s)) for s in self.subjects}
        for subject, sha256 in hashes.items():
            if sha256 != self.manifest["subjects"][subject]["sha256"]:
                raise ValueError(f"{self.path}: the data of subject {subject!r} are not what was written; {REPAIR}")
        if (sha256 := combined_hash(hashes)) != self.manifest["content_sha256"]:
            raise ValueError(f"{self.path}: content hash {sha256} is not the manifest's; {REPAIR}")

    def require_sound(self) -> None:
        """Raises ValueError where manifest and index contradict one another; or the data the manifest, which are read
        where a file was written after it."""
        entries = self.manifest["subjects"]
        stated = self.manifest["content_sha256"]
        if combined_hash({s: entry["sha256"] for s, entry in entries.items()}) != stated:
            raise ValueError(f"{self.path / 'manifest.json'}: its subjects are not those it was written with; {REPAIR}")
        lengths = self._heads["n_points"].agg(list)
        if {s: list(entry["points"]) for s, entry in entries.items()} != lengths.to_dict():
            raise ValueError(f"{self.path / 'recordings.parquet'}: is not the index of the manifest; {REPAIR}")
        if any(self.path.joinpath(name).stat().st_mtime_ns > self._written_ns for name in self._local_files):
            self.verify()
            with suppress(OSError):  # sound: not to be read again
                os.utime(self.path / "manifest.json")

    @property
    def _local_files(self) -> list[str]:
        return [] if storage.remote(self.path) else list(self.manifest["files"])

    @property
    def _written_ns(self) -> int:
        return (self.path / "manifest.json").stat().st_mtime_ns

    @cached_property
    def _heads(self) -> Any:
        table = read_table(self.path / "recordings.parquet", set(HEAD_SCHEMA.names))
        return table.to_pandas(ignore_metadata=True).groupby(SUBJECT, sort=False)

    def _known(self, subject: str) -> str:
        if subject not in self.manifest["subjects"]:
            raise ValueError(f"{self.id} has no subject {subject!r}; it has {', '.join(self.subjects[:5])} ...")
        return subject

    def _has_events(self, subject: str) -> bool:
        return self.manifest["subjects"][self._known(subject)]["events"] > 0

    def _folder(self, subject: str) -> Path:
        return self.path / folder_name(subject)


def snapshots(out: str | Path = Path("snapshots"), name: str = "*") -> list[Snapshot]:
    """The whole snapshots below `out`, of one card or of all, by id. Damaged and half-written ones are not listed."""
    whole = []
    for folder in storage.children(storage.resolve_path(out)):
        if fnmatchcase(folder.name, f"{name}-*") and not folder.name.startswith("."):
            try:
                whole.append(Snapshot.open(folder))
            except ValueError:
                continue
    return whole


def combined_hash(hashes: dict[str, str]) -> str:
    """Of a snapshot, from those of its subjects."""
    return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
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
    if version != FORMAT:
        raise ValueError(f"{file}: format {version!r}, this version reads {FORMAT}; run `raycadian prepare` again")
    needed = {"id", "key", "content_sha256", "card", "counts", "issues", "subjects", "quality", "files"}
    if lacking := needed - set(manifest):
        raise ValueError(f"{file}: lacks {sorted(lacking)}; {REPAIR}")
    return manifest


def _member(folder: Path, name: str) -> Path:
    try:
        return path_inside(folder, name)
    except ValueError:
        raise ValueError(f"{folder}/manifest.json: file {name!r} lies outside the snapshot; {REPAIR}") from None
