"""The one writer of experiments, on predictions that are made up: forecasts of glucose, of a numeric, and labels."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from label_scores import made, predictions
from prediction_cases import forecasts, shifted

from raycadian.config import Recipe, override, parse
from raycadian.evaluation.label.decision import Calibration, Decided, Decision
from raycadian.experiments import report
from raycadian.experiments.points import ExperimentPoint
from raycadian.experiments.scoring import ForecastScoring, LabelScoring, scoring_of

RAW = Decision(1, "soft", 0.0, Calibration("none"), 0.5)
SETTINGS = {"evaluation": {"bootstrap": 40}, "name": "made-up", "dataset": "d.yaml"}
LABEL = {"kind": "classify", "label": {"kind": "column", "name": "ill"}}
WEEKS = {
    "kind": "signal",
    "window_s": 86400,
    "windows": 7,
    "step_s": 86400,
    "eval_step_s": 86400,
    "past": ["activity_counts"],
}
FILES = {"recipe.yaml", "table.csv", "table.json", "differences.csv", "figure.svg", "report.html"}


def forecasting(experiment: dict | None, target: str = "glucose_mgdl") -> Recipe:
    body = {
        "model": {"kind": "ridge", "lags": 6},
        "task": {"target": target},
        "window": {"past": [target], "known": []},
    }
    return parse(Recipe, SETTINGS | body | {"experiment": experiment})


def labelling(experiment: dict, task: dict) -> Recipe:
    split = {"kind": "subject", "test_subjects": 0.3, "val_subjects": 0.3}
    body = {"model": {"kind": "statistics", "features": "rhythm"}, "task": task, "window": WEEKS, "split": split}
    return parse(Recipe, SETTINGS | body | {"experiment": experiment})


def point(line: str, x: object, name: str, group: str = "", level: bool = False) -> ExperimentPoint:
    return ExperimentPoint(line, x, name, group, (), level=level)


def written(folder: Path, recipe: Recipe, points: list[ExperimentPoint], results: list) -> tuple[dict, str]:
    """table.json and the page."""
    report.write(folder, recipe, points, results, [[f"run-{i}"] for i in range(len(points))])
    assert {path.name for path in folder.iterdir()} == FILES
    return json.loads((folder / "table.json").read_text()), (folder / "report.html").read_text()


def test_errors_by_minutes_ahead(tmp_path):
    p = forecasts(windows=30)
    recipe = forecasting({"kind": "sliding_window"})
    points = [point("off", None, "off"), point("good", None, "good")]
    body, html = written(tmp_path, recipe, points, [shifted(p, 20), p])
    assert (body["differences"][0]["model"], body["differences"][0]["other"]) == ("good", "off")
    assert {row["kind"] for row in body["rows"]} == {"step", "cumulative"}
    assert {row["metric"] for row in body["rows"]} == {"rmse_mgdl", "mae_mgdl"}
    assert "RMSE by minutes ahead" in html and "at 30 min" in html and "up to 60 min" in html
    assert body["runs"] == [
        {"line": "off", "x": None, "runs": ["run-0"]},
        {"line": "good", "x": None, "runs": ["run-1"]},
    ]


def test_a_numeric_is_scored_in_its_own_unit(tmp_path):
    """Nothing of the writer is of mg/dL."""
    p = replace(forecasts(windows=30), target="map_mmhg", parts={})
    experiment = forecasting({"kind": "cross_validation"}).experiment
    recipe = forecasting(None, "map_mmhg").model_copy(update={"experiment": experiment})  # recipes refuse it so far
    worse = replace(p, quantiles=p.quantiles + 20)
    body, html = written(tmp_path, recipe, [point("a", None, "a"), point("b", None, "b")], [p, worse])
    assert {row["metric"] for row in body["rows"]} == {"rmse_mmhg", "mae_mmhg"}
    assert "mmHg" in html and "mg/dL" not in html and "mmHg" in body["differences"][0]["sentence"]


def test_points_of_a_group_are_compared_with_its_level_only(tmp_path):
    p = forecasts(windows=30)
    recipe = forecasting({"kind": "personalisation", "days": [0, 2000.5]})
    names = ("0 days", "1 day", "2 days")
    points = [point("ridge", 1000.5 * i, name, "ridge", level=i == 0) for i, name in enumerate(names)]
    body, html = written(tmp_path, recipe, points, [p, shifted(p, 5), shifted(p, 9)])
    pairs = {frozenset((row["model"], row["other"])) for row in body["differences"] if row["kind"] == "cumulative"}
    assert pairs == {frozenset(("0 days", "1 day")), frozenset(("0 days", "2 days"))}
    assert "days of the person&#x27;s own data" in html and "<td>1,000.5</td>" in html
    assert "<h3>ridge</h3>" in html and len(body["notes"]) == 2


def test_labels_by_training_windows(tmp_path):
    score, label, _ = made(600)
    p = predictions(score, label)
    poor = replace(p, score=p.score + np.random.default_rng(7).normal(0, 9, 600))
    recipe = labelling({"kind": "data_efficiency", "windows": [100, 2000]}, LABEL)
    points = [point(line, x, line, f"{x} windows") for line in ("good", "poor") for x in (100, 2000)]
    results = [Decided(q, RAW) for q in (p, p, poor, poor)]
    body, html = written(tmp_path, recipe, points, results)
    table = pd.read_csv(tmp_path / "table.csv")
    assert {"auroc", "ece", "brier"} <= set(table.metric) and set(table.x) == {100, 2000}
    assert [row["group"] for row in body["differences"]] == ["100 windows", "2000 windows"]
    assert "100 windows: good is better than poor by" in html, body["differences"]
    assert "AUROC by training windows" in html
    assert "<td>2,000</td>" in html


def test_a_cross_validation_of_labels_is_one_place(tmp_path):
    score, label, _ = made(600)
    results = [Decided(predictions(score, label), RAW), Decided(predictions(-score, label), RAW)]
    recipe = labelling({"kind": "cross_validation", "folds": 3}, LABEL)
    body, html = written(tmp_path, recipe, [point(n, "3 folds", n) for n in ("a", "b")], results)
    assert body["differences"][0]["sentence"] in html and "3 folds" in html and "Everybody is tested once" in html


def test_estimates_have_no_line_of_chance(tmp_path):
    truth = np.random.default_rng(1).normal(80, 12, 600)
    p = replace(predictions(truth + 3, truth), kind="regress")
    task = {"kind": "regress", "label": {"kind": "column", "name": "weight_kg"}}
    recipe = labelling({"kind": "data_efficiency", "windows": [100, 200]}, task)
    assert scoring_of(recipe).chance is None and scoring_of(recipe).metric.name == "rmse"
    points = [point("one", x, "one", f"{x} windows") for x in (100, 200)]
    body, html = written(tmp_path, recipe, points, [Decided(p, None)] * 2)
    assert body["differences"] == [] and "What is better" not in html and "RMSE by training windows" in html


def test_each_kind_of_task_has_its_scoring():
    forecast = forecasting({"kind": "sliding_window"})
    assert isinstance(scoring_of(forecast), ForecastScoring)
    labels = labelling({"kind": "cross_validation", "folds": 3}, LABEL)
    assert isinstance(scoring_of(labels), LabelScoring) and scoring_of(labels).chance == 0.5
    assert scoring_of(override(labels, {"task.metric": "auprc"})).chance is None
    body = {"model": {"kind": "masked", "inner": {"kind": "pat"}}, "task": {"kind": "pretrain"}, "window": WEEKS}
    pretrain = parse(Recipe, SETTINGS | body | {"split": {"kind": "subject"}})
    with pytest.raises(ValueError, match="experiments score forecasts and labels, not task.kind: pretrain"):
        scoring_of(pretrain)
