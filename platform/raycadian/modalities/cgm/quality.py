"""What a subject's readings are worth before anything is fitted: coverage, gaps, glucose metrics.

Ranges: Battelino et al. 2019, international consensus on time in range, Diabetes Care 42:1593. Glucose management
indicator: Bergenstal et al. 2018, Diabetes Care 41:2275. Shares are of readings, not of interpolated points.
"""

from typing import Any

import numpy as np

from raycadian.config.windows import Grid
from raycadian.data.grid import seconds
from raycadian.types import GLUCOSE, TIME_UTC, Readings, Recording

# key -> (label, colour, readings in it), of whole mg/dL as in the consensus: 10.0 mmol/L is 180 mg/dL and in range
RANGES = {
    "below_54_pct": ("< 54", "#8c1d1d", lambda g: g < 54),
    "from_54_to_69_pct": ("54–69", "#d9534f", lambda g: (g >= 54) & (g <= 69)),
    "in_range_pct": ("70–180", "#4c9f70", lambda g: (g >= 70) & (g <= 180)),
    "from_181_to_250_pct": ("181–250", "#f2c94c", lambda g: (g >= 181) & (g <= 250)),
    "above_250_pct": ("> 250", "#e08a1e", lambda g: g > 250),
}


def quality(readings: Readings, recordings: list[Recording], grid: Grid) -> dict[str, Any]:
    """One subject's metrics, ready for JSON; None where there is too little to say.

    days: first to last reading · interval_min: median time between readings · coverage_pct: share of that span not lost
    in missed readings (time between readings beyond 1.5 intervals, less one interval) · interruptions: how often
    readings were missed · gaps: those longer than `grid.gap_min` · GMI % = 3.31 + 0.02392 mean · flags: what a
    researcher should know first.
    """
    frame = readings.glucose[np.isfinite(readings.glucose[GLUCOSE].to_numpy(np.float64))]
    glucose = frame[GLUCOSE].to_numpy(np.float64)
    metrics = _coverage(np.unique(seconds(frame[TIME_UTC])), grid) | _glucose(glucose)
    metrics |= {"recordings": len(recordings), "points": sum(map(len, recordings))}
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in metrics.items()} | {"flags": _flags(metrics)}


def _coverage(time_s: np.ndarray, grid: Grid) -> dict[str, Any]:
    nothing: dict[str, Any] = {"readings": len(time_s), "days": 0.0, "interval_min": None, "coverage_pct": None}
    nothing |= {"interruptions": 0, "gaps": 0, "longest_gap_h": None}
    if len(time_s) < 2:
        return nothing
    apart_s = np.diff(time_s).astype(np.float64)
    interval_s, span_s = float(np.median(apart_s)), float(apart_s.sum())
    missed_s = apart_s[apart_s > 1.5 * interval_s] - interval_s
    return nothing | {
        "days": span_s / 86400,
        "interval_min": interval_s / 60,
        "coverage_pct": 100 * (1 - float(missed_s.sum()) / (span_s + interval_s)),
        "interruptions": len(missed_s),
        "gaps": int((apart_s > grid.gap_min * 60).sum()),
        "longest_gap_h": float(apart_s.max()) / 3600,
    }


def _glucose(glucose: np.ndarray) -> dict[str, Any]:
    if not len(glucose):
        empty = ("min_mgdl", "mean_mgdl", "max_mgdl", "sd_mgdl", "cv_pct", "gmi_pct", *RANGES)
        return dict.fromkeys(empty)
    mean = float(glucose.mean())
    sd = float(glucose.std(ddof=1)) if len(glucose) > 1 else None
    return {
        "min_mgdl": float(glucose.min()),
        "mean_mgdl": mean,
        "max_mgdl": float(glucose.max()),
        "sd_mgdl": sd,
        "cv_pct": None if sd is None else 100 * sd / mean,
        "gmi_pct": 3.31 + 0.02392 * mean,
    } | {key: 100 * float(within(np.round(glucose)).mean()) for key, (_, _, within) in RANGES.items()}


def _flags(metrics: dict[str, Any]) -> list[str]:
    """The consensus asks for 14 days with 70% of them measured before time in range is trusted."""
    if not metrics["readings"]:
        return ["no readings"]
    tests = {
        "no recording long enough": not metrics["recordings"],
        "constant": metrics["readings"] > 1 and metrics["min_mgdl"] == metrics["max_mgdl"],
        "coverage below 70%": metrics["coverage_pct"] is not None and metrics["coverage_pct"] < 70,
        "under 14 days": metrics["days"] < 14,
    }
    return [name for name, raised in tests.items() if raised]
