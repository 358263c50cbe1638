"""From a card to a snapshot: what every modality shares.

Memory stays flat in the number of subjects: each is read, cleaned and written alone, in this process where that is
quick, else on Ray Data. On several nodes the snapshots' folder lies on storage that all of them see: a shared folder,
or object storage (data/storage.py), where everything is first written below `.preparing-...` too.
"""

import errno
import glob
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raycadian import cluster
from raycadian.data import storage
from raycadian.data.snapshot import Snapshot
from raycadian.data.writer import finish, issues_of, prepared, publish, workspace
from raycadian.files import sha256
from raycadian.modalities.base import BaseCard, Item, Modality, Preparation, Progress, Row
from raycadian.modalities.cards import load_card, modality_of
from raycadian.modalities.conflicts import require_one_person
from raycadian.types import SUBJECT, Issues


def prepare(
    card_path: str | Path, out: str | Path = Path("snapshots"), progress: Progress | None = None, *,
    on_ray: bool | None = None,
) -> Snapshot:  # fmt: skip
    """Read a card's files into a snapshot below `out` (a path or a URL), or return the one that is there already.

    `on_ray`: on Ray's workers or in this process; where it isn't said, where it takes less time. The result is the
    same.
    Raises ValueError where a file can't be understood or nothing usable is in them, OSError where the disk is full or
    the storage or the API of cases can't be reached; then, and on Ctrl-C, nothing of it is left (downloads stay in
    their cache) and what was there before is intact.
    """
    card_path = Path(card_path)
    return prepare_card(load_card(card_path), card_path.parent, out, progress, on_ray=on_ray)


def prepare_card(
    card: Any, folder: Path, out: str | Path = Path("snapshots"), progress: Progress | None = None, *,
    on_ray: bool | None = None,
) -> Snapshot:  # fmt: skip
    """`prepare` of a card that lies in `folder`, or would."""
    out, progress, modality = storage.resolve_path(out).absolute(), progress or (lambda *_: None), modality_of(card)
    paths = source_files(card, folder)
    sources = _sources(modality, card, paths, folder)
    if snapshot := prepared(out, card.name, sources["key"]):
        progress(f"{snapshot.id}: files, card and version are unchanged; reused", 1, 1)
        return snapshot
    with workspace(out) as work:
        job = Preparation(card, paths, folder, work, Issues(), progress)
        rows = _write_subjects(modality, job, on_ray)
        manifest = finish(work / "snapshot", rows, sources | _about(modality, job, rows))
        return publish(work / "snapshot", out / manifest["id"])


def source_files(card: BaseCard, folder: Path) -> list[Path]:
    """The files that a card names, relative to its folder, sorted. Raises ValueError for a pattern without a file."""
    paths: set[Path] = set()
    for pattern in card.files:
        files = {Path(f) for f in glob.glob(os.path.join(glob.escape(str(folder)), pattern), recursive=True)}
        files = {f for f in files if f.is_file()}
        if not files:
            raise ValueError(
                f"card {card.name!r}: no file matches {pattern!r} below {folder.absolute()}; correct `files`"
            )
        paths |= files
    return sorted(paths)


def _sources(modality: Modality, card: BaseCard, paths: list[Path], folder: Path) -> dict[str, Any]:
    """What a snapshot is made of, for its manifest, and the key that two equal prepares share."""
    files = [*paths, *modality.companions(card, paths, folder)]
    sources = [{"path": os.path.relpath(p, folder), "bytes": p.stat().st_size, "sha256": sha256(p)} for p in files]
    made_of = {"sources": sources, "version": modality.version}
    stated = json.dumps([card.model_dump(mode="json"), made_of], sort_keys=True)
    return made_of | {"key": hashlib.sha256(stated.encode()).hexdigest()}


def _about(modality: Modality, job: Preparation, rows: list[Row]) -> dict[str, Any]:
    """What the manifest says beside the data. Raises ValueError where nothing is usable."""
    for row in rows:
        job.issues.merge(issues_of(row["issues"]))
    usable = [row for row in rows if "sha256" in row]
    if not usable:
        raise ValueError(modality.nothing_usable(job.card, rows, job.issues))
    cohorts = modality.cohorts(rows, job.card, job.paths)
    return {
        "card": job.card.model_dump(mode="json"),
        "columns": list(modality.columns),
        "counts": modality.counts(rows, usable),
        "issues": job.issues.as_dict(),
    } | ({"cohorts": cohorts} if cohorts else {})


# --- one subject at a time, here or on Ray Data ---------------------------------------------------------------------


def _write_subjects(modality: Modality, job: Preparation, on_ray: bool | None) -> list[Row]:
    """Read and write every subject; their rows, sorted by subject."""
    storage.make_folder(job.work / "snapshot")
    items = modality.items(job)
    if on_ray is None:
        on_ray = cluster.worthwhile(modality.n_bytes(job.card, job.paths), len(items))
    answers = (_on_ray if on_ray else _here)(modality, job, items) if items else iter(())
    rows = []
    for done, answer in enumerate(answers, start=1):
        rows.append(row := _answered(answer))
        if "conflicting" in row:
            require_one_person(row[SUBJECT], *row["conflicting"], job.paths, job.card.columns.model_dump())
        job.progress(f"subjects written ({'on Ray' if on_ray else 'here, in this process'})", done, len(items))
    return sorted(rows, key=lambda row: row[SUBJECT])


def _here(modality: Modality, job: Preparation, items: list[Item]) -> Iterator[dict[str, Any]]:
    for item in items:
        yield _attempt({"item": json.dumps(item)}, modality, str(job.work / "snapshot"), job.card)


def _on_ray(modality: Modality, job: Preparation, items: list[Item]) -> Iterator[dict[str, Any]]:
    ray = cluster.connect()
    blocks = min(len(items), max(64, 4 * cluster.cpus()))
    data = ray.data.from_items([{"item": json.dumps(item)} for item in items], override_num_blocks=blocks)
    settings = {"modality": modality, "snapshot": str(job.work / "snapshot"), "card": job.card}
    return data.map(_attempt, fn_kwargs=settings).iter_rows()


def _attempt(sent: dict[str, str], modality: Modality, snapshot: str, card: BaseCard) -> dict[str, Any]:
    """A subject's row as JSON; an error that the user can mend travels as a value, without Ray's traceback."""
    try:
        row = modality.write(json.loads(sent["item"]), storage.resolve_path(snapshot), card)
        return _answer(row=json.dumps(row))
    except ValueError as error:
        return _answer(message=str(error))
    except ConnectionError as error:  # of an API of cases; those of object storage have another class
        return _answer(number=errno.ECONNABORTED, message=str(error))
    except OSError as error:
        return _answer(number=error.errno or 0, message=f"{error.strerror or error}: {error.filename or snapshot}")


def _answer(row: str = "", number: int = 0, message: str = "") -> dict[str, Any]:
    return {"row": row, "errno": number, "error": message}


def _answered(answer: dict[str, Any]) -> Row:
    """The row of an answer. Raises what it tells of."""
    if answer["errno"] == errno.ECONNABORTED:
        raise ConnectionError(answer["error"])
    if answer["errno"]:
        raise OSError(answer["errno"], answer["error"])
    if answer["error"]:
        raise ValueError(answer["error"])
    return json.loads(answer["row"])
