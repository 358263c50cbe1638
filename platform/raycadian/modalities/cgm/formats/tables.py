"""Tables with one reading a row: CSV and Parquet with the columns that the card names, and GlucoBench's CSV."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from raycadian.data.clock import offset_at
from raycadian.data.source import (
    HEAD_BYTES,
    Source,
    check_count,
    check_table,
    header_at,
    header_of,
    n_fields,
    open_bytes,
)
from raycadian.modalities.cells import chosen_rows
from raycadian.modalities.cgm.builder import MGDL, MMOLL, ReadingsBuilder, mgdl_of
from raycadian.modalities.cgm.card import CGMCard, Columns
from raycadian.modalities.cgm.repeats import names_of
from raycadian.modalities.columns import day_text
from raycadian.modalities.text_tables import read_text
from raycadian.modalities.unpack import plain_file
from raycadian.types import EVENT_CHANNELS, SUBJECT, Issues, Readings

GLUCOBENCH = Columns(subject="id", time="time", glucose="gl")
_BLOCK_BYTES = 256 * 1024  # of text at a time, several of them read ahead: memory doesn't grow with the file
_BATCH_ROWS = 65_536
_SWALLOWED = "line inside the row before (a quote that isn't closed)"
MOST_SMALL_BYTES = 4_000_000
_KEEP = "keep: "
_SUBJECT_NAMES = ("subject", "subject_id", "patient", "patient_id", "participant", "participant_id")


def read_generic(source: Source, card: CGMCard, issues: Issues) -> Iterator[Readings]:
    """A CSV or Parquet table with the columns of `card.columns`. Raises ValueError."""
    return _read(source, card, card.columns, None, issues)


def read_glucobench(source: Source, card: CGMCard, issues: Issues) -> Iterator[Readings]:
    """id, time, gl in mg/dL on a local clock; events too where the card names their columns. Raises ValueError."""
    columns = GLUCOBENCH.model_copy(update={kind: getattr(card.columns, kind) for kind in EVENT_CHANNELS})
    return _read(source, card, columns, MGDL, issues)


def read_small(path: Path, what: str) -> pd.DataFrame:
    """A CSV that a person keeps by hand (`what` says of what), as text, '' where blank. Raises ValueError."""
    source = Source.of(path := plain_file(path))
    if (n_bytes := path.stat().st_size) > MOST_SMALL_BYTES:
        raise ValueError(f"{path}: {n_bytes:,} bytes; a table of {what} has at most {MOST_SMALL_BYTES:,}")
    return read_text(source)


def csv_chunks(
    source: Source, builder: ReadingsBuilder, skip: int, n_columns: int, delimiter: str, wanted: dict[str, int]
) -> Iterator[pd.DataFrame]:
    """The wanted columns (name -> position) of a CSV below its first `skip` lines, as text, in blocks, with `line`.
    Rows with too few or too many fields are counted."""
    misshapen: list[int] = []

    def skip_row(row: pacsv.InvalidRow) -> str:
        misshapen.append(row.number)
        builder.issues.add(_SWALLOWED, f"{source.path.name}:{row.number}", row.text.count("\n"))
        return "skip"

    if len(source.head) < HEAD_BYTES and len(source.lines) <= skip:
        return  # nothing below the header
    options = _csv_options(source, skip, n_columns, delimiter, [str(i) for i in wanted.values()], skip_row)
    if source.encoding == "cp1252":
        builder.issues.add("text that is not UTF-8 (read as Windows-1252)", source.path.name)
    seen = reported = 0
    with open_bytes(source.path) as stream, pacsv.open_csv(stream, **options) as reader:
        for batch in reader:
            rows = pd.DataFrame({name: batch.column(i).to_numpy(False) for i, name in enumerate(wanted)})
            rows["line"] = _lines(seen, len(rows), skip + 1, misshapen)
            seen += len(rows)
            torn = sum(pc.sum(pc.count_substring(column, "\n")).as_py() or 0 for column in batch.columns)
            builder.issues.add(_SWALLOWED, source.path.name, torn)
            builder.note(f"row without its {n_columns} fields", np.array(misshapen[reported:]))
            reported = len(misshapen)
            blank = (rows[list(wanted)] == "").all(axis=1)
            builder.note("blank row", rows["line"][blank])
            yield rows[~blank].reset_index(drop=True)
    builder.note(f"row without its {n_columns} fields", np.array(misshapen[reported:]))


def _csv_options(
    source: Source, skip: int, n_columns: int, delimiter: str, used: list[str],
    skip_row: Callable[[pacsv.InvalidRow], str],
) -> dict[str, Any]:  # fmt: skip
    """For `pyarrow.csv.open_csv`: columns are named by their position, and read as text where `used`."""
    return {
        "read_options": pacsv.ReadOptions(
            use_threads=False, block_size=_BLOCK_BYTES, skip_rows=skip, column_names=[str(i) for i in range(n_columns)],
            encoding="utf-8" if source.encoding == "utf-8-sig" else source.encoding,
        ),
        "parse_options": pacsv.ParseOptions(
            delimiter=delimiter, newlines_in_values=True, ignore_empty_lines=False, invalid_row_handler=skip_row
        ),
        "convert_options": pacsv.ConvertOptions(
            column_types=dict.fromkeys(used, pa.string()), include_columns=used, strings_can_be_null=False
        ),
    }  # fmt: skip


def csv_rows(
    source: Source, builder: ReadingsBuilder, skip: int, n_columns: int, delimiter: str, wanted: dict[str, int]
) -> pd.DataFrame:
    """`csv_chunks` of one person's file in one piece. Raises ValueError for more rows than a person has."""
    chunks, n = [], 0
    for chunk in csv_chunks(source, builder, skip, n_columns, delimiter, wanted):
        check_count(n := n + len(chunk), source.path, what="rows")
        chunks.append(chunk)
    return pd.concat(chunks, ignore_index=True) if chunks else pd.DataFrame(columns=[*wanted, "line"], dtype=object)


def _lines(seen: int, n: int, first: int, misshapen: list[int]) -> np.ndarray:
    """Line numbers (n,) of well-formed rows: those after `seen`, misshapen lines between them left out."""
    row = seen + np.arange(n)
    before = np.array(misshapen, dtype=np.int64) - first - np.arange(len(misshapen))
    return first + row + np.searchsorted(before, row, side="right")


def _read(source: Source, card: CGMCard, columns: Columns, unit: str | None, issues: Issues) -> Iterator[Readings]:
    header = header_of(source)
    wanted = _positions(source, header, columns, card.subject_from) | _filters(source, header, card)
    named = unit_named(header[wanted["glucose"]]) if "glucose" in wanted else None
    if card.unit and named and named != card.unit:  # a column's name is no statement: the values are judged anyway
        issues.add(f"unit of the card ({card.unit}) in place of the column's name ({named})", source.path.name)
    unit = unit or (None if card.unit else named)
    unit = MGDL if "unit" in wanted else unit
    place, only_events = " row " if source.is_parquet else ":", "glucose" not in wanted
    builder = ReadingsBuilder(source.path, card, issues, unit, place=place, only_events=only_events)
    chunks = _parquet_chunks if source.is_parquet else _text_chunks
    for rows in chunks(source, builder, wanted, len(header)):
        rows = _kept(rows, builder)
        if SUBJECT not in wanted:
            rows[SUBJECT] = card.named(source.path) or source.stem
        yield from builder.readings(_typed(rows, builder))
    builder.finish()


def _filters(source: Source, header: Sequence[str], card: CGMCard) -> dict[str, int]:
    """Positions of the columns that say which rows are read. Raises ValueError."""
    lacking = [name for name in card.keep_rows if name not in header]
    if lacking:
        raise ValueError(
            f"{source.path}: no column {', '.join(map(repr, lacking))}, which keep_rows names; found "
            f"{', '.join(map(repr, header[:20]))}"
        )
    return {_KEEP + name: list(header).index(name) for name in card.keep_rows}


def _kept(rows: pd.DataFrame, builder: ReadingsBuilder) -> pd.DataFrame:
    """The rows that `keep_rows` names."""
    kept = np.ones(len(rows), dtype=bool)
    for name, values in builder.card.keep_rows.items():
        kept &= chosen_rows(rows[_KEEP + name], values)
    builder.note("row that keep_rows leaves out", rows["line"][~kept])
    return rows if kept.all() else rows[kept].reset_index(drop=True)


def unit_named(text: str) -> str | None:
    """The unit of glucose that a column's name states, if any."""
    if re.search(r"mg[ /_]?dl", text, re.IGNORECASE):
        return MGDL
    return MMOLL if re.search(r"mmol", text, re.IGNORECASE) else None


def _positions(source: Source, header: Sequence[str], columns: Columns, named_by_file: str | None) -> dict[str, int]:
    """Our name -> position of the columns that the card names. Raises ValueError."""
    named = {SUBJECT: columns.subject, "date": columns.date, "time": columns.time, "glucose": columns.glucose}
    named |= {"device": columns.device, "unit": columns.unit}
    named |= {kind: getattr(columns, kind) for kind in EVENT_CHANNELS}
    wanted = {ours: theirs for ours, theirs in named.items() if theirs is not None}
    absent = [theirs for theirs in wanted.values() if theirs not in header]
    if absent:
        raise ValueError(
            f"{source.path}: no column {', '.join(map(repr, absent))}; found {', '.join(map(repr, header[:20]))}; "
            "name the columns in the card (columns: {subject, time, glucose, ...})"
        )
    twice = [theirs for theirs in wanted.values() if list(header).count(theirs) > 1]
    if twice:
        raise ValueError(f"{source.path}: several columns are called {twice[0]!r}; rename all but one")
    unnamed = [name for name in header if name.lower() in _SUBJECT_NAMES]
    if columns.subject is None and unnamed and named_by_file is None:
        raise ValueError(
            f"{source.path}: the column {unnamed[0]!r} seems to tell people apart; name it in the card "
            f"(columns: {{subject: {unnamed[0]}}})"
        )
    return {ours: list(header).index(theirs) for ours, theirs in wanted.items()}


def _text_chunks(
    source: Source, builder: ReadingsBuilder, wanted: dict[str, int], n_columns: int
) -> Iterator[pd.DataFrame]:
    start = header_at(source)
    yield from csv_chunks(source, builder, start + 1, n_fields(source, start), source.delimiter, wanted)


def _parquet_chunks(
    source: Source, builder: ReadingsBuilder, wanted: dict[str, int], n_columns: int
) -> Iterator[pd.DataFrame]:
    with pq.ParquetFile(source.path) as file:
        check_table(file.metadata, source.path)
        names = [file.schema_arrow.names[i] for i in wanted.values()]
        seen = 0
        for batch in file.iter_batches(_BATCH_ROWS, columns=names):
            table = {ours: batch.column(name) for ours, name in zip(wanted, names, strict=True)}
            rows = pd.DataFrame({ours: values.to_pandas() for ours, values in table.items()})
            rows["line"] = seen + 1 + np.arange(len(rows))
            seen += len(rows)
            yield rows


def _typed(rows: pd.DataFrame, builder: ReadingsBuilder) -> pd.DataFrame:
    """Rows as builder.py wants them."""
    typed = {SUBJECT: _ids(rows[SUBJECT]), "line": rows["line"]}
    times = _with_dates(rows) if "date" in rows else rows["time"]
    typed["clock"], typed["offset_min"] = _clocks(times, builder)
    if "device" in rows:
        typed["device"] = names_of(rows["device"])
    for name in ("glucose", *EVENT_CHANNELS):
        if name in rows:
            typed[name] = builder.numbers(rows[name], rows["line"], name)
    if "unit" in rows:
        typed["glucose"] = _in_mgdl(typed["glucose"], rows, builder)
    if "glucose" in rows:
        builder.note("row without a glucose value", rows["line"][_empty(rows["glucose"])])
    return pd.DataFrame(typed)


def _in_mgdl(glucose: np.ndarray, rows: pd.DataFrame, builder: ReadingsBuilder) -> np.ndarray:
    """Glucose (N,) in mg/dL, each value in the unit beside it; NaN where that is no unit of glucose."""
    units = {cell: unit_named(str(cell)) for cell in rows["unit"].unique()}
    own = rows["unit"].map(units)
    unknown = own.isna().to_numpy() & ~np.isnan(glucose)
    builder.note("glucose in an unknown unit (missing)", rows["line"][unknown])
    mgdl = np.where(own.eq(MMOLL).to_numpy(), mgdl_of(glucose), glucose)
    return np.where(unknown, np.nan, mgdl)


def _with_dates(rows: pd.DataFrame) -> pd.Series:
    """Times of a date, or a number of days, and a clock that lie apart."""
    days = {day: day_text(str(day).strip()) for day in rows["date"].unique()}
    return rows["date"].map(days).astype(str) + " " + rows["time"].astype(str).str.strip()


def _empty(values: pd.Series) -> np.ndarray:
    return values.isna().to_numpy() | (values == "").to_numpy(bool)


def _ids(ids: pd.Series) -> pd.Series:
    """Whole numbers are written without a fraction: a table with a gap turns 7 into 7.0."""
    codes, ids_once = pd.factorize(ids)
    names = [re.sub(r"^(\d+)\.0+$", r"\1", str(name).strip()) for name in ids_once]
    return pd.Series(np.array([*names, ""], dtype=object)[codes])  # code -1, missing, is the last


def _clocks(times: pd.Series, builder: ReadingsBuilder) -> tuple[np.ndarray, np.ndarray]:
    """Clocks and offsets of a column of text or, in Parquet, of timestamps with or without a zone."""
    if not pd.api.types.is_datetime64_any_dtype(times):
        return builder.times(times)
    if times.dt.tz is None:
        return times.to_numpy("datetime64[ns]"), np.full(len(times), np.nan)
    utc = times.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("datetime64[ns]")
    known = ~np.isnat(utc)
    offset_min = np.zeros(len(utc))
    offset_min[known] = offset_at(utc[known], str(times.dt.tz))
    return utc + (offset_min * 60).astype("timedelta64[s]"), offset_min
