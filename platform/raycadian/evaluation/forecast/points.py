"""What each point of a forecast contributes to a score: pure functions of truth, quantiles and levels."""

from collections.abc import Callable

import numpy as np

from raycadian.evaluation.forecast.error_grids import ErrorGrid
from raycadian.evaluation.forecast.glycemic import cost, in_range

Points = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(truth (W, H), quantiles (W, H, Q), levels (Q,)) -> what each point contributes (W, H), NaN where truth is
missing."""


def median(quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return quantiles[..., list(levels).index(0.5)]


def error(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return median(quantiles, levels) - truth


def absolute_error(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return np.abs(error(truth, quantiles, levels))


def squared_error(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return error(truth, quantiles, levels) ** 2


def costly_squared_error(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The glucose-specific squared error (glycemic.cost)."""
    return cost(truth, median(quantiles, levels)) * squared_error(truth, quantiles, levels)


def relative_error_pct(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return 100 * absolute_error(truth, quantiles, levels) / truth


def magnitude(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return np.abs(truth)


def pinball(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Koenker and Bassett, Econometrica 46:33 (1978), averaged over the levels."""
    return _pinball_by_level(truth, quantiles, levels).mean(-1)


def quantile_loss(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Twice the pinball loss, averaged over the levels: GluonTS' quantile loss."""
    return 2 * pinball(truth, quantiles, levels)


def crps(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score: twice the pinball loss integrated over the levels from 0 to 1.

    Gneiting and Ranjan, J Bus Econ Stat 29:411 (2011), eq. 12. The integral by the rule that gives each level the
    part of (0, 1) nearest to it: with few levels an approximation (3% low for a normal forecast and levels 5, 25, 50,
    75, 95%), proper all the same. With the median alone it is the absolute error.
    """
    return 2 * _pinball_by_level(truth, quantiles, levels) @ level_widths(levels)


def level_widths(levels: np.ndarray) -> np.ndarray:
    """(Q,) lengths of the parts of (0, 1) nearest to each level; they sum to 1."""
    levels = np.asarray(levels, dtype=float)
    return np.diff(np.r_[0.0, (levels[1:] + levels[:-1]) / 2, 1.0])


def _pinball_by_level(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    above = truth[..., None] - quantiles
    return np.maximum(levels * above, (np.asarray(levels) - 1) * above)


def tir_truth_pct(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return 100 * in_range(truth)


def tir_forecast_pct(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return _where_measured(truth, 100 * in_range(median(quantiles, levels)))


def tir_error_pct(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return tir_forecast_pct(truth, quantiles, levels) - tir_truth_pct(truth, quantiles, levels)


def zones_pct(grid: ErrorGrid, zones: str) -> Points:
    """Points in any of the `zones` of an error grid, e.g. "AB"."""

    def points(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
        lies_in = grid.zones(truth, median(quantiles, levels))
        return _where_measured(truth, 100.0 * np.logical_or.reduce([lies_in == zone for zone in zones]))

    return points


def coverage_pct(low: int, high: int) -> Points:
    """Truth inside the interval between two positions of the levels, ends included."""

    def points(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
        inside = (truth >= quantiles[..., low]) & (truth <= quantiles[..., high])
        return _where_measured(truth, 100.0 * inside)

    return points


def width(low: int, high: int) -> Points:
    def points(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
        return _where_measured(truth, quantiles[..., high] - quantiles[..., low])

    return points


def _where_measured(truth: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(truth), np.nan, values)
