"""Whether quantiles mean what they say."""

import numpy as np
import pandas as pd

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
    people, points = SubjectBootstrap(p.subject, bootstrap=1), Points(p.truth, p.quantiles, p.levels)
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
