"""A recipe without each of its parts in turn: wrappers, members, signals, channels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from raycadian.config import ModelConfig, Recipe, innermost, override, unwrap


@dataclass(frozen=True)
class Variants:
    """What is left without each part, and why some parts can't be left out."""

    recipes: dict[str, Recipe]
    refused: dict[str, str]


def variants(recipe: Recipe) -> Variants:
    """The recipe without each wrapper of its model, each member of an ensemble, each signal, channel but glucose."""
    changes = dict(_without_channels(recipe))
    changes |= {name: {"model": model.model_dump(mode="json")} for name, model in recipe.model.reduced()}
    recipes, refused = {}, {}
    for name, change in changes.items():
        try:
            recipes[name] = override(recipe, change)
        except ValueError as error:  # e.g. an exogenous model without known channels: the part is no part
            refused[name] = str(error)
    return Variants(recipes, refused)


def _without_channels(recipe: Recipe) -> Iterator[tuple[str, dict[str, Any]]]:
    window = recipe.window
    for name in window.past[1:]:
        left = [n for n in window.past if n != name]
        yield f"without {name}", {"window.past": left}
    for names in (_hours(window.known), tuple(n for n in window.known if n not in _hours(window.known))):
        if names:
            left = [n for n in window.known if n not in names]
            yield f"without {' and '.join(names)}", {"window.known": left} | _without_known(recipe.model, left)


def _without_known(model: ModelConfig, known: list[str]) -> dict[str, Any]:
    """Networks that take known channels take none where none is left, neither of the window nor of the mechanism."""
    if known or any(part.mechanism_signals() for part in unwrap(model)):
        return {}
    return {"model": innermost(model, lambda part: part.without_known()).model_dump(mode="json")}


def _hours(known: tuple[str, ...]) -> tuple[str, ...]:
    """Sine and cosine are one clock."""
    return tuple(n for n in known if n in ("hour_sin", "hour_cos"))
