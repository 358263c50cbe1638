"""Cards and recipes that somebody edited are used and never written over; a forecast reads a file as `run` did; folders
that can't be written are told with the option that names another."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from helpers import write_person

from raycadian.cli.main import main
from raycadian.config import load_recipe
from raycadian.made import is_edited
from raycadian.quickstart import CardOptions, history


def invoke(*arguments: object):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def one_person(tmp_path, monkeypatch):
    """A table of one person's two days, in an empty folder that is the working one."""
    monkeypatch.chdir(tmp_path)
    write_person("mine.csv", 2)
    return tmp_path


def edit(path: str, **values) -> None:
    body = yaml.safe_load(Path(path).read_text(encoding="utf-8")) | values
    Path(path).write_text(yaml.safe_dump(body), encoding="utf-8")


def test_an_edited_card_is_used_and_said(one_person):
    assert invoke("prepare", "mine.csv").exit_code == 0
    assert not is_edited(Path("snapshots/mine.yaml"))
    edit("snapshots/mine.yaml", timezone="Asia/Kolkata", license="mine")
    assert is_edited(Path("snapshots/mine.yaml"))
    before = Path("snapshots/mine.yaml").read_text(encoding="utf-8")
    done = invoke("prepare", "mine.csv", "--json")
    assert "using your edited card snapshots/mine.yaml; remove it to guess anew" in done.stderr
    assert json.loads(done.stdout)["card"]["timezone"] == "Asia/Kolkata"
    assert [p.name for p in Path("snapshots").glob("*.yaml")] == ["mine.yaml"]
    done = invoke("prepare", "mine.csv", "--unit", "mg/dL", "--subject", "ann", "--json")
    assert "mine.yaml with unit=mg/dL, subject=ann" in done.stderr and "card: snapshots/mine-2.yaml" in done.stderr
    assert json.loads(done.stdout)["card"]["license"] == "mine"
    assert Path("snapshots/mine.yaml").read_text(encoding="utf-8") == before
    assert "edited card snapshots/mine.yaml" in invoke("prepare", "mine.csv").stderr  # what was made of it is no edit


def test_without_an_edit_what_is_said_now_counts_alone(one_person):
    assert invoke("prepare", "mine.csv", "--timezone", "Asia/Kolkata").exit_code == 0
    body = json.loads(invoke("prepare", "mine.csv", "--json").stdout)
    assert body["card"]["timezone"] is None and body["card_path"] == "snapshots/mine-2.yaml"


def test_an_edited_recipe_is_used_and_said(one_person):
    assert invoke("init", "mine.csv").exit_code == 0
    edit("mine.recipe.yaml", window={"context": 24, "horizon": 4})
    edit("mine.yaml", license="mine")
    done = invoke("init", "mine.csv")
    assert done.exit_code == 0, done.output
    assert "using your edited recipe mine.recipe.yaml; remove it to have one made anew" in done.stderr
    assert "using your edited card mine.yaml" in done.stderr
    assert sorted(p.name for p in Path().glob("*.yaml")) == ["mine.recipe.yaml", "mine.yaml"]
    assert load_recipe("mine.recipe.yaml").window.horizon == 4
    done = invoke("init", "mine.csv", "--timezone", "UTC")  # makes another card
    assert "your edited recipe mine.recipe.yaml is of another card of these files, and is not used" in done.stderr
    assert load_recipe("mine.recipe-2.yaml").dataset == "mine-2.yaml"


def test_a_mistake_in_an_edited_file_is_told(one_person):
    assert invoke("init", "mine.csv").exit_code == 0
    edit("mine.recipe.yaml", windw={"horizon": 4})
    assert "did you mean 'window'" in invoke("init", "mine.csv").stderr
    card = Path("mine.yaml")
    card.write_text(card.read_text(encoding="utf-8") + "unit: [\n", encoding="utf-8")
    assert "mine.yaml: not readable as YAML" in invoke("init", "mine.csv").stderr


def test_a_forecast_reads_a_file_by_the_card_of_its_result(one_person):
    frame = pd.read_csv("mine.csv", parse_dates=["time"])
    frame.assign(time=frame.time.dt.strftime("%H:%M on %d %B %Y")).to_csv("mine.csv", index=False)
    lines: list[str] = []
    with pytest.raises(ValueError, match="in no known form"):
        history(Path("mine.csv"), CardOptions(), Path("snapshots"))
    options = ["--set", "time_format=%H:%M on %d %B %Y", "--timezone", "Asia/Kolkata"]
    assert invoke("prepare", "mine.csv", *options).exit_code == 0
    read = history(Path("mine.csv"), CardOptions(), Path("snapshots"), lines.append)
    assert lines == ["read by the card snapshots/mine.yaml, as `run` and `prepare` do"]
    assert read.utc_offset_min[0] == 330 and len(read.time_s) == 576
    read = history(Path("mine.csv"), CardOptions(timezone="UTC"), Path("snapshots"), lines.append)
    assert "with timezone=UTC" in lines[-1] and read.utc_offset_min[0] == 0
    with pytest.raises(ValueError, match="--timezone goes with data files"):
        history(Path("mine.csv"), CardOptions(timezone="UTC"), Path("snapshots"), card=Path("snapshots/mine.yaml"))


def test_a_forecast_says_its_guesses_and_picks_one_of_several(one_person):
    frame = pd.read_csv("mine.csv")
    pd.concat([frame.assign(subject=name) for name in ("ann", "bob")]).to_csv("two.csv", index=False)
    lines: list[str] = []
    with pytest.raises(ValueError, match="two.csv holds 2 people: ann, bob; choose one: --person ann"):
        history(Path("two.csv"), CardOptions(), Path("snapshots"), lines.append)
    assert any(line.startswith("  columns.subject: subject") for line in lines)
    assert history(Path("two.csv"), CardOptions(), Path("snapshots"), person="bob").subject == "bob"
    with pytest.raises(ValueError, match="no person 'eve' in it; --person is one of ann, bob"):
        history(Path("two.csv"), CardOptions(), Path("snapshots"), person="eve")


@pytest.mark.slow
def test_a_forecast_of_another_modality_leads_on(one_person):
    counts = "\n".join(str(n % 300) for n in range(3 * 1440))
    Path("a.AWD").write_text(f"anna\n05-Jan-2026\n12:00\n4\n40\nX1\nF\n{counts}\n")
    done = invoke("forecast", "a.AWD")
    assert done.exit_code == 2 and "a.AWD holds actigraphy" in done.stderr
    assert "task: {kind: classify" in done.stderr
    assert invoke(*re.search(r"`raycadian (inspect a.AWD)`", done.stderr)[1].split()).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["prepare", "mine.csv", "--snapshots", "taken/x"], "--snapshots"),
        (["run", "mine.csv", "--runs", "taken/x"], "--runs"),
        (["init", "mine.csv", "--out", "taken/x"], "--out"),
        pytest.param(["inspect", "mine.csv", "--out", "taken/x.html"], "--out", marks=pytest.mark.slow),
    ],
)
def test_a_place_that_cannot_be_written_is_told_with_its_option(one_person, arguments, option):
    Path("taken").write_text("a file, and no folder")
    done = invoke(*arguments)
    assert done.exit_code == 2 and "can't write" in done.stderr and "taken" in done.stderr
    assert f"name a place that can be written: {option} PATH" in done.stderr


@pytest.mark.slow
def test_from_an_edit_over_a_run_to_a_forecast(one_person, monkeypatch):
    """`init`, an edit of card and recipe, `run`, and a forecast by both; then readings of another step."""
    monkeypatch.setenv("RAYCADIAN_RUNS", "study")
    monkeypatch.setenv("RAYCADIAN_SNAPSHOTS", "study")
    assert invoke("init", "mine.csv", "--out", "study").exit_code == 0
    edit("study/mine.yaml", timezone="Asia/Kolkata")
    edit("study/mine.recipe.yaml", window={"context": 24, "horizon": 4}, evaluation={"bootstrap": 20})
    done = invoke("run", "mine.csv")
    assert done.exit_code == 0, done.output
    assert "your edited card study/mine.yaml" in done.stderr
    assert "your edited recipe study/mine.recipe.yaml" in done.stderr
    own = [path for path in Path("study").rglob("*") if path.is_dir() or path.name == "mlflow.db"]
    assert own and not [path for path in own if path.stat().st_mode & 0o077]
    answer = json.loads(invoke("forecast", "mine.csv", "--json").stdout)
    assert len(answer["median_mgdl"]) == 4 and answer["time_local"][0].endswith("+05:30")
    frame = pd.read_csv("mine.csv", parse_dates=["time"])
    frame.assign(time=frame.time[0] + 3 * (frame.time - frame.time[0])).to_csv("quarter.csv", index=False)
    done = invoke("forecast", "quarter.csv")
    assert "the readings are 15 minutes apart and the model's 5" in done.stderr
    assert "`raycadian run FILE` trains one on yours" in done.stderr
    assert invoke("run", "quarter.csv", "--set", "evaluation.bootstrap=20").exit_code == 0
    shown = invoke("forecast", "quarter.csv", "--champion", "quarter-forecast-4").stdout
    assert "2026-01-11T00:00:00 │" in shown and "whose zone is not known" in " ".join(shown.split())
