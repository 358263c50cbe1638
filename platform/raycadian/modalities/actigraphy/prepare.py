"""A card of actigraphy in the snapshot: whole local days of each person, with the labels and weights of the survey beside.

NHANES's minutes are read by each worker from its person's own rows; other files are read once and laid aside by person.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raycadian.data import storage
from raycadian.data.marks import Marks
from raycadian.data.parquet import (
    EVENT_SCHEMA,
    folder_name,
    from_table,
    read_table,
    subject_hash,
    to_table,
    write_table,
)  # fmt: skip
from raycadian.modalities.actigraphy import nhanes
from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.actigraphy.readers import MINUTES, Part, labels, parts, read_part
from raycadian.physiology.rhythms.wear import DAY_MIN, by_day, valid_days
from raycadian.types import OBSERVED, RECORDING, SUBJECT, WORN, Issues, Recording

_HEAD = (SUBJECT, RECORDING, "start_utc", "utc_offset_min", "dt_s", "n_points")


def items(card: ActigraphyCard, paths: list[Path], work: Path, issues: Issues, tell: Callable) -> list[dict[str, Any]]:
    """What is to be read, a person a piece, with the row of the table of people. Raises ValueError for files that can't be
    understood, or don't measure the same."""
    found = parts(paths, issues)
    if len(kinds := {part.kind for part in found if part.kind in MINUTES}) > 1:
        raise ValueError(
            f"card {card.name!r}: counts (PAXRAW) and MIMS (PAXMIN) are different units; make a card for each"
        )
    own = [part for part in found if part.kind in MINUTES and part.subject not in card.exclude_subjects]
    made = [{SUBJECT: part.subject, "part": asdict(part)} for part in own]
    made += _laid_aside([part for part in found if part.kind not in kinds], card, work / "spill", issues, tell)
    if len({item[SUBJECT] for item in made}) < len(made):
        raise ValueError(f"card {card.name!r}: a person is in a file of NHANES's and in another; keep one")
    table = labels(paths, card.most_missing)
    if table is None:
        return made
    known = set(table.index)
    absent = [item[SUBJECT] for item in made if item[SUBJECT] not in known]
    issues.add("person who is not in DEMO (no labels)", absent[0] if absent else "", len(absent))
    issues.add("person of DEMO without a recording", n=len(known - {item[SUBJECT] for item in made}))
    table = table.reindex([item[SUBJECT] for item in made])
    return [item | {"row": _plain(row)} for item, row in zip(made, table.to_dict("records"), strict=True)]


def write_subject(item: dict[str, Any], snapshot: Path, card: ActigraphyCard) -> dict[str, Any]:
    """Read and write a person's recordings, and small statistics. Somebody with too few valid days is left out and counted."""
    subject, issues = item[SUBJECT], Issues()
    recordings = list(read_part(Part(**item["part"]), card, issues)) if "part" in item else _taken_up(item)
    recordings = whole_days(recordings, issues)
    days = sum(int(valid_days(by_day(_worn(r), fill=False), card.min_valid_hours).sum()) for r in recordings)
    minutes = sum(map(len, recordings))
    quality = {"days": minutes / DAY_MIN, "valid_days": days, "worn": sum(int(_worn(r).sum()) for r in recordings)}
    if days < card.min_valid_days:
        issues.add(f"person with fewer than {card.min_valid_days} valid days (left out)", subject)
    row = {SUBJECT: subject, "issues": issues.as_dict(), "quality": quality}
    if days < card.min_valid_days or not recordings:
        return row
    folder = snapshot / folder_name(subject)
    storage.make_folder(folder)
    marks = [Marks(subject, r.index, len(r), r.dt_s, attributes=item.get("row", {})) for r in recordings]
    return row | {
        "files": {f"{folder.name}/part-0.parquet": write_table(to_table(recordings), folder / "part-0.parquet")},
        "sha256": subject_hash(recordings, EVENT_SCHEMA.empty_table().to_pandas(), marks),
        "events": 0,
        "attributes": [dict(m.attributes) for m in marks],
        "heads": [_head(r)[1:] for r in recordings],
    }


def whole_days(recordings: list[Recording], issues: Issues) -> list[Recording]:
    """Recordings from their first local midnight on, so that every day of them begins where a day does; those without a
    whole day after it are left out and counted."""
    found: list[Recording] = []
    for recording in recordings:
        minute = int(
            (recording.start_utc.astype("datetime64[s]").astype(np.int64) // 60 + recording.utc_offset_min) % DAY_MIN
        )
        first = -minute % DAY_MIN
        if len(recording) - first < DAY_MIN:
            issues.add(
                "recording without a whole day (left out)",
                f"subject {recording.subject!r} at {recording.start_utc} UTC",
            )
            continue
        channels = {name: values[first:] for name, values in recording.channels.items()}
        start = recording.start_utc + np.timedelta64(60 * first, "s")
        found.append(
            replace(
                recording, index=len(found), start_utc=start, channels=channels, observed=recording.observed[first:]
            )
        )
    return found


def counts(rows: list[dict], usable: list[dict]) -> dict[str, int]:
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


def cohorts(rows: list[dict], card: ActigraphyCard, paths: list[Path]) -> dict[str, list[dict[str, Any]]]:
    """Of each label that the files give: who is left after each step, the figures of a flow chart."""
    table = labels(paths, card.most_missing)
    if table is None:
        return {}
    days = pd.Series({row[SUBJECT]: row["quality"]["valid_days"] for row in rows}, dtype=float)
    found = {}
    for label in (name for name in nhanes.LABELS if name in table):
        found[label] = nhanes.flow(table, days.index, label, valid_days=days, min_valid_days=card.min_valid_days).steps
    return found


def _worn(recording: Recording) -> np.ndarray:
    """Minutes (N,) bool that the device was worn: what is observed, or what wear flags say."""
    return recording.channels[WORN] == 1 if WORN in recording.channels else recording.observed


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Values that JSON holds; missing ones are None."""
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}
    return {name: None if value is None or value != value else value for name, value in plain.items()}


# --- files that are no XPT ------------------------------------------------------------------------------------------


def _laid_aside(
    found: list[Part], card: ActigraphyCard, folder: Path, issues: Issues, tell: Callable
) -> list[dict[str, Any]]:
    """Recordings in a Parquet file each below `folder`, as items by person; a person in several files has all of them."""
    people: dict[str, list[dict[str, Any]]] = defaultdict(list)
    if found:
        storage.make_folder(folder)
    n = 0
    for part in found:
        for recording in read_part(part, card, issues):
            path = folder / f"{n:07d}.parquet"
            write_table(to_table([recording]), path)
            people[recording.subject].append({"path": str(path), "head": _head(recording)})
            n += 1
            if n % 100 == 0:
                tell("recordings read", n, None)
    return [{SUBJECT: subject, "spill": spilled} for subject, spilled in people.items()]


def _taken_up(item: dict[str, Any]) -> list[Recording]:
    """A person's recordings in the order of time. Raises ValueError where two overlap."""
    found: list[Recording] = []
    for one in sorted(item["spill"], key=lambda one: one["head"][2]):
        heads = pd.DataFrame([one["head"]], columns=list(_HEAD))
        heads["start_utc"] = heads["start_utc"].to_numpy("datetime64[s]")
        (recording,) = from_table(heads, read_table(storage.resolve_path(one["path"]), {RECORDING, OBSERVED}), None)
        if found and recording.start_utc < found[-1].start_utc + np.timedelta64(60 * len(found[-1]), "s"):
            raise ValueError(
                f"subject {item[SUBJECT]!r}: two recordings at {recording.start_utc} UTC; keep one of the files, or give two people two ids"
            )
        found.append(replace(recording, index=len(found)))
    return found


def _head(recording: Recording) -> list[Any]:
    start = str(recording.start_utc.astype("datetime64[s]"))
    return [recording.subject, recording.index, start, recording.utc_offset_min, recording.dt_s, len(recording)]
