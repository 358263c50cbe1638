"""A run over everybody of a snapshot: the forecasts are those of the run and of the endpoint, whichever way, and what
was killed goes on."""

import errno
import json
import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from helpers import write_csv
from tenacity import wait_none
from upath import UPath

from raycadian import cohort
from raycadian.cli.main import main
from raycadian.cohort import forecast_everybody
from raycadian.config import Evaluation, Recipe, Residual, Ridge, Tracking, Training, Window
from raycadian.data import storage
from raycadian.evaluation.forecast.predictions import Predictions
from raycadian.modalities.prepare import prepare
from raycadian.models import checkpoint
from raycadian.quickstart import champion_name
from raycadian.serving.forecaster import Forecaster, read_history
from raycadian.tasks import over, task_of
from raycadian.tasks.forecast import fit_mechanism_of, predict
from raycadian.training.pipeline import load_data, read_predictions, train_run

MODELS = {"ridge": Ridge(lags=6), "residual": Residual(inner=Ridge(lags=6))}
CARD = """
name: many
files: [people.csv]
timezone: UTC
unit: mg/dL
columns: {subject: subject, time: time, glucose: glucose}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Runs of two models on five people, and a snapshot of these and of one whose record is too short."""
    folder = tmp_path_factory.mktemp("cohort")
    write_csv(folder / "people.csv", 5, 4)
    short = pd.read_csv(folder / "people.csv")
    short = short[short["subject"] == short["subject"].iloc[0]].head(70).assign(subject="short")
    pd.concat([pd.read_csv(folder / "people.csv"), short]).to_csv(folder / "people.csv", index=False)
    (folder / "many.yaml").write_text(CARD)
    return folder


@pytest.fixture(scope="module")
def snapshot(place):
    return prepare(place / "many.yaml", place / "snapshots")


@pytest.fixture(scope="module")
def runs(place, snapshot):
    def trained(name: str):
        recipe = Recipe(
            name=name, dataset=str(place / "many.yaml"), model=MODELS[name],
            window=Window(context=72, horizon=6, eval_stride=1),
            training=Training(device="cpu"), evaluation=Evaluation(bootstrap=10),
            tracking=Tracking(mlflow="off", tensorboard=False),
        )  # fmt: skip
        return train_run(recipe, load_data(recipe, place / "snapshots", snapshot), runs=place / "runs")

    return {name: trained(name) for name in MODELS}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(cohort, "_SHARD_POINTS", 2000)


def parts(folder):
    return {path.name: path for path in sorted(folder.glob("part-*.parquet"))}


def table(folder):
    pieces = [Predictions.read_parquet(path) for path in parts(folder).values()]
    return Predictions.concat(pieces)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_window_of_the_run_has_the_runs_forecast(runs, snapshot, tmp_path, name):
    done = forecast_everybody(runs[name], snapshot, tmp_path / "out")
    scored, everybody = read_predictions(runs[name]), table(tmp_path / "out")
    place = {key: i for i, key in enumerate(zip(everybody.subject, everybody.time_utc, strict=True))}
    rows = [place[key] for key in zip(scored.subject, scored.time_utc, strict=True)]
    np.testing.assert_allclose(everybody.quantiles[rows], scored.quantiles, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(everybody.truth[rows], scored.truth)
    assert (done.windows, done.people, done.shards) == (len(everybody), 5, len(parts(tmp_path / "out")))
    assert done.shards > 1 and list(done.refused) == ["short"] and "no window fits" in done.refused["short"]
    np.testing.assert_array_equal(everybody.scope[rows], scored.scope)
    assert len(pd.read_parquet(tmp_path / "out")) == len(everybody)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_last_forecast_is_the_endpoints(runs, snapshot, tmp_path, name):
    done = forecast_everybody(runs[name], snapshot, tmp_path / "out", "last")
    last, forecaster = table(tmp_path / "out"), Forecaster.load(runs[name].path)
    assert len(last) == done.people == 5 and "needs 72 points" in done.refused["short"]
    whole = pd.read_csv(snapshot.path.parents[1] / "people.csv")
    for i, subject in enumerate(last.subject):
        own = tmp_path / f"{subject}.csv"
        whole[whole["subject"] == subject][["time", "glucose"]].rename(columns={"glucose": "glucose_mgdl"}).to_csv(own)
        answer = forecaster.answer(read_history(own))
        np.testing.assert_allclose(last.quantiles[i], answer.quantiles, rtol=0, atol=1e-9)
        assert answer.origin_utc == last.time_utc[i] and np.isnan(last.truth[i]).all()


@pytest.mark.slow
def test_what_was_killed_goes_on_and_writes_nothing_twice(runs, snapshot, tmp_path, monkeypatch):
    out, forecast = tmp_path / "out", cohort._forecast_shard

    def killed(shard, **job):
        if shard["part"] == "part-00001.parquet":
            raise KeyboardInterrupt
        return forecast(shard, **job)

    monkeypatch.setattr(cohort, "_forecast_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        forecast_everybody(runs["ridge"], snapshot, out)
    assert (
        list(parts(out)) == ["part-00000.parquet"] and not json.loads((out / "_forecast.json").read_text())["complete"]
    )
    before = parts(out)["part-00000.parquet"].stat()
    monkeypatch.setattr(cohort, "_forecast_shard", forecast)
    done = forecast_everybody(runs["ridge"], snapshot, out)
    after = parts(out)["part-00000.parquet"].stat()
    assert (done.resumed, after.st_ino, after.st_mtime_ns) == (1, before.st_ino, before.st_mtime_ns)
    whole = forecast_everybody(runs["ridge"], snapshot, tmp_path / "whole")
    assert (whole.windows, whole.refused) == (done.windows, done.refused)
    assert [p.read_bytes() for p in parts(out).values()] == [p.read_bytes() for p in parts(tmp_path / "whole").values()]


@pytest.mark.slow
def test_storage_that_is_away_for_a_while_is_asked_again(runs, snapshot, tmp_path, monkeypatch):
    """A bucket (fsspec's own, in memory) that answers 503 to every second request to write."""
    written, write_bytes = [], storage.write_bytes

    def away(path, data):
        written.append(path.name)
        if len(written) % 2:
            raise OSError(errno.EIO, f"{path}: the storage did not answer (503 Slow Down)")
        return write_bytes(path, data)

    monkeypatch.setattr(storage, "write_bytes", away)
    for patient in (cohort._forecast_shard, cohort._write):
        monkeypatch.setattr(patient.retry, "wait", wait_none())
    done = forecast_everybody(runs["ridge"], snapshot, "memory://bucket/forecasts", "last")
    monkeypatch.setattr(storage, "write_bytes", write_bytes)
    here = forecast_everybody(runs["ridge"], snapshot, tmp_path / "here", "last")
    bucket = {path.name: path.read_bytes() for path in UPath("memory://bucket/forecasts").iterdir()}
    assert bucket == {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}
    assert (done.windows, done.people, done.refused) == (here.windows, 5, here.refused)
    assert forecast_everybody(runs["ridge"], snapshot, "memory://bucket/forecasts", "last").resumed == done.shards


@pytest.mark.slow
def test_whose_clock_has_just_changed_is_refused_alone(runs, tmp_path):
    write_csv(tmp_path / "people.csv", 3, 2)
    people = pd.read_csv(tmp_path / "people.csv", parse_dates=["time"])
    moved = people["subject"] == "p1"
    ends = pd.Timestamp("2026-03-29T04:00")  # three hours after Madrid went from 1:59 to 3:00
    utc = people["time"][moved] + (ends - people["time"][moved].max())
    people.loc[moved, "time"] = utc.dt.tz_localize("UTC").dt.tz_convert("Europe/Madrid").dt.tz_localize(None)
    people.to_csv(tmp_path / "people.csv", index=False)
    (tmp_path / "many.yaml").write_text(CARD.replace("UTC", "Europe/Madrid"))
    done = forecast_everybody(runs["ridge"], prepare(tmp_path / "many.yaml", tmp_path), tmp_path / "out", "last")
    assert set(table(tmp_path / "out").subject) == {"p0", "p2"} and list(done.refused) == ["p1"]
    assert "a change of the clock" in done.refused["p1"]
    about = json.loads((tmp_path / "out" / "_forecast.json").read_text())
    assert (about["people"], about["people_refused"]) == (2, 1)


@pytest.mark.slow
def test_a_folder_with_something_else_is_left_alone(runs, snapshot, tmp_path):
    forecast_everybody(runs["ridge"], snapshot, tmp_path / "out")
    with pytest.raises(ValueError, match="holds other forecasts.*choose another --out"):
        forecast_everybody(runs["residual"], snapshot, tmp_path / "out")
    with pytest.raises(ValueError, match="holds other forecasts"):
        forecast_everybody(runs["ridge"], snapshot, tmp_path / "out", "last")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty and holds no forecasts"):
        forecast_everybody(runs["ridge"], snapshot, tmp_path / "mine")


@pytest.mark.slow
def test_the_verb_takes_a_card_or_a_snapshot(place, runs, snapshot, tmp_path):
    for source, out in ((place / "many.yaml", "first"), (snapshot.path, "second")):
        options = ["--out", tmp_path / out, "--run", runs["ridge"].path, "--snapshots", place / "snapshots"]
        done = CliRunner().invoke(main, ["forecast", *map(str, [source, *options]), "--windows", "last"])
        assert done.exit_code == 0, done.output
        assert "5 windows of 5 people by ridge-" in done.output and "no forecast of short: " in done.output
    again = CliRunner().invoke(main, ["forecast", str(snapshot.path), "--person", "p1", *map(str, options)])
    assert again.exit_code == 2 and "--out forecasts everybody" in again.output


@pytest.mark.ray
def test_parts_of_the_windows_on_ray_are_the_run_to_the_last_digit(ray_local, runs, snapshot, monkeypatch):
    """As scoring goes where it takes long: the same windows, in order, whoever forecasts them."""
    run = runs["residual"]
    task, data = task_of(run.recipe), task_of(run.recipe).load(run.recipe, snapshot)
    model = checkpoint.load(run.path / "checkpoint")
    mechanism = fit_mechanism_of(data, run.recipe)
    windows = task.windows(data, run.recipe, "test", mechanism)
    asked = []
    monkeypatch.setattr(over.cluster, "pays", lambda seconds: asked.append(seconds) or True)
    there = predict(model, windows, set(), batch_size=40)
    assert len(asked) == 1 and asked[0] > 0 and len(there) == len(windows) > 200
    here = read_predictions(run)
    for name in ("subject", "time_utc", "truth"):
        np.testing.assert_array_equal(getattr(there, name), getattr(here, name))
    np.testing.assert_allclose(there.quantiles, here.quantiles, rtol=0, atol=1e-9)
    np.testing.assert_allclose(there.parts["mechanism"], here.parts["mechanism"], rtol=0, atol=1e-9)


@pytest.mark.ray
def test_on_ray_the_files_are_the_same_and_an_actor_that_is_killed_is_stood_in_for(
    ray_local, runs, snapshot, tmp_path, monkeypatch
):
    """Killed once it had written its part, before it could say so: what it wrote stays."""
    here = forecast_everybody(runs["residual"], snapshot, tmp_path / "here", on_ray=False)
    forecast, seen = cohort._forecast_shard, tmp_path / "killed"

    def forecast_and_die(shard, **job):
        note = forecast(shard, **job)
        if shard["part"] == "part-00001.parquet" and not seen.exists():
            Path(seen).write_text(str((tmp_path / "there" / shard["part"]).stat().st_mtime_ns))
            os.kill(os.getpid(), signal.SIGKILL)
        return note

    monkeypatch.setattr(cohort, "_forecast_shard", forecast_and_die)
    there = forecast_everybody(runs["residual"], snapshot, tmp_path / "there", on_ray=True)
    assert (here.windows, here.refused, here.shards) == (there.windows, there.refused, there.shards)
    assert {n: p.read_bytes() for n, p in parts(tmp_path / "here").items()} == {
        n: p.read_bytes() for n, p in parts(tmp_path / "there").items()
    }
    assert int(seen.read_text()) == (tmp_path / "there" / "part-00001.parquet").stat().st_mtime_ns


@pytest.mark.slow
def test_of_several_champions_the_one_of_the_file_forecasts(place, runs, monkeypatch):
    names = {"many-forecast-6": "a", "other-forecast-12": "b", "many-classify-low": "c"}
    monkeypatch.setattr("raycadian.tracking.registry.champions", lambda runs: names)
    for file in (place / "many.yaml", *(place / "snapshots").glob("many-*")):
        assert champion_name(file, place / "snapshots", place / "runs") == "many-forecast-6"
    names["many-forecast-12"] = "d"
    assert champion_name(place / "many.yaml", place / "snapshots", place / "runs") is None
