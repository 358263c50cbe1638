"""Where a window that carries a label may begin, and what each one's label is.

M places where a window may begin; the rest as in types.py. A kind of label is a row of `KINDS`.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from raycadian.config import Ahead, Column, Hypotension, LabelTask, LabelWindow, Pretraining
from raycadian.data.label_windows import WindowIndex
from raycadian.data.marks import Marks, context_points, good_starts
from raycadian.data.series import Series
from raycadian.data.snapshot import Snapshot
from raycadian.tasks import hypotension

_AHEAD = 8  # subjects read at once
_ARRAYS = ("recording", "point", "label", "lead_s", "weight")
Labels = tuple[np.ndarray, np.ndarray]
"""label (M,) and lead_s (M,), NaN is unknown."""


class NoGoodWindow(ValueError):
    """No window is good in all channels and has a known label."""


def find_windows(
    source: Snapshot, series: Series, window: LabelWindow, task: LabelTask | Pretraining | None, seed: int = 0
) -> WindowIndex:
    """Every place that a window may begin at, every step or eval_step; without a task whether or not a label is known.
    Raises NoGoodWindow where there is none.

    The marks of `_AHEAD` subjects are held at a time.
    """
    position = series.positions()
    cases = [""] * len(position)
    parts: list[WindowIndex] = []
    for marks in _all_marks(source, series.subjects):
        i = position[marks.subject, marks.number]
        cases[i] = marks.case
        parts.append(_of_recording(marks, i, series, window, task))
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    index = WindowIndex(**joined, cases=tuple(cases))
    index = index.take(np.argsort(index.recording, kind="stable"))
    if not len(index):
        raise NoGoodWindow(
            f"{source.id}: no window of {window.length_s:g} s is good in {', '.join(window.past)} and has a known "
            "label; look at the snapshot's counts of rejections (`raycadian inspect`), take shorter windows, or raise "
            "max_missing"
        )
    return _shuffled(index, task, seed) if getattr(task, "shuffled", False) else index


def strata(index: WindowIndex, series: Series) -> dict[str, float]:
    """Mean label of each subject with windows; of several labels the first, and unknown -1: a stratum too."""
    subject = series.subject_of[index.recording]
    label = index.label if index.label.ndim == 1 else np.nan_to_num(index.label[:, 0], nan=-1.0)
    total, count = np.bincount(subject, label), np.bincount(subject)
    return {series.subjects[s]: float(total[s] / count[s]) for s in np.flatnonzero(count)}


def labels_of(marks: Marks, ends_s: np.ndarray, task: LabelTask, window_s: float = 0.0) -> Labels:
    """label and lead_s of windows of `window_s` that end at `ends_s` (M,) seconds after the recording's start.

    Unknown is also an episode within the window, since then the window shows it. Raises ValueError for a numeric or a
    column that is absent.
    """
    return KINDS[task.label.kind](marks, ends_s, task.label, window_s, task.kind)


def _all_marks(source: Snapshot, subjects: list[str]) -> Iterator[Marks]:
    with ThreadPoolExecutor(_AHEAD) as pool:
        for own in pool.map(source.marks, subjects):
            yield from own


def _of_recording(
    marks: Marks, position: int, series: Series, window: LabelWindow, task: LabelTask | Pretraining | None
) -> WindowIndex:
    observed = series.measured(int(series.offsets[position]), int(series.offsets[position + 1]))
    steps = {window.step_s, window.eval_step_s}
    starts = np.unique(np.concatenate([good_starts(marks, observed, window, step) for step in steps]))
    ends_s = (starts + context_points(window, series.dt_s)) * series.dt_s
    label, lead_s, weight = _labelled(marks, ends_s, task, window.length_s)
    known = np.isfinite(label) if label.ndim == 1 else np.isfinite(label).any(axis=1)
    index = WindowIndex(np.full(len(starts), position), starts, label.astype(np.float32), lead_s, weight, ())
    return index.take(known & (weight > 0))


def _labelled(
    marks: Marks, ends_s: np.ndarray, task: LabelTask | Pretraining | None, window_s: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """label (M,) or (M, labels), lead_s (M,), weight (M,). A task without a label has 0 everywhere."""
    if not hasattr(task, "label"):
        return np.zeros(len(ends_s)), np.full(len(ends_s), np.nan), np.ones(len(ends_s))
    label, lead_s = labels_of(marks, ends_s, task, window_s)
    weight = np.full(len(ends_s), 1.0 if task.weight is None else _number(marks.attributes, task.weight, marks))
    if task.also:
        further = (np.full(len(ends_s), _value_of_column(marks, column, task.kind)) for column in task.also)
        label = np.stack([label, *further], axis=1)
    return label, lead_s, weight


def _hypotension(marks: Marks, ends_s: np.ndarray, how: Hypotension, window_s: float, kind: str) -> Labels:
    times_s, values = _numeric(marks, how.channel)
    episodes = hypotension.events(values, times_s, how.below, how.for_s)
    ahead_s, gap_s = 60 * how.ahead_min, 60 * how.gap_min
    label, _ = hypotension.label_windows(ends_s, episodes, ahead_s, gap_s, how.gray_mmhg, window_s)
    onsets = np.append(episodes.certain[:, 0], np.nan)
    return label, onsets[np.searchsorted(episodes.certain[:, 0], ends_s, side="right")] - ends_s


def _ahead(marks: Marks, ends_s: np.ndarray, how: Ahead, window_s: float, kind: str) -> Labels:
    """The mean, or 1 and 0 for within and beyond its bound; what is unknown stays so."""
    times_s, values = _numeric(marks, how.channel)
    begin_s = ends_s + 60 * how.ahead_min
    mean = hypotension.mean_between(values, times_s, begin_s, begin_s + how.over_s)
    none = np.full(len(ends_s), np.nan)
    if not how.bound:
        return mean, none
    inside = mean < how.below if how.below is not None else mean >= how.at_least
    return np.where(np.isfinite(mean), inside, np.nan), none


def _column(marks: Marks, ends_s: np.ndarray, how: Column, window_s: float, kind: str) -> Labels:
    return np.full(len(ends_s), _value_of_column(marks, how, kind)), np.full(len(ends_s), np.nan)


KINDS: dict[str, Callable[[Marks, np.ndarray, Any, float, str], Labels]] = {
    "hypotension": _hypotension, "ahead": _ahead, "column": _column,
}  # fmt: skip
"""kind of a label: (marks, ends_s, its section, seconds of a window, kind of the task) -> label and lead_s."""


def _numeric(marks: Marks, channel: str) -> tuple[np.ndarray, np.ndarray]:
    """None of it: a case whose monitor did not write it has no labels, which is no error."""
    return marks.numerics.get(channel, (np.empty(0), np.empty(0)))


def _value_of_column(marks: Marks, how: Column, kind: str) -> float:
    value = _value(marks.attributes, how.name, marks)
    if value is None or value != value:
        return np.nan
    if how.equals is not None:
        return float(_equal(value, how))
    number = _as_number(value, how.name)
    if how.at_least is not None:
        return float(number >= how.at_least)
    if kind == "classify" and number not in (0.0, 1.0):
        raise ValueError(
            f"label column {how.name!r} holds {value!r}, expected 0 or 1; give label.at_least or label.equals"
        )
    return number


def _equal(value: Any, how: Column) -> bool:
    return str(value) == how.equals if isinstance(how.equals, str) else _as_number(value, how.name) == how.equals


def _number(attributes: Mapping[str, Any], name: str, marks: Marks) -> float:
    value = _value(attributes, name, marks)
    return 0.0 if value is None or value != value else _as_number(value, name)


def _value(attributes: Mapping[str, Any], name: str, marks: Marks) -> Any:
    if name not in attributes:
        raise ValueError(
            f"{marks.subject}: no column {name!r} beside its recording; there are "
            f"{', '.join(sorted(attributes)) or 'none'}: add it to the card's clinical.keep, and prepare again"
        )
    return attributes[name]


def _as_number(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"column {name!r} holds {value!r}, expected a number; give label.equals for words") from None


def _shuffled(index: WindowIndex, task: LabelTask, seed: int) -> WindowIndex:
    """Labels in random order, over all splits: of windows, or of recordings where they are the recording's."""
    rng = np.random.default_rng(seed)
    if not task.label.of_recording:
        return replace(index, label=rng.permutation(index.label), lead_s=np.full(len(index), np.nan))
    _, first, of = np.unique(index.recording, return_index=True, return_inverse=True)
    return replace(index, label=rng.permutation(index.label[first])[of])
