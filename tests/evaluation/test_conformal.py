"""Adaptive conformal intervals: by hand, against a plain loop, and where the forecast is wrong in a way that
changes."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from prediction_cases import forecasts, shifted

from raycadian.evaluation.forecast.calibration import adaptive_conformal, coverage_by_horizon, coverage_by_subject


def covers(p, step=-1):
    return float(coverage_by_horizon(p).query("nominal_pct == 90").observed_pct.iloc[step])


def test_a_calibrated_forecast_stays_so_and_a_biased_one_is_mended():
    val, p = forecasts(people=20, windows=200, seed=1), forecasts(people=20, windows=200, seed=2)
    assert covers(adaptive_conformal(p, val)) == pytest.approx(90, abs=1.5)
    for change in (
        lambda q: shifted(q, 15),
        lambda q: replace(q, quantiles=q.median[..., None] + (q.quantiles - q.median[..., None]) / 3),
    ):
        wrong = change(p)
        assert covers(wrong) < 82
        assert covers(adaptive_conformal(wrong, change(val))) == pytest.approx(90, abs=2)


def test_it_adapts_to_what_validation_did_not_show():
    """Forecasts go wrong halfway: split conformal (step size 0) stays off, the adaptive one comes back."""
    val, p = forecasts(people=6, windows=600, seed=1, missing=0), forecasts(people=6, windows=600, seed=2, missing=0)
    late = np.tile(np.arange(600) >= 200, 6)
    wrong = replace(p, quantiles=p.quantiles + 12 * late[:, None, None], parts={})
    fixed, adapted = (adaptive_conformal(wrong, val, step_size=s).select(late) for s in (0.0, 0.02))
    assert covers(fixed) < 85 < 88 < covers(adapted) < 92


def _score(p, i, h):
    return max(p.quantiles[i, h, 0] - p.truth[i, h], p.truth[i, h] - p.quantiles[i, h, -1])


def _plain(p, val, miss, gamma):
    """Window by window, step by step, looking back over everything known: the definition."""
    out = np.zeros((len(p), p.truth.shape[1], 2))
    for w in range(len(p)):
        for h in range(p.truth.shape[1]):
            scores = [_score(val, i, h) for i in range(len(val)) if not np.isnan(val.truth[i, h])]
            alpha = miss
            mine = [i for i in np.argsort(p.time_utc, kind="stable") if p.subject[i] == p.subject[w]]
            for i in mine:
                known = p.time_utc[i] + np.timedelta64(int(60 * p.dt_min * (h + 1)), "s") <= p.time_utc[w]
                if known and not np.isnan(p.truth[i, h]):
                    alpha += gamma * (miss - float(not out[i, h, 0] <= p.truth[i, h] <= out[i, h, 1]))
                    scores.append(_score(p, i, h))
            ordered = sorted(scores)
            widen = ordered[min(max(int(np.ceil((len(ordered) + 1) * (1 - alpha))), 1), len(ordered)) - 1]
            out[w, h] = p.quantiles[w, h, 0] - widen, p.quantiles[w, h, -1] + widen
    return out


def test_equal_to_the_definition_in_any_order():
    val = forecasts(people=2, windows=15, steps=4, seed=3, missing=0.1)
    p = shifted(forecasts(people=2, windows=25, steps=4, seed=4, missing=0.2), 9)
    adapted = adaptive_conformal(p, val, step_size=0.05)
    assert adapted.quantiles[..., [0, 2]] == pytest.approx(_plain(p, val, 0.1, 0.05))
    order = np.random.default_rng(0).permutation(len(p))
    assert adaptive_conformal(p.select(order), val, step_size=0.05).quantiles == pytest.approx(adapted.quantiles[order])
    assert list(adapted.levels) == [0.05, 0.5, 0.95] and np.array_equal(adapted.median, p.median)


def test_the_future_changes_nothing():
    """Feedback is delayed by the horizon: truth that is measured after an origin has no say in its interval."""
    val, p = forecasts(people=3, windows=40, seed=1), forecasts(people=1, windows=60, seed=2, missing=0)
    truth = p.truth.copy()
    moment = (p.time_utc - p.time_utc[30]).astype(int)[:, None] / 60 + p.horizon_min
    truth[moment > 0] += 300
    one, other = (
        adaptive_conformal(p, val, step_size=0.05),
        adaptive_conformal(replace(p, truth=truth), val, step_size=0.05),
    )
    assert np.array_equal(one.quantiles[:31], other.quantiles[:31])
    assert not np.array_equal(one.quantiles[31:], other.quantiles[31:])


def test_what_is_refused():
    p = forecasts(people=2, windows=5)
    with pytest.raises(ValueError, match="bound no central 80% interval.*0.1 and 0.9"):
        adaptive_conformal(p, p, coverage=0.8)
    with pytest.raises(ValueError, match="no truth was measured 5, 10"):
        adaptive_conformal(p, replace(p, truth=np.full_like(p.truth, np.nan)))


def test_coverage_by_subject_by_hand():
    p = forecasts(people=2, windows=10, steps=3, missing=0.2)
    table = coverage_by_subject(p)
    assert list(table.columns) == ["subject", "horizon_min", "nominal", "observed", "n"] and len(table) == 2 * 3 * 2
    for row in table.itertuples():
        mine, h = p.subject == row.subject, int(row.horizon_min / 5) - 1
        low, high = (0, 4) if row.nominal == 0.9 else (1, 3)
        y, q = p.truth[mine, h], p.quantiles[mine, h]
        seen = ~np.isnan(y)
        assert row.n == seen.sum()
        assert row.observed == pytest.approx(((y >= q[:, low]) & (y <= q[:, high]))[seen].mean())
    assert coverage_by_subject(forecasts(levels=[0.5])).empty
    weighted = table.query("nominal == 0.9 and horizon_min == 15")
    pooled = coverage_by_horizon(p).query("nominal_pct == 90").observed_pct.iloc[-1]
    assert 100 * np.average(weighted.observed, weights=weighted.n) == pytest.approx(pooled)
    assert isinstance(table, pd.DataFrame)
