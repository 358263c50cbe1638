"""Clusters that a test starts for itself: on free ports of 127.0.0.1, in a process group and a folder of their own,
with a token of their own. A plain module, so that tests import rather than copy."""

import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from helpers import write_csv

from raycadian import cluster
from raycadian.cli.doctor import is_loopback

ROOT = Path(__file__).parents[1]
CARD = """\
name: tiny
files: [tiny.csv]
unit: mg/dL
columns: {subject: subject, time: time, glucose: glucose}
"""


@dataclass(frozen=True)
class Head:
    folder: Path
    gcs: str
    """host:port, for RAY_ADDRESS and `ray start --address`."""
    dashboard: str
    """http://host:port, for `ray job submit --address`."""
    environment: dict[str, str]
    """What every process that talks to this cluster needs, the token included."""
    process: subprocess.Popen

    @property
    def session(self) -> Path:
        return self.folder / "ray" / "session_latest"


@contextmanager
def start_head(
    *options: str, python: Path | str = sys.executable, environment: Mapping[str, str] = {}, gcs_port: int | None = None
) -> Iterator[Head]:
    """`ray start --head` with `options`; everything that it started has ended when the block is left."""
    free, dashboard, agent, client = free_ports(4)
    port = gcs_port or free
    folder = Path(tempfile.mkdtemp(prefix="rc-"))  # Ray's sockets need a short path
    environment = own_environment() | environment
    command = [
        str(python), "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--temp-dir={folder / 'ray'}",
        "--node-ip-address=127.0.0.1", f"--port={port}", f"--dashboard-port={dashboard}", "--include-dashboard=true",
        f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}",
        "--object-store-memory=200000000", *options,
    ]  # fmt: skip
    path = f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env=environment | {"PATH": path},
        )  # fmt: skip
    try:
        wait_for(dashboard, process, folder / "head.log")
        yield Head(folder, f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", environment, process)
    finally:
        end_group(process)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def start_node(head: Head, *options: str) -> Iterator[subprocess.Popen]:
    """One more node of a cluster, as `ray start --address`, in a process group of its own: `kill_node` is its sudden
    end."""
    folder = tempfile.mkdtemp(
        prefix="n", dir=head.folder
    )  # as real nodes have: in a shared one they take the same names
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--address={head.gcs}",
        f"--temp-dir={folder}",
        "--node-ip-address=127.0.0.1", "--object-store-memory=200000000", *options,
    ]  # fmt: skip
    with Path(folder, "node.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=head.folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=head.environment
        )
    try:
        yield process
    finally:
        end_group(process)


def kill_node(process: subprocess.Popen) -> None:
    """What a power cut does to a node: every process of its group ends at once. Workers have sessions of their own, so
    they are found as descendants."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def own_environment() -> dict[str, str]:
    """This process's environment, less what would lead to another cluster, with a fresh token."""
    others = ("RAY_ADDRESS", "PYTHONPATH", "RAY_AUTH_TOKEN_PATH", *cluster._HERE)
    environment = {name: value for name, value in os.environ.items() if name not in others}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "OMP_NUM_THREADS": "1"}
    return environment | {"RAY_worker_niceness": "0"}  # 15 by default: beside other tests the workers would starve


def free_ports(n: int) -> list[int]:
    """Above Ray's own range for workers, below the system's for outgoing connections: nobody takes them meanwhile."""
    found: list[int] = []
    while len(found) < n:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as one:
            if port not in found and one.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
    return found


def wait_for(port: int, process: subprocess.Popen, log: Path, patience_s: float = 90) -> None:
    """Until something listens to `port`; AssertionError with the log where `process` ends before that."""
    deadline = time.monotonic() + patience_s
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.3)
    raise AssertionError(f"nothing came up (exit status {process.poll()}):\n{log.read_text()}")


def end_group(process: subprocess.Popen) -> None:
    """End a process that leads its own group, and the group."""
    for number, patience_s in ((signal.SIGTERM, 3), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)


def write_tree(folder: Path, people: int = 4, days: float = 3) -> Path:
    """A working tree to submit from: this one's package, jobs and spaces, and a small data set, datasets/tiny.yaml."""
    for name in ("platform", "jobs", "datasets", "search_spaces"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".gitignore", ".rayignore", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "datasets" / "tiny.yaml").write_text(CARD)
    write_csv(folder / "datasets" / "tiny.csv", n=people, days=days)
    return folder


def submit(head: Head, tree: Path, *entrypoint: str) -> subprocess.Popen[str]:
    """What a user types in the root of a working tree, with the user's own Python; stdout has everything it prints."""
    ray = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", head.dashboard]
    command = [*ray, "--working-dir", ".", "--runtime-env", "jobs/runtime_env.yaml", "--", "python", *entrypoint]
    return subprocess.Popen(
        command, cwd=tree, env=head.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def reachable(process: psutil.Process) -> list[str]:
    """What a process and those below it let other machines reach: command and address of each listening socket that
    is not on the loopback interface."""
    sockets = []
    for member in [process, *process.children(recursive=True)]:
        with suppress(psutil.Error):
            name = " ".join(member.cmdline())[:80]
            listening = [c.laddr for c in member.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
            sockets += [f"{name} {a.ip}:{a.port}" for a in listening if not is_loopback(a.ip)]
    return sockets
