"""A cohort's forecasts: shards beside a loop over people, and two processes beside one.

A TTM of width 16, hardly trained (its arithmetic is what counts), over simulated people. Each row is measured in a
process of its own with one thread: `loop`, a person read from the snapshot and given to `Forecaster.answer`, one after
another · `last`, the same people through `forecast_everybody` in one process · `ray N`, every window of everybody on N
of Ray Data's actors, counted once the cluster and its actors are warm.
`python benchmarks/cohort.py [--people 512] [--days 8] [--json]`
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from people import write_people

_EVERY = 64  # people of whom every window is forecast: two thousand each
WAYS = ("loop", "last", "ray 1", "ray 2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=512)
    parser.add_argument("--days", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measured(options.way, options.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.people, options.days)
        rates = {way: _in_a_process(way, folder) for way in WAYS}
    rows = [
        {"what": "last forecast of each person, people/s", "ours": rates["last"], "peer": rates["loop"], "target": 5.0},
        {"what": "every window, 2 processes over 1", "ours": rates["ray 2"], "peer": rates["ray 1"], "target": 1.7},
    ]
    rows = [row | {"ratio": round(row["ours"] / row["peer"], 2)} for row in rows]
    print(json.dumps(rows, indent=1) if options.json else pd.DataFrame(rows).to_string(index=False))


def make(folder: Path, people: int, days: int) -> None:
    """People that nobody is, their snapshot, and a run on them."""
    from raycadian.config import TTM, Evaluation, Recipe, Tracking, Training, Window
    from raycadian.training.pipeline import load_data, train_run

    card = write_people(folder, people, days)
    recipe = Recipe(
        name="cohort", dataset=str(card), model=TTM(patch_length=48, d_model=16, layers=2),
        window=Window(context=288, horizon=12, stride=48, eval_stride=1), evaluation=Evaluation(bootstrap=10),
        training=Training(device="cpu", precision="fp32", epochs=1, max_steps_per_epoch=5),
        tracking=Tracking(mlflow="off", tensorboard=False),
    )  # fmt: skip
    train_run(recipe, load_data(recipe, folder / "snapshots"), runs=folder / "runs")


def _in_a_process(way: str, folder: str) -> float:
    command = [sys.executable, __file__, "--way", way, "--folder", folder]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(way: str, folder: Path) -> float:
    """People a second of `loop` and `last`, windows a second of the others."""
    from raycadian import cohort
    from raycadian.data.snapshot import snapshots
    from raycadian.runs import list_runs

    (run,), (snapshot,) = list_runs(folder / "runs"), snapshots(folder / "snapshots")
    if way == "loop":
        return _loop(run, snapshot)
    if way == "last":
        cohort.forecast_everybody(run, snapshot.part(snapshot.subjects[:1]), folder / "warm", "last", on_ray=False)
        done = cohort.forecast_everybody(run, snapshot, folder / "last", "last", on_ray=False)
        return round(done.people / done.seconds, 1)
    from raycadian.cluster import connect

    cohort._SHARD_POINTS = 10_000  # as many shards as a large cohort gives every actor
    ray = connect(num_cpus=int(way.split()[1]))
    cohort.forecast_everybody(run, snapshot.part(snapshot.subjects[:4]), folder / f"warm {way}", on_ray=True)
    some = snapshot.part(snapshot.subjects[:_EVERY])
    done = cohort.forecast_everybody(run, some, folder / way, on_ray=True)
    ray.shutdown()
    return round(done.windows / done.seconds, 1)


def _loop(run: Any, snapshot: Any) -> float:
    from raycadian.serving.forecaster import Forecaster

    forecaster = Forecaster.load(run.path)
    forecaster.answer(_history(snapshot, snapshot.subjects[0]))
    began = time.perf_counter()
    for subject in snapshot.subjects:
        forecaster.answer(_history(snapshot, subject))
    return round(len(snapshot.subjects) / (time.perf_counter() - began), 1)


def _history(snapshot: Any, subject: str) -> Any:
    from raycadian.modalities.cgm.request import History
    from raycadian.types import Issues, Readings

    last = snapshot.recordings(subject)[-1]
    times = last.start_utc + np.arange(len(last)) * np.timedelta64(300, "s")
    table = {"time_utc": times.astype("datetime64[ns]"), "glucose_mgdl": last.channels["glucose_mgdl"]}
    readings = Readings(subject, pd.DataFrame(table | {"utc_offset_min": 0}), snapshot.events(subject))
    return History.of(readings, Issues())


if __name__ == "__main__":
    main()
