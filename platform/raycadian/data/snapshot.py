"""Snapshots: the recordings of a data set as partitioned Parquet, named by the hash of their content, written once.

    snapshots/<name>-<hash12>/
      manifest.json                     card, content hash, code version, sources, counts, issues, quality, file sizes
      recordings.parquet                subject, recording, start_utc, utc_offset_min, dt_s, n_points
      subject=<quoted id>/part-0.parquet   recording, time_utc, glucose_mgdl (null = missing), observed, event channels
      subject=<quoted id>/events.parquet   time_utc, kind, value: every event of the subject, where there are any

Biosignals and actigraphy: part-0.parquet holds recording, observed and the channels (no time: an even grid), events.parquet
numerics, and there are too
      subject=<quoted id>/quality.parquet  recording, point, a column a channel: the reasons against each judged stretch
      attributes.json                      subject -> the case and the columns of the table of people, a row a recording

Memory stays flat in the number of subjects: readings are spilled to disk as they are read, then Ray Data merges, grids
and writes one subject at a time. On several nodes the snapshots' folder lies on storage that all of them see: a shared
folder, or object storage (data/storage.py), where everything is first written below `.preparing-...` too.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
import pyarrow as pa

from raycadian import cluster
from raycadian.config import Grid
from raycadian.data import storage
from raycadian.data.grid import to_recordings
from raycadian.data.marks import Marks
from raycadian.data.parquet import (
    EVENT_SCHEMA,
    HEAD_SCHEMA,
    QUALITY_COLUMNS,
    REPAIR,
    content_hash,
    events_table,
    folder_name,
    from_table,
    heads_table,
    marks_of,
    read_table,
    subject_hash,
    to_table,
    write_table,
)
from raycadian.modalities.actigraphy import prepare as activity
from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.biosignals import prepare as signals
from raycadian.modalities.biosignals.card import BiosignalCard
from raycadian.modalities.cards import AnyCard, load_card, parse_card
from raycadian.modalities.cgm.card import CGMCard
from raycadian.modalities.cgm.quality import quality
from raycadian.modalities.cgm.readers import merge, read_files
from raycadian.types import GLUCOSE, OBSERVED, RECORDING, SUBJECT, TIME_UTC, Issues, Readings, Recording

FORMAT = 1  # of the manifest and the layout
Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, how many are done, of how many (None: not known yet)."""


@dataclass(frozen=True)
class Snapshot:
    """An immutable data set. `Snapshot.open(path)` checks the manifest and the size of every file."""

    path: Path
    manifest: dict[str, Any]

    @staticmethod
    def open(path: str | Path) -> "Snapshot":
        """Raises ValueError where the folder is no snapshot, of another version, or not whole."""
        path = storage.resolve_path(path)
        snapshot = Snapshot(path, _read_manifest(path))
        found = storage.sizes(path)
        for name, n_bytes in snapshot.manifest["files"].items():
            file = path / _inside(name, path)
            if found.get(name) != n_bytes:
                raise ValueError(f"{file}: expected {n_bytes} bytes, found {found.get(name, 'no file')}; {REPAIR}")
        return snapshot

    @property
    def id(self) -> str:
        return self.manifest["id"]

    @cached_property
    def card(self) -> Any:
        """Of any modality (AnyCard)."""
        return parse_card(self.manifest["card"], source=f"{self.path}/manifest.json, card")

    @cached_property
    def subjects(self) -> list[str]:
        """Ids of the subjects that have a recording, sorted."""
        return sorted(self.manifest["subjects"])

    @property
    def lengths(self) -> dict[str, list[int]]:
        """Points of each recording in time order, by subject: what a split needs."""
        return {s: list(self.manifest["subjects"][s]["points"]) for s in self.subjects}

    def recordings(self, subject: str) -> list[Recording]:
        """The subject's recordings in time order, equal to what was written. Raises ValueError."""
        heads = self._heads.get_group(self._known(subject))
        needed = {TIME_UTC, GLUCOSE} if isinstance(self.card, CGMCard) else set()
        table = read_table(self._folder(subject) / "part-0.parquet", {RECORDING, OBSERVED} | needed)
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
        judged = getattr(self.card, "quality", None)
        return marks_of(heads, self.events(subject), quality, judged, self.attributes.get(subject, []))

    @cached_property
    def attributes(self) -> dict[str, list[dict[str, Any]]]:
        """subject -> a row a recording of the table of cases or people; empty of a modality that has none."""
        if "attributes.json" not in self.manifest["files"]:
            return {}
        return json.loads(storage.read_bytes(self.path / "attributes.json"))

    def verify(self) -> None:
        """Read everything and compare its hash with the manifest's. Raises ValueError."""
        hashes = {s: subject_hash(self.recordings(s), self.events(s), self.marks(s)) for s in self.subjects}
        for subject, found in hashes.items():
            if found != self.manifest["subjects"][subject]["sha256"]:
                raise ValueError(f"{self.path}: the data of subject {subject!r} are not what was written; {REPAIR}")
        if (found := _combined(hashes)) != self.manifest["content_sha256"]:
            raise ValueError(f"{self.path}: content hash {found} is not the manifest's; {REPAIR}")

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


def prepare(card_path: str | Path, out: str | Path = Path("snapshots"), progress: Progress | None = None) -> Snapshot:
    """Read a card's files into a snapshot below `out` (a path or a URL), or return the one that is there already.

    Raises ValueError where a file can't be understood or nothing usable is in them, OSError where the disk is full or
    the storage or the API of cases can't be reached; then, and on Ctrl-C, nothing of it is left (downloads stay in their
    cache) and what was there before is intact.
    """
    card_path, out, tell = Path(card_path), storage.resolve_path(out).absolute(), progress or (lambda *_: None)
    card = load_card(card_path)
    paths = source_files(card, card_path.parent)
    origin = _origin(card, paths, card_path.parent)
    if found := _prepared(out, card.name, origin["key"]):
        tell(f"{found.id}: files, card and code are unchanged; reused", 1, 1)
        return found
    with _workspace(out) as work:
        issues = Issues()
        rows = _write_rows(card, paths, card_path.parent, work, issues, tell)
        manifest = _finish(work / "snapshot", card, origin, rows, issues, paths)
        return _publish(work, out / manifest["id"])


def _write_rows(
    card: AnyCard, paths: list[Path], folder: Path, work: Path, issues: Issues, tell: Progress
) -> list[dict[str, Any]]:
    """Read, clean and write every subject; their statistics. The one place where modalities part."""
    match card:
        case CGMCard():
            with closing(read_files(paths, card, issues)) as chunks:  # an error or Ctrl-C closes the file at once
                subjects = _spill(chunks, work / "spill", tell)
            items = [{SUBJECT: s, "spill": str(work / "spill" / str(n))} for n, s in enumerate(subjects)]
            return _write_subjects(items, partial(_write_spilled, write_subject), work, card, tell)
        case BiosignalCard():
            return _write_subjects(signals.items(card, paths, folder, issues), signals.write_subject, work, card, tell)
        case ActigraphyCard():
            return _write_subjects(
                activity.items(card, paths, work, issues, tell), activity.write_subject, work, card, tell
            )


def snapshots(out: str | Path = Path("snapshots"), name: str = "*") -> list[Snapshot]:
    """The whole snapshots below `out`, of one card or of all, by id. Damaged and half-written ones are not listed."""
    found = []
    for folder in storage.children(storage.resolve_path(out)):
        if fnmatchcase(folder.name, f"{name}-*") and not folder.name.startswith("."):
            try:
                found.append(Snapshot.open(folder))
            except ValueError:
                continue
    return found


def source_files(card: AnyCard, folder: Path) -> list[Path]:
    """The files that a card names, relative to its folder, sorted. Raises ValueError for a pattern without a file."""
    found: set[Path] = set()
    for pattern in card.files:
        files = {Path(f) for f in glob.glob(os.path.join(glob.escape(str(folder)), pattern), recursive=True)}
        files = {f for f in files if f.is_file()}
        if not files:
            raise ValueError(
                f"card {card.name!r}: no file matches {pattern!r} below {folder.absolute()}; correct `files`"
            )
        found |= files
    return sorted(found)


def _combined(hashes: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()


# --- what was read: the cache key -----------------------------------------------------------------------------------


def _origin(card: AnyCard, paths: list[Path], folder: Path) -> dict[str, Any]:
    """Sources, code version and the key that two equal prepares share."""
    paths = paths if isinstance(card, CGMCard) else [*paths, *signals.companions(card, paths, folder)]
    sources = [{"path": os.path.relpath(p, folder), "bytes": p.stat().st_size, "sha256": _file_hash(p)} for p in paths]
    origin = {"sources": sources, "code_version": code_version()}
    stated = json.dumps([card.model_dump(mode="json"), origin], sort_keys=True)
    return origin | {"key": hashlib.sha256(stated.encode()).hexdigest()}


def code_version() -> str:
    """Hash of the source that turns files into a snapshot: an edit to it makes `prepare` read again."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    folders = ("data", "modalities", "physiology/waveforms", "physiology/rhythms")
    for file in [root / "types.py", *(file for folder in folders for file in sorted((root / folder).rglob("*.py")))]:
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _prepared(out: Path, name: str, key: str) -> Snapshot | None:
    return next((s for s in snapshots(out, glob.escape(name)) if s.manifest["key"] == key), None)


# --- stage 1: spill ------------------------------------------------------------------------------------------------


def _spill(chunks: Iterable[Readings], folder: Path, tell: Progress) -> list[str]:
    """Write readings as they come, part by part: folder/<n>/<k>-*.parquet. Returns the subjects; n is the position."""
    storage.make_folder(folder)
    number: dict[str, int] = {}
    parts: Counter[str] = Counter()
    n_readings = 0
    for chunk in chunks:
        part = folder / str(number.setdefault(chunk.subject, len(number)))
        storage.make_folder(part)
        _write_frame(chunk.glucose, part / f"{parts[chunk.subject]:06d}-glucose.parquet")
        _write_frame(chunk.events, part / f"{parts[chunk.subject]:06d}-events.parquet")
        parts[chunk.subject] += 1
        n_readings += len(chunk.glucose)
        tell("readings read", n_readings, None)
    return list(number)


def _write_frame(frame: pd.DataFrame, path: Path) -> None:
    write_table(pa.Table.from_pandas(frame, preserve_index=False), path)


def _read_frame(path: Path) -> pd.DataFrame:
    """Typed also where it is empty."""
    types = {TIME_UTC: "datetime64[ns]", GLUCOSE: "float64", "kind": "object", "value": "float64"}
    frame = read_table(path, set()).to_pandas()
    return frame.astype({name: kind for name, kind in types.items() if name in frame})


def _unspill(subject: str, folder: Path) -> list[Readings]:
    return [
        Readings(subject, _read_frame(part), _read_frame(part.with_name(f"{part.name[:6]}-events.parquet")))
        for part in storage.children(folder)
        if part.name.endswith("-glucose.parquet")
    ]


# --- stage 2: one subject at a time, on Ray Data --------------------------------------------------------------------


def _write_subjects(
    items: list[dict[str, Any]], write: Callable[..., dict], work: Path, card: AnyCard, tell: Progress
) -> list[dict[str, Any]]:
    """`write` every subject (item) in parallel; their statistics, sorted by subject."""
    storage.make_folder(work / "snapshot")
    if not items:
        return []
    ray = cluster.connect()
    blocks = min(len(items), max(64, 4 * cluster.cpus()))
    data = ray.data.from_items([{"item": json.dumps(item)} for item in items], override_num_blocks=blocks)
    data = data.map(_attempt, fn_kwargs={"write": write, "snapshot": str(work / "snapshot"), "card": card})
    rows = []
    for done, answer in enumerate(data.iter_rows(), start=1):
        rows.append(_answered(answer))
        tell("subjects written", done, len(items))
    return sorted(rows, key=lambda row: row[SUBJECT])


def _attempt(found: dict[str, str], write: Callable[..., dict], snapshot: str, card: AnyCard) -> dict[str, Any]:
    """A subject's statistics as JSON; an error that the user can mend travels as a value, without Ray's traceback."""
    try:
        row = write(json.loads(found["item"]), storage.resolve_path(snapshot), card)
        return {"row": json.dumps(row), "errno": 0, "error": ""}
    except ValueError as error:
        return {"row": "", "errno": 0, "error": str(error)}
    except ConnectionError as error:  # of an API of cases; those of object storage have another class
        return {"row": "", "errno": errno.ECONNABORTED, "error": str(error)}
    except OSError as error:
        return {
            "row": "",
            "errno": error.errno or 0,
            "error": f"{error.strerror or error}: {error.filename or snapshot}",
        }


def _write_spilled(write: Callable[..., dict], item: dict[str, str], snapshot: Path, card: CGMCard) -> dict[str, Any]:
    return write(item[SUBJECT], storage.resolve_path(item["spill"]), snapshot, card.grid)


def _answered(answer: dict[str, Any]) -> dict[str, Any]:
    if answer["errno"] == errno.ECONNABORTED:
        raise ConnectionError(answer["error"])
    if answer["errno"]:
        raise OSError(answer["errno"], answer["error"])
    if answer["error"]:
        raise ValueError(answer["error"])
    return json.loads(answer["row"])


def write_subject(subject: str, spill: Path, snapshot: Path, grid: Grid) -> dict[str, Any]:
    """Merge a subject's parts, grid and write them; small statistics. Run again (Ray retries) it overwrites."""
    issues = Issues()
    readings = merge(_unspill(subject, spill), issues)
    recordings = to_recordings(readings, grid, issues)
    events = readings.events.sort_values(TIME_UTC, kind="stable").reset_index(drop=True)
    row = {SUBJECT: subject, "issues": issues.as_dict(), "quality": quality(readings, recordings, grid)}
    if not recordings:
        return row
    folder = snapshot / folder_name(subject)
    storage.make_folder(folder)  # no parents: a run that was cleaned away must not come back
    tables = {"part-0.parquet": to_table(recordings)} | (
        {"events.parquet": events_table(events)} if len(events) else {}
    )
    return row | {
        "files": {f"{folder.name}/{name}": write_table(table, folder / name) for name, table in tables.items()},
        "sha256": content_hash(recordings, events),
        "events": len(events),
        "observed": sum(int(r.observed.sum()) for r in recordings),
        "heads": [[r.index, str(r.start_utc), r.utc_offset_min, r.dt_s, len(r)] for r in recordings],
    }


# --- the whole: manifest, publication -------------------------------------------------------------------------------


def _finish(
    folder: Path, card: AnyCard, origin: dict, rows: list[dict], issues: Issues, paths: list[Path]
) -> dict[str, Any]:
    """Write recordings.parquet and manifest.json into the finished folder. Raises ValueError where nothing is usable."""
    for row in rows:
        issues.merge(_issues(row["issues"]))
    usable = [row for row in rows if "sha256" in row]
    if not usable:
        raise ValueError(_nothing_usable(card, rows, issues))
    heads = [[row[SUBJECT], *head] for row in usable for head in row["heads"]]
    files = {"recordings.parquet": write_table(heads_table(heads), folder / "recordings.parquet")}
    if attributes := {row[SUBJECT]: row["attributes"] for row in usable if "attributes" in row}:
        body = json.dumps(attributes, sort_keys=True).encode()
        files["attributes.json"] = storage.write_bytes(folder / "attributes.json", body)
    sha256 = _combined({row[SUBJECT]: row["sha256"] for row in usable})
    manifest = {
        "format": FORMAT,
        "id": f"{card.name}-{sha256[:12]}",
        "content_sha256": sha256,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        **origin,
        "card": card.model_dump(mode="json"),
        "counts": _counts(card, rows, usable),
        "issues": issues.as_dict(),
        "subjects": {row[SUBJECT]: _subject_entry(row) for row in usable},
        "quality": {row[SUBJECT]: row["quality"] for row in rows},
        "files": {name: n for row in usable for name, n in row["files"].items()} | files,
    }
    if isinstance(card, ActigraphyCard) and (cohorts := activity.cohorts(rows, card, paths)):
        manifest["cohorts"] = cohorts
    storage.write_bytes(folder / "manifest.json", json.dumps(manifest, indent=1).encode())
    return manifest


def _subject_entry(row: dict[str, Any]) -> dict[str, Any]:
    entry = {"sha256": row["sha256"], "points": [head[-1] for head in row["heads"]], "events": row["events"]}
    return entry | ({"judged": row["judged"]} if "judged" in row else {})


def _counts(card: AnyCard, rows: list[dict], usable: list[dict]) -> dict[str, int]:
    match card:
        case BiosignalCard():
            return signals.counts(rows, usable)
        case ActigraphyCard():
            return activity.counts(rows, usable)
    return {
        "subjects": len(usable),
        "subjects_without_recording": len(rows) - len(usable),
        "recordings": sum(len(row["heads"]) for row in usable),
        "readings": sum(row["quality"]["readings"] for row in rows),
        "interruptions": sum(row["quality"]["interruptions"] for row in rows),
        "gaps": sum(row["quality"]["gaps"] for row in rows),
        "points": sum(row["quality"]["points"] for row in rows),
        "observed": sum(row["observed"] for row in usable),
        "events": sum(row["events"] for row in usable),
    }


def _nothing_usable(card: AnyCard, rows: list[dict], issues: Issues) -> str:
    if not isinstance(card, CGMCard):
        met = "; ".join(
            f"{kind}: {n}, e.g. {(issues.examples.get(kind) or ['-'])[0]}" for kind, n in issues.counts.items()
        )
        return (
            f"card {card.name!r}: no recording could be read of {len(rows)} subjects ({met or 'no case is selected'})"
        )
    readings = sum(row["quality"]["readings"] for row in rows)
    met = "; ".join(f"{kind}: {n}" for kind, n in sorted(issues.counts.items())) or "none"
    return (
        f"card {card.name!r}: no recording of at least {card.grid.min_points} points every {card.grid.dt_min:g} min without "
        f"a gap over {card.grid.gap_min:g} min; found {len(rows)} subjects with {readings} readings (issues: {met}); "
        "bring longer data or change the card's grid"
    )


def _issues(found: dict[str, dict]) -> Issues:
    counts = {kind: i["count"] for kind, i in found.items()}
    return Issues(counts, {kind: i["examples"] for kind, i in found.items()})


def _publish(work: Path, target: Path) -> Snapshot:
    """The finished folder appears under its id. Equal content that is there already stays, with the newer manifest."""
    built = work / "snapshot"
    try:
        Snapshot.open(target)
        storage.replace(built / "manifest.json", target / "manifest.json")
    except ValueError:
        storage.remove(target)  # nothing, or damaged
        storage.publish(built, target, last="manifest.json")
    return Snapshot.open(target)


@contextmanager
def _workspace(out: Path) -> Iterator[Path]:
    """A folder of this process below `out`, gone afterwards whatever happens; those of dead processes go too."""
    if not storage.remote(out):
        out.mkdir(parents=True, exist_ok=True)
    mine = f".preparing-{socket.gethostname()}-"
    for left in storage.children(out):
        if left.name.startswith(mine) and not _alive(left):
            storage.remove(left)
    work = out / f"{mine}{os.getpid()}-{time.time():.0f}-{uuid.uuid4().hex[:8]}"
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


def _read_manifest(path: Path) -> dict[str, Any]:
    file = path / "manifest.json"
    try:
        manifest = json.loads(storage.read_bytes(file))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"{path}: no snapshot here (no manifest.json); make one with `raycadian prepare CARD`"
        ) from None
    except ValueError as error:
        raise ValueError(f"{file}: not readable as JSON ({error}); {REPAIR}") from None
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if version != FORMAT:
        raise ValueError(f"{file}: format {version!r}, this version reads {FORMAT}; run `raycadian prepare` again")
    needed = {"id", "key", "content_sha256", "card", "counts", "issues", "subjects", "quality", "files"}
    if lacking := needed - set(manifest):
        raise ValueError(f"{file}: lacks {sorted(lacking)}; {REPAIR}")
    return manifest


def _inside(name: str, folder: Path) -> str:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ValueError(f"{folder}/manifest.json: file {name!r} lies outside the snapshot; {REPAIR}")
    return name
