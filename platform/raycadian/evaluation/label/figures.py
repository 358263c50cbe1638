"""Figures of labels: each function draws one, for a page or a notebook."""

from typing import TYPE_CHECKING

import numpy as np

from raycadian.evaluation.label.decision import Decision, JoinedDecisions
from raycadian.evaluation.label.predictions import LabelPredictions
from raycadian.evaluation.plotting import SOFT
from raycadian.pages import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 2000  # windows of a scatter plot


def longest_case(p: LabelPredictions, decision: Decision | JoinedDecisions) -> tuple["Figure", str]:
    """The probability over the case with most windows that have the label (shaded), and that case."""
    cases, of = np.unique(p.case, return_inverse=True)
    chosen = p.case == cases[np.argmax(np.bincount(of, p.label))]
    case = p.select(chosen)
    minutes = (case.time_utc - case.time_utc[0]).astype(np.int64) / 60
    figure, axis = new_figure()
    axis.fill_between(minutes, 0, 1, where=case.label == 1, step="mid", alpha=0.2, linewidth=0)
    axis.plot(minutes, decision.probability(case.score, case.case))
    axis.axhline(decision.threshold, color=SOFT, linewidth=0.8, linestyle="--")
    axis.set(xlabel="minutes of the case", ylabel="probability", ylim=(0, 1))
    return figure, str(case.case[0])


def scatter(p: LabelPredictions, unit: str) -> tuple["Figure", int]:
    """Estimates over labels, and of how many windows."""
    shown = np.linspace(0, len(p) - 1, min(len(p), _SHOWN)).round().astype(int)
    figure, axis = new_figure(5.0, 4.6)
    axis.scatter(p.label[shown], p.score[shown], s=5, alpha=0.4, linewidths=0, rasterized=True)
    ends = [min(p.label.min(), p.score.min()), max(p.label.max(), p.score.max())]
    axis.plot(ends, ends, color=SOFT, linewidth=0.8, linestyle=":")
    axis.set(**{f"{side}label": f"{what}, {unit}".rstrip(", ") for side, what in (("x", "label"), ("y", "estimate"))})
    return figure, len(shown)
