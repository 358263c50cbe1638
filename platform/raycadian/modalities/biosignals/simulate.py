"""Synthetic operations with planted hypotension, as .vital files with a clinical table and a card: data with known
labels.

Beats are neurokit2's (ECGSYN, McSharry et al. 2003, and its PPG), repeated at a changing heart rate. The arterial pulse
is that of a two-element windkessel (Frank 1899), driven by half a sine of ejection: mean pressure = output x
resistance, and the pulse flattens or steepens with the time constant resistance x compliance. Before most episodes
resistance or output declines for minutes while the heart speeds up, as the baroreflex has it; some come at once, and
some declines turn before they are low: so an onset can be foretold, but not always. Nobody's data: cases, subjects and
files are called synthetic.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from raycadian.files import new_folder

STEP_S = 0.25  # of what changes slowly
EPOCH_S = 4_102_444_800.0  # 2100-01-01, where VitalDB's own anonymised files begin
KINDS = ("vasodilation", "low output", "abrupt", "decline without hypotension")
_SHARES = (0.4, 0.25, 0.1, 0.25)
_LOW_MMHG = 54.0  # planted; the label's threshold is 65
_TWO_CASES = 0.2  # share of subjects who are operated twice
_PHASES = 512


@dataclass(frozen=True)
class SimulatedPerson:
    """What stays the same in all operations of a subject."""

    map_mmhg: float
    heart_rate: float
    ecg_mv: np.ndarray  # (_PHASES,) one beat from R to R, R = 1 mV
    ppg: np.ndarray  # (_PHASES,) one beat from foot to foot, 0 to 1
    gain_mv: float
    tau_s: float  # the windkessel's time constant at rest
    reflex: float  # relative rise of the heart rate for a relative fall of pressure


@dataclass(frozen=True)
class Episode:
    """What was planted: the pressure is below 65 mmHg from begin to end (or nearly, where `kind` says it is not)."""

    kind: str
    ramp_s: float  # when the decline begins
    begin_s: float
    end_s: float


def simulate_cases(
    n_cases: int,
    minutes: float,
    seed: int,
    out: Path,
    rate_hz: float = 125.0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a new folder `out` of synthetic .vital files, their clinical table, what was planted, and a card; the
    card's path.

    The same (n_cases, minutes, seed, rate_hz) give the same signals. The folder appears whole or not at all. Raises
    ValueError.
    """
    if not (n_cases >= 1 and 10 <= minutes <= 600 and seed >= 0 and 50 <= rate_hz <= 1000):
        raise ValueError(
            f"expected at least 1 case of 10 to 600 minutes at 50 to 1000 Hz and a seed from 0; found {n_cases} cases "
            f"of {minutes:g} minutes at {rate_hz:g} Hz, seed {seed}"
        )
    out = Path(out)
    if out.exists():
        raise ValueError(f"{out}: is there already; choose a new folder")
    with new_folder(out) as built:
        _write_all(built, n_cases, minutes, seed, rate_hz, progress)
        (built / "synthetic_cases.yaml").write_text(_card_text(n_cases, minutes, seed, rate_hz), encoding="utf-8")
    return out / "synthetic_cases.yaml"


def subjects_of(n_cases: int, seed: int) -> list[int]:
    """The subject's number of each case: some have two."""
    rng = np.random.default_rng([seed, 1])
    subjects: list[int] = []
    while len(subjects) < n_cases:
        person = subjects[-1] + 1 if subjects else 1
        subjects += [person] * (2 if rng.random() < _TWO_CASES else 1)
    return subjects[:n_cases]


def _write_all(
    folder: Path, n_cases: int, minutes: float, seed: int, rate_hz: float, progress: Callable[[int, int], None] | None
) -> None:
    import pandas as pd

    clinical, planted = [], []
    for i, subject in enumerate(subjects_of(n_cases, seed), start=1):
        case = f"synthetic-{i:04d}"
        person = make_person(np.random.default_rng([seed, 2, subject]))
        rng = np.random.default_rng([seed, 3, i])
        tracks, episodes = make_case(person, minutes * 60, rate_hz, rng)
        write_vital(folder / f"{case}.vital", tracks)
        clinical.append({"caseid": case, "subjectid": f"synthetic-s{subject:04d}", **_clinical(person, subject, seed)})
        planted += [{"caseid": case, **vars(episode)} for episode in episodes]
        if progress:
            progress(i, n_cases)
    pd.DataFrame(clinical).to_csv(folder / "synthetic_clinical.csv", index=False)
    columns = ["caseid", "kind", "ramp_s", "begin_s", "end_s"]
    pd.DataFrame(planted, columns=columns).round(1).to_csv(folder / "synthetic_episodes.csv", index=False)


def write_vital(path: Path, tracks: dict[str, dict[str, Any]]) -> None:
    """A .vital file by the package vitaldb: waves as integers with a gain, as a monitor stores them; NaN = not
    recorded.

    tracks: name -> {values, unit, rate_hz, gain} or {values, unit, times_s}
    """
    from vitaldb.utils import VitalFile

    file = VitalFile()
    file.dgmt, file.dtstart = 0, EPOCH_S
    file.dtend = EPOCH_S + max(
        t["times_s"][-1] if "times_s" in t else len(t["values"]) / t["rate_hz"] for t in tracks.values()
    )
    for name, track in tracks.items():
        if "times_s" in track:
            records = zip(track["times_s"].tolist(), track["values"].tolist(), strict=True)
            file.add_track(name, [{"dt": EPOCH_S + t, "val": v} for t, v in records if v == v], unit=track["unit"])
            continue
        made = file.add_track(name, _records(track), srate=track["rate_hz"], unit=track["unit"])
        made.fmt, made.gain = 5, track["gain"]  # 16-bit integers
    file.to_vital(str(path), compresslevel=1)


def _records(track: dict[str, Any]) -> list[dict[str, Any]]:
    """Stretches without NaN, as stored."""
    values, rate_hz = track["values"], track["rate_hz"]
    there = np.isfinite(values).astype(np.int8)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], there, [0]])))
    stored = np.clip(np.round(np.nan_to_num(values) / track["gain"]), -32_767, 32_767).astype(np.int16)
    return [{"dt": EPOCH_S + a / rate_hz, "val": stored[a:b]} for a, b in zip(edges[::2], edges[1::2], strict=True)]


# --- a person and an operation -------------------------------------------------------------------------------------


def make_person(rng: np.random.Generator) -> SimulatedPerson:
    return SimulatedPerson(
        map_mmhg=rng.uniform(76, 98),
        heart_rate=rng.uniform(55, 85),
        ecg_mv=_ecg_beat(rng.uniform(0.4, 1.1), rng.uniform(0.6, 1.3), rng.uniform(0.5, 1.5)),
        ppg=_ppg_beat(int(rng.integers(1, 50))),
        gain_mv=rng.uniform(0.6, 1.5),
        tau_s=rng.uniform(0.6, 1.3),
        reflex=rng.uniform(0.3, 1.1),
    )


def make_case(
    person: SimulatedPerson, length_s: float, rate_hz: float, rng: np.random.Generator
) -> tuple[dict[str, dict[str, Any]], list[Episode]]:
    """The tracks of one operation (as `write_vital` takes them), and what was planted in it."""
    slow_s = np.arange(0, length_s, STEP_S)
    episodes = _plant(length_s, rng)
    resistance, output = _wander(len(slow_s), 90, 0.03, rng), _wander(len(slow_s), 60, 0.02, rng)
    for episode in episodes:
        resistance, output = _lowered(person, episode, slow_s, resistance, output, rng)
    pressure = person.map_mmhg * np.exp(resistance + output)
    rate = _heart_rate(person, pressure, slow_s, rng)
    time_s = np.arange(int(length_s * rate_hz)) / rate_hz
    breath = np.sin(2 * np.pi * time_s / rng.uniform(3.5, 5.5))
    beats = np.interp(time_s, slow_s, np.concatenate([[0], np.cumsum(rate[:-1] / 60 * STEP_S)])) + 0.01 * breath
    held = {name: np.interp(time_s, slow_s, of) for name, of in (("r", resistance), ("q", output), ("hr", rate))}
    waves = {
        "SNUADC/ECG_II": _ecg(person, beats, held, breath, rng),
        "SNUADC/PLETH": _ppg(person, beats, held, breath, rng),
        "SNUADC/ART": _abp(person, beats, held, breath, rng),
    }
    numerics = _numerics(pressure, rate, waves["SNUADC/ART"], slow_s, rate_hz, rng)
    _disturb(waves, numerics, length_s, rate_hz, rng)
    units = {"SNUADC/ECG_II": ("mV", 0.001), "SNUADC/PLETH": ("", 0.01), "SNUADC/ART": ("mmHg", 0.02)}
    tracks: dict[str, dict[str, Any]] = {
        name: {"values": wave, "unit": units[name][0], "gain": units[name][1], "rate_hz": rate_hz}
        for name, wave in waves.items()
    }
    return tracks | numerics, episodes


def _plant(length_s: float, rng: np.random.Generator) -> list[Episode]:
    """Episodes one after another, minutes apart; a case may have none."""
    episodes: list[Episode] = []
    free = rng.uniform(120, 600)
    while True:
        kind = str(rng.choice(KINDS, p=_SHARES))
        ramp = 30.0 if kind == "abrupt" else rng.uniform(240, 720)
        begin = free + rng.exponential(400) + ramp
        end = begin + rng.uniform(90, 300)
        if end + 180 > length_s:
            return episodes
        episodes.append(Episode(kind, begin - ramp, begin, end))
        free = end + 240


def _lowered(
    person: SimulatedPerson,
    episode: Episode,
    slow_s: np.ndarray,
    resistance: np.ndarray,
    output: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Resistance and output (logarithms) with an episode in them: a decline, a plateau, and a recovery as drugs act."""
    low = rng.uniform(72, 76) if episode.kind == KINDS[3] else rng.uniform(_LOW_MMHG - 4, _LOW_MMHG + 4)
    depth = np.log(low / person.map_mmhg)
    threshold = np.log(64 / person.map_mmhg)  # reached at the begin
    at = [episode.ramp_s, episode.begin_s, episode.begin_s + 25, episode.end_s, episode.end_s + 120]
    path = np.interp(slow_s, at, [0, max(depth, threshold), depth, max(depth, threshold), 0], left=0, right=0)
    bend = rng.uniform(0.8, 1.8)  # early or late in the ramp
    falling = (slow_s > episode.ramp_s) & (slow_s < episode.begin_s)
    path[falling] = (
        max(depth, threshold) * ((slow_s[falling] - episode.ramp_s) / (episode.begin_s - episode.ramp_s)) ** bend
    )
    steady = 1 - 0.8 * np.clip(path / min(threshold, -0.05), 0, 1) ** 4  # what wanders must not lift a planted episode
    share = {"vasodilation": 0.85, "low output": 0.15}.get(episode.kind, rng.uniform(0.2, 0.8))
    return resistance * steady + share * path, output * steady + (1 - share) * path


def _heart_rate(
    person: SimulatedPerson, pressure: np.ndarray, slow_s: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Beats a minute: a baseline that wanders, and the baroreflex with a lag of some 20 s."""
    from scipy.signal import lfilter

    keep = np.exp(-STEP_S / 20)
    fall = lfilter([1 - keep], [1, -keep], np.log(person.map_mmhg / pressure))
    wandering = _wander(len(slow_s), 200, 0.06, rng) + _wander(len(slow_s), 8, 0.01, rng)
    return np.clip(person.heart_rate * np.exp(wandering + person.reflex * fall), 40, 150)


def _wander(n: int, seconds: float, sd: float, rng: np.random.Generator) -> np.ndarray:
    """An Ornstein-Uhlenbeck process (n,) with this correlation time and standard deviation."""
    from scipy.signal import lfilter

    keep = np.exp(-STEP_S / seconds)
    noise = rng.normal(0, sd * np.sqrt(1 - keep**2), n)
    noise[0] = rng.normal(0, sd)
    return lfilter([1.0], [1, -keep], noise)


# --- waves ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _ecg_beat(t_wave: float, p_wave: float, s_wave: float) -> np.ndarray:
    """One beat of ECGSYN from R to R, R = 1."""
    import neurokit2 as nk
    from scipy.signal import find_peaks

    heights = (1.2 * p_wave, -5, 30, -7.5 * s_wave, 0.75 * t_wave)
    wave = nk.ecg_simulate(
        duration=6, sampling_rate=250, heart_rate=60, method="ecgsyn", noise=0, random_state=1, ai=heights
    )
    for share in (0.6, 0.4):  # ECGSYN's steps miss the tip of some R waves by up to half their height
        peaks = find_peaks(wave, height=share * wave.max(), distance=150)[0]
        if len(peaks) > 3:
            break
    wave = wave[peaks[2] : peaks[3] + 1]
    wave = wave - np.median(wave)
    return np.interp(np.linspace(0, 1, _PHASES), np.linspace(0, 1, len(wave)), wave / wave[0])


@lru_cache(maxsize=64)
def _ppg_beat(seed: int) -> np.ndarray:
    """One beat of neurokit2's PPG from foot to foot, 0 to 1."""
    import neurokit2 as nk
    from scipy.signal import find_peaks

    still = {"frequency_modulation": 0, "ibi_randomness": 0, "motion_amplitude": 0, "powerline_amplitude": 0}
    wave = nk.ppg_simulate(duration=6, sampling_rate=250, heart_rate=60, random_state=seed, **still)
    feet = find_peaks(-wave, prominence=0.3)[0]
    wave = wave[feet[1] : feet[2] + 1]
    wave = (wave - wave.min()) / np.ptp(wave)
    return np.interp(np.linspace(0, 1, _PHASES), np.linspace(0, 1, len(wave)), wave)


@lru_cache(maxsize=1)
def _pulses() -> tuple[np.ndarray, np.ndarray]:
    """Windkessel pulses (16, _PHASES) of mean 1, and time constants in beats (16,): dP/dt = Q - P/tau when steady."""
    from scipy.signal import lfilter

    taus = np.geomspace(0.4, 4.0, 16)
    phase = np.arange(_PHASES) / _PHASES
    flow = np.where(phase < 0.35, np.sin(np.pi * phase / 0.35), 0)
    pulses = []
    for tau in taus:
        keep = np.exp(-1 / (_PHASES * tau))
        beat = lfilter([1.0], [1, -keep], np.tile(flow, 60))[-_PHASES:]
        beat = beat / beat.mean()
        pulses.append(beat - 0.05 * np.ptp(beat) * np.exp(-(((phase - 0.38) / 0.02) ** 2)))  # the valve closes
    pulses = np.array(pulses)
    return pulses / pulses.mean(axis=1, keepdims=True), taus


def _ecg(
    person: SimulatedPerson, beats: np.ndarray, held: dict, breath: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """mV. From R to the end of T with the root of the beat's length (Bazett), what follows with its end."""
    length = 60 / held["hr"]  # s; the beat of ECGSYN lasts 1 s
    phase = beats % 1
    after = phase * np.sqrt(length)
    at = np.where(phase < 0.6, np.minimum(after, 0.65), np.maximum(1 - (1 - phase) * length, 0.65))
    wave = np.interp(at % 1, np.linspace(0, 1, _PHASES), person.ecg_mv)
    baseline = 0.05 * breath + _fast_wander(len(beats), 0.05, rng)
    return (person.gain_mv * (1 + 0.03 * breath) * wave + baseline + rng.normal(0, 0.012, len(beats))).astype(
        np.float32
    )


def _ppg(
    person: SimulatedPerson, beats: np.ndarray, held: dict, breath: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Of no unit. Dilated vessels pulse more, a lower output less."""
    delay = 0.22 * held["hr"] / 60  # beats
    wave = np.interp((beats - delay) % 1, np.linspace(0, 1, _PHASES), person.ppg)
    height = 18 * np.exp(-0.9 * held["r"] + 0.7 * held["q"] + _fast_wander(len(beats), 0.15, rng))
    drift = 45 + 2 * breath + 4 * _fast_wander(len(beats), 0.5, rng)
    return (drift + height * wave + rng.normal(0, 0.25, len(beats))).astype(np.float32)


def _abp(
    person: SimulatedPerson, beats: np.ndarray, held: dict, breath: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """mmHg. Breathing moves the pulse more when the output is low."""
    from scipy.ndimage import map_coordinates

    pulses, taus = _pulses()
    tau = np.clip(person.tau_s * np.exp(held["r"]) * held["hr"] / 60, taus[0], taus[-1])
    row = np.log(tau / taus[0]) / np.log(taus[-1] / taus[0]) * (len(taus) - 1)
    phase = (beats - 0.15 * held["hr"] / 60) % 1 * _PHASES
    pulse = map_coordinates(np.column_stack([pulses, pulses[:, :1]]), [row, phase], order=1)
    mean = person.map_mmhg * np.exp(held["r"] + held["q"])
    swing = 1 + (0.06 - 0.25 * np.minimum(held["q"], 0)) * breath
    return (mean * (1 + (pulse - 1) * swing) + rng.normal(0, 0.4, len(beats))).astype(np.float32)


def _fast_wander(n: int, sd: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth curve (n,) through random points."""
    points = rng.normal(0, sd, max(4, n // 2000))
    return np.interp(np.linspace(0, len(points) - 1, n), np.arange(len(points)), points)


def _numerics(
    pressure: np.ndarray,
    rate: np.ndarray,
    abp: np.ndarray,
    slow_s: np.ndarray,
    rate_hz: float,
    rng: np.random.Generator,
) -> dict[str, dict[str, Any]]:
    """What the monitor shows every 2 s: of the 8 s before, in whole numbers."""
    from scipy.ndimage import maximum_filter1d, minimum_filter1d

    times = np.arange(8, slow_s[-1], 2.0)
    smooth = np.convolve(pressure, np.ones(32) / 32)[: len(pressure)]
    each = int(1.5 * rate_hz)
    at = np.minimum((times * rate_hz).astype(int), len(abp) - 1)
    shown = {
        "Solar8000/ART_MBP": (np.interp(times, slow_s, smooth) + rng.normal(0, 0.7, len(times)), "mmHg"),
        "Solar8000/ART_SBP": (maximum_filter1d(abp, each)[at], "mmHg"),
        "Solar8000/ART_DBP": (minimum_filter1d(abp, each)[at], "mmHg"),
        "Solar8000/HR": (np.interp(times, slow_s, rate), "/min"),
    }
    return {
        name: {"values": np.round(values), "unit": unit, "times_s": times} for name, (values, unit) in shown.items()
    }


def _disturb(
    waves: dict[str, np.ndarray],
    numerics: dict[str, dict[str, Any]],
    length_s: float,
    rate_hz: float,
    rng: np.random.Generator,
) -> None:
    """What happens in an operating room, in place: a flushed line, a moved finger, a cautery, a lead that comes off."""

    def stretch(seconds: float) -> tuple[float, slice]:
        begin = rng.uniform(0, length_s - seconds)
        return begin, slice(int(begin * rate_hz), int((begin + seconds) * rate_hz))

    if rng.random() < 0.5:  # flushed: the pressure of the bag
        seconds = rng.uniform(8, 20)
        begin, at = stretch(seconds)
        waves["SNUADC/ART"][at] = 290
        for name in ("Solar8000/ART_MBP", "Solar8000/ART_SBP", "Solar8000/ART_DBP"):
            times = numerics[name]["times_s"]
            numerics[name]["values"][(times >= begin) & (times < begin + seconds)] = 290
    for name, sd in (("SNUADC/PLETH", 12.0), ("SNUADC/ECG_II", 0.8)):
        for _ in range(rng.poisson(length_s / 1200)):
            at = stretch(rng.uniform(5, 25))[1]
            waves[name][at] += rng.normal(0, sd, len(waves[name][at])).astype(np.float32)
    if rng.random() < 0.3:
        waves[str(rng.choice(list(waves)))][stretch(rng.uniform(10, 40))[1]] = np.nan


# --- tables and the card -------------------------------------------------------------------------------------------


def _clinical(person: SimulatedPerson, subject: int, seed: int) -> dict[str, Any]:
    """A row without any of the outcome in it: age and the rest are drawn apart from the episodes."""
    rng = np.random.default_rng([seed, 4, subject])
    age = int(rng.integers(22, 95))
    return {
        "age": ">89" if age > 89 else age,
        "sex": str(rng.choice(["F", "M"])),
        "asa": int(rng.choice([1, 2, 3], p=[0.3, 0.5, 0.2])),
        "emop": int(rng.random() < 0.1),
        "department": "General surgery",
        "optype": str(rng.choice(["Colorectal", "Stomach", "Breast"])),
        "preop_map": round(person.map_mmhg + rng.normal(0, 5)),
    }


def _card_text(n_cases: int, minutes: float, seed: int, rate_hz: float) -> str:
    from raycadian.modalities.biosignals.card import BiosignalCard

    card = BiosignalCard.model_validate(
        {
            "name": "synthetic_cases",
            "description": (
                f"{n_cases} synthetic operations of {minutes:g} minutes with planted hypotension at {rate_hz:g} Hz: "
                "neurokit2's ECG and PPG, a windkessel's arterial pressure. No real person's data; figures on it say "
                f"nothing about patients. Made by simulate_cases({n_cases}, {minutes:g}, seed={seed}, "
                f"rate_hz={rate_hz:g})"
            ),
            "files": ["*.vital"],
            "waveforms": {"ecg_mv": ["SNUADC/ECG_II"], "ppg": ["SNUADC/PLETH"], "abp_mmhg": ["SNUADC/ART"]},
            "numerics": {"map_mmhg": ["Solar8000/ART_MBP"]},
            "clinical": {"file": "synthetic_clinical.csv", "keep": ["age", "sex", "asa", "optype"]},
            "license": "Apache-2.0",
            "source": "made by raycadian with neurokit2 (MIT) and vitaldb (MIT)",
            "citation": (
                "McSharry PE, Clifford GD, Tarassenko L, Smith LA. A dynamical model for generating synthetic "
                "electrocardiogram signals. IEEE Trans Biomed Eng 2003;50(3):289-294. Makowski D et al. NeuroKit2. "
                "Behav Res Methods 2021."
            ),
        }
    )
    return card.as_yaml(exclude_defaults=True)
