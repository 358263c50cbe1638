"""Draws docs/assets/forecast.svg: forecasts of a simulated patient whom the model has never seen, over one day.

Run from the repository's root: `python docs/assets/forecast_figure.py`. It trains the recipe beside it (half a minute
on 2 cores) in a temporary folder; nothing of it stays but the figure.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib
import numpy as np

from raycadian.config import load_recipe
from raycadian.evaluation.forecast.predictions import Predictions
from raycadian.modalities.prepare import prepare
from raycadian.training.pipeline import load_data, read_predictions, train_run
from raycadian.types import OOD

HERE = Path(__file__).parent
EVERY_MIN = 120  # a forecast of two hours begins where the one before ends
HOURS = 24


def main() -> None:
    matplotlib.use("svg")
    with TemporaryDirectory() as folder:
        recipe = load_recipe(HERE / "forecast.yaml")
        data = load_data(recipe, snapshot=prepare(recipe.dataset, Path(folder) / "snapshots"))
        run = train_run(recipe, data, runs=Path(folder) / "runs")
        draw(read_predictions(run))


def draw(predictions: Predictions) -> None:
    import matplotlib.pyplot as plt

    shown = one_day(predictions)
    figure, axis = plt.subplots(figsize=(9, 3.3), layout="constrained")
    axis.axhspan(70, 180, color="#2a9d8f", alpha=0.08, lw=0)
    for i in range(len(shown)):
        forecast(axis, shown, i)
    axis.set(xlabel="hours", ylabel="glucose, mg/dL", xlim=(0, HOURS), ylim=(40, None))
    axis.set_xticks(range(0, HOURS + 1, 3))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(loc="upper right", fontsize=8, ncols=4, frameon=False)
    axis.set_title("Two-hour forecasts of a simulated patient held out whole", fontsize=10, loc="left")
    figure.savefig(HERE / "forecast.svg", metadata={"Date": None})


def one_day(predictions: Predictions) -> Predictions:
    """Windows of a held-out subject's first whole day of test, EVERY_MIN apart."""
    own = predictions.select(predictions.scope == OOD)
    own = own.select(own.subject == own.subject[0])
    after_min = (own.time_utc - own.time_utc[0]) / np.timedelta64(1, "m")
    return own.select((after_min % EVERY_MIN == 0) & (after_min < 60 * HOURS))


def forecast(axis, predictions: Predictions, i: int) -> None:
    """One forecast as a fan from its origin, over what was measured."""
    hours = (
        (predictions.time_utc[i] - predictions.time_utc[0]) / np.timedelta64(1, "m") + predictions.horizon_min
    ) / 60
    low, quarter, median, three, high = predictions.quantiles[i].T
    label = (lambda text: text) if i == 0 else (lambda text: None)
    axis.plot(hours, predictions.truth[i], ".", ms=2.5, color="#444", label=label("measured"))
    axis.fill_between(hours, low, high, color="#e76f51", alpha=0.18, lw=0, label=label("90% interval"))
    axis.fill_between(hours, quarter, three, color="#e76f51", alpha=0.35, lw=0, label=label("50% interval"))
    axis.plot(hours, median, color="#c1440e", lw=1.3, label=label("forecast"))


if __name__ == "__main__":
    main()
