"""From a recipe's model section to a model, by `match`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from raycadian import config
from raycadian.models.base import Model, ModelSpec
from raycadian.models.baselines import CMA, Persistence, Ridge, Seasonal
from raycadian.models.cnn import CNN
from raycadian.models.conformal import Conformal
from raycadian.models.ensemble import Ensemble
from raycadian.models.feature_net import FeatureNet
from raycadian.models.hybrid import Exogenous, Physics, Residual, Staged, with_signals
from raycadian.models.label_baselines import Boosting, LastValue
from raycadian.models.lstm import LSTM
from raycadian.models.mlp import MLP
from raycadian.models.separate import Separate
from raycadian.models.stack import Stack
from raycadian.models.statistics import Statistics


def build(section: config.Model, spec: ModelSpec, architectures: Iterator[dict[str, Any]] | None = None) -> Model:
    """An untrained model. Raises ValueError where the section doesn't fit the spec or a checkpoint can't be had.

    architectures: those of the TTMs inside, in the order of `Model.modules()`, as a checkpoint of ours holds them;
    `pretrained` is then not opened.
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
        case config.MLP():
            return MLP(spec, section)
        case config.Statistics() | config.LastValue() | config.Boosting() if spec.labels > 1:
            alone = replace(spec, labels=1)
            return Separate(spec, section, [build(section, alone) for _ in range(spec.labels)])
        case config.FeatureNet():
            return FeatureNet(spec, section)
        case config.Statistics():
            return Statistics(spec, section)
        case config.LastValue():
            return LastValue(spec, section)
        case config.Boosting():
            return Boosting(spec, section)
        case config.CNN():
            return CNN(spec, section)
        case config.PAT():
            return _pat(section, spec, architectures)
        case config.TTMLabel():
            return _ttm_label(section, spec, architectures)
        case config.Stack():
            return Stack(spec, section, [build(m, spec, architectures) for m in section.members])
        case config.Masked():
            return _masked(section, spec, architectures)
        case config.TTM():
            return _ttm(section, spec, architectures)
        case config.Exogenous():
            return Exogenous(spec, section, build(section.inner, with_signals(spec, section), architectures))
        case config.Residual():
            return Residual(spec, section, build(section.inner, spec, architectures))
        case config.Physics():
            return Physics(spec, section, build(section.inner, spec, architectures))
        case config.Staged():
            return Staged(spec, section, build(section.inner, spec, architectures))
        case config.Conformal():
            return Conformal(spec, section, build(section.inner, spec, architectures))
        case config.Ensemble():
            return Ensemble(spec, section, [build(m, spec, architectures) for m in section.members * section.size])
        case _:
            raise AssertionError(f"no model for {type(section).__name__}")


def _ttm(section: config.TTM, spec: ModelSpec, architectures: Iterator[dict[str, Any]] | None) -> Model:
    from raycadian.models import ttm  # imports granite-tsfm: 4 s that other models don't pay

    if architectures is not None:
        network = ttm.saved_network(_next(architectures))
    elif section.pretrained is not None:
        network = ttm.pretrained_network(spec, section)
    else:
        network = ttm.random_network(spec, section)
    return ttm.TTM(spec, section, network)


def _ttm_label(section: config.TTMLabel, spec: ModelSpec, architectures: Iterator[dict[str, Any]] | None) -> Model:
    from raycadian.models import ttm_label

    network, section = _backbone(section, spec, architectures)
    return ttm_label.TTMLabel(spec, section, network)


def _backbone(
    section: config.TTMLabel, spec: ModelSpec, architectures: Iterator[dict[str, Any]] | None
) -> tuple[Any, config.TTMLabel]:
    """TTM's, and the section with the cycles that its weights have seen."""
    from raycadian.models import ttm, ttm_label

    if architectures is None:
        return ttm_label.network(spec, section)
    return ttm.saved_backbone(_next(architectures)), section


def _pat(section: config.PAT, spec: ModelSpec, architectures: Iterator[dict[str, Any]] | None) -> Model:
    from raycadian.models import pat  # imports peft

    encoder, section = _encoder(section, spec, architectures)
    return pat.PAT(spec, section, encoder)


def _encoder(
    section: config.PAT, spec: ModelSpec, architectures: Iterator[dict[str, Any]] | None
) -> tuple[Any, config.PAT]:
    """PAT's, and the section with the cycles that its weights have seen. A checkpoint of ours says so itself."""
    from raycadian.models import pat

    if section.pretrained is None or architectures is not None:
        return pat.random_encoder(section, spec), section
    return pat.pretrained(section, spec)


def _masked(section: config.Masked, spec: ModelSpec, architectures: Iterator[dict[str, Any]] | None) -> Model:
    if isinstance(section.inner, config.PAT):
        from raycadian.models import pat

        encoder, inner = _encoder(section.inner, spec, architectures)
        return pat.MaskedPAT(spec, section.model_copy(update={"inner": inner}), encoder)
    from raycadian.models import ttm_label

    network, inner = _backbone(section.inner, spec, architectures)
    return ttm_label.MaskedTTM(spec, section.model_copy(update={"inner": inner}), network)


def _next(architectures: Iterator[dict[str, Any]]) -> dict[str, Any]:
    if (saved := next(architectures, None)) is None:
        raise ValueError("the checkpoint holds fewer networks than its model needs")
    return saved
