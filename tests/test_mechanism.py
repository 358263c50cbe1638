import json

import helpers
import numpy as np
import pytest
import torch

from raycadian.config import CMAMechanism, Window
from raycadian.data.mechanism import fit_mechanism
from raycadian.data.series import build_series
from raycadian.data.split import Range
from raycadian.data.windows import cut_windows
from raycadian.physiology.fit import CMAFit

CONFIG = CMAMechanism(refit_days=1, history_days=3, min_days=0.5, starts=2)
WINDOW = Window(context=24, horizon=6)
LENGTH = 30


def series_of(glucose, start="2026-01-05T00:00"):
    return build_series(helpers.People({"a": [helpers.recording(glucose, start=start)]}), ("glucose_mgdl",))


def fitted(series, train_points=400, **options):
    train = (Range("a", 0, 0, train_points, "train", "id"),)
    return fit_mechanism(series, CONFIG, LENGTH, train=train, **options)


def test_a_window_never_sees_a_fit_to_data_after_its_last_context_point():
    """Change everything after a point: the mechanism of windows that end before it stays the same."""
    glucose = helpers.day_curve(5)
    changed = glucose.copy()
    changed[900:] = 400 - changed[900:]
    one, two = fitted(series_of(glucose)), fitted(series_of(changed))
    starts = np.arange(0, len(glucose) - LENGTH)
    before = starts + WINDOW.context - 1 < 900
    curves = [m.cut(starts, starts, WINDOW.context, LENGTH)["mechanism"] for m in (one, two)]
    assert torch.equal(curves[0][before], curves[1][before])
    assert not torch.equal(curves[0][starts > 1152], curves[1][starts > 1152])


def test_each_window_is_served_by_the_last_midnight_before_it():
    series = series_of(helpers.day_curve(3), start="2026-01-05T06:00")
    found = fitted(series)
    cutoffs = [found.records[i]["cutoff_local_s"] for i in found.fit_of]
    assert cutoffs[0] is None  # the population serves until there is half a day of readings before a midnight
    midnights = np.datetime64("2026-01-06T00:00", "s").astype(int) + 86400 * np.arange(3)
    assert cutoffs[1:] == midnights.tolist()
    assert found.first.tolist() == [0, 216, 216 + 288, 216 + 576]


def test_curves_are_the_fit_at_the_windows_own_hours():
    series = series_of(helpers.day_curve(3), start="2026-01-05T01:17")
    found = fitted(series, signals=("c", "meal_distr"))
    starts = np.array([300, 500, 700])
    cut = found.cut(starts, starts, WINDOW.context, LENGTH)
    assert set(cut) == {"mechanism", "signal_c", "signal_meal_distr"}
    row = np.searchsorted(found.first, starts + WINDOW.context - 1, side="right") - 1
    hours = (1 + 17 / 60 + (starts[:, None] + np.arange(LENGTH)) * 5 / 60) % 24
    fits = CMAFit.from_records(found.records)[torch.from_numpy(found.fit_of[row])]
    assert torch.allclose(cut["mechanism"], fits.glucose_mgdl(torch.from_numpy(hours)).float(), atol=1e-3)
    signals = fits.signals(torch.from_numpy(hours))
    for name in ("c", "meal_distr"):
        assert torch.allclose(cut[f"signal_{name}"], signals[name].float(), atol=1e-5)


def test_fits_are_to_glucose_less_the_correction_that_the_population_keeps():
    """A daily curve that is taken off as correction is as if it never was, when trained and when served."""
    glucose, hour = helpers.day_curve(4), np.arange(288) / 12
    bump = 25 * np.exp(-((hour - 15) ** 2))
    plain = fitted(series_of(glucose))
    series = series_of(glucose + np.tile(bump, 4))
    corrected = fitted(series, correction_mgdl=bump)
    assert not np.allclose(fitted(series).curves, plain.curves, atol=1)
    np.testing.assert_allclose(corrected.curves, plain.curves, atol=0.01)
    served = fit_mechanism(series, CONFIG, LENGTH, population=json.loads(json.dumps(corrected.population)))
    assert torch.equal(served.curves, corrected.curves)


def test_it_comes_along_in_a_batch():
    series = series_of(helpers.day_curve(3))
    mechanism = fitted(series)
    windows = cut_windows(series, (Range("a", 0, 0, 800, "train", "id"),), WINDOW, 7, mechanism)
    batch = windows.batch(torch.arange(5))
    assert batch["mechanism"].shape == (5, LENGTH)
    assert torch.isfinite(batch["mechanism"]).all()


def test_a_held_out_person_uses_the_population_given():
    trained = fitted(series_of(helpers.day_curve(3)))
    served = fit_mechanism(series_of(helpers.day_curve(0.3, seed=9)), CONFIG, LENGTH, population=trained.population)
    assert served.records == [trained.population]


def test_grids_that_do_not_divide_a_day_are_refused():
    recording = helpers.recording(helpers.day_curve(1))
    odd = helpers.People({"a": [type(recording)(**{**vars(recording), "dt_s": 420.0})]})
    with pytest.raises(ValueError, match="divides 24 h"):
        fit_mechanism(build_series(odd, ("glucose_mgdl",)), CONFIG, LENGTH, train=())


def test_training_data_without_a_shape_are_refused():
    with pytest.raises(ValueError, match="can't be fitted"):
        fitted(series_of(np.full(600, 110.0)))
