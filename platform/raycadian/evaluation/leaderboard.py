"""Models compared on identical windows: a leaderboard, and for each pair what its interval over people allows to say.

Forecasts and labels alike: what a kind of predictions gives is a ModelScore for each model (forecast/compare.py,
label/compare.py).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from raycadian.config.metric import Metric
from raycadian.evaluation.bootstrap import SubjectBootstrap

SENTENCES = {
    "better": "{model} is better than {other} by {size}, beyond chance.",
    "better for these people": "{model} is better than {other} by {size} in these people; other people may differ.",
    "the same": "{model} and {other} score the same {where}.",
    "no difference shown": "{model} is ahead of {other} by {size}, which chance alone may give.",
}


@dataclass(frozen=True)
class ModelScore:
    """A model's value of a metric with its interval over people; draws (R,): the value in each resample of people;
    count (S, 1): what each subject contributes, 0 for nothing."""

    value: float
    low: float
    high: float
    draws: np.ndarray
    count: np.ndarray


@dataclass(frozen=True)
class PairedScores:
    """Scores of models by one metric on identical windows, all on the same resamples of people."""

    metric: Metric
    people: SubjectBootstrap
    scores: dict[str, ModelScore]

    @property
    def ranked(self) -> list[str]:
        """Names, the best first."""
        return sorted(self.scores, key=lambda name: self.scores[name].value, reverse=self.metric.better == "high")

    def difference(self, model: str, other: str) -> dict[str, Any]:
        """difference (model minus other) with diff_low, diff_high, and the verdict that they allow."""
        one, two = self.scores[model], self.scores[other]
        low, high = self.people.bounds((one.draws - two.draws)[:, None], one.count)
        return {
            "difference": one.value - two.value, "diff_low": low[0], "diff_high": high[0],
            "verdict": verdict(low[0], high[0], self.metric.better),
        }  # fmt: skip

    def pairs(self, reference: str | None = None) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """(model, other, difference) of every pair, the better first; only those with `reference` if named."""
        for model, other in combinations(self.ranked, 2):
            if reference in (None, model, other):
                yield model, other, self.difference(model, other)


def leaderboard(
    paired: PairedScores, n_windows: int, beside: Callable[[str], dict[str, float]], reference: str | None = None
) -> pd.DataFrame:
    """One row a model, the best first: model, the metric with low and high, difference to `reference` (the best row
    if left out) with diff_low and diff_high, verdict, what `beside` adds of a model, n_subjects, n_windows.

    attrs: bootstrap, confidence, seed of the resamples, for those who score beside it.
    """
    against = reference or paired.ranked[0]
    rows = []
    for name in paired.ranked:
        score = paired.scores[name]
        row = {"model": name, paired.metric.name: score.value, "low": score.low, "high": score.high}
        row |= paired.difference(name, against)
        if name == against:
            row["verdict"] = "reference" if reference else "best"
        rows.append(row | beside(name))
    board = pd.DataFrame(rows).assign(n_subjects=len(paired.people.subjects), n_windows=n_windows)
    board.attrs = paired.people.evaluation.model_dump()
    return board


def verdict(low: float, high: float, better: str) -> str:
    """What the interval of a difference (this model minus the reference) allows to say."""
    if np.isnan(low):
        return "too few people"
    if low <= 0 <= high:
        return "no difference shown"
    return "better" if (high < 0) == (better == "low") else "worse"


def sentence(model: str, other: str, verdict: str, size: str, where: str = "") -> str:
    """A pair for people, the better model first; `size` of the difference with its unit, `where` it was measured."""
    undecided = "{model} is ahead of {other} by {size}; {verdict} to tell whether by chance."
    template = SENTENCES.get(verdict, undecided)
    return template.format(model=model, other=other, verdict=verdict, size=f"{size} {where}".rstrip(), where=where)


def require_named(names: dict[str, Any], reference: str | None) -> None:
    """Raises ValueError where there is no model, or none of the reference's name."""
    if not names:
        raise ValueError("nothing to compare: name at least one run")
    if reference is not None and reference not in names:
        raise ValueError(f"{reference}: no such model to compare with; choose one of {', '.join(names)}")
