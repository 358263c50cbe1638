"""Run an experiment: train what its points need, each once, score them on identical windows, write figure and table."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raycadian import workflow
from raycadian.cluster import JOB
from raycadian.config import Recipe
from raycadian.data.snapshot import Snapshot
from raycadian.experiments import report
from raycadian.experiments.points import ExperimentPoint, TrainingUnit, points, units
from raycadian.files import read_json, replaced_folder, write_json
from raycadian.modalities.prepare import prepare
from raycadian.runs import RUNS, Run, experiment_key
from raycadian.tasks import task_of
from raycadian.tasks.base import Data, Task
from raycadian.training.pipeline import SNAPSHOTS, load_data

FOLDER = "experiments"


@dataclass(frozen=True)
class Done:
    """A finished experiment: its folder with report.html, figure.svg, table.csv, differences.csv, table.json."""

    path: Path

    @property
    def table(self) -> dict:
        """What table.json holds: experiment, protocol, rows, differences, runs, notes."""
        return read_json(self.path / "table.json")


def run(
    recipe: Recipe, progress: workflow.Progress, *, runs: Path = RUNS, snapshots: Path = SNAPSHOTS, resume: bool = False
) -> Done:
    """Run `recipe.experiment` over `recipe.model` and `recipe.compare`. `resume` reuses complete runs and experiments.

    Raises ValueError where the experiment doesn't fit the recipe or the data, or where the models' windows differ.
    """
    bench = _Bench(progress, runs, snapshots, resume)
    progress.stage(f"prepare {recipe.dataset}")
    planned = points(recipe, bench.data(recipe))
    ids = sorted({bench.data(unit.on or unit.recipe).snapshot_id for unit in units(planned)})
    folder = runs / FOLDER / f"{recipe.name}-{experiment_key(recipe, ids)}"
    if resume and folder.is_dir():
        progress.stage(f"reuse {folder.name}")
        return Done(folder)
    results = [bench.results(point) for point in planned]
    _require_identical(task_of(recipe), planned, results)
    progress.stage("score")
    names = [[bench.trained(unit).name for unit in point.units] for point in planned]
    return Done(_written(folder, lambda path: report.write(path, recipe, planned, results, names)))


@dataclass
class _Bench:
    """What is trained and loaded, each once."""

    progress: workflow.Progress
    runs: Path
    snapshots: Path
    resume: bool
    _snapshots: dict[str, Snapshot] = field(default_factory=dict)
    _data: dict[str, Data] = field(default_factory=dict)
    _runs: dict[str, Run] = field(default_factory=dict)

    def data(self, recipe: Recipe) -> Data:
        key = json.dumps([recipe.dataset, recipe.split.model_dump(mode="json"), recipe.window.past])
        if key not in self._data:
            if recipe.dataset not in self._snapshots:
                self._snapshots[recipe.dataset] = prepare(Path(recipe.dataset), self.snapshots)
            self._data[key] = load_data(recipe, self.snapshots, self._snapshots[recipe.dataset])
        return self._data[key]

    def trained(self, unit: TrainingUnit) -> Run:
        recipe = unit.recipe
        if unit.start is not None:
            start = self.trained(TrainingUnit(unit.start))
            recipe = recipe.model_copy(update={"start": str(start.path)})
        key = experiment_key(recipe, self.data(recipe).snapshot_id)
        if key not in self._runs:
            self._runs[key] = workflow.train(
                recipe, self.data(recipe), self.progress, runs=self.runs, resume=self.resume
            )
        return self._runs[key]

    def results(self, point: ExperimentPoint) -> Any:
        """Of all its units, as those of one model."""
        task = task_of(point.units[0].recipe)
        return task.join([self._result(task, unit) for unit in point.units])

    def _result(self, task: Task[Any], unit: TrainingUnit) -> Any:
        run = self.trained(unit)
        if unit.on is None:
            return task.results(run.path, run.recipe)
        return task.test_on(run, unit.on, self.data(unit.on))


def _require_identical(task: Task[Any], points: list[ExperimentPoint], results: list[Any]) -> None:
    """Every point that is tested on the same has the same windows: subject, time, truth. Raises ValueError."""
    first: dict[str, Any] = {}
    for point, own in zip(points, results, strict=True):
        task.require_same_windows(first.setdefault(point.tested, own), own, f"{point.line} at {point.x}")


def _written(folder: Path, write: Callable[[Path], None]) -> Path:
    """The folder, written whole under another name; what was there before is replaced at the end."""
    with replaced_folder(folder) as temporary:
        write(temporary)
        if os.environ.get(JOB):
            write_json(temporary / "job.json", {"job": os.environ[JOB]})
    return folder
