"""Whole tracks: nothing spreads, pieces equal the whole, causal looks back only, memory of a case, bad input, the real
records."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signals import real_track, simulated

from raycadian.physiology.waveforms import filters
from raycadian.physiology.waveforms.pipeline import KINDS, Prepared, Stream, prepare, windows_quality
from raycadian.physiology.waveforms.repair import REPAIRED

STRETCHES = st.lists(
    st.tuples(st.integers(0, 29_999), st.integers(1, 4000), st.sampled_from([np.nan, np.inf, 0.3, -50.0, 1e6])),
    max_size=5,
)


def spoilt(kind: str, stretches: list[tuple[int, int, float]]) -> np.ndarray:
    values = simulated(kind).copy()
    for start, n, what in stretches:
        values[start : start + n] = what
    return values


@pytest.mark.slow
@settings(max_examples=40)
@given(st.sampled_from(sorted(KINDS)), st.booleans(), STRETCHES)
def test_nan_is_where_nothing_was_measured_and_nowhere_else(kind, causal, stretches):
    found = prepare(spoilt(kind, stretches), 500, kind, causal=causal)
    assert (len(found), found.values.dtype, found.flags.dtype) == (7500, np.float32, np.uint8)
    np.testing.assert_array_equal(np.isnan(found.values), found.bad)
    assert np.isfinite(found.values[~found.bad]).all()
    assert not found.bad[found.beats.peaks].any()
    assert found.quality(np.arange(0, 6250, 625), 1250).reasons.dtype == np.uint16


@settings(max_examples=20)
@given(st.sampled_from(sorted(KINDS)), st.integers(5000, 20_000), st.integers(1, 4000))
def test_a_gap_changes_nothing_but_its_surroundings(kind, start, n):
    clean, gap = prepare(simulated(kind), 500, kind), prepare(spoilt(kind, [(start, n, np.nan)]), 500, kind)
    near = np.zeros(7500, bool)
    near[max(start // 4 - 1000, 0) : (start + n) // 4 + 1000] = True  # 8 s: what a high-pass of 0.5 Hz still feels
    size = np.std(clean.values)
    np.testing.assert_allclose(gap.values[~near], clean.values[~near], atol=0.005 * size)
    assert (gap.flags[~near] == 0).all()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_short_gap_is_repaired(kind):
    clean, gap = prepare(simulated(kind), 500, kind), prepare(spoilt(kind, [(10_050, 10, np.nan)]), 500, kind)
    assert not gap.bad.any()
    assert gap.samples == {"missing": 10, "repaired": 10}
    assert np.count_nonzero(gap.flags & REPAIRED) == pytest.approx(3, abs=1)
    assert np.abs(gap.values - clean.values).max() < 0.2 * np.ptp(clean.values)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_nothing_is_changed_in_place(kind):
    values = spoilt(kind, [(100, 500, np.nan)])
    before = values.copy()
    prepare(values, 500, kind)
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_chunks_do_not_show(kind, monkeypatch):
    values = spoilt(kind, [(3000, 700, np.nan), (9000, 3, np.nan)])
    whole = prepare(values, 500, kind)
    monkeypatch.setattr(filters, "_CHUNK", 997)
    np.testing.assert_array_equal(prepare(values, 500, kind).values, whole.values)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_rate_of_the_recorder_does_not_show(kind):
    """At 250 Hz, every other sample, the same waveform as at 500 Hz."""
    full, half = prepare(simulated(kind), 500, kind), prepare(simulated(kind)[::2], 250, kind)
    inner = slice(250, -250)
    assert np.corrcoef(full.values[inner], half.values[inner])[0, 1] > 0.999
    assert abs(len(full.beats) - len(half.beats)) <= 1


# --- as samples come --------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.sampled_from(sorted(KINDS)), STRETCHES, st.lists(st.integers(0, 6000), max_size=10))
def test_a_stream_in_pieces_is_one_pass_to_the_last_bit(kind, stretches, sizes):
    values = spoilt(kind, stretches)
    whole, stream = Stream(kind, 500), Stream(kind, 500)
    expected = whole.push(values, last=True)
    cuts = np.minimum(np.cumsum(sizes, dtype=int), len(values))
    pieces = [stream.push(piece) for piece in np.split(values, cuts)] + [stream.push(np.empty(0), last=True)]
    for part, all_of_it in zip(zip(*pieces, strict=True), expected, strict=True):
        np.testing.assert_array_equal(np.concatenate(part), all_of_it)
    assert stream.samples == whole.samples
    track = prepare(values, 500, kind, causal=True)
    np.testing.assert_array_equal(track.values[~track.bad], expected[0].astype(np.float32)[~track.bad])
    np.testing.assert_array_equal(track.flags, expected[1])
    assert track.samples == whole.samples


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_is_causal_knows_nothing_of_the_future(kind):
    values, other = simulated(kind), spoilt(kind, [(15_000, 15_000, 33.0)])
    here, there = (prepare(v, 500, kind, causal=True).values for v in (values, other))
    known = 15_000 // 4 - 11  # the resampler looks 80 ms ahead
    np.testing.assert_array_equal(here[:known], there[:known])
    zero_phase = prepare(other, 500, kind).values
    assert not np.array_equal(prepare(values, 500, kind).values[:known], zero_phase[:known])


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_stream_gives_80_ms_after_it_was_told(kind):
    stream = Stream(kind, 500)
    told = given_back = 0
    for piece in np.split(simulated(kind), 60):
        told += len(piece) / 500
        given_back += len(stream.push(piece)[0]) / 125
        assert told - given_back <= 0.1


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_what_is_recent_in_a_stream_is_the_end_of_the_track(kind):
    stream = Stream(kind, 500, keep_s=20)
    for piece in np.split(spoilt(kind, [(24_000, 800, np.nan)]), 50):
        stream.push(piece)
    stream.push(np.empty(0), last=True)
    found, whole = stream.recent(), prepare(spoilt(kind, [(24_000, 800, np.nan)]), 500, kind, causal=True)
    np.testing.assert_array_equal(found.values, whole.values[-2500:])
    np.testing.assert_array_equal(found.flags, whole.flags[-2500:])
    assert found.samples == whole.samples
    inner = found.beats.peaks[(found.beats.peaks > 250) & (found.beats.peaks < 2250)] + 5000
    assert set(inner) <= set(whole.beats.peaks)
    ends = found.quality(np.array([0, 1250]), 1250).reasons, whole.quality(np.array([5000, 6250]), 1250).reasons
    np.testing.assert_array_equal(*ends)


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, np.nan, 2.0])
def test_a_stream_needs_a_rate(rate_hz):
    with pytest.raises(ValueError, match="expected a sampling rate from 25"):
        Stream("ppg", rate_hz)


def test_a_stream_that_keeps_nothing_has_nothing_recent():
    with pytest.raises(ValueError, match="give the Stream a keep_s"):
        Stream("ecg", 500).recent()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_windows_of_a_causal_track_are_good_too(kind):
    assert windows_quality({kind: prepare(simulated(kind), 500, kind, causal=True)}).good[1:].all()


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("values", "rate_hz", "kind", "message"),
    [
        (np.zeros(0), 500, "ecg", "no samples"),
        (np.zeros(10), 0.5, "abp", "expected a sampling rate from 50"),
        (np.zeros(10), 333.3333, "ppg", "without drift"),
        (np.zeros(10), 500, "eeg", "one of ecg, ppg, abp"),
        (np.zeros((2, 10)), 500, "ecg", "one array of numbers"),
        (np.array([None, 1.0]), 500, "ecg", "one array of numbers"),
    ],
)
def test_bad_input(values, rate_hz, kind, causal, message):
    with pytest.raises(ValueError, match=message):
        prepare(values, rate_hz, kind, causal=causal)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("n", [1, 3, 60, 700])
def test_short_tracks(kind, n, causal):
    found = prepare(simulated(kind)[:n], 500, kind, causal=causal)
    assert len(found) == -(-n // 4)
    assert len(windows_quality({kind: found}).starts) == 0


def test_negative_pressures_are_masked_and_counted():
    found = prepare(simulated("abp") - 90, 500, "abp")
    assert found.samples["implausible"] == np.count_nonzero(simulated("abp") < 90)
    assert not windows_quality({"abp": found}).good.any()


def test_a_rate_that_is_twice_the_true_one_shows_in_the_beats():
    found = windows_quality({"ecg": prepare(simulated("ecg", heart_rate=130), 1000, "ecg")})
    assert found.counts()["ecg: fast"] == len(found.starts)


# --- memory and time --------------------------------------------------------------------------------------------------

CASE = """
import json, sys
from pathlib import Path
import numpy as np
from raycadian.physiology.waveforms.pipeline import prepare, windows_quality
rng = np.random.default_rng(0)
n = 500 * 3600 * 3
beat = np.sin(np.arange(n, dtype=np.float32) * np.float32(2 * np.pi / 400)) ** 8
case = {"ecg": beat, "ppg": beat.copy(), "abp": 70 + 50 * beat}
for values in case.values():
    values[1_000_000:1_100_000] = np.nan
found = windows_quality({kind: prepare(values, 500, kind) for kind, values in case.items()}, stride_s=1.0)
line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM"))
print(json.dumps({"mb": int(line.split()[1]) / 1024, "windows": len(found.starts)}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_a_case_of_3_hours_and_3_channels_takes_less_than_400_mb():
    done = subprocess.run([sys.executable, "-c", CASE], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["windows"] == 10_791
    assert found["mb"] < 400


# --- real records -----------------------------------------------------------------------------------------------------


def test_real_records_have_the_length_and_the_beats_that_they_should(shared):
    def of(record: str, signal: str, kind: str) -> Prepared:
        return prepare(*real_track(shared, record, signal), kind)

    tracks = {kind: of("mixedsignals", s, kind) for kind, s in (("ecg", "II"), ("ppg", "Pleth"), ("abp", "ABP"))}
    assert {len(t) for t in tracks.values()} == {28813}  # 230.5 s, whatever the rates
    beats = [len(t.beats) for t in tracks.values()]
    assert max(beats) - min(beats) < 15
    systolic = tracks["abp"].values[tracks["abp"].beats.peaks]
    assert 140 < np.median(systolic) < 180
    assert (tracks["ecg"].samples, tracks["ppg"].samples) == ({"missing": 1024}, {"flat": 448})
    assert len(of("a103l", "II", "ecg")) == 330 * 125


def test_a_clipped_pressure_is_rejected_causally_too():
    """At 105 mmHg, as by an amplifier: of the first beats alone nobody can know."""
    values = np.minimum(simulated("abp"), 105.0).astype(np.float32)
    offline, causal = (windows_quality({"abp": prepare(values, 500, "abp", causal=how)}) for how in (False, True))
    assert not offline.good.any() and not causal.good.any()
    assert causal.counts()["abp: saturated"] == len(causal.starts)
    clean = windows_quality({"abp": prepare(simulated("abp"), 500, "abp", causal=True)})
    assert clean.good.all()


@pytest.mark.parametrize(
    ("record", "signal", "kind"),
    [
        ("a103l", "II", "ecg"),
        ("a103l", "PLETH", "ppg"),
        ("mixedsignals", "ABP", "abp"),
        ("mixedsignals", "Pleth", "ppg"),
    ],
)
def test_real_signals_are_not_called_saturated_causally_where_they_are_not_offline(shared, record, signal, kind):
    values, rate_hz = real_track(shared, record, signal)
    offline, causal = (prepare(values.astype(np.float32), rate_hz, kind, causal=how).samples for how in (False, True))
    assert causal.get("saturated", 0) <= offline.get("saturated", 0) + 0.001 * len(values), (offline, causal)
