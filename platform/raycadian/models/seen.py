"""Whom pretrained weights have seen: a score on the same people would be leakage."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from torch import nn

from raycadian import config

_PUBLISHED = re.compile(r"PAT-(?:Conv-)?[SMLH]_(29k|21k)", re.IGNORECASE)  # by the number of people
_CYCLES = {"29k": ("C", "D", "G", "H"), "21k": ("C", "D", "G")}


def published_cycles(path: Path) -> tuple[str, ...] | None:
    """NHANES cycles of a weights file that is named as its authors did; None for others."""
    found = _PUBLISHED.search(path.name)
    return None if found is None else _CYCLES[found[1].lower()]


def require_unseen(model: nn.Module, cycles: Iterable[str]) -> None:
    """Raises ValueError where a PAT inside has seen one of these NHANES cycles in its pretraining, unless its
    configuration allows it."""
    for part in model.modules():
        section = getattr(part, "config", None)
        if not isinstance(section, config.PAT) or section.seen == "allow":
            continue
        if both := sorted(set(cycles) & set(section.cycles or ())):
            raise ValueError(
                f"leakage: the data hold NHANES cycles {both}, which the pretraining of {section.pretrained} has seen; "
                "take weights without them (PAT-*_21k for 2013-14), other cycles, or force it by pat.seen: allow"
            )
