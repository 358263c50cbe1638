"""What every reader of biosignals shares: which track is meant by a name, in which unit, and how large it may be."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from raycadian.types import Issues, Track

MAX_SAMPLES = (
    200_000_000  # of a track: 55 h at 1 kHz; beyond this a time is wrong, or the file is made to fill the memory
)
MAX_FILE_SAMPLES = 500_000_000  # of all tracks that are read: 2 GB
MAX_RATE_HZ = 50_000.0
_ENDINGS = re.compile(r"(\.(vital|edf|bdf|hea|dat|mat|npz|csv|tsv|txt|parquet|gz))+$", re.IGNORECASE)

# unit (lower case) -> the unit it is counted in, and how many of that it is
_UNITS = {
    "v": ("mV", 1e3), "mv": ("mV", 1.0), "uv": ("mV", 1e-3), "µv": ("mV", 1e-3), "μv": ("mV", 1e-3), "nv": ("mV", 1e-6),
    "mmhg": ("mmHg", 1.0), "kpa": ("mmHg", 7.500617), "cmh2o": ("mmHg", 0.735559), "hpa": ("mmHg", 0.7500617),
    "mbar": ("mmHg", 0.7500617),
    "/min": ("/min", 1.0), "bpm": ("/min", 1.0), "1/min": ("/min", 1.0), "beats/min": ("/min", 1.0),
    "hz": ("/min", 60.0),
    "%": ("%", 1.0),
    "": ("", 1.0), "nu": ("", 1.0), "unitless": ("", 1.0), "a.u.": ("", 1.0), "au": ("", 1.0), "adu": ("", 1.0),
}  # fmt: skip


def find(names: Iterable[str], wanted: Sequence[str], where: str | Path) -> str | None:
    """The full name of the first of `wanted` that is there, exact or without its device ('ART' for 'SNUADC/ART').
    Raises ValueError where that may be several."""
    names = list(names)
    for name in wanted:
        alike = [name] if name in names else [full for full in names if matches(full, [name])]
        if len(alike) > 1:
            raise ValueError(f"{where}: {name!r} may be {' or '.join(alike)}; name the device too")
        if alike:
            return alike[0]
    return None


def present(names: Iterable[str], wanted: Sequence[str] | None) -> list[str]:
    """Those of a file's tracks that match `wanted`; all where None."""
    return [name for name in names if wanted is None or matches(name, wanted)]


def matches(full: str, wanted: Sequence[str]) -> bool:
    """Whether a track's full name ('SNUADC/ART') is among those wanted, with its device or without."""
    return full in wanted or full.rpartition("/")[2] in wanted


def in_unit(track: Track, unit: str, where: str) -> Track:
    """The track in `unit`, as it names itself. Raises ValueError where the unit is another quantity's, or unsaid."""
    if track.unit == unit:
        return track
    (held, each), (wanted, of) = (_UNITS.get(text.strip().lower(), (text, 1.0)) for text in (track.unit, unit))
    if held != wanted:
        raise ValueError(
            f"{where}: expected a unit that can be {unit!r}, found {track.unit!r}; correct the card's unit"
        )
    return replace(track, values=track.values if each == of else track.values * np.float32(each / of), unit=unit)


def waveform(values: np.ndarray, rate_hz: float, unit: str, start_s: float, where: str) -> Track:
    """A track at an even rate. Raises ValueError for a rate or a length that can't be."""
    if not (np.isfinite(rate_hz) and 0 < rate_hz <= MAX_RATE_HZ):
        raise ValueError(f"{where}: expected a sampling rate above 0 and up to {MAX_RATE_HZ:g} Hz, found {rate_hz:g}")
    check_length(len(values), where)
    return Track(np.ascontiguousarray(values, dtype=np.float32), unit, rate_hz=float(rate_hz), start_s=float(start_s))


def numeric(values: np.ndarray, times_s: np.ndarray, unit: str, where: str, issues: Issues) -> Track:
    """A track at times of its own: sorted, without missing values, the last of several at one time."""
    values, times_s = np.asarray(values, dtype=np.float32), np.asarray(times_s, dtype=np.float64)
    known = np.isfinite(values) & np.isfinite(times_s)
    order = np.argsort(times_s[known], kind="stable")
    values, times_s = values[known][order], times_s[known][order]
    last = np.append(times_s[1:] > times_s[:-1], True)[: len(times_s)]
    issues.add("several numbers at one time (the last kept)", where, int((~last).sum()))
    return Track(values[last], unit, times_s=times_s[last])


def with_samples(tracks: dict[str, Track], path: Path, issues: Issues) -> dict[str, Track]:
    """Those of a file's tracks that have any; the others are counted."""
    for name in (name for name, track in tracks.items() if not len(track)):
        issues.add("track without samples (left out)", f"{path.name}: {name}")
    return {name: track for name, track in tracks.items() if len(track)}


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """What libraries raise about a broken file, of whatever class, as a ValueError that names it."""
    try:
        yield
    except ConnectionError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(path.with_suffix("")) in str(error):
            raise
        message = f"{type(error).__name__}: {error}".removeprefix("ValueError: ")[:300]
        raise ValueError(f"{path}: truncated, corrupted or not what it seems: {message}") from error


def case_of(path: Path) -> str:
    """A case's name where its file does not say one: the file's, without the endings of its format."""
    return without_ending(path.name)


def without_ending(name: str) -> str:
    """A file's name without the endings of formats of signals."""
    return _ENDINGS.sub("", name) or name


class Room:
    """What the tracks of one file may take together, however little of the file they are."""

    def __init__(self) -> None:
        self._left = MAX_FILE_SAMPLES

    def take(self, n: float, where: str) -> None:
        """Raises ValueError before the memory is asked for."""
        check_length(n, where)
        self._left -= n
        if self._left < 0:
            raise ValueError(
                f"{where}: more than {MAX_FILE_SAMPLES:,} samples in all; read fewer tracks, or split the file"
            )


def check_length(n: float, where: str) -> None:
    """Raises ValueError before the memory is asked for."""
    if n > MAX_SAMPLES:
        raise ValueError(
            f"{where}: {n:,.0f} samples, at most {MAX_SAMPLES:,}; a time or the rate is wrong, or split the file"
        )
