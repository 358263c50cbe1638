"""Forecasters compared on the same windows: leaderboard, pairs with their test, ranks over people."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from raycadian.config import Evaluation, in_unit_of, unit_of
from raycadian.config.metric import Metric
from raycadian.evaluation import leaderboard as boards
from raycadian.evaluation.bootstrap import EVALUATION, SubjectBootstrap, ratio
from raycadian.evaluation.forecast.metrics import catalogue, metrics_of, overall, points_of
from raycadian.evaluation.forecast.predictions import Predictions
from raycadian.evaluation.forecast.significance import Ranks, diebold_mariano, holm, overlapping, ranks
from raycadian.evaluation.leaderboard import ModelScore, PairedScores, require_named, sentence
from raycadian.evaluation.metric import metric_among, rankable

_BESIDE = ("mae_mgdl", "mard_pct", "bias_mgdl", "pinball_mgdl", "clarke_a_pct")
_PAIR = [
    "model", "other", "kind", "horizon_min", "difference", "diff_low", "diff_high", "relative_pct", "p", "n_subjects",
    "n_windows",
]  # fmt: skip


def leaderboard(
    named: dict[str, Predictions], evaluation: Evaluation = EVALUATION, *, metric: str | None = None,
    horizons: Sequence[float] = (30, 60, 120), reference: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """One row a model, the best by `metric` first, over the whole horizon and all subjects.

    `metric` (RMSE if left out) with low, high · difference to `reference` (default: the best row) with diff_low,
    diff_high, paired: the same resampled people on both sides · verdict: better, worse, no difference shown (what the
    difference's interval allows to say), "best" or "reference" for the row compared with · <metric>_at_<h>min at
    those `horizons` (minutes) that are steps of the forecast · further metrics over the whole horizon · n_subjects,
    n_windows. The best of several is chosen on these data, so its own value flatters it. Raises ValueError where
    windows or truths differ, or a name is unknown.
    """
    compared = _Compared(named, metric, reference, evaluation)

    def beside(name: str) -> dict[str, float]:
        return compared.at_steps(name, horizons) | _beside(named[name], compared.metric.name)

    return boards.leaderboard(compared.paired(), len(compared.first), beside, reference)


def differences(
    named: dict[str, Predictions], evaluation: Evaluation = EVALUATION, *, metric: str | None = None,
    horizons: Sequence[float] = (30, 60, 120), reference: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """What is better, by how much, and whether it is noise: one row a pair of models and horizon, the better model
    first.

    model, other · kind (cumulative: over the whole horizon, step: at that one) with horizon_min · difference of the
    metric (model minus other) with diff_low, diff_high, from resampling people · relative_pct of the other's value ·
    p: Diebold-Mariano over the windows of all people · p_holm, verdict and sentence: see `judged`. `reference`: only
    the pairs with that model. Raises ValueError as `leaderboard`.
    """
    compared = _Compared(named, metric, reference, evaluation)
    return judged(compared.pairs(horizons, reference), compared.metric.name, evaluation.confidence)


def pairs(
    named: dict[str, Predictions], evaluation: Evaluation, *, metric: str, horizons: Sequence[float],
    reference: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """The columns of `differences` up to p, for tables that are judged together."""
    return _Compared(named, metric, reference, evaluation).pairs(horizons, reference)


def judged(table: pd.DataFrame, metric: str, confidence: float = 0.95) -> pd.DataFrame:
    """A table of `pairs` with p_holm, verdict and sentence: what interval and test together allow to say (`judge`).

    p is corrected for all comparisons over the whole horizon, the primary ones, and apart for all at single steps.
    """
    same = ((table.difference == 0) & (table.p == 1)).to_numpy()  # nothing is tested
    tested = table.p.astype(float).mask(same)
    table = table.assign(p_holm=tested.groupby(table.kind).transform(lambda p: holm(p.to_numpy())))
    verdicts = [judge(r.diff_low, r.diff_high, r.p_holm, 1 - confidence) for r in table.itertuples()]
    table["verdict"] = np.where(same, "the same", verdicts)
    table["sentence"] = [_sentence(row, metric) for row in table.itertuples()]
    return table


def judge(low: float, high: float, p: float, alpha: float = 0.05) -> str:
    """better, where the interval over people and the corrected test over their windows both say so; `better for these
    people` where only the test does; else nothing was shown. The first of a pair has the lower loss."""
    if np.isnan(low) or np.isnan(p):
        return "too few people" if np.isnan(low) else "too few windows"
    if not p < alpha:
        return "no difference shown"
    return "better" if low > 0 or high < 0 else "better for these people"


def rank_models(named: dict[str, Predictions], metric: str | None = None, alpha: float = 0.05) -> Ranks:
    """Mean ranks over people by their own metric (RMSE if left out) over the whole horizon. Raises ValueError."""
    compared = _Compared(named, metric, None, Evaluation(bootstrap=1))
    sign = -1.0 if compared.metric.better == "high" else 1.0
    return ranks({name: sign * sums.by_person for name, sums in compared.sums.items()}, alpha)


@dataclass(frozen=True)
class _Sums:
    """Sums of a metric over the windows of each subject, and of the points behind them, (S, H) each."""

    total: np.ndarray
    count: np.ndarray
    root: bool

    def score(self, people: SubjectBootstrap) -> ModelScore:
        """Over all steps."""
        total, count = self.total.sum(1, keepdims=True), self.count.sum(1, keepdims=True)
        value = ratio(self.total.sum(keepdims=True), self.count.sum(keepdims=True), self.root)
        draws = people.draws(total, count, self.root)
        low, high = people.bounds(draws, count)
        return ModelScore(value[0, 0], low[0], high[0], draws[:, 0], count)

    @property
    def by_step(self) -> np.ndarray:
        return ratio(self.total.sum(0), self.count.sum(0), self.root)

    @property
    def by_person(self) -> np.ndarray:
        return ratio(self.total.sum(1), self.count.sum(1), self.root)


class _Compared:
    """Models on identical windows, by what each point (W, H) contributes to one metric. Raises ValueError."""

    def __init__(
        self, named: dict[str, Predictions], metric: str | None, reference: str | None, evaluation: Evaluation
    ):
        require_named(named, reference)
        self.first = next(iter(named.values()))
        known = catalogue(self.first.target)
        self.metric: Metric = metric_among(metric or rankable(known)[0], known)
        _require_comparable(named)
        self.people = SubjectBootstrap(self.first.subject, evaluation)
        self.points = {name: points_of(p, known[self.metric.name]) for name, p in named.items()}
        self._root = known[self.metric.name].root

    @cached_property
    def sums(self) -> dict[str, _Sums]:
        return self._sums_at(slice(None))

    def _sums_at(self, at: slice) -> dict[str, _Sums]:
        return {name: _Sums(*self.people.sum_count(p[:, at]), self._root) for name, p in self.points.items()}

    def paired(self, at: slice = slice(None)) -> PairedScores:
        sums = self.sums if at == slice(None) else self._sums_at(at)
        return PairedScores(self.metric, self.people, {name: own.score(self.people) for name, own in sums.items()})

    def at_steps(self, name: str, horizons: Sequence[float]) -> dict[str, float]:
        """The metric at single steps of the forecast."""
        steps = dict(zip(self.first.horizon_min, self.sums[name].by_step, strict=True))
        return {f"{self.metric.name}_at_{h:g}min": steps[h] for h in horizons if h in steps}

    def pairs(self, horizons: Sequence[float], reference: str | None) -> pd.DataFrame:
        """Over the whole horizon, then at each of `horizons` that is a step."""
        steps = [int(i) for i in np.flatnonzero(np.isin(self.first.horizon_min, horizons))]
        scopes = [("cumulative", slice(None)), *(("step", slice(i, i + 1)) for i in steps)]
        rows = [row for kind, at in scopes for row in self._tested(kind, at, reference)]
        return pd.DataFrame(rows, columns=_PAIR)

    def _tested(self, kind: str, at: slice, reference: str | None) -> Iterator[dict[str, Any]]:
        """Every pair of models, or those with the reference, over the steps `at`, the better one first."""
        horizon_min = float(self.first.horizon_min[at][-1])
        overlap = overlapping(self.first.subject, self.first.time_utc, horizon_min)
        paired = self.paired(at)
        for model, other, compared in paired.pairs(reference):
            test = diebold_mariano(_window_loss(self.points[model][:, at] - self.points[other][:, at]), overlap)
            against = paired.scores[other].value
            yield {
                "model": model, "other": other, "kind": kind, "horizon_min": horizon_min, "p": test.p,
                **{name: compared[name] for name in ("difference", "diff_low", "diff_high")},
                "relative_pct": 100 * compared["difference"] / against if against else np.nan,
                "n_subjects": test.n_subjects, "n_windows": test.n_windows,
            }  # fmt: skip


def _window_loss(points: np.ndarray) -> np.ndarray:
    """(W, H) -> (W,): the sum over measured steps, so that every point weighs the same, as in the pooled metric; NaN
    where nothing was measured."""
    return np.where(np.isnan(points).all(1), np.nan, np.nansum(points, axis=1))


def _sentence(row: Any, metric: str) -> str:
    """A row of `differences` for people."""
    unit = "points of %" if metric.endswith("_pct") else unit_of(metric) or ""
    where = "over the whole horizon" if row.kind == "cumulative" else f"at {row.horizon_min:g} min"
    size = f"{abs(row.difference):.2f} {unit}".rstrip() + f" ({abs(row.relative_pct):.1f}%)"
    return sentence(row.model, row.other, row.verdict, size, where)


def _require_comparable(named: dict[str, Predictions]) -> None:
    """Raises ValueError where nothing was measured, or windows differ."""
    first = next(iter(named.values()))
    if np.isnan(first.truth).all():
        raise ValueError(
            f"nothing to compare: no truth was measured in {len(first)} windows; choose another test range"
        )
    for name, other in named.items():
        require_same_windows(first, other, name)


def require_same_windows(one: Predictions, other: Predictions, name: str) -> None:
    """Raises ValueError that names the first difference in windows, truth, steps or quantile levels."""
    fix = "compare runs of one recipe, snapshot and split"
    for what, mine, theirs in (
        ("windows", len(one), len(other)),
        ("steps", one.truth.shape[1], other.truth.shape[1]),
        ("minutes a step", one.dt_min, other.dt_min),
        ("target", one.target, other.target),
        ("quantile levels", list(map(float, one.levels)), list(map(float, other.levels))),
    ):
        if mine != theirs:
            raise ValueError(f"{name}: {what} {theirs}, expected {mine} as in the first model: {fix}")
    same = (one.subject == other.subject) & (one.time_utc == other.time_utc) & (one.scope == other.scope)
    same &= ((one.truth == other.truth) | (np.isnan(one.truth) & np.isnan(other.truth))).all(1)
    if not same.all():
        i = int(np.argmin(same))
        raise ValueError(
            f"{name}: {int((~same).sum())} of {len(one)} windows differ, the first is window {i}: found "
            f"{_window(other, i)}, expected {_window(one, i)}: {fix}"
        )


def _beside(p: Predictions, metric: str) -> dict[str, float]:
    """Other metrics over the whole horizon."""
    known = metrics_of(p.levels, p.target)
    beside = [n for n in (in_unit_of(n, p.target) for n in ("rmse_mgdl", *_BESIDE)) if n in known and n != metric]
    names = beside + [n for n in known if n.startswith("coverage_")]
    return {name: overall(p, name) for name in names}


def _window(p: Predictions, i: int) -> str:
    measured = p.truth[i][~np.isnan(p.truth[i])]
    mean = f"mean truth {measured.mean():.2f} {unit_of(p.target)}".rstrip() if len(measured) else "no truth"
    return f"{p.subject[i]} at {p.time_utc[i]} ({p.scope[i]}, {len(measured)} points, {mean})"
