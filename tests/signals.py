"""Synthetic waveforms that several tests share: neurokit2's ECG and PPG, arterial pressure with its beats planted."""

from functools import cache
from pathlib import Path

import numpy as np

SECONDS = 60


@cache
def simulated(kind: str, rate_hz: int = 500, seconds: int = SECONDS, heart_rate: int = 75) -> np.ndarray:
    """(N,) float32, read-only: ECG in mV, PPG, ABP in mmHg."""
    import neurokit2 as nk

    common = {"duration": seconds, "sampling_rate": rate_hz, "heart_rate": heart_rate, "random_state": 3}
    match kind:
        case "ecg":
            values = nk.ecg_simulate(noise=0.01, random_state_distort=4, **common)
        case "ppg":
            values = nk.ppg_simulate(random_state_distort=4, **common)
        case "abp":
            values = pressure(np.arange(seconds * rate_hz) / rate_hz, beat_times(seconds, heart_rate))
    values = np.asarray(values, np.float32)
    values.setflags(write=False)
    return values


def beat_times(seconds: float, heart_rate: float = 75, seed: int = 0) -> np.ndarray:
    """Onsets in s: a regular rhythm with 2% of variation."""
    apart = 60 / heart_rate * (1 + 0.02 * np.random.default_rng(seed).normal(size=int(seconds * heart_rate / 60) + 2))
    return np.cumsum(apart) - apart[0] / 2


def pressure(t_s: np.ndarray, onsets_s: np.ndarray, diastolic: float = 70.0, pulse: float = 45.0) -> np.ndarray:
    """mmHg: from each onset a systolic wave that peaks 0.16 s later and a dicrotic one, over a slow fall."""
    since_s = t_s - np.concatenate([[onsets_s[0] - 1], onsets_s])[np.searchsorted(onsets_s, t_s, side="right")]
    rise = np.clip(since_s / 0.16, 0, None)
    systolic = rise**2 * np.exp(2 * (1 - rise))  # 0 at the onset, 1 at its peak
    return diastolic + pulse * systolic + 0.2 * pulse * np.exp(-(((since_s - 0.45) / 0.06) ** 2))


def real_track(shared: Path, record: str, signal: str) -> tuple[np.ndarray, float]:
    """Samples (N,) and rate of a signal of a real WFDB record."""
    import wfdb

    found = wfdb.rdrecord(str(shared / "biosignals" / record), smooth_frames=False)
    i = found.sig_name.index(signal)
    return np.asarray(found.e_p_signal[i]), float(found.fs * found.samps_per_frame[i])


def matched(ours: np.ndarray, theirs: np.ndarray, within_s: float = 0.05, rate_hz: float = 125.0) -> float:
    """Share of our beats that have one of theirs within `within_s`."""
    if not len(ours) or not len(theirs):
        return 0.0
    return float((np.abs(ours[:, None] - theirs).min(1) <= within_s * rate_hz).mean())
