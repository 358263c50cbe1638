"""`ray job submit` and `raycadian submit` to a cluster whose Python knows the dependencies, but not the package, or an
older copy of it."""

import asyncio
import json
import re
import runpy
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from clusters import ROOT, Head, free_ports, start_head, submit, write_tree

from raycadian.cli.upload import plan
from raycadian.runs import Run, list_runs, source_hash

pytestmark = [pytest.mark.ray, pytest.mark.slow]
JOB_S = 240  # a job takes 5 to 10 s; on a machine with eight times its load up to 80 s
UPLOAD_MB = 4  # unpacked: code, recipes, cards, the demo cohort

RECIPE = """\
name: job
dataset: datasets/tiny.yaml
window: {context: 24, horizon: 6, stride: 6}
model: {kind: persistence}
evaluation: {bootstrap: 20}
tracking: {mlflow: off, tensorboard: false}
"""
SWEEP = """\
name: swept
dataset: datasets/tiny.yaml
window: {context: 24, horizon: 6, stride: 6}
model: {kind: lstm, hidden: 8, layers: 1, dropout: 0.0}
training: {epochs: 1, batch_size: 64}
tuning: {space: search_spaces/lr.yaml, trials: 2, search: random, scheduler: fifo}
tracking: {mlflow: off, tensorboard: false}
"""
SPACE = "parameters: {training.lr: {loguniform: {low: 1.0e-3, high: 1.0e-2}}}"
SEVEN = 'import os, sys\nprint("now", len(os.environ["RAYCADIAN_JOB"]) > 0)\nsys.exit(7)\n'
COUNTS = 'import time\nfor n in range(12):\n    print("count", n, flush=True)\n    time.sleep(0.5)\n'
WAITS = 'import time\nprint("waiting", flush=True)\ntime.sleep(600)\n'
WHERE = """\
import json, sys
from raycadian.cluster import connect
from raycadian.runs import source_hash

ray = connect()

class Actor:
    def source(self):
        return source_hash()

task = ray.remote(num_cpus=0)(lambda: source_hash())
actor = ray.remote(num_cpus=0)(Actor).remote()
found = {"driver": source_hash(), "task": ray.get(task.remote()), "actor": ray.get(actor.source.remote())}
open(sys.argv[1], "w").write(json.dumps(found))
"""


@dataclass(frozen=True)
class Cluster:
    head: Head
    python: Path

    def submit(self, tree: Path, *entrypoint: str) -> subprocess.CompletedProcess[str]:
        """What a user types in the root of a working tree, with the user's own Python."""
        job = submit(self.head, tree, *entrypoint)
        try:
            printed, _ = job.communicate(timeout=JOB_S)
        except subprocess.TimeoutExpired:
            job.kill()
            raise AssertionError(f"no end after {JOB_S} s:\n{job.communicate()[0]}") from None
        return subprocess.CompletedProcess(job.args, job.returncode, printed)

    def raycadian(
        self, tree: Path, *arguments: object, environment: Mapping[str, str] = {}
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "raycadian.cli.main", *map(str, arguments)]
        return subprocess.run(
            command, cwd=tree, env=self.client | environment, capture_output=True, text=True, timeout=JOB_S
        )

    @property
    def client(self) -> dict[str, str]:
        """The environment of a user's terminal: this checkout as the installed raycadian, address and token."""
        return self.head.environment | {"PYTHONPATH": str(ROOT / "platform"), "RAY_ADDRESS": self.head.dashboard}

    def job(self, name: str) -> dict:
        listed = json.loads(self.raycadian(ROOT, "jobs", "list", "--json").stdout)
        return next(job for job in listed if job["job"] == name)

    @property
    def site(self) -> Path:
        return next(self.python.parents[1].glob("lib/python*/site-packages"))

    @property
    def uploads(self) -> Path:
        return self.head.session / "runtime_resources"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    python = _python_without_the_package(tmp_path_factory.mktemp("python") / "venv")
    with start_head("--num-cpus=2", python=python) as head:
        yield Cluster(head, python)


def _python_without_the_package(folder: Path) -> Path:
    """A virtual environment with everything that this one has, by links, but raycadian and its metadata."""
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    for source in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(source).iterdir():
            if "raycadian" not in entry.name and not (site / entry.name).exists():
                (site / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A working tree as a user has it: edited code, a small data set, and folders that must not travel."""
    tree = write_tree(tmp_path_factory.mktemp("tree"))
    for name in (".git", ".venv", "runs", "snapshots", "mlruns", "tests", "docs", "benchmarks", "wandb"):
        (tree / name).mkdir()
        (tree / name / "heavy.bin").write_bytes(secrets.token_bytes(2_000_000))
    with (tree / "platform" / "raycadian" / "__init__.py").open("a") as file:
        file.write(f'\nUPLOADED = "{secrets.token_hex(8)}"\n')  # so that it is neither the checkout nor an old upload
    (tree / "jobs" / "recipes" / "tiny.yaml").write_text(RECIPE)
    (tree / "jobs" / "recipes" / "swept.yaml").write_text(SWEEP)
    (tree / "search_spaces" / "lr.yaml").write_text(SPACE)
    for name, script in {"where": WHERE, "seven": SEVEN, "counts": COUNTS, "waits": WAITS}.items():
        (tree / "jobs" / f"{name}.py").write_text(script)
    return tree


def _installed(cluster: Cluster) -> str:
    """What the cluster's own Python imports as raycadian."""
    code = "import raycadian; print(raycadian.MARK)"
    found = subprocess.run(
        [cluster.python, "-c", code], cwd="/", env=cluster.head.environment, capture_output=True, text=True
    )
    return found.stdout.strip() or found.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def trained(cluster, tree, tmp_path_factory) -> tuple[str, Run]:
    """What a training job printed, and its run, where the package is absent."""
    assert _installed(cluster) == "ModuleNotFoundError: No module named 'raycadian'"
    storage = tmp_path_factory.mktemp("storage")
    folders = ["--runs", str(storage / "runs"), "--snapshots", str(storage / "snapshots")]
    job = cluster.submit(tree, "jobs/train.py", "jobs/recipes/tiny.yaml", "--set", "model.kind=ridge", *folders)
    assert job.returncode == 0, job.stdout
    (run,) = list_runs(storage / "runs")
    return job.stdout, run


@pytest.fixture
def older_copy(cluster) -> Iterator[None]:
    """An older raycadian that the cluster has installed."""
    older = cluster.site / "raycadian"
    older.mkdir()
    (older / "__init__.py").write_text('MARK = "older"\n')
    assert _installed(cluster) == "older"
    yield
    shutil.rmtree(older)


def test_training_runs_the_upload_where_the_package_is_absent(trained, tree):
    printed, run = trained
    assert run.metadata["model"] == "ridge"  # as --set says, not the recipe
    assert run.metadata["environment"]["source"] == source_hash(tree / "platform" / "raycadian") != source_hash()
    assert str(run.path) in printed, printed


@pytest.mark.usefixtures("older_copy")
def test_driver_task_and_actor_run_the_upload_over_an_older_copy(cluster, tree, tmp_path):
    job = cluster.submit(tree, "jobs/where.py", str(tmp_path / "where.json"))
    assert job.returncode == 0, job.stdout
    uploaded = source_hash(tree / "platform" / "raycadian")
    found = json.loads((tmp_path / "where.json").read_text())
    assert found == {"driver": uploaded, "task": uploaded, "actor": uploaded}


def test_a_failing_job_says_why_and_returns_not_zero(cluster, tree):
    job = cluster.submit(tree, "jobs/train.py", "jobs/recipes/tiny.yaml", "--set", "model.knid=ridge")
    assert job.returncode == 1, job.stdout
    assert "model.knid: unknown key; did you mean 'kind'?" in job.stdout, job.stdout
    assert "exit code 2" in job.stdout, job.stdout


@pytest.mark.usefixtures("trained")
def test_the_upload_is_small_and_has_the_cards(cluster, tree):
    (root,) = (p for p in (cluster.uploads / "working_dir_files").iterdir() if p.is_dir())
    uploaded = source_hash(tree / "platform" / "raycadian")
    packages = (p for p in (cluster.uploads / "py_modules_files").iterdir() if p.is_dir())
    (package,) = (p for p in packages if source_hash(p / "raycadian") == uploaded)
    uploads = (p for folder in (root, package) for p in folder.rglob("*") if p.is_file())
    files = [p for p in uploads if p.suffix != ".pyc"]  # which the cluster's own Pythons leave beside what was uploaded
    assert not [p for p in files if p.name == "heavy.bin"]
    assert sum(p.stat().st_size for p in files) < UPLOAD_MB * 1e6
    arrived = {p.relative_to(root) for p in files if root in p.parents}
    source = (p for p in package.rglob("*") if p.is_file() and p.suffix in (".py", ".typed"))
    arrived |= {"platform" / p.relative_to(package) for p in source}
    assert arrived == set(plan(tree).files)  # what `raycadian submit` counts and shows
    assert {p.name for p in (root / "datasets").iterdir()} == {p.name for p in (tree / "datasets").iterdir()}
    assert {p.name for p in (root / "jobs" / "recipes").iterdir()} >= {"demo.yaml", "tiny.yaml"}
    assert (package / "raycadian" / "__init__.py").is_file()


@pytest.mark.long
def test_ray_job_submit_runs_a_sweep(cluster, tree, tmp_path):
    folders = ["--runs", str(tmp_path / "runs"), "--snapshots", str(tmp_path / "snapshots")]
    job = cluster.submit(tree, "jobs/tune.py", "jobs/recipes/swept.yaml", *folders)
    assert job.returncode == 0, job.stdout
    (table,) = (tmp_path / "runs" / "sweeps").glob("swept-*/trials.csv")
    assert list(pd.read_csv(table)["status"]) == ["finished"] * 2


def test_raycadian_submit_runs_a_sweep_and_fetch_brings_it_back(cluster, tree, tmp_path):
    folders = ["--runs", tmp_path / "runs", "--snapshots", tmp_path / "snapshots"]
    job = cluster.raycadian(tree, "submit", "tune", "jobs/recipes/swept.yaml", *folders)
    assert job.returncode == 0, job.stdout + job.stderr
    assert "2 trials, best first" in job.stdout and "best: --set training.lr=" in job.stdout, job.stdout
    assert f"upload: {plan(tree)}\n" in job.stderr, job.stderr
    assert "data: datasets/tiny.csv travels with the upload" in job.stderr, job.stderr
    name = job.stderr.split("job ")[1].split()[0]
    listed = cluster.job(name)
    assert (listed["verb"], listed["status"], listed["exit_code"]) == ("tune", "SUCCEEDED", 0)

    fetched = cluster.raycadian(tmp_path, "jobs", "fetch", name, "--to", tmp_path / "here", "--json")
    assert fetched.returncode == 0, fetched.stderr
    (there,) = (tmp_path / "runs" / "sweeps").glob("swept-*")
    (here,) = map(Path, json.loads(fetched.stdout))
    assert here == tmp_path / "here" / "sweeps" / there.name
    assert _contents(here) == _contents(there)
    assert [p.name for p in (tmp_path / "here").iterdir()] == ["sweeps"]  # nothing half-fetched beside it
    assert not list((cluster.head.session / "logs").glob("*.tar"))  # nor left where the dashboard hands out files


def _contents(folder: Path) -> dict[Path, bytes]:
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_job_whose_runs_would_be_lost_ends_at_once(cluster, tree):
    job = cluster.raycadian(tree, "submit", "train", "jobs/recipes/tiny.yaml")
    assert job.returncode == 2, job.stderr
    assert "--runs runs would be lost with the job's folder" in job.stdout
    assert "failed with exit code 2" in job.stderr


@pytest.mark.long
def test_the_exit_status_is_the_jobs_own(cluster, tree):
    sent = cluster.raycadian(tree, "submit", "seven", "--no-wait")
    assert sent.returncode == 0, sent.stderr
    followed = cluster.raycadian(tree, "jobs", "logs", sent.stdout.strip(), "--follow")
    assert followed.returncode == 7
    assert "now True" in followed.stdout and "failed with exit code 7" in followed.stderr
    assert followed.stdout == cluster.raycadian(tree, "jobs", "logs", sent.stdout.strip()).stdout
    asked = cluster.raycadian(tree, "submit", "seven", "--json")
    assert asked.returncode == 7
    body = json.loads(asked.stdout)
    assert (body["status"], body["exit_code"]) == ("FAILED", 7)


@contextmanager
def _cutting_proxy(port: int, patience_s: float) -> Iterator[tuple[str, list[float]]]:
    """A proxy to `port` that cuts every connection after `patience_s`, as load balancers do; its address, and the
    cuts."""
    cuts: list[float] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        both = [asyncio.create_task(pump(reader, back)), asyncio.create_task(pump(there, writer))]
        _, running = await asyncio.wait(both, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        cuts.extend([patience_s] * (len(running) == 2))
        for task in both:
            task.cancel()
        for end in (writer, back):
            end.transport.abort()

    (own,) = free_ports(1)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(serve, "127.0.0.1", own), loop).result()
    yield f"http://127.0.0.1:{own}", cuts
    loop.call_soon_threadsafe(server.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_output_that_a_proxy_cuts_is_taken_up_where_it_broke(cluster, tree):
    with _cutting_proxy(int(cluster.head.dashboard.rsplit(":", 1)[1]), patience_s=2.5) as (address, cuts):
        job = cluster.raycadian(tree, "submit", "counts", "--address", address)
    assert job.returncode == 0, job.stderr
    assert [line for line in job.stdout.splitlines() if line.startswith("count")] == [f"count {n}" for n in range(12)]
    assert cuts, "the proxy cut nothing"


@pytest.mark.long
def test_ctrl_c_leaves_the_job_running_and_stop_ends_it(cluster, tree):
    command = [sys.executable, "-m", "raycadian.cli.main", "submit", "waits"]
    job = subprocess.Popen(
        command, cwd=tree, env=cluster.client, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert any("waiting" in line for line in job.stdout)
        job.send_signal(signal.SIGINT)
        _, said = job.communicate(timeout=JOB_S)
    finally:
        job.kill()
    assert job.returncode == 130, said
    name = said.split("job ")[1].split()[0]
    assert f"job {name} goes on" in said and f"raycadian jobs stop {name}" in said
    assert cluster.job(name)["status"] == "RUNNING"

    assert cluster.raycadian(tree, "jobs", "stop", name).stdout == f"job {name}: STOPPED\n"
    followed = cluster.raycadian(tree, "jobs", "logs", name, "--follow")
    assert followed.returncode == 1 and f"job {name} was stopped" in followed.stderr
    nothing = cluster.raycadian(tree, "jobs", "fetch", name, "--to", tree / "nothing", "--runs", "/tmp/absent")
    assert nothing.returncode == 2 and f"no complete run or sweep of {name} in /tmp/absent" in nothing.stderr


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"RAY_AUTH_TOKEN": "0" * 64}, "refuses the token of RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": "/absent"}, "no token for .* in RAY_AUTH_TOKEN_PATH"),
        ({"RAY_AUTH_TOKEN": "", "HOME": "/absent"}, "no token for .* in ~/.ray/auth_token"),
        ({"RAY_AUTH_MODE": "disabled"}, "asks for a token: unset RAY_AUTH_MODE"),
        ({"RAY_ADDRESS": "http://127.0.0.1:9"}, "nothing answers at http://127.0.0.1:9"),
        ({"RAY_ADDRESS": "127.0.0.1:6379"}, "expected the cluster's dashboard"),
        ({"RAY_ADDRESS": ""}, "which cluster"),
    ],
    ids=["wrong-token", "no-file", "no-token", "disabled", "unreachable", "gcs", "no-address"],
)
def test_a_cluster_that_cannot_be_reached_says_what_to_do(cluster, tree, variables, says):
    sent = cluster.raycadian(tree, "submit", "seven", environment=variables)
    assert sent.returncode == 2, sent.stderr
    assert re.search(says, sent.stderr), sent.stderr
    for token in (cluster.head.environment["RAY_AUTH_TOKEN"], "0" * 64):
        assert token not in sent.stdout + sent.stderr


def test_address_wins_over_the_variable(cluster, tree):
    listed = cluster.raycadian(
        tree, "jobs", "list", "--address", cluster.head.dashboard, environment={"RAY_ADDRESS": "http://127.0.0.1:9"}
    )
    assert listed.returncode == 0, listed.stderr


@pytest.mark.parametrize("script", sorted((ROOT / "jobs").glob("*.py")), ids=lambda p: p.stem)
def test_every_script_is_its_verb(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    assert f" {script.stem} [OPTIONS]" in capsys.readouterr().out
