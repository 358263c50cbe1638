"""What a person waits for at the shell: each verb on one person's 90 days, beside `python -c 'import torch, pandas'`.

Rounds in turn, the least time of each: on a shared machine the others' work is in all the rest. The wanted seconds are
of a quiet machine of two cores, on which the import takes about 2 s; the ratio is what other machines can be held to.
The file is ../shared/data/cgm/exports/dexcom_clarity.csv where it lies there, else a made-up one of the same size.
`python benchmarks/startup.py [--rounds 3] [--json]`
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

REAL = Path(__file__).parents[2] / "shared" / "data" / "cgm" / "exports" / "dexcom_clarity.csv"
PEER = "import torch, pandas"
PEER_S = 2.0  # of a quiet machine
DAYS = 90
VERB = [sys.executable, "-m", "raycadian.cli.main"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), options.rounds)
    print(json.dumps(rows, indent=1) if options.json else pd.DataFrame(rows).to_string(index=False))


def measure(folder: Path, rounds: int) -> list[dict[str, object]]:
    """A row a command: least seconds, the peer's, their ratio, the wanted seconds."""
    file = REAL if REAL.is_file() else made(folder / "made.csv")
    zone = ["--timezone", "Europe/Madrid"]
    seconds("a run that forecast can use", [*VERB, "run", str(file), *zone], folder)
    commands: dict[str, tuple[float, Sequence[str]]] = {
        "import raycadian": (0.15, [sys.executable, "-c", "import raycadian"]),
        "--help": (0.5, [*VERB, "--help"]),
        "doctor": (3.0, [*VERB, "doctor"]),
        "prepare, 90 days of readings": (5.0, [*VERB, "prepare", str(file), *zone, "--snapshots", "{new}"]),
        "inspect, of a snapshot": (3.0, [*VERB, "inspect", str(next((folder / "snapshots").glob("*-*/")))]),
        "forecast, from the file": (4.0, [*VERB, "forecast", str(file)]),
        "run, ridge beside persistence": (
            10.0,
            [*VERB, "run", str(file), *zone, "--runs", "{new}", "--snapshots", "{new}/snapshots"],
        ),
    }
    least: dict[str, float] = {}
    for number in range(rounds):
        for name, (_, command) in ({PEER: (0.0, [sys.executable, "-c", PEER])} | commands).items():
            filled = [word.replace("{new}", str(folder / f"{name.split(',')[0]}-{number}")) for word in command]
            least[name] = min(least.get(name, np.inf), seconds(name, filled, folder))
    peer = least.pop(PEER)
    return [_row(name, least[name], peer, wanted_s) | {"file": file.name} for name, (wanted_s, _) in commands.items()]


def _row(name: str, own: float, peer: float, wanted_s: float) -> dict[str, object]:
    row = {"command": name, "s": round(own, 2), "peer_s": round(peer, 2), "ratio": round(own / peer, 3)}
    return row | {"wanted_ratio": wanted_s / PEER_S, "wanted_s": wanted_s}


def seconds(name: str, command: Sequence[str], folder: Path) -> float:
    """Wall time. Raises SystemExit where a command fails: `doctor` may, where something optional is missing."""
    began = time.perf_counter()
    # bytecode is kept, as Python does unless it is told otherwise
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    if done.returncode and name != "doctor":
        raise SystemExit(f"{name}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
    return time.perf_counter() - began


def made(path: Path) -> Path:
    """Three months of a person that nobody is: meals, and noise that lasts."""
    rng, n = np.random.default_rng(0), DAYS * 288
    hour = np.arange(n) / 12 % 24
    meals = sum(55 * np.exp(-(((hour - h) % 24 - 1) ** 2) / 1.5) for h in (7.5, 12.5, 19.0))
    drift = np.convolve(rng.normal(0, 8, n), np.exp(-np.arange(60) / 20), mode="same")
    times = np.datetime64("2026-01-05T00:00:00") + np.arange(n) * np.timedelta64(300, "s")
    glucose = np.clip(110 + meals + drift, 45, 380).round(0)
    pd.DataFrame({"time": times, "glucose_mgdl": glucose}).to_csv(path, index=False)
    return path


if __name__ == "__main__":
    main()
