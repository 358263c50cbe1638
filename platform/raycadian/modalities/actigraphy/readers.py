"""Actigraphy files of every format as recordings of a minute a point: recognised by content, one person at a time.

A `Part` is one person in one file, small enough to send to a worker: of NHANES's minutes a range of rows, of other
files the whole. People's labels come from NHANES's other tables among the same files (nhanes.py).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from raycadian.data.clock import is_wild, offset_at, repeated, second_time, shift, to_utc
from raycadian.data.source import MAX_POINTS, Source, check_count
from raycadian.modalities.actigraphy import nhanes
from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.actigraphy.formats.actilife import is_actilife, read_actilife
from raycadian.modalities.actigraphy.formats.activity_tables import read_table
from raycadian.modalities.actigraphy.formats.apple_health import is_apple_health, read_apple_health
from raycadian.modalities.actigraphy.formats.devices import (
    SQLITE,
    Epochs,
    is_awd,
    read_agd,
    read_awd,
    read_wear_flags,
)
from raycadian.modalities.actigraphy.formats.nhanes_minutes import minutes_reader, people_rows
from raycadian.modalities.actigraphy.formats.respironics import is_respironics, read_respironics
from raycadian.modalities.actigraphy.formats.xpt import Xpt
from raycadian.modalities.conflicts import require_one_person
from raycadian.modalities.naming import naming
from raycadian.modalities.unpack import plain_file
from raycadian.physiology.rhythms.wear import rule_of
from raycadian.types import WORN, Issues, Recording

MINUTES = ("minutes_counts", "minutes_mims")
_XPT = b"HEADER RECORD*******"
_FIRST = np.datetime64("1900-01-01")  # years are shifted to hide whose they are
_GAP_S = 86_400  # a longer one ends a recording
_MOST_ACTIVITY = 1e6  # of an epoch


@dataclass(frozen=True)
class Part:
    """One person's rows [begin, end) of a file of minutes (`monitors`: its PAXHD), or a file of whoever is in it."""

    path: str
    kind: str
    subject: str | None = None
    begin: int = 0
    end: int | None = None
    monitors: str | None = None


Reader = Callable[[Path, ActigraphyCard, Issues], Iterator[Epochs]]


def _of_source(read: Callable[[Source, ActigraphyCard, Issues], Iterator[Epochs]]) -> Reader:
    return lambda path, card, issues: read(Source.of(path, card.layout), card, issues)


_EPOCHS: dict[str, Reader] = {
    "awd": _of_source(read_awd),
    "agd": read_agd,
    "respironics": _of_source(read_respironics),
    "actilife": _of_source(read_actilife),
    "wear_flags": read_wear_flags,
    "table": _of_source(read_table),
}
"""Format -> reader of the epochs that a device wrote; NHANES's minutes and Apple Health give recordings."""


def detect_format(path: str | Path) -> str:
    """The kind of a file by its content: one of nhanes.KINDS, awd, agd, actilife, respironics, wear_flags,
    apple_health or table.
    Raises ValueError."""
    with naming(Path(path)):
        return _kind_of(Path(path))


def _kind_of(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(_XPT):
        return nhanes.kind_of(Xpt.open(path))
    if head.startswith(SQLITE):
        return "agd"
    if is_apple_health(path, head):
        return "apple_health"
    if path.suffix.lower() == ".npz" and head.startswith(b"PK"):
        return "wear_flags"
    source = Source.of(path)
    tests = {"awd": is_awd, "actilife": is_actilife, "respironics": is_respironics}
    return next((kind for kind, fits in tests.items() if fits(source)), "table")


def parts(paths: list[Path], issues: Issues) -> list[Part]:
    """What the recordings are read from, in the order of the files; NHANES's other tables are left out. Raises
    ValueError where there are none, a file is of no known kind, or a person's minutes are in two files."""
    kinds = {Path(path): detect_format(path) for path in paths}
    monitors = [path for path, kind in kinds.items() if kind == "monitors"]
    all_parts = [part for path, kind in kinds.items() for part in _named_parts(path, kind, monitors)]
    if not all_parts:
        raise ValueError(
            f"{', '.join(map(str, paths))}: no file with activity among them; add PAXRAW, PAXMIN or a device's file"
        )
    by_subject: dict[str, Part] = {}
    for part in all_parts:
        if part.subject is not None and by_subject.setdefault(part.subject, part) is not part:
            first = by_subject[part.subject].path
            raise ValueError(f"SEQN {part.subject} is in {first} and in {part.path}; is a file given twice?")
    return all_parts


def read_part(part: Part, card: ActigraphyCard, issues: Issues) -> Iterator[Recording]:
    """The recordings of a part, those of one person behind one another. Raises ValueError that names the file."""
    with naming(Path(part.path)):
        for recording in _recordings(part, card, issues):
            if recording.subject not in card.exclude_subjects:
                yield recording


def _recordings(part: Part, card: ActigraphyCard, issues: Issues) -> Iterator[Recording]:
    path = Path(part.path)
    if part.kind in MINUTES:
        monitors = None if part.monitors is None else Xpt.open(part.monitors)
        return minutes_reader(Xpt.open(path), monitors, card.wear)(issues, part.begin, part.end)
    if part.kind == "apple_health":
        return iter(read_apple_health(path, card, issues))
    epochs = _EPOCHS[part.kind](path, card, issues)
    return (recording for one in epochs for recording in to_recordings(one, card, issues, [path]))


def read_activity(paths: list[Path], card: ActigraphyCard, issues: Issues) -> Iterator[Recording]:
    """The recordings of all files, person by person. Memory holds one person, or one file that is no XPT."""
    for part in parts([plain_file(Path(path), card.sheet) for path in paths], issues):
        yield from read_part(part, card, issues)


def labels(paths: list[Path], most_missing: int = 0) -> pd.DataFrame | None:
    """`nhanes.people` of the tables among the files; None where there is no DEMO."""
    tables = [path for path in paths if detect_format(path) in set(nhanes.KINDS) - {*MINUTES, "monitors"}]
    return nhanes.people(tables, most_missing) if tables else None


def to_recordings(epochs: Epochs, card: ActigraphyCard, issues: Issues, paths: Sequence[Path] = ()) -> list[Recording]:
    """A person's epochs on a grid of minutes, counts summed; a minute without all of its epochs is missing.

    A gap of more than a day, or a change of the UTC offset (DST, with a time zone in the card), ends a recording. A
    device's own clock runs on through DST; clocks in a table follow it. `observed`: by the device where it says, else
    by `card.wear`.
    `paths`: where the epochs are from, for messages. Raises ValueError for epochs that don't divide a minute, clocks
    that can't be, or several people's epochs.
    """
    where = f"subject {epochs.subject!r}"
    if not 0 < epochs.epoch_s <= 60 or 60 % epochs.epoch_s:
        raise ValueError(
            f"{where}: epochs of {epochs.epoch_s:g} s; expected a part of a minute: record in epochs of 60 s or less"
        )
    known, wild = ~np.isnat(epochs.clock), is_wild(epochs.clock, _FIRST)
    issues.add("time not understood (row left out)", where, int((~known).sum()))
    issues.add("time outside 1900-2099", where, int(wild.sum()))
    known &= ~wild
    if not known.any():
        issues.add("person without a usable epoch (left out)", where)
        return []
    epochs, utc_s, offset_min = _in_order(_rows(epochs, known), card, issues, paths)
    gridded = [
        _gridded(_rows(epochs, span), utc_s[span], int(offset_min[span][0]), card.wear, issues)
        for span in _stretches(utc_s, offset_min, where, issues)
    ]
    return [
        Recording(epochs.subject, i, start, offset, 60.0, {epochs.measured: values}, observed)
        for i, (start, offset, values, observed) in enumerate(gridded)
    ]


def _in_order(
    epochs: Epochs, card: ActigraphyCard, issues: Issues, paths: Sequence[Path]
) -> tuple[Epochs, np.ndarray, np.ndarray]:
    """The epochs in the order of time, each once, with their UTC seconds, rising, and minutes ahead of UTC."""
    utc_s, offset_min = _utc(epochs, card)
    steps, first = np.diff(utc_s), np.arange(len(utc_s))
    if (steps <= 0).any():
        where = f"subject {epochs.subject!r}"
        issues.add("row out of time order (sorted)", where, int((steps < 0).sum()))
        _, first, nth = np.unique(utc_s, return_index=True, return_inverse=True)
        issues.add("epoch twice (the first is kept)", where, len(utc_s) - len(first))
        other = ~np.isclose(epochs.values, epochs.values[first][nth], equal_nan=True)
        require_one_person(epochs.subject, int(other.sum()), len(other), paths, card.columns.model_dump())
    return _rows(epochs, first), utc_s[first], offset_min[first]


def _stretches(utc_s: np.ndarray, offset_min: np.ndarray, where: str, issues: Issues) -> list[slice]:
    """What becomes a recording each. Raises ValueError for clocks that can't be one person's."""
    begin, end = utc_s[[0, -1]].astype("datetime64[s]")
    check_count((utc_s[-1] - utc_s[0]) // 60, f"{where}, from {begin} to {end}", MAX_POINTS, "minutes")
    moved = np.diff(offset_min) != 0
    issues.add("change of the UTC offset (DST or travel)", where, int(moved.sum()))
    edges = [0, *(np.flatnonzero(moved | (np.diff(utc_s) > _GAP_S)) + 1), len(utc_s)]
    return [slice(a, b) for a, b in pairwise(edges)]


def _named_parts(path: Path, kind: str, monitors: list[Path]) -> list[Part]:
    with naming(path):
        return list(_parts(path, kind, monitors))


def _parts(path: Path, kind: str, monitors: list[Path]) -> Iterator[Part]:
    if kind in MINUTES:
        xpt = Xpt.open(path)
        own = _monitors_of(xpt, monitors) if kind == "minutes_mims" else None
        for subject, begin, end in people_rows(xpt):
            yield Part(str(path), kind, subject, begin, end, own)
    elif kind not in nhanes.KINDS:
        yield Part(str(path), kind)


def _monitors_of(xpt: Xpt, monitors: list[Path]) -> str:
    """The PAXHD of a PAXMIN: the one with its people, where there are several cycles."""
    first = xpt.read(["SEQN"], 0, 1)["SEQN"]
    own = [path for path in monitors if np.isin(first, Xpt.open(path).read(["SEQN"])["SEQN"]).all()]
    if not own:
        raise ValueError(
            f"{xpt.path}: no PAXHD file with its people, which says when each began; add the cycle's PAXHD"
        )
    return str(own[0])


# --- the grid of minutes --------------------------------------------------------------------------------------------


def _rows(epochs: Epochs, chosen: np.ndarray | slice) -> Epochs:
    parts = {
        name: None if (a := getattr(epochs, name)) is None else a[chosen]
        for name in ("clock", "values", "off", "offset_min")
    }
    return replace(epochs, **parts)


def _utc(epochs: Epochs, card: ActigraphyCard) -> tuple[np.ndarray, np.ndarray]:
    """UTC seconds and minutes ahead of UTC (N,) int64 of each epoch."""
    clock = epochs.clock.astype("datetime64[ns]")
    if card.timezone is None:
        utc, offset = clock, np.zeros(len(clock))
    elif epochs.even:
        first, _ = to_utc(clock[:1], card.timezone, np.zeros(1, bool))
        utc = first + (clock - clock[0])
        offset = offset_at(utc, card.timezone).astype(np.float64)
    else:
        utc, _ = to_utc(clock, card.timezone, second_time(clock, repeated(clock, card.timezone), None))
        offset = offset_at(utc, card.timezone).astype(np.float64)
    if epochs.offset_min is not None:  # stated ones go first
        stated = ~np.isnan(epochs.offset_min)
        utc = np.where(stated, shift(clock, -epochs.offset_min), utc)
        offset = np.where(stated, epochs.offset_min, offset)
    return utc.astype("datetime64[s]").astype(np.int64), offset.astype(np.int64)


def _gridded(
    epochs: Epochs, utc_s: np.ndarray, offset_min: int, wear: str, issues: Issues
) -> tuple[np.datetime64, int, np.ndarray, np.ndarray]:
    """Start, offset, values (n,) float32 and observed (n,) of one stretch, times rising."""
    values = epochs.values.copy()
    bad = ~np.isfinite(values) | (values < 0) | (values > _MOST_ACTIVITY)
    issues.add(
        "value that is no activity (missing)", f"subject {epochs.subject!r}", int((bad & ~np.isnan(values)).sum())
    )
    values[bad] = 0
    start_s = utc_s[0] - utc_s[0] % 60
    minute = (utc_s - start_s) // 60
    n, needed = int(minute[-1]) + 1, round(60 / epochs.epoch_s)
    summed = np.bincount(minute, values, n)
    whole = np.bincount(minute, ~bad, n) >= needed
    if n > 1 and np.count_nonzero(minute == n - 1) < needed:
        n -= 1  # the recording ended within a minute
        summed, whole = summed[:n], whole[:n]
    filled = np.where(whole, summed, np.nan).astype(np.float32)
    if epochs.channel == WORN:
        observed = whole
    elif epochs.off is not None:
        observed = whole & ~(np.bincount(minute, epochs.off)[:n] > 0)
    else:
        observed = rule_of(wear, epochs.site)(filled)
    return start_s.astype("datetime64[s]"), offset_min, filled, observed
