"""The CMA's parameters in words, by the thresholds of its authors (facts: cma). Never a diagnosis."""

from __future__ import annotations

from typing import Any

DISCLAIMER = "not a diagnosis"

# upper edges and what lies below them; the last word has no edge
_WORDS: dict[str, tuple[tuple[float, ...], tuple[str, ...]]] = {
    "d": ((-0.5, 0.5), ("advanced (morning type)", "aligned", "delayed (evening type)")),
    "taup": ((1.5, 2.5), ("normal photoperiod", "extended light", "very long light")),
    "taug": ((0.8, 1.5), ("rapid clearance", "normal clearance", "slow clearance")),
    "B": ((0.08, 0.15), ("normal baseline", "elevated baseline", "high baseline")),
    "Cm": ((0.3, 1.0), ("low cortisol sensitivity", "normal cortisol sensitivity", "high cortisol sensitivity")),
}


def word(parameter: str, value: float) -> str:
    """The word for a parameter's value, e.g. d = 1.2 h -> delayed (evening type)."""
    edges, words = _WORDS[parameter]
    if parameter == "d" and value == -0.5:
        return words[1]  # |d| = 0.5 is on neither side
    return words[sum(value >= edge if parameter != "d" else value > edge for edge in edges)]


def describe(record: dict[str, Any]) -> dict[str, Any]:
    """One fitted record (CMAFit.to_records) as a row for people: who, each parameter with its word, fit error."""
    row: dict[str, Any] = {"subject": record.get("subject", "")}
    row |= {name: f"{record[name]:.2f}: {word(name, record[name])}" for name in _WORDS}
    row["meals"] = ", ".join(f"{t % 24:.1f} h" for t in record["tM"])
    row["fit RMSE, mg/dL"] = round(record["rmse_mgdl"], 1)
    row["at a bound"] = ", ".join(record["at_bound"])
    row["note"] = DISCLAIMER
    return row
