"""Personal calibration on a CPU: seconds from a person's export to their adapter, and milliseconds to the estimate of a
day.

PAT small (`--sizes medium large`: the others, which take about 4 and 27 times its arithmetic) on weeks of minutes, 60
days of which 54 are labelled; TTM on 28 days of glucose. Weights of the population are random but for PAT's few steps
of training. A made-up person (nobody's data). Targets of the project: 5 minutes, 100 ms. Run on a quiet machine:
`python benchmarks/personal.py [--json]`.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # the made-up person is the tests' own

THREADS, ROUNDS = 2, 20
DAYS = 60
WANTED_S, WANTED_MS = 300.0, 100.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sizes", nargs="+", default=["small"])
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        rows = [activity(size, Path(folder) / size) for size in options.sizes] + [glucose(Path(folder) / "ttm")]
    print(json.dumps(rows, indent=1) if options.json else pd.DataFrame(rows).to_string(index=False))


def activity(size: str, folder: Path) -> dict[str, object]:
    import one_person

    from raycadian.config import PAT
    from raycadian.modalities.actigraphy.request import Activity
    from raycadian.personal.task import CalibrationInputs
    from raycadian.types import ACTIVITY_COUNTS

    ill = one_person.ill_days(DAYS)
    run = one_person.population(folder / "runs", people=12, days=8, window_days=7, model=PAT(size=size), epochs=1)
    values = one_person.counts(ill, seed=1)
    recording = one_person.write_recording(folder / "watch.csv", values)
    labels = one_person.write_labels(folder / "episodes.csv", ill, first=6)
    week = Activity("p", ACTIVITY_COUNTS, one_person.START.astype("datetime64[s]"), 60.0, values[-7 * 1440 :])
    return _row(
        f"PAT {size}, a week of minutes",
        CalibrationInputs(run, "p", recording, labels),
        folder,
        lambda own: own.answer(week),
    )


def glucose(folder: Path) -> dict[str, object]:
    import helpers
    import served

    from raycadian.config import TTM
    from raycadian.personal.task import CalibrationInputs
    from raycadian.serving.forecaster import read_history

    run = served.make_run(folder / "runs", served.people(4, 6), model=TTM(patch_length=12))
    values = helpers.day_curve(28, seed=50)
    when = np.datetime64("2026-02-01T00:00", "s") + 300 * np.arange(len(values))
    pd.DataFrame({"time": when.astype(str), "glucose": values.round(1)}).to_csv(folder / "cgm.csv", index=False)
    history = read_history(folder / "cgm.csv")
    return _row(
        "TTM, 5-minute glucose",
        CalibrationInputs(run, "p", folder / "cgm.csv"),
        folder,
        lambda own: own.answer(history),
    )


def _row(what: str, inputs, folder: Path, estimate) -> dict[str, object]:
    from raycadian.personal.calibrate import calibrate
    from raycadian.personal.store import Store
    from raycadian.serving.load import open_person

    store = Store(folder / "people")
    began = time.perf_counter()
    about = calibrate(inputs, store).person.metadata
    seconds = time.perf_counter() - began
    own = open_person(inputs.run, store.read("p"), store)
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        estimate(own)
        times.append(1000 * (time.perf_counter() - began))
    ms = float(np.median(times[1:]))
    return {
        "what": what, "weights": about["parameters"], "kept": about["kept"], "epochs": about["epochs"],
        "calibration_s": round(seconds, 1), "of_300_s": round(seconds / WANTED_S, 3), "day_ms": round(ms, 1),
        "of_100_ms": round(ms / WANTED_MS, 3),
    }  # fmt: skip


if __name__ == "__main__":
    main()
