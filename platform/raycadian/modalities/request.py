"""What a POST path takes and gives, whatever the modality: the frame of a request, and an answer of labels."""

from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict

from raycadian.data.marks import Marks
from raycadian.types import Issues, Recording

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)
ANSWER = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)
MAX_SIGNAL_BYTES = 16_000_000
ESTIMATE_NOTE = "A statistical estimate for research: not a medical device, not a diagnosis, no basis for treatment."


class Request(Protocol):
    """One person's data in plain arrays, as a predictor takes it. `path`: the POST path whose request it is."""

    path: ClassVar[str]

    @property
    def subject(self) -> str | None: ...


class Stretch(NamedTuple):
    """A recording as in a snapshot, with its quality; it begins `after_s` seconds after the first sample sent."""

    recording: Recording
    marks: Marks
    after_s: float


class LabelRequest(Request, Protocol):
    """Data of which windows are cut that have a label."""

    def stretches(
        self, card: Any, channels: tuple[str, ...], issues: Issues, cases: Path | str | None
    ) -> list[Stretch]:
        """Prepared as the training data of `card`, for a model that reads `channels`. `cases`: folder of stored files.
        Raises ValueError."""
        ...


class RequestSchema(BaseModel):
    """The JSON body of a POST path, validated before anything is computed."""

    model_config = STRICT

    path: ClassVar[str]
    summary: ClassVar[str]
    """What the path does, in the OpenAPI description."""
    most_bytes: ClassVar[int]
    enough: ClassVar[str]
    """What to say to whoever sends more."""
    refusal: ClassVar[str]
    """The word for machines where valid data can't be answered."""
    answer: ClassVar[type[BaseModel]]
    example: ClassVar[dict[str, Any]]
    answer_example: ClassVar[dict[str, Any]]

    def data(self) -> Request:
        """In plain arrays. Raises ValueError."""
        raise NotImplementedError

    @classmethod
    def example_of(cls, channels: tuple[str, ...], length_s: float) -> dict[str, Any]:
        """A body with `length_s` seconds of these channels, which a model that needs as much answers."""
        raise NotImplementedError


class SaidResponse(BaseModel):
    """Of one label in a window: probability and alarm of a classifier, value of a regression; null if rejected."""

    model_config = ANSWER

    probability: float | None = None
    alarm: bool | None = None
    value: float | None = None


class AlsoResponse(BaseModel):
    """A further label of the same model, as in the recipe."""

    model_config = ANSWER

    label: dict[str, Any]
    threshold: float | None


class WindowResponse(BaseModel):
    """One window. probability and alarm of a classifier, value of a regression; null where the window was rejected."""

    model_config = ANSWER

    begin_s: float
    end_s: float
    rejected: dict[str, list[str]]
    """channel -> why its quality does not do; empty where the window was used."""
    probability: float | None = None
    """Calibrated on validation data."""
    alarm: bool | None = None
    """Above `threshold`."""
    value: float | None = None
    also: dict[str, SaidResponse] | None = None
    """Further label -> the same of it, where the model says several."""
    day: str | None = None
    """With a person's own adapter: the local day that the window ends with."""
    low: float | None = None
    high: float | None = None
    """With a person's own adapter: where `probability` lies with 90%, as far as its calibration is uncertain."""
    deviations: dict[str, float | None] | None = None
    """With a person's own adapter: how far the day is from their usual, in standard deviations of their own."""


class BiosignalResponse(BaseModel):
    model_config = ANSWER

    subject: str | None
    model: str
    """The run that answered."""
    task: Literal["classify", "regress"]
    label: dict[str, Any]
    """What is estimated, as in the recipe."""
    threshold: float | None
    also: dict[str, AlsoResponse] | None = None
    """Further label -> what it is, where the model says several."""
    windows: list[WindowResponse]
    warnings: dict[str, int]
    """What was repaired, counted."""
    personal: dict[str, Any] | None = None
    """Where a person's own adapter was asked for: which, and what its held-out days said."""
    note: str


LABEL_ANSWER = {
    "subject": "anyone",
    "model": "hypotension-20260302T101500-1a2b3c4d",
    "task": "classify",
    "label": {"kind": "hypotension", "channel": "map_mmhg", "below": 65.0, "for_s": 60.0, "ahead_min": 5.0},
    "threshold": 0.31,
    "windows": [
        {"begin_s": 0.0, "end_s": 30.0, "rejected": {}, "probability": 0.12, "alarm": False},
        {"begin_s": 10.0, "end_s": 40.0, "rejected": {"abp_mmhg": ["flat"]}, "probability": None, "alarm": None},
    ],
    "warnings": {"sample missing: abp_mmhg": 1},
    "note": ESTIMATE_NOTE,
}
