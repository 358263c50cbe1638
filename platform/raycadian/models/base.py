"""What a model is: `forward(batch) -> prediction`, `loss(batch) -> (loss, diagnostics)`. Wrappers are models.

Shapes as in types.py. Inputs and outputs are in their channel's own unit (glucose: mg/dL); whatever scaling a model
needs is its own affair, and its statistics are buffers, so that the weights file holds everything.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor, nn

from raycadian.config import ModelConfig
from raycadian.types import Batch, LabelPrediction, Prediction, Reconstruction

_LONGEST = 10_000_000  # points: a day at 100 Hz, and more than any model takes


@dataclass(frozen=True)
class ModelSpec:
    """What a model must fit: the windows it sees and what it gives. Raises ValueError.

    context L and horizon H in points of `dt_min` minutes · past and known: channel names · task forecast: past[0] is
    the target, quantiles are levels that rise strictly inside (0, 1) and contain 0.5 · the others: H is 0, there are no
    quantiles; balanced: windows with the label weigh as much as the others in training; labels: how many at once.
    """

    context: int
    horizon: int
    dt_min: float
    past: tuple[str, ...]
    known: tuple[str, ...]
    quantiles: tuple[float, ...]
    task: Literal["forecast", "classify", "regress", "pretrain"] = "forecast"
    balanced: bool = False
    labels: int = 1

    def __post_init__(self) -> None:
        self._check_kinds()
        if self.context < 1 or self.dt_min <= 0:
            raise ValueError(f"context and dt_min must be positive; found {self}")
        if max(self.context, self.horizon) > _LONGEST:
            raise ValueError(f"a window has {_LONGEST:,} points at most; found {self}")
        if self.task != "forecast":
            assert self.horizon == 0 and not self.quantiles, self
            return
        levels = list(self.quantiles)
        if levels != sorted(set(levels)) or not all(0 < q < 1 for q in levels) or 0.5 not in levels:
            raise ValueError(f"quantiles rise strictly inside (0, 1) and contain 0.5; found {levels}")
        if self.horizon < 1:
            raise ValueError(f"horizon must be positive; found {self}")

    def __str__(self) -> str:
        known = f", known ahead {', '.join(map(str, self.known))}" if self.known else ""
        levels = f", quantiles {', '.join(f'{q:g}' for q in self.quantiles)}" if self.quantiles else ""
        ahead = f" -> {self.horizon}" if self.horizon else ""
        labels = f", {self.labels} labels" if self.labels != 1 else ""
        what = f"{self.task} from {', '.join(map(str, self.past))}: {self.context}{ahead} points of {self.dt_min} min"
        return f"{what}{known}{levels}{labels}"

    def _check_kinds(self) -> None:
        """A checkpoint that nobody checked says what these are."""
        counts = (self.context, self.horizon, self.labels)
        channels = (*self.past, *self.known)
        whole = all(type(n) is int for n in counts) and self.labels >= 1 and self.horizon >= 0
        if not whole or not self.past or not all(isinstance(name, str) for name in channels):
            raise ValueError(f"context, horizon and labels are whole numbers, channels are names; found {self}")
        if not all(math.isfinite(number) for number in (self.dt_min, *self.quantiles)):
            raise ValueError(f"dt_min and quantiles are numbers; found {self}")

    @property
    def label_shape(self) -> tuple[int, ...]:
        """() of one label, (labels,) of several."""
        return () if self.labels == 1 else (self.labels,)

    @property
    def middle(self) -> int:
        """Position of the median among the quantiles."""
        return self.quantiles.index(0.5)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "ModelSpec":
        lists = {name: tuple(raw[name]) for name in ("past", "known", "quantiles")}
        # the first checkpoints know neither tasks nor labels
        task = {name: raw[name] for name in ("task", "balanced", "labels") if name in raw}
        return cls(context=raw["context"], horizon=raw["horizon"], dt_min=raw["dt_min"], **lists, **task)


class TrainingWindows(Protocol):
    """What `fit_statistics` (training windows only) and `calibrate` (validation windows only) read, streamed."""

    def __len__(self) -> int: ...

    def batch(self, index: Tensor) -> Batch: ...

    def batches(self, batch_size: int) -> Iterator[Batch]: ...

    def labels(self) -> Tensor:
        """(W,) or (W, labels): the label of every window, of a task with one."""
        ...

    def weights(self) -> Tensor:
        """(W,): how much each window counts; 1 where the loss isn't weighed."""
        ...


@dataclass(frozen=True)
class Builder:
    """What a model's `build` is made with: the class of each kind of section, and the architectures of a checkpoint."""

    classes: Mapping[str, type["Model"]]
    architectures: Iterator[dict[str, Any]] | None

    @property
    def restoring(self) -> bool:
        """Whether weights follow from a checkpoint of ours: nothing pretrained is opened then."""
        return self.architectures is not None

    def build(self, section: ModelConfig, spec: ModelSpec) -> "Model":
        """A model, whole or wrapped."""
        return self.classes[section.built_as()].build(section, spec, self)

    def architecture(self) -> dict[str, Any]:
        """Of the next network, as the checkpoint holds it. Raises ValueError where it holds too few."""
        if self.architectures is None or (saved := next(self.architectures, None)) is None:
            raise ValueError("the checkpoint holds fewer networks than its model needs")
        return saved


class Model(nn.Module, ABC):
    """What the training loop, checkpoints and serving ask for. See `Forecaster` and, for labels, `LabelModel`.

    `monitor`: the validation metric, lower is better, that chooses the epoch. `config` is the recipe's section that it
    was built from. `model.double()` computes in float64: equal rows then give equal forecasts to 1e-9 mg/dL whatever
    batch they stand in (float32: 1e-4).
    """

    monitor: ClassVar[str]
    adaptable: ClassVar[tuple[str, tuple[str, ...]] | None] = None
    """Of a model with a network: its attribute, and the names of the linear layers that a person's adapter adds to."""
    exports_network: ClassVar[bool] = False
    """Whether its `network` is a whole forecaster in granite's format, which others can start from."""

    def __init__(self, spec: ModelSpec, config: ModelConfig):
        super().__init__()
        self.spec, self.config = spec, config
        self.register_buffer("levels", torch.tensor(spec.quantiles), persistent=False)

    @classmethod
    def build(cls, section: Any, spec: ModelSpec, builder: Builder) -> "Model":
        """An untrained model. Raises ValueError where the section doesn't fit the spec, or weights can't be had."""
        return cls(spec, section)

    @abstractmethod
    def forward(self, batch: Batch) -> Prediction | LabelPrediction | Reconstruction:
        """The prediction, in the unit of what is predicted."""

    @abstractmethod
    def forward_loss(self, batch: Batch) -> tuple[Prediction | LabelPrediction | Reconstruction, Tensor]:
        """The prediction and what training minimises, from one pass."""

    @abstractmethod
    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """(the loss of `forward_loss`, diagnostics): n, the number of known values, and means over them, mae and mse.

        Means weighted by n over batches give the exact mean over all. Without any known value all are 0.
        """

    def fit_statistics(self, windows: TrainingWindows) -> None:
        """Compute statistics (and closed-form weights) from TRAINING windows. Raises ValueError for unfit windows."""

    def calibrate(self, windows: TrainingWindows) -> None:
        """Set what is chosen after training, from VALIDATION windows: on the CPU, in evaluation mode, into buffers.

        A wrapper calibrates what it wraps first, on windows as that sees them. Raises ValueError for unfit windows.
        """


class Forecaster(Model):
    """A subclass gives `forward`; the loss is the same for all."""

    monitor = "val/rmse"

    @abstractmethod
    def forward(self, batch: Batch) -> Prediction:
        """Quantiles (B, H, Q) in mg/dL at spec.quantiles, non-decreasing in Q; the 0.5 level is the point forecast."""

    def forward_loss(self, batch: Batch) -> tuple[Prediction, Tensor]:
        """The forecast and what training minimises, from one pass: here the mean pinball loss in mg/dL over levels and
        non-missing targets. Without any valid target it is 0."""
        prediction, target = self(batch), batch["target"]
        losses = pinball(prediction.quantiles, torch.nan_to_num(target), self.levels)
        return prediction, mean_over_valid(losses, target)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """diagnostics: n, valid target points; mae and mse, mean absolute and squared error of the median in mg/dL."""
        prediction, loss = self.forward_loss(batch)
        target = batch["target"]
        error = (prediction.quantiles[..., self.spec.middle] - torch.nan_to_num(target)).detach()
        errors = {"mae": mean_over_valid(error.abs(), target), "mse": mean_over_valid(error.square(), target)}
        return loss, {"n": (~torch.isnan(target)).sum(), **errors}


class Wrapper(Forecaster):
    """A forecaster around one: what that sees of a batch, and what becomes of its forecast. All else is forwarded."""

    def __init__(self, spec: ModelSpec, config: ModelConfig, inner: Forecaster):
        super().__init__(spec, config)
        self.inner = inner

    @classmethod
    def build(cls, section: Any, spec: ModelSpec, builder: Builder) -> Self:
        return cls(spec, section, builder.build(section.inner, cls.inner_spec(spec, section)))

    @classmethod
    def inner_spec(cls, spec: ModelSpec, section: Any) -> ModelSpec:
        """What the inner model must fit."""
        return spec

    def view(self, batch: Batch) -> Batch:
        """The batch as the inner model sees it."""
        return batch

    def restore(self, prediction: Prediction, batch: Batch) -> Prediction:
        """The forecast in terms of `batch`, from the inner model's for `view(batch)`."""
        return prediction

    def forward(self, batch: Batch) -> Prediction:
        return self.restore(self.inner(self.view(batch)), batch)

    def forward_loss(self, batch: Batch) -> tuple[Prediction, Tensor]:
        prediction, loss = self.inner.forward_loss(self.view(batch))
        return self.restore(prediction, batch), loss

    def fit_statistics(self, windows: TrainingWindows) -> None:
        self.inner.fit_statistics(Viewed(windows, self.view))

    def calibrate(self, windows: TrainingWindows) -> None:
        self.inner.calibrate(Viewed(windows, self.view))


@dataclass(frozen=True)
class Viewed:
    """Windows as a model inside sees them."""

    windows: TrainingWindows
    view: Callable[[Batch], Batch]

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, index: Tensor) -> Batch:
        return self.view(self.windows.batch(index))

    def batches(self, batch_size: int) -> Iterator[Batch]:
        return map(self.view, self.windows.batches(batch_size))

    def labels(self) -> Tensor:
        return self.windows.labels()

    def weights(self) -> Tensor:
        return self.windows.weights()


def mean_over_valid(values: Tensor, target: Tensor) -> Tensor:
    """Mean of values (B, H) where the target (B, H) is not missing; 0 where it is everywhere."""
    valid = ~torch.isnan(target)
    return (values * (valid / valid.sum().clamp(min=1))).sum()  # a weighted sum: no shape depends on the data


def spaced(windows: TrainingWindows, limit: int, batch_size: int = 1024) -> Iterator[Batch]:
    """At most `limit` windows, evenly spaced over all of them, in batches: a sample that depends on nothing else."""
    index = torch.linspace(0, len(windows) - 1, min(len(windows), limit), dtype=torch.float64).round().long()
    return (windows.batch(part) for part in index.split(batch_size))


def pinball(quantiles: Tensor, target: Tensor, levels: Tensor) -> Tensor:
    """Pinball loss (Koenker and Bassett 1978), mean over levels: (B, H, Q), (B, H), (Q,) -> (B, H), in the unit given.

    max(q e, (q - 1) e) with e = target - quantile; at q = 0.5 half the absolute error.
    """
    error = target.unsqueeze(-1) - quantiles
    return torch.maximum(levels * error, (levels - 1) * error).mean(-1)


def trainable_parameters(model: nn.Module) -> int:
    """Number of weights that training changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
