import json
import os

import pytest
from click.testing import CliRunner

from raycadian.cli.main import main
from raycadian.cluster import JOB
from raycadian.config import Recipe, parse
from raycadian.errors import StorageError
from raycadian.runs import (
    Run,
    experiment_key,
    find_complete,
    finish,
    list_runs,
    made_by,
    open_run,
    read_runs,
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


def test_two_do_not_write_the_same_run(tmp_path):
    with writing_folder(tmp_path, "x", "abcd1234", resume=True) as folder:
        (folder / "state").write_text("of the first")
        for resume in (True, False):
            with (
                pytest.raises(StorageError, match=f"process {os.getpid()} on .* is writing .*-x-abcd1234 already"),
                writing_folder(tmp_path, "x", "abcd1234", resume),
            ):
                pass
        assert (folder / "state").read_text() == "of the first"
    with writing_folder(tmp_path, "x", "abcd1234", resume=True) as folder:
        assert (folder / "state").exists()
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]


def test_a_broken_run_hides_no_other(tmp_path):
    good, truncated, odd = (complete(tmp_path, name=name) for name in ("a", "b", "c"))
    (truncated / "metadata.json").write_text('{"finished_utc": "20')
    write_json(odd / "metadata.json", {"finished_utc": 3})
    assert list_runs(tmp_path) == [Run(good)] == [open_run("a-", tmp_path)]
    broken = read_runs(tmp_path)[1]
    assert [b.path for b in broken] == [truncated, odd]
    assert all(str(b.path / "metadata.json") in b.reason for b in broken)


def test_the_list_shows_what_is_broken_and_the_rest(tmp_path):
    truncated, bare = complete(tmp_path, name="a"), complete(tmp_path, name="b")
    (truncated / "metadata.json").write_text("{")
    (tmp_path / "mlflow.db").write_bytes(b"no database at all, and as long as a page would have to be")
    result = CliRunner().invoke(main, ["runs", "--runs", str(tmp_path), "--json"])
    rows = {row["run"]: row for row in json.loads(result.stdout)}
    assert str(truncated / "metadata.json") in rows[truncated.name]["broken"]
    assert str(bare / "recipe.yaml") in rows[bare.name]["broken"]


def test_a_broken_note_of_a_job_hides_no_other(tmp_path, monkeypatch):
    monkeypatch.setenv(JOB, "raysubmit_1")
    one, other = complete(tmp_path, name="a"), complete(tmp_path, name="b")
    (other / "job.json").write_text("{")
    assert made_by("raysubmit_1", tmp_path) == [one]


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
