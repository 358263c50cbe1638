"""Tests of whether one forecaster's losses are lower than another's, and corrections for asking often.

Two kinds of chance are kept apart. The Diebold-Mariano test asks whether the difference would hold for *these people*
on other days; intervals from resampling people (bootstrap.py) and ranks over people ask whether it would in *other
people*.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Overlap:
    """Which windows of one person have horizons that overlap: their errors share what happened, so they are not
    independent.

    order (W,): the windows by person and time · person (W,): whose each is, in that order · pairs: (left, right)
    positions in that order, once for each number of windows between them.
    """

    order: np.ndarray
    person: np.ndarray
    pairs: tuple[tuple[np.ndarray, np.ndarray], ...]


def overlapping(subject: np.ndarray, time_utc: np.ndarray, horizon_min: float) -> Overlap:
    """Windows (W,) that begin less than `horizon_min` apart. On an even grid: the lags 1 to h - 1 of the test."""
    person = np.unique(subject, return_inverse=True)[1]
    order = np.lexsort((time_utc, person))
    person, time_s = person[order], time_utc[order].astype("datetime64[s]").astype(np.int64)
    pairs = []
    for lag in range(1, len(order)):
        near = (person[lag:] == person[:-lag]) & (time_s[lag:] - time_s[:-lag] < 60 * horizon_min)
        if not near.any():
            break
        left = np.flatnonzero(near)
        pairs.append((left, left + lag))
    return Overlap(order, person, tuple(pairs))


@dataclass(frozen=True)
class DieboldMariano:
    """statistic (below 0: the first is better), degrees of freedom, two-sided p; people and windows that entered."""

    statistic: float
    df: float
    p: float
    n_subjects: int
    n_windows: int


def diebold_mariano(difference: np.ndarray, overlap: Overlap) -> DieboldMariano:
    """Test that the mean of loss differences (W,), first minus second, is zero; NaN: the window has no loss.

    For each person the variance of the mean counts the covariances of overlapping windows (Diebold and Mariano 1995,
    J. Bus. Econ. Stat. 13:253, rectangular kernel), with the small-sample factor (n + 1 - 2h + h(h - 1)/n)/n of
    Harvey, Leybourne and Newbold 1997 (Int. J. Forecasting 13:281); where that estimate isn't positive, Bartlett's
    weights take the kernel's place. People are independent: their means are weighted by their windows, their
    variances add up, and the degrees of freedom are Satterthwaite's. For one person this is the published test on t
    with n - 1 degrees. People with no more than h windows can't enter. p is NaN where nobody can, 1 where both
    forecasts have the same losses.
    """
    x = difference[overlap.order].astype(np.float64)
    seen = ~np.isnan(x)
    count = _sum(overlap.person, seen)
    mean = np.divide(_sum(overlap.person, np.where(seen, x, 0)), count, out=np.zeros(len(count)), where=count > 0)
    centred = np.where(seen, x - mean[overlap.person], 0.0)
    products = [_sum(overlap.person[left], centred[left] * centred[right], len(count)) for left, right in overlap.pairs]
    alone, h = _sum(overlap.person, centred**2), len(products) + 1
    variance = alone + 2 * sum(products)
    tapered = alone + 2 * sum(product * (1 - lag / h) for lag, product in enumerate(products, start=1))
    variance = np.where(variance > 0, variance, tapered)
    n = count[enters := count > h]
    variance = variance[enters] / (
        (n - h) * (n - h + 1)
    )  # = sum/n^2 over the factor, as (n+1-2h+h(h-1)/n)/n = (n-h)(n-h+1)/n^2
    return _combined(mean[enters], variance, n)


def _combined(mean: np.ndarray, variance: np.ndarray, n: np.ndarray) -> DieboldMariano:
    """One test from each person's mean, its variance and number of windows."""
    counts = {"n_subjects": len(n), "n_windows": int(n.sum())}
    if not len(n):
        return DieboldMariano(np.nan, np.nan, np.nan, **counts)
    share = n / n.sum()
    parts = share**2 * variance
    total, pooled = parts.sum(), (share * mean).sum()
    if total <= 0:
        same = bool((mean == 0).all())
        return DieboldMariano(0.0 if same else np.nan, np.nan, 1.0 if same else np.nan, **counts)
    from scipy import stats  # here: it takes half a second, and one person has nothing to test

    statistic, df = pooled / np.sqrt(total), total**2 / (parts**2 / (n - 1)).sum()
    return DieboldMariano(float(statistic), float(df), float(2 * stats.t.sf(abs(statistic), df)), **counts)


def _sum(person: np.ndarray, values: np.ndarray, people: int = 0) -> np.ndarray:
    return np.bincount(person, values, people or person.max() + 1)


def holm(p: np.ndarray) -> np.ndarray:
    """p-values (K,) adjusted so that the chance of any false finding among them stays below the level (Holm 1979,
    Scand. J. Stat. 6:65). NaN, a test that could not be made, stays NaN and counts as none."""
    adjusted = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return adjusted


@dataclass(frozen=True)
class Ranks:
    """Mean ranks of K models over people (1: best), and how far apart two must be to differ.

    p: Friedman's test that all rank the same, NaN for fewer than 3 models · critical: Nemenyi's critical difference.
    """

    mean: dict[str, float]
    p: float
    critical: float
    n_subjects: int

    def groups(self) -> list[list[str]]:
        """Models that Nemenyi's test doesn't part: each largest run of neighbours within the critical difference."""
        names = sorted(self.mean, key=self.mean.__getitem__)
        runs = [
            [m for m in names[i:] if self.mean[m] - self.mean[first] < self.critical] for i, first in enumerate(names)
        ]
        return [run for i, run in enumerate(runs) if len(run) > 1 and not (i and set(run) <= set(runs[i - 1]))]


def ranks(losses: dict[str, np.ndarray], alpha: float = 0.05) -> Ranks:
    """Rank models by each person's loss (S,), lower is better (Demšar 2006, J. Mach. Learn. Res. 7:1).

    People with a missing loss are left out. Critical difference q sqrt(K (K + 1) / 6 S), q of the studentized range
    with infinitely many degrees of freedom over sqrt(2). Raises ValueError for fewer than two models or people.
    """
    table = np.stack(list(losses.values()), axis=1)  # (S, K)
    table = table[~np.isnan(table).any(1)]
    people, models = table.shape
    if people < 2 or models < 2:
        raise ValueError(f"ranks need two models and two people at least; found {models} and {people}")
    from scipy import stats

    mean = stats.rankdata(table, axis=1).mean(0)
    q = stats.studentized_range.ppf(1 - alpha, models, np.inf) / np.sqrt(2)
    p = _friedman(table) if models > 2 else np.nan
    critical = float(q * np.sqrt(models * (models + 1) / (6 * people)))
    return Ranks(dict(zip(losses, map(float, mean), strict=True)), p, critical, people)


def _friedman(table: np.ndarray) -> float:
    """p of Friedman's test; 1 where everybody has the same ranks for all (its statistic is then 0/0)."""
    if (table == table[:, :1]).all():
        return 1.0
    from scipy import stats

    return float(stats.friedmanchisquare(*table.T).pvalue)
