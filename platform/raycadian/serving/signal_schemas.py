"""What POST /v1/biosignal and /v1/actigraphy take and give, with their limits."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from raycadian.modalities.actigraphy.formats.apple_health import STEPS
from raycadian.serving.classifier import NOTE, Activity, Signals, Stored
from raycadian.types import ACTIVITY_COUNTS, ACTIVITY_MIMS, WORN, Track

MAX_SIGNAL_BYTES = 16_000_000
MAX_SAMPLES = 1_500_000  # of all channels laid out on one clock: 20 min of three at 400 Hz
MAX_CHANNELS = 8
MAX_EPOCHS = 400_000  # nine months of minutes
MAX_MESSAGE = 4_000_000  # characters of a stream's message

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Channel(BaseModel):
    """Samples at an even rate, as recorded: not resampled, not filtered."""

    model_config = _STRICT

    rate_hz: float = Field(gt=0, le=50_000)
    unit: str = Field("", max_length=16)
    """mV (or V, uV) of an ECG, mmHg (or kPa) of a pressure; a PPG needs none."""
    samples: list[float | None] = Field(min_length=1, max_length=MAX_SAMPLES)
    """null: not measured."""
    start_s: float = Field(0.0, ge=0, le=3600)
    """Of the first sample, on the clock that all channels share."""

    def track(self) -> Track:
        values = np.array(self.samples, dtype=np.float32)  # null becomes NaN
        return Track(values, self.unit, rate_hz=self.rate_hz, start_s=self.start_s)


class BiosignalRequest(BaseModel):
    """A stretch of one person's signals. The longer it is, the more windows are answered."""

    model_config = _STRICT

    channels: dict[str, Channel] | None = Field(None, min_length=1, max_length=MAX_CHANNELS)
    """By the names of the model's channels (GET /v1/model says which), such as ecg_mv, ppg, abp_mmhg."""
    case: str | None = Field(None, min_length=1, max_length=200, pattern=r"^[^\x00/\\][^\x00\\]*$")
    """In place of channels: a file that the server holds (.vital, WFDB, EDF, CSV, Parquet, npz), as a path below the folder
    that its operator named."""
    subject: str | None = Field(None, max_length=100)
    """Returned as sent; not logged, not stored."""

    @model_validator(mode="after")
    def _one_source(self) -> "BiosignalRequest":
        if (self.channels is None) == (self.case is None):
            raise ValueError("send `channels`, or name a stored `case`: one of both")
        return self

    @model_validator(mode="after")
    def _not_too_long(self) -> "BiosignalRequest":
        """Of what is laid out: every channel from the clock's 0 to the end of the last one, at its own rate."""
        channels = (self.channels or {}).values()
        until_s = max((c.start_s + len(c.samples) / c.rate_hz for c in channels), default=0.0)
        total = until_s * sum(c.rate_hz for c in channels)
        if total > MAX_SAMPLES + 0.5:
            raise ValueError(
                f"{total:,.0f} samples from 0 s to the end of all channels, at most {MAX_SAMPLES:,}; send a shorter stretch, and let "
                "its first channel begin at start_s 0"
            )
        return self

    def signals(self) -> Signals | Stored:
        if self.case is not None:
            return Stored(self.subject, self.case)
        return Signals(self.subject, {name: channel.track() for name, channel in (self.channels or {}).items()})


class ActigraphyRequest(BaseModel):
    """Epochs of one person in a row, such as a week of minutes. Windows begin at local midnights."""

    model_config = _STRICT

    unit: Literal["counts", "mims", "worn", "steps"]
    """counts: of a device · mims: monitor-independent units · worn: 1 worn, 0 not, of a model that knows nothing else · steps: of
    a model of them, or of a person who calibrated by them."""
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

    def activity(self) -> Activity:
        channel = {"counts": ACTIVITY_COUNTS, "mims": ACTIVITY_MIMS, "worn": WORN, "steps": STEPS}[self.unit]
        off = None if self.worn is None else ~np.array(self.worn, dtype=bool)
        values = np.array(self.values, dtype=np.float64)
        return Activity(self.subject, channel, np.datetime64(self.start, "s"), self.epoch_s, values, off)


class StreamChannel(BaseModel):
    model_config = _STRICT

    rate_hz: float = Field(gt=0, le=50_000)
    unit: str = Field("", max_length=16)


class StreamStart(BaseModel):
    """The first message of a stream: what each channel is."""

    model_config = _STRICT

    channels: dict[str, StreamChannel] = Field(min_length=1, max_length=MAX_CHANNELS)

    def rates(self) -> dict[str, tuple[float, str]]:
        return {name: (c.rate_hz, c.unit) for name, c in self.channels.items()}


class StreamSamples(BaseModel):
    """Every later message: the samples since the last one; channels needn't come together."""

    model_config = _STRICT

    channels: dict[str, list[float | None]] = Field(max_length=MAX_CHANNELS)

    def samples(self) -> dict[str, np.ndarray]:
        return {name: np.array(values, dtype=np.float32) for name, values in self.channels.items()}


class SaidResponse(BaseModel):
    """Of one label in a window: probability and alarm of a classifier, value of a regression; null where it was rejected."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    probability: float | None = None
    alarm: bool | None = None
    value: float | None = None


class AlsoResponse(BaseModel):
    """A further label of the same model, as in the recipe."""

    model_config = ConfigDict(extra="forbid", strict=True)

    label: dict[str, Any]
    threshold: float | None


class WindowResponse(BaseModel):
    """One window. probability and alarm of a classifier, value of a regression; null where the window was rejected."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

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
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

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


SIGNAL_REQUEST = {
    "subject": "anyone",
    "channels": {"abp_mmhg": {"rate_hz": 125.0, "unit": "mmHg", "samples": [81.0, 82.5, None, 84.0]}},
}
ACTIGRAPHY_REQUEST = {
    "subject": "anyone",
    "unit": "counts",
    "start": "2026-03-02T00:00:00",
    "values": [0.0, 12.0, None, 340.0],
}
SIGNAL_RESPONSE = {
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
    "note": NOTE,
}
