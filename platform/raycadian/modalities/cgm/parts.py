"""What files say about subjects, and whether several files of one subject agree.

Held in columns, some 200 bytes a subject: a card may name 100,000.
"""

import itertools
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from raycadian.data.source import stem_of
from raycadian.modalities.cgm.card import CGMCard
from raycadian.modalities.cgm.twins import joined, sharing, sketch_of
from raycadian.modalities.conflicts import require_apart_but_for_dates, same_person
from raycadian.modalities.guesses import how_to_set
from raycadian.types import GLUCOSE, TIME_UTC, Issues, Readings

Read = Callable[[Path], Iterator[Readings]]
Columns = Mapping[str, Sequence[Any]]
_NUMBERS = {"file": "q", "first": "q", "last": "q", "n": "q", "digest": "Q", "conflicting": "q", "bytes": "q"}


class Parts:
    """A row a stretch that was read: whose, in which of the files (its number), first and last second, number and
    digest of its measured readings; where it was laid aside, readings left out as conflicting, bytes."""

    def __init__(self) -> None:
        self.subject: list[str] = []
        self.spill: list[str] = []
        self.sketch: list[bytes] = []
        self._numbers = {name: array(kind) for name, kind in _NUMBERS.items()}

    def __len__(self) -> int:
        return len(self.subject)

    def add(self, readings: Readings, file: int = 0, spill: str = "", n_bytes: int = 0) -> None:
        time_s, values = finite(readings)
        first, last = (int(time_s[0]), int(time_s[-1])) if len(time_s) else (0, 0)
        hashes = hashed(time_s, values)
        numbers = file, first, last, len(time_s), _sum(hashes), readings.conflicting, n_bytes
        self.sketch.append(sketch_of(hashes, values).tobytes())
        self.subject.append(readings.subject)
        self.spill.append(spill)
        for column, number in zip(self._numbers.values(), numbers, strict=True):
            column.append(number)

    def columns(self) -> Columns:
        """Lists and arrays, whose values JSON holds."""
        texts = {"subject": self.subject, "spill": self.spill, "sketch": [sketch.hex() for sketch in self.sketch]}
        return texts | self._numbers

    def extend(self, columns: Columns, file: int) -> None:
        """With those of one file, whose number here is `file`."""
        self.subject += columns["subject"]
        self.spill += columns["spill"]
        self.sketch += map(bytes.fromhex, columns["sketch"])
        for name, column in self._numbers.items():
            own = columns[name]
            column.extend([file] * len(own) if name == "file" else own)

    def replace(self, file: int, spill: list[str]) -> None:
        """Where the stretches of a file were laid aside, which was read again."""
        rows = np.flatnonzero(self.column("file") == file)
        assert len(rows) == len(spill), "an unchanged file has other stretches"
        for row, where in zip(rows.tolist(), spill, strict=True):
            self.spill[row] = where

    def table(self, names: list[str]) -> pa.Table:
        """For a later prepare: which file says what of whom. names: of the files."""
        columns = {name: self.column(name) for name in _NUMBERS if name != "file"}
        files = pa.DictionaryArray.from_arrays(self.column("file").astype(np.int32), pa.array(names, pa.string()))
        texts = {
            "subject": pa.array(self.subject, pa.string()),
            "sketch": pa.array([s.hex() for s in self.sketch], pa.string()),
        }
        return pa.table({"file": files} | texts | columns)

    def column(self, name: str) -> np.ndarray:
        return np.asarray(self._numbers[name])

    def by_subject(self) -> Iterator[tuple[str, np.ndarray]]:
        """Each subject with its rows, in their order; subjects in that of their first."""
        if not self:
            return
        codes, subjects = pd.factorize(np.array(self.subject, dtype=object))
        order = np.argsort(codes, kind="stable")
        edges = np.flatnonzero(np.diff(codes[order])) + 1
        for subject, begin, end in zip(subjects, [0, *edges], [*edges, len(order)], strict=True):
            yield subject, order[begin:end]


class Span(NamedTuple):
    """What one file says about one subject: first and last second, number and digest of its readings."""

    path: Path
    first: int
    last: int
    n: int
    digest: int


def finite(readings: Readings) -> tuple[np.ndarray, np.ndarray]:
    """Seconds (int64) and mg/dL of measured readings."""
    values = readings.glucose[GLUCOSE].to_numpy(np.float64)
    time_s = readings.glucose[TIME_UTC].to_numpy("datetime64[s]").astype(np.int64)
    return time_s[np.isfinite(values)], values[np.isfinite(values)]


def digest(time_s: np.ndarray, values: np.ndarray) -> int:
    """Of a set of readings, in any order: equal sets have equal digests, and the sum of two is that of both."""
    return _sum(hashed(time_s, values))


def hashed(time_s: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(M,) uint64 of readings: equal ones, to a tenth of mg/dL, have equal hashes."""
    tenths = np.round(values * 10).astype(np.uint64)
    return pd.util.hash_array(time_s.astype(np.uint64) * np.uint64(10_007) + tenths)


def _sum(hashes: np.ndarray) -> int:
    return int(hashes.sum(dtype=np.uint64))


# --- one subject in several files -------------------------------------------------------------------------------------


def require_agreement(
    parts: Parts, paths: list[Path], card: CGMCard, read: Read, issues: Issues, known: Collection[str] = ()
) -> None:
    """Files of one subject are of one person, and hold the same where they overlap; several files of a subject, and
    readings that two subjects share, are counted. `read`: of a file, once more · `known`: subjects whose files are
    known to hold the same. Raises ValueError."""
    files = _Files(parts, paths)
    _check_stems(files, card)
    _check_overlaps({s: spans for s, spans in files.several.items() if s not in known}, card, read)
    for subject, spans in files.several.items():
        names = ", ".join(span.path.name for span in spans)
        issues.add("subject in several files (joined)", f"subject {subject}: {names}")
    for one, other in files.alike:
        same_person(one, other, card, issues)


class _Files:
    """The files of each subject, as far as it matters: those of whoever is in several, or is called as a file is."""

    def __init__(self, parts: Parts, paths: list[Path]):
        stems = [stem_of(path) for path in paths]
        n, file = parts.column("n"), parts.column("file")
        self.several: dict[str, list[Span]] = {}
        self.called: list[str] = []
        self.n_subjects = 0
        subjects: list[str] = []
        sketches: list[np.ndarray] = []
        for subject, rows in parts.by_subject():
            if not len(rows := rows[n[rows] > 0]):
                continue
            self.n_subjects += 1
            subjects.append(subject)
            sketches.append(joined(parts.sketch[row] for row in rows))
            own = np.unique(file[rows])
            if any(stems[number] == subject for number in own):
                self.called.append(subject)
            if len(own) > 1:
                self.several[subject] = [_span(parts, paths[k], rows[file[rows] == k]) for k in own]
        self.alike = [(subjects[one], subjects[other]) for one, other in sharing(sketches)]


def _span(parts: Parts, path: Path, rows: np.ndarray) -> Span:
    first, last = int(parts.column("first")[rows].min()), int(parts.column("last")[rows].max())
    digests = parts.column("digest")[rows].sum(dtype=np.uint64)
    return Span(path, first, last, int(parts.column("n")[rows].sum()), int(digests))


def _check_stems(files: _Files, card: CGMCard) -> None:
    """Two files that name nobody and are called alike may be two people; but for a date, one."""
    require_apart_but_for_dates(
        [] if card.subject or card.subject_from else files.called, how_to_set("subject", "NAME")
    )
    for subject, spans in files.several.items():
        alike = [s.path for s in spans if stem_of(s.path) == subject and not (card.subject or card.columns.subject)]
        if len(alike) > 1:
            raise ValueError(
                f"{alike[0]} and {alike[1]}: both name no person and are called {subject!r}; rename one, or "
                "set `subject` in the card if they are one person's"
            )


@dataclass(frozen=True)
class _Overlap:
    """Two files, and the first and last second that both cover of a subject."""

    subject: str
    one: Path
    other: Path
    begin: int
    end: int


def _check_overlaps(several: dict[str, list[Span]], card: CGMCard, read: Read) -> None:
    """Files that overlap in one subject's time hold the same readings there, or are an error."""
    overlaps = list(_overlaps(several))
    digests = {path: _digests_within(path, read, overlaps) for path in {p for o in overlaps for p in (o.one, o.other)}}
    for o in overlaps:
        if digests[o.one][o] != digests[o.other][o]:
            counts = f"{digests[o.one][o][0]} and {digests[o.other][o][0]} readings"
            between = " to ".join(str(np.datetime64(t, "s")) for t in (o.begin, o.end))
            raise ValueError(
                f"{o.one} and {o.other}: subject {o.subject!r} is in both from {between} UTC with different readings "
                f"({counts}); keep one of the files, or give two people two ids{_hint(card)}"
            )


def _hint(card: CGMCard) -> str:
    # without a zone each export's clock begins at offset 0, also after a journey or a DST change
    return "" if card.timezone else "; if they are exports of one sensor, set `timezone` in the card"


def _overlaps(several: dict[str, list[Span]]) -> Iterator[_Overlap]:
    for subject, spans in several.items():
        for a, b in itertools.combinations(spans, 2):
            begin, end = max(a.first, b.first), min(a.last, b.last)
            if begin <= end:
                yield _Overlap(subject, a.path, b.path, begin, end)


def _digests_within(path: Path, read: Read, overlaps: list[_Overlap]) -> dict[_Overlap, tuple[int, int]]:
    """Number and digest of a file's readings in each overlap that it has part in; the file is read once more."""
    digests = {o: (0, 0) for o in overlaps if path in (o.one, o.other)}
    by_subject: dict[str, list[_Overlap]] = defaultdict(list)
    for o in digests:
        by_subject[o.subject].append(o)
    for readings in read(path):
        time_s, values = finite(readings)
        for o in by_subject[readings.subject]:
            at = (time_s >= o.begin) & (time_s <= o.end)
            n, total = digests[o]
            digests[o] = (n + int(at.sum()), (total + digest(time_s[at], values[at])) % 2**64)
    return digests
