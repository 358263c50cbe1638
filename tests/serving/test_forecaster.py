"""From readings to a forecast: what is served equals what was scored."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import served
from click.testing import CliRunner

from raycadian.cli.main import main
from raycadian.config import CMA, CMAMechanism, Ridge
from raycadian.evaluation.forecast.event_probability import EventCalibration, probabilities, write_calibrations
from raycadian.modalities.cgm.request import ForecastRequest, History
from raycadian.physiology.cma.meals import Meal
from raycadian.serving.forecaster import Forecaster, Recent, read_history
from raycadian.training.pipeline import read_predictions
from raycadian.types import Readings

pytestmark = pytest.mark.slow  # a trained run behind them


@pytest.fixture(scope="module")
def readings():
    return served.people()


@pytest.fixture(scope="module")
def run(readings, tmp_path_factory):
    return served.make_run(tmp_path_factory.mktemp("runs"), readings)


@pytest.fixture(scope="module")
def forecaster(run):
    return Forecaster.load(run.path)


@pytest.fixture
def history(readings):
    return History.of(readings["p1"])


def windows(run, n=40):
    """Some scored windows, spread over people and time."""
    p = read_predictions(run)
    return p, np.linspace(0, len(p) - 1, n).astype(int)


def test_offline_equals_served(run, readings, forecaster):
    p, rows = windows(run)
    histories = [History.of(served.until(readings[p.subject[i]], p.time_utc[i])) for i in rows]
    together = forecaster.predict(histories)
    for i, h, batched in zip(rows, histories, together, strict=True):
        alone = forecaster.answer(h)
        for forecast in (alone, batched):
            assert forecast.origin_utc == p.time_utc[i]
            np.testing.assert_allclose(forecast.quantiles, p.quantiles[i], rtol=0, atol=1e-5)
            for name, part in forecast.parts.items():
                np.testing.assert_allclose(part, p.parts[name][i], rtol=0, atol=1e-5)
    assert {f.fit for f in together} == {"own"}  # the test stretch lies days behind the first refit


def taken(history, rows):
    return replace(
        history, **{name: getattr(history, name)[rows] for name in ("time_s", "glucose_mgdl", "utc_offset_min")}
    )


def test_a_short_history_is_served_by_the_population(forecaster, history):
    short = taken(history, slice(-60, None))
    assert forecaster.answer(short).fit == "population"
    assert forecaster.answer(history).fit == "own"


def test_order_and_duplicates_change_nothing_but_the_warnings(forecaster, history):
    twice = np.r_[np.arange(len(history.time_s)), np.arange(0, 300, 7)]
    order = np.random.default_rng(0).permutation(twice)
    mixed = taken(history, order)
    a, b = forecaster.answer(history), forecaster.answer(mixed)
    np.testing.assert_array_equal(a.quantiles, b.quantiles)
    assert b.warnings["reading at the same second as another"] == 43
    assert "reading at the same second as another" not in a.warnings


def test_what_a_forecast_says(forecaster, history):
    f = forecaster.answer(history)
    assert (np.diff(f.quantiles, axis=1) >= 0).all() and np.isfinite(f.quantiles).all()
    np.testing.assert_allclose(f.parts["mechanism"] + f.parts["correction"], f.median, atol=1e-9)
    last = history.time_s.max()
    assert abs(f.origin_utc.astype(int) - last) <= 150
    d = f.as_dict()
    assert json.loads(json.dumps(d, allow_nan=False)) == d
    utc, local = pd.to_datetime(d["time_utc"]), pd.to_datetime(d["time_local"])
    assert (utc == local).all() and str(local[0].utcoffset()) == "1:00:00"
    assert (np.diff(utc) == np.timedelta64(300, "s")).all() and utc[0] == pd.Timestamp(d["origin_utc"]) + pd.Timedelta(
        "5min"
    )
    assert d["quantiles_mgdl"]["0.5"] == d["median_mgdl"] and "not a diagnosis" in d["note"]
    frame = f.as_frame()
    assert len(frame) == 6 and {"median", "q0.05", "mechanism", "correction"} <= set(frame)


def test_a_low_has_the_probability_that_was_scored(run, readings, tmp_path):
    copy = tmp_path / run.name
    shutil.copytree(run.path, copy)
    (copy / "manifest.json").unlink()
    calibrations = [EventCalibration("hypo70", 0.9, -0.2, 100, 10), EventCalibration("hypo54", 0.8, -1.0, 100, 4)]
    write_calibrations(copy / "event_calibration.json", calibrations)
    forecaster, (p, rows) = Forecaster.load(copy), windows(run, 5)
    for i in rows:
        forecast = forecaster.answer(History.of(served.until(readings[p.subject[i]], p.time_utc[i])))
        expected = {name: probability[i] for name, probability in probabilities(p, calibrations).items()}
        assert forecast.lows == pytest.approx(expected, abs=1e-6)
        crossed = replace(calibrations[1], slope=0.0, intercept=2.0)  # says that 54 is likelier than 70
        forecaster.lows = [crossed, calibrations[0]]
        lows = forecaster.answer(History.of(served.until(readings[p.subject[i]], p.time_utc[i]))).lows
        assert lows["hypo54"] == lows["hypo70"] == pytest.approx(expected["hypo70"], abs=1e-6)
        forecaster.lows = calibrations
        assert (
            forecast.as_dict()["probability"].keys() == expected.keys()
            and "probability of a low: hypo70" in forecast.title
        )


def history_of(values, minutes=None):
    minutes = 5 * np.arange(len(values)) if minutes is None else np.asarray(minutes)
    time_s = np.datetime64("2026-02-02T08:00", "s").astype(int) + 60 * minutes
    return History("x", time_s.astype(np.int64), np.asarray(values, dtype=float), np.zeros(len(values), np.int64))


BAD = {
    "one reading": (history_of([100.0]), "needs 36 points .* has 1 "),
    "too few": (history_of(np.full(35, 100.0)), "needs 36 points .* has 35 "),
    "none": (history_of(np.full(50, np.nan)), "no glucose reading in 50 rows"),
    "empty": (history_of([]), "no glucose reading in 0 rows"),
    "a gap just before": (history_of(np.full(80, 100.0), np.r_[5 * np.arange(60), 400 + 5 * np.arange(20)]), "has 20 "),
    "too much missing": (history_of(np.full(30, 100.0), 15 * np.arange(30)), "67% of the context is missing"),
}


def test_a_bad_history_spoils_no_other(forecaster, history):
    batch = [history, *(h for h, _ in BAD.values()), history]
    first, *failed, last = forecaster.predict(batch)
    for error, (name, (_, message)) in zip(failed, BAD.items(), strict=True):
        assert isinstance(error, ValueError), name
        with pytest.raises(ValueError, match=message):
            raise error
    np.testing.assert_allclose(first.quantiles, last.quantiles, rtol=0, atol=1e-9)
    np.testing.assert_allclose(first.quantiles, forecaster.answer(history).quantiles, rtol=0, atol=1e-9)


def test_a_constant_history_is_forecast(forecaster):
    forecast = forecaster.answer(history_of(np.full(400, 100.0)))
    assert np.isfinite(forecast.quantiles).all() and forecast.fit == "population"  # a constant can't be fitted


def test_fits_are_remembered_by_what_they_were_fitted_to(run, history):
    forecaster = Forecaster.load(run.path)
    forecaster.answer(history)
    assert len(forecaster._fits) == 1
    later = replace(history, glucose_mgdl=np.r_[history.glucose_mgdl[:-1], 150.0])
    forecaster.answer(later)  # after the last refit nothing of the fit changes
    assert len(forecaster._fits) == 1
    forecaster.answer(replace(history, glucose_mgdl=history.glucose_mgdl + 1.0))
    assert len(forecaster._fits) == 2


def test_recent_forgets_what_was_not_used():
    recent = Recent(2)
    recent["a"], recent["b"] = 1, 2
    assert recent.get("a") == 1 and recent.get("z") is None
    recent["c"] = 3
    assert list(recent) == ["a", "c"]


@pytest.mark.slow
def test_meals_reach_a_model_that_reads_them(readings, tmp_path):
    run = served.make_run(tmp_path, readings, past=("glucose_mgdl", "carbs_g"))
    forecaster = Forecaster.load(run.path)
    p, rows = windows(run, 6)
    for i in rows:
        known = served.until(readings[p.subject[i]], p.time_utc[i])
        np.testing.assert_allclose(forecaster.answer(History.of(known)).quantiles, p.quantiles[i], rtol=0, atol=1e-5)
        meal = pd.DataFrame(
            {
                "time_utc": [(p.time_utc[i] - np.timedelta64(30, "m")).astype("datetime64[ns]")],
                "kind": ["carbs_g"],
                "value": [90.0],
            }
        )
        fed = Readings(known.subject, known.glucose, pd.concat([known.events, meal]))
        assert not np.allclose(forecaster.answer(History.of(fed)).quantiles, p.quantiles[i], atol=1e-3)


def _truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "damaged checkpoint"),
        (lambda f: (f / "model.safetensors").unlink(), "damaged checkpoint"),
        (lambda f: (f / "preprocessing.json").unlink(), "preprocessing.json: no such file"),
        (lambda f: (f / "preprocessing.json").write_text("{"), "not readable as JSON"),
        (lambda f: (f / "preprocessing.json").write_text("[]"), "expected an object"),
        (lambda f: (f / "preprocessing.json").write_text('{"grid": {"dt_min": -1}}'), "damaged"),
    ],
)
def test_a_damaged_run_is_refused(run, tmp_path, damage, message):
    copy = tmp_path / run.name
    shutil.copytree(run.path, copy)
    (copy / "manifest.json").unlink()  # as in a run of before
    damage(copy / "checkpoint")
    with pytest.raises(ValueError, match=message):
        Forecaster.load(copy)


def test_a_file_of_readings(tmp_path, readings, forecaster):
    one = readings["p2"]
    table = one.glucose.rename(columns={"time_utc": "time", "glucose_mgdl": "glucose"})[["time", "glucose"]]
    path = tmp_path / "me.csv"
    table.to_csv(path, index=False)
    forecast = forecaster.answer(read_history(path))
    assert forecast.subject == "me" and np.isfinite(forecast.quantiles).all()
    both = pd.concat([table.assign(subject="a"), table.assign(subject="b", glucose=table.glucose + 1)])
    card = tmp_path / "card.yaml"
    card.write_text("{name: two, files: [two.csv], format: generic, columns: {subject: subject}}")
    both.to_csv(tmp_path / "two.csv", index=False)
    with pytest.raises(ValueError, match="expected one person, found 2"):
        read_history(tmp_path / "two.csv", card)


# --- what if ----------------------------------------------------------------------------------------------------------


def with_meals(forecaster, history, meals):
    return forecaster.answer(replace(history, what_if=tuple(meals)))


def test_what_if(forecaster, history):
    usual = forecaster.answer(history)
    origin_h = (usual.origin_utc.astype(int) / 3600 + usual.utc_offset_min / 60) % 24
    soon = Meal((origin_h + 0.1) % 24, 1.5)
    forecast = with_meals(forecaster, history, [soon])
    np.testing.assert_array_equal(forecast.quantiles, usual.quantiles)
    other = forecast.what_if
    np.testing.assert_allclose(other.median - forecast.median, other.difference, rtol=0, atol=0)
    np.testing.assert_allclose(other.parts["correction"], forecast.parts["correction"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(other.parts["mechanism"] + other.parts["correction"], other.median, atol=1e-9)
    assert other.difference[0] >= 0 and other.difference[-1] > 1 and other.meals == (soon,) and len(other.usual) == 3
    none = with_meals(forecaster, history, []).what_if
    assert (none.difference <= 1e-6).all()
    same = with_meals(forecaster, history, other.usual).what_if
    np.testing.assert_allclose(same.difference, 0, atol=1e-4)
    d = forecast.as_dict()
    assert json.loads(json.dumps(d, allow_nan=False)) == d and "associates" in d["what_if"]["note"]
    assert usual.as_dict()["what_if"] is None and {"what_if", "difference"} <= set(forecast.as_frame())
    assert soon.clock in forecast.title and "associates" in forecast.title and "associates" not in usual.title


def test_what_if_on_the_command_line(run, tmp_path, readings):
    one = readings["p2"]
    table = one.glucose.rename(columns={"time_utc": "time", "glucose_mgdl": "glucose"})[["time", "glucose"]]
    table.to_csv(tmp_path / "me.csv", index=False)

    def invoke(*options: str):
        arguments = ["forecast", str(tmp_path / "me.csv"), "--run", run.name, "--runs", str(run.path.parent), *options]
        return CliRunner().invoke(main, arguments)

    answered = json.loads(invoke("--meal", "0:05x2", "--meal", "12:00", "--json").stdout)
    assert answered["what_if"]["meals"] == [{"time": "00:05", "size": 2.0}, {"time": "12:00", "size": 1.0}]
    assert len(answered["what_if"]["difference_mgdl"]) == len(answered["median_mgdl"])
    shown = invoke("--no-meals").output
    assert "difference" in shown and "meals none instead of" in " ".join(shown.split())
    for options, message in ((("--meal", "noon"), "expected HH:MM"), (("--meal", "20:00", "--no-meals"), "exclude")):
        failed = invoke(*options)
        assert failed.exit_code and message in failed.output


def test_questions_in_a_batch_are_answered_to_those_who_asked(forecaster, history):
    asks = replace(history, what_if=(Meal(3.0),))
    bad = replace(history_of([100.0]), what_if=())
    plain, other, error, again = forecaster.predict([history, asks, bad, history])
    assert plain.what_if is None and again.what_if is None and isinstance(error, ValueError)
    alone = forecaster.answer(asks)
    np.testing.assert_allclose(other.what_if.quantiles, alone.what_if.quantiles, rtol=0, atol=1e-9)
    np.testing.assert_allclose(other.quantiles, plain.quantiles, rtol=0, atol=1e-9)


def test_a_model_without_meals_refuses_the_question(readings, history, tmp_path):
    forecaster = Forecaster.load(served.make_run(tmp_path, readings, model=Ridge()).path)
    assert forecaster.answer(history).what_if is None
    with pytest.raises(ValueError, match="can't say what other meals would change"):
        with_meals(forecaster, history, [Meal(20.0)])


@pytest.mark.slow
def test_gains_of_each_meal_train_and_serve(readings, history, tmp_path):
    """train -> checkpoint -> Forecaster -> the scored forecast; the fits carry the gains."""
    model = CMA(mechanism=CMAMechanism(refit_days=2, gains="per_meal"))
    run = served.make_run(tmp_path, readings, model=model)
    records = json.loads((run.path / "mechanism.json").read_text())
    assert any(len(set(r["gain_mgdl"])) == 3 for r in records) and all("sd_d" in r for r in records)
    forecaster = Forecaster.load(run.path)
    p, rows = windows(run, 6)
    for i in rows:
        forecast = forecaster.answer(History.of(served.until(readings[p.subject[i]], p.time_utc[i])))
        np.testing.assert_allclose(forecast.quantiles, p.quantiles[i], rtol=0, atol=1e-5)
    assert with_meals(forecaster, history, []).what_if.difference.max() <= 0


@pytest.mark.parametrize("name", ["request_offsets.json", "request_timezone.json"])
def test_the_clocks_changed_within_the_context(forecaster, shared, name):
    """Folder S01 of the troublesome inputs."""
    path = shared.parent / "trouble" / "S01_forecast_after_dst" / name
    if not path.is_file():
        pytest.skip(f"troublesome files not here: {path} is absent")
    history = ForecastRequest.model_validate_json(path.read_text("utf-8")).data()
    (answer,) = forecaster.predict([history])
    assert not isinstance(answer, ValueError) and np.isfinite(answer.quantiles).all()
