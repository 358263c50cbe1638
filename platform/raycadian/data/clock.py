"""What files say about time, as UTC and the local offset: physiology needs local hours.

A file gives each reading a clock: a wall-clock time and, where it says so, its UTC offset in minutes (UTC = clock -
offset). Where it doesn't, the clock is local to the card's time zone; without one the clock is kept and its offset is
0.
"""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

_OFFSET = r":\d{2}(?:[.,]\d+)?\s*(Z|UTC|[+-]\d{2}(?::?\d{2})?)$"
EPOCHS_MS = {"epoch_s": 1000.0, "epoch_ms": 1.0}  # formats of times that are numbers, with their milliseconds
_MINUTE = np.timedelta64(1, "m")
_BACK = np.timedelta64(15, "m")  # what is seen of a clock set back by 30 min (Lord Howe) between readings 15 min apart


def parse_times(text: pd.Series, time_format: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Clocks (N,) datetime64[ns], NaT where not understood, and offsets (N,) in minutes, NaN where none is stated.

    ISO 8601 unless a strptime `time_format` is given (then only its %z is an offset); `epoch_s` and `epoch_ms` count
    from 1970 in UTC.
    """
    if time_format in EPOCHS_MS:
        epoch_ms = EPOCHS_MS[time_format] * pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
        return clock_of_epoch_ms(epoch_ms), np.zeros(len(text))
    trimmed = pc.utf8_trim_whitespace(pa.array(text.astype(str), pa.string()))
    text, style = trimmed.to_pandas(), time_format or "ISO8601"
    with_offset = "%z" in style if time_format else pc.any(pc.match_substring_regex(trimmed, _OFFSET)).as_py()
    if not with_offset:
        return pd.to_datetime(text, format=style, errors="coerce").to_numpy("datetime64[ns]"), _unknown(len(text))
    offset_min = _offset_min(text.str.extract(_OFFSET, expand=False))
    known = ~np.isnan(offset_min)
    utc = pd.to_datetime(text.where(known), format=style, errors="coerce", utc=True).dt.tz_localize(None)
    local = pd.to_datetime(text.mask(known), format=style, errors="coerce").to_numpy("datetime64[ns]")
    return np.where(known, shift(utc.to_numpy("datetime64[ns]"), offset_min), local), offset_min


def clock_of_epoch_ms(epoch_ms: np.ndarray) -> np.ndarray:
    """UTC (N,) datetime64[ns] of milliseconds since 1970; NaT where not finite or out of range."""
    usable = np.isfinite(epoch_ms) & (np.abs(epoch_ms) < 8e12)
    ms = np.where(usable, epoch_ms, 0).astype("int64").astype("datetime64[ms]").astype("datetime64[ns]")
    return np.where(usable, ms, np.datetime64("NaT", "ns"))


def shift(clock: np.ndarray, minutes: np.ndarray) -> np.ndarray:
    """Clocks moved by minutes (NaN moves nothing)."""
    return clock + np.round(np.nan_to_num(minutes) * 60).astype("timedelta64[s]")


def offset_at(utc: np.ndarray, zone: str) -> np.ndarray:
    """Minutes (N,) int64 that local time is ahead of UTC at instants."""
    local = pd.DatetimeIndex(utc, tz="UTC").tz_convert(zone).tz_localize(None).to_numpy("datetime64[ns]")
    return ((local - utc) // _MINUTE).astype(np.int64)


def repeated(clock: np.ndarray, zone: str) -> np.ndarray:
    """True (N,) for local times that happen twice: the clock is set back in them."""
    first, second = _localised(clock, zone, True), _localised(clock, zone, False)
    return (first != second) & ~np.isnat(first)


def second_time(clock: np.ndarray, repeated: np.ndarray, before: tuple[np.datetime64, bool] | None) -> np.ndarray:
    """Which repeated clocks (N,) are their second time, told from the order of one subject's rows: those after the
    clock jumped back within the repeated hour. Where no jump shows, the first time is taken. `before` is the clock and
    the answer of the row before, if that was in a repeated hour."""
    if before is None:
        before = (np.datetime64("NaT", "ns"), False)
    clock = np.concatenate([[before[0]], clock])
    inside = np.concatenate([[not np.isnat(before[0])], repeated])
    jumped = np.concatenate([[before[1]], inside[1:] & inside[:-1] & (np.diff(clock) <= -_BACK)])
    jumps = np.cumsum(jumped)
    entered = inside & ~np.concatenate([[False], inside[:-1]])
    start = np.maximum.accumulate(np.where(entered, np.arange(len(clock)), 0))
    at_start = jumps[start] - jumped[start]
    return (inside & (jumps > at_start))[1:]


def offset_by_elapsed(
    clock: np.ndarray, elapsed_s: np.ndarray, sensor: np.ndarray, zone: str | None
) -> np.ndarray | None:
    """Offsets (N,) in minutes of clocks that a sensor's own seconds (N,), which never jump, stand beside.

    Between two rows of one sensor the clock gains on the elapsed time only when the offset changes: DST or travel. Rows
    are in the order of elapsed time within each sensor, sensors in turn. The first row has the zone's offset (0 without
    one); what the clock is away from the zone at the end of one sensor, it is at the beginning of the next. None where
    the gain is no offset (not near a quarter of an hour, or beyond a day): the seconds are not one sensor's.
    """
    offset_min, away = np.zeros(len(clock)), 0.0
    for name in pd.unique(sensor):
        own, elapsed = clock[sensor == name], elapsed_s[sensor == name]
        gain_min = (own - own[0]) / _MINUTE - (elapsed - elapsed[0]) / 60
        gained = np.round(gain_min / 15) * 15
        if np.abs(gain_min - gained).max() > 6 or np.abs(gained).max() > 26 * 60:
            return None
        offsets = gained + away + (_zone_offset(shift(own[:1], np.array([-away])), zone) if zone else 0)
        offset_min[sensor == name] = offsets
        away = offsets[-1] - (float(offset_at(shift(own[-1:], -offsets[-1:]), zone)[0]) if zone else 0.0)
    return offset_min


def _zone_offset(clock: np.ndarray, zone: str) -> np.ndarray:
    utc, _ = to_utc(clock, zone, np.zeros(len(clock), dtype=bool))
    return offset_at(utc, zone)


def to_utc(clock: np.ndarray, zone: str, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """UTC (N,) of local clocks, and whether each exists. One that the clock skipped in spring keeps the offset from
    before the change (PEP 495): a device that had not been set forward yet."""
    utc = _localised(clock, zone, ~second)
    exists = ~np.isnat(utc)
    if not exists.all():
        earlier = _localised(clock - np.timedelta64(6, "h"), zone, True)
        utc = np.where(exists, utc, earlier + np.timedelta64(6, "h"))
    return utc, exists


def _localised(clock: np.ndarray, zone: str, daylight: bool | np.ndarray) -> np.ndarray:
    # the zone goes in by name: pandas ignores `ambiguous` and `nonexistent` for ZoneInfo objects
    daylight = np.broadcast_to(daylight, clock.shape).copy()
    local = pd.DatetimeIndex(clock).tz_localize(zone, ambiguous=daylight, nonexistent="NaT")
    return local.tz_convert("UTC").tz_localize(None).to_numpy("datetime64[ns]")


def _offset_min(stated: pd.Series) -> np.ndarray:
    """Z, +02:00, +0200 or +02 as minutes; NaN where none. Few distinct values, so each is read once."""
    values = {text: _minutes_of(text) for text in stated.dropna().unique()}
    return stated.map(values).to_numpy(np.float64) if values else _unknown(len(stated))


def _minutes_of(text: str) -> float:
    if text in ("Z", "UTC"):
        return 0.0
    digits = text[1:].replace(":", "").ljust(4, "0")
    return (-1 if text[0] == "-" else 1) * (60.0 * int(digits[:2]) + int(digits[2:]))


def _unknown(n: int) -> np.ndarray:
    return np.full(n, np.nan)
