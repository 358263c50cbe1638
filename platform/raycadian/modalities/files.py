"""The files that a card names."""

import glob
import os
from collections.abc import Iterable
from pathlib import Path


def files_of(patterns: Iterable[str], where: str, folder: Path) -> list[Path]:
    """The files that patterns name, relative to a folder, sorted. where: of a message. Raises ValueError for a pattern
    without a file."""
    paths: set[Path] = set()
    for pattern in patterns:
        files = {Path(f) for f in glob.glob(os.path.join(glob.escape(str(folder)), pattern), recursive=True)}
        files = {f for f in files if f.is_file()}
        if not files:
            raise ValueError(f"{where}: no file matches {pattern!r} below {folder.absolute()}; correct `files`")
        paths |= files
    return sorted(paths)
