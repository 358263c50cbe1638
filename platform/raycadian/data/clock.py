"""What files say about time, as UTC and the local offset: physiology needs local hours.

A file gives each reading a clock: a wall-clock time and, where it says so, its UTC offset in minutes (UTC = clock -
offset). Where it doesn't, the clock is local to the card's time zone; without one the clock is kept and its offset is
0.
"""

import itertools
import re
import warnings
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from functools import cache
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from raycadian.config.units import known_zone

YEARS = np.datetime64("1990-01-01"), np.datetime64("2100-01-01")  # a clock that was never set is outside
WILD = "time outside 1990-2099"
_OFFSET = r":\d{2}(?:[.,]\d+)?\s*(Z|UTC|[+-]\d{2}(?::?\d{2})?)$"
EPOCHS_MS = {"epoch_s": 1000.0, "epoch_ms": 1.0, "epoch_us": 1e-3, "epoch_ns": 1e-6}
"""Formats of times that are numbers, with their milliseconds."""
SERIAL = "excel_days"
"""Format of times that are days since 1899-12-30, as workbooks count them, on a local clock."""
_SERIAL_DAY_0 = np.datetime64("1899-12-30T00:00:00")
MONTHS = (
    ("jan", "janv", "ene", "gen", "sty", "jän"), ("feb", "fév", "fev", "févr", "lut"), ("mar", "mär", "mrz", "mars",
    "mrt"),
    ("apr", "avr", "abr", "avril", "kwi"), ("may", "mai", "mag", "mei", "maj"), ("jun", "juin", "giu", "cze"),
    ("jul", "juil", "lug", "lip"), ("aug", "août", "aou", "ago", "sie", "aoû"), ("sep", "sept", "set", "wrz"),
    ("oct", "okt", "ott", "out", "paź"), ("nov", "lis"), ("dec", "dez", "déc", "dic", "gru"),
)  # fmt: skip
"""January to December, as exports abbreviate them."""
_ENGLISH = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_SPACES = str.maketrans("\u00a0\u202f\u2009", "   ")  # what newer systems write before AM and PM
_HALF_OF_DAY = re.compile(r"(?<=[\d ])([ap])\. ?m\.?$", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]{3,}\.?")
_CLOCK_PARTS = re.compile(r"[ T]*%[HI].*$")  # of a format of times: what a midnight may lack
DAY_S = 86_400
CHANGED = "reading before a change of the clock within the context (its local hour taken by the present clock)"
_DISORDERED = 0.1  # of steps against the order of rows that still have one
_MINUTE = np.timedelta64(1, "m")
_BACK = np.timedelta64(15, "m")  # what is seen of a clock set back by 30 min (Lord Howe) between readings 15 min apart


def parse_times(text: pd.Series, time_format: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Clocks (N,) datetime64[ns], NaT where not understood, and offsets (N,) in minutes, NaN where none is stated.

    ISO 8601 unless a strptime `time_format` is given (then only its %z is an offset); `epoch_s`, `epoch_ms`, `epoch_us`
    and `epoch_ns` count from 1970 in UTC. A date alone is midnight: some programs leave its clock out.
    """
    if time_format in EPOCHS_MS:
        epoch_ms = EPOCHS_MS[time_format] * pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
        return clock_of_epoch_ms(epoch_ms), np.zeros(len(text))
    if time_format == SERIAL:
        return _clock_of_days(text), _unknown(len(text))
    trimmed = pc.utf8_trim_whitespace(pa.array(text.astype(str), pa.string()))
    text, style = trimmed.to_pandas(), time_format or "ISO8601"
    with_offset = "%z" in style if time_format else pc.any(pc.match_substring_regex(trimmed, _OFFSET)).as_py()
    if not with_offset:
        return _midnights(text, style, _without_offsets(text, style)), _unknown(len(text))
    offset_min = _offset_min(text.str.extract(_OFFSET, expand=False))
    known = ~np.isnan(offset_min)
    utc = pd.to_datetime(text.where(known), format=style, errors="coerce", utc=True).dt.tz_localize(None)
    local = _without_offsets(text.mask(known), style).to_numpy("datetime64[ns]")
    return np.where(known, shift(utc.to_numpy("datetime64[ns]"), offset_min), local), offset_min


def _without_offsets(text: pd.Series, style: str) -> pd.Series:
    """Clocks of texts that state no offset; NaT of one that pandas takes for an offset all the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of mixed offsets
        clock = pd.to_datetime(text, format=style, errors="coerce")
    if clock.dtype == object or clock.dt.tz is not None:
        clock = pd.to_datetime(clock.map(lambda time: pd.NaT if getattr(time, "tzinfo", None) else time))
    return clock


def _midnights(text: pd.Series, style: str, clock: pd.Series) -> np.ndarray:
    """The clocks (N,), with those of dates that lack their 00:00."""
    date_alone = _CLOCK_PARTS.sub("", style)
    odd = clock.isna().to_numpy()
    if odd.any() and date_alone not in ("", style):
        clock = clock.fillna(pd.to_datetime(text.where(odd), format=date_alone, errors="coerce"))
    if clock.isna().any() and len(plain := _plain_texts(text[clock.isna()])):
        clock = clock.fillna(pd.to_datetime(plain, format=style, errors="coerce"))
    return clock.to_numpy("datetime64[ns]")


def read_turned(text: pd.Series, time_format: str | None) -> int:
    """How many of the texts a format reads once its day and month change places."""
    if time_format is None or not len(text) or "%d" not in time_format or "%m" not in time_format:
        return 0
    turned = time_format.replace("%d", "\0").replace("%m", "%d").replace("\0", "%m")
    return int(pd.to_datetime(text.astype(str).str.strip(), format=turned, errors="coerce").notna().sum())


def _plain_texts(text: pd.Series) -> pd.Series:
    """Those of the texts that are written otherwise once they are plain, each read once."""
    plain = {one: plain_time(one) for one in text.unique()}
    other = text.map(plain)
    return other[other != text]


def plain_time(text: str) -> str:
    """A time as strptime takes it: AM and PM of `a. m.`, blanks of narrow ones, an English month of another
    language's."""
    text = _HALF_OF_DAY.sub(lambda half: f"{half[1].upper()}M", text.translate(_SPACES))
    word = _WORD.search(text)
    number = month_of(word[0]) if word is not None else None
    if word is None or number is None or word[0].title() in (_ENGLISH[number], _ENGLISH[number][:3]):
        return text
    return text[: word.start()] + _ENGLISH[number][:3] + text[word.end() :]


def month_of(word: str) -> int | None:
    """0 to 11 of a month's name, whole or short, in a language of exports; None for another word."""
    word = word.lower().rstrip(".")
    shorter = (word, *((word[:4], word[:3]) if len(word) > 4 else ()))
    return next((n for short in shorter for n, names in enumerate(MONTHS) if short in names), None)


def _clock_of_days(text: pd.Series) -> np.ndarray:
    """Clocks (N,) of days since 1899-12-30, to the second: a day's fraction holds no more."""
    days = pd.to_numeric(text.astype(str).str.replace(",", ".", regex=False), errors="coerce").to_numpy(np.float64)
    usable = np.isfinite(days) & (np.abs(days) < 1e5)
    seconds = np.round(np.where(usable, days, 0) * DAY_S).astype("timedelta64[s]")
    return np.where(usable, (_SERIAL_DAY_0 + seconds).astype("datetime64[ns]"), np.datetime64("NaT", "ns"))


def is_wild(clock: np.ndarray, first: np.datetime64 = YEARS[0]) -> np.ndarray:
    """True (N,) for clocks that nobody's recording can have; NaT is none of them."""
    return (clock < first) | (clock >= YEARS[1])


def clock_of_epoch_ms(epoch_ms: np.ndarray) -> np.ndarray:
    """UTC (N,) datetime64[ns] of milliseconds since 1970; NaT where not finite or out of range."""
    usable = np.isfinite(epoch_ms) & (np.abs(epoch_ms) < 8e12)
    ms = np.where(usable, epoch_ms, 0).astype("int64").astype("datetime64[ms]").astype("datetime64[ns]")
    return np.where(usable, ms, np.datetime64("NaT", "ns"))


def shift(clock: np.ndarray, minutes: np.ndarray) -> np.ndarray:
    """Clocks moved by minutes (NaN moves nothing)."""
    return clock + np.round(np.nan_to_num(minutes) * 60).astype("timedelta64[s]")


def offset_at(utc: np.ndarray, zone: str) -> np.ndarray:
    """Minutes (N,) int64 that local time is ahead of UTC at instants (N,) datetime64, none of them NaT. Raises
    ValueError for what is no time zone."""
    return _offset_s(utc.astype("datetime64[s]").astype(np.int64), zone) // 60


def repeated(clock: np.ndarray, zone: str) -> np.ndarray:
    """True (N,) for local times that happen twice: the clock is set back in them."""
    first, second = _localised(clock, zone, True), _localised(clock, zone, False)
    return (first != second) & ~np.isnat(first)


def second_time(clock: np.ndarray, repeated: np.ndarray, before: tuple[np.datetime64, bool] | None) -> np.ndarray:
    """Which repeated clocks (N,) are their second time, told from the order of one subject's rows: those after the
    clock jumped back within the repeated hour. Rows that were sorted by the clock show no jump but have most clocks
    of the hour twice: then the second row of each is the second time. Where neither shows, the first time is taken.
    `before` is the clock and the answer of the row before, if that was in a repeated hour."""
    if before is None:
        before = (np.datetime64("NaT", "ns"), False)
    clock = np.concatenate([[before[0]], clock])
    inside = np.concatenate([[not np.isnat(before[0])], repeated])
    jumped = np.concatenate([[before[1]], inside[1:] & inside[:-1] & (np.diff(clock) <= -_BACK)])
    jumps = np.cumsum(jumped)
    entered = inside & ~np.concatenate([[False], inside[:-1]])
    start = np.maximum.accumulate(np.where(entered, np.arange(len(clock)), 0))
    at_start = jumps[start] - jumped[start]
    second = inside & (jumps > at_start)
    return (second | _sorted_twice(clock, inside, start, second))[1:]


def _sorted_twice(clock: np.ndarray, inside: np.ndarray, start: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The second row of each clock (N,) in repeated hours whose clocks mostly stand there twice, one behind the
    other."""
    twice = np.zeros(len(clock), dtype=bool)
    for begin in np.unique(start[inside]):
        hour = np.flatnonzero(inside & (start == begin))
        clocks, counts = np.unique(clock[hour], return_counts=True)
        if len(clocks) > 1 and (counts == 2).mean() > 0.5 and not second[hour].any():
            twice[hour[1:][np.diff(clock[hour]) == np.timedelta64(0)]] = True
    return twice


def second_time_in_order(clock: np.ndarray, zone: str) -> tuple[np.ndarray, np.ndarray]:
    """Which clocks (N,) of one person, oldest or newest first, happen twice, and which are the second time. Raises
    ValueError where clocks that do stand in no order."""
    twice, steps = repeated(clock, zone), np.sign(np.diff(clock).astype(np.int64))
    if not twice.any():
        return twice, twice
    forward, back = (int((steps == sign).sum()) for sign in (1, -1))
    turn = slice(None, None, -1 if back > forward else 1)
    second = second_time(clock[turn], twice[turn], None)[turn]
    utc, _ = to_utc(clock[turn], zone, second[turn])
    if min(forward, back) > _DISORDERED * len(steps) or (np.diff(utc[twice[turn]]) <= -_BACK).any():
        raise ValueError(
            f"{int(twice.sum())} of the times show an hour that happens twice in {zone}, told by their order, and are "
            "neither oldest nor newest first; sort them, or state offsets, such as +02:00"
        )
    return twice, second


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
    """UTC (N,) datetime64[ns] of local clocks, NaT of those that never were; of two `daylight` says the first."""
    shown_s = clock.astype("datetime64[s]").astype(np.int64)
    before, after = (_offset_s(shown_s + shift_s, zone) for shift_s in (-DAY_S, DAY_S))
    earlier, later = shown_s - before, shown_s - after
    first, second = (_offset_s(utc_s, zone) == offset for utc_s, offset in ((earlier, before), (later, after)))
    as_before = first & (daylight | ~second)
    utc = clock.astype("datetime64[ns]") - np.where(as_before, before, after).astype("timedelta64[s]")
    return np.where((first | second) & ~np.isnat(clock), utc, np.datetime64("NaT", "ns"))


def _offset_s(utc_s: np.ndarray, zone: str) -> np.ndarray:
    """Seconds (N,) int64 that local time is ahead of UTC at seconds since 1970."""
    years = utc_s.astype("datetime64[s]").astype("datetime64[Y]").astype(np.int64) + 1970
    offset_s = np.empty(len(utc_s), np.int64)
    for year in np.unique(years):
        of_year = years == year
        if MINYEAR < year < MAXYEAR:
            changes_s, offsets_s = _changes(zone, int(year))
            offset_s[of_year] = offsets_s[np.searchsorted(changes_s, utc_s[of_year], side="right")]
        else:  # NaT, and what no calendar has
            offset_s[of_year] = 0
    return offset_s


@cache
def _changes(zone: str, year: int) -> tuple[np.ndarray, np.ndarray]:
    """When in a year, by UTC, the offset changes (C,), and the offsets before, between and after (C+1,); seconds."""
    known_zone(zone)
    known = ZoneInfo(zone)
    begin, end = (int(datetime(y, 1, 1, tzinfo=UTC).timestamp()) for y in (year, year + 1))
    days = range(begin, end, DAY_S)
    offsets = [_seconds_ahead(known, day) for day in (*days, end - 1)]
    changed = [i for i, (one, next_one) in enumerate(itertools.pairwise(offsets)) if one != next_one]
    changes = [_change_between(known, begin + i * DAY_S, min(begin + (i + 1) * DAY_S, end - 1)) for i in changed]
    return np.array(changes, np.int64), np.array([offsets[0], *(offsets[i + 1] for i in changed)], np.int64)


def _change_between(zone: ZoneInfo, before_s: int, after_s: int) -> int:
    """The first second of the offset that is there at `after_s`."""
    old = _seconds_ahead(zone, before_s)
    while after_s - before_s > 1:
        middle = (before_s + after_s) // 2
        before_s, after_s = (middle, after_s) if _seconds_ahead(zone, middle) == old else (before_s, middle)
    return after_s


def _seconds_ahead(zone: ZoneInfo, utc_s: int) -> int:
    ahead = datetime.fromtimestamp(utc_s, zone).utcoffset()
    return 0 if ahead is None else round(ahead.total_seconds())


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
