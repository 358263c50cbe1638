"""Cases at one point a second with judged stretches and numerics, in memory: what labelled windows are cut from."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from raycadian.data.marks import Marks, QualityMask
from raycadian.types import Recording

DT_S = 1.0
CHANNELS = ("abp_mmhg", "ppg")


@dataclass(frozen=True)
class Cases:
    """The interface of a snapshot of biosignals."""

    found: Mapping[str, list[tuple[Recording, Marks]]]
    id: str = "cases"

    @property
    def subjects(self) -> list[str]:
        return sorted(self.found)

    def each(self, subjects=None):
        return ((subject, self.recordings(subject)) for subject in subjects or self.subjects)

    def recordings(self, subject: str) -> list[Recording]:
        return [r for r, _ in self.found[subject]]

    def marks(self, subject: str) -> list[Marks]:
        return [m for _, m in self.found[subject]]


def case(
    subject: str, number: int = 0, seconds: int = 3600, seed: int = 0, falls: bool = True, bad: dict[str,
    list[int]] | None = None,
    **attributes: object,
) -> tuple[Recording, Marks]:  # fmt: skip
    """A pressure that declines to 55 mmHg over the ten minutes before each of two episodes, or stays; `bad`: stretches
    of 10 s, by channel, that were rejected."""
    rng = np.random.default_rng([seed, number])
    t = np.arange(seconds)
    level = 85.0 + rng.normal(0, 3)
    pressure = np.full(seconds, level)
    for onset in (0.35 * seconds, 0.8 * seconds) if falls else ():
        fall = np.clip((t - onset + 600) / 600, 0, 1) * (t < onset + 180)
        pressure -= fall * (level - 55.0)
    pressure += rng.normal(0, 1.0, seconds)
    channels = {"abp_mmhg": pressure.astype(np.float32), "ppg": rng.normal(0, 1, seconds).astype(np.float32)}
    start = np.datetime64("2000-01-01T00:00:00") + number * np.timedelta64(1, "D")
    recording = Recording(subject, number, start, 0, DT_S, channels, np.ones(seconds, dtype=bool))
    reasons = {c: np.zeros(seconds // 10, np.int32) for c in CHANNELS}
    for channel, stretches in (bad or {}).items():
        reasons[channel][stretches] = 2
    numerics = {"map_mmhg": (t[::2].astype(float), pressure[::2])}
    row = {"case": f"{subject}-{number}", **attributes}
    return recording, Marks(subject, number, seconds, DT_S, QualityMask(10, 10, reasons), numerics, row)


def cases(n: int = 12, seconds: int = 3600) -> Cases:
    """People of whom every third has two cases and every fourth never falls."""
    found = {}
    for i in range(n):
        tall = None if i % 5 == 0 else float(i % 2)  # not known of everybody
        own = [
            case(f"s{i:02d}", k, seconds, seed=i, falls=i % 4 != 3, age=30 + 5 * i, old=float(i >= n // 2), tall=tall)
            for k in range(1 + (i % 3 == 0))
        ]
        found[f"s{i:02d}"] = own
    return Cases(found)
