"""Several workers: the same loop under Ray Train with DDP. Ray Data deals the windows out; none is lost or doubled."""

from __future__ import annotations

import json
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray.train
import torch
from ray.train.torch import TorchTrainer

from raycadian.cluster import connect, cpus
from raycadian.config import Training
from raycadian.data.windows import Windows
from raycadian.models.base import Model
from raycadian.training import loop
from raycadian.training.loop import OnEpoch, Trained

_EPOCHS = "epochs.jsonl"
_BLOCKS_PER_WORKER = 8  # each worker gets as many: an equal split then loses no row


def train(
    model: Model, train_windows: Windows, val_windows: Windows, config: Training, *, state: Path, on_epoch: OnEpoch
) -> Trained:
    """Train a prepared model on `config.workers` Ray Train workers and load its best epoch into it.

    The series goes to the object store once; Ray Data shards references to windows (start positions), which workers
    cut in their own process. `state`: folder on storage that all nodes share; a training found there goes on after
    its last epoch. Raises ValueError where the cluster is too small.
    """
    connect()
    _require_capacity(config)
    state.mkdir(parents=True, exist_ok=True)
    template = train_windows.subset(torch.empty(0, dtype=torch.long))
    payload = ray.put((model, template, config, state.absolute() / _EPOCHS))
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"payload": payload},
        datasets={"train": _shards(train_windows, config.workers), "val": _shards(val_windows, config.workers)},
        scaling_config=ray.train.ScalingConfig(num_workers=config.workers, use_gpu=_use_gpu(config)),
        run_config=ray.train.RunConfig(
            name="ray_train",
            storage_path=str(state.absolute()),
            failure_config=ray.train.FailureConfig(max_failures=2),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        ),
    )
    with _following(state / _EPOCHS, on_epoch):
        result = trainer.fit()
    with result.checkpoint.as_directory() as folder:
        saved = loop.read_state(Path(folder))
    model.load_state_dict(saved.best)
    model.eval()
    return Trained(saved.history, saved.best_epoch, **saved.how, stopped_early=len(saved.history) < config.epochs)


def _require_capacity(config: Training) -> None:
    """Ray waits for ever for workers that don't fit: refuse them instead."""
    have = int(ray.cluster_resources().get("GPU", 0)) if _use_gpu(config) else cpus()
    if config.workers > have:
        kind = "GPU" if _use_gpu(config) else "CPU"
        raise ValueError(
            f"training.workers={config.workers} needs as many {kind}s; the cluster has {have}; lower workers"
        )


def _use_gpu(config: Training) -> bool:
    """Raises ValueError where CUDA is asked for and no node has it."""
    have = ray.cluster_resources().get("GPU", 0) > 0
    if config.device == "cuda" and not have:
        raise ValueError("training.device=cuda, but no node of the cluster has a GPU; use auto or cpu")
    return have and config.device != "cpu"


def _shards(windows: Windows, workers: int) -> Any:
    """Start positions in equal numbers of blocks a worker, dealt at random so that each shard looks like the whole."""
    order = np.random.default_rng(0).permutation(windows.starts.numpy())
    blocks = [block.tolist() for block in np.array_split(order, workers * _BLOCKS_PER_WORKER)]
    return ray.data.from_arrow(pa.table({"starts": pa.array(blocks, pa.list_(pa.int64()))}))


def _my_windows(name: str, template: Windows) -> Windows:
    batches = ray.train.get_dataset_shard(name).iter_batches(batch_size=None)
    starts = [np.asarray(block, dtype=np.int64) for batch in batches for block in batch["starts"]]
    # sorted: Ray Data's delivery order isn't deterministic, the epoch's order must be
    return Windows(
        template.series, torch.from_numpy(np.sort(np.concatenate(starts))), template.window, template.mechanism
    )


@contextmanager
def _following(epochs: Path, on_epoch: OnEpoch) -> Iterator[None]:
    """Tell the driver's side of every epoch that rank 0 notes on the shared storage, while the driver waits in `fit`."""
    seen = len(epochs.read_text(encoding="utf-8").splitlines()) if epochs.is_file() else 0
    ended = threading.Event()

    def tell() -> None:
        nonlocal seen
        lines = epochs.read_text(encoding="utf-8").split("\n")[:-1] if epochs.is_file() else []
        for line in lines[seen:]:
            on_epoch(json.loads(line))
        seen = len(lines)

    def follow() -> None:
        while not ended.wait(0.5):
            tell()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        tell()


def _worker(config: dict[str, Any]) -> None:
    """One Ray Train worker."""
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # shared memory; nobody writes
    model, template, training, epochs = ray.get(config["payload"])
    context = ray.train.get_context()
    process = loop.Process(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    loop.seed_everything(training.seed)
    with tempfile.TemporaryDirectory(prefix="raycadian-state-") as folder:
        _train_in(Path(folder), model, template, training, process, epochs)


def _train_in(
    folder: Path, model: Model, template: Windows, training: Training, process: loop.Process, epochs: Path
) -> None:
    """Train with the resume state in this worker's own `folder`, which begins as the last checkpoint, if there is one."""
    if checkpoint := ray.train.get_checkpoint():
        checkpoint.to_directory(str(folder))

    def report(metrics: loop.Metrics) -> None:
        mine = ray.train.Checkpoint.from_directory(str(folder)) if process.rank == 0 else None
        ray.train.report(metrics, checkpoint=mine)
        if process.rank == 0:
            with epochs.open("a", encoding="utf-8") as file:
                file.write(json.dumps(metrics) + "\n")

    loop.train(
        model, _my_windows("train", template), _my_windows("val", template), training,
        process=process, state=folder, on_epoch=report,
    )  # fmt: skip
