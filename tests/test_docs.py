"""The documentation: links lead somewhere, pages stay narrow, and what they show runs."""

import functools
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from markdown.extensions.toc import slugify

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *sorted(DOCS.rglob("*.md"))]
LONGEST = 120
ABSOLUTE = re.compile(r"[a-z]+:")


@functools.cache
def _hooks():
    """What makes pages while the site is built."""
    spec = importlib.util.spec_from_file_location("docs_pages", DOCS / "hooks" / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def _generated():
    """The pages that are made while the site is built, by their path below docs/."""
    return {(DOCS / name).resolve(): text for name, text in _hooks().generated().items()}


def _prose(text):
    """A page without its fenced code."""
    return re.sub(r"(?ms)^```.*?^```$", "", text)


def _text(path):
    return _generated()[path] if path in _generated() else path.read_text(encoding="utf-8")


def _anchors(text):
    """The anchors of a page: headings as MkDocs names them, and those given in braces."""
    headings = re.findall(r"(?m)^#+ (.*)$", _prose(text))
    given = {match[1] for heading in headings if (match := re.search(r"\{ #([\w-]+) \}", heading))}
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return given | {slugify(re.sub(r"[`*]", "", heading), "-") for heading in plain}


def _links(text):
    links = re.findall(r"(?m)\]\(([^)\s]+)\)|^\[[^]]+\]: (\S+)$", _prose(text))
    return [link for pair in links if not ABSOLUTE.match(link := "".join(pair))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in _links(_text(page)):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link}: no such file in a clone"
        assert not anchor or anchor in _anchors(_text(target)), f"{link}: no such heading"


def test_the_site_links_to_the_pages_that_are_made_for_it():
    """Where a clone has what a page is made from, and only there."""
    made = _hooks().with_made_pages
    page = "howto/own_data.md"
    text = (
        "[a](../../platform/raycadian/modalities/cgm/card.py), [b](../tutorials/first_forecast.ipynb), [c](own_data.md)"
    )
    assert (
        made(text, page)
        == "[a](../reference/schema-card-cgm.md), [b](../tutorials/first_forecast.md), [c](own_data.md)"
    )
    sources = _hooks().MADE_FROM
    assert all((ROOT / name).is_file() for name in sources)
    assert {(DOCS / name).resolve() for name in sources.values()} == set(_generated())


def test_generated_pages_link_to_headings():
    for path, text in _generated().items():
        for link in _links(text):
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            assert not anchor or anchor in _anchors(_text(target)), f"{path.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_lines_are_narrow(page):
    """Rows of tables are as wide as they are: Markdown can't wrap them."""
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    assert not [f"{page.name}:{i}" for i, line in lines if len(line) > LONGEST and not line.startswith("|")]


def test_readme_is_read_in_three_minutes():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    assert all(len(line) <= LONGEST for line in lines)


def test_pages_name_modules_that_exist():
    """A path or a dotted name of the package that a page shows leads to a file."""
    package = ROOT / "platform" / "raycadian"
    folders = {p.name for p in package.iterdir() if p.is_dir() and not p.name.startswith("_")}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        made = {Path(name).parent for name in re.findall(r'title="([^"]+)"', text)}  # by a worked example
        for name in re.findall(r"`([\w/]+\.py)`", text):
            top = name.split("/")[0]
            path = package / name if top in folders else ROOT / name
            known = top in folders | {"platform", "benchmarks", "tests", "docs"}
            assert not known or path.is_file() or path.parent.relative_to(ROOT) in made, f"{page.name} names {name}"


@pytest.mark.slow
def test_the_site_builds_and_opens_offline(tmp_path):
    """`mkdocs build --strict`, as `make docs` calls it, without a warning; nothing is loaded from elsewhere."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    html = {path: path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")}
    assert {"index.html", "benchmarks.html", "faq.html"} <= {path.name for path in html}
    loaded = re.compile(
        r"<(?:script|img|iframe)[^>]+src=\"?https?:|<link[^>]+rel=\"?(?:stylesheet|preconnect)[^>]+https?:"
    )
    assert not [path.name for path, text in html.items() if loaded.search(text)]
    assert "exclude_subjects" in html[tmp_path / "reference" / "schema-card-cgm.html"]
