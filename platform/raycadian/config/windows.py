"""The grid, the split, and the windows of a recipe."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from raycadian.config.schema import Count, Fraction, Positive, Schema, distinct, tag, unsaid
from raycadian.types import BASAL, BOLUS, CARBS, GLUCOSE


class Grid(Schema):
    """How irregular readings become recordings on an even grid."""

    dt_min: float = Field(5.0, ge=1 / 60, le=1440)
    """Grid step in minutes."""
    gap_min: float = Field(45.0, gt=0, le=20_160)
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


class PersonDays(Schema):
    """One person's days in order: `history_days`, of which the last `train_days` train, `val_days`, and the rest to
    test. A day is 24 h of grid points; gaps between recordings don't count."""

    subject: str
    history_days: Positive
    train_days: Positive
    val_days: Positive = 1.0

    @model_validator(mode="after")
    def _within(self) -> "PersonDays":
        if self.train_days > self.history_days:
            raise ValueError(f"train_days {self.train_days:g} exceed history_days {self.history_days:g}; lower them")
        return self


class Split(Schema):
    """Who and when is training, validation, test. A training window stays inside its part; what validation and test
    forecast does, and the context before it may reach back into earlier parts of the same recording."""

    kind: Literal["subject", "time", "hybrid", "kfold", "person", "run"] = "hybrid"
    """subject: people held out whole · time: the last stretch of everyone · hybrid: both · kfold: grouped by subject ·
    person: one person's days, as `person` says · run: the people of `run`, which a pretraining and its task share."""
    test_subjects: Fraction | Count = 0.2
    """Share of the people, or how many."""
    val_subjects: Fraction | Count = 0.2
    """subject and kfold: share of the remaining people for validation, or how many."""
    test_fraction: Fraction = 0.15
    val_fraction: Fraction = 0.15
    folds: int = Field(5, ge=2)
    fold: int = Field(0, ge=0)
    person: "PersonDays | None" = None
    run: str | None = Field(None, exclude_if=unsaid)
    """A complete run's folder on the same data set. Who isn't in it trains: nothing is scored on them there or here."""
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
    """Past channels; the first is the target. Of glucose: carbs_g, bolus_u, basal_uph beside it · else numerics of the
    card of biosignals, such as [map_mmhg]."""
    known: tuple[Literal["hour_sin", "hour_cos", "planned_carbs"], ...] = ("hour_sin", "hour_cos")
    """Channels known over context and horizon. planned_carbs (g): what is eaten in the horizon too, which is no leak
    only where meals are planned before the forecast is made; scoring takes what was recorded for the plan."""
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
                f"past channels are distinct and begin with what is forecast, {GLUCOSE} unless a numeric; found "
                f"{list(value)}"
            )
        if odd := [c for c in value[1:] if (c in BESIDE_GLUCOSE) != (value[0] == GLUCOSE)]:
            raise ValueError(
                f"past channels {odd} don't go with {value[0]}; beside glucose: {', '.join(BESIDE_GLUCOSE)}"
            )
        return value

    @model_validator(mode="after")
    def _meals_are_recorded(self) -> "Window":
        if CARBS in self.past:
            return self
        needs = f"needs {CARBS} among the past channels; add it to window.past"
        if "meal" in (self.anchor, self.train_anchor):
            raise ValueError(f"anchor meal {needs}, or take estimated_meal")
        if "planned_carbs" in self.known:
            raise ValueError(f"known channel planned_carbs {needs}")
        return self


class LabelWindow(Schema):
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
    past: Annotated[tuple[str, ...], distinct("past channels")] = Field(min_length=1)
    """Channels of the snapshot, e.g. [ecg_mv, ppg, abp_mmhg]."""
    max_missing: Fraction = 0.0
    """At most this share is bad: of the windows, where the card judges quality; else of the points."""
    train_windows: Count | None = None
    """Train on that many windows, drawn at random; a smaller draw is part of a larger one."""

    @property
    def words(self) -> str:
        """How windows that are scored are cut."""
        return f"{self.windows} x {self.window_s:g} s every {self.eval_step_s:g} s"

    @property
    def length_s(self) -> float:
        return self.window_s * self.windows


AnyWindow = Annotated[
    Annotated[Window, Tag("points")] | Annotated[LabelWindow, Tag("signal")], Discriminator(tag("kind", "points"))
]
