"""Where a replica's own port listens: at the node's address, which is this machine's loopback interface unless other
nodes have joined."""

from __future__ import annotations

from typing import Any


def listen_at_node() -> None:
    """In a replica's process, before its port is opened: Ray Serve 2.60 would open it on every interface."""
    from ray.serve._private import replica

    replica.add_port_to_grpc_server = _add_port


def _add_port(server: Any, address: str) -> int:
    from ray._common.network_utils import build_address
    from ray._common.tls_utils import add_port_to_grpc_server
    from ray.util import get_node_ip_address

    return add_port_to_grpc_server(server, build_address(get_node_ip_address(), int(address.rsplit(":", 1)[1])))
