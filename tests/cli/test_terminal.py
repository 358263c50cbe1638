"""What a person reads while a training runs and after it: the unit of the task, scores with their intervals."""

import json
import math
from pathlib import Path

import label_scores
import prediction_cases
import pytest
from click.testing import CliRunner

from raycadian import runs, workflow
from raycadian.cli import terminal
from raycadian.cli.main import main
from raycadian.cli.terminal import Terminal
from raycadian.config import Ahead, Classification, Column, Forecasting, Hypotension, Pretraining, Regression
from raycadian.evaluation.forecast import compare
from raycadian.evaluation.label import compare as label_compare
from raycadian.evaluation.label.decision import Calibration, Decided, Decision
from raycadian.runs import Run
from raycadian.tasks.base import Comparison

ERRORS = {"epoch": 1, "train/loss": math.nan, "val/loss": 1.0, "val/rmse": 5.25, "val/mae": 4.0, "windows_per_s": 0}


@pytest.mark.parametrize(
    ("task", "metrics", "words"),
    [
        (Forecasting(), {}, "val RMSE 5.25 · val MAE 4.00 mg/dL"),
        (Regression(label=Ahead(channel="map_mmhg", ahead_min=5)), {}, "val RMSE 5.25 · val MAE 4.00 mmHg"),
        (Regression(label=Column(name="age")), {}, "val RMSE 5.25 · val MAE 4.00"),
        (Pretraining(), {}, "val RMSE 5.25 · val MAE 4.00"),
        (Classification(label=Hypotension()), {"val/auroc": 0.8}, "val loss 1.0000 · val AUROC 0.800"),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_errors_are_told_in_the_unit_of_the_task(task, metrics, words, capsys, monkeypatch):
    monkeypatch.setattr(terminal, "console", terminal.Console(width=200))
    Terminal(task.headline.unit).epoch(ERRORS | metrics)
    assert capsys.readouterr().out.strip() == words  # fitted in closed form: no epochs
    Terminal(task.headline.unit).epoch(ERRORS | metrics | {"train/loss": 0.5})
    assert capsys.readouterr().out.strip() == f"epoch 1 · train loss 0.5000 · {words}"


def boards():
    p = prediction_cases.forecasts(people=4, windows=20)
    forecasts = {"ridge-with-a-long-name": p, "persistence": prediction_cases.shifted(p, 9.0)}
    yield compare.leaderboard(forecasts), compare.differences(forecasts)
    score, label, _ = label_scores.made(n=400)
    labelled = label_scores.predictions(score, label)
    named = {name: Decided(labelled, Decision(1, "soft", 0.0, Calibration("none"), 0.5)) for name in ("pat", "cnn")}
    yield label_compare.leaderboard(named, "auroc"), label_compare.differences(named, "auroc")


def test_a_comparison_fits_a_terminal_of_120_columns(monkeypatch):
    """It printed 19 columns; --all still does."""
    for board, differences in boards():
        comparison = Comparison("sliding windows", board, differences, None)
        monkeypatch.setattr(workflow, "compare", lambda runs, comparison=comparison: comparison)
        monkeypatch.setattr(runs, "open_run", lambda name, runs: Run(Path(name)))
        monkeypatch.setattr(runs, "require_one_protocol", lambda runs: "")
        shown, every = (CliRunner().invoke(main, ["compare", "a", "b", *extra]).output for extra in ([], ["--all"]))
        tables = [line for line in shown.splitlines() if "│" in line or "┃" in line]
        assert tables and max(map(len, tables)) <= 120, max(tables, key=len)
        assert board.columns[1] in shown and "verdict" in shown and "n_windows" not in shown
        assert "n_windows" in every
        body = json.loads(CliRunner().invoke(main, ["compare", "a", "b", "--json"]).stdout)
        assert set(body["leaderboard"][0]) == set(board.columns)
