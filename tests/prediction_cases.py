"""Predictions that several tests share: autocorrelated glucose, forecasts whose error grows, missing truth, two
scopes."""

from dataclasses import replace

import numpy as np
from scipy.stats import norm

from raycadian.evaluation.forecast.predictions import Predictions

LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])


def forecasts(
    people: int = 5, windows: int = 60, steps: int = 12, seed: int = 0, missing: float = 0.05, levels=LEVELS
) -> Predictions:
    """`windows` a person, 15 min apart, `steps` of 5 min. Quantiles are those of the truth's own distribution:
    calibrated."""
    rng = np.random.default_rng(seed)
    n, ahead = people * windows, np.arange(1, steps + 1)
    hour = np.tile(np.arange(windows) * 0.25 % 24, people)
    mechanism = 130 + 60 * np.sin(2 * np.pi * (hour[:, None] + ahead / 12 - 8) / 24)
    past = mechanism[:, :1] + rng.normal(0, 8, (n, 24)).cumsum(1)[:, ::-1]
    centre = mechanism + rng.normal(0, 25, (n, 1))
    spread = 5 * np.sqrt(ahead)
    truth = np.clip(centre + spread * rng.normal(size=(n, steps)), 20, 600)
    truth[rng.random(truth.shape) < missing] = np.nan
    subject = np.repeat([f"person-{i}" for i in range(people)], windows)
    quantiles = np.clip(centre[..., None] + spread[:, None] * norm.ppf(levels), 20, 600)
    return Predictions(
        subject=subject,
        time_utc=np.tile(np.datetime64("2026-01-05T00:00", "s") + 900 * np.arange(windows), people),
        local_h=hour,
        truth=truth,
        quantiles=quantiles,
        levels=np.asarray(levels),
        parts={"mechanism": mechanism, "correction": quantiles[..., list(levels).index(0.5)] - mechanism},
        scope=np.where(subject == "person-0", "ood", "id"),
        past=past,
    )


def shifted(p: Predictions, by_mgdl: float) -> Predictions:
    return replace(p, quantiles=p.quantiles + by_mgdl, parts={})


def perfect(p: Predictions) -> Predictions:
    """The truth itself at every level; 100 mg/dL where it is missing."""
    known = np.nan_to_num(p.truth, nan=100.0)
    return replace(p, quantiles=np.repeat(known[..., None], len(p.levels), axis=2), parts={})
