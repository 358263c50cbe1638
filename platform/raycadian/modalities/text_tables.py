"""Whole tables of text as people and programs write them: below a preamble, in any encoding, with separators behind."""

import csv
from collections.abc import Sequence

import pandas as pd
import pyarrow.parquet as pq

from raycadian.data.source import Source, header_at, header_of, n_fields, open_bytes

_LOOKED_AT = 200  # rows


def read_text(source: Source, columns: Sequence[str] | None = None, nrows: int | None = None) -> pd.DataFrame:
    """The columns of a CSV (all where None) as text, '' where empty. Raises ValueError."""
    start, names = header_at(source), header_of(source)
    delimiter, width = source.delimiter, n_fields(source, start)
    _check_rows(source, start, delimiter, width)
    wanted = [i for i, name in enumerate(names) if columns is None or name in columns]
    how = {"sep": delimiter, "skiprows": start + 1, "header": None, "names": range(width), "index_col": False}
    how |= {"encoding": source.encoding, "dtype": str, "keep_default_na": False, "skipinitialspace": True}
    try:
        with open_bytes(source.path) as stream:  # without `usecols` a row that is too long is an error
            table = pd.read_csv(stream, **how, usecols=None if columns is None else wanted, nrows=nrows)
    except pd.errors.EmptyDataError:
        table = pd.DataFrame({i: pd.Series(dtype=str) for i in wanted})
    except (pd.errors.ParserError, UnicodeError, EOFError, OSError) as error:
        raise ValueError(f"{source.path}: can't be understood, not a whole table: {error}") from None
    return table[wanted].fillna("").rename(columns=dict(enumerate(names)))


def distinct_rows(source: Source, columns: Sequence[str | None]) -> dict[str, list[str]]:
    """The rows of these columns (None: none), each once, in the order of the file. Raises ValueError."""
    named = [name for name in columns if name is not None]
    if source.is_parquet:
        table = pq.read_table(source.path, columns=named).to_pandas().astype(str)
    else:
        table = read_text(source, named)
    rows = table.drop_duplicates()
    return {name: rows[name].str.strip().tolist() for name in named}


def _check_rows(source: Source, start: int, delimiter: str, width: int) -> None:
    """Raises ValueError where the first rows have more fields than the header, which would be read as something
    else."""
    rows = csv.reader(source.lines[start + 1 : start + _LOOKED_AT], delimiter=delimiter)
    for number, row in enumerate(rows, start + 2):
        if len(row) > width and any(row[width:]):
            names = source.names
            raise ValueError(
                f"{source.path}:{number}: can't be understood: {len(row)} fields below {len(names)} columns; are "
                f"decimal commas written without quotes? Separate columns with semicolons, or correct the row"
            )
