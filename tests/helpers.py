"""Small synthetic data that several tests share. A plain module, so that tests import rather than copy."""

from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from raycadian.data.series import Series, build_series
from raycadian.types import Recording


class People:
    """In-memory recordings with the interface of a snapshot."""

    def __init__(self, recordings: dict[str, list[Recording]], name: str = "people"):
        self.id, self.subjects, self._recordings = name, sorted(recordings), recordings

    @property
    def lengths(self) -> dict[str, list[int]]:
        return {s: [len(r) for r in found] for s, found in self._recordings.items()}

    def each(self, subjects=None):
        return ((subject, self.recordings(subject)) for subject in subjects or self.subjects)

    def recordings(self, subject: str) -> list[Recording]:
        return self._recordings[subject]


def recording(
    glucose: np.ndarray, subject: str = "a", index: int = 0, start: str = "2026-01-05T00:00", offset_min: int = 0,
    observed: np.ndarray | None = None, **channels: np.ndarray,
) -> Recording:  # fmt: skip
    glucose = np.asarray(glucose, dtype=np.float32)
    return Recording(
        subject=subject, index=index, start_utc=np.datetime64(start, "s"), utc_offset_min=offset_min, dt_s=300.0,
        channels={"glucose_mgdl": glucose, **channels},
        observed=~np.isnan(glucose) if observed is None else observed,
    )  # fmt: skip


def day_curve(days: float, phase_h: float = 0.0, seed: int = 0, noise: float = 5.0) -> np.ndarray:
    """Glucose in mg/dL with three daily rises and autocorrelated noise: something to learn, not the CMA's own curve."""
    rng = np.random.default_rng(seed)
    n = int(days * 288)
    hour = (np.arange(n) * 5 / 60 + phase_h) % 24
    meals = sum(60 * np.exp(-(((hour - m) % 24 - 1) ** 2) / 1.5) for m in (7.5, 12.5, 19.0))
    drift = np.zeros(n)
    for i in range(1, n):
        drift[i] = 0.97 * drift[i - 1] + rng.normal(0, noise * 0.4)
    return np.clip(110 + meals + drift, 45, 380)


def people(n: int = 5, days: float = 4, gap_after: int | None = None) -> People:
    """`n` people of different lengths; `gap_after` points each recording breaks in two."""
    found = {}
    for i in range(n):
        glucose = day_curve(days + 0.25 * i, phase_h=i * 0.5, seed=i)
        pieces = [glucose] if gap_after is None else [glucose[:gap_after], glucose[gap_after + 24 :]]
        found[f"p{i}"] = [
            recording(piece, f"p{i}", k, f"2026-01-0{5 + k}T00:{5 * i:02d}") for k, piece in enumerate(pieces)
        ]
    return People(found)


def series(n: int = 5, days: float = 4) -> Series:
    return build_series(people(n, days), ("glucose_mgdl",))


def write_csv(path, n: int = 5, days: float = 4) -> None:
    """A generic CSV with subject, time, glucose of `people`."""
    rows = []
    for subject, (one,) in people(n, days)._recordings.items():
        times = one.start_utc + np.arange(len(one)) * np.timedelta64(300, "s")
        rows.append(pd.DataFrame({"subject": subject, "time": times, "glucose": one.channels["glucose_mgdl"].round(1)}))
    pd.concat(rows).to_csv(path, index=False)


def write_people(folder: Path, n: int, days: float) -> Path:
    """people.csv and its card in a folder; the card's path."""
    write_csv(folder / "people.csv", n, days)
    card = {"name": "people", "files": ["people.csv"], "unit": "mg/dL", "columns": {"subject": "subject"}}
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    return folder / "card.yaml"


def write_person(path, days: float) -> None:
    """A CSV of one person's time and glucose_mgdl, every five minutes."""
    glucose = day_curve(days).round(1)
    times = np.datetime64("2026-01-05") + np.arange(len(glucose)) * np.timedelta64(300, "s")
    pd.DataFrame({"time": times, "glucose_mgdl": glucose}).to_csv(path, index=False)
