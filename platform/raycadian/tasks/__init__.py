"""Kinds of question that are asked of windows, each listed once."""

from typing import Any

from raycadian.config import Recipe
from raycadian.tasks.base import Task
from raycadian.tasks.forecast import ForecastTask
from raycadian.tasks.label import ClassifyTask, RegressTask
from raycadian.tasks.pretrain import PretrainTask

TASKS: dict[str, Task[Any]] = {
    "forecast": ForecastTask(), "classify": ClassifyTask(), "regress": RegressTask(), "pretrain": PretrainTask(),
}  # fmt: skip


def task_of(recipe: Recipe) -> Task[Any]:
    """The task that a recipe's section `task` names."""
    return TASKS[recipe.task.kind]
