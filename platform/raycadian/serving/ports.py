"""Where a replica's own ports listen: at the node's address, which is this machine's loopback interface unless other
nodes have joined. What is in front of the replicas reaches them there, and nobody gets past it."""

from typing import Any

from raycadian.serving.steering import steered_plainly


def listen_at_node() -> None:
    """In a replica's process, before its ports are opened: Ray Serve 2.60 would open one for calls among replicas on
    every interface, and one for requests where clients come in."""
    from ray.serve._private import replica

    replica.add_port_to_grpc_server = _add_port
    replica.start_asgi_http_server = _start_http


def _add_port(server: Any, address: str) -> int:
    from ray._common.network_utils import build_address
    from ray._common.tls_utils import add_port_to_grpc_server
    from ray.util import get_node_ip_address

    return add_port_to_grpc_server(server, build_address(get_node_ip_address(), int(address.rsplit(":", 1)[1])))


async def _start_http(app: Any, http_options: Any, *, event_loop: Any, enable_so_reuseport: bool) -> Any:
    from ray.serve._private.http_util import start_asgi_http_server
    from ray.util import get_node_ip_address

    own = http_options.model_copy(update={"host": get_node_ip_address()})
    app = steered_plainly(app)
    return await start_asgi_http_server(app, own, event_loop=event_loop, enable_so_reuseport=enable_so_reuseport)
