"""A section a forecaster, the wrappers around models, and which models there are."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, Union

from pydantic import Field, field_validator, model_validator

from raycadian.config.adapters import Adapter, NoAdapter
from raycadian.config.label_models import (
    CNN,
    PAT,
    Boosting,
    FeatureNet,
    LabelModelConfig,
    LastValue,
    Statistics,
    TTMLabel,
)
from raycadian.config.mechanism import CMAMechanism
from raycadian.config.model_base import ModelConfig, staged_of, unwrap
from raycadian.config.schema import Count, Fraction, Schema, distinct

if TYPE_CHECKING:
    from raycadian.config.recipe import Recipe


Head = Literal["quantiles", "student_t"]
"""quantiles: trained by the pinball loss · student_t: a distribution, trained by likelihood, whose quantiles serve."""


class Persistence(ModelConfig):
    """The last reading goes on."""

    any_target = True

    kind: Literal["persistence"] = "persistence"


class Seasonal(ModelConfig):
    """The same hour yesterday; needs a context of at least 24 h."""

    kind: Literal["seasonal"] = "seasonal"


class Ridge(ModelConfig):
    """Direct multi-step linear autoregression with an L2 penalty."""

    any_target = True

    kind: Literal["ridge"] = "ridge"
    lags: Count = 12
    basis: Literal["lagged", "changes"] = "lagged"
    """lagged: differences to the last value · changes: from point to point, so that a penalty smooths."""
    alpha: float = Field(1.0, ge=0)
    """Penalty. lagged: in units of the mean squared lagged difference, over all windows together. changes: in units of
    each variable's variance, a window: the same strength whatever their number; 0.01 to 0.1 is usual."""
    exogenous: bool = False
    """Each step also takes the known channels at its own time."""

    def check(self, recipe: "Recipe") -> None:
        context = recipe.window.context
        if self.lags > context:
            raise ValueError(f"ridge.lags {self.lags} exceeds window.context {context}; lower lags or raise context")


class CMA(ModelConfig):
    """The mechanism alone."""

    kind: Literal["cma"] = "cma"
    mechanism: CMAMechanism = CMAMechanism()

    def mechanisms(self) -> tuple[CMAMechanism | None, ...]:
        return (self.mechanism,)


class LSTM(ModelConfig):
    """bloodTwin's LSTM: last hidden state -> Linear, ReLU, Dropout -> Linear."""

    trains = True
    width_field = "hidden"

    kind: Literal["lstm"] = "lstm"
    hidden: Count = 128
    layers: Count = 2
    dropout: Fraction = 0.2
    exogenous: bool = False
    """The known channels enter: over the context into the LSTM, over the horizon into the head."""
    head: Head = "quantiles"


class MLP(ModelConfig):
    """A small network on the latest changes of glucose, beside a linear autoregression on them."""

    any_target = True
    trains = True
    width_field = "hidden"

    kind: Literal["mlp"] = "mlp"
    lags: Count = 48
    """Changes from point to point that it sees."""
    hidden: Count = 128
    layers: Count = 2
    dropout: Fraction = 0.1
    hour: bool = True
    """The hour of day enters."""
    level_noise: float = Field(0.0, ge=0)
    """Standard deviation of noise on the level while training, in units of the level's own: it then relies on the
    changes, and does better for people whose glucose lies elsewhere than that of those it was trained on."""
    head: Head = "quantiles"


class TTM(ModelConfig):
    """Tiny Time Mixer (granite-tsfm)."""

    any_target = True
    trains = True
    width_field = "d_model"

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

    def check(self, recipe: "Recipe") -> None:
        context = recipe.window.context
        if context % self.patch_length:
            raise ValueError(f"window.context {context} is not a multiple of ttm.patch_length {self.patch_length}")


class WrapperConfig(ModelConfig):
    """A model around one other. Its own section has `inner`."""

    def parts(self) -> tuple[ModelConfig, ...]:
        return (self.inner,)

    def with_parts(self, parts: Iterable[ModelConfig]) -> Self:
        (inner,) = parts
        return self.model_copy(update={"inner": inner})

    def reduced(self) -> Iterator[tuple[str, ModelConfig]]:
        yield f"without {self.kind}", self._bare()
        yield from self._with_less()
        for name, inner in self.inner.reduced():
            yield name, self.with_parts([inner])

    def _bare(self) -> ModelConfig:
        """What it wraps, alone."""
        return self.inner

    def _with_less(self) -> Iterator[tuple[str, ModelConfig]]:
        """The wrapper itself without something that it adds."""
        return iter(())


SharedMechanism = CMAMechanism | None
"""One model has one mechanism: what is nested says null (or the same again)."""


class MechanismWrapper(WrapperConfig):
    """A model that joins the mechanism with another."""

    mechanism: SharedMechanism = CMAMechanism()

    def mechanisms(self) -> tuple[CMAMechanism | None, ...]:
        return (self.mechanism,)

    def with_mechanism(self, mechanism: CMAMechanism) -> Self:
        return self.model_copy(update={"mechanism": self.mechanism or mechanism})

    def _bare(self) -> ModelConfig:
        return self.inner if self.mechanism is None else self.inner.with_mechanism(self.mechanism)


class Residual(MechanismWrapper):
    """Mechanism + learned correction: the inner model sees and predicts what the mechanism leaves over."""

    corrects_mechanism = True

    kind: Literal["residual"] = "residual"
    inner: "Model"


Signal = Literal["glucose", "L", "m", "c", "a", "I_S", "I_E", "meal_distr"]


class Exogenous(MechanismWrapper):
    """The mechanism's signals as more known channels of the inner model, one part of which says `exogenous: true`."""

    kind: Literal["exogenous"] = "exogenous"
    signals: Annotated[tuple[Signal, ...], distinct("signals")] = Field(
        ("glucose", "L", "m", "c", "a", "I_S", "I_E"), min_length=1
    )
    """glucose: the mechanism's curve · L light, m melatonin, c cortisol, a adiponectin, I_S insulin sensitivity, I_E
    effective insulin · meal_distr: meal distribution."""
    inner: "Model"

    def mechanism_signals(self) -> tuple[str, ...]:
        return self.signals

    def check_nesting(self) -> None:
        super().check_nesting()
        if not any(part.takes_known() for part in unwrap(self.inner)):
            able = either(kinds(lambda model: "exogenous" in model.model_fields))
            raise ValueError(
                f"{self.readable_name()}: no model inside takes known channels; set `exogenous: true` in one ({able})"
            )

    def _with_less(self) -> Iterator[tuple[str, ModelConfig]]:
        for signal in self.signals if len(self.signals) > 1 else ():
            rest = tuple(other for other in self.signals if other != signal)
            yield f"without signal {signal}", self.model_copy(update={"signals": rest})


class Physics(MechanismWrapper):
    """The inner model, held to the mechanism's rate of change while it trains."""

    kind: Literal["physics"] = "physics"
    weight: float = Field(1e-3, ge=0)
    """mg/dL of loss for one (mg/dL per hour)^2 of mean squared difference between the rates."""
    inner: "Model"


class Simulated(Schema):
    """People simulated by the mechanism, their parameters drawn from its priors."""

    subjects: Count = 64
    days: Count = 7
    seed: int = 0


class Staged(MechanismWrapper):
    """Training in stages: on simulated people, on real ones the backbone frozen, then mechanism and weights in turn."""

    kind: Literal["staged"] = "staged"
    simulated: Simulated = Simulated()
    pretrain_epochs: int = Field(5, ge=0)
    """Epochs on simulated people, all weights; 0 leaves the stage out."""
    frozen_epochs: int = Field(2, ge=0)
    """Epochs on the training data with the backbone frozen; 0 leaves the stage out."""
    rounds: int = Field(1, ge=0)
    """After training.epochs on the training data: how often the mechanism is fitted again, to glucose less the learned
    correction, and the weights trained again (training.epochs each). Needs a residual inside."""
    inner: "Model"

    def stages(self) -> "Staged":
        return self

    def check_nesting(self) -> None:
        super().check_nesting()
        inside = unwrap(self.inner)
        if staged_of(self.inner):
            raise ValueError("staged inside staged: a training has one list of stages")
        if not any(part.trains for part in inside):
            able = either(kinds(lambda model: model.trains))
            raise ValueError(f"{self.readable_name()}: stages need weights that train; put them inside ({able})")
        if self.rounds and not any(part.corrects_mechanism for part in inside):
            raise ValueError(
                f"{self.readable_name()}: rounds refit the mechanism to glucose less the correction, which only a "
                "residual has; put one inside or set rounds: 0"
            )


class SeveralModels(ModelConfig):
    """A model of several. Its own section has `members`."""

    def parts(self) -> tuple[ModelConfig, ...]:
        return self.members

    def with_parts(self, parts: Iterable[ModelConfig]) -> Self:
        return self.model_copy(update={"members": tuple(parts)})


class Ensemble(SeveralModels):
    """Several models trained side by side: their mean, widened by how far they are apart."""

    any_target = True

    kind: Literal["ensemble"] = "ensemble"
    members: tuple["Model", ...] = Field(min_length=1)
    size: Count = 1
    """Copies of each member; they differ in their random start."""
    weights: Literal["equal", "validation"] = "equal"
    """validation: those of the mean's least squared error on validation data, none below 0, drawn towards equal."""

    @model_validator(mode="after")
    def _several(self) -> "Ensemble":
        if len(self.members) * self.size < 2:
            raise ValueError("an ensemble of one is no ensemble: name more members, or set size")
        return self

    def readable_name(self) -> str:
        names = "_".join(member.readable_name() for member in self.members)
        return f"ensemble{self.size if self.size > 1 else ''}-{names}"

    def check_nesting(self) -> None:
        super().check_nesting()
        if staged_of(self):
            raise ValueError("stages are those of a whole training: put `staged` around the ensemble, not inside")

    def reduced(self) -> Iterator[tuple[str, ModelConfig]]:
        for i, member in enumerate(self.members):
            rest = self.members[:i] + self.members[i + 1 :]
            if rest:
                alone = len(rest) == 1 and self.size == 1
                yield f"without member {i + 1}", rest[0] if alone else self.with_parts(rest)
            for name, part in member.reduced():
                yield f"member {i + 1} {name}", self.with_parts([*self.members[:i], part, *self.members[i + 1 :]])


class Conformal(WrapperConfig):
    """Conformal prediction: every quantile moved, step by step, to where it belongs on data that was not trained on."""

    any_target = True

    kind: Literal["conformal"] = "conformal"
    folds: int = Field(0, ge=0)
    """0: placed on validation windows. k: on everybody of the training data, in k groups of people, each scored by a
    model that was trained without it, which takes k more trainings; sweeps leave them out. Outermost only."""
    inner: "Model"

    @field_validator("folds")
    @classmethod
    def _several(cls, value: int) -> int:
        if value == 1:
            raise ValueError("one group leaves nobody to train on: 0 for none, or 2 and more")
        return value

    def crossfit_folds(self) -> int:
        return self.folds

    def check_inside(self) -> None:
        if self.folds:
            raise ValueError(
                "conformal.folds trains all that is inside again: put that conformal outermost, or set folds: 0"
            )


class Stack(SeveralModels, LabelModelConfig):
    """Several models of a label: a logistic regression (or least squares) of validation labels on their scores, no
    weight below 0. It is calibrated by its making."""

    kind: Literal["stack"] = "stack"
    members: tuple["Model", ...] = Field(min_length=2)

    @field_validator("members")
    @classmethod
    def _of_labels(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if other := [member.kind for member in value if not member.tasks >= cls.tasks]:
            able = ", ".join(kinds(lambda model: model.tasks >= cls.tasks))
            raise ValueError(f"{', '.join(other)}: no model of a label; there are {able}")
        return value


class Masked(WrapperConfig):
    """Pretraining without labels: patches are hidden, and the network learns to rebuild the signal."""

    tasks: ClassVar[frozenset[str]] = frozenset({"pretrain"})

    kind: Literal["masked"] = "masked"
    inner: Annotated[PAT | TTMLabel, Field(discriminator="kind")]
    """The network; its head and adapter have no part in it. A later recipe starts from it: `pretrained:
    <checkpoint>`."""
    share: float = Field(0.9, gt=0, lt=1)
    """Of the patches, hidden."""
    error: Literal["all", "hidden"] = "all"
    """Which points the squared error is counted on; PAT's authors found `hidden` far worse."""

    def served_tasks(self) -> frozenset[str]:
        return self.tasks  # whatever its network serves later

    def built_as(self) -> str:
        return f"{self.kind}-{self.inner.kind}"


MODELS: tuple[type[ModelConfig], ...] = (
    Persistence, Seasonal, Ridge, CMA, LSTM, MLP, TTM,
    Statistics, FeatureNet, LastValue, Boosting, CNN, TTMLabel, PAT, Stack, Masked,
    Residual, Exogenous, Physics, Staged, Ensemble, Conformal,
)  # fmt: skip
"""Every model. models/build.py has the class that each is built from."""


Model = Annotated[Union[MODELS], Field(discriminator="kind")]


for _model in MODELS:
    _model.model_rebuild()


def kinds(holds: Callable[[type[ModelConfig]], bool]) -> list[str]:
    """The kinds of models of which something holds, in the order of the alphabet."""
    return sorted(model.model_fields["kind"].default for model in MODELS if holds(model))


def either(words: list[str]) -> str:
    """`a, b or c`."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last
