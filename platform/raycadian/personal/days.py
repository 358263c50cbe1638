"""One person's recording by local days, and the labels that the person gave to some of them.

D days in order; a window is a number of whole days and ends with the day whose label it has.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from raycadian.config import LabelWindow
from raycadian.data.label_windows import LabelledWindows
from raycadian.data.marks import context_points
from raycadian.data.series import Recordings, Series, build_series
from raycadian.modalities.base import BaseCard
from raycadian.modalities.cards import load_card, modality_of
from raycadian.modalities.cgm.formats.tables import read_small
from raycadian.types import Issues, Recording

DAY_S = 86_400
VALID_SHARE = 0.7  # of a day's glucose readings (Battelino et al., Diabetes Care 42:1593, 2019)
Labels = dict[np.datetime64, float]
"""Local day (datetime64[D]) -> label."""


# --- recordings -----------------------------------------------------------------------------------------------------


def read_recording(
    path: Path, subject: str, like: BaseCard, card: Path | None, model: str, issues: Issues
) -> list[Recording]:
    """One person's recordings from a file, as `model` takes them, which was trained on a data set with the card `like`.
    `card`: that says how to read the file. Raises ValueError."""
    stated, modality = load_card(card) if card else None, modality_of(like)
    if stated is not None and modality_of(stated) is not modality:
        raise ValueError(
            f"{card}: {stated.modality}; {model} reads {modality.name}: a card of modality {modality.name}"
        )
    recordings = modality.read_person(path, stated, like, issues)
    return [replace(r, subject=subject, index=i) for i, r in enumerate(recordings)]


def in_place_of(recordings: list[Recording], channel: str, wanted: str, factor: float) -> list[Recording]:
    """Recordings whose `channel`, times `factor`, stands as the channel `wanted`."""
    return [replace(r, channels={wanted: r.channels[channel] * np.float32(factor)}) for r in recordings]


# --- days -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Days:
    """date (D,) datetime64[D], local · values (D, points of a day), NaN = not measured or not worn · valid (D,) bool ·
    first (D,) position of a day's first point in the series, -1 where the recordings are not cut by days."""

    date: np.ndarray
    values: np.ndarray
    valid: np.ndarray
    first: np.ndarray


def activity_days(series: Series, min_valid_hours: float) -> Days:
    """Of recordings that begin at local midnight; a valid day was worn for `min_valid_hours`."""
    points = round(DAY_S / series.dt_s)
    first = np.concatenate(
        [np.arange(a, b - points + 1, points) for a, b in zip(series.offsets[:-1], series.offsets[1:], strict=True)]
    )
    recording = np.searchsorted(series.offsets, first, side="right") - 1
    local_s = series.start_s + 60 * series.utc_offset_min
    date = ((local_s[recording] + (first - series.offsets[recording]) * series.dt_s) // DAY_S).astype("datetime64[D]")
    at = first[:, None] + np.arange(points)
    values = np.where(series.observed[at], series.table[0][at], np.nan).astype(np.float64)
    worn_h = (~np.isnan(values)).sum(1) * series.dt_s / 3600
    return Days(date, values, worn_h >= min_valid_hours, first)


def glucose_days(series: Series) -> Days:
    """By the local date of each reading; a valid day has 70% of its readings."""
    points = round(DAY_S / series.dt_s)
    recording = np.repeat(np.arange(len(series.start_s)), np.diff(series.offsets))
    point = np.arange(len(series)) - series.offsets[recording]
    local_s = series.start_s[recording] + 60 * series.utc_offset_min[recording] + point * series.dt_s
    date, of = np.unique((local_s // DAY_S).astype(np.int64), return_inverse=True)
    values = np.full((len(date), points), np.nan)
    values[of, ((local_s % DAY_S) // series.dt_s).astype(np.int64)] = series.table[0]
    share = (~np.isnan(values)).mean(1)
    return Days(date.astype("datetime64[D]"), values, share >= VALID_SHARE, np.full(len(date), -1))


# --- labels ---------------------------------------------------------------------------------------------------------


def read_labels(path: Path) -> Labels:
    """Labels of days from a CSV with the columns start, end (local dates, both included; `end` may be left out) and
    label (1 in an episode, 0 not). A day in no row has no label. Raises ValueError that names the line."""
    table = read_small(path, "labelled days")
    if "sleep_start" in table:
        raise ValueError(
            f"{path}: these are sleep episodes, which the recording knows; labels have columns start, end, label"
        )
    if lacking := [name for name in ("start", "label") if name not in table]:
        raise ValueError(
            f"{path}: no column {', '.join(lacking)}; found {', '.join(table)}; labels have start, end, label"
        )
    labels: Labels = {}
    for line, row in enumerate(table.to_dict("records"), start=2):
        _add(labels, row, f"{path}:{line}")
    if not labels:
        raise ValueError(f"{path}: no labelled day in it")
    return labels


def _add(labels: Labels, row: Mapping[str, str], where: str) -> None:
    first, last = (_date(row.get(name, "") or row["start"], where) for name in ("start", "end"))
    if not 0 <= (last - first).astype(int) <= 3660:
        raise ValueError(f"{where}: from {first} to {last}: expected an end on or after the start, within ten years")
    if row["label"].strip() not in ("0", "1"):
        raise ValueError(f"{where}: label {row['label']!r}, expected 1 (in an episode) or 0")
    label = float(row["label"])
    for day in np.arange(first, last + 1):
        if labels.setdefault(day, label) != label:
            raise ValueError(f"{where}: {day} is labelled {labels[day]:g} above and {label:g} here; keep one")


def _date(text: str, where: str) -> np.datetime64:
    """The day of an ISO date or time."""
    try:
        date = pd.to_datetime(text.strip(), format="ISO8601")
    except (ValueError, TypeError):
        date = pd.NaT
    if date is pd.NaT:
        raise ValueError(f"{where}: {text!r} is no date such as 2026-03-02")
    return np.datetime64(date.date(), "D")


@dataclass(frozen=True)
class LabelledDays:
    """Windows in the order of time, each with the day it ends with, date (W,)."""

    windows: LabelledWindows
    date: np.ndarray

    def __len__(self) -> int:
        return len(self.date)

    def take(self, chosen: np.ndarray | slice) -> "LabelledDays":
        w = self.windows
        return LabelledDays(replace(w, first=w.first[chosen], label=w.label[chosen]), self.date[chosen])


def days_of_window(window: LabelWindow, dt_s: float) -> int:
    """Raises ValueError for windows that are no whole days."""
    points, day = context_points(window, dt_s), round(DAY_S / dt_s)
    if points % day:
        raise ValueError(f"the model's window has {window.length_s:g} s; a label of a day needs windows of whole days")
    return points // day


def usable(series: Series, days: Days, window: LabelWindow) -> np.ndarray:
    """(D,) bool: the day is valid, and with the days before it that the model sees, all of one recording, at most
    `max_missing` of the window is missing."""
    before = (days_of_window(window, series.dt_s) - 1) * days.values.shape[1]
    length = before + days.values.shape[1]
    recording = np.searchsorted(series.offsets, days.first, side="right") - 1
    start = days.first - before
    inside = start >= series.offsets[recording]
    count = np.concatenate([[0], np.cumsum(~series.observed)])
    at = np.maximum(start, 0)
    return days.valid & inside & (count[at + length] - count[at] <= window.max_missing * length)


def day_windows(series: Series, days: Days, chosen: np.ndarray, label: np.ndarray, window: LabelWindow) -> LabelledDays:
    """The windows that end with the days of an index (W,), which are usable."""
    context = context_points(window, series.dt_s)
    first = days.first[chosen] + days.values.shape[1] - context
    return LabelledDays(LabelledWindows(series, first, label.astype(np.float32), context), days.date[chosen])


def labelled_days(
    series: Series, days: Days, labels: Labels, window: LabelWindow, least: int, issues: Issues
) -> LabelledDays:
    """The labelled days that can be learnt from; the others are counted. Raises ValueError where fewer than `least` are
    left: it says how many were found, and where the others went."""
    good, position = usable(series, days, window), {day: i for i, day in enumerate(days.date)}
    outside = [day for day in sorted(labels) if day not in position]
    chosen = np.array([position[day] for day in sorted(labels) if day in position], dtype=np.int64)
    unworn, early = ~days.valid[chosen], days.valid[chosen] & ~good[chosen]
    unlabelled = int(days.valid.sum() - days.valid[chosen].sum())
    issues.add("labelled day without a recording (left out)", str(outside[0]) if outside else "", len(outside))
    issues.add("labelled day that was not worn long enough (left out)", n=int(unworn.sum()))
    issues.add("labelled day without the days before it that the model sees (left out)", n=int(early.sum()))
    issues.add("valid day without a label (not learnt from)", n=unlabelled)
    chosen = chosen[good[chosen]]
    if len(chosen) < least:
        before = days_of_window(window, series.dt_s) - 1
        raise ValueError(
            f"{len(chosen)} labelled days can be learnt from, {least} are needed: {len(labels)} days have a label, "
            f"{len(outside)} of them outside the recording ({days.date[0]} to {days.date[-1]}), {int(unworn.sum())} "
            f"not worn long enough, {int(early.sum())} without the {before} days before them; {unlabelled} valid days "
            "have no label: label more of them, or record longer"
        )
    return day_windows(series, days, chosen, np.array([labels[day] for day in days.date[chosen]]), window)


def activity_of(
    recordings: list[Recording], window: LabelWindow, channel: str, factor: float, min_valid_hours: float
) -> tuple[Series, Days]:
    """The series of the model's channel, and its days. `channel`: of the recording, times `factor`. Raises
    ValueError."""
    (wanted,) = window.past
    if channel != wanted:
        recordings = in_place_of(recordings, channel, wanted, factor)
    series = series_of(recordings, window.past)
    return series, activity_days(series, min_valid_hours)


def series_of(recordings: list[Recording], channels: tuple[str, ...]) -> Series:
    """Of one person's recordings. Raises ValueError where none has the first channel."""
    have = sorted({name for r in recordings for name in r.channels})
    if channels[0] not in have:
        raise ValueError(
            f"the model reads {channels[0]}, the recording has {', '.join(have)}; take a model of one of these "
            "(--run), or let one stand for it: --channel NAME"
        )
    return build_series(Recordings.of(recordings, "recording"), channels)
