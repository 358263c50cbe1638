"""A small network on the latest changes of glucose: strong on short recordings, fast on any."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycadian import config
from raycadian.models.base import ModelSpec, TrainingWindows, spaced
from raycadian.models.heads import Headed, QuantileOffsets, Quantiles, StudentT, around
from raycadian.types import Batch

_SAMPLE = 65536  # windows that give the scales
_TINY_MGDL = 1e-3  # scale of what doesn't vary


class MLP(Headed):
    """last value + unit * (linear(x) + network(x)), x the last `lags` changes and the level, each scaled.

    The linear path is an autoregression; the network adds what that can't say. `unit` (H,) is the root mean square of
    the change from the origin to each step in training windows, so that every step weighs alike in the network's terms.
    `hour`: sine and cosine of the hour at the origin and of twice that enter too.
    """

    level: Tensor
    change_mgdl: Tensor
    unit_mgdl: Tensor

    def __init__(self, spec: ModelSpec, section: config.MLP):
        super().__init__(spec, section)
        if section.lags >= spec.context:
            raise ValueError(
                f"mlp.lags {section.lags} changes need {section.lags + 1} points; the context has {spec.context}; "
                "lower lags"
            )
        outputs = len(spec.quantiles) if section.head == "quantiles" else 2
        size = section.lags + 1 + 4 * section.hour
        widths = [size, *[section.hidden] * section.layers]
        blocks = [
            nn.Sequential(nn.Linear(a, b), nn.GELU(), nn.Dropout(section.dropout))
            for a, b in itertools.pairwise(widths)
        ]
        self.backbone = nn.Sequential(*blocks)
        self.head = nn.Linear(section.hidden, spec.horizon * outputs)
        self.linear = nn.Linear(size, spec.horizon)
        self.tails = QuantileOffsets(spec) if section.head == "student_t" else None
        self.register_buffer("level", torch.tensor([0.0, 1.0]))  # mean and standard deviation, mg/dL
        self.register_buffer("change_mgdl", torch.ones(()))
        self.register_buffer("unit_mgdl", torch.ones(spec.horizon))

    def distribution(self, batch: Batch) -> Quantiles | StudentT:
        x, last = self._features(batch)
        raw = self.head(self.backbone(x)).unflatten(1, (self.spec.horizon, -1)).to(last.dtype)
        median = last + (raw[..., 0] + self.linear(x).to(last.dtype)) * self.unit_mgdl
        if self.tails is not None:
            return self.tails(median, raw[..., 1], self.unit_mgdl)
        steps = F.softplus(raw[..., 1:]) * self.unit_mgdl.unsqueeze(-1)
        return Quantiles(around(median, steps, self.spec.middle), self.levels)

    def _features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """x (B, size), scaled, and the last value (B, 1) mg/dL."""
        recent = batch["past"][:, -self.config.lags - 1 :, 0].to(self.unit_mgdl.dtype)
        last = recent[:, -1:]
        level = (last - self.level[0]) / self.level[1]
        if self.training and self.config.level_noise:
            level = level + self.config.level_noise * torch.randn_like(level)
        columns = [recent.diff(dim=1) / self.change_mgdl, level]
        if self.config.hour:
            angle = (batch["local_h"].to(last.dtype) * (2 * math.pi / 24))[:, None]
            columns += [angle.sin(), angle.cos(), (2 * angle).sin(), (2 * angle).cos()]
        return torch.cat(columns, dim=1), last

    @torch.no_grad()
    def fit_statistics(self, windows: TrainingWindows) -> None:
        parts = [(b["past"][:, -self.config.lags - 1 :, 0], b["target"]) for b in spaced(windows, _SAMPLE)]
        recent, target = (torch.cat(part).double() for part in zip(*parts, strict=True))
        last = recent[:, -1]
        self.level.copy_(torch.stack([last.mean(), last.std(correction=0).clamp(min=_TINY_MGDL)]))
        self.change_mgdl.copy_(recent.diff(dim=1).square().mean().sqrt().clamp(min=_TINY_MGDL))
        moved = (target - last[:, None]).square().nanmean(0).sqrt()
        self.unit_mgdl.copy_(moved.nan_to_num(1.0).clamp(min=_TINY_MGDL))
