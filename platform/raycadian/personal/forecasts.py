"""A forecaster of glucose as one person's: the readings that came after are its labels."""

from typing import Any

import numpy as np

from raycadian.config import Recipe, Training, override
from raycadian.data.series import Series
from raycadian.data.split import make_split
from raycadian.evaluation.forecast import metrics
from raycadian.evaluation.forecast.predictions import Predictions
from raycadian.modalities.cgm.card import CGMCard
from raycadian.models.base import Model
from raycadian.personal.days import DAY_S, VALID_SHARE, Labels, glucose_days, read_recording, series_of
from raycadian.personal.store import PersonRecord
from raycadian.personal.task import (
    COMMON,
    HELD_OUT_SHARE,
    LEAST_DAYS,
    BaselineRule,
    CalibrationInputs,
    Parts,
    PersonalTask,
    PersonDays,
)  # fmt: skip
from raycadian.personal.verdict import Verdict, judge_forecasts
from raycadian.physiology.rhythms.daily import GLUCOSE, of_glucose
from raycadian.runs import Run
from raycadian.tasks import task_of
from raycadian.tasks.forecast import ForecastData, fit_mechanism_of, predict
from raycadian.types import SPLITS, Issues


class Forecasts(PersonalTask):
    """Readings of glucose, from which the model forecasts those that follow."""

    settings = Training(**COMMON, epochs=6, batch_size=64, lr=1e-3, weight_decay=0.01, early_stopping={"patience": 2})
    # days of sensor readings as reports ask for (Battelino et al., Diabetes Care 42:1593, 2019)
    rule = BaselineRule(GLUCOSE, of_glucose, 14, f"with {VALID_SHARE:.0%} of their readings")

    def __init__(self, run: Run):
        super().__init__(run)
        # of its data set a forecaster's run keeps the grid alone
        self.card = CGMCard(name="history", files=("history",), grid=self.preprocessing["grid"])

    def labels(self, inputs: CalibrationInputs, before: PersonRecord | None) -> Labels:
        """None. Raises ValueError where there are some."""
        if inputs.episodes is not None or inputs.channel is not None:
            raise ValueError(
                f"{self.run.name} forecasts glucose: the readings after it are its labels; leave out --episodes and "
                "--channel"
            )
        return {}

    def days(
        self, inputs: CalibrationInputs, before: PersonRecord | None, population: Model, issues: Issues
    ) -> PersonDays:
        recordings = read_recording(inputs.recording, inputs.subject, self.card, inputs.card, self.run.name, issues)
        series = series_of(recordings, self.run.recipe.window.past)
        return PersonDays(series, glucose_days(series), {})

    def parts(self, person: PersonDays, labels: Labels, issues: Issues) -> Parts:
        series, recipe = person.series, _of_person(self.run, person.series)
        split = make_split(series.lengths, recipe.split, "one person", series.dt_s)
        data = ForecastData("one person", series, split, grid=self.card.grid)
        mechanism = fit_mechanism_of(data, recipe)
        train, val, test = (task_of(recipe).windows(data, recipe, name, mechanism) for name in SPLITS)
        days = {"train": recipe.split.person.train_days, "val": recipe.split.person.val_days}
        days["held_out"] = len(series) * series.dt_s / DAY_S - sum(days.values())
        windows = zip(days.items(), (train, val, test), strict=True)
        described = {name: {"days": round(n, 2), "windows": len(cut)} for (name, n), cut in windows}
        return Parts(train, val, test, described, f"{int(person.days.valid.sum())} days of readings")

    def judge(self, model: Model, population: Model, parts: Parts) -> tuple[None, Verdict]:
        models = {"adapter": model, "population": population}
        predictions = {name: predict(one, parts.held_out, set()) for name, one in models.items()}
        return None, judge_forecasts(*_errors(predictions))


def _errors(predictions: dict[str, Predictions]) -> tuple[dict[str, np.ndarray], dict[str, float], np.ndarray]:
    """Of each model the mean pinball loss of each forecast (W,), and the RMSE; the day (W,) that each begins on."""
    pinball = {name: metrics.points_of(p, metrics.METRICS["pinball_mgdl"]) for name, p in predictions.items()}
    squared = {name: metrics.points_of(p, metrics.METRICS["rmse_mgdl"]) for name, p in predictions.items()}
    day = next(iter(predictions.values())).time_utc.astype("datetime64[D]")
    return (
        {name: np.nanmean(x, axis=1) for name, x in pinball.items()},
        {name: float(np.sqrt(np.nanmean(x))) for name, x in squared.items()},
        day,
    )


def _of_person(run: Run, series: Series) -> Recipe:
    """The population's recipe, for the days of one person."""
    total = len(series) * series.dt_s / DAY_S
    last = max(LEAST_DAYS, round(HELD_OUT_SHARE * total))
    first = total - 2 * last
    person: dict[str, Any] = {
        "subject": series.subjects[0], "history_days": first, "train_days": first, "val_days": last,
    }  # fmt: skip
    return override(run.recipe, {"start": str(run.path), "split.kind": "person", "split.person": person})
