"""What is kept of people who calibrated a model: a private folder each, with everything of that person and nothing of
others.

    people/                 0700, with a .gitignore of everything
      SUBJECT/              0700
        adapter.safetensors   what the population's model does not know of this person
        person.sqlite         baseline, labels, the hash of the key
        metadata.json         which run, which days, what held-out days said

Recordings are never kept. Deleting the folder deletes the person: no other file has anything of theirs.
"""

import os
import re
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from raycadian.files import private, read_json, replaced_folder, write_json
from raycadian.physiology.rhythms.daily import Baseline

PEOPLE = Path("people")
ADAPTER, DATABASE, METADATA = "adapter.safetensors", "person.sqlite", "metadata.json"
MOST_ADAPTER_BYTES = 50_000_000
_SUBJECT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
_NOBODY = sha256(b"nobody").hexdigest()  # compared with where there is no such person: as long as a comparison takes
_TABLES = """
    CREATE TABLE baseline (feature TEXT PRIMARY KEY, mean REAL, spread REAL);
    CREATE TABLE baseline_days (days INTEGER, first TEXT, last TEXT);
    CREATE TABLE labels (day TEXT PRIMARY KEY, label REAL NOT NULL);
    CREATE TABLE key (sha256 TEXT NOT NULL);
"""


class Forbidden(ValueError):
    """No such person, or not their key: it is not said which."""


@dataclass(frozen=True)
class PersonRecord:
    """What is kept of one person. `metadata`: as metadata.json, with `adapter`, a random name of this version of the
    adapter."""

    subject: str
    baseline: Baseline
    labels: dict[np.datetime64, float]
    key_sha256: str
    metadata: dict[str, Any]

    @property
    def version(self) -> str:
        return self.metadata["adapter"]

    @property
    def adapter_kept(self) -> bool:
        """Whether held-out days spoke for the adapter; else the population's model serves them."""
        return self.metadata["kept"] == "adapter"

    @property
    def described(self) -> dict[str, Any]:
        """What an answer says of the adapter behind it."""
        names = ("adapter", "kept", "verdict", "calibrated_utc")
        return {name: self.metadata[name] for name in names} | {"baseline_days": self.baseline.days}


@dataclass(frozen=True)
class Store:
    """The people of one folder."""

    root: Path

    def folder(self, subject: str) -> Path:
        """Raises ValueError for an id that is no plain name."""
        if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
            raise ValueError(
                f"subject {subject[:80]!r}: expected 1 to 64 of the letters A-Z, a-z, digits and _ . -, no . at the "
                "beginning; take an id that says nothing of the person, such as p01"
            )
        return self.root / subject

    @property
    def subjects(self) -> list[str]:
        if not self.root.is_dir():
            return []
        return sorted(p.name for p in self.root.iterdir() if (p / METADATA).is_file() and _SUBJECT.fullmatch(p.name))

    def __contains__(self, subject: str) -> bool:
        return (self.folder(subject) / METADATA).is_file()

    def write(self, person: PersonRecord, adapter: Mapping[str, Tensor]) -> Path:
        """Whole or not at all, readable by the owner alone; what was there of the same person is replaced."""
        folder = self.folder(person.subject)
        self._require_private()
        with private(), replaced_folder(folder) as temporary:
            save_file(dict(adapter), temporary / ADAPTER)
            with _database(temporary / DATABASE) as base:
                _fill(base, person)
            write_json(temporary / METADATA, person.metadata)
            for path in (temporary, *temporary.iterdir()):
                path.chmod(0o700 if path.is_dir() else 0o600)
        return folder

    def read(self, subject: str) -> PersonRecord:
        """Raises ValueError for somebody who has not calibrated, or damaged files."""
        folder = self.folder(subject)
        if subject not in self:
            raise ValueError(
                f"{subject}: has not calibrated in {self.root.absolute()}; "
                f"`raycadian calibrate --subject {subject} ...`"
            )
        try:
            metadata = read_json(folder / METADATA)
            with _database(folder / DATABASE, new=False) as base:
                return _read(base, subject, metadata)
        except (OSError, sqlite3.Error, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{folder}: damaged: {error}; forget the person and calibrate again") from error

    def adapter(self, subject: str) -> dict[str, Tensor]:
        """Raises ValueError."""
        path = self.folder(subject) / ADAPTER
        try:
            if path.stat().st_size > MOST_ADAPTER_BYTES:
                raise ValueError(f"{path.stat().st_size:,} bytes, at most {MOST_ADAPTER_BYTES:,}")
            return load_file(path)
        except (OSError, SafetensorError, ValueError) as error:
            raise ValueError(f"{path}: damaged: {error}; forget the person and calibrate again") from error

    def opened(self, subject: str | None, key: str) -> PersonRecord:
        """The person, to whoever has their key; compared in constant time. Raises Forbidden, the same for a wrong key,
        an id that is no name and somebody who is not here."""
        try:
            person = self.read(subject or "")
        except ValueError:
            person = None
        known = _NOBODY if person is None else person.key_sha256
        if not secrets.compare_digest(digest(key), known) or person is None:
            raise Forbidden("no such person here, or not their key")
        return person

    def holds(self, subject: str, version: str) -> bool:
        """Whether this version of the person's adapter is the one that is kept."""
        try:
            return read_json(self.folder(subject) / METADATA)["adapter"] == version
        except (OSError, ValueError, KeyError):
            return False

    def forget(self, subject: str) -> int:
        """Delete everything of a person, also what an interrupted calibration left; the number of files. Contents are
        overwritten before, which file systems that copy on write don't heed. Raises ValueError where there is
        nothing."""
        folder = self.folder(subject)
        left = re.compile(rf"\.{re.escape(subject)}-[0-9a-f]{{8}}")
        there = self.root.iterdir() if self.root.is_dir() else ()
        theirs = [p for p in there if p == folder or left.fullmatch(p.name)]
        if not theirs:
            raise ValueError(f"{subject}: nothing is kept of them in {self.root.absolute()}")
        return sum(map(_erase, theirs))

    def _require_private(self) -> None:
        with private():
            self.root.mkdir(parents=True, exist_ok=True)
            mode = self.root.stat().st_mode & 0o777
            if mode & 0o077:
                raise ValueError(f"{self.root}: others may look into it (mode {mode:o}); run `chmod 700 {self.root}`")
            if not (ignore := self.root / ".gitignore").exists():
                ignore.write_text("*\n", encoding="ascii")  # keeps people out of commits and of a job's upload


def new_key() -> str:
    """A key that nobody can guess; only its hash is kept."""
    return secrets.token_urlsafe(32)


def digest(key: str) -> str:
    """Of a person's or the server's key, which is itself never kept: 256 random bits need no slow hash."""
    return sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


@contextmanager
def _database(path: Path, new: bool = True) -> Iterator[sqlite3.Connection]:
    uri = f"{path.absolute().as_uri()}?mode={'rwc' if new else 'ro'}"
    with closing(sqlite3.connect(uri, uri=True)) as base, base:
        base.execute("PRAGMA trusted_schema = OFF")
        yield base


def _fill(base: sqlite3.Connection, person: PersonRecord) -> None:
    b = person.baseline
    base.executescript(_TABLES)
    base.executemany(
        "INSERT INTO baseline VALUES (?, ?, ?)", zip(b.names, b.mean.tolist(), b.spread.tolist(), strict=True)
    )
    base.execute("INSERT INTO baseline_days VALUES (?, ?, ?)", (b.days, str(b.first), str(b.last)))
    base.executemany("INSERT INTO labels VALUES (?, ?)", ((str(day), label) for day, label in person.labels.items()))
    base.execute("INSERT INTO key VALUES (?)", (person.key_sha256,))


def _read(base: sqlite3.Connection, subject: str, metadata: dict[str, Any]) -> PersonRecord:
    names, *numbers = zip(*base.execute("SELECT feature, mean, spread FROM baseline ORDER BY rowid"), strict=True)
    mean, spread = (np.array(column, dtype=np.float64) for column in numbers)  # NULL is NaN
    ((days, first, last),) = base.execute("SELECT days, first, last FROM baseline_days")
    baseline = Baseline(names, mean, spread, days, np.datetime64(first, "D"), np.datetime64(last, "D"))
    labels = {
        np.datetime64(day, "D"): label for day, label in base.execute("SELECT day, label FROM labels ORDER BY day")
    }
    ((key,),) = base.execute("SELECT sha256 FROM key")
    return PersonRecord(subject, baseline, labels, key, metadata)


def _erase(folder: Path) -> int:
    if folder.is_symlink():  # not ours: what it points at stays
        folder.unlink()
        return 1
    files = [p for p in folder.rglob("*") if not p.is_dir() or p.is_symlink()]
    for path in files:
        if not path.is_symlink():
            _overwrite(path)
        path.unlink()
    for inner in sorted((p for p in folder.rglob("*")), reverse=True):
        inner.rmdir()
    folder.rmdir()
    return len(files)


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\0" * path.stat().st_size)
        file.flush()
        os.fsync(file.fileno())
