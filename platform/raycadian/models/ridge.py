"""Ridge regression on the last values: the linear autoregression that a network has to beat."""

import torch
from torch import Tensor

from raycadian import config
from raycadian.models.base import ModelSpec, TrainingWindows
from raycadian.models.baselines import PointModel
from raycadian.models.scaling import KnownCovariates
from raycadian.types import Batch

_BATCH = 1024


class Ridge(PointModel):
    """Direct multi-step linear autoregression: each step has its own weights on the last `lags` values.

    y_h - v_L = b_h + w_h . x, x = (v_L, v_(L-1) - v_L, ..., v_(L-lags+1) - v_L), minimising over all training windows
    sum (y_h - v_L - b_h - w_h . x)^2 + alpha s^2 |w_h|^2, s^2 the mean squared lagged difference. A large penalty gives
    persistence plus a constant. `basis: changes`: x = (v_L, v_(L-1) - v_L, v_(L-2) - v_(L-1), ...) and the penalty is
    alpha n sum_k var(x_k) w_hk^2 for n windows: it shrinks sudden weights, and as strongly for many windows as for few.
    Closed form by normal equations, streamed in float64; missing targets are left out. `exogenous`: x of step h goes on
    with the known channels at that step, standardised, their penalty in units of their own mean square.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, spec: ModelSpec, section: config.Ridge):
        super().__init__(spec, section)
        if section.lags > spec.context:
            raise ValueError(f"ridge.lags {section.lags} exceeds the context of {spec.context} points; lower lags")
        self.known = KnownCovariates(spec) if section.exogenous else None
        self.size = section.lags + (len(spec.known) if section.exogenous else 0)
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
