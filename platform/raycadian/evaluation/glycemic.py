"""What errors mean for a person: Clarke zones, time in range, hypo- and hyperglycaemic events. Vectorised, mg/dL."""

from __future__ import annotations

import numpy as np

HYPO_MGDL, SEVERE_HYPO_MGDL, HYPER_MGDL, SEVERE_HYPER_MGDL = 70.0, 54.0, 180.0, 250.0
EVENT_MIN = 15.0
"""An event lasts at least so long (Danne et al., Diabetes Care 40:1631, 2017)."""


def clarke_zones(reference: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Zones A to E of the Clarke error grid as letters, the inputs' shape; "" where either is NaN.

    Clarke, Cox, Gonder-Frederick, Carter, Pohl, Diabetes Care 10:622 (1987); zones are tested in the order A, E, C, D, B.
    """
    r, p = np.asarray(reference, dtype=float), np.asarray(predicted, dtype=float)
    a = ((r <= 70) & (p <= 70)) | (np.abs(p - r) <= 0.2 * r)
    e = ((r >= 180) & (p <= 70)) | ((r <= 70) & (p >= 180))
    c = ((r >= 70) & (r <= 290) & (p >= r + 110)) | ((r >= 130) & (r <= 180) & (p <= 7 / 5 * r - 182))
    d = ((r >= 240) & (p >= 70) & (p <= 180)) | ((r <= 175 / 3) & (p >= 70) & (p <= 180))
    d |= (r >= 175 / 3) & (r <= 70) & (p >= 6 / 5 * r)
    return np.select([np.isnan(r) | np.isnan(p), a, e, c, d], ["", "A", "E", "C", "D"], "B")


def has_event(glucose: np.ndarray, threshold_mgdl: float, dt_min: float, above: bool) -> np.ndarray:
    """(..., H) -> (...): whether at least EVENT_MIN minutes in a row lie beyond the threshold. NaN breaks a row."""
    beyond = glucose > threshold_mgdl if above else glucose < threshold_mgdl
    points = max(1, int(np.ceil(EVENT_MIN / dt_min)))
    if beyond.shape[-1] < points:
        return np.zeros(beyond.shape[:-1], dtype=bool)
    return np.lib.stride_tricks.sliding_window_view(beyond, points, axis=-1).all(-1).any(-1)


EVENTS = {  # name -> threshold, above
    "hypo70": (HYPO_MGDL, False),
    "hypo54": (SEVERE_HYPO_MGDL, False),
    "hyper180": (HYPER_MGDL, True),
    "hyper250": (SEVERE_HYPER_MGDL, True),
}


def in_range(glucose: np.ndarray) -> np.ndarray:
    """1 within 70-180 mg/dL, 0 outside, NaN where missing (Battelino et al., Diabetes Care 42:1593, 2019)."""
    inside = ((glucose >= HYPO_MGDL) & (glucose <= HYPER_MGDL)).astype(float)
    return np.where(np.isnan(glucose), np.nan, inside)
