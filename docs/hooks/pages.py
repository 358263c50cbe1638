"""Pages that are made while the site is built, so that nothing has to be kept in step by hand: the reference of the
schemas, and the notebook as a page.

In a clone these pages don't exist: the Markdown there links to what they are made from, the schemas' source and the
notebook, and the site's links lead to the pages instead. MkDocs calls `on_files` and `on_page_markdown`;
tests/test_docs.py takes `generated` for the links. A page a root schema; a schema that another page has already is
linked there.
"""

from __future__ import annotations

import functools
import json
import os
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from raycadian.config import Experiment, Model, Recipe, SearchSpace
from raycadian.config.schema import Schema
from raycadian.modalities import MODALITIES


class Page(NamedTuple):
    title: str
    text: str
    root: Any


ROOT = Path(__file__).parents[2]
NOTEBOOK = Path(__file__).parents[1] / "tutorials" / "first_forecast.ipynb"
MANY = 8  # alternatives on one other page are linked together
MODEL_TEXT = "What `model`, `compare`, `inner` and `members` of a recipe may be. `kind` says which."
EXPERIMENT_TEXT = "What the section `experiment` of a recipe may be. `kind` says which."
SPACE_TEXT = "What `tuning.space` names: for each dotted path of the recipe, the values to try."
PAGES = {
    "reference/schema-models.md": Page("Models of a recipe", MODEL_TEXT, Model),
    "reference/schema-experiments.md": Page("Experiments of a recipe", EXPERIMENT_TEXT, Experiment),
    "reference/schema-recipe.md": Page("Recipe", "One YAML file: one experiment.", Recipe),
    "reference/schema-space.md": Page("Search space", SPACE_TEXT, SearchSpace),
} | {
    f"reference/schema-card-{name}.md": Page(f"Card of {name}", "One YAML file: one data set.", modality.Card)
    for name, modality in MODALITIES.items()
}


MADE_FROM = {
    "platform/raycadian/config/models.py": "reference/schema-models.md",
    "platform/raycadian/config/experiments.py": "reference/schema-experiments.md",
    "platform/raycadian/config/recipe.py": "reference/schema-recipe.md",
    "platform/raycadian/config/space.py": "reference/schema-space.md",
    "docs/tutorials/first_forecast.ipynb": "tutorials/first_forecast.md",
} | {f"platform/raycadian/modalities/{name}/card.py": f"reference/schema-card-{name}.md" for name in MODALITIES}
"""File of the repository -> the page that is made from it, below docs/."""
_LINK = re.compile(r"(?m)(?<=\]\()[^)\s#:]+(?=\))|(?<=\]: )[^\s#:]+$")


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    for path, text in generated().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    return with_made_pages(markdown, page.file.src_uri)


def with_made_pages(markdown: str, path: str) -> str:
    """A page (its path below docs/), its links to files of the repository leading to the pages made from them."""
    folder = (ROOT / "docs" / path).parent

    def made(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(folder / match[0]))
        page = MADE_FROM.get(target.relative_to(ROOT).as_posix()) if target.is_relative_to(ROOT) else None
        return match[0] if page is None else Path(os.path.relpath(ROOT / "docs" / page, folder)).as_posix()

    return _LINK.sub(made, markdown)


def generated() -> dict[str, str]:
    """The Markdown of each generated page, by its path below docs/."""
    return {path: page_text(path) for path in PAGES} | {"tutorials/first_forecast.md": notebook_text(NOTEBOOK)}


def notebook_text(path: Path) -> str:
    """A notebook's cells as Markdown."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    return "\n\n".join(f"```python\n{text}\n```" if kind == "code" else text for kind, text in texts) + "\n"


def page_text(path: str) -> str:
    """The Markdown of one generated page."""
    page = PAGES[path]
    sections = [section(schema, path) for schema in schemas_of(path)]
    return "\n\n".join([f"# {page.title}", page.text, *sections]) + "\n"


@functools.cache
def owners() -> dict[type[Schema], str]:
    """Each schema, and the first page that has it."""
    owner: dict[type[Schema], str] = {}
    for path, page in PAGES.items():
        for schema in reachable(page.root):
            owner.setdefault(schema, path)
    return owner


def schemas_of(path: str) -> list[type[Schema]]:
    return [schema for schema in reachable(PAGES[path].root) if owners()[schema] == path]


def reachable(annotation: Any) -> list[type[Schema]]:
    """The schemas in an annotation and in their fields, nearest first."""
    order: dict[type[Schema], None] = {}
    waiting = list(schemas_in(annotation))
    while waiting:
        schema = waiting.pop(0)
        if schema not in order:
            order[schema] = None
            waiting += [one for field in schema.model_fields.values() for one in schemas_in(field.annotation)]
    return list(order)


def schemas_in(annotation: Any) -> Iterator[type[Schema]]:
    if isinstance(annotation, type) and get_origin(annotation) is None:
        if issubclass(annotation, Schema):
            yield annotation
        return
    for argument in get_args(annotation):
        yield from schemas_in(argument)


def section(schema: type[Schema], path: str) -> str:
    """A heading, the schema's sentence, and a table of its keys."""
    kind = schema.model_fields.get("kind")
    single = kind is not None and len(get_args(kind.annotation)) == 1
    title = f"`kind: {kind.default}`" if single else schema.__name__
    rows = [row(name, field, path) for name, field in schema.model_fields.items()]
    table = "\n".join(["| key | type | default | meaning |", "| --- | --- | --- | --- |", *rows])
    texts = [f"## {title} {{ #{anchor(schema)} }}", own_docstring(schema), table]
    return "\n\n".join(text for text in texts if text)


def own_docstring(schema: type[Schema]) -> str:
    text = schema.__dict__.get("__doc__") or ""
    return re.sub(r"\s*\n\s*", " ", text).strip()


def row(name: str, field: FieldInfo, path: str) -> str:
    meaning = re.sub(r"\s*\n\s*", " ", field.description or "").replace("|", "\\|")
    return f"| `{name}` | {type_text(field.annotation, path)}{limits(field)} | {default_text(field)} | {meaning} |"


def anchor(schema: type[Schema]) -> str:
    return schema.__name__.lower()


def type_text(annotation: Any, path: str) -> str:
    """An annotation in the words of YAML, with links to the schemas in it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(arguments[0], path)
    if origin in (Union, types.UnionType):
        return alternatives([type_text(one, path) for one in arguments])
    if origin is Literal:
        return alternatives([f"`{value}`" for value in arguments])
    if origin in (tuple, list):
        return f"list of {type_text(arguments[0], path)}" if arguments else "list"
    if origin is dict:
        return f"mapping to {type_text(arguments[1], path)}"
    return plain_type(annotation, path)


def alternatives(texts: list[str]) -> str:
    pages = {target for text in texts for target in re.findall(r"^\[\w+\]\(([\w.-]+)#", text)}
    if len(texts) > MANY and len(pages) == 1:
        page = pages.pop()
        return f"one of [{PAGES[f'reference/{page}'].title.lower()}]({page})"
    return " or ".join(dict.fromkeys(texts))


def plain_type(annotation: Any, path: str) -> str:
    if isinstance(annotation, type) and issubclass(annotation, Schema):
        owner = owners()[annotation]
        target = "" if owner == path else owner.removeprefix("reference/")
        return f"[{annotation.__name__}]({target}#{anchor(annotation)})"
    names = {str: "text", bool: "true or false", int: "whole number", float: "number", type(None): "null"}
    return names.get(annotation, "any value")


def limits(field: FieldInfo) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    texts = [
        f"{sign} {getattr(item, key):g}" for item in field.metadata for key, sign in signs.items() if hasattr(item, key)
    ]
    return f", {', '.join(texts)}" if texts else ""


def default_text(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.default if field.default is not PydanticUndefined else field.get_default(call_default_factory=True)
    return default_of(value)


def default_of(value: Any) -> str:
    """A default as YAML writes it; of a section its kind, or nothing."""
    if isinstance(value, Schema):
        kind = getattr(value, "kind", None)
        return f"`{{kind: {kind}}}`" if isinstance(kind, str) else "its defaults"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    if value is None or isinstance(value, bool):
        return f"`{json.dumps(value)}`"
    return f"`{value}`" if value != "" else ""
