"""A run's model card: on one page what the model is, whom it has seen, how it scored, and what it is for."""

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from raycadian.config import Recipe, unwrap
from raycadian.evaluation.metric import label
from raycadian.evaluation.report import brackets
from raycadian.runs import Run

FILE = "MODEL_CARD.md"
_BESIDE = ("auprc", "ece", "brier", "mae", "mae_mgdl", "ccc")  # shown where a task has them
_USE = "Research only: not a medical device. No decision about a person's treatment may rest on it."


def write(folder: Path, recipe: Recipe, metadata: Mapping[str, Any]) -> None:
    """Write MODEL_CARD.md into a run's folder, from its metadata and metrics_summary.json."""
    summary = Run(folder).summary
    rows = [*_model(recipe, metadata), *_people(recipe, metadata), *_scores(recipe, summary), ("intended use", _USE)]
    table = "\n".join(f"| {name} | {_plain(text).replace('|', '/')} |" for name, text in rows)
    about = "\n".join(map(_plain, recipe.description.splitlines())) + "\n\n" if recipe.description else ""
    (folder / FILE).write_text(f"# {recipe.name}\n\n{about}| | |\n|---|---|\n{table}\n", encoding="utf-8")


def _plain(text: str) -> str:
    """On one line, and no more than text: what recipes and cards say is shown, not run, linked or loaded."""
    return escape(" ".join(text.split()), quote=False).replace("](", "]\\(")


def _model(recipe: Recipe, metadata: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "model", f"{metadata['model']}: {metadata['parameters']:,} weights, {metadata['trainable']:,} of them trained"
    yield "task", recipe.protocol
    terms = metadata["data"]
    yield "data set", f"{recipe.dataset}, snapshot {metadata['snapshot']}"
    yield "licence of the data", terms["licence"] or "the card says none"
    if terms["citation"]:
        yield "citation", terms["citation"]


def _people(recipe: Recipe, metadata: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Whom the weights have seen."""
    split, seen = metadata["split"], metadata["seen"]
    yield "split", f"{recipe.split.kind}, seed {recipe.split.seed}"
    chose = f"{split['val']['subjects']} chose the epoch and the calibration"
    yield "people", f"{split['train']['subjects']} trained, {chose}, {split['test']['subjects']} tested"
    yield "NHANES cycles in training", ", ".join(seen["cycles"]) or "none"
    named = [recipe.start, *(getattr(section, "pretrained", None) for section in unwrap(recipe.model))]
    if before := [name for name in named if name is not None]:
        yield "went on from", ", ".join(before)
        people = [f"{n} people of {run}" for run, n in seen["runs"].items()]
        yield "people in pretraining", ", ".join(people) or "not known here"
        yield "NHANES cycles in pretraining", ", ".join(seen["pretraining_cycles"]) or "none"


def _scores(recipe: Recipe, summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    best = recipe.task.headline.name
    for part in [name for name in summary if name.startswith("test")] or list(summary):
        scores = {name: summary[part][name] for name in (best, *_BESIDE) if name in summary[part]}
        yield f"scores, {part}", "; ".join(f"{label(name)} {_in_words(row)}" for name, row in scores.items())


def _in_words(row: Mapping[str, float | None]) -> str:
    return brackets(*(np.nan if row[name] is None else row[name] for name in ("value", "low", "high")), digits=3)
