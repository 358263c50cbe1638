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
from raycadian.training.experiment import load_data
from raycadian.training.tune import sweep

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    helpers.write_csv(folder / "people.csv", n=4, days=3)
    card = {"name": "people", "files": ["people.csv"], "unit": "mg/dL", "columns": {"subject": "subject", "time": "time", "glucose": "glucose"}}  # fmt: skip
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    space = {
        "model.mechanism.prior.taug.sd": {"loguniform": {"low": 0.1, "high": 1.0}},
        "model.inner.adapter.rank": {"choice": [2, 4]},
    }
    (folder / "space.yaml").write_text(yaml.safe_dump({"parameters": space}))
    recipe = {
        "name": "sweep", "dataset": str(folder / "card.yaml"),
        "window": {"context": 36, "horizon": 6, "stride": 6, "eval_stride": 12},
        "model": {"kind": "residual", "mechanism": {"kind": "cma", "refit_days": 1, "starts": 1},
                  "inner": {"kind": "ttm", "d_model": 16, "layers": 1, "adapter": {"kind": "lora", "rank": 2}}},
        "training": {"epochs": 2, "batch_size": 64},
        "tuning": {"space": str(folder / "space.yaml"), "trials": 4},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def data_of(place, recipe):
    return load_data(recipe, place / "snapshots")


def test_a_sweep_lists_priors_and_ranks_and_leaks_nothing(place, ray_local):
    recipe = load_recipe(place / "recipe.yaml")
    told = []
    found = sweep(recipe, data_of(place, recipe), runs=place / "runs", on_trial=told.append)
    assert len(found.table) == len(told) == 4
    assert {"model.mechanism.prior.taug.sd", "model.inner.adapter.rank", "best/val/rmse"} <= set(found.table.columns)
    assert found.table["best/val/rmse"].is_monotonic_increasing
    assert found.best["model.inner.adapter.rank"] == found.table["model.inner.adapter.rank"][0]
    assert override(recipe, found.best).model.mechanism.prior.taug.sd == found.best["model.mechanism.prior.taug.sd"]
    assert (found.path / "trials.csv").is_file()
    assert not (found.path / "tune").exists()  # Tune's own state is gone with the sweep
    from ray.util import placement_group_table

    deadline = time.monotonic() + 30
    while ray_local.available_resources().get("CPU", 0) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert ray_local.available_resources()["CPU"] == 2
    assert not [g for g in placement_group_table().values() if g["state"] == "CREATED"]


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
        ({"training.workers": 2}, "training.workers=1"),
        ({"model": {"kind": "ridge"}}, "search space at model"),
    ],
)
def test_a_sweep_that_cannot_run_says_why_before_it_starts(place, change, message):
    recipe = override(load_recipe(place / "recipe.yaml"), change)
    with pytest.raises(ValueError, match=message):
        sweep(recipe, None, runs=place / "never")


def test_a_killed_sweep_goes_on(place):
    """SIGKILL half-way; --resume runs no finished trial again and ends with all of them."""
    command = [
        sys.executable, "-m", "raycadian.cli", "tune", str(place / "recipe.yaml"), "--runs", str(place / "killed"),
        "--snapshots", str(place / "snapshots"), "--set", "tuning.trials=5", "--set", "tuning.max_concurrent=1", "--set", "training.epochs=3",
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
    assert 2 <= len(before) < 5
    second = subprocess.run(
        [*command, "--resume", "--json"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert second.returncode == 0, second.stderr[-2000:]
    trials = {t["trial"]: t for t in json.loads(second.stdout)["trials"]}
    assert len(trials) == 5
    for name, record in before.items():
        assert trials[name]["seconds"] == record["seconds"]  # not run again
        assert f"trial {name} " not in second.stderr
