"""The probability of a low: exact where the forecast is, calibrated where it is not, scored as scikit-learn does."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction_cases import forecasts, shifted
from scipy.special import logit
from scipy.stats import norm
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from raycadian.config import Evaluation
from raycadian.errors import CheckpointError
from raycadian.evaluation.bootstrap import SubjectBootstrap
from raycadian.evaluation.forecast.event_probability import (
    EXTREME,
    LOWS,
    EventCalibration,
    fit_event_calibration,
    fit_lows,
    happened_within,
    probabilities,
    raw_probability,
    read_calibrations,
    step_probability,
    write_calibrations,
)
from raycadian.evaluation.forecast.event_scores import (
    areas,
    brier_parts,
    probability_scores,
    reliability_of_events,
)
from raycadian.evaluation.forecast.glycemic import EXCURSIONS

HYPO70 = LOWS[0]
seeds = st.integers(0, 10_000)


@pytest.fixture(scope="module")
def calibration():
    return fit_event_calibration(forecasts(people=20, windows=100, seed=1), HYPO70)


def with_quantiles(p, centre, spread):
    z = norm.ppf(p.levels)
    return replace(p, quantiles=np.asarray(centre)[..., None] + np.asarray(spread)[..., None] * z, parts={})


@given(seeds)
@settings(max_examples=20)
def test_a_normal_forecast_has_its_exact_probability_everywhere(seed):
    rng = np.random.default_rng(seed)
    p = forecasts(people=1, windows=10)
    centre, spread = rng.uniform(40, 200, (10, 12)), rng.uniform(1, 40, (10, 12))
    below = norm.cdf((70 - centre) / spread)
    result = with_quantiles(p, centre, spread)
    assert step_probability(result, HYPO70) == pytest.approx(below, abs=1e-9)  # tails, too
    assert raw_probability(result, HYPO70) == pytest.approx(np.clip(below.max(1), EXTREME, 1 - EXTREME), abs=1e-9)
    above = norm.sf((180 - centre) / spread)
    assert step_probability(result, EXCURSIONS[2]) == pytest.approx(above, abs=1e-9)


def test_quantiles_that_coincide_or_stand_alone():
    p = forecasts(people=1, windows=3)
    certain = replace(p, quantiles=np.repeat(np.array([60.0, 100, 70])[:, None, None], 12, 1).repeat(5, 2), parts={})
    assert step_probability(certain, HYPO70)[:2, 0] == pytest.approx([1, 0])
    alone = replace(certain, quantiles=certain.quantiles[..., :1], levels=np.array([0.5]))
    assert step_probability(alone, HYPO70)[:, 0] == pytest.approx([1, 0, 0.5])
    partly = np.array([60.0, 60, 60, 80, 80])  # equal ones inside the levels: the stretch between 60 and 80 decides
    result = step_probability(replace(p, quantiles=np.broadcast_to(partly, p.quantiles.shape), parts={}), HYPO70)
    assert result == pytest.approx(norm.cdf(norm.ppf(0.75) / 2))


def test_what_happened_needs_every_point():
    nan = np.nan
    p = forecasts(people=1, windows=4, steps=3)
    truth = np.array([[100, 69.9, 100], [70, 70, 100], [60, nan, 100], [100, nan, 100]])
    assert np.array_equal(happened_within(replace(p, truth=truth), HYPO70), [1, 0, nan, nan], equal_nan=True)


def test_calibration_makes_probabilities_true(calibration):
    """The largest step's probability is too low for the whole horizon; calibrated, what is said is what happens."""
    p = forecasts(people=30, windows=150, seed=2)
    happened = happened_within(p, HYPO70)
    known = ~np.isnan(happened)
    probability, raw = calibration.probability(p)[known], raw_probability(p, HYPO70)[known]
    assert raw.mean() < happened[known].mean() - 0.03
    assert probability.mean() == pytest.approx(happened[known].mean(), abs=0.015)
    result = {
        r.metric: r.value
        for r in probability_scores(p, [calibration], Evaluation(bootstrap=2)).query("scope == 'all'").itertuples()
    }
    assert result["hypo70_probability_brier"] < result["hypo70_probability_brier_raw"]
    assert result["hypo70_probability_brier_miscalibration"] < 0.1 * result["hypo70_probability_brier"]
    table = reliability_of_events(p, "hypo70", calibration.probability(p), Evaluation(bootstrap=100))
    assert np.average((table.predicted - table.observed).abs(), weights=table.n_windows) < 0.02
    assert table.n_windows.sum() == known.sum()


def test_slope_and_intercept_are_those_of_logistic_regression():
    val = forecasts(people=20, windows=100, seed=1)
    calibration = fit_event_calibration(val, HYPO70)
    happened = happened_within(val, HYPO70)
    known = ~np.isnan(happened)
    n, events = int(known.sum()), int(happened[known].sum())
    x = logit(raw_probability(val, HYPO70)[known])[:, None]
    soft = np.where(
        happened[known] == 1, (events + 1) / (events + 2), 1 / (n - events + 2)
    )  # each window as a share of both
    twice = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    twice.fit(np.r_[x, x], np.r_[np.ones(n), np.zeros(n)], sample_weight=np.r_[soft, 1 - soft])
    assert calibration.slope == pytest.approx(twice.coef_[0, 0], rel=1e-3)
    assert calibration.intercept == pytest.approx(twice.intercept_[0], rel=1e-3)
    assert (calibration.n_windows, calibration.n_events) == (known.sum(), happened[known].sum())


@given(st.lists(st.floats(EXTREME, 1 - EXTREME), min_size=2, max_size=30), st.floats(0, 5), st.floats(-8, 8))
@settings(max_examples=100)
def test_calibrated_is_monotone_in_raw(raw, slope, intercept):
    probability = EventCalibration("hypo70", slope, intercept, 10, 5).calibrated(np.sort(raw))
    assert (np.diff(probability) >= -1e-15).all() and (probability >= 0).all() and (probability <= 1).all()


@given(seeds, st.floats(0, 5), st.floats(-8, 8))
@settings(max_examples=30)
def test_what_is_below_54_is_below_70(seed, slope, intercept):
    """Each threshold has a calibration of its own; the rarer event's probability gives way to the other's."""
    p, own = forecasts(people=1, windows=5, seed=seed), EventCalibration("hypo70", 1.0, 0.0, 10, 5)
    for calibrations in ([own, other := EventCalibration("hypo54", slope, intercept, 10, 5)], [other, own]):
        both = probabilities(p, calibrations)
        np.testing.assert_array_equal(both["hypo70"], own.probability(p))
        np.testing.assert_array_equal(both["hypo54"], np.minimum(other.probability(p), own.probability(p)))
    assert list(probabilities(p, [other])) == ["hypo54"] and probabilities(p, []) == {}


def test_a_forecast_that_orders_windows_backwards_is_not_turned_round():
    val = forecasts(people=10, windows=60, seed=1)
    backwards = replace(val, quantiles=220 - val.quantiles[..., ::-1], parts={})
    calibration = fit_event_calibration(backwards, HYPO70)
    assert calibration.slope == pytest.approx(0, abs=1e-6)
    base = np.nanmean(happened_within(val, HYPO70))
    assert calibration.probability(backwards) == pytest.approx(base, abs=0.01)


def test_nothing_to_learn_from_is_said():
    val = shifted(forecasts(people=2, windows=10), 0)
    high = replace(val, truth=np.full_like(val.truth, 150.0))
    with pytest.raises(ValueError, match="hypo70 in 0 of 20 windows"):
        fit_event_calibration(high, HYPO70)
    fitted, reasons = fit_lows(high)
    assert fitted == [] and len(reasons) == 2
    assert probability_scores(high, []).empty


def test_json_keeps_every_bit(tmp_path, calibration):
    path = tmp_path / "event_calibration.json"
    write_calibrations(path, [calibration])
    assert read_calibrations(path) == [calibration] and json.loads(path.read_text())[0]["excursion"] == "hypo70"
    assert read_calibrations(tmp_path / "absent.json") == []
    for slope in (-5.0, 1e308, float("nan")):
        write_calibrations(tmp_path / "odd.json", [replace(calibration, slope=slope)])
        with pytest.raises(CheckpointError, match="hypo70: no calibration has slope"):
            read_calibrations(tmp_path / "odd.json")
    path.write_text('[{"slope": 1}]')
    with pytest.raises(ValueError, match="no list of event calibrations"):
        read_calibrations(path)


@given(seeds, st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=40)
def test_brier_parts_add_up(seed, n, ties):
    rng = np.random.default_rng(seed)
    probability = np.round(rng.random(n + 1) * ties) / ties
    happened = (rng.random(n + 1) < probability).astype(float)
    parts = brier_parts(probability, happened)
    total = parts["miscalibration"] - parts["discrimination"] + parts["uncertainty"]
    assert total == pytest.approx(np.mean((probability - happened) ** 2), abs=1e-12)
    assert parts["miscalibration"] >= -1e-12 and parts["discrimination"] >= -1e-12
    assert brier_parts(happened, happened) == pytest.approx(
        {"miscalibration": 0, "discrimination": parts["uncertainty"], "uncertainty": parts["uncertainty"]}
    )


@pytest.mark.slow
@given(seeds)
@settings(max_examples=30)
def test_areas_equal_scikit_learn_in_every_resample(seed):
    rng = np.random.default_rng(seed)
    n = 60
    probability, happened = np.round(rng.random(n), 1), (rng.random(n) < 0.3).astype(float)
    happened[:2] = 0, 1
    people = SubjectBootstrap(rng.integers(0, 5, n).astype(str), Evaluation(bootstrap=20, confidence=0.8, seed=seed))
    areas_of = areas(probability, happened, people)
    assert areas_of["auroc"][0][0] == pytest.approx(sk.roc_auc_score(happened, probability))
    assert areas_of["auprc"][0][0] == pytest.approx(sk.average_precision_score(happened, probability))
    draws = {"auroc": [], "auprc": []}
    for row in people.counts:
        weight = row[people.code]
        if (weight @ happened) and (weight @ (1 - happened)):
            draws["auroc"].append(sk.roc_auc_score(happened, probability, sample_weight=weight))
            draws["auprc"].append(sk.average_precision_score(happened, probability, sample_weight=weight))
    if people.sum(happened[:, None]).astype(bool).sum() >= 3:
        for name, values in draws.items():
            assert [areas_of[name][1][0], areas_of[name][2][0]] == pytest.approx(np.quantile(values, [0.1, 0.9]))


def test_scores_are_rows_of_the_score_table(calibration):
    p = forecasts(people=6, windows=60, seed=2)
    table = probability_scores(p, [calibration], Evaluation(bootstrap=50))
    assert list(table.scope.unique()) == ["all", "id", "ood"] and (table.kind == "window").all()
    row = table.query("scope == 'all' and metric == 'hypo70_probability_auroc'").iloc[0]
    assert row.low < row.value < row.high and row.n_subjects == 6
    happened = happened_within(p, HYPO70)
    assert row.n_windows == (~np.isnan(happened)).sum() and row.n_windows + row.n_missing == len(p)
    renamed = replace(p, subject=np.char.add("x", p.subject))
    assert probability_scores(renamed, [calibration], Evaluation(bootstrap=50)).equals(table)
