"""Forecasters without gradient training: persistence, seasonal, ridge, the CMA alone."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from raycadian import config
from raycadian.models.base import Model, ModelSpec, TrainingWindows, spaced
from raycadian.models.heads import residual_offsets
from raycadian.models.known import KnownCovariates
from raycadian.types import Batch, Prediction

_SAMPLE = 65536  # windows whose residuals give the intervals
_BATCH = 1024


class PointModel(Model):
    """A point forecast with intervals from the quantiles of its own training residuals, per horizon step."""

    offsets_mgdl: Tensor

    def __init__(self, spec: ModelSpec, config: config.Model):
        super().__init__(spec, config)
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

    def __init__(self, spec: ModelSpec, config: config.Seasonal):
        super().__init__(spec, config)
        day, context, horizon = 1440 / spec.dt_min, spec.context, spec.horizon
        if day != int(day):
            raise ValueError(f"seasonal needs a grid that divides 24 h; found dt {spec.dt_min:g} min; choose 5, say")
        if not horizon <= day <= context:
            raise ValueError(
                f"seasonal repeats the value 24 h ({day:g} points) before each step, which must lie in the context; found "
                f"context {context} points, horizon {horizon}; set window.context >= {day:g} and window.horizon <= {day:g}"
            )
        self.first = context - int(day)  # position in the context of yesterday's value for the first step

    def point(self, batch: Batch) -> Tensor:
        return self._glucose(batch)[:, self.first : self.first + self.spec.horizon]


class Ridge(PointModel):
    """Direct multi-step linear autoregression: each step has its own weights on the last `lags` values.

    y_h - v_L = b_h + w_h . x, x = (v_L, v_(L-1) - v_L, ..., v_(L-lags+1) - v_L), minimising over all training windows
    sum (y_h - v_L - b_h - w_h . x)^2 + alpha s^2 |w_h|^2, s^2 the mean squared lagged difference. A large penalty gives
    persistence plus a constant. `basis: changes`: x = (v_L, v_(L-1) - v_L, v_(L-2) - v_(L-1), ...) and the penalty is
    alpha n sum_k var(x_k) w_hk^2 for n windows: it shrinks sudden weights, and as strongly for many windows as for few. Closed form by normal equations, streamed in float64; missing targets are left out.
    `exogenous`: x of step h goes on with the known channels at that step, standardised, their penalty in units of their
    own mean square.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, spec: ModelSpec, config: config.Ridge):
        super().__init__(spec, config)
        if config.lags > spec.context:
            raise ValueError(f"ridge.lags {config.lags} exceeds the context of {spec.context} points; lower lags")
        self.known = KnownCovariates(spec) if config.exogenous else None
        self.size = config.lags + (len(spec.known) if config.exogenous else 0)
        self.register_buffer("weight", torch.zeros(spec.horizon, self.size))
        self.register_buffer("bias", torch.zeros(spec.horizon))

    def point(self, batch: Batch) -> Tensor:
        x, last = self._features(batch)
        # not a matrix product: autocast would round that to bfloat16
        return last + self.bias + (x * self.weight).sum(-1)

    def fit_statistics(self, windows: TrainingWindows) -> None:
        if self.known is not None:
            self.known.fit_statistics(windows)
        self._fit(windows)
        super().fit_statistics(windows)

    def _features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """x (B, H or 1, size) and the last value (B, 1)."""
        recent = self._glucose(batch)[:, -self.config.lags :].flip(1)
        last = recent[:, :1]
        before = recent[:, 1:] - last if self.config.basis == "lagged" else recent.diff(dim=1)
        x = torch.cat([last, before], dim=1).unsqueeze(1)
        if self.known is None:
            return x, last
        known = self.known(batch)[:, self.spec.context :]
        return torch.cat([x.expand(-1, self.spec.horizon, -1), known], dim=-1), last

    @torch.no_grad()
    def _fit(self, windows: TrainingWindows) -> None:
        size = self.size + 1
        gram = torch.zeros(self.spec.horizon, size, size, dtype=torch.float64)
        moment = torch.zeros(self.spec.horizon, size, dtype=torch.float64)
        for batch in windows.batches(_BATCH):
            x, last = (part.double() for part in self._features(batch))
            # (H or 1, B, size+1); the last column is the constant
            x = torch.cat([x, torch.ones_like(x[..., :1])], dim=-1).transpose(0, 1)
            y = batch["target"].double() - last
            seen = ~torch.isnan(y)
            weighted = seen.T.unsqueeze(-1) * x  # (H, B, size+1)
            gram += weighted.mT @ x
            moment += (torch.nan_to_num(y).T.unsqueeze(1) @ x).squeeze(1)
        lagged = self.config.basis == "lagged"
        unit = _lagged_unit(gram, self.config.lags) if lagged else _variances(gram)
        solution = _solve(gram, moment, self.config.alpha * unit)
        self.weight.copy_(solution[:, :-1])
        self.bias.copy_(solution[:, -1])


def _lagged_unit(gram: Tensor, lags: int) -> Tensor:
    """(H, size): the mean squared lagged difference; of known channels their own mean square."""
    squares = gram.diagonal(dim1=1, dim2=2)[:, :-1] / gram[:, -1, -1].clamp(min=1).unsqueeze(1)
    lagged = squares[:, 1:lags].sum(1, keepdim=True) / max(1, lags - 1)
    return torch.cat([lagged.expand(-1, lags), squares[:, lags:]], dim=1)


def _variances(gram: Tensor) -> Tensor:
    """(H, size): each variable's variance times the number of windows."""
    count = gram[:, -1, -1].clamp(min=1).unsqueeze(1)
    return gram.diagonal(dim1=1, dim2=2)[:, :-1] - gram[:, :-1, -1].square() / count


def _solve(gram: Tensor, moment: Tensor, penalty: Tensor) -> Tensor:
    """Solve (gram + penalty) w = moment per step; the constant, last, carries no penalty. Raises ValueError."""
    count = gram[:, -1, -1]
    penalty = torch.cat([penalty, torch.zeros_like(penalty[:, :1])], dim=1)
    solution, info = torch.linalg.solve_ex((gram + torch.diag_embed(penalty)), moment)
    if info.any() or not solution.isfinite().all():
        raise ValueError(
            f"ridge has no unique solution: the training glucose is constant or there are too few windows "
            f"({int(count.min())}); bring more data or raise ridge.alpha"
        )
    return solution


class CMA(PointModel):
    """The mechanism alone, with intervals from its training residuals."""

    def point(self, batch: Batch) -> Tensor:
        assert "mechanism" in batch, "cut the windows with a mechanism"
        return batch["mechanism"][:, self.spec.context :].to(self.offsets_mgdl.dtype)
