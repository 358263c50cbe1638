"""A replica's own ports, with the Ray that is installed."""

import asyncio
import inspect
from types import SimpleNamespace

import numpy as np
import pytest

from raycadian.serving import ports
from raycadian.serving.steering import steered_plainly


def test_ray_is_steered_by_plain_hints_alone():
    """Without a key, one byte that is no UTF-8 in any of them was a 500, and a time limit of a client's a 408."""
    seen = []

    async def application(scope, receive, send):
        seen.extend(scope["headers"])

    kept = [(b"x-request-id", b"abc-1"), (b"authorization", b"\xff"), (b"serve_multiplexed_model_id", b"0f3e")]
    names = (b"x-request-id", b"X-Session-Id", b"serve-multiplexed-model-id", b"serve_multiplexed-model_id")
    taken = [(name, value) for name in names for value in (b"\xff", b"a b", b"", b"x" * 129)]
    orders = [(b"x-request-timeout-seconds", b"0.001"), (b"x-request-disconnect-disabled", b"?1")]
    scope = {"type": "http", "headers": taken + kept + orders}
    asyncio.run(steered_plainly(application)(scope, None, None))
    assert seen == kept


@pytest.mark.slow
def test_a_batch_holds_fewer_who_send_much():
    """64 of three weeks each were computed at once: health waited for six seconds."""
    from raycadian.serving.deployment import BATCH, batch_size

    day, weeks, most = (SimpleNamespace(time_s=np.zeros(n)) for n in (288, 6048, 20_000))
    assert batch_size([day] * BATCH) == BATCH and batch_size([weeks] * 5) <= BATCH < batch_size([weeks] * 6)
    assert batch_size([most]) <= BATCH < batch_size([most] * 2)


@pytest.mark.slow
def test_a_replica_opens_its_ports_at_the_node_alone(monkeypatch):
    from ray.serve._private import http_util, replica

    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    for name in ("add_port_to_grpc_server", "start_asgi_http_server"):  # both are there, and are as before afterwards
        monkeypatch.setattr(replica, name, getattr(replica, name))
    ports.listen_at_node()
    assert (replica.add_port_to_grpc_server, replica.start_asgi_http_server) == (ports._add_port, ports._start_http)
    ours, theirs = (inspect.signature(f).parameters for f in (ports._start_http, http_util.start_asgi_http_server))
    assert list(ours) == list(theirs)
    bound = []

    class Server:
        def add_insecure_port(self, address):
            bound.append(address)
            return 1

    assert replica.add_port_to_grpc_server(Server(), "[::]:0") == 1 and bound == ["127.0.0.1:0"]
