"""The pacemaker against published figures: its period in the dark, phase response to bright light, and dim light's
limit."""

import numpy as np
import pytest

from raycadian.physiology.rhythms.pacemaker import START, TAU_H, cbt_minima_h, entrained, simulate

HOUR = np.arange(240) / 10
WAKING = np.where((HOUR >= 7) & (HOUR < 23), 150.0, 0.0)


def test_period_in_the_dark():
    """The intrinsic period that the model was given: 24.2 h (Czeisler et al. 1999, Science 284:2177: 24.18 h)."""
    x, xc, _ = simulate(np.zeros(240 * 40))
    assert np.diff(cbt_minima_h(x))[-5:] == pytest.approx(TAU_H, abs=0.01)
    assert np.hypot(x, xc)[-240:] == pytest.approx(1.0, abs=0.04)  # the limit cycle


@pytest.mark.parametrize("lux", [100, 250, 1000, 10_000])
def test_entrained_by_a_usual_day(lux):
    """Sleep from 23 to 7: CBTmin two to three hours before waking, melatonin from about 21:30."""
    x, _, _ = simulate(np.tile(WAKING / 150 * lux, 3), entrained(WAKING / 150 * lux))
    minima = cbt_minima_h(x)
    assert np.diff(minima) == pytest.approx(24, abs=0.01)
    assert 4 < minima[0] < 5


def phase_shift_h(from_cbt_h: float, lux: float = 10_000, hours: float = 6.7) -> float:
    """Shift by a pulse in dim light (3 lux), its middle so long after CBTmin; advances positive."""
    state, t = entrained(WAKING), np.arange(2400) / 10
    dim, _, _ = simulate(np.full(2400, 3.0), state)
    minima = cbt_minima_h(dim)
    middle = minima[1] + from_cbt_h
    pulse = np.where(np.abs(t + 0.05 - middle) < hours / 2, lux, 3.0)
    shifted = cbt_minima_h(simulate(pulse, state)[0])
    return float(minima[-2] - shifted[np.argmin(np.abs(shifted - minima[-2]))])


def test_phase_response_to_bright_light():
    """Khalsa et al. 2003, J Physiol 549:945, 6.7 h of up to 10,000 lux: delays when its middle is before CBTmin (up to
    3.4 h), advances after it (up to 2.0 h), nothing at it, little by day."""
    shifts = {h: phase_shift_h(h) for h in (-12, -6, -3, 0, 3, 6)}
    assert -3.4 < shifts[-3] < shifts[-6] < -1.4
    assert 1 < shifts[6] < shifts[3] < 2.0
    assert abs(shifts[0]) < 0.25 and abs(shifts[-12]) < 0.5


@pytest.mark.parametrize(
    ("day_h", "lux", "follows"), [(23.5, 1.5, False), (24.6, 1.5, False), (23.5, 450, True), (24.6, 450, True)]
)
def test_limit_of_entrainment(day_h, lux, follows):
    """Wright et al. 2001, PNAS 98:14027: candle light (1.5 lux) holds nobody to days of 23.5 or 24.6 h; Czeisler et al.
    and Scheer et al. 2007, PLoS One 2:e721: brighter light does."""
    t = np.arange(round(day_h * 10)) / 10
    day = np.where(t < day_h * 2 / 3, lux, 0.0)
    x, _, _ = simulate(np.tile(day, 60), entrained(WAKING))
    period = np.diff(cbt_minima_h(x))[-10:].mean()
    assert (abs(period - day_h) < 0.02) == follows


def test_many_people_at_once():
    light = np.stack([WAKING, np.roll(WAKING, 30), np.zeros(240)], axis=1)
    state = tuple(np.full(3, value) for value in START)
    x, xc, last = simulate(light, state)
    assert x.shape == xc.shape == (241, 3)
    for i in range(3):
        alone, _, end = simulate(light[:, i])
        np.testing.assert_allclose(x[:, i], alone, rtol=1e-12)
        np.testing.assert_allclose([value[i] for value in last], end, rtol=1e-12)


def test_smaller_steps_give_the_same():
    coarse, _, _ = simulate(np.tile(WAKING, 5))
    fine, _, _ = simulate(np.repeat(np.tile(WAKING, 5), 4), dt_h=0.025)
    np.testing.assert_allclose(coarse, fine[::4], atol=1e-6)


def test_negative_light():
    with pytest.raises(ValueError, match="light can't be below 0 lux, found -1"):
        simulate(np.array([10.0, -1.0]))
