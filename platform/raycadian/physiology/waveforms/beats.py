"""Heart beats in ECG, PPG and arterial pressure at 125 Hz: whole tracks at once, without a loop over beats.

ECG: the detector of NeuroKit (Makowski et al. 2021, Behav Res Methods 53:1689), regions where the smoothed gradient
exceeds its own average, with a floor against noise between slow beats. Pulses: Elgendi et al. 2013 (PLoS ONE 8:e76585),
two moving averages of the squared signal.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import percentile_filter, uniform_filter1d

from raycadian.physiology.waveforms.filters import zero_phase
from raycadian.physiology.waveforms.repair import RATE_HZ, runs

_MIN_APART_S = 0.2  # between beats: 300 a minute
_INVERTED = 1.5  # downward over upward deflection of the QRS, median, from which an ECG counts as inverted


@dataclass(frozen=True)
class Beats:
    """Of one track, as sample numbers at 125 Hz, ascending.

    peaks (M,): R peaks, or systolic peaks · feet (M,): the onset of each pulse, its diastolic minimum; for an ECG the
    peaks themselves · inverted: the QRS points down, and `peaks` are its minima.
    """

    peaks: np.ndarray
    feet: np.ndarray
    inverted: bool = False

    def __len__(self) -> int:
        return len(self.peaks)


def find_beats(filtered: np.ndarray, repaired: np.ndarray, kind: str, bad: np.ndarray, late_s: float = 0.0) -> Beats:
    """Beats of a track (N,), filtered and before; its `bad` samples (N,) hold nothing, and beats there are left out.

    `late_s`: how much later than in `repaired` something may be in `filtered`, as a causal filter makes it.
    """
    beats = ecg_beats(filtered) if kind == "ecg" else pulse_beats(filtered, repaired, late_s)
    keep = ~(bad[beats.peaks] | bad[beats.feet])
    return Beats(beats.peaks[keep], beats.feet[keep], beats.inverted)


def ecg_beats(values: np.ndarray) -> Beats:
    """R peaks of a filtered ECG (N,)."""
    steepness = _mean(np.abs(np.gradient(values)) if len(values) > 1 else np.zeros(len(values)), 0.1)
    start, end = runs(steepness > 1.5 * _mean(steepness, 0.75))
    long = end - start >= 0.4 * np.median(end - start) if len(start) else np.empty(0, bool)
    start, end = _strong(steepness, start[long], end[long])
    if not len(start):
        return Beats(start, start)
    up, down = _extreme(values, start, end), _extreme(-values, start, end)
    inverted = bool(np.median(-values[down]) > _INVERTED * np.median(values[up]))
    peaks = _apart(down if inverted else up, steepness)
    return Beats(peaks, peaks, inverted)


def pulse_beats(filtered: np.ndarray, repaired: np.ndarray, late_s: float = 0.0) -> Beats:
    """Systolic peaks and the feet before them in a filtered PPG or arterial pressure (N,), in the pulses' own band."""
    pulse = zero_phase(repaired, "pulse")
    power = np.maximum(pulse, 0.0) ** 2
    floor = _mean(power, 10.0)
    floor *= 0.02
    floor += _mean(power, 0.667)
    start, end = runs(_mean(power, 0.111) > floor)
    del power, floor  # hours of values
    long = end - start >= round(0.111 * RATE_HZ)
    if not long.any():
        return Beats(start[:0], start[:0])
    peaks = _apart(_extreme(pulse, start[long], end[long]), pulse)
    early, late = (
        round(0.1 * RATE_HZ),
        round((0.1 + late_s) * RATE_HZ),
    )  # the other filter has its peak a little elsewhere
    peaks = np.unique(_extreme(filtered, np.maximum(peaks - early, 0), np.minimum(peaks + late + 1, len(filtered))))
    before = np.maximum(np.concatenate([[0], peaks[:-1]]), peaks - round(0.5 * RATE_HZ))
    return Beats(peaks, _extreme(-filtered, before, peaks + 1))


def _mean(values: np.ndarray, width_s: float) -> np.ndarray:
    return uniform_filter1d(values, max(round(width_s * RATE_HZ), 1), mode="nearest")


def _extreme(values: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Where the largest value of each stretch [start, end) is, the first of equals. Stretches may overlap."""
    width = int((end - start).max())
    inside = np.minimum(start[:, None] + np.arange(width), end[:, None] - 1)  # a repeated last one is never first
    return start + values[inside].argmax(1)


def _strong(steepness: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without the regions far below those around them: noise between slow beats also exceeds its own average."""
    if not len(start):
        return start, end
    height = np.maximum.reduceat(steepness, start)
    keep = height > 0.3 * percentile_filter(height, 80, size=15, mode="nearest")
    return start[keep], end[keep]


def _apart(peaks: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Of peaks too close to one another, the stronger."""
    while len(peaks) > 1:
        close = np.flatnonzero(np.diff(peaks) < _MIN_APART_S * RATE_HZ)
        if not len(close):
            break
        close = close[np.concatenate([[True], np.diff(close) > 1])]  # pair by pair: a chain is decided from its start
        weaker = close + (strength[peaks[close]] >= strength[peaks[close + 1]])
        peaks = np.delete(peaks, weaker)
    return peaks
