"""Which format of biosignals a file has, and which of its tracks is which channel."""

import re
from pathlib import Path

from raycadian.modalities.biosignals.formats.waveform_tables import has_times, units_of
from raycadian.modalities.biosignals.readers import detect_format, track_names
from raycadian.modalities.guesses import Choice, Detection, Given, Guess, Question, option

_LEADS = "i|ii|iii|avr|avl|avf|v|v1|v2|v3|v4|v5|v6"
_ECG = re.compile(rf"(?:ecg|ekg|ml)?[_ ]?(?P<lead>{_LEADS})|(?:ecg|ekg)", re.IGNORECASE)
_PPG = re.compile(r"pleth|ppg", re.IGNORECASE)
_ABP = re.compile(r"art|abp|ibp|fem", re.IGNORECASE)
# monitors' numbers (VitalDB's names first), by the name of the track without its device
_NUMERICS = {
    "ART_MBP": "map_mmhg", "ABP_MBP": "map_mmhg", "MAP": "map_mmhg", "ART_SBP": "sbp_mmhg", "ABP_SBP": "sbp_mmhg",
    "ART_DBP": "dbp_mmhg", "ABP_DBP": "dbp_mmhg", "HR": "hr", "PLETH_SPO2": "spo2", "SPO2": "spo2",
}  # fmt: skip
_STATED = {"vital", "wfdb", "edf"}  # formats that state the unit of each track


def detect(path: Path, given: Given) -> Detection | None:
    """None where a file is of no format of biosignals, or is a table without a track that is called like a waveform."""
    kind = _format(path)
    if kind is None:
        return None
    tracks = track_names(path, kind)
    waveforms, numerics = channels_of(tracks)
    if waveforms or "waveforms" in given:
        return Detection.of("biosignals", kind, _choices(path, kind, tracks, waveforms, numerics, given))
    return Detection("biosignals", kind, [], [Question("waveforms", _which(tracks))]) if kind in _STATED else None


def _format(path: Path) -> str | None:
    """Raises ValueError for a file that belongs to another one."""
    if path.suffix.lower() in (".dat", ".mat") and path.with_suffix(".hea").is_file():
        raise ValueError(f"{path}: the samples of a record; name its header, {path.with_suffix('.hea')}")
    try:
        kind = detect_format(path)
    except ValueError:
        return None
    is_of_tracks = {"npz": _is_archive_of_tracks, "table": has_times}.get(kind)
    return kind if is_of_tracks is None or is_of_tracks(path) else None


def _choices(
    path: Path, kind: str, tracks: list[str], waveforms: dict[str, list[str]], numerics: dict[str, list[str]],
    given: Given,
) -> list[Choice]:  # fmt: skip
    why = "each file is a case, and each case another person, called after the file"
    subject = Guess("subject", None, False, why, "--set clinical.file=cases.csv")
    used = {name for names in (*waveforms.values(), *numerics.values()) for name in names}
    rest, how = [t for t in tracks if t not in used], option("waveforms", {"ecg_mv": ["NAME"]})
    unused = Guess("tracks", "not read", True, f"tracks without a use: {', '.join(rest[:20])}", how)
    return [
        Choice(guess=Guess("format", kind, True, "recognised by its content", "name another file")),
        _channels("waveforms", waveforms, given),
        _channels("numerics", numerics, given),
        Choice() if kind in _STATED or "waveforms" in given else _units(path, waveforms),
        Choice(guess=None if "clinical" in given else subject),
        Choice(guess=unused if rest else None),
    ]


def channels_of(tracks: list[str]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Channel -> its track, of waveforms and of numerics: the first track that is called so."""
    waveforms: dict[str, list[str]] = {}
    numerics: dict[str, list[str]] = {}
    for track in tracks:
        name = track.rpartition("/")[2]
        if channel := _waveform(name):
            waveforms.setdefault(channel, [track])
        elif channel := _NUMERICS.get(name.upper()):
            numerics.setdefault(channel, [track])
    return waveforms, numerics


def _waveform(name: str) -> str | None:
    if match := _ECG.fullmatch(name.strip()):
        return f"ecg_{match['lead'].lower()}_mv" if match["lead"] else "ecg_mv"
    if _PPG.fullmatch(name.strip()):
        return "ppg"
    return "abp_mmhg" if _ABP.fullmatch(name.strip()) else None


def _channels(field: str, channels: dict[str, list[str]], given: Given) -> Choice:
    if field in given or not channels:
        return Choice()
    how = option(field, {next(iter(channels)): ["NAME"]})
    return Choice(guess=Guess(field, channels, True, "by the names of the tracks", how))


def _which(tracks: list[str]) -> str:
    return (
        f"which track is a waveform of an ECG, a pleth or a pressure? There are {', '.join(tracks[:20]) or 'none'}: "
        f"add {option('waveforms', {'ecg_mv': ['NAME']})} (or ppg, abp_mmhg)"
    )


def _is_archive_of_tracks(path: Path) -> bool:
    import numpy as np

    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return not {"SEQN", "wear"} <= set(archive.files)


def _units(path: Path, waveforms: dict[str, list[str]]) -> Choice:
    """Of formats that needn't state a unit: asked for where a track has none and its channel needs one."""
    units = units_of(path)
    silent = [names[0] for c, names in waveforms.items() if c != "ppg" and not units.get(names[0])]
    message = (
        f"the unit of {', '.join(silent)} is not stated; if it is mV and mmHg, add {option('waveforms', waveforms)}, "
        "else write it into the name of the column: 'ABP [mmHg]'"
    )
    return Choice(question=Question("waveforms", message) if silent else None)
