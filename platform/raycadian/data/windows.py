"""The one window cutter: training, scoring and serving cut the same windows from views of a series.

Nothing is copied per stride step: a window is a start position; a batch is one gather from an unfolded view.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from raycadian.config import Anchor, Window
from raycadian.data.series import Series
from raycadian.data.split import DAY_S, Range
from raycadian.physiology.cma.meals import meal_times
from raycadian.types import CARBS, PLANNED, Batch

if TYPE_CHECKING:
    from raycadian.data.mechanism import Mechanism

MEAL_G = 10.0  # less is a snack, or the treatment of a low
MEALS_APART_MIN = 60.0  # carbohydrate sooner after other carbohydrate belongs to the same meal
MEALS_A_DAY = 3


class NoWindow(ValueError):
    """The recordings are too short, or have too many gaps, for a single window."""


def begins_at(series: Series, recording: int, anchor: Anchor) -> np.ndarray:
    """(n,) bool for the points of a recording: True where the last context point of a forecast may lie.

    midnight: the first point at or after local midnight · meal: the first point of a meal of at least 10 g after an
    hour without carbohydrate · estimated_meal: the first point at or after one of the three times of day at which the
    person's glucose rises most, by the whole of their record: this chooses which windows are scored, looking back, and
    is nothing that a model sees. Raises ValueError where the series has no meals.
    """
    points = slice(int(series.offsets[recording]), int(series.offsets[recording + 1]))
    match anchor:
        case "any":
            return np.ones(points.stop - points.start, dtype=bool)
        case "midnight":
            return _reaches(series, recording, np.zeros(1))
        case "meal":
            return _first_of_meals(series, points)
        case "estimated_meal":
            return _reaches(series, recording, _estimated_meals_s(series, int(series.subject_of[recording])))


def _reaches(series: Series, recording: int, clock_s: np.ndarray) -> np.ndarray:
    """Points at which the local clock (seconds of day) has just reached one of `clock_s`."""
    local_s = _local_s(series, recording)
    return ((local_s[:, None] - clock_s) % DAY_S < series.dt_s).any(1)


def _local_s(series: Series, recording: int) -> np.ndarray:
    n = int(series.offsets[recording + 1] - series.offsets[recording])
    begin = series.start_s[recording] + 60 * series.utc_offset_min[recording]
    return (begin + np.arange(n) * series.dt_s) % DAY_S


def _first_of_meals(series: Series, points: slice) -> np.ndarray:
    if CARBS not in series.channels:
        raise ValueError(f"anchor meal: {CARBS} is not among the past channels {list(series.channels)}; add it")
    carbs = series.values(points.start, points.stop)[_carbs_row(series)]
    eaten = np.flatnonzero(carbs > 0)
    alone = np.diff(eaten, prepend=-len(carbs) - DAY_S) * series.dt_s >= 60 * MEALS_APART_MIN
    first = np.zeros(len(carbs), dtype=bool)
    first[eaten[alone]] = carbs[eaten[alone]] >= MEAL_G
    return first


def _estimated_meals_s(series: Series, subject: int) -> np.ndarray:
    """Seconds of day of a person's meals, as `physiology.meals` estimates them from all their readings."""
    mine = np.flatnonzero(series.subject_of == subject)
    hours = np.concatenate([_local_s(series, r) for r in mine]) / 3600
    glucose = np.concatenate([series.values(int(series.offsets[r]), int(series.offsets[r + 1]))[0] for r in mine])
    meals_h = meal_times(hours, glucose, MEALS_A_DAY)
    return meals_h[~np.isnan(meals_h)] * 3600


@dataclass(frozen=True)
class Windows:
    """Windows of a series, cut lazily, kept as runs of evenly spaced starts: memory is flat in their number.

    first (R,) int64 the position where each run's first window begins · before (R+1,) int64 the number of windows
    before each run, and of all · stride points from one window of a run to the next.
    """

    series: Series
    first: np.ndarray
    before: np.ndarray
    stride: int
    window: Window
    mechanism: "Mechanism | None" = None

    def __len__(self) -> int:
        return int(self.before[-1])

    @property
    def length(self) -> int:
        """Points of a window, L + H."""
        return self.window.context + self.window.horizon

    def starts(self, index: Tensor) -> Tensor:
        """Position of the first context point of the windows `index` (B,) int64, in the series."""
        run = np.searchsorted(self.before, index.numpy(), side="right") - 1
        return torch.from_numpy(self.first[run] + (index.numpy() - self.before[run]) * self.stride)

    def spans(self, first: int, last: int) -> np.ndarray:
        """(R, 2): the points [begin, stop) of the series that the windows [first, last) hold, of each run."""
        before = np.clip(self.before, first, last)
        runs = np.flatnonzero(np.diff(before))
        begin = self.first[runs] + (before[runs] - self.before[runs]) * self.stride
        return np.stack([begin, begin + (before[runs + 1] - before[runs] - 1) * self.stride + self.length], axis=1)

    def begun_before(self, positions: np.ndarray) -> np.ndarray:
        """How many windows belong to runs that begin before each of `positions` of the series (K,)."""
        assert (np.diff(self.first) >= 0).all(), "windows in the order of the series"
        return self.before[np.searchsorted(self.first, positions)]

    def sample(self, n: int, seed: int) -> "Windows":
        """n of the windows, drawn at random, in order; with the same seed a smaller draw is part of a larger one.
        Raises ValueError where there are fewer."""
        if n > len(self):
            raise ValueError(f"{n} windows are asked for, there are {len(self)}; lower train_windows or window.stride")
        drawn = np.sort(np.random.default_rng(seed).permutation(len(self))[:n])
        first = self.starts(torch.from_numpy(drawn)).numpy()
        return replace(self, first=first, before=np.arange(n + 1))

    def batch(self, index: Tensor) -> Batch:
        """Cut the windows `index` (B,) int64. See types.Batch for keys and shapes; a horizon that reaches past the
        series' end (forecasting from its last point) is not cut here: see `latest`."""
        return self._at(self.starts(index))

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """All windows in order."""
        for begin in range(0, len(self), batch_size):
            yield self.batch(torch.arange(begin, min(begin + batch_size, len(self))))

    def _at(self, starts: Tensor) -> Batch:
        values = self.series.gather(starts, self.length, self._take)
        plan = values.pop(PLANNED, None)
        return values | self._when(starts, plan)

    def _take(self, table: np.ndarray, observed: np.ndarray, starts: Tensor) -> Batch:
        plan = _plan(self.series, table, starts, self.window)
        return _what(table, observed, starts, self.window) | ({} if plan is None else {PLANNED: plan})

    def _when(self, starts: Tensor, plan: Tensor | None) -> Batch:
        """Who and when: subject, time, hour, known channels and mechanism of windows that begin at `starts`, planned
        carbohydrate `plan` (B, L+H)."""
        context = self.window.context
        batch, point, first_h = who(self.series, starts, context)
        batch["known"] = self._known(first_h, plan)
        if self.mechanism is not None:
            batch |= self.mechanism.cut(point, starts.numpy(), context, self.length)
        return batch

    def _known(self, first_h: Tensor, plan: Tensor | None) -> Tensor:
        """(B, L+H, K): sine and cosine of the local hour by the angle-addition formula, and the plan."""
        if not self.window.known:
            return torch.empty(len(first_h), self.length, 0)
        start = first_h * (2 * math.pi / 24)
        step = torch.arange(self.length, dtype=torch.float64) * (self.series.dt_s / 86400.0 * 2 * math.pi)
        s0, c0 = start.sin().float()[:, None], start.cos().float()[:, None]
        s1, c1 = step.sin().float(), step.cos().float()
        waves = {"hour_sin": lambda: s0 * c1 + c0 * s1, "hour_cos": lambda: c0 * c1 - s0 * s1, PLANNED: lambda: plan}
        return torch.stack([waves[name]() for name in self.window.known], dim=-1)


def who(series: Series, starts: Tensor, context: int) -> tuple[Batch, np.ndarray, Tensor]:
    """subject, time_s, local_h of windows of `context` points that begin at `starts`; the points within their
    recordings (B,), and the local hours of their first points (B,)."""
    offsets = torch.from_numpy(series.offsets)
    recording = torch.searchsorted(offsets, starts, right=True) - 1
    point, number = (starts - offsets[recording]).numpy(), recording.numpy()
    first_h = torch.from_numpy(series.local_h(number, point))
    batch = {
        "subject": torch.from_numpy(series.subject_of[number]),
        "time_s": torch.from_numpy((series.start_s[number] + (point + context - 1) * series.dt_s).astype(np.int64)),
        "local_h": (first_h + (context - 1) * series.dt_s / 3600.0) % 24.0,
    }
    return batch, point, first_h


def cut_windows(
    series: Series,
    ranges: tuple[Range, ...],
    window: Window,
    stride: int,
    mechanism: "Mechanism | None" = None,
    anchor: Anchor = "any",
) -> Windows:
    """The valid windows of `ranges`, every `stride` points, or all whose context ends at an `anchor`. Raises ValueError
    where none fits.

    A training window lies inside its range. Of validation and test the target does; the context may reach back before
    it (`windows_begin`), as a forecast's does. Valid: the last context point was measured (so nothing interpolated
    towards a later reading is seen), at most `max_missing` of the context is missing, and something of the horizon was
    measured.
    """
    positions = series.positions()
    starts = [_starts(series, positions[r.subject, r.recording], r, window, stride, anchor) for r in ranges]
    runs = [_runs(own, stride) for own in starts]
    first, count = np.concatenate(runs, axis=1) if runs else np.empty((2, 0), np.int64)
    if not len(first):
        longest = max((r.stop - windows_begin(r, window.context) for r in ranges), default=0)
        raise NoWindow(
            f"no window fits: context {window.context} + horizon {window.horizon} points needed, "
            f"the longest stretch has {longest}{'' if anchor == 'any' else f', and forecasts begin at: {anchor}'}; "
            "shorten the window or bring longer recordings"
        )
    return Windows(series, first, np.cumsum([0, *count]), stride, window, mechanism)


def _starts(series: Series, recording: int, r: Range, window: Window, stride: int, anchor: Anchor) -> np.ndarray:
    """Where the windows of a range begin, as positions in the series."""
    offset, begin = series.offsets[recording], windows_begin(r, window.context)
    every = stride if anchor == "any" else 1
    starts = offset + begin + _valid_starts(series.measured(offset + begin, offset + r.stop), window, every)
    if anchor == "any":
        return starts
    return starts[begins_at(series, recording, anchor)[starts - offset + window.context - 1]]


def windows_begin(r: Range, context: int) -> int:
    """The point of the recording at which the first window of a range begins: of validation and test `context` points
    before the range, or where the recording begins. Those points may lie in an earlier range, of which a forecast knows
    the past too; never in a later one, and a training window sees no point outside its range."""
    return r.start if r.split == "train" else max(r.start - context, 0)


def _runs(starts: np.ndarray, stride: int) -> np.ndarray:
    """(2, R): where each run of starts `stride` apart begins, and how many it has."""
    begin = np.flatnonzero(np.diff(starts, prepend=-2 * stride - 1) != stride)
    return np.stack([starts[begin], np.diff(begin, append=len(starts))])


def _valid_starts(measured: np.ndarray, window: Window, stride: int) -> np.ndarray:
    """Starts of valid windows of a stretch (n,), True where measured."""
    length = window.context + window.horizon
    if len(measured) < length:
        return np.empty(0, np.int64)
    count = np.concatenate([[0], np.cumsum(measured)])
    starts = np.arange(0, len(measured) - length + 1, stride)
    split, stop = starts + window.context, starts + length
    enough = count[split] - count[starts] >= (1 - window.max_missing) * window.context
    scorable = count[stop] > count[split]
    return starts[enough & scorable & measured[split - 1]]


def latest(
    series: Series, window: Window, mechanism: "Mechanism | None" = None, plan: np.ndarray | None = None
) -> Batch:
    """The batch that forecasts from each subject's last point, in the order of subjects: what the endpoint cuts.

    The same cutter over each last recording continued by an unmeasured horizon, in which carbohydrate is eaten as in
    `plan` (S, H) grams, if any. Raises ValueError as `require_context`.
    """
    last = np.flatnonzero(np.diff(series.subject_of, append=-1))
    begin, stop = series.offsets[last], series.offsets[last + 1]
    for b, s in zip(begin, stop, strict=True):
        require_context(series.observed[b:s], window, series.dt_s)
    length = window.context + window.horizon
    tails = np.full((len(series.table), len(last), length), np.nan, dtype=np.float32)
    for i, s in enumerate(stop):
        tails[:, i, : window.context] = series.table[:, s - window.context : s]
    if PLANNED in window.known:
        tails[_carbs_row(series), :, window.context :] = 0.0 if plan is None else plan
    tails = tails.reshape(len(tails), -1)
    starts = stop - window.context
    places = torch.arange(len(last)) * length
    windows = Windows(series, starts, np.arange(len(starts) + 1), 1, window, mechanism)
    when = windows._when(torch.from_numpy(starts), _plan(series, tails, places, window))
    return _what(tails, ~np.isnan(tails[0]), places, window) | when


def without_context(series: Series, window: Window) -> dict[str, str]:
    """subject -> why its last recording can't be forecast from, of whom it can't."""
    last = np.flatnonzero(np.diff(series.subject_of, append=-1))
    refused = {}
    for recording in last:
        observed = series.observed[series.offsets[recording] : series.offsets[recording + 1]]
        try:
            require_context(observed, window, series.dt_s, "a long gap or a change of the clock")
        except ValueError as error:
            refused[series.subjects[series.subject_of[recording]]] = str(error)
    return refused


def require_context(observed: np.ndarray, window: Window, dt_s: float, ends: str = "a long gap") -> None:
    """Raises ValueError where a recording (N,), True where measured, can't be forecast from: it is shorter than the
    context, its last point was not measured, or too much of the context is missing. `ends`: what ends a recording."""
    have, hours = len(observed), dt_s / 3600
    if have < window.context:
        raise ValueError(
            f"a forecast needs {window.context} points ({window.context * hours:g} h) without {ends}; the last "
            f"unbroken stretch has {have} ({have * hours:.1f} h); send a longer history"
        )
    context = observed[-window.context :]
    missing = 1 - float(context.mean())
    if missing > window.max_missing:
        raise ValueError(
            f"{missing:.0%} of the context is missing, at most {window.max_missing:.0%} may be; "
            + _mend(context, dt_s / 60)
        )
    if not observed[-1]:
        raise ValueError("the last point of the history was not measured; end the history at a reading")


def _mend(observed: np.ndarray, dt_min: float) -> str:
    """What to do about a context with too many holes: readings may just be further apart than the model's."""
    apart = np.diff(np.flatnonzero(observed))
    if len(apart) and (step := float(np.median(apart))) > 1:
        return (
            f"the readings are {step * dt_min:g} minutes apart and the model's {dt_min:g}: use one that was trained on "
            "such readings (`raycadian run FILE` trains one on yours)"
        )
    return "end the history before the gap, or wait until enough was measured after it"


def _plan(series: Series, table: np.ndarray, starts: Tensor, window: Window) -> Tensor | None:
    """Carbohydrate over context and horizon, (B, L+H) grams, where the window says that meals are planned."""
    if PLANNED not in window.known:
        return None
    length = window.context + window.horizon
    return torch.from_numpy(table[_carbs_row(series)]).unfold(0, length, 1).index_select(0, starts)


def _carbs_row(series: Series) -> int:
    return 1 + series.channels.index(CARBS)


def _what(table: np.ndarray, observed: np.ndarray, starts: Tensor, window: Window) -> Batch:
    """The values of windows at `starts`, each copied once: `index_select` of an unfolded row runs at memory speed."""
    context = window.context
    horizon = torch.from_numpy(table[0]).unfold(0, window.horizon, 1)
    return past_of(table[1:], observed, starts, context) | {
        "target": horizon.index_select(0, starts + context)
    }  # (B, H)


def past_of(rows: np.ndarray, observed: np.ndarray, starts: Tensor, context: int) -> Batch:
    """past (B, L, C) from channels `rows` (C, N), and past_mask."""
    past = torch.empty(len(rows), len(starts), context)
    for row, out in zip(torch.from_numpy(rows), past, strict=True):
        torch.index_select(row.unfold(0, context, 1), 0, starts, out=out)
    measured = torch.from_numpy(observed).unfold(0, context, 1).index_select(0, starts)
    return {"past": past.permute(1, 2, 0), "past_mask": measured.unsqueeze(-1).expand(-1, -1, len(past))}
