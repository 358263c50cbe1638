"""Waveforms and numerics of a case, whatever the file: .vital, WFDB, EDF, CSV, Parquet, npz; or VitalDB's public API by
case id.

`read_case` is the door: it recognises the format by content, takes the tracks that are wanted under the names and in
the units that the caller wants, and says whose they are.
"""

import itertools
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from raycadian.data.source import open_bytes
from raycadian.modalities.biosignals.formats import edf, vital_files, waveform_tables, wfdb_records
from raycadian.modalities.biosignals.tracks import explained, find, in_unit
from raycadian.modalities.unpack import plain_file
from raycadian.types import Case, Issues, Track

Format = Literal["auto", "vital", "wfdb", "edf", "npz", "table"]
_TABLES = (".csv", ".tsv", ".txt", ".gz", ".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")  # of workbooks, the sheet as CSV
VITALDB = "vitaldb:"  # begins the name of a case of the public data set


class _Reader(NamedTuple):
    """How a format is read. `read`: of a path, the tracks that are wanted (all where None), issues; of a format that
    needn't state rates and units, also a rate and units by the tracks' names."""

    read: Callable[..., Case]
    track_names: Callable[[Path], list[str]]
    states_rate: bool = True
    patient: Callable[[Path], str] = lambda path: ""
    """Whom a file names, without reading its samples; '' for nobody."""


_READERS = {
    "vital": _Reader(vital_files.read_vital, vital_files.track_names),
    "wfdb": _Reader(wfdb_records.read_wfdb, wfdb_records.track_names),
    "edf": _Reader(edf.read_edf, edf.track_names, patient=edf.patient_of),
    "npz": _Reader(
        waveform_tables.read_npz, waveform_tables.track_names, states_rate=False, patient=waveform_tables.patient_of
    ),
    "table": _Reader(waveform_tables.read_table, waveform_tables.track_names, states_rate=False),
}


def read_case(
    source: str | Path,
    *,
    tracks: Sequence[str] | Mapping[str, str | Sequence[str]] | None = None,
    units: Mapping[str, str] | None = None,
    optional: Collection[str] = (),
    format: Format = "auto",
    rate_hz: float | None = None,
    subject: str | None = None,
    clinical: Mapping[str, Any] | None = None,
    issues: Issues | None = None,
) -> Case:
    """One case.

    source: a file, or 'vitaldb:12' for a case of the public data set (downloaded once, see vitaldb_api.py)
    tracks: names in the file ('SNUADC/ECG_II', or 'ECG_II' where one device has it), or our name -> name in the file,
        or several of which the first that the file has is taken; all tracks where None
    optional: those of our names that a case may lack
    units: of the tracks, by the names they have in the result; a track comes in that unit or is an error
    rate_hz: of a table or an archive that says none; a contradiction is an error
    subject: whose it is; else what `clinical` (subjectid), then the file itself says. '' is nobody in particular
    clinical: the case's row of the clinical table
    issues: counts what was repaired or left out
    Raises ValueError for a file that is broken or something else, for a track that is absent or empty, and for a case
    of no subject; ConnectionError where the API doesn't answer.
    """
    path, units = _local(source), units or {}
    wanted = _wanted(tracks)
    with explained(path):
        case = _read(path, format, wanted, units, rate_hz, Issues() if issues is None else issues)
    held = dict(case.tracks) if wanted is None else _named(case, wanted, optional, path, format)
    if not held:
        raise ValueError(f"{path}: no track with samples")
    held |= {n: in_unit(track, units[n], f"{path}: {n}") for n, track in held.items() if n in units}
    name = str(source).removeprefix(VITALDB) if _of_vitaldb(source) else case.case
    subject = _subject(subject, clinical, case, path)
    return replace(case, case=name, subject=subject, tracks=held, clinical=dict(clinical or {}))


def track_names(source: str | Path, format: Format = "auto") -> list[str]:
    """The names of the tracks of a file, without reading their samples where the format allows. Raises ValueError."""
    path = _local(source)
    with explained(path):
        return _READERS[detect_format(path) if format == "auto" else format].track_names(path)


def patient_of(path: Path) -> str:
    """Whom a file names (EDF's patient code, an archive's `subject`); '' for nobody, or a file that can't be read."""
    try:
        with explained(path):
            return _READERS[detect_format(path)].patient(path)
    except ValueError:
        return ""


def states_rate(source: str | Path) -> bool:
    """Whether the format of a file says its rates itself."""
    return _of_vitaldb(source) or _READERS[detect_format(Path(source))].states_rate


def detect_format(path: Path) -> Format:
    """The format of a file by its first bytes (WFDB: its header's name). Raises ValueError that says what was found."""
    if not path.is_file():
        raise ValueError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    if path.suffix.lower() in (".hea", ".mat", ".dat") and path.with_suffix(".hea").is_file():
        return "wfdb"
    try:
        with open_bytes(path) as stream:
            head = stream.read(256)
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: can't be read, truncated or corrupted: {error}") from None
    if not head.strip():
        raise ValueError(f"{path}: the file is empty")
    if head.startswith(b"VITA"):
        return "vital"
    if head.startswith((b"0       ", b"\xffBIOSEMI")):
        return "edf"
    if zipfile.is_zipfile(path) and path.suffix.lower() == ".npz":
        return "npz"
    if head.startswith(b"PAR1") or (path.suffix.lower() in _TABLES and b"\0" not in head):
        return "table"
    raise ValueError(
        f"{path}: not a format of waveforms that is known (.vital, WFDB .hea, EDF, BDF, CSV, Parquet, npz); it begins "
        f"with {head[:16]!r}. Say `format` if you know better"
    )


def _of_vitaldb(source: str | Path) -> bool:
    return isinstance(source, str) and source.startswith(VITALDB)


def _local(source: str | Path) -> Path:
    if not _of_vitaldb(source):
        return plain_file(Path(source))
    from raycadian.modalities.biosignals.vitaldb_api import VitalDB

    return VitalDB().case_file(str(source).removeprefix(VITALDB))


def _read(
    path: Path, format: Format, wanted: Mapping[str, Sequence[str]] | None, units: Mapping[str, str],
    rate_hz: float | None, issues: Issues,
) -> Case:  # fmt: skip
    if format not in get_args(Format):
        raise ValueError(f"format: expected one of {', '.join(get_args(Format))}, found {format!r}")
    format = detect_format(path) if format == "auto" else format
    reader = _READERS[format]
    names = list(itertools.chain(*wanted.values())) if wanted is not None else None
    if not reader.states_rate:
        stated = {theirs: unit for ours, unit in units.items() for theirs in (wanted or {}).get(ours, [ours])}
        return reader.read(path, names, issues, rate_hz, stated)
    if rate_hz is not None:
        raise ValueError(f"{path}: rate_hz is for tables and archives; a {format} file says its own")
    return reader.read(path, names, issues)


def _wanted(tracks: Sequence[str] | Mapping[str, str | Sequence[str]] | None) -> dict[str, list[str]] | None:
    """Our name -> the names in the file that will do."""
    if tracks is None:
        return None
    named = tracks.items() if isinstance(tracks, Mapping) else ((name, name) for name in tracks)
    return {ours: [theirs] if isinstance(theirs, str) else list(theirs) for ours, theirs in named}


def _named(
    case: Case, wanted: Mapping[str, Sequence[str]], optional: Collection[str], path: Path, format: Format
) -> dict[str, Track]:
    """The tracks under our names. Raises ValueError where one is lacking."""
    theirs = {ours: find(case.tracks, names, path) for ours, names in wanted.items()}
    absent = [" or ".join(wanted[ours]) for ours, full in theirs.items() if full is None and ours not in optional]
    if absent:
        names = track_names(path, format)
        raise ValueError(
            f"{path}: no track {', '.join(absent)} with samples; the file has {', '.join(names[:30]) or 'none'}"
        )
    return {ours: case.tracks[full] for ours, full in theirs.items() if full is not None}


def _subject(subject: str | None, clinical: Mapping[str, Any] | None, case: Case, path: Path) -> str:
    stated = subject if subject is not None else (clinical or {}).get("subjectid", case.subject or None)
    if stated is None or stated != stated:
        raise ValueError(
            f"{path}: a case without a subject; give `subject`, or a clinical table with caseid and subjectid: the "
            "split of training and test is by subject, so it has to be known whose a case is"
        )
    return str(stated)


def check_unique(cases: Iterable[tuple[str, str | Path]]) -> None:
    """Raises ValueError where two sources are one case (name, source)."""
    seen: dict[str, str | Path] = {}
    for name, source in cases:
        if name in seen:
            raise ValueError(f"{seen[name]} and {source}: both are case {name!r}; keep one, or rename one")
        seen[name] = source
