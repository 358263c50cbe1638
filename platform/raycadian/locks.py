"""One at a time, over threads, processes, machines and storage that they share: a file that is there while its holder
lives, and says who that is.

A lock of a process that has ended on this machine is taken over at once; of another machine once its holder has not
touched it for ten minutes. It holds what a file system promises to all its clients: that a file is made by one of them
alone.
"""

import errno
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from raycadian.errors import StorageError
from raycadian.files import mode_of, on_disk, own_folder, parse_json

STALE_S = 600.0
"""Without a sign of life from another machine, its lock is taken over: longer than storage may be away for."""
_BEAT_S = 20.0
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK}
_SETTLE_S = 0.5  # two that take over the same lock see within it which of them has it
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """machine: this start of it and the processes that see each other · began: of the process, in the kernel's ticks,
    since numbers of processes are used again · token: of this holding."""

    host: str
    machine: str
    pid: int
    began: int
    token: str

    @staticmethod
    def own() -> "Holder":
        return Holder(socket.gethostname(), _machine(), os.getpid(), _began(os.getpid()) or 0, uuid.uuid4().hex)

    @property
    def ended(self) -> bool | None:
        """Whether the process is gone; None where that can't be seen from here."""
        return _began(self.pid) != self.began if self.machine == _machine() else None


@contextmanager
def exclusive(path: Path, what: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock `path` during the block. `what`: is being done, for the others. Raises StorageError where another
    still does it after `wait_s`."""
    own, until = Holder.own(), time.monotonic() + wait_s
    with on_disk(path.parent):
        own_folder(path.parent)
        while not _acquired(path, own):
            if time.monotonic() >= until and path.exists():
                raise StorageError(_refusal(path, what))
            time.sleep(0.05)
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, own, done), daemon=True)
    beating.start()
    try:
        yield
    finally:
        done.set()
        beating.join()
        if _read(path) == own:
            path.unlink(missing_ok=True)


def _acquired(path: Path, own: Holder) -> bool:
    holder, there = _read(path), path.exists()
    if there and not _left_behind(path, holder):
        return False
    mine = path.with_name(f"{path.name}-{own.token}")
    mine.write_text(json.dumps(asdict(own)), encoding="utf-8")
    try:
        return _taken_over(path, holder, mine, own) if there else _linked(path, mine)
    finally:
        mine.unlink(missing_ok=True)


def _linked(path: Path, mine: Path) -> bool:
    """Make the lock with what it says in one step, so that nothing ends between the two."""
    try:
        os.link(mine, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _copied(path, mine)
    return True


def _copied(path: Path, mine: Path) -> bool:
    """The same in two steps, on a file system without links."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode_of(0o666))
    except FileExistsError:
        return False
    with os.fdopen(handle, "wb") as file:
        file.write(mine.read_bytes())
    return True


def _left_behind(path: Path, holder: Holder | None) -> bool:
    ended = None if holder is None else holder.ended
    return _silent_s(path) > STALE_S if ended is None else ended


def _taken_over(path: Path, holder: Holder | None, mine: Path, own: Holder) -> bool:
    """Put our lock in the place of one that was left behind. Of several who try, the last to do it has it."""
    if not path.exists() or _read(path) != holder:  # another was quicker
        return False
    mine.replace(path)
    time.sleep(_SETTLE_S)
    return _read(path) == own


def _beat(path: Path, own: Holder, done: threading.Event) -> None:
    """Signs of life until `done`; storage that is away for a while has its own patience."""
    while not done.wait(_BEAT_S):
        with suppress(OSError):
            if _read(path) != own:
                log.error("%s: the lock was taken over by another; two may be writing", path)
                return
            os.utime(path)


def _read(path: Path) -> Holder | None:
    """None while it is being written, or after it has gone."""
    try:
        return Holder(**parse_json(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _silent_s(path: Path) -> float:
    """Since the last sign of life, both by the clock of the file system."""
    probe = path.with_name(f"{path.name}-{uuid.uuid4().hex}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _refusal(path: Path, what: str) -> str:
    holder = _read(path)
    who = "another" if holder is None else f"process {holder.pid} on {holder.host}"
    return f"{who} is {what} already; wait for it or end it (its lock, {path}, goes with it)"


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return socket.gethostname()


def _began(pid: int) -> int | None:
    """When a process began; None of one that is gone, or has ended and waits for its parent."""
    if not Path("/proc/self").exists():  # no Linux
        return _answers(pid)
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state == "Z" else int(fields[18])


def _answers(pid: int) -> int | None:
    """0 of a living process, None of one that is gone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # somebody else's
        return 0
    return 0
