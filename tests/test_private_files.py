"""What is made for health data is its owner's alone, whatever the umask; $RAYCADIAN_UMASK lets a group in."""

import os
import sqlite3
from contextlib import closing

import pytest
from click.testing import CliRunner

from raycadian.cli.main import main
from raycadian.data import storage
from raycadian.files import UMASK, new_folder, own_folder
from raycadian.locks import exclusive
from raycadian.made import write_new
from raycadian.runs import writing_folder
from raycadian.tracking import registry


@pytest.fixture(autouse=True)
def umask():
    """As most systems have it: others may read."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mlflow_client(tracking_uri):
    """What MLflow does with a database that is not there."""
    with closing(sqlite3.connect(tracking_uri.removeprefix("sqlite:///"))) as base, base:
        base.execute("CREATE TABLE experiments (name)")


def sweep(runs):
    with writing_folder(runs / "sweeps", "a", "0" * 8, resume=False):
        pass


def snapshot(runs):
    with new_folder(runs / "snapshot") as folder:
        storage.make_folder(folder / "inner")


def lock(runs):
    with exclusive(runs / ".lock", "testing"):
        pass


def database(runs):
    own_folder(runs)
    registry._start_database(runs / "mlflow.db", mlflow_client)


MAKERS = {
    "sweep": sweep, "snapshot": snapshot, "lock": lock, "database": database,
    "recipe": lambda runs: write_new(runs, "a.recipe", "a: 1", lambda path: False),
}  # fmt: skip


def modes(folder, bits):
    """What of the tree below a folder others may touch by such bits, but for files that lie in a closed folder."""
    places = [p for p in (folder, *folder.rglob("*")) if p.is_dir() or p.name == "mlflow.db"]
    return {p.name: oct(p.stat().st_mode & 0o777) for p in places if p.stat().st_mode & bits}


@pytest.mark.parametrize("made", MAKERS)
def test_what_is_made_is_the_owners_alone(made, tmp_path, monkeypatch):
    """runs/ was 755 and mlflow.db 644."""
    monkeypatch.setenv("RAYCADIAN_CACHE", str(tmp_path / "cache"))
    MAKERS[made](tmp_path / "there" / "runs")
    assert modes(tmp_path / "there", 0o077) == {}
    monkeypatch.setenv(UMASK, "027")
    MAKERS[made](tmp_path / "shared" / "runs")
    assert modes(tmp_path / "shared", 0o007) == {} and "runs" in modes(tmp_path / "shared", 0o050)


def test_a_folder_that_is_there_keeps_its_mode_and_the_umask_holds(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir(mode=0o755)
    own_folder(tmp_path / "runs" / "a")
    assert (tmp_path / "runs").stat().st_mode & 0o777 == 0o755
    monkeypatch.setenv(UMASK, "000")
    assert own_folder(tmp_path / "b").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("stated", ["0777", "x", "-1", "700", "078"])
def test_a_umask_that_is_none_is_refused(stated, tmp_path, monkeypatch):
    monkeypatch.setenv(UMASK, stated)
    with pytest.raises(ValueError, match=f"{UMASK}=.*expected octal"):
        own_folder(tmp_path / "a")


VERBS = (
    ["score"], ["compare"], ["promote"], ["verify"], ["prepare"], ["run"], ["runs", "--runs"], ["export", "--to", "x"],
    ["train"], ["inspect"], ["init"], ["indices"],
)  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_a_name_that_no_file_can_have_is_told_in_words(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, [*verb, "x" * 300])
    assert result.exit_code == 2 and "Errno" not in result.output and "xxx" in result.output, result.output
