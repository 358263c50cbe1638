"""What a modality is: everything that tells one kind of recordings from another, in one object.

A modality is a folder with one subclass of `Modality`, listed once in `modalities/__init__.py`. Import is cheap: what
is heavy (pandas, torch, readers) is imported where a method needs it.
"""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BeforeValidator, Field, field_validator

from raycadian.config.schema import Name, Schema
from raycadian.data.source import Layout
from raycadian.modalities.unreadable import FILE, Unreadable
from raycadian.types import Issues, Recording

if TYPE_CHECKING:
    import pyarrow as pa

    from raycadian.data.blocks import BlockWriter
    from raycadian.data.reading import Opener
    from raycadian.data.series import Series
    from raycadian.data.snapshot import Snapshot
    from raycadian.modalities.earlier import Earlier
    from raycadian.modalities.guesses import Detection, Given
    from raycadian.modalities.request import RequestSchema

Item = dict[str, Any]
"""What a worker is sent to read one subject: `subject`, `bytes` about to be read where that is known, and whatever else
the modality needs; JSON holds it."""
Row = dict[str, Any]
"""What a worker answers of one subject (data/writer.py); JSON holds it."""
Rows = Collection[Row]
"""Of all subjects, which lie on disk: gone through as often as needed, never held together."""
Section = tuple[str, str]
"""Of a page: heading, HTML body."""
Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, how many are done, of how many (None: not known yet)."""


def one_group(pattern: str | None) -> str | None:
    """A regular expression with one group. Raises ValueError for another one."""
    try:
        groups = re.compile(pattern or "()").groups
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from None
    if groups != 1:
        raise ValueError(f"{pattern!r} has {groups} groups, expected one, around the subject: P(\\d+)")
    return pattern


def _as_texts(values: Any) -> Any:
    """A cell's values as a file has them: YAML reads 1, true and 2.5 as what they are."""
    several = values if isinstance(values, list | tuple) else [values]
    return tuple(str(value).lower() if isinstance(value, bool) else str(value) for value in several)


KeepRows = dict[str, Annotated[tuple[str, ...], BeforeValidator(_as_texts)]]
"""Of tables: column -> the values, in any case, of rows that are read; the others are counted."""


class People(Schema):
    """A table of people, a row each: labels and covariates of whoever has recordings."""

    file: str
    """Path relative to the card's folder: CSV, Parquet or a workbook."""
    subject: str = "subject"
    """Column of the subject's id; leading zeros don't matter."""
    keep: tuple[str, ...] = ()
    """Columns kept in the snapshot as labels and weights; all where none is named."""
    sheet: str | None = None


class BaseCard(Schema):
    """What every card says: a data set, where it lies, its licence."""

    name: Name
    description: str = ""
    modality: str
    files: tuple[str, ...] = Field(min_length=1)
    """Paths or globs, relative to the card's folder."""
    sheet: str | None = None
    """Of a workbook, the sheet that is read; `*`: each that fits, another person's each and called after it. Left out:
    the only one that fits."""
    members: tuple[str, ...] | None = None
    """Of a ZIP archive, the members that are read (names or globs). Left out: all but those that describe the data."""
    skip_lines: int | None = Field(None, ge=0)
    """Of tables, lines above the header (or the first row). Left out: told from the file."""
    header: bool | None = None
    """Of tables, whether a line names the columns; where none does, they are called 1, 2, 3. Left out: told from the
    file."""
    keep_rows: KeepRows = Field(default_factory=dict)
    """Of tables, which rows are read: `{event_type: [EGV]}`."""
    subject_from: str | None = None
    """Whose a file is, by its name: a regular expression whose group is the subject, `UoM[A-Za-z]+(\\d+)`; one with a
    / in it is of the path, `(\\d+)/glucose.csv`."""
    people: People | None = None
    """A table of people with labels and covariates."""
    same_readings: Literal["refused", "kept"] = "refused"
    """What to do about two subjects that share readings, the same values at the same seconds: one person under two ids
    is in training and in test. kept: they are two people, or it doesn't matter; counted."""
    exclude_subjects: tuple[str, ...] = ()
    most_unreadable: float = Field(0.5, ge=0, le=1)
    """Share of the files from which on it is an error that they can't be read: fewer are left out, counted and named;
    0: the first one is an error."""
    license: str = ""
    source: str = ""
    citation: str = ""

    def stated(self, **dump: bool) -> dict[str, Any]:
        """What JSON holds of it, without what cards of before didn't say, as far as it is usual: they name the same
        snapshots."""
        return self.model_dump(mode="json", exclude=self._usual(), **dump)

    def _usual(self) -> dict[str, Any]:
        """What cards of before didn't say, as far as it is usual."""
        return {name: True for name in _LATER if getattr(self, name) == self._default(name)}

    def _default(self, name: str) -> Any:
        return type(self).model_fields[name].get_default(call_default_factory=True)

    _pattern = field_validator("subject_from")(one_group)

    def named(self, path: Path) -> str | None:
        """The subject that the card gives a file, by its name; None where it doesn't say how it is found. Raises
        ValueError for a name without it."""
        if self.subject_from is None:
            return None
        match = re.search(self.subject_from, path.as_posix() if "/" in self.subject_from else path.name)
        if match is None or not match[1]:
            raise ValueError(f"{path}: subject_from {self.subject_from!r} finds no subject in its name; correct it")
        return match[1]

    @property
    def layout(self) -> Layout:
        """How tables lie in their files, as far as the card says."""
        return Layout(self.skip_lines, self.header)

    def as_yaml(self, **dump: bool) -> str:
        """As the file that `raycadian prepare` takes; `dump`: exclude_none or exclude_defaults. What every card says of
        its terms stands last."""
        values = {"name": self.name, "modality": self.modality} | self.stated(**dump)
        first = ("name", "description", "modality", "files")
        names = [*first, *(n for n in values if n not in first + _LAST), *_LAST]
        content = {name: values[name] for name in names if name in values}
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


_LATER = (
    "same_readings",
    "keep_rows",
    "subject_from",
    "people",
    "most_unreadable",
    "sheet",
    "members",
    "skip_lines",
    "header",
)
_LAST = ("exclude_subjects", "most_unreadable", "license", "source", "citation")


@dataclass(frozen=True)
class Simulation:
    """What is to be simulated; a modality takes what it has a use for. people: also operations, a case each · days,
    minutes: of each · cycle: of NHANES, a letter."""

    people: int
    days: float
    minutes: float
    cycle: str
    seed: int


@dataclass(frozen=True)
class Preparation:
    """What a modality's driver works with: a card, the files that it names, the folder that they are relative to, a
    folder for what is laid aside (gone afterwards), where to count and to tell, and whether Ray's workers read (where
    it isn't said, if that takes less time)."""

    card: Any
    paths: list[Path]
    folder: Path
    work: Path
    issues: Issues
    progress: Progress
    on_ray: bool | None = False
    unreadable: Unreadable = field(default_factory=lambda: Unreadable(0.0))
    digests: Mapping[str, str] = field(default_factory=dict)
    """Of the files and their companions, by name."""
    earlier: "Earlier | None" = None
    records: "dict[str, pa.Table]" = field(default_factory=dict)
    """What the modality finds again in `earlier` when it is prepared with other files."""

    def leaving_out(self, path: Path) -> AbstractContextManager[None]:
        """A ValueError in here leaves a file out, up to the share that the card allows."""
        return self.unreadable.leaving_out(FILE, self.name(path), len(self.paths))

    @property
    def readable(self) -> list[Path]:
        """The paths but those that were left out so far."""
        left_out = self.unreadable.messages.get(FILE, {})
        return [path for path in self.paths if self.name(path) not in left_out]

    def name(self, path: Path) -> str:
        """Of a file in the manifest: relative to the card's folder."""
        return os.path.relpath(path, self.folder)


class Modality(ABC):
    """One kind of recordings, from its files to what is shown of them. Stateless; `write` runs on workers."""

    name: ClassVar[str]
    Card: ClassVar[type[BaseCard]]
    version: ClassVar[int] = 1
    """Of what is read and how it is written. A change of either is a new version: `prepare` then reads again. A golden
    snapshot in tests/modalities/test_golden_snapshots.py fails where what is written changes and this doesn't."""
    columns: ClassVar[tuple[str, ...]] = ()
    """Columns that the table of recordings of every subject has, beside `recording` and `observed`."""
    example_task: ClassVar[str] = ""
    """Of a modality of which nothing is forecast by itself: what a recipe says of its labels, as YAML."""
    effort: ClassVar[float] = 1.0
    """Time that a byte of a file takes, in that of a byte of a table of readings."""

    # --- from files to a snapshot ---

    @abstractmethod
    def items(self, preparation: Preparation) -> Iterable[Item]:
        """On the driver: what there is to read, a subject each. Raises ValueError."""

    def gathered(self, items: list[Item]) -> list[Item]:
        """On a worker: a group of subjects, with what is read of all of them at once."""
        return items

    @abstractmethod
    def read(self, item: Item, card: Any, issues: Issues) -> Iterator[Recording]:
        """On a worker: the subject's recordings in the order of time. Raises ValueError."""

    def write(self, item: Item, blocks: "BlockWriter", card: Any) -> Row:
        """On a worker: read the subject and write its tables. Run again (Ray retries) it overwrites."""
        from raycadian.data.writer import write_subject
        from raycadian.types import SUBJECT

        issues = Issues()
        recordings = list(self.read(item, card, issues))
        quality = {"recordings": len(recordings), "points": sum(map(len, recordings))}
        row = {SUBJECT: item[SUBJECT], "issues": issues.as_dict(), "quality": quality}
        return row | write_subject(blocks, item[SUBJECT], recordings)

    def counts(self, rows: Rows, usable: Rows) -> dict[str, int]:
        """Of a snapshot, for people: `rows` of all subjects, of which those `usable` were written."""
        heads = [head for row in usable for head in row["heads"]]
        return {
            "subjects": len(usable),
            "subjects_without_recording": len(rows) - len(usable),
            "recordings": len(heads),
            "points": sum(head[-1] for head in heads),
        }

    def companions(self, card: Any, paths: list[Path], folder: Path) -> list[Path]:
        """Files that belong to those that a card names, and that the snapshot depends on. Raises ValueError."""
        return []

    def n_bytes(self, card: Any, paths: list[Path]) -> float:
        """Of what is to be read, in bytes of a table of readings: decides where `prepare` works."""
        return self.effort * sum(path.stat().st_size for path in paths)

    def cohorts(self, rows: Rows, card: Any, paths: list[Path]) -> dict[str, list[dict[str, Any]]]:
        """Of each label that the files give: who is left after each step, the figures of a flow chart."""
        return {}

    def nothing_usable(self, card: Any, rows: Rows, issues: Issues) -> str:
        """The message where no subject has a recording."""
        examples = {kind: (issues.examples.get(kind) or ["-"])[0] for kind in issues.counts}
        met = "; ".join(f"{kind}: {n}, e.g. {examples[kind]}" for kind, n in issues.counts.items())
        return f"card {card.name!r}: no recording could be read of {len(rows)} subjects ({met or 'none is selected'})"

    def fits(self, path: Path, card: Any) -> bool:
        """Whether a file inside of a workbook or an archive is one that the card means. Raises ValueError too where it
        is not."""
        from raycadian.modalities.guesses import given_by

        return self.detect(path, given_by(card)) is not None

    # --- a person's own file ---

    def read_person(self, path: Path, card: Any | None, like: Any, issues: Issues) -> list[Recording]:
        """One person's recordings from a file of any known format, as a model takes them that was trained on a data set
        with the card `like`. `card`: how to read the file, where it doesn't say so itself. Raises ValueError for a file
        of several people, or without a recording."""
        raise ValueError(f"{path}: {self.name} can't be read for one person alone; prepare it as a data set")

    @abstractmethod
    def request(self) -> type["RequestSchema"]:
        """What a POST to the endpoint has to say of one person."""

    # --- what a snapshot is used for ---

    def series(self, snapshot: "Snapshot", channels: tuple[str, ...], opener: "Opener") -> "Series":
        """The series whose first channel is forecast, by `opener` where it is one of recordings. Raises ValueError
        where that can't be."""
        raise ValueError(
            f"{snapshot.id} holds {self.name}, of which {channels[0]} can't be forecast; set task.target and "
            "window.past to a channel that can be, or task.kind: classify or regress"
        )

    def quality(self, snapshot: "Snapshot") -> list[Section]:
        """The sections of the data-quality page."""
        from raycadian.modalities.quality import counts_sections

        return counts_sections(snapshot)

    def simulate(self, simulation: Simulation, out: Path, progress: Callable[[int, int], None]) -> Path:
        """Simulate people into the file or new folder `out`; their card. Raises ValueError where that can't be."""
        raise ValueError(f"{self.name} can't be simulated")

    # --- files that no card describes ---

    @abstractmethod
    def detect(self, path: Path, given: "Given") -> "Detection | None":
        """What a file is, and what a card would have to say of it; None where it is not of this modality. Raises
        ValueError for a file of this modality that is broken."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
