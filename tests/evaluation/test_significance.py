"""Tests of significance against published implementations, tables and brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycadian.evaluation.forecast.significance import diebold_mariano, holm, overlapping, ranks

ONE = [3, -1, 4, -1, 5, -9, 2, 6, -5, 3, 5, -8, 9, 7, -9, 3, 2, -3, 8, 4]
TWO = [2, -7, 1, -8, 2, -8, 1, 8, -2, 8, 4, -5, 9, 0, -4, 5, 2, -3, 5, 3]


def every_5_min(n: int, start: str = "2026-01-05T00:00") -> np.ndarray:
    return np.datetime64(start, "s") + 300 * np.arange(n)


def dm(difference, h: int):
    difference = np.asarray(difference, float)
    overlap = overlapping(np.full(len(difference), "a"), every_5_min(len(difference)), 5 * h)
    return diebold_mariano(difference, overlap)


@pytest.mark.parametrize(
    "h, power, statistic, p",
    [  # from the package dieboldmariano 1.1.0 (MIT), which tests itself against R's forecast::dm.test
        (1, 2, 0.5349500113450316, 0.5988900109522424),
        (1, 1, 0.6331223277191699, 0.5342008292050814),
        (2, 2, 0.58620154657141, 0.5646398852166511),
        (2, 1, 0.879633819329724, 0.3900478623139618),
        (3, 1, 0.6028436178259203, 0.5537409759535701),
        (4, 2, 0.43890153896576345, 0.6656833250096946),
    ],
)
def test_one_person_is_the_published_test(h, power, statistic, p):
    test = dm(np.abs(ONE) ** power - np.abs(TWO) ** power, h)
    assert (test.statistic, test.p) == pytest.approx((statistic, p), rel=1e-12)
    assert test.df == pytest.approx(19) and (test.n_subjects, test.n_windows) == (1, 20)


def test_the_published_example_of_that_package():
    truth, one, two = np.array([[10, 20, 30, 40, 50], [11, 21, 29, 42, 53], [13, 26, 24, 40, 59]])
    test = dm((one - truth) ** 2 - (two - truth) ** 2, 1)
    assert (test.statistic, test.p) == pytest.approx((-2.2229922805746782, 2 * 0.04515565862099125))


def test_gaps_and_order_are_seen():
    """Windows across a gap don't overlap, and those of another person never do; the order of rows says nothing."""
    time = np.r_[every_5_min(10), every_5_min(10, "2026-01-06T00:00")]
    overlap = overlapping(np.full(20, "a"), time, 15)
    assert [len(left) for left, _ in overlap.pairs] == [18, 16]
    two = overlapping(np.repeat(["a", "b"], 10), np.r_[every_5_min(10), every_5_min(10)], 15)
    assert [len(left) for left, _ in two.pairs] == [18, 16]
    x, mixed = np.random.default_rng(0).normal(size=20), np.random.default_rng(1).permutation(20)
    again = diebold_mariano(x[mixed], overlapping(np.full(20, "a"), time[mixed], 15))
    assert again.statistic == pytest.approx(diebold_mariano(x, overlap).statistic)


def test_people_add_up():
    """Two people with the same losses: the same mean, half the variance of it, twice the degrees of freedom."""
    x = np.random.default_rng(3).normal(0.3, 1, 40)
    alone = dm(x, 3)
    both = diebold_mariano(
        np.r_[x, x], overlapping(np.repeat(["a", "b"], 40), np.r_[every_5_min(40), every_5_min(40)], 15)
    )
    assert both.statistic == pytest.approx(alone.statistic * np.sqrt(2)) and both.df == pytest.approx(2 * alone.df)


def test_what_cannot_be_tested():
    assert np.isnan(dm([1.0, 2.0], 2).p)
    assert dm([0.0] * 9, 2).p == 1
    assert np.isnan(dm([2.0] * 9, 1).p)  # always the same difference: no chance to estimate
    some = np.array([1.0, np.nan, -2, 0.5, 3, -1, 2, 2])
    assert dm(some, 1).statistic == pytest.approx(dm(some[~np.isnan(some)], 1).statistic)


def test_false_alarms_are_as_many_as_stated():
    """Equal forecasters with overlapping errors: 5% of the tests find a difference, not the 25% of an independent
    t-test."""
    rng, result = np.random.default_rng(0), []
    subject, time = np.repeat(np.arange(4), 120), np.tile(every_5_min(120), 4)
    overlap = overlapping(subject, time, 30)
    for _ in range(600):
        shocks = rng.normal(size=(4, 125))
        x = np.stack([shocks[:, i : i + 120] for i in range(6)]).sum(0).ravel()  # a moving average of order h - 1
        result.append(diebold_mariano(x, overlap).p < 0.05)
    assert 0.02 < np.mean(result) < 0.10


def test_holm_by_hand():
    """0.01 x 4, 0.02 x 3, 0.03 x 2 -> 0.06 by monotony, 0.04 x 1 -> 0.06."""
    assert holm(np.array([0.04, 0.01, np.nan, 0.03, 0.02])) == pytest.approx(
        [0.06, 0.04, np.nan, 0.06, 0.06], nan_ok=True
    )


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_each_and_bonferroni(values):
    p = np.array(values)
    adjusted = holm(p)
    assert (adjusted >= p - 1e-12).all() and (adjusted <= np.minimum(len(p) * p, 1) + 1e-12).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= -1e-12).all()


@pytest.mark.parametrize("models, q", [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_nemenyi_is_demsars_table(models, q):
    """Demšar 2006, table 5a, two-tailed 0.05."""
    people = 14
    losses = {f"m{i}": np.arange(people) + 1.0 * i for i in range(models)}
    ranking = ranks(losses)
    assert ranking.critical / np.sqrt(models * (models + 1) / (6 * people)) == pytest.approx(q, abs=1e-3)
    assert list(ranking.mean.values()) == list(range(1, models + 1))


def test_friedman_and_groups():
    """Demšar 2006, section 3.2.2: mean ranks 3.143, 2.000, 2.893, 1.964 of 4 classifiers on 14 data sets, CD 1.25.

    The paper ranks .975 and .975 of its 13th data set by digits that its table doesn't print: here .9751 and .975."""
    auc = np.array([
        [.763, .768, .771, .798], [.599, .591, .590, .569], [.954, .971, .968, .967], [.628, .661, .654, .657],
        [.882, .888, .886, .898], [.936, .931, .916, .931], [.661, .668, .609, .685], [.583, .583, .563, .625],
        [.775, .838, .866, .875], [1., 1., 1., 1.], [.940, .962, .965, .962], [.619, .666, .614, .669],
        [.972, .981, .9751, .975], [.957, .978, .946, .970],
    ])  # fmt: skip
    losses = {name: -auc[:, i] for i, name in enumerate(("C4.5", "m", "cf", "mcf"))}
    ranking = ranks(losses)
    assert list(ranking.mean.values()) == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert ranking.critical == pytest.approx(1.25, abs=0.005) and ranking.p < 0.05
    assert ranking.groups() == [["mcf", "m", "cf", "C4.5"]]  # not powerful enough, as the paper says
    weaker = ranks(losses, alpha=0.10)
    assert weaker.critical == pytest.approx(1.12, abs=0.005)
    assert weaker.groups() == [["mcf", "m", "cf"], ["cf", "C4.5"]]


def test_ranks_need_people_and_models():
    with pytest.raises(ValueError, match="found 1 and 3"):
        ranks({"a": np.arange(3.0)})
    with pytest.raises(ValueError, match="found 2 and 1"):
        ranks({"a": np.array([1.0, np.nan]), "b": np.array([1.0, 2.0])})
    assert np.isnan(ranks({"a": np.arange(4.0), "b": np.arange(4.0)}).p)
    assert ranks({n: np.arange(4.0) for n in "abc"}).p == 1
