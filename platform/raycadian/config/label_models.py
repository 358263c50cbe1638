"""A section a model of a label: the tasks classify and regress."""

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from raycadian.config.adapters import Adapter, NoAdapter, PATAdapter
from raycadian.config.model_base import ModelConfig
from raycadian.config.schema import Count, Fraction, Positive, unsaid


class LabelModelConfig(ModelConfig):
    """A model of the tasks classify and regress."""

    tasks: ClassVar[frozenset[str]] = frozenset({"classify", "regress"})


Features = Literal["statistics", "rhythm"]
"""statistics: of each channel's values · rhythm: of the rest and activity of whole days by the minute."""


class Statistics(LabelModelConfig):
    """Linear in variables made by hand: logistic regression or least squares."""

    kind: Literal["statistics"] = "statistics"
    features: Features = "statistics"


class FeatureNet(LabelModelConfig):
    """A small network on variables made by hand, with a head for all labels."""

    kind: Literal["feature_net"] = "feature_net"
    features: Features = "statistics"
    hidden: Count = 32
    dropout: Fraction = 0.2


class LastValue(LabelModelConfig):
    """What a channel was last: as the forecast of a number, or as the one variable of a logistic regression."""

    kind: Literal["last"] = "last"
    channel: str
    over_s: Positive = 10.0
    """Seconds at the end of the window that are averaged: of an arterial pressure, its mean."""


class Boosting(LabelModelConfig):
    """Gradient-boosted trees on variables made by hand; a missing one is a branch of its own."""

    kind: Literal["boosting"] = "boosting"
    features: Features = "statistics"
    trees: Count = 300
    """Trees that are grown; validation data say how many of them are kept."""
    depth: int = Field(3, ge=1, le=10)
    lr: Positive = 0.05
    l2: float = Field(1.0, ge=0)
    min_weight: float = Field(5.0, ge=0)
    """Weight of the windows in a leaf (of the log odds' curvature: p (1 - p) each), at least."""


class CNN(LabelModelConfig):
    """A small convolutional network over time."""

    kind: Literal["cnn"] = "cnn"
    width: Count = 32
    """Channels of the first block; each block after has twice as many."""
    blocks: Count = 3
    kernel: int = Field(7, ge=3)
    stride: int = Field(4, ge=2)
    """A block shortens time by it."""
    dropout: Fraction = 0.1

    @field_validator("kernel")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"a kernel has a middle: an odd number; found {value}")
        return value


LabelHead = Literal["linear", "mlp"]


Cycle = Literal["C", "D", "G", "H"]
"""NHANES cycles with a week of accelerometry, by the letter of their files: 2003-04, 2005-06, 2011-12, 2013-14."""


Seen = Literal["refuse", "allow"]
"""allow: train and score on an NHANES cycle that the pretraining has seen. People whom a run of ours has learnt from
stay refused."""


class PretrainedNetwork(LabelModelConfig):
    """A network that may begin pretrained. Its own section has `pretrained`, `cycles`, `seen`, `adapter`."""

    encoder_fields: ClassVar[tuple[str, ...]]
    """The fields that the shapes of its pretrained weights depend on."""

    def readable_name(self) -> str:
        """With what of it trains, where that is not all: `pat_head`."""
        return self.kind if self.adapter.kind == "full" else f"{self.kind}_{self.adapter.kind}"

    def pretraining_cycles(self) -> tuple[str, ...]:
        return self.cycles or ()

    def encoder_shape(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.encoder_fields}


class TTMLabel(PretrainedNetwork):
    """TTM's backbone (granite-tsfm) with a head for a label. `adapter: {kind: head}` leaves the backbone as it is."""

    encoder_fields = ("kind", "d_model", "layers", "patch_length", "channels")

    kind: Literal["ttm_label"] = "ttm_label"
    pretrained: str | None = None
    """None: random start. A local folder or a hub name of granite's format, or the checkpoint of a run of `masked`."""
    d_model: Count = 64
    layers: Count = 3
    patch_length: Count = 50
    """Points; at 125 Hz 0.4 s."""
    dropout: Fraction = 0.1
    adapter: Adapter = NoAdapter()
    channels: Literal["independent", "mixed"] = "independent"
    """independent: each goes through the backbone alone and the head joins them · mixed: every layer mixes them."""
    pieces: Count = 1
    """The context is cut into so many equal pieces, each through the backbone alone; the head joins them."""
    head: LabelHead = "linear"
    cycles: tuple[Cycle, ...] | None = Field(None, exclude_if=unsaid)
    """NHANES cycles that the pretraining has seen, as a run of `masked` recorded them; granite's weights have seen
    none."""
    seen: Seen = Field("refuse", exclude_if=lambda value: value == "refuse")


class PAT(PretrainedNetwork):
    """Pretrained Actigraphy Transformer: a week of minutes (10080 points; any multiple of its patch)."""

    encoder_fields = ("kind", "size", "embedding")

    kind: Literal["pat"] = "pat"
    size: Literal["small", "medium", "large", "huge"] = "small"
    """0.29, 1.0, 2.0 or 4.0 million weights."""
    embedding: Literal["dense", "conv"] = "dense"
    pretrained: str | None = None
    """None: random start. A published .h5 of the same size and embedding, or the checkpoint of a run of `masked`."""
    cycles: tuple[Cycle, ...] | None = None
    """NHANES cycles that the pretraining has seen: no task is one of theirs. Known of PAT-*_29k and PAT-*_21k by the
    file's name and of our own checkpoints; given here of other files, [] for none. The checkpoint keeps it, and a
    pretraining adds its data's."""
    seen: Seen = "refuse"
    standardise: Literal["minute", "window"] = "minute"
    """By mean and standard deviation of training: minute, of each minute of the window, as the published weights were
    trained (windows then begin at one time of day) · window, of all together."""
    dropout: Fraction = 0.1
    hidden: Count = 128
    """Width of the head."""
    adapter: PATAdapter = NoAdapter()
