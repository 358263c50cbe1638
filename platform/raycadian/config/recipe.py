"""The recipe: the frozen configuration of one experiment, and whether its sections fit each other."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from raycadian.config.experiments import Experiment, Nocturnal, Prandial
from raycadian.config.models import Model, staged_of
from raycadian.config.schema import Schema, parse, read_yaml
from raycadian.config.tasks import (
    Ahead,
    Column,
    Forecasting,
    Hypotension,
    Pretraining,
    Task,
)
from raycadian.config.training import Evaluation, Tracking, Training, Tuning
from raycadian.config.windows import AnyWindow, LabelWindow, Split, Window


class Recipe(Schema):
    """The frozen configuration of one experiment."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    description: str = ""
    dataset: str
    """Path of the data-set card, relative to the working directory."""
    split: Split = Split()
    window: AnyWindow = Window()
    task: Task = Forecasting()
    model: Model
    compare: tuple[Model, ...] = ()
    """Models trained and scored beside `model` by `raycadian run`, on identical windows."""
    start: str | None = None
    """Folder of a complete run of the same model: training goes on from its weights and statistics."""
    training: Training = Training()
    tuning: Tuning | None = None
    experiment: Experiment | None = None
    """What `raycadian experiment` makes of the recipe, with `model` and `compare` as its models."""
    evaluation: Evaluation = Evaluation()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _fits(self) -> "Recipe":
        self.task.check(self)
        return self


def protocol_of(recipe: Recipe) -> str:
    """What scores of this recipe may be set beside: those of the same words."""
    window = recipe.window
    if isinstance(recipe.task, Pretraining):
        return f"pretrain; {_cut(window)}"
    if not isinstance(recipe.task, Forecasting):
        return _label_protocol(recipe)
    begins = {"midnight": "nocturnal, from local midnight", "meal": "prandial, from recorded meals",
              "estimated_meal": "prandial, from estimated meals"}  # fmt: skip
    match recipe.experiment:
        case Nocturnal():
            anchor = "midnight"
        case Prandial(meals=meals):
            anchor = "meal" if meals == "recorded" else "estimated_meal"
        case _:
            anchor = window.anchor
    how = begins.get(anchor, f"sliding windows, every {window.eval_stride} points")
    return f"{how}, {window.context} -> {window.horizon} points"


def _label_protocol(recipe: "Recipe") -> str:
    window, task = recipe.window, recipe.task
    match task.label:
        case Hypotension() as label:
            gray = "" if label.gray_mmhg is None else f", gray zone below {label.gray_mmhg:g}"
            what = f"{label.channel} < {label.below:g} for {label.for_s:g} s, {label.gap_min:g} to {label.ahead_min:g} min ahead{gray}"
        case Ahead() as label:
            what = f"mean {label.channel}{label.bound} over {label.over_s:g} s, {label.ahead_min:g} min ahead"
        case Column() as label:
            bound = "" if label.at_least is None else f" >= {label.at_least:g}"
            what = label.name + bound + ("" if label.equals is None else f" = {label.equals}")
    also = "".join(f", also {column.name}" for column in task.also)
    vote = "" if task.vote == 1 else f", votes of {task.vote}"
    weight = "" if task.weight is None else f", weighed by {task.weight}"
    shuffled = ", labels shuffled" if task.shuffled else ""
    return f"{task.kind} {what}{also}; {_cut(window)}{vote}{weight}{shuffled}"


def _cut(window: LabelWindow) -> str:
    return f"{window.windows} x {window.window_s:g} s every {window.eval_step_s:g} s"


def total_epochs(recipe: Recipe) -> int:
    """Epochs over all stages of a training."""
    staged = staged_of(recipe.model)
    if staged is None:
        return recipe.training.epochs
    return staged.pretrain_epochs + staged.frozen_epochs + (1 + staged.rounds) * recipe.training.epochs


def load_recipe(path: str | Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe with `dotted.path=value` overrides. Raises ValueError that names path, key and nearest name."""
    return parse(Recipe, read_yaml(path), overrides, source=str(path))
