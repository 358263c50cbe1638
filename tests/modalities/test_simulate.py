"""Virtual people, their cohort on Ray, and the committed demo data."""

import sys
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from raycadian.modalities.cards import load_card
from raycadian.modalities.cgm import simulate as simulated
from raycadian.modalities.cgm.readers import read_files
from raycadian.physiology.insulin import virtual_patients as virtual
from raycadian.types import BASAL, BOLUS, CARBS, GLUCOSE, SUBJECT, Issues

DATASETS = Path(__file__).parents[2] / "datasets"
DEMO_PATIENTS, DEMO_DAYS, DEMO_SEED = 10, 14, 42
HABITS = virtual.Habits(
    wake_h=7.0, weekend_delay_h=1.0, appetite=1.0, counting=1.0, basal=1.0, sensor_day=3
)  # an average person


@pytest.fixture(scope="module")
def morning() -> pd.DataFrame:
    """Ten hours of one person, breakfast included."""
    return virtual.simulate("adult-001", 10 / 24, seed=4)


def replay(therapy: pd.DataFrame, seed: int) -> np.ndarray:
    """The package's own environment under the same meals and insulin: its sensor's readings."""
    from simglucose.actuator.pump import InsulinPump
    from simglucose.controller.base import Action as Therapy
    from simglucose.patient.t1dpatient import T1DPatient
    from simglucose.simulation.env import T1DSimEnv
    from simglucose.simulation.scenario import CustomScenario

    start = datetime(2024, 1, 1)
    eaten = [(start + timedelta(minutes=5 * i), float(g)) for i, g in enumerate(therapy[CARBS]) if g]
    cgm = virtual.sensor(virtual.streams("adult-001", seed)[2])
    env = T1DSimEnv(
        T1DPatient.withName("adult#001"), cgm, InsulinPump.withName("Insulet"), CustomScenario(start, eaten)
    )
    readings = list(env.CGM_hist)
    for row in therapy[:-1].itertuples():
        env.step(Therapy(basal=row.basal_uph / 60, bolus=row.bolus_u / 5))
        readings.append(cgm._last_CGM)  # what `step` returns is a mean over the step
    return np.array(readings)


@pytest.mark.slow
def test_the_lean_loop_is_the_packages_environment(morning):
    assert morning[CARBS].sum() > 20
    assert morning[BOLUS].sum() > 1
    seen = morning[GLUCOSE].notna()
    np.testing.assert_allclose(replay(morning, seed=4)[seen], morning[GLUCOSE][seen], atol=0.5001)  # rounded to 1 mg/dL


def test_the_lean_right_hand_side_is_bit_identical():
    lean = virtual.virtual_patient("adult-005")  # it imports the package, which warns, in silence
    from simglucose.patient.t1dpatient import Action, T1DPatient

    packaged = T1DPatient.withName("adult#005")
    for tick in range(8):
        virtual.advance(lean, 40.0 if tick == 2 else 0.0, 0.0, 1.2)
        for minute in range(5):
            packaged.step(Action(CHO=40.0 if tick == 2 and minute == 0 else 0.0, insulin=1.2 / 60))
        assert np.array_equal(lean.state, packaged.state)


def test_one_person_has_the_stated_columns_and_units(morning):
    assert list(morning.columns) == [SUBJECT, "time", GLUCOSE, CARBS, BOLUS, BASAL]
    assert len(morning) == 120
    assert (morning[SUBJECT] == "adult-001").all()
    assert all(morning[name].dtype == np.float32 for name in (GLUCOSE, CARBS, BOLUS, BASAL))
    assert (morning["time"].diff().dropna() == pd.Timedelta(minutes=5)).all()
    assert morning["time"].iloc[0] == pd.Timestamp("2024-01-01")
    assert morning[GLUCOSE].dropna().between(39, 400).all()
    for name, step in ((GLUCOSE, 1), (CARBS, 1), (BOLUS, 0.05), (BASAL, 0.05)):
        steps = morning[name].dropna().to_numpy(np.float64) / step
        np.testing.assert_allclose(steps, steps.round(), atol=1e-4)
    assert morning[BASAL].max() == pytest.approx(1.27, abs=0.4)  # adult#001 holds its fasting glucose at 1.27 U/h


def test_the_same_patient_and_seed_give_the_same_person_and_a_longer_run_begins_with_the_shorter(morning):
    again = virtual.simulate("adult-001", 4 / 24, seed=4)
    pd.testing.assert_frame_equal(again, morning[:48])
    assert not again[GLUCOSE].equals(virtual.simulate("adult-001", 4 / 24, seed=9)[GLUCOSE])


def test_people_of_the_same_number_live_apart():
    day = virtual.TICKS_PER_DAY
    meals = [
        virtual.draw_days(HABITS, day, np.random.default_rng(virtual.streams(name, 0)[0]))[0]
        for name in ("adult-001", "adolescent-001", "child-001")
    ]
    assert not any(np.array_equal(a, b) for a, b in pairwise(meals))


def test_insulin_lowers_and_carbohydrate_raises_glucose():
    def after_3_h(carbs_g: float, bolus_u: float) -> float:
        body = virtual.virtual_patient("adult-003")
        for tick in range(36):
            virtual.advance(body, *((carbs_g, bolus_u) if tick == 0 else (0, 0)), basal_uph=1.3)
        return body.observation.Gsub

    fasting, meal, both = after_3_h(0, 0), after_3_h(50, 0), after_3_h(50, 6)
    assert meal > fasting + 20
    assert both < meal - 20
    assert after_3_h(0, 2) < fasting - 5


def test_a_meal_is_eaten_whole():
    body = virtual.virtual_patient("adult-002")
    absorbed_mg = 0.0
    for tick in range(6 * virtual.TICKS_PER_H):
        before_mg = body.state[2]
        virtual.advance(body, 60 if tick == 0 else 0, 0, 1.5)
        absorbed_mg += body._params.kabs * (before_mg + body.state[2]) / 2 * virtual.DT_MIN  # trapezoid over 5 min
    assert absorbed_mg + body.state[:3].sum() == pytest.approx(60_000, rel=0.005)


def test_carbohydrate_of_a_run_is_the_planned_meals_and_the_rescues():
    n = 2 * virtual.TICKS_PER_DAY
    rng = np.random.default_rng(0)
    carbs_g, counted_g, awake = virtual.draw_days(HABITS, n, rng)
    planned = carbs_g.copy()
    generous = 1.6 * counted_g  # counts far too much, so that glucose falls
    glucose, bolus, basal = virtual._live(
        virtual.virtual_patient("adult-001"), virtual.sensor(virtual.streams("adult-001", 0)[2]), HABITS,
        carbs_g, generous, awake,
    )  # fmt: skip
    rescues = carbs_g - planned
    assert set(rescues) == {0.0, virtual.RESCUE_G}
    assert (glucose[rescues > 0] < virtual.RESCUE_BELOW_MGDL).all()
    assert np.array_equal(basal == 0, glucose < virtual.SUSPEND_BELOW_MGDL)
    assert not bolus[glucose < virtual.SUSPEND_BELOW_MGDL].any()
    assert (np.diff(np.flatnonzero(rescues)) >= virtual.RESCUE_EVERY_TICKS).all()


@pytest.mark.parametrize(
    ("reading", "counted", "settled", "awake", "units"),
    [
        (120, 50, True, True, 5.0),  # 10 g/U
        (200, 50, True, True, 5.0 + 60 / 8.77310657487),  # and 8.77 mg/dL a unit above 140
        (200, 50, False, True, 5.0),  # insulin on board
        (200, 0, True, True, 0.0),  # between meals only far above
        (300, 0, True, False, 0.0),  # asleep
        (69, 50, True, True, 0.0),  # low
        (300, 0, True, True, 160 / 8.77310657487),
        (590, 100, True, True, 30.0),  # the pump's limit
    ],
)
def test_a_bolus_follows_ratio_and_correction_factor(reading, counted, settled, awake, units):
    assert virtual._bolus("adult#001", reading, counted, settled, awake) == pytest.approx(units, abs=0.025)


def test_days_hold_the_stated_carbohydrate_on_the_persons_own_clock():
    days, expected_g = 300, 0.95 * (45 + 70 + 80) + 0.3 * 60

    def hour_of_first_meal(habits) -> tuple[float, float]:
        n = days * virtual.TICKS_PER_DAY
        carbs_g, counted_g, awake = virtual.draw_days(habits, n, np.random.default_rng(1))
        assert carbs_g.sum() / days == pytest.approx(expected_g, rel=0.05)
        assert counted_g.sum() < carbs_g.sum()  # forgotten boluses
        assert awake.mean() == pytest.approx(16 / 24, abs=0.01)
        morning = carbs_g.reshape(days, -1) > 0
        return np.median(morning.argmax(axis=1)[morning.any(axis=1)]) / virtual.TICKS_PER_H

    early, late = (hour_of_first_meal(replace(HABITS, wake_h=h)) for h in (6.0, 9.0))
    assert early == pytest.approx(6.0 + 0.75 + 2 / 7, abs=0.4)  # weekends an hour later
    assert late - early == pytest.approx(3.0, abs=0.25)


def test_signals_are_lost_at_the_stated_rate_and_at_the_sensors_change():
    lost = virtual.draw_losses(HABITS, 700 * virtual.TICKS_PER_DAY, np.random.default_rng(2))
    by_day = lost.reshape(700, -1)
    change = by_day[HABITS.sensor_day :: 7, 8 * 12 : 10 * 12]
    assert change.all()
    assert 0.02 < lost.mean() < 0.05  # 2 h in 7 days, and 0.7 losses a day of 33 min on average


@pytest.mark.parametrize("days", [0, -1, 0.001, float("nan"), float("inf")])
def test_days_below_one_step_are_refused(days):
    with pytest.raises(ValueError, match="days"):
        virtual.simulate("adult-001", days, seed=0)


def test_an_unknown_patient_is_refused_with_the_names():
    with pytest.raises(ValueError, match=r"adult-011.*adult-010"):
        virtual.simulate("adult-011", 1, seed=0)


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    virtual._simglucose.cache_clear()
    monkeypatch.setitem(sys.modules, "simglucose.patient.t1dpatient", None)
    with pytest.raises(ValueError, match=r"pip install 'raycadian\[sim\]'"):
        virtual.virtual_patient("adult-001")


# --- the cohort ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patients", [0, 31, [], ["adult-001", "adult-001"], ["adult#001"]])
def test_a_cohort_of_nobody_twice_or_unknown_is_refused(patients, tmp_path):
    with pytest.raises(ValueError, match="patients"):
        simulated.simulate_cohort(patients, 1, 0, tmp_path / "x.parquet")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("days", "seed", "name"), [(0, 0, "x.parquet"), (1, -1, "x.parquet"), (1, 0, "x.csv")])
def test_a_cohort_with_bad_values_is_refused_before_anything_runs(days, seed, name, tmp_path):
    with pytest.raises(ValueError, match=r"days|seed|parquet"):
        simulated.simulate_cohort(1, days, seed, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.ray
def test_a_cohort_on_ray_is_its_people_one_by_one(ray_local, tmp_path):
    names, seen = ["adult-002", "adolescent-004"], []
    card_path = simulated.simulate_cohort(names, 3 / 24, 5, tmp_path / "two.parquet", lambda *step: seen.append(step))
    assert seen == [(1, 2), (2, 2)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["two.parquet", "two.yaml"]
    table = pd.read_parquet(tmp_path / "two.parquet")
    expected = pd.concat([virtual.simulate(name, 3 / 24, 5) for name in names], ignore_index=True)
    pd.testing.assert_frame_equal(table, expected)
    card = load_card(card_path)
    assert (card.name, card.files, card.unit) == ("two", ("two.parquet",), "mg/dL")
    assert "simulate_cohort(patients=['adult-002', 'adolescent-004'], days=0.125, seed=5)" in card.description


@pytest.mark.ray
def test_an_interrupted_cohort_leaves_what_was_there(ray_local, tmp_path):
    out = tmp_path / "cohort.parquet"
    out.write_bytes(b"before")

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulated.simulate_cohort(2, 1 / 24, 0, out, interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["cohort.parquet"]
    assert out.read_bytes() == b"before"


# --- the committed data --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo() -> pd.DataFrame:
    return pd.read_parquet(DATASETS / "demo_cgm.parquet")


def test_the_demo_file_is_small_whole_and_plausible(demo):
    assert (DATASETS / "demo_cgm.parquet").stat().st_size < 1.5e6
    assert pq.read_schema(DATASETS / "demo_cgm.parquet").equals(simulated.SCHEMA)
    assert demo[SUBJECT].value_counts().to_dict() == dict.fromkeys(
        virtual.patients()[:DEMO_PATIENTS], DEMO_DAYS * virtual.TICKS_PER_DAY
    )
    assert not demo.drop(columns=GLUCOSE).isna().any().any()
    for _, person in demo.groupby(SUBJECT):
        assert (person["time"].diff().dropna() == pd.Timedelta(minutes=5)).all()
        glucose = person[GLUCOSE].dropna()
        assert 0.005 < person[GLUCOSE].isna().mean() < 0.1
        assert glucose.between(50, 350).mean() > 0.98
        assert 110 < glucose.mean() < 180
        assert 0.15 < glucose.std() / glucose.mean() < 0.45
        assert 120 < person[CARBS].sum() / DEMO_DAYS < 320
        assert 15 < (person[BOLUS].sum() + person[BASAL].sum() / virtual.TICKS_PER_H) / DEMO_DAYS < 110


def test_the_demo_people_keep_different_hours(demo):
    meals = demo[demo[CARBS] > 20]
    hour = meals["time"].dt.hour + meals["time"].dt.minute / 60
    breakfast = hour[hour.between(4, 12)].groupby(meals[SUBJECT]).median()
    assert breakfast.max() - breakfast.min() > 1.5


def test_the_demo_file_is_what_the_code_makes(demo):
    made = virtual.simulate("adult-004", 0.5, DEMO_SEED)
    kept = demo[demo[SUBJECT] == "adult-004"].iloc[: len(made)].reset_index(drop=True)
    # another processor's last bits may turn a rounding
    pd.testing.assert_frame_equal(kept.drop(columns=GLUCOSE), made.drop(columns=GLUCOSE), check_dtype=False)
    np.testing.assert_allclose(kept[GLUCOSE], made[GLUCOSE], atol=1.0)


def test_the_demo_card_names_the_files_columns_and_says_how_it_was_made(demo):
    card = load_card(DATASETS / "demo_cgm.yaml")
    assert (DATASETS / "demo_cgm.yaml").read_text(encoding="utf-8") == simulated._card_text(
        Path("datasets/demo_cgm.parquet"), virtual.patients()[:DEMO_PATIENTS], DEMO_DAYS, DEMO_SEED
    )
    assert {v for v in card.columns.model_dump().values() if v} == set(demo.columns)
    assert "raycadian simulate --patients 10 --days 14 --seed 42 --out datasets/demo_cgm.parquet" in card.description


def test_the_demo_is_read_with_nothing_lost(demo):
    issues = Issues()
    readings = list(read_files([DATASETS / "demo_cgm.parquet"], load_card(DATASETS / "demo_cgm.yaml"), issues))
    assert [r.subject for r in readings] == virtual.patients()[:DEMO_PATIENTS]
    assert sum(r.glucose[GLUCOSE].notna().sum() for r in readings) == demo[GLUCOSE].notna().sum()
    for kind in (CARBS, BOLUS):
        found = sum(r.events["value"][r.events["kind"] == kind].sum() for r in readings)
        assert found == pytest.approx(demo[kind].sum(), rel=1e-4)


CARDS = sorted(DATASETS.glob("*.yaml"))


@pytest.mark.parametrize("path", CARDS, ids=lambda p: p.stem)
def test_every_card_is_valid_and_licensed(path):
    card = load_card(path)
    assert card.name == path.stem
    assert card.license
    assert card.source
    assert card.description


@pytest.mark.parametrize("path", CARDS, ids=lambda p: p.stem)
def test_every_card_points_to_a_file(path, shared):
    card = load_card(path)
    if path.stem.startswith("synthetic"):  # made at home, by the command that the card names
        assert "raycadian simulate" in card.description
    elif "below shared/data beside it" in card.description:  # whoever has them lays them there
        assert all(name.startswith("../../shared/data/") for name in card.files)
    else:
        assert all((path.parent / name).is_file() for name in card.files)
