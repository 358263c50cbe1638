"""Two nodes with little room train on a snapshot in object storage: streamed, and what is said where it is mapped.

A cluster of two nodes of one CPU on this machine, the scratch folder of each, and the driver's, a tmpfs of `--cap_mb`;
the snapshot lies in a local S3 (moto). For 1x, 4x and 16x the people: the peak of a node's memory (PSS of all its
processes, the store of objects included) and of its scratch folder while two workers train two epochs of a small TTM
streamed, and the outcome mapped. Both must not grow with the data: within 20% from 1x to 16x. Wants root, to mount.
Run on a quiet machine: `python benchmarks/room.py [--people 100] [--factors 1 4 16] [--cap_mb 300] [--json]`
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from clusters import Head, free_ports, kill_node, start_head, start_node, wait_for

from raycadian.data.blocks import BlockWriter
from raycadian.data.writer import SpooledRows, finish, write_subject
from raycadian.types import GLUCOSE, Recording

POINTS = 100_000  # of each person, a year: 0.9 MB of a table
GROUPS = 4
BUCKET = "room"
CARD = {"name": "room", "modality": "cgm", "files": ["none.csv"], "unit": "mg/dL", "grid": {}}
MB = 1 << 20
WAIT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20"}  # for a node that is gone: 60 s by default

DRIVER = """
import json, sys, time
from pathlib import Path
from raycadian import cluster, telemetry
from raycadian.config import Recipe, parse
from raycadian.data.snapshot import Snapshot
from raycadian.training.pipeline import fit_model, load_data
telemetry.configure_logs()
while cluster.connect().cluster_resources().get("CPU", 0) < int(sys.argv[4]):
    time.sleep(0.2)
recipe, tell = parse(Recipe, json.loads(sys.argv[1])), lambda row: print("epoch", json.dumps(row), flush=True)
try:
    data = load_data(recipe, snapshot=Snapshot.open(sys.argv[2]))
    trained = fit_model(data, recipe, state=Path(sys.argv[3]), on_epoch=tell).trained
except ValueError as error:
    sys.exit(f"refused: {error}")
print("done", json.dumps({"reading": data.reading.record, "workers": trained.how["workers"]}), flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=100)
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--cap_mb", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure([options.people * factor for factor in options.factors], options.cap_mb)
    rows = [{name: value for name, value in row.items() if name != "terminal"} for row in rows]
    print(json.dumps(rows, indent=1) if options.json else pd.DataFrame(rows).to_string(index=False))


def measure(sizes: list[int], cap_mb: int) -> list[dict[str, Any]]:
    """A row a number of people and a mode; `growth` of memory and scratch is over the first row of the mode."""
    with Place(cap_mb) as place:
        rows = [
            place.trained(people, mode)
            for people in sizes
            for mode in os.environ.get("MODES", "streamed mapped").split()
        ]
    for row in rows:
        first = next(one for one in rows if one["mode"] == row["mode"])
        row |= {f"growth_{name}": round(row[name] / max(first[name], 1), 3) for name in ("memory_mb", "scratch_mb")}
    return rows


class Place:
    """The storage, the cluster and the scratch folders."""

    def __init__(self, cap_mb: int):
        self._cap_mb, self._stack = cap_mb, ExitStack()

    def __enter__(self) -> "Place":
        enter = self._stack.enter_context
        self.folder = Path(enter(tempfile.TemporaryDirectory(prefix="room-")))
        enter(object_storage(self.folder))
        self.scratch = [enter(capped(self.folder / name, self._cap_mb)) for name in ("one", "two", "driver")]
        tree = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}  # else what is installed
        self.head: Head = enter(start_head("--num-cpus=0", '--resources={"driver": 1}', environment=tree))
        self.nodes = [enter(start_node(self._in(scratch), "--num-cpus=1")) for scratch in self.scratch[:2]]
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def _in(self, scratch: Path) -> Head:
        """The cluster for processes that keep what can be made again in a folder of their own."""
        own = self.head.environment | {"RAYCADIAN_CACHE": str(scratch), "OMP_NUM_THREADS": "1"}
        return Head(self.head.folder, self.head.gcs, self.head.dashboard, own, self.head.process)

    def trained(self, people: int, mode: str, kill_after: int = 0, **training: Any) -> dict[str, Any]:
        """`kill_after`: the epoch after which the second node dies. `terminal`: all that the driver said on stderr."""
        path = self._uploaded(people)
        for file in (file for scratch in self.scratch for file in scratch.rglob("*") if file.is_file()):
            file.unlink()
        name = f"{people}-{mode}-{time.time_ns()}"
        recipe = json.dumps(recipe_of(mode, training))
        command = [sys.executable, "-c", DRIVER, recipe, path, str(self.folder / f"state-{name}"), str(len(self.nodes))]
        own = self._in(self.scratch[2]).environment | {"RAY_ADDRESS": self.head.gcs} | WAIT
        out, err = (self.folder / f"{name}.{kind}" for kind in ("out", "err"))
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(command, env=own, stdout=stdout, stderr=stderr)
            peaks = self._watched(process, out, kill_after)
        table_mb = people * POINTS * 9 / 1e6
        told = {"people": people, "table_mb": round(table_mb), "mode": mode} | peaks
        return told | _outcome(process.returncode, out.read_text(), err.read_text())

    def _watched(self, process: subprocess.Popen, out: Path, kill_after: int) -> dict[str, float]:
        """The peaks of the node that has the higher one, while the driver runs."""
        peaks = {"memory_mb": 0.0, "scratch_mb": 0.0}
        began = time.monotonic()
        while process.poll() is None:
            for node, scratch in zip(self.nodes, self.scratch, strict=False):
                now = {"memory_mb": pss_mb(node.pid), "scratch_mb": shutil.disk_usage(scratch).used / MB}
                peaks = {name: max(peaks[name], value) for name, value in now.items()}
            if kill_after and f'"epoch": {kill_after}.0' in out.read_text():
                kill_node(self.nodes.pop())
                kill_after = 0
            time.sleep(1.0)
        return {name: round(value, 1) for name, value in peaks.items()} | {"s": round(time.monotonic() - began, 1)}

    def _uploaded(self, people: int) -> str:
        """Written here, copied there; its URL."""
        import boto3

        folder = self.folder / f"people-{people}"
        if not folder.is_dir():
            write_snapshot(folder, people)
            for file in (f for f in folder.rglob("*") if f.is_file()):
                boto3.client("s3").upload_file(str(file), BUCKET, f"{folder.name}/{file.relative_to(folder)}")
                file.write_bytes(b"")
        return f"s3://{BUCKET}/{folder.name}"


def recipe_of(mode: str, training: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "room", "dataset": "none.yaml", "split": {"kind": "time"},
        "window": {"context": 144, "horizon": 12, "stride": 288, "eval_stride": 2880},
        "model": {"kind": "ttm", "d_model": 16, "layers": 1},
        "training": {
            "workers": 2, "epochs": 2, "batch_size": 512, "device": "cpu", "early_stopping": None, "data": mode,
            "shuffle_mb": 16.0,
        } | training,
    }  # fmt: skip


def _outcome(status: int, out: str, err: str) -> dict[str, Any]:
    lines = [line.split(" ", 1) for line in out.splitlines()]
    history = [json.loads(line) for kind, line in lines if kind == "epoch"]
    last = history[-1] if history else {}
    told = {"outcome": "trained"} | {
        k: v for kind, line in lines if kind == "done" for k, v in json.loads(line).items()
    }
    if status:
        told = {"outcome": next((line for line in err.splitlines() if line.startswith("refused: ")), err[-300:])}
    rates = {name: last.get(name) for name in ("windows_per_s", "data/wait")}
    return told | rates | {"windows": [row["windows"] for row in history], "terminal": err}


def pss_mb(pid: int) -> float:
    """Memory of a process and all below it, what they share counted once."""
    total = 0
    with suppress(psutil.Error):
        node = psutil.Process(pid)
        for process in (node, *node.children(recursive=True)):
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
    return total / MB


def write_snapshot(folder: Path, people: int) -> None:
    """A year of noise of each person, 3% of it missing in stretches of 50 minutes, in blocks of several groups, as
    `prepare` leaves them."""
    rng, start = np.random.default_rng(0), np.datetime64("2025-01-01T00:00:00", "s")
    folder.mkdir()
    files: dict[str, int] = {}
    with SpooledRows() as rows:
        for group, numbers in enumerate(np.array_split(np.arange(people), GROUPS)):
            with BlockWriter(folder, group) as blocks:
                for number in numbers.tolist():
                    values = rng.standard_normal(POINTS, dtype=np.float32) * 30 + 140
                    subject, seen = f"p{number:05d}", np.repeat(rng.random(POINTS // 10) > 0.03, 10)
                    values[~seen] = np.nan
                    own = [Recording(subject, 0, start, 0, 300.0, {GLUCOSE: values}, seen)]
                    rows.add({"subject": subject, "quality": {}, "issues": {}} | write_subject(blocks, subject, own))
            files |= blocks.files
        about = {"card": CARD, "columns": [GLUCOSE], "key": "", "counts": {"points": people * POINTS}, "issues": {}}
        finish(folder, rows, files, about)


@contextmanager
def object_storage(folder: Path) -> Iterator[None]:
    """An S3 of this machine, which this process and those that it starts are led to."""
    import boto3

    (port,) = free_ports(1)
    config = folder / "aws"
    config.write_text(
        f"[default]\nregion = us-east-1\nendpoint_url = http://127.0.0.1:{port}\n"
        "aws_access_key_id = nobody\naws_secret_access_key = nothing\n"
    )
    before = {name: os.environ.get(name) for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")}
    os.environ |= dict.fromkeys(before, str(config))
    code = "import sys; from moto.server import main; main(sys.argv[1:])"
    with (folder / "s3.log").open("wb") as log:
        command = [sys.executable, "-c", code, "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(port, server, folder / "s3.log")
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield
    finally:
        server.terminate()
        server.wait()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


@contextmanager
def capped(folder: Path, cap_mb: int) -> Iterator[Path]:
    """A folder that has room for so many megabytes. Raises OSError where this user may not mount one."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={cap_mb}m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        raise OSError(f"{folder}: can't be mounted: {done.stderr.strip()}; run this as root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


if __name__ == "__main__":
    main()
