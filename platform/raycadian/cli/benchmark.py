"""`raycadian benchmark`: published benchmarks, run with any model of the platform."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raycadian.cli.group import Verbs
from raycadian.cli.options import JSON, YAML
from raycadian.cli.terminal import console, show_json, show_table

if TYPE_CHECKING:
    import pandas as pd


@click.group(cls=Verbs)
def benchmark() -> None:
    """Published benchmarks, run with any model of the platform."""


@benchmark.command()
@click.option("--data", required=True, type=YAML, help="CSV (also .gz) with the columns id, time, gl in mg/dL.")
@click.option(
    "--protocol", required=True, metavar="NAME|KEY=VALUE,...",
    help="iglu, colas, dubosson, hall, weinstock; or "
    "gap=45,min_points=240,length_segment=240,max_input=192[,horizon=12].",
)  # fmt: skip
@click.option(
    "--models", multiple=True, default=["ridge:lags=12,alpha=0", "jobs/recipes/blend.yaml"],
    show_default=True, metavar="MODEL...",
    help="A kind with settings (ridge:lags=12), or a recipe's path; several behind one another.",
)  # fmt: skip
@click.argument("more_models", nargs=-1)
@click.option(
    "--pretrain", multiple=True, type=YAML, metavar="CSV",
    help="Other people's data: every model that trains is trained on it first, beside the plain one; several times.",
)  # fmt: skip
@click.option("--seeds", default="10:20", show_default=True, help="first:beyond, or numbers with commas.")
@click.option("--out", type=YAML, help="CSV with a row for each model, seed and split.")
@click.option("--name", help="The data set's name in the results; else the protocol's, or the file's.")
@JSON
def glucobench(
    data: Path, protocol: str, models: tuple[str, ...], more_models: tuple[str, ...], pretrain: tuple[Path, ...],
    seeds: str, out: Path | None, name: str | None, as_json: bool,
) -> None:  # fmt: skip
    """GlucoBench's protocol: an hour ahead, for the people trained on (id) and for others (ood), beside its figures."""
    from raycadian.experiments import glucobench as protocol_runs

    table = protocol_runs.benchmark(
        data, protocol, [*models, *more_models], protocol_runs.parse_seeds(seeds), dataset=name, pretrain=pretrain,
        on_done=_counter(),
    )  # fmt: skip
    if out is not None:
        protocol_runs.write_results(table, out)
    summary = protocol_runs.summary(table)
    if as_json:
        show_json({"results": table.to_dict("records"), "summary": summary.to_dict("records")})
        return
    title = "GlucoBench, mean over forecasts, then seeds; mg/dL; ahead: cells below the best published figure"
    show_table(summary, title)


def _counter() -> Callable[[pd.DataFrame, int], None]:
    """Says each model and seed as it is done."""
    done = count(1)

    def on_done(rows: pd.DataFrame, total: int) -> None:
        cells = " · ".join(f"{r.split} {r.mean_rmse:.2f}/{r.mean_mae:.2f}" for r in rows.itertuples())
        head = f"  {next(done)} of {total} · {rows.model[0]} · seed {rows.seed[0]}"
        console.print(f"{head} · RMSE/MAE {cells} mg/dL")

    return on_done


VERBS = {"benchmark": benchmark}
