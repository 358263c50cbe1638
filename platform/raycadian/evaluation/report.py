"""report.html: what a run found, as figures where people would look rather than read. One file, opens offline."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raycadian.evaluation import metrics
from raycadian.evaluation.calibration import pit, reliability
from raycadian.evaluation.glycemic import clarke_zones
from raycadian.evaluation.predictions import Predictions
from raycadian.pages import figure_html, new_figure, page, paragraph, table_html

_COLORS = ("#0b6e8a", "#c2571a", "#5b8c2a", "#8a3fa0", "#b8860b", "#4a5560", "#a02c4a")
_ZONES = {"A": "#2a8c4a", "B": "#c9a227", "C": "#d9741a", "D": "#c2381a", "E": "#7a1a1a"}
_EXAMPLES, _SCATTER = 6, 3000


def write_report(
    folder: Path, *, title: str, subtitle: str, leaderboard: pd.DataFrame, predictions: dict[str, Predictions],
    insights: list[dict[str, Any]], metadata: dict[str, Any],
) -> Path:  # fmt: skip
    """Write `folder`/report.html, whole or not at all. `predictions`: model name -> test predictions, the run's own first."""
    own = next(iter(predictions.values()))
    sections = [
        ("Leaderboard", _leaderboard(leaderboard)),
        ("Example forecasts", _examples(own)),
        ("Error by horizon", _by_horizon(predictions)),
        ("Error by hour of day", _by_hour(predictions)),
        ("Clarke error grid", _clarke(own)),
        ("Calibration", _calibration(own)),
        ("Mechanism in words", _insights(insights)),
        ("Run", _metadata(metadata)),
        ("What the figures mean", f"<pre>{escape(metrics.__doc__ or '')}</pre>"),
    ]
    path = folder / "report.html"
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    temporary.write_text(page(title, [s for s in sections if s[1]], subtitle), encoding="utf-8")
    temporary.replace(path)
    return path


def _leaderboard(board: pd.DataFrame) -> str:
    note = (
        "Test data, identical windows for every model. rmse_mgdl is pooled over the whole horizon; low and high bound its "
        "95% interval by default, resampling people. difference is to the lowest RMSE, with a paired interval: the "
        "verdict says no more than that interval does. Models were chosen on validation data."
    )
    few = "" if board.n_subjects.min() >= 3 else " Fewer than three people: no intervals can be given."
    return paragraph(note + few) + table_html(board)


def _examples(p: Predictions) -> str:
    """Windows at evenly spaced ranks of their error: the best, the worst, and what lies between."""
    error = np.sqrt(np.nanmean((p.median - p.truth) ** 2, axis=1))
    order = np.argsort(np.nan_to_num(error, nan=-1.0))
    order = order[np.isfinite(error[order])]
    ranks = np.linspace(0, len(order) - 1, min(_EXAMPLES, len(order))).astype(int)
    figure, axes = new_figure(11, 6.5, nrows=2, ncols=3, squeeze=False)
    for axis, rank in zip(axes.flat, ranks, strict=False):
        i = order[rank]
        _draw_example(axis, p, i)
        axis.set_title(
            f"{p.subject[i]} · RMSE {error[i]:.0f} · rank {100 * rank / max(len(order) - 1, 1):.0f}%", fontsize=9
        )
    for axis in axes.flat[len(ranks) :]:
        axis.set_visible(False)
    axes.flat[0].legend(fontsize=7, loc="upper left")
    caption = "Forecasts from the best (rank 0%) to the worst (100%) by RMSE in mg/dL, at even ranks; minutes from the forecast"
    return figure_html(figure, caption)


def _draw_example(axis: Any, p: Predictions, i: int) -> None:
    ahead = p.horizon_min
    if p.past is not None:
        shown = p.past[i][-36:]
        axis.plot(p.dt_min * np.arange(1 - len(shown), 1), shown, color="#4a5560", lw=1)
    for low, high in metrics.intervals(p.levels):
        share = p.levels[high] - p.levels[low]
        axis.fill_between(ahead, p.quantiles[i, :, low], p.quantiles[i, :, high], color=_COLORS[0], alpha=0.18, lw=0,
                          label=f"{share:.0%} interval")  # fmt: skip
    axis.plot(ahead, p.median[i], color=_COLORS[0], label="median")
    axis.plot(ahead, p.truth[i], "o", ms=2.5, color="#1b2733", label="measured")
    if "mechanism" in p.parts:
        axis.plot(ahead, p.parts["mechanism"][i], "--", color=_COLORS[1], lw=1, label="mechanism alone")
    axis.axhspan(70, 180, color="#2a8c4a", alpha=0.05, lw=0)
    axis.set_ylabel("mg/dL", fontsize=8)
    axis.tick_params(labelsize=8)


def _by_horizon(predictions: dict[str, Predictions]) -> str:
    figure, axis = new_figure()
    for (name, p), color in zip(predictions.items(), _colors(predictions), strict=True):
        found = metrics.score(p, bootstrap=200)
        rows = found[(found.scope == "all") & (found.metric == "rmse_mgdl") & (found.kind == "step")]
        axis.plot(rows.horizon_min, rows.value, "-o", ms=3, color=color, label=name)
        if rows.low.notna().all():
            axis.fill_between(rows.horizon_min, rows.low, rows.high, color=color, alpha=0.1, lw=0)
    axis.set(xlabel="minutes ahead", ylabel="RMSE, mg/dL")
    axis.legend(fontsize=8)
    return figure_html(figure, "RMSE at each step of the horizon, with 95% intervals over people (200 resamples)")


def _by_hour(predictions: dict[str, Predictions]) -> str:
    figure, axis = new_figure()
    for (name, p), color in zip(predictions.items(), _colors(predictions), strict=True):
        hour = p.local_h.astype(int) % 24
        squared = np.nanmean((p.median - p.truth) ** 2, axis=1)
        means = [np.sqrt(np.nanmean(squared[hour == h])) if (hour == h).any() else np.nan for h in range(24)]
        axis.plot(range(24), means, "-o", ms=3, color=color, label=name)
    axis.set(xlabel="local hour of the last reading", ylabel="RMSE over the horizon, mg/dL", xticks=range(0, 24, 3))
    axis.legend(fontsize=8)
    return figure_html(figure, "RMSE over the whole horizon by the local hour at which the forecast was made")


def _clarke(p: Predictions) -> str:
    truth, median = p.truth[:, -1], p.median[:, -1]
    zones = clarke_zones(truth, median)
    counts = {z: int((zones == z).sum()) for z in "ABCDE"}
    total = max(sum(counts.values()), 1)
    shown = np.flatnonzero(zones != "")
    shown = np.random.default_rng(0).permutation(shown)[:_SCATTER]
    figure, axis = new_figure(6.0, 5.6)
    for zone, color in _ZONES.items():
        mine = shown[zones[shown] == zone]
        label = f"{zone}: {100 * counts[zone] / total:.1f}%"
        axis.scatter(truth[mine], median[mine], s=5, color=color, label=label, rasterized=True)
    for xs, ys in _ZONE_EDGES:
        axis.plot(xs, ys, color="#1b2733", lw=0.8)
    axis.set(xlim=(0, 400), ylim=(0, 400), xlabel="measured, mg/dL", ylabel="forecast, mg/dL", aspect="equal")
    axis.legend(fontsize=8, loc="upper left")
    note = f"Clarke error grid at {p.horizon_min[-1]:g} min; shares over all points, at most {_SCATTER} drawn"
    return figure_html(figure, note)


_ZONE_EDGES = (
    ((0, 400), (0, 400)), ((0, 175 / 3), (70, 70)), ((175 / 3, 400 / 1.2), (70, 400)), ((70, 70), (84, 400)),
    ((0, 70), (180, 180)), ((70, 290), (180, 400)), ((70, 70), (0, 56)), ((70, 400), (56, 320)), ((180, 180), (0, 70)),
    ((180, 400), (70, 70)), ((240, 240), (70, 180)), ((240, 400), (180, 180)), ((130, 180), (0, 70)),
)  # fmt: skip


def _calibration(p: Predictions) -> str:
    figure, axes = new_figure(10, 3.8, ncols=3)
    found = reliability(p)
    axes[0].plot([0, 1], [0, 1], color="#9aa8b5", lw=1)
    axes[0].plot(found.level, found.observed, "-o", ms=4, color=_COLORS[0])
    axes[0].set(xlabel="quantile level", ylabel="share of truth below it", title="reliability")
    table = metrics.score(p, bootstrap=1)
    for (low, high), color in zip(metrics.intervals(p.levels), _COLORS, strict=False):
        percent = round(100 * (p.levels[high] - p.levels[low]))
        metric = f"coverage_{percent}_pct"
        rows = table[(table.scope == "all") & (table.metric == metric) & (table.kind == "step")]
        axes[1].plot(rows.horizon_min, rows.value, "-o", ms=3, color=color, label=f"{percent}% interval")
        axes[1].axhline(percent, color=color, lw=0.8, ls=":")
    axes[1].set(xlabel="minutes ahead", ylabel="covered, %", ylim=(0, 100), title="coverage")
    axes[1].legend(fontsize=8)
    edges, share = pit(p)
    axes[2].stairs(share, edges, fill=True, color=_COLORS[0], alpha=0.6)
    axes[2].axhline(1, color="#1b2733", lw=1)
    axes[2].set(xlabel="between quantile levels", ylabel="density of truth", title="where truth falls (1 = calibrated)")
    return figure_html(
        figure, "Calibration: reliability of quantiles, coverage by horizon (dotted: nominal), density between levels"
    )


def _insights(insights: list[dict[str, Any]]) -> str:
    if not insights:
        return ""
    frame = pd.DataFrame(insights).fillna("")
    note = "The fitted CMA parameters, read by the thresholds of its authors. Not a diagnosis."
    return paragraph(note) + table_html(frame)


def _metadata(metadata: dict[str, Any]) -> str:
    rows = [(key, value) for key, value in _flat(metadata).items() if not key.startswith("training.history")]
    return table_html(pd.DataFrame([(k, str(v)) for k, v in rows], columns=["", "value"]))


def _flat(nested: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(nested, dict) or not nested:
        return {prefix[:-1]: nested}
    return {k: v for name, value in nested.items() for k, v in _flat(value, f"{prefix}{name}.").items()}


def _colors(predictions: dict[str, Predictions]) -> list[str]:
    return [_COLORS[i % len(_COLORS)] for i in range(len(predictions))]
