"""Intervals that adapt while they are used: what a deployed forecaster could still hold, person by person."""

from bisect import insort
from dataclasses import replace

import numpy as np

from raycadian.evaluation.forecast.metrics import intervals
from raycadian.evaluation.forecast.predictions import Predictions

STEP_SIZE = 0.005
"""Gibbs and Candès' own choice of gamma."""


def adaptive_conformal(
    p: Predictions, val: Predictions, *, coverage: float = 0.9, step_size: float = STEP_SIZE
) -> Predictions:
    """`p` with only its median and the central `coverage` interval, the latter adapted online for each subject and
    step.

    Adaptive conformal inference (Gibbs and Candès, NeurIPS 34, 2021) on the scores of conformalised quantile
    regression (Romano, Patterson, Candès, NeurIPS 32, 2019): score = max(lower - truth, truth - upper), positive
    outside. The interval of a window is widened (or narrowed, never past the median) by the (1 - alpha) quantile of
    the scores at that step: `val`'s, and the subject's own that are known by then. alpha begins at 1 - coverage;
    whenever a truth becomes known, alpha += step_size * (1 - coverage - missed). A window's truth at a step is known
    to windows that begin at that moment or later: feedback is delayed by the horizon. alpha below 0 takes the largest
    score (the method's own answer, an infinite interval, forecasts nothing), above 1 the smallest. Parts are dropped.
    Raises ValueError where the levels bound no such interval or `val` has no truth at a step.
    """
    low, high = _positions(p, coverage)
    lower, upper = (p.quantiles[:, :, i].astype(np.float64) for i in (low, high))
    scores = _scores(val, low, high)
    widen = np.zeros(p.truth.shape)
    order = np.lexsort((p.time_utc, p.subject))
    for mine in np.split(order, np.flatnonzero(p.subject[order][1:] != p.subject[order][:-1]) + 1):
        origin = p.time_utc[mine].astype("datetime64[s]").astype(np.int64)
        missed_by = np.fmax(lower[mine] - p.truth[mine], p.truth[mine] - upper[mine])
        for step, sorted_scores in enumerate(scores):
            known_at = origin + round(60 * p.horizon_min[step])
            widen[mine, step] = _adapted(missed_by[:, step], origin, known_at, sorted_scores, 1 - coverage, step_size)
    middle = p.median.astype(np.float64)
    bounds = np.stack([np.minimum(lower - widen, middle), middle, np.maximum(upper + widen, middle)], axis=-1)
    return replace(p, quantiles=bounds, levels=p.levels[[low, list(p.levels).index(0.5), high]], parts={})


def _adapted(
    score: np.ndarray, origin: np.ndarray, known_at: np.ndarray, calibration: np.ndarray, miss: float, step_size: float
) -> np.ndarray:
    """(N,) by how much to widen each window's interval at one step; windows of one subject in time order, score NaN:
    unknown."""
    widen, alpha, judged, scores = np.zeros(len(score)), miss, 0, calibration.tolist()
    for i in range(len(score)):
        while known_at[judged] <= origin[i]:  # ends: a window's own truth lies after its origin
            if not np.isnan(score[judged]):
                alpha += step_size * (miss - (score[judged] > widen[judged]))
                insort(scores, float(score[judged]))
            judged += 1
        rank = int(np.ceil((len(scores) + 1) * (1 - alpha)))
        widen[i] = scores[min(max(rank, 1), len(scores)) - 1]
    return widen


def _scores(val: Predictions, low: int, high: int) -> list[np.ndarray]:
    """Each step's scores, rising."""
    miss = np.fmax(val.quantiles[:, :, low] - val.truth, val.truth - val.quantiles[:, :, high]).astype(np.float64)
    by_step = [np.sort(column[~np.isnan(column)]) for column in miss.T]
    empty = [f"{val.horizon_min[i]:g}" for i, scores in enumerate(by_step) if not len(scores)]
    if empty:
        raise ValueError(
            f"no truth was measured {', '.join(empty)} min ahead in {len(val)} validation windows: nothing to adapt "
            "from"
        )
    return by_step


def _positions(p: Predictions, coverage: float) -> tuple[int, int]:
    for low, high in intervals(p.levels):
        if np.isclose(p.levels[high] - p.levels[low], coverage):
            return low, high
    raise ValueError(
        f"the levels {[float(v) for v in p.levels]} bound no central {coverage:.0%} interval: choose another coverage, "
        f"or forecast the levels {(1 - coverage) / 2:g} and {(1 + coverage) / 2:g}"
    )
