"""Files and folders that are there whole or not at all: written under a temporary name beside their own, then
renamed. JSON and YAML that somebody else may have written: read within bounds of size, depth and number. And the one
way from a name that comes from outside to a path."""

import errno
import hashlib
import json
import os
import re
import shutil
import unicodedata
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from raycadian.errors import BoundaryError, CheckpointError, StorageError

LARGEST_JSON, LARGEST_YAML = 16 << 20, 1 << 20
"""Bytes of a file that is read."""
UMASK = "RAYCADIAN_UMASK"
_DEEPEST, _MOST_VALUES = 64, 4_000_000
_LONGEST_NAME = 255  # bytes of a part, on every file system that is in use
_LONGEST_PATH, _MOST_PARTS = 1024, 32  # bytes, and folders below one another: no run has more
_NOT_SHOWN = {"Cc", "Cs", "Zl", "Zp"}  # Unicode's categories: controls, halves of characters, ends of lines
_BIDIRECTIONAL = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # show a name as another one


def read_json(
    path: Path, expected: type[dict] | type[list] = dict, *, family: type[BoundaryError] = CheckpointError,
    largest: int = LARGEST_JSON,
) -> Any:  # fmt: skip
    """An object (or a list) of a JSON file. Raises `family`, which names the file, for one that is missing, no regular
    file, larger than `largest` bytes, truncated, no JSON, nested deeper than 64 or of another kind."""
    try:
        return parse_json(read_bytes(path, largest), expected)
    except (OSError, ValueError) as error:
        raise family(f"{path}: {_in_words(error)}") from None


def parse_json(text: bytes | str, expected: type[dict] | type[list] = dict) -> Any:
    """As `read_json`, of text. Raises ValueError."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"nested deeper than {_DEEPEST}") from None
    except ValueError as error:  # bytes of another encoding too
        raise ValueError(f"not readable as JSON: {error}") from None
    if not isinstance(value, expected):
        raise ValueError(f"expected {_KINDS[expected]}, found {kind_of(value)}")
    _require_bounded(value)
    return value


def read_yaml(path: Path, *, family: type[ValueError] = ValueError) -> Any:
    """The plain value of a YAML file. Raises `family`, which names the file, as `read_json` and `parse_yaml`."""
    try:
        return parse_yaml(read_bytes(path, LARGEST_YAML).decode("utf-8"))
    except (OSError, ValueError) as error:
        raise family(f"{path}: {_in_words(error)}") from None


def parse_yaml(text: str) -> Any:
    """A plain value. Raises ValueError for what is no YAML, nests or repeats itself (by anchors) beyond bounds, or
    merges keys (`<<`), which can double in size with every line."""
    try:
        value = yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise ValueError(f"nested deeper than {_DEEPEST}") from None
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"not readable as YAML: {error}") from None  # a wrong date or number is any of the latter
    _require_bounded(value)
    return value


def read_bytes(path: Path, largest: int) -> bytes:
    """A regular file's content. Raises OSError, and ValueError where it is no regular file (a pipe would never end) or
    larger than `largest` bytes."""
    if not path.is_file():
        raise ValueError("no regular file" if path.exists() else "no such file")
    with path.open("rb") as file:
        body = file.read(largest + 1)
    if len(body) > largest:
        raise ValueError(f"larger than {largest >> 20} MiB, which no file of its kind is")
    return body


class _Loader(yaml.SafeLoader):
    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise ValueError("merge keys (<<) are not read; write the keys out")
        super().flatten_mapping(node)


_KINDS: dict[type, str] = {
    dict: "an object", list: "a list", tuple: "a list", str: "text", bool: "true or false", type(None): "nothing",
}  # fmt: skip


def kind_of(value: Any) -> str:
    """What a plain value is, in words."""
    return _KINDS.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _require_bounded(value: Any) -> None:
    """Level by level, since what is deep enough to end a recursion may have come through the parser."""
    level, room = [value], _MOST_VALUES
    for _ in range(_DEEPEST + 1):
        containers = [v for v in level if isinstance(v, dict | list)]
        room -= sum(map(len, containers))
        if room < 0:
            raise ValueError(f"more than {_MOST_VALUES:,} values")
        level = [v for c in containers for v in (c.values() if isinstance(c, dict) else c)]
        if not level:
            return
    raise ValueError(f"nested deeper than {_DEEPEST}")


def _in_words(error: Exception) -> str:
    """An error without the path that its message repeats."""
    return getattr(error, "strerror", None) or str(error)


def path_inside(folder: Path, name: str | Path) -> Path:
    """The path below `folder`, a local one or a bucket's, that a name from outside means: an archive's member, a
    request's case, a record's signal file. Raises ValueError for a name that leads out of the folder (absolute, by ..,
    by a link), means the folder itself, is longer or nested deeper than a file's may be, or holds what a terminal would
    obey instead of showing it."""
    parts = PurePosixPath(name).parts
    if not parts or parts[0].startswith("/") or ".." in parts:
        raise ValueError(f"{str(name)[:200]!r} leads out of {folder}")
    if flaw := _flaw(parts):
        raise ValueError(f"{str(name)[:40]!r} ... is none that a file can have: {flaw}")
    path = folder / name
    if isinstance(folder, Path) and not _resolved(path).is_relative_to(_resolved(folder)):
        raise ValueError(f"{str(name)[:200]!r} leads out of {folder} by a link")
    return path


def _flaw(parts: tuple[str, ...]) -> str:
    """Why the parts of a path are no file's name, '' where they may be."""
    if any(unicodedata.category(c) in _NOT_SHOWN or c in _BIDIRECTIONAL for part in parts for c in part):
        return "control characters"
    sizes = [len(os.fsencode(part)) for part in parts]
    if max(sizes) > _LONGEST_NAME or sum(sizes) > _LONGEST_PATH:
        return f"more than {_LONGEST_NAME} bytes of one name, or {_LONGEST_PATH:,} in all"
    return f"more than {_MOST_PARTS} folders deep" if len(parts) > _MOST_PARTS else ""


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise ValueError(f"{path}: {error}") from None


LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
"""Errors of a disk that another try does not heal."""
_OF_A_DISK = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS))


@contextmanager
def on_disk(folder: Path) -> Iterator[None]:
    """What a library makes of a disk that is full or read-only while something is written below `folder`, as a
    StorageError that names folder and disk. Other errors come through."""
    try:
        yield
    except ValueError:
        raise
    except Exception as error:
        reason, place = _lasting(error, folder)
        if not reason:
            raise
        advice = "free space there, make it writable, or choose another folder"
        raise StorageError(f"{place}: can't be written: {reason} ({_disk(place)}); {advice}") from error


def _lasting(error: Exception, folder: Path) -> tuple[str, Path]:
    """Why a disk refused, '' where it did not, and the folder: that of the file that is named."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in LASTING:
            named = cause.filename if isinstance(cause.filename, str) else None
            return os.strerror(cause.errno), Path(named).parent if named else folder
        cause = cause.__cause__ or cause.__context__
    return next((words for words in _OF_A_DISK if words in str(error)), ""), folder


def _disk(folder: Path) -> str:
    """Mount point and free space of the disk that a folder lies on, or would."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    mount = next(place for place in (there, *there.parents) if place.is_mount())
    usage = shutil.disk_usage(there)
    return f"disk {mount}: {usage.free / 1e6:,.0f} MB free of {usage.total / 1e6:,.0f}"


def mode_of(kind: int) -> int:
    """What we give of a mode such as 0o777 of a folder, 0o666 of a file: all to the owner, nothing to others unless
    $RAYCADIAN_UMASK, in octal, takes less away than 077. The process's own umask still holds. Raises ValueError."""
    stated = os.environ.get(UMASK) or "077"
    if not re.fullmatch(r"0?[0-7]{1,3}", stated) or int(stated, 8) & 0o700:
        raise ValueError(f"{UMASK}={stated[:20]!r}: expected octal that leaves everything to you, such as 077 or 027")
    return kind & ~int(stated, 8)


def own_folder(folder: Path) -> Path:
    """Make a folder, and those above it that are missing, the owner's alone; one that is there keeps its mode."""
    missing = [place for place in (folder, *folder.parents) if not place.is_dir()]
    for place in reversed(missing):
        place.mkdir(mode=mode_of(0o777), exist_ok=True)
    return folder


@contextmanager
def private() -> Iterator[None]:
    """What is made meanwhile, by this process and those it starts, is the owner's alone."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def own_cache() -> Path:
    """This node's folder for what can be made again: $RAYCADIAN_CACHE, else ~/.cache/raycadian."""
    return Path(os.environ.get("RAYCADIAN_CACHE") or "~/.cache/raycadian").expanduser()


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it at the end; an error leaves what was at `path` before."""
    temporary = _beside(path)
    with on_disk(path.parent):
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, body: Any) -> None:
    """Whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(body, indent=1, default=str), encoding="utf-8")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder`, which nobody has made yet, when the block ends well, and vanishes
    otherwise. It is the owner's alone."""
    temporary = _beside(folder)
    try:
        with on_disk(folder.parent):
            own_folder(folder.parent)
            temporary.mkdir(mode=mode_of(0o777))
            yield temporary
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of any `folder` when the block ends well, and vanishes otherwise."""
    old = _beside(folder)
    with new_folder(folder) as temporary:
        yield temporary
        if folder.exists():
            folder.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
