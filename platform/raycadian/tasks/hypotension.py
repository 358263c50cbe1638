"""Labels from numerics of a monitor: episodes of low pressure ahead of a window, and means of any numeric ahead.

A value holds until the next one, at most `hold_s`; beyond that, and before the first and after the last, nothing is
known. What is not known may have been low: an episode that may have begun before, or behind a gap, makes a window
unknown, never negative.
"""

from dataclasses import dataclass

import numpy as np

BELOW_MMHG, FOR_S = 65.0, 60.0  # the usual definition of intraoperative hypotension
HOLD_S = 10.0  # a monitor writes every 2 s, a heart beats every second; longer without a value is a gap
PLAUSIBLE_MMHG = (20.0, 200.0)  # a mean pressure outside is a flushed or disconnected line

EVENT, NO_EVENT = "event", "no event"
ALREADY = "already hypotensive at the window"
TOO_SOON = "begins within the gap"
GRAY = "pressure in the gray zone ahead"
UNKNOWN = "pressure not known"


@dataclass(frozen=True)
class Events:
    """Episodes below a threshold, (E, 2) seconds each: begin and end.

    `certain`: low for long enough, by what was measured · `possible`: where all that is not known is taken for low;
    every certain episode lies in a possible one, the first of which begins and the last of which ends at infinity.
    `values` (N,) were measured at `times_s` (N,), missing ones left out.
    """

    certain: np.ndarray
    possible: np.ndarray
    times_s: np.ndarray
    values: np.ndarray
    until_s: np.ndarray  # (N,) to when each value holds


def events(
    map_mmhg: np.ndarray, times_s: np.ndarray, below: float = BELOW_MMHG, for_s: float = FOR_S, hold_s: float = HOLD_S
) -> Events:
    """Episodes of mean pressure (N,) below `below` for at least `for_s` seconds; `times_s` (N,) increasing, NaN =
    missing.

    At 0.5 Hz 60 s are 30 values: the last one holds for its 2 s too. A value outside PLAUSIBLE_MMHG counts as missing.
    Raises ValueError.
    """
    _check(map_mmhg, times_s)
    if not for_s > 0:
        raise ValueError(f"for_s: expected more than 0 seconds, found {for_s:g}")
    low, high = PLAUSIBLE_MMHG
    values = np.asarray(map_mmhg, dtype=np.float64)
    times, values, until = _held(times_s, np.where((values >= low) & (values <= high), values, np.nan), hold_s)
    is_low = values < below
    certain = _runs(times, until, is_low, joined=times[1:] <= until[:-1])
    # what is not low ends a possible run; every gap and both ends of time may be low
    begin = np.concatenate([[-np.inf], until[~is_low]])
    end = np.concatenate([times[~is_low], [np.inf]])
    return Events(_long(certain, for_s), _long(np.column_stack([begin, end]), for_s), times, values, until)


def label_windows(
    window_end_s: np.ndarray,
    events: Events,
    ahead_s: float,
    gap_s: float = 0.0,
    gray_mmhg: float | None = None,
    window_s: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """(W,) 1 where an episode begins in (end + gap_s, end + ahead_s], 0 where none can, NaN where a window is left
    out; and (W,) text: EVENT, NO_EVENT, or why a window is left out.

    gap_s: an onset this soon after the window leaves it out, since a warning would come too late
    gray_mmhg: a window without an episode is left out where a measured pressure ahead is below this
    window_s: the window's length; an episode in it leaves it out (0: only its last moment counts)
    Raises ValueError.
    """
    if not 0 <= gap_s < ahead_s:
        raise ValueError(f"expected 0 <= gap_s < ahead_s, found gap_s {gap_s:g} and ahead_s {ahead_s:g}")
    end = np.asarray(window_end_s, dtype=np.float64)
    onset = _next(events.certain[:, 0], end)  # of the first episode that begins after the window
    event = (onset <= end + ahead_s) & ~_touches(events.possible, end, end + gap_s)
    soon = onset <= end + gap_s
    clear = ~_touches(events.possible, end, end + ahead_s)
    now = _touches(events.certain, end - window_s, end)
    hidden = _touches(events.possible, end - window_s, end)
    gray = np.zeros(len(end), dtype=bool)
    if gray_mmhg is not None:
        at = events.values < gray_mmhg
        gray = _touches(np.column_stack([events.times_s[at], events.until_s[at]]), end, end + ahead_s)
    conditions = [now, hidden, event, soon, clear & gray, clear]
    reasons = np.select(conditions, [ALREADY, UNKNOWN, EVENT, TOO_SOON, GRAY, NO_EVENT], UNKNOWN)
    return np.select([reasons == EVENT, reasons == NO_EVENT], [1.0, 0.0], np.nan), reasons


def mean_between(
    values: np.ndarray,
    times_s: np.ndarray,
    begin_s: np.ndarray,
    end_s: np.ndarray,
    hold_s: float = HOLD_S,
    min_known: float = 0.5,
) -> np.ndarray:
    """Mean over time of a numeric (N,) from begin_s to end_s (W,); NaN where less than `min_known` of it is known.

    Raises ValueError.
    """
    _check(values, times_s)
    begin, end = np.asarray(begin_s, dtype=np.float64), np.asarray(end_s, dtype=np.float64)
    if (end <= begin).any():
        raise ValueError("expected every begin_s before its end_s")
    times, known, until = _held(times_s, np.asarray(values, dtype=np.float64), hold_s)
    if not len(times):
        return np.full(len(begin), np.nan)
    knots = np.column_stack([times, until]).ravel()  # the integrals rise from times to until, and rest between
    lengths = until - times
    held_s = _integral(knots, lengths, begin, end)
    total = _integral(knots, lengths * known, begin, end)
    enough = held_s >= min_known * (end - begin)
    return np.divide(total, held_s, out=np.full(len(begin), np.nan), where=enough & (held_s > 0))


def grid(values: np.ndarray, times_s: np.ndarray, dt_s: float, n: int, start_s: float = 0.0) -> np.ndarray:
    """A numeric on an even grid, float32 (n,): point i is the mean of what was measured in [start + i dt, start + (i +
    1) dt), NaN where nothing was. Raises ValueError."""
    _check(values, times_s)
    if not dt_s > 0:
        raise ValueError(f"dt_s: expected more than 0 seconds, found {dt_s:g}")
    at = np.floor((np.asarray(times_s, dtype=np.float64) - start_s) / dt_s)
    values = np.asarray(values, dtype=np.float64)
    use = np.isfinite(values) & (at >= 0) & (at < n)
    bins = at[use].astype(np.int64)
    count = np.bincount(bins, minlength=n)
    total = np.bincount(bins, weights=values[use], minlength=n)
    return np.divide(total, count, out=np.full(n, np.nan), where=count > 0).astype(np.float32)


# --- values that hold ----------------------------------------------------------------------------------------------


def _check(values: np.ndarray, times_s: np.ndarray) -> None:
    if np.shape(values) != np.shape(times_s) or np.ndim(values) != 1:
        raise ValueError(f"expected as many values as times, found {np.shape(values)} and {np.shape(times_s)}")
    times = np.asarray(times_s, dtype=np.float64)
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise ValueError("times_s: expected finite, increasing seconds; sort them and drop those that come twice")


def _held(times_s: np.ndarray, values: np.ndarray, hold_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, values and ends (M,) of what is known: to the next value, or for the usual interval before a gap."""
    if not hold_s > 0:
        raise ValueError(f"hold_s: expected more than 0 seconds, found {hold_s:g}")
    known = np.isfinite(values)
    times, values = np.asarray(times_s, dtype=np.float64)[known], values[known]
    steps = np.diff(times)
    usual = float(np.median(steps[steps <= hold_s])) if (steps <= hold_s).any() else 0.0
    until = np.append(np.where(steps <= hold_s, times[1:], times[:-1] + usual), times[-1:] + usual)
    return times, values, until


def _runs(begin: np.ndarray, end: np.ndarray, chosen: np.ndarray, joined: np.ndarray) -> np.ndarray:
    """Begin and end (R, 2) of runs of chosen intervals; `joined` (N - 1,): one touches the next."""
    if not chosen.any():
        return np.empty((0, 2))
    with_next = np.append(chosen[:-1] & chosen[1:] & joined, False)
    with_last = np.concatenate([[False], with_next[:-1]])
    return np.column_stack([begin[chosen & ~with_last], end[chosen & ~with_next]])


def _long(intervals: np.ndarray, for_s: float) -> np.ndarray:
    return intervals[intervals[:, 1] - intervals[:, 0] >= for_s - 1e-6]  # clocks of seconds since 1970 round at 1e-7


def _next(begins: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The first of `begins` (sorted) after each of `at`; infinity where there is none."""
    return np.append(begins, np.inf)[np.searchsorted(begins, at, side="right")]


def _touches(intervals: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Whether any of the sorted, disjoint intervals [a, b) meets [begin, end]."""
    if not len(intervals):
        return np.zeros(len(begin), dtype=bool)
    i = np.searchsorted(intervals[:, 0], end, side="right") - 1  # the last that begins by then
    return (i >= 0) & (intervals[np.maximum(i, 0), 1] > begin)


def _integral(knots: np.ndarray, areas: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Between begin and end, of a step function with these areas between knots 2i and 2i + 1, and 0 elsewhere."""
    reached = np.concatenate([[0.0], np.cumsum(areas)])
    at_knots = np.column_stack([reached[:-1], reached[1:]]).ravel()
    return np.interp(end, knots, at_knots) - np.interp(begin, knots, at_knots)
