"""Gridding: even spacing, honest gaps, conserved amounts; whatever the readings look like."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from raycadian.config import Grid
from raycadian.data.grid import extents, owners, to_recordings
from raycadian.types import BASAL, BOLUS, CARBS, GLUCOSE, TIME_UTC, Issues, Readings

T0 = int(pd.Timestamp("2024-03-01 08:00:30").timestamp())
GRID = Grid(dt_min=5, gap_min=45, interpolate_min=20, min_points=1)


def make(minutes, values=None, offset_min=0, events=(), subject="a"):
    """Readings at minutes after T0; events are (minute, kind, value)."""
    time_s = (T0 + np.asarray(minutes, dtype=np.float64) * 60).astype("int64")
    values = 100.0 + np.arange(len(time_s)) if values is None else np.asarray(values, dtype=np.float64)
    glucose = pd.DataFrame({TIME_UTC: time_s.astype("datetime64[s]").astype("datetime64[ns]"), GLUCOSE: values})
    glucose["utc_offset_min"] = offset_min
    at = np.array([T0 + int(m * 60) for m, _, _ in events], dtype="int64").astype("datetime64[s]")
    table = {TIME_UTC: at.astype("datetime64[ns]"), "kind": [k for _, k, _ in events], "value": [v for *_, v in events]}
    return Readings(subject, glucose, pd.DataFrame(table))


def grid_one(minutes, values=None, grid=GRID, **more):
    (recording,) = to_recordings(make(minutes, values, **more), grid, Issues())
    return recording


def test_readings_on_the_grid_are_kept_exactly():
    r = grid_one([0, 5, 10, 15], [100, 110, 90, 95])
    assert r.channels[GLUCOSE].tolist() == [100, 110, 90, 95]
    assert r.channels[GLUCOSE].dtype == np.float32
    assert r.observed.all() and r.observed.dtype == bool
    assert r.start_utc == np.datetime64("2024-03-01T08:00:30") and r.dt_s == 300.0 and r.utc_offset_min == 0
    assert r.events is None and set(r.channels) == {GLUCOSE}


def test_short_gaps_are_interpolated_long_ones_stay_missing():
    r = grid_one([0, 20, 45, 50], [100, 140, 100, 105])  # 20 min is filled, 25 min is not
    expected = [100, 110, 120, 130, 140, np.nan, np.nan, np.nan, np.nan, 100, 105]
    np.testing.assert_array_equal(r.channels[GLUCOSE], np.float32(expected))
    assert np.flatnonzero(r.observed).tolist() == [0, 4, 9, 10]


def test_points_near_a_reading_at_a_long_gap_take_that_reading():
    r = grid_one([0, 6, 39, 45], [100, 106, 139, 145])  # 33-min gap; readings 1 min from grid points 5 and 40
    np.testing.assert_allclose(r.channels[GLUCOSE][:3], [100, 106, np.nan])
    assert r.channels[GLUCOSE][8] == 139 and r.observed[8]
    assert np.isnan(r.channels[GLUCOSE][2:8]).all() and not r.observed[2:8].any()
    late = grid_one([0, 4, 38], [100, 104, 138])  # 5 lies in the gap, 1 min after the reading at 4
    assert late.channels[GLUCOSE][1] == 104 and late.observed[1]


def test_a_measured_point_does_not_lean_on_the_reading_after_a_short_gap():
    r = grid_one([0, 9, 24, 30], [100, 109, 400, 400])  # 10 is 1 min after the reading at 9, the next is 15 min on
    assert r.channels[GLUCOSE][2] == 109 and r.observed[2]
    assert not r.observed[3] and 109 < r.channels[GLUCOSE][3] < 400  # 15 is filled, and marked so


def test_no_interpolation_at_all_when_the_card_says_so():
    grid = Grid(dt_min=5, gap_min=45, interpolate_min=0, min_points=1)
    r = grid_one([0, 4, 11, 21], [100, 104, 111, 121], grid=grid)
    np.testing.assert_array_equal(r.channels[GLUCOSE], np.float32([100, 104, 111, np.nan, 121]))


def test_a_long_gap_ends_a_recording_and_the_next_has_its_own_grid():
    first, second = to_recordings(make([0, 5, 51, 56], [1, 2, 3, 4]), GRID, Issues())
    assert (first.index, second.index) == (0, 1)
    assert (second.start_utc - first.start_utc).astype(int) == 51 * 60
    assert second.channels[GLUCOSE].tolist() == [3, 4]
    assert len(to_recordings(make([0, 5, 50]), GRID, Issues())) == 1  # exactly gap_min is no gap


def test_a_dst_change_ends_a_recording_and_is_counted():
    # Madrid, 2024-03-31: +60 becomes +120 at 01:00 UTC; readings go on every 5 minutes of UTC
    issues = Issues()
    found = to_recordings(make(range(0, 60, 5), offset_min=[60] * 6 + [120] * 6), GRID, issues)
    assert [(len(r), r.utc_offset_min) for r in found] == [(6, 60), (6, 120)]
    assert issues.counts == {"change of the UTC offset (DST or travel)": 1}
    assert "60 to 120" in issues.examples["change of the UTC offset (DST or travel)"][0]


def test_short_recordings_are_dropped_and_counted():
    issues = Issues()
    grid = GRID.model_copy(update={"min_points": 3})
    (kept,) = to_recordings(make([0, 5, 100, 105, 110, 115]), grid, issues)
    assert len(kept) == 4 and kept.index == 0
    assert issues.counts == {"recording shorter than min_points": 1}


def test_one_reading_and_no_reading():
    assert len(grid_one([0], [100])) == 1
    for values in ([np.nan, np.nan], [np.inf, np.nan]):
        issues = Issues()
        assert to_recordings(make([0, 5], values), GRID, issues) == []
        assert issues.counts == {"subject without a reading": 1}
    assert to_recordings(make([]), GRID, Issues()) == []


def test_missing_duplicate_and_unordered_readings():
    issues = Issues()
    readings = make([10, 0, 5, 5, 15], [110, 100, 105, 999, np.nan])
    (r,) = to_recordings(readings, GRID, issues)
    assert r.channels[GLUCOSE].tolist() == [100, 105, 110]  # the first of two at one time stays; the NaN is no reading
    assert issues.counts == {"reading at the same second as another": 1}


def test_events_are_summed_on_the_next_grid_point_never_before():
    events = [(0, CARBS, 10), (5.5, CARBS, 20), (10, CARBS, 5), (10, BOLUS, 1.5)]
    r = grid_one([0, 5, 10], events=events)
    assert r.channels[CARBS].tolist() == [10, 0, 25]
    assert r.channels[BOLUS].tolist() == [0, 0, 1.5]
    assert BASAL not in r.channels  # no basal events: no channel, rather than zeros
    assert len(r.events) == 4 and r.events[TIME_UTC].is_monotonic_increasing


def test_basal_rates_hold_until_the_next_also_over_gaps():
    events = [(5, BASAL, 0.8), (11, BASAL, 1.2)]
    first, second = to_recordings(make([0, 5, 10, 15, 100, 105], events=events), GRID, Issues())
    np.testing.assert_array_equal(first.channels[BASAL], np.float32([np.nan, 0.8, 0.8, 1.2]))
    np.testing.assert_array_equal(second.channels[BASAL], np.float32([1.2, 1.2]))


def test_events_outside_every_recording_are_counted():
    issues = Issues()
    events = [(-60, CARBS, 1), (7, CARBS, 2), (60, CARBS, 4), (300, CARBS, 8)]
    found = to_recordings(make([0, 5, 10, 100, 105, 110], events=events), GRID, issues)
    assert [r.channels[CARBS].sum() for r in found] == [2, 0]
    assert issues.counts == {"event outside every recording (in a gap, or before or after the readings)": 3}


def test_an_event_belongs_to_one_recording_where_two_touch():
    # the offset changes between readings 1 minute apart: both recordings are within a step of the event
    readings = make([0, 5, 6, 11], offset_min=[0, 0, 60, 60], events=[(5, CARBS, 7), (4, CARBS, 1)])
    found = to_recordings(readings, GRID, Issues())
    assert sum(r.channels[CARBS].sum() for r in found) == 8


@settings(max_examples=100)
@given(jitter_s=st.lists(st.integers(-140, 140), min_size=2, max_size=40), cut=st.integers(0, 39))
def test_a_history_cut_half_a_step_after_a_point_gives_it_the_same_value(jitter_s, cut):
    minutes = 5 * np.arange(len(jitter_s)) + np.array(jitter_s) / 60
    minutes = minutes[np.r_[True, np.random.default_rng(len(jitter_s)).random(len(jitter_s) - 1) > 0.2]]
    assume(not np.isclose((minutes - minutes[0]) % 5, 2.5).any())  # halfway between two points it is either's
    whole = to_recordings(make(minutes), GRID, Issues())[0]
    point = min(cut, len(whole) - 1)
    if not whole.observed[point]:
        return
    known = minutes[minutes - minutes[0] <= 5 * point + 2.5]
    short = grid_one(known)
    assert len(short) == point + 1 and short.observed[-1]
    np.testing.assert_array_equal(short.channels[GLUCOSE], whole.channels[GLUCOSE][: point + 1])


gaps_min = st.lists(st.integers(1, 90), min_size=0, max_size=60)
amounts = st.lists(
    st.tuples(st.integers(-100, 2000), st.sampled_from([CARBS, BOLUS]), st.floats(0.5, 120)), max_size=12
)


@settings(max_examples=150)
@given(gaps=gaps_min, seed=st.integers(0, 2**16), dt=st.sampled_from([1, 5, 15]), interpolate=st.integers(0, 40))
def test_any_readings_make_honest_recordings(gaps, seed, dt, interpolate):
    minutes = np.cumsum([0, *gaps])
    values = np.random.default_rng(seed).uniform(40, 400, len(minutes))
    grid = Grid(dt_min=dt, gap_min=40, interpolate_min=interpolate, min_points=1)
    found = to_recordings(make(minutes, values), grid, Issues())
    at = {int(m): np.float32(v) for m, v in zip(minutes, values, strict=True)}
    for number, r in enumerate(found):
        assert r.index == number and len(r.channels[GLUCOSE]) == len(r.observed)
        start = (r.start_utc.astype(int) - T0) // 60
        points = start + dt * np.arange(len(r))  # even spacing by construction, from a reading on
        assert start in at
        left, right = np.searchsorted(minutes, points, "right") - 1, np.searchsorted(minutes, points, "left")
        exact = minutes[left] == points
        right = np.minimum(right, len(minutes) - 1)
        near = np.minimum(points - minutes[left], np.abs(minutes[right] - points)) <= dt / 2
        np.testing.assert_array_equal(r.observed, near)
        assert not np.isnan(r.channels[GLUCOSE][r.observed]).any()
        for p, v in zip(points[exact], r.channels[GLUCOSE][exact], strict=True):
            assert v == at[int(p)]  # a reading on the grid is that reading
        inside = ~exact & (minutes[right] - minutes[left] > interpolate) & ~near
        assert np.isnan(r.channels[GLUCOSE][inside]).all()  # never across a longer gap
        lonely = near & ~exact & (minutes[right] - minutes[left] >= 2 * dt)
        closest = np.where(points - minutes[left] <= minutes[right] - points, values[left], values[right])
        np.testing.assert_array_equal(r.channels[GLUCOSE][lonely], np.float32(closest[lonely]))
        filled = ~exact & (minutes[right] - minutes[left] <= interpolate)
        low, high = np.minimum(values[left], values[right]), np.maximum(values[left], values[right])
        v = r.channels[GLUCOSE][filled]
        assert (v >= np.float32(low[filled]) - 1e-3).all() and (v <= np.float32(high[filled]) + 1e-3).all()
    covered = sum(np.sum(r.observed) for r in found)
    assert covered >= len(found)


@settings(max_examples=150)
@given(gaps=gaps_min, events=amounts, dt=st.sampled_from([1, 5, 15]))
def test_carbohydrate_and_insulin_are_conserved(gaps, events, dt):
    minutes = np.cumsum([0, *gaps])
    grid = Grid(dt_min=dt, gap_min=40, interpolate_min=20, min_points=2)
    issues = Issues()
    readings = make(minutes, events=events)
    found = to_recordings(readings, grid, issues)
    for r in found:
        for kind in {k for _, k, _ in events}:
            assert r.channels[kind].sum() == pytest.approx(r.events["value"][r.events["kind"] == kind].sum(), rel=1e-5)
    inside = sum(len(r.events) for r in found if r.events is not None)
    assert inside + sum(n for kind, n in issues.counts.items() if kind.startswith("event outside")) == len(events)


@given(st.lists(st.integers(-50, 500), max_size=30))
def test_owners_agree_with_the_definition(times):
    start_s, n_points, dt = np.array([0, 100, 230]), np.array([6, 10, 3]), 10.0
    for t, owner in zip(times, owners(np.array(times, dtype=np.int64), start_s, n_points, dt), strict=True):
        inside = [i for i in range(3) if start_s[i] - dt < t <= start_s[i] + (n_points[i] - 1) * dt]
        assert owner == (max(inside) if inside else -1)


def test_extents():
    found = to_recordings(make([0, 5, 100]), GRID, Issues())
    start_s, n_points = extents(found)
    assert start_s.tolist() == [T0, T0 + 6000] and n_points.tolist() == [2, 1]
