"""Forecasters without weights: persistence, seasonal, the CMA alone; and what all point forecasters share."""

from abc import abstractmethod

import torch
from torch import Tensor

from raycadian import config
from raycadian.models.base import Forecaster, ModelSpec, TrainingWindows, spaced
from raycadian.models.heads import residual_offsets
from raycadian.types import Batch, Prediction

_SAMPLE = 65536  # windows whose residuals give the intervals


class PointModel(Forecaster):
    """A point forecast with intervals from the quantiles of its own training residuals, per horizon step."""

    offsets_mgdl: Tensor

    def __init__(self, spec: ModelSpec, section: config.ModelConfig):
        super().__init__(spec, section)
        self.register_buffer("offsets_mgdl", torch.zeros(spec.horizon, len(spec.quantiles)))

    @abstractmethod
    def point(self, batch: Batch) -> Tensor:
        """The point forecast, (B, H) mg/dL."""

    def forward(self, batch: Batch) -> Prediction:
        return Prediction(self.point(batch).unsqueeze(-1) + self.offsets_mgdl)

    @torch.no_grad()
    def fit_statistics(self, windows: TrainingWindows) -> None:
        residual = torch.cat([batch["target"] - self.point(batch) for batch in spaced(windows, _SAMPLE)])
        self.offsets_mgdl.copy_(residual_offsets(residual, self.spec.quantiles))

    def _glucose(self, batch: Batch) -> Tensor:
        """(B, L) mg/dL in the model's precision."""
        return batch["past"][..., 0].to(self.offsets_mgdl.dtype)


class Persistence(PointModel):
    """The last value goes on."""

    def point(self, batch: Batch) -> Tensor:
        return self._glucose(batch)[:, -1:].expand(-1, self.spec.horizon)


class Seasonal(PointModel):
    """The same hour yesterday: each step repeats the context's value 24 h before it.

    Where that value was not measured it is what the cutter put there: the last one carried forward.
    Raises ValueError where the context does not hold the points 24 h before every step.
    """

    def __init__(self, spec: ModelSpec, section: config.Seasonal):
        super().__init__(spec, section)
        day, context, horizon = 1440 / spec.dt_min, spec.context, spec.horizon
        if day != int(day):
            raise ValueError(f"seasonal needs a grid that divides 24 h; found dt {spec.dt_min:g} min; choose 5, say")
        if not horizon <= day <= context:
            raise ValueError(
                f"seasonal repeats the value 24 h ({day:g} points) before each step, which must lie in the context; "
                f"found context {context} points, horizon {horizon}; set window.context >= {day:g} and window.horizon "
                f"<= {day:g}"
            )
        self.first = context - int(day)  # position in the context of yesterday's value for the first step

    def point(self, batch: Batch) -> Tensor:
        return self._glucose(batch)[:, self.first : self.first + self.spec.horizon]


class CMA(PointModel):
    """The mechanism alone, with intervals from its training residuals."""

    def point(self, batch: Batch) -> Tensor:
        assert "mechanism" in batch, "cut the windows with a mechanism"
        return batch["mechanism"][:, self.spec.context :].to(self.offsets_mgdl.dtype)
