"""The Cortisol-Melatonin-Adiponectin (CMA) model of glucose: closed-form equations, their bounds, their derivatives.

Source: the reference implementation pfun-cma-model, with the baseline B counted once a meal. Everything here is on the
model's own scale: `G` has no unit. Glucose in mg/dL is `offset + gain * G` (raycadian.physiology.cma.fit), never `G`
itself.

Public functions take tensors or NumPy arrays (and numbers, lists) and answer in kind; see physiology/arrays.py.

Shape legend: `...` batch (subjects), T times, M meals. Times are decimal hours of the local day.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from raycadian.physiology.arrays import Array, ArrayLike, like

PARAMETERS = ("d", "taup", "taug", "B", "Cm", "toff")
"""circadian phase offset, h · photoperiod width · meal response time constant · baseline · cortisol temporal
sensitivity · solar noon offset, h."""
DEFAULTS = {"d": 0.0, "taup": 1.0, "taug": 1.0, "B": 0.05, "Cm": 0.0, "toff": 0.0}
BOUNDS = {
    "d": (-12.0, 14.0), "taup": (0.5, 3.0), "taug": (0.1, 3.0), "B": (0.0, 1.0), "Cm": (0.0, 2.0), "toff": (-3.0, 3.0),
}  # fmt: skip
MEAL_TIMES_H = (7.0, 11.0, 17.5)

MEAL_DAYS = 2  # a meal of the periodic day acts for this many days; past it K(48 / taug^2) < 0.004, at taug = 3

_EPS = 1e-18
_ROUNDING_H = 1e-6  # a clock this close before midnight (or before a meal) shows midnight (or the meal)
_TINY_H = 1e-30  # stands for "not after the meal": K of it is exactly 0, and so is its gradient


def signals(
    t_h: ArrayLike, *, d: ArrayLike, taup: ArrayLike, taug: ArrayLike, B: ArrayLike, Cm: ArrayLike, toff: ArrayLike,
    tM: ArrayLike,
) -> dict[str, Array]:  # fmt: skip
    """The faithful day: every signal of the model at hours `t_h` (..., T) of one local day, 0 to 24.

    Parameters broadcast over the batch (...,); `taug` may have one value a meal, (..., M); meal times `tM` are (...,
    M). Returns L light, m melatonin, c cortisol, a adiponectin, I_S insulin sensitivity, I_E effective insulin,
    meal_distr meal distribution, G glucose, each (..., T), and g (..., M, T), the share of each meal. Differentiable in
    everything. The day is not periodic: no meal reaches past midnight; forecasting needs `periodic`. Raises ValueError
    where a shape doesn't fit.
    """
    back, (t, tM, *values) = like(t_h, tM, d, taup, taug, B, Cm, toff)
    t, tM, p = _aligned(t, tM, dict(zip(PARAMETERS, values, strict=True)))
    return back(_signals(t, meal_response(log_since(t - tM), p["taug"]), p))


def periodic(
    t_h: ArrayLike, *, d: ArrayLike, taup: ArrayLike, taug: ArrayLike, B: ArrayLike, Cm: ArrayLike, toff: ArrayLike,
    tM: ArrayLike,
) -> dict[str, Array]:  # fmt: skip
    """The day repeated, with period 24 h: what forecasting and fitting use. Shapes as `signals`; any `t_h`.

    Circadian terms and baseline take the hour of day. A meal acts for 48 h, so that the evening before reaches into the
    morning: g_i(t) = 1.3 [K(s / taug^2) + K((s + 24) / taug^2)] / (1 + I_E) + ..., s = (t - tM_i) mod 24. Continuous
    but for two places. At midnight cortisol steps (its term in 8 - t is not periodic; 0.06 in c at the defaults), and
    the baseline steps unless 2 Cm is a whole number (by B at most, a meal). At tM the response of two days ago ends:
    below 1e-6 for taug <= 1.5, 0.005 at taug = 3.
    """
    back, (t, tM, *values) = like(t_h, tM, d, taup, taug, B, Cm, toff)
    t, tM, p = _aligned(t, tM, dict(zip(PARAMETERS, values, strict=True)))
    hour = clock(t)
    response = sum(meal_response(log, p["taug"]) for log in periodic_log_since(hour, tM))
    return back(_signals(hour, response, p))


def _signals(t: Tensor, response: Tensor, p: dict[str, Tensor]) -> dict[str, Tensor]:
    """From aligned t (..., 1, T), parameters (..., 1, 1) and meal response (..., M, T)."""
    shared = circadian(t, p["d"], p["taup"])
    shared["meal_distr"] = meal_distribution(t, p["Cm"], p["toff"])
    g = 1.3 * response / (1.0 + shared["I_E"]) + p["B"] * (1.0 + shared["meal_distr"])
    flat = {name: value.squeeze(-2) for name, value in shared.items()}
    return flat | {"g": g, "G": g.sum(-2)}


def _aligned(t_h: Tensor, tM: Tensor, parameters: dict[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Everything with axes (..., meal, time): t (..., 1, T), tM (..., M, 1), parameters (..., 1 or M, 1)."""
    kind = {"dtype": t_h.dtype, "device": t_h.device}
    tM = tM.to(**kind)
    if t_h.ndim < 1 or tM.ndim < 1:
        raise ValueError(f"expected t_h (..., T) and tM (..., M); found {tuple(t_h.shape)} and {tuple(tM.shape)}")
    p = {name: value.to(**kind) for name, value in parameters.items()}
    batch = max(t_h.ndim - 1, tM.ndim - 1, *(v.ndim for name, v in p.items() if name != "taug"))
    per_meal = p["taug"].ndim > batch
    if p["taug"].ndim > batch + 1 or (per_meal and p["taug"].shape[-1] not in (1, tM.shape[-1])):
        raise ValueError(
            f"taug has one value a fit, or one for each of {tM.shape[-1]} meals; found {tuple(p['taug'].shape)}"
        )
    aligned = {name: v[..., None, None] for name, v in p.items()}
    if per_meal:
        aligned["taug"] = p["taug"][..., None]
    return t_h[..., None, :], tM[..., None], aligned


# --- the equations: any shapes that broadcast -----------------------------------------------------------------------


def _E(x: Tensor) -> Tensor:
    """E(x) = 1 / (1 + exp(-2x)); the reference clips the exponent at 709, which float64 can't tell from this."""
    return torch.sigmoid(2.0 * x)


def _light_argument(s: Tensor, taup: Tensor) -> Tensor:
    return 0.025 * s.square() / (_EPS + taup)


def _light(q: Tensor) -> Tensor:
    """Light(q) = 2 / (1 + exp(2 q^2))."""
    return 2.0 * torch.sigmoid(-2.0 * q.square())


def circadian(t: ArrayLike, d: ArrayLike, taup: ArrayLike) -> dict[str, Array]:
    """L, m, c, a, I_S, I_E at hours t."""
    back, inputs = like(t, d, taup)
    s = _circadian(*inputs)
    return back({name: getattr(s, name) for name in ("L", "m", "c", "a", "I_S", "I_E")})


class _Circadian(NamedTuple):
    """The circadian signals and the terms that their slopes need again. angle: of melatonin's cosine · E_L, E_t, E_m:
    cortisol's factors E by light, hour and melatonin · E_cm: adiponectin's first term · late: the evening's hour."""

    L: Tensor
    m: Tensor
    c: Tensor
    a: Tensor
    I_S: Tensor
    I_E: Tensor
    angle: Tensor
    cos2: Tensor
    E_L: Tensor
    E_t: Tensor
    E_m: Tensor
    E_cm: Tensor
    bell: Tensor
    evening: Tensor
    late: Tensor


def _circadian(t: Tensor, d: Tensor, taup: Tensor) -> _Circadian:
    L = _light(_light_argument(t - 12.0 - d, taup))
    angle = (t - 3.0 - d) * (math.pi / 24.0)
    cos2 = torch.cos(angle).square()
    m = (1.0 - L) ** 3 * cos2
    E_L, E_t, E_m = _E((L - 0.88) ** 3), _E(0.05 * (8.0 - t + d)), _E(-2.0 * m**3)
    c = 4.9 / (1.0 + taup) * math.pi * E_L * E_t * E_m
    late = 0.7 * (27.0 - t + d) - 12.0 - d
    evening = _light(_light_argument(late, taup))
    E_cm, bell = _E(-((c * m) ** 3)), torch.exp(-0.025 * (t - 13.0 - d).square())
    a = (E_cm + bell * evening) / 2.0
    I_S = 1.0 - 0.23 * c - 0.97 * m
    return _Circadian(L, m, c, a, I_S, a * I_S, angle, cos2, E_L, E_t, E_m, E_cm, bell, evening, late)


def clock(t: ArrayLike) -> Array:
    """Hours modulo 24. What rounding left just below 24 is taken as 0, for the day may step there."""
    back, (t,) = like(t)
    hour = t.remainder(24.0)
    return back(torch.where(hour > 24.0 - _ROUNDING_H, hour - 24.0, hour))


def log_since(since_h: ArrayLike) -> Array:
    """ln(2 (t - tM)) of hours since a meal; so low before the meal that the response is exactly 0."""
    back, (since_h,) = like(since_h)
    return back(torch.log(2.0 * since_h.clamp(min=_TINY_H)))


def periodic_log_since(hour: ArrayLike, tM: ArrayLike) -> list[Array]:
    """`log_since` for the latest meal at each clock time tM, and for the same meal of the days before."""
    back, (hour, tM) = like(hour, tM)
    since_h = clock(hour - tM)
    return back([log_since(since_h + 24.0 * day) for day in range(MEAL_DAYS)])


def meal_response(log: ArrayLike, taug: ArrayLike) -> Array:
    """K((t - tM) / taug^2), K(x) = exp(-ln(2x)^2), 0 for x <= 0; `log` is `log_since(t - tM)`."""
    back, (log, taug) = like(log, taug)
    return back(torch.exp(-(log - 2.0 * torch.log(taug)).square()))


def meal_distribution(t: ArrayLike, Cm: ArrayLike, toff: ArrayLike) -> Array:
    """cos^2(2 pi Cm (t + toff) / 24)."""
    back, (t, Cm, toff) = like(t, Cm, toff)
    return back(torch.cos(Cm * (t + toff) * (math.pi / 12.0)).square())


# --- derivatives in closed form: a tenth of the time of automatic ones, which the tests compare them with -------------


def insulin(t: ArrayLike, d: ArrayLike, taup: ArrayLike) -> tuple[Array, Array, Array]:
    """I_E, dI_E/dd and dI_E/dtaup at hours t. (E(-x) = 1 - E(x), and d ln E(x) = 2 E(-x) dx.)"""
    back, inputs = like(t, d, taup)
    return back(_insulin(*inputs))


def _insulin(t: Tensor, d: Tensor, taup: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s = _circadian(t, d, taup)
    L, m, c = s.L, s.m, s.c
    L_d, L_p = _light_derivatives(L, t - 12.0 - d, -1.0, taup)
    dark = (1.0 - L).square()
    night = dark * s.cos2 * -3.0
    m_d = night * L_d + (1.0 - L) * dark * torch.sin(2.0 * s.angle) * (math.pi / 24.0)
    m_p = night * L_p
    by_L = 6.0 * (1.0 - s.E_L) * (L - 0.88).square()
    by_m = -12.0 * (1.0 - s.E_m) * m.square()
    c_d = c * (by_L * L_d + by_m * m_d + 0.1 * (1.0 - s.E_t))
    c_p = c * (by_L * L_p + by_m * m_p - 1.0 / (1.0 + taup))
    first = -3.0 * s.E_cm * (1.0 - s.E_cm) * (c * m).square()  # the half of a = [...] / 2 is in here
    evening_d, evening_p = _light_derivatives(s.evening, s.late, -0.3, taup)
    bell, noon = 0.5 * s.bell, t - 13.0 - d
    a_d = first * (c_d * m + c * m_d) + bell * (evening_d + 0.05 * noon * s.evening)
    a_p = first * (c_p * m + c * m_p) + bell * evening_p
    return s.I_E, a_d * s.I_S - s.a * (0.23 * c_d + 0.97 * m_d), a_p * s.I_S - s.a * (0.23 * c_p + 0.97 * m_p)


def _light_derivatives(L: Tensor, s: Tensor, s_d: float, taup: Tensor) -> tuple[Tensor, Tensor]:
    """dL/dd and dL/dtaup of L = Light(0.025 s^2 / taup), where ds/dd = s_d."""
    slope = s.square() * (0.025 / taup.square()) * L * (0.5 * L - 1.0) * 0.1  # -4 q L (1 - L / 2) 0.025 / taup
    by_s = slope * s
    return by_s * (2.0 * s_d), by_s * s * (-1.0 / taup)
