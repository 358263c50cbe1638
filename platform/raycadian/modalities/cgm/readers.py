"""CGM files of every format as Readings: recognised by content, checked against one another."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from raycadian.data.packed import packed_kind
from raycadian.data.source import Source, header_of
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
from raycadian.modalities.cgm.parts import Parts, require_agreement
from raycadian.modalities.conflicts import require_one_person
from raycadian.modalities.naming import naming
from raycadian.modalities.unpack import unpacked
from raycadian.types import Issues, Readings

__all__ = ["detect_format", "merge", "read_files"]

_EVENTS = "events:"
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
    files, parts = Files.of(paths, card, issues), Parts()
    for number, path in enumerate(files.formats):
        for readings in files.read(path, issues):
            parts.add(readings, number)
            yield readings
    files.conclude(parts, issues)


@dataclass(frozen=True)
class Files:
    """The files of a card, with the format of each; None: it is recognised when the file is read."""

    card: CGMCard
    formats: dict[Path, str | None]
    """`events:0,2` of a file with what the card's first and third tables of events hold."""

    @staticmethod
    def of(
        paths: list[Path], card: CGMCard, issues: Issues,
        leaving_out: Callable[[Path], AbstractContextManager[None]] = nullcontext, *, on_reading: bool = False,
        events: Mapping[Path, Sequence[int]] | None = None,
    ) -> "Files":  # fmt: skip
        """`leaving_out`: what a file is opened in · on_reading: most formats are recognised when a file is read,
        wherever that is · `events`: files of the card's tables of events, with their numbers. Raises ValueError where
        there is none, or one is of no format that is known."""
        paths = list({Path(path).resolve(): Path(path) for path in paths}.values())
        if not paths:
            raise ValueError(f"card {card.name!r}: no files found; `files` lists {', '.join(card.files)}")
        paths = unpacked(paths, card, lambda path: is_read(path, card), issues)
        tables = {path: f"{_EVENTS}{','.join(map(str, numbers))}" for path, numbers in (events or {}).items()}
        return Files(card, _formats(paths, card, issues, leaving_out, on_reading) | tables)

    def only(self, path: Path) -> "Files":
        """One of them, to be read elsewhere."""
        return Files(self.card, {path: self.formats[path]})

    def read(self, path: Path, issues: Issues) -> Iterator[Readings]:
        return _read(path, self.formats[path], self.card, issues)

    def conclude(self, parts: Parts, issues: Issues, known: Collection[str] = ()) -> None:
        """After the last, with what they say; a part's `file` is its number among them. known: subjects whose files
        are known to agree. Raises ValueError where no file has a reading, or files contradict one another."""
        if not parts.column("n").any():
            named = ", ".join(map(str, list(self.formats)[:5]))
            raise ValueError(f"{named}: no glucose reading, only events; add the entries' file")
        read = partial(self.read, issues=Issues())
        require_agreement(parts, list(self.formats), self.card, read, issues, known)


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
    card = card.model_copy(update={"same_readings": "kept"})  # who is told apart is not in a split
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
    paths: list[Path], card: CGMCard, issues: Issues, leaving_out: Callable[[Path], AbstractContextManager[None]],
    on_reading: bool,
) -> dict[Path, str | None]:  # fmt: skip
    """Each file's format, before any is read: an unknown one is an error at once. Superseded files are left out.
    on_reading: of pumps alone, which may supersede one another."""
    formats: dict[Path, str | None] = {}
    pumps = {}
    for path in paths:
        with leaving_out(path), naming(path):
            source = Source.of(path, card.layout)
            formats[path] = None if card.format == "auto" else card.format
            if card.format == "auto" and (not on_reading or _is_pump(source)):
                formats[path] = detect_format(source, card)
            if formats[path] == "pump_v2":
                pumps[path] = pump_key(source)
    superseded = superseded_pump_files(pumps, issues)
    return {path: kind for path, kind in formats.items() if path not in superseded}


def _is_pump(source: Source) -> bool:
    text = "" if source.is_parquet else source.text.lstrip()
    return text.startswith("#") and ("data_version" in text or "pump_serial" in text)


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
    if _is_pump(source):
        return "pump_v2"
    return _table_format(source, card)


def _read_events(path: Path, kind: str, card: CGMCard, issues: Issues) -> Iterator[Readings]:
    """What each table of events says that a file belongs to."""
    for number in kind.removeprefix(_EVENTS).split(","):
        own = card.of_events(card.events[int(number)])
        (plain,) = unpacked([path], own, lambda path: True, issues)
        with naming(path):
            yield from read_generic(Source.of(plain, own.layout), own, issues)


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


def _read(path: Path, kind: str | None, card: CGMCard, issues: Issues) -> Iterator[Readings]:
    if kind is not None and kind.startswith(_EVENTS):
        yield from _read_events(path, kind, card, issues)
        return
    with naming(path):
        source = Source.of(path, card.layout)
        yield from _READERS[kind or detect_format(source, card)](source, card, issues)
