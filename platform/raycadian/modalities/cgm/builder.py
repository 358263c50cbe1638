"""Rows of any format become readings: one unit, one clock, a plausible range, sorted and unique; nothing in silence.

A reader hands over rows, a DataFrame in the file's order with the columns
    subject      id, text                     line  number of the row in the file, for messages
    clock        datetime64[ns]               offset_min  minutes ahead of UTC, NaN where the clock is just local
and either, wide,
    glucose      in the file's unit; -inf and +inf stand for "Low" and "High", NaN for no value
    carbs_g, bolus_u, basal_uph               where the format has them, NaN for none
or, long, an event a row: kind, value (a basal rate of NaN: unknown from here on).
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from raycadian.data import clock
from raycadian.modalities.cells import parse_numbers, require_numbers
from raycadian.modalities.cgm.card import CGMCard
from raycadian.modalities.cgm.plausible import MIXED_UNITS, OUTSIDE, OutOfRange, unit_of_cells
from raycadian.modalities.cgm.repeats import Devices, doses_again, steady_offsets, stored_again, told_again
from raycadian.modalities.conflicts import UNNAMED, require_named
from raycadian.modalities.guesses import how_to_set
from raycadian.types import (
    BASAL,
    BOLUS,
    CARBS,
    EVENT_CHANNELS,
    FAT,
    FIBRE,
    GLUCOSE,
    GLUCOSE_MAX_MGDL,
    GLUCOSE_MIN_MGDL,
    LONG_ACTING,
    MGDL_PER_MMOLL,
    PROTEIN,
    SUBJECT,
    TIME_UTC,
    Issues,
    Readings,
)

MGDL, MMOLL = "mg/dL", "mmol/L"
LOW_MGDL, HIGH_MGDL = 39.0, 401.0  # "Low" is below 40, "High" above 400 (Dexcom): the nearest whole value outside
REPEAT_S = 30.0  # between two accounts of one reading, or dose
LOCAL_CLOCK = "local clock without a time zone (kept, its UTC offset taken as 0)"
_EVENT_MAX = {
    CARBS: 1000.0, BOLUS: 100.0, BASAL: 50.0, PROTEIN: 1000.0, FAT: 1000.0, FIBRE: 500.0, LONG_ACTING: 300.0,
}  # fmt: skip  # beyond any pump's or person's
_MMOLL_BELOW, _MGDL_FROM = 30.0, 40.0  # medians: mmol/L lies in 2..25, mg/dL in 50..400
_CONTRADICTS_MMOLL = GLUCOSE_MAX_MGDL / MGDL_PER_MMOLL
_SHOWN = 1e-6  # of a hundredth: what float leaves of a number of two decimals
_MOST_TURNED = 3  # typing errors
_JUDGED = 12  # values needed before their median is held against the unit
_MARKED_MISSING = ("-", "--", "---", "n/a", "N/A", "null", "NULL")  # empty cells are counted by nobody: rows of events


class ReadingsBuilder:
    """Makes one file's rows into Readings; holds what must last from one chunk of the file to the next."""

    def __init__(
        self, path: Path, card: CGMCard, issues: Issues, unit: str | None = None, place: str = ":",
        high_mgdl: float = HIGH_MGDL, events_suffice: bool = False, serials: bool = True,
        only_events: bool = False,
    ):  # fmt: skip
        """`unit`: the one that the format or the header states. `place`: between a file's name and a row's number.
        `high_mgdl`: what "High" stands for. `events_suffice`: the file may hold events and no reading. `only_events`:
        it may be empty too. `serials`: a row's `device`, where it has one, is a sensor; else a program that uploads.
        Raises ValueError where the card names another unit."""
        if unit and card.unit and unit != card.unit:
            raise ValueError(
                f"{path}: the file says {unit}, not {card.unit}; leave out --unit (in a card: remove `unit`)"
            )
        self.path, self.card, self.issues = path, card, issues
        self._unit, self._stated = unit or card.unit, "the file" if unit else "the card"
        self._place, self._high_mgdl = place, high_mgdl
        self._events_suffice, self._only_events = events_suffice, only_events
        self._devices = Devices(path, serials)
        self._in_repeated_hour: dict[str, tuple[np.datetime64, bool]] = {}
        self._rows = self._untimed = self._readings = self._events = self._excluded = self._local = self._nowhere = 0
        self._unnamed = 0
        self._beyond = 0  # readings of "Low" and "High"
        self._numbers: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2, np.int64))  # malformed ones, and others
        self._odd_number: dict[str, str] = {}
        self._turned = 0  # times that only the other order of day and month reads
        self._odd_time, self._judged, self._out_of_range = "", False, OutOfRange()

    def note(self, kind: str, lines: np.ndarray | pd.Series) -> None:
        """Count `kind` once for each line."""
        for line in lines[:5]:
            self.issues.add(kind, f"{self.path.name}{self._place}{line}")
        self.issues.add(kind, n=len(lines) - 5)

    def numbers(self, text: pd.Series, lines: pd.Series, name: str) -> np.ndarray:
        """`parse_numbers` with the malformed counted."""
        values, malformed = parse_numbers(text)
        if name == "glucose":
            self._unit = unit_of_cells(self.path, text, self._unit, self._stated)
        if malformed.any():
            self._odd_number.setdefault(name, str(text.iloc[int(np.flatnonzero(malformed)[0])])[:40])
        self._numbers[name] += np.array([malformed.sum(), np.count_nonzero(~np.isnan(values))])
        self.note(f"{name} is not a number", lines[malformed])
        self.note(f"{name} is marked as missing", lines[text.isin(_MARKED_MISSING).to_numpy()])
        return values

    def times(self, text: pd.Series, time_format: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """`clock.parse_times` in the card's format, else the given; remembers one that it couldn't read."""
        form = self.card.time_format or time_format
        clocks, offset_min = clock.parse_times(text, form)
        odd = np.flatnonzero(np.isnat(clocks))
        self._turned += clock.read_turned(text.iloc[odd], form)
        if len(odd) and not self._odd_time:
            self._odd_time = str(text.iloc[odd[0]])
        return clocks, offset_min

    def readings(self, rows: pd.DataFrame, offsets_certain: bool = False) -> Iterator[Readings]:
        """Each subject's readings in these rows, sorted and unique. Raises ValueError.

        An offset of 0 is read as UTC that says nothing about local time, unless `offsets_certain`.
        """
        rows = self._timed(self._of_device(self._of_subjects(rows)))
        codes, subjects = pd.factorize(rows[SUBJECT])
        order = np.argsort(codes, kind="stable")  # each subject's rows together, in the file's order
        rows, codes = rows.iloc[order].reset_index(drop=True), codes[order]
        utc, offset_min = self._instants(rows, codes, subjects, offsets_certain)
        self._note_disorder(utc, codes, rows["line"].to_numpy())
        mgdl = self._mgdl(rows, codes) if "glucose" in rows else np.full(len(rows), np.nan)
        events, of_row = self._events_of(rows)
        read = rows["glucose"].notna().to_numpy() if "glucose" in rows else np.zeros(len(rows), dtype=bool)
        read = read & ~self._stored_again(rows, codes, utc, mgdl, read)
        if "device" in rows:
            who = subjects.to_numpy()[codes[read]]
            self._devices.add(who, rows["device"].to_numpy()[read], _seconds(utc[read]), mgdl[read])
        columns = codes[read], utc[read], mgdl[read], offset_min[read]
        within_s = self.card.repeat_s
        glucose, conflicting = _unique_glucose(*columns, subjects, self.issues, within_s)
        events = _unique_events(codes[of_row], utc[of_row], *events, subjects, self.issues, within_s)
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
        if self._turned > _MOST_TURNED:
            raise ValueError(
                f"{self.path}: {self._turned} times, such as {self._odd_time!r}, have day and month in the other order "
                "than the rest: it mixes two; write all of them as 2026-01-05 08:00"
            )
        self._out_of_range.require_few(self.path, self._unit, self._place)
        self._devices.require_one_at_a_time()
        if not (self._only_events or self._excluded or (self._events and self._events_suffice)):
            self._require_readings()
        for kind, (malformed, others) in self._numbers.items():
            require_numbers(int(malformed), int(others), self._odd_number.get(kind, ""), f"{self.path}: {kind}")
        name = self.path.name
        self.issues.add(LOCAL_CLOCK, name, self._local)
        self.issues.add(
            "UTC time without a time zone (local hours unknown, UTC offset taken as 0)", name, self._nowhere
        )

    def _require_readings(self) -> None:
        if not self._rows:
            raise ValueError(f"{self.path}: no row below its header; export days on which the sensor was worn")
        require_named(self._unnamed, self._rows, self.path, self.card.columns.subject)
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

    def _of_device(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Those of the device that the card names, where rows say which they are of."""
        if self.card.device is None or "device" not in rows:
            return rows
        other = rows["device"].notna().to_numpy() & (rows["device"].astype(str).str.strip() != self.card.device)
        self.note("reading of another device than the card's (left out)", rows["line"][other])
        return rows[~other]

    def _stored_again(
        self, rows: pd.DataFrame, codes: np.ndarray, utc: np.ndarray, mgdl: np.ndarray, read: np.ndarray
    ) -> np.ndarray:
        """Which readings (N,) are a copy of their subject's others, hours apart."""
        copies, line, time_s = np.zeros(len(rows), dtype=bool), rows["line"].to_numpy(), _seconds(utc)
        if not self.card.repeat_s:
            return copies
        usable = read & np.isfinite(mgdl)
        for code in np.unique(codes):
            own = np.flatnonzero(usable & (codes == code)) if codes[0] != codes[-1] else np.flatnonzero(usable)
            copy, shift_s = stored_again(time_s[own], mgdl[own], line[own], self.card.repeat_s)
            copies[own[copy]] = True
            self.note(f"series stored again {shift_s / 3600:g} h apart (one copy kept)", line[own[copy]])
        return copies

    def _of_subjects(self, rows: pd.DataFrame) -> pd.DataFrame:
        unnamed = rows[SUBJECT].isin(["", "nan", "None", "<NA>"]).to_numpy()
        self.note(UNNAMED, rows["line"][unnamed])
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
        if not offsets_certain:
            stated = self._steady(rows, codes, utc, stated)
        self._local += 0 if zone else int(local.sum())
        if zone and local.any():
            utc[local] = self._localised(rows["line"].to_numpy()[local], clocks[local], codes[local], subjects)
        elsewhere = local if offsets_certain else local | (stated == 0)
        self._nowhere += 0 if zone else int((elsewhere & ~local).sum())
        offset_min = np.where(elsewhere, clock.offset_at(utc, zone) if zone else 0, np.nan_to_num(stated))
        return utc.astype("datetime64[s]").astype("datetime64[ns]"), offset_min.astype(np.int64)

    def _steady(self, rows: pd.DataFrame, codes: np.ndarray, utc: np.ndarray, stated: np.ndarray) -> np.ndarray:
        """The stated offsets (N,) in minutes, without those that flip between two programs that upload."""
        said = stated[~np.isnan(stated)]
        if not len(said) or (said == said[0]).all():
            return stated
        steady = stated.copy()
        for code in np.unique(codes):
            own = np.flatnonzero((codes == code) & ~np.isnan(stated))
            steady[own] = steady_offsets(_seconds(utc[own]), stated[own])
        changed = (steady != stated) & ~np.isnan(stated)
        self.note("UTC offset that flips between programs (the steady one kept)", rows["line"][changed])
        return steady

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

    def _mgdl(self, rows: pd.DataFrame, codes: np.ndarray) -> np.ndarray:
        """Glucose (N,) in mg/dL; NaN outside 20-600."""
        unit = self._unit_of(rows)
        values, lines = rows["glucose"].to_numpy(np.float64), rows["line"].to_numpy()
        mgdl = mgdl_of(values) if unit == MMOLL else values
        if np.isinf(values).any():
            mgdl = _beyond_limits(mgdl, codes, LOW_MGDL, self._high_mgdl)
        self.note("low", lines[values == -np.inf])
        self.note("high", lines[values == np.inf])
        outside = self._out_of_range.add(values, mgdl, lines, rows["clock"].to_numpy("datetime64[ns]"))
        self.note(OUTSIDE, lines[outside])
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


def mgdl_of(mmoll: np.ndarray) -> np.ndarray:
    """mg/dL of mmol/L. Of at most two decimals, as devices show it, the whole mg/dL that the sensor measured: 10.0
    mmol/L is 180 mg/dL, and in range wherever it is looked at."""
    mgdl, hundredths = mmoll * MGDL_PER_MMOLL, np.where(np.isfinite(mmoll), mmoll, 0) * 100
    return np.where(np.abs(hundredths - np.round(hundredths)) < _SHOWN, np.round(mgdl), mgdl)


def _beyond_limits(mgdl: np.ndarray, codes: np.ndarray, low_mgdl: float, high_mgdl: float) -> np.ndarray:
    """Glucose (N,), "Low" (-inf) and "High" (inf) as the device's own limits, and never on the wrong side of the
    readings beside them: some devices measure further."""
    finite = pd.Series(np.where(np.isinf(mgdl), np.nan, mgdl))
    before, after = finite.groupby(codes).ffill().to_numpy(), finite.groupby(codes).bfill().to_numpy()
    lowest, highest = np.fmin(np.fmin(before, after), low_mgdl), np.fmax(np.fmax(before, after), high_mgdl)
    return np.where(mgdl == -np.inf, lowest, np.where(mgdl == np.inf, highest, mgdl))


def _seconds(utc: np.ndarray) -> np.ndarray:
    return utc.astype("datetime64[s]").astype(np.int64)


def unit_of_median(median: float) -> str | None:
    """The unit that a median of glucose leaves no doubt of; None where it fits neither."""
    if _MMOLL_BELOW <= median < _MGDL_FROM:
        return None
    return MMOLL if median < _MMOLL_BELOW else MGDL


def contradicts(unit: str | None, median: float) -> bool:
    """Whether a median of glucose says that the unit is plainly the other one."""
    return median < _MMOLL_BELOW if unit == MGDL else median >= _CONTRADICTS_MMOLL


def merge(parts: list[Readings], issues: Issues, repeat_s: float = REPEAT_S) -> Readings:
    """All of one subject's readings (at least one part) as one, sorted by time, each second once.

    Of readings at the same second the first finite one is kept; the others are counted, those with another value as
    conflicting. Readings of the same value, and events of the same kind and amount, at most `repeat_s` apart are one
    that was told twice, and kept once.
    """
    subject = parts[0].subject
    assert all(part.subject == subject for part in parts), "merge joins the readings of one subject"
    names, glucose, eaten = pd.Index([subject]), [p.glucose for p in parts], [p.events for p in parts]
    time, when = _joined(glucose, TIME_UTC, "datetime64[ns]"), _joined(eaten, TIME_UTC, "datetime64[ns]")
    values, offset_min = _joined(glucose, GLUCOSE, np.float64), _joined(glucose, "utc_offset_min", np.int64)
    kinds, amounts = _joined(eaten, "kind", object), _joined(eaten, "value", np.float64)
    code, code_of_event = np.zeros(len(time), np.int64), np.zeros(len(when), np.int64)
    unique, conflicting = _unique_glucose(code, time, values, offset_min, names, issues, repeat_s)
    conflicting += sum(part.conflicting for part in parts)
    events = _unique_events(code_of_event, when, kinds, amounts, names, issues, repeat_s)
    return next(_by_subject(unique, events, names, conflicting))


def _joined(frames: list[pd.DataFrame], column: str, dtype) -> np.ndarray:
    return np.concatenate([frame[column].to_numpy(dtype) for frame in frames])


Coded = tuple[np.ndarray, pd.DataFrame]  # the subject's code of each row, sorted; the rows


def _unique_glucose(
    code: np.ndarray, time: np.ndarray, value: np.ndarray, offset_min: np.ndarray, subjects: pd.Index, issues: Issues,
    within_s: float,
) -> tuple[Coded, np.ndarray]:  # fmt: skip
    """Each subject's readings, each second once, and once where told again within seconds; how many of each subject
    (S,) contradicted the one that is kept."""
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
    conflicting = np.bincount(code[~first & ~same], minlength=len(subjects))
    once = np.flatnonzero(first)
    again = told_again(code[once], _seconds(time[once]), value[once], within_s)
    _note_times(issues, "reading told again within seconds (kept once)", subjects[code[once[again]]], time[once[again]])
    once = once[~again]
    columns = {TIME_UTC: time[once], GLUCOSE: value[once], "utc_offset_min": offset_min[once]}
    return (code[once], pd.DataFrame(columns)), conflicting


def _unique_events(
    code: np.ndarray, time: np.ndarray, kind: np.ndarray, value: np.ndarray, subjects: pd.Index, issues: Issues,
    within_s: float,
) -> Coded:  # fmt: skip
    if not len(time):
        return code, pd.DataFrame({TIME_UTC: time, "kind": kind, "value": value})
    order = np.lexsort([time, code])
    code, time = code[order], time[order]
    events = pd.DataFrame({TIME_UTC: time, "kind": kind[order], "value": value[order]})
    again = events.assign(code=code).duplicated().to_numpy()
    _note_times(issues, "duplicate event (kept once)", subjects[code[again]], time[again])
    once = np.flatnonzero(~again)
    group = (
        events.iloc[once].assign(code=code[once]).groupby(["code", "kind", "value"], dropna=False).ngroup().to_numpy()
    )
    near = doses_again(group, _seconds(time[once]), within_s) & (events["kind"].to_numpy()[once] != BASAL)
    _note_times(issues, "dose told again within seconds (kept once)", subjects[code[once[near]]], time[once[near]])
    once = once[~near]
    return code[once], events.iloc[once]


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
