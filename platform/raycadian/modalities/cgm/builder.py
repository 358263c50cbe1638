"""Rows of any format become readings: one unit, one clock, a plausible range, sorted and unique; nothing in silence.

A reader hands over rows, a DataFrame in the file's order with the columns
    subject      id, text                     line  number of the row in the file, for messages
    clock        datetime64[ns]               offset_min  minutes ahead of UTC, NaN where the clock is just local
and either, wide,
    glucose      in the file's unit; -inf and +inf stand for "Low" and "High", NaN for no value
    carbs_g, bolus_u, basal_uph               where the format has them, NaN for none
or, long, an event a row: kind, value (a basal rate of NaN: unknown from here on).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from raycadian.data import clock
from raycadian.modalities.cgm.card import CGMCard
from raycadian.modalities.cgm.plausible import MIXED_UNITS, OutOfRange
from raycadian.modalities.guesses import how_to_set
from raycadian.types import (
    BASAL,
    BOLUS,
    CARBS,
    EVENT_CHANNELS,
    GLUCOSE,
    GLUCOSE_MAX_MGDL,
    GLUCOSE_MIN_MGDL,
    MGDL_PER_MMOLL,
    SUBJECT,
    TIME_UTC,
    Issues,
    Readings,
)

MGDL, MMOLL = "mg/dL", "mmol/L"
LOW_MGDL, HIGH_MGDL = 39.0, 401.0  # "Low" is below 40, "High" above 400 (Dexcom): the nearest whole value outside
LOCAL_CLOCK = "local clock without a time zone (kept, its UTC offset taken as 0)"
_EVENT_MAX = {CARBS: 1000.0, BOLUS: 100.0, BASAL: 50.0}  # beyond any pump's or person's
_MMOLL_BELOW, _MGDL_FROM = 30.0, 40.0  # medians: mmol/L lies in 2..25, mg/dL in 50..400
_CONTRADICTS_MMOLL = GLUCOSE_MAX_MGDL / MGDL_PER_MMOLL
_JUDGED = 12  # values needed before their median is held against the unit
# what sensors write for values outside their range, in the languages of their exports
_LOW_WORDS = (
    "low", "lo", "niedrig", "tief", "bas", "bajo", "bajo/a", "basso", "baixo", "laag", "lav", "låg", "lågt", "matala",
    "niski", "nízká", "alacsony", "düşük",
)  # fmt: skip
_HIGH_WORDS = (
    "high", "hi", "hoch", "haut", "élevé", "alto", "alta", "hoog", "høj", "høy", "hög", "högt", "korkea", "wysoki",
    "vysoká", "magas", "yüksek",
)  # fmt: skip
_MARKED_MISSING = ("-", "--", "---", "n/a", "N/A", "null", "NULL")  # empty cells are counted by nobody: rows of events
_EMPTY_WORDS = ("", "nan", "na", "n/a", "null", "none", "-", "--", "---")


def parse_numbers(text: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Values (N,) float64 and which are malformed. "Low" and "<40" are -inf, "High" and ">400" +inf; empty cells and
    malformed ones NaN. A comma is a decimal sign."""
    values = pd.to_numeric(text, errors="coerce").to_numpy(np.float64, copy=True)
    malformed = np.isinf(values)
    odd = np.flatnonzero(np.isnan(values))
    if len(odd):
        words = text.iloc[odd].astype(str).str.strip().str.lower()
        numbers = pd.to_numeric(words.str.replace(",", ".", n=1, regex=False), errors="coerce").to_numpy(np.float64)
        values[odd] = numbers
        values[odd[words.isin(_LOW_WORDS) | words.str.startswith("<")]] = -np.inf
        values[odd[words.isin(_HIGH_WORDS) | words.str.startswith(">")]] = np.inf
        malformed[odd] = np.isnan(values[odd]) & ~words.isin(_EMPTY_WORDS).to_numpy()
    values[malformed] = np.nan
    return values, malformed


class ReadingsBuilder:
    """Makes one file's rows into Readings; holds what must last from one chunk of the file to the next."""

    def __init__(
        self, path: Path, card: CGMCard, issues: Issues, unit: str | None = None, place: str = ":",
        high_mgdl: float = HIGH_MGDL, events_suffice: bool = False,
    ):  # fmt: skip
        """`unit`: the one that the format or the header states. `place`: between a file's name and a row's number.
        `high_mgdl`: what "High" stands for. `events_suffice`: the file may hold events and no reading.
        Raises ValueError where the card names another unit."""
        if unit and card.unit and unit != card.unit:
            raise ValueError(
                f"{path}: the file says {unit}, not {card.unit}; leave out --unit (in a card: remove `unit`)"
            )
        self.path, self.card, self.issues = path, card, issues
        self._unit, self._stated = unit or card.unit, "the file" if unit else "the card"
        self._place, self._high_mgdl, self._events_suffice = place, high_mgdl, events_suffice
        self._in_repeated_hour: dict[str, tuple[np.datetime64, bool]] = {}
        self._rows = self._untimed = self._readings = self._events = self._excluded = self._local = self._nowhere = 0
        self._unnamed = 0
        self._beyond = 0  # readings of "Low" and "High"
        self._odd_time, self._judged, self._out_of_range = "", False, OutOfRange()

    def note(self, kind: str, lines: np.ndarray | pd.Series) -> None:
        """Count `kind` once for each line."""
        for line in lines[:5]:
            self.issues.add(kind, f"{self.path.name}{self._place}{line}")
        self.issues.add(kind, n=len(lines) - 5)

    def numbers(self, text: pd.Series, lines: pd.Series, name: str) -> np.ndarray:
        """`parse_numbers` with the malformed counted."""
        values, malformed = parse_numbers(text)
        self.note(f"{name} is not a number", lines[malformed])
        self.note(f"{name} is marked as missing", lines[text.isin(_MARKED_MISSING).to_numpy()])
        return values

    def times(self, text: pd.Series, time_format: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """`clock.parse_times` in the card's format, else the given; remembers one that it couldn't read."""
        clocks, offset_min = clock.parse_times(text, self.card.time_format or time_format)
        odd = np.flatnonzero(np.isnat(clocks))
        if len(odd) and not self._odd_time:
            self._odd_time = str(text.iloc[odd[0]])
        return clocks, offset_min

    def readings(self, rows: pd.DataFrame, offsets_certain: bool = False) -> Iterator[Readings]:
        """Each subject's readings in these rows, sorted and unique. Raises ValueError.

        An offset of 0 is read as UTC that says nothing about local time, unless `offsets_certain`.
        """
        rows = self._timed(self._of_subjects(rows))
        codes, subjects = pd.factorize(rows[SUBJECT])
        order = np.argsort(codes, kind="stable")  # each subject's rows together, in the file's order
        rows, codes = rows.iloc[order].reset_index(drop=True), codes[order]
        utc, offset_min = self._instants(rows, codes, subjects, offsets_certain)
        self._note_disorder(utc, codes, rows["line"].to_numpy())
        mgdl = self._mgdl(rows) if "glucose" in rows else np.full(len(rows), np.nan)
        events, of_row = self._events_of(rows)
        read = rows["glucose"].notna().to_numpy() if "glucose" in rows else np.zeros(len(rows), dtype=bool)
        columns = codes[read], utc[read], mgdl[read], offset_min[read]
        glucose, conflicting = _unique_glucose(*columns, subjects, self.issues)
        events = _unique_events(codes[of_row], utc[of_row], *events, subjects, self.issues)
        yield from _by_subject(glucose, events, subjects, conflicting)

    def events(self, rows: pd.DataFrame, column: str, kind: str, offsets_certain: bool = False) -> Iterator[Readings]:
        """`readings` of events alone: the amounts of a `kind` in a column, without rows that have no number."""
        value = self.numbers(rows[column], rows["line"], kind)
        events = rows[[SUBJECT, "line", "clock", "offset_min"]].assign(kind=kind, value=value)
        return self.readings(events[~np.isnan(value)], offsets_certain)

    def finish(self) -> None:
        """The file's end. Raises ValueError if it gave nothing."""
        if self._untimed * 2 > self._rows:
            self._refuse_times()
        self._out_of_range.require_few(self.path, self._unit, self._place)
        if not (self._events and self._events_suffice) and not self._excluded:
            self._require_readings()
        name = self.path.name
        self.issues.add(LOCAL_CLOCK, name, self._local)
        self.issues.add(
            "UTC time without a time zone (local hours unknown, UTC offset taken as 0)", name, self._nowhere
        )

    def _require_readings(self) -> None:
        if not self._rows:
            raise ValueError(f"{self.path}: no row below its header; export days on which the sensor was worn")
        if self._unnamed == self._rows:
            column = self.card.columns.subject
            raise ValueError(
                f"{self.path}: none of {self._rows:,} rows says whose it is: {column!r} is empty; take that column "
                f"out of the file if all are one person's, or {how_to_set('columns.subject', 'NAME')}"
            )
        if not self._readings:
            raise ValueError(
                f"{self.path}: no glucose reading in {self._rows} rows: expected values of "
                f"{GLUCOSE_MIN_MGDL:.0f}-{GLUCOSE_MAX_MGDL:.0f} mg/dL (1.1-33.3 mmol/L) with a time; found "
                f"{self._counted()}"
            )
        if self._readings == self._beyond:
            raise ValueError(
                f"{self.path}: all {self._readings:,} readings are beyond what the sensor measures (low, high), none "
                "is a number; bring days with measured values"
            )

    def _counted(self) -> str:
        """What was counted in this file, for the message."""
        mine = {k: [p for p in places if p.startswith(self.path.name)] for k, places in self.issues.examples.items()}
        return "; ".join(f"{kind} ({places[0]})" for kind, places in mine.items() if places) or "none"

    def _of_subjects(self, rows: pd.DataFrame) -> pd.DataFrame:
        unnamed = rows[SUBJECT].isin(["", "nan", "None", "<NA>"]).to_numpy()
        self.note("row without a subject", rows["line"][unnamed])
        self._unnamed += int(unnamed.sum())
        excluded = rows[SUBJECT].isin(self.card.exclude_subjects).to_numpy()
        self.note("row of a subject that the card excludes", rows["line"][excluded])
        self._rows += len(rows)
        self._excluded += int(excluded.sum())
        return rows[~(unnamed | excluded)]

    def _timed(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows whose time is understood."""
        clocks = rows["clock"].to_numpy("datetime64[ns]")
        unread = np.isnat(clocks)
        wild = clock.is_wild(clocks)
        self.note("time not understood", rows["line"][unread])
        self.note(clock.WILD, rows["line"][wild])
        self._untimed += int(unread.sum())
        if self._rows >= 1000 and self._untimed * 2 > self._rows:
            self._refuse_times()
        return rows[~(unread | wild)].reset_index(drop=True)

    def _refuse_times(self) -> None:
        expected = self.card.time_format or "ISO 8601 (2024-06-06T14:05:00)"
        raise ValueError(
            f"{self.path}: {self._untimed} of {self._rows} times are not understood: expected {expected}, found "
            f"{self._odd_time!r}; {how_to_set('time_format', '%d/%m/%Y %H:%M')}, or what else strptime takes"
        )

    def _unit_of(self, rows: pd.DataFrame) -> str | None:
        """The unit, checked against the values of these rows and of each subject in them. None: no value yet."""
        values = rows["glucose"].where(np.isfinite(rows["glucose"]) & (rows["glucose"] > 0)).dropna()
        if not len(values):
            return self._unit
        median = float(values.median())
        if self._unit is None:
            self._unit, self._stated = self._guess(median), "the median of the first rows"
            self.issues.add(f"unit taken from the values: {self._unit}", self.path.name)
        if len(values) >= _JUDGED or not self._judged:  # a last block of few rows says little
            self._check(median, "")
        self._judged = True
        medians = values.groupby(rows[SUBJECT]).agg(["median", "size"])
        for subject, row in medians[medians["size"] >= _JUDGED].iterrows():
            self._check(row["median"], f" of subject {subject!r}")
        return self._unit

    def _guess(self, median: float) -> str:
        unit = unit_of_median(median)
        if unit is None:
            raise ValueError(
                f"{self.path}: the unit of glucose is not stated, and a median of {median:.1f} fits neither mg/dL nor "
                f"mmol/L; {how_to_set('unit', MGDL)}, or {MMOLL}"
            )
        return unit

    def _check(self, median: float, whose: str) -> None:
        if contradicts(self._unit, median):
            other = MMOLL if self._unit == MGDL else MGDL
            fix = {
                "the card": how_to_set("unit", other),
                "the file": "the file contradicts itself: mend the unit in it, or export it again",
                "the median of the first rows": MIXED_UNITS,
            }[self._stated]
            fix = MIXED_UNITS if self._judged else fix
            raise ValueError(
                f"{self.path}: {self._stated} says {self._unit}, but the values{whose} have a median of {median:.4g} "
                f"and are plainly {other}; {fix}"
            )

    def _instants(
        self, rows: pd.DataFrame, codes: np.ndarray, subjects: pd.Index, offsets_certain: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """UTC (N,) datetime64[ns] in whole seconds and the local offset (N,) in minutes, int64."""
        clocks, stated = rows["clock"].to_numpy("datetime64[ns]"), rows["offset_min"].to_numpy(np.float64)
        local, zone = np.isnan(stated), self.card.timezone
        utc = clock.shift(clocks, -stated)
        self._local += 0 if zone else int(local.sum())
        if zone and local.any():
            utc[local] = self._localised(rows["line"].to_numpy()[local], clocks[local], codes[local], subjects)
        elsewhere = local if offsets_certain else local | (stated == 0)
        self._nowhere += 0 if zone else int((elsewhere & ~local).sum())
        offset_min = np.where(elsewhere, clock.offset_at(utc, zone) if zone else 0, np.nan_to_num(stated))
        return utc.astype("datetime64[s]").astype("datetime64[ns]"), offset_min.astype(np.int64)

    def _localised(self, lines: np.ndarray, clocks: np.ndarray, codes: np.ndarray, subjects: pd.Index) -> np.ndarray:
        """UTC of clocks that are local to the card's zone."""
        repeated = clock.repeated(clocks, self.card.timezone)
        second = np.zeros(len(clocks), dtype=bool)
        for code in np.unique(codes[repeated]):
            at = slice(*np.searchsorted(codes, [code, code + 1]))
            second[at] = self._second_time(subjects[code], clocks[at], repeated[at])
        utc, exists = clock.to_utc(clocks, self.card.timezone, second)
        self.note("local time that the clock skipped (kept the offset from before)", lines[~exists])
        self.note("local time that happens twice (told by the order of rows)", lines[repeated])
        return utc

    def _second_time(self, subject: str, clocks: np.ndarray, repeated: np.ndarray) -> np.ndarray:
        """Which clocks of one subject are the second time of a repeated hour, over the edges of chunks."""
        if clocks[0] > clocks[-1] + np.timedelta64(2, "h"):  # newest first
            return clock.second_time(clocks[::-1], repeated[::-1], None)[::-1]
        before = self._in_repeated_hour.pop(subject, None)
        second = clock.second_time(clocks, repeated, before if repeated[0] else None)
        if repeated[-1]:
            self._in_repeated_hour[subject] = (clocks[-1], bool(second[-1]))
        return second

    def _note_disorder(self, utc: np.ndarray, codes: np.ndarray, lines: np.ndarray) -> None:
        """Rows against their subject's order; newest first is an order too."""
        steps = np.sign(np.diff(utc).astype(np.int64)) * (np.diff(codes) == 0)
        trend = np.bincount(codes[1:], steps, minlength=1) if len(steps) else np.zeros(1)
        self.note("row out of time order (sorted)", lines[1:][steps * np.where(trend < 0, -1, 1)[codes[1:]] < 0])

    def _mgdl(self, rows: pd.DataFrame) -> np.ndarray:
        """Glucose (N,) in mg/dL; NaN outside 20-600."""
        unit = self._unit_of(rows)
        values, lines = rows["glucose"].to_numpy(np.float64), rows["line"].to_numpy()
        mgdl = values * (MGDL_PER_MMOLL if unit == MMOLL else 1.0)
        mgdl = np.where(values == -np.inf, LOW_MGDL, np.where(values == np.inf, self._high_mgdl, mgdl))
        self.note("low", lines[values == -np.inf])
        self.note("high", lines[values == np.inf])
        outside = self._out_of_range.add(values, mgdl, lines, rows["clock"].to_numpy("datetime64[ns]"))
        self.note("glucose outside 20-600 mg/dL (set missing)", lines[outside])
        self._readings += int(np.isfinite(mgdl[~outside]).sum())
        self._beyond += int(np.isinf(values).sum())
        return np.where(outside, np.nan, mgdl)

    def _events_of(self, rows: pd.DataFrame) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
        """Kinds and values of events, and the row of each: amounts above 0, basal rates where they change."""
        kinds, values, at = [np.empty(0, object)], [np.empty(0)], [np.empty(0, np.int64)]
        if "kind" in rows:
            kinds, values, at = [rows["kind"].to_numpy(object)], [rows["value"].to_numpy(np.float64)], [rows.index]
        for kind in EVENT_CHANNELS:
            if kind in rows:
                amounts = rows.loc[rows[kind].notna(), [SUBJECT, kind]]
                if kind == BASAL:  # written in every row
                    amounts = amounts[(amounts != amounts.shift()).any(axis=1)]
                kinds.append(np.full(len(amounts), kind, dtype=object))
                values.append(amounts[kind].to_numpy(np.float64))
                at.append(amounts.index)
        kind, value, of_row = np.concatenate(kinds), np.concatenate(values), np.concatenate(at).astype(np.int64)
        most = np.array([_EVENT_MAX[k] for k in kind], dtype=np.float64)
        wild = (value < 0) | (value > most)
        self.note("event with an impossible amount (skipped)", rows["line"].to_numpy()[of_row[wild]])
        kept = ~wild & ((value != 0) | (kind == BASAL))
        self._events += int(kept.sum())
        return (kind[kept], value[kept]), of_row[kept]


def unit_of_median(median: float) -> str | None:
    """The unit that a median of glucose leaves no doubt of; None where it fits neither."""
    if _MMOLL_BELOW <= median < _MGDL_FROM:
        return None
    return MMOLL if median < _MMOLL_BELOW else MGDL


def contradicts(unit: str | None, median: float) -> bool:
    """Whether a median of glucose says that the unit is plainly the other one."""
    return median < _MMOLL_BELOW if unit == MGDL else median >= _CONTRADICTS_MMOLL


def merge(parts: list[Readings], issues: Issues) -> Readings:
    """All of one subject's readings (at least one part) as one, sorted by time, each second once.

    Of readings at the same second the first finite one is kept; the others are counted, those with another value as
    conflicting. Identical events (same second, kind and value) are kept once.
    """
    subject = parts[0].subject
    assert all(part.subject == subject for part in parts), "merge joins the readings of one subject"
    names, glucose, eaten = pd.Index([subject]), [p.glucose for p in parts], [p.events for p in parts]
    time, when = _joined(glucose, TIME_UTC, "datetime64[ns]"), _joined(eaten, TIME_UTC, "datetime64[ns]")
    values, offset_min = _joined(glucose, GLUCOSE, np.float64), _joined(glucose, "utc_offset_min", np.int64)
    kinds, amounts = _joined(eaten, "kind", object), _joined(eaten, "value", np.float64)
    code, code_of_event = np.zeros(len(time), np.int64), np.zeros(len(when), np.int64)
    unique, conflicting = _unique_glucose(code, time, values, offset_min, names, issues)
    conflicting += sum(part.conflicting for part in parts)
    events = _unique_events(code_of_event, when, kinds, amounts, names, issues)
    return next(_by_subject(unique, events, names, conflicting))


def _joined(frames: list[pd.DataFrame], column: str, dtype) -> np.ndarray:
    return np.concatenate([frame[column].to_numpy(dtype) for frame in frames])


Coded = tuple[np.ndarray, pd.DataFrame]  # the subject's code of each row, sorted; the rows


def _unique_glucose(
    code: np.ndarray, time: np.ndarray, value: np.ndarray, offset_min: np.ndarray, subjects: pd.Index, issues: Issues
) -> tuple[Coded, np.ndarray]:
    """Each subject's readings, each second once; how many of each subject (S,) contradicted the one that is kept."""
    order = np.lexsort([np.isnan(value), time, code])  # stable: ties keep the order of the rows
    code, time, value, offset_min = code[order], time[order], value[order], offset_min[order]
    first = np.ones(len(time), dtype=bool)
    first[1:] = (time[1:] != time[:-1]) | (code[1:] != code[:-1])
    kept = np.maximum.accumulate(np.where(first, np.arange(len(time)), 0))
    same = np.isnan(value) | np.isclose(value, value[kept], rtol=0, atol=1e-6)
    for kind, at in (
        ("duplicate time, same value (kept once)", ~first & same),
        ("duplicate time, conflicting value (first kept)", ~first & ~same),
    ):
        _note_times(issues, kind, subjects[code[at]], time[at])
    columns = {TIME_UTC: time[first], GLUCOSE: value[first], "utc_offset_min": offset_min[first]}
    conflicting = np.bincount(code[~first & ~same], minlength=len(subjects))
    return (code[first], pd.DataFrame(columns)), conflicting


def _unique_events(
    code: np.ndarray, time: np.ndarray, kind: np.ndarray, value: np.ndarray, subjects: pd.Index, issues: Issues
) -> Coded:
    order = np.lexsort([time, code])
    events = pd.DataFrame({TIME_UTC: time[order], "kind": kind[order], "value": value[order]})
    again = events.assign(code=code[order]).duplicated().to_numpy()
    _note_times(issues, "duplicate event (kept once)", subjects[code[order][again]], time[order][again])
    return code[order][~again], events[~again]


def _by_subject(glucose: Coded, events: Coded, subjects: pd.Index, conflicting: np.ndarray) -> Iterator[Readings]:
    numbers = np.arange(len(subjects) + 1)
    of_glucose, of_event = np.searchsorted(glucose[0], numbers), np.searchsorted(events[0], numbers)
    for i, subject in enumerate(subjects):
        own = glucose[1].iloc[of_glucose[i] : of_glucose[i + 1]].reset_index(drop=True)
        own_events = events[1].iloc[of_event[i] : of_event[i + 1]].reset_index(drop=True)
        yield Readings(str(subject), own, own_events, int(conflicting[i]))


def _note_times(issues: Issues, kind: str, subjects: pd.Index, times: np.ndarray) -> None:
    for subject, time in zip(subjects[:5], times[:5], strict=True):
        issues.add(kind, f"subject {subject} at {time.astype('datetime64[s]')} UTC")
    issues.add(kind, n=len(times) - 5)
