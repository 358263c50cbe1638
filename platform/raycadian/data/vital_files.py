"""VitalDB's .vital files, by the package vitaldb, which takes a broken file for a short one: so it is looked at first.

A file is a gzip stream of packets: devices, tracks, and records of a track (a stretch of samples and its time, or one number).
Times are seconds since 1970; a track of integers has a gain, an offset, and a value that means missing.
"""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raycadian.data.source import open_bytes
from raycadian.data.tracks import case_of, check_length, numeric, waveform
from raycadian.types import Case, Issues, Track

_PACKET = struct.Struct("<BL")  # kind, length
_TRACK, _WAVE, _NUMBER = 0, 1, 2
_INTEGERS_32 = (7, 8)  # the package reads them as 64-bit on Linux
_TOO_LARGE = 4e9  # what the package takes for missing


def is_vital(head: bytes) -> bool:
    """Whether a file's first bytes, decompressed, are those of a .vital file."""
    return head.startswith(b"VITA")


def read_vital(path: Path, wanted: Sequence[str] | None, issues: Issues) -> Case:
    """The tracks of a file that match `wanted` (all that hold numbers where None). Raises ValueError where it isn't whole."""
    _check_whole(path)
    file = _load(path, wanted)
    tracks = {}
    for name, found in file.trks.items():
        track = _track(found, file.dtstart, f"{path}: {name}", issues)
        if track is None:
            issues.add("track of text (left out)", f"{path.name}: {name}")
        elif not len(track):
            issues.add("track without samples (left out)", f"{path.name}: {name}")
        else:
            tracks[name] = track
    start = np.datetime64(round(file.dtstart * 1000), "ms") if file.dtstart > 0 else None
    return Case(case_of(path), "", tracks, start_utc=start)


def track_names(path: Path) -> list[str]:
    """The full names of a file's tracks. Raises ValueError."""
    _check_whole(path)
    return list(_load(path, None, header_only=True).trks)


def _check_whole(path: Path) -> None:
    """Raises ValueError for a file that is cut off, corrupted or something else."""
    packets = 0
    try:
        with open_bytes(path) as stream:
            head = stream.read(10)
            if not is_vital(head):
                raise ValueError(f"{path}: not a .vital file (it begins with {head[:4]!r})")
            length = int.from_bytes(head[8:], "little")
            _exactly(stream, length)
            while packet := stream.read(_PACKET.size):
                kind, length = _PACKET.unpack(packet)
                body = _exactly(stream, length)
                packets += 1
                if kind == _TRACK and body[2] in (_WAVE, _NUMBER) and body[3] in _INTEGERS_32:
                    raise ValueError(
                        f"{path}: a track of 32-bit integers, which package vitaldb misreads; export it as float"
                    )
    except (EOFError, OSError, zlib.error, struct.error, IndexError) as error:
        raise ValueError(
            f"{path}: truncated or corrupted after {packets:,} packets ({error}); copy or download it again"
        ) from None


def _exactly(stream: io.BufferedIOBase, length: int) -> bytes:
    body = stream.read(length)
    if len(body) < length:
        raise EOFError(f"a packet of {length:,} bytes ends after {len(body):,}")
    return body


def _load(path: Path, wanted: Sequence[str] | None, header_only: bool = False) -> Any:
    from vitaldb.utils import VitalFile

    file, said = VitalFile(), io.StringIO()
    file.dtstart = file.dtend = 0.0  # a new file is of now
    with contextlib.redirect_stdout(said):
        whole = file.load_vital(str(path), list(wanted) if wanted else None, header_only)
    if not whole:
        raise ValueError(f"{path}: package vitaldb can't read it: {said.getvalue().strip() or 'no header'}")
    return file


def _track(found: Any, start: float, where: str, issues: Issues) -> Track | None:
    match found.type:
        case 1:
            return _wave(found, start, where, issues)
        case 2:
            times = np.array([record["dt"] for record in found.recs]) - start
            track, twice = numeric(np.array([record["val"] for record in found.recs]), times, found.unit)
            issues.add("several numbers at one time (the last kept)", where, twice)
            return track
    return None


def _wave(found: Any, start: float, where: str, issues: Issues) -> Track:
    """Records laid out by their times at the track's rate; NaN between them."""
    records = sorted((r for r in found.recs if len(r["val"])), key=lambda record: record["dt"])
    if not records:
        return waveform(np.empty(0), found.srate, found.unit, 0.0, where)
    first = records[0]["dt"]
    at = [round((record["dt"] - first) * found.srate) for record in records]
    ends = [i + len(record["val"]) for i, record in zip(at, records, strict=True)]
    check_length(max(ends), where)
    values = np.full(max(ends), np.nan, dtype=np.float32)
    for i, end, record in zip(at, ends, records, strict=True):
        values[i:end] = _physical(record["val"], found)
    overlaps = np.maximum.accumulate(ends)[:-1] - np.array(at[1:], dtype=np.int64)
    issues.add(
        "samples recorded twice (the later kept)", where, int(overlaps[overlaps > 1].sum())
    )  # 1 is the clock's jitter
    return waveform(values, found.srate, found.unit, first - start, where)


def _physical(raw: np.ndarray, found: Any) -> np.ndarray:
    """Stored samples in the track's unit, float32, NaN = missing."""
    from vitaldb.utils import FMT_NAN

    values = raw.astype(np.float32)
    if found.fmt > 2:  # integers
        values = values * np.float32(found.gain) + np.float32(found.offset)
        values[raw == FMT_NAN[found.fmt]] = np.nan
    values[~(np.abs(values) <= _TOO_LARGE)] = np.nan
    return values
