"""Promotion: of several at once the best run ends champion, and every failure of the registry is a RegistryError."""

import contextlib
import itertools
import logging
import sqlite3
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import label_scores
import prediction_cases
import pytest

from raycadian import manifest, workflow
from raycadian.config import Recipe, parse
from raycadian.errors import CheckpointError, RegistryError
from raycadian.evaluation.label.classification import score_labels
from raycadian.evaluation.label.decision import fit_decision
from raycadian.files import write_json
from raycadian.runs import Run, predictions_file, write_recipe
from raycadian.tracking import registry

NAME = "d-forecast-12"


def make_run(runs, name, rmse, tracking="http://user:secret@registry:5000"):
    recipe = parse(Recipe, {
        "name": "x", "dataset": "d.yaml", "model": {"kind": "ridge"}, "tracking": {"mlflow": tracking},
        "window": {"context": 36, "horizon": 12},
    })  # fmt: skip
    folder = runs / name
    folder.mkdir(parents=True)
    write_recipe(folder / "recipe.yaml", recipe)
    metadata = {"finished_utc": "2026", "snapshot": "s", "training": {"history": []}}
    write_json(folder / "metadata.json", metadata)
    write_json(folder / "metrics_summary.json", scores("rmse_mgdl", rmse))
    predicted(rmse).write_parquet(folder / predictions_file("val"))
    return Run(folder)


def scores(metric, value):
    return {"val": {metric: {"value": value, "low": None, "high": None}}}


def predicted(error_mgdl):
    """Forecasts that all miss by so much."""
    p = prediction_cases.forecasts(people=1, windows=2, steps=2)
    return prediction_cases.shifted(prediction_cases.perfect(p), error_mgdl)


class Server:
    """An MLflow registry in memory, with what the platform asks of it. `on_create`: is called once, before a version
    is made."""

    def __init__(self):
        self.versions, self.aliases, self.on_create, self._number = [], {}, None, itertools.count(1)

    def create_registered_model(self, name):
        pass

    def create_model_version(self, name, source, tags):
        if (hook := self.on_create) is not None:
            self.on_create = None
            hook()
        made = SimpleNamespace(
            version=str(next(self._number)), tags=tags, creation_timestamp=int(1000 * time.time()), name=name
        )
        self.versions.append(made)
        return made

    def set_registered_model_alias(self, name, alias, version):
        self.aliases[alias] = version

    def search_model_versions(self, query):
        return list(self.versions)

    def search_registered_models(self):
        return [SimpleNamespace(name=NAME, aliases=self.aliases)] if self.versions else []

    def get_model_version(self, name, version):
        return next(v for v in self.versions if v.version == version)

    @property
    def champion(self):
        return self.get_model_version(NAME, self.aliases[registry.ALIAS]).tags["run"]


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setattr(registry, "_client", lambda uri, runs: server)
    return server


def promote(run, **options):
    return registry.promote(run, check=lambda run: "checked", runs=run.path.parent, **options)


def test_a_promotion_waits_for_another_and_looks_again(server, tmp_path):
    """Both had seen the same champion, and the worse moved the alias last: 8 of 12 rounds ended so."""
    first, better, worse = (make_run(tmp_path, name, rmse) for name, rmse in (("a", 30), ("b", 10), ("c", 20)))
    assert promote(first).reason == "the first champion; checked"
    others = []

    def meanwhile():  # the worse holds the lock and is about to make its version
        others.append(threading.Thread(target=lambda: others.append(promote(better))))
        others[0].start()
        others[0].join(0.2)
        assert others[0].is_alive()

    server.on_create = meanwhile
    assert promote(worse).promoted
    others[0].join()
    assert others[1].promoted and server.champion == "b"
    assert not promote(worse).promoted


@pytest.mark.parametrize("forced", [False, True])
def test_without_a_common_lock_the_better_run_gets_the_alias_back(forced, server, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "exclusive", lambda *a, **k: contextlib.nullcontext())
    first, better, worse = (make_run(tmp_path, name, rmse) for name, rmse in (("a", 30), ("b", 10), ("c", 20)))
    promote(first)
    server.on_create = lambda: promote(better)
    done = promote(worse, force=forced)
    assert (done.promoted, server.champion) == ((True, "c") if forced else (False, "b"))
    assert forced or "b was promoted at the same moment and is better" in done.reason


def test_what_a_promotion_left_that_broke_off_is_no_rival(server, tmp_path):
    first, second = make_run(tmp_path, "a", 30), make_run(tmp_path, "c", 20)
    promote(first)
    left = server.create_model_version(NAME, "", registry.Standing.of(make_run(tmp_path, "b", 10)).tags)
    left.creation_timestamp -= 3_600_000
    assert promote(second).promoted and server.champion == "c"


def test_what_is_not_as_it_was_does_not_become_champion(server, tmp_path):
    def refuse(run):
        raise CheckpointError("it forecasts something else")

    for force in (False, True):
        with pytest.raises(CheckpointError, match="something else"):
            registry.promote(
                make_run(tmp_path / str(force), "a", 30), check=refuse, runs=tmp_path / str(force), force=force
            )
    assert not server.versions


@pytest.mark.parametrize("other", [None, "a"])
def test_a_run_of_another_folder_does_not_become_champion(other, server, tmp_path):
    """It did, and `serve` said that it was gone."""
    run, runs = make_run(tmp_path / "elsewhere", "a", 30), tmp_path / "runs"
    runs.mkdir()
    if other:
        make_run(runs, other, 20)
    for force in (False, True):
        with pytest.raises(CheckpointError, match=f"does not lie in {runs}.* --runs {run.path.parent}"):
            registry.promote(run, check=lambda run: "", runs=runs, force=force)
    (runs / "b").symlink_to(run.path)
    assert registry.promote(Run(runs / "b"), check=lambda run: "", runs=runs).promoted
    assert [version.tags["run"] for version in server.versions] == ["b"]


def test_the_champion_is_checked_as_any_other_run(server, tmp_path):
    """A damaged one was `now the champion: the champion already`."""
    run = make_run(tmp_path, "a", 30)
    promote(run)
    assert promote(run).reason == "the champion already; checked" and len(server.versions) == 1

    def refuse(run):
        raise CheckpointError("damaged")

    for force in (False, True):
        with pytest.raises(CheckpointError, match="damaged"):
            registry.promote(run, check=refuse, runs=tmp_path, force=force)


LABEL = {
    "task": {"kind": "classify", "label": {"kind": "column", "name": "ill"}},
    "window": {"kind": "signal", "past": ["activity"]}, "split": {"kind": "subject"},
}  # fmt: skip


def make_label_run(runs, metric):
    """A run of a label that states what its predictions of validation windows give."""
    run = make_run(runs, "label", 30)
    task = LABEL["task"] | {"metric": metric}
    sections = {"name": "x", "dataset": "d.yaml", "model": {"kind": "statistics"}, "task": task}
    write_recipe(run.path / "recipe.yaml", parse(Recipe, LABEL | sections))
    score, label, _ = label_scores.made(n=200)
    predictions = label_scores.predictions(score, label)
    predictions.write_parquet(run.path / predictions_file("val"))
    decision = fit_decision(run.recipe.task, predictions)
    (run.path / "checkpoint").mkdir()
    decision.write(run.path / "checkpoint" / "decision.json")
    table = score_labels(predictions, decision).set_index("metric")
    write_json(run.path / "metrics_summary.json", scores(metric, table.value[metric]))
    return run


def make_pretraining(runs):
    run = make_run(runs, "pretraining", 30)
    sections = {"name": "x", "dataset": "d.yaml", "model": {"kind": "masked", "inner": {"kind": "pat"}}}
    recipe = parse(Recipe, LABEL | sections | {"task": {"kind": "pretrain"}})
    write_recipe(run.path / "recipe.yaml", recipe)
    history = [{"epoch": 1, "val/loss": 3.0}, {"epoch": 2, "val/loss": 2.0}]
    write_json(run.path / "metadata.json", run.metadata | {"training": {"history": history}})
    write_json(run.path / "metrics_summary.json", scores("loss", 2.0))
    return run


MAKERS = {
    "forecast": lambda runs: make_run(runs, "a", 30), "auroc": lambda runs: make_label_run(runs, "auroc"),
    "brier": lambda runs: make_label_run(runs, "brier"), "pretrain": make_pretraining,
}  # fmt: skip


@pytest.mark.parametrize("task", MAKERS)
def test_a_score_that_the_runs_own_predictions_disprove_is_not_promoted(task, server, tmp_path):
    """It was: whoever may write the folder can write the manifest too."""
    run = MAKERS[task](tmp_path)
    stated = registry.Standing.of(run)
    write_json(run.path / "metrics_summary.json", scores(stated.metric.name, 0.01))
    manifest.write(run.path)
    message = f"states a validation {stated.metric.name} of 0.01, its predictions .* give {stated.score:.6g}"
    for force in (False, True):
        with pytest.raises(CheckpointError, match=message):
            promote(run, force=force)
    assert not server.versions


def test_a_champion_whose_score_its_predictions_disprove_is_said(server, tmp_path):
    faked, honest = make_run(tmp_path, "a", 30), make_run(tmp_path, "b", 20)
    promote(faked)
    write_json(faked.path / "metrics_summary.json", scores("rmse_mgdl", 0.01))
    refused = promote(honest)
    assert not refused.promoted and "not comparable; --force" in refused.reason and "give 30" in refused.reason
    assert promote(honest, force=True).promoted and server.champion == "b"


DAMAGES = {
    "no predictions": ("predictions_val.parquet", None),
    "no scores": ("metrics_summary.json", None),
    "scores without a value": ("metrics_summary.json", '{"val": {"rmse_mgdl": {}}}'),
    "not a number": ("metrics_summary.json", '{"val": {"rmse_mgdl": {"value": NaN}}}'),
    "a number beyond any": ("metrics_summary.json", '{"val": {"rmse_mgdl": {"value": 1' + "0" * 400 + "}}}"),
    "scores in a list": ("metrics_summary.json", '{"val": [1]}'),
    "no snapshot": ("metadata.json", "{}"),
    "nested metadata": ("metadata.json", '{"a":' * 1000 + "1" + "}" * 1000),
    "no recipe": ("recipe.yaml", None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_refused_and_a_damaged_champion_said(damage, server, tmp_path):
    name, text = DAMAGES[damage]
    run, other = make_run(tmp_path, "a", 30), make_run(tmp_path, "b", 20)
    promote(run)
    (run.path / name).unlink() if text is None else (run.path / name).write_text(text)
    with pytest.raises(CheckpointError, match="a"):
        promote(run)
    refused = promote(other)
    assert not refused.promoted and "a can't be read: not comparable; --force" in refused.reason
    assert promote(other, force=True).promoted and server.champion == "b"


def test_errors_of_the_server_are_the_registrys_and_hide_passwords(server, tmp_path, monkeypatch):
    run = make_run(tmp_path, "a", 30)

    def away(uri, runs):
        raise ConnectionError("no route")

    monkeypatch.setattr(registry, "_client", away)
    calls = {
        "promote": lambda: promote(run),
        "champion": lambda: registry.champion(runs=tmp_path, tracking=run.recipe.tracking),
        "log": lambda: registry.log_run(run, runs=tmp_path),
        "sweep": lambda: registry.logged_sweep(run.recipe, runs=tmp_path).__enter__(),
    }
    for name, call in calls.items():
        with pytest.raises(RegistryError, match="http://registry:5000 can't be used .*no route") as error:
            call()
        assert "secret" not in str(error.value), name


ADDRESSES = ("sqlite:////{}/other.db", "{}/other", "file://{}/other", "databricks", "postgresql://a:b@c/d", "")


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_recipe_that_names_no_server_writes_nothing(address, tmp_path):
    """A stranger's run, promoted, made a database wherever its recipe said."""
    run = make_run(tmp_path / "runs", "a", 30, tracking=address.format(tmp_path))
    for call in (promote, registry.log_run):
        with pytest.raises(RegistryError, match="tracking.mlflow: expected auto, off, http"):
            call(run)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.slow
def test_a_server_that_is_away_is_not_asked_for_minutes(tmp_path, monkeypatch):
    """MLflow waits 2, 4, 8 ... 64 s between seven tries."""
    for name in registry._PATIENCE_WITH_SERVER:
        monkeypatch.delenv(name, raising=False)
    client = registry._client("http://127.0.0.1:9", tmp_path)
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with pytest.raises(Exception, match="[Cc]onnection"):
        client.search_registered_models()
    assert sum(waits) < 10, waits


def test_a_registry_that_fails_costs_a_sweep_its_records_alone(server, tmp_path, monkeypatch, caplog):
    run = make_run(tmp_path, "a", 30)
    server.get_experiment_by_name = lambda name: SimpleNamespace(experiment_id="1")
    server.create_run = lambda *a, **k: SimpleNamespace(info=SimpleNamespace(run_id="1"))
    with registry.logged_sweep(run.recipe, runs=tmp_path) as on_trial:
        server.create_run = server.set_terminated = None  # it is away
        on_trial({"trial": "t1", "params": {}, "status": "finished", "ended": 1})
    assert [r.levelname for r in caplog.records] == ["WARNING"] * 2 and "trial t1 is not recorded" in caplog.text


def test_training_is_complete_where_its_record_fails(tmp_path, monkeypatch, caplog):
    run = make_run(tmp_path, "a", 30)

    def locked(run, runs):
        raise RegistryError("locked")

    monkeypatch.setattr(registry, "log_run", locked)
    monkeypatch.setattr(workflow, "train_run", lambda *a, **k: run)
    data, recipe = SimpleNamespace(snapshot_id="s"), run.recipe
    recipe = recipe.model_copy(update={"tracking": recipe.tracking.model_copy(update={"tensorboard": False})})
    with caplog.at_level(logging.WARNING):
        assert workflow.train(recipe, data, workflow.Quiet(), runs=tmp_path) == run
    assert "a is not recorded in MLflow: locked" in caplog.text


def test_the_end_of_a_run_is_kept_where_promotion_fails(server, tmp_path, monkeypatch, caplog):
    run = make_run(tmp_path, "a", 30)
    (run.path / "metrics_summary.json").unlink()
    promotion = workflow._promoted(run, tmp_path, tmp_path)
    assert (
        not promotion.promoted
        and "metrics_summary.json" in promotion.reason
        and "raycadian promote a" in promotion.reason
    )


def of_sqlite(path):
    with contextlib.closing(sqlite3.connect(path)) as base:
        base.execute("CREATE TABLE registered_model_aliases (name, alias, version)")
        base.execute("CREATE TABLE model_version_tags (name, version, key, value)")
        base.execute("INSERT INTO registered_model_aliases VALUES (?, 'champion', 1)", (NAME,))
        base.execute("INSERT INTO model_version_tags VALUES (?, 1, 'run', 'a')", (NAME,))
        base.commit()


@pytest.mark.parametrize("damage", ["locked", "truncated", "empty", "text", "leads out", "null", "bytes"])
def test_a_database_that_is_locked_or_damaged_is_a_registry_error(damage, tmp_path, monkeypatch):
    path = tmp_path / "mlflow.db"
    of_sqlite(path)
    assert registry.champions(tmp_path) == {NAME: "a"}
    monkeypatch.setattr(registry, "_LOCKED_S", 0.01)
    body = path.read_bytes()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        if damage == "locked":
            other.execute("BEGIN EXCLUSIVE")
        elif damage == "leads out":
            other.execute("UPDATE model_version_tags SET value = '../elsewhere'")
        elif damage in ("null", "bytes"):  # tracebacks
            other.execute("UPDATE model_version_tags SET value = ?", (None if damage == "null" else b"\xff",))
        else:
            path.write_bytes({"truncated": body[: len(body) // 2], "empty": b"", "text": b"x" * 4096}[damage])
        family = ValueError if damage == "leads out" else RegistryError
        with pytest.raises(family, match="leads out" if damage == "leads out" else "mlflow.db can't be used"):
            registry.champion(NAME, runs=tmp_path)


RACE = """
import sys, time
from pathlib import Path
from raycadian.runs import Run
from raycadian.tracking import registry
run = Run(Path(sys.argv[1]))
print(registry.champions(run.path.parent), flush=True)
sys.stdin.readline()
print(registry.promote(run, check=lambda run: "", runs=run.path.parent).promoted)
"""


@pytest.mark.long
def test_of_two_processes_that_promote_at_once_the_better_ends_champion(tmp_path):
    made = [make_run(tmp_path, name, rmse, tracking="auto") for name, rmse in (("first", 30), ("b", 10), ("c", 20))]
    promote(made[0])
    command = [sys.executable, "-c", RACE]
    two = [
        subprocess.Popen([*command, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for run in made[1:]
    ]
    for process in two:
        process.stdout.readline()
    for process in two:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert two[0].communicate(timeout=60)[0].strip() == "True"
    two[1].communicate(timeout=60)
    assert registry.champion(NAME, runs=tmp_path).name == "b"
