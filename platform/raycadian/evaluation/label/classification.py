"""Scores of classify and regress, with bootstrap intervals over people. Windows may be weighed by their person.

classify (p: the calibrated probability after voting; an alarm: p above the threshold chosen on validation windows)
auroc            chance that of two windows the one with the label has the higher p, ties half
auprc            average precision: the mean over windows with the label of the precision at their p (chance: base_rate)
brier            mean of (p - label)^2; brier_raw: before calibration
ece              expected calibration error: mean |mean p - share with the label| over 15 bins of equal width, weighed
                 by their windows (Guo et al., ICML 2017); ece_adaptive: bins of equal numbers of windows; ece_raw: ece
                 before calibration. A mean of absolute values: noise alone makes it positive, and resampling adds noise
                 of its own, so that value and interval lie above the truth where people are few (neither is corrected)
ece_chance       the ece that chance alone gives with these people and probabilities if all were calibrated, its mean
                 and range: each bin's differences centred over people, resampled. An ece within says nothing against
                 them
mce              the largest such difference of any bin of equal width
sensitivity, specificity, precision, accuracy, f1: of alarms. specificity was set on validation windows
event_sensitivity   share of episodes with an alarm in a window whose label is 1
lead_time_min       from the first such alarm to the onset, mean over the episodes that had one
alarms_per_case     rising edges of alarms; false_alarms_per_hour: those at windows without the label, an hour of them

regress
mae, rmse        in the label's unit
ccc              concordance: 2 cov / (var x + var y + (mean x - mean y)^2) (Lin, Biometrics 45:255, 1989)
r2               1 - squared error / variance of the label

Low and high: percentiles of the same resamples of people for all; missing where fewer than three people contribute.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit

from raycadian.config import Evaluation
from raycadian.evaluation.bootstrap import EVALUATION, SubjectBootstrap, ratio
from raycadian.evaluation.forecast.event_scores import area_draws, areas
from raycadian.evaluation.label.decision import Decision, JoinedDecisions
from raycadian.evaluation.label.predictions import LabelPredictions

BINS = 15
METRICS = {
    "classify": (
        "auroc", "auprc", "brier", "brier_raw", "ece", "ece_adaptive", "ece_raw", "mce", "accuracy", "sensitivity",
        "specificity", "precision", "f1",
    ),
    "regress": ("mae", "rmse", "ccc", "r2"),
}  # fmt: skip
"""What models of each kind can be ranked by; evaluation/metric.py says which way is better."""
SHOWN = ("auroc", "auprc", "f1", "sensitivity", "accuracy", "brier", "ece", "mae", "rmse", "ccc", "r2")
"""What tables of several models show, in their order."""
_AREAS = ("auroc", "auprc")
Formula = Callable[[np.ndarray], np.ndarray]
"""Sums over windows (..., K) -> the statistic (...)."""


@dataclass(frozen=True)
class Statistic:
    """A function of sums over windows: per_subject (S, K) sums, and what is made of them. Resamples of people are then
    matrix products."""

    per_subject: np.ndarray
    formula: Formula

    @property
    def value(self) -> float:
        return float(self.formula(self.per_subject.sum(0)[None])[0])

    def draws(self, people: SubjectBootstrap) -> np.ndarray:
        """(R,)."""
        with np.errstate(invalid="ignore"):
            return self.formula(people.counts @ self.per_subject)

    @property
    def contributed(self) -> np.ndarray:
        """(S, 1): 0 of those who add to no sum."""
        return np.abs(self.per_subject).sum(1, keepdims=True)


def score_labels(
    p: LabelPredictions, decision: Decision | JoinedDecisions | None, evaluation: Evaluation = EVALUATION
) -> pd.DataFrame:
    """metric, value, low, high, n_subjects, n_windows: a row each. `decision`: of classify, from validation windows."""
    people = SubjectBootstrap(p.subject, evaluation)
    known = statistics(p, decision, people)
    rows = [{"metric": name, **_estimate(statistic, people)} for name, statistic in known.items()]
    if decision is not None:
        rows.append({"metric": "ece_chance", **_by_chance(known["ece"], people)})
        probability = decision.probability(p.score, p.case)
        for name, (value, low, high) in areas(probability, p.label, people, p.weight).items():
            rows.insert(0, {"metric": name, "value": value[0], "low": low[0], "high": high[0]})
    return pd.DataFrame(rows).assign(n_subjects=len(people.subjects), n_windows=len(p))


def metric_draws(
    p: LabelPredictions, decision: Decision | JoinedDecisions | None, metric: str, people: SubjectBootstrap
) -> tuple[float, np.ndarray, np.ndarray]:
    """One metric of METRICS alone: its value, draws (R,) in each resample, and (S, 1) what each subject contributes."""
    if metric not in _AREAS:
        statistic = statistics(p, decision, people)[metric]
        return statistic.value, statistic.draws(people), statistic.contributed
    assert decision is not None
    value, draws = area_draws(decision.probability(p.score, p.case), p.label, people, p.weight)
    at = _AREAS.index(metric)
    return float(value[at]), draws[:, at], people.sum((p.label == 1)[:, None])


def _estimate(statistic: Statistic, people: SubjectBootstrap) -> dict[str, float]:
    low, high = people.bounds(statistic.draws(people)[:, None], statistic.contributed)
    return {"value": statistic.value, "low": low[0], "high": high[0]}


def statistics(
    p: LabelPredictions, decision: Decision | JoinedDecisions | None, people: SubjectBootstrap
) -> dict[str, Statistic]:
    """Every metric but the areas."""
    return _regression(p, people) if decision is None else _classification(p, decision, people)


# --- classify --------------------------------------------------------------------------------------------------------


def _classification(
    p: LabelPredictions, decision: Decision | JoinedDecisions, people: SubjectBootstrap
) -> dict[str, Statistic]:
    probability, raw = decision.probability(p.score, p.case), expit(p.score)
    label, w = p.label, p.weight
    alarm = probability > decision.threshold
    scores = {
        "base_rate": _mean(label, w, people),
        "brier": _mean((probability - label) ** 2, w, people),
        "brier_raw": _mean((raw - label) ** 2, w, people),
        "ece": calibration_error(probability, label, w, people, _equal_width(probability)),
        "ece_adaptive": calibration_error(probability, label, w, people, equal_mass(probability)),
        "ece_raw": calibration_error(raw, label, w, people, _equal_width(raw)),
        "mce": calibration_error(probability, label, w, people, _equal_width(probability), largest=True),
        "accuracy": _mean(alarm == label, w, people),
        "sensitivity": _mean(alarm, w * (label == 1), people),
        "specificity": _mean(~alarm, w * (label == 0), people),
        "precision": _mean(label, w * alarm, people),
        "f1": _share(2 * w * alarm * label, w * (alarm + label), people),
    }
    return scores | _alarms(p, alarm, people)


def _mean(values: np.ndarray, weight: np.ndarray, people: SubjectBootstrap) -> Statistic:
    return _share(values * weight, weight, people)


def _share(total: np.ndarray, count: np.ndarray, people: SubjectBootstrap) -> Statistic:
    """sum(total) / sum(count)."""
    return Statistic(people.sum(np.column_stack([total, count])), lambda s: ratio(s[..., 0], s[..., 1]))


def _equal_width(probability: np.ndarray, bins: int = BINS) -> np.ndarray:
    """(W,) bin of each window."""
    return np.minimum((probability * bins).astype(np.int64), bins - 1)


def equal_mass(probability: np.ndarray, bins: int = BINS) -> np.ndarray:
    """(W,) bin of each window, as many windows in each as ties allow."""
    edges = np.quantile(probability, np.linspace(0, 1, bins + 1)[1:-1])
    return np.searchsorted(np.unique(edges), probability, side="right")


def calibration_error(
    probability: np.ndarray, label: np.ndarray, weight: np.ndarray, people: SubjectBootstrap, place: np.ndarray,
    largest: bool = False,
) -> Statistic:  # fmt: skip
    """Of bins (W,): the mean over bins of |mean probability - share with the label|, weighed by their windows,
    or the largest."""
    bins, s = int(place.max(initial=0)) + 1, len(people.subjects)
    cell = people.code * bins + place
    n, off = (np.bincount(cell, x, s * bins).reshape(s, bins) for x in (weight, weight * (probability - label)))

    def formula(sums: np.ndarray) -> np.ndarray:
        count, difference = np.split(sums, 2, axis=-1)
        if largest:
            return ratio(np.abs(difference), np.where(count > 0, count, 1.0)).max(-1)
        return ratio(np.abs(difference).sum(-1), count.sum(-1))

    return Statistic(np.hstack([n, off]), formula)


def _by_chance(error: Statistic, people: SubjectBootstrap) -> dict[str, float]:
    """Of a calibration error: its mean and range where the differences of every bin are 0 but for the draw of people
    (the null distribution of Broecker and Smith, Weather and Forecasting 22:651, 2007, people in place of windows)."""
    count, difference = np.split(error.per_subject, 2, axis=1)
    centred = difference - count * np.nan_to_num(ratio(difference.sum(0), count.sum(0)))
    draws = Statistic(np.hstack([count, centred]), error.formula).draws(people)[:, None]
    low, high = people.bounds(draws, count.sum(1, keepdims=True))
    return {"value": float(draws.mean()), "low": low[0], "high": high[0]}


def _alarms(p: LabelPredictions, alarm: np.ndarray, people: SubjectBootstrap) -> dict[str, Statistic]:
    """Of alarms in time: by case, by hour, and by episode, where the label is one of episodes."""
    same = np.concatenate([[False], p.case[1:] == p.case[:-1]])
    rising = alarm & ~(np.concatenate([[False], alarm[:-1]]) & same)
    without = p.label == 0
    scores = {
        "alarms_per_case": _share(rising * 1.0, ~same * 1.0, people),
        "false_alarms_per_hour": _share(rising & without, without * (p.step_s / 3600), people),
    }
    if not (p.label == 1).any() or np.isnan(p.lead_s[p.label == 1]).any():
        return scores
    episodes = _episodes(p, alarm)
    first = np.zeros(len(p))
    first[episodes.window] = 1
    caught, lead = np.zeros(len(p)), np.zeros(len(p))
    caught[episodes.window], lead[episodes.window] = episodes.caught, np.nan_to_num(episodes.lead_s) / 60
    return scores | {"event_sensitivity": _share(caught, first, people), "lead_time_min": _share(lead, caught, people)}


def _episodes(p: LabelPredictions, alarm: np.ndarray) -> pd.DataFrame:
    """A row an episode that a window with the label precedes: its first such window, whether any of them alarmed, and
    how long before the onset the first that did."""
    ahead = np.flatnonzero(p.label == 1)
    onset = p.time_utc[ahead].astype(np.int64) + p.lead_s[ahead].round().astype(np.int64)
    lead = np.where(alarm[ahead], p.lead_s[ahead], np.nan)
    table = pd.DataFrame(
        {"case": p.case[ahead], "onset": onset, "window": ahead, "lead_s": lead, "caught": alarm[ahead]}
    )
    return table.groupby(["case", "onset"], sort=False).agg({"window": "min", "lead_s": "max", "caught": "max"})


def reliability(
    probability: np.ndarray, label: np.ndarray, weight: np.ndarray, people: SubjectBootstrap, place: np.ndarray
) -> pd.DataFrame:
    """A row a bin (W,): predicted (mean), observed, low, high (shares, over people), n_windows."""
    inside = (place[:, None] == np.arange(place.max(initial=0) + 1)) * weight[:, None]
    observed, low, high = people.estimate(people.sum(inside * label[:, None]), people.sum(inside))
    mean, n = ratio((inside * probability[:, None]).sum(0), inside.sum(0)), (inside > 0).sum(0)
    table = pd.DataFrame({"predicted": mean, "observed": observed, "low": low, "high": high, "n_windows": n})
    return table[table.n_windows > 0].reset_index(drop=True)


# --- regress ---------------------------------------------------------------------------------------------------------


def _regression(p: LabelPredictions, people: SubjectBootstrap) -> dict[str, Statistic]:
    w, center = p.weight, np.average(p.label, weights=p.weight)
    y, x = p.label.astype(np.float64) - center, p.score.astype(np.float64) - center
    moments = people.sum(np.column_stack([w, w * x, w * y, w * x * x, w * y * y, w * x * y]))
    error = x - y

    def spread(s: np.ndarray) -> tuple[np.ndarray, ...]:
        n, mx, my = s[..., 0], ratio(s[..., 1], s[..., 0]), ratio(s[..., 2], s[..., 0])
        return mx, my, ratio(s[..., 3], n) - mx**2, ratio(s[..., 4], n) - my**2, ratio(s[..., 5], n) - mx * my

    def ccc(s: np.ndarray) -> np.ndarray:
        mx, my, vx, vy, cov = spread(s)
        return ratio(2 * cov, vx + vy + (mx - my) ** 2)

    def r2(s: np.ndarray) -> np.ndarray:
        mx, my, vx, vy, cov = spread(s)
        return 1 - ratio(vx + vy - 2 * cov + (mx - my) ** 2, vy)

    squared = _mean(error**2, w, people)
    return {
        "mae": _mean(np.abs(error), w, people),
        "rmse": Statistic(squared.per_subject, lambda s: np.sqrt(squared.formula(s))),
        "ccc": Statistic(moments, ccc), "r2": Statistic(moments, r2), "bias": _mean(error, w, people),
    }  # fmt: skip


# --- curves ----------------------------------------------------------------------------------------------------------


def curves(probability: np.ndarray, label: np.ndarray, weight: np.ndarray) -> Iterator[np.ndarray]:
    """false positive rate, true positive rate, precision at every threshold, from the strictest; (T,) each."""
    order = np.argsort(-probability, kind="stable")
    last = np.flatnonzero(np.diff(probability[order], append=-1.0) != 0)  # ties move together
    tp, fp = (np.cumsum(weight[order] * (label[order] == v))[last] for v in (1, 0))
    yield np.concatenate([[0.0], ratio(fp, np.full_like(fp, fp[-1]))])
    yield np.concatenate([[0.0], ratio(tp, np.full_like(tp, tp[-1]))])
    yield np.concatenate([[1.0], ratio(tp, tp + fp)])
