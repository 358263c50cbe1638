"""Preparing operating-room waveforms: ours against a straightforward neurokit2 pipeline, memory of a case, two
processes.

A synthetic case (neurokit2's ECG and PPG simulators, a beat-by-beat model of arterial pressure; noise, gaps, a flat
line) of three channels at 500 Hz. Both pipelines repair, resample to 125 Hz, filter, find beats, and judge the quality
of windows of 10 s, on one core, in interleaved rounds. Memory: peak of a process that does what `raycadian prepare`
does for a person, from .vital files of 3 h to Parquet, of a person with one case and of one with four.
Run: `python benchmarks/waveforms.py [--json] [--minutes 20] [--hours 3]`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from raycadian.physiology.waveforms.pipeline import prepare, windows_quality

RATE_HZ, ROUNDS, CHILD_S = 500, 3, 4.0
Case = dict[str, np.ndarray]
TRACKS = {"ecg": "SNUADC/ECG_II", "ppg": "SNUADC/PLETH", "abp": "SNUADC/ART"}
UNITS, GAINS = {"ecg": "mV", "ppg": "", "abp": "mmHg"}, {"ecg": 0.001, "ppg": 0.001, "abp": 0.02}
NUMERIC = "Solar8000/ART_MBP"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--minutes", type=int, default=20, help="length of the case that both pipelines prepare")
    parser.add_argument("--hours", type=float, default=3.0, help="length of the case whose memory is measured")
    parser.add_argument("--child", nargs=3, metavar=("WHAT", "CASE", "ARGUMENT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, case, argument = options.child
        if what == "memory":
            return print(json.dumps(memory_here(case, int(float(argument)))))
        here = {"speed": speed_here, "rate": rate_here}[what]
        return print(json.dumps(here(load(case), float(argument))))
    with tempfile.TemporaryDirectory() as folder:
        save(synthetic(options.minutes), folder)
        report = {"speed": result(child("speed", folder, ROUNDS)), "processes": processes(folder)}
        save_vital(synthetic(round(options.hours * 60)), folder)
        report["memory"] = [memory(folder, options.hours, cases) for cases in (1, 4)]
    print(json.dumps(report, indent=1) if options.json else table(report))


# --- the case ---------------------------------------------------------------------------------------------------------


def synthetic(minutes: int) -> Case:
    """ECG in mV, PPG, ABP in mmHg, at 500 Hz, float32, with what operating rooms do to them."""
    import neurokit2 as nk

    rng, n = np.random.default_rng(0), minutes * 60 * RATE_HZ
    few = {"duration": 120, "sampling_rate": RATE_HZ, "random_state": 1}
    tracks = {
        "ecg": nk.ecg_simulate(heart_rate=72, **few),
        "ppg": nk.ppg_simulate(heart_rate=72, **few),
        "abp": pressure(minutes),
    }
    noise = {"ecg": 0.02, "ppg": 0.01, "abp": 0.5}
    case = {}
    for kind, track in tracks.items():
        values = (np.resize(track, n) + rng.normal(0, noise[kind], n)).astype(np.float32)
        for start in rng.integers(0, n - 5000, minutes // 5):
            values[start : start + rng.integers(5, 3000)] = np.nan
        values[n // 2 : n // 2 + 1500] = values[n // 2]
        case[kind] = values
    return case


def pressure(minutes: int) -> np.ndarray:
    """mmHg: a systolic and a dicrotic wave a beat over a falling diastole, swinging with the breath."""
    rng = np.random.default_rng(1)
    t_s = np.arange(minutes * 60 * RATE_HZ) / RATE_HZ
    beats = np.cumsum(rng.normal(60 / 72, 0.02, int(minutes * 72 * 1.2)))
    number = np.searchsorted(beats, t_s)
    since_s = t_s - np.concatenate([[0.0], beats])[number]
    wave = 45 * np.exp(-(((since_s - 0.18) / 0.09) ** 2)) + 12 * np.exp(-(((since_s - 0.42) / 0.07) ** 2))
    return 70 + wave - 6 * since_s + 3 * np.sin(2 * np.pi * t_s / 4)


def save(case: Case, folder: str) -> None:
    for kind, values in case.items():
        np.save(Path(folder) / f"{kind}.npy", values)


def save_vital(case: Case, folder: str) -> None:
    """As integers with a gain, and a mean pressure every 2 s."""
    from raycadian.modalities.biosignals.simulate import write_vital

    tracks = {
        TRACKS[kind]: {"values": values, "unit": UNITS[kind], "rate_hz": float(RATE_HZ), "gain": GAINS[kind]}
        for kind, values in case.items()
    }
    times_s = np.arange(0, len(case["abp"]) / RATE_HZ, 2.0)
    tracks[NUMERIC] = {"values": np.full(len(times_s), 85.0), "unit": "mmHg", "times_s": times_s}
    write_vital(Path(folder) / "1.vital", tracks)


def load(folder: str) -> Case:
    return {file.stem: np.load(file) for file in sorted(Path(folder).glob("*.npy"))}


def channel_hours(case: Case) -> float:
    return sum(map(len, case.values())) / RATE_HZ / 3600


# --- speed ------------------------------------------------------------------------------------------------------------


def speed_here(case: Case, rounds: float) -> dict[str, Any]:
    """Channel-hours per second of each, the median of rounds, and the share of windows that each calls good."""
    pipelines: dict[str, Callable[[Case], float]] = {"raycadian": ours, "neurokit2": neurokit}
    for pipeline in pipelines.values():
        pipeline({kind: values[: 60 * RATE_HZ] for kind, values in case.items()})  # imports, caches
    seconds: dict[str, list[float]] = {name: [] for name in pipelines}
    good = {}
    for _ in range(int(rounds)):
        for name, pipeline in pipelines.items():
            began = time.perf_counter()
            good[name] = pipeline(case)
            seconds[name].append(time.perf_counter() - began)
    rates = {name: channel_hours(case) / float(np.median(found)) for name, found in seconds.items()}
    return {
        "channel_hours": channel_hours(case),
        "channel_hours_per_s": {name: round(rate, 3) for name, rate in rates.items()},
        "good_windows": {name: round(share, 3) for name, share in good.items()},
        "raycadian_over_neurokit2": round(rates["raycadian"] / rates["neurokit2"], 1),
        "rounds": [round(b / a, 1) for a, b in zip(seconds["raycadian"], seconds["neurokit2"], strict=True)],
    }


def ours(case: Case) -> float:
    return float(windows_quality({kind: prepare(v, RATE_HZ, kind) for kind, v in case.items()}).good.mean())


def neurokit(case: Case) -> float:
    """What its documentation suggests for each signal; arterial pressure, which it doesn't know, as a pulse wave."""
    good = [_neurokit_track(values, kind) for kind, values in case.items()]
    return float(np.logical_and.reduce(good).mean())


def _neurokit_track(values: np.ndarray, kind: str) -> np.ndarray:
    import neurokit2 as nk

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        filled = nk.signal_fillmissing(values.astype(np.float64))
        at_125 = nk.signal_resample(filled, sampling_rate=RATE_HZ, desired_sampling_rate=125, method="poly")
        if kind == "ecg":
            clean = nk.ecg_clean(at_125, sampling_rate=125)
            peaks = nk.ecg_peaks(clean, sampling_rate=125)[1]["ECG_R_Peaks"]
            quality = nk.ecg_quality(clean, rpeaks=peaks, sampling_rate=125)
        else:
            clean = nk.ppg_clean(at_125, sampling_rate=125)
            peaks = nk.ppg_peaks(clean, sampling_rate=125)[1]["PPG_Peaks"]
            quality = nk.ppg_quality(clean, peaks=peaks, sampling_rate=125)
    windows = len(clean) // 1250
    beats = np.bincount(np.asarray(peaks, int) // 1250, minlength=windows)[:windows]
    mean = np.asarray(quality, float)[: windows * 1250].reshape(windows, 1250).mean(1)
    return (beats >= 3) & (mean >= 0.5)  # averageQRS is relative: no threshold is right


# --- memory and processes ---------------------------------------------------------------------------------------------


def memory(folder: str, hours: float, cases: int) -> dict[str, float]:
    return {"hours": hours, "cases": cases} | result(child("memory", folder, cases))


def memory_here(folder: str, cases: int) -> dict[str, float]:
    """Peak of this process, in MB: before anything was read (modules), and after a person with so many cases was
    written."""
    from raycadian.data.blocks import BlockWriter
    from raycadian.modalities.biosignals.card import BiosignalCard
    from raycadian.modalities.biosignals.prepare import write

    channels = {f"{kind}_{UNITS[kind].lower()}".strip("_"): (track,) for kind, track in TRACKS.items()}
    card = BiosignalCard(name="memory", files=("1.vital",), waveforms=channels, numerics={"map_mmhg": (NUMERIC,)})
    read = [{"case": str(i), "source": str(Path(folder) / "1.vital"), "clinical": {}} for i in range(cases)]
    before = _peak_mb()
    with BlockWriter(Path(folder), 0) as blocks:
        row = write({"subject": "one", "cases": read}, blocks, card)
    assert row["quality"]["read"] == cases, row["issues"]
    return {"modules_mb": before, "peak_mb": _peak_mb()}


def _peak_mb() -> float:
    """Of this process since it began; `ru_maxrss` would also count the parent that it was forked from."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024, 1)


def processes(folder: str) -> dict[str, Any]:
    """Channel-hours per second of one process, and of two together: medians of interleaved rounds."""
    rounds = [[together(folder, n) for n in (1, 2)] for _ in range(ROUNDS)]
    one, two = np.median(rounds, axis=0).tolist()
    ratios = [round(b / a, 2) for a, b in rounds]
    return {"one": round(one, 2), "two": round(two, 2), "two_over_one": float(np.median(ratios)), "rounds": ratios}


def together(folder: str, n: int) -> float:
    begin = time.time() + 3  # all have imported by then
    return sum([result(c) for c in [child("rate", folder, begin) for _ in range(n)]])


def rate_here(case: Case, begin: float) -> float:
    ours(case)
    time.sleep(max(begin - time.time(), 0))
    began, done = time.perf_counter(), 0.0
    while time.perf_counter() - began < CHILD_S:
        ours(case)
        done += channel_hours(case)
    return done / (time.perf_counter() - began)


def child(what: str, folder: str, argument: float) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--child", what, folder, str(argument)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # figures are per core
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def result(process: subprocess.Popen[str]) -> Any:
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, process.args))} ended with {process.returncode}")
    return json.loads(said)


def table(report: dict[str, Any]) -> str:
    speed, two = report["speed"], report["processes"]
    lines = [f"{name}: {rate} channel-hours/s, {speed['good_windows'][name]:.1%} of windows "
        "good" for name, rate in speed["channel_hours_per_s"].items()]  # fmt: skip
    lines.append(f"raycadian over neurokit2: {speed['raycadian_over_neurokit2']} (rounds {speed['rounds']})")
    lines += [f"{m['hours']:g} h x 3 channels, .vital to Parquet, {m['cases']} cases of a person: peak {m['peak_mb']} "
        f"MB ({m['modules_mb']} MB are modules)" for m in report["memory"]]  # fmt: skip
    lines.append(
        f"one process {two['one']}, two {two['two']} channel-hours/s: {two['two_over_one']} times (rounds "
        f"{two['rounds']})"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
