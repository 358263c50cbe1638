"""How a snapshot comes to be: in a workspace of its own, a subject at a time, then published whole or not at all.

A subject's row, which the worker that wrote it answers with: subject, issues, quality; and where it has a recording
files (name -> bytes), sha256, events, observed, heads; attributes and judged where the modality has them.
"""

import glob
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from raycadian.data import storage
from raycadian.data.marks import Marks
from raycadian.data.parquet import (
    EVENT_SCHEMA,
    REPAIR,
    events_table,
    folder_name,
    heads_table,
    subject_hash,
    to_table,
    write_table,
)
from raycadian.data.snapshot import FORMAT, Snapshot, combined_hash, snapshots
from raycadian.files import on_disk, own_folder
from raycadian.types import SUBJECT, Issues, Recording

Row = dict[str, Any]
log = logging.getLogger(__name__)


def write_subject(
    snapshot: Path, subject: str, recordings: list[Recording], events: pd.DataFrame | None = None,
    marks: Sequence[Marks] = (), columns: Sequence[str] = (),
) -> Row:  # fmt: skip
    """Write one subject's recordings and events below `snapshot`; the part of its row about them, nothing without a
    recording. Marks: the attributes of each recording. `columns`: the first of part-0.parquet, in their order."""
    if not recordings:
        return {}
    events = EVENT_SCHEMA.empty_table().to_pandas() if events is None else events
    tables = {"part-0.parquet": to_table(recordings, columns)}
    tables |= {"events.parquet": events_table(events)} if len(events) else {}
    row = {
        "files": write_tables(snapshot / folder_name(subject), tables),
        "sha256": subject_hash(recordings, events, marks),
        "events": len(events),
        "observed": sum(int(r.observed.sum()) for r in recordings),
        "heads": [head_of(r) for r in recordings],
    }
    return row | ({"attributes": [dict(m.attributes) for m in marks]} if marks else {})


def write_tables(folder: Path, tables: dict[str, pa.Table]) -> dict[str, int]:
    """A subject's files in its folder; their bytes by their path in the snapshot."""
    storage.make_folder(folder)  # no parents: a run that was cleaned away must not come back
    return {f"{folder.name}/{name}": write_table(table, folder / name) for name, table in tables.items()}


def head_of(recording: Recording) -> list[Any]:
    """A recording without its values, as HEAD_SCHEMA has it but for the subject; JSON holds it."""
    start = str(recording.start_utc.astype("datetime64[s]"))
    return [recording.index, start, recording.utc_offset_min, recording.dt_s, len(recording)]


def finish(folder: Path, rows: list[Row], about: dict[str, Any]) -> dict[str, Any]:
    """Write recordings.parquet, attributes.json and manifest.json of the subjects that have a recording (at least one)
    into the folder where their files are; the manifest. `about`: what it says beside that, `card` at least."""
    usable = [row for row in rows if "sha256" in row]
    heads = [[row[SUBJECT], *head] for row in usable for head in row["heads"]]
    files = {"recordings.parquet": write_table(heads_table(heads), folder / "recordings.parquet")}
    if attributes := {row[SUBJECT]: row["attributes"] for row in usable if "attributes" in row}:
        body = json.dumps(attributes, sort_keys=True).encode()
        files["attributes.json"] = storage.write_bytes(folder / "attributes.json", body)
    sha256 = combined_hash({row[SUBJECT]: row["sha256"] for row in usable})
    manifest = {
        "format": FORMAT,
        "id": f"{about['card']['name']}-{sha256[:12]}",
        "content_sha256": sha256,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        **about,
        "subjects": {row[SUBJECT]: _subject_entry(row) for row in usable},
        "quality": {row[SUBJECT]: row["quality"] for row in rows},
        "files": {name: n for row in usable for name, n in row["files"].items()} | files,
    }
    storage.write_bytes(folder / "manifest.json", json.dumps(manifest, indent=1).encode())
    return manifest


def _subject_entry(row: Row) -> Row:
    entry = {"sha256": row["sha256"], "points": [head[-1] for head in row["heads"]], "events": row["events"]}
    return entry | ({"judged": row["judged"]} if "judged" in row else {})


def issues_of(counted: dict[str, dict]) -> Issues:
    """The inverse of `Issues.as_dict`."""
    counts = {kind: entry["count"] for kind, entry in counted.items()}
    return Issues(counts, {kind: entry["examples"] for kind, entry in counted.items()})


def prepared(out: Path, name: str, key: str) -> Snapshot | None:
    """The snapshot below `out` that was made of the same, and is sound at a glance."""
    same = next((s for s in snapshots(out, glob.escape(name)) if s.manifest["key"] == key), None)
    try:
        if same is not None:
            same.require_sound()
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        log.warning("a damaged snapshot is prepared again: %s", str(error).removesuffix(f"; {REPAIR}"))
        return None
    return same


def publish(built: Path, target: Path) -> Snapshot:
    """The finished folder appears under its id. Equal content that is there already stays, with the newer manifest."""
    try:
        Snapshot.open(target).verify()
        storage.replace(built / "manifest.json", target / "manifest.json")
    except ValueError:
        storage.remove(target)  # nothing, or damaged
        storage.publish(built, target, last="manifest.json")
    return Snapshot.open(target)


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
