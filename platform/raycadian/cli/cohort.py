"""What `forecast --out` and `predict --out` share: a model over everybody of a data set, into Parquet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raycadian.cli.options import written_to
from raycadian.cli.terminal import console, preparing, show_json

if TYPE_CHECKING:
    from raycadian.cohort import Which
    from raycadian.quickstart import CardOptions
    from raycadian.runs import Run


_SHOWN = 10  # people without a forecast


def cohort_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--out and --windows."""
    windows = click.option(
        "--windows", type=click.Choice(["every", "last"]), default="every", show_default=True,
        help="With --out: of every window, or of the end of each person's record.",
    )  # fmt: skip
    out = click.option(
        "--out", type=click.Path(), callback=written_to,
        help="Folder or URL: everybody of FILE, a card, a snapshot or data files, into Parquet there.",
    )  # fmt: skip
    return out(windows(function))


def everybody(
    file: Path, options: CardOptions, run: Run, snapshots: Path, out: str, windows: Which, as_json: bool
) -> None:
    from raycadian import quickstart
    from raycadian.cohort import forecast_everybody

    with preparing(str(file)) as progress:
        sources = quickstart.sources_of([file])
        snapshot = quickstart.prepare(sources, options, snapshots, progress, console.print).snapshot
    with preparing(f"forecasts of {snapshot.id}") as progress:
        cohort = forecast_everybody(run, snapshot, out, windows, progress=progress)
    if as_json:
        show_json({**vars(cohort), "folder": str(cohort.folder), "run": run.name, "snapshot": snapshot.id})
        return
    for subject, reason in list(cohort.refused.items())[:_SHOWN]:
        click.echo(f"  no forecast of {subject}: {reason}")
    if len(cohort.refused) > _SHOWN:
        click.echo(f"  ... and of {len(cohort.refused) - _SHOWN} others")
    rate = "" if cohort.resumed else f", {cohort.windows / cohort.seconds:,.0f} windows/s"
    kept = f" ({cohort.resumed} of {cohort.shards} shards were there)" if cohort.resumed else ""
    click.echo(f"{cohort.folder}: {cohort.windows:,} windows of {cohort.people} people by {run.name}{kept}{rate}")
    if cohort.refused:
        click.echo(f"{len(cohort.refused)} people without a forecast: {cohort.folder}/_forecast.json says why")
