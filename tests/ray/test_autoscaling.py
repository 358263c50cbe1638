"""Ray's own autoscaler (v2) on local nodes: a submitted sweep makes the cluster grow from nothing and shrink back."""

import json
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml
from clusters import Head, free_ports, start_head, submit, write_tree

from raycadian.config import load_recipe
from raycadian.training.pipeline import load_data
from raycadian.training.tune import sweep

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long]
PATIENCE_S = 200  # for what takes 40 s on a quiet machine
WORKERS = 3
HEAD_ID, HEAD_TYPE = f"{'f' * 51}00000", "ray.head.default"  # names that the fake provider takes for granted
SWITCHES = {
    "PYTHONPATH": str(Path(__file__).parents[1]),  # where the provider is
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
}
SPACE = "parameters: {training.lr: {loguniform: {low: 1.0e-3, high: 1.0e-2}}}"
RECIPE = """\
name: scaled
dataset: datasets/tiny.yaml
window: {context: 24, horizon: 6, stride: 4}
model: {kind: lstm, hidden: 8, layers: 1, dropout: 0.0}
training: {epochs: 3, batch_size: 64}
tuning: {space: search_spaces/lr.yaml, trials: 6, search: random, scheduler: fifo}
tracking: {mlflow: off, tensorboard: false}
"""


def _autoscaling(gcs: str, folder: Path) -> dict:
    """What `ray up` would hand to the head: nothing to install, and nodes that are processes of this machine."""
    kinds = {HEAD_TYPE: ({"CPU": 0}, 0), "worker": ({"CPU": 1, "object_store_memory": 100_000_000}, WORKERS)}
    provider = {
        "type": "external", "module": "local_nodes.LocalNodes", "launch_multiple": True, "head_node_id": HEAD_ID,
        "gcs_address": gcs, "folder": str(folder),
    }  # fmt: skip
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "local", "max_workers": WORKERS, "idle_timeout_minutes": 0.1, "provider": provider,
        "available_node_types": {
            name: {"resources": has, "min_workers": 0, "max_workers": most, "node_config": {}}
            for name, (has, most) in kinds.items()
        },
        "head_node_type": HEAD_TYPE, "auth": {}, "file_mounts": {}, "cluster_synced_files": [],
    } | {f"{name}_commands": [] for name in commands}  # fmt: skip


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="rc-") as folder:  # short: it will hold the nodes' sockets
        config = Path(folder) / "cluster.yaml"
        config.write_text(yaml.safe_dump(_autoscaling(f"127.0.0.1:{port}", Path(folder))))
        options = ("--num-cpus=0", f"--autoscaling-config={config}")
        with start_head(*options, environment=SWITCHES, gcs_port=port) as head:
            yield head


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    tree = write_tree(tmp_path_factory.mktemp("tree"))
    (tree / "search_spaces" / "lr.yaml").write_text(SPACE)
    (tree / "jobs" / "recipes" / "scaled.yaml").write_text(RECIPE)
    return tree


def _workers(head: Head) -> int:
    """Nodes that are alive beside the head, by the cluster's own State API."""
    token = {"Authorization": f"Bearer {head.environment['RAY_AUTH_TOKEN']}"}
    request = urllib.request.Request(f"{head.dashboard}/api/v0/nodes", headers=token)
    with urllib.request.urlopen(request, timeout=30) as answer:
        nodes = json.load(answer)["data"]["result"]["result"]
    return sum(node["state"] == "ALIVE" and not node["is_head_node"] for node in nodes)


def _watch(head: Head, job: subprocess.Popen[str]) -> list[int]:
    """The number of workers, each half second, until the job has ended and its nodes are gone, or patience has."""
    seen, deadline = [_workers(head)], time.monotonic() + PATIENCE_S
    while (job.poll() is None or seen[-1] > 0) and time.monotonic() < deadline:
        time.sleep(0.5)
        seen.append(_workers(head))
    return seen


def test_a_sweep_grows_the_cluster_from_0_to_3_and_back_and_finds_the_same(
    head, tree, tmp_path, monkeypatch, ray_local
):
    folders = ["--runs", str(tmp_path / "runs"), "--snapshots", str(tmp_path / "snapshots")]
    job = submit(head, tree, "jobs/tune.py", "jobs/recipes/scaled.yaml", *folders)
    try:
        seen = _watch(head, job)
    finally:
        job.kill()
        printed, _ = job.communicate()
    assert job.returncode == 0, (seen, printed)
    assert (seen[0], max(seen), seen[-1]) == (0, WORKERS, 0), seen
    (table,) = (tmp_path / "runs" / "sweeps").glob("scaled-*/trials.csv")
    scaled = pd.read_csv(table).sort_values("training.lr")

    monkeypatch.chdir(tree)
    recipe = load_recipe(Path("jobs/recipes/scaled.yaml"), ())
    same = sweep(recipe, load_data(recipe, tmp_path / "snapshots"), runs=tmp_path / "local").table
    same = same.sort_values("training.lr")
    assert list(scaled["status"]) == ["finished"] * 6
    assert list(scaled["training.lr"]) == pytest.approx(list(same["training.lr"]), rel=1e-12)
    assert list(scaled["best/val/rmse"]) == pytest.approx(list(same["best/val/rmse"]), abs=1e-6)
