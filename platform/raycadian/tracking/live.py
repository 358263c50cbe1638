"""Live tracking of a training: TensorBoard, Weights & Biases, the terminal. MLflow records complete runs
(registry.py)."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from raycadian.config import Recipe
from raycadian.files import on_disk, own_folder
from raycadian.tracking.registry import OnTrial, flatten, logged_sweep, trial_metrics
from raycadian.training.loop import Metrics, OnEpoch


@contextmanager
def tracked(recipe: Recipe, runs: Path) -> Iterator[OnEpoch]:
    """What to call after every epoch, for the trackers that the recipe turns on."""
    with ExitStack() as stack:
        sinks: list[OnEpoch] = []
        if recipe.tracking.tensorboard:
            sinks.append(stack.enter_context(_tensorboard(recipe, runs)))
        if recipe.tracking.wandb != "off":
            sinks.append(stack.enter_context(_wandb(recipe, runs)))

        def on_epoch(metrics: Metrics) -> None:
            for sink in sinks:
                sink(metrics)

        yield on_epoch


@contextmanager
def tracked_sweep(recipe: Recipe, runs: Path) -> Iterator[OnTrial]:
    """What to call as a trial ends: it becomes a run below the sweep's in MLflow, a row in Weights & Biases."""
    with ExitStack() as stack:
        sinks: list[OnTrial] = []
        if recipe.tracking.mlflow != "off":
            sinks.append(stack.enter_context(logged_sweep(recipe, runs=runs)))
        if recipe.tracking.wandb != "off":
            sinks.append(stack.enter_context(_wandb_sweep(recipe, runs)))

        def on_trial(record: dict[str, Any]) -> None:
            for sink in sinks:
                sink(record)

        yield on_trial


@contextmanager
def _wandb_sweep(recipe: Recipe, runs: Path) -> Iterator[OnTrial]:
    with _wandb_run(recipe, runs, f"{recipe.name}-sweep") as run:
        yield lambda record: run.log(trial_metrics(record) | flatten(record["params"]), step=record["ended"])


@contextmanager
def _tensorboard(recipe: Recipe, runs: Path) -> Iterator[OnEpoch]:
    from torch.utils.tensorboard import SummaryWriter

    folder = own_folder(runs / "tensorboard" / recipe.name)
    with on_disk(folder), SummaryWriter(str(folder)) as writer:

        def on_epoch(metrics: Metrics) -> None:
            for name, value in metrics.items():
                writer.add_scalar(name, value, int(metrics["epoch"]))

        yield on_epoch


@contextmanager
def _wandb(recipe: Recipe, runs: Path) -> Iterator[OnEpoch]:
    with _wandb_run(recipe, runs, recipe.name) as run:
        yield lambda metrics: run.log(dict(metrics), step=int(metrics["epoch"]))


@contextmanager
def _wandb_run(recipe: Recipe, runs: Path, name: str) -> Iterator[Any]:
    """Only metrics and the recipe are sent, and only where the recipe says `online`."""
    import wandb

    own_folder(runs)
    run = wandb.init(
        project="raycadian", name=name, dir=str(runs), mode=recipe.tracking.wandb,
        config=flatten(recipe.model_dump(mode="json")), settings=wandb.Settings(silent=True),
    )  # fmt: skip
    try:
        yield run
    finally:
        run.finish()
