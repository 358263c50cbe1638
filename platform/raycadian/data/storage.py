"""Where snapshots lie: a folder of this machine or of a shared file system, or a URL of object storage
(s3://bucket/folder).

`resolve_path` gives either the interface of pathlib; what else differs between them is told apart here and nowhere
else: object storage has no folders and no renaming, a listing costs as much as one file's size, and it fails in ways of
its own. Credentials are the storage library's business: it reads them from its environment, and nothing here sees them.
"""

import errno
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

from raycadian.errors import StorageError
from raycadian.files import mode_of, on_disk, written_whole

_ATTEMPTS = 15  # of a request, at most 20 s from one to the next: a minute at least, two most often
log = logging.getLogger(__name__)


def resolve_path(text: str | Path) -> Path:
    """A path, or a URL that fsspec knows with the interface of one. Raises ValueError where it can't be used."""
    if not isinstance(text, str) or "://" not in text:
        return Path(text) if isinstance(text, str) else text
    url = urlsplit(text)
    if url.scheme == "file":
        return Path(url2pathname(url.path))
    if url.password is not None:
        raise ValueError(
            f"{url.scheme}://...@{url.hostname}: a URL with a password ends in logs; put it in the environment"
        )
    from upath import UPath

    try:
        path = UPath(text, use_listings_cache=False, **_asking_again(url.scheme))  # others write there too
        assert path.fs is not None
    except (ImportError, ValueError) as error:  # a missing package, or no such scheme
        raise ValueError(f"{text}: {error}") from None
    return path


def _asking_again(scheme: str) -> dict[str, Any]:
    """Options of S3: a bucket that is away or answers 503 for a minute is waited for; AWS_MAX_ATTEMPTS goes before."""
    if scheme not in ("s3", "s3a") or "AWS_MAX_ATTEMPTS" in os.environ:
        return {}
    return {"config_kwargs": {"retries": {"mode": "standard", "total_max_attempts": _ATTEMPTS}}}


def remote(path: Path) -> bool:
    """Whether it is in object storage."""
    return not isinstance(path, PurePath)


def children(folder: Path) -> list[Path]:
    """What lies directly below a folder, sorted; nothing where it is not there."""
    if not remote(folder):
        return sorted(folder.iterdir()) if folder.is_dir() else []
    with explained(folder):
        try:
            names = folder.fs.ls(folder.path, detail=False)
        except FileNotFoundError:
            return []
    return sorted((folder / name.rstrip("/").rsplit("/", 1)[-1] for name in names), key=str)


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file below a folder, by its path there: in object storage 1,000 a request."""
    if not remote(folder):
        return {f.relative_to(folder).as_posix(): f.stat().st_size for f in folder.rglob("*") if f.is_file()}
    with explained(folder):
        entries = folder.fs.find(folder.path, detail=True)
    return {name.removeprefix(f"{folder.path}/"): entry["size"] for name, entry in entries.items()}


def read_bytes(path: Path) -> bytes:
    """Raises FileNotFoundError where there is no such file."""
    with explained(path):
        return path.read_bytes()


def write_bytes(path: Path, data: bytes | memoryview) -> int:
    """Write a file, in one piece in object storage; its size. Raises OSError, and StorageError without a bucket."""
    with explained(path):
        try:
            with path.open("wb") as file:
                file.write(data)
        except FileNotFoundError:
            if remote(path):
                raise StorageError(f"{path}: no such bucket; create it, or correct its name in --snapshots") from None
            raise
    return len(data)


@contextmanager
def reading(path: Path, absent: str) -> Iterator[BinaryIO]:
    """A file to read parts of. Raises StorageError `absent` where there is none, OSError where the storage fails."""
    with explained(path):
        try:
            file = path.open("rb")
        except FileNotFoundError:
            raise StorageError(absent) from None
    with explained(path), file:
        yield file


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that comes piece by piece. In object storage it appears at the end, in one piece that memory held; not at
    all where an error came first."""
    if not remote(path):
        with path.open("wb") as file:
            yield file
        return
    packed = io.BytesIO()
    yield packed
    write_bytes(path, packed.getbuffer())


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary file of this machine that becomes `path` at the end: whole, or not at all where an error came."""
    if not remote(path):
        with on_disk(path.parent), written_whole(path) as temporary:
            yield temporary
        return
    with tempfile.TemporaryDirectory() as folder:
        yield (temporary := Path(folder) / path.name)
        write_bytes(path, temporary.read_bytes())


def make_folder(path: Path) -> None:
    """The owner's alone. Its parent must be there, except in object storage, which has no folders."""
    if not remote(path):
        path.mkdir(mode=mode_of(0o777), exist_ok=True)


def remove(folder: Path) -> None:
    """Whatever is below it, as far as that can be done: what is left is never listed."""
    if not remote(folder):
        return shutil.rmtree(folder, ignore_errors=True)
    try:
        with explained(folder):
            folder.fs.rm(folder.path, recursive=True)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("%s is left behind: %s", folder, error)


def publish(built: Path, target: Path, last: str) -> None:
    """Let the finished folder appear as `target`, whole or not at all: renamed, or copied inside the object storage
    with the file `last`, without which nobody takes it for whole, at the end."""
    if not remote(built):
        built.rename(target)
        return
    names = [name for name in sizes(built) if name != last]
    with explained(target):
        built.fs.copy([(built / name).path for name in names], [(target / name).path for name in names])
    replace(built / last, target / last)


def replace(source: Path, target: Path) -> None:
    """Put one file in the place of another, at once."""
    if not remote(source):
        os.replace(source, target)
        return
    with explained(target):
        source.fs.copy(source.path, target.path)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """What object storage raises (each library has its own classes) as an OSError that says where, what and the fix."""
    try:
        yield
    except (ValueError, FileNotFoundError):
        raise
    except Exception as error:
        if not remote(path):
            raise
        message = f"{type(error).__name__}: {error}"
        if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
            raise PermissionError(
                errno.EACCES,
                f"{path}: access denied ({message}); give the processes of every node credentials that may list, read, "
                "write and delete there, in the environment or by the machine's role",
            ) from error
        raise OSError(
            errno.EIO,
            f"{path}: the storage did not answer, after several tries ({message}); check the network and the endpoint, "
            "then run it again: nothing half-written is listed",
        ) from error
