"""How good probabilities of an event are: Brier score and its parts, ROC and precision-recall areas, with intervals
over people."""

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from raycadian.config import Evaluation
from raycadian.evaluation.bootstrap import EVALUATION, SubjectBootstrap, ratio
from raycadian.evaluation.forecast.event_probability import (
    EventCalibration,
    excursion_named,
    happened_within,
    probabilities,
    raw_probability,
)
from raycadian.evaluation.forecast.metrics import Row, score_row
from raycadian.evaluation.forecast.predictions import Predictions


def probability_scores(
    p: Predictions, calibrations: list[EventCalibration], evaluation: Evaluation = EVALUATION
) -> pd.DataFrame:
    """Rows for the score table (scope, metric, kind window, ...), for each calibration and scope.

    hypo70_probability_base_rate_pct: how often it happens · _brier: mean squared error of the probability (lower is
    better); _brier_raw: without calibration · _brier_miscalibration, _brier_discrimination, _brier_uncertainty: brier
    = miscalibration - discrimination + uncertainty (`brier_parts`) · _brier_skill_pct: 100 (1 - brier / uncertainty),
    0 for always saying the base rate · _auroc, _auprc (`areas`). Windows with missing points are left out.
    """
    rows = []
    for scope in ("all", *sorted(set(p.scope.tolist()))):
        chosen = p if scope == "all" else p.select(p.scope == scope)
        for name, probability in probabilities(chosen, calibrations).items():
            rows += [{"scope": scope} | row for row in _scores_of(chosen, name, probability, evaluation)]
    return pd.DataFrame(rows)


def _scores_of(p: Predictions, name: str, probability: np.ndarray, evaluation: Evaluation) -> Iterator[Row]:
    excursion = excursion_named(name)
    happened = happened_within(p, excursion)
    known = ~np.isnan(happened)
    n, left_open, happened = int(known.sum()), int((~known).sum()), happened[known]
    if not n:
        return
    people, raw = SubjectBootstrap(p.subject[known], evaluation), raw_probability(p.select(known), excursion)
    probability = probability[known]
    means = {
        "base_rate_pct": 100 * happened,
        "brier": (probability - happened) ** 2,
        "brier_raw": (raw - happened) ** 2,
    }
    scores = {score: people.estimate(*people.sum_count(values[:, None])) for score, values in means.items()}
    parts = brier_parts(probability, happened)
    scores |= {f"brier_{part}": (np.array([value]), *_NONE) for part, value in parts.items()}
    skill = 100 * (1 - means["brier"].mean() / parts["uncertainty"]) if parts["uncertainty"] else np.nan
    scores["brier_skill_pct"] = (np.array([skill]), *_NONE)
    scores |= areas(probability, happened, people)
    for score, values in scores.items():
        metric = f"{name}_probability_{score}"
        yield score_row(metric, "window", p.horizon_min[-1], values, len(people.subjects), n, left_open)


_NONE = (np.array([np.nan]), np.array([np.nan]))  # no interval


def brier_parts(probability: np.ndarray, happened: np.ndarray) -> dict[str, float]:
    """Brier score = miscalibration - discrimination + uncertainty, exactly; all (N,) inputs known.

    By isotonic regression of what happened on the probability, which needs no bins: miscalibration is what
    recalibrating would gain (0 is best), discrimination what the recalibrated probability gains over the base rate
    (more is better), uncertainty the score of the base rate. Dimitriadis, Gneiting, Jordan, PNAS 118:e2016191118
    (2021).
    """
    from scipy.optimize import isotonic_regression  # here: it takes half a second

    _, group = np.unique(probability, return_inverse=True)
    count = np.bincount(group)
    recalibrated = isotonic_regression(np.bincount(group, happened) / count, weights=count.astype(float)).x[group]
    best, base = np.mean((recalibrated - happened) ** 2), np.mean((happened.mean() - happened) ** 2)
    brier = np.mean((probability - happened) ** 2)
    return {"miscalibration": float(brier - best), "discrimination": float(base - best), "uncertainty": float(base)}


def areas(
    probability: np.ndarray, happened: np.ndarray, people: SubjectBootstrap, weight: np.ndarray | None = None
) -> dict[str, tuple[np.ndarray, ...]]:
    """auroc, auprc: value, low, high, (1,) each. NaN where all or none of the windows hold the event.

    auroc: the chance that a window with the event has the higher probability of two, ties half. auprc: average
    precision, the mean over events of the precision at their probability; for chance it is the base rate.
    """
    value, draws = area_draws(probability, happened, people, weight)
    events = people.sum((happened == 1)[:, None])
    low, high = people.bounds(draws, np.column_stack([events, events]))
    return {name: (value[i : i + 1], low[i : i + 1], high[i : i + 1]) for i, name in enumerate(("auroc", "auprc"))}


def area_draws(
    probability: np.ndarray, happened: np.ndarray, people: SubjectBootstrap, weight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """auroc and auprc: (2,) of all windows, weighed by `weight` (W,), and (R, 2) in each resample.

    Counts per subject at the distinct probabilities of events (G, S) suffice: resamples are matrix products. Where that
    were more than _CELLS, probabilities of the resamples are rounded down to as many as fit, evenly among events.
    """
    weight = np.ones(len(probability)) if weight is None else weight
    event, subjects = happened == 1, len(people.subjects)
    at, total = np.unique(probability[event]), _areas(np.zeros_like(people.code), probability, event, weight, 1)
    if len(at) * subjects > _CELLS:
        kept = at[np.unique(np.linspace(0, len(at) - 1, max(_CELLS // subjects, 2)).round().astype(int))]
        below = np.searchsorted(kept, probability, side="right") - 1
        probability = np.where(below >= 0, kept[np.maximum(below, 0)], -np.inf)
    return total(np.ones((1, 1)))[0], _areas(people.code, probability, event, weight, subjects)(people.counts)


_CELLS = 5_000_000


def _areas(
    code: np.ndarray, probability: np.ndarray, event: np.ndarray, weight: np.ndarray, subjects: int
) -> Callable[[np.ndarray], np.ndarray]:
    """From how often each subject is in each resample (R, S) to auroc and auprc (R, 2)."""
    at = np.unique(probability[event])

    def counts(chosen: np.ndarray, side: str) -> np.ndarray:
        """(G, S): windows of each subject at or above (side left), or above (right), each of `at`."""
        place = np.searchsorted(at, probability[chosen], side="right" if side == "left" else "left")
        cell = place * subjects + code[chosen]
        table = np.bincount(cell, weight[chosen], (len(at) + 1) * subjects).reshape(-1, subjects)
        return table[::-1].cumsum(0)[::-1][1:]

    hits, hits_above = counts(event, "left"), counts(event, "right")
    false, false_above = counts(~event, "left"), counts(~event, "right")
    total = [np.bincount(code[chosen], weight[chosen], subjects) for chosen in (event, ~event)]

    def both(counts: np.ndarray) -> np.ndarray:
        events, others = counts @ total[0], counts @ total[1]
        tp, fp, above = counts @ hits.T, counts @ false.T, counts @ false_above.T
        mine = tp - counts @ hits_above.T
        roc = (mine * (others[:, None] - (fp + above) / 2)).sum(1)
        precision = (mine * np.nan_to_num(ratio(tp, tp + fp))).sum(1)  # no event there: nothing is added
        return np.column_stack([ratio(roc, events * others), ratio(precision, np.where(others > 0, events, 0))])

    return both


def reliability_of_events(
    p: Predictions, name: str, probability: np.ndarray, evaluation: Evaluation
) -> pd.DataFrame:  # fmt: skip
    """A row a tenth of the calibrated probability (W,) of an excursion by `name`: predicted (its mean), observed, low,
    high (shares), n_windows."""
    happened = happened_within(p, excursion_named(name))
    known = ~np.isnan(happened)
    tenth = np.minimum((10 * probability).astype(int), 9)
    inside = known[:, None] & (tenth[:, None] == np.arange(10))
    people = SubjectBootstrap(p.subject, evaluation)
    count = people.sum(inside)
    observed, low, high = people.estimate(people.sum(inside * np.nan_to_num(happened)[:, None]), count)
    mean = ratio((inside * probability[:, None]).sum(0), inside.sum(0))
    table = pd.DataFrame(
        {"predicted": mean, "observed": observed, "low": low, "high": high, "n_windows": inside.sum(0)}
    )
    return table[table.n_windows > 0].reset_index(drop=True)
