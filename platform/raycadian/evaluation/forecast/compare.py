"""Models compared on the same windows: a leaderboard, and for each pair what is better and whether it is noise."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from raycadian.config import in_unit_of, unit_of
from raycadian.evaluation.bootstrap import SubjectBootstrap, ratio
from raycadian.evaluation.forecast.metrics import Metric, catalogue, metrics_of, points_of
from raycadian.evaluation.forecast.predictions import Predictions
from raycadian.evaluation.forecast.significance import Ranks, diebold_mariano, holm, overlapping, ranks

_BESIDE = ("mae_mgdl", "mard_pct", "bias_mgdl", "pinball_mgdl", "clarke_a_pct")
_PAIR = [
    "model", "other", "kind", "horizon_min", "difference", "diff_low", "diff_high", "relative_pct", "p", "n_subjects",
    "n_windows",
]  # fmt: skip
WORDS = ("better", "worse", "no difference shown")


def leaderboard(
    named: dict[str, Predictions],
    *,
    metric: str | None = None,
    horizons: Sequence[float] = (30, 60, 120),
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    reference: str | None = None,
) -> pd.DataFrame:
    """One row a model, the best by `metric` first, over the whole horizon and all subjects.

    `metric` (RMSE if left out) with low, high · difference to `reference` (default: the best row) with diff_low, diff_high, paired: the same
    resampled people on both sides · verdict: better, worse, no difference shown (what the difference's interval allows to
    say), "best" or "reference" for the row compared with · <metric>_at_<h>min at those `horizons` (minutes) that are
    steps of the forecast · further metrics over the whole horizon · n_subjects, n_windows. The best of several is chosen on
    these data, so its own value flatters it. Raises ValueError where windows or truths differ, or a name is unknown.
    """
    metric = _check(named, metric, reference)
    first = next(iter(named.values()))
    people = SubjectBootstrap(first.subject, resamples=bootstrap, confidence=confidence, seed=seed)
    chosen = catalogue(first.target)[metric]
    sums = {name: people.sum_count(points_of(p, chosen)) for name, p in named.items()}
    value = {name: _overall(*found, chosen)[0] for name, found in sums.items()}
    ranked = sorted(named, key=lambda name: value[name], reverse=chosen.better == "high")
    against = reference or ranked[0]
    rows = []
    for name in ranked:
        row: dict[str, Any] = {"model": name, metric: value[name]}
        row |= _compared(people, sums[name], sums[against], chosen)
        if name == against:
            row["verdict"] = "reference" if reference else "best"
        rows.append(row | _at_steps(first, metric, sums[name], horizons) | _beside(named[name], metric))
    board = pd.DataFrame(rows).assign(n_subjects=len(people.subjects), n_windows=len(first))
    board.attrs = {"bootstrap": bootstrap, "confidence": confidence, "seed": seed}  # for those who score beside it
    return board


def differences(
    named: dict[str, Predictions],
    *,
    metric: str | None = None,
    horizons: Sequence[float] = (30, 60, 120),
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    reference: str | None = None,
) -> pd.DataFrame:
    """What is better, by how much, and whether it is noise: one row a pair of models and horizon, the better model first.

    model, other · kind (cumulative: over the whole horizon, step: at that one) with horizon_min · difference of the metric
    (model minus other) with diff_low, diff_high, from resampling people · relative_pct of the other's value · p:
    Diebold-Mariano over the windows of all people · p_holm, verdict and sentence: see `judged`. `reference`: only the
    pairs with that model. Raises ValueError as `leaderboard`.
    """
    drawn = {"bootstrap": bootstrap, "seed": seed, "confidence": confidence}
    metric = _check(named, metric, reference)
    return judged(pairs(named, metric=metric, horizons=horizons, reference=reference, **drawn), metric, confidence)


def pairs(
    named: dict[str, Predictions], *, metric: str, horizons: Sequence[float], bootstrap: int, confidence: float, seed: int,
    reference: str | None = None,
) -> pd.DataFrame:  # fmt: skip
    """The columns of `differences` up to p, for tables that are judged together."""
    _check(named, metric, reference)
    first = next(iter(named.values()))
    chosen = catalogue(first.target)[metric]
    people = SubjectBootstrap(first.subject, resamples=bootstrap, confidence=confidence, seed=seed)
    points = {name: points_of(p, chosen) for name, p in named.items()}
    steps = [int(i) for i in np.flatnonzero(np.isin(first.horizon_min, horizons))]
    scopes = [("cumulative", slice(None)), *(("step", slice(i, i + 1)) for i in steps)]
    rows = [row for kind, at in scopes for row in _pairs(first, people, points, chosen, kind, at, reference)]
    return pd.DataFrame(rows, columns=_PAIR)


def judged(table: pd.DataFrame, metric: str, confidence: float = 0.95) -> pd.DataFrame:
    """A table of `pairs` with p_holm, verdict and sentence: what interval and test together allow to say (`judge`).

    p is corrected for all comparisons over the whole horizon, the primary ones, and apart for all at single steps.
    """
    same = ((table.difference == 0) & (table.p == 1)).to_numpy()  # nothing is tested
    tested = table.p.astype(float).mask(same)
    table = table.assign(p_holm=tested.groupby(table.kind).transform(lambda p: holm(p.to_numpy())))
    words = [judge(r.diff_low, r.diff_high, r.p_holm, 1 - confidence) for r in table.itertuples()]
    table["verdict"] = np.where(same, "the same", words)
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
    """Mean ranks over people by their own value of the metric (RMSE if left out) over the whole horizon. Raises ValueError."""
    metric = _check(named, metric, None)
    first = next(iter(named.values()))
    chosen = catalogue(first.target)[metric]
    people = SubjectBootstrap(first.subject, resamples=1)
    sign = -1.0 if chosen.better == "high" else 1.0
    sums = {name: people.sum_count(points_of(p, chosen)) for name, p in named.items()}
    losses = {name: sign * ratio(total.sum(1), count.sum(1), chosen.root) for name, (total, count) in sums.items()}
    return ranks(losses, alpha)


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
            f"{name}: {int((~same).sum())} of {len(one)} windows differ, the first is window {i}: found {_window(other, i)}, "
            f"expected {_window(one, i)}: {fix}"
        )


def verdict(low: float, high: float, better: str) -> str:
    """What the interval of a difference (this model minus the reference) allows to say."""
    if np.isnan(low):
        return "too few people"
    if low <= 0 <= high:
        return "no difference shown"
    return "better" if (high < 0) == (better == "low") else "worse"


def _pairs(
    p: Predictions, people: SubjectBootstrap, points: dict[str, np.ndarray], metric: Metric, kind: str, at: slice,
    reference: str | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Every pair of models, or those with the reference, over the steps `at`, the better one first."""
    horizon_min = float(p.horizon_min[at][-1])
    overlap = overlapping(p.subject, p.time_utc, horizon_min)
    sums = {name: people.sum_count(found[:, at]) for name, found in points.items()}
    value = {name: _overall(*found, metric)[0] for name, found in sums.items()}
    ranked = sorted(points, key=lambda name: value[name], reverse=metric.better == "high")
    rows = []
    for model, other in combinations(ranked, 2):
        if reference not in (None, model, other):
            continue
        compared = _compared(people, sums[model], sums[other], metric)
        test = diebold_mariano(_window_loss(points[model][:, at] - points[other][:, at]), overlap)
        rows.append({
            "model": model, "other": other, "kind": kind, "horizon_min": horizon_min, "p": test.p,
            **{name: compared[name] for name in ("difference", "diff_low", "diff_high")},
            "relative_pct": 100 * compared["difference"] / value[other] if value[other] else np.nan,
            "n_subjects": test.n_subjects, "n_windows": test.n_windows,
        })  # fmt: skip
    return rows


def _window_loss(points: np.ndarray) -> np.ndarray:
    """(W, H) -> (W,): the sum over measured steps, so that every point weighs the same, as in the pooled metric; NaN
    where nothing was measured."""
    return np.where(np.isnan(points).all(1), np.nan, np.nansum(points, axis=1))


def _sentence(row: Any, metric: str) -> str:
    """A row of `differences` for people."""
    unit = "points of %" if metric.endswith("_pct") else unit_of(metric) or ""
    where = "over the whole horizon" if row.kind == "cumulative" else f"at {row.horizon_min:g} min"
    size = f"{abs(row.difference):.2f} {unit}".rstrip() + f" ({abs(row.relative_pct):.1f}%) {where}"
    match row.verdict:
        case "better":
            return f"{row.model} is better than {row.other} by {size}, beyond chance."
        case "better for these people":
            return f"{row.model} is better than {row.other} by {size} in these people; other people may differ."
        case "the same":
            return f"{row.model} and {row.other} score the same {where}."
        case "no difference shown":
            return f"{row.model} is ahead of {row.other} by {size}, which chance alone may give."
    return f"{row.model} is ahead of {row.other} by {size}; {row.verdict} to tell whether by chance."


def _check(named: dict[str, Predictions], metric: str | None, reference: str | None) -> str:
    """The metric to compare by: RMSE unless another is named. Raises ValueError where that can't be."""
    if not named:
        raise ValueError("nothing to compare: name at least one run")
    ordered = [n for n, m in catalogue(next(iter(named.values())).target).items() if m.better != "neither"]
    metric = metric or ordered[0]
    if metric not in ordered:
        raise ValueError(f"{metric}: models can't be ranked by it; choose one of {', '.join(ordered)}")
    if reference is not None and reference not in named:
        raise ValueError(f"{reference}: no such model to compare with; choose one of {', '.join(named)}")
    first = next(iter(named.values()))
    if np.isnan(first.truth).all():
        raise ValueError(
            f"nothing to compare: no truth was measured in {len(first)} windows; choose another test range"
        )
    for name, other in named.items():
        require_same_windows(first, other, name)
    return metric


def _overall(total: np.ndarray, count: np.ndarray, metric: Metric) -> np.ndarray:
    return ratio(total.sum(keepdims=True), count.sum(keepdims=True), metric.root)[0]


def _compared(people: SubjectBootstrap, own: tuple, other: tuple, metric: Metric) -> dict[str, Any]:
    """Interval of a model's value, and of its difference to another's on the same resamples."""
    (total, count), (total_other, count_other) = ([s.sum(1, keepdims=True) for s in sums] for sums in (own, other))
    draws = people.draws(total, count, metric.root)
    low, high = people.bounds(draws, count)
    diff_low, diff_high = people.bounds(draws - people.draws(total_other, count_other, metric.root), count)
    difference = _overall(*own, metric)[0] - _overall(*other, metric)[0]
    return {
        "low": low[0], "high": high[0], "difference": difference, "diff_low": diff_low[0], "diff_high": diff_high[0],
        "verdict": verdict(diff_low[0], diff_high[0], metric.better),
    }  # fmt: skip


def _at_steps(p: Predictions, metric: str, sums: tuple, horizons: Sequence[float]) -> dict[str, float]:
    """The metric at single steps of the forecast."""
    values = ratio(sums[0].sum(0), sums[1].sum(0), catalogue(p.target)[metric].root)
    steps = dict(zip(p.horizon_min, values, strict=True))
    return {f"{metric}_at_{h:g}min": steps[h] for h in horizons if h in steps}


def _beside(p: Predictions, metric: str) -> dict[str, float]:
    """Other metrics over the whole horizon."""
    known = metrics_of(p.levels, p.target)
    beside = [n for n in (in_unit_of(n, p.target) for n in ("rmse_mgdl", *_BESIDE)) if n in known and n != metric]
    names = beside + [n for n in known if n.startswith("coverage_")]
    means = {name: np.nanmean(points_of(p, known[name])) for name in names}
    return {name: float(np.sqrt(mean) if known[name].root else mean) for name, mean in means.items()}


def _window(p: Predictions, i: int) -> str:
    measured = p.truth[i][~np.isnan(p.truth[i])]
    mean = f"mean truth {measured.mean():.2f} {unit_of(p.target)}".rstrip() if len(measured) else "no truth"
    return f"{p.subject[i]} at {p.time_utc[i]} ({p.scope[i]}, {len(measured)} points, {mean})"
