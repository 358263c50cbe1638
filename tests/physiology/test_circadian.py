"""Rest-activity rhythms against plain implementations written apart, published limits, and missing data."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raycadian.physiology.rhythms.circadian import (
    apart_h,
    binned,
    circular_mean_h,
    cosinor,
    interdaily_stability,
    intradaily_variability,
    rhythm,
)
from raycadian.physiology.rhythms.wear import DAY_MIN, by_day

MINUTE = np.arange(DAY_MIN)


def week(seed=0, missing=0.0, days=7):
    """Days of activity (days, 1440) with a rhythm, noise and gaps."""
    rng = np.random.default_rng(seed)
    curve = np.clip(np.sin((MINUTE / 60 - 7 + rng.normal()) * np.pi / 8), 0, None)
    values = rng.gamma(0.8, 200 * curve + 2, (days, DAY_MIN))
    gap = np.repeat(rng.random((days, 48)) < missing, 30, axis=1)
    return np.where(gap, np.nan, values)


def plain(days):
    """Every index by its published sums, minute by minute."""
    hours = [[_average(day[60 * h : 60 * h + 60]) for h in range(24)] for day in days]
    series = [x for day in hours for x in day]
    known = [x for x in series if x == x]
    n, mean = len(known), sum(known) / len(known)
    total = sum((x - mean) ** 2 for x in known)
    profile = [_average([day[h] for day in hours]) for h in range(24)]
    profile = [x for x in profile if x == x]
    steps = [(b - a) ** 2 for a, b in pairwise(series) if a == a and b == b]
    found = {
        "interdaily_stability": n * sum((x - mean) ** 2 for x in profile) / (len(profile) * total),
        "intradaily_variability": n * sum(steps) / (len(steps) * total),
    }
    average = [_average([day[m] for day in days]) for m in range(DAY_MIN)] * 2
    for name, width, best in (("l5", 300, min), ("m10", 600, max)):
        levels = [sum(average[m : m + width]) / width for m in range(DAY_MIN)]
        levels = [(x, m) for m, x in enumerate(levels) if x == x]
        value = best(x for x, _ in levels)
        found |= {name: value, f"{name}_onset_h": next(m for x, m in levels if x == value) / 60}
    found["relative_amplitude"] = (found["m10"] - found["l5"]) / (found["m10"] + found["l5"])
    flat = np.concatenate(days)
    there = ~np.isnan(flat)
    angle = 2 * np.pi * (np.arange(flat.size) + 0.5) / DAY_MIN
    design = np.stack([np.ones(flat.size), np.cos(angle), np.sin(angle)], axis=1)[there]
    (mesor, a, b), residual, *_ = np.linalg.lstsq(design, flat[there])
    spread = ((flat[there] - flat[there].mean()) ** 2).sum()
    found |= {"mesor": mesor, "amplitude": np.hypot(a, b), "acrophase_h": np.arctan2(b, a) * 12 / np.pi % 24}
    return found | {"cosinor_r2": 1 - residual[0] / spread}


def _average(values):
    known = [x for x in values if x == x]
    return sum(known) / len(known) if known else float("nan")


@pytest.mark.parametrize("missing", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(3))
def test_as_plainly_written(seed, missing):
    days = week(seed, missing)
    found, expected = rhythm(days), plain(days)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-9, err_msg=name)


def test_many_people_are_each_alone():
    people = np.stack([week(seed, 0.1) for seed in range(4)])
    together = rhythm(people)
    for i, one in enumerate(people):
        for name, value in rhythm(one).items():
            np.testing.assert_allclose(together[name][i], value, rtol=1e-12, err_msg=name)
    assert rhythm(people.reshape(2, 2, 7, DAY_MIN))["l5"].shape == (2, 2)


def test_limits():
    """Witting et al. 1990: IS is 1 of equal days and near 0 of noise; IV near 0 of a sine, about 2 of noise."""
    sine = np.tile(100 + 50 * np.sin(2 * np.pi * MINUTE / DAY_MIN), (14, 1))
    assert interdaily_stability(binned(sine, 60)) == pytest.approx(1)
    assert intradaily_variability(binned(sine, 60)) == pytest.approx(2 * (1 - np.cos(2 * np.pi / 24)), rel=1e-2)
    noise = np.random.default_rng(0).normal(0, 1, (400, 24))
    assert interdaily_stability(noise) < 0.01
    assert intradaily_variability(noise) == pytest.approx(2, abs=0.05)


def test_the_cosine_comes_back():
    angle = 2 * np.pi * (np.arange(5 * DAY_MIN) + 0.5) / DAY_MIN
    found = cosinor((7 + 3 * np.cos(angle - 2 * np.pi * 15.25 / 24)).reshape(5, DAY_MIN))
    assert {k: pytest.approx(float(v)) for k, v in found.items()} == {
        "mesor": 7, "amplitude": 3, "acrophase_h": 15.25, "cosinor_r2": 1,
    }  # fmt: skip


def test_onsets_go_round_midnight():
    """Rest from 22:30, activity from 6:00."""
    day = np.full(DAY_MIN, 10.0)
    day[np.arange(22 * 60 + 30, 22 * 60 + 30 + 300) % DAY_MIN] = 1.0
    day[6 * 60 : 16 * 60] = 100.0
    found = rhythm(day[None])
    assert (float(found["l5"]), float(found["l5_onset_h"])) == (pytest.approx(1), 22.5)
    assert (float(found["m10"]), float(found["m10_onset_h"])) == (pytest.approx(100), 6)


@settings(max_examples=50)
@given(st.integers(0, 1000), st.floats(0.1, 100), st.integers(0, DAY_MIN - 1))
def test_what_scaling_and_shifting_do(seed, scale, shift):
    """Shares and rhythms don't know the device's unit; a later clock moves onsets and nothing else."""
    days = np.tile(week(seed, days=1), (3, 1))
    one, other = rhythm(days), rhythm(np.roll(days, shift, axis=1) * scale)
    for name in ("relative_amplitude", "cosinor_r2"):
        np.testing.assert_allclose(other[name], one[name], rtol=1e-6, atol=1e-9)
    assert 0 <= one["relative_amplitude"] <= 1
    np.testing.assert_allclose(other["m10"], one["m10"] * scale, rtol=1e-9)
    assert abs(apart_h(other["acrophase_h"] - shift / 60, one["acrophase_h"])) < 1e-6


def test_nothing_known_and_nothing_moved():
    unknown = rhythm(np.full((2, 3, DAY_MIN), np.nan))
    assert all(np.isnan(value).all() and value.shape == (2,) for value in unknown.values())
    still = rhythm(np.zeros((3, DAY_MIN)))
    assert np.isnan(still["interdaily_stability"]) and np.isnan(still["relative_amplitude"]) and still["m10"] == 0
    half = rhythm(np.where(MINUTE < 600, 50.0, np.nan)[None])  # one stretch of 10 hours
    assert half["m10_onset_h"] == 0 and half["m10"] == pytest.approx(50)
    assert np.isnan(rhythm(np.where(MINUTE < 599, 50.0, np.nan)[None])["m10"])


def test_bad_arguments():
    with pytest.raises(ValueError, match="bins of 7 minutes: expected a divisor of 1440"):
        binned(week(), 7)


def test_hours_of_day():
    assert circular_mean_h(np.array([23.0, 1.0])) == pytest.approx(0, abs=1e-9)
    assert circular_mean_h(np.array([23.0, np.nan, 22.0])) == pytest.approx(22.5)
    assert np.isnan(circular_mean_h(np.array([6.0, 18.0]))) and np.isnan(circular_mean_h(np.array([np.nan])))
    assert apart_h(1.0, 23.0) == 2 and apart_h(23.0, 1.0) == -2


def test_real_counts(shared):
    """Five people of NHANES 2003-04 by both implementations."""
    from raycadian.modalities.actigraphy.card import ActigraphyCard
    from raycadian.modalities.actigraphy.readers import read_activity
    from raycadian.types import Issues

    path = shared / "nhanes" / "nhanes_2003_2004_unidata_5subj.csv.gz"
    for recording in read_activity([path], ActigraphyCard(name="x", files=("*",)), Issues()):
        worn = np.where(recording.observed, recording.channels["activity_counts"], np.nan).astype(np.float64)
        days = by_day(worn)
        with np.errstate(all="ignore"):
            found, expected = rhythm(days), plain(days)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-6, err_msg=name)
