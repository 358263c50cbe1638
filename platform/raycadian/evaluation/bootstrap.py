"""Intervals by resampling people: windows of one person are not independent, people are."""

import numpy as np
from scipy.sparse import csr_array

from raycadian.config import Evaluation

EVALUATION = Evaluation()
"""How intervals are drawn where a recipe says nothing of it."""
MIN_SUBJECTS = 3
"""Fewer people give no interval: it is NaN, never invented."""


class SubjectBootstrap:
    """R resamples of the S subjects, the same ones for every statistic, of windows that belong to them.

    A statistic is a ratio of sums over windows, so sums per subject suffice: a thousand resamples are one matrix
    product (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, percentile intervals; clusters are the
    subjects).
    """

    def __init__(self, subject: np.ndarray, evaluation: Evaluation = EVALUATION):
        self.subjects, self.code = np.unique(subject, return_inverse=True)  # (S,), (W,) position in it
        s, w = len(self.subjects), len(subject)
        self._member = csr_array((np.ones(w), (self.code, np.arange(w))), shape=(s, w))
        drawn = np.random.default_rng(evaluation.seed)
        counts = drawn.multinomial(s, np.full(s, 1 / s), size=evaluation.bootstrap)
        self.counts = counts.astype(np.float64)  # (R, S) how often each subject is in each resample
        self.evaluation = evaluation  # for those who score beside it
        self._tails = ((1 - evaluation.confidence) / 2, (1 + evaluation.confidence) / 2)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """(W, K) -> (S, K): sums per subject, NaN counting as nothing."""
        return self._member @ np.nan_to_num(np.asarray(values, dtype=np.float64), nan=0.0)

    def sum_count(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(W, K) -> sums and numbers of the non-missing, (S, K) each."""
        return self.sum(values), self.sum(~np.isnan(values))

    def draws(self, total: np.ndarray, count: np.ndarray, root: bool = False) -> np.ndarray:
        """(S, K) sums -> (R, K): the ratio in each resample; NaN where the resample counts nothing."""
        return ratio(self.counts @ total, self.counts @ count, root)

    def bounds(self, draws: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(R, K) -> low, high (K,): percentiles; NaN where fewer than MIN_SUBJECTS subjects contribute."""
        low, high = np.full((2, draws.shape[1]), np.nan)
        enough = (count > 0).sum(0) >= MIN_SUBJECTS
        if enough.any():
            low[enough], high[enough] = _quantile(draws[:, enough], self._tails)
        return low, high

    def estimate(
        self, total: np.ndarray, count: np.ndarray, root: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(S, K) sums -> value, low, high (K,) of sum(total) / sum(count), or of its square root."""
        return ratio(total.sum(0), count.sum(0), root), *self.bounds(self.draws(total, count, root), count)


def ratio(total: np.ndarray, count: np.ndarray, root: bool = False) -> np.ndarray:
    """total / count, or its square root; NaN where count is 0."""
    mean = np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
    return np.sqrt(mean) if root else mean


def _quantile(draws: np.ndarray, tails: tuple[float, float]) -> np.ndarray:
    """Resamples that count nothing say nothing; nanquantile is slow, so only where some do."""
    return (np.nanquantile if np.isnan(draws).any() else np.quantile)(draws, tails, axis=0)
