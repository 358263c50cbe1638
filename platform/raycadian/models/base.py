"""What a model is: `forward(batch) -> prediction`, `loss(batch) -> (loss, diagnostics)`. Wrappers are models.

Shapes as in types.py. Inputs and outputs are in their channel's own unit (glucose: mg/dL); whatever scaling a model needs is its own affair, and its
statistics are buffers, so that the weights file holds everything.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycadian.config import Model as ModelConfig
from raycadian.types import Batch, LabelPrediction, Prediction


@dataclass(frozen=True)
class ModelSpec:
    """What a model must fit: the windows it sees and what it gives. Raises ValueError.

    context L and horizon H in points of `dt_min` minutes · past and known: channel names · task forecast: past[0] is the
    target, quantiles are levels that rise strictly inside (0, 1) and contain 0.5 · the others: H is 0, there
    are no quantiles; balanced: windows with the label weigh as much as the others in training; labels: how many at once.
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
        if self.context < 1 or self.dt_min <= 0:
            raise ValueError(f"context and dt_min must be positive; found {self}")
        if self.task != "forecast":
            assert self.horizon == 0 and not self.quantiles, self
            return
        levels = list(self.quantiles)
        if levels != sorted(set(levels)) or not all(0 < q < 1 for q in levels) or 0.5 not in levels:
            raise ValueError(f"quantiles rise strictly inside (0, 1) and contain 0.5; found {levels}")
        if self.horizon < 1:
            raise ValueError(f"horizon must be positive; found {self}")

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
        task = {
            name: raw[name] for name in ("task", "balanced", "labels") if name in raw
        }  # checkpoints from before have none
        return cls(context=raw["context"], horizon=raw["horizon"], dt_min=raw["dt_min"], **lists, **task)


class TrainingWindows(Protocol):
    """What `prepare` (training windows only) and `calibrate` (validation windows only) read, streamed."""

    def __len__(self) -> int: ...

    def batch(self, index: Tensor) -> Batch: ...

    def batches(self, batch_size: int) -> Iterator[Batch]: ...

    def labels(self) -> Tensor:
        """(W,) or (W, labels): the label of every window, of a task with one."""
        ...

    def weights(self) -> Tensor:
        """(W,): how much each window counts; 1 where the loss isn't weighed."""
        ...


class Model(nn.Module, ABC):
    """A forecaster. A subclass gives `forward`; the loss is the same for all. For labels see `LabelModel`.

    `monitor`: the validation metric, lower is better, that chooses the epoch. `config` is the recipe's section that it was built from. `model.double()` computes in float64: equal rows then give
    equal forecasts to 1e-9 mg/dL whatever batch they stand in (float32: 1e-4).
    """

    monitor: ClassVar[str] = "val/rmse"
    adaptable: ClassVar[tuple[str, tuple[str, ...]] | None] = None
    """Of a model with a network: its attribute, and the names of the linear layers that a person's adapter adds to."""

    def __init__(self, spec: ModelSpec, config: ModelConfig):
        super().__init__()
        self.spec, self.config = spec, config
        self.register_buffer("levels", torch.tensor(spec.quantiles), persistent=False)

    @abstractmethod
    def forward(self, batch: Batch) -> Prediction:
        """Quantiles (B, H, Q) in mg/dL at spec.quantiles, non-decreasing in Q; the 0.5 level is the point forecast."""

    def forward_loss(self, batch: Batch) -> tuple[Prediction, Tensor]:
        """The forecast and what training minimises, from one pass: here the mean pinball loss in mg/dL over levels and
        non-missing targets. Without any valid target it is 0."""
        found = self(batch)
        target = batch["target"]
        return found, mean_over_valid(pinball(found.quantiles, torch.nan_to_num(target), self.levels), target)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """(the loss of `forward_loss`, diagnostics).

        diagnostics: n, the number of valid target points; mae and mse, mean absolute and squared error of the median
        in mg/dL. Means weighted by n over batches give the exact mean over all. Without any valid target all are 0.
        """
        found, loss = self.forward_loss(batch)
        target = batch["target"]
        error = (found.quantiles[..., self.spec.middle] - torch.nan_to_num(target)).detach()
        errors = {"mae": mean_over_valid(error.abs(), target), "mse": mean_over_valid(error.square(), target)}
        return loss, {"n": (~torch.isnan(target)).sum(), **errors}

    def fit_statistics(self, windows: TrainingWindows) -> None:
        """Compute statistics (and closed-form weights) from TRAINING windows. Raises ValueError for unfit windows."""

    def calibrate(self, windows: TrainingWindows) -> None:
        """Set what is chosen after training, from VALIDATION windows: on the CPU, in evaluation mode, into buffers.

        A wrapper calibrates what it wraps first, on windows as that sees them. Raises ValueError for unfit windows.
        """


SCORE_BINS = 1024  # of the probability, for the area under the ROC curve while training


class LabelModel(Model):
    """A model of one label a window: a subclass gives `score`, and calls `super().fit_statistics` in its own.

    classify: `score` is a log odds, trained by the cross entropy in which, if the spec says balanced, windows with the
    label weigh `positive_weight` times as much; `forward` takes that weight back, so that its odds are those of the
    training data (Elkan, The foundations of cost-sensitive learning, IJCAI 2001, theorem 2). regress: `score` is in
    standard deviations of the training labels, trained by the mean squared error; `forward` gives the label's unit.

    Of several labels each has weight, mean and standard deviation of its own, and the loss is the mean over all that are known.
    """

    monitor = "val/loss"

    def __init__(self, spec: ModelSpec, config: ModelConfig):
        super().__init__(spec, config)
        self.register_buffer("positive_weight", torch.ones(spec.label_shape))
        self.register_buffer("label_mean", torch.zeros(spec.label_shape))
        self.register_buffer("label_sd", torch.ones(spec.label_shape))

    @abstractmethod
    def score(self, batch: Batch) -> Tensor:
        """(B, *spec.label_shape): log odds, or the label in standard deviations about its mean."""

    def forward(self, batch: Batch) -> LabelPrediction:  # type: ignore[override]
        return LabelPrediction(self._in_unit(self._score(batch)))

    def _score(self, batch: Batch) -> Tensor:
        """Out of mixed precision, which would round a label's unit."""
        return self.score(batch).to(self.label_mean.dtype)

    def _in_unit(self, score: Tensor) -> Tensor:
        if self.spec.task == "classify":
            return score - self.positive_weight.log()
        return self.label_mean + self.label_sd * score

    def forward_loss(self, batch: Batch) -> tuple[LabelPrediction, Tensor]:  # type: ignore[override]
        score, label = self._score(batch), batch["label"]
        weight = weights_of(batch).to(score.dtype).view(-1, *[1] * (score.dim() - 1))
        return LabelPrediction(self._in_unit(score)), mean_over_valid(self.each_loss(score, label) * weight, label)

    def each_loss(self, score: Tensor, label: Tensor) -> Tensor:
        """As label: of a score, which is in its own unit; of an unknown label, that of 0."""
        known = torch.nan_to_num(label).to(score.dtype)
        if self.spec.task == "classify":
            weight = self.positive_weight.to(score.dtype)
            return F.binary_cross_entropy_with_logits(score, known, reduction="none", pos_weight=weight)
        return (score - (known - self.label_mean) / self.label_sd).square()

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """diagnostics: n, the number of known labels; mae and mse of the label (classify: of its probability); classify:
        ranks (2, SCORE_BINS), how many windows without and with the (first) label have a probability in each bin."""
        found, loss = self.forward_loss(batch)
        label = batch["label"]
        said = found.score.detach()
        if self.spec.task == "classify":
            said = torch.sigmoid(said)
        error = said - torch.nan_to_num(label)
        found_by = {"mae": mean_over_valid(error.abs(), label), "mse": mean_over_valid(error.square(), label)}
        if self.spec.task == "classify":
            found_by["ranks"] = _ranks(*(x if x.dim() == 1 else x[:, 0] for x in (said, label)))
        return loss, {"n": (~torch.isnan(label)).sum(), **found_by}

    def fit_statistics(self, windows: TrainingWindows) -> None:
        """Weight, mean and standard deviation of the training labels. Raises ValueError where they are all the same."""
        labels, weights = windows.labels().double().view(len(windows), -1), windows.weights().double()
        shape = self.spec.label_shape
        found = [_moments_of(label[~label.isnan()], weights[~label.isnan()]) for label in labels.T]
        mean, sd = torch.tensor(found, dtype=torch.float64).T.view(2, *shape)
        if self.spec.task == "regress":
            self.label_mean.copy_(mean)
            self.label_sd.copy_(sd)
        elif self.spec.balanced:
            self.positive_weight.copy_((1 - mean) / mean)


def _moments_of(label: Tensor, weight: Tensor) -> tuple[float, float]:
    """Weighed mean and standard deviation of known labels (N,). Raises ValueError where they are all the same."""
    if len(label) == 0 or label.min() == label.max():
        raise ValueError(
            f"training labels: {len(label)} known, all the same; take another split.seed, more subjects, or another label"
        )
    mean = (weight * label).sum() / weight.sum()
    variance = (weight * (label - mean).square()).sum() / weight.sum() * len(label) / (len(label) - 1)
    return mean.item(), variance.sqrt().item()


def weights_of(batch: Batch) -> Tensor:
    """(B,): how much each window counts; 1 where the loss isn't weighed."""
    return batch["weight"] if "weight" in batch else torch.ones(len(batch["past"]), device=batch["past"].device)


def _ranks(probability: Tensor, label: Tensor) -> Tensor:
    """(2, SCORE_BINS) counts; windows of unknown label count nowhere."""
    place = (probability * SCORE_BINS).long().clamp(0, SCORE_BINS - 1)
    known = (~torch.isnan(label)).to(torch.float32)
    positive = torch.nan_to_num(label).to(torch.float32)
    counts = torch.zeros(2, SCORE_BINS, device=probability.device)
    counts[0].index_add_(0, place, known * (1 - positive))
    counts[1].index_add_(0, place, known * positive)
    return counts


class Wrapper(Model):
    """A model around another: what that sees of a batch, and what becomes of its forecast. The rest is forwarded."""

    def __init__(self, spec: ModelSpec, config: ModelConfig, inner: Model):
        super().__init__(spec, config)
        self.inner = inner

    def view(self, batch: Batch) -> Batch:
        """The batch as the inner model sees it."""
        return batch

    def restore(self, found: Prediction, batch: Batch) -> Prediction:
        """The forecast in terms of `batch`, from the inner model's for `view(batch)`."""
        return found

    def forward(self, batch: Batch) -> Prediction:
        return self.restore(self.inner(self.view(batch)), batch)

    def forward_loss(self, batch: Batch) -> tuple[Prediction, Tensor]:
        found, loss = self.inner.forward_loss(self.view(batch))
        return self.restore(found, batch), loss

    def fit_statistics(self, windows: TrainingWindows) -> None:
        self.inner.fit_statistics(_Viewed(windows, self.view))

    def calibrate(self, windows: TrainingWindows) -> None:
        self.inner.calibrate(_Viewed(windows, self.view))


@dataclass(frozen=True)
class _Viewed:
    """Windows as the inner model sees them."""

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
