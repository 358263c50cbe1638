"""Waveforms in tables: CSV and Parquet with one column a track, and .npz archives with one array a track.

A table has a column of times (seconds, or timestamps), or the caller says its rate. A column's name may carry its unit:
'ABP [mmHg]'. An archive says beside NAME what NAME is: NAME.rate_hz or NAME.times_s, NAME.unit, NAME.start_s; `rate_hz`
holds for all, `subject`, `case` and `start_utc` for the archive.
"""

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from raycadian.data.clock import EPOCHS_MS, clock_of_epoch_ms
from raycadian.data.source import (
    Source,
    check_table,
    check_unpacked,
    first_rows,
    header_at,
    header_of,
    open_bytes,
    require_distinct,
)
from raycadian.modalities.biosignals.tracks import (
    Room,
    case_of,
    check_length,
    numeric,
    present,
    waveform,
    with_samples,
)
from raycadian.modalities.cells import parse_column
from raycadian.modalities.columns import like_times
from raycadian.modalities.time_formats import epoch_format
from raycadian.types import Case, Issues, Track

TIMES = ("time_s", "time", "t", "seconds", "timestamp", "datetime")  # what a column of times may be called, in any case
_NAME_AND_UNIT = re.compile(r"^(.*?)\s*[\[(]([^\[\]()]*)[\])]$")
_ABOUT = ("rate_hz", "times_s", "unit", "start_s")
_WHOLE = ("rate_hz", "subject", "case", "start_utc")
_MISSING = ["", "nan", "NaN", "NA", "null", "-nan(ind)"]
_SAME_RATE = 1e-3
_SECONDS = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0}
_TIME_UNIT = re.compile(r"_(s|sec|ms|us|ns)$")


def read_table(
    path: Path, wanted: Sequence[str] | None, issues: Issues, rate_hz: float | None, units: Mapping[str, str]
) -> Case:
    """The columns of a CSV or Parquet table that are wanted (all but the times where None). Raises ValueError.

    rate_hz: where the table has no times; with times it must agree with them. units: of columns whose name has none.
    """
    source = Source.of(path)
    header = header_of(source)
    require_distinct(header, path)
    times = _times_of(header, source)
    named = {_split_unit(name)[0]: name for name in header if name != times}
    names = present(named, wanted)
    columns = _columns(source, [named[name] for name in names], times, len(header) > 1)
    clock = columns.pop(times) if times else None
    start, seconds = _seconds(clock, path, _unit_of_times(times or ""))
    tracks, room = {}, Room()
    for name in names:
        unit, where = _split_unit(named[name])[1] or units.get(name, ""), f"{path}: {name}"
        tracks[name] = _column(
            _numbers(columns[named[name]], where, issues), seconds, rate_hz, unit, where, issues, room
        )
    return Case(case_of(path), "", with_samples(tracks, path, issues), start_utc=start)


def read_npz(
    path: Path, wanted: Sequence[str] | None, issues: Issues, rate_hz: float | None, units: Mapping[str, str]
) -> Case:
    """The arrays of an archive that are wanted (all where None). Raises ValueError; a pickle in it is never loaded."""
    _check_archive(path)
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        keys = archive.files
        whole = {key: _scalar(archive[key], f"{path}: {key}") for key in _WHOLE if key in keys}
        tracks = {}
        for name in present(_names(keys), wanted):
            about = {key: archive[f"{name}.{key}"] for key in _ABOUT if f"{name}.{key}" in keys}
            rate = about.get("rate_hz", whole.get("rate_hz", rate_hz))
            unit = str(_scalar(about.get("unit", units.get(name, "")), f"{path}: {name}.unit"))
            tracks[name] = _array(_member(archive, name, path), about, rate, unit, f"{path}: {name}", issues)
    tracks = with_samples(tracks, path, issues)
    start = np.datetime64(str(whole["start_utc"]), "ms") if "start_utc" in whole else None
    return Case(str(whole.get("case", case_of(path))), str(whole.get("subject", "")), tracks, start_utc=start)


def track_names(path: Path) -> list[str]:
    """The names that `read_table` and `read_npz` give. Raises ValueError."""
    if zipfile.is_zipfile(path):
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return _names(archive.files)
    source = Source.of(path)
    header = header_of(source)
    return [_split_unit(name)[0] for name in header if name != _times_of(header, source)]


def patient_of(path: Path) -> str:
    """The `subject` of an archive; '' where it names nobody. Raises ValueError."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return str(_scalar(archive["subject"], f"{path}: subject")) if "subject" in archive.files else ""


def units_of(path: Path) -> dict[str, str]:
    """The unit of each track that states one. Raises ValueError."""
    if zipfile.is_zipfile(path):
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            units = {n: archive[f"{n}.unit"] for n in _names(archive.files) if f"{n}.unit" in archive.files}
            return {name: str(_scalar(unit, f"{path}: {name}.unit")) for name, unit in units.items()}
    return dict(_split_unit(name) for name in header_of(Source.of(path)))


def has_times(path: Path) -> bool:
    """Whether a table has a column of times. Raises ValueError."""
    source = Source.of(path)
    return _times_of(header_of(source), source) is not None


# --- tables --------------------------------------------------------------------------------------------------------


def _split_unit(name: str) -> tuple[str, str]:
    match = _NAME_AND_UNIT.match(name.strip())
    return (match[1], match[2].strip()) if match else (name.strip(), "")


def _times_of(header: Sequence[str], source: Source) -> str | None:
    """The column of times: called so, with or without a unit, or else the one that holds timestamps."""
    called = next((name for name in header if _TIME_UNIT.sub("", _split_unit(name)[0].lower()) in TIMES), None)
    if called is not None or source.is_parquet:
        return called
    return next(iter(like_times({name: texts for name, texts in first_rows(source).items() if name})), None)


def _unit_of_times(name: str) -> str:
    """ms of 'Time [ms]' and of time_ms; '' where the name states none."""
    plain, unit = _split_unit(name)
    suffix = _TIME_UNIT.search(plain.lower())
    return unit or (suffix[1] if suffix else "")


def _columns(source: Source, names: list[str], times: str | None, skip_blank: bool) -> dict[str, pa.ChunkedArray]:
    wanted = [*names, *([times] if times else [])]
    if source.is_parquet:
        with pq.ParquetFile(source.path) as file:
            check_table(file.metadata, source.path)
            check_length(file.metadata.num_rows, str(source.path))
            table = file.read(columns=wanted)
    else:
        start, named = header_at(source), source.has_header
        with open_bytes(source.path) as stream:
            table = pacsv.read_csv(
                stream,
                read_options=pacsv.ReadOptions(
                    skip_rows=start if named else start + 1,
                    encoding=source.encoding.removesuffix("-sig"),
                    column_names=None if named else source.names,
                ),
                parse_options=pacsv.ParseOptions(delimiter=source.delimiter, ignore_empty_lines=skip_blank),
                convert_options=pacsv.ConvertOptions(
                    include_columns=_as_written(source, wanted),
                    null_values=_MISSING,
                    decimal_point="," if source.delimiter != "," and _has_decimal_commas(source) else ".",
                ),
            ).rename_columns(wanted)
    return {name: table[name] for name in wanted}


def _has_decimal_commas(source: Source) -> bool:
    cells = [text for texts in first_rows(source).values() for text in texts[:50]]
    return any(re.fullmatch(r"-?\d+,\d+", text) for text in cells)


def _as_written(source: Source, wanted: list[str]) -> list[str]:
    """Columns' names with the spaces around them, which `split` took off."""
    if not source.has_header:
        return wanted
    written = [text.strip('"') for text in source.lines[header_at(source)].split(source.delimiter)]
    known = dict(zip(header_of(source), written, strict=False))
    return [known[name] for name in wanted]


def _numbers(column: pa.ChunkedArray, where: str, issues: Issues) -> np.ndarray:
    kind = column.type
    if pa.types.is_string(kind):
        values, malformed = parse_column(column.to_pandas().fillna(""), where)
        malformed |= np.isinf(values)
        issues.add("sample that is no number (missing)", where, int(malformed.sum()))
        return np.where(malformed, np.nan, values)
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        first = next((str(text.as_py()) for text in column if not _is_number(text.as_py())), "")
        raise ValueError(f"{where}: expected numbers, found {kind} (e.g. {first[:20]!r})")
    return column.to_pandas().to_numpy(np.float64, na_value=np.nan)


def _is_number(text: Any) -> bool:
    try:
        return text is None or np.isfinite(float(text))
    except (TypeError, ValueError):
        return False


def _seconds(clock: pa.ChunkedArray | None, path: Path, unit: str) -> tuple[np.datetime64 | None, np.ndarray | None]:
    """When the table begins, if it says so, and the seconds (N,) since then. `unit`: of numbers, where one is stated;
    those that count from 1970 tell it themselves."""
    if clock is None:
        return None, None
    times = clock.to_pandas()
    if pd.api.types.is_numeric_dtype(times):
        start, seconds = _counted(times, unit)
    else:
        stamps = pd.to_datetime(times, utc=True, format="ISO8601", errors="coerce").dt.tz_localize(None)
        first = stamps.min()
        seconds = (stamps - first).dt.total_seconds().to_numpy(np.float64)
        start = None if pd.isna(first) else first.to_datetime64().astype("datetime64[ms]")
    if not np.isfinite(seconds).all():
        row = int(np.flatnonzero(~np.isfinite(seconds))[0]) + 1
        raise ValueError(f"{path}: row {row} has no time that can be read (expected seconds, or ISO 8601 timestamps)")
    if len(seconds) and (np.diff(seconds) < 0).any():  # equal ones may be rounded alike
        row = int(np.flatnonzero(np.diff(seconds) < 0)[0]) + 2
        raise ValueError(
            f"{path}: time does not increase at row {row} ({seconds[row - 1]:g} after {seconds[row - 2]:g} s); sort it"
        )
    return start, seconds


def _counted(times: pd.Series, unit: str) -> tuple[np.datetime64 | None, np.ndarray]:
    """Numbers of seconds, or of the unit that is stated, as they are; those that count from 1970 from their first
    on."""
    known = times.dropna()
    form = epoch_format([str(known.iloc[i]) for i in (0, -1)]) if len(known) and not unit else None
    if form is None:
        return None, times.to_numpy(np.float64, na_value=np.nan) * _SECONDS.get(unit.lower(), 1.0)
    first = known.min()
    start = clock_of_epoch_ms(np.array([float(first) * EPOCHS_MS[form]]))[0]
    since = (times - first).to_numpy(np.float64, na_value=np.nan)  # whole numbers: float64 would blur nanoseconds
    return start.astype("datetime64[ms]"), since * EPOCHS_MS[form] / 1000


def _column(
    values: np.ndarray, seconds: np.ndarray | None, rate_hz: float | None, unit: str, where: str, issues: Issues,
    room: Room,
) -> Track:  # fmt: skip
    """A column with, or without, times beside it: on an even grid with NaN in the gaps, or a numeric."""
    if seconds is None:
        if rate_hz is None:
            raise ValueError(f"{where}: no column of times ({', '.join(TIMES[:4])}) and no rate; say rate_hz")
        return waveform(values, rate_hz, unit, 0.0, where)
    known = np.isfinite(values)
    even = _even(seconds)
    lone = not (known[1:] & known[:-1]).any()  # a monitor's numeric between rows of waveforms
    if even is None or lone:
        return numeric(values, seconds, unit, where, issues)
    rate_of_times, at = even
    if rate_hz is not None and abs(rate_of_times / rate_hz - 1) > _SAME_RATE:
        raise ValueError(
            f"{where}: expected {rate_hz:g} Hz, found {rate_of_times:.6g} Hz by its times; correct one of them"
        )
    room.take(int(at[-1]) + 1, where)
    laid = np.full(at[-1] + 1, np.nan, dtype=np.float32)
    laid[at] = values
    return waveform(laid, rate_hz or rate_of_times, unit, seconds[0], where)


def _even(seconds: np.ndarray) -> tuple[float, np.ndarray] | None:
    """The rate of rows that are even but for gaps, however coarsely their times were rounded, and the place (N,) of
    each row on the grid; None where they are not even: beats, or a monitor's numerics."""
    if len(seconds) < 3:
        return None
    steps = np.diff(seconds)
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    if not usual or (steps == 0).mean() > 0.5:
        return None
    gaps = steps > 1.5 * usual
    rate = 1 / steps[~gaps].mean()
    first = np.flatnonzero(np.append(True, gaps))  # of each stretch without a gap
    stretch = np.cumsum(np.append(0, gaps))
    within = np.arange(len(seconds)) - first[stretch]
    off = (seconds - seconds[first][stretch]) * rate - within
    # 0.6: of rounding too; times that repeat are rounded to more than a sample
    most = 0.6 + (0.5 * usual * rate if (steps == 0).any() else 0.0)
    if gaps.mean() > 0.1 or not (np.abs(off) <= most).all() or np.ptp(seconds) * rate > 2**53:
        return None
    rate = _nearest_simple_rate(rate, (2 * np.abs(off).max() * len(first) + 1e-6) / (~gaps).sum())
    begins = np.round((seconds[first] - seconds[0]) * rate).astype(np.int64)
    lengths = np.diff(np.append(first, len(seconds)))
    over = np.maximum.accumulate(begins[:-1] + lengths[:-1]) - begins[1:]  # a gap may round to none
    begins[1:] += np.maximum.accumulate(np.maximum(over, 0))
    return float(rate), begins[stretch] + within


def _nearest_simple_rate(rate: float, leeway: float) -> float:
    """The roundest rate within this share of `rate`: what the rounding of times leaves open."""
    return next((plain for plain in (round(rate, d) for d in range(6)) if abs(plain / rate - 1) <= leeway), rate)


# --- archives ------------------------------------------------------------------------------------------------------


def _names(keys: Sequence[str]) -> list[str]:
    return [key for key in keys if key not in _WHOLE and key.rpartition(".")[2] not in _ABOUT]


def _member(archive: Any, name: str, path: Path) -> np.ndarray:
    try:
        return archive[name]
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise ValueError(f"{path}: {name}: a pickle, which is never loaded; store an array of numbers") from None
        raise


def _check_archive(path: Path) -> None:
    """Raises ValueError for an archive that unpacks to more than it may hold."""
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    check_unpacked(unpacked, path.stat().st_size, path)


def _array(values: np.ndarray, about: Mapping[str, Any], rate: Any, unit: str, where: str, issues: Issues) -> Track:
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise ValueError(f"{where}: expected numbers of one dimension, found {values.dtype} of shape {values.shape}")
    if "times_s" in about:
        times = np.asarray(about["times_s"])
        if times.shape != values.shape or times.dtype.kind not in "fiu":
            raise ValueError(
                f"{where}.times_s: expected {values.shape} numbers, found {times.dtype} of shape {times.shape}"
            )
        return numeric(values, times, unit, where, issues)
    if rate is None:
        raise ValueError(f"{where}: no rate; store {where.rpartition(' ')[2]}.rate_hz or rate_hz, or say rate_hz")
    start = float(_scalar(about.get("start_s", 0.0), f"{where}.start_s"))
    return waveform(values, float(_scalar(rate, f"{where}.rate_hz")), unit, start, where)


def _scalar(value: Any, where: str) -> Any:
    if np.size(value) != 1:
        raise ValueError(f"{where}: expected one value, found shape {np.shape(value)}")
    return np.asarray(value).reshape(()).item()
