"""A small trained run on synthetic cases and their samples, for tests of what is served. A plain module, as helpers."""

from functools import cache
from pathlib import Path

import numpy as np
from labelled_people import Cases

from raycadian.config import (
    Classification,
    Column,
    Evaluation,
    LabelWindow,
    Recipe,
    Split,
    Statistics,
    Tracking,
    Training,
)
from raycadian.data.series import build_series
from raycadian.data.split import make_split
from raycadian.modalities.biosignals.card import BiosignalCard
from raycadian.modalities.biosignals.prepare import clean
from raycadian.modalities.biosignals.simulate import make_case, make_person
from raycadian.modalities.cards import parse_card
from raycadian.runs import Run
from raycadian.tasks.signal import SignalData
from raycadian.tasks.window_index import find_windows, strata
from raycadian.training.pipeline import train_run
from raycadian.types import Case, Track

TRACKS = {"ecg_mv": "SNUADC/ECG_II", "ppg": "SNUADC/PLETH", "abp_mmhg": "SNUADC/ART"}
RATE_HZ = 250.0


def card(**changes: object) -> BiosignalCard:
    raw = {
        "name": "served",
        "modality": "biosignals",
        "files": ["none.vital"],
        "waveforms": {c: [t] for c, t in TRACKS.items()},
    }
    return parse_card(raw | {"clinical": {"file": "none.csv", "keep": ["old"]}} | changes)


@cache
def raw_case(i: int, minutes: float = 6) -> Case:
    """Synthetic operation i, as recorded."""
    person = make_person(np.random.default_rng([5, i]))
    tracks, _ = make_case(person, minutes * 60, RATE_HZ, np.random.default_rng([6, i]))
    channels = {
        c: Track(tracks[t]["values"].astype(np.float32), tracks[t]["unit"], rate_hz=RATE_HZ) for c, t in TRACKS.items()
    }
    return Case(f"case-{i}", f"s{i}", channels, {"old": i % 2})


def make_run(folder: Path, n: int = 8, **changes: object) -> Run:
    """Trained and scored on `n` synthetic cases; `changes` of the card."""
    how = card(**changes)
    cleaned = {f"s{i}": clean(raw_case(i), how) for i in range(n)}
    people = Cases({s: [(c.recording, c.marks)] for s, c in cleaned.items()})
    recipe = Recipe(
        name="served", dataset="none.yaml", split=Split(kind="subject", test_subjects=0.4, val_subjects=0.4),
        window=LabelWindow(past=tuple(TRACKS), windows=2),
        task=Classification(label=Column(name="old"), balance="none"), model=Statistics(),
        training=Training(epochs=2, batch_size=64, device="cpu"), evaluation=Evaluation(bootstrap=20),
        tracking=Tracking(mlflow="off", tensorboard=False),
    )  # fmt: skip
    series = build_series(people, recipe.window.past)
    places = find_windows(people, series, recipe.window, recipe.task)
    split = make_split({s: [len(c.recording)] for s, c in cleaned.items()}, recipe.split, strata=strata(places, series))
    return train_run(recipe, SignalData("made-up", series, split, card=how, index=places), runs=folder)
