"""CGM in the snapshot: readings are spilled to disk as they are read, so that memory holds none but one block; then
each subject's parts are merged, gridded and written.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from raycadian import cluster
from raycadian.data import storage
from raycadian.data.blocks import FOLDER, BlockWriter, opened
from raycadian.data.grid import to_recordings
from raycadian.data.writer import issues_of, write_subject
from raycadian.errors import StorageError
from raycadian.modalities.base import Item, Preparation, Progress, Row, Rows
from raycadian.modalities.cgm.builder import merge
from raycadian.modalities.cgm.card import CGMCard
from raycadian.modalities.cgm.known import Known
from raycadian.modalities.cgm.parts import Parts
from raycadian.modalities.cgm.quality import quality
from raycadian.modalities.cgm.readers import Files, read_person
from raycadian.modalities.files import files_of
from raycadian.modalities.guesses import how_to_set
from raycadian.modalities.people import marks_of
from raycadian.types import EVENT_CHANNELS, GLUCOSE, OBSERVED, SUBJECT, TIME_UTC, Issues, Readings, Recording

_READING_BYTES = 32  # of a row of a table of readings, roughly
CONSTANT = "subject whose readings are all the same value"
_TIME = (TIME_UTC, pa.timestamp("ns"))
_GLUCOSE = pa.schema([_TIME, (GLUCOSE, pa.float64()), ("utc_offset_min", pa.int64())])
_EVENTS = pa.schema([_TIME, ("kind", pa.string()), ("value", pa.float64())])


def items(job: Preparation) -> Iterator[Item]:
    """Every subject with where its readings were laid aside; or what copies it from the earlier snapshot, where all its
    files are as they were. Raises ValueError."""
    events = event_files(job.card, job.folder)
    files = Files.of(job.paths, job.card, job.issues, job.leaving_out, on_reading=True, events=events)
    parts, known = Parts(), Known.of(job)
    storage.make_folder(job.work / "spill")
    numbers = {path: number for number, path in enumerate(files.formats)}
    names, issues = [job.name(path) for path in numbers], {}
    answers = _read(files, [path for path, name in zip(numbers, names, strict=True) if name not in known.files], job)
    for (path, number), name in zip(numbers.items(), names, strict=True):
        answer = known.files.get(name) or next(answers)
        with job.leaving_out(path):
            _require_read(answer)
            issues[name] = answer["issues"]
            job.issues.merge(issues_of(answer["issues"]))
            parts.extend(answer["parts"], number)
    unchanged = known.unchanged(parts, names)
    _read_again(files, parts, unchanged, numbers, known, job)
    files.conclude(parts, job.issues, unchanged)
    Known.note(parts, issues, names, job)
    yield from _items(parts, unchanged, job)


def event_files(card: CGMCard, folder: Path) -> dict[Path, list[int]]:
    """Files of the card's tables of events, with the numbers of the tables. Raises ValueError for a pattern without a
    file."""
    files: dict[Path, list[int]] = {}
    for number, table in enumerate(card.events):
        for path in files_of(table.files, f"card {card.name!r}: events", folder):
            files.setdefault(path, []).append(number)
    return files


def _items(parts: Parts, unchanged: Collection[str], job: Preparation) -> Iterator[Item]:
    file, conflicting, n_bytes = (parts.column(name) for name in ("file", "conflicting", "bytes"))
    for subject, rows in parts.by_subject():
        if subject in unchanged:
            yield job.earlier.item(subject, int(n_bytes[rows].sum()))
            continue
        spill = [[int(file[row]), json.loads(parts.spill[row])] for row in rows]
        about = {"folder": str(job.work / "spill"), "spill": spill, "conflicting": int(conflicting[rows].sum())}
        yield {SUBJECT: subject, "bytes": int(n_bytes[rows].sum())} | about


def _read_again(
    files: Files, parts: Parts, unchanged: Collection[str], numbers: Mapping[Path, int], known: Known, job: Preparation
) -> None:
    """Files that are as they were, for subjects who are in others too."""
    file = parts.column("file")
    needed = {int(file[row]) for subject, rows in parts.by_subject() if subject not in unchanged for row in rows}
    again = [path for path, number in numbers.items() if number in needed and job.name(path) in known.files]
    for path, answer in zip(again, _read(files, again, job), strict=True):
        _require_read(answer)
        parts.replace(numbers[path], answer["parts"]["spill"])


def _read(files: Files, chosen: Sequence[Path], job: Preparation) -> Iterator[dict[str, Any]]:
    """What is in each of some files, in their order, which are laid aside: here or on Ray."""
    on_ray = job.on_ray
    if on_ray is None:
        on_ray = cluster.worthwhile(sum(path.stat().st_size for path in chosen), len(chosen))
    if not chosen:
        return iter(())
    numbers = {path: number for number, path in enumerate(files.formats)}
    return (_read_on_ray if on_ray else _read_here)(files, {path: numbers[path] for path in chosen}, job)


def _read_here(files: Files, numbers: Mapping[Path, int], job: Preparation) -> Iterator[dict[str, Any]]:
    read = 0
    for path, number in numbers.items():
        answer = _read_one(files.only(path), path, job.work / "spill" / str(number), job.progress, read)
        read += answer["readings"]
        yield answer


def _read_on_ray(files: Files, numbers: Mapping[Path, int], job: Preparation) -> Iterator[dict[str, Any]]:
    """What a worker's node doesn't see, this process reads."""
    ray = cluster.connect()
    sent = [
        {"nth": nth, "number": n, "path": str(p.absolute()), "bytes": p.stat().st_size, "kind": files.formats[p]}
        for nth, (p, n) in enumerate(numbers.items())
    ]
    data = ray.data.from_items(sent, override_num_blocks=min(len(sent), max(64, 4 * cluster.cpus())))
    answers = data.map(_attempt, fn_kwargs={"card": job.card, "folder": str(job.work / "spill")}).iter_rows()
    read = 0
    for (path, number), answer in zip(numbers.items(), cluster.outcomes(answers), strict=True):
        if answer is None:
            answer = _read_one(files.only(path), path, job.work / "spill" / str(number), job.progress, read)
        read += answer["readings"]
        job.progress("readings read (on Ray)", read, None)
        yield answer


def _attempt(sent: dict[str, Any], card: CGMCard, folder: str) -> dict[str, Any]:
    path = Path(sent["path"])
    own, to = Files(card, {path: sent["kind"]}), storage.resolve_path(folder) / str(sent["number"])

    def read() -> dict[str, Any] | None:
        seen = path.is_file() and path.stat().st_size == sent["bytes"]
        return _for_json(_read_one(own, path, to, lambda *_: None, 0)) if seen else None

    return cluster.attempt(sent["nth"], read)


def _for_json(answer: dict[str, Any]) -> dict[str, Any]:
    return answer | {"parts": {name: list(column) for name, column in answer.get("parts", {}).items()}}


def _read_one(own: Files, path: Path, folder: Path, progress: Progress, before: int) -> dict[str, Any]:
    """Lay a file's readings aside; what is known of its subjects, or `unreadable`: why it can't be read. before:
    readings of the files before it."""
    issues = Issues()
    try:
        with closing(own.read(path, issues)) as chunks:  # an error or Ctrl-C closes the file at once
            parts, readings = _spill(chunks, folder, progress, before)
    except StorageError:  # not the file is at fault
        raise
    except ValueError as error:
        return {"readings": 0, "unreadable": str(error)}
    return {"parts": parts.columns(), "issues": issues.as_dict(), "readings": readings}


def _require_read(answer: dict[str, Any]) -> None:
    if "unreadable" in answer:
        raise ValueError(answer["unreadable"])


def read_item(item: Item, card: CGMCard, issues: Issues) -> Readings:
    """All readings of a subject, from its parts."""
    (own,) = [item] if "parts" in item else unspilled([item])
    whole = merge(own["parts"], issues, card.repeat_s)
    return replace(whole, conflicting=whole.conflicting + item["conflicting"])


def write(item: Item, blocks: BlockWriter, card: CGMCard) -> Row:
    """Merge a subject's parts, grid and write them."""
    subject, issues = item[SUBJECT], Issues()
    readings = read_item(item, card, issues)
    recordings = to_recordings(readings, card.grid, issues)
    events = readings.events.sort_values(TIME_UTC, kind="stable").reset_index(drop=True)
    figures = quality(readings, recordings, card.grid)
    issues.add(CONSTANT, subject, int("constant" in figures["flags"]))
    row = {SUBJECT: subject, "issues": issues.as_dict(), "quality": figures}
    row["conflicting"] = readings.conflicting, len(readings.glucose) + readings.conflicting
    # the same in each recording
    own = [name for name in EVENT_CHANNELS if recordings and name in recordings[0].channels]
    columns, marks = (TIME_UTC, GLUCOSE, OBSERVED, *own), marks_of(item, recordings)
    return row | write_subject(blocks, subject, recordings, events, marks, columns)


def counts(rows: Rows, usable: Rows) -> dict[str, int]:
    """Of a snapshot of CGM."""
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


def nothing_usable(card: CGMCard, rows: Rows, issues: Issues) -> str:
    readings = sum(row["quality"]["readings"] for row in rows)
    met = "; ".join(f"{kind}: {n}" for kind, n in sorted(issues.counts.items())) or "none"
    return (
        f"card {card.name!r}: no recording of at least {card.grid.min_points} points every {card.grid.dt_min:g} min "
        f"without a gap over {card.grid.gap_min:g} min; found {len(rows)} subjects with {readings} readings "
        f"(issues: {met}); bring a longer recording (a day or more)"
        + (f", or keep short ones: {how_to_set('grid.min_points', 12)}" if readings >= 12 else "")
    )


def recordings_of_person(path: Path, card: CGMCard | None, like: CGMCard, issues: Issues) -> list[Recording]:
    """One person's recordings on the grid of `like`. Raises ValueError."""
    grid = like.grid
    recordings = to_recordings(read_person(path, card, issues), grid, issues)
    if not recordings:
        raise ValueError(f"{path}: no stretch of readings long enough for the grid ({grid.min_points} points)")
    return recordings


# --- spilled readings -----------------------------------------------------------------------------------------------


def _spill(chunks: Iterable[Readings], folder: Path, progress: Progress, before: int) -> tuple[Parts, int]:
    """Write readings as they come, one below the other, into blocks of the folder; which, and how many readings."""
    storage.make_folder(folder)
    parts, n_readings = Parts(), 0
    with BlockWriter(folder, 0) as blocks:
        for chunk in chunks:
            tables = {"glucose": _glucose_table(chunk.glucose), "events": _events_table(chunk.events)}
            pieces = [piece[1:] for name, table in tables.items() for piece in blocks.add(chunk.subject, name, table)]
            n_bytes = _READING_BYTES * sum(map(len, tables.values()))
            parts.add(chunk, spill=json.dumps(pieces, separators=(",", ":")), n_bytes=n_bytes)
            n_readings += len(chunk.glucose)
            progress("readings read", before + n_readings, None)
    return parts, n_readings


def _glucose_table(glucose: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(glucose[_GLUCOSE.names], _GLUCOSE, preserve_index=False)


def _events_table(events: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(events[_EVENTS.names], _EVENTS, preserve_index=False)


def unspilled(items: Sequence[Item]) -> list[Item]:
    """The items with the subjects' `parts`: of all at once, so that every file is opened once."""
    wanted = [
        (f"{item['folder']}/{number}/{FOLDER}/{name}", row, n_rows, (i, k))
        for i, item in enumerate(items)
        for k, (number, pieces) in enumerate(item.get("spill", ()))
        for name, row, n_rows in pieces
    ]
    tables: dict[tuple[int, int], dict[str, list[pa.Table]]] = defaultdict(lambda: {"glucose": [], "events": []})
    for file, own in groupby(sorted(wanted), key=lambda piece: piece[0]):
        table = file.rpartition("-")[2].removesuffix(".parquet")
        with opened(storage.resolve_path(file)) as block:
            for _, row, n_rows, part in own:
                tables[part][table].append(block.rows(row, n_rows))
    return [
        item | {"parts": [_readings(item[SUBJECT], tables[i, k]) for k in range(len(item.get("spill", ())))]}
        for i, item in enumerate(items)
    ]


def _readings(subject: str, tables: dict[str, list[pa.Table]]) -> Readings:
    """Typed also where it is empty."""
    glucose = pa.concat_tables([_GLUCOSE.empty_table(), *tables["glucose"]]).to_pandas(ignore_metadata=True)
    events = pa.concat_tables([_EVENTS.empty_table(), *tables["events"]]).to_pandas(ignore_metadata=True)
    return Readings(subject, glucose, events)
