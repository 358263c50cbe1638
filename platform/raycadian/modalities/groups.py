"""Subjects in groups, which a worker each reads one after another: in files, so that memory holds none of them."""

import json
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from raycadian.data import storage
from raycadian.modalities.base import Item
from raycadian.types import SUBJECT

_BYTES, _ITEMS = 8e6, 1000  # of subjects that one worker reads after another: some seconds


@dataclass(frozen=True)
class Groups:
    """Neighbours that are written into the same blocks: always the same ones, wherever they are read. A file a group
    in the folder."""

    folder: Path
    n_items: int = 0
    n_taken: int = 0
    n_groups: int = 0

    @staticmethod
    def of(items: Iterable[Item], effort: float, folder: Path) -> "Groups":
        """Sorted by subject. effort: of a byte, in that of one of a table."""
        storage.make_folder(folder)
        counts: Counter[bool] = Counter()
        n_groups = 0
        for group in _grouped(_sorted(_counted(items, counts)), effort):
            storage.write_bytes(folder / _name(n_groups), b"[" + b",".join(group) + b"]")
            n_groups += 1
        return Groups(folder, counts.total(), counts[True], n_groups)

    @property
    def share_read(self) -> float:
        """Of the subjects: the others are taken from an earlier snapshot."""
        return 1 - self.n_taken / max(self.n_items, 1)


def read_group(folder: Path, number: int) -> list[Item]:
    return json.loads(storage.read_bytes(folder / _name(number)))


def _counted(items: Iterable[Item], counts: Counter[bool]) -> Iterator[Item]:
    for item in items:
        counts["taken" in item] += 1
        yield item


def _name(number: int) -> str:
    return f"{number:05d}.json"


def _sorted(items: Iterable[Item]) -> Iterator[tuple[float, bytes]]:
    """Bytes to be read, and JSON, of each item."""
    subjects: list[str] = []
    sizes, offsets = array("d"), array("q")
    with tempfile.TemporaryFile() as file:
        for item in items:
            subjects.append(item[SUBJECT])
            sizes.append(item.get("bytes", _BYTES))
            offsets.append(file.tell())
            file.write(json.dumps(item).encode() + b"\n")
        for i in sorted(range(len(subjects)), key=subjects.__getitem__):
            file.seek(offsets[i])
            yield sizes[i], file.readline().rstrip(b"\n")


def _grouped(items: Iterable[tuple[float, bytes]], effort: float) -> Iterator[list[bytes]]:
    group: list[bytes] = []
    n_bytes = 0.0
    for size, item in items:
        if group and (n_bytes >= _BYTES or len(group) >= _ITEMS):
            yield group
            group, n_bytes = [], 0.0
        group.append(item)
        n_bytes += effort * size
    if group:
        yield group
