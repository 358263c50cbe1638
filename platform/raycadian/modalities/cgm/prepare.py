"""CGM in the snapshot: readings are spilled to disk as they are read, so that memory holds none but one block; then
each subject's parts are merged, gridded and written.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from raycadian import cluster
from raycadian.data import storage
from raycadian.data.blocks import BlockWriter
from raycadian.data.grid import to_recordings
from raycadian.data.parquet import read_table, write_table
from raycadian.data.writer import issues_of, write_subject
from raycadian.errors import StorageError
from raycadian.modalities.base import Item, Preparation, Progress, Row, Rows
from raycadian.modalities.cgm.builder import merge
from raycadian.modalities.cgm.card import CGMCard
from raycadian.modalities.cgm.quality import quality
from raycadian.modalities.cgm.readers import Files, Spans, read_person
from raycadian.modalities.guesses import how_to_set
from raycadian.types import EVENT_CHANNELS, GLUCOSE, OBSERVED, SUBJECT, TIME_UTC, Issues, Readings, Recording

_READING_BYTES = 32  # of a row of a table of readings, roughly
CONSTANT = "subject whose readings are all the same value"
_SPILLED = {TIME_UTC: "datetime64[ns]", GLUCOSE: "float64", "kind": "object", "value": "float64"}


def items(job: Preparation) -> list[Item]:
    """Every subject with the folders of its readings, one a file that they are in. Raises ValueError."""
    files = Files.of(job.paths, job.card, job.issues, job.leaving_out)
    storage.make_folder(job.work / "spill")
    on_ray = job.on_ray
    if on_ray is None:
        on_ray = cluster.worthwhile(sum(path.stat().st_size for path in files.formats), len(files.formats))
    made: dict[str, Item] = {}
    for path, answer in (_read_on_ray if on_ray else _read_here)(files, job):
        with job.leaving_out(path):
            _require_read(answer)
            files.take_up(path, answer["spans"])
            job.issues.merge(issues_of(answer["issues"]))
        for subject, spilled in answer["subjects"].items():
            item = made.setdefault(subject, {SUBJECT: subject, "spill": [], "conflicting": 0, "bytes": 0})
            item["spill"].append(spilled["spill"])
            item["conflicting"] += spilled["conflicting"]
            item["bytes"] += spilled["bytes"]
    files.conclude(job.issues)
    return list(made.values())


def _read_here(files: Files, job: Preparation) -> Iterator[tuple[Path, dict[str, Any]]]:
    read = 0
    for number, path in enumerate(files.formats):
        answer = _read_one(files.only(path), path, job.work / "spill" / str(number), job.progress, read)
        read += answer["readings"]
        yield path, answer


def _read_on_ray(files: Files, job: Preparation) -> Iterator[tuple[Path, dict[str, Any]]]:
    """In the order of the files. What a worker's node doesn't see, this process reads."""
    ray = cluster.connect()
    paths = list(files.formats)
    sent = [
        {"number": n, "path": str(path.absolute()), "bytes": path.stat().st_size, "kind": files.formats[path]}
        for n, path in enumerate(paths)
    ]
    data = ray.data.from_items(sent, override_num_blocks=min(len(sent), max(64, 4 * cluster.cpus())))
    answers = data.map(_attempt, fn_kwargs={"card": job.card, "folder": str(job.work / "spill")}).iter_rows()
    read = 0
    for number, (path, answer) in enumerate(zip(paths, cluster.outcomes(answers), strict=True)):
        if answer is None:
            answer = _read_one(files.only(path), path, job.work / "spill" / str(number), job.progress, read)
        read += answer["readings"]
        job.progress("readings read (on Ray)", read, None)
        yield path, answer


def _attempt(sent: dict[str, Any], card: CGMCard, folder: str) -> dict[str, Any]:
    path = Path(sent["path"])
    own, to = Files(card, {path: sent["kind"]}, Spans()), storage.resolve_path(folder) / str(sent["number"])

    def read() -> dict[str, Any] | None:
        seen = path.is_file() and path.stat().st_size == sent["bytes"]
        return _read_one(own, path, to, lambda *_: None, 0) if seen else None

    return cluster.attempt(sent["number"], read)


def _read_one(own: Files, path: Path, folder: Path, progress: Progress, before: int) -> dict[str, Any]:
    """Lay a file's readings aside; what is known of its subjects, or `unreadable`: why it can't be read. before:
    readings of the files before it."""
    issues = Issues()
    try:
        with closing(own.read(path, issues)) as chunks:  # an error or Ctrl-C closes the file at once
            spilled, readings = _spill(chunks, folder, progress, before)
    except StorageError:  # not the file is at fault
        raise
    except ValueError as error:
        return {"subjects": {}, "readings": 0, "unreadable": str(error)}
    return {"subjects": spilled, "spans": own.spans_of(path), "issues": issues.as_dict(), "readings": readings}


def _require_read(answer: dict[str, Any]) -> None:
    if "unreadable" in answer:
        raise ValueError(answer["unreadable"])


def read_item(item: Item, card: CGMCard, issues: Issues) -> Readings:
    """All readings of a subject, from its parts."""
    parts = [part for spill in item["spill"] for part in _unspill(item[SUBJECT], storage.resolve_path(spill))]
    whole = merge(parts, issues, card.repeat_s)
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
    own = [
        name for name in EVENT_CHANNELS if recordings and name in recordings[0].channels
    ]  # the same in each recording
    return row | write_subject(
        blocks, subject, recordings, events, columns=(TIME_UTC, GLUCOSE, OBSERVED, *own)
    )  # fmt: skip


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


def _spill(
    chunks: Iterable[Readings], folder: Path, progress: Progress, before: int
) -> tuple[dict[str, dict[str, Any]], int]:
    """Write readings as they come, part by part: folder/<n>/<k>-*.parquet. The subjects, of which n is the position,
    with their folder, their conflicting readings and the bytes of a table of the others; and the number of readings."""
    storage.make_folder(folder)
    spilled: dict[str, dict[str, Any]] = {}
    parts: Counter[str] = Counter()
    n_readings = 0
    for chunk in chunks:
        own = folder / str(len(spilled))
        about = spilled.setdefault(chunk.subject, {"spill": str(own), "conflicting": 0, "bytes": 0})
        part = storage.resolve_path(about["spill"])
        storage.make_folder(part)
        _write_frame(chunk.glucose, part / f"{parts[chunk.subject]:06d}-glucose.parquet")
        _write_frame(chunk.events, part / f"{parts[chunk.subject]:06d}-events.parquet")
        parts[chunk.subject] += 1
        about["conflicting"] += chunk.conflicting
        about["bytes"] += _READING_BYTES * (len(chunk.glucose) + len(chunk.events))
        n_readings += len(chunk.glucose)
        progress("readings read", before + n_readings, None)
    return spilled, n_readings


def _write_frame(frame: pd.DataFrame, path: Path) -> None:
    write_table(pa.Table.from_pandas(frame, preserve_index=False), path)


def _read_frame(path: Path) -> pd.DataFrame:
    """Typed also where it is empty."""
    frame = read_table(path, set()).to_pandas()
    return frame.astype({name: kind for name, kind in _SPILLED.items() if name in frame})


def _unspill(subject: str, folder: Path) -> list[Readings]:
    return [
        Readings(subject, _read_frame(part), _read_frame(part.with_name(f"{part.name[:6]}-events.parquet")))
        for part in storage.children(folder)
        if part.name.endswith("-glucose.parquet")
    ]
