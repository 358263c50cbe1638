"""Workers that map what they read of a table: the windows of the whole one, for a part of its disk."""

import os
import shutil
from types import SimpleNamespace

import helpers
import numpy as np
import pytest
import torch

from raycadian.config import Split, Training, Window
from raycadian.data.series import open_series
from raycadian.data.share import _union, _without, map_share
from raycadian.data.snapshot import Snapshot
from raycadian.data.split import make_split
from raycadian.data.stream import open_shards
from raycadian.data.windows import cut_windows
from raycadian.modalities.prepare import prepare
from raycadian.training.engines import Process
from raycadian.training.feed import Mapped, with_own_share
from raycadian.training.refused import TrainingRefused

CHANNELS = ("glucose_mgdl",)
WINDOW = Window(context=24, horizon=6)
CONFIG = Training(batch_size=64, workers=2)


class Alone(Process):
    """One of two, who doesn't wait for the other."""

    def gathered(self, text):
        return [text]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("share")
    return prepare(helpers.write_people(folder, n=9, days=7), folder / "snapshots")


@pytest.fixture
def snapshot(made, tmp_path):
    shutil.copytree(made.path, tmp_path / made.id)
    return Snapshot.open(tmp_path / made.id)


def windows_of(series):
    split = make_split(series.lengths, Split(kind="time"))
    return [cut_windows(series, split.of(part), WINDOW, 1) for part in ("train", "val")]


def to_map(snapshot):
    return open_shards(snapshot, CHANNELS, shuffle_bytes=30_000, to_map=True)


def test_a_worker_maps_what_it_reads_and_no_more(made, snapshot):
    whole, own = windows_of(open_series(made, CHANNELS)), windows_of(to_map(snapshot))
    folder = own[0].series.origin.folder
    for rank in (3, 5):
        process = Alone(rank, 8)
        train, val = with_own_share(*own, process)
        feeds = [Mapped(windows, CONFIG, process) for windows in (whole[0], train)]
        for ((one, n),), ((other, m),) in zip(*(feed.epoch(rank, rank) for feed in feeds), strict=True):
            assert n == m and torch.equal(one["past"], other["past"])
            assert torch.equal(one["target"].nan_to_num(-1), other["target"].nan_to_num(-1))
        index = torch.arange(len(val) * rank // 8, len(val) * (rank + 1) // 8)
        assert torch.equal(val.batch(index)["past"], whole[1].batch(index)["past"])
        with pytest.raises(AssertionError, match="points of another worker"):
            val.batch(torch.tensor([len(val) - 1]))
        assert np.diff(val.series.present).sum() < (0.2 if rank == 3 else 0.4) * len(val.series)
    assert not folder.exists()


def test_a_whole_table_that_is_there_is_mapped(made):
    series = open_series(made, CHANNELS)
    assert map_share(to_map(made), np.array([[0, 9]])).table.filename == series.table.filename


def test_a_share_that_was_written_to_is_built_again(snapshot, caplog):
    series, needed = to_map(snapshot), np.array([[100, 300], [2000, 4000]])
    first = map_share(series, needed)
    before, folder = first.values(2000, 4000).copy(), first.origin.folder
    table = folder.with_name(f"{folder.name}-share") / "table.npy"
    assert table.stat().st_blocks * 512 < 0.4 * table.stat().st_size  # the rest is holes
    with table.open("r+b") as file:
        file.seek(128 + 4 * 2100)
        file.write(b"\xff")
    os.utime(file.name, ns=(0, 0))
    again = map_share(series, needed)
    assert np.array_equal(again.values(2000, 4000), before, equal_nan=True) and "it is built again" in caplog.text
    assert again.present.tolist() == needed.tolist()


def test_a_disk_without_room_refuses_the_training(snapshot, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000, total=2000))
    with pytest.raises(TrainingRefused, match=r"its workers read of the table takes .*training.data=streamed"):
        with_own_share(*windows_of(to_map(snapshot)), Alone(0, 2))


def test_ranges_are_joined_and_taken_apart():
    present = _union(np.array([[5, 9], [0, 2]]), np.array([[2, 3], [8, 12]]))
    assert present.tolist() == [[0, 3], [5, 12]]
    assert _without(np.array([[1, 6], [11, 20], [30, 31]]), present).tolist() == [[3, 5], [12, 20], [30, 31]]
    assert _without(np.array([[1, 3], [6, 12]]), present).shape == (0, 2)
