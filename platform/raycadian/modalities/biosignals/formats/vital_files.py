"""VitalDB's .vital files: a gzip stream of packets, read in one pass (vitaldb.net/docs, and the package vitaldb, which
writes them).

A packet names a device, declares a track, or is a record of a track: its time (seconds since 1970) and a stretch of
samples or one number. Integers have a gain and an offset, and in a packed file a value that means missing.

The package's own reader is not used: of a truncated file it returns what there is, it prints errors and goes on, it
reads 32-bit integers as 64-bit ones, and it leaves the file open. The tests hold this one against it.
"""

import io
import math
import struct
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from raycadian.data.source import MAX_RECORDS, check_count, open_bytes
from raycadian.modalities.biosignals.tracks import Room, case_of, matches, numeric, waveform
from raycadian.types import Case, Issues, Track

_PACKET = struct.Struct("<BL")  # kind, length
_TRACK, _RECORD, _DEVICE = 0, 1, 9
_WAVE, _NUMBER = 1, 2
_TYPES = {1: "<f4", 2: "<f8", 3: "i1", 4: "u1", 5: "<i2", 6: "<u2", 7: "<i4", 8: "<u4"}
_TOO_LARGE = 4e9  # what VitalDB's own software takes for missing


@dataclass
class _Declared:
    """One track as it is declared, and its records (time in s since 1970, bytes)."""

    name: str
    kind: int
    dtype: np.dtype
    unit: str
    rate_hz: float
    gain: float
    offset: float
    wanted: bool = True
    records: list[tuple[float, bytes]] = field(default_factory=list)


@dataclass
class _File:
    packed: bool
    start: float  # seconds since 1970, 0 where the file has no record
    tracks: list[_Declared]


def read_vital(path: Path, wanted: Sequence[str] | None, issues: Issues) -> Case:
    """A file's tracks that match `wanted` (all with numbers where None). Raises ValueError where it isn't whole."""
    file = _parse(path, wanted)
    tracks: dict[str, Track] = {}
    room = Room()
    for declared in (declared for declared in file.tracks if declared.wanted):
        where = f"{path}: {declared.name}"
        track = (
            _wave(declared, file, where, issues, room)
            if declared.kind == _WAVE
            else _number(declared, file, where, issues)
        )
        if not len(track):
            issues.add("track without samples (left out)", where)
        elif declared.name in tracks:
            issues.add("track declared twice (the first kept)", where)
        else:
            tracks[declared.name] = track
    start = np.datetime64(round(file.start * 1000), "ms") if file.start > 0 else None
    return Case(case_of(path), "", tracks, start_utc=start)


def track_names(path: Path) -> list[str]:
    """The full names of a file's tracks of numbers. Raises ValueError."""
    return [declared.name for declared in _parse(path, ()).tracks]


# --- packets -------------------------------------------------------------------------------------------------------


def _parse(path: Path, wanted: Sequence[str] | None) -> _File:
    """What the file declares, with the records of the tracks that match. Raises ValueError for a file that is cut off,
    corrupted or something else."""
    packets = 0
    try:
        with open_bytes(path) as stream:
            packed, start = _header(stream, path)
            devices: dict[int, str] = {}
            tracks: dict[int, _Declared | None] = {}
            for kind, body in _packets(stream):
                packets += 1
                if kind == _DEVICE:
                    number, name = _device(body)
                    devices[number] = name
                elif kind == _TRACK:
                    number, declared = _declared(body, devices)
                    if declared:
                        declared.wanted = wanted is None or matches(declared.name, wanted)
                    tracks[number] = declared
                elif kind == _RECORD and len(body) >= 12:
                    skip, time, number = struct.unpack_from("<HdH", body)
                    if not math.isfinite(time):
                        raise EOFError("a record without a time")
                    start = min(start, time) if start and time > 0 else start or max(time, 0.0)
                    declared = tracks.get(number)
                    if declared and declared.wanted:
                        if packets > MAX_RECORDS:
                            check_count(packets, path, what="packets")
                        declared.records.append((time, _samples(body, 2 + skip, declared)))
    except (EOFError, OSError, zlib.error, struct.error) as error:
        raise ValueError(
            f"{path}: truncated or corrupted after {packets:,} packets ({error}); copy or download it again"
        ) from None
    return _File(packed, start, [declared for declared in tracks.values() if declared])


def _header(stream: io.BufferedIOBase, path: Path) -> tuple[bool, float]:
    head = stream.read(10)
    if not head.startswith(b"VITA"):
        raise ValueError(f"{path}: not a .vital file (it begins with {head[:4]!r})")
    body = _exactly(stream, struct.unpack("<H", head[8:])[0])
    start = struct.unpack_from("<d", body, 10)[0] if len(body) >= 26 else 0.0
    return len(body) > 26 and body[26] == 1, start


def _packets(stream: io.BufferedIOBase) -> Iterator[tuple[int, bytes]]:
    while head := stream.read(_PACKET.size):
        kind, length = _PACKET.unpack(head)
        yield kind, _exactly(stream, length)


def _exactly(stream: io.BufferedIOBase, length: int) -> bytes:
    body = stream.read(length)
    if len(body) < length:
        raise EOFError(f"a packet of {length:,} bytes ends after {len(body):,}")
    return body


def _device(body: bytes) -> tuple[int, str]:
    kind, at = _text(body, 4)
    name, _ = _text(body, at)
    return struct.unpack_from("<L", body)[0], name or kind


def _declared(body: bytes, devices: dict[int, str]) -> tuple[int, _Declared | None]:
    """Number of a track, and the track; None where it is of text. What follows the name may be left off."""
    number, kind, code = struct.unpack_from("<HBB", body)
    name, at = _text(body, 4)
    unit, at = _text(body, at) if at < len(body) else ("", at)
    tail = body[at:].ljust(45, b"\0")
    rate, gain, offset = struct.unpack_from("<fdd", tail, 12)  # after the limits of the display and its colour
    device = devices.get(struct.unpack_from("<L", tail, 33)[0], "")
    if kind not in (_WAVE, _NUMBER) or code not in _TYPES:
        return number, None
    full = f"{device}/{name}" if device else name
    return number, _Declared(full, kind, np.dtype(_TYPES[code]), unit, rate, gain or 1.0, offset)


def _text(body: bytes, at: int) -> tuple[str, int]:
    end = at + 4 + struct.unpack_from("<L", body, at)[0]
    if end > len(body):
        raise EOFError("a name ends outside of its packet")
    return body[at + 4 : end].decode("utf-8", "replace"), end


def _samples(body: bytes, at: int, declared: _Declared) -> bytes:
    n, at = (struct.unpack_from("<L", body, at)[0], at + 4) if declared.kind == _WAVE else (1, at)
    if len(body) < at + n * declared.dtype.itemsize:
        raise EOFError(f"{declared.name}: a record of {n:,} samples in {len(body):,} bytes")
    return body[at : at + n * declared.dtype.itemsize]


# --- tracks --------------------------------------------------------------------------------------------------------


def _number(declared: _Declared, file: _File, where: str, issues: Issues) -> Track:
    times = np.array([time for time, _ in declared.records]) - file.start
    values = np.frombuffer(b"".join(raw for _, raw in declared.records), declared.dtype)
    return numeric(values, times, declared.unit, where, issues)


def _wave(declared: _Declared, file: _File, where: str, issues: Issues, room: Room) -> Track:
    """Records laid out by their times at the track's rate; NaN between them."""
    rate = declared.rate_hz
    records = deque(sorted((record for record in declared.records if record[1]), key=lambda record: record[0]))
    declared.records.clear()
    if not records:
        return Track(np.empty(0, np.float32), declared.unit, rate_hz=max(rate, 1.0))
    waveform(np.empty(0), rate, declared.unit, 0.0, where)  # the rate can be one
    first = records[0][0]
    room.take((records[-1][0] - first) * rate + len(records[-1][1]), where)
    at = np.array([round((time - first) * rate) for time, _ in records])
    ends = at + np.array([len(raw) // declared.dtype.itemsize for _, raw in records])
    values = np.full(ends.max(), np.nan, dtype=np.float32)
    for i in at.tolist():
        samples = np.frombuffer(records.popleft()[1], declared.dtype)  # gone once laid out: not the track twice
        _physical(samples, declared, file.packed, values[i : i + len(samples)])
    overlaps = np.maximum.accumulate(ends)[:-1] - at[1:]
    issues.add(
        "sample recorded twice (the later kept)", where, int(overlaps[overlaps > 1].sum())
    )  # 1: the clock's jitter
    return waveform(values, rate, declared.unit, first - file.start, where)


def _physical(raw: np.ndarray, declared: _Declared, packed: bool, out: np.ndarray) -> None:
    """Stored samples in the track's unit into `out`, NaN = missing."""
    with np.errstate(over="ignore"):  # of doubles; beyond what a sample may be anyway
        out[:] = raw
    if raw.dtype.kind != "f":
        out *= np.float32(declared.gain)
        out += np.float32(declared.offset)
        if packed:
            limits = np.iinfo(raw.dtype)
            out[raw == (limits.min if raw.dtype.kind == "i" else limits.max)] = np.nan
    out[np.abs(out) > _TOO_LARGE] = np.nan
