"""A replica's own ports, with the Ray that is installed."""

import inspect

import pytest

from raycadian.serving import ports


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
