"""From a recipe's model section to a model, by `match`."""

from __future__ import annotations

from typing import Any

from raycadian import config
from raycadian.models.base import Model, Spec
from raycadian.models.baselines import CMA, Persistence, Ridge, Seasonal
from raycadian.models.hybrid import Residual
from raycadian.models.lstm import LSTM


def build(section: config.Model, spec: Spec, architecture: dict[str, Any] | None = None) -> Model:
    """An untrained model. Raises ValueError where the section doesn't fit the spec or a checkpoint can't be had.

    architecture: that of the TTM inside, as a checkpoint of ours holds it; `pretrained` is then not opened.
    """
    match section:
        case config.Persistence():
            return Persistence(spec, section)
        case config.Seasonal():
            return Seasonal(spec, section)
        case config.Ridge():
            return Ridge(spec, section)
        case config.CMA():
            return CMA(spec, section)
        case config.LSTM():
            return LSTM(spec, section)
        case config.TTM():
            return _ttm(section, spec, architecture)
        case config.Residual():
            return Residual(spec, section, build(section.inner, spec, architecture))
        case _:
            raise AssertionError(f"no model for {type(section).__name__}")


def _ttm(section: config.TTM, spec: Spec, architecture: dict[str, Any] | None) -> Model:
    from raycadian.models import ttm  # imports granite-tsfm: 4 s that other models don't pay

    if architecture is not None:
        network = ttm.saved_network(architecture)
    elif section.pretrained is not None:
        network = ttm.pretrained_network(spec, section)
    else:
        network = ttm.random_network(spec, section)
    return ttm.TTM(spec, section, network)
