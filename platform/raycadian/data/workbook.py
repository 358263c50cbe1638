"""The sheets of a workbook as CSV files: run as a script, `python -P workbook.py WORKBOOK FOLDER`, so that a file which
makes the library take all memory, panic or abort ends this process and no other.

Writes FOLDER/N.csv for the sheet at position N, where it has a cell, and prints JSON: [[name, cells], ...]. Imports
nothing of the package: where it is run, the package need not be installed.
"""

import csv
import json
import resource
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

MOST_CELLS = 20_000_000  # all rows that a sheet may have, of twenty columns
_MOST_BYTES = 2 << 30  # of memory: such a sheet takes 1.5 GB


def sheets(path: str, folder: Path) -> list[tuple[str, int]]:
    """Name and cells of each; one with too many is not written, nor what follows."""
    import python_calamine

    workbook = python_calamine.CalamineWorkbook.from_path(path)
    about: list[tuple[str, int]] = []
    for n, name in enumerate(workbook.sheet_names):
        sheet = workbook.get_sheet_by_name(name)
        about.append((name, sheet.total_height * max(sheet.total_width, 1)))
        if about[-1][1] > MOST_CELLS:
            break
        rows = sheet.to_python(skip_empty_area=True)
        if any(cell != "" for row in rows for cell in row):
            _write(rows, folder / f"{n}.csv")
    return about


def _write(rows: Sequence[Sequence[Any]], to: Path) -> None:
    with to.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([_text(cell) for cell in row] for row in rows)


def _text(cell: Any) -> str:
    """A cell as CSV has it: whole numbers without a fraction, times to the millisecond (a workbook counts days)."""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() and abs(cell) < 2**53 else repr(cell)
    if isinstance(cell, datetime):
        rounded = _whole_ms(cell)
        return rounded.isoformat(" ", "milliseconds" if rounded.microsecond else "seconds")
    if isinstance(cell, time):
        return _whole_ms(datetime.combine(date(2000, 1, 1), cell)).time().isoformat("seconds")
    if isinstance(cell, timedelta):  # a clock that the workbook holds as a part of a day
        return str(timedelta(seconds=round(cell.total_seconds()))).rpartition(", ")[2].rjust(8, "0")
    return str(cell)


def _whole_ms(moment: datetime) -> datetime:
    """To the millisecond, and to the second where it is that but for what a day's fraction leaves."""
    second = (moment + timedelta(milliseconds=500)).replace(microsecond=0)
    if abs(second - moment) <= timedelta(milliseconds=2):
        return second
    return (moment + timedelta(microseconds=500)).replace(microsecond=(moment.microsecond + 500) // 1000 % 1000 * 1000)


def _main() -> None:
    with suppress(ValueError, OSError):  # a system without such a limit
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        about = sheets(sys.argv[1], Path(sys.argv[2]))
    except BaseException as error:  # a panic of the library is no Exception
        sys.exit(str(error).strip() or "it takes more memory than a workbook may")
    print(json.dumps(about))


if __name__ == "__main__":
    _main()
