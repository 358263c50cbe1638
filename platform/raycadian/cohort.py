"""A run's model over everybody of a snapshot: in shards of whole people, on Ray Data's actors or in this process.

    FOLDER/
      part-00000.parquet ...     a row a window, as predictions.parquet of a run; a shard of people each
      _forecast.json             the run and the snapshot, every shard's windows, and who could not be forecast, and why

No process holds more than a shard of the snapshot, and the driver holds none. What was killed goes on where it was: a
part that is there is whole, and is not written again. Storage that is away is asked again for five minutes; an actor
that ends is begun anew by Ray Data.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from raycadian import cluster, manifest
from raycadian.data import storage
from raycadian.data.shards import people_in_shards
from raycadian.data.snapshot import Snapshot
from raycadian.files import on_disk, own_folder, parse_json
from raycadian.runs import Run, patiently
from raycadian.tasks import task_of

Which = Literal["every", "last"]
Progress = Callable[[str, int, int], None]
Shard = dict[str, Any]
ABOUT = "_forecast.json"
_SHARD_POINTS = 100_000  # a year of glucose every five minutes: 60 MB of forecasts, some seconds of work
_SHARD_POINTS_BEFORE = 250_000  # of folders that don't say
_READERS = 16  # threads that read what is there already
_POINTS_PER_S = 20_000  # that a core forecasts from, roughly, to know whether a cluster pays


@dataclass(frozen=True)
class Cohort:
    """What lies in `folder`. people: of whom there is a forecast · refused: subject -> why there is none · resumed:
    shards that were there already."""

    folder: Path
    windows: int
    people: int
    refused: dict[str, str]
    shards: int
    resumed: int
    seconds: float


def forecast_everybody(
    run: Run, snapshot: Snapshot, out: str | Path, which: Which = "every", *, on_ray: bool | None = None,
    progress: Progress = lambda *_: None,
) -> Cohort:  # fmt: skip
    """Forecast everybody of a snapshot into the folder or URL `out`. every: each window, as the run's recipe cuts its
    test windows, beside what came true · last: from the end of each person's record.

    `on_ray`: on Ray Data, or in this process; where it isn't said, where it takes less time. The forecasts are the
    same. Raises ValueError where `out` holds something else or the model can't read the snapshot.
    """
    began, folder = time.perf_counter(), storage.resolve_path(out)
    about, shard_points = _begin(folder, _about(run, snapshot, which))
    shards, known = _shards(snapshot, shard_points), _noted(folder)
    waiting = [shard for shard in shards if shard["part"] not in known]
    points = sum(shard["points"] for shard in waiting)
    on_ray = cluster.pays(points / _POINTS_PER_S) if on_ray is None else on_ray
    job = partial(_forecast_shard, run=run, snapshot=snapshot, which=which, folder=folder)
    stage = f"shards of people forecast ({'on Ray' if on_ray else 'here, in this process'})"
    notes = (_on_ray if on_ray else map)(job, waiting)
    known |= {note["part"]: note for note in _watched(notes, stage, len(waiting), progress)}
    refused = {subject: why for note in known.values() for subject, why in note["refused"].items()}
    windows, people = (sum(note[name] for note in known.values()) for name in ("windows", "people"))
    counts = {"people": people, "people_refused": len(refused)}
    _write(folder / ABOUT, about | {"complete": True} | counts | {"shards": known})
    seconds = time.perf_counter() - began
    return Cohort(folder, windows, people, refused, len(shards), len(shards) - len(waiting), seconds)


def _watched(notes: Iterable[Shard], stage: str, total: int, progress: Progress) -> Iterator[Shard]:
    """The same, each told with the throughput so far."""
    began, windows = time.perf_counter(), 0
    for done, note in enumerate(notes, start=1):
        windows += note["windows"]
        progress(f"{stage}, {windows / (time.perf_counter() - began):,.0f} windows/s", done, total)
        yield note


def _shards(snapshot: Snapshot, shard_points: int) -> list[Shard]:
    """People in order, some `shard_points` together."""
    lengths = snapshot.lengths
    return [
        {"part": f"part-{number:05d}.parquet", "subjects": own, "points": sum(sum(lengths[subject]) for subject in own)}
        for number, own in enumerate(people_in_shards(lengths, shard_points))
    ]


def _about(run: Run, snapshot: Snapshot, which: Which) -> dict[str, Any]:
    manifest.require_intact(run.path, "recipe.yaml", "checkpoint")
    return {"run": run.name, "snapshot": snapshot.id, "windows": which}


def _begin(folder: Path, about: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """What the folder says of itself, and the points of its shards. Raises ValueError where it holds something else."""
    if not storage.remote(folder):
        with on_disk(folder):
            own_folder(folder)
    names = {path.name for path in storage.children(folder)}
    if ABOUT in names:
        there = _read(folder / ABOUT)
        if any(there.get(name) != value for name, value in about.items()):
            own = {name: there.get(name) for name in about}
            raise ValueError(f"{folder} holds other forecasts: {own}, asked for are {about}; choose another --out")
        shard_points = there.get("shard_points", _SHARD_POINTS_BEFORE)
        return about | {"shard_points": shard_points}, shard_points
    if names:
        raise ValueError(f"{folder} is not empty and holds no forecasts: found {sorted(names)[:3]}; choose a new --out")
    about = about | {"shard_points": _SHARD_POINTS}
    _write(folder / ABOUT, about | {"complete": False})
    return about, _SHARD_POINTS


def _noted(folder: Path) -> dict[str, Shard]:
    """The shards that the folder holds whole, by their part."""
    paths = [path for path in storage.children(folder) if path.name.startswith("_part-")]
    with ThreadPoolExecutor(_READERS) as readers:  # of object storage: a request each
        notes = readers.map(_read, sorted(paths, key=str))
        return {note["part"]: note for note in notes}


def _on_ray(job: Callable[[Shard], Shard], shards: list[Shard]) -> Iterator[Shard]:
    ray = cluster.connect()
    sent = [{"number": number, "shard": json.dumps(shard)} for number, shard in enumerate(shards)]
    data = ray.data.from_items(sent, override_num_blocks=max(len(sent), 1))
    answers = data.map(_Worker, fn_constructor_args=(job,), compute=cluster.actors(len(shards)), num_cpus=1)
    return cluster.outcomes(answers.iter_rows())


class _Worker:
    """One of Ray Data's actors: imports and the run's files are read once."""

    def __init__(self, job: Callable[[Shard], Shard]):
        self._job = job

    def __call__(self, sent: dict[str, Any]) -> dict[str, Any]:
        return cluster.attempt(sent["number"], lambda: self._job(json.loads(sent["shard"])))


@patiently
def _forecast_shard(shard: Shard, *, run: Run, snapshot: Snapshot, which: Which, folder: Path) -> Shard:
    """Write a shard's part, and a note beside it that says so once the part is there; the note. An actor that ended
    after its note was written has done this one."""
    noted = folder / f"_{shard['part'].replace('.parquet', '.json')}"
    with suppress(FileNotFoundError):
        return parse_json(storage.read_bytes(noted))
    predictions, refused = task_of(run.recipe).everybody(run, snapshot.part(shard["subjects"]), last=which == "last")
    windows = people = 0
    if predictions is not None:
        with storage.whole(folder / shard["part"]) as path:
            predictions.write_parquet(path)
        windows, people = len(predictions), len(set(predictions.subject.tolist()))
    note = {"part": shard["part"], "windows": windows, "people": people, "refused": refused}
    _write(noted, note)
    return note


@patiently
def _read(path: Path) -> dict[str, Any]:
    return parse_json(storage.read_bytes(path))


@patiently
def _write(path: Path, body: dict[str, Any]) -> None:
    with storage.whole(path) as temporary:
        temporary.write_text(json.dumps(body, indent=1), encoding="utf-8")
