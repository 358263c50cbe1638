"""Which run an endpoint ought to serve, asked of the registry as long as it serves. No Ray, no HTTP."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from raycadian.errors import RegistryError
from raycadian.runs import Run

_MOST_S = 30.0  # between two looks at a registry that doesn't answer, or two tries of a run that was rejected


class Promotable(Protocol):
    """A running endpoint."""

    @property
    def run(self) -> Run: ...

    def promote(self, run: Run) -> "Promotable":
        """Raises ValueError where the old run goes on."""
        ...

    def note_following(self, following: str | None) -> "Promotable": ...


class Follower:
    """Takes a new champion over. Nothing that goes wrong with the registry, or with the run that it names, ends the
    endpoint: what is loaded goes on, it is said, and it is tried again, each time after a longer wait.

    wait_s: until the next look.
    """

    def __init__(
        self, server: Promotable, follow: Callable[[], Run], tell: Callable[[str], None], every_s: float,
        clock: Callable[[], float] = time.monotonic,
    ):  # fmt: skip
        self.server, self.wait_s = server, every_s
        self._follow, self._tell, self._every_s, self._clock = follow, tell, every_s, clock
        self._unread = 0  # looks in a row at a registry that didn't answer
        self._rejected: Path | None = None
        self._tries, self._again_s = 0, 0.0

    def look(self) -> None:
        """Ask once, and take over what is new."""
        try:
            wanted = self._follow()
        except Exception as error:  # whatever a registry, its disk or its network raises
            self._unreadable(error)
            return
        self._readable()
        if wanted.path != self.server.run.path and not self._waits(wanted):
            self._take_over(wanted)

    def _unreadable(self, error: Exception) -> None:
        self._unread += 1
        self.wait_s = _after(self._unread, self._every_s)
        message = _reason(error)
        if self._unread == 1:
            self._tell(f"{message}; {self.server.run.name} goes on, the next look is in {self.wait_s:g} s")
            self._say(message)

    def _readable(self) -> None:
        self.wait_s = self._every_s
        if self._unread:
            self._unread = 0
            self._tell("the champion can be read again")
            self._say(None)

    def _say(self, following: str | None) -> None:
        """In /v1/model; an endpoint that can't be told is no reason to end it."""
        try:
            self.server = self.server.note_following(following)
        except Exception as error:
            self._tell(f"/v1/model can't be told: {error or type(error).__name__}")

    def _waits(self, wanted: Run) -> bool:
        return wanted.path == self._rejected and self._clock() < self._again_s

    def _take_over(self, wanted: Run) -> None:
        try:
            self.server = self.server.promote(wanted)
        except Exception as error:
            self._tries = self._tries + 1 if wanted.path == self._rejected else 1
            self._rejected = wanted.path
            self._again_s = self._clock() + _after(self._tries, self._every_s)
            self._tell(f"promotion failed, {self.server.run.name} goes on: {error or type(error).__name__}")
            return
        self._rejected = None
        self._tell(f"promoted in place: {wanted.name}")


def _reason(error: Exception) -> str:
    """Of a registry that answered it says itself what is wrong: no such champion, or its folder is gone."""
    if isinstance(error, ValueError) and not isinstance(error, RegistryError):
        return str(error)
    return f"the registry can't be read: {error or type(error).__name__}"


def _after(failures: int, every_s: float) -> float:
    return min(every_s * 2.0 ** min(failures, 30), max(_MOST_S, every_s))
