"""Which format of actigraphy a file has, and what a card would have to say of it."""

from __future__ import annotations

from pathlib import Path

from raycadian.data.source import Source
from raycadian.data.tables import first_rows, shown
from raycadian.modalities.actigraphy import nhanes
from raycadian.modalities.actigraphy.formats.devices import NHANES_COLUMNS
from raycadian.modalities.actigraphy.readers import MINUTES, detect_format
from raycadian.modalities.columns import Choice, choose, named, numeric, subject_column, time_columns, time_format
from raycadian.modalities.guesses import Detection, Given, Guess, Question, option

_ACTIVITY = {
    "activity", "activity_counts", "activity_count", "counts", "count", "raw_activity", "vector_magnitude", "vm",
    "axis1", "mims", "counts_per_minute", "cpm",
}  # fmt: skip
_WORN = {"worn", "wear", "wearing", "is_worn"}
_MINUTE = {"minute", "minute_index", "index", "paxn"}
_WHOSE = {"awd", "agd", "respironics", "apple_health"}  # a file of one person


def detect(path: Path, given: Given) -> Detection | None:
    """None where a file is of no format of actigraphy, and no table with a column that is called like activity."""
    kind = detect_format(path)
    if kind == "table":
        return _table(Source.of(path), given)
    guesses = [Guess("format", "auto", True, f"recognised by its content: {kind}", option("format", "FORMAT"))]
    if kind in _WHOSE:
        why = "the person whom the file names, or else its name"
        guesses.append(Guess("subject", None, False, why, option("subject", "NAME")))
    if kind in _WHOSE - {"apple_health"} and "timezone" not in given:
        guesses.append(_local_clock())
    return Detection("actigraphy", kind, guesses, recordings=kind in MINUTES or kind not in nhanes.KINDS)


def _local_clock() -> Guess:
    why = "the device's own clock is taken as it stands: local, without a zone"
    return Guess("timezone", None, False, why, option("timezone", "Europe/Madrid"))


def _table(source: Source, given: Given) -> Detection | None:
    columns = first_rows(source)
    if set(NHANES_COLUMNS) <= set(columns):
        why = "NHANES's columns SEQN, PAXINTEN: minutes from the midnight that begins the first day"
        return Detection("actigraphy", "table", [Guess("format", "auto", True, why, option("format", "FORMAT"))])
    candidates = [c for c in named(columns, _ACTIVITY) if numeric(columns[c])]
    if not candidates and "columns.activity" not in given:
        return None
    activity = choose("columns.activity", candidates, given, "the activity")
    worn = choose(
        "columns.worn", [c for c in named(columns, _WORN) if set(columns[c]) <= {"0", "1", ""}], given, "worn"
    )
    subject = subject_column(columns, given)
    time = choose("columns.time", time_columns(columns), given, "the time")
    minute = _minute(columns, time, given)
    clock = time_format(columns.get(time.column or "", ()), given)
    chosen = [activity, worn, subject, time, minute, clock]
    guesses = [Guess("format", "auto", True, "a table with an epoch a row", option("format", "FORMAT"))]
    guesses += [choice.guess for choice in chosen if choice.guess]
    questions = [choice.question for choice in chosen if choice.question]
    if time.column is not None and "timezone" not in given:
        guesses.append(_local_clock())
    if subject.column is None and subject.question is None:
        why = f"the table names no person and is taken for one person's, called after the file ({source.stem!r})"
        guesses.append(Guess("subject", None, False, why, option("subject", "NAME")))
    used = {choice.column for choice in chosen}
    if rest := [name for name in columns if name not in used and name]:
        how = "--set columns.worn=NAME"
        guesses.append(Guess("columns", "not read", True, f"columns without a use: {shown(rest)}", how))
    return Detection("actigraphy", "table", guesses, questions)


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
