"""Pretrained Actigraphy Transformer (Ruan et al. 2024, arXiv:2411.15240): a week of minutes to patches to a label."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from torch import Tensor, nn

from raycadian import config
from raycadian.models import adapters, pat_weights
from raycadian.models.base import Builder, ModelSpec, TrainingWindows
from raycadian.models.label import LabelModel
from raycadian.models.masked import Masked, load_encoder
from raycadian.models.pat_encoder import SIZES, Decoder, Encoder, Head
from raycadian.models.scaling import Scaling
from raycadian.models.seen import joined_cycles, published_cycles
from raycadian.types import Batch


def scaling(spec: ModelSpec, section: config.PAT) -> Scaling:
    """Raises ValueError for windows that PAT can't take. Minutes not worn, or not measured, are at the mean."""
    if len(spec.past) != 1 or abs(spec.dt_min - 1) > 1e-9:
        raise ValueError(
            f"PAT takes one channel of activity by the minute; found {list(spec.past)} every {spec.dt_min:g} min; set "
            "window.past to one channel of a data set with dt_s: 60"
        )
    return Scaling(1, spec.context if section.standardise == "minute" else 1)


class PAT(LabelModel):
    """The encoder, and a head on the mean of its patches. `config.cycles` is what the weights have seen of NHANES."""

    adaptable = "encoder", ("query", "value")

    def __init__(self, spec: ModelSpec, section: config.PAT, encoder: Encoder):
        super().__init__(spec, section)
        self.scaling = scaling(spec, section)
        self.encoder = encoder
        self.head = Head(spec.labels, hidden=section.hidden, dropout=section.dropout)
        adapters.apply(section.adapter, encoder, encoder, list(encoder.layers), self.head)

    @classmethod
    def build(cls, section: config.PAT, spec: ModelSpec, builder: Builder) -> Self:
        encoder, section = _encoder(section, spec, builder)
        return cls(spec, section, encoder)

    @property
    def backbone(self) -> nn.Module:
        return self.encoder

    def score(self, batch: Batch) -> Tensor:
        score = self.head(self.encoder(self.scaling(batch)[..., 0]))
        return score.view(-1, *self.spec.label_shape)

    def fit_statistics(self, windows: TrainingWindows) -> None:
        super().fit_statistics(windows)
        self.scaling.fit_statistics(windows)


class MaskedPAT(Masked):
    """PAT's masked autoencoder: the encoder sees the visible patches alone."""

    def __init__(self, spec: ModelSpec, section: config.Masked, encoder: Encoder):
        super().__init__(spec, section, spec.context // encoder.size.patch)
        self.scaling = scaling(spec, section.inner)
        self.encoder = encoder
        self.decoder = Decoder(encoder.size, section.inner.dropout)

    @classmethod
    def build(cls, section: config.Masked, spec: ModelSpec, builder: Builder) -> Self:
        encoder, inner = _encoder(section.inner, spec, builder)
        return cls(spec, section.with_parts([inner]), encoder)

    def signal(self, batch: Batch) -> Tensor:
        return self.scaling(batch)

    def rebuild(self, signal: Tensor, batch: Batch, hidden: Tensor) -> Tensor:
        patches = self.encoder.embed(signal[..., 0])
        seen = self.encoder.encode(patches[:, ~hidden])
        return self.decoder(seen, hidden, self.encoder.positions).unsqueeze(-1)

    def fit_statistics(self, windows: TrainingWindows) -> None:
        self.scaling.fit_statistics(windows)


def _encoder(section: config.PAT, spec: ModelSpec, builder: Builder) -> tuple[Encoder, config.PAT]:
    """The encoder, with the weights of `section.pretrained` where it names some, and the section with the NHANES cycles
    that they have seen; a checkpoint of ours says them itself. Raises ValueError for weights of another encoder, or
    whose cycles nobody says."""
    encoder = Encoder(
        SIZES[section.size], spec.context, convolution=section.embedding == "conv", dropout=section.dropout
    )
    if section.pretrained is None or builder.restoring:
        return encoder, section
    path = Path(section.pretrained).expanduser()
    known = _load_pretrained(encoder, section, path)
    if known is None and section.cycles is None:
        raise ValueError(
            f"{path}: nobody says which NHANES cycles these weights have seen, and a task on one of them would be "
            "leakage; set pat.cycles: [C, D, G] with the letters of the cycles, [] for none"
        )
    return encoder, section.model_copy(update={"cycles": joined_cycles(known, section.cycles)})


def _load_pretrained(encoder: Encoder, section: config.PAT, path: Path) -> Sequence[str] | None:
    """Fill the encoder from a checkpoint's folder or a published file; the cycles that it is known to have seen."""
    if path.is_dir():
        return load_encoder(path, section, encoder, "encoder.")["cycles"]
    pat_weights.load(encoder, path)
    return published_cycles(path)
