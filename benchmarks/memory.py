"""Peak memory of `prepare` and of training at 1x, 4x and 16x subjects: it must not grow with their number.

    python benchmarks/memory.py [--subjects 20] [--days 30] [--json]

Each size runs in fresh processes: `prepare` with a Ray of its own, then training (series, split, windows, 10 steps of a
small TTM, validation) in one process. Memory is anonymous (resident less shared), sampled every 20 ms: the pages of the
memory-mapped series belong to the file and can be dropped, so they are shown apart, inside `rss_mb`. Of `prepare`, the
driver's peak and the highest peak of any worker; Ray's own servers are not counted. The reader holds a bounded number
of blocks of the CSV, so a file smaller than those needs less: the table at 1x is smaller.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

FACTORS = (1, 4, 16)
MB = 1024 * 1024
CARD = """
name: memory
files: [readings.csv]
format: generic
unit: mg/dL
columns: {subject: id, time: time, glucose: glucose}
"""
RECIPE = {
    "name": "memory",
    "split": {"kind": "time"},
    "window": {"context": 144, "horizon": 12, "eval_stride": 48},
    "model": {"kind": "ttm", "d_model": 16, "layers": 2},
    "training": {"epochs": 1, "batch_size": 256, "max_steps_per_epoch": 10, "device": "cpu"},
}
COMPARED = {"prepare": ("driver_mb", "worker_mb"), "train": ("anonymous_mb", "rss_mb")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=20, help="subjects at 1x")
    parser.add_argument("--days", type=int, default=30, help="days a subject, a reading every 5 minutes")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=3, metavar=("WHAT", "CARD", "SNAPSHOTS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        what, card, snapshots = options.child
        return {"prepare": prepare_here, "train": train_here}[what](card, snapshots)
    sizes = [measure(factor, options.subjects * factor, options.days) for factor in FACTORS]
    found = {what: [size[what] for size in sizes] for what in COMPARED}
    growth = {
        what: {name: round(rows[-1][name] / rows[0][name], 3) for name in COMPARED[what]}
        for what, rows in found.items()
    }
    if options.json:
        print(json.dumps(found | {"growth_16x_over_1x": growth}, indent=1))
        return
    for what, rows in found.items():
        print(f"{what}\n{pd.DataFrame(rows).to_string(index=False)}\n16x over 1x: {growth[what]}\n")


def prepare_here(card: str, snapshots: str) -> None:
    from raycadian.cluster import connect
    from raycadian.modalities.prepare import prepare

    connect(num_cpus=2)
    prepare(card, snapshots)


def train_here(card: str, snapshots: str) -> None:
    from raycadian.config import Recipe, parse
    from raycadian.training.pipeline import fit_model, load_data

    recipe = parse(Recipe, RECIPE | {"dataset": card})
    fit_model(load_data(recipe, Path(snapshots)), recipe)


def measure(factor: int, subjects: int, days: int) -> dict[str, dict[str, float]]:
    """A row a stage: `prepare`, then training on the snapshot that it left."""
    with tempfile.TemporaryDirectory() as folder:
        card = write_data(Path(folder), subjects, days)
        csv_mb = round((Path(folder) / "readings.csv").stat().st_size / MB, 1)
        size = {"size": factor, "subjects": subjects, "csv_mb": csv_mb}
        return {what: size | peaks(child(what, card), COMPARED[what]) for what in COMPARED}


def child(what: str, card: Path) -> list[str]:
    return [sys.executable, __file__, "--child", what, str(card), str(card.parent / "snapshots")]


def write_data(folder: Path, subjects: int, days: int) -> Path:
    """One big table, subject by subject; glucose is a random walk around 130 mg/dL."""
    rng = np.random.default_rng(0)
    times = pd.date_range("2024-01-01", periods=days * 288, freq="5min")
    with (folder / "readings.csv").open("w", encoding="utf-8") as file:
        for subject in range(subjects):
            walk = 130 + 40 * np.sin(np.cumsum(rng.normal(0, 0.1, len(times))))
            frame = pd.DataFrame({"id": f"s{subject:05d}", "time": times, "glucose": walk.round()})
            frame.to_csv(file, index=False, header=subject == 0)
    (folder / "memory.yaml").write_text(CARD, encoding="utf-8")
    return folder / "memory.yaml"


def peaks(command: list[str], names: tuple[str, ...]) -> dict[str, float]:
    """Run a command; the peaks that are `names` of its processes, in MB, and its seconds."""
    began = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    driver = psutil.Process(process.pid)
    highest = dict.fromkeys(names, 0.0)
    while process.poll() is None:
        for name, found in sample(driver, names).items():
            highest[name] = max(highest[name], found)
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return {name: round(found, 1) for name, found in highest.items()} | {"s": round(time.perf_counter() - began, 1)}


def sample(driver: psutil.Process, names: tuple[str, ...]) -> dict[str, float]:
    """MB now. driver and anonymous: of the process, private · rss: with the file's pages · worker: of the largest Ray
    worker."""
    try:
        memory = driver.memory_info()
        found = {"driver_mb": anonymous_mb(driver), "anonymous_mb": anonymous_mb(driver), "rss_mb": memory.rss / MB}
        if "worker_mb" in names:
            workers = [p for p in driver.children(recursive=True) if "".join(p.cmdline()[:1]).startswith("ray::")]
            found["worker_mb"] = max(map(anonymous_mb, workers), default=0.0)
        return {name: found[name] for name in names}
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return {}


def anonymous_mb(process: psutil.Process) -> float:
    memory = process.memory_info()
    return (memory.rss - memory.shared) / MB


if __name__ == "__main__":
    main()
