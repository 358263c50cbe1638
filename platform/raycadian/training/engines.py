"""How one global batch becomes one step: in this process, with DDP, FSDP or DeepSpeed. The loop knows only `Engine`.

States are whole and named after the model's weights, never sharded: any number of workers can go on from them.
torch.distributed.checkpoint is imported where a state needs it: with sympy it takes 0.6 s, a third of torch itself.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raycadian.config import Training
from raycadian.models.base import Model
from raycadian.types import Batch

State = dict[str, Any]
_WHOLE = {"full_state_dict": True, "cpu_offload": True}


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

    def gathered(self, text: str) -> list[str]:
        """What each process says, by rank."""
        texts: list[Any] = [text] * self.world
        if self.world > 1:
            dist.all_gather_object(texts, text)
        return texts


class Loss(nn.Module):
    """The model's loss as a forward pass: what the engines hook into."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return self.model.loss(batch)


class Engine:
    """One process. The other engines change how the model is wrapped and how its parts are brought together."""

    def __init__(self, model: Model, config: Training, steps: int, process: Process, precision: str):
        self.model, self.config, self.process, self.precision = model.to(process.device), config, process, precision
        self.trains = any(p.requires_grad for p in model.parameters())
        self.module: Any = Loss(model)
        if self.trains:
            self.wrap()
            self.schedule = _schedule(self.adam, config, steps)
            self.scaler = torch.amp.GradScaler(process.device.type, enabled=precision == "fp16")

    def wrap(self) -> None:
        self.adam = self.optimizer = self._adam()

    def _adam(self) -> torch.optim.AdamW:
        return torch.optim.AdamW(self._weights(), lr=self.config.lr, weight_decay=self.config.weight_decay)

    def _weights(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of this process's windows, and the diagnostics of models.base.Model.loss."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision, torch.float32)
        with torch.autocast(self.process.device.type, dtype, enabled=self.precision != "fp32"):
            return self.module(batch)

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        """Around forward and backward of one micro-batch; gradients are exchanged after the last one only."""
        yield

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def step(self) -> None:
        """Clip, update the weights, move the schedule on."""
        self.scaler.unscale_(self.optimizer)
        if self.config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._weights(), self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self._schedule_step()

    def _schedule_step(self) -> None:
        if self.config.schedule != "plateau":
            self.schedule.step()

    def weights(self) -> State:
        """The whole model's state on the CPU, a copy. Every process calls it; those of rank > 0 may get nothing."""
        return {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}

    def state(self) -> State:
        """Optimizer, schedule and scaler. Every process calls it; those of rank > 0 may get nothing."""
        if not self.trains:
            return {}
        return {
            "optimizer": self._optimizer_state(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load(self, state: State) -> None:
        """The inverse of `state`; the model's weights are loaded before an engine is made."""
        if self.trains:
            self._load_optimizer(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self._obey_recipe()
            self.scaler.load_state_dict(state["scaler"])

    def _obey_recipe(self) -> None:
        """Rates are the recipe's, not those that a state remembers: population-based training changes them."""
        for group in self.adam.param_groups:
            group["weight_decay"] = self.config.weight_decay
            if self.config.schedule != "plateau":
                group["lr"] = self.config.lr * self.schedule.lr_lambdas[0](self.schedule.last_epoch)
        if self.config.schedule != "plateau":
            self.schedule.base_lrs = [self.config.lr] * len(self.adam.param_groups)

    def _optimizer_state(self) -> State:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        return get_optimizer_state_dict(self.model, self.optimizer, options=StateDictOptions(**_WHOLE))

    def _load_optimizer(self, state: State) -> None:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

        options = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(self.model, self.optimizer, optim_state_dict=state, options=options)

    @property
    def how(self) -> dict[str, Any]:
        """What really runs, from the engine's own objects."""
        return {
            "engine": "in-process" if type(self.module) is Loss else type(self.module).__name__,
            "optimizer": type(self.optimizer).__name__ if self.trains else None,
            "backend": dist.get_backend() if dist.is_initialized() else None,
            "workers": self.process.world,
            "precision": self.precision,
            "device": str(self.process.device),
        }


class DDP(Engine):
    """A copy of the model in each process; gradients are averaged."""

    def wrap(self) -> None:
        super().wrap()
        # our buffers are constants
        self.module = DistributedDataParallel(self.module, broadcast_buffers=False, gradient_as_bucket_view=True)

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        if last:
            yield
        else:
            with self.module.no_sync():
                yield


class FSDP(Engine):
    """Weights, gradients and the optimizer's state sharded by PyTorch (fully_shard, one unit: our models are small)."""

    def wrap(self) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        fully_shard(self.module, mesh=init_device_mesh(self.process.device.type, (self.process.world,)))
        super().wrap()

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        self.module.set_requires_gradient_sync(last)
        yield

    def weights(self) -> State:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        return deepcopy(get_model_state_dict(self.model, options=StateDictOptions(**_WHOLE)))


class DeepSpeed(Engine):
    """ZeRO 1, 2, 3. DeepSpeed scales, clips and steps; the schedule stays ours."""

    def wrap(self) -> None:
        if self.process.device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed

        self.adam = self._adam()
        self.module, self.optimizer, *_ = deepspeed.initialize(
            model=self.module, optimizer=self.adam, config=self._settings(), dist_init_required=False
        )

    def _settings(self) -> dict[str, Any]:
        zero: dict[str, Any] = {"stage": self.config.zero.stage}
        if self.config.zero.offload:
            zero |= {name: {"device": "cpu"} for name in ("offload_optimizer", "offload_param")[: self._offloadable]}
        settings = {
            "train_micro_batch_size_per_gpu": 1,  # the loop cuts the batches; DeepSpeed only multiplies it
            "gradient_accumulation_steps": self.config.accumulate,
            "gradient_clipping": self.config.clip_norm or 0.0,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,  # torch's AdamW: the same arithmetic as the other engines
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**9,
        }
        if self.precision != "fp32":
            settings["torch_autocast"] = {
                "enabled": True,
                "dtype": {"bf16": "bfloat16", "fp16": "float16"}[self.precision],
            }
        return settings

    @property
    def _offloadable(self) -> int:
        return 2 if self.config.zero.stage == 3 else 1

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return self.module(batch)

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        yield
        if not last:
            self.module.step()  # counts; it updates at the end of the accumulation only

    def backward(self, loss: Tensor) -> None:
        self.module.backward(loss * self.config.accumulate)  # it divides by that number

    def step(self) -> None:
        self.module.step()
        self._schedule_step()

    def weights(self) -> State:
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(self.model.parameters()), enabled=self.config.zero.stage == 3):
            return super().weights()

    def _optimizer_state(self) -> State:
        from deepspeed.utils import safe_get_full_optimizer_state as full

        named = self._named()
        moments = {n: {key: full(p, key).cpu().clone() for key in ("exp_avg", "exp_avg_sq")} for n, p in named.items()}
        step = float(next(iter(self.adam.state.values()))["step"])
        return {"moments": moments, "step": step, "lr": self.adam.param_groups[0]["lr"]}

    def _load_optimizer(self, state: State) -> None:
        for group in self.adam.param_groups:
            group["lr"] = state["lr"]
        for flat in self._flats():
            self.adam.state[flat] = {
                "step": torch.tensor(state["step"]),
                "exp_avg": torch.zeros_like(flat),
                "exp_avg_sq": torch.zeros_like(flat),
            }
        if self.config.zero.stage < 3:
            self.optimizer._lazy_init_hp_params_optimizer_state()
        for name, weight in self._named().items():
            for key, value in state["moments"][name].items():
                self._set_moment(weight, key, value)

    def _flats(self) -> list[Tensor]:
        """What DeepSpeed's optimizer steps: this process's flat parts of all weights."""
        if self.config.zero.stage == 3:
            return self.optimizer.fp32_partitioned_groups_flat
        return self.optimizer.single_partition_of_fp32_groups

    def _set_moment(self, weight: nn.Parameter, key: str, value: Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        value = value.to(self.process.device)
        if self.config.zero.stage < 3:
            safe_set_full_optimizer_state(weight, value, key)
            return
        # 0.19.8 fails where a weight doesn't divide by the number of workers: pad it, and set this process's part
        part = weight.ds_tensor.numel()
        padded = torch.zeros(part * self.process.world, device=value.device)
        padded[: value.numel()] = value.flatten()
        safe_set_local_optimizer_state(weight, padded[self.process.rank * part :][:part], key)

    def _named(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @property
    def how(self) -> dict[str, Any]:
        return super().how | {"zero_stage": self.module.zero_optimization_stage()}


def make(model: Model, config: Training, steps: int, process: Process, precision: str) -> Engine:
    """The engine of `config.strategy`; a single process that shares nothing wraps nothing."""
    arguments = (model, config, steps, process, precision)
    match config.strategy:
        case "ddp":
            return DDP(*arguments) if process.world > 1 else Engine(*arguments)
        case "fsdp":
            return FSDP(*arguments)
        case "deepspeed":
            return DeepSpeed(*arguments)
    raise AssertionError(config.strategy)


def _schedule(optimizer: torch.optim.Optimizer, config: Training, steps: int) -> Any:
    if config.schedule == "plateau":
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=3)
    total = max(1, steps * config.epochs)

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
        if config.schedule == "constant":
            return warm
        return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
