"""Whether quantiles mean what they say, and intervals that adapt while they are used, person by person."""

from bisect import insort
from dataclasses import replace

import numpy as np
import pandas as pd

from raycadian.config import Evaluation
from raycadian.evaluation.bootstrap import SubjectBootstrap, ratio
from raycadian.evaluation.forecast.metrics import Points, interval_name, intervals
from raycadian.evaluation.forecast.predictions import Predictions


def reliability(p: Predictions, people: SubjectBootstrap | None = None) -> pd.DataFrame:
    """level, observed, low, high: the share of measured truth at or below each quantile, over all windows and steps.

    Calibrated where observed equals level. `people` gives the intervals, over subjects (default: 1000 resamples, 95%).
    """
    people = people or SubjectBootstrap(p.subject)
    below = np.where(np.isnan(p.truth)[..., None], np.nan, p.truth[..., None] <= p.quantiles)  # (W, H, Q)
    total, count = np.nansum(below, axis=1), (~np.isnan(below)).sum(1)  # (W, Q)
    observed, low, high = people.estimate(people.sum(total), people.sum(count))
    return pd.DataFrame({"level": p.levels, "observed": observed, "low": low, "high": high})


def coverage_by_horizon(p: Predictions, people: SubjectBootstrap | None = None) -> pd.DataFrame:
    """nominal_pct, horizon_min, observed_pct, low, high: each central interval's coverage at each step."""
    people, points = people or SubjectBootstrap(p.subject), Points(p.truth, p.quantiles, p.levels)
    tables = []
    for low, high in intervals(p.levels):
        observed, lower, upper = people.estimate(*people.sum_count(points.coverage_pct(low, high)))
        nominal = float(interval_name(p.levels, low, high))
        columns = (np.full(len(observed), nominal), p.horizon_min, observed, lower, upper)
        tables.append(np.column_stack(columns))
    columns = ["nominal_pct", "horizon_min", "observed_pct", "low", "high"]
    return pd.DataFrame(np.concatenate(tables) if tables else [], columns=columns)


def pit(p: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Edges (Q+2,) from 0 to 1 and the density of truth between neighbouring levels (Q+1,): 1 everywhere if calibrated.

    The probability integral transform, known at the levels only (Gneiting, Balabdaoui, Raftery, JRSS B 69:243, 2007);
    NaN where no truth was measured.
    """
    seen = ~np.isnan(p.truth)
    edges = np.r_[0.0, p.levels, 1.0]
    if not seen.any():
        return edges, np.full(len(edges) - 1, np.nan)
    share = np.diff(np.r_[0.0, (p.truth[..., None] <= p.quantiles)[seen].mean(0), 1.0])
    return edges, share / np.diff(edges)


def coverage_by_subject(p: Predictions) -> pd.DataFrame:
    """subject, horizon_min, nominal, observed, n: for each person and step the share of truth inside each central
    interval.

    Shares from 0 to 1 over the `n` measured points; observed is NaN where nothing was measured.
    """
    people, points = SubjectBootstrap(p.subject, Evaluation(bootstrap=1)), Points(p.truth, p.quantiles, p.levels)
    place = {
        "subject": np.repeat(people.subjects, p.truth.shape[1]),
        "horizon_min": np.tile(p.horizon_min, len(people.subjects)),
    }
    tables = []
    for low, high in intervals(p.levels):
        total, count = people.sum_count(points.coverage_pct(low, high))  # (S, H)
        nominal, observed = round(float(p.levels[high] - p.levels[low]), 12), ratio(total, count).ravel() / 100
        tables.append(pd.DataFrame(place | {"nominal": nominal, "observed": observed, "n": count.ravel().astype(int)}))
    columns = [*place, "nominal", "observed", "n"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


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
    """(N,) how much to widen each interval at one step; a subject's windows in time order, score NaN: unknown."""
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
