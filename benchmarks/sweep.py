"""A sweep of 32 short trials against 32 separate `raycadian train` processes at the same concurrency, and what ASHA
saves.

The demo cohort, a small TTM, 4 epochs; the separate processes train the points that the sweep tried. `raycadian train`
also scores and reports, which a trial leaves to the winner: the last row says how long that takes by itself. A trial's
start is bounded from above by the time from one trial's end to the next one's, one epoch of training included.
Run: `python benchmarks/sweep.py [--json] [--trials 32]`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raycadian.cluster import connect
from raycadian.config import Recipe, load_recipe, override
from raycadian.runs import Run, list_runs
from raycadian.tasks.base import Data
from raycadian.training.pipeline import load_data
from raycadian.training.tune import sweep

CONCURRENCY = 2
SPACE = "parameters: {training.lr: {loguniform: {low: 1.0e-5, high: 1.0e-2}}}"
CHANGES = {
    "name": "short", "model.d_model": 16, "training.workers": 1, "training.epochs": 4, "training.early_stopping": None,
    "window.stride": 24, "window.eval_stride": 24, "training.device": "cpu",
    "tuning": {"space": "", "scheduler": "fifo", "search": "random", "max_concurrent": CONCURRENCY},
    "tracking": {"mlflow": "off", "tensorboard": False},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--trials", type=int, default=32)
    arguments = parser.parse_args()
    connect(num_cpus=CONCURRENCY)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), arguments.trials)
    print(json.dumps(found) if arguments.json else pd.Series(found).to_string())


def measure(folder: Path, trials: int) -> dict[str, Any]:
    space = folder / "space.yaml"
    space.write_text(SPACE, encoding="utf-8")
    recipe = override(load_recipe("jobs/recipes/demo_base.yaml"), CHANGES)
    recipe = override(recipe, {"tuning.space": str(space), "tuning.trials": trials})
    data = load_data(recipe)
    fifo_s, fifo = timed(recipe, data, folder / "fifo")
    asha_s, asha = timed(override(recipe, {"tuning.scheduler": "asha"}), data, folder / "asha")
    processes_s, scoring_s = separate(recipe, fifo, folder / "processes")
    one = override(recipe, {"training.epochs": 1, "tuning.max_concurrent": 1, "tuning.trials": 10})
    ends: list[float] = []
    sweep(one, data, runs=folder / "one", on_trial=lambda record: ends.append(time.perf_counter()))
    return {
        "trials": trials, "concurrency": CONCURRENCY, "sweep_s": round(fifo_s, 1), "processes_s": round(processes_s, 1),
        "processes_over_sweep": round(processes_s / fifo_s, 2), "asha_s": round(asha_s, 1),
        "asha_over_fifo_s": round(asha_s / fifo_s, 3), "fifo_epochs": int(fifo["epochs"].sum()),
        "asha_epochs": int(asha["epochs"].sum()), "fifo_best": float(fifo["best/val/rmse"].min()),
        "asha_best": float(asha["best/val/rmse"].min()), "trial_start_s": round(float(np.median(np.diff(ends))), 3),
        "scoring_s": round(scoring_s, 1),
    }  # fmt: skip


def timed(recipe: Recipe, data: Data, runs: Path) -> tuple[float, pd.DataFrame]:
    began = time.perf_counter()
    table = sweep(recipe, data, runs=runs).table
    return time.perf_counter() - began, table


def separate(recipe: Recipe, table: pd.DataFrame, runs: Path) -> tuple[float, float]:
    """Seconds that the processes took, and those of scoring and reporting among them, at the same concurrency."""

    def train(lr: float) -> None:
        options = [f"--set={path}={json.dumps(value)}" for path, value in CHANGES.items() if path != "tuning"]
        command = [
            sys.executable,
            "-m",
            "raycadian.cli.main",
            "train",
            "jobs/recipes/demo_base.yaml",
            f"--runs={runs / str(lr)}",
        ]
        subprocess.run([*command, *options, f"--set=training.lr={lr}"], check=True, capture_output=True)

    began = time.perf_counter()
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        list(pool.map(train, table["training.lr"]))
    seconds = time.perf_counter() - began
    done: list[Run] = [run for lr in table["training.lr"] for run in list_runs(runs / str(lr))]
    spent = [run.metadata["seconds"] for run in done]
    return seconds, sum(s["predict"] + s["score"] + s["report"] for s in spent) / CONCURRENCY


if __name__ == "__main__":
    main()
