"""What share of a file's readings can't be glucose: more than a few, and the file is in two units, or in none."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from raycadian.modalities.guesses import how_to_set
from raycadian.types import GLUCOSE_MAX_MGDL, GLUCOSE_MIN_MGDL, MGDL_PER_MMOLL

MOST_OUT_OF_RANGE = 0.05  # of a file's readings
_FEWEST = 12  # readings out of range: a few are a sensor's failures
_IN_CELLS = {"mg/dL": "mg/dl", "mmol/L": "mmol"}
OUTSIDE = "glucose outside 20-600 mg/dL (set missing)"
MIXED_UNITS = "the file mixes mg/dL and mmol/L: multiply its mmol/L by 18.0182, or make a file of each unit"


def unit_of_cells(path: Path, text: pd.Series, unit: str | None, stated: str) -> str | None:
    """The unit of a file whose cells of glucose may name one: that, else `unit`, which is `stated` (the file, the
    card). Raises ValueError for cells that name two, or another one."""
    if not pd.api.types.is_object_dtype(text):
        return unit
    cells = pa.array(text.astype(str), pa.string())
    named = {unit: pc.match_substring(cells, word, ignore_case=True) for unit, word in _IN_CELLS.items()}
    units = [unit for unit, cells_with in named.items() if pc.any(cells_with).as_py()]
    other = f", where {stated} says {unit}" if units and unit not in (None, units[0]) else ""
    if len(units) > 1 or other:
        raise ValueError(f"{path}: cells of glucose in {' and in '.join(units)}{other}; {MIXED_UNITS}")
    return unit or next(iter(units), None)


class OutOfRange:
    """The readings of one file outside 20 to 600 mg/dL, block by block."""

    def __init__(self) -> None:
        self.n = self._of = self._of_other_unit = 0
        self._least, self._most = np.inf, -np.inf
        self._places: list[tuple[int, str]] = []  # the first and the last line of each block, with their clocks

    def add(self, values: np.ndarray, mgdl: np.ndarray, lines: np.ndarray, clocks: np.ndarray) -> np.ndarray:
        """Which of these readings (N,) are outside: `values` in the file's unit, the same in mg/dL, and places."""
        outside = ~_within(mgdl) & ~np.isnan(mgdl)
        self._of += int(np.count_nonzero(~np.isnan(mgdl)))
        self.n += int(outside.sum())
        if outside.any():
            other_unit = _within(mgdl * MGDL_PER_MMOLL) | _within(mgdl / MGDL_PER_MMOLL)
            self._of_other_unit += int((outside & other_unit).sum())
            self._least = min(self._least, float(values[outside].min()))
            self._most = max(self._most, float(values[outside].max()))
            at = np.flatnonzero(outside)[np.argsort(lines[outside])[[0, -1]]]
            self._places += [(int(lines[i]), str(clocks[i].astype("datetime64[m]"))) for i in at]
        return outside

    def require_few(self, path: Path, unit: str | None, place: str) -> None:
        """Raises ValueError beyond MOST_OUT_OF_RANGE. `place`: between a file's name and a row's number."""
        if self.n < _FEWEST or self.n <= MOST_OUT_OF_RANGE * self._of:
            return
        first, last = min(self._places), max(self._places)
        where = [f"{path.name}{place}{line} ({clock})" for line, clock in (first, last)]
        in_other_unit = self._of_other_unit > self.n / 2
        fix = MIXED_UNITS if in_other_unit else f"is it the column of glucose? {how_to_set('columns.glucose', 'NAME')}"
        raise ValueError(
            f"{path}: {self.n:,} of {self._of:,} readings are outside {GLUCOSE_MIN_MGDL:.0f}-{GLUCOSE_MAX_MGDL:.0f} "
            f"mg/dL, at most {MOST_OUT_OF_RANGE:.0%} may be: {self._least:g} to {self._most:g} where {unit} is "
            f"expected, from {where[0]} to {where[1]}; {fix}"
        )


def _within(mgdl: np.ndarray) -> np.ndarray:
    return (mgdl >= GLUCOSE_MIN_MGDL) & (mgdl <= GLUCOSE_MAX_MGDL)
