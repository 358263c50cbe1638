"""What an earlier snapshot says of files that are as they were, so that they needn't be read again."""

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pyarrow as pa

from raycadian.modalities.base import Preparation
from raycadian.modalities.cgm.parts import Columns, Parts

_FILES = pa.schema([("file", pa.string()), ("issues", pa.string())])


class Known:
    """`files`: name -> what reading it would answer, but for where its readings lie. None of those that could not be
    read: they are tried again."""

    def __init__(self, files: Mapping[str, dict[str, Any]], files_of: Mapping[str, frozenset[str]]):
        self.files, self._files_of = files, files_of

    @staticmethod
    def of(job: Preparation) -> "Known":
        """What `note` laid down in the earlier snapshot; nothing where there is none."""
        if job.earlier is None:
            return Known({}, {})
        record = job.earlier.record("parts")
        if "sketch" not in record.column_names:  # of before: all is read again
            return Known({}, {})
        table = record.to_pandas().astype({"file": str})
        parts = {name: _columns(own) for name, own in table.groupby("file")}
        files = {
            row["file"]: {"issues": json.loads(row["issues"]), "readings": 0, "parts": parts.get(row["file"], _NONE)}
            for row in job.earlier.record("files").to_pylist()
            if row["file"] in job.earlier.unchanged
        }
        return Known(files, table.groupby("subject")["file"].agg(frozenset).to_dict())

    @staticmethod
    def note(parts: Parts, issues: Mapping[str, dict[str, Any]], names: list[str], job: Preparation) -> None:
        """For a later prepare. issues: of each file that was read, by name · names: of all files."""
        rows = [{"file": name, "issues": json.dumps(own)} for name, own in issues.items()]
        job.records["files"] = pa.Table.from_pylist(rows, _FILES)
        job.records["parts"] = parts.table(names)

    def unchanged(self, parts: Parts, names: list[str]) -> set[str]:
        """Subjects whose files are all as they were, none more and none fewer. names: of the files of the parts."""
        file = parts.column("file")
        return {
            subject
            for subject, rows in parts.by_subject()
            if (own := self._files_of.get(subject)) and own == {names[i] for i in file[rows]} <= self.files.keys()
        }


_NONE = Parts().columns()


def _columns(own: pd.DataFrame) -> Columns:
    return {name: own[name].tolist() for name in own.columns} | {"spill": [""] * len(own)}
