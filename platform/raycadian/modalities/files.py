"""The files that a card names."""

from collections.abc import Iterable
from pathlib import Path

from raycadian.matching import matching


def files_of(patterns: Iterable[str], where: str, folder: Path) -> list[Path]:
    """The files that patterns name, relative to a folder, sorted. where: of a message. Raises ValueError for a pattern
    without a file."""
    paths: set[Path] = set()
    for pattern in patterns:
        files = matching(folder, pattern)
        if not files:
            raise ValueError(f"{where}: no file matches {pattern!r} below {folder.absolute()}; correct `files`")
        paths |= files
    return sorted(paths)
