"""What is known about a recording beside its channels: good stretches, numerics, its row of the people's table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raycadian.config import LabelWindow


@dataclass(frozen=True)
class QualityMask:
    """Stretches of `length` points that quality was judged on, every `hop` points from the first on.

    reasons: channel -> (K,) int, bits of physiology.repair.Reason, 0 is good.
    """

    length: int
    hop: int
    reasons: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Marks:
    """Of one recording: `number` within its subject, `n` points of `dt_s`.

    numerics: channel -> (times_s, values) after the recording's start, in time order · attributes: its row of the table
    of cases or people, with the `case` it came from · judged: none where the modality judges no stretches.
    """

    subject: str
    number: int
    n: int
    dt_s: float
    judged: QualityMask | None = None
    numerics: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def case(self) -> str:
        return str(self.attributes.get("case", self.number))


def points_of(seconds: float, dt_s: float, what: str) -> int:
    """Seconds as points of the grid. Raises ValueError where they are no whole number of them."""
    points = round(seconds / dt_s)
    if points < 1 or abs(points * dt_s - seconds) > 1e-6 * seconds:
        raise ValueError(f"{what} {seconds:g} s is no whole number of grid steps of {dt_s:g} s; change it")
    return points


def context_points(window: LabelWindow, dt_s: float) -> int:
    """L: points that the model sees at once. Raises ValueError."""
    return window.windows * points_of(window.window_s, dt_s, "window.window_s")


def good_starts(marks: Marks, observed: np.ndarray, window: LabelWindow, step_s: float) -> np.ndarray:
    """First points (M,) of the windows of a recording that may be used, every `step_s`.

    At most `max_missing` is bad: of the judged stretches, which say what is missing too, or, where none were judged, of
    the points of `observed` (n,), True where every channel was measured. Raises ValueError where window, step and the
    stretches that were judged don't fit.
    """
    length, step = context_points(window, marks.dt_s), points_of(step_s, marks.dt_s, "window.step_s")
    starts = np.arange(0, marks.n - length + 1, step)
    if marks.judged is not None:
        return starts[_good(marks, marks.judged, window, starts)]
    count = np.concatenate([[0], np.cumsum(~observed)])
    return starts[count[starts + length] - count[starts] <= window.max_missing * length]


def _good(marks: Marks, judged: QualityMask, window: LabelWindow, starts: np.ndarray) -> np.ndarray:
    """(M,): at most max_missing of the window's stretches are of bad quality in any of its channels."""
    each = points_of(window.window_s, marks.dt_s, "window.window_s")
    if each != judged.length:
        raise ValueError(
            f"window.window_s {window.window_s:g}: quality was judged on stretches of {judged.length * marks.dt_s:g} "
            "s; set one to the other (the card's quality.window_s)"
        )
    if len(starts) and ((starts % judged.hop).any() or each % judged.hop):
        raise ValueError(
            f"windows begin where quality was judged, every {judged.hop * marks.dt_s:g} s: make window.step_s, "
            "eval_step_s and window_s multiples of the card's quality.hop_s"
        )
    first = next(iter(judged.reasons.values()))
    bad = np.zeros(len(first), bool)
    for channel in window.past:
        bad |= judged.reasons[channel] != 0 if channel in judged.reasons else True
    at = starts[:, None] // judged.hop + np.arange(window.windows) * (each // judged.hop)  # (M, windows)
    beyond = at >= len(bad)
    return (np.append(bad, True)[np.where(beyond, len(bad), at)]).mean(1) <= window.max_missing
