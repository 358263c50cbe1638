"""The leaderboard: only identical windows, paired intervals, and words that say no more than they allow."""

from dataclasses import replace

import numpy as np
import pytest
from prediction_cases import forecasts, perfect, shifted
from sklearn.metrics import root_mean_squared_error

from raycadian.config import Evaluation
from raycadian.evaluation.forecast.compare import differences, judge, leaderboard, rank_models
from raycadian.evaluation.forecast.metrics import score
from raycadian.evaluation.forecast.predictions import Predictions
from raycadian.evaluation.forecast.significance import holm
from raycadian.evaluation.leaderboard import verdict


def rows(board):
    return board.set_index("model")


def test_ranked_by_the_metric_with_the_scores_own_values_and_intervals():
    p = forecasts()
    board = rows(
        leaderboard({"off": shifted(p, 15), "good": p, "ideal": perfect(p)}, Evaluation(bootstrap=200, seed=4))
    )
    assert list(board.index) == ["ideal", "good", "off"]
    table = score(p, Evaluation(bootstrap=200, seed=4))
    whole = table[(table.scope == "all") & (table.kind == "cumulative") & (table.horizon_min == 60)].set_index("metric")
    good = board.loc["good"]
    for column in ("rmse_mgdl", "mae_mgdl", "mard_pct", "bias_mgdl", "pinball_mgdl", "clarke_a_pct", "coverage_90_pct"):
        assert good[column] == pytest.approx(whole.loc[column, "value"]), column
    assert (good.low, good.high) == pytest.approx((whole.loc["rmse_mgdl", "low"], whole.loc["rmse_mgdl", "high"]))
    seen = ~np.isnan(p.truth[:, 5])
    assert good.rmse_mgdl_at_30min == pytest.approx(root_mean_squared_error(p.truth[seen, 5], p.median[seen, 5]))
    assert "rmse_mgdl_at_120min" not in board
    assert good.n_subjects == 5 and good.n_windows == 300


def test_differences_are_paired():
    """Everyone is worse by about the same: the paired interval is far narrower than either model's own."""
    rng = np.random.default_rng(0)
    p = forecasts(people=12)
    hard = np.repeat(rng.uniform(0, 80, 12), 60)[:, None]  # people differ much in how hard they are
    one = replace(p, quantiles=p.quantiles + hard[..., None], parts={})
    board = rows(leaderboard({"one": one, "two": shifted(one, 4)}))
    two = board.loc["two"]
    assert two.verdict == "worse" and two.diff_low > 0
    assert two.diff_high - two.diff_low < (two.high - two.low) / 5
    assert two.difference == pytest.approx(two.rmse_mgdl - board.loc["one", "rmse_mgdl"])
    assert board.loc["one", "verdict"] == "best" and board.loc["one", "difference"] == 0


def test_noise_is_called_noise():
    p = forecasts(people=8)
    rng = np.random.default_rng(1)
    noise = {n: replace(p, quantiles=p.quantiles + rng.normal(0, 5, (len(p), 12, 1)), parts={}) for n in "ab"}
    assert sorted(leaderboard(noise).verdict) == ["best", "no difference shown"]


def test_a_reference_may_be_named_and_beaten():
    p = forecasts()
    named = {"base": shifted(p, 10), "better": p, "worse": shifted(p, 40)}
    board = rows(leaderboard(named, reference="base", evaluation=Evaluation(bootstrap=200)))
    assert board.verdict.to_dict() == {"base": "reference", "better": "better", "worse": "worse"}
    assert board.loc["better", "difference"] < 0


def test_higher_is_better_where_it_is():
    p = forecasts()
    board = leaderboard(
        {"off": shifted(p, 40), "good": p},
        metric="clarke_a_pct",
        horizons=(5, 60),
        evaluation=Evaluation(bootstrap=200),
    )
    assert list(board.model) == ["good", "off"] and list(board.verdict) == ["best", "worse"]
    assert board.difference[1] < 0 and {"clarke_a_pct_at_5min", "clarke_a_pct_at_60min", "rmse_mgdl"} <= set(board)
    assert (
        verdict(1, 2, "high") == "better"
        and verdict(1, 2, "low") == "worse"
        and verdict(0, 0, "low") == "no difference shown"
    )


def test_too_few_people_get_no_verdict():
    p = forecasts(people=2)
    board = leaderboard({"a": p, "b": shifted(p, 30)})
    assert list(board.verdict) == ["best", "too few people"]
    assert board[["low", "high", "diff_low", "diff_high"]].isna().all(axis=None)


def test_order_of_models_and_windows_changes_nothing():
    p = forecasts()
    named = {"a": p, "b": shifted(p, 5)}
    order = np.random.default_rng(0).permutation(len(p))
    other = leaderboard({n: named[n].select(order) for n in ("b", "a")}, Evaluation(bootstrap=100))
    mine = leaderboard(named, Evaluation(bootstrap=100))
    assert list(mine.model) == list(other.model)
    numbers = mine.select_dtypes("number")
    assert numbers.to_numpy() == pytest.approx(other[numbers.columns].to_numpy())


def _truth(p: Predictions, i: int, value: float) -> Predictions:
    truth = p.truth.copy()
    truth[i, 3] = value
    return replace(p, truth=truth)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda p: p.select(np.arange(299)), "b: windows 299, expected 300"),
        (lambda p: _truth(p, 17, 111.0), "1 of 300 windows differ, the first is window 17: found person-0"),
        (lambda p: _truth(p, 17, np.nan), "window 17"),
        (
            lambda p: replace(p, time_utc=p.time_utc + (np.arange(300) == 5)),
            "window 5: found person-0 at 2026-01-05T01:15:01",
        ),
        (lambda p: replace(p, subject=np.where(np.arange(300) == 9, "x", p.subject)), "window 9: found x at"),
        (lambda p: replace(p, dt_min=15.0), "minutes a step 15.0, expected 5.0"),
        (lambda p: forecasts(missing=0, steps=6), "steps 6, expected 12"),
        (lambda p: forecasts(missing=0, levels=[0.1, 0.5, 0.9]), "quantile levels"),
    ],
)  # fmt: skip
def test_only_identical_windows_compare(change, message):
    p = forecasts(missing=0)
    with pytest.raises(ValueError, match=message):
        leaderboard({"a": p, "b": change(p)})


def test_same_gaps_in_the_truth_are_the_same_truth():
    p = forecasts(missing=0.3)
    assert len(leaderboard({"a": p, "b": shifted(p, 1)}, Evaluation(bootstrap=10))) == 2


def test_wrong_requests():
    p = forecasts()
    with pytest.raises(ValueError, match=r"bias_mgdl: models can't be ranked by it; choose one of rmse_mgdl"):
        leaderboard({"a": p}, metric="bias_mgdl")
    with pytest.raises(ValueError, match="c: no such model to compare with; choose one of a"):
        leaderboard({"a": p}, reference="c")
    with pytest.raises(ValueError, match="nothing to compare: name"):
        leaderboard({})
    with pytest.raises(ValueError, match="no truth was measured"):
        leaderboard({"a": replace(p, truth=np.full_like(p.truth, np.nan))})


def test_differences_say_what_is_better_and_what_is_noise():
    p = forecasts(people=12, windows=80)
    rng = np.random.default_rng(1)
    noisy = replace(p, quantiles=p.quantiles + rng.normal(0, 4, (len(p), 1, 1)), parts={})
    named = {"off": shifted(p, 12), "twin": noisy, "good": p}
    table = differences(named, Evaluation(bootstrap=300)).set_index(["model", "other", "kind"])
    whole = table.xs("cumulative", level="kind")
    board = rows(leaderboard(named, Evaluation(bootstrap=300)))
    far = whole.loc[("good", "off")]
    assert far.difference == pytest.approx(-board.loc["off", "difference"])
    assert (-far.diff_high, -far.diff_low) == pytest.approx(
        (board.loc["off", "diff_low"], board.loc["off", "diff_high"])
    )
    assert far.relative_pct == pytest.approx(100 * far.difference / board.loc["off", "rmse_mgdl"])
    assert far.verdict == "better" and far.p_holm >= far.p
    for _, family in table.groupby("kind"):  # the whole horizon is corrected for itself
        assert family.p_holm.to_numpy() == pytest.approx(holm(family.p.to_numpy()))
    assert far.sentence.startswith(f"good is better than off by {-far.difference:.2f} mg/dL")
    assert set(table.index.get_level_values("kind")) == {"cumulative", "step"} and len(table) == 9


def test_noise_has_no_winner_and_people_of_one_kind_prove_nothing_about_others():
    p = forecasts(people=8)
    rng = np.random.default_rng(2)
    noise = {n: replace(p, quantiles=p.quantiles + rng.normal(0, 5, (len(p), 12, 1)), parts={}) for n in "ab"}
    assert set(differences(noise, Evaluation(bootstrap=200)).verdict) == {"no difference shown"}
    helped = np.isin(p.subject, ["person-0", "person-1"])[:, None, None]  # much better for two, a little worse for six
    mixed = replace(p, quantiles=np.where(helped, p.quantiles, p.quantiles + 3.0), parts={})
    base = replace(p, quantiles=np.where(helped, p.quantiles + 25.0, p.quantiles), parts={})
    row = differences({"mixed": mixed, "base": base}, horizons=(), evaluation=Evaluation(bootstrap=500)).iloc[0]
    assert (
        row.model == "mixed" and row.verdict == "better for these people" and "other people may differ" in row.sentence
    )


def test_the_same_forecasts_are_no_test():
    p = forecasts()
    table = differences({"a": p, "b": p, "c": shifted(p, 20)}, horizons=(), reference="a").set_index("other")
    assert set(table.index) == {"b", "c"}  # each against a, not one another
    assert table.loc["b", "verdict"] == "the same" and np.isnan(table.loc["b", "p_holm"])
    assert table.loc["b", "sentence"] == "a and b score the same over the whole horizon."
    assert table.loc["c", "p_holm"] == table.loc["c", "p"]


def test_judge_asks_interval_and_test():
    assert judge(-2, -1, 0.01) == judge(1, 2, 0.01) == "better"
    assert judge(-2, 1, 0.01) == "better for these people"
    assert judge(-2, -1, 0.2) == "no difference shown"
    assert judge(np.nan, np.nan, 0.01) == "too few people" and judge(-2, -1, np.nan) == "too few windows"


def test_ranks_over_people_count_who_is_served_best():
    p = forecasts(people=6)
    ranking = rank_models({"off": shifted(p, 30), "good": p, "ideal": perfect(p)})
    assert ranking.mean == {"off": 3.0, "good": 2.0, "ideal": 1.0} and ranking.n_subjects == 6
    assert ranking.p < 0.05 and ranking.groups() == [["ideal", "good"], ["good", "off"]]
    assert rank_models({"off": shifted(p, 30), "good": p}, "clarke_a_pct").mean["good"] == 1.0


def test_one_model_has_no_pairs():
    assert len(differences({"a": forecasts()}, Evaluation(bootstrap=10))) == 0
