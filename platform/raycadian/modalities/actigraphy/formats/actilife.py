"""ActiLife's table of counts (ActiGraph): ten lines that say how it was recorded, then an epoch a row."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from raycadian.data.source import Source, delimiter_of, read_whole, split
from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.actigraphy.formats.devices import MAX_TEXT_BYTES, Epochs
from raycadian.modalities.cells import parse_column
from raycadian.types import Issues

_PREAMBLE = 10
_BEGINS = re.compile(r"^\W*Data (?:Table )?File Created By Acti[Gg]raph", re.IGNORECASE)
_FORMS = {"M/d/yyyy": "%m/%d/%Y", "MM/dd/yyyy": "%m/%d/%Y", "d/M/yyyy": "%d/%m/%Y", "dd/MM/yyyy": "%d/%m/%Y"}
_DATES = ("%m/%d/%Y", "%d/%m/%Y", "%Y/%m/%d", "%m/%d/%y", "%d/%m/%y")
_VERTICAL = ("axis1", "activity", "vertical")
_LONGEST = np.timedelta64(400, "D")  # from the start to the download


class _Start(NamedTuple):
    clock: np.datetime64
    epoch_s: float


def is_actilife(source: Source) -> bool:
    return _BEGINS.search(source.lines[0]) is not None


def read_actilife(source: Source, card: ActigraphyCard, issues: Issues) -> Iterator[Epochs]:
    """Vertical counts (axis1, the first column where none is named) of each epoch from the start that the preamble
    states. Raises ValueError."""
    text = read_whole(source.path, MAX_TEXT_BYTES, "bytes of text").decode(source.encoding, "replace")
    lines = text.lstrip("\ufeff").splitlines()
    start = _start(lines[:_PREAMBLE], source)
    rows = [split(line, delimiter_of(lines[_PREAMBLE])) for line in lines[_PREAMBLE:] if line.strip(", ;\t")]
    named = [name.lower() for name in rows[0]] if rows and not _is_number(rows[0][-1]) else []
    at = next((named.index(name) for name in _VERTICAL if name in named), None if named else 0)
    if at is None:
        raise ValueError(f"{source.path}: no column of vertical counts (axis1); found {', '.join(rows[0])}")
    column = pd.Series([row[at] if at < len(row) else "" for row in rows[bool(named) :]], dtype=object)
    counts, malformed = parse_column(column, f"{source.path}: axis1")
    issues.add("activity is not a number", source.path.name, int(malformed.sum()))
    clock = start.clock + np.round(np.arange(len(counts)) * start.epoch_s).astype("timedelta64[s]")
    yield Epochs(card.subject or source.stem, clock, counts, start.epoch_s, site=card.site)


def _start(lines: list[str], source: Source) -> _Start:
    """When the first epoch began and how long each is. Raises ValueError."""
    said = {}
    for line in lines[1:]:
        match = re.match(r"\W*([A-Za-z ]+?(?: \(hh:mm:ss\))?)[: ]+(\d\S*)", line)
        said |= {match[1].strip().lower(): match[2].strip(" ,;")} if match else {}
    epoch_s = pd.to_timedelta(said.get("epoch period (hh:mm:ss)", ""), errors="coerce").total_seconds()
    starts = _dates(said.get("start date", ""), lines[0])
    downloads = _dates(said.get("download date", ""), lines[0])
    fitting = [date for date in starts if any(date <= end <= date + _LONGEST for end in downloads)] or starts
    if not fitting or not epoch_s > 0 or "start time" not in said:
        raise ValueError(
            f"{source.path}: an ActiLife table whose preamble doesn't state start date, start time and epoch period; "
            "export it again with its header"
        )
    at = pd.to_timedelta(said["start time"], errors="coerce")
    if pd.isna(at) or at.days:
        clock = said["start time"][:40]
        raise ValueError(f"{source.path}: start time {clock!r} is no clock of a day; export it again with its header")
    return _Start(np.datetime64(fitting[0] + at.to_timedelta64(), "s"), epoch_s)


def _dates(text: str, first_line: str) -> list[np.datetime64]:
    """What a date may be, likeliest first: as the preamble says dates are written, else in the usual orders."""
    stated = re.search(r"date format (\S+)", first_line)
    form = _FORMS.get(stated[1].replace("-", "/").replace(".", "/")) if stated else None
    forms = dict.fromkeys([*([form] if form else []), *_DATES])
    plain = re.sub(r"[-.]", "/", text)
    read = (pd.to_datetime(plain, format=form, errors="coerce") for form in forms)
    return list(dict.fromkeys(date.to_datetime64() for date in read if not pd.isna(date)))


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(?:[.,]\d+)?", text) is not None
