"""What this machine has, what is missing, and how to get it."""

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from pathlib import Path

from raycadian.files import mode_of

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
        *_private(),
        _ports(),
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


_SHARED = ("runs", "runs/mlflow.db", "snapshots")  # where they are by default; $RAYCADIAN_UMASK may let a group in


def _private() -> list[Finding]:
    """Keys and health data that others of this machine could read."""
    from raycadian.cluster import TOKEN
    from raycadian.serving.keys import KEY_FILE

    own = [path for path in (TOKEN.expanduser(), KEY_FILE.expanduser(), Path("people")) if path.exists()]
    shared = [path for path in map(Path, _SHARED) if path.exists()]
    return [_owners(path, 0o700) for path in own] + [_owners(path, mode_of(0o777)) for path in shared]


def _owners(path: Path, most: int) -> Finding:
    mode, wanted = path.stat().st_mode & 0o777, most if path.is_dir() else most & 0o666
    ok = not mode & ~wanted & 0o077
    fix = "" if ok else f"others of this machine may read it: chmod {wanted:o} {path}"
    return Finding(f"{path} (private)", ok, f"mode {mode:o}", fix)


def _ports() -> Finding:
    """What this user's Ray and HAProxy let other machines reach. On a cluster that RAY_ADDRESS names they have to."""
    open_ports = sorted({f"{name} on {address}" for name, address in _reachable()})
    ok = not open_ports or bool(os.environ.get("RAY_ADDRESS"))
    fix = "" if ok else "end it, or let a firewall say who may reach it; docs/security.md lists the ports"
    return Finding("ports that others reach", ok, ", ".join(open_ports[:8]) or "none", fix)


def _reachable() -> Iterator[tuple[str, str]]:
    import psutil

    for process in psutil.process_iter(["name", "cmdline", "uids"]):
        words = " ".join(process.info["cmdline"] or ())
        if process.info["uids"].real == os.getuid() and any(word in words for word in ("ray::", "raylet", "haproxy")):
            with suppress(psutil.Error):
                for socket in process.net_connections(kind="tcp"):
                    if socket.status == psutil.CONN_LISTEN and not is_loopback(socket.laddr.ip):
                        yield process.info["name"], f"{socket.laddr.ip}:{socket.laddr.port}"


def is_loopback(address: str) -> bool:
    """Also of an IPv4 address written as IPv6."""
    return ip_address(address.removeprefix("::ffff:")).is_loopback


def _browser() -> Finding:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return Finding("browser (page tests)", True, path or "none", "" if path else "optional: apt-get install chromium")
