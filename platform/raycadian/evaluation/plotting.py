"""Colours, style and lines that all figures of evaluation and experiments share.

Colours read on light and dark ground; ink, grid and frame are INK, SOFT and LINE, which a page swaps for its own.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    axis: "Axes", i: int, x: Any, value: Any, low: Any, high: Any, name: str, size: float = 3, joined: bool = True
) -> None:
    """Values of model number i at x with their intervals: a band, or bars where x are not `joined`."""
    color, dashes = model_style(i)
    axis.plot(x, value, ls=dashes if joined else "none", marker="o", ms=size, lw=1.6, color=color, label=name)
    low, high = np.asarray(low, float), np.asarray(high, float)
    if joined:
        axis.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
    else:
        axis.vlines(x, low, high, color=color, lw=1.4)


def legend(axis: "Axes") -> None:
    """Names of models are text, not mathematics."""
    for text in axis.legend(fontsize=8, frameon=False).get_texts():
        text.set_parse_math(False)
