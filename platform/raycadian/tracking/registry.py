"""MLflow, its one door: tracking of runs, and which run is the champion of what.

The registry's truth is an MLflow registered model with the alias `champion`; a version is one complete run folder.
"""

import logging
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raycadian.config import Recipe, Tracking
from raycadian.errors import CheckpointError, RegistryError, StorageError, at_boundary
from raycadian.files import mode_of, own_cache, own_folder, path_inside, written_whole
from raycadian.locks import exclusive
from raycadian.runs import RUNS, Run
from raycadian.tracking.standing import Standing

if TYPE_CHECKING:
    from mlflow import MlflowClient

OnTrial = Callable[[dict[str, Any]], None]
Check = Callable[[Run], str]
"""Loads a run as it will be served; what was checked, in words. Raises ValueError where it must not be promoted."""
ALIAS = "champion"
_SQLITE = "sqlite:///"
_LOCK = ".promote.lock"
_PATIENCE_S = 60.0  # for another promotion
_PATIENCE_WITH_SERVER = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""Of MLflow, which by itself asks a server that is away for minutes."""
_LOCKED_S = 5.0  # until a database that another writes to is said to be locked
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Promotion:
    """What `promote` did and why."""

    promoted: bool
    registered: str
    run: str
    previous: str | None
    reason: str


def tracking_uri(tracking: Tracking, runs: Path = RUNS) -> str | None:
    """auto: an SQLite file beside the runs · off: None · else a server's URI. Raises RegistryError for another address:
    a run's recipe, which somebody else may have written, would name a file to write."""
    if tracking.mlflow == "off":
        return None
    if tracking.mlflow == "auto":
        return f"{_SQLITE}{(runs / 'mlflow.db').absolute()}"
    if not tracking.mlflow.startswith(("http://", "https://")):
        raise RegistryError(f"tracking.mlflow: expected auto, off, http://... or https://, found {tracking.mlflow!r}")
    return tracking.mlflow


def registered_name(recipe: Recipe) -> str:
    """What a champion is champion of: the data set and the horizon, or what the label is."""
    return f"{Path(recipe.dataset).stem}-{recipe.task.kind}-{recipe.task.registered(recipe)}"


def promote(run: Run, *, check: Check, runs: Path = RUNS, force: bool = False) -> Promotion:
    """Make `run` the champion if its validation score is better than the present one's on the same snapshot and split.

    `check` loads the run as it will be served; `force` skips the comparison, and never the check. Runs that can't be
    compared are refused, with the reason. Of several promotions at once the best run ends champion: on shared storage
    one waits for the other; over an MLflow server, which has no way to wait, each looks again after it has moved the
    alias and gives it back to a better run that was promoted meanwhile. Raises CheckpointError for a run that is
    damaged, lies elsewhere, or whose scores or model say something else than its predictions, RegistryError,
    StorageError where another promotion does not end.
    """
    _require_below(runs, run)
    own = Standing.of(run)
    judged = _judge(run, own, runs, force)
    if not judged.promoted:
        return judged
    checked = check(run)  # the champion too: it may have been damaged since
    if judged.previous != run.name:
        with exclusive(runs / _LOCK, "promoting", wait_s=_PATIENCE_S):
            judged = _judge(run, own, runs, force)
            if judged.promoted and judged.previous != run.name:
                judged = _move(run, own, judged, runs, force)
    return replace(judged, reason=f"{judged.reason}; {checked}")


def _require_below(runs: Path, run: Run) -> None:
    """Whoever asks for the champion looks for it there, by its name."""
    if not (runs / run.name).exists() or not (runs / run.name).samefile(run.path):
        raise CheckpointError(
            f"{run.path} does not lie in {runs}, where the champion is looked for: copy it there, or name its own "
            f"folder, --runs {run.path.parent}"
        )


def _judge(run: Run, own: Standing, runs: Path, force: bool) -> Promotion:
    """What would be done, and why."""
    name = registered_name(run.recipe)
    previous = champions(runs, run.recipe.tracking).get(name)
    if previous == run.name:
        return Promotion(True, name, run.name, previous, "the champion already")
    if previous is None:
        return Promotion(True, name, run.name, None, "the first champion")
    try:
        present = Standing.of(Run(path_inside(runs, previous)))
    except ValueError as error:
        reason, better = f"the champion {previous} can't be read: not comparable; --force to replace it ({error})", ""
    else:
        reason, better = own.against(present), f"validation {own.words}, before {present.words} ({previous})"
    if reason and not force:
        return Promotion(False, name, run.name, previous, reason)
    return Promotion(True, name, run.name, previous, f"forced: {reason}" if reason else better)


def _move(run: Run, own: Standing, judged: Promotion, runs: Path, force: bool) -> Promotion:
    """Register the run and move the alias; back to a better run that was promoted at the same moment, if there is
    one."""
    name = judged.registered
    tags = own.tags | ({"forced": "yes"} if force else {})
    with _store(run.recipe.tracking, runs) as client:
        version = _register(client, name, run, tags)
        client.set_registered_model_alias(name, ALIAS, version.version)
        rivals = [] if force else _promoted_meanwhile(client, name, version, judged.previous)
        better = [rival for rival in rivals if "forced" in rival.tags or own.beaten_by(rival.tags)]
        if not better:
            return judged
        sign = 1 if own.metric.better == "high" else -1
        best = max(better, key=lambda rival: ("forced" in rival.tags, sign * float(rival.tags["score"])))
        client.set_registered_model_alias(name, ALIAS, best.version)
    return replace(judged, promoted=False, reason=f"{best.tags['run']} was promoted at the same moment and is better")


def _promoted_meanwhile(client: "MlflowClient", name: str, own: Any, previous: str | None) -> list[Any]:
    """Versions of the last minutes that are newer than the champion which the promotion was judged against. One that is
    older was left by a promotion that broke off."""
    versions = [v for v in client.search_model_versions(f"name='{name}'") if "score" in v.tags]
    judged = max((int(v.version) for v in versions if v.tags["run"] == previous), default=0)
    since_ms = own.creation_timestamp - 1000 * _PATIENCE_S
    rivals = [v for v in versions if int(v.version) > judged and v.version != own.version]
    return [v for v in rivals if v.creation_timestamp >= since_ms]


def champion(
    name: str | None = None, *, runs: Path = RUNS, missing_ok: bool = False, tracking: Tracking | None = None
) -> Any:
    """The champion's run; without a name, the only registered model's. Raises ValueError, RegistryError, and
    CheckpointError where its folder is gone."""
    registered = champions(runs, tracking or Tracking())
    try:
        name = _name_among(registered, name)
    except ValueError:
        if missing_ok:
            return None
        raise
    path = path_inside(runs, registered[name])
    if not (path / "metadata.json").is_file():
        raise CheckpointError(
            f"the champion of {name!r} is the run {path}, which is gone; put that folder back, or promote another run: "
            "`raycadian promote RUN --force`"
        )
    return Run(path)


def champion_name(name: str | None = None, *, runs: Path = RUNS) -> str:
    """`name`, or the only registered model's: the one to follow, whatever is registered later. Raises ValueError,
    RegistryError."""
    return _name_among(champions(runs), name)


def _name_among(registered: dict[str, str], name: str | None) -> str:
    if name is None and len(registered) == 1:
        return next(iter(registered))
    if name is None or name not in registered:
        wanted = f"no champion of {name!r};" if name else "which champion?"
        raise ValueError(f"{wanted} {_choices(registered)}")
    return name


def _choices(registered: dict[str, str]) -> str:
    if not registered:
        return "registered: none; `raycadian run FILE` makes one"
    of = ", ".join(f"{name} (run {run})" for name, run in registered.items())
    first = next(iter(registered))
    return f"registered: {of}; name one, e.g. --champion {first}, or `champion: {first}` in a Serve configuration"


def champions(runs: Path = RUNS, tracking: Tracking | None = None) -> dict[str, str]:
    """Registered name -> the champion's run name. Asking makes no empty store. Raises RegistryError."""
    tracking = tracking or Tracking()
    if tracking.mlflow in ("auto", "off"):
        return _champions_in(runs / "mlflow.db")
    with _store(tracking, runs) as client:
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
    with (
        at_boundary(RegistryError, _cannot_use(database), sqlite3.Error, UnicodeDecodeError, TypeError),
        closing(_read_only(database)) as connection,
    ):
        return dict(map(_of_text, connection.execute(query, (ALIAS,))))


def _of_text(row: tuple[Any, Any]) -> tuple[str, str]:
    """SQLite keeps values of any kind in any column. Raises TypeError."""
    if not all(isinstance(value, str) for value in row):
        raise TypeError(f"{row[1]!r} is the champion of {row[0]!r}, expected a run's name")
    return row


def log_run(run: Run, *, runs: Path = RUNS) -> None:
    """Record a complete run in MLflow: parameters, epochs, headline metrics with their split in the name. Raises
    RegistryError."""
    recipe = run.recipe
    if tracking_uri(recipe.tracking, runs) is None:
        return
    tags = {"raycadian.run": run.name, "raycadian.snapshot": run.metadata["snapshot"]}
    values, rows = flatten(recipe.model_dump(mode="json")), _metric_rows(run)
    with _store(recipe.tracking, runs) as client:
        from mlflow.entities import Metric, Param

        number = _experiment(client, recipe.name)
        logged = client.create_run(number, run_name=run.name, tags=tags).info.run_id
        params = [Param(key, str(value)[:500]) for key, value in values.items()]
        client.log_batch(logged, params=params[:100])
        client.log_batch(logged, metrics=[Metric(*row) for row in rows])
        client.set_terminated(logged, "FINISHED")


@contextmanager
def logged_sweep(recipe: Recipe, *, runs: Path = RUNS) -> Iterator[OnTrial]:
    """A sweep as an MLflow run, each trial, as it ends, as a run below it. Raises RegistryError before the first trial;
    later a registry that fails costs records, with a warning, and no trial."""
    tracking = recipe.tracking
    with _store(tracking, runs) as client:
        number = _experiment(client, recipe.name)
        sweep = client.create_run(number, run_name=f"{recipe.name}-sweep").info.run_id

    def on_trial(record: dict[str, Any]) -> None:
        with recording(f"trial {record['trial']}"), _store(tracking, runs) as client:
            _log_trial(client, number, sweep, record)

    def end(status: str) -> None:
        with recording(f"the end of the sweep {recipe.name}"), _store(tracking, runs) as client:
            client.set_terminated(sweep, status)

    try:
        yield on_trial
    except BaseException:
        end("FAILED")
        raise
    end("FINISHED")


def _log_trial(client: "MlflowClient", number: str, sweep: str, record: dict[str, Any]) -> None:
    tags = {"mlflow.parentRunId": sweep, "raycadian.trial": record["trial"]}
    trial = client.create_run(number, run_name=record["trial"], tags=tags).info.run_id
    from mlflow.entities import Param

    client.log_batch(trial, params=[Param(path, str(value)[:500]) for path, value in record["params"].items()])
    for name, value in trial_metrics(record).items():
        client.log_metric(trial, name, value)
    client.set_terminated(trial, "FINISHED" if record["status"] == "finished" else "FAILED")
    client.log_metric(sweep, "trials", record["ended"], step=record["ended"])


@contextmanager
def recording(what: str) -> Iterator[None]:
    """What is done already is not lost because its record fails: that is a warning."""
    try:
        yield
    except RegistryError as error:
        log.warning("%s is not recorded in MLflow: %s", what, error)


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


def _register(client: "MlflowClient", name: str, run: Run, tags: dict[str, str]) -> Any:
    """A new version of the registered model."""
    try:
        client.create_registered_model(name)
    except Exception as error:
        if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.create_model_version(name, source=run.path.absolute().as_uri(), tags=tags)


@contextmanager
def _store(tracking: Tracking, runs: Path) -> Iterator["MlflowClient"]:
    """The client, and RegistryError for all that goes wrong with it: MLflow raises its own, SQLAlchemy's, alembic's and
    the network's."""
    uri = tracking_uri(tracking, runs) or tracking_uri(Tracking(), runs)  # the registry needs a store in any case
    with at_boundary(RegistryError, _cannot_use(uri), Exception):
        yield _client(str(uri), runs)


def _cannot_use(store: Path | str | None) -> str:
    """Without a password in the address."""
    shown = re.sub(r"//[^/@]*@", "//", str(store))
    return f"the registry {shown} can't be used (locked: wait; damaged: put it aside and promote again)"


def _client(uri: str, runs: Path) -> "MlflowClient":
    """MLflow phones nobody and prints nothing."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # what fails is raised too
    for name, value in _PATIENCE_WITH_SERVER.items():
        os.environ.setdefault(name, value)
    own_folder(runs)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"].upper())  # it may have been imported before
    if uri.startswith(_SQLITE):
        path = Path(uri.removeprefix(_SQLITE))
        _start_database(path, MlflowClient)
        path.touch(mode_of(0o666))
        if not (path.is_file() and os.access(path, os.R_OK | os.W_OK)):  # MLflow would try for two minutes to open it
            raise OSError(f"{path} is no file that may be read and written")
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _start_database(path: Path, client: type["MlflowClient"]) -> None:
    """A new database begins as a copy of this machine's empty one: to make its tables, MLflow runs 2 s of migrations.

    Where there can be no cache MLflow makes the tables as ever, in a file that is empty."""
    empty = own_cache() / f"mlflow-{version('mlflow')}.db"
    with suppress(OSError, StorageError):
        if path.exists():
            return
        if not _is_whole(empty):
            _make_empty(empty, client)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            copy = Path(folder) / path.name
            copy.touch(mode_of(0o666))
            os.link(shutil.copyfile(empty, copy), path)  # never over one that came meanwhile


def _is_whole(empty: Path) -> bool:
    """Whether a cached database is there and not damaged: each new registry would be damaged too."""
    with suppress(sqlite3.Error, UnicodeDecodeError), closing(_read_only(empty)) as connection:
        checked = connection.execute("PRAGMA quick_check(1)").fetchall()
        return checked == [("ok",)] and connection.execute("SELECT * FROM alembic_version").fetchone() is not None
    return False


def _read_only(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=_LOCKED_S)


def _make_empty(path: Path, client: type["MlflowClient"]) -> None:
    """Tables alone: MLflow's experiment `Default`, which names the working directory, is made anew in each copy."""
    own_folder(path.parent)
    with written_whole(path) as temporary:
        client(tracking_uri=f"{_SQLITE}{temporary.absolute()}")
        with closing(sqlite3.connect(temporary)) as connection, connection:
            connection.execute("DELETE FROM experiments")
