"""Figures of forecasts: each function draws one and returns it, for a page or a file."""

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_rgb

from raycadian.config import in_unit_of, unit_of
from raycadian.evaluation.bootstrap import SubjectBootstrap
from raycadian.evaluation.forecast.calibration import coverage_by_horizon, pit, reliability
from raycadian.evaluation.forecast.error_grids import ErrorGrid
from raycadian.evaluation.forecast.glycemic import RANGE_MGDL
from raycadian.evaluation.forecast.metrics import METRICS, interval_name, intervals, points_of
from raycadian.evaluation.forecast.predictions import Predictions
from raycadian.evaluation.report import INK, LINE, MODELS, SOFT, legend, line, model_style
from raycadian.pages import Axes, Figure, new_figure
from raycadian.types import GLUCOSE

_RANGE = "#2f9e5a"
_EXAMPLES = {
    0.0: "best",
    0.25: "a quarter are better",
    0.5: "typical",
    0.75: "a quarter are worse",
    0.95: "1 in 20 is worse",
    1.0: "worst",
}


def examples(p: Predictions) -> Figure:
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


def by_horizon(tables: dict[str, pd.DataFrame], target: str = GLUCOSE) -> Figure:
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


def by_hour(predictions: dict[str, Predictions], people: SubjectBootstrap) -> Figure:
    """RMSE by the local hour at which glucose was measured, over all steps of the horizon."""
    figure, axis = new_figure(10, 3.4)
    for i, (name, p) in enumerate(predictions.items()):
        value, low, high = people.estimate(*_sums_by_hour(p, people), root=True)
        line(axis, i, np.arange(24) + 0.5, value, low, high, name)
    axis.set(xlabel="local hour", ylabel="RMSE, mg/dL", xticks=range(0, 25, 3), xlim=(0, 24), ylim=(0, None))
    legend(axis)
    return figure


def calibration(p: Predictions, people: SubjectBootstrap) -> Figure:
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


def _forecast(axis: Axes, p: Predictions, i: int) -> None:
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


def _parts(axis: Axes, p: Predictions, i: int, names: list[str]) -> None:
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


_DENSITY = LinearSegmentedColormap.from_list("density", [(*to_rgb(MODELS[0]), alpha) for alpha in (0.15, 1.0)])
_BINS = 110  # to a side


def error_grid(p: Predictions, grid: ErrorGrid) -> Figure:
    """The median against the truth at the key steps: the grid's lines, forecasts as density, shares of the zones."""
    figure, axes = new_figure(4.7 * len(p.key_steps) + 0.6, 5.0, ncols=len(p.key_steps), squeeze=False)
    for axis, step in zip(axes[0], p.key_steps, strict=True):
        _grid(axis, grid, p.truth[:, step], p.median[:, step])
        axis.set_title(f"{p.horizon_min[step]:g} min ahead\n{zone_shares(grid, p, step)}", fontsize=9, loc="left")
    return figure


def zone_shares(grid: ErrorGrid, p: Predictions, step: int) -> str:
    """A 91.2%, B 7.9%, ... of the measured points at a step; zones without any are left out."""
    zones = grid.zones(p.truth[:, step], p.median[:, step])
    known = zones[zones != ""]
    return ", ".join(f"{z} {100 * np.mean(known == z):.1f}%" for z in "ABCDE" if (known == z).any())


def _grid(axis: Axes, grid: ErrorGrid, truth: np.ndarray, forecast: np.ndarray) -> None:
    seen, limit = ~np.isnan(truth), grid.limit_mgdl
    count, x, y = np.histogram2d(truth[seen], forecast[seen], bins=_BINS, range=[(0, limit)] * 2)
    norm = LogNorm(1, max(2.0, count.max()))
    axis.pcolormesh(x, y, np.ma.masked_less(count.T, 1), cmap=_DENSITY, norm=norm, rasterized=True, lw=0)
    for boundary in grid.lines:
        (x0, y0), (x1, y1) = boundary[-2:]
        beyond = (2 * x1 - x0, 2 * y1 - y0)  # the last stretch runs out of the picture
        axis.plot(*zip(*boundary, *([beyond] if y1 >= limit or x1 >= limit else []), strict=True), color=INK, lw=0.8)
    axis.plot([0, limit], [0, limit], color=SOFT, lw=0.8, ls=":")
    for zone, places in grid.letters.items():
        for place in places:
            axis.text(*place, zone, color=SOFT, fontsize=11, ha="center", va="center")
    axis.set(xlim=(0, limit), ylim=(0, limit), xlabel="measured, mg/dL", ylabel="forecast, mg/dL", aspect="equal")
    axis.grid(False)


def event_reliability(tables: dict[str, pd.DataFrame]) -> Figure:
    """What was said against what happened, a panel an event; `tables`: title -> event_scores.reliability_of_events."""
    figure, axes = new_figure(4.6 * len(tables) + 0.6, 4.2, ncols=len(tables), squeeze=False)
    for axis, (title, table) in zip(axes[0], tables.items(), strict=True):
        axis.plot([0, 1], [0, 1], color=SOFT, lw=1, ls=":")
        axis.vlines(table.predicted, table.low, table.high, color=MODELS[0], alpha=0.5, lw=2)
        axis.plot(table.predicted, table.observed, "-", color=MODELS[0], lw=1.2)
        size = 12 + 140 * np.sqrt(table.n_windows / table.n_windows.max())
        axis.scatter(table.predicted, table.observed, s=size, color=MODELS[0], alpha=0.8, lw=0)
        axis.set(xlabel="probability said", ylabel="share where it happened", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axis.set_title(title, fontsize=10, loc="left")
    return figure
