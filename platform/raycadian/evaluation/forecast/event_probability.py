"""The probability that glucose goes low at any time within the horizon: from quantiles, calibrated on validation data.

Raw: at each step the predictive distribution runs through the quantiles, straight on the scale of normal scores (its
tails go on as the outermost stretch does: exact for a normal forecast). Over the horizon: the largest of the steps'
probabilities, the lower bound that holds whatever the dependence between steps (Fréchet); steps are nearly one event,
their sum would be far too much. Calibrated: logit(probability) = slope * logit(raw) + intercept, slope >= 0 (Platt
1999; Cox, Biometrika 45:562, 1958), which keeps the order of windows and needs few events. The event: any measured
point beyond the threshold, not 15 minutes in a row.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy.special import expit, logit, ndtr, ndtri

from raycadian.errors import CheckpointError
from raycadian.evaluation.forecast.glycemic import EXCURSIONS, Excursion
from raycadian.evaluation.forecast.predictions import Predictions
from raycadian.files import read_json, write_json

LOWS = tuple(e for e in EXCURSIONS if not e.above)
"""Below 70 and below 54 mg/dL."""
_STEEPEST = 1e3  # of a calibration's numbers: from certainty to certainty within a hundredth of probability
EXTREME = 1e-4  # a forecast is never surer: quantiles say nothing about rarer things


class Quantiled(Protocol):
    """Forecasts (..., H, Q) in mg/dL at Q levels: predictions of many windows, or one forecast."""

    @property
    def quantiles(self) -> np.ndarray: ...
    @property
    def levels(self) -> Sequence[float] | np.ndarray: ...


@dataclass(frozen=True)
class EventCalibration:
    """From quantiles to a calibrated probability of one excursion; numbers only, so it is written as JSON."""

    excursion: str
    slope: float
    intercept: float
    n_windows: int
    n_events: int

    def probability(self, p: Quantiled) -> np.ndarray:
        """(...,) in (0, 1): that glucose is beyond the threshold at any step of the horizon."""
        return self.calibrated(raw_probability(p, excursion_named(self.excursion)))

    def calibrated(self, raw: np.ndarray) -> np.ndarray:
        """Non-decreasing in `raw`."""
        return expit(self.slope * logit(raw) + self.intercept)


def probabilities(p: Quantiled, calibrations: Sequence[EventCalibration]) -> dict[str, np.ndarray]:
    """Name -> calibrated probability (...,) of each low, the rarer one's at most that of the one which it is part of:
    calibrations are fitted apart and may cross, and of the rarer event less is known. docs/concepts/evaluation.md"""
    milder_first = sorted(calibrations, key=lambda one: -excursion_named(one.excursion).threshold_mgdl)
    at_most: dict[str, np.ndarray] = {}
    for own in milder_first:
        at_most[own.excursion] = np.minimum(own.probability(p), next(reversed(at_most.values()), 1.0))
    return {one.excursion: at_most[one.excursion] for one in calibrations}


def fit_event_calibration(val: Predictions, excursion: Excursion) -> EventCalibration:
    """Slope and intercept of the largest likelihood on `val`, with Platt's softened targets ((n1+1)/(n1+2) and
    1/(n0+2)).

    Raises ValueError where no window holds the event, or every one does: nothing could be learnt.
    """
    happened = happened_within(val, excursion)
    known = ~np.isnan(happened)
    events, windows = int(np.nansum(happened)), int(known.sum())
    if not 0 < events < windows:
        raise ValueError(f"{excursion.name} in {events} of {windows} windows")
    x = logit(raw_probability(val, excursion)[known])
    target = np.where(happened[known] == 1, (events + 1) / (events + 2), 1 / (windows - events + 2))
    from scipy.optimize import minimize  # here: a forecast, which only reads calibrations, starts 1 s sooner

    fit = minimize(
        _deviance, (1.0, 0.0), args=(x, target), jac=True, method="L-BFGS-B", bounds=((0, None), (None, None))
    )
    return EventCalibration(excursion.name, float(fit.x[0]), float(fit.x[1]), windows, events)


def _deviance(parameters: np.ndarray, x: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean cross entropy of the targets, and its gradient."""
    score = parameters[0] * x + parameters[1]
    off = expit(score) - target
    return float(np.mean(np.logaddexp(0, score) - target * score)), np.array([np.mean(off * x), np.mean(off)])


def raw_probability(p: Quantiled, excursion: Excursion) -> np.ndarray:
    """(...,) the largest probability of any step, within EXTREME of 0 and 1."""
    return np.clip(step_probability(p, excursion).max(-1), EXTREME, 1 - EXTREME)


def step_probability(p: Quantiled, excursion: Excursion) -> np.ndarray:
    """(..., H): that glucose is beyond the threshold at that step, by the distribution through its quantiles.

    Of the median alone: 0 or 1, a half at the threshold itself.
    """
    q, z = p.quantiles.astype(np.float64), ndtri(p.levels)
    if q.shape[-1] == 1:
        below = 0.5 * (1 + np.sign(excursion.threshold_mgdl - q[..., 0]))
    else:
        left = np.clip(
            (q <= excursion.threshold_mgdl).sum(-1) - 1, 0, q.shape[-1] - 2
        )  # the stretch, or the outermost one
        at, after = (np.take_along_axis(q, (left + k)[..., None], -1)[..., 0] for k in (0, 1))
        slope = (z[left + 1] - z[left]) / np.maximum(after - at, 1e-9)
        below = ndtr(z[left] + slope * (excursion.threshold_mgdl - at))
    return 1 - below if excursion.above else below


def happened_within(p: Predictions, excursion: Excursion) -> np.ndarray:
    """(W,) 1 where a measured point is beyond the threshold, 0 where none is, NaN where any point is missing.

    Windows with gaps count nowhere, even if a measured point decides them: to keep those alone would overstate how
    often it happens.
    """
    return np.where(np.isnan(p.truth).any(1), np.nan, excursion.beyond(p.truth).any(1).astype(float))


def excursion_named(name: str) -> Excursion:
    known = {e.name: e for e in EXCURSIONS}
    if name not in known:
        raise ValueError(f"{name}: no such excursion; choose one of {', '.join(known)}")
    return known[name]


def fit_lows(val: Predictions) -> tuple[list[EventCalibration], list[str]]:
    """The calibrations that `val` allows, and for each of the others why not."""
    fitted, reasons = [], []
    for excursion in LOWS:
        try:
            fitted.append(fit_event_calibration(val, excursion))
        except ValueError as error:
            reasons.append(str(error))
    return fitted, reasons


def write_calibrations(path: Path, calibrations: list[EventCalibration]) -> None:
    write_json(path, [asdict(c) for c in calibrations])


def read_calibrations(path: Path) -> list[EventCalibration]:
    """Raises ValueError for a file of something else; an absent file holds none (runs before 0.1.0 had none)."""
    if not path.is_file():
        return []
    try:
        calibrations = [EventCalibration(**row) for row in read_json(path, list)]
        for own in calibrations:
            if not (0 <= own.slope <= _STEEPEST and abs(own.intercept) <= _STEEPEST):  # NaN too
                raise CheckpointError(f"{path}: {own.excursion}: no calibration has slope {own.slope}, {own.intercept}")
        return calibrations
    except TypeError as error:
        raise CheckpointError(f"{path}: no list of event calibrations: {error}") from None
