"""A waveform as recorded -> a waveform to learn from: repaired, at 125 Hz, filtered, with its beats and the quality of
its windows.

    repair -> resample -> filter -> beats -> quality

`prepare` does it for a whole track, forwards and backwards in time; `Stream` for samples as they come;
`prepare(causal=True)` is a Stream fed with the track. Tracks of a case begin at the same time; `windows_quality` puts
them together.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from raycadian.config.signal_quality import SignalQuality
from raycadian.physiology.waveforms.beats import Beats, find_beats
from raycadian.physiology.waveforms.filters import Causal, Resampler, resample, zero_phase
from raycadian.physiology.waveforms.quality import LIMITS, Quality, assess, window_starts
from raycadian.physiology.waveforms.repair import (
    KINDS,
    RATE_HZ,
    CausalRepair,
    Kind,
    check_rate,
    checked,
    count_samples,
    flag_samples,
    kind_of,
    masked,
    repair,
)

__all__ = ["KINDS", "RATE_HZ", "Prepared", "Stream", "WindowsQuality", "prepare", "windows_quality"]

_PIECE_S = 600.0  # of a track that goes through a Stream
_LATE_S = 0.1  # a causal filter's delay, at most: that of the PPG at 1.5 to 6 Hz


@dataclass(frozen=True)
class Prepared:
    """A track at 125 Hz.

    values (N,) float32, NaN exactly where nothing was measured or repaired · flags (N,) uint8, the reason of each
    sample that is not as measured, with REPAIRED where it was interpolated · samples: how many by reason, at the
    recorder's rate.
    """

    kind: str
    values: np.ndarray
    flags: np.ndarray
    beats: Beats
    samples: dict[str, int]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def bad(self) -> np.ndarray:
        """(N,) True where the track holds nothing."""
        return masked(self.flags)

    def quality(self, starts: np.ndarray, length: int, limits: SignalQuality = LIMITS) -> Quality:
        """Of the windows [start, start + length), in samples; they may overlap. Raises ValueError where one leaves the
        track."""
        starts = np.asarray(starts, np.int64)
        if len(starts) and not (starts.min() >= 0 and starts.max() + length <= len(self)):
            raise ValueError(
                f"windows from {starts.min()} to {starts.max() + length} leave a track of {len(self)} samples"
            )
        return assess(self.values, self.flags, self.beats, self.kind, starts, length, limits)


def prepare(
    values: np.ndarray, rate_hz: float, kind: str, *, causal: bool = False, upright: bool = False,
    rails: tuple[float, float] | None = None, spec: Kind | None = None,
) -> Prepared:  # fmt: skip
    """A track as recorded, (N,) in mV (ecg), mmHg (abp) or any unit (ppg), NaN where missing.

    upright: an ECG whose QRS points down is turned over (`beats.inverted` says so either way). rails: the recorder's
    lowest and highest value, of a causal repair, which else has to find them. spec: other settings of the repair.
    Raises ValueError for a kind, a rate, or an array that is none.
    """
    spec = spec or kind_of(kind)
    values = checked(values, rate_hz, spec)
    if causal:
        repaired, flags, samples = _through_stream(values, rate_hz, kind, spec, rails)
        del values
        filtered = Causal(kind).push(repaired)
    else:
        repaired, repaired_flags = repair(values, flag_samples(values, rate_hz, spec), rate_hz, spec)
        del values  # hours at the recorder's rate, which nothing needs from here on
        samples = count_samples(repaired_flags)
        repaired, flags = resample(repaired, repaired_flags, rate_hz)
        filtered = zero_phase(repaired, kind)
    return _with_beats(kind, repaired, filtered, flags, samples, causal, upright)


def _with_beats(
    kind: str, repaired: np.ndarray, filtered: np.ndarray, flags: np.ndarray, samples: dict[str, int], causal: bool,
    upright: bool = False,
) -> Prepared:  # fmt: skip
    """Of a track at 125 Hz, before (`repaired`) and after the filter."""
    bad = masked(flags)
    beats = find_beats(filtered, repaired, kind, bad, late_s=_LATE_S if causal else 0.0)
    values = np.where(bad, np.nan, -filtered if upright and beats.inverted else filtered).astype(np.float32)
    return Prepared(kind, values, flags, beats, samples)


class Stream:
    """A track as its samples come: repaired, at 125 Hz, filtered, all causally, with state between pushes.

    What comes out does not depend on the pieces, to the last bit. Output waits for the resampler's support: 80 ms from
    500 Hz. The last `keep_s` seconds of it stay for `recent`. samples: counts by reason so far, at the recorder's rate.
    """

    def __init__(
        self, kind: str, rate_hz: float, *, keep_s: float = 0.0, rails: tuple[float, float] | None = None,
        spec: Kind | None = None,
    ):  # fmt: skip
        self._kind, self._spec, self._rate_hz = kind, spec or kind_of(kind), rate_hz
        check_rate(rate_hz, self._spec)
        self._repair = CausalRepair(self._spec, rate_hz, rails)
        self._resampler, self._filter = Resampler(rate_hz), Causal(kind)
        self._keep = round(keep_s * RATE_HZ)
        self._kept = np.empty(0), np.empty(0), np.empty(0, np.uint8)  # before the filter, after it, flags
        self.samples: dict[str, int] = {}

    def push(self, values: np.ndarray, last: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Samples (n,) -> filtered values (m,) float64, finite, and their flags (m,); `last` gives the rest."""
        repaired, flags = self.at_125(values, last)
        filtered = self._filter.push(repaired)
        if self._keep:
            new = repaired, filtered, flags
            self._kept = tuple(np.concatenate(pair)[-self._keep :] for pair in zip(self._kept, new, strict=True))
        return filtered, flags

    def recent(self) -> Prepared:
        """What was kept, with its beats: of `prepare(causal=True)` the values, and beats that know nothing before."""
        repaired, filtered, flags = self._kept
        if not len(repaired):
            raise ValueError(
                "nothing is kept: give the Stream a keep_s, and push samples, before asking for what is recent"
            )
        return _with_beats(self._kind, repaired, filtered, flags, dict(self.samples), causal=True)

    def at_125(self, values: np.ndarray, last: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """As `push`, not filtered, and not kept."""
        values = checked(values, self._rate_hz, self._spec) if len(values) else np.empty(0, np.float32)
        repaired, flags = self._repair.push(values)
        for reason, n in count_samples(flags).items():
            self.samples[reason] = self.samples.get(reason, 0) + n
        return self._resampler.push(repaired, flags, last)


def _through_stream(
    values: np.ndarray, rate_hz: float, kind: str, spec: Kind, rails: tuple[float, float] | None
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Causally repaired values at 125 Hz, their flags, samples by reason."""
    stream, piece = Stream(kind, rate_hz, rails=rails, spec=spec), int(_PIECE_S * rate_hz)
    pieces = [stream.at_125(values[i : i + piece], i + piece >= len(values)) for i in range(0, len(values), piece)]
    repaired, flags = (np.concatenate(part) for part in zip(*pieces, strict=True))
    return repaired, flags, stream.samples


# --- the windows of a case --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WindowsQuality:
    """Of the W windows of a case: starts (W,) in samples at 125 Hz · length in samples · tracks: name -> Quality."""

    starts: np.ndarray
    length: int
    tracks: dict[str, Quality]

    @property
    def good(self) -> np.ndarray:
        """(W,) True where every track is good."""
        return np.logical_and.reduce([quality.good for quality in self.tracks.values()])

    def counts(self) -> dict[str, int]:
        """Rejected windows by `track: reason`; a window that has several counts under each."""
        return {f"{track}: {reason}": n for track, q in self.tracks.items() for reason, n in q.counts().items()}


def windows_quality(
    tracks: Mapping[str, Prepared], window_s: float = 10.0, stride_s: float = 10.0, limits: SignalQuality = LIMITS
) -> WindowsQuality:
    """Quality of the whole windows that all tracks of a case have. Raises ValueError without a track."""
    if not tracks:
        raise ValueError("no track to cut windows from: expected at least one of ecg, ppg, abp")
    starts, length = window_starts(min(map(len, tracks.values())), window_s, stride_s)
    return WindowsQuality(starts, length, {name: t.quality(starts, length, limits) for name, t in tracks.items()})
