"""Scores and labels that several tests share. A plain module, as helpers."""

import numpy as np
from scipy.special import expit

from raycadian.evaluation.label.predictions import LabelPredictions


def made(n: int = 4000, slope: float = 2.0, shift: float = 1.0, seed: int = 0) -> tuple[np.ndarray, ...]:
    """score, label, weight: the label's log odds are slope * score + shift."""
    rng = np.random.default_rng(seed)
    score = rng.normal(0, 1.5, n)
    label = (rng.random(n) < expit(slope * score + shift)).astype(np.float64)
    return score, label, rng.uniform(0.5, 2.0, n)


def predictions(score: np.ndarray, label: np.ndarray, cases: int = 20) -> LabelPredictions:
    n = len(score)
    case = np.sort(np.arange(n) % cases)
    return LabelPredictions(
        subject=np.char.add("s", (case // 2).astype(str)), case=np.char.add("c", case.astype(str)),
        time_utc=np.datetime64("2000-01-01") + 10 * np.arange(n).astype("timedelta64[s]"), label=label, score=score,
        weight=np.ones(n), lead_s=np.full(n, np.nan), kind="classify", step_s=10.0,
    )  # fmt: skip
