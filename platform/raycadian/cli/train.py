"""Verbs that work through a recipe: `train`, `tune`, `run`, `experiment`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raycadian.cli.options import JSON, RESUME, RUNS, SNAPSHOTS, file_options, recipe_options
from raycadian.cli.terminal import Terminal, console, preparing, show_json, show_table

if TYPE_CHECKING:
    from raycadian.config import Recipe
    from raycadian.quickstart import CardOptions
    from raycadian.training.tune import Sweep


def _load(recipe: Path, overrides: tuple[str, ...]) -> tuple[Recipe, Terminal]:
    """A typo is told here, before anything heavy is imported."""
    from raycadian.config import load_recipe
    from raycadian.modalities.cards import require_dataset

    loaded = load_recipe(recipe, overrides)
    require_dataset(loaded)
    return loaded, Terminal(loaded.task.headline.unit)


@click.command()
@recipe_options
def train(recipe: Path, overrides: tuple[str, ...], runs: Path, snapshots: Path, resume: bool, as_json: bool) -> None:
    """Train and score the recipe's model; one worker in this process, more on Ray Train."""
    loaded, terminal = _load(recipe, overrides)
    from raycadian import workflow
    from raycadian.cli.results import show_run

    data = workflow.usable_data(loaded, snapshots)
    show_run(workflow.train(loaded, data, terminal, runs=runs, resume=resume), as_json)


@click.command()
@recipe_options
def tune(recipe: Path, overrides: tuple[str, ...], runs: Path, snapshots: Path, resume: bool, as_json: bool) -> None:
    """Sweep the recipe's search space on Ray Tune; choose on validation data."""
    loaded, terminal = _load(recipe, overrides)
    from raycadian import workflow

    sweep = workflow.tune(loaded, workflow.usable_data(loaded, snapshots), terminal, runs=runs, resume=resume)
    if as_json:
        show_json({"path": str(sweep.path), "best": sweep.best, "trials": sweep.table.to_dict("records")})
    else:
        _show_sweep(sweep)


def _show_sweep(sweep: Sweep) -> None:
    shown = sweep.table.drop(columns=["error", "status", "best/val/mae", "best/val/loss"], errors="ignore")
    shown = shown.rename(columns=lambda path: ".".join(path.split(".")[-2:]))  # adapter.rank for model.inner...
    show_table(shown, f"{len(shown)} trials, best first: {sweep.path}")
    click.echo("best: " + " ".join(f"--set {path}={value}" for path, value in sweep.best.items()))


@click.command()
@file_options
@RUNS
@SNAPSHOTS
@RESUME
@JSON
def run(files: tuple[str, ...], options: CardOptions, runs: Path, snapshots: Path, resume: bool, as_json: bool) -> None:
    """Prepare, tune, train the model and its peers, score, promote the best, report.

    FILE is a recipe; or a card or data files, for which a first recipe is written into the folder of the runs: ridge
    regression beside persistence for glucose.
    """
    recipe = _recipe_of(files, options, runs, snapshots)
    from raycadian import workflow
    from raycadian.cli.results import show_outcome

    terminal = Terminal(recipe.task.headline.unit)
    show_outcome(workflow.run(recipe, terminal, runs=runs, snapshots=snapshots, resume=resume), as_json)


def _recipe_of(files: tuple[str, ...], options: CardOptions, runs: Path, snapshots: Path) -> Recipe:
    from raycadian import quickstart

    sources = quickstart.sources_of(files)
    with preparing(" ".join(files)) if sources.kind != "recipe" else nullcontext() as progress:
        return quickstart.recipe(sources, options, runs, snapshots, progress, console.print)[0]


@click.command()
@recipe_options
def experiment(
    recipe: Path, overrides: tuple[str, ...], runs: Path, snapshots: Path, resume: bool, as_json: bool
) -> None:
    """Run the recipe's experiment: its models on identical windows, a figure, a table, what is better in words."""
    loaded, terminal = _load(recipe, overrides)
    from raycadian.experiments.runner import run as run_experiment

    result = run_experiment(loaded, terminal, runs=runs, snapshots=snapshots, resume=resume)
    if as_json:
        show_json({"path": str(result.path), **result.table})
    else:
        _show_experiment(result.path, result.table)


def _show_experiment(path: Path, table: dict[str, Any]) -> None:
    click.echo(table["protocol"])
    for row in table["differences"]:
        if row["kind"] == "cumulative":
            click.echo(f"  {row['group'] + ': ' if row['group'] else ''}{row['sentence']}")
    click.echo(path / "report.html")


VERBS = {"train": train, "tune": tune, "run": run, "experiment": experiment}
