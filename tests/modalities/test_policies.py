"""The page of policies names every kind of issue that a reader counts."""

import ast
from pathlib import Path

import raycadian.modalities

ROOT = Path(raycadian.modalities.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "concepts" / "policies.md"
COUNTS = {"add": 0, "note": 0, "_note_times": 1}
"""Functions that count, and which of their arguments is the kind."""


def kind_of(node: ast.expr) -> str:
    """A kind as the page writes it; '' for what is no text."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def kinds(path: Path) -> set[str]:
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    named = [(getattr(call.func, "attr", getattr(call.func, "id", "")), call.args) for call in calls]
    return {kind_of(args[COUNTS[name]]) for name, args in named if name in COUNTS and len(args) > COUNTS[name]} - {""}


def test_every_kind_of_issue_is_on_the_page():
    page = PAGE.read_text("utf-8")
    found = {kind: path.name for path in ROOT.rglob("*.py") for kind in kinds(path)}
    assert len(found) > 80
    assert not {kind: name for kind, name in found.items() if kind not in page}
