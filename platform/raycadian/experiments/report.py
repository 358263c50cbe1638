"""What an experiment leaves: a long table, what is better in words, one figure, on one page that opens offline."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

from raycadian.config import Recipe
from raycadian.evaluation import report as parts
from raycadian.evaluation.metric import label
from raycadian.evaluation.report import STYLE, legend, line
from raycadian.experiments.points import ExperimentPoint
from raycadian.experiments.scoring import Group, Scoring, minutes_are_the_axis, scoring_of
from raycadian.files import write_json
from raycadian.pages import Axes, Figure, Section, new_figure, page, paragraph, table_html
from raycadian.runs import write_recipe

_AXES = {
    "personalisation": "days of the person's own data",
    "transfer": "data set",
    "data_efficiency": "training windows",
    "ablation": "variant",
    "cross_validation": "cross-validation",
}
_LOGARITHMIC = ("data_efficiency", "scaling")


def write(
    folder: Path, recipe: Recipe, points: Sequence[ExperimentPoint], results: Sequence[Any], runs: list[list[str]]
) -> None:
    """Write recipe.yaml, table.csv, differences.csv, table.json, figure.svg and report.html into `folder`.

    `results`, `runs`: of each point: what its scores are computed from (`Task.results`), and its runs' names.
    """
    with mpl.rc_context(STYLE):
        ExperimentReport(recipe, scoring_of(recipe), points, results, runs).write(folder)


@dataclass(frozen=True)
class ExperimentReport:
    """An experiment of any task, as its files show it."""

    recipe: Recipe
    scoring: Scoring
    points: Sequence[ExperimentPoint]
    results: Sequence[Any]
    runs: list[list[str]]

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row a point and score."""
        tables = []
        for point, own in zip(self.points, self.results, strict=True):
            scores = self.scoring.scores(own)
            place = {
                "protocol": self.recipe.protocol, "group": point.group, "model": point.line, "x": point.x,
            }  # fmt: skip
            tables.append(pd.concat([pd.DataFrame([place] * len(scores)), scores], axis=1))
        return pd.concat(tables, ignore_index=True)

    @cached_property
    def groups(self) -> dict[str, Group]:
        """What is compared, by the groups of the points."""
        groups: dict[str, Group] = {}
        for point, own in zip(self.points, self.results, strict=True):
            group = groups.setdefault(point.group, Group())
            group.named[point.name] = own
            group.level = point.name if point.level else group.level
        return groups

    @cached_property
    def differences(self) -> pd.DataFrame:
        return self.scoring.differences(self.groups)

    @property
    def axis(self) -> str:
        """What x is."""
        if minutes_are_the_axis(self.table):
            return "minutes ahead"
        experiment = self.recipe.experiment
        return _AXES.get(experiment.kind) or f"{experiment.part} of the network"

    def write(self, folder: Path) -> None:
        """The files of `report.write`."""
        write_recipe(folder / "recipe.yaml", self.recipe)
        self.table.to_csv(folder / "table.csv", index=False)
        self.differences.to_csv(folder / "differences.csv", index=False)
        write_json(folder / "table.json", self._body())
        self.figure().savefig(folder / "figure.svg", bbox_inches="tight", metadata={"Date": None})
        (folder / "report.html").write_text(self._page(), encoding="utf-8")

    def _named(self) -> list[dict[str, Any]]:
        named = zip(self.points, self.runs, strict=True)
        return [{"line": point.line, "x": point.x, "runs": runs} for point, runs in named]

    def _body(self) -> dict[str, Any]:
        """table.json."""
        return {
            "experiment": self.recipe.experiment.model_dump(mode="json"), "protocol": self.recipe.protocol,
            "rows": _records(self.table), "differences": _records(self.differences), "runs": self._named(),
            "notes": self.scoring.notes(),
        }  # fmt: skip

    def _page(self) -> str:
        recipe, protocol = self.recipe, self.recipe.protocol
        question = f"{type(recipe.experiment).__doc__} Protocol: {protocol}."
        runs = pd.DataFrame(self._named())
        runs = table_html(runs.assign(runs=runs.runs.map(", ".join)))
        sections = [
            Section("Question", "".join(map(paragraph, [question, *self.scoring.notes()]))),
            Section("Figure", parts.figure(self.figure(), self._caption())),
            Section("What is better", self.scoring.better(self.groups, self.differences)),
            Section(f"Table, {protocol}", table_html(self._shown())),
            Section("Runs", parts.folded(f"{len(self.points)} points", runs, False)),
        ]
        return page(recipe.name, sections, recipe.description or question)

    def _caption(self) -> str:
        score = label(self.scoring.metric.name).split(",")[0]
        confidence = self.recipe.evaluation.confidence
        return f"{score} by {self.axis}, pooled over windows; {confidence:.0%} intervals from resampling people."

    def _shown(self) -> pd.DataFrame:
        """The table for people: a row a model and place, its metrics beside one another."""
        rows = self.scoring.shown(self.table)
        keys = {"model": rows.model}
        if not minutes_are_the_axis(self.table):
            keys[self.axis] = rows.x.map(_word)
        keys |= {name: rows[name] for name in ("minutes",) if name in rows}
        keys |= {"people": rows.n_subjects, "windows": rows.n_windows}
        values = parts.with_interval(rows, "value", "low", "high", self.scoring.digits)
        long = pd.DataFrame({**keys, "metric": rows.metric.map(label), "value": values})
        wide = long.pivot(index=list(keys), columns="metric", values="value")
        order = long.drop_duplicates(list(keys)).set_index(list(keys)).index
        return wide.loc[order, list(dict.fromkeys(long.metric))].reset_index().rename_axis(columns=None)

    def figure(self) -> Figure:
        """One line a model: x, or minutes ahead where there is none, against the score, with intervals."""
        rows = self.scoring.plotted(self.table)
        figure, axis = new_figure(9, 4.2)
        places = _places(rows)
        for i, (name, own) in enumerate(rows.groupby("model", sort=False)):
            x = _positions(own, places, i)
            line(axis, i, x, own.value.to_numpy(float), own.low, own.high, str(name), size=4, joined=not places)
        if self.scoring.chance is not None:
            axis.axhline(self.scoring.chance, lw=0.8, ls=":", color="0.5")
        if places:
            _word_axis(axis, places)
        elif self.recipe.experiment.kind in _LOGARITHMIC and not minutes_are_the_axis(self.table):
            _log_axis(axis, rows.x)
        axis.set(xlabel=self.axis, ylabel=label(self.scoring.metric.name))
        legend(axis)
        return figure


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows for JSON; NaN becomes null."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def _word(x: Any) -> str:
    """A number with its thousands set apart, 0.5 as it is."""
    return x if isinstance(x, str) else f"{x:,.10g}"


def _places(rows: pd.DataFrame) -> dict[str, int]:
    """Positions of an axis of words; none where x is a number."""
    words = [x for x in dict.fromkeys(rows.x) if isinstance(x, str)]
    return {word: i for i, word in enumerate(words)}


def _positions(rows: pd.DataFrame, places: dict[str, int], i: int) -> np.ndarray:
    """x of a model's rows; at words model number i stands a little beside the others."""
    if places:
        return rows.x.map(places).to_numpy(float) + 0.06 * i
    return (rows.horizon_min if minutes_are_the_axis(rows) else rows.x).to_numpy(float)


def _word_axis(axis: Axes, places: dict[str, int]) -> None:
    many = len(places) > 3
    axis.set_xticks(
        list(places.values()), list(places), rotation=20 if many else 0, ha="right" if many else "center"
    )  # fmt: skip
    if len(places) == 1:
        axis.set_xlim(-1, 1)


def _log_axis(axis: Axes, x: pd.Series) -> None:
    """Ticks where something was measured, and there alone."""
    sizes = sorted(set(x.astype(float)))
    axis.set_xscale("log")
    axis.set_xticks(sizes, [_word(size) for size in sizes])
    axis.minorticks_off()
