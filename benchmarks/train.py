"""Windows trained on per second: our loop against a bare PyTorch loop and against transformers.Trainer; two workers
against one.

The same model (our TTM with its loss), the same AdamW and clipping, batches of 512 windows of 144 + 12 points, one
thread a process. The bare loop has every window ready as a tensor, which no real data set could afford; Trainer reads
tsfm_public.ForecastDFDataset. Two workers are two processes under DDP (gloo), the loop that Ray Train's workers run.
Run on a quiet machine of at least 2 cores: `python benchmarks/train.py [--json]`.
"""

import argparse
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from raycadian.config import TTM, Training, Window
from raycadian.data.series import Series
from raycadian.data.split import Range
from raycadian.data.windows import Windows, cut_windows
from raycadian.models.base import Model, ModelSpec
from raycadian.models.build import build
from raycadian.training import loop
from raycadian.training.engines import Process

CONTEXT, HORIZON, BATCH, STEPS, ROUNDS = 144, 12, 512, 12, 5
POINTS = CONTEXT + HORIZON - 1 + BATCH * STEPS  # an epoch of STEPS batches
SPEC = ModelSpec(CONTEXT, HORIZON, 5.0, ("glucose_mgdl",), (), (0.05, 0.25, 0.5, 0.75, 0.95))
SETTINGS = Training(epochs=1, batch_size=BATCH, schedule="constant", warmup_steps=0, early_stopping=None, device="cpu")
SIZES = (TTM(d_model=16, layers=1), TTM(d_model=64, layers=3))  # of sweeps and tests; the default
TARGETS = {"bare loop": 0.95, "transformers.Trainer": 1.5, "one worker": 1.6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for section in SIZES for row in one_process(section)]
    pairs = [(workers(2), workers(1)) for _ in range(3)]
    rows.append(row(f"two workers, {name_of(SIZES[-1])}", "one worker", *map(list, zip(*pairs, strict=True))))
    print(json.dumps(rows) if arguments.json else pd.DataFrame(rows).to_string(index=False))


def one_process(section: TTM) -> list[dict[str, object]]:
    peers = {"raycadian": ours, "bare loop": bare, "transformers.Trainer": trainer}
    # interleaved rounds: the machine's noise falls on all alike
    rounds = [{name: peer(section) for name, peer in peers.items()} for _ in range(ROUNDS)]
    mine = [found["raycadian"] for found in rounds]
    return [row(name_of(section), name, mine, [found[name] for found in rounds]) for name in list(peers)[1:]]


def name_of(section: TTM) -> str:
    return f"TTM of width {section.d_model}, {section.layers} layers"


def row(name: str, peer: str, ours: list[float], theirs: list[float]) -> dict[str, object]:
    """The ratio is the median over the rounds: both sides of each were measured one after the other."""
    ratio = float(np.median(np.divide(ours, theirs)))
    return {
        "ours": name, "windows_per_s": round(float(np.median(ours))), "peer": peer,
        "peer_windows_per_s": round(float(np.median(theirs))), "ratio": round(ratio, 3), "target": TARGETS[peer],
    }  # fmt: skip


def glucose() -> np.ndarray:
    return (120 + 40 * np.sin(np.arange(POINTS) / 40)).astype(np.float32)


def windows() -> Windows:
    values = glucose()
    series = Series(
        table=np.stack([values, values]), observed=~np.isnan(values), offsets=np.array([0, POINTS]),
            subject_of=np.array([0]),
        number_of=np.array([0]), start_s=np.array([0]), utc_offset_min=np.array([0]), subjects=("a",),
        channels=("glucose_mgdl",), dt_s=300.0,
    )  # fmt: skip
    window = Window(context=CONTEXT, horizon=HORIZON, known=())
    return cut_windows(series, (Range("a", 0, 0, POINTS, "train", "id"),), window, 1)


def model(section: TTM) -> Model:
    torch.manual_seed(0)
    return build(section, SPEC)


def ours(section: TTM) -> float:
    """Windows per second of an epoch of our loop, its cutting, checks and bookkeeping included."""
    return loop._Session(model(section), windows(), windows(), SETTINGS, Process()).epoch(lambda *_: None)[
        "windows_per_s"
    ]


def bare(section: TTM) -> float:
    """The least that a training can do, from windows that are tensors already."""
    net, data = model(section).train(), windows()
    batches = data.batch(torch.arange(len(data)))
    optimizer = torch.optim.AdamW(net.parameters(), lr=SETTINGS.lr, weight_decay=SETTINGS.weight_decay)
    began = time.perf_counter()
    for index in torch.randperm(len(data)).split(BATCH):
        loss, _ = net.loss({name: value[index] for name, value in batches.items()})
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), SETTINGS.clip_norm)
        optimizer.step()
    return len(data) / (time.perf_counter() - began)


def trainer(section: TTM) -> float:
    """transformers.Trainer over ForecastDFDataset; its own set-up is not counted."""
    import transformers
    from tsfm_public import ForecastDFDataset

    frame = pd.DataFrame({"time": pd.date_range("2026-01-01", periods=POINTS, freq="5min"), "glucose": glucose()})
    data = ForecastDFDataset(
        frame, timestamp_column="time", target_columns=["glucose"], context_length=CONTEXT, prediction_length=HORIZON
    )
    times: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs) -> None:
            times.append(time.perf_counter())

        def on_train_end(self, args, state, control, **kwargs) -> None:
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder, per_device_train_batch_size=BATCH, num_train_epochs=1, learning_rate=SETTINGS.lr,
            weight_decay=SETTINGS.weight_decay, max_grad_norm=SETTINGS.clip_norm, lr_scheduler_type="constant",
            use_cpu=True, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
            dataloader_pin_memory=False,
        )  # fmt: skip
        peer = transformers.Trainer(model=ForTrainer(section), args=arguments, train_dataset=data, callbacks=[Clock()])
        peer.remove_callback(transformers.PrinterCallback)  # stdout is for our table
        peer.train()
    # the first batch was read before the first step began: count what came after
    return BATCH * (len(times) - 2) / (times[-2] - times[0])


class ForTrainer(torch.nn.Module):
    """Our model under the names that ForecastDFDataset and Trainer have."""

    def __init__(self, section: TTM) -> None:
        super().__init__()
        self.model = model(section)

    def forward(
        self, past_values: torch.Tensor, future_values: torch.Tensor, past_observed_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        batch = {"past": past_values, "past_mask": past_observed_mask.bool(), "target": future_values[..., 0]}
        return {"loss": self.model.loss(batch)[0]}


def workers(n: int) -> float:
    """Windows per second of `n` processes together, one thread each."""
    with socket.socket() as one, tempfile.TemporaryDirectory() as folder:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
        one.close()
        mp.spawn(_worker, (n, port, folder), nprocs=n)
        return float((Path(folder) / "rate").read_text())


def _worker(rank: int, world: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    session: Callable = lambda: loop._Session(model(SIZES[-1]), windows(), windows(), SETTINGS, Process(rank, world))  # noqa: E731
    session().epoch(lambda *_: None)  # warm
    found = session().epoch(lambda *_: None)
    if rank == 0:
        (Path(folder) / "rate").write_text(str(found["windows_per_s"]))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
