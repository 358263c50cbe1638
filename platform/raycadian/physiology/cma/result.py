"""A fit as it is handed on: parameters, gains, uncertainties; and as JSON-able records."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raycadian.physiology.arrays import Array, ArrayLike, like
from raycadian.physiology.cma import equations as cma


@dataclass(frozen=True)
class CMAFit:
    """S fitted people (or days), as tensors or as NumPy arrays: the kind that they were fitted from. Parameters are NaN
    where `ok` is False, and `reason` says why.

    d, taup, taug, B, Cm, toff, offset_mgdl, rmse_mgdl (weighted) (S,) · gain_mgdl (S, M), all equal where one gain was
    fitted · tM (S, M) h · n_points (S,) int · ok (S,) bool · reason: one text a fit, empty where ok. In the order of
    cma.PARAMETERS: at_bound (S, P) bool, at a bound of the fit · sd (S, P) of the posterior (Laplace), NaN at a bound,
    where the posterior is one-sided · informed (S, P) bool: sd below 0.9 of the prior's, so the data say something.
    sd_offset_mgdl (S,), sd_gain_mgdl (S, M), NaN for a gain at a bound · condition (S,): of the posterior's precision
    scaled to a unit diagonal, over the parameters inside their bounds, offset and gains; large where they stand in for
    one another.
    """

    d: Array
    taup: Array
    taug: Array
    B: Array
    Cm: Array
    toff: Array
    tM: Array
    offset_mgdl: Array
    gain_mgdl: Array
    rmse_mgdl: Array
    n_points: Array
    at_bound: Array
    sd: Array
    sd_offset_mgdl: Array
    sd_gain_mgdl: Array
    condition: Array
    informed: Array
    ok: Array
    reason: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ok)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> "CMAFit":
        """Some of the fits, in the order asked; an integer gives a CMAFit of one. Raises IndexError."""
        rows = torch.arange(len(self))[index].reshape(-1).numpy()
        picked = {name: getattr(self, name)[rows] for name in FIELDS}
        return CMAFit(**picked, reason=tuple(self.reason[i] for i in rows.tolist()))

    def map(self, change: Callable[[Array], Array]) -> "CMAFit":
        """The fit with every field changed alike."""
        return CMAFit(**{name: change(getattr(self, name)) for name in FIELDS}, reason=self.reason)

    def tensors(self) -> "CMAFit":
        return self.map(torch.as_tensor)

    @property
    def parameters(self) -> dict[str, Array]:
        """The six parameters, (S,) each, as `cma.periodic` takes them."""
        return {name: getattr(self, name) for name in cma.PARAMETERS}

    def signals(self, t_h: ArrayLike) -> dict[str, Array]:
        """`cma.periodic` at local hours t_h (S, T) or (T,): L, m, c, a, I_S, I_E, G (S, T) and g (S, M, T), without
        unit; in kind with t_h."""
        back, (t_h,) = like(t_h)
        fit = self.tensors()
        return back(cma.periodic(t_h.to(fit.d), **fit.parameters, tM=fit.tM))

    def glucose_mgdl(self, t_h: ArrayLike) -> Array:
        """The fitted curve, offset + sum_i gain_i g_i, (S, T) mg/dL at local hours t_h (S, T) or (T,); 24 h periodic;
        in kind with t_h."""
        back, (t_h,) = like(t_h)
        fit = self.tensors()
        return back(fit.offset_mgdl[:, None] + (fit.gain_mgdl[:, :, None] * fit.signals(t_h)["g"]).sum(1))

    def to_records(self) -> list[dict[str, Any]]:
        """One JSON-able mapping a fit; floats keep every bit. NaN becomes None; `at_bound` and `informed` name the
        parameters; `sd_d` and so on are their standard deviations."""
        columns = {name: getattr(self, name).tolist() for name in FIELDS}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return [_record(row) | {"reason": reason} for row, reason in zip(rows, self.reason, strict=True)]

    @classmethod
    def from_records(cls, records: Sequence[Mapping[str, Any]]) -> "CMAFit":
        """The inverse of `to_records`; other keys are left alone. Records of before there were uncertainties have NaN
        there, and one gain. Raises ValueError where a key lacks or meals differ."""
        missing = sorted({name for r in records for name in (*_NEEDED, "reason") if name not in r})
        if missing or not records:
            raise ValueError(f"not records of CMA fits: {len(records)} found, lacking {missing}")
        try:
            tensors = _tensors(records)
        except (TypeError, RuntimeError) as error:  # from a file that anybody may have written
            raise ValueError(f"not records of CMA fits: {error}") from None
        if odd := [name for name in FIELDS if tensors[name].dim() != (2 if name in _SEVERAL else 1)]:
            raise ValueError(f"not records of CMA fits: {', '.join(odd)}: a list in place of a number, or none of one")
        return cls(**tensors, reason=tuple(r["reason"] for r in records))


_NEEDED = (*cma.PARAMETERS, "tM", "offset_mgdl", "gain_mgdl", "rmse_mgdl", "n_points", "at_bound", "ok")
FIELDS = (*_NEEDED, "sd", "sd_offset_mgdl", "sd_gain_mgdl", "condition", "informed")

_SEVERAL = {"tM", "gain_mgdl", "sd_gain_mgdl", "sd", "at_bound", "informed"}  # values a fit: of its meals or parameters


def _record(row: dict[str, Any]) -> dict[str, Any]:
    """One fit's values by `FIELDS`, in words and without NaN."""
    sd = dict(zip((f"sd_{name}" for name in cma.PARAMETERS), row["sd"], strict=True))
    named = {key: [p for p, at in zip(cma.PARAMETERS, row[key], strict=True) if at] for key in ("at_bound", "informed")}
    plain = {name: value for name, value in row.items() if name != "sd"}
    return {name: _json(value) for name, value in (plain | sd | named).items()}


def _tensors(records: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    if len({len(r["tM"]) for r in records}) > 1:
        raise ValueError("the records differ in their number of meals: they are not of one fit")
    rows, kinds = [_row(r) for r in records], dict.fromkeys(("ok", "at_bound", "informed"), torch.bool)
    kinds |= {"n_points": torch.int64}
    return {name: torch.tensor([row[name] for row in rows], dtype=kinds.get(name, torch.float64)) for name in FIELDS}


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_record`."""
    unknown = [math.nan] * len(record["tM"])
    gain = record["gain_mgdl"]
    row = {"sd_gain_mgdl": unknown, "sd_offset_mgdl": None, "condition": None, "informed": ()} | dict(record)
    row["gain_mgdl"] = gain if isinstance(gain, list | tuple) else [gain] * len(unknown)
    row["sd"] = [record.get(f"sd_{name}") for name in cma.PARAMETERS]
    row |= {key: [name in row[key] for name in cma.PARAMETERS] for key in ("at_bound", "informed")}
    return {name: _number(row[name]) for name in FIELDS}


def _json(value: Any) -> Any:
    if isinstance(value, list):
        return [_json(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _number(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_number(v) for v in value]
    return math.nan if value is None else value
