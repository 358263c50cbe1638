"""Several people under one name: a table's readings contradict one another at the same time. Refused, with the columns
that may tell people apart."""

import json
import re
import shlex
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raycadian.modalities.guesses import how_to_set, option

if TYPE_CHECKING:
    import pandas as pd

    from raycadian.modalities.base import BaseCard
    from raycadian.types import Issues

MOST_CONFLICTING = 0.05  # of one person's readings: a restarted device, or a scan beside a reading, makes a few
_FEWEST = 12  # so many are no sign: the hour that a clock repeats in autumn, every five minutes
_FEWEST_ROWS = 12  # of a person: a column with fewer rows a value numbers something else
_MOST_ROWS = 1_000_000  # looked at
_MOST_NAMED = 3


def are_few(conflicting: int, n: int) -> bool:
    """Whether so many of n readings may have another value at the time of one before."""
    return conflicting <= max(_FEWEST, MOST_CONFLICTING * n)


def require_one_person(
    subject: str, conflicting: int, n: int, paths: Sequence[Path], columns: Mapping[str, str | None]
) -> None:
    """Raises ValueError where more than MOST_CONFLICTING of n readings have another value at the time of one before.

    paths: the files that they came from · columns: those of a table that the card names, `time` among them.
    """
    if are_few(conflicting, n):
        return
    fix = next(filter(None, (_told_apart(path, columns) for path in paths)), "")
    fix = fix or "no column tells them apart: make a file of each person, or keep one reading at each time"
    where = ", ".join(map(str, paths[:3])) or "readings"
    raise ValueError(
        f"{where}: {conflicting:,} of {n:,} readings of {subject!r} have another value at the "
        f"same time, at most {MOST_CONFLICTING:.0%} may: several people, or devices, under one name; {fix}"
    )


UNNAMED = "row without a subject"


def require_named(unnamed: int, rows: int, path: Path, column: str | None) -> None:
    """Some rows of a table may name nobody, and are left out and counted. Raises ValueError where all do."""
    if rows and unnamed == rows:
        raise ValueError(
            f"{path}: none of {rows:,} rows says whose it is: {column!r} is empty; take that column out of the file if "
            f"all are one person's, or {how_to_set('columns.subject', 'NAME')}"
        )


def tell_apart(
    table: "pd.DataFrame", used: Collection[str | None], time: str, within: str | None = None
) -> list[tuple[str, int]]:
    """Columns of a table, with the number of their values, under which times are unique; those of few values first.
    `within`: a column that tells people apart only together with one of these."""
    most = len(table) // _FEWEST_ROWS
    values = {name: table[name].nunique() for name in table.columns if name not in used}
    known = [time] if within is None else [time, within]
    alone = [
        (name, n)
        for name, n in values.items()
        if 1 < n <= most and table.duplicated([*known, name]).mean() <= MOST_CONFLICTING
    ]
    return sorted(alone, key=lambda column: column[1])[:_MOST_NAMED]


def _told_apart(path: Path, columns: Mapping[str, str | None]) -> str:
    """What to do about several people of a table under one name; empty where none of its columns helps."""
    table, time, subject = _table(path), columns.get("time"), columns.get("subject")
    if table is None or time not in table:
        return ""
    if names := tell_apart(table, columns.values(), time):
        either = " or ".join(f"{name!r} ({values} values)" for name, values in names)
        fix = f"times are unique within each value of {either}: if it says whose a reading is, "
        return fix + how_to_set("columns.subject", names[0][0])
    if subject in table and (names := tell_apart(table, columns.values(), time, within=subject)):
        ((name, values), *_) = names
        join = _join_advice(path, name, subject)
        return f"{subject!r} says whose a reading is only together with {name!r} ({values} values): {join}"
    return ""


_SITES = {"site", "center", "centre", "clinic", "hospital", "institution", "ward"}


def repeated_over_sites(path: Path, subject: str) -> str:
    """What to ask about a table in which an id occurs at several sites, which number their patients each from 1;
    empty where none does."""
    from raycadian.data.source import Source, first_rows

    sites = [name for name in first_rows(Source.of(path)) if {*name.lower().replace("_", " ").split()} & _SITES]
    table = _table(path) if sites else None
    for site in (name for name in sites if table is not None and name != subject):
        pairs = table[[site, subject]].drop_duplicates()
        n = int(pairs.loc[pairs[subject].duplicated(), subject].nunique())
        if n:
            return (
                f"{n} of {pairs[subject].nunique()} ids in {subject!r} occur under several values of {site!r}: if they "
                f"are different people, {_join_advice(path, site, subject)}; if an id is one person everywhere, add "
                f"{option('columns.subject', subject)}"
            )
    return ""


def _join_advice(path: Path, name: str, subject: str) -> str:
    command = join_command(path, (name, subject), "person_id")
    return f"join the two, {command}, then prepare that file, with {option('columns.subject', 'person_id')}"


def join_command(path: Path, names: Sequence[str], joined: str, by: str = "-") -> str:
    """What to type for a copy of a table whose columns `names` are one, `joined`, as text with `by` between them."""
    from raycadian.data.source import Source

    source, copy = Source.of(path), path.with_name(f"{path.stem}-joined.csv")
    reading = f"read_parquet({_quoted(path)}).astype(str)"
    if not source.is_parquet:
        how = f"sep={_quoted(source.delimiter)}, skiprows={source.first_line}, encoding={_quoted(source.encoding)}"
        reading = f"read_csv({_quoted(path)}, {how}, dtype=str)"
    parts = f" + {_quoted(by)} + ".join(f"t.pop({_quoted(name)})" for name in names)
    code = f"import pandas as pd; t = pd.{reading}; t[{_quoted(joined)}] = {parts}; "
    return f"`{shlex.join([sys.executable, '-c', f'{code}t.to_csv({_quoted(copy)}, index=False)'])}`"


def _quoted(text: object) -> str:
    """A literal of Python that needs no more quotes in a shell's."""
    return json.dumps(str(text), ensure_ascii=False)


def same_person(one: str, other: str, card: "BaseCard", issues: "Issues") -> None:
    """Two subjects share readings. Raises ValueError unless the card keeps them; then they are counted."""
    if card.same_readings == "refused":
        raise ValueError(
            f"subjects {one!r} and {other!r} share readings, the same values at the same times: one person under two "
            "ids would be in training and in test (leakage); give both one id, or leave one out (exclude_subjects); if "
            f"they are two people, {how_to_set('same_readings', 'kept')}"
        )
    issues.add("two subjects that share readings (one person under two names?)", f"{one}, {other}")


def require_other_contents(files: Iterable[tuple[str, str, str | None]], card: "BaseCard", issues: "Issues") -> None:
    """Of (subject, a file of theirs, its digest, None where it isn't known): no two files of two people are equal. As
    `same_person` where they are."""
    owners: dict[str, tuple[str, str]] = {}
    for subject, file, content in files:
        owner, first = owners.setdefault(content, (subject, file)) if content else (subject, file)
        if owner != subject and first != file:
            same_person(owner, subject, card, issues)


_LETTERS_AND_DIGITS = re.compile(r"[^\W\d_]+|\d+")
ALIKE = "ids that differ by case, zeros or separators alone (one person under several? test people would be known)"


def alike(subjects: Sequence[str]) -> list[list[str]]:
    """Groups of ids that are told apart by case, leading zeros, spaces or separators alone: P01, p1, P-01."""
    import numpy as np

    hashes = np.fromiter((hash(_pieces(subject)) for subject in subjects), np.int64, len(subjects))
    _, value, times = np.unique(hashes, return_inverse=True, return_counts=True)
    groups: dict[tuple[str, ...], list[str]] = {}
    for i in np.flatnonzero(times[value] > 1):
        groups.setdefault(_pieces(subjects[i]), []).append(subjects[i])
    return [ids for ids in groups.values() if len(ids) > 1]


def _pieces(subject: str) -> tuple[str, ...]:
    pieces = _LETTERS_AND_DIGITS.findall(subject.casefold())
    return tuple(p.lstrip("0") or "0" if p.isdigit() else p for p in pieces)


def _table(path: Path) -> "pd.DataFrame | None":
    """The first rows of a table as text; None where the file is none."""
    import pandas as pd
    import pyarrow.parquet as pq

    from raycadian.data.source import Source, header_at, open_bytes

    source = Source.of(path)
    if source.is_parquet:
        return pq.read_table(path).slice(0, _MOST_ROWS).to_pandas().astype(str)
    start = header_at(source)
    with open_bytes(path) as stream:
        try:
            table = pd.read_csv(
                stream, sep=source.delimiter, skiprows=start + 1, dtype=str, encoding=source.encoding,
                header=None, names=source.names, index_col=False,
                on_bad_lines="skip", nrows=_MOST_ROWS, keep_default_na=False, skipinitialspace=True,
            )  # fmt: skip
        except (ValueError, pd.errors.ParserError):
            return None
    return table.rename(columns=lambda name: str(name).strip())


_DATED = re.compile(r"(?:^|[-_. ])(19|20)\d{2}(?:[-_.]?[01]\d(?:[-_.]?[0-3]\d)?)?(?=$|[-_. ])")
_MOST_OF_ONE = 10  # files by year; more are numbers of people


def require_apart_but_for_dates(names: Iterable[str], how: str) -> None:
    """Raises ValueError where two of the names that files gave to subjects differ by a date alone: one person's
    years or visits, who would be in training and in test. `how`: what says whose a file is."""
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        undated = _DATED.sub("", name).strip("-_. ")
        if undated and undated != name:
            alike.setdefault(undated.lower(), []).append(name)
    for undated, several in alike.items():
        if 1 < len(several) <= _MOST_OF_ONE:
            raise ValueError(
                f"files {', '.join(map(repr, several[:3]))} are called alike but for a date, and would be "
                f"{len(several)} subjects: one person in training and in test. If they are one person's, {how}; if "
                f"each is another person's, rename them without the date ({undated}-a, {undated}-b)"
            )
