"""Training in stages: on simulated people, on real ones with the backbone frozen, then mechanism and weights in turn.

A stage is a source of windows, the weights that train, and a number of epochs of the one loop (training/loop.py). Every
stage is validated on the same real windows, keeps its state in a folder of its own, and goes on from the best epoch of
the one before; what was best over all of them is the outcome.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raycadian.config import CMAMechanism, Simulated, Staged, Training, Window
from raycadian.data.mechanism import DAY_S, fit_mechanism
from raycadian.data.series import Recordings, build_series
from raycadian.data.split import Range
from raycadian.data.windows import Windows, cut_windows
from raycadian.models.base import Model, spaced
from raycadian.physiology.cma import virtual
from raycadian.tasks.base import Cut
from raycadian.training.loop import Metrics, Trained, best_of, lower_is_better
from raycadian.types import GLUCOSE, ID, Recording

_SAMPLE = 16384  # training windows that tell the mean correction
_START = np.datetime64("2024-01-01T00:00:00")


Fit = Callable[[Cut, Training, Path | None, Sequence[Metrics]], Trained]
"""One training of the loop, in this process or on workers, after the epochs of the stages before."""


@dataclass
class _Stages:
    """A training as far as it has come: its epochs, and its best weights with the mechanism that they belong to."""

    model: Model
    training: Training
    fit: Fit
    state: Path | None
    built: dict[str, bool]  # which weights the recipe trains
    history: list[Metrics]
    best: tuple[float, dict[str, Tensor], Cut] | None = None
    last: Trained | None = None

    def run(self, name: str, cut: Cut, epochs: int) -> None:
        state = None if self.state is None else self.state / name
        training = self.training.model_copy(update={"epochs": epochs})
        self.last = self.fit(cut, training, state, self.history)
        self.history += self.last.history
        if not self.last.history:
            return
        monitor = self.model.monitor
        value = best_of(monitor, self.last.history)
        if self.best is None or lower_is_better(monitor, value) < lower_is_better(monitor, self.best[0]):
            weights = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
            self.best = (value, weights, cut)

    def train_all(self) -> None:
        self.model.requires_grad_(True)

    def train_as_built(self) -> None:
        for name, weight in self.model.named_parameters():
            weight.requires_grad_(self.built[name])

    def freeze_backbones(self) -> None:
        self.train_as_built()
        for part in self.model.modules():
            if isinstance(part, Model) and hasattr(part, "backbone"):
                part.backbone.requires_grad_(False)


def train(
    model: Model, staged: Staged, training: Training, cut: Cut, simulated: Callable[[], Windows],
    refit: Callable[[np.ndarray], Cut], fit: Fit, state: Path | None,
) -> tuple[Trained, Cut]:  # fmt: skip
    """Train a prepared model in place, stage by stage, and leave the best epoch's weights in it; with them the windows
    and the mechanism that they belong to.

    `simulated` gives the windows of simulated people, `refit` the real ones with the mechanism fitted to glucose less a
    daily correction (P,) mg/dL. Resuming repeats what lies between stages, which is deterministic, and skips done ones.
    Raises ValueError.
    """
    built = {name: weight.requires_grad for name, weight in model.named_parameters()}
    stages = _Stages(model, training, fit, state, built, [])
    if staged.pretrain_epochs:
        stages.train_all()
        stages.run("simulated", replace(cut, train=simulated()), staged.pretrain_epochs)
    if staged.frozen_epochs:
        stages.freeze_backbones()
        stages.run("frozen", cut, staged.frozen_epochs)
    stages.train_as_built()
    stages.run("joint", cut, training.epochs)
    for number in range(1, staged.rounds + 1):
        cut = refit(mean_correction(model, cut.train))
        model.fit_statistics(cut.train)
        stages.run(f"round-{number}", cut, training.epochs)
    return _outcome(stages)


def _outcome(stages: _Stages) -> tuple[Trained, Cut]:
    assert stages.best is not None and stages.last is not None
    value, weights, cut = stages.best
    stages.model.load_state_dict(weights)
    stages.model.eval()
    epoch = 1 + next(i for i, row in enumerate(stages.history) if row[stages.model.monitor] == value)
    return replace(stages.last, history=stages.history, best_epoch=epoch), cut


@torch.no_grad()
def mean_correction(model: Model, windows: Windows) -> np.ndarray:
    """What the model adds to the mechanism on average at each time of day, (P,) mg/dL, over training windows and steps.

    This is the correction that is held fixed while the mechanism is fitted again: the mechanism is fitted to daily
    profiles, in which no more of it is left. Times of day that no window reaches are interpolated.
    """
    model.cpu().eval()
    points = round(DAY_S / windows.series.dt_s)
    total, count = np.zeros(points), np.zeros(points)
    steps = torch.arange(1, windows.window.horizon + 1)
    for batch in spaced(windows, _SAMPLE):
        parts = model(batch).parts
        if "correction" not in parts:
            raise ValueError(
                "staged: the forecast has no part `correction`; put every member of an ensemble in a residual"
            )
        bins = ((batch["local_h"][:, None] * (points / 24) + steps + 1e-6).long() % points).flatten().numpy()
        total += np.bincount(bins, parts["correction"].flatten().double().numpy(), points)
        count += np.bincount(bins, minlength=points)
    seen = np.flatnonzero(count)
    return np.interp(np.arange(points), seen, total[seen] / count[seen], period=points)


# --- simulated people -------------------------------------------------------------------------------------------------


def simulated_windows(
    cut: Cut, how: Simulated, config: CMAMechanism, window: Window, stride: int, signals: Sequence[str]
) -> Windows:
    """Training windows of simulated people, with their own fits of the mechanism as real ones have.

    Level, swing and meal times lie around those of the population's fit; what the noise is like comes from how far the
    training windows are from their mechanism.
    """
    assert cut.mechanism is not None
    series = build_series(Recordings.of(_recordings(cut, how, config), "simulated"), window.past)
    ranges = tuple(
        Range(s, 0, 0, int(n), "train", ID) for s, n in zip(series.subjects, np.diff(series.offsets), strict=True)
    )
    mechanism = fit_mechanism(series, config, window.context + window.horizon, train=ranges, signals=signals)
    return cut_windows(series, ranges, window, stride, mechanism)


def _recordings(cut: Cut, how: Simulated, config: CMAMechanism) -> list[Recording]:
    series, population = cut.train.series, cut.mechanism.population
    rest = torch.cat([b["target"] - b["mechanism"][:, -b["target"].shape[1] :] for b in spaced(cut.train, 4096)])
    glucose = virtual.simulate(
        config.prior, how.subjects, round(how.days * DAY_S / series.dt_s), series.dt_s, tM=population["tM"],
        offset_mgdl=population["offset_mgdl"], gain_mgdl=population["gain_mgdl"],
        noise_mgdl=float(rest[~rest.isnan()].std()), rng=np.random.default_rng(how.seed),
    )  # fmt: skip
    seen = np.ones(glucose.shape[1], dtype=bool)
    return [
        Recording(f"simulated-{i:04d}", 0, _START, 0, series.dt_s, {GLUCOSE: values.astype(np.float32)}, seen)
        for i, values in enumerate(glucose)
    ]
