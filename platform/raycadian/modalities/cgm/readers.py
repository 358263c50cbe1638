"""CGM files of every format as Readings: recognised by content, checked against one another."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import astuple, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from raycadian.data.packed import packed_kind
from raycadian.data.source import Source, header_of, stem_of
from raycadian.modalities.cgm.builder import merge
from raycadian.modalities.cgm.card import CGM_FORMATS, CGMCard
from raycadian.modalities.cgm.formats.carelink import is_carelink, read_carelink
from raycadian.modalities.cgm.formats.json_exports import json_format, read_nightscout, read_tidepool
from raycadian.modalities.cgm.formats.ohio import read_ohio
from raycadian.modalities.cgm.formats.tables import GLUCOBENCH, read_generic, read_glucobench
from raycadian.modalities.cgm.formats.vendor_csv import (
    clarity_header,
    libreview_header,
    pump_key,
    read_clarity,
    read_libreview,
    read_pump,
    superseded_pump_files,
)
from raycadian.modalities.conflicts import require_apart_but_for_dates, require_one_person
from raycadian.modalities.guesses import how_to_set
from raycadian.modalities.naming import naming
from raycadian.modalities.unpack import unpacked
from raycadian.types import GLUCOSE, TIME_UTC, Issues, Readings

__all__ = ["detect_format", "merge", "read_files"]

Reader = Callable[[Source, CGMCard, Issues], Iterator[Readings]]
_READERS: dict[str, Reader] = {
    "generic": read_generic,
    "glucobench": read_glucobench,
    "dexcom_clarity": read_clarity,
    "libreview": read_libreview,
    "nightscout": read_nightscout,
    "tidepool": read_tidepool,
    "ohio_t1dm": read_ohio,
    "pump_v2": read_pump,
    "carelink": read_carelink,
}
assert set(_READERS) == set(CGM_FORMATS), "a reader a format"


def read_files(paths: list[Path], card: CGMCard, issues: Issues) -> Iterator[Readings]:
    """The readings of all files, in mg/dL and UTC with the local offset; `issues` counts what was repaired or skipped.

    A subject may come several times (blocks of a big table, history and scans, several files), each time sorted and
    with unique times: `merge` joins the parts. Memory holds one block, or one person's file, at a time.
    Raises ValueError for a file that can't be understood, holds no reading, or contradicts its unit; after the last
    one, for files that disagree about a subject where they overlap. What was yielded before is then not to be used.
    """
    files = Files.of(paths, card, issues)
    for path in files.formats:
        yield from files.read(path, issues)
    files.conclude(issues)


@dataclass
class Files:
    """The files of a card, with the format of each, and what those that were read say of whom: wherever that was."""

    card: CGMCard
    formats: dict[Path, str]
    spans: "Spans"

    @staticmethod
    def of(
        paths: list[Path], card: CGMCard, issues: Issues,
        leaving_out: Callable[[Path], AbstractContextManager[None]] = nullcontext,
    ) -> "Files":  # fmt: skip
        """`leaving_out`: what a file is recognised in. Raises ValueError where there is none, or one is of no format
        that is known."""
        paths = list({Path(path).resolve(): Path(path) for path in paths}.values())
        if not paths:
            raise ValueError(f"card {card.name!r}: no files found; `files` lists {', '.join(card.files)}")
        paths = unpacked(paths, card, lambda path: is_read(path, card), issues)
        return Files(card, _formats(paths, card, issues, leaving_out), Spans())

    def only(self, path: Path) -> "Files":
        """One of them, to be read elsewhere."""
        return Files(self.card, {path: self.formats[path]}, Spans())

    def read(self, path: Path, issues: Issues) -> Iterator[Readings]:
        for readings in _read(path, self.formats[path], self.card, issues):
            self.spans.add(readings, path)
            yield readings

    def spans_of(self, path: Path) -> dict[str, list[int]]:
        """subject -> what the file says of them, as `take_up` takes it; JSON holds it."""
        return {s: list(astuple(own[path])) for s, own in self.spans.by_subject.items() if path in own}

    def take_up(self, path: Path, spans: dict[str, list[int]]) -> None:
        """What was read elsewhere."""
        for subject, span in spans.items():
            self.spans.by_subject[subject][path] = _Span(*span)

    def conclude(self, issues: Issues) -> None:
        """After the last. Raises ValueError where no file has a reading, or files contradict one another."""
        if not self.spans.by_subject:
            named = ", ".join(map(str, list(self.formats)[:5]))
            raise ValueError(f"{named}: no glucose reading, only events; add the entries' file")
        _check_stems(self.spans, self.card)
        _check_overlaps(self.spans, self.formats, self.card)
        _note_repeats(self.spans, issues)


def read_person(path: Path, card: CGMCard | None, issues: Issues) -> Readings:
    """All readings of the one person in a file, recognised by content where no card says how. Raises ValueError."""
    people = read_people(path, card or _card_of(path), issues)
    if len(people) != 1:
        raise ValueError(
            f"{path}: expected one person, found {len(people)} ({', '.join(sorted(people)[:5])}); cut it out"
        )
    return next(iter(people.values()))


def read_people(path: Path, card: CGMCard, issues: Issues) -> dict[str, Readings]:
    """All readings of each person in a file. Raises ValueError."""
    parts: dict[str, list[Readings]] = {}
    for readings in read_files([path], card, issues):
        parts.setdefault(readings.subject, []).append(readings)
    people = {subject: merge(own, issues, card.repeat_s) for subject, own in parts.items()}
    for subject, whole in people.items():
        n = len(whole.glucose) + whole.conflicting
        require_one_person(subject, whole.conflicting, n, [path], card.columns.model_dump())
    return people


def is_read(path: Path, card: CGMCard) -> bool:
    """Whether a file is in the card's format, or in one that is known."""
    return card.format != "auto" or recognised_format(Source.of(path, card.layout), card) is not None


def _card_of(path: Path) -> CGMCard:
    """A known format needs no card; of another table the columns and the unit are recognised. Raises ValueError."""
    from raycadian.modalities.detect import make_card  # which knows all modalities, and so this one

    anyhow = CGMCard(name="history", files=(path.name,))
    if packed_kind(path) is None and recognised_format(Source.of(path), anyhow) is not None:
        return anyhow
    try:
        return make_card([path], modality="cgm")[0]
    except ValueError as error:
        raise ValueError(f"{error}; a card that says it does too: --card CARD") from None


def _formats(
    paths: list[Path], card: CGMCard, issues: Issues, leaving_out: Callable[[Path], AbstractContextManager[None]]
) -> dict[Path, str]:
    """Each file's format, before any is read: an unknown one is an error at once. Superseded files are left out."""
    formats, pumps = {}, {}
    for path in paths:
        with leaving_out(path), naming(path):
            source = Source.of(path, card.layout)
            formats[path] = detect_format(source, card) if card.format == "auto" else card.format
            if formats[path] == "pump_v2":
                pumps[path] = pump_key(source)
    superseded = superseded_pump_files(pumps, issues)
    return {path: kind for path, kind in formats.items() if path not in superseded}


def detect_format(source: Source, card: CGMCard) -> str:
    """The format of a file by its first 64 KiB. Raises ValueError that says what was found."""
    if (kind := recognised_format(source, card)) is None:
        raise ValueError(_unknown(source))
    return kind


def recognised_format(source: Source, card: CGMCard) -> str | None:
    """The format of a file by its first 64 KiB; None where it is none of CGM. A table is generic where it has the
    columns that the card names."""
    if source.is_parquet:
        return "generic"
    text = source.text.lstrip()
    if text.startswith("<"):
        return "ohio_t1dm" if "<patient" in text else None
    if text.startswith(("[", "{")):
        return json_format(source)
    if text.startswith("#") and ("data_version" in text or "pump_serial" in text):
        return "pump_v2"
    return _table_format(source, card)


def _table_format(source: Source, card: CGMCard) -> str | None:
    names = set(header_of(source))
    tests = {
        "generic": {card.columns.time, card.columns.glucose} <= names and not is_carelink(source),
        "glucobench": {GLUCOBENCH.subject, GLUCOBENCH.time, GLUCOBENCH.glucose} <= names,
        "dexcom_clarity": clarity_header(source) is not None,
        "libreview": libreview_header(source) is not None,
        "carelink": is_carelink(source),
    }
    return next((kind for kind, fits in tests.items() if fits), None)


def _unknown(source: Source) -> str:
    is_table = not source.text.lstrip().startswith(("<", "[", "{", "#"))
    columns = f"; columns found: {', '.join(map(repr, header_of(source)[:20]))}" if is_table else ""
    return (
        f"{source.path}: not a CGM format that is known (Dexcom Clarity, LibreView, Nightscout, Tidepool, OhioT1DM, "
        "pump v2.0, CareLink, GlucoBench, or a table with the columns that the card names); it begins with "
        f"{source.text.strip()[:60]!r}. For a table set `columns` in the card, for a known format `format`{columns}"
    )


def _read(path: Path, kind: str, card: CGMCard, issues: Issues) -> Iterator[Readings]:
    with naming(path):
        yield from _READERS[kind](Source.of(path, card.layout), card, issues)


# --- one subject in several files ----------------------------------------------------------------------------------


@dataclass
class _Span:
    """What one file says about one subject: first and last second, number and digest of its readings."""

    first: int
    last: int
    n: int = 0
    digest: int = 0


@dataclass
class Spans:
    """What files say about subjects."""

    by_subject: dict[str, dict[Path, _Span]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, readings: Readings, path: Path) -> None:
        time_s, values = _finite(readings)
        if len(time_s):
            span = self.by_subject[readings.subject].setdefault(path, _Span(int(time_s[0]), int(time_s[-1])))
            span.first, span.last = min(span.first, int(time_s[0])), max(span.last, int(time_s[-1]))
            span.n += len(time_s)
            span.digest = (span.digest + _digest(time_s, values)) % 2**64


def _finite(readings: Readings) -> tuple[np.ndarray, np.ndarray]:
    """Seconds (int64) and mg/dL of measured readings."""
    values = readings.glucose[GLUCOSE].to_numpy(np.float64)
    time_s = readings.glucose[TIME_UTC].to_numpy("datetime64[s]").astype(np.int64)
    return time_s[np.isfinite(values)], values[np.isfinite(values)]


def _digest(time_s: np.ndarray, values: np.ndarray) -> int:
    """Of a set of readings, in any order: equal sets have equal digests."""
    tenths = np.round(values * 10).astype(np.uint64)
    hashed = pd.util.hash_array(time_s.astype(np.uint64) * np.uint64(10_007) + tenths)
    return int(hashed.sum(dtype=np.uint64))


def _check_stems(spans: Spans, card: CGMCard) -> None:
    """Two files that name nobody and are called alike may be two people; but for a date, one."""
    called = [s for s, files in spans.by_subject.items() if any(stem_of(p) == s for p in files)]
    require_apart_but_for_dates([] if card.subject else called, how_to_set("subject", "NAME"))
    for subject, files in spans.by_subject.items():
        alike = [p for p in files if stem_of(p) == subject and card.subject is None and card.columns.subject is None]
        if len(alike) > 1:
            raise ValueError(
                f"{alike[0]} and {alike[1]}: both name no person and are called {subject!r}; rename one, or "
                "set `subject` in the card if they are one person's"
            )


def _check_overlaps(spans: Spans, formats: dict[Path, str], card: CGMCard) -> None:
    """Files that overlap in one subject's time hold the same readings there, or are an error."""
    overlaps = list(_overlaps(spans))
    digests = {
        path: _digests_within(path, formats[path], card, overlaps)
        for path in {p for pair in overlaps for p in pair[1:3]}
    }
    for pair in overlaps:
        subject, one, other, begin, end = pair
        if digests[one][pair] != digests[other][pair]:
            counts = f"{digests[one][pair][0]} and {digests[other][pair][0]} readings"
            between = " to ".join(str(np.datetime64(t, "s")) for t in (begin, end))
            raise ValueError(
                f"{one} and {other}: subject {subject!r} is in both from {between} UTC with different readings "
                f"({counts}); keep one of the files, or give two people two ids{_hint(card)}"
            )


def _hint(card: CGMCard) -> str:
    # without a zone each export's clock begins at offset 0, also after a journey or a DST change
    return "" if card.timezone else "; if they are exports of one sensor, set `timezone` in the card"


Overlap = tuple[str, Path, Path, int, int]  # subject, files, first and last second that both cover


def _overlaps(spans: Spans) -> Iterator[Overlap]:
    for subject, files in spans.by_subject.items():
        for (one, a), (other, b) in itertools.combinations(files.items(), 2):
            begin, end = max(a.first, b.first), min(a.last, b.last)
            if begin <= end:
                yield subject, one, other, begin, end


def _digests_within(path: Path, kind: str, card: CGMCard, overlaps: list[Overlap]) -> dict[Overlap, tuple[int, int]]:
    """Number and digest of a file's readings in each overlap that it has part in; the file is read once more."""
    digests = {pair: (0, 0) for pair in overlaps if path in pair[1:3]}
    by_subject = defaultdict(list)
    for pair in digests:
        by_subject[pair[0]].append(pair)
    for readings in _read(path, kind, card, Issues()):
        time_s, values = _finite(readings)
        for pair in by_subject[readings.subject]:
            at = (time_s >= pair[3]) & (time_s <= pair[4])
            n, digest = digests[pair]
            digests[pair] = (n + int(at.sum()), (digest + _digest(time_s[at], values[at])) % 2**64)
    return digests


def _note_repeats(spans: Spans, issues: Issues) -> None:
    """Subjects in several files, and the same readings under two names, are counted."""
    known: dict[tuple[int, int], str] = {}
    for subject, files in spans.by_subject.items():
        if len(files) > 1:
            issues.add("subject in several files (joined)", f"subject {subject}: {', '.join(p.name for p in files)}")
        whole = sum(span.n for span in files.values()), sum(span.digest for span in files.values()) % 2**64
        if whole in known:
            issues.add(
                "two subjects with identical readings (one person under two names?)", f"{known[whole]}, {subject}"
            )
        known[whole] = subject
