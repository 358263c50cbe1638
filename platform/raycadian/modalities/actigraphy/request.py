"""What POST /v1/actigraphy takes, with its limits, and the epochs as whole local days."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from raycadian.data.marks import Marks
from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.actigraphy.formats.apple_health import STEPS
from raycadian.modalities.actigraphy.formats.devices import Epochs
from raycadian.modalities.actigraphy.prepare import whole_days
from raycadian.modalities.actigraphy.readers import to_recordings
from raycadian.modalities.request import LABEL_ANSWER, MAX_SIGNAL_BYTES, BiosignalResponse, RequestSchema, Stretch
from raycadian.types import ACTIVITY_COUNTS, ACTIVITY_MIMS, ACTIVITY_WRIST, WORN, Issues, Recording

PATH = "/v1/actigraphy"
MAX_EPOCHS = 400_000  # nine months of minutes
CHANNELS = {
    "counts": ACTIVITY_COUNTS, "counts_wrist": ACTIVITY_WRIST, "mims": ACTIVITY_MIMS, "worn": WORN, "steps": STEPS,
}  # fmt: skip
EXAMPLE = {
    "subject": "anyone",
    "unit": "counts",
    "start": "2026-03-02T00:00:00",
    "values": [0.0, 12.0, None, 340.0],
}


@dataclass(frozen=True)
class Activity:
    """One person's epochs in a row.

    start: the local clock of the first, datetime64[s] · values (N,), NaN missing · off (N,) bool where the device says
    that it was not worn, or None.
    """

    path: ClassVar[str] = PATH
    subject: str | None
    channel: str
    start: np.datetime64
    epoch_s: float
    values: np.ndarray
    off: np.ndarray | None = None

    def days(self, card: ActigraphyCard, issues: Issues) -> list[Recording]:
        """Recordings of whole local days. Raises ValueError."""
        if self.channel == STEPS and self.off is None:  # an export tells wear from all of its records, not from steps
            raise ValueError("steps don't say when nothing was worn: expected `worn` beside them, found none; send it")
        clock = self.start + (self.epoch_s * np.arange(len(self.values))).astype("timedelta64[s]")
        site = "wrist" if self.channel == ACTIVITY_WRIST else "hip"
        epochs = Epochs("request", clock, self.values, self.epoch_s, self.channel, self.off, site=site)
        zone = card.model_copy(update={"timezone": None})  # the clock that was sent is the local one
        return whole_days(to_recordings(epochs, zone, issues), issues)

    def stretches(
        self, card: ActigraphyCard, channels: tuple[str, ...], issues: Issues, cases: Path | str | None = None
    ) -> list[Stretch]:
        """As LabelRequest says. Raises ValueError."""
        if (self.channel,) != channels:
            counts = {self.channel, *channels} == {ACTIVITY_COUNTS, ACTIVITY_WRIST}
            why = " (counts of hip and wrist are different quantities)" if counts else ""
            raise ValueError(f"the model reads {', '.join(channels)}, found {self.channel}{why}; send that unit")
        days = self.days(card, issues)
        after_s = [float((r.start_utc - self.start) / np.timedelta64(1, "s")) for r in days]
        marks = [Marks("request", r.index, len(r), r.dt_s) for r in days]
        return list(map(Stretch, days, marks, after_s))


@dataclass(frozen=True)
class RecordedDays:
    """One person's recordings of whole days from a file, and what was repaired while reading it."""

    path: ClassVar[str] = PATH
    channel: ClassVar[None] = None  # they may have several
    start: ClassVar[None] = None  # windows count from the first day
    subject: str | None
    recordings: list[Recording]
    issues: Issues

    def days(self, card: ActigraphyCard, issues: Issues) -> list[Recording]:
        issues.merge(self.issues)
        return self.recordings


class ActigraphyRequest(RequestSchema):
    """Epochs of one person in a row, such as a week of minutes. Windows begin at local midnights."""

    path = PATH
    summary = (
        "Calibrated probability of every window of activity by the minute; with a person's key by their own adapter."
    )
    most_bytes, enough = MAX_SIGNAL_BYTES, "some weeks of minutes suffice"
    refusal = "cannot_estimate"
    answer, answer_example = BiosignalResponse, LABEL_ANSWER
    example = EXAMPLE

    @classmethod
    def example_of(cls, channels: tuple[str, ...], length_s: float) -> dict[str, Any]:
        """Of whole days from midnight."""
        days = math.ceil(length_s / 86_400)
        minute = np.arange(days * 1440) % 1440
        active = np.where((minute > 420) & (minute < 1380), 100.0 + 50 * np.sin(minute / 9), 0.0).round()
        unit = next(unit for unit, channel in CHANNELS.items() if channel == channels[0])
        values = (active > 0).astype(float) if unit == "worn" else active
        worn = {"worn": [True] * len(values)} if unit == "steps" else {}
        return EXAMPLE | {"unit": unit, "values": values.tolist()} | worn

    unit: Literal["counts", "counts_wrist", "mims", "worn", "steps"]
    """counts: of a device at the hip, or nobody knows where · counts_wrist: at the wrist · mims: monitor-independent
    units · worn: 1 worn, 0 not, of a model that knows nothing else · steps: of a model of them, or of a person who
    calibrated by them."""
    start: str = Field(pattern=r"^(19|20)\d{2}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}$")
    """The wearer's clock at the first epoch, without an offset: 2026-03-02T00:00:00."""
    epoch_s: float = Field(60.0, gt=0, le=60)
    values: list[float | None] = Field(min_length=1, max_length=MAX_EPOCHS)
    """null: not measured."""
    worn: list[bool] | None = Field(None, max_length=MAX_EPOCHS)
    """Where the device says so; else wear is told from counts by the rule of the training data. Steps need it."""
    subject: str | None = Field(None, max_length=100)
    """Returned as sent; not logged, not stored."""

    @model_validator(mode="after")
    def _as_long(self) -> "ActigraphyRequest":
        if self.worn is not None and len(self.worn) != len(self.values):
            raise ValueError(f"worn has {len(self.worn)} epochs, values {len(self.values)}; send as many")
        return self

    @field_validator("start")
    @classmethod
    def _exists(cls, value: str) -> str:
        np.datetime64(value)  # raises for 2026-02-30
        return value

    def data(self) -> Activity:
        off = None if self.worn is None else ~np.array(self.worn, dtype=bool)
        values = np.array(self.values, dtype=np.float64)
        return Activity(self.subject, CHANNELS[self.unit], np.datetime64(self.start, "s"), self.epoch_s, values, off)
