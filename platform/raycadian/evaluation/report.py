"""report.html of a run, and what its sections are made with: numbers with intervals, leaderboards, figures.

Sections come from the kind of predictions: forecast/report.py, label/report.py. Colours read on light and dark ground;
ink, grid and frame are INK, SOFT and LINE, which a page swaps for its own.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raycadian.evaluation.metric import label
from raycadian.files import written_whole
from raycadian.pages import Axes, Figure, Section, figure_html, page, table_html

INK, SOFT, LINE = "#1b2733", "#5b6b7a", "#d8e0e7"
MODELS = ("#118ab2", "#e07a2f", "#6a994e", "#a45bc0", "#c9a227", "#c94f6d", "#7a8794")
STYLE = {  # real text in the SVG: small, searchable; the page's colours take the place of these
    "svg.fonttype": "none", "svg.hashsalt": "raycadian", "text.color": INK, "axes.labelcolor": INK,
    "axes.edgecolor": LINE, "xtick.color": SOFT, "ytick.color": SOFT, "axes.grid": True,
    "grid.color": LINE, "grid.linewidth": 0.6, "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "savefig.dpi": 150,
}  # fmt: skip
_DASHES = ("-", "--", "-.", ":")


def model_style(i: int) -> tuple[str, str]:
    """Colour and dashes of model number i: 28 differ."""
    return MODELS[i % len(MODELS)], _DASHES[i // len(MODELS) % len(_DASHES)]


def line(
    axis: Axes, i: int, x: Any, value: Any, low: Any, high: Any, name: str, size: float = 3, joined: bool = True
) -> None:
    """Values of model number i at x with their intervals: a band, or bars where x are not `joined`."""
    color, dashes = model_style(i)
    axis.plot(x, value, ls=dashes if joined else "none", marker="o", ms=size, lw=1.6, color=color, label=name)
    low, high = np.asarray(low, float), np.asarray(high, float)
    if joined:
        axis.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
    else:
        axis.vlines(x, low, high, color=color, lw=1.4)


def legend(axis: Axes) -> None:
    """Names of models are text, not mathematics."""
    for text in axis.legend(fontsize=8, frameon=False).get_texts():
        text.set_parse_math(False)


_THEME = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)"}


def figure(figure: Figure, caption: str) -> str:
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


def write_report(
    folder: Path,
    *,
    title: str,
    subtitle: str,
    sections: Sequence[Section],
    metadata: dict[str, Any],
    definitions: str = "",
) -> Path:
    """Write `folder`/report.html, whole or not at all, and return its path.

    `sections`, then what the run recorded about itself (`metadata`), then `definitions` of its metrics as plain text.
    """
    text = f'<pre style="white-space:pre-wrap;font-size:.8rem">{escape(definitions)}</pre>' if definitions else ""
    last = [Section("Run", _metadata(metadata)), Section("Definitions", text)]
    path = Path(folder) / "report.html"
    with written_whole(path) as temporary:
        temporary.write_text(page(title, [*sections, *last], subtitle), encoding="utf-8")
    return path


def _metadata(metadata: dict[str, Any]) -> str:
    """What a run recorded about itself."""
    rows = [(key, str(value)) for key, value in _flat(metadata).items() if not key.startswith("training.history")]
    short = [(key, value if len(value) <= 160 else value[:157] + "...") for key, value in rows]
    return folded(
        f"{len(short)} facts about the run", table_html(pd.DataFrame(short, columns=["key", "value"])), len(short) <= 12
    )


def _flat(nested: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(nested, dict) or not nested:
        return {prefix[:-1]: nested}
    return {k: v for name, value in nested.items() for k, v in _flat(value, f"{prefix}{name}.").items()}
