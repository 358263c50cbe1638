"""From a card to a snapshot: what every modality shares.

Memory stays flat in the number of subjects: each is read, cleaned and written alone, in this process where that is
quick, else on Ray Data. On several nodes the snapshots' folder lies on storage that all of them see: a shared folder,
or object storage (data/storage.py), where everything is first written below `.preparing-...` too.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raycadian import cluster
from raycadian.data import storage
from raycadian.data.blocks import BlockWriter, PieceReader
from raycadian.data.snapshot import Snapshot
from raycadian.data.writer import SpooledRows, copy_subject, finish, issues_of, prepared, publish, workspace
from raycadian.errors import StorageError
from raycadian.files import sha256
from raycadian.modalities.base import BaseCard, Item, Modality, Preparation, Progress, Row
from raycadian.modalities.cards import load_card, modality_of
from raycadian.modalities.conflicts import ALIKE, alike, are_few, require_one_person
from raycadian.modalities.earlier import Earlier
from raycadian.modalities.files import files_of
from raycadian.modalities.groups import Groups, read_group
from raycadian.modalities.people import people_file, with_people
from raycadian.modalities.unpack import unpacked
from raycadian.modalities.unreadable import FILE, Unreadable
from raycadian.modalities.unreadable import SUBJECT as UNREADABLE
from raycadian.types import SUBJECT, Issues

log = logging.getLogger(__name__)


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
    with workspace(out) as work, SpooledRows() as rows:
        digests = {source["path"]: source["sha256"] for source in sources["sources"]}
        earlier, unreadable = Earlier.of(out, card, sources), Unreadable(card.most_unreadable)
        job = Preparation(card, [], folder, work, Issues(), progress, on_ray, unreadable, digests, earlier)
        job.paths.extend(_plain_files(modality, job, paths))
        files = _write_subjects(modality, job, rows, on_ray)
        manifest = finish(work / "snapshot", rows, files, sources | _about(modality, job, rows), job.records)
        return publish(work / "snapshot", out / manifest["id"], manifest)


def _plain_files(modality: Modality, job: Preparation, paths: list[Path]) -> Iterator[Path]:
    """The files, and those in workbooks and archives. One that can't be unpacked is left out. Raises ValueError."""
    for path in paths:
        with job.unreadable.leaving_out(FILE, str(path), len(paths)):
            yield from unpacked([path], job.card, lambda plain: modality.fits(plain, job.card), job.issues)


def source_files(card: BaseCard, folder: Path) -> list[Path]:
    """The files that a card names, relative to its folder, sorted. Raises ValueError for a pattern without a file."""
    return files_of(card.files, f"card {card.name!r}", folder)


def _sources(modality: Modality, card: BaseCard, paths: list[Path], folder: Path) -> dict[str, Any]:
    """What a snapshot is made of, for its manifest, and the key that two equal prepares share."""
    files = [*paths, *modality.companions(card, paths, folder), *people_file(card, folder)]
    sources = [{"path": os.path.relpath(p, folder), "bytes": p.stat().st_size, "sha256": sha256(p)} for p in files]
    made_of = {"sources": sources, "version": modality.version}
    stated = json.dumps([card.stated(), made_of], sort_keys=True)
    return made_of | {"key": hashlib.sha256(stated.encode()).hexdigest()}


def _about(modality: Modality, job: Preparation, rows: SpooledRows) -> dict[str, Any]:
    """What the manifest says beside the data. Raises ValueError where nothing is usable."""
    for row in rows:
        job.issues.merge(issues_of(row["issues"]))
    job.unreadable.note(job.issues)
    for ids in alike(rows.subjects):
        job.issues.add(ALIKE, ", ".join(ids), len(ids) - 1)
        log.warning("%s: %s", ALIKE, ", ".join(ids[:5]))
    usable = rows.usable
    if not len(usable):
        raise ValueError(modality.nothing_usable(job.card, rows, job.issues))
    cohorts = modality.cohorts(rows, job.card, job.readable)
    return {
        "card": job.card.stated(),
        "columns": list(modality.columns),
        "counts": modality.counts(rows, usable),
        "issues": job.issues.as_dict(),
        "unreadable": job.unreadable.messages,
    } | ({"cohorts": cohorts} if cohorts else {})


# --- a group of subjects at a time, here or on Ray Data -------------------------------------------------------------


def _write_subjects(modality: Modality, job: Preparation, rows: SpooledRows, on_ray: bool | None) -> dict[str, int]:
    """Read and write every subject and add its row, sorted by subject; the bytes of the blocks by their path."""
    storage.make_folder(job.work / "snapshot")
    items = with_people(modality.items(job), job)
    groups = Groups.of(job.earlier.taking(items) if job.earlier else items, modality.effort, job.work / "groups")
    if on_ray is None:
        n_bytes = groups.share_read * modality.n_bytes(job.card, job.paths)
        on_ray = cluster.worthwhile(n_bytes, groups.n_items - groups.n_taken)
    files: dict[str, int] = {}
    answers = (_on_ray if on_ray else _here)(modality, job, groups.n_groups) if groups.n_groups else iter(())
    what = _told(groups, job, on_ray)
    for own, written in cluster.outcomes(answers):
        files |= written
        for row in own:
            _take_up(row, job, rows, groups.n_items)
            job.progress(what, len(rows), groups.n_items)
    return files


def _told(groups: Groups, job: Preparation, on_ray: bool) -> str:
    what = f"subjects written ({'on Ray' if on_ray else 'here, in this process'})"
    if not groups.n_taken or job.earlier is None:
        return what
    n_read = groups.n_items - groups.n_taken
    return f"{what}: {n_read} read, {groups.n_taken} taken from snapshot {job.earlier.snapshot.id}"


def _take_up(row: Row, job: Preparation, rows: SpooledRows, n_subjects: int) -> None:
    """Raises ValueError where too many subjects can't be read, or one is several people."""
    if "unreadable" in row:
        job.unreadable.add(UNREADABLE, row[SUBJECT], row["unreadable"], n_subjects)
        return
    if "conflicting" in row and not are_few(*row["conflicting"]):  # `readable` goes through all files
        require_one_person(row[SUBJECT], *row["conflicting"], job.readable, job.card.columns.model_dump())
    rows.add(row)


def _here(modality: Modality, job: Preparation, n_groups: int) -> Iterator[dict[str, Any]]:
    for number in range(n_groups):
        yield _attempt({"number": number}, modality, str(job.work), job.card, _source(job))


def _on_ray(modality: Modality, job: Preparation, n_groups: int) -> Iterator[dict[str, Any]]:
    ray = cluster.connect()
    data = ray.data.from_items([{"number": number} for number in range(n_groups)], override_num_blocks=n_groups)
    settings = {"modality": modality, "work": str(job.work), "card": job.card, "source": _source(job)}
    return data.map(_attempt, fn_kwargs=settings).iter_rows()


def _source(job: Preparation) -> str:
    """Where subjects that are as they were are taken from."""
    return "" if job.earlier is None else str(job.earlier.snapshot.path)


def _attempt(sent: dict[str, Any], modality: Modality, work: str, card: BaseCard, source: str) -> dict[str, Any]:
    """A group's rows and files."""
    folder = storage.resolve_path(work)

    def write() -> list[Any]:
        items = modality.gathered(read_group(folder / "groups", sent["number"]))
        snapshot = storage.resolve_path(source)
        with BlockWriter(folder / "snapshot", sent["number"]) as blocks, PieceReader(snapshot) as earlier:
            rows = [_written(modality, item, blocks, card, earlier) for item in items]
        return [rows, blocks.files]

    return cluster.attempt(sent["number"], write)


def _written(modality: Modality, item: Item, blocks: BlockWriter, card: BaseCard, earlier: PieceReader) -> Row:
    """A subject's row; or why it can't be read. Raises StorageError where a snapshot's folder is at fault."""
    if "taken" in item:
        return copy_subject(blocks, item[SUBJECT], item["taken"], earlier)
    try:
        return modality.write(item, blocks, card) | {name: item[name] for name in ("made_of",) if name in item}
    except StorageError:
        raise
    except ValueError as error:
        return {SUBJECT: item[SUBJECT], "unreadable": str(error)}
