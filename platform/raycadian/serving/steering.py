"""Headers by which clients steer Ray Serve. It reads them before the application, and fails on what is no UTF-8."""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Any, Any], Awaitable[None]]

_HINTS = {b"x_request_id", b"x_session_id", b"serve_multiplexed_model_id"}
_ORDERS = {b"x_request_timeout_seconds", b"x_request_disconnect_disabled"}  # no client's to say
_PLAIN = re.compile(rb"[!-~]{1,128}")


def steered_plainly(app: Application) -> Application:
    """The application without those headers of a client's that are no plain hint."""

    async def answer(scope: Scope, receive: Any, send: Any) -> None:
        if "headers" in scope:
            scope["headers"] = [header for header in scope["headers"] if _harmless(*header)]
        await app(scope, receive, send)

    return answer


def _harmless(name: bytes, value: bytes) -> bool:
    known = name.lower().replace(b"-", b"_")
    return known not in _ORDERS and (known not in _HINTS or _PLAIN.fullmatch(value) is not None)
