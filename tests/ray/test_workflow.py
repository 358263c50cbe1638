"""From a CSV to a champion, through the command line and through Python, on small synthetic people."""

import json

import helpers
import pytest
import yaml
from click.testing import CliRunner

from raycadian import workflow
from raycadian.cli.main import main
from raycadian.config import Evaluation, load_recipe, override
from raycadian.evaluation.forecast.event_probability import fit_lows, read_calibrations
from raycadian.evaluation.forecast.event_scores import probability_scores
from raycadian.models import checkpoint
from raycadian.runs import list_runs
from raycadian.tracking import registry
from raycadian.training.pipeline import load_data, read_predictions

pytestmark = pytest.mark.ray

RECIPE = {
    "name": "small",
    "dataset": "card.yaml",
    "split": {"kind": "hybrid"},
    "window": {"context": 36, "horizon": 6, "stride": 4, "eval_stride": 6},
    "model": {"kind": "residual", "mechanism": {"kind": "cma", "refit_days": 1}, "inner": {"kind": "ttm",
    "d_model": 16, "layers": 2}},
    "compare": [{"kind": "persistence"}, {"kind": "ridge", "lags": 6}],
    "training": {"epochs": 2, "batch_size": 64, "lr": 2e-3},
    "evaluation": {"bootstrap": 100},
    "tracking": {"wandb": "offline"},
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory, ray_local):
    """A folder with a data set, its card and a recipe, and what `run` made of them."""
    folder = tmp_path_factory.mktemp("place")
    card = helpers.write_people(folder, n=5, days=4)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"dataset": str(card)}))
    return folder


@pytest.fixture(scope="module")
def outcome(place):
    recipe = load_recipe(place / "recipe.yaml")
    return workflow.run(recipe, workflow.Quiet(), runs=place / "runs", snapshots=place / "snapshots")


def cli(place, *arguments, code=0):
    options = ["--runs", str(place / "runs")] if arguments[0] in VERBS_WITH_RUNS else []
    result = CliRunner().invoke(main, [*map(str, arguments), *options])
    assert result.exit_code == code, result.output
    return result


VERBS_WITH_RUNS = {"train", "run", "tune", "score", "compare", "runs", "promote", "export"}


def test_a_run_folder_holds_everything(outcome):
    found = {p.name for p in outcome.main.path.iterdir()}
    assert found == {
        "recipe.yaml", "metadata.json", "split.json", "checkpoint", "predictions.parquet", "predictions_val.parquet",
        "metrics_summary.json", "detailed_results.csv", "leaderboard.csv", "mechanism.json", "event_calibration.json",
        "report.html",
        "MODEL_CARD.md", "canary.safetensors", "manifest.json",
    }  # fmt: skip
    assert {p.name for p in (outcome.main.path / "checkpoint").iterdir()} >= {
        "model.safetensors",
        "config.json",
        "preprocessing.json",
    }
    metadata = outcome.main.metadata
    assert metadata["training"]["engine"] == "in-process"
    assert metadata["snapshot"].startswith("people-")
    assert metadata["environment"]["packages"]["ray"]


def test_probabilities_of_lows_are_calibrated_on_validation_and_scored_on_test(outcome):
    run = outcome.main
    expected, _ = fit_lows(read_predictions(run, "val"))
    assert read_calibrations(run.path / "event_calibration.json") == expected
    rows = probability_scores(read_predictions(run), expected, Evaluation(bootstrap=2))
    summary = run.summary["test"]
    assert {m for m in summary if "_probability_" in m} == set(rows.get("metric", ()))
    assert {"rmse_mgdl", "hypo70_lead_time_min", "gri_error", "temporal_gain_min"} <= set(summary)
    assert not any("_probability_" in m for m in run.summary["val"])  # that would be judging the calibration by itself


def test_the_leaderboard_has_every_model_with_intervals(outcome):
    assert set(outcome.leaderboard.model) == {"residual-ttm", "ridge", "persistence"}
    assert outcome.leaderboard[["low", "high"]].notna().all().all()


def test_the_champion_is_the_best_on_validation_data(outcome, place):
    scores = {r.name: r.summary["val"]["rmse_mgdl"]["value"] for r in outcome.ranked}
    assert registry.champion(runs=place / "runs").name == min(scores, key=scores.get)
    assert outcome.promotion.promoted


def test_parts_of_the_hybrid_sum_to_its_median(outcome):
    p = read_predictions(outcome.main)
    assert abs(p.parts["mechanism"] + p.parts["correction"] - p.median).max() < 1e-3


def test_the_mechanism_never_sees_what_it_forecasts(outcome):
    """Every own fit's cutoff lies at or before the windows it serves: changing later data can't change it."""
    records = json.loads((outcome.main.path / "mechanism.json").read_text())
    assert records[0]["subject"] == "(population)"
    assert any(r["subject"] != "(population)" for r in records)


def test_a_weaker_run_is_not_promoted_unless_forced(outcome, place):
    weakest = outcome.ranked[-1]
    result = cli(place, "promote", weakest.name, code=1)
    assert "NOT the champion" in result.output
    assert "is not below the champion's" in result.output
    assert "forced" in cli(place, "promote", weakest.name, "--force").output
    assert json.loads(cli(place, "promote", outcome.ranked[0].name, "--json").output)["promoted"]


def test_runs_on_other_windows_are_not_comparable(outcome, place):
    recipe = override(
        load_recipe(place / "recipe.yaml"),
        {"model": {"kind": "persistence"}, "window.eval_stride": 9, "name": "other", "compare": []},
    )
    run = workflow.train(recipe, load_data(recipe, place / "snapshots"), workflow.Quiet(), runs=place / "runs")
    refused = workflow.promote(run, runs=place / "runs")
    assert not refused.promoted
    assert "other windows" in refused.reason
    result = cli(place, "compare", run.name, outcome.main.name, code=2)
    assert "compare runs of one recipe" in result.output


def test_resume_reuses_what_is_complete(outcome, place):
    recipe = load_recipe(place / "recipe.yaml")
    before = {r.name for r in list_runs(place / "runs")}
    again = workflow.run(recipe, workflow.Quiet(), runs=place / "runs", snapshots=place / "snapshots", resume=True)
    assert {r.name for r in list_runs(place / "runs")} == before
    assert again.main.name == outcome.main.name


def test_the_same_recipe_gives_the_same_forecasts(outcome, place):
    recipe = load_recipe(place / "recipe.yaml")
    again = workflow.train(recipe, load_data(recipe, place / "snapshots"), workflow.Quiet(), runs=place / "again")
    one, two = read_predictions(outcome.main), read_predictions(again)
    assert abs(one.quantiles - two.quantiles).max() < 1e-3


def test_trackers_wrote_locally(outcome, place):
    assert list((place / "runs" / "wandb").glob("offline-run-*"))
    assert list((place / "runs" / "tensorboard" / "small").glob("events*"))
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{place / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    (logged,) = client.search_runs([experiment.experiment_id], "tags.`raycadian.run` = '" + outcome.main.name + "'")
    assert logged.data.metrics["test/rmse_mgdl"] == pytest.approx(outcome.main.summary["test"]["rmse_mgdl"]["value"])
    assert logged.data.params["model.kind"] == "residual"
    for name in ("val/rmse", "windows_per_s", "data/wait", "data/bytes"):
        assert len(client.get_metric_history(logged.info.run_id, name)) == 2, name


def test_verbs_read_the_runs(outcome, place):
    rows = json.loads(cli(place, "runs", "--json").output)
    assert {r["run"] for r in rows} >= {r.name for r in outcome.ranked}
    assert "test RMSE" in cli(place, "score", outcome.main.name).output
    names = [r.name for r in outcome.ranked]
    board = json.loads(cli(place, "compare", *names, "--json").output)
    assert [b["model"] for b in board["leaderboard"]] == list(outcome.leaderboard.model)
    assert board["protocol"] == "sliding windows, every 6 points, 36 -> 6 points"
    assert len([d for d in board["differences"] if d["kind"] == "cumulative"]) == 3
    assert set(board["ranks"]["mean"]) == set(outcome.leaderboard.model)
    assert any(d["sentence"] in cli(place, "compare", *names).output for d in board["differences"])
    assert "no such run" in cli(place, "score", "nothing", code=2).output


def test_export_starts_another_recipe(outcome, place):
    target = place / "exported"
    cli(place, "export", outcome.main.name, "--to", target)
    model = {
        "kind": "ttm",
        "d_model": 16,
        "layers": 2,
        "pretrained": str(target),
        "adapter": {"kind": "lora", "rank": 2},
    }
    recipe = override(
        load_recipe(place / "recipe.yaml"), {"name": "tuned", "model": model, "compare": [], "training.epochs": 1}
    )
    run = workflow.train(recipe, load_data(recipe, place / "snapshots"), workflow.Quiet(), runs=place / "runs")
    assert run.metadata["trainable"] < run.metadata["parameters"]
    assert checkpoint.load(run.path / "checkpoint").config.pretrained == str(target)


def test_a_wrong_recipe_is_one_message(place):
    result = cli(place, "train", place / "recipe.yaml", "--set", "training.epochz=1", code=2)
    assert "did you mean 'epochs'" in result.output
    assert "Traceback" not in result.output
