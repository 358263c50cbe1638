"""Streamed windows through Ray Data: its tasks read shards and cut windows, each worker of Ray Train gets its own.

Every worker runs a pipeline of its own, since which shards it reads, in which order, is of its rank and the epoch. The
tasks reserve no CPU: the workers may hold all there are, and who waits for one that they hold waits for ever. They run
on the worker's node, so that no cut window crosses the network and no other node needs memory for it; at most
`_AT_ONCE` of a worker's at a time, and Ray Data stops them while what they cut is not taken.
"""

import json
import logging
import warnings
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from raycadian.cluster import connect
from raycadian.training.feed import joined
from raycadian.training.order import Group, StreamOrder
from raycadian.types import Batch

_AT_ONCE = 2  # tasks of a worker: one reads while another one's windows are trained on
_AHEAD = 2  # chunks
_MOST_GROUPS = 1000  # of a pipeline: a plan of all of a long training's would be long itself
_CUT_BYTES = 256 << 20  # of windows that lie ready for a worker
_SHARE_OF_STORE = 0.5  # of Ray's memory for objects, at most, that windows of all workers take
_CHUNK_BYTES = 8 << 20  # that are cut at once: small, so that the first windows come early
_BLOCK_BYTES = 7 << 20  # a chunk is more, and goes as it is: blocks of several would be copied together
_NOT_WRITABLE = "The given NumPy array is not writable"  # shared memory; nobody writes
_NODE = "ray.io/node-id"  # the label that Ray gives each
_EMPTY = "empty_"  # before the name of a tensor without channels, which Arrow can't hold: its points


def read_on_ray(windows: Any, order: StreamOrder, epochs: range) -> Iterator[Batch]:
    """One pipeline for as many epochs as make `_MOST_GROUPS`: what the next begins with is read as one ends."""
    each = max(1, _MOST_GROUPS // len(list(order.groups(epochs.start))))
    for first in range(0, len(epochs), each):
        yield from _pipeline(windows, order, epochs[first : first + each])


def _pipeline(windows: Any, order: StreamOrder, epochs: range) -> Iterator[Batch]:
    ray = connect()
    warnings.filterwarnings("ignore", message=_NOT_WRITABLE)
    groups = order.all_groups(epochs)
    items = [{"epoch": epoch, "group": json.dumps([group.number, group.pieces])} for epoch, group in groups]
    data = ray.data.from_items(items, override_num_blocks=len(items))
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # else a plan of each pipeline
    data.context.execution_options.preserve_order = True
    store = ray.cluster_resources().get("object_store_memory", 0) / order.deal.world
    data.context.execution_options.resource_limits = ray.data.ExecutionResources.for_limits(
        object_store_memory=min(_CUT_BYTES, _SHARE_OF_STORE * store)
    )
    data.context.enable_progress_bars = False
    data.context.target_max_block_size = _BLOCK_BYTES
    at_once = ray.data.TaskPoolStrategy(size=min(_AT_ONCE, len(items)))
    here = {_NODE: ray.get_runtime_context().get_node_id()}
    job = partial(_cut, windows=windows, order=order)
    cut = data.map_batches(job, batch_size=1, num_cpus=0, compute=at_once, label_selector=here)
    chunks = cut.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=_AHEAD)
    try:
        yield from map(pinned, in_batches(map(unpacked, chunks), order.deal.share))
    except ray.exceptions.RayTaskError as error:  # around the line for the user are tracebacks and advice on Ray Data
        raise ValueError(str(error.cause).splitlines()[0]) from None


def _cut(rows: dict[str, np.ndarray], *, windows: Any, order: StreamOrder) -> Iterator[dict[str, Any]]:
    """A group's windows, some `_CHUNK_BYTES` at a time: one of Ray Data's tasks."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=_NOT_WRITABLE)
    number, pieces = json.loads(rows["group"][0])
    group = Group(number, tuple(map(tuple, pieces)))
    parts = windows.series.parts
    parts.hold(group.shards)
    index = order.windows(int(rows["epoch"][0]), group)
    try:
        yield from (packed(windows.batch(part)) for part in index.split(_chunk(windows, index)))
    finally:  # the process goes on to the next task
        parts.clear()


def _chunk(windows: Any, index: torch.Tensor) -> int:
    """Windows that are cut at once: Arrow takes as long for few as for many."""
    one = windows.batch(index[:1])
    return max(1, _CHUNK_BYTES // sum(value.nbytes for value in one.values()))


def packed(batch: Batch) -> dict[str, np.ndarray]:
    """A batch as columns for Arrow. The mask is one of all channels (windows.past_of)."""
    columns = {name: value for name, value in batch.items() if value.numel()}
    mask = batch["past_mask"][..., 0].contiguous()
    columns["past_mask"] = mask.view(torch.uint8)  # booleans would be packed into bits
    empty = {name: value for name, value in batch.items() if not value.numel()}
    points = {_EMPTY + name: np.full(len(value), value.shape[1]) for name, value in empty.items()}
    return {name: value.contiguous().numpy() for name, value in columns.items()} | points


def unpacked(columns: dict[str, np.ndarray]) -> Batch:
    """The inverse of `packed`."""
    batch = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in columns.items()}
    for name in [name for name in batch if name.startswith(_EMPTY)]:
        points = batch.pop(name)
        batch[name.removeprefix(_EMPTY)] = torch.empty(len(points), int(points[0]), 0)
    mask = batch["past_mask"].view(torch.bool).unsqueeze(-1)
    batch["past_mask"] = mask.expand(-1, -1, batch["past"].shape[-1])
    return batch


def in_batches(chunks: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The windows of chunks `size` at a time, views where a batch lies in one; what is left at the end is left out."""
    parts: list[Batch] = []
    room = size
    for chunk in chunks:
        for begin in _begins(len(chunk["past"]), room, size):
            parts.append({name: value[begin : begin + room] for name, value in chunk.items()})
            room -= len(parts[-1]["past"])
            if not room:
                yield joined(parts)
                parts, room = [], size


def _begins(n: int, room: int, size: int) -> Iterator[int]:
    """Where the batches begin that a chunk of n is cut into, the first of which has `room` left."""
    yield from (0, *range(room, n, size)) if n else ()


def pinned(batch: Batch) -> Batch:
    """In memory that a GPU can be sent from while it computes, where there is one."""
    return {name: value.pin_memory() for name, value in batch.items()} if torch.cuda.is_available() else batch
