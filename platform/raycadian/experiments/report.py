"""What an experiment leaves: a long table, what is better in words, one figure, on one page that opens offline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd

from raycadian.config import (
    Ablation,
    CrossValidation,
    DataEfficiency,
    Nocturnal,
    Personalisation,
    Recipe,
    Scaling,
    Transfer,
)
from raycadian.evaluation import report_parts as parts
from raycadian.evaluation.bootstrap import SubjectBootstrap
from raycadian.evaluation.forecast.compare import judged, pairs
from raycadian.evaluation.forecast.metrics import METRICS, points_of
from raycadian.evaluation.forecast.predictions import Predictions
from raycadian.evaluation.forecast.report_comparison import note, pairs_html, ranks_html
from raycadian.evaluation.metric import label
from raycadian.evaluation.plotting import MODELS, STYLE
from raycadian.experiments.ablation import variants
from raycadian.experiments.points import ExperimentPoint
from raycadian.pages import new_figure, page, paragraph, table_html
from raycadian.runs import write_json, write_recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = "rmse_mgdl"  # the figure's and the comparisons' metric
TABLED = ("rmse_mgdl", "mae_mgdl")
STEPS_MIN = (30, 60, 120, 240, 360, 480)  # single steps that models are compared at
EVERYBODY = "Everybody is tested once, by a model that learnt from people of the other groups: never beside scores of one split."
CLOSED_FORM = (
    "Closed-form models (ridge, persistence) have no weights to tune: their line is the population's, a level to compare with. "
    "A mechanism is fitted to all of a person's history before the forecast at every point, as when serving."
)


def write(
    folder: Path, recipe: Recipe, found: list[ExperimentPoint], predictions: list[Predictions], runs: list[list[str]]
) -> None:
    """Write recipe.yaml, table.csv, differences.csv, table.json, figure.svg and report.html into `folder`."""
    table = pd.concat([_rows(point, p, recipe) for point, p in zip(found, predictions, strict=True)], ignore_index=True)
    groups = _grouped(found, predictions)
    compared = _differences(groups, recipe)
    notes = _notes(recipe)
    confidence = recipe.evaluation.confidence
    with mpl.rc_context(STYLE):
        ExperimentReport(
            recipe, table, compared, notes, lambda: figure(recipe, table),
            caption=f"{_axis(recipe)} against RMSE, pooled over windows; {confidence:.0%} intervals from resampling people.",
            better=_better(groups, compared, confidence) if len(compared) else "", shown=_shown(recipe, table),
        ).write(folder, found, runs)  # fmt: skip


@dataclass(frozen=True)
class ExperimentReport:
    """What an experiment of any task leaves: table and differences of its points, and what its page shows of them.

    draw: the figure, anew at every call · better: what is better, as HTML · shown: the table for people.
    """

    recipe: Recipe
    table: pd.DataFrame
    differences: pd.DataFrame
    notes: list[str]
    draw: Callable[[], "Figure"]
    caption: str
    better: str
    shown: pd.DataFrame

    def write(self, folder: Path, found: list[ExperimentPoint], runs: list[list[str]]) -> None:
        """The files of `report.write`."""
        recipe, protocol = self.recipe, self.recipe.protocol
        write_recipe(folder / "recipe.yaml", recipe)
        self.table.to_csv(folder / "table.csv", index=False)
        self.differences.to_csv(folder / "differences.csv", index=False)
        named = [{"line": p.line, "x": p.x, "runs": own} for p, own in zip(found, runs, strict=True)]
        body = {
            "experiment": recipe.experiment.model_dump(mode="json"), "protocol": protocol, "rows": _records(self.table),
            "differences": _records(self.differences), "runs": named, "notes": self.notes,
        }  # fmt: skip
        write_json(folder / "table.json", body)
        self.draw().savefig(folder / "figure.svg", bbox_inches="tight", metadata={"Date": None})
        (folder / "report.html").write_text(self._page(pd.DataFrame(named)), encoding="utf-8")

    def _page(self, runs: pd.DataFrame) -> str:
        recipe, protocol = self.recipe, self.recipe.protocol
        asked = f"{type(recipe.experiment).__doc__} Protocol: {protocol}."
        runs = runs.assign(runs=runs.runs.map(", ".join))
        sections = [
            ("Question", "".join(map(paragraph, [asked, *self.notes]))),
            ("Figure", parts.figure(self.draw(), self.caption)),
            ("What is better", self.better),
            (f"Table, {protocol}", table_html(self.shown)),
            ("Runs", parts.folded(f"{len(runs)} points", table_html(runs), False)),
        ]
        return page(recipe.name, [(head, body) for head, body in sections if body], recipe.description or asked)


def _rows(point: ExperimentPoint, p: Predictions, recipe: Recipe) -> pd.DataFrame:
    """Error with intervals over people at each step alone and over all steps up to it."""
    settings = recipe.evaluation
    people = SubjectBootstrap(
        p.subject, resamples=settings.bootstrap, confidence=settings.confidence, seed=settings.seed
    )
    blocks = []
    for name in TABLED:
        metric = METRICS[name]
        total, count = people.sum_count(points_of(p, metric))
        for kind, sums in (("step", (total, count)), ("cumulative", (total.cumsum(1), count.cumsum(1)))):
            value, low, high = people.estimate(*sums, metric.root)
            blocks.append(pd.DataFrame({
                "protocol": recipe.protocol, "group": point.group, "model": point.line, "x": point.x, "metric": name,
                "kind": kind, "horizon_min": p.horizon_min, "value": value, "low": low, "high": high,
                "n_subjects": (sums[1] > 0).sum(0), "n_windows": len(p), "n_points": sums[1].sum(0).astype(int),
            }))  # fmt: skip
    return pd.concat(blocks, ignore_index=True)


@dataclass
class _Group:
    """What is compared: forecasts by name, all with one another or with the level."""

    named: dict[str, Predictions] = field(default_factory=dict)
    level: str | None = None


def _grouped(found: list[ExperimentPoint], predictions: list[Predictions]) -> dict[str, _Group]:
    groups: dict[str, _Group] = {}
    for point, p in zip(found, predictions, strict=True):
        group = groups.setdefault(point.group, _Group())
        group.named[point.name] = p
        group.level = point.name if point.level else group.level
    return groups


def _differences(groups: dict[str, _Group], recipe: Recipe) -> pd.DataFrame:
    """All comparisons of the experiment, corrected together."""
    settings = recipe.evaluation
    tables = [
        pairs(
            group.named, metric=SHOWN, horizons=STEPS_MIN, bootstrap=settings.bootstrap, confidence=settings.confidence,
            seed=settings.seed, reference=group.level,
        ).assign(group=name)
        for name, group in groups.items()
    ]  # fmt: skip
    return judged(pd.concat(tables, ignore_index=True), SHOWN, settings.confidence)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON; NaN becomes null."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _notes(recipe: Recipe) -> list[str]:
    """What a reader must know of the protocol to read the figure."""
    match recipe.experiment:
        case Nocturnal():
            return ["Figures of nights and of sliding windows are different protocols: never set them side by side."]
        case Personalisation(val_days=days):
            return [f"{days:g} further days of each person choose the epoch; the days after them test.", CLOSED_FORM]
        case DataEfficiency():
            return [
                "The number of windows counts what weights learn from; a mechanism is fitted to the history before each forecast."
            ]
        case CrossValidation():
            return [EVERYBODY]
        case Ablation():
            return [f"{name} is no recipe: {why}" for name, why in variants(recipe).refused.items()]
        case _ if recipe.window.anchor == "estimated_meal":
            return ["Meals are estimated from glucose."]
    return []


def _better(groups: dict[str, _Group], compared: pd.DataFrame, confidence: float) -> str:
    better = note(compared, "RMSE", confidence)
    for name, group in groups.items():
        better += f"<h3>{escape(name)}</h3>" if name else ""
        better += pairs_html(compared[compared.group == name])
        better += ranks_html(group.named, SHOWN, confidence) if len(groups) == 1 else ""
    return better


def _shown(recipe: Recipe, table: pd.DataFrame) -> pd.DataFrame:
    """The table for people: over the whole horizon, and at single steps where minutes ahead are the axis."""
    last, ahead = table.horizon_min.max(), table.x.isna().all()
    steps = (table.kind == "step") & table.horizon_min.isin({*STEPS_MIN, last} if ahead else ())
    rows = table[steps | ((table.kind == "cumulative") & (table.horizon_min == last))]
    where = np.where(rows.kind == "step", "at ", "up to ") + rows.horizon_min.map("{:g} min".format)
    shown = pd.DataFrame({
        "model": rows.model, _axis(recipe): rows.x.map(_word), "minutes": where, "people": rows.n_subjects, "windows": rows.n_windows,
        "metric": rows.metric.map(label), "value": parts.with_interval(rows, "value", "low", "high"),
    })  # fmt: skip
    index = [c for c in shown if c not in ("metric", "value")]
    wide = shown.pivot(index=index, columns="metric", values="value").loc[:, [label(m) for m in TABLED]]
    order = shown.drop_duplicates(index).set_index(index).index
    wide = wide.loc[order].reset_index().rename_axis(columns=None)
    return wide.drop(columns=_axis(recipe)) if ahead else wide


def _word(x: Any) -> str:
    return x if isinstance(x, str) or x is None else f"{x:g}"


def figure(recipe: Recipe, table: pd.DataFrame) -> "Figure":
    """One line a model: x, or minutes ahead where x is none, against RMSE, with intervals."""
    ahead = table.x.isna().all()
    rows = table[(table.metric == SHOWN) & (table.kind == ("step" if ahead else "cumulative"))]
    rows = rows if ahead else rows[rows.horizon_min == rows.horizon_min.max()]
    drawn, axis = new_figure(9, 4.2)
    places = _places(rows)
    for i, (name, own) in enumerate(rows.groupby("model", sort=False)):
        x = own.horizon_min if ahead else own.x.map(places) if places else own.x.astype(float)
        line(axis, i, np.asarray(x, float) + (0.06 * i if places else 0), own, str(name), joined=not places)
    if places:
        axis.set_xticks(
            list(places.values()),
            list(places),
            rotation=20 if len(places) > 3 else 0,
            ha="right" if len(places) > 3 else "center",
        )
    elif isinstance(recipe.experiment, DataEfficiency | Scaling) and not ahead:
        log_axis(axis, rows.x, "{:g}")
    axis.set(xlabel=_axis(recipe), ylabel=label(SHOWN))
    legend(axis)
    return drawn


def _places(rows: pd.DataFrame) -> dict[str, int]:
    """Positions of an axis of words; none where x is a number."""
    words = [x for x in dict.fromkeys(rows.x) if isinstance(x, str)]
    return {word: i for i, word in enumerate(words)}


def line(axis: "Axes", i: int, x: np.ndarray, rows: pd.DataFrame, name: str, joined: bool = True) -> None:
    """Model number i: its values at x with intervals; not joined where x are words."""
    color, dashes = MODELS[i % len(MODELS)], ("-", "--", "-.", ":")[i // len(MODELS) % 4]
    value, low, high = (rows[c].to_numpy(float) for c in ("value", "low", "high"))
    axis.plot(x, value, ls=dashes if joined else "none", marker="o", ms=4, lw=1.6, color=color, label=name)
    if joined:
        axis.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
    else:
        axis.vlines(x, low, high, color=color, lw=1.4)


def log_axis(axis: "Axes", x: pd.Series, words: str) -> None:
    """Ticks where something was measured, and there alone."""
    sizes = sorted(set(x.astype(float)))
    axis.set_xscale("log")
    axis.set_xticks(sizes, [words.format(size) for size in sizes])
    axis.minorticks_off()


def legend(axis: "Axes") -> None:
    """Names of models are text, not mathematics."""
    for text in axis.legend(fontsize=8, frameon=False).get_texts():
        text.set_parse_math(False)


def _axis(recipe: Recipe) -> str:
    match recipe.experiment:
        case Personalisation():
            return "days of the person's own data"
        case Transfer():
            return "data set"
        case DataEfficiency():
            return "training windows"
        case Ablation():
            return "variant"
        case Scaling(part=part):
            return {"width": "width of the network", "layers": "layers of the network"}[part]
    return "minutes ahead"
