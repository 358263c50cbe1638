"""The layers of the Pretrained Actigraphy Transformer (Ruan et al. 2024, arXiv:2411.15240), as its authors trained
them.

Shapes as in types.py, and: M minutes of a window   P patches   W width of a patch's embedding
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
                f"PAT cuts a window into patches of {size.patch} minutes; found a window of {minutes}; take a multiple "
                f"of {size.patch} (a week has 10080)"
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
        activation = F.relu(self.convolution(patches.flatten(0, 1).unsqueeze(1)))
        return activation.mean(-1).unflatten(0, patches.shape[:2])


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
    """Every patch to every other, each head as wide as the whole embedding (Keras' key_dim), not torch's own module."""

    def __init__(self, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(WIDTH, heads * WIDTH) for _ in range(3))
        self.output = nn.Linear(heads * WIDTH, WIDTH)

    def forward(self, patches: Tensor) -> Tensor:
        parts = (project(patches).unflatten(-1, (self.heads, WIDTH)) for project in (self.query, self.key, self.value))
        attended = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in parts))  # scaled by sqrt(WIDTH)
        return self.output(attended.transpose(1, 2).flatten(2))


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

    One block, with the encoder's heads, sees them and a learned token in the place of each hidden one, and gives 2 tanh
    of a patch's minutes: standard deviations, none beyond 2.
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
