"""Files by a pattern of a stranger's card."""

import glob
import os

import pytest

from raycadian import matching as place
from raycadian.matching import matching


@pytest.fixture
def tree(tmp_path):
    for name in ("a.csv", "b/c.csv", "b/d/e.csv", "b/d/f.txt", ".hidden/g.csv", "b/[x]/h.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


PATTERNS = (
    "*.csv",
    "**/*.csv",
    "**",
    "b/**/*.csv",
    "**/d/*",
    "**/d/**",
    "./**/*.csv",
    "b/../a.csv",
    "**/**/e.*",
    "[ab].csv",
    "x/**",
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_it_matches_as_glob_does(pattern, tree):
    there = glob.glob(os.path.join(glob.escape(str(tree)), pattern), recursive=True)
    expected = {os.path.normpath(path) for path in there if os.path.isfile(path)}
    assert {os.path.normpath(path) for path in matching(tree, pattern)} == expected
    assert matching(tree, str(tree / "b" / "*.csv")) == {tree / "b" / "c.csv"}


def test_links_in_a_circle_are_gone_round_once(tree):
    """Four of them were more ways than anybody waits for."""
    for name in "wxyz":
        (tree / "b" / name).symlink_to(tree / "b")
    assert {path.name for path in matching(tree, "**/*.csv")} == {"a.csv", "c.csv", "e.csv", "h.csv"}


def test_a_pattern_of_the_whole_machine_is_refused(tree, monkeypatch):
    """`prepare` went through all of it, /proc included."""
    monkeypatch.setattr(place, "MOST_ENTRIES", 5)
    with pytest.raises(ValueError, match=r"'/\*\*/\*.csv': more than 5 files and folders .* name a folder"):
        matching(tree, "/**/*.csv")
