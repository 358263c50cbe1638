"""Rhythm and sleep of people from their recordings of activity: a row a person, a row a night, and why one lacks what.

A night is the 24 hours from noon to noon and has the date of its evening. Its sleep is the longest block (blocks.py)
whose middle lies in it; L5, M10, RA and IV are of its 24 hours. A person's IS, IV, RA, L5 and M10 are of the whole days
that were worn long enough, SRI of all minutes known twice, 24 hours apart. Minutes that were not worn are not known.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raycadian.data.source import MAX_POINTS, check_count
from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.actigraphy.readers import parts, read_part
from raycadian.modalities.base import Progress
from raycadian.modalities.cards import modality_of
from raycadian.modalities.prepare import source_files
from raycadian.modalities.unpack import unpacked
from raycadian.physiology.rhythms import scoring
from raycadian.physiology.rhythms.blocks import sleep_blocks
from raycadian.physiology.rhythms.circadian import circular_mean_h, rest_activity
from raycadian.physiology.rhythms.sleep import NIGHT_H, regularity
from raycadian.physiology.rhythms.wear import DAY_MIN, by_day
from raycadian.types import ACTIVITY_COUNTS, ACTIVITY_MIMS, ACTIVITY_WRIST, SUBJECT, Issues, Recording

CHANNELS = (ACTIVITY_COUNTS, ACTIVITY_WRIST, ACTIVITY_MIMS)
SCORINGS = ("auto", *scoring.RULES)
_OF_DEVICE = {  # format of the file -> the rule that was made for its device
    "awd": "oakley", "respironics": "oakley", "agd": "cole_kripke", "actilife": "cole_kripke",
    "minutes_counts": "cole_kripke",
}  # fmt: skip
_NOON_MIN = DAY_MIN // 2
_LEAST_WORN = 2 / 3  # of the 24 hours of a night, as GGIR asks for (16 h)
_LEAST_KNOWN = 0.8  # ours: of the 5 or 10 hours of one night that may be the least or most active
_BESIDE_MIN = 10  # ours: of a window of sleep, that have to be recorded and worn in part on both sides
_HALF = 0.5  # ours: of the days, that have to know each hour, for the least active of them
_LEAST_RECORDED = DAY_MIN - 60  # minutes of a whole day: the clock may have been set forward in it
_SLEEP = ("sleep_onset", "sleep_offset", "sleep_h", "asleep_h", "efficiency_pct")
NIGHT_COLUMNS = (
    SUBJECT, "night", *_SLEEP, "l5", "l5_onset_h", "m10", "m10_onset_h", "ra", "iv", "worn_h", "clock_change_min",
    "status",
)  # fmt: skip
PERSON_COLUMNS = (
    SUBJECT, "channel", "scoring", "days", "valid_days", "is", "iv", "ra", "l5", "l5_onset_h", "m10", "m10_onset_h",
    "sri", "nights", "sleep_onset_h", "sleep_offset_h", "sleep_h", "asleep_h", "efficiency_pct", "worn_h", "status",
)  # fmt: skip
_SHORT = {
    "interdaily_stability": "is", "intradaily_variability": "iv", "relative_amplitude": "ra", "l5": "l5",
    "l5_onset_h": "l5_onset_h", "m10": "m10", "m10_onset_h": "m10_onset_h",
}  # fmt: skip


@dataclass(frozen=True)
class Minutes:
    """One person's minutes in a row by elapsed time, across recordings and what lies between them.

    start: datetime64[m] by UTC · activity (N,), NaN where not worn or not recorded ·
    recorded (N,) bool · offset_min (N,) that the local clock is ahead of UTC.
    """

    subject: str
    channel: str
    start: np.datetime64
    activity: np.ndarray
    recorded: np.ndarray
    offset_min: np.ndarray

    @staticmethod
    def of(recordings: Sequence[Recording], paths: Sequence[Path]) -> "Minutes":
        """Raises ValueError where they don't measure activity, or not the same, or lie over one another."""
        recordings = sorted(recordings, key=lambda r: r.start_utc)
        subject, channel = recordings[0].subject, _channel(recordings, paths)
        begins = np.array([r.start_utc.astype("datetime64[m]").astype(np.int64) for r in recordings])
        ends = begins + [len(r) for r in recordings]
        _require_apart(subject, begins, ends)
        n = int(ends[-1] - begins[0])
        check_count(n, f"subject {subject!r}", MAX_POINTS, "minutes")
        activity, recorded, offset_min = np.full(n, np.nan), np.zeros(n, bool), np.zeros(n, np.int64)
        for recording, begin in zip(recordings, begins - begins[0], strict=True):
            span = slice(begin, begin + len(recording))
            activity[span] = np.where(recording.observed, recording.channels[channel], np.nan)
            recorded[span] = True
            offset_min[begin:] = recording.utc_offset_min
        return Minutes(subject, channel, np.datetime64(int(begins[0]), "m"), activity, recorded, offset_min)

    @cached_property
    def local(self) -> np.ndarray:
        """Minutes (N,) int64 of the local clock since 1970."""
        return self.start.astype(np.int64) + np.arange(len(self.activity)) + self.offset_min

    def by_local_day(self, values: np.ndarray, missing: Any, from_min: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Values (N,) by the clock, (D, 1440) from `from_min` of each day on, and the dates (D,) of the days. Of an
        hour that happens twice the second time; of one that was skipped nothing is known."""
        day, minute = np.divmod(self.local - from_min, DAY_MIN)
        grid = np.full((day.max() - day.min() + 1, DAY_MIN), missing)
        grid[day - day.min(), minute] = values
        return grid, np.arange(day.min(), day.max() + 1).astype("datetime64[D]")


def _channel(recordings: Sequence[Recording], paths: Sequence[Path]) -> str:
    measured = {name for recording in recordings for name in recording.channels}
    if len(own := [name for name in CHANNELS if name in measured]) == 1:
        return own[0]
    where = ", ".join(map(str, paths[:3]))
    if own:
        raise ValueError(
            f"{where}: {' and '.join(own)} of subject {recordings[0].subject!r}; name files of one of them"
        )
    raise ValueError(
        f"{where}: {', '.join(sorted(measured))} by the minute don't tell rest from activity; bring counts or MIMS of "
        "an actigraph. Sleep that a phone or watch recorded: `raycadian indices`"
    )


def _require_apart(subject: str, begins: np.ndarray, ends: np.ndarray) -> None:
    if (begins[1:] < ends[:-1]).any():
        at = np.datetime64(int(begins[1:][begins[1:] < ends[:-1]][0]), "m")
        raise ValueError(
            f"subject {subject!r}: two recordings at {at} UTC; keep one of the files, or give two people two ids"
        )


# --- one person -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PersonRhythm:
    """What is told of one person. person: PERSON_COLUMNS · nights: a row a night, NIGHT_COLUMNS · days (D, 1440) by the
    local clock, for a figure, on the dates (D,) · windows (W, 2) of sleep in local minutes since 1970."""

    person: dict[str, Any]
    nights: list[dict[str, Any]]
    days: np.ndarray
    dates: np.ndarray
    windows: np.ndarray


def rhythm_of(minutes: Minutes, rule: str, min_valid_hours: float) -> PersonRhythm:
    """rule: of scoring.RULES, for minutes asleep in a window."""
    windows = sleep_blocks(minutes.activity)
    asleep = scoring.RULES[rule](minutes.activity)
    nights = list(_nights(minutes, windows, asleep))
    days, dates = minutes.by_local_day(minutes.activity, np.nan)
    whole = minutes.by_local_day(minutes.recorded, False)[0].sum(1) >= _LEAST_RECORDED
    valid = whole & ((~np.isnan(days)).sum(1) >= 60 * min_valid_hours)
    about = {SUBJECT: minutes.subject, "channel": minutes.channel, "scoring": rule}
    about |= {"days": int(whole.sum()), "valid_days": int(valid.sum())}
    person = (
        about
        | _of_days(days[valid])
        | _unknown_hours(days[valid])
        | {"sri": _regularity(minutes, windows)}
        | _usual(nights)
    )
    person["worn_h"] = float(np.mean((~np.isnan(days[whole])).sum(1)) / 60) if whole.any() else np.nan
    person["status"] = _person_status(person, min_valid_hours)
    local = np.stack([minutes.local[windows[:, 0]], minutes.local[windows[:, 1] - 1] + 1], axis=1)
    return PersonRhythm({name: person[name] for name in PERSON_COLUMNS}, nights, days, dates, local)


def _of_days(days: np.ndarray, least_known: float = 1.0) -> dict[str, float]:
    """Of whole days (D, 1440); IS needs two."""
    if not len(days):
        return dict.fromkeys(_SHORT.values(), np.nan)
    values = {_SHORT[name]: float(value) for name, value in rest_activity(days, least_known).items()}
    return values | ({} if len(days) > 1 else {"is": np.nan})


def _unknown_hours(days: np.ndarray) -> dict[str, float]:
    """What isn't told where fewer than half of the days (D, 1440) know some hour: the least active may be in it."""
    known = (~np.isnan(days)).reshape(len(days), 24, -1).mean(axis=(0, 2)) if len(days) else np.ones(24)
    return dict.fromkeys(("ra", "l5", "l5_onset_h"), np.nan) if known.min() < _HALF else {}


def _regularity(minutes: Minutes, windows: np.ndarray) -> float:
    """SRI of being in a window of sleep; NaN where fewer than 24 hours are known twice."""
    state = np.where(np.isnan(minutes.activity), np.nan, 0.0)
    for begin, end in windows:
        state[begin:end] = np.where(np.isnan(state[begin:end]), np.nan, 1.0)
    by_row = by_day(state)
    known = ~np.isnan(by_row)
    return float(regularity(by_row)) if (known[1:] & known[:-1]).sum() >= DAY_MIN else np.nan


def _usual(nights: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means of the nights whose sleep is told."""
    told = [night for night in nights if not pd.isna(night["sleep_onset"])]
    usual: dict[str, Any] = {"nights": len(told)}
    for name in _SLEEP[:2]:
        hours = np.array([_hour(night[name]) for night in told], dtype=float)
        usual[f"{name}_h"] = float(circular_mean_h(hours)) if len(hours) else np.nan
    for name in _SLEEP[2:]:
        values = np.array([night[name] for night in told], dtype=float)
        usual[name] = float(np.nanmean(values)) if np.isfinite(values).any() else np.nan
    return usual


def _hour(time: np.datetime64) -> float:
    return float((time - time.astype("datetime64[D]")) / np.timedelta64(1, "m")) / 60


def _person_status(person: dict[str, Any], min_valid_hours: float) -> str:
    """ok, or why something is missing."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for name in ("is", "iv", "ra", "l5", "m10"):
        if np.isnan(person[name]):
            reasons[_why_missing(name, person, min_valid_hours)].append(name.upper())
    words = [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
    words += ["SRI: no 24 hours known twice"] if np.isnan(person["sri"]) else []
    words += [] if person["nights"] else ["sleep: no night that tells it (see the nights)"]
    return "; ".join(words) or "ok"


def _why_missing(name: str, person: dict[str, Any], min_valid_hours: float) -> str:
    if person["valid_days"] < (2 if name == "is" else 1):
        return f"whole days worn {min_valid_hours:g} h or more: {person['valid_days']}"
    return "no movement at all" if person["m10"] == 0 else "hours of the day known on fewer than half of the days"


# --- nights ---------------------------------------------------------------------------------------------------------


def _nights(minutes: Minutes, windows: np.ndarray, asleep: np.ndarray) -> Iterator[dict[str, Any]]:
    """A row a night of which anything is recorded."""
    activity, dates = minutes.by_local_day(minutes.activity, np.nan, _NOON_MIN)
    recorded = minutes.by_local_day(minutes.recorded, False, _NOON_MIN)[0].sum(1)
    of_night = (minutes.local - _NOON_MIN) // DAY_MIN
    night_of_window = of_night[(windows[:, 0] + windows[:, 1]) // 2]
    for row, date in enumerate(dates):
        if recorded[row]:
            number = date.astype(np.int64)
            own = windows[night_of_window == number]
            offsets = minutes.offset_min[of_night == number]
            known = ~np.isnan(activity[row])
            night = {SUBJECT: minutes.subject, "night": date, **_sleep_of(minutes, own, asleep)}
            night |= _of_night(activity[row]) | {"worn_h": known.sum() / 60}
            night["clock_change_min"] = int(offsets[-1] - offsets[0])
            yield _with_status(night, minutes, own, recorded[row] / 60, bool(np.nanmax(activity[row], initial=0) > 0))


def _of_night(activity: np.ndarray) -> dict[str, float]:
    """L5, M10, RA and IV of 24 hours (1440,) from noon to noon."""
    values = _of_days(activity[None], _LEAST_KNOWN)
    onsets = {name: (values[name] + 12) % 24 for name in ("l5_onset_h", "m10_onset_h")}
    return {name: value for name, value in (values | onsets).items() if name != "is"}


def _sleep_of(minutes: Minutes, windows: np.ndarray, asleep: np.ndarray) -> dict[str, Any]:
    """Of the longest window; missing where there is none of three hours."""
    missing = dict.fromkeys(_SLEEP, np.nan) | dict.fromkeys(_SLEEP[:2], np.datetime64("NaT", "m"))
    if not len(windows) or np.ptp(_longest(windows)) < 60 * NIGHT_H:
        return missing
    begin, end = _longest(windows)
    scored = asleep[begin:end]
    known = int((~np.isnan(scored)).sum())
    slept = float(np.nansum(scored)) / 60 if known else np.nan
    onset, offset = (np.datetime64(int(at), "m") for at in (minutes.local[begin], minutes.local[end - 1] + 1))
    efficiency = 100 * 60 * slept / known if known else np.nan
    return dict(zip(_SLEEP, (onset, offset, (end - begin) / 60, slept, efficiency), strict=True))


def _longest(windows: np.ndarray) -> np.ndarray:
    return windows[np.argmax(windows[:, 1] - windows[:, 0])]


def _with_status(
    night: dict[str, Any], minutes: Minutes, windows: np.ndarray, recorded_h: float, moved: bool
) -> dict[str, Any]:
    """The night with ok, or with why something is missing; sleep that can't be told is taken away."""
    reason = _no_sleep(night, minutes, windows, recorded_h, moved)
    if reason:
        night |= dict.fromkeys(_SLEEP, np.nan) | dict.fromkeys(_SLEEP[:2], np.datetime64("NaT", "m"))
    words = [f"sleep: {reason}"] if reason else []
    lacking = [name for name in ("l5", "m10", "ra", "iv") if np.isnan(night[name])]
    why = "no movement" if not moved and night["worn_h"] else f"{night['worn_h']:.1f} h known"
    words += [f"{', '.join(map(str.upper, lacking))}: {why}"] if lacking else []
    night["status"] = "; ".join(words) or "ok"
    return {name: night[name] for name in NIGHT_COLUMNS}


def _no_sleep(night: dict[str, Any], minutes: Minutes, windows: np.ndarray, recorded_h: float, moved: bool) -> str:
    """Why a night's sleep can't be told; empty where it can."""
    worn_h = night["worn_h"]
    if not worn_h:
        return "not worn"
    if not moved:
        return "no movement at all"
    if len(windows) and (cut := _cut(minutes, *_longest(windows))):
        return cut
    if pd.isna(night["sleep_onset"]):
        return f"no {NIGHT_H:g} hours at rest" if recorded_h > 23 else f"only {recorded_h:.1f} h recorded"
    if worn_h < _LEAST_WORN * recorded_h:
        return f"worn {worn_h:.1f} of {recorded_h:.1f} h"
    return ""


def _cut(minutes: Minutes, begin: int, end: int) -> str:
    """What cuts a window of sleep off at one of its ends; empty where nothing does."""
    before, after = slice(max(begin - _BESIDE_MIN, 0), begin), slice(end, end + _BESIDE_MIN)
    if begin < _BESIDE_MIN or not minutes.recorded[before].all():
        return "the recording begins in it"
    if end > len(minutes.activity) - _BESIDE_MIN or not minutes.recorded[after].all():
        return "the recording ends in it"
    taken_off = any(np.isnan(minutes.activity[beside]).all() for beside in (before, after))
    return "taken off at its beginning or end" if taken_off else ""


# --- everybody ------------------------------------------------------------------------------------------------------


def people(
    paths: list[Path], card: ActigraphyCard, issues: Issues, rule: str = "auto", progress: Progress = lambda *_: None
) -> Iterator[PersonRhythm]:
    """Each person of the files. rule: of SCORINGS. Raises ValueError."""
    if rule not in SCORINGS:
        raise ValueError(f"scoring {rule!r}: expected {', '.join(SCORINGS)}")
    for done, (kind, recordings) in enumerate(_by_person(paths, card, issues), start=1):
        own = _OF_DEVICE.get(kind, "level") if rule == "auto" else rule
        yield rhythm_of(Minutes.of(recordings, paths), own, card.min_valid_hours)
        progress("people", done, None)


def _by_person(paths: list[Path], card: ActigraphyCard, issues: Issues) -> Iterator[tuple[str, list[Recording]]]:
    """The kind of file and the recordings of each person; of NHANES's minutes one person after another, of other files,
    in which anybody may be, once all are read."""
    others: dict[str, tuple[str, list[Recording]]] = defaultdict(lambda: ("", []))
    for part in parts(paths, issues):
        if part.subject is not None:
            if part.subject not in card.exclude_subjects and (own := list(read_part(part, card, issues))):
                yield part.kind, own
            continue
        for recording in read_part(part, card, issues):
            others[recording.subject] = (part.kind, [*others[recording.subject][1], recording])
    yield from (others[subject] for subject in sorted(others))


def read_rhythms(
    card: Any, folder: Path, rule: str = "auto", progress: Progress = lambda *_: None
) -> tuple[list[PersonRhythm], Issues]:
    """Everybody of a card whose files are relative to `folder`, and what was met. Raises ValueError for a card of
    another modality, and where nobody has a recording."""
    if not isinstance(card, ActigraphyCard):
        raise ValueError(
            f"card {card.name!r} is of {card.modality}: expected recordings of activity (modality: actigraphy)"
        )
    issues, modality = Issues(), modality_of(card)
    paths = unpacked(source_files(card, folder), card, lambda path: modality.fits(path, card), issues)
    everybody = list(people(paths, card, issues, rule, progress))
    if not everybody:
        raise ValueError(f"card {card.name!r}: nobody has a recording that can be used ({dict(issues.counts)})")
    return everybody, issues


def tables(everybody: Sequence[PersonRhythm]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row a person and a row a night."""
    persons = pd.DataFrame([one.person for one in everybody], columns=list(PERSON_COLUMNS))
    nights = pd.DataFrame([night for one in everybody for night in one.nights], columns=list(NIGHT_COLUMNS))
    return persons, nights
