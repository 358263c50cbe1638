"""Sweeps on a real Ray: tables, best on validation data, nothing leaked, and going on after SIGKILL."""

import json
import os
import signal
import subprocess
import sys
import time

import helpers
import pytest
import yaml

from raycadian.config import load_recipe, override
from raycadian.training.pipeline import load_data
from raycadian.training.tune import sweep

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    card = helpers.write_people(folder, n=4, days=3)
    space = {
        "model.mechanism.prior.taug.sd": {"loguniform": {"low": 0.1, "high": 1.0}},
        "model.inner.adapter.rank": {"choice": [2, 4]},
    }
    (folder / "space.yaml").write_text(yaml.safe_dump({"parameters": space}))
    recipe = {
        "name": "sweep", "dataset": str(card),
        "window": {"context": 36, "horizon": 6, "stride": 6, "eval_stride": 12},
        "model": {"kind": "residual", "mechanism": {"kind": "cma", "refit_days": 1, "starts": 1},
                  "inner": {"kind": "ttm", "d_model": 16, "layers": 1, "adapter": {"kind": "lora", "rank": 2}}},
        "training": {"epochs": 2, "batch_size": 64},
        "tuning": {
            "space": str(folder / "space.yaml"), "trials": 4,
            "first": [{"model.mechanism.prior.taug.sd": 0.3, "model.inner.adapter.rank": rank} for rank in (2, 4)],
        },
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def data_of(place, recipe):
    return load_data(recipe, place / "snapshots")


def test_a_sweep_lists_priors_and_ranks_and_leaks_nothing(place, left):
    recipe = load_recipe(place / "recipe.yaml")
    told = []
    found = sweep(recipe, data_of(place, recipe), runs=place / "runs", on_trial=told.append)
    assert len(found.table) == len(told) == 4
    assert {"model.mechanism.prior.taug.sd", "model.inner.adapter.rank", "best/val/rmse"} <= set(found.table.columns)
    assert found.table["best/val/rmse"].is_monotonic_increasing
    assert found.best["model.inner.adapter.rank"] == found.table["model.inner.adapter.rank"][0]
    assert override(recipe, found.best).model.mechanism.prior.taug.sd == found.best["model.mechanism.prior.taug.sd"]
    assert (found.path / "trials.csv").is_file()
    cache = place / "snapshots" / ".cache"
    assert len([folder for folder in cache.iterdir() if folder.is_dir()]) == 1  # one table for all trials
    assert len(list(cache.glob("fits-*.json"))) == 3  # of four trials, two of which have one prior
    assert not (found.path / "tune").exists()  # Tune's own state is gone with the sweep
    assert left(found) == set()


@pytest.fixture
def left(ray_local):
    """What a sweep left behind once it had time to clean up: CPUs that are taken, placement groups, actors, files of
    Tune or of a trial's training. What was there before the test isn't the sweep's."""
    from ray._private.services import find_gcs_addresses
    from ray.util import placement_group_table
    from ray.util.state import list_actors

    def alive():
        address = ray_local.get_runtime_context().gcs_address
        groups = {f"group {name}" for name, g in placement_group_table().items() if g["state"] != "REMOVED"}
        actors = {f"{a.class_name} {a.actor_id}" for a in list_actors(address=address, limit=1000) if a.state != "DEAD"}
        return groups | {actor for actor in actors if not actor.startswith(KEPT)}

    before, cpus = alive(), ray_local.available_resources().get("CPU", 0)

    def now(found):
        files = {str(path) for path in (*found.path.glob("tune*"), *found.path.glob("trials/*/state"))}
        taken = {"CPUs"} if ray_local.available_resources().get("CPU", 0) < cpus else set()
        return (alive() - before) | files | taken

    def wait(found):
        deadline = time.monotonic() + 90
        while now(found) and time.monotonic() < deadline:
            time.sleep(0.5)
        if now(found) and len(find_gcs_addresses()) > 1:
            pytest.skip("Ray Train's cleaner can't tell its cluster from the others that run on this machine")
        return now(found)

    return wait


# one each for a whole cluster, started by Ray when it is first needed
KEPT = (
    "AutoscalingCoordinator",
    "_AutoscalingCoordinatorActor",
    "_StatsActor",
    "TrainStateActor",
    "_ActorLocationTracker",
    "ActorLocationTracker",
)


@pytest.mark.long
def test_trials_of_two_workers_stop_early_and_leave_nothing(place, left):
    recipe = override(load_recipe(place / "recipe.yaml"), {
        "name": "wide", "model": {"kind": "ttm", "d_model": 16, "layers": 1}, "training.workers": 2,
        "training.epochs": 4,
        "training.early_stopping": None, "tuning.space": str(place / "lr.yaml"), "tuning.trials": 2,
        "tuning.first": [{"training.lr": 3e-3}, {"training.lr": 1e-7}],
    })  # fmt: skip
    (place / "lr.yaml").write_text("parameters: {training.lr: {loguniform: {low: 1.0e-7, high: 1.0e-2}}}")
    found = sweep(recipe, data_of(place, recipe), runs=place / "runs")
    assert found.table["training.lr"].tolist() == [3e-3, 1e-7]
    assert found.table["epochs"].tolist()[0] == 4
    assert found.table["epochs"].tolist()[1] < 4  # stopped by ASHA
    assert left(found) == set()


@pytest.mark.long
def test_the_best_of_an_earlier_sweep_is_tried_first_and_hyperband_pauses(place, left):
    recipe = override(load_recipe(place / "recipe.yaml"), {"name": "warm", "tuning.search": "random"})
    data = data_of(place, recipe)
    earlier = sweep(override(recipe, {"tuning.trials": 2}), data, runs=place / "runs")
    second = override(
        recipe, {"tuning.warm_start": [str(earlier.path)], "tuning.scheduler": "hyperband", "name": "next"}
    )
    told = []
    found = sweep(second, data, runs=place / "runs", on_trial=told.append)
    assert earlier.best in [record["params"] for record in told]
    assert set(found.table["status"]) == {"finished"}
    assert left(found) == set()


@pytest.mark.long
def test_laggards_of_a_population_go_on_from_the_leaders(place, left):
    recipe = override(load_recipe(place / "recipe.yaml"), {
        "name": "population", "model": {"kind": "ttm", "d_model": 16, "layers": 1}, "training.epochs": 6,
        "training.schedule": "constant", "training.early_stopping": None,
        "tuning": {"space": str(place / "rates.yaml"), "trials": 4, "scheduler": "pbt", "first": [
            {"training.lr": 3e-3}, {"training.lr": 2e-3}, {"training.lr": 1e-8}, {"training.lr": 1e-8},
        ]},
    })  # fmt: skip
    (place / "rates.yaml").write_text("parameters: {training.lr: {loguniform: {low: 1.0e-8, high: 1.0e-2}}}")
    found = sweep(recipe, data_of(place, recipe), runs=place / "runs")
    assert set(found.table["status"]) == {"finished"}
    assert set(found.table["epochs"]) == {6}
    assert (found.table["training.lr"] == 1e-8).sum() < 2  # a laggard took other rates
    assert found.table["best/val/rmse"].max() < 1.5 * found.table["best/val/rmse"].min()  # and a leader's weights
    assert left(found) == set()


def test_a_trial_that_fails_is_listed_with_its_reason_and_the_others_go_on(place, left):
    """A width that doesn't fit into memory, one that LoRA can't have, and a good one."""
    recipe = override(load_recipe(place / "recipe.yaml"), {
        "name": "failing", "model": {"kind": "ttm", "layers": 1}, "tuning.space": str(place / "width.yaml"),
        "tuning.trials": 3,
        "tuning.first": [{"model.d_model": 16}, {"model.d_model": 3_000_000}, {"model.d_model": 17}],
    })  # fmt: skip
    (place / "width.yaml").write_text("parameters: {model.d_model: {choice: [16, 17, 3000000]}}")
    found = sweep(recipe, data_of(place, recipe), runs=place / "runs")
    rows = found.table.set_index("model.d_model")
    print(rows.T)
    assert rows.status[16] == "finished"
    assert rows.status[3_000_000] == "failed"
    assert "memory" in rows.error[3_000_000]
    assert left(found) == set()


def test_a_complete_sweep_is_reused_and_extended(place, ray_local):
    recipe = load_recipe(place / "recipe.yaml")
    data = data_of(place, recipe)
    told = []
    again = sweep(recipe, data, runs=place / "runs", resume=True, on_trial=told.append)
    assert not told
    assert len(again.table) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tuning": None}, "has no `tuning`"),
        ({"training.workers": 8}, "a trial of 8 workers needs as many CPUs; the cluster has 2"),
        ({"tuning.scheduler": "pbt"}, "in the middle of a training"),
        ({"tuning.first": [{"training.lr": 0.1}]}, "which the search space lacks"),
        ({"model": {"kind": "ridge"}}, "search space at model"),
    ],
)
def test_a_sweep_that_cannot_run_says_why_before_it_starts(place, change, message, ray_local):
    recipe = override(load_recipe(place / "recipe.yaml"), change)
    with pytest.raises(ValueError, match=message):
        sweep(recipe, None, runs=place / "never")


def test_a_killed_sweep_goes_on(place):
    """SIGKILL half-way; --resume runs no finished trial again and ends with all of them."""
    command = [
        sys.executable, "-m", "raycadian.cli.main", "tune", str(place / "recipe.yaml"), "--runs", str(place / "killed"),
        "--snapshots", str(place / "snapshots"), "--set", "tuning.trials=4", "--set", "tuning.max_concurrent=1",
        "--set", "training.epochs=3",
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def finished():
        records = [json.loads(p.read_text()) for p in (place / "killed").glob("sweeps/.partial-*/trials/*/trial.json")]
        return {r["trial"]: r for r in records if r["status"] == "finished"}

    deadline = time.monotonic() + 180
    while len(finished()) < 2 and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = finished()
    assert 2 <= len(before) < 4
    second = subprocess.run(
        [*command, "--resume", "--json"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert second.returncode == 0, second.stderr[-2000:]
    trials = {t["trial"]: t for t in json.loads(second.stdout)["trials"]}
    assert len(trials) == 4
    for name, record in before.items():
        assert trials[name]["seconds"] == record["seconds"]  # not run again
        assert f"trial {name} " not in second.stderr
