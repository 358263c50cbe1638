"""A network on variables made by hand: one hidden layer that all labels share, and a head for each."""

import torch
from torch import Tensor, nn

from raycadian import config
from raycadian.models import features
from raycadian.models.base import ModelSpec, TrainingWindows, spaced
from raycadian.models.label import LabelModel
from raycadian.types import Batch

_SAMPLE = 65536  # training windows that say how variables vary


class FeatureNet(LabelModel):
    """features.py's variables, standardised by training windows, those that a window lacks at their mean -> Linear,
    GELU, dropout -> Linear to every label."""

    centre: Tensor
    spread: Tensor

    def __init__(self, spec: ModelSpec, section: config.FeatureNet):
        super().__init__(spec, section)
        size = len(features.names(section.features, spec))
        self.register_buffer("centre", torch.zeros(size))
        self.register_buffer("spread", torch.ones(size))
        self.backbone = nn.Sequential(nn.Linear(size, section.hidden), nn.GELU(), nn.Dropout(section.dropout))
        self.head = nn.Linear(section.hidden, spec.labels)

    def score(self, batch: Batch) -> Tensor:
        batch = {**batch, "past": batch["past"].to(self.centre.dtype)}
        variables = features.compute(self.config.features, batch, self.spec)
        standard = torch.nan_to_num((variables - self.centre) / self.spread)
        return self.head(self.backbone(standard)).view(-1, *self.spec.label_shape)

    @torch.no_grad()
    def fit_statistics(self, windows: TrainingWindows) -> None:
        super().fit_statistics(windows)
        batches = spaced(windows, _SAMPLE)
        variables = torch.cat([features.compute(self.config.features, batch, self.spec) for batch in batches]).double()
        mean = variables.nanmean(0).nan_to_num()
        sd = (variables - mean).square().nanmean(0).nan_to_num().sqrt()
        self.centre.copy_(mean)
        self.spread.copy_(torch.where(sd > 1e-6 * (1 + mean.abs()), sd, 1.0))
