"""The table of people beside a data set of any modality: labels and covariates, joined by subject."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raycadian.data.marks import Marks
from raycadian.data.source import Source
from raycadian.modalities.base import BaseCard, Item, Preparation
from raycadian.modalities.cells import with_points
from raycadian.modalities.text_tables import read_text
from raycadian.modalities.unpack import plain_file
from raycadian.types import SUBJECT, Issues, Recording

ROW = "row"
"""Of an item: its person's row of the table of people."""
_MISSING = ("", "nan", "NaN", "None", "NA", "N/A")
_MOSTLY = 0.9  # of what is there: a column with that many numbers is one of numbers


def people_file(card: BaseCard, folder: Path) -> list[Path]:
    """The table of people, if there is one. Raises ValueError where it is absent."""
    if card.people is None:
        return []
    path = folder / card.people.file
    if not path.is_file():
        raise ValueError(f"card {card.name!r}: no table of people at {path.absolute()}; correct people.file")
    return [path]


def with_people(items: Iterable[Item], job: Preparation) -> Iterator[Item]:
    """The items, each with its person's row; whoever is in one of the two alone is counted."""
    table = _of_card(job)
    seen: set[str] = set()
    for item in items:
        name = _plain(item[SUBJECT])
        seen.add(name)
        if table and name not in table:
            job.issues.add("person who is not in the table of people (no labels)", item[SUBJECT])
        yield item | {ROW: item.get(ROW, {}) | table[name]} if name in table else item
    if absent := sorted(set(table) - seen):
        job.issues.add("person of the table of people without a recording", absent[0], len(absent))


def marks_of(item: Item, recordings: Sequence[Recording]) -> list[Marks]:
    """The person's row as the attributes of each recording; nothing where there is none."""
    row = item.get(ROW)
    return [Marks(r.subject, r.index, len(r), r.dt_s, attributes=row) for r in recordings] if row else []


def _of_card(job: Preparation) -> dict[str, dict[str, Any]]:
    files = people_file(job.card, job.folder)
    return read_people(files[0], job.card, job.issues) if files else {}


def read_people(path: Path, card: BaseCard, issues: Issues) -> dict[str, dict[str, Any]]:
    """Subject (as `_plain` writes it) -> values that JSON holds, None for missing ones. Raises ValueError for an absent
    column, a person who stands there twice, and a column to be kept that is no table's."""
    about = card.people
    table = _text(plain_file(path, about.sheet))
    kept = about.keep or tuple(name for name in table if name and name != about.subject)
    if lacking := [name for name in (about.subject, *kept) if name not in table]:
        names = ", ".join(map(repr, list(table)[:20]))
        raise ValueError(f"{path}: no column {', '.join(map(repr, lacking))}; found {names}; correct `people`")
    table = table[~table[about.subject].isin(_MISSING)]
    index = table[about.subject].map(_plain)
    if index.duplicated().any():
        twice = index[index.duplicated()].unique()
        raise ValueError(f"{path}: {', '.join(twice[:3])} stands there more than once; keep one row a person")
    values = pd.DataFrame({name: _typed(table[name], f"{path.name}: {name}", issues) for name in kept})
    rows = values.astype(object).where(values.notna(), None).to_dict("records")
    return dict(zip(index, map(_json_row, rows), strict=True))


def _text(path: Path) -> pd.DataFrame:
    source = Source.of(path)
    table = pd.read_parquet(path).astype(str) if source.is_parquet else read_text(source)
    table = table.loc[:, ~table.columns.duplicated()]  # repeated names, as of several fasting samples: the first
    return table.rename(columns=lambda name: str(name).strip()).apply(lambda column: column.str.strip())


def _typed(column: pd.Series, where: str, issues: Issues) -> pd.Series:
    """A column as numbers where nearly all are, else as text."""
    there = ~column.isin(_MISSING)
    numbers = pd.to_numeric(with_points(column), errors="coerce").astype(np.float64)
    if not there.any() or numbers[there].notna().mean() < _MOSTLY:
        return column.where(there, None)
    lost = there & numbers.isna()
    example = column[lost].iloc[0] if lost.any() else ""
    issues.add("value that is no number (missing)", f"{where}: {example}", int(lost.sum()))
    return numbers


def _json_row(row: dict[str, Any]) -> dict[str, Any]:
    return {name: int(v) if isinstance(v, float) and v.is_integer() else v for name, v in row.items()}


def _plain(subject: Any) -> str:
    """An id without leading zeros, and without the fraction that a table with a gap gives a number."""
    text = str(subject).strip()
    text = text.removesuffix(".0") if text.removesuffix(".0").isdigit() else text
    return text.lstrip("0") or "0" if text.isdigit() else text
