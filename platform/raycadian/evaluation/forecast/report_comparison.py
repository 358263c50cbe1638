"""The report's sections on what is better: pairs of models in words, and ranks over people as a diagram."""

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from raycadian.evaluation import report_parts as parts
from raycadian.evaluation.forecast.compare import differences, rank_models
from raycadian.evaluation.forecast.predictions import Predictions
from raycadian.evaluation.forecast.significance import Ranks
from raycadian.evaluation.metric import label
from raycadian.evaluation.plotting import INK, MODELS
from raycadian.pages import new_figure, paragraph, table_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NOTE = (
    "The better model of each pair comes first. The difference is of {label}; brackets hold {confidence:.0%} "
    "intervals from resampling people: would it hold in other people? p: the Diebold-Mariano test over the windows of "
    "all people with the small-sample correction of Harvey, Leybourne and Newbold: would it hold for these people on "
    "other days? It is corrected by Holm's method for the {tests} comparisons over the whole horizon, and apart for "
    "those at single steps. Better: both say so. Better for these people: only the test does."
)


def comparison(named: dict[str, Predictions], board: pd.DataFrame, resamples: dict[str, Any]) -> str:
    """Every pair over the whole horizon, at single steps folded, and the ranks; empty for one model. `resamples`:
    bootstrap, confidence, seed."""
    if len(named) < 2:
        return ""
    settings = {name: resamples[name] for name in ("bootstrap", "confidence", "seed")}
    metric, confidence = str(board.columns[1]), resamples["confidence"]
    return differences_html(differences(named, metric=metric, **settings), metric, confidence) + ranks_html(
        named, metric, confidence
    )


def differences_html(table: pd.DataFrame, metric: str, confidence: float) -> str:
    """The table of `compare.differences` for people, and how to read it."""
    return note(table, label(metric).split(",")[0], confidence) + pairs_html(table)


def note(table: pd.DataFrame, metric: str, confidence: float) -> str:
    """How to read pairs of models."""
    tests = int(table.p_holm[table.kind == "cumulative"].notna().sum())
    return paragraph(_NOTE.format(label=metric, confidence=confidence, tests=tests))


def pairs_html(table: pd.DataFrame) -> str:
    """Pairs in words and as a table; those at single steps folded."""
    whole = table.kind == "cumulative"
    sentences = "".join(f"<li>{escape(text)}</li>" for text in table.sentence[whole])
    rest = "" if whole.all() else parts.folded("At single steps", table_html(_shown(table[~whole])), False)
    return f"<ul>{sentences}</ul>" + table_html(_shown(table[whole])) + rest


def ranks_html(named: dict[str, Predictions], metric: str, confidence: float) -> str:
    """The critical-difference diagram, where there are three models and two people at least."""
    people = len(set(next(iter(named.values())).subject.tolist()))
    if len(named) < 3 or people < 2:
        return ""
    ranks = rank_models(named, metric, 1 - confidence)
    caption = (
        f"Mean rank over {ranks.n_subjects} people by their own {label(metric).split(',')[0]}; 1 is best. Bars join "
        f"models that Nemenyi's test can't tell apart (critical difference {ranks.critical:.2f}). Friedman's test that "
        f"all rank the same: p {p_value(ranks.p)}."
    )
    return parts.figure(critical_difference(ranks), caption)


def critical_difference(ranks: Ranks) -> "Figure":
    """Models along an axis of mean ranks, bars over those that can't be told apart (Demšar 2006, figure 1)."""
    names, groups = sorted(ranks.mean, key=ranks.mean.__getitem__), ranks.groups()
    figure, axis = new_figure(9, 0.9 + 0.26 * len(names) + 0.16 * len(groups))
    for row, group in enumerate(groups):
        y = -0.4 - 0.5 * row
        axis.plot([ranks.mean[group[0]], ranks.mean[group[-1]]], [y, y], color=INK, lw=4, solid_capstyle="round")
    top = -0.4 - 0.5 * len(groups)
    for i, name in enumerate(names):  # the leftmost reaches lowest: no label is crossed
        x, y = ranks.mean[name], top - 0.8 * (len(names) - i)
        axis.plot([x, x], [0, y], color=MODELS[i % len(MODELS)], lw=1)
        axis.text(x, y, f" {name}  {x:.2f}", va="center", fontsize=9, parse_math=False)
    axis.plot([1, 1 + ranks.critical], [0.7, 0.7], color=INK, lw=1.5, marker="|")
    axis.text(1, 0.85, f"critical difference {ranks.critical:.2f}", fontsize=8, va="bottom")
    axis.set(
        xlim=(0.95, max(len(names), 1 + ranks.critical) + 0.9), ylim=(top - 0.8 * len(names) - 0.5, 1.8), yticks=[]
    )
    axis.set_xticks(range(1, len(names) + 1))
    axis.xaxis.tick_top()
    axis.grid(False)
    axis.spines[["left", "bottom", "right"]].set_visible(False)
    axis.spines["top"].set_visible(True)
    return figure


def p_value(p: float) -> str:
    return "–" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({
        "model": table.model, "against": table.other, "minutes": table.horizon_min.map("{:g}".format),
        "difference": parts.with_interval(table, "difference", "diff_low", "diff_high"),
        "%": table.relative_pct.map("{:.1f}".format), "p": table.p.map(p_value), "p, Holm": table.p_holm.map(p_value),
        "verdict": table.verdict,
    })  # fmt: skip
