"""`demo` and `doctor`: what a newcomer calls first."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raycadian.cli.options import JSON, PORT, RUNS, SNAPSHOTS

if TYPE_CHECKING:
    from raycadian.cli.doctor import Finding


PLAN = """\
Ten virtual patients, from their readings to a served forecast; about two minutes on two quiet cores.
  1. a base model, trained by Ray Train on two workers       45 s, half of them until the workers have started
  2. a sweep: how slow are meals, how large is the adapter?  30 s, on Ray Tune
  3. the best trial and four simpler models, scored alike    25 s
  4. the best on validation data becomes champion and answers a request, on Ray Serve   15 s"""


@click.command()
@RUNS
@SNAPSHOTS
@click.option("--port", type=PORT, default=8000, show_default=True, help="Port of the endpoint during the demo.")
def demo(runs: Path, snapshots: Path, port: int) -> None:
    """From the demo cohort to a leaderboard, a report and a served forecast."""
    click.echo(PLAN, err=True)
    from raycadian.cli.demo import DemoTerminal, run_demo

    run_demo(runs, snapshots, port, DemoTerminal("mg/dL"))


@click.command()
@click.option("--ray", "start_ray", is_flag=True, help="Start Ray too, or reach RAY_ADDRESS, and run a task: 10 s.")
@JSON
def doctor(start_ray: bool, as_json: bool) -> None:
    """Versions, processors, memory, storage; what is missing and how to get it. With --ray: does Ray run?"""
    from raycadian.cli.doctor import examine
    from raycadian.cli.terminal import show_json

    findings = examine(start_ray)
    if as_json:
        show_json([vars(finding) for finding in findings])
    else:
        for finding in findings:
            _show_finding(finding)
    if not all(finding.ok for finding in findings):
        sys.exit(1)


def _show_finding(finding: Finding) -> None:
    click.echo(f"{'ok ' if finding.ok else 'MISSING'}  {finding.name}: {finding.found}")
    if finding.fix:
        click.echo(f"         {finding.fix}")


VERBS = {"demo": demo, "doctor": doctor}
