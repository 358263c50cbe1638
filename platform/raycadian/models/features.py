"""Variables made by hand from a window, for models that don't take the signal itself. (B, F), NaN = missing."""

import numpy as np
import torch
from torch import Tensor

from raycadian.config import Features
from raycadian.models.base import ModelSpec
from raycadian.types import Batch

PER_CHANNEL = ("mean", "sd", "5%", "25%", "median", "75%", "95%", "sd of the slope", "last second", "trend")
_RHYTHM = (
    "interdaily_stability", "intradaily_variability", "l5", "m10", "relative_amplitude", "mesor", "amplitude",
    "cosinor_r2",
)  # fmt: skip
_HOURS = ("l5_onset_h", "m10_onset_h", "acrophase_h")
_SLEEP = ("sleep_regularity", "social_jet_lag_h")
_DAY = 1440  # minutes
_WEEKEND = (6, 0)  # Saturday and Sunday, woken up to


def names(kind: Features, spec: ModelSpec) -> tuple[str, ...]:
    """Of the columns. Raises ValueError where the windows don't have what they are made from."""
    if kind == "statistics":
        return tuple(f"{channel}: {name}" for name in PER_CHANNEL for channel in spec.past)
    if len(spec.past) != 1 or abs(spec.dt_min - 1) > 1e-9 or spec.context % _DAY:
        raise ValueError(
            f"features rhythm are made from whole days of one channel by the minute; found {list(spec.past)}, "
            f"{spec.context} points of {spec.dt_min:g} min; take features: statistics, or window_s a multiple of 86400 "
            "and dt_s: 60"
        )
    return (*_RHYTHM, *(f"{part} of {name}" for part in ("sine", "cosine") for name in _HOURS), *_SLEEP, "worn")


def compute(kind: Features, batch: Batch, spec: ModelSpec) -> Tensor:
    """In the batch's floating-point type."""
    return _statistics(batch, spec) if kind == "statistics" else _rhythm(batch)


def _statistics(batch: Batch, spec: ModelSpec) -> Tensor:
    """PER_CHANNEL of each channel; a statistic's channels stand together. NaN for a channel without a measurement."""
    x = batch["past"]
    last = max(1, round(1 / (60 * spec.dt_min)))  # points of a second
    half = x.shape[1] // 2
    parts = [
        x.mean(1, keepdim=True), x.std(1, correction=0, keepdim=True), _quantiles(x, (0.05, 0.25, 0.5, 0.75, 0.95)),
        x.diff(dim=1).std(1, correction=0, keepdim=True), x[:, -last:].mean(1, keepdim=True),
        x[:, half:].mean(1, keepdim=True) - x[:, : max(half, 1)].mean(1, keepdim=True),
    ]  # fmt: skip
    table = torch.cat(parts, dim=1).flatten(1)
    return table.masked_fill(~batch["past_mask"].any(1).repeat(1, len(PER_CHANNEL)), torch.nan)


def _quantiles(x: Tensor, levels: tuple[float, ...]) -> Tensor:
    """(B, levels, C), interpolated linearly; torch's own refuses more than 16 million values."""
    place = torch.tensor(levels, dtype=x.dtype, device=x.device) * (x.shape[1] - 1)
    below, ordered = place.long(), x.sort(dim=1).values
    above = (below + 1).clamp(max=x.shape[1] - 1)
    return ordered[:, below].lerp(ordered[:, above], (place - below)[:, None].expand(-1, x.shape[2]))


def _rhythm(batch: Batch) -> Tensor:
    """physiology/rhythms/circadian.py's indices of the days that the window has, in minutes that were worn; hours of
    the local clock as a point on a circle, since 23:50 is near 00:10. Sleep's regularity and social jet lag are of the
    rest that activity shows (physiology/rhythms/sleep.py), NaN where it shows none, as of a monitor that comes off at
    night."""
    from raycadian.physiology.rhythms.circadian import rhythm
    from raycadian.physiology.rhythms.sleep import regularity, rest

    past, worn = batch["past"][..., 0], batch["past_mask"][..., 0]
    days = torch.where(worn, past, torch.nan).double().cpu().numpy().reshape(len(past), -1, _DAY)
    indices = rhythm(days)
    begin_h = batch["local_h"].double().cpu().numpy() - (past.shape[1] - 1) / 60  # local_h is of the last point
    angle = np.stack([(indices[name] + begin_h) * (2 * np.pi / 24) for name in _HOURS], axis=1)
    state = rest(days)
    sleep = np.stack([regularity(state), _jet_lag_h(state, batch, begin_h)], axis=1)
    columns = [np.stack([indices[name] for name in _RHYTHM], axis=1), np.sin(angle), np.cos(angle), sleep]
    table = torch.from_numpy(np.concatenate(columns, axis=1)).to(past)
    return torch.cat([table, worn.to(table.dtype).mean(1, keepdim=True)], dim=1)


def _jet_lag_h(state: np.ndarray, batch: Batch, begin_h: np.ndarray) -> np.ndarray:
    """Social jet lag (B,) of rest (B, D, 1440) that begins at the local hours `begin_h` (B,); NaN without a night that
    ends at a weekend and one that doesn't."""
    from raycadian.physiology.rhythms.sleep import mid_rest_h, social_jet_lag_h

    time_s = batch["time_s"].cpu().numpy()
    first_h = (time_s - 60 * (state[0].size - 1)) / 3600  # UTC, since 1970
    offset_h = (begin_h - first_h + 10) % 24 - 10  # of the local clock, -10 to 14: nearly everybody's
    # minutes from the window's beginning to its first noon
    noon = np.round(60 * (12 - begin_h)).astype(np.int64) % _DAY
    mid_h = np.full((len(state), state.shape[1] - 1), np.nan)
    for minutes in np.unique(noon):
        own, last = noon == minutes, state[0].size - _DAY + minutes
        mid_h[own] = mid_rest_h(state[own].reshape(own.sum(), -1)[:, minutes:last].reshape(*mid_h[own].shape, _DAY))
    first_day = np.floor((first_h + offset_h + noon / 60) / 24 + 1e-9).astype(np.int64)
    day = first_day[:, None] + 1 + np.arange(state.shape[1] - 1)
    return social_jet_lag_h(mid_h, np.isin((day + 4) % 7, _WEEKEND))  # 1 January 1970 was a Thursday, 4 of Sunday's 0
