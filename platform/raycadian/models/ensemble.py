"""Several models side by side, as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raycadian.config import Ensemble as EnsembleConfig
from raycadian.models.base import Model, Spec, TrainingWindows
from raycadian.types import Batch, Prediction


class Ensemble(Model):
    """The mean of the members' quantiles, widened by how far their medians are apart (Lakshminarayanan et al. 2017).

    A mixture's variance is the mean of the members' variances plus the variance of their medians, s^2. So with z_q the
    standard normal's quantile each quantile's distance o_q from the median becomes sqrt(o_q^2 + (z_q s)^2), which is
    exact to the second moment for normal members of one width. The median is the mean of the medians. Members have their
    own weights: the mean of their losses trains each as alone, but that `clip_norm` bounds all gradients together.
    Parts that all members have are averaged, and so still add up.
    """

    normal: Tensor

    def __init__(self, spec: Spec, config: EnsembleConfig, members: Sequence[Model]):
        super().__init__(spec, config)
        self.members = nn.ModuleList(members)
        normal = torch.special.ndtri(torch.tensor(spec.quantiles, dtype=torch.float64))
        self.register_buffer("normal", normal.float(), persistent=False)

    def forward(self, batch: Batch) -> Prediction:
        return self._joined([member(batch) for member in self.members])

    def learn(self, batch: Batch) -> tuple[Prediction, Tensor]:
        found, losses = zip(*(member.learn(batch) for member in self.members), strict=True)
        return self._joined(found), torch.stack(losses).mean()

    def _joined(self, found: Sequence[Prediction]) -> Prediction:
        quantiles = torch.stack([one.quantiles for one in found])  # (members, B, H, Q)
        medians = quantiles[..., self.spec.middle]
        mean, median = quantiles.mean(0), medians.mean(0).unsqueeze(-1)
        apart = medians.var(0, correction=0).unsqueeze(-1) * self.normal.square()
        offset = ((mean - median).square() + apart).sqrt() * self.normal.sign()
        names = set.intersection(*(set(one.parts) for one in found))
        parts = {name: torch.stack([one.parts[name] for one in found]).mean(0) for name in sorted(names)}
        return Prediction(median + offset, parts)

    def prepare(self, windows: TrainingWindows) -> None:
        for member in self.members:
            member.prepare(windows)

    def calibrate(self, windows: TrainingWindows) -> None:
        for member in self.members:
            member.calibrate(windows)
