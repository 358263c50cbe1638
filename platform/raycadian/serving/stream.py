"""Samples as they come: every step a window, judged and estimated as soon as its last sample is filtered.

Causal filters with state between messages: what comes out does not depend on how the samples were cut into messages,
and a window's estimate is that of the whole record served at once. No Ray, no HTTP.
"""

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from raycadian.config import waveform_kind
from raycadian.data.label_windows import LabelledWindows
from raycadian.data.marks import Marks, QualityMask, context_points, good_starts, points_of
from raycadian.data.series import Recordings, build_series
from raycadian.modalities.biosignals.prepare import DT_S, START
from raycadian.modalities.biosignals.request import as_channel
from raycadian.physiology.waveforms import pipeline as waveforms
from raycadian.types import Recording, Track

if TYPE_CHECKING:
    from raycadian.serving.label import LabelPredictor

_BEFORE_S = 30.0  # kept before a window: beats are found by their neighbours
MAX_PUSH_S = 60.0  # of samples in one message


class SignalStream:
    """One person's channels from the first message on. Raises ValueError where the model can't follow a stream."""

    def __init__(self, predictor: "LabelPredictor", channels: Mapping[str, tuple[float, str]]):
        """`channels`: rate in Hz and unit of each channel that the model reads."""
        if getattr(predictor.card, "filters", None) != "causal":
            raise ValueError(
                f"{predictor.name} was trained on signals filtered forwards and backwards, which no stream can be: "
                "serve a model of a card with `filters: causal`, or send whole stretches to /v1/biosignal"
            )
        if set(channels) != set(predictor.window.past):
            raise ValueError(
                f"the model reads {', '.join(predictor.window.past)}; found {', '.join(channels) or 'none'}"
            )
        if predictor.also:
            raise ValueError(
                f"{predictor.name} says several labels, a stream one; send whole stretches to /v1/biosignal"
            )
        self._predictor, self._window = predictor, predictor.window
        keep_s = _BEFORE_S + self._window.length_s + 2 * MAX_PUSH_S
        rails = predictor.card.rails
        self._channels = {c: _Channel(c, *channels[c], keep_s, rails.get(c)) for c in predictor.window.past}
        self._context = context_points(self._window, DT_S)
        self._step = points_of(self._window.eval_step_s, DT_S, "window.eval_step_s")
        self._next = 0
        self._scores: deque[float] = deque(maxlen=predictor.task.vote)

    def push(self, samples: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """The windows that are complete with these samples (n,) of each channel, NaN not measured, as
        Estimate.as_dict has them. Raises ValueError for a channel that is not of the stream, for too many samples, and
        where one channel lags too far behind another."""
        if odd := sorted(set(samples) - set(self._channels)):
            raise ValueError(f"the stream has {', '.join(self._channels)}, not {', '.join(odd)}")
        for name, values in samples.items():
            self._channels[name].push(values)
        ends = {name: c.end for name, c in self._channels.items()}
        if max(ends.values()) - min(ends.values()) > MAX_PUSH_S / DT_S:
            late = min(ends, key=ends.__getitem__)
            raise ValueError(f"{late} is more than {MAX_PUSH_S:g} s behind another channel; send channels together")
        if self._next + self._context > min(ends.values()):
            return []
        recent, windows = {name: c.stream.recent() for name, c in self._channels.items()}, []
        while self._next + self._context <= min(ends.values()):
            at = {name: self._next - (ends[name] - len(p)) for name, p in recent.items()}
            windows.append(self._estimate(recent, at))
            self._next += self._step
        return windows

    def _estimate(self, recent: Mapping[str, waveforms.Prepared], at: Mapping[str, int]) -> dict[str, Any]:
        """Of the next window, which begins `at` those points of what is recent of each channel."""
        quality = self._predictor.card.quality
        length, hop = round(quality.window_s / DT_S), round(quality.hop_s / DT_S)
        starts, limits = np.arange(0, self._context - length + 1, hop), quality
        reasons = {name: p.quality(starts + at[name], length, limits).reasons for name, p in recent.items()}
        marks = Marks("", 0, self._context, DT_S, QualityMask(length, hop, reasons))
        value, rejected = None, self._predictor.reasons(marks, 0)
        if len(good_starts(marks, np.ones(self._context, bool), self._window, self._window.eval_step_s)):
            value, rejected = self._vote(self._window_of(recent, at)), {}
        begin_s, length_s = self._next * DT_S, self._context * DT_S
        return self._predictor.window_dict(begin_s, begin_s + length_s, value, rejected)

    def _window_of(self, recent: Mapping[str, waveforms.Prepared], at: Mapping[str, int]) -> LabelledWindows:
        """The next window, and what lies before it: a gap at its beginning is carried forward from there."""
        before = min(round(_BEFORE_S / DT_S), *at.values())
        values = {name: p.values[at[name] - before : at[name] + self._context] for name, p in recent.items()}
        recording = Recording("", 0, START, 0, DT_S, values, np.ones(before + self._context, dtype=bool))
        series = build_series(Recordings.of([recording]), self._window.past)
        return LabelledWindows(series, np.array([before]), np.zeros(1, np.float32), self._context)

    def _vote(self, windows: LabelledWindows) -> float:
        self._scores.append(float(self._predictor.scores(windows)[0]))
        return float(self._predictor.decided(np.array(self._scores))[-1])


class _Channel:
    """A channel as its samples come; `end`: how many points it has, at 125 Hz."""

    def __init__(self, name: str, rate_hz: float, unit: str, keep_s: float, rails: tuple[float, float] | None):
        self.stream, self.end = waveforms.Stream(waveform_kind(name), rate_hz, keep_s=keep_s, rails=rails), 0
        self._name, self._rate_hz, self._unit = name, rate_hz, unit

    def push(self, values: np.ndarray) -> None:
        if len(values) > MAX_PUSH_S * self._rate_hz:
            seconds = len(values) / self._rate_hz
            raise ValueError(f"{self._name}: {seconds:.0f} s in one message, at most {MAX_PUSH_S:g}")
        track = as_channel(Track(np.asarray(values, np.float32), self._unit, rate_hz=self._rate_hz), self._name)
        filtered, _ = self.stream.push(track.values)
        self.end += len(filtered)
