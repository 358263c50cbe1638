"""From one person's readings to a forecast: a run's model behind the code that cut its training windows. No Ray, no HTTP.

M readings of a person, B people of a batch; L, H, Q as in types.py.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from raycadian.config import CMAMechanism, Grid, Window, signals_of
from raycadian.data.grid import arrays_to_recordings, seconds
from raycadian.data.mechanism import Mechanism, fit_latest
from raycadian.data.series import build_series
from raycadian.data.windows import latest, require_context
from raycadian.evaluation.forecast.event_probability import EventCalibration, read_calibrations
from raycadian.modalities.cards import load_card
from raycadian.modalities.cgm.readers import read_person
from raycadian.models import checkpoint
from raycadian.models.base import Model
from raycadian.physiology.cma.fit import CMAFit
from raycadian.physiology.cma.meals import Meal, difference_mgdl, usual_meals
from raycadian.training.run import Run
from raycadian.types import CARBS, GLUCOSE, TIME_UTC, Batch, Issues, Prediction, Readings, Recording

NOTE = "A statistical forecast for research: not a medical device, not a diagnosis, no basis for treatment."
WHAT_IF_NOTE = (
    "What the model associates with other meals, not what they would cause: its meals are the usual ones as estimated from "
    "glucose, everybody's have one shape, and a size is relative to the usual meal nearest on the clock. Only what follows "
    "the last reading changes; insulin, activity and the learned correction, where there is one, stay as they are."
)
_NOTHING_MGDL = 1e-3  # a change of the mechanism that no forecast need show
_DECIMALS = 6  # of mg/dL in answers
_FITS = 4096  # people whose fits are remembered, about 1 kB each


@dataclass(frozen=True)
class History:
    """One person's past in plain arrays, in any order.

    subject may be None · time_s (M,) int64 UTC seconds · glucose_mgdl (M,) float64, NaN = no reading · utc_offset_min (M,) int64 ·
    events: as in Readings, or none · issues: what was repaired on the way here · what_if: meals after the last reading
    in place of the usual ones, of which a forecast is wanted too (none: no such question; empty: nothing is eaten).
    """

    subject: str | None
    time_s: np.ndarray
    glucose_mgdl: np.ndarray
    utc_offset_min: np.ndarray
    events: pd.DataFrame | None = None
    issues: Issues = field(default_factory=Issues)
    what_if: tuple[Meal, ...] | None = None

    @staticmethod
    def of(readings: Readings, issues: Issues | None = None) -> "History":
        glucose = readings.glucose
        return History(
            readings.subject, seconds(glucose[TIME_UTC]), glucose[GLUCOSE].to_numpy(np.float64),
            glucose["utc_offset_min"].to_numpy(np.int64), readings.events, issues or Issues(),
        )  # fmt: skip


@dataclass(frozen=True)
class WhatIf:
    """The same forecast under other meals, in mg/dL: quantiles (H, Q), parts name -> (H,), difference (H,) of the medians,
    this less the usual. `usual`: the meals that the mechanism takes for granted."""

    usual: tuple[Meal, ...]
    meals: tuple[Meal, ...]
    quantiles: np.ndarray
    parts: dict[str, np.ndarray]
    median: np.ndarray
    difference: np.ndarray

    def as_dict(self, levels: tuple[float, ...]) -> dict[str, Any]:
        return {
            "usual_meals": [m.clock for m in self.usual],
            "meals": [{"time": m.clock, "size": m.size} for m in self.meals],
            "median_mgdl": _plain(self.median),
            "quantiles_mgdl": _by_level(levels, self.quantiles),
            "parts_mgdl": {name: _plain(part) for name, part in self.parts.items()},
            "difference_mgdl": _plain(self.difference),
            "note": WHAT_IF_NOTE,
        }


@dataclass(frozen=True)
class Forecast:
    """What is expected after a person's last reading, in mg/dL.

    origin_utc: the last context point, datetime64[s] · quantiles (H, Q) at `levels` · parts name -> (H,), which add up
    to the median · fit: whose mechanism served, "own" or "population" (None: no mechanism) · warnings: repairs, counted ·
    lows: "hypo70", "hypo54" -> calibrated probability of a value below at any step, where the run could calibrate it.
    """

    subject: str | None
    model: str
    origin_utc: np.datetime64
    utc_offset_min: int
    dt_s: float
    levels: tuple[float, ...]
    quantiles: np.ndarray
    parts: dict[str, np.ndarray]
    fit: str | None
    warnings: dict[str, int]
    what_if: WhatIf | None = None
    lows: dict[str, float] = field(default_factory=dict)
    personal: dict[str, Any] | None = None

    @property
    def title(self) -> str:
        told = f"forecast for {self.subject or 'one person'} from {self.origin_utc}Z by {self.model}; mg/dL. {NOTE}"
        if self.lows:
            told += "\nprobability of a low: " + ", ".join(f"{name} {p:.0%}" for name, p in self.lows.items())
        if self.what_if is None:
            return told
        usual, other = (", ".join(map(str, meals)) or "none" for meals in (self.what_if.usual, self.what_if.meals))
        return f"{told}\nwhat_if: meals {other} instead of {usual}. {WHAT_IF_NOTE}"

    @property
    def time_utc(self) -> np.ndarray:
        """(H,) datetime64[s]."""
        steps = np.arange(1, len(self.quantiles) + 1) * self.dt_s
        return self.origin_utc + steps.astype("timedelta64[s]")

    @property
    def median(self) -> np.ndarray:
        """(H,): the point forecast."""
        return self.quantiles[:, self.levels.index(0.5)]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as the endpoint answers."""
        utc, zone = self.time_utc, _zone(self.utc_offset_min)
        local = utc + np.timedelta64(self.utc_offset_min, "m")
        return {
            "subject": self.subject,
            "model": self.model,
            "origin_utc": f"{self.origin_utc}Z",
            "time_utc": [t + "Z" for t in np.datetime_as_string(utc).tolist()],
            "time_local": [t + zone for t in np.datetime_as_string(local).tolist()],
            "median_mgdl": _plain(self.median),
            "quantiles_mgdl": _by_level(self.levels, self.quantiles),
            "parts_mgdl": {name: _plain(part) for name, part in self.parts.items()},
            "probability": {name: round(p, 4) for name, p in self.lows.items()},
            "mechanism_fit": self.fit,
            "what_if": self.what_if and self.what_if.as_dict(self.levels),
            "warnings": self.warnings,
            "note": NOTE,
        } | ({} if self.personal is None else {"personal": self.personal})

    def as_frame(self) -> pd.DataFrame:
        """One row a step."""
        found = self.as_dict()
        columns = {"time_local": found["time_local"], "median": found["median_mgdl"]}
        columns |= {f"q{level}": values for level, values in found["quantiles_mgdl"].items()}
        other = found["what_if"]
        asked = {"what_if": other["median_mgdl"], "difference": other["difference_mgdl"]} if other else {}
        return pd.DataFrame(columns | found["parts_mgdl"] | asked)


class Forecaster:
    """A run's model with its grid, window and mechanism: answers batches of people at once."""

    def __init__(
        self, name: str, model: Model, grid: Grid, window: Window, mechanism: CMAMechanism | None = None,
        population: dict[str, Any] | None = None, lows: Sequence[EventCalibration] = (),
    ):  # fmt: skip
        """`name`: the run. `population`: the mechanism's fit that serves people without one of their own. `lows`: what the
        run's validation data allowed to calibrate."""
        # in float64 a person's forecast is the same in any batch, so that it equals the scored one to 1e-5 mg/dL
        self.name, self.model = name, model.double().eval()
        self.grid, self.window, self.mechanism, self.population = grid, window, mechanism, population
        self.lows = lows
        self._any_length = grid.model_copy(update={"min_points": 1})
        self._fits = Recent(_FITS)

    @staticmethod
    def load(run_path: Path | str) -> "Forecaster":
        """The forecaster of a complete run. Raises ValueError for what is missing or damaged."""
        run = Run(Path(run_path))
        folder = run.path / "checkpoint"
        model = checkpoint.load(folder)
        if model.spec.task != "forecast":
            raise ValueError(f"{run.name} does not forecast but {model.spec.task}: serve it and ask /v1/biosignal")
        if model.spec.past[0] != GLUCOSE:
            raise ValueError(f"{run.name} forecasts {model.spec.past[0]}: the endpoint takes readings of glucose alone")
        raw = _read_preprocessing(folder / "preprocessing.json")
        try:
            mechanism = None if raw["mechanism"] is None else CMAMechanism.model_validate(raw["mechanism"])
            grid, window = Grid.model_validate(raw["grid"]), Window.model_validate(raw["window"])
            lows = read_calibrations(run.path / "event_calibration.json")
            return Forecaster(run.name, model, grid, window, mechanism, raw["population"], lows)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder}/preprocessing.json: damaged: {error}; copy the run again") from error

    def forecast(self, history: History) -> Forecast:
        """One person's forecast. Raises ValueError where the history can't be forecast from."""
        (found,) = self.forecast_batch([history])
        if isinstance(found, ValueError):
            raise found
        return found

    def what_if(self, history: History, meals: Sequence[Meal]) -> Forecast:
        """One person's forecast, and in its `what_if` the same if after the last reading `meals` were eaten instead of
        the usual ones. Raises ValueError as `forecast`, and where the model's forecast does not hang on meal times."""
        return self.forecast(replace(history, what_if=tuple(meals)))

    def forecast_batch(self, histories: Sequence[History]) -> list[Forecast | ValueError]:
        """A forecast or the reason against one for each history, in order: one pass of the model for all."""
        found: list[Any] = [self._gridded(h) for h in histories]
        ready = [i for i, person in enumerate(found) if isinstance(person, _Person)]
        if ready:
            for i, forecast in zip(ready, self._forecast([found[i] for i in ready]), strict=True):
                found[i] = forecast
        return found

    def _gridded(self, history: History) -> "_Person | ValueError":
        """One history on the grid of the training data, ending at a reading."""
        issues = Issues(dict(history.issues.counts), dict(history.issues.examples))
        try:
            recordings = self._recordings(history, issues)
            require_context(recordings[-1].observed, self.window, recordings[-1].dt_s)
        except ValueError as error:
            return error
        filled = int((~recordings[-1].observed[-self.window.context :]).sum())
        issues.add("point of the context without a reading (interpolated or carried forward)", n=filled)
        plan = self._plan(history, recordings[-1])
        return _Person(history.subject, recordings, issues.counts, plan, history.what_if)

    def _plan(self, history: History, last: Recording) -> np.ndarray:
        """Carbohydrate after the last reading, (H,) grams, on the first step at or after each meal, as in a recording."""
        origin_s = last.start_utc.astype(np.int64) + (len(last) - 1) * last.dt_s
        events = pd.DataFrame({TIME_UTC: [], "kind": [], "value": []}) if history.events is None else history.events
        meals = events[events["kind"] == CARBS]
        step = np.ceil((seconds(meals[TIME_UTC]) - origin_s) / last.dt_s).astype(np.int64) - 1
        soon = (step >= 0) & (step < self.window.horizon)
        return np.bincount(step[soon], meals["value"].to_numpy(np.float64)[soon], self.window.horizon)

    def _recordings(self, history: History, issues: Issues) -> list[Recording]:
        """As in a snapshot; of the last recording the shortness does not matter, and its end is its last reading."""
        found = arrays_to_recordings(
            history.subject or "", history.time_s, history.glucose_mgdl, history.utc_offset_min, history.events,
            self._any_length, issues,
        )  # fmt: skip
        if not found:
            raise ValueError(f"no glucose reading in {len(history.time_s)} rows; send at least {self.window.context}")
        return [r for r in found[:-1] if len(r) >= self.grid.min_points] + found[-1:]

    @torch.inference_mode()
    def _forecast(self, people: list["_Person"]) -> list[Forecast | ValueError]:
        series = build_series(_Source(people), self.window.past)
        mechanism = self._fitted(series)
        batch = latest(series, self.window, mechanism, np.stack([person.plan for person in people]))
        usual = _numbers(self.model(batch))
        asked = [i for i, person in enumerate(people) if person.what_if is not None]
        others = self._under_other_meals(people, asked, batch, mechanism, usual) if asked else {}
        origin = batch["time_s"].numpy().astype("datetime64[s]")
        found: list[Forecast | ValueError] = []
        for i, person in enumerate(people):
            other = others.get(i)
            if isinstance(other, ValueError):
                found.append(other)
            elif np.isfinite(usual[i].quantiles).all():
                fit = None if mechanism is None else "own" if mechanism.fit_of[i] else "population"
                forecast = Forecast(
                    person.subject, self.name, origin[i], person.recordings[-1].utc_offset_min, series.dt_s,
                    self.model.spec.quantiles, usual[i].quantiles, usual[i].parts, fit, person.warnings, other,
                )  # fmt: skip
                lows = {one.excursion: float(one.probability(forecast)) for one in self.lows}
                found.append(replace(forecast, lows=lows))
            else:
                found.append(_not_finite())
        return found

    def _under_other_meals(
        self, people: list["_Person"], asked: list[int], batch: Batch, mechanism: Mechanism | None,
        usual: list["_Numbers"],
    ) -> dict[int, WhatIf | ValueError]:  # fmt: skip
        """The forecasts of those who asked, under their meals: the model once more, on a mechanism that differs after the
        origin alone."""
        if mechanism is None:
            return dict.fromkeys(asked, self._no_meals())
        changed = {name: value[asked] for name, value in batch.items()}
        fits = [CMAFit.from_records([mechanism.records[mechanism.fit_of[i]]]) for i in asked]
        meals = [people[i].what_if or () for i in asked]
        change = self._change(fits, changed["local_h"].tolist(), meals).to(changed["mechanism"])
        changed["mechanism"] = changed["mechanism"] + change
        found: dict[int, WhatIf | ValueError] = {}
        for row, (i, other) in enumerate(zip(asked, _numbers(self.model(changed)), strict=True)):
            median, before = (x.quantiles[:, self.model.spec.middle] for x in (other, usual[i]))
            if not np.isfinite(other.quantiles).all():
                found[i] = _not_finite()
            elif change[row].abs().max() > _NOTHING_MGDL and np.array_equal(median, before):
                found[i] = self._no_meals()
            else:
                found[i] = WhatIf(
                    usual_meals(fits[row]), meals[row], other.quantiles, other.parts, median, median - before
                )
        return found

    def _change(self, fits: list[CMAFit], origin_h: list[float], meals: list[tuple[Meal, ...]]) -> torch.Tensor:
        """Of the mechanism, (B, L+H) mg/dL; 0 over the context."""
        context, horizon = self.window.context, self.window.horizon
        since_h = (self.model.spec.dt_min / 60.0) * torch.arange(1, horizon + 1, dtype=torch.float64)
        rows = [difference_mgdl(*asked, since_h, other) for *asked, other in zip(fits, origin_h, meals, strict=True)]
        return torch.cat([torch.zeros(len(rows), context), torch.stack(rows)], 1)

    def _no_meals(self) -> ValueError:
        return ValueError(
            f"{self.name} can't say what other meals would change: its forecast does not hang on the mechanism's meals; "
            "use a run of a model that contains it, such as cma or residual"
        )

    def _fitted(self, series: Any) -> Mechanism | None:
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


def read_history(path: Path, card: Path | None = None) -> History:
    """One person's history from a file of any known format. Raises ValueError."""
    issues = Issues()
    return History.of(read_person(path, load_card(card) if card else None, issues), issues)


def _not_finite() -> ValueError:
    return ValueError("the model gives no finite forecast for these readings; check them for constant stretches")


class _Numbers(NamedTuple):
    """One forecast: quantiles (H, Q), parts name -> (H,)."""

    quantiles: np.ndarray
    parts: dict[str, np.ndarray]


def _numbers(prediction: Prediction) -> list[_Numbers]:
    quantiles = prediction.quantiles.numpy()
    parts = {name: part.numpy() for name, part in prediction.parts.items()}
    return [_Numbers(q, {name: part[i] for name, part in parts.items()}) for i, q in enumerate(quantiles)]


@dataclass(frozen=True)
class _Person:
    """A history on its grid, and the carbohydrate planned for the horizon."""

    subject: str | None
    recordings: list[Recording]
    warnings: dict[str, int]
    plan: np.ndarray
    what_if: tuple[Meal, ...] | None


class _Source:
    """People of one batch as a source of a series; by number, since two requests may name the same subject."""

    id = "request"

    def __init__(self, people: list[_Person]):
        self._people = people
        self.subjects = [str(i) for i in range(len(people))]

    def recordings(self, subject: str) -> list[Recording]:
        return [replace(r, subject=subject) for r in self._people[int(subject)].recordings]


def _read_preprocessing(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not readable ({error}); expected the folder of a complete run") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: expected an object, found {type(raw).__name__}")
    return raw


def _by_level(levels: tuple[float, ...], quantiles: np.ndarray) -> dict[str, list[float]]:
    return {f"{q:g}": v for q, v in zip(levels, _plain(quantiles.T), strict=True)}


def _plain(values: np.ndarray) -> Any:
    return np.round(values.astype(np.float64), _DECIMALS).tolist()


def _zone(offset_min: int) -> str:
    hours, minutes = divmod(abs(offset_min), 60)
    return f"{'-' if offset_min < 0 else '+'}{hours:02}:{minutes:02}"
