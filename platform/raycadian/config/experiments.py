"""What `raycadian experiment` makes of a recipe."""

from typing import Annotated, ClassVar, Literal, Union

from pydantic import Field, field_validator

from raycadian.config.schema import Count, Positive, Schema


class ExperimentConfig(Schema):
    """What holds of an experiment that says nothing else: it is one of forecasts of glucose."""

    tasks: ClassVar[frozenset[str]] = frozenset({"forecast"})
    """Kinds of task that it is made of."""

    kind: str

    @property
    def anchor(self) -> str | None:
        """Where scored windows end their context, if the experiment says it."""
        return None


class SlidingWindow(ExperimentConfig):
    """Every window of the test range, error by minutes ahead."""

    kind: Literal["sliding_window"] = "sliding_window"


class Nocturnal(ExperimentConfig):
    """Forecasts of the night: scored windows end their context at local midnight."""

    kind: Literal["nocturnal"] = "nocturnal"
    epochs_on: Literal["midnight", "any"] = "midnight"
    """The validation windows that choose the epoch: nights alone, or any windows where validation holds few nights."""

    @property
    def anchor(self) -> str:
        return "midnight"


class Prandial(ExperimentConfig):
    """Forecasts after a meal: scored windows end their context where one begins."""

    kind: Literal["prandial"] = "prandial"
    meals: Literal["recorded", "estimated"] = "recorded"
    """recorded: where carbs_g says so · estimated: from glucose alone, when a person's usually rises."""

    @property
    def anchor(self) -> str:
        return "meal" if self.meals == "recorded" else "estimated_meal"


class Personalisation(ExperimentConfig):
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


class Transfer(ExperimentConfig):
    """Trained on one data set, tested on the other, both ways, against trained where tested."""

    kind: Literal["transfer"] = "transfer"
    other: str
    """Path of the other data-set card, relative to the working directory."""


class DataEfficiency(ExperimentConfig):
    """The score by the number of windows that a model learns from."""

    tasks = frozenset({"forecast", "classify", "regress"})

    kind: Literal["data_efficiency"] = "data_efficiency"
    windows: tuple[Count | Literal["all"], ...] = Field((500, 1000, 2000, 5000), min_length=2)
    """all: every training window there is."""


class CrossValidation(ExperimentConfig):
    """Everybody is tested once: people in groups, each scored by a model that was trained without it."""

    tasks = frozenset({"forecast", "classify", "regress"})

    kind: Literal["cross_validation"] = "cross_validation"
    folds: int = Field(5, ge=2)
    """Groups of people. All else of `split` is the recipe's."""


class Ablation(ExperimentConfig):
    """The recipe's model whole, and without each of its wrappers, members, signals and channels in turn."""

    kind: Literal["ablation"] = "ablation"


class Scaling(ExperimentConfig):
    """Error by the size of the models."""

    kind: Literal["scaling"] = "scaling"
    part: Literal["width", "layers"] = "width"
    """width: d_model of a ttm, hidden of an lstm · layers of either. Models without stay, to compare with."""
    values: tuple[Count, ...] = Field((16, 32, 64, 128), min_length=2)


EXPERIMENTS: tuple[type[ExperimentConfig], ...] = (
    SlidingWindow, Nocturnal, Prandial, Personalisation, Transfer, DataEfficiency, CrossValidation, Ablation, Scaling,
)  # fmt: skip


Experiment = Annotated[Union[EXPERIMENTS], Field(discriminator="kind")]


def experiments_of(task: str) -> list[str]:
    """The kinds of experiments that a kind of task has."""
    return [experiment.model_fields["kind"].default for experiment in EXPERIMENTS if task in experiment.tasks]
