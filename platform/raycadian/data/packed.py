"""Files inside of files: the sheets of a workbook, the members of a zip, laid beside one another as plain files.

They lie in a folder of this process that only its user can read, and go when it ends.
"""

import fnmatch
import functools
import json
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from raycadian.data import workbook
from raycadian.data.source import check_count, check_unpacked

_ZIP, _OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
_MOST_MEMBERS = 10_000
_WORKBOOK_S = 120  # a sheet of a million rows takes some ten seconds
_HIDDEN = ("__MACOSX", ".")  # what macOS and programs leave beside one's files
ABOUT = (".md", ".pdf", ".html", ".htm", ".docx", ".doc", ".rtf", ".png", ".jpg", ".jpeg", ".svg", ".yaml", ".yml")
"""Endings of what describes data."""
_DESCRIBES = ("readme", "license", "licence", "changelog", "sha256sums", "md5sums", "manifest")


def packed_kind(path: Path) -> str | None:
    """workbook or archive; None for a plain file, NumPy's archives and Apple Health's among them. Raises ValueError for
    an archive that is broken."""
    with path.open("rb") as file:
        head = file.read(4)
    if head == _OLE:
        return "workbook"
    if head != _ZIP or path.suffix.lower() == ".npz":
        return None
    names = _names(path)
    if any(name.startswith("xl/") for name in names) or _first(path, names).startswith(b"application/vnd.oasis"):
        return "workbook"
    if any(name.startswith(("word/", "ppt/")) for name in names):
        raise ValueError(f"{path}: a document, not a table; save the table in it as CSV")
    health = any("export" in name and name.endswith(".xml") for name in names)
    return None if health or all(name.endswith(".npy") for name in names) else "archive"


def _names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            check_count(len(archive.infolist()), path, _MOST_MEMBERS, "members")
            return [entry.filename for entry in archive.infolist()]
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, UnicodeDecodeError) as error:
        reason = str(error)[:200]
        raise ValueError(f"{path}: a ZIP archive that is damaged: {reason}; copy or export it again") from None


def _first(path: Path, names: Sequence[str]) -> bytes:
    """The first bytes of an OpenDocument's `mimetype`; empty where there is none."""
    if "mimetype" not in names[:1]:
        return b""
    with zipfile.ZipFile(path) as archive, archive.open("mimetype") as file:
        return file.read(64)


# --- where they lie -------------------------------------------------------------------------------------------------


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="raycadian-unpacked-")  # mode 700; goes when the process ends


@functools.lru_cache(maxsize=1024)
def _laid(path: Path, stamp: tuple[int, int]) -> dict[str, Path]:
    """Sheet or member -> the plain file with its content, in the order of the workbook or the archive."""
    folder = Path(tempfile.mkdtemp(dir=_folder().name)) / path.name
    folder.mkdir()
    return dict((_sheets if packed_kind(path) == "workbook" else _members)(path, folder))


def contents(path: Path) -> dict[str, Path]:
    """What lies in a workbook or an archive: name -> a plain file. Sheets without a row, and members that macOS adds,
    are left out. Raises ValueError for what is broken, encrypted, or unpacks to too much."""
    about = path.stat()
    return dict(_laid(path.absolute(), (about.st_mtime_ns, about.st_size)))


# --- workbooks ------------------------------------------------------------------------------------------------------


def _sheets(path: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Read by a process of its own: one cell with a far address makes the library ask for all memory, or abort."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_unpacked(sum(entry.file_size for entry in archive.infolist()), path.stat().st_size, path)
    command = [sys.executable, "-P", workbook.__file__, str(path), str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_WORKBOOK_S)
    except subprocess.TimeoutExpired:
        raise _unread(path, f"it takes more than {_WORKBOOK_S} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise _unread(path, lines[-1 if done.returncode > 0 else 0][:200])  # an abort's reason stands first
    for n, (name, cells) in enumerate(json.loads(done.stdout)):
        check_count(cells, path, workbook.MOST_CELLS, "cells")
        csv_file = folder / f"{n}.csv"
        if csv_file.exists():
            to = folder / f"{n}" / _safe(f"{name}.csv", path)
            to.parent.mkdir()
            yield name, csv_file.rename(to)


def _unread(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path}: a workbook that can't be read: {reason}; take off its password, or save the sheet as CSV"
    )


# --- archives -------------------------------------------------------------------------------------------------------


def _members(path: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if _is_file(entry) and not _is_hidden(entry.filename)]
        check_unpacked(sum(entry.file_size for entry in entries), path.stat().st_size, path)
        for entry in entries:
            yield entry.filename, _unpacked(archive, entry, folder, path)


def _is_file(entry: zipfile.ZipInfo) -> bool:
    """With a name: a damaged directory has entries without."""
    return bool(entry.filename) and not entry.is_dir()


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, path: Path) -> Path:
    if entry.flag_bits & 1:
        raise ValueError(f"{path}: {entry.filename!r} is encrypted; unpack it with its password")
    to = folder.joinpath(*[_safe(part, path) for part in PurePosixPath(entry.filename.replace("\\", "/")).parts])
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        with archive.open(entry) as member, to.open("xb") as file:
            left = entry.file_size  # what its directory says, which was judged
            while part := member.read(min(left + 1, 1024**2)):
                left -= len(part)
                check_count(-left, f"{path}: {entry.filename}", 0, "bytes more than its directory says")
                file.write(part)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, OSError, EOFError, RuntimeError) as error:
        name, reason = entry.filename[:100], str(error)[:200]
        raise ValueError(f"{path}: {name!r} can't be unpacked: {reason}; copy or export it again") from None
    return to


def _is_hidden(name: str) -> bool:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return any(part.startswith(_HIDDEN) and part not in (".", "..") for part in parts) or parts[-1:] == ("Thumbs.db",)


def _safe(part: str, path: Path) -> str:
    """A name for a file below our folder. Raises ValueError for one that would lie elsewhere."""
    if part in ("..", "/", "") or "\0" in part or ":" in part[1:2]:
        raise ValueError(f"{path}: a member is called {part!r}, which lies outside the archive; unpack it yourself")
    return part.replace("/", "_")[:200]


def describes(name: str) -> bool:
    """Whether a member is about the data by its name: a read-me, a licence, a document, a picture."""
    last = PurePosixPath(name).name.lower()
    return last.endswith(ABOUT) or last.startswith(_DESCRIBES)


def chosen(names: Sequence[str], pattern: str) -> list[str]:
    """Those of the names that a pattern fits, in any case."""
    return [name for name in names if fnmatch.fnmatch(name.casefold(), pattern.casefold())]
