"""The CMA mechanism along a series: rolling refits, each on data before its cutoff, and the curves windows cut.

Every person is refitted at local midnights `refit_days` apart; a window is served by the last fit whose cutoff lies
at or before its last context point. Until a person has `min_days` of readings, the training population's fit serves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raycadian.config import CMAMechanism
from raycadian.data.series import Series
from raycadian.data.split import Range
from raycadian.physiology.fit import CMAFit, fit_cma
from raycadian.physiology.meals import meal_times

DAY_S = 86400
_BATCH = 256  # fits at once: bounds the memory


@dataclass(frozen=True)
class Mechanism:
    """Day curves and who uses them. R rows (recording x era), P points a day.

    curves (R, P+L+H-1) float32 mg/dL: a day from the recording's own phase, continued periodically so that a window is
    one slice · first (R,) position of the first last-context-point that a row serves, ascending · fit_of (R,) the
    record used; record 0 is the population's · records: what was fitted, JSON-able.
    """

    curves: Tensor
    first: np.ndarray
    fit_of: np.ndarray
    records: list[dict[str, Any]]
    points_a_day: int

    def cut(self, point: np.ndarray, starts: np.ndarray, context: int, length: int) -> Tensor:
        """(B, L+H) mg/dL for windows that begin at `point` of their recording, position `starts` of the series."""
        row = np.searchsorted(self.first, starts + context - 1, side="right") - 1
        phase = torch.from_numpy(point % self.points_a_day)
        return self.curves.unfold(1, length, 1)[torch.from_numpy(row), phase]

    @property
    def population(self) -> dict[str, Any]:
        return self.records[0]


@dataclass(frozen=True)
class _Row:
    recording: int
    cutoff_s: int  # local seconds
    first: int


def fit_mechanism(
    series: Series,
    config: CMAMechanism,
    length: int,
    *,
    train: tuple[Range, ...] = (),
    population: dict[str, Any] | None = None,
) -> Mechanism:
    """Fit the mechanism along a series for windows of `length` = L+H points.

    The population's fit comes from the ranges `train`, or, at the endpoint, from the run (`population`).
    Raises ValueError where the grid does not divide a day or the training data can't be fitted.
    """
    if DAY_S % series.dt_s:
        raise ValueError(f"the CMA needs a grid that divides 24 h; found dt {series.dt_s} s; choose grid.dt_min 5, say")
    if population is None:
        population = _fit_population(series, config, train)
    rows = [row for recording in range(len(series.offsets) - 1) for row in _rows(series, recording, config)]
    fitted = _fit_rows(series, rows, config)
    number = {key: i for i, key in enumerate(fitted, start=1)}
    records = [population, *fitted.values()]
    fit_of = np.array([number.get((_subject(series, r), r.cutoff_s), 0) for r in rows])
    points = int(DAY_S // series.dt_s)
    curves = _curves(series, rows, CMAFit.from_records(records)[torch.from_numpy(fit_of)], points + length - 1)
    return Mechanism(curves, np.array([r.first for r in rows]), fit_of, records, points)


def _rows(series: Series, recording: int, config: CMAMechanism) -> list[_Row]:
    """The recording's eras: one from its first point, one from every cutoff inside it."""
    refit_s = int(config.refit_days * DAY_S)
    begin = int(series.start_s[recording] + 60 * series.utc_offset_min[recording])
    offset, stop = int(series.offsets[recording]), int(series.offsets[recording + 1])
    end = begin + (stop - offset - 1) * series.dt_s
    eras = range(begin // refit_s, int(end // refit_s) + 1)
    first = [offset + max(0, int(np.ceil((era * refit_s - begin) / series.dt_s))) for era in eras]
    return [_Row(recording, era * refit_s, f) for era, f in zip(eras, first, strict=True)]


def _subject(series: Series, row: _Row) -> int:
    return int(series.subject_of[row.recording])


def _fit_rows(series: Series, rows: list[_Row], config: CMAMechanism) -> dict[tuple[int, int], dict[str, Any]]:
    """(subject, cutoff) -> record of the person's own fit, where there are enough readings before the cutoff."""
    needed = config.min_days * DAY_S / series.dt_s
    keys = sorted({(_subject(series, r), r.cutoff_s) for r in rows})
    ready, profiles = [], []
    for subject, cutoff_s in keys:
        profile = _profile_before(series, subject, cutoff_s, config.history_days)
        if profile.count.sum() >= needed:
            ready.append((subject, cutoff_s))
            profiles.append(profile)
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for begin in range(0, len(ready), _BATCH):
        fit = _fit(profiles[begin : begin + _BATCH], config)
        for key, record in zip(ready[begin : begin + _BATCH], fit.to_records(), strict=True):
            if record["ok"]:
                found[key] = record | {"subject": series.subjects[key[0]], "cutoff_local_s": key[1]}
    return found


@dataclass(frozen=True)
class _Profile:
    """Mean glucose by time of day, (P,): hour, mg/dL (NaN where none), number of readings."""

    hour: np.ndarray
    glucose_mgdl: np.ndarray
    count: np.ndarray


def _fit(profiles: list[_Profile], config: CMAMechanism) -> CMAFit:
    glucose = torch.from_numpy(np.stack([p.glucose_mgdl for p in profiles]))
    t_h = torch.from_numpy(np.stack([p.hour for p in profiles]))
    weight = torch.from_numpy(np.stack([p.count for p in profiles]))
    return fit_cma(
        t_h, glucose, weight=weight, tM=meal_times(t_h, glucose, config.meals), prior=config.prior,
        prior_weight=config.prior_weight, starts=config.starts,
    )  # fmt: skip


def _fit_population(series: Series, config: CMAMechanism, train: tuple[Range, ...]) -> dict[str, Any]:
    code = {name: i for i, name in enumerate(series.subjects)}
    position = {(s, n): i for i, (s, n) in enumerate(zip(series.subject_of, series.number_of, strict=True))}
    pieces = [(position[code[r.subject], r.recording], r.start, r.stop) for r in train]
    fit = _fit([_profile(series, pieces)], config)
    record = fit.to_records()[0]
    if not record["ok"]:
        raise ValueError(
            "the CMA can't be fitted to the training data: constant or nearly empty; see `raycadian inspect`"
        )
    return record | {"subject": "(population)", "cutoff_local_s": None}


def _profile_before(series: Series, subject: int, cutoff_s: int, history_days: float) -> _Profile:
    """Profile of one person's readings in the `history_days` before a cutoff (local seconds)."""
    pieces = []
    for recording in np.flatnonzero(series.subject_of == subject):
        begin = series.start_s[recording] + 60 * series.utc_offset_min[recording]
        n = series.offsets[recording + 1] - series.offsets[recording]
        edges = (np.array([cutoff_s - history_days * DAY_S, cutoff_s]) - begin) / series.dt_s
        start, stop = np.clip(np.ceil(edges), 0, n).astype(int)  # points strictly before the cutoff
        if start < stop:
            pieces.append((int(recording), int(start), int(stop)))
    return _profile(series, pieces)


def _profile(series: Series, pieces: list[tuple[int, int, int]]) -> _Profile:
    """Sums by time-of-day bin over pieces (recording, start, stop). The model depends on the hour of day alone, so
    fitting the weighted profile equals fitting every reading, up to a constant of the sum of squares."""
    points = int(DAY_S // series.dt_s)
    hour_sum, glucose_sum, count = np.zeros(points), np.zeros(points), np.zeros(points)
    for recording, start, stop in pieces:
        offset = series.offsets[recording]
        glucose = series.table[0, offset + start : offset + stop].astype(np.float64)
        hour = series.local_h(np.full(stop - start, recording), np.arange(start, stop))
        seen = ~np.isnan(glucose)
        bins = np.minimum((hour[seen] * 3600 / series.dt_s).astype(int), points - 1)
        hour_sum += np.bincount(bins, hour[seen], points)
        glucose_sum += np.bincount(bins, glucose[seen], points)
        count += np.bincount(bins, minlength=points)
    middle = (np.arange(points) + 0.5) * series.dt_s / 3600
    safe = np.maximum(count, 1)
    hour = np.where(count > 0, hour_sum / safe, middle)
    return _Profile(hour, np.where(count > 0, glucose_sum / safe, np.nan), count)


def _curves(series: Series, rows: list[_Row], fits: CMAFit, n: int) -> Tensor:
    """(R, n) mg/dL from each row's recording's own phase of the day on."""
    recording = np.array([r.recording for r in rows])
    first_h = series.local_h(recording, np.zeros(len(rows)))
    step_h = series.dt_s / 3600
    t_h = torch.from_numpy(first_h)[:, None] + torch.arange(n, dtype=torch.float64) * step_h
    chunks = [
        fits[torch.arange(b, min(b + _BATCH, len(rows)))].glucose_mgdl(t_h[b : b + _BATCH])
        for b in range(0, len(rows), _BATCH)
    ]
    return torch.cat(chunks).float()
