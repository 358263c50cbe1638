"""The card of a data set of biosignals."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from raycadian.config.schema import Count, Positive, Schema
from raycadian.config.signal_quality import SignalQuality
from raycadian.config.units import WAVEFORMS, unit_of, waveform_kind
from raycadian.modalities.base import BaseCard


class Clinical(Schema):
    """The table of cases beside the recordings: who was operated, and how."""

    file: str | None = None
    """Path relative to the card's folder, or none: VitalDB's, from its API."""
    case: str = "caseid"
    """Column of the case, as the files are named (`<case>.vital`)."""
    subject: str = "subjectid"
    """Column of the person: a person may have several cases, which always stay in one split."""
    keep: tuple[str, ...] = ()
    """Columns kept in the snapshot as labels and weights."""


class Subset(Schema):
    """So many cases of a cohort, each of another person, drawn at random; a smaller draw is part of a larger one."""

    cases: Count
    seed: int = 0


class BiosignalCard(BaseCard):
    """A data set of biosignals: files of cases, or cases of the VitalDB API."""

    modality: Literal["biosignals"] = "biosignals"
    files: tuple[str, ...] = ()
    """Paths or globs of cases (.vital, WFDB .hea, .edf, .csv, .parquet, .npz), relative to the card's folder."""
    vitaldb: tuple[int, ...] | Literal["cohort"] | None = None
    """Case ids of the VitalDB API instead of files; cohort: all that `cohort` selects."""
    waveforms: dict[str, tuple[str, ...]] = Field(min_length=1)
    """Channel -> names of its track, the first that a case has is taken; e.g. ecg_mv: [SNUADC/ECG_II]. A channel is
    named after its kind and unit: ecg..._mv, ppg..., abp..._mmhg. At 125 Hz in the snapshot."""
    numerics: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """The same for values every second or two, e.g. map_mmhg: [Solar8000/ART_MBP]."""
    numerics_every_s: Positive = 60.0
    """Where a numeric is forecast: seconds of a point, which is the mean of what was measured in them."""
    hold_s: Positive | None = None
    """Seconds that a numeric holds until the next one where it is forecast: of a cuff, which measures every few
    minutes. None: points between its values are missing."""
    filters: Literal["zero_phase", "causal"] = "zero_phase"
    """causal: as a stream has to be filtered."""
    rails: dict[str, tuple[float, float]] = Field(default_factory=dict)
    """Of `filters: causal`: channel -> the lowest and the highest value that its recorder can give, in the channel's
    unit. Left out, they are found once a track has stopped at one three times."""
    upright: tuple[str, ...] = ()
    """Channels of an ECG that are turned over where their QRS points down: of recorders whose electrodes were swapped.
    Hearts point down too, after an infarct: what nobody names is left as it was recorded."""
    rate_hz: Positive | None = None
    """Of tables and archives that say no rate, and have no times."""
    quality: SignalQuality = SignalQuality()
    clinical: Clinical | None = None
    cohort: str | None = None
    """Which cases, by a query on the clinical table: `age >= 18 and asa <= 3`."""
    subset: Subset | None = None
    """For a first look: of all these cases only some, so that few are downloaded."""

    @model_validator(mode="after")
    def _one_source(self) -> "BiosignalCard":
        if bool(self.files) == (self.vitaldb is not None):
            raise ValueError("cases come from `files` or from `vitaldb`; give one")
        if self.cohort is not None and self.clinical is None:
            raise ValueError("cohort is a query on the clinical table; give `clinical` too")
        if self.vitaldb == "cohort" and self.cohort is None:
            raise ValueError("vitaldb: cohort takes the cases that `cohort` selects; write the query")
        return self

    @model_validator(mode="after")
    def _recorders(self) -> "BiosignalCard":
        if self.rails and self.filters != "causal":
            raise ValueError("rails are for filters: causal; zero_phase finds them in the whole track: leave them out")
        if odd := [c for c, (low, high) in self.rails.items() if c not in self.waveforms or not low < high]:
            raise ValueError(f"rails {odd}: expected a channel of `waveforms`, and its lowest below its highest value")
        return self

    @model_validator(mode="after")
    def _turned(self) -> "BiosignalCard":
        if odd := [c for c in self.upright if c not in self.waveforms or waveform_kind(c) != "ecg"]:
            raise ValueError(f"upright {odd}: expected ECG channels of `waveforms`")
        if self.upright and self.filters == "causal":
            raise ValueError("upright is for filters: zero_phase; a stream can't know how the whole track points")
        return self

    @field_validator("waveforms", "numerics")
    @classmethod
    def _named(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        if empty := [channel for channel, names in value.items() if not names]:
            raise ValueError(f"channels {empty} name no track")
        return value

    @field_validator("waveforms")
    @classmethod
    def kinds(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        if odd := [channel for channel in value if unit_of(channel) is None or waveform_kind(channel) not in WAVEFORMS]:
            raise ValueError(f"waveforms {odd}: expected names such as ecg_mv, ppg, abp_mmhg")
        return value
