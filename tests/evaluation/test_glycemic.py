"""Costly errors, events, alarms and their lead, by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction_cases import forecasts

from raycadian.config import Evaluation
from raycadian.evaluation.forecast.glycemic import (
    EXCURSIONS,
    alarm_ratios,
    cost,
    false_alarms_per_day,
    forecast_event,
    has_event,
    in_range,
    measured_event,
    onset_min,
    onset_ratios,
)
from raycadian.evaluation.forecast.metrics import score

HYPO70 = EXCURSIONS[0]
glucose = st.floats(20, 600)


@pytest.mark.parametrize(
    "truth, forecast, weight",
    [
        (100, 200, 1), (100, 40, 1), (85, 200, 1), (155, 40, 1),  # between 85 and 155 mg/dL errors are errors
        (55, 65, 2.5), (40, 300, 2.5), (70, 80, 1.75), (70, 120, 1.75), (55, 60, 1.75),  # a low overestimated
        (55, 55, 1), (55, 40, 1), (70, 40, 1),  # a low underestimated
        (255, 235, 2), (400, 100, 2), (205, 185, 1.5), (255, 245, 1.5),  # a high underestimated
        (255, 255, 1), (255, 300, 1), (62.5, 72.5, 1 + 1.5 * 0.90625),  # xi a half: 0.5 + 0.5 - 0.125 + 0.03125
    ],
)  # fmt: skip
def test_cost_of_an_error(truth, forecast, weight):
    """Del Favero's function at its corners; its values on a grid of 3,355 points equal those of glupredkit 1.0.32 to
    1e-12."""
    assert cost(np.array(truth, float), np.array(forecast, float)) == pytest.approx(weight)


@given(glucose, glucose, st.floats(0, 50))
@settings(max_examples=200)
def test_cost_is_bounded_and_grows_with_the_error_on_its_side(truth, forecast, further):
    weight = cost(np.array(truth), np.array(forecast))
    assert 1 <= weight <= 2.5 and cost(np.array(truth), np.array(truth)) == 1
    beyond = forecast + (further if forecast >= truth else -further)
    assert cost(np.array(truth), np.array(beyond)) >= weight - 1e-12


def test_in_range_includes_both_ends():
    inside = in_range(np.array([69.9, 70, 120, 180, 180.1, np.nan]))
    assert np.array_equal(inside, [0, 1, 1, 1, 0, np.nan], equal_nan=True)


@pytest.mark.parametrize(
    "values, dt_min, expected",
    [
        ([69, 69, 69, 100], 5, True),
        ([69, 69, 100, 69], 5, False),  # ten minutes, then one more
        ([70, 70, 70, 70], 5, False),  # strictly below
        ([100, 69, 69, 69], 5, True),
        ([69, 100], 15, True),
        ([69, 69], 5, False),  # the horizon is shorter than an event
        ([69, 69, 69, 69, 69], 3, True),
        ([69, 69, 69, 69, 100], 3, False),
    ],
)
def test_events_last_fifteen_minutes(values, dt_min, expected):
    assert forecast_event(np.array(values, float), HYPO70, dt_min) == expected


def test_hyperglycaemia_is_above():
    assert forecast_event(np.array([181.0, 190, 200]), EXCURSIONS[2], 5)
    assert not forecast_event(np.array([180.0, 190, 200]), EXCURSIONS[2], 5)


def test_missing_points_leave_an_event_open_only_where_they_matter():
    nan = np.nan
    truth = np.array([
        [60, 60, 60, nan, 100, 100],  # an event, whatever was there
        [100, nan, 100, nan, 100, 100],  # none: single gaps can't hold 15 minutes
        [60, nan, 60, 100, 100, 100],  # open
        [nan, nan, nan, 100, 100, 100],  # open
    ])  # fmt: skip
    assert np.array_equal(measured_event(truth, HYPO70, 5.0), [1, 0, nan, nan], equal_nan=True)


@given(st.integers(0, 10_000))
@settings(max_examples=50)
def test_an_event_that_is_decided_is_so_for_every_filling(seed):
    rng = np.random.default_rng(seed)
    truth = rng.choice([60.0, 100.0, np.nan], size=(20, 8))
    events = measured_event(truth, HYPO70, 5.0)
    filled = np.where(np.isnan(truth), rng.choice([60.0, 100.0], size=truth.shape), truth)
    decided = ~np.isnan(events)
    assert np.array_equal(events[decided], has_event(filled < 70, 5.0)[decided])


def test_alarm_ratios_by_hand():
    actual = np.array([1, 1, 1, 0, 0, 0, 0, np.nan])
    alarm = np.array([1, 1, 0, 1, 0, 0, 0, 1], dtype=bool)
    result = {name: above.sum() / below.sum() for name, (above, below) in alarm_ratios(actual, alarm).items()}
    assert result == pytest.approx({"sensitivity_pct": 200 / 3, "precision_pct": 200 / 3, "f1_pct": 200 / 3})


def alarms(subject, minutes, actual, alarm):
    time = np.datetime64("2026-01-01", "s") + np.asarray(minutes, int) * 60
    alarms, days = false_alarms_per_day(np.array(subject), time, np.array(actual, float), np.array(alarm, bool))
    return alarms, days


def test_neighbouring_windows_are_one_alarm():
    #          one false alarm | a real one: the third window holds the event | after a pause, false
    alarm = [0, 1, 1, 1, 0, 0, 1, 1, 1, 0, 1]
    actual = [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]
    false, days = alarms(["a"] * 11, 15 * np.arange(11), actual, alarm)
    assert list(np.flatnonzero(false)) == [1, 10]
    assert days == pytest.approx(15 / 1440)
    assert false.sum() / days.sum() == pytest.approx(2 / (11 * 15 / 1440))


def test_alarms_of_two_people_or_across_a_gap_are_two():
    false, _ = alarms(["a", "a", "b", "b"], [0, 15, 30, 45], [0] * 4, [0, 1, 1, 0])
    assert false.sum() == 2
    false, _ = alarms(["a"] * 4, [0, 15, 60, 75], [0] * 4, [0, 1, 1, 0])
    assert false.sum() == 2


def test_alarms_that_nothing_judges_count_nowhere():
    false, days = alarms(["a"] * 3, [0, 15, 30], [np.nan, 0, 0], [1, 0, 0])
    assert false.sum() == 0 and days.sum() == pytest.approx(30 / 1440)
    false, days = alarms(["a", "b"], [0, 0], [0, 0], [1, 1])  # nobody has two windows: no rate
    assert np.isnan(days).all()


def test_events_in_the_score_equal_a_loop():
    p = forecasts(people=4, windows=200, missing=0.1)
    table = score(p, Evaluation(bootstrap=2)).set_index(["scope", "metric"]).loc["all"]
    for excursion in EXCURSIONS:
        hits = events = rings = 0
        for truth, median in zip(p.truth, p.median, strict=True):
            actual = measured_event(truth, excursion, 5.0)
            if np.isnan(actual):
                continue
            ring = bool(forecast_event(median, excursion, 5.0))
            hits, events, rings = hits + (ring and actual == 1), events + int(actual), rings + ring
        assert table.loc[f"{excursion.name}_sensitivity_pct", "n_windows"] == events
        for name, base in (("sensitivity", events), ("precision", rings)):
            result = table.loc[f"{excursion.name}_{name}_pct", "value"]
            assert result == pytest.approx(100 * hits / base) if base else np.isnan(result)
    assert table.loc["hypo70_sensitivity_pct", "n_windows"] > 0
    lower, middle = table.loc["hypo70_q5_sensitivity_pct", "value"], table.loc["hypo70_sensitivity_pct", "value"]
    assert lower >= middle  # the lower quantile raises every alarm of the median


def test_onset_is_the_first_moment_of_an_event_not_under_way():
    nan = np.nan
    truth = np.array([
        [100, 60, 60, 60, 60, 100],
        [60, 60, 60, 100, 100, 100],
        [60, 100, 60, 60, 60, 60],  # five minutes, a pause, then the event
        [100, 60, 60, 60, 60, 100],  # under way at the origin
        [100, 60, 60, 60, 60, 100],  # the origin is unknown
        [100, 100, 100, 100, 60, 60],  # too short
        [nan, nan, 60, 60, 60, nan],
    ], float)  # fmt: skip
    origin = np.array([100, 70, 100, 69, nan, 100, 100])
    onsets = onset_min(truth, origin, HYPO70, 5.0)
    assert np.array_equal(onsets, [10, 5, 15, nan, nan, nan, 15], equal_nan=True)
    assert np.isnan(onset_min(truth[:, :2], origin, HYPO70, 5.0)).all()


def test_lead_time_counts_from_the_first_alarm_and_each_event_once():
    nan = np.nan
    #  one event at minute 60 seen from 15, 30, 45; one at 150 (of a) without alarm; b: an alarm at once
    subject = np.array(["a"] * 6 + ["b"])
    minutes = np.array([0, 15, 30, 45, 120, 135, 30])
    onset = np.array([60, 45, 30, 15, 30, 15, 30.0])
    alarm = np.array([0, 1, 0, 1, 0, 0, 1], bool)
    shuffled = np.array([6, 3, 0, 5, 2, 1, 4])
    for order in (np.arange(7), shuffled):
        time = (np.datetime64("2026-01-01", "s") + minutes * 60)[order]
        ratios = onset_ratios(subject[order], time, onset[order], alarm[order])
        lead, first = ratios["lead_time_min"]
        assert first.sum() == 2 and sorted(lead[first > 0]) == [30, 45]
        hit, event = ratios["onset_sensitivity_pct"]
        assert hit.sum() / event.sum() == pytest.approx(300 / 7)
    none = onset_ratios(subject, np.datetime64("2026-01-01", "s") + minutes * 60, np.full(7, nan), alarm)
    assert all(below.sum() == 0 for _, below in none.values())


def test_lead_time_in_the_score_equals_a_loop():
    p = forecasts(people=4, windows=200, missing=0.05)
    table = score(p, Evaluation(bootstrap=2)).set_index(["scope", "metric"]).loc["all"]
    for excursion in EXCURSIONS:
        first: dict = {}
        hits = events = 0
        for w in range(len(p)):
            onset = onset_min(p.truth[w : w + 1], p.past[w : w + 1, -1], excursion, 5.0)[0]
            ring = bool(forecast_event(p.median[w], excursion, 5.0))
            if np.isnan(onset):
                continue
            hits, events = hits + ring, events + 1
            if ring:
                event = (p.subject[w], p.time_utc[w] + np.timedelta64(int(60 * onset), "s"))
                first[event] = max(first.get(event, 0), onset)
        assert table.loc[f"{excursion.name}_onset_sensitivity_pct", "value"] == pytest.approx(100 * hits / events)
        lead = table.loc[f"{excursion.name}_lead_time_min"]
        assert lead.n_windows == len(first) and lead.value == pytest.approx(np.mean(list(first.values())))
