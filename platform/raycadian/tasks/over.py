"""A model over many windows: in this process, or in parts on Ray Data's actors where that takes less time.

Batches are the same ones either way, so that the answers are too.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from raycadian import cluster
from raycadian.types import Batch

log = logging.getLogger(__name__)
Columns = dict[str, np.ndarray]
"""name -> (B, ...) of the windows of a batch."""
Answer = Callable[[Batch], Columns]
_TRIED = 2  # batches that tell how long the others take: the first one warms up
_PARTS_A_CPU = 4  # so that a slow one is made up for


class Cut(Protocol):
    """Windows that are cut when they are asked for; pickles to what another node can cut from."""

    def __len__(self) -> int: ...

    def batch(self, index: torch.Tensor) -> Batch: ...


def over(windows: Cut, answer: Answer, size: int) -> Columns:
    """What `answer`, which pickles, says of all windows in order, cut `size` at a time; at least one window."""
    n = len(windows)
    batches = [(begin, min(begin + size, n)) for begin in range(0, n, size)]
    tables, began = [], time.perf_counter()
    for number, (begin, stop) in enumerate(batches):
        if number == _TRIED and cluster.pays((time.perf_counter() - began) * (len(batches) - _TRIED)):
            log.info("%d windows are forecast on Ray", n - begin)
            tables += _on_ray(windows, answer, batches[number:])
            break
        if number == _TRIED - 1:
            began = time.perf_counter()
        tables.append(answer(windows.batch(torch.arange(begin, stop))))
    return _below(tables)


def _below(tables: list[Columns]) -> Columns:
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


@dataclass(frozen=True)
class _Job:
    windows: Cut
    answer: Answer


class _Worker:
    """One of Ray Data's actors: what it needs comes once."""

    def __init__(self, job: list[Any]):
        import ray

        self._job: _Job = ray.get(job[0])

    def __call__(self, part: dict[str, np.ndarray]) -> Columns:
        edges = zip(part["begin"][0], part["stop"][0], strict=True)
        spans = [torch.arange(int(begin), int(stop)) for begin, stop in edges]
        columns = _below([self._job.answer(self._job.windows.batch(span)) for span in spans])
        return columns | {_ROW: np.concatenate([span.numpy() for span in spans])}


_ROW = "row of the windows"


def _on_ray(windows: Cut, answer: Answer, batches: list[tuple[int, int]]) -> Iterator[Columns]:
    """In the order of the windows."""
    ray = cluster.connect()
    workers = max(1, min(cluster.cpus(), len(batches)))
    parts = np.array_split(np.array(batches), min(len(batches), _PARTS_A_CPU * workers))
    rows = [{"begin": part[:, 0].tolist(), "stop": part[:, 1].tolist()} for part in parts]
    data = ray.data.from_items(rows, override_num_blocks=len(rows))
    answers = data.map_batches(
        _Worker, fn_constructor_args=([ray.put(_Job(windows, answer))],), batch_size=1, num_cpus=1,
        compute=cluster.actors(len(rows)),
    )  # fmt: skip
    tables = list(answers.iter_batches(batch_size=None))
    for table in sorted(tables, key=lambda own: own[_ROW][0]):
        yield {name: values for name, values in table.items() if name != _ROW}
