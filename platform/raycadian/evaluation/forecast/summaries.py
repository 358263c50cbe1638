"""Figures of each person: consensus figures of glucose, of truth and forecast, as a report of a CGM system would show
them, and how much earlier than the sensor a forecast tells.

Formulas were compared with iglu-python 0.4.3 and py-agata 0.0.8 (licensed under the GPL, hence not used): equal.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from raycadian.evaluation.bootstrap import SubjectBootstrap
from raycadian.evaluation.forecast.predictions import Predictions

RANGES_MGDL = {  # Battelino et al., Diabetes Care 42:1593 (2019): low <= glucose < high, as CGM shows whole numbers
    "time_below_54_pct": (-np.inf, 54.0),
    "time_54_69_pct": (54.0, 70.0),
    "time_70_180_pct": (70.0, np.nextafter(180.0, 181.0)),
    "time_181_250_pct": (np.nextafter(180.0, 181.0), np.nextafter(250.0, 251.0)),
    "time_above_250_pct": (np.nextafter(250.0, 251.0), np.inf),
}
"""Below 54; 54 to 69; 70 to 180; 181 to 250; above 250 mg/dL: they leave nothing out and overlap nowhere."""


def summary(glucose: np.ndarray) -> dict[str, float]:
    """Every figure of one series (N,) in mg/dL, in time order, NaN where missing; NaN where nothing is measured."""
    seen = glucose[~np.isnan(glucose)]
    if not len(seen):
        return dict.fromkeys(
            (*RANGES_MGDL, "mean_mgdl", "cv_pct", "gmi_pct", "gri", "lbgi", "hbgi", "mage_mgdl"), np.nan
        )
    ranges = time_in_ranges_pct(seen)
    low, high = blood_glucose_indices(seen)
    return ranges | {
        "mean_mgdl": float(seen.mean()),
        "cv_pct": cv_pct(seen),
        "gmi_pct": gmi_pct(seen),
        "gri": gri(ranges),
        "lbgi": low,
        "hbgi": high,
        "mage_mgdl": mage_mgdl(glucose),
    }


def time_in_ranges_pct(glucose: np.ndarray) -> dict[str, float]:
    """Share of measured points in each of RANGES_MGDL, percent."""
    seen = glucose[~np.isnan(glucose)]
    return {name: float(100 * np.mean((seen >= low) & (seen < high))) for name, (low, high) in RANGES_MGDL.items()}


def cv_pct(glucose: np.ndarray) -> float:
    """Coefficient of variation: 100 sd / mean, the sd over n - 1; NaN for a single point."""
    seen = glucose[~np.isnan(glucose)]
    return float(100 * seen.std(ddof=1) / seen.mean()) if len(seen) > 1 else float("nan")


def gmi_pct(glucose: np.ndarray) -> float:
    """Glucose management indicator: the HbA1c that the mean glucose suggests. Bergenstal et al., Diabetes Care
    41:2275 (2018)."""
    return float(3.31 + 0.02392 * np.nanmean(glucose))


def gri(ranges: dict[str, float]) -> float:
    """Glycemia risk index, 0 (best) to 100. Klonoff et al., J Diabetes Sci Technol 17:1226 (2023; online 2022)."""
    low = 3.0 * ranges["time_below_54_pct"] + 2.4 * ranges["time_54_69_pct"]
    return min(100.0, low + 1.6 * ranges["time_above_250_pct"] + 0.8 * ranges["time_181_250_pct"])


def blood_glucose_indices(glucose: np.ndarray) -> tuple[float, float]:
    """LBGI, HBGI: risk of lows and of highs. Kovatchev et al., Diabetes Care 20:1655 (1997): means of 10 f² on either
    side of f = 1.509 (ln(glucose)^1.084 - 5.381), which is 0 at 112.5 mg/dL."""
    seen = glucose[~np.isnan(glucose)]
    f = 1.509 * (np.log(np.maximum(seen, 1.0)) ** 1.084 - 5.381)
    return float(np.mean(10 * np.minimum(f, 0) ** 2)), float(np.mean(10 * np.maximum(f, 0) ** 2))


def mage_mgdl(glucose: np.ndarray) -> float:
    """Mean amplitude of glycemic excursions: of swings between turning points that exceed one standard deviation.

    Service et al., Diabetes 19:644 (1970), upward and downward swings together (iglu's direction "avg"). A turning
    point is confirmed once glucose has come back from it by more than one standard deviation (over n - 1), so smaller
    wiggles end no swing; nothing is smoothed. Missing points are passed over. NaN where no swing is that large.
    """
    seen = glucose[~np.isnan(glucose)]
    if len(seen) < 2:
        return float("nan")
    turns = _turning_points(seen.tolist(), float(seen.std(ddof=1)))
    return float(np.abs(np.diff(turns)).mean()) if len(turns) > 1 else float("nan")


def _turning_points(values: list[float], threshold: float) -> list[float]:
    """Peaks and nadirs in turn, neighbours more than `threshold` apart, the last the extreme so far; empty: none."""
    low = high = values[0]
    direction, turns = 0, []  # 1 rising from a nadir, -1 falling from a peak, 0 not yet known
    for value in values:
        low, high = min(low, value), max(high, value)
        if direction >= 0 and high - value > threshold:
            turns.append(high)
            direction, low = -1, value
        elif direction <= 0 and value - low > threshold:
            turns.append(low)
            direction, high = 1, value
    return turns + ([high] if direction > 0 else [low] if direction < 0 else [])


def person_series(p: Predictions) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """subject, truth (N,), forecast (N,) in time order: each moment once, by the longest-ahead forecasts that leave
    no gap.

    Windows of one subject that follow each other after s steps overlap: the last s steps of each are taken (all where
    they do not overlap). Forecasts count only where truth was measured, so both sides of a comparison see the same
    moments.
    """
    steps = p.truth.shape[1]
    forecast = np.where(np.isnan(p.truth), np.nan, p.median).astype(np.float64)
    order = np.lexsort((p.time_utc, p.subject))
    for mine in np.split(order, np.flatnonzero(p.subject[order][1:] != p.subject[order][:-1]) + 1):
        if not len(mine):
            return
        gap = np.diff(p.time_utc[mine].astype("datetime64[s]").astype(np.int64)) / (60 * p.dt_min)
        taken = min(steps, max(1, round(float(gap[gap > 0].min(initial=steps)))))
        yield (
            str(p.subject[mine[0]]),
            p.truth[mine, -taken:].ravel().astype(np.float64),
            forecast[mine, -taken:].ravel(),
        )


def glucose_summaries(p: Predictions) -> pd.DataFrame:
    """A row a subject: n_points, then <figure>_truth, <figure>_forecast for every figure of `summary`."""
    rows = []
    for subject, truth, forecast in person_series(p):
        row: dict[str, str | float] = {"subject": subject, "n_points": int((~np.isnan(truth)).sum())}
        forecasts = summary(forecast)
        for name, value in summary(truth).items():
            row |= {f"{name}_truth": value, f"{name}_forecast": forecasts[name]}
        rows.append(row)
    return pd.DataFrame(rows)


MIN_WINDOWS = 10  # fewer pairs of a subject say nothing about a correlation


def temporal_gain_min(p: Predictions, step: int, people: SubjectBootstrap) -> np.ndarray:
    """(S,) minutes gained at one step of the horizon, for each of `people.subjects`; NaN where too little was measured.

    Gain = horizon - delay, where the delay (0 up to the horizon, in steps of dt) is the shift of the truth at which
    it correlates most with the forecast: corr over the subject's windows of forecast(t + horizon) with truth(t +
    horizon - delay), where truth(t) is the last point before the forecast. 0 for "as now", the whole horizon for a
    forecast without lag. Facchinetti, Sparacino, Trifoglio, Cobelli, Diabetes Technol Ther 13:111 (2011). Of equal
    correlations the smaller delay counts.
    """
    if p.past is None:
        return np.full(len(people.subjects), np.nan)
    shifted = np.column_stack([p.truth[:, step::-1], p.past[:, -1]]).astype(
        np.float64
    )  # (W, step + 2): delay 0, 1, ...
    shifted[np.isnan(p.truth[:, step])] = np.nan  # a forecast counts only where its truth was measured
    correlation = _correlations(np.broadcast_to(p.median[:, step, None], shifted.shape), shifted, people)
    known = ~np.isnan(correlation).any(1)
    delay = np.argmax(np.where(known[:, None], correlation, 0.0), axis=1)
    return np.where(known, p.horizon_min[step] - p.dt_min * delay, np.nan)


def _correlations(x: np.ndarray, y: np.ndarray, people: SubjectBootstrap) -> np.ndarray:
    """(W, K) pairs -> (S, K): Pearson's correlation over each subject's complete pairs."""
    seen = ~np.isnan(y)
    x, y = np.where(seen, x, 0.0), np.where(seen, y, 0.0)
    n = people.sum(seen)
    with np.errstate(invalid="ignore", divide="ignore"):
        mx, my = people.sum(x) / n, people.sum(y) / n
        cross = people.sum(x * y) / n - mx * my
        spread = (people.sum(x * x) / n - mx**2) * (people.sum(y * y) / n - my**2)
        correlation = cross / np.sqrt(spread)
    return np.where((n >= MIN_WINDOWS) & (spread > 1e-6), correlation, np.nan)
