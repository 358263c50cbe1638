"""Files by a pattern that somebody else may have written: the tree below a `**` is gone through once, and not without
end."""

import glob
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MOST_ENTRIES = 500_000
_DEEP = "**"


def matching(folder: Path, pattern: str) -> set[Path]:
    """The files that a pattern names, relative to `folder`, as glob does. Where links lead in a circle it is gone round
    once. Raises ValueError where more files and folders than MOST_ENTRIES lie below a `**`."""
    return {path for path in _Tree(pattern).matching(folder, Path(pattern).parts) if path.is_file()}


class _Tree:
    """What was gone through for one pattern."""

    def __init__(self, pattern: str):
        self._pattern, self._entries = pattern, 0

    def matching(self, folder: Path, parts: tuple[str, ...]) -> Iterator[Path]:
        if _DEEP not in parts:
            yield from map(Path, glob.glob(os.path.join(glob.escape(str(folder)), *parts)))
            return
        at = parts.index(_DEEP)
        rest = parts[at + 1 :] or ("*",)
        for base in map(Path, glob.glob(os.path.join(glob.escape(str(folder)), *parts[:at]))):
            for inner in list(self._folders(base)):  # too many are told before any is looked at
                yield from self.matching(inner, rest)

    def _folders(self, base: Path) -> Iterator[Path]:
        """`base` and the folders below it that are not hidden."""
        waiting, seen = [base], set()
        while waiting:
            folder = waiting.pop()
            with suppress(OSError):  # as glob does
                about = folder.stat()
                if folder.is_dir() and (about.st_dev, about.st_ino) not in seen:
                    seen.add((about.st_dev, about.st_ino))
                    waiting += self._below(folder)
                    yield folder

    def _below(self, folder: Path) -> list[Path]:
        with os.scandir(folder) as entries:
            found = list(entries)
        self._entries += len(found)
        if self._entries > MOST_ENTRIES:
            raise ValueError(
                f"files: {self._pattern!r}: more than {MOST_ENTRIES:,} files and folders lie below its {_DEEP}; name a "
                "folder that holds the data alone"
            )
        return [folder / entry.name for entry in found if not entry.name.startswith(".") and entry.is_dir()]
