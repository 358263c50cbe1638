"""Metrics against scikit-learn, Clarke zones against published corners, intervals and leaderboards by their properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, mean_pinball_loss, root_mean_squared_error

from raycadian.evaluation import compare, metrics, report
from raycadian.evaluation.calibration import pit, reliability
from raycadian.evaluation.glycemic import clarke_zones, has_event, in_range
from raycadian.evaluation.predictions import Predictions

LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])


def predictions(seed=0, people=6, windows=40, steps=12, noise=15.0, missing=0.1):
    rng = np.random.default_rng(seed)
    n = people * windows
    truth = rng.uniform(50, 320, (n, 1)) + rng.normal(0, 8, (n, steps)).cumsum(1)
    truth = np.clip(truth, 40, 400)
    median = truth + rng.normal(0, noise, (n, steps))
    quantiles = median[..., None] + noise * np.array([-1.645, -0.674, 0, 0.674, 1.645])
    truth = np.where(rng.random((n, steps)) < missing, np.nan, truth)
    times = np.datetime64("2026-01-05T00:00", "s") + np.arange(n) * np.timedelta64(900, "s")
    return Predictions(
        subject=np.repeat([f"p{i}" for i in range(people)], windows), time_utc=times, local_h=np.arange(n) / 4 % 24,
        truth=truth, quantiles=quantiles, levels=LEVELS, parts={"mechanism": median - 3, "correction": median * 0 + 3},
        scope=np.repeat(["id"] * (people - 2) + ["ood"] * 2, windows), past=truth[:, :6],
    )  # fmt: skip


def value(table, metric, kind="cumulative", scope="all", horizon=60):
    row = table[(table.metric == metric) & (table.kind == kind) & (table.scope == scope) & (table.horizon_min == horizon)]
    assert len(row) == 1
    return row.iloc[0]


def test_scores_agree_with_scikit_learn():
    p = predictions()
    table = metrics.score(p, bootstrap=10)
    seen = ~np.isnan(p.truth)
    truth, median = p.truth[seen], p.median[seen]
    assert value(table, "rmse_mgdl").value == pytest.approx(root_mean_squared_error(truth, median))
    assert value(table, "mae_mgdl").value == pytest.approx(mean_absolute_error(truth, median))
    pinball = np.mean([mean_pinball_loss(truth, p.quantiles[..., i][seen], alpha=q) for i, q in enumerate(LEVELS)])
    assert value(table, "pinball_mgdl").value == pytest.approx(pinball)
    at30 = ~np.isnan(p.truth[:, 5])
    found = value(table, "rmse_mgdl", "step", "ood", 30)
    at30 &= p.scope == "ood"
    assert found.value == pytest.approx(root_mean_squared_error(p.truth[at30, 5], p.median[at30, 5]))
    assert found.n_points == at30.sum()
    assert found.n_subjects == 2
    assert np.isnan(found.low)  # two people give no interval


def test_mard_weighs_people_and_mape_points():
    p = predictions().select(np.r_[0:40, 40:45])  # 40 windows of one person, 5 of another
    table = metrics.score(p, bootstrap=5)
    relative = 100 * np.abs(p.median - p.truth) / p.truth
    own = [np.nanmean(relative[p.subject == s]) for s in ("p0", "p1")]
    assert value(table, "mard_pct").value == pytest.approx(np.mean(own))
    assert value(table, "mape_pct").value == pytest.approx(np.nanmean(relative))


def test_a_perfect_forecast_scores_perfectly():
    p = predictions(noise=1e-9, missing=0)
    table = metrics.score(p, bootstrap=5)
    for metric in ("rmse_mgdl", "mae_mgdl", "mape_pct", "pinball_mgdl", "tir_error_pct"):
        assert value(table, metric).value == pytest.approx(0, abs=1e-6), metric
    assert value(table, "clarke_a_pct").value == 100


@given(st.integers(0, 50))
@settings(max_examples=15)
def test_properties_of_every_table(seed):
    p = predictions(seed, people=4, windows=10)
    table = metrics.score(p, bootstrap=50)
    percent = table[table.metric.str.startswith(("coverage", "clarke"))]
    assert percent.value.between(0, 100).all()
    assert (table[table.metric == "pinball_mgdl"].value >= 0).all()
    bounded = table.dropna(subset=["low"])
    assert (bounded.low <= bounded.high + 1e-12).all()
    order = np.random.default_rng(seed).permutation(len(p))
    shuffled = metrics.score(p.select(order), bootstrap=50)
    assert np.allclose(table.value, shuffled.value, equal_nan=True)
    assert np.allclose(table.low, shuffled.low, equal_nan=True)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """95% intervals over people for the mean error of a population whose mean is known."""
    rng, hits = np.random.default_rng(0), 0
    for trial in range(100):
        bias = rng.normal(0, 10, 40)  # each person has an own bias; the population's mean is 0
        error = np.repeat(bias, 5)[:, None] + rng.normal(0, 1, (200, 1))
        boot = metrics._Bootstrap(np.repeat(np.arange(40), 5), 400, 0.95, trial)
        _, low, high = boot.ratio(*boot.sums(error))
        hits += bool(low[0] <= 0 <= high[0])
    assert 86 <= hits <= 100


def test_clarke_zones():
    """Points read off the grid of Clarke et al. 1987, one inside each region."""
    points = {
        "A": [(100, 100), (60, 50), (200, 239), (250, 201), (70, 70)],
        "B": [(100, 130), (200, 150), (300, 200), (150, 110), (120, 200)],
        "C": [(100, 215), (250, 365), (160, 20), (178, 40)],
        "D": [(50, 100), (260, 100), (300, 175), (65, 120)],
        "E": [(50, 200), (200, 50), (65, 250), (300, 60)],
    }
    for zone, found in points.items():
        for reference, predicted in found:
            assert clarke_zones(np.array(reference), np.array(predicted)) == zone, (reference, predicted)
    assert clarke_zones(np.array([np.nan]), np.array([100.0]))[0] == ""


@given(st.floats(20, 600), st.floats(20, 600))
def test_every_point_has_a_zone_and_a_correct_forecast_is_in_a(reference, predicted):
    assert clarke_zones(np.array(reference), np.array(predicted)) in list("ABCDE")
    assert clarke_zones(np.array(reference), np.array(reference)) == "A"


def test_events_last_fifteen_minutes():
    glucose = np.array([[80, 69, 69, 69, 80], [69, 69, 80, 69, 69], [69, np.nan, 69, 69, 80], [60, 60, 60, 60, 60]])
    assert has_event(glucose, 70, 5, above=False).tolist() == [True, False, False, True]
    assert has_event(glucose, 70, 15, above=False).tolist() == [True, True, True, True]
    assert np.array_equal(in_range(np.array([70, 180, 69.9, 180.1, np.nan])), [1, 1, 0, 0, np.nan], equal_nan=True)


def test_sensitivity_and_precision_of_planted_events():
    p = predictions(people=4, windows=5, missing=0)
    truth, quantiles = np.full_like(p.truth, 100.0), np.full_like(p.quantiles, 100.0)
    truth[:8] = 60  # eight events
    quantiles[4:10] = 60  # six alarms, four of them right
    changed = Predictions(**{**vars(p), "truth": truth, "quantiles": quantiles})
    table = metrics.score(changed, bootstrap=5)
    assert value(table, "hypo70_sensitivity_pct", "window").value == 50
    assert value(table, "hypo70_precision_pct", "window").value == pytest.approx(400 / 6)


def test_the_leaderboard_is_paired():
    good = predictions()
    worse = Predictions(**{**vars(good), "quantiles": good.quantiles + 12})
    board = compare.leaderboard({"worse": worse, "good": good, "same": good}, bootstrap=200)
    assert list(board.model)[-1] == "worse"
    assert board.verdict.iloc[0] == "lowest"
    assert board.set_index("model").verdict["worse"] == "worse"
    twin = board[board.model.isin(["good", "same"])]
    assert (twin.difference == 0).all()
    assert set(twin.verdict) == {"lowest", "no difference shown"}


def test_other_windows_are_refused_by_name():
    p = predictions()
    shifted = Predictions(**{**vars(p), "time_utc": p.time_utc + np.timedelta64(300, "s")})
    with pytest.raises(ValueError, match="window 0 is p0"):
        compare.leaderboard({"a": p, "b": shifted})
    with pytest.raises(ValueError, match="windows, the first model"):
        compare.leaderboard({"a": p, "b": p.select(np.arange(3))})


def test_reliability_of_calibrated_quantiles():
    found = reliability(predictions(people=40, windows=50, missing=0))
    assert np.abs(found.observed - found.level).max() < 0.02
    edges, share = pit(predictions(missing=0))
    assert share.sum() == pytest.approx(1)
    assert len(edges) == len(share) + 1


def test_predictions_survive_parquet(tmp_path):
    p = predictions()
    p.write_parquet(tmp_path / "p.parquet")
    back = Predictions.read_parquet(tmp_path / "p.parquet")
    for name in ("subject", "time_utc", "local_h", "truth", "quantiles", "levels", "scope", "past"):
        assert np.array_equal(getattr(back, name), getattr(p, name), equal_nan=getattr(p, name).dtype.kind == "f"), name
    assert np.array_equal(back.parts["mechanism"], p.parts["mechanism"])
    assert [f.name for f in tmp_path.iterdir()] == ["p.parquet"]


def test_files_that_hold_no_predictions(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"not parquet")
    with pytest.raises(ValueError, match="not readable as predictions"):
        Predictions.read_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="expected shape"):
        Predictions(**{**vars(predictions()), "local_h": np.zeros(3)})


@pytest.fixture(scope="module")
def report_path(tmp_path_factory):
    p = predictions()
    named = {"residual-ttm": p, "<ridge>": Predictions(**{**vars(p), "quantiles": p.quantiles + 5, "parts": {}})}
    return report.write_report(
        tmp_path_factory.mktemp("report"), title="A & B", subtitle="test", leaderboard=compare.leaderboard(named, bootstrap=50),
        predictions=named, insights=[{"subject": "p0", "d": "0.10: aligned", "note": "not a diagnosis"}],
        metadata={"seed": 1, "training": {"engine": "in-process"}},
    )  # fmt: skip


def test_the_report_says_what_it_must(report_path):
    text = report_path.read_text(encoding="utf-8")
    for words in ("not a diagnosis", "A &amp; B", "Clarke", "coverage", "&lt;ridge&gt;", "pooled", "mechanism alone"):
        assert words in text, words
    assert "<ridge>" not in text
    assert "http://" not in text.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_the_report_opens_offline_in_a_browser(report_path, browser):
    page = browser.new_page(viewport={"width": 1000, "height": 800})
    asked, errors = [], []
    page.on("request", lambda r: asked.append(r.url))
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.goto(report_path.as_uri())
    assert page.locator("figure svg").count() >= 5
    assert page.locator("table").count() >= 3
    assert page.locator("h1").inner_text() == "A & B"
    assert all(url.startswith(("file:", "data:")) for url in asked)
    assert not errors
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 1000  # wide tables scroll inside their own box
    page.close()
