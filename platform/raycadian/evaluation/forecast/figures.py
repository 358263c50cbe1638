"""Figures of forecasts: each function draws one and returns it, for a page or a file."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from raycadian.config import in_unit_of, unit_of
from raycadian.evaluation.bootstrap import SubjectBootstrap
from raycadian.evaluation.forecast.calibration import coverage_by_horizon, pit, reliability
from raycadian.evaluation.forecast.glycemic import RANGE_MGDL
from raycadian.evaluation.forecast.metrics import METRICS, interval_name, intervals, points_of
from raycadian.evaluation.forecast.predictions import Predictions
from raycadian.evaluation.plotting import INK, LINE, MODELS, SOFT, legend, line, model_style
from raycadian.pages import new_figure
from raycadian.types import GLUCOSE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RANGE = "#2f9e5a"
_EXAMPLES = {
    0.0: "best",
    0.25: "a quarter are better",
    0.5: "typical",
    0.75: "a quarter are worse",
    0.95: "1 in 20 is worse",
    1.0: "worst",
}


def examples(p: Predictions) -> "Figure":
    """Windows at fixed ranks of their error: best, typical, worst. Below each, what was added to the mechanism."""
    error, chosen = _ranked_examples(p)
    unit = unit_of(p.target) or ""
    added = [name for name in p.parts if name != "mechanism"]
    rows = 2 if not added else 4
    ratios = [1] * 2 if not added else [3, 1.1] * 2
    figure, axes = new_figure(
        11, 7 if added else 6, nrows=rows, ncols=3, squeeze=False, height_ratios=ratios, sharex=True
    )
    places = [(row, column) for row in range(0, rows, rows // 2) for column in range(3)]
    for (row, column), (what, i) in zip(places, chosen, strict=False):
        upper = axes[row, column]
        _forecast(upper, p, i)
        when = _clock(p.local_h[i]) if p.glycemic else str(p.time_utc[i]).replace("T", " ")
        title = f"{what}: {f'RMSE {error[i]:.0f} {unit}'.rstrip()}\n{p.subject[i]}, {when}"
        upper.set_title(title, fontsize=9, loc="left", parse_math=False)
        if added:
            _parts(axes[row + 1, column], p, i, added)
    for row, column in places[len(chosen) :]:
        for axis in axes[row : row + rows // 2, column]:
            axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("minutes from the forecast", fontsize=8)
    for row in range(rows):
        axes[row, 0].set_ylabel(f"added, {unit}" if added and row % 2 else unit, fontsize=8)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    return figure


def by_horizon(tables: dict[str, pd.DataFrame], target: str = GLUCOSE) -> "Figure":
    """RMSE and MAE at each step of the horizon, with intervals; `tables`: model -> its scores."""
    figure, axes = new_figure(10, 3.6, ncols=2)
    for axis, error in zip(axes, ("rmse", "mae"), strict=True):
        metric, label = in_unit_of(f"{error}_mgdl", target), f"{error.upper()}, {unit_of(target)}".rstrip(", ")
        for i, (name, table) in enumerate(tables.items()):
            rows = table[(table.scope == "all") & (table.metric == metric) & (table.kind == "step")]
            line(axis, i, rows.horizon_min, rows.value, rows.low, rows.high, name)
        axis.set(xlabel="minutes ahead", ylabel=label, ylim=(0, None))
    legend(axes[0])
    return figure


def by_hour(predictions: dict[str, Predictions], people: SubjectBootstrap) -> "Figure":
    """RMSE by the local hour at which glucose was measured, over all steps of the horizon."""
    figure, axis = new_figure(10, 3.4)
    for i, (name, p) in enumerate(predictions.items()):
        value, low, high = people.estimate(*_sums_by_hour(p, people), root=True)
        line(axis, i, np.arange(24) + 0.5, value, low, high, name)
    axis.set(xlabel="local hour", ylabel="RMSE, mg/dL", xticks=range(0, 25, 3), xlim=(0, 24), ylim=(0, None))
    legend(axis)
    return figure


def calibration(p: Predictions, people: SubjectBootstrap) -> "Figure":
    """Reliability of quantiles, coverage by horizon, density of truth between the levels."""
    figure, (left, middle, right) = new_figure(11, 3.6, ncols=3)
    quantiles = reliability(p, people)
    left.plot([0, 1], [0, 1], color=SOFT, lw=1, ls=":")
    line(left, 0, quantiles.level, quantiles.observed, quantiles.low, quantiles.high, "")
    left.set(xlabel="quantile level", ylabel="share of truth at or below", xlim=(0, 1), ylim=(0, 1))
    covered = coverage_by_horizon(p, people)
    for i, (nominal, rows) in enumerate(covered.groupby("nominal_pct")):
        line(middle, i, rows.horizon_min, rows.observed_pct, rows.low, rows.high, f"{nominal:g}% interval")
        middle.axhline(nominal, color=model_style(i)[0], lw=1, ls=":")
    middle.set(xlabel="minutes ahead", ylabel="truth inside the interval, %", ylim=(0, 100))
    if len(covered):
        legend(middle)
    edges, density = pit(p)
    right.stairs(density, edges, fill=True, color=MODELS[0], alpha=0.5)
    right.axhline(1, color=SOFT, lw=1, ls=":")
    right.set(xlabel="quantile level", ylabel="density of truth", xlim=(0, 1))
    return figure


def _ranked_examples(p: Predictions) -> tuple[np.ndarray, list[tuple[str, int]]]:
    """RMSE of each window (W,), and the windows at the ranks of _EXAMPLES among those with at least half their
    truth."""
    seen = ~np.isnan(p.truth)
    error = np.sqrt(np.where(seen, (p.median - p.truth) ** 2, 0).sum(1) / np.maximum(seen.sum(1), 1))
    eligible = np.flatnonzero(2 * seen.sum(1) >= p.truth.shape[1])
    order = eligible[np.argsort(error[eligible], kind="stable")]
    ranks = {round(rank * (len(order) - 1)): what for rank, what in _EXAMPLES.items()} if len(order) else {}
    return error, [(what, int(order[rank])) for rank, what in sorted(ranks.items())]


def _forecast(axis: "Axes", p: Predictions, i: int) -> None:
    if p.glycemic:
        axis.axhspan(*RANGE_MGDL, color=_RANGE, alpha=0.07, lw=0)
    if p.past is not None:
        shown = p.past[i][-max(24, 2 * p.truth.shape[1]) :]
        axis.plot(p.dt_min * np.arange(1 - len(shown), 1), shown, color=SOFT, lw=1.2, label="before")
    for low, high in intervals(p.levels):
        name = f"{interval_name(p.levels, low, high)}% interval"
        axis.fill_between(
            p.horizon_min, p.quantiles[i, :, low], p.quantiles[i, :, high], color=MODELS[0], alpha=0.2, lw=0, label=name
        )
    axis.plot(p.horizon_min, p.median[i], color=MODELS[0], lw=1.8, label="forecast (median)")
    if "mechanism" in p.parts:
        axis.plot(p.horizon_min, p.parts["mechanism"][i], color=MODELS[1], lw=1.4, ls="--", label="mechanism alone")
    axis.plot(p.horizon_min, p.truth[i], "o", ms=2.8, color=INK, label="measured")
    axis.axvline(0, color=LINE, lw=1)


def _parts(axis: "Axes", p: Predictions, i: int, names: list[str]) -> None:
    for name, color in zip(names, MODELS[2:], strict=False):
        axis.fill_between(p.horizon_min, p.parts[name][i], color=color, alpha=0.5, lw=0, label=name)
    axis.axhline(0, color=SOFT, lw=0.8)
    axis.text(
        0.02, 0.86, " + ".join(names), transform=axis.transAxes, fontsize=7, va="top", color=SOFT, parse_math=False
    )


def _sums_by_hour(p: Predictions, people: SubjectBootstrap) -> tuple[np.ndarray, np.ndarray]:
    """Sums of squared errors and counts per subject and local hour of the measured point, (S, 24) each."""
    hour = ((p.local_h[:, None] + p.horizon_min / 60) % 24).astype(int)
    squared = points_of(p, METRICS["rmse_mgdl"])
    total, count = np.zeros((2, len(people.subjects), 24))
    for h in range(24):
        sums = people.sum_count(np.where(hour == h, squared, np.nan))
        total[:, h], count[:, h] = (s.sum(1) for s in sums)
    return total, count


def _clock(hour: float) -> str:
    minutes = round(hour * 60) % 1440
    return f"{minutes // 60:02d}:{minutes % 60:02d} local time"
