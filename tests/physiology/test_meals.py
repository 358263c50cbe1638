"""Meal times from a profile, as the reference estimates them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raycadian.config import Prior
from raycadian.physiology.cma.fit import fit_cma
from raycadian.physiology.cma.meals import Meal, difference_mgdl, meal_times, parse_meal, usual_meals
from raycadian.physiology.cma.result import CMAFit

T_H = np.arange(288) / 12


def _peaks(*hours: float) -> np.ndarray:
    return 100 + sum(50 * np.exp(-(((T_H - hour) / 1.0) ** 2)) for hour in hours)


def test_peaks_at_8_13_19_give_the_reference_values():
    assert meal_times(T_H, _peaks(8, 13, 19)).tolist() == pytest.approx([5.95, 11.95, 17.95], abs=1e-12)


def test_a_plain_loop_agrees():
    rng = np.random.default_rng(0)
    glucose = 120 + 20 * rng.standard_normal((20, 288)).cumsum(1) / 10
    for n in (1, 3, 6, 11):
        for row, found in zip(glucose, meal_times(T_H, glucose, n).tolist(), strict=True):
            means = [row[24 * b : 24 * (b + 1)].mean() for b in range(12)]
            rises = sorted(range(1, 12), key=lambda b, m=means: m[b - 1] - m[b])[:n]
            assert found == pytest.approx(sorted(2 * b - 0.05 for b in rises), abs=1e-12)


def test_missing_readings_are_left_out_of_the_means():
    whole = _peaks(8, 13, 19)
    holed = whole.copy()
    holed[::3] = np.nan
    assert meal_times(T_H, holed).tolist() == meal_times(T_H, whole).tolist()


def test_meals_that_no_rise_shows_are_nan_and_the_others_stay():
    some = _peaks(8, 13, 19)
    some[: 24 * 5] = np.nan
    some[24 * 8 :] = np.nan  # bins 5, 6, 7 are left: two rises
    both = meal_times(T_H, np.stack([some, np.full(288, np.nan), _peaks(8, 13, 19)]))
    assert both[0, :2].tolist() == pytest.approx([11.95, 13.95]) and np.isnan(both[0, 2])
    assert np.isnan(both[1]).all()
    assert both[2].tolist() == pytest.approx([5.95, 11.95, 17.95])


def test_hours_of_several_days_in_any_order():
    order = np.random.default_rng(1).permutation(576)
    hour, glucose = np.concatenate([T_H, T_H + 24])[order], np.concatenate([_peaks(8, 13, 19)] * 2)[order]
    assert meal_times(torch.tensor(hour), torch.tensor(glucose)).tolist() == pytest.approx([5.95, 11.95, 17.95])


def test_rounding_does_not_move_a_reading_to_the_bin_before():
    hour = torch.tensor(T_H) + 24 * 17 - 1e-11
    assert meal_times(hour, _peaks(8, 13, 19)).tolist() == meal_times(T_H, _peaks(8, 13, 19)).tolist()
    steps = np.repeat([1.0, 1.0, 1.0, 9.0] + [1.0] * 8, 24)  # a step at 6:00 exactly
    assert meal_times(hour, steps, 1).tolist() == pytest.approx([5.95])


@pytest.mark.parametrize("n", [0, 12])
def test_impossible_numbers_of_meals_are_refused(n):
    with pytest.raises(ValueError, match="1 to 11 meals"):
        meal_times(T_H, _peaks(8), n)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="differ"):
        meal_times(T_H[:100], _peaks(8))


# --- other meals ------------------------------------------------------------------------------------------------------


def fitted(gains="one") -> CMAFit:
    glucose = torch.tensor(_peaks(8, 13, 19))[None]
    return fit_cma(torch.tensor(T_H), glucose, tM=meal_times(T_H, glucose), prior=Prior(), gains=gains)


SINCE_H = torch.arange(1, 12 * 30 + 1, dtype=torch.float64) / 12


@pytest.mark.parametrize("gains", ["one", "per_meal"])
@pytest.mark.parametrize("origin_h", [0.0, 5.95, 16.0, 23.9])
def test_the_usual_meals_change_nothing(gains, origin_h):
    fit = fitted(gains)
    found = difference_mgdl(fit, origin_h, SINCE_H, usual_meals(fit))
    assert found.abs().max() < 1e-9


def plain(fit: CMAFit, origin_h: float, meals: list[Meal]) -> np.ndarray:
    """The curve from every single meal of three days, each for two days: what `difference_mgdl` says in closed form."""
    curve = []
    taug, gain, usual = fit.taug.item(), fit.gain_mgdl[0].tolist(), fit.tM[0].tolist()
    eaten = [(day * 24 + hour, g) for day in (-2, -1, 0, 1, 2) for hour, g in zip(usual, gain, strict=True)]
    eaten = [(at, g) for at, g in eaten if at <= origin_h]
    for meal in meals:
        near = min(range(len(usual)), key=lambda i: min(abs(meal.hour - usual[i]), 24 - abs(meal.hour - usual[i])))
        at = next(meal.hour + 24 * day for day in (0, 1) if meal.hour + 24 * day > origin_h)
        eaten += [(at + 24 * day, meal.size * gain[near]) for day in range(3)]
    signals = fit.signals(origin_h + SINCE_H)
    rise = 1.3 / (1 + signals["I_E"][0])
    base = fit.offset_mgdl[0] + (fit.gain_mgdl[0].sum() * fit.B[0] * (1 + signals["meal_distr"][0]))
    for since in (origin_h + SINCE_H).tolist():
        # as in cma.periodic: the latest two occurrences of a clock time act
        curve.append(
            sum(g * np.exp(-(np.log(2 * (since - at) / taug**2) ** 2)) for at, g in eaten if 0 < since - at < 48)
        )
    return (base + rise * torch.tensor(curve)).numpy()


@pytest.mark.parametrize("gains", ["one", "per_meal"])
@pytest.mark.parametrize(
    ("origin_h", "meals"),
    [(16.0, [Meal(20.0)]), (16.0, []), (16.0, [Meal(15.0, 2.0), Meal(16.5, 0.5)]), (22.0, [Meal(1.0), Meal(9.0)])],
)
def test_other_meals_by_summing_every_single_one(gains, origin_h, meals):
    fit = fitted(gains)
    before = fit.glucose_mgdl(origin_h + SINCE_H)[0]
    found = (before + difference_mgdl(fit, origin_h, SINCE_H, meals)).numpy()
    np.testing.assert_allclose(found, plain(fit, origin_h, meals), rtol=0, atol=1e-3)  # periodic's 48 h of a meal


ONE = fitted()


@given(
    origin_h=st.floats(0, 24, exclude_max=True), hour=st.floats(0, 24, exclude_max=True), size=st.floats(0, 5),
)  # fmt: skip
@settings(max_examples=50)
def test_nothing_changes_before_the_first_other_meal(origin_h, hour, size):
    fit = ONE
    found = difference_mgdl(fit, origin_h, SINCE_H, [Meal(hour, size)])
    first = min((m.hour - origin_h) % 24 or 24.0 for m in (*usual_meals(fit), Meal(hour)))
    assert not found[first - 1e-6 >= SINCE_H].any()
    twice = difference_mgdl(fit, origin_h, SINCE_H, [Meal(hour, size), Meal(hour, size)])
    none = difference_mgdl(fit, origin_h, SINCE_H, [])
    torch.testing.assert_close(twice - none, 2 * (found - none), rtol=0, atol=1e-9)  # linear in sizes


@pytest.mark.parametrize(
    ("text", "meal"),
    [
        ("20:00", Meal(20.0)),
        ("7:30x0.5", Meal(7.5, 0.5)),
        (" 00:00x2 ", Meal(0.0, 2.0)),
        ("23:59*1.25", Meal(23 + 59 / 60, 1.25)),
    ],
)
def test_meals_in_words(text, meal):
    assert parse_meal(text) == meal and parse_meal(str(meal)) == meal


@pytest.mark.parametrize("text", ["20", "24:00", "20:60", "20:00x", "20:00x-1", "20:00 x1", "x", "20:00xnan"])
def test_words_that_are_no_meal(text):
    with pytest.raises(ValueError, match="expected HH:MM"):
        parse_meal(text)


@pytest.mark.parametrize("value", [(24.0, 1.0), (-1.0, 1.0), (7.0, -0.1), (7.0, float("nan")), (float("nan"), 1.0)])
def test_impossible_meals(value):
    with pytest.raises(ValueError, match="hour from 0 to 24"):
        Meal(*value)
