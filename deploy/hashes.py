"""`make hashes`: the SHA-256 of the archive of every package that constraints.txt names, into constraints-hashed.txt:
`pip install --require-hashes` takes no other.

pip itself says what it would install (`--dry-run --report`); nothing is downloaded whole where the index states hashes.
Each Python and platform takes archives of its own: run there, this adds its hashes to those that are in the file. The
file names no index.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NAMES, HASHED = ROOT / "constraints.txt", ROOT / "constraints-hashed.txt"
HEADER = "# SHA-256 of the archives of constraints.txt, written by `make hashes`; no addresses.\n"
Hashes = dict[str, set[str]]
"""name==version -> hashes."""


def main(*reports: str) -> None:
    """`reports`: of pip, made elsewhere; without them pip is asked for this Python."""
    wanted = names(NAMES.read_text(encoding="utf-8"))
    added = [hashes_of(json.loads(Path(path).read_text(encoding="utf-8"))) for path in reports or [_report()]]
    merged = merge(wanted, [parse(HASHED.read_text(encoding="utf-8")) if HASHED.is_file() else {}, *added])
    if lacking := [name for name in wanted if not merged[name]]:
        sys.exit(f"no hash of {', '.join(lacking)}: pip did not find them")
    HASHED.write_text(HEADER + "".join(map(line, merged.items())), encoding="utf-8")
    print(f"{HASHED.name}: {len(merged)} packages, {sum(map(len, merged.values()))} hashes")


def names(text: str) -> list[str]:
    """The requirements of constraints.txt, `name==version`, as pip normalises names."""
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return [normal(line) for line in lines if line]


def normal(requirement: str) -> str:
    name, _, version = requirement.partition("==")
    return f"{re.sub(r'[-_.]+', '-', name.strip()).lower()}=={version.strip()}"


def hashes_of(report: dict[str, Any]) -> Hashes:
    """Of the archives that pip would install."""
    found: Hashes = {}
    for item in report["install"]:
        about, archive = item["metadata"], item["download_info"]["archive_info"]
        found.setdefault(normal(f"{about['name']}=={about['version']}"), set()).add(archive["hashes"]["sha256"])
    return found


def parse(text: str) -> Hashes:
    """The inverse of `line`, of a file."""
    return {
        words[0]: {word.removeprefix("--hash=sha256:") for word in words[1:]}
        for words in (text_line.split() for text_line in text.splitlines())
        if words and not words[0].startswith("#")
    }


def merge(wanted: list[str], parts: Iterable[Hashes]) -> Hashes:
    parts = list(parts)
    return {name: set().union(*(part.get(name, set()) for part in parts)) for name in wanted}


def line(entry: tuple[str, set[str]]) -> str:
    name, hashes = entry
    return " ".join([name, *(f"--hash=sha256:{digest}" for digest in sorted(hashes))]) + "\n"


def _report() -> Path:
    report = Path(tempfile.mkdtemp()) / "report.json"
    what = ["--no-deps", "--ignore-installed", "--requirement", str(NAMES)]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--report", str(report), *what]
    subprocess.run(command, check=True)
    return report


if __name__ == "__main__":
    main(*sys.argv[1:])
