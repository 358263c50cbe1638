"""A run's files are the ones that were written: hashes, signature, and what is read says where they are not."""

import json
import os
import shutil
import time

import numpy as np
import prediction_cases
import pytest
from click.testing import CliRunner

from raycadian import manifest
from raycadian.cli.main import main
from raycadian.errors import CheckpointError
from raycadian.evaluation.forecast.predictions import Predictions
from raycadian.runs import Run
from raycadian.tasks.forecast import ForecastTask
from raycadian.tracking import registry
from raycadian.training import pipeline

FILES = {
    "recipe.yaml": "name: x", "metadata.json": "{}", "metrics_summary.json": '{"val": 12.3}', "report.html": "<p>",
    "checkpoint/config.json": "{}", "checkpoint/preprocessing.json": '{"population": [110]}',
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "a"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    manifest.write(folder)
    return folder


@pytest.fixture
def key(tmp_path, monkeypatch):
    path = tmp_path / "key"
    path.write_text("0123456789abcdef\n")
    monkeypatch.setenv(manifest.KEY, str(path))
    return path


def edit(folder, name, text):
    (folder / name).write_text(text)


def replace_by_a_folder(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()


SCORES, PREPARED = "metrics_summary.json", "checkpoint/preprocessing.json"
CHANGES = {
    "edited": (lambda f: edit(f, SCORES, '{"val": 0.01}'), SCORES, "not what was written"),
    "of the same length": (lambda f: edit(f, PREPARED, '{"population": [138]}'), PREPARED, "not what was written"),
    "gone": (lambda f: (f / "recipe.yaml").unlink(), "recipe.yaml", "is gone"),
    "a folder": (lambda f: replace_by_a_folder(f, "recipe.yaml"), "recipe.yaml", "no regular file"),
    "added": (lambda f: edit(f, "event_calibration.json", "[]"), "event_calibration.json", "was not there"),
    "added to the model": (lambda f: edit(f, "checkpoint/decision", ""), "checkpoint/decision", "was not there"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_found_by_whoever_reads(name, run):
    change, file, message = CHANGES[name]
    manifest.require_intact(run)
    change(run)
    with pytest.raises(CheckpointError, match=f"{file}: .*{message}.*raycadian verify"):
        manifest.require_intact(run)
    (problem,) = manifest.verify(run).problems
    assert file in problem and message in problem
    assert (
        file in manifest.damage(run) and message in manifest.damage(run) and "raycadian verify" in manifest.damage(run)
    )


def test_a_list_reads_only_what_was_written_later(run, monkeypatch):
    """Hundreds of runs are listed; `verify` reads them."""
    for path in (run / name for name in FILES):
        age_s = -9 if path.name == "recipe.yaml" else 9
        os.utime(path, (time.time() - age_s,) * 2)
    hashed = []
    monkeypatch.setattr(manifest, "sha256", lambda path: hashed.append(path.name) or "0")
    assert "recipe.yaml: is not what was written" in manifest.damage(run)
    assert hashed == ["recipe.yaml"]


def test_the_list_of_runs_says_which_are_damaged(run, monkeypatch):
    """Runs without a model were listed as healthy, and a champion that was gone not at all."""
    monkeypatch.setattr(registry, "champions", lambda runs: {"d-forecast-12": "gone"})
    recipe = "{name: x, dataset: d.yaml, model: {kind: ridge}}"
    for name, text in (("recipe.yaml", recipe), ("metadata.json", '{"finished_utc": "2026", "model": "ridge"}')):
        edit(run, name, text)
    edit(run, SCORES, '{"val": {"rmse_mgdl": {"value": 12.3}}}')
    manifest.write(run)

    def listed():
        result = CliRunner().invoke(main, ["runs", "--runs", str(run.parent), "--json"])
        return {row["run"]: row for row in json.loads(result.stdout)}

    assert "broken" not in listed()["a"] and "folder is gone" in listed()["gone"]["broken"]
    shutil.rmtree(run / "checkpoint")
    assert (
        listed()["a"]["val_rmse_mgdl"] == 12.3
        and "checkpoint/config.json: is gone and 1 more" in listed()["a"]["broken"]
    )
    (run / manifest.FILE).unlink()
    assert "checkpoint: is gone" in listed()["a"]["broken"]
    (run / manifest.FILE).mkdir()
    assert "manifest.json: is no regular file" in listed()["a"]["broken"]


def test_only_what_is_read_is_asked_for(run):
    edit(run, "report.html", "<p>mine")
    manifest.require_intact(run, "recipe.yaml", "checkpoint", "event_calibration.json")
    with pytest.raises(CheckpointError, match="report.html"):
        manifest.require_intact(run, "report.html")


def test_what_comes_later_by_right_is_no_problem(run):
    edit(run, "job.json", "{}")
    edit(run, "notes.txt", "mine")
    assert manifest.verify(run).problems == ()
    assert manifest.verify(run).notices == ("notes.txt: added later; nothing reads it",)


def test_a_run_of_before_is_read_and_said(run):
    (run / manifest.FILE).unlink()
    manifest.require_intact(run)
    verdict = manifest.verify(run)
    assert (verdict.files, verdict.problems) == (0, ()) and "from before manifests" in verdict.notices[0]


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"files": {"recipe.yaml": 3}}', '{"files": [1]}'])
def test_a_manifest_that_says_nothing_is_an_error(text, run):
    edit(run, manifest.FILE, text)
    with pytest.raises(CheckpointError, match="manifest.json"):
        manifest.require_intact(run)


@pytest.mark.parametrize("put", [lambda path: path.mkdir(), lambda path: path.symlink_to("/dev/null")])
def test_something_else_in_the_manifests_place_is_no_run_of_before(put, run):
    (run / manifest.FILE).unlink()
    put(run / manifest.FILE)
    for check in (manifest.require_intact, manifest.verify):
        with pytest.raises(CheckpointError, match=r"manifest.json: is no regular file"):
            check(run)


def test_a_name_that_leads_out_is_a_problem(run):
    listed = {"files": {"../../../etc/hostname": "0"}}
    edit(run, manifest.FILE, json.dumps(listed))
    assert "leads out" in manifest.verify(run).problems[0]


def test_a_rewrite_takes_up_what_it_wrote_and_nothing_else(run):
    edit(run, "checkpoint/preprocessing.json", "{}")
    with manifest.rewritten(run):
        for name in ("report.html", "metadata.json"):
            edit(run, name, "new")
        edit(run, "leaderboard.json", "[]")
        (run / "metrics_summary.json").unlink()
    (problem,) = manifest.verify(run).problems
    assert "preprocessing.json: is not what was written" in problem


def test_a_signature_holds_against_who_may_write_the_folder(run, key, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="the signature is absent"):
        manifest.require_intact(run, signed=True)
    manifest.write(run)
    manifest.require_intact(run, signed=True)
    assert manifest.verify(run, key).signature == "valid"
    other = tmp_path / "other"
    other.write_text("another key, as long")
    assert manifest.verify(run, other).signature == "wrong"
    monkeypatch.delenv(manifest.KEY)
    edit(run, "metrics_summary.json", "{}")
    manifest.write(run)  # without the key
    assert manifest.verify(run).problems == ()
    assert manifest.verify(run, key).signature == "absent"
    for text, message in (("short", "at least 16 bytes"), (None, "no key can be read")):
        key.unlink() if text is None else key.write_text(text)
        with pytest.raises(ValueError, match=message):
            manifest.verify(run, key)


def test_the_verb_says_what_is_wrong(run, key, monkeypatch):
    def ask(*options):
        return CliRunner().invoke(main, ["verify", "a", "--runs", str(run.parent), *options])

    assert ask().exit_code == 0 and "6 files listed, all as they were written" in ask().output
    assert (ask("--key", str(key)).exit_code, json.loads(ask("--json").output)["signature"]) == (1, None)
    edit(run, "recipe.yaml", "name: y")
    result = ask()
    assert result.exit_code == 1 and "recipe.yaml: is not what was written" in result.output
    (run / manifest.FILE).unlink()  # it was a success: 0 files listed, all as they were written
    result = ask()
    assert result.exit_code == 1 and "nothing can be checked" in result.output and "none checked" in result.output


def test_scores_and_models_of_an_edited_run_are_not_read(run):
    edit(run, "checkpoint/preprocessing.json", "{}")
    with pytest.raises(CheckpointError, match="preprocessing.json: is not what was written"):
        pipeline.checkpoint.load(run / "checkpoint")
    edit(run, "metadata.json", '{"against": []}')
    for read in (pipeline.results_of, pipeline.rescore):
        with pytest.raises(CheckpointError, match="is not what was written"):
            read(Run(run))


def test_metadata_that_lack_something_are_an_error_of_the_run(run):
    (run / manifest.FILE).unlink()
    (run / "recipe.yaml").write_text("{name: x, dataset: d.yaml, model: {kind: ridge}}")
    with pytest.raises(CheckpointError, match="damaged: 'against'"):
        pipeline.rescore(Run(run))


def test_no_flipped_bit_of_predictions_is_accepted(run):
    """135 of 300 were."""
    predictions = prediction_cases.forecasts(people=2, windows=10, steps=3)
    path = run / "predictions.parquet"
    predictions.write_parquet(path)
    shutil.copy(path, run.parent / "alone.parquet")
    manifest.write(run)
    body, rng, silent = path.read_bytes(), np.random.default_rng(0), 0
    for at in rng.integers(0, 8 * len(body), 100):
        flipped = bytearray(body)
        flipped[at // 8] ^= 1 << (at % 8)
        for file in (path, run.parent / "alone.parquet"):
            file.write_bytes(flipped)
        with pytest.raises(CheckpointError, match="predictions.parquet: is not what was written"):
            ForecastTask().read(run)
        silent += not _refused(run.parent / "alone.parquet", predictions)
    assert silent == 0  # the pages' own checksums find what the manifest is not there for


def _refused(path, original):
    """Whether a file of its own is refused, or read as it was: a bit of a page's header may mean nothing."""
    try:
        read = Predictions.read_parquet(path)
    except CheckpointError:
        return True
    return np.array_equal(read.quantiles, original.quantiles) and np.array_equal(
        read.truth, original.truth, equal_nan=True
    )
