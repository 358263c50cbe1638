"""Which column of an unknown table is what: by its name, and by what is in it."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from raycadian.data.clock import EPOCHS_MS
from raycadian.data.source import shown
from raycadian.modalities.guesses import Choice, Given, Guess, Question, option

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
_FROM_MS, _UNTIL_MS = 631_152_000_000, 4_102_444_800_000  # 1990 and 2100
_NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?")
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:?\d{2}.*)?")
_EXAMPLE = "2026-01-05 08:00"
_DATE_ALONE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}\.?( 0{1,2}:00(:00)?)?")
_CLOCK_ALONE = re.compile(r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?( ?[AaPp][Mm])?")
_DAY = re.compile(r"-?\d{1,4}(\.0+)?")  # a number of days
DAY_0 = np.datetime64("2000-01-01")
_DATE = re.compile(r"(\d{1,4})([/.\-])(\d{1,2})\2(\d{2,4})[ T,]+(\d{1,2}:\d{2})(:\d{2})?( ?[AaPp][Mm])?")


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
    return sum(_NUMBER.fullmatch(text) is not None for text in filled) >= 0.8 * len(filled)


def time_columns(columns: Columns) -> list[str]:
    """The columns that can be the time: called so, and no numbers but those that count from 1970."""
    alike = named(columns, TIMES) or [c for c in columns if plain(c).split("_")[-1] in _TIME_TOKENS]
    return [c for c in alike if not (columns[c] and numeric(columns[c])) or epoch_format(columns[c])]


def like_times(columns: Columns) -> list[str]:
    """The columns that are times by their name or by what they hold: whole ones, else clocks without a date."""
    whole = [c for c in columns if _all(_ISO, columns[c]) or _all(_DATE, columns[c])]
    return time_columns(columns) or whole or clocks_alone(columns)


def clocks_alone(columns: Columns) -> list[str]:
    """The columns of clocks without a date: 08:05:00."""
    return [c for c in columns if _all(_CLOCK_ALONE, columns[c])]


def date_column(columns: Columns, given: Given) -> Choice:
    """The column of the date, where it lies apart from the clock: of dates, or of days since something."""
    name, clocks, time = "columns.date", clocks_alone(columns), given.get("columns.time")
    if name in given or not clocks or (time is not None and time not in clocks):
        return Choice(given.get(name))
    dates = [c for c in columns if _all(_DATE_ALONE, columns[c])]
    if time is None and (whole := [c for c in time_columns(columns) if c not in (*dates, *clocks)]):
        return Choice(None) if len(whole) == 1 else choose("columns.time", whole, given, "the time")
    days = [c for c in columns if _all(_DAY, columns[c]) and _called_days(c)]
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
            return Choice(question=Question(name, f"{numbers[0]!r} holds {_no_times(columns[numbers[0]][0])}"))
    return choose(name, candidates, given, "the time")


def joined(columns: Columns, date: str | None, time: str | None) -> list[str]:
    """The texts of a column of times; of date and clock apart, both in one."""
    times = list(columns.get(time or "", ()))
    dates = columns.get(date or "", ()) if times else ()  # which of several clocks is asked first
    return [f"{day_text(d)} {t}" for d, t in zip(dates, times, strict=True) if d and t] if dates else times


def day_text(text: str) -> str:
    """A date as it is; of a number of days, as studies that hide dates give them, the day after 2000-01-01."""
    return str(DAY_0 + np.timedelta64(int(float(text)), "D")) if _DAY.fullmatch(text) else text


def _called_days(name: str) -> bool:
    return "day" in plain(name)


def _all(form: re.Pattern[str], texts: Sequence[str]) -> bool:
    filled = [text for text in texts[:100] if text]
    return bool(filled) and all(form.fullmatch(text) for text in filled)


def _no_times(text: str) -> str:
    return (
        f"numbers such as {text}, which are no times: write them as {_EXAMPLE}, or as seconds since 1970 "
        f"({option('time_format', 'epoch_s')})"
    )


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


# --- times ----------------------------------------------------------------------------------------------------------


def epoch_format(texts: Sequence[str]) -> str | None:
    """epoch_s or epoch_ms, where all are numbers that are seconds or milliseconds since 1970, from 1990 to 2099."""
    numbers = [float(text) for text in texts if _NUMBER.fullmatch(text) and "," not in text]
    if not numbers or len(numbers) < len([text for text in texts if text]):
        return None
    fits = (name for name, ms in EPOCHS_MS.items() if all(_FROM_MS <= ms * number < _UNTIL_MS for number in numbers))
    return next(fits, None)


def zone_of_utc(given: Given) -> Choice:
    """The time zone is asked for where times are in UTC alone, since local hours matter."""
    zone = f"add {option('timezone', 'Europe/Madrid')}, or {option('timezone', 'UTC')}"
    message = f"times are in UTC and the local time zone is not stated: {zone}"
    return Choice(question=None if "timezone" in given else Question("timezone", message))


def time_format(texts: Sequence[str], given: Given) -> Choice:
    """The format of a column of times, strptime's or epoch_s, epoch_ms; none where it is ISO 8601. Raises ValueError
    where no format reads them. Day and month: by days after the 12th, else what makes the times follow one another."""
    filled = [text for text in texts if text]
    dated = [text for text in filled if not _DATE_ALONE.fullmatch(text)]
    filled = dated or filled  # a date alone among them is midnight
    if "time_format" in given or not filled or all(_ISO.fullmatch(text) for text in filled[:100]):
        return Choice(given.get("time_format"))
    if epoch := epoch_format(filled):
        why = f"numbers such as {filled[0]} count from 1970 in UTC"
        return Choice(epoch, Guess("time_format", epoch, True, why, option("time_format", "FORMAT")))
    if numeric(filled):
        raise ValueError(f"the column of times holds {_no_times(filled[0])}")
    if _all(_CLOCK_ALONE, filled):
        raise ValueError(f"times such as {filled[0]!r} have no date: write both in one column, such as {_EXAMPLE}")
    formats = [f for f in _formats(filled[0]) if _reads(f, filled)]
    if not formats:
        raise ValueError(
            f"times such as {filled[0]!r} are in no known form; write them as {_EXAMPLE}, or say what they are as "
            f"strptime has it, such as {option('time_format', '%d/%m/%Y %H:%M')}"
        )
    if len(formats) > 1:
        formats = _distinct(_continuous(formats, filled), filled)
    if len(formats) > 1:
        either = " or ".join(option("time_format", f) for f in formats)
        message = f"{filled[0]!r} may be day first or month first, and no row tells: {either}"
        return Choice(None, question=Question("time_format", message))
    why = f"reads all times, such as {filled[-1]!r}, as a stretch that goes on"
    return Choice(formats[0], Guess("time_format", formats[0], True, why, option("time_format", "FORMAT")))


def _formats(text: str) -> list[str]:
    match = _DATE.fullmatch(text.strip())
    if match is None:
        return _formats_of_shape(text.strip())
    first, mark, last, half = match[1], match[2], match[4], match[7]
    clock = "%I:%M" if half else "%H:%M"
    clock += (":%S" if match[6] else "") + ({" ": " %p"}.get(half[0], "%p") if half else "")
    between = text[match.end(4) : match.start(5)]
    year = "%Y" if max(len(first), len(last)) == 4 else "%y"
    orders = [(year, "%m", "%d")] if len(first) == 4 else [("%d", "%m", year), ("%m", "%d", year)]
    return [mark.join(order) + between + clock for order in orders]


_DATE_SHAPES = (  # numbers or a month's name with any marks between them, or none: 25. 1. 2024, 25 Jan 24, 20240125
    (re.compile(r"(\d{4})(\D{1,3})(\d{1,2})(\D{1,3})(\d{1,2})"), ("%Y|%m|%d",)),
    (re.compile(r"(\d{1,2})(\D{1,3})(\d{1,2})(\D{1,3})(\d{4})"), ("%d|%m|%Y", "%m|%d|%Y")),
    (re.compile(r"(\d{1,2})(\D{1,3})(\d{1,2})(\D{1,3})(\d{2})"), ("%d|%m|%y", "%m|%d|%y")),
    (re.compile(r"(\d{1,2})([^\w]{1,2})([A-Za-z]{3,9})([^\w]{1,2})(\d{4})"), ("%d|%b|%Y", "%d|%B|%Y")),
    (re.compile(r"(\d{4})()(\d{2})()(\d{2})"), ("%Y|%m|%d",)),
)
_CLOCK_SHAPE = re.compile(r"(\D{1,6})(\d{1,2})(\D?)(\d{2})(?:(\D)(\d{2}))?([.,]\d+)?( ?[AaPp][Mm])?")


def _formats_of_shape(text: str) -> list[str]:
    """Of a date and a clock with other marks between their parts: 25.01.2024. 08:05, 25-01-2024 08h05."""
    return [
        order.replace("|", date[2], 1).replace("|", date[4], 1) + _clock_format(clock)
        for shape, orders in _DATE_SHAPES
        if "%" not in text and (date := shape.match(text)) and (clock := _CLOCK_SHAPE.fullmatch(text, date.end()))
        for order in orders
    ]


def _clock_format(match: re.Match[str]) -> str:
    between, _, mark, _, mark_2, seconds, fraction, half = match.groups()
    form = between + ("%I" if half else "%H") + f"{mark}%M" + (f"{mark_2}%S" if seconds else "")
    return form + (f"{fraction[0]}%f" if fraction else "") + (half.replace(half.strip(), "%p") if half else "")


def _reads(form: str, texts: Sequence[str]) -> bool:
    import pandas as pd

    return bool(pd.to_datetime(pd.Series(texts), format=form, errors="coerce").notna().mean() > 0.98)


def _distinct(formats: list[str], texts: Sequence[str]) -> list[str]:
    """One of those that read the same times: 06/06/2024 is the same day first or month first."""
    import pandas as pd

    first: dict[tuple, str] = {}
    for form in formats:
        first.setdefault(tuple(pd.to_datetime(pd.Series(texts), format=form, errors="coerce")), form)
    return list(first.values())


def _continuous(formats: list[str], texts: Sequence[str]) -> list[str]:
    """The format whose times span least, where it spans less than a third of what the others do; else all."""
    import pandas as pd

    read = {f: pd.to_datetime(pd.Series(texts), format=f, errors="coerce").dropna() for f in formats}
    days = {f: (times.max() - times.min()).total_seconds() / 86_400 for f, times in read.items()}
    shortest = min(days, key=days.get)
    others = [d for f, d in days.items() if f != shortest]
    return [shortest] if days[shortest] >= 1 and all(3 * days[shortest] < d for d in others) else formats
