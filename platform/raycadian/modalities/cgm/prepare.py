"""CGM in the snapshot: readings are spilled to disk as they are read, so that memory holds none but one block; then
each subject's parts are merged, gridded and written.
"""

from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa

from raycadian.data import storage
from raycadian.data.blocks import BlockWriter
from raycadian.data.grid import to_recordings
from raycadian.data.parquet import read_table, write_table
from raycadian.data.writer import write_subject
from raycadian.modalities.base import Item, Preparation, Progress, Row, Rows
from raycadian.modalities.cgm.builder import merge
from raycadian.modalities.cgm.card import CGMCard
from raycadian.modalities.cgm.quality import quality
from raycadian.modalities.cgm.readers import read_files, read_person
from raycadian.modalities.guesses import how_to_set
from raycadian.types import EVENT_CHANNELS, GLUCOSE, OBSERVED, SUBJECT, TIME_UTC, Issues, Readings, Recording

_READING_BYTES = 32  # of a row of a table of readings, roughly
CONSTANT = "subject whose readings are all the same value"
_SPILLED = {TIME_UTC: "datetime64[ns]", GLUCOSE: "float64", "kind": "object", "value": "float64"}


def items(job: Preparation) -> list[Item]:
    """Every subject with the folder of its readings. Raises ValueError."""
    with closing(read_files(job.paths, job.card, job.issues)) as chunks:  # an error or Ctrl-C closes the file at once
        spilled = _spill(chunks, job.work / "spill", job.progress)
    return [
        {SUBJECT: subject, "spill": str(job.work / "spill" / str(n))} | about
        for n, (subject, about) in enumerate(spilled.items())
    ]


def read_item(item: Item, card: CGMCard, issues: Issues) -> Readings:
    """All readings of a subject, from its parts."""
    whole = merge(_unspill(item[SUBJECT], storage.resolve_path(item["spill"])), issues, card.repeat_s)
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


def _spill(chunks: Iterable[Readings], folder: Path, progress: Progress) -> dict[str, dict[str, int]]:
    """Write readings as they come, part by part: folder/<n>/<k>-*.parquet. Returns the subjects, of which n is the
    position, with their conflicting readings and the bytes of a table of the others."""
    storage.make_folder(folder)
    number: dict[str, int] = {}
    spilled: dict[str, dict[str, int]] = {}
    parts: Counter[str] = Counter()
    n_readings = 0
    for chunk in chunks:
        part = folder / str(number.setdefault(chunk.subject, len(number)))
        storage.make_folder(part)
        _write_frame(chunk.glucose, part / f"{parts[chunk.subject]:06d}-glucose.parquet")
        _write_frame(chunk.events, part / f"{parts[chunk.subject]:06d}-events.parquet")
        parts[chunk.subject] += 1
        about = spilled.setdefault(chunk.subject, {"conflicting": 0, "bytes": 0})
        about["conflicting"] += chunk.conflicting
        about["bytes"] += _READING_BYTES * (len(chunk.glucose) + len(chunk.events))
        n_readings += len(chunk.glucose)
        progress("readings read", n_readings, None)
    return spilled


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
