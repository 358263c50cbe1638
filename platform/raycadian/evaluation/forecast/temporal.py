"""How much earlier than the sensor a forecast tells."""

import numpy as np

from raycadian.evaluation.bootstrap import SubjectBootstrap
from raycadian.evaluation.forecast.predictions import Predictions

MIN_WINDOWS = 10  # fewer pairs of a subject say nothing about a correlation


def temporal_gain_min(p: Predictions, step: int, people: SubjectBootstrap) -> np.ndarray:
    """(S,) minutes gained at one step of the horizon, for each of `people.subjects`; NaN where too little was measured.

    Gain = horizon - delay, where the delay (0 up to the horizon, in steps of dt) is the shift of the truth at which
    it correlates most with the forecast: corr over the subject's windows of forecast(t + horizon) with truth(t +
    horizon - delay), where truth(t) is the last point before the forecast. 0 for "as now", the whole horizon for a
    forecast without lag. Facchinetti, Sparacino, Trifoglio, Cobelli, Diabetes Technol Ther 13:111 (2011). Of equal
    correlations the smaller delay counts.
    """
    if p.past is None:
        return np.full(len(people.subjects), np.nan)
    shifted = np.column_stack([p.truth[:, step::-1], p.past[:, -1]]).astype(
        np.float64
    )  # (W, step + 2): delay 0, 1, ...
    shifted[np.isnan(p.truth[:, step])] = np.nan  # a forecast counts only where its truth was measured
    correlation = _correlations(np.broadcast_to(p.median[:, step, None], shifted.shape), shifted, people)
    known = ~np.isnan(correlation).any(1)
    delay = np.argmax(np.where(known[:, None], correlation, 0.0), axis=1)
    return np.where(known, p.horizon_min[step] - p.dt_min * delay, np.nan)


def _correlations(x: np.ndarray, y: np.ndarray, people: SubjectBootstrap) -> np.ndarray:
    """(W, K) pairs -> (S, K): Pearson's correlation over each subject's complete pairs."""
    seen = ~np.isnan(y)
    x, y = np.where(seen, x, 0.0), np.where(seen, y, 0.0)
    n = people.sum(seen)
    with np.errstate(invalid="ignore", divide="ignore"):
        mx, my = people.sum(x) / n, people.sum(y) / n
        cross = people.sum(x * y) / n - mx * my
        spread = (people.sum(x * x) / n - mx**2) * (people.sum(y * y) / n - my**2)
        correlation = cross / np.sqrt(spread)
    return np.where((n >= MIN_WINDOWS) & (spread > 1e-6), correlation, np.nan)
