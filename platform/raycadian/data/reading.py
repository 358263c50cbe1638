"""Whether a training reads a table on this node's disk or streams shards, and why."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil

from raycadian import cluster
from raycadian.config import Training
from raycadian.data import storage
from raycadian.data.series import Origin, Series, bytes_a_point, mapped_in, open_series
from raycadian.data.snapshot import Snapshot
from raycadian.data.stream import ShardedSeries, open_shards

_DISK_SHARE, _MEMORY_SHARE = 0.8, 0.5
Opener = Callable[[Snapshot, tuple[str, ...]], Series]


@dataclass(frozen=True)
class Reading:
    """mode, and why in a few words; `chosen`: by `auto`, not by the recipe · shared: each of
    several nodes maps what its own workers read of the table, and this process holds none."""

    mode: Literal["mapped", "streamed"]
    why: str
    chosen: bool
    shuffle_bytes: int
    shared: bool = False

    def open(self, snapshot: Snapshot, channels: tuple[str, ...]) -> Series:
        """Raises ValueError, OSError."""
        if self.mode == "mapped" and not self.shared:
            return open_series(snapshot, channels)
        return open_shards(snapshot, channels, shuffle_bytes=self.shuffle_bytes, to_map=self.mode == "mapped")

    def of(self, series: Series) -> "Reading":
        """As it came out: some modalities hold what is forecast in memory. Raises ValueError where the recipe says
        otherwise."""
        if self.mode == "mapped" or isinstance(series, ShardedSeries):
            return self
        if not self.chosen:
            raise ValueError(
                f"training.data=streamed: {', '.join(series.channels)} are numerics, a few values a minute, which are "
                "held in memory; leave training.data out"
            )
        return replace(self, mode="mapped", why="numerics are held in memory")

    @property
    def streams_by_itself(self) -> bool:
        """Whether the user, who didn't ask for it, should know."""
        return self.chosen and self.mode == "streamed"

    @property
    def record(self) -> dict[str, Any]:
        """For a run's metadata."""
        return {"mode": self.mode, "why": self.why}


def reading_of(training: Training, snapshot: Snapshot, channels: tuple[str, ...]) -> Reading:
    """What `training.data` says; of auto, mapped where a node's share of

        points x (4 bytes x (channels + 1 where the first is forecast) + 1)

    is at most 80% of what is free on the disk of the tables' folder, unless the table is there already, and half of
    this node's memory: windows are drawn all over a table, which a disk behind it would slow down. This node stands for
    all nodes of a cluster, which are taken to be alike."""
    shuffle = int(training.shuffle_mb * 1e6)
    if not snapshot.whole:
        return Reading("mapped", "some of its people, in memory", True, shuffle)
    folder = Origin(str(snapshot.path.absolute()), channels).folder
    share = _share(training, snapshot, folder)
    if training.data != "auto":
        return Reading(training.data, "the recipe says so", False, shuffle, share is not None)
    needed = int((share or 1.0) * _points(snapshot) * bytes_a_point(channels, target=True))
    limits = {"memory": int(_MEMORY_SHARE * psutil.virtual_memory().total)}
    if not folder.is_dir():
        limits["free disk"] = int(_DISK_SHARE * shutil.disk_usage(_existing(folder)).free)
    name, room = min(limits.items(), key=lambda limit: limit[1])
    fits, what = needed <= room, "its table" if share is None else "a node's share of its table"
    why = f"{what} of {_gb(needed)} {'fits' if fits else 'exceeds'} the {_gb(room)} that may be used of the {name}"
    return Reading("mapped" if fits else "streamed", why, True, shuffle, share is not None)


def _share(training: Training, snapshot: Snapshot, folder: Path) -> float | None:
    """The part of the table that the workers of one node read, at most; None where the table is one of a single node,
    or lies on storage that all nodes share."""
    if training.in_process or not storage.remote(snapshot.path) or mapped_in(folder) is not None:
        return None
    workers = cluster.largest_node()
    return None if workers is None else min(workers / training.fewest_workers, 1.0)


def _points(snapshot: Snapshot) -> int:
    return sum(map(sum, snapshot.lengths.values()))


def _existing(folder: Path) -> Path:
    return next(parent for parent in folder.parents if parent.is_dir())


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.3g} GB"
