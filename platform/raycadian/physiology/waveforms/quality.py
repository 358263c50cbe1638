"""Is a window of a waveform good enough to learn from? Indices for all windows of a track at once, and reasons for
rejection.

Of any kind: samples neither measured nor repaired; at least 3 beats; no pause over 3 s (Orphanidou et al. 2015, IEEE J
Biomed Health Inform 19:832) and no more than 200 beats a minute. Slow hearts are not held against a patient under
anaesthesia.

Shape (ECG, PPG): the mean correlation of the window's beats with their template, Orphanidou's index. With beats centred
and of unit length the template is their mean, and the mean correlation with it is its length: a running sum gives it
for windows however they overlap. Edges (ECG, PPG; ours): none is far steeper than those of the window's beats.

PPG: skewness (Elgendi 2016, Bioengineering 3:21; in pieces of 3 s, as neurokit2 takes it). Over clean windows of two
real records the plain value is 0.26 to 0.66, so "at least 0.8" can't be a limit for that: the index here is the share
of a window's pieces of 3 s, one a second, that are skewed to the right. ABP: the share of normal beats by the signal
abnormality index (Sun, Reisner, Mark 2006, Comput Cardiol 33:13; thresholds of its code, jSQI 3.0).
"""

from dataclasses import dataclass

import numpy as np

from raycadian.config.signal_quality import SignalQuality
from raycadian.physiology.waveforms.beats import Beats
from raycadian.physiology.waveforms.repair import OF_SAMPLES, RATE_HZ, Reason

LIMITS = SignalQuality()


@dataclass(frozen=True)
class Quality:
    """Of W windows of one track: reasons (W,) uint16, 0 = good · beats (W,) · index (W,) float32, of shape (ECG, PPG)
    or share of normal beats (ABP), NaN where it has none · skewness (W,) float32, share of PPG pieces skewed right."""

    reasons: np.ndarray
    beats: np.ndarray
    index: np.ndarray
    skewness: np.ndarray | None = None

    @property
    def good(self) -> np.ndarray:
        return self.reasons == 0

    def counts(self) -> dict[str, int]:
        """Windows by reason; a window that has several counts under each."""
        counts = {reason.label: int(np.count_nonzero(self.reasons & reason)) for reason in Reason}
        return {label: n for label, n in counts.items() if n}


def window_starts(n: int, window_s: float = 10.0, stride_s: float = 10.0) -> tuple[np.ndarray, int]:
    """First samples of the whole windows of a track of `n` samples, (W,) int64, and a window's length in samples."""
    length, stride = round(window_s * RATE_HZ), round(stride_s * RATE_HZ)
    if length < 1 or stride < 1:
        raise ValueError(f"a window and its stride last at least {1 / RATE_HZ:g} s, found {window_s} and {stride_s} s")
    return np.arange(0, max(n - length + 1, 0), stride, dtype=np.int64), length


def assess(
    values: np.ndarray, flags: np.ndarray, beats: Beats, kind: str, starts: np.ndarray, length: int,
    limits: SignalQuality = LIMITS,
) -> Quality:  # fmt: skip
    """Quality of the windows [start, start + length) of a filtered track (N,), masked ones NaN, with its flags (N,)."""
    bad, filled = np.isnan(values), np.nan_to_num(values)
    low, high = np.searchsorted(beats.peaks, starts), np.searchsorted(beats.peaks, starts + length)
    reasons = _masked_reasons(flags, bad, starts, length, limits)
    reasons |= _rhythm_reasons(beats.peaks, low, high, starts, length, limits)
    skewness = None
    match kind:
        case "ecg":
            index = _likeness(filled, beats.peaks, bad, low, high)
            reasons |= _flag(~(index >= limits.ecg_shape), Reason.SHAPE)  # NaN is not good
            reasons |= _flag(_steepest(values, beats.peaks, starts, length, low, high) > limits.ecg_edges, Reason.EDGES)
        case "ppg":
            index = _likeness(filled, beats.peaks, bad, low, high)
            reasons |= _flag(~(index >= limits.ppg_shape), Reason.SHAPE)
            reasons |= _flag(_steepest(values, beats.peaks, starts, length, low, high) > limits.ppg_edges, Reason.EDGES)
            skewness = _skewed_share(filled, bad, starts, length)
            reasons |= _flag(~(skewness >= limits.ppg_skewness), Reason.SKEWNESS)
        case "abp":
            index = _share(normal_pressure_beats(filled, beats, bad, limits), low, high)
            reasons |= _flag(~(index >= limits.abp_normal), Reason.PRESSURE)
        case _:
            raise ValueError(f"no quality index for {kind!r}: expected ecg, ppg or abp")
    return Quality(reasons, high - low, index, skewness)


def _flag(mask: np.ndarray, reason: Reason) -> np.ndarray:
    return mask * np.uint16(reason)


def _masked_reasons(
    flags: np.ndarray, bad: np.ndarray, starts: np.ndarray, length: int, limits: SignalQuality
) -> np.ndarray:
    """Where too many samples are masked, all reasons that occur among them."""
    reasons = np.zeros(len(starts), np.uint16)
    if not bad.any():
        return reasons
    too_many = _window_sums(bad, starts, length) > limits.masked_share * length
    for reason in OF_SAMPLES:
        here = flags == reason
        if here.any():
            reasons |= _flag(too_many & (_window_sums(here, starts, length) > 0), reason)
    return reasons


def _rhythm_reasons(
    peaks: np.ndarray, low: np.ndarray, high: np.ndarray, starts: np.ndarray, length: int, limits: SignalQuality
) -> np.ndarray:
    few = high - low < limits.beats
    reasons = _flag(few, Reason.FEW_CYCLES)
    if few.all():
        return reasons
    first, last = peaks[np.minimum(low, len(peaks) - 1)], peaks[np.maximum(high - 1, 0)]
    gap = np.maximum(first - starts, starts + length - last)  # before the first beat and after the last one
    apart = np.diff(peaks)
    if len(apart):  # the longest interval between beats of the window
        gap = np.maximum(gap, np.where(few, 0, _window_max(apart, low, high - 1)))
    with np.errstate(divide="ignore", invalid="ignore"):
        fast = (high - low - 1) * 60 * RATE_HZ > limits.rate_bpm * (last - first)
    return reasons | _flag(~few & (gap > limits.pause_s * RATE_HZ), Reason.PAUSE) | _flag(~few & fast, Reason.FAST)


def _likeness(values: np.ndarray, peaks: np.ndarray, bad: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Mean correlation of each window's beats with their template, (W,) float32; NaN without a whole beat.

    A beat lasts from 0.25 s before its peak to 0.35 s after it; one that leaves the track or meets masked samples
    counts for nothing.
    """
    before, after = round(0.25 * RATE_HZ), round(0.35 * RATE_HZ)
    whole = (peaks >= before) & (peaks + after < len(values))
    inside = np.clip(peaks[:, None] + np.arange(-before, after + 1), 0, len(values) - 1)
    beats = np.asarray(values, np.float32)[inside]
    beats -= beats.mean(1, keepdims=True)
    size = np.sqrt(np.einsum("mt,mt->m", beats, beats))
    whole &= (size > 0) & ~bad[inside].any(1)
    beats *= np.where(whole, 1 / np.where(whole, size, 1), 0)[:, None]
    sums = np.zeros((len(beats) + 1, beats.shape[1]))
    np.cumsum(beats, axis=0, dtype=np.float64, out=sums[1:])
    n = np.concatenate([[0], np.cumsum(whole)])
    count = n[high] - n[low]
    length = np.linalg.norm(sums[high] - sums[low], axis=1)
    return np.where(count > 0, length / np.maximum(count, 1), np.nan).astype(np.float32)


def _steepest(
    values: np.ndarray, peaks: np.ndarray, starts: np.ndarray, length: int, low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """Steepest slope of each window over the median of steepest slopes around its beats, (W,); NaN without a beat."""
    if not len(peaks) or not len(starts):
        return np.full(len(starts), np.nan)
    slope = np.nan_to_num(np.abs(np.gradient(values)))  # 0 beside masked samples
    around = round(0.15 * RATE_HZ)
    beat = slope[np.clip(peaks[:, None] + np.arange(-around, around + 1), 0, len(values) - 1)].max(1)
    edges = np.stack([starts, starts + length], 1).ravel()
    steepest = np.maximum.reduceat(np.append(slope, 0), edges)[::2]
    usual = np.array([np.median(beat[a:b]) if b > a else np.nan for a, b in zip(low, high, strict=True)])
    with np.errstate(divide="ignore", invalid="ignore"):
        return steepest / usual


def _skewed_share(values: np.ndarray, bad: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """Share of each window's pieces of 3 s, one a second, that are skewed right, (W,) float32; constants are not."""
    piece, step = min(round(3 * RATE_HZ), length), round(RATE_HZ)
    right = _skewness(values, bad, np.arange(0, len(values) - piece + 1, step), piece) > 0
    first, last = -(-starts // step), (starts + length - piece) // step + 1
    return _share(right, first, np.maximum(last, first))


def _skewness(values: np.ndarray, bad: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """Third standardised moment of the measured samples of each stretch, (W,); NaN for a constant."""
    good = ~bad
    n = _window_sums(good, starts, length)
    scale = np.sqrt(np.dot(values, values) / max(good.sum(), 1)) or 1.0
    scaled = values.astype(np.float64) / scale  # moments about zero are well conditioned: the filter took the mean out
    with np.errstate(divide="ignore", invalid="ignore"):
        m1, m2, m3 = (
            _window_sums(power, starts, length) / n for power in (scaled, scaled * scaled, scaled * scaled * scaled)
        )
        variance = m2 - m1**2
        central = m3 - 3 * m1 * m2 + 2 * m1**3
        return np.where(variance > 1e-9 * m2, central / variance.clip(1e-300) ** 1.5, np.nan)


def normal_pressure_beats(
    values: np.ndarray, beats: Beats, bad: np.ndarray, limits: SignalQuality = LIMITS
) -> np.ndarray:
    """(M,) True where an arterial beat is normal by the signal abnormality index; a beat lasts from its foot to the
    next one.

    Systolic <= 300, diastolic >= 20, mean 25 to 200, pulse pressure >= 10 mmHg (published: 30 and 20, by which no
    beat of a patient in shock is one; keys of the card); 20 to 200 beats a minute; mean of the
    falling slopes above -375 mmHg/s (-3 a sample at 125 Hz); changes from the beat before <= 20 mmHg (systolic,
    diastolic) and <= 0.5 s. The last beat of a track and those around masked samples have no end and count as the
    others but for mean, slope and period.
    """
    if not len(beats):
        return np.empty(0, bool)
    systolic, diastolic = values[beats.peaks], values[beats.feet]
    normal = (systolic <= 300) & (diastolic >= 20) & (systolic - diastolic >= limits.abp_pulse_mmhg)
    if len(beats) > 1:
        start, end = beats.feet[:-1], beats.feet[1:]
        whole = _between(np.cumsum(bad), start, end) == 0
        period = end - start
        mean = np.add.reduceat(values, beats.feet)[:-1] / period
        fall = np.minimum(np.diff(values, append=values[-1]), 0)
        slope = np.add.reduceat(fall, beats.feet)[:-1] / np.maximum(
            np.add.reduceat(fall < 0, beats.feet, dtype=np.int64)[:-1], 1
        )
        apart = period / RATE_HZ
        steady = (np.abs(np.diff(systolic)) <= 20) & (np.abs(np.diff(diastolic)) <= 20)
        shape = (mean >= limits.abp_mean_mmhg) & (mean <= 200) & (apart >= 0.3) & (apart <= 3.0) & (slope > -3.0)
        normal[:-1] &= shape | ~whole
        normal[1:] &= steady | ~whole
        normal[1:-1] &= (np.abs(np.diff(apart)) <= 0.5) | ~(whole[1:] & whole[:-1])
    return normal


# --- sums over windows ------------------------------------------------------------------------------------------------


def _between(sums: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Sum over [start, end) from inclusive running sums."""
    return np.where(end > 0, sums[end - 1], 0) - np.where(start > 0, sums[start - 1], 0)


def _window_sums(values: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    sums = np.cumsum(values, dtype=np.int64 if values.dtype == bool else np.float64)
    return _between(sums, starts, starts + length)


def _share(normal: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    n = np.concatenate([[0], np.cumsum(normal)])
    return np.where(high > low, (n[high] - n[low]) / np.maximum(high - low, 1), np.nan).astype(np.float32)


def _window_max(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Largest of values[low:high] of each window, 0 where that is empty."""
    padded = np.append(values, 0)
    pairs = np.stack([low, np.maximum(high, low)], 1).clip(0, len(values)).ravel()
    return np.where(high > low, np.maximum.reduceat(padded, pairs)[::2], 0)
