"""Options that several verbs share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from raycadian.runs import Run

STDOUT = "raycadian.stdout"  # in click's context: where JSON goes while everything else printed goes to stderr
WRITTEN = "raycadian.written"  # in click's context: option -> the path that the verb writes to, for messages
YAML = click.Path(path_type=Path)


def resolve(text: str | Path) -> Path:
    """A folder or a URL such as s3://bucket/folder."""
    from raycadian.data.storage import resolve_path

    return resolve_path(text)


def written_to(ctx: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """Remember where a verb writes: what can't be written there is told with the option that names another place."""
    ctx.meta.setdefault(WRITTEN, {})[f"--{option.name}"] = path or Path()
    return path


def outlasts_job(ctx: click.Context, option: click.Parameter, folder: Path) -> Path:
    """As `written_to`; refuse a place in a job's own folder, which Ray deletes after the job and other nodes don't
    see."""
    from raycadian.cluster import JOB

    written_to(ctx, option, folder)

    if os.environ.get(JOB) and not folder.is_absolute():
        raise ValueError(
            f"--{option.name} {folder} would be lost with the job's folder: name storage that every node sees, "
            f"e.g. --{option.name} /mnt/raycadian/{folder}, or set {option.envvar or 'it'} on the cluster"
        )
    return folder


def _only_json(context: click.Context, _: click.Parameter, wanted: bool) -> bool:
    """What libraries print meanwhile, such as Ray's messages, goes to stderr: stdout is the JSON alone."""
    if wanted:
        context.meta[STDOUT] = sys.stdout
        context.with_resource(redirect_stdout(sys.stderr))
    return wanted


class LateChoice(click.Choice):
    """One of a table's names, which is imported where they are needed: a verb's module stays light."""

    def __init__(self, load: Callable[[], Iterable[str]]) -> None:
        self._load = load
        self.case_sensitive = True

    @property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self._load())


RUNS = click.option(
    "--runs", type=click.Path(path_type=Path), default=Path("runs"), envvar="RAYCADIAN_RUNS", callback=outlasts_job,
    help="Folder of the runs.",
)  # fmt: skip
SNAPSHOTS = click.option(
    "--snapshots", type=resolve, metavar="PATH", default=Path("snapshots"), envvar="RAYCADIAN_SNAPSHOTS",
    callback=outlasts_job, help="Folder of the snapshots, or s3://bucket/folder.",
)  # fmt: skip
PEOPLE = click.option(
    "--people", type=click.Path(path_type=Path), default=Path("people"), envvar="RAYCADIAN_PEOPLE",
    callback=outlasts_job, help="Private folder of the people who calibrated.",
)  # fmt: skip
SUBJECT = click.option(
    "--subject", required=True, metavar="ID", help="Letters, digits, _ . -; nothing that names the person."
)
SET = click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override, e.g. training.epochs=3.")
PORT = click.IntRange(1, 65_535)
JSON = click.option("--json", "as_json", is_flag=True, callback=_only_json, help="JSON on stdout, for machines.")
RESUME = click.option("--resume", is_flag=True, help="Go on with work that was interrupted; reuse what is complete.")
ADDRESS = click.option(
    "--address", envvar=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"], help="The cluster's dashboard, http://HOST:8265."
)
CHAMPION = click.option("--champion", "champion_name", help="Registered name; the only one if left out.")


_FILE_OPTIONS = (
    click.option("--unit", metavar="UNIT", help="Of the values, in place of what is recognised: mg/dL or mmol/L."),
    click.option("--timezone", metavar="ZONE", help="Of the clock in the files, e.g. Europe/Madrid."),
    click.option("--subject", metavar="ID", help="Whose the files are, where they don't say it."),
    click.option("--format", metavar="NAME", help="Of the files, in place of what is recognised."),
    click.option("--modality", metavar="NAME", help="cgm, biosignals or actigraphy, where it isn't plain."),
)


def card_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What may be said of data files in place of what is recognised: a verb gets `options`."""

    @wraps(function)
    def verb(overrides: Any, unit: Any, timezone: Any, subject: Any, format: Any, modality: Any, **rest: Any) -> None:
        from raycadian.quickstart import CardOptions

        function(options=CardOptions(unit, timezone, subject, format, modality, overrides), **rest)

    for option in (*reversed(_FILE_OPTIONS), SET):
        verb = option(verb)
    return verb


def file_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """FILE... and `card_options`: a verb gets `files` and `options`."""
    files = click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="FILE...")
    return files(card_options(function))


def run_option(use: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("--run", "run_name", help=f"Run to {use}; the champion if left out.")


def recipe_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """RECIPE and what every verb takes that works through one."""
    for option in (JSON, RESUME, SNAPSHOTS, RUNS, SET):
        function = option(function)
    return click.argument("recipe", type=YAML)(function)


def chosen_run(run_name: str | None, champion_name: str | None, runs: Path) -> Run:
    """The run that --run names, else the champion."""
    from raycadian.runs import open_run
    from raycadian.tracking.registry import champion

    if run_name and champion_name:
        raise ValueError("--run and --champion exclude one another; name one")
    return open_run(run_name, runs) if run_name else champion(champion_name, runs=runs)
