"""The table of cases: whose each is, and what is known of the operation; and cohorts, by a query on it.

A value beyond what is told apart (an age of '>89') becomes the first whole number beyond (90), and the column
NAME_beyond says where: kept, not dropped, since leaving out the oldest would bias a cohort.
"""

import ast
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raycadian.data.source import Source, require_distinct
from raycadian.modalities.biosignals.tracks import matches, without_ending
from raycadian.modalities.cells import with_points
from raycadian.modalities.text_tables import read_text
from raycadian.modalities.unpack import plain_file
from raycadian.types import Issues

CASE, SUBJECT_ID = "caseid", "subjectid"
MAX_QUERY = 2_000
_MOSTLY = 0.9  # of what is there: a column with that many numbers or bounds is one of numbers
_BOUND = r"^\s*([<>]=?)\s*(-?\d+(?:\.\d+)?)\s*$"
_NODES = (
    ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.BinOp, ast.Add, ast.Sub, ast.Mult,
    ast.Div, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn, ast.Name, ast.Load,
    ast.Constant, ast.List, ast.Tuple,
)  # fmt: skip


def read_clinical(path: Path, issues: Issues, case: str = CASE, subject: str = SUBJECT_ID) -> pd.DataFrame:
    """A CSV (or Parquet) table with one row a case, typed: numbers, or text without spaces around it; '' is missing.

    Indexed by the case as text, in the file's order. A row without a case or a subject is counted and left out.
    Raises ValueError for absent columns and for a case that stands there twice.
    """
    rows = _text_rows(path)
    if absent := [name for name in (case, subject) if name not in rows]:
        raise ValueError(f"{path}: no column {', '.join(absent)}; found {', '.join(rows.columns[:20])}")
    for name, what in ((case, "row without a case (left out)"), (subject, "case without a subject (left out)")):
        empty = rows[name].isna()
        for line in rows.index[empty][:5]:
            issues.add(what, f"{path.name}: row {line + 1}")
        issues.add(what, n=max(0, int(empty.sum()) - 5))
        rows = rows[~empty]
    table = pd.concat([_typed(rows[name], f"{path.name}: {name}", issues) for name in rows], axis=1)
    index = pd.Index(rows[case].map(_whole).map(without_ending), name="case")  # cases are named without their endings
    if index.has_duplicates:
        twice = index[index.duplicated()].unique()
        raise ValueError(
            f"{path}: case {', '.join(twice[:5])} stands there more than once ({len(twice)} such); keep one row a case"
        )
    return table.set_index(index)


def row_of(table: pd.DataFrame, case: str) -> dict[str, Any]:
    """The row of a case, missing values left out; '0012' is case 12. Raises ValueError where there is none."""
    name = case if case in table.index else case.lstrip("0")
    if name not in table.index:
        raise ValueError(
            f"case {case!r} is not among the {len(table):,} of the clinical table (e.g. {table.index[0]!r})"
        )
    return {str(key): value for key, value in table.loc[name].items() if not pd.isna(value)}


def cohort(
    table: pd.DataFrame,
    query: str | None = None,
    tracks: Sequence[str | Sequence[str]] = (),
    available: Mapping[str, Collection[str]] | None = None,
) -> pd.DataFrame:
    """The rows of the cases that a query selects and that have all the tracks.

    query: comparisons of columns with values, joined by and, or, not: 'age >= 18 and asa in [1, 2] and optype ==
    "Stomach"'.
        A missing value fulfils no comparison but !=
    tracks: each a name, or several of which one will do · available: case -> names of its tracks
    Raises ValueError for a query that is anything else, names no column, or selects nobody.
    """
    rows = table if query is None else table[_selected(table, query)]
    if tracks:
        if available is None:
            raise ValueError("tracks select by what a case has; give `available`, the tracks of each case")
        rows = rows[[_has(available.get(case, ()), tracks) for case in rows.index]]
    if not len(rows):
        condition = " and ".join(filter(None, [query, f"tracks {list(tracks)}" if tracks else ""]))
        raise ValueError(f"no case of {len(table):,} fulfils {condition!r}; loosen it")
    return rows


def tracks_of_cases(trks: pd.DataFrame) -> dict[str, set[str]]:
    """Case -> names of its tracks, from the API's table with the columns caseid and tname. Raises ValueError."""
    if absent := {"caseid", "tname"} - set(trks):
        raise ValueError(
            f"tracks of cases: no column {', '.join(sorted(absent))}; found {', '.join(trks.columns[:10])}"
        )
    return {str(case): set(names) for case, names in trks.groupby("caseid")["tname"]}


# --- types ---------------------------------------------------------------------------------------------------------


def _text_rows(path: Path) -> pd.DataFrame:
    source = Source.of(path := plain_file(Path(path)))
    if not source.is_parquet:
        _check_header(source)
    if source.is_parquet:
        rows = pd.read_parquet(path).astype(object)
        rows = rows.where(rows.isna(), rows.astype(str))
    else:
        rows = read_text(source)
    rows.columns = [str(name).strip() for name in rows.columns]
    rows = rows.apply(lambda column: column.str.strip())
    return rows.mask(rows.isin(["", "nan", "NaN", "None", "NA"]))


def _check_header(source: Source) -> None:
    if not source.lines:
        raise ValueError(f"{source.path}: the file is empty")
    require_distinct(source.names, source.path)


def _typed(column: pd.Series, where: str, issues: Issues) -> pd.DataFrame:
    """A column as numbers where nearly all are, with NAME_beyond where some are bounds; else as text."""
    column = with_points(column)
    numbers = pd.to_numeric(column, errors="coerce").astype(np.float64)
    there = column.notna()
    bounds = column.where(numbers.isna()).str.extract(_BOUND)
    beyond = bounds[0].notna()
    if not there.any() or (numbers.notna() | beyond)[there].mean() < _MOSTLY:
        return column.to_frame()
    whole = numbers.dropna() % 1 == 0  # ages are, but of infants
    beyond_by = bounds[0].map({">": 1.0, "<": -1.0, ">=": 0.0, "<=": 0.0}) if whole.mean() > _MOSTLY else 0.0
    numbers = numbers.where(~beyond, bounds[1].astype(np.float64) + beyond_by)
    lost = there & numbers.isna()
    issues.add(
        f"value beyond a bound (kept, {column.name}_beyond says where)",
        f"{where}: {_first(column, beyond)}",
        int(beyond.sum()),
    )
    issues.add("value that is no number (missing)", f"{where}: {_first(column, lost)}", int(lost.sum()))
    typed = numbers.astype(np.int64) if whole.all() and numbers.notna().all() else numbers
    return pd.concat([typed, beyond.rename(f"{column.name}_beyond")], axis=1) if beyond.any() else typed.to_frame()


def _first(column: pd.Series, chosen: pd.Series) -> str:
    return str(column[chosen].iloc[0]) if chosen.any() else ""


def _whole(case: str) -> str:
    return case.removesuffix(".0")


# --- queries -------------------------------------------------------------------------------------------------------


def _has(names: Collection[str], tracks: Sequence[str | Sequence[str]]) -> bool:
    return all(
        any(matches(full, [track] if isinstance(track, str) else list(track)) for full in names) for track in tracks
    )


def _selected(table: pd.DataFrame, query: str) -> pd.Series:
    """True where a row fulfils the query. Nothing but comparisons gets as far as pandas."""
    _check_query(table, query)
    try:
        chosen = table.eval(query.strip(), engine="python", parser="pandas")
    except Exception as error:  # pandas raises what it likes
        raise ValueError(f"query {query!r}: {error}") from None
    if not isinstance(chosen, pd.Series) or chosen.dtype != bool:
        raise ValueError(f"query {query!r}: expected a condition such as 'age >= 18', found values")
    return chosen


_WORDS = {ast.Call: "a call", ast.Attribute: "a part of a column", ast.Pow: "a power"}


def _in_words(node: ast.AST) -> str:
    return _WORDS.get(type(node)) or (repr(ast.unparse(node)) if isinstance(node, ast.expr) else "such an operator")


def _check_query(table: pd.DataFrame, query: str) -> None:
    if len(query) > MAX_QUERY:
        raise ValueError(f"query: {len(query):,} characters, at most {MAX_QUERY:,}")
    try:
        tree = ast.parse(query.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"query {query!r}: not a condition: {getattr(error, 'msg', error)}") from None
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            raise ValueError(
                f"query {query!r}: {_in_words(node)} is not allowed; compare columns with values, joined by and, or, "
                "not"
            )
        if isinstance(node, ast.Name) and node.id not in table:
            raise ValueError(
                f"query {query!r}: no column {node.id!r}; the table has {', '.join(map(str, table.columns))}"
            )
        if isinstance(node, ast.BinOp) and any(
            isinstance(c, ast.Constant) and isinstance(c.value, str) for c in ast.walk(node)
        ):
            raise ValueError(f"query {query!r}: arithmetic with text")
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            _check_kinds(table, node, query)


def _check_kinds(table: pd.DataFrame, node: ast.Compare, query: str) -> None:
    """A column of numbers compared with text fulfils nothing, silently."""
    parts = [node.left, *node.comparators]
    values = [
        c.value
        for part in parts
        if isinstance(part, ast.Constant | ast.List | ast.Tuple)
        for c in ast.walk(part)
        if isinstance(c, ast.Constant)
    ]
    for name in (part.id for part in parts if isinstance(part, ast.Name)):
        numbers = pd.api.types.is_numeric_dtype(table[name])
        wrong = [value for value in values if isinstance(value, str) == numbers]
        if wrong:
            held = "numbers" if numbers else f"text, such as {', '.join(map(repr, table[name].dropna().unique()[:5]))}"
            raise ValueError(f"query {query!r}: {name} holds {held}; found {wrong[0]!r}")
