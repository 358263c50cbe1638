"""Which CGM format a file has, and what a card would have to say of it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from raycadian.data.source import Source
from raycadian.data.tables import first_rows, shown
from raycadian.modalities.cgm.builder import MGDL, MMOLL, parse_numbers, unit_of_median
from raycadian.modalities.cgm.card import CGMCard
from raycadian.modalities.cgm.formats.tables import GLUCOBENCH, unit_named
from raycadian.modalities.cgm.readers import recognised_format
from raycadian.modalities.columns import (
    Choice,
    choose,
    named,
    numeric,
    plain,
    subject_column,
    time_columns,
    time_format,
)
from raycadian.modalities.guesses import Detection, Given, Guess, Question, option

_GLUCOSE = {"glucose", "gl", "bg", "sgv", "egv", "cgm"}
_NOT_GLUCOSE = {"time", "ts", "timestamp", "trend", "rate", "fasting", "unit", "units", "finger", "fingerstick", "smbg"}
_EVENTS = {
    "carbs_g": ({"carbs", "carbs_g", "carb", "carbohydrates", "carbohydrate", "carb_g"}, "carbohydrates in grams"),
    "bolus_u": ({"bolus", "bolus_u", "bolus_dose", "bolus_insulin"}, "boluses in units"),
    "basal_uph": ({"basal_uph", "basal_rate"}, "the basal rate in units an hour"),
}
_NAMES_SUBJECT = {"glucobench", "ohio_t1dm", "pump_v2"}  # formats that say whose the readings are
_IN_UTC = {"pump_v2"}  # formats of UTC alone
_LOCAL = {"dexcom_clarity", "libreview", "ohio_t1dm", "glucobench"}  # formats of a local clock
_OFFSET = re.compile(r"\d{2}:\d{2}(:\d{2}(\.\d+)?)?\s*[+-]\d{2}:?\d{2}\b|\"(utcOffset|timezoneOffset)\"\s*:\s*-?[1-9]")
_CLOCK = re.compile(r"\b(\d{1,2}):(\d{2})\b")
_ROWS = 500  # looked at for the time between readings
_UTC = re.compile(r"\d{2}:\d{2}(:\d{2}(\.\d+)?)?\s*(Z|UTC)\b")


def detect(path: Path, given: Given) -> Detection | None:
    """None where a file is of no CGM format, and no table with a column that is called like glucose."""
    source = Source.of(path)
    kind = given.get("format") or recognised_format(source, CGMCard(name="x", files=("x",)))
    if kind in (None, "generic"):
        return _table(source, given)
    guesses = [Guess("format", kind, True, "recognised by its content", option("format", "FORMAT"))]
    guesses += _unit_stated(source, kind)
    questions: list[Question] = []
    _add_clock(source.text, kind, given, guesses, questions)
    guesses += _step(source.lines, given)
    if kind not in _NAMES_SUBJECT:
        guesses.append(_subject_of_file(source))
    guesses += _unused(first_rows(source), set(GLUCOBENCH.model_dump().values())) if kind == "glucobench" else []
    return Detection("cgm", kind, guesses, questions)


def _unit_stated(source: Source, kind: str) -> list[Guess]:
    """Of a known format: what its header says; JSON exports state or fix it themselves."""
    lines = source.lines[:20]
    unit = (
        next((u for line in lines if (u := unit_named(line))), None)
        if kind in ("dexcom_clarity", "libreview")
        else None
    )
    return [] if unit is None else [Guess("unit", unit, True, "stated in the file's header", option("unit", "UNIT"))]


def _subject_of_file(source: Source) -> Guess:
    why = "the file names no person and is taken for one person's, called after it"
    return Guess("subject", None, False, f"{why} ({source.stem!r})", option("subject", "NAME"))


def _add_clock(text: str, kind: str, given: Given, guesses: list[Guess], questions: list[Question]) -> None:
    """The time zone: not needed where each time states its offset; asked for where times are in UTC alone, since local
    hours matter; else the clock is taken as it stands."""
    if "timezone" in given or _OFFSET.search(text):
        return
    if kind in _IN_UTC or (_UTC.search(text) and kind not in _LOCAL):
        message = (
            "times are in UTC and the local time zone is not stated: add --timezone Europe/Madrid, or --timezone UTC"
        )
        questions.append(Question("timezone", message))
        return
    why = "a local clock without a zone is taken as it stands; changes of DST are not undone"
    guesses.append(Guess("timezone", None, False, why, option("timezone", "Europe/Madrid")))


def _step(lines: list[str], given: Given) -> list[Guess]:
    """The grid's step, where readings are further apart than the usual 5 minutes: a denser grid would be mostly
    holes."""
    if "grid.dt_min" in given:
        return []
    clocks = [match for line in lines[:_ROWS] if (match := _CLOCK.search(line))]
    minutes = np.array([60 * int(match[1]) + int(match[2]) for match in clocks])
    apart = np.abs(np.diff(minutes))
    apart = apart[(apart > 1) & (apart < 12 * 60)]  # neither rows of one moment, nor over midnight
    step = 5 * round(float(np.median(apart)) / 5) if len(apart) else 0
    if not 10 <= step <= 30:
        return []
    return [
        Guess("grid.dt_min", float(step), False, f"most readings are {step} minutes apart", option("grid.dt_min", 5))
    ]


# --- tables ---------------------------------------------------------------------------------------------------------


def _table(source: Source, given: Given) -> Detection | None:
    if not source.is_parquet and source.text.lstrip().startswith(("<", "[", "{")):
        return None
    columns = first_rows(source)
    candidates = [c for c in columns if _is_glucose(c) and numeric_or_low(columns[c])]
    if not candidates and "columns.glucose" not in given:
        return None
    glucose = choose("columns.glucose", candidates, given, "glucose")
    time = choose("columns.time", time_columns(columns), given, "the time")
    if time.column is None and time.question is None:
        return None if not candidates else _lacks_time(source, columns)
    subject = subject_column(columns, given)
    chosen = [glucose, time, subject, *_event_choices(columns, given)]
    clock = time_format(columns.get(time.column, ()) if time.column else (), given)
    guesses = [Guess("format", "generic", True, "a table with a reading a row", option("format", "FORMAT"))]
    questions: list[Question] = []
    for choice in (*chosen, clock):
        guesses += [choice.guess] if choice.guess else []
        questions += [choice.question] if choice.question else []
    _add_unit(source, columns, glucose, given, guesses, questions)
    times = columns.get(time.column or "", [])
    _add_clock(" ".join(times[:200]), "generic", given, guesses, questions)
    guesses += _step(times, given)
    if subject.column is None and subject.question is None:
        guesses.append(_subject_of_file(source))
    guesses += _unused(columns, {c.column for c in chosen})
    return Detection("cgm", "generic", guesses, questions)


def _is_glucose(name: str) -> bool:
    words = set(plain(name).split("_"))
    return bool(words & _GLUCOSE) and not words & _NOT_GLUCOSE


def numeric_or_low(texts: list[str]) -> bool:
    return numeric([text for text in texts if not text.lower().startswith(("low", "high", "hi", "lo"))])


def _lacks_time(source: Source, columns: dict[str, list[str]]) -> Detection:
    message = f"which column is the time? There are {shown(list(columns))}: add --set columns.time=NAME"
    return Detection("cgm", "generic", [], [Question("columns.time", message)])


def _event_choices(columns: dict[str, list[str]], given: Given) -> list[Choice]:
    choices = []
    for field, (names, what) in _EVENTS.items():
        candidates = [c for c in named(columns, names) if numeric(columns[c])]
        choices.append(choose(f"columns.{field}", candidates, given, what))
    return choices


def _add_unit(
    source: Source, columns: dict[str, list[str]], glucose: Choice, given: Given, guesses: list[Guess],
    questions: list[Question],
) -> None:  # fmt: skip
    """Of a table: what the column's name states, else what the values leave no doubt of."""
    if "unit" in given or glucose.column is None:
        return
    if unit := unit_named(glucose.column):
        guesses.append(Guess("unit", unit, True, f"stated by the column {glucose.column!r}", option("unit", "UNIT")))
        return
    values, _ = parse_numbers(pd.Series(columns.get(glucose.column, []), dtype=object))
    values = values[np.isfinite(values) & (values > 0)]
    unit = unit_of_median(float(np.median(values))) if len(values) else None
    if unit is None:
        message = f"the values of {glucose.column!r} don't tell the unit: add --unit {MGDL} or --unit {MMOLL}"
        questions.append(Question("unit", message))
        return
    why = f"the values of {glucose.column!r} have a median of {np.median(values):.3g}, which can't be the other unit"
    guesses.append(Guess("unit", unit, True, why, option("unit", MMOLL if unit == MGDL else MGDL)))


def _unused(columns: dict[str, list[str]], used: set[str | None]) -> list[Guess]:
    rest = [name for name in columns if name not in used and name]
    if not rest:
        return []
    how = "--set columns.carbs_g=NAME, columns.bolus_u, columns.basal_uph"
    return [Guess("columns", "not read", True, f"columns without a use: {shown(rest)}", how)]
