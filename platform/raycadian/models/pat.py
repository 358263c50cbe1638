"""Pretrained Actigraphy Transformer (Ruan et al. 2024, arXiv:2411.15240): a week of minutes to patches to a label.

Shapes as in types.py, and: M minutes of a window   P patches   W width of a patch's embedding
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycadian import config
from raycadian.models import adapters
from raycadian.models.base import LabelModel, ModelSpec, TrainingWindows
from raycadian.models.masked import Masked, load_encoder
from raycadian.models.scaling import Scaling
from raycadian.models.seen import joined_cycles, published_cycles
from raycadian.types import Batch

WIDTH = 96  # of an embedding, and of each head's queries, keys and values
FEED_FORWARD = 256
EPSILON = 1e-6
_KERNEL = 3  # minutes that the convolution of the Conv variants sees at once


@dataclass(frozen=True)
class Size:
    """patch: minutes of one · heads and layers of the encoder."""

    patch: int
    heads: int
    layers: int


SIZES = {
    "small": Size(patch=18, heads=6, layers=1),
    "medium": Size(patch=18, heads=12, layers=2),
    "large": Size(patch=9, heads=12, layers=4),
    "huge": Size(patch=5, heads=12, layers=8),
}


class Encoder(nn.Module):
    """Activity (B, M), standardised -> (B, P, W). Raises ValueError where patches don't fill the window."""

    positions: Tensor

    def __init__(self, size: Size, minutes: int, *, convolution: bool = False, dropout: float = 0.1):
        super().__init__()
        if minutes % size.patch or minutes < size.patch:
            raise ValueError(
                f"PAT cuts a window into patches of {size.patch} minutes; found a window of {minutes}; take a multiple of "
                f"{size.patch} (a week has 10080)"
            )
        self.size = size
        self.embedding = ConvEmbedding() if convolution else nn.Linear(size.patch, WIDTH)
        self.layers = nn.ModuleList(Block(size.heads, dropout) for _ in range(size.layers))
        self.register_buffer("positions", sinusoids(minutes // size.patch), persistent=False)
        self.apply(start)

    def forward(self, activity: Tensor) -> Tensor:
        return self.encode(self.embed(activity))

    def embed(self, activity: Tensor) -> Tensor:
        """Patches with their positions, (B, M) -> (B, P, W)."""
        return self.embedding(activity.unflatten(1, (-1, self.size.patch))) + self.positions

    def encode(self, patches: Tensor) -> Tensor:
        """(B, any number of patches, W) -> the same."""
        for layer in self.layers:
            patches = layer(patches)
        return patches


class ConvEmbedding(nn.Module):
    """The Conv variants: a convolution over a patch's minutes, ReLU, mean over them. (B, P, minutes) -> (B, P, W)."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv1d(1, WIDTH, _KERNEL, padding="same")

    def forward(self, patches: Tensor) -> Tensor:
        found = F.relu(self.convolution(patches.flatten(0, 1).unsqueeze(1)))
        return found.mean(-1).unflatten(0, patches.shape[:2])


class Block(nn.Module):
    """Attention, then a small network; each added to its input and normalised after. (B, P, W) -> the same."""

    def __init__(self, heads: int, dropout: float):
        super().__init__()
        self.attention = Attention(heads)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=EPSILON), nn.LayerNorm(WIDTH, eps=EPSILON)
        self.ff1, self.ff2 = nn.Linear(WIDTH, FEED_FORWARD), nn.Linear(FEED_FORWARD, WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, patches: Tensor) -> Tensor:
        patches = self.norm1(patches + self.dropout(self.attention(patches)))
        return self.norm2(patches + self.dropout(self.ff2(F.relu(self.ff1(patches)))))


class Attention(nn.Module):
    """Every patch to every other, each head as wide as the whole embedding (Keras' key_dim), so not torch's own module."""

    def __init__(self, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(WIDTH, heads * WIDTH) for _ in range(3))
        self.output = nn.Linear(heads * WIDTH, WIDTH)

    def forward(self, patches: Tensor) -> Tensor:
        parts = (project(patches).unflatten(-1, (self.heads, WIDTH)) for project in (self.query, self.key, self.value))
        found = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in parts))  # scaled by sqrt(WIDTH)
        return self.output(found.transpose(1, 2).flatten(2))


class Head(nn.Module):
    """Mean over patches, dropout, Linear 128 ReLU, Linear to one logit a label: (B, P, W) -> (B, labels)."""

    def __init__(self, labels: int, *, hidden: int = 128, dropout: float = 0.1):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(WIDTH, hidden), nn.ReLU(), nn.Linear(hidden, labels)
        )  # fmt: skip
        self.apply(start)

    def forward(self, patches: Tensor) -> Tensor:
        return self.layers(patches.mean(1))


class Decoder(nn.Module):
    """What the encoder made of the visible patches -> all minutes (B, M), standardised.

    One block, with the encoder's heads, sees them and a learned token in the place of each hidden one, and gives 2 tanh of
    a patch's minutes: standard deviations, none beyond 2.
    """

    def __init__(self, size: Size, dropout: float):
        super().__init__()
        self.token = nn.Parameter(0.05 * torch.randn(WIDTH))
        self.block = Block(size.heads, dropout)
        self.minutes = nn.Linear(WIDTH, size.patch)
        self.block.apply(start)
        self.minutes.apply(start)

    def forward(self, seen: Tensor, hidden: Tensor, positions: Tensor) -> Tensor:
        """seen (B, visible patches, W), hidden (P,) bool, positions (P, W)."""
        whole = self.token.to(seen.dtype).expand(len(seen), len(hidden), -1).clone()
        whole[:, ~hidden] = seen
        return 2 * torch.tanh(self.minutes(self.block(whole + positions)).flatten(1))


def sinusoids(patches: int) -> Tensor:
    """(P, W): the sines, then the cosines, of a patch's number at W / 2 wavelengths from 2 pi to 20000 pi."""
    rate = torch.exp(torch.arange(0, WIDTH, 2, dtype=torch.float64) * (-math.log(10000.0) / WIDTH))
    angle = torch.arange(patches).unsqueeze(1) * rate
    return torch.cat([angle.sin(), angle.cos()], dim=1).float()


def start(module: nn.Module) -> None:
    """Random weights as Keras draws them, which the published ones started from: Glorot, biases 0."""
    if isinstance(module, nn.Linear | nn.Conv1d):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


# --- models ----------------------------------------------------------------------------------------------------------


def scaling(spec: ModelSpec, section: config.PAT) -> Scaling:
    """Raises ValueError for windows that PAT can't take. Minutes that were not worn, or not measured, are at the mean."""
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

    @property
    def backbone(self) -> nn.Module:
        return self.encoder

    def score(self, batch: Batch) -> Tensor:
        found = self.head(self.encoder(self.scaling(batch)[..., 0]))
        return found.view(-1, *self.spec.label_shape)

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

    def signal(self, batch: Batch) -> Tensor:
        return self.scaling(batch)

    def rebuild(self, signal: Tensor, batch: Batch, hidden: Tensor) -> Tensor:
        patches = self.encoder.embed(signal[..., 0])
        seen = self.encoder.encode(patches[:, ~hidden])
        return self.decoder(seen, hidden, self.encoder.positions).unsqueeze(-1)

    def fit_statistics(self, windows: TrainingWindows) -> None:
        self.scaling.fit_statistics(windows)


def random_encoder(section: config.PAT, spec: ModelSpec) -> Encoder:
    convolution = section.embedding == "conv"
    return Encoder(SIZES[section.size], spec.context, convolution=convolution, dropout=section.dropout)


def pretrained(section: config.PAT, spec: ModelSpec) -> tuple[Encoder, config.PAT]:
    """The encoder with the weights of `section.pretrained`, and the section with all cycles that they have seen. Raises
    ValueError for weights of another encoder, or whose cycles nobody says."""
    encoder = random_encoder(section, spec)
    path = Path(section.pretrained).expanduser()
    if path.is_dir():
        known = load_encoder(path, section, encoder, "encoder.")["cycles"]
    else:
        from raycadian.models import pat_weights

        pat_weights.load(encoder, path)
        known = published_cycles(path)
    if known is None and section.cycles is None:
        raise ValueError(
            f"{path}: nobody says which NHANES cycles these weights have seen, and a task on one of them would be leakage; "
            "set pat.cycles: [C, D, G] with the letters of the cycles, [] for none"
        )
    seen = joined_cycles(known, section.cycles)
    return encoder, section.model_copy(update={"cycles": seen})
