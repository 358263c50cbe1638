"""Whether quantiles mean what they say."""

from __future__ import annotations

import numpy as np
import pandas as pd

from raycadian.evaluation.predictions import Predictions


def reliability(p: Predictions) -> pd.DataFrame:
    """level, observed: the share of measured truth at or below each quantile, over all windows and steps."""
    seen = ~np.isnan(p.truth)
    below = [(p.truth <= p.quantiles[..., i])[seen].mean() if seen.any() else np.nan for i in range(len(p.levels))]
    return pd.DataFrame({"level": p.levels, "observed": below})


def pit(p: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Edges (Q+2,) from 0 to 1 and the share of truth between neighbouring quantiles (Q+1,); calibrated where the share
    equals the edges' difference (the probability integral transform, known at the levels only)."""
    observed = reliability(p).observed.to_numpy()
    return np.r_[0.0, p.levels, 1.0], np.diff(np.r_[0.0, observed, 1.0])
