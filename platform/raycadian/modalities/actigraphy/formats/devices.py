"""Files of one device: Actiwatch .AWD and Actical .AWC, ActiGraph .agd, and wear flags.

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

from raycadian.data.source import Source, check_count, check_unpacked, read_whole, stem_of
from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.actigraphy.formats.nhanes_minutes import weekday_start
from raycadian.modalities.actigraphy.nhanes import subject_ids
from raycadian.modalities.cells import with_month_number
from raycadian.types import ACTIVITY_COUNTS, ACTIVITY_WRIST, WORN, Issues

SQLITE = b"SQLite format 3\x00"
_AWD_HEADER = 7  # lines: name, date, time, epoch code, age, serial number, sex
_ACTICAL_HEADER = 12  # of .AWC: height, weight and three more below
_AWD_COUNT = re.compile(r"(\d+)\s*(?:,\s*\d+(?:[.,]\d+)?)?\s*M?")  # light after a comma, M where the button was pressed
_TICKS_A_SECOND, _TICKS_1970 = 10_000_000, 621_355_968_000_000_000  # .NET's clock
_SITES = {"wrist": "wrist", "waist": "hip", "hip": "hip"}
MAX_TEXT_BYTES = 64 * 1024**2  # of one device: years of an epoch every 15 s
MAX_EPOCHS = 40_000_000  # of one person: a year of one a second


@dataclass(frozen=True)
class Epochs:
    """What a device wrote of one person: clock (N,) datetime64[s] in the order of the file, NaT = not understood;
    values (N,) float64, NaN = missing; off (N,) bool where the device says that it was not worn, or None; stated
    offset_min (N,) of each clock, NaN where none is, or None. `even`: the device's own clock, which no DST changes.
    `site`: hip or wrist, None where nobody knows."""

    subject: str
    clock: np.ndarray
    values: np.ndarray
    epoch_s: float
    channel: str = ACTIVITY_COUNTS
    off: np.ndarray | None = None
    offset_min: np.ndarray | None = None
    even: bool = True
    site: str | None = None

    @property
    def measured(self) -> str:
        """The channel: counts of the wrist are another than those of the hip."""
        return ACTIVITY_WRIST if self.channel == ACTIVITY_COUNTS and self.site == "wrist" else self.channel


# --- Actiwatch ------------------------------------------------------------------------------------------------------


def is_awd(source: Source) -> bool:
    """Seven lines of header by their form, some of them blank, then counts."""
    lines = _lines(source.text)[: _AWD_HEADER + 2]
    return (
        len(lines) > _AWD_HEADER
        and re.fullmatch(r"\d{1,2}-[^\W\d_]{3,5}\.?-\d{2,4}", lines[1]) is not None
        and re.fullmatch(r"\d{1,2}:\d{2}(:\d{2})?( ?[AaPp][Mm])?", lines[2]) is not None
        and re.fullmatch(r"\d+", lines[3]) is not None
    )


def read_awd(source: Source, card: ActigraphyCard, issues: Issues) -> Iterator[Epochs]:
    """Actiwatch: a count a line; the epoch code counts quarters of a minute. Worn at the wrist. Actical's files have
    twelve lines of header. Raises ValueError."""
    lines = _lines(read_whole(source.path, MAX_TEXT_BYTES, "bytes of text").decode("cp1252", "replace"))
    start = _awd_start(lines[1], lines[2])
    if pd.isna(start) or int(lines[3]) == 0:
        raise ValueError(
            f"{source.path}: began on {lines[1]!r} at {lines[2]!r}, epoch code {lines[3]!r}: not an Actiwatch file"
        )
    epoch_s = 15.0 * int(lines[3])
    is_actical = source.path.suffix.lower() == ".awc" or lines[5].upper().startswith("C")
    counts = _awd_counts(source.path, lines, _ACTICAL_HEADER if is_actical else _AWD_HEADER)
    clock, subject = (
        _ticking(start, len(counts), epoch_s),
        card.named(source.path) or lines[0] or source.stem,
    )
    yield Epochs(subject, clock, counts, epoch_s, site=card.site or "wrist")


def _lines(text: str) -> list[str]:
    """Lines without blanks around them; blank ones stay, since a header's lines count."""
    return [line.strip() for line in re.split(r"\r*\n|\r", text.lstrip("\ufeff"))]


def _awd_start(date: str, clock: str) -> pd.Timestamp:
    """When the first epoch began, to the minute; NaT where that is no time. Month names of several languages; two
    digits of a year as Python reads them."""
    text = f"{with_month_number(date)} {clock.upper().replace(' ', '')}"
    form = "%I:%M" if text.endswith("M") else "%H:%M"
    form += (":%S" if clock.count(":") == 2 else "") + ("%p" if text.endswith("M") else "")
    read = (pd.to_datetime(text, format=f"%d-%m-{year} {form}", errors="coerce") for year in ("%Y", "%y"))
    return next((start.floor("min") for start in read if not pd.isna(start)), pd.NaT)


def _awd_counts(path: Path, lines: list[str], header: int) -> np.ndarray:
    """Counts (N,) below the header; blank lines among them are none."""
    matches = [(n, _AWD_COUNT.fullmatch(line)) for n, line in enumerate(lines[header:], header + 1) if line]
    if odd := next((n for n, match in matches if match is None), None):
        raise ValueError(f"{path}:{odd}: {lines[odd - 1][:40]!r} is no activity count; is the file damaged?")
    return np.array([float(match[1]) for _, match in matches])


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
    subject = card.named(path) or settings.get("subjectname") or stem_of(path)
    site = card.site or _SITES.get(settings.get("limb", "").lower())
    yield Epochs(subject, seconds.astype("datetime64[s]"), counts, epoch_s, site=site)


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if not number > 0:
        raise ValueError(f"{where}: expected a number of seconds above 0, found {text!r}")
    return number


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
