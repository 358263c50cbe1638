"""Apple Health's export (export.zip or export.xml, hundreds of MB): steps, active energy, heart rate and sleep,
streamed.

The XML is parsed by defusedxml as it is unpacked, with limits on both; a tail that is cut off or broken is reported,
and what came before it kept. Phone and watch count the same steps: of several sources a minute takes the one that
counted most. Of several apps that tell of one night, one account is kept: that of most records, which tells stages and
waking apart.
"""

import re
import zipfile
import zlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from xml.sax import SAXParseException
from xml.sax.handler import ContentHandler

import numpy as np
import pandas as pd
from defusedxml import DefusedXmlException
from defusedxml.sax import make_parser

from raycadian.data.clock import YEARS, offset_at
from raycadian.data.source import DECLARES, HEAD_BYTES, MAX_POINTS, check_count, check_unpacked, open_bytes, stem_of
from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.types import Issues, Recording

STEPS, ENERGY, HEART_RATE, ASLEEP = "steps", "active_energy_kcal", "heart_rate_bpm", "asleep"
_QUANTITIES = {
    "HKQuantityTypeIdentifierStepCount": STEPS,
    "HKQuantityTypeIdentifierActiveEnergyBurned": ENERGY,
    "HKQuantityTypeIdentifierHeartRate": HEART_RATE,
}
_SLEEP = "HKCategoryTypeIdentifierSleepAnalysis"
_UNITS = {"count": 1.0, "count/min": 1.0, "kcal": 1.0, "Cal": 1.0, "kJ": 1 / 4.184}
_MOST = {STEPS: 100_000.0, ENERGY: 20_000.0, HEART_RATE: 400.0}
_LONGEST_S = 86_400  # of one record
_FIRST_S, _LAST_S = (int(year.astype("datetime64[s]").astype(np.int64)) for year in YEARS)
_GAP_S = 86_400  # a longer one without any record ends a recording
_NEAR_MIN = 15  # a minute counts as worn this close to a record
_CHUNK = 1024**2
_ENCRYPTED = 0x1  # of an entry's flags
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_CONTROL = bytes(n for n in range(32) if chr(n) not in "\t\n\r")  # XML 1.0 allows none of them
_CONTROL_REFERENCE = re.compile(rb"&#(?:0*(?:[0-8]|1[124-9]|2\d|3[01])|[xX]0*(?:[0-8bBcCeEfF]|1[0-9a-fA-F]));")


@dataclass
class Intervals:
    """Records of one kind, (R,) each: start_s, end_s UTC seconds, offset_min, value, source (a number)."""

    columns: tuple[array, ...] = field(default_factory=lambda: tuple(array("d") for _ in range(5)))

    def add(self, start_s: int, end_s: int, offset_min: int, value: float, source: int) -> None:
        for column, one in zip(self.columns, (start_s, end_s, offset_min, value, source), strict=True):
            column.append(one)

    def __len__(self) -> int:
        return len(self.columns[0])

    def where(self, chosen: np.ndarray) -> "Intervals":
        """Those of the records that are chosen (R,)."""
        return Intervals(tuple(array("d", column[chosen].tobytes()) for column in self.arrays()))

    def arrays(self) -> list[np.ndarray]:
        return [np.frombuffer(column, np.float64) if len(column) else np.empty(0) for column in self.columns]


Health = dict[str, Intervals]
"""steps, active_energy_kcal, heart_rate_bpm; asleep (value 1), in_bed and awake of sleep analysis."""


def is_apple_health(path: Path, head: bytes) -> bool:
    """By the archive's members, or the document's first element."""
    if head.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(path) as archive:
                return any("export" in name and name.endswith(".xml") for name in archive.namelist())
        except zipfile.BadZipFile:
            return False
    with open_bytes(path) as stream:
        return b"<HealthData" in stream.read(HEAD_BYTES)


def read_apple_health(path: Path, card: ActigraphyCard, issues: Issues) -> list[Recording]:
    """One person's recordings of minutes: steps, active_energy_kcal (0 where none was counted), heart_rate_bpm (mean of
    the minute) and asleep (1, 0; NaN without any record of sleep). `observed` within 15 minutes of any record. A day
    without any record, or a change of the UTC offset, ends a recording. Raises ValueError."""
    health = parse_export(path, issues, card.sleep_source)
    start_s, end_s, offset_min = _extent(health, card.timezone)
    moved = np.diff(offset_min) != 0
    issues.add("change of the UTC offset (DST or travel)", path.name, int(moved.sum()))
    reached = np.maximum.accumulate(end_s)
    edges = np.flatnonzero(moved | (start_s[1:] - reached[:-1] > _GAP_S)) + 1
    recordings, subject, points = [], card.named(path) or stem_of(path).removesuffix(".zip"), 0
    for a, b in zip([0, *edges], [*edges, len(start_s)], strict=True):
        begin = int(start_s[a]) // 60 * 60
        until = int(end_s[a:b].max()) if b == len(start_s) else min(int(end_s[a:b].max()), int(start_s[b]) // 60 * 60)
        n = max((until - begin + 59) // 60, 1)
        check_count(points := points + n, path, MAX_POINTS, "minutes")
        channels = _channels(health, begin, n)
        observed = np.any([_covered(records, begin, n, _NEAR_MIN) > 0 for records in health.values()], axis=0)
        recordings.append(
            Recording(subject, len(recordings), np.datetime64(begin, "s"), int(offset_min[a]), 60.0, channels, observed)
        )
    return recordings


def sleep_episodes(health: Health, join_min: float = 30.0, zone: str | None = None) -> pd.DataFrame:
    """Episodes of sleep in mood_ml's columns: sleep_start, sleep_end (local: by the export's offsets, or of the zone
    where one is given), time_in_bed, minutes_sleep, minutes_awake.

    Records of sleep at most `join_min` apart are one episode; minutes asleep count once, whichever sources have them.
    """
    parts = [health[name].arrays() for name in (ASLEEP, "in_bed", "awake")]
    asleep = _united(parts[0][0], parts[0][1])
    starts, ends, offsets = (np.concatenate([p[i] for p in parts]) for i in range(3))
    first_s, last_s = _united(starts, ends, 60 * join_min)
    order = np.argsort(starts, kind="stable")
    local = offsets[order][np.searchsorted(starts[order], first_s)] * 60
    if zone is not None:
        local = offset_at(first_s.astype("datetime64[s]").astype("datetime64[ns]"), zone) * 60
    slept = np.array(
        [
            np.clip(np.minimum(asleep[1], b) - np.maximum(asleep[0], a), 0, None).sum()
            for a, b in zip(first_s, last_s, strict=True)
        ]
    )
    in_bed, minutes = np.round((last_s - first_s) / 60), np.round(slept / 60)
    clock = {name: (s + local).astype("datetime64[s]") for name, s in (("sleep_start", first_s), ("sleep_end", last_s))}
    table = pd.DataFrame({**clock, "time_in_bed": in_bed, "minutes_sleep": minutes, "minutes_awake": in_bed - minutes})
    return table[minutes > 0].reset_index(drop=True)


def parse_export(path: Path, issues: Issues, sleep_source: str | None = None) -> Health:
    """Every record that is wanted, of sleep one source's account of each night: of `sleep_source`, else of the one that
    tells most. Raises ValueError where the file is no export, holds none, or is a bomb."""
    handler = _Records(issues, path)
    parser = make_parser()
    parser.forbid_dtd = False  # Apple's export has one; entities and external references stay forbidden
    parser.setContentHandler(handler)
    try:
        with _xml(path) as stream:
            for chunk in _mended(stream, path, issues):
                parser.feed(chunk)
            parser.close()
    except SAXParseException as error:
        if not handler.kept:
            raise ValueError(
                f"{path}: no whole record before line {error.getLineNumber()}: {error.getMessage()}; export it again"
            ) from None
        issues.add("export cut off or broken (what comes before is kept)", f"{path.name}:{error.getLineNumber()}")
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, OSError) as error:
        if not handler.kept:
            raise ValueError(f"{path}: can't be unpacked: {error}; export it again") from None
        issues.add("export cut off or broken (what comes before is kept)", path.name)
    except DefusedXmlException:
        raise ValueError(f"{path}: not an Apple Health export: {DECLARES}") from None
    if not handler.kept:
        raise ValueError(f"{path}: no record of steps, energy, heart rate or sleep in it; is it Apple Health's export?")
    return one_account(handler.health, handler.number_of(sleep_source), path, issues)


def _mended(stream: BinaryIO, path: Path, issues: Issues) -> Iterator[bytes]:
    """The document without what makes it no XML: the broken DTD that iOS 16 writes, and control characters."""
    chunk = _without_dtd(stream.read(_CHUNK) + stream.readline(_CHUNK))
    plain = not chunk.startswith(_UTF_16)
    while chunk:
        kept = _CONTROL_REFERENCE.sub(b"", chunk.translate(None, _CONTROL)) if plain else chunk
        issues.add("control character in an export (dropped)", path.name, int(len(kept) < len(chunk)))
        yield kept
        chunk = stream.read(_CHUNK) + stream.readline(_CHUNK)  # whole lines: no reference is cut


def _without_dtd(chunk: bytes) -> bytes:
    """Without the declaration of its document type, which says nothing that is needed; one with entities stays, to be
    refused. As many lines as before."""
    begin, end = chunk.find(b"<!DOCTYPE"), chunk.find(b"<HealthData")
    if not 0 <= begin < end or b"<!ENTITY" in chunk[begin:end]:
        return chunk
    return chunk[:begin] + b"\n" * chunk.count(b"\n", begin, end) + chunk[end:]


def one_account(health: Health, preferred: int | None, path: Path, issues: Issues) -> Health:
    """Sleep by one source a night: of those whose records of a night meet, the preferred one, else that of most records
    of sleep and waking. What others say of that night is left out, and counted; time in bed is kept."""
    asleep, awake = health[ASLEEP].arrays(), health["awake"].arrays()
    start_s, end_s, source = (np.concatenate([asleep[i], awake[i]]) for i in (0, 1, 4))
    if len(np.unique(source)) < 2:
        return health
    first_s, _ = _united(start_s, end_s)
    n_asleep = len(asleep[0])
    night = np.searchsorted(first_s, start_s, side="right") - 1
    kept = np.ones(len(start_s), dtype=bool)
    for one in np.unique(night[:n_asleep]):
        sleepers = source[:n_asleep][night[:n_asleep] == one]
        records = {s: int(np.count_nonzero(source[night == one] == s)) for s in np.unique(sleepers)}
        chosen = preferred if preferred in records else max(records, key=records.__getitem__)
        kept[(night == one) & (source != chosen)] = False
    issues.add("sleep told by another app too (one account kept)", path.name, int((~kept).sum()))
    parts = {ASLEEP: kept[:n_asleep], "awake": kept[n_asleep:]}
    return health | {name: health[name].where(chosen) for name, chosen in parts.items()}


class _Records(ContentHandler):
    """Collects records; anything else is passed over."""

    def __init__(self, issues: Issues, path: Path):
        super().__init__()
        self.health: Health = {name: Intervals() for name in (STEPS, ENERGY, HEART_RATE, ASLEEP, "in_bed", "awake")}
        self.kept, self._issues, self._path = 0, issues, path
        self._sources: dict[str, int] = {}
        self._days: dict[str, int] = {}

    def number_of(self, source: str | None) -> int | None:
        """Of a source by its name. Raises ValueError where the export has none that is called so."""
        if source is not None and source not in self._sources:
            raise ValueError(
                f"{self._path}: no source {source!r}; it has {', '.join(map(repr, self._sources))}: "
                "correct sleep_source"
            )
        return None if source is None else self._sources[source]

    def startElement(self, name: str, attrs) -> None:
        if name != "Record":
            return
        kind = attrs.get("type", "")
        channel = _QUANTITIES.get(kind) or (kind == _SLEEP and _sleep_state(attrs.get("value", "")))
        if not channel:
            return
        try:
            start_s, offset_min = self._time(attrs["startDate"])
            end_s, _ = self._time(attrs["endDate"])
            value = float(attrs["value"]) * _UNITS[attrs.get("unit", "count")] if kind != _SLEEP else 1.0
        except (KeyError, ValueError, IndexError):
            self._issues.add("record not understood (left out)", self._path.name)
            return
        possible = 0 <= end_s - start_s <= _LONGEST_S and 0 <= value <= _MOST.get(channel, 1.0)
        if not (possible and _FIRST_S <= start_s < _LAST_S):
            self._issues.add("record that can't be (left out)", f"{self._path.name}: {channel} at {attrs['startDate']}")
            return
        source = self._sources.setdefault(attrs.get("sourceName", ""), len(self._sources))
        self.health[channel].add(start_s, end_s, offset_min, value, source)
        self.kept += 1
        check_count(self.kept, self._path)

    def _time(self, text: str) -> tuple[int, int]:
        """UTC seconds and offset in minutes of `2020-01-31 08:00:00 +0900`."""
        date = text[:10]
        if (day := self._days.get(date)) is None:
            day = self._days[date] = int(np.datetime64(date, "D").astype(np.int64))
        sign = -1 if text[20] == "-" else 1
        offset_min = sign * (60 * int(text[21:23]) + int(text[23:25]))
        second = 3600 * int(text[11:13]) + 60 * int(text[14:16]) + int(text[17:19])
        if abs(offset_min) > 14 * 60 or not 0 <= second < 86_400:
            raise ValueError(text)
        return 86_400 * day + second - 60 * offset_min, offset_min


def _sleep_state(value: str) -> str | None:
    """Asleep, of any stage; in bed; awake."""
    state = value.removeprefix("HKCategoryValueSleepAnalysis")
    return ASLEEP if state.startswith("Asleep") else {"InBed": "in_bed", "Awake": "awake"}.get(state)


@contextmanager
def _xml(path: Path) -> Iterator[BinaryIO]:
    """The document, out of its archive: the largest XML of it. Raises ValueError for one that unpacks to too much."""
    if not zipfile.is_zipfile(path):
        with open_bytes(path) as stream:
            yield stream
        return
    with zipfile.ZipFile(path) as archive:
        exports = [
            e
            for e in archive.infolist()
            if e.filename.endswith(".xml") and "export" in e.filename and "cda" not in e.filename
        ]
        if not exports:
            raise ValueError(f"{path}: no export.xml in the archive; it has {', '.join(archive.namelist()[:5])}")
        entry = max(exports, key=lambda one: one.file_size)
        check_unpacked(entry.file_size, entry.compress_size, f"{path}: {entry.filename}")
        if entry.flag_bits & _ENCRYPTED:
            raise ValueError(
                f"{path}: {entry.filename} is encrypted, which Apple's own export is not; unpack it with its password "
                "and give export.xml"
            )
        with archive.open(entry) as stream:  # zipfile gives no more than file_size
            yield stream


# --- the grid of minutes --------------------------------------------------------------------------------------------


def _extent(health: Health, zone: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """start_s, end_s and offset_min of all records, by start. Offsets of the zone where one is given: the export states
    the phone's at the time of exporting."""
    columns = [intervals.arrays() for intervals in health.values()]
    start_s, end_s, offset_min = (np.concatenate([c[i] for c in columns]).astype(np.int64) for i in range(3))
    order = np.argsort(start_s, kind="stable")
    start_s, end_s, offset_min = start_s[order], end_s[order], offset_min[order]
    if zone is not None:
        offset_min = offset_at(start_s.astype("datetime64[s]").astype("datetime64[ns]"), zone)
    return start_s, end_s, offset_min


def _channels(health: Health, begin: int, n: int) -> dict[str, np.ndarray]:
    channels = {STEPS: _spread(health[STEPS], begin, n), ENERGY: _spread(health[ENERGY], begin, n)}
    channels[HEART_RATE] = _mean(health[HEART_RATE], begin, n)
    covered = _covered(health[ASLEEP], begin, n, 0) if len(health[ASLEEP]) else np.full(n, np.nan)
    return {name: values.astype(np.float32) for name, values in (channels | {ASLEEP: covered}).items()}


def _spread(records: Intervals, begin: int, n: int) -> np.ndarray:
    """Amounts (n,) a minute, each record's spread evenly over its time; of several sources the most."""
    start_s, end_s, _, value, source = records.arrays()
    inside = (end_s > begin) & (start_s < begin + 60 * n) | (start_s == end_s) & (start_s >= begin) & (
        start_s < begin + 60 * n
    )
    start_s, end_s, value, source = (
        start_s[inside],
        np.maximum(end_s, start_s + 1)[inside],
        value[inside],
        source[inside],
    )
    most = np.zeros(n)
    for one in np.unique(source):
        own = source == one
        # the amount since `begin` grows along each record: differences of its sum at the minutes' edges
        edges = np.arange(n + 1) * 60.0
        a, b, rate = start_s[own] - begin, end_s[own] - begin, value[own] / (end_s[own] - start_s[own])
        total = _ramp(edges, a, rate) - _ramp(edges, b, rate)
        most = np.maximum(most, np.diff(total))
    return np.maximum(most, 0)


def _ramp(edges: np.ndarray, at: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Sum over records of rate * max(edge - at, 0), at each edge."""
    order = np.argsort(at)
    at, rate = at[order], rate[order]
    k = np.searchsorted(at, edges, side="right")
    rates, moments = np.concatenate([[0], np.cumsum(rate)]), np.concatenate([[0], np.cumsum(rate * at)])
    return edges * rates[k] - moments[k]


def _mean(records: Intervals, begin: int, n: int) -> np.ndarray:
    start_s, _, _, value, _ = records.arrays()
    inside = (start_s >= begin) & (start_s < begin + 60 * n)
    minute = ((start_s[inside] - begin) // 60).astype(np.int64)
    count = np.bincount(minute, minlength=n)
    return np.where(count > 0, np.bincount(minute, value[inside], n) / np.maximum(count, 1), np.nan)


def _covered(records: Intervals, begin: int, n: int, near_min: int) -> np.ndarray:
    """1 for the minutes (n,) that a record covers at least half, or comes as near as `near_min`; else 0."""
    start_s, end_s, *_ = records.arrays()
    a = np.clip(np.round((start_s - begin) / 60) - near_min, 0, n).astype(np.int64)
    b = np.clip(np.round((end_s - begin) / 60) + near_min, 0, n).astype(np.int64)
    return (np.cumsum(np.bincount(a, minlength=n + 1) - np.bincount(b, minlength=n + 1))[:n] > 0).astype(np.float64)


def _united(start: np.ndarray, end: np.ndarray, apart: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """The union of intervals, those at most `apart` from one another joined, in order."""
    order = np.argsort(start, kind="stable")
    start, end = start[order], end[order]
    if not len(start):
        return start, end
    reached = np.maximum.accumulate(end)
    first = np.concatenate([[True], start[1:] > reached[:-1] + apart])
    return start[first], np.append(reached[:-1][first[1:]], reached[-1])
