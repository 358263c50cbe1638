"""Verbs of jobs on a cluster: `submit`, `jobs list`, `jobs logs`, `jobs stop`, `jobs fetch`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raycadian.cli.group import Verbs
from raycadian.cli.options import ADDRESS, JSON, YAML
from raycadian.cli.terminal import console, show_json, show_table

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("verb")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@ADDRESS
@click.option("--no-wait", is_flag=True, help="Return when the job is submitted; its id is printed.")
@JSON
@click.pass_context
def submit(
    ctx: click.Context, verb: str, arguments: tuple[str, ...], address: str | None, no_wait: bool, as_json: bool
) -> None:
    """Run a verb as a job on a cluster: raycadian submit tune RECIPE --set a.b=c --runs /shared/runs.

    The verb's own arguments follow it. The working tree is uploaded, the job's output is followed, and its exit status
    is this command's. Ctrl-C leaves the job running.
    """
    from raycadian.cli import submit as jobs
    from raycadian.cli import upload

    given = _given(ctx, verb, arguments)
    uploaded = upload.plan(Path.cwd())
    needs = jobs.check(uploaded, verb, given)
    with jobs.cluster(address) as client:
        for line in (f"upload: {uploaded}", *needs):
            click.echo(line, err=True)
        job = jobs.send(client, uploaded, verb, arguments, given)
        click.echo(f"job {job} submitted", err=True)
        if no_wait:
            _show_job({"job": job, "status": "SUBMITTED", "exit_code": None}, as_json)
            return
        _follow(client, job, as_json)


def _given(ctx: click.Context, verb: str, arguments: tuple[str, ...]) -> dict[str, Any]:
    """What the verb's own parser makes of its arguments, defaults and this machine's variables left out."""
    command = ctx.parent.command.get_command(ctx.parent, verb)
    if command is None or isinstance(command, click.Group):
        return {}
    with command.make_context(verb, list(arguments), parent=ctx.parent) as inner:
        typed = click.core.ParameterSource.COMMANDLINE
        return {name: value for name, value in inner.params.items() if inner.get_parameter_source(name) == typed}


def _follow(client: JobSubmissionClient, job: str, as_json: bool = False) -> None:
    """Show a job's output until it ends, and end with its exit status. Where the output is JSON, it goes to stderr."""
    from raycadian.cli.submit import ending
    from raycadian.cli.submit import follow as follow_job

    try:
        details = follow_job(client, job, lambda text: click.echo(text, nl=False, err=as_json))
    except KeyboardInterrupt:
        click.echo(
            f"\njob {job} goes on: `raycadian jobs logs {job} --follow` shows it, `raycadian jobs stop {job}` ends it",
            err=True,
        )
        sys.exit(130)
    code, words = ending(details)
    click.echo(words, err=True)
    if as_json:
        _show_job({"job": job, "status": str(details.status.value), "exit_code": code}, as_json)
    sys.exit(code)


def _show_job(body: dict[str, Any], as_json: bool) -> None:
    show_json(body) if as_json else click.echo(body["job"])


@click.group(cls=Verbs)
def jobs() -> None:
    """Jobs of a cluster: list, logs, stop, fetch what they made."""


@jobs.command("list")
@ADDRESS
@JSON
def list_jobs(address: str | None, as_json: bool) -> None:
    """Submitted jobs, newest first."""
    from raycadian.cli.submit import cluster, listing

    with cluster(address) as client:
        rows = listing(client)
    if as_json:
        show_json(rows)
        return
    import pandas as pd

    show_table(pd.DataFrame(rows, columns=["job", "verb", "status", "started_utc", "seconds", "exit_code"]))


@jobs.command()
@click.argument("job")
@ADDRESS
@click.option("--follow", is_flag=True, help="Until the job ends; its exit status is this command's.")
def logs(job: str, address: str | None, follow: bool) -> None:
    """What a job has printed."""
    from raycadian.cli.submit import cluster

    with cluster(address) as client:
        if follow:
            _follow(client, job)
        else:
            click.echo(client.get_job_logs(job), nl=False)


@jobs.command()
@click.argument("job")
@ADDRESS
def stop(job: str, address: str | None) -> None:
    """End a job; what it had finished stays, and --resume goes on."""
    from raycadian.cli.submit import cluster
    from raycadian.cli.submit import stop as stop_job

    with cluster(address) as client:
        click.echo(f"job {job}: {stop_job(client, job)}")


@jobs.command()
@click.argument("job")
@click.option("--to", type=YAML, default=Path("runs"), show_default=True, help="Folder here.")
@click.option(
    "--runs", help="Folder of the runs on the cluster, where neither the job nor RAYCADIAN_RUNS there says so."
)
@ADDRESS
@JSON
def fetch(job: str, to: Path, runs: str | None, address: str | None, as_json: bool) -> None:
    """Bring a job's complete runs and sweeps here."""
    from raycadian.cli.submit import cluster
    from raycadian.cli.submit import fetch as fetch_job

    with cluster(address) as client, console.status(f"fetching what {job} made"):
        folders = fetch_job(client, job, to, runs)
    show_json([str(path) for path in folders]) if as_json else click.echo("\n".join(map(str, folders)))


VERBS = {"submit": submit, "jobs": jobs}
