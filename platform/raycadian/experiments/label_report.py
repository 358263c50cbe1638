"""What an experiment on labels leaves: the files of experiments/report.py, of scores that have no minutes ahead."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd

from raycadian.config import Recipe, headline, protocol_of
from raycadian.evaluation import report_parts as parts
from raycadian.evaluation.classification import BETTER, differences, score_labels
from raycadian.evaluation.decision import Decision
from raycadian.evaluation.figures import MODELS
from raycadian.evaluation.labels import LabelPredictions
from raycadian.experiments.points import Point
from raycadian.pages import new_figure, page, paragraph, table_html
from raycadian.training.run import write_json, write_recipe

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
    write_recipe(folder / "recipe.yaml", recipe)
    table.to_csv(folder / "table.csv", index=False)
    compared.to_csv(folder / "differences.csv", index=False)
    named = [{"line": p.line, "x": p.x, "runs": own} for p, own in zip(found, runs, strict=True)]
    body = {
        "experiment": recipe.experiment.model_dump(mode="json"), "protocol": protocol_of(recipe), "rows": _records(table),
        "differences": _records(compared), "runs": named, "notes": _NOTES,
    }  # fmt: skip
    write_json(folder / "table.json", body)
    with mpl.rc_context(parts.STYLE):
        figure(recipe, table).savefig(folder / "figure.svg", bbox_inches="tight", metadata={"Date": None})
        html = _page(recipe, table, compared, pd.DataFrame(named))
    (folder / "report.html").write_text(html, encoding="utf-8")


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


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON; NaN becomes null."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _page(recipe: Recipe, table: pd.DataFrame, compared: pd.DataFrame, runs: pd.DataFrame) -> str:
    confidence, metric = recipe.evaluation.confidence, headline(recipe.task).metric
    asked = f"{type(recipe.experiment).__doc__} Protocol: {protocol_of(recipe)}."
    caption = f"{_AXIS.capitalize()} against {parts.label(metric)}; {confidence:.0%} intervals from resampling people."
    sections = [
        ("Question", "".join(map(paragraph, [asked, *_NOTES]))),
        ("Figure", parts.figure(figure(recipe, table), caption)),
        ("What is better", "".join(paragraph(f"{r.group}: {r.sentence}") for r in compared.itertuples())),
        (f"Table, {protocol_of(recipe)}", table_html(_shown(table))),
        ("Runs", parts.folded(f"{len(runs)} points", table_html(runs.assign(runs=runs.runs.map(", ".join))), False)),
    ]
    return page(recipe.name, [(head, body) for head, body in sections if body], recipe.description or asked)


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
        color = MODELS[i % len(MODELS)]
        x = own.x.to_numpy(float)
        axis.plot(
            x,
            own.value,
            marker="o",
            ms=4,
            lw=1.6,
            color=color,
            ls=("-", "--", "-.", ":")[i // len(MODELS) % 4],
            label=name,
        )
        axis.fill_between(x, own.low.to_numpy(float), own.high.to_numpy(float), color=color, alpha=0.15, lw=0)
    if best.metric == "auroc":
        axis.axhline(0.5, lw=0.8, ls=":", color="0.5")
    sizes = np.unique(rows.x.astype(float))
    axis.set_xscale("log")
    axis.set_xticks(sizes, [f"{x:,.0f}" for x in sizes])
    axis.minorticks_off()
    axis.set(xlabel=_AXIS, ylabel=parts.label(best.metric))
    for text in axis.legend(fontsize=8, frameon=False).get_texts():
        text.set_parse_math(False)
    return drawn
