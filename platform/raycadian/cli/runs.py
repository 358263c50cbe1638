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
    from raycadian.cli.results import show_run
    from raycadian.runs import open_run
    from raycadian.training.pipeline import rescore

    show_run(rescore(open_run(run, runs)), as_json)


@click.command()
@click.argument("run", nargs=-1, required=True)
@RUNS
@JSON
def compare(run: tuple[str, ...], runs: Path, as_json: bool) -> None:
    """Runs on identical test windows: a leaderboard, and for each pair what is better and whether it is noise."""
    from raycadian import workflow
    from raycadian.runs import open_run

    comparison = workflow.compare([open_run(name, runs) for name in run])
    if as_json:
        show_json(_comparison_body(comparison))
        return
    show_table(comparison.leaderboard, comparison.protocol)
    _show_differences(comparison.differences)


def _comparison_body(comparison: Comparison) -> dict[str, Any]:
    ranks = comparison.ranks and vars(comparison.ranks) | {"groups": comparison.ranks.groups()}
    body = {"protocol": comparison.protocol, "leaderboard": comparison.leaderboard.to_dict("records")}
    return body | {"differences": comparison.differences.to_dict("records"), "ranks": ranks}


def _show_differences(differences: pd.DataFrame) -> None:
    columns = ["model", "other", "horizon_min", "difference", "diff_low", "diff_high", "p", "p_holm", "verdict"]
    over = ""
    if "kind" in differences:  # forecasts: single steps are in the JSON
        differences, over = differences[differences.kind == "cumulative"], " over the whole horizon"
    if len(differences):
        shown = differences[[c for c in columns if c in differences]]
        show_table(shown, f"pairs{over}, the better first; intervals over subjects")
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
    from raycadian import workflow
    from raycadian.runs import open_run

    promotion = workflow.promote(open_run(run, runs), runs=runs, snapshots=snapshots, force=force)
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
    if verdict.problems or verdict.signature not in (None, "valid"):
        sys.exit(1)


def _show_verdict(verdict: Verdict) -> None:
    for text in (*verdict.problems, *verdict.notices):
        click.echo(text)
    wrong = len(verdict.problems)
    click.echo(
        f"{verdict.files} files listed, {f'{wrong} not as they were written' if wrong else 'all as they were written'}"
    )
    if verdict.signature is not None:
        click.echo(f"signature: {verdict.signature}")


@click.command()
@click.argument("run")
@click.option("--to", "target", type=YAML, required=True, help="New folder.")
@RUNS
def export(run: str, target: Path, runs: Path) -> None:
    """Export a run's TTM in Hugging Face's format, to start another recipe from (`pretrained:`)."""
    from raycadian.models import checkpoint
    from raycadian.runs import open_run

    checkpoint.export_pretrained(checkpoint.load(open_run(run, runs).path / "checkpoint"), target)
    click.echo(target)


VERBS = {"score": score, "compare": compare, "runs": runs, "promote": promote, "verify": verify, "export": export}
