"""Rest, regularity, social jet lag, windows of sleep and the 36 indices: plain implementations, invariants, what is
wrong."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycadian.modalities.actigraphy.episodes import read_episodes
from raycadian.physiology.rhythms.sleep import (
    COLUMNS,
    INDICES,
    Episodes,
    daily_indices,
    episodes_of,
    mid_rest_h,
    mood_indices,
    regularity,
    rest,
    sleep_windows,
    social_jet_lag_h,
)
from raycadian.physiology.rhythms.wear import DAY_MIN
from raycadian.types import Issues

AT = {name: i for i, name in enumerate(INDICES)}


def at(text):
    return np.datetime64(text, "s")


def nights(days=14, bed_h=23.0, sleep_h=8.0, efficiency=0.9, start="2024-01-01", jitter=0.0, seed=0):
    """One episode a night, in bed `sleep_h` hours."""
    rng = np.random.default_rng(seed)
    midnight = np.datetime64(start, "s") + np.arange(days) * np.timedelta64(86_400, "s")
    begin = midnight + np.round(3600 * (bed_h - 24 + rng.normal(0, jitter, days))).astype("timedelta64[s]")
    length = np.round(3600 * np.clip(sleep_h + rng.normal(0, jitter, days), 1, 12)).astype("timedelta64[s]")
    return Episodes(begin, begin + length, efficiency * length.astype(np.int64) / 3600)


# --- from activity --------------------------------------------------------------------------------------------------


def activity(days=7, bed_h=23, wake_h=7, seed=0):
    hour = np.arange(days * DAY_MIN) / 60 % 24
    asleep = (hour >= bed_h) | (hour < wake_h)
    rng = np.random.default_rng(seed)
    return np.where(asleep, rng.poisson(1, len(hour)), rng.gamma(2, 150, len(hour))).reshape(days, DAY_MIN)


def test_rest_finds_the_nights():
    found = rest(activity())
    assert found[1:-1, : 7 * 60].mean() > 0.98 and found[1:-1, 23 * 60 :].mean() > 0.98
    assert found[1:-1, 7 * 60 : 23 * 60].mean() < 0.01
    both = rest(np.stack([activity(), activity(bed_h=22)]))
    np.testing.assert_array_equal(both[0], found)


def test_rest_doesn_t_know_the_unit():
    np.testing.assert_array_equal(rest(activity() * 0.001), rest(activity() * 1.0))


def test_short_stillness_is_no_rest_and_missing_is_not_known():
    days = activity().astype(float)
    days[2, 12 * 60 : 12 * 60 + 20] = 0
    days[3, 12 * 60 : 12 * 60 + 40] = 0
    days[4, 12 * 60 : 13 * 60] = np.nan
    found = rest(days)
    assert not found[2, 12 * 60 : 13 * 60].any()
    assert found[3, 12 * 60 : 12 * 60 + 40].all()
    assert np.isnan(found[4, 12 * 60 : 13 * 60]).all()
    assert np.isnan(rest(np.zeros((2, DAY_MIN)))).all()  # never moved: not worn, or not known


def test_episodes_of_rest():
    state = np.zeros(3000)
    state[100:400], state[450:500], state[2900:] = 1, 1, 1
    found = episodes_of(state, at("2024-01-01T12:00"))
    assert found.start.tolist() == [
        at(f"2024-01-0{d}T{c}").item() for d, c in ((1, "13:40"), (1, "19:30"), (3, "12:20"))
    ]
    np.testing.assert_allclose(found.asleep_h, [5, 50 / 60, 100 / 60])
    assert len(sleep_windows(found).start) == 2
    assert len(sleep_windows(episodes_of(np.zeros(100), at("2024-01-01"))).start) == 0


def plain_regularity(state):
    alike = pairs = 0
    for day, following in pairwise(state):
        for a, b in zip(day, following, strict=True):
            if a == a and b == b:
                pairs += 1
                alike += a == b
    return -100 + 200 * alike / pairs


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0, 0.5))
def test_regularity_as_plainly_written(seed, missing):
    rng = np.random.default_rng(seed)
    state = np.where(rng.random((4, 96)) < missing, np.nan, rng.random((4, 96)) < 0.4)
    assert regularity(state) == pytest.approx(plain_regularity(state), abs=1e-6)


def test_regularity_limits():
    """Phillips et al. 2017: 100 of the same sleep every day, 0 of sleep by chance, -100 of the contrary every day."""
    same = np.tile(np.arange(DAY_MIN) < 480, (5, 1)).astype(float)
    assert regularity(same) == 100
    assert regularity(np.stack([same[0], 1 - same[0]] * 3)) == -100
    assert abs(regularity(np.random.default_rng(0).integers(0, 2, (300, DAY_MIN)).astype(float))) < 1
    assert np.isnan(regularity(same[:1])) and np.isnan(regularity(np.full((3, DAY_MIN), np.nan)))


def test_social_jet_lag():
    free = np.array([False] * 5 + [True] * 2)
    assert social_jet_lag_h(np.array([3.0] * 5 + [5.0] * 2), free) == pytest.approx(2)
    assert social_jet_lag_h(np.array([23.5] * 5 + [0.5, np.nan]), free) == pytest.approx(1)
    assert social_jet_lag_h(np.array([5.0] * 5 + [3.0] * 2), free) == pytest.approx(2)
    assert np.isnan(social_jet_lag_h(np.array([3.0] * 5 + [np.nan] * 2), free))
    assert social_jet_lag_h(np.full((4, 7), 3.0), np.broadcast_to(free, (4, 7))).shape == (4,)


def test_the_middle_of_the_longest_rest():
    nights = np.zeros((2, 3, DAY_MIN))
    nights[0, 0, 11 * 60 : 19 * 60] = 1  # 23:00 to 7:00
    nights[0, 1, 60:240], nights[0, 1, 15 * 60 : 20 * 60] = 1, 1  # 13:00 to 16:00 and 3:00 to 8:00
    nights[0, 2, 600:779] = 1  # a minute too short
    nights[1, 0, 0:240], nights[1, 0, 300:540] = 1, 1  # of equals the first
    nights[1, 1] = np.nan
    nights[1, 2] = 1
    np.testing.assert_allclose(mid_rest_h(nights), [[3, 5.5, np.nan], [14, np.nan, 0]])


# --- windows --------------------------------------------------------------------------------------------------------


def test_episodes_an_hour_apart_are_one_window():
    start = np.array([at("2024-01-01T22:00"), at("2024-01-02T02:00"), at("2024-01-02T14:00")])
    end = np.array([at("2024-01-02T01:00"), at("2024-01-02T06:00"), at("2024-01-02T15:30")])
    windows = sleep_windows(Episodes(start[::-1], end[::-1], np.array([1.5, 3.5, 2.5])))
    assert windows.length_h.tolist() == [8, 1.5] and windows.asleep_h.tolist() == [6, 1.5]
    assert [str(day) for day in windows.day] == ["2024-01-02"] * 2
    assert len(sleep_windows(Episodes(start, end, np.array([2.5, 3.5, 1.5])), join_h=0.9).start) == 3


@pytest.mark.parametrize(
    ("start", "end", "minutes", "message"),
    [
        (["2024-01-02T06:00"], ["2024-01-01T23:00"], [400], "expected an end at most 24 h after the start"),
        (["2024-01-01T06:00"], ["2024-01-03T23:00"], [400], "expected an end at most 24 h"),
        (["2024-01-01T22:00"], ["2024-01-02T06:00"], [500], "no more sleep than time"),
        (["2024-01-01T22:00"], ["2024-01-02T06:00"], [-1], "no more sleep than time"),
        (
            ["2024-01-01T22:00", "2024-01-02T05:00"],
            ["2024-01-02T06:00", "2024-01-02T09:00"],
            [400, 200],
            "begins before the one",
        ),
        (["2024-01-01T22:00", "NaT"], ["2024-01-02T06:00", "NaT"], [400, 200], "lacks its start"),
    ],
)
def test_episodes_that_can_t_be(start, end, minutes, message):
    episodes = Episodes(np.array(start, "datetime64[s]"), np.array(end, "datetime64[s]"), np.array(minutes) / 60)
    with pytest.raises(ValueError, match=message):
        sleep_windows(episodes)


# --- the 36 indices -------------------------------------------------------------------------------------------------


def check_invariants(days, values, table):
    """What mood_ml's own output keeps (facts page)."""
    long, short = values[:, AT["LongSleepWindow_length"]], values[:, AT["ShortSleepWindow_length"]]
    st_long, st_short = values[:, AT["ST_long"]], values[:, AT["ST_short"]]
    np.testing.assert_allclose(long, st_long + values[:, AT["WT_long"]], atol=1e-9)
    np.testing.assert_allclose(short, st_short + values[:, AT["WT_short"]], atol=1e-9)
    np.testing.assert_allclose(values[:, AT["Sleep_percentage"]], (st_long + st_short) / 24, atol=1e-12)
    assert (np.diff(days) > np.timedelta64(0, "D")).all()
    parts = table.reshape(len(days), 12, 3)
    assert (parts[:, :, :2] == parts[:1, :, :2]).all()  # means and SDs constant over the record
    np.testing.assert_allclose(parts[:, :, 0] + parts[:, :, 1] * parts[:, :, 2], values, atol=1e-5)
    np.testing.assert_allclose(parts[:, :, 2].mean(axis=0), 0, atol=1e-8)  # rounding, over SDs from 1e-7 of the size
    assert np.isfinite(table).all()


@pytest.mark.slow
@settings(max_examples=5)
@given(st.integers(0, 100), st.floats(20, 26), st.floats(3, 9.5), st.floats(0, 0.5))
def test_indices_keep_the_invariants(seed, bed_h, sleep_h, jitter):
    episodes = nights(10, bed_h, sleep_h, jitter=jitter, seed=seed)
    check_invariants(*daily_indices(episodes), mood_indices(episodes)[1])


def test_a_regular_sleeper():
    days, values = daily_indices(nights(20, bed_h=23, sleep_h=8))
    assert [str(d) for d in days[[0, -1]]] == ["2024-01-01", "2024-01-20"]
    found = dict(zip(INDICES, values.mean(axis=0), strict=True))
    expected = {
        "ST_long": 7.2,
        "WT_long": 0.8,
        "LongSleepWindow_length": 8,
        "LongSleepWindow_number": 1,
        "Sleep_percentage": 0.3,
        "ST_short": 0,
        "ShortSleepWindow_number": 0,
        "Sleep_amplitude": 0.9 * 4 / np.pi * np.sin(np.pi / 3),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    phase = values[:, AT["Circadian_phase"]]
    assert 20.5 < phase.mean() < 22.5 and np.ptp(phase) < 0.1  # melatonin about 1.5 h before bed
    assert 1 < found["Circadian_amplitude"] < 1.2


def test_later_nights_give_a_later_phase():
    early, late = (daily_indices(nights(20, bed_h=b))[1][:, AT["Circadian_phase"]].mean() for b in (23, 26))
    assert late - early == pytest.approx(3, abs=0.05)
    assert late > 24  # after midnight, not wrapped


def test_long_is_from_three_and_three_quarter_hours():
    for hours, long in ((3.7, 0), (3.75, 1), (3.8, 1)):
        _, values = daily_indices(nights(3, sleep_h=hours))
        assert values[:, AT["LongSleepWindow_number"]].tolist() == [long] * 3


def test_days_without_a_record_are_left_out():
    before, after = nights(10), nights(10, start="2024-06-01", bed_h=25)
    both = Episodes(*(np.concatenate([getattr(e, n) for e in (before, after)]) for n in ("start", "end", "asleep_h")))
    days, values = daily_indices(both)
    assert len(days) == 20
    assert np.isfinite(values).all()
    assert values[15:, AT["Circadian_phase"]].mean() > values[5:10, AT["Circadian_phase"]].mean() + 0.5


def test_one_day_is_too_few():
    with pytest.raises(ValueError, match="1 day with sleep: means and deviations need two"):
        mood_indices(nights(1))


def test_from_actigraphy():
    episodes = episodes_of(rest(activity(days=10)).ravel(), at("2024-01-01"))
    check_invariants(*daily_indices(episodes), mood_indices(episodes)[1])
    _, values = daily_indices(episodes)
    assert np.median(values[:, AT["ST_long"]]) == pytest.approx(8, abs=0.4)


def test_mood_ml_example(shared):
    """The 36 columns of test.csv, in its order, from the episodes of example.csv."""
    folder = shared / "nhanes" / "mood_ml"
    episodes = read_episodes(folder / "example.csv", None, Issues())
    days, found = mood_indices(episodes)
    assert list(pd.read_csv(folder / "test.csv", nrows=1).columns) == ["date", *COLUMNS]
    assert found.shape == (len(days), 36)
    check_invariants(*daily_indices(episodes), found)
    assert len(sleep_windows(episodes).start) <= 131
