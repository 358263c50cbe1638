"""All recordings of a snapshot as one memory-mapped table: what windows are cut from, shared by every process.

Memory stays flat in the size of the data: the operating system pages the table in and out, and workers and trials
on one machine share its pages. A series of a snapshot travels to other processes as its origin alone; each node builds
its table from the snapshot once, however many of its processes ask.
"""

import json
import logging
import os
import shutil
import socket
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from filelock import FileLock

from raycadian.data import storage
from raycadian.data.snapshot import Snapshot
from raycadian.errors import StorageError
from raycadian.files import on_disk, own_cache, own_folder, read_json
from raycadian.types import GLUCOSE, Batch, Recording

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
_AHEAD = 8  # batches read at once: object storage answers late, but many at a time
_TOGETHER = 65_536  # points of a batch, at least
Take = Callable[[np.ndarray, np.ndarray, "Tensor"], Batch]
"""(table, observed, starts within it) -> windows."""
_ABOUT, _FILES = "series.json", ("table.npy", "observed.npy", "index.npz")
_INDEX = ("offsets", "subject_of", "number_of", "start_s", "utc_offset_min")


@dataclass(frozen=True)
class Recordings:
    """Recordings in memory, subject -> theirs in the order of time: of a request, a person's file, a simulation."""

    id: str
    by_subject: Mapping[str, list[Recording]]

    @staticmethod
    def of(recordings: Iterable[Recording], id: str = "request") -> "Recordings":
        """Of any people, in the order in which they first appear."""
        by_subject: dict[str, list[Recording]] = {}
        for recording in recordings:
            by_subject.setdefault(recording.subject, []).append(recording)
        return Recordings(id, by_subject)

    @property
    def subjects(self) -> list[str]:
        return list(self.by_subject)

    def each(self) -> Iterator[tuple[str, list[Recording]]]:
        return iter(self.by_subject.items())


@dataclass(frozen=True)
class Origin:
    """The snapshot (a path or URL) and the channels that a series was built from: enough to have it on any node."""

    snapshot: str
    channels: tuple[str, ...]
    forecast: bool | None = None

    @property
    def folder(self) -> Path:
        """Where this node keeps the table: beside snapshots that are files, else in `own_cache`."""
        path = storage.resolve_path(self.snapshot)
        cache = own_cache() if storage.remote(path) else path.parent / ".cache"
        row = "" if self.forecast in (None, is_forecast(self.channels)) else f"-forecast_{self.forecast}".lower()
        return cache / f"{path.name}-{'-'.join(self.channels)}{row}"


@dataclass(frozen=True)
class Series:
    """Concatenated recordings. N points over R recordings, C past channels.

    table (1+C, N) float32: row 0 the target, NaN where it was not measured; then the past channels, the target
    first, gaps carried forward (causal: a value never comes from a later reading than an observed point after it).
    Where nothing is forecast there is no row 0: (C, N).
    observed (N,) bool: where the target, or every channel, was measured · offsets (R+1,) first point of each recording
    · subject_of (R,) index into `subjects` · number_of (R,) number of the recording within its subject · start_s (R,)
    UTC seconds · utc_offset_min (R,).
    """

    table: np.ndarray
    observed: np.ndarray
    offsets: np.ndarray
    subject_of: np.ndarray
    number_of: np.ndarray
    start_s: np.ndarray
    utc_offset_min: np.ndarray
    subjects: tuple[str, ...]
    channels: tuple[str, ...]
    dt_s: float
    origin: Origin | None = None

    def __reduce__(self) -> tuple[Callable[..., "Series"], tuple[Any, ...]]:
        """With an origin, that; the process that receives it maps its node's table. Else (serving) the arrays."""
        if self.origin is not None:
            return _reopen, (self.origin,)
        return Series, tuple(getattr(self, field.name) for field in fields(self))

    def __len__(self) -> int:
        return self.table.shape[1]

    def values(self, begin: int, stop: int) -> np.ndarray:
        """(1+C, n) of the points [begin, stop): part of the table."""
        return self.table[:, begin:stop]

    def measured(self, begin: int, stop: int) -> np.ndarray:
        """(n,) of the points [begin, stop): part of `observed`."""
        return self.observed[begin:stop]

    def gather(self, starts: "Tensor", length: int, take: "Take") -> Batch:
        """Windows of `length` points that begin at the positions `starts` (B,), as `take` cuts them from a table."""
        return take(self.table, self.observed, starts)

    def positions(self) -> dict[tuple[str, int], int]:
        """Position in the series of each recording, by (subject, number)."""
        whose = zip(self.subject_of.tolist(), self.number_of.tolist(), strict=True)
        return {(self.subjects[s], n): i for i, (s, n) in enumerate(whose)}

    @property
    def lengths(self) -> dict[str, list[int]]:
        """Points of each recording in order, by subject: what a split needs."""
        lengths: dict[str, list[int]] = {}
        for subject, n in zip(self.subject_of, np.diff(self.offsets), strict=True):
            lengths.setdefault(self.subjects[subject], []).append(int(n))
        return lengths

    def local_h(self, recording: np.ndarray, point: np.ndarray) -> np.ndarray:
        """Local hour of day, [0, 24), of points counted within recordings."""
        seconds = self.start_s[recording] + 60 * self.utc_offset_min[recording] + point * self.dt_s
        return (seconds % 86400) / 3600.0


def build_series(source: Snapshot | Recordings, channels: tuple[str, ...], forecast: bool | None = None) -> Series:
    """A series in memory, for few recordings (serving, tests) or few points (numerics). `forecast`: whether the first
    channel is; glucose is if left out. Raises ValueError."""
    target = is_forecast(channels) if forecast is None else forecast
    recordings = [r for _, own in source.each() for r in own]
    if not recordings:
        raise ValueError(f"{source.id}: no recordings; see its issues in manifest.json")
    table = np.concatenate([rows_of(r, channels, target) for r in recordings], axis=1)
    observed = np.concatenate([observed_of(r, channels, target) for r in recordings])
    return _series(table, observed, recordings, tuple(source.subjects), channels)


def open_series(snapshot: Snapshot, channels: tuple[str, ...], forecast: bool | None = None) -> Series:
    """The memory-mapped series of a snapshot, which this node builds on first use; of a part of one, in memory.
    `forecast`: as of `build_series`. Raises ValueError, OSError."""
    if not snapshot.whole:
        return build_series(snapshot, channels, forecast)
    origin = Origin(str(snapshot.path.absolute()), channels, forecast)
    if storage.remote(snapshot.path):
        own_folder(own_cache())  # health data
    return replace(map_series(snapshot, channels, origin.folder, forecast), origin=origin)


def _reopen(origin: Origin) -> Series:
    """The same on the node of this process, which may be another one; the snapshot is read only where it must be."""
    if (series := mapped_in(origin.folder)) is not None:
        return replace(series, origin=origin)
    return open_series(opened(origin), origin.channels, origin.forecast)


def opened(origin: Origin) -> Snapshot:
    """The snapshot, as the node of this process sees it. Raises ValueError."""
    try:
        return Snapshot.open(origin.snapshot)
    except ValueError as error:
        raise ValueError(
            f"node {socket.gethostname()} can't read the snapshot ({error}); with several nodes, --snapshots must name "
            "storage that all of them share: a shared folder at the same path, or s3://bucket/folder"
        ) from None


def map_series(source: Snapshot, channels: tuple[str, ...], folder: Path, forecast: bool | None = None) -> Series:
    """A source's series, memory-mapped from `folder`, built by the first process that asks, and again where a file of
    it was changed since. Raises ValueError."""
    if (series := mapped_in(folder)) is not None:
        return series
    own_folder(folder.parent)
    with FileLock(f"{folder}.lock"):
        if (series := mapped_in(folder)) is not None:
            return series
        if folder.is_dir():
            log.warning("%s is not as it was written, or by an earlier version: it is built again", folder)
            shutil.rmtree(folder)
        _write(source, channels, folder, is_forecast(channels) if forecast is None else forecast)
        return _read(folder, read_json(folder / _ABOUT))


def _write(source: Snapshot, channels: tuple[str, ...], folder: Path, target: bool) -> None:
    """Stream subject by subject into a temporary folder, then rename: whole or absent."""
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    try:
        with on_disk(folder):
            own_folder(temporary)
            series = _filled(source, channels, temporary, target)
            np.savez(temporary / "index.npz", **{name: getattr(series, name) for name in _INDEX})
            meta = {"subjects": series.subjects, "channels": channels, "dt_s": series.dt_s}
            meta["files"] = {name: dated(temporary / name) for name in _FILES}
            (temporary / _ABOUT).write_text(json.dumps(meta), encoding="utf-8")
            _appear(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _filled(source: Snapshot, channels: tuple[str, ...], folder: Path, target: bool) -> Series:
    """The series with its table and mask in files of `folder`. Raises ValueError."""
    total = sum(map(sum, source.lengths.values()))
    if not total:
        raise ValueError(f"{source.id}: no recordings; see its issues in manifest.json")
    require_room(folder, total * bytes_a_point(channels, target), "the table")
    table = _array(folder / "table.npy", np.float32, (target + len(channels), total))
    observed = _array(folder / "observed.npy", np.bool_, (total,))
    heads, missing, position = [], set(channels), 0
    for recording in each_recording(source):
        points = slice(position, position + len(recording))
        table[:, points] = rows_of(recording, channels, target)
        observed[points] = observed_of(recording, channels, target)
        heads.append(_head(recording))
        missing -= set(recording.channels)
        position = points.stop
    assert position == total, f"{source.id}: {position} points, its manifest says {total}"
    if missing:  # of everybody; a person without such events has zeros
        raise ValueError(f"window.past names {sorted(missing)}, which no recording of {source.id} has; remove them")
    table.flush()
    observed.flush()
    return _series(table, observed, heads, tuple(source.subjects), channels)


def require_room(folder: Path, n_bytes: int, what: str) -> None:
    """Raises StorageError where `n_bytes` don't fit the disk of a folder."""
    if n_bytes > (free := shutil.disk_usage(folder).free):
        raise StorageError(
            f"node {socket.gethostname()}: {what} takes {n_bytes / 1e9:.3g} GB, the disk of {folder.parent} has "
            f"{free / 1e9:.3g} GB free; free space there, name another disk with RAYCADIAN_CACHE (of a snapshot in "
            "object storage), or set training.data=streamed, which needs none"
        )


def bytes_a_point(channels: tuple[str, ...], target: bool) -> int:
    return 4 * (target + len(channels)) + 1


def _appear(built: Path, folder: Path) -> None:
    """Rename, unless another node's equal one is there: NFS may show it, and its lock, too late."""
    try:
        built.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _array(path: Path, dtype: type, shape: tuple[int, ...]) -> np.memmap:
    """A new array on disk, its space reserved: a full disk is an OSError here, not a bus error on writing to memory."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def mapped_in(folder: Path) -> Series | None:
    """The series in a folder, whose files nobody has written to since it was built; None where there is none."""
    try:
        meta = read_json(folder / _ABOUT)
        same = {name: dated(folder / name) for name in _FILES} == meta["files"]
        return _read(folder, meta) if same else None
    except (ValueError, OSError, LookupError, TypeError, BadZipFile):
        return None


def dated(file: Path) -> list[int]:
    """What tells a file that was written to: to read it all would take as long as to build it."""
    about = file.stat()
    return [about.st_size, about.st_mtime_ns]


def _read(folder: Path, meta: dict[str, Any]) -> Series:
    # copy-on-write: torch wants writable memory, the file is never written
    table, observed = (np.load(folder / f"{name}.npy", mmap_mode="c") for name in ("table", "observed"))
    with (folder / "index.npz").open("rb") as file, np.load(file) as index:
        arrays = {name: index[name] for name in _INDEX}
    return Series(
        table, observed, **arrays, subjects=tuple(meta["subjects"]), channels=tuple(meta["channels"]), dt_s=meta["dt_s"]
    )


def each_recording(source: Snapshot) -> Iterator[Recording]:
    """Recordings in the order of subjects, of which those of at most `_AHEAD` batches are held."""
    waiting: deque[Future[list[Recording]]] = deque()
    with ThreadPoolExecutor(_AHEAD) as pool:
        for subjects in _neighbours(source):
            waiting.append(pool.submit(_recordings, source, subjects))
            if len(waiting) == _AHEAD:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _neighbours(source: Snapshot) -> Iterator[list[str]]:
    """Subjects that are read together, some `_TOGETHER` points."""
    lengths, batch, points = source.lengths, [], 0
    for subject in source.subjects:
        batch.append(subject)
        points += sum(lengths[subject])
        if points >= _TOGETHER:
            yield batch
            batch, points = [], 0
    if batch:
        yield batch


def _recordings(source: Snapshot, subjects: list[str]) -> list[Recording]:
    return [recording for _, own in source.each(subjects) for recording in own]


def _head(recording: Recording) -> Recording:
    """The recording without its values: what the index needs, of the same length."""
    return replace(recording, channels={}, observed=np.broadcast_to(np.False_, len(recording)), events=None)


def is_forecast(channels: tuple[str, ...]) -> bool:
    """Whether the first channel of a snapshot is one that is forecast; numerics have a series in memory."""
    return channels[0] == GLUCOSE


def rows_of(recording: Recording, channels: tuple[str, ...], target: bool) -> np.ndarray:
    """(1+C, n): the target as measured, then the channels with gaps carried forward; (C, n) if nothing is forecast."""
    rows = np.zeros((target + len(channels), len(recording)), dtype=np.float32)
    if target:
        rows[0] = np.where(recording.observed, recording.channels[channels[0]], np.nan)
    for i, name in enumerate(channels, start=target):
        if name in recording.channels:
            rows[i] = _carried_forward(recording.channels[name])
    return rows


def observed_of(recording: Recording, channels: tuple[str, ...], target: bool) -> np.ndarray:
    """(n,): where the target is known, or every channel was measured."""
    if target:
        return recording.observed & ~np.isnan(recording.channels[channels[0]])
    seen = [~np.isnan(recording.channels[c]) for c in channels if c in recording.channels]
    return (
        recording.observed & np.logical_and.reduce(seen)
        if len(seen) == len(channels)
        else np.zeros(len(recording), bool)
    )


def _carried_forward(values: np.ndarray) -> np.ndarray:
    """The last finite value before each point; 0 before the first."""
    last = np.maximum.accumulate(np.where(np.isnan(values), 0, np.arange(len(values))))
    return np.nan_to_num(values[last])


def _series(
    table: np.ndarray, observed: np.ndarray, recordings: list[Recording], subjects: tuple[str, ...],
    channels: tuple[str, ...],
) -> Series:  # fmt: skip
    steps = {r.dt_s for r in recordings}
    assert len(steps) == 1, f"one grid step a snapshot, found {steps}"
    number = {s: i for i, s in enumerate(subjects)}
    return Series(
        table=table,
        observed=observed,
        offsets=np.cumsum([0, *(len(r) for r in recordings)], dtype=np.int64),
        subject_of=np.array([number[r.subject] for r in recordings], dtype=np.int64),
        number_of=np.array([r.index for r in recordings], dtype=np.int64),
        start_s=np.array([r.start_utc.astype("datetime64[s]").astype(np.int64) for r in recordings]),
        utc_offset_min=np.array([r.utc_offset_min for r in recordings], dtype=np.int64),
        subjects=subjects,
        channels=channels,
        dt_s=steps.pop(),
    )
