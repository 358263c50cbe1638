"""Time and cost of three sizes that this machine can't hold: rates measured here, in a simulated schedule
(schedule.py).

    python benchmarks/scaling.py [--json] [--update-docs]

Measures the rates of one core with the product's own code, checks the simulation against real sweeps on 1 and 2 CPUs in
the same run, then simulates. `--update-docs` writes the tables between the marks of docs/concepts/scaling.md. Prices,
sizes and what clouds do are the assumptions below, to be edited. About three minutes.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from between import markdown, write_between
from schedule import Outcome, Pool, Storage, Task, chain, simulate

DOCS = Path(__file__).parents[1] / "docs" / "concepts" / "scaling.md"
BEGIN, END = "<!-- scaling -->", "<!-- /scaling -->"
SHARED = Path(__file__).parents[2] / "shared" / "data"
POINTS_A_DAY = 288
TEST, VAL = 0.15, 0.15  # shares of the windows


@dataclass(frozen=True)
class Assumptions:
    """Not measured here: edit them. Prices in USD as of `date`, of no particular seller."""

    date: str = "2026-11"
    node_per_h: float = 0.40
    """8 vCPU, 32 GB, on demand."""
    spot_node_per_h: float = 0.16
    head_per_h: float = 0.20
    """4 vCPU, 16 GB, on demand."""
    node_cores: int = 8
    nodes: int = 16
    interruptions_per_h: float = 0.05
    """Of each spot node."""
    start_s: float = 180.0
    """Node asked for until Ray takes work, from an image with everything installed."""
    autoscaler_s: float = 5.0
    idle_s: float = 300.0
    """As cluster.yaml says."""
    bucket_gb_per_s: float = 2.0
    bucket_reader_gb_per_s: float = 0.1
    archive_gb_per_s: float = 0.1
    """VitalDB's and NHANES' own servers."""
    archive_reader_gb_per_s: float = 0.01
    ddp_efficiency: float = 0.8
    """Of each worker, against one alone: the project's own target for two."""
    csv_bytes_a_row: float = 40.0
    series_bytes_a_point: float = 9.0
    vital_bytes_a_sample: float = 1.2
    """Of a compressed .vital file, for each sample of the tracks that are read."""
    asha_reduction: int = 3


@dataclass(frozen=True)
class Rates:
    """Of one core with one thread."""

    read_rows_per_s: float
    """CSV to readings, parsed and spilled: what `prepare` does in its driver."""
    grid_rows_per_s: float
    """Readings to recordings, measured, hashed and written as Parquet: one subject a task."""
    cma_fits_per_s: float
    train_windows_per_s: float
    """TTM 144 -> 12, d_model 64, batches of 256."""
    validate_windows_per_s: float
    predict_windows_per_s: float
    """In float64, as runs do."""
    first_trial_s: float
    """A sweep with one trial that computes nothing: Tune's own start, a process, imports."""
    next_trial_s: float
    """Each further trial that computes nothing."""
    standin_train_windows_per_s: float
    """TTM 512 -> 96, d_model 192, batches of 64: stands in for a model of biosignals, which doesn't exist yet."""
    standin_samples_per_s: float
    """Samples at 500 Hz unpacked (gzip) and brought to 125 Hz by scipy: stands in for the reader of VitalDB."""
    standin_xpt_values_per_s: float
    """Values of NHANES' XPT files read by pandas: stands in for the reader of NHANES."""


# --- sizes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    name: str
    what: str
    tasks: Callable[[Rates, Pool], list[Task]]
    pool: Pool
    storage: Storage
    delay_s: float
    head_per_h: float


def sizes(a: Assumptions) -> list[Size]:
    cloud = Pool(a.node_cores, a.nodes, 0, a.spot_node_per_h, a.start_s, a.idle_s, a.interruptions_per_h)
    bucket = Storage(a.bucket_gb_per_s, a.bucket_reader_gb_per_s)
    archive = Storage(a.archive_gb_per_s, a.archive_reader_gb_per_s)
    return [
        Size(
            "200 patients on a "
            "laptop", "90 days each; 16 trials of 4 epochs, then 10 epochs on 8 workers; stride 15 min",
            lambda r, pool: cgm(a, r, pool, people=200, days=90, stride=3, trials=16, epochs=4, final=10),
            Pool(cores=8, most=1, least=1), Storage(gb_per_s=1, reader_gb_per_s=0.5), 0.0, 0.0,
        ),
        Size(
            "10,000 patient-years of "
            "CGM", "10,000 people, 1 year; 32 trials of 9 epochs on a 20th, then 3 epochs on all cores; stride 1 h",
            lambda r, pool: cgm(a, r, pool, people=10_000, days=365, stride=12, trials=32, epochs=9, final=3,
            sample=0.05),
            cloud, bucket, a.autoscaler_s, a.head_per_h,
        ),
        Size(
            "all of VitalDB and "
            "NHANES", "6,388 cases of three tracks at 500 Hz; 5 cycles of actigraphy; stand-in training",
            lambda r, pool: biosignals(a, r, pool), cloud, archive, a.autoscaler_s, a.head_per_h,
        ),
    ]  # fmt: skip


def cgm(
    a: Assumptions, rates: Rates, pool: Pool, *,
    people: int, days: int, stride: int, trials: int, epochs: int, final: int, sample: float = 1.0,
) -> list[Task]:  # fmt: skip
    """Prepare, sweep a hybrid by ASHA on a `sample` of the windows, train the best on all cores, predict."""
    rows, windows = people * days * POINTS_A_DAY, people * days * POINTS_A_DAY // stride
    fits_s = people * days / 7 / rates.cma_fits_per_s  # refits each week
    series_gb = rows * a.series_bytes_a_point / 1e9
    epoch_s = windows * ((1 - TEST - VAL) / rates.train_windows_per_s + VAL / rates.validate_windows_per_s)
    workers = pool.cores * pool.most
    groups = min(people, 2000)  # subjects in so many tasks: the same work, fewer events
    share = Task(epoch_s / workers / a.ddp_efficiency, stage="train", checkpoint_s=epoch_s)
    return chain([
        [Task(rows / rates.read_rows_per_s, rows * a.csv_bytes_a_row / 1e9, stage="read files")],
        [Task(rows / groups / rates.grid_rows_per_s, stage="grid and write")] * groups,
        sweep_tasks(a, rates, trials, epochs, epoch_s * sample, fits_s, series_gb),
        [Task(fits_s, series_gb, stage="fit the CMA")],
        *[[share] * workers for _ in range(final)],
        [Task(windows * (TEST + VAL) / rates.predict_windows_per_s, stage="predict")],
    ])  # fmt: skip


def sweep_tasks(
    a: Assumptions, rates: Rates, trials: int, epochs: int, epoch_s: float, fixed_s: float = 0.0, read_gb: float = 0.0
) -> list[Task]:
    return [
        Task(rates.next_trial_s + fixed_s + n * epoch_s, read_gb, checkpoint_s=epoch_s, stage="sweep")
        for n in asha_epochs(trials, epochs, a.asha_reduction)
    ]


def asha_epochs(trials: int, epochs: int, reduction: int) -> list[int]:
    """Epochs of each trial where at each rung (1, r, r^2, ...) one of r goes on."""
    lengths, rung, left = [1] * trials, reduction, trials // reduction
    while rung <= epochs and left:
        lengths[:left] = [rung] * left
        rung, left = rung * reduction, left // reduction
    survivors = max(1, lengths.count(max(lengths)) // reduction)
    lengths[:survivors] = [epochs] * survivors
    return lengths


CYCLES = {  # people x days of minutes x columns of the physical activity monitor's file: from memory, edit them
    "PAXRAW_C (2003-04)": (7176, 7, 8), "PAXRAW_D (2005-06)": (7455, 7, 9), "PAXMIN_G (2011-12)": (6917, 9, 12),
    "PAXMIN_H (2013-14)": (7776, 9, 12), "PAXMIN_Y (2012, children)": (1477, 9, 12),
}  # fmt: skip


def biosignals(a: Assumptions, rates: Rates, pool: Pool) -> list[Task]:
    """Prepare both archives, sweep and train a stand-in on a window each 30 s of VitalDB."""
    samples = case_hours() * 3600 * 500 * 3
    workers = pool.cores * pool.most
    minutes = np.array([people * days * 1440 * columns for people, days, columns in CYCLES.values()])
    epoch_s = case_hours().sum() * 3600 / 30 / rates.standin_train_windows_per_s
    prepare = [Task(n / rates.standin_xpt_values_per_s, n * 8 / 1e9, stage="prepare") for n in minutes]
    prepare += [
        Task(n / rates.standin_samples_per_s, n * a.vital_bytes_a_sample / 1e9, stage="prepare") for n in samples
    ]
    share = Task(epoch_s / workers / a.ddp_efficiency, stage="train", checkpoint_s=epoch_s)
    return chain([prepare, sweep_tasks(a, rates, 32, 9, epoch_s * 0.05), *[[share] * workers for _ in range(10)]])


def case_hours() -> np.ndarray:
    """Duration of each of VitalDB's 6,388 cases, from its clinical table."""
    file = SHARED / "biosignals" / "vitaldb_clinical_data.csv"
    if not file.is_file():
        raise SystemExit(f"{file} is absent: VitalDB's clinical table gives the length of each case")
    table = pd.read_csv(file, usecols=["casestart", "caseend"])
    return ((table.caseend - table.casestart) / 3600).to_numpy()


# --- simulate and find the bottleneck ---------------------------------------------------------------------------------


def run_size(size: Size, rates: Rates) -> dict[str, Any]:
    tasks = size.tasks(rates, size.pool)
    found = _simulate(size, tasks, size.pool, size.storage)
    saved = {what: 1 - other.makespan_s / found.makespan_s for what, other in _doubled(size, rates, tasks).items()}
    bottleneck = max(saved, key=lambda what: saved[what])
    stages = {stage: end - begin for stage, (begin, end) in found.stage_s.items()}
    return {
        "size": size.name, "what": size.what, "cores": size.pool.cores * size.pool.most, "tasks": len(tasks),
        "hours": found.makespan_s / 3600, "core_hours": found.busy_s / 3600, "usd": found.cost,
        "paid_and_idle": 1 - found.busy_s / (found.node_s * size.pool.cores), "interruptions": found.interruptions,
        "stage_hours": {stage: s / 3600 for stage, s in stages.items()},
        "bottleneck": bottleneck, "saved_by_doubling": saved,
    }  # fmt: skip


def _simulate(size: Size, tasks: list[Task], pool: Pool, storage: Storage) -> Outcome:
    return simulate(tasks, pool, storage, delay_s=size.delay_s, head_price_per_h=size.head_per_h)


def _doubled(size: Size, rates: Rates, tasks: list[Task]) -> dict[str, Outcome]:
    """The same work with twice of one thing: the thing that saves most is the bottleneck."""
    wide = replace(size.pool, most=2 * size.pool.most, least=2 * size.pool.least)
    fast = Storage(2 * size.storage.gb_per_s, 2 * size.storage.reader_gb_per_s)
    found = {
        "nodes": _simulate(size, size.tasks(rates, wide), wide, size.storage),
        "storage": _simulate(size, tasks, size.pool, fast),
        "start of nodes": _simulate(size, tasks, replace(size.pool, start_s=size.pool.start_s / 2), size.storage),
    }
    for stage in dict.fromkeys(task.stage for task in tasks):
        quick = [replace(t, seconds=t.seconds / 2) if t.stage == stage else t for t in tasks]
        found[f"code: {stage}"] = _simulate(size, quick, size.pool, size.storage)
    return found


# --- measure ----------------------------------------------------------------------------------------------------------

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
STANDIN = (
    "window={context: 512, horizon: 96, stride: 12, eval_stride: "
    "96}", "model={kind: ttm, d_model: 192, patch_length: 64}",
    "training.batch_size=64", "training.max_steps_per_epoch=8", "training.epochs=2",
)  # fmt: skip


def measure_rates() -> Rates:
    """In a process of its own with one thread and a Ray of one CPU."""
    from raycadian.cluster import connect
    from raycadian.tasks import forecast, task_of

    connect(num_cpus=1)
    write_csv(people=40, days=40)
    data, read_s, grid_s = _prepare()
    rows = 40 * 40 * POINTS_A_DAY
    fitted, train, validate = _train(data)
    recipe = _recipe("window.eval_stride=3")
    windows = task_of(recipe).windows(data, recipe, "test")
    predict = _per_s(len(windows), lambda: forecast.predict(fitted.model, windows, set()))
    hybrid = _recipe("model={kind: cma, mechanism: {kind: cma, refit_days: 2}}")
    began = time.perf_counter()
    mechanism = forecast.fit_mechanism_of(data, hybrid)
    fits = len(mechanism.records) / (time.perf_counter() - began)
    first, following = _trial_cost(data)
    return Rates(
        rows / read_s, rows / grid_s, fits, train, validate, predict, first, following,
        _train(data, *STANDIN)[1], _waveform_samples_per_s(), _xpt_values_per_s(),
    )  # fmt: skip


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

    seen: dict[str, list[float]] = {}
    began = time.perf_counter()
    snapshot = prepare(
        "scaling.yaml", Path("snapshots"), lambda what, *_: seen.setdefault(what, []).append(time.perf_counter())
    )
    read, written = seen["readings read"], seen["subjects written"]
    # from the first subject on: what Ray Data takes to start is no rate
    grid_s = (written[-1] - written[0]) * len(written) / (len(written) - 1)
    return load_data(_recipe(), Path("snapshots"), snapshot), read[-1] - began, grid_s


def _train(data: Any, *overrides: str) -> tuple[Any, float, float]:
    """Windows trained and validated per second, the first epoch left out."""
    from raycadian.tasks import task_of
    from raycadian.training.pipeline import fit_model

    recipe, ends, epochs = _recipe(*overrides), [], []
    fitted = fit_model(
        data, recipe, on_epoch=lambda metrics: (ends.append(time.perf_counter()), epochs.append(metrics))
    )
    n_val = len(task_of(recipe).windows(data, recipe, "val"))
    rest = [epoch["windows"] / epoch["windows_per_s"] for epoch in epochs[1:]]
    validate_s = np.median(np.diff(ends) - rest)
    return fitted, float(np.median([epoch["windows_per_s"] for epoch in epochs[1:]])), n_val / validate_s


def _trial_cost(data: Any, more: int = 12) -> tuple[float, float]:
    """Seconds of a sweep with one trial of persistence, and of each one more."""
    took = {}
    for trials in (1, 1 + more, 1):  # the first is the warm-up
        began = time.perf_counter()
        _sweep(data, "model={kind: persistence}", f"tuning.trials={trials}", f"tuning.seed={len(took)}", cpus=1)
        took[trials] = time.perf_counter() - began
    return took[1], (took[1 + more] - took[1]) / more


def _sweep(data: Any, *overrides: str, cpus: int) -> Any:
    from raycadian.training.tune import sweep

    runs = Path(tempfile.mkdtemp(dir="."))
    return sweep(_recipe(*overrides, f"tuning.max_concurrent={cpus}"), data, runs=runs)


def _per_s(amount: float, work: Callable[[], Any], rounds: int = 3) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return amount / float(np.median(times))


def _waveform_samples_per_s(minutes: int = 20) -> float:
    """An arterial-like wave with noise, packed as 16-bit integers, to float32 at 125 Hz."""
    from scipy.signal import resample_poly

    n = minutes * 60 * 500
    wave = 80 + 20 * np.sin(np.arange(n) / 500 * 2 * np.pi * 1.2) + np.random.default_rng(0).normal(0, 0.5, n)
    packed = gzip.compress((wave * 50).astype(np.int16).tobytes(), compresslevel=6)

    def read() -> np.ndarray:
        values = np.frombuffer(gzip.decompress(packed), np.int16).astype(np.float32) / 50
        return resample_poly(values, 1, 4).astype(np.float32)

    return _per_s(n, read)


def _xpt_values_per_s() -> float:
    files = sorted((SHARED / "nhanes").glob("DEMO_*.XPT"))
    if not files:
        raise SystemExit(f"{SHARED / 'nhanes'} has no DEMO_*.XPT: they stand in for NHANES' monitor files")
    values = sum(pd.read_sas(file, format="xport").size for file in files)
    return _per_s(values, lambda: [pd.read_sas(file, format="xport") for file in files])


# --- check against real sweeps ----------------------------------------------------------------------------------------


def measure_sweep(cpus: int, trials: int = 8) -> dict[str, float]:
    """A real sweep of short trials on a Ray of `cpus`, and what it consists of."""
    from raycadian.cluster import connect
    from raycadian.tasks import task_of

    connect(num_cpus=cpus)
    write_csv(people=6, days=10)
    data, *_ = _prepare()
    recipe = _recipe("window.stride=3", "window.eval_stride=3")
    counts = {s: len(task_of(recipe).windows(data, recipe, s)) for s in ("train", "val")}
    _sweep(data, "model={kind: persistence}", "tuning.trials=1", cpus=cpus)  # Ray and Tune have started once
    others = _cores_of_others(2.0)
    began = time.perf_counter()
    _sweep(data, f"tuning.trials={trials}", cpus=cpus)
    took = time.perf_counter() - began
    return {"cpus": cpus, "trials": trials, "measured_s": took, "cores_of_others": others} | counts


def _cores_of_others(seconds: float) -> float:
    """Cores that this machine spends on other things, looked at while ours rest."""
    return psutil.cpu_percent(seconds) / 100 * psutil.cpu_count()


def predicted_s(found: dict[str, float], rates: Rates, epochs: int = 3) -> float:
    """The same sweep in the simulation: a worker's start, then its trials."""
    trial_s = epochs * (found["train"] / rates.train_windows_per_s + found["val"] / rates.validate_windows_per_s)
    pool = Pool(cores=1, most=int(found["cpus"]), start_s=rates.first_trial_s - rates.next_trial_s)
    return simulate([Task(rates.next_trial_s + trial_s)] * int(found["trials"]), pool).makespan_s


# --- report -----------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--update-docs", action="store_true")
    parser.add_argument("--measure", choices=("rates", "sweep"), help=argparse.SUPPRESS)
    parser.add_argument("--cpus", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        found = asdict(measure_rates()) if arguments.measure == "rates" else measure_sweep(arguments.cpus)
        print(json.dumps(found))
        return
    report = measure()
    text = tables(report)
    print(json.dumps(report) if arguments.json else text)
    if arguments.update_docs:
        write_between(DOCS, BEGIN, END, text)


def measure() -> dict[str, Any]:
    rates = Rates(**_child("rates"))
    checks = [_child("sweep", cpus) for cpus in (1, 2)]
    for check in checks:
        check["predicted_s"] = predicted_s(check, rates)
        check["error"] = check["predicted_s"] / check["measured_s"] - 1
    assumed = Assumptions()
    found = [run_size(size, rates) for size in sizes(assumed)]
    return {"rates": asdict(rates), "checks": checks, "assumptions": asdict(assumed), "sizes": found}


def _child(what: str, cpus: int = 1) -> dict[str, Any]:
    """Measured in a process of its own: one thread, its own Ray, its own folder."""
    command = [sys.executable, str(Path(__file__).absolute()), "--measure", what, "--cpus", str(cpus)]
    print(f"measuring: {what} on {cpus} CPU", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
    if done.returncode:
        raise SystemExit(f"measuring {what} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def tables(report: dict[str, Any]) -> str:
    header = f"Measured and simulated {datetime.now(UTC):%Y-%m-%d} with `python benchmarks/scaling.py --update-docs`."
    parts = [
        header, "### The three "
            "sizes", _sizes_table(report["sizes"]), "### Where the time goes", _stages_table(report["sizes"]),
        "### What the simulation was checked "
        "against", _checks_table(report["checks"]), "### Rates of one core, measured",
        _pairs({name: f"{value:,.4g}" if value < 100 else f"{value:,.0f}" for name, value in report["rates"].items()},
        "rate"),
        "### Assumptions", _pairs({name: str(value) for name, value in report["assumptions"].items()}, "assumption"),
    ]  # fmt: skip
    return "\n\n".join(parts)


def _sizes_table(found: list[dict[str, Any]]) -> str:
    rows = [
        [
            f"{s['size']}: "
            f"{s['what']}", s["cores"], f"{s['hours']:,.1f} h", f"{s['core_hours']:,.0f}", f"{s['usd']:,.2f}",
            f"{s['paid_and_idle']:.0%}", f"{s['bottleneck']} ({s['saved_by_doubling'][s['bottleneck']]:.0%} saved by "
                "twice of it)",
        ]
        for s in found
    ]  # fmt: skip
    return markdown(["size", "cores", "time", "core hours", "cost, USD", "nodes idle or starting", "bottleneck"], rows)


def _stages_table(found: list[dict[str, Any]]) -> str:
    rows = []
    for s in found:
        stages = ", ".join(f"{stage} {hours:.2g} h" for stage, hours in s["stage_hours"].items())
        saved = sorted(s["saved_by_doubling"].items(), key=lambda item: -item[1])
        rows.append([s["size"], stages, ", ".join(f"{what} {share:.0%}" for what, share in saved if share >= 0.005)])
    return markdown(["size", "stages, from first start to last end", "time saved by twice of one thing"], rows)


def _checks_table(checks: list[dict[str, Any]]) -> str:
    rows = [
        [f"{c['trials']} trials on {c['cpus']} "
            "CPU", f"{c['measured_s']:.1f} "
                "s", f"{c['predicted_s']:.1f} s", f"{c['error']:+.0%}", f"{c['cores_of_others']:.1f}"]
        for c in checks
    ]  # fmt: skip
    return markdown(["real sweep", "measured", "predicted", "error", "cores busy with other things before"], rows)


def _pairs(values: dict[str, str], name: str) -> str:
    return markdown([name, "value"], [[f"`{key}`", value] for key, value in values.items()])


if __name__ == "__main__":
    main()
