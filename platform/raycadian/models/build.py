"""From a recipe's model section to a model: one table of kinds, and what a wrapper's own `build` is given."""

from collections.abc import Iterator
from typing import Any

from raycadian.config import ModelConfig
from raycadian.models.base import Builder, Model, ModelSpec
from raycadian.models.baselines import CMA, Persistence, Seasonal
from raycadian.models.boosting import Boosting
from raycadian.models.cnn import CNN
from raycadian.models.conformal import Conformal
from raycadian.models.ensemble import Ensemble
from raycadian.models.feature_net import FeatureNet
from raycadian.models.hybrid import Exogenous, Physics, Residual, Staged
from raycadian.models.last_value import LastValue
from raycadian.models.lstm import LSTM
from raycadian.models.mlp import MLP
from raycadian.models.pat import PAT, MaskedPAT
from raycadian.models.ridge import Ridge
from raycadian.models.stack import Stack
from raycadian.models.statistics import Statistics
from raycadian.models.ttm import TTM
from raycadian.models.ttm_label import MaskedTTM, TTMLabel

MODELS: dict[str, type[Model]] = {
    "persistence": Persistence,
    "seasonal": Seasonal,
    "ridge": Ridge,
    "cma": CMA,
    "lstm": LSTM,
    "mlp": MLP,
    "ttm": TTM,
    "statistics": Statistics,
    "feature_net": FeatureNet,
    "last": LastValue,
    "boosting": Boosting,
    "cnn": CNN,
    "ttm_label": TTMLabel,
    "pat": PAT,
    "stack": Stack,
    "masked-pat": MaskedPAT,
    "masked-ttm_label": MaskedTTM,
    "residual": Residual,
    "exogenous": Exogenous,
    "physics": Physics,
    "staged": Staged,
    "ensemble": Ensemble,
    "conformal": Conformal,
}
"""The class of each kind of section, whose `build` makes it. A pretraining's kind names the network inside too."""


def build(section: ModelConfig, spec: ModelSpec, architectures: Iterator[dict[str, Any]] | None = None) -> Model:
    """An untrained model. Raises ValueError where the section doesn't fit the spec or a checkpoint can't be had.

    architectures: those of granite's networks inside, in the order of `Model.modules()`, as a checkpoint of ours holds
    them; `pretrained` is then not opened.
    """
    return Builder(MODELS, architectures).build(section, spec)
