"""Cross-conformal calibration: intervals for strangers, from people who were strangers to the model that forecast them.

Validation windows of those who were trained on say too little of new people, and people held out for calibration are
missing in training: with few people both cost (benchmarks/coverage.py). Here everybody trains the model that is kept,
and each group of people is scored by a model that was trained without it.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from raycadian.config import Recipe
from raycadian.data.split import SplitManifest
from raycadian.data.windows import cut_windows
from raycadian.models import conformal
from raycadian.models.base import Model
from raycadian.tasks.base import Data

log = logging.getLogger(__name__)


def calibrate(model: Model, data: Data, recipe: Recipe, fit: Callable[..., Any], state: Path | None) -> None:
    """Set the offsets of a conformal model from `recipe.model.folds` groups of the people it was trained on; a model
    without such groups stays as it is.

    `fit` trains one recipe (pipeline.fit_model). Raises ValueError where there are fewer people than groups.
    """
    folds = recipe.model.crossfit_folds()
    if not folds:
        return
    assert isinstance(model, conformal.Conformal)
    (section,) = recipe.model.parts()
    inner = recipe.model_copy(update={"model": section})
    parts = []
    for number, (group, rest) in enumerate(_groups(data.split, folds, recipe.split.seed), start=1):
        log.info("cross-conformal: group %d of %d, %d people", number, folds, len(group))
        fitted = fit(replace(data, split=rest), inner, state=state and state / f"fold-{number}")
        ranges = tuple(r for r in data.split.ranges if r.subject in group and r.split != "test")
        stride = recipe.window.eval_stride
        parts.append(
            conformal.scores(fitted.model, cut_windows(data.series, ranges, recipe.window, stride, fitted.mechanism))
        )
    model.place(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _groups(split: SplitManifest, folds: int, seed: int) -> Iterator[tuple[set[str], SplitManifest]]:
    """Groups of the people who train, and the split without each."""
    people = np.random.default_rng(seed).permutation(sorted({r.subject for r in split.of("train")}))
    if len(people) < folds:
        raise ValueError(f"conformal.folds {folds} exceeds the {len(people)} people of the training data; lower it")
    for group in (set(part.tolist()) for part in np.array_split(people, folds)):
        yield group, replace(split, ranges=tuple(r for r in split.ranges if r.subject not in group))
