"""Biosignals: from the tracks of a case to a recording at 125 Hz, its judged stretches and its numerics.

`clean` is what `prepare` and the endpoint share. A subject's cases are its recordings, in the order of their names.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raycadian.config import unit_of, waveform_kind
from raycadian.data.blocks import BlockWriter, Piece
from raycadian.data.marks import Marks, QualityMask
from raycadian.data.parquet import EVENT_SCHEMA, ContentHash, events_table, quality_table, to_table
from raycadian.data.writer import head_of
from raycadian.modalities.base import Item, Preparation, Row, Rows
from raycadian.modalities.biosignals.card import BiosignalCard, Subset
from raycadian.modalities.biosignals.formats.wfdb_records import segments_of
from raycadian.modalities.biosignals.readers import VITALDB, check_unique, patient_of, read_case, states_rate
from raycadian.modalities.biosignals.tracks import case_of, check_length
from raycadian.modalities.conflicts import require_apart_but_for_dates, require_other_contents
from raycadian.modalities.people import ROW
from raycadian.modalities.unpack import plain_file
from raycadian.physiology.waveforms import pipeline as waveforms
from raycadian.types import SUBJECT, TIME_UTC, Case, Issues, Recording, Track

DT_S = 1 / waveforms.RATE_HZ
START = np.datetime64("2000-01-01T00:00:00", "s")  # of a subject's first case; sources hide the date
_POINTS_UP = ("", "i", "ii", "v5", "v6")  # leads whose QRS points up in most hearts; an infarct may turn it
_AFTER_S = 3600.0  # numerics may go on for so long after the waveforms: labels look ahead
_DAY = np.timedelta64(1, "D")  # between a subject's cases: who reads times sees that they are no dates


@dataclass(frozen=True)
class Cleaned:
    """One case: its recording, what was judged of it, and how many stretches were rejected by channel and reason."""

    recording: Recording
    marks: Marks
    rejected: dict[str, int]


# --- one case --------------------------------------------------------------------------------------------------------


def clean(
    case: Case, card: BiosignalCard, number: int = 0, issues: Issues | None = None, *, spend: bool = False
) -> Cleaned:
    """A case on the grid of 125 Hz from its start to the end of its last track. Raises ValueError where a waveform that
    the card names is absent, can't be one, or would be too long. spend: each waveform leaves `case.tracks` (a dict)
    once it is prepared, so that memory needn't hold them all."""
    issues = Issues() if issues is None else issues
    if lacking := [c for c in card.waveforms if c not in case.tracks]:
        raise ValueError(
            f"case {case.case}: no track for {', '.join(lacking)}; found {', '.join(case.tracks) or 'none'}"
        )
    last_s = max(_end_s(case.tracks[c]) for c in card.waveforms)
    numerics = {c: _numeric(case, c, last_s + _AFTER_S, issues) for c in card.numerics if c in case.tracks}
    until_s = max([last_s, *(float(times[-1]) for times, _ in numerics.values() if len(times))])
    n = round(until_s * waveforms.RATE_HZ)
    if n < 1:
        raise ValueError(f"case {case.case}: its tracks last {until_s:g} s; there is nothing to cut windows from")
    prepared = {c: _prepared(case, c, until_s, card, issues, spend) for c in card.waveforms}
    judged_tracks = waveforms.windows_quality(prepared, card.quality.window_s, card.quality.hop_s, card.quality)
    reasons = {c: q.reasons for c, q in judged_tracks.tracks.items()}
    recording = Recording(
        case.subject, number, START + number * _DAY, 0, DT_S, {c: _fitted(p.values, n) for c, p in prepared.items()},
        np.ones(n, dtype=bool), _events(numerics, START + number * _DAY),
    )  # fmt: skip
    judged = QualityMask(judged_tracks.length, round(card.quality.hop_s / DT_S), reasons)
    row = {"case": case.case} | _json_row(
        {c: case.clinical.get(c) for c in (card.clinical.keep if card.clinical else ())}
    )
    return Cleaned(recording, Marks(case.subject, number, n, DT_S, judged, numerics, row), judged_tracks.counts())


def _end_s(track: Track) -> float:
    if track.rate_hz is None:
        return float(track.times_s[-1]) if len(track) else 0.0
    return track.start_s + len(track) / track.rate_hz


def _prepared(
    case: Case, channel: str, until_s: float, card: BiosignalCard, issues: Issues, spend: bool
) -> waveforms.Prepared:
    """The channel from the case's start to `until_s`, missing where its track is silent."""
    kind, rate_hz = waveform_kind(channel), case.tracks[channel].rate_hz
    causal = card.filters == "causal"
    turned = kind == "ecg" and channel in card.upright
    if rate_hz is None:
        raise ValueError(f"case {case.case}: {channel} has times of its own, like a numeric; a waveform has a rate")
    check_length(until_s * rate_hz, f"case {case.case}: {channel}")
    take = case.tracks.pop if spend else case.tracks.__getitem__
    try:  # nobody here holds the samples meanwhile
        prepared = waveforms.prepare(
            _laid_out(take(channel), until_s),
            rate_hz,
            kind,
            causal=causal,
            upright=turned,
            rails=card.rails.get(channel),
        )
    except ValueError as error:
        raise ValueError(f"case {case.case}: {channel}: {error}") from None
    downwards = kind == "ecg" and prepared.beats.inverted and (turned or _lead(channel) in _POINTS_UP)
    done = "turned over" if turned else "left as it is; `upright` turns it over"
    issues.add(f"ECG whose QRS points down ({done}): {channel}", case.case, int(downwards))
    for reason, count in prepared.samples.items():
        issues.add(f"sample {reason}: {channel}", case.case, count)
    return prepared


def _laid_out(track: Track, until_s: float) -> np.ndarray:
    """(N,) from 0 s to `until_s` at the track's rate, NaN where it has nothing."""
    values = np.full(max(round(until_s * track.rate_hz), 1), np.nan, np.float32)
    first = round(track.start_s * track.rate_hz)
    inside = track.values[max(-first, 0) : max(len(values) - first, 0)]
    values[max(first, 0) : max(first, 0) + len(inside)] = inside
    return values


def _lead(channel: str) -> str:
    """v of ecg_v_mv, nothing of ecg_mv: an ECG that doesn't say its lead is taken for one like II."""
    return channel.removeprefix("ecg").removesuffix("mv").strip("_").lower()


def _fitted(values: np.ndarray, n: int) -> np.ndarray:
    """(n,): a track's last sample may be rounded away or lacking."""
    return values[:n] if len(values) >= n else np.append(values, np.full(n - len(values), np.nan, np.float32))


def _numeric(case: Case, channel: str, until_s: float, issues: Issues) -> tuple[np.ndarray, np.ndarray]:
    """Times and values up to `until_s`: one wrong time would make a recording of months."""
    track = case.tracks[channel]
    times = track.times_s
    if track.rate_hz is not None:  # WFDB and tables write numerics as signals too
        times = track.start_s + np.arange(len(track)) / track.rate_hz
    beyond = times > until_s
    issues.add(f"numeric long after the waveforms (left out): {channel}", case.case, int(beyond.sum()))
    return times[~beyond], track.values[~beyond]


def _events(numerics: Mapping[str, tuple[np.ndarray, np.ndarray]], start: np.datetime64) -> pd.DataFrame:
    """As in types.Readings: the numerics of a recording that begins at `start`, to the millisecond."""
    kinds = [np.full(len(t), c, dtype=object) for c, (t, _) in numerics.items()]
    times = [(1000 * t).round().astype("timedelta64[ms]") for t, _ in numerics.values()]
    if not kinds:
        return EVENT_SCHEMA.empty_table().to_pandas().astype({TIME_UTC: "datetime64[ns]"})
    time = (start.astype("datetime64[ms]") + np.concatenate(times)).astype("datetime64[ns]")
    value = np.concatenate([v for _, v in numerics.values()]).astype(np.float64)
    return pd.DataFrame({TIME_UTC: time, "kind": np.concatenate(kinds), "value": value})


def _json_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Values that JSON holds; missing ones are None."""
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}
    return {name: None if value is None or value is pd.NA or value != value else value for name, value in plain.items()}


# --- a subject in the snapshot ---------------------------------------------------------------------------------------


def items(card: BiosignalCard, paths: list[Path], folder: Path, issues: Issues) -> list[Item]:
    """What is to be read, a subject a piece: its cases in the order of their names. Raises ValueError."""
    paths = [path for path in paths if not is_sample(path)]
    segments = {s for p in paths if p.suffix.lower() == ".hea" for s in segments_of(p)}
    issues.add("segment of a record (read with it)", n=sum(path in segments for path in paths))
    files = [(case_of(p), str(p.absolute())) for p in paths if p not in segments]
    check_unique(files)
    people: dict[str, list[dict[str, Any]]] = {}
    for case, source, row in _selected(card, dict(files), folder, issues):
        subject = _name(row[card.clinical.subject]) if card.clinical else _patient(card, case, source)
        if subject not in card.exclude_subjects:
            people.setdefault(subject, []).append({"case": case, "source": source, "clinical": _json_row(row)})
    if card.clinical is None and card.vitaldb is None:
        called = [s for s, own in people.items() if s == own[0]["case"]]
        require_apart_but_for_dates(called, "name them in a table of cases (`clinical`: caseid, subjectid)")
    if card.subset is not None:
        people = _drawn(people, card.subset)
    return [_item(s, sorted(people[s], key=lambda c: c["case"])) for s in sorted(people)]


def require_other_cases(items: Iterable[Item], job: Preparation) -> None:
    """One file, or the samples of one record, are one person's. Raises ValueError."""
    files = ((item[SUBJECT], Path(case["source"])) for item in items for case in item["cases"])
    with_samples = ((subject, file) for subject, path in files for file in sorted(samples_of([path])) or [path])
    contents = ((subject, str(file), job.digests.get(job.name(file))) for subject, file in with_samples)
    require_other_contents(contents, job.card, job.issues)


def _item(subject: str, cases: list[dict[str, Any]]) -> Item:
    """With its bytes where all its cases are files."""
    item = {SUBJECT: subject, "cases": cases}
    if any(case["source"].startswith(VITALDB) for case in cases):
        return item
    files = {Path(case["source"]) for case in cases}
    return item | {"bytes": sum(file.stat().st_size for file in files | samples_of(sorted(files)))}


def with_made_of(item: Item, job: Preparation) -> Item:
    """The item, with what its data hang on: its cases, the table's rows of them, and the content of their files. Not of
    the API's cases, nor where a file's content isn't known."""
    if "bytes" not in item:
        return item
    own = {Path(case["source"]) for case in item["cases"]}
    own |= {segment for path in own if path.suffix.lower() == ".hea" for segment in segments_of(path)}
    names = sorted(job.name(path) for path in own | samples_of(sorted(own)))
    if not job.digests.keys() >= set(names):
        return item
    cases = [[case["case"], case["clinical"]] for case in item["cases"]]
    stated = json.dumps([cases, [[name, job.digests[name]] for name in names]])
    return item | {"made_of": hashlib.sha256(stated.encode()).hexdigest()}


def _patient(card: BiosignalCard, case: str, source: str) -> str:
    """Whom the file of a case names, else the case: a person's files are one subject's."""
    if source.startswith(VITALDB):
        return case
    return card.named(Path(source)) or patient_of(Path(source)) or case


def _drawn(people: Mapping[str, list[dict[str, Any]]], subset: Subset) -> dict[str, list[dict[str, Any]]]:
    """One case, the first by name, of each of the people drawn. Raises ValueError where there are fewer people."""
    if len(people) < subset.cases:
        raise ValueError(
            f"subset of {subset.cases} cases, each of another person: the cohort has {len(people)} people; ask for "
            "fewer, or widen `cohort`"
        )
    drawn = np.random.default_rng(subset.seed).permutation(sorted(people))[: subset.cases]
    return {s: [min(people[s], key=lambda c: c["case"])] for s in drawn.tolist()}


def _selected(
    card: BiosignalCard, files: Mapping[str, str], folder: Path, issues: Issues
) -> list[tuple[str, str, dict[str, Any]]]:
    """(case, source, its row of the clinical table) of the cases that are to be read."""
    if card.clinical is None:
        sources = files if card.vitaldb is None else {c: VITALDB + c for c in map(str, card.vitaldb)}
        return [(case, source, {}) for case, source in sources.items()]
    from raycadian.modalities.biosignals import clinical
    from raycadian.modalities.biosignals.vitaldb_api import VitalDB

    tracks = list(card.waveforms.values()) if card.vitaldb == "cohort" else []  # what a case lacks is not downloaded
    available = VitalDB().tracks_of_cases() if tracks else None
    table = clinical.cohort(_clinical(card, folder, issues), card.cohort, tracks, available)
    chosen = table.index if card.vitaldb in (None, "cohort") else [str(case) for case in card.vitaldb]
    sources = {c: VITALDB + c for c in chosen} if card.vitaldb is not None else files
    named = {case: case if case in table.index else case.lstrip("0") for case in sources}  # 0012 is case 12
    if outside := [case for case, name in named.items() if name not in table.index]:
        issues.add("case not in the clinical table, or outside the cohort (left out)", outside[0], len(outside))
    if silent := set(table.index) - set(named.values()):
        issues.add("case of the cohort without a file (left out)", min(silent), len(silent))
    return [
        (case, source, clinical.row_of(table, case)) for case, source in sources.items() if named[case] in table.index
    ]


def _clinical(card: BiosignalCard, folder: Path, issues: Issues) -> pd.DataFrame:
    from raycadian.modalities.biosignals import clinical

    if card.clinical.file is not None:
        return clinical.read_clinical(folder / card.clinical.file, issues, card.clinical.case, card.clinical.subject)
    from raycadian.modalities.biosignals.vitaldb_api import VitalDB

    return VitalDB().clinical(issues)


def _name(value: Any) -> str:
    """A subject's id as text: 12, not 12.0, where the table's column is one of numbers."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def companions(card: BiosignalCard, paths: list[Path], folder: Path) -> list[Path]:
    """Files that belong to those that a card names: the samples of a WFDB header, the clinical table."""
    table = None if card.clinical is None or card.clinical.file is None else folder / card.clinical.file
    if table is not None and not table.is_file():
        raise ValueError(f"card {card.name!r}: no clinical table at {table.absolute()}; correct clinical.file")
    return sorted(samples_of(paths) | ({table} if table is not None else set()))


def is_sample(path: Path) -> bool:
    """Whether a file holds the samples of a record whose header lies beside it."""
    return path.suffix.lower() in (".dat", ".mat", ".atr", ".qrs") and path.with_suffix(".hea").is_file()


def samples_of(paths: list[Path]) -> set[Path]:
    """The files beside WFDB headers that belong to them."""
    beside = {p: p.parent.glob(f"{p.stem}*") for p in paths if p.suffix.lower() == ".hea"}
    return {q for p, files in beside.items() for q in files if q.is_file() and q != p}


def write(item: Item, blocks: BlockWriter, card: BiosignalCard) -> Row:
    """Read, clean and write a subject's cases one by one, so that memory holds one; small statistics. A case that can't
    be read is left out and counted."""
    subject, issues, kept = item[SUBJECT], Issues(), _Kept()
    pieces: list[Piece] = []
    for recording in _recordings(item, card, issues, kept):
        pieces += blocks.add(subject, "recordings", to_table([recording]))
        del recording
    for reason, n in sorted(kept.rejected.items()):
        issues.add(f"window rejected: {reason}", subject, n)
    if kept.windows and not kept.good:
        most = max(kept.rejected, key=kept.rejected.__getitem__)
        issues.add(f"person of whom every window is rejected, most for: {most} (see `quality` of the card)", subject)
    quality = {
        "cases": len(item["cases"]), "read": len(kept.marks), "windows": kept.windows, "good": kept.good,
        "rejected": kept.rejected,
    }  # fmt: skip
    row = {SUBJECT: subject, "issues": issues.as_dict(), "quality": quality}
    if not kept.marks:
        return row
    events = pd.concat(kept.events, ignore_index=True)
    pieces += blocks.add(subject, "events", events_table(events))
    pieces += blocks.add(subject, "quality", quality_table([m.judged for m in kept.marks]))
    return row | {
        "pieces": pieces,
        "sha256": kept.hash.of(events, kept.marks),
        "events": len(events),
        "observed": kept.observed,
        "judged": kept.windows,
        "attributes": [dict(m.attributes) for m in kept.marks],
        "heads": kept.heads,
    }


@dataclass
class _Kept:
    """What is kept of a subject's cases once their recordings are written."""

    marks: list[Marks] = field(default_factory=list)
    events: list[pd.DataFrame] = field(default_factory=list)
    heads: list[list[Any]] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    observed: int = 0
    windows: int = 0
    good: int = 0
    hash: ContentHash = field(default_factory=ContentHash)

    def add(self, cleaned: Cleaned) -> None:
        r = cleaned.recording
        self.marks.append(cleaned.marks)
        self.events.append(r.events)
        self.heads.append(head_of(r))
        self.observed += int(r.observed.sum())
        self.rejected += Counter(cleaned.rejected)
        reasons = list(cleaned.marks.judged.reasons.values())
        self.windows += len(reasons[0])
        self.good += int(np.logical_and.reduce([r == 0 for r in reasons]).sum())
        self.hash.add(r)


def read_item(item: Item, card: BiosignalCard, issues: Issues) -> Iterator[Recording]:
    """A subject's recordings, a case each."""
    return _recordings(item, card, issues, _Kept())


def _recordings(item: Item, card: BiosignalCard, issues: Issues, kept: _Kept) -> Iterator[Recording]:
    """Of a subject's cases as they are read. Nothing here holds one while the next is read."""
    for case in item["cases"]:
        cleaned = _cleaned(case, item[SUBJECT], card, issues, len(kept.marks))
        if cleaned is not None:
            marks = replace(cleaned.marks, attributes=item.get(ROW, {}) | cleaned.marks.attributes)
            kept.add(cleaned := replace(cleaned, marks=marks))
            yield cleaned.recording
        del cleaned


def _cleaned(
    case: dict[str, Any], subject: str, card: BiosignalCard, issues: Issues, number: int = 0
) -> Cleaned | None:
    """As the subject's recording `number`; None of a case that can't be used, which is counted. Raises ConnectionError
    where the API doesn't answer: a snapshot without that case would be reused for good; ValueError of a card with
    `most_unreadable: 0`."""
    try:
        return _read_and_clean(case["source"], subject, card, issues, number, case["clinical"])
    except ValueError as error:
        if not card.most_unreadable:
            raise
        issues.add("case that can't be used (left out)", str(error))
        return None


def _read_and_clean(
    source: str | Path, subject: str, card: BiosignalCard, issues: Issues, number: int, clinical: dict[str, Any]
) -> Cleaned:
    tracks = {**card.waveforms, **card.numerics}
    units = {c: unit for c in tracks if (unit := unit_of(c))}
    rate_hz = None if card.rate_hz is None or states_rate(source) else card.rate_hz
    case = read_case(
        source, tracks=tracks, units=units, optional=card.numerics, subject=subject, clinical=clinical, issues=issues,
        rate_hz=rate_hz,
    )  # fmt: skip
    return clean(case, card, number, issues, spend=True)


def recordings_of_person(path: Path, card: BiosignalCard, issues: Issues) -> list[Recording]:
    """The recording of the case in a file. Raises ValueError."""
    path = plain_file(path, card.sheet)
    return [_read_and_clean(path, _patient(card, case_of(path), str(path)), card, issues, 0, {}).recording]


def counts(rows: Rows, usable: Rows) -> dict[str, int]:
    """Of a snapshot of biosignals."""
    of = {name: sum(row["quality"][name] for row in rows) for name in ("cases", "read", "windows", "good")}
    hours = sum(head[-1] for row in usable for head in row["heads"]) * DT_S / 3600
    return {
        "subjects": len(usable), "subjects_without_recording": len(rows) - len(usable), "cases": of["cases"],
        "recordings": of["read"], "hours": round(hours) if hours >= 10 else round(hours, 2),
        "windows_judged": of["windows"], "windows_good": of["good"], "numerics": sum(row["events"] for row in usable),
    }  # fmt: skip
