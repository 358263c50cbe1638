"""A paired leaderboard: the same windows for every model, differences with intervals over subjects."""

from __future__ import annotations

import numpy as np
import pandas as pd

from raycadian.evaluation.metrics import _Bootstrap, contributions
from raycadian.evaluation.predictions import Predictions

_SHOWN = ("mae_mgdl", "bias_mgdl", "pinball_mgdl", "clarke_a_pct")


def leaderboard(
    named: dict[str, Predictions], *, bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """One row a model, lowest RMSE first, over the whole horizon and all subjects.

    rmse_mgdl with low, high · difference to the best row with its paired interval (the same resampled people on both
    sides) and a verdict in words · RMSE at 30 and 60 min where the horizon reaches them · further metrics.
    Raises ValueError where the models' windows or truths differ.
    """
    first = next(iter(named.values()))
    for name, other in named.items():
        require_same_windows(first, other, name)
    boot = _Bootstrap(first.subject, bootstrap, confidence, seed)
    squared = {name: boot.sums((p.median - p.truth) ** 2) for name, p in named.items()}
    ranked = sorted(named, key=lambda name: _rmse(*squared[name]))
    best = squared[ranked[0]]
    return pd.DataFrame([_row(name, named[name], squared[name], best, boot) for name in ranked])


def require_same_windows(one: Predictions, other: Predictions, name: str) -> None:
    """Raises ValueError that names the first window that differs."""
    if len(one) != len(other):
        raise ValueError(f"{name} has {len(other)} windows, the first model {len(one)}: compare runs of one recipe and snapshot")
    same = (one.subject == other.subject) & (one.time_utc == other.time_utc)
    same &= ((one.truth == other.truth) | (np.isnan(one.truth) & np.isnan(other.truth))).all(1)
    if not same.all():
        i = int(np.argmin(same))
        raise ValueError(
            f"{name}: window {i} is {other.subject[i]} at {other.time_utc[i]}, expected {one.subject[i]} at "
            f"{one.time_utc[i]} with the same truth: compare runs of one recipe and snapshot"
        )


def _row(name: str, p: Predictions, own: tuple, best: tuple, boot: _Bootstrap) -> dict:
    low, high = _interval(boot, own)
    difference = _rmse(*own) - _rmse(*best)
    d_low, d_high = _interval(boot, own, best)
    row = {"model": name, "rmse_mgdl": _rmse(*own), "low": low, "high": high}
    row |= {"difference": difference, "diff_low": d_low, "diff_high": d_high, "verdict": verdict(own is best, d_low, d_high)}
    row |= {f"rmse_{h:g}min": _rmse(own[0][:, i : i + 1], own[1][:, i : i + 1]) for i, h in _steps(p)}
    found = contributions(p.truth, p.quantiles, p.levels)
    row |= {metric: float(np.nanmean(found[metric])) for metric in _SHOWN}
    row |= {m: float(np.nanmean(v)) for m, v in found.items() if m.startswith("coverage")}
    return row | {"n_subjects": len(set(p.subject)), "n_windows": len(p)}


def verdict(is_best: bool, low: float, high: float) -> str:
    """What the interval of the difference to the best allows to say."""
    if is_best:
        return "lowest"
    if np.isnan(low):
        return "too few people"
    return "worse" if low > 0 else "no difference shown"


def _rmse(total: np.ndarray, count: np.ndarray) -> float:
    return float(np.sqrt(total.sum() / max(count.sum(), 1)))


def _interval(boot: _Bootstrap, own: tuple, other: tuple | None = None) -> tuple[float, float]:
    """Interval of the RMSE, or of its paired difference to another's."""
    if boot.subjects < 3:
        return np.nan, np.nan

    def drawn(sums: tuple) -> np.ndarray:
        return np.sqrt((boot.drawn @ sums[0].sum(1)) / np.maximum(boot.drawn @ sums[1].sum(1), 1))

    values = drawn(own) - (drawn(other) if other is not None else 0)
    low, high = np.quantile(values, boot.tails)
    return float(low), float(high)


def _steps(p: Predictions) -> list[tuple[int, float]]:
    return [(i, h) for i, h in enumerate(p.horizon_min) if h in (30, 60, 120)]
