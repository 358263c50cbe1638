"""EDF, EDF+ (also interrupted, EDF+D) and BDF files: signals at rates of their own.

Kemp et al. 1992, Electroencephalogr Clin Neurophysiol 82:391; Kemp and Olivan 2003, Clin Neurophysiol 114:1755. Read
here and not by a package: those at hand refuse a file for one Latin-1 byte in a header, and interrupted recordings.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from raycadian.data.source import require_distinct
from raycadian.modalities.biosignals.tracks import Room, case_of, present, waveform, with_samples
from raycadian.types import Case, Issues, Track

_FIELDS = {"label": 16, "transducer": 80, "unit": 8, "low": 8, "high": 8, "digital_low": 8, "digital_high": 8,
           "filter": 80, "samples": 8, "reserved": 32}  # fmt: skip
_ANNOTATIONS = ("EDF Annotations", "BDF Annotations")
_ONSET = re.compile(rb"^([+-]\d+(?:\.\d*)?)[\x14\x15]")
_NOBODY = {"", "x", "unknown", "anonymous", "anonymized", "anonymised", "anonym", "patient", "test"}


@dataclass(frozen=True)
class Header:
    """A file's first bytes, as Latin-1: what EDF allows is ASCII, what programs write is not."""

    path: Path
    head: bytes
    fields: dict[str, list[str]]

    @staticmethod
    def of(path: Path) -> "Header":
        """Raises ValueError for what is no header, and for a file that is shorter than its header says."""
        with path.open("rb") as file:
            head = file.read(256)
            n = _whole(head[252:256], path, "number of signals")
            fields = {name: [_text(file.read(width)) for _ in range(n)] for name, width in _FIELDS.items()}
        header = Header(path, head, fields)
        expected = header.begin + header.records * header.record_bytes
        if path.stat().st_size < expected:
            size = path.stat().st_size
            raise ValueError(f"{path}: truncated: {size:,} of {expected:,} bytes; copy or download it again")
        return header

    @cached_property
    def begin(self) -> int:
        return _whole(self.head[184:192], self.path, "bytes of the header")

    @cached_property
    def records(self) -> int:
        """-1 where the recorder didn't close its file: as many as there are."""
        n = _whole(self.head[236:244], self.path, "number of records")
        return n if n >= 0 else (self.path.stat().st_size - self.begin) // max(self.record_bytes, 1)

    @cached_property
    def record_s(self) -> float:
        """Seconds of a record."""
        return float(_number(_text(self.head[244:252]), self.path, "duration of a record"))

    @cached_property
    def samples(self) -> list[int]:
        """Of each signal in a record."""
        return [_whole(text.encode(), self.path, "samples of a record") for text in self.fields["samples"]]

    @property
    def width(self) -> int:
        """Bytes of a sample: BDF has 24 bits."""
        return 3 if self.head[:1] == b"\xff" else 2

    @property
    def record_bytes(self) -> int:
        return self.width * sum(self.samples)

    @property
    def labels(self) -> list[str]:
        """Of the signals, without those of annotations."""
        return [label for label in self.fields["label"] if label not in _ANNOTATIONS]

    @property
    def is_plus(self) -> bool:
        return _text(self.head[192:236]).startswith(("EDF+", "BDF+"))

    @property
    def is_interrupted(self) -> bool:
        return _text(self.head[192:236]).startswith(("EDF+D", "BDF+D"))

    @property
    def patient(self) -> str:
        """The patient's code, of EDF+ alone: other files have free text there. '' where nobody is named."""
        code = _text(self.head[8:88]).partition(" ")[0] if self.is_plus else ""
        return "" if code.lower() in _NOBODY else code

    @property
    def start(self) -> np.datetime64 | None:
        """When it began, if that is a time; years from 1985 to 2084."""
        date, clock = ([int(n) for n in re.findall(r"\d+", _text(self.head[a : a + 8]))] for a in (168, 176))
        try:
            year = date[2] + (1900 if date[2] >= 85 else 2000)
            day = f"{year}-{date[1]:02d}-{date[0]:02d}"
            return np.datetime64(f"{day}T{clock[0]:02d}:{clock[1]:02d}:{clock[2]:02d}", "ms")
        except (IndexError, ValueError):
            return None


def read_edf(path: Path, wanted: Sequence[str] | None, issues: Issues) -> Case:
    """A file's wanted signals (all where None), NaN where an interrupted file has nothing; the subject is the header's
    patient code. Raises ValueError."""
    header = Header.of(path)
    require_distinct(header.labels, path, "signals")
    shape = header.records, header.record_bytes
    data = np.memmap(path, np.uint8, "r", header.begin, shape) if header.records else None
    onset_s = _onsets(header, data, issues) if header.is_interrupted else None
    room, tracks = Room(), {}
    for name in present(header.labels, wanted):
        if data is not None:
            tracks[name] = _signal(header, data, header.fields["label"].index(name), onset_s, room)
    return Case(case_of(path), header.patient, with_samples(tracks, path, issues), start_utc=header.start)


def track_names(path: Path) -> list[str]:
    """The names of a file's signals. Raises ValueError."""
    return Header.of(path).labels


def patient_of(path: Path) -> str:
    """Whom a file names; '' for nobody. Raises ValueError."""
    return Header.of(path).patient


def _signal(header: Header, data: np.ndarray, i: int, onset_s: np.ndarray | None, room: Room) -> Track:
    where, n = f"{header.path}: {header.fields['label'][i]}", header.samples[i]
    rate_hz = n / header.record_s if header.record_s > 0 else np.nan
    room.take(header.records * n, where)
    values = _physical(header, i, _digital(header, data, i), where)
    if onset_s is not None:
        values = _laid_out(values.reshape(header.records, n), onset_s, rate_hz, room, where)
    return waveform(values, rate_hz, header.fields["unit"][i], 0.0, where)


def _digital(header: Header, data: np.ndarray, i: int) -> np.ndarray:
    """The samples (N,) of a signal as whole numbers."""
    begin = header.width * sum(header.samples[:i])
    raw = np.ascontiguousarray(data[:, begin : begin + header.width * header.samples[i]])
    if header.width == 2:
        return raw.view("<i2").ravel()
    bytes_ = raw.reshape(-1, 3).astype(np.int32)
    return ((bytes_[:, 0] | bytes_[:, 1] << 8 | bytes_[:, 2] << 16) ^ 0x800000) - 0x800000


def _physical(header: Header, i: int, digital: np.ndarray, where: str) -> np.ndarray:
    """(N,) float32 in the signal's unit."""
    low, high, digital_low, digital_high = (
        _number(header.fields[name][i], header.path, name) for name in ("low", "high", "digital_low", "digital_high")
    )
    if digital_low == digital_high or low == high:
        raise ValueError(f"{where}: its lowest and its highest value are the same in the header; correct the header")
    gain = (high - low) / (digital_high - digital_low)
    return ((digital + (high / gain - digital_high)) * gain).astype(np.float32)


def _laid_out(values: np.ndarray, onset_s: np.ndarray, rate_hz: float, room: Room, where: str) -> np.ndarray:
    """Records (R, n) at their places from the first one on, NaN between them."""
    at = np.round((onset_s - onset_s[0]) * rate_hz).astype(np.int64)
    n = values.shape[1]
    room.take(float(at.max()) + n, where)
    laid = np.full(int(at.max()) + n, np.nan, np.float32)
    laid[(at[:, None] + np.arange(n)).ravel()] = values.ravel()
    return laid


def _onsets(header: Header, data: np.ndarray | None, issues: Issues) -> np.ndarray:
    """When each record began, in seconds after the start: the first of its annotations says so. Raises ValueError."""
    at = next((i for i, label in enumerate(header.fields["label"]) if label in _ANNOTATIONS), None)
    if at is None or data is None:
        raise ValueError(f"{header.path}: interrupted (EDF+D) without annotations, which say when; export it again")
    begin = header.width * sum(header.samples[:at])
    texts = [bytes(row) for row in data[:, begin : begin + header.width * header.samples[at]]]
    matches = [_ONSET.match(text) for text in texts]
    if None in matches:
        raise ValueError(f"{header.path}: record {matches.index(None) + 1} doesn't say when it began; is it damaged?")
    onset_s = np.array([float(match[1]) for match in matches])
    gaps = int((np.diff(onset_s) > 1.5 * header.record_s).sum())
    issues.add("gap in an interrupted file (missing there)", header.path.name, gaps)
    if (np.diff(onset_s) <= 0).any():
        raise ValueError(f"{header.path}: records begin before the ones above them; is the file damaged?")
    return onset_s


def _text(field: bytes) -> str:
    return field.decode("latin-1").strip(" \x00")


def _number(text: str, path: Path, what: str) -> float:
    try:
        return float(text.replace(",", "."))
    except ValueError:
        raise ValueError(f"{path}: {what} is {text!r} in the header, expected a number; is the file damaged?") from None


def _whole(field: bytes, path: Path, what: str) -> int:
    number = _number(_text(field), path, what)
    if number != int(number) or number > 1e12 or number < -1:
        raise ValueError(f"{path}: {what} is {number:g} in the header; is the file damaged?")
    return int(number)
