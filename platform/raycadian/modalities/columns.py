"""Which column of an unknown table is what: by its name, and by what is in it."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from raycadian.data.source import shown
from raycadian.modalities.guesses import Choice, Given, Guess, Question, option
from raycadian.modalities.time_formats import (
    CLOCK_ALONE,
    DATE,
    DATE_ALONE,
    ISO,
    NUMBER,
    are_all,
    epoch_format,
    no_times,
    serial_format,
)

Columns = Mapping[str, Sequence[str]]
"""Name -> the texts of a table's first rows."""

TIMES = {
    "time", "timestamp", "datetime", "date_time", "ts", "time_utc", "time_local", "local_time", "device_timestamp",
    "measured_at", "recorded_at", "date",
}  # fmt: skip
SUBJECTS = {
    "subject", "subject_id", "subjectid", "patient", "patient_id", "patientid", "participant", "participant_id",
    "person", "person_id", "user", "user_id", "pid", "id", "seqn", "ptid", "pt_id", "mesaid", "nsrrid", "usubjid",
}  # fmt: skip
_TIME_TOKENS = {"ts", "time", "timestamp", "datetime", "dttm", "tm"}
_UNIT = re.compile(r"[\[(][^\])]*[\])]|_?(mg_?dl|mmol_?l)$", re.IGNORECASE)
_DAY = re.compile(r"-?\d{1,4}(\.0+)?")  # a number of days
DAY_0 = np.datetime64("2000-01-01")


def plain(name: str) -> str:
    """glucose_value of 'Glucose Value (mg/dL)': lower case, without the unit."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", _UNIT.sub("", name.strip())).lower()
    words = re.sub(r"[^a-z0-9]+", "_", words).strip("_")
    return _UNIT.sub("", words).strip("_")


def named(columns: Columns, names: Collection[str]) -> list[str]:
    """The columns that are called one of `names`."""
    return [column for column in columns if plain(column) in names]


def numeric(texts: Sequence[str]) -> bool:
    """Whether a column holds numbers, or nothing yet."""
    filled = [text for text in texts if text]
    return sum(NUMBER.fullmatch(text) is not None for text in filled) >= 0.8 * len(filled)


def time_columns(columns: Columns) -> list[str]:
    """The columns that can be the time: called so, and no numbers but those that count from 1970."""
    alike = named(columns, TIMES) or [c for c in columns if plain(c).split("_")[-1] in _TIME_TOKENS]
    return [c for c in alike if not (columns[c] and numeric(columns[c])) or _counts_time(columns[c])]


def _counts_time(texts: Sequence[str]) -> bool:
    return bool(epoch_format(texts) or serial_format(texts))


def like_times(columns: Columns) -> list[str]:
    """The columns that are times by their name or by what they hold: whole ones, else clocks without a date."""
    whole = [c for c in columns if are_all(ISO, columns[c]) or are_all(DATE, columns[c])]
    return time_columns(columns) or whole or clocks_alone(columns)


def clocks_alone(columns: Columns) -> list[str]:
    """The columns of clocks without a date: 08:05:00."""
    return [c for c in columns if are_all(CLOCK_ALONE, columns[c])]


def date_column(columns: Columns, given: Given) -> Choice:
    """The column of the date, where it lies apart from the clock: of dates, or of days since something."""
    name, clocks, time = "columns.date", clocks_alone(columns), given.get("columns.time")
    if name in given or not clocks or (time is not None and time not in clocks):
        return Choice(given.get(name))
    dates = [c for c in columns if are_all(DATE_ALONE, columns[c])]
    if time is None and (whole := [c for c in time_columns(columns) if c not in (*dates, *clocks)]):
        return Choice(None) if len(whole) == 1 else choose("columns.time", whole, given, "the time")
    days = [c for c in columns if are_all(_DAY, columns[c]) and _called_days(c)]
    return choose(name, dates or days, given, "the date")


def time_column(columns: Columns, given: Given) -> Choice:
    """The column of times (of clocks, where the date lies apart), or what is unclear about it."""
    name = "columns.time"
    candidates = time_columns(columns)
    if name not in given:
        if date_column(columns, given).column is not None:
            return choose(name, clocks_alone(columns), given, "the clock")
        numbers = [c for c in named(columns, TIMES) if c not in candidates]
        if numbers and not candidates:
            return Choice(question=Question(name, f"{numbers[0]!r} holds {no_times(columns[numbers[0]][0])}"))
    return choose(name, candidates, given, "the time")


def joined(columns: Columns, date: str | None, time: str | None) -> list[str]:
    """The texts of a column of times; of date and clock apart, both in one."""
    times = list(columns.get(time, ())) if time else []
    dates = columns.get(date, ()) if times and date else ()  # which of several clocks is asked first
    return [f"{day_text(d)} {t}" for d, t in zip(dates, times, strict=True) if d and t] if dates else times


def day_text(text: str) -> str:
    """A date as it is; of a number of days, as studies that hide dates give them, the day after 2000-01-01."""
    return str(DAY_0 + np.timedelta64(int(float(text)), "D")) if _DAY.fullmatch(text) else text


def _called_days(name: str) -> bool:
    return "day" in plain(name)


def choose(name: str, candidates: Sequence[str], given: Given, what: str) -> Choice:
    """The one candidate for a field of the card (`columns.glucose`), or what the user said."""
    if name in given:
        return Choice(given[name])
    if len(candidates) > 1:
        either = " or ".join(map(repr, candidates))
        return Choice(None, question=Question(name, f"{what} may be {either}: {option(name, candidates[0])}"))
    if not candidates:
        return Choice(None)
    (column,) = candidates
    return Choice(column, Guess(name, column, True, f"the only column for {what}", option(name, "NAME")))


def subject_column(columns: Columns, given: Given) -> Choice:
    """The column that tells people apart; none where it numbers rows."""
    name = "columns.subject"
    called = [c for c in named(columns, SUBJECTS) if not _numbers_rows(columns[c])]
    if len(called) > 1:
        exact = [c for c in called if plain(c) != "id"]
        called = exact if len(exact) == 1 else called
    return choose(name, called, given, "the subject's id")


def not_read(columns: Iterable[str], used: Collection[str | None], how_to_change: str) -> Choice:
    """Which columns have no use: said, since nothing is left out in silence."""
    rest = [name for name in columns if name not in used and name]
    why = f"columns without a use: {shown(rest)}"
    return Choice(guess=Guess("columns", "not read", True, why, how_to_change) if rest else None)


def file_is_one_person(stem: str) -> Choice:
    """The subject, where nothing in a file names anybody."""
    why = f"the file names no person and is taken for one person's, called after it ({stem!r})"
    return Choice(guess=Guess("subject", None, False, why, option("subject", "NAME")))


def _numbers_rows(texts: Sequence[str]) -> bool:
    return len(texts) > 3 and len(set(texts)) == len(texts)


def zone_of_utc(given: Given) -> Choice:
    """The time zone is asked for where times are in UTC alone, since local hours matter."""
    zone = f"add {option('timezone', 'Europe/Madrid')}, or {option('timezone', 'UTC')}"
    message = f"times are in UTC and the local time zone is not stated: {zone}"
    return Choice(question=None if "timezone" in given else Question("timezone", message))
