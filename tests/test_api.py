"""`import raycadian as rc`: ten lines from a file to a forecast, DataFrames out, the command line's errors, light."""

import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import day_curve, write_csv

import raycadian as rc
from raycadian.dataframes import history_of
from raycadian.modalities.guesses import in_python
from raycadian.tracking import registry

TIMES = pd.date_range("2026-01-05", periods=2880, freq="5min")
LINES = """
import pandas as pd
import raycadian as rc

outcome = rc.run("mine.csv", unit="mg/dL", timezone="Europe/Madrid", settings={"evaluation.bootstrap": 20})
print(outcome.leaderboard)
best = outcome.best
errors = best.predictions().eval("median - truth").abs()
figure = best.plot()
readings = pd.read_csv("mine.csv", index_col="time", parse_dates=True)["glucose"].tail(100)
forecast = rc.load_forecaster().forecast(readings, timezone="Europe/Madrid")
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The lines as a notebook would run them, in a folder with one person's ten days; what they leave, by name."""
    folder = tmp_path_factory.mktemp("notebook")
    pd.DataFrame({"time": TIMES, "glucose": day_curve(10).round(1)}).to_csv(folder / "mine.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        names: dict = {}
        exec(LINES, names)
        yield names | {"folder": folder}


@pytest.mark.slow
def test_ten_lines_go_from_a_file_to_a_forecast(ran):
    assert set(ran["outcome"].leaderboard["model"]) == {"ridge", "persistence"}
    assert 0 < ran["errors"].mean() < 60
    assert ran["figure"]._repr_png_().startswith(b"\x89PNG")
    forecast = ran["forecast"]
    assert list(forecast)[:2] == ["time", "median"] and len(forecast) == 12
    assert str(forecast["time"].dt.tz) == "Europe/Madrid"
    assert forecast["time"].iloc[0] == TIMES[-1].tz_localize("Europe/Madrid") + pd.Timedelta("5min")
    assert (forecast["q0.05"] < forecast["median"]).all() and (forecast["median"] < forecast["q0.95"]).all()


@pytest.mark.slow
def test_predictions_are_long_and_add_up_to_the_scores(ran):
    best = ran["best"]
    table = best.predictions()
    assert {"subject", "scope", "origin_utc", "time_utc", "ahead_min", "truth", "median", "q0.05"} <= set(table)
    assert (table["time_utc"] - table["origin_utc"] == pd.to_timedelta(table["ahead_min"], unit="min")).all()
    known = table.dropna(subset="truth")
    rmse = float(np.sqrt(((known["median"] - known["truth"]) ** 2).mean()))
    scores = best.scores()
    whole = scores[(scores.metric == "rmse_mgdl") & (scores.kind == "cumulative") & (scores.scope == "all")]
    assert rmse == pytest.approx(whole["value"].iloc[-1], abs=1e-6)
    assert len(best.predictions("val")) and best.report.is_file()
    assert "ridge" in set(best.leaderboard()["model"])
    with pytest.raises(ValueError, match="no predictions of 'train'; it has val, test"):
        best.predictions("train")


@pytest.mark.slow
def test_a_forecast_is_the_same_in_other_units_zones_and_orders(ran):
    readings = ran["readings"]
    forecaster = rc.open_run(ran["best"].name).forecaster()
    utc = readings.tz_localize("Europe/Madrid").tz_convert("UTC").sample(frac=1, random_state=0)
    same = forecaster.forecast(utc)
    assert str(same["time"].dt.tz) == "UTC"
    np.testing.assert_allclose(same["median"], ran["forecast"]["median"], atol=1e-6)
    mmol = forecaster.forecast(
        (readings / 18.0182).rename_axis("time").reset_index(), unit="mmol/L", timezone="Europe/Madrid"
    )
    np.testing.assert_allclose(mmol["median"] * 18.0182, ran["forecast"]["median"], rtol=1e-3)


def _two_people(readings):
    table = readings.rename("glucose").rename_axis("time").reset_index()
    return table.assign(id=["a", "b"] * (len(table) // 2) + ["a"] * (len(table) % 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda r: r, {}, "the times have no zone"),
        (lambda r: r / 18, {"timezone": "UTC"}, "correct unit"),
        (lambda r: r.tail(3), {"timezone": "UTC"}, "needs 24 points"),
        (lambda r: r, {"timezone": "UTC", "unit": "g/l"}, "expected mg/dL or mmol/L"),
        (lambda r: r.to_frame("value"), {"timezone": "UTC"}, "expected a column glucose, found value"),
        (lambda r: r.reset_index(drop=True), {"timezone": "UTC"}, "expected times, found an index of int64"),
        (lambda r: r.astype(str) + "x", {"timezone": "UTC"}, "expected numbers"),
        (lambda r: r.set_axis(r.index.strftime("%d/%m/%Y %H:%M")), {"timezone": "UTC"}, "day first or month first"),
        (_two_people, {"timezone": "UTC"}, "expected one person, found 2 in the column id"),
        (lambda r: r.to_numpy(), {"timezone": "UTC"}, "expected a Series, a DataFrame or the path"),
        (lambda r: r, {"timezone": "Madrid"}, "not an IANA time zone"),
    ],
)
def test_readings_that_can_not_be_forecast_from_say_why(ran, change, options, message):
    with pytest.raises(ValueError, match=message):
        rc.load_forecaster(ran["best"]).forecast(change(ran["readings"]), **options)


@pytest.mark.slow
def test_what_no_sensor_reads_is_left_out_and_said(ran):
    """As from a file: one false reading moves no forecast."""
    readings = ran["readings"].copy()
    forecaster = rc.load_forecaster(ran["best"])
    readings.iloc[-1] = 9999.0
    with pytest.warns(UserWarning, match="1 of .* readings: glucose outside 20-600"):
        answer = forecaster.forecast(readings, timezone="UTC")
    without = forecaster.forecast(readings.iloc[:-1], timezone="UTC")
    pd.testing.assert_frame_equal(answer, without)


@pytest.mark.slow
def test_runs_are_opened_compared_and_trained_from_objects(ran):
    outcome = ran["outcome"]
    assert rc.open_run(outcome.champion.path).name == outcome.champion.name
    comparison = rc.compare(outcome.runs)
    assert set(comparison.leaderboard["model"]) == {"ridge", "persistence"}
    again = rc.train(outcome.main.recipe, settings={"name": "again", "model.lags": 12}, quiet=True)
    assert again.recipe.model.lags == 12 and again.name.startswith("again-")
    assert rc.load_forecaster("mine-forecast-12").name == outcome.champion.name
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(registry, "champions")  # a run named by its folder is loaded whatever the registry is
        assert rc.load_forecaster(str(outcome.champion.path)).name == outcome.champion.name


def test_prepare_says_its_guesses_and_quiet_says_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "five.csv", n=5, days=2)
    with pytest.raises(ValueError, match="plainly mg/dL"):
        rc.prepare("five.csv", unit="mmol/L")
    capsys.readouterr()
    snapshot = rc.prepare("five.csv", settings={"grid.gap_min": 30})
    assert len(snapshot.subjects) == 5 and snapshot.manifest["card"]["grid"]["gap_min"] == 30
    printed = capsys.readouterr().out
    assert "timezone: none (assumed" in printed and 'change: timezone="Europe/Madrid"' in printed
    assert "--" not in printed and "\r" not in printed  # no terminal: nothing that is to be written over
    rc.prepare("five.csv", quiet=True)
    assert capsys.readouterr().out == ""


def test_errors_name_arguments_in_place_of_options(tmp_path, monkeypatch):
    """Those of prepare and run; of a forecast, whose unit is the answer's, what is of the file goes into settings."""
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame({"when": TIMES, "glucose_mgdl": (day_curve(10) / 18.0182).round(1)})
    table.to_csv("mine.csv", index=False)
    with pytest.raises(ValueError, match=r"add settings=\{'columns.time': 'NAME'\}"):
        rc.prepare("mine.csv", quiet=True)
    with pytest.raises(ValueError, match=r'are mmol/L, add unit="mmol/L"') as error:
        rc.prepare("mine.csv", settings={"columns.time": "when"}, quiet=True)
    assert "--" not in str(error.value)
    assert len(rc.prepare("mine.csv", settings={"columns.time": "when"}, unit="mmol/L", quiet=True).subjects) == 1
    assert in_python("add --unit 'mmol/L', or --set 'waveforms={ecg_mv: [II]}'.", but=["unit"]) == (
        "add settings={'unit': 'mmol/L'}, or settings={'waveforms': {'ecg_mv': ['II']}}."
    )


def test_people_under_one_name_and_mixed_units_are_refused_in_a_frame_too():
    frame = pd.DataFrame({"time": TIMES, "glucose": day_curve(10)})
    people = pd.concat([frame.assign(Teilnehmer=name, glucose=frame.glucose + n) for n, name in enumerate("ab")])
    with pytest.raises(ValueError, match="2,880 of 5,760 have another value .* the column 'Teilnehmer' may tell them"):
        history_of(people, "mg/dL", "UTC")
    mixed = frame.assign(glucose=frame.glucose.where(frame.index < 1800, frame.glucose / 18))
    with pytest.raises(ValueError, match="1,080 of 2,880 readings are outside .* mixes mg/dL and mmol/L"):
        history_of(mixed, "mg/dL", "UTC")
    two = people.rename(columns={"Teilnehmer": "id"})
    with pytest.raises(ValueError, match='found 2 in the column id; choose one, e.g. person="b"'):
        history_of(two, "mg/dL", "UTC")
    history, _ = history_of(two, "mg/dL", "UTC", person="b")
    np.testing.assert_allclose(history.glucose_mgdl, frame.glucose + 1)


def test_errors_are_those_of_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"absent\.csv: no such file"):
        rc.run("absent.csv", quiet=True)
    with pytest.raises(ValueError, match="did you mean 'epochs'"):
        rc.train({"name": "x", "dataset": "x.yaml", "model": {"kind": "ridge"}}, settings={"training.epoch": 1})
    with pytest.raises(ValueError, match="no such run"):
        rc.open_run("absent")
    with pytest.raises(ValueError, match="which champion.*registered: none"):
        rc.load_forecaster()
    monkeypatch.setattr(registry, "champions", lambda *a: {"a-forecast-12": "one", "b-forecast-12": "two"})
    with pytest.raises(ValueError, match='which champion.* run="a-forecast-12"'):
        rc.load_forecaster()


def test_importing_it_loads_nothing_heavy_and_it_is_typed():
    heavy = ("numpy", "pandas", "torch", "yaml", "pydantic")
    code = f"import raycadian, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert (Path(rc.__file__).parent / "py.typed").is_file()
    for name in rc.__all__:
        signature = inspect.signature(getattr(rc, name))
        assert signature.return_annotation is not inspect.Signature.empty, name
        assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values()), name
        assert getattr(rc, name).__doc__
