"""Medtronic CareLink's CSV: sections (pump, sensor) below one another, newest row first, in several languages."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from raycadian.data.source import Source, delimiter_of, read_whole, split
from raycadian.modalities.cgm.builder import ReadingsBuilder
from raycadian.modalities.cgm.card import CGMCard
from raycadian.modalities.cgm.formats.tables import unit_named
from raycadian.modalities.cgm.repeats import names_of
from raycadian.modalities.time_formats import one_order
from raycadian.types import BASAL, BOLUS, CARBS, SUBJECT, Issues, Readings

MAX_CARELINK_BYTES = 256 * 1024**2
_DATE = ("date", "datum", "fecha", "data")
_TIME = ("time", "heure", "zeit", "uhrzeit", "hora", "ora", "tijd", "tid", "godzina")
# columns as they begin, without the unit, in English, German, French, Spanish, Italian, Dutch, Portuguese
_NAMES = {
    "glucose": ("sensor glucose", "sensorglukose", "glucose capteur", "glucosa del sensor", "glucosa de sensor",
                "glucosio sensore", "sensorglucose", "glicose do sensor"),
    BOLUS: ("bolus volume delivered", "abgegebenes bolusvolumen", "volume de bolus délivré",
    "volumen de bolo suministrado",
            "volume bolo erogato", "toegediend bolusvolume", "volume de bolus administrado"),
    CARBS: ("bwz carb input", "kh-eingabe", "bwz kohlenhydrateingabe", "entrée glucides", "entrada de hidratos",
            "ingresso carboidrati", "koolhydraten", "entrada de hc"),
    BASAL: ("basal rate", "basalrate", "débit basal", "índice basal", "velocità basale", "basale snelheid",
            "débito basal", "taxa basal"),
    "stick": ("bg reading", "bz-messwert", "glycémie", "lectura de gs", "lettura glicemia", "bg-meting",
              "leitura de gs"),
}  # fmt: skip
_FORMATS = (
    "%Y/%m/%d %H:%M:%S", "%Y-%m-%d %H:%M:%S", "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M:%S", "%d.%m.%Y %H:%M:%S",
    "%d/%m/%y %H:%M:%S", "%m/%d/%y %H:%M:%S", "%d.%m.%y %H:%M:%S", "%m/%d/%y %I:%M:%S %p", "%m/%d/%Y %I:%M:%S %p",
)  # fmt: skip


class _Section(NamedTuple):
    """A header's line, its columns by what they are, and the device that it names."""

    line: int
    columns: dict[str, int]
    device: str


def is_carelink(source: Source) -> bool:
    """By a line of a section (-------;MiniMed...), with a header below it."""
    lines = source.lines
    return any(
        _is_divider(line) and n + 1 < len(lines) and _columns(lines[n + 1]) for n, line in enumerate(lines[:400])
    )


def read_carelink(source: Source, card: CGMCard, issues: Issues) -> Iterator[Readings]:
    """Sensor glucose, boluses delivered, carbohydrates of the bolus wizard and basal rates; clocks are local. Raises
    ValueError."""
    text = read_whole(source.path, MAX_CARELINK_BYTES, "bytes of text").decode(source.encoding, "replace")
    lines = text.lstrip("\ufeff").splitlines()
    if not (sections := _sections(lines)):
        raise ValueError(f"{source.path}: no section of a pump or sensor (-------;MiniMed ...); export it again")
    header = lines[sections[0].line]
    unit = unit_named(" ".join(n for n in split(header, delimiter_of(header)) if _is(n, "glucose") or _is(n, "stick")))
    builder = ReadingsBuilder(source.path, card, issues, unit)
    rows = pd.concat([_rows(lines, one, end) for one, end in zip(sections, _ends(sections, lines), strict=True)])
    rows = rows.sort_values("line", ascending=False, ignore_index=True)  # newest first
    rows[SUBJECT] = card.named(source.path) or _patient(lines) or source.stem
    form = card.time_format or _time_format(rows["time"], source)
    rows["clock"], rows["offset_min"] = builder.times(rows["time"], form)
    typed = rows[[SUBJECT, "line", "clock", "offset_min"]]
    sensed = rows["glucose"] != ""
    glucose = builder.numbers(rows["glucose"][sensed], rows["line"][sensed], "glucose")
    yield from builder.readings(typed[sensed].assign(glucose=glucose, device=names_of(rows["device"][sensed])))
    builder.note("finger-stick or calibration (not a CGM reading)", rows["line"][(rows["stick"] != "") & ~sensed])
    for kind in (BOLUS, CARBS):
        yield from builder.events(rows[rows[kind] != ""], kind, kind)
    rate = builder.numbers(rows[BASAL], rows["line"], BASAL)
    yield from builder.readings(typed.assign(kind=BASAL, value=rate)[~np.isnan(rate)])
    builder.finish()


def _is_divider(line: str) -> bool:
    return line.lstrip('"').startswith("-------")


def _is(name: str, what: str) -> bool:
    return name.lower().startswith(_NAMES[what])


def _columns(line: str) -> dict[str, int]:
    """Ours -> position; empty for what is no header of a section."""
    names = split(line, delimiter_of(line))
    at: dict[str, list[int]] = {what: [i for i, name in enumerate(names) if _is(name, what)] for what in _NAMES}
    for what, words in (("date", _DATE), ("clock", _TIME)):
        at[what] = [i for i, name in enumerate(names) if name.lower() in words]
    return {what: places[0] for what, places in at.items() if places} if at["date"] and at["glucose"] else {}


def _sections(lines: list[str]) -> list[_Section]:
    found = []
    for n, line in enumerate(lines[:-1]):
        if _is_divider(line) and (columns := _columns(lines[n + 1])):
            fields = split(line, delimiter_of(line))
            found.append(_Section(n + 1, columns, fields[3] if len(fields) > 3 else ""))
    return found


def _ends(sections: list[_Section], lines: list[str]) -> list[int]:
    return [*(one.line - 1 for one in sections[1:]), len(lines)]


def _rows(lines: list[str], section: _Section, end: int) -> pd.DataFrame:
    delimiter = delimiter_of(lines[section.line])
    names = ("date", "clock", *_NAMES)
    cells = []
    for number, line in enumerate(lines[section.line + 1 : end], section.line + 2):
        fields = split(line, delimiter)
        own = [fields[at] if (at := section.columns.get(name, len(fields))) < len(fields) else "" for name in names]
        if own[0] and own[1]:
            cells.append([number, *own])
    rows = pd.DataFrame(cells, columns=["line", *names], dtype=object).astype({"line": np.int64})
    return rows.assign(time=rows["date"] + " " + rows["clock"], device=section.device)


def _patient(lines: list[str]) -> str:
    """The id that the clinic gave, if any: names are not read."""
    names, values = (split(line, delimiter_of(lines[0])) for line in lines[:2])
    return dict(zip((n.lower() for n in names), values, strict=False)).get("patient id", "")


def _time_format(times: pd.Series, source: Source) -> str | None:
    """The form that reads all, in which the rows follow one another best; None where none does. Raises ValueError where
    day and month may be either."""
    read = {form: pd.to_datetime(times, format=form, errors="coerce") for form in _FORMATS}
    usable = {form: clock for form, clock in read.items() if clock.notna().all()}
    return one_order(usable, source.path, times) if usable else None
