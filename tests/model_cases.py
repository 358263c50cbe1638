"""Every model, small, on windows of synthetic people with a mechanism: shared by the tests of models and
checkpoints."""

from dataclasses import dataclass

import helpers
import numpy as np
import torch

from raycadian import config
from raycadian.data.split import Range
from raycadian.data.windows import Windows, cut_windows
from raycadian.models.base import Model, ModelSpec
from raycadian.models.build import build
from raycadian.types import SIGNAL

WINDOW = config.Window(context=288, horizon=6)
SPEC = ModelSpec(288, 6, 5.0, WINDOW.past, WINDOW.known, (0.05, 0.5, 0.8, 0.95))  # asymmetric on purpose

TTM = config.TTM(patch_length=48, d_model=8, layers=2)
LORA = TTM.model_copy(update={"adapter": config.Lora(rank=2)})
EXOGENOUS = TTM.model_copy(update={"exogenous": True})
CASES: dict[str, config.Model] = {
    "persistence": config.Persistence(),
    "seasonal": config.Seasonal(),
    "ridge": config.Ridge(lags=6),
    "cma": config.CMA(),
    "lstm": config.LSTM(hidden=8),
    "ridge-changes": config.Ridge(lags=6, basis="changes", alpha=0.01),
    "mlp": config.MLP(lags=12, hidden=8),
    "mlp-student": config.MLP(lags=12, hidden=8, hour=False, head="student_t"),
    "ttm": TTM,
    "ttm-lora": LORA,
    "ttm-head": TTM.model_copy(update={"adapter": config.HeadOnly()}),
    "ttm-last": TTM.model_copy(update={"adapter": config.LastN(n=1)}),
    "residual-ridge": config.Residual(inner=config.Ridge(lags=6)),
    "residual-lstm": config.Residual(inner=config.LSTM(hidden=8)),
    "residual-ttm-lora": config.Residual(inner=LORA),
    "residual-residual-ttm": config.Residual(inner=config.Residual(inner=TTM)),
    "lstm-student": config.LSTM(hidden=8, head="student_t"),
    "ttm-student": TTM.model_copy(update={"head": "student_t"}),
    "exogenous-ridge": config.Exogenous(signals=("glucose", "I_E"), inner=config.Ridge(lags=6, exogenous=True)),
    "exogenous-lstm": config.Exogenous(signals=("glucose", "I_E"), inner=config.LSTM(hidden=8, exogenous=True)),
    "exogenous-ttm": config.Exogenous(signals=("glucose", "I_E"), inner=EXOGENOUS),
    "physics-lstm": config.Physics(inner=config.LSTM(hidden=8)),
    "staged-residual-lstm": config.Staged(inner=config.Residual(mechanism=None, inner=config.LSTM(hidden=8))),
    "ensemble-lstm": config.Ensemble(members=(config.LSTM(hidden=8),), size=2),
    "blend": config.Ensemble(members=(config.MLP(lags=12, hidden=8), config.Ridge(lags=6)), weights="validation"),
    "conformal-ridge": config.Conformal(inner=config.Ridge(lags=6)),
    "nested-ttm": config.Conformal(
        inner=config.Ensemble(
            members=(
                config.Residual(inner=config.Physics(mechanism=None, inner=TTM)),
                config.Exogenous(mechanism=None, signals=("c",), inner=EXOGENOUS),
            )
        )
    ),
}


@dataclass(frozen=True)
class Sine:
    """A mechanism that is one sine a day for everybody, with the interface that the cutter asks for."""

    level_mgdl: float = 110.0
    swing_mgdl: float = 20.0

    def cut(self, point: np.ndarray, starts: np.ndarray, context: int, length: int) -> dict[str, torch.Tensor]:
        hour = (torch.from_numpy(point)[:, None] + torch.arange(length)) / 12
        angle = hour * (2 * torch.pi / 24)
        signals = {SIGNAL + name: torch.cos(k * angle) for k, name in enumerate(("c", "I_E"), start=1)}
        return {"mechanism": self.level_mgdl + self.swing_mgdl * torch.sin(angle), **signals}


def windows(mechanism: Sine = Sine(), stop: int = 800) -> Windows:
    """About 500 windows of three people, the first 800 points of each."""
    ranges = tuple(Range(f"p{i}", 0, 0, stop, "train", "id") for i in range(3))
    return cut_windows(helpers.series(3, 3), ranges, WINDOW, 3, mechanism)


def prepared(section: config.Model, training: Windows, seed: int = 0) -> Model:
    """An untrained model with its statistics, ready to forecast."""
    torch.manual_seed(seed)
    model = build(section, SPEC)
    model.fit_statistics(training)
    return model.eval()
