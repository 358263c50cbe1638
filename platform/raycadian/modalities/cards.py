"""Cards of every modality: which schema reads which, and whose a card or a snapshot is. Import is cheap."""

from difflib import get_close_matches
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Discriminator, RootModel, Tag

from raycadian.config.recipe import Recipe
from raycadian.config.schema import parse, read_yaml, tag
from raycadian.config.space import SearchSpace
from raycadian.modalities import MODALITIES, USUAL
from raycadian.modalities.base import BaseCard, Modality

if TYPE_CHECKING:
    from raycadian.data.snapshot import Snapshot

AnyCard = BaseCard


def load_card(path: str | Path) -> Any:
    """A card of any modality. Raises ValueError."""
    return parse_card(read_yaml(path), source=str(path))


def require_dataset(recipe: Recipe) -> None:
    """Before anything heavy is imported: a recipe's `dataset` is a card. Raises ValueError."""
    path = Path(recipe.dataset)
    if not path.exists():
        there = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        near = get_close_matches(path.name, there, n=1)
        hint = f"; did you mean {str(path.with_name(near[0]))!r}?" if near else ""
        raise ValueError(f"dataset: {path}: no such card (working directory {Path.cwd()}){hint}")
    load_card(path)


def parse_card(raw: dict, source: str = "card") -> Any:
    """A card by its `modality`, which is cgm where it says none. Raises ValueError."""
    return parse(_modality(raw.get("modality", USUAL), source).Card, raw, source=source)


def card_of(snapshot: "Snapshot") -> Any:
    """The card that a snapshot was made of. Raises ValueError."""
    return parse_card(snapshot.manifest["card"], source=f"{snapshot.path}/manifest.json, card")


def modality_of(held: "BaseCard | Snapshot") -> Modality:
    """Of a card or a snapshot. Raises ValueError where a snapshot is of a modality that this version doesn't know."""
    if isinstance(held, BaseCard):
        return MODALITIES[held.modality]
    return _modality(held.manifest["card"].get("modality", USUAL), f"{held.path}/manifest.json, card")


def _modality(name: Any, source: str) -> Modality:
    if name not in MODALITIES:
        raise ValueError(f"{source}: modality {name!r}; there are {', '.join(MODALITIES)}")
    return MODALITIES[name]


# --- for editors ----------------------------------------------------------------------------------------------------

_TAGGED = [Annotated[modality.Card, Tag(name)] for name, modality in MODALITIES.items()]
_UNION: Any = Annotated[reduce(or_, _TAGGED), Discriminator(tag("modality", USUAL))]


class CardOfAnyModality(RootModel[_UNION]):
    """A card of any modality, which `modality` says; cgm where it says none."""

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The JSON schema; all but the usual modality must be named, so that a card fits one of them."""
        schema = super().model_json_schema(*args, **kwargs)
        for name, modality in MODALITIES.items():
            if name != USUAL:
                definition = schema["$defs"][modality.Card.__name__]
                definition["required"] = [*definition.get("required", []), "modality"]
        return schema


SCHEMAS: dict[str, Any] = {
    "recipe": Recipe,
    "card": CardOfAnyModality,
    **{f"card-{name}": modality.Card for name, modality in MODALITIES.items()},
    "space": SearchSpace,
}
"""What `raycadian schema NAME` prints."""
