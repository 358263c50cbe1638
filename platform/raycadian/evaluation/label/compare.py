"""Models of a label compared on the same windows: leaderboard and pairs."""

import numpy as np
import pandas as pd

from raycadian.config import Evaluation
from raycadian.config.metric import Metric
from raycadian.evaluation import leaderboard as boards
from raycadian.evaluation.bootstrap import EVALUATION, SubjectBootstrap
from raycadian.evaluation.label.classification import METRICS, SHOWN, metric_draws, score_labels
from raycadian.evaluation.label.decision import Decided
from raycadian.evaluation.label.predictions import LabelPredictions
from raycadian.evaluation.leaderboard import ModelScore, PairedScores, require_named, sentence
from raycadian.evaluation.metric import metric_among

_PAIR = ["model", "other", "metric", "difference", "diff_low", "diff_high", "verdict", "sentence"]


def leaderboard(
    named: dict[str, Decided], metric: str, evaluation: Evaluation = EVALUATION, *, reference: str | None = None
) -> pd.DataFrame:
    """One row a model, the best by `metric` first: its interval, the difference to the best (or to `reference`) on
    the same resamples of people with what that allows to say, and the other metrics. Raises ValueError where windows
    or labels differ."""
    require_named(named, reference)
    paired = _paired(named, metric, evaluation)

    def beside(name: str) -> dict[str, float]:
        value = score_labels(*named[name], evaluation).set_index("metric").value
        return {other: value[other] for other in SHOWN if other in value.index and other != metric}

    return boards.leaderboard(paired, len(next(iter(named.values()))[0]), beside, reference)


def differences(
    named: dict[str, Decided], metric: str, evaluation: Evaluation = EVALUATION, *, reference: str | None = None
) -> pd.DataFrame:
    """One row a pair of models, the better first: difference of the metric with its interval, paired, and what it says.
    `reference`: only the pairs with that model."""
    require_named(named, reference)
    paired = _paired(named, metric, evaluation)
    rows = [{"model": model, "other": other, "metric": metric} | own for model, other, own in paired.pairs(reference)]
    table = pd.DataFrame(rows, columns=_PAIR)
    return table.assign(sentence=[_sentence(row) for row in table.itertuples()])


def require_same_labels(one: LabelPredictions, other: LabelPredictions, name: str) -> None:
    """Raises ValueError that names the first difference in windows or labels."""
    fix = "compare runs of one recipe, snapshot and split"
    if one.kind != other.kind or len(one) != len(other):
        raise ValueError(f"{name}: {len(other)} windows to {other.kind}, expected {len(one)} to {one.kind}: {fix}")
    same = (one.case == other.case) & (one.time_utc == other.time_utc) & (one.subject == other.subject)
    same &= (one.label == other.label) & (one.weight == other.weight)
    if not same.all():
        i = int(np.argmin(same))
        raise ValueError(
            f"{name}: {int((~same).sum())} of {len(one)} windows differ, the first is window {i}: case {other.case[i]} "
            f"at {other.time_utc[i]} with label {other.label[i]:g}, expected case {one.case[i]} at {one.time_utc[i]} "
            f"with {one.label[i]:g}: {fix}"
        )


def _paired(named: dict[str, Decided], metric: str, evaluation: Evaluation) -> PairedScores:
    first = next(iter(named.values()))[0]
    for name, (other, _) in named.items():
        require_same_labels(first, other, name)
    chosen = metric_among(metric, METRICS[first.kind])
    people = SubjectBootstrap(first.subject, evaluation)
    return PairedScores(chosen, people, {name: _score(own, chosen, people) for name, own in named.items()})


def _score(own: Decided, metric: Metric, people: SubjectBootstrap) -> ModelScore:
    value, draws, count = metric_draws(*own, metric.name, people)
    low, high = people.bounds(draws[:, None], count)
    everybody = np.ones((len(people.subjects), 1))  # counts in a difference, also who adds to neither model's value
    return ModelScore(value, low[0], high[0], draws, everybody)


def _sentence(row) -> str:
    size = f"{abs(row.difference):.3f} {row.metric.upper()} [{row.diff_low:.3f}, {row.diff_high:.3f}]"
    return sentence(row.model, row.other, row.verdict, size)
