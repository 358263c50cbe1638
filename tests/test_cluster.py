"""What a cluster may grow to."""

from __future__ import annotations

import pytest
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
