"""How times are written: recognised over a whole column, day and month told apart or asked for."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raycadian.data.clock import EPOCHS_MS, SERIAL, parse_times, plain_time
from raycadian.modalities.guesses import Choice, Given, Guess, Question, how_to_set, option

if TYPE_CHECKING:
    import pandas as pd

NUMBER = re.compile(r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?")
ISO = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:?\d{2}.*)?")
DATE_ALONE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}\.?( 0{1,2}:00(:00)?)?")
CLOCK_ALONE = re.compile(r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?( ?[AaPp][Mm])?")
DATE = re.compile(r"(\d{1,4})([/.\-])(\d{1,2})\2(\d{2,4})[ T,]+(\d{1,2}:\d{2})(:\d{2})?( ?[AaPp][Mm])?")
_FROM_MS, _UNTIL_MS = 631_152_000_000, 4_102_444_800_000  # 1990 and 2100
_FROM_DAY, _UNTIL_DAY = 32_874, 73_051  # the same, as workbooks count days
_FINE = 0.001  # of a day: a number of days that is a time has such a part, a counter has none
_MOSTLY = 0.98  # of a column of times
_MONTH = 20  # days: what one day becomes where day and month change places is longer
_EXAMPLE = "2026-01-05 08:00"


def are_all(form: re.Pattern[str], texts: Sequence[str]) -> bool:
    """Whether the texts, as far as there are any, have a form."""
    filled = [text for text in texts[:100] if text]
    return bool(filled) and all(form.fullmatch(text) for text in filled)


def no_times(text: str) -> str:
    """Of numbers that are no times, for a message."""
    return (
        f"numbers such as {text}, which are no times: write them as {_EXAMPLE}, or as seconds since 1970 "
        f"({option('time_format', 'epoch_s')})"
    )


def serial_format(texts: Sequence[str]) -> str | None:
    """excel_days, where all are numbers of days since 1899-12-30 between 1990 and 2099, with parts of days."""
    filled = [text for text in texts if text]
    if not filled or not all(NUMBER.fullmatch(text) for text in filled):
        return None
    days = [float(text.replace(",", ".")) for text in filled]
    fits = all(_FROM_DAY <= day < _UNTIL_DAY for day in days)
    return SERIAL if fits and any(_FINE < day % 1 < 1 - _FINE for day in days) else None


def epoch_format(texts: Sequence[str]) -> str | None:
    """epoch_s or epoch_ms, where all are numbers that are seconds or milliseconds since 1970, from 1990 to 2099."""
    numbers = [float(text) for text in texts if NUMBER.fullmatch(text) and "," not in text]
    if not numbers or len(numbers) < len([text for text in texts if text]):
        return None
    fits = (name for name, ms in EPOCHS_MS.items() if all(_FROM_MS <= ms * number < _UNTIL_MS for number in numbers))
    return next(fits, None)


def time_format(texts: Sequence[str], given: Given, whole: Callable[[], Sequence[str]] | None = None) -> Choice:
    """The format of a column of times, strptime's or epoch_s, epoch_ms, excel_days; none where it is ISO 8601. Raises
    ValueError where no format reads them. Day and month: by days after the 12th in the `whole` column, whose first
    texts these are, else by what makes its times follow one another."""
    filled = [plain_time(text) for text in texts if text]
    dated = [text for text in filled if not DATE_ALONE.fullmatch(text)]
    filled = dated or filled  # a date alone among them is midnight
    if "time_format" in given or not filled or all(ISO.fullmatch(text) for text in filled[:100]):
        return Choice(given.get("time_format"))
    if epoch := epoch_format(filled):
        why = f"numbers such as {filled[0]} count from 1970 in UTC"
        return Choice(epoch, Guess("time_format", epoch, True, why, option("time_format", "FORMAT")))
    if serial := serial_format(filled):
        why = f"numbers such as {filled[0]} are days, as workbooks count them"
        return Choice(serial, Guess("time_format", serial, True, why, option("time_format", "FORMAT")))
    if are_all(NUMBER, filled):
        raise ValueError(f"the column of times holds {no_times(filled[0])}")
    if are_all(CLOCK_ALONE, filled):
        raise ValueError(f"times such as {filled[0]!r} have no date: write both in one column, such as {_EXAMPLE}")
    formats = [f for f in _formats(filled[0]) if _reads(f, filled)]
    if not formats:
        raise ValueError(
            f"times such as {filled[0]!r} are in no known form; write them as {_EXAMPLE}, or say what they are as "
            f"strptime has it, such as {option('time_format', '%d/%m/%Y %H:%M')}"
        )
    if len(formats) > 1:
        filled = [plain_time(text) for text in whole() if text] if whole else filled
        formats = orders_left({form: _times(form, filled) for form in formats})
    if len(formats) > 1:
        either = " or ".join(option("time_format", f) for f in formats)
        message = f"{filled[0]!r} may be day first or month first, and no row tells: {either}"
        return Choice(None, question=Question("time_format", message))
    why = f"reads all times, such as {filled[-1]!r}, as a stretch that goes on"
    return Choice(formats[0], Guess("time_format", formats[0], True, why, option("time_format", "FORMAT")))


def _formats(text: str) -> list[str]:
    match = DATE.fullmatch(text.strip())
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


def _times(form: str, texts: Sequence[str]) -> "pd.Series":
    """The texts by a format (NaT where it doesn't read one), dates alone as midnights."""
    import pandas as pd

    clock, _ = parse_times(pd.Series(texts, dtype=object), form)
    return pd.Series(clock)


def _reads(form: str, texts: Sequence[str]) -> bool:
    return bool(_times(form, texts).notna().mean() > _MOSTLY)


def orders_left(read: "Mapping[str, pd.Series]") -> list[str]:
    """Which are left of the formats of a column, format -> times (NaT where it reads none): that read most, whose times
    span least (less than a third of what the others' do), and one of those that read the same. More than one: nobody
    can tell."""
    most = max(int(times.notna().sum()) for times in read.values())
    left = {form: times.dropna() for form, times in read.items() if int(times.notna().sum()) == most}
    first: dict[bytes, str] = {}
    for form in _continuous(left):
        first.setdefault(left[form].to_numpy("datetime64[ns]").tobytes(), form)
    return list(first.values())


def one_order(read: "Mapping[str, pd.Series]", path: Path, texts: "pd.Series") -> str:
    """The one of `orders_left`. Raises ValueError where nobody can tell."""
    left = orders_left(read)
    if len(left) > 1:
        raise ValueError(
            f"{path}: {texts.iloc[0]!r} may be day first or month first, and no row tells: "
            + " or ".join(how_to_set("time_format", form) for form in left)
        )
    return left[0]


def _continuous(read: "Mapping[str, pd.Series]") -> list[str]:
    days = {form: (times.max() - times.min()).total_seconds() / 86_400 for form, times in read.items()}
    shortest = min(days, key=lambda form: days[form])
    others = [d for form, d in days.items() if form != shortest]
    far = max(3 * days[shortest], _MONTH if days[shortest] < 1 else 0)  # over a midnight it is a month or nothing
    return [shortest] if all(far < d for d in others) else list(read)
