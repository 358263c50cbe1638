"""Every metric by its name: what people call it, its unit, and which way is better.

What computes a metric lies with its kind of predictions: forecast/metrics.py, label/classification.py.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from raycadian.config import unit_of
from raycadian.config.metric import Metric
from raycadian.evaluation.forecast.error_grids import GRIDS


class Row(NamedTuple):
    """What pages call a metric, which way is better (None: neither, nothing is ranked by it), and its unit where the
    name doesn't say."""

    words: str
    better: Literal["low", "high"] | None = None
    unit: str = ""


CATALOGUE: dict[str, Row] = {
    "rmse": Row("RMSE", "low"),
    "mae": Row("MAE", "low"),
    "mape_pct": Row("MAPE", "low"),
    "mard_pct": Row("MARD", "low"),
    "bias": Row("bias"),
    "grmse": Row("glucose-specific RMSE", "low"),
    "pinball": Row("pinball loss", "low"),
    "crps_quantile": Row("CRPS from quantiles", "low"),
    "wql_per_point": Row("WQL by points", "low"),
    "wql_per_truth": Row("WQL by sum of truth", "low"),
    **{
        f"{name}_{zones}_pct": Row(f"{grid.title} {'+'.join(zones.upper())}", "low" if zones == "de" else "high")
        for name, grid in GRIDS.items()
        for zones in ("a", "ab", "de")
    },
    "tir_truth_pct": Row("in range"),
    "tir_forecast_pct": Row("in range by forecast"),
    "tir_error_pct": Row("difference", unit="% points"),
    "auroc": Row("AUROC", "high"),
    "auprc": Row("AUPRC", "high"),
    "f1": Row("F1", "high"),
    "sensitivity": Row("sensitivity", "high"),
    "specificity": Row("specificity", "high"),
    "precision": Row("precision", "high"),
    "accuracy": Row("accuracy", "high"),
    "brier": Row("Brier score", "low"),
    "brier_raw": Row("Brier score before calibration", "low"),
    "ece": Row("ECE", "low"),
    "ece_raw": Row("ECE before calibration", "low"),
    "ece_adaptive": Row("ECE, bins of equal numbers", "low"),
    "ece_chance": Row("ECE by chance"),
    "mce": Row("MCE", "low"),
    "ccc": Row("CCC", "high"),
    "r2": Row("R²", "high"),
}
"""By name without its unit: rmse is the row of rmse_mgdl, of rmse_mmhg and of rmse."""


def row_of(name: str) -> Row | None:
    """None of a name that no page calls by other words."""
    return CATALOGUE.get(name) or CATALOGUE.get(name.rpartition("_")[0] if unit_of(name) else name)


def unit_of_metric(name: str) -> str:
    """mg/dL of rmse_mgdl, % of mard_pct, nothing of auroc."""
    row = row_of(name)
    return (row.unit if row else "") or unit_of(name) or ("%" if name.endswith("_pct") else "")


def label(name: str) -> str:
    """rmse_mgdl_at_30min -> RMSE, mg/dL at 30 min; coverage_90_pct -> 90% interval covers, %."""
    base, _, step = name.partition("_at_")
    words = base.split("_")
    intervals = {"coverage": "interval covers", "width": "interval width"}
    if words[0] in intervals:
        text = f"{words[1]}% {intervals[words[0]]}, {unit_of_metric(base)}".rstrip(", ")
    elif row := row_of(base):
        text = f"{row.words}, {unit_of_metric(base)}".rstrip(", ")
    else:
        text = base.replace("_", " ")
    return f"{text.split(',')[0]} at {step.removesuffix('min')} min" if step else text


def rankable(names: Iterable[str]) -> list[str]:
    """Those that models can be ranked by."""
    return [name for name in names if (row := row_of(name)) and row.better]


def metric_among(name: str, names: Iterable[str]) -> Metric:
    """One of `names` to rank models by. Raises ValueError where it is not among them, or neither way is better."""
    known = rankable(names)
    if name not in known:
        raise ValueError(f"{name}: models can't be ranked by it; choose one of {', '.join(known)}")
    row = row_of(name)
    assert row is not None and row.better is not None
    return Metric(name, row.better, row.words, unit_of_metric(name))
