"""Streamed windows through Ray Data: its tasks read shards and cut windows, each worker of Ray Train gets its own.

Every worker runs a pipeline of its own, since which shards it reads, in which order, is of its rank and the epoch. The
tasks reserve no CPU: the workers may hold all there are, and who waits for one that they hold waits for ever. At most
`_AT_ONCE` of a worker's run at a time, and Ray Data stops them while what they cut is not taken.
"""

import logging
import pickle
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from raycadian.cluster import connect
from raycadian.data.mechanism import Mechanism
from raycadian.training.order import Group, StreamOrder
from raycadian.types import Batch

_AT_ONCE = 2  # tasks of a worker: one reads while another one's windows are trained on
_AHEAD = 2  # batches
_BLOCK_BYTES = 8 << 20  # small, so that the first windows come early
_NOT_WRITABLE = "The given NumPy array is not writable"  # shared memory; nobody writes
_EMPTY = "empty_"  # before the name of a tensor without channels, which Arrow can't hold: its points


def read_on_ray(windows: Any, order: StreamOrder, epoch: int, groups: list[Group]) -> Iterator[Batch]:
    """The windows of groups, in order, in batches of the order's share."""
    ray = connect()
    warnings.filterwarnings("ignore", message=_NOT_WRITABLE)
    items = [{"group": pickle.dumps((group, _mechanism(windows, group)))} for group in groups]
    data = ray.data.from_items(items, override_num_blocks=len(items))
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # else a plan an epoch and worker
    data.context.execution_options.preserve_order = True
    data.context.enable_progress_bars = False
    data.context.target_max_block_size = _BLOCK_BYTES
    cut = partial(_cut, windows=_with(windows, None), order=order, epoch=epoch)
    at_once = ray.data.TaskPoolStrategy(size=min(_AT_ONCE, len(items)))
    batches = data.map_batches(cut, batch_size=1, num_cpus=0, compute=at_once).iter_batches(
        batch_size=order.deal.share, batch_format="numpy", prefetch_batches=_AHEAD
    )
    return (unpacked(columns) for columns in batches)


def _cut(rows: dict[str, np.ndarray], *, windows: Any, order: StreamOrder, epoch: int) -> Iterator[dict[str, Any]]:
    """A group's windows, a batch at a time: one of Ray Data's tasks."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=_NOT_WRITABLE)
    group, mechanism = pickle.loads(rows["group"][0])
    windows = _with(windows, mechanism)
    windows.series.parts.hold(shard for shard, _, _ in group.pieces)
    for index in order.windows(epoch, group).split(order.deal.share):
        yield packed(windows.batch(index))


def _mechanism(windows: Any, group: Group) -> Mechanism | None:
    """The curves of a group's people: no task is sent those of all."""
    if getattr(windows, "mechanism", None) is None:
        return None
    shards = [windows.series.shards[number] for number in sorted(shard for shard, _, _ in group.pieces)]
    return windows.mechanism.of([(shard.begin, shard.stop) for shard in shards])


def _with(windows: Any, mechanism: Mechanism | None) -> Any:
    return windows if getattr(windows, "mechanism", None) is mechanism else replace(windows, mechanism=mechanism)


def packed(batch: Batch) -> dict[str, np.ndarray]:
    """A batch as columns for Arrow. The mask is one of all channels (windows.past_of)."""
    columns = {name: value for name, value in batch.items() if value.numel()}
    columns["past_mask"] = batch["past_mask"][..., 0].to(torch.uint8)  # booleans would be packed into bits
    empty = {name: value for name, value in batch.items() if not value.numel()}
    points = {_EMPTY + name: np.full(len(value), value.shape[1]) for name, value in empty.items()}
    return {name: value.contiguous().numpy() for name, value in columns.items()} | points


def unpacked(columns: dict[str, np.ndarray]) -> Batch:
    """The inverse of `packed`, pinned where there is a GPU to send it to."""
    batch = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in columns.items()}
    for name in [name for name in batch if name.startswith(_EMPTY)]:
        points = batch.pop(name)
        batch[name.removeprefix(_EMPTY)] = torch.empty(len(points), int(points[0]), 0)
    mask = batch["past_mask"].bool().unsqueeze(-1)
    batch["past_mask"] = mask.expand(-1, -1, batch["past"].shape[-1])
    return {name: value.pin_memory() for name, value in batch.items()} if torch.cuda.is_available() else batch
