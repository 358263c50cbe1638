"""MLflow, its one door: tracking of runs, and which run is the champion of what.

The registry's truth is an MLflow registered model with the alias `champion`; a version is one complete run folder.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycadian.config import Recipe, Tracking
from raycadian.runs import RUNS, Run

if TYPE_CHECKING:
    from mlflow import MlflowClient

OnTrial = Callable[[dict[str, Any]], None]
ALIAS = "champion"


@dataclass(frozen=True)
class Promotion:
    """What `promote` did and why."""

    promoted: bool
    registered: str
    run: str
    previous: str | None
    reason: str


def tracking_uri(tracking: Tracking, runs: Path = RUNS) -> str | None:
    """auto: an SQLite file beside the runs · off: None · else a server's URI."""
    if tracking.mlflow == "off":
        return None
    return f"sqlite:///{(runs / 'mlflow.db').absolute()}" if tracking.mlflow == "auto" else tracking.mlflow


def registered_name(recipe: Recipe) -> str:
    """What a champion is champion of: the data set and the horizon, or what the label is."""
    return f"{Path(recipe.dataset).stem}-{recipe.task.kind}-{recipe.task.registered(recipe)}"


def promote(run: Run, *, runs: Path = RUNS, force: bool = False) -> Promotion:
    """Make `run` the champion if its validation score is better than the present one's on the same snapshot and split.

    `force` skips the comparison. Runs that can't be compared are refused, with the reason.
    """
    name = registered_name(run.recipe)
    present = champion(name, runs=runs, missing_ok=True, tracking=run.recipe.tracking)
    if present is not None and present.name == run.name:
        return Promotion(True, name, run.name, run.name, "the champion already")
    reason = _reason_against(run, present)
    if reason and not force:
        return Promotion(False, name, run.name, present.name if present else None, reason)
    client = _client(run.recipe.tracking, runs)
    _register(client, name, run)
    why = "forced: " + reason if reason else _reason_for(run, present)
    return Promotion(True, name, run.name, present.name if present else None, why)


def champion(
    name: str | None = None, *, runs: Path = RUNS, missing_ok: bool = False, tracking: Tracking | None = None
) -> Any:
    """The champion's run; without a name, the only registered model's. Raises ValueError."""
    registered = champions(runs, tracking or Tracking())
    if name is None and len(registered) == 1:
        (name,) = registered
    if name not in registered:
        if missing_ok:
            return None
        wanted = f"no champion of {name!r}" if name else "which champion? name one by --champion NAME"
        raise ValueError(f"{wanted}; registered: {', '.join(registered) or 'none: `raycadian run FILE` makes one'}")
    path = runs / registered[name]
    if not (path / "metadata.json").is_file():
        raise ValueError(f"the champion of {name!r} is {path}, which is gone; promote another run")
    return Run(path)


def champions(runs: Path = RUNS, tracking: Tracking | None = None) -> dict[str, str]:
    """Registered name -> the champion's run name. Asking makes no empty store."""
    tracking = tracking or Tracking()
    if tracking.mlflow in ("auto", "off"):
        return _champions_in(runs / "mlflow.db")
    client = _client(tracking, runs)
    models = [m for m in client.search_registered_models() if ALIAS in m.aliases]
    return {m.name: client.get_model_version(m.name, m.aliases[ALIAS]).tags["run"] for m in models}


def _champions_in(database: Path) -> dict[str, str]:
    """From MLflow's own SQLite file, without MLflow: its import takes 2 s, as long as a forecast may."""
    if not database.is_file():
        return {}
    query = """
        SELECT alias.name, tag.value FROM registered_model_aliases AS alias
        JOIN model_version_tags AS tag ON tag.name = alias.name AND tag.version = alias.version
        WHERE alias.alias = ? AND tag.key = 'run' ORDER BY alias.name
    """
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        return dict(connection.execute(query, (ALIAS,)))


def log_run(run: Run, *, runs: Path = RUNS) -> None:
    """Record a complete run in MLflow: parameters, epochs, headline metrics with their split in the name."""
    uri = tracking_uri(run.recipe.tracking, runs)
    if uri is None:
        return
    client = _client(run.recipe.tracking, runs)
    name = run.recipe.name
    number = _experiment(client, name)
    tags = {"raycadian.run": run.name, "raycadian.snapshot": run.metadata["snapshot"]}
    logged = client.create_run(number, run_name=run.name, tags=tags).info.run_id
    from mlflow.entities import Metric, Param

    params = [Param(key, str(value)[:500]) for key, value in flatten(run.recipe.model_dump(mode="json")).items()]
    client.log_batch(logged, params=params[:100])
    client.log_batch(logged, metrics=[Metric(*row) for row in _metric_rows(run)])
    client.set_terminated(logged, "FINISHED")


@contextmanager
def logged_sweep(recipe: Recipe, *, runs: Path = RUNS) -> Iterator[OnTrial]:
    """A sweep as an MLflow run, each trial, as it ends, as a run below it."""
    from mlflow.entities import Param

    client = _client(recipe.tracking, runs)
    number = _experiment(client, recipe.name)
    sweep = client.create_run(number, run_name=f"{recipe.name}-sweep").info.run_id

    def on_trial(record: dict[str, Any]) -> None:
        tags = {"mlflow.parentRunId": sweep, "raycadian.trial": record["trial"]}
        trial = client.create_run(number, run_name=record["trial"], tags=tags).info.run_id
        client.log_batch(trial, params=[Param(path, str(value)[:500]) for path, value in record["params"].items()])
        for name, value in trial_metrics(record).items():
            client.log_metric(trial, name, value)
        client.set_terminated(trial, "FINISHED" if record["status"] == "finished" else "FAILED")
        client.log_metric(sweep, "trials", record["ended"], step=record["ended"])

    try:
        yield on_trial
    except BaseException:
        client.set_terminated(sweep, "FAILED")
        raise
    client.set_terminated(sweep, "FINISHED")


def trial_metrics(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of a trial's record."""
    return {
        k: float(v)
        for k, v in record.items()
        if (k.startswith("best/") or k in ("epochs", "seconds")) and v is not None
    }


def _experiment(client: "MlflowClient", name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    return experiment.experiment_id if experiment else client.create_experiment(name)


def flatten(nested: Any, prefix: str = "") -> dict[str, Any]:
    """dotted.path: plain value."""
    if isinstance(nested, dict) and nested:
        return {k: v for name, value in nested.items() for k, v in flatten(value, f"{prefix}{name}.").items()}
    return {prefix[:-1]: nested}


def _metric_rows(run: Run) -> list[tuple[str, float, int, int]]:
    """(name, value, timestamp, step): every epoch, then the headline scores."""
    rows = [
        (name, float(value), 0, int(epoch["epoch"]))
        for epoch in run.metadata["training"]["history"]
        for name, value in epoch.items()
        if value == value
    ]
    for split, scores in run.summary.items():
        rows += [(f"{split}/{m}", float(v["value"]), 0, 0) for m, v in scores.items() if v["value"] is not None]
    return [row for row in rows if row[1] == row[1]]


def _reason_against(run: Run, present: Run | None) -> str:
    """Why `run` must not replace the champion; empty if it may."""
    if present is None:
        return ""
    if (run.metadata["snapshot"], run.recipe.split) != (present.metadata["snapshot"], present.recipe.split):
        where = "on another snapshot or split"
        return f"the champion {present.name} was scored {where}: not comparable; --force to replace it"
    if (run.recipe.window, run.recipe.protocol) != (
        present.recipe.window,
        present.recipe.protocol,
    ):
        return f"the champion {present.name} was scored on other windows: not comparable; --force to replace it"
    best, mine, theirs = run.recipe.task.headline, _score(run), _score(present)
    if best.beats(mine, theirs):
        return ""
    than = "above" if best.better == "high" else "below"
    return f"validation {best.text(mine)} is not {than} the champion's {best.text(theirs)} ({present.name})"


def _reason_for(run: Run, present: Run | None) -> str:
    if present is None:
        return "the first champion"
    best = run.recipe.task.headline
    return f"validation {best.text(_score(run))}, before {best.text(_score(present))} ({present.name})"


def _score(run: Run) -> float:
    return float(run.summary["val"][run.recipe.task.headline.name]["value"])


def _register(client: "MlflowClient", name: str, run: Run) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(name, source=run.path.absolute().as_uri(), tags={"run": run.name})
    client.set_registered_model_alias(name, ALIAS, version.version)


def _client(tracking: Tracking, runs: Path) -> "MlflowClient":
    """The client; MLflow phones nobody and prints nothing."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    uri = tracking_uri(tracking, runs) or tracking_uri(Tracking(), runs)  # the registry needs a store in any case
    runs.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)
