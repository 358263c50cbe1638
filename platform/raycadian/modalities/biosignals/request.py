"""What POST /v1/biosignal and its stream take, with their limits, and samples as a classifier's windows are cut."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, Field, model_validator

from raycadian.config.units import unit_of
from raycadian.files import path_inside
from raycadian.modalities.biosignals.card import BiosignalCard
from raycadian.modalities.biosignals.prepare import clean
from raycadian.modalities.biosignals.readers import read_case
from raycadian.modalities.biosignals.tracks import in_unit
from raycadian.modalities.request import (
    LABEL_ANSWER,
    MAX_SIGNAL_BYTES,
    STRICT,
    BiosignalResponse,
    RequestSchema,
    Stretch,
)  # fmt: skip
from raycadian.types import Case, Issues, Track

PATH = "/v1/biosignal"
MAX_SAMPLES = 1_500_000  # of all channels laid out on one clock: 20 min of three at 400 Hz
MAX_CHANNELS = 8
_LARGEST_SAMPLE = 1e9  # in any unit
MAX_MESSAGE = 4_000_000  # characters of a stream's message
MAX_STORED_BYTES = 500_000_000  # of a case on the server; a day of three waveforms has 150 MB
EXAMPLE = {
    "subject": "anyone",
    "channels": {"abp_mmhg": {"rate_hz": 125.0, "unit": "mmHg", "samples": [81.0, 82.5, None, 84.0]}},
}


@dataclass(frozen=True)
class Signals:
    """One person's samples: tracks by channel, of one clock."""

    path: ClassVar[str] = PATH
    subject: str | None
    tracks: Mapping[str, Track]

    def stretches(
        self, card: BiosignalCard, channels: tuple[str, ...], issues: Issues, cases: Path | str | None = None
    ) -> list[Stretch]:
        """As LabelRequest says. Raises ValueError where a channel lacks, is too much, or of another unit."""
        if lacking := [c for c in channels if c not in self.tracks]:
            raise ValueError(f"the model reads {', '.join(channels)}; {', '.join(lacking)} is not sent")
        if odd := sorted(set(self.tracks) - set(channels)):
            raise ValueError(f"the model reads {', '.join(channels)}, not {', '.join(odd)}; leave it out")
        tracks = {c: as_channel(track, c) for c, track in self.tracks.items()}
        return _cleaned(Case("request", self.subject or "", tracks), _narrowed(card, channels), issues)


@dataclass(frozen=True)
class Stored:
    """A case that lies on the server: `name`, a path below the folder that the operator named."""

    path: ClassVar[str] = PATH
    subject: str | None
    name: str

    def file(self, folder: Path | str | None) -> Path:
        """The file that is meant. Raises ValueError where there is no such folder, for a path that leads out of it
        (also by links), for what is no file below it, and for one that is too large."""
        if folder is None:
            raise ValueError(
                "this server holds no cases: its operator named no folder (`raycadian serve --cases FOLDER`)"
            )
        try:
            path = path_inside(Path(folder), self.name)
        except ValueError:
            path = None
        if path is None or not path.is_file():  # the same words: nothing is said of what lies outside
            raise ValueError(f"case {self.name!r}: no such file below the server's folder of cases")
        if path.stat().st_size > MAX_STORED_BYTES:
            raise ValueError(f"case {self.name!r}: {path.stat().st_size:,} bytes, at most {MAX_STORED_BYTES:,}")
        return path

    def stretches(
        self, card: BiosignalCard, channels: tuple[str, ...], issues: Issues, cases: Path | str | None = None
    ) -> list[Stretch]:
        """As LabelRequest says; tracks by the card's names. Raises ValueError, without the server's paths."""
        path, card = self.file(cases), _narrowed(card, channels)
        units = {c: unit for c in card.waveforms if (unit := unit_of(c))}
        try:
            case = read_case(path, tracks=card.waveforms, units=units, subject=self.subject or "", issues=issues)
        except ValueError as error:
            raise ValueError(str(error).replace(f"{path.parent}/", "")) from None
        return _cleaned(case, card, issues)


def _narrowed(card: BiosignalCard, channels: tuple[str, ...]) -> BiosignalCard:
    """The card with what the model reads alone: other channels needn't be there."""
    return card.model_copy(update={"waveforms": {c: card.waveforms[c] for c in channels}})


def _cleaned(case: Case, card: BiosignalCard, issues: Issues) -> list[Stretch]:
    cleaned = clean(case, card, issues=issues)
    return [Stretch(cleaned.recording, cleaned.marks, 0.0)]


def as_channel(track: Track, channel: str) -> Track:
    """In the unit that the channel's name says. Raises ValueError for another quantity's."""
    unit = unit_of(channel)
    return in_unit(track, unit, channel) if unit else track


def as_samples(values: list[float | None]) -> np.ndarray:
    """(n,) float32, null as NaN. Raises ValueError for what no device measures, in whatever unit."""
    samples = np.array(values, dtype=np.float64)
    if np.nanmax(np.abs(samples), initial=0.0) > _LARGEST_SAMPLE:
        raise ValueError(f"samples: a value is beyond {_LARGEST_SAMPLE:g}, which is no measurement; send null for it")
    return samples.astype(np.float32)


class Channel(BaseModel):
    """Samples at an even rate, as recorded: not resampled, not filtered."""

    model_config = STRICT

    rate_hz: float = Field(gt=0, le=50_000)
    unit: str = Field("", max_length=16)
    """mV (or V, uV) of an ECG, mmHg (or kPa) of a pressure; a PPG needs none."""
    samples: list[float | None] = Field(min_length=1, max_length=MAX_SAMPLES)
    """null: not measured."""
    start_s: float = Field(0.0, ge=0, le=3600)
    """Of the first sample, on the clock that all channels share."""

    def track(self) -> Track:
        return Track(as_samples(self.samples), self.unit, rate_hz=self.rate_hz, start_s=self.start_s)


class BiosignalRequest(RequestSchema):
    """A stretch of one person's signals. The longer it is, the more windows are answered."""

    path = PATH
    summary = "Quality and calibrated probability of every window of raw samples."
    most_bytes, enough = MAX_SIGNAL_BYTES, "twenty minutes of three channels suffice"
    refusal = "cannot_estimate"
    answer, answer_example = BiosignalResponse, LABEL_ANSWER
    example = EXAMPLE

    @classmethod
    def example_of(cls, channels: tuple[str, ...], length_s: float) -> dict[str, Any]:
        rate_hz = 125.0
        beats = np.sin(2 * np.pi * 1.2 * np.arange(round(length_s * rate_hz)) / rate_hz)
        return {
            "subject": "anyone",
            "channels": {c: {"rate_hz": rate_hz, "unit": unit_of(c) or "", "samples": beats.round(2).tolist()}
                         for c in channels},
        }  # fmt: skip

    channels: dict[str, Channel] | None = Field(None, min_length=1, max_length=MAX_CHANNELS)
    """By the names of the model's channels (GET /v1/model says which), such as ecg_mv, ppg, abp_mmhg."""
    case: str | None = Field(None, min_length=1, max_length=200, pattern=r"^[^\x00/\\][^\x00\\]*$")
    """In place of channels: a file that the server holds (.vital, WFDB, EDF, CSV, Parquet, npz), as a path below the
    folder that its operator named."""
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
                f"{total:,.0f} samples from 0 s to the end of all channels, at most {MAX_SAMPLES:,}; send a shorter "
                "stretch, and let its first channel begin at start_s 0"
            )
        return self

    def data(self) -> Signals | Stored:
        if self.case is not None:
            return Stored(self.subject, self.case)
        return Signals(self.subject, {name: channel.track() for name, channel in (self.channels or {}).items()})


class StreamChannel(BaseModel):
    model_config = STRICT

    rate_hz: float = Field(gt=0, le=50_000)
    unit: str = Field("", max_length=16)


class StreamStart(BaseModel):
    """The first message of a stream: what each channel is."""

    model_config = STRICT

    channels: dict[str, StreamChannel] = Field(min_length=1, max_length=MAX_CHANNELS)

    def rates(self) -> dict[str, tuple[float, str]]:
        return {name: (c.rate_hz, c.unit) for name, c in self.channels.items()}


class StreamSamples(BaseModel):
    """Every later message: the samples since the last one; channels needn't come together."""

    model_config = STRICT

    channels: dict[str, list[float | None]] = Field(max_length=MAX_CHANNELS)

    def samples(self) -> dict[str, np.ndarray]:
        return {name: as_samples(values) for name, values in self.channels.items()}
