"""Windows that carry a label, cut as the windows of forecasts are. tasks/window_index.py says where they may begin.

M places where a window may begin; W windows of a set; the rest as in types.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from raycadian.config import LabelWindow
from raycadian.data.marks import context_points
from raycadian.data.series import Series
from raycadian.data.split import SplitManifest
from raycadian.data.windows import past_of, who
from raycadian.types import Batch

_AHEAD = 8  # subjects read at once


@dataclass(frozen=True)
class WindowIndex:
    """Every place of a series where a good window with a known label begins, in the order of the series.

    recording (M,) position in the series · point (M,) first point within it · label (M,) float32, (M, labels) where the
    task has several, NaN where one of them is unknown · lead_s (M,) seconds from the window's end to the onset of the
    next episode, NaN where there is none or the label is none of episodes · weight (M,) of the person, 1 where the task
    names none · cases: name of each recording of the series.
    """

    recording: np.ndarray
    point: np.ndarray
    label: np.ndarray
    lead_s: np.ndarray
    weight: np.ndarray
    cases: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.point)

    def take(self, chosen: np.ndarray) -> "WindowIndex":
        """Those of a mask or of an index."""
        arrays = {name: getattr(self, name)[chosen] for name in ("recording", "point", "label", "lead_s", "weight")}
        return replace(self, **arrays)

    def every(self, step: int) -> "WindowIndex":
        """Those on a grid of `step` points."""
        return self.take(self.point % step == 0)

    def within(self, split: SplitManifest, series: Series, name: str) -> "WindowIndex":
        """Those of the recordings of one part of a split by subject."""
        wanted = {(r.subject, r.recording) for r in split.of(name)}
        whose = zip(series.subject_of, series.number_of, strict=True)
        inside = np.array([(series.subjects[s], int(n)) in wanted for s, n in whose], bool)
        return self.take(inside[self.recording])


@dataclass(frozen=True)
class LabelledWindows:
    """Windows of a series with their labels, cut lazily: first (W,) int64 position in the series, label (W,) or (W,
    labels), weight (W,) above 0 where the loss is weighed; only their ratios count."""

    series: Series
    first: np.ndarray
    label: np.ndarray
    context: int
    weight: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.first)

    def labels(self) -> Tensor:
        return torch.from_numpy(self.label)

    def weights(self) -> Tensor:
        """(W,) of mean 1."""
        weight = np.ones(len(self)) if self.weight is None else self.weight / self.weight.mean()
        return torch.from_numpy(weight.astype(np.float32))

    def batch(self, index: Tensor) -> Batch:
        """The windows `index` (B,) int64: past, past_mask, an empty known, label, subject, time_s, local_h, and weight
        where the loss is weighed."""
        starts = torch.from_numpy(self.first[index.numpy()])
        batch, _, _ = who(self.series, starts, self.context)
        batch |= self.series.gather(starts, self.context, self._take)
        label = torch.from_numpy(self.label[index.numpy()])
        batch |= {} if self.weight is None else {"weight": self.weights()[index]}
        return batch | {"known": torch.empty(len(starts), self.context, 0), "label": label}

    def _take(self, table: np.ndarray, observed: np.ndarray, starts: Tensor) -> Batch:
        return past_of(table[len(table) - len(self.series.channels) :], observed, starts, self.context)

    def spans(self, first: int, last: int) -> np.ndarray:
        """(R, 2): the points [begin, stop) of the series that the windows [first, last) hold, of each."""
        starts = self.first[first:last]
        return np.stack([starts, starts + self.context], axis=1)

    def begun_before(self, positions: np.ndarray) -> np.ndarray:
        """How many windows begin before each of `positions` of the series (K,)."""
        assert (np.diff(self.first) >= 0).all(), "windows in the order of the series"
        return np.searchsorted(self.first, positions)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """All windows in order."""
        for begin in range(0, len(self), batch_size):
            yield self.batch(torch.arange(begin, min(begin + batch_size, len(self))))

    def sample(self, n: int, seed: int) -> "LabelledWindows":
        """n of the windows, drawn at random, in order; with the same seed a smaller draw is part of a larger one.
        Raises ValueError where there are fewer."""
        if n > len(self):
            raise ValueError(f"{n} windows are asked for, there are {len(self)}; lower train_windows or window.step_s")
        drawn = np.sort(np.random.default_rng(seed).permutation(len(self))[:n])
        weight = None if self.weight is None else self.weight[drawn]
        return replace(self, first=self.first[drawn], label=self.label[drawn], weight=weight)


def cut_labelled(series: Series, places: WindowIndex, window: LabelWindow, weighted: bool = False) -> LabelledWindows:
    """`weighted`: with the people's weights, for the loss."""
    first = series.offsets[places.recording] + places.point
    weight = places.weight if weighted else None
    return LabelledWindows(series, first, places.label, context_points(window, series.dt_s), weight)
