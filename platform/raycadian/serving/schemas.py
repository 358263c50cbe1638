"""What the endpoint gives whatever is served: the model, and problems."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError


class ModelResponse(BaseModel):
    """What is served."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    model: str
    kind: str
    """Such as residual-ttm."""
    snapshot: str
    task: Literal["forecast", "classify", "regress"] = "forecast"
    """forecast: POST /v1/forecast · classify, regress: POST /v1/biosignal or, of minutes of activity,
    /v1/actigraphy."""
    context: int
    """Points of history a forecast, or a window, needs."""
    horizon: int
    dt_min: float
    quantiles: list[float]
    past: list[str]
    """Channels that the model reads; others are ignored."""
    metrics: dict[str, Any]
    """Scores on the run's test data: value and interval over people."""
    path: str
    """The POST path that it answers on."""
    rejected: str | None
    """Why the last promotion was not taken over, if it was not."""
    following: str | None = None
    """Why the champion that is followed can't be found: the registry can't be read, or names a run whose folder
    is gone. What is loaded goes on."""
    note: str


class Refused(Exception):
    """An answer that is not 2xx."""

    def __init__(self, status: int, error: str, detail: str, headers: dict[str, str] | None = None):
        super().__init__(detail)
        self.status, self.error, self.detail, self.headers = status, error, detail, headers


class Problem(BaseModel):
    """Every answer that is not 2xx."""

    error: str
    """A word for machines."""
    detail: str
    """What is wrong, what was expected, what to do."""


_LONGEST = 300  # characters of an error; whoever sends more need not read all of it


def _place(names: tuple[int | str, ...]) -> str:
    return ".".join(str(name)[:40] for name in names) or "body"


def explain(error: ValidationError) -> str:
    """A failed validation in words, without what was sent: it is health data, and may hold no JSON value."""
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [f"{_place(e['loc'])}: {e['msg'].removeprefix('Value error, ')[:_LONGEST]}" for e in errors[:5]]
    return "; ".join(lines) + (f"; and {len(errors) - 5} more" if len(errors) > 5 else "")
