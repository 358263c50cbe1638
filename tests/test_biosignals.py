"""Readers of waveforms: every format gives the same case; what is broken is an error that names it."""

from __future__ import annotations

import numpy as np
import pytest

from raycadian.data.biosignals import read_case, recognise, track_names
from raycadian.types import Issues

PAIRS = {"SNUADC/ECG_II": "II", "SNUADC/PLETH": "Pleth", "SNUADC/ART": "ABP"}  # .vital, WFDB


def resampled(track, rate_hz=125.0):
    """To `rate_hz` by linear phase, over samples without NaN."""
    from scipy.signal import resample_poly

    return resample_poly(np.nan_to_num(track.values).astype(float), 125, round(track.rate_hz))


def test_mixedsignals_is_the_same_as_wfdb_and_as_vital(shared):
    folder = shared / "biosignals"
    vital = read_case(folder / "mixedsignals_as_vitaldb.vital", subject="a")
    record = read_case(folder / "mixedsignals.hea", subject="a")
    assert sorted(vital.tracks) == sorted(PAIRS)
    for name, theirs in PAIRS.items():
        one, other = vital.tracks[name], record.tracks[theirs]
        assert one.rate_hz == pytest.approx(other.rate_hz, rel=1e-6)
        np.testing.assert_array_equal(np.isnan(one.values), np.isnan(other.values))
        np.testing.assert_allclose(resampled(one), resampled(other), atol=1e-3)
    missing = {name: int(np.isnan(track.values).sum()) for name, track in vital.tracks.items()}
    assert missing == {"SNUADC/ECG_II": 1024, "SNUADC/PLETH": 0, "SNUADC/ART": 192}
    assert vital.tracks["SNUADC/ART"].unit == "mmHg"


def test_a_wfdb_record_by_any_of_its_files(shared):
    case = read_case(shared / "biosignals" / "a103l.mat", tracks={"ecg": "II", "ppg": "PLETH"}, subject="a")
    assert {name: (len(track), track.rate_hz, track.unit) for name, track in case.tracks.items()} == {
        "ecg": (82_500, 250.0, "mV"), "ppg": (82_500, 250.0, ""),
    }  # fmt: skip
    assert track_names(shared / "biosignals" / "a103l.hea") == ["II", "V", "PLETH"]


def test_npz_says_rate_unit_and_subject(tmp_path):
    path = tmp_path / "one.npz"
    np.savez(path, **{"ABP": np.arange(4.0), "ABP.unit": "kPa", "rate_hz": 100.0, "subject": "p1"})
    case = read_case(path, tracks={"abp": "ABP"}, units={"abp": "mmHg"}, issues=Issues())
    assert (case.case, case.subject, recognise(path)) == ("one", "p1", "npz")
    np.testing.assert_allclose(case.tracks["abp"].values, np.arange(4) * 7.500617, rtol=1e-6)
    assert case.tracks["abp"].rate_hz == 100.0
