"""All recordings of a snapshot as one memory-mapped table: what windows are cut from, shared by every process.

Memory stays flat in the size of the data: the operating system pages the table in and out, and workers and trials
on one machine share its pages.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from raycadian.types import GLUCOSE, Recording

_INDEX = ("offsets", "subject_of", "number_of", "start_s", "utc_offset_min")


class HasRecordings(Protocol):
    """What a series is built from: a snapshot, or one person's readings at the endpoint."""

    id: str
    subjects: list[str]

    def recordings(self, subject: str) -> list[Recording]: ...


@dataclass(frozen=True)
class Series:
    """Concatenated recordings. N points over R recordings, C past channels.

    table (1+C, N) float32: row 0 the target, NaN where it was not measured; then the past channels, the target
    first, gaps carried forward (causal: a value never comes from a later reading than an observed point after it).
    observed (N,) bool: where the target was measured · offsets (R+1,) first point of each recording · subject_of (R,) index into `subjects` · number_of (R,) number of
    the recording within its subject · start_s (R,) UTC seconds · utc_offset_min (R,).
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

    def __len__(self) -> int:
        return self.table.shape[1]

    def local_h(self, recording: np.ndarray, point: np.ndarray) -> np.ndarray:
        """Local hour of day, [0, 24), of points counted within recordings."""
        seconds = self.start_s[recording] + 60 * self.utc_offset_min[recording] + point * self.dt_s
        return (seconds % 86400) / 3600.0


def build_series(source: HasRecordings, channels: tuple[str, ...]) -> Series:
    """A series in memory, for few recordings (serving, tests). Raises ValueError."""
    recordings = [r for s in source.subjects for r in source.recordings(s)]
    if not recordings:
        raise ValueError(f"{source.id}: no recordings; see its issues in manifest.json")
    table = np.concatenate([_rows(r, channels) for r in recordings], axis=1)
    return _series(table, recordings, tuple(source.subjects), channels)


def open_series(source: HasRecordings, channels: tuple[str, ...], cache: Path) -> Series:
    """The memory-mapped series of a snapshot, built on first use below `cache`. Raises ValueError."""
    _require_channels(source, channels)
    folder = cache / f"{source.id}-{'-'.join(channels)}"
    if not folder.is_dir():
        _write(source, channels, folder)
    return _read(folder)


def _write(source: HasRecordings, channels: tuple[str, ...], folder: Path) -> None:
    """Stream subject by subject into a temporary folder, then rename: whole or absent."""
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    temporary.mkdir(parents=True)
    try:
        heads = [r for s in source.subjects for r in map(_head, source.recordings(s))]
        if not heads:
            raise ValueError(f"{source.id}: no recordings; see its issues in manifest.json")
        total = sum(len(r) for r in heads)
        shape = (1 + len(channels), total)
        table = np.lib.format.open_memmap(temporary / "table.npy", mode="w+", dtype=np.float32, shape=shape)
        position = 0
        for recording in _stream(source):
            table[:, position : position + len(recording)] = _rows(recording, channels)
            position += len(recording)
        table.flush()
        np.save(temporary / "observed.npy", ~np.isnan(table[0]))
        series = _series(table, heads, tuple(source.subjects), channels)
        np.savez(temporary / "index.npz", **{name: getattr(series, name) for name in _INDEX})
        meta = {"subjects": series.subjects, "channels": channels, "dt_s": series.dt_s}
        (temporary / "series.json").write_text(json.dumps(meta), encoding="utf-8")
        if not folder.exists():
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read(folder: Path) -> Series:
    meta = json.loads((folder / "series.json").read_text(encoding="utf-8"))
    # copy-on-write: torch wants writable memory, the file is never written
    table, observed = (np.load(folder / f"{name}.npy", mmap_mode="c") for name in ("table", "observed"))
    with np.load(folder / "index.npz") as index:
        arrays = {name: index[name] for name in _INDEX}
    return Series(
        table, observed, **arrays, subjects=tuple(meta["subjects"]), channels=tuple(meta["channels"]), dt_s=meta["dt_s"]
    )


def _require_channels(source: HasRecordings, channels: tuple[str, ...]) -> None:
    """An event channel that nobody recorded is an error; a person without such events has zeros."""
    missing = set(channels)
    for recording in _stream(source):
        missing -= set(recording.channels)
        if not missing:
            return
    raise ValueError(f"window.past names {sorted(missing)}, which no recording of {source.id} has; remove them")


def _stream(source: HasRecordings) -> Iterator[Recording]:
    for subject in source.subjects:
        yield from source.recordings(subject)


def _head(recording: Recording) -> Recording:
    """The recording without its channels: what the index needs."""
    return Recording(
        recording.subject, recording.index, recording.start_utc, recording.utc_offset_min, recording.dt_s, {},
        recording.observed,
    )  # fmt: skip


def _rows(recording: Recording, channels: tuple[str, ...]) -> np.ndarray:
    """(1+C, n): the target as measured, then the channels with gaps carried forward."""
    n = len(recording)
    rows = np.zeros((1 + len(channels), n), dtype=np.float32)
    rows[0] = np.where(recording.observed, recording.channels[GLUCOSE], np.nan)
    for i, name in enumerate(channels, start=1):
        if name in recording.channels:
            rows[i] = _carried_forward(recording.channels[name])
    return rows


def _carried_forward(values: np.ndarray) -> np.ndarray:
    """The last finite value before each point; 0 before the first."""
    last = np.maximum.accumulate(np.where(np.isnan(values), 0, np.arange(len(values))))
    return np.nan_to_num(values[last])


def _series(
    table: np.ndarray, recordings: Iterable[Recording], subjects: tuple[str, ...], channels: tuple[str, ...]
) -> Series:
    recordings = list(recordings)
    steps = {r.dt_s for r in recordings}
    assert len(steps) == 1, f"one grid step a snapshot, found {steps}"
    number = {s: i for i, s in enumerate(subjects)}
    return Series(
        table=table,
        observed=~np.isnan(table[0]),
        offsets=np.cumsum([0, *(len(r) for r in recordings)], dtype=np.int64),
        subject_of=np.array([number[r.subject] for r in recordings], dtype=np.int64),
        number_of=np.array([r.index for r in recordings], dtype=np.int64),
        start_s=np.array([r.start_utc.astype("datetime64[s]").astype(np.int64) for r in recordings]),
        utc_offset_min=np.array([r.utc_offset_min for r in recordings], dtype=np.int64),
        subjects=subjects,
        channels=channels,
        dt_s=steps.pop(),
    )
