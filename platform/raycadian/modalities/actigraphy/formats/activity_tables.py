"""Tables of activity: a CSV of one or more people with the columns that the card names, or of a known study."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from raycadian.data.clock import parse_times
from raycadian.data.source import Source, check_count, first_rows, header_of
from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.actigraphy.formats import devices
from raycadian.modalities.actigraphy.formats.devices import Epochs
from raycadian.modalities.actigraphy.formats.nhanes_minutes import SUNDAY, weekday_start
from raycadian.modalities.cells import chosen_rows, parse_column, parse_flags
from raycadian.modalities.columns import clocks_alone, date_column, day_text, like_times, plain
from raycadian.modalities.conflicts import UNNAMED, require_named
from raycadian.modalities.guesses import how_to_set
from raycadian.modalities.text_tables import distinct_rows, read_text
from raycadian.modalities.time_formats import time_format
from raycadian.types import Issues

NHANES_COLUMNS = ("SEQN", "PAXINTEN")
_NHANES = {"subject": "SEQN", "activity": "PAXINTEN", "weekday": "PAXDAY", "minute": "PAXN"}
_NSRR = {  # the National Sleep Research Resource's tables of epochs: MESA and others
    "subject": "mesaid", "activity": "activity", "weekday": "dayofweek", "time": "linetime", "off_wrist": "offwrist",
}  # fmt: skip
OFF_NAMES = {"offwrist", "off_wrist", "off_wrist_status", "nonwear", "non_wear", "not_worn", "unworn"}
_OFF_WORDS = {"off", "nw", "not worn", "nonwear", "non-wear", "offwrist", "off-wrist"}
_LEAST_STEP_S, _DAY_S = 1, 86_400


def known_columns(header: list[str]) -> dict[str, str] | None:
    """Ours -> a known study's columns; None where the table is of none."""
    for needed, columns in ((NHANES_COLUMNS, _NHANES), (("linetime", "offwrist", "activity"), _NSRR)):
        if set(needed) <= set(header):
            return {ours: theirs for ours, theirs in columns.items() if theirs in header}
    return None


def read_table(source: Source, card: ActigraphyCard, issues: Issues) -> Iterator[Epochs]:
    """A CSV of one or more people with the card's columns, or NHANES's (SEQN, PAXINTEN, PAXDAY, PAXN), or of the sleep
    research resource (mesaid, linetime, offwrist). Raises ValueError.

    Where the card names neither a time nor a minute, the table's own column of times is used; where there is none, a
    person's rows are minutes in order, from midnight.
    """
    header = header_of(source)
    stated = {k: v for k, v in card.columns.model_dump().items() if v is not None}
    known = known_columns(header) if set(stated) <= {"activity"} or set(NHANES_COLUMNS) <= set(header) else None
    named = known or stated
    if lacking := [theirs for theirs in named.values() if theirs not in header]:
        raise ValueError(
            f"{source.path}: no column {', '.join(map(repr, lacking))}; found {', '.join(map(repr, header[:20]))}; "
            "name the columns in the card (columns: {subject, time or minute, activity, worn})"
        )
    _check_worn(named, source.path)
    form = card.time_format
    if not {"time", "minute"} & set(named) and known is None:
        named, form = _with_times(named, source, form, issues)
    table = read_text(source, [*named.values(), *card.keep_rows], devices.MAX_EPOCHS + 1)
    check_count(len(table), source.path, devices.MAX_EPOCHS, "rows")
    table = _kept(table, source.path, card, issues)
    table = pd.DataFrame({ours: table[theirs] for ours, theirs in named.items()})
    whose = (
        table["subject"] if "subject" in table else pd.Series(card.named(source.path) or source.stem, index=table.index)
    )
    codes, names = pd.factorize(whose)
    subjects = np.array([str(name).strip() for name in names], dtype=object)[codes]
    unnamed = int((subjects == "").sum())
    require_named(unnamed, len(subjects), source.path, named.get("subject"))
    issues.add(UNNAMED, source.path.name, unnamed)
    for subject, rows in table[subjects != ""].groupby(subjects[subjects != ""], sort=False):
        yield _person(str(subject), rows, source.path, card, form, issues)


def _kept(table: pd.DataFrame, path: Path, card: ActigraphyCard, issues: Issues) -> pd.DataFrame:
    """The rows that `keep_rows` names. Raises ValueError for a column that isn't there."""
    if lacking := [name for name in card.keep_rows if name not in table]:
        raise ValueError(f"{path}: no column {', '.join(map(repr, lacking))}, which keep_rows names; correct it")
    kept = np.ones(len(table), dtype=bool)
    for name, values in card.keep_rows.items():
        kept &= chosen_rows(table[name], values)
    issues.add("row that keep_rows leaves out", path.name, int((~kept).sum()))
    return table if kept.all() else table[kept].reset_index(drop=True)


def _check_worn(named: Mapping[str, str], path: Path) -> None:
    """Raises ValueError for a column that says when the device was off, named as the one that says when it was on."""
    if plain(named.get("worn", "")) in OFF_NAMES:
        raise ValueError(
            f"{path}: columns.worn is {named['worn']!r}, which says when the device was off: "
            f"{how_to_set('columns.off_wrist', named['worn'])}, and leave out columns.worn"
        )


def _with_times(
    named: Mapping[str, str], source: Source, form: str | None, issues: Issues
) -> tuple[dict[str, str], str | None]:
    """The columns with that of the times, and their format. Raises ValueError where it may be several, or none reads
    them: no time is passed over."""
    columns = {name: texts for name, texts in first_rows(source).items() if name not in named.values()}
    date = date_column(columns, {}).column
    times = clocks_alone(columns) if date else like_times(columns)
    if not times:
        return dict(named), form
    if len(times) > 1:
        raise ValueError(
            f"{source.path}: {', '.join(map(repr, times))} may be the time; {how_to_set('columns.time', times[0])}"
        )
    issues.add("column of times that the card doesn't name (used)", f"{source.path.name}: {times[0]}")
    only_clock = date is not None or times == clocks_alone(columns)
    found = {"time": times[0]} | ({"date": date} if date else {})
    if form or only_clock:
        return dict(named) | found, form
    written = time_format(columns[times[0]], {}, lambda: distinct_rows(source, times)[times[0]])
    if written.question is not None:
        raise ValueError(f"{source.path}: {written.question.message}")
    return dict(named) | found, written.column


def _person(
    subject: str, rows: pd.DataFrame, path: Path, card: ActigraphyCard, form: str | None, issues: Issues
) -> Epochs:
    values, malformed = parse_column(rows["activity"], f"{path}: {card.columns.activity}")
    malformed |= np.isinf(values)  # low and high say nothing of activity
    issues.add("activity is not a number", f"{path.name}: subject {subject!r}", int(malformed.sum()))
    values[malformed] = np.nan
    about = {"off": _off(rows, path), "site": card.site}
    if "time" in rows:
        return _timed(subject, rows, values, form, about)
    if "minute" in rows:
        minute = pd.to_numeric(rows["minute"], errors="coerce").to_numpy(np.float64) - 1
    else:
        minute = np.arange(len(rows), dtype=np.float64)
    usable = np.isfinite(minute) & (minute >= 0) & (minute < 10**7) & (minute == np.floor(minute))
    clock = _nominal_start(rows) + np.where(usable, minute, 0).astype(np.int64) * np.timedelta64(60, "s")
    return Epochs(subject, np.where(usable, clock, np.datetime64("NaT", "s")), values, 60.0, **about)


def _off(rows: pd.DataFrame, path: Path) -> np.ndarray | None:
    """When the device was not worn, in words or numbers; None where no column says."""
    if "off_wrist" in rows:
        return parse_flags(rows["off_wrist"], f"{path}: off_wrist", _OFF_WORDS) == 1
    return parse_flags(rows["worn"], f"{path}: worn") == 0 if "worn" in rows else None


def _timed(subject: str, rows: pd.DataFrame, values: np.ndarray, form: str | None, about: dict) -> Epochs:
    text = rows["time"]
    if "date" in rows:
        days = {day: day_text(day.strip()) for day in rows["date"].unique()}
        text = rows["date"].map(days) + " " + text.str.strip()
    elif _are_clocks(text):
        clock = _over_midnights(text.str.strip(), _nominal_start(rows))
        return Epochs(subject, clock, values, _step_s(clock), **about)
    clock, offset_min = parse_times(text, form)
    clock = clock.astype("datetime64[s]")
    return Epochs(subject, clock, values, _step_s(clock), offset_min=offset_min, even=False, **about)


def _are_clocks(text: pd.Series) -> bool:
    return bool(clocks_alone({"time": text.head(100).str.strip().tolist()}))


def _over_midnights(text: pd.Series, start: np.datetime64) -> np.ndarray:
    """Clocks (N,) datetime64[s] of rows that say the hour alone, NaT where not understood: a day goes by where it falls
    back."""
    of_day = {t: pd.to_datetime(t, format="mixed", errors="coerce") for t in text.unique()}
    clock = text.map(of_day).to_numpy("datetime64[s]")
    second = (clock - clock.astype("datetime64[D]")).astype("timedelta64[s]")
    known = ~np.isnat(clock)
    days = np.zeros(len(clock), np.int64)
    days[known] = np.concatenate([[0], np.cumsum(np.diff(second[known]).astype(np.int64) < 0)])[: known.sum()]
    return start + days * np.timedelta64(_DAY_S, "s") + second


def _nominal_start(rows: pd.DataFrame) -> np.datetime64:
    """The midnight that begins the first day, in the week of Sunday 2 January 2000."""
    if "weekday" in rows and str(rows["weekday"].iloc[0]) in "1234567":
        return weekday_start(int(rows["weekday"].iloc[0]) - 1)
    return SUNDAY


def _step_s(clock: np.ndarray) -> float:
    steps = np.diff(np.unique(clock[~np.isnat(clock)])).astype(np.int64)
    return float(np.median(steps)) if len(steps) else 60.0
