"""A cohort's forecasts: shards beside a loop over people, two processes beside one, and other libraries.

A TTM of width 16, hardly trained (its arithmetic is what counts), over simulated people. Each row is measured in
processes of its own, one thread each: `loop`, a person read from the snapshot and given to `Forecaster.answer`, one
after another · `last`, the same people through `forecast_everybody` in one process · `ray N`, every window of everybody
on N of Ray Data's actors: their start (5 s of imports each) counts, that of the cluster doesn't · `here`, every window
of four people in one process, read from the snapshot, forecast in float64 and written as Parquet · `bolt` and
`neuralforecast`, the same windows by these (forecast_peers.py), in float32 and written nowhere. `ray N` is counted in
seconds of the clock, all others in those of the processor. Peers are installed beside our packages on first use; where
they can't be had their rows say so.
`python benchmarks/cohort.py [--people 512] [--days 8] [--json]`: four minutes on a quiet machine
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from peers import python_with
from people import write_people

CONTEXT, HORIZON = 288, 12
WAYS = ("loop", "last", "ray 1", "ray 2", "here")
PEERS = {"bolt": "Chronos-Bolt tiny, predict_quantiles", "neuralforecast": "neuralforecast's PatchTST, predict"}
_PACKAGES = ("neuralforecast==3.3.0", "chronos-forecasting==2.3.2")
_PEERS_PEOPLE = 4  # two thousand windows each


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
        rows = _own_rows(folder) + [_beside(peer, folder) for peer in PEERS]
    print(json.dumps(rows, indent=1) if options.json else pd.DataFrame(rows).to_string(index=False))


def _own_rows(folder: str) -> list[dict[str, Any]]:
    last, every = "last forecast of each person", "every window, 2 processes"
    return [
        _row(last, "people/s", *(_in_a_process(way, folder) for way in ("last", "loop")), "a loop over people", 5.0),
        _row(every, "windows/s", *(_in_a_process(way, folder) for way in ("ray 2", "ray 1")), "one process", 1.7),
    ]


def _beside(peer: str, folder: str) -> dict[str, Any]:
    """Ours and a peer over the same windows, one after the other."""
    what = "every window, one process with one thread"
    try:
        python = python_with("forecasters", _PACKAGES)
    except RuntimeError as error:
        return {"what": what, "unit": "windows/s", "peer_is": f"{PEERS[peer]}: {error}"}
    ours = _in_a_process("here", folder)
    script, table = Path(__file__).with_name("forecast_peers.py"), Path(folder) / "people.csv"
    command = [python, str(script), peer, str(table), str(_PEERS_PEOPLE), str(CONTEXT), str(HORIZON)]
    theirs = _said(command)
    if theirs["windows"] != ours["windows"]:
        raise SystemExit(f"{peer} forecast {theirs['windows']} windows, ours are {ours['windows']}")
    about = f"{PEERS[peer]}, {theirs['weights']:,} weights"
    return _row(f"{what}, {ours['weights']:,} weights", "windows/s", ours, theirs, about, 1.0)


def _row(
    what: str, unit: str, ours: dict[str, Any], peer: dict[str, Any], peer_is: str, target: float
) -> dict[str, Any]:
    rates = [round(side[unit.split("/")[0]] / side["seconds"], 1) for side in (ours, peer)]
    row = {"what": what, "unit": unit, "ours": rates[0], "peer": rates[1], "peer_is": peer_is}
    return row | {"ratio": round(rates[0] / rates[1], 2), "target": target}


def make(folder: Path, people: int, days: int) -> None:
    """People that nobody is, their snapshot, and a run on them."""
    from raycadian.config import TTM, Evaluation, Recipe, Tracking, Training, Window
    from raycadian.training.pipeline import load_data, train_run

    card = write_people(folder, people, days)
    recipe = Recipe(
        name="cohort", dataset=str(card), model=TTM(patch_length=48, d_model=16, layers=2),
        window=Window(context=CONTEXT, horizon=HORIZON, stride=48, eval_stride=1), evaluation=Evaluation(bootstrap=10),
        training=Training(device="cpu", precision="fp32", epochs=1, max_steps_per_epoch=5),
        tracking=Tracking(mlflow="off", tensorboard=False),
    )  # fmt: skip
    train_run(recipe, load_data(recipe, folder / "snapshots"), runs=folder / "runs")


def _in_a_process(way: str, folder: str) -> dict[str, Any]:
    return _said([sys.executable, __file__, "--way", way, "--folder", folder])


def _said(command: list[str]) -> dict[str, Any]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(way: str, folder: Path) -> dict[str, Any]:
    """people or windows, the seconds that they took, and weights of the model."""
    from raycadian import cohort
    from raycadian.cluster import connect
    from raycadian.data.snapshot import snapshots
    from raycadian.runs import list_runs

    (run,), (snapshot,) = list_runs(folder / "runs"), snapshots(folder / "snapshots")
    if way == "loop":
        return _loop(run, snapshot)
    on_ray, which = way.startswith("ray"), "last" if way == "last" else "every"
    if on_ray:
        connect(num_cpus=int(way.split()[1]))
        cohort._SHARD_POINTS = 50_000  # as many shards as a large cohort gives every actor
    else:
        cohort.forecast_everybody(run, snapshot.part(snapshot.subjects[:1]), folder / "warm", which, on_ray=False)
    people = snapshot.subjects[:_PEERS_PEOPLE] if way == "here" else snapshot.subjects
    began = time.process_time()
    done = cohort.forecast_everybody(run, snapshot.part(people), folder / f"by {way}", which, on_ray=on_ray)
    seconds = done.seconds if on_ray else time.process_time() - began
    shutil.rmtree(folder / f"by {way}")
    shutil.rmtree(folder / "warm", ignore_errors=True)
    return {"people": done.people, "windows": done.windows, "seconds": seconds, "weights": _weights(run)}


def _weights(run: Any) -> int:
    from raycadian.models import checkpoint

    return sum(parameter.numel() for parameter in checkpoint.load(run.path / "checkpoint").parameters())


def _loop(run: Any, snapshot: Any) -> dict[str, Any]:
    from raycadian.serving.forecaster import Forecaster

    forecaster = Forecaster.load(run.path)
    forecaster.answer(_history(snapshot, snapshot.subjects[0]))
    began = time.process_time()
    for subject in snapshot.subjects:
        forecaster.answer(_history(snapshot, subject))
    return {"people": len(snapshot.subjects), "seconds": time.process_time() - began}


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
