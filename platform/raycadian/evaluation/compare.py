"""A paired leaderboard: the same windows for every model, differences with intervals over subjects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from raycadian.evaluation.bootstrap import SubjectBootstrap, ratio
from raycadian.evaluation.metrics import METRICS, Metric, metrics_of, points_of
from raycadian.evaluation.predictions import Predictions

_BESIDE = ("mae_mgdl", "mard_pct", "bias_mgdl", "pinball_mgdl", "clarke_a_pct")
WORDS = ("better", "worse", "no difference shown")


def leaderboard(
    named: dict[str, Predictions],
    *,
    metric: str = "rmse_mgdl",
    horizons: Sequence[float] = (30, 60, 120),
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    reference: str | None = None,
) -> pd.DataFrame:
    """One row a model, the best by `metric` first, over the whole horizon and all subjects.

    `metric` with low, high · difference to `reference` (default: the best row) with diff_low, diff_high, paired: the same
    resampled people on both sides · verdict: better, worse, no difference shown (what the difference's interval allows to
    say), "best" or "reference" for the row compared with · <metric>_at_<h>min at those `horizons` (minutes) that are
    steps of the forecast · further metrics over the whole horizon · n_subjects, n_windows. The best of several is chosen on
    these data, so its own value flatters it. Raises ValueError where windows or truths differ, or a name is unknown.
    """
    _check(named, metric, reference)
    first = next(iter(named.values()))
    people = SubjectBootstrap(first.subject, resamples=bootstrap, confidence=confidence, seed=seed)
    chosen = METRICS[metric]
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


def require_same_windows(one: Predictions, other: Predictions, name: str) -> None:
    """Raises ValueError that names the first difference in windows, truth, steps or quantile levels."""
    fix = "compare runs of one recipe, snapshot and split"
    for what, mine, theirs in (
        ("windows", len(one), len(other)),
        ("steps", one.truth.shape[1], other.truth.shape[1]),
        ("minutes a step", one.dt_min, other.dt_min),
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


def _check(named: dict[str, Predictions], metric: str, reference: str | None) -> None:
    if not named:
        raise ValueError("nothing to compare: name at least one run")
    ordered = [name for name, m in METRICS.items() if m.better != "neither"]
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
    values = ratio(sums[0].sum(0), sums[1].sum(0), METRICS[metric].root)
    steps = dict(zip(p.horizon_min, values, strict=True))
    return {f"{metric}_at_{h:g}min": steps[h] for h in horizons if h in steps}


def _beside(p: Predictions, metric: str) -> dict[str, float]:
    """Other metrics over the whole horizon."""
    known = metrics_of(p.levels)
    names = [n for n in ("rmse_mgdl", *_BESIDE) if n != metric] + [n for n in known if n.startswith("coverage_")]
    means = {name: np.nanmean(points_of(p, known[name])) for name in names}
    return {name: float(np.sqrt(mean) if known[name].root else mean) for name, mean in means.items()}


def _window(p: Predictions, i: int) -> str:
    measured = p.truth[i][~np.isnan(p.truth[i])]
    mean = f"mean truth {measured.mean():.2f} mg/dL" if len(measured) else "no truth"
    return f"{p.subject[i]} at {p.time_utc[i]} ({p.scope[i]}, {len(measured)} points, {mean})"
