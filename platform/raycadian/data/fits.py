"""Fits of many daily profiles: in this process or, where it pays, on Ray Data; and kept, so that nobody fits twice.

Profiles are fitted in parts of `_PART`, always the same ones and each on one thread, so that where they are fitted
changes no bit.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from raycadian import cluster
from raycadian.config import CMAMechanism
from raycadian.files import own_folder, parse_json, written_whole
from raycadian.physiology.cma.fit import fit_cma
from raycadian.physiology.cma.meals import meal_times
from raycadian.physiology.cma.result import CMAFit

Record = dict[str, Any]
_PART = 256  # fits at once: as many as `fit_cma` takes in one piece
_FORMAT = 1
VERSION = 1
"""Of what is fitted to a profile and how. A change of its figures is a new version: what was kept is then fitted again.
A golden fit in tests/data/test_fits.py fails where figures change and this doesn't."""
_FIT_S = 0.0016  # seconds of a fit on one core (docs/concepts/mechanism.md)
_KEPT = 200  # files of fits, about 1 kB a fit: a sweep over priors makes one a trial
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Profile:
    """Glucose by time of day, (P,): mean hour, mean mg/dL (NaN where none), number of readings; and the variance of the
    readings about those means, which no daily curve can change."""

    hour: np.ndarray
    glucose_mgdl: np.ndarray
    count: np.ndarray
    scatter: float

    def less(self, correction_mgdl: Any) -> "Profile":
        if correction_mgdl is None:
            return self
        return replace(self, glucose_mgdl=self.glucose_mgdl - np.asarray(correction_mgdl))

    @cached_property
    def key(self) -> bytes:
        """What a fit depends on, as a hash."""
        parts = (self.hour, self.glucose_mgdl, self.count, np.float64(self.scatter))
        return hashlib.sha256(b"".join(p.tobytes() for p in parts)).digest()


def fit_profiles(profiles: list[Profile], config: CMAMechanism, *, on_ray: bool | None = None) -> list[Record]:
    """A record for each profile (`CMAFit.to_records`, and rmse_readings_mgdl: of the readings, not of their means).

    `on_ray`: on Ray's workers or in this process; where it isn't said, where it takes less time.
    """
    parts = [profiles[begin : begin + _PART] for begin in range(0, len(profiles), _PART)]
    away = cluster.pays(len(profiles) * _FIT_S) if on_ray is None else on_ray
    return [record for part in (_on_ray if away else _here)(parts, config) for record in part]


def _here(parts: list[list[Profile]], config: CMAMechanism) -> Iterator[list[Record]]:
    with _single_threaded():
        for part in parts:
            yield _fit(_stacked(part), config)


def _on_ray(parts: list[list[Profile]], config: CMAMechanism) -> list[list[Record]]:
    ray = cluster.connect()
    items = [{"part": n} | _stacked(part) for n, part in enumerate(parts)]
    data = ray.data.from_items(items, override_num_blocks=len(items)).map(_fit_item, fn_kwargs={"config": config})
    records = {row["part"]: json.loads(row["records"]) for row in data.iter_rows()}
    return [records[n] for n in range(len(parts))]


def _fit_item(item: dict[str, Any], config: CMAMechanism) -> dict[str, Any]:
    """JSON keeps every bit of a float."""
    with _single_threaded():
        return {"part": item["part"], "records": json.dumps(_fit(item, config))}


def _stacked(part: list[Profile]) -> dict[str, np.ndarray]:
    return {name: np.stack([getattr(p, name) for p in part]) for name in ("hour", "glucose_mgdl", "count", "scatter")}


def _fit(part: dict[str, np.ndarray], config: CMAMechanism) -> list[Record]:
    t_h, glucose, weight = (torch.tensor(part[name]) for name in ("hour", "glucose_mgdl", "count"))
    fitted = fit_cma(
        t_h, glucose, weight=weight, tM=meal_times(t_h, glucose, config.meals), prior=config.prior,
        prior_weight=config.prior_weight, starts=config.starts, gains=config.gains,
    )  # fmt: skip
    return [_complete(r, float(s)) for r, s in zip(fitted.to_records(), part["scatter"], strict=True)]


def _complete(record: Record, scatter: float) -> Record:
    if not record["ok"]:
        return record
    return record | {"rmse_readings_mgdl": float(np.sqrt(record["rmse_mgdl"] ** 2 + scatter))}


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Small arrays gain nothing from threads, and the last bits hang on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# --- kept beside the tables of the snapshots --------------------------------------------------------------------------


def kept(folder: Path, key: dict[str, Any], fit: Callable[[], list[Record]]) -> list[Record]:
    """The records of fits that `key` (JSON-able) determines, from a file of `folder` where some process on this node
    has written them, else from `fit`, while others who want the same wait. Raises ValueError for a damaged file."""
    stated = json.dumps([_FORMAT, VERSION, torch.__version__, key], sort_keys=True)
    path = folder / f"fits-{hashlib.sha256(stated.encode()).hexdigest()[:24]}.json"
    if not path.is_file():
        own_folder(folder)
        with FileLock(f"{path}.lock"):
            if not path.is_file():
                _write(path, fit())
    os.utime(path)  # used now: the oldest are forgotten first
    return _read(path)


def _write(path: Path, records: list[Record]) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(records, allow_nan=False), encoding="utf-8")
    files = sorted(path.parent.glob("fits-*.json"), key=_used, reverse=True)
    for old in files[_KEPT:]:
        old.unlink(missing_ok=True)
        old.with_name(f"{old.name}.lock").unlink(missing_ok=True)


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process has just forgotten it
        return 0.0


def _read(path: Path) -> list[Record]:
    try:
        records = parse_json(path.read_bytes(), list)
        CMAFit.from_records(records)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: damaged ({error}); delete it, and it is made again") from None
    return records
