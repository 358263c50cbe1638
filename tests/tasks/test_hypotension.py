"""Labels of low pressure on planted episodes: start, duration, gap, numerics at 0.5 Hz, missing stretches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycadian.tasks import hypotension as low

MIN = 60.0


def pressure(
    minutes: float = 40, dt_s: float = 2.0, *episodes: tuple[float, float], base: float = 85.0, to: float = 55.0
):
    """Mean pressure every `dt_s`, low from begin for a length (seconds each)."""
    times = np.arange(0, minutes * MIN, dt_s)
    values = np.full(len(times), base)
    for begin, length in episodes:
        values[(times >= begin) & (times < begin + length)] = to
    return values, times


def test_an_episode_begins_and_ends_where_it_was_planted():
    found = low.events(*pressure(40, 2.0, (600, 90), (1500, 300)))
    np.testing.assert_allclose(found.certain, [[600, 690], [1500, 1800]])


@pytest.mark.parametrize("length, episodes", [(58, 0), (60, 1), (62, 1)])
def test_sixty_seconds_at_half_a_hertz_are_thirty_values(length, episodes):
    values, times = pressure(40, 2.0, (600, length))
    assert (values < 65).sum() == length / 2
    assert len(low.events(values, times).certain) == episodes


def test_the_threshold_itself_is_not_low():
    assert not len(low.events(*pressure(20, 2.0, (600, 120), to=65.0)).certain)
    assert len(low.events(*pressure(20, 2.0, (600, 120), to=64.9)).certain)


def test_two_dips_of_forty_seconds_are_no_episode():
    assert not len(low.events(*pressure(20, 2.0, (600, 40), (650, 40))).certain)


@pytest.mark.parametrize("ahead_min", [5, 10, 15])
def test_a_window_is_positive_from_ahead_until_the_onset(ahead_min):
    found = low.events(*pressure(60, 2.0, (1800, 120)))
    ends = np.arange(0, 1800, 10.0) + 5
    labels = low.label_windows(ends, found, ahead_min * MIN)[0]
    np.testing.assert_array_equal(labels, (ends >= 1800 - ahead_min * MIN).astype(float))


def test_a_gap_leaves_out_what_would_be_warned_of_too_late():
    found = low.events(*pressure(60, 2.0, (1800, 120)))
    ends = np.array([1490.0, 1510.0, 1670.0, 1690.0, 1790.0])  # 310, 290, 130, 110, 10 s before
    np.testing.assert_array_equal(low.label_windows(ends, found, 300, gap_s=120)[0], [0, 1, 1, np.nan, np.nan])
    assert low.label_windows(ends, found, 300, gap_s=120)[1][3] == low.TOO_SOON


def test_windows_in_an_episode_are_left_out_and_those_after_it_count_again():
    found = low.events(*pressure(60, 2.0, (1800, 120)))
    ends = np.array([1805.0, 1915.0, 1921.0, 1925.0, 1935.0])
    np.testing.assert_array_equal(low.label_windows(ends, found, 300)[0], [np.nan, np.nan, 0, 0, 0])
    reasons = low.label_windows(ends, found, 300, window_s=10)[1]
    assert reasons.tolist() == [low.ALREADY, low.ALREADY, low.ALREADY, low.ALREADY, low.NO_EVENT]


def test_the_gray_zone_leaves_out_negatives_only():
    values, times = pressure(60, 2.0, (1800, 120))
    values[(times >= 600) & (times < 620)] = 70.0  # neither low nor clearly normal
    found = low.events(values, times)
    ends = np.array([200.0, 350.0, 610.0, 700.0, 1600.0])
    np.testing.assert_array_equal(low.label_windows(ends, found, 300)[0], [0, 0, 0, 0, 1])
    np.testing.assert_array_equal(low.label_windows(ends, found, 300, gray_mmhg=75)[0], [0, np.nan, np.nan, 0, 1])


def test_what_is_missing_is_unknown_where_an_episode_may_hide():
    values, times = pressure(60, 2.0)
    values[(times >= 600) & (times < 640)] = np.nan  # too short to hide an episode
    assert low.label_windows([500.0], low.events(values, times), 300)[0].tolist() == [0]
    values[(times >= 600) & (times < 670)] = np.nan
    found = low.events(values, times)
    np.testing.assert_array_equal(
        low.label_windows([250.0, 500.0, 650.0, 680.0], found, 300)[0], [0, np.nan, np.nan, 0]
    )


def test_an_onset_behind_a_gap_is_known_only_where_the_gap_is_ahead_too():
    values, times = pressure(60, 2.0, (1800, 120))
    values[(times >= 1700) & (times < 1800)] = np.nan
    found = low.events(values, times)
    np.testing.assert_array_equal(low.label_windows([1650.0, 1750.0], found, 300)[0], [1, np.nan])
    np.testing.assert_array_equal(low.label_windows([1590.0, 1650.0], found, 300, gap_s=100)[0], [1, np.nan])


def test_the_end_of_the_record_is_unknown():
    found = low.events(*pressure(20, 2.0))
    np.testing.assert_array_equal(low.label_windows([899.0, 901.0], found, 300)[0], [0, np.nan])
    assert not len(low.events([], []).certain)
    assert np.isnan(low.label_windows([100.0], low.events([], []), 300)[0]).all()


def test_an_impossible_pressure_is_missing():
    values, times = pressure(20, 2.0, (600, 120), to=0.0)  # a transducer that is open to air
    assert low.label_windows([500.0], low.events(values, times), 300)[1].tolist() == [low.UNKNOWN]


def test_beats_at_times_of_their_own():
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.6, 1.1, 2000))
    values = np.where((times >= 600) & (times < 700), 60.0, 80.0)
    ((begin, end),) = low.events(values, times).certain
    assert 600 <= begin < 601.1 and 700 <= end < 701.1


@pytest.mark.parametrize(
    "values, times, said",
    [([1.0], [1.0, 2.0], "as many values"), ([70, 70], [2, 1], "increasing"), ([70, 70], [1, np.nan], "finite")],
)
def test_times_that_can_not_be(values, times, said):
    with pytest.raises(ValueError, match=said):
        low.events(np.array(values, float), np.array(times, float))


def test_a_gap_beyond_the_horizon_is_an_error():
    with pytest.raises(ValueError, match="gap_s"):
        low.label_windows([1.0], low.events(*pressure()), 300, gap_s=300)


# --- against a slow reading of the definition, second by second -------------------------------------------------------

STATES = st.lists(st.tuples(st.sampled_from([50.0, 70.0, 90.0, np.nan]), st.integers(1, 12)), min_size=1, max_size=12)


def by_the_second(values: np.ndarray, dt: int, hold: int) -> list[str]:
    """Each second as 'low', 'gray', 'fine' or 'unknown'."""
    known = [i for i, value in enumerate(values) if np.isfinite(value)]
    steps = np.diff(known) * dt
    usual = float(np.median(steps[steps <= hold])) if (steps <= hold).any() else 0
    seconds = ["unknown"] * (len(values) * dt)
    for k, i in enumerate(known):
        step = steps[k] if k < len(steps) and steps[k] <= hold else usual
        for s in range(i * dt, min(int(i * dt + step), len(seconds))):
            seconds[s] = "low" if values[i] < 65 else "gray" if values[i] < 75 else "fine"
    return seconds


def runs(flags: list[bool], for_s: int) -> list[tuple[int, int]]:
    found, begin = [], None
    for s, flag in enumerate([*flags, False]):
        if flag and begin is None:
            begin = s
        elif not flag and begin is not None:
            if s - begin >= for_s:
                found.append((begin, s))
            begin = None
    return found


@given(STATES, st.sampled_from([0, 20]), st.sampled_from([None, 75.0]))
@settings(max_examples=200)
def test_labels_are_the_definition_read_slowly(states, gap, gray):
    dt, hold, for_s, ahead, pad = 2, 2, 12, 40, 100
    values = np.concatenate([np.full(n, value) for value, n in states])
    found = low.events(values, np.arange(len(values)) * dt, for_s=for_s, hold_s=hold)
    seconds = ["unknown"] * pad + by_the_second(values, dt, hold) + ["unknown"] * pad
    certain = runs([s == "low" for s in seconds], for_s)
    possible = runs([s in ("low", "unknown") for s in seconds], for_s)
    ends = np.arange(0, len(values) * dt) + 0.5
    labels = low.label_windows(ends, found, ahead, gap_s=gap, gray_mmhg=gray)[0]
    for end, label in zip(ends + pad, labels, strict=True):
        touched = any(a <= end + ahead and b > end for a, b in possible)
        early = any(a <= end + gap and b > end for a, b in possible)
        if any(end < a <= end + ahead for a, _ in certain) and not early:
            assert label == 1
        elif touched or (gray and {"gray", "low"} & set(seconds[int(end) : int(end + ahead) + 1])):
            assert np.isnan(label)
        else:
            assert label == 0


@given(STATES)
@settings(max_examples=50)
def test_every_certain_episode_lies_in_a_possible_one(states):
    values = np.concatenate([np.full(n, value) for value, n in states])
    found = low.events(values, np.arange(len(values)) * 2.0, for_s=12)
    for begin, end in found.certain:
        assert end - begin >= 12
        assert sum(a <= begin and end <= b for a, b in found.possible) == 1


# --- regression targets ----------------------------------------------------------------------------------------------


def test_a_mean_ahead_is_weighted_by_time():
    times, values = np.array([0.0, 2, 4, 8]), np.array([10.0, 20, 30, 50])
    means = low.mean_between(values, times, [0, 1, 4, 9], [4, 3, 10, 20])
    np.testing.assert_allclose(means, [15, 15, (4 * 30 + 2 * 50) / 6, np.nan])  # 8 s holds for 2 s more


def test_a_mean_needs_half_of_what_it_is_of():
    times = np.concatenate([np.arange(0, 100, 2.0), np.arange(200, 300, 2.0)])
    values = np.full(len(times), 70.0)
    means = low.mean_between(values, times, [0, 60, 110], [100, 160, 190])
    np.testing.assert_allclose(means, [70, np.nan, np.nan])
    assert low.mean_between(values, times, [60], [160], min_known=0.4) == pytest.approx([70])
    assert np.isnan(low.mean_between([], [], [0], [1])).all()


def test_a_grid_of_a_numeric_has_holes_where_nothing_was_measured():
    times = np.array([0.0, 2, 4, 31, 59, 130])
    found = low.grid(np.array([1.0, 2, np.nan, 4, 6, 9]), times, 30.0, 5)
    np.testing.assert_allclose(found, [1.5, 5, np.nan, np.nan, 9])
    assert found.dtype == np.float32


@given(
    st.lists(st.tuples(st.floats(0.1, 30), st.floats(20, 200)), min_size=1, max_size=30),
    st.floats(0, 200),
    st.floats(1, 100),
)
@settings(max_examples=100)
def test_a_mean_lies_between_the_values_that_hold(steps, begin, length):
    times = np.cumsum([step for step, _ in steps])
    values = np.array([value for _, value in steps])
    (mean,) = low.mean_between(values, times, [begin], [begin + length], min_known=0)
    assert np.isnan(mean) or values.min() - 1e-6 <= mean <= values.max() + 1e-6
    (shifted,) = low.mean_between(values + 10, times, [begin], [begin + length], min_known=0)
    assert np.isnan(mean) == np.isnan(shifted) and (np.isnan(mean) or shifted == pytest.approx(mean + 10))
