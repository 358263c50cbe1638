"""A few clients stop nobody: bodies that never end, sockets that say nothing, large bodies, headers sent twice."""

import asyncio
import gzip
import json
import threading
import time
from contextlib import ExitStack

import numpy as np
import pytest
import served
from starlette.testclient import TestClient, WebSocketDenialResponse

from raycadian.modalities.biosignals.request import BiosignalRequest
from raycadian.modalities.cgm.request import MAX_BYTES, ForecastRequest
from raycadian.personal.store import digest
from raycadian.serving import limits, web
from raycadian.serving.limits import Limits
from raycadian.serving.schemas import Problem

AUTH = {"Authorization": f"Bearer {served.KEY}"}
FORECAST, STREAM = ForecastRequest.path, f"{BiosignalRequest.path}/stream"
BODY = json.dumps(ForecastRequest.example).encode()


class Echo:
    """Answers at once with how much was sent; a stream gives no windows."""

    def __init__(self, seconds=0.0):
        self.seconds, self.at_once, self.most_at_once = seconds, 0, 0

    def describe(self):
        return {"model": "echo", "path": FORECAST}

    def example(self):
        return ForecastRequest.example

    async def answer(self, request, key=None):
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self.seconds)
        self.at_once -= 1
        return self

    def as_dict(self):
        return {"note": "echo"}

    def open_stream(self, channels):
        return self

    def push(self, samples):
        return []


@pytest.fixture
def app():
    return web.create_app(Echo(), digest(served.KEY))


@pytest.fixture
def client(app):
    return TestClient(app, headers=AUTH, raise_server_exceptions=False)


async def ask(app, path, chunks=(), *, method="POST", address="10.0.0.1", headers=None):
    """Status, headers and body of the answer to chunks, of which a number is seconds to wait."""
    sent, left = [], list(chunks)

    async def receive():
        while left and isinstance(left[0], float):
            await asyncio.sleep(left[0])
            left.pop(0)
        if left:
            return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    pairs = [(k.lower().encode(), v.encode()) for k, v in (headers or list(AUTH.items()))]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
        "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http", "headers": pairs,
        "client": (address, 1), "server": ("x", 80),
    }  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(m.get("body", b"") for m in sent[1:])


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(limits, "_QUICK_S", 0.02)
    monkeypatch.setattr(limits, "_PATIENCE_S", 0.15)
    monkeypatch.setattr(limits, "_SLOWEST_BYTES_PER_S", 1e12)


@pytest.mark.slow
def test_bodies_that_never_end_stop_nobody(app, quick):
    """260 of them, of one client and of many, while others ask."""

    async def attack():
        crawl = (b"{", 60.0, b"}")
        slow = [asyncio.create_task(ask(app, FORECAST, crawl, address=f"10.0.0.{i % 6}")) for i in range(260)]
        await asyncio.sleep(0.05)
        began = time.perf_counter()
        health, good = await asyncio.gather(
            ask(app, "/healthz", method="GET"), ask(app, FORECAST, [BODY[:9], BODY[9:]])
        )
        assert health[0] == good[0] == 200 and time.perf_counter() - began < 0.1
        return await asyncio.gather(*slow)

    answers = asyncio.run(attack())
    assert {status for status, *_ in answers} == {408, 503}  # too slow; more than 256 at once
    assert all(headers[b"retry-after"] for status, headers, _ in answers if status == 503)
    one = Problem.model_validate_json(next(body for status, _, body in answers if status == 408))
    assert one.error == "too_slow"


def test_a_slow_body_has_the_time_of_the_bytes_that_it_announces(app, monkeypatch):
    """2.6 kB had that of the largest body, 21 s in all."""
    monkeypatch.setattr(limits, "_QUICK_S", 0.01)
    monkeypatch.setattr(limits, "_PATIENCE_S", 0.03)
    monkeypatch.setattr(limits, "_SLOWEST_BYTES_PER_S", MAX_BYTES / 100)
    headers = [*AUTH.items(), ("content-length", "10")]
    status, _, body = asyncio.run(asyncio.wait_for(ask(app, FORECAST, (b"{", 60.0, b"}"), headers=headers), 2))
    assert status == 408 and b"1 bytes came in 0.031 s, 10 were announced" in body


@pytest.mark.slow
def test_one_client_holds_its_share_of_slow_bodies(app, quick):
    async def attack():
        return await asyncio.gather(*(ask(app, FORECAST, (b"{", 1.0)) for _ in range(100)))

    statuses = [status for status, *_ in asyncio.run(attack())]
    assert statuses.count(408) == 64 and statuses.count(429) == 36


@pytest.mark.slow
def test_large_bodies_are_answered_a_few_at_a_time(monkeypatch):
    echo = Echo(0.01)
    app = web.create_app(echo, digest(served.KEY))
    large = json.dumps({"channels": {"ppg": {"rate_hz": 100.0, "samples": [0.5] * 80_000}}}).encode()
    assert len(large) > limits.HEAVY_BYTES

    async def attack():
        return await asyncio.gather(*(ask(app, BiosignalRequest.path, [large]) for _ in range(40)))

    statuses = [status for status, *_ in asyncio.run(attack())]
    assert echo.most_at_once == 2 and statuses.count(200) >= 34 and set(statuses) <= {200, 503}


def test_bodies_of_more_than_a_day_are_read_beside_the_loop(app, client, monkeypatch):
    """128 of three weeks each, read on it, held up health for seconds."""
    threads, read = [], web._data
    monkeypatch.setattr(web, "_data", lambda *a: threads.append(threading.current_thread().name) or read(*a))
    client.get("/healthz")
    for more in (b"", b" " * limits.SMALL_BYTES):
        assert client.post(FORECAST, content=BODY + more, headers=AUTH).status_code == 200
    assert len(BODY) < limits.SMALL_BYTES < 6048 * len('{"time":"2026-03-02T06:00:00Z","glucose":115.0},')
    assert len(set(threads)) == 2, threads


def test_an_answer_that_never_comes_is_a_503(monkeypatch):
    monkeypatch.setattr(web, "ANSWER_S", 0.05)
    app = web.create_app(Echo(60.0), digest(served.KEY))
    status, headers, body = asyncio.run(ask(app, FORECAST, [BODY]))
    assert status == 503 and headers[b"retry-after"] and Problem.model_validate_json(body).error == "timeout"


def test_work_has_a_bound(app):
    own = Limits()

    async def fill():
        async with own.work(1):
            own._most_work = 1
            with pytest.raises(limits.Refused) as refused:
                async with own.work(1):
                    pass
            assert refused.value.status == 503

    asyncio.run(fill())


@pytest.mark.parametrize("size", [MAX_BYTES + 1, 30 * MAX_BYTES])
def test_whoever_sends_too_much_is_heard_out_and_told(app, size):
    chunks = [b" " * MAX_BYTES] * (size // MAX_BYTES) + [b" "]
    for headers in (list(AUTH.items()), [*AUTH.items(), ("content-length", str(size))]):
        status, _, body = asyncio.run(ask(app, FORECAST, chunks, headers=headers))
        assert status == 413 and Problem.model_validate_json(body).error == "too_large"


def test_whoever_announces_more_than_is_heard_out_is_refused_at_once(app):
    headers = [*AUTH.items(), ("content-length", str(10**10))]
    status, answered, body = asyncio.run(asyncio.wait_for(ask(app, FORECAST, (5.0, b" "), headers=headers), 2))
    assert status == 413 and answered[b"connection"] == b"close"
    assert Problem.model_validate_json(body).error == "too_large"


@pytest.mark.slow
def test_bodies_that_are_too_large_hold_their_share_while_they_are_heard_out(app, monkeypatch):
    monkeypatch.setattr(limits, "_DRAINED_S", 0.3)
    headers = [*AUTH.items(), ("content-length", str(30 * MAX_BYTES))]

    async def attack():
        return await asyncio.gather(*(ask(app, FORECAST, (b" ", 5.0, b" "), headers=headers) for _ in range(100)))

    statuses = [status for status, *_ in asyncio.run(attack())]
    assert statuses.count(413) == 64 and statuses.count(429) == 36


@pytest.mark.parametrize("encoding", ["gzip", "br", "gzip, identity"])
def test_a_body_that_is_packed_is_refused(app, encoding):
    """It was read as if it were not: `invalid JSON` to whoever packed a good request."""
    packed = gzip.compress(BODY)
    headers = [*AUTH.items(), ("content-encoding", encoding)]
    status, _, body = asyncio.run(ask(app, FORECAST, [packed], headers=headers))
    assert status == 415 and Problem.model_validate_json(body).error == "unsupported_encoding"
    assert asyncio.run(ask(app, FORECAST, [BODY], headers=[*AUTH.items(), ("content-encoding", "identity")]))[0] == 200


def test_keys_sent_twice_are_refused(app):
    one, other = (("authorization", f"Bearer {key}") for key in (served.KEY, "another key of these"))
    for pair in ([one, other], [other, one], [one, one]):
        assert asyncio.run(ask(app, FORECAST, [BODY], headers=pair))[0] == 401
    twice = [one, (web.PERSON_KEY, "a"), (web.PERSON_KEY, "b")]
    assert asyncio.run(ask(app, FORECAST, [BODY], headers=twice))[0] == 422


def test_small_things_of_the_paths(app, client):
    for path in ("/v1/forecast/", "/healthz/", "/v1/model/"):
        answer = client.get(path, headers={"host": "evil.example"}, follow_redirects=False)
        assert answer.status_code == 404 and "location" not in answer.headers
    for path in ("/healthz", "/readyz"):
        answer = client.head(path)
        assert answer.status_code == 200 and not answer.content
    paths = client.get("/openapi.json").json()["paths"]
    assert all("405" in operation["responses"] for methods in paths.values() for operation in methods.values())


# --- sockets ----------------------------------------------------------------------------------------------------------

START = json.dumps({"channels": {"ppg": {"rate_hz": 100.0}}})


@pytest.mark.slow
def test_a_client_has_so_many_sockets(client):
    with ExitStack() as stack:
        for _ in range(64):
            stack.enter_context(client.websocket_connect(STREAM))
        with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect(STREAM):
            pass
        assert denied.value.status_code == 429 and denied.value.headers["retry-after"]
        assert client.get("/healthz").status_code == client.post(FORECAST, content=BODY).status_code == 200
    with client.websocket_connect(STREAM) as socket:
        socket.send_text(START)
        assert socket.receive_json()["windows"] == []


@pytest.mark.slow
def test_a_socket_that_says_nothing_is_closed_and_one_that_speaks_lives(client, monkeypatch):
    monkeypatch.setattr(web, "FIRST_MESSAGE_S", 0.05)
    with client.websocket_connect(STREAM) as socket:
        assert socket.receive_json()["error"] == "idle" and socket.receive()["code"] == 1008
    monkeypatch.setattr(web, "FIRST_MESSAGE_S", 5.0)
    monkeypatch.setattr(web, "IDLE_S", 0.3)
    with client.websocket_connect(STREAM) as socket:
        socket.send_text(START)
        for _ in range(5):
            socket.receive_json()
            time.sleep(0.1)
            socket.send_text(json.dumps({"channels": {"ppg": [0.0]}}))
        socket.receive_json()
        assert socket.receive_json()["error"] == "idle"


def test_a_binary_message_is_refused_in_words(client):
    with client.websocket_connect(STREAM) as socket:
        socket.send_bytes(START.encode())
        assert socket.receive_json()["error"] == "invalid_request" and socket.receive()["code"] == 1008


@pytest.mark.slow
def test_examples_fit_what_is_served(client):
    content = client.get("/openapi.json").json()["paths"][FORECAST]["post"]["requestBody"]["content"]
    assert np.shape(content["application/json"]["example"]["readings"]) == (288,)
