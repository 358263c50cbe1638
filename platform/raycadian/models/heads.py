"""From a point forecast to quantiles that never cross. The 0.5 level stays the point forecast, exactly."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def residual_offsets(residual: Tensor, levels: tuple[float, ...]) -> Tensor:
    """Offsets (H, Q) from a point forecast to its quantiles: the empirical quantiles of residuals (N, H), NaN = missing.

    The 0.5 level is 0; levels below it are held at or below 0, those above at or above, so that the median is the point
    forecast and levels never cross. Raises ValueError where a step has no residual.
    """
    values = residual.numpy()
    empty = np.flatnonzero(np.isnan(values).all(axis=0))
    if len(empty):
        raise ValueError(
            f"no training window has a measured value at horizon step {empty[0] + 1}; bring more data or shorten the horizon"
        )
    found = torch.from_numpy(np.nanquantile(values, levels, axis=0).T.astype(np.float32))
    level = torch.tensor(levels)
    return torch.where(level < 0.5, found.clamp(max=0), torch.where(level > 0.5, found.clamp(min=0), 0))


def around(median: Tensor, steps: Tensor, middle: int) -> Tensor:
    """Quantiles (..., Q) from the median (...,) and the positive steps (..., Q-1) from each level to the next."""
    below = -steps[..., :middle].flip(-1).cumsum(-1).flip(-1)
    above = steps[..., middle:].cumsum(-1)
    centre = median.unsqueeze(-1)
    return torch.cat([centre + below, centre, centre + above], dim=-1)
