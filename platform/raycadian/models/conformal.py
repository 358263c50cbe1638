"""Split conformal prediction: quantiles moved to where they belong on data that training has not seen."""

import numpy as np
import torch
from torch import Tensor

from raycadian import config
from raycadian.models.base import Forecaster, ModelSpec, TrainingWindows, Wrapper, spaced
from raycadian.types import Batch, Prediction

_SAMPLE = 65536  # windows that are enough for any quantile


class Conformal(Wrapper):
    """Each quantile moves by one offset a step, found on validation windows; the median stays.

    Conformalised quantile regression with a bound for each tail (Romano, Patterson and Candes 2019, theorem 2): the
    score of level q is y - quantile_q, and its conformal q-quantile is added, so that a share q of new values lies
    below. An interval between levels 0.05 and 0.95 then covers 90% of them, if they are exchangeable with the
    validation windows.

    Subjects, not windows, are exchangeable: whoever comes next is one more person, however long others wore the sensor.
    So every subject has the same weight at each step, shared evenly by his windows. That new people are like those of
    the validation takes that the model saw neither: `folds` sees to it (training/crossfit.py), or `split.kind` subject
    or kfold; the last days of those who were trained on say too little of strangers (benchmarks/coverage.py).
    """

    offset_mgdl: Tensor

    def __init__(self, spec: ModelSpec, section: config.Conformal, inner: Forecaster):
        super().__init__(spec, section, inner)
        self.register_buffer("offset_mgdl", torch.zeros(spec.horizon, len(spec.quantiles)))

    def restore(self, prediction: Prediction, batch: Batch) -> Prediction:
        moved = prediction.quantiles + self.offset_mgdl
        middle, median = self.spec.middle, prediction.quantiles[..., self.spec.middle, None]
        # outwards from the median, so that none crosses another
        below = torch.minimum(moved[..., :middle], median).flip(-1).cummin(-1).values.flip(-1)
        above = torch.maximum(moved[..., middle + 1 :], median).cummax(-1).values
        return Prediction(torch.cat([below, median, above], dim=-1), prediction.parts)

    def calibrate(self, windows: TrainingWindows) -> None:
        super().calibrate(windows)
        if not self.config.folds:  # else training/crossfit.py has more to go by
            self.place(*scores(self.inner, windows))

    def place(self, scores: np.ndarray, subject: np.ndarray) -> None:
        """Set the offsets from scores (W, H, Q) of windows of subject (W,). Raises ValueError of too few."""
        offset = conformal_offsets(scores, subject, self.spec.quantiles)
        offset[:, self.spec.middle] = 0.0
        self.offset_mgdl.copy_(torch.from_numpy(offset))


@torch.no_grad()
def scores(model: Forecaster, windows: TrainingWindows) -> tuple[np.ndarray, np.ndarray]:
    """y - quantile, (W, H, Q) mg/dL, NaN where no truth, and the subject of each window (W,)."""
    errors, subject = [], []
    for batch in spaced(windows, _SAMPLE):
        errors.append((batch["target"].unsqueeze(-1) - model(batch).quantiles).numpy())
        subject.append(batch["subject"].numpy())
    return np.concatenate(errors), np.concatenate(subject)


def conformal_offsets(scores: np.ndarray, subject: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """The conformal quantile of scores (W, H, Q), NaN = missing, at each step and level, (H, Q). subject (W,).

    Of n values the smallest that at least q (n + 1) of them reach above the median, and its mirror image below it; n
    counts as many values as there are, each weighted so that the subjects' shares are equal. Raises ValueError where a
    step has too few values for a level.
    """
    offsets = np.empty(scores.shape[1:])
    for h in range(scores.shape[1]):
        seen = ~np.isnan(scores[:, h, 0])
        _, owner, count = np.unique(subject[seen], return_inverse=True, return_counts=True)
        weight = 1.0 / count[owner]
        for k, level in enumerate(levels):
            offsets[h, k] = _conformal_quantile(scores[seen, h, k], weight, level, h)
    return offsets


def _conformal_quantile(score: np.ndarray, weight: np.ndarray, level: float, step: int) -> float:
    sign = 1.0 if level >= 0.5 else -1.0  # below the median the mirror image: outwards in both tails
    order = np.argsort(sign * score)
    share = np.cumsum(weight[order]) / weight.sum() if len(order) else np.empty(0)
    reached = np.searchsorted(share, max(level, 1 - level) * (1 + 1 / max(len(order), 1)) - 1e-12)
    if reached >= len(order):
        raise ValueError(
            f"conformal: {len(order)} validation values at horizon step {step + 1} can't place the quantile {level:g}; "
            "bring more validation data or ask for less extreme quantiles"
        )
    return float(score[order[reached]])
