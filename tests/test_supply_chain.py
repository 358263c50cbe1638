"""What is installed: every package by the hash of its archive, and an audit that does not say "none known" where it
looked nothing up."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HASHES = runpy.run_path(str(ROOT / "deploy" / "hashes.py"))
AUDIT = runpy.run_path(str(ROOT / "deploy" / "audit.py"))
SHA = "a" * 64


def test_every_constraint_has_hashes_and_no_address_is_named():
    text = (ROOT / "constraints-hashed.txt").read_text()
    hashed = HASHES["parse"](text)
    assert list(hashed) == HASHES["names"]((ROOT / "constraints.txt").read_text()), "run `make hashes`"
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digests in hashed.values() for digest in digests)
    assert all(hashed.values()) and "://" not in text and "index" not in text


def test_hashes_of_another_python_are_added_and_those_of_other_versions_go():
    report = {"install": [
        {"metadata": {"name": "A_b.c", "version": "1"}, "download_info": {"archive_info": {"hashes": {"sha256": SHA}}}}
    ]}  # fmt: skip
    before = HASHES["parse"](f"# x\na-b-c==1 --hash=sha256:{'b' * 64}\nd==1 --hash=sha256:{'c' * 64}\n")
    merged = HASHES["merge"](["a-b-c==1", "d==2"], [before, HASHES["hashes_of"](report)])
    assert merged == {"a-b-c==1": {SHA, "b" * 64}, "d==2": set()}
    written = HASHES["line"](("a-b-c==1", merged["a-b-c==1"]))
    assert written == f"a-b-c==1 --hash=sha256:{SHA} --hash=sha256:{'b' * 64}\n"


SKIPPED = {"name": "b", "skip_reason": "not found"}
CLEAN = {"name": "a", "version": "1", "vulns": []}
KNOWN = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}


@pytest.mark.parametrize(
    ("dependencies", "code", "words"),
    [
        ([CLEAN], 0, "1 packages looked up, no known vulnerability"),
        ([CLEAN, KNOWN], 1, "c 2: CVE-1, fixed in 3"),
        ([CLEAN, SKIPPED], 3, "1 of 2 packages could not be looked up; nothing is known of them"),
        ([SKIPPED, SKIPPED], 3, "the database of vulnerabilities can't be reached from here; nothing is known"),
        ([KNOWN, SKIPPED], 1, "1 of 2 packages could not be looked up"),
    ],
)
def test_the_audit_says_what_it_could_not_look_up(dependencies, code, words):
    status, text = AUDIT["verdict"](dependencies)
    assert status == code and words in text
