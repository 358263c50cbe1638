"""Scores of forecasts, with bootstrap intervals over people.

Every metric is a ratio of sums over windows, pooled: points without measured truth are left out one by one, and counted.

rmse_mgdl         square root of the mean squared error of the median over all points (of all windows at once);
                  not the mean of per-window or per-person RMSEs, which is lower
mae_mgdl          mean absolute error of the median
mape_pct          mean of |median - truth| / truth
mard_pct          mean absolute relative difference: the glucose field's name for the same number, always equal to mape_pct
bias_mgdl         mean of median - truth
pinball_mgdl      mean pinball loss over the quantile levels, not normalised
clarke_a_pct      share of points in zone A of the Clarke error grid; clarke_ab_pct: in A or B
tir_truth_pct     share of points within 70-180 mg/dL as measured; tir_forecast_pct: of the median;
                  tir_error_pct: the latter minus the former
coverage_90_pct   share of truth inside the central 90% interval; width_90_mgdl: the interval's mean width

kind   step        at that horizon alone
       cumulative  over all steps up to it; at the last step: over the whole horizon
       window      the horizon judged as a whole, for events: at least 15 minutes in a row below 70 or 54, above 180 or 250 mg/dL

hypo70_sensitivity_pct           share of windows with an event in which the median shows one, too
hypo70_precision_pct             share of windows whose median shows an event that hold one
hypo70_f1_pct                    harmonic mean of the two
hypo70_false_alarms_per_day      alarms without an event; neighbouring windows that alarm are one alarm
hypo70_q5_sensitivity_pct ...    the same where not the median but the 5% quantile raises the alarm (above: the upper ones)

Windows overlap and an event under way counts, so sensitivity includes events that have begun. Windows whose missing
points leave open whether there was an event are left out. Low and high: percentile bootstrap over subjects, the same
resamples for all metrics; missing where fewer than three people contribute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from raycadian.evaluation.bootstrap import SubjectBootstrap
from raycadian.evaluation.glycemic import (
    EXCURSIONS,
    Excursion,
    alarm_ratios,
    clarke_zones,
    false_alarms_per_day,
    forecast_event,
    in_range,
    measured_event,
)  # fmt: skip
from raycadian.evaluation.predictions import Predictions

Points = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(truth (W, H), quantiles (W, H, Q), levels (Q,)) -> what each point contributes (W, H), NaN where truth is missing."""


@dataclass(frozen=True)
class Metric:
    """The mean over points of what each contributes, or its square root."""

    points: Points
    root: bool = False
    better: Literal["low", "high", "neither"] = "neither"


def median(quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return quantiles[..., list(levels).index(0.5)]


def error(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return median(quantiles, levels) - truth


def absolute_error(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return np.abs(error(truth, quantiles, levels))


def squared_error(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return error(truth, quantiles, levels) ** 2


def relative_error_pct(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return 100 * absolute_error(truth, quantiles, levels) / truth


def pinball(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Koenker and Bassett, Econometrica 46:33 (1978), averaged over the levels."""
    above = truth[..., None] - quantiles
    return np.maximum(levels * above, (levels - 1) * above).mean(-1)


def tir_truth_pct(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return 100 * in_range(truth)


def tir_forecast_pct(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return _where_measured(truth, 100 * in_range(median(quantiles, levels)))


def tir_error_pct(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return tir_forecast_pct(truth, quantiles, levels) - tir_truth_pct(truth, quantiles, levels)


def clarke_pct(zones: str) -> Points:
    """Points in any of the `zones`, e.g. "AB"."""

    def points(truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
        found = clarke_zones(truth, median(quantiles, levels))
        return _where_measured(truth, 100.0 * np.isin(found, list(zones)))

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


METRICS: dict[str, Metric] = {
    "rmse_mgdl": Metric(squared_error, root=True, better="low"),
    "mae_mgdl": Metric(absolute_error, better="low"),
    "mape_pct": Metric(relative_error_pct, better="low"),
    "mard_pct": Metric(relative_error_pct, better="low"),
    "bias_mgdl": Metric(error),
    "pinball_mgdl": Metric(pinball, better="low"),
    "clarke_a_pct": Metric(clarke_pct("A"), better="high"),
    "clarke_ab_pct": Metric(clarke_pct("AB"), better="high"),
    "tir_truth_pct": Metric(tir_truth_pct),
    "tir_forecast_pct": Metric(tir_forecast_pct),
    "tir_error_pct": Metric(tir_error_pct),
}
"""Those that need no particular levels; `metrics_of` adds an interval's coverage and width."""


def metrics_of(levels: np.ndarray) -> dict[str, Metric]:
    """METRICS, then coverage and width of each central interval that the levels bound, widest first."""
    found = dict(METRICS)
    for low, high in intervals(levels):
        name = interval_name(levels, low, high)
        found[f"coverage_{name}_pct"] = Metric(coverage_pct(low, high))
        found[f"width_{name}_mgdl"] = Metric(width(low, high))
    return found


def intervals(levels: np.ndarray) -> list[tuple[int, int]]:
    """Positions of the levels that bound central intervals, widest first."""
    pairs = [(i, j) for i in range(len(levels)) for j in range(i + 1, len(levels))]
    return [(i, j) for i, j in pairs if np.isclose(levels[i] + levels[j], 1)]


def interval_name(levels: np.ndarray, low: int, high: int) -> str:
    """Percent between two levels: 90, 99.8."""
    return f"{100 * (levels[high] - levels[low]):.6g}"


def points_of(p: Predictions, metric: Metric) -> np.ndarray:
    """(W, H) float64: what each point contributes."""
    return metric.points(p.truth.astype(np.float64), p.quantiles.astype(np.float64), p.levels)


def score(predictions: Predictions, *, bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """Every metric of this module in a long table, with intervals over subjects.

    scope (all, id, ood) · metric · kind (step, cumulative, window) · horizon_min · value, low, high · n_subjects, n_windows
    that contribute · n_points behind the value · n_missing points left out. Raises ValueError where no truth was measured.
    """
    if np.isnan(predictions.truth).all():
        raise ValueError(
            f"nothing to score: no truth was measured in {len(predictions)} windows; choose another test range"
        )
    tables = []
    for scope in ("all", *sorted(set(predictions.scope.tolist()))):
        chosen = predictions if scope == "all" else predictions.select(predictions.scope == scope)
        people = SubjectBootstrap(chosen.subject, resamples=bootstrap, confidence=confidence, seed=seed)
        blocks = [*_point_scores(chosen, people), *_event_scores(chosen, people)]
        tables.append(pd.concat(blocks, ignore_index=True).assign(scope=scope))
    table = pd.concat(tables, ignore_index=True)
    return table[["scope", *table.columns.drop("scope")]]


def _point_scores(p: Predictions, people: SubjectBootstrap) -> Iterator[pd.DataFrame]:
    seen = ~np.isnan(p.truth)
    count, up_to = people.sum(seen), np.logical_or.accumulate(seen, axis=1)
    for name, metric in metrics_of(p.levels).items():
        total = people.sum(points_of(p, metric))
        yield _block(p, name, "step", people, total, count, metric.root, seen)
        yield _block(p, name, "cumulative", people, total.cumsum(1), count.cumsum(1), metric.root, up_to)


def _block(
    p: Predictions, metric: str, kind: str, people: SubjectBootstrap, total: np.ndarray, count: np.ndarray, root: bool,
    used: np.ndarray,
) -> pd.DataFrame:  # fmt: skip
    value, low, high = people.estimate(total, count, root)
    asked = len(p) * (np.arange(len(value)) + 1 if kind == "cumulative" else 1)
    points = count.sum(0).astype(int)
    return pd.DataFrame({
        "metric": metric, "kind": kind, "horizon_min": p.horizon_min, "value": value, "low": low, "high": high,
        "n_subjects": (count > 0).sum(0), "n_windows": used.sum(0), "n_points": points, "n_missing": asked - points,
    })  # fmt: skip


def _event_scores(p: Predictions, people: SubjectBootstrap) -> Iterator[pd.DataFrame]:
    for excursion in EXCURSIONS:
        actual = measured_event(p.truth, excursion, p.dt_min)
        for rule, position in alarm_rules(p.levels, excursion):
            alarm = forecast_event(p.quantiles[..., position], excursion, p.dt_min)
            found = alarm_ratios(actual, alarm)
            found["false_alarms_per_day"] = false_alarms_per_day(p.subject, p.time_utc, actual, alarm)
            for name, (above, below) in found.items():
                yield _event_row(p, f"{excursion.name}{rule}_{name}", people, above, below, np.isnan(actual))


def alarm_rules(levels: np.ndarray, excursion: Excursion) -> Iterator[tuple[str, int]]:
    """What may raise the alarm: the median, and each quantile on the threshold's side of it."""
    middle = list(levels).index(0.5)
    for i in (middle, *(range(middle + 1, len(levels)) if excursion.above else range(middle))):
        yield ("" if i == middle else f"_q{100 * levels[i]:.6g}", i)


def _event_row(
    p: Predictions, metric: str, people: SubjectBootstrap, above: np.ndarray, below: np.ndarray, left_open: np.ndarray
) -> pd.DataFrame:
    total, count = people.sum(above[:, None]), people.sum(below[:, None])
    value, low, high = people.estimate(total, count)
    n = int((np.nan_to_num(below) > 0).sum())
    return pd.DataFrame({
        "metric": metric, "kind": "window", "horizon_min": p.horizon_min[-1:], "value": value, "low": low, "high": high,
        "n_subjects": (count > 0).sum(0), "n_windows": n, "n_points": n, "n_missing": int(left_open.sum()),
    })  # fmt: skip
