"""Several people under one name: a table's readings contradict one another at the same time. Refused, with the columns
that may tell people apart."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raycadian.modalities.guesses import how_to_set

if TYPE_CHECKING:
    import pandas as pd

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
    named = next((names for path in paths if (names := _of_table(path, columns))), [])
    if named:
        either = " or ".join(f"{name!r} ({values} values)" for name, values in named)
        fix = f"times are unique within each value of {either}: if it says whose a reading is, "
        fix += how_to_set("columns.subject", named[0][0])
    else:
        fix = "no column tells them apart: make a file of each person, or keep one reading at each time"
    where = ", ".join(map(str, paths[:3])) or "readings"
    raise ValueError(
        f"{where}: {conflicting:,} of {n:,} readings of {subject!r} have another value at the "
        f"same time, at most {MOST_CONFLICTING:.0%} may: several people, or devices, under one name; {fix}"
    )


def tell_apart(table: "pd.DataFrame", used: Collection[str | None], time: str) -> list[tuple[str, int]]:
    """Columns of a table, with the number of their values, under which times are unique; those of few values first."""
    most = len(table) // _FEWEST_ROWS
    values = {name: table[name].nunique() for name in table.columns if name not in used}
    alone = [
        (name, n)
        for name, n in values.items()
        if 1 < n <= most and table.duplicated([time, name]).mean() <= MOST_CONFLICTING
    ]
    return sorted(alone, key=lambda column: column[1])[:_MOST_NAMED]


def _of_table(path: Path, columns: Mapping[str, str | None]) -> list[tuple[str, int]]:
    table, time = _table(path), columns.get("time")
    return [] if table is None or time not in table else tell_apart(table, columns.values(), time)


def _table(path: Path) -> "pd.DataFrame | None":
    """The first rows of a table as text; None where the file is none."""
    import pandas as pd
    import pyarrow.parquet as pq

    from raycadian.data.source import Source, delimiter_of, header_at, open_bytes

    source = Source.of(path)
    if source.is_parquet:
        return pq.read_table(path).slice(0, _MOST_ROWS).to_pandas().astype(str)
    start = header_at(source)
    with open_bytes(path) as stream:
        try:
            table = pd.read_csv(
                stream, sep=delimiter_of(source.lines[start]), skiprows=start, dtype=str, encoding=source.encoding,
                on_bad_lines="skip", nrows=_MOST_ROWS, keep_default_na=False, skipinitialspace=True,
            )  # fmt: skip
        except (ValueError, pd.errors.ParserError):
            return None
    return table.rename(columns=lambda name: str(name).strip())
