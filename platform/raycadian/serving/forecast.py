"""A forecast of one person's glucose, and the same under other meals: what a forecaster answers.

H steps of the horizon, Q levels.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from raycadian.modalities.cgm.builder import LOCAL_CLOCK
from raycadian.modalities.cgm.request import FORECAST_NOTE, WHAT_IF_NOTE
from raycadian.physiology.cma.meals import Meal

_DECIMALS = 6  # of mg/dL in answers


@dataclass(frozen=True)
class WhatIf:
    """The same forecast under other meals, in mg/dL: quantiles (H, Q), parts name -> (H,), difference (H,) of the
    medians, this less the usual. `usual`: the meals that the mechanism takes for granted."""

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
            "median_mgdl": _rounded(self.median),
            "quantiles_mgdl": _by_level(levels, self.quantiles),
            "parts_mgdl": {name: _rounded(part) for name, part in self.parts.items()},
            "difference_mgdl": _rounded(self.difference),
            "note": WHAT_IF_NOTE,
        }


@dataclass(frozen=True)
class Forecast:
    """What is expected after a person's last reading, in mg/dL.

    origin_utc: the last context point, datetime64[s] · quantiles (H, Q) at `levels` · parts name -> (H,), which add up
    to the median · fit: whose mechanism served, "own" or "population" (None: no mechanism) · warnings: repairs, counted
    · lows: "hypo70", "hypo54" -> calibrated probability of a value below at any step, where the run could calibrate it.
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
        person = self.subject or "one person"
        zone = " (the file's clock, whose zone is not known)" if self._zone_unknown else "Z"
        title = f"forecast for {person} from {self.origin_utc}{zone} by {self.model}; mg/dL. {FORECAST_NOTE}"
        if self.lows:
            title += "\nprobability of a low: " + ", ".join(f"{name} {p:.0%}" for name, p in self.lows.items())
        if self.what_if is None:
            return title
        usual, other = (", ".join(map(str, meals)) or "none" for meals in (self.what_if.usual, self.what_if.meals))
        return f"{title}\nwhat_if: meals {other} instead of {usual}. {WHAT_IF_NOTE}"

    @property
    def _zone_unknown(self) -> bool:
        return LOCAL_CLOCK in self.warnings

    @property
    def time_utc(self) -> np.ndarray:
        """(H,) datetime64[s]."""
        steps = np.arange(1, len(self.quantiles) + 1) * self.dt_s
        return self.origin_utc + steps.astype("timedelta64[s]")

    @property
    def median(self) -> np.ndarray:
        """(H,): the point forecast."""
        return self.quantiles[:, self.levels.index(0.5)]

    def of_day(self, day: str | None) -> "Forecast":
        """All of it. Raises ValueError for a day."""
        if day:
            raise ValueError("a forecast begins at the last reading; leave out --day, and cut the recording")
        return self

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
            "median_mgdl": _rounded(self.median),
            "quantiles_mgdl": _by_level(self.levels, self.quantiles),
            "parts_mgdl": {name: _rounded(part) for name, part in self.parts.items()},
            "probability": {name: round(p, 4) for name, p in self.lows.items()},
            "mechanism_fit": self.fit,
            "what_if": self.what_if and self.what_if.as_dict(self.levels),
            "warnings": self.warnings,
            "note": FORECAST_NOTE,
        } | ({} if self.personal is None else {"personal": self.personal})

    def as_frame(self) -> pd.DataFrame:
        """One row a step."""
        answer = self.as_dict()
        times = [text.removesuffix("+00:00") if self._zone_unknown else text for text in answer["time_local"]]
        columns = {"time_local": times, "median": answer["median_mgdl"]}
        columns |= {f"q{level}": values for level, values in answer["quantiles_mgdl"].items()}
        other = answer["what_if"]
        beside = {"what_if": other["median_mgdl"], "difference": other["difference_mgdl"]} if other else {}
        return pd.DataFrame(columns | answer["parts_mgdl"] | beside)


def _by_level(levels: tuple[float, ...], quantiles: np.ndarray) -> dict[str, list[float]]:
    return {f"{q:g}": v for q, v in zip(levels, _rounded(quantiles.T), strict=True)}


def _rounded(values: np.ndarray) -> Any:
    return np.round(values.astype(np.float64), _DECIMALS).tolist()


def _zone(offset_min: int) -> str:
    hours, minutes = divmod(abs(offset_min), 60)
    return f"{'-' if offset_min < 0 else '+'}{hours:02}:{minutes:02}"
