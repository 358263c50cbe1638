"""The CMA mechanism along a series: rolling refits, each on data before its cutoff, and the curves windows cut.

Every person is refitted at local midnights `refit_days` apart; a window is served by the last fit whose cutoff lies
at or before its last context point. Until a person has `min_days` of readings, the training population's fit serves.
"""

import logging
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raycadian import telemetry
from raycadian.config import CMAMechanism
from raycadian.data import fits
from raycadian.data.fits import Profile
from raycadian.data.series import Series
from raycadian.data.split import DAY_S, Range
from raycadian.physiology.cma import equations as cma
from raycadian.physiology.cma.result import CMAFit
from raycadian.types import SIGNAL

RMSE_MGDL = 30.0  # a fit whose readings lie further from it is warned of
_BATCH = 256  # curves at once: bounds the memory
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mechanism:
    """Day curves and who uses them. R rows (recording x era), P points a day.

    curves (R, P+L+H-1) float32 mg/dL: a day from point `begin` (R,) of the recording on, continued periodically so that
    a window is one slice · first (R,) position of the first last-context-point that a row serves, ascending · fit_of
    (R,) the record used; record 0 is the population's · records: what was fitted, JSON-able · signals: what else of the
    model was asked for, name -> (R, P+L+H-1), cut as the curves are.
    """

    curves: Tensor
    begin: np.ndarray
    first: np.ndarray
    fit_of: np.ndarray
    records: list[dict[str, Any]]
    points_a_day: int
    signals: dict[str, Tensor] = field(default_factory=dict)

    def cut(self, point: np.ndarray, starts: np.ndarray, context: int, length: int) -> dict[str, Tensor]:
        """`mechanism` (B, L+H) mg/dL and the signals alike, by their names in a batch, for windows that begin at
        `point` of their recording, position `starts` of the series."""
        row = np.searchsorted(self.first, starts + context - 1, side="right") - 1
        phase = torch.from_numpy((point - self.begin[row]) % self.points_a_day)
        named = {"mechanism": self.curves} | {SIGNAL + name: curves for name, curves in self.signals.items()}
        return {name: curves.unfold(1, length, 1)[torch.from_numpy(row), phase] for name, curves in named.items()}

    def __reduce__(self) -> tuple[Callable[..., "Mechanism"], tuple[Any, ...]]:
        """The curves as arrays: processes of a node that are sent the same share one copy."""
        arrays = {name: curves.numpy() for name, curves in self.signals.items()}
        rest = (self.begin, self.first, self.fit_of, self.records, self.points_a_day, arrays)
        return _received, (self.curves.numpy(), *rest)

    @property
    def population(self) -> dict[str, Any]:
        return self.records[0]

    @property
    def diagnostics(self) -> dict[str, Any]:
        """What the fits are worth, JSON-able: see `diagnose`."""
        return diagnose(self.records)


def _received(curves: np.ndarray, *rest: Any) -> Mechanism:
    *others, signals = rest
    return Mechanism(torch.from_numpy(curves), *others, {name: torch.from_numpy(c) for name, c in signals.items()})


def diagnose(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts over fits (the population's among them): parameters at a bound, parameters of which the data say nothing
    (a posterior sd of 90% of the prior's or more), RMSE of the readings about their fits in mg/dL and how many lie
    above 30, condition number of the scaled precision (large where parameters stand in for one another)."""
    fit = CMAFit.from_records(records)
    rmse = np.array([r.get("rmse_readings_mgdl", r["rmse_mgdl"]) for r in records])
    poor = int((rmse > RMSE_MGDL).sum())
    at_bound, condition = fit.at_bound, fit.condition[~fit.condition.isnan()]
    silent = ~fit.informed & ~at_bound & ~fit.sd.isnan()
    return {
        "fits": len(records),
        "at_bound": dict(zip(cma.PARAMETERS, at_bound.sum(0).tolist(), strict=True)),
        "not_informed": dict(zip(cma.PARAMETERS, silent.sum(0).tolist(), strict=True)),
        "rmse_mgdl": {"median": float(np.median(rmse)), "max": float(rmse.max()), "above_30": poor},
        "condition": {"median": condition.median().item(), "max": condition.max().item()} if len(condition) else None,
    }  # fmt: skip


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
    signals: Sequence[str] = (),
    correction_mgdl: Sequence[float] | None = None,
) -> Mechanism:
    """Fit the mechanism along a series for windows of `length` = L+H points.

    The population's fit comes from the ranges `train`, or, at the endpoint, from the run (`population`). `signals`:
    names of physiology.cma's signals that windows carry too. `correction_mgdl` (P,): all fits are to glucose less this
    daily curve, which the population's record keeps. Raises ValueError where the grid does not divide a day or the
    training data can't be fitted.
    """
    if DAY_S % series.dt_s:
        raise ValueError(f"the CMA needs a grid that divides 24 h; found dt {series.dt_s} s; choose grid.dt_min 5, say")
    rows = [row for recording in range(len(series.offsets) - 1) for row in _rows(series, recording, config)]

    def fit() -> list[dict[str, Any]]:
        telemetry.record("raycadian_fits", len(rows), mechanism=config.kind)
        served = population or _fit_population(series, config, train, correction_mgdl)
        return [served, *_fit_rows(series, rows, config, {}, served)]

    if series.origin is None:
        records = fit()
    else:
        key = _key(series, config, train, population, correction_mgdl)
        records = fits.kept(series.origin.folder.parent, key, fit)
    _warn(diagnose(records))
    begin = np.zeros(len(rows), np.int64)
    return _mechanism(series, rows, begin, records, _points(series) + length - 1, signals)


def _key(series: Series, config: CMAMechanism, train, population, correction_mgdl) -> dict[str, Any]:
    """All that the fits depend on: the snapshot, which is named by its content, the split and the mechanism."""
    correction = None if correction_mgdl is None else [float(v) for v in correction_mgdl]
    return {
        "snapshot": series.origin.folder.name, "mechanism": config.model_dump(mode="json"), "dt_s": series.dt_s,
        "train": [asdict(r) for r in train], "population": population, "correction_mgdl": correction,
    }  # fmt: skip


def _warn(diagnosis: dict[str, Any]) -> None:
    """Once, in counts."""
    if above := diagnosis["rmse_mgdl"]["above_30"]:
        log.warning(
            "%d of %d fits of the mechanism leave more than %g mg/dL of RMSE (median %.1f): one daily curve describes "
            "them poorly, as is usual where meals and insulin differ from day to day. Nothing to mend: what is left "
            "over is for the model around it, and the leaderboard shows whether the mechanism helps",
            above, diagnosis["fits"], RMSE_MGDL, diagnosis["rmse_mgdl"]["median"], extra={"once": "mechanism"},
        )  # fmt: skip


def fit_latest(
    series: Series,
    config: CMAMechanism,
    context: int,
    length: int,
    *,
    population: dict[str, Any],
    known: MutableMapping[bytes, dict[str, Any]],
    signals: Sequence[str] = (),
) -> Mechanism:
    """The same, for windows whose last context point is a subject's last point, and for those only: what the endpoint
    needs. `known` remembers fits by what they were fitted to, so that who asks every 5 minutes is fitted once an era.
    """
    last = np.flatnonzero(np.diff(series.subject_of, append=-1))
    rows = [_rows(series, int(recording), config)[-1] for recording in last]
    begin = np.diff(series.offsets)[last] - context
    records = [population, *_fit_rows(series, rows, config, known, population)]
    return _mechanism(series, rows, begin, records, length, signals)


def _mechanism(
    series: Series, rows: list[_Row], begin: np.ndarray, records: list[dict[str, Any]], n: int, signals: Sequence[str]
) -> Mechanism:
    """Curves of `n` points for each row, by the person's own fit where there is one; record 0 is the population's."""
    number = {(r["subject"], r["cutoff_local_s"]): i for i, r in enumerate(records[1:], start=1)}
    fit_of = np.array([number.get((series.subjects[_subject(series, r)], r.cutoff_s), 0) for r in rows])
    served = CMAFit.from_records(records)[torch.from_numpy(fit_of)]
    curves, *others = _curves(series, rows, begin, served, n, signals)
    first = np.array([r.first for r in rows])
    named = dict(zip(signals, others, strict=True))
    return Mechanism(curves, begin, first, fit_of, records, _points(series), named)


def _points(series: Series) -> int:
    """Points of a day."""
    return int(DAY_S // series.dt_s)


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


def _fit_rows(
    series: Series,
    rows: list[_Row],
    config: CMAMechanism,
    known: MutableMapping[bytes, dict[str, Any]],
    population: dict[str, Any],
) -> list[dict[str, Any]]:
    """A record of each person's own fit at each cutoff that has enough readings before it."""
    needed = config.min_days * DAY_S / series.dt_s
    keys = sorted({(_subject(series, r), r.cutoff_s) for r in rows})
    correction = population.get("correction_mgdl")
    profiles = {key: _profile_before(series, *key, config.history_days).less(correction) for key in keys}
    ready = {key: p for key, p in profiles.items() if p.count.sum() >= needed}
    records = _fit_profiles(list(ready.values()), config, known)
    return [
        record | {"subject": series.subjects[subject], "cutoff_local_s": cutoff_s}
        for (subject, cutoff_s), record in zip(ready, records, strict=True)
        if record["ok"]
    ]


def _fit_profiles(
    profiles: list[Profile], config: CMAMechanism, known: MutableMapping[bytes, dict[str, Any]]
) -> list[dict[str, Any]]:
    """A record for each profile; those not yet in `known` are fitted."""
    records = {p.key: known.get(p.key) for p in profiles}
    new = [p for p in {p.key: p for p in profiles}.values() if records[p.key] is None]
    for profile, record in zip(new, fits.fit_profiles(new, config), strict=True):
        known[profile.key] = records[profile.key] = record
    return [records[p.key] for p in profiles]


def _fit_population(
    series: Series, config: CMAMechanism, train: tuple[Range, ...], correction_mgdl: Sequence[float] | None
) -> dict[str, Any]:
    positions = series.positions()
    pieces = [(positions[r.subject, r.recording], r.start, r.stop) for r in train]
    (record,) = fits.fit_profiles([_profile(series, pieces).less(correction_mgdl)], config)
    if not record["ok"]:
        raise ValueError(
            "the CMA can't be fitted to the training data: constant or nearly empty; see `raycadian inspect`"
        )
    kept = {} if correction_mgdl is None else {"correction_mgdl": [float(v) for v in correction_mgdl]}
    return record | {"subject": "(population)", "cutoff_local_s": None} | kept


def _profile_before(series: Series, subject: int, cutoff_s: int, history_days: float) -> Profile:
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


def _profile(series: Series, pieces: list[tuple[int, int, int]]) -> Profile:
    """Sums by time-of-day bin over pieces (recording, start, stop). The model depends on the hour of day alone, so
    fitting the weighted profile equals fitting every reading, up to a constant of the sum of squares."""
    points = _points(series)
    hour_sum, glucose_sum, square_sum, count = (np.zeros(points) for _ in range(4))
    for recording, start, stop in pieces:
        offset = int(series.offsets[recording])
        glucose = series.values(offset + start, offset + stop)[0].astype(np.float64)
        begin_s = series.start_s[recording] + 60 * series.utc_offset_min[recording]
        local_s = (begin_s + np.arange(start, stop) * series.dt_s) % DAY_S  # whole seconds: bins don't hang on rounding
        seen = ~np.isnan(glucose)
        bins = (local_s[seen] // series.dt_s).astype(int)
        hour_sum += np.bincount(bins, local_s[seen] / 3600, points)
        glucose_sum += np.bincount(bins, glucose[seen], points)
        square_sum += np.bincount(bins, glucose[seen] ** 2, points)
        count += np.bincount(bins, minlength=points)
    middle = (np.arange(points) + 0.5) * series.dt_s / 3600
    safe = np.maximum(count, 1)
    hour = np.where(count > 0, hour_sum / safe, middle)
    scatter = (square_sum - glucose_sum**2 / safe).sum() / max(count.sum(), 1.0)
    return Profile(hour, np.where(count > 0, glucose_sum / safe, np.nan), count, max(float(scatter), 0.0))


def _curves(
    series: Series, rows: list[_Row], begin: np.ndarray, served: CMAFit, n: int, signals: Sequence[str]
) -> list[Tensor]:
    """Glucose in mg/dL and each of `signals`, (R, n), from point `begin` (R,) of each row's recording on."""
    recording = np.array([r.recording for r in rows])
    first_h = series.local_h(recording, np.zeros(len(rows)))
    step_h = series.dt_s / 3600
    point = torch.from_numpy(begin % _points(series))[:, None] + torch.arange(n, dtype=torch.float64)
    t_h = torch.from_numpy(first_h)[:, None] + point * step_h
    chunks = []
    for b in range(0, len(rows), _BATCH):
        part, hours = served[torch.arange(b, min(b + _BATCH, len(rows)))], t_h[b : b + _BATCH]
        shown = part.signals(hours) if signals else {}
        chunks.append([curve.float() for curve in (part.glucose_mgdl(hours), *(shown[name] for name in signals))])
    return [torch.cat(parts) for parts in zip(*chunks, strict=True)]
