"""Minutes asleep, of counts by the minute of one person: the published rules of devices, and one that knows no unit.

Each gives asleep (N,) of counts (N,): 1 asleep, 0 awake, NaN where nothing was counted (minutes beside it count 0).
Cole et al. 1992, Sleep 15:461 (the coefficients of means of a minute) and Sadeh et al. 1994, Sleep 17:201, of
ActiGraph's counts as its own software scales them (a hundredth of them, and at most 300; at most 300); Oakley 1997
(Mini Mitter technical report; compared by Kushida et al. 2001, Sleep Med 2:389) of Actiwatch's.
"""

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from raycadian.physiology.rhythms.sleep import REST_SHARE, moving_mean
from raycadian.physiology.rhythms.wear import DAY_MIN

_COLE_KRIPKE = (106, 54, 58, 76, 230, 74, 67)  # of the minutes from 4 before to 2 after
_OAKLEY = (0.04, 0.2, 1.0, 0.2, 0.04)  # from 2 before to 2 after
_MOST = 300.0
Scoring = Callable[[np.ndarray], np.ndarray]


def cole_kripke(counts: np.ndarray) -> np.ndarray:
    """Asleep where 0.001 times the weighted sum of seven minutes is below 1."""
    index = 0.001 * _weighted(np.minimum(counts / 100, _MOST), _COLE_KRIPKE, 4)
    return _where_counted(index < 1, counts)


def sadeh(counts: np.ndarray) -> np.ndarray:
    """Asleep where 7.601 - 0.065 MW - 1.08 NAT - 0.056 SD - 0.703 ln(ACT + 1) is 0 or more: MW the mean of eleven
    minutes, NAT those of them with 50 to 100 counts, SD the deviation of the minute and the five before."""
    known = np.nan_to_num(np.minimum(counts, _MOST))
    around = sliding_window_view(np.pad(known, (5, 5)), 11)
    before = sliding_window_view(np.pad(known, (5, 0)), 6)
    busy = ((around >= 50) & (around < 100)).sum(axis=1)
    spread = before.std(axis=1, ddof=1)
    score = 7.601 - 0.065 * around.mean(axis=1) - 1.08 * busy - 0.056 * spread - 0.703 * np.log(known + 1)
    return _where_counted(score >= 0, counts)


def oakley(counts: np.ndarray, threshold: float = 40.0) -> np.ndarray:
    """Asleep where the weighted sum of five minutes is at most the threshold."""
    return _where_counted(_weighted(counts, _OAKLEY, 2) <= threshold, counts)


def level(counts: np.ndarray) -> np.ndarray:
    """Asleep where a minute moves less than 15% of the 24 hours around it (Roenneberg et al. 2015, of minutes): of any
    unit. NaN where nothing moved in them."""
    around = moving_mean(counts[None], DAY_MIN)[0]
    return np.where(around > 0, _where_counted(counts <= REST_SHARE * around, counts), np.nan)


RULES: dict[str, Scoring] = {"level": level, "cole_kripke": cole_kripke, "sadeh": sadeh, "oakley": oakley}


def _weighted(counts: np.ndarray, weights: tuple[float, ...], before: int) -> np.ndarray:
    """Sums (N,) of each minute and those around it, as many before as `before` says."""
    padded = np.pad(np.nan_to_num(counts), (before, len(weights) - 1 - before))
    return np.convolve(padded, weights[::-1], "valid")


def _where_counted(asleep: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(counts), np.nan, asleep.astype(np.float64))
