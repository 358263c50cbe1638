"""What a person reads while a training runs and after it: the unit of the task, scores with their intervals."""

import math

import pytest

from raycadian.cli import terminal
from raycadian.cli.terminal import Terminal
from raycadian.config import Ahead, Classification, Column, Forecasting, Hypotension, Pretraining, Regression

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
