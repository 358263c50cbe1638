"""Which format of actigraphy a file has, and what a card would have to say of it."""

from pathlib import Path

from raycadian.data.clock import EPOCHS_MS
from raycadian.data.source import Source, first_rows, shown
from raycadian.modalities.actigraphy import nhanes
from raycadian.modalities.actigraphy.formats.activity_tables import OFF_NAMES, known_columns
from raycadian.modalities.actigraphy.readers import MINUTES, detect_format
from raycadian.modalities.columns import (
    choose,
    date_column,
    file_is_one_person,
    joined,
    named,
    not_read,
    numeric,
    subject_column,
    time_column,
    zone_of_utc,
)
from raycadian.modalities.guesses import Choice, Detection, Given, Guess, Question, option
from raycadian.modalities.text_tables import distinct_rows
from raycadian.modalities.time_formats import time_format

_ACTIVITY = {
    "activity", "activity_counts", "activity_count", "counts", "count", "raw_activity", "vector_magnitude", "vm",
    "axis1", "mims", "counts_per_minute", "cpm",
}  # fmt: skip
_WORN = {"worn", "wear", "wearing", "is_worn"}
_MINUTE = {"minute", "minute_index", "index", "paxn"}
_WHOSE = {"awd", "agd", "actilife", "respironics", "apple_health"}  # a file of one person


def detect(path: Path, given: Given) -> Detection | None:
    """None where a file is of no format of actigraphy, and no table with a column that is called like activity."""
    kind = detect_format(path)
    if kind == "table":
        return _table(Source.of(path), given)
    choices = [_format(f"recognised by its content: {kind}")]
    if kind in _WHOSE:
        why = "the person whom the file names, or else its name"
        choices.append(Choice(guess=Guess("subject", None, False, why, option("subject", "NAME"))))
    if kind in _WHOSE - {"apple_health"}:
        choices.append(_local_clock(given))
    return Detection.of("actigraphy", kind, choices, recordings=kind in MINUTES or kind not in nhanes.KINDS)


def _format(why: str) -> Choice:
    return Choice(guess=Guess("format", "auto", True, why, option("format", "FORMAT")))


def _local_clock(given: Given) -> Choice:
    why = "the device's own clock is taken as it stands: local, without a zone"
    guess = Guess("timezone", None, False, why, option("timezone", "Europe/Madrid"))
    return Choice(guess=None if "timezone" in given else guess)


def _table(source: Source, given: Given) -> Detection | None:
    columns = first_rows(source)
    if (known := known_columns(list(columns))) is not None:
        why = f"a known study's columns: {', '.join(known.values())}"
        return Detection.of("actigraphy", "table", [_format(why)])
    candidates = [c for c in named(columns, _ACTIVITY) if numeric(columns[c])]
    if not candidates and "columns.activity" not in given:
        return None
    worn, off = (named(columns, names) for names in (_WORN, OFF_NAMES))
    subject, date, time = subject_column(columns, given), date_column(columns, given), time_column(columns, given)
    chosen = [
        choose("columns.activity", candidates, given, "the activity"),
        choose("columns.worn", worn, given, "worn"),
        choose("columns.off_wrist", [] if worn else off, given, "off-wrist"),
        subject, date, time, _minute(columns, time, given),
    ]  # fmt: skip
    times = joined(columns, date.column, time.column)
    written = time_format(times, given, lambda: _whole(source, date.column, time.column))
    choices = [_format("a table with an epoch a row"), *chosen, written]
    if time.column:
        choices.append(zone_of_utc(given) if written.column in EPOCHS_MS else _local_clock(given))
    choices += [] if subject.column or subject.question else [file_is_one_person(source.stem)]
    used = {choice.column for choice in chosen}
    return Detection.of("actigraphy", "table", [*choices, not_read(columns, used, "--set columns.worn=NAME")])


def _whole(source: Source, date: str | None, time: str | None) -> list[str]:
    return joined(distinct_rows(source, [date, time]), date, time)


def _minute(columns: dict[str, list[str]], time: Choice, given: Given) -> Choice:
    """Where a table has no time, the number of the minute; without that too its rows may not be minutes: asked."""
    if time.column is not None or time.question is not None:
        return Choice(given.get("columns.minute"))
    choice = choose("columns.minute", named(columns, _MINUTE), given, "the minute, from 1 at midnight")
    if choice.column is not None or choice.question is not None or "columns.minute" in given:
        return choice
    message = (
        f"no column of times among {shown(list(columns))}: add --set columns.time=NAME, or --set columns.minute=NAME "
        "(1 at the midnight that begins the first day), or --set columns.minute=null where each row is a minute from "
        "midnight on"
    )
    return Choice(None, question=Question("columns.minute", message))
