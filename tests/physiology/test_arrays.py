"""NumPy arrays in, NumPy arrays out; tensors in, tensors out: equal numbers for every public function of the CMA."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raycadian.config import Prior
from raycadian.physiology.arrays import like
from raycadian.physiology.cma import equations as cma
from raycadian.physiology.cma.fit import fit_cma
from raycadian.physiology.cma.meals import Meal, difference_mgdl, meal_times
from raycadian.physiology.cma.result import FIELDS

T_H = np.linspace(0, 24, 97)
INSIDE = st.fixed_dictionaries({name: st.floats(*bounds) for name, bounds in cma.BOUNDS.items()})
BATCH = st.lists(INSIDE, min_size=1, max_size=4).map(
    lambda people: {name: np.array([p[name] for p in people]) for name in cma.PARAMETERS}
)


def tensors(value):
    return {k: tensors(v) for k, v in value.items()} if isinstance(value, dict) else torch.as_tensor(value)


def flat(result):
    """Every array or tensor of a result, in order."""
    if isinstance(result, dict):
        return [value for name in sorted(result) for value in flat(result[name])]
    return [value for part in result for value in flat(part)] if isinstance(result, list | tuple) else [result]


def assert_answers_in_kind(function, *args, **parameters):
    of_arrays = flat(function(*args, **parameters))
    of_tensors = flat(function(*map(torch.as_tensor, args), **tensors(parameters)))
    for array, tensor in zip(of_arrays, of_tensors, strict=True):
        assert isinstance(array, np.ndarray) and isinstance(tensor, torch.Tensor)
        np.testing.assert_array_equal(array, tensor.numpy())


@given(BATCH, st.lists(st.floats(0, 23.9), min_size=1, max_size=5))
@settings(max_examples=40)
def test_signals_of_arrays_are_those_of_tensors(parameters, meals):
    tM = np.sort(meals)
    for day in (cma.signals, cma.periodic):
        assert_answers_in_kind(day, T_H, **parameters, tM=tM)


@given(INSIDE, st.floats(0, 23.9))
@settings(max_examples=40)
def test_the_equations_answer_in_kind(p, meal_h):
    d, taup, taug, Cm, toff = (np.array([p[name]]) for name in ("d", "taup", "taug", "Cm", "toff"))
    assert_answers_in_kind(cma.circadian, T_H, d, taup)
    assert_answers_in_kind(cma.insulin, T_H, d, taup)
    assert_answers_in_kind(cma.clock, T_H + 24 * 3)
    assert_answers_in_kind(cma.log_since, T_H - meal_h)
    assert_answers_in_kind(cma.periodic_log_since, T_H, np.array([meal_h]))
    assert_answers_in_kind(cma.meal_response, cma.log_since(T_H - meal_h), taug)
    assert_answers_in_kind(cma.meal_distribution, T_H, Cm, toff)


def test_numbers_and_lists_give_arrays():
    day = cma.signals(T_H, **cma.DEFAULTS, tM=cma.MEAL_TIMES_H)
    assert all(isinstance(value, np.ndarray) for value in day.values())
    assert day["G"].shape == (97,) and day["g"].shape == (3, 97)
    assert cma.clock(25.5) == 1.5 and cma.clock([25, 49]).tolist() == [1.0, 1.0]


def test_one_tensor_makes_tensors_of_its_kind():
    day = cma.periodic(torch.from_numpy(T_H).float(), **cma.DEFAULTS, tM=np.array([7.0, 12.0]))
    assert day["G"].dtype == torch.float32
    assert cma.periodic(T_H.astype(np.float32), **cma.DEFAULTS, tM=[7.0])["G"].dtype == np.float32


def test_arrays_are_not_written_to():
    t_h = T_H.copy()
    back, (t,) = like(t_h)
    t += 1.0
    assert (t_h == T_H).all() and (back(t) == T_H + 1.0).all()


@given(st.integers(0, 99), st.integers(1, 3), st.booleans())
@settings(max_examples=4, deadline=None)
def test_meals_and_fits_answer_in_kind(seed, people, weighted):
    rng = np.random.default_rng(seed)
    hours = np.arange(96) / 4
    glucose = 120 + 30 * np.sin(hours / 3) + rng.normal(0, 5, (people, 96))
    glucose[:, 5] = np.nan
    assert_answers_in_kind(meal_times, hours, glucose)
    weight, tM = rng.integers(1, 9, glucose.shape).astype(float) if weighted else None, meal_times(hours, glucose)
    fits = [
        fit_cma(hours, glucose, weight=weight, tM=tM, prior=Prior()),
        fit_cma(
            *map(torch.as_tensor, (hours, glucose)), weight=None if weight is None else torch.as_tensor(weight),
            tM=torch.as_tensor(tM), prior=Prior(),
        ),
    ]  # fmt: skip
    arrays, as_tensors = ([getattr(fit, name) for name in FIELDS] for fit in fits)
    assert all(isinstance(a, np.ndarray) for a in arrays) and all(isinstance(t, torch.Tensor) for t in as_tensors)
    for array, tensor in zip(arrays, as_tensors, strict=True):
        np.testing.assert_array_equal(array, tensor.numpy())
    assert fits[0].to_records() == fits[1].to_records()
    for fit in fits:  # a curve is of the kind of its hours, whatever the fit was made from
        assert_answers_in_kind(fit.glucose_mgdl, hours)
        assert_answers_in_kind(fit.signals, hours)
        assert_answers_in_kind(lambda since, one=fit[0]: difference_mgdl(one, 9.0, since, [Meal(12.0, 0.5)]), hours)
    assert isinstance(fits[0][[0]].d, np.ndarray) and isinstance(fits[1][[0]].d, torch.Tensor)


@pytest.mark.parametrize("of", [np.asarray, torch.as_tensor])
def test_fits_are_picked_in_any_order(of):
    hours = np.arange(96) / 4
    glucose = np.stack([120 + 10 * (k + 1) * np.sin(hours / 3) for k in range(3)])
    fit = fit_cma(of(hours), of(glucose), tM=of(np.array([7.0, 12.0, 18.0])))
    for index in (1, slice(1, None), [2, 0], torch.tensor([2, 0]), np.array([1])):
        expected = np.arange(3)[index if not isinstance(index, torch.Tensor) else index.numpy()].reshape(-1)
        np.testing.assert_array_equal(np.asarray(fit[index].offset_mgdl), np.asarray(fit.offset_mgdl)[expected])
