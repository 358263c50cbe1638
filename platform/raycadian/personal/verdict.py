"""Whether an adapter serves one person better than the population's model does, and how sure its probabilities are.

W days in the order of time, none of which the adapter was trained on.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from raycadian.evaluation.label.decision import EXTREME, Decision

# of the logarithm of the slope and of the offset, in log odds: so far a person may be from the population
PRIOR_SD = 1.0
CONFIDENCE = 0.9
_Z = 1.6448536269514722  # the normal quantile of (1 + CONFIDENCE) / 2


@dataclass(frozen=True)
class PersonalDecision:
    """The population's calibrated log odds x as one person's: sigmoid(e^slope x + offset), Platt's form about the
    population's.

    slope (log) and offset are the mode of their posterior given the person's labelled days, with a normal prior of
    PRIOR_SD about 0 on each, and covariance (2, 2) Laplace's approximation of its spread: with few days the
    population's calibration stands and the interval is wide, with many the person's own takes over.
    """

    population: Decision
    slope: float
    offset: float
    covariance: tuple[tuple[float, float], tuple[float, float]]

    @property
    def threshold(self) -> float:
        """The population's, of the population's probability; as one of the person's."""
        return float(expit(self._moved(logit(np.clip(self.population.threshold, EXTREME, 1 - EXTREME)))))

    def probability(self, score: np.ndarray, case: np.ndarray) -> np.ndarray:
        """(W,), of log odds (W,) as Decision.probability."""
        return np.clip(expit(self._moved(logit(self.population.probability(score, case)))), EXTREME, 1 - EXTREME)

    def interval(self, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """low, high (W,): where `probability` lies with CONFIDENCE, as far as the calibration is uncertain."""
        moved = logit(probability)
        gradient = np.stack([moved - self.offset, np.ones_like(moved)], axis=-1)  # of (slope, offset)
        sd = np.sqrt(np.einsum("...i,ij,...j->...", gradient, np.array(self.covariance), gradient))
        return expit(moved - _Z * sd), expit(moved + _Z * sd)

    def _moved(self, x: np.ndarray | float) -> np.ndarray | float:
        return np.exp(self.slope) * x + self.offset


def fit_personal(population: Decision, score: np.ndarray, label: np.ndarray) -> PersonalDecision:
    """From the adapter's log odds (W,) of labelled days (W,)."""
    x = logit(population.probability(score, np.zeros(len(score), np.int8)))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        moved = np.exp(parameters[0]) * x + parameters[1]
        off = expit(moved) - label
        value = np.sum(np.logaddexp(0, moved) - label * moved) + 0.5 * parameters @ parameters / PRIOR_SD**2
        return value, np.array([off @ (np.exp(parameters[0]) * x), off.sum()]) + parameters / PRIOR_SD**2

    from scipy.optimize import minimize  # here: it takes half a second

    slope, offset = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", tol=1e-12).x
    steep = np.stack([np.exp(slope) * x, np.ones_like(x)], axis=1)
    p = expit(np.exp(slope) * x + offset)
    information = (steep * (p * (1 - p))[:, None]).T @ steep + np.eye(2) / PRIOR_SD**2  # Fisher's: positive always
    spread = np.linalg.inv(information)
    return PersonalDecision(population, float(slope), float(offset), tuple(map(tuple, spread.tolist())))


@dataclass(frozen=True)
class Verdict:
    """What held-out days said: scores name -> model -> value, the first name lower is better; sentence in words."""

    adapter_kept: bool
    scores: dict[str, dict[str, float]]
    sentence: str


def judge_probabilities(probabilities: dict[str, np.ndarray], label: np.ndarray) -> Verdict:
    """Of probabilities (W,) by `adapter`, `population` and `base_rate`, the person's own share of days with the label.
    By Brier score, a day a loss: see `_verdict`."""
    losses = {name: (p - label) ** 2 for name, p in probabilities.items()}
    scores = {
        "brier": {name: float(loss.mean()) for name, loss in losses.items()},
        "log_loss": {
            name: float(-np.mean(np.log(np.where(label == 1, p, 1 - p)))) for name, p in probabilities.items()
        },
    }
    if 0 < label.sum() < len(label):
        scores["auroc"] = {name: _auroc(p, label) for name, p in probabilities.items()}
    return _verdict(
        losses, scores, f"{len(label)} held-out days, {int(label.sum())} with the label", "Brier score", "", 3
    )


def judge_forecasts(pinball: dict[str, np.ndarray], rmse: dict[str, float], day: np.ndarray) -> Verdict:
    """Of forecasts by `adapter` and `population`: mean pinball loss (W,) in mg/dL of each that begins on `day` (W,). A
    day a loss."""
    of = np.unique(day, return_inverse=True)[1]
    losses = {name: np.bincount(of, loss) / np.bincount(of) for name, loss in pinball.items()}
    scores = {"pinball_mgdl": {name: float(loss.mean()) for name, loss in pinball.items()}, "rmse_mgdl": rmse}
    on = f"{len(day)} held-out forecasts of {of.max() + 1} days"
    return _verdict(losses, scores, on, "pinball loss", " mg/dL", 2)


def _verdict(
    losses: dict[str, np.ndarray], scores: dict[str, dict[str, float]], on: str, words: str, unit: str, digits: int
) -> Verdict:
    """The one-standard-error rule (Breiman et al. 1984): the adapter is kept where its loss (days,) is below that of
    every other by more than the standard error of the difference over days. Neighbouring days are alike, so that error
    is itself low."""
    own, others = losses["adapter"], {name: loss for name, loss in losses.items() if name != "adapter"}
    kept = all(_better(own, loss) for loss in others.values())
    figures = next(iter(scores.values()))
    compared = ", ".join(f"{name.replace('_', ' ')} {figures[name]:.{digits}f}{unit}" for name in others)
    ending = (
        "better by more than a standard error, the adapter is kept" if kept
        else "POPULATION MODEL KEPT: the adapter is not better by more than a standard error, and is not used"
    )  # fmt: skip
    return Verdict(
        kept, scores, f"{on}: {words} of the adapter {figures['adapter']:.{digits}f}{unit}, {compared}; {ending}"
    )


def _better(own: np.ndarray, other: np.ndarray) -> bool:
    gain = other - own
    return len(gain) > 1 and bool(gain.mean() > gain.std(ddof=1) / np.sqrt(len(gain)))


def _auroc(p: np.ndarray, label: np.ndarray) -> float:
    higher = p[label == 1][:, None] - p[label == 0]
    return float(((higher > 0) + 0.5 * (higher == 0)).mean())
