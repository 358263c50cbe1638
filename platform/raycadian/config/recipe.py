"""The recipe: the frozen configuration of one experiment, and whether its sections fit each other."""

from pathlib import Path

from pydantic import model_validator

from raycadian.config.experiments import Experiment
from raycadian.config.models import Model, staged_of
from raycadian.config.schema import Name, Schema, parse, read_yaml
from raycadian.config.tasks import (
    Forecasting,
    Task,
)
from raycadian.config.training import Evaluation, Tracking, Training, Tuning
from raycadian.config.windows import AnyWindow, Split, Window


class Recipe(Schema):
    """The frozen configuration of one experiment."""

    name: Name
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

    @property
    def protocol(self) -> str:
        """What scores of this recipe may be set beside: those of the same words."""
        return self.task.protocol(self)

    @property
    def tuned_by(self) -> str:
        """What a trial is chosen by, as the loop reports it after an epoch."""
        return (self.tuning and self.tuning.metric) or self.task.headline.monitor

    @model_validator(mode="after")
    def _fits(self) -> "Recipe":
        self.task.check(self)
        return self


def total_epochs(recipe: Recipe) -> int:
    """Epochs over all stages of a training."""
    staged = staged_of(recipe.model)
    if staged is None:
        return recipe.training.epochs
    return staged.pretrain_epochs + staged.frozen_epochs + (1 + staged.rounds) * recipe.training.epochs


def load_recipe(path: str | Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe with `dotted.path=value` overrides. Raises ValueError that names path, key and nearest name."""
    return parse(Recipe, read_yaml(path), overrides, source=str(path))
