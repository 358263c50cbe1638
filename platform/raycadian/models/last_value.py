"""The last value of a channel: what every network for a label has to beat."""

import numpy as np
import torch
from torch import Tensor

from raycadian import config
from raycadian.models.base import ModelSpec, TrainingWindows, spaced
from raycadian.models.label import OneLabelModel, weights_of
from raycadian.types import Batch

_SAMPLE = 2**18  # windows that fit it


class LastValue(OneLabelModel):
    """The mean of a channel over the last seconds that were measured: regress gives it as it is, classify puts it
    through a logistic regression, fitted in closed form. Of a window without any it takes the training mean."""

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
        return self.link.from_value(self, last, self.slope, self.constant)

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
        slope, constant = self.link.fit_value(self, last[known], label[known], weight[known])
        self.slope.fill_(slope)
        self.constant.fill_(constant)
