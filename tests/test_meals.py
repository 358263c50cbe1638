"""Meal times from a profile, as the reference estimates them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raycadian.physiology.meals import meal_times

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
    assert both[0, :2].tolist() == pytest.approx([11.95, 13.95]) and both[0, 2].isnan()
    assert both[1].isnan().all()
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
