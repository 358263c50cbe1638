"""Several workers: the same loop under Ray Train, over any number of nodes, with DDP, FSDP or DeepSpeed.

Ray Train brings the workers up, joins them (gloo on CPUs, NCCL on GPUs) and restarts what died; rank 0 writes the state
after every epoch to storage that all nodes share.
What each worker reads is the loop's business: it depends on the worker's rank only, so no window is lost or doubled,
and a restart with another number of workers goes on along the same curve.
"""

import json
import logging
import re
import shutil
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.train
from ray.train.torch import TorchTrainer

from raycadian import telemetry
from raycadian.cluster import connect, cpus
from raycadian.config import Training
from raycadian.data.windows import Windows
from raycadian.files import own_folder
from raycadian.models.base import Model
from raycadian.runs import patiently
from raycadian.training import loop
from raycadian.training.engines import Process
from raycadian.training.feed import with_own_share
from raycadian.training.loop import OnEpoch, Trained
from raycadian.training.ray_feed import read_on_ray

log = logging.getLogger(__name__)
_EPOCHS, _FAULTS = "epochs.jsonl", "faults.jsonl"
_OUTAGES = 10  # of storage, in one training
_WAIT_MIN = 20  # for room in the cluster: Ray Train waits a minute a time, and by default for ever


def train(
    model: Model,
    train_windows: Windows,
    val_windows: Windows,
    config: Training,
    *,
    state: Path,
    on_epoch: OnEpoch,
    earlier: Sequence[loop.Metrics] = (),
    callbacks: Sequence[Any] = (),
) -> Trained:
    """Train a prepared model on `config.workers` Ray Train workers and load its best epoch into it.

    `state`: folder on storage that all nodes share; a training found there goes on after its last epoch. `callbacks`:
    Ray Train's. Raises ValueError where the cluster is too small, where the loss is not finite, or where workers died
    more often than `config.max_failures`.
    """
    connect()
    _require_capacity(config)
    state = state.absolute()
    own_folder(state)
    payload = ray.put((model, train_windows, val_windows, config, state, list(earlier), telemetry.bound_fields()))
    with _following(state / _EPOCHS, on_epoch), _following(state / _FAULTS, _tell_of_fault):
        _fit(payload, config, state, callbacks)
    saved = loop.read_state(state)
    model.load_state_dict(saved.best)
    model.eval()
    return Trained(saved.history, saved.best_epoch, saved.how, stopped_early=len(saved.history) < config.epochs)


def _fit(payload: Any, config: Training, state: Path, callbacks: Sequence[Any]) -> None:
    """Train until it is done. Storage that is away for a while is waited for; then it goes on from the last epoch."""
    for _ in range(_OUTAGES):
        try:
            with _scratch(state) as folder:
                result = _trainer(payload, config, folder, callbacks).fit()
        except ray.train.TrainingFailedError as error:
            if isinstance(getattr(error, "controller_failure", None), OSError):
                log.warning("storage failed: %s", error.controller_failure)
                _await_storage(state)
                continue
            telemetry.record(
                "raycadian_failures", recipe=str(telemetry.bound_fields().get("recipe", "")), kind="training"
            )
            raise ValueError(
                f"Ray Train gave up ({_last_line(error)}); the last epoch's checkpoint is kept: see the workers' logs "
                f"in Ray's dashboard, then go on with --resume (training.max_failures is {config.max_failures})"
            ) from error
        if isinstance(result.return_value, str):
            raise ValueError(result.return_value)
        return
    raise OSError(f"{state}: storage failed {_OUTAGES} times; go on with --resume when it is well")


def _trainer(payload: Any, config: Training, folder: Path, callbacks: Sequence[Any]) -> TorchTrainer:
    """Checkpoints are the loop's own (`state`): what Ray Train registers of them lags behind, and its names make a
    training that is done stay done. So it gets a folder that nobody goes back to."""
    workers = config.workers if isinstance(config.workers, int) else tuple(config.workers)
    return TorchTrainer(
        _worker,
        train_loop_config={"payload": [payload]},
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=use_gpu(config)),
        run_config=ray.train.RunConfig(
            name="ray_train",
            storage_path=str(folder),
            failure_config=ray.train.FailureConfig(
                max_failures=config.max_failures, controller_failure_limit=_WAIT_MIN
            ),
            callbacks=[*callbacks, _Faults(folder.parent / _FAULTS, config.max_failures)],
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),  # else every report, of every worker
        ),
    )


@contextmanager
def _scratch(state: Path) -> Iterator[Path]:
    folder = state / f"ray-{uuid.uuid4().hex[:8]}"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@patiently
def _await_storage(state: Path) -> None:
    probe = state / f".probe-{uuid.uuid4().hex[:8]}"
    probe.touch()
    probe.unlink()


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


def use_gpu(config: Training) -> bool:
    """Raises ValueError where CUDA is asked for and no node has it."""
    have = ray.cluster_resources().get("GPU", 0) > 0
    if config.device == "cuda" and not have:
        raise ValueError("training.device=cuda, but no node of the cluster has a GPU; use auto or cpu")
    return have and config.device != "cpu"


class _Faults(ray.train.UserCallback):
    """Notes, in Ray Train's controller, which workers died: the driver's side tells of them in a line each."""

    def __init__(self, notes: Path, most: int):
        self._notes, self._most, self._count = notes, most, 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        self._count += not any(map(_taken_away, worker_exceptions.values()))
        _note(self._notes, {"why": _why(worker_exceptions), "count": self._count, "most": self._most})


def _taken_away(error: Exception) -> bool:
    """Whether a cloud took the node back, which Ray Train counts as no failure."""
    return bool(getattr(getattr(error, "health_check_failure", error), "preempted", False))


def _why(errors: dict[int, Exception]) -> str:
    """Which workers failed, and of what, in a line. Of one that ends the others say that they lost it."""
    lines = {rank: _last_line(error) for rank, error in sorted(errors.items())}
    first = {rank: line for rank, line in lines.items() if not _LOST_ANOTHER.search(line)} or lines
    gone = [str(rank) for rank, line in first.items() if _GONE.search(line)]
    failed = [f"worker {rank} failed ({line})" for rank, line in first.items() if not _GONE.search(line)]
    return "; ".join([*failed, *([f"worker {', '.join(gone)}: the process or its node is gone"] if gone else [])])


_LOST_ANOTHER = re.compile("gloo|nccl|connection (reset|closed)|DistBackendError", re.IGNORECASE)
_GONE = re.compile(r"actor .*(unavailable|died|dead)|worker died|node .*(died|dead)", re.IGNORECASE)


def _tell_of_fault(fault: dict[str, Any]) -> None:
    count, most = fault["count"], fault["most"]
    goes_on = "training goes on from its last epoch" if count <= most else "no more are allowed"
    log.warning("%s; %s (failure %d of at most %d, training.max_failures)", fault["why"], goes_on, count, most)


@contextmanager
def _following(notes: Path, tell: Callable[[Any], None]) -> Iterator[None]:
    """Tell the driver's side of every line that is noted on the shared storage, as the driver waits in `fit`."""
    seen = len(notes.read_text(encoding="utf-8").splitlines()) if notes.is_file() else 0
    ended = threading.Event()

    def tell_new() -> None:
        nonlocal seen
        lines = notes.read_text(encoding="utf-8").split("\n")[:-1] if notes.is_file() else []
        for line in lines[seen:]:
            tell(json.loads(line))
        seen = len(lines)

    def follow() -> None:
        while not ended.wait(0.5):
            tell_new()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        tell_new()


def _worker(config: dict[str, Any]) -> str | None:
    """One Ray Train worker. Returns what the user has to change, where all workers stopped for that: a failure that
    another try can't heal is none to Ray Train."""
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # shared memory; nobody writes
    model, train_windows, val_windows, training, state, earlier, fields = ray.get(config["payload"][0])
    telemetry.configure_logs()
    context = ray.train.get_context()
    process = Process(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    loop.seed_everything(training.seed)

    def report(metrics: loop.Metrics) -> None:
        if process.rank == 0:
            _note(state / _EPOCHS, metrics)
        ray.train.report(metrics)

    with telemetry.bound(**fields, rank=process.rank):
        try:
            loop.train(
                model, *with_own_share(train_windows, val_windows, process), training,
                process=process, state=state, earlier=earlier, on_epoch=report, read=read_on_ray,
            )  # fmt: skip
        except loop.TrainingRefused as error:
            log.info("stopped: %s", error)
            return str(error)
    return None


@patiently
def _note(notes: Path, line: dict[str, Any]) -> None:
    with notes.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
