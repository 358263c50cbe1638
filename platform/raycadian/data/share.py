"""What the workers of one node read of a series, mapped from this node's disk: the rest of the table takes no room.

The table has the size of the whole one, so that positions are the same everywhere; only points that somebody on this
node asked for are written, the others are holes in the file. Each worker adds its own before it trains.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
from filelock import FileLock
from torch import Tensor

from raycadian.data.series import (
    Origin,
    Series,
    Take,
    bytes_a_point,
    dated,
    each_recording,
    is_forecast,
    mapped_in,
    observed_of,
    opened,
    require_room,
    rows_of,
)  # fmt: skip
from raycadian.files import on_disk, own_folder, read_json
from raycadian.runs import patiently
from raycadian.types import Batch

log = logging.getLogger(__name__)
_ABOUT, _FILES = "share.json", ("table.npy", "observed.npy")


@dataclass(frozen=True)
class Share(Series):
    """A series of which the points `present` (K, 2), [begin, stop) each, are there."""

    present: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))

    def values(self, begin: int, stop: int) -> np.ndarray:
        self._require(np.array([begin]), stop - begin)
        return super().values(begin, stop)

    def gather(self, starts: Tensor, length: int, take: Take) -> Batch:
        self._require(starts.numpy(), length)
        return super().gather(starts, length, take)

    def _require(self, begin: np.ndarray, length: int) -> None:
        """A hole holds zeros that nobody measured."""
        place = np.searchsorted(self.present[:, 0], begin, side="right") - 1
        assert (place >= 0).all() and (begin + length <= self.present[place, 1]).all(), "points of another worker"


@patiently
def map_share(series: Series, needed: np.ndarray) -> Series:
    """A snapshot's series with at least the points `needed` (K, 2), [begin, stop) each, mapped from this node's disk:
    from its whole table, where there is one. Raises ValueError, StorageError where the disk has no room for them."""
    origin = series.origin
    assert origin is not None
    if (whole := mapped_in(origin.folder)) is not None:
        return replace(whole, origin=origin)
    folder = own_folder(origin.folder.parent) / f"{origin.folder.name}-share"
    with FileLock(f"{folder}.lock"), on_disk(folder):
        present = _begun(folder, series)
        if len(missing := _without(needed, present)):
            _fill(folder, series, missing)
            present = _union(present, missing)
            about = {"present": present.tolist(), "files": {name: dated(folder / name) for name in _FILES}}
            (folder / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
    # copy-on-write: torch wants writable memory, and others add theirs to the file
    table, observed = (np.load(folder / name, mmap_mode="c") for name in _FILES)
    index = {f.name: getattr(series, f.name) for f in fields(Series)} | {"table": table, "observed": observed}
    return Share(**index, present=present)


def _begun(folder: Path, series: Series) -> np.ndarray:
    """What the share of this node has, which is begun where there is none or a file of it was changed since."""
    try:
        about = read_json(folder / _ABOUT)
        if about["files"] == {name: dated(folder / name) for name in _FILES}:
            return np.array(about["present"], np.int64)
        log.warning("%s is not as it was written: it is built again", folder)
    except (ValueError, OSError, LookupError, TypeError):  # none, or one whose writer was killed
        pass
    shutil.rmtree(folder, ignore_errors=True)
    own_folder(folder)
    shapes = ((len(series.table), len(series)), (len(series),))
    for name, dtype, shape in zip(_FILES, (np.float32, np.bool_), shapes, strict=True):
        np.lib.format.open_memmap(folder / name, mode="w+", dtype=dtype, shape=shape)
    return np.empty((0, 2), np.int64)


def _fill(folder: Path, series: Series, missing: np.ndarray) -> None:
    """Write the points `missing` (K, 2), read from the snapshot person by person. Raises ValueError."""
    assert series.origin is not None
    rows = len(series.table) > len(series.channels)
    n_bytes = int(np.diff(missing).sum()) * bytes_a_point(series.channels, rows)
    require_room(folder, n_bytes, "what its workers read of the table")
    table, observed = (np.load(folder / name, mmap_mode="r+") for name in _FILES)
    for array, name in zip((table, observed), _FILES, strict=True):
        _reserve(folder / name, array, missing)
    for points, own_rows, own_observed in _points(series, series.origin, missing):
        table[:, points], observed[points] = own_rows, own_observed
    table.flush()
    observed.flush()


def _reserve(path: Path, array: np.memmap, ranges: np.ndarray) -> None:
    """Room on the disk: a full one is an OSError here, not a bus error on writing to memory."""
    size, points = array.itemsize, array.shape[-1]
    with path.open("r+b") as file:
        for row in range(array.size // points):
            for begin, stop in ranges.tolist():
                os.posix_fallocate(file.fileno(), array.offset + (row * points + begin) * size, (stop - begin) * size)


def _points(
    series: Series, origin: Origin, missing: np.ndarray
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:  # fmt: skip
    """Where, the table's rows and what was measured there, of each piece of a recording that lies in `missing`."""
    target = is_forecast(origin.channels) if origin.forecast is None else origin.forecast
    extents = np.stack([series.offsets[:-1], series.offsets[1:]], axis=1)
    reached, pieces = _overlaps(extents, missing)
    people = [series.subjects[number] for number in np.unique(series.subject_of[reached])]
    positions = series.positions()
    for recording in each_recording(opened(origin).part(people)):
        place = positions[recording.subject, recording.index]
        begin, stop = extents[place].tolist()
        if len(recording) != stop - begin:
            raise ValueError(
                f"{origin.snapshot}: {len(recording)} points of {recording.subject}, expected {stop - begin}; the "
                "snapshot was changed: run `raycadian prepare` again"
            )
        rows, observed = rows_of(recording, origin.channels, target), observed_of(recording, origin.channels, target)
        for first, last in pieces[slice(*np.searchsorted(reached, [place, place + 1]))].tolist():
            own = slice(first - begin, last - begin)
            yield slice(first, last), rows[:, own], observed[own]


# --- ranges of points: (K, 2), [begin, stop) each ---------------------------------------------------------------------


def _union(*ranges: np.ndarray) -> np.ndarray:
    """In order, those that touch joined."""
    together = np.concatenate(ranges)
    begin, stop = together[np.argsort(together[:, 0], kind="stable")].T
    reach = np.maximum.accumulate(stop)
    first = np.flatnonzero(np.concatenate([[True], begin[1:] > reach[:-1]]))
    return np.stack([begin[first], reach[np.append(first[1:], len(begin)) - 1]], axis=1)


def _overlaps(ranges: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pieces (P, 2) of `ranges` that lie in `others`, both in order, and the range (P,) of each."""
    first = np.searchsorted(others[:, 1], ranges[:, 0], side="right")
    count = np.maximum(np.searchsorted(others[:, 0], ranges[:, 1]) - first, 0)
    of = np.repeat(np.arange(len(ranges)), count)
    other = np.arange(len(of)) + np.repeat(first - (np.cumsum(count) - count), count)
    begin, stop = np.maximum(ranges[of, 0], others[other, 0]), np.minimum(ranges[of, 1], others[other, 1])
    return of, np.stack([begin, stop], axis=1)


def _without(needed: np.ndarray, present: np.ndarray) -> np.ndarray:
    """The parts of `needed` that are not in `present`, which is a union."""
    needed = _union(needed)
    holes = np.concatenate([[0], present.ravel(), [needed[-1, 1]]]).reshape(-1, 2)
    holes = holes[holes[:, 0] < holes[:, 1]]
    return _overlaps(needed, holes)[1]
