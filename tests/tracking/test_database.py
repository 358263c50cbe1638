"""MLflow's database."""

import sqlite3
from contextlib import closing

import pytest

from raycadian.config import Tracking
from raycadian.errors import RegistryError
from raycadian.tracking import registry


@pytest.mark.slow
def test_new_databases_are_copies_of_one_and_hold_nothing_of_it(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("RAYCADIAN_CACHE", str(tmp_path / "cache"))
    for name in ("first", "second"):
        with registry._store(Tracking(), tmp_path / name) as client:
            client.create_experiment(name)
            assert [e.name for e in client.search_experiments()] == [name, "Default"]
    (empty,) = (tmp_path / "cache").iterdir()
    with closing(sqlite3.connect(empty)) as connection:
        assert connection.execute("SELECT count(*) FROM experiments").fetchone() == (0,)
    assert (tmp_path / "first" / "mlflow.db").stat().st_mode & 0o777 == 0o600
    capfd.readouterr()
    base = tmp_path / "first" / "mlflow.db"
    with closing(sqlite3.connect(base)) as connection, connection:
        connection.execute("DROP TABLE experiments")
    with pytest.raises(RegistryError, match="no such table"), registry._store(Tracking(), tmp_path / "first") as client:
        client.create_experiment("more")
    assert capfd.readouterr() == ("", "")  # MLflow printed its traceback


def tables(path, version="1"):
    """A database as MLflow's, of one table."""
    with closing(sqlite3.connect(path)) as base, base:
        base.execute("CREATE TABLE alembic_version (version_num)")
        base.execute("INSERT INTO alembic_version VALUES (?)", (version,))


def a_link(path):
    path.symlink_to("/etc/hostname")


def cut(path):
    tables(path, "1" * 30_000)
    path.write_bytes(path.read_bytes()[:9000])


DAMAGES = {
    "garbage": lambda path: path.write_bytes(b"x" * 5000), "empty": lambda path: path.touch(), "cut": cut,
    "a link": a_link, "a folder": lambda path: path.mkdir(), "no folder": lambda path: path.parent.rmdir(),
    "a file for a folder": lambda path: path.parent.rmdir() or path.parent.touch(),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_to_copy_from_damages_no_registry(damage, tmp_path, monkeypatch):
    """Every new registry was damaged, and putting it aside, as it said, did not help."""
    monkeypatch.setattr(registry, "version", lambda name: "1")
    monkeypatch.setattr(registry, "own_cache", lambda: tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    DAMAGES[damage](tmp_path / "cache" / "mlflow-1.db")

    def client(tracking_uri):
        tables(tracking_uri.removeprefix("sqlite:///"))
        with closing(sqlite3.connect(tracking_uri.removeprefix("sqlite:///"))) as base, base:
            base.execute("CREATE TABLE experiments (name)")

    registry._start_database(tmp_path / "mlflow.db", client)
    made = (tmp_path / "mlflow.db").exists()
    assert made != damage.startswith("a f")  # then MLflow makes it
    assert not made or registry._is_whole(tmp_path / "mlflow.db")


def test_a_registry_that_is_no_file_is_told_at_once(tmp_path):
    """MLflow tried to open it for two minutes."""
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(RegistryError, match="is no file that may be"), registry._store(Tracking(), tmp_path):
        pass
