"""Metrics: equal to scikit-learn's where it has them, by hand where it has not, and laws that hold for any forecast."""

import re
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction_cases import LEVELS, forecasts, perfect, shifted
from scipy.stats import norm
from sklearn import metrics as sk

from raycadian.config import Evaluation
from raycadian.evaluation.bootstrap import SubjectBootstrap
from raycadian.evaluation.forecast import metrics
from raycadian.evaluation.forecast.error_grids import GRIDS
from raycadian.evaluation.forecast.metrics import METRICS, Points, intervals, metrics_of, points_of, score
from raycadian.evaluation.forecast.predictions import Predictions

seeds = st.integers(0, 10_000)


def value(table, metric, kind="cumulative", scope="all", horizon=None, column="value"):
    rows = table[(table.metric == metric) & (table.kind == kind) & (table.scope == scope)]
    rows = rows[rows.horizon_min == (rows.horizon_min.max() if horizon is None else horizon)]
    assert len(rows) == 1
    return rows[column].iloc[0]


def one_person(truth, median, levels=LEVELS):
    truth, median = np.atleast_2d(np.asarray(truth, float)), np.atleast_2d(np.asarray(median, float))
    n = len(truth)
    return Predictions(
        np.full(n, "a"), np.datetime64("2026-01-01", "s") + 900 * np.arange(n), np.zeros(n), truth,
        np.repeat(median[..., None], len(levels), axis=2), levels,
    )  # fmt: skip


def test_equal_to_scikit_learn_at_each_step_and_up_to_it():
    p = forecasts()
    table = score(p, Evaluation(bootstrap=2))
    for h in (0, 5, 11):
        for kind, steps in (("step", slice(h, h + 1)), ("cumulative", slice(0, h + 1))):
            truth, quantiles = p.truth[:, steps], p.quantiles[:, steps]
            seen = ~np.isnan(truth)
            y, q = truth[seen], quantiles[seen]
            result = {m: value(table, m, kind, horizon=5.0 * (h + 1)) for m in METRICS}
            assert result["rmse_mgdl"] == pytest.approx(sk.root_mean_squared_error(y, q[:, 2]), rel=1e-12)
            assert result["mae_mgdl"] == pytest.approx(sk.mean_absolute_error(y, q[:, 2]), rel=1e-12)
            assert result["mape_pct"] == pytest.approx(100 * sk.mean_absolute_percentage_error(y, q[:, 2]), rel=1e-12)
            assert result["mard_pct"] == result["mape_pct"]
            assert result["bias_mgdl"] == pytest.approx((q[:, 2] - y).mean(), rel=1e-12)
            pinball = [sk.mean_pinball_loss(y, q[:, i], alpha=a) for i, a in enumerate(LEVELS)]
            assert result["pinball_mgdl"] == pytest.approx(np.mean(pinball), rel=1e-12)


def test_quantile_scores_by_their_definitions():
    """wql_per_truth is GluonTS' mean_weighted_quantile_loss: for each level twice the pinball over the sum of |y|,
    then the mean."""
    p = forecasts()
    table = score(p, Evaluation(bootstrap=2))
    seen = ~np.isnan(p.truth)
    y, q = p.truth[seen], p.quantiles[seen]
    weighted = [2 * sk.mean_pinball_loss(y, q[:, i], alpha=a) * len(y) / np.abs(y).sum() for i, a in enumerate(LEVELS)]
    assert value(table, "wql_per_truth") == pytest.approx(np.mean(weighted), rel=1e-12)
    assert value(table, "wql_per_point_mgdl") == pytest.approx(2 * value(table, "pinball_mgdl"), rel=1e-12)
    pinball = [sk.mean_pinball_loss(y, q[:, i], alpha=a) for i, a in enumerate(LEVELS)]
    assert value(table, "crps_quantile_mgdl") == pytest.approx(
        2 * np.dot([0.15, 0.225, 0.25, 0.225, 0.15], pinball), rel=1e-12
    )
    last = value(table, "wql_per_truth", "step", horizon=60)
    assert last == pytest.approx(
        value(table, "wql_per_point_mgdl", "step", horizon=60) / np.nanmean(p.truth[:, -1]), rel=1e-12
    )


def test_crps_of_many_levels_is_that_of_the_distribution():
    """A normal forecast has a closed form (Gneiting, Raftery, Westveld, Goldman, Mon Weather Rev 133:1098, 2005)."""
    truth, levels = np.linspace(60, 240, 41)[:, None], np.arange(0.0005, 1, 0.001)
    z = (truth - 140) / 20
    closed = 20 * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    quantiles = np.broadcast_to(140 + 20 * norm.ppf(levels), (*truth.shape, len(levels)))
    assert Points(truth, quantiles, levels).crps == pytest.approx(closed, rel=1e-3)
    five = np.array(
        [0.05, 0.25, 0.5, 0.75, 0.95]
    )  # expected over truth from the forecast itself: 3% below 20 / sqrt(pi)
    resampled = 140 + 20 * norm.ppf(np.linspace(0.0005, 0.9995, 1000))[:, None]
    few = Points(resampled, np.broadcast_to(140 + 20 * norm.ppf(five), (1000, 1, 5)), five).crps.mean()
    assert few == pytest.approx(0.97 * 20 / np.sqrt(np.pi), rel=0.005)
    alone = Points(truth, np.full((41, 1, 1), 140.0), np.array([0.5])).crps
    assert alone == pytest.approx(np.abs(truth - 140))


def test_zone_shares_are_those_of_the_zones():
    p = forecasts(missing=0.2)
    table = score(p, Evaluation(bootstrap=2))
    seen = ~np.isnan(p.truth)
    for name, grid in GRIDS.items():
        zones = grid.zones(p.truth[seen], p.median[seen])
        for letters in ("A", "AB", "DE"):
            expected = 100 * np.isin(zones, list(letters)).mean()
            assert value(table, f"{name}_{letters.lower()}_pct") == pytest.approx(expected)


def test_every_column_is_defined_in_the_docstring():
    """The docstring is the report's section of definitions."""
    table = score(forecasts(people=3, windows=20), Evaluation(bootstrap=2))
    names = {re.sub(r"_q[\d.]+(?=_)", "", m) for m in table.metric.unique()}
    names = {re.sub(r"^(hypo54|hyper180|hyper250)", "hypo70", n) for n in names}
    names = {re.sub(r"^parkes[12]", "clarke", re.sub(r"(?<=_)(50|90)(?=_)", "90", n)) for n in names}
    names = {re.sub(r"_(truth|forecast|error)$", "", n) for n in names}
    absent = {n for n in names if n not in (metrics.__doc__ or "")}
    assert not absent, absent


def test_rmse_is_pooled_not_a_mean_of_rmses():
    table = score(one_person([[100, 100], [100, 100]], [[100, 100], [110, 130]]), Evaluation(bootstrap=1))
    assert value(table, "rmse_mgdl") == pytest.approx(np.sqrt((100 + 900) / 4))
    assert value(table, "rmse_mgdl", "step", horizon=10) == pytest.approx(np.sqrt(900 / 2))
    assert value(table, "bias_mgdl") == pytest.approx(10)


def test_relative_error_is_relative_to_the_truth():
    assert value(score(one_person([[100]], [[80]]), Evaluation(bootstrap=1)), "mard_pct") == pytest.approx(20)
    assert value(score(one_person([[80]], [[100]]), Evaluation(bootstrap=1)), "mard_pct") == pytest.approx(25)


def test_intervals_of_levels():
    assert intervals(LEVELS) == [(0, 4), (1, 3)]
    assert intervals(np.array([0.1, 0.5, 0.8])) == []
    assert intervals(np.array([0.1, 0.2, 0.5, 0.9])) == [(0, 3)]  # 0.2 has no partner
    assert "coverage_99.8_pct" in metrics_of(np.array([0.001, 0.5, 0.999]))


def test_coverage_and_width_by_hand():
    p = one_person([[100.0], [100.0], [100.0], [np.nan]], [[100.0]] * 4)
    bounds = np.array(
        [[90, 95, 100, 105, 110], [90, 95, 98, 99, 100], [101, 102, 103, 104, 105], [0, 1, 2, 3, 600]], float
    )
    table = score(replace(p, quantiles=bounds[:, None]), Evaluation(bootstrap=1))
    assert value(table, "coverage_90_pct") == pytest.approx(200 / 3)  # the bound itself is inside
    assert value(table, "coverage_50_pct") == pytest.approx(100 / 3)
    assert value(table, "width_90_mgdl") == pytest.approx((20 + 10 + 4) / 3)  # not the window without truth


def test_calibrated_forecasts_cover():
    table = score(forecasts(people=20, windows=100, missing=0), Evaluation(bootstrap=200))
    for percent in (50, 90):
        assert value(table, f"coverage_{percent}_pct") == pytest.approx(percent, abs=1)
        for h in 5.0 * np.arange(1, 13):
            assert value(table, f"coverage_{percent}_pct", "step", horizon=h) == pytest.approx(percent, abs=4)


@pytest.mark.slow
@given(seeds)
@settings(max_examples=15)
def test_a_perfect_forecast_has_no_error(seed):
    table = score(perfect(forecasts(people=3, windows=20, seed=seed, missing=0.3)), Evaluation(bootstrap=3))
    zero = (
        "rmse_mgdl",
        "grmse_mgdl",
        "mae_mgdl",
        "mape_pct",
        "bias_mgdl",
        "pinball_mgdl",
        "crps_quantile_mgdl",
        "wql_per_truth",
    )
    for metric in (*zero, "tir_error_pct", "width_90_mgdl", "clarke_de_pct", "parkes1_de_pct", "parkes2_de_pct"):
        assert (table[table.metric == metric].value.dropna() == 0).all()
    for metric in ("clarke_a_pct", "parkes1_a_pct", "parkes2_ab_pct", "coverage_90_pct", "coverage_50_pct"):
        assert (table[table.metric == metric].value.dropna() == 100).all()
    events = table[table.kind == "window"]
    assert (events[events.metric.str.endswith("_pct")].value.dropna() == 100).all()
    assert (events[events.metric.str.endswith("per_day")].value.dropna() == 0).all()


@pytest.mark.slow
@given(seeds, st.floats(-80, 80))
@settings(max_examples=15)
def test_laws_of_any_forecast(seed, shift):
    p = shifted(forecasts(people=4, windows=15, seed=seed, missing=0.2), shift)
    table = score(p, Evaluation(bootstrap=20, seed=seed))
    by = {m: t.value.to_numpy() for m, t in table[table.kind != "window"].groupby("metric", sort=False)}
    assert (by["pinball_mgdl"] >= 0).all()
    assert (by["rmse_mgdl"] >= by["mae_mgdl"] - 1e-9).all() and (by["mae_mgdl"] >= np.abs(by["bias_mgdl"]) - 1e-9).all()
    for grid in GRIDS:
        assert (by[f"{grid}_ab_pct"] >= by[f"{grid}_a_pct"]).all()
        assert (by[f"{grid}_ab_pct"] + by[f"{grid}_de_pct"] <= 100 + 1e-9).all()
    assert (by["crps_quantile_mgdl"] >= 0).all() and (by["grmse_mgdl"] >= by["rmse_mgdl"] - 1e-9).all()
    assert (by["grmse_mgdl"] <= np.sqrt(2.5) * by["rmse_mgdl"] + 1e-9).all()
    assert (by["coverage_90_pct"] >= by["coverage_50_pct"]).all() and (by["width_90_mgdl"] >= by["width_50_mgdl"]).all()
    assert by["tir_error_pct"] == pytest.approx(by["tir_forecast_pct"] - by["tir_truth_pct"])
    shares = table[table.metric.str.contains("coverage|clarke|parkes|tir_truth|tir_forecast|sensitivity|precision|f1")]
    assert shares[["value", "low", "high"]].stack().between(0, 100).all()
    inside = table.dropna(subset=["low", "high"])
    assert (inside.low <= inside.high).all()


@pytest.mark.slow
@given(seeds)
@settings(max_examples=10)
def test_windows_may_come_in_any_order(seed):
    p = forecasts(people=4, windows=15, seed=seed)
    order = np.random.default_rng(seed).permutation(len(p))
    pd.testing.assert_frame_equal(
        score(p, Evaluation(bootstrap=30)),
        score(p.select(order), Evaluation(bootstrap=30)),
        rtol=1e-9,
        atol=1e-9,
    )


def test_names_of_people_change_nothing():
    p = forecasts(people=4, windows=20)
    renamed = replace(p, subject=np.char.add("z", np.char.replace(p.subject, "person-", "")))  # the order stays
    pd.testing.assert_frame_equal(score(p, Evaluation(bootstrap=30)), score(renamed, Evaluation(bootstrap=30)))
    values = score(
        replace(p, subject=np.char.add(np.char.mod("%d", 9 - np.unique(p.subject, return_inverse=True)[1]), p.subject)),
        Evaluation(bootstrap=2),
    )
    pd.testing.assert_series_equal(
        values.value, score(p, Evaluation(bootstrap=2)).value, rtol=1e-9
    )  # nor does the order, but for the draws


def test_cumulative_at_the_last_step_is_everything_and_at_the_first_the_step():
    p = forecasts()
    table = score(p, Evaluation(bootstrap=50))
    first = table[(table.horizon_min == 5) & (table.kind != "window")]
    step, cumulative = (
        first[first.kind == k].drop(columns="kind").reset_index(drop=True) for k in ("step", "cumulative")
    )
    pd.testing.assert_frame_equal(step, cumulative)
    for name, metric in metrics_of(p.levels).items():
        mean = np.nanmean(points_of(p, metric))
        assert value(table, name) == pytest.approx(np.sqrt(mean) if metric.root else mean)


def test_missing_truth_is_left_out_and_counted():
    p = forecasts(missing=0.2)
    table = score(p, Evaluation(bootstrap=2))
    filled = replace(p, quantiles=np.where(np.isnan(p.truth)[..., None], 600.0, p.quantiles), parts={})
    pd.testing.assert_frame_equal(
        table[table.kind != "window"], score(filled, Evaluation(bootstrap=2))[lambda t: t.kind != "window"]
    )  # what was forecast where nothing was measured changes nothing
    missing = int(np.isnan(p.truth).sum())
    assert missing > 0
    assert value(table, "rmse_mgdl", column="n_missing") == missing
    assert value(table, "rmse_mgdl", column="n_points") == p.truth.size - missing
    assert value(table, "rmse_mgdl", "step", horizon=60, column="n_points") == int((~np.isnan(p.truth[:, -1])).sum())


def test_scopes_are_scored_apart():
    p = forecasts()
    table = score(p, Evaluation(bootstrap=2))
    assert list(table.scope.unique()) == ["all", "id", "ood"]
    held_out = score(replace(p.select(p.scope == "ood"), scope=None), Evaluation(bootstrap=2))
    assert value(table, "rmse_mgdl", scope="ood") == value(held_out, "rmse_mgdl")
    assert value(table, "rmse_mgdl", scope="id", column="n_subjects") == 4


def test_fewer_than_three_people_give_no_interval():
    table = score(forecasts(), Evaluation(bootstrap=50))
    single = table[table.scope == "ood"]
    assert single.value.notna().any() and single[["low", "high"]].isna().all(axis=None)
    p = forecasts(people=5)
    known = np.isin(p.subject, ["person-0", "person-1"])[:, None]
    table = score(
        replace(p, truth=np.where(known, p.truth, np.nan)), Evaluation(bootstrap=50)
    )  # five people, two of them measured
    assert np.isnan(value(table, "rmse_mgdl", column="low")) and value(table, "rmse_mgdl", column="n_subjects") == 2


def test_nothing_measured_is_an_error():
    p = forecasts(people=1, windows=2)
    with pytest.raises(ValueError, match="no truth was measured in 2 windows"):
        score(replace(p, truth=np.full_like(p.truth, np.nan)))


def test_levels_without_pairs_are_scored_too():
    table = score(forecasts(levels=[0.5]), Evaluation(bootstrap=2))
    assert not table.metric.str.contains("coverage|width").any()


def test_bootstrap_is_the_plain_one():
    """The matrix product equals drawing people, joining their windows and scoring them."""
    p = forecasts(people=4, windows=10)
    people = SubjectBootstrap(p.subject, Evaluation(bootstrap=5, seed=3))
    times = np.random.default_rng(3).multinomial(4, [0.25] * 4, size=5)
    squared = points_of(p, METRICS["rmse_mgdl"])
    resampled = people.draws(*people.sum_count(squared), root=True)
    for r in range(5):
        rows = np.concatenate([np.flatnonzero(p.subject == f"person-{i}").repeat(times[r, i]) for i in range(4)])
        assert resampled[r] == pytest.approx(np.sqrt(np.nanmean(squared[rows], axis=0)))


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """30 people with their own bias: 90% intervals of the mean bias hold the population's in most of 200 studies."""
    rng = np.random.default_rng(0)
    subject = np.repeat(np.arange(30).astype(str), 5)
    hits = 0
    for seed in range(200):
        bias = np.repeat(rng.normal(4, 10, 30), 5)[:, None] + rng.normal(0, 3, (150, 1))
        people = SubjectBootstrap(subject, Evaluation(bootstrap=300, confidence=0.9, seed=seed))
        _, low, high = people.estimate(*people.sum_count(bias))
        hits += low[0] <= 4 <= high[0]
    assert 0.83 <= hits / 200 <= 0.96


def test_same_seed_same_intervals():
    p = forecasts()
    pd.testing.assert_frame_equal(
        score(p, Evaluation(bootstrap=40, seed=1)), score(p, Evaluation(bootstrap=40, seed=1))
    )
    assert value(score(p, Evaluation(bootstrap=40, seed=2)), "rmse_mgdl", column="low") != value(
        score(p, Evaluation(bootstrap=40, seed=1)), "rmse_mgdl", column="low"
    )


@pytest.mark.slow
def test_a_thousand_resamples_of_twenty_thousand_windows_take_seconds():
    p = forecasts(people=100, windows=200)
    began = time.perf_counter()
    score(p)
    assert time.perf_counter() - began < 20  # about 1.2 s on one core
