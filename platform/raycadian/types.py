"""The words of the platform: what a recording, a batch and a prediction are.

Shape legend, used in every file:
    B windows in a batch   L context points   H horizon points   C past channels
    K known-future channels   Q quantiles   N points of a series   W windows of a set
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # annotations only: importing this module loads nothing heavy
    import numpy as np
    import pandas as pd
    from torch import Tensor

# Column names, fixed once. A physical quantity carries its unit.
SUBJECT = "subject"
RECORDING = "recording"
TIME_UTC = "time_utc"
GLUCOSE = "glucose_mgdl"
OBSERVED = "observed"  # True where glucose was measured, False where interpolated or missing
CARBS = "carbs_g"  # carbohydrate of the meals that fall on the grid point
BOLUS = "bolus_u"  # insulin units delivered as bolus on the grid point
BASAL = "basal_uph"  # basal insulin rate in force, units an hour
PROTEIN, FAT, FIBRE = "protein_g", "fat_g", "fibre_g"  # of those meals
LONG_ACTING = "long_acting_u"  # units of long-acting insulin injected on the grid point
EVENT_CHANNELS = (CARBS, BOLUS, BASAL, PROTEIN, FAT, FIBRE, LONG_ACTING)
ACTIVITY_COUNTS = "activity_counts"  # movement of a minute, in a device's own counts
ACTIVITY_WRIST = "activity_counts_wrist"  # the same at the wrist: another quantity than at the hip
ACTIVITY_MIMS = "activity_mims"  # movement of a minute, monitor-independent units (John et al. 2019)
WORN = "worn"  # 1 worn, 0 not: where wear is all that is known; else a recording of activity has `observed` for it

MGDL_PER_MMOLL = 18.0182
GLUCOSE_MIN_MGDL, GLUCOSE_MAX_MGDL = 20.0, 600.0  # what a reading may be; outside is not glucose

PLANNED = "planned_carbs"  # known channel: carbs_g over the horizon too
SIGNAL = "signal_"  # begins the names of the mechanism's signals in a batch

SPLITS = ("train", "val", "test")
ID, OOD = "id", "ood"  # subjects seen in training; subjects held out whole

Batch = dict[str, "Tensor"]
"""past (B, L, C) float, NaN-free · past_mask (B, L, C) bool, True where measured · known (B, L+H, K)
· mechanism (B, L+H) mg/dL or absent · signal_NAME (B, L+H), the mechanism's signals that the model asks for · target
(B, H) mg/dL, NaN where missing · subject (B,) int64 · time_s (B,) int64, UTC seconds of the last context point ·
local_h (B,) float, local hour of it.

A batch of a task with a label has label (B,) float, NaN where unknown, in place of target, (B, labels) of several;
weight (B,), of mean 1 over all windows, where the loss is weighed; one of a pretraining has neither."""


def truth_of(batch: Batch) -> "Tensor":
    """What is to be predicted, NaN where unknown: target (B, H) of a forecast, else label (B,) or (B, labels), else the
    signal (B, L, C)."""
    if "target" in batch or "label" in batch:
        return batch["target"] if "target" in batch else batch["label"]
    return batch["past"].masked_fill(~batch["past_mask"], float("nan"))


@dataclass(frozen=True)
class Readings:
    """One subject's raw readings as a reader found them: irregular in time, units already converted.

    `glucose` has columns time_utc (datetime64[ns], sorted or not) and glucose_mgdl (float, NaN = missing).
    `events` has columns time_utc, kind (one of EVENT_CHANNELS), value. Basal events hold until the next one; a basal
    rate of NaN is unknown from there on.
    `utc_offset_min` is the subject's offset at each reading (local = UTC + offset): physiology needs local hours.
    `conflicting`: readings left out because another at the same second has another value.
    """

    subject: str
    glucose: "pd.DataFrame"  # time_utc, glucose_mgdl, utc_offset_min
    events: "pd.DataFrame"  # time_utc, kind, value
    conflicting: int = 0


@dataclass(frozen=True)
class Recording:
    """One subject, one modality, one contiguous stretch on an even grid (of biosignals: one case).

    `channels` maps a name with unit to float32 (N,), NaN = missing; `observed` is bool (N,), False where
    the target was interpolated or is missing. Local time is `start_utc + utc_offset_min`; it is constant within a
    recording: a change of the offset (DST, travel) ends one.
    """

    subject: str
    index: int  # number of the recording within its subject, in time order
    start_utc: "np.datetime64"
    utc_offset_min: int
    dt_s: float
    channels: dict[str, "np.ndarray"]
    observed: "np.ndarray"
    events: "pd.DataFrame | None" = None  # exact times, kinds and values, beside the gridded channels

    def __len__(self) -> int:
        return len(self.observed)


@dataclass(frozen=True)
class Track:
    """One signal of a case: a waveform at an even rate, or a numeric that a monitor wrote at times of its own.

    `values` float32 (N,), NaN = missing, in `unit`. A waveform has `rate_hz`, and `start_s` is the time of its first
    sample; a numeric has `times_s` float64 (N,), increasing. Times are seconds after the start of the case.
    """

    values: "np.ndarray"
    unit: str
    rate_hz: float | None = None
    start_s: float = 0.0
    times_s: "np.ndarray | None" = None

    def __post_init__(self) -> None:
        assert (self.rate_hz is None) != (self.times_s is None), "a track has a rate or times of its own"

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Case:
    """One stretch of monitoring of one subject (an operation, a stay): its signals, and what is known about it.

    `clinical` is the case's row of the clinical table, empty where there is none. Several cases may be one subject's.
    """

    case: str
    subject: str
    tracks: "Mapping[str, Track]"
    clinical: "Mapping[str, Any]" = field(default_factory=dict)
    start_utc: "np.datetime64 | None" = None  # None where the source does not say it


@dataclass
class Issues:
    """What a reader met and repaired or skipped, by kind, with the first few lines of each: nothing in silence."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, where: str = "", n: int = 1) -> None:
        """Count `n` occurrences of `kind`; keep up to five places (`file:line`)."""
        if n <= 0:
            return
        self.counts[kind] = self.counts.get(kind, 0) + n
        places = self.examples.setdefault(kind, [])
        if where and len(places) < 5:
            places.append(where)

    def merge(self, other: "Issues") -> None:
        for kind, n in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + n
            self.examples[kind] = (self.examples.get(kind, []) + other.examples.get(kind, []))[:5]

    def as_dict(self) -> dict[str, Any]:
        return {k: {"count": n, "examples": self.examples.get(k, [])} for k, n in sorted(self.counts.items())}


@dataclass(frozen=True)
class Prediction:
    """What every forecaster returns, in mg/dL.

    quantiles (B, H, Q), non-decreasing in Q · parts: additive decomposition of the median, name -> (B, H)
    (a residual hybrid gives mechanism and correction; a plain model gives none).
    """

    quantiles: "Tensor"
    parts: dict[str, "Tensor"] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelPrediction:
    """What every model of a label returns: score (B,), or (B, labels) of several: log odds (classify) or the label
    itself in its unit (regress)."""

    score: "Tensor"


@dataclass(frozen=True)
class Reconstruction:
    """What pretraining gives: signal (B, L, C) as it was rebuilt, standardised · hidden (P,) bool, the patches that it
    was rebuilt without."""

    signal: "Tensor"
    hidden: "Tensor"
