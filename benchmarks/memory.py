"""Peak memory of `prepare` at 1x, 4x and 16x subjects: it must not grow with their number.

    python benchmarks/memory.py [--subjects 20] [--days 30] [--json]

Each size runs in a fresh process with a Ray of its own. Memory is anonymous (resident less shared), sampled every
20 ms: the driver's peak, and the highest peak of any worker. Ray's own servers are not counted.
"""

from __future__ import annotations

import argparse
import json
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=20, help="subjects at 1x")
    parser.add_argument("--days", type=int, default=30, help="days a subject, a reading every 5 minutes")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=2, metavar=("CARD", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return prepare_in_this_process(*options.child)
    rows = [measure_prepare(factor, options.subjects * factor, options.days) for factor in FACTORS]
    growth = {name: round(rows[-1][name] / rows[0][name], 3) for name in ("driver_mb", "worker_mb")}
    if options.json:
        print(json.dumps({"prepare": rows, "growth_16x_over_1x": growth}, indent=1))
    else:
        print(pd.DataFrame(rows).to_string(index=False))
        print(f"16x over 1x: driver {growth['driver_mb']:.2f}, worker {growth['worker_mb']:.2f}")


def prepare_in_this_process(card: str, out: str) -> None:
    from raycadian.cluster import connect
    from raycadian.data.snapshot import prepare

    connect(num_cpus=2)
    prepare(card, out)


def measure_prepare(factor: int, subjects: int, days: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        card = write_data(Path(folder), subjects, days)
        command = [sys.executable, __file__, "--child", str(card), f"{folder}/snapshots"]
        size = (Path(folder) / "readings.csv").stat().st_size
        return {"size": factor, "subjects": subjects, "csv_mb": round(size / MB, 1), **peaks(command)}


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


def peaks(command: list[str]) -> dict[str, float]:
    """Run a command; peak anonymous memory of its process and of its largest Ray worker, in MB, and its seconds."""
    began = time.perf_counter()
    process = subprocess.Popen(command)
    driver = psutil.Process(process.pid)
    highest = {"driver_mb": 0.0, "worker_mb": 0.0}
    while process.poll() is None:
        for name, found in sample(driver).items():
            highest[name] = max(highest[name], found)
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return {name: round(found, 1) for name, found in highest.items()} | {"s": round(time.perf_counter() - began, 1)}


def sample(driver: psutil.Process) -> dict[str, float]:
    try:
        workers = [p for p in driver.children(recursive=True) if "".join(p.cmdline()[:1]).startswith("ray::")]
        return {"driver_mb": anonymous_mb(driver), "worker_mb": max(map(anonymous_mb, workers), default=0.0)}
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return {}


def anonymous_mb(process: psutil.Process) -> float:
    memory = process.memory_info()
    return (memory.rss - memory.shared) / MB


if __name__ == "__main__":
    main()
