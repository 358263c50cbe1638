"""What an experiment is: points, each a few trainings and the windows that they are tested on."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from raycadian.config import Anchor, Personalisation, Recipe, innermost, model_name, override
from raycadian.data.split import DAY_S
from raycadian.experiments.ablation import variants
from raycadian.experiments.scoring import scoring_of
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
    identical windows · level: the others of the group are compared with this one only · units: what is trained for it;
    their predictions, one after the other, are the point's.
    """

    line: str
    x: float | str | None
    name: str
    group: str
    units: tuple[TrainingUnit, ...]
    tested: str = ""
    level: bool = False


def points(recipe: Recipe, data: Data) -> list[ExperimentPoint]:
    """The points of `recipe.experiment`, in the order of the figure. Raises ValueError if recipe or data don't fit."""
    if recipe.experiment is None:
        raise ValueError(f"{recipe.name}: the recipe has no section `experiment`; name one, e.g. {{kind: nocturnal}}")
    return _PLANS[recipe.experiment.kind](recipe, data)


def models(recipe: Recipe) -> dict[str, Recipe]:
    """A recipe for each of `model` and `compare`, by its name in figures; equal names are numbered."""
    sections = [recipe.model, *recipe.compare]
    several = {name for name, n in Counter(map(model_name, sections)).items() if n > 1}
    seen: Counter[str] = Counter()
    named = {}
    for model in sections:
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


def _single_unit(recipe: Recipe, line: str, x: float | None, group: str) -> ExperimentPoint:
    return ExperimentPoint(line, x, line, group, (TrainingUnit(recipe),))


def _cross_validated(recipe: Recipe, data: Data) -> list[ExperimentPoint]:
    """Each model trained without each group of people in turn: a unit a group, all people between them."""
    folds = recipe.experiment.folds
    x = None if scoring_of(recipe).by_minutes_ahead else f"{folds} folds"
    split = [{"split.kind": "kfold", "split.folds": folds, "split.fold": fold} for fold in range(folds)]
    return [
        ExperimentPoint(line, x, line, "", tuple(TrainingUnit(override(one, own)) for own in split))
        for line, one in models(recipe).items()
    ]


def _by_minutes_ahead(recipe: Recipe, data: Data) -> list[ExperimentPoint]:
    """Every model on the test windows of the experiment's anchor; validation windows of `epochs_on`, if it says any
    other, choose epochs."""
    anchor = recipe.experiment.anchor or "any"
    epochs_on = getattr(recipe.experiment, "epochs_on", None)
    if recipe.window.anchor not in ("any", anchor):
        raise ValueError(
            f"a {recipe.experiment.kind} experiment scores windows anchored at {anchor}; the recipe says "
            f"window.anchor: {recipe.window.anchor}; leave it out"
        )
    return [
        ExperimentPoint(line, None, line, "", (_anchored(one, anchor, epochs_on),))
        for line, one in models(recipe).items()
    ]


def _anchored(recipe: Recipe, anchor: Anchor, epochs_on: Anchor | None) -> TrainingUnit:
    scored = override(recipe, {"window.anchor": anchor})
    if epochs_on in (None, anchor):
        return TrainingUnit(scored)
    return TrainingUnit(override(recipe, {"window.anchor": epochs_on}), on=scored)


def _by_training_windows(recipe: Recipe, data: Data) -> list[ExperimentPoint]:
    sizes = {n: _training_windows(recipe, data, n) for n in recipe.experiment.windows}
    return [
        _single_unit(override(one, {"window.train_windows": None if n == "all" else n}), line, x, f"{x} windows")
        for line, one in models(recipe).items()
        for n, x in sizes.items()
    ]


def _ablated(recipe: Recipe, data: Data) -> list[ExperimentPoint]:
    """The model whole, and without each of its parts."""
    whole, line = _alone(recipe, recipe.model), model_name(recipe.model)
    return [
        ExperimentPoint(line, name, name, "", (TrainingUnit(one),), level=name == "whole")
        for name, one in {"whole": whole, **variants(whole).recipes}.items()
    ]


def _scaled(recipe: Recipe, data: Data) -> list[ExperimentPoint]:
    part = recipe.experiment.part
    return [
        _single_unit(resized(one, part, n), line, n, f"{part} {n}")
        for line, one in models(recipe).items()
        for n in recipe.experiment.values
    ]


def _training_windows(recipe: Recipe, data: Data, n: int | str) -> int:
    """How many `n` or all are. Raises ValueError, before anything trains, where there are fewer than n."""
    sized = override(recipe, {"window.train_windows": None if n == "all" else n})
    return len(task_of(sized).windows(data, sized, "train"))


def _transferred(recipe: Recipe, data: Data) -> list[ExperimentPoint]:
    """Each model in four: trained here or there, tested here or there."""
    planned = []
    for line, here in models(recipe).items():
        there = override(here, {"dataset": recipe.experiment.other})
        for own, foreign in ((here, there), (there, here)):
            place = Path(own.dataset).stem
            for name, unit in (
                (f"{line}, trained on the same", TrainingUnit(own)),
                (f"{line}, trained on the other", TrainingUnit(foreign, on=own)),
            ):
                planned.append(ExperimentPoint(name, f"tested on {place}", name, f"tested on {place}", (unit,), place))
    return planned


def _people(recipe: Recipe, data: Data) -> list[str]:
    """Held-out people with days enough, those with most data first. Raises ValueError where there is none."""
    own, per_day = recipe.experiment, DAY_S / data.series.dt_s
    held_out = {r.subject for r in data.split.ranges if r.scope == OOD}
    points = {s: sum(r.stop - r.start for r in data.split.ranges if r.subject == s) for s in sorted(held_out)}
    needed = (max(own.days) + own.val_days) * per_day + recipe.window.context + recipe.window.horizon
    people = sorted((s for s, n in points.items() if n >= needed), key=lambda s: (-points[s], s))
    if not people:
        longest = max(points.values(), default=0) / per_day
        raise ValueError(
            f"personalisation needs people held out whole, with {needed / per_day:.1f} days of data each; "
            f"{len(points)} "
            f"are held out, the longest record has {longest:.1f} days; shorten experiment.days or change split"
        )
    return people[: own.people]


def _personal(recipe: Recipe, data: Data) -> list[ExperimentPoint]:
    """The population's model at 0 days, then tuned on each person's days; the same windows for all."""
    own, people = recipe.experiment, _people(recipe, data)
    return [
        ExperimentPoint(
            line, days, f"{days:g} days", line, tuple(_tuned(one, own, person, days) for person in people),
            level=days == min(own.days),
        )
        for line, one in models(recipe).items()
        for days in own.days
    ]  # fmt: skip


def _tuned(population: Recipe, own: Personalisation, person: str, days: float) -> TrainingUnit:
    least = min(d for d in own.days if d > 0)
    split = {"subject": person, "history_days": max(own.days), "train_days": days or least, "val_days": own.val_days}
    training = {
        "training.lr": own.lr, "training.epochs": own.epochs, "training.batch_size": own.batch_size,
        "training.warmup_steps": 0,
    }  # fmt: skip
    changes = {"name": f"{population.name}-person", "split.kind": "person", "split.person": split, **training}
    tuned = override(population, changes)  # at once: a person's split without the person is not valid
    return TrainingUnit(tuned, start=population) if days else TrainingUnit(population, on=tuned)


def units(points: list[ExperimentPoint]) -> list[TrainingUnit]:
    return list(chain.from_iterable(point.units for point in points))


_PLANS: dict[str, Callable[[Recipe, Data], list[ExperimentPoint]]] = {
    "sliding_window": _by_minutes_ahead,
    "nocturnal": _by_minutes_ahead,
    "prandial": _by_minutes_ahead,
    "personalisation": _personal,
    "transfer": _transferred,
    "data_efficiency": _by_training_windows,
    "cross_validation": _cross_validated,
    "ablation": _ablated,
    "scaling": _scaled,
}
"""What each kind of experiment trains, and in what order its figure has it."""
