"""Figures of a person's glucose: equal to two other implementations, by hand where they differ, and laws of any
series."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction_cases import forecasts, perfect

from raycadian.config import Evaluation
from raycadian.evaluation.forecast.metrics import score
from raycadian.evaluation.forecast.summaries import (
    RANGES_MGDL,
    blood_glucose_indices,
    glucose_summaries,
    gmi_pct,
    mage_mgdl,
    person_series,
    summary,
)

series = st.lists(st.floats(20, 600), min_size=2, max_size=60).map(np.array)


def test_a_week_equals_iglu_and_agata():
    """Values by iglu-python 0.4.3 (gmi, cv_glu, gri, lbgi, hbgi, below_percent, above_percent); py-agata 0.0.8 has
    the same lbgi, hbgi and gri. iglu's MAGE finds turning points by moving averages: 154.37, ours within 0.5
    mg/dL."""
    i = np.arange(2016)
    figures = summary(140 + 70 * np.sin(i / 30) + 35 * np.sin(i / 71.3) + 9 * np.sin(i / 2.3))
    expected = {
        "gmi_pct": 6.752215549446193,
        "cv_pct": 38.75504865685647,
        "gri": 56.458333333333336,
        "lbgi": 3.1578932163837634,
        "hbgi": 5.263254823918767,
        "time_below_54_pct": 6.39881,
        "time_54_69_pct": 11.755952 - 6.39881,
        "time_above_250_pct": 0.248016,
        "time_181_250_pct": 30.257937 - 0.248016,
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert figures["mage_mgdl"] == pytest.approx(154.36585187831145, abs=0.5)


def test_published_points():
    table = {
        100: 5.7,
        125: 6.3,
        150: 6.9,
        175: 7.5,
        200: 8.1,
        225: 8.7,
        250: 9.3,
        300: 10.5,
        350: 11.7,
    }  # Bergenstal 2018
    assert {mean: round(gmi_pct(np.array([float(mean)])), 1) for mean in table} == table
    assert max(blood_glucose_indices(np.array([112.5]))) < 1e-3  # Kovatchev 1997: the scale's zero
    assert blood_glucose_indices(np.array([20.0]))[0] == pytest.approx(100, abs=1)  # its ends: risk 100
    assert blood_glucose_indices(np.array([600.0]))[1] == pytest.approx(100, abs=1)
    assert blood_glucose_indices(np.array([40, 50, 50, 80, 120, 120, 200, 200, 260, 260.0]))[0] == pytest.approx(
        8.543, abs=5e-4
    )


def test_ranges_at_their_ends():
    glucose = np.array([53.9, 54, 69.9, 70, 180, 180.1, 250, 250.1])
    figures = summary(glucose)
    assert [figures[name] for name in RANGES_MGDL] == [12.5, 25, 25, 25, 12.5]
    assert figures["gri"] == pytest.approx(min(100, 3 * 12.5 + 2.4 * 25 + 1.6 * 12.5 + 0.8 * 25))
    assert summary(np.full(3, 40.0))["gri"] == 100  # its ceiling


def test_mage_by_hand():
    wave = np.array([100, 150, 200, 150, 100, 110, 105, 160, 220, 150, 90, 95.0])
    # sd 45: the turns are 100 (nadir), 200, 100, 220, 90; 110 -> 105 and 90 -> 95 are wiggles
    assert mage_mgdl(wave) == pytest.approx((100 + 100 + 120 + 130) / 4)
    gaps = np.insert(wave, [2, 7], np.nan)
    assert mage_mgdl(gaps) == mage_mgdl(wave)
    assert np.isnan(mage_mgdl(np.full(9, 100.0))) and np.isnan(mage_mgdl(np.array([100.0])))
    assert mage_mgdl(np.array([100.0, 200.0])) == 100


@given(series)
@settings(max_examples=100)
def test_laws_of_any_series(glucose):
    figures = summary(glucose)
    assert sum(figures[name] for name in RANGES_MGDL) == pytest.approx(100)
    assert figures["lbgi"] >= 0 and figures["hbgi"] >= 0 and 0 <= figures["gri"] <= 100
    if not np.isnan(figures["mage_mgdl"]):
        assert glucose.std(ddof=1) <= figures["mage_mgdl"] <= np.ptp(glucose) + 1e-9
        assert mage_mgdl(300 - glucose / 2) == pytest.approx(figures["mage_mgdl"] / 2)  # upside down, half as large
    shuffled = np.random.default_rng(0).permutation(glucose)
    same = [n for n in figures if n != "mage_mgdl"]  # only swings depend on the order
    assert [summary(shuffled)[n] for n in same] == pytest.approx([figures[n] for n in same], nan_ok=True)


def test_each_moment_counts_once():
    """Windows every 15 minutes, steps of 5: the last three steps of each; every hour: all twelve."""
    p = forecasts(people=2, windows=8, missing=0)
    order = np.random.default_rng(1).permutation(len(p))
    result = {s: (t, f) for s, t, f in person_series(p.select(order))}
    assert sorted(result) == ["person-0", "person-1"]
    assert np.array_equal(result["person-1"][0], p.truth[8:, -3:].ravel())
    assert np.array_equal(result["person-1"][1], p.median[8:, -3:].ravel())
    hourly = p.select(np.arange(0, 8, 4))
    assert len(next(person_series(hourly))[1]) == 2 * 12
    assert len(next(person_series(p.select(np.array([3]))))[1]) == 12


def test_forecasts_count_only_where_truth_was_measured():
    p = forecasts(people=3, windows=20, missing=0.3)
    filled = replace(p, quantiles=np.where(np.isnan(p.truth)[..., None], 600.0, p.quantiles), parts={})
    assert glucose_summaries(filled).equals(glucose_summaries(p))


def test_a_perfect_forecast_has_the_same_glucose():
    p = perfect(forecasts(people=4, windows=30))
    table = score(p, Evaluation(bootstrap=50))
    people = table[(table.kind == "person") & (table.scope == "all")].set_index("metric")
    errors = people[people.index.str.endswith("_error")]
    assert len(errors) == 12 and (errors.value.abs() < 1e-9).all()
    mean = np.nanmean([np.nanmean(t) for _, t, _ in person_series(p)])
    assert people.loc["mean_mgdl_truth", "value"] == pytest.approx(mean)
    assert people.loc["mean_mgdl_truth", "low"] < mean < people.loc["mean_mgdl_truth", "high"]


def test_nothing_measured_gives_nothing():
    p = forecasts(people=3, windows=4)
    p = replace(p, truth=np.where((p.subject == "person-1")[:, None], np.nan, p.truth))
    row = glucose_summaries(p).set_index("subject").loc["person-1"]
    assert row.n_points == 0 and row.drop("n_points").isna().all()
    assert score(p, Evaluation(bootstrap=2)).query("scope == 'all' and metric == 'gri_error'").n_subjects.item() == 2
