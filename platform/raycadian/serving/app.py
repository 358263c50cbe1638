"""Start, promote, stop: the endpoint on Ray Serve as `raycadian serve` and the demo use it."""

import json
import os
import signal
import socket
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
from raycadian.serving.environment import SWITCHES, free_port, prepare_environment
from raycadian.serving.follow import Follower
from raycadian.serving.keys import api_key, key_source, share
from raycadian.serving.told import tell

__all__ = ["APP", "Server", "free_port", "prepare_environment", "serve_forever", "serving", "start", "stop"]

APP = "raycadian"
_IMPORT_PATH = "raycadian.serving.deployment:application"
_PLACE = "raycadian_wanted"  # where the cluster is told what to serve
_START_S, _PROMOTE_S, _AGAIN_S = 300.0, 120.0, 0.2
_PATHS = {"forecast": "v1/forecast"}  # of a task that has one only
_CORES_OF_TWO = 4
_PATIENCE_S = 3600.0  # of a new replica while its run can't be loaded; the others answer
_DRAIN_S = 35.0  # for what is in flight when the endpoint ends


@dataclass(frozen=True)
class Server:
    """A running endpoint. `proxy`: what stands before the replicas, in words · notices: `rejected`, `following`, as in
    ModelResponse · fallback: the run that a new replica loads where `run` can't be · patience_s: for which it tries."""

    run: Run
    host: str
    port: int
    replicas: int
    proxy: str
    key: str = field(repr=False)
    handle: Any = field(default=None, repr=False, compare=False)  # Serve's, of the deployment
    cases: Path | None = None
    people: Path = PEOPLE
    patience_s: float = 0.0
    fallback: Run | None = None
    rejected: str | None = None
    following: str | None = None

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
        """Change over to another run without a restart. Raises ValueError where a replica keeps the old one; then all
        of them do, and say why."""
        changed = replace(self, run=run, fallback=self.run, rejected=None)
        try:
            models = changed._taken_over()
        except Exception:  # what is wanted must not be another run than the one that is known to be served
            self._want()
            raise
        if kept := [model for model in models if model["model"] != run.name]:
            reason = kept[0]["rejected"] or "no reason given"
            replace(self, rejected=reason)._taken_over()
            raise ValueError(f"{run.name} was not taken over, {self.run.name} goes on: {reason}")
        return replace(changed, fallback=None)

    def note_following(self, following: str | None) -> "Server":
        """What /v1/model says of the registry that is followed: why it can't be asked, None where it can."""
        noted = replace(self, following=following)
        noted._taken_over()
        return noted

    def _want(self) -> None:
        """Tell the cluster what a replica that starts, or looks, has to serve."""
        tell(_PLACE, _held(self))

    def _taken_over(self) -> list[dict[str, Any]]:
        """What each running replica serves once it has looked at what is wanted now; asked again where one ends
        meanwhile. Raises ValueError."""
        self._want()
        until = time.monotonic() + _PROMOTE_S
        while True:
            try:
                return self.handle.broadcast("take_over").results(timeout_s=max(0.0, until - time.monotonic()))
            except Exception as error:  # whatever Ray raises of a replica that has ended, or where none runs
                if time.monotonic() > until:
                    raise ValueError(f"replicas can't be told within {_PROMOTE_S:g} s: {error}") from error
                time.sleep(_AGAIN_S)

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
    server = Server(run, host, port, replicas, "", api_key(), cases=cases, people=people)
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
        server._want()
        _deploy(_config(server))
        _wait_until_running(_START_S)
        _wait_until_ready(server)
        server = replace(server, patience_s=_PATIENCE_S, proxy=_proxy_in_words(ray), handle=_handle())
        server._want()  # patience: at the start a bad run is said at once
        return server
    except BaseException:
        stop()
        raise


def stop() -> None:
    """Answer what is in flight, then end the endpoint and Serve with it; Ray goes on."""
    from ray import serve

    if APP in serve.status().applications:
        serve.delete(APP, _blocking=False)  # replicas drain, while their proxies still carry the answers
        _wait_until_gone(_DRAIN_S)
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
        follower = Follower(server, follow or (lambda: run), tell, every_s)
        while not ended.wait(follower.wait_s):
            follower.look()
        tell("ending: what is in flight is answered")


def default_replicas() -> int:
    """Two where there are cores for a second one that goes on while the first is replaced."""
    return 2 if (os.cpu_count() or 1) >= _CORES_OF_TWO else 1


def _require_free(host: str, port: int) -> None:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host, port))
        except OSError as error:
            message = f"can't listen on {host}:{port}: {error.strerror}; choose another with --port, or --host"
            raise ValueError(message) from None


def _config(server: Server) -> dict[str, Any]:
    """The Serve configuration, as in serve/*.yaml. It never changes: what is served is told past it, and the key stays
    here; `share` has told the cluster its hash."""
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": server.host, "port": server.port},
        "applications": [{
            "name": APP, "route_prefix": "/", "import_path": _IMPORT_PATH, "args": {"key": "shared"},
            "deployments": [{
                "name": "forecaster", "num_replicas": server.replicas, "user_config": {"told": _PLACE},
            }],
        }],
    }  # fmt: skip


def _held(server: Server) -> dict[str, Any]:
    """What a replica has to serve, as its user_config would say."""
    held: dict[str, Any] = {"run": str(server.run.path.absolute()), "people": str(server.people.absolute())}
    held |= {"cases": str(server.cases.absolute())} if server.cases else {}
    held |= {"fallback": str(server.fallback.path.absolute())} if server.fallback else {}
    return held | {"rejected": server.rejected, "following": server.following, "patience_s": server.patience_s}


def _deploy(config: dict[str, Any]) -> None:
    """What `serve deploy` does."""
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    _get_global_client().deploy_apps(ServeDeploySchema.model_validate(config))


def _handle() -> Any:
    """Serve's, of the deployment, for a process without an event loop, whatever the switches for replicas say."""
    from ray import serve

    handle = serve.get_app_handle(APP)
    handle._init(_run_router_in_separate_loop=True)
    return handle


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


def _wait_until_gone(timeout_s: float) -> None:
    from ray import serve

    end = time.monotonic() + timeout_s
    while APP in serve.status().applications and time.monotonic() < end:
        time.sleep(0.1)


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
    names = list(SWITCHES)
    proxied, optimised = ray.get(ray.remote(num_cpus=0)(lambda: [os.environ.get(n) for n in names]).remote())
    if proxied == "1":
        return "HAProxy before the replicas" + (", throughput-optimised" if optimised == "1" else "")
    return f"Serve's own proxy, slower: Ray was started without {' and '.join(f'{k}={v}' for k, v in SWITCHES.items())}"
