"""The endpoint as `raycadian serve` starts it, with HAProxy, attacked by a few connections and killed in parts: what it
promised in docs/security.md, over real sockets."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
import served
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect as open_socket

from raycadian.modalities.cgm.request import ForecastRequest
from raycadian.serving.environment import free_port

pytestmark = [pytest.mark.ray, pytest.mark.long]
ROOT = Path(__file__).parents[2]
AUTH = {"Authorization": f"Bearer {served.KEY}"}
PATH = ForecastRequest.path
BODY = json.dumps(ForecastRequest.example).encode()
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {served.KEY}\r\n".encode()
FOREVER = """
import sys
from pathlib import Path
from raycadian.serving.app import serve_forever
from raycadian.runs import Run
serve_forever(Run(Path(sys.argv[1])), port=int(sys.argv[2]), replicas=2, tell=lambda text: print(text, flush=True))
"""


class Endpoint:
    def __init__(self, process, port):
        self.process, self.port, self.url = process, port, f"http://127.0.0.1:{port}"

    def connection(self, *parts):
        one = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        for part in parts:
            one.sendall(part)
        return one

    def assert_it_answers(self, within_s=1.0):
        for _ in range(3):
            began = time.perf_counter()
            with httpx.Client(base_url=self.url, headers=AUTH, timeout=20) as client:
                assert client.get("/healthz").status_code == client.post(PATH, content=BODY).status_code == 200
            assert time.perf_counter() - began < within_s

    def parts(self, *words):
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                command = " ".join(process.cmdline())
                found += [process] if all(word in command for word in words) else []
        return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return served.make_run(tmp_path_factory.mktemp("runs"), served.people(3, 4))


@contextmanager
def serving(run):
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "OMP_"))}
    environment |= {"RAYCADIAN_API_KEY": served.KEY, "PYTHONPATH": str(ROOT / "platform")}
    process = subprocess.Popen(
        [sys.executable, "-c", FOREVER, str(run.path), str(port)], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert "HAProxy" in process.stdout.readline()
        yield Endpoint(process, port)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def endpoint(run):
    with serving(run) as one:
        yield one


def first_line(connection):
    with suppress(ConnectionError):
        return connection.recv(500).split(b"\r\n")[0]
    return b""


def test_headers_that_never_end(endpoint):
    """Without a key; HAProxy's 4,096 connections were taken for an hour."""
    with ExitStack() as stack:
        half = [stack.enter_context(endpoint.connection(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")) for _ in range(4100)]
        endpoint.assert_it_answers()
        assert b"408" in first_line(half[0])  # within 5 s


STEERING = ("x-request-id", "x-session-id", "serve_multiplexed_model_id", "x-request-timeout-seconds")


@pytest.mark.parametrize("name", STEERING)
@pytest.mark.parametrize("value", [b"\xff\xfe", b"0.000001"])
def test_headers_that_steer_ray(endpoint, name, value):
    line = name.encode() + b": " + value + b"\r\n"
    with endpoint.connection(HEAD, line, b"Content-Length: %d\r\n\r\n" % len(BODY), BODY) as one:
        assert first_line(one) == b"HTTP/1.1 200 OK"


def test_bodies_that_never_end(endpoint):
    with ExitStack() as stack:
        parts = (HEAD, b"Content-Length: 5000\r\n\r\n{")
        slow = [stack.enter_context(endpoint.connection(*parts)) for _ in range(300)]
        time.sleep(1.5)
        endpoint.assert_it_answers()
        lines = Counter(first_line(one) for one in slow)
        assert set(lines) == {b"HTTP/1.1 408 Request Timeout", b"HTTP/1.1 429 Too Many Requests"}
        assert lines[b"HTTP/1.1 408 Request Timeout"] <= 2 * 64  # of this address, on each replica


def test_sockets_that_say_nothing(endpoint):
    with ExitStack() as stack:
        opened = Counter()
        for _ in range(100):
            try:
                address = endpoint.url.replace("http", "ws") + "/v1/biosignal/stream"
                socket = stack.enter_context(open_socket(address, additional_headers=AUTH))
                opened["open"] += 1
            except InvalidStatus as refused:
                opened[refused.response.status_code] += 1
        assert opened == {"open": 64, 429: 36}
        endpoint.assert_it_answers()
        assert json.loads(socket.recv(timeout=30))["error"] == "idle"


def test_large_bodies_at_once(endpoint):
    """64 of 8 MB; health answers in between."""
    body = b'{"channels":{"abp_mmhg":{"rate_hz":125,"unit":"mmHg","samples":[' + b"81.25," * 1_400_000 + b"1]}}}"
    waits, ended = [], threading.Event()

    def watch():
        while not ended.is_set():
            began = time.perf_counter()
            httpx.get(endpoint.url + "/healthz", timeout=30).raise_for_status()
            waits.append(time.perf_counter() - began)
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(64) as pool:
            ask = lambda _: httpx.post(endpoint.url + "/v1/biosignal", content=body, headers=AUTH, timeout=120)  # noqa: E731
            statuses = Counter(answer.status_code for answer in pool.map(ask, range(64)))
    finally:
        ended.set()
        watcher.join()
    assert set(statuses) <= {422, 503} and max(waits) < 4, (statuses, max(waits))  # this model reads no signals


def test_whoever_sends_too_much_is_told(endpoint):
    for content in (b" " * 20_000_000, (b" " * 1_000_000 for _ in range(20))):
        answer = httpx.post(endpoint.url + PATH, content=content, headers=AUTH, timeout=60)
        assert answer.status_code == 413 and answer.json()["error"] == "too_large"


def outcomes_while(endpoint, seconds, act):
    """What four clients see in turn, second by second after `act`."""
    seen, ended = [], threading.Event()

    def ask():
        with httpx.Client(base_url=endpoint.url, headers=AUTH, timeout=20) as client:
            while not ended.is_set():
                began = time.perf_counter()
                try:
                    outcome = client.post(PATH, content=BODY).status_code
                except httpx.ConnectError:
                    outcome = "refused"
                except httpx.TransportError:
                    outcome = "cut"
                seen.append((outcome, time.perf_counter() - began, time.perf_counter()))
                time.sleep(0.02)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    act()
    acted = time.perf_counter()
    time.sleep(seconds)
    ended.set()
    for thread in threads:
        thread.join()
    late = [at - acted for outcome, _, at in seen if outcome != 200]
    return Counter(outcome for outcome, *_ in seen), max(late, default=0.0), max(took for _, took, _ in seen)


def test_a_killed_replica_costs_what_was_in_flight(endpoint):
    outcomes, last_s, slowest_s = outcomes_while(endpoint, 15, lambda: endpoint.parts("ServeReplica")[0].kill())
    assert set(outcomes) <= {200, "cut", 503} and outcomes.total() - outcomes[200] <= 16, outcomes
    assert last_s < 2 and slowest_s < 5


def test_a_killed_haproxy_is_back_at_once(endpoint):
    """It was away for 27 s, and answered 404; then for the 5 s that Ray takes to miss it."""
    outcomes, last_s, slowest_s = outcomes_while(
        endpoint, 20, lambda: [process.kill() for process in endpoint.parts("haproxy", "-db")]
    )
    assert set(outcomes) <= {200, "cut", "refused", 503} and last_s < 12 and slowest_s < 5, (outcomes, last_s)
    assert len(endpoint.parts("haproxy", "-db")) == 1 and outcomes[200] > 0.8 * outcomes.total(), outcomes


def test_sigterm_answers_what_is_in_flight(run):
    with serving(run) as endpoint:
        head = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY)
        flying = [endpoint.connection(head, BODY[:100]) for _ in range(16)]
        time.sleep(0.5)
        endpoint.process.terminate()
        time.sleep(2)
        for one in flying:
            one.sendall(BODY[100:])
        assert [first_line(one) for one in flying] == [b"HTTP/1.1 200 OK"] * 16
        assert endpoint.process.wait(40) == 0
        for one in flying:
            one.close()


def test_a_killed_serve_leaves_no_endpoint_behind(run):
    """Two of Ray's agents tell a dead GCS for a minute that they end; they hold nothing of the endpoint's."""
    with serving(run) as endpoint:
        below = psutil.Process(endpoint.process.pid).children(recursive=True)
        endpoint.process.send_signal(signal.SIGKILL)
        _, alive = psutil.wait_procs(below, timeout=15)
        assert {process.name() for process in alive} <= {"ray::RuntimeEnvAgent", "ray::DashboardAgent"}
        with pytest.raises(ConnectionError):
            endpoint.connection()
