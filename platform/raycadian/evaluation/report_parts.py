"""What sections of reports are written with: numbers with intervals, leaderboards, figures in the page's ink."""

from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from raycadian.evaluation.metric import label
from raycadian.evaluation.plotting import INK, LINE, SOFT
from raycadian.pages import figure_html, table_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_THEME = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)"}


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


def with_interval(frame: pd.DataFrame, value: str, low: str, high: str, digits: int = 2) -> list[str]:
    return [brackets(*row, digits=digits) for row in frame[[value, low, high]].itertuples(index=False)]


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


def leaderboard(board: pd.DataFrame, digits: int) -> str:
    """A leaderboard for people: intervals in brackets, metrics by their words."""
    metric = str(board.columns[1])
    shown = pd.DataFrame({"model": board.model, label(metric): with_interval(board, metric, "low", "high", digits)})
    shown["difference"] = with_interval(board, "difference", "diff_low", "diff_high", digits)
    shown["verdict"] = board.verdict
    beside = board.columns[list(board.columns).index("verdict") + 1 :].drop(
        ["n_subjects", "n_windows"], errors="ignore"
    )
    for column in beside:
        shown[label(column)] = board[column].map(f"{{:.{digits}f}}".format)
    return table_html(shown)


def identical_windows(board: pd.DataFrame) -> str:
    """How the note of a leaderboard begins."""
    windows, people = board.n_windows.iloc[0], board.n_subjects.iloc[0]
    return f"Test data, {windows:,} identical windows of {people} people for every model, the best first. "
