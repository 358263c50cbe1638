"""Time, cost and a node's disk, memory and network for three sizes that this machine can't hold: rates measured here
(scaling_rates.py) in a simulated schedule (schedule.py).

    python benchmarks/scaling.py [--check] [--json] [--update-docs]

Measures the rates of one core with the product's own readers and models, checks the simulation against real sweeps on
1 and 2 CPUs in the same run, then simulates. `--check`: no more than that check. `--update-docs` writes the tables
between the marks of docs/concepts/scaling.md. Prices, sizes and what clouds do are the assumptions below, to be edited.
Four minutes on a quiet machine.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from between import markdown, write_between
from scaling_rates import POINTS_A_DAY, WAVE_HZ, Rates, child, rates
from schedule import Outcome, Pool, Storage, Task, chain, simulate

DOCS = Path(__file__).parents[1] / "docs" / "concepts" / "scaling.md"
BEGIN, END = "<!-- scaling -->", "<!-- /scaling -->"
SHARED = Path(__file__).parents[2] / "shared" / "data"
TEST, VAL = 0.15, 0.15  # shares of the windows


@dataclass(frozen=True)
class Assumptions:
    """Not measured here: edit them. Prices in USD as of `date`, of no particular seller."""

    date: str = "2026-12"
    node_per_h: float = 0.40
    """8 vCPU, 32 GB, on demand."""
    spot_node_per_h: float = 0.16
    head_per_h: float = 0.20
    """4 vCPU, 16 GB, on demand."""
    node_cores: int = 8
    node_memory_gb: float = 32.0
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
    vital_bytes_a_sample: float = 1.2
    """Of a compressed .vital file, for each sample of the tracks that are read."""
    asha_reduction: int = 3
    process_gb: float = 0.6
    """Private memory of a process that trains: benchmarks/memory.py."""
    shuffle_gb: float = 0.256
    """training.shuffle_mb; a streamed worker holds twice that."""
    ready_gb: float = 0.27
    """Of windows that lie ready for a streamed worker."""


# --- sizes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """The values that a training reads. bytes_a_point: of the mapped table · snapshot_bytes: a point, as Parquet."""

    points: float
    bytes_a_point: int
    snapshot_bytes: float
    epochs: int


@dataclass(frozen=True)
class Size:
    name: str
    what: str
    tasks: Callable[[Rates, Pool], list[Task]]
    table: Callable[[Rates], Table]
    pool: Pool
    storage: Storage
    delay_s: float
    head_per_h: float


def sizes(a: Assumptions) -> list[Size]:
    cloud = Pool(a.node_cores, a.nodes, 0, a.spot_node_per_h, a.start_s, a.idle_s, a.interruptions_per_h)
    bucket = Storage(a.bucket_gb_per_s, a.bucket_reader_gb_per_s)
    archive = Storage(a.archive_gb_per_s, a.archive_reader_gb_per_s)
    laptop = Cohort(people=200, days=90, stride=3, trials=16, epochs=4, final=10, files=1)
    years = Cohort(people=10_000, days=365, stride=12, trials=32, epochs=9, final=3, files=10_000, sample=0.05)
    return [
        Size(
            "200 patients on a laptop",
            "90 days each in one file; 16 trials of 4 epochs, then 10 epochs on 8 workers; stride 15 min",
            lambda rates, pool: cgm(a, rates, pool, laptop), laptop.table,
            Pool(cores=8, most=1, least=1), Storage(gb_per_s=1, reader_gb_per_s=0.5), 0.0, 0.0,
        ),
        Size(
            "10,000 patient-years of CGM",
            "10,000 people and files, 1 year; 32 trials of 9 epochs on a 20th, then 3 epochs on all cores; stride 1 h",
            lambda rates, pool: cgm(a, rates, pool, years), years.table, cloud, bucket, a.autoscaler_s, a.head_per_h,
        ),
        Size(
            "all of VitalDB and NHANES",
            "6,388 cases of three tracks at 500 Hz, 5 cycles of minutes; 32 trials of 9 epochs on a 20th, then 10 on "
            "all cores of a TTM on windows 40 s apart",
            lambda rates, pool: biosignals(a, rates, pool), _waves, cloud, archive, a.autoscaler_s, a.head_per_h,
        ),
    ]  # fmt: skip


@dataclass(frozen=True)
class Cohort:
    """People with glucose every five minutes, and what is trained on them: a sweep on a `sample`, `final` epochs."""

    people: int
    days: int
    stride: int
    trials: int
    epochs: int
    final: int
    files: int
    sample: float = 1.0

    @property
    def points(self) -> int:
        return self.people * self.days * POINTS_A_DAY

    def table(self, rates: Rates) -> Table:
        return Table(self.points, 9, rates.glucose_bytes_a_point, self.final)


def cgm(a: Assumptions, rates: Rates, pool: Pool, cohort: Cohort) -> list[Task]:
    """Prepare, fit the CMA, sweep a hybrid by ASHA on a `sample` of the windows, train the best on all cores, predict.
    A fit is computed once and kept for all trials."""
    points, windows = cohort.points, cohort.points // cohort.stride
    fits_s = cohort.people * cohort.days / 7 / rates.cma_fits_per_s  # refits each week
    snapshot_gb = points * rates.glucose_bytes_a_point / 1e9
    epoch_s = windows * ((1 - TEST - VAL) / rates.train_windows_per_s + VAL / rates.validate_windows_per_s)
    workers = pool.cores * pool.most
    files, people = min(cohort.files, 2000), min(cohort.people, 2000)  # in so many tasks: the same work, fewer events
    share = Task(epoch_s / workers / a.ddp_efficiency, stage="train", checkpoint_s=epoch_s)
    read = Task(points / files / rates.read_rows_per_s, points / files * a.csv_bytes_a_row / 1e9, stage="read files")
    return chain([
        [read] * files,
        [Task(points / people / rates.grid_rows_per_s, stage="grid and write")] * people,
        [Task(fits_s, snapshot_gb, stage="fit the CMA")],
        sweep_tasks(a, rates, cohort.trials, cohort.epochs, epoch_s * cohort.sample, snapshot_gb),
        *[[share] * workers for _ in range(cohort.final)],
        predict_tasks(windows * (TEST + VAL) / rates.predict_windows_per_s, workers),
    ])  # fmt: skip


def sweep_tasks(
    a: Assumptions, rates: Rates, trials: int, epochs: int, epoch_s: float, read_gb: float = 0.0
) -> list[Task]:
    return [
        Task(rates.next_trial_s + n * epoch_s, read_gb, checkpoint_s=epoch_s, stage="sweep")
        for n in asha_epochs(trials, epochs, a.asha_reduction)
    ]


def predict_tasks(seconds: float, workers: int) -> list[Task]:
    """Test windows in parts on all cores, four a core."""
    return [Task(seconds / workers / 4, stage="predict")] * (4 * workers)


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
_GRID_HZ, _STEP_S, _FINAL = 125, 40, 10


def biosignals(a: Assumptions, rates: Rates, pool: Pool) -> list[Task]:
    """Prepare both archives, sweep and train a TTM of hypotension on VitalDB, predict."""
    samples = case_hours() * 3600 * WAVE_HZ * 3
    workers, windows = pool.cores * pool.most, case_hours().sum() * 3600 / _STEP_S
    predicted = rates.wave_predict_windows_per_s
    epoch_s = windows * ((1 - TEST - VAL) / rates.wave_train_windows_per_s + VAL / predicted)
    prepare = [
        Task(people * days * 1440 / rates.minutes_per_s, people * days * 1440 * columns * 8 / 1e9, stage="prepare")
        for people, days, columns in CYCLES.values()
    ]
    prepare += [Task(n / rates.wave_samples_per_s, n * a.vital_bytes_a_sample / 1e9, stage="prepare") for n in samples]
    share = Task(epoch_s / workers / a.ddp_efficiency, stage="train", checkpoint_s=epoch_s)
    return chain([
        prepare, sweep_tasks(a, rates, 32, 9, epoch_s * 0.05), *[[share] * workers for _ in range(_FINAL)],
        predict_tasks(windows * (TEST + VAL) / predicted, workers),
    ])  # fmt: skip


def _waves(rates: Rates) -> Table:
    return Table(case_hours().sum() * 3600 * _GRID_HZ, 13, rates.wave_bytes_a_point, _FINAL)


def case_hours() -> np.ndarray:
    """Duration of each of VitalDB's 6,388 cases, from its clinical table."""
    file = SHARED / "biosignals" / "vitaldb_clinical_data.csv"
    if not file.is_file():
        raise SystemExit(f"{file} is absent: VitalDB's clinical table gives the length of each case")
    table = pd.read_csv(file, usecols=["casestart", "caseend"])
    return ((table.caseend - table.casestart) / 3600).to_numpy()


# --- what a node needs ------------------------------------------------------------------------------------------------


def node_needs(a: Assumptions, size: Size, rates: Rates) -> dict[str, Any]:
    """GB of a node whose cores all train: disk and memory, and what it reads of the snapshot in all epochs.

    whole: the table of one node, and of trials of one worker · share: each of several nodes holds what its own workers
    read to train and to validate, of a snapshot in object storage · streamed: no table."""
    table, nodes, workers = size.table(rates), size.pool.most, size.pool.cores
    mapped_gb, snapshot_gb = table.points * table.bytes_a_point / 1e9, table.points * table.snapshot_bytes / 1e9
    share, held_gb = (1 - TEST) / nodes, workers * a.process_gb
    streamed_gb = held_gb + workers * (2 * a.shuffle_gb + a.ready_gb)
    needs = {"whole": (mapped_gb, held_gb + mapped_gb, snapshot_gb)}
    if nodes > 1:
        needs["share"] = (share * mapped_gb, held_gb + share * mapped_gb, share * snapshot_gb)
    needs["streamed"] = (0.0, streamed_gb, snapshot_gb * (table.epochs + 1) / nodes)
    return {
        "size": size.name, "points": table.points, "snapshot": snapshot_gb, "nodes": nodes, "needs": needs,
        "maps": {mode: needs[mode][0] <= a.node_memory_gb / 2 for mode in ("whole", "share") if mode in needs},
    }  # fmt: skip


# --- simulate and find the bottleneck ---------------------------------------------------------------------------------


def run_size(size: Size, rates: Rates) -> dict[str, Any]:
    rates = beside_others(rates) if size.pool.cores > 1 else rates
    tasks = size.tasks(rates, size.pool)
    outcome = _simulate(size, tasks, size.pool, size.storage)
    saved = {what: 1 - other.makespan_s / outcome.makespan_s for what, other in _doubled(size, rates, tasks).items()}
    bottleneck = max(saved, key=lambda what: saved[what])
    stages = {stage: end - begin for stage, (begin, end) in outcome.stage_s.items()}
    return {
        "size": size.name, "what": size.what, "cores": size.pool.cores * size.pool.most, "tasks": len(tasks),
        "hours": outcome.makespan_s / 3600, "core_hours": outcome.busy_s / 3600, "usd": outcome.cost,
        "paid_and_idle": 1 - outcome.busy_s / (outcome.node_s * size.pool.cores),
        "interruptions": outcome.interruptions, "stage_hours": {stage: s / 3600 for stage, s in stages.items()},
        "bottleneck": bottleneck, "saved_by_doubling": saved,
    }  # fmt: skip


def beside_others(rates: Rates) -> Rates:
    """Of a core whose neighbours train and predict too."""
    names = ("train_windows_per_s", "validate_windows_per_s", "predict_windows_per_s", "wave_train_windows_per_s",
             "wave_predict_windows_per_s")  # fmt: skip
    return replace(rates, **{name: getattr(rates, name) * rates.both_cores for name in names})


def _simulate(size: Size, tasks: list[Task], pool: Pool, storage: Storage) -> Outcome:
    return simulate(tasks, pool, storage, delay_s=size.delay_s, head_price_per_h=size.head_per_h)


def _doubled(size: Size, rates: Rates, tasks: list[Task]) -> dict[str, Outcome]:
    """The same work with twice of one thing: the thing that saves most is the bottleneck."""
    wide = replace(size.pool, most=2 * size.pool.most, least=2 * size.pool.least)
    fast = Storage(2 * size.storage.gb_per_s, 2 * size.storage.reader_gb_per_s)
    outcomes = {
        "nodes": _simulate(size, size.tasks(rates, wide), wide, size.storage),
        "storage": _simulate(size, tasks, size.pool, fast),
        "start of nodes": _simulate(size, tasks, replace(size.pool, start_s=size.pool.start_s / 2), size.storage),
    }
    for stage in dict.fromkeys(task.stage for task in tasks):
        quick = [replace(t, seconds=t.seconds / 2) if t.stage == stage else t for t in tasks]
        outcomes[f"code: {stage}"] = _simulate(size, quick, size.pool, size.storage)
    return outcomes


# --- check against real sweeps, and report ----------------------------------------------------------------------------


def predicted_s(swept: dict[str, float], rates: Rates, epochs: int = 3) -> float:
    """A real sweep in the simulation: a worker's start, then its trials."""
    rates = beside_others(rates) if swept["cpus"] > 1 else rates
    trial_s = epochs * (swept["train"] / rates.train_windows_per_s + swept["val"] / rates.validate_windows_per_s)
    pool = Pool(cores=1, most=int(swept["cpus"]), start_s=max(0.0, rates.first_trial_s - rates.next_trial_s))
    return simulate([Task(rates.next_trial_s + trial_s)] * int(swept["trials"]), pool).makespan_s


def checked(rates: Rates) -> list[dict[str, float]]:
    checks = [child("sweep", str(cpus)) for cpus in (1, 2)]
    for check in checks:
        check["predicted_s"] = predicted_s(check, rates)
        check["error"] = check["predicted_s"] / check["measured_s"] - 1
    return checks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--update-docs", action="store_true")
    arguments = parser.parse_args()
    measured, assumed = rates(), Assumptions()
    checks = checked(measured)
    if arguments.check:
        print(json.dumps(checks) if arguments.json else _checks_table(checks))
        return
    report = {
        "rates": asdict(measured), "checks": checks, "assumptions": asdict(assumed),
        "sizes": [run_size(size, measured) for size in sizes(assumed)],
        "nodes": [node_needs(assumed, size, measured) for size in sizes(assumed)],
    }  # fmt: skip
    text = tables(report)
    print(json.dumps(report) if arguments.json else text)
    if arguments.update_docs:
        write_between(DOCS, BEGIN, END, text)


def tables(report: dict[str, Any]) -> str:
    header = f"Measured and simulated {datetime.now(UTC):%Y-%m-%d} with `python benchmarks/scaling.py --update-docs`."
    values = {name: f"{value:,.4g}" if value < 100 else f"{value:,.0f}" for name, value in report["rates"].items()}
    sections = {
        "The three sizes": _sizes_table(report["sizes"]),
        "What a node needs while it trains": _nodes_table(report["nodes"]),
        "Where the time goes": _stages_table(report["sizes"]),
        "What the simulation was checked against": _checks_table(report["checks"]),
        "Rates of one core, measured": _pairs(values, "rate"),
        "Assumptions": _pairs({name: str(value) for name, value in report["assumptions"].items()}, "assumption"),
    }
    return "\n\n".join([header, *(f"### {title}\n\n{table}" for title, table in sections.items())])


def _sizes_table(sizes: list[dict[str, Any]]) -> str:
    rows = [
        [
            f"{s['size']}: {s['what']}", s["cores"], f"{s['hours']:,.1f} h", f"{s['core_hours']:,.0f}",
            f"{s['usd']:,.2f}", f"{s['paid_and_idle']:.0%}",
            f"{s['bottleneck']} ({s['saved_by_doubling'][s['bottleneck']]:.0%} saved by twice of it)",
        ]
        for s in sizes
    ]  # fmt: skip
    return markdown(["size", "cores", "time", "core hours", "cost, USD", "nodes idle or starting", "bottleneck"], rows)


def _nodes_table(nodes: list[dict[str, Any]]) -> str:
    rows = [
        [
            n["size"], f"{n['points'] / 1e6:,.0f} M", _gb(n["snapshot"]), _MODES[mode].format(nodes=n["nodes"]),
            *map(_gb, needs), {True: "maps", False: "streams"}.get(n["maps"].get(mode), ""),
        ]
        for n in nodes for mode, needs in n["needs"].items()
    ]  # fmt: skip
    return markdown(["size", "points", "snapshot", "data", "disk", "memory", "read, all epochs", "auto"], rows)


_MODES = {"whole": "mapped, one table", "share": "mapped, shares of {nodes} nodes", "streamed": "streamed"}


def _gb(value: float) -> str:
    return f"{value:,.0f} GB" if value >= 10 else f"{value:.2g} GB"


def _stages_table(sizes: list[dict[str, Any]]) -> str:
    rows = []
    for s in sizes:
        stages = ", ".join(f"{stage} {hours:.2g} h" for stage, hours in s["stage_hours"].items())
        saved = sorted(s["saved_by_doubling"].items(), key=lambda item: -item[1])
        rows.append([s["size"], stages, ", ".join(f"{what} {share:.0%}" for what, share in saved if share >= 0.005)])
    return markdown(["size", "stages, from first start to last end", "time saved by twice of one thing"], rows)


def _checks_table(checks: list[dict[str, Any]]) -> str:
    rows = [
        [
            f"{c['trials']} trials on {c['cpus']} CPU", f"{c['measured_s']:.1f} s", f"{c['predicted_s']:.1f} s",
            f"{c['error']:+.0%}", f"{c['cores_of_others']:.1f}",
        ]
        for c in checks
    ]  # fmt: skip
    return markdown(["real sweep", "measured", "predicted", "error", "cores busy with other things before"], rows)


def _pairs(values: dict[str, str], name: str) -> str:
    return markdown([name, "value"], [[f"`{key}`", value] for key, value in values.items()])


if __name__ == "__main__":
    main()
