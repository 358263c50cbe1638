"""The only training loop: any model, one process or many, exact resume.

A step is the mean over its global batch, whatever share of it each process holds. Which windows a process trains on is
its feed's business (feed.py): of a table the order depends on seed and epoch alone, so that any number of processes
follows the same curve.
"""

import hashlib
import logging
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raycadian import telemetry
from raycadian.config import MONITORS, Training, unit_of
from raycadian.data.windows import Windows
from raycadian.files import on_disk, own_folder
from raycadian.models.base import Model
from raycadian.runs import patiently
from raycadian.training.engines import Engine, Process, make
from raycadian.training.feed import Feed, Reader, Step, make_feed, never_empty, read_here
from raycadian.training.order import validated_on
from raycadian.training.refused import TrainingRefused
from raycadian.types import Batch, truth_of

log = logging.getLogger(__name__)
Metrics = dict[str, float]
OnEpoch = Callable[[Metrics], None]
OnStep = Callable[[int, int, int], None]  # epoch, windows done, windows of the epoch
_STATE = "state.pt"


class NonFiniteLoss(TrainingRefused):
    """The training loss is not finite."""


@dataclass
class _Progress:
    """What resuming needs beside weights, optimizer and schedule."""

    epoch: int = 0  # finished epochs
    best: float = math.inf  # of what is monitored, turned so that lower is better
    best_epoch: int = 0
    stale: int = 0  # epochs without improvement
    history: list[Metrics] = field(default_factory=list)


@dataclass(frozen=True)
class Trained:
    """Outcome: the model carries the best epoch's weights. history holds one row an epoch.

    how: what really ran, from the engine's own objects: engine, optimizer, backend, workers, precision, device.
    """

    history: list[Metrics]
    best_epoch: int
    how: dict[str, Any]
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
        raise TrainingRefused(f"training.precision={wanted} is not available on {device.type}; use auto or fp32")
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
    earlier: Sequence[Metrics] = (),
    on_epoch: OnEpoch = lambda metrics: None,
    on_step: OnStep = lambda epoch, done, total: None,
    read: Reader = read_here,
) -> Trained:
    """Train `model`, whose statistics are fitted, in place; a process that trains alone gets its best epoch by
    `model.monitor` back.

    `state`: folder for the resume state, written after every epoch by rank 0; a state found there goes on exactly where
    it was. `earlier`: epochs of stages before this one, which its epochs are counted after. `on_epoch` gets train/loss,
    val/loss, val/rmse, val/mae (in the truth's unit; of a classifier of its probability, and val/auroc, val/auprc),
    windows, windows_per_s, data/wait (share of the time that processes waited for windows), data/bytes (of shards that
    were read, or of windows that were cut from a table), lr, and the best so far of each of MONITORS as best/...
    `read`: how streamed windows come to this process. Raises NonFiniteLoss, in every process alike, where the loss is
    not finite: it names the windows.
    """
    process = process or Process(device=choose_device(config.device))
    session = _Session(model, train_windows, val_windows, config, process, state, earlier, read)
    while not session.done:
        metrics = session.epoch(on_step)
        if state is not None:
            session.save(state)
        if process.rank == 0:
            telemetry.epoch(metrics, in_mgdl=model.spec.horizon > 0 and unit_of(model.spec.past[0]) == "mg/dL")
            log.info("epoch %d ended", session.progress.epoch, extra={"metrics": metrics})
        on_epoch(metrics)
    return session.finish()


class _Session:
    """One training: its engine, its order of windows, its progress."""

    def __init__(
        self, model: Model, train: Windows, val: Windows, config: Training, process: Process, state: Path | None = None,
        earlier: Sequence[Metrics] = (), read: Reader = read_here,
    ):  # fmt: skip
        self.earlier = list(earlier)
        self.model, self.train, self.val, self.config, self.process = model, train, val, config, process
        saved = _read(state) if state is not None and (state / _STATE).is_file() else None
        if saved is not None:
            model.load_state_dict(saved["model"])
        self.feed: Feed = make_feed(train, config, process, read)
        precision = choose_precision(config.precision, process.device)
        self.engine: Engine = make(model, config, self.feed.steps, process, precision)
        self.progress = _Progress(**saved["progress"]) if saved is not None else _Progress()
        self.best_state = saved["best"] if saved is not None else self.engine.weights()
        if saved is not None:
            self.engine.load(saved["engine"])

    @property
    def done(self) -> bool:
        patience = self.config.early_stopping
        epochs = self.config.epochs if self.engine.trains else 1  # closed-form models are only scored
        return self.progress.epoch >= epochs or (patience is not None and self.progress.stale >= patience.patience)

    def epoch(self, on_step: OnStep) -> Metrics:
        began = time.perf_counter()
        number = len(self.earlier) + self.progress.epoch + 1
        loss, seen, of_data = self._train_epoch(number, on_step) if self.engine.trains else (math.nan, 0.0, {})
        seconds = time.perf_counter() - began
        metrics = {"epoch": float(number), "train/loss": loss} | self._validate()
        metrics |= {"windows": seen, "windows_per_s": seen / seconds} | of_data
        metrics["lr"] = self.engine.adam.param_groups[0]["lr"] if self.engine.trains else 0.0
        if self.engine.trains and self.config.schedule == "plateau":
            self.engine.schedule.step(metrics["val/loss"])
        earlier = self.earlier + self.progress.history
        metrics |= {f"best/{name}": best_of(name, [metrics, *earlier]) for name in MONITORS if name in metrics}
        self._keep_best(metrics)
        return metrics

    def _train_epoch(self, number: int, on_step: OnStep) -> tuple[float, float, Metrics]:
        """(mean loss, windows seen, what reading took), all over all processes."""
        torch.manual_seed(_seed(self.config.seed, number, self.process.rank))  # dropout: the same after a resume
        self.engine.module.train()
        sums = np.zeros(3)  # loss x points, points, windows
        clock, read, total = _Clock(), self.feed.bytes_read, self.feed.windows
        last = len(self.earlier) + self.config.epochs
        for step, parts in enumerate(clock.waiting(self.feed.epoch(number, last)), start=1):
            sums += self._step(parts)
            on_step(number, min(step * self.config.batch_size, total), total)
        read = self.feed.bytes_read - read
        loss, points, windows, *times, read = self.process.total(*sums, clock.waited_s, clock.total_s, read)
        return loss / max(points, 1), windows, {"data/wait": times[0] / times[1], "data/bytes": read}

    def _step(self, parts: Step) -> tuple[float, float, float]:
        """One optimizer step over this process's share; (loss x points, points, windows)."""
        points = [int((~torch.isnan(truth_of(batch))).sum()) * bool(windows) for batch, windows in parts]
        (total,) = self.process.total(sum(points))
        summed = 0.0
        for number, ((batch, _), n) in enumerate(zip(parts, points, strict=True), start=1):
            with self.engine.micro_batch(last=number == len(parts)):
                loss, _ = self.engine.loss(self._to_device(batch))
                value = loss.item()
                self._require_finite(value, batch)
                # engines average over processes; undo it, so that the sum is the mean over the global batch
                self.engine.backward(loss * (n * self.process.world / max(total, 1)))
            summed += value * n
        self.engine.step()
        return summed, float(sum(points)), float(sum(windows for _, windows in parts))

    def _require_finite(self, loss: float, batch: Batch) -> None:
        """Every process raises where one has to: none is left waiting for the others."""
        if not any(self.process.total(0.0 if math.isfinite(loss) else 1.0)):
            return
        culprits = self._culprits(batch) if not math.isfinite(loss) else ""
        where = "; ".join(dict.fromkeys(text for text in self.process.gathered(culprits) if text))
        raise NonFiniteLoss(
            "the training loss is not finite in epoch "
            f"{len(self.earlier) + self.progress.epoch + 1}{where and ': ' + where}; lower "
            f"training.lr (now {self.config.lr}) or look at the data with `raycadian inspect`; the last epoch's "
            "checkpoint is kept, and --resume goes on from it"
        )

    def _culprits(self, batch: Batch) -> str:
        """Windows of a batch whose inputs are not finite, in words; nothing where all are."""
        bad = torch.zeros(len(batch["past"]), dtype=torch.bool)
        for name in ("past", "known", "mechanism"):
            if name in batch:
                bad |= ~torch.isfinite(batch[name]).flatten(1).all(1)
        bad |= torch.isinf(truth_of(batch)).view(len(bad), -1).any(1)
        rows = bad.nonzero().flatten().tolist()
        named = [
            f"{self.train.series.subjects[int(batch['subject'][i])]} at {np.datetime64(int(batch['time_s'][i]), 's')} "
            "UTC"
            for i in rows[:3]
        ]
        return f"{len(rows)} windows have values that are not finite, e.g. {', '.join(named)}" if rows else ""

    def _validate(self) -> Metrics:
        loss, squared, absolute, points, *ranks = self.process.total(*self._validation_sums())
        points = max(points, 1)
        metrics = {"val/loss": loss / points, "val/rmse": math.sqrt(squared / points), "val/mae": absolute / points}
        if not ranks:
            return metrics
        counts = np.array(ranks).reshape(2, -1)
        return metrics | {"val/auroc": _auroc(counts), "val/auprc": _auprc(counts)}

    @torch.no_grad()
    def _validation_sums(self) -> np.ndarray:
        """Of this process's part: sums of loss, squared and absolute error, the number of valid truths, and the ranks
        of a classifier (models.label.LabelModel.loss)."""
        self.engine.module.eval()
        sums: np.ndarray | float = 0.0
        for index in self._validation_parts(max(self.config.batch_size // self.process.world, 256)):
            loss, errors = self.engine.loss(self._to_device(self.val.batch(never_empty(index))))
            means = torch.stack([loss, errors["mse"], errors["mae"], torch.ones_like(loss)]).double().cpu().numpy()
            ranks = errors["ranks"].double().cpu().numpy().ravel() if "ranks" in errors else np.empty(0)
            sums = sums + bool(len(index)) * np.concatenate([means * int(errors["n"]), ranks])
        assert isinstance(sums, np.ndarray)
        return sums

    def _validation_parts(self, size: int) -> Iterator[Tensor]:
        """This process's contiguous part in batches: as many in each process, since engines may exchange weights."""
        begin, end = validated_on(len(self.val), self.process)
        longest = -(-len(self.val) // self.process.world)
        for offset in range(0, longest, size):
            yield torch.arange(min(begin + offset, end), min(begin + offset + size, end))

    def _keep_best(self, metrics: Metrics) -> None:
        progress = self.progress
        progress.epoch += 1
        progress.history.append(metrics)
        margin = self.config.early_stopping.min_delta if self.config.early_stopping else 0.0
        score = lower_is_better(self.model.monitor, metrics[self.model.monitor])
        if score < progress.best - margin:
            progress.best, progress.best_epoch, progress.stale = score, progress.epoch, 0
            self.best_state = self.engine.weights()
        else:
            progress.stale += 1

    def finish(self) -> Trained:
        self.feed.close()
        if self.process.world == 1 and self.engine.how["engine"] == "in-process":
            self.model.load_state_dict(self.best_state)
            self.model.eval()
        epochs = self.config.epochs if self.engine.trains else 1
        stopped = self.progress.epoch < epochs
        return Trained(self.progress.history, self.progress.best_epoch, self.engine.how, stopped_early=stopped)

    def save(self, folder: Path) -> None:
        """Write the resume state: whole or not at all. Every process takes part, rank 0 writes."""
        body = {
            "model": self.engine.weights(), "engine": self.engine.state(), "best": self.best_state,
            "progress": asdict(self.progress), "how": self.engine.how,
        }  # fmt: skip
        if self.process.rank == 0:
            _write(folder, body)

    def _to_device(self, batch: Batch) -> Batch:
        if self.process.device.type == "cpu":
            return batch
        return {name: value.to(self.process.device, non_blocking=True) for name, value in batch.items()}


def _auroc(counts: np.ndarray) -> float:
    """Area under the ROC curve from counts (2, K) of windows without and with the label in bins of rising probability;
    ties within a bin count half. NaN where one kind is absent."""
    without, with_ = counts
    below = np.cumsum(without) - without / 2
    return float((with_ * below).sum() / (with_.sum() * without.sum())) if with_.sum() * without.sum() else math.nan


def _auprc(counts: np.ndarray) -> float:
    """Average precision from the same counts: the mean precision over the windows with the label, from the most
    probable bin down. NaN where none has it."""
    without, with_ = counts[:, ::-1]
    if not with_.sum():
        return math.nan
    hits, alarms = np.cumsum(with_), np.cumsum(with_ + without)
    return float((with_ * hits / np.maximum(alarms, 1)).sum() / with_.sum())


def lower_is_better(name: str, value: float) -> float:
    """A value of a monitored metric, turned so that less of it is better."""
    return -value if MONITORS[name] == "high" else value


def best_of(name: str, rows: Sequence[Metrics]) -> float:
    """The best value of a monitored metric over epochs."""
    return (max if MONITORS[name] == "high" else min)(row[name] for row in rows)


class _Clock:
    """How long steps took, and how long of it their windows were waited for."""

    def __init__(self) -> None:
        self.waited_s, self._began = 0.0, time.perf_counter()

    def waiting(self, steps: Iterator[Step]) -> Iterator[Step]:
        while True:
            began = time.perf_counter()
            step = next(steps, None)
            self.waited_s += time.perf_counter() - began
            if step is None:
                return
            yield step

    @property
    def total_s(self) -> float:
        return time.perf_counter() - self._began


@dataclass(frozen=True)
class Saved:
    """A resume state as another process reads it."""

    best: dict[str, Tensor]
    history: list[Metrics]
    best_epoch: int
    how: dict[str, Any]


def read_state(folder: Path) -> Saved:
    body = _read(folder)
    return Saved(body["best"], body["progress"]["history"], body["progress"]["best_epoch"], body["how"])


@patiently
def _write(folder: Path, body: dict[str, Any]) -> None:
    temporary = folder / f".{_STATE}-{os.getpid()}"
    with on_disk(folder):
        own_folder(folder)
        try:
            with temporary.open("wb") as file:  # torch's own says nothing of why it can't be written
                torch.save(body, file)
            temporary.replace(folder / _STATE)
        finally:
            temporary.unlink(missing_ok=True)


def _read(folder: Path) -> dict[str, Any]:
    return torch.load(folder / _STATE, map_location="cpu", weights_only=True)


def _seed(*parts: int) -> int:
    """One seed from several numbers, the same in every process and Python."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")
