"""What a recipe asks of its windows: a forecast, a label, or to learn without one."""

import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from raycadian.config.experiments import experiments_of
from raycadian.config.metric import Metric
from raycadian.config.model_base import model_name, require_nesting, unwrap
from raycadian.config.models import kinds
from raycadian.config.schema import Count, Positive, Schema, exclusive, tag, unsaid
from raycadian.config.units import in_unit_of, unit_of
from raycadian.config.windows import LabelWindow, Window
from raycadian.types import GLUCOSE

if TYPE_CHECKING:
    from raycadian.config.recipe import Recipe

_OF_FORECASTS = {
    "rmse": ("rmse_mgdl", "RMSE", "val/rmse"),
    "mae": ("mae_mgdl", "MAE", "val/mae"),
    "pinball": ("pinball_mgdl", "pinball loss", "val/loss"),
}
_BEGINS = {
    "midnight": "nocturnal, from local midnight", "meal": "prandial, from recorded meals",
    "estimated_meal": "prandial, from estimated meals",
}  # fmt: skip


class Forecasting(Schema):
    """The next values of a channel, as quantiles."""

    window_type: ClassVar[type[Schema]] = Window
    split_of_run: ClassVar[bool] = False  # whether `split: {kind: run}` may share the people of another run
    kind: Literal["forecast"] = "forecast"
    target: str = GLUCOSE
    """The first channel of window.past: glucose, or a numeric of a card of biosignals (map_mmhg)."""
    quantiles: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95)
    metric: Literal["rmse", "mae", "pinball"] | None = Field(None, exclude_if=unsaid)
    """What chooses the epoch, the trial and the champion, and orders every table. Left out: rmse."""

    @property
    def headline(self) -> Metric:
        name, words, monitor = _OF_FORECASTS[self.metric or "rmse"]
        return Metric(in_unit_of(name, self.target), "low", words, unit_of(self.target) or "", monitor)

    def registered(self, recipe: Any) -> str:
        """What distinguishes champions of one data set and kind of task."""
        return f"{'' if self.target == GLUCOSE else f'{self.target}-'}{recipe.window.horizon}"

    def protocol(self, recipe: Any) -> str:
        """What scores of the recipe may be set beside: those of the same words."""
        window = recipe.window
        anchor = window.anchor if recipe.experiment is None else recipe.experiment.anchor or window.anchor
        how = _BEGINS.get(anchor, f"sliding windows, every {window.eval_stride} points")
        return f"{how}, {window.context} -> {window.horizon} points"

    @field_validator("quantiles")
    @classmethod
    def _levels(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)) or not all(0 < q < 1 for q in value) or 0.5 not in value:
            raise ValueError(f"quantiles rise strictly inside (0, 1) and contain 0.5; found {list(value)}")
        return value

    def check(self, recipe: "Recipe") -> None:
        """Raises ValueError where windows, split, models or experiment don't fit a forecast."""
        if recipe.split.kind == "run":
            raise ValueError(
                "split.kind run is one of classify, regress and pretrain; give forecasts the same `split` section"
            )
        if not isinstance(recipe.window, self.window_type):
            raise ValueError(
                "a forecast's window has no kind; leave out `window.kind`, or set task.kind: classify or regress"
            )
        for model in (recipe.model, *recipe.compare):
            require_nesting(model)
        _require_models(recipe)
        self._check_target(recipe)

    def _check_target(self, recipe: "Recipe") -> None:
        """Raises ValueError where something of glucose alone is asked of another target."""
        target, window = self.target, recipe.window
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
            raise ValueError(
                f"experiment {recipe.experiment.kind} is one of glucose; leave it out to forecast {target}"
            )
        for part in (part for model in (recipe.model, *recipe.compare) for part in unwrap(model)):
            if not part.any_target:
                able = ", ".join(kinds(lambda model: model.any_target))
                raise ValueError(f"{part.kind} knows glucose alone; {target} is forecast by {able}")


class _Label(Schema):
    of_recording: ClassVar[bool] = False
    """Whether all windows of a recording have one value."""

    @property
    def unit(self) -> str:
        return ""


class Hypotension(_Label):
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
    """Windows without an episode whose pressure falls below this are left out: not clearly low or normal."""

    @property
    def registered(self) -> str:
        return f"{self.kind}-{self.ahead_min:g}min"

    @property
    def words(self) -> str:
        gray = "" if self.gray_mmhg is None else f", gray zone below {self.gray_mmhg:g}"
        when = f"{self.gap_min:g} to {self.ahead_min:g} min ahead"
        return f"{self.channel} < {self.below:g} for {self.for_s:g} s, {when}{gray}"

    @model_validator(mode="after")
    def _ordered(self) -> "Hypotension":
        if self.gap_min >= self.ahead_min:
            raise ValueError(f"gap_min {self.gap_min:g} reaches ahead_min {self.ahead_min:g}; lower it")
        if self.gray_mmhg is not None and self.gray_mmhg <= self.below:
            raise ValueError(
                f"gray_mmhg {self.gray_mmhg:g} is not above below {self.below:g}; raise it or leave it out"
            )
        return self


class Ahead(_Label):
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

    @property
    def registered(self) -> str:
        return f"{self.channel}-{self.ahead_min:g}min"

    @property
    def words(self) -> str:
        return f"mean {self.channel}{self.bound} over {self.over_s:g} s, {self.ahead_min:g} min ahead"

    @property
    def unit(self) -> str:
        return unit_of(self.channel) or ""

    _one = model_validator(mode="after")(exclusive("below", "at_least"))


class Column(_Label):
    """A column of the table of cases or people, the same for all windows of a recording."""

    of_recording = True
    kind: Literal["column"] = "column"
    name: str
    at_least: float | None = None
    """classify: 1 where the value is at least this."""
    equals: str | float | None = None
    """classify: 1 where the value is this. Without either the column holds 0 and 1."""

    @property
    def registered(self) -> str:
        return re.sub(r"[^A-Za-z0-9_.-]", "_", self.name)

    @property
    def words(self) -> str:
        bound = "" if self.at_least is None else f" >= {self.at_least:g}"
        return self.name + bound + ("" if self.equals is None else f" = {self.equals}")

    _one = model_validator(mode="after")(exclusive("at_least", "equals"))


Label = Annotated[Hypotension | Ahead | Column, Field(discriminator="kind")]


class _OnSignals(Schema):
    """What the tasks on windows of a signal share."""

    window_type: ClassVar[type[Schema]] = LabelWindow
    split_of_run: ClassVar[bool] = True

    kind: str

    def check(self, recipe: "Recipe") -> None:
        """Raises ValueError where models, windows, split or experiment don't fit."""
        _require_models(recipe)
        if not isinstance(recipe.window, self.window_type):
            raise ValueError(f"task {self.kind} needs windows of a signal: window: {{kind: signal, past: [...], ...}}")
        if recipe.split.kind not in ("subject", "kfold", "run"):
            raise ValueError(
                f"split.kind {recipe.split.kind}: task {self.kind} holds out whole subjects; use subject, kfold or run"
            )
        if recipe.experiment is not None and self.kind not in recipe.experiment.tasks:
            able = ", ".join(experiments_of(self.kind)) or "none"
            raise ValueError(f"experiment {recipe.experiment.kind} is not one of task {self.kind}; there is {able}")


def _require_models(recipe: "Recipe") -> None:
    """Raises ValueError for a model that doesn't serve the recipe's task, or doesn't fit its windows."""
    task = recipe.task.kind
    models = (recipe.model, *recipe.compare)
    if others := [model for model in models if task not in model.served_tasks()]:
        served = sorted({other for model in others for other in model.served_tasks()})
        fix = f"; or set task.kind: {' or '.join(served)}" if served else ""
        able = ", ".join(kinds(lambda model: task in model.tasks))
        raise ValueError(f"{', '.join(map(model_name, others))}: no model of task {task}; there are {able}{fix}")
    for model in models:
        model.check(recipe)


class Pretraining(_OnSignals):
    """No label: a network learns to rebuild what is hidden of the signal."""

    kind: Literal["pretrain"] = "pretrain"
    metric: ClassVar[None] = None  # the loss alone

    @property
    def headline(self) -> Metric:
        return Metric("loss", "low", "loss")

    def registered(self, recipe: Any) -> str:
        return recipe.name

    def protocol(self, recipe: Any) -> str:
        """What scores of the recipe may be set beside: those of the same words."""
        return f"pretrain; {recipe.window.words}"


class _Labelled(_OnSignals):
    """What the tasks with a label share."""

    label: Label
    """What a run is chosen by."""
    also: tuple[Column, ...] = ()
    """Further labels that one network learns at the same time, each calibrated and scored on its own. A window needs
    one of all that is known; what isn't counts nowhere."""
    weight: str | None = None
    """Column of the table of people that weighs them in every score (survey weights)."""
    weighted_loss: bool = False
    """`weight` weighs people in the loss too, and in what is fitted in closed form."""
    vote: Count = 1
    """Scored windows in a row of a recording that vote together."""
    shuffled: bool = False
    """Labels in random order over all splits: nothing can be learnt, and the scores must say so."""

    def registered(self, recipe: Any) -> str:
        """What distinguishes champions of one data set and kind of task."""
        return self.label.registered

    def protocol(self, recipe: Any) -> str:
        """What scores of the recipe may be set beside: those of the same words."""
        also = "".join(f", also {column.name}" for column in self.also)
        vote = "" if self.vote == 1 else f", votes of {self.vote}"
        weight = "" if self.weight is None else f", weighed by {self.weight}"
        shuffled = ", labels shuffled" if self.shuffled else ""
        kind: str = self.kind  # type: ignore[attr-defined]
        return f"{kind} {self.label.words}{also}; {recipe.window.words}{vote}{weight}{shuffled}"

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


_OF_CLASSES = {
    "auroc": Metric("auroc", "high", "AUROC", monitor="val/auroc"),
    "auprc": Metric("auprc", "high", "AUPRC", monitor="val/auprc"),
    "brier": Metric("brier", "low", "Brier score", monitor="val/rmse"),  # its root, of the uncalibrated probability
}


class Classification(_Labelled):
    """Whether, as a calibrated probability."""

    kind: Literal["classify"] = "classify"
    balance: Literal["none", "training"] = "training"
    """training: windows with the label weigh as much as all others together, by their share in training."""
    calibration: Literal["none", "temperature", "platt", "beta", "isotonic", "chosen"] = "platt"
    """How validation data turn the model's log odds into probabilities. chosen: by whichever of the others says it best
    of validation people that it was not fitted on."""
    voting: Literal["soft", "hard"] = "soft"
    """soft: the mean probability votes · hard: the share of windows above the threshold."""
    specificity: float = Field(0.9, gt=0, lt=1)
    """What the alarm's threshold is set to on validation data; sensitivity is given at it."""
    metric: Literal["auroc", "auprc", "brier"] | None = Field(None, exclude_if=unsaid)
    """What chooses the epoch, the trial and the champion, and orders every table. Left out: auroc; the epoch is then
    the one of least loss, which says more of few windows."""

    @property
    def headline(self) -> Metric:
        return _OF_CLASSES[self.metric or "auroc"]

    @model_validator(mode="after")
    def _yes_or_no(self) -> "Classification":
        if isinstance(self.label, Ahead) and not self.label.bound:
            raise ValueError(
                f"{self.label.channel} ahead is a number, expected yes or no: give label.below or label.at_least, or "
                "task.kind: regress"
            )
        return self


class Regression(_Labelled):
    """How much, in the label's own unit."""

    kind: Literal["regress"] = "regress"
    metric: Literal["rmse", "mae"] | None = Field(None, exclude_if=unsaid)
    """What chooses the epoch, the trial and the champion, and orders every table. Left out: rmse."""

    @property
    def headline(self) -> Metric:
        name = self.metric or "rmse"
        return Metric(name, "low", name.upper(), self.label.unit, f"val/{name}")

    @model_validator(mode="after")
    def _a_number(self) -> "Regression":
        if isinstance(self.label, Hypotension):
            raise ValueError(
                "hypotension is yes or no: classify it; label: {kind: ahead, channel: map_mmhg} is a number"
            )
        if isinstance(self.label, Ahead) and self.label.bound:
            raise ValueError(
                f"{self.label.channel}{self.label.bound} is yes or no: leave label.below and label.at_least out, or "
                "task.kind: classify"
            )
        return self


Task = Annotated[
    Annotated[Forecasting, Tag("forecast")] | Annotated[Classification, Tag("classify")]
    | Annotated[Regression, Tag("regress")] | Annotated[Pretraining, Tag("pretrain")],
    Discriminator(tag("kind", "forecast")),
]  # fmt: skip


LabelTask = Classification | Regression
