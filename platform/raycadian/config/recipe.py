"""The recipe: the frozen configuration of one experiment, and whether its sections fit each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from raycadian.config.experiments import CrossValidation, DataEfficiency, Experiment, Nocturnal, Prandial
from raycadian.config.models import (
    MLP,
    TTM,
    Conformal,
    Ensemble,
    LabelModelConfig,
    Masked,
    Model,
    Persistence,
    Ridge,
    kinds,
    require_nesting,
    staged_of,
    unwrap,
)
from raycadian.config.schema import Schema, parse, read_yaml
from raycadian.config.tasks import (
    Ahead,
    Classification,
    Column,
    Forecasting,
    Hypotension,
    Pretraining,
    Regression,
    Task,
)
from raycadian.config.training import Evaluation, Tracking, Training, Tuning
from raycadian.config.windows import AnyWindow, LabelWindow, Split, Window
from raycadian.types import GLUCOSE


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
        models = (self.model, *self.compare)
        match self.task:
            case Forecasting():
                _require_forecast(self, models)
                _require_target(self, models)
            case Classification() | Regression():
                _require_label(self, models)
            case Pretraining():
                _require_pretraining(self, models)
        return self


def _require_forecast(recipe: "Recipe", models: tuple[Any, ...]) -> None:
    """Raises ValueError where windows, split and models don't fit a forecast."""
    window = recipe.window
    if recipe.split.kind == "run":
        raise ValueError(
            "split.kind run is one of classify, regress and pretrain; give forecasts the same `split` section"
        )
    if not isinstance(window, Window):
        raise ValueError(
            "a forecast's window has no kind; leave out `window.kind`, or set task.kind: classify or regress"
        )
    for model in models:
        require_nesting(model)
        for inner in unwrap(model):
            if isinstance(inner, LabelModelConfig):
                raise ValueError(f"{inner.kind} does not forecast; set task.kind: classify or regress")
            if isinstance(inner, Masked):
                raise ValueError("masked does not forecast; set task.kind: pretrain")
            if isinstance(inner, Ridge) and inner.lags > window.context:
                raise ValueError(
                    f"ridge.lags {inner.lags} exceeds window.context {window.context}; lower lags or raise context"
                )
            if isinstance(inner, TTM) and window.context % inner.patch_length:
                raise ValueError(
                    f"window.context {window.context} is not a multiple of ttm.patch_length {inner.patch_length}"
                )


def _require_target(recipe: "Recipe", models: tuple[Any, ...]) -> None:
    """Raises ValueError where something of glucose alone is asked of another target."""
    target, window = recipe.task.target, recipe.window
    if target != window.past[0]:
        raise ValueError(
            f"task.target {target} is not the first of window.past, {window.past[0]}; set one to the other"
        )
    if target == GLUCOSE:
        return
    if window.known:
        raise ValueError(f"the clock of a case is not known: set window.known: [] to forecast {target}")
    if (window.anchor, window.train_anchor) != ("any", "any"):
        raise ValueError(f"window.anchor is one of days and meals; leave it out to forecast {target}")
    if recipe.experiment is not None:
        raise ValueError(f"experiment {recipe.experiment.kind} is one of glucose; leave it out to forecast {target}")
    for inner in (m for model in models for m in unwrap(model)):
        if not isinstance(inner, Persistence | Ridge | MLP | TTM | Ensemble | Conformal):
            raise ValueError(
                f"{inner.kind} knows glucose alone; {target} is forecast by persistence, ridge, mlp, ttm, and ensemble or "
                "conformal around them"
            )


def _require_label(recipe: "Recipe", models: tuple[Any, ...]) -> None:
    """Raises ValueError where models don't fit a label."""
    if other := [m.kind for m in models if not isinstance(m, LabelModelConfig)]:
        there = ", ".join(kinds(LabelModelConfig))
        raise ValueError(f"{', '.join(other)}: no model of task {recipe.task.kind}; there are {there}")
    _require_signal(recipe)


def _require_pretraining(recipe: "Recipe", models: tuple[Any, ...]) -> None:
    """Raises ValueError where models don't fit a pretraining."""
    if other := [m.kind for m in models if not isinstance(m, Masked)]:
        raise ValueError(f"{', '.join(other)}: task pretrain trains `masked`, with a network inside")
    _require_signal(recipe)


def _require_signal(recipe: "Recipe") -> None:
    """Raises ValueError where windows, split or experiment don't fit windows of a signal."""
    kind = recipe.task.kind
    if not isinstance(recipe.window, LabelWindow):
        raise ValueError(f"task {kind} needs windows of a signal: window: {{kind: signal, past: [...], ...}}")
    if recipe.split.kind not in ("subject", "kfold", "run"):
        raise ValueError(
            f"split.kind {recipe.split.kind}: task {kind} holds out whole subjects; use subject, kfold or run"
        )
    if recipe.experiment is None:
        return
    if kind == "pretrain" or not isinstance(recipe.experiment, DataEfficiency | CrossValidation):
        raise ValueError(
            f"experiment {recipe.experiment.kind} is one of forecasts; of labels there is data_efficiency, and cross_validation"
        )


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
