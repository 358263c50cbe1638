"""Variables made by hand from a window, for models that don't take the signal itself. (B, F), NaN = missing."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from raycadian.config import Features
from raycadian.models.base import Spec
from raycadian.types import Batch

PER_CHANNEL = ("mean", "sd", "5%", "25%", "median", "75%", "95%", "sd of the slope", "last second", "trend")
_RHYTHM = (
    "interdaily_stability", "intradaily_variability", "l5", "m10", "relative_amplitude", "mesor", "amplitude", "cosinor_r2",
)  # fmt: skip
_HOURS = ("l5_onset_h", "m10_onset_h", "acrophase_h")
_DAY = 1440  # minutes


def names(kind: Features, spec: Spec) -> tuple[str, ...]:
    """Of the columns. Raises ValueError where the windows don't have what they are made from."""
    if kind == "statistics":
        return tuple(f"{channel}: {name}" for name in PER_CHANNEL for channel in spec.past)
    if len(spec.past) != 1 or abs(spec.dt_min - 1) > 1e-9 or spec.context % _DAY:
        raise ValueError(
            f"features rhythm are made from whole days of one channel by the minute; found {list(spec.past)}, {spec.context} "
            f"points of {spec.dt_min:g} min; take features: statistics, or window_s a multiple of 86400 and dt_s: 60"
        )
    return (*_RHYTHM, *(f"{part} of {name}" for part in ("sine", "cosine") for name in _HOURS), "worn")


def compute(kind: Features, batch: Batch, spec: Spec) -> Tensor:
    """In the batch's floating-point type."""
    return _statistics(batch, spec) if kind == "statistics" else _rhythm(batch)


def _statistics(batch: Batch, spec: Spec) -> Tensor:
    """PER_CHANNEL of each channel; a statistic's channels stand together. NaN for a channel of which nothing was measured."""
    x = batch["past"]
    last = max(1, round(1 / (60 * spec.dt_min)))  # points of a second
    half = x.shape[1] // 2
    parts = [
        x.mean(1, keepdim=True), x.std(1, correction=0, keepdim=True), _quantiles(x, (0.05, 0.25, 0.5, 0.75, 0.95)),
        x.diff(dim=1).std(1, correction=0, keepdim=True), x[:, -last:].mean(1, keepdim=True),
        x[:, half:].mean(1, keepdim=True) - x[:, : max(half, 1)].mean(1, keepdim=True),
    ]  # fmt: skip
    found = torch.cat(parts, dim=1).flatten(1)
    return found.masked_fill(~batch["past_mask"].any(1).repeat(1, len(PER_CHANNEL)), torch.nan)


def _quantiles(x: Tensor, levels: tuple[float, ...]) -> Tensor:
    """(B, levels, C), interpolated linearly; torch's own refuses more than 16 million values."""
    place = torch.tensor(levels, dtype=x.dtype, device=x.device) * (x.shape[1] - 1)
    below, ordered = place.long(), x.sort(dim=1).values
    above = (below + 1).clamp(max=x.shape[1] - 1)
    return ordered[:, below].lerp(ordered[:, above], (place - below)[:, None].expand(-1, x.shape[2]))


def _rhythm(batch: Batch) -> Tensor:
    """physiology/circadian.py's indices of the days that the window has, in minutes that were worn; hours of the local
    clock as a point on a circle, since 23:50 is near 00:10."""
    from raycadian.physiology.circadian import rhythm

    past, worn = batch["past"][..., 0], batch["past_mask"][..., 0]
    days = torch.where(worn, past, torch.nan).double().cpu().numpy().reshape(len(past), -1, _DAY)
    found = rhythm(days)
    begin_h = batch["local_h"].double().cpu().numpy() - (past.shape[1] - 1) / 60  # local_h is of the last point
    angle = np.stack([(found[name] + begin_h) * (2 * np.pi / 24) for name in _HOURS], axis=1)
    columns = [np.stack([found[name] for name in _RHYTHM], axis=1), np.sin(angle), np.cos(angle)]
    table = torch.from_numpy(np.concatenate(columns, axis=1)).to(past)
    return torch.cat([table, worn.to(table.dtype).mean(1, keepdim=True)], dim=1)
