"""Which predictor a run gets, decided once: for a run, and for a person who calibrated it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from raycadian import manifest
from raycadian.personal.calibrate import require_same_weights
from raycadian.personal.store import PersonRecord, Store
from raycadian.runs import Run
from raycadian.serving.forecaster import Forecaster
from raycadian.serving.label import LabelPredictor
from raycadian.serving.predictor import Predictor

_PREDICTORS: dict[str, Callable[[Path, Path | str | None], Predictor]] = {
    "forecast": lambda path, cases: Forecaster.load(path),
    "classify": LabelPredictor.load,
    "regress": LabelPredictor.load,
    "pretrain": LabelPredictor.load,  # says why it can't be served
}

_READ = ("recipe.yaml", "metadata.json", "metrics_summary.json", "event_calibration.json", "checkpoint")


def load_predictor(run_path: Path | str, cases: Path | str | None = None) -> Predictor:
    """The predictor of a complete run; `cases`: folder of stored files that requests may name. Raises ValueError for
    what is missing, damaged, or can't be served."""
    run = Run(Path(run_path))
    manifest.require_intact(run.path, *_READ, signed=True)
    return _PREDICTORS[run.recipe.task.kind](run.path, cases)


def open_person(run: Run, person: PersonRecord, store: Store) -> Predictor:
    """A run's model, loaded and adapted to a person. Raises ValueError."""
    return personalise(load_predictor(run.path), run, person, store)


def personalise(population: Predictor, run: Run, person: PersonRecord, store: Store) -> Predictor:
    """The run's predictor, adapted to a person. Raises ValueError where they calibrated another model, or their files
    are damaged."""
    require_same_weights(person, run)
    return population.personalised(person, store.adapter(person.subject))
