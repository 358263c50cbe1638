"""Votes, calibration and thresholds of a classifier: against scikit-learn, and what must hold of any."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_scores import made, predictions
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from raycadian.config import Classification, Evaluation, Hypotension
from raycadian.evaluation.label.classification import score_labels
from raycadian.evaluation.label.decision import (
    EXTREME,
    Calibration,
    Decision,
    choose_calibration,
    fit_calibration,
    fit_decision,
    joined,
    threshold_at,
)  # fmt: skip
from raycadian.evaluation.label.predictions import LabelPredictions

KINDS = ("none", "temperature", "platt", "beta", "isotonic")


def test_platt_is_logistic_regression_on_softened_targets():
    score, label, weight = made()
    calibration = fit_calibration("platt", score, label, weight)
    events, others = label.sum(), len(label) - label.sum()
    target = np.where(label == 1, (events + 1) / (events + 2), 1 / (others + 2))
    twice = np.concatenate([score, score])[:, None]  # scikit-learn takes no soft targets: each row stands for both
    both = np.concatenate([np.ones(len(score)), np.zeros(len(score))])
    theirs = LogisticRegression(C=1e12, tol=1e-10, max_iter=1000)
    theirs.fit(twice, both, np.concatenate([weight * target, weight * (1 - target)]))
    np.testing.assert_allclose(calibration.parameters, [theirs.coef_[0, 0], theirs.intercept_[0]], rtol=1e-4)
    np.testing.assert_allclose(calibration.parameters, [2.0, 1.0], atol=0.2)  # what the data were made with


@pytest.mark.parametrize("kind", ["platt", "beta"])
@pytest.mark.parametrize("score", [-0.4, 0.3, 0.7])
def test_a_score_that_says_nothing_becomes_the_base_rate(kind, score):
    """Of trees, say, none of which validation people kept: sixteen equal scores have a standard deviation of 6e-17."""
    label, weight = np.tile([1.0, 1, 0, 0, 0, 1, 1, 0], 2), np.linspace(5e3, 9e4, 16)
    result = fit_calibration(kind, np.full(16, score), label, weight).probability(np.array([score]))
    assert result == pytest.approx(np.average(0.1 + 0.8 * label, weights=weight), abs=1e-3)  # Platt's softened targets


def test_isotonic_is_scikit_learns():
    score, label, weight = made(800)
    calibration = fit_calibration("isotonic", score, label, weight)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(score, label, weight)
    at = np.linspace(-6, 6, 500)
    np.testing.assert_allclose(
        calibration.probability(at), np.clip(theirs.predict(at), EXTREME, 1 - EXTREME), atol=1e-9
    )


def test_isotonic_keeps_few_knots():
    calibration = fit_calibration("isotonic", *made(200_000))
    assert len(calibration.at) <= 256
    np.testing.assert_allclose(calibration.probability(np.array([0.0, 1.0])), expit([1.0, 3.0]), atol=0.02)


def test_temperature_finds_the_scale_of_the_log_odds():
    score, label, weight = made(slope=0.5, shift=0.0)
    assert fit_calibration("temperature", score, label, weight).parameters[0] == pytest.approx(2.0, rel=0.1)


def test_beta_bends_where_platt_is_straight():
    """Kull et al.: on log p and log(1 - p); the parameters that labels were drawn with are found."""
    score = np.random.default_rng(0).normal(0, 2, 40_000)
    p = expit(score)
    probability = expit(2.0 * np.log(p) - 0.5 * np.log1p(-p) + 0.3)
    label = (np.random.default_rng(1).random(len(p)) < probability).astype(float)
    calibration = fit_calibration("beta", score, label, np.ones(len(p)))
    np.testing.assert_allclose(calibration.parameters, [2.0, 0.5, 0.3], atol=0.12)
    np.testing.assert_allclose(calibration.probability(score), probability, atol=0.02)


@pytest.mark.parametrize(
    ("curve", "kinds"),
    [
        (expit, ("none", "temperature", "platt", "beta")),  # those that nest may win by chance, by next to nothing
        (lambda x: expit(0.4 * x), ("temperature", "platt", "beta")),
        (lambda x: expit(0.4 * x - 1.5), ("platt", "beta")),
        (lambda x: expit(-3 * np.logaddexp(0, -x) + 0.2 * np.logaddexp(0, x)), ("beta",)),
        (lambda x: 0.1 + 0.8 * (x > 0.7), ("isotonic",)),
    ],
)
def test_validation_people_choose_the_calibration_that_made_their_labels(curve, kinds):
    rng = np.random.default_rng(3)
    score, subject = rng.normal(0, 2, 20_000), rng.integers(0, 40, 20_000).astype(str)
    label = (rng.random(len(score)) < curve(score)).astype(float)
    assert choose_calibration(score, label, np.ones(len(score)), subject) in kinds
    task = Classification(label=Hypotension(), calibration="chosen")
    chosen = fit_decision(task, predictions(score[:2000], label[:2000])).calibration
    assert chosen.kind in KINDS, "what is kept is a calibration, not that one was chosen"


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(seed=st.integers(0, 1000), slope=st.floats(0.1, 5), shift=st.floats(-2, 2))
def test_any_calibration_is_monotone_within_bounds_and_no_worse_on_its_own_data(kind, seed, slope, shift):
    score, label, weight = made(300, slope, shift, seed)
    if not 0 < label.sum() < len(label):
        return
    calibration = fit_calibration(kind, score, label, weight)
    probability = calibration.probability(np.sort(score))
    assert (np.diff(probability) >= 0).all() and probability.min() >= EXTREME and probability.max() <= 1 - EXTREME
    if kind in ("isotonic", "temperature"):

        def entropy(p: np.ndarray) -> float:
            return float(np.average(-label * np.log(p) - (1 - label) * np.log1p(-p), weights=weight))

        plain = np.clip(expit(score), EXTREME, 1 - EXTREME)
        assert entropy(calibration.probability(score)) <= entropy(plain) + 1e-6


@pytest.mark.parametrize("kind", ["temperature", "platt", "isotonic"])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_labels_that_are_all_the_same_calibrate_nothing(kind, value):
    with pytest.raises(ValueError, match="take more validation subjects"):
        fit_calibration(kind, np.arange(5.0), np.full(5, value), np.ones(5))


def test_the_threshold_keeps_the_specificity_on_validation_windows():
    score, label, weight = made()
    for wanted in (0.5, 0.9, 0.99):
        at = threshold_at(score, label, weight, wanted)
        kept = np.average(score[label == 0] <= at, weights=weight[label == 0])
        assert wanted <= kept < wanted + 0.01
        below = score[(label == 0) & (score < at)].max()
        assert np.average(score[label == 0] <= below, weights=weight[label == 0]) < wanted
    with pytest.raises(ValueError, match="take more subjects"):
        threshold_at(score, np.ones_like(label), weight, 0.9)


def test_votes_stay_within_a_case_and_look_back_only():
    score, case = np.array([0.0, 2.0, 4.0, -4.0, 4.0, 4.0]), np.array(list("aaabbb"))
    soft = Decision(2, "soft", 1.0, Calibration("none"), 0.5)
    p = expit(score)
    expected = [p[0], (p[0] + p[1]) / 2, (p[1] + p[2]) / 2, p[3], (p[3] + p[4]) / 2, (p[4] + p[5]) / 2]
    np.testing.assert_allclose(soft.probability(score, case), expected)
    hard = Decision(3, "hard", 1.0, Calibration("none"), 0.5)
    np.testing.assert_allclose(hard.voted(score, case), logit((np.array([0, 1.5, 2, 0, 1.5, 2]) + 0.5) / 4), rtol=1e-12)
    same = Decision(1, "soft", 1.0, Calibration("none"), 0.5)
    assert same.voted(score, case) is score


@pytest.mark.parametrize("kind", KINDS)
def test_a_decision_is_json_and_comes_back(tmp_path, kind):
    score, label, _ = made(500)
    task = Classification(label=Hypotension(), calibration=kind, vote=3)
    decision = fit_decision(task, predictions(score, label))
    decision.write(tmp_path / "decision.json")
    json.loads((tmp_path / "decision.json").read_text())
    again = Decision.read(tmp_path / "decision.json")
    case = np.repeat(["a", "b"], 250)
    np.testing.assert_array_equal(decision.probability(score, case), again.probability(score, case))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"calibration": {}}', '{"vote": 1, "calibration": 3}'])
def test_another_file_is_no_decision(tmp_path, text):
    (tmp_path / "decision.json").write_text(text)
    with pytest.raises(ValueError, match="no decision of a classifier"):
        Decision.read(tmp_path / "decision.json")


def test_what_models_say_of_their_own_people_is_scored_as_one():
    task = Classification(label=Hypotension())
    pieces = []
    for seed, shift in ((0, -1.0), (1, 2.0)):
        score, label, _ = made(2000, shift=shift, seed=seed)
        own = predictions(score, label)
        own = replace(own, subject=np.char.add(f"{seed}", own.subject), case=np.char.add(f"{seed}", own.case))
        pieces.append((own, fit_decision(task, own)))
    together, decided = joined(pieces)
    expected = np.concatenate([d.probability(p.score, p.case) for p, d in pieces])
    np.testing.assert_array_equal(decided.probability(together.score, together.case), expected)
    alarm = expected > np.repeat([d.threshold for _, d in pieces], 2000)
    scores = score_labels(together, decided, Evaluation(bootstrap=50)).set_index("metric")
    assert scores.value["specificity"] == pytest.approx((~alarm)[together.label == 0].mean())
    assert scores.value["brier"] == pytest.approx(((expected - together.label) ** 2).mean())
    assert scores.n_subjects["auroc"] == len({*pieces[0][0].subject, *pieces[1][0].subject}) == 20
    assert joined(pieces[:1]) == pieces[0]
    number = [(replace(p, kind="regress"), None) for p, _ in pieces]
    assert joined(number)[1] is None and len(joined(number)[0]) == 4000


def test_predictions_come_back_from_parquet_and_refuse_what_is_not_finite(tmp_path):
    score, label, _ = made(100)
    p = predictions(score, label)
    p.write_parquet(tmp_path / "p.parquet")
    again = LabelPredictions.read_parquet(tmp_path / "p.parquet")
    for name in ("subject", "case", "time_utc", "label", "score", "weight", "lead_s"):
        np.testing.assert_array_equal(getattr(p, name), getattr(again, name))
    assert (again.kind, again.step_s) == ("classify", 10.0)
    with pytest.raises(ValueError, match=r"1 of 100 scores are not finite.*case c"):
        predictions(np.where(np.arange(100) == 7, np.nan, score), label)
    with pytest.raises(ValueError, match="one value a window"):
        predictions(score[:50], label)
