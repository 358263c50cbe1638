"""Several workers: the same loop under Ray Train, over any number of nodes, with DDP, FSDP or DeepSpeed.

Ray Train brings the workers up, joins them (gloo on CPUs, NCCL on GPUs), keeps the checkpoints and restarts what died.
What each worker reads is the loop's business: it depends on the worker's rank only, so no window is lost or doubled, and
a restart with another number of workers goes on along the same curve.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.train
from ray.train.torch import TorchTrainer

from raycadian import telemetry
from raycadian.cluster import connect, cpus
from raycadian.config import Training
from raycadian.data.windows import Windows
from raycadian.models.base import Model
from raycadian.training import loop
from raycadian.training.engines import Process
from raycadian.training.loop import OnEpoch, Trained
from raycadian.training.run import patiently

log = logging.getLogger(__name__)
_NAME, _EPOCHS = "ray_train", "epochs.jsonl"
_WAIT_MIN = 20  # for room in the cluster: Ray Train waits a minute a time, and by default for ever


def train(
    model: Model,
    train_windows: Windows,
    val_windows: Windows,
    config: Training,
    *,
    state: Path,
    on_epoch: OnEpoch,
    callbacks: Sequence[Any] = (),
) -> Trained:
    """Train a prepared model on `config.workers` Ray Train workers and load its best epoch into it.

    `state`: folder on storage that all nodes share; a training found there goes on after its last epoch. `callbacks`:
    Ray Train's. Raises ValueError where the cluster is too small, where the loss is not finite, or where workers died
    more often than `config.max_failures`.
    """
    connect()
    _require_capacity(config)
    state.mkdir(parents=True, exist_ok=True)
    payload = ray.put((model, train_windows, val_windows, config, state.absolute() / _EPOCHS, telemetry.bound_fields()))
    workers = config.workers if isinstance(config.workers, int) else tuple(config.workers)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"payload": [payload]},
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=use_gpu(config)),
        run_config=ray.train.RunConfig(
            name=_NAME,
            storage_path=str(state.absolute()),
            failure_config=ray.train.FailureConfig(
                max_failures=config.max_failures, controller_failure_limit=_WAIT_MIN
            ),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
            callbacks=list(callbacks),
        ),
    )
    with _following(state / _EPOCHS, on_epoch):
        result = _fit(trainer, config)
    with result.checkpoint.as_directory() as folder:
        saved = loop.read_state(Path(folder))
    model.load_state_dict(saved.best)
    model.eval()
    return Trained(saved.history, saved.best_epoch, saved.how, stopped_early=len(saved.history) < config.epochs)


def _fit(trainer: TorchTrainer, config: Training) -> Any:
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        telemetry.record("raycadian_failures", recipe=str(telemetry.bound_fields().get("recipe", "")), kind="training")
        raise ValueError(
            f"Ray Train gave up ({_last_line(error)}); the last epoch's checkpoint is kept: see the workers' logs in "
            f"Ray's dashboard, then go on with --resume (training.max_failures is {config.max_failures})"
        ) from error
    if isinstance(result.return_value, str):
        raise ValueError(result.return_value)
    return result


def _last_line(error: BaseException) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)[
        :500
    ]


def _require_capacity(config: Training) -> None:
    """Ray waits for workers that don't fit: refuse them instead."""
    have = int(ray.cluster_resources().get("GPU", 0)) if use_gpu(config) else cpus()
    least = config.workers if isinstance(config.workers, int) else config.workers[0]
    if least > have:
        kind = "GPU" if use_gpu(config) else "CPU"
        raise ValueError(f"training.workers={least} needs as many {kind}s; the cluster has {have}; lower workers")
    if config.most_workers > loop.SHARDS:
        raise ValueError(f"training.workers={config.most_workers}: at most {loop.SHARDS}; lower workers")


def use_gpu(config: Training) -> bool:
    """Raises ValueError where CUDA is asked for and no node has it."""
    have = ray.cluster_resources().get("GPU", 0) > 0
    if config.device == "cuda" and not have:
        raise ValueError("training.device=cuda, but no node of the cluster has a GPU; use auto or cpu")
    return have and config.device != "cpu"


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


def _worker(config: dict[str, Any]) -> str | None:
    """One Ray Train worker. Returns what the user has to change, where all workers stopped for that: a failure that
    another try can't heal is none to Ray Train."""
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # shared memory; nobody writes
    model, train_windows, val_windows, training, epochs, fields = ray.get(config["payload"][0])
    telemetry.configure_logs()
    logging.getLogger("ray.train").setLevel(logging.WARNING)  # it repeats every report, of every worker
    context = ray.train.get_context()
    process = Process(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    loop.seed_everything(training.seed)
    named = telemetry.bound(**fields, rank=process.rank)
    with named, tempfile.TemporaryDirectory(prefix="raycadian-state-") as folder:
        state = Path(folder)
        if checkpoint := ray.train.get_checkpoint():
            checkpoint.to_directory(folder)
        try:
            loop.train(
                model, train_windows, val_windows, training,
                process=process, state=state, on_epoch=lambda metrics: _report(metrics, state, process, epochs),
            )  # fmt: skip
        except ValueError as error:
            log.error("stopped: %s", error)
            return str(error)
    return None


def _report(metrics: loop.Metrics, state: Path, process: Process, epochs: Path) -> None:
    """Hand rank 0's state over as the checkpoint: from here on it outlives the workers."""
    mine = ray.train.Checkpoint.from_directory(str(state)) if process.rank == 0 else None

    @patiently
    def upload(checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
        target = epochs.parent / _NAME / name
        shutil.copytree(checkpoint.path, target, dirs_exist_ok=True)
        return ray.train.Checkpoint.from_directory(str(target))

    ray.train.report(metrics, checkpoint=mine, checkpoint_upload_fn=upload)
    if process.rank == 0:
        _note(epochs, metrics)


@patiently
def _note(epochs: Path, metrics: loop.Metrics) -> None:
    with epochs.open("a", encoding="utf-8") as file:
        file.write(json.dumps(metrics) + "\n")
