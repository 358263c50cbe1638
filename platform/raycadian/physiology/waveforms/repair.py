"""What is wrong with the samples of a waveform, and the repair of it before anything is filtered.

A sample carries the reasons for which it is not a measurement (`Reason`, bits). Short stretches of such samples are
interpolated and say so (REPAIRED); longer ones are masked: they hold a straight line while filters run over them, so
that no NaN spreads, and become NaN afterwards. Windows are rejected by the same reasons and by those of
`signal_quality`.
"""

from dataclasses import dataclass
from enum import IntFlag

import numpy as np

RATE_HZ = 125.0  # of everything after resampling


class Reason(IntFlag):
    """Why a sample is no measurement (the first four), or why a window is rejected (any)."""

    MISSING = 1  # NaN or infinite
    FLAT = 2  # the same value for longer than Kind.flat_s
    SATURATED = 4  # the same value at an end of the track's range for longer than Kind.rail_s
    IMPLAUSIBLE = 8  # outside Kind.limits
    FEW_CYCLES = 16  # fewer than 3 beats in the window
    PAUSE = 32  # no beat for more than 3 s
    FAST = 64  # more than 200 beats a minute
    SHAPE = 128  # beats unlike one another: the ECG's index, and that of pulses
    EDGES = 256  # ECG and PPG: far steeper than its beats: electrocautery, a loose electrode, a moving finger
    SKEWNESS = 512  # PPG
    PRESSURE = 1024  # ABP: too many abnormal beats

    @property
    def label(self) -> str:
        return (self.name or "").lower().replace("_", " ")


OF_SAMPLES = (Reason.MISSING, Reason.FLAT, Reason.SATURATED, Reason.IMPLAUSIBLE)
_RAIL_TIMES = 3  # that a stream stops at its highest value before that is taken for the recorder's end
REPAIRED = np.uint8(128)  # beside a sample's reason: interpolated, the value may be used


@dataclass(frozen=True)
class Kind:
    """How a kind of signal is repaired. Values are in mV (ECG), mmHg (ABP), or whatever a PPG comes in.

    `limits`: outside is no such signal. `max_gap_s`: what is interpolated at most: less than a QRS complex for the ECG,
    less than an upstroke for pulses. `flat_s`, `rail_s`: how long an exactly constant value is believed, anywhere and
    at the ends of the range. `min_rate_hz`: at which the signal's band is still there.
    """

    limits: tuple[float, float]
    max_gap_s: float
    min_rate_hz: float
    flat_s: float = 0.5
    rail_s: float = 0.1


KINDS = {
    "ecg": Kind(limits=(-10.0, 10.0), max_gap_s=0.04, min_rate_hz=100.0),
    "ppg": Kind(limits=(-np.inf, np.inf), max_gap_s=0.12, min_rate_hz=25.0),
    "abp": Kind(limits=(0.0, 300.0), max_gap_s=0.12, min_rate_hz=50.0),  # 300: Sun et al. 2006; below 0, a wrong zero
}


def kind_of(name: str) -> Kind:
    if name not in KINDS:
        raise ValueError(
            f"a waveform is one of {', '.join(KINDS)}, found {name!r}: the card's tracks say which is what"
        )
    return KINDS[name]


def check_rate(rate_hz: float, kind: Kind) -> None:
    if not (np.isfinite(rate_hz) and kind.min_rate_hz <= rate_hz <= 1e5):
        raise ValueError(
            f"expected a sampling rate from {kind.min_rate_hz:g} to 100000 Hz for such a waveform, found {rate_hz}: "
            "a numeric track (0.5 Hz) is no waveform, and a period is no rate"
        )


def checked(values: np.ndarray, rate_hz: float, kind: Kind) -> np.ndarray:
    """The values as a float32 array (N,), not copied where they are one. Raises ValueError."""
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise ValueError(f"a track is one array of numbers, found shape {values.shape} of {values.dtype}")
    if not len(values):
        raise ValueError("the track has no samples: leave it out of the case, or read the file again")
    check_rate(rate_hz, kind)
    return values.astype(np.float32, copy=False)


# --- which samples ----------------------------------------------------------------------------------------------------


def runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends (exclusive) of the stretches of True."""
    edge = np.flatnonzero(mask[1:] != mask[:-1]) + 1
    edge = np.concatenate([[0] if mask[:1].any() else [], edge, [len(mask)] if mask[-1:].any() else []]).astype(
        np.int64
    )
    return edge[::2], edge[1::2]


def flag_samples(values: np.ndarray, rate_hz: float, kind: Kind) -> np.ndarray:
    """The reason of each sample, (N,) uint8, 0 where it is a measurement."""
    flags = np.zeros(len(values), dtype=np.uint8)
    low, high = kind.limits
    finite = np.isfinite(values)
    plausible = finite & (values >= low) & (values <= high)
    flags[finite & ~plausible] = Reason.IMPLAUSIBLE
    flags[~finite] = Reason.MISSING
    start, end = runs(values[1:] == values[:-1])  # an equal pair begins at its first sample, a run ends one later
    long = end - start + 1 >= min(kind.rail_s, kind.flat_s) * rate_hz
    start, end = start[long], end[long] + 1
    if len(start):
        rails = values.min(where=plausible, initial=np.inf), values.max(where=plausible, initial=-np.inf)
        flat = end - start >= kind.flat_s * rate_hz
        rail = (values[start] == rails[0]) | (values[start] == rails[1])
        for first, last, is_flat in zip(start[flat | rail], end[flat | rail], flat[flat | rail], strict=True):
            part = flags[first:last]
            part[part == 0] = Reason.FLAT if is_flat else Reason.SATURATED
    return flags


# --- repair -----------------------------------------------------------------------------------------------------------


def repair(values: np.ndarray, flags: np.ndarray, rate_hz: float, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """Finite values (N,) and flags with REPAIRED where a stretch was short enough to be interpolated.

    Every flagged stretch becomes a straight line between its neighbours; at the ends of the track their value.
    A track without a measurement becomes zeros. Nothing is changed in place.
    """
    bad = flags != 0
    start, end = runs(bad)
    if not len(start):
        return values, flags
    values, flags = values.copy(), flags.copy()
    inside = np.flatnonzero(bad)
    known = np.unique(np.concatenate([start - 1, end]))
    known = known[(known >= 0) & (known < len(values))]  # the measurements beside the stretches: all that a line needs
    values[inside] = np.interp(inside, known, values[known]) if len(known) else 0.0
    short = (end - start <= kind.max_gap_s * rate_hz) & (start > 0) & (end < len(values))
    flags[inside[np.repeat(short, end - start)]] |= REPAIRED
    return values, flags


class CausalRepair:
    """Repair of samples as they come: what is no measurement holds the last one, for `max_gap_s` as REPAIRED, then
    masked; what is saturated is masked at once.

    A constant is known to be one only once it has lasted, so its beginning stays. `rails`, the recorder's range, is not
    in the data seen so far; where it isn't given, a sample is saturated at the highest or lowest value so far from the
    third time on that the track stops there: a clipped pulse does at every beat.
    """

    def __init__(self, kind: Kind, rate_hz: float, rails: tuple[float, float] | None = None):
        self._kind, self._rate_hz, self._rails = kind, rate_hz, rails
        self._held, self._previous = np.float32(0), np.float32(np.nan)
        self._equal_for, self._bad_for = 0, 1 << 40  # samples; nothing was ever good
        self._ends = (_End(), _End())  # of the track so far: its top, and that of the track upside down

    def push(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finite values (n,) and flags (n,) of float32 samples (n,)."""
        if not len(values):
            return values, np.empty(0, np.uint8)
        kind, at = self._kind, np.arange(len(values))
        different = values != np.concatenate([[self._previous], values[:-1]])
        equal_for = at - np.maximum.accumulate(np.where(different, at, -1 - self._equal_for)) + 1
        flags = np.zeros(len(values), np.uint8)
        rail = self._at_rail(values, equal_for)
        flags[rail & (equal_for >= kind.rail_s * self._rate_hz)] = Reason.SATURATED
        flags[equal_for >= kind.flat_s * self._rate_hz] = Reason.FLAT
        flags[~((values >= kind.limits[0]) & (values <= kind.limits[1]))] = Reason.IMPLAUSIBLE
        flags[~np.isfinite(values)] = Reason.MISSING
        good = np.maximum.accumulate(np.where(flags == 0, at, -1))
        filled = np.where(good >= 0, values[good], self._held)
        bad_for = at - good + np.where(good >= 0, 0, self._bad_for)
        held = (flags != 0) & (flags != Reason.SATURATED)  # to hold what is cut off repairs nothing
        flags[held & (bad_for <= kind.max_gap_s * self._rate_hz)] |= REPAIRED
        self._held, self._previous = filled[-1], values[-1]
        self._equal_for, self._bad_for = int(equal_for[-1]) - 1, int(bad_for[-1])
        return filled, flags

    def _at_rail(self, values: np.ndarray, equal_for: np.ndarray) -> np.ndarray:
        """(n,) True at an end of the recorder's range, given or as seen so far."""
        if self._rails:
            return (values <= self._rails[0]) | (values >= self._rails[1])
        low, high = self._kind.limits
        stops = equal_for == np.ceil(self._kind.rail_s * self._rate_hz)  # once a stretch, when it has lasted
        plausible = np.isfinite(values) & (values >= low) & (values <= high)
        up, down = (np.where(plausible, v, np.float32(-np.inf)) for v in (values, -values))
        top, bottom = self._ends
        return top.push(up, stops) | bottom.push(down, stops)


class _End:
    """The highest value so far, and how often the track has stopped there."""

    def __init__(self) -> None:
        self._value, self._times = np.float32(-np.inf), 0

    def push(self, values: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """(n,) True where a sample has that value, from the third stop at it on."""
        highest = np.maximum.accumulate(np.concatenate([[self._value], values]))
        at_end = values == highest[1:]
        times = self._times + np.cumsum(stops & at_end)
        rises = highest[1:] > highest[:-1]  # a new highest value has been stopped at never, or just now
        times -= np.maximum.accumulate(np.where(rises, times - (stops & at_end), 0))
        self._value, self._times = highest[-1], int(times[-1])
        return at_end & (times >= _RAIL_TIMES) & np.isfinite(values)


def masked(flags: np.ndarray) -> np.ndarray:
    """True where a sample is neither measured nor repaired."""
    return (flags != 0) & (flags < REPAIRED)


def count_samples(flags: np.ndarray) -> dict[str, int]:
    """Samples by reason, and how many of them were repaired."""
    by_bits = np.bincount(flags[flags != 0], minlength=256)
    counts = {r.label: int(by_bits[r] + by_bits[r | REPAIRED]) for r in OF_SAMPLES} | {
        "repaired": int(by_bits[REPAIRED:].sum())
    }
    return {label: n for label, n in counts.items() if n}
