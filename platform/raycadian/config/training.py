"""How a model trains, is tuned, scored and tracked."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from raycadian.config.schema import Count, Positive, Schema, unsaid


class EarlyStopping(Schema):
    patience: Count = 3
    min_delta: float = Field(0.0, ge=0)


class Zero(Schema):
    """DeepSpeed's ZeRO: 1 shards the optimizer's state over the workers, 2 the gradients too, 3 the weights too."""

    stage: Literal[1, 2, 3] = 2
    offload: bool = False
    """Keep what is sharded in the memory of the host instead of the GPU's."""


class Training(Schema):
    strategy: Literal["ddp", "fsdp", "deepspeed"] = "ddp"
    """How workers share a model: ddp, a copy each (a single worker trains in its own process) · fsdp, sharded by
    PyTorch · deepspeed, sharded by DeepSpeed as `zero` says."""
    zero: Zero = Zero()
    workers: Count | tuple[Count, Count] = 1
    """Number of workers, or [least, most]: as many as the cluster has room for, also after losing a node."""
    epochs: Count = 10
    batch_size: Count = 512
    """Windows a step over all workers."""
    data: Literal["mapped", "streamed", "auto"] = Field("auto", exclude_if=lambda value: value == "auto")
    """How training reads the snapshot. mapped: a table on each node's disk, of which memory holds what is used ·
    streamed: shards of people, read when their windows are cut; no node needs room for all · auto: mapped where the
    table fits this node's disk and memory."""
    shuffle_mb: Positive = Field(256.0, exclude_if=lambda value: value == 256.0)
    """Streamed: megabytes of the people among whom a worker draws its windows at a time. More mixes more."""
    accumulate: Count = 1
    """Micro-batches a step: memory falls, the batch stays."""
    max_steps_per_epoch: Count | None = None
    lr: Positive = 1e-3
    weight_decay: float = Field(1e-5, ge=0)
    schedule: Literal["constant", "cosine", "plateau"] = "cosine"
    warmup_steps: int = Field(20, ge=0)
    clip_norm: Positive | None = 1.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 where the GPU has it, else fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    early_stopping: EarlyStopping | None = EarlyStopping()
    max_failures: int = Field(2, ge=0)
    """How often Ray Train restarts workers that died, from the last epoch's checkpoint."""
    seed: int = 42

    @property
    def most_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def fewest_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def in_process(self) -> bool:
        """One worker that shares nothing needs no Ray Train."""
        return self.workers == 1 and self.strategy == "ddp"

    @model_validator(mode="after")
    def _fits(self) -> "Training":
        if not isinstance(self.workers, int) and self.workers[0] > self.workers[1]:
            raise ValueError(f"workers {list(self.workers)}: [least, most], so the first is the smaller")
        if self.precision == "fp16" and self.strategy == "fsdp":
            raise ValueError("precision fp16 isn't available with strategy fsdp; use bf16 or fp32")
        return self


class Tuning(Schema):
    space: str
    """Path of a search space, relative to the working directory."""
    trials: Count = 16
    scheduler: Literal["asha", "hyperband", "pbt", "fifo"] = "asha"
    """asha, hyperband: stop what lags behind · pbt: a population of `trials` whose laggards go on from the leaders'
    weights with other rates (only what may change in the middle of a training) · fifo: every trial to its end."""
    search: Literal["random", "optuna"] = "optuna"
    metric: Literal["val/rmse", "val/mae", "val/loss", "val/auroc", "val/auprc"] | None = Field(None, exclude_if=unsaid)
    """What a trial is chosen by. Left out: by the task's metric (val/rmse of forecasts, val/auroc of classify)."""
    max_concurrent: Count | None = None
    """None: as many as the cluster has room for."""
    first: tuple[dict[str, Any], ...] = ()
    """Points (dotted.path: value) that are tried first."""
    warm_start: tuple[str, ...] = ()
    """Folders of earlier sweeps: their best points are tried next."""
    seed: int = 42


class Evaluation(Schema):
    bootstrap: Count = 1000
    """Resamples of subjects for the intervals."""
    confidence: float = Field(0.95, gt=0, lt=1)
    seed: int = 0


class Tracking(Schema):
    mlflow: str = "auto"
    """auto: an SQLite file beside the runs · off · a server's URI."""
    wandb: Literal["off", "offline", "online"] = "off"
    """Health data never leaves the machine unless this says online."""
    tensorboard: bool = True

    @field_validator("wandb", "mlflow", mode="before")
    @classmethod
    def _yaml_off(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML 1.1 reads a bare `off` as False
