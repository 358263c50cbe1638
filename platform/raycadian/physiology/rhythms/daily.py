"""A person's days in a few numbers each, what is usual for that person, and how far a day is from it. D days.

The usual is the mean and standard deviation over the days of a baseline; hours of the clock go round midnight.
"""

from dataclasses import dataclass

import numpy as np

from raycadian.physiology.rhythms.circadian import apart_h, circular_mean_h, rhythm
from raycadian.physiology.rhythms.sleep import rest

ACTIVITY = (
    "level", "intradaily_variability", "l5", "m10", "relative_amplitude", "amplitude", "acrophase_h", "l5_onset_h",
    "m10_onset_h", "rest_h",
)  # fmt: skip
GLUCOSE = ("mean_mgdl", "sd_mgdl", "time_in_range_pct", "time_below_70_pct", "time_above_180_pct")
ON_THE_CLOCK = ("acrophase_h", "l5_onset_h", "m10_onset_h")
FURTHEST = 5.0  # standard deviations: beyond, a day is no further out
_LEAST = 1e-6  # of the mean: a smaller spread is rounding


def of_activity(days: np.ndarray) -> np.ndarray:
    """ACTIVITY (D, F) of minutes (D, 1440) from midnight, NaN = not worn: each day alone (circadian.py, sleep.py)."""
    each = days[:, None, :]
    features = rhythm(each)
    at_rest = rest(each)[:, 0]
    known = (~np.isnan(at_rest)).sum(1)
    rest_h = np.where(known > 0, 24 * (at_rest == 1).sum(1) / np.maximum(known, 1), np.nan)
    features |= {"level": features["mesor"], "rest_h": rest_h}
    return np.stack([features[name] for name in ACTIVITY], axis=1)


def of_glucose(days: np.ndarray) -> np.ndarray:
    """GLUCOSE (D, F) of readings (D, points) in mg/dL, NaN = missing; a day has one reading at least."""
    known = ~np.isnan(days)
    n = known.sum(1)
    mean = np.where(known, days, 0).sum(1) / n
    sd = np.sqrt(np.where(known, (days - mean[:, None]) ** 2, 0).sum(1) / n)
    shares = [100 * inside.sum(1) / n for inside in ((days >= 70) & (days <= 180), days < 70, days > 180)]
    return np.stack([mean, sd, *shares], axis=1)


@dataclass(frozen=True)
class Baseline:
    """What is usual: of each of the features `names` mean and spread (F,), over `days` days from `first` to `last`
    (datetime64[D]); NaN where no day has it."""

    names: tuple[str, ...]
    mean: np.ndarray
    spread: np.ndarray
    days: int
    first: np.datetime64
    last: np.datetime64

    @staticmethod
    def of(names: tuple[str, ...], values: np.ndarray, dates: np.ndarray) -> "Baseline":
        """Of features (D, F) on the dates (D,), in order."""
        clock = np.isin(names, ON_THE_CLOCK)
        known = ~np.isnan(values)
        n = np.maximum(known.sum(0), 1)
        mean = np.where(known, values, 0).sum(0) / n
        mean = np.where(clock, circular_mean_h(values, axis=0), np.where(known.any(0), mean, np.nan))
        apart = _apart(values, mean, clock)
        spread = np.sqrt(np.where(np.isnan(apart), 0, apart**2).sum(0) / np.maximum(n - 1, 1))
        return Baseline(tuple(names), mean, spread, len(values), dates[0], dates[-1])

    def deviations(self, values: np.ndarray) -> np.ndarray:
        """Features (D, F) in the person's own standard deviations from the usual, within FURTHEST; NaN where a day or
        the baseline lacks one, 0 where nothing varied."""
        apart = _apart(values, self.mean, np.isin(self.names, ON_THE_CLOCK))
        varies = self.spread > _LEAST * (1 + np.abs(np.nan_to_num(self.mean)))
        z = np.where(varies, apart / np.where(varies, self.spread, 1.0), 0 * apart)
        return np.clip(z, -FURTHEST, FURTHEST)


def _apart(values: np.ndarray, mean: np.ndarray, clock: np.ndarray) -> np.ndarray:
    return np.where(clock, apart_h(values, mean), values - mean)
