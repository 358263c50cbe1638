import os
import subprocess
import sys

import pytest

from raycadian.config import Recipe, parse
from raycadian.runs import (
    Run,
    experiment_key,
    find_complete,
    finish,
    list_runs,
    open_run,
    write_json,
    writing_folder,
)

RECIPE = parse(Recipe, {"name": "x", "dataset": "d.yaml", "model": {"kind": "ridge"}})


def complete(runs, name="x", key="abcd1234", at="2026-01-01"):
    with writing_folder(runs, name, key, resume=False) as folder:
        write_json(folder / "metadata.json", {"finished_utc": at})
        return finish(folder)


def test_a_run_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), writing_folder(tmp_path, "x", "abcd1234", resume=False) as folder:
        write_json(folder / "metadata.json", {"finished_utc": "2026"})
        raise RuntimeError
    assert list_runs(tmp_path) == []
    assert folder.is_dir()  # for --resume
    path = complete(tmp_path)
    assert list_runs(tmp_path) == [Run(path)]
    assert not folder.exists()


def test_resume_keeps_what_was_there_and_a_fresh_start_does_not(tmp_path):
    for resume, kept in ((True, True), (False, False)):
        with pytest.raises(RuntimeError), writing_folder(tmp_path, "x", "abcd1234", resume=True) as folder:
            (folder / "state").write_text("half")
            raise RuntimeError
        with pytest.raises(RuntimeError), writing_folder(tmp_path, "x", "abcd1234", resume=resume) as folder:
            assert (folder / "state").exists() == kept
            raise RuntimeError


def test_two_processes_do_not_write_the_same_run(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        folder = tmp_path / ".partial-x-abcd1234"
        folder.mkdir()
        (folder / "lock").write_text(str(other.pid))
        with (
            pytest.raises(ValueError, match="writing this run already"),
            writing_folder(tmp_path, "x", "abcd1234", True),
        ):
            pass
    finally:
        other.kill()
        other.wait()
    with writing_folder(tmp_path, "x", "abcd1234", resume=True) as folder:  # the writer is dead
        assert (folder / "lock").read_text() == str(os.getpid())


def test_runs_finished_within_a_second_have_names_of_their_own(tmp_path):
    assert complete(tmp_path) != complete(tmp_path)


def test_runs_are_found_by_beginning_and_the_newest_by_key(tmp_path):
    first = complete(tmp_path, at="2026-01-01")
    assert open_run(first.name[:12], tmp_path).path == first
    assert find_complete(tmp_path, "x", "abcd1234") == first
    assert find_complete(tmp_path, "x", "00000000") is None
    complete(tmp_path, at="2026-01-02")
    with pytest.raises(ValueError, match="several runs begin so"):
        open_run("x-", tmp_path)
    with pytest.raises(ValueError, match="no such run"):
        open_run("nothing", tmp_path)


def test_the_key_depends_on_recipe_and_data():
    other = parse(Recipe, RECIPE.model_dump(mode="json"), ("training.lr=0.1",))
    assert len({experiment_key(RECIPE, "a"), experiment_key(RECIPE, "b"), experiment_key(other, "a")}) == 3
    assert experiment_key(RECIPE, "a") == experiment_key(parse(Recipe, RECIPE.model_dump(mode="json")), "a")
