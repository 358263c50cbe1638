"""Cards of every modality: which schema reads which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raycadian.config.recipe import Recipe
from raycadian.config.schema import Schema, parse, read_yaml
from raycadian.config.space import SearchSpace
from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.biosignals.card import BiosignalCard
from raycadian.modalities.cgm.card import CGMCard

AnyCard = CGMCard | BiosignalCard | ActigraphyCard


CARDS: dict[str, type[Schema]] = {"cgm": CGMCard, "biosignals": BiosignalCard, "actigraphy": ActigraphyCard}


def load_card(path: str | Path) -> Any:
    """A card of any modality (AnyCard). Raises ValueError."""
    return parse_card(read_yaml(path), source=str(path))


def parse_card(raw: dict, source: str = "card") -> Any:
    """A card by its `modality`, which is cgm where it says none. Raises ValueError."""
    modality = raw.get("modality", "cgm")
    if modality not in CARDS:
        raise ValueError(f"{source}: modality {modality!r}; there are {', '.join(CARDS)}")
    return parse(CARDS[modality], raw, source=source)


SCHEMAS: dict[str, type[Schema]] = {"recipe": Recipe, "card": CGMCard, "space": SearchSpace}
