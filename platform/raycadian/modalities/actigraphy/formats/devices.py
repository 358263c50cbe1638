"""Files of one device: Actiwatch .AWD, ActiGraph .agd, Respironics (Actiware) CSV, and plain tables.

Each reader gives a person's epochs as the file has them; `actigraphy/readers.py` puts them on the grid of minutes.
"""

import re
import sqlite3
import zipfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd

from raycadian.data.clock import parse_times
from raycadian.data.source import (
    Source,
    check_count,
    check_unpacked,
    delimiter_of,
    open_bytes,
    read_whole,
    split,
    stem_of,
)
from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.actigraphy.formats.nhanes_minutes import SUNDAY, weekday_start
from raycadian.modalities.actigraphy.nhanes import subject_ids
from raycadian.types import ACTIVITY_COUNTS, WORN, Issues

SQLITE = b"SQLite format 3\x00"
_AWD_HEADER = 7  # lines: name, date, time, epoch code, age, serial number, sex
_AWD_COUNT = re.compile(r"(\d+)\s*(?:,\s*\d+(?:\.\d+)?)?\s*M?")  # light after a comma, M where the button was pressed
_TICKS_A_SECOND, _TICKS_1970 = 10_000_000, 621_355_968_000_000_000  # .NET's clock
MAX_TEXT_BYTES = 64 * 1024**2  # of one device: years of an epoch every 15 s
MAX_EPOCHS = 40_000_000  # of one person: a year of one a second
_EPOCHS_BEGIN = re.compile(r"Epoch-by-Epoch Data", re.IGNORECASE)
_DATES = ("%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%d.%m.%Y", "%d-%b-%Y", "%Y/%m/%d", "%d/%m/%y", "%m/%d/%y")
_CLOCKS = ("%H:%M:%S", "%I:%M:%S %p", "%H:%M")


@dataclass(frozen=True)
class Epochs:
    """What a device wrote of one person: clock (N,) datetime64[s] in the order of the file, NaT = not understood;
    values (N,) float64, NaN = missing; off (N,) bool where the device says that it was not worn, or None; stated
    offset_min (N,) of each clock, NaN where none is, or None. `even`: the device's own clock, which no DST changes."""

    subject: str
    clock: np.ndarray
    values: np.ndarray
    epoch_s: float
    channel: str = ACTIVITY_COUNTS
    off: np.ndarray | None = None
    offset_min: np.ndarray | None = None
    even: bool = True


# --- Actiwatch ------------------------------------------------------------------------------------------------------


def is_awd(source: Source) -> bool:
    """Seven lines of header by their form, then counts."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", source.text)[:9]]
    return (
        len(lines) > _AWD_HEADER
        and re.fullmatch(r"\d{1,2}-[A-Za-z]{3}-\d{2,4}", lines[1]) is not None
        and re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?", lines[2]) is not None
        and re.fullmatch(r"\d+", lines[3]) is not None
    )


def read_awd(source: Source, card: ActigraphyCard, issues: Issues) -> Iterator[Epochs]:
    """Actiwatch: a count a line; the epoch code counts quarters of a minute. Raises ValueError."""
    lines = [line.strip() for line in re.split(rb"[\r\n]+", read_whole(source.path, MAX_TEXT_BYTES, "bytes of text"))]
    lines = [line.decode("cp1252", "replace") for line in lines if line]
    start = pd.to_datetime(f"{lines[1]} {lines[2][:5]}", format="%d-%b-%Y %H:%M", errors="coerce")
    if pd.isna(start) or int(lines[3]) == 0:
        raise ValueError(
            f"{source.path}: began on {lines[1]!r} at {lines[2]!r}, epoch code {lines[3]!r}: not an Actiwatch file"
        )
    epoch_s = 15.0 * int(lines[3])
    counts = _awd_counts(source.path, lines[_AWD_HEADER:])
    yield Epochs(card.subject or lines[0] or source.stem, _ticking(start, len(counts), epoch_s), counts, epoch_s)


def _awd_counts(path: Path, lines: list[str]) -> np.ndarray:
    matches = [_AWD_COUNT.fullmatch(line) for line in lines]
    if None in matches:
        at = matches.index(None)
        raise ValueError(
            f"{path}:{at + _AWD_HEADER + 1}: {lines[at][:40]!r} is no activity count; is the file damaged?"
        )
    return np.array([float(match[1]) for match in matches])


def _ticking(start: pd.Timestamp, n: int, epoch_s: float) -> np.ndarray:
    """Clocks (n,) of a device that writes every `epoch_s` from `start`."""
    return np.datetime64(start, "s") + np.round(np.arange(n) * epoch_s).astype("timedelta64[s]")


# --- ActiGraph ------------------------------------------------------------------------------------------------------


def read_agd(path: Path, card: ActigraphyCard, issues: Issues) -> Iterator[Epochs]:
    """ActiGraph's SQLite: `settings` (epochlength, subjectname), `data` (dataTimestamp in .NET ticks, axis1: vertical
    counts). Opened read-only, without the file's own functions and triggers. Raises ValueError."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1", uri=True)) as base:
            base.execute("PRAGMA trusted_schema = OFF")
            tables = {name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not {"settings", "data"} <= tables:
                raise ValueError(
                    f"{path}: an SQLite file with {', '.join(sorted(tables)[:8]) or 'no table'}, not an ActiGraph .agd"
                )
            settings = {
                str(k).lower(): str(v) for k, v in base.execute("SELECT settingName, settingValue FROM settings")
            }
            ((n,),) = base.execute("SELECT count(*) FROM data")
            check_count(n, path, MAX_EPOCHS, "epochs")
            rows = base.execute("SELECT dataTimestamp, axis1 FROM data ORDER BY dataTimestamp").fetchall()
    except (sqlite3.Error, OSError) as error:
        raise ValueError(f"{path}: can't be read as an ActiGraph .agd: {error}") from None
    epoch_s = _number(settings.get("epochlength", ""), f"{path}: setting epochlength")
    if not rows:
        raise ValueError(f"{path}: the table `data` is empty")
    if not all(isinstance(ticks, int) and isinstance(count, int | float) for ticks, count in rows):
        raise ValueError(
            f"{path}: the table `data` holds timestamps or counts that are no numbers; is the file damaged?"
        )
    seconds = (np.array([ticks for ticks, _ in rows], dtype=np.int64) - _TICKS_1970) // _TICKS_A_SECOND
    counts = np.array([count for _, count in rows], dtype=np.float64)
    yield Epochs(
        card.subject or settings.get("subjectname") or stem_of(path), seconds.astype("datetime64[s]"), counts, epoch_s
    )


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if not number > 0:
        raise ValueError(f"{where}: expected a number of seconds above 0, found {text!r}")
    return number


# --- Respironics ----------------------------------------------------------------------------------------------------


def is_respironics(source: Source) -> bool:
    return _EPOCHS_BEGIN.search(source.text) is not None or "Off-Wrist Status" in source.text


def read_respironics(source: Source, card: ActigraphyCard, issues: Issues) -> Iterator[Epochs]:
    """Actiware's export: settings, statistics, then an epoch a row with its off-wrist status. Raises ValueError."""
    lines = read_whole(source.path, MAX_TEXT_BYTES, "bytes of text").decode(source.encoding, "replace").splitlines()
    names = next((i for i, line in enumerate(lines) if '"Activity"' in line and '"Date"' in line), None)
    names = (
        names
        if names is not None
        else next(
            (i for i, x in enumerate(lines) if {"Date", "Time", "Activity"} <= set(split(x, delimiter_of(x)))), None
        )
    )
    if names is None:
        raise ValueError(
            f"{source.path}: a Respironics export without its epochs (columns Date, Time, Activity); export them too"
        )
    delimiter = delimiter_of(lines[names])
    header = split(lines[names], delimiter)
    rows = [
        fields for line in lines[names + 1 :] if len(fields := split(line, delimiter)) >= len(header) - 1 and fields[0]
    ]
    issues.add("line without its fields", source.path.name, sum(map(bool, lines[names + 1 :])) - len(rows))
    table = pd.DataFrame([row[: len(header)] + [""] * (len(header) - len(row)) for row in rows], columns=header)
    clock = _clocks(table["Date"], table["Time"], source.path, card.time_format)
    settings = dict(fields[:2] for line in lines[:names] if len(fields := split(line, delimiter)) >= 2)
    steps = np.diff(clock)
    epoch_s = float(np.median(steps).astype(np.int64)) if len(steps) else 60.0
    values = pd.to_numeric(table["Activity"], errors="coerce").to_numpy(np.float64)
    off = (
        pd.to_numeric(table["Off-Wrist Status"], errors="coerce").to_numpy() == 1
        if "Off-Wrist Status" in table
        else None
    )
    name = settings.get("Subject Identity") or settings.get("Identity") or settings.get("Analysis Name")
    subject = card.subject or name or source.stem
    yield Epochs(subject, clock, values, epoch_s, off=off)


def _clocks(dates: pd.Series, times: pd.Series, path: Path, time_format: str | None) -> np.ndarray:
    """Clocks (N,) of dates and times in any of the usual orders: the one that makes them follow one another."""
    if not len(dates):
        raise ValueError(f"{path}: no epoch in it")
    text = dates.str.strip() + " " + times.str.strip()
    formats = (time_format,) if time_format else tuple(f"{d} {c}" for d in _DATES for c in _CLOCKS)
    read = (pd.to_datetime(text, format=one, errors="coerce") for one in formats)
    usable = [clock.to_numpy("datetime64[s]") for clock in read if clock.notna().all()]
    if not usable:
        raise ValueError(f"{path}: date and time {text.iloc[0]!r} are in no known form; set `time_format` in the card")
    backward = [int((np.diff(clock) < np.timedelta64(0, "s")).sum()) for clock in usable]
    spans = [np.ptp(clock.astype(np.int64)) for clock in usable]
    return usable[min(range(len(usable)), key=lambda i: (backward[i], spans[i]))]


# --- tables ---------------------------------------------------------------------------------------------------------

NHANES_COLUMNS = ("SEQN", "PAXINTEN")


def read_table(source: Source, card: ActigraphyCard, issues: Issues) -> Iterator[Epochs]:
    """A CSV of one or more people with the card's columns, or NHANES's (SEQN, PAXINTEN, PAXDAY, PAXN). Raises
    ValueError.

    Without a column of time or of minutes, a person's rows are minutes in order, from midnight.
    """
    header = split(source.lines[0], delimiter_of(source.lines[0]))
    if set(NHANES_COLUMNS) <= set(header):
        named = {"subject": "SEQN", "activity": "PAXINTEN", "weekday": "PAXDAY", "minute": "PAXN"}
        named = {ours: theirs for ours, theirs in named.items() if theirs in header}
    else:
        named = {k: v for k, v in card.columns.model_dump().items() if v is not None}
    if lacking := [theirs for theirs in named.values() if theirs not in header]:
        raise ValueError(
            f"{source.path}: no column {', '.join(map(repr, lacking))}; found {', '.join(map(repr, header[:20]))}; "
            "name the columns in the card (columns: {subject, time or minute, activity, worn})"
        )
    with open_bytes(source.path) as stream:
        options = {
            "sep": delimiter_of(source.lines[0]),
            "encoding": source.encoding,
            "dtype": str,
            "keep_default_na": False,
        }
        try:
            table = pd.read_csv(stream, usecols=list(named.values()), nrows=MAX_EPOCHS + 1, **options)
        except (pd.errors.ParserError, UnicodeDecodeError) as error:
            raise ValueError(f"{source.path}: can't be understood: {error}") from None
    check_count(len(table), source.path, MAX_EPOCHS, "rows")
    table = table.rename(columns={theirs: ours for ours, theirs in named.items()})
    whose = table["subject"] if "subject" in table else pd.Series(card.subject or source.stem, index=table.index)
    for subject, rows in table.groupby(whose.str.strip(), sort=False):
        yield _person(str(subject), rows, source.path, card)


def _person(subject: str, rows: pd.DataFrame, path: Path, card: ActigraphyCard) -> Epochs:
    if not subject:
        raise ValueError(f"{path}: {len(rows):,} rows without a subject")
    values = pd.to_numeric(rows["activity"], errors="coerce").to_numpy(np.float64)
    off = pd.to_numeric(rows["worn"], errors="coerce").to_numpy() == 0 if "worn" in rows else None
    if "time" in rows:
        clock, offset_min = parse_times(rows["time"], card.time_format)
        clock = clock.astype("datetime64[s]")
        steps = np.diff(np.unique(clock[~np.isnat(clock)])).astype(np.int64)
        epoch_s = float(np.median(steps)) if len(steps) else 60.0
        return Epochs(subject, clock, values, epoch_s, off=off, offset_min=offset_min, even=False)
    if "minute" in rows:
        minute = pd.to_numeric(rows["minute"], errors="coerce").to_numpy(np.float64) - 1
    else:
        minute = np.arange(len(rows), dtype=np.float64)
    usable = np.isfinite(minute) & (minute >= 0) & (minute < 10**7) & (minute == np.floor(minute))
    start = SUNDAY
    if "weekday" in rows and str(rows["weekday"].iloc[0]) in "1234567":
        start = weekday_start(int(rows["weekday"].iloc[0]) - 1)
    clock = start + np.where(usable, minute, 0).astype(np.int64) * np.timedelta64(60, "s")
    return Epochs(subject, np.where(usable, clock, np.datetime64("NaT", "s")), values, 60.0, off=off)


# --- wear flags -----------------------------------------------------------------------------------------------------


def read_wear_flags(path: Path, card: ActigraphyCard, issues: Issues) -> Iterator[Epochs]:
    """Days of minutes that say only whether the device was worn: arrays SEQN (M,), WEEKDAY (M,) 1 = Sunday, wear (M,
    1440) with 1 worn, 0 not, 255 missing. Raises ValueError."""
    try:
        with zipfile.ZipFile(path) as archive:
            check_unpacked(sum(entry.file_size for entry in archive.infolist()), path.stat().st_size, path)
        with np.load(path, allow_pickle=False) as arrays:
            seqn, weekday, wear = (arrays[name] for name in ("SEQN", "WEEKDAY", "wear"))
    except (KeyError, zipfile.BadZipFile, OSError, EOFError) as error:
        raise ValueError(
            f"{path}: not wear flags (arrays SEQN, WEEKDAY, wear of 1440 minutes a day): {error}"
        ) from None
    if wear.ndim != 2 or wear.shape[1] != 1440 or not len(seqn) == len(weekday) == len(wear):
        raise ValueError(f"{path}: wear {wear.shape}, SEQN {seqn.shape}: expected (days, 1440) and as many SEQN")
    edges = [0, *(np.flatnonzero(np.diff(seqn)) + 1), len(seqn)]
    subjects = subject_ids(seqn[edges[:-1]])
    if len(set(subjects)) < len(subjects):
        raise ValueError(f"{path}: a person's days don't lie together; sort them by SEQN")
    for subject, a, b in zip(subjects, edges[:-1], edges[1:], strict=True):
        flags = wear[a:b].reshape(-1).astype(np.float64)
        flags[~np.isin(flags, (0, 1))] = np.nan
        clock = _ticking(pd.Timestamp(weekday_start(int(weekday[a]) - 1)), flags.size, 60.0)
        yield Epochs(subject, clock, flags, 60.0, channel=WORN)
