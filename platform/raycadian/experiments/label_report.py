"""What an experiment on labels leaves: the files of experiments/report.py, of scores that have no minutes ahead."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd

from raycadian.config import CrossValidation, Recipe
from raycadian.evaluation import report_parts as parts
from raycadian.evaluation.label.classification import SHOWN, score_labels
from raycadian.evaluation.label.compare import differences
from raycadian.evaluation.label.decision import Decided
from raycadian.evaluation.metric import label
from raycadian.evaluation.plotting import STYLE
from raycadian.experiments.points import ExperimentPoint
from raycadian.experiments.report import EVERYBODY, ExperimentReport, legend, line, log_axis
from raycadian.pages import new_figure, paragraph

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INTERVALS = (
    "Intervals and differences are of the same resampled people; they don't say how another draw would have done."
)


def write(
    folder: Path, recipe: Recipe, found: list[ExperimentPoint], said: list[Decided], runs: list[list[str]]
) -> None:
    """Write recipe.yaml, table.csv, differences.csv, table.json, figure.svg and report.html into `folder`."""
    settings = recipe.evaluation
    drawn = {"bootstrap": settings.bootstrap, "confidence": settings.confidence, "seed": settings.seed}
    table = pd.concat([_rows(p, own, recipe, drawn) for p, own in zip(found, said, strict=True)], ignore_index=True)
    compared = _differences(found, said, recipe, drawn)
    notes = [_notes(recipe), _INTERVALS]
    caption = f"{label(recipe.task.headline.name)} by {_axis(recipe)}; {settings.confidence:.0%} intervals from resampling people."
    with mpl.rc_context(STYLE):
        ExperimentReport(
            recipe, table, compared, notes, lambda: figure(recipe, table), caption=caption,
            better="".join(paragraph(f"{r.group}: {r.sentence}" if r.group else r.sentence) for r in compared.itertuples()), shown=_shown(recipe, table),
        ).write(folder, found, runs)  # fmt: skip


def _axis(recipe: Recipe) -> str:
    return "cross-validation" if isinstance(recipe.experiment, CrossValidation) else "training windows"


def _notes(recipe: Recipe) -> str:
    if isinstance(recipe.experiment, CrossValidation):
        return f"{EVERYBODY} Probabilities are calibrated, and thresholds set, by each model's own validation people."
    return (
        "A smaller draw of training windows is part of a larger one; validation and test people are the same for all."
    )


def _rows(point: ExperimentPoint, said: Decided, recipe: Recipe, drawn: dict[str, Any]) -> pd.DataFrame:
    table = score_labels(*said, **drawn)
    own = {"protocol": recipe.protocol, "group": point.group, "model": point.line, "x": point.x}
    return pd.concat([pd.DataFrame([own] * len(table)), table], axis=1)


def _differences(
    found: list[ExperimentPoint], said: list[Decided], recipe: Recipe, drawn: dict[str, Any]
) -> pd.DataFrame:
    """Pairs of models within each group."""
    groups: dict[str, dict[str, Decided]] = {}
    for point, own in zip(found, said, strict=True):
        groups.setdefault(point.group, {})[point.name] = own
    metric = recipe.task.headline.name
    tables = [differences(named, metric, **drawn).assign(group=name) for name, named in groups.items()]
    return pd.concat(tables, ignore_index=True)


def _shown(recipe: Recipe, table: pd.DataFrame) -> pd.DataFrame:
    """A row a model and size, its metrics beside one another."""
    rows = table[table.metric.isin(SHOWN)]
    values = [parts.brackets(*row, digits=3) for row in rows[["value", "low", "high"]].itertuples(index=False)]
    keys = ["model", _axis(recipe), "people", "windows"]
    shown = pd.DataFrame({
        "model": rows.model, _axis(recipe): rows.x.map(lambda x: x if isinstance(x, str) else f"{x:,.0f}"), "people": rows.n_subjects, "windows": rows.n_windows,
        "metric": rows.metric.map(label), "value": values,
    })  # fmt: skip
    wide = shown.pivot(index=keys, columns="metric", values="value")
    order = shown.drop_duplicates(keys).set_index(keys).index
    return wide.loc[order, list(dict.fromkeys(shown.metric))].reset_index().rename_axis(columns=None)


def figure(recipe: Recipe, table: pd.DataFrame) -> "Figure":
    """One line a model: training windows (of folds a point each) against the score that a run is chosen by, with intervals."""
    best = recipe.task.headline
    rows = table[table.metric == best.name]
    folded = isinstance(recipe.experiment, CrossValidation)
    drawn, axis = new_figure(9, 4.2)
    for i, (name, own) in enumerate(rows.groupby("model", sort=False)):
        x = np.full(len(own), 0.06 * i) if folded else own.x.to_numpy(float)
        line(axis, i, x, own, str(name), joined=not folded)
    if best.name == "auroc":
        axis.axhline(0.5, lw=0.8, ls=":", color="0.5")
    if folded:
        axis.set_xticks([0], rows.x.unique())
        axis.set_xlim(-1, 1)
    else:
        log_axis(axis, rows.x, "{:,.0f}")
    axis.set(xlabel=_axis(recipe), ylabel=label(best.name))
    legend(axis)
    return drawn
