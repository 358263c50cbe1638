"""Exports of one person's device: Dexcom Clarity, LibreView, and pump files of version 2.0.

Clarity and LibreView name their columns in the user's language but keep their order, so they are read by position.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from raycadian.data.clock import offset_by_elapsed
from raycadian.data.source import Source, delimiter_of, n_fields, split
from raycadian.modalities.cells import parse_numbers
from raycadian.modalities.cgm.builder import LOCAL_CLOCK, MGDL, ReadingsBuilder
from raycadian.modalities.cgm.card import CGMCard
from raycadian.modalities.cgm.formats import words
from raycadian.modalities.cgm.formats.tables import csv_chunks, csv_rows, unit_named
from raycadian.modalities.cgm.repeats import names_of
from raycadian.modalities.time_formats import one_order
from raycadian.types import BASAL, BOLUS, CARBS, SUBJECT, Issues, Readings

_CLARITY = {"time": 1, "type": 2, "subtype": 3, "glucose": 7, "insulin": 8, "carbs": 9}
_CLARITY_SENSOR = {"elapsed": 12, "sensor": 13}
_LIBRE = {
    "serial": 1, "time": 2, "type": 3, "history": 4, "scan": 5, "insulin_mark": 6, "insulin": 7, "food_mark": 8,
    "carbs": 9,
    "long_acting": 12,
}  # fmt: skip
_LIBRE_PARTS = {"meal": 16, "correction": 17, "change": 18}  # of a bolus that the reader's calculator advised
_LIBRE_HIGH_MGDL = 501.0  # FreeStyle Libre reads up to 500
_LIBRE_DATES = (
    "%d-%m-%Y %H:%M", "%m-%d-%Y %H:%M", "%d-%m-%Y %I:%M %p", "%m-%d-%Y %I:%M %p", "%Y-%m-%d %H:%M",
    "%Y-%m-%d %I:%M %p", "%d-%m-%Y %H:%M:%S", "%m-%d-%Y %H:%M:%S", "%Y-%m-%d %H:%M:%S",
)  # fmt: skip
_PUMP = {"time": "timestamp", "glucose": "bg", BASAL: "basal_rate", BOLUS: "bolus_dose"}
_PUMP_FLAGS = {"clipped": "bg_clip_flag", "missing": "bg_missing_flag"}
_DATED = re.compile(r"^\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4} \d{1,2}:\d{2}")

# --- Dexcom Clarity ------------------------------------------------------------------------------------------------


def clarity_header(source: Source) -> int | None:
    """Line (from 0) of a Clarity header, by structure: index, time with its format, ..., glucose with its unit."""
    for number, line in enumerate(source.lines[:20]):
        fields = split(line, delimiter_of(line))
        if len(fields) >= 10 and unit_named(fields[7]) and re.search(r"\(.*hh:mm:ss\)", fields[1]):
            return number
    return None


def read_clarity(source: Source, card: CGMCard, issues: Issues) -> Iterator[Readings]:
    """Clarity's export: EGV rows are readings; fast-acting insulin and carbohydrates are events.

    The clock is local and follows the phone: the transmitter's own seconds beside it tell DST and travel. Raises
    ValueError.
    """
    start = clarity_header(source)
    if start is None:
        raise ValueError(
            f"{source.path}: no Dexcom Clarity header (index, timestamp (...hh:mm:ss), ..., glucose (unit))"
        )
    names = split(source.lines[start], delimiter_of(source.lines[start]))
    builder = ReadingsBuilder(source.path, card, issues, unit_named(names[7]))
    rows = _clarity_rows(source, start, names, builder)
    rows["egv"] = egv = _is_egv(rows, builder)
    by_sensor = _offsets_by_sensor(rows, builder) if set(_CLARITY_SENSOR) <= set(rows) else False
    yield from builder.readings(_glucose_rows(builder, rows[egv], "glucose", "sensor"), offsets_certain=by_sensor)
    stick = ~egv & (rows["glucose"] != "") & rows["type"].isin(words.CALIBRATION)
    builder.note("finger-stick or calibration (not a CGM reading)", rows["line"][stick])
    insulin = _clarity_insulin(rows[rows["insulin"] != ""], builder)
    yield from builder.events(insulin, "insulin", BOLUS, offsets_certain=by_sensor)
    yield from builder.events(rows[rows["carbs"] != ""], "carbs", CARBS, offsets_certain=by_sensor)
    builder.finish()


def _clarity_rows(source: Source, start: int, names: list[str], builder: ReadingsBuilder) -> pd.DataFrame:
    """The rows with a time, or of the sensor, with their clock."""
    wanted = _CLARITY | {name: i for name, i in _CLARITY_SENSOR.items() if i < len(names)}
    skip = start + 1 + _patient_lines(source, start + 1)
    delimiter = delimiter_of(source.lines[start])
    rows = csv_rows(source, builder, skip, n_fields(source, start), delimiter, wanted)
    rows["type"] = rows["type"].map({word: word.strip().lower() for word in rows["type"].unique()})
    rows = rows[(rows["time"].str.strip() != "") | rows["type"].isin(words.SENSOR)].reset_index(drop=True)
    rows[SUBJECT] = builder.card.named(source.path) or source.stem
    rows["clock"], rows["offset_min"] = builder.times(rows["time"])
    return rows


def _clarity_insulin(insulin: pd.DataFrame, builder: ReadingsBuilder) -> pd.DataFrame:
    """The doses that act rapidly; the others are counted."""
    kind = insulin["subtype"].map(words.insulin_kind)
    builder.note("insulin other than fast-acting (neither a bolus nor a rate)", insulin["line"][kind == "slow"])
    for word in insulin["subtype"][kind.isna()].unique():
        lines = insulin["line"][insulin["subtype"] == word]
        builder.note(f"insulin of a kind that is not known, {word!r} (left out)", lines)
    return insulin[kind == "fast"]


def _is_egv(rows: pd.DataFrame, builder: ReadingsBuilder) -> np.ndarray:
    """Which rows are the sensor's, by their type in the export's language. A type that is not known and has glucose is
    the sensor's where the transmitter's seconds stand beside every one of them, and counted by its name either way."""
    egv = rows["type"].isin(words.SENSOR).to_numpy()
    known = words.SENSOR | words.CALIBRATION | words.OTHER
    for word in rows["type"][(rows["glucose"] != "") & ~rows["type"].isin(known)].unique():
        own = (rows["type"] == word).to_numpy()
        ticking = "elapsed" in rows and bool((rows["elapsed"][own] != "").all())
        what = "read as the sensor's, which the transmitter's seconds say" if ticking else "left out"
        builder.note(f"type of row that is not known, {word!r} ({what})", rows["line"][own])
        egv |= own & ticking
    return egv


def _patient_lines(source: Source, start: int) -> int:
    """How many lines of the patient, devices and alerts stand before the first row with a time."""
    dated = (split(line, delimiter_of(line))[1:2] not in ([], [""]) for line in source.lines[start:])
    return next((number for number, has_time in enumerate(dated) if has_time), 0)


def _offsets_by_sensor(rows: pd.DataFrame, builder: ReadingsBuilder) -> bool:
    """Set `offset_min` by the transmitter's seconds; False, and nothing set, where these say nothing."""
    egv = rows[rows["egv"] & rows["clock"].notna()]
    elapsed_s, _ = parse_numbers(egv["elapsed"])
    if not len(egv) or not np.isfinite(elapsed_s).all():
        return False
    order = np.lexsort([elapsed_s, pd.factorize(egv["sensor"])[0]])
    clocks, sensors = egv["clock"].to_numpy("datetime64[ns]")[order], egv["sensor"].to_numpy()[order]
    offsets = offset_by_elapsed(clocks, elapsed_s[order], sensors, builder.card.timezone)
    if offsets is None:
        builder.note("transmitter's seconds that contradict the clock (not used)", egv["line"][:1])
        return False
    offset_min = np.empty(len(egv))
    offset_min[order] = offsets
    changed = np.append(False, (np.diff(offsets) != 0) & (sensors[1:] == sensors[:-1]))
    builder.note(
        "clock set forward or back (told by the transmitter's seconds)", egv["line"].to_numpy()[order][changed]
    )
    twice = "duplicate time on the clock (both kept, told apart by the transmitter's seconds)"
    builder.note(twice, egv["line"][egv["time"].duplicated()])
    if builder.card.timezone is None:
        builder.issues.add(LOCAL_CLOCK, builder.path.name, len(egv))
    before = np.searchsorted(egv.index, rows.index, side="right") - 1  # insulin and meals: as the reading before them
    rows["offset_min"] = offset_min[np.maximum(before, 0)]
    return True


# --- LibreView -----------------------------------------------------------------------------------------------------


def libreview_header(source: Source) -> int | None:
    """Line number (from 0) of a LibreView header in any language: the line before the first row of device, serial
    number, date, record type 0-6."""
    for number in range(1, min(20, len(source.lines))):
        line = source.lines[number]
        fields = split(line, delimiter_of(line))
        if len(fields) >= 14 and _DATED.match(fields[2]) and fields[3] in "0123456":
            return number - 1
    return None


def read_libreview(source: Source, card: CGMCard, issues: Issues) -> Iterator[Readings]:
    """LibreView's export: record type 0 is the 15-minute history, 1 a scan, 4 insulin, 5 food. Raises ValueError."""
    start = libreview_header(source)
    if start is None:
        raise ValueError(f"{source.path}: no LibreView rows (device, serial number, date, record type 0-6, ...) found")
    header = source.lines[start]
    delimiter = delimiter_of(header)
    names = split(header, delimiter)
    builder = ReadingsBuilder(source.path, card, issues, unit_named(" ".join(names[4:6])), high_mgdl=_LIBRE_HIGH_MGDL)
    wanted = _LIBRE | {name: i for name, i in _LIBRE_PARTS.items() if i < len(names)}
    rows = csv_rows(source, builder, start + 1, n_fields(source, start), delimiter, wanted)
    rows[SUBJECT] = card.named(source.path) or source.stem
    rows["clock"], rows["offset_min"] = _libre_times(rows["time"], source.path, card, builder)
    kind = rows["type"].str.strip()
    # history first: where a scan falls on the same minute, it is kept
    yield from builder.readings(_glucose_rows(builder, rows[kind == "0"], "history", "serial"))
    yield from builder.readings(_glucose_rows(builder, rows[kind == "1"], "scan", "serial"))
    builder.note("finger-stick or calibration (not a CGM reading)", rows["line"][kind == "2"])
    builder.note("row of an unknown record type", rows["line"][~kind.isin(list("0123456"))])
    yield from _libre_events(rows[kind.isin(["4", "5"])], builder)
    builder.finish()


def _libre_events(rows: pd.DataFrame, builder: ReadingsBuilder) -> Iterator[Readings]:
    """Rapid-acting insulin (the sum of the calculator's parts where no total is given) and carbohydrates."""
    builder.note("insulin other than fast-acting (neither a bolus nor a rate)", rows["line"][rows["long_acting"] != ""])
    parts = [name for name in _LIBRE_PARTS if name in rows]
    advised = (rows[parts] != "").any(axis=1) & (rows["insulin"] == "")
    marked = (rows["insulin_mark"] != "") & (rows["insulin"] == "") & ~advised
    marked |= (rows["food_mark"] != "") & (rows["carbs"] == "")
    builder.note("meal or insulin without an amount", rows["line"][marked])
    total = sum((np.nan_to_num(builder.numbers(rows[p], rows["line"], "insulin")) for p in parts), np.zeros(len(rows)))
    insulin = rows["insulin"].where(~advised, pd.Series(total, rows.index).astype(str))
    yield from builder.events(rows.assign(insulin=insulin)[insulin != ""], "insulin", BOLUS)
    yield from builder.events(rows[rows["carbs"] != ""], "carbs", CARBS)


def _libre_times(text: pd.Series, path: Path, card: CGMCard, builder: ReadingsBuilder) -> tuple[np.ndarray, np.ndarray]:
    """LibreView writes dates in the order of the user's country. The format that reads the most rows is taken; where
    day and month can both be either, the one with by far the shortest span (the history is continuous). Raises
    ValueError where neither has it."""
    if card.time_format:
        return builder.times(text)
    plain = text.str.strip().str.replace("[/.]", "-", regex=True).str.replace(r"(?i)\b([ap])-m-", r"\1m", regex=True)
    read = {f: pd.to_datetime(plain, format=f, errors="coerce") for f in _LIBRE_DATES}
    if all(times.isna().all() for times in read.values()):
        return builder.times(text)
    return read[one_order(read, path, text)].to_numpy("datetime64[ns]"), np.full(len(text), np.nan)


# --- pump version 2.0 ----------------------------------------------------------------------------------------------


def read_pump(source: Source, card: CGMCard, issues: Issues) -> Iterator[Readings]:
    """A pump file (version 2.0): 5-minute rows in UTC, glucose in mg/dL with flags. Raises ValueError."""
    facts = pump_facts(source)
    if "utc" not in facts.get("tz_handling", "utc").lower():
        raise ValueError(f"{source.path}: tz_handling is {facts['tz_handling']!r}, expected UTC times")
    start = _pump_header(source)
    delimiter = delimiter_of(source.lines[start])
    names = split(source.lines[start], delimiter)
    absent = [theirs for theirs in _PUMP.values() if theirs not in names]
    if absent:
        raise ValueError(f"{source.path}: no column {', '.join(absent)}; found {', '.join(names)}")
    wanted = {ours: names.index(theirs) for ours, theirs in (_PUMP | _PUMP_FLAGS).items() if theirs in names}
    subject = card.named(source.path) or pump_serial(source)
    if not subject:
        raise ValueError(
            f"{source.path}: no `# pump_serial:` line and no folder pump_SERIAL; set `subject` in the card"
        )
    builder = ReadingsBuilder(source.path, card, issues, MGDL)
    for rows in csv_chunks(source, builder, start + 1, n_fields(source, start), delimiter, wanted):
        yield from builder.readings(_pump_rows(rows, subject, builder))
    builder.finish()


def pump_key(source: Source) -> tuple[Path, str, str]:
    """Folder, pump and role: of files that share them, the newest is read."""
    return source.path.parent, pump_serial(source), pump_facts(source).get("file_role", "")


def superseded_pump_files(keys: dict[Path, tuple[Path, str, str]], issues: Issues) -> set[Path]:
    """Files for which a newer one exists, by the numbers in their names (lstm_20240131.csv)."""
    newest: dict[tuple, Path] = {}
    for path in sorted(keys, key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)]):
        if keys[path] in newest:
            older = newest[keys[path]]
            issues.add("pump file superseded by a newer one (not read)", f"{older.parent.name}/{older.name}")
        newest[keys[path]] = path
    return set(keys) - set(newest.values())


def pump_facts(source: Source) -> dict[str, str]:
    """The `# key: value` lines at the top."""
    facts = {}
    for line in source.lines[: _pump_header(source)]:
        key, _, value = line.lstrip("# ").replace("=", ":", 1).partition(":")
        facts[key.strip().lower()] = value.strip().strip("\"'")
    return facts


def pump_serial(source: Source) -> str:
    """From the header, else from the folder pump_SERIAL; empty where neither names it."""
    folders = [part.removeprefix("pump_") for part in source.path.parts if part.startswith("pump_")]
    return pump_facts(source).get("pump_serial") or (folders[-1] if folders else "")


def _pump_header(source: Source) -> int:
    """Line number (from 0) of the columns' names."""
    for number, line in enumerate(source.lines):
        if line.strip() and not line.startswith("#"):
            return number
    raise ValueError(f"{source.path}: only # comments and no rows")


def _pump_rows(rows: pd.DataFrame, subject: str, builder: ReadingsBuilder) -> pd.DataFrame:
    typed = pd.DataFrame({SUBJECT: subject, "line": rows["line"]})
    clocks, offset_min = builder.times(rows["time"])
    offset_min = np.nan_to_num(offset_min)  # UTC without saying so
    typed["clock"], typed["offset_min"] = clocks, offset_min
    for name in ("glucose", BASAL, BOLUS):
        typed[name] = builder.numbers(rows[name], rows["line"], name)
    if "missing" in rows:
        typed.loc[_flagged(rows["missing"]), "glucose"] = np.nan
    if "clipped" in rows:
        builder.note("glucose clipped by the pump's export", rows["line"][_flagged(rows["clipped"])])
    builder.note("row without a glucose value", rows["line"][typed["glucose"].isna().to_numpy()])
    return typed


def _flagged(flags: pd.Series) -> np.ndarray:
    return pd.to_numeric(flags, errors="coerce").eq(1).to_numpy() | flags.str.strip().str.lower().eq("true").to_numpy()


# --- both ----------------------------------------------------------------------------------------------------------


def _glucose_rows(builder: ReadingsBuilder, rows: pd.DataFrame, column: str, device: str) -> pd.DataFrame:
    """Rows for the builder, with the glucose of a column, and whose sensor's it is where a column says."""
    builder.note("row without a glucose value", rows["line"][rows[column] == ""])
    typed = rows[[SUBJECT, "line", "clock", "offset_min"]].assign(
        glucose=builder.numbers(rows[column], rows["line"], "glucose")
    )
    return typed.assign(device=names_of(rows[device])) if device in rows else typed
