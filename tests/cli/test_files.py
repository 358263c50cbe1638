"""Data files without YAML: recognised, their card and recipe written, every guess said; nothing is overwritten."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from helpers import day_curve, write_csv, write_person

from raycadian.cli.main import main
from raycadian.config import load_recipe
from raycadian.modalities.cards import load_card
from raycadian.quickstart import sources_of

CARD = "name: tiny\nfiles: [mine.csv]\nunit: mg/dL\ncolumns: {glucose: glucose_mgdl}\n"


def invoke(*arguments: object):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def one_person(tmp_path, monkeypatch):
    """A table of one person's ten days, in an empty folder that is the working one."""
    monkeypatch.chdir(tmp_path)
    write_person("mine.csv", 10)
    return tmp_path


def test_prepare_says_its_guesses_and_writes_a_card_that_prepares_the_same(one_person):
    done = invoke("prepare", "mine.csv", "--json")
    assert done.exit_code == 0, done.output
    body = json.loads(done.stdout)
    assert body["counts"]["subjects"] == 1 and body["counts"]["readings"] == 2880
    guesses = {guess["name"]: guess for guess in body["guesses"]}
    assert guesses["unit"]["value"] == "mg/dL" and "--unit" in guesses["unit"]["how_to_change"]
    assert "timezone: none (assumed" in done.stderr and "--timezone Europe/Madrid" in done.stderr
    assert "here, in this process" in done.stderr
    again = json.loads(invoke("prepare", body["card_path"], "--json").stdout)
    assert again["snapshot"] == body["snapshot"] and "guesses" not in again


def test_what_is_said_goes_before_what_is_guessed(one_person):
    done = invoke("prepare", "mine.csv", "--timezone", "Europe/Madrid", "--subject", "p01", "--set", "license=none")
    assert done.exit_code == 0, done.output
    assert "timezone" not in done.stderr
    card = load_card("snapshots/mine.yaml")
    assert (card.timezone, card.subject, card.license) == ("Europe/Madrid", "p01", "none")


def test_no_file_is_overwritten(one_person):
    (one_person / "snapshots").mkdir()
    (one_person / "snapshots" / "mine.yaml").write_text("somebody: else's\n")
    for _ in range(2):  # the second time the card is there already
        done = invoke("prepare", "mine.csv")
        assert "card: snapshots/mine-2.yaml (snapshots/mine.yaml stays: it says something else)" in done.stderr
    assert (one_person / "snapshots" / "mine.yaml").read_text() == "somebody: else's\n"
    assert [p.name for p in (one_person / "snapshots").glob("*.yaml")].count("mine-2.yaml") == 1
    assert invoke("prepare", "mine.csv", "--subject", "p01").exit_code == 0
    assert load_card("snapshots/mine-3.yaml").subject == "p01"


@pytest.mark.slow
def test_why_a_card_or_recipe_is_numbered_is_said(one_person):
    (one_person / "elsewhere").mkdir()
    (one_person / "elsewhere" / "mine.csv").write_bytes((one_person / "mine.csv").read_bytes())
    assert "mine-2" not in invoke("init", "mine.csv", "--out", "study").stderr
    done = invoke("init", "elsewhere/mine.csv", "--out", "study")
    assert "card: study/mine-2.yaml (study/mine.yaml stays: it differs in files)" in done.stderr
    assert "recipe: study/mine.recipe-2.yaml (study/mine.recipe.yaml stays: it differs in dataset)" in done.stderr


def test_inspect_takes_files(one_person):
    done = invoke("inspect", "mine.csv", "--out", "page.html")
    assert done.exit_code == 0, done.output
    assert "<html" in (one_person / "page.html").read_text(encoding="utf-8")
    assert json.loads(invoke("inspect", "mine.csv", "--json").stdout)["quality"]


@pytest.mark.slow
def test_run_goes_from_a_file_to_a_leaderboard(one_person):
    done = invoke("run", "mine.csv", "--set", "evaluation.bootstrap=20", "--json")
    assert done.exit_code == 0, done.output
    body = json.loads(done.stdout)
    assert {row["model"] for row in body["leaderboard"]} == {"ridge", "persistence"}
    recipe = load_recipe("runs/mine.recipe.yaml")
    assert (recipe.split.kind, recipe.window.context, recipe.window.horizon) == ("time", 24, 12)
    assert recipe.evaluation.bootstrap == 20  # what is written is what was run
    assert invoke("forecast", "mine.csv", "--json").exit_code == 0


def test_init_writes_both_for_several_people_and_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "five.csv", n=5, days=6)
    done = invoke("init", "five.csv", "--out", "study", "--set", "window.horizon=6", "--set", "name=pilot")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "study" / "pilot.recipe.yaml").read_text(encoding="utf-8")
    recipe = load_recipe("study/pilot.recipe.yaml")
    assert recipe.split.kind == "hybrid" and recipe.window.horizon == 6
    assert "# for validation and test: the last stretch of everyone, and some people whole" in text
    assert load_card(recipe.dataset).name == "pilot"
    assert not (tmp_path / "runs").exists()
    assert "next: raycadian run study/pilot.recipe.yaml" in done.stdout


def test_readings_each_quarter_of_an_hour_get_a_grid_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    times = np.datetime64("2026-01-05") + np.arange(960) * np.timedelta64(900, "s")
    pd.DataFrame({"time": times, "glucose_mmoll": (day_curve(10)[::3] / 18).round(1)}).to_csv("libre.csv", index=False)
    assert invoke("init", "libre.csv").exit_code == 0
    recipe = load_recipe("libre.recipe.yaml")
    assert load_card(recipe.dataset).grid.dt_min == 15 and load_card(recipe.dataset).unit == "mmol/L"
    assert (recipe.window.context, recipe.window.horizon) == (8, 4)


def test_activity_leads_on_to_a_label(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    times = pd.date_range("2026-01-05", periods=8 * 1440, freq="min")
    counts = np.random.default_rng(0).poisson(30, len(times))
    pd.DataFrame({"time": times, "activity_counts": counts}).to_csv("wrist.csv", index=False)
    done = invoke("run", "wrist.csv", "--modality", "actigraphy", "--timezone", "UTC")
    assert done.exit_code == 2
    assert "needs a label" in done.stderr and "task: {kind: classify" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "absent.csv"], "absent.csv: no such file"),
        (["prepare", "mine.csv", "card.yaml"], "name one card or recipe alone"),
        (["prepare", "card.yaml", "--unit", "mg/dL"], "--unit goes with data files"),
        (["prepare", "recipe.yaml"], "recipe.yaml is a recipe"),
        (["run", "mine.csv", "--set", "wndow.horizon=3"], "did you mean 'window'"),
        (["run", "mine.csv", "--set", "window.horizn=3"], "did you mean 'horizon'"),
        (["run", "mine.csv", "--modality", "ecg"], "modality 'ecg'; there are cgm, biosignals, actigraphy"),
        (["run", "short.csv"], "h of readings are too few"),
        (["prepare", "."], "name the files in it"),
    ],
)
def test_mistakes_lead_on(one_person, arguments, message):
    (one_person / "card.yaml").write_text(CARD)
    (one_person / "recipe.yaml").write_text(yaml.safe_dump({"dataset": "card.yaml", "model": {"kind": "ridge"}}))
    pd.read_csv("mine.csv").head(60).to_csv("short.csv", index=False)
    done = invoke(*arguments)
    assert done.exit_code == 2, done.output
    assert message in done.stderr


def test_what_is_named_is_told_apart(one_person):
    (one_person / "card.yaml").write_text(CARD)
    (one_person / "recipe.yml").write_text("dataset: card.yaml\nmodel: {kind: ridge}\n")
    snapshot = json.loads(invoke("prepare", "card.yaml", "--json").stdout)["path"]
    kinds = [sources_of([path]).kind for path in ("card.yaml", "recipe.yml", snapshot, "mine.csv")]
    assert kinds == ["card", "recipe", "snapshot", "files"]


@pytest.mark.slow
def test_readings_that_are_all_the_same_are_told_before_training(one_person):
    """It took 40 s: persistence had been trained and scored before ridge found no solution."""
    pd.read_csv("mine.csv").assign(glucose_mgdl=120).to_csv("same.csv", index=False)
    counted = json.loads(invoke("prepare", "same.csv", "--json").stdout)["issues"]
    assert counted["subject whose readings are all the same value"] == {"count": 1, "examples": ["same"]}
    done = invoke("run", "same.csv")
    assert done.exit_code == 2 and "every reading of same is the same value" in done.stderr
    assert "--set columns.glucose=NAME" in done.stderr and "train" not in done.stderr
