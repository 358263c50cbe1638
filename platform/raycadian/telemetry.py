"""What is told while work runs: Prometheus metrics through Ray, and logs that machines can read.

Both carry the names of recipes, runs and trials; neither carries anything of a subject.
"""

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import MappingProxyType
from typing import Any

# name: (kind, what it says, tags). Ray exports them as ray_<name>, counters as ray_<name>_total.
METRICS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "raycadian_windows": ("Counter", "Windows trained on", ("recipe",)),
    "raycadian_windows_per_second": ("Gauge", "Windows trained on per second in the last epoch", ("recipe",)),
    "raycadian_data_wait_ratio": ("Gauge", "Share of the last epoch that workers waited for windows", ("recipe",)),
    "raycadian_data_bytes": ("Counter", "Bytes read for windows: of shards, or of a mapped table", ("recipe",)),
    "raycadian_epochs": ("Counter", "Epochs finished", ("recipe",)),
    "raycadian_val_rmse_mgdl": ("Gauge", "Validation RMSE of the last epoch, mg/dL", ("recipe",)),
    "raycadian_trials": ("Counter", "Trials of sweeps that ended", ("recipe", "status")),
    "raycadian_failures": ("Counter", "Trainings and trials that failed", ("recipe", "kind")),
    "raycadian_fits": ("Counter", "Fits of the mechanism", ("mechanism",)),
}
_fields: ContextVar[Mapping[str, Any]] = ContextVar("fields", default=MappingProxyType({}))


def record(name: str, value: float = 1.0, **tags: str) -> None:
    """Add to a counter, or set a gauge, of METRICS. Nothing where no Ray runs: then nobody collects."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return
    metric = _metric(name)
    metric.set(value, tags) if METRICS[name][0] == "Gauge" else metric.inc(value, tags)


@cache
def _metric(name: str) -> Any:
    from ray.util import metrics

    kind, description, tags = METRICS[name]
    return getattr(metrics, kind)(name, description=description, tag_keys=tags)


def epoch(metrics: Mapping[str, float], *, in_mgdl: bool = True) -> None:
    """An epoch of any training, in the process that leads it. `in_mgdl`: whether its errors are of glucose."""
    recipe = str(_fields.get().get("recipe", ""))
    record("raycadian_epochs", recipe=recipe)
    if metrics["windows"] > 0:
        record("raycadian_windows", metrics["windows"], recipe=recipe)
        record("raycadian_windows_per_second", metrics["windows_per_s"], recipe=recipe)
        record("raycadian_data_wait_ratio", metrics["data/wait"], recipe=recipe)
    if "data/bytes" in metrics:
        record("raycadian_data_bytes", metrics["data/bytes"], recipe=recipe)
    if in_mgdl:
        record("raycadian_val_rmse_mgdl", metrics["val/rmse"], recipe=recipe)


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Fields (recipe, run, trial, rank) of every log line and metric inside the block; outer ones stay."""
    token = _fields.set({**_fields.get(), **fields})
    try:
        yield
    finally:
        _fields.reset(token)


def bound_fields() -> dict[str, Any]:
    """What another process has to bind to go on telling in the same name."""
    return dict(_fields.get())


def configure_logs() -> None:
    """Log lines of this package on stderr: JSON with RAYCADIAN_LOG=json (from INFO), else text (from WARNING).

    Of several workers only rank 0 tells less than warnings.
    """
    logger = logging.getLogger("raycadian")
    if any(isinstance(handler, _Handler) for handler in logger.handlers):
        return
    as_json = os.environ.get("RAYCADIAN_LOG") == "json"
    logger.addHandler(_Handler(as_json))
    logger.propagate = False  # a library that takes the root logger would say it twice
    logger.setLevel(logging.INFO if as_json else logging.WARNING)


class _Handler(logging.StreamHandler):
    def __init__(self, as_json: bool):
        super().__init__()
        self.addFilter(_with_fields)
        if not as_json:
            self.addFilter(_Once())
        self.setFormatter(
            _json_formatter() if as_json else logging.Formatter("%(levelname)s %(message)s%(fields_text)s")
        )


class _Once:
    """Of lines with the same `once` (logging's `extra`) a person sees the first: it holds of all runs alike."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def filter(self, line: logging.LogRecord) -> bool:
        key = getattr(line, "once", None)
        if key is None:
            return True
        line.fields_text = ""
        is_new = key not in self._seen
        self._seen.add(key)
        return is_new


def _with_fields(line: logging.LogRecord) -> bool:
    fields = _fields.get()
    line.fields = fields
    line.fields_text = "".join(f" {name}={value}" for name, value in fields.items())
    return line.levelno >= logging.WARNING or not fields.get("rank")


def _json_formatter() -> logging.Formatter:
    from pythonjsonlogger.json import JsonFormatter

    class Flat(JsonFormatter):
        def add_fields(self, log_data: dict, record: logging.LogRecord, message_dict: dict) -> None:
            super().add_fields(log_data, record, message_dict)
            log_data.update(log_data.pop("fields", {}))
            log_data.pop("fields_text", None)

    return Flat(
        "%(asctime)s %(levelname)s %(name)s %(message)s", rename_fields={"asctime": "time", "levelname": "level"}
    )
