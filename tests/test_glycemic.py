"""Clarke zones against independent implementations, events and alarms by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction_cases import forecasts

from raycadian.evaluation.glycemic import (
    EXCURSIONS,
    alarm_ratios,
    clarke_zones,
    false_alarms_per_day,
    forecast_event,
    has_event,
    in_range,
    measured_event,
)
from raycadian.evaluation.metrics import score

HYPO70 = EXCURSIONS[0]
glucose = st.floats(20, 600)


@pytest.mark.parametrize(
    "reference, predicted, zone",
    [
        (100, 100, "A"), (100, 120, "A"), (100, 80, "A"), (60, 40, "A"), (70, 70, "A"), (300, 359, "A"),
        (100, 121, "B"), (100, 79, "B"), (200, 290, "B"), (300, 200, "B"), (350, 479, "B"),
        (150, 261, "C"), (71, 182, "C"), (160, 40, "C"), (180, 69.9, "E"), (140, 10, "C"),
        (50, 100, "D"), (65, 90, "D"), (250, 100, "D"), (240, 180, "D"), (300, 70.1, "D"),
        (50, 200, "E"), (70, 180, "E"), (200, 60, "E"), (300, 70, "E"),
        (np.nan, 100, ""), (100, np.nan, ""),
    ],
)  # fmt: skip
def test_clarke_zone_of_a_point(reference, predicted, zone):
    assert clarke_zones(reference, predicted) == zone


def test_clarke_zones_of_a_dense_grid_equal_those_of_two_other_implementations():
    """Counts on 23,104 points by the packages error-grids 0.1.0 and clarke-error-grid 0.1.4, which agree point by point."""
    reference, predicted = np.meshgrid(np.arange(20.5, 400, 2.5), np.arange(20.5, 400, 2.5))
    zones = clarke_zones(reference, predicted)
    assert {z: int((zones == z).sum()) for z in "ABCDE"} == {"A": 4949, "B": 6895, "C": 4057, "D": 3683, "E": 3520}


def _clarke_one_by_one(r: float, p: float) -> str:
    """The published conditions, one branch after the other."""
    if (r <= 70 and p <= 70) or abs(p - r) <= 0.2 * r:
        return "A"
    if (r >= 180 and p <= 70) or (r <= 70 and p >= 180):
        return "E"
    if (70 <= r <= 290 and p >= r + 110) or (130 <= r <= 180 and p <= 7 / 5 * r - 182):
        return "C"
    if (r >= 240 and 70 <= p <= 180) or (r <= 175 / 3 and 70 <= p <= 180) or (175 / 3 <= r <= 70 and p >= 1.2 * r):
        return "D"
    return "B"


@given(glucose, glucose)
@settings(max_examples=300, deadline=None)
def test_clarke_zones_partition_the_plane(reference, predicted):
    assert clarke_zones(reference, predicted) == _clarke_one_by_one(reference, predicted)


@given(glucose, st.floats(-0.199, 0.199))
@settings(max_examples=100, deadline=None)
def test_within_a_fifth_is_zone_a(reference, relative):
    assert clarke_zones(reference, reference * (1 + relative)) == "A"


def test_in_range_includes_both_ends():
    found = in_range(np.array([69.9, 70, 120, 180, 180.1, np.nan]))
    assert np.array_equal(found, [0, 1, 1, 1, 0, np.nan], equal_nan=True)


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
@settings(max_examples=50, deadline=None)
def test_an_event_that_is_decided_is_so_for_every_filling(seed):
    rng = np.random.default_rng(seed)
    truth = rng.choice([60.0, 100.0, np.nan], size=(20, 8))
    found = measured_event(truth, HYPO70, 5.0)
    filled = np.where(np.isnan(truth), rng.choice([60.0, 100.0], size=truth.shape), truth)
    decided = ~np.isnan(found)
    assert np.array_equal(found[decided], has_event(filled < 70, 5.0)[decided])


def test_alarm_ratios_by_hand():
    actual = np.array([1, 1, 1, 0, 0, 0, 0, np.nan])
    alarm = np.array([1, 1, 0, 1, 0, 0, 0, 1], dtype=bool)
    found = {name: above.sum() / below.sum() for name, (above, below) in alarm_ratios(actual, alarm).items()}
    assert found == pytest.approx({"sensitivity_pct": 200 / 3, "precision_pct": 200 / 3, "f1_pct": 200 / 3})


def alarms(subject, minutes, actual, alarm):
    time = np.datetime64("2026-01-01", "s") + np.asarray(minutes, int) * 60
    found, days = false_alarms_per_day(np.array(subject), time, np.array(actual, float), np.array(alarm, bool))
    return found, days


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
    table = score(p, bootstrap=2).set_index(["scope", "metric"]).loc["all"]
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
            found = table.loc[f"{excursion.name}_{name}_pct", "value"]
            assert found == pytest.approx(100 * hits / base) if base else np.isnan(found)
    assert table.loc["hypo70_sensitivity_pct", "n_windows"] > 0
    lower, middle = table.loc["hypo70_q5_sensitivity_pct", "value"], table.loc["hypo70_sensitivity_pct", "value"]
    assert lower >= middle  # the lower quantile raises every alarm of the median
