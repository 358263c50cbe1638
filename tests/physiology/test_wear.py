"""Wear by Choi and Troiano against minute-by-minute implementations written apart, and the rules' edges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycadian.physiology.rhythms.wear import DAY_MIN, by_day, choi, troiano, valid_days


def plain_choi(counts, window=90, spike=2, around=30):
    """As R's PhysicalActivity marks it: burst by burst, its neighbourhoods, then gaps."""
    n, moving = len(counts), counts > 0
    active, i = moving.copy(), 0
    while i < n:
        if not moving[i]:
            i += 1
            continue
        j = i
        while j < n and moving[j]:
            j += 1
        quiet = not moving[max(i - around, 0) : i].any() and not moving[j : j + around].any()
        if j - i <= spike and quiet:
            active[i:j] = False
        i = j
    return plain_gaps(active, window)


def plain_troiano(counts, window=60, spike=2, most=100):
    n, worn, i = len(counts), np.ones(len(counts), bool), 0
    while i < n:
        if counts[i] > 0:
            i += 1
            continue
        end, j, misses = i, i, 0  # the last zero of the period that begins here
        while j < n:
            if counts[j] == 0:
                end, misses = j, 0
            elif counts[j] > most or misses == spike:
                break
            else:
                misses += 1
            j += 1
        if end - i + 1 >= window:
            worn[i : end + 1] = False
        i = end + 1
    return worn


def plain_gaps(active, window):
    worn, i = np.ones(len(active), bool), 0
    while i < len(active):
        j = i
        while j < len(active) and active[j] == active[i]:
            j += 1
        if not active[i] and j - i >= window:
            worn[i:j] = False
        i = j
    return worn


runs = st.lists(st.tuples(st.integers(1, 130), st.sampled_from([0, 0, 0, 50, 101])), min_size=1, max_size=12)
bursts = st.lists(st.tuples(st.integers(1, 3), st.sampled_from([0, 1, 100, 101])), max_size=6)


@settings(max_examples=300)
@given(runs, bursts, st.integers(20, 40))
def test_as_minute_by_minute(stretches, spikes, rest):
    """Long stretches, and short bursts among zeros: where the rules decide."""
    pieces = [np.full(n, v) for n, v in stretches]
    for n, value in spikes:
        pieces += [np.zeros(rest), np.full(n, value)]
    counts = np.concatenate(pieces).astype(float)
    assert np.array_equal(choi(counts), plain_choi(counts))
    assert np.array_equal(troiano(counts), plain_troiano(counts))


def test_many_people_are_each_alone():
    rng = np.random.default_rng(0)
    counts = np.repeat(rng.choice([0, 0, 0, 40, 300], (6, 96)), rng.integers(1, 40), axis=1).astype(float)
    for rule in (choi, troiano):
        together = rule(counts)
        assert np.array_equal(together, np.stack([rule(one) for one in counts]))
        assert np.array_equal(rule(counts.reshape(2, 3, -1)), together.reshape(2, 3, -1))


def test_how_long_is_long():
    for rule, window in ((choi, 90), (troiano, 60)):
        for n, worn in ((window - 1, True), (window, False)):
            counts = np.concatenate([np.full(20, 500.0), np.zeros(n), np.full(20, 500.0)])
            assert rule(counts)[20 : 20 + n].all() == worn
            assert rule(counts)[:20].all() and rule(counts)[-20:].all()


def test_all_zero_is_never_worn_and_missing_neither():
    assert not choi(np.zeros(DAY_MIN)).any() and not troiano(np.zeros(DAY_MIN)).any()
    counts = np.full(DAY_MIN, 300.0)
    counts[100:130] = np.nan
    assert choi(counts).sum() == troiano(counts).sum() == DAY_MIN - 30
    assert not choi(np.full(DAY_MIN, np.nan)).any()


def test_below_zero_is_refused():
    with pytest.raises(ValueError, match="can't be below 0, found -0.01; mark missing minutes as NaN"):
        choi(np.array([1.0, -0.01, 2.0]))


def test_days():
    minutes = np.arange(3000.0)
    days = by_day(minutes, first_minute=600)
    assert days.shape == (3, DAY_MIN)
    assert np.isnan(days[0, :600]).all() and days[0, 600] == 0 and days[1, 0] == 840
    assert np.isnan(days[2, 720:]).all() and days[2, 719] == 2999
    worn = np.zeros((2, 3, DAY_MIN), bool)
    worn[0, 0, :600], worn[0, 1, :599], worn[1, 2] = True, True, True
    assert valid_days(worn).tolist() == [[True, False, False], [False, False, True]]


def test_real_counts(shared):
    """Fifty people of NHANES 2003-04: worn by day, not by night, by both rules."""
    import pandas as pd

    table = pd.read_csv(shared / "nhanes" / "nhanes_2003_2004_50subj_1day.csv.gz")
    counts = table["raw_activity"].to_numpy().reshape(50, -1)
    by_choi, by_troiano = choi(counts), troiano(counts)
    assert by_choi[:, 900:1080].mean() > 0.85 > 0.5 > by_choi[:, :300].mean()
    assert (by_troiano & ~by_choi).mean() < 0.01  # Choi forgives less, and asks for longer stretches
    assert np.array_equal(by_choi[7], plain_choi(counts[7])) and np.array_equal(by_troiano[7], plain_troiano(counts[7]))
