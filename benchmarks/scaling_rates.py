"""Rates of one core, measured with the readers and models that the sizes of scaling.py use, and real sweeps that its
simulated schedule is checked against. Each is measured in a process of its own: one thread, a folder, a Ray of its own.
Rates are of the processor's seconds, which others on the machine change little; trials and sweeps of the clock's.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

POINTS_A_DAY = 288
WAVE_HZ = 500


@dataclass(frozen=True)
class Rates:
    """Of one core with one thread."""

    read_rows_per_s: float
    """CSV of glucose to readings, parsed and spilled."""
    grid_rows_per_s: float
    """Readings to recordings, judged, hashed and written as Parquet."""
    cma_fits_per_s: float
    train_windows_per_s: float
    """TTM 144 -> 12, d_model 64, batches of 256."""
    validate_windows_per_s: float
    predict_windows_per_s: float
    """In float64, as runs do."""
    both_cores: float
    """Training in each of two processes at once, over one alone: they share caches and memory."""
    first_trial_s: float
    """A sweep with one trial of a TTM that takes one step: Tune's own start, a process, imports."""
    next_trial_s: float
    """Each further trial of one step."""
    wave_samples_per_s: float
    """Of .vital files with three tracks at 500 Hz: read, brought to 125 Hz, cleaned, judged, written as Parquet."""
    minutes_per_s: float
    """Rows of NHANES' PAXRAW: read from XPT, wear marked, written as Parquet."""
    wave_train_windows_per_s: float
    """jobs/recipes/vitaldb_hypotension.yaml's TTM: three times 10 s of three channels at 125 Hz, batches of 128."""
    wave_predict_windows_per_s: float
    glucose_bytes_a_point: float
    """Of a snapshot's Parquet, which a node reads from shared storage."""
    wave_bytes_a_point: float


def rates() -> Rates:
    """All of them; about two minutes on a quiet machine."""
    parts = [child(part) for part in ("glucose", "trials", "waves", "minutes")]
    with ThreadPoolExecutor(2) as both:
        at_once = [found["train_windows_per_s"] for found in both.map(child, ("training", "training"))]
    measured = {name: value for part in parts for name, value in part.items()}
    share = float(np.mean(at_once)) / measured["train_windows_per_s"]
    return Rates(**measured, both_cores=min(1.0, share))


def child(part: str, *arguments: str) -> dict[str, float]:
    """What `MEASURED[part]` returns, in a process of its own."""
    command = [sys.executable, str(Path(__file__).absolute()), part, *arguments]
    print(f"measuring: {' '.join([part, *arguments])}", file=sys.stderr, flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"measuring {part} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# --- glucose ----------------------------------------------------------------------------------------------------------

CARD = """\
name: scaling
files: [scaling.csv]
unit: mg/dL
columns: {subject: subject, time: time, glucose: glucose}
"""
RECIPE = """\
name: scaling
dataset: scaling.yaml
split: {kind: time, test_fraction: 0.15, val_fraction: 0.15}
window: {context: 144, horizon: 12, stride: 3, eval_stride: 3}
model: {kind: ttm, d_model: 64}
training: {epochs: 3, batch_size: 256, early_stopping: null, device: cpu}
tuning: {space: space.yaml, trials: 8, search: random, scheduler: fifo}
tracking: {mlflow: off, tensorboard: false}
"""
SPACE = "parameters: {training.lr: {loguniform: {low: 1.0e-4, high: 1.0e-3}}}"
_SHORT = ("training.max_steps_per_epoch=40",)
_ONE_STEP = ("training.epochs=1", "training.max_steps_per_epoch=1", "window.eval_stride=144")


def glucose() -> dict[str, float]:
    from raycadian.tasks import forecast, task_of

    write_csv(people=40, days=20)
    data, read_s, grid_s = _prepare()
    rows = 40 * 20 * POINTS_A_DAY
    fitted, train, validate = _train(data, *_SHORT)
    recipe = _recipe()
    windows = task_of(recipe).windows(data, recipe, "test")
    predict = _per_s(len(windows), lambda: forecast.predict(fitted.model, windows, set()))
    hybrid = _recipe("model={kind: cma, mechanism: {kind: cma, refit_days: 2}}")
    began = time.process_time()
    mechanism = forecast.fit_mechanism_of(data, hybrid)
    fits = len(mechanism.records) / (time.process_time() - began)
    return {
        "read_rows_per_s": rows / read_s, "grid_rows_per_s": rows / grid_s, "cma_fits_per_s": fits,
        "train_windows_per_s": train, "validate_windows_per_s": validate, "predict_windows_per_s": predict,
        "glucose_bytes_a_point": _bytes_a_point(Path("snapshots")),
    }  # fmt: skip


def training() -> dict[str, float]:
    write_csv(people=40, days=20)
    data, *_ = _prepare()
    return {"train_windows_per_s": _train(data, *_SHORT)[1]}


def trials() -> dict[str, float]:
    """On a Ray of one CPU."""
    from raycadian.cluster import connect

    connect(num_cpus=1)
    write_csv(people=6, days=10)
    data, *_ = _prepare()
    more, took = 12, {}
    for n in (1, 1 + more, 1):  # the first is the warm-up
        began = time.perf_counter()
        _sweep(data, *_ONE_STEP, f"tuning.trials={n}", f"tuning.seed={len(took)}", cpus=1)
        took[n] = time.perf_counter() - began
    return {"first_trial_s": took[1], "next_trial_s": max(0.0, took[1 + more] - took[1]) / more}


def sweep(cpus: str, n_trials: int = 8) -> dict[str, float]:
    """A real sweep of short trials on a Ray of `cpus`, and what it consists of."""
    from raycadian.cluster import connect
    from raycadian.tasks import task_of

    connect(num_cpus=int(cpus))
    write_csv(people=6, days=10)
    data, *_ = _prepare()
    recipe = _recipe()
    counts = {s: len(task_of(recipe).windows(data, recipe, s)) for s in ("train", "val")}
    _sweep(data, *_ONE_STEP, "tuning.trials=1", cpus=int(cpus))  # Ray and Tune have started once
    others = psutil.cpu_percent(2.0) / 100 * psutil.cpu_count()  # while ours rest
    began = time.perf_counter()
    _sweep(data, f"tuning.trials={n_trials}", cpus=int(cpus))
    took = time.perf_counter() - began
    return {"cpus": int(cpus), "trials": n_trials, "measured_s": took, "cores_of_others": others} | counts


def write_csv(people: int, days: int) -> None:
    """A generic export: three daily rises on a random walk, 5 min apart."""
    rng, n = np.random.default_rng(0), days * POINTS_A_DAY
    hour = np.arange(n) % POINTS_A_DAY / 12
    meals = sum(60 * np.exp(-((hour - meal) ** 2) / 1.5) for meal in (8.5, 13.5, 20.0))
    walk = rng.normal(0, 3, (people, n)).cumsum(1)
    walk -= pd.DataFrame(walk.T).rolling(48, min_periods=1).mean().to_numpy().T
    glucose = np.clip(110 + meals + walk, 45, 380).round(1)
    when = np.datetime64("2026-01-05T00:00", "s") + np.arange(n) * np.timedelta64(300, "s")
    table = pd.DataFrame({
        "subject": np.repeat([f"p{i:04d}" for i in range(people)], n), "time": np.tile(when, people),
        "glucose": glucose.ravel(),
    })  # fmt: skip
    table.to_csv("scaling.csv", index=False)
    for name, text in (("scaling.yaml", CARD), ("recipe.yaml", RECIPE), ("space.yaml", SPACE)):
        Path(name).write_text(text)


def _recipe(*overrides: str) -> Any:
    from raycadian.config import load_recipe

    return load_recipe(Path("recipe.yaml"), overrides)


def _prepare() -> tuple[Any, float, float]:
    """The data, and the seconds of the two stages of `prepare`, told apart by its own progress."""
    from raycadian.modalities.prepare import prepare
    from raycadian.training.pipeline import load_data

    began, ends = time.process_time(), {}
    note = lambda stage, *_: ends.__setitem__(stage.split(" (")[0], time.process_time())  # noqa: E731
    snapshot = prepare("scaling.yaml", Path("snapshots"), note, on_ray=False)
    read, written = ends["readings read"], ends["subjects written"]
    return load_data(_recipe(), Path("snapshots"), snapshot), read - began, written - read


def _train(data: Any, *overrides: str) -> tuple[Any, float, float]:
    """Windows trained and validated per second, the first epoch left out."""
    from raycadian.tasks import task_of
    from raycadian.training.pipeline import fit_model

    recipe, steps, ends = _recipe(*overrides), {}, []
    fitted = fit_model(
        data, recipe, on_epoch=lambda metrics: ends.append(time.process_time()),
        on_step=lambda epoch, done, total: steps.setdefault(epoch, []).append((done, time.process_time())),
    )  # fmt: skip
    n_val = len(task_of(recipe).windows(data, recipe, "val"))
    epochs = [steps[epoch] for epoch in sorted(steps)][1:]
    trained = [(own[-1][0] - own[0][0]) / (own[-1][1] - own[0][1]) for own in epochs]
    validated = [n_val / (end - own[-1][1]) for own, end in zip(epochs, ends[1:], strict=True)]
    return fitted, float(np.median(trained)), float(np.median(validated))


def _sweep(data: Any, *overrides: str, cpus: int) -> Any:
    from raycadian.training.tune import sweep as tune

    runs = Path(tempfile.mkdtemp(dir="."))
    return tune(_recipe(*overrides, f"tuning.max_concurrent={cpus}"), data, runs=runs)


# --- waves and minutes ------------------------------------------------------------------------------------------------

_CASES, _CASE_MIN = 6, 40
_WAVES = """\
name: waves
dataset: cases/synthetic_cases.yaml
split: {kind: subject, test_subjects: 0.3, val_subjects: 0.4, seed: 42}
window: {kind: signal, window_s: 10, windows: 3, step_s: 10, eval_step_s: 20, past: [ecg_mv, ppg, abp_mmhg]}
task: {kind: classify, label: {kind: hypotension, channel: map_mmhg, below: 65, for_s: 60, ahead_min: 5}}
model: {kind: ttm_label, d_model: 32, layers: 2, patch_length: 50, pieces: 3, head: mlp}
training: {epochs: 3, batch_size: 128, max_steps_per_epoch: 3, early_stopping: null, device: cpu}
tracking: {mlflow: off, tensorboard: false}
"""


def waves() -> dict[str, float]:
    from raycadian.modalities.biosignals.simulate import simulate_cases
    from raycadian.modalities.prepare import prepare
    from raycadian.tasks import task_of
    from raycadian.training.pipeline import load_data

    card = simulate_cases(_CASES, _CASE_MIN, 7, Path("cases"), rate_hz=WAVE_HZ)
    Path("recipe.yaml").write_text(_WAVES)
    samples = _CASES * _CASE_MIN * 60 * WAVE_HZ * 3
    prepare(card, Path("warm"), on_ray=False)  # imports
    began = time.process_time()
    snapshot = prepare(card, Path("snapshots"), on_ray=False)
    prepared = samples / (time.process_time() - began)
    recipe = _recipe()
    data = load_data(recipe, Path("snapshots"), snapshot)
    fitted, train, _ = _train(data)
    task = task_of(recipe)
    n = sum(len(task.windows(data, recipe, split)) for split in ("val", "test"))
    predict = _per_s(n, lambda: task.predict(data, recipe, fitted.model, None), rounds=1)
    return {
        "wave_samples_per_s": prepared, "wave_train_windows_per_s": train, "wave_predict_windows_per_s": predict,
        "wave_bytes_a_point": _bytes_a_point(Path("snapshots")),
    }  # fmt: skip


def minutes() -> dict[str, float]:
    from actigraphy import write_counts

    from raycadian.modalities.prepare import prepare

    path = Path("PAXRAW_C.XPT").absolute()
    write_counts(path, 60)
    card = Path("minutes.yaml")
    card.write_text("name: minutes\nmodality: actigraphy\nfiles: [PAXRAW_C.XPT]\nmin_valid_days: 0\n")
    began = time.process_time()
    snapshot = prepare(card, Path("snapshots"), on_ray=False)
    seconds = time.process_time() - began
    points = sum(map(sum, snapshot.lengths.values()))
    return {"minutes_per_s": points / seconds}


def _bytes_a_point(folder: Path) -> float:
    """Of the snapshot in `folder`: a point of all channels."""
    from raycadian.data.snapshot import snapshots

    (snapshot,) = snapshots(folder)
    size = sum(file.stat().st_size for file in snapshot.path.rglob("*.parquet"))
    return size / sum(map(sum, snapshot.lengths.values()))


def _per_s(amount: float, work: Callable[[], Any], rounds: int = 3) -> float:
    times = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return amount / float(np.median(times))


MEASURED: dict[str, Callable[..., dict[str, float]]] = {
    "glucose": glucose, "training": training, "trials": trials, "sweep": sweep, "waves": waves, "minutes": minutes,
}  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(MEASURED[sys.argv[1]](*sys.argv[2:])))
