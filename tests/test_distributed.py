"""Ray Train with two DDP workers against one process: same windows, close curves, resumable."""

import helpers
import pytest
import torch

from raycadian.config import Recipe, Training, Window, parse
from raycadian.data.split import Range
from raycadian.data.windows import cut_windows
from raycadian.models.base import Spec
from raycadian.models.build import build
from raycadian.training import loop

pytestmark = [pytest.mark.ray, pytest.mark.slow]
WINDOW = Window(context=24, horizon=6)
SPEC = Spec(24, 6, 5.0, ("glucose_mgdl",), ("hour_sin", "hour_cos"), (0.25, 0.5, 0.75))


def windows():
    series = helpers.series(3, 3)
    # recordings of very unequal length: workers get different numbers of windows
    train = tuple(Range(f"p{i}", 0, 0, stop, "train", "id") for i, stop in enumerate((600, 45, 130)))
    val = tuple(Range(f"p{i}", 0, 600, 850, "val", "id") for i in range(3))
    return cut_windows(series, train, WINDOW, 1), cut_windows(series, val, WINDOW, 3)


def model():
    section = parse(Recipe, {"name": "x", "dataset": "x", "window": {"context": 24, "horizon": 6}, "model": {"kind": "ttm", "d_model": 16, "layers": 1, "dropout": 0.0}}).model  # fmt: skip
    torch.manual_seed(0)
    return build(section, SPEC)


def test_two_workers_follow_one_process(ray_local, tmp_path):
    from raycadian.training import distributed

    train, val = windows()
    settings = Training(epochs=3, batch_size=64, lr=2e-3, workers=2, warmup_steps=0, early_stopping=None, device="cpu")
    one, many = model(), model()
    alone = loop.train(one, train, val, settings)
    together = distributed.train(many, train, val, settings, state=tmp_path / "state", on_epoch=lambda m: None)
    assert together.engine == "DistributedDataParallel"
    assert together.workers == 2
    for a, b in zip(alone.history, together.history, strict=True):
        assert b["val/rmse"] == pytest.approx(a["val/rmse"], rel=0.1)
        assert b["train/loss"] == pytest.approx(a["train/loss"], rel=0.1)
    found = loop._Session(many, train, val, settings, loop.Process())._validate()
    best = min(m["val/rmse"] for m in together.history)
    assert found["val/rmse"] == pytest.approx(best, rel=1e-4)  # the best epoch came back, scored on all of validation
    again = model()
    resumed = distributed.train(again, train, val, settings, state=tmp_path / "state", on_epoch=lambda m: None)
    assert resumed.history == together.history  # nothing is trained twice
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), many.parameters(), strict=True))


def test_shards_hold_every_window_once(ray_local):
    from raycadian.training.distributed import _shards

    train, _ = windows()
    blocks = [row["starts"] for row in _shards(train, 2).iter_rows()]
    assert len(blocks) % 2 == 0
    assert sorted(start for block in blocks for start in block) == train.starts.tolist()


def test_more_workers_than_the_cluster_has_is_an_error(ray_local, tmp_path):
    from raycadian.training import distributed

    train, val = windows()
    with pytest.raises(ValueError, match="the cluster has 2"):
        distributed.train(model(), train, val, Training(workers=64), state=tmp_path, on_epoch=lambda m: None)
