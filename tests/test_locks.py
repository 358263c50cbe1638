"""One holder at a time, over processes and machines; what a holder left behind is taken over by one alone."""

import errno
import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict, replace

import pytest

from raycadian import locks
from raycadian.errors import StorageError
from raycadian.locks import Holder, exclusive


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.lock"


def left(path, holder, silent_s=0.0):
    path.write_text(json.dumps(asdict(holder)))
    now = path.stat().st_mtime
    os.utime(path, (now - silent_s, now - silent_s))


def is_free(path):
    try:
        with exclusive(path, "at work"):
            return True
    except StorageError:
        return False


def ended_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_lock_is_held_once_and_leaves_nothing(path):
    with exclusive(path, "at work"):
        assert not is_free(path)
        with (
            pytest.raises(StorageError, match=f"process {os.getpid()} on .* is at work already"),
            exclusive(path, "at work"),
        ):
            pass
    assert is_free(path) and not list(path.parent.iterdir())


def test_of_this_machine_an_ended_process_lets_go_at_once(path, monkeypatch):
    monkeypatch.setattr(locks, "_SETTLE_S", 0.0)
    left(path, replace(Holder.own(), pid=ended_pid()))
    assert is_free(path)
    left(path, replace(Holder.own(), began=1))  # its number is another's by now
    assert is_free(path)


def test_of_another_machine_silence_decides(path, monkeypatch):
    """Its processes' numbers mean nothing here: 52 of 60 rounds let both in where they did."""
    monkeypatch.setattr(locks, "_SETTLE_S", 0.0)
    other = replace(Holder.own(), machine="another", host="node-2", pid=ended_pid())
    left(path, other, silent_s=locks.STALE_S - 60)
    with pytest.raises(StorageError, match="on node-2 is at work"), exclusive(path, "at work"):
        pass
    left(path, other, silent_s=locks.STALE_S + 60)
    assert is_free(path)


def test_a_lock_that_nobody_finished_writing_is_held_until_it_is_stale(path):
    path.touch()
    assert not is_free(path)


def test_a_holder_gives_signs_of_life(path, monkeypatch):
    monkeypatch.setattr(locks, "_BEAT_S", 0.01)
    with exclusive(path, "at work"):
        os.utime(path, (0, 0))
        for _ in range(500):
            if path.stat().st_mtime > 0:
                break
            threading.Event().wait(0.01)
        assert path.stat().st_mtime > 0


def no_links(*names):
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("stale", [False, True])
def test_of_many_at_once_one_gets_in(path, stale, links, monkeypatch):
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(locks, "_SETTLE_S", 0.1)
    inside, most = [], []

    def enter():
        barrier.wait()
        try:
            with exclusive(path, "at work"):
                inside.append(1)
                most.append(len(inside))
                threading.Event().wait(0.02)
                inside.pop()
        except StorageError:
            pass

    for _ in range(3):
        if stale:
            left(path, replace(Holder.own(), began=1))
        barrier = threading.Barrier(8)
        threads = [threading.Thread(target=enter) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert set(most) == {1} and len(most) >= 3
