"""What clusters do: workers, nodes, drivers and heads that end, storage that fails, nodes about to be taken away.

A real cluster of two nodes; the verbs as a user types them. The curve of a training depends on the seed alone (see
training/loop.py), so a training that went on from its checkpoint must end with the losses of one that nobody disturbed:
nothing was lost but the epoch that was under way.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import helpers
import psutil
import pytest
import yaml
from clusters import Head, kill_node, start_head, start_node

from raycadian.runs import Run, list_runs
from raycadian.tracking import registry

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PATIENCE_S = 280  # two cores that others use too
EPOCHS = 12
TOLERANCE = 1e-3  # relative, over 12 epochs of float32 sums in another order
WAIT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "25"}  # for nodes that are gone: 60 s by default
METRICS = ("train/loss", "val/rmse", "val/mae")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    card = helpers.write_people(folder, n=4, days=3)
    (folder / "space.yaml").write_text("parameters: {training.lr: {loguniform: {low: 1.0e-3, high: 1.0e-2}}}")
    recipe = {
        "name": "fault", "dataset": str(card),
        "window": {"context": 36, "horizon": 6, "stride": 1, "eval_stride": 12},
        "model": {"kind": "ttm", "d_model": 16, "layers": 1, "dropout": 0.0},
        "training": {"epochs": EPOCHS, "batch_size": 64, "early_stopping": None, "device": "cpu"},
        "tuning": {"space": str(folder / "space.yaml"), "trials": 4, "scheduler": "fifo", "search": "random"},
        "evaluation": {"bootstrap": 20}, "tracking": {"mlflow": "off", "tensorboard": False},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head that computes nothing, as in cluster.yaml: tests bring the nodes."""
    with start_head("--num-cpus=0", '--resources={"driver": 1}') as head:
        yield head


class Driver:
    """`raycadian VERB recipe.yaml` in a process of its own, and what it has said so far."""

    def __init__(self, verb: str, place: Path, runs: str, head: Head | None, *options: str):
        environment = dict(os.environ if head is None else head.environment | {"RAY_ADDRESS": head.gcs} | WAIT)
        if head is None:
            environment.pop("RAY_ADDRESS", None)
        command = [
            sys.executable, "-m", "raycadian.cli.main", verb, str(place / "recipe.yaml"), "--runs", str(place / runs),
            "--snapshots", str(place / "snapshots"), *options,
        ]  # fmt: skip
        self.runs, self.log = place / runs, place / f"{runs}-{time.time_ns()}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=subprocess.STDOUT)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def until(self, *words: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not all(word in self.said for word in words):
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)

    def end(self) -> list[dict]:
        """Wait for success; the history of the run."""
        try:
            status = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still at work after {PATIENCE_S} s: {self.said}") from None
        assert status == 0, self.said
        return self.run.metadata["training"]["history"]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    @property
    def run(self) -> Run:
        return list_runs(self.runs)[-1]


@pytest.fixture(scope="module")
def undisturbed(place) -> list[dict]:
    """One process, no cluster."""
    return Driver("train", place, "undisturbed", None).end()


def rows(history: list[dict]) -> list[list[float]]:
    return [[epoch[name] for name in METRICS] for epoch in history]


def assert_same_curve(history: list[dict], undisturbed: list[dict]) -> None:
    assert rows(history) == [pytest.approx(row, rel=TOLERANCE) for row in rows(undisturbed)]
    assert len({epoch["windows"] for epoch in history}) == 1  # every window, once, in every epoch


def workers_of(node: subprocess.Popen) -> list[psutil.Process]:
    """The processes on a node that train."""
    family = psutil.Process(node.pid).children(recursive=True)
    return [p for p in family if "RayTrainWorker" in " ".join(p.cmdline())]


@pytest.fixture(scope="module")
def node(head) -> Iterator[subprocess.Popen]:
    """A node of 2 CPUs that stays."""
    with start_node(head, "--num-cpus=2") as node:
        wait_for_cpus(head, 2)
        yield node


@pytest.fixture
def second(head, node) -> Iterator[subprocess.Popen]:
    """A node of 2 CPUs that a test may end."""
    with start_node(head, "--num-cpus=2", '--resources={"second": 1}') as second:
        wait_for_cpus(head, 4)
        yield second


def wait_for_cpus(head: Head, cpus: int) -> None:
    """Until the cluster has exactly so many."""
    ask(head, f"while ray.cluster_resources().get('CPU', 0) != {cpus}: time.sleep(0.2)")


def ask(head: Head, code: str) -> str:
    """What some lines of Python on the cluster print."""
    lines = ["import ray, time", "ray.init(logging_level=50)", code]
    environment = head.environment | {"RAY_ADDRESS": head.gcs}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
def test_four_workers_on_two_nodes_lose_a_worker_then_a_node(place, head, node, second, undisturbed):
    driver = Driver("train", place, "elastic", head, "--set", "training.workers=[2,4]")
    driver.until("epoch 2 ")
    assert len(workers_of(node) + workers_of(second)) == 4
    workers_of(node)[0].kill()
    driver.until("epoch 5 ")
    kill_node(second)
    assert_same_curve(driver.end(), undisturbed)
    how = driver.run.metadata["training"]
    assert (how["workers"], how["engine"]) == (2, "DistributedDataParallel")


@pytest.mark.long
def test_a_node_that_will_be_taken_away_is_left_in_time(place, head, node, second):
    """The notice of pre-emption that clouds give, as Ray passes it on; a training long enough to be still at work
    then."""
    found = ask(head, "print([n['NodeID'] for n in ray.nodes() if n['Alive'] and 'second' in n['Resources']][0])")
    # sums in another order grow apart with every step, the more the larger it is: 40 epochs of small ones stay together
    longer = ("--set", "training.epochs=40", "--set", "training.lr=1.0e-4")
    undisturbed = Driver("train", place, "undisturbed-40", None, *longer).end()
    driver = Driver(
        "train", place, "notice", head, *longer, "--set", "training.workers=[2,4]", "--set", "training.max_failures=0"
    )
    driver.until("epoch 2 ")
    notice = [
        sys.executable, "-m", "ray.scripts.scripts", "drain-node", f"--address={head.gcs}",
        f"--node-id={found.strip()}",
        "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot", "--deadline-remaining-seconds=5",
    ]  # fmt: skip
    subprocess.run(notice, env=head.environment, check=True, capture_output=True)
    assert_same_curve(driver.end(), undisturbed)
    assert driver.run.metadata["training"]["workers"] == 2


@pytest.mark.long
def test_a_driver_that_is_killed_goes_on_with_resume(place, head, node, undisturbed):
    pair = ("--set", "training.workers=2")
    first = Driver("train", place, "driver", head, *pair)
    first.until("epoch 4 ")
    first.kill()
    again = Driver("train", place, "driver", head, *pair, "--resume")
    assert_same_curve(again.end(), undisturbed)
    assert "epoch 4 " not in again.said  # nothing finished is trained twice
    assert list_runs(again.runs) == [again.run]


@pytest.mark.long
def test_storage_that_is_away_for_a_while_is_waited_for(place, head, node, undisturbed):
    driver = Driver("train", place, "storage", head, "--set", "training.workers=2", "--set", "training.max_failures=0")
    driver.until("epoch 2 ")
    (state,) = driver.runs.glob(".partial-*/state")
    away = state.rename(state.with_name("away"))
    state.write_text("nothing can be written below a file")
    time.sleep(8)
    state.unlink()
    away.rename(state)
    assert_same_curve(driver.end(), undisturbed)


@pytest.mark.long
def test_a_sweep_loses_a_node_but_no_trial(place, head, node, second):
    driver = Driver("tune", place, "sweep", head, "--set", "training.epochs=30")
    deadline = time.monotonic() + PATIENCE_S
    while len(states := list(driver.runs.glob("sweeps/.partial-*/trials/*/state/state.pt"))) < 4:
        assert driver.process.poll() is None and time.monotonic() < deadline, driver.said
        time.sleep(0.05)
    kill_node(second)
    assert driver.process.wait(PATIENCE_S) == 0, driver.said
    trials = [json.loads(file.read_text()) for file in driver.runs.glob("sweeps/fault*/trials/*/trial.json")]
    assert len(states) == len(trials) == 4
    assert {(t["status"], t["epochs"]) for t in trials} == {("finished", 30)}


@pytest.mark.long
def test_a_head_that_is_killed_and_started_again(place, undisturbed):
    """Everything ends with the head; the run's folder on shared storage is what counts."""
    pair = ("--set", "training.workers=2")
    with start_head("--num-cpus=2") as head:
        first = Driver("train", place, "head", head, *pair)
        first.until("epoch 3 ")
        kill_node(head.process)
        first.kill()
    with start_head("--num-cpus=2") as head:
        again = Driver("train", place, "head", head, *pair, "--resume")
        assert_same_curve(again.end(), undisturbed)
        assert "epoch 3 " not in again.said


PROMOTE = """
import sys
from pathlib import Path
from raycadian.tracking import registry
from raycadian.runs import Run
runs = Path(sys.argv[1])
for number in range(10_000):
    registry.promote(Run(runs / sys.argv[2 + number % 2]), check=lambda run: "", runs=runs, force=True)
    print(number, flush=True)
"""


@pytest.mark.long
def test_a_registry_write_is_whole_or_absent(place, undisturbed):
    """A process that promotes two runs in turn is killed again and again: there is a champion, and it is one of
    them."""
    runs = place / "undisturbed"
    (one,) = list_runs(runs)
    if not (runs / "other").exists():
        shutil.copytree(one.path, runs / "other")
    for kill_after_s in (0.0, 0.13, 0.31, 0.52):
        command = [sys.executable, "-c", PROMOTE, str(runs), one.name, "other"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stdout.readline()  # in the middle of things
            time.sleep(kill_after_s)
            process.kill()
        found = registry.champion(runs=runs)
        assert found.name in (one.name, "other")
        assert (found.path / "checkpoint" / "config.json").is_file()
    assert registry.promote(one, check=lambda run: "", runs=runs, force=True).promoted  # and it goes on
