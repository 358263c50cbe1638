"""Sleep from activity and from sleep episodes: rest, regularity, social jet lag, sleep windows, and mood_ml's 36
indices.

Rest by each person's own level: Roenneberg et al. 2015, Sleep Med Rev 22:14 (activity below 15% of its 24-hour mean);
its last step, matching whole blocks, is in blocks.py. Sleep regularity index: Phillips et al. 2017, Sci Rep 7:3216.
Social jet lag: Wittmann et al. 2006, Chronobiol Int 23:497. Windows of sleep: Katori et al. 2022, PNAS 119:e2116729119.
"""

from dataclasses import dataclass

import numpy as np

from raycadian.physiology.rhythms import pacemaker
from raycadian.physiology.rhythms.circadian import apart_h, binned, circular_mean_h
from raycadian.physiology.rhythms.wear import DAY_MIN

REST_BIN_MIN, REST_SHARE, REST_MIN = 10, 0.15, 30
NIGHT_H = 3.0  # ours: a night whose longest rest is shorter has no known middle
JOIN_H = 1.0  # ours: episodes at most this far apart are one window
LONG_H = 3.75  # ours: of mood_ml's published days no short window is longer than 3.65 h, no long one shorter than 4.0 h
AWAKE_LUX = 250.0  # ours: light while awake, where none was measured; none asleep
RESTART_DAYS = 2.0  # ours: after a longer gap the pacemaker begins again, entrained to the person's usual days
INDICES = (
    "ST_long", "ST_short", "WT_long", "WT_short", "LongSleepWindow_length", "LongSleepWindow_number",
    "ShortSleepWindow_length", "ShortSleepWindow_number", "Sleep_percentage", "Sleep_amplitude", "Circadian_phase",
    "Circadian_amplitude",
)  # fmt: skip
COLUMNS = tuple(f"{name}_{part}" for name in INDICES for part in ("MN", "SD", "Zscore"))
_DAY_S = 86_400


# --- from activity --------------------------------------------------------------------------------------------------


def rest(days: np.ndarray) -> np.ndarray:
    """1 at rest, 0 not, NaN not known, of the minutes (..., D, 1440) of activity, in steps of 10 minutes.

    At rest: a stretch of at least 30 minutes whose bins of 10 minutes all move less than 15% of the 24 hours around
    each. Missing (unworn) minutes are not known, and a monitor taken off for the night knows no sleep.
    """
    bins = binned(days, REST_BIN_MIN)
    flat = bins.reshape(-1, bins.shape[-2] * bins.shape[-1])
    around = moving_mean(flat, DAY_MIN // REST_BIN_MIN)
    still = np.where(np.isnan(flat) | ~(around > 0), np.nan, flat < REST_SHARE * around)
    edges = np.flatnonzero(np.diff(np.nan_to_num(still, nan=-1), axis=1, prepend=-2).ravel() != 0)
    length = np.diff(edges, append=still.size)
    long_enough = np.repeat(length >= REST_MIN // REST_BIN_MIN, length).reshape(still.shape)
    still = np.where((still == 1) & ~long_enough, 0.0, still)
    return np.repeat(still, REST_BIN_MIN, axis=1).reshape(days.shape)


def regularity(state: np.ndarray) -> np.ndarray:
    """Sleep regularity index (...,) of sleep (1) and wake (0) by the minute (..., D, 1440), NaN = not known: -100 to
    100, the share of moments that are alike 24 h apart, rescaled. NaN where no two are known."""
    one, next_day = state[..., :-1, :], state[..., 1:, :]
    known = ~(np.isnan(one) | np.isnan(next_day))
    pairs = known.sum((-2, -1))
    alike = ((one == next_day) & known).sum((-2, -1))
    return np.where(pairs > 0, 200 * alike / np.maximum(pairs, 1) - 100, np.nan)


def social_jet_lag_h(mid_sleep_h: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Hours (...,) by which mid-sleep is apart on free days and on others, never negative; mid_sleep_h (..., D) hour of
    day, NaN = not known, free (..., D) bool (usually the days woken up to on Saturday and Sunday)."""
    of_free = circular_mean_h(np.where(free, mid_sleep_h, np.nan))
    of_work = circular_mean_h(np.where(free, np.nan, mid_sleep_h))
    return np.abs(apart_h(of_free, of_work))


def mid_rest_h(nights: np.ndarray) -> np.ndarray:
    """Hour of day (..., D) of the middle of the longest rest of each night from noon to noon, (..., D, 1440) of 1 at
    rest, 0 not, NaN not known; NaN where it is shorter than NIGHT_H."""
    flat = nights.reshape(-1, DAY_MIN) == 1
    edges = np.diff(np.pad(flat, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    (night, begin), (_, end) = np.nonzero(edges == 1), np.nonzero(edges == -1)
    length = end - begin
    longest = np.zeros(len(flat), dtype=np.int64)
    np.maximum.at(longest, night, length)
    first = (length == longest[night]) & (length >= 60 * NIGHT_H)
    mid_h = np.full(len(flat), np.nan)
    mid_h[night[first][::-1]] = ((begin + end)[first][::-1] / 120 + 12) % 24  # of equals the first
    return mid_h.reshape(nights.shape[:-1])


def episodes_of(state: np.ndarray, start: np.datetime64) -> "Episodes":
    """Episodes of rest of one person's minutes (N,) from `start` (local time)."""
    at_rest = np.concatenate([[False], state == 1, [False]])
    edges = np.flatnonzero(np.diff(at_rest))
    begin, end = edges[::2], edges[1::2]
    minute = np.timedelta64(60, "s")
    start = start.astype("datetime64[s]")
    return Episodes(start + begin * minute, start + end * minute, (end - begin) / 60)


def moving_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Mean (P, N) of what is there in the `width` around each value, fewer at the edges."""
    there = ~np.isnan(values)
    n = values.shape[1]
    sums, counts = (np.cumsum(np.pad(v, ((0, 0), (1, 0))), axis=1) for v in (np.where(there, values, 0), there))
    low, high = np.clip(np.arange(n) - width // 2, 0, n), np.clip(np.arange(n) + width - width // 2, 0, n)
    return (sums[:, high] - sums[:, low]) / np.maximum(counts[:, high] - counts[:, low], 1)


# --- from episodes --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Episodes:
    """Sleep episodes of one person: start, end (E,) datetime64[s] in local time, asleep_h (E,) of them."""

    start: np.ndarray
    end: np.ndarray
    asleep_h: np.ndarray

    @property
    def possible(self) -> np.ndarray:
        """(E,) bool: complete, ends at most 24 h after its start, and sleeps no longer than it lasts (by more than 5
        minutes, which trackers round off)."""
        length_h = (self.end - self.start).astype("timedelta64[s]").astype(np.int64) / 3600  # below 0 where one is NaT
        return (length_h > 0) & (length_h <= 24) & (self.asleep_h >= 0) & (self.asleep_h <= length_h + 5 / 60)

    def checked(self) -> "Episodes":
        """In order of time. Raises ValueError for an episode that isn't `possible`, or overlaps another."""
        order = np.argsort(self.start, kind="stable")
        start, end, asleep = (
            self.start[order].astype("datetime64[s]"),
            self.end[order].astype("datetime64[s]"),
            self.asleep_h[order],
        )
        if np.isnat(start).any() or np.isnat(end).any() or not np.isfinite(asleep).all():
            raise ValueError(
                "a sleep episode lacks its start, its end or its minutes of sleep; complete it or take it out"
            )
        length_h = (end - start).astype(np.int64) / 3600
        if not (possible := Episodes(start, end, asleep).possible).all():
            i = int(np.flatnonzero(~possible)[0])
            raise ValueError(
                f"sleep episode {start[i]} to {end[i]} with {60 * asleep[i]:g} min of sleep: expected an end at most "
                "24 h after the start, and no more sleep than time"
            )
        if (overlap := start[1:] < end[:-1]).any():
            i = int(np.flatnonzero(overlap)[0])
            raise ValueError(
                f"sleep episode from {start[i + 1]} begins before the one from {start[i]} ends; join or correct them"
            )
        return Episodes(start, end, np.minimum(asleep, length_h))


@dataclass(frozen=True)
class Windows:
    """Sleep windows: start, end (W,) datetime64[s], asleep_h (W,), day (W,) datetime64[D] that they end on."""

    start: np.ndarray
    end: np.ndarray
    asleep_h: np.ndarray

    @property
    def length_h(self) -> np.ndarray:
        return (self.end - self.start).astype(np.int64) / 3600

    @property
    def day(self) -> np.ndarray:
        return self.end.astype("datetime64[D]")


def sleep_windows(episodes: Episodes, join_h: float = JOIN_H) -> Windows:
    """Episodes at most `join_h` apart as one window each. Raises ValueError for episodes that can't be."""
    episodes = episodes.checked()
    apart_s = (episodes.start[1:] - episodes.end[:-1]).astype(np.int64)
    first = np.flatnonzero(np.concatenate([[True], apart_s > 3600 * join_h])[: len(episodes.start)])
    last = np.append(first[1:], len(episodes.start))[: len(first)] - 1
    asleep = np.add.reduceat(episodes.asleep_h, first) if len(first) else np.empty(0)
    return Windows(episodes.start[first], episodes.end[last], asleep)


def daily_indices(episodes: Episodes) -> tuple[np.ndarray, np.ndarray]:
    """The days (D,) on which a window ends, and INDICES of each (D, 12). A day without a window is not known, and left
    out.

    A window belongs to the day it ends on; it is long from 3.75 h. ST is the time asleep in windows, WT the rest of
    them, in hours. Sleep_percentage: sleep over 24 h. Sleep_amplitude (ours): from trough to peak of the 24-hour cosine
    through the day's sleep. Circadian_phase: dim light melatonin onset, 7 h before the day's CBTmin, in hours after the
    midnight that begins the day before (23 is 11 pm, 25 is 1 am); Circadian_amplitude: mean radius of the pacemaker
    over the day.
    """
    windows = sleep_windows(episodes)
    days, of = np.unique(windows.day, return_inverse=True)
    length, asleep, n = windows.length_h, windows.asleep_h, len(days)
    is_long = length >= LONG_H

    def total(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        return np.bincount(of[chosen], values[chosen], n)

    awake, one = length - asleep, np.ones(len(length))
    columns = [
        total(asleep, is_long), total(asleep, ~is_long), total(awake, is_long), total(awake, ~is_long),
        total(length, is_long), total(one, is_long), total(length, ~is_long), total(one, ~is_long),
        total(asleep, one > 0) / 24, _sleep_amplitude(windows, of, n), *_circadian(windows, days),
    ]  # fmt: skip
    return days, np.stack(columns, axis=1)


def mood_indices(episodes: Episodes) -> tuple[np.ndarray, np.ndarray]:
    """The days (D,) and mood_ml's 36 columns (D, 36) in the order of COLUMNS: of each of INDICES the mean and the SD
    over the record, the same on every day, and the day's z-score (0 where nothing varies). ValueError of one day."""
    days, values = daily_indices(episodes)
    if len(days) < 2:
        raise ValueError(f"{len(days)} day with sleep: means and deviations need two at least; add episodes")
    mean, sd = np.nanmean(values, axis=0), np.nanstd(values, axis=0, ddof=1)
    varies = sd > 1e-7 * np.nanmax(
        np.abs(values), axis=0
    )  # of its own size: below is rounding, and no column has a unit's luck
    z = np.where(varies, (values - mean) / np.where(varies, sd, 1), 0.0)
    parts = np.stack([np.broadcast_to(mean, z.shape), np.broadcast_to(sd, z.shape), z], axis=2)
    return days, parts.reshape(len(days), -1)


def _sleep_amplitude(windows: Windows, of: np.ndarray, n: int) -> np.ndarray:
    """Trough to peak (D,) of the 24-hour cosine fitted to each day's sleep, spread evenly over its windows."""
    a, b = ((t - t.astype("datetime64[D]")).astype(np.int64) / _DAY_S * 2 * np.pi for t in (windows.start, windows.end))
    b = a + windows.length_h / 24 * 2 * np.pi
    density = windows.asleep_h / windows.length_h
    real, imaginary = density * (np.sin(b) - np.sin(a)), density * (np.cos(a) - np.cos(b))
    return 2 / np.pi * np.hypot(np.bincount(of, real, n), np.bincount(of, imaginary, n))


def _circadian(windows: Windows, days: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Phase in hours and amplitude (D,) of a pacemaker that sees light whenever the person is awake."""
    phase, amplitude = np.full(len(days), np.nan), np.full(len(days), np.nan)
    usual = _usual_light(windows)
    at_home = pacemaker.entrained(usual)
    gaps = np.diff(days).astype(np.int64)
    for stretch in np.split(np.arange(len(days)), np.flatnonzero(gaps > RESTART_DAYS) + 1):
        if not len(stretch):
            continue
        first = days[stretch[0]] - np.timedelta64(1, "D")  # the night before belongs to the first day
        n_days = int((days[stretch[-1]] - first).astype(np.int64)) + 2
        x, xc, _ = pacemaker.simulate(_light(windows, usual, first, n_days), at_home)
        minima = pacemaker.cbt_minima_h(x)
        steps = round(24 / pacemaker.DT_H)
        radius = np.hypot(x, xc)[: n_days * steps].reshape(n_days, steps).mean(axis=1)
        for i in stretch:
            day = int((days[i] - first).astype(np.int64))
            nearest = minima[np.argmin(np.abs(minima - 24 * day - 6))] - 24 * day  # the one of that morning
            phase[i] = nearest + 24 - pacemaker.DLMO_BEFORE_CBT_H
            amplitude[i] = radius[day]
    return phase, amplitude


def _light(windows: Windows, usual: np.ndarray, first: np.datetime64, n_days: int) -> np.ndarray:
    """Lux (T,) in the pacemaker's steps from the midnight that begins `first`: none in a window of sleep, AWAKE_LUX
    between two within a day, and the usual day's light (`usual`) where nothing is known."""
    n = len(usual) * n_days
    step_s = _DAY_S / len(usual)
    a, b = ((t - first.astype("datetime64[s]")).astype(np.int64) / step_s for t in (windows.start, windows.end))
    begin, end = (np.clip(np.round(t), 0, n).astype(np.int64) for t in (a, b))
    near = (a[1:] - b[:-1]) * step_s <= _DAY_S
    awake = _covered(end[:-1][near], begin[1:][near], n)
    return np.where(_covered(begin, end, n), 0.0, np.where(awake, AWAKE_LUX, np.tile(usual, n_days)))


def _covered(begin: np.ndarray, end: np.ndarray, n: int) -> np.ndarray:
    """Which of n steps lie in one of the ranges [begin, end)."""
    return np.cumsum(np.bincount(begin, minlength=n + 1) - np.bincount(end, minlength=n + 1))[:n] > 0


def _usual_light(windows: Windows) -> np.ndarray:
    """Lux of the person's usual day: awake where asleep on fewer than half of the days known."""
    days = np.unique(windows.day)
    n = round(24 / pacemaker.DT_H)
    asleep = np.zeros(n)
    for start, end in zip(windows.start, windows.end, strict=True):
        first = (start - start.astype("datetime64[D]")).astype(np.int64) / _DAY_S * n
        steps = np.arange(round(first), round(first + (end - start).astype(np.int64) / _DAY_S * n)) % n
        asleep[steps] += 1
    return np.where(asleep > len(days) / 2, 0.0, AWAKE_LUX)
