"""ActiLife's table of counts (ActiGraph): ten lines that say how it was recorded, then an epoch a row."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from raycadian.data.source import Source, delimiter_of, read_whole, split
from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.actigraphy.formats.devices import MAX_TEXT_BYTES, Epochs
from raycadian.modalities.cells import parse_column
from raycadian.modalities.guesses import how_to_set
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
    return any(_BEGINS.search(line) for line in source.lines[:1])


def read_actilife(source: Source, card: ActigraphyCard, issues: Issues) -> Iterator[Epochs]:
    """Vertical counts (axis1, the first column where none is named) of each epoch from the start that the preamble
    states. Raises ValueError."""
    text = read_whole(source.path, MAX_TEXT_BYTES, "bytes of text").decode(source.encoding, "replace")
    lines = text.lstrip("\ufeff").splitlines()
    start = _start(lines[:_PREAMBLE], source, card.time_format)
    rows = [split(line, delimiter_of(lines[_PREAMBLE])) for line in lines[_PREAMBLE:] if line.strip(", ;\t")]
    named = [name.lower() for name in rows[0]] if rows and not _is_number(rows[0][-1]) else []
    at = next((named.index(name) for name in _VERTICAL if name in named), None if named else 0)
    if at is None:
        raise ValueError(f"{source.path}: no column of vertical counts (axis1); found {', '.join(rows[0])}")
    column = pd.Series([row[at] if at < len(row) else "" for row in rows[bool(named) :]], dtype=object)
    counts, malformed = parse_column(column, f"{source.path}: axis1")
    issues.add("activity is not a number", source.path.name, int(malformed.sum()))
    clock = start.clock + np.round(np.arange(len(counts)) * start.epoch_s).astype("timedelta64[s]")
    yield Epochs(card.named(source.path) or source.stem, clock, counts, start.epoch_s, site=card.site)


def _start(lines: list[str], source: Source, form: str | None) -> _Start:
    """When the first epoch began and how long each is. Raises ValueError."""
    said = _stated(lines[1:])
    epoch_s = pd.to_timedelta(said.get("epoch period (hh:mm:ss)", ""), errors="coerce").total_seconds()
    stated = _stated_form(lines[0], form)
    fitting = (_starts(said, (stated,)) if stated else []) or _starts(said, _DATES)
    fitting = fitting or _starts({"start date": said.get("start date", "")}, (stated,) if stated else _DATES)
    if not fitting or not epoch_s > 0 or "start time" not in said:
        raise ValueError(
            f"{source.path}: an ActiLife table whose preamble doesn't state start date, start time and epoch period; "
            "export it again with its header"
        )
    if len(fitting) > 1:
        raise ValueError(
            f"{source.path}: began on {said['start date']}, which may be day first or month first, and nothing in it "
            f"tells: {how_to_set('time_format', '%d/%m/%Y')}, or %m/%d/%Y"
        )
    at = pd.to_timedelta(said["start time"], errors="coerce")
    if pd.isna(at) or at.days:
        clock = said["start time"][:40]
        raise ValueError(f"{source.path}: start time {clock!r} is no clock of a day; export it again with its header")
    return _Start(np.datetime64(fitting[0] + np.timedelta64(at), "s"), epoch_s)


def _stated(lines: list[str]) -> dict[str, str]:
    """What the lines of the preamble say that is a number, a date or a clock."""
    matches = (re.match(r"\W*([A-Za-z ]+?(?: \(hh:mm:ss\))?)[: ]+(\d\S*)", line) for line in lines)
    return {match[1].strip().lower(): match[2].strip(" ,;") for match in matches if match}


def _stated_form(first_line: str, form: str | None) -> str | None:
    """How dates are written, by the card or by the preamble."""
    stated = re.search(r"date format (\S+)", first_line)
    said = _FORMS.get(stated[1].replace("-", "/").replace(".", "/")) if stated else None
    return re.sub(r"[-.]", "/", form.split(" ")[0]) if form else said


def _starts(said: dict[str, str], forms: Sequence[str]) -> list[np.datetime64]:
    """When it may have begun, by its date in these forms: in one that reads the download's date too, soon before it."""
    read = [tuple(_date(said.get(f"{what} date", ""), form) for what in ("start", "download")) for form in forms]
    begun = [start for start, end in read if start <= end <= start + _LONGEST or "download date" not in said]
    return list(dict.fromkeys(start for start in begun if not np.isnat(start)))


def _date(text: str, form: str) -> np.datetime64:
    date = pd.to_datetime(re.sub(r"[-.]", "/", text), format=form, errors="coerce")
    return np.datetime64("NaT", "s") if pd.isna(date) else np.datetime64(date, "s")


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(?:[.,]\d+)?", text) is not None
