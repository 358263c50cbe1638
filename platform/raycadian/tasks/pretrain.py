"""Learning without a label: a network rebuilds a signal's hidden parts. Nothing is said of a window, nothing tested."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd

from raycadian.config import Recipe
from raycadian.data.mechanism import Mechanism
from raycadian.evaluation.label import report
from raycadian.evaluation.report import write_report
from raycadian.files import write_json
from raycadian.models.base import Model
from raycadian.runs import Run
from raycadian.tasks.forecast import subtitle_of
from raycadian.tasks.signal import SignalData, SignalTask


class PretrainTask(SignalTask):
    """A later recipe takes the network up; runs are chosen by their loss on validation windows."""

    tests = False
    stratified = False

    def before_training(self, model: Model, data: SignalData) -> None:
        """The checkpoint keeps whom it has seen."""
        model.remember_cycles(data.cycles)

    def parts(self, recipe: Recipe) -> list[str]:
        return []

    def predict(self, data: SignalData, recipe: Recipe, model: Model, mechanism: Mechanism | None) -> Mapping[str, Any]:
        return {}

    def read(self, folder: Path, part: str = "test") -> NoReturn:
        raise ValueError(f"{folder.name}: a pretraining says nothing of a window; read those of a run that takes it up")

    def results(self, folder: Path, recipe: Recipe, label: str = "") -> float:
        """The least loss on validation windows."""
        return float(Run(folder).summary["val"]["loss"]["value"])

    def join(self, results: Sequence[float]) -> NoReturn:
        raise ValueError("a pretraining tests nobody: there is nothing to join")

    def require_same_windows(self, one: float, other: float, name: str) -> None:
        """A loss has no windows that could differ."""

    def test_on(self, run: Run, recipe: Recipe, data: SignalData) -> NoReturn:
        raise ValueError(f"{run.name} is a pretraining: test a run that takes it up")

    def score(
        self, folder: Path, recipe: Recipe, predictions: Mapping[str, Any], history: list[dict[str, float]]
    ) -> None:
        least = {"value": _least_loss(history), "low": None, "high": None}
        write_json(folder / "metrics_summary.json", {"val": {"loss": least}})

    def validation_score(self, run: Run) -> float:
        return _least_loss(run.metadata["training"]["history"])

    def leaderboard(self, named: Mapping[str, float], recipe: Recipe) -> pd.DataFrame:
        return pd.DataFrame([{"model": name, "loss": loss} for name, loss in named.items()])

    def differences(self, named: Mapping[str, float], recipe: Recipe) -> NoReturn:
        raise ValueError("a pretraining says nothing of a window: compare runs that take it up, or their val/loss")

    def report(self, folder: Path, recipe: Recipe, metadata: dict[str, Any], against: Sequence[Run]) -> Path:
        sections = report.pretraining_sections(metadata["training"]["history"])
        return write_report(
            folder, title=recipe.name, subtitle=subtitle_of(recipe), sections=sections, metadata=metadata
        )


def _least_loss(history: list[dict[str, float]]) -> float:
    return min(row["val/loss"] for row in history)
