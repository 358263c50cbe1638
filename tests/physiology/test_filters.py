"""Resampling and filters: against scipy and neurokit2, in pieces and at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal
from signals import simulated

from raycadian.physiology.waveforms import filters
from raycadian.physiology.waveforms.filters import Causal, Resampler, design, ratio, resample, zero_phase

RATES = (500.0, 250.0, 249.89, 124.945, 128.0, 62.5, 360.0, 1000.0)


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n).astype(np.float32)


def clean(values: np.ndarray) -> np.ndarray:
    return np.zeros(len(values), np.uint8)


@pytest.mark.parametrize("rate_hz", RATES)
def test_resampling_is_scipys_with_our_filter(rate_hz):
    values = noise(5000)
    up, down = ratio(rate_hz)
    found, _ = resample(values, clean(values), rate_hz)
    expected = signal.resample_poly(values.astype(float), up, down, window=filters._low_pass(up, down) / up)
    assert len(found) == len(expected) == -(-5000 * up // down)
    edge = 30  # the ends are held, scipy's are zero
    np.testing.assert_allclose(found[edge:-edge], expected[edge:-edge], atol=2e-6)


def test_rates_are_simple_fractions_also_when_kept_in_32_bits():
    assert ratio(500.0) == (1, 4)
    for rate_hz in (249.89, float(np.float32(249.89))):
        up, down = ratio(rate_hz)
        assert up / down == pytest.approx(125 / 249.89, rel=2e-8)
        assert down < 25_000
    assert ratio(62.5) == (2, 1)
    assert ratio(125.0) == (1, 1)


@pytest.mark.parametrize("rate_hz", [125.0010007, np.pi * 100])
def test_a_rate_that_would_drift_is_refused(rate_hz):
    with pytest.raises(ValueError, match="without drift.*nominal rate"):
        ratio(rate_hz)


@pytest.mark.parametrize("rate_hz", [500.0, 249.89])
def test_what_lies_above_the_new_band_does_not_fold_into_it(rate_hz):
    t = np.arange(int(20 * rate_hz)) / rate_hz
    for hz, low, high in ((10, 0.99, 1.01), (40, 0.98, 1.02), (66, 0, 0.01), (85, 0, 0.01), (115, 0, 0.01)):
        wave = np.sin(2 * np.pi * hz * t).astype(np.float32)
        found = resample(wave, clean(wave), rate_hz)[0][250:-250]
        assert low <= np.sqrt(2 * np.mean(found**2)) <= high, hz


@pytest.mark.parametrize("rate_hz", RATES)
def test_output_lies_where_its_time_says(rate_hz):
    t = np.arange(int(20 * rate_hz)) / rate_hz
    wave = np.sin(2 * np.pi * 3 * t)
    found = resample(wave, clean(wave), rate_hz)[0]
    expected = np.sin(2 * np.pi * 3 * np.arange(len(found)) / 125)
    np.testing.assert_allclose(found[100:-100], expected[100:-100], atol=5e-3)


def test_125_hz_stays_as_it_is():
    values = noise(1000)
    np.testing.assert_array_equal(resample(values, clean(values), 125.0)[0], values)


def in_pieces(resampler: Resampler, values: np.ndarray, flags: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    found, i = [], 0
    for size in sizes:
        found.append(resampler.push(values[i : i + size], flags[i : i + size]))
        i += size
    found.append(resampler.push(values[i:], flags[i:], last=True))
    return [np.concatenate(part) for part in zip(*found, strict=True)]


@settings(max_examples=40)
@given(st.sampled_from((*RATES, 125.0)), st.integers(1, 3000), st.lists(st.integers(0, 400), max_size=12))
def test_pieces_give_what_the_whole_gives_to_the_last_bit(rate_hz, n, sizes):
    values, flags = noise(n), (np.random.default_rng(1).random(n) < 0.05).astype(np.uint8) * 2
    whole = Resampler(rate_hz).push(values, flags, last=True)
    for part, expected in zip(in_pieces(Resampler(rate_hz), values, flags, sizes), whole, strict=True):
        np.testing.assert_array_equal(part, expected)


def test_chunks_of_a_long_track_give_what_the_whole_gives(monkeypatch):
    values = noise(100_000)
    whole = resample(values, clean(values), 500.0)[0]
    monkeypatch.setattr(filters, "_CHUNK", 1013)
    np.testing.assert_array_equal(resample(values, clean(values), 500.0)[0], whole)


@settings(max_examples=60)
@given(st.sampled_from(RATES), st.sets(st.integers(0, 999), max_size=20))
def test_no_flag_is_lost_and_none_goes_astray(rate_hz, where):
    values, flags = noise(1000), np.zeros(1000, np.uint8)
    flags[list(where)] = 4
    found = resample(values, flags, rate_hz)[1]
    at_s, out_s = np.array(sorted(where)) / rate_hz, np.flatnonzero(found) / 125
    assert set(found.tolist()) <= {0, 4}
    at_s = np.minimum(at_s, (len(found) - 1) / 125)  # what comes after the last output is the last one's
    half = 0.5 / min(rate_hz, 125.0) + 1e-9
    apart = np.abs(at_s[:, None] - out_s)
    assert (apart.min(1, initial=1) <= half).all()
    assert (apart.min(0, initial=1) <= half).all()


# --- filters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "low", "high"), [("ecg", 0.5, 40), ("abp", None, 20)])
def test_zero_phase_filters_are_neurokits(kind, low, high):
    import neurokit2 as nk

    values = simulated(kind, 125)
    expected = nk.signal_filter(values, sampling_rate=125, lowcut=low, highcut=high, method="butterworth", order=4)
    edge = 1000  # paddings differ, and a 0.5 Hz filter forgets them in seconds
    np.testing.assert_allclose(
        zero_phase(values, kind)[edge:-edge], np.asarray(expected)[edge:-edge], atol=1e-3 * np.ptp(values)
    )


def test_the_ppg_filter_stops_20_db_at_its_edges():
    _, gain = signal.sosfreqz(design("ppg"), worN=[0.3, 0.5, 1.0, 2.0, 5.0, 8.0, 12.0], fs=125)
    db = 20 * np.log10(np.abs(gain))
    assert (db[[0, 1, 5, 6]] <= -20 + 1e-6).all()
    assert (np.abs(db[2:5]) < 0.5).all()


@settings(max_examples=30)
@given(st.sampled_from(["ecg", "ppg", "abp"]), st.lists(st.integers(0, 200), max_size=10))
def test_a_causal_filter_in_pieces_is_one_pass(kind, sizes):
    values, whole = noise(1000), Causal(kind)
    expected = whole.push(values)
    pieces, stream = np.split(values, np.minimum(np.cumsum(sizes, dtype=int), 1000)), Causal(kind)
    np.testing.assert_array_equal(np.concatenate([stream.push(piece) for piece in pieces]), expected)


def test_a_causal_filter_begins_settled():
    assert np.allclose(Causal("abp").push(np.full(100, 90.0)), 90.0)
    assert np.allclose(Causal("ecg").push(np.full(100, 5.0)), 0.0)


@pytest.mark.parametrize("n", [1, 2, 40, 260])
@pytest.mark.parametrize("kind", ["ecg", "ppg", "abp"])
def test_short_tracks_can_be_filtered(kind, n):
    assert np.isfinite(zero_phase(noise(n), kind)).all()


def test_an_unknown_kind_has_no_filter():
    with pytest.raises(ValueError, match="expected ecg, ppg or abp"):
        design("eeg")
