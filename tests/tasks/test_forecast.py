"""What a forecast asks of its data before anything is trained."""

from types import SimpleNamespace

import numpy as np
import pytest

from raycadian.tasks import TASKS


def data(*recordings):
    values = np.concatenate(recordings)[None]
    offsets = np.cumsum([0, *map(len, recordings)])
    series = SimpleNamespace(
        offsets=offsets, channels=("glucose_mgdl",), values=lambda begin, stop: values[:, begin:stop]
    )
    return SimpleNamespace(series=series)


@pytest.fixture(autouse=True)
def windows(monkeypatch):
    monkeypatch.setattr(type(TASKS["forecast"]), "windows", lambda *arguments: None)


def test_a_target_that_never_changes_is_refused_before_training():
    """Persistence was trained and scored before ridge found no solution: 40 s."""
    nothing = np.full(3, np.nan)
    for recordings in ([np.full(5, 120.0)], [nothing, np.full(5, 120.0), np.array([120.0, np.nan])]):
        with pytest.raises(ValueError, match="every reading of glucose_mgdl is 120: nothing can be learnt"):
            TASKS["forecast"].require_windows(data(*recordings), None)
    for recordings in ([np.full(5, 120.0), np.full(5, 121.0)], [nothing, np.array([120.0, np.nan, 119.0])]):
        TASKS["forecast"].require_windows(data(*recordings), None)
