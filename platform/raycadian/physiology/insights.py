"""What the parameters of a fit say, in words, by the thresholds of the reference implementation. Not a diagnosis."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DISCLAIMER = "not a diagnosis"

# parameter: what it measures, unit, thresholds, and one more reading than thresholds
_READINGS: dict[str, tuple[str, str, tuple[float, ...], tuple[str, ...]]] = {
    "d": ("circadian phase", " h", (-0.5, 0.5), ("advanced (morning type)", "aligned", "delayed (evening type)")),
    "taup": ("exposure to light", "", (1.5, 2.5), ("normal", "extended", "very long")),
    "taug": ("glucose clearance after meals", "", (0.8, 1.5), ("rapid", "normal", "slow")),
    "B": ("glucose baseline", "", (0.08, 0.15), ("normal", "elevated", "high")),
    "Cm": ("sensitivity to cortisol", "", (0.3, 1.0), ("low", "normal", "high")),
}


@dataclass(frozen=True)
class Insight:
    """One parameter in words. `at_bound`: the fit stopped at the edge of what the model allows; the value says little."""

    parameter: str
    value: float
    reading: str
    sentence: str
    at_bound: bool


def insights(record: Mapping[str, Any]) -> list[Insight]:
    """One for each of d, taup, taug, B, Cm of a fit's record (`CMAFit.to_records`). Every sentence ends "not a diagnosis".

    A value on a threshold takes the higher reading, except d = -0.5 and 0.5, which are aligned.
    Raises ValueError for a record of a fit that failed.
    """
    if not record.get("ok", True):
        raise ValueError(f"nothing can be said of a fit that failed: {record.get('reason') or 'no reason given'}")
    return [_insight(name, float(record[name]), name in record.get("at_bound", ())) for name in _READINGS]


def _insight(name: str, value: float, at_bound: bool) -> Insight:
    subject, unit, thresholds, readings = _READINGS[name]
    if name == "d" and abs(value) == 0.5:
        reading = "aligned"
    else:
        reading = readings[bisect_right(thresholds, value)]
    caution = "; at the edge of what the model allows, so with caution" if at_bound else ""
    sentence = f"{subject.capitalize()}: {reading} ({name} = {value:.2f}{unit}{caution}); {DISCLAIMER}."
    return Insight(name, value, reading, sentence, at_bound)
