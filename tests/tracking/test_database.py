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
