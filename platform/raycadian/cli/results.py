"""Runs and their scores, for people and for machines."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from raycadian.cli.terminal import show_json, show_table
from raycadian.errors import CheckpointError, at_boundary

if TYPE_CHECKING:
    import pandas as pd

    from raycadian.runs import Run
    from raycadian.workflow import Outcome

_BOARD = ("low", "high", "difference", "diff_low", "diff_high", "verdict")  # after the headline metric


def show_run(run: Run, as_json: bool) -> None:
    """Where a run lies, its headline score, its report."""
    if as_json:
        show_json({"run": run.name, "path": str(run.path), **run.metadata, "metrics": run.summary})
        return
    with at_boundary(CheckpointError, f"{run.path}: damaged", LookupError, TypeError):
        click.echo(f"{run.path}\n  {score_in_words(run)}")
    click.echo(f"  {run.path / 'report.html'}")


def score_in_words(run: Run) -> str:
    """The headline score of test data, or of validation data where nothing is tested (pretraining)."""
    from raycadian.config import Forecasting

    best, summary = run.recipe.task.headline, run.summary
    if "test" not in summary:
        return f"validation {best.text(summary['val'][best.name]['value'])}"
    scores, unit = summary["test"], f" {best.unit}".rstrip()
    over = ", whole horizon" if isinstance(run.recipe.task, Forecasting) else ", over held-out people"
    text = f"test {best.words} {_interval(scores[best.name], 2 if best.unit else 3)}{unit}"
    if "ece_chance" in scores:
        ece, chance = (_interval(scores[name], 3) for name in ("ece", "ece_chance"))
        text += f", ECE after calibration {ece} (by chance {chance})"
    return text + over


def _interval(score: dict[str, float | None], digits: int) -> str:
    """0.855 [0.831, 0.878]; no brackets where too few people give no interval."""
    from raycadian.evaluation.report import brackets

    value, low, high = (float("nan") if score[k] is None else score[k] for k in ("value", "low", "high"))
    return brackets(value, low, high, digits)


def show_outcome(outcome: Outcome, as_json: bool = False) -> None:
    """The end of `run` and of `demo`: leaderboard, champion, report."""
    report = outcome.main.path / "report.html"
    if as_json:
        show_json({
            "runs": [run.name for run in outcome.ranked], "leaderboard": outcome.leaderboard.to_dict("records"),
            "promotion": vars(outcome.promotion), "report": str(report), "sweep": outcome.sweep,
            "cohort": outcome.main.metadata.get("cohort"),
        })  # fmt: skip
        return
    _show_board(outcome.leaderboard)
    for run in outcome.ranked:
        if "ece_chance" in run.summary.get("test", {}):  # what the table has no room for
            click.echo(f"{run.metadata['model']}: {score_in_words(run)}")
    promotion = outcome.promotion
    champion = promotion.run if promotion.promoted else promotion.previous
    click.echo(f"champion of {promotion.registered}: {champion or 'none'} ({promotion.reason})")
    click.echo(f"report: {os.path.relpath(report)}")


def _show_board(board: pd.DataFrame) -> None:
    show_table(board[board_columns(board)], "test data, identical windows, intervals over subjects")


def board_columns(board: pd.DataFrame) -> list[str]:
    """What people need of a leaderboard: the headline metric, what is better, one or two metrics beside it."""
    errors = [name for name in board.columns if name.startswith("mae")]
    headline = board.columns[1]
    columns = dict.fromkeys(("model", headline, *_BOARD, *errors, "auprc", "ece"))
    return [name for name in columns if name in board]
