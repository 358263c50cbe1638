"""Scores of classify and regress: against scikit-learn and plain loops, intervals over people, comparisons."""

import numpy as np
import pytest
from label_scores import made, predictions
from scipy.special import expit, logit
from sklearn import metrics as sk

from raycadian.config import Evaluation
from raycadian.evaluation.bootstrap import SubjectBootstrap
from raycadian.evaluation.forecast import event_scores
from raycadian.evaluation.label.classification import (
    curves,
    equal_mass,
    reliability,
    score_labels,
)  # fmt: skip
from raycadian.evaluation.label.compare import differences, leaderboard
from raycadian.evaluation.label.decision import Calibration, Decision
from raycadian.evaluation.label.predictions import LabelPredictions

RAW = Decision(1, "soft", 0.0, Calibration("none"), 0.5)


def weighed(n: int = 3000, seed: int = 0) -> LabelPredictions:
    score, label, weight = made(n, seed=seed)
    return LabelPredictions(**{**vars(predictions(score, label)), "weight": weight})


def values(table) -> dict[str, float]:
    return dict(zip(table.metric, table.value, strict=True))


def test_scores_are_scikit_learns():
    p = weighed()
    probability, alarm = expit(p.score), expit(p.score) > 0.5
    result, w = values(score_labels(p, RAW, Evaluation(bootstrap=50))), {"sample_weight": p.weight}
    expected = {
        "auroc": sk.roc_auc_score(p.label, probability, **w),
        "auprc": sk.average_precision_score(p.label, probability, **w),
        "brier": sk.brier_score_loss(p.label, probability, **w),
        "accuracy": sk.accuracy_score(p.label, alarm, **w),
        "sensitivity": sk.recall_score(p.label, alarm, **w),
        "specificity": sk.recall_score(1 - p.label, ~alarm, **w),
        "precision": sk.precision_score(p.label, alarm, **w),
        "f1": sk.f1_score(p.label, alarm, **w),
    }
    for name, value in expected.items():
        assert result[name] == pytest.approx(value, abs=1e-9), name


def test_ties_count_half():
    p = weighed(500)
    p = LabelPredictions(**{**vars(p), "score": np.round(p.score)})
    scores = values(score_labels(p, RAW, Evaluation(bootstrap=20)))
    assert scores["auroc"] == pytest.approx(sk.roc_auc_score(p.label, p.score, sample_weight=p.weight))
    assert scores["auprc"] == pytest.approx(sk.average_precision_score(p.label, p.score, sample_weight=p.weight))


def test_calibration_errors_are_those_of_plain_loops():
    p = weighed()
    probability = expit(p.score)
    scores = values(score_labels(p, RAW, Evaluation(bootstrap=20)))

    def off(place: np.ndarray) -> list[tuple[float, float]]:
        rows = []
        for b in np.unique(place):
            i = place == b
            gap = abs(np.average(probability[i], weights=p.weight[i]) - np.average(p.label[i], weights=p.weight[i]))
            rows.append((p.weight[i].sum(), gap))
        return rows

    wide = off(np.minimum((probability * 15).astype(int), 14))
    assert scores["ece"] == pytest.approx(sum(n * gap for n, gap in wide) / p.weight.sum())
    assert scores["mce"] == pytest.approx(max(gap for _, gap in wide))
    mass = off(equal_mass(probability))
    assert len(mass) == 15
    assert scores["ece_adaptive"] == pytest.approx(sum(n * gap for n, gap in mass) / p.weight.sum())


def test_a_calibrated_forecast_has_a_small_error_and_a_shifted_one_its_shift():
    rng = np.random.default_rng(1)
    probability = rng.uniform(0.05, 0.95, 60_000)
    label = (rng.random(60_000) < probability).astype(float)
    good = values(score_labels(predictions(logit(probability), label, 200), RAW, Evaluation(bootstrap=20)))
    assert good["ece"] < 0.01 and good["ece_adaptive"] < 0.01
    wrong = values(
        score_labels(
            predictions(logit(np.clip(probability + 0.04, 0, 0.99)), label, 200),
            RAW,
            Evaluation(bootstrap=20),
        )
    )
    assert wrong["ece"] == pytest.approx(0.04, abs=0.01)


@pytest.mark.slow
def test_chance_alone_explains_the_error_of_calibrated_people_and_no_more():
    """Fourteen people, right on average: an error within what chance gives; the same, moved by 0.1: far outside."""
    rng = np.random.default_rng(4)
    above, n = [], 200
    for _ in range(n):
        score = rng.normal(-1, 1.2, 1400)
        label = (rng.random(1400) < expit(score)).astype(float)
        scores = score_labels(predictions(score, label, 28), RAW, Evaluation(bootstrap=100)).set_index("metric")
        assert scores.low["ece_chance"] < scores.value["ece_chance"] < scores.high["ece_chance"]
        above.append(scores.value["ece"] > scores.high["ece_chance"])
    assert np.mean(above) < 0.12, "2.5% if many; few people vary less in a resample than in truth"
    moved = score_labels(predictions(score + 0.8, label, 28), RAW, Evaluation(bootstrap=100)).set_index("metric")
    assert moved.value["ece"] > 2 * moved.high["ece_chance"]


def test_regression_scores_are_scikit_learns():
    rng = np.random.default_rng(2)
    p = weighed(800)
    truth = rng.normal(80, 12, 800)
    p = LabelPredictions(
        **{**vars(p), "label": truth, "score": 0.8 * truth + 10 + rng.normal(0, 5, 800), "kind": "regress"}
    )
    result, w = values(score_labels(p, None, Evaluation(bootstrap=20))), {"sample_weight": p.weight}
    assert result["mae"] == pytest.approx(sk.mean_absolute_error(p.label, p.score, **w))
    assert result["rmse"] == pytest.approx(sk.root_mean_squared_error(p.label, p.score, **w))
    assert result["r2"] == pytest.approx(sk.r2_score(p.label, p.score, **w))
    mx, my = (np.average(x, weights=p.weight) for x in (p.score, p.label))
    cov = np.average((p.score - mx) * (p.label - my), weights=p.weight)
    vx, vy = (np.average((x - m) ** 2, weights=p.weight) for x, m in ((p.score, mx), (p.label, my)))
    assert result["ccc"] == pytest.approx(2 * cov / (vx + vy + (mx - my) ** 2))


def test_intervals_are_those_of_resampled_people():
    p = weighed(1200)
    table = score_labels(p, RAW, Evaluation(bootstrap=400, seed=3)).set_index("metric")
    people = SubjectBootstrap(p.subject, Evaluation(bootstrap=400, seed=3))
    resampled = people.counts[:, people.code] * p.weight  # (R, W)
    aurocs = [sk.roc_auc_score(p.label, p.score, sample_weight=w) for w in resampled]
    low, high = np.quantile(aurocs, [0.025, 0.975])
    assert (table.low["auroc"], table.high["auroc"]) == (pytest.approx(low), pytest.approx(high))
    f1s = [sk.f1_score(p.label, p.score > 0, sample_weight=w) for w in resampled]
    assert table.low["f1"] == pytest.approx(np.quantile(f1s, 0.025))


def test_two_people_give_no_interval():
    score, label, _ = made(200)
    table = score_labels(predictions(score, label, 4), RAW, Evaluation(bootstrap=50)).set_index("metric")
    assert table.n_subjects["auroc"] == 2 and np.isnan(table.low["auroc"]) and np.isnan(table.low["ece"])


def test_areas_of_many_windows_are_those_of_rounded_ones(monkeypatch):
    p = weighed(3000)
    people = SubjectBootstrap(p.subject, Evaluation(bootstrap=100))
    exact = event_scores.areas(p.score, p.label, people, p.weight)
    monkeypatch.setattr(event_scores, "_CELLS", 200 * len(people.subjects))
    rough = event_scores.areas(p.score, p.label, people, p.weight)
    for name in ("auroc", "auprc"):
        assert rough[name][0] == exact[name][0]  # of all windows it stays exact
        np.testing.assert_allclose(rough[name][1:], exact[name][1:], atol=0.006)


def alarmed() -> LabelPredictions:
    """Two cases a minute a window: an onset 3 min after the start of c0's last labelled window, none in c1."""
    label = np.array([0, 0, 1, 1, 1, 0, 0, 0, 0, 0.0])
    lead = np.array([360, 300, 240, 180, 120, np.nan, np.nan, np.nan, np.nan, np.nan])
    score = np.where([0, 1, 0, 1, 1, 0, 0, 1, 1, 0], 2.0, -2.0)
    time = np.concatenate([60 * np.arange(5), 86400 + 60 * np.arange(5)]).astype("datetime64[s]")
    return LabelPredictions(
        subject=np.repeat(["a", "b"], 5), case=np.repeat(["c0", "c1"], 5), time_utc=time, label=label, score=score,
        weight=np.ones(10), lead_s=lead, kind="classify", step_s=60.0,
    )  # fmt: skip


def test_alarms_by_case_and_lead_time():
    scores = values(score_labels(alarmed(), RAW, Evaluation(bootstrap=10)))
    assert scores["alarms_per_case"] == 1.5  # at windows 1, 3, and 7
    assert scores["false_alarms_per_hour"] == pytest.approx(2 / (7 / 60))
    assert scores["event_sensitivity"] == 1.0
    assert scores["lead_time_min"] == 3.0


def test_labels_that_are_no_episodes_have_no_lead_time():
    score, label, _ = made(100)
    assert "lead_time_min" not in values(score_labels(predictions(score, label), RAW, Evaluation(bootstrap=10)))


def test_curves_end_where_they_must_and_enclose_the_areas():
    p = weighed(400)
    fpr, tpr, precision = curves(p.score, p.label, p.weight)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(tpr, fpr) == pytest.approx(sk.roc_auc_score(p.label, p.score, sample_weight=p.weight))
    area = (np.diff(tpr) * precision[1:]).sum()
    assert area == pytest.approx(sk.average_precision_score(p.label, p.score, sample_weight=p.weight))


def test_reliability_has_a_row_a_bin():
    p = weighed(2000)
    probability = expit(p.score)
    table = reliability(
        probability,
        p.label,
        p.weight,
        SubjectBootstrap(p.subject, Evaluation(bootstrap=50)),
        equal_mass(probability, 10),
    )
    assert len(table) == 10 and table.n_windows.sum() == 2000
    assert (table.low <= table.observed).all() and (table.observed <= table.high).all()


def test_models_compared_on_the_same_people():
    good = weighed(2000)
    rng = np.random.default_rng(0)
    poor = LabelPredictions(**{**vars(good), "score": good.score + rng.normal(0, 12, 2000)})
    board = leaderboard({"poor": (poor, RAW), "good": (good, RAW)}, "auroc", Evaluation(bootstrap=200))
    assert board.model.tolist() == ["good", "poor"] and board.verdict.tolist() == ["best", "worse"]
    assert board.difference[1] == pytest.approx(board.auroc[1] - board.auroc[0]) and board.diff_high[1] < 0
    (row,) = differences({"poor": (poor, RAW), "good": (good, RAW)}, "auroc", Evaluation(bootstrap=200)).to_dict(
        "records"
    )
    assert (row["model"], row["other"], row["verdict"]) == ("good", "poor", "better")
    assert "beyond chance" in row["sentence"]


def test_models_are_compared_with_one_that_is_named_and_by_what_has_a_direction():
    good = weighed(600)
    named = {"good": (good, RAW), "poor": (LabelPredictions(**{**vars(good), "score": -good.score}), RAW)}
    board = leaderboard(named, "brier", Evaluation(bootstrap=50), reference="poor")
    assert board.model.tolist() == ["good", "poor"] and board.verdict.tolist() == ["better", "reference"]
    with pytest.raises(ValueError, match="rmse: models can't be ranked by it; choose one of auroc, auprc"):
        leaderboard(named, "rmse")


def test_models_on_other_windows_are_not_compared():
    one = weighed(100)
    for other, words in (
        (weighed(90), "90 windows"),
        (
            LabelPredictions(**{**vars(one), "label": 1 - one.label}),
            "100 of 100 windows differ.*compare runs of one recipe",
        ),
        (LabelPredictions(**{**vars(one), "kind": "regress"}), "to regress, expected 100 to classify"),
    ):
        with pytest.raises(ValueError, match=words):
            leaderboard({"one": (one, RAW), "other": (other, RAW)}, "auroc")
