"""When a device that counts movement was worn, and which days count. Many people at once: P people, N minutes.

Choi et al. 2011, Med Sci Sports Exerc 43:357 (the rule of R's PhysicalActivity); Troiano et al. 2008, Med Sci Sports
Exerc 40:181 (the rule of NHANES 2003-06). Both: long stretches without movement are non-wear, short interruptions
forgiven; they differ in what is long, short and forgiven. Both were made for the hip. At the wrist an hour and a
half of zeros is deep sleep as often as not: there nothing short of two hours without any movement is non-wear (the
mask of inactivity of pyActigraphy, Hammad et al. 2021, PLoS Comput Biol 17:e1009514; shorter stretches can't be told
from immobility, Pilz et al. 2022, Sleep 45:zsac118). Missing minutes are never worn, and move nothing.
"""

from collections.abc import Callable

import numpy as np

DAY_MIN = 1440


def choi(counts: np.ndarray, window_min: int = 90, spike_min: int = 2, around_min: int = 30) -> np.ndarray:
    """Worn (..., N) bool. Non-wear: at least `window_min` of zeros; up to `spike_min` of movement between them is
    forgiven where `around_min` on both sides (as far as the recording goes) are zeros."""
    rows, start, length, moving = _stretches(_movement(counts))
    still = np.pad(np.where(moving, 0, length), 1)
    first, last = _at_edges(rows, start, length)
    before = (
        (still[:-2] >= around_min) | first | np.pad(first, (1, 0))[:-1]
    )  # zeros that the recording's edge cuts off do
    after = (still[2:] >= around_min) | last | np.pad(last, (0, 1))[1:]
    forgiven = moving & (length <= spike_min) & before & after
    return _worn(counts, rows.shape, forgiven, length, moving, window_min)


def troiano(counts: np.ndarray, window_min: int = 60, spike_min: int = 2, most_counts: float = 100.0) -> np.ndarray:
    """Worn (..., N) bool. Non-wear: at least `window_min` that begin and end with zeros; up to `spike_min` in a row of
    at most `most_counts` are forgiven."""
    rows, start, length, moving = _stretches(_movement(counts))
    first, last = _at_edges(rows, start, length)
    highest = np.maximum.reduceat(rows.ravel(), start)
    forgiven = moving & (length <= spike_min) & (highest <= most_counts) & ~first & ~last
    return _worn(counts, rows.shape, forgiven, length, moving, window_min)


def wrist(counts: np.ndarray, window_min: int = 120) -> np.ndarray:
    """Worn (..., N) bool. Non-wear: at least `window_min` of zeros, none of them forgiven."""
    rows, _, length, moving = _stretches(_movement(counts))
    return _worn(counts, rows.shape, np.zeros(len(length), dtype=bool), length, moving, window_min)


def always(counts: np.ndarray) -> np.ndarray:
    """Worn (..., N) bool wherever something was counted: zeros too."""
    return ~np.isnan(counts)


RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": always, "choi": choi, "troiano": troiano, "wrist": wrist,
}  # fmt: skip


def rule_of(name: str, site: str | None) -> Callable[[np.ndarray], np.ndarray]:
    """The rule that a card names; `auto`: by where the device is worn, hip or wrist, the hip where nobody says."""
    return RULES[name] if name != "auto" else wrist if site == "wrist" else choi


def valid_days(worn: np.ndarray, min_hours: float = 10.0) -> np.ndarray:
    """Days (..., D) bool that were worn for at least `min_hours`; worn (..., D, 1440)."""
    return worn.sum(axis=-1) >= 60 * min_hours


def by_day(values: np.ndarray, first_minute: int = 0, fill: float = np.nan) -> np.ndarray:
    """Minutes (..., N) from the `first_minute` of a day as whole days (..., D, 1440), `fill` before and after."""
    assert 0 <= first_minute < DAY_MIN, f"first minute {first_minute} of a day"
    n = first_minute + values.shape[-1]
    pad = [(0, 0)] * (values.ndim - 1) + [(first_minute, -n % DAY_MIN)]
    padded = np.pad(values, pad, constant_values=fill)
    return padded.reshape(*values.shape[:-1], -1, DAY_MIN)


def _movement(counts: np.ndarray) -> np.ndarray:
    """Counts as (P, N), 0 where missing. Raises ValueError below zero."""
    counts = np.asarray(counts, dtype=np.float64)
    rows = np.nan_to_num(np.atleast_2d(counts.reshape(-1, counts.shape[-1]) if counts.size else counts))
    if (rows < 0).any():
        raise ValueError(f"counts can't be below 0, found {rows.min():g}; mark missing minutes as NaN")
    return rows


def _stretches(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Maximal runs of zeros or of movement within a row: rows (P, N); start in rows.ravel(), length, moving (S,)."""
    start, length = _runs(rows > 0)
    return rows, start, length, rows.ravel()[start] > 0


def _runs(flags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and length (S,) of the runs of equal values in flags (P, N), none across rows."""
    flat, n = flags.ravel(), flags.shape[1]
    changes = np.empty(flat.size, dtype=bool)
    changes[1:] = flat[1:] != flat[:-1]
    changes[::n] = True
    start = np.flatnonzero(changes)
    return start, np.diff(start, append=flat.size)


def _at_edges(rows: np.ndarray, start: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which runs (S,) are the first, and which the last, of their row."""
    n = rows.shape[1]
    return start % n == 0, (start + length) % n == 0


def _worn(
    counts: np.ndarray,
    shape: tuple[int, ...],
    forgiven: np.ndarray,
    length: np.ndarray,
    moving: np.ndarray,
    window: int,
) -> np.ndarray:
    """All but the runs of at least `window` without movement, the forgiven left out, and missing minutes."""
    active = np.repeat(moving & ~forgiven, length).reshape(shape)
    start, stretch = _runs(active)
    worn = np.repeat(active.ravel()[start] | (stretch < window), stretch)
    return worn.reshape(np.shape(counts)) & ~np.isnan(counts)
