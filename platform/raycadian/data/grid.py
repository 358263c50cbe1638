"""From irregular readings to recordings on an even grid: the gap rule, short interpolation, the mask, gridded events.

N points of a recording, M readings of a piece, E events, R recordings of a subject. Times are whole seconds, UTC.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from raycadian.config import Grid
from raycadian.types import BASAL, EVENT_CHANNELS, GLUCOSE, TIME_UTC, Issues, Readings, Recording


def to_recordings(readings: Readings, grid: Grid, issues: Issues) -> list[Recording]:
    """One subject's readings as recordings in time order.

    A gap longer than `gap_min` or a change of the UTC offset ends a recording; the next one has a grid of its own from
    its first reading. A point within half a step of a reading takes the nearest, and only there is `observed` True: a
    history cut half a step after a point gives it the same value as the whole, so that a served forecast equals the
    scored one. Other points take the value linear in time between readings at most `interpolate_min` apart, or NaN.
    Amounts (carbohydrate, insulin) are summed on the first grid point at or after them, so that no point knows of a
    later meal; basal rates hold until the next one (NaN before the first). A channel is absent where the subject has
    no such event. What is dropped is counted in `issues`.
    """
    glucose = readings.glucose
    return arrays_to_recordings(
        readings.subject, seconds(glucose[TIME_UTC]), glucose[GLUCOSE].to_numpy(np.float64),
        glucose["utc_offset_min"].to_numpy(np.int64), readings.events, grid, issues,
    )  # fmt: skip


def arrays_to_recordings(
    subject: str, time_s: np.ndarray, glucose_mgdl: np.ndarray, offset_min: np.ndarray, events: pd.DataFrame | None,
    grid: Grid, issues: Issues,
) -> list[Recording]:  # fmt: skip
    """`to_recordings` of plain arrays (M,), in any order: UTC seconds (int64), mg/dL, minutes ahead of UTC (int64)."""
    time_s, glucose_mgdl, offset_min = _clean(subject, time_s, glucose_mgdl, offset_min, issues)
    dt_s = grid.dt_min * 60.0
    recordings: list[Recording] = []
    for begin, end in _pieces(subject, time_s, offset_min, grid.gap_min * 60.0, issues):
        values, observed = _resample(time_s[begin:end], glucose_mgdl[begin:end], dt_s, grid.interpolate_min * 60.0)
        start_utc = time_s[begin].astype("datetime64[s]")
        if len(values) < grid.min_points:
            issues.add("recording shorter than min_points", f"subject {subject!r} at {start_utc} UTC")
            continue
        recordings.append(
            Recording(subject, len(recordings), start_utc, int(offset_min[begin]), dt_s, {GLUCOSE: values}, observed)
        )
    return recordings if events is None or not len(events) else _with_events(recordings, events, issues)


def owners(time_s: np.ndarray, start_s: np.ndarray, n_points: np.ndarray, dt_s: float) -> np.ndarray:
    """The recording that each event (E,) falls in, -1 where none: the last that begins less than a step after it, if
    it has not ended. start_s, n_points (R,) in time order. No event belongs to two."""
    if not len(start_s):
        return np.full(len(time_s), -1)
    owner = np.searchsorted(start_s - dt_s, time_s, side="left") - 1
    ended = time_s > (start_s + (n_points - 1) * dt_s)[owner]
    return np.where(ended, -1, owner)


def extents(recordings: list[Recording]) -> tuple[np.ndarray, np.ndarray]:
    """start_s (R,) UTC seconds and n_points (R,) of recordings."""
    start_s = np.array([r.start_utc for r in recordings], dtype="datetime64[s]").astype(np.int64)
    return start_s, np.array([len(r) for r in recordings], dtype=np.int64)


def seconds(times: pd.Series) -> np.ndarray:
    """Whole UTC seconds (int64) of a column of times."""
    return times.to_numpy("datetime64[s]").astype(np.int64)


def _clean(
    subject: str, time_s: np.ndarray, glucose_mgdl: np.ndarray, offset_min: np.ndarray, issues: Issues
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measured readings in strictly rising time: seconds, mg/dL, UTC offset in minutes, (M,) each."""
    measured = np.flatnonzero(np.isfinite(glucose_mgdl))
    order = measured[np.argsort(time_s[measured], kind="stable")]
    time_s, first = np.unique(time_s[order], return_index=True)
    issues.add("reading at the same second as another", f"subject {subject!r}", len(order) - len(first))
    kept = order[first]
    return time_s, glucose_mgdl[kept], offset_min[kept]


def _pieces(
    subject: str, time_s: np.ndarray, offset_min: np.ndarray, gap_s: float, issues: Issues
) -> Iterator[tuple[int, int]]:
    """Ranges [begin, end) of readings without a long gap or a change of the offset."""
    if not len(time_s):
        issues.add("subject without a reading", f"subject {subject!r}")
        return
    moved = np.diff(offset_min) != 0
    for i in np.flatnonzero(moved):
        where = f"subject {subject!r} at {time_s[i + 1].astype('datetime64[s]')} UTC"
        issues.add("change of the UTC offset (DST or travel)", f"{where}: {offset_min[i]} to {offset_min[i + 1]} min")
    edges = np.flatnonzero(moved | (np.diff(time_s) > gap_s)) + 1
    yield from zip([0, *edges.tolist()], [*edges.tolist(), len(time_s)], strict=True)


def _resample(
    time_s: np.ndarray, values: np.ndarray, dt_s: float, interpolate_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """One piece (M,) on its grid: values (N,) float32 with NaN = missing, observed (N,) bool."""
    t = (time_s - time_s[0]).astype(np.float64)
    points = np.arange(int((t[-1] + dt_s / 2) // dt_s) + 1) * dt_s
    left = np.searchsorted(t, points, side="right") - 1
    right = np.minimum(left + 1, len(t) - 1)
    before, after = points - t[left], np.abs(t[right] - points)
    observed = np.minimum(before, after) <= dt_s / 2
    nearest = np.where(before <= after, values[left], values[right])
    between = np.where(t[right] - t[left] <= interpolate_s, np.interp(points, t, values), np.nan)
    return np.where(observed, nearest, between).astype(np.float32), observed


def _with_events(recordings: list[Recording], events: pd.DataFrame, issues: Issues) -> list[Recording]:
    """Recordings with the channels of the subject's events, and the events themselves beside them."""
    events = events.sort_values(TIME_UTC, kind="stable")
    kinds = set(events["kind"])
    assert kinds <= set(EVENT_CHANNELS), f"unknown kinds of events: {kinds - set(EVENT_CHANNELS)}"
    time_s, (start_s, n_points) = seconds(events[TIME_UTC]), extents(recordings)
    owner = owners(time_s, start_s, n_points, recordings[0].dt_s if recordings else 0.0)
    issues.add("event outside every recording (in a gap, or before or after the readings)", n=int((owner < 0).sum()))
    basal = events["kind"].to_numpy() == BASAL
    rate = events["value"].to_numpy(np.float64)[basal]
    whole = []
    for recording in recordings:
        own = owner == recording.index
        summed = (kind for kind in EVENT_CHANNELS if kind in kinds and kind != BASAL)
        channels = {k: _summed(recording, events[own & (events["kind"] == k)]) for k in summed}
        if BASAL in kinds:
            channels[BASAL] = _held(recording, time_s[basal], rate)
        own_events = events[own].reset_index(drop=True)
        whole.append(replace(recording, channels=recording.channels | channels, events=own_events))
    return whole


def _summed(recording: Recording, events: pd.DataFrame) -> np.ndarray:
    """Amounts (N,) float32 on the first grid point at or after each event; 0 where none."""
    since_s = seconds(events[TIME_UTC]) - recording.start_utc.astype(np.int64)
    point = np.clip(np.ceil(since_s / recording.dt_s), 0, len(recording) - 1).astype(np.int64)
    return np.bincount(point, events["value"].to_numpy(np.float64), len(recording)).astype(np.float32)


def _held(recording: Recording, time_s: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """The rate in force at each grid point (N,) float32; NaN before the first."""
    points_s = recording.start_utc.astype(np.int64) + np.arange(len(recording)) * recording.dt_s
    last = np.searchsorted(time_s, points_s, side="right") - 1
    return np.where(last >= 0, rate[last], np.nan).astype(np.float32)
