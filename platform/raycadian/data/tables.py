"""Tables from strangers, before they are read: where the header is, its names, and the first rows as text."""

import csv
from collections.abc import Sequence

from raycadian.data.source import Source, delimiter_of, split


def header_at(source: Source) -> int:
    """Number of lines before the header: the first line that is neither blank nor a # comment. Raises ValueError."""
    for number, line in enumerate(source.lines):
        if line.strip() and not line.startswith("#"):
            return number
    raise ValueError(f"{source.path}: no header found in its first {len(source.lines)} lines")


def header_of(source: Source) -> list[str]:
    """The names of a table's columns. Raises ValueError."""
    if source.is_parquet:
        import pyarrow.parquet as pq

        return pq.read_schema(source.path).names
    line = source.lines[header_at(source)]
    return split(line, delimiter_of(line))


def first_rows(source: Source) -> dict[str, list[str]]:
    """The rows of a table's first 64 KiB (Parquet: its first 5,000 rows), a list of texts a column, '' where empty.
    Raises ValueError."""
    if source.is_parquet:
        return _first_of_parquet(source)
    start = header_at(source)
    header, delimiter = header_of(source), delimiter_of(source.lines[start])
    rows = [row for row in csv.reader(source.lines[start + 1 :], delimiter=delimiter) if len(row) == len(header)]
    return {name: [row[i].strip() for row in rows] for i, name in enumerate(header)}


def _first_of_parquet(source: Source) -> dict[str, list[str]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(source.path) as file:
        batch = next(file.iter_batches(5_000), None)
    if batch is None:
        return {name: [] for name in header_of(source)}
    columns = {name: batch.column(i) for i, name in enumerate(batch.schema.names)}
    return {name: ["" if v is None else str(v) for v in column.to_pylist()] for name, column in columns.items()}


def shown(names: Sequence[str]) -> str:
    """Columns' names for a message."""
    return ", ".join(map(repr, names[:20])) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
