"""A recipe without each of its parts in turn: wrappers, members, signals, channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from raycadian.config import Ensemble, Exogenous, Recipe, override, unwrap, wrapped


@dataclass(frozen=True)
class Variants:
    """What is left without each part, and why some parts can't be left out."""

    recipes: dict[str, Recipe]
    refused: dict[str, str]


def variants(recipe: Recipe) -> Variants:
    """The recipe without each wrapper of its model, each member of an ensemble, each signal, each channel but glucose."""
    changes = dict(_without_channels(recipe))
    changes |= {name: {"model": model.model_dump(mode="json")} for name, model in _without_parts(recipe.model)}
    recipes, refused = {}, {}
    for name, change in changes.items():
        try:
            recipes[name] = override(recipe, change)
        except ValueError as error:  # e.g. an exogenous model without known channels: the part is no part
            refused[name] = str(error)
    return Variants(recipes, refused)


def innermost(model: Any, change: Callable[[Any], Any]) -> Any:
    """The model with every part that wraps nothing changed."""
    if isinstance(model, Ensemble):
        return model.model_copy(update={"members": tuple(innermost(m, change) for m in model.members)})
    if wrapped(model):
        return model.model_copy(update={"inner": innermost(model.inner, change)})
    return change(model)


def _without_channels(recipe: Recipe) -> Iterator[tuple[str, dict[str, Any]]]:
    window = recipe.window
    for name in window.past[1:]:
        left = [n for n in window.past if n != name]
        yield f"without {name}", {"window.past": left}
    for names in (_hours(window.known), tuple(n for n in window.known if n not in _hours(window.known))):
        if names:
            left = [n for n in window.known if n not in names]
            yield f"without {' and '.join(names)}", {"window.known": left} | _without_exogenous(recipe.model, left)


def _without_exogenous(model: Any, known: list[str]) -> dict[str, Any]:
    """Networks that take known channels take none where none is left."""
    if known or any(isinstance(part, Exogenous) for part in unwrap(model)):
        return {}
    plain = innermost(
        model, lambda one: one.model_copy(update={"exogenous": False}) if hasattr(one, "exogenous") else one
    )
    return {"model": plain.model_dump(mode="json")}


def _hours(known: tuple[str, ...]) -> tuple[str, ...]:
    """Sine and cosine are one clock."""
    return tuple(n for n in known if n in ("hour_sin", "hour_cos"))


def _without_parts(model: Any) -> Iterator[tuple[str, Any]]:
    """(name, model without a part), outermost part first."""
    if isinstance(model, Ensemble):
        yield from _without_members(model)
        return
    if not wrapped(model):
        return
    yield f"without {model.kind}", _inheriting(model.inner, getattr(model, "mechanism", None))
    if isinstance(model, Exogenous) and len(model.signals) > 1:
        for signal in model.signals:
            left = tuple(s for s in model.signals if s != signal)
            yield f"without signal {signal}", model.model_copy(update={"signals": left})
    for name, inner in _without_parts(model.inner):
        yield name, model.model_copy(update={"inner": inner})


def _without_members(model: Ensemble) -> Iterator[tuple[str, Any]]:
    for i, member in enumerate(model.members):
        left = tuple(m for j, m in enumerate(model.members) if j != i)
        if len(left) == 1 and model.size == 1:
            yield f"without member {i + 1}", left[0]
        elif left:
            yield f"without member {i + 1}", model.model_copy(update={"members": left})
        for name, inner in _without_parts(member):
            members = tuple(inner if j == i else m for j, m in enumerate(model.members))
            yield f"member {i + 1} {name}", model.model_copy(update={"members": members})


def _inheriting(model: Any, mechanism: Any) -> Any:
    """The model with the mechanism that a wrapper around it named, where a part of it needs one."""
    if mechanism is None or not wrapped(model):
        return model
    if "mechanism" in type(model).model_fields:
        return model.model_copy(update={"mechanism": model.mechanism or mechanism})
    if isinstance(model, Ensemble):
        return model.model_copy(update={"members": tuple(_inheriting(m, mechanism) for m in model.members)})
    return model.model_copy(update={"inner": _inheriting(model.inner, mechanism)})
