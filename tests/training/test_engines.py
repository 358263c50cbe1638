"""DDP, FSDP and DeepSpeed against one process: the same curve, states that any of them goes on from."""

import json
import os
import socket
from pathlib import Path

import helpers
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from raycadian.config import Recipe, Training, Window, parse
from raycadian.data.split import Range
from raycadian.data.windows import Windows, cut_windows
from raycadian.models.base import Model, ModelSpec
from raycadian.models.build import build
from raycadian.training import loop
from raycadian.training.engines import Process

pytestmark = [pytest.mark.slow, pytest.mark.long]
WINDOW = Window(context=24, horizon=6)
SPEC = ModelSpec(24, 6, 5.0, ("glucose_mgdl",), ("hour_sin", "hour_cos"), (0.25, 0.5, 0.75))
FULL = {"kind": "ttm", "d_model": 16, "layers": 1, "dropout": 0.0}
LORA = FULL | {"adapter": {"kind": "lora", "rank": 2, "alpha": 4}}
LSTM = {"kind": "lstm", "hidden": 8, "layers": 1, "dropout": 0.0}
WORLD = 2
# name: (engine's class, optimizer's class, settings, model)
CASES = {
    "ddp": ("DistributedDataParallel", "AdamW", {"strategy": "ddp"}, FULL),
    "ddp-accumulate": ("DistributedDataParallel", "AdamW", {"strategy": "ddp", "accumulate": 2}, FULL),
    "ddp-lora": ("DistributedDataParallel", "AdamW", {"strategy": "ddp"}, LORA),
    "fsdp": ("FSDPLoss", "AdamW", {"strategy": "fsdp"}, FULL),
    "fsdp-accumulate-lora": ("FSDPLoss", "AdamW", {"strategy": "fsdp", "accumulate": 2}, LORA),
    "fsdp-lstm": ("FSDPLoss", "AdamW", {"strategy": "fsdp"}, LSTM),
    "zero1": ("DeepSpeedEngine", "DeepSpeedZeroOptimizer", {"strategy": "deepspeed", "zero": {"stage": 1}}, FULL),
    "zero2": ("DeepSpeedEngine", "DeepSpeedZeroOptimizer", {"strategy": "deepspeed", "zero": {"stage": 2}}, FULL),
    "zero2-accumulate-lora": (
        "DeepSpeedEngine", "DeepSpeedZeroOptimizer",
        {"strategy": "deepspeed", "zero": {"stage": 2, "offload": True}, "accumulate": 2}, LORA,
    ),
    "zero3": ("DeepSpeedEngine", "DeepSpeedZeroOptimizer_Stage3", {"strategy": "deepspeed", "zero": {"stage": 3}},
    FULL),
    "zero3-offload": (
        "DeepSpeedEngine", "DeepSpeedZeroOptimizer_Stage3",
        {"strategy": "deepspeed", "zero": {"stage": 3, "offload": True}}, FULL,
    ),
    "zero3-lstm": ("DeepSpeedEngine", "DeepSpeedZeroOptimizer_Stage3", {"strategy": "deepspeed",
    "zero": {"stage": 3}}, LSTM),
}  # fmt: skip
TOLERANCE = 2e-4  # relative, of every epoch's losses: what float32 sums in another order leave after 3 epochs


def windows() -> tuple[Windows, Windows]:
    series = helpers.series(3, 3)
    # recordings of very unequal length: processes would get different numbers of windows from them
    train = tuple(Range(f"p{i}", 0, 0, stop, "train", "id") for i, stop in enumerate((600, 45, 130)))
    val = tuple(Range(f"p{i}", 0, 600, 850, "val", "id") for i in range(3))
    return cut_windows(series, train, WINDOW, 1), cut_windows(series, val, WINDOW, 3)


def make_model(section: dict) -> Model:
    raw = {"name": "x", "dataset": "x", "window": {"context": 24, "horizon": 6}, "model": section}
    torch.manual_seed(0)
    return build(parse(Recipe, raw).model, SPEC)


def settings(**changes) -> Training:
    return Training(
        **{"epochs": 3, "batch_size": 64, "lr": 2e-3, "workers": WORLD, "warmup_steps": 0, "early_stopping": None,
           "device": "cpu", **changes}
    )  # fmt: skip


class Killed(Exception):
    pass


def _kill_after_two(metrics: loop.Metrics) -> None:
    if metrics["epoch"] == 2:
        raise Killed


def _train(rank: int, port: int, folder: str) -> None:
    """One of the processes: every case, once in one go and once killed after two epochs and resumed."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(WORLD), LOCAL_RANK=str(rank)
    )
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    process = Process(rank, WORLD)
    for name, (_, _, changes, section) in CASES.items():
        whole, halves = Path(folder) / name, Path(folder) / f"{name}-resumed"
        loop.train(make_model(section), *windows(), settings(**changes), process=process, state=whole)
        with pytest.raises(Killed):
            loop.train(
                make_model(section), *windows(), settings(**changes), process=process, state=halves,
                on_epoch=_kill_after_two,
            )  # fmt: skip
        dist.barrier()
        loop.train(make_model(section), *windows(), settings(**changes), process=process, state=halves)
    bad = _poisoned(rank, process)
    if rank == 0:
        (Path(folder) / "poisoned.json").write_text(json.dumps(bad))
    dist.destroy_process_group()


def _poisoned(rank: int, process: Process) -> list[str]:
    """What each process says of an input that only one of them meets."""
    train, val = windows()
    train.series.table[1, 20] = float("inf")
    try:
        loop.train(make_model(FULL), train, val, settings(), process=process)
    except ValueError as error:
        return process.gathered(str(error))
    return process.gathered("nothing")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    mp.spawn(_train, (port, str(folder)), nprocs=WORLD)
    return folder


def _rows(history: list[loop.Metrics]) -> list[list[float]]:
    return [[m[name] for name in ("train/loss", "val/loss", "val/rmse", "val/mae")] for m in history]


@pytest.mark.parametrize("name", CASES)
def test_it_follows_one_process_and_sees_each_window_once(folder, name):
    *_, section = CASES[name]
    alone = loop.train(make_model(section), *windows(), settings(workers=1))
    together = loop.read_state(folder / name)
    assert _rows(together.history) == [pytest.approx(row, rel=TOLERANCE) for row in _rows(alone.history)]
    assert {m["windows"] for m in together.history} == {len(windows()[0])}


@pytest.mark.parametrize("name", CASES)
def test_it_says_what_ran(folder, name):
    engine, optimizer, changes, _ = CASES[name]
    how = loop.read_state(folder / name).how
    assert (how["engine"], how["optimizer"], how["workers"], how["backend"]) == (engine, optimizer, WORLD, "gloo")
    assert how.get("zero_stage") == changes.get("zero", {}).get("stage")


@pytest.mark.parametrize("name", CASES)
def test_killed_after_an_epoch_it_goes_on_exactly(folder, name):
    whole, resumed = (loop.read_state(folder / f"{name}{end}") for end in ("", "-resumed"))
    assert _rows(resumed.history) == [pytest.approx(row, rel=1e-6) for row in _rows(whole.history)]


@pytest.mark.parametrize("name", CASES)
def test_its_checkpoint_loads_into_a_plain_model(folder, name):
    *_, section = CASES[name]
    saved = loop.read_state(folder / name)
    model = make_model(section)
    model.load_state_dict(saved.best)
    found = loop._Session(model, *windows(), settings(workers=1), Process())._validate()
    assert found["val/rmse"] == pytest.approx(min(m["val/rmse"] for m in saved.history), rel=1e-5)


def test_every_process_stops_where_one_meets_a_value_that_is_not_finite(folder):
    said = json.loads((folder / "poisoned.json").read_text())
    assert len(said) == WORLD
    assert all("p0 at" in text for text in said), said
