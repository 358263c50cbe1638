"""The only training loop: any model, one process or many, exact resume.

With several processes the gradient is the mean over the global batch, whatever share each process holds: losses are
weighted by their number of valid target points, and a process that runs out of windows takes part with weight 0.
"""

from __future__ import annotations

import copy
import math
import os
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raycadian.config import Training
from raycadian.data.windows import Windows
from raycadian.models.base import Model
from raycadian.types import Batch

Metrics = dict[str, float]
OnEpoch = Callable[[Metrics], None]
OnStep = Callable[[int, int, int], None]  # epoch, windows done, windows of the epoch
_STATE = "state.pt"


@dataclass(frozen=True)
class Process:
    """This process among those that train together. `dist` is initialised by the caller where world > 1."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def total(self, *values: float) -> list[float]:
        """Sums over all processes."""
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.world > 1:
            dist.all_reduce(sums)
        return sums.tolist()

    def largest(self, value: int) -> int:
        found = torch.tensor(value, device=self.device)
        if self.world > 1:
            dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return int(found)


@dataclass
class _Progress:
    """What resuming needs beside weights, optimizer, schedule and random states."""

    epoch: int = 0  # finished epochs
    best: float = math.inf
    best_epoch: int = 0
    stale: int = 0  # epochs without improvement
    history: list[Metrics] = field(default_factory=list)


@dataclass(frozen=True)
class Trained:
    """Outcome: the model carries the best epoch's weights. history holds one row an epoch."""

    history: list[Metrics]
    best_epoch: int
    engine: str
    workers: int
    precision: str
    device: str
    stopped_early: bool


def choose_device(wanted: str) -> torch.device:
    """Raises ValueError where CUDA is asked for and absent."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "training.device=cuda, but no CUDA device is visible; use auto or cpu, or check `raycadian doctor`"
        )
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def choose_precision(wanted: str, device: torch.device) -> str:
    """auto is bf16 where the GPU has it, else fp32. Raises ValueError for what the device lacks."""
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if wanted == "auto":
        return "bf16" if bf16 else "fp32"
    if (wanted == "bf16" and not bf16) or (wanted == "fp16" and device.type != "cuda"):
        raise ValueError(f"training.precision={wanted} is not available on {device.type}; use auto or fp32")
    return wanted


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def train(
    model: Model,
    train_windows: Windows,
    val_windows: Windows,
    config: Training,
    *,
    process: Process | None = None,
    state: Path | None = None,
    on_epoch: OnEpoch = lambda metrics: None,
    on_step: OnStep = lambda epoch, done, total: None,
) -> Trained:
    """Train `model` (already prepared) in place and restore its best epoch by val/rmse.

    `state`: folder for the resume state, written after every epoch by rank 0; a state found there goes on exactly
    where it was. `on_epoch` gets train/loss, val/loss, val/rmse, val/mae (mg/dL), windows_per_s, lr.
    """
    process = process or Process(device=choose_device(config.device))
    session = _Session(model, train_windows, val_windows, config, process)
    if state is not None:
        session.load(state)
    while not session.done:
        metrics = session.epoch(on_step)
        if state is not None and process.rank == 0:
            session.save(state)
        on_epoch(metrics)
    return session.finish()


class _Session:
    """One training: its optimizer, schedule, and progress."""

    def __init__(self, model: Model, train: Windows, val: Windows, config: Training, process: Process):
        self.model, self.train, self.val, self.config, self.process = model, train, val, config, process
        self.precision = choose_precision(config.precision, process.device)
        model.to(process.device)
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.wrapped: nn.Module = _Loss(model)
        if process.world > 1 and self.weights:
            self.wrapped = DistributedDataParallel(self.wrapped)
        self.local_batch = max(1, config.batch_size // process.world)
        longest = process.largest(len(train))
        self.steps = min(math.ceil(longest / self.local_batch), config.max_steps_per_epoch or math.inf)
        self.progress = _Progress()
        self.best_state = _state_of(model)
        if self.weights:
            self.optimizer = torch.optim.AdamW(self.weights, lr=config.lr, weight_decay=config.weight_decay)
            self.schedule = _schedule(self.optimizer, config, self.steps)
            self.scaler = torch.amp.GradScaler(process.device.type, enabled=self.precision == "fp16")

    @property
    def done(self) -> bool:
        patience = self.config.early_stopping
        epochs = self.config.epochs if self.weights else 1  # closed-form models are only scored
        return self.progress.epoch >= epochs or (patience is not None and self.progress.stale >= patience.patience)

    def epoch(self, on_step: OnStep) -> Metrics:
        began = time.perf_counter()
        number = self.progress.epoch + 1
        loss, seen = self._train_epoch(number, on_step) if self.weights else (math.nan, 0.0)
        seconds = time.perf_counter() - began
        metrics = {"epoch": float(number), "train/loss": loss} | self._validate()
        metrics["windows_per_s"] = seen / seconds
        metrics["lr"] = self.optimizer.param_groups[0]["lr"] if self.weights else 0.0
        if self.weights and self.config.schedule == "plateau":
            self.schedule.step(metrics["val/loss"])
        self._keep_best(metrics)
        return metrics

    def _train_epoch(self, number: int, on_step: OnStep) -> tuple[float, float]:
        """(mean loss, windows seen), both over all processes."""
        self.wrapped.train()
        sums = torch.zeros(3, dtype=torch.float64)  # loss x points, points, windows
        order = _order(len(self.train), self.config.seed, number, self.process.rank)
        for step in range(int(self.steps)):
            index = order[step * self.local_batch : (step + 1) * self.local_batch]
            sums += torch.tensor(self._step(index), dtype=torch.float64)
            on_step(number, (step + 1) * self.local_batch, int(self.steps) * self.local_batch)
        loss, points, windows = self.process.total(*sums.tolist())
        if not math.isfinite(loss):
            raise ValueError(
                f"the training loss is not finite in epoch {number}; lower training.lr (now {self.config.lr}) "
                "or check the data with `raycadian inspect`"
            )
        return loss / max(points, 1), windows

    def _step(self, index: Tensor) -> tuple[float, float, float]:
        """One optimizer step over this process's share; (loss x points, points, windows)."""
        parts = index.tensor_split(self.config.accumulate)
        micro = [self._to_device(self.train.batch(_never_empty(part))) for part in parts]
        points = [int((~torch.isnan(b["target"])).sum()) * bool(len(p)) for b, p in zip(micro, parts, strict=True)]
        (total,) = self.process.total(sum(points)) if self.process.world > 1 else (sum(points),)
        self.optimizer.zero_grad(set_to_none=True)
        summed = 0.0
        for batch, n in zip(micro, points, strict=True):
            with self._autocast():
                loss = self.wrapped(batch)
            # DDP averages over processes; undo it, so that the sum is the mean over the global batch
            self.scaler.scale(loss * (n * self.process.world / max(total, 1))).backward()
            summed += float(loss.detach()) * n
        self._update()
        return summed, float(sum(points)), float(len(index))

    def _update(self) -> None:
        self.scaler.unscale_(self.optimizer)
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.weights, self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.config.schedule != "plateau":
            self.schedule.step()

    def _validate(self) -> Metrics:
        loss, squared, absolute, points = self.process.total(*self._validation_sums())
        points = max(points, 1)
        return {"val/loss": loss / points, "val/rmse": math.sqrt(squared / points), "val/mae": absolute / points}

    @torch.no_grad()
    def _validation_sums(self) -> list[float]:
        """Sums of loss, squared and absolute error, and the number of valid target points."""
        self.model.eval()
        sums = torch.zeros(4, dtype=torch.float64)
        for batch in self.val.batches(max(self.local_batch, 256)):
            with self._autocast():
                loss, found = self.model.loss(self._to_device(batch))
            sums += torch.stack([loss, found["mse"], found["mae"], torch.ones_like(loss)]).double().cpu() * int(
                found["n"]
            )
        return sums.tolist()

    def _keep_best(self, metrics: Metrics) -> None:
        progress = self.progress
        progress.epoch += 1
        progress.history.append(metrics)
        margin = self.config.early_stopping.min_delta if self.config.early_stopping else 0.0
        if metrics["val/rmse"] < progress.best - margin:
            progress.best, progress.best_epoch, progress.stale = metrics["val/rmse"], progress.epoch, 0
            self.best_state = _state_of(self.model)
        else:
            progress.stale += 1

    def finish(self) -> Trained:
        self.model.load_state_dict(self.best_state)
        self.model.eval()
        epochs = self.config.epochs if self.weights else 1
        stopped = self.progress.epoch < epochs
        return Trained(self.progress.history, self.progress.best_epoch, **self.how, stopped_early=stopped)

    @property
    def how(self) -> dict[str, Any]:
        """What really ran, from the engine's own objects."""
        engine = type(self.wrapped).__name__ if self.process.world > 1 else "in-process"
        return {"engine": engine, "workers": self.process.world, "precision": self.precision,
                "device": str(self.process.device)}  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write the resume state: whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        body: dict[str, Any] = {
            "model": self.model.state_dict(), "best": self.best_state, "progress": asdict(self.progress),
            "torch_rng": torch.get_rng_state(), "how": self.how,
        }  # fmt: skip
        if self.weights:
            body |= {
                "optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
            }  # fmt: skip
        temporary = folder / f".{_STATE}-{os.getpid()}"
        torch.save(body, temporary)
        temporary.replace(folder / _STATE)

    def load(self, folder: Path) -> None:
        """Go on from a state, if there is one."""
        if not (folder / _STATE).is_file():
            return
        body = _read_state(folder)
        self.model.load_state_dict(body["model"])
        self.best_state, self.progress = body["best"], _Progress(**body["progress"])
        if self.weights:
            self.optimizer.load_state_dict(body["optimizer"])
            self.schedule.load_state_dict(body["schedule"])
            self.scaler.load_state_dict(body["scaler"])
        torch.set_rng_state(body["torch_rng"])

    def _autocast(self) -> torch.autocast:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision, torch.float32)
        return torch.autocast(self.process.device.type, dtype, enabled=self.precision != "fp32")

    def _to_device(self, batch: Batch) -> Batch:
        if self.process.device.type == "cpu":
            return batch
        return {name: value.to(self.process.device, non_blocking=True) for name, value in batch.items()}


@dataclass(frozen=True)
class Saved:
    """A resume state as another process reads it."""

    best: dict[str, Tensor]
    history: list[Metrics]
    best_epoch: int
    how: dict[str, Any]


def read_state(folder: Path) -> Saved:
    body = _read_state(folder)
    return Saved(body["best"], body["progress"]["history"], body["progress"]["best_epoch"], body["how"])


def _read_state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / _STATE, map_location="cpu", weights_only=True)


class _Loss(nn.Module):
    """The model's loss as a forward pass: what DistributedDataParallel hooks into."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        return self.model.loss(batch)[0]


def _order(n: int, seed: int, epoch: int, rank: int) -> Tensor:
    """Windows of an epoch in an order that depends on nothing else."""
    generator = torch.Generator().manual_seed(hash((seed, epoch, rank)) & 0x7FFFFFFF)
    return torch.randperm(n, generator=generator)


def _never_empty(index: Tensor) -> Tensor:
    """A process that is out of windows takes part with window 0, at weight 0: every process makes the same calls."""
    return index if len(index) else torch.zeros(1, dtype=torch.long)


def _schedule(optimizer: torch.optim.Optimizer, config: Training, steps: float) -> Any:
    if config.schedule == "plateau":
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=3)
    total = max(1, int(steps) * config.epochs)

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
        if config.schedule == "constant":
            return warm
        return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _state_of(model: Model) -> dict[str, Tensor]:
    return copy.deepcopy({name: value.detach().cpu() for name, value in model.state_dict().items()})
