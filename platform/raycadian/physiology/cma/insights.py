"""What the parameters of a fit say, in words, by the thresholds of the reference implementation. Not a diagnosis."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    """One parameter in words. sd: of the posterior, None where it isn't known (at a bound the posterior is one-sided) ·
    `at_bound`: the fit stopped at the edge of what the model allows; the value says little · `informed`: the data
    narrow the prior by a tenth or more; without that the value is the prior's."""

    parameter: str
    value: float
    sd: float | None
    reading: str
    sentence: str
    at_bound: bool
    informed: bool

    @property
    def number(self) -> str:
        """Value and standard deviation with the unit: 0.40 ± 0.20 h."""
        unit = _READINGS[self.parameter][1]
        return f"{self.value:.2f}" + (f" ± {self.sd:.2f}" if self.sd is not None else "") + unit


def insights(record: Mapping[str, Any]) -> list[Insight]:
    """One for each of d, taup, taug, B, Cm of a fit's record (`CMAFit.to_records`). Every sentence ends "not a
    diagnosis".

    A value on a threshold takes the higher reading, except d = -0.5 and 0.5, which are aligned. Records of before there
    were uncertainties have none. Raises ValueError for a record of a fit that failed.
    """
    if not record.get("ok", True):
        raise ValueError(f"nothing can be said of a fit that failed: {record.get('reason') or 'no reason given'}")
    return [_insight(name, record) for name in _READINGS]


def _insight(name: str, record: Mapping[str, Any]) -> Insight:
    subject, _, thresholds, readings = _READINGS[name]
    value, at_bound = float(record[name]), name in record.get("at_bound", ())
    informed = at_bound or "informed" not in record or name in record["informed"]
    if name == "d" and abs(value) == 0.5:
        reading = "aligned"
    else:
        reading = readings[bisect_right(thresholds, value)]
    insight = Insight(name, value, record.get(f"sd_{name}"), reading, "", at_bound, informed)
    caution = "; at the edge of what the model allows, so with caution" if at_bound else ""
    caution += "" if informed else "; the data say little beyond what was assumed"
    return replace(
        insight, sentence=f"{subject.capitalize()}: {reading} ({name} = {insight.number}{caution}); {DISCLAIMER}."
    )
