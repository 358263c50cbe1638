"""Resampling to 125 Hz and the filters of each kind of waveform: the same code at once, in chunks, and as samples come.

Band-pass ECG 0.5-40 Hz (Butterworth), PPG 0.5-8 Hz (Chebyshev II, 20 dB: its edges are those of the stop band),
low-pass ABP 20 Hz (Butterworth); the order, 4, is that of the design, as in scipy and MATLAB: a band-pass has twice as
many poles. Zero-phase filtering runs forwards and backwards, which squares the gain: -6 dB at a Butterworth's edge.
"""

from fractions import Fraction
from functools import lru_cache

import numpy as np
from scipy import signal

from raycadian.physiology.waveforms.repair import RATE_HZ

_MAX_TERMS = (100, 1000, 10_000, 50_000)  # of a ratio of rates, the simplest first: a term is 20 taps
_MAX_DRIFT = 1e-8  # of a ratio: 1 ms in a day; a rate kept in 32 bits is as good
_PAD_S = 2.0  # mirrored at both ends of a track: the high-pass settles
_CHUNK = 1 << 18  # input samples resampled at a time


@lru_cache(16)
def design(kind: str, rate_hz: float = RATE_HZ) -> np.ndarray:
    """Second-order sections (S, 6) of a kind's filter."""
    match kind:
        case "ecg":
            return signal.butter(4, (0.5, 40.0), "bandpass", fs=rate_hz, output="sos")
        case "ppg":
            return signal.cheby2(4, 20.0, (0.5, 8.0), "bandpass", fs=rate_hz, output="sos")
        case "abp":
            return signal.butter(4, 20.0, "lowpass", fs=rate_hz, output="sos")
        case (
            "pulse"
        ):  # where beats are looked for: at 40 a minute the steeper filter of the PPG lifts the dicrotic wave
            return signal.butter(3, (0.5, 8.0), "bandpass", fs=rate_hz, output="sos")
        case _:
            raise ValueError(f"no filter for {kind!r}: expected ecg, ppg or abp")


def zero_phase(values: np.ndarray, kind: str) -> np.ndarray:
    """The track (N,) at 125 Hz, filtered without delay; float64. Finite values in, finite values out."""
    pad = min(int(_PAD_S * RATE_HZ), len(values) - 1)
    return signal.sosfiltfilt(design(kind), values, padlen=pad)


class Causal:
    """A kind's filter over samples as they come. In pieces or at once, the result is the same to the last bit."""

    def __init__(self, kind: str):
        self._sections = design(kind)
        self._state: np.ndarray | None = None

    def push(self, values: np.ndarray) -> np.ndarray:
        """Filtered samples (n,), float64; the first sample ever seen is taken to have been there forever."""
        if not len(values):
            return np.empty(0)
        if self._state is None:
            self._state = signal.sosfilt_zi(self._sections) * float(values[0])
        filtered, self._state = signal.sosfilt(self._sections, np.asarray(values, np.float64), zi=self._state)
        return filtered


# --- resampling -------------------------------------------------------------------------------------------------------


@lru_cache(64)
def ratio(rate_hz: float, to_hz: float = RATE_HZ) -> tuple[int, int]:
    """(up, down) with rate * up / down = to. Raises ValueError where no such fraction of modest terms keeps time."""
    exact = Fraction(to_hz) / Fraction(rate_hz)
    for limit in _MAX_TERMS:
        near = exact.limit_denominator(limit)
        if near and near.numerator <= limit and abs(near / exact - 1) < _MAX_DRIFT:
            return near.numerator, near.denominator
    raise ValueError(
        f"{rate_hz} Hz can't be brought to {to_hz:g} Hz without drift: expected a ratio of integers up to "
        f"{_MAX_TERMS[-1]}. The fix is almost always the recorder's nominal rate, with fewer digits"
    )


@lru_cache(8)  # up to a million taps each, and a server meets any rate
def _low_pass(up: int, down: int) -> np.ndarray:
    """Linear-phase FIR at the rate times `up`, Kaiser beta 5: of the lower rate's half, flat to 2/3, -50 dB beyond."""
    larger = max(up, down)
    return up * signal.firwin(20 * larger + 1, 0.84 / larger, window=("kaiser", 5.0))


class Resampler:
    """Resamples evenly sampled values with their flags, in pieces of any size: what comes out does not depend on them.

    Output m lies at time m / to_hz exactly: the filter's delay is taken out, and output waits until its support is
    there. The ends are held. An output carries the flags of the inputs nearest to it. `push(last=True)` gives the rest:
    ceil(N * to / rate) outputs in all.
    """

    def __init__(self, rate_hz: float, to_hz: float = RATE_HZ):
        self.up, self.down = ratio(float(rate_hz), to_hz)
        self._taps = np.ones(1) if self.up == self.down else _low_pass(self.up, self.down)
        self._half = len(self._taps) // 2  # in steps of the rate times `up`
        self._reach = self._half // self.up + 1  # inputs on either side of an output
        self._values = np.empty(0)  # inputs from index `_first` on
        self._flags = np.empty(0, np.uint8)
        self._first = self._seen = self._next = 0

    def push(self, values: np.ndarray, flags: np.ndarray, last: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The outputs (n,) float64 and flags (n,) uint8 that these inputs complete."""
        if not self._seen and len(values):
            self._values, self._flags = np.full(self._reach, float(values[0])), np.zeros(self._reach, np.uint8)
            self._first = -self._reach
        self._seen += len(values)
        self._values = np.concatenate([self._values, values])
        self._flags = np.concatenate([self._flags, flags])
        if last and self._seen:
            self._values = np.concatenate([self._values, np.full(self._reach, self._values[-1])])
            self._flags = np.concatenate([self._flags, np.zeros(self._reach, np.uint8)])
            stop = -(-self._seen * self.up // self.down)
        else:
            stop = max((self._seen - self._reach) * self.up // self.down, self._next)
        return self._outputs(stop, last)

    def _outputs(self, stop: int, last: bool) -> tuple[np.ndarray, np.ndarray]:
        n = stop - self._next
        if n <= 0:
            return np.empty(0), np.empty(0, np.uint8)
        at = self._next * self.down - self._first * self.up  # steps of the rate times `up` after the first value kept
        if self.up == self.down:  # 1 / 1
            values = self._values[at : at + n]
        else:
            lead = -(at + self._half) % self.down  # zeros before the taps put an output of upfirdn where ours is
            fir = np.concatenate([np.zeros(lead), self._taps])
            skip = (at + self._half + lead) // self.down
            values = signal.upfirdn(fir, self._values, self.up, self.down)[skip : skip + n]
        flags = self._nearest_flags(n, last)
        self._next = stop
        keep = max(stop * self.down // self.up - self._reach - 1 - self._first, 0)
        self._values, self._flags, self._first = self._values[keep:], self._flags[keep:], self._first + keep
        return values, flags

    def _nearest_flags(self, n: int, last: bool) -> np.ndarray:
        """Of the input nearest to each output and, at a lower rate, of every input that is nearer to it than to others.

        Inputs after the last output of all are that one's.
        """
        fine = (self._next + np.arange(n)) * self.down
        flags = self._flags[(fine + self.up // 2) // self.up - self._first]
        bad = np.flatnonzero(self._flags)
        near = ((bad + self._first) * self.up + self.down // 2) // self.down - self._next
        near = np.minimum(near, n - 1) if last else near
        inside = (near >= 0) & (near < n)
        np.maximum.at(flags, near[inside], self._flags[bad[inside]])
        return flags


def resample(values: np.ndarray, flags: np.ndarray, rate_hz: float) -> tuple[np.ndarray, np.ndarray]:
    """A whole track at 125 Hz, (M,) float32 and flags (M,) uint8, with the memory of a chunk beside them."""
    resampler = Resampler(rate_hz)
    n = -(-len(values) * resampler.up // resampler.down)
    out, out_flags = np.empty(n, np.float32), np.empty(n, np.uint8)
    done = 0
    for begin in range(0, len(values), _CHUNK):
        end = begin + _CHUNK
        piece, piece_flags = resampler.push(values[begin:end], flags[begin:end], last=end >= len(values))
        out[done : done + len(piece)], out_flags[done : done + len(piece)] = piece, piece_flags
        done += len(piece)
    assert done == n, (done, n)
    return out, out_flags
