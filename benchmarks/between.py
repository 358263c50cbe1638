"""Tables that a benchmark writes into a page, between two marks."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def markdown(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write_between(path: Path, begin: str, end: str, text: str) -> None:
    """Replace what stands between the marks. Raises SystemExit where they are not there once each, in order."""
    body = path.read_text(encoding="utf-8")
    if body.count(begin) != 1 or body.count(end) != 1 or body.index(begin) > body.index(end):
        raise SystemExit(f"{path} needs one `{begin}` and after it one `{end}`")
    path.write_text(f"{body.split(begin)[0]}{begin}\n{text}\n{end}{body.split(end)[1]}", encoding="utf-8")
