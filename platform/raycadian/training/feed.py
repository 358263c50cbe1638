"""What a process trains on, step by step: from a table that it maps, or from shards that stream through its memory."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice, pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from raycadian.config import Training
from raycadian.data.share import map_share
from raycadian.data.stream import ShardedSeries
from raycadian.training.engines import Process
from raycadian.training.order import Deal, Order, StreamOrder, deal, trained_on, validated_on
from raycadian.training.refused import TrainingRefused
from raycadian.types import Batch

_FROM_THE_TABLE = {"past", "target"}
Step = list[tuple[Batch, int]]
"""A micro-batch and how many windows of it count: one that a process has none for holds a window at weight 0."""


class Feed(ABC):
    """A process's steps of an epoch, as many in every process."""

    steps: int
    windows: int
    """Of an epoch, over all processes."""
    bytes_read: int = 0
    """By this process, in all epochs: of shards that were read, or of windows that were copied out of a table."""

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
            shares = order.share(step * size, (step + 1) * size).tensor_split(self._config.accumulate)
            parts = [(self._windows.batch(never_empty(part)), len(part)) for part in shares]
            self.bytes_read += sum(batch[name].nbytes for batch, _ in parts for name in batch.keys() & _FROM_THE_TABLE)
            yield parts


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


def with_own_share(train: Any, val: Any, process: Process) -> tuple[Any, Any]:
    """Training and validation windows over what this process reads of their series, where it is one that workers map.
    Raises TrainingRefused, in every process alike, where one of them can't map its share."""
    try:
        own = [
            _mapped(train, [(0, 1), *trained_on(len(train), process)]),
            _mapped(val, [(0, 1), validated_on(len(val), process)]),
        ]
        refused = ""
    except (ValueError, OSError) as error:
        refused = str(error)
    if refusals := [text for text in process.gathered(refused) if text]:
        more = f" (and {len(refusals) - 1} of the other workers)" if len(refusals) > 1 else ""
        raise TrainingRefused(refusals[0] + more)
    return own[0], own[1]


def _mapped(windows: Any, parts: list[tuple[int, int]]) -> Any:
    """The same windows, of which only those of `parts`, [first, last) each, can be cut. The first of all, which
    `never_empty` takes, belongs to every process."""
    if not (isinstance(windows.series, ShardedSeries) and windows.series.to_map):
        return windows
    needed = np.concatenate([windows.spans(first, last) for first, last in parts])
    return replace(windows, series=map_share(windows.series, needed))


def make_feed(windows: Any, config: Training, process: Process, read: Reader = read_here) -> Feed:
    """By where the windows' series lies. Raises TrainingRefused where a process would have no window."""
    if isinstance(windows.series, ShardedSeries):
        return Streamed(windows, config, process, read)
    return Mapped(windows, config, process)
