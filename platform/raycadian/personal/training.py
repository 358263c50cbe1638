"""From a population's model and one person's days to that person's adapter: one path, for labels of days and for forecasts.

The person's days are cut in time: the first train, the next choose the epoch and calibrate, the last are held out and say
whether the adapter is kept. Nothing is written, and no cluster is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raycadian.config import Forecasting, Recipe, Training, override
from raycadian.data.series import Series
from raycadian.data.split import make_split
from raycadian.evaluation.forecast import metrics
from raycadian.evaluation.forecast.predictions import Predictions
from raycadian.evaluation.label.decision import Decision
from raycadian.models.base import Model, trainable_parameters
from raycadian.personal.adapter import PersonalForecast, PersonalLabel, personal, weights_of
from raycadian.personal.days import DAY_S, LabelledDays
from raycadian.personal.verdict import (
    PersonalDecision,
    Verdict,
    fit_personal,
    judge_forecasts,
    judge_probabilities,
)  # fmt: skip
from raycadian.physiology.rhythms.daily import Baseline
from raycadian.training import loop
from raycadian.training import pipeline as experiment
from raycadian.training.loop import OnEpoch
from raycadian.training.run import Run

SHARE = 0.2  # of the days choose the epoch, and as many are held out
LEAST = 3  # days of either
_OURS: dict[str, Any] = {
    "device": "cpu", "precision": "fp32", "schedule": "constant", "warmup_steps": 0, "workers": 1, "strategy": "ddp",
}  # fmt: skip
LABELS = Training(**_OURS, epochs=30, batch_size=8, lr=5e-3, weight_decay=0.01, early_stopping={"patience": 6})
FORECASTS = Training(**_OURS, epochs=6, batch_size=64, lr=1e-3, weight_decay=0.01, early_stopping={"patience": 2})


@dataclass(frozen=True)
class Adapted:
    """weights: of the adapter · decision: how its log odds become a probability (forecasts have none) · days: what each part
    held · epochs: trained, of which the best is kept."""

    weights: Mapping[str, Tensor]
    parameters: int
    decision: PersonalDecision | None
    verdict: Verdict
    days: dict[str, Any]
    epochs: int


def adapt_label(
    population: Model, decision: Decision, baseline: Baseline, days: LabelledDays, on_epoch: OnEpoch, seed: int = 0
) -> Adapted:
    """Raises ValueError where the days that train all have one label."""
    train, val, test = in_time(days)
    counts = {name: _described(part) for name, part in (("train", train), ("val", val), ("held_out", test))}
    share = (train.windows.label.sum() + 1) / (len(train) + 2)  # Laplace's rule: never certain
    if len(np.unique(train.windows.label)) < 2:
        raise ValueError(
            f"the {len(train)} labelled days that train ({train.date[0]} to {train.date[-1]}) all have the label {train.windows.label[0]:g}; an "
            "adapter learns from days of both kinds: label earlier days too, in an episode and outside"
        )
    model, epochs = _trained(population, baseline, train.windows, val.windows, LABELS, seed, on_epoch)
    own = fit_personal(decision, _log_odds(model, val), val.windows.label.astype(np.float64))
    alone = np.zeros(len(test), np.int8)
    said = {
        "adapter": own.probability(_log_odds(model, test), alone),
        "population": decision.probability(_log_odds(population, test), alone),
        "base_rate": np.full(len(test), share),
    }
    verdict = judge_probabilities(said, test.windows.label.astype(np.float64))
    return Adapted(weights_of(model), trainable_parameters(model), own, verdict, counts, epochs)


def adapt_forecast(
    run: Run, population: Model, baseline: Baseline, series: Series, grid: Any, on_epoch: OnEpoch, seed: int = 0
) -> Adapted:
    """Raises ValueError where the days don't give windows to each part."""
    recipe = _of_person(run, series)
    split = make_split(_lengths(series), recipe.split, "one person", series.dt_s)
    data = experiment.Data("one person", series, split, grid)
    mechanism = experiment.fit_mechanism_of(data, recipe)
    strides = {"train": recipe.window.stride, "val": recipe.window.eval_stride, "test": recipe.window.eval_stride}
    cut = {name: experiment.windows_of(data, recipe, name, stride, mechanism) for name, stride in strides.items()}
    model, epochs = _trained(population, baseline, cut["train"], cut["val"], FORECASTS, seed, on_epoch)
    told = {
        name: experiment.predict(one, cut["test"], set())
        for name, one in (("adapter", model), ("population", population))
    }
    verdict = judge_forecasts(*_errors(told))
    parts = {"train": recipe.split.person.train_days, "val": recipe.split.person.val_days}
    parts["held_out"] = len(series) * series.dt_s / DAY_S - sum(parts.values())
    days = {
        name: {"days": round(parts[name], 2), "windows": len(cut["test" if name == "held_out" else name])}
        for name in parts
    }
    return Adapted(weights_of(model), trainable_parameters(model), None, verdict, days, epochs)


def _errors(told: dict[str, Predictions]) -> tuple[dict[str, np.ndarray], dict[str, float], np.ndarray]:
    """Of each model the mean pinball loss of each forecast (W,), and the RMSE; the day (W,) that each begins on."""
    each = {name: metrics.points_of(p, metrics.METRICS["pinball_mgdl"]) for name, p in told.items()}
    squared = {name: metrics.points_of(p, metrics.METRICS["rmse_mgdl"]) for name, p in told.items()}
    day = next(iter(told.values())).time_utc.astype("datetime64[D]")
    return (
        {name: np.nanmean(x, axis=1) for name, x in each.items()},
        {name: float(np.sqrt(np.nanmean(x))) for name, x in squared.items()},
        day,
    )


def in_time(days: LabelledDays) -> tuple[LabelledDays, LabelledDays, LabelledDays]:
    """To train on, to choose by, held out: one after the other."""
    n = len(days)
    last = max(LEAST, round(SHARE * n))
    return days.take(slice(0, n - 2 * last)), days.take(slice(n - 2 * last, n - last)), days.take(slice(n - last, n))


def _trained(
    population: Model, baseline: Baseline, train: Any, val: Any, settings: Training, seed: int, on_epoch: OnEpoch
) -> tuple[PersonalLabel | PersonalForecast, int]:
    """The one path: an adapter on the population's model, in the one loop."""
    settings = settings.model_copy(update={"seed": seed})
    loop.seed_everything(seed)
    model = personal(population, baseline)
    trained = loop.train(model, train, val, settings, on_epoch=on_epoch)
    return model.eval(), len(trained.history)


@torch.inference_mode()
def _log_odds(model: Model, days: LabelledDays) -> np.ndarray:
    return np.concatenate([model.eval()(batch).score.double().numpy() for batch in days.windows.batches(16)])


def _described(days: LabelledDays) -> dict[str, Any]:
    first, last = str(days.date[0]), str(days.date[-1])
    return {"days": len(days), "with_label": int(days.windows.label.sum()), "first": first, "last": last}


def _of_person(run: Run, series: Series) -> Recipe:
    """The population's recipe, for the days of one person."""
    recipe = run.recipe
    assert isinstance(recipe.task, Forecasting), recipe.task
    total = len(series) * series.dt_s / DAY_S
    last = max(LEAST, round(SHARE * total))
    first = total - 2 * last
    person = {"subject": series.subjects[0], "history_days": first, "train_days": first, "val_days": last}
    return override(recipe, {"start": str(run.path), "split.kind": "person", "split.person": person})


def _lengths(series: Series) -> dict[str, list[int]]:
    return {series.subjects[0]: np.diff(series.offsets).tolist()}
