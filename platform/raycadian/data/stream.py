"""A snapshot as a series whose values are read in shards when windows are cut: no process ever holds all of them.

What lies in memory is the index (a row a recording) and where the target was measured (a number a change): a scan of
the snapshot tells them, once; each node keeps them beside its tables. Everything that cuts from a `Series` cuts the
same windows from this one, in the same order; where the windows are asked for in order, each shard is read once.
"""

import json
import logging
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from filelock import FileLock

from raycadian import cluster
from raycadian.data.series import Origin, Recordings, Series, Take, build_series, bytes_a_point, is_forecast, opened
from raycadian.data.shards import people_in_shards
from raycadian.data.snapshot import Snapshot
from raycadian.files import own_folder, written_whole
from raycadian.runs import patiently
from raycadian.types import Batch, Recording

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
_TOGETHER = 8  # shards whose windows are shuffled together
_AHEAD = 2  # shards read at once
_POINTS_PER_S = 2e6  # that a core scans, roughly, to know whether a cluster pays
_ARRAYS = ("offsets", "subject_of", "number_of", "start_s", "utc_offset_min", "flips")


@dataclass(frozen=True)
class Shard:
    """Whole people who lie one after the other: the points [begin, stop) of the series."""

    subjects: tuple[str, ...]
    begin: int
    stop: int


@dataclass(frozen=True)
class ShardedSeries(Series):
    """The index of a series; `table` (rows, 0) and `observed` (0,) are empty: `values`, `measured` and `gather` read.

    flips (F,) positions at which `observed` changes, from False before the first point · shards: in the order of the
    series · shuffle_bytes: of the shards whose windows are shuffled together; twice that is held in memory · to_map:
    whether workers who train map what they read of it (data/share.py) rather than stream it.
    """

    flips: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    shards: tuple[Shard, ...] = ()
    shuffle_bytes: int = 0
    to_map: bool = False

    def __reduce__(self) -> tuple[Callable[..., "ShardedSeries"], tuple[Any, ...]]:
        """All but what was read: the index is small."""
        return ShardedSeries, tuple(getattr(self, field.name) for field in fields(self))

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @cached_property
    def edges(self) -> np.ndarray:
        """(S+1,): where each shard begins, and the end of the series."""
        return np.array([*(shard.begin for shard in self.shards), len(self)])

    @cached_property
    def sizes(self) -> np.ndarray:
        """(S,) bytes of each shard as it lies in memory."""
        return np.diff(self.edges) * bytes_a_point(self.channels, len(self.table) > len(self.channels))

    @cached_property
    def parts(self) -> "Parts":
        """The shards' values, as far as they are in memory."""
        return Parts(self)

    def values(self, begin: int, stop: int) -> np.ndarray:
        """Of points of one shard. See `Series`."""
        number = self._shards_of(begin)
        shard = self.shards[number]
        assert stop <= shard.stop, "points of one recording"
        return self.parts[number].table[:, begin - shard.begin : stop - shard.begin]

    def measured(self, begin: int, stop: int) -> np.ndarray:
        first, last = np.searchsorted(self.flips, [begin, stop], side="right")
        changes = np.concatenate([[begin], self.flips[first:last], [stop]])
        return np.repeat((first + np.arange(len(changes) - 1)) % 2 == 1, np.diff(changes))

    def gather(self, starts: "Tensor", length: int, take: Take) -> Batch:
        numbers = self._shards_of(starts.numpy())
        if (joined := self.parts.joined(numbers)) is not None:
            return take(joined.table, joined.observed, starts + starts.new_tensor(joined.shift[numbers]))
        parts = [self._take(number, starts, numbers, take) for number in np.unique(numbers).tolist()]
        return parts[0] if len(parts) == 1 else _joined(parts, np.argsort(np.argsort(numbers, kind="stable")))

    def _take(self, number: int, starts: "Tensor", numbers: np.ndarray, take: Take) -> Batch:
        part, own = self.parts[number], starts[numbers == number]
        return take(part.table, part.observed, own - self.shards[number].begin)

    def _shards_of(self, positions: Any) -> Any:
        return np.searchsorted(self.edges, positions, side="right") - 1


def _joined(parts: list[Batch], back: np.ndarray) -> Batch:
    """Windows of several shards in the order in which they were asked for: `back` (B,) their places in the parts."""
    import torch

    at = torch.from_numpy(back)
    return {name: torch.cat([part[name] for part in parts])[at] for name in parts[0]}


class Parts:
    """The values of shards, read in threads ahead of who needs them. What is held stays in memory, and beside it the
    latest that were read, up to the series' bytes."""

    def __init__(self, series: ShardedSeries):
        self._series = series
        self._read: OrderedDict[int, Future[Series]] = OrderedDict()
        self._lock, self._pool = threading.Lock(), ThreadPoolExecutor(_AHEAD, thread_name_prefix="shards")
        self._held: set[int] = set()
        self._current: tuple[int, ...] = ()
        self._joined: Joined | None = None

    def __getitem__(self, number: int) -> Series:
        """Raises ValueError, OSError for what can't be read."""
        try:
            return self._asked(number).result()
        except BaseException:
            with self._lock:
                self._read.pop(number, None)  # another try reads it anew
            raise

    def hold(self, current: tuple[int, ...], following: tuple[int, ...] = ()) -> None:
        """Hold the shards that windows are cut from now and those that follow, no others; begin to read them."""
        self._held, self._current, self._joined = {*current, *following}, current, None
        for number in (*current, *following):
            self._asked(number)

    def clear(self) -> None:
        """Hold nothing. Series and parts refer to each other: they would stay until the next collection of garbage."""
        with self._lock:
            self._read.clear()
            self._held, self._current, self._joined = set(), (), None
            self._pool.shutdown(wait=False)
            self._pool = ThreadPoolExecutor(_AHEAD, thread_name_prefix="shards")

    def joined(self, numbers: np.ndarray) -> "Joined | None":
        """The shards that windows are cut from now as one table, where `numbers` (B,) are all of them."""
        if len(self._current) < 2 or not np.isin(numbers, self._current).all():
            return None
        if self._joined is None:
            self._joined = self._join([self[number] for number in self._current])
        return self._joined

    def _join(self, parts: list[Series]) -> "Joined":
        """Each shard becomes part of the table: nothing is held twice."""
        table = np.concatenate([part.table for part in parts], axis=1)
        observed = np.concatenate([part.observed for part in parts])
        shift, begin = np.zeros(len(self._series.shards), np.int64), 0
        for number, part in zip(self._current, parts, strict=True):
            shift[number] = begin - self._series.shards[number].begin
            own, begin = slice(begin, begin + len(part)), begin + len(part)
            view: Future[Series] = Future()
            view.set_result(replace(part, table=table[:, own], observed=observed[own]))
            with self._lock:
                self._read[number] = view
        return Joined(table, observed, shift)

    def _asked(self, number: int) -> "Future[Series]":
        with self._lock:
            if number not in self._read:
                self._read[number] = self._pool.submit(self._build, number)
                self._forget(beside=number)
            self._read.move_to_end(number)
            return self._read[number]

    def _forget(self, beside: int) -> None:
        """The shards whose last use is the longest ago, as long as there are too many bytes."""
        total = sum(self._series.sizes[n] for n in self._read)
        for number in list(self._read):
            if total <= 2 * self._series.shuffle_bytes:
                return
            if number != beside and number not in self._held:
                del self._read[number]
                total -= self._series.sizes[number]

    @patiently
    def _build(self, number: int) -> Series:
        series, shard = self._series, self._series.shards[number]
        assert series.origin is not None
        part = read_people(_snapshot(series.origin), shard.subjects, series.channels, series.origin.forecast)
        if len(part) != shard.stop - shard.begin:
            raise ValueError(
                f"{series.origin.snapshot}: {len(part)} points of {shard.subjects[0]} to "
                f"{shard.subjects[-1]}, expected {shard.stop - shard.begin}; the snapshot was changed: "
                "run `raycadian prepare` again"
            )
        return part


class Joined(NamedTuple):
    """Several shards' values, and what their positions in the series are shifted by in them: (S,), of each shard."""

    table: np.ndarray
    observed: np.ndarray
    shift: np.ndarray


def read_people(
    snapshot: Snapshot, subjects: Iterable[str], channels: tuple[str, ...], forecast: bool | None
) -> Series:
    """The series of some people of a snapshot, in memory. Raises ValueError, OSError."""
    return build_series(snapshot.part(list(subjects)), channels, forecast)


@lru_cache(maxsize=2)
def _snapshot(origin: Origin) -> Snapshot:
    """Opened once a process: a worker reads many shards of it."""
    return opened(origin)


def open_shards(
    snapshot: Snapshot, channels: tuple[str, ...], forecast: bool | None = None, *, shuffle_bytes: int,
    to_map: bool = False,
) -> ShardedSeries:  # fmt: skip
    """A snapshot's series in shards of which `shuffle_bytes` hold about eight. Raises ValueError, OSError."""
    origin = Origin(str(snapshot.path.absolute()), channels, forecast)
    rows = is_forecast(channels) if forecast is None else forecast
    points = max(shuffle_bytes // _TOGETHER // bytes_a_point(channels, rows), 1)
    people = people_in_shards(snapshot.lengths, points)
    scan = _scan(snapshot, origin, people)
    empty = np.empty((rows + len(channels), 0), np.float32), np.empty(0, bool)
    arrays = {name: scan[name] for name in _ARRAYS}
    series = ShardedSeries(
        *empty, **arrays, subjects=tuple(snapshot.subjects), channels=channels, dt_s=float(scan["dt_s"]), origin=origin,
        shuffle_bytes=shuffle_bytes, to_map=to_map,
    )  # fmt: skip
    return replace(series, shards=tuple(_laid(people, snapshot.lengths)))


def _laid(people: list[list[str]], lengths: dict[str, list[int]]) -> Iterator[Shard]:
    begin = 0
    for own in people:
        stop = begin + sum(sum(lengths[subject]) for subject in own)
        yield Shard(tuple(own), begin, stop)
        begin = stop


# --- the scan ---------------------------------------------------------------------------------------------------------


def _scan(snapshot: Snapshot, origin: Origin, people: list[list[str]]) -> dict[str, np.ndarray]:
    """What `ShardedSeries` keeps in memory, from this node's file, which the first process that asks writes."""
    path = origin.folder.with_name(f"{origin.folder.name}.scan.npz")
    if (arrays := _kept(path)) is not None:
        return arrays
    own_folder(path.parent)  # health data
    with FileLock(f"{path}.lock"):
        if (arrays := _kept(path)) is None:
            arrays = _scanned(snapshot, origin, people)
            with written_whole(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)
    return arrays


def _kept(path: Path) -> dict[str, np.ndarray] | None:
    """What an earlier scan left; None where there is nothing, or its checksums find it damaged."""
    try:
        with path.open("rb") as file, np.load(file) as kept:  # by its path it would stay open where it is damaged
            return {name: kept[name] for name in (*_ARRAYS, "dt_s")}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        log.warning("%s is damaged (%s): the snapshot is scanned again", path, error)
        return None


def _scanned(snapshot: Snapshot, origin: Origin, people: list[list[str]]) -> dict[str, np.ndarray]:
    """Raises ValueError where a channel is nobody's, or nobody has a recording."""
    if not people:
        raise ValueError(f"{snapshot.id}: no recordings; see its issues in manifest.json")
    points = sum(map(sum, snapshot.lengths.values()))
    parts = (scan_on_ray if cluster.pays(points / _POINTS_PER_S) else _scan_here)(snapshot, origin, people)
    if missing := set.intersection(*(part["missing"] for part in parts)):
        raise ValueError(f"window.past names {sorted(missing)}, which no recording of {snapshot.id} has; remove them")
    lengths = np.concatenate([part["lengths"] for part in parts])
    number = {subject: i for i, subject in enumerate(snapshot.subjects)}
    subjects = [number[subject] for part in parts for subject in part["subjects"]]
    steps = {part["dt_s"] for part in parts}
    assert len(steps) == 1, f"one grid step a snapshot, found {steps}"
    named = {
        name: np.concatenate([part[name] for part in parts]) for name in ("number_of", "start_s", "utc_offset_min")
    }
    return named | {
        "offsets": np.cumsum([0, *lengths]), "subject_of": np.array(subjects), "flips": _all_flips(parts),
        "dt_s": np.array(steps.pop()),
    }  # fmt: skip


def _scan_here(snapshot: Snapshot, origin: Origin, people: list[list[str]]) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(_AHEAD) as pool:
        return list(pool.map(lambda own: _scan_people(snapshot, origin, own), people))


def scan_on_ray(snapshot: Snapshot, origin: Origin, people: list[list[str]]) -> list[dict[str, Any]]:
    """The same by tasks of Ray Data, wherever they run."""
    ray = cluster.connect()
    items = [{"number": number, "subjects": json.dumps(own)} for number, own in enumerate(people)]
    data = ray.data.from_items(items, override_num_blocks=len(items)).map(_scan_item, fn_kwargs={"origin": origin})
    scans = {row["number"]: pickle.loads(row["scan"]) for row in data.iter_rows()}  # of our own tasks, over Ray
    return [scans[number] for number in range(len(people))]


def _scan_item(item: dict[str, Any], origin: Origin) -> dict[str, Any]:
    scan = _scan_people(_snapshot(origin), origin, json.loads(item["subjects"]))
    return {"number": item["number"], "scan": pickle.dumps(scan)}


def _scan_people(snapshot: Snapshot, origin: Origin, subjects: list[str]) -> dict[str, Any]:
    part = snapshot.part(subjects)
    recordings: list[Recording] = [r for _, own in part.each() for r in own]
    series = build_series(Recordings.of(recordings, snapshot.id), origin.channels, origin.forecast)
    missing = set(origin.channels).difference(*(r.channels for r in recordings))
    return {
        "subjects": [r.subject for r in recordings], "missing": missing, "lengths": np.diff(series.offsets),
        "flips": np.flatnonzero(np.diff(series.observed, prepend=False)), "ends": bool(series.observed[-1]),
        "dt_s": series.dt_s, "number_of": series.number_of, "start_s": series.start_s,
        "utc_offset_min": series.utc_offset_min,
    }  # fmt: skip


def _all_flips(parts: list[dict[str, Any]]) -> np.ndarray:
    """Where what was measured changes along the whole series; each part is told as if nothing was before it."""
    flips, begin, before = [], 0, False
    for part in parts:
        own = part["flips"] + begin
        if before:  # a flip at the border that isn't one, or one that is
            own = own[1:] if len(own) and own[0] == begin else np.concatenate([[begin], own])
        flips.append(own)
        begin, before = begin + int(part["lengths"].sum()), part["ends"]
    return np.concatenate(flips).astype(np.int64)
