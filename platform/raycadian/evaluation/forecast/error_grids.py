"""Error grids: what a wrong glucose value would have led a person to do. Clarke, and Parkes for type 1 and type 2.
Vectorised, mg/dL.

Zones are letters of the inputs' shape, A (no effect on treatment) to E (dangerous), "" where either value is NaN.

Why no library: error-grids 0.1.0 prolongs stretches of the Parkes lines past their corners, and methcomp 1.0.0 draws
the lower zone D of type 1 through a corner of type 2; everywhere else methcomp agrees point by point. The
surveillance error grid (Klonoff et al., J Diabetes Sci Technol 8:658, 2014) is a table of 337,561 rated pairs, not a
formula, and no package ships it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

Line = tuple[tuple[float, float], ...]
"""Corners (reference, predicted) of a boundary, the reference rising; its last stretch goes on beyond its end."""

CLARKE_LINES: tuple[Line, ...] = (
    ((0, 70), (175 / 3, 70), (400 / 1.2, 400)),
    ((70, 84), (70, 400)),
    ((0, 180), (70, 180)),
    ((70, 180), (290, 400)),
    ((70, 0), (70, 56), (400, 320)),
    ((180, 0), (180, 70), (400, 70)),
    ((240, 70), (240, 180), (400, 180)),
    ((130, 0), (180, 70)),
)

# Pfützner, Klonoff, Pardo, Parkes, J Diabetes Sci Technol 7:1275 (2013), table 1: beyond these lines lie B, C, D, E.
PARKES_ABOVE: dict[int, dict[str, Line]] = {
    1: {
        "B": ((0, 50), (30, 50), (140, 170), (280, 380), (430, 550)),
        "C": ((0, 60), (30, 60), (50, 80), (70, 110), (260, 550)),
        "D": ((0, 100), (25, 100), (50, 125), (80, 215), (125, 550)),
        "E": ((0, 150), (35, 155), (50, 550)),
    },
    2: {
        "B": ((0, 50), (30, 50), (230, 330), (440, 550)),
        "C": ((0, 60), (30, 60), (280, 550)),
        "D": ((0, 80), (25, 80), (35, 90), (125, 550)),
        "E": ((0, 200), (35, 200), (50, 550)),
    },
}
PARKES_BELOW: dict[int, dict[str, Line]] = {
    1: {
        "B": ((50, 0), (50, 30), (170, 145), (385, 300), (550, 450)),
        "C": ((120, 0), (120, 30), (260, 130), (550, 250)),
        "D": ((250, 0), (250, 40), (550, 150)),
    },
    2: {
        "B": ((50, 0), (50, 30), (90, 80), (330, 230), (550, 450)),
        "C": ((90, 0), (260, 130), (550, 250)),
        "D": ((250, 0), (250, 40), (410, 110), (550, 160)),
    },
}


def clarke_zones(reference: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Clarke, Cox, Gonder-Frederick, Carter, Pohl, Diabetes Care 10:622 (1987).

    Zones are tested in the order A, E, C, D, the rest is B, so each point has one zone. The published grid ends at
    400 mg/dL; its lines are not prolonged: overestimates at a reference above 290 mg/dL are B.
    """
    r, p = np.asarray(reference, dtype=float), np.asarray(predicted, dtype=float)
    a = ((r <= 70) & (p <= 70)) | (np.abs(p - r) <= 0.2 * r)
    e = ((r >= 180) & (p <= 70)) | ((r <= 70) & (p >= 180))
    c = ((r >= 70) & (r <= 290) & (p >= r + 110)) | ((r >= 130) & (r <= 180) & (p <= 7 / 5 * r - 182))
    d = ((r >= 240) & (p >= 70) & (p <= 180)) | ((r <= 175 / 3) & (p >= 70) & (p <= 180))
    d |= (r >= 175 / 3) & (r <= 70) & (p >= 6 / 5 * r)
    return np.select([np.isnan(r) | np.isnan(p), a, e, c, d], ["", "A", "E", "C", "D"], "B")


def parkes_zones(reference: np.ndarray, predicted: np.ndarray, diabetes_type: int) -> np.ndarray:
    """Parkes, Slatin, Pardo, Ginsberg, Diabetes Care 23:1143 (2000), also "consensus error grid"; corners: Pfützner
    et al. 2013.

    `diabetes_type` 1 (or treated with insulin) or 2. A point on a line is in the milder zone. The published grid ends
    at 550 mg/dL; the last stretch of each line is prolonged. Raises ValueError for another type.
    """
    if diabetes_type not in PARKES_ABOVE:
        raise ValueError(f"diabetes_type: expected 1 or 2, found {diabetes_type!r}")
    r, p = np.asarray(reference, dtype=float), np.asarray(predicted, dtype=float)
    zones = np.full(np.broadcast(r, p).shape, "A")
    for zone, line in PARKES_ABOVE[
        diabetes_type
    ].items():  # each zone lies inside the one before: the last that holds counts
        zones = np.where(p > _height(line, r), zone, zones)
    for zone, line in PARKES_BELOW[diabetes_type].items():
        zones = np.where((r > line[0][0]) & (p < _height(line, r)), zone, zones)
    return np.where(np.isnan(r) | np.isnan(p), "", zones)


def _height(line: Line, reference: np.ndarray) -> np.ndarray:
    """The line's predicted value at each reference; at a vertical stretch its upper end."""
    corners = [here for here, after in pairwise(line) if here[0] != after[0]] + [line[-1]]
    x, y = np.array(corners, dtype=float).T
    slope = (y[-1] - y[-2]) / (x[-1] - x[-2])
    return np.where(reference > x[-1], y[-1] + slope * (reference - x[-1]), np.interp(reference, x, y))


@dataclass(frozen=True)
class ErrorGrid:
    """A grid as scores and figures use it: `zones` (reference, predicted), lines, where letters stand, its end."""

    title: str
    zones: Callable[[np.ndarray, np.ndarray], np.ndarray]
    lines: tuple[Line, ...]
    letters: dict[str, list[tuple[float, float]]]
    limit_mgdl: float


def _parkes(diabetes_type: int, letters: dict[str, list[tuple[float, float]]]) -> ErrorGrid:
    lines = (*PARKES_ABOVE[diabetes_type].values(), *PARKES_BELOW[diabetes_type].values())
    title = f"Parkes, type {diabetes_type}"
    return ErrorGrid(title, lambda r, p: parkes_zones(r, p, diabetes_type), lines, letters, 550.0)


GRIDS: dict[str, ErrorGrid] = {
    "clarke": ErrorGrid("Clarke", clarke_zones, CLARKE_LINES, {
        "A": [(30, 18), (380, 352)], "B": [(375, 260), (290, 385)], "C": [(160, 378), (163, 12)],
        "D": [(22, 125), (375, 120)], "E": [(22, 378), (375, 22)],
    }, 400.0),
    "parkes1": _parkes(1, {
        "A": [(20, 12), (520, 500)], "B": [(520, 330), (370, 520)], "C": [(520, 190), (210, 520)],
        "D": [(520, 70), (95, 520)], "E": [(18, 520)],
    }),
    "parkes2": _parkes(2, {
        "A": [(20, 12), (520, 500)], "B": [(520, 330), (350, 520)], "C": [(520, 195), (190, 520)],
        "D": [(520, 80), (80, 520)], "E": [(18, 520)],
    }),
}  # fmt: skip
"""By the names that their scores begin with."""
