"""A small population run of activity and one made-up person's exports, for tests of personal calibration. A plain
module."""

import itertools
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from labelled_people import Cases

from raycadian.config import PAT, Classification, Column, Evaluation, LabelWindow, Recipe, Split, Tracking, Training
from raycadian.data.marks import Marks
from raycadian.data.series import build_series
from raycadian.data.split import make_split
from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.actigraphy.simulate import Participants, activity
from raycadian.runs import Run
from raycadian.tasks.signal import SignalData
from raycadian.tasks.window_index import find_windows, strata
from raycadian.training.pipeline import train_run
from raycadian.types import ACTIVITY_COUNTS, Recording

CARD = ActigraphyCard(name="made_up", files=("none.csv",))
DAY = 1440
START = np.datetime64("2026-03-02", "D")  # a Monday
EPISODES = ((9, 17), (27, 35), (44, 52))  # days of the person's record


def counts(ill: np.ndarray, seed: int, effect: float = 1.0) -> np.ndarray:
    """Minutes (D x 1440,) of one person, of whose days (D,) some are ill: later and less active, by amounts that days
    vary by."""
    rng = np.random.default_rng(seed)
    level, wake_h = np.exp(rng.normal(0, 0.3)), rng.normal(7, 0.8)
    sign = effect * np.array([False, True])
    both = Participants(
        seqn=np.arange(2), depressed=sign > 0, broken=np.array([0.1, 0.1]), level=level * np.exp(-0.5 * sign),
        wake_h=wake_h + 1.2 * sign, sleep_h=np.full(2, 7.8), first_weekday=np.ones(2, dtype=np.int64),
    )  # fmt: skip
    return np.concatenate([activity(both, int(x), DAY, DAY * d, rng)[0] for d, x in enumerate(ill)])


def population(
    folder: Path, people: int = 24, days: int = 4, window_days: int = 1, model: PAT | None = None, epochs: int = 3
) -> Run:
    """PAT on days of people of whom every second is ill, as `raycadian train` writes it."""
    people_of = {}
    for i in range(people):
        values = counts(np.full(days, i % 2 == 1), seed=100 + i).astype(np.float32)
        recording = Recording(
            f"s{i:02d}",
            0,
            START.astype("datetime64[s]"),
            0,
            60.0,
            {ACTIVITY_COUNTS: values},
            np.ones(len(values), bool),
        )
        people_of[f"s{i:02d}"] = [(recording, Marks(f"s{i:02d}", 0, len(values), 60.0, attributes={"ill": i % 2}))]
    cases = Cases(people_of)
    recipe = Recipe(
        name="population", dataset="none.yaml", split=Split(kind="subject", test_subjects=0.3, val_subjects=0.3),
        window=LabelWindow(
            window_s=86400, windows=window_days, step_s=86400, eval_step_s=86400, past=(ACTIVITY_COUNTS,),
            max_missing=0.5,
        ),
        task=Classification(label=Column(name="ill")), model=model or PAT(),
        training=Training(epochs=epochs, batch_size=8, lr=1e-3, device="cpu", precision="fp32"),
        evaluation=Evaluation(bootstrap=10), tracking=Tracking(mlflow="off", tensorboard=False),
    )  # fmt: skip
    series = build_series(cases, recipe.window.past)
    places = find_windows(cases, series, recipe.window, recipe.task)
    lengths = {s: [days * DAY] for s in people_of}
    split = make_split(lengths, recipe.split, strata=strata(places, series))
    return train_run(recipe, SignalData("made-up", series, split, card=CARD, index=places), runs=folder)


def ill_days(days: int = 60, episodes: tuple[tuple[int, int], ...] = EPISODES) -> np.ndarray:
    ill = np.zeros(days, dtype=bool)
    for a, b in episodes:
        ill[a:b] = True
    return ill


def write_recording(path: Path, values: np.ndarray, start: np.datetime64 = START) -> Path:
    """A generic table of minutes."""
    time = start.astype("datetime64[m]") + np.arange(len(values))
    pd.DataFrame({"time": time.astype(str), "activity": values.astype(np.int64)}).to_csv(path, index=False)
    return path


def write_apple_health(path: Path, values: np.ndarray) -> Path:
    """Steps of every 10 minutes with any, and a pulse all the time: a watch that is never off."""
    steps, rows = values.reshape(-1, 10).sum(1) // 20, []
    for i, n in enumerate(steps):
        begin, end = (str(START.astype("datetime64[s]") + 600 * k).replace("T", " ") + " +0000" for k in (i, i + 1))
        when = f'sourceName="Watch" startDate="{begin}" endDate="{end}"'
        rows.append(f'<Record type="HKQuantityTypeIdentifierHeartRate" unit="count/min" value="60" {when}/>')
        if n:
            rows.append(f'<Record type="HKQuantityTypeIdentifierStepCount" unit="count" value="{int(n)}" {when}/>')
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("apple_health_export/export.xml", f"<HealthData>{''.join(rows)}</HealthData>")
    return path


def write_labels(
    path: Path, ill: np.ndarray, first: int = 3, last: int | None = None, start: np.datetime64 = START
) -> Path:
    """A row for each stretch of equal labels of the days [first, last)."""
    own = ill[first:last]
    edges = [0, *(np.flatnonzero(np.diff(own.astype(int))) + 1), len(own)]
    rows = [(start + first + a, start + first + b - 1, int(own[a])) for a, b in itertools.pairwise(edges)]
    pd.DataFrame(rows, columns=["start", "end", "label"]).to_csv(path, index=False)
    return path
