"""Run folders of strangers: each that can't be what it says is a ValueError within seconds and within a gigabyte, and
no code of its runs. The manifest is taken away: whoever may write the folder can write that too."""

import hashlib
import json
import math
import os
import resource
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import served
import torch
from safetensors.torch import load_file, save_file

from raycadian import manifest
from raycadian.modalities.cgm.request import History
from raycadian.runs import Run, read_runs
from raycadian.serving.load import load_predictor
from raycadian.training.pipeline import read_predictions

pytestmark = pytest.mark.long
MOST_BYTES, MOST_S = 1_000_000_000, 10
PEOPLE = served.people(2, 5)
DAY = History.of(PEOPLE["p0"])
CONFIG, PREPARED = "checkpoint/config.json", "checkpoint/preprocessing.json"
WEIGHTS, PREDICTIONS = "checkpoint/model.safetensors", "predictions.parquet"


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    run = served.make_run(tmp_path_factory.mktemp("runs"), PEOPLE)
    (run.path / manifest.FILE).unlink()
    return run.path


@pytest.fixture(scope="module")
def forecast(original) -> np.ndarray:
    return use(original)


@pytest.fixture
def folder(original, tmp_path) -> Path:
    return shutil.copytree(original, tmp_path / original.name)


@contextmanager
def bounded() -> Iterator[None]:
    """No gigabyte more than there is now, and ten seconds."""

    def too_long(*_: object) -> None:
        raise TimeoutError(f"more than {MOST_S} s")

    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, too_long)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MOST_BYTES, before[1]))
    signal.alarm(MOST_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def use(path: Path) -> np.ndarray:
    """What a list of runs and a server do with one: the forecast of a day of readings, (H, Q)."""
    _, broken = read_runs(path.parent)
    if broken:
        raise ValueError(broken[0].reason)
    run = Run(path)
    assert run.metadata["status"] and isinstance(run.summary, dict) and run.recipe.name
    read_predictions(run)
    return load_predictor(path).answer(DAY).quantiles


def refused(path: Path) -> None:
    with bounded(), pytest.raises(ValueError) as error:
        use(path)
    words = str(error.value)
    # neither a bound of this test nor a library's own helplessness
    assert not any(word in words for word in ("allocate", "MemoryError", "TimeoutError", f"{MOST_S} s")), words
    assert path.name in words, words  # the run, or a file of it, is named


def refused_or_the_same(path: Path, forecast: np.ndarray) -> bool:
    """Refused, or what was changed is not what forecasts depend on. Whether it was refused."""
    try:
        with bounded():
            np.testing.assert_array_equal(use(path), forecast)
        return False
    except ValueError:
        refused(path)
        return True


# --- any file ---------------------------------------------------------------------------------------------------------


def _link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


ANYTHING: dict[str, Callable[[Path], None]] = {
    "missing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 10),
    "zeros": lambda path: path.write_bytes(b"\0" * 10_000),
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "endless": _link_to("/dev/zero"),
    "elsewhere": _link_to("/etc/passwd"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "sparse terabyte": lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 2**40),
}
FILES = (CONFIG, PREPARED, WEIGHTS, PREDICTIONS, "metadata.json", "metrics_summary.json", "recipe.yaml")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ANYTHING)
def test_a_file_that_is_none(kind, name, folder):
    (folder / name).unlink()
    ANYTHING[kind](folder / name)
    refused(folder)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("name", FILES[:4])
def test_a_file_that_is_cut_off(name, share, folder):
    body = (folder / name).read_bytes()
    (folder / name).write_bytes(body[: int(len(body) * share)])
    refused(folder)


TEXTS = {
    "nested lists": "[" * 100_000 + "]" * 100_000,
    "nested objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "unclosed": '{"a": [1, 2',
    "a list": "[1, 2]",
    "a word": '"text"',
    "a number": "1e999",
    "null": "null",
    "long": '{"a": "' + "x" * 20_000_000 + '"}',
    "many values": "[" + "0," * 5_000_000 + "0]",
    "latin-1": '{"name": "é"}'.encode("latin-1").decode("latin-1"),
    "a long number": '{"a": ' + "9" * 100_000 + "}",
}


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith((".json", ".yaml"))])
@pytest.mark.parametrize("kind", TEXTS)
def test_text_that_is_not_what_is_expected(kind, name, folder):
    (folder / name).write_text(TEXTS[kind], encoding="latin-1")
    refused(folder)


YAML = {
    "code": "!!python/object/apply:os.system ['touch /tmp/raycadian-hostile']",
    "aliases": "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
    ),
    "merges": "a: &a {x: 1}\nb: {<<: *a}\n",
    "recursion": "a: &a [*a]\n",
    "unknown tag": "!unknown {a: 1}",
    "a name that leads out": "name: ../../x\ndataset: d\nmodel: {kind: ridge}\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", YAML)
def test_a_recipe_that_is_none(kind, folder):
    (folder / "recipe.yaml").write_text(YAML[kind])
    refused(folder)
    assert not Path("/tmp/raycadian-hostile").exists()


# --- what a description may ask for -----------------------------------------------------------------------------------

WRONG: dict[str, Any] = {
    "text": "x", "list": [1], "object": {"a": 1}, "null": None, "negative": -1, "zero": 0, "fraction": 0.5,
    "huge": 10**9, "immense": 10**18, "nan": math.nan, "infinity": math.inf, "nothing": "absent",
}  # fmt: skip


def _set(body: Any, path: tuple[str | int, ...], value: Any) -> None:
    for key in path[:-1]:
        body = body[key]
    if value == "absent":
        del body[path[-1]]
    else:
        body[path[-1]] = value


def edit(file: Path, *changes: tuple[tuple[str | int, ...], Any]) -> None:
    body = json.loads(file.read_text())
    for path, value in changes:
        _set(body, path, value)
    file.write_text(json.dumps(body))


INNER = ("model", "inner")
PLACES = [
    (*INNER, "d_model"),
    (*INNER, "layers"),
    (*INNER, "patch_length"),
    *(("spec", name) for name in ("context", "horizon", "quantiles", "past", "known", "dt_min")),
    *(("architectures", 0, name) for name in ("d_model", "num_layers", "context_length", "prediction_length")),
    ("architectures",),
    ("spec",),
    ("model",),
    ("weights_sha256",),
]


@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(map(str, path)))
def test_a_description_whose_numbers_can_not_be(path, folder, forecast):
    """Twelve wrong values of each: in one test, since loading is quick."""
    text, refusals = (folder / CONFIG).read_text(), 0
    for value in WRONG.values():
        (folder / CONFIG).write_text(text)
        edit(folder / CONFIG, (path, value))
        refusals += refused_or_the_same(folder, forecast)
    assert refusals >= 6


def _nested(depth: int) -> dict[str, Any]:
    model: dict[str, Any] = {"kind": "ridge"}
    for _ in range(depth):
        model = {"kind": "ensemble", "members": [model], "size": 100}
    return model


MODELS: dict[str, Any] = {
    "unknown": {"kind": "shell"},
    "an ensemble of ten million": {"kind": "ensemble", "members": [{"kind": "ridge"}], "size": 10_000_000},
    "ensembles of ensembles": _nested(6),
    "wide lstm": {"kind": "lstm", "hidden": 1_000_000, "layers": 1},
    "deep lstm": {"kind": "lstm", "hidden": 8, "layers": 100_000},
    "wide mlp": {"kind": "mlp", "hidden": [10_000_000, 10_000_000]},
    "deep mlp": {"kind": "mlp", "hidden": [8] * 200_000},
    "wide ttm": {"kind": "ttm", "d_model": 8_000_000, "layers": 1, "patch_length": 12},
    "deep ttm": {"kind": "ttm", "d_model": 8, "layers": 1_000_000, "patch_length": 12},
    "weights from elsewhere": {"kind": "ttm", "pretrained": "/etc", "d_model": 8, "layers": 1, "patch_length": 12},
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_that_is_another(kind, folder):
    edit(folder / CONFIG, (("model",), MODELS[kind]))
    refused(folder)


EMPTY = [name for name in FILES if name.endswith((".json", ".yaml")) and name != "metrics_summary.json"]


@pytest.mark.parametrize("name", EMPTY)
def test_an_object_of_nothing(name, folder):
    (folder / name).write_text("{}")
    refused(folder)


PREPARATIONS: dict[str, tuple[tuple[str | int, ...], Any]] = {
    "no population": (("population",), "absent"),
    "a population of text": (("population",), "x"),
    "a population of nothing": (("population",), {}),
    "no grid": (("grid",), "absent"),
    "a step of nothing": (("grid", "dt_min"), 0),
    "a step of an instant": (("grid", "dt_min"), 1e-9),
    "a step backwards": (("grid", "dt_min"), -5),
    "a gap without end": (("grid", "gap_min"), 1e300),
    "no window": (("window",), "absent"),
    "another context": (("window", "context"), 10**9),
    "another horizon": (("window", "horizon"), 10**9),
    "channels of text": (("window", "past"), "glucose_mgdl"),
    "an unknown mechanism": (("mechanism",), {"kind": "shell"}),
    "no mechanism": (("mechanism",), "absent"),
    "a fit every instant": (("mechanism", "refit_days"), 1e-9),
    "a population without meals": (("population", "tM"), []),
    "a population of another kind": (("population", "d"), "x"),
    "a mechanism of text": (("mechanism", "refit_days"), "x"),
}


@pytest.mark.parametrize("kind", PREPARATIONS)
def test_a_preparation_that_can_not_be(kind, folder):
    edit(folder / PREPARED, PREPARATIONS[kind])
    refused(folder)


# --- weights ----------------------------------------------------------------------------------------------------------


def _weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        tensors = {name: value.clone() for name, value in load_file(file).items()}
        change(tensors)
        save_file(tensors, file)

    return write


def _each(f: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    return _weights(lambda tensors: tensors.update({name: f(value) for name, value in tensors.items()}))


def _raw(header: bytes, length: int | None = None, data: bytes = b"") -> Callable[[Path], None]:
    size = struct.pack("<Q", len(header) if length is None else length)
    return lambda file: file.write_bytes(size + header + data)


def _pickled(file: Path) -> None:
    torch.save({"a": torch.zeros(3)}, file)


WEIGHT_FILES: dict[str, Callable[[Path], None]] = {
    "nan": _each(lambda v: v * math.nan if v.is_floating_point() else v),
    "infinity": _each(lambda v: torch.full_like(v, math.inf) if v.is_floating_point() else v),
    "transposed": _each(lambda v: v.reshape(-1) if v.dim() > 1 else v.reshape(1, -1)),
    "longer": _each(lambda v: torch.cat([v, v]) if v.dim() else v.reshape(1)),
    "empty tensors": _each(lambda v: v.new_zeros(0)),
    "complex": _each(lambda v: v.to(torch.complex64)),
    "one more": _weights(lambda t: t.update(extra=torch.zeros(3))),
    "none": _weights(lambda t: t.clear()),
    "one fewer": _weights(lambda t: t.pop(next(iter(t)))),
    "other names": _weights(lambda t: [t.update({f"x{n}": t.pop(n)}) for n in list(t)] and None),
    "pickle": _pickled,
    "header of 8 EiB": _raw(b"{}", length=2**63 - 1),
    "header beyond the file": _raw(b"{}", length=10**6),
    "header of nothing": _raw(b"", length=0),
    "header of text": _raw(b"not JSON"),
    "header nested": _raw(b"[" * 100_000 + b"]" * 100_000),
    "tensor of 8 TB": _raw(b'{"a":{"dtype":"F32","shape":[2000000000000],"data_offsets":[0,8000000000000]}}'),
    "tensor beyond the file": _raw(b'{"a":{"dtype":"F32","shape":[100],"data_offsets":[0,400]}}', data=b"\0" * 8),
    "overlapping": _raw(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}',
        data=b"\0" * 12,
    ),
    "overflowing shape": _raw(b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'),
}


@pytest.mark.parametrize("kind", WEIGHT_FILES)
def test_weights_that_can_not_be(kind, folder):
    WEIGHT_FILES[kind](folder / WEIGHTS)
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    edit(folder / CONFIG, (("weights_sha256",), digest))
    refused(folder)


def test_weights_of_the_right_hash_are_taken(folder):
    """What the tests above change is all that is wrong."""
    edit(folder / CONFIG, (("weights_sha256",), hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()))
    with bounded():
        use(folder)


# --- predictions ------------------------------------------------------------------------------------------------------


def _table(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    return lambda file: pq.write_table(change(pq.read_table(file)), file)


def _as_text(table: pa.Table) -> pa.Table:
    return table.cast(pa.schema([(f.name, pa.string()) for f in table.schema if not pa.types.is_nested(f.type)]))


def _constants(file: Path) -> None:
    """Ten million rows in a few kB."""
    n = np.zeros(10_000_000, np.int8)
    names = pq.read_schema(file).names
    column = pa.DictionaryArray.from_arrays(n, pa.array([1.0]))
    pq.write_table(pa.table(dict.fromkeys(names, column)), file, row_group_size=len(n), data_page_size=1 << 30)


TABLES: dict[str, Callable[[Path], None]] = {
    "csv": lambda file: file.write_text("a,b\n1,2\n"),
    "no columns": _table(lambda t: t.select([])),
    "another's columns": _table(lambda t: t.rename_columns([f"x{n}" for n in t.column_names])),
    "without its description": _table(lambda t: t.replace_schema_metadata({})),
    "nested description": _table(lambda t: t.replace_schema_metadata(dict.fromkeys(t.schema.metadata, b"[" * 100000))),
    "a description of text": _table(lambda t: t.replace_schema_metadata(dict.fromkeys(t.schema.metadata, b'"x"'))),
    "constants": _constants,
}


@pytest.mark.parametrize("kind", TABLES)
def test_predictions_that_are_none(kind, folder):
    TABLES[kind](folder / PREDICTIONS)
    refused(folder)


@pytest.mark.parametrize("position", np.linspace(0.001, 0.999, 12).round(3).tolist())
def test_predictions_with_a_bit_that_flipped(position, folder, original):
    """An error, or the numbers that were written."""
    body = bytearray((folder / PREDICTIONS).read_bytes())
    body[int(position * len(body))] ^= 0x10
    (folder / PREDICTIONS).write_bytes(body)
    before = read_predictions(Run(original))
    with bounded():
        try:
            after = read_predictions(Run(folder))
        except ValueError as error:
            assert PREDICTIONS in str(error)
            return
    np.testing.assert_array_equal(after.quantiles, before.quantiles)
    np.testing.assert_array_equal(after.truth, before.truth)
