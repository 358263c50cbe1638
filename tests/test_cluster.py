"""What a cluster may grow to."""

import logging
import os
import stat
from pathlib import Path

import psutil
import pytest
from clusters import reachable
from hypothesis import given
from hypothesis import strategies as st

from raycadian import cluster
from raycadian.cluster import Capacity, worker_limits

CPU, GPU = {"CPU": 8}, {"CPU": 4, "GPU": 1}
TYPES = {
    "head": {"resources": {"CPU": 0}},
    "cpu": {"resources": CPU, "max_workers": 3},
    "gpu": {"resources": GPU, "max_workers": 2},
}


def _config(max_workers: int, **types: dict) -> dict:
    return {"max_workers": max_workers, "head_node_type": "head", "available_node_types": TYPES | types}


@pytest.mark.parametrize(
    ("config", "limits"),
    [
        (_config(10), {"CPU": 3 * 8 + 2 * 4, "GPU": 2}),
        (_config(4), {"CPU": 3 * 8 + 1 * 4, "GPU": 2}),  # the cluster's own limit: 3 + 1 nodes, or 2 of the GPU type
        (_config(1), {"CPU": 8, "GPU": 1}),
        (_config(0), {}),
        (_config(4, cpu={"resources": CPU}), {"CPU": 4 * 8, "GPU": 2}),  # no limit of its own: the cluster's
        (
            _config(9, driver={"resources": {"CPU": 2, "driver": 4}, "max_workers": 1}),
            {"CPU": 34, "GPU": 2, "driver": 4},
        ),
        (_config(4, head={"resources": {"CPU": 64}, "max_workers": 1}), {"CPU": 64 + 3 * 8, "GPU": 2}),
        (_config(2, cpu={"node_config": {}}), {"CPU": 8, "GPU": 2}),  # resources unknown: counted as none
    ],
)
def test_worker_limits(config, limits):
    assert worker_limits(config) == limits


@given(st.lists(st.tuples(st.integers(0, 64), st.integers(0, 5)), min_size=1, max_size=4), st.integers(0, 12))
def test_limits_never_pass_what_every_type_allows(types, max_workers):
    kinds = {str(i): {"resources": {"CPU": cpu}, "max_workers": n} for i, (cpu, n) in enumerate(types)}
    have = worker_limits({"max_workers": max_workers, "available_node_types": kinds}).get("CPU", 0)
    assert have <= sum(cpu * n for cpu, n in types)
    assert have <= max_workers * max(cpu for cpu, _ in types)
    if max_workers >= sum(n for _, n in types):
        assert have == sum(cpu * n for cpu, n in types)


@pytest.mark.ray
def test_a_cluster_without_an_autoscaler_has_what_it_has(ray_local):
    assert cluster.capacity() == Capacity(cpus=2, gpus=0, driver=False, autoscaling=False)
    assert cluster.cpus() == 2
    assert cluster._limits_of_labels(ray_local.nodes()[0]) is None


def test_the_heads_labels_say_what_kubernetes_does_not():
    node = {"Labels": {"raycadian.io/max-cpus": "64", "raycadian.io/max-gpus": "4", "ray.io/node-id": "ab"}}
    assert cluster._limits_of_labels(node) == {"CPU": 64, "GPU": 4}


def test_small_work_stays_here(monkeypatch):
    monkeypatch.setattr(cluster, "is_connected", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert not cluster.pays(19) and cluster.pays(21)  # a cluster must start first: 4 s + 6 s against half of it
    assert not cluster.worthwhile(3_000_000, 1)  # one person's 90 days
    assert not cluster.worthwhile(10**12, 1)  # nothing to divide
    assert not cluster.worthwhile(20_000_000, 40)
    assert cluster.worthwhile(400_000_000, 40) and cluster.worthwhile(0, 2000)


@pytest.mark.ray
def test_where_a_cluster_is_there_less_work_pays_and_none_in_a_worker(ray_local):
    assert not cluster.pays(7.9) and cluster.pays(8.1)  # on two CPUs
    assert not cluster.is_worker()
    assert ray_local.get(ray_local.remote(cluster.is_worker).remote())
    assert not ray_local.get(ray_local.remote(cluster.pays).remote(10**6))


@pytest.mark.ray
def test_what_libraries_say_of_their_own_work_is_left_out(ray_local, capsys):
    from ray._private import worker

    for line in ("Task ServeController.graceful_shutdown failed. It will be retried.", "a node ran out of memory"):
        worker.print_to_stdstream({"lines": [line], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    printed = capsys.readouterr().out
    assert "ran out of memory" in printed and "graceful_shutdown" not in printed
    serve, deepspeed = map(logging.getLogger, ("ray.serve", "DeepSpeed"))
    lines = [(serve, logging.INFO, "Started Serve"), (serve, logging.WARNING, "no replica")]
    lines.append((deepspeed, logging.WARNING, "Setting accelerator to CPU. If you have GPU ..."))
    records = [(log, log.makeRecord(log.name, level, "", 0, text, (), None)) for log, level, text in lines]
    assert [bool(log.filter(record)) for log, record in records] == [False, True, False]


@pytest.mark.ray
def test_of_a_training_that_lost_a_node_the_user_reads_lines_of_ours(monkeypatch):
    shown = []
    monkeypatch.setattr(cluster, "_print_lines", [lambda data, *rest, **options: shown.extend(data["lines"])])
    report = "Reporting training result 1: TrainingReport(checkpoint=None, metrics={'epoch': 1.0}) from rank 0"
    ours = "WARNING s3://x: the storage did not answer recipe=r rank=1"
    dead = "The node with node id: 23 and address: 10.0.0.2 and node name: x has been marked dead because\n(2) raylet"
    killed = "A worker died or was killed while executing a task by an unexpected system error. Worker PID: 7 Worker ex"
    for data in (
        {"actor_name": "RayTrainWorker", "lines": [report, "Traceback (most recent call last):", ours]},
        {"actor_name": "TrainController", "lines": ["Traceback (most recent call last):", "  File x, line 3"]},
        {"pid": "gcs_server", "lines": ["Failed to remove 1 bundle(s)"]},
        {"pid": "raylet", "lines": [dead]},
        {"pid": "raylet", "lines": [killed, "Task MapWorker.submit failed. There are infinite retries remaining, so"]},
        {"actor_name": "Replica", "lines": ["its own"]},
    ):
        cluster._print_line(data, ignore_prefix=False)
    ended = "WARNING process 7 of the cluster ended in the middle of its work: killed, or out of memory"
    assert shown == [ours, "WARNING node 10.0.0.2 of the cluster is gone", ended, "its own"]


@pytest.mark.ray
def test_a_cluster_of_this_machine_is_reached_from_nowhere_else(ray_local):
    ray_local.get([ray_local.remote(lambda: 1).remote() for _ in range(4)])  # workers, which listen too
    assert len(psutil.Process().children(recursive=True)) > 5
    assert reachable(psutil.Process()) == []


@pytest.mark.ray
def test_what_it_writes_is_its_users_alone(ray_local):
    logs = Path(ray_local._private.worker._global_node.get_logs_dir_path())
    (own,) = [folder for folder in logs.parents if folder.name.startswith("raycadian-")]
    assert stat.S_IMODE(own.stat().st_mode) == 0o700 and own.stat().st_uid == os.getuid()
    readable = [file for file in logs.glob("*") if file.is_file() and file.stat().st_mode & 0o077]
    assert not readable


def test_a_token_that_others_could_read_is_private_afterwards(tmp_path, caplog):
    token = tmp_path / "auth_token"
    token.write_text("secret")
    token.chmod(0o644)
    cluster.keep_private(token)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert "could be read by others" in caplog.text and "secret" not in caplog.text
    caplog.clear()
    cluster.keep_private(token)
    cluster.keep_private(tmp_path / "absent")
    assert not caplog.records


def test_sessions_lie_in_a_folder_that_nobody_else_made(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    own = cluster._sessions().parent
    assert own == tmp_path / f"raycadian-{os.getuid()}" and stat.S_IMODE(own.stat().st_mode) == 0o700
    own.chmod(0o777)
    assert cluster._sessions().parent == own and stat.S_IMODE(own.stat().st_mode) == 0o700
    own.rmdir()
    own.symlink_to(tmp_path / "somebody")
    (tmp_path / "somebody").mkdir()
    assert cluster._sessions().parent not in (own, tmp_path / "somebody")
