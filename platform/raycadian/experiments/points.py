"""What an experiment is: points, each a few trainings and the windows that they are asked about."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from raycadian.config import (
    Ablation,
    Anchor,
    CrossValidation,
    DataEfficiency,
    Forecasting,
    Nocturnal,
    Personalisation,
    Prandial,
    Recipe,
    Scaling,
    SlidingWindow,
    Transfer,
    innermost,
    model_name,
    override,
)
from raycadian.data.split import DAY_S
from raycadian.experiments.ablation import variants
from raycadian.tasks import task_of
from raycadian.tasks.base import Data
from raycadian.types import OOD


@dataclass(frozen=True)
class TrainingUnit:
    """One training, and the test windows that its model forecasts: its own, or those of `on`.

    start: what is trained before, whose weights this one goes on from.
    """

    recipe: Recipe
    start: Recipe | None = None
    on: Recipe | None = None


@dataclass(frozen=True)
class ExperimentPoint:
    """A place in the figure: `line` at `x`; x is None where the line is the error by minutes ahead.

    group: points of a group are compared with one another, under `name` · tested: points with the same word forecast
    identical windows · level: the others of the group are compared with this one only · legs: their forecasts, one after
    the other.
    """

    line: str
    x: float | str | None
    name: str
    group: str
    legs: tuple[TrainingUnit, ...]
    tested: str = ""
    level: bool = False


def points(recipe: Recipe, data: Data) -> list[ExperimentPoint]:
    """The points of `recipe.experiment`, in the order of the figure. Raises ValueError where it doesn't fit recipe or data."""
    match recipe.experiment:
        case SlidingWindow():
            return _by_minutes_ahead(recipe, "any")
        case Nocturnal(epochs_on=epochs_on):
            return _by_minutes_ahead(recipe, "midnight", epochs_on)
        case Prandial(meals=meals):
            return _by_minutes_ahead(recipe, "meal" if meals == "recorded" else "estimated_meal")
        case Personalisation() as asked:
            return _personal(recipe, asked, _people(asked, recipe, data))
        case Transfer(other=other):
            return _transfer(recipe, other)
        case DataEfficiency(windows=sizes):
            found = {n: _training_windows(recipe, data, n) for n in sizes}
            return [
                _plain(override(one, {"window.train_windows": None if n == "all" else n}), line, x, f"{x} windows")
                for line, one in models(recipe).items()
                for n, x in found.items()
            ]
        case CrossValidation(folds=folds):
            return [_folded(line, one, folds) for line, one in models(recipe).items()]
        case Ablation():
            found = {"whole": _alone(recipe, recipe.model), **variants(_alone(recipe, recipe.model)).recipes}
            line = model_name(recipe.model)
            return [
                ExperimentPoint(line, name, name, "", (TrainingUnit(one),), level=name == "whole")
                for name, one in found.items()
            ]
        case Scaling(part=part, values=values):
            return [
                _plain(resized(one, part, n), line, n, f"{part} {n}")
                for line, one in models(recipe).items()
                for n in values
            ]
    raise ValueError(f"{recipe.name}: the recipe has no section `experiment`; name one, e.g. {{kind: nocturnal}}")


def models(recipe: Recipe) -> dict[str, Recipe]:
    """A recipe for each of `model` and `compare`, by its name in figures; equal names are numbered."""
    found = [recipe.model, *recipe.compare]
    several = {name for name, n in Counter(map(model_name, found)).items() if n > 1}
    seen: Counter[str] = Counter()
    named = {}
    for model in found:
        name = model_name(model)
        seen[name] += 1
        named[f"{name} {seen[name]}" if name in several else name] = _alone(recipe, model)
    return named


def resized(recipe: Recipe, part: str, value: int) -> Recipe:
    """The recipe with every network inside its model of that width or with that many layers."""
    changed = innermost(recipe.model, lambda section: section.sized(part, value))
    return override(recipe, {"model": changed.model_dump(mode="json")})


def _alone(recipe: Recipe, model: Any) -> Recipe:
    """One model of the recipe, as `raycadian train` would take it."""
    name = f"{recipe.name}-{model_name(model)}"
    update = {"name": name, "model": model, "compare": (), "tuning": None, "experiment": None}
    return recipe.model_copy(update=update)


def _plain(recipe: Recipe, line: str, x: float | None, group: str) -> ExperimentPoint:
    return ExperimentPoint(line, x, line, group, (TrainingUnit(recipe),))


def _folded(line: str, recipe: Recipe, folds: int) -> ExperimentPoint:
    """A model trained without each group of people in turn: a leg a group, all people between them."""
    groups = tuple(
        TrainingUnit(override(recipe, {"split.kind": "kfold", "split.folds": folds, "split.fold": fold}))
        for fold in range(folds)
    )
    return ExperimentPoint(line, None if isinstance(recipe.task, Forecasting) else f"{folds} folds", line, "", groups)


def _by_minutes_ahead(recipe: Recipe, anchor: Anchor, epochs_on: Anchor | None = None) -> list[ExperimentPoint]:
    """Every model on the test windows of `anchor`; the validation windows of `epochs_on` (None: the same) choose its epoch."""
    if recipe.window.anchor not in ("any", anchor):
        raise ValueError(
            f"a {recipe.experiment.kind} experiment scores windows anchored at {anchor}; the recipe says window.anchor: "
            f"{recipe.window.anchor}; leave it out"
        )
    found = []
    for line, one in models(recipe).items():
        scored = override(one, {"window.anchor": anchor})
        leg = (
            TrainingUnit(scored)
            if epochs_on in (None, anchor)
            else TrainingUnit(override(one, {"window.anchor": epochs_on}), on=scored)
        )
        found.append(ExperimentPoint(line, None, line, "", (leg,)))
    return found


def _training_windows(recipe: Recipe, data: Data, n: int | str) -> int:
    """How many `n` or all are. Raises ValueError, before anything trains, where there are fewer than n."""
    sized = override(recipe, {"window.train_windows": None if n == "all" else n})
    return len(task_of(sized).windows(data, sized, "train"))


def _transfer(recipe: Recipe, other: str) -> list[ExperimentPoint]:
    """Each model in four: trained here or there, tested here or there."""
    found = []
    for line, here in models(recipe).items():
        there = override(here, {"dataset": other})
        for own, foreign in ((here, there), (there, here)):
            place = Path(own.dataset).stem
            for name, leg in (
                (f"{line}, trained on the same", TrainingUnit(own)),
                (f"{line}, trained on the other", TrainingUnit(foreign, on=own)),
            ):
                found.append(ExperimentPoint(name, f"tested on {place}", name, f"tested on {place}", (leg,), place))
    return found


def _people(asked: Personalisation, recipe: Recipe, data: Data) -> list[str]:
    """Held-out people with days enough, those with most data first. Raises ValueError where there is none."""
    held_out = {r.subject for r in data.split.ranges if r.scope == OOD}
    points = {s: sum(r.stop - r.start for r in data.split.ranges if r.subject == s) for s in sorted(held_out)}
    needed = (
        (max(asked.days) + asked.val_days) * DAY_S / data.series.dt_s + recipe.window.context + recipe.window.horizon
    )
    found = sorted((s for s, n in points.items() if n >= needed), key=lambda s: (-points[s], s))
    if not found:
        longest = max(points.values(), default=0) * data.series.dt_s / DAY_S
        raise ValueError(
            f"personalisation needs people held out whole, with {needed * data.series.dt_s / DAY_S:.1f} days of data each; "
            f"{len(points)} are held out, the longest record has {longest:.1f} days; shorten experiment.days or change split"
        )
    return found[: asked.people]


def _personal(recipe: Recipe, asked: Personalisation, people: list[str]) -> list[ExperimentPoint]:
    """The population's model at 0 days, then tuned on each person's days; the same windows for all."""
    first = min(asked.days)
    return [
        ExperimentPoint(
            line, days, f"{days:g} days", line, tuple(_tuned(one, asked, p, days) for p in people), level=days == first
        )
        for line, one in models(recipe).items()
        for days in asked.days
    ]


def _tuned(population: Recipe, asked: Personalisation, person: str, days: float) -> TrainingUnit:
    least = min(d for d in asked.days if d > 0)
    own = {"subject": person, "history_days": max(asked.days), "train_days": days or least, "val_days": asked.val_days}
    training = {
        "training.lr": asked.lr, "training.epochs": asked.epochs, "training.batch_size": asked.batch_size,
        "training.warmup_steps": 0,
    }  # fmt: skip
    split = {"split.kind": "person", "split.person": own}
    # one override: a person's split without the person is not valid
    tuned = override(population, {"name": f"{population.name}-person", **split, **training})
    return TrainingUnit(tuned, start=population) if days else TrainingUnit(population, on=tuned)


def legs(found: list[ExperimentPoint]) -> list[TrainingUnit]:
    return list(chain.from_iterable(point.legs for point in found))
