"""A small trained run and the readings behind it, for tests of what is served. A plain module, as helpers."""

from pathlib import Path

import helpers
import numpy as np
import pandas as pd

from raycadian.config import (
    TTM,
    CMAMechanism,
    Evaluation,
    Grid,
    Model,
    Recipe,
    Residual,
    Split,
    Tracking,
    Training,
    Window,
)
from raycadian.data.grid import to_recordings
from raycadian.data.series import build_series
from raycadian.data.split import make_split
from raycadian.modalities.request import Request
from raycadian.personal.store import Store
from raycadian.runs import Run
from raycadian.serving.load import personalise
from raycadian.serving.predictor import Answer, Predictor
from raycadian.serving.stream import SignalStream
from raycadian.tasks.forecast import ForecastData
from raycadian.training.pipeline import train_run
from raycadian.types import CARBS, Issues, Readings

GRID = Grid()
KEY = "a key that tests know"
MODEL = Residual(mechanism=CMAMechanism(refit_days=2), inner=TTM(d_model=8, layers=1, patch_length=12))


class Direct:
    """The service of a predictor, without Ray and batches; with a store also of its people's."""

    def __init__(self, predictor: Predictor | None, run: Run | None = None, store: Store | None = None):
        self.predictor, self.run, self.store = predictor, run, store

    def describe(self) -> dict[str, object] | None:
        if self.predictor is None:
            return None
        about = {"model": self.predictor.name, "snapshot": "made-up", "metrics": {}, "rejected": None, "note": ""}
        return about | self.predictor.describe()

    def example(self) -> dict[str, object] | None:
        return self.predictor and self.predictor.example()

    async def answer(self, request: Request, key: str | None = None) -> Answer | ValueError:
        try:
            return (self.predictor if key is None else self._own(request, key)).predict([request])[0]
        except ValueError as error:
            return error

    def _own(self, request: Request, key: str) -> Predictor:
        return personalise(self.predictor, self.run, self.store.opened(request.subject, key), self.store)

    def open_stream(self, channels: dict[str, tuple[float, str]]) -> SignalStream:
        return self.predictor.open_stream(channels)


def people(n: int = 4, days: float = 6) -> dict[str, Readings]:
    """Readings as sensors give them: off the grid by up to a minute, some missing, meals beside them."""
    return {f"p{i}": _person(f"p{i}", days, seed=i) for i in range(n)}


def _person(subject: str, days: float, seed: int) -> Readings:
    rng = np.random.default_rng(seed)
    glucose = helpers.day_curve(days, phase_h=seed, seed=seed)
    kept = rng.random(len(glucose)) > 0.06
    kept[1000:1020] = False  # longer than the gap rule allows
    jitter_s = rng.integers(-60, 61, len(glucose))
    time = np.datetime64("2026-01-05T00:00", "s") + 300 * np.arange(len(glucose)) + jitter_s
    table = {
        "time_utc": time[kept].astype("datetime64[ns]"),
        "glucose_mgdl": glucose[kept].round(1),
        "utc_offset_min": 60,
    }
    meals = {"time_utc": time[100::96].astype("datetime64[ns]"), "kind": CARBS, "value": 40.0}
    return Readings(subject, pd.DataFrame(table), pd.DataFrame(meals))


def make_run(
    folder: Path, readings: dict[str, Readings], seed: int = 0, past: tuple[str, ...] = ("glucose_mgdl",),
    model: Model = MODEL, **window: tuple[str, ...],
) -> Run:  # fmt: skip
    """A residual TTM, unless told otherwise, trained for a few steps, as `raycadian train` writes it."""
    recipe = Recipe(
        name="served", dataset="none.yaml", split=Split(kind="time"),
        window=Window(context=36, horizon=6, past=past, **window), model=model,
        training=Training(epochs=1, max_steps_per_epoch=5, batch_size=64, device="cpu", precision="fp32", seed=seed),
        evaluation=Evaluation(bootstrap=10), tracking=Tracking(mlflow="off", tensorboard=False),
    )  # fmt: skip
    recordings = {s: to_recordings(r, GRID, Issues()) for s, r in readings.items()}
    series = build_series(helpers.People(recordings), past)
    lengths = {s: [len(r) for r in own] for s, own in recordings.items()}
    return train_run(
        recipe, ForecastData("made-up", series, make_split(lengths, recipe.split, "made-up"), grid=GRID), runs=folder
    )


def until(readings: Readings, time_utc: np.datetime64) -> Readings:
    """What was known half a step after a point of the grid."""
    end = time_utc + np.timedelta64(150, "s")
    known = readings.glucose[readings.glucose["time_utc"] <= end]
    return Readings(readings.subject, known, readings.events[readings.events["time_utc"] <= end])
