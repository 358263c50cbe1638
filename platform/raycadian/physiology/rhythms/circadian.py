"""Rest-activity rhythms of minutes of activity, of many people at once. Days (..., D, 1440) from midnight, NaN =
missing.

IS, IV: Witting et al. 1990, Biol Psychiatry 27:563; L5, M10, RA: Van Someren et al. 1999, Chronobiol Int 16:505, of the
average day. Cosinor: Nelson et al. 1979, Chronobiologia 6:305, least squares in closed form. Missing minutes count
nowhere: sums are over what is there, and what is left without data is NaN.
"""

import numpy as np

from raycadian.physiology.rhythms.wear import DAY_MIN


def rhythm(days: np.ndarray) -> dict[str, np.ndarray]:
    """Every index of these days (..., D, 1440), each (...,): interdaily_stability, intradaily_variability, l5,
    l5_onset_h, m10, m10_onset_h, relative_amplitude, and the cosinor's mesor, amplitude, acrophase_h, cosinor_r2."""
    return rest_activity(days) | cosinor(days)


def rest_activity(days: np.ndarray, least_known: float = 1.0) -> dict[str, np.ndarray]:
    """The indices that assume no shape of a day: all of `rhythm` but the cosinor's. least_known: share of the minutes
    that a stretch of 5 or 10 hours has to have, to be the least or most active."""
    hours, average = binned(days, 60), _mean(days, -2)
    l5, l5_onset_h = _extreme(average, 5, np.nanargmin, least_known)
    m10, m10_onset_h = _extreme(average, 10, np.nanargmax, least_known)
    with np.errstate(invalid="ignore", divide="ignore"):
        amplitude = (m10 - l5) / (m10 + l5)
    return {
        "interdaily_stability": interdaily_stability(hours),
        "intradaily_variability": intradaily_variability(hours),
        "l5": l5, "l5_onset_h": l5_onset_h, "m10": m10, "m10_onset_h": m10_onset_h, "relative_amplitude": amplitude,
    }  # fmt: skip


def binned(days: np.ndarray, minutes: int) -> np.ndarray:
    """Means (..., D, 1440 / minutes) of the minutes that are there."""
    if not 1 <= minutes <= DAY_MIN or DAY_MIN % minutes:
        raise ValueError(f"bins of {minutes} minutes: expected a divisor of {DAY_MIN}")
    return _mean(days.reshape(*days.shape[:-1], -1, minutes), -1)


def interdaily_stability(bins: np.ndarray) -> np.ndarray:
    """IS (...,) of bins (..., D, p), usually hours: variance of the average day over the variance of all. 1: every day
    is the same; 0: no day is like another."""
    profile, mean = _mean(bins, -2), _mean(bins, (-2, -1))
    between = _mean((profile - mean[..., None]) ** 2, -1)
    return _ratio(between, _variance(bins, mean))


def intradaily_variability(bins: np.ndarray) -> np.ndarray:
    """IV (...,) of bins (..., D, p), usually hours: mean squared step from bin to bin over the variance. Near 0: one
    smooth wave a day; 2: noise. Steps next to a missing bin don't count."""
    series = bins.reshape(*bins.shape[:-2], -1)
    return _ratio(_mean(np.diff(series, axis=-1) ** 2, -1), _variance(bins, _mean(bins, (-2, -1))))


def cosinor(days: np.ndarray, period_h: float = 24.0) -> dict[str, np.ndarray]:
    """mesor, amplitude, acrophase_h (hour of the peak, of the first day) and cosinor_r2, (...,) each, of the
    least-squares cosine through all minutes that are there."""
    series = days.reshape(*days.shape[:-2], -1)
    angle = 2 * np.pi * (np.arange(series.shape[-1]) + 0.5) / (60 * period_h)
    basis = np.stack([np.ones_like(angle), np.cos(angle), np.sin(angle)])  # (3, N)
    there = ~np.isnan(series)
    weight, filled = there.astype(np.float64), np.where(there, series, 0.0)
    gram = np.einsum("in,...n,jn->...ij", basis, weight, basis, optimize=True)
    moment = filled @ basis.T
    enough = np.linalg.cond(gram) < 1e8
    solved = np.linalg.solve(np.where(enough[..., None, None], gram, np.eye(3)), moment[..., None])[..., 0]
    solved = np.where(enough[..., None], solved, np.nan)
    mesor, a, b = np.moveaxis(solved, -1, 0)
    total = (filled**2).sum(-1) - filled.sum(-1) ** 2 / np.maximum(there.sum(-1), 1)
    explained = (solved * moment).sum(-1) - filled.sum(-1) ** 2 / np.maximum(there.sum(-1), 1)
    return {
        "mesor": mesor,
        "amplitude": np.hypot(a, b),
        "acrophase_h": np.arctan2(b, a) % (2 * np.pi) * period_h / (2 * np.pi),
        "cosinor_r2": _ratio(explained, total),
    }


def circular_mean_h(hours: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean hour of day, [0, 24), of hours with NaN = missing; NaN where they cancel out."""
    angle = 2 * np.pi * hours / 24
    x, y = _mean(np.cos(angle), axis), _mean(np.sin(angle), axis)
    return np.where(np.hypot(x, y) > 1e-9, np.arctan2(y, x) * 12 / np.pi % 24 % 24, np.nan)  # -1e-17 % 24 is 24


def apart_h(later: np.ndarray, earlier: np.ndarray) -> np.ndarray:
    """Hours from one hour of day to another, [-12, 12)."""
    return (later - earlier + 12) % 24 - 12


def _extreme(average: np.ndarray, hours: float, best, least_known: float) -> tuple[np.ndarray, np.ndarray]:
    """Of the average day (..., 1440), which goes round midnight; stretches with fewer minutes that some day has are
    left out."""
    width = round(60 * hours)
    profile = average.reshape(-1, DAY_MIN)
    around = np.concatenate([profile, profile[:, : width - 1]], axis=1)
    lacking = np.isnan(around)
    level = _sums(np.where(lacking, 0, around), width) / width
    if lacking.any():
        known = 1 - _sums(lacking, width) / width
        level = np.where(known >= max(least_known, 1 / width), level / np.maximum(known, 1 / width), np.nan)
    none = np.isnan(level).all(axis=1)
    onset = best(np.where(none[:, None], 0, level), axis=1)
    value = np.take_along_axis(level, onset[:, None], 1)[:, 0]
    shape = average.shape[:-1]
    return np.maximum(value, 0).reshape(shape), np.where(none, np.nan, onset / 60).reshape(shape)


def _sums(values: np.ndarray, width: int) -> np.ndarray:
    """(P, N) -> (P, N - width + 1): of each `width` values in a row."""
    until = np.cumsum(values, axis=1)
    sums = until[:, width - 1 :].copy()
    sums[:, 1:] -= until[:, :-width]
    return sums


def _mean(values: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Mean of what is there; NaN, without a warning, where nothing is."""
    if values.size and not np.isnan(whole := values.mean(axis)).any():
        return whole  # nothing is missing: the usual case, in one pass
    there = ~np.isnan(values)
    count = there.sum(axis)
    return np.where(count > 0, np.where(there, values, 0).sum(axis) / np.maximum(count, 1), np.nan)


def _variance(bins: np.ndarray, mean: np.ndarray) -> np.ndarray:
    return _mean((bins - mean[..., None, None]) ** 2, (-2, -1))


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, NaN where b is 0: somebody who never moved has no rhythm."""
    return np.where(b > 1e-12, a / np.where(b > 1e-12, b, 1), np.nan)
