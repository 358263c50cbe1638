"""`prepare` of many people: files read by two processes beside one, and the driver's memory from few people to many.

Each row is measured in a process of its own. `files`: 2,000 CSV of a person each, on Ray with 2 CPUs over 1, counted
once the cluster is warm · `people`: tiny people in one Parquet table, `--few` and `--many` of them, in this process:
peak memory above the imports, and seconds, of the many over the few.
`python benchmarks/snapshots.py [--files 2000] [--few 2000] [--many 20000] [--json]`
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

FLAT = 1.2  # at ten times the people
CARD = "name: {name}\nfiles: ['{files}']\ntimezone: UTC\nunit: mg/dL\ngrid: {{min_points: 12}}\n"
CARD += "columns: {{subject: subject, time: time, glucose: glucose}}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--few", type=int, default=2000)
    parser.add_argument("--many", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measured(options.way, options.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        rows = [_files(Path(name), options.files), *_people(Path(name), options.few, options.many)]
    print(json.dumps(rows, indent=1) if options.json else pd.DataFrame(rows).to_string(index=False))


def _files(folder: Path, n: int) -> dict[str, Any]:
    (folder / "files").mkdir()
    for i in range(n):
        _readings(f"f{i:05d}", 7).to_csv(folder / f"files/f{i:05d}.csv", index=False)
    (folder / "files.yaml").write_text(CARD.format(name="files", files="files/*.csv"), encoding="utf-8")
    ours, peer = (_in_a_process(way, folder)["seconds"] for way in ("ray 2", "ray 1"))
    return _row(f"prepare of {n:,} files, 2 processes over 1", peer, ours, peer / ours, 1.7)


def _people(folder: Path, few: int, many: int) -> list[dict[str, Any]]:
    """Two days each."""
    found = []
    for name, n in (("few", few), ("many", many)):
        pd.concat([_readings(f"p{i:06d}", 2) for i in range(n)]).to_parquet(folder / f"{name}.parquet", index=False)
        (folder / f"{name}.yaml").write_text(CARD.format(name=name, files=f"{name}.parquet"), encoding="utf-8")
        found.append(_in_a_process(name, folder))
    memory, seconds = ([one[key] for one in found] for key in ("peak_mb", "seconds"))
    what = f"{many:,} people over {few:,}"
    return [
        _row(f"peak memory of prepare, MB, {what}", memory[0], memory[1], memory[1] / memory[0], FLAT),
        _row(f"seconds of prepare, {what}", seconds[0], seconds[1], seconds[1] / seconds[0], many / few),
    ]


def _row(what: str, peer: float, ours: float, ratio: float, target: float) -> dict[str, Any]:
    return {"what": what, "peer": round(peer, 1), "ours": round(ours, 1), "ratio": round(ratio, 2), "target": target}


def _readings(subject: str, days: int) -> pd.DataFrame:
    n = 288 * days
    times = np.datetime64("2026-01-05T00:00:00") + np.arange(n) * np.timedelta64(300, "s")
    noise = np.random.default_rng(int(subject[1:])).normal(0, 8, n)  # nobody has another's readings
    level = 120 + 40 * np.sin(np.arange(n) / 40 + int(subject[1:])) + noise
    return pd.DataFrame({"subject": subject, "time": times, "glucose": level.round(0)})


def _in_a_process(way: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(way: str, folder: Path) -> dict[str, float]:
    from raycadian.modalities.prepare import prepare

    if not way.startswith("ray"):
        began, before = time.perf_counter(), _peak_mb()
        prepare(folder / f"{way}.yaml", folder / way, on_ray=False)
        return {"seconds": time.perf_counter() - began, "peak_mb": _peak_mb() - before}
    from raycadian.cluster import connect

    ray = connect(num_cpus=int(way.split()[1]))
    (folder / "warm.yaml").write_text(CARD.format(name="warm", files="files/f0000*.csv"), encoding="utf-8")
    prepare(folder / "warm.yaml", folder / f"warm {way}", on_ray=True)
    began = time.perf_counter()
    prepare(folder / "files.yaml", folder / way, on_ray=True)
    seconds = time.perf_counter() - began
    ray.shutdown()
    return {"seconds": seconds}


def _peak_mb() -> float:
    """Of this process since it began."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
