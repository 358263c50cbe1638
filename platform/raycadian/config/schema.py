"""What every schema shares: frozen, unknown keys refused with the nearest valid name; and how YAML becomes one.

YAML never computes (no includes, no interpolation). One override grammar serves `--set`, search spaces and tests:
`dotted.path=value`, the value read as YAML. Import is cheap: no torch, no ray.
"""

import difflib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from raycadian import files


class Schema(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


Fraction = Annotated[float, Field(ge=0, lt=1)]


Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


Count = Annotated[int, Field(ge=1, le=10_000_000)]


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$", max_length=100)]
"""Begins the names of folders: no . in front, which would hide them."""


def unsaid(value: Any) -> bool:
    """For `exclude_if` of a later field: recipes that don't say it keep the keys that their runs are found by."""
    return value is None


def distinct(what: str) -> AfterValidator:
    """Refuses a value twice."""

    def check(values: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(values)) != len(values):
            raise ValueError(f"{what} are distinct; found {list(values)}")
        return values

    return AfterValidator(check)


def exclusive(one: str, other: str) -> Callable[[Any], Any]:
    """A validator that refuses two fields at once."""

    def check(section: Any) -> Any:
        if getattr(section, one) is not None and getattr(section, other) is not None:
            raise ValueError(f"{one} and {other} exclude one another; give one")
        return section

    return check


def tag(key: str, unsaid: str) -> Callable[[Any], str]:
    """Which of several schemas a section is: by `key`, which may be left out where it is the usual one."""
    return lambda value: value.get(key, unsaid) if isinstance(value, dict) else getattr(value, key, unsaid)


def parse(schema: type[Schema], raw: dict, overrides: tuple[str, ...] = (), source: str = "configuration") -> Any:
    """Validate plain values against a schema, then overrides on top of all defaults. Raises ValueError."""
    valid = _validate(schema, raw, source)
    if not overrides:
        return valid
    return override(valid, dict(assignment(text) for text in overrides), source)


def override(valid: Any, values: dict[str, Any], source: str = "configuration") -> Any:
    """A configuration with `dotted.path: value` applied: `--set`, and a sweep's trials. Raises ValueError."""
    raw = valid.model_dump(mode="json")
    for path, value in values.items():
        raw = with_value(raw, path, value)
    return _validate(type(valid), raw, f"{source} with overrides")


def assignment(text: str) -> tuple[str, Any]:
    """Path and value of `dotted.path=value`. Raises ValueError."""
    path, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set {text}: expected dotted.path=value, e.g. training.epochs=3")
    if value.startswith("%"):  # a format of times, which YAML would want quoted inside of the shell's quotes
        return path.strip(), value
    try:
        return path.strip(), files.parse_yaml(value)
    except ValueError:
        raise ValueError(
            f"--set {text}: {value!r} is not readable as YAML; quote it twice: --set \"{path}='{value}'\""
        ) from None


def _validate(schema: type[Schema], raw: dict, source: str) -> Any:
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        raise ValueError(_explain(schema, error, raw, source)) from None


def with_value(raw: dict, path: str, value: Any) -> dict:
    """A copy of nested `raw` with `dotted.path` set; list elements by number. Raises ValueError."""
    head, _, rest = path.partition(".")
    if isinstance(raw, list):
        if not head.isdigit() or int(head) >= len(raw):
            raise ValueError(f"{path}: expected an index of a list of {len(raw)}, found {head!r}")
        items = list(raw)
        items[int(head)] = with_value(_or_empty(items[int(head)]), rest, value) if rest else value
        return items  # type: ignore[return-value]
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: nothing can be set below a plain value ({raw!r})")
    return {**raw, head: with_value(_or_empty(raw.get(head)), rest, value) if rest else value}


def _or_empty(value: Any) -> Any:
    return {} if value is None else value


def read_yaml(path: str | Path) -> dict:
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file (working directory {Path.cwd()})")
    raw = files.read_yaml(path)
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: expected a mapping of keys, found {files.kind_of(raw)}")
    return raw


def _explain(schema: type[Schema], error: ValidationError, raw: Any, source: str) -> str:
    lines = []
    for item in error.errors():
        *parents, last = item["loc"] or ("",)
        where = _key(item["loc"], raw) or "(top level)"
        if item["type"] == "extra_forbidden":
            names = _fields_at(schema, parents)
            near = difflib.get_close_matches(str(last), names, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"valid: {', '.join(names)}"
            lines.append(f"  {where}: unknown key; {hint}")
        elif choices := _choices(item):
            lines.append(f"  {where}: {choices}")
        else:
            lines.append(
                f"  {where}: {item['msg'].removeprefix('Value error, ')}"
                + (f" (found {item['input']!r})" if _is_scalar(item["input"]) else "")
            )
    return f"{source} is not a valid {_title(schema)}:\n" + "\n".join(lines)


def _title(schema: type[Schema]) -> str:
    """CGM card of CGMCard, search space of SearchSpace."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]+", schema.__name__)
    return " ".join(word if len(word) > 1 and word.isupper() else word.lower() for word in words)


def _key(loc: tuple[str | int, ...], raw: Any) -> str:
    """Where an error is, as the user wrote it: without the kinds of sections, which a location has too."""
    parts = []
    for number, part in enumerate(loc, start=1):
        there = part in raw if isinstance(raw, dict) else isinstance(raw, list | tuple) and isinstance(part, int)
        if there or number == len(loc):
            parts.append(str(part))
        raw = raw[part] if there else raw
    return ".".join(parts)


def _choices(item: Any) -> str:
    """Of a value that is none of a list, such as a model's kind: the nearest of the list, or all; empty for others."""
    context = item.get("ctx", {})
    listed = {"union_tag_invalid": "expected_tags", "literal_error": "expected"}.get(item["type"])
    found = context.get("tag", item["input"])
    if listed is None or not isinstance(found, str):
        return ""
    names = re.findall(r"'([^']*)'", context[listed])
    near = difflib.get_close_matches(found, names, n=1, cutoff=0.5)
    return f"unknown {found!r}; " + (f"did you mean {near[0]!r}?" if near else f"valid: {', '.join(names)}")


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


def _fields_at(schema: Any, loc: list) -> list[str]:
    """Field names valid at a location of a validation error (union tags are part of the location)."""
    current = [schema]
    for part in loc:
        step: list[Any] = []
        for candidate in current:
            if part in getattr(candidate, "model_fields", {}):
                step += _schemas_in(candidate.model_fields[part].annotation)
            elif "kind" in getattr(candidate, "model_fields", {}) and candidate.model_fields["kind"].default == part:
                step.append(candidate)  # the tag of a discriminated union
        current = step or current
    return sorted({name for candidate in current for name in candidate.model_fields})


def _schemas_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return [annotation] if issubclass(annotation, Schema) else []
    return [schema for arg in get_args(annotation) for schema in _schemas_in(arg)]
