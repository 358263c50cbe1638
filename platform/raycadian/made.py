"""Cards and recipes that are made for data files: written beside the result under a name that is free, with a checksum
in the first line, so that what somebody edited afterwards is told apart, used, and never written over."""

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from raycadian.files import LARGEST_YAML, own_folder, read_bytes, read_yaml, written_whole

_MARK = "# checksum as made: {}"
_MADE = re.compile(r"# checksum as made: ([0-9a-f]{12})\n")


def write_new(folder: Path, name: str, text: str, same: Callable[[Path], bool]) -> Path:
    """Write NAME.yaml, or NAME-2.yaml ... where a file of that name says something else, or was edited; the path."""
    number = 1
    while (path := folder / (f"{name}.yaml" if number == 1 else f"{name}-{number}.yaml")).exists():
        if _is_same(path, same):
            return path
        number += 1
    own_folder(folder)
    with written_whole(path) as temporary:
        temporary.write_text(f"{_MARK.format(_checksum(text))}\n{text}", encoding="utf-8")
    return path


def kept_beside(path: Path, name: str) -> str:
    """Why a file made here is not NAME.yaml: what that one, which stays, says otherwise; empty where it is."""
    first = path.with_name(f"{name}.yaml")
    if path == first:
        return ""
    try:
        raw, own = read_yaml(first), read_yaml(path)
    except ValueError:
        return f" ({first} stays: it is no YAML)"
    known = isinstance(raw, dict) and raw.keys() & own.keys()
    keys = [key for key in {**own, **raw} if raw.get(key) != own.get(key)] if known else []
    differs = f"differs in {', '.join(map(str, keys[:5]))}" if keys else "says something else"
    return f" ({first} stays: it {differs})"


def there(folder: Path, pattern: str, fits: Callable[[dict[str, Any]], bool]) -> Iterator[Path]:
    """The YAML files of a folder whose content fits, the newest first; `pattern`: of their names. Raises ValueError for
    one that was made here and is no YAML any more."""
    if not folder.is_dir():
        return
    for path in sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            raw = read_yaml(path)
        except ValueError:
            if _MADE.match(_text(path)):
                raise
            continue  # somebody else's
        if isinstance(raw, dict) and fits(raw):
            yield path


def is_edited(path: Path) -> bool:
    """Whether a file is not as it was made here: edited, or written by hand."""
    text = _text(path)
    marked = _MADE.match(text)
    return marked is None or _checksum(text[marked.end() :]) != marked[1]


def _text(path: Path) -> str:
    return read_bytes(path, LARGEST_YAML).decode("utf-8", "replace").replace("\r\n", "\n")


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _is_same(path: Path, same: Callable[[Path], bool]) -> bool:
    try:
        return same(path)
    except ValueError:  # somebody else's YAML
        return False
