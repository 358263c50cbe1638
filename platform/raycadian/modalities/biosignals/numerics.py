"""Numerics of a snapshot of biosignals on an even grid: the recordings that a forecast of a pressure is cut from."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from raycadian.config import unit_of
from raycadian.data.marks import Marks
from raycadian.data.series import Recordings, Series, build_series
from raycadian.data.snapshot import Snapshot
from raycadian.modalities.biosignals.card import BiosignalCard
from raycadian.modalities.biosignals.prepare import START
from raycadian.modalities.cards import card_of
from raycadian.modalities.guesses import how_to_set
from raycadian.tasks import hypotension
from raycadian.types import Recording

_MOSTLY = 0.5  # of the points
_AHEAD = 8  # subjects read at once


def open_numerics(snapshot: Snapshot, channels: tuple[str, ...]) -> Series:
    """The series of numerics of a snapshot, the first of which is forecast. In memory: a case of 4 hours has 240
    points.
    Raises ValueError where the card has no such numeric, or nobody does."""
    card = card_of(snapshot)
    if unknown := [c for c in channels if c not in card.numerics]:
        raise ValueError(
            f"window.past names {unknown}; the card's numerics are {', '.join(card.numerics) or 'none'}: add the track "
            "there, or set task.target and window.past to one of them"
        )
    with ThreadPoolExecutor(_AHEAD) as pool:
        marks = dict(zip(snapshot.subjects, pool.map(snapshot.marks, snapshot.subjects), strict=True))
    cases = [_recording(m, channels, card) for subject in sorted(marks) for m in marks[subject]]
    _require_dense([case for case in cases if case is not None], channels[0], card)
    return build_series(Recordings.of(filter(None, cases), snapshot.id), channels, forecast=True)


def _require_dense(cases: list[Recording], channel: str, card: BiosignalCard) -> None:
    """Raises ValueError where most points of what is forecast lie between two measurements."""
    measured = [np.flatnonzero(case.observed) for case in cases]
    share = sum(map(len, measured)) / max(sum(map(len, cases)), 1)
    if card.hold_s is None and cases and share < _MOSTLY:
        apart = [np.diff(at) for at in measured if len(at) > 1]
        every_s = card.numerics_every_s * (float(np.median(np.concatenate(apart))) if apart else 1.0)
        raise ValueError(
            f"{channel} is measured at {share:.0%} of the points, one every {card.numerics_every_s:g} s, typically "
            f"every {every_s:g} s: {how_to_set('hold_s', round(every_s))}, so that each value holds until the next, or "
            f"{how_to_set('numerics_every_s', round(every_s))}"
        )


def _held(values: np.ndarray, points: float) -> np.ndarray:
    """Values (N,) with the missing ones as the one before, at most so many points later; they count as measured."""
    at = np.arange(len(values))
    last = np.maximum.accumulate(np.where(np.isnan(values), -1, at))
    near = (last >= 0) & (at - last <= points)
    return np.where(near, values[np.maximum(last, 0)], np.nan).astype(values.dtype)


def _recording(marks: Marks, channels: tuple[str, ...], card: BiosignalCard) -> Recording | None:
    """A case on the grid; none where its monitor did not write the first channel."""
    every_s = card.numerics_every_s
    n = int(marks.n * marks.dt_s // every_s)
    if not n or channels[0] not in marks.numerics:
        return None
    nothing = (np.empty(0), np.empty(0))
    gridded = {c: hypotension.grid(*_plausible(c, *marks.numerics.get(c, nothing)), every_s, n) for c in channels}
    if card.hold_s is not None:
        gridded = {c: _held(values, card.hold_s / every_s) for c, values in gridded.items()}
    start = START + marks.number * np.timedelta64(1, "D")  # as the snapshot has it
    return Recording(marks.subject, marks.number, start, 0, every_s, gridded, ~np.isnan(gridded[channels[0]]))


def _plausible(channel: str, times_s: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """values, times: a pressure that a flushed or disconnected line shows is missing."""
    low, high = hypotension.PLAUSIBLE_MMHG if unit_of(channel) == "mmHg" else (-np.inf, np.inf)
    return np.where((values >= low) & (values <= high), values, np.nan), times_s
