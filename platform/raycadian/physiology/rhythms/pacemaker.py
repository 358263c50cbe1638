"""The human circadian pacemaker: a light-driven van der Pol oscillator, one person or many at once.

Forger, Jewett, Kronauer 1999, A simpler model of the human circadian pacemaker, J Biol Rhythms 14:532 (equations 1 to 3
and its constants). x follows core body temperature, whose minimum (CBTmin) is where x is least; melatonin begins to
rise in dim light (DLMO) 7 h before. Light in lux acts through receptors of which a share n is used up.
"""

from collections.abc import Iterable

import numpy as np

DT_H = 0.1
DLMO_BEFORE_CBT_H = 7.0
TAU_H = 24.2  # intrinsic period
_MU, _K, _G = 0.23, 0.55, 33.75
_ALPHA0, _BETA, _I0_LUX, _P = 0.05, 0.0075, 9500.0, 0.5
_STIFFNESS = (24 / (0.99669 * TAU_H)) ** 2

Value = float | np.ndarray
State = tuple[Value, Value, Value]
"""x, xc, n: each a number, or (P,)."""
START: State = (-0.8, -0.6, 0.2)


def step(state: State, alpha: Value, dt_h: float = DT_H) -> State:
    """The state after `dt_h` of a light (Runge-Kutta 4), whose drive is `alpha`."""
    a = _rates(state, alpha)
    b = _rates(_moved(state, a, dt_h / 2), alpha)
    c = _rates(_moved(state, b, dt_h / 2), alpha)
    d = _rates(_moved(state, c, dt_h), alpha)
    mean = tuple((p + 2 * q + 2 * r + s) / 6 for p, q, r, s in zip(a, b, c, d, strict=True))
    return _moved(state, mean, dt_h)


def drive(lux: np.ndarray) -> np.ndarray:
    """alpha of a light: how fast it uses receptors up, a minute. Raises ValueError below 0 lux."""
    if np.any(np.asarray(lux) < 0):
        raise ValueError(f"light can't be below 0 lux, found {np.min(lux):g}")
    return _ALPHA0 * (np.asarray(lux, dtype=np.float64) / _I0_LUX) ** _P


def simulate(lux: np.ndarray, state: State = START, dt_h: float = DT_H) -> tuple[np.ndarray, np.ndarray, State]:
    """x and xc (T+1,) or (T+1, P) at the edges of T steps of light, lux (T,) or (T, P), and the last state."""
    alpha = drive(lux)
    steps: Iterable = alpha.tolist() if alpha.ndim == 1 else alpha  # numbers are faster than arrays of one
    x, xc = [state[0]], [state[1]]
    for one in steps:
        state = step(state, one, dt_h)
        x.append(state[0])
        xc.append(state[1])
    if alpha.ndim == 2:
        x[0], xc[0] = (np.broadcast_to(first, alpha.shape[1:]) for first in (x[0], xc[0]))
    return np.array(x), np.array(xc), state


def entrained(lux: np.ndarray, days: int = 40, state: State = START, dt_h: float = DT_H) -> State:
    """The state at the beginning of a day of light, lux (T,) or (T, P), after living it `days` times."""
    for _ in range(days):
        _, _, state = simulate(lux, state, dt_h)
    return state


def cbt_minima_h(x: np.ndarray, dt_h: float = DT_H) -> np.ndarray:
    """Hours after the first point at which x (T+1,) is least in its cycle, by a parabola through three points."""
    middle = x[1:-1]
    at = np.flatnonzero((middle < x[:-2]) & (middle <= x[2:]) & (middle < 0)) + 1
    before, here, after = x[at - 1], x[at], x[at + 1]
    return (at + (before - after) / (2 * (before - 2 * here + after))) * dt_h


def _rates(state: State, alpha: Value) -> State:
    """Changes an hour of x, xc, n."""
    x, xc, n = state
    pushed = _G * alpha * (1 - n) * (1 - 0.4 * x) * (1 - 0.4 * xc)
    return (
        np.pi / 12 * (xc + pushed),
        np.pi / 12 * (_MU * (xc - 4 / 3 * xc * xc * xc) - x * (_STIFFNESS + _K * pushed)),
        60 * (alpha * (1 - n) - _BETA * n),
    )


def _moved(state: State, rates: State, h: float) -> State:
    return tuple(value + h * rate for value, rate in zip(state, rates, strict=True))
