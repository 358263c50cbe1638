"""Linear models of a label on variables made by hand: what a network has to beat."""

import torch
from torch import Tensor

from raycadian import config
from raycadian.models import features, logistic
from raycadian.models.base import ModelSpec, TrainingWindows, spaced
from raycadian.models.label import OneLabelModel, weights_of
from raycadian.types import Batch

_SAMPLE = 65536  # training windows that it is fitted to


class Statistics(OneLabelModel):
    """Logistic regression (classify) or least squares (regress) on features.py's variables, fitted to convergence in
    `fit_statistics`, whatever the recipe says of training. A variable that a window lacks is at its training mean."""

    center: Tensor
    weight: Tensor
    constant: Tensor

    def __init__(self, spec: ModelSpec, section: config.Statistics):
        super().__init__(spec, section)
        size = len(features.names(section.features, spec))
        self.register_buffer("center", torch.zeros(size))
        self.register_buffer("weight", torch.zeros(size))
        self.register_buffer("constant", torch.zeros(()))

    def score(self, batch: Batch) -> Tensor:
        # not a matrix product: autocast would round that to bfloat16
        return self.constant + (self._variables(batch) * self.weight).sum(1)

    def _variables(self, batch: Batch) -> Tensor:
        """(B, F), about the training means."""
        batch = {**batch, "past": batch["past"].to(self.center.dtype)}
        return torch.nan_to_num(features.compute(self.config.features, batch, self.spec) - self.center)

    @torch.no_grad()
    def fit_statistics(self, windows: TrainingWindows) -> None:
        super().fit_statistics(windows)
        parts = [
            (features.compute(self.config.features, b, self.spec), b["label"], weights_of(b))
            for b in spaced(windows, _SAMPLE)
        ]
        variables, label, weight = (torch.cat(part).double() for part in zip(*parts, strict=True))
        known = ~label.isnan()
        variables, label, weight = variables[known], label[known], weight[known].numpy()
        mean = variables.nanmean(0).nan_to_num()
        x = torch.nan_to_num(variables - mean).numpy()
        weight = self.link.row_weights(self, label.numpy(), weight)
        wanted = self.link.from_label(self, label).numpy()
        slope, constant = logistic.fit(x, wanted, logistic=self.link.logistic, weight=weight)
        self.center.copy_(mean)
        self.weight.copy_(torch.from_numpy(slope))
        self.constant.fill_(constant)
