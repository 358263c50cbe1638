"""One person's readings in a Series or a DataFrame, with the checks that files meet."""

import warnings
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from raycadian.config.units import known_zone
from raycadian.data import clock
from raycadian.files import kind_of
from raycadian.modalities.cgm.builder import MMOLL
from raycadian.modalities.cgm.plausible import OutOfRange
from raycadian.modalities.cgm.request import History, to_mgdl
from raycadian.modalities.columns import SUBJECTS, plain
from raycadian.modalities.conflicts import are_few, tell_apart
from raycadian.types import MGDL_PER_MMOLL, Issues


def history_of(
    readings: pd.Series | pd.DataFrame, unit: str, timezone: str | None, person: str | None = None
) -> tuple[History, Any]:
    """In mg/dL and UTC, and the zone of the answer. Raises ValueError."""
    times, glucose = _columns(_of_person(readings, person))
    zone = timezone or times.tz
    if zone is None:
        raise ValueError("the times have no zone: give timezone='Europe/Madrid', or 'UTC', or localise the times")
    known_zone(timezone)
    issues = Issues()
    mgdl = to_mgdl(glucose, unit, issues)
    _require_plausible(glucose, times, unit)
    for kind, n in issues.counts.items():
        warnings.warn(f"{n} of {len(glucose)} readings: {kind}", stacklevel=4)
    utc = _from_clock(times, zone) if times.tz is None else times.tz_convert("UTC").tz_localize(None)
    local = utc.tz_localize("UTC").tz_convert(zone_of(zone)).tz_localize(None)
    offset_min = ((local - utc) // pd.Timedelta(minutes=1)).to_numpy(np.int64)
    seconds = utc.to_numpy("datetime64[s]").astype(np.int64)
    return History(None, seconds, mgdl, offset_min, issues=issues), zone


def _require_plausible(glucose: np.ndarray, times: pd.DatetimeIndex, unit: str) -> None:
    """Raises ValueError where more than a few values can't be glucose, as for a file."""
    checked, clocks = OutOfRange(), times.tz_localize(None).to_numpy("datetime64[ns]")
    checked.add(glucose, glucose * per_mgdl(unit), np.arange(len(glucose)), clocks)
    checked.require_few(Path("readings"), unit, " row ")


def _from_clock(times: pd.DatetimeIndex, zone: str) -> pd.DatetimeIndex:
    """UTC of a local clock; an hour that happens twice is told by the order."""
    shown = times.to_numpy("datetime64[ns]")
    _, second = clock.second_time_in_order(shown, zone)
    return pd.DatetimeIndex(clock.to_utc(shown, zone, second)[0])


def zone_of(zone: Any) -> Any:
    """A zone by name as the library has it that knows all names."""
    return ZoneInfo(zone) if isinstance(zone, str) else zone


def _columns(readings: pd.Series | pd.DataFrame) -> tuple[pd.DatetimeIndex, np.ndarray]:
    """Times and values of one person. Raises ValueError where they can't be told."""
    if not isinstance(readings, pd.Series | pd.DataFrame):
        raise ValueError(
            f"readings: expected a Series, a DataFrame or the path of an export, found {kind_of(readings)}"
        )
    if isinstance(readings, pd.DataFrame):
        _require_one_person(readings)
        _require_few_conflicts(readings)
        if "glucose" not in readings:
            raise ValueError(
                f"readings: expected a column glucose, found {', '.join(map(str, readings.columns))}; rename it, or "
                "give the path of the file, whose columns are recognised"
            )
        readings = readings.set_index("time")["glucose"] if "time" in readings else readings["glucose"]
    if not isinstance(readings.index, pd.DatetimeIndex):
        raise ValueError(
            f"readings: expected times, found an index of {readings.index.dtype}; give a column time as timestamps, "
            "e.g. pd.to_datetime(readings.time, format='%d/%m/%Y %H:%M'): text may be day first or month first"
        )
    if readings.index.isna().any():
        raise ValueError(f"readings: {readings.index.isna().sum()} of {len(readings)} have no time; leave them out")
    try:
        return readings.index, readings.to_numpy(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"readings: expected numbers ({error}); convert them") from None


def _of_person(readings: Any, person: str | None) -> Any:
    """The rows of one person. Raises ValueError where nothing tells people apart, or nobody is called so."""
    if person is None:
        return readings
    columns = [c for c in getattr(readings, "columns", []) if plain(str(c)) in SUBJECTS]
    if not columns:
        raise ValueError("readings: no column tells people apart; leave out person, and choose the rows yourself")
    own = readings[readings[columns[0]].astype(str) == str(person)]
    if own.empty:
        there = ", ".join(sorted(readings[columns[0]].astype(str).unique())[:20])
        raise ValueError(f"readings: no person {person!r} in the column {columns[0]}; there are {there}")
    return own


def _require_few_conflicts(readings: pd.DataFrame) -> None:
    """Raises ValueError where several people are under one name."""
    if not {"time", "glucose"} <= set(readings.columns):
        return
    values = readings.groupby("time")["glucose"].transform("first")
    conflicting = int((readings["glucose"].notna() & (readings["glucose"] != values)).sum())
    if not are_few(conflicting, len(readings)):
        columns = [name for name, _ in tell_apart(readings, {"time", "glucose"}, "time")]
        how = f"; the column {columns[0]!r} may tell them apart: choose one of them" if columns else ""
        raise ValueError(
            f"readings: {conflicting:,} of {len(readings):,} have another value at the same time: several people, or "
            f"devices, in one table{how}"
        )


def _require_one_person(readings: pd.DataFrame) -> None:
    for column in readings.columns:
        if plain(str(column)) in SUBJECTS and (people := readings[column].nunique()) > 1:
            raise ValueError(
                f"readings: expected one person, found {people} in the column {column}; choose one, e.g. "
                f'person="{readings[column].iloc[-1]}"'
            )


def per_mgdl(unit: str) -> float:
    return MGDL_PER_MMOLL if unit == MMOLL else 1.0
