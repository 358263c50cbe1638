"""bloodTwin's LSTM with quantiles in place of points."""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycadian import config
from raycadian.models.base import ModelSpec, TrainingWindows, spaced
from raycadian.models.heads import Headed, QuantileOffsets, Quantiles, StudentT, around
from raycadian.models.scaling import KnownCovariates
from raycadian.types import BASAL, BOLUS, GLUCOSE_MAX_MGDL, GLUCOSE_MIN_MGDL, Batch

FEATURES = ("glucose", "delta", "basal", "bolus", "hour_sin", "hour_cos", "clipped", "missing")
_FLAGS = 2  # the last two features are 0 or 1 and stay so
_SENSOR_MGDL = (40.0, 400.0)  # readings at or beyond these say "Low" or "High", not how much
_SAMPLE = 4096  # windows that give the scaler's statistics


class LSTM(Headed):
    """LSTM(8, hidden, layers) -> last hidden state -> Linear, ReLU, Dropout -> Linear (bloodTwin).

    Features a point: glucose, its change, basal rate, bolus, sine and cosine of the local hour, a flag where the sensor
    was at its limit (40 or 400 mg/dL), a flag where nothing was measured. Basal, bolus and hour are zeros where the
    windows don't carry them; carbohydrates are not used. Scaled by the median and the interquartile range of training
    windows (flags aside). Ours: the last layer gives the median and increments to the other quantiles, trained by the
    pinball loss (at 0.5 half of bloodTwin's L1), or Student's t in its place. Forecasts are held within 20-600 mg/dL.
    `exogenous`: the known channels are further features, and over the horizon the head sees them beside the last state.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, spec: ModelSpec, section: config.LSTM):
        super().__init__(spec, section)
        between = section.dropout if section.layers > 1 else 0.0  # dropout stands between layers
        width, outputs = len(spec.known) * section.exogenous, len(spec.quantiles) if section.head == "quantiles" else 2
        self.lstm = nn.LSTM(len(FEATURES) + width, section.hidden, section.layers, batch_first=True, dropout=between)
        self.head = nn.Sequential(
            nn.Linear(section.hidden + width * spec.horizon, section.hidden), nn.ReLU(), nn.Dropout(section.dropout),
            nn.Linear(section.hidden, spec.horizon * outputs),
        )  # fmt: skip
        self.known = KnownCovariates(spec) if section.exogenous else None
        self.tails = QuantileOffsets(spec) if section.head == "student_t" else None
        self.register_buffer("centre", torch.zeros(len(FEATURES)))
        self.register_buffer("scale", torch.ones(len(FEATURES)))

    @property
    def backbone(self) -> nn.Module:
        return self.lstm

    def distribution(self, batch: Batch) -> Quantiles | StudentT:
        raw = self._raw(batch)
        if self.tails is None:
            scaled = around(raw[..., 0], F.softplus(raw[..., 1:]), self.spec.middle)
            return Quantiles(self._held(scaled * self.scale[0] + self.centre[0], batch), self.levels)
        distribution = self.tails(raw[..., 0] * self.scale[0] + self.centre[0], raw[..., 1], self.scale[0])
        return replace(distribution, quantiles=self._held(distribution.quantiles, batch))

    def _raw(self, batch: Batch) -> Tensor:
        """(B, H, outputs), scaled."""
        features = (self._features(batch) - self.centre) / self.scale
        if self.known is None:
            last = self.lstm(features)[0][:, -1]
        else:
            known, context = self.known(batch), self.spec.context
            states, _ = self.lstm(torch.cat([features, known[:, :context]], dim=-1))
            last = torch.cat([states[:, -1], known[:, context:].flatten(1)], dim=-1)
        return self.head(last).unflatten(1, (self.spec.horizon, -1)).to(self.scale.dtype)

    def _held(self, quantiles: Tensor, batch: Batch) -> Tensor:
        shift = self._shift(batch)[:, self.spec.context :, None]
        return quantiles.clamp(GLUCOSE_MIN_MGDL - shift, GLUCOSE_MAX_MGDL - shift)

    def _features(self, batch: Batch) -> Tensor:
        """(B, L, 8) in the order of FEATURES, unscaled."""
        glucose = batch["past"][..., 0].to(self.scale.dtype)
        absolute = glucose + self._shift(batch)[:, : self.spec.context]
        columns = [
            glucose,
            torch.diff(glucose, prepend=glucose[:, :1]),
            *(_channel(batch["past"], self.spec.past, name) for name in (BASAL, BOLUS)),
            *(_channel(batch["known"][:, : self.spec.context], self.spec.known, n) for n in ("hour_sin", "hour_cos")),
            (absolute <= _SENSOR_MGDL[0]) | (absolute >= _SENSOR_MGDL[1]),
            ~batch["past_mask"][..., 0],
        ]
        return torch.stack([column.to(glucose.dtype) for column in columns], dim=-1)

    def _shift(self, batch: Batch) -> Tensor:
        """What a hybrid has subtracted from glucose, (B, L+H); zeros without one."""
        shape = (len(batch["past"]), self.spec.context + self.spec.horizon)
        return batch.get("shift", self.scale.new_zeros(()).expand(shape)).to(self.scale.dtype)

    @torch.no_grad()
    def fit_statistics(self, windows: TrainingWindows) -> None:
        if self.known is not None:
            self.known.fit_statistics(windows)
        sample = torch.cat([self._features(batch) for batch in spaced(windows, _SAMPLE)])
        values = sample[..., :-_FLAGS].flatten(0, 1).numpy()
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0).astype(np.float32)
        spread = torch.from_numpy(high - low)
        self.centre[:-_FLAGS] = torch.from_numpy(middle)
        self.scale[:-_FLAGS] = torch.where(spread > 0, spread, 1.0)


def _channel(values: Tensor, names: tuple[str, ...], name: str) -> Tensor:
    """One channel of (B, L, C) by name, (B, L); zeros where the windows don't carry it."""
    return values[..., names.index(name)] if name in names else values.new_zeros(()).expand(values.shape[:2])
