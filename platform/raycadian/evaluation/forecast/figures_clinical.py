"""Figures for those who treat people: error grids, and what a stated probability is worth. Colours and ink as in
figures.py."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_rgb

from raycadian.evaluation.forecast.error_grids import ErrorGrid
from raycadian.evaluation.forecast.predictions import Predictions
from raycadian.evaluation.plotting import INK, MODELS, SOFT
from raycadian.pages import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DENSITY = LinearSegmentedColormap.from_list("density", [(*to_rgb(MODELS[0]), alpha) for alpha in (0.15, 1.0)])
_BINS = 110  # to a side


def error_grid(p: Predictions, grid: ErrorGrid) -> "Figure":
    """The median against what was measured at the key steps: the grid's lines, forecasts as density, shares of the
    zones."""
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


def _grid(axis: "Axes", grid: ErrorGrid, truth: np.ndarray, forecast: np.ndarray) -> None:
    seen, limit = ~np.isnan(truth), grid.limit_mgdl
    count, x, y = np.histogram2d(truth[seen], forecast[seen], bins=_BINS, range=[(0, limit)] * 2)
    norm = LogNorm(1, max(2.0, count.max()))
    axis.pcolormesh(x, y, np.ma.masked_less(count.T, 1), cmap=_DENSITY, norm=norm, rasterized=True, lw=0)
    for line in grid.lines:
        (x0, y0), (x1, y1) = line[-2:]
        beyond = (2 * x1 - x0, 2 * y1 - y0)  # the last stretch runs out of the picture
        axis.plot(*zip(*line, *([beyond] if y1 >= limit or x1 >= limit else []), strict=True), color=INK, lw=0.8)
    axis.plot([0, limit], [0, limit], color=SOFT, lw=0.8, ls=":")
    for zone, places in grid.letters.items():
        for place in places:
            axis.text(*place, zone, color=SOFT, fontsize=11, ha="center", va="center")
    axis.set(xlim=(0, limit), ylim=(0, limit), xlabel="measured, mg/dL", ylabel="forecast, mg/dL", aspect="equal")
    axis.grid(False)


def event_reliability(tables: dict[str, pd.DataFrame]) -> "Figure":
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
