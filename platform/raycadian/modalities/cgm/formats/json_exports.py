"""Nightscout and Tidepool: JSON records of one person, read whole (a year is some tens of MB)."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from raycadian.data.clock import clock_of_epoch_ms, parse_times, shift
from raycadian.data.source import Source, check_count, read_whole
from raycadian.files import kind_of
from raycadian.modalities.cgm.builder import MGDL, MMOLL, ReadingsBuilder, mgdl_of
from raycadian.modalities.cgm.card import CGMCard
from raycadian.modalities.cgm.formats.doses import NO_DURATION, given_over
from raycadian.modalities.cgm.repeats import names_of
from raycadian.types import BASAL, BOLUS, CARBS, MGDL_PER_MMOLL, SUBJECT, Issues, Readings

MAX_JSON_BYTES = 512 * 1024**2
_TIDEPOOL = re.compile(
    r'"type"\s*:\s*"(cbg|smbg|basal|bolus|wizard|food|insulin|upload|pumpSettings|cgmSettings|deviceEvent|physicalActivity)"'
)
_NIGHTSCOUT = re.compile(r'"(sgv|eventType|dateString|created_at)"\s*:')
_NIGHTSCOUT_TIMES = ("dateString", "created_at", "timestamp", "sysTime", "date")
_TREATMENT = ("carbs", "insulin", "enteredinsulin", "splitExt", "absolute", "rate", "duration")
_TIDEPOOL_MGDL = 18.01559  # a mmol/L, by Tidepool
_APART = np.timedelta64(90, "s")  # a rate that ends this near to the next is taken over by it


def json_format(source: Source) -> str | None:
    """Which of the two, by the names of fields in the head; None if neither."""
    if _TIDEPOOL.search(source.text):
        return "tidepool"
    return "nightscout" if _NIGHTSCOUT.search(source.text) else None


# --- Nightscout ----------------------------------------------------------------------------------------------------


def read_nightscout(source: Source, card: CGMCard, issues: Issues) -> Iterator[Readings]:
    """`entries` (sgv, mg/dL) and `treatments` (carbs, insulin, temporary basal rates), together or in two files.

    The scheduled basal rate lies in the profile, not here: after a temporary one it is unknown (NaN). Raises
    ValueError.
    """
    records = _records(source, issues)
    builder = ReadingsBuilder(source.path, card, issues, MGDL, place=" record ", events_suffice=True, serials=False)
    subject = card.named(source.path) or _nightscout_subject(source)
    entries = [i for i, r in enumerate(records) if "sgv" in r or r.get("type") == "sgv"]
    finger = [i + 1 for i, r in enumerate(records) if r.get("type") == "mbg"]
    builder.note("finger-stick or calibration (not a CGM reading)", np.array(finger))
    rows = _nightscout_rows(records, entries, ("sgv", "device"), subject, builder)
    rows["glucose"] = builder.numbers(rows["sgv"], rows["line"], "glucose")
    rows["device"] = names_of(rows["device"])
    builder.note("row without a glucose value", rows["line"][rows["sgv"].isna()])
    yield from builder.readings(rows)
    yield from _nightscout_treatments(records, subject, builder)
    builder.finish()


def _nightscout_treatments(records: list[dict], subject: str, builder: ReadingsBuilder) -> Iterator[Readings]:
    """Carbohydrate, insulin and temporary basal rates, without what was deleted."""
    treated = [i for i, r in enumerate(records) if "eventType" in r]
    deleted = [i for i in treated if records[i].get("isValid") is False]
    builder.note("treatment that its source marks deleted (left out)", np.array(deleted, dtype=np.int64) + 1)
    treated = [i for i in treated if i not in set(deleted)]
    rows = _nightscout_rows(records, treated, _TREATMENT, subject, builder)
    minutes = np.nan_to_num(builder.numbers(rows["duration"], rows["line"], "duration"))
    carbs = builder.numbers(rows["carbs"], rows["line"], CARBS)
    yield from given_over(rows, CARBS, carbs, minutes * rows["carbs"].notna(), builder)
    now, later = _nightscout_insulin(rows, builder)
    yield from given_over(rows, BOLUS, now, np.zeros(len(rows)), builder)
    yield from given_over(rows, BOLUS, later, minutes, builder)
    yield from builder.readings(_nightscout_basal(rows, builder))


def _nightscout_insulin(rows: pd.DataFrame, builder: ReadingsBuilder) -> tuple[np.ndarray, np.ndarray]:
    """Units (N,) given at once, and over the duration of a combo bolus: its `insulin` is the part given at once."""
    now, entered, share = (
        builder.numbers(rows[field], rows["line"], BOLUS) for field in ("insulin", "enteredinsulin", "splitExt")
    )
    combo = rows["eventType"].eq("Combo Bolus").to_numpy() & (share > 0) & (entered > 0)
    return np.where(combo & np.isnan(now), entered * (1 - share / 100), now), np.where(
        combo, entered * share / 100, np.nan
    )


def _nightscout_subject(source: Source) -> str:
    """entries_anna.json and treatments_anna.json are anna's; anna/entries.json too, and anna/entries_2023.json."""
    undated = re.sub(r"(?<!\d)(19|20)\d{2}([-_.]?\d{2}([-_.]?\d{2})?)?(?!\d)", "", source.stem)
    rest = re.sub(r"(?i)(?<![a-z])(nightscout|entries|treatments|to|from|until)(?![a-z])", "", undated)
    return re.sub(r"[-_. ]+", "_", rest).strip("_") or source.path.absolute().parent.name


def _nightscout_rows(
    records: list[dict], at: list[int], fields: Sequence[str], subject: str, builder: ReadingsBuilder
) -> pd.DataFrame:
    rows = _frame(records, at, (*fields, "date", "mills", "utcOffset", "eventType"), subject)
    text = [next((records[i][t] for t in _NIGHTSCOUT_TIMES if isinstance(records[i].get(t), str)), "") for i in at]
    clock, stated = builder.times(pd.Series(text, dtype=object))
    epoch_ms = _numeric(rows["date"])
    epoch_ms = np.where(np.isfinite(epoch_ms), epoch_ms, _numeric(rows["mills"]))
    offset_min = np.nan_to_num(np.where(np.nan_to_num(stated) != 0, stated, _numeric(rows["utcOffset"])))
    utc = clock_of_epoch_ms(epoch_ms)
    utc = np.where(np.isnat(utc), shift(clock, -stated), utc)
    local = ~np.isfinite(epoch_ms) & np.isnan(stated)  # only a text without an offset
    rows["clock"] = np.where(local, clock, shift(utc, offset_min))
    rows["offset_min"] = np.where(local, np.nan, offset_min)
    return rows


def _nightscout_basal(rows: pd.DataFrame, builder: ReadingsBuilder) -> pd.DataFrame:
    rows = rows[rows["eventType"].eq("Temp Basal")]
    rate = builder.numbers(rows["absolute"].where(rows["absolute"].notna(), rows["rate"]), rows["line"], BASAL)
    minutes = np.nan_to_num(builder.numbers(rows["duration"], rows["line"], "duration"))
    builder.note("temporary basal rate in percent of an unknown profile", rows["line"][np.isnan(rate) & (minutes > 0)])
    return _held(rows.assign(value=rate, end=shift(rows["clock"].to_numpy("datetime64[ns]"), minutes)))


# --- Tidepool ------------------------------------------------------------------------------------------------------


def read_tidepool(source: Source, card: CGMCard, issues: Issues) -> Iterator[Readings]:
    """cbg, bolus, wizard and food (carbohydrates), basal. Units: in each record, mmol/L if not. Raises ValueError."""
    records = _records(source, issues)
    types = [r.get("type") for r in records]
    units = [str(records[i].get("units")).lower() for i in _of_type(types, "cbg")]
    in_mgdl = np.array([unit == "mg/dl" for unit in units], dtype=bool)
    unit = MGDL if len(in_mgdl) and in_mgdl.all() else MMOLL
    builder = ReadingsBuilder(source.path, card, issues, unit, place=" record ", serials=False)
    subject = card.named(source.path) or source.stem
    builder.note("finger-stick or calibration (not a CGM reading)", _of_type(types, "smbg") + 1)
    yield from _tidepool_glucose(records, types, in_mgdl, subject, builder)
    yield from _tidepool_boluses(records, types, subject, builder)
    yield from _tidepool_pens(records, types, subject, builder)
    yield from _tidepool_carbs(records, types, subject, builder)
    yield from _tidepool_basal(records, types, subject, builder)
    builder.finish()


def _tidepool_glucose(
    records: list[dict], types: list, in_mgdl: np.ndarray, subject: str, builder: ReadingsBuilder
) -> Iterator[Readings]:
    """in_mgdl: which of the readings are; where not all are, all become mmol/L, the builder's unit."""
    rows = _tidepool_rows(records, _of_type(types, "cbg"), ("value", "units", "deviceId"), subject, builder)
    builder.note("row without a glucose value", rows["line"][rows["value"].isna()])
    glucose = builder.numbers(rows["value"], rows["line"], "glucose")
    if not (len(in_mgdl) and in_mgdl.all()):
        glucose = np.where(in_mgdl, glucose, _as_measured(glucose)) / MGDL_PER_MMOLL
    yield from builder.readings(rows.assign(glucose=glucose, device=names_of(rows["deviceId"])))


def _tidepool_boluses(records: list[dict], types: list, subject: str, builder: ReadingsBuilder) -> Iterator[Readings]:
    rows = _tidepool_rows(records, _of_type(types, "bolus"), ("normal", "extended", "duration"), subject, builder)
    now, later = (builder.numbers(rows[field], rows["line"], BOLUS) for field in ("normal", "extended"))
    minutes = np.nan_to_num(builder.numbers(rows["duration"], rows["line"], "duration")) / 60000
    builder.note(NO_DURATION, rows["line"][(later > 0) & (minutes <= 0)])
    yield from given_over(rows, BOLUS, now, np.zeros(len(rows)), builder)
    yield from given_over(rows, BOLUS, later, minutes, builder)


def _tidepool_basal(records: list[dict], types: list, subject: str, builder: ReadingsBuilder) -> Iterator[Readings]:
    """Rates in force; 0 while delivery is suspended."""
    rows = _tidepool_rows(records, _of_type(types, "basal"), ("rate", "duration", "deliveryType"), subject, builder)
    rate = builder.numbers(rows["rate"], rows["line"], BASAL)
    rate = np.where(rows["deliveryType"].eq("suspend"), 0.0, rate)
    minutes = np.nan_to_num(builder.numbers(rows["duration"], rows["line"], "duration")) / 60000
    until = shift(rows["clock"].to_numpy("datetime64[ns]"), minutes)
    yield from builder.readings(_held(rows.assign(value=rate, end=until)))


def _as_measured(mmoll: np.ndarray) -> np.ndarray:
    """mg/dL of Tidepool's mmol/L: 9.99135 was 180 mg/dL before it was stored."""
    mgdl = mmoll * _TIDEPOOL_MGDL
    return np.where(np.abs(mgdl - np.round(mgdl)) < 0.02, np.round(mgdl), mgdl_of(mmoll))


def _tidepool_pens(records: list[dict], types: list, subject: str, builder: ReadingsBuilder) -> Iterator[Readings]:
    """Doses of pens: those that act rapidly are boluses."""
    if not len(at := _of_type(types, "insulin")):
        return
    rows = _tidepool_rows(records, at, ("dose", "formulation"), subject, builder)
    rows["units"] = pd.Series([_within(dose, "total") for dose in rows["dose"]], dtype=object)
    acting = [str(_within(f, "simple", "actingType") or "rapid") for f in rows["formulation"]]
    rapid = np.array([kind in ("rapid", "short") for kind in acting], dtype=bool)
    builder.note("insulin other than fast-acting (neither a bolus nor a rate)", rows["line"][~rapid])
    yield from builder.events(rows[rapid], "units", BOLUS)


def _tidepool_carbs(records: list[dict], types: list, subject: str, builder: ReadingsBuilder) -> Iterator[Readings]:
    rows = _tidepool_rows(records, _of_type(types, "wizard"), ("carbInput", "carbUnits"), subject, builder)
    exchanges = rows["carbUnits"].eq("exchanges").to_numpy(bool)
    builder.note("carbohydrates in exchanges (grams unknown)", rows["line"][exchanges])
    yield from builder.events(rows[~exchanges], "carbInput", CARBS)
    rows = _tidepool_rows(records, _of_type(types, "food"), ("nutrition",), subject, builder)
    rows["grams"] = pd.Series([_within(n, "carbohydrate", "net") for n in rows["nutrition"]], dtype=object)
    yield from builder.events(rows, "grams", CARBS)


def _within(record: Any, *names: str) -> Any:
    """A field inside of objects; None where one of them is none."""
    for name in names:
        record = record.get(name) if isinstance(record, dict) else None
    return record


def _tidepool_rows(
    records: list[dict], at: np.ndarray, fields: Sequence[str], subject: str, builder: ReadingsBuilder
) -> pd.DataFrame:
    """`time` is UTC, `timezoneOffset` minutes; older records have both only as deviceTime - time."""
    rows = _frame(records, at.tolist(), (*fields, "time", "deviceTime", "timezoneOffset"), subject)
    clock, stated = builder.times(rows["time"])
    utc = shift(clock, -stated)
    device, _ = parse_times(rows["deviceTime"], None)
    between = (device - utc) / np.timedelta64(1, "m")
    offset_min = _numeric(rows["timezoneOffset"])
    offset_min = np.where(np.isfinite(offset_min), offset_min, np.round(between / 15) * 15)
    offset_min = np.nan_to_num(np.where(np.nan_to_num(stated) != 0, stated, offset_min))
    rows["clock"], rows["offset_min"] = shift(utc, offset_min), offset_min
    return rows


# --- both ----------------------------------------------------------------------------------------------------------


def _records(source: Source, issues: Issues) -> list[dict]:
    """The objects of a JSON list, of an object's lists, or of a file with one object a line. Raises ValueError."""
    data = read_whole(source.path, MAX_JSON_BYTES, "bytes of JSON")
    check_count(data.count(b"{") + data.count(b"["), source.path)  # each an object in memory, 20 times its two bytes
    text = data.decode(source.encoding)
    del data
    records = _parsed(text)
    if isinstance(records, dict):
        lists = [value for value in records.values() if isinstance(value, list)]
        records = [record for value in lists for record in value] if lists else [records]
    if not isinstance(records, list):
        raise ValueError(f"{source.path}: expected a JSON list of records, found {kind_of(records)}")
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            issues.add("record that is not an object", f"{source.path.name} record {number}")
    return [record if isinstance(record, dict) else {} for record in records]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise
    return json.loads("[" + ",".join(line for line in text.splitlines() if line.strip()) + "]")  # one object a line


def _frame(records: list[dict], at: list[int], fields: Sequence[str], subject: str) -> pd.DataFrame:
    rows = pd.DataFrame([[records[i].get(field) for field in fields] for i in at], columns=list(fields), dtype=object)
    return rows.assign(**{SUBJECT: subject, "line": np.array(at, dtype=np.int64) + 1})


def _of_type(types: list, wanted: str) -> np.ndarray:
    return np.array([i for i, kind in enumerate(types) if kind == wanted], dtype=np.int64)


def _numeric(values: pd.Series) -> np.ndarray:
    return pd.to_numeric(values, errors="coerce").to_numpy(np.float64)


def _held(rates: pd.DataFrame) -> pd.DataFrame:
    """Basal rates that hold from `clock` to `end`: an unknown one (NaN) follows where no other takes over."""
    rates = rates[rates["clock"].notna()].sort_values("clock", kind="stable").assign(kind=BASAL)
    following = rates["clock"].shift(-1)
    alone = ~(following <= rates["end"] + _APART)
    after = rates[alone].assign(clock=rates["end"][alone], value=np.nan)
    return pd.concat([rates, after]).sort_values("clock", kind="stable") if len(after) else rates
