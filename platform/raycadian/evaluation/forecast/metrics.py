"""Scores of forecasts, with bootstrap intervals over people. docs/concepts/evaluation.md says when to look at which.

Every metric is a ratio of sums over windows, pooled: points without measured truth are left out one by one, and
counted. Of another target than glucose those that any has, in its unit: rmse_mmhg, mae, mape, bias, pinball,
crps_quantile, wql, coverage, width.

rmse_mgdl         square root of the mean squared error of the median over all points (of all windows at once);
                  not the mean of per-window or per-person RMSEs, which is lower
mae_mgdl          mean absolute error of the median
mape_pct          mean of |median - truth| / truth
mard_pct          mean absolute relative difference: the glucose field's name for the same number
bias_mgdl         mean of median - truth
grmse_mgdl        glucose-specific RMSE: squared errors weigh up to 2.5 times where they hide a low, twice where a high
pinball_mgdl      mean pinball loss over the quantile levels, not normalised
crps_quantile_mgdl    continuous ranked probability score: twice the pinball loss, integrated over the levels
wql_per_point_mgdl    weighted quantile loss, by the number of points: 2 x pinball_mgdl
wql_per_truth         weighted quantile loss, by the sum of |truth|: GluonTS' mean_weighted_quantile_loss; no unit
clarke_a_pct      share of points in zone A of Clarke's error grid; clarke_ab_pct: in A or B; clarke_de_pct: in D or E;
                  the same of the Parkes error grid for type 1 (parkes1_a_pct ...) and type 2 (parkes2_a_pct ...)
tir_truth_pct     share of points within 70-180 mg/dL as measured; tir_forecast_pct: of the median;
                  tir_error_pct: the latter minus the former
coverage_90_pct   share of truth inside the central 90% interval; width_90_mgdl: the interval's mean width (sharpness)

kind   step        at that horizon alone
       cumulative  over all steps up to it; at the last step: over the whole horizon
       window      the horizon judged as a whole, for events: 15 minutes or more below 70 or 54, above 180 or 250 mg/dL
       person      a figure of each person's series, then the mean over people

hypo70_sensitivity_pct           share of windows with an event in which the median shows one, too
hypo70_precision_pct             share of windows whose median shows an event that hold one
hypo70_f1_pct                    harmonic mean of the two
hypo70_false_alarms_per_day      alarms without an event; neighbouring windows that alarm are one alarm
hypo70_onset_sensitivity_pct     sensitivity for windows whose event begins after the origin (not yet under way)
hypo70_lead_time_min             from the first alarm to such an event's onset, mean over the events that had one
hypo70_q5_sensitivity_pct ...    the same where the 5% quantile raises the alarm, not the median (above: the upper ones)

temporal_gain_min                horizon minus the delay of the median behind the truth; at 30, 60 min and the last step
gmi_pct_error ...                of each figure of summaries.py: forecast minus truth; beside it _truth and _forecast
                                 (mean_mgdl, cv_pct, gmi_pct, gri, lbgi, hbgi, mage_mgdl, time_below_54_pct,
                                 time_54_69_pct, time_70_180_pct, time_181_250_pct, time_above_250_pct)

hypo70_probability_...           event_scores.py adds these to a run's test scores: base_rate_pct, brier, brier_raw,
                                 brier_miscalibration, brier_discrimination, brier_uncertainty, brier_skill_pct,
                                 auroc, auprc

Windows overlap and an event under way counts, so sensitivity includes events that have begun. Windows whose missing
points leave open whether there was an event are left out. Low and high: percentile bootstrap over subjects, the same
resamples for all metrics; missing where fewer than three people contribute.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from raycadian.config import Evaluation, in_unit_of
from raycadian.evaluation.bootstrap import EVALUATION, SubjectBootstrap
from raycadian.evaluation.forecast.error_grids import GRIDS, ErrorGrid
from raycadian.evaluation.forecast.glycemic import (
    EXCURSIONS,
    Excursion,
    alarm_ratios,
    cost,
    false_alarms_per_day,
    forecast_event,
    in_range,
    is_glucose,
    measured_event,
    onset_min,
    onset_ratios,
)  # fmt: skip
from raycadian.evaluation.forecast.predictions import Predictions
from raycadian.evaluation.forecast.summaries import glucose_summaries, temporal_gain_min
from raycadian.types import GLUCOSE

Row = dict[str, str | int | float]
"""A row of the score table but for its scope."""


class Points:
    """What each point of a forecast contributes to a score: truth (W, H), quantiles (W, H, Q), levels (Q,), float64."""

    def __init__(self, truth: np.ndarray, quantiles: np.ndarray, levels: np.ndarray):
        self.truth, self.quantiles = truth.astype(np.float64), quantiles.astype(np.float64)
        self.levels = np.asarray(levels, dtype=np.float64)

    @cached_property
    def median(self) -> np.ndarray:
        return self.quantiles[..., list(self.levels).index(0.5)]

    @cached_property
    def error(self) -> np.ndarray:
        return self.median - self.truth

    @cached_property
    def pinball(self) -> np.ndarray:
        """Koenker and Bassett, Econometrica 46:33 (1978), averaged over the levels."""
        return self._pinball_by_level().mean(-1)

    @property
    def crps(self) -> np.ndarray:
        """Continuous ranked probability score: twice the pinball loss integrated over the levels from 0 to 1.

        Gneiting and Ranjan, J Bus Econ Stat 29:411 (2011), eq. 12. The integral by the rule that gives each level the
        part of (0, 1) nearest to it: with few levels an approximation (3% low for a normal forecast and levels 5, 25,
        50, 75, 95%), proper all the same. With the median alone it is the absolute error.
        """
        nearest = np.diff(np.r_[0.0, (self.levels[1:] + self.levels[:-1]) / 2, 1.0])
        return 2 * self._pinball_by_level() @ nearest

    @property
    def relative_error_pct(self) -> np.ndarray:
        return 100 * np.abs(self.error) / self.truth

    def _pinball_by_level(self) -> np.ndarray:
        above = self.truth[..., None] - self.quantiles
        return np.maximum(self.levels * above, (self.levels - 1) * above)

    def measured(self, values: np.ndarray) -> np.ndarray:
        """The values where truth is not missing, else NaN."""
        return np.where(np.isnan(self.truth), np.nan, values)

    def coverage_pct(self, low: int, high: int) -> np.ndarray:
        """Truth inside the interval between two positions of the levels, ends included."""
        inside = (self.truth >= self.quantiles[..., low]) & (self.truth <= self.quantiles[..., high])
        return self.measured(100.0 * inside)


@dataclass(frozen=True)
class PointMetric:
    """The mean over points of what each contributes (W, H), NaN where truth is missing, or its square root. glycemic:
    it means something of glucose alone."""

    points: Callable[[Points], np.ndarray]
    root: bool = False
    glycemic: bool = False


def _zones_pct(grid: ErrorGrid, zones: str) -> PointMetric:
    """Points in any of the `zones` of an error grid, e.g. "AB"."""

    def points(p: Points) -> np.ndarray:
        lies_in = grid.zones(p.truth, p.median)
        return p.measured(100.0 * np.logical_or.reduce([lies_in == zone for zone in zones]))

    return PointMetric(points, glycemic=True)


def _interval_metrics(low: int, high: int) -> tuple[PointMetric, PointMetric]:
    """Coverage and width of the interval between two positions of the levels."""
    width = PointMetric(lambda p: p.measured(p.quantiles[..., high] - p.quantiles[..., low]))
    return PointMetric(lambda p: p.coverage_pct(low, high)), width


METRICS: dict[str, PointMetric] = {
    "rmse_mgdl": PointMetric(lambda p: p.error**2, root=True),
    "mae_mgdl": PointMetric(lambda p: np.abs(p.error)),
    "mape_pct": PointMetric(lambda p: p.relative_error_pct),
    "mard_pct": PointMetric(lambda p: p.relative_error_pct, glycemic=True),
    "bias_mgdl": PointMetric(lambda p: p.error),
    "grmse_mgdl": PointMetric(lambda p: cost(p.truth, p.median) * p.error**2, root=True, glycemic=True),
    "pinball_mgdl": PointMetric(lambda p: p.pinball),
    "crps_quantile_mgdl": PointMetric(lambda p: p.crps),
    "wql_per_point_mgdl": PointMetric(lambda p: 2 * p.pinball),
    **{
        f"{name}_{zones.lower()}_pct": _zones_pct(grid, zones)
        for name, grid in GRIDS.items()
        for zones in ("A", "AB", "DE")
    },
    "tir_truth_pct": PointMetric(lambda p: 100 * in_range(p.truth), glycemic=True),
    "tir_forecast_pct": PointMetric(lambda p: p.measured(100 * in_range(p.median)), glycemic=True),
    "tir_error_pct": PointMetric(
        lambda p: p.measured(100 * in_range(p.median)) - 100 * in_range(p.truth), glycemic=True
    ),
}
"""Those that need no particular levels; `metrics_of` adds an interval's coverage and width. evaluation/metric.py has
the words, units and directions."""


def catalogue(target: str) -> dict[str, PointMetric]:
    """METRICS of glucose; of another target those that any has, in its unit: rmse_mmhg."""
    own = {name: metric for name, metric in METRICS.items() if not metric.glycemic or is_glucose(target)}
    return {in_unit_of(name, target): metric for name, metric in own.items()}


def metrics_of(levels: np.ndarray, target: str = GLUCOSE) -> dict[str, PointMetric]:
    """The catalogue, then coverage and width of each central interval that the levels bound, widest first."""
    metrics = dict(catalogue(target))
    for low, high in intervals(levels):
        name = interval_name(levels, low, high)
        names = f"coverage_{name}_pct", in_unit_of(f"width_{name}_mgdl", target)
        metrics |= zip(names, _interval_metrics(low, high), strict=True)
    return metrics


def intervals(levels: np.ndarray) -> list[tuple[int, int]]:
    """Positions of the levels that bound central intervals, widest first."""
    pairs = [(i, j) for i in range(len(levels)) for j in range(i + 1, len(levels))]
    return [(i, j) for i, j in pairs if np.isclose(levels[i] + levels[j], 1)]


def interval_name(levels: np.ndarray, low: int, high: int) -> str:
    """Percent between two levels: 90, 99.8."""
    return f"{100 * (levels[high] - levels[low]):.6g}"


def points_of(p: Predictions, metric: PointMetric) -> np.ndarray:
    """(W, H) float64: what each point contributes."""
    return metric.points(Points(p.truth, p.quantiles, p.levels))


def overall(p: Predictions, name: str) -> float:
    """One metric over the whole horizon and all subjects, NaN where nothing was measured. Raises ValueError for a name
    that these predictions don't have."""
    known = metrics_of(p.levels, p.target)
    if name not in known:
        raise ValueError(f"{name}: no metric of these forecasts; they have {', '.join(known)}")
    points = points_of(p, known[name])
    mean = np.nanmean(points) if np.isfinite(points).any() else np.nan
    return float(np.sqrt(mean) if known[name].root else mean)


def score(predictions: Predictions, evaluation: Evaluation = EVALUATION) -> pd.DataFrame:
    """Every metric of this module in a long table, with intervals over subjects.

    scope (all, id, ood) · metric · kind (step, cumulative, window) · horizon_min · value, low, high · n_subjects,
    n_windows that contribute · n_points behind the value · n_missing points left out. Raises ValueError where no
    truth was measured.
    """
    if np.isnan(predictions.truth).all():
        raise ValueError(
            f"nothing to score: no truth was measured in {len(predictions)} windows; choose another test range"
        )
    tables = []
    for scope in ("all", *sorted(set(predictions.scope.tolist()))):
        chosen = predictions if scope == "all" else predictions.select(predictions.scope == scope)
        people = SubjectBootstrap(chosen.subject, evaluation)
        blocks = [*_point_scores(chosen, people)]
        if predictions.glycemic:
            blocks.append(pd.DataFrame([*_event_scores(chosen, people), *_person_scores(chosen, people)]))
        tables.append(pd.concat(blocks, ignore_index=True).assign(scope=scope))
    table = pd.concat(tables, ignore_index=True)
    return table[["scope", *table.columns.drop("scope")]]


def _point_scores(p: Predictions, people: SubjectBootstrap) -> Iterator[pd.DataFrame]:
    seen, points = ~np.isnan(p.truth), Points(p.truth, p.quantiles, p.levels)
    used = {"step": seen, "cumulative": np.logical_or.accumulate(seen, axis=1)}
    count = people.sum(seen)
    known = metrics_of(p.levels, p.target)
    sums = {name: people.sum(metric.points(points)) for name, metric in known.items()}
    rows = [(name, sums[name], count, metric.root) for name, metric in known.items()]
    lost = sums[in_unit_of("wql_per_point_mgdl", p.target)]
    rows.append(("wql_per_truth", lost, people.sum(np.abs(points.truth)), False))
    for name, total, below, root in rows:
        for kind in used:
            ahead = (lambda s: s.cumsum(1)) if kind == "cumulative" else (lambda s: s)
            estimate = people.estimate(ahead(total), ahead(below), root)
            yield _block(p, name, kind, estimate, ahead(count), used[kind])


def _block(
    p: Predictions, metric: str, kind: str, estimate: tuple[np.ndarray, ...], count: np.ndarray, used: np.ndarray
) -> pd.DataFrame:
    value, low, high = estimate
    expected = len(p) * (np.arange(len(value)) + 1 if kind == "cumulative" else 1)
    n = count.sum(0).astype(int)
    return pd.DataFrame({
        "metric": metric, "kind": kind, "horizon_min": p.horizon_min, "value": value, "low": low, "high": high,
        "n_subjects": (count > 0).sum(0), "n_windows": used.sum(0), "n_points": n, "n_missing": expected - n,
    })  # fmt: skip


def _event_scores(p: Predictions, people: SubjectBootstrap) -> Iterator[Row]:
    origin = np.full(len(p), np.nan) if p.past is None else p.past[:, -1]
    for excursion in EXCURSIONS:
        actual = measured_event(p.truth, excursion, p.dt_min)
        onset = onset_min(p.truth, origin, excursion, p.dt_min)
        for rule, position in alarm_rules(p.levels, excursion):
            alarm = forecast_event(p.quantiles[..., position], excursion, p.dt_min)
            ratios = alarm_ratios(actual, alarm)
            ratios["false_alarms_per_day"] = false_alarms_per_day(p.subject, p.time_utc, actual, alarm)
            ratios |= onset_ratios(p.subject, p.time_utc, onset, alarm)
            for name, (above, below) in ratios.items():
                yield _window_row(p, f"{excursion.name}{rule}_{name}", people, above, below, np.isnan(actual))


def alarm_rules(levels: np.ndarray, excursion: Excursion) -> Iterator[tuple[str, int]]:
    """What may raise the alarm: the median, and each quantile on the threshold's side of it."""
    middle = list(levels).index(0.5)
    for i in (middle, *(range(middle + 1, len(levels)) if excursion.above else range(middle))):
        yield ("" if i == middle else f"_q{100 * levels[i]:.6g}", i)


def _window_row(
    p: Predictions, metric: str, people: SubjectBootstrap, above: np.ndarray, below: np.ndarray, left_open: np.ndarray
) -> Row:
    """The ratio of the sums of what each window (W,) contributes."""
    total, count = people.sum(above[:, None]), people.sum(below[:, None])
    n = int((np.nan_to_num(below) > 0).sum())
    return score_row(
        metric, "window", p.horizon_min[-1], people.estimate(total, count), (count > 0).sum(), n, left_open.sum()
    )


def _person_scores(p: Predictions, people: SubjectBootstrap) -> Iterator[Row]:
    for step in p.key_steps:
        yield _person_row(p, "temporal_gain_min", p.horizon_min[step], temporal_gain_min(p, step, people), people)
    table = glucose_summaries(p).set_index("subject").loc[people.subjects]
    for name in [column.removesuffix("_truth") for column in table if column.endswith("_truth")]:
        truth, forecast = table[f"{name}_truth"].to_numpy(), table[f"{name}_forecast"].to_numpy()
        for what, values in (("truth", truth), ("forecast", forecast), ("error", forecast - truth)):
            yield _person_row(p, f"{name}_{what}", p.horizon_min[-1], values, people)


def _person_row(p: Predictions, metric: str, horizon_min: float, values: np.ndarray, people: SubjectBootstrap) -> Row:
    """The mean of one value a person (S,)."""
    known = ~np.isnan(values)
    estimate = people.estimate(np.nan_to_num(values)[:, None], known[:, None].astype(float))
    n = int(np.isin(p.subject, people.subjects[known]).sum())
    return score_row(metric, "person", horizon_min, estimate, known.sum(), n, len(p) - n)


def score_row(
    metric: str,
    kind: str,
    horizon_min: float,
    estimate: tuple[np.ndarray, ...],
    n_subjects: int,
    n: int,
    n_missing: int,
) -> Row:
    """A row of the score table; `estimate`: value, low, high, (1,) each."""
    value, low, high = (float(v[0]) for v in estimate)
    return {
        "metric": metric, "kind": kind, "horizon_min": float(horizon_min), "value": value, "low": low, "high": high,
        "n_subjects": int(n_subjects), "n_windows": n, "n_points": n, "n_missing": int(n_missing),
    }  # fmt: skip
