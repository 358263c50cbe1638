"""Actiware's export (Respironics, Philips Actiwatch) in the languages that it writes: sections, then an epoch a row."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from raycadian.data.source import Source, delimiter_of, read_whole, split
from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.actigraphy.formats.devices import MAX_TEXT_BYTES, Epochs
from raycadian.modalities.cells import parse_column, parse_flags
from raycadian.modalities.time_formats import one_order, orders_left
from raycadian.types import Issues

_EPOCHS_BEGIN = re.compile(r"Epoch-by-Epoch Data|Off-Wrist Status", re.IGNORECASE)
_EXPORT = re.compile(r"Actiware[ -]?(?:Export|\w+bestand)|\WActiware\b.{0,20}\(Version", re.IGNORECASE)
# columns of epochs and settings in English, French, German, Dutch, Spanish, Italian, Portuguese, Polish, Swedish
_DATE = ("date", "datum", "fecha", "data")
_TIME = ("time", "heure", "zeit", "uhrzeit", "tijd", "hora", "ora", "czas", "godzina", "tid")
_ACTIVITY = (
    "activity", "activité", "aktivität", "activiteit", "actividad", "attività", "atividade", "aktywność", "aktivitet",
)  # fmt: skip
_OFF_WRIST = (
    "off-wrist status", "statut hors du poignet", "statut hors poignet", "état hors poignet",
    "status „nicht am handgelenk“", "status nicht am handgelenk", "status niet-om-pols", "status niet om pols",
    "estado fuera de la muñeca", "stato fuori dal polso", "estado fora do pulso", "status poza nadgarstkiem",
    "status ej på handleden",
)  # fmt: skip
_IDENTITY = (
    "subject identity", "identity", "identité", "identität", "identiteit", "identidad", "identità", "identidade",
    "tożsamość", "identitet", "analysis name", "nom de l'analyse", "analysename", "naam analyse",
)  # fmt: skip
_DATES = ("%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%d.%m.%Y", "%d-%b-%Y", "%Y/%m/%d", "%d/%m/%y", "%m/%d/%y")
_A_DATE = re.compile(r"(?<!\d)(\d{1,2})[-/.](\d{1,2})[-/.](?:\d{4}|\d{2})(?!\d)")
_CLOCKS = ("%H:%M:%S", "%I:%M:%S %p", "%H:%M")


def is_respironics(source: Source) -> bool:
    return _EPOCHS_BEGIN.search(source.text) is not None or _EXPORT.search(source.text[:400]) is not None


def read_respironics(source: Source, card: ActigraphyCard, issues: Issues) -> Iterator[Epochs]:
    """An export: settings, statistics, then an epoch a row with its off-wrist status. Worn at the wrist. Raises
    ValueError."""
    lines = read_whole(source.path, MAX_TEXT_BYTES, "bytes of text").decode(source.encoding, "replace").splitlines()
    names = _header(lines, source.path)
    delimiter = delimiter_of(lines[names])
    header = split(lines[names], delimiter)
    below = [fields for line in lines[names + 1 :] if any(fields := split(line, delimiter))]
    rows = [fields for fields in below if len(fields) >= len(header) - 1 and fields[0]]
    issues.add("line without its fields", source.path.name, len(below) - len(rows))
    columns = {name: _column(header, name, rows) for name in (_DATE, _TIME, _ACTIVITY, _OFF_WRIST)}
    form = card.time_format or _order_of(lines[: names + 1])
    clock = _clocks(columns[_DATE], columns[_TIME], source.path, form)
    steps = np.diff(clock)
    epoch_s = float(np.median(steps).astype(np.int64)) if len(steps) else 60.0
    values, malformed = parse_column(columns[_ACTIVITY], f"{source.path}: activity")
    issues.add("activity is not a number", source.path.name, int(malformed.sum()))
    off = columns[_OFF_WRIST]
    worn_off = None if off is None else parse_flags(off, f"{source.path}: off-wrist status") == 1
    subject = card.named(source.path) or _identity(lines[:names], delimiter) or source.stem
    yield Epochs(subject, clock, values, epoch_s, off=worn_off, site=card.site or "wrist")


def _header(lines: Sequence[str], path: Path) -> int:
    """The line of the epochs' names, in any of the languages. Raises ValueError."""
    for number, line in enumerate(lines):
        names = {name.lower() for name in split(line, delimiter_of(line))}
        if all(names.intersection(words) for words in (_DATE, _TIME, _ACTIVITY)):
            return number
    raise ValueError(
        f"{path}: a Respironics export without its epochs (columns Date, Time, Activity, or these words in French, "
        "German, Dutch, Spanish, Italian, Portuguese, Polish or Swedish); export them too"
    )


def _column(header: Sequence[str], words: Sequence[str], rows: Sequence[Sequence[str]]) -> pd.Series | None:
    at = next((i for i, name in enumerate(header) if name.lower() in words), None)
    return None if at is None else pd.Series([row[at] if at < len(row) else "" for row in rows], dtype=object)


def _identity(lines: Sequence[str], delimiter: str) -> str | None:
    """Whom the export names, by the first of the settings that says so."""
    fields = [split(line, delimiter)[:2] for line in lines]
    settings = {f[0].rstrip(" :\u00a0\u202f").lower().replace("’", "'"): f[1] for f in fields if len(f) > 1 and f[1]}
    said = [settings[word] for word in _IDENTITY if word in settings]
    return said[0] if said else None


def _order_of(lines: Sequence[str]) -> str:
    """How dates begin, %d or %m, by those above the epochs, else by the language: but in English the day goes first;
    empty where neither tells."""
    dates = [match for line in lines[:-1] for match in _A_DATE.findall(line)]
    if any(int(first) > 12 for first, _ in dates):
        return "%d"
    if any(int(second) > 12 for _, second in dates):
        return "%m"
    words = {name.lower() for name in split(lines[-1], delimiter_of(lines[-1]))}
    return "" if words & {"time", "activity"} else "%d"


def _clocks(dates: pd.Series, times: pd.Series, path: Path, form: str) -> np.ndarray:
    """Clocks (N,) of dates and times in `form`, or in any of the usual orders that begins so: the one that makes them
    follow one another. Raises ValueError where several may be meant."""
    if not len(dates):
        raise ValueError(f"{path}: no epoch in it")
    text = dates.str.strip() + " " + times.str.strip()
    formats = (form,) if len(form) > 2 else tuple(f"{d} {c}" for d in _DATES for c in _CLOCKS)
    read = {one: pd.to_datetime(text, format=one, errors="coerce") for one in formats}
    usable = {one: clock for one, clock in read.items() if clock.notna().all()}
    if not usable:
        raise ValueError(f"{path}: date and time {text.iloc[0]!r} are in no known form; set `time_format` in the card")
    backward = {one: int((clock.diff() < pd.Timedelta(0)).sum()) for one, clock in usable.items()}
    in_order = {one: clock for one, clock in usable.items() if backward[one] == min(backward.values())}
    if len(orders_left(in_order)) > 1:
        in_order = {one: clock for one, clock in in_order.items() if one.startswith(form)} or in_order
    return usable[one_order(in_order, path, text)].to_numpy("datetime64[s]")
