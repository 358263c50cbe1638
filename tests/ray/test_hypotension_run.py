"""`raycadian run` on .vital files: hypotension ahead by TTM's backbone frozen (FM), with its last layer or LoRA (FT),
on two DDP workers, up to a champion that answers for a case it has never seen; the pressure itself, 30 min -> 15 min.
Synthetic cases."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from raycadian.cli.main import main
from raycadian.config import Hypotension
from raycadian.modalities.biosignals.request import Stored
from raycadian.modalities.biosignals.simulate import simulate_cases
from raycadian.runs import list_runs
from raycadian.serving.forecaster import Forecaster
from raycadian.serving.label import LabelPredictor
from raycadian.tracking import registry
from raycadian.training.pipeline import read_predictions

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TTM = {"kind": "ttm_label", "d_model": 16, "layers": 2, "patch_length": 50, "pieces": 3}
MODES = {
    "ttm_label_head": {"adapter": {"kind": "head"}},  # FM: the backbone as it is
    "ttm_label_lora": {"adapter": {"kind": "lora", "rank": 2}},  # FT
    "ttm_label_last_n": {"adapter": {"kind": "last_n", "n": 1}},  # FT
    "ttm_label": {"channels": "mixed", "head": "mlp"},  # FT: all weights
}


@pytest.fixture(scope="module")
def card(tmp_path_factory) -> Path:
    return simulate_cases(18, 30, 4, tmp_path_factory.mktemp("synthetic") / "cases")


def invoke(raw: dict, folder: Path, snapshots: Path, *more: str) -> str:
    """What `raycadian run` says of a recipe; `folder` gets its runs."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(raw))
    asked = ["run", str(recipe), "--runs", str(folder / "runs"), "--snapshots", str(snapshots), *more]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


@pytest.mark.long
def test_frozen_last_layer_lora_and_all_weights_in_one_process_and_on_two_workers(card, tmp_path, ray_local):
    sections = [TTM | changes for changes in MODES.values()]
    recipe = {
        "name": "modes", "dataset": str(card), "split": {"kind": "subject", "test_subjects": 0.34, "val_subjects": 0.4},
        "window": {"kind": "signal", "windows": 3, "step_s": 20, "eval_step_s": 20, "past": ["ecg_mv", "ppg",
        "abp_mmhg"]},
        "task": {"kind": "classify", "label": {"kind": "hypotension", "ahead_min": 5}, "calibration": "chosen"},
        "evaluation": {"bootstrap": 100},
        "training": {"epochs": 2, "batch_size": 64, "lr": 3e-3, "device": "cpu", "precision": "fp32"},
    }  # fmt: skip
    shared = {"model": sections[0], "compare": sections[1:2], "name": "shared"}
    said = invoke(recipe | shared, tmp_path, card.parents[1] / "snapshots", "--set", "training.workers=2")
    said += invoke(recipe | {"model": sections[2], "compare": sections[3:]}, tmp_path, card.parents[1] / "snapshots")
    runs = {run.metadata["model"]: run for run in list_runs(tmp_path / "runs")}
    assert set(runs) == set(MODES)
    trained = {name: run.metadata["trainable"] for name, run in runs.items()}
    assert trained["ttm_label_head"] < trained["ttm_label_lora"] < trained["ttm_label"]
    assert trained["ttm_label_head"] < trained["ttm_label_last_n"] < runs["ttm_label_last_n"].metadata["parameters"]
    for name, run in runs.items():
        how, scores = run.metadata["training"], run.summary["test"]
        if run.recipe.training.workers == 2:
            assert (how["engine"], how["workers"]) == ("DistributedDataParallel", 2), name
        assert how["history"][-1]["train/loss"] < how["history"][0]["train/loss"], name
        assert {"auroc", "ece", "ece_chance"} <= set(scores) and np.isfinite(scores["auroc"]["value"])
        assert (
            f"{name}: test AUROC" in said and "calibrated probabilities give" in (run.path / "report.html").read_text()
        )
    assert [runs[name].recipe.training.workers for name in MODES] == [2, 2, 1, 1]
    assert "mg/dL" not in said and "champion of synthetic_cases-classify-hypotension-5min" in said
    champion = registry.champion(runs=tmp_path / "runs")
    new = simulate_cases(1, 12, 99, tmp_path / "new").parent
    answer = LabelPredictor.load(champion.path, new).answer(Stored("someone", "synthetic-0001.vital")).as_dict()
    found = [w["probability"] for w in answer["windows"] if w["probability"] is not None]
    assert len(found) > 20 and all(0 < p < 1 for p in found)
    assert Hypotension.model_validate(answer["label"]) == Hypotension()
    json.dumps(answer, allow_nan=False)


def test_the_pressure_itself_minute_by_minute(card, tmp_path, ray_local):
    """30 min -> 15 min: the last value, a linear model, TTM; in mmHg throughout."""
    recipe = {
        "name": "map", "dataset": str(card), "split": {"kind": "subject", "test_subjects": 0.34, "val_subjects": 0.4},
        "window": {"context": 10, "horizon": 5, "past": ["map_mmhg"], "known": [], "eval_stride": 1},
        "task": {"kind": "forecast", "target": "map_mmhg"}, "evaluation": {"bootstrap": 100},
        "model": {"kind": "ttm", "d_model": 16, "layers": 1, "patch_length": 5},
        "compare": [{"kind": "persistence"}, {"kind": "ridge", "lags": 5}],
        "training": {"epochs": 3, "batch_size": 64, "lr": 3e-3, "device": "cpu", "precision": "fp32"},
    }  # fmt: skip
    said = invoke(recipe, tmp_path, card.parents[1] / "snapshots")
    runs = {run.metadata["model"]: run for run in list_runs(tmp_path / "runs")}
    rmse = {name: run.summary["test"]["rmse_mmhg"] for name, run in runs.items()}
    assert set(rmse) == {"ttm", "persistence", "ridge"} and all(1 < r["low"] < r["value"] < 20 for r in rmse.values())
    assert rmse["ridge"]["value"] < 1.05 * rmse["persistence"]["value"], rmse
    assert not [name for name in runs["ttm"].summary["test"] if "mgdl" in name or "hypo" in name or "clarke" in name]
    report = (runs["ttm"].path / "report.html").read_text()
    assert "ttm forecasts map_mmhg up to 5 minutes ahead" in report and "RMSE, mmHg" in report
    for text in (said, report.split("Definitions")[0]):
        assert "mg/dL" not in text and "lucose" not in text
    assert "champion of synthetic_cases-forecast-map_mmhg-5" in said
    people = read_predictions(runs["ttm"])
    assert people.target == "map_mmhg" and people.dt_min == 1 and 40 < np.nanmedian(people.truth) < 120
    with pytest.raises(ValueError, match="forecasts map_mmhg: the endpoint takes readings of glucose alone"):
        Forecaster.load(runs["ttm"].path)
