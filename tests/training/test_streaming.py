"""Streamed training: what an epoch has, whatever the shards, the processes and the batch; the same models as mapped."""

import shutil

import helpers
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raycadian.config import Recipe, Training, parse
from raycadian.data.snapshot import Snapshot
from raycadian.modalities.prepare import prepare
from raycadian.tasks import task_of
from raycadian.training.engines import Process
from raycadian.training.feed import Streamed, read_here
from raycadian.training.order import StreamOrder, deal
from raycadian.training.pipeline import fit_model, load_data

SMALL = {"epochs": 2, "batch_size": 64, "device": "cpu", "precision": "fp32", "data": "streamed", "shuffle_mb": 0.03}
CARD = "name: tiny\nfiles: [tiny.csv]\nunit: mg/dL\ncolumns: {subject: subject, time: time, glucose: glucose}\n"


def orders(counts, world, batch, seed=7, held=3):
    """Of every rank, over shards of `counts` windows and one byte each, `held` of which are shuffled together."""
    edges, sizes = np.cumsum([0, *counts]), np.ones(len(counts), int)
    dealt = deal(sum(counts), world, batch)
    return dealt, [StreamOrder(edges, sizes, held, dealt, seed, rank) for rank in range(world)]


def shown(order, epoch):
    return np.concatenate([order.windows(epoch, group).numpy() for group in order.groups(epoch)])


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 6), st.integers(1, 50), st.integers(0, 3),
    st.integers(1, 5),
)  # fmt: skip
@pytest.mark.slow
def test_none_comes_twice_and_less_than_a_step_is_left_out(counts, world, batch, epoch, held):
    if min(sum(counts), batch) < world:
        with pytest.raises(ValueError, match="need a window each"):
            deal(sum(counts), world, batch)
        return
    dealt, ranks = orders(counts, world, batch, held=held)
    seen = [shown(order, epoch) for order in ranks]
    assert {len(own) for own in seen} == {dealt.steps * dealt.share}  # no rank waits for another
    together = np.concatenate(seen)
    assert len(np.unique(together)) == len(together) == dealt.used
    assert together.min() >= 0 and together.max() < sum(counts)
    assert 0 <= dealt.left_out < world * dealt.share <= batch
    for order, own in zip(orders(counts, world, batch, held=held)[1], seen, strict=True):
        assert np.array_equal(shown(order, epoch), own)  # the order is of the seed, the epoch and the world


def test_epochs_and_seeds_differ_in_their_order_and_in_what_they_leave_out():
    counts = [50] * 9
    _, (one, _) = orders(counts, 2, 64)
    _, (other, _) = orders(counts, 2, 64, seed=8)
    assert not np.array_equal(shown(one, 1), shown(one, 2)) and not np.array_equal(shown(one, 1), shown(other, 1))
    left = [
        set(range(450)) - {int(w) for order in orders(counts, 2, 64)[1] for w in shown(order, epoch)}
        for epoch in (1, 2)
    ]
    assert left[0] and left[0] != left[1]


def test_a_group_reads_no_more_than_memory_holds():
    _, ranks = orders([30] * 20, 2, 16, held=4)
    groups = [list(order.groups(1)) for order in ranks]
    assert all(len(group.pieces) <= 4 for own in groups for group in own)
    read = [{shard for group in own for shard, _, _ in group.pieces} for own in groups]
    assert len(read[0] & read[1]) <= 1  # but for one at the border each reads its own


@pytest.mark.parametrize("sizes", [[5, 3, 0, 1, 20], [1] * 9, [8, 8], [3]])
def test_chunks_of_any_size_make_batches_of_one(sizes):
    from raycadian.training.ray_feed import in_batches

    rows = torch.arange(sum(sizes))
    batches = list(in_batches(({"past": part} for part in rows.split(sizes)), 4))
    assert all(len(batch["past"]) == 4 for batch in batches)
    together = torch.cat([batch["past"] for batch in batches] or [rows[:0]])
    assert torch.equal(together, rows[: sum(sizes) // 4 * 4])


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("known", [[], ["hour_sin"]])
def test_ray_data_shows_what_this_process_reads(ray_local, snapshots, known):
    from raycadian.training.ray_feed import read_on_ray

    own = recipe(snapshots, {"kind": "residual", "mechanism": {"kind": "cma"}, "inner": {"kind": "ridge"}}, known=known)
    data = load_data(own, snapshots)
    train = task_of(own).cut(data, own).train
    for rank in (0, 1):
        feeds = [Streamed(train, own.training, Process(rank, 2), read) for read in (read_here, read_on_ray)]
        for ((one, _),), ((other, _),) in zip(*(feed.epoch(1, 1) for feed in feeds), strict=True):
            assert one.keys() == other.keys() >= {"mechanism", "known", "past"}
            for name, value in one.items():
                assert torch.equal(torch.nan_to_num(value), torch.nan_to_num(other[name])), name


@pytest.mark.ray
@pytest.mark.slow
def test_what_ray_datas_tasks_cannot_read_is_told_in_one_line(ray_local, snapshots, tmp_path):
    from raycadian.training.ray_feed import read_on_ray

    shutil.copytree(snapshots.parent, tmp_path / "copy")
    snapshots = tmp_path / "copy" / "snapshots"
    own = recipe(snapshots)
    feed = Streamed(windows_of(own, snapshots), own.training, Process(), read_on_ray)
    for path in snapshots.rglob("*.parquet"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"tiny.*run `raycadian prepare` again.*") as told:
        list(feed.epoch(1, 1))
    assert "\n" not in str(told.value)


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streaming")
    helpers.write_csv(folder / "tiny.csv", n=6, days=3)
    (folder / "tiny.yaml").write_text(CARD)
    prepare(folder / "tiny.yaml", folder / "snapshots")
    return folder / "snapshots"


def recipe(snapshots, model="ridge", known=("hour_sin", "hour_cos"), **training):
    return parse(Recipe, {
        "name": "tiny", "dataset": str(snapshots.parent / "tiny.yaml"), "split": {"kind": "hybrid"},
        "window": {"context": 24, "horizon": 6, "known": list(known)},
        "model": model if isinstance(model, dict) else {"kind": model},
        "training": SMALL | training,
    })  # fmt: skip


def windows_of(own, snapshots):
    return task_of(own).windows(load_data(own, snapshots), own, "train")


def test_statistics_and_closed_forms_are_those_of_the_table(snapshots):
    fitted = {}
    for mode in ("mapped", "streamed"):
        own = recipe(snapshots, data=mode)
        data = load_data(own, snapshots)
        assert data.reading.record == {"mode": mode, "why": "the recipe says so"}
        fitted[mode] = fit_model(data, own)
    one, other = (f.model.state_dict() for f in fitted.values())
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert fitted["mapped"].trained.history[0]["val/rmse"] == fitted["streamed"].trained.history[0]["val/rmse"]


@pytest.mark.slow
def test_a_network_learns_from_shards_as_from_a_table(snapshots):
    mlp = {"kind": "mlp", "hidden": 16, "lags": 12}
    rmse, told = {}, {}
    for mode in ("mapped", "streamed"):
        own = recipe(snapshots, mlp, data=mode, epochs=6, lr=0.01)
        trained = fit_model(load_data(own, snapshots), own).trained
        rmse[mode], told[mode] = min(row["val/rmse"] for row in trained.history), trained.history[0]
    assert rmse["streamed"] == pytest.approx(rmse["mapped"], rel=0.05)
    dealt = deal(int(told["mapped"]["windows"]), 1, 64)
    assert told["streamed"]["windows"] == dealt.used and 0 <= told["streamed"]["data/wait"] < 1
    assert told["streamed"]["data/bytes"] > 0
    assert told["mapped"]["data/bytes"] == told["mapped"]["windows"] * 4 * (24 + 6)  # float32 of context and horizon


@pytest.mark.slow
def test_going_on_is_exact(snapshots, tmp_path):
    mlp = {"kind": "mlp", "hidden": 8, "lags": 12}
    own = recipe(snapshots, mlp, epochs=3, schedule="constant", early_stopping=None)
    data = load_data(own, snapshots)
    whole = fit_model(data, own).trained
    first = own.model_copy(update={"training": own.training.model_copy(update={"epochs": 1})})
    fit_model(data, first, state=tmp_path)
    resumed = fit_model(data, own, state=tmp_path).trained
    assert [row["val/rmse"] for row in resumed.history] == [row["val/rmse"] for row in whole.history]


@pytest.mark.parametrize(("shuffle_mb", "world", "shards"), [(5.0, 4, 1), (0.001, 5, 6)])
def test_more_workers_than_shards_and_as_many_as_people(snapshots, shuffle_mb, world, shards):
    own = recipe(snapshots, shuffle_mb=shuffle_mb, batch_size=50)
    windows = windows_of(own, snapshots)
    assert len(windows.series.shards) == shards
    feeds = [Streamed(windows, own.training, Process(rank, world), read_here) for rank in range(world)]
    seen = [torch.stack([batch["subject"], batch["time_s"]]) for feed in feeds for ((batch, _),) in feed.epoch(1, 1)]
    together = torch.cat(seen, dim=1)
    assert together.unique(dim=1).shape[1] == together.shape[1] == feeds[0].windows
    assert len(windows) - 50 < feeds[0].windows <= len(windows)


def test_batches_mix_people_even_where_there_are_two_shards(snapshots):
    own = recipe(snapshots, shuffle_mb=0.2)
    windows = windows_of(own, snapshots)
    assert len(windows.series.shards) <= 3
    feed = Streamed(windows, own.training, Process(), read_here)
    for ((batch, _),) in feed.epoch(1, 1):
        assert len(batch["subject"].unique()) >= 4  # of the five who train


def test_micro_batches_are_the_batch(snapshots):
    own = recipe(snapshots, accumulate=3)
    windows = windows_of(own, snapshots)
    whole = Streamed(windows, own.training.model_copy(update={"accumulate": 1}), Process(), read_here)
    for parts, ((batch, n),) in zip(
        Streamed(windows, own.training, Process(), read_here).epoch(2, 2), whole.epoch(2, 2), strict=True
    ):
        assert sum(count for _, count in parts) == n == 64
        assert torch.equal(torch.cat([part["time_s"] for part, _ in parts]), batch["time_s"])


def test_auto_says_what_it_chose_and_why(snapshots, monkeypatch):
    import psutil

    from raycadian.data import reading

    own = recipe(snapshots, data="auto")
    assert load_data(own, snapshots).reading.mode == "mapped"
    memory = psutil.virtual_memory()._replace(total=20_000)
    monkeypatch.setattr(reading.psutil, "virtual_memory", lambda: memory)
    chosen = load_data(own, snapshots).reading
    assert chosen.mode == "streamed"
    assert chosen.why.startswith("its table of ") and chosen.why.endswith("GB that may be used of the memory")


@pytest.mark.parametrize(("workers", "mode"), [(16, "mapped"), ((2, 16), "streamed")])
def test_auto_asks_of_several_nodes_for_the_share_of_one(snapshots, monkeypatch, workers, mode):
    """Four of sixteen workers fit a node; of two that may be all that there are, both do."""
    from raycadian.data import reading

    (snapshot,) = (Snapshot.open(folder) for folder in snapshots.glob("tiny-*"))
    monkeypatch.setattr(reading.storage, "remote", lambda path: True)
    monkeypatch.setattr(reading.cluster, "largest_node", lambda: 4.0)
    memory = reading.psutil.virtual_memory()._replace(total=int(sum(map(sum, snapshot.lengths.values())) * 9))
    monkeypatch.setattr(reading.psutil, "virtual_memory", lambda: memory)
    chosen = reading.reading_of(Training(workers=workers), snapshot, ("glucose_mgdl",))
    assert (chosen.mode, chosen.shared) == (mode, True) and chosen.why.startswith("a node's share of its table of ")
