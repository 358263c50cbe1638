"""Readers of waveforms: every format gives the same case; what is broken is an error that names it."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raycadian.modalities.biosignals.readers import check_unique, detect_format, read_case, track_names
from raycadian.modalities.biosignals.simulate import write_vital
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


# --- one door for every format
# -----------------------------------------------------------------------------------------

RATE = 100.0
WAVE = np.round(80 + 20 * np.sin(np.arange(1000) / 8), 2).astype(np.float32)
WAVE_GAP = np.where((np.arange(1000) >= 300) & (np.arange(1000) < 350), np.nan, WAVE).astype(np.float32)


def write(path: Path, kind: str, values: np.ndarray = WAVE) -> Path:
    """The wave as a file of a kind, by the libraries that write it."""
    times = np.arange(len(values)) / RATE
    if kind == "vital":
        write_vital(path, {"SNUADC/ART": {"values": values, "unit": "mmHg", "rate_hz": RATE, "gain": 0.01}})
    elif kind == "wfdb":
        import wfdb

        # WFDB's 16 bits: gain 100, and NaN as its own marker
        wfdb.wrsamp(
            path.stem, fs=RATE, units=["mmHg"], sig_name=["ART"], p_signal=values[:, None].astype(float), fmt=["16"],
            adc_gain=[100.0], baseline=[0], write_dir=str(path.parent),
        )  # fmt: skip
        return path.parent / f"{path.stem}.hea"
    elif kind == "edf":
        import pyedflib

        with pyedflib.EdfWriter(str(path), 1, file_type=pyedflib.FILETYPE_EDFPLUS) as file:
            file.setPatientCode("p7")
            limits = {"physical_min": -327.68, "physical_max": 327.67, "digital_min": -32768, "digital_max": 32767}
            file.setSignalHeader(0, {"label": "ART", "dimension": "mmHg", "sample_frequency": RATE, **limits})
            file.writeSamples([values.astype(np.float64)])
    elif kind == "npz":
        np.savez_compressed(path, **{"ART": values, "ART.unit": "mmHg", "rate_hz": RATE})
    elif kind == "csv":
        pd.DataFrame({"time_s": times, "ART [mmHg]": values}).to_csv(path, index=False)
    elif kind == "parquet":
        pd.DataFrame({"time_s": times, "ART [mmHg]": values}).to_parquet(path)
    return path


KINDS = {"vital": ".vital", "wfdb": ".hea", "edf": ".edf", "npz": ".npz", "csv": ".csv", "parquet": ".parquet"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_track(tmp_path, kind):
    path = write(tmp_path / f"case_1{KINDS[kind]}", kind, WAVE if kind == "edf" else WAVE_GAP)  # EDF has no NaN
    case = read_case(path, tracks={"abp_mmhg": ["CardioQ/ABP", "ART"]}, units={"abp_mmhg": "mmHg"}, subject="a")
    track = case.tracks["abp_mmhg"]
    assert (case.case, case.subject, track.rate_hz, track.unit) == ("case_1", "a", pytest.approx(RATE), "mmHg")
    np.testing.assert_allclose(track.values, WAVE if kind == "edf" else WAVE_GAP, atol=0.011)
    assert track_names(path) == (["SNUADC/ART"] if kind == "vital" else ["ART"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_file_names_itself(tmp_path, kind):
    """Half of its bytes: never half of its samples."""
    path = write(tmp_path / f"case_1{KINDS[kind]}", kind)
    broken = path.with_suffix(".dat") if kind == "wfdb" else path
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    with pytest.raises(ValueError, match="case_1"):
        read_case(path, subject="a")
    broken.write_bytes(b"")
    with pytest.raises(ValueError, match="case_1"):
        read_case(path, subject="a")


@pytest.mark.parametrize("kind", KINDS)
def test_torn_bytes_are_an_error_that_names_the_file_or_a_case(tmp_path, kind):
    path = write(tmp_path / f"case_1{KINDS[kind]}", kind)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(40):
        torn = bytearray(whole)
        for at in rng.integers(0, rng.choice([300, len(whole)]), rng.choice([1, 4, 20])):
            torn[at % len(whole)] = rng.integers(256)
        path.write_bytes(torn)
        try:
            assert read_case(path, subject="a").tracks and track_names(path)
        except ValueError as error:
            assert "case_1" in str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_a_track_that_is_not_there_names_those_that_are(tmp_path, kind):
    path = write(tmp_path / f"case_1{KINDS[kind]}", kind)
    with pytest.raises(ValueError, match=r"no track ECG_II or II, PLETH with samples; the file has (SNUADC/)?ART"):
        read_case(path, tracks={"ecg": ("ECG_II", "II"), "ppg": "PLETH", "abp": "ART"}, subject="a")
    case = read_case(path, tracks={"map": "ART_MBP", "abp": "ART"}, optional=["map"], subject="a")
    assert list(case.tracks) == ["abp"]
    with pytest.raises(ValueError, match="no track with samples"):
        read_case(path, tracks={"map": "ART_MBP"}, optional=["map"], subject="a")


def test_whose_a_case_is(tmp_path):
    path = write(tmp_path / "12.vital", "vital")
    with pytest.raises(ValueError, match="a case without a subject"):
        read_case(path)
    with pytest.raises(ValueError, match="a case without a subject"):
        read_case(path, clinical={"subjectid": np.nan})
    assert read_case(path, clinical={"subjectid": 7, "age": 3}).subject == "7"
    assert read_case(path, clinical={"subjectid": 7}, subject="b").subject == "b"
    assert read_case(write(tmp_path / "x.edf", "edf")).subject == "p7"


def test_two_files_of_one_case():
    check_unique([("1", "a/1.vital"), ("2", "a/2.vital")])
    with pytest.raises(ValueError, match=r"a/1.vital and b/1.vital: both are case '1'"):
        check_unique([("1", "a/1.vital"), ("2", "a/2.vital"), ("1", "b/1.vital")])


def test_a_unit_of_another_quantity_is_an_error(tmp_path):
    path = write(tmp_path / "12.vital", "vital")
    with pytest.raises(ValueError, match="expected a unit that can be 'mV', found 'mmHg'"):
        read_case(path, tracks={"ecg": "ART"}, units={"ecg": "mV"}, subject="a")
    case = read_case(path, tracks={"abp": "ART"}, units={"abp": "kPa"}, subject="a")
    np.testing.assert_allclose(case.tracks["abp"].values, WAVE / 7.500617, rtol=1e-3)


def test_what_is_no_file_of_waveforms(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ValueError, match="not a format of waveforms that is known"):
        read_case(tmp_path / "a.bin", subject="a")
    with pytest.raises(ValueError, match="no such file"):
        read_case(tmp_path / "b.vital", subject="a")
    with pytest.raises(ValueError, match="a folder"):
        read_case(tmp_path, subject="a")
    with pytest.raises(ValueError, match="format: expected one of"):
        read_case(write(tmp_path / "1.vital", "vital"), format="hdf5", subject="a")
    with pytest.raises(ValueError, match="rate_hz is for tables"):
        read_case(write(tmp_path / "1.vital", "vital"), rate_hz=100, subject="a")


def test_recognised_by_content_whatever_it_is_called(tmp_path):
    path = write(tmp_path / "export.dat.bin", "vital")
    assert detect_format(path) == "vital" and len(read_case(path, subject="a").tracks) == 1
    assert detect_format(write(tmp_path / "x.bin", "edf")) == "edf"
    assert read_case(write(tmp_path / "x.wave", "csv"), format="table", subject="a").case == "x.wave"


# --- tables and archives
# -----------------------------------------------------------------------------------------------


def test_npz_says_rate_unit_and_subject(tmp_path):
    path = tmp_path / "one.npz"
    np.savez(path, **{"ABP": np.arange(4.0), "ABP.unit": "kPa", "rate_hz": 100.0, "subject": "p1"})
    case = read_case(path, tracks={"abp": "ABP"}, units={"abp": "mmHg"}, issues=Issues())
    assert (case.case, case.subject, detect_format(path)) == ("one", "p1", "npz")
    np.testing.assert_allclose(case.tracks["abp"].values, np.arange(4) * 7.500617, rtol=1e-6)
    assert case.tracks["abp"].rate_hz == 100.0


@pytest.mark.parametrize(
    "arrays, said",
    [
        ({"ABP": np.arange(4.0)}, "no rate"),
        ({"ABP": np.zeros((2, 2)), "rate_hz": 100}, "one dimension"),
        ({"ABP": np.array(["a"]), "rate_hz": 100}, "expected numbers"),
        ({"ABP": np.array([{}], dtype=object), "rate_hz": 100}, "a pickle, which is never loaded"),
        ({"ABP": np.arange(4.0), "rate_hz": -1}, "expected a sampling rate above 0"),
        ({"ABP": np.arange(4.0), "rate_hz": [1, 2]}, "expected one value"),
        ({"ABP": np.arange(4.0), "ABP.times_s": [1, 2]}, "times_s: expected .4,. numbers"),
        ({"ABP": np.zeros(0), "rate_hz": 100}, "no track with samples"),
        ({"ABP": np.zeros(30_000_000, np.float32), "rate_hz": 100}, "is it an archive bomb"),
    ],
)
def test_archives_that_are_wrong(tmp_path, arrays, said):
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=said):
        read_case(tmp_path / "a.npz", subject="a")


def test_an_array_that_claims_to_be_larger_than_it_is(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**14,)})
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("ABP.npy", header.getvalue() + bytes(80))
    with pytest.raises(ValueError, match=r"a\.npz"):
        read_case(tmp_path / "a.npz", subject="a", rate_hz=100)


def test_a_time_far_off(tmp_path):
    with pytest.raises(ValueError, match="samples, at most"):
        table(tmp_path, "t,ABP\n" + "".join(f"{i},70\n" for i in range(40)) + "1e15,70\n")
    assert (
        table(tmp_path, "t,ABP\n" + "".join(f"{i},70\n" for i in range(40)) + "1e300,70\n").tracks["ABP"].rate_hz
        is None
    )


def test_a_numeric_of_an_archive_has_times_of_its_own(tmp_path):
    np.savez(tmp_path / "a.npz", **{"MAP": [70.0, np.nan, 72, 71], "MAP.times_s": [0.0, 2, 6, 4]})
    track = read_case(tmp_path / "a.npz", subject="a").tracks["MAP"]
    assert track.rate_hz is None and track.times_s.tolist() == [0, 4, 6] and track.values.tolist() == [70, 71, 72]


def table(tmp_path: Path, text: str, **options):
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    return read_case(path, subject="a", **options)


@pytest.mark.parametrize("digits, rate", [(2, 60), (3, 60), (6, 62.4725), (3, 125), (3, 500), (9, 249.89)])
def test_the_rate_of_rounded_times(tmp_path, digits, rate):
    """Times to the millisecond, or worse, give the rate that was meant, and every sample its place."""
    rows = "".join(f"{i / rate:.{digits}f},{i}\n" for i in range(6000))
    track = table(tmp_path, "time_s,ABP\n" + rows).tracks["ABP"]
    assert track.rate_hz == rate and track.values.tolist() == list(range(6000))


def test_a_gap_in_time_is_missing_samples(tmp_path):
    rows = "".join(f"{i / 50},{i}\n" for i in range(500) if not 100 <= i < 150)
    track = table(tmp_path, "Time,ABP\n" + rows).tracks["ABP"]
    assert len(track) == 500 and np.isnan(track.values).sum() == 50 and track.values[150] == 150


def test_a_recorder_that_went_on_at_another_phase(tmp_path):
    """After gaps of 7.013 s and of 1.6 samples, whole or not."""
    times = np.arange(300) / 50
    times[100:] += 7.013
    times[200:] += 0.6 / 50
    rows = "".join(f"{t:.4f},{i}\n" for i, t in enumerate(times))
    track = table(tmp_path, "Time,ABP\n" + rows).tracks["ABP"]
    assert track.rate_hz == 50 and track.values[np.isfinite(track.values)].tolist() == list(range(300))
    assert len(track) in (300 + 350, 300 + 351, 300 + 352)


def test_beats_are_not_even(tmp_path):
    times = np.cumsum(np.random.default_rng(0).uniform(0.8, 1.0, 500))
    track = table(tmp_path, "Time,MAP\n" + "".join(f"{t:.3f},70\n" for t in times)).tracks["MAP"]
    assert track.rate_hz is None and len(track) == 500


def test_numerics_between_waves_and_timestamps(tmp_path):
    lines = [f"2026-01-05T08:00:0{i / 10}+00:00,{i},{70 + i if i % 20 == 0 else ''}" for i in range(100)]
    case = table(tmp_path, "timestamp,ABP (mmHg),MAP (mmHg)\n" + "\n".join(lines) + "\n")
    assert case.start_utc == np.datetime64("2026-01-05T08:00:00.000") and case.tracks["ABP"].rate_hz == pytest.approx(
        10
    )
    assert case.tracks["MAP"].times_s.tolist() == [0, 2, 4, 6, 8] and case.tracks["MAP"].unit == "mmHg"


def test_a_table_of_values_without_times(tmp_path):
    track = table(tmp_path, "ABP\n70\n\n72\n", rate_hz=100, units={"ABP": "mmHg"}).tracks["ABP"]
    assert (track.rate_hz, track.unit) == (100, "mmHg") and np.isnan(track.values[1])


@pytest.mark.parametrize(
    "text, options, said",
    [
        ("ABP\n70\n71\n", {}, "no column of times .*say rate_hz"),
        ("t,ABP\n0,70\n1,71\n2,72\n3,3\n", {"rate_hz": 2}, "expected 2 Hz, found 1 Hz by its times"),
        ("t,ABP\n0,70\n2,71\n1,72\n", {}, "time does not increase at row 3"),
        ("t,ABP\n0,70\n,71\n1,72\n", {}, "row 2 has no time"),
        ("t,ABP\n0,70\n1,bad\n2,worse\n", {}, "2 of 3 values are no numbers, such as 'bad'"),
        ("t,ABP\n0,70\n1,71,9\n2,72\n", {}, "truncated, corrupted"),
        ("t,ABP,ABP\n0,70,1\n1,71,9\n", {}, "several columns are called 'ABP'"),
        ("t,ABP\n0,\n1,\n2,\n", {}, "no track with samples"),
        ("t,ABP\n", {}, "no track with samples"),
    ],
)
def test_tables_that_are_wrong(tmp_path, text, options, said):
    with pytest.raises(ValueError, match=said):
        table(tmp_path, text, **options)


def test_irregular_rows_are_numerics(tmp_path):
    case = table(tmp_path, "t,MAP\n0,70\n2,71\n3,72\n9,73\n9.5,74\n")
    assert case.tracks["MAP"].times_s.tolist() == [0, 2, 3, 9, 9.5]


# --- WFDB and EDF
# ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header, said",
    [
        ("r 1 100 1000\n../secret.dat 16 100/mmHg 16 0 0 0 0 ART\n", "r.hea: truncated, corrupted or not"),
        ("r 1 100 1000\nabsent.dat 16 100/mmHg 16 0 0 0 0 ART\n", "r.hea: truncated, corrupted or not"),
        ("r 1 100 999999999999\nr.dat 16 100/mmHg 16 0 0 0 0 ART\n", "samples, at most"),
        ("r/2 1 100 1000\nr_1 500\nr_2 500\n", "No such file"),
        ("nonsense\n", "r.hea: truncated, corrupted or not"),
        ("r 2 100 1000\nr.dat 16 100/mmHg 16 0 0 0 0 ART\nr.dat 16 100/mmHg 16 0 0 0 0 ART\n", "several signals"),
        ("r 0 100 1000\n", "no track with samples"),
    ],
)
def test_records_that_are_wrong(tmp_path, header, said):
    (tmp_path / "r.hea").write_text(header)
    (tmp_path / "r.dat").write_bytes(bytes(4000))
    with pytest.raises(ValueError, match=said):
        read_case(tmp_path / "r.hea", subject="a")
