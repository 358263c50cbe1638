"""GlucoBench's protocol (Sergazinov et al., ICLR 2024): its pieces of recordings, its splits, its forecasts.

Every figure of this file is checked against the sizes and the linear regression that GlucoBench published (facts:
data_formats.md). Times are the data set's local clock.
"""

from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd

from raycadian.data.series import Recordings, Series, build_series
from raycadian.data.split import Range
from raycadian.types import GLUCOSE, ID, OOD, Recording

HORIZON, STRIDE, DT_MIN = 12, 6, 5.0  # an hour ahead, every half hour
OOD_SHARE = 0.1
COLUMNS = ("id", "time", "gl")


@dataclass(frozen=True)
class Protocol:
    """What differs between data sets; all but the first in points of 5 minutes."""

    gap: float
    """A gap between readings longer than this many minutes ends a piece."""
    min_points: int
    """Pieces with fewer readings are dropped."""
    length_segment: int
    """Points of a test segment, and of a validation segment."""
    max_input: int
    """Points of history that a forecast may look back."""
    horizon: int = HORIZON

    def __post_init__(self) -> None:
        if min(self.gap, self.min_points, self.length_segment, self.max_input, self.horizon) <= 0:
            raise ValueError(f"a protocol's lengths are above 0; found {self}")
        if self.length_segment < self.horizon:
            raise ValueError(f"length_segment {self.length_segment} holds no forecast of {self.horizon} steps")


PROTOCOLS = {
    "iglu": Protocol(45, 240, 240, 192),
    "colas": Protocol(45, 192, 72, 144),
    "dubosson": Protocol(30, 240, 144, 192),
    "hall": Protocol(30, 192, 192, 144),
    "weinstock": Protocol(45, 240, 240, 192),
}
EXCLUDED = {"dubosson": ("9",)}  # as GlucoBench does


def parse_protocol(text: str) -> Protocol:
    """A data set's name, or gap=..,min_points=..,length_segment=..,max_input=..[,horizon=12]. Raises ValueError."""
    if text in PROTOCOLS:
        return PROTOCOLS[text]
    names = [f.name for f in fields(Protocol)]
    try:
        values = {name.strip(): float(value) for name, value in (part.split("=") for part in text.split(","))}
        whole = {name: int(value) for name, value in values.items() if name != "gap"}
        return Protocol(**values | whole)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"--protocol {text}: expected one of {', '.join(PROTOCOLS)}, or "
            f"{','.join(f'{n}=..' for n in names)} ({error})"
        ) from None


@dataclass(frozen=True)
class Piece:
    """An unbroken stretch of one subject on the even grid: local start, glucose (N,) mg/dL."""

    subject: str
    start: np.datetime64
    glucose_mgdl: np.ndarray

    def __len__(self) -> int:
        return len(self.glucose_mgdl)


def read_pieces(path: Path, protocol: Protocol, exclude: tuple[str, ...] = ()) -> list[Piece]:
    """The pieces of a file with the columns id, time, gl (mg/dL), by subject in the order of ids, then time.

    Rows that miss a value are dropped and times rounded to the minute; a piece is interpolated linearly onto 5 minutes
    from its first row. Raises ValueError for a file that isn't such a table, or holds no piece that is long enough.
    """
    try:
        table = pd.read_csv(path, usecols=list(COLUMNS), dtype={"id": str})
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"{path}: expected a CSV with the columns {', '.join(COLUMNS)}: {error}") from None
    table["time"] = pd.to_datetime(table.time, errors="coerce").dt.round("min")
    table["gl"] = pd.to_numeric(table.gl, errors="coerce")
    table["id"] = table.id.str.removesuffix(".0")
    table = table.dropna()[lambda t: ~t.id.isin(exclude)]
    if not table.gl.between(20, 600).mean() > 0.5:
        raise ValueError(f"{path}: gl has values that aren't glucose in mg/dL (median {table.gl.median():g})")
    pieces = [
        p for subject in _sorted(table.id.unique()) for p in _pieces(subject, table[table.id == subject], protocol)
    ]
    if not pieces:
        raise ValueError(f"{path}: no piece has {protocol.min_points} readings without a gap of {protocol.gap:g} min")
    return pieces


def _sorted(ids: np.ndarray) -> list[str]:
    """By number where all are numbers, as GlucoBench has them."""
    return sorted(ids, key=float) if all(i.replace(".", "", 1).isdigit() for i in ids) else sorted(ids)


def _pieces(subject: str, rows: pd.DataFrame, protocol: Protocol) -> list[Piece]:
    rows = rows.sort_values("time", kind="stable")
    minute = rows.time.to_numpy("datetime64[s]").astype(np.int64) // 60  # whole minutes already
    cuts = np.flatnonzero(np.diff(minute) > protocol.gap) + 1
    pieces = []
    for part in np.split(np.arange(len(rows)), cuts):
        if len(part) >= protocol.min_points:
            at, first = np.unique(minute[part], return_index=True)
            grid = np.arange(at[0], at[-1] + 1, DT_MIN)
            values = np.interp(grid, at, rows.gl.to_numpy(np.float64)[part][first])
            pieces.append(Piece(subject, rows.time.to_numpy("datetime64[s]")[part[0]], values))
    return pieces


def series_of(pieces: list[Piece]) -> Series:
    """The pieces as a series: recording n of a subject is its n-th piece."""
    number: Counter[str] = Counter()
    recordings = []
    for piece in pieces:
        recordings.append(_recording(piece, number[piece.subject]))
        number[piece.subject] += 1
    return build_series(Recordings.of(recordings, "glucobench"), (GLUCOSE,))


def _recording(piece: Piece, number: int) -> Recording:
    glucose = {GLUCOSE: piece.glucose_mgdl.astype(np.float32)}
    return Recording(piece.subject, number, piece.start, 0, 60 * DT_MIN, glucose, np.ones(len(piece), bool))


def split(pieces: list[Piece], protocol: Protocol, seed: int) -> dict[str, tuple[Range, ...]]:
    """train, val, test (the same people, later) and ood (people held out whole) for one of GlucoBench's seeds.

    val and test ranges begin with the history of their first forecast, `max_input` points that belong to the range
    before: forecasts begin after it. Of each person's last piece (n points, segment s, history h) the last segment is
    test and the one before it validation. Short last pieces, as GlucoBench's code has them: n < h + 3s trains only
    where the person has no other piece; n < h + 2s is test whole, and validation comes from the piece before where that
    has h + 2s; a person whose only piece is that short trains. Every other piece trains.
    """
    subjects = list(dict.fromkeys(p.subject for p in pieces))
    n = int(np.ceil(OOD_SHARE * len(subjects)))
    held_out = {subjects[i] for i in np.random.RandomState(seed).choice(len(subjects), n, replace=False)}
    parts: dict[str, list[Range]] = {"train": [], "val": [], "test": [], "ood": []}
    for subject in subjects:
        lengths = [len(p) for p in pieces if p.subject == subject]
        if subject in held_out:
            parts["ood"] += [Range(subject, i, 0, n, "test", OOD) for i, n in enumerate(lengths)]
            continue
        for name, recording, start, stop in _cut(lengths, protocol):
            parts[name].append(Range(subject, recording, start, stop, name, ID))
    return {
        name: tuple(sorted(ranges, key=lambda r: (r.subject, r.recording, r.start))) for name, ranges in parts.items()
    }


def _cut(lengths: list[int], protocol: Protocol) -> list[tuple[str, int, int, int]]:
    """(part, piece, start, stop) of one person's pieces."""
    last = len(lengths) - 1
    of_last = _cut_last(lengths[last], protocol, has_earlier=last > 0)
    if of_last is None:
        return [("test", last, 0, lengths[last]), *_cut_before_test(last - 1, lengths[last - 1], protocol)] + [
            ("train", i, 0, lengths[i]) for i in range(last - 1)
        ]
    return [(part, last, start, stop) for part, start, stop in of_last] + [
        ("train", i, 0, lengths[i]) for i in range(last)
    ]


def _cut_last(n: int, protocol: Protocol, has_earlier: bool) -> list[tuple[str, int, int]] | None:
    """(part, start, stop) of a person's last piece of n points; None where it is test whole, however short."""
    segment, history = protocol.length_segment, protocol.max_input
    test = ("test", n - segment - history, n)
    if n >= history + 3 * segment:
        return [("train", 0, n - 2 * segment), ("val", n - 2 * segment - history, n - segment), test]
    if n >= history + 2 * segment:
        return [("val" if has_earlier else "train", 0, n - segment), test]
    return None if has_earlier else [("train", 0, n)]


def _cut_before_test(piece: int, m: int, protocol: Protocol) -> list[tuple[str, int, int, int]]:
    """The piece of m points before a last one that is test whole: it gives validation where it is long enough."""
    segment, history = protocol.length_segment, protocol.max_input
    if m >= history + 2 * segment:
        return [("val", piece, m - segment - history, m), ("train", piece, 0, m - segment)]
    return [("train", piece, 0, m)]
