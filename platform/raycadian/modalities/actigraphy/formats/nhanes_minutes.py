"""NHANES's activity by the minute, a person at a time from files of any size: counts of 2003-06, MIMS of 2011-14.

Public files give weekday and clock, no date: recordings begin in the week of Sunday 2 January 2000, their clock kept as
local time. 2003-06: PAXINTEN, minute PAXN (1..10080) from the midnight that begins the first day. 2011-14: PAXMTSM
(-0.01: not computable), minute PAXSSNMP / 4800 from the clock PAXFTIME on the weekday PAXFDAY of PAXHD, up to the clock
PAXETLDY on the day of wear PAXLDAY; the first and last day are partial; PAXPREDM 3 is not worn, PAXQFM above 0 bad.
(PAXAISMM, often taken for activity, counts idle-sleep samples.)
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from raycadian.modalities.actigraphy import nhanes
from raycadian.modalities.actigraphy.formats.xpt import BLOCK_ROWS, Xpt
from raycadian.modalities.actigraphy.nhanes import subject_ids
from raycadian.physiology.rhythms.wear import rule_of
from raycadian.types import ACTIVITY_COUNTS, ACTIVITY_MIMS, Issues, Recording

SUNDAY = np.datetime64("2000-01-02T00:00:00", "s")
WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
COUNT_MINUTES = 10_080
MOST_COUNTS = 32_767.0  # the monitor's counter is full: a fault, not movement
SAMPLES_A_MINUTE = 4_800  # 80 Hz
MOST_MIMS_MINUTES = 10 * 1_440
_COUNTS = ("SEQN", "PAXSTAT", "PAXCAL", "PAXDAY", "PAXN", "PAXINTEN")
_MIMS = ("SEQN", "PAXSSNMP", "PAXMTSM", "PAXPREDM", "PAXQFM")
_MONITORS = ("SEQN", "PAXFDAY", "PAXFTIME", "PAXLDAY", "PAXETLDY")
_MINUTE, _DAY = np.timedelta64(60, "s"), np.timedelta64(86_400, "s")

Span = tuple[np.datetime64, np.datetime64]
Person = tuple[str, dict[str, np.ndarray]]


def read_counts(xpt: Xpt, wear: str, issues: Issues, begin: int = 0, end: int | None = None) -> Iterator[Recording]:
    """Recordings of PAXRAW of the people whose first row lies in [begin, end). A count a minute; `observed` where worn
    by the rule `wear`. People whose monitor was out of calibration (PAXCAL) or unreliable (PAXSTAT) are left out, and
    counted. Raises ValueError."""
    for subject, rows in people_of(xpt, _COUNTS, begin, end):
        if not (np.all(rows["PAXSTAT"] == 1) and np.all(rows["PAXCAL"] == 1)):
            issues.add("monitor unreliable or out of calibration (person left out)", f"SEQN {subject}")
            continue
        minute = _minutes(rows["PAXN"] - 1, COUNT_MINUTES, f"{xpt.path.name}: SEQN {subject}: PAXN", issues)
        counts = _placed(rows["PAXINTEN"], minute, COUNT_MINUTES)
        full = counts >= MOST_COUNTS
        issues.add(
            "minute with a full or negative counter (missing)", f"SEQN {subject}", int((full | (counts < 0)).sum())
        )
        counts[full | (counts < 0)] = np.nan
        if np.isnan(counts[-1]):
            issues.add("recording of fewer than 10,080 minutes", f"SEQN {subject}")
        start = weekday_start(_first_weekday(rows["PAXDAY"], minute, f"{xpt.path.name}: SEQN {subject}"))
        yield from _recording(subject, start, ACTIVITY_COUNTS, counts, rule_of(wear, "hip")(counts), issues)


def read_mims(xpt: Xpt, monitors: Xpt, issues: Issues, begin: int = 0, end: int | None = None) -> Iterator[Recording]:
    """Recordings of PAXMIN, begun when PAXHD (`monitors`) says. MIMS a minute, NaN where not computable or of bad
    quality; `observed` where also worn. Raises ValueError."""
    spans = monitor_spans(monitors)
    for subject, rows in people_of(xpt, _MIMS, begin, end):
        if subject not in spans:
            issues.add("person without a row in PAXHD (left out)", f"SEQN {subject}")
            continue
        start, end = spans[subject]
        since = rows["PAXSSNMP"] / SAMPLES_A_MINUTE
        minute = _minutes(since, MOST_MIMS_MINUTES, f"{xpt.path.name}: SEQN {subject}: PAXSSNMP / 4800", issues)
        n = int(minute.max(initial=-1)) + 1
        mims, worn = _placed(rows["PAXMTSM"], minute, n), _placed(_codes(rows["PAXPREDM"]) != 3, minute, n) == 1
        bad = (mims < 0) | (_placed(_codes(rows["PAXQFM"]), minute, n) > 0)
        issues.add("minute of bad quality (missing)", f"SEQN {subject}", int(bad.sum()))
        mims[bad] = np.nan
        if abs(start + n * _MINUTE - end) > 2 * _MINUTE:
            issues.add("recording that doesn't end when its monitor did (PAXLDAY, PAXETLDY)", f"SEQN {subject}")
        yield from _recording(subject, start, ACTIVITY_MIMS, mims, worn & ~np.isnan(mims), issues)


def people_of(xpt: Xpt, names: tuple[str, ...], begin: int = 0, end: int | None = None) -> Iterator[Person]:
    """Each person's rows together: those whose first row lies in [begin, end), whole. Memory holds one block and one
    person. Raises ValueError where a person's rows don't lie together, or the columns are of another table."""
    xpt.require(*names)
    end = xpt.rows if end is None else end
    before = xpt.read(["SEQN"], begin - 1, begin)["SEQN"][0] if begin else np.nan
    seen: set[float] = set()
    parts: list[dict[str, np.ndarray]] = []
    step = min(BLOCK_ROWS, end - begin + 1)  # one more: the next person's first row ends the last person
    for first in range(begin, xpt.rows, step):
        block = xpt.read(names, first, first + step)
        seqn = block["SEQN"]
        edges = np.flatnonzero(seqn != np.concatenate([[before], seqn[:-1]]))
        for i, (a, b) in enumerate(pairwise([0, *edges, len(seqn)])):
            if i:  # a person begins; the stretch before the first edge goes on with the one before
                if parts:
                    yield _person(parts)
                parts = []
                if first + a >= end:
                    return
                _once(seqn[a], seen, xpt, first + a)
            if seen and b > a:
                parts.append({name: values[a:b] for name, values in block.items()})
        before = seqn[-1]
    if parts:
        yield _person(parts)


def people_rows(xpt: Xpt) -> list[tuple[str, int, int]]:
    """Each person's subject and rows [begin, end), from SEQN alone. Raises ValueError where they don't lie together."""
    before, edges, firsts = np.nan, [], []
    for number, block in enumerate(xpt.blocks(["SEQN"])):
        seqn = block["SEQN"]
        at = np.flatnonzero(seqn != np.concatenate([[before], seqn[:-1]]))
        edges.append(at + number * BLOCK_ROWS)
        firsts.append(seqn[at])
        before = seqn[-1]
    begins, seqn = np.concatenate([[], *edges]).astype(np.int64), np.concatenate([[], *firsts])
    seen: set[float] = set()
    for one, begin in zip(seqn, begins, strict=True):
        _once(one, seen, xpt, int(begin))
    ends = [*begins[1:].tolist(), xpt.rows]
    return list(zip(subject_ids(seqn).tolist(), begins.tolist(), ends, strict=True))


def monitor_spans(monitors: Xpt) -> dict[str, Span]:
    """When each person's monitor began and ended, by subject, from the week that stands for all on: at PAXFTIME
    (HH:MM:SS) on the weekday PAXFDAY (1 = Sunday to 7, or its name); at PAXETLDY of the day of wear PAXLDAY (1 to 9).
    Raises ValueError."""
    monitors.require(*_MONITORS)
    return _spans(monitors.path, monitors.path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _spans(path: Path, _: int) -> dict[str, Span]:
    """Of a file at its time of writing: read once, though people are read one at a time."""
    table = Xpt.open(path).frame(_MONITORS)
    spans: dict[str, Span] = {}
    for subject, row in zip(subject_ids(table["SEQN"]), table.itertuples(index=False), strict=True):
        if not row.PAXFTIME and not row.PAXFDAY:
            continue  # a monitor without data: PAXSTS is 2, and the rest blank
        span = _span(row.PAXFDAY, row.PAXFTIME, row.PAXLDAY, row.PAXETLDY)
        if span is None or subject in spans:
            raise ValueError(
                f"{path}: SEQN {subject}: the monitor ran from PAXFDAY {row.PAXFDAY!r}, PAXFTIME {row.PAXFTIME!r} to "
                f"PAXLDAY {row.PAXLDAY!r}, PAXETLDY {row.PAXETLDY!r}; expected one row a person, a weekday from 1 "
                "(Sunday) to 7, a day of wear from 1 to 9 and clocks HH:MM:SS; download it again"
            )
        spans[subject] = span
    return spans


def _span(weekday: str, begins: str, last_day: str, ends: str) -> Span | None:
    """None where one of them is none."""
    first, begin, end = _weekday(weekday), _since_midnight(begins), _since_midnight(ends)
    if first is None or begin is None or end is None or last_day not in tuple("123456789"):
        return None
    # 00:00:00 after a day's last minute is the midnight that ends it
    end += _DAY * (int(last_day) - (end > np.timedelta64(0, "s")))
    return weekday_start(first) + begin, weekday_start(first) + end


def _weekday(text: str) -> int | None:
    """0 = Sunday of a code (1 = Sunday to 7) or a name; None where it is none."""
    if text.lower() in WEEKDAYS:
        return WEEKDAYS.index(text.lower())
    return int(text) - 1 if text in tuple("1234567") else None


def _since_midnight(clock: str) -> np.timedelta64 | None:
    time = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d):([0-5]\d)", clock)
    if time is None:
        return None
    hours, minutes, seconds = map(int, time.groups())
    return np.timedelta64(3600 * hours + 60 * minutes + seconds, "s")


def weekday_start(weekday: int) -> np.datetime64:
    """Midnight that begins a weekday (0 = Sunday) of the week that stands for all."""
    return SUNDAY + np.timedelta64(weekday, "D")


def _person(parts: list[dict[str, np.ndarray]]) -> Person:
    rows = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return subject_ids(rows["SEQN"][:1])[0], rows


def _once(seqn: float, seen: set[float], xpt: Xpt, row: int) -> None:
    if seqn in seen:
        raise ValueError(
            f"{xpt.path}: SEQN {seqn:.0f} comes again at row {row + 1:,}, after other people: a person's minutes lie "
            "together in NHANES's files; sort the table by SEQN, or remove what is repeated"
        )
    seen.add(seqn)


def _codes(column: np.ndarray) -> np.ndarray:
    """Codes (N,) float64 of a column that holds them as numbers or as text; NaN where blank."""
    if column.dtype.kind != "S":
        return column
    codes, which = np.unique(column, return_inverse=True)
    return np.array([float(code) if code.strip() else np.nan for code in codes])[which]


def _minutes(minute: np.ndarray, most: int, where: str, issues: Issues) -> np.ndarray:
    """Minutes of the recording (N,) int64, -1 where it can't be (outside [0, most), not whole) or comes again."""
    whole = np.isfinite(minute) & (minute >= 0) & (minute < most) & (minute == np.floor(minute))
    issues.add("impossible minute (row left out)", where, int((~whole).sum()))
    number = np.where(whole, minute, -1).astype(np.int64)
    rising = np.all(np.diff(number) > 0)
    if not rising:
        again = np.ones(len(number), dtype=bool)
        again[np.unique(number, return_index=True)[1]] = False
        issues.add("minute twice (the first is kept)", where, int((again & whole).sum()))
        number[again] = -1
    return number


def _first_weekday(weekday: np.ndarray, minute: np.ndarray, where: str) -> int:
    """The weekday (0 = Sunday) of minute 0 from the weekdays 1..7 of rows at their minutes. Raises ValueError."""
    known = minute >= 0
    first = (weekday[known] - 1 - minute[known] // 1440) % 7
    if not np.all((weekday >= 1) & (weekday <= 7)) or np.any(first != first[:1]):
        raise ValueError(f"{where}: the weekdays PAXDAY (1 = Sunday to 7) don't follow one another with the minutes")
    return int(first[0]) if len(first) else 0


def _placed(values: np.ndarray, minute: np.ndarray, n: int) -> np.ndarray:
    """Values (N,) at their minutes (n,) float32, NaN where there are none."""
    placed = np.full(n, np.nan, dtype=np.float32)
    placed[minute[minute >= 0]] = values[minute >= 0]
    return placed


def _recording(
    subject: str, start: np.datetime64, channel: str, values: np.ndarray, worn: np.ndarray, issues: Issues
) -> Iterator[Recording]:
    if np.isnan(values).all():
        issues.add("person without a usable minute (left out)", f"SEQN {subject}")
        return
    if not worn.any():
        issues.add("recording that was never worn", f"SEQN {subject}")
    yield Recording(subject, 0, start, 0, 60.0, {channel: values.astype(np.float32)}, worn)


def minutes_reader(xpt: Xpt, monitors: Xpt | None, wear: str = "choi") -> Callable[..., Iterator[Recording]]:
    """The reader of a file of minutes, called with issues, begin, end. Raises ValueError for another table's XPT."""
    match nhanes.kind_of(xpt):
        case "minutes_counts":
            return partial(read_counts, xpt, wear)
        case "minutes_mims":
            if monitors is None:
                raise ValueError(
                    f"{xpt.path}: minutes without PAXHD, which says when each began; add the cycle's PAXHD file"
                )
            return partial(read_mims, xpt, monitors)
        case kind:
            raise ValueError(f"{xpt.path}: expected minutes (PAXRAW or PAXMIN), found table {xpt.table!r}, {kind}")
