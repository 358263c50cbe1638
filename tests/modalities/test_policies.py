"""The page of policies names every kind of issue that a reader counts, and none that nobody counts."""

import ast
import functools
import re
from pathlib import Path

import pytest

import raycadian

ROOT = Path(raycadian.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "concepts" / "policies.md"
COUNTS = {"add": 0, "note": 0, "_note_times": 1}
"""Functions that count, and which of their arguments is the kind."""
MODALITIES = ("glucose", "waveforms", "actigraphy", "any")
NO_KINDS = {"quality_page.py"}  # its `note` is a line of a page
pytestmark = pytest.mark.slow


def text_of(node: ast.expr) -> str:
    """A kind as the page writes it; '' for what is no text."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@functools.cache
def trees() -> dict[str, ast.Module]:
    paths = (path for part in ("data", "modalities") for path in (ROOT / part).rglob("*.py"))
    return {str(path): ast.parse(path.read_text("utf-8")) for path in paths}


@functools.cache
def constants() -> dict[str, str]:
    """Texts that modules name: MODULE_CONSTANT -> text."""
    bodies = (node for tree in trees().values() for node in tree.body)
    named = [(node.targets[0], node.value) for node in bodies if isinstance(node, ast.Assign)]
    return {name.id: text for name, value in named if isinstance(name, ast.Name) and (text := text_of(value))}


def kinds_of(node: ast.expr) -> set[str]:
    """What an argument may be: a text, a constant's, or either of two."""
    if isinstance(node, ast.IfExp):
        return kinds_of(node.body) | kinds_of(node.orelse)
    name = getattr(node, "attr", getattr(node, "id", ""))
    return {text_of(node) or constants().get(name, "")} - {""}


def counted(tree: ast.Module) -> set[str]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [(getattr(call.func, "attr", getattr(call.func, "id", "")), call.args) for call in calls]
    arguments = (args[COUNTS[name]] for name, args in named if name in COUNTS and len(args) > COUNTS[name])
    return {kind for argument in arguments for kind in kinds_of(argument) if " " in kind}


def listed() -> set[str]:
    """The kinds of the page's table."""
    rows = (re.fullmatch(r"\| (\w+) \| (.+) \|", line) for line in PAGE.read_text("utf-8").splitlines())
    return {row[2] for row in rows if row and row[1] in MODALITIES}


def test_every_kind_of_issue_is_on_the_page():
    found = {kind: path for path, tree in trees().items() if Path(path).name not in NO_KINDS for kind in counted(tree)}
    assert len(found) > 100
    assert not {kind: path for kind, path in found.items() if kind not in listed()}


def test_the_page_lists_no_kind_that_nobody_counts():
    texts = {text_of(node) for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.expr)}
    assert len(listed()) > 100 and not listed() - texts
