"""JSON and YAML from outside are read within bounds: never a RecursionError, never memory or time without end."""

import json
import os

import pytest

from raycadian.config import load_recipe
from raycadian.errors import CheckpointError, StorageError
from raycadian.files import LARGEST_JSON, LARGEST_YAML, parse_json, parse_yaml, read_json, read_yaml
from raycadian.runs import Run

DEEP = "[" * 2_000 + "]" * 2_000
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 60))
JSONS = {
    "truncated": (b'{"a": ', "not readable as JSON"),
    "empty": (b"", "not readable as JSON"),
    "binary": (bytes(range(256)), "not readable as JSON"),
    "a list": (b"[]", "expected an object, found a list"),
    "deep": (b'{"a": ' + DEEP.encode() + b"}", "nested deeper"),
    "just too deep": (b'{"a":' * 65 + b"1" + b"}" * 65, "nested deeper than 64"),
    "many": (b'{"a": [' + b"0," * 4_000_001 + b"0]}", "more than 4,000,000 values"),
}
YAMLS = {
    "deep": (DEEP, "nested deeper"),
    "anchors": (BOMB, "more than 4,000,000 values"),
    "a circle": ("a: &a [*a]", "nested deeper"),
    "merges": (MERGES, "merge keys"),
    "no date": ("a: 2026-99-99", "not readable as YAML"),
    "no bool": ("a: !!bool x", "not readable as YAML"),
    "an object of Python": ("a: !!python/object/apply:os.system [ls]", "not readable as YAML"),
}


@pytest.mark.parametrize("name", JSONS)
def test_hostile_json_is_an_error_that_names_the_file(name, tmp_path):
    body, message = JSONS[name]
    (tmp_path / "metadata.json").write_bytes(body)
    with pytest.raises(CheckpointError, match=message) as error:
        Run(tmp_path).metadata  # noqa: B018
    assert str(tmp_path / "metadata.json") in str(error.value)


@pytest.mark.parametrize("name", YAMLS)
def test_hostile_yaml_is_an_error_that_names_the_file(name, tmp_path):
    text, message = YAMLS[name]
    (tmp_path / "recipe.yaml").write_text(text)
    for read in (load_recipe, read_yaml):
        with pytest.raises(ValueError, match=message) as error:
            read(tmp_path / "recipe.yaml")
        assert str(tmp_path / "recipe.yaml") in str(error.value)
    with pytest.raises(CheckpointError, match=message):
        Run(tmp_path).recipe  # noqa: B018


def test_what_is_no_file_or_too_large_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, message in ((tmp_path / "pipe", "no regular file"), (tmp_path / "x", "no such file")):
        with pytest.raises(StorageError, match=message):
            read_json(path, family=StorageError)
    for name, most, read in (("a.json", LARGEST_JSON, read_json), ("a.yaml", LARGEST_YAML, read_yaml)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(most + 1)
        with pytest.raises(ValueError, match=f"larger than {most >> 20} MiB"):
            read(tmp_path / name)


def test_what_people_write_is_read():
    nested = json.loads('{"a":' * 63 + "1" + "}" * 63)
    assert parse_json(json.dumps(nested)) == nested == parse_yaml(json.dumps(nested))
    assert parse_json("[1]", list) == [1]
    assert parse_yaml("a: &x [1, 2]\nb: *x\nc: 2026-01-02") | {"c": None} == {"a": [1, 2], "b": [1, 2], "c": None}
