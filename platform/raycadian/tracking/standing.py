"""Which of two runs is the better champion, and whether they can be compared at all: by validation data, on the same
snapshot, split, windows and protocol."""

import hashlib
import json
import math
from dataclasses import dataclass

from raycadian import manifest
from raycadian.config.metric import Metric
from raycadian.errors import CheckpointError, at_boundary
from raycadian.runs import Run

_ROUNDING = 1e-6  # of sums in another order, relative and absolute
_DAMAGED = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, OSError)


@dataclass(frozen=True)
class Standing:
    """A run's validation score, and hashes of what it was scored on: runs with the same ones can be compared."""

    run: str
    score: float
    metric: Metric
    data: str
    windows: str

    @staticmethod
    def of(run: Run) -> "Standing":
        """Raises CheckpointError, which names the run, for one that holds no score, or states another one than the
        predictions that it keeps of validation windows give."""
        manifest.require_intact(run.path, "recipe.yaml", "metadata.json", "metrics_summary.json")
        recipe, metric = run.recipe, run.recipe.task.headline
        with at_boundary(CheckpointError, f"{run.path}: no validation {metric.name}, or no snapshot", *_DAMAGED):
            score, snapshot = float(run.summary["val"][metric.name]["value"]), run.metadata["snapshot"]
        if not math.isfinite(score):
            raise CheckpointError(f"{run.path}: validation {metric.name} is {score}; expected a number")
        _require_as_predicted(run, metric, score)
        data = _hash([snapshot, recipe.split.model_dump(mode="json")])
        windows = _hash([recipe.window.model_dump(mode="json"), recipe.protocol])
        return Standing(run.name, score, metric, data, windows)

    @property
    def words(self) -> str:
        return self.metric.text(self.score)

    def against(self, present: "Standing") -> str:
        """Why this must not take the place of the champion `present`; empty if it may."""
        if self.data != present.data:
            where = "on another snapshot or split"
            return f"the champion {present.run} was scored {where}: not comparable; --force to replace it"
        if self.windows != present.windows:
            return f"the champion {present.run} was scored on other windows: not comparable; --force to replace it"
        if self.metric.beats(self.score, present.score):
            return ""
        if self.score == present.score:
            return f"validation {self.words} equals the champion's ({present.run})"
        than = "above" if self.metric.better == "high" else "below"
        own, other = self.words, present.words
        if own == other:  # to so few digits
            own, other = repr(self.score), repr(present.score)
        return f"validation {own} is not {than} the champion's {other} ({present.run})"

    @property
    def tags(self) -> dict[str, str]:
        """As a version in the registry carries it."""
        return {"run": self.run, "score": repr(self.score), "scored_on": f"{self.data}-{self.windows}"}

    def beaten_by(self, tags: dict[str, str]) -> bool:
        """Whether the run of such tags is the better champion."""
        if tags.get("scored_on") != self.tags["scored_on"]:
            return False
        return self.metric.beats(float(tags["score"]), self.score)


def _require_as_predicted(run: Run, metric: Metric, stated: float) -> None:
    """Hashes don't hold against whoever may write the folder, and with it the manifest."""
    from raycadian.tasks import task_of  # with torch, which asking who is champion has no use for

    with at_boundary(CheckpointError, f"{run.path}: its validation {metric.name} can't be computed", *_DAMAGED):
        computed = task_of(run.recipe).validation_score(run)
    if not math.isclose(stated, computed, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
        raise CheckpointError(
            f"{run.path}: metrics_summary.json states a validation {metric.name} of {stated:.6g}, its predictions of "
            f"validation windows give {computed:.6g}; `raycadian score {run.name}` scores it again"
        )


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
