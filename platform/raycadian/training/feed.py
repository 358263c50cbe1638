"""What a process trains on, step by step: from a table that it maps, or from shards that stream through its memory."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from raycadian.config import Training
from raycadian.data.stream import ShardedSeries
from raycadian.training.engines import Process
from raycadian.training.order import Deal, Group, Order, StreamOrder, deal
from raycadian.types import Batch

Step = list[tuple[Batch, int]]
"""A micro-batch and how many windows of it count: one that a process has none for holds a window at weight 0."""


class Feed(ABC):
    """A process's steps of an epoch, as many in every process."""

    steps: int
    windows: int
    """Of an epoch, over all processes."""
    bytes_read: int = 0
    """By this process, in all epochs, where it is counted."""

    @abstractmethod
    def epoch(self, number: int) -> Iterator[Step]:
        """The steps of epoch `number`, from 1."""


class Mapped(Feed):
    """Windows of a table, in one order for any number of processes."""

    def __init__(self, windows: Any, config: Training, process: Process):
        self._windows, self._config, self._process = windows, config, process
        size = config.batch_size
        self.steps = int(min(math.ceil(len(windows) / size), config.max_steps_per_epoch or math.inf))
        self.windows = min(self.steps * size, len(windows))

    def epoch(self, number: int) -> Iterator[Step]:
        size = self._config.batch_size
        order = Order(len(self._windows), self._config.seed, number, self._process)
        for step in range(self.steps):
            parts = order.share(step * size, (step + 1) * size).tensor_split(self._config.accumulate)
            yield [(self._windows.batch(never_empty(part)), len(part)) for part in parts]


class Reader(Protocol):
    """How a process gets the windows of groups, in order, in batches of `share`."""

    def __call__(self, windows: Any, order: StreamOrder, epoch: int, groups: list[Group]) -> Iterator[Batch]: ...


class Streamed(Feed):
    """Windows of shards: `deal` of them an epoch, none twice, the rest left out."""

    def __init__(self, windows: Any, config: Training, process: Process, read: Reader):
        series: ShardedSeries = windows.series
        self._windows, self._config, self._read = windows, config, read
        self.deal: Deal = deal(len(windows), process.world, config.batch_size, config.max_steps_per_epoch)
        self.steps, self.windows = self.deal.steps, self.deal.used
        edges = windows.begun_before(series.edges)
        self.order = StreamOrder(edges, series.sizes, series.shuffle_bytes, self.deal, config.seed, process.rank)

    def epoch(self, number: int) -> Iterator[Step]:
        groups = list(self.order.groups(number))
        self.bytes_read += sum(int(self.order.sizes[shard]) for group in groups for shard, _, _ in group.pieces)
        for batch in self._read(self._windows, self.order, number, groups):
            parts = torch.arange(self.deal.share).tensor_split(self._config.accumulate)
            yield [(_rows(batch, part), len(part)) for part in parts]


def read_here(windows: Any, order: StreamOrder, epoch: int, groups: list[Group]) -> Iterator[Batch]:
    """In this process: the next group's shards are read, in threads, while windows of this one are cut."""
    parts: list[Batch] = []
    room = order.deal.share
    for index in _indices(windows, order, epoch, groups):
        while len(index):
            parts.append(windows.batch(index[:room]))
            room, index = room - len(index[:room]), index[room:]
            if not room:
                yield _joined(parts)
                parts, room = [], order.deal.share


def _indices(windows: Any, order: StreamOrder, epoch: int, groups: list[Group]) -> Iterator[Tensor]:
    for group, following in zip(groups, [*groups[1:], None], strict=True):
        pieces = group.pieces if following is None else group.pieces + following.pieces
        windows.series.parts.hold(shard for shard, _, _ in pieces)
        yield order.windows(epoch, group)


def _joined(parts: list[Batch]) -> Batch:
    return parts[0] if len(parts) == 1 else {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _rows(batch: Batch, rows: Tensor) -> Batch:
    if len(rows) == len(batch["past"]):
        return batch
    rows = never_empty(rows)
    return {name: value[rows] for name, value in batch.items()}


def never_empty(index: Tensor) -> Tensor:
    """A process that is out of windows takes part with window 0, at weight 0: every process makes the same calls."""
    return index if len(index) else torch.zeros(1, dtype=torch.long)


def make_feed(windows: Any, config: Training, process: Process, read: Reader = read_here) -> Feed:
    """By where the windows' series lies. Raises ValueError where a process would have no window."""
    if isinstance(windows.series, ShardedSeries):
        return Streamed(windows, config, process, read)
    return Mapped(windows, config, process)
