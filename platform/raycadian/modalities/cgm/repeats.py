"""The same thing told twice: by two uploaders seconds apart, by a series stored again after a journey, by two sensors.

M readings or doses of one file; `code` (M,) is the number of the subject.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from raycadian.modalities.guesses import how_to_set

_SAME_MGDL = 1.0  # two programs round differently
_FEWEST = 12  # readings of a second device at once: fewer are a change of sensors
_APART_MGDL = 10.0  # median difference of two sensors' readings; uploaders of one sensor agree
_DENSE, _DENSE_SHARE = 0.6, 0.05  # of the usual interval; of the readings
_QUARTER_S, _LONGEST_SHIFT_S = 900, 26 * 3600  # zones lie quarters of an hour apart
_NEAR_S = 60  # of a shift
_COPIED_SHARE = 0.2  # of all readings: chance gives a few in a hundred
_DAY_S, _FLIPS = 86_400, 4  # changes of the offset within a day: nobody travels so much


def told_again(code: np.ndarray, time_s: np.ndarray, value: np.ndarray, within_s: float) -> np.ndarray:
    """True (M,) for readings, sorted by code and time, that another told at most `within_s` before."""
    again = np.zeros(len(time_s), dtype=bool)
    near = np.diff(time_s) <= within_s
    again[1:] = near & (code[1:] == code[:-1]) & (np.abs(np.diff(value)) <= _SAME_MGDL)
    return again


def doses_again(group: np.ndarray, time_s: np.ndarray, within_s: float) -> np.ndarray:
    """True (M,) for doses that another of the same `group` (subject, kind and amount) told at most `within_s`
    before."""
    order = np.lexsort([time_s, group])
    again = np.zeros(len(time_s), dtype=bool)
    again[order[1:]] = (np.diff(time_s[order]) <= within_s) & (np.diff(group[order]) == 0)
    return again


def stored_again(time_s: np.ndarray, value: np.ndarray, line: np.ndarray, within_s: float) -> tuple[np.ndarray, int]:
    """Of one person's readings (M,) those that are a copy of others some hours before or after, True (M,), and the
    shift in seconds (0: no copy). Of both the one that the file has later goes. Looked for where readings lie denser
    than their sensor's interval, those told again within seconds (`within_s`) left aside."""
    copy = np.zeros(len(time_s), dtype=bool)
    if not _is_dense(time_s if (time_s[1:] >= time_s[:-1]).all() else np.sort(time_s)):
        return copy, 0
    order = np.argsort(time_s, kind="stable")
    order = order[~told_again(np.zeros(len(order)), time_s[order], value[order], within_s)]
    t, v = time_s[order], value[order]
    if not _is_dense(t):
        return copy, 0
    steps = np.diff(t)
    every_s = 60 * max(round(np.quantile(steps[steps > _NEAR_S], 0.9) / 60), 1)
    shifts = np.arange(_QUARTER_S, _LONGEST_SHIFT_S + 1, _QUARTER_S)
    pairs = {int(shift): _pairs(t, v, int(shift), every_s) for shift in shifts}
    shift = max(pairs, key=lambda s: len(pairs[s][0]))
    first, second = pairs[shift]
    apart = t[second] - t[first]
    alike = np.abs(apart - np.median(apart)) <= 2 if len(apart) else np.empty(0, bool)
    first, second = first[alike], second[alike]
    if len(first) < max(_FEWEST, _COPIED_SHARE * len(t)):
        return copy, 0
    stored_later = line[order[second]].mean() > line[order[first]].mean()
    copy[order[second if stored_later else first]] = True
    return copy, shift


def _is_dense(t: np.ndarray) -> bool:
    steps = np.diff(t)
    if len(steps) < 2 * _FEWEST:
        return False
    usual = np.partition(steps, len(steps) * 3 // 4)[len(steps) * 3 // 4]  # of copies every other step is short
    return np.count_nonzero(steps < _DENSE * usual) > _DENSE_SHARE * len(steps)


def _pairs(t: np.ndarray, v: np.ndarray, shift: int, every_s: int) -> tuple[np.ndarray, np.ndarray]:
    """Readings and the equal ones `shift` seconds later, off the grid of `every_s` that the sensor measures on: a copy
    lies between the readings of the series that it is of."""
    at = np.minimum(np.searchsorted(t, t + shift - _NEAR_S), len(t) - 1)
    after = np.minimum(at + 1, len(t) - 1)  # two grids: the next may be the one
    found = [
        (np.abs(t[j] - t - shift) <= _NEAR_S) & (v[j] == v) & (np.abs((t[j] - t + 2) % every_s - 2) > 2)
        for j in (at, after)
    ]
    second = np.where(found[0], at, after)
    chosen = np.flatnonzero(found[0] | found[1])
    return chosen, second[chosen]


# --- two devices at once --------------------------------------------------------------------------------------------


class Devices:
    """Which device gave each reading of a file. `serials`: of sensors, which can't be two at once; else programs that
    upload, which are two sensors where their readings differ."""

    def __init__(self, path: Path, serials: bool = True):
        self._path, self._serials = path, serials
        self._parts: list[pd.DataFrame] = []

    def add(self, subject: np.ndarray, device: np.ndarray, time_s: np.ndarray, mgdl: np.ndarray) -> None:
        frame = {"subject": subject, "device": device, "time_s": time_s, "mgdl": mgdl}
        self._parts.append(pd.DataFrame(frame).dropna())

    def require_one_at_a_time(self) -> None:
        """Raises ValueError where two devices gave readings of one person over the same hours."""
        if not self._parts:
            return
        rows = pd.concat(self._parts, ignore_index=True)
        if rows["device"].nunique() < 2:
            return
        spans = rows.groupby(["subject", "device"], sort=True)["time_s"].agg(["min", "max"])
        for subject, own in spans.groupby(level="subject", sort=False):
            for one, other in combinations(own.itertuples(), 2):
                if max(one.min, other.min) <= min(one.max, other.max):
                    self._require_apart(rows, str(subject), one.Index[1], other.Index[1])

    def _require_apart(self, rows: pd.DataFrame, subject: str, *devices: str) -> None:
        own = rows[rows["subject"] == subject]
        one, other = ((name, own[own["device"] == name].sort_values("time_s")) for name in devices)
        begin = max(part["time_s"].iloc[0] for _, part in (one, other))
        end = min(part["time_s"].iloc[-1] for _, part in (one, other))
        both = [part[part["time_s"].between(begin, end)] for _, part in (one, other)]
        if min(map(len, both)) < _FEWEST or not (self._serials or _differ(*both)):
            return
        first, last = (str(np.datetime64(int(t), "s")) for t in (begin, end))
        raise ValueError(
            f"{self._path}: subject {subject!r}: devices {one[0]!r} and {other[0]!r} both gave readings from {first} "
            f"to {last} UTC ({len(both[0])} and {len(both[1])}): two sensors at once, a zigzag; choose "
            f"one: {how_to_set('device', one[0])}"
        )


def _differ(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether the readings of two devices lie further apart than those of one sensor that two programs upload."""
    near = np.interp(other["time_s"], one["time_s"], one["mgdl"])
    return bool(np.median(np.abs(near - other["mgdl"])) > _APART_MGDL)


# --- offsets --------------------------------------------------------------------------------------------------------


def steady_offsets(time_s: np.ndarray, offset_min: np.ndarray) -> np.ndarray:
    """Stated offsets (M,) of one person without those that flip between two programs: on a day with more than four
    changes the most frequent one holds; a 0, which says UTC and nothing of local time, where there is no other."""
    order = np.argsort(time_s, kind="stable")
    day, offset = time_s[order] // _DAY_S, offset_min[order]
    changes = np.flatnonzero((np.diff(offset) != 0) & (np.diff(day) == 0))
    days, counts = np.unique(day[changes], return_counts=True)
    for one in days[counts > _FLIPS]:
        own = day == one
        values, n = np.unique(offset[own], return_counts=True)
        offset[own] = values[np.where(values == 0, 0, n).argmax()]
    steady = offset_min.copy()
    steady[order] = offset
    return steady


def spread(rows: pd.DataFrame, amount: np.ndarray, minutes: np.ndarray, every_min: float = 5.0) -> pd.DataFrame:
    """Rows with a `value`: an amount given over minutes as equal parts, one every 5 minutes from `clock` on."""
    parts = np.where(minutes > 0, np.ceil(np.nan_to_num(minutes) / every_min), 1).astype(np.int64)
    parts = np.minimum(parts, round(24 * 60 / every_min))
    at = np.repeat(np.arange(len(rows)), parts)
    step = np.arange(len(at)) - np.repeat(np.cumsum(parts) - parts, parts)
    out = rows.iloc[at].reset_index(drop=True)
    later = np.round(step * every_min * 60).astype("timedelta64[s]")
    return out.assign(value=(amount / parts)[at], clock=out["clock"].to_numpy("datetime64[ns]") + later)


def names_of(devices: Sequence[object]) -> np.ndarray:
    """Devices (M,) as text, None where nobody is named."""
    codes, names = pd.factorize(pd.Series(devices, dtype=object))
    return np.array([*(str(name).strip() or None for name in names), None], object)[codes]
