"""What a person sees in the terminal while long work runs, and the tables after it."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from raycadian.cli.group import printable
from raycadian.cli.options import STDOUT

if TYPE_CHECKING:
    import pandas as pd

console = Console(stderr=True, highlight=False, soft_wrap=True)  # progress goes to stderr; stdout carries results
_MUCH = 0.2  # of an epoch's time spent waiting for data: the user should know


class Terminal:
    """Progress for people: a line a stage, an epoch, a trial; a bar with throughput inside an epoch on a terminal."""

    def __init__(self, unit: str = "") -> None:
        """`unit`: of the validation errors (`config.headline` says it of a task); of a label that is no quantity,
        none."""
        self._unit = unit
        self._bar: Progress | None = None
        self._epoch, self._began, self._best = 0, 0.0, math.inf

    def stage(self, text: str) -> None:
        self._end_bar()
        console.print(f"[bold]{text}[/bold]")

    def step(self, epoch: int, done: int, total: int) -> None:
        if not console.is_terminal:
            return
        if self._bar is None or epoch != self._epoch:
            self._end_bar()
            columns = (
                TextColumn("  epoch {task.fields[epoch]}"),
                BarColumn(),
                TextColumn("{task.fields[rate]} windows/s"),
            )
            self._bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", total=total, epoch=epoch, rate="")
            self._epoch, self._began = epoch, time.perf_counter()
        rate = f"{done / max(time.perf_counter() - self._began, 1e-9):,.0f}"
        self._bar.update(self._task, completed=done, rate=rate)

    def epoch(self, metrics: dict[str, float]) -> None:
        self._end_bar()
        rate = f" · {metrics['windows_per_s']:,.0f} windows/s" if metrics["windows_per_s"] else ""
        if metrics.get("data/wait", 0.0) > _MUCH:
            rate += f" · {metrics['data/wait']:.0%} of the time waiting for data"
        fitted = math.isnan(metrics["train/loss"])  # in closed form: there are no epochs
        began = "" if fitted else f"epoch {metrics['epoch']:.0f} · train loss {metrics['train/loss']:.4f} · "
        console.print(f"  {began}{_validation(metrics, self._unit)}{rate}")

    def trial(self, record: dict[str, Any]) -> None:
        score = record.get("best/val/rmse")
        outcome = "failed: " + str(record["error"]) if score is None else f"val RMSE {score:.2f}"
        params = ", ".join(f"{path.split('.', 1)[-1]}={_short(value)}" for path, value in record["params"].items())
        if score is not None and score < self._best:
            self._best = score
        best = "" if math.isinf(self._best) else f" · best so far {self._best:.2f}"
        console.print(
            f"  trial {record['trial']} ({record['ended']} of {record['of']}{best}) · {record['epochs']} epochs · "
            f"{outcome} · {params}"
        )

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _validation(metrics: dict[str, float], unit: str) -> str:
    if "val/auroc" in metrics:
        return f"val loss {metrics['val/loss']:.4f} · val AUROC {metrics['val/auroc']:.3f}"
    return f"val RMSE {metrics['val/rmse']:.2f} · val MAE {metrics['val/mae']:.2f} {unit}".rstrip()


@contextmanager
def preparing(what: str) -> Iterator[Callable[[str, int, int | None], None]]:
    """A line that changes while a data set is prepared; then what was done, and whether here or on Ray, stays."""
    last = ""
    with console.status(f"preparing {what}") as status:

        def progress(stage: str, done: int, total: int | None) -> None:
            nonlocal last
            last = f"{done} of {total or '?'} {stage}" if total != 1 or done != 1 else stage
            status.update(f"preparing {what}: {last}")

        yield progress
    if last:
        console.print(f"[dim]{last}[/dim]")


def show_table(frame: "pd.DataFrame", title: str = "") -> None:
    """A data frame on stdout."""
    table = Table(title=title or None, title_justify="left")
    for name in frame.columns:
        table.add_column(str(name), justify="left" if frame[name].dtype == object else "right")
    for row in frame.itertuples(index=False):
        table.add_row(*(_short(value) for value in row))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def show_json(body: Any) -> None:
    """Plain JSON on stdout; NaN becomes null."""
    context = click.get_current_context(silent=True)
    stdout = sys.stdout if context is None else context.meta.get(STDOUT, sys.stdout)
    stdout.write(json.dumps(_jsonable(body), indent=1, default=str) + "\n")


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(value: Any) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.4g}" if abs(value) < 10 else f"{value:.2f}"
    return json.dumps(value) if isinstance(value, dict) else printable(str(value))
