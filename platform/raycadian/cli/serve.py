"""Verbs that answer with a run's model: `serve` and `forecast`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from raycadian.cli.cohort import cohort_options, everybody
from raycadian.cli.options import (
    CHAMPION,
    JSON,
    PEOPLE,
    PORT,
    RUNS,
    SNAPSHOTS,
    YAML,
    card_options,
    chosen_run,
    run_option,
)
from raycadian.cli.terminal import console, show_json, show_table

if TYPE_CHECKING:
    from raycadian.cohort import Which
    from raycadian.quickstart import CardOptions
    from raycadian.runs import Run


@click.command()
@run_option("serve")
@CHAMPION
@RUNS
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=PORT, default=8000, show_default=True)
@click.option(
    "--cases",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of biosignals that a request may name in place of samples; none if left out.",
)
@click.option(
    "--replicas",
    type=click.IntRange(1, 64),
    help="Processes that answer; while one is replaced the others go on. Left out: 2 where there are 4 cores, else 1.",
)
@PEOPLE
def serve(
    run_name: str | None, champion_name: str | None, runs: Path, host: str, port: int, cases: Path | None,
    replicas: int | None, people: Path,
) -> None:  # fmt: skip
    """Serve forecasts on Ray Serve until interrupted; the API key's place is printed."""
    from raycadian.tracking import registry

    if run_name is None:
        champion_name = registry.champion_name(champion_name, runs=runs)  # others may be registered later
    chosen = chosen_run(run_name, champion_name, runs)  # a mistake is told before anything heavy is imported
    follow = None if run_name else lambda: registry.champion(champion_name, runs=runs)  # a promoted one is taken over
    from raycadian.serving.app import default_replicas, serve_forever

    n = replicas or default_replicas()
    serve_forever(chosen, host=host, port=port, replicas=n, cases=cases, people=people, follow=follow)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@run_option("use")
@CHAMPION
@click.option(
    "--card",
    type=YAML,
    help="Card that says how to read the file; if left out the one that `run` wrote for it, else it is recognised.",
)
@click.option("--person", metavar="ID", help="Whose forecast, of a file of several people.")
@card_options
@click.option(
    "--meal",
    "meals",
    multiple=True,
    metavar="HH:MM[xSIZE]",
    help="What if the meals after the last reading were these? E.g. --meal 20:00 or, half the usual, --meal 20:00x0.5.",
)
@click.option("--no-meals", is_flag=True, help="What if nothing were eaten after the last reading?")
@cohort_options
@RUNS
@SNAPSHOTS
@JSON
def forecast(
    file: Path, run_name: str | None, champion_name: str | None, card: Path | None, person: str | None,
    options: CardOptions, meals: tuple[str, ...], no_meals: bool, out: str | None, windows: Which, runs: Path,
    snapshots: Path, as_json: bool,
) -> None:  # fmt: skip
    """Forecast from the end of a file of readings: the same code as the endpoint.

    With --meal (as often as there are meals) or --no-meals the forecast under these meals stands beside the usual one.
    With --out a whole cohort is forecast; interrupted, the same command goes on where it was.
    """
    if meals and no_meals:
        raise ValueError("--meal and --no-meals exclude one another; give one")
    from dataclasses import replace

    from raycadian import quickstart

    quickstart.sources_of([file])  # a mistake is told before anything heavy is imported

    def chosen() -> Run:
        known = run_name or champion_name
        return chosen_run(run_name, champion_name if known else quickstart.champion_name(file, snapshots, runs), runs)

    if out is not None:
        if card or person or meals or no_meals:
            raise ValueError("--out forecasts everybody: leave out --card (name the card as FILE), --person and meals")
        everybody(file, options, chosen(), snapshots, out, windows, as_json)
        return
    if run_name or champion_name:
        chosen()
    from raycadian.physiology.cma.meals import parse_meal
    from raycadian.serving.forecaster import Forecaster

    what_if = tuple(map(parse_meal, meals)) if meals or no_meals else None
    history = quickstart.history(file, options, snapshots, console.print, card=card, person=person)
    forecaster = Forecaster.load(chosen().path)
    answer = forecaster.answer(replace(history, what_if=what_if))
    show_json(answer.as_dict()) if as_json else show_table(answer.as_frame(), answer.title)


VERBS = {"serve": serve, "forecast": forecast}
