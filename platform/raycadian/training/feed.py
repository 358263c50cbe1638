"""What a process trains on, step by step: from a table that it maps, or from shards that stream through its memory."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import chain, islice, pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from raycadian.config import Training
from raycadian.data.stream import ShardedSeries
from raycadian.training.engines import Process
from raycadian.training.order import Deal, Order, StreamOrder, deal
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
    def epoch(self, number: int, last: int) -> Iterator[Step]:
        """The steps of epoch `number`, from 1, after which those up to `last` follow, unless training ends before."""

    def close(self) -> None:  # noqa: B027 most have nothing to close
        """No epoch follows: nothing is read ahead any more."""


class Mapped(Feed):
    """Windows of a table, in one order for any number of processes."""

    def __init__(self, windows: Any, config: Training, process: Process):
        self._windows, self._config, self._process = windows, config, process
        size = config.batch_size
        self.steps = int(min(math.ceil(len(windows) / size), config.max_steps_per_epoch or math.inf))
        self.windows = min(self.steps * size, len(windows))

    def epoch(self, number: int, last: int) -> Iterator[Step]:
        size = self._config.batch_size
        order = Order(len(self._windows), self._config.seed, number, self._process)
        for step in range(self.steps):
            parts = order.share(step * size, (step + 1) * size).tensor_split(self._config.accumulate)
            yield [(self._windows.batch(never_empty(part)), len(part)) for part in parts]


class Reader(Protocol):
    """How a process gets its windows of some epochs, one after the other, in batches of the order's share."""

    def __call__(self, windows: Any, order: StreamOrder, epochs: range) -> Iterator[Batch]: ...


class Streamed(Feed):
    """Windows of shards: `deal` of them an epoch, none twice, the rest left out."""

    def __init__(self, windows: Any, config: Training, process: Process, read: Reader):
        series: ShardedSeries = windows.series
        self._windows, self._config, self._read = windows, config, read
        self.deal: Deal = deal(len(windows), process.world, config.batch_size, config.max_steps_per_epoch)
        self.steps, self.windows = self.deal.steps, self.deal.used
        edges = windows.begun_before(series.edges)
        self._batches: Iterator[Batch] | None = None
        self._next = 0
        self.order = StreamOrder(edges, series.sizes, series.shuffle_bytes, self.deal, config.seed, process.rank)

    def epoch(self, number: int, last: int) -> Iterator[Step]:
        """What follows is read ahead while this epoch's windows are trained on and validation runs."""
        if self._batches is None or number != self._next:
            self.close()
            self._batches = self._read(self._windows, self.order, range(number, last + 1))
        self._next = number + 1
        self.bytes_read += sum(int(self.order.sizes[list(group.shards)].sum()) for group in self.order.groups(number))
        for batch in islice(self._batches, self.steps):
            parts = torch.arange(self.deal.share).tensor_split(self._config.accumulate)
            yield [(_rows(batch, part), len(part)) for part in parts]

    def close(self) -> None:
        self._batches = None


def read_here(windows: Any, order: StreamOrder, epochs: range) -> Iterator[Batch]:
    """In this process: the next group's shards are read, in threads, while windows of this one are cut."""
    parts: list[Batch] = []
    room = order.deal.share
    for index in _indices(windows, order, epochs):
        while len(index):
            parts.append(windows.batch(index[:room]))
            room, index = room - len(index[:room]), index[room:]
            if not room:
                yield joined(parts)
                parts, room = [], order.deal.share


def _indices(windows: Any, order: StreamOrder, epochs: range) -> Iterator[Tensor]:
    groups = chain(order.all_groups(epochs), [None])
    for (epoch, group), following in pairwise(groups):
        windows.series.parts.hold(group.shards, following[1].shards if following else ())
        yield order.windows(epoch, group)


def joined(parts: list[Batch]) -> Batch:
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
    """By where the windows' series lies. Raises TrainingRefused where a process would have no window."""
    if isinstance(windows.series, ShardedSeries):
        return Streamed(windows, config, process, read)
    return Mapped(windows, config, process)
