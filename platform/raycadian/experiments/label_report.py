"""What an experiment on labels leaves: the files of experiments/report.py, of scores that have no minutes ahead."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import pandas as pd

from raycadian.config import Recipe, headline, protocol_of
from raycadian.evaluation import report_parts as parts
from raycadian.evaluation.classification import BETTER, differences, score_labels
from raycadian.evaluation.decision import Decision
from raycadian.evaluation.labels import LabelPredictions
from raycadian.experiments.points import Point
from raycadian.experiments.report import Left, legend, line, log_axis
from raycadian.pages import new_figure, paragraph

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Said = tuple[LabelPredictions, Decision | None]
_AXIS = "training windows"
_NOTES = [
    "A smaller draw of training windows is part of a larger one; validation and test people are the same for all.",
    "Intervals and differences are of the same resampled people; they don't say how another draw would have done.",
]


def write(folder: Path, recipe: Recipe, found: list[Point], said: list[Said], runs: list[list[str]]) -> None:
    """Write recipe.yaml, table.csv, differences.csv, table.json, figure.svg and report.html into `folder`."""
    settings = recipe.evaluation
    drawn = {"bootstrap": settings.bootstrap, "confidence": settings.confidence, "seed": settings.seed}
    table = pd.concat([_rows(p, own, recipe, drawn) for p, own in zip(found, said, strict=True)], ignore_index=True)
    compared = _differences(found, said, recipe, drawn)
    caption = f"{_AXIS.capitalize()} against {parts.label(headline(recipe.task).metric)}; {settings.confidence:.0%} intervals from resampling people."
    with mpl.rc_context(parts.STYLE):
        Left(
            recipe, table, compared, _NOTES, lambda: figure(recipe, table), caption=caption,
            better="".join(paragraph(f"{r.group}: {r.sentence}") for r in compared.itertuples()), shown=_shown(table),
        ).write(folder, found, runs)  # fmt: skip


def _rows(point: Point, said: Said, recipe: Recipe, drawn: dict[str, Any]) -> pd.DataFrame:
    table = score_labels(*said, **drawn)
    own = {"protocol": protocol_of(recipe), "group": point.group, "model": point.line, "x": point.x}
    return pd.concat([pd.DataFrame([own] * len(table)), table], axis=1)


def _differences(found: list[Point], said: list[Said], recipe: Recipe, drawn: dict[str, Any]) -> pd.DataFrame:
    """Pairs of models within each group."""
    groups: dict[str, dict[str, Said]] = {}
    for point, own in zip(found, said, strict=True):
        groups.setdefault(point.group, {})[point.name] = own
    metric = headline(recipe.task).metric
    tables = [differences(named, metric, **drawn).assign(group=name) for name, named in groups.items()]
    return pd.concat(tables, ignore_index=True)


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """A row a model and size, its metrics beside one another."""
    rows = table[table.metric.isin(BETTER)]
    values = [parts.brackets(*row, digits=3) for row in rows[["value", "low", "high"]].itertuples(index=False)]
    keys = ["model", _AXIS, "people", "windows"]
    shown = pd.DataFrame({
        "model": rows.model, _AXIS: rows.x.map("{:,.0f}".format), "people": rows.n_subjects, "windows": rows.n_windows,
        "metric": rows.metric.map(parts.label), "value": values,
    })  # fmt: skip
    wide = shown.pivot(index=keys, columns="metric", values="value")
    order = shown.drop_duplicates(keys).set_index(keys).index
    return wide.loc[order, list(dict.fromkeys(shown.metric))].reset_index().rename_axis(columns=None)


def figure(recipe: Recipe, table: pd.DataFrame) -> "Figure":
    """One line a model: training windows against the score that a run is chosen by, with intervals."""
    best = headline(recipe.task)
    rows = table[table.metric == best.metric]
    drawn, axis = new_figure(9, 4.2)
    for i, (name, own) in enumerate(rows.groupby("model", sort=False)):
        line(axis, i, own.x.to_numpy(float), own, str(name))
    if best.metric == "auroc":
        axis.axhline(0.5, lw=0.8, ls=":", color="0.5")
    log_axis(axis, rows.x, "{:,.0f}")
    axis.set(xlabel=_AXIS, ylabel=parts.label(best.metric))
    legend(axis)
    return drawn
