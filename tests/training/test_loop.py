import math
from dataclasses import replace

import helpers
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from raycadian.config import Persistence, Training, Window
from raycadian.data.split import Range
from raycadian.data.windows import cut_windows
from raycadian.models.base import Forecaster, ModelSpec
from raycadian.training import loop
from raycadian.training.engines import Process
from raycadian.training.order import Order
from raycadian.types import Prediction

WINDOW = Window(context=24, horizon=6)
SPEC = ModelSpec(24, 6, 5.0, ("glucose_mgdl",), ("hour_sin", "hour_cos"), (0.25, 0.5, 0.75))


class Small(Forecaster):
    """A linear forecaster with dropout, so that random states matter."""

    def __init__(self):
        super().__init__(SPEC, Persistence())
        self.drop, self.linear = nn.Dropout(0.2), nn.Linear(24, 6)
        self.spread = nn.Parameter(torch.zeros(6))

    def forward(self, batch):
        past = batch["past"][..., 0]
        middle = past[:, -1:] + self.linear(self.drop((past - past[:, -1:]) / 50)) * 50
        spread = 10 * nn.functional.softplus(self.spread)
        return Prediction(torch.stack([middle - spread, middle, middle + spread], -1))


@pytest.fixture(scope="module")
def windows():
    series = helpers.series(3, 3)

    def make(split, stop):
        ranges = tuple(Range(f"p{i}", 0, *stop, split, "id") for i in range(3))
        return cut_windows(series, ranges, WINDOW, 3)

    return make("train", (0, 600)), make("val", (600, 850))  # fmt: skip


def config(**changes):
    return Training(**{"epochs": 4, "batch_size": 64, "lr": 3e-3, "early_stopping": None, "seed": 1, **changes})


def fit(windows, settings, **options):
    loop.seed_everything(settings.seed)
    model = Small()
    return model, loop.train(model, *windows, settings, **options)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_training_lowers_the_error_and_restores_the_best_epoch(windows):
    model, done = fit(windows, config(epochs=8))
    rmse = [m["val/rmse"] for m in done.history]
    assert rmse[-1] < 0.9 * rmse[0]
    assert done.best_epoch == 1 + int(np.argmin(rmse))
    again = loop._Session(model, *windows, config(), Process())._validate()
    assert math.isclose(again["val/rmse"], min(rmse), rel_tol=1e-5)


def test_validation_is_over_all_points_whatever_the_batch(windows):
    model = Small()
    found = [loop._Session(model, *windows, config(batch_size=b), Process())._validate() for b in (7, 4096)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_same_seed_same_weights(windows):
    (one, _), (two, _), (other, _) = fit(windows, config()), fit(windows, config()), fit(windows, config(seed=2))
    assert torch.equal(weights(one), weights(two))
    assert not torch.equal(weights(one), weights(other))


@pytest.mark.parametrize("schedule", ["constant", "cosine", "plateau"])
def test_a_killed_training_goes_on_exactly(windows, tmp_path, schedule):
    settings = config(schedule=schedule)
    whole, done = fit(windows, settings)

    class Killed(Exception):
        pass

    def kill(metrics):
        if metrics["epoch"] == 2:
            raise Killed

    with pytest.raises(Killed):
        fit(windows, settings, state=tmp_path, on_epoch=kill)
    torch.manual_seed(999)  # another process has other random states
    model = Small()
    resumed = loop.train(model, *windows, settings, state=tmp_path)
    assert torch.equal(weights(model), weights(whole))
    keys = ("epoch", "train/loss", "val/rmse", "lr")
    assert [[m[k] for k in keys] for m in resumed.history] == [[m[k] for k in keys] for m in done.history]


def test_accumulating_gives_the_gradient_of_the_whole_batch(windows):
    model = Small()
    model.drop.p = 0.0
    found = []
    for parts in (1, 4):
        session = loop._Session(model, *windows, config(accumulate=parts, clip_norm=None), Process())
        session.engine.step = lambda: None  # look at the gradient, don't step
        model.zero_grad()
        session._step(next(session.feed.epoch(1, 1)))
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose(*found, rtol=1e-4, atol=1e-7)


def test_clipping_bounds_the_gradient(windows):
    model = Small()
    session = loop._Session(
        model, *windows, config(clip_norm=1e-3, lr=1.0, schedule="constant", warmup_steps=0), Process()
    )
    session.engine.optimizer.zero_grad = lambda **options: None  # look at the gradient after the step
    session._step(next(session.feed.epoch(1, 1)))
    assert torch.cat([p.grad.flatten() for p in model.parameters()]).norm() <= 1e-3 * 1.001


def test_early_stopping_stops(windows):
    settings = config(epochs=50, lr=1e-9, early_stopping={"patience": 2, "min_delta": 1.0})
    _, done = fit(windows, settings)
    assert done.stopped_early
    assert len(done.history) == 3


def test_a_loss_that_is_not_finite_is_an_error_with_a_fix(windows):
    class Broken(Small):
        def forward(self, batch):
            return Prediction(super().forward(batch).quantiles * torch.tensor(float("inf")))

    with pytest.raises(ValueError, match="lower training.lr"):
        loop.train(Broken(), *windows, config())


def test_devices_and_precisions_that_are_absent_are_refused():
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no CUDA device"):
            loop.choose_device("cuda")
    with pytest.raises(ValueError, match="not available on cpu"):
        loop.choose_precision("fp16", torch.device("cpu"))
    assert loop.choose_precision("auto", torch.device("cpu")) == "fp32"


def test_steps_are_told(windows):
    told = []
    fit(windows, config(epochs=1), on_step=lambda epoch, done, total: told.append((epoch, done, total)))
    assert told[-1][1] == told[-1][2]
    assert len(told) == math.ceil(len(windows[0]) / 64)


@pytest.mark.slow
@given(st.integers(1, 500), st.integers(1, 9), st.integers(1, 80), st.integers(0, 3))
def test_any_number_of_processes_sees_each_window_once_and_the_same_batches(n, world, size, epoch):
    orders = [Order(n, 7, epoch, Process(rank, world)) for rank in range(world)]
    alone = Order(n, 7, epoch, Process())
    seen = []
    for begin in range(0, n, size):
        shares = torch.cat([order.share(begin, begin + size) for order in orders]).sort().values
        assert torch.equal(shares, alone.share(begin, begin + size).sort().values)
        assert len(shares) == min(size, n - begin)
        seen += shares.tolist()
    assert sorted(seen) == list(range(n))


@pytest.mark.parametrize(("n", "world"), [(1000, 65), (7, 130), (6400, 128)])
def test_more_than_64_processes_see_each_window_once(n, world):
    orders = [Order(n, 7, 1, Process(rank, world)) for rank in range(world)]
    shares = [[order.share(begin, begin + 300) for begin in range(0, n, 300)] for order in orders]
    seen = torch.cat([share for own in shares for share in own])
    assert seen.sort().values.tolist() == list(range(n))
    for step in zip(*shares, strict=True):
        assert max(map(len, step)) - min(map(len, step)) <= 1


def test_epochs_differ_and_processes_read_their_own_parts():
    first, second = (Order(6400, 7, epoch, Process()).share(0, 6400) for epoch in (1, 2))
    assert not torch.equal(first, second)
    mine, other = (set(Order(6400, 7, 1, Process(rank, 2)).share(0, 6400).tolist()) for rank in (0, 1))
    assert not mine & other
    assert len({window // 100 for window in mine}) == 32  # whole shards of 100 neighbours


def test_a_poisoned_window_is_named(windows):
    train, val = windows
    table = train.series.table.copy()
    table[1, 700 - 20] = np.inf  # an input of subject p0, beyond training
    table[1, 500] = np.inf
    poisoned = replace(train, series=replace(train.series, table=table))
    with pytest.raises(ValueError, match=r"not finite in epoch 1: \d+ windows have values .* e.g. p0 at 20\d\d-"):
        loop.train(Small(), poisoned, val, config())
