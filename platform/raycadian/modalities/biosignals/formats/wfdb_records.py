"""WFDB records (PhysioNet): a header .hea and its signals, each at its own rate, by the package wfdb; records of
several segments as one, NaN in the gaps between them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raycadian.data.source import require_distinct
from raycadian.modalities.biosignals.tracks import Room, check_length, present, waveform, with_samples
from raycadian.types import Case, Issues, Track


def read_wfdb(path: Path, wanted: Sequence[str] | None, issues: Issues) -> Case:
    """The signals of a record that are wanted (all where None), unsmoothed. `path`: its header or a signal's file.
    Raises ValueError."""
    import wfdb

    header = _header(path)
    names = header.sig_name
    require_distinct(names, path, "signals")
    chosen = present(names, wanted)
    if not chosen:
        return Case(header.record_name, "", {})
    room = Room()
    for name in chosen:
        room.take((header.sig_len or 0) * header.samps_per_frame[names.index(name)], f"{path}: {name}")
    record = wfdb.rdrecord(str(path.with_suffix("")), channel_names=chosen, smooth_frames=False)
    tracks = {name: _signal(record, i, f"{path}: {name}") for i, name in enumerate(record.sig_name)}
    start = np.datetime64(record.base_datetime, "ms") if record.base_datetime else None
    return Case(record.record_name, "", with_samples(tracks, path, issues), start_utc=start)


def track_names(path: Path) -> list[str]:
    """The names of a record's signals. Raises ValueError."""
    return list(_header(path).sig_name)


def _header(path: Path) -> Any:
    import wfdb

    header = wfdb.rdheader(str(path.with_suffix("")), rd_segments=True)
    if getattr(header, "n_seg", None) is not None:
        frames = {n: f for s in header.segments if s for n, f in zip(s.sig_name or [], s.samps_per_frame, strict=True)}
        header.sig_name, header.samps_per_frame = list(frames), list(frames.values())
    check_length((header.sig_len or 0) * max(header.samps_per_frame or [1]), str(path))
    header.sig_name = list(header.sig_name or [])
    return header


def segments_of(path: Path) -> set[Path]:
    """The headers of the segments that a record is made of; none of a record of its own."""
    lines = path.read_text("latin-1").splitlines()
    rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    if not rows or "/" not in rows[0][0]:
        return set()
    return {path.with_name(f"{row[0]}.hea") for row in rows[1:] if row[0] != "~"}


def _signal(record: Any, i: int, where: str) -> Track:
    rate = float(record.fs) * record.samps_per_frame[i]
    unit = record.units[i] or ""
    return waveform(record.e_p_signal[i], rate, "" if unit == "NU" else unit, 0.0, where)  # NU: no units
