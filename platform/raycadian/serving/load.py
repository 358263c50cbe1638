"""Which predictor a run gets, decided once: for a run, and for a person who calibrated it."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raycadian import manifest
from raycadian.errors import CheckpointError
from raycadian.modalities.cgm.request import FORECAST_NOTE
from raycadian.personal.calibrate import require_same_weights
from raycadian.personal.store import PersonRecord, Store
from raycadian.runs import Run
from raycadian.serving.forecaster import Forecaster
from raycadian.serving.label import LabelPredictor
from raycadian.serving.predictor import Predictor
from raycadian.serving.schemas import ModelResponse, explain

_PREDICTORS: dict[str, Callable[[Path, Path | str | None], Predictor]] = {
    "forecast": lambda path, cases: Forecaster.load(path),
    "classify": LabelPredictor.load,
    "regress": LabelPredictor.load,
    "pretrain": LabelPredictor.load,  # says why it can't be served
}

log = logging.getLogger(__name__)
_READ = ("recipe.yaml", "metadata.json", "metrics_summary.json", "event_calibration.json", "checkpoint")


def load_predictor(run_path: Path | str, cases: Path | str | None = None) -> Predictor:
    """The predictor of a complete run; `cases`: folder of stored files that requests may name. Raises ValueError for
    what is missing, damaged, or can't be served: it has answered its own example, or refused it."""
    run = Run(Path(run_path))
    manifest.require_intact(run.path, *_READ, signed=True)
    try:
        predictor = _PREDICTORS[run.recipe.task.kind](run.path, cases)
        _answer_example(run, predictor)
        describe(run, predictor)
    except ValueError:
        raise
    except Exception as error:  # of a number of the wrong kind deep in a file: met here, not by somebody's request
        raise CheckpointError(f"{run.path}: can't answer ({type(error).__name__}: {error}); copy it again") from error
    return predictor


def describe(run: Run, predictor: Predictor) -> dict[str, Any]:
    """What /v1/model says of them. Raises CheckpointError where the run's files hold what can't be said."""
    about = {"model": run.name, "snapshot": run.metadata["snapshot"], "metrics": run.summary.get("test", {})}
    about |= predictor.describe() | {"note": FORECAST_NOTE}
    try:
        said = ModelResponse.model_validate(about | {"rejected": None}).model_dump(mode="json")
        json.dumps(said, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        reason = explain(error) if isinstance(error, ValidationError) else str(error)
        raise CheckpointError(f"{run.path}: metadata.json or metrics_summary.json: damaged: {reason}") from None
    return about


def _answer_example(run: Run, predictor: Predictor) -> None:
    """A refusal is an answer too."""
    try:
        request = predictor.example_request()
        if request is not None:
            predictor.answer(request)
    except ValueError as error:
        log.debug("%s refuses its example: %s", run.name, error)


def open_person(run: Run, person: PersonRecord, store: Store) -> Predictor:
    """A run's model, loaded and adapted to a person. Raises ValueError."""
    return personalise(load_predictor(run.path), run, person, store)


def personalise(population: Predictor, run: Run, person: PersonRecord, store: Store) -> Predictor:
    """The run's predictor, adapted to a person. Raises ValueError where they calibrated another model, or their files
    are damaged."""
    require_same_weights(person, run)
    return population.personalised(person, store.adapter(person.subject))
