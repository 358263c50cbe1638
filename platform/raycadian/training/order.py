"""In which order an epoch shows its windows.

Mapped, it depends on the seed and the epoch alone, up to 64 processes. Streamed, on their number too: each process
reads the shards of a part of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from raycadian.training.engines import Process
from raycadian.training.refused import TrainingRefused

SHARDS = 64  # the order of mapped windows is made of as many at least


class Order:
    """The order of an epoch's windows: with S shards, position p is the element p // S of shard p % S, each shuffled.

    Shards are contiguous ranges of windows, equal to one window; process r holds the shards r, r + world, ... It
    depends on seed and epoch alone, so that the union of the processes' shares is the same batch whatever their number,
    up to 64: S is 64, or the number of processes where there are more.
    """

    def __init__(self, n: int, seed: int, epoch: int, process: Process):
        edges = _edges(n, process)
        self.shards = len(edges) - 1
        self.n, self.process = n, process
        self.begin = edges[:-1]
        self.shuffled = {
            s: np.random.default_rng([seed, epoch, s]).permutation(np.arange(edges[s + 1] - edges[s], dtype=np.int32))
            for s in range(process.rank, self.shards, process.world)
        }

    def share(self, begin: int, end: int) -> Tensor:
        """This process's windows among the positions [begin, end) of the epoch."""
        end = min(end, self.n)
        shares = [
            self.begin[s] + shuffled[-((s - begin) // self.shards) : -((s - end) // self.shards)]
            for s, shuffled in self.shuffled.items()
        ]
        return torch.from_numpy(np.concatenate(shares))


def _edges(n: int, process: Process) -> np.ndarray:
    """(S+1,): where each shard of n windows begins, and the end."""
    shards = max(SHARDS, process.world)
    return np.cumsum([0, *(n // shards + (s < n % shards) for s in range(shards))])


def trained_on(n: int, process: Process) -> Iterator[tuple[int, int]]:
    """The shards of n training windows that a process reads, in every epoch, as [first, last)."""
    yield from list(pairwise(_edges(n, process).tolist()))[process.rank :: process.world]


def validated_on(n: int, process: Process) -> tuple[int, int]:
    """The validation windows of a process, [first, last)."""
    return n * process.rank // process.world, n * (process.rank + 1) // process.world


@dataclass(frozen=True)
class Deal:
    """What an epoch of streamed windows is: `steps` of `share` windows for each of `world` processes."""

    windows: int
    world: int
    share: int
    steps: int

    @property
    def used(self) -> int:
        return self.world * self.share * self.steps

    @property
    def left_out(self) -> int:
        """Of the windows, in an epoch, each time others; fewer than a step's, unless steps are limited."""
        return self.windows - self.used


def deal(windows: int, world: int, batch_size: int, most_steps: int | None = None) -> Deal:
    """As many steps as there are whole ones, the same in every process; one where there are fewer windows than a step
    takes. Raises TrainingRefused where a process would have none."""
    share = min(batch_size, windows) // world
    if not share:
        raise TrainingRefused(
            f"training.workers={world} need a window each in every step: there are {windows} training windows and "
            f"training.batch_size is {batch_size}; lower workers or raise batch_size"
        )
    steps = windows // (share * world)
    return Deal(windows, world, share, min(steps, most_steps or steps))


@dataclass(frozen=True)
class Group:
    """Shards whose windows are shuffled together: (shard, first, last) of the shard's windows in their own order."""

    number: int
    pieces: tuple[tuple[int, int, int], ...]

    @property
    def shards(self) -> tuple[int, ...]:
        return tuple(shard for shard, _, _ in self.pieces)


@dataclass(frozen=True)
class StreamOrder:
    """The order of an epoch's streamed windows in one process: shards shuffled, their windows, each shard's shuffled,
    laid end to end and cut into a stretch a process; neighbours in it shuffled again, as many as memory holds.

    edges (S+1,) windows before each shard, and of all · sizes (S,) bytes of each · held_bytes: of shards whose windows
    are shuffled together.
    """

    edges: np.ndarray
    sizes: np.ndarray
    held_bytes: int
    deal: Deal
    seed: int
    rank: int

    def groups(self, epoch: int) -> Iterator[Group]:
        """What this process reads, in order."""
        pieces: list[tuple[int, int, int]] = []
        held = number = 0
        for piece in self._pieces(epoch):
            size = int(self.sizes[piece[0]])
            if pieces and held + size > self.held_bytes:
                yield Group(number, tuple(pieces))
                pieces, held, number = [], 0, number + 1
            pieces.append(piece)
            held += size
        yield Group(number, tuple(pieces))

    def all_groups(self, epochs: range) -> Iterator[tuple[int, Group]]:
        """Each with its epoch."""
        return ((epoch, group) for epoch in epochs for group in self.groups(epoch))

    def _pieces(self, epoch: int) -> Iterator[tuple[int, int, int]]:
        """This process's stretch of the shards' windows laid end to end."""
        counts = np.diff(self.edges)
        shards = np.random.default_rng([self.seed, epoch]).permutation(np.flatnonzero(counts))
        stops = np.cumsum(counts[shards])
        each = self.deal.steps * self.deal.share
        begin, stop = self.rank * each, (self.rank + 1) * each
        for shard, end in zip(shards.tolist(), stops.tolist(), strict=True):
            first, last = max(begin - end + counts[shard], 0), min(stop - end + counts[shard], counts[shard])
            if first < last:
                yield shard, int(first), int(last)

    def windows(self, epoch: int, group: Group) -> Tensor:
        """The windows of a group in the order in which they are shown."""
        parts = [self.edges[shard] + self._shuffled(epoch, shard)[first:last] for shard, first, last in group.pieces]
        together = np.concatenate(parts)
        rng = np.random.default_rng([self.seed, epoch, self.rank, group.number])
        return torch.from_numpy(rng.permutation(together))

    def _shuffled(self, epoch: int, shard: int) -> np.ndarray:
        count = int(self.edges[shard + 1] - self.edges[shard])
        return np.random.default_rng([self.seed, epoch, shard]).permutation(count)
