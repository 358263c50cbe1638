"""Verbs of data: `prepare`, `inspect`, `init`, `indices`, `simulate`, `schema`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raycadian.cli.options import JSON, SNAPSHOTS, YAML, LateChoice, file_options, outlasts_job, written_to
from raycadian.cli.terminal import console, preparing, show_json

if TYPE_CHECKING:
    from raycadian.data.snapshot import Snapshot
    from raycadian.quickstart import CardOptions, Dataset


@click.command()
@file_options
@SNAPSHOTS
@JSON
def prepare(files: tuple[str, ...], options: CardOptions, snapshots: Path, as_json: bool) -> None:
    """Read a data set's files into a snapshot: even grid, quality, content hash.

    FILE is a card, or data files of one modality: what they are is recognised, each guess is said with how to change
    it, and a card is written beside the snapshots.
    """
    dataset = _prepared(files, options, snapshots)
    if as_json:
        show_json(_dataset_body(dataset) | _in_full(dataset.snapshot))
    else:
        _show_snapshot(dataset.snapshot)


def _prepared(files: tuple[str, ...], options: CardOptions, snapshots: Path) -> Dataset:
    from raycadian import quickstart

    with preparing(" ".join(files)) as progress:
        return quickstart.prepare(quickstart.sources_of(files), options, snapshots, progress, console.print)


def _dataset_body(dataset: Dataset) -> dict[str, Any]:
    """Of data files, also their card and what was guessed for it."""
    body = {"snapshot": dataset.snapshot.id, "path": str(dataset.snapshot.path)}
    if not dataset.guesses:
        return body
    return body | {"card_path": str(dataset.card), "guesses": [vars(guess) for guess in dataset.guesses]}


def _show_snapshot(snapshot: Snapshot) -> None:
    click.echo(snapshot.path)
    for name, value in snapshot.manifest["counts"].items():
        click.echo(f"  {name}: {value}")
    for kind, issue in snapshot.manifest["issues"].items():
        click.echo(f"  {kind}: {issue['count']} (e.g. {', '.join(issue['examples'][:3])})")


@click.command()
@file_options
@click.option("--out", type=YAML, callback=written_to, help="HTML file; <snapshot>-quality.html if left out.")
@SNAPSHOTS
@JSON
def inspect(files: tuple[str, ...], options: CardOptions, out: Path | None, snapshots: Path, as_json: bool) -> None:
    """Data quality of a snapshot as a page, or as JSON.

    FILE is a snapshot, a card, or data files, which are prepared first.
    """
    snapshot = _prepared(files, options, snapshots).snapshot
    if as_json:
        show_json(_quality_body(snapshot))
        return
    from raycadian.modalities.quality import quality_page

    out = out or Path(f"{snapshot.id}-quality.html")
    out.write_text(quality_page(snapshot), encoding="utf-8")
    click.echo(out)


def _in_full(snapshot: Snapshot) -> dict[str, Any]:
    """The manifest, and of each subject the points of its recordings and its figures."""
    people = {subject: {"points": points} for subject, points in snapshot.lengths.items()}
    return snapshot.manifest | {"subjects": people, "quality": snapshot.quality}


def _quality_body(snapshot: Snapshot) -> dict[str, Any]:
    manifest = snapshot.manifest
    body = {"snapshot": snapshot.id, "quality": snapshot.quality, "issues": manifest["issues"]}
    body["unreadable"] = manifest.get("unreadable", {})
    return body | ({"cohorts": manifest["cohorts"]} if "cohorts" in manifest else {})


@click.command()
@file_options
@click.option(
    "--out", type=YAML, default=Path(), callback=written_to,
    help="Folder of the card and the recipe; this one if left out.",
)  # fmt: skip
@SNAPSHOTS
def init(files: tuple[str, ...], options: CardOptions, out: Path, snapshots: Path) -> None:
    """Write a card and a first recipe for data files, with comments, to change before `raycadian run RECIPE`.

    The files are read into a snapshot, which the run takes up; nothing is trained.
    """
    from raycadian.quickstart import recipe, sources_of

    sources = sources_of(files)
    if sources.kind == "recipe":
        raise ValueError(f"{sources.path} is a recipe: init takes data files or a card")
    with preparing(" ".join(files)) as progress:
        _, path = recipe(sources, options, out, snapshots, progress, console.print, cards=out)
    click.echo(f"{path}\nnext: raycadian run {path}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--card", type=YAML, help="Data-set card that says how to read the file; recognised by content if left out."
)
@click.option("--out", type=YAML, callback=written_to, help="CSV file; indices.csv if left out, with --json none.")
@JSON
def indices(file: Path, card: Path | None, out: Path | None, as_json: bool) -> None:
    """mood_ml's 36 indices of one person's sleep and circadian rhythm, a row a day.

    FILE holds sleep episodes (CSV: sleep_start, sleep_end, minutes_sleep), or is an Apple Health export, or a
    recording of activity, whose stretches of rest are taken for sleep. docs/tutorials/nhanes.md
    """
    from raycadian.modalities.actigraphy.episodes import card_of, indices_table, read_episodes, write_indices
    from raycadian.types import Issues

    issues = Issues()
    episodes = read_episodes(file, card_of(card), issues)
    table = indices_table(episodes)
    if out is not None or not as_json:
        write_indices(table, out := out or Path("indices.csv"))
    if as_json:
        about = {"episodes": len(episodes.start), "days": len(table), "issues": issues.as_dict()}
        show_json(about | {"indices": table.to_dict("records")})
        return
    for kind, n in issues.counts.items():
        click.echo(f"  {kind}: {n}")
    click.echo(f"{out}: {len(table)} days from {len(episodes.start)} sleep episodes")


def _modalities() -> Mapping[str, Any]:
    from raycadian.modalities import MODALITIES

    return MODALITIES


def _schemas() -> Mapping[str, Any]:
    from raycadian.modalities.cards import SCHEMAS

    return SCHEMAS


@click.command()
@click.option("--modality", type=LateChoice(_modalities), default="cgm", show_default=True)
@click.option(
    "--patients",
    default=10,
    show_default=True,
    help="Number of virtual patients; biosignals: of operations; actigraphy: of people.",
)
@click.option("--days", default=14.0, show_default=True, help="cgm: of each patient.")
@click.option("--minutes", default=30.0, show_default=True, help="biosignals: of each operation.")
@click.option(
    "--cycle", type=click.Choice(["C", "D", "G", "H"]), default="D", show_default=True, help="actigraphy: of NHANES."
)
@click.option("--seed", default=42, show_default=True)
@click.option(
    "--out", type=YAML, default=Path("simulated.parquet"), show_default=True, callback=outlasts_job,
    help="biosignals, actigraphy: a new folder, called so without the ending.",
)  # fmt: skip
def simulate(modality: str, patients: int, days: float, minutes: float, cycle: str, seed: int, out: Path) -> None:
    """Simulate a cohort (extra `sim`); prints the path of its card.

    cgm: UVA/Padova patients, in parallel on Ray. biosignals: operations with planted hypotension, as .vital files.
    actigraphy: a week of activity of people some of whom are depressed, as XPT files in the layout of an NHANES cycle.
    """
    from raycadian.modalities.base import Simulation

    with console.status(f"simulating {patients}") as status:

        def progress(done: int, total: int) -> None:
            status.update(f"{done} of {total} simulated")

        click.echo(_modalities()[modality].simulate(Simulation(patients, days, minutes, cycle, seed), out, progress))


@click.command()
@click.argument("kind", type=LateChoice(_schemas))
def schema(kind: str) -> None:
    """JSON schema of a recipe, a card (of any modality, or of one) or a search space, for editors that check YAML."""
    show_json(_schemas()[kind].model_json_schema())


VERBS = {
    "prepare": prepare,
    "inspect": inspect,
    "init": init,
    "indices": indices,
    "simulate": simulate,
    "schema": schema,
}
