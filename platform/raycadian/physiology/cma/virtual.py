"""People that the mechanism itself simulates, their parameters drawn from its priors: to train on before real data.

They prove nothing about a model that contains the mechanism (physiology/simulate.py knows nothing of it, and may).
S people, N points of dt.
"""

import math
from collections.abc import Sequence

import numpy as np

from raycadian.config import Prior
from raycadian.physiology.cma import equations as cma

MEAL_SD_H = 1.0  # between people
OFFSET_SD_MGDL, GAIN_SD = 20.0, 0.3  # between people; of the gain's logarithm
CORRELATION_H = 2.0  # of what the mechanism leaves over, as in fits
SENSOR_MGDL = (40.0, 400.0)


def draw(prior: Prior, n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The six parameters (n,): from their priors, normal and cut off at the model's bounds; even between the bounds
    where there is no prior."""
    from scipy.stats import truncnorm  # here: it takes half a second

    drawn = {}
    for name, (low, high) in cma.BOUNDS.items():
        normal = getattr(prior, name)
        if normal is None:
            values = rng.uniform(low, high, n)
        else:
            edges = ((low - normal.mean) / normal.sd, (high - normal.mean) / normal.sd)
            values = truncnorm.rvs(*edges, loc=normal.mean, scale=normal.sd, size=n, random_state=rng)
        drawn[name] = values
    return drawn


def simulate(
    prior: Prior, n: int, points: int, dt_s: float, *, tM: Sequence[float], offset_mgdl: float,
    gain_mgdl: Sequence[float], noise_mgdl: float, rng: np.random.Generator,
) -> np.ndarray:  # fmt: skip
    """Glucose (n, points) in mg/dL from local midnight on: offset + sum_i gain_i g_i(t) + noise, within a sensor's
    range.

    Each person has parameters from the prior, meals around `tM` (hours), an offset and gains around the ones given
    (those of a population's fit, a gain a meal). The noise is autoregressive with standard deviation `noise_mgdl`,
    correlated over 2 h.
    """
    t_h = np.tile(np.arange(points) * (dt_s / 3600), (n, 1))
    meals = np.sort((np.array(tM) + rng.normal(0, MEAL_SD_H, (n, len(tM)))) % 24, axis=1)
    g = cma.periodic(t_h, **draw(prior, n, rng), tM=meals)["g"]
    offset = offset_mgdl + OFFSET_SD_MGDL * rng.normal(size=(n, 1))
    gain = np.array(gain_mgdl) * np.exp(GAIN_SD * rng.normal(size=(n, 1)))
    noise = noise_mgdl * _autoregressive(n, points, math.exp(-dt_s / 3600 / CORRELATION_H), rng)
    return (offset + np.einsum("nm,nmt->nt", gain, g) + noise).clip(*SENSOR_MGDL)


def _autoregressive(n: int, points: int, phi: float, rng: np.random.Generator) -> np.ndarray:
    """(n, points) of variance 1: x_t = phi x_(t-1) + sqrt(1 - phi^2) e_t, from its stationary start."""
    from scipy.signal import lfilter

    shocks = rng.normal(size=(n, points))
    shocks[:, 1:] *= math.sqrt(1 - phi**2)
    return lfilter([1.0], [1.0, -phi], shocks, axis=1)
