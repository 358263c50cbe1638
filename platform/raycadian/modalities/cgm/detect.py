"""Which CGM format a file has, and what a card would have to say of it."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from raycadian.data.clock import EPOCHS_MS, parse_times
from raycadian.data.source import Source, first_rows, shown
from raycadian.modalities.cells import parse_numbers
from raycadian.modalities.cgm.builder import MGDL, MMOLL, contradicts, unit_of_median
from raycadian.modalities.cgm.card import CGMCard
from raycadian.modalities.cgm.formats.tables import GLUCOBENCH, unit_named
from raycadian.modalities.cgm.readers import recognised_format
from raycadian.modalities.columns import (
    choose,
    date_column,
    file_is_one_person,
    joined,
    named,
    not_read,
    numeric,
    plain,
    subject_column,
    time_column,
    zone_of_utc,
)
from raycadian.modalities.guesses import Choice, Detection, Given, Guess, Question, option
from raycadian.modalities.text_tables import distinct_rows
from raycadian.modalities.time_formats import time_format

_GLUCOSE = {"glucose", "gl", "bg", "sgv", "egv", "cgm", "cgms", "glucosa", "glukose", "glycemie", "glicemia"}
_SENSOR = {"cgm", "cgms", "sgv", "egv", "sensor"}
_NOT_GLUCOSE = {"time", "ts", "timestamp", "trend", "rate", "fasting", "unit", "units", "finger", "fingerstick", "smbg"}
_EVENTS = {
    "carbs_g": (
        {"carbs", "carbs_g", "carb", "carbohydrates", "carbohydrate", "carb_g", "ch_gr"},
        "carbohydrates in grams",
    ),
    "bolus_u": ({"bolus", "bolus_u", "bolus_dose", "bolus_insulin"}, "boluses in units"),
    "basal_uph": ({"basal_uph", "basal_rate"}, "the basal rate in units an hour"),
}
_NAMES_SUBJECT = {"glucobench", "ohio_t1dm", "pump_v2"}  # formats that say whose the readings are
_STATES_UNIT = {"dexcom_clarity", "libreview", "carelink"}  # formats whose header names the unit
_IN_UTC = {"pump_v2"}  # formats of UTC alone
_LOCAL = {"dexcom_clarity", "libreview", "ohio_t1dm", "glucobench", "carelink"}  # formats of a local clock
_OFFSET = re.compile(r"\d{2}:\d{2}(:\d{2}(\.\d+)?)?\s*[+-]\d{2}:?\d{2}\b|\"(utcOffset|timezoneOffset)\"\s*:\s*-?[1-9]")
_CLOCK = re.compile(r"(?<![\d:])(\d{1,2}):(\d{2})\b")
_ROWS = 500  # looked at for the time between readings
_UTC = re.compile(r"\d{2}:\d{2}(:\d{2}(\.\d+)?)?\s*(Z|UTC)\b")


def detect(path: Path, given: Given) -> Detection | None:
    """None where a file is of no CGM format, and no table with a column that is called like glucose."""
    source = Source.of(path)
    kind = given.get("format") or recognised_format(source, CGMCard(name="x", files=("x",)))
    if kind in (None, "generic"):
        return _table(source, given)
    choices = [
        Choice(guess=Guess("format", kind, True, "recognised by its content", option("format", "FORMAT"))),
        _unit_stated(source, kind),
        _clock(source.text, kind, given),
        _step(source.lines, given),
    ]
    choices += [] if kind in _NAMES_SUBJECT else [file_is_one_person(source.stem)]
    choices += [_unused(first_rows(source), set(GLUCOBENCH.model_dump().values()))] if kind == "glucobench" else []
    return Detection.of("cgm", kind, choices)


def _unit_stated(source: Source, kind: str) -> Choice:
    """Of a known format: what its header says; JSON exports state or fix it themselves."""
    units = [unit for line in source.lines[:20] if (unit := unit_named(line))]
    if not units or kind not in _STATES_UNIT:
        return Choice()
    return Choice(guess=Guess("unit", units[0], True, "stated in the file's header", option("unit", "UNIT")))


def _clock(text: str, kind: str, given: Given) -> Choice:
    """The time zone: not needed where each time states its offset; asked for where times are in UTC alone, since local
    hours matter; else the clock is taken as it stands."""
    if "timezone" in given or _OFFSET.search(text):
        return Choice()
    if kind in _IN_UTC or (_UTC.search(text) and kind not in _LOCAL):
        return zone_of_utc(given)
    why = "a local clock without a zone is taken as it stands; changes of DST are not undone"
    return Choice(guess=Guess("timezone", None, False, why, option("timezone", "Europe/Madrid")))


def _step(lines: list[str], given: Given) -> Choice:
    """The grid's step, where readings are further apart than 5 minutes: a denser grid would be mostly holes."""
    clocks = [match for line in lines[:_ROWS] if (match := _CLOCK.search(line))]
    minutes = np.array([60 * int(match[1]) + int(match[2]) for match in clocks])
    apart = np.abs(np.diff(minutes))
    apart = apart[(apart > 1) & (apart < 12 * 60)]  # neither rows of one moment, nor over midnight
    # the most frequent one: where every second reading is lost, the typical gap is not the sensor's step
    step = 5 * int(np.bincount(np.round(apart / 5).astype(int)).argmax()) if len(apart) else 0
    if not 10 <= step <= 30 or "grid.dt_min" in given:
        return Choice()
    why = f"most readings are {step} minutes apart"
    return Choice(guess=Guess("grid.dt_min", float(step), False, why, option("grid.dt_min", 5)))


# --- tables ---------------------------------------------------------------------------------------------------------


def _table(source: Source, given: Given) -> Detection | None:
    if not source.is_parquet and source.text.lstrip().startswith(("<", "[", "{")):
        return None
    columns = first_rows(source)
    candidates = _of_sensor([c for c in columns if _is_glucose(c) and _numeric_or_low(columns[c])], columns)
    if not candidates and "columns.glucose" not in given:
        return None
    glucose = choose("columns.glucose", candidates, given, "glucose")
    date, time, subject = date_column(columns, given), _time(columns, given), subject_column(columns, given)
    each = _unit_of_each(columns, given)
    chosen = [glucose, date, time, subject, each, *_events(columns, given)]
    times = joined(columns, date.column, time.column)
    whose = [] if subject.column or subject.question else [file_is_one_person(source.stem)]
    written = time_format(times, given, lambda: _whole(source, date.column, time.column))
    zone = zone_of_utc(given) if written.column in EPOCHS_MS else _clock(" ".join(times[:200]), "", given)
    unit = Choice() if each.column else _unit(columns, glucose, given)
    about = [written, unit, zone, _step(_as_clock(times, written.column), given)]
    generic = Guess("format", "generic", True, "a table with a reading a row", option("format", "FORMAT"))
    unused = _unused(columns, {choice.column for choice in chosen})
    return Detection.of("cgm", "generic", [Choice(guess=generic), *chosen, *about, *whose, unused])


def _whole(source: Source, date: str | None, time: str | None) -> list[str]:
    """The distinct texts of the whole column of times, in the order of the file."""
    return joined(distinct_rows(source, [date, time]), date, time)


def _as_clock(times: list[str], form: str | None) -> list[str]:
    """Times with hours and minutes in them."""
    if form not in EPOCHS_MS:
        return times
    clocks, _ = parse_times(pd.Series(times[:_ROWS], dtype=object), form)
    return [str(clock) for clock in clocks.astype("datetime64[m]")]


def _is_glucose(name: str) -> bool:
    words = set(plain(name).split("_"))
    return bool(words & _GLUCOSE) and not words & _NOT_GLUCOSE


def _of_sensor(candidates: list[str], columns: dict[str, list[str]]) -> list[str]:
    """Of several columns of glucose those that hold any, and of these the sensor's, where one is called so."""
    filled = [c for c in candidates if any(columns[c])] or candidates
    return [c for c in filled if set(plain(c).split("_")) & _SENSOR] or filled if len(filled) > 1 else filled


def _numeric_or_low(texts: list[str]) -> bool:
    return numeric([text for text in texts if not text.lower().startswith(("low", "high", "hi", "lo"))])


def _time(columns: dict[str, list[str]], given: Given) -> Choice:
    choice = time_column(columns, given)
    if choice.column or choice.question:
        return choice
    message = f"which column is the time? There are {shown(list(columns))}: add --set columns.time=NAME"
    return Choice(question=Question("columns.time", message))


def _events(columns: dict[str, list[str]], given: Given) -> list[Choice]:
    candidates = {
        field: [c for c in named(columns, names) if numeric(columns[c])] for field, (names, _) in _EVENTS.items()
    }
    return [choose(f"columns.{field}", candidates[field], given, what) for field, (_, what) in _EVENTS.items()]


def _unit(columns: dict[str, list[str]], glucose: Choice, given: Given) -> Choice:
    """Of a table: what the column's name states, else what the values leave no doubt of."""
    name = glucose.column
    if "unit" in given or name is None:
        return Choice()
    values, _ = parse_numbers(pd.Series(columns.get(name, []), dtype=object))
    values = values[np.isfinite(values) & (values > 0)]
    median = float(np.median(values)) if len(values) else np.nan
    if named := unit_named(name):
        other = MMOLL if named == MGDL else MGDL
        if not contradicts(named, median):
            return Choice(guess=Guess("unit", named, True, f"stated by the column {name!r}", option("unit", other)))
        message = f"the column {name!r} says {named}, but its values have a median of {median:.3g}: if they are {other}"
        return Choice(question=Question("unit", f"{message}, add {option('unit', other)}"))
    if not columns.get(name):
        return Choice(question=Question("unit", f"there is no row below the header with {name!r}; bring readings"))
    unit = unit_of_median(median) if len(values) else None
    if unit is None:
        message = f"the values of {name!r} don't tell the unit: add --unit {MGDL} or --unit {MMOLL}"
        return Choice(question=Question("unit", message))
    why = f"the values of {name!r} have a median of {np.median(values):.3g}, which can't be the other unit"
    return Choice(guess=Guess("unit", unit, True, why, option("unit", MMOLL if unit == MGDL else MGDL)))


def _unit_of_each(columns: dict[str, list[str]], given: Given) -> Choice:
    """The column of each reading's unit, where a table has both."""
    called = [c for c in columns if set(plain(c).split("_")) & {"unit", "units"}]
    both = [c for c in called if {unit_named(text) for text in columns[c]} >= {MGDL, MMOLL}]
    return choose("columns.unit", both, given, "each reading's unit")


def _unused(columns: dict[str, list[str]], used: set[str | None]) -> Choice:
    return not_read(columns, used, "--set columns.carbs_g=NAME, columns.bolus_u, columns.basal_uph")
