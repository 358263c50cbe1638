"""What POST /v1/forecast takes and gives, with its limits, and the readings in plain arrays.

Times are RFC 3339. One without an offset is local to `timezone` or `utc_offset_min`, and UTC where neither is given;
one with an offset is taken as it says, and its local hour by `timezone` or `utc_offset_min` where given. In the hour
that happens twice in autumn local times are told by the order of the list, oldest or newest first.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Required

import numpy as np
import pandas as pd
from pydantic import BaseModel, FailFast, Field, field_validator, model_validator
from typing_extensions import TypedDict

from raycadian.config.units import known_zone
from raycadian.data import clock
from raycadian.data.grid import seconds
from raycadian.modalities.cgm.builder import MGDL, MMOLL, contradicts, mgdl_of
from raycadian.modalities.cgm.plausible import OUTSIDE
from raycadian.modalities.request import ANSWER, STRICT, RequestSchema
from raycadian.types import (
    BASAL,
    BOLUS,
    CARBS,
    GLUCOSE,
    GLUCOSE_MAX_MGDL,
    GLUCOSE_MIN_MGDL,
    TIME_UTC,
    Issues,
    Readings,
)  # fmt: skip

if TYPE_CHECKING:  # with torch
    from raycadian.physiology.cma.meals import Meal as OtherMeal

PATH = "/v1/forecast"
MAX_BYTES = 1_000_000
MAX_READINGS = 20_000  # 69 days at 5 minutes; a forecast looks back 21 days at most
MAX_EVENTS = 20_000
MAX_MEALS = 12  # of a what-if
FORECAST_NOTE = "A statistical forecast for research: not a medical device, not a diagnosis, no basis for treatment."
WHAT_IF_NOTE = (
    "What the model associates with other meals, not what they would cause: its meals are the usual ones as estimated "
    "from glucose, everybody's have one shape, and a size is relative to the usual meal nearest on the clock. Only "
    "what follows the last reading changes; insulin, activity and the learned correction, where there is one, stay as "
    "they are."
)


@dataclass(frozen=True)
class History:
    """One person's past in plain arrays, in any order.

    subject may be None · time_s (M,) int64 UTC seconds · glucose_mgdl (M,) float64, NaN = no reading · utc_offset_min
    (M,) int64 · events: as in Readings, or none · issues: what was repaired on the way here · what_if: meals after the
    last reading in place of the usual ones, of which a forecast is wanted too (none: no such question; empty: nothing
    is eaten).
    """

    path: ClassVar[str] = PATH
    subject: str | None
    time_s: np.ndarray
    glucose_mgdl: np.ndarray
    utc_offset_min: np.ndarray
    events: pd.DataFrame | None = None
    issues: Issues = field(default_factory=Issues)
    what_if: tuple[OtherMeal, ...] | None = None

    @staticmethod
    def of(readings: Readings, issues: Issues | None = None) -> "History":
        glucose = readings.glucose
        return History(
            readings.subject, seconds(glucose[TIME_UTC]), glucose[GLUCOSE].to_numpy(np.float64),
            glucose["utc_offset_min"].to_numpy(np.int64), readings.events, issues or Issues(),
        )  # fmt: skip


_WHOLE = len("2026-03-02T06:00:00")
_MARKS = [4, 7, 10, 13, 16]  # where its marks stand
_OFFSET = re.compile(r"(?:\.\d{1,9})?(Z|[+-](?:0\d|1[0-4]):[0-5]\d)?")  # after the seconds; a fraction is dropped
_YEARS = "1990", "2100"  # a clock that was never set is outside
# the form is checked for all times at once (`_clocks`): a pattern here would take most of a request's time
Time = Annotated[
    str,
    Field(max_length=40, description="RFC 3339 with seconds; the offset may be left out", json_schema_extra={
        "format": "date-time",
        "pattern": r"^(19|20)\d{2}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})?$",
    }),
]  # fmt: skip


class Reading(TypedDict):  # not a model: a request holds thousands, and dictionaries are read twice as fast
    __pydantic_config__ = STRICT
    time: Time
    glucose: Annotated[float, Field(description="in `unit`; outside 20-600 mg/dL it is dropped and counted")]


class Meal(TypedDict):
    __pydantic_config__ = STRICT
    time: Time
    carbs_g: Annotated[float, Field(ge=0, le=1000, description="carbohydrate, grams")]


class Insulin(TypedDict, total=False):
    __pydantic_config__ = STRICT
    time: Required[Time]
    bolus_u: Annotated[float, Field(ge=0, le=100, description="units delivered at once")]
    basal_uph: Annotated[float, Field(ge=0, le=50, description="rate from now on, units an hour")]


class PlannedMeal(TypedDict, total=False):
    __pydantic_config__ = STRICT
    time: Required[Annotated[str, Field(
        pattern=r"^([01]\d|2[0-3]):[0-5]\d$",
        description="HH:MM of the person's clock; its next time after the last reading",
    )]]  # fmt: skip
    size: Annotated[float, Field(ge=0, le=5, description="1: as the usual meal nearest on the clock", default=1.0)]


class Question(BaseModel):
    """What if other meals were eaten? Needs a model with a mechanism."""

    model_config = STRICT

    meals: list[PlannedMeal] = Field(max_length=MAX_MEALS)
    """After the last reading, in place of all the usual ones; none: nothing is eaten."""


class WhatIfResponse(BaseModel):
    """The same forecast under other meals."""

    model_config = ANSWER

    usual_meals: list[str]
    """HH:MM, estimated from glucose: what the forecast beside this one takes for granted."""
    meals: list[dict[str, str | float]]
    """As asked."""
    median_mgdl: list[float]
    quantiles_mgdl: dict[str, list[float]]
    parts_mgdl: dict[str, list[float]]
    difference_mgdl: list[float]
    """Of the medians, this less the usual one."""
    note: str


class ForecastResponse(BaseModel):
    """Lists run over the horizon, in time order."""

    model_config = ANSWER

    subject: str | None
    model: str
    """The run that answered."""
    origin_utc: str
    """The last point of the history on the model's grid, within half a step of the last reading."""
    time_utc: list[str]
    time_local: list[str]
    median_mgdl: list[float]
    quantiles_mgdl: dict[str, list[float]]
    """By level: 0.05 is exceeded in 95 of 100 cases."""
    parts_mgdl: dict[str, list[float]]
    """What the median is the sum of: `mechanism` and `correction` for a hybrid, nothing for a plain model; `bounds`
    where the model itself went beyond what glucose can be, 20 to 600 mg/dL."""
    probability: dict[str, float]
    """`hypo70`, `hypo54`: calibrated, that glucose falls below 70, 54 mg/dL at any step, the second never likelier than
    the first; absent where validation data held too few lows to calibrate on. Quantiles are those of one step, and not
    calibrated: a probability may be above, or a little below, what they suggest."""
    mechanism_fit: Literal["own", "population"] | None
    """Whose physiology the mechanism was fitted to; one's own needs a day of readings before the last refit."""
    what_if: WhatIfResponse | None
    """Where it was asked."""
    warnings: dict[str, int]
    """What was repaired, and what to doubt: changes that no glucose makes, readings unlike the training data, steps
    beyond what glucose can be; counted."""
    personal: dict[str, Any] | None = None
    """Where a person's own adapter was asked for: which, and what its held-out days said."""
    note: str


def _example(length: int = 288) -> dict[str, Any]:
    """A day, or `length`, of readings every 5 minutes, with a meal and its bolus."""
    start = np.datetime64("2026-03-02T06:00:00")
    hours = np.arange(length) / 12
    glucose = 115 + 40 * np.exp(-((hours - 3) ** 2) / 2) + 55 * np.exp(-((hours - 13) ** 2) / 3)
    times = [f"{start + np.timedelta64(5 * i, 'm')}+01:00" for i in range(length)]
    return {
        "unit": "mg/dL",
        "timezone": "Europe/Madrid",
        "subject": "anyone",
        "readings": [{"time": t, "glucose": round(float(g), 1)} for t, g in zip(times, glucose, strict=True)],
        "meals": [{"time": "2026-03-02T18:30:00+01:00", "carbs_g": 60.0}],
        "insulin": [{"time": "2026-03-02T18:25:00+01:00", "bolus_u": 5.5}],
        "what_if": {"meals": [{"time": "06:30", "size": 0.5}]},
    }


EXAMPLE_RESPONSE = {
    "subject": "anyone",
    "model": "hybrid-cgm-20260302T101500-1a2b3c4d",
    "origin_utc": "2026-03-03T04:55:00Z",
    "time_utc": ["2026-03-03T05:00:00Z", "2026-03-03T05:05:00Z"],
    "time_local": ["2026-03-03T06:00:00+01:00", "2026-03-03T06:05:00+01:00"],
    "median_mgdl": [115.2, 115.6],
    "quantiles_mgdl": {"0.05": [104.1, 101.8], "0.5": [115.2, 115.6], "0.95": [126.9, 130.2]},
    "parts_mgdl": {"mechanism": [118.0, 118.1], "correction": [-2.8, -2.5]},
    "probability": {"hypo70": 0.034, "hypo54": 0.004},
    "mechanism_fit": "population",
    "what_if": {
        "usual_meals": ["05:57", "11:57", "17:57"],
        "meals": [{"time": "06:30", "size": 0.5}],
        "median_mgdl": [113.9, 113.0],
        "quantiles_mgdl": {"0.05": [102.8, 99.2], "0.5": [113.9, 113.0], "0.95": [125.6, 127.6]},
        "parts_mgdl": {"mechanism": [116.7, 115.5], "correction": [-2.8, -2.5]},
        "difference_mgdl": [-1.3, -2.6],
        "note": WHAT_IF_NOTE,
    },
    "warnings": {"point of the context without a reading (interpolated or carried forward)": 2},
    "note": FORECAST_NOTE,
}


class ForecastRequest(RequestSchema):
    """One person's recent past. Lists may be in any order; what is repaired is counted in the answer's `warnings`."""

    path = PATH
    summary = "Forecast from the last reading. Requests that arrive together are computed together."
    most_bytes, enough = MAX_BYTES, "three weeks of readings suffice"
    refusal = "cannot_forecast"
    answer, answer_example = ForecastResponse, EXAMPLE_RESPONSE
    example = _example()

    unit: Literal["mg/dL", "mmol/L"]
    """Unit of `glucose`; answers are always in mg/dL."""
    readings: Annotated[list[Reading], FailFast()] = Field(min_length=1, max_length=MAX_READINGS)
    """Sensor readings. The model's context is needed without long gaps; three weeks give the person's own mechanism."""
    meals: Annotated[list[Meal], FailFast()] = Field([], max_length=MAX_EVENTS)
    insulin: Annotated[list[Insulin], FailFast()] = Field([], max_length=MAX_EVENTS)
    timezone: str | None = Field(None, min_length=1, max_length=64)
    """IANA name of the person's zone, such as Europe/Madrid."""
    utc_offset_min: int | None = Field(None, ge=-840, le=840)
    """Minutes that local time is ahead of UTC; instead of `timezone`."""
    subject: str | None = Field(None, max_length=100)
    """Returned as sent; not logged, not stored."""
    what_if: Question | None = None
    """Asks for the forecast under other meals beside the usual one."""

    @field_validator("timezone")
    @classmethod
    def _zone(cls, value: str | None) -> str | None:
        return known_zone(value)

    @field_validator("insulin")
    @classmethod
    def _timed(cls, doses: list[Insulin]) -> list[Insulin]:
        if not all(len(dose) > 1 for dose in doses):
            raise ValueError("each has a time and bolus_u, basal_uph or both")
        return doses

    @model_validator(mode="after")
    def _one_clock(self) -> "ForecastRequest":
        if self.timezone is not None and self.utc_offset_min is not None:
            raise ValueError("timezone and utc_offset_min exclude one another; send one")
        return self

    @classmethod
    def example_of(cls, channels: tuple[str, ...], length_s: float) -> dict[str, Any]:
        return _example(max(288, math.ceil(length_s / 300) + 1))

    def data(self) -> History:
        """In mg/dL and UTC. Raises ValueError for impossible times and a contradicted unit."""
        issues = Issues()
        time_s, offset_min = _instants([r["time"] for r in self.readings], self, issues)
        glucose = np.array([r["glucose"] for r in self.readings], dtype=np.float64)
        issues.add("reading out of time order (sorted)", n=int((np.diff(time_s) < 0).sum()))
        events = _events(self, issues) if self.meals or self.insulin else None
        meals = None if self.what_if is None else tuple(map(_other_meal, self.what_if.meals))
        return History(self.subject, time_s, to_mgdl(glucose, self.unit, issues), offset_min, events, issues, meals)


def _other_meal(meal: PlannedMeal) -> OtherMeal:
    from raycadian.physiology.cma.meals import Meal as OtherMeal  # with torch

    hours, minutes = map(int, meal["time"].split(":"))
    return OtherMeal(hours + minutes / 60.0, meal.get("size", 1.0))


def to_mgdl(glucose: np.ndarray, unit: str, issues: Issues) -> np.ndarray:
    """In mg/dL, NaN outside 20-600. Raises ValueError where the values contradict the unit."""
    positive = np.sort(glucose[glucose > 0])
    median = float(positive[len(positive) // 2]) if len(positive) else math.nan
    if contradicts(unit, median):
        other = MMOLL if unit == MGDL else MGDL
        raise ValueError(
            f"unit says {unit}, but the readings have a median of {median:.4g}: plainly {other}; correct unit"
        )
    mgdl = mgdl_of(glucose) if unit == MMOLL else glucose
    outside = (mgdl < GLUCOSE_MIN_MGDL) | (mgdl > GLUCOSE_MAX_MGDL)
    issues.add(OUTSIDE, n=int(outside.sum()))
    return np.where(outside, np.nan, mgdl)


def _events(request: ForecastRequest, issues: Issues) -> pd.DataFrame:
    """Meals and insulin as in types.Readings."""
    rows = [(m["time"], CARBS, m["carbs_g"]) for m in request.meals]
    rows += [(d["time"], BOLUS, d["bolus_u"]) for d in request.insulin if "bolus_u" in d]
    rows += [(d["time"], BASAL, d["basal_uph"]) for d in request.insulin if "basal_uph" in d]
    times, kinds, values = zip(*rows, strict=True)
    time_s, _ = _instants(list(times), request, issues)
    return pd.DataFrame(
        {TIME_UTC: time_s.astype("datetime64[s]").astype("datetime64[ns]"), "kind": kinds, "value": values}
    )


def _instants(times: list[str], request: ForecastRequest, issues: Issues) -> tuple[np.ndarray, np.ndarray]:
    """UTC seconds and minutes ahead of UTC, int64 (M,) each."""
    clocks, stated = _clocks(times)
    if request.timezone is not None:
        return _in_zone(clocks, stated, request.timezone, issues)
    local = np.isnan(stated)
    if request.utc_offset_min is not None:
        stated = np.where(local, request.utc_offset_min, stated)
        offset_min = np.full(len(times), request.utc_offset_min)
    else:
        issues.add("time without a zone (its hour taken as the local hour)", n=int((local | (stated == 0)).sum()))
        stated = np.nan_to_num(stated)
        offset_min = stated.astype(np.int64)
    return clocks - (stated * 60).astype(np.int64), offset_min


def _clocks(times: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of what the clock showed, int64, and the offset in minutes that it stated, NaN where none. Raises
    ValueError for what is no time."""
    heads, ends = np.array([t[:_WHOLE] for t in times], dtype=f"U{_WHOLE}"), [t[_WHOLE:] for t in times]
    letters = heads.view(np.uint32).reshape(-1, _WHOLE)
    marked = ((letters[:, _MARKS] == _marks("--T::")) | (letters[:, _MARKS] == _marks("-- ::"))).all(axis=1)
    formed = marked & (letters[:, -1] >= ord("0")) & (letters.max(axis=1) <= ord("T"))
    offset_of = {end: _offset_min(end) for end in set(ends)}
    offsets = np.array([offset_of[end] for end in ends])
    odd = np.flatnonzero(~formed | np.isinf(offsets))
    if len(odd):
        raise ValueError(f"time {times[odd[0]]!r}: expected RFC 3339 with seconds, such as 2026-03-02T06:00:00+01:00")
    clocks = heads.astype("datetime64[s]")  # raises for 2026-02-30
    if clocks.min() < np.datetime64(_YEARS[0]) or clocks.max() >= np.datetime64(_YEARS[1]):
        raise ValueError(
            f"times are from {_YEARS[0]} on and before {_YEARS[1]}; found {clocks.min()} to {clocks.max()}"
        )
    return clocks.astype(np.int64), offsets


def _marks(text: str) -> np.ndarray:
    return np.array([text]).view(np.uint32)


def _offset_min(text: str) -> float:
    """NaN where none is stated, infinity for what is no offset."""
    match = _OFFSET.fullmatch(text)
    if match is None:
        return math.inf
    stated = match[1]
    if stated is None or stated == "Z":
        return math.nan if stated is None else 0.0
    return (-1 if stated[0] == "-" else 1) * (60.0 * int(stated[1:3]) + int(stated[4:6]))


def _in_zone(clocks: np.ndarray, stated: np.ndarray, zone: str, issues: Issues) -> tuple[np.ndarray, np.ndarray]:
    """`_instants` in a zone whose offset changes over the year."""
    shown = clocks.astype("datetime64[s]").astype("datetime64[ns]")
    utc = clock.shift(shown, -stated)
    local = np.isnan(stated)
    if local.any():
        twice, second = clock.second_time_in_order(shown[local], zone)
        utc[local], exists = clock.to_utc(shown[local], zone, second)
        issues.add("local time that happens twice (told by the order)", n=int(twice.sum()))
        issues.add("local time that the clock skipped (kept the offset from before)", n=int((~exists).sum()))
    return utc.astype("datetime64[s]").astype(np.int64), clock.offset_at(utc, zone)
