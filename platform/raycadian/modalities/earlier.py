"""An earlier snapshot of the same card: what hangs on files that are as they were is taken from it."""

import glob
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from raycadian.data.parquet import read_table
from raycadian.data.snapshot import FORMAT, Snapshot, snapshots
from raycadian.modalities.base import BaseCard, Item
from raycadian.types import SUBJECT

_WORDS = ("files", "description", "license", "source", "citation", "most_unreadable")  # of a card; no data hang on them


@dataclass(frozen=True)
class Earlier:
    """`unchanged`: names of its files that have the same content."""

    snapshot: Snapshot
    unchanged: frozenset[str]

    @staticmethod
    def of(out: Path, card: BaseCard, made_of: dict[str, Any]) -> "Earlier | None":
        """Of the snapshots below `out` the one that shares most files; None where there is none that is sound. Records
        of files are what tells whose data hang on which."""
        candidates = [Earlier(s, _shared(s, made_of)) for s in snapshots(out, glob.escape(card.name))]
        own = [e for e in candidates if e.unchanged and e._is_of(card, made_of["version"])]
        best = max(own, key=lambda e: len(e.unchanged), default=None)
        return best if best is not None and best.snapshot.is_sound() else None

    def _is_of(self, card: BaseCard, version: int) -> bool:
        manifest = self.snapshot.manifest
        is_alike = _data_of(manifest["card"]) == _data_of(card.stated())
        if card.people is not None and os.path.normpath(card.people.file) not in self.unchanged:
            return False  # everybody's labels may be others
        return is_alike and manifest["version"] == version and manifest["format"] == FORMAT and "records" in manifest

    def record(self, name: str) -> pa.Table | None:
        """What a modality laid down beside the subjects."""
        file = self.snapshot.manifest["records"].get(name)
        return None if file is None else read_table(self.snapshot.path / file, set())

    def item(self, subject: str, n_bytes: float) -> Item:
        """What a worker copies the subject by."""
        return {SUBJECT: subject, "bytes": n_bytes, "taken": self.snapshot.row(subject)}

    @cached_property
    def _made_of(self) -> dict[str, str | None]:
        return self.snapshot.made_of

    def taking(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, in place of those that say what they are made of, and that it is as it was, what copies them."""
        for item in items:
            same = "made_of" in item and self._made_of.get(item[SUBJECT]) == item["made_of"]
            yield self.item(item[SUBJECT], item["bytes"]) if same else item


def _shared(snapshot: Snapshot, made_of: dict[str, Any]) -> frozenset[str]:
    known = {source["path"]: source["sha256"] for source in snapshot.manifest.get("sources", ())}
    return frozenset(s["path"] for s in made_of["sources"] if known.get(s["path"]) == s["sha256"])


def _data_of(card: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in card.items() if name not in _WORDS}, sort_keys=True)
