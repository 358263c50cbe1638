"""Verbs of complete runs: `score`, `compare`, `runs`, `promote`, `verify`, `export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raycadian.cli.options import JSON, RUNS, SNAPSHOTS, YAML
from raycadian.cli.terminal import show_json, show_table

if TYPE_CHECKING:
    import pandas as pd

    from raycadian.manifest import Verdict
    from raycadian.runs import Run
    from raycadian.workflow import Comparison


@click.command()
@click.argument("run")
@RUNS
@JSON
def score(run: str, runs: Path, as_json: bool) -> None:
    """Score a run's predictions again and rewrite its tables and report."""
    from raycadian.runs import open_run

    chosen = open_run(run, runs)  # a mistake is told before anything heavy is imported, here and below
    from raycadian.cli.results import show_run
    from raycadian.training.pipeline import rescore

    show_run(rescore(chosen), as_json)


@click.command()
@click.argument("run", nargs=-1, required=True)
@click.option("--all", "every_column", is_flag=True, help="Every column of both tables; --json has them too.")
@RUNS
@JSON
def compare(run: tuple[str, ...], every_column: bool, runs: Path, as_json: bool) -> None:
    """Runs on identical test windows: a leaderboard, and for each pair what is better and whether it is noise."""
    from raycadian.runs import open_run, require_one_protocol

    chosen = [open_run(name, runs) for name in run]
    require_one_protocol(chosen)
    from raycadian import workflow

    comparison = workflow.compare(chosen)
    if as_json:
        show_json(_comparison_body(comparison))
        return
    from raycadian.cli.results import board_columns

    board = comparison.leaderboard
    show_table(board if every_column else board[board_columns(board)], comparison.protocol)
    _show_differences(comparison.differences, every_column)


def _comparison_body(comparison: Comparison) -> dict[str, Any]:
    ranks = comparison.ranks and vars(comparison.ranks) | {"groups": comparison.ranks.groups()}
    body = {"protocol": comparison.protocol, "leaderboard": comparison.leaderboard.to_dict("records")}
    return body | {"differences": comparison.differences.to_dict("records"), "ranks": ranks}


_PAIR = ("model", "other", "difference", "diff_low", "diff_high", "p_holm", "verdict")


def _show_differences(differences: pd.DataFrame, every_column: bool) -> None:
    over = ""
    if "kind" in differences:  # forecasts: single steps are in the JSON
        differences, over = differences[differences.kind == "cumulative"], " over the whole horizon"
    if len(differences):
        columns = [c for c in differences if c != "sentence" and (every_column or c in _PAIR)]
        show_table(differences[columns], f"pairs{over}, the better first; intervals over subjects")
    for sentence in differences.sentence:
        click.echo(sentence)


@click.command()
@RUNS
@JSON
def runs(runs: Path, as_json: bool) -> None:
    """Complete runs, the champions, and runs that are broken, with the file that is damaged."""
    import pandas as pd

    rows = _run_rows(runs)
    show_json(rows) if as_json else show_table(pd.DataFrame(rows).fillna(""))


def _run_rows(runs: Path) -> list[dict[str, Any]]:
    from raycadian.runs import read_runs

    readable, broken = read_runs(runs)
    champion_of = _champion_of(runs)
    rows = [_run_row(run, champion_of.pop(run.name, "")) for run in readable]
    rows += [_broken_row(run.path.name, run.reason, champion_of.pop(run.path.name, "")) for run in broken]
    gone = "its folder is gone; `raycadian promote` another run, with --force"
    return rows + [_broken_row(name, f"{runs / name}: {gone}", of) for name, of in champion_of.items()]


def _run_row(run: Run, champion_of: str) -> dict[str, Any]:
    from raycadian import manifest

    try:
        metric = run.recipe.task.headline.name
        row = {"run": run.name, "model": run.metadata["model"], f"val_{metric}": run.summary["val"][metric]["value"]}
        damage = manifest.damage(run.path)
    except (ValueError, LookupError, TypeError, OSError) as error:
        return _broken_row(run.name, f"{run.path}: {error}", champion_of)
    return row | {"champion_of": champion_of} | ({"broken": damage} if damage else {})


def _broken_row(name: str, reason: str, champion_of: str) -> dict[str, Any]:
    return {"run": name, "champion_of": champion_of, "broken": reason}


def _champion_of(runs: Path) -> dict[str, str]:
    """Run -> what it is the champion of. The list of runs is shown without a registry that can't be read."""
    from raycadian.errors import RegistryError
    from raycadian.tracking.registry import champions

    try:
        return {run: name for name, run in champions(runs).items()}
    except RegistryError as error:
        click.echo(f"raycadian: champions not shown: {error}", err=True)
        return {}


@click.command()
@click.argument("run")
@RUNS
@SNAPSHOTS
@click.option("--force", is_flag=True, help="Replace the champion without comparing.")
@JSON
def promote(run: str, runs: Path, snapshots: Path, force: bool, as_json: bool) -> None:
    """Make a run the champion, if it beats the present one on the same snapshot and split."""
    from raycadian.runs import open_run

    chosen = open_run(run, runs)
    from raycadian import workflow

    promotion = workflow.promote(chosen, runs=runs, snapshots=snapshots, force=force)
    if as_json:
        show_json(vars(promotion))
    else:
        now = "now" if promotion.promoted else "NOT"
        click.echo(f"{promotion.run} is {now} the champion of {promotion.registered}: {promotion.reason}")
    if not promotion.promoted:
        sys.exit(1)


@click.command()
@click.argument("run")
@RUNS
@click.option("--key", type=click.Path(path_type=Path), help="File with the key that must have signed the run.")
@JSON
def verify(run: str, runs: Path, key: Path | None, as_json: bool) -> None:
    """Check every file of a run against the hashes that were written with it, and its signature."""
    from raycadian import manifest
    from raycadian.runs import open_run

    verdict = manifest.verify(open_run(run, runs).path, key)
    if as_json:
        show_json(vars(verdict))
    else:
        _show_verdict(verdict)
    if verdict.problems or not verdict.files or verdict.signature not in (None, "valid"):
        sys.exit(1)


def _show_verdict(verdict: Verdict) -> None:
    for text in (*verdict.problems, *verdict.notices):
        click.echo(text)
    wrong = len(verdict.problems)
    judged = f"{wrong} not as they were written" if wrong else "all as they were written"
    click.echo(f"{verdict.files} files listed, {judged if wrong or verdict.files else 'none checked'}")
    if verdict.signature is not None:
        click.echo(f"signature: {verdict.signature}")


@click.command()
@click.argument("run")
@click.option("--to", "target", type=YAML, required=True, help="New folder.")
@RUNS
def export(run: str, target: Path, runs: Path) -> None:
    """Export a run's TTM in Hugging Face's format, to start another recipe from (`pretrained:`)."""
    from raycadian.runs import open_run

    chosen = open_run(run, runs)
    from raycadian.models import checkpoint

    checkpoint.export_pretrained(checkpoint.load(chosen.path / "checkpoint"), target)
    click.echo(target)


VERBS = {"score": score, "compare": compare, "runs": runs, "promote": promote, "verify": verify, "export": export}
