"""What a run consists of: the SHA-256 of each of its files, written when it is complete and checked when they are read;
signed, where the environment variable RAYCADIAN_SIGNING_KEY names a file with a key.

The hashes find what broke on a disk or on the way, and what was edited. Whoever may write the folder can write the
manifest too: only the signature holds against that. Runs of before have no manifest and are read all the same.
"""

import hmac
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raycadian.errors import CheckpointError
from raycadian.files import path_inside, read_bytes, read_json, sha256, write_json

FILE = "manifest.json"
KEY = "RAYCADIAN_SIGNING_KEY"
_LATER = (FILE, "job.json")  # written after the hashes: the manifest, and which job made the run
_READ = (".json", ".parquet", ".safetensors", ".yaml")  # what the platform reads of a run
_LEAST_KEY, _MOST_KEY = 16, 1 << 16  # bytes


@dataclass(frozen=True)
class Verdict:
    """Of a folder against its manifest. `problems`: none where every file is as it was written · `signature`: valid,
    absent or wrong; None where no key was given."""

    files: int
    problems: tuple[str, ...]
    notices: tuple[str, ...]
    signature: str | None


def write(folder: Path) -> None:
    """The manifest of a folder in which every file is written."""
    _write(folder, {name: sha256(folder / name) for name in _names(folder)})


@contextmanager
def rewritten(folder: Path) -> Iterator[None]:
    """Take up in the manifest, if there is one, the files that the block writes, and no other change."""
    before = {name: _stamp(folder / name) for name in _names(folder)}
    yield
    if not (folder / FILE).is_file():
        return
    listed, now = _listed(folder), _names(folder)
    written = [name for name in now if before.get(name) != _stamp(folder / name)]
    kept = {name: digest for name, digest in listed.items() if name in now or name not in before}
    _write(folder, kept | {name: sha256(folder / name) for name in written})


def require_intact(folder: Path, *wanted: str, signed: bool = False) -> None:
    """Raises CheckpointError, which names the file, where one of the files or folders `wanted` (all where none is
    named) is not the one that the manifest lists. `signed`: where a key is set, the manifest must be signed by it."""
    key = _own_key() if signed else None
    if key is not None and (state := _signature(folder, key)) != "valid":
        raise CheckpointError(
            f"{folder / FILE}: the signature is {state}; {KEY} asks for one of its key; train again, or unset it"
        )
    if not _has_manifest(folder):
        return
    listed = _listed(folder)
    for name in _chosen({*listed, *_read_here(folder)}, wanted):
        if problem := _problem(folder, name, listed):
            raise CheckpointError(f"{problem}; copy the run again; `raycadian verify {folder}` checks every file")


def verify(folder: Path, key: Path | None = None) -> Verdict:
    """Every file against the manifest. Raises CheckpointError for a manifest that can't be read."""
    signature = None if key is None else _signature(folder, _read_key(key))
    names = _names(folder)
    if not _has_manifest(folder):
        notice = f"no {FILE}: the run is from before manifests, or it was taken away; nothing can be checked"
        return Verdict(0, (), (notice,), signature)
    listed = _listed(folder)
    read = {*listed, *_read_here(folder)}
    problems = (_problem(folder, name, listed) for name in sorted(read))
    later = tuple(f"{name}: added later; nothing reads it" for name in names if name not in read)
    return Verdict(len(listed), tuple(filter(None, problems)), later, signature)


def damage(folder: Path) -> str:
    """What is wrong with a run at a glance, for lists: a file that is gone, or that was written after the manifest and
    is another one now; empty where nothing is. Every file is read by `verify` alone. Raises CheckpointError."""
    if not _has_manifest(folder):
        return "" if (folder / "checkpoint").is_dir() else f"{folder / 'checkpoint'}: is gone"
    listed, complete_ns = _listed(folder), (folder / FILE).stat().st_mtime_ns
    problems = []
    for name in sorted({*listed, *_read_here(folder)}):
        path = folder / name
        if name not in listed or not path.is_file() or path.stat().st_mtime_ns >= complete_ns:
            problems.append(_problem(folder, name, listed))
    problems = list(filter(None, problems))
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{problems[0]}{more}; `raycadian verify {folder}`" if problems else ""


def _has_manifest(folder: Path) -> bool:
    """Runs of before have none. Raises CheckpointError for something else of its name: whoever put it there wants the
    hashes passed over."""
    path = folder / FILE
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        raise CheckpointError(f"{path}: is no regular file; copy the run again")
    return path.exists()


def _names(folder: Path) -> list[str]:
    paths = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())
    return sorted(name for name in paths if name not in _LATER)


def _read_here(folder: Path) -> list[str]:
    """The names of what is in the folder and might be read as a part of the run."""
    return [name for name in _names(folder) if name.endswith(_READ) or name.startswith("checkpoint/")]


def _chosen(names: Iterable[str], wanted: tuple[str, ...]) -> list[str]:
    folders = tuple(f"{name}/" for name in wanted)
    return sorted(name for name in names if not wanted or name in wanted or name.startswith(folders))


def _problem(folder: Path, name: str, listed: dict[str, str]) -> str:
    """What is wrong with a file; empty where nothing is."""
    try:
        path = path_inside(folder, name)
    except ValueError as error:
        return str(error)
    if not path.is_file():
        return f"{path}: is gone" if not path.exists() else f"{path}: is no regular file"
    if name not in listed:
        return f"{path}: was not there when the run was complete"
    digest = sha256(path)
    same = hmac.compare_digest(digest, listed[name])
    return "" if same else f"{path}: is not what was written (sha256 {digest[:12]}, expected {listed[name][:12]})"


def _listed(folder: Path) -> dict[str, str]:
    files = read_json(folder / FILE).get("files")
    hashed = isinstance(files, dict) and all(isinstance(v, str) and v.isascii() for v in files.values())
    if not hashed:
        raise CheckpointError(f"{folder / FILE}: files: expected a hash for each name")
    return files


def _write(folder: Path, files: dict[str, str]) -> None:
    body: dict[str, Any] = {"files": dict(sorted(files.items()))}
    if (key := _own_key()) is not None:
        body["hmac_sha256"] = _sign(files, key)
    write_json(folder / FILE, body)


def _signature(folder: Path, key: bytes) -> str:
    stated = read_json(folder / FILE).get("hmac_sha256") if (folder / FILE).is_file() else None
    if not isinstance(stated, str):
        return "absent"
    return "valid" if hmac.compare_digest(stated.encode(), _sign(_listed(folder), key).encode()) else "wrong"


def _sign(files: dict[str, str], key: bytes) -> str:
    return hmac.new(key, json.dumps(files, sort_keys=True).encode(), "sha256").hexdigest()


def _own_key() -> bytes | None:
    path = os.environ.get(KEY)
    return _read_key(Path(path).expanduser()) if path else None


def _read_key(path: Path) -> bytes:
    """Raises ValueError."""
    try:
        key = read_bytes(path, _MOST_KEY).strip()
    except (OSError, ValueError) as error:
        advice = f"make one: head -c 32 /dev/urandom | base64 > {path}"
        raise ValueError(f"{path}: no key can be read ({error}); {advice}") from None
    if len(key) < _LEAST_KEY:
        raise ValueError(f"{path}: a key has at least {_LEAST_KEY} bytes, found {len(key)}")
    return key


def _stamp(path: Path) -> tuple[int, int, int]:
    """Changes whenever a file is written."""
    state = path.stat()
    return state.st_ino, state.st_mtime_ns, state.st_size
