"""Quality of windows: the indices against their definitions, every reason planted, the real records' known
stretches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from signals import beat_times, pressure, real_track, simulated

from raycadian.config.signal_quality import SignalQuality
from raycadian.physiology.waveforms.pipeline import Prepared, prepare, windows_quality
from raycadian.physiology.waveforms.quality import (
    LIMITS,
    _likeness,
    _skewness,
    normal_pressure_beats,
    window_starts,
)
from raycadian.physiology.waveforms.repair import Reason

WINDOW = 1250
KINDS = ("ecg", "ppg", "abp")


def quality(values: np.ndarray, kind: str, rate_hz: float = 500, limits: SignalQuality = LIMITS):
    return windows_quality({kind: prepare(values, rate_hz, kind)}, limits=limits).tracks[kind]


def broken(kind: str, start_s: float, end_s: float, values) -> np.ndarray:
    """The simulated track with other values in a stretch."""
    track = simulated(kind).copy()
    track[round(start_s * 500) : round(end_s * 500)] = values
    return track


# --- good signals are good --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_window_of_a_clean_signal_is_good(kind):
    found = quality(simulated(kind), kind)
    assert found.good.all()
    assert found.counts() == {}
    assert (found.beats >= 11).all()
    assert len(found.reasons) == 6


@settings(max_examples=15)
@given(st.sampled_from(["ecg", "ppg"]), st.floats(0.1, 8))
def test_scale_does_not_matter_without_a_unit(kind, scale):
    track = broken(kind, 12, 14, np.random.default_rng(0).normal(0, 0.3, 1000))
    plain, scaled = quality(track, kind), quality(track * np.float32(scale), kind)
    np.testing.assert_array_equal(plain.reasons, scaled.reasons)
    np.testing.assert_allclose(plain.index, scaled.index, atol=1e-3)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 60 * 125 - WINDOW), min_size=1, max_size=10))
def test_a_window_is_judged_alike_whatever_the_others(starts):
    track = prepare(broken("ppg", 20, 24, np.nan), 500, "ppg")
    together = track.quality(np.array(starts), WINDOW)
    for i, start in enumerate(starts):
        alone = track.quality(np.array([start]), WINDOW)
        assert alone.reasons[0] == together.reasons[i]
        np.testing.assert_allclose(alone.index[0], together.index[i], atol=1e-6)


# --- the indices ------------------------------------------------------------------------------------------------------


def test_the_shape_index_is_the_mean_correlation_with_the_template():
    track = prepare(broken("ecg", 30, 33, np.random.default_rng(0).normal(0, 0.5, 1500)), 500, "ecg")
    values, peaks = track.values.astype(float), track.beats.peaks
    starts, _ = window_starts(len(values))
    low, high = np.searchsorted(peaks, starts), np.searchsorted(peaks, starts + WINDOW)
    found = _likeness(values, peaks, track.bad, low, high)
    for i in range(len(starts)):
        beats = [values[p - 31 : p + 45] for p in peaks[low[i] : high[i]] if p >= 31 and p + 44 < len(values)]
        unit = [(b - b.mean()) / np.linalg.norm(b - b.mean()) for b in beats]
        template = np.mean(unit, axis=0)
        assert found[i] == pytest.approx(np.mean([np.corrcoef(b, template)[0, 1] for b in beats]), abs=1e-5)
    assert found[3] < 0.9 < found[0]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_the_skewness_is_scipys(scale):
    values = prepare(simulated("ppg"), 500, "ppg").values.astype(float) * scale
    bad = np.zeros(len(values), bool)
    bad[1300:1400] = True
    values[bad] = 0.0
    starts = np.arange(0, len(values) - WINDOW, 100)
    expected = [stats.skew(values[s : s + WINDOW][~bad[s : s + WINDOW]]) for s in starts]
    np.testing.assert_allclose(_skewness(values, bad, starts, WINDOW), expected, atol=1e-6)


def test_a_pulse_that_points_down_is_skewed_the_wrong_way():
    found = quality(-simulated("ppg"), "ppg")
    assert (found.reasons & Reason.SKEWNESS).all()
    assert (found.skewness < 0.5).all()


def one_by_one(values: np.ndarray, peaks: np.ndarray, feet: np.ndarray) -> list[bool]:
    """The signal abnormality index, a beat at a time."""
    normal = []
    for i, (p, f) in enumerate(zip(peaks, feet, strict=True)):
        ok = values[p] <= 300 and values[f] >= 20 and values[p] - values[f] >= LIMITS.abp_pulse_mmhg
        if i + 1 < len(feet):
            beat = values[f : feet[i + 1]]
            fall = np.diff(values[f : feet[i + 1] + 1])
            slope = fall[fall < 0].mean() if (fall < 0).any() else 0
            ok &= LIMITS.abp_mean_mmhg <= beat.mean() <= 200 and 0.3 <= len(beat) / 125 <= 3 and slope > -3
        if i:
            ok &= abs(values[p] - values[peaks[i - 1]]) <= 20 and abs(values[f] - values[feet[i - 1]]) <= 20
        if 0 < i < len(feet) - 1:
            ok &= abs(feet[i + 1] - 2 * f + feet[i - 1]) / 125 <= 0.5
        normal.append(bool(ok))
    return normal


def test_the_pressure_index_is_its_definition_beat_by_beat():
    t_s, onsets = np.arange(120 * 500) / 500, beat_times(120)
    values = pressure(t_s, onsets)
    for start_s, change in ((10, 45), (20, -52), (30, 25), (40, -60), (50, 130)):
        values[(t_s >= start_s) & (t_s < start_s + 3)] += change
    values += 8 * np.random.default_rng(0).normal(size=len(values)) * ((t_s > 60) & (t_s < 80))
    track = prepare(values, 500, "abp")
    found = normal_pressure_beats(track.values, track.beats, track.bad)
    assert found.tolist() == one_by_one(track.values.astype(float), track.beats.peaks, track.beats.feet)
    assert 0.5 < found.mean() < 0.95


# --- reasons ----------------------------------------------------------------------------------------------------------


PLANTED = [
    ("ecg", np.nan, Reason.MISSING), ("ppg", np.nan, Reason.MISSING), ("abp", np.inf, Reason.MISSING),
    ("ecg", 0.25, Reason.FLAT), ("ppg", 0.25, Reason.FLAT), ("abp", 85.0, Reason.FLAT),
    ("ecg", 900.0, Reason.IMPLAUSIBLE), ("abp", -30.0, Reason.IMPLAUSIBLE), ("abp", 350.0, Reason.IMPLAUSIBLE),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value", "reason"), PLANTED)
def test_a_planted_stretch_is_rejected_for_its_reason(kind, value, reason):
    found = quality(broken(kind, 21, 26, value), kind)
    assert found.reasons[2] & reason
    assert found.good[[0, 1, 4, 5]].all()  # a second off, others are untouched
    assert found.counts()[reason.label] == 1


def test_saturation_is_rejected():
    track = simulated("ppg").copy()
    top = np.quantile(track[10_000:15_000], 0.7)
    track[10_000:15_000] = np.minimum(track[10_000:15_000], top)
    track[:10_000], track[15_000:] = np.minimum(track[:10_000], top - 1e-3), np.minimum(track[15_000:], top - 1e-3)
    found = quality(track, "ppg")
    assert found.reasons[2] & Reason.SATURATED


def test_a_few_masked_samples_are_borne():
    found = quality(broken("ppg", 24, 24.3, np.nan), "ppg")
    assert not (found.reasons & Reason.MISSING).any()
    strict = LIMITS.model_copy(update={"masked_share": 0.01})
    assert quality(broken("ppg", 24, 24.3, np.nan), "ppg", limits=strict).reasons[2] & Reason.MISSING


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_cycles(kind):
    level = 85.0 if kind == "abp" else 0.0
    noise = np.random.default_rng(0).normal(level, 1e-4, 10_000).astype(np.float32)
    found = quality(broken(kind, 20, 40, noise), kind)
    assert (found.reasons[2:4] & (Reason.FEW_CYCLES | Reason.SHAPE | Reason.PAUSE)).all()
    assert (found.reasons[3] & ~Reason.FAST) != 0
    assert found.good[[0, 5]].all()


def test_a_pause_and_too_fast_a_heart():
    t_s = np.arange(60 * 125) / 125
    onsets = beat_times(60)
    slow = prepare(pressure(t_s, onsets[(onsets < 22) | (onsets > 26)]), 125, "abp")
    reasons = windows_quality({"abp": slow}).tracks["abp"].reasons
    assert [bool(r & Reason.PAUSE) for r in reasons] == [False, False, True, False, False, False]
    fast = prepare(pressure(t_s, beat_times(60, 215), pulse=60.0), 125, "abp")
    assert (windows_quality({"abp": fast}).tracks["abp"].reasons & Reason.FAST).all()


def test_noise_is_no_ecg_and_no_pulse():
    noise = np.random.default_rng(0).normal(0, 0.3, 30_000)
    for kind in ("ecg", "ppg"):
        assert (quality(noise, kind).reasons & Reason.SHAPE).all()
    assert (quality(noise + 90, "abp").reasons & Reason.PRESSURE).all()


def test_electrocautery_is_told_from_ectopic_beats():
    rng = np.random.default_rng(0)
    burst = broken("ecg", 24, 25, simulated("ecg")[12_000:12_500] + rng.choice([-2.0, 2.0], 500))
    assert quality(burst, "ecg").reasons[2] & Reason.EDGES


# --- windows ----------------------------------------------------------------------------------------------------------


def test_window_starts():
    starts, length = window_starts(4000, 10, 5)
    assert (starts.tolist(), length) == ([0, 625, 1250, 1875, 2500], 1250)
    assert window_starts(1249)[0].tolist() == []
    with pytest.raises(ValueError, match="at least 0.008 s, found 0"):
        window_starts(100, 0)


def test_windows_outside_the_track_are_an_error():
    track = prepare(simulated("ppg"), 500, "ppg")
    with pytest.raises(ValueError, match="leave a track of 7500 samples"):
        track.quality(np.array([7000]), WINDOW)
    assert len(track.quality(np.empty(0, int), WINDOW).reasons) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_track_that_holds_nothing_has_no_good_window(kind):
    for fill in (np.nan, 50.0):
        found = quality(np.full(15_000, fill), kind)
        assert not found.good.any()
        assert np.isnan(found.index).all()


def test_tracks_are_put_together():
    tracks = {
        "ecg": prepare(broken("ecg", 1, 6, np.nan), 500, "ecg"),
        "ppg": prepare(broken("ppg", 31, 36, np.nan), 500, "ppg"),
        "abp": prepare(simulated("abp", 125)[:-400], 125, "abp"),
    }
    found = windows_quality(tracks)
    assert found.good.tolist() == [False, True, True, False, True]  # the shortest has five
    assert found.counts()["ecg: missing"] == found.counts()["ppg: missing"] == 1
    with pytest.raises(ValueError, match="no track to cut windows from"):
        windows_quality({})


# --- real records -----------------------------------------------------------------------------------------------------


def real(shared, record: str, signal: str, kind: str) -> Prepared:
    return prepare(*real_track(shared, record, signal), kind)


def test_the_false_asystole_is_bad_and_the_calm_before_it_good(shared):
    """Lead II of a103l is artefact in most seconds from 263 to 304, which set off the alarm at 300."""
    ecg = real(shared, "a103l", "II", "ecg")
    starts = np.arange(0, 321) * 125
    found = ecg.quality(starts, WINDOW)
    assert not found.good[259:300].any(), np.flatnonzero(found.good[259:300]) + 259
    assert found.good[:250].mean() > 0.99
    bad_ppg = real(shared, "a103l", "PLETH", "ppg").quality(starts, WINDOW)
    assert not bad_ppg.good[[158, 168, 188, 251, 308]].any()
    assert bad_ppg.good[:150].all()


def test_missing_stretches_of_mixedsignals_are_rejected_by_reason(shared):
    tracks = {
        kind: real(shared, "mixedsignals", signal, kind)
        for kind, signal in (("ecg", "II"), ("ppg", "Pleth"), ("abp", "ABP"))
    }
    found = windows_quality(tracks)
    assert not found.good[0]
    first = {name: Reason(int(q.reasons[0])) for name, q in found.tracks.items()}
    assert Reason.MISSING in first["ecg"]
    assert Reason.FLAT in first["ppg"]
    assert Reason.MISSING in first["abp"]
    assert all(
        found.counts()[f"{name}: {reason}"] == 1
        for name, reason in (("ecg", "missing"), ("ppg", "flat"), ("abp", "missing"))
    )
    assert found.tracks["ppg"].good[1:].all()
    assert found.good.mean() > 0.6
