"""What a client may hold of a replica, and for how long: bodies that come slowly, work, sockets.

A body that comes within a second holds no slot, so that slow ones never keep it out; health holds none either. Large
bodies are read and answered a few at a time and off the event loop.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

from fastapi import Request
from starlette.requests import ClientDisconnect, HTTPConnection

from raycadian.serving.schemas import Refused

_QUICK_S = 1.0
_SLOWEST_BYTES_PER_S = 100_000
_PATIENCE_S = 10.0  # for a slow body in all, beside the time that the bytes which it announces may take
_DRAINED_BYTES, _DRAINED_S = 64_000_000, 10.0
SMALL_BYTES = 50_000  # read on the event loop: for a day of readings a thread takes as long
HEAVY_BYTES = 300_000
_HEAVY, _HEAVY_WAITING, _HEAVY_WAIT_S = 2, 32, 45.0
ANSWER_S = 60.0
FIRST_MESSAGE_S, IDLE_S = 10.0, 60.0
"""Of a stream: until its first message; until the next one."""


@dataclass
class Slots:
    """Places of a kind: `most` of all, `of_client` of one address."""

    what: str
    most: int
    of_client: int
    held: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def taken(self, client: str) -> Iterator[None]:
        """A place for the length of a block. Raises Refused: 429 where the client has all that one may have, 503 where
        nobody may have another."""
        if self.held[client] >= self.of_client:
            raise busy(429, f"this address has {self.of_client} {self.what} open, as many as one may")
        if self.held.total() >= self.most:
            raise busy(503, f"{self.most} {self.what} are open, as many as there may be")
        self.held[client] += 1
        try:
            yield
        finally:
            self.held[client] -= 1
            if not self.held[client]:
                del self.held[client]


class Limits:
    """Of one replica."""

    def __init__(self) -> None:
        self.slow = Slots("bodies that come slowly", 256, 64)
        self.sockets = Slots("streams", 256, 64)
        self._most_work, self._working = 1024, 0
        self._heavy, self._heavy_waiting = asyncio.Semaphore(_HEAVY), 0

    async def body(self, request: Request, most: int, enough: str) -> bytes:
        """The body, at most `most` bytes. Raises Refused: 413 for more, after what is still sent was read, so that the
        answer is seen, or at once where that is too much too; 408 where it comes too slowly; 415 where it is packed."""
        _require_plain(request)
        announced, body = _announced(request), bytearray()
        try:
            if announced > most:
                raise _TooMuch(f"{announced:,}", more=True)
            if not await _within(_QUICK_S, _read(request, body, most)):
                await self._slow_body(request, body, most, announced)
        except _TooMuch as error:
            # who expects an answer sends nothing before it
            if error.more and announced <= _DRAINED_BYTES and "expect" not in request.headers:
                with self.slow.taken(client_of(request)):
                    await _drained(request, len(body))
            detail = f"the body may have {most:,} bytes, found {error.sent}; {enough}"
            raise Refused(413, "too_large", detail, {"Connection": "close"}) from None
        return bytes(body)

    async def _slow_body(self, request: Request, body: bytearray, most: int, announced: int) -> None:
        """The rest of it. A body that announces no length may be as long as any."""
        with self.slow.taken(client_of(request)):
            patience_s = _PATIENCE_S + (announced or most) / _SLOWEST_BYTES_PER_S
            if not await _within(patience_s - _QUICK_S, _read(request, body, most)):
                expected = f", {announced:,} were announced" if announced else ""
                detail = f"{len(body):,} bytes came in {patience_s:.3g} s{expected}; send the body at once"
                raise Refused(408, "too_slow", detail, {"Connection": "close"})

    @asynccontextmanager
    async def work(self, n_bytes: int) -> AsyncIterator[None]:
        """A place among those who are answered; large bodies wait for their turn. Raises Refused."""
        if self._working >= self._most_work:
            raise busy(503, f"{self._most_work:,} requests wait, as many as may")
        self._working += 1
        try:
            if n_bytes <= HEAVY_BYTES:
                yield
            else:
                async with self._heavy_turn():
                    yield
        finally:
            self._working -= 1

    @asynccontextmanager
    async def _heavy_turn(self) -> AsyncIterator[None]:
        if self._heavy_waiting >= _HEAVY_WAITING:
            raise busy(503, f"{_HEAVY_WAITING} large bodies wait, as many as may")
        self._heavy_waiting += 1
        try:
            if not await _within(_HEAVY_WAIT_S, self._heavy.acquire()):
                raise busy(503, "other large bodies take too long")
        finally:
            self._heavy_waiting -= 1
        try:
            yield
        finally:
            self._heavy.release()


def busy(status: int, detail: str) -> Refused:
    return Refused(status, "too_many" if status == 429 else "busy", f"{detail}; ask again", {"Retry-After": "2"})


def client_of(connection: HTTPConnection) -> str:
    """The address that is asking; HAProxy before us says it."""
    return connection.client.host if connection.client else ""


def _require_plain(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        detail = f"Content-Encoding {encoding[:40]!r} is not read; send the JSON as it is"
        raise Refused(415, "unsupported_encoding", detail, {"Accept-Encoding": "identity", "Connection": "close"})


def _announced(request: Request) -> int:
    """Bytes of the body by its header, 0 where that says nothing."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() else 0


class _TooMuch(Exception):
    """More bytes than a body may have: how many were `sent`, in words, and whether `more` come."""

    def __init__(self, sent: str, more: bool):
        super().__init__(sent)
        self.sent, self.more = sent, more


async def _within(seconds: float, wanted) -> bool:
    """Whether an awaitable ended within that time; else it is cancelled."""
    try:
        async with asyncio.timeout(seconds) as limit:
            await wanted
    except TimeoutError:
        if not limit.expired():
            raise
        return False
    return True


async def _read(request: Request, body: bytearray, most: int) -> None:
    """The rest of a body. Not `request.stream()`, which can't be taken up again after a timeout."""
    more = True
    while more:
        message = await _message(request)
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > most:
            raise _TooMuch("more", more)


async def _drained(request: Request, n_bytes: int) -> None:
    """Take what is still sent, up to a bound, and keep nothing of it."""

    async def drain() -> None:
        left, more = _DRAINED_BYTES - n_bytes, True
        while more and left > 0:
            message = await _message(request)
            left -= len(message.get("body", b""))
            more = message.get("more_body", False)

    with suppress(ClientDisconnect):
        await _within(_DRAINED_S, drain())


async def _message(request: Request) -> dict:
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect()
    return message
