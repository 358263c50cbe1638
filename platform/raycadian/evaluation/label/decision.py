"""From log odds of windows to a probability that means what it says, and to an alarm: votes, calibration, threshold.

Everything is chosen on validation windows and kept as numbers in JSON, so that the endpoint does the same.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import expit, logit

from raycadian.config import Classification
from raycadian.errors import CheckpointError
from raycadian.evaluation.label.predictions import LabelPredictions
from raycadian.files import read_json, write_json

EXTREME = 1e-6  # a probability is never surer
_KNOTS = 256  # of an isotonic calibration, at most
_FOLDS = 5  # of validation people, where they choose the calibration
_SIMPLEST_FIRST = ("none", "temperature", "platt", "beta", "isotonic")


@dataclass(frozen=True)
class Calibration:
    """Non-decreasing, from log odds to a probability.

    temperature: sigmoid(x / parameters[0]) (Guo et al., ICML 2017) · platt: sigmoid(a x + b), a >= 0 (Platt 1999) ·
    beta: sigmoid(a log p - b log(1 - p) + c) with p = sigmoid(x), a, b >= 0 (Kull et al., AISTATS 2017) · isotonic:
    straight between knots `at` with values `parameters`, the log odds' ends beyond (Zadrozny and Elkan, KDD 2002) ·
    none: sigmoid(x).
    """

    kind: Literal["none", "temperature", "platt", "beta", "isotonic"]
    parameters: tuple[float, ...] = ()
    at: tuple[float, ...] = ()

    def probability(self, score: np.ndarray) -> np.ndarray:
        """(W,) log odds -> (W,) within EXTREME of 0 and 1."""
        match self.kind:
            case "none":
                probability = expit(score)
            case "temperature":
                probability = expit(score / self.parameters[0])
            case "platt":
                probability = expit(self.parameters[0] * score + self.parameters[1])
            case "beta":
                probability = expit(_both_ends(score) @ self.parameters[:2] + self.parameters[2])
            case "isotonic":
                probability = np.interp(score, self.at, self.parameters)
        return np.clip(probability, EXTREME, 1 - EXTREME)


def fit_calibration(kind: str, score: np.ndarray, label: np.ndarray, weight: np.ndarray) -> Calibration:
    """On validation windows: log odds (W,), labels 0 or 1, weights. Raises ValueError where all labels are the same."""
    if kind == "none":
        return Calibration("none")
    events = int(label.sum())
    if not 0 < events < len(label):
        raise ValueError(
            f"{events} of {len(label)} validation windows have the label; probabilities can be calibrated only where "
            "some have and some don't: take more validation subjects (split.val_subjects), or calibration: none"
        )
    score = score.astype(np.float64)
    match kind:
        case "temperature":
            from scipy.optimize import minimize_scalar  # here: an endpoint, which only decides, needs none

            optimum = minimize_scalar(
                lambda log_t: _cross_entropy(score * np.exp(-log_t), label, weight), bounds=(-5, 5), method="bounded"
            )
            return Calibration("temperature", (float(np.exp(optimum.x)),))
        case "platt":
            return Calibration("platt", _slopes(score[:, None], label, weight))
        case "beta":
            return Calibration("beta", _slopes(_both_ends(score), label, weight))
        case "isotonic":
            return _isotonic(score, label, weight)
    raise AssertionError(kind)


def choose_calibration(score: np.ndarray, label: np.ndarray, weight: np.ndarray, subject: np.ndarray) -> str:
    """The kind with the least cross-entropy on validation people that it was not fitted on, five folds of people; the
    simplest of equals. Raises ValueError where the people of a fold leave no label, or no other, to the rest."""
    of = np.unique(subject, return_inverse=True)[1]
    fold = np.random.default_rng(0).permutation(of.max() + 1)[of] % _FOLDS

    def loss(kind: str) -> float:
        probability = np.empty(len(score))
        for out in (fold == k for k in np.unique(fold)):
            probability[out] = fit_calibration(kind, score[~out], label[~out], weight[~out]).probability(score[out])
        return _cross_entropy(logit(probability), label, weight)

    return min(_SIMPLEST_FIRST, key=loss)


def _cross_entropy(score: np.ndarray, target: np.ndarray, weight: np.ndarray) -> float:
    return float(np.average(np.logaddexp(0, score) - target * score, weights=weight))


def _both_ends(score: np.ndarray) -> np.ndarray:
    """(W, 2): log p and -log(1 - p) of log odds, both rising."""
    return np.column_stack([-np.logaddexp(0, -score), np.logaddexp(0, score)])


def _slopes(x: np.ndarray, label: np.ndarray, weight: np.ndarray) -> tuple[float, ...]:
    """(K slopes, intercept) of a logistic regression on x (W, K), no slope below 0: the largest likelihood with Platt's
    softened targets, (n1 + 1) / (n1 + 2) and 1 / (n0 + 2)."""
    events, others = label.sum(), len(label) - label.sum()
    target = np.where(label == 1, (events + 1) / (events + 2), 1 / (others + 2))
    spread = x.std(0)
    unit = np.where(spread > 1e-9, spread, 1.0)  # well conditioned whatever the score's spread, and where it has none
    x = np.column_stack([x / unit, np.ones(len(x))])

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        score = x @ parameters
        return _cross_entropy(score, target, weight), ((expit(score) - target) * weight / weight.sum()) @ x

    k = len(unit)
    begin, bounds = (1.0 / k,) * k + (0.0,), ((0, None),) * k + ((None, None),)
    from scipy.optimize import minimize

    fit = minimize(loss, begin, jac=True, method="L-BFGS-B", bounds=bounds).x
    return (*map(float, fit[:k] / unit), float(fit[k]))


def _isotonic(score: np.ndarray, label: np.ndarray, weight: np.ndarray) -> Calibration:
    order = np.argsort(score, kind="stable")
    at, group = np.unique(score[order], return_inverse=True)
    n = np.bincount(group, weight[order])
    from scipy.optimize import isotonic_regression

    fitted = isotonic_regression(np.bincount(group, weight[order] * label[order]) / n, weights=n).x
    edge = np.flatnonzero(np.diff(fitted, prepend=-1.0) != 0)  # a plateau is held by its two ends
    kept = np.unique(np.concatenate([edge, np.maximum(edge - 1, 0), [len(at) - 1]]))
    if len(kept) > _KNOTS:
        kept = kept[np.unique(np.linspace(0, len(kept) - 1, _KNOTS).round().astype(int))]
    return Calibration("isotonic", tuple(map(float, fitted[kept])), tuple(map(float, at[kept])))


@dataclass(frozen=True)
class Decision:
    """What becomes of a window's log odds: `vote` windows of a case vote together, the vote is calibrated, and above
    `threshold` it is an alarm.

    soft: the mean probability votes · hard: the share of windows whose log odds exceed `window_threshold`.
    """

    vote: int
    voting: Literal["soft", "hard"]
    window_threshold: float
    calibration: Calibration
    threshold: float

    def probability(self, score: np.ndarray, case: np.ndarray) -> np.ndarray:
        """(W,): calibrated, of windows in the order of time within each `case` (W,), which lie together."""
        return self.calibration.probability(self.voted(score, case))

    def voted(self, score: np.ndarray, case: np.ndarray) -> np.ndarray:
        """(W,) log odds of the vote of each window and those before it."""
        if self.vote == 1:
            return score
        if self.voting == "soft":
            return logit(np.clip(_rolling_mean(expit(score), case, self.vote), EXTREME, 1 - EXTREME))
        share = _rolling_mean((score > self.window_threshold).astype(np.float64), case, self.vote)
        return logit((share * self.vote + 0.5) / (self.vote + 1))  # no vote is unanimous enough for certainty

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    @staticmethod
    def read(path: Path) -> "Decision":
        """Raises ValueError for a file that is absent or holds something else."""
        try:
            raw = read_json(path)
            how = raw.pop("calibration")
            how |= {name: tuple(how[name]) for name in ("parameters", "at")}
            return Decision(**raw, calibration=Calibration(**how))
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise CheckpointError(f"{path}: no decision of a classifier ({error}); copy the run again") from None


@dataclass(frozen=True)
class JoinedDecisions:
    """Decisions of several models, each for its own windows: `sizes` of them, one after the other."""

    decisions: tuple[Decision, ...]
    sizes: tuple[int, ...]

    @property
    def threshold(self) -> np.ndarray:
        """(W,): of each window's own model."""
        return np.repeat([decision.threshold for decision in self.decisions], self.sizes)

    def probability(self, score: np.ndarray, case: np.ndarray) -> np.ndarray:
        """(W,): as each window's own model calibrates it."""
        ends = np.cumsum(self.sizes)[:-1]
        own = zip(self.decisions, np.split(score, ends), np.split(case, ends), strict=True)
        return np.concatenate([decision.probability(s, c) for decision, s, c in own])


class Decided(NamedTuple):
    """Predictions of a model, or of several that each predicted their own people, and what becomes of their log odds
    (None of regress)."""

    predictions: LabelPredictions
    decision: Decision | JoinedDecisions | None


def joined(pieces: Sequence[Decided]) -> Decided:
    """Predictions of several models, each of its own people, as those of one."""
    if len(pieces) == 1:
        return pieces[0]
    predictions = LabelPredictions.concat([p for p, _ in pieces])
    decisions = tuple(decision for _, decision in pieces if decision is not None)
    sizes = tuple(len(p) for p, _ in pieces)
    return Decided(predictions, JoinedDecisions(decisions, sizes) if decisions else None)


def fit_decision(task: Classification, val: LabelPredictions) -> Decision:
    """Calibration and thresholds from validation windows. Raises ValueError where all their labels are the same."""
    window_threshold = threshold_at(val.score, val.label, val.weight, task.specificity)
    raw = Decision(task.vote, task.voting, window_threshold, Calibration("none"), 0.5)
    score = raw.voted(val.score, val.case)
    kind = task.calibration
    if kind == "chosen":
        kind = choose_calibration(score, val.label, val.weight, val.subject)
    calibration = fit_calibration(kind, score, val.label, val.weight)
    threshold = threshold_at(calibration.probability(score), val.label, val.weight, task.specificity)
    return Decision(task.vote, task.voting, window_threshold, calibration, threshold)


def threshold_at(score: np.ndarray, label: np.ndarray, weight: np.ndarray, specificity: float) -> float:
    """The smallest score of a window without the label that at least that share of them does not exceed. Raises
    ValueError where every window has the label."""
    without = label == 0
    if not without.any():
        raise ValueError("every validation window has the label: no threshold keeps a specificity; take more subjects")
    order = np.argsort(score[without], kind="stable")
    share = np.cumsum(weight[without][order])
    at = np.searchsorted(share, specificity * share[-1] * (1 - 1e-12))
    return float(score[without][order][at])


def _rolling_mean(values: np.ndarray, case: np.ndarray, n: int) -> np.ndarray:
    """Mean of each value and the up to n - 1 before it of the same case."""
    begin = _begin_of_case(case)
    first = np.maximum(np.arange(len(values)) - n + 1, begin)
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    at = np.arange(len(values))
    return (total[at + 1] - total[first]) / (at + 1 - first)


def _begin_of_case(case: np.ndarray) -> np.ndarray:
    """(W,) index of the first window of each window's case."""
    new = np.concatenate([[True], case[1:] != case[:-1]])[: len(case)]
    return np.maximum.accumulate(np.where(new, np.arange(len(case)), 0))
