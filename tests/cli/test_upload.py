"""What travels with a submission, and what is refused before anything is sent. What arrives: tests/test_jobs.py."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from clusters import write_tree

from raycadian.cli import upload
from raycadian.cli.main import main
from raycadian.cli.upload import card_data, plan, recipe_data

RECIPE = """\
name: travels
dataset: datasets/tiny.yaml
model: {kind: ttm, pretrained: runs/exports/base}
"""


@pytest.fixture
def tree(tmp_path) -> Path:
    tree = write_tree(tmp_path / "tree", people=1, days=1)
    (tree / "jobs" / "recipes" / "travels.yaml").write_text(RECIPE)
    return tree


def _card(tree: Path, files: str) -> str:
    card = tree / "datasets" / "tiny.yaml"
    card.write_text(f"name: tiny\nfiles: {files}\nunit: mg/dL\n")
    return "datasets/tiny.yaml"


def test_runs_and_what_ignore_files_name_stay_here(tree):
    before = plan(tree)
    for name in ("runs", "snapshots", "mlruns", "tests", ".git", ".venv", "patients"):
        (tree / name).mkdir()
        (tree / name / "data.csv").write_text("x")
    with (tree / ".rayignore").open("a") as file:
        file.write("/patients\n")
    after = plan(tree)
    assert after.files.keys() == before.files.keys()
    assert {
        Path("jobs/tune.py"),
        Path("datasets/tiny.csv"),
        Path("platform/raycadian/cli/main.py"),
    } <= after.files.keys()
    assert after.bytes == sum((tree / path).stat().st_size for path in after.files)


def test_too_much_is_refused_with_the_largest_named(tree, monkeypatch):
    for number in range(7):
        with (tree / "datasets" / f"{number}.bin").open("wb") as file:
            file.truncate(20_000_000 + number)
    monkeypatch.chdir(tree)
    done = CliRunner().invoke(main, ["submit", "train", "jobs/recipes/demo.yaml", "--address", "http://127.0.0.1:9"])
    assert done.exit_code == 2
    assert f"at most {upload.MAX_BYTES / 1e6:.1f} MB. Largest: datasets/6.bin (20.0 MB)" in done.output
    assert "datasets/2.bin" in done.output and "datasets/1.bin" not in done.output
    assert ".rayignore" in done.output


def test_a_link_out_of_the_tree_is_refused(tree, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "patients.csv").write_text("x")
    os.symlink(tmp_path / "elsewhere", tree / "datasets" / "linked")
    with pytest.raises(ValueError, match="datasets/linked/patients.csv is reached by a link that leaves the working"):
        plan(tree)


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="submit from the root of a raycadian working tree"):
        plan(tmp_path)


def test_the_data_that_must_lie_on_the_cluster_are_named(tree):
    assert card_data(plan(tree), "datasets/tiny.yaml")[0].startswith("data: datasets/tiny.csv travels with the upload")
    (said,) = card_data(plan(tree), _card(tree, "[/mnt/raycadian/data/*.csv]"))
    assert said.startswith("data: /mnt/raycadian/data/*.csv is not uploaded; it must lie there on the cluster")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ("[../../shared/x.csv]", "lies outside of the working tree and is not uploaded: put it on storage"),
        ("[../runs/x.csv]", "runs/x.csv, which .gitignore or .rayignore keeps here: put it on storage"),
        ("[absent.csv]", "no file matches datasets/absent.csv"),
    ],
)
def test_data_that_a_job_could_not_find_are_refused(tree, files, says):
    (tree / "runs").mkdir()
    (tree / "runs" / "x.csv").write_text("x")
    card = _card(tree, files)
    with pytest.raises(ValueError, match=says):
        card_data(plan(tree), card)


def test_what_a_recipe_names_must_travel(tree, monkeypatch):
    monkeypatch.chdir(tree)
    recipe = "jobs/recipes/travels.yaml"
    (tree / "runs" / "exports" / "base").mkdir(parents=True)
    (tree / "runs" / "exports" / "base" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="names runs/exports/base, which is not uploaded"):
        recipe_data(plan(tree), recipe, ())
    assert recipe_data(plan(tree), recipe, ("model.pretrained=null",))[0].startswith("data: datasets/tiny.csv travels")
    with pytest.raises(ValueError, match="is not in the upload: name a file of the working tree"):
        recipe_data(plan(tree), str(tree / recipe), ())


def test_both_data_sets_of_a_transfer_must_travel(tree, monkeypatch):
    monkeypatch.chdir(tree)
    other = "datasets/other.yaml"
    (tree / other).write_text("{name: other, files: [absent.csv]}")
    transfer = ("model.pretrained=null", f"experiment={{kind: transfer, other: {other}}}")
    with pytest.raises(ValueError, match=f"{other}: no file matches"):
        recipe_data(plan(tree), "jobs/recipes/travels.yaml", transfer)
    there = ("model.pretrained=null", "experiment={kind: transfer, other: datasets/tiny.yaml}")
    assert len(recipe_data(plan(tree), "jobs/recipes/travels.yaml", there)) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["forecast", "x.csv"], "'forecast' is not a verb that runs as a job; these are: experiment, prepare, promote"),
        (["train", "jobs/recipes/demo.yaml", "--runs", "runs"], "--runs runs: on a cluster an absolute path"),
        (["train", "jobs/recipes/demo.yaml", "--epochs", "3"], "No such option '--epochs'"),
        (["train", "jobs/recipes/demo.yaml", "--set", "training.epoch=3"], "did you mean 'epochs'?"),
    ],
)
def test_mistakes_are_told_before_anything_is_sent(tree, monkeypatch, arguments, says):
    monkeypatch.chdir(tree)
    done = CliRunner().invoke(main, ["submit", *arguments, "--address", "http://127.0.0.1:9"])
    assert done.exit_code == 2
    assert says in done.output, done.output
