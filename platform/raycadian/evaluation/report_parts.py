"""What every section of the report is written with: names of metrics, numbers with intervals, figures in the page's ink."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from raycadian.config import unit_of
from raycadian.evaluation.forecast import figures
from raycadian.evaluation.forecast.error_grids import GRIDS
from raycadian.pages import figure_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LABELS = {
    "rmse_mgdl": "RMSE, mg/dL", "mae_mgdl": "MAE, mg/dL", "mape_pct": "MAPE, %", "mard_pct": "MARD, %",
    "bias_mgdl": "bias, mg/dL", "grmse_mgdl": "glucose-specific RMSE, mg/dL", "pinball_mgdl": "pinball loss, mg/dL",
    "crps_quantile_mgdl": "CRPS from quantiles, mg/dL", "wql_per_point_mgdl": "WQL by points, mg/dL",
    "wql_per_truth": "WQL by sum of truth", "tir_truth_pct": "in range, %", "tir_forecast_pct": "in range by forecast, %",
    "tir_error_pct": "difference, % points",
    "auroc": "AUROC", "auprc": "AUPRC", "f1": "F1", "ece": "ECE", "ece_raw": "ECE before calibration",
    "ece_adaptive": "ECE, bins of equal numbers", "ece_chance": "ECE by chance", "mce": "MCE", "mae": "MAE", "rmse": "RMSE", "ccc": "CCC", "r2": "R²",
    **{f"{name}_{zones}_pct": f"{grid.title} {'+'.join(zones.upper())}, %" for name, grid in GRIDS.items() for zones in ("a", "ab", "de")},
}  # fmt: skip
STYLE = {  # real text in the SVG: small, searchable; the page's colours take the place of these
    "svg.fonttype": "none", "svg.hashsalt": "raycadian", "text.color": figures.INK, "axes.labelcolor": figures.INK,
    "axes.edgecolor": figures.LINE, "xtick.color": figures.SOFT, "ytick.color": figures.SOFT, "axes.grid": True,
    "grid.color": figures.LINE, "grid.linewidth": 0.6, "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "savefig.dpi": 150,
}  # fmt: skip
_THEME = {figures.INK: "var(--ink)", figures.SOFT: "var(--soft)", figures.LINE: "var(--line)"}


def figure(figure: "Figure", caption: str) -> str:
    """Inline SVG in the page's own ink, so that it reads on light and dark ground."""
    html = figure_html(figure, caption).replace("<figure>", '<figure style="background:var(--bg)">', 1)
    for color, variable in _THEME.items():
        html = html.replace(color, variable)
    return html


def folded(summary: str, body: str, is_open: bool) -> str:
    return f"<details{' open' * is_open}><summary>{escape(summary)}</summary>{body}</details>"


def whole(table: pd.DataFrame, scope: str = "all") -> pd.DataFrame:
    """Pooled metrics over the whole horizon."""
    rows = table[(table.scope == scope) & (table.kind == "cumulative")]
    return rows[rows.horizon_min == rows.horizon_min.max()]


def label(metric: str) -> str:
    """rmse_mgdl_at_30min -> RMSE, mg/dL at 30 min; coverage_90_pct -> 90% interval covers, %."""
    base, _, step = metric.partition("_at_")
    words = base.split("_")
    if words[0] == "coverage":
        name = f"{words[1]}% interval covers, %"
    elif words[0] == "width":
        name = f"{words[1]}% interval width, {unit_of(base)}".rstrip(", ")
    elif base not in _LABELS and unit_of(base):
        name = _LABELS[base.replace(words[-1], "mgdl")].replace("mg/dL", unit_of(base) or "")
    else:
        name = _LABELS.get(base, base.replace("_", " "))
    return name if not step else f"{name.split(',')[0]} at {step.removesuffix('min')} min"


def with_interval(frame: pd.DataFrame, value: str, low: str, high: str) -> list[str]:
    return [brackets(*row, digits=2) for row in frame[[value, low, high]].itertuples(index=False)]


def interval(row: pd.Series, digits: int = 2) -> str:
    return brackets(row.value, row.low, row.high, digits)


def brackets(value: float, low: float, high: float, digits: int) -> str:
    if np.isnan(value):
        return "–"
    return f"{value:.{digits}f}" + ("" if np.isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]")


def tiles(tiles: list[tuple[str, str, str]]) -> str:
    box = "background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:10px 14px;min-width:120px"
    body = "".join(
        f'<div style="{box}"><div style="font-size:1.5rem;font-weight:600">{escape(value)} '
        f'<small style="font-size:.8rem">{escape(unit)}</small></div><small>{escape(label)}</small></div>'
        for label, value, unit in tiles
    )
    return f'<div style="display:flex;flex-wrap:wrap;gap:10px">{body}</div>'
