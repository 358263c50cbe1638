"""Run an experiment: train what its points need, each once, score them on identical windows, write figure and table."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raycadian import workflow
from raycadian.cluster import JOB
from raycadian.config import Forecasting, Recipe
from raycadian.data.snapshot import Snapshot
from raycadian.evaluation.forecast.compare import require_same_windows
from raycadian.evaluation.forecast.predictions import Predictions
from raycadian.evaluation.label.compare import require_same_labels
from raycadian.evaluation.label.decision import Decided, joined
from raycadian.experiments import label_report, report
from raycadian.experiments.points import ExperimentPoint, TrainingUnit, legs, points
from raycadian.files import replaced_folder
from raycadian.modalities.prepare import prepare
from raycadian.runs import RUNS, Run, experiment_key, write_json
from raycadian.tasks import task_of
from raycadian.tasks.base import Data
from raycadian.training.pipeline import SNAPSHOTS, load_data, read_predictions, results_of

FOLDER = "experiments"


@dataclass(frozen=True)
class Done:
    """A finished experiment: its folder with report.html, figure.svg, table.csv, differences.csv, table.json."""

    path: Path

    @property
    def table(self) -> dict:
        """What table.json holds: experiment, protocol, rows, differences, runs, notes."""
        return json.loads((self.path / "table.json").read_text(encoding="utf-8"))


def run(
    recipe: Recipe, progress: workflow.Progress, *, runs: Path = RUNS, snapshots: Path = SNAPSHOTS, resume: bool = False
) -> Done:
    """Run `recipe.experiment` over `recipe.model` and `recipe.compare`. `resume` reuses complete runs and experiments.

    Raises ValueError where the experiment doesn't fit the recipe or the data, or where the models' windows differ.
    """
    bench = _Bench(progress, runs, snapshots, resume)
    progress.stage(f"prepare {recipe.dataset}")
    found = points(recipe, bench.data(recipe))
    ids = sorted({bench.data(leg.on or leg.recipe).snapshot_id for leg in legs(found)})
    folder = runs / FOLDER / f"{recipe.name}-{_key(recipe, ids)}"
    if resume and folder.is_dir():
        progress.stage(f"reuse {folder.name}")
        return Done(folder)
    forecasts = isinstance(recipe.task, Forecasting)
    said = [bench.predictions(point) if forecasts else bench.said(point) for point in found]
    _require_identical(found, said)
    progress.stage("score")
    names = [[bench.trained(leg).name for leg in point.legs] for point in found]
    write = report.write if forecasts else label_report.write
    return Done(_written(folder, lambda path: write(path, recipe, found, said, names)))


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

    def trained(self, leg: TrainingUnit) -> Run:
        recipe = leg.recipe
        if leg.start is not None:
            start = self.trained(TrainingUnit(leg.start))
            recipe = recipe.model_copy(update={"start": str(start.path)})
        key = experiment_key(recipe, self.data(recipe).snapshot_id)
        if key not in self._runs:
            self._runs[key] = workflow.train(
                recipe, self.data(recipe), self.progress, runs=self.runs, resume=self.resume
            )
        return self._runs[key]

    def predictions(self, point: ExperimentPoint) -> Predictions:
        return Predictions.concat([self._forecast(leg) for leg in point.legs])

    def said(self, point: ExperimentPoint) -> Decided:
        runs = [self.trained(leg) for leg in point.legs]
        return joined([results_of(run) for run in runs])

    def _forecast(self, leg: TrainingUnit) -> Predictions:
        trained = self.trained(leg)
        if leg.on is None:
            return read_predictions(trained)
        return task_of(leg.on).test_on(trained, leg.on, self.data(leg.on))


def _require_identical(found: list[ExperimentPoint], said: list[Any]) -> None:
    """Every point that is tested on the same has the same windows: subject, time, truth. Raises ValueError."""
    first: dict[str, Any] = {}
    for point, own in zip(found, said, strict=True):
        one, name = first.setdefault(point.tested, own), f"{point.line} at {point.x}"
        if isinstance(own, Predictions):
            require_same_windows(one, own, name)
        else:
            require_same_labels(one[0], own[0], name)


def _key(recipe: Recipe, snapshots: list[str]) -> str:
    body = json.dumps([recipe.model_dump(mode="json"), snapshots], sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()[:8]


def _written(folder: Path, write: Callable[[Path], None]) -> Path:
    """The folder, written whole under another name; what was there before is replaced at the end."""
    with replaced_folder(folder) as temporary:
        write(temporary)
        if os.environ.get(JOB):
            write_json(temporary / "job.json", {"job": os.environ[JOB]})
    return folder
