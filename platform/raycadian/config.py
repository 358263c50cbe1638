"""Every schema: recipes, data-set cards, search spaces. Frozen; unknown keys are refused with the nearest valid name.

YAML never computes (no includes, no interpolation). One override grammar serves `--set`, search spaces and tests:
`dotted.path=value`, the value read as YAML. Import is cheap: no torch, no ray.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)  # fmt: skip

from raycadian.types import BASAL, BOLUS, CARBS, GLUCOSE


class Schema(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


def unsaid(value: Any) -> bool:
    """For `exclude_if` of a field that came later: recipes that don't say it keep the keys that their runs are found by."""
    return value is None


def _tag(key: str, unsaid: str) -> Callable[[Any], str]:
    """Which of several schemas a section is: by `key`, which may be left out where it is the usual one."""
    return lambda value: value.get(key, unsaid) if isinstance(value, dict) else getattr(value, key, unsaid)


# --- data-set card -------------------------------------------------------------------------------------------------

CGM_FORMATS = (
    "generic", "glucobench", "dexcom_clarity", "libreview", "nightscout", "tidepool", "ohio_t1dm", "pump_v2",
)  # fmt: skip


class Columns(Schema):
    """Names of the columns of a generic table."""

    subject: str | None = None
    """Column of the subject id; none where a file holds one person (named by `subject` or by the file)."""
    time: str = "time"
    glucose: str = "glucose"
    carbs_g: str | None = None
    bolus_u: str | None = None
    basal_uph: str | None = None


class Grid(Schema):
    """How irregular readings become recordings on an even grid."""

    dt_min: Positive = 5.0
    """Grid step in minutes."""
    gap_min: Positive = 45.0
    """A gap between readings longer than this ends a recording."""
    interpolate_min: float = Field(20.0, ge=0)
    """Gaps up to this long are filled linearly (and marked not observed); longer ones stay missing."""
    min_points: Count = 24
    """Recordings with fewer grid points are dropped, and counted."""

    @model_validator(mode="after")
    def _ordered(self) -> "Grid":
        if self.interpolate_min > self.gap_min:
            raise ValueError(f"interpolate_min {self.interpolate_min} exceeds gap_min {self.gap_min}; lower it")
        return self


def _known_zone(value: str | None) -> str | None:
    if value is not None:
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"{value!r} is not an IANA time zone such as Europe/Madrid") from error
    return value


class Card(Schema):
    """One data set: where it lies, how to read it, its licence."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    description: str = ""
    modality: Literal["cgm"] = "cgm"
    files: tuple[str, ...] = Field(min_length=1)
    """Paths or globs, relative to the card's folder."""
    format: Literal["auto", *CGM_FORMATS] = "auto"  # type: ignore[valid-type]
    """Recognised by content unless named here."""
    subject: str | None = None
    """Subject id for an export that names none; the file's stem otherwise."""
    unit: Literal["mg/dL", "mmol/L"] | None = None
    """Glucose unit where the format does not state one. A contradiction with the values is an error."""
    columns: Columns = Columns()
    time_format: str | None = None
    """strptime format of the time column; ISO 8601 otherwise."""
    timezone: str | None = None
    """IANA name of the zone of a local clock. None: the clock is kept as local time, its UTC offset taken as 0."""
    exclude_subjects: tuple[str, ...] = ()
    grid: Grid = Grid()
    license: str = ""
    source: str = ""
    citation: str = ""

    _zone = field_validator("timezone")(_known_zone)


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


class SignalQuality(Schema):
    """What a stretch of a signal must be to count as good (physiology/signal_quality.py says what the indices are)."""

    window_s: Positive = 10.0
    """Seconds that quality is judged on."""
    hop_s: Positive = 10.0
    """Seconds from one judged stretch to the next: windows begin on this grid."""
    masked_share: Fraction = 0.05
    """Samples neither measured nor repaired, at most."""
    beats: Count = 3
    """Cardiac cycles, at least."""
    pause_s: Positive = 3.0
    """Longest time without a beat."""
    rate_bpm: Positive = 200.0
    """Beats a minute, at most."""
    ecg_shape: Fraction = 0.9
    ecg_edges: Positive = 3.0
    ppg_shape: Fraction = 0.86
    ppg_edges: Positive = 3.0
    ppg_skewness: Fraction = 0.8
    abp_normal: Fraction = 0.8


class Subset(Schema):
    """So many cases of a cohort, each of another person, drawn at random; a smaller draw is part of a larger one."""

    cases: Count
    seed: int = 0


class SignalCard(Schema):
    """A data set of biosignals: files of cases, or cases of the VitalDB API."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    description: str = ""
    modality: Literal["biosignals"] = "biosignals"
    files: tuple[str, ...] = ()
    """Paths or globs of cases (.vital, WFDB .hea, .edf, .csv, .parquet, .npz), relative to the card's folder."""
    vitaldb: tuple[int, ...] | Literal["cohort"] | None = None
    """Case ids of the VitalDB API instead of files; cohort: all that `cohort` selects."""
    waveforms: dict[str, tuple[str, ...]] = Field(min_length=1)
    """Channel -> names of its track, the first that a case has is taken; e.g. ecg_mv: [SNUADC/ECG_II]. A channel is named
    after its kind and unit: ecg..._mv, ppg..., abp..._mmhg. At 125 Hz in the snapshot."""
    numerics: dict[str, tuple[str, ...]] = {}
    """The same for values every second or two, e.g. map_mmhg: [Solar8000/ART_MBP]."""
    numerics_every_s: Positive = 60.0
    """Where a numeric is forecast: seconds of a point, which is the mean of what was measured in them."""
    filters: Literal["zero_phase", "causal"] = "zero_phase"
    """causal: as a stream has to be filtered."""
    rails: dict[str, tuple[float, float]] = {}
    """Of `filters: causal`: channel -> the lowest and the highest value that its recorder can give, in the channel's unit. Left
    out, they are found once a track has stopped at one three times."""
    quality: SignalQuality = SignalQuality()
    clinical: Clinical | None = None
    cohort: str | None = None
    """Which cases, by a query on the clinical table: `age >= 18 and asa <= 3`."""
    subset: Subset | None = None
    """For a first look: of all these cases only some, so that few are downloaded."""
    exclude_subjects: tuple[str, ...] = ()
    license: str = ""
    source: str = ""
    citation: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> "SignalCard":
        if bool(self.files) == (self.vitaldb is not None):
            raise ValueError("cases come from `files` or from `vitaldb`; give one")
        if self.cohort is not None and self.clinical is None:
            raise ValueError("cohort is a query on the clinical table; give `clinical` too")
        if self.vitaldb == "cohort" and self.cohort is None:
            raise ValueError("vitaldb: cohort takes the cases that `cohort` selects; write the query")
        return self

    @model_validator(mode="after")
    def _recorders(self) -> "SignalCard":
        if self.rails and self.filters != "causal":
            raise ValueError("rails are for filters: causal; zero_phase finds them in the whole track: leave them out")
        if odd := [c for c, (low, high) in self.rails.items() if c not in self.waveforms or not low < high]:
            raise ValueError(f"rails {odd}: expected a channel of `waveforms`, and its lowest below its highest value")
        return self

    @field_validator("waveforms", "numerics")
    @classmethod
    def _named(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        if empty := [channel for channel, names in value.items() if not names]:
            raise ValueError(f"channels {empty} name no track")
        return value

    @field_validator("waveforms")
    @classmethod
    def _kinds(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        if odd := [channel for channel in value if unit_of(channel) is None or waveform_kind(channel) not in WAVEFORMS]:
            raise ValueError(f"waveforms {odd}: expected names such as ecg_mv, ppg, abp_mmhg")
        return value


WAVEFORMS = {"ecg": "mV", "ppg": "", "abp": "mmHg"}
_UNITS = {"mv": "mV", "mmhg": "mmHg", "mgdl": "mg/dL"}


def waveform_kind(channel: str) -> str:
    """ecg of ecg_mv and of ecg_v_mv, ppg, abp."""
    return channel.partition("_")[0]


def unit_of(channel: str) -> str | None:
    """mV of ecg_mv, mmHg of map_mmhg, "" of what names none; None where a waveform's name lacks its unit."""
    unit = _UNITS.get(channel.rpartition("_")[2], "")
    return unit if unit == WAVEFORMS.get(waveform_kind(channel), unit) else None


def in_unit_of(metric: str, target: str) -> str:
    """rmse_mgdl as it is called of a target: rmse_mmhg of map_mmhg, rmse of what has no unit in its name."""
    if not metric.endswith("_mgdl"):
        return metric
    unit = target.rpartition("_")[2]
    return metric.removesuffix("_mgdl") + (f"_{unit}" if unit in _UNITS else "")


class ActivityColumns(Schema):
    """Names of the columns of a table of activity. Without time and minute, a person's rows are minutes from midnight."""

    subject: str | None = None
    """Column of the subject id; none where a file holds one person (named by `subject` or by the file)."""
    time: str | None = None
    minute: str | None = None
    """Number of the minute, from 1 at the midnight that begins the first day."""
    activity: str = "activity"
    worn: str | None = None
    """1 where the device was worn, 0 where not."""


class ActivityCard(Schema):
    """A data set of actigraphy: activity by the minute, and a table of people with their labels."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    description: str = ""
    modality: Literal["actigraphy"] = "actigraphy"
    files: tuple[str, ...] = Field(min_length=1)
    """Paths or globs, relative to the card's folder: recordings, and NHANES's tables of the same people."""
    format: Literal["auto"] = "auto"
    """Recognised by content: NHANES's XPT, Actiwatch .AWD, ActiGraph .agd, Respironics CSV, Apple Health, or a table."""
    columns: ActivityColumns = ActivityColumns()
    subject: str | None = None
    """Subject id for a file that names none; the file's stem otherwise."""
    time_format: str | None = None
    """strptime format of the time column; ISO 8601 otherwise."""
    timezone: str | None = None
    """IANA name of the zone of a local clock. None: the clock is kept as local time, its UTC offset taken as 0."""
    wear: Literal["choi", "troiano"] = "choi"
    """Rule for when counts mean that the device was worn, where it doesn't say so itself."""
    dt_s: Positive = 60.0
    min_valid_hours: Positive = 10.0
    """Hours that a day is worn to count."""
    min_valid_days: int = Field(1, ge=0)
    """People with fewer such days are left out, and counted; studies of NHANES ask for 4."""
    most_missing: int = Field(0, ge=0, le=8)
    """PHQ-9 items that may lack an answer; the total is then nine times the mean of the others."""
    exclude_subjects: tuple[str, ...] = ()
    license: str = ""
    source: str = ""
    citation: str = ""

    _zone = field_validator("timezone")(_known_zone)


AnyCard = Card | SignalCard | ActivityCard
CARDS: dict[str, type[Schema]] = {"cgm": Card, "biosignals": SignalCard, "actigraphy": ActivityCard}


# --- recipe --------------------------------------------------------------------------------------------------------


class Person(Schema):
    """One person's days in order: `history_days`, of which the last `train_days` train, `val_days`, and the rest to test.
    A day is 24 h of grid points; gaps between recordings don't count."""

    subject: str
    history_days: Positive
    train_days: Positive
    val_days: Positive = 1.0

    @model_validator(mode="after")
    def _within(self) -> "Person":
        if self.train_days > self.history_days:
            raise ValueError(f"train_days {self.train_days:g} exceed history_days {self.history_days:g}; lower them")
        return self


class Split(Schema):
    """Who and when is training, validation, test. Windows never cross an edge."""

    kind: Literal["subject", "time", "hybrid", "kfold", "person", "run"] = "hybrid"
    """subject: people held out whole · time: the last stretch of everyone · hybrid: both · kfold: grouped by subject ·
    person: one person's days, as `person` says · run: the people of `run`, so that a pretraining and its task share them."""
    test_subjects: Fraction | Count = 0.2
    """Share of the people, or how many."""
    val_subjects: Fraction | Count = 0.2
    """subject and kfold: share of the remaining people for validation, or how many."""
    test_fraction: Fraction = 0.15
    val_fraction: Fraction = 0.15
    folds: int = Field(5, ge=2)
    fold: int = Field(0, ge=0)
    person: "Person | None" = None
    run: str | None = Field(None, exclude_if=unsaid)
    """Folder of a complete run on the same data set. Who isn't in it trains: nothing is scored on them there or here."""
    seed: int = 42

    @model_validator(mode="after")
    def _valid(self) -> "Split":
        if (self.kind == "run") != (self.run is not None):
            raise ValueError("split.kind run and split.run belong together; give both or neither")
        if (self.kind == "person") != (self.person is not None):
            raise ValueError("split.kind person and split.person belong together; give both or neither")
        if self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} of {self.folds}: folds count from 0; use 0 to {self.folds - 1}")
        if self.test_fraction + self.val_fraction >= 1:
            raise ValueError("test_fraction + val_fraction leave nothing to train on; lower them")
        return self


BESIDE_GLUCOSE = (CARBS, BOLUS, BASAL)


Anchor = Literal["any", "midnight", "meal", "estimated_meal"]


class Window(Schema):
    context: Count = 144
    """Points of history, L."""
    horizon: Count = 12
    """Points to forecast, H."""
    stride: Count = 1
    """Points between the windows trained on."""
    eval_stride: Count = 3
    """Points between the windows scored."""
    past: tuple[str, ...] = (GLUCOSE,)
    """Past channels; the first is the target. Of glucose: carbs_g, bolus_u, basal_uph beside it · else numerics of the card of
    biosignals, such as [map_mmhg]."""
    known: tuple[Literal["hour_sin", "hour_cos", "planned_carbs"], ...] = ("hour_sin", "hour_cos")
    """Channels known over context and horizon. planned_carbs (g): what is eaten in the horizon too, which is no leak only
    where meals are planned before the forecast is made; scoring takes what was recorded for the plan."""
    anchor: Anchor = "any"
    """Which windows are scored, by where their context ends. any: every `eval_stride` points · midnight: at the first
    point of a local day · meal: at the first point of a recorded meal · estimated_meal: at the times of day at which
    the person's glucose rises most. An anchored window is scored whatever the stride."""
    train_anchor: Anchor = "any"
    """The same of the windows trained on."""
    train_windows: Count | None = None
    """Train on that many windows, drawn at random; a smaller draw is part of a larger one."""
    max_missing: Fraction = 0.3
    """Windows whose context misses more than this share are not cut; the last context point is always observed."""

    @field_validator("past")
    @classmethod
    def _target_first(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or value[0] in BESIDE_GLUCOSE or len(set(value)) != len(value):
            raise ValueError(
                f"past channels are distinct and begin with what is forecast, {GLUCOSE} unless a numeric; found {list(value)}"
            )
        if odd := [c for c in value[1:] if (c in BESIDE_GLUCOSE) != (value[0] == GLUCOSE)]:
            raise ValueError(
                f"past channels {odd} don't go with {value[0]}; beside glucose: {', '.join(BESIDE_GLUCOSE)}"
            )
        return value

    @model_validator(mode="after")
    def _meals_are_recorded(self) -> "Window":
        if "meal" in (self.anchor, self.train_anchor) and CARBS not in self.past:
            raise ValueError(
                f"anchor meal needs {CARBS} among the past channels; add it to window.past, or take estimated_meal"
            )
        return self

    @model_validator(mode="after")
    def _plan_is_recorded(self) -> "Window":
        if "planned_carbs" in self.known and CARBS not in self.past:
            raise ValueError(
                f"known channel planned_carbs needs {CARBS} among the past channels; add it to window.past"
            )
        return self


class SignalWindow(Schema):
    """Windows of a signal at many samples a second, or of activity by the minute, that carry a label."""

    kind: Literal["signal"] = "signal"
    window_s: Positive = 10.0
    """Seconds of one window; where the card judges quality, on stretches of this length."""
    windows: Count = 1
    """Windows in a row that the model sees at once."""
    step_s: Positive = 10.0
    """Seconds between the starts of what is trained on."""
    eval_step_s: Positive = 10.0
    """Seconds between the starts of what is scored."""
    past: tuple[str, ...] = Field(min_length=1)
    """Channels of the snapshot, e.g. [ecg_mv, ppg, abp_mmhg]."""
    max_missing: Fraction = 0.0
    """At most this share is bad: of the windows, where the card judges quality; else of the points."""
    train_windows: Count | None = None
    """Train on that many windows, drawn at random; a smaller draw is part of a larger one."""

    @field_validator("past")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"past channels are distinct; found {list(value)}")
        return value

    @property
    def length_s(self) -> float:
        return self.window_s * self.windows


AnyWindow = Annotated[
    Annotated[Window, Tag("points")] | Annotated[SignalWindow, Tag("signal")], Discriminator(_tag("kind", "points"))
]


class Forecasting(Schema):
    """The next values of a channel, as quantiles."""

    kind: Literal["forecast"] = "forecast"
    target: str = GLUCOSE
    """The first channel of window.past: glucose, or a numeric of a card of biosignals (map_mmhg)."""
    quantiles: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95)

    @field_validator("quantiles")
    @classmethod
    def _levels(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)) or not all(0 < q < 1 for q in value) or 0.5 not in value:
            raise ValueError(f"quantiles rise strictly inside (0, 1) and contain 0.5; found {list(value)}")
        return value


class Hypotension(Schema):
    """An episode of low pressure begins within `ahead_min` after the window."""

    kind: Literal["hypotension"] = "hypotension"
    channel: str = "map_mmhg"
    """Numeric of the snapshot."""
    below: Positive = 65.0
    """mmHg."""
    for_s: Positive = 60.0
    """Seconds that the pressure stays below, at least."""
    ahead_min: Positive = 5.0
    gap_min: float = Field(0.0, ge=0)
    """Minutes right after the window in which the onset does not count as ahead."""
    gray_mmhg: Positive | None = None
    """Windows without an episode whose pressure falls below this are left out: neither clearly low nor clearly normal."""

    @model_validator(mode="after")
    def _ordered(self) -> "Hypotension":
        if self.gap_min >= self.ahead_min:
            raise ValueError(f"gap_min {self.gap_min:g} reaches ahead_min {self.ahead_min:g}; lower it")
        if self.gray_mmhg is not None and self.gray_mmhg <= self.below:
            raise ValueError(
                f"gray_mmhg {self.gray_mmhg:g} is not above below {self.below:g}; raise it or leave it out"
            )
        return self


class Ahead(Schema):
    """The mean of a numeric over `over_s`, `ahead_min` after the window."""

    kind: Literal["ahead"] = "ahead"
    channel: str
    ahead_min: float = Field(ge=0)
    over_s: Positive = 60.0
    below: float | None = Field(None, exclude_if=unsaid)
    """classify: 1 where the mean is below this."""
    at_least: float | None = Field(None, exclude_if=unsaid)
    """classify: 1 where the mean is at least this."""

    @property
    def bound(self) -> str:
        """Of classify, in words."""
        if self.below is not None:
            return f" < {self.below:g}"
        return "" if self.at_least is None else f" >= {self.at_least:g}"

    @model_validator(mode="after")
    def _one(self) -> "Ahead":
        if self.below is not None and self.at_least is not None:
            raise ValueError("below and at_least exclude one another; give one")
        return self


class Column(Schema):
    """A column of the table of cases or people, the same for all windows of a recording."""

    kind: Literal["column"] = "column"
    name: str
    at_least: float | None = None
    """classify: 1 where the value is at least this."""
    equals: str | float | None = None
    """classify: 1 where the value is this. Without either the column holds 0 and 1."""

    @model_validator(mode="after")
    def _one(self) -> "Column":
        if self.at_least is not None and self.equals is not None:
            raise ValueError("at_least and equals exclude one another; give one")
        return self


Label = Annotated[Hypotension | Ahead | Column, Field(discriminator="kind")]


class Pretraining(Schema):
    """No label: a network learns to rebuild what is hidden of the signal."""

    kind: Literal["pretrain"] = "pretrain"


class _Labelled(Schema):
    """What the tasks with a label share."""

    label: Label
    """What a run is chosen by."""
    also: tuple[Column, ...] = ()
    """Further labels that one network learns at the same time, each calibrated and scored on its own. A window needs one of
    all that is known; what isn't counts nowhere."""
    weight: str | None = None
    """Column of the table of people that weighs them in every score (survey weights)."""
    weighted_loss: bool = False
    """`weight` weighs people in the loss too, and in what is fitted in closed form."""
    vote: Count = 1
    """Scored windows in a row of a recording that vote together."""
    shuffled: bool = False
    """Labels in random order over all splits: nothing can be learnt, and the scores must say so."""

    @property
    def labels(self) -> dict[str, Any]:
        """By the names that scores and files of further labels bear; the first has none."""
        return {"": self.label, **{column.name: column for column in self.also}}

    @model_validator(mode="after")
    def _several(self) -> "_Labelled":
        if self.also and not isinstance(self.label, Column):
            raise ValueError("several labels at once are columns of the table of people; take one label, or columns")
        names = [column.name for column in (*self.also, *([self.label] if self.also else []))]
        if odd := [name for name in names if not re.fullmatch(r"[A-Za-z0-9_.-]+", name)]:
            raise ValueError(
                f"labels {odd}: several at once name files; letters, digits, _ . - only: rename the column"
            )
        if len(set(names)) < len(names):
            raise ValueError(f"labels {names} are not distinct; leave one out")
        if self.weighted_loss and self.weight is None:
            raise ValueError("weighted_loss weighs by the column `weight`; name it")
        return self


class Classification(_Labelled):
    """Whether, as a calibrated probability."""

    kind: Literal["classify"] = "classify"
    balance: Literal["none", "training"] = "training"
    """training: windows with the label weigh as much as all others together, by their share in training."""
    calibration: Literal["none", "temperature", "platt", "beta", "isotonic", "chosen"] = "platt"
    """How validation data turn the model's log odds into probabilities. chosen: by whichever of the others says it best of
    validation people that it was not fitted on."""
    voting: Literal["soft", "hard"] = "soft"
    """soft: the mean probability votes · hard: the share of windows above the threshold."""
    specificity: float = Field(0.9, gt=0, lt=1)
    """What the alarm's threshold is set to on validation data; sensitivity is given at it."""

    @model_validator(mode="after")
    def _yes_or_no(self) -> "Classification":
        if isinstance(self.label, Ahead) and not self.label.bound:
            raise ValueError(
                f"{self.label.channel} ahead is a number, expected yes or no: give label.below or label.at_least, or task.kind: regress"
            )
        return self


class Regression(_Labelled):
    """How much, in the label's own unit."""

    kind: Literal["regress"] = "regress"

    @model_validator(mode="after")
    def _a_number(self) -> "Regression":
        if isinstance(self.label, Hypotension):
            raise ValueError(
                "hypotension is yes or no: classify it; label: {kind: ahead, channel: map_mmhg} is a number"
            )
        if isinstance(self.label, Ahead) and self.label.bound:
            raise ValueError(
                f"{self.label.channel}{self.label.bound} is yes or no: leave label.below and label.at_least out, or task.kind: classify"
            )
        return self


Task = Annotated[
    Annotated[Forecasting, Tag("forecast")] | Annotated[Classification, Tag("classify")]
    | Annotated[Regression, Tag("regress")] | Annotated[Pretraining, Tag("pretrain")],
    Discriminator(_tag("kind", "forecast")),
]  # fmt: skip
LabelTask = Classification | Regression


class Normal(Schema):
    """A prior: mean and standard deviation in the parameter's own unit."""

    mean: float
    sd: Positive


class Prior(Schema):
    """Priors of the CMA's parameters (facts: defaults are the means); a parameter left out has no prior."""

    d: Normal | None = Normal(mean=0.0, sd=3.0)
    taup: Normal | None = Normal(mean=1.0, sd=0.5)
    taug: Normal | None = Normal(mean=1.0, sd=0.5)
    B: Normal | None = Normal(mean=0.05, sd=0.1)
    Cm: Normal | None = Normal(mean=0.0, sd=0.5)
    toff: Normal | None = Normal(mean=0.0, sd=1.0)


class CMAMechanism(Schema):
    """The cortisol-melatonin-adiponectin model as the mechanism, refitted on a rolling schedule."""

    kind: Literal["cma"] = "cma"
    refit_days: Positive = 7.0
    """Days between refits; each uses data before its cutoff only."""
    history_days: Positive = 14.0
    """Days before the cutoff that a fit uses at most."""
    min_days: Positive = 1.0
    """Days of data needed before a person's own fit; the training population's parameters serve until then."""
    meals: int = Field(3, ge=1, le=6)
    gains: Literal["one", "per_meal"] = "one"
    """one: all meals raise glucose in the same measure · per_meal: each in its own, solved in closed form."""
    starts: int = Field(4, ge=1, le=40)
    prior_weight: float = Field(1.0, ge=0)
    """Weight of the priors against the data: 1 is the maximum a posteriori, 0 ignores them."""
    prior: Prior = Prior()


class NoAdapter(Schema):
    kind: Literal["full"] = "full"
    """Every weight trains."""


class HeadOnly(Schema):
    kind: Literal["head"] = "head"
    """The backbone is frozen, the head trains."""


class LastN(Schema):
    kind: Literal["last_n"] = "last_n"
    """The last n mixer layers and the head train."""
    n: Count = 1


class Lora(Schema):
    kind: Literal["lora"] = "lora"
    rank: Count = 8
    alpha: Positive = 16
    dropout: Fraction = 0.0
    target_modules: tuple[str, ...] = ("fc1", "fc2", "attn_layer")


class AttentionLora(Lora):
    """LoRA of PAT, whose layers have other names."""

    target_modules: tuple[str, ...] = ("query", "key", "value", "output")


Adapter = Annotated[Union[NoAdapter, HeadOnly, LastN, Lora], Field(discriminator="kind")]
PATAdapter = Annotated[Union[NoAdapter, HeadOnly, LastN, AttentionLora], Field(discriminator="kind")]


Head = Literal["quantiles", "student_t"]
"""quantiles: trained by the pinball loss · student_t: a distribution, trained by its likelihood, whose quantiles serve."""


class Persistence(Schema):
    """The last reading goes on."""

    kind: Literal["persistence"] = "persistence"


class Seasonal(Schema):
    """The same hour yesterday; needs a context of at least 24 h."""

    kind: Literal["seasonal"] = "seasonal"


class Ridge(Schema):
    """Direct multi-step linear autoregression with an L2 penalty."""

    kind: Literal["ridge"] = "ridge"
    lags: Count = 12
    basis: Literal["lagged", "changes"] = "lagged"
    """lagged: differences to the last value · changes: from point to point, so that a penalty smooths."""
    alpha: float = Field(1.0, ge=0)
    """Penalty. lagged: in units of the mean squared lagged difference, over all windows together. changes: in units of each
    variable's variance, a window: the same strength whatever their number; 0.01 to 0.1 is usual."""
    exogenous: bool = False
    """Each step also takes the known channels at its own time."""


class CMA(Schema):
    """The mechanism alone."""

    kind: Literal["cma"] = "cma"
    mechanism: CMAMechanism = CMAMechanism()


class LSTM(Schema):
    """bloodTwin's LSTM (facts/models.md): last hidden state -> Linear, ReLU, Dropout -> Linear."""

    kind: Literal["lstm"] = "lstm"
    hidden: Count = 128
    layers: Count = 2
    dropout: Fraction = 0.2
    exogenous: bool = False
    """The known channels enter: over the context into the LSTM, over the horizon into the head."""
    head: Head = "quantiles"


class MLP(Schema):
    """A small network on the latest changes of glucose, beside a linear autoregression on them."""

    kind: Literal["mlp"] = "mlp"
    lags: Count = 48
    """Changes from point to point that it sees."""
    hidden: Count = 128
    layers: Count = 2
    dropout: Fraction = 0.1
    hour: bool = True
    """The hour of day enters."""
    level_noise: float = Field(0.0, ge=0)
    """Standard deviation of noise on the level while training, in units of the level's own: it then relies on the changes,
    and does better for people whose glucose lies elsewhere than that of those it was trained on."""
    head: Head = "quantiles"


class TTM(Schema):
    """Tiny Time Mixer (granite-tsfm)."""

    kind: Literal["ttm"] = "ttm"
    pretrained: str | None = None
    """None: random start. A local folder or a hub name: that checkpoint; never replaced silently."""
    d_model: Count = 64
    layers: Count = 3
    patch_length: Count = 12
    dropout: Fraction = 0.1
    adapter: Adapter = NoAdapter()
    exogenous: bool = False
    """The known channels enter as granite's exogenous channels, and are mixed into every step of the forecast."""
    head: Head = "quantiles"


SharedMechanism = CMAMechanism | None
"""One model has one mechanism: what is nested says null (or the same again)."""


class Residual(Schema):
    """Mechanism + learned correction: the inner model sees and predicts what the mechanism leaves over."""

    kind: Literal["residual"] = "residual"
    mechanism: SharedMechanism = CMAMechanism()
    inner: "Model"


Signal = Literal["glucose", "L", "m", "c", "a", "I_S", "I_E", "meal_distr"]


class Exogenous(Schema):
    """The mechanism's signals as further known channels of the inner model, one of whose parts says `exogenous: true`."""

    kind: Literal["exogenous"] = "exogenous"
    mechanism: SharedMechanism = CMAMechanism()
    signals: tuple[Signal, ...] = Field(("glucose", "L", "m", "c", "a", "I_S", "I_E"), min_length=1)
    """glucose: the mechanism's curve · L light, m melatonin, c cortisol, a adiponectin, I_S insulin sensitivity, I_E
    effective insulin · meal_distr: meal distribution."""
    inner: "Model"

    @field_validator("signals")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"signals are distinct; found {list(value)}")
        return value


class Physics(Schema):
    """The inner model, held to the mechanism's rate of change while it trains."""

    kind: Literal["physics"] = "physics"
    mechanism: SharedMechanism = CMAMechanism()
    weight: float = Field(1e-3, ge=0)
    """mg/dL of loss for one (mg/dL per hour)^2 of mean squared difference between the rates."""
    inner: "Model"


class Simulated(Schema):
    """People simulated by the mechanism, their parameters drawn from its priors."""

    subjects: Count = 64
    days: Count = 7
    seed: int = 0


class Staged(Schema):
    """Training in stages: on simulated people, on real ones with the backbone frozen, then mechanism and weights in turn."""

    kind: Literal["staged"] = "staged"
    mechanism: SharedMechanism = CMAMechanism()
    simulated: Simulated = Simulated()
    pretrain_epochs: int = Field(5, ge=0)
    """Epochs on simulated people, all weights; 0 leaves the stage out."""
    frozen_epochs: int = Field(2, ge=0)
    """Epochs on the training data with the backbone frozen; 0 leaves the stage out."""
    rounds: int = Field(1, ge=0)
    """After training.epochs on the training data: how often the mechanism is fitted again, to glucose less the learned
    correction, and the weights trained again (training.epochs each). Needs a residual inside."""
    inner: "Model"


class Ensemble(Schema):
    """Several models trained side by side: their mean, widened by how far they are apart."""

    kind: Literal["ensemble"] = "ensemble"
    members: tuple["Model", ...] = Field(min_length=1)
    size: Count = 1
    """Copies of each member; they differ in their random start."""
    weights: Literal["equal", "validation"] = "equal"
    """validation: those that make the mean's squared error least on validation data, none below 0, drawn towards equal."""

    @model_validator(mode="after")
    def _several(self) -> "Ensemble":
        if len(self.members) * self.size < 2:
            raise ValueError("an ensemble of one is no ensemble: name more members, or set size")
        return self


class Conformal(Schema):
    """Conformal prediction: every quantile moved, step by step, to where it belongs on data that was not trained on."""

    kind: Literal["conformal"] = "conformal"
    folds: int = Field(0, ge=0)
    """0: placed on validation windows. k: on everybody of the training data, in k groups of people, each scored by a model
    that was trained without it, which takes k more trainings; sweeps leave them out. Outermost only."""
    inner: "Model"

    @field_validator("folds")
    @classmethod
    def _several(cls, value: int) -> int:
        if value == 1:
            raise ValueError("one group leaves nobody to train on: 0 for none, or 2 and more")
        return value


class ForLabel(Schema):
    """A model of the tasks classify and regress; the others forecast."""


Features = Literal["statistics", "rhythm"]
"""statistics: of each channel's values · rhythm: of the rest and activity of whole days by the minute."""


class Statistics(ForLabel):
    """Linear in variables made by hand: logistic regression or least squares."""

    kind: Literal["statistics"] = "statistics"
    features: Features = "statistics"


class FeatureNet(ForLabel):
    """A small network on variables made by hand, with a head for all labels."""

    kind: Literal["feature_net"] = "feature_net"
    features: Features = "statistics"
    hidden: Count = 32
    dropout: Fraction = 0.2


class Last(ForLabel):
    """What a channel was last: as the forecast of a number, or as the one variable of a logistic regression."""

    kind: Literal["last"] = "last"
    channel: str
    over_s: Positive = 10.0
    """Seconds at the end of the window that are averaged: of an arterial pressure, its mean."""


class Boosting(ForLabel):
    """Gradient-boosted trees on variables made by hand; a missing one is a branch of its own."""

    kind: Literal["boosting"] = "boosting"
    features: Features = "statistics"
    trees: Count = 300
    """Trees that are grown; validation data say how many of them are kept."""
    depth: int = Field(3, ge=1, le=10)
    lr: Positive = 0.05
    l2: float = Field(1.0, ge=0)
    min_weight: float = Field(5.0, ge=0)
    """Weight of the windows in a leaf (of the log odds' curvature: p (1 - p) each), at least."""


class CNN(ForLabel):
    """A small convolutional network over time."""

    kind: Literal["cnn"] = "cnn"
    width: Count = 32
    """Channels of the first block; each block after has twice as many."""
    blocks: Count = 3
    kernel: int = Field(7, ge=3)
    stride: int = Field(4, ge=2)
    """A block shortens time by it."""
    dropout: Fraction = 0.1

    @field_validator("kernel")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"a kernel has a middle: an odd number; found {value}")
        return value


LabelHead = Literal["linear", "mlp"]
Cycle = Literal["C", "D", "G", "H"]
"""NHANES cycles with a week of accelerometry, by the letter of their files: 2003-04, 2005-06, 2011-12, 2013-14."""
Seen = Literal["refuse", "allow"]
"""allow: train and score on an NHANES cycle that the pretraining has seen. People whom a run of ours has learnt from stay refused."""


class TTMLabel(ForLabel):
    """TTM's backbone (granite-tsfm) with a head for a label. `adapter: {kind: head}` leaves the backbone as it is."""

    kind: Literal["ttm_label"] = "ttm_label"
    pretrained: str | None = None
    """None: random start. A local folder or a hub name of granite's format, or the checkpoint folder of a run of `masked`."""
    d_model: Count = 64
    layers: Count = 3
    patch_length: Count = 50
    """Points; at 125 Hz 0.4 s."""
    dropout: Fraction = 0.1
    adapter: Adapter = NoAdapter()
    channels: Literal["independent", "mixed"] = "independent"
    """independent: each goes through the backbone alone and the head joins them · mixed: every layer mixes them."""
    pieces: Count = 1
    """The context is cut into so many equal pieces, each of which goes through the backbone alone; the head joins them."""
    head: LabelHead = "linear"
    cycles: tuple[Cycle, ...] | None = Field(None, exclude_if=unsaid)
    """NHANES cycles that the pretraining has seen, as a run of `masked` recorded them; granite's weights have seen none."""
    seen: Seen = Field("refuse", exclude_if=lambda said: said == "refuse")


class PAT(ForLabel):
    """Pretrained Actigraphy Transformer: a week of minutes (10080 points; any multiple of its patch)."""

    kind: Literal["pat"] = "pat"
    size: Literal["small", "medium", "large", "huge"] = "small"
    """0.29, 1.0, 2.0 or 4.0 million weights."""
    embedding: Literal["dense", "conv"] = "dense"
    pretrained: str | None = None
    """None: random start. A published .h5 of the same size and embedding, or the checkpoint folder of a run of `masked`."""
    cycles: tuple[Cycle, ...] | None = None
    """NHANES cycles that the pretraining has seen: no task is one of theirs. Known of PAT-*_29k and PAT-*_21k by the file's
    name and of our own checkpoints; said here of other files, [] for none. The checkpoint keeps it, and a pretraining adds its data's."""
    seen: Seen = "refuse"
    standardise: Literal["minute", "window"] = "minute"
    """By mean and standard deviation of training: minute, of each minute of the window, as the published weights were
    trained (windows then begin at one time of day) · window, of all together."""
    dropout: Fraction = 0.1
    hidden: Count = 128
    """Width of the head."""
    adapter: PATAdapter = NoAdapter()


class Stack(ForLabel):
    """Several models of a label: a logistic regression (or least squares) of validation labels on their scores, no weight
    below 0. It is calibrated by its making."""

    kind: Literal["stack"] = "stack"
    members: tuple["Model", ...] = Field(min_length=2)

    @field_validator("members")
    @classmethod
    def _of_labels(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if other := [m.kind for m in value if not isinstance(m, ForLabel)]:
            raise ValueError(f"{', '.join(other)}: no model of a label; there are {', '.join(_kinds(ForLabel))}")
        return value


class Masked(Schema):
    """Pretraining without labels: patches are hidden, and the network learns to rebuild the signal."""

    kind: Literal["masked"] = "masked"
    inner: Annotated[PAT | TTMLabel, Field(discriminator="kind")]
    """The network; its head and adapter have no part in it. A later recipe takes it up by `pretrained: <checkpoint>`."""
    share: float = Field(0.9, gt=0, lt=1)
    """Of the patches, hidden."""
    error: Literal["all", "hidden"] = "all"
    """Which points the squared error is counted on; PAT's authors found `hidden` far worse."""


Model = Annotated[
    Union[
        Persistence, Seasonal, Ridge, CMA, LSTM, MLP, TTM,
        Statistics, FeatureNet, Last, Boosting, CNN, TTMLabel, PAT, Stack, Masked,
        Residual, Exogenous, Physics, Staged, Ensemble, Conformal,
    ],
    Field(discriminator="kind"),
]  # fmt: skip
for _wrapper in (Stack, Residual, Exogenous, Physics, Staged, Ensemble, Conformal):
    _wrapper.model_rebuild()


class EarlyStopping(Schema):
    patience: Count = 3
    min_delta: float = Field(0.0, ge=0)


class Zero(Schema):
    """DeepSpeed's ZeRO: 1 shards the optimizer's state over the workers, 2 the gradients too, 3 the weights too."""

    stage: Literal[1, 2, 3] = 2
    offload: bool = False
    """Keep what is sharded in the memory of the host instead of the GPU's."""


class Training(Schema):
    strategy: Literal["ddp", "fsdp", "deepspeed"] = "ddp"
    """How workers share a model: ddp, a copy each (a single worker trains in its own process) · fsdp, sharded by
    PyTorch · deepspeed, sharded by DeepSpeed as `zero` says."""
    zero: Zero = Zero()
    workers: Count | tuple[Count, Count] = 1
    """Number of workers, or [least, most]: as many as the cluster has room for, also after losing a node."""
    epochs: Count = 10
    batch_size: Count = 512
    """Windows a step over all workers."""
    accumulate: Count = 1
    """Micro-batches a step: memory falls, the batch stays."""
    max_steps_per_epoch: Count | None = None
    lr: Positive = 1e-3
    weight_decay: float = Field(1e-5, ge=0)
    schedule: Literal["constant", "cosine", "plateau"] = "cosine"
    warmup_steps: int = Field(20, ge=0)
    clip_norm: Positive | None = 1.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the GPU has it, else fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    early_stopping: EarlyStopping | None = EarlyStopping()
    max_failures: int = Field(2, ge=0)
    """How often Ray Train restarts workers that died, from the last epoch's checkpoint."""
    seed: int = 42

    @property
    def most_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def in_process(self) -> bool:
        """One worker that shares nothing needs no Ray Train."""
        return self.workers == 1 and self.strategy == "ddp"

    @model_validator(mode="after")
    def _fits(self) -> "Training":
        if not isinstance(self.workers, int) and self.workers[0] > self.workers[1]:
            raise ValueError(f"workers {list(self.workers)}: [least, most], so the first is the smaller")
        if self.precision == "fp16" and self.strategy == "fsdp":
            raise ValueError("precision fp16 isn't available with strategy fsdp; use bf16 or fp32")
        return self


class Tuning(Schema):
    space: str
    """Path of a search space, relative to the working directory."""
    trials: Count = 16
    scheduler: Literal["asha", "hyperband", "pbt", "fifo"] = "asha"
    """asha, hyperband: stop what lags behind · pbt: a population of `trials` whose laggards go on from the leaders'
    weights with other rates (only what may change in the middle of a training) · fifo: every trial to its end."""
    search: Literal["random", "optuna"] = "optuna"
    metric: Literal["val/rmse", "val/mae", "val/loss"] = "val/rmse"
    max_concurrent: Count | None = None
    """None: as many as the cluster has room for."""
    first: tuple[dict[str, Any], ...] = ()
    """Points (dotted.path: value) that are tried first."""
    warm_start: tuple[str, ...] = ()
    """Folders of earlier sweeps: their best points are tried next."""
    seed: int = 42


class Evaluation(Schema):
    bootstrap: Count = 1000
    """Resamples of subjects for the intervals."""
    confidence: float = Field(0.95, gt=0, lt=1)
    seed: int = 0


class Tracking(Schema):
    mlflow: str = "auto"
    """auto: an SQLite file beside the runs · off · a server's URI."""
    wandb: Literal["off", "offline", "online"] = "off"
    """Health data never leaves the machine unless this says online."""
    tensorboard: bool = True

    @field_validator("wandb", "mlflow", mode="before")
    @classmethod
    def _yaml_off(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML 1.1 reads a bare `off` as False


class SlidingWindow(Schema):
    """Every window of the test range, error by minutes ahead."""

    kind: Literal["sliding_window"] = "sliding_window"


class Nocturnal(Schema):
    """Forecasts of the night: scored windows end their context at local midnight."""

    kind: Literal["nocturnal"] = "nocturnal"
    epochs_on: Literal["midnight", "any"] = "midnight"
    """The validation windows that choose the epoch: nights alone, or windows at any time where validation data hold few nights."""


class Prandial(Schema):
    """Forecasts after a meal: scored windows end their context where one begins."""

    kind: Literal["prandial"] = "prandial"
    meals: Literal["recorded", "estimated"] = "recorded"
    """recorded: where carbs_g says so · estimated: from glucose alone, at the times of day when a person's rises most."""


class Personalisation(Schema):
    """From the population's model to one person's: held-out people, error by days of their own data."""

    kind: Literal["personalisation"] = "personalisation"
    days: tuple[Annotated[float, Field(ge=0)], ...] = Field((0, 1, 2, 4, 7, 14), min_length=2)
    """Days of the person's data that the population's model is tuned on; 0 is that model."""
    val_days: Positive = 1.0
    """The days after, which choose the epoch: the same for all."""
    people: Count | None = None
    """At most so many of the held-out people, those with most data; all if left out."""
    lr: Positive = 1e-4
    epochs: Count = 5
    batch_size: Count = 64

    @field_validator("days")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError(f"days rise strictly; found {list(value)}")
        return value


class Transfer(Schema):
    """Trained on one data set, tested on the other, both ways, against trained where tested."""

    kind: Literal["transfer"] = "transfer"
    other: str
    """Path of the other data-set card, relative to the working directory."""


class DataEfficiency(Schema):
    """The score by the number of windows that a model learns from."""

    kind: Literal["data_efficiency"] = "data_efficiency"
    windows: tuple[Count | Literal["all"], ...] = Field((500, 1000, 2000, 5000), min_length=2)
    """all: every training window there is."""


class CrossValidation(Schema):
    """Everybody is tested once: people in groups, each scored by a model that was trained without it."""

    kind: Literal["cross_validation"] = "cross_validation"
    folds: int = Field(5, ge=2)
    """Groups of people. All else of `split` is the recipe's."""


class Ablation(Schema):
    """The recipe's model whole, and without each of its wrappers, members, signals and channels in turn."""

    kind: Literal["ablation"] = "ablation"


class Scaling(Schema):
    """Error by the size of the models."""

    kind: Literal["scaling"] = "scaling"
    part: Literal["width", "layers"] = "width"
    """width: d_model of a ttm, hidden of an lstm · layers of either. Models without stay as they are, a level to compare with."""
    values: tuple[Count, ...] = Field((16, 32, 64, 128), min_length=2)


Experiment = Annotated[
    Union[
        SlidingWindow,
        Nocturnal,
        Prandial,
        Personalisation,
        Transfer,
        DataEfficiency,
        CrossValidation,
        Ablation,
        Scaling,
    ],
    Field(discriminator="kind"),
]


class Recipe(Schema):
    """The frozen configuration of one experiment."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    description: str = ""
    dataset: str
    """Path of the data-set card, relative to the working directory."""
    split: Split = Split()
    window: AnyWindow = Window()
    task: Task = Forecasting()
    model: Model
    compare: tuple[Model, ...] = ()
    """Models trained and scored beside `model` by `raycadian run`, on identical windows."""
    start: str | None = None
    """Folder of a complete run of the same model: training goes on from its weights and statistics."""
    training: Training = Training()
    tuning: Tuning | None = None
    experiment: Experiment | None = None
    """What `raycadian experiment` makes of the recipe, with `model` and `compare` as its models."""
    evaluation: Evaluation = Evaluation()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _fits(self) -> "Recipe":
        models = (self.model, *self.compare)
        match self.task:
            case Forecasting():
                _require_forecast(self, models)
                _require_target(self, models)
            case Classification() | Regression():
                _require_label(self, models)
            case Pretraining():
                _require_pretraining(self, models)
        return self


def _require_forecast(recipe: "Recipe", models: tuple[Any, ...]) -> None:
    """Raises ValueError where windows, split and models don't fit a forecast."""
    window = recipe.window
    if recipe.split.kind == "run":
        raise ValueError(
            "split.kind run is one of classify, regress and pretrain; give forecasts the same `split` section"
        )
    if not isinstance(window, Window):
        raise ValueError(
            "a forecast's window has no kind; leave out `window.kind`, or set task.kind: classify or regress"
        )
    for model in models:
        _require_nesting(model)
        for inner in unwrap(model):
            if isinstance(inner, ForLabel):
                raise ValueError(f"{inner.kind} does not forecast; set task.kind: classify or regress")
            if isinstance(inner, Masked):
                raise ValueError("masked does not forecast; set task.kind: pretrain")
            if isinstance(inner, Ridge) and inner.lags > window.context:
                raise ValueError(
                    f"ridge.lags {inner.lags} exceeds window.context {window.context}; lower lags or raise context"
                )
            if isinstance(inner, TTM) and window.context % inner.patch_length:
                raise ValueError(
                    f"window.context {window.context} is not a multiple of ttm.patch_length {inner.patch_length}"
                )


def _require_target(recipe: "Recipe", models: tuple[Any, ...]) -> None:
    """Raises ValueError where something of glucose alone is asked of another target."""
    target, window = recipe.task.target, recipe.window
    if target != window.past[0]:
        raise ValueError(
            f"task.target {target} is not the first of window.past, {window.past[0]}; set one to the other"
        )
    if target == GLUCOSE:
        return
    if window.known:
        raise ValueError(f"the clock of a case is not known: set window.known: [] to forecast {target}")
    if (window.anchor, window.train_anchor) != ("any", "any"):
        raise ValueError(f"window.anchor is one of days and meals; leave it out to forecast {target}")
    if recipe.experiment is not None:
        raise ValueError(f"experiment {recipe.experiment.kind} is one of glucose; leave it out to forecast {target}")
    for inner in (m for model in models for m in unwrap(model)):
        if not isinstance(inner, Persistence | Ridge | MLP | TTM | Ensemble | Conformal):
            raise ValueError(
                f"{inner.kind} knows glucose alone; {target} is forecast by persistence, ridge, mlp, ttm, and ensemble or "
                "conformal around them"
            )


def _require_label(recipe: "Recipe", models: tuple[Any, ...]) -> None:
    """Raises ValueError where models don't fit a label."""
    if other := [m.kind for m in models if not isinstance(m, ForLabel)]:
        there = ", ".join(_kinds(ForLabel))
        raise ValueError(f"{', '.join(other)}: no model of task {recipe.task.kind}; there are {there}")
    _require_signal(recipe)


def _require_pretraining(recipe: "Recipe", models: tuple[Any, ...]) -> None:
    """Raises ValueError where models don't fit a pretraining."""
    if other := [m.kind for m in models if not isinstance(m, Masked)]:
        raise ValueError(f"{', '.join(other)}: task pretrain trains `masked`, with a network inside")
    _require_signal(recipe)


def _require_signal(recipe: "Recipe") -> None:
    """Raises ValueError where windows, split or experiment don't fit windows of a signal."""
    kind = recipe.task.kind
    if not isinstance(recipe.window, SignalWindow):
        raise ValueError(f"task {kind} needs windows of a signal: window: {{kind: signal, past: [...], ...}}")
    if recipe.split.kind not in ("subject", "kfold", "run"):
        raise ValueError(
            f"split.kind {recipe.split.kind}: task {kind} holds out whole subjects; use subject, kfold or run"
        )
    if recipe.experiment is None:
        return
    if kind == "pretrain" or not isinstance(recipe.experiment, DataEfficiency | CrossValidation):
        raise ValueError(
            f"experiment {recipe.experiment.kind} is one of forecasts; of labels there is data_efficiency, and cross_validation"
        )


def _kinds(base: type[Schema]) -> list[str]:
    return sorted(c.model_fields["kind"].default for c in base.__subclasses__())


class Headline(NamedTuple):
    """The score that a run is chosen by, as metrics_summary.json names it."""

    metric: str
    better: Literal["low", "high"]
    words: str
    unit: str = ""

    def text(self, value: float) -> str:
        digits = 2 if self.unit else 3
        return f"{self.words} {value:.{digits}f}{self.unit and ' '}{self.unit}"


def headline(task: Any) -> Headline:
    match task:
        case Forecasting():
            return Headline(in_unit_of("rmse_mgdl", task.target), "low", "RMSE", unit_of(task.target) or "")
        case Classification():
            return Headline("auroc", "high", "AUROC")
        case Regression(label=Ahead(channel=channel)):
            return Headline("rmse", "low", "RMSE", unit_of(channel) or "")
        case Regression():
            return Headline("rmse", "low", "RMSE")
    return Headline("loss", "low", "loss")


def wrapped(model: Any) -> tuple[Any, ...]:
    """The configurations that a model's wraps directly."""
    match model:
        case Ensemble():
            return model.members * model.size
        case Stack():
            return model.members
        case Masked() | Residual() | Exogenous() | Physics() | Staged() | Conformal():
            return (model.inner,)
    return ()


def protocol_of(recipe: Recipe) -> str:
    """What scores of this recipe may be set beside: those of the same words."""
    window = recipe.window
    if isinstance(recipe.task, Pretraining):
        return f"pretrain; {_cut(window)}"
    if not isinstance(recipe.task, Forecasting):
        return _label_protocol(recipe)
    begins = {"midnight": "nocturnal, from local midnight", "meal": "prandial, from recorded meals",
              "estimated_meal": "prandial, from estimated meals"}  # fmt: skip
    match recipe.experiment:
        case Nocturnal():
            anchor = "midnight"
        case Prandial(meals=meals):
            anchor = "meal" if meals == "recorded" else "estimated_meal"
        case _:
            anchor = window.anchor
    how = begins.get(anchor, f"sliding windows, every {window.eval_stride} points")
    return f"{how}, {window.context} -> {window.horizon} points"


def _label_protocol(recipe: "Recipe") -> str:
    window, task = recipe.window, recipe.task
    match task.label:
        case Hypotension() as label:
            gray = "" if label.gray_mmhg is None else f", gray zone below {label.gray_mmhg:g}"
            what = f"{label.channel} < {label.below:g} for {label.for_s:g} s, {label.gap_min:g} to {label.ahead_min:g} min ahead{gray}"
        case Ahead() as label:
            what = f"mean {label.channel}{label.bound} over {label.over_s:g} s, {label.ahead_min:g} min ahead"
        case Column() as label:
            bound = "" if label.at_least is None else f" >= {label.at_least:g}"
            what = label.name + bound + ("" if label.equals is None else f" = {label.equals}")
    also = "".join(f", also {column.name}" for column in task.also)
    vote = "" if task.vote == 1 else f", votes of {task.vote}"
    weight = "" if task.weight is None else f", weighed by {task.weight}"
    shuffled = ", labels shuffled" if task.shuffled else ""
    return f"{task.kind} {what}{also}; {_cut(window)}{vote}{weight}{shuffled}"


def _cut(window: SignalWindow) -> str:
    return f"{window.windows} x {window.window_s:g} s every {window.eval_step_s:g} s"


def unwrap(model: Any) -> list[Any]:
    """The model's configuration and all those inside it, outermost first."""
    return [model, *(found for inner in wrapped(model) for found in unwrap(inner))]


def mechanism_of(model: Any) -> CMAMechanism | None:
    """The mechanism that a model's batches must carry, if any."""
    return next((m.mechanism for m in unwrap(model) if getattr(m, "mechanism", None) is not None), None)


def signals_of(model: Any) -> tuple[str, ...]:
    """The mechanism's signals that a model's batches must carry beside its curve."""
    asked = dict.fromkeys(s for m in unwrap(model) if isinstance(m, Exogenous) for s in m.signals)
    return tuple(s for s in asked if s != "glucose")


def staged_of(model: Any) -> Staged | None:
    """How a model trains in stages, if it does."""
    return next((m for m in unwrap(model) if isinstance(m, Staged)), None)


def total_epochs(recipe: Recipe) -> int:
    """Epochs over all stages of a training."""
    staged = staged_of(recipe.model)
    if staged is None:
        return recipe.training.epochs
    return staged.pretrain_epochs + staged.frozen_epochs + (1 + staged.rounds) * recipe.training.epochs


def model_name(model: Any) -> str:
    """Short readable name, fit for a file: `ridge`, `residual-ttm`, `ensemble3-ttm`, `ensemble-residual-ttm_lstm`."""
    match model:
        case Ensemble():
            return f"ensemble{model.size if model.size > 1 else ''}-{'_'.join(map(model_name, model.members))}"
        case TTMLabel() | PAT() if not isinstance(model.adapter, NoAdapter):
            return f"{model.kind}_{model.adapter.kind}"
    return "-".join([model.kind, *map(model_name, wrapped(model))])


def _require_nesting(model: Any) -> None:
    """Raises ValueError where wrappers don't fit each other."""
    inside = unwrap(model)
    mechanisms = [m.mechanism for m in inside if hasattr(m, "mechanism")]
    if mechanisms and not any(mechanisms):
        raise ValueError(
            f"{model_name(model)}: no part names its mechanism; give the outermost one, e.g. {{kind: cma}}"
        )
    if len(named := list({repr(m): m for m in mechanisms if m}.values())) > 1:
        raise ValueError(
            f"{model_name(model)}: a model has one mechanism, found {len(named)} that differ; set `mechanism: null` in all "
            "parts but the outermost"
        )
    for part in inside:
        if isinstance(part, Exogenous) and not any(getattr(m, "exogenous", False) for m in unwrap(part.inner)):
            raise ValueError(
                f"{model_name(part)}: no model inside takes known channels; set `exogenous: true` in a ttm, lstm or ridge"
            )
        if isinstance(part, Staged):
            _require_stages(part)
        if isinstance(part, Conformal) and part.folds and part is not model:
            raise ValueError(
                "conformal.folds trains all that is inside again: put that conformal outermost, or set folds: 0"
            )
        if isinstance(part, Ensemble) and any(isinstance(m, Staged) for m in unwrap(part)):
            raise ValueError("stages are those of a whole training: put `staged` around the ensemble, not inside")


def _require_stages(staged: Staged) -> None:
    inside = unwrap(staged.inner)
    if any(isinstance(m, Staged) for m in inside):
        raise ValueError("staged inside staged: a training has one list of stages")
    if not any(isinstance(m, TTM | LSTM | MLP) for m in inside):
        raise ValueError(f"{model_name(staged)}: stages need weights that train; put a ttm, lstm or mlp inside")
    if staged.rounds and not any(isinstance(m, Residual) for m in inside):
        raise ValueError(
            f"{model_name(staged)}: rounds refit the mechanism to glucose less the correction, which only a residual has; "
            "put one inside or set rounds: 0"
        )


# --- search space --------------------------------------------------------------------------------------------------


class Choice(Schema):
    choice: tuple[Any, ...] = Field(min_length=1)


class Range(Schema):
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if not self.low < self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self


class Uniform(Schema):
    uniform: Range


class LogUniform(Schema):
    loguniform: Range

    @model_validator(mode="after")
    def _positive(self) -> "LogUniform":
        if self.loguniform.low <= 0:
            raise ValueError(f"loguniform needs low > 0; found {self.loguniform.low}")
        return self


class RandInt(Schema):
    randint: Range
    """Integers low..high, both included."""


Distribution = Union[Choice, Uniform, LogUniform, RandInt]


class SearchSpace(Schema):
    """dotted.path of a recipe: distribution."""

    description: str = ""
    parameters: dict[str, Distribution] = Field(min_length=1)


SCHEMAS: dict[str, type[Schema]] = {"recipe": Recipe, "card": Card, "space": SearchSpace}

# --- reading -------------------------------------------------------------------------------------------------------


def load_recipe(path: str | Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe with `dotted.path=value` overrides. Raises ValueError that names path, key and nearest name."""
    return parse(Recipe, _read_yaml(path), overrides, source=str(path))


def load_card(path: str | Path) -> Any:
    """A card of any modality (AnyCard). Raises ValueError."""
    return parse_card(_read_yaml(path), source=str(path))


def parse_card(raw: dict, source: str = "card") -> Any:
    """A card by its `modality`, which is cgm where it says none. Raises ValueError."""
    modality = raw.get("modality", "cgm")
    if modality not in CARDS:
        raise ValueError(f"{source}: modality {modality!r}; there are {', '.join(CARDS)}")
    return parse(CARDS[modality], raw, source=source)


def load_space(path: str | Path) -> SearchSpace:
    return parse(SearchSpace, _read_yaml(path), source=str(path))


def parse(schema: type[Schema], raw: dict, overrides: tuple[str, ...] = (), source: str = "configuration") -> Any:
    """Validate plain values against a schema, then overrides on top of all defaults. Raises ValueError."""
    valid = _validate(schema, raw, source)
    if not overrides:
        return valid
    return override(valid, dict(_assignment(text) for text in overrides), source)


def override(valid: Any, values: dict[str, Any], source: str = "configuration") -> Any:
    """A configuration with `dotted.path: value` applied: `--set`, and what a trial of a sweep does. Raises ValueError."""
    raw = valid.model_dump(mode="json")
    for path, value in values.items():
        raw = with_value(raw, path, value)
    return _validate(type(valid), raw, f"{source} with overrides")


def _assignment(text: str) -> tuple[str, Any]:
    path, found, value = text.partition("=")
    if not found:
        raise ValueError(f"--set {text}: expected dotted.path=value, e.g. training.epochs=3")
    return path.strip(), yaml.safe_load(value)


def _validate(schema: type[Schema], raw: dict, source: str) -> Any:
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        raise ValueError(_explain(schema, error, source)) from None


def with_value(raw: dict, path: str, value: Any) -> dict:
    """A copy of nested `raw` with `dotted.path` set; list elements by number. Raises ValueError."""
    head, _, rest = path.partition(".")
    if isinstance(raw, list):
        if not head.isdigit() or int(head) >= len(raw):
            raise ValueError(f"{path}: expected an index of a list of {len(raw)}, found {head!r}")
        items = list(raw)
        items[int(head)] = with_value(_or_empty(items[int(head)]), rest, value) if rest else value
        return items  # type: ignore[return-value]
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: nothing can be set below a plain value ({raw!r})")
    return {**raw, head: with_value(_or_empty(raw.get(head)), rest, value) if rest else value}


def _or_empty(value: Any) -> Any:
    return {} if value is None else value


def _read_yaml(path: str | Path) -> dict:
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file (working directory {Path.cwd()})")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: expected a mapping of keys, found {type(raw).__name__}")
    return raw


def _explain(schema: type[Schema], error: ValidationError, source: str) -> str:
    lines = []
    for item in error.errors():
        *parents, last = item["loc"] or ("",)
        where = ".".join(str(part) for part in item["loc"] if part != "points") or "(top level)"
        if item["type"] == "extra_forbidden":
            names = _fields_at(schema, parents)
            near = difflib.get_close_matches(str(last), names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"valid: {', '.join(names)}"
            lines.append(f"  {where}: unknown key; {hint}")
        else:
            lines.append(f"  {where}: {item['msg']}" + (f" (found {item['input']!r})" if _plain(item["input"]) else ""))
    return f"{source} is not a valid {schema.__name__.lower()}:\n" + "\n".join(lines)


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


def _fields_at(schema: Any, loc: list) -> list[str]:
    """Field names valid at a location of a validation error (union tags are part of the location)."""
    current = [schema]
    for part in loc:
        step: list[Any] = []
        for candidate in current:
            if part in getattr(candidate, "model_fields", {}):
                step += _schemas_in(candidate.model_fields[part].annotation)
            elif "kind" in getattr(candidate, "model_fields", {}) and candidate.model_fields["kind"].default == part:
                step.append(candidate)  # the tag of a discriminated union
        current = step or current
    return sorted({name for candidate in current for name in candidate.model_fields})


def _schemas_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return [annotation] if issubclass(annotation, Schema) else []
    return [found for arg in get_args(annotation) for found in _schemas_in(arg)]
