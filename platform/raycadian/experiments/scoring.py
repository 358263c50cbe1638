"""How an experiment scores, compares and describes each kind of predictions; what it makes of them is report.py's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from raycadian.config import (
    Ablation,
    CrossValidation,
    DataEfficiency,
    Nocturnal,
    Personalisation,
    Recipe,
    in_unit_of,
)
from raycadian.evaluation.bootstrap import SubjectBootstrap
from raycadian.evaluation.forecast.compare import judged, pairs
from raycadian.evaluation.forecast.metrics import catalogue, points_of
from raycadian.evaluation.forecast.predictions import Predictions
from raycadian.evaluation.forecast.report import note, pairs_html, ranks_html
from raycadian.evaluation.label.classification import SHOWN, score_labels
from raycadian.evaluation.label.compare import differences
from raycadian.evaluation.label.decision import Decided
from raycadian.experiments.ablation import variants
from raycadian.pages import paragraph
from raycadian.tasks import task_of
from raycadian.tasks.base import Task
from raycadian.tasks.forecast import ForecastTask
from raycadian.tasks.label import LabelTask

EVERYBODY = (
    "Everybody is tested once, by a model that learnt from people of the other groups: never beside scores of one "
    "split."
)
CLOSED_FORM = (
    "Closed-form models (ridge, persistence) have no weights to tune: their line is the population's, a level to "
    "compare with. A mechanism is fitted to all of a person's history before the forecast at every point, as when "
    "serving."
)
_STEPS_MIN = (30, 60, 120, 240, 360, 480)  # single steps that models are compared at


@dataclass
class Group:
    """What is compared: predictions by name, all with one another, or with those of the name `level`."""

    named: dict[str, Any] = field(default_factory=dict)
    level: str | None = None


class ForecastScoring:
    """Errors at each step and up to it, with intervals over people, and tests of every pair."""

    digits = 2
    by_minutes_ahead = True
    """Whether a line may be the score by minutes ahead, where a point has no x."""
    chance = None
    """What a model that knows nothing scores, where one line says it."""

    def __init__(self, recipe: Recipe):
        self.recipe, self.metric = recipe, recipe.task.headline
        self._metrics = (self.metric.name, in_unit_of("mae_mgdl", recipe.task.target))

    def notes(self) -> list[str]:
        """What a reader must know of the protocol to read the figure."""
        match self.recipe.experiment:
            case Nocturnal():
                return [
                    "Figures of nights and of sliding windows are different protocols: never set them side by side."
                ]
            case Personalisation(val_days=days):
                return [
                    f"{days:g} further days of each person choose the epoch; the days after them test.",
                    CLOSED_FORM,
                ]
            case DataEfficiency():
                learnt = "The number of windows counts what weights learn from"
                return [f"{learnt}; a mechanism is fitted to the history before each forecast."]
            case CrossValidation():
                return [EVERYBODY]
            case Ablation():
                return [f"{name} is no recipe: {why}" for name, why in variants(self.recipe).refused.items()]
            case _ if self.recipe.window.anchor == "estimated_meal":
                return ["Meals are estimated from glucose."]
        return []

    def scores(self, predictions: Predictions) -> pd.DataFrame:
        """metric, value, low, high, n_subjects, n_windows, at each step alone and over all steps up to it."""
        people = SubjectBootstrap(predictions.subject, self.recipe.evaluation)
        known = catalogue(predictions.target)
        blocks = []
        for name in self._metrics:
            total, count = people.sum_count(points_of(predictions, known[name]))
            for kind, sums in (("step", (total, count)), ("cumulative", (total.cumsum(1), count.cumsum(1)))):
                value, low, high = people.estimate(*sums, known[name].root)
                blocks.append(pd.DataFrame({
                    "metric": name, "kind": kind, "horizon_min": predictions.horizon_min, "value": value, "low": low,
                    "high": high, "n_subjects": (sums[1] > 0).sum(0), "n_windows": len(predictions),
                    "n_points": sums[1].sum(0).astype(int),
                }))  # fmt: skip
        return pd.concat(blocks, ignore_index=True)

    def differences(self, groups: Mapping[str, Group]) -> pd.DataFrame:
        """All comparisons of the experiment, corrected together: model, other, difference, ..., sentence, group."""
        tables = [
            pairs(
                group.named, self.recipe.evaluation, metric=self.metric.name, horizons=_STEPS_MIN,
                reference=group.level,
            ).assign(group=name)
            for name, group in groups.items()
        ]  # fmt: skip
        return judged(_joined(tables), self.metric.name, self.recipe.evaluation.confidence)

    def better(self, groups: Mapping[str, Group], compared: pd.DataFrame) -> str:
        """What is better, as HTML."""
        if compared.empty:
            return ""
        confidence = self.recipe.evaluation.confidence
        html = note(compared, self.metric.words, confidence)
        for name, group in groups.items():
            html += f"<h3>{escape(name)}</h3>" if name else ""
            html += pairs_html(compared[compared.group == name])
            html += ranks_html(group.named, self.metric.name, confidence) if len(groups) == 1 else ""
        return html

    def plotted(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of the table that the figure shows."""
        own = table[table.metric == self.metric.name]
        return own[own.kind == "step"] if minutes_are_the_axis(table) else _whole(own)

    def shown(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows that the page shows: over the whole horizon, and at single steps where minutes ahead are the
        axis; with the column `minutes`, in which they differ."""
        last = table.horizon_min.max()
        steps = {*_STEPS_MIN, last} if minutes_are_the_axis(table) else ()
        rows = table[((table.kind == "step") & table.horizon_min.isin(steps)) | table.index.isin(_whole(table).index)]
        where = np.where(rows.kind == "step", "at ", "up to ") + rows.horizon_min.map("{:g} min".format)
        return rows.assign(minutes=where)


class LabelScoring:
    """Every score of a label, with intervals over people, and pairs on the same resamples of them. Methods as those of
    `ForecastScoring`."""

    digits = 3
    by_minutes_ahead = False

    def __init__(self, recipe: Recipe):
        self.recipe, self.metric = recipe, recipe.task.headline
        self.chance = 0.5 if self.metric.name == "auroc" else None

    def notes(self) -> list[str]:
        own = "Probabilities are calibrated, and thresholds set, by each model's own validation people."
        by_kind = {
            "cross_validation": f"{EVERYBODY} {own}",
            "data_efficiency": "A smaller draw of training windows is part of a larger one; validation and test people "
            "are the same for all.",
        }
        intervals = "Intervals and differences are of the same resampled people; they don't say how another draw would"
        return [by_kind[self.recipe.experiment.kind], f"{intervals} have done."]

    def scores(self, predictions: Decided) -> pd.DataFrame:
        return score_labels(*predictions, self.recipe.evaluation)

    def differences(self, groups: Mapping[str, Group]) -> pd.DataFrame:
        tables = [
            differences(
                group.named, self.metric.name, self.recipe.evaluation, reference=group.level
            ).assign(group=name)
            for name, group in groups.items()
        ]  # fmt: skip
        return _joined(tables)

    def better(self, groups: Mapping[str, Group], compared: pd.DataFrame) -> str:
        rows = compared.itertuples()
        return "".join(paragraph(f"{r.group}: {r.sentence}" if r.group else r.sentence) for r in rows)

    def plotted(self, table: pd.DataFrame) -> pd.DataFrame:
        return table[table.metric == self.metric.name]

    def shown(self, table: pd.DataFrame) -> pd.DataFrame:
        return table[table.metric.isin(SHOWN)]


Scoring = ForecastScoring | LabelScoring
SCORINGS: dict[type[Task], type[Scoring]] = {ForecastTask: ForecastScoring, LabelTask: LabelScoring}


def scoring_of(recipe: Recipe) -> Scoring:
    """By what the recipe's task is. Raises ValueError where no experiment scores it."""
    task = task_of(recipe)
    for kind, scoring in SCORINGS.items():
        if isinstance(task, kind):
            return scoring(recipe)
    raise ValueError(f"{recipe.name}: experiments score forecasts and labels, not task.kind: {recipe.task.kind}")


def minutes_are_the_axis(table: pd.DataFrame) -> bool:
    """Where no point has an x."""
    return bool(table.x.isna().all())


def _whole(table: pd.DataFrame) -> pd.DataFrame:
    """Over the whole horizon."""
    return table[(table.kind == "cumulative") & (table.horizon_min == table.horizon_min.max())]


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Groups of one model have no pairs."""
    return pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)
