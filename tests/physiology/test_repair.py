"""What is no measurement, and its repair: each reason planted, no NaN left, nothing else touched."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signals import simulated

from raycadian.physiology.waveforms.repair import (
    KINDS,
    REPAIRED,
    CausalRepair,
    Reason,
    checked,
    count_samples,
    flag_samples,
    kind_of,
    masked,
    repair,
    runs,
)

RATE_HZ = 500
ABP, ECG, PPG = KINDS["abp"], KINDS["ecg"], KINDS["ppg"]


def noisy(kind: str) -> np.ndarray:
    values = simulated(kind, RATE_HZ)
    return values + np.random.default_rng(0).normal(0, 1e-3, len(values)).astype(np.float32)


def test_a_clean_track_has_no_flag():
    for name, kind in KINDS.items():
        values = noisy(name)
        flags = flag_samples(values, RATE_HZ, kind)
        assert not flags.any()
        repaired, same = repair(values, flags, RATE_HZ, kind)
        assert repaired is values  # nothing copied where nothing is wrong
        assert same is flags


def test_each_reason_is_found_where_it_is():
    values = noisy("abp")
    values[1000:1400] = np.nan
    values[3000:3010] = np.inf
    values[5000:5500] = 91.0  # 1 s
    values[8000:8200] = -12.0
    values[9000:9100] = 412.0
    values[12_000:12_100] = values.max(where=values < 300, initial=0) + 5  # 0.2 s at the end of the range
    flags = flag_samples(values, RATE_HZ, ABP)
    expected = np.zeros(len(values), np.uint8)
    for start, end, reason in (
        (1000, 1400, Reason.MISSING),
        (3000, 3010, Reason.MISSING),
        (5000, 5500, Reason.FLAT),
        (8000, 8200, Reason.IMPLAUSIBLE),
        (9000, 9100, Reason.IMPLAUSIBLE),
        (12_000, 12_100, Reason.SATURATED),
    ):
        expected[start:end] = reason
    np.testing.assert_array_equal(flags, expected)
    assert count_samples(repair(values, flags, RATE_HZ, ABP)[1]) == {
        "missing": 410, "flat": 500, "saturated": 100, "implausible": 300, "repaired": 10,
    }  # fmt: skip


def test_short_constants_are_believed():
    values = noisy("ecg")
    values[1000:1200] = values[1000]  # 0.4 s somewhere within the range
    assert not flag_samples(values, RATE_HZ, ECG).any()


def test_a_flat_line_at_the_end_of_the_range_is_a_flat_line():
    values = noisy("ppg")
    values[:1500] = values.min() - 1
    assert set(flag_samples(values, RATE_HZ, PPG)[:1500]) == {Reason.FLAT}


@pytest.mark.parametrize("fill", [np.nan, 7.0])
def test_a_track_that_holds_nothing(fill):
    values = np.full(2000, fill, np.float32)
    repaired, flags = repair(values, flag_samples(values, RATE_HZ, PPG), RATE_HZ, PPG)
    assert np.isfinite(repaired).all()
    assert masked(flags).all()


def test_short_stretches_are_interpolated_and_long_ones_masked():
    values = np.arange(1000, dtype=np.float32)
    values[100:120] = np.nan  # 40 ms
    values[300:321] = np.nan  # more
    values[:3] = values[-3:] = np.nan  # nothing on one side
    kind = replace(ECG, limits=(-1e4, 1e4))
    repaired, flags = repair(values, flag_samples(values, RATE_HZ, kind), RATE_HZ, kind)
    np.testing.assert_allclose(repaired[3:-3], np.arange(3, 997))
    assert (flags[100:120] == Reason.MISSING | REPAIRED).all()
    assert masked(flags).sum() == 21 + 6
    assert repaired[0] == 3
    assert repaired[-1] == 996


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(st.integers(0, 600), st.integers(1, 120), st.sampled_from([np.nan, -50.0, 400.0, 91.0])), max_size=6
    )
)
def test_whatever_is_wrong_the_rest_is_untouched_and_everything_finite(stretches):
    values = noisy("abp")[:600].copy()
    for start, n, what in stretches:
        values[start : start + n] = what
    before, flags = values.copy(), flag_samples(values, RATE_HZ, ABP)
    repaired, after = repair(values, flags, RATE_HZ, ABP)
    np.testing.assert_array_equal(values, before)
    assert len(repaired) == len(after) == len(values)
    assert np.isfinite(repaired).all()
    assert (repaired[flags == 0] == values[flags == 0]).all()
    assert ((after & ~REPAIRED) == flags).all()
    assert (flags != 0)[~np.isfinite(values) | (values < 0) | (values > 300)].all()


@given(st.lists(st.booleans(), max_size=40))
def test_runs(mask):
    start, end = runs(np.array(mask, bool))
    rebuilt = np.zeros(len(mask), bool)
    for first, last in zip(start, end, strict=True):
        assert last > first
        rebuilt[first:last] = True
    assert rebuilt.tolist() == mask
    assert (start[1:] > end[:-1]).all()


# --- as samples come --------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 3000), st.integers(1, 600), st.sampled_from([np.nan, 400.0, 91.0, 290.0])), max_size=6
    ),
    st.lists(st.integers(0, 700), max_size=8),
)
@pytest.mark.parametrize("rails", [(0.0, 290.0), None])
def test_a_causal_repair_in_pieces_is_one_pass(rails, stretches, sizes):
    values = noisy("abp")[:3000].copy()
    for start, n, what in stretches:
        values[start : start + n] = what
    whole, stream = (CausalRepair(ABP, RATE_HZ, rails=rails) for _ in range(2))
    expected = whole.push(values)
    pieces = [stream.push(p) for p in np.split(values, np.minimum(np.cumsum(sizes, dtype=int), 3000))]
    for part, all_of_it in zip(zip(*pieces, strict=True), expected, strict=True):
        np.testing.assert_array_equal(np.concatenate(part), all_of_it)
    assert np.isfinite(expected[0]).all()


def test_a_causal_repair_holds_and_then_masks():
    values = noisy("abp").copy()
    values[:50], values[1000:1200] = np.nan, np.nan
    held, flags = CausalRepair(ABP, RATE_HZ).push(values)
    assert (held[1000:1200] == values[999]).all()
    assert (flags[1000:1060] == Reason.MISSING | REPAIRED).all()  # 0.12 s
    assert (flags[1060:1200] == Reason.MISSING).all()
    assert (flags[:50] == Reason.MISSING).all()  # nothing to hold


def test_a_causal_repair_finds_rails_by_the_third_stop_at_them():
    values = noisy("ppg").copy()
    values[0] = np.inf  # no measurement is no end
    for top in (4000.0, 4095.0):  # a higher end is another one
        for i in range(4):
            values[2000 + 1000 * i : 2100 + 1000 * i] = top
        values[10_000:10_100] = 2000.0  # not at the end
        flags = CausalRepair(PPG, RATE_HZ).push(values)[1]
        found = [int(runs(flags[i : i + 1000] == Reason.SATURATED)[0].size) for i in range(2000, 6000, 1000)]
        assert found == [0, 0, 1, 1] and not flags[6000:].any(), found
        np.testing.assert_array_equal(CausalRepair(PPG, RATE_HZ).push(-values)[1], flags)
        values[500:600] = 3000.0


def test_a_causal_repair_knows_rails_at_once_only_when_told():
    values = noisy("ppg").copy()
    values[1000:1200] = 4095.0
    assert not CausalRepair(PPG, RATE_HZ).push(values)[1].any()
    flags = CausalRepair(PPG, RATE_HZ, rails=(0.0, 4095.0)).push(values)[1]
    assert (flags[1050:1200] & Reason.SATURATED).all()
    assert not flags[:1040].any()


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "rate_hz", "message"),
    [
        (np.zeros(0), 500, "no samples"),
        (np.zeros((3, 5)), 500, "found shape"),
        (np.array(["1", "2"]), 500, "array of numbers"),
        (np.zeros(10), 0.5, "expected a sampling rate from 100"),
        (np.zeros(10), 0, "expected a sampling rate"),
        (np.zeros(10), -500, "expected a sampling rate"),
        (np.zeros(10), float("nan"), "expected a sampling rate"),
        (np.zeros(10), 1e9, "expected a sampling rate"),
    ],
)
def test_bad_input(values, rate_hz, message):
    with pytest.raises(ValueError, match=message):
        checked(values, rate_hz, ECG)


def test_an_unknown_kind():
    with pytest.raises(ValueError, match="one of ecg, ppg, abp, found 'eeg'"):
        kind_of("eeg")


def test_integers_are_taken_too():
    assert checked(np.arange(5), 500, ECG).dtype == np.float32
