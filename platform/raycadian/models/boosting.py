"""Gradient-boosted trees of a label, on variables made by hand."""

import torch
from torch import Tensor

from raycadian import config
from raycadian.models import features
from raycadian.models.base import ModelSpec, TrainingWindows, mean_over_valid, spaced
from raycadian.models.label import OneLabelModel, weights_of
from raycadian.models.trees import Trees
from raycadian.types import Batch

_SAMPLE = 2**18  # windows that fit it


class Boosting(OneLabelModel):
    """Trees on features.py's variables, grown in `fit_statistics`; `calibrate` keeps as many as do best on validation
    windows."""

    def __init__(self, spec: ModelSpec, section: config.Boosting):
        super().__init__(spec, section)
        self.names = features.names(section.features, spec)
        self.trees = Trees(section.trees, section.depth)

    def score(self, batch: Batch) -> Tensor:
        return self.trees(self._variables(batch))

    def _variables(self, batch: Batch) -> Tensor:
        """(B, F), NaN = missing."""
        batch = {**batch, "past": batch["past"].to(self.trees.value.dtype)}
        return features.compute(self.config.features, batch, self.spec)

    @torch.no_grad()
    def fit_statistics(self, windows: TrainingWindows) -> None:
        super().fit_statistics(windows)
        parts = [(self._variables(batch), batch["label"], weights_of(batch)) for batch in spaced(windows, _SAMPLE)]
        variables, label, weight = (torch.cat(part) for part in zip(*parts, strict=True))
        known = ~label.isnan()
        label = self.link.from_label(self, label)
        section: config.Boosting = self.config
        self.trees.grow(
            variables[known].numpy(), label[known].double().numpy(), weight[known].double().numpy(),
            objective=self.link.objective, lr=section.lr, l2=section.l2, min_weight=section.min_weight,
            positive_weight=self.positive_weight.item(),
        )  # fmt: skip

    @torch.no_grad()
    def calibrate(self, windows: TrainingWindows) -> None:
        losses, count = torch.zeros(self.config.trees + 1, dtype=torch.float64), 0
        for batch in spaced(windows, _SAMPLE):
            leaves = self.trees.leaves(self._variables(batch)).double()  # (B, T)
            scores = self.trees.base + torch.cat([torch.zeros(len(leaves), 1), leaves.cumsum(1)], dim=1)
            known = int((~batch["label"].isnan()).sum())
            label, weight = batch["label"], weights_of(batch)
            each = [mean_over_valid(self.each_loss(score, label) * weight, label) for score in scores.T]
            losses += torch.stack(each) * known
            count += known
        if count:
            self.trees.keep(int(losses.argmin()))
