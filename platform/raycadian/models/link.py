"""What the score of a label's model is: a log odds (classify), or standard deviations about the mean label (regress).

A score's unit decides its loss, its way back to the label's unit, and how closed forms are fitted. `LINKS` is looked up
once, by the task of a model's spec. Shapes (B,) or (B, labels).
"""

from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from raycadian.models import logistic

SCORE_BINS = 1024  # of the probability, for the area under the ROC curve while training


class LabelStatistics(Protocol):
    """Of the training labels, () or (labels,): what a model of them keeps in its buffers."""

    positive_weight: Tensor
    label_mean: Tensor
    label_sd: Tensor


class LogOdds:
    """Scores are log odds, trained by the cross entropy in which, if the spec says balanced, windows with the label
    weigh `positive_weight` times as much; the prediction takes that weight back, so that its odds are those of the
    training data (Elkan, The foundations of cost-sensitive learning, IJCAI 2001, theorem 2)."""

    logistic = True
    """Whether a linear model of scores is fitted by the cross entropy, or by least squares."""
    objective = "binary:logistic"
    """XGBoost's name of the loss."""

    def fit(self, statistics: LabelStatistics, mean: Tensor, sd: Tensor, balanced: bool) -> None:
        """Fill the buffers from the mean and standard deviation of the training labels."""
        if balanced:
            statistics.positive_weight.copy_((1 - mean) / mean)

    def in_unit(self, statistics: LabelStatistics, score: Tensor) -> Tensor:
        """What is predicted: a log odds of the training data's, or the label's own unit."""
        return score - statistics.positive_weight.log()

    def each_loss(self, statistics: LabelStatistics, score: Tensor, label: Tensor) -> Tensor:
        """As label: of a score, which is in its own unit."""
        weight = statistics.positive_weight.to(score.dtype)
        return F.binary_cross_entropy_with_logits(score, label, reduction="none", pos_weight=weight)

    def to_label(self, prediction: Tensor) -> Tensor:
        """What can be held against a label: a probability, or a number in its unit."""
        return torch.sigmoid(prediction)

    def from_label(self, statistics: LabelStatistics, label: Tensor) -> Tensor:
        """What a closed form is fitted to."""
        return label

    def row_weights(self, statistics: LabelStatistics, label: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """(N,) weights of the rows of a closed form, from label and weight (N,)."""
        return np.where(label == 1, statistics.positive_weight.item(), 1.0) * weight

    def from_value(self, statistics: LabelStatistics, value: Tensor, slope: Tensor, constant: Tensor) -> Tensor:
        """The score that one measured value gives, by what `fit_value` found."""
        return constant + slope * value

    def fit_value(
        self, statistics: LabelStatistics, value: np.ndarray, label: np.ndarray, weight: np.ndarray
    ) -> tuple[float, float]:
        """(slope, constant) of the score of one measured value, from rows (N,)."""
        weight = self.row_weights(statistics, label, weight)
        (slope,), constant = logistic.fit(value[:, None], label, logistic=True, weight=weight)
        return slope, constant

    def diagnostics(self, value: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Beside the errors that all have, of `to_label` and label (B,): ranks (2, SCORE_BINS), how many windows
        without and with the label have a probability in each bin; windows of unknown label count nowhere."""
        place = (value * SCORE_BINS).long().clamp(0, SCORE_BINS - 1)
        known = (~torch.isnan(label)).to(torch.float32)
        positive = torch.nan_to_num(label).to(torch.float32)
        counts = torch.zeros(2, SCORE_BINS, device=value.device)
        counts[0].index_add_(0, place, known * (1 - positive))
        counts[1].index_add_(0, place, known * positive)
        return {"ranks": counts}


class Standardised:
    """Scores are standard deviations about the mean training label, trained by the mean squared error. Methods as those
    of `LogOdds`."""

    logistic = False
    objective = "reg:squarederror"

    def fit(self, statistics: LabelStatistics, mean: Tensor, sd: Tensor, balanced: bool) -> None:
        statistics.label_mean.copy_(mean)
        statistics.label_sd.copy_(sd)

    def in_unit(self, statistics: LabelStatistics, score: Tensor) -> Tensor:
        return statistics.label_mean + statistics.label_sd * score

    def each_loss(self, statistics: LabelStatistics, score: Tensor, label: Tensor) -> Tensor:
        return (score - self.from_label(statistics, label)).square()

    def to_label(self, prediction: Tensor) -> Tensor:
        return prediction

    def from_label(self, statistics: LabelStatistics, label: Tensor) -> Tensor:
        return (label - statistics.label_mean) / statistics.label_sd

    def row_weights(self, statistics: LabelStatistics, label: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return weight

    def from_value(self, statistics: LabelStatistics, value: Tensor, slope: Tensor, constant: Tensor) -> Tensor:
        return self.from_label(statistics, value)

    def fit_value(
        self, statistics: LabelStatistics, value: np.ndarray, label: np.ndarray, weight: np.ndarray
    ) -> tuple[float, float]:
        return 0.0, 0.0  # the value is the forecast as it is

    def diagnostics(self, value: Tensor, label: Tensor) -> dict[str, Tensor]:
        return {}


Link = LogOdds | Standardised
LINKS: dict[str, Link] = {"classify": LogOdds(), "regress": Standardised()}
