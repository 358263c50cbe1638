"""What this machine has, what is missing, and how to get it."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_NEEDED = (
    "ray",
    "torch",
    "granite-tsfm",
    "transformers",
    "peft",
    "deepspeed",
    "pandas",
    "pyarrow",
    "scipy",
    "mlflow",
    "wandb",
)
_OPTIONAL = {"simglucose": "sim", "pytest": "dev", "hypothesis": "dev", "playwright": "dev"}
_MIN_FREE_GB = 5


@dataclass(frozen=True)
class Finding:
    name: str
    ok: bool
    found: str
    fix: str = ""


def examine(start_ray: bool = False) -> list[Finding]:
    """Every check, in the order in which people set things up. `start_ray`: run a task on Ray too, which takes 10 s."""
    return [
        _python(),
        *map(_package, _NEEDED),
        *_optional(),
        _cpus(),
        _memory(),
        _gpu(),
        *([_ray()] if start_ray else []),
        _storage(),
        _browser(),
    ]


def _python() -> Finding:
    ok = (3, 11) <= sys.version_info[:2] < (3, 14)
    return Finding(
        "Python", ok, platform.python_version(), "" if ok else "use Python 3.11 to 3.13 (granite-tsfm's range)"
    )


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, version(name))
    except PackageNotFoundError:
        return Finding(name, False, "not installed", "pip install -e . -c constraints.txt")


def _optional() -> list[Finding]:
    findings = []
    for name, extra in _OPTIONAL.items():
        package = _package(name)
        fix = "" if package.ok else f"optional: pip install -e .[{extra}] -c constraints.txt"
        findings.append(Finding(f"{name} (extra {extra})", True, package.found, fix))
    return findings


def _cpus() -> Finding:
    return Finding(
        "CPUs", True, str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    )


def _memory() -> Finding:
    import psutil

    free_gb = psutil.virtual_memory().available / 1e9
    ok = free_gb >= 4
    return Finding(
        "memory", ok, f"{free_gb:.1f} GB available", "" if ok else "4 GB are needed for Ray with two workers"
    )


def _gpu() -> Finding:
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        return Finding("GPU", True, "none: training runs on the CPU", "")
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return Finding("GPU", True, f"{names}; bf16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}")


def _ray() -> Finding:
    """Really start Ray (or reach the cluster that RAY_ADDRESS names) and run a task."""
    from raycadian.cluster import connect

    try:
        ray = connect()
        answer = ray.get(ray.remote(platform.node).remote(), timeout=60)
        resources = ray.cluster_resources()
        return Finding(
            "Ray", True, f"a task ran on {answer}; {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"
        )
    except Exception as error:  # whatever Ray says is the finding
        return Finding(
            "Ray", False, f"{type(error).__name__}: {error}", "check RAY_ADDRESS, or unset it to use this machine"
        )


def _storage() -> Finding:
    free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    ok = free_gb >= _MIN_FREE_GB and os.access(Path.cwd(), os.W_OK)
    fix = "" if ok else f"{_MIN_FREE_GB} GB free and a writable folder are needed: change to another"
    return Finding("storage", ok, f"{free_gb:.0f} GB free in {Path.cwd()}", fix)


def _browser() -> Finding:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return Finding("browser (page tests)", True, path or "none", "" if path else "optional: apt-get install chromium")
