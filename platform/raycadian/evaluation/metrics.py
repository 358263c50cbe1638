"""Scores of forecasts, with bootstrap intervals over subjects.

Every metric reduces to sums per subject and step, so that a bootstrap of 1000 resamples is one matrix product and all
metrics share the same resamples. The definitions that the field confuses:

rmse_mgdl    square root of the mean squared error over all points (pooled), not a mean of RMSEs
mae_mgdl     mean absolute error of the median, pooled
mape_pct     mean absolute error relative to the truth, pooled over points
mard_pct     mean over subjects of each one's mean absolute relative difference
bias_mgdl    mean of median - truth
pinball_mgdl mean pinball loss over the quantile levels, not normalised
coverage_90_pct, width_90_mgdl  share of truth inside the central interval, and its mean width
clarke_a_pct, clarke_ab_pct     share of points in zone A, in A or B
tir_error_pct                   predicted minus actual share of points within 70-180 mg/dL
kind: `step` is at that horizon; `cumulative` is over all steps up to it; `window` judges the horizon as a whole:
<event>_sensitivity_pct and <event>_precision_pct of at least 15 min beyond a threshold, by the median.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from raycadian.evaluation.glycemic import EVENTS, clarke_zones, has_event, in_range
from raycadian.evaluation.predictions import Predictions

_MIN_SUBJECTS = 3
"""Fewer people give no interval: it is NaN, never invented."""


def contributions(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> dict[str, np.ndarray]:
    """Each pooled metric's contribution of every point, (W, H), NaN where the truth is missing."""
    median = quantiles[..., list(levels).index(0.5)]
    error = median - truth
    zones = clarke_zones(truth, median)
    seen = np.where(np.isnan(truth), np.nan, 1.0)
    deviation = truth[..., None] - quantiles
    found = {
        "rmse_mgdl": error**2,
        "mae_mgdl": np.abs(error),
        "mape_pct": 100 * np.abs(error) / truth,
        "bias_mgdl": error,
        "pinball_mgdl": np.maximum(levels * deviation, (levels - 1) * deviation).mean(-1),
        "clarke_a_pct": 100 * (zones == "A") * seen,
        "clarke_ab_pct": 100 * np.isin(zones, ["A", "B"]) * seen,
        "tir_error_pct": 100 * (in_range(median) - in_range(truth)),
    }
    for low, high in intervals(levels):
        percent = round(100 * (levels[high] - levels[low]))
        inside = (truth >= quantiles[..., low]) & (truth <= quantiles[..., high])
        found[f"coverage_{percent}_pct"] = 100 * inside * seen
        found[f"width_{percent}_mgdl"] = (quantiles[..., high] - quantiles[..., low]) * seen
    return found


def intervals(levels: np.ndarray) -> list[tuple[int, int]]:
    """Positions of the levels that bound central intervals, widest first."""
    n = len(levels)
    return [(i, n - 1 - i) for i in range(n // 2) if np.isclose(levels[i] + levels[n - 1 - i], 1)]


def score(predictions: Predictions, *, bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """Long table: scope (all, id, ood), metric, kind, horizon_min, value, low, high, n_subjects, n_windows, n_points.

    Points without truth are left out. Intervals resample subjects; with fewer than three they are NaN.
    """
    frames = []
    for scope in ("all", *sorted(set(predictions.scope))):
        chosen = predictions if scope == "all" else predictions.select(predictions.scope == scope)
        table = pd.DataFrame(_rows(chosen, _Bootstrap(chosen.subject, bootstrap, confidence, seed)))
        table.insert(0, "scope", scope)
        table["n_subjects"], table["n_windows"] = len(set(chosen.subject)), len(chosen)
        frames.append(table)
    return pd.concat(frames, ignore_index=True)


class _Bootstrap:
    """Sums per subject and the intervals of their ratios."""

    def __init__(self, subject: np.ndarray, resamples: int, confidence: float, seed: int):
        _, self.code = np.unique(subject, return_inverse=True)
        self.subjects = int(self.code.max()) + 1 if len(subject) else 0
        rng = np.random.default_rng(seed)
        # how often each subject is drawn in each resample, (R, S)
        self.drawn = rng.multinomial(self.subjects, np.full(self.subjects, 1 / self.subjects), size=resamples)
        self.tails = ((1 - confidence) / 2, (1 + confidence) / 2)

    def sums(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(W, H) -> sums and counts of the non-missing, (S, H) each."""
        total = np.zeros((self.subjects, values.shape[1]))
        count = np.zeros_like(total)
        np.add.at(total, self.code, np.nan_to_num(values))
        np.add.at(count, self.code, ~np.isnan(values))
        return total, count

    def ratio(self, total: np.ndarray, count: np.ndarray, root: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """value, low, high, (H,) each, of sum(total) / sum(count) over subjects."""

        def finish(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            mean = np.divide(a, b, out=np.full_like(a, np.nan), where=b > 0)
            return np.sqrt(mean) if root else mean

        value = finish(total.sum(0), count.sum(0))
        if self.subjects < _MIN_SUBJECTS:
            return value, np.full_like(value, np.nan), np.full_like(value, np.nan)
        drawn = finish(self.drawn @ total, self.drawn @ count)
        usable = ~np.isnan(drawn).all(0)
        low, high = np.full((2, len(value)), np.nan)
        if usable.any():
            low[usable], high[usable] = np.nanquantile(drawn[:, usable], self.tails, axis=0)
        return value, low, high


def _rows(p: Predictions, boot: _Bootstrap) -> Iterator[dict]:
    relative: tuple[np.ndarray, np.ndarray] | None = None
    for metric, values in contributions(p.truth, p.quantiles, p.levels).items():
        total, count = boot.sums(values)
        if metric == "mape_pct":
            relative = (total, count)
        yield from _by_step(p, metric, boot, total, count)
    assert relative is not None
    yield from _mard(p, boot, *relative)
    yield from _events(p, boot)


def _by_step(p: Predictions, metric: str, boot: _Bootstrap, total: np.ndarray, count: np.ndarray) -> Iterator[dict]:
    for kind, (a, b) in {"step": (total, count), "cumulative": (total.cumsum(1), count.cumsum(1))}.items():
        yield from _emit(p.horizon_min, metric, kind, boot.ratio(a, b, root=metric.startswith("rmse")), b.sum(0))


def _mard(p: Predictions, boot: _Bootstrap, total: np.ndarray, count: np.ndarray) -> Iterator[dict]:
    """Each subject's own mean first, then the mean over subjects."""
    for kind, (a, b) in {"step": (total, count), "cumulative": (total.cumsum(1), count.cumsum(1))}.items():
        own = np.divide(a, b, out=np.zeros_like(a), where=b > 0)
        yield from _emit(p.horizon_min, "mard_pct", kind, boot.ratio(own, (b > 0).astype(float)), b.sum(0))


def _events(p: Predictions, boot: _Bootstrap) -> Iterator[dict]:
    """Windows whose horizon holds an event, by the truth and by the median. Windows with missing truth are left out."""
    whole = ~np.isnan(p.truth).any(1)
    for name, (threshold, above) in EVENTS.items():
        actual = has_event(p.truth, threshold, p.dt_min, above) & whole
        alarm = has_event(p.median, threshold, p.dt_min, above) & whole
        hit, _ = boot.sums(100.0 * (actual & alarm)[:, None])
        for metric, base in (("sensitivity", actual), ("precision", alarm)):
            events, _ = boot.sums(base[:, None].astype(float))
            yield from _emit(p.horizon_min[-1:], f"{name}_{metric}_pct", "window", boot.ratio(hit, events), events.sum(0))


def _emit(horizons: np.ndarray, metric: str, kind: str, found: tuple, points: np.ndarray) -> Iterator[dict]:
    for h, value, low, high, n in zip(horizons, *found, points, strict=True):
        yield {"metric": metric, "kind": kind, "horizon_min": h, "value": value, "low": low, "high": high, "n_points": int(n)}
