"""`ray job submit` to a cluster whose Python knows the dependencies, but not the package, or an older copy of it."""

from __future__ import annotations

import json
import runpy
import secrets
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from clusters import ROOT, Head, start_head, submit, write_tree

from raycadian.training.run import Run, list_runs, source_hash

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
WHERE = """\
import json, sys
from raycadian.cluster import connect
from raycadian.training.run import source_hash

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
    (tree / "jobs" / "where.py").write_text(WHERE)
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
    assert "model.persistence.knid: unknown key; did you mean 'kind'?" in job.stdout, job.stdout
    assert "exit code 2" in job.stdout, job.stdout


@pytest.mark.usefixtures("trained")
def test_the_upload_is_small_and_has_the_cards(cluster, tree):
    (root,) = (p for p in (cluster.uploads / "working_dir_files").iterdir() if p.is_dir())
    (package,) = (p for p in (cluster.uploads / "py_modules_files").iterdir() if p.is_dir())
    files = [p for folder in (root, package) for p in folder.rglob("*") if p.is_file()]
    assert not [p for p in files if p.name == "heavy.bin"]
    assert sum(p.stat().st_size for p in files) < UPLOAD_MB * 1e6
    assert {p.name for p in (root / "datasets").iterdir()} == {p.name for p in (tree / "datasets").iterdir()}
    assert {p.name for p in (root / "jobs" / "recipes").iterdir()} >= {"demo.yaml", "tiny.yaml"}
    assert (package / "raycadian" / "__init__.py").is_file()


@pytest.mark.parametrize("script", sorted((ROOT / "jobs").glob("*.py")), ids=lambda p: p.stem)
def test_every_script_is_its_verb(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    assert f" {script.stem} [OPTIONS]" in capsys.readouterr().out
