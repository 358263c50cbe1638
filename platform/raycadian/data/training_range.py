"""Where the values lie that a model was trained on: whatever it is asked beyond them it has never seen."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raycadian.data.series import Series
from raycadian.data.split import Range

_SHARES = 0.001, 0.999  # of the points of a channel
_MOST = 500_000  # points looked at, evenly over all
_SLACK = 0.5  # of the labels' own range that an estimate may be beyond them on either side


@dataclass(frozen=True)
class TrainingRange:
    """channels: name -> 0.1% and 99.9% quantile of what was measured in the training ranges · labels: least and largest
    of each. Both are empty of a run that was trained before this was kept."""

    channels: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    labels: tuple[tuple[float, float], ...] = ()

    @staticmethod
    def of(series: Series, ranges: Iterable[Range], labels: np.ndarray | None = None) -> "TrainingRange":
        """labels: (M,) or (M, labels) of the windows that are trained on, NaN unknown."""
        rows = _measured(series, ranges)
        channels = {name: _quantiles(row) for name, row in zip(series.channels, rows, strict=True)}
        columns = [] if labels is None else labels.reshape(len(labels), -1).T
        known = tuple((float(np.nanmin(c)), float(np.nanmax(c))) for c in columns if not np.isnan(c).all())
        return TrainingRange({name: pair for name, pair in channels.items() if pair is not None}, known)

    @staticmethod
    def read(raw: Any) -> "TrainingRange":
        """Of what `as_dict` gave, or None. Raises ValueError, TypeError, KeyError for what is neither."""
        if raw is None:
            return TrainingRange()
        return TrainingRange({name: _pair(p) for name, p in raw["channels"].items()}, tuple(map(_pair, raw["labels"])))

    def as_dict(self) -> dict[str, Any]:
        return {"channels": {name: list(p) for name, p in self.channels.items()}, "labels": [*map(list, self.labels)]}

    def outside(self, channel: str, values: np.ndarray) -> np.ndarray:
        """Which values (N,) of a channel lie beyond what it was in training; NaN does not."""
        low, high = self.channels.get(channel, (-np.inf, np.inf))
        return (values < low) | (values > high)

    def bounded(self, estimates: np.ndarray) -> np.ndarray:
        """Estimates (W,) or (W, labels) within the labels' range and half of it on either side."""
        if not self.labels:
            return estimates
        low, high = np.array(self.labels).T
        slack = _SLACK * (high - low)
        return np.clip(estimates.reshape(len(estimates), -1), low - slack, high + slack).reshape(estimates.shape)


def _measured(series: Series, ranges: Iterable[Range]) -> np.ndarray:
    """(C, n): what was measured at points that lie evenly over the ranges."""
    begin_of, channels = series.positions(), len(series.channels)
    firsts = ((int(series.offsets[begin_of[r.subject, r.recording]]), r) for r in ranges)
    spans = [(first + r.start, first + r.stop) for first, r in firsts]
    step = sum(stop - start for start, stop in spans) // _MOST + 1
    parts = [series.values(*span)[-channels:, ::step][:, series.measured(*span)[::step]] for span in spans]
    return np.concatenate([np.zeros((channels, 0), np.float32), *parts], axis=1)


def _quantiles(values: np.ndarray) -> tuple[float, float] | None:
    known = values[np.isfinite(values)]
    return _pair(np.quantile(known, _SHARES)) if len(known) else None


def _pair(values: Any) -> tuple[float, float]:
    low, high = map(float, values)
    if not low <= high:
        raise ValueError(f"a range is from low to high, found {low} to {high}")
    return low, high
