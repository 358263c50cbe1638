"""A card of actigraphy in the snapshot: whole local days of each person, with the labels and weights of the survey
beside.

NHANES's minutes are read by each worker from its person's own rows; other files are read once and laid aside by person.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raycadian.data import storage
from raycadian.data.blocks import BlockWriter
from raycadian.data.marks import Marks
from raycadian.data.parquet import from_table, head_columns, read_table, to_table, write_table
from raycadian.data.source import Source, header_of, stem_of
from raycadian.data.writer import head_of, write_subject
from raycadian.modalities.actigraphy import nhanes
from raycadian.modalities.actigraphy.card import ActigraphyCard, ActivityColumns
from raycadian.modalities.actigraphy.readers import (
    MINUTES,
    Part,
    detect_format,
    labels,
    parts,
    read_activity,
    read_part,
)
from raycadian.modalities.base import Item, Preparation, Row, Rows
from raycadian.modalities.conflicts import require_apart_but_for_dates, require_other_contents
from raycadian.modalities.guesses import how_to_set
from raycadian.modalities.people import ROW
from raycadian.modalities.unpack import plain_file
from raycadian.physiology.rhythms.wear import DAY_MIN, by_day, valid_days
from raycadian.types import ACTIVITY_COUNTS, ACTIVITY_WRIST, OBSERVED, RECORDING, SUBJECT, WORN, Issues, Recording

_ROW_BYTES = 40  # of a minute in a file of NHANES's, roughly


def items(job: Preparation) -> list[Item]:
    """What is to be read, a person a piece, with the row of the table of people. Raises ValueError for files that can't
    be understood, or don't measure the same."""
    card = job.card
    _leave_out_unknown(job)
    given = parts(job.readable, job.issues)
    kinds = {part.kind for part in given if part.kind in MINUTES}
    if len(kinds) > 1:
        raise ValueError(
            f"card {card.name!r}: counts (PAXRAW) and MIMS (PAXMIN) are different units; make a card for each"
        )
    own = [part for part in given if part.kind in MINUTES and part.subject not in card.exclude_subjects]
    made = [
        {SUBJECT: part.subject, "part": asdict(part), "bytes": _ROW_BYTES * ((part.end or 0) - part.begin)}
        for part in own
    ]
    at_hip = {ACTIVITY_COUNTS} if "minutes_counts" in kinds else set()
    made += _laid_aside([part for part in given if part.kind not in kinds], job, at_hip)
    if len({item[SUBJECT] for item in made}) < len(made):
        raise ValueError(f"card {card.name!r}: a person is in a file of NHANES's and in another; keep one")
    table = labels(job.readable, card.most_missing)
    return made if table is None else _with_labels(made, table, job.issues)


def _leave_out_unknown(job: Preparation) -> None:
    """Files of no known kind; but for a table of NHANES's, which everybody's labels may hang on. Raises ValueError."""
    for path in job.paths:
        with nullcontext() if path.suffix.lower() == ".xpt" else job.leaving_out(path):
            detect_format(path)


def _with_labels(made: list[Item], table: pd.DataFrame, issues: Issues) -> list[Item]:
    """The items, each with its person's row of the table of people."""
    known = set(table.index)
    absent = [item[SUBJECT] for item in made if item[SUBJECT] not in known]
    issues.add("person who is not in DEMO (no labels)", absent[0] if absent else "", len(absent))
    issues.add("person of DEMO without a recording", n=len(known - {item[SUBJECT] for item in made}))
    rows = table.reindex([item[SUBJECT] for item in made]).to_dict("records")
    return [item | {"row": _json_row(row)} for item, row in zip(made, rows, strict=True)]


def read_item(item: Item, card: ActigraphyCard, issues: Issues) -> list[Recording]:
    """A person's recordings of whole days, in the order of time."""
    recordings = list(read_part(Part(**item["part"]), card, issues)) if "part" in item else _taken_up(item)
    return whole_days(recordings, issues)


def write(item: Item, blocks: BlockWriter, card: ActigraphyCard) -> Row:
    """Read and write a person's recordings. Somebody with too few valid days is left out and counted."""
    subject, issues = item[SUBJECT], Issues()
    recordings = read_item(item, card, issues)
    days = sum(int(valid_days(by_day(_worn(r), fill=False), card.min_valid_hours).sum()) for r in recordings)
    minutes = sum(map(len, recordings))
    quality = {"days": minutes / DAY_MIN, "valid_days": days, "worn": sum(int(_worn(r).sum()) for r in recordings)}
    if days < card.min_valid_days:
        issues.add(f"person with fewer than {card.min_valid_days} valid days (left out)", subject)
        recordings = []
    marks = [Marks(subject, r.index, len(r), r.dt_s, attributes=item.get(ROW, {})) for r in recordings]
    row = {SUBJECT: subject, "issues": issues.as_dict(), "quality": quality}
    return row | write_subject(blocks, subject, recordings, marks=marks)


def whole_days(recordings: list[Recording], issues: Issues) -> list[Recording]:
    """Recordings from their first local midnight on, so that every day of them begins where a day does; those without a
    whole day after it are left out and counted."""
    whole: list[Recording] = []
    for recording in recordings:
        start_min = int(recording.start_utc.astype("datetime64[s]").astype(np.int64)) // 60
        first = -(start_min + recording.utc_offset_min) % DAY_MIN
        if len(recording) - first < DAY_MIN:
            issues.add(
                "recording without a whole day (left out)",
                f"subject {recording.subject!r} at {recording.start_utc} UTC",
            )
            continue
        channels = {name: values[first:] for name, values in recording.channels.items()}
        start = recording.start_utc + np.timedelta64(60 * first, "s")
        observed = recording.observed[first:]
        whole.append(replace(recording, index=len(whole), start_utc=start, channels=channels, observed=observed))
    return whole


def counts(rows: Rows, usable: Rows) -> dict[str, int]:
    """Of a snapshot of actigraphy."""
    return {
        "subjects": len(usable),
        "subjects_without_recording": len(rows) - len(usable),
        "recordings": sum(len(row["heads"]) for row in usable),
        "days": round(sum(row["quality"]["days"] for row in usable)),
        "valid_days": sum(row["quality"]["valid_days"] for row in usable),
        "minutes": sum(head[-1] for row in usable for head in row["heads"]),
        "minutes_worn": sum(row["quality"]["worn"] for row in usable),
    }


def cohorts(rows: Rows, card: ActigraphyCard, paths: list[Path]) -> dict[str, list[dict[str, Any]]]:
    """Of each label that the files give: who is left after each step, the figures of a flow chart."""
    table = labels(paths, card.most_missing)
    if table is None:
        return {}
    days = pd.Series({row[SUBJECT]: row["quality"]["valid_days"] for row in rows}, dtype=float)
    given = [label for label in nhanes.LABELS if label in table]
    least = card.min_valid_days
    return {
        label: nhanes.cohort(table, days.index, label, valid_days=days, min_valid_days=least)[1].steps
        for label in given
    }


def recordings_of_person(
    path: Path, card: ActigraphyCard | None, like: ActigraphyCard, issues: Issues
) -> list[Recording]:
    """One person's recordings of whole days; without a card wear is told as in the data set `like`. Raises ValueError
    for a file of several people, or without a whole day."""
    path = plain_file(path, card.sheet if card else None)
    recordings = whole_days(list(read_activity([path], card or _card_of(path, like), issues)), issues)
    if len(people := sorted({r.subject for r in recordings})) > 1:
        raise ValueError(f"{path}: expected one person, found {len(people)} ({', '.join(people[:5])}); cut it out")
    if not recordings:
        raise ValueError(f"{path}: no whole day, from midnight to midnight, in it; bring a longer recording")
    return sorted(recordings, key=lambda r: r.start_utc)


def _card_of(path: Path, like: ActigraphyCard) -> ActigraphyCard:
    """How a file is read that no card describes: a table by its columns time, activity, worn."""
    columns = ActivityColumns()
    if detect_format(path) == "table":
        header = header_of(Source.of(path))
        columns = ActivityColumns(**{name: name for name in ("time", "worn") if name in header})
    return ActigraphyCard(name="recording", files=(path.name,), columns=columns, wear=like.wear, site=like.site)


def _worn(recording: Recording) -> np.ndarray:
    """Minutes (N,) bool that the device was worn: what is observed, or what wear flags say."""
    return recording.channels[WORN] == 1 if WORN in recording.channels else recording.observed


def _json_row(row: dict[str, Any]) -> dict[str, Any]:
    """Values that JSON holds; missing ones are None."""
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}
    return {name: None if value is None or value != value else value for name, value in plain.items()}


# --- files that are no XPT ------------------------------------------------------------------------------------------


def _laid_aside(whole: list[Part], job: Preparation, channels: set[str]) -> list[Item]:
    """The recordings of whole files in a Parquet file each, items by person; a person in several files has them all.
    `channels`: that the card's other files have. Raises ValueError where they don't go together."""
    spilled: list[dict[str, Any]] = []
    folder = job.work / "spill"
    if whole:
        storage.make_folder(folder)
    for number, part in enumerate(whole):
        with job.leaving_out(Path(part.path)):
            spilled += list(_spill(part, job, folder, number))
        job.progress("files read", number + 1, len(whole))
    contents = ((one["head"][0], file := one.pop("file"), job.digests.get(file)) for one in spilled)
    require_other_contents(contents, job.card, job.issues)
    people: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in spilled:
        people[one["head"][0]].append(one)
        channels = channels | set(one["channels"])
    _require_one_site(channels, job.card)
    stems = {stem_of(Path(part.path)) for part in whole}
    require_apart_but_for_dates(sorted(stems.intersection(people)), how_to_set("subject", "NAME"))
    for own in people.values():
        _require_apart(own)
    return [{SUBJECT: s, "spill": own, "bytes": sum(one["bytes"] for one in own)} for s, own in people.items()]


def _spill(part: Part, job: Preparation, folder: Path, number: int) -> Iterator[dict[str, Any]]:
    """The recordings of a file in a Parquet file each, as they come. Raises ValueError."""
    for n, recording in enumerate(read_part(part, job.card, job.issues)):
        path = folder / f"{number:05d}-{n:07d}.parquet"
        n_bytes = write_table(to_table([recording]), path)
        head = [recording.subject, *head_of(recording)]
        about = {"path": str(path), "head": head, "channels": list(recording.channels), "bytes": n_bytes}
        yield about | {"file": job.name(Path(part.path))}


def _require_apart(spilled: list[dict[str, Any]]) -> None:
    """Sort a person's recordings by time. Raises ValueError where two overlap."""
    spilled.sort(key=lambda one: one["head"][2])
    for one, after in pairwise(spilled):
        subject, _, start, _, _, n_points = one["head"]
        begin = after["head"][2]
        if np.datetime64(begin) < np.datetime64(start) + np.timedelta64(60 * n_points, "s"):
            raise ValueError(
                f"subject {subject!r}: two recordings at {begin} UTC; keep one of the files, or give two people two ids"
            )


def _require_one_site(channels: set[str], card: ActigraphyCard) -> None:
    """Raises ValueError where some counts are of the hip (or of nobody knows where) and some of the wrist."""
    if {ACTIVITY_COUNTS, ACTIVITY_WRIST} <= channels:
        raise ValueError(
            f"card {card.name!r}: counts of the wrist and of the hip, or of devices that don't say where they were "
            "worn: different quantities; make a card for each, or, if all are of the wrist, "
            f"{how_to_set('site', 'wrist')}"
        )


def _taken_up(item: dict[str, Any]) -> list[Recording]:
    """A person's recordings, in the order of time."""
    recordings: list[Recording] = []
    for index, one in enumerate(item["spill"]):
        heads = head_columns([one["head"]])
        (recording,) = from_table(heads, read_table(storage.resolve_path(one["path"]), {RECORDING, OBSERVED}), None)
        recordings.append(replace(recording, index=index))
    return recordings
