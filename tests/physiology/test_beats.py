"""Beats: against neurokit2 on real and simulated signals, against planted ones, and where there are none."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signals import beat_times, matched, pressure, real_track, simulated

from raycadian.physiology.waveforms.beats import find_beats
from raycadian.physiology.waveforms.filters import zero_phase
from raycadian.physiology.waveforms.pipeline import Prepared, prepare, windows_quality

REAL = [
    ("a103l", "II", "ecg"), ("a103l", "PLETH", "ppg"), ("mixedsignals", "II", "ecg"), ("mixedsignals", "III", "ecg"),
    ("mixedsignals", "Pleth", "ppg"), ("mixedsignals", "ABP", "abp"),
]  # fmt: skip


def neurokits(at_125: np.ndarray, kind: str) -> np.ndarray:
    """Its beats of a track at 125 Hz that was not filtered; arterial pressure, which it doesn't know, as a pulse
    wave."""
    import neurokit2 as nk

    if kind == "ecg":
        return np.asarray(nk.ecg_peaks(nk.ecg_clean(at_125, sampling_rate=125), sampling_rate=125)[1]["ECG_R_Peaks"])
    return np.asarray(nk.ppg_peaks(nk.ppg_clean(at_125, sampling_rate=125), sampling_rate=125)[1]["PPG_Peaks"])


def at_125(values: np.ndarray, rate_hz: float) -> np.ndarray:
    import neurokit2 as nk

    filled = nk.signal_fillmissing(values) if np.isnan(values).any() else values
    return nk.signal_resample(filled, sampling_rate=rate_hz, desired_sampling_rate=125, method="FFT")


def in_good_windows(track: Prepared, beats: np.ndarray) -> np.ndarray:
    found = windows_quality({"track": track}, stride_s=1.0)
    good = np.zeros(len(track), bool)
    for start in found.starts[found.good]:
        good[start : start + found.length] = True
    return beats[good[np.minimum(beats, len(track) - 1)]]


@pytest.mark.parametrize(("record", "signal", "kind"), REAL)
def test_beats_of_real_records_are_neurokits(shared, record, signal, kind):
    values, rate_hz = real_track(shared, record, signal)
    track = prepare(values, rate_hz, kind)
    theirs = neurokits(at_125(values, rate_hz), kind)
    ours_good, theirs_good = (in_good_windows(track, beats) for beats in (track.beats.peaks, theirs))
    assert len(theirs_good) > 200
    assert matched(ours_good, theirs) >= 0.95
    assert matched(theirs_good, track.beats.peaks) >= 0.95
    assert not track.beats.inverted


@pytest.mark.parametrize("heart_rate", [40, 75, 130])
@pytest.mark.parametrize("kind", ["ecg", "ppg"])
def test_beats_of_simulated_signals_are_neurokits(kind, heart_rate):
    values = simulated(kind, 125, heart_rate=heart_rate)
    ours, theirs = prepare(values, 125, kind).beats.peaks, neurokits(values, kind)
    assert min(matched(ours, theirs), matched(theirs, ours)) >= 0.95
    assert len(ours) == pytest.approx(heart_rate, abs=3)


@pytest.mark.parametrize("heart_rate", [45, 75, 150])
def test_systole_and_diastole_are_where_they_were_planted(heart_rate):
    t_s, onsets = np.arange(60 * 125) / 125, beat_times(60, heart_rate)
    found = prepare(pressure(t_s, onsets), 125, "abp")
    planted = onsets[(onsets > 1) & (onsets < 59)] * 125
    assert matched(planted + 0.16 * 125, found.beats.peaks, 0.03) == 1
    assert matched(planted, found.beats.feet, 0.05) == 1
    inner = slice(2, -2)
    assert np.median(found.values[found.beats.peaks[inner]]) == pytest.approx(115, abs=2)
    assert np.median(found.values[found.beats.feet[inner]]) == pytest.approx(70, abs=3)
    assert len(found.beats) == pytest.approx(len(planted), abs=5)


@pytest.mark.slow
def test_an_inverted_ecg_is_found_out_and_its_beats_stay():
    import neurokit2 as nk

    values = simulated("ecg", 500)
    upright, inverted, turned = (
        prepare(values, 500, "ecg"),
        prepare(-values, 500, "ecg"),
        prepare(-values, 500, "ecg", upright=True),
    )
    assert bool(nk.ecg_invert(-values.astype(float), sampling_rate=500)[1])
    assert (upright.beats.inverted, inverted.beats.inverted, turned.beats.inverted) == (False, True, True)
    np.testing.assert_array_equal(inverted.beats.peaks, upright.beats.peaks)
    np.testing.assert_allclose(inverted.values, -upright.values, atol=1e-6)  # as measured, unless asked
    np.testing.assert_allclose(turned.values, upright.values, atol=1e-6)
    starts = np.arange(0, 5000, 1250)
    assert inverted.quality(starts, 1250).good.all()


@settings(max_examples=20)
@given(st.sampled_from(["ecg", "ppg", "abp"]), st.floats(1e-3, 1e3))
def test_scale_does_not_matter(kind, scale):
    values = simulated(kind, 125).astype(np.float64)
    none = np.zeros(len(values), bool)
    ours, scaled = (find_beats(zero_phase(v, kind), v, kind, none) for v in (values, values * scale))
    np.testing.assert_array_equal(ours.peaks, scaled.peaks)
    np.testing.assert_array_equal(ours.feet, scaled.feet)


@settings(max_examples=30)
@given(st.sampled_from(["ecg", "ppg", "abp"]), st.integers(1, 2000), st.integers(0, 5))
def test_beats_ascend_apart_and_inside(kind, n, seed):
    values = np.random.default_rng(seed).normal(size=n)
    bad = np.random.default_rng(seed).random(n) < 0.1
    found = find_beats(zero_phase(values, kind), values, kind, bad)
    assert (np.diff(found.peaks) > 0).all()
    assert ((found.feet >= 0) & (found.feet <= found.peaks) & (found.peaks < n)).all()
    assert not bad[found.peaks].any()


@pytest.mark.parametrize("kind", ["ecg", "ppg", "abp"])
@pytest.mark.parametrize("n", [1, 2, 100, 2000])
def test_a_constant_has_no_beats(kind, n):
    assert len(find_beats(np.zeros(n), np.zeros(n), kind, np.zeros(n, bool))) == 0


def test_no_beat_is_found_in_the_noise_between_slow_beats():
    values = np.random.default_rng(0).normal(0, 0.01, 60 * 125)
    at = np.arange(200, len(values) - 200, 250)  # 30 a minute
    for i, height in ((-3, 0.2), (-2, 0.6), (-1, 1.0), (0, 1.2), (1, 0.8), (2, 0.1), (3, -0.2)):
        values[at + i] += height
    found = find_beats(zero_phase(values, "ecg"), values, "ecg", np.zeros(len(values), bool)).peaks
    assert len(found) == len(at)
    assert matched(at, found, 0.02) == 1
