"""Whether a run, loaded as it will be served, still says what it said when it was scored: asked before it is promoted.
No Ray, no HTTP."""

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from raycadian import manifest
from raycadian.config import mechanism_of
from raycadian.data import storage
from raycadian.data.snapshot import Snapshot
from raycadian.errors import CheckpointError, at_boundary
from raycadian.modalities.cards import load_card
from raycadian.models import checkpoint
from raycadian.models.base import Model
from raycadian.runs import Run
from raycadian.serving.load import load_predictor
from raycadian.serving.predictor import NotServed, Predictor
from raycadian.tasks import task_of
from raycadian.tasks.canary import Canary, require_same

_SNAPSHOT = re.compile(r"(?P<name>.+)-[0-9a-f]{12}")


def require_as_scored(run: Run, snapshots: Path | str) -> str:
    """What was checked, in words. A run of before has no canary: it is made from its snapshot below `snapshots`, where
    that is still there. Raises CheckpointError where the run is damaged, its recipe is of another model, or its model
    or what is served of it says something else than its predictions."""
    manifest.require_intact(run.path, signed=True)
    _require_of_dataset(run)
    with at_boundary(CheckpointError, f"{run.path} must not be promoted", Exception):  # whatever serving would meet
        predictor, model = _loaded(run)
        _require_of_recipe(run, model)
        canary, absent = _canary_of(run, snapshots)
        if canary is None:
            return f"NOT checked against its predictions: {absent}"
        task = task_of(run.recipe)
        scored = task.scored(run, canary)
        compared = require_same(task.predicted(model, canary), scored, *task.tolerance)
        answered = 0 if predictor is None else _require_answers(predictor, canary, scored)
    words = f"checked: {compared} windows predicted as scored" + (f", {answered} answered" if answered else "")
    return words if (run.path / manifest.FILE).exists() else f"{words}; without {manifest.FILE} no file's hash was"


def _loaded(run: Run) -> tuple[Predictor | None, Model]:
    """The predictor, or the model alone of a run that no path of the endpoint answers with."""
    try:
        predictor = load_predictor(run.path)
    except NotServed:
        return None, checkpoint.load(run.path / "checkpoint")
    return predictor, predictor.model


def _require_of_recipe(run: Run, model: Model) -> None:
    """What it is champion of, the recipe says. Raises CheckpointError where its model is another one."""
    asked = task_of(run.recipe).spec(run.recipe, 60 * model.spec.dt_min)
    asked = replace(asked, dt_min=model.spec.dt_min, balanced=model.spec.balanced)  # the data's; training's alone
    if asked != model.spec:
        raise CheckpointError(
            f"{run.path}/recipe.yaml asks for {asked}; the checkpoint has {model.spec}: one of them is not this run's; "
            "copy the run again, or train its recipe again"
        )


def _require_of_dataset(run: Run) -> None:
    """What it is champion of is named by the recipe's card. Raises CheckpointError where the snapshot that it learned
    from is another data set's."""
    card, snapshot = Path(run.recipe.dataset), str(run.metadata["snapshot"])
    of = _SNAPSHOT.fullmatch(snapshot)
    if of is None or of["name"] in (card.stem, _name_in(card)):
        return
    raise CheckpointError(
        f"{run.path}/recipe.yaml: dataset: {card} is not of the run's snapshot {snapshot}: expected a card of the name "
        f"{of['name']!r}; copy the run again, or promote where its card lies"
    )


def _name_in(card: Path) -> str | None:
    """None of a card that isn't there."""
    with suppress(ValueError, OSError):
        return load_card(card).name
    return None


def _canary_of(run: Run, snapshots: Path | str) -> tuple[Canary | None, str]:
    """The stored windows, or why there are none."""
    recipe, task = run.recipe, task_of(run.recipe)
    if not task.tests:
        return None, f"a run of {recipe.task.kind} has none"
    if (stored := Canary.read(run.path)) is not None:
        return stored, ""
    if mechanism_of(recipe.model) is not None:
        return None, "the run is from before windows were stored, and its mechanism would have to be fitted again"
    try:
        snapshot = Snapshot.open(storage.resolve_path(snapshots) / run.metadata["snapshot"])
        return task.canary(task.load(recipe, snapshot), recipe, None), ""
    except (OSError, ValueError) as error:
        return None, f"the run is from before windows were stored, and its snapshot can't be read ({error})"


def _require_answers(predictor: Predictor, canary: Canary, scored: np.ndarray) -> int:
    """How many windows, sent as requests, are answered with the model's prediction. A refusal may be right, but not of
    every window."""
    answers, refusals = [], []
    for row in range(len(scored)):
        try:
            answers.append((row, predictor.answer_to(canary.batch, row)))
        except ValueError as error:
            refusals.append(error)
    if not answers:
        raise CheckpointError(f"{predictor.name}: every stored window is refused: {refusals[0]}")
    compared = [(answer, scored[row]) for row, answer in answers if answer is not None]
    for answer, expected in compared:
        require_same(answer[None], predictor.within(expected)[None], relative=1e-6, absolute=1e-3)
    return len(compared)
