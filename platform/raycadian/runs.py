"""A run: one folder that holds everything one model of a recipe produced, whole or absent."""

import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from tenacity import before_sleep_log, retry, retry_if_exception, stop_after_delay, wait_exponential

from raycadian.cluster import JOB
from raycadian.config import Recipe, load_recipe
from raycadian.errors import CheckpointError
from raycadian.files import LASTING, on_disk, own_folder, read_json, write_json
from raycadian.locks import exclusive

RUNS = Path("runs")
log = logging.getLogger(__name__)

STORAGE_PATIENCE_S = 300
patiently = retry(
    # a full disk doesn't empty itself; everything else that storage says may pass
    retry=retry_if_exception(lambda e: isinstance(e, OSError) and e.errno not in LASTING),
    wait=wait_exponential(max=15), stop=stop_after_delay(STORAGE_PATIENCE_S),
    before_sleep=before_sleep_log(log, logging.WARNING), reraise=True,
)  # fmt: skip
"""Decorator: try again, up to five minutes, what fails because shared storage is away for a while."""

_PACKAGES = ("ray", "torch", "granite-tsfm", "transformers", "peft", "numpy", "pandas")


@dataclass(frozen=True)
class Run:
    """A complete run. `path` holds recipe.yaml, metadata.json, checkpoint/, predictions*.parquet, report.html ..."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def recipe(self) -> Recipe:
        """Raises CheckpointError, as `metadata` and `summary`, which names the file."""
        file = self.path / "recipe.yaml"
        try:
            about = file.stat() if file.is_file() else None
            return load_recipe(file) if about is None else _recipe(file, about.st_mtime_ns, about.st_size)
        except ValueError as error:
            raise CheckpointError(str(error)) from None

    @property
    def metadata(self) -> dict[str, Any]:
        return read_json(self.path / "metadata.json")

    @property
    def summary(self) -> dict[str, Any]:
        return read_json(self.path / "metrics_summary.json")


@lru_cache(maxsize=64)
def _recipe(file: Path, mtime_ns: int, n_bytes: int) -> Recipe:
    """As long as the file is the same: YAML is slow, and one forecast asks several times."""
    return load_recipe(file)


@dataclass(frozen=True)
class Broken:
    """A run that can't be read, and why."""

    path: Path
    reason: str


def open_run(name_or_path: str | Path, runs: Path = RUNS) -> Run:
    """A complete run by path, name, or unambiguous beginning of a name. Raises ValueError."""
    for path in (Path(name_or_path), runs / name_or_path):
        with suppress(OSError):  # a name that no file can have
            if (path / "metadata.json").is_file():
                return Run(path)
    paths = _complete(runs)
    matching = [path for path in paths if path.name.startswith(str(name_or_path))]
    if len(matching) == 1:
        return Run(matching[0])
    names = ", ".join(path.name for path in matching or paths[-5:]) or "none"
    what = "several runs begin so" if matching else "no such run"
    raise ValueError(f"{str(name_or_path)[:200]}: {what} in {runs.absolute()}; runs: {names}")


def require_one_protocol(runs: Sequence[Run]) -> str:
    """How all of the runs are scored. Raises ValueError where one is scored otherwise."""
    protocol, *others = [run.recipe.protocol for run in runs]
    for run, other in zip(runs[1:], others, strict=True):
        if other != protocol:
            raise ValueError(
                f"{run.name} is scored by another protocol: {other}; {runs[0].name}: {protocol}; compare runs of one "
                "recipe"
            )
    return protocol


def list_runs(runs: Path = RUNS) -> list[Run]:
    """Complete runs that can be read, oldest first; half-written ones are never listed."""
    return read_runs(runs)[0]


def read_runs(runs: Path = RUNS) -> tuple[list[Run], list[Broken]]:
    """Complete runs, oldest first, and those whose files can't be read, each with the file that is damaged."""
    finished, broken = {}, []
    for path in _complete(runs):
        try:
            finished[Run(path)] = _finished(Run(path))
        except ValueError as error:
            broken.append(Broken(path, str(error)))
    return sorted(finished, key=lambda run: finished[run]), broken


def _complete(runs: Path) -> list[Path]:
    return sorted(p.parent for p in runs.glob("*/metadata.json") if not p.parent.name.startswith("."))


def _finished(run: Run) -> str:
    """When, having read what a list shows. Raises CheckpointError."""
    when = run.metadata.get("finished_utc")
    if not isinstance(when, str):
        raise CheckpointError(f"{run.path / 'metadata.json'}: finished_utc: expected text, found {when!r}")
    return when


def predictions_file(split: str) -> str:
    """Name of a split's predictions in a run's folder."""
    return "predictions.parquet" if split == "test" else f"predictions_{split}.parquet"


def experiment_key(recipe: Recipe, snapshot_id: str | list[str]) -> str:
    """Short hash of what determines a run, or an experiment on several snapshots: the recipe and the data."""
    body = json.dumps([recipe.model_dump(mode="json"), snapshot_id], sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()[:8]


@contextmanager
def writing_folder(parent: Path, name: str, key: str, resume: bool) -> Iterator[Path]:
    """A partial folder, the owner's alone, the same one for the same name and key, so that killed work can go on.

    The caller ends with `finish`; an exception leaves the folder for `--resume`. Raises StorageError where another
    living process, here or on another machine, writes the same.
    """
    folder = parent / f".partial-{name}-{key}"
    own_folder(parent)
    with exclusive(parent / f"{folder.name}.lock", f"writing {folder}"), on_disk(folder):
        if folder.exists() and not resume:
            shutil.rmtree(folder)
        own_folder(folder)
        yield folder


def finish(folder: Path) -> Path:
    """Give a partial folder its final name, atomically; the new path. In a job it says which one made it."""
    if os.environ.get(JOB):
        write_json(folder / "job.json", {"job": os.environ[JOB]})
    (folder / "lock").unlink(missing_ok=True)  # of an earlier version, which put it there
    name, key = folder.name.removeprefix(".partial-").rsplit("-", 1)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    final, number = folder.parent / f"{name}-{stamp}-{key}", 1
    while final.exists():  # the same recipe twice within a second
        final, number = folder.parent / f"{name}-{stamp}.{number}-{key}", number + 1
    return folder.rename(final)


def find_complete(parent: Path, name: str, key: str) -> Path | None:
    """The newest complete folder of a name and key, if there is one."""
    return max(parent.glob(f"{name}-????????T??????*-{key}"), default=None)


def made_by(job: str, runs: Path) -> list[Path]:
    """The complete runs, sweeps and experiments below `runs` that a job made, oldest first."""
    patterns = (runs.glob(f"{folder}*/job.json") for folder in ("", "sweeps/", "experiments/"))
    notes = sorted(chain.from_iterable(patterns), key=lambda p: p.stat().st_mtime)
    return [note.parent for note in notes if not note.parent.name.startswith(".") and _job_of(note) == job]


def _job_of(note: Path) -> str | None:
    try:
        return read_json(note).get("job")
    except CheckpointError as error:
        log.warning("left out: %s", error)
        return None


@patiently
def write_recipe(path: Path, recipe: Recipe) -> None:
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def environment() -> dict[str, Any]:
    """Versions, hardware, the git commit and the source that a run records."""
    return {
        "python": platform.python_version(),
        "source": source_hash(),
        "packages": {name: version(name) for name in _PACKAGES},
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "git": _git(),
    }


def source_hash(package: Path = Path(__file__).parent) -> str:
    """Hash of the package's source: in a job there is no commit, and what pip knows may be an older copy."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _git() -> dict[str, Any] | None:
    """Commit and whether the working tree differs from it; None outside a repository."""

    def ask(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (subprocess.SubprocessError, OSError):
        return None


class Clock:
    """Seconds by stage, for metadata and for people."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - began, 3)
