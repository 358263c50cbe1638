"""Several models side by side, as one."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from raycadian import config
from raycadian.models.base import Builder, Forecaster, ModelSpec, TrainingWindows, spaced, trainable_parameters
from raycadian.types import Batch, Prediction

_SAMPLE = 65536  # windows that weights are chosen on
_DRAW = 0.1
_SUM = 1e3


class Ensemble(Forecaster):
    """The mean of the members' quantiles, widened by how far their medians are apart (Lakshminarayanan et al. 2017).

    A mixture's variance is the mean of the members' variances plus the variance of their medians, s^2. So with z_q the
    standard normal's quantile each quantile's distance o_q from the median becomes sqrt(o_q^2 + (z_q s)^2), which is
    exact to the second moment for normal members of one width. The median is the mean of the medians. Members have
    their own weights: the mean of their losses trains each as alone, but that `clip_norm` bounds all gradients
    together. Parts that all members have are averaged, and so still add up. `weights: validation`: every mean is a
    weighted one.
    """

    normal: Tensor
    share: Tensor

    def __init__(self, spec: ModelSpec, section: config.Ensemble, members: Sequence[Forecaster]):
        super().__init__(spec, section)
        self.members = nn.ModuleList(members)
        normal = torch.special.ndtri(torch.tensor(spec.quantiles, dtype=torch.float64))
        self.register_buffer("normal", normal.float(), persistent=False)
        self.register_buffer("share", self._first_shares())

    @classmethod
    def build(cls, section: config.Ensemble, spec: ModelSpec, builder: Builder) -> Self:
        return cls(spec, section, [builder.build(member, spec) for member in section.members * section.size])

    def _first_shares(self) -> Tensor:
        """Equal ones; where validation data will choose, equal over the members that train: beside one that doesn't
        they would seem to do well for longer, and training would end too late."""
        counts = torch.ones(len(self.members))
        if self.config.weights == "validation":
            trains = torch.tensor([trainable_parameters(m) > 0 for m in self.members])
            counts = trains.float() if trains.any() else counts
        return counts / counts.sum()

    def forward(self, batch: Batch) -> Prediction:
        return self._joined([member(batch) for member in self.members])

    def forward_loss(self, batch: Batch) -> tuple[Prediction, Tensor]:
        predictions, losses = zip(*(member.forward_loss(batch) for member in self.members), strict=True)
        return self._joined(predictions), torch.stack(losses).mean()

    def _joined(self, predictions: Sequence[Prediction]) -> Prediction:
        quantiles = torch.stack([prediction.quantiles for prediction in predictions])  # (members, B, H, Q)
        medians = quantiles[..., self.spec.middle]
        mean, median = self._mean(quantiles), self._mean(medians).unsqueeze(-1)
        apart = self._mean((medians.unsqueeze(-1) - median).square()) * self.normal.square()
        offset = ((mean - median).square() + apart).sqrt() * self.normal.sign()
        names = sorted(set.intersection(*(set(prediction.parts) for prediction in predictions)))
        parts = {name: self._mean(torch.stack([one.parts[name] for one in predictions])) for name in names}
        return Prediction(median + offset, parts)

    def _mean(self, values: Tensor) -> Tensor:
        """(members, ...) -> (...)."""
        return torch.einsum("m...,m->...", values, self.share.to(values.dtype))

    def fit_statistics(self, windows: TrainingWindows) -> None:
        for member in self.members:
            member.fit_statistics(windows)

    def calibrate(self, windows: TrainingWindows) -> None:
        for member in self.members:
            member.calibrate(windows)
        if self.config.weights == "validation":
            self.share.copy_(torch.from_numpy(best_shares(self._errors(windows))))

    @torch.no_grad()
    def _errors(self, windows: TrainingWindows) -> np.ndarray:
        """(N, members) mg/dL: of the members' medians, where the target was measured."""
        errors = []
        for batch in spaced(windows, _SAMPLE):
            seen = ~torch.isnan(batch["target"])
            medians = [member(batch).quantiles[..., self.spec.middle] for member in self.members]
            errors.append(torch.stack([(m - batch["target"])[seen] for m in medians], dim=1))
        return torch.cat(errors).double().numpy()


def best_shares(errors: np.ndarray) -> np.ndarray:
    """(M,) shares >= 0 that add up to 1, from errors (N, M): those of the least mean squared error, drawn towards
    equal.

    Stacking (Breiman, Machine Learning 24:49, 1996) as least squares without negative weights. Validation errors of
    neighbouring windows are alike, so that the best shares are noisy: _DRAW of the mean squared error is charged for a
    squared distance of 1 from equal shares. Raises ValueError where no error is known.
    """
    if not len(errors):
        raise ValueError("ensemble: no validation window has a measured target to choose weights on")
    members, square = errors.shape[1], (errors**2).mean()
    rows = [
        errors / np.sqrt(len(errors) * square),
        np.sqrt(_DRAW) * np.eye(members),
        np.full((1, members), _SUM),  # the shares add up to 1
    ]
    wanted = [np.zeros(len(errors)), np.full(members, np.sqrt(_DRAW) / members), [_SUM]]
    from scipy.optimize import nnls  # here: it takes half a second

    shares, _ = nnls(np.concatenate(rows), np.concatenate(wanted))
    return shares / shares.sum()
