"""Whom pretrained weights have seen: a score on the same people would be leakage."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import nn

from raycadian import config

_PUBLISHED = re.compile(r"PAT-(?:Conv-)?[SMLH]_(29k|21k)", re.IGNORECASE)  # by the number of people
_CYCLES = {"29k": ("C", "D", "G", "H"), "21k": ("C", "D", "G")}


def published_cycles(path: Path) -> tuple[str, ...] | None:
    """NHANES cycles of a weights file that is named as its authors did; None for others."""
    match = _PUBLISHED.search(path.name)
    return None if match is None else _CYCLES[match[1].lower()]


def joined_cycles(*known: Iterable[str] | None) -> tuple[str, ...]:
    """What weights have seen, by all that is known of them."""
    return tuple(sorted({cycle for cycles in known for cycle in cycles or ()}))


def seen_cycles(model: nn.Module) -> set[str]:
    """NHANES cycles that the networks inside have seen in their pretraining."""
    return {cycle for section in _pretrained(model) for cycle in section.pretraining_cycles()}


def require_unseen(model: nn.Module, cycles: Iterable[str]) -> None:
    """Raises ValueError where a network inside has seen one of these NHANES cycles in its pretraining, unless its
    configuration allows it."""
    for section in _pretrained(model):
        both = sorted(set(cycles) & set(section.pretraining_cycles()))
        if both and section.seen != "allow":
            raise ValueError(
                f"leakage: the data hold NHANES cycles {both}, which the pretraining of {section.pretrained} has seen; "
                f"take weights without them (PAT-*_21k for 2013-14), other cycles, or force it by {section.kind}.seen: "
                "allow"
            )


def _pretrained(model: nn.Module) -> Iterator[config.ModelConfig]:
    """The sections of those that were pretrained; not one that is being so."""
    sections = (getattr(part, "config", None) for part in model.modules())
    return (one for one in sections if isinstance(one, config.ModelConfig) and one.pretraining_cycles())
