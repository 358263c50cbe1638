"""Insulin and carbohydrate that were given over a time: combo and square boluses, carbohydrate with a duration."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from raycadian.modalities.cgm.builder import ReadingsBuilder
from raycadian.modalities.cgm.repeats import spread
from raycadian.types import SUBJECT, Readings

NO_DURATION = "extended bolus without a duration (taken at its beginning)"


def given_over(
    rows: pd.DataFrame, kind: str, amount: np.ndarray, minutes: np.ndarray, builder: ReadingsBuilder
) -> Iterator[Readings]:
    """Events of the amounts (N,) that are there: at their row's clock, those with a duration in equal parts over it."""
    there = ~np.isnan(amount)
    if not there.any():
        return iter(())
    minutes = np.nan_to_num(np.asarray(minutes, dtype=np.float64))
    builder.note(f"{kind} given over a time (spread over it)", rows["line"][there & (minutes > 0) & (amount > 0)])
    base = rows[[SUBJECT, "line", "clock", "offset_min"]][there]
    return builder.readings(spread(base, amount[there], minutes[there]).assign(kind=kind))
