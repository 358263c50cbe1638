"""What every section of a model says of itself, and what can be asked of a model without building any.

A model's section answers for itself which tasks it serves, what it wraps, what it needs of a recipe and how it is made
smaller; nothing outside asks which model it has in hand.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, ClassVar, Self

from raycadian.config.mechanism import CMAMechanism
from raycadian.config.schema import Schema

if TYPE_CHECKING:
    from raycadian.config.models import Staged
    from raycadian.config.recipe import Recipe


class ModelConfig(Schema):
    """A model. What is said here holds for one that forecasts glucose, wraps nothing and needs nothing."""

    tasks: ClassVar[frozenset[str]] = frozenset({"forecast"})
    """Kinds of task that it serves."""
    any_target: ClassVar[bool] = False
    """Whether it forecasts other channels than glucose, which have neither meals nor a clock."""
    trains: ClassVar[bool] = False
    """Whether it has weights that gradients train, and a backbone that can be frozen."""
    corrects_mechanism: ClassVar[bool] = False
    """Whether it adds a learned correction to the mechanism, which can then be fitted again to what that leaves."""
    width_field: ClassVar[str] = ""
    """The field that says how wide it is; the number of its layers is in `layers`."""

    kind: str

    # --- what it wraps ---

    def parts(self) -> tuple["ModelConfig", ...]:
        """The sections that it wraps directly."""
        return ()

    def with_parts(self, parts: Iterable["ModelConfig"]) -> Self:
        """The section around other parts, in the order of `parts()`."""
        return self

    def readable_name(self) -> str:
        """Short, fit for a file: `ridge`, `residual-ttm`."""
        return "-".join([self.kind, *(part.readable_name() for part in self.parts())])

    def built_as(self) -> str:
        """Its name in the table of models/build.py."""
        return self.kind

    def served_tasks(self) -> frozenset[str]:
        """Kinds of task that it serves together with all that it wraps."""
        return self.tasks.intersection(*(part.served_tasks() for part in self.parts()))

    # --- what it needs ---

    def mechanisms(self) -> tuple[CMAMechanism | None, ...]:
        """Its own mechanism; (None,) of a wrapper that takes that of another part; () of a model without."""
        return ()

    def mechanism_signals(self) -> tuple[str, ...]:
        """The mechanism's signals that it gives to what it wraps, as further known channels."""
        return ()

    def stages(self) -> "Staged | None":
        """How it trains in stages, if it does."""
        return None

    def crossfit_folds(self) -> int:
        """Groups of people that it is calibrated across, after training; 0 for none."""
        return 0

    def takes_known(self) -> bool:
        """Whether the known channels enter."""
        return getattr(self, "exogenous", False)

    def pretraining_cycles(self) -> tuple[str, ...]:
        """NHANES cycles that its weights have seen before a recipe trains them."""
        return ()

    def check(self, recipe: "Recipe") -> None:
        """Raises ValueError where it doesn't fit the windows of a recipe."""
        for part in self.parts():
            part.check(recipe)

    def check_nesting(self) -> None:
        """Raises ValueError where it and what it wraps don't fit each other."""
        for part in self.parts():
            part.check_inside()
            part.check_nesting()

    def check_inside(self) -> None:
        """Raises ValueError where it can't be a part of another model."""

    # --- how it is changed ---

    def sized(self, part: str, value: int) -> Self:
        """The section with that `width` or number of `layers`; as it is where it has none."""
        field = self.width_field if part == "width" else part
        return self.model_copy(update={field: value}) if field in type(self).model_fields else self

    def without_known(self) -> Self:
        return self.model_copy(update={"exogenous": False}) if self.takes_known() else self

    def with_mechanism(self, mechanism: CMAMechanism) -> Self:
        """The section with the mechanism that a wrapper around it named, where a part of it needs one."""
        return self.with_parts(part.with_mechanism(mechanism) for part in self.parts())

    def reduced(self) -> Iterator[tuple[str, "ModelConfig"]]:
        """(what is left out, the model without it) for each of its parts, outermost first."""
        return iter(())


def unwrap(model: ModelConfig) -> list[ModelConfig]:
    """The model's section and all those inside it, outermost first."""
    return [model, *(inside for part in model.parts() for inside in unwrap(part))]


def innermost(model: ModelConfig, change: Callable[[ModelConfig], ModelConfig]) -> ModelConfig:
    """The model with every part that wraps nothing changed."""
    if not model.parts():
        return change(model)
    return model.with_parts(innermost(part, change) for part in model.parts())


def mechanism_of(model: ModelConfig) -> CMAMechanism | None:
    """The mechanism that a model's batches must carry, if any."""
    return next((named for part in unwrap(model) for named in part.mechanisms() if named is not None), None)


def signals_of(model: ModelConfig) -> tuple[str, ...]:
    """The mechanism's signals that a model's batches must carry beside its curve."""
    signals = dict.fromkeys(signal for part in unwrap(model) for signal in part.mechanism_signals())
    return tuple(signal for signal in signals if signal != "glucose")


def staged_of(model: ModelConfig) -> "Staged | None":
    """How a model trains in stages, if it does."""
    return next((stages for part in unwrap(model) if (stages := part.stages()) is not None), None)


def model_name(model: ModelConfig) -> str:
    """Short readable name, fit for a file: `ridge`, `residual-ttm`, `ensemble3-ttm`, `ensemble-residual-ttm_lstm`."""
    return model.readable_name()


def require_nesting(model: ModelConfig) -> None:
    """Raises ValueError where a model has no mechanism or several, or wrappers don't fit each other."""
    mechanisms = [mechanism for part in unwrap(model) for mechanism in part.mechanisms()]
    if mechanisms and not any(mechanisms):
        raise ValueError(
            f"{model_name(model)}: no part names its mechanism; give the outermost one, e.g. {{kind: cma}}"
        )
    if len(named := {repr(mechanism) for mechanism in mechanisms if mechanism}) > 1:
        raise ValueError(
            f"{model_name(model)}: a model has one mechanism, found {len(named)} that differ; set `mechanism: null` in "
            "all parts but the outermost"
        )
    model.check_nesting()
