"""Windows of a series in shards are those of the mapped one, whatever is asked of them."""

import pickle
import shutil
from dataclasses import replace

import helpers
import numpy as np
import pytest
import torch

from raycadian.config import CMAMechanism, Split, Window
from raycadian.data import stream
from raycadian.data.mechanism import fit_mechanism
from raycadian.data.series import open_series
from raycadian.data.snapshot import Snapshot
from raycadian.data.split import make_split
from raycadian.data.stream import open_shards
from raycadian.data.training_range import TrainingRange
from raycadian.data.windows import cut_windows
from raycadian.modalities.prepare import prepare

CHANNELS = ("glucose_mgdl",)
WINDOW = Window(context=24, horizon=6)
CARD = "name: tiny\nfiles: [tiny.csv]\nunit: mg/dL\ncolumns: {subject: subject, time: time, glucose: glucose}\n"


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    helpers.write_csv(folder / "tiny.csv", n=9, days=3)
    (folder / "tiny.yaml").write_text(CARD)
    return prepare(folder / "tiny.yaml", folder / "snapshots")


@pytest.fixture(scope="module")
def both(snapshot):
    """The mapped series, and one of nine shards of which a few are in memory."""
    sharded = open_shards(snapshot, CHANNELS, shuffle_bytes=30_000)
    assert len(sharded.shards) == 9
    return open_series(snapshot, CHANNELS), sharded


def test_the_index_and_what_was_measured_are_those_of_the_table(both):
    mapped, sharded = both
    for name in ("offsets", "subject_of", "number_of", "start_s", "utc_offset_min"):
        assert np.array_equal(getattr(mapped, name), getattr(sharded, name)), name
    assert (len(sharded), sharded.lengths, sharded.subjects) == (len(mapped), mapped.lengths, mapped.subjects)
    rng = np.random.default_rng(0)
    for begin, stop in np.sort(rng.integers(0, len(mapped), (50, 2)), axis=1).tolist():
        assert np.array_equal(sharded.measured(begin, stop), mapped.measured(begin, stop))
    assert np.array_equal(sharded.measured(0, len(mapped)), mapped.observed)


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_scans_the_same(ray_local, snapshot, both):
    origin, people = both[1].origin, [list(shard.subjects) for shard in both[1].shards]
    here, there = stream._scan_here(snapshot, origin, people), stream.scan_on_ray(snapshot, origin, people)
    for one, other in zip(here, there, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one) and one.keys() == other.keys()


@pytest.mark.parametrize("kind", ["hybrid", "time", "subject"])
@pytest.mark.parametrize("anchor", ["any", "midnight", "estimated_meal"])
def test_the_same_windows_in_the_same_order(both, kind, anchor):
    split = make_split(both[0].lengths, Split(kind=kind))
    for part in ("train", "test"):
        one, other = (cut_windows(series, split.of(part), WINDOW, 2, anchor=anchor) for series in both)
        index = torch.from_numpy(np.random.default_rng(1).permutation(len(one))[:200])
        assert len(one) == len(other)
        require_equal(one.batch(index), other.batch(index))
        for a, b in zip(one.batches(300), other.batches(300), strict=True):
            require_equal(a, b)


def test_fits_statistics_and_ranges_are_the_same(both):
    split = make_split(both[0].lengths, Split(kind="hybrid"))
    config = CMAMechanism(min_days=1.0)
    fits = [fit_mechanism(series, config, 30, train=split.of("train")) for series in both]
    assert fits[0].records == fits[1].records
    one, other = (cut_windows(s, split.of("train"), WINDOW, 2, m) for s, m in zip(both, fits, strict=True))
    require_equal(one.batch(torch.arange(500)), other.batch(torch.arange(500)))
    sent = pickle.loads(pickle.dumps(other))
    require_equal(sent.batch(torch.arange(500)), other.batch(torch.arange(500)))
    assert TrainingRange.of(both[0], split.of("train")) == TrainingRange.of(both[1], split.of("train"))


def test_shards_that_are_held_are_one_table(both):
    mapped, sharded = both[0], replace(both[1])
    train = make_split(mapped.lengths, Split(kind="time")).of("train")
    windows = [cut_windows(series, train, WINDOW, 2) for series in (mapped, sharded)]
    before, after = windows[1].begun_before(sharded.edges[[2, 3]]), windows[1].begun_before(sharded.edges[[6, 7]])
    index = torch.tensor(np.random.default_rng(3).permutation(np.r_[slice(*before), slice(*after)]))
    sharded.parts.hold((6, 2), (4,))
    require_equal(windows[0].batch(index), windows[1].batch(index))
    table = sharded.parts.joined(np.array([2, 6])).table
    assert all(np.shares_memory(sharded.parts[number].table, table) for number in (6, 2))  # held once
    begin = int(sharded.edges[6])
    assert np.array_equal(sharded.values(begin, begin + 9), mapped.values(begin, begin + 9), equal_nan=True)
    require_equal(windows[0].batch(torch.arange(300)), windows[1].batch(torch.arange(300)))  # others beside them


def test_memory_holds_what_fits_and_another_process_begins_with_none(both):
    sharded = both[1]
    windows = cut_windows(sharded, make_split(sharded.lengths, Split(kind="time")).of("train"), WINDOW, 1)
    list(windows.batches(500))
    held = sum(sharded.sizes[number] for number in sharded.parts._read)
    assert 0 < held <= 2 * sharded.shuffle_bytes
    sharded.parts.clear()
    assert not sharded.parts._read and len(windows.batch(torch.arange(9))["past"]) == 9  # read anew
    sent = pickle.dumps(windows)
    assert len(sent) < 10_000 < sharded.sizes.sum()
    require_equal(pickle.loads(sent).batch(torch.arange(9)), windows.batch(torch.arange(9)))


@pytest.mark.parametrize("ruin", [lambda path: path.write_bytes(path.read_bytes()[:100]), lambda path: path.unlink()])
def test_a_shard_that_is_gone_is_an_error_that_says_so(snapshot, tmp_path, ruin):
    copy = tmp_path / snapshot.path.name
    shutil.copytree(snapshot.path, copy)
    sharded = open_shards(type(snapshot).open(copy), CHANNELS, shuffle_bytes=30_000)
    windows = cut_windows(sharded, make_split(sharded.lengths, Split(kind="time")).of("train"), WINDOW, 1)
    for path in copy.rglob("*.parquet"):
        ruin(path)
    with pytest.raises(ValueError, match=r"tiny.*run `raycadian prepare"):
        windows.batch(torch.tensor([0]))


def require_equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(torch.nan_to_num(value, nan=-1.0), torch.nan_to_num(other[name], nan=-1.0)), name


@pytest.mark.slow
def test_storage_that_is_away_for_a_moment_is_asked_again(both, monkeypatch):
    sharded = replace(both[1])  # nothing read yet
    tried = []

    def away_at_first(*arguments):
        tried.append(1)
        if len(tried) == 1:
            raise OSError("503 Slow Down")
        return read(*arguments)

    read = stream.read_people
    monkeypatch.setattr(stream, "read_people", away_at_first)
    assert np.array_equal(sharded.values(0, 100), both[0].values(0, 100), equal_nan=True)
    assert len(tried) == 2


@pytest.mark.parametrize("damage", ["cut", "a byte", "other arrays"])
def test_a_damaged_scan_is_made_again(snapshot, tmp_path, caplog, damage):
    shutil.copytree(snapshot.path, tmp_path / snapshot.id)
    copy = Snapshot.open(tmp_path / snapshot.id)
    first = open_shards(copy, CHANNELS, shuffle_bytes=30_000)
    (scan,) = (tmp_path / ".cache").glob("*.scan.npz")
    body = bytearray(scan.read_bytes())
    body[len(body) // 3] ^= 0xFF
    scan.write_bytes(body[:-40] if damage == "cut" else body)
    if damage == "other arrays":
        np.savez(scan, other=np.zeros(3))
    again = open_shards(copy, CHANNELS, shuffle_bytes=30_000)
    assert np.array_equal(again.flips, first.flips) and np.array_equal(again.offsets, first.offsets)
    assert "the snapshot is scanned again" in caplog.text
