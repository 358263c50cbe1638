"""Windows that carry a label: where they may begin, and what each one's label is. Cut as the windows of forecasts are.

M places where a window may begin; W windows of a set; the rest as in types.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from raycadian.config import Ahead, Column, Hypotension, LabelTask, LabelWindow, Pretraining
from raycadian.data.marks import Marks, context_points, good_starts
from raycadian.data.series import Series
from raycadian.data.split import SplitManifest
from raycadian.data.windows import past_of, who
from raycadian.tasks import hypotension
from raycadian.types import Batch

_AHEAD = 8  # subjects read at once


class HasMarks(Protocol):
    """What places are found from: a snapshot."""

    id: str
    subjects: list[str]

    def marks(self, subject: str) -> list[Marks]: ...


@dataclass(frozen=True)
class WindowIndex:
    """Every place of a series where a good window with a known label begins, in the order of the series.

    recording (M,) position in the series · point (M,) first point within it · label (M,) float32, (M, labels) where the task has
    several, NaN where one of them is unknown · lead_s (M,) seconds from
    the window's end to the onset of the next episode, NaN where there is none or the label is none of episodes · weight (M,)
    of the person, 1 where the task names none · cases: name of each recording of the series.
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
    """Windows of a series with their labels, cut lazily: first (W,) int64 position in the series, label (W,) or (W, labels),
    weight (W,) above 0 where the loss is weighed; only their ratios count."""

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
        """The windows `index` (B,) int64: past, past_mask, an empty known, label, subject, time_s, local_h, and weight where the
        loss is weighed."""
        starts = torch.from_numpy(self.first[index.numpy()])
        found, _, _ = who(self.series, starts, self.context)
        rows = self.series.table[len(self.series.table) - len(self.series.channels) :]
        found |= past_of(rows, self.series.observed, starts, self.context)
        label = torch.from_numpy(self.label[index.numpy()])
        found |= {} if self.weight is None else {"weight": self.weights()[index]}
        return found | {"known": torch.empty(len(starts), self.context, 0), "label": label}

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """All windows in order."""
        for begin in range(0, len(self), batch_size):
            yield self.batch(torch.arange(begin, min(begin + batch_size, len(self))))

    def sample(self, n: int, seed: int) -> "LabelledWindows":
        """n of the windows, drawn at random, in order; with the same seed a smaller draw is part of a larger one. Raises
        ValueError where there are fewer."""
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


def find_places(
    source: HasMarks, series: Series, window: LabelWindow, task: LabelTask | Pretraining, seed: int = 0
) -> WindowIndex:
    """Every place that a window may begin at, every step or eval_step. Raises ValueError where there is none.

    The marks of `_AHEAD` subjects are held at a time.
    """
    position = {(series.subjects[s], int(n)): i for i, (s, n) in _numbered(series)}
    parts: list[WindowIndex] = []
    cases = [""] * len(position)
    with ThreadPoolExecutor(_AHEAD) as pool:
        for found in pool.map(source.marks, series.subjects):
            for marks in found:
                i = position[marks.subject, marks.number]
                cases[i] = marks.case
                parts.append(_places(marks, i, series, window, task))
    joined = {
        n: np.concatenate([getattr(p, n) for p in parts]) for n in ("recording", "point", "label", "lead_s", "weight")
    }
    places = WindowIndex(**joined, cases=tuple(cases))
    places = places.take(np.argsort(places.recording, kind="stable"))
    if not len(places):
        raise ValueError(
            f"{source.id}: no window of {window.length_s:g} s is good in {', '.join(window.past)} and has a known label; look at "
            "the snapshot's counts of rejections (`raycadian inspect`), take shorter windows, or raise max_missing"
        )
    return _shuffled(places, task, seed) if getattr(task, "shuffled", False) else places


def _numbered(series: Series) -> Iterator[tuple[int, tuple[int, int]]]:
    return enumerate(zip(series.subject_of, series.number_of, strict=True))


def _places(
    marks: Marks, position: int, series: Series, window: LabelWindow, task: LabelTask | Pretraining
) -> WindowIndex:
    observed = series.observed[series.offsets[position] : series.offsets[position + 1]]
    steps = {window.step_s, window.eval_step_s}
    starts = np.unique(np.concatenate([good_starts(marks, observed, window, step) for step in steps]))
    ends_s = (starts + context_points(window, series.dt_s)) * series.dt_s
    if isinstance(task, Pretraining):
        label, lead_s, weight = np.zeros(len(starts)), np.full(len(starts), np.nan), np.ones(len(starts))
    else:
        label, lead_s = labels_of(marks, ends_s, task, window.length_s)
        weight = np.full(len(starts), 1.0 if task.weight is None else _number(marks.attributes, task.weight, marks))
        if task.also:
            label = np.stack(
                [label, *(np.full(len(starts), _of_column(marks, c, task.kind)) for c in task.also)], axis=1
            )
    known = np.isfinite(label) if label.ndim == 1 else np.isfinite(label).any(axis=1)
    found = WindowIndex(np.full(len(starts), position), starts, label.astype(np.float32), lead_s, weight, ())
    return found.take(known & (weight > 0))


def labels_of(
    marks: Marks, ends_s: np.ndarray, task: LabelTask, window_s: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """label and lead_s of windows of `window_s` that end at `ends_s` (M,) seconds after the recording's start; NaN is
    unknown: an episode within the window too, since then the window shows it. Raises ValueError for a numeric or column that is absent."""
    none = np.full(len(ends_s), np.nan)
    match task.label:
        case Hypotension() as how:
            return _hypotension(marks, ends_s, how, window_s)
        case Ahead() as how:
            times_s, values = _numeric(marks, how.channel)
            begin_s = ends_s + 60 * how.ahead_min
            return _bounded(hypotension.mean_between(values, times_s, begin_s, begin_s + how.over_s), how), none
        case Column() as how:
            return np.full(len(ends_s), _of_column(marks, how, task.kind)), none


def _hypotension(marks: Marks, ends_s: np.ndarray, how: Hypotension, window_s: float) -> tuple[np.ndarray, np.ndarray]:
    times_s, values = _numeric(marks, how.channel)
    found = hypotension.events(values, times_s, how.below, how.for_s)
    label = hypotension.label_windows(ends_s, found, 60 * how.ahead_min, 60 * how.gap_min, how.gray_mmhg, window_s)
    onsets = np.append(found.certain[:, 0], np.nan)
    return label, onsets[np.searchsorted(found.certain[:, 0], ends_s, side="right")] - ends_s


def _bounded(mean: np.ndarray, how: Ahead) -> np.ndarray:
    """The number, or 1 and 0 for within and beyond its bound; what is unknown stays so."""
    if not how.bound:
        return mean
    inside = mean < how.below if how.below is not None else mean >= how.at_least
    return np.where(np.isfinite(mean), inside, np.nan)


def _numeric(marks: Marks, channel: str) -> tuple[np.ndarray, np.ndarray]:
    """None of it: a case whose monitor did not write it has no labels, which is no error."""
    return marks.numerics.get(channel, (np.empty(0), np.empty(0)))


def _of_column(marks: Marks, how: Column, kind: str) -> float:
    value = _value(marks.attributes, how.name, marks)
    if value is None or value != value:
        return np.nan
    if how.equals is not None:
        return float(
            str(value) == str(how.equals) if isinstance(how.equals, str) else _as_number(value, how.name) == how.equals
        )
    number = _as_number(value, how.name)
    if how.at_least is not None:
        return float(number >= how.at_least)
    if kind == "classify" and number not in (0.0, 1.0):
        raise ValueError(
            f"label column {how.name!r} holds {value!r}, expected 0 or 1; give label.at_least or label.equals"
        )
    return number


def _number(attributes: Mapping[str, Any], name: str, marks: Marks) -> float:
    value = _value(attributes, name, marks)
    return 0.0 if value is None or value != value else _as_number(value, name)


def _value(attributes: Mapping[str, Any], name: str, marks: Marks) -> Any:
    if name not in attributes:
        raise ValueError(
            f"{marks.subject}: no column {name!r} beside its recording; there are {', '.join(sorted(attributes)) or 'none'}: add it "
            "to the card's clinical.keep, and prepare again"
        )
    return attributes[name]


def _as_number(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"column {name!r} holds {value!r}, expected a number; give label.equals for words") from None


def _shuffled(places: WindowIndex, task: LabelTask, seed: int) -> WindowIndex:
    """Labels in random order, over all splits: of windows, or of recordings where they are the recording's."""
    rng = np.random.default_rng(seed)
    if not isinstance(task.label, Column):
        return replace(places, label=rng.permutation(places.label), lead_s=np.full(len(places), np.nan))
    _, first, of = np.unique(places.recording, return_index=True, return_inverse=True)
    return replace(places, label=rng.permutation(places.label[first])[of])


def strata(places: WindowIndex, series: Series) -> dict[str, float]:
    """The mean label of each subject that has a window; of several the first, and where that isn't known -1: a stratum too."""
    subject = series.subject_of[places.recording]
    label = places.label if places.label.ndim == 1 else np.nan_to_num(places.label[:, 0], nan=-1.0)
    total, count = np.bincount(subject, label), np.bincount(subject)
    return {series.subjects[s]: float(total[s] / count[s]) for s in np.flatnonzero(count)}
