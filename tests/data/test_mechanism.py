import json
from dataclasses import replace

import helpers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raycadian.config import CMAMechanism, Window
from raycadian.data import fits
from raycadian.data.mechanism import fit_mechanism
from raycadian.data.series import Origin, build_series
from raycadian.data.split import Range
from raycadian.data.windows import cut_windows
from raycadian.physiology.cma import equations as cma
from raycadian.physiology.cma.result import CMAFit

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


# --- nothing of the future --------------------------------------------------------------------------------------------

STEADY = helpers.day_curve(4, seed=3)


@pytest.mark.slow
@given(
    at=st.integers(300, 1100), length=st.integers(1, 200), by=st.sampled_from([-40.0, 25.0, np.nan]),
    start_h=st.sampled_from([0, 7, 19]), refit_days=st.sampled_from([0.5, 1.0, 2.0]),
)  # fmt: skip
@settings(max_examples=12)
def test_no_reading_changes_the_mechanism_before_the_next_cutoff(at, length, by, start_h, refit_days):
    """Change readings from a point on: windows whose last context point comes before the next cutoff are served the
    same, to the bit."""
    config = CONFIG.model_copy(update={"refit_days": refit_days, "starts": 1})
    changed = STEADY.copy()
    changed[at : at + length] += by
    found = []
    for glucose in (STEADY, changed):
        series = series_of(glucose, start=f"2026-01-05T{start_h:02}:00")
        found.append(fit_mechanism(series, config, LENGTH, train=(Range("a", 0, 0, 250, "train", "id"),)))
    refit = int(refit_days * 288)
    next_cutoff = (
        -(-(at + 12 * start_h) // refit) * refit - 12 * start_h
    )  # in points; a reading at a cutoff is after it
    if next_cutoff == at:
        next_cutoff += refit
    starts = np.arange(0, len(STEADY) - LENGTH)
    last = starts + WINDOW.context - 1
    one, two = (m.cut(starts, starts, WINDOW.context, LENGTH)["mechanism"] for m in found)
    assert torch.equal(one[last < next_cutoff], two[last < next_cutoff])
    if (last >= next_cutoff).any():
        assert not torch.equal(one[last >= next_cutoff], two[last >= next_cutoff])


# --- what the fits are worth ------------------------------------------------------------------------------------------


def test_diagnostics_count_what_the_records_say(caplog):
    wild = helpers.day_curve(4) + np.random.default_rng(0).normal(0, 45, 4 * 288)
    found = fitted(series_of(np.clip(wild, 40, 400)))
    told = found.diagnostics
    assert json.loads(json.dumps(told, allow_nan=False)) == told and told["fits"] == len(found.records)
    assert told["rmse_mgdl"]["above_30"] == told["fits"] and told["rmse_mgdl"]["max"] < 70
    for name in cma.PARAMETERS:
        assert told["at_bound"][name] == sum(name in r["at_bound"] for r in found.records)
        silent = [r for r in found.records if name not in r["at_bound"] and name not in r["informed"]]
        assert told["not_informed"][name] == len(silent)
    warned = [r.getMessage() for r in caplog.records if "RMSE" in r.getMessage()]
    assert len(warned) == 1 and warned[0].startswith(f"{told['fits']} of {told['fits']} fits")


def test_the_rmse_of_readings_is_that_of_the_readings():
    series = series_of(helpers.day_curve(4))
    found = fitted(series)
    record = found.records[-1]
    assert record["cutoff_local_s"] == int(series.start_s[0]) + 3 * 86400
    before = np.arange(3 * 288)
    curve = CMAFit.from_records([record]).glucose_mgdl(torch.from_numpy(before / 12 % 24))[0].numpy()
    expected = np.sqrt(np.nanmean((series.table[0, before] - curve) ** 2))
    assert record["rmse_readings_mgdl"] == pytest.approx(expected, rel=1e-6)
    assert record["rmse_readings_mgdl"] > record["rmse_mgdl"]
    assert found.diagnostics["rmse_mgdl"]["above_30"] == 0


# --- fits that are kept, and fits elsewhere ---------------------------------------------------------------------------


@pytest.fixture
def mapped(tmp_path):
    """A series with an origin, as `open_series` gives it."""
    series = build_series(helpers.people(3, 3), ("glucose_mgdl",))
    return replace(series, origin=Origin(str(tmp_path / "snapshots" / "people-123"), ("glucose_mgdl",)))


def _fits_of(series, monkeypatch, config=CONFIG, **options):
    """The mechanism and how many profiles were fitted for it."""
    count = []
    real = fits.fit_profiles
    monkeypatch.setattr(
        fits, "fit_profiles", lambda profiles, *a, **k: count.extend(profiles) or real(profiles, *a, **k)
    )
    train = (Range("p0", 0, 0, 500, "train", "id"), Range("p1", 0, 0, 300, "train", "id"))
    found = fit_mechanism(series, config, LENGTH, **({"train": train} | options))
    monkeypatch.undo()
    return found, len(count)


def test_the_same_fits_are_made_once(mapped, monkeypatch):
    first, n = _fits_of(mapped, monkeypatch)
    again, none = _fits_of(mapped, monkeypatch)
    assert n > 4 and none == 0 and again.records == first.records and torch.equal(again.curves, first.curves)
    train = (Range("p0", 0, 0, 500, "train", "id"), Range("p1", 0, 0, 300, "train", "id"))
    longer = fit_mechanism(mapped, CONFIG, 2 * LENGTH, train=train)
    assert longer.records == first.records  # the horizon is no part of a fit
    memory, _ = _fits_of(replace(mapped, origin=None), monkeypatch)
    assert memory.records == first.records
    folder = mapped.origin.folder.parent
    assert len(list(folder.glob("fits-*.json"))) == 1 and not list(folder.glob(".fits-*"))


def test_other_fits_are_made_anew(mapped, monkeypatch):
    """Another mechanism, split, correction or snapshot."""
    _fits_of(mapped, monkeypatch)
    elsewhere = replace(mapped, origin=replace(mapped.origin, snapshot=mapped.origin.snapshot + "4"))
    for series, config, options in (
        (mapped, CONFIG.model_copy(update={"prior_weight": 2.0}), {}),
        (mapped, CONFIG, {"train": (Range("p0", 0, 0, 400, "train", "id"),)}),
        (mapped, CONFIG, {"correction_mgdl": [1.0] * 288}),
        (elsewhere, CONFIG, {}),
    ):
        assert _fits_of(series, monkeypatch, config, **options)[1] > 0
    assert len(list(mapped.origin.folder.parent.glob("fits-*.json"))) == 5


def test_a_damaged_file_of_fits_is_told(mapped, monkeypatch):
    _fits_of(mapped, monkeypatch)
    (path,) = mapped.origin.folder.parent.glob("fits-*.json")
    path.write_text(path.read_text()[:-30])
    with pytest.raises(ValueError, match="damaged.*delete it"):
        _fits_of(mapped, monkeypatch)


def test_the_oldest_fits_are_forgotten(tmp_path, monkeypatch):
    records = fitted(series_of(helpers.day_curve(2))).records
    monkeypatch.setattr(fits, "_KEPT", 3)
    for n in range(5):
        assert fits.kept(tmp_path, {"n": n}, lambda: records) == records
    assert len(list(tmp_path.glob("fits-*.json"))) == len(list(tmp_path.glob("fits-*.lock"))) == 3


@pytest.mark.ray
def test_fits_on_ray_are_the_same_to_the_bit(ray_local, monkeypatch):
    monkeypatch.setattr(fits, "_PART", 8)
    rng = np.random.default_rng(1)
    profiles = [
        fits.Profile(
            np.arange(288) / 12,
            helpers.day_curve(1, seed=i) if i % 7 else np.full(288, 100.0),
            rng.integers(1, 9, 288).astype(float),
            50.0,
        )
        for i in range(20)
    ]
    here = fits.fit_profiles(profiles, CONFIG)
    assert fits.fit_profiles(profiles, CONFIG, on_ray=True) == here
    assert [r["ok"] for r in here] == [bool(i % 7) for i in range(20)]
