"""Whom earlier runs have learnt from: what a training goes on from must not know the people that it is scored on."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from raycadian.config import Recipe, load_recipe, unwrap
from raycadian.data.split import SplitManifest, met, same_people
from raycadian.models.masked import is_ours
from raycadian.runs import open_run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Earlier:
    """A run whose weights another takes up. named_as: where the recipe names it."""

    folder: Path
    named_as: str
    split: SplitManifest


def earlier_of(recipe: Recipe) -> Iterator[Earlier]:
    """Runs of ours that `start` and `pretrained` name, and those that these went on from. Raises ValueError for a
    checkpoint of a run without the run's split beside it."""
    for named_as, folder in _named(recipe):
        yield Earlier(folder, named_as, SplitManifest.read(folder / "split.json"))
        try:
            yield from list(earlier_of(load_recipe(folder / "recipe.yaml")))
        except ValueError as error:  # gone since: nothing that can be done now tells
            log.warning("whom the runs before %s have learnt from is not known: %s", folder, error)


def require_apart(recipe: Recipe, split: SplitManifest) -> None:
    """Raises ValueError where a run that this one goes on from has learnt from people (of forecasts: from their points)
    of the test part, or of the validation part, which may have chosen its epoch but trained nothing."""
    for run in earlier_of(recipe):
        if not same_people(run.split.snapshot, split.snapshot):
            continue
        learnt = run.split.of("train")
        known = met(split.of("test"), (*learnt, *run.split.of("val"))) + met(split.of("val"), learnt)
        if known:
            raise ValueError(
                f"leakage: {run.named_as} {run.folder} has learnt from {len(known)} of the people that this run is "
                f"validated or tested on, {known[0]!r} the first; {_fix(recipe, run)}"
            )


def _fix(recipe: Recipe, run: Earlier) -> str:
    if not recipe.task.split_of_run:
        return "give both recipes the same `split` section"
    return f"take over its split by split: {{kind: run, run: {run.folder}}}, or train it on that of a run of this task"


def _named(recipe: Recipe) -> Iterator[tuple[str, Path]]:
    if recipe.start is not None:
        yield "start", open_run(recipe.start).path
    for section in unwrap(recipe.model):
        named = getattr(section, "pretrained", None)
        folder = None if named is None else _run_of(Path(named).expanduser())
        if folder is not None:
            yield f"{section.kind}.pretrained", folder


def _run_of(checkpoint: Path) -> Path | None:
    """The run that a checkpoint lies in; None of weights that are of no run of ours."""
    if not is_ours(checkpoint):
        return None
    folder = checkpoint.parent
    if absent := [name for name in ("split.json", "recipe.yaml") if not (folder / name).is_file()]:
        raise ValueError(
            f"{checkpoint}: whom it has learnt from is not known, {folder} has no {', '.join(absent)}; copy the whole "
            "run"
        )
    return folder
