"""What a network for a label has to beat: the last value, and boosted trees. Logistic regression is in statistics.py."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from raycadian import config
from raycadian.models import features, logistic
from raycadian.models.base import LabelModel, ModelSpec, TrainingWindows, mean_over_valid, spaced, weights_of
from raycadian.models.trees import Trees
from raycadian.types import Batch

_SAMPLE = 2**18  # windows that fit it


class LastValue(LabelModel):
    """The mean of a channel over the last seconds that were measured: regress gives it as it is, classify puts it through a
    logistic regression, fitted by `prepare`. Of a window without any it takes the training mean."""

    slope: Tensor
    constant: Tensor
    usual: Tensor

    def __init__(self, spec: ModelSpec, section: config.LastValue):
        super().__init__(spec, section)
        if section.channel not in spec.past:
            raise ValueError(f"last.channel {section.channel!r} is none of the past channels {list(spec.past)}")
        self.place = spec.past.index(section.channel)
        self.points = min(max(round(section.over_s / (60 * spec.dt_min)), 1), spec.context)
        for name in ("slope", "constant", "usual"):
            self.register_buffer(name, torch.zeros(()))

    def score(self, batch: Batch) -> Tensor:
        last = self._last(batch)
        last = torch.where(last.isnan(), self.usual, last)
        if self.spec.task == "regress":
            return (last - self.label_mean) / self.label_sd
        return self.constant + self.slope * last

    def _last(self, batch: Batch) -> Tensor:
        """(B,), NaN where nothing was measured."""
        value, seen = (batch[name][:, -self.points :, self.place] for name in ("past", "past_mask"))
        return torch.where(seen, value, torch.nan).nanmean(1).to(self.slope.dtype)

    @torch.no_grad()
    def fit_statistics(self, windows: TrainingWindows) -> None:
        super().fit_statistics(windows)
        parts = [(self._last(batch), batch["label"], weights_of(batch)) for batch in spaced(windows, _SAMPLE)]
        last, label, weight = (torch.cat(part).double().numpy() for part in zip(*parts, strict=True))
        known = ~np.isnan(last) & ~np.isnan(label)
        if not known.any():
            raise ValueError(f"no training window ends with a measured {self.config.channel}; take another channel")
        self.usual.fill_(last[known].mean())
        if self.spec.task == "classify":
            weight = np.where(label[known] == 1, self.positive_weight.item(), 1.0) * weight[known]
            (slope,), constant = logistic.fit(last[known, None], label[known], logistic=True, weight=weight)
            self.slope.fill_(slope)
            self.constant.fill_(constant)


class Boosting(LabelModel):
    """Trees on features.py's variables, grown by `prepare`; `calibrate` keeps as many as do best on validation windows."""

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
        if self.spec.task == "regress":
            label = (label - self.label_mean) / self.label_sd
        section: config.Boosting = self.config
        self.trees.grow(
            variables[known].numpy(), label[known].double().numpy(), weight[known].double().numpy(), lr=section.lr, l2=section.l2,
            objective="binary:logistic" if self.spec.task == "classify" else "reg:squarederror",
            min_weight=section.min_weight, positive_weight=self.positive_weight.item(),
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
