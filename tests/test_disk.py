"""A disk that is full, read-only or limited: one error that names folder and disk, whatever library wrote, and nothing
half-written."""

import errno
import json
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from raycadian.data.writer import workspace
from raycadian.errors import StorageError
from raycadian.evaluation.forecast.predictions import write_table
from raycadian.files import new_folder, on_disk, write_json, written_whole
from raycadian.training.loop import _write

LARGE = 2_000_000


@contextmanager
def small_files() -> Iterator[None]:
    """Nobody writes more than 64 kB into a file: what a full disk does, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _weights(folder: Path) -> None:
    with new_folder(folder / "checkpoint") as temporary:
        save_file({"w": torch.rand(LARGE)}, temporary / "model.safetensors")


def _state(folder: Path) -> None:
    _write(folder / "state", {"model": torch.rand(LARGE)})


def _predictions(folder: Path) -> None:
    with written_whole(folder / "predictions.parquet") as temporary:
        write_table(temporary, {"y": np.random.default_rng(0).random(LARGE)}, {})


def _scores(folder: Path) -> None:
    with on_disk(folder):
        pd.DataFrame({"y": np.arange(LARGE // 20)}).to_csv(folder / "detailed_results.csv")


def _metadata(folder: Path) -> None:
    write_json(folder / "metadata.json", list(range(LARGE // 20)))


def _snapshot(folder: Path) -> None:
    with workspace(folder) as work:
        (work / "part-0.parquet").write_bytes(os.urandom(LARGE))


WRITERS = {f.__name__[1:]: f for f in (_weights, _state, _predictions, _scores, _metadata, _snapshot)}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_is_too_large_for_the_disk_is_one_error_that_names_it(writer, tmp_path):
    with small_files(), pytest.raises(StorageError, match=rf"{tmp_path}.*can't be written: .*\(disk /.* MB free of"):
        WRITERS[writer](tmp_path)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] in ([], ["detailed_results.csv"])


@contextmanager
def _tmpfs(folder: Path) -> Iterator[Path]:
    """A disk of 256 kB. The test skips where nobody may mount one."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk(writer, tmp_path):
    with _tmpfs(tmp_path / "small") as disk:
        with pytest.raises(StorageError, match=rf"can't be written: .*\(disk {disk}: 0 MB free of 0\)"):
            WRITERS[writer](disk)
        assert [p.name for p in disk.rglob("*") if p.is_file()] in ([], ["detailed_results.csv"])


@pytest.mark.parametrize("writer", WRITERS)
def test_a_read_only_disk(writer, tmp_path):
    with _tmpfs(tmp_path / "fixed") as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(StorageError, match=rf"{disk}.*can't be written: (Read-only file system|Pytorch)"):
            WRITERS[writer](disk)


def _raise(error: Exception) -> Callable[[], None]:
    raise error


_OTHERS = [OSError(errno.EIO, "I/O"), RuntimeError("shape"), json.JSONDecodeError("", "", 0)]


@pytest.mark.parametrize("error", _OTHERS, ids=repr)
def test_other_errors_come_through(error, tmp_path):
    with pytest.raises(type(error)) as raised, on_disk(tmp_path):
        _raise(error)
    assert raised.value is error
