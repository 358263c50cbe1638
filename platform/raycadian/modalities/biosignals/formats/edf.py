"""EDF, EDF+ and BDF files, by the package pyedflib: signals at rates of their own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raycadian.data.source import require_distinct
from raycadian.modalities.biosignals.tracks import case_of, check_length, present, waveform, with_samples
from raycadian.types import Case, Issues


def read_edf(path: Path, wanted: Sequence[str] | None, issues: Issues) -> Case:
    """A file's wanted signals (all where None); the subject is the header's patient code. Raises ValueError."""
    with _opened(path) as file:
        labels = [label.strip() for label in file.getSignalLabels()]
        require_distinct(labels, path, "signals")
        lengths = file.getNSamples()
        tracks = {}
        for name in present(labels, wanted):
            i = labels.index(name)
            check_length(int(lengths[i]), f"{path}: {name}")
            unit = file.getPhysicalDimension(i).strip()
            tracks[name] = waveform(file.readSignal(i), file.getSampleFrequency(i), unit, 0.0, f"{path}: {name}")
        start = np.datetime64(file.getStartdatetime(), "ms")
        return Case(case_of(path), file.getPatientCode().strip(), with_samples(tracks, path, issues), start_utc=start)


def track_names(path: Path) -> list[str]:
    """The names of a file's signals. Raises ValueError."""
    with _opened(path) as file:
        return [label.strip() for label in file.getSignalLabels()]


def _opened(path: Path) -> Any:
    import pyedflib

    _check_size(path)
    return pyedflib.EdfReader(str(path))


def _check_size(path: Path) -> None:
    """Raises ValueError for a file that is shorter than its header says; the package would say it on stdout."""
    with path.open("rb") as file:
        head = file.read(256)
        signals, records, begin = int(head[252:256]), int(head[236:244]), int(head[184:192])
        file.seek(256 + 216 * signals)
        samples = sum(int(file.read(8)) for _ in range(signals))  # of a record
    expected = begin + records * samples * (3 if head[:1] == b"\xff" else 2)  # BDF has 24 bits
    if path.stat().st_size < expected:
        raise ValueError(f"{path}: truncated: {path.stat().st_size:,} of {expected:,} bytes; copy or download it again")
