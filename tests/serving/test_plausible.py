"""No forecast is answered that glucose can't be, and readings that no sensor gives are flagged or refused."""

import json
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import served
from hypothesis import given
from hypothesis import strategies as st

from raycadian.config import Ridge
from raycadian.data.training_range import TrainingRange
from raycadian.modalities.cgm.request import ForecastRequest
from raycadian.serving import plausible
from raycadian.serving.forecaster import Forecaster
from raycadian.serving.plausible import Numbers

LEVELS = np.linspace(-1, 1, 5)


def numbers(median, spread=10.0, **parts):
    median = np.asarray(median, float)
    return Numbers(median[:, None] + spread * LEVELS, {name: np.asarray(part, float) for name, part in parts.items()})


def test_a_forecast_within_what_glucose_can_be_is_left_as_it_is():
    forecast = numbers([100, 110], mechanism=[90, 90], correction=[10, 20])
    assert plausible.bounded(forecast, 2) == (forecast, 0)


def test_quantiles_are_bounded_as_a_whole_and_parts_still_add_up():
    forecast = numbers([100, 60, 15], spread=50, mechanism=[90, 50, 20], correction=[10, 10, -5])
    within, n = plausible.bounded(forecast, 2)
    assert n == 2 and within.quantiles.min() == 20 and (np.diff(within.quantiles) >= 0).all()
    np.testing.assert_allclose(sum(within.parts.values()), within.quantiles[:, 2])
    np.testing.assert_array_equal(within.parts["bounds"], [0, 0, 5])


@pytest.mark.slow
@given(st.lists(st.floats(-5000, 5000), min_size=1, max_size=9), st.floats(0, 3000))
def test_whatever_a_model_says(median, spread):
    try:
        within, _ = plausible.bounded(numbers(median, spread), 2)
    except ValueError as error:
        assert "glucose can't be" in str(error)
        return
    assert within.quantiles.min() >= 20 and within.quantiles.max() <= 600 and (np.diff(within.quantiles) >= 0).all()


TIME = 300 * np.arange(60)
CALM = 120 + 30 * np.sin(np.arange(60) / 9)


@pytest.mark.parametrize(
    ("last", "n"),
    [((), 0), ((180, 180, 40), 1), ((180, 130), 0), ((300, 40, 300), None), ((np.nan, 210), 0),
     ((180, 140, 180, 180), 2), ((180, 216, 252), 2), ((180, 214, 248), 0)],
)  # fmt: skip
def test_a_jump_that_no_sensor_makes_is_counted(last, n):
    glucose = np.concatenate([CALM[: 60 - len(last)], last])
    if last[:1] == (180,):
        glucose[-5 - len(last) : -len(last)] = np.linspace(glucose[-6 - len(last)], 180, 5)
    counted = plausible.jumps(TIME[::-1], glucose[::-1])  # whatever the order of rows
    assert counted == n if n is not None else counted >= 2


def test_the_jumps_that_got_through_and_a_scan_between_two_readings():
    """100, 150, 200, 150 mg/dL five minutes apart were no jump; two readings a minute apart differ by noise."""
    assert plausible.jumps(300 * np.arange(4), np.array([100.0, 150, 200, 150])) == 3
    assert plausible.jumps(np.array([0, 240, 300, 600]), np.array([100.0, 104, 119, 108])) == 0


@pytest.mark.parametrize(("apart_min", "high"), [(5, 134.0), (5, 116.0), (15, 149.0)])
def test_readings_that_go_back_and_forth_are_counted(apart_min, high):
    """As where two sensors write into one record: each change alone is one that glucose could make."""
    back_and_forth = np.where(np.arange(60) % 2, 100.0, high)
    assert plausible.jumps(60 * apart_min * np.arange(60), back_and_forth) == 0
    assert plausible.swings(60 * apart_min * np.arange(60)[::-1], back_and_forth) == 58
    assert plausible.swings(3600 * np.arange(60), back_and_forth) == 0  # an hour apart it may be meals
    few = CALM.copy()
    few[30:33] += np.array([40, -40, 40])  # 4 changes back and forth, as real sensors have them
    assert plausible.swings(TIME, few) == 0 and plausible.swings(TIME, CALM) == 0


def test_readings_that_are_no_sensors_are_refused():
    with pytest.raises(ValueError, match="59 of 59 changes .* faster than 10 mg/dL a minute"):
        plausible.jumps(TIME, np.where(np.arange(60) % 2, 20.0, 600.0))


def test_training_ranges_say_what_is_beyond_them():
    seen = TrainingRange.read(TrainingRange({"glucose_mgdl": (50.0, 300.0)}, ((0.0, 10.0),)).as_dict())
    np.testing.assert_array_equal(seen.outside("glucose_mgdl", np.array([49.0, 50, np.nan, 301])), [1, 0, 0, 1])
    np.testing.assert_array_equal(seen.bounded(np.array([-99.0, 3, 99])), [-5, 3, 15])
    old = TrainingRange.read(None)  # of a run from before
    assert not old.outside("glucose_mgdl", np.array([1e9])).any() and old.bounded(np.array([1e9])) == 1e9
    for raw in ([], {"channels": {"a": [2, 1]}, "labels": []}, {"channels": {}}):
        with pytest.raises((ValueError, TypeError, KeyError)):
            TrainingRange.read(raw)


# --- a real forecaster ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forecasters(tmp_path_factory):
    """Ridge, which goes on as far as a line goes, and a residual network."""
    folder, readings = tmp_path_factory.mktemp("runs"), served.people(3, 4)
    models = (Ridge(), served.MODEL)
    return [Forecaster.load(served.make_run(folder, readings, model=model).path) for model in models]


def history(glucose):
    times = np.datetime64("2026-02-02T08:00:00") + 300 * np.arange(len(glucose))
    readings = [{"time": f"{t}Z", "glucose": float(g)} for t, g in zip(times, glucose, strict=True)]
    return ForecastRequest.model_validate({"unit": "mg/dL", "utc_offset_min": 0, "readings": readings}).data()


@pytest.mark.slow
@pytest.mark.parametrize("last", [(180, 180, 40), (180, 40, 180), (20,), (600, 600), (100, 300)], ids=str)
def test_no_impossible_forecast_is_answered(forecasters, last):
    glucose = np.concatenate([CALM[: 60 - len(last)], last])
    for forecaster in forecasters:
        (answer,) = forecaster.predict([history(glucose)])
        if isinstance(answer, ValueError):
            assert "sensor" in str(answer)
            continue
        assert answer.quantiles.min() >= 20 and answer.quantiles.max() <= 600
        assert plausible.JUMP in answer.warnings
        if answer.parts:
            np.testing.assert_allclose(sum(answer.parts.values()), answer.median, atol=1e-6)


@pytest.mark.slow
def test_nothing_is_said_of_readings_that_are_no_sensors(forecasters):
    for forecaster in forecasters:
        (answer,) = forecaster.predict([history(np.where(np.arange(60) % 2, 20.0, 600.0))])
        assert isinstance(answer, ValueError) and "faster than" in str(answer)


@pytest.mark.slow
def test_readings_of_two_sensors_are_flagged(forecasters):
    for forecaster in forecasters:
        (answer,) = forecaster.predict([history(np.where(np.arange(60) % 2, 100.0, 149.0))])
        assert answer.warnings[plausible.SWING] == 34


@pytest.mark.slow
def test_swings_are_rare_in_real_readings_and_find_the_person_with_two_sensors(shared):
    """Of 17 people with diabetes UoM2304 wore two sensors at once for half of the time, whose readings take turns."""
    flagged, jumped = {}, {}
    for file in sorted((shared / "cgm/t1d_uom").glob("UoMGlucose*.csv.gz")):
        table = pd.read_csv(file)
        time_s = pd.to_datetime(table["bg_ts"], format="%d/%m/%Y %H:%M").to_numpy("datetime64[s]").astype(np.int64)
        mgdl = table["value"].to_numpy() * 18.0
        flagged[file.name] = plausible.swings(time_s, mgdl) / len(table)
        with suppress(ValueError):
            jumped[file.name] = plausible.jumps(time_s, mgdl) / len(table)
    assert flagged.pop("UoMGlucose2304.csv.gz") > 0.3
    assert len(flagged) == 16 and max(flagged.values()) < 0.001
    assert jumped.keys() == flagged.keys() and np.mean(list(jumped.values())) < 0.001, jumped


@pytest.mark.slow
def test_what_the_model_never_saw_is_flagged_where_the_run_says_what_it_saw(forecasters):
    for forecaster in forecasters:
        assert forecaster.seen.channels["glucose_mgdl"][1] < 400
        (answer,) = forecaster.predict([history(400 + 10 * np.sin(np.arange(60) / 9))])
        if not isinstance(answer, ValueError):
            assert answer.warnings[plausible.UNLIKE] == 36
        (usual,) = forecaster.predict([history(CALM)])
        assert plausible.UNLIKE not in usual.warnings and plausible.BEYOND not in usual.warnings
        raw = json.loads(json.dumps(forecaster.seen.as_dict()))
        assert TrainingRange.read(raw) == replace(forecaster.seen)
