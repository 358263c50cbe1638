"""The CMA equations: golden values, an independent scalar implementation, shapes, gradients, periodicity."""

import csv
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raycadian.physiology.cma import equations as cma

SIGNALS = ("L", "m", "c", "a", "I_S", "I_E", "G")
GOLDEN = Path(__file__).parents[1] / "golden" / "cma.csv"
TM = torch.tensor(cma.MEAL_TIMES_H, dtype=torch.float64)

inside = st.fixed_dictionaries({name: st.floats(*bounds) for name, bounds in cma.BOUNDS.items()})


def scalar_signals(t: float, tM: tuple[float, ...], d, taup, taug, B, Cm, toff) -> dict[str, float]:
    """The formulas of the reference, one number at a time, with `math` alone, its clipping of exponents included."""

    def exp(x):
        return math.exp(min(max(x, -709.0), 709.0))

    def E(x):
        return 1.0 / (1.0 + exp(-2.0 * x))

    def E_L(s):
        return 2.0 / (1.0 + exp(2.0 * (0.025 * (s - 12.0 - d) ** 2 / (1e-18 + taup)) ** 2))

    def K(x):
        return exp(-(math.log(2.0 * x) ** 2)) if x > 0 else 0.0

    L = E_L(t)
    m = (1.0 - L) ** 3 * math.cos(-(t - 3.0 - d) * math.pi / 24.0) ** 2
    c = 4.9 / (1.0 + taup) * math.pi * E((L - 0.88) ** 3) * E(0.05 * (8.0 - t + d)) * E(2.0 * (-m) ** 3)
    a = (E((-c * m) ** 3) + exp(-0.025 * (t - 13.0 - d) ** 2) * E_L(0.7 * (27.0 - t + d))) / 2.0
    I_S = 1.0 - 0.23 * c - 0.97 * m
    base = B * (1.0 + math.cos(2.0 * math.pi * Cm * (t + toff) / 24.0) ** 2)
    g = [1.3 * K((t - meal) / taug**2) / (1.0 + a * I_S) + base for meal in tM]
    return {"L": L, "m": m, "c": c, "a": a, "I_S": I_S, "I_E": a * I_S, "G": sum(g)} | {
        f"g_{i}": value for i, value in enumerate(g)
    }


def _flat(found: dict, i: int) -> dict[str, float]:
    return {name: found[name][i].item() for name in SIGNALS} | {
        f"g_{k}": found["g"][k, i].item() for k in range(found["g"].shape[0])
    }


def test_reference_golden(shared: Path):
    """75 rows of the reference implementation, to 1e-12."""
    path = shared.parent / "facts" / "cma_golden.csv"
    if not path.is_file():
        pytest.skip(f"the reference's golden values are not here: {path} is absent")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert len(rows) == 75
    for name in ("default", "shift", "edge"):
        part = [row for row in rows if row["set"] == name]
        parameters = {k: float(part[0][k]) if part[0][k] else v for k, v in cma.DEFAULTS.items()}
        t_h = torch.tensor([float(row["t"]) for row in part], dtype=torch.float64)
        found = cma.signals(t_h, **parameters, tM=TM)
        for i, row in enumerate(part):
            for key, value in _flat(found, i).items():
                assert value == pytest.approx(float(row[key]), abs=1e-12, rel=0), (name, row["t"], key)


def test_golden():
    """golden/cma.csv: 12 rows written by `scalar_signals` above, not by the code under test."""
    rows = list(csv.DictReader(GOLDEN.read_text().splitlines()))
    assert len(rows) == 12
    for row in rows:
        tM = torch.tensor([float(row[f"tM_{i}"]) for i in range(3)], dtype=torch.float64)
        t_h = torch.tensor([float(row["t"])], dtype=torch.float64)
        found = _flat(cma.signals(t_h, **{k: float(row[k]) for k in cma.PARAMETERS}, tM=tM), 0)
        for key, value in found.items():
            assert value == pytest.approx(float(row[key]), abs=1e-12, rel=0), (row["t"], key)


@given(p=inside, t=st.floats(0, 24), tM=st.lists(st.floats(0, 23.99), min_size=1, max_size=6))
@settings(max_examples=200)
def test_equals_the_scalar_formulas(p, t, tM):
    found = cma.signals(torch.tensor([t], dtype=torch.float64), **p, tM=torch.tensor(tM, dtype=torch.float64))
    for key, value in scalar_signals(t, tuple(tM), **p).items():
        assert _flat(found, 0)[key] == pytest.approx(value, abs=1e-12, rel=1e-12), key


@given(p=inside)
@settings(max_examples=100)
def test_glucose_is_finite_and_positive_inside_the_bounds(p):
    t_h = torch.linspace(0, 24, 289, dtype=torch.float64)
    for day in (cma.signals, cma.periodic):
        G = day(t_h, **p, tM=TM)["G"]
        assert G.isfinite().all() and (G >= 0).all()
        if p["B"] > 0:
            assert (G > 0).all()


def test_effective_insulin_stays_below_what_the_gain_limit_assumes():
    d, taup = (torch.linspace(*cma.BOUNDS[k], 53, dtype=torch.float64) for k in ("d", "taup"))
    t = torch.linspace(0, 24, 97, dtype=torch.float64)
    I_E = cma.circadian(t, d[:, None, None], taup[:, None])["I_E"]
    assert I_E.min() > 0 and I_E.max() < 0.69


def test_batches_equal_single_calls():
    generator = torch.Generator().manual_seed(0)
    p = {
        k: low + (high - low) * torch.rand(5, generator=generator, dtype=torch.float64)
        for k, (low, high) in cma.BOUNDS.items()
    }
    tM = 24 * torch.rand(5, 4, generator=generator, dtype=torch.float64)
    t_h = 24 * torch.rand(5, 31, generator=generator, dtype=torch.float64)
    taug = 0.1 + 2.9 * torch.rand(5, 4, generator=generator, dtype=torch.float64)  # one a meal
    for day in (cma.signals, cma.periodic):
        for chosen in (p["taug"], taug):
            found = day(t_h, **(p | {"taug": chosen}), tM=tM)
            assert found["g"].shape == (5, 4, 31) and found["G"].shape == (5, 31)
            for i in range(5):
                one = day(t_h[i], **{k: v[i] for k, v in (p | {"taug": chosen}).items()}, tM=tM[i])
                for key, value in one.items():
                    torch.testing.assert_close(found[key][i], value, rtol=0, atol=1e-14)


def test_meals_taken_apart_add_up():
    """A time constant a meal acts on its own meal alone."""
    t_h = torch.linspace(0, 24, 49, dtype=torch.float64)
    same = cma.signals(t_h, **cma.DEFAULTS, tM=TM)["g"]
    mixed = cma.signals(t_h, **(cma.DEFAULTS | {"taug": torch.tensor([1.0, 2.0, 1.0])}), tM=TM)["g"]
    assert torch.equal(same[[0, 2]], mixed[[0, 2]]) and not torch.equal(same[1], mixed[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"taug": torch.ones(2)}, "one for each of 3 meals"),
        ({"taug": torch.ones(2, 2, 3)}, "one for each of 3 meals"),
        ({"tM": torch.tensor(7.0)}, "expected t_h"),
    ],
)
def test_wrong_shapes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        cma.signals(torch.linspace(0, 24, 5), **(cma.DEFAULTS | {"tM": TM} | change))


# --- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("day", [cma.signals, cma.periodic])
def test_gradients_are_finite_everywhere(day):
    """Before, at and just after a meal; at the saddle Cm = 0; at every corner of the bounds."""
    corners = torch.cartesian_prod(*(torch.tensor(b, dtype=torch.float64) for b in cma.BOUNDS.values()))
    defaults = torch.tensor([list(cma.DEFAULTS.values())], dtype=torch.float64)
    theta = torch.cat([corners, defaults]).requires_grad_()
    t_h = torch.tensor([0.0, 6.9, 7.0, 7.0 + 1e-12, 7.1, 24.0], dtype=torch.float64).requires_grad_()
    tM = TM.clone().requires_grad_()
    found = day(t_h, **dict(zip(cma.PARAMETERS, theta.unbind(1), strict=True)), tM=tM)
    for value in found.values():
        for gradient in torch.autograd.grad(value.sum(), (theta, t_h, tM), retain_graph=True, allow_unused=True):
            assert gradient is None or gradient.isfinite().all()


@pytest.mark.parametrize("day", [cma.signals, cma.periodic])
def test_gradients_are_right(day):
    t_h = torch.tensor([1.3, 8.2, 12.0, 19.4], dtype=torch.float64)

    def G(theta, tM):
        return day(t_h, **dict(zip(cma.PARAMETERS, theta, strict=True)), tM=tM)["G"]

    for values in ([0.3, 1.2, 0.9, 0.1, 0.4, 0.5], [-7.0, 0.6, 2.5, 0.7, 1.9, -2.0]):
        theta = torch.tensor(values, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(G, (theta, TM.clone().requires_grad_()))


def test_closed_form_derivatives_equal_automatic_ones():
    generator = torch.Generator().manual_seed(1)
    low, high = torch.tensor([cma.BOUNDS["d"], cma.BOUNDS["taup"]], dtype=torch.float64).unbind(1)
    d, taup = (low + (high - low) * torch.rand(64, 2, generator=generator, dtype=torch.float64)).unbind(1)
    t = torch.linspace(0, 24, 97, dtype=torch.float64).expand(64, 97)
    d, taup = d[:, None].clone().requires_grad_(), taup[:, None].clone().requires_grad_()
    day = cma.circadian(t, d, taup)
    with torch.no_grad():
        I_E, by_d, by_taup = cma.insulin(t, d, taup)
    assert torch.equal(I_E, day["I_E"])
    expected = torch.autograd.grad(day["I_E"].sum(), (d, taup))
    assert by_d.abs().max() > 0.05 and by_taup.abs().max() > 0.05
    torch.testing.assert_close(by_d.sum(1, keepdim=True), expected[0], rtol=0, atol=1e-13)
    torch.testing.assert_close(by_taup.sum(1, keepdim=True), expected[1], rtol=0, atol=1e-13)
    one = t[:1, 17:18]  # sums could hide errors that cancel
    _, automatic = torch.autograd.functional.jvp(
        lambda x: cma.circadian(one, x, taup[:1])["I_E"], d[:1], torch.ones(1, 1).double()
    )
    torch.testing.assert_close(by_d[:1, 17:18], automatic, rtol=0, atol=1e-14)


# --- the periodic day -------------------------------------------------------------------------------------------------


@given(p=inside, t64=st.integers(0, 24 * 64 - 1), days=st.integers(-3, 5))
@settings(max_examples=100)
def test_the_periodic_day_repeats(p, t64, days):
    t_h = torch.tensor([t64 / 64, t64 / 64 + 24 * days], dtype=torch.float64)  # exact in binary
    first, second = cma.periodic(t_h, **p, tM=TM)["G"]
    assert first.item() == second.item()


def test_the_periodic_day_is_the_day_plus_what_is_left_of_meals_before():
    t_h = torch.linspace(0, 23.99, 200, dtype=torch.float64)
    p = cma.DEFAULTS | {"taug": 2.0, "d": 1.0}
    day, periodic = cma.signals(t_h, **p, tM=TM), cma.periodic(t_h, **p, tM=TM)
    for key in ("L", "m", "c", "a", "I_S", "I_E"):
        assert torch.equal(day[key], periodic[key])
    two_days = sum(cma.signals(t_h, **p, tM=TM - 24 * k)["g"] for k in (1, 0))  # yesterday's meals, today's meals
    two_days = two_days - 0.05 * 2  # the baseline B (1 + 1), counted twice
    before_last = cma.signals(t_h, **p, tM=TM - 48)["g"] - 0.05 * 2
    late = t_h[None] < TM[:, None]  # there, the meals of the last 48 h are yesterday's and the day before's
    torch.testing.assert_close(periodic["g"], two_days + torch.where(late, before_last, 0.0), rtol=0, atol=1e-12)
    assert (periodic["G"] - day["G"]).max() > 0.01


def _at_midnight(values: dict[str, float]) -> float:
    edge = torch.tensor([24 - 1e-5, 24.0], dtype=torch.float64)
    before, after = cma.periodic(edge, **values, tM=TM)["G"]
    return abs(before - after).item()


def test_where_the_periodic_day_steps():
    """What the docstring says of its two discontinuities."""
    for Cm in (0.0, 0.5, 1.0, 1.5, 2.0):  # 2 Cm whole: cortisol alone is left
        assert _at_midnight(cma.DEFAULTS | {"Cm": Cm, "toff": 1.0}) < 2e-3
    assert 0.01 < _at_midnight(cma.DEFAULTS | {"Cm": 0.3, "toff": 1.0}) <= 3 * cma.DEFAULTS["B"]
    for taug, most in ((1.0, 1e-6), (1.5, 1e-6), (3.0, 5e-3)):
        edge = torch.tensor([7 - 1e-5, 7 + 1e-9], dtype=torch.float64)
        before, after = cma.periodic(edge, **(cma.DEFAULTS | {"taug": taug}), tM=TM)["G"]
        assert abs(before - after) < most


def test_rounding_does_not_cross_a_step():
    """A grid counted in steps reaches midnight, and a meal, from below by rounding: it gets the same values."""
    p = cma.DEFAULTS | {"Cm": 0.3, "toff": 1.0, "taug": 3.0}
    for edge in (24.0, 7.0):
        t_h = torch.tensor([edge - 1e-11, edge, edge + 1e-11], dtype=torch.float64)
        below, at, above = cma.periodic(t_h, **p, tM=TM)["G"]
        assert abs(below - at) < 1e-9 and abs(above - at) < 1e-9


def test_a_meal_time_may_lie_in_any_day():
    t_h = torch.linspace(0, 24, 50, dtype=torch.float64)
    first, second = (cma.periodic(t_h, **cma.DEFAULTS, tM=tM)["G"] for tM in (TM, TM + 24))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-12)
