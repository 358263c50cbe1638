"""Ray Train against one process: the same curve, every window once, resumable, refusals."""

from dataclasses import replace

import helpers
import pytest
import test_engines as cases
import torch

from raycadian.config import Split
from raycadian.data.split import make_split
from raycadian.data.stream import open_shards
from raycadian.data.windows import cut_windows
from raycadian.modalities.prepare import prepare
from raycadian.training import loop
from raycadian.training.feed import read_here
from raycadian.training.order import deal

CARD = "name: tiny\nfiles: [tiny.csv]\nunit: mg/dL\ncolumns: {subject: subject, time: time, glucose: glucose}\n"

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_two_workers_follow_one_process(ray_local, tmp_path):
    from raycadian.training import distributed

    train, val = cases.windows()
    one, many = cases.make_model(cases.FULL), cases.make_model(cases.FULL)
    alone = loop.train(one, train, val, cases.settings(workers=1))
    told = []
    together = distributed.train(many, train, val, cases.settings(), state=tmp_path / "state", on_epoch=told.append)
    assert (together.how["engine"], together.how["workers"]) == ("DistributedDataParallel", 2)
    for a, b in zip(alone.history, together.history, strict=True):
        assert b["val/rmse"] == pytest.approx(a["val/rmse"], rel=cases.TOLERANCE)
        assert b["train/loss"] == pytest.approx(a["train/loss"], rel=cases.TOLERANCE)
        assert b["windows"] == len(train)
    assert told == together.history
    for name, weight in one.state_dict().items():  # the best epoch came back
        assert torch.allclose(many.state_dict()[name], weight, atol=1e-3), name


@pytest.mark.long
def test_one_deepspeed_worker_is_deepspeed_and_a_poisoned_window_is_the_users_error(ray_local, tmp_path):
    from raycadian.training import distributed

    train, val = cases.windows()
    settings = cases.settings(strategy="deepspeed", workers=1, epochs=1, max_failures=0)
    done = distributed.train(cases.make_model(cases.LORA), train, val, settings, state=tmp_path / "a", on_epoch=print)
    assert (done.how["engine"], done.how["optimizer"]) == ("DeepSpeedEngine", "DeepSpeedZeroOptimizer")
    train.series.table[1, 20] = float("inf")
    with pytest.raises(ValueError, match=r"not finite in epoch 1: .* p0 at"):
        distributed.train(cases.make_model(cases.LORA), train, val, settings, state=tmp_path / "b", on_epoch=print)


def test_more_workers_than_the_cluster_has_is_an_error(ray_local, tmp_path):
    from raycadian.training import distributed

    train, val = cases.windows()
    for workers in (64, (50, 64)):
        with pytest.raises(ValueError, match="the cluster has 2"):
            settings = cases.settings(workers=workers)
            distributed.train(cases.make_model(cases.FULL), train, val, settings, state=tmp_path, on_epoch=print)


def test_a_fault_is_told_by_who_caused_it():
    from ray.exceptions import ActorDiedError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    from raycadian.training.distributed import _taken_away, _why

    reset = RuntimeError(
        "Traceback\nRuntimeError: [gloo/transport/tcp/pair.cc:538] Read error: Connection reset by peer"
    )
    away = RuntimeError("The actor c4ad9324 is unavailable: RpcError: failed to connect; rpc_code: 14.")
    damaged = ValueError("File x\nValueError: s3://b/tiny: damaged; run `raycadian prepare` again")
    assert _why({0: reset, 1: away}) == "worker 1: the process or its node is gone"
    assert _why({0: damaged, 1: reset}) == f"worker 0 failed ({str(damaged).splitlines()[1]})"
    assert _why({1: reset}).startswith("worker 1 failed (RuntimeError: [gloo")
    spot = ActorDiedError()
    spot._preempted = True
    assert _taken_away(WorkerHealthCheckFailedError("", spot)) and not _taken_away(away)


@pytest.mark.long
def test_two_workers_train_on_what_two_streams_show(ray_local, tmp_path):
    """The curve is that of one process which is shown both streams' windows side by side."""
    from raycadian.training import distributed

    train, val = streamed(tmp_path)
    settings = cases.settings(epochs=2)
    dealt = deal(len(train), 2, settings.batch_size)

    def side_by_side(windows, order, epochs):
        ranks = [replace(order, deal=dealt, rank=rank) for rank in (0, 1)]
        streams = [read_here(windows, one, epochs) for one in ranks]
        for one, other in zip(*streams, strict=True):
            yield {name: torch.cat([value, other[name]]) for name, value in one.items()}

    one, many = cases.make_model(cases.FULL), cases.make_model(cases.FULL)
    alone = loop.train(one, train, val, cases.settings(workers=1, epochs=2), read=side_by_side)
    told = []
    together = distributed.train(many, train, val, settings, state=tmp_path / "state", on_epoch=told.append)
    assert len(together.history) == len(told) == 2
    for a, b in zip(alone.history, together.history, strict=True):
        assert b["val/rmse"] == pytest.approx(a["val/rmse"], rel=cases.TOLERANCE)
        assert b["train/loss"] == pytest.approx(a["train/loss"], rel=cases.TOLERANCE)
        assert b["windows"] == dealt.used
        assert 0 < b["data/wait"] < 1 and b["data/bytes"] > 0


def streamed(folder):
    helpers.write_csv(folder / "tiny.csv", n=9, days=3)
    (folder / "tiny.yaml").write_text(CARD)
    series = open_shards(prepare(folder / "tiny.yaml", folder / "snapshots"), ("glucose_mgdl",), shuffle_bytes=30_000)
    split = make_split(series.lengths, Split(kind="time"))
    return [cut_windows(series, split.of(part), cases.WINDOW, 3) for part in ("train", "val")]
