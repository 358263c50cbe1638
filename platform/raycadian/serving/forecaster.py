"""From people's readings to forecasts: a run's model behind the code that cut its training windows. No Ray, no HTTP.

B people of a batch; L, H, Q as in types.py.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from raycadian import manifest
from raycadian.config import CMAMechanism, Grid, Window, signals_of
from raycadian.data.clock import CHANGED
from raycadian.data.grid import arrays_to_recordings, seconds
from raycadian.data.mechanism import Mechanism, fit_latest
from raycadian.data.series import Recordings, Series, build_series
from raycadian.data.training_range import TrainingRange
from raycadian.data.windows import latest, require_context
from raycadian.errors import CheckpointError
from raycadian.evaluation.forecast.event_probability import EventCalibration, probabilities, read_calibrations
from raycadian.files import read_json
from raycadian.modalities.cards import load_card
from raycadian.modalities.cgm.plausible import OUTSIDE
from raycadian.modalities.cgm.readers import read_person
from raycadian.modalities.cgm.request import PATH, ForecastRequest, History
from raycadian.models import checkpoint
from raycadian.models.base import Model, ModelSpec
from raycadian.personal.adapter import adapted
from raycadian.personal.store import PersonRecord
from raycadian.physiology.cma.fit import CMAFit
from raycadian.physiology.cma.meals import Meal, difference_mgdl, usual_meals
from raycadian.runs import Run
from raycadian.serving import plausible
from raycadian.serving.forecast import Forecast, WhatIf
from raycadian.serving.plausible import Numbers, clipped
from raycadian.serving.predictor import NotServed, Predictor
from raycadian.types import CARBS, GLUCOSE, PLANNED, TIME_UTC, Batch, Issues, Prediction, Recording

_NOTHING_MGDL = 1e-3  # a change of the mechanism that no forecast need show
_FITS = 4096  # people whose fits are remembered, about 1 kB each


class Forecaster(Predictor):
    """A run's model with its grid, window and mechanism: answers batches of people at once."""

    path, batched = PATH, True

    def __init__(
        self, name: str, model: Model, grid: Grid, window: Window, mechanism: CMAMechanism | None = None,
        population: dict[str, Any] | None = None, lows: Sequence[EventCalibration] = (),
        personal: dict[str, Any] | None = None, seen: TrainingRange | None = None,
    ):  # fmt: skip
        """`name`: the run. `population`: the mechanism's fit that serves people without one of their own. `lows`: what
        the run's validation data allowed to calibrate. `personal`: what an answer says of the adapter in the model.
        `seen`: what the model was trained on."""
        # in float64 a person's forecast is the same in any batch, so that it equals the scored one to 1e-5 mg/dL
        self.name, self.model = name, model.double().eval()
        self.grid, self.window, self.mechanism, self.population = grid, window, mechanism, population
        self.lows, self.personal, self.seen = lows, personal, seen or TrainingRange()
        self._any_length = grid.model_copy(update={"min_points": 1})
        self._fits = Recent(_FITS)

    @staticmethod
    def load(run_path: Path | str) -> "Forecaster":
        """The forecaster of a complete run. Raises ValueError for what is missing or damaged."""
        run = Run(Path(run_path))
        folder = run.path / "checkpoint"
        model = checkpoint.load(folder)
        if model.spec.task != "forecast":
            raise NotServed(f"{run.name} does not forecast but {model.spec.task}: serve it and ask /v1/biosignal")
        if model.spec.past[0] != GLUCOSE:
            raise NotServed(f"{run.name} forecasts {model.spec.past[0]}: the endpoint takes readings of glucose alone")
        manifest.require_intact(run.path, "event_calibration.json")
        raw = read_json(folder / "preprocessing.json")
        try:
            mechanism = None if raw["mechanism"] is None else CMAMechanism.model_validate(raw["mechanism"])
            grid, window = Grid.model_validate(raw["grid"]), Window.model_validate(raw["window"])
            _require_of_one_model(model.spec, grid, window, mechanism, raw["population"])
            lows = read_calibrations(run.path / "event_calibration.json")
            seen = TrainingRange.read(raw.get("training_range"))
            return Forecaster(run.name, model, grid, window, mechanism, raw["population"], lows, seen=seen)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder}/preprocessing.json: damaged: {error}; copy the run again") from error

    def personalised(self, person: PersonRecord, weights: Mapping[str, Tensor]) -> "Forecaster":
        """As Predictor.personalised; `lows` were calibrated for the population's model and are left out."""
        return Forecaster(
            self.name, adapted(self.model, person, weights), self.grid, self.window, self.mechanism, self.population,
            personal=person.described, seen=self.seen,
        )  # fmt: skip

    def read(self, path: Path, card: Path | None = None) -> History:
        """One person's history from a file of any known format. Raises ValueError."""
        return read_history(path, card)

    def example(self) -> dict[str, Any]:
        body = ForecastRequest.example_of(self.window.past, self.window.context * self.model.spec.dt_min * 60)
        return body if self.mechanism else {name: value for name, value in body.items() if name != "what_if"}

    def example_request(self) -> History:
        return ForecastRequest.model_validate_json(json.dumps(self.example())).data()

    def answer_to(self, batch: Batch, row: int) -> np.ndarray | None:
        """Of the glucose in the window alone: None where the model takes more than that, or where points of it are
        filled in."""
        readings, whole = history_of(batch, row, self.model.spec.dt_min)
        quantiles = self.answer(readings).quantiles
        known = self.mechanism is None and self.window.past == (GLUCOSE,) and PLANNED not in self.window.known
        return quantiles if whole and known else None

    def within(self, prediction: np.ndarray) -> np.ndarray:
        return clipped(prediction)

    def _answers(self, requests: Sequence[History]) -> list[Forecast | ValueError]:
        """One pass of the model for all."""
        answers: list[Any] = [self._gridded(history) for history in requests]
        ready = [i for i, person in enumerate(answers) if isinstance(person, _Gridded)]
        if ready:
            for i, forecast in zip(ready, self._forecast([answers[i] for i in ready]), strict=True):
                answers[i] = forecast
        return answers

    def _gridded(self, history: History) -> "_Gridded | ValueError":
        """One history on the grid of the training data, ending at a reading."""
        issues = Issues(dict(history.issues.counts), dict(history.issues.examples))
        history = self._on_one_clock(history, issues)
        try:
            recordings = self._recordings(history, issues)
            require_context(recordings[-1].observed, self.window, recordings[-1].dt_s)
            self._judge(history, issues)
        except ValueError as error:
            return error
        filled = int((~recordings[-1].observed[-self.window.context :]).sum())
        issues.add("point of the context without a reading (interpolated or carried forward)", n=filled)
        plan = self._plan(history, recordings[-1])
        return _Gridded(history.subject, recordings, issues.counts, plan, history.what_if)

    def _on_one_clock(self, history: History, issues: Issues) -> History:
        """With the context on the clock of the last reading: a change within it (DST, travel) ends a training
        recording, but a person's forecast only moves their hours by as much."""
        measured = np.flatnonzero(np.isfinite(history.glucose_mgdl))
        if not len(measured):
            return history
        time_s, offset_min = history.time_s, history.utc_offset_min
        last = measured[np.argmax(time_s[measured])]
        first_s = time_s[last] - (self.window.context - 1) * self.model.spec.dt_min * 60.0
        before_s = np.where(np.isfinite(history.glucose_mgdl) & (time_s <= first_s), time_s, time_s.min())
        moved = (time_s >= before_s.max()) & (offset_min != offset_min[last])
        issues.add(CHANGED, n=int(moved[measured].sum()))
        return replace(history, utc_offset_min=np.where(moved, offset_min[last], offset_min))

    def _judge(self, history: History, issues: Issues) -> None:
        """Count what in the context is no glucose's, or unlike the training data. Raises ValueError where nothing can
        be said of it."""
        measured = np.isfinite(history.glucose_mgdl)
        last_s = history.time_s[measured].max()
        recent = measured & (history.time_s > last_s - self.window.context * self.model.spec.dt_min * 60.0)
        glucose = history.glucose_mgdl[recent]
        issues.add(plausible.JUMP, n=plausible.jumps(history.time_s[recent], glucose))
        issues.add(plausible.SWING, n=plausible.swings(history.time_s[recent], glucose))
        issues.add(plausible.UNLIKE, n=int(self.seen.outside(GLUCOSE, glucose).sum()))

    def _plan(self, history: History, last: Recording) -> np.ndarray:
        """Carbohydrate after the last reading, (H,) grams, on the first step at or after each meal, as in a
        recording."""
        origin_s = last.start_utc.astype(np.int64) + (len(last) - 1) * last.dt_s
        events = pd.DataFrame({TIME_UTC: [], "kind": [], "value": []}) if history.events is None else history.events
        meals = events[events["kind"] == CARBS]
        step = np.ceil((seconds(meals[TIME_UTC]) - origin_s) / last.dt_s).astype(np.int64) - 1
        soon = (step >= 0) & (step < self.window.horizon)
        return np.bincount(step[soon], meals["value"].to_numpy(np.float64)[soon], self.window.horizon)

    def _recordings(self, history: History, issues: Issues) -> list[Recording]:
        """As in a snapshot; of the last recording the shortness does not matter, and its end is its last reading."""
        recordings = arrays_to_recordings(
            history.subject or "", history.time_s, history.glucose_mgdl, history.utc_offset_min, history.events,
            self._any_length, issues,
        )  # fmt: skip
        if not recordings:
            outside = issues.counts.get(OUTSIDE, 0)
            why = f" ({outside} lie outside 20-600 mg/dL: check their unit)" if outside else ""
            n, fewest = len(history.time_s), self.window.context
            raise ValueError(f"no glucose reading in {n} rows{why}; send at least {fewest}")
        return [r for r in recordings[:-1] if len(r) >= self.grid.min_points] + recordings[-1:]

    @torch.inference_mode()
    def _forecast(self, people: list["_Gridded"]) -> list[Forecast | ValueError]:
        series = build_series(_numbered(people), self.window.past)
        mechanism = self._fitted(series)
        batch = latest(series, self.window, mechanism, np.stack([person.plan for person in people]))
        usual = _numbers(self.model(batch))
        with_meals = [i for i, person in enumerate(people) if person.what_if is not None]
        others = self._under_other_meals(people, with_meals, batch, mechanism, usual) if with_meals else {}
        origin = batch["time_s"].numpy().astype("datetime64[s]")
        fits = [None] * len(people) if mechanism is None else mechanism.fit_of
        return [
            self._answer(person, origin[i], series.dt_s, usual[i], _whose(fits[i]), others.get(i))
            for i, person in enumerate(people)
        ]

    def _answer(
        self, person: "_Gridded", origin: np.datetime64, dt_s: float, usual: Numbers, fit: str | None,
        other: WhatIf | ValueError | None,
    ) -> Forecast | ValueError:  # fmt: skip
        if isinstance(other, ValueError):
            return other
        try:
            usual, n_bounded = self._bounded(usual)
        except ValueError as error:
            return error
        warnings = person.warnings | ({plausible.BEYOND: n_bounded} if n_bounded else {})
        forecast = Forecast(
            person.subject, self.name, origin, person.recordings[-1].utc_offset_min, dt_s, self.model.spec.quantiles,
            usual.quantiles, usual.parts, fit, warnings, other, personal=self.personal,
        )  # fmt: skip
        return replace(forecast, lows={name: float(p) for name, p in probabilities(forecast, self.lows).items()})

    def _bounded(self, forecast: Numbers) -> tuple[Numbers, int]:
        """As plausible.bounded. Raises ValueError also for a forecast that is no number."""
        if not np.isfinite(forecast.quantiles).all():
            raise ValueError("the model gives no finite forecast for these readings; check them for constant stretches")
        return plausible.bounded(forecast, self.model.spec.middle)

    def _under_other_meals(
        self, people: list["_Gridded"], rows: list[int], batch: Batch, mechanism: Mechanism | None,
        usual: list[Numbers],
    ) -> dict[int, WhatIf | ValueError]:  # fmt: skip
        """Of those `rows` of the batch the forecasts under their meals: the model once more, on a mechanism that
        differs after the origin alone."""
        if mechanism is None:
            return dict.fromkeys(rows, self._no_meals())
        changed = {name: value[rows] for name, value in batch.items()}
        fits = [CMAFit.from_records([mechanism.records[mechanism.fit_of[i]]]) for i in rows]
        meals = [people[i].what_if or () for i in rows]
        change = self._change(fits, changed["local_h"].tolist(), meals).to(changed["mechanism"])
        changed["mechanism"] = changed["mechanism"] + change
        shows = (change.abs().amax(dim=1) > _NOTHING_MGDL).tolist()
        parts = zip(rows, fits, meals, shows, _numbers(self.model(changed)), strict=True)
        return {i: self._what_if(fit, eaten, shown, usual[i], other) for i, fit, eaten, shown, other in parts}

    def _what_if(
        self, fit: CMAFit, meals: tuple[Meal, ...], shown: bool, usual: Numbers, other: Numbers
    ) -> WhatIf | ValueError:
        """`shown`: the meals change the mechanism, so the forecast has to change too."""
        try:
            (other, _), (usual, _) = self._bounded(other), self._bounded(usual)
        except ValueError as error:
            return error
        median, before = (x.quantiles[:, self.model.spec.middle] for x in (other, usual))
        if shown and np.array_equal(median, before):
            return self._no_meals()
        return WhatIf(usual_meals(fit), meals, other.quantiles, other.parts, median, median - before)

    def _change(self, fits: list[CMAFit], origin_h: list[float], meals: list[tuple[Meal, ...]]) -> Tensor:
        """Of the mechanism, (B, L+H) mg/dL; 0 over the context."""
        context, horizon = self.window.context, self.window.horizon
        since_h = (self.model.spec.dt_min / 60.0) * torch.arange(1, horizon + 1, dtype=torch.float64)
        rows = [
            difference_mgdl(fit, hour, since_h, eaten) for fit, hour, eaten in zip(fits, origin_h, meals, strict=True)
        ]
        return torch.cat([torch.zeros(len(rows), context), torch.stack(rows)], 1)

    def _no_meals(self) -> ValueError:
        return ValueError(
            f"{self.name} can't say what other meals would change: its forecast does not hang on the mechanism's "
            "meals; use a run of a model that contains it, such as cma or residual"
        )

    def _fitted(self, series: Series) -> Mechanism | None:
        if self.mechanism is None:
            return None
        window = self.window
        return fit_latest(
            series, self.mechanism, window.context, window.context + window.horizon, population=self.population,
            known=self._fits, signals=signals_of(self.model.config),
        )  # fmt: skip


class Recent(OrderedDict):
    """A mapping that forgets what was not used for longest, once it holds more than `most`."""

    def __init__(self, most: int):
        super().__init__()
        self._most = most

    def get(self, key: Any, default: Any = None) -> Any:
        if key in self:
            self.move_to_end(key)
        return super().get(key, default)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        if len(self) > self._most:
            self.popitem(last=False)


def history_of(batch: Batch, row: int, dt_min: float) -> tuple[History, bool]:
    """The readings of a window as somebody would send them, and whether nothing of it was filled in."""
    measured = batch["past_mask"][row, :, 0].numpy().astype(bool)
    end_s, clock_h = int(batch["time_s"][row]), float(batch["local_h"][row])
    before = np.arange(len(measured) - 1, -1, -1)[measured]
    ahead_min = round(60 * (clock_h - end_s / 3600)) % 1440
    offset_min = np.full(len(before), ahead_min if ahead_min <= 840 else ahead_min - 1440)
    glucose = batch["past"][row, :, 0].numpy().astype(np.float64)[measured]
    return History(None, end_s - (60 * dt_min * before).astype(np.int64), glucose, offset_min), bool(measured.all())


def read_history(path: Path, card: Path | None = None) -> History:
    """One person's history from a file of any known format. Raises ValueError."""
    issues = Issues()
    return History.of(read_person(path, load_card(card) if card else None, issues), issues)


def _not_finite() -> ValueError:
    return ValueError("the model gives no finite forecast for these readings; check them for constant stretches")


def _require_of_one_model(
    spec: ModelSpec, grid: Grid, window: Window, mechanism: CMAMechanism | None, population: Any
) -> None:
    """Raises ValueError where the preparation is another model's, or lacks the fit that serves new people."""
    cut = (window.context, window.horizon, grid.dt_min, window.past, window.known)
    fits = (spec.context, spec.horizon, spec.dt_min, spec.past, spec.known)
    if cut != fits:
        raise ValueError(f"windows of {cut} (context, horizon, dt_min, past, known), the model takes {fits}")
    if mechanism is not None and not isinstance(population, dict):
        raise ValueError("population: expected the mechanism's fit, which serves whoever has none of their own")
    if mechanism is not None and CMAFit.from_records([population]).tM.shape[-1] != mechanism.meals:
        raise ValueError(f"the population's fit is not one of {mechanism.meals} meals")


def _whose(fit: int | None) -> str | None:
    """Whose mechanism served, by the number of its fit; the first is the population's."""
    return None if fit is None else "own" if fit else "population"


def _numbers(prediction: Prediction) -> list[Numbers]:
    quantiles = prediction.quantiles.numpy()
    parts = {name: part.numpy() for name, part in prediction.parts.items()}
    return [Numbers(q, {name: part[i] for name, part in parts.items()}) for i, q in enumerate(quantiles)]


@dataclass(frozen=True)
class _Gridded:
    """A history on its grid, and the carbohydrate planned for the horizon."""

    subject: str | None
    recordings: list[Recording]
    warnings: dict[str, int]
    plan: np.ndarray
    what_if: tuple[Meal, ...] | None


def _numbered(people: list[_Gridded]) -> Recordings:
    """People of one batch by number, since two requests may name the same subject."""
    return Recordings(
        "request",
        {str(i): [replace(r, subject=str(i)) for r in person.recordings] for i, person in enumerate(people)},
    )
