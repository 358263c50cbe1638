"""Oddities of real waveforms, in inputs of our own: each gives its right answer, or an error that says so."""

import struct

import numpy as np
import pandas as pd
import pytest
from signals import beat_times, pressure, simulated

from raycadian.modalities.biosignals.card import BiosignalCard
from raycadian.modalities.biosignals.formats.edf import Header
from raycadian.modalities.biosignals.prepare import clean
from raycadian.modalities.biosignals.readers import read_case, track_names
from raycadian.modalities.prepare import prepare
from raycadian.types import Case, Issues, Track

WAVE = np.round(100 * np.sin(np.arange(2000) / 9))


# --- EDF ------------------------------------------------------------------------------------------------------------


def edf(path, values=WAVE, n=100, patient="P007 X X X", unit="mV", kind="EDF+C", onsets=None):
    """A second a record, of a signal of `n` samples and annotations; each record begins at its onset."""
    records = values.reshape(-1, n).astype("<i2")
    onsets = range(len(records)) if onsets is None else onsets
    signals = [
        ("ECG II", unit, "-1000", "1000", "-1000", "1000", n),
        ("EDF Annotations", "", "-1", "1", "-32768", "32767", 30),
    ]
    columns = list(zip(*signals, strict=True))
    widths = [(columns[0], 16), (["", ""], 80), (columns[1], 8), (columns[2], 8), (columns[3], 8), (columns[4], 8),
              (columns[5], 8), (["", ""], 80), (columns[6], 8), (["", ""], 32)]  # fmt: skip
    head = [("0", 8), (patient, 80), ("Startdate 06-JUN-2024 X X X", 80), ("06.06.24", 8), ("10.00.00", 8)]
    head += [("768", 8), (kind, 44), (len(records), 8), ("1", 8), ("2", 4)]
    head += [(text, width) for column, width in widths for text in column]
    body = [
        row.tobytes() + f"+{t}\x14\x14\x00".encode().ljust(60, b"\x00") for row, t in zip(records, onsets, strict=True)
    ]
    path.write_bytes(b"".join(str(text).encode("latin-1").ljust(width) for text, width in head) + b"".join(body))
    return path


def test_edf_as_pyedflib_reads_it(tmp_path):
    pyedflib = pytest.importorskip("pyedflib")
    path = edf(tmp_path / "x.edf")
    case = read_case(path)
    with pyedflib.EdfReader(str(path)) as file:
        np.testing.assert_allclose(case.tracks["ECG II"].values, file.readSignal(0), atol=1e-3)
        assert (case.subject, str(case.start_utc)) == (file.getPatientCode(), "2024-06-06T10:00:00.000")
    assert case.tracks["ECG II"].rate_hz == 100 and track_names(path) == ["ECG II"]


def test_a_latin_1_byte_in_a_header(tmp_path):
    path = edf(tmp_path / "x.edf", patient="P7 M 01-JAN-1950 Müller", unit="µV")
    case = read_case(path, tracks={"ecg_mv": "ECG II"}, units={"ecg_mv": "mV"})
    assert case.subject == "P7"
    np.testing.assert_allclose(case.tracks["ecg_mv"].values, WAVE / 1000, rtol=1e-5)


def test_an_interrupted_file_is_missing_in_its_gap(tmp_path):
    path, issues = edf(tmp_path / "x.edf", kind="EDF+D", onsets=[*range(10), *range(25, 35)]), Issues()
    (track,) = read_case(path, issues=issues).tracks.values()
    assert len(track) == 3500 and np.isnan(track.values[1000:2500]).all() and np.isfinite(track.values).sum() == 2000
    np.testing.assert_allclose(track.values[2500:], WAVE[1000:], atol=1e-3)
    assert issues.counts == {"gap in an interrupted file (missing there)": 1}
    with pytest.raises(ValueError, match="records begin before the ones above them"):
        read_case(edf(tmp_path / "y.edf", kind="EDF+D", onsets=range(20, 0, -1)))


def test_a_bdf_has_24_bits(tmp_path):
    values = np.array([-8_388_608, -1, 0, 1, 8_388_607])
    path = edf(tmp_path / "x.edf", np.zeros(5), 5)
    data = bytearray(path.read_bytes()[:768])
    data[:8], data[192:236] = b"\xffBIOSEMI", b"24BIT".ljust(44)
    head = bytes(data).replace(b"30      ", b"0       ")
    samples = b"".join(struct.pack("<i", v)[:3] for v in values)
    (tmp_path / "x.bdf").write_bytes(head + samples)
    (track,) = read_case(tmp_path / "x.bdf", subject="a").tracks.values()
    assert track.values.tolist() == values.astype(np.float32).tolist()


@pytest.mark.parametrize("patient", ["X X X X", "anonymous X X X", "", "x"])
def test_nobody_is_no_patient(tmp_path, patient):
    assert Header.of(edf(tmp_path / "x.edf", patient=patient)).patient == ""


# --- who ------------------------------------------------------------------------------------------------------------


def card(folder, text):
    path = folder / "c.yaml"
    path.write_text(f"name: c\nmodality: biosignals\n{text}\n")
    return path


def test_files_of_one_patient_are_one_subject(tmp_path):
    ecg = simulated("ecg", 100, 30) * 1000
    for name, patient in (("a", "P7 X X X"), ("b", "P7 X X X"), ("c", "P8 X X X"), ("d", "X X X X")):
        edf(tmp_path / f"{name}.edf", ecg, patient=patient, unit="uV")
    prepared = prepare(card(tmp_path, "files: ['*.edf']\nwaveforms: {ecg_mv: [ECG II]}"), tmp_path / "s", on_ray=False)
    assert prepared.subjects == ["P7", "P8", "d"] and prepared.manifest["counts"]["recordings"] == 4


def test_a_clinical_table_names_cases_with_or_without_their_ending(tmp_path):
    for name in ("v1", "v2"):
        np.savez(tmp_path / f"{name}.npz", ECG=simulated("ecg", 100, 30), **{"ECG.rate_hz": 100.0, "ECG.unit": "mV"})
    (tmp_path / "t.csv").write_text("caseid,subjectid,age\nv1.npz,p1,60\nv2,p2,70\n")
    text = "files: ['*.npz']\nwaveforms: {ecg_mv: [ECG]}\nclinical: {file: t.csv, keep: [age]}\nsame_readings: kept"
    prepared = prepare(card(tmp_path, text), tmp_path / "s", on_ray=False)
    assert prepared.subjects == ["p1", "p2"]


# --- tables ---------------------------------------------------------------------------------------------------------


def table(path, **columns):
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("name", "step"),
    [("Time [s]", 0.008), ("time_ms", 8), ("Time (ms)", 8), ("t", 0.008)],
)  # fmt: skip
def test_units_in_the_header_of_the_times(tmp_path, name, step):
    track = read_case(table(tmp_path / "x.csv", **{name: np.arange(2000) * step, "II": WAVE}), subject="a").tracks["II"]
    assert track.rate_hz == 125 and track.values.tolist() == WAVE.tolist()


@pytest.mark.parametrize(("unit", "a_second"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_times_that_count_from_1970(tmp_path, unit, a_second):
    times = 1_717_632_000 * a_second + np.arange(2000) * a_second // (1 if unit == "s" else 125)
    case = read_case(table(tmp_path / "x.csv", timestamp=times, II=WAVE), subject="a")
    assert str(case.start_utc) == "2024-06-06T00:00:00.000"
    assert case.tracks["II"].rate_hz == (1 if unit == "s" else 125)


def test_times_that_are_rounded_to_more_than_a_sample(tmp_path):
    times = [float(f"{98 + i / 125:.5g}") for i in range(2000)]  # from 100 s on 0.01 s, beyond a sample
    track = read_case(table(tmp_path / "x.csv", **{"Time [s]": times, "II": WAVE}), subject="a").tracks["II"]
    assert track.rate_hz == 125 and track.values.tolist() == WAVE.tolist()


def test_decimal_commas(tmp_path):
    lines = [f"{i / 100:.2f};{v / 10:.1f}".replace(".", ",") for i, v in enumerate(WAVE)]
    (tmp_path / "x.csv").write_text("t;II\n" + "\n".join(lines) + "\n")
    track = read_case(tmp_path / "x.csv", subject="a").tracks["II"]
    assert track.rate_hz == 100 and np.allclose(track.values, WAVE / 10, atol=1e-4)


def test_a_rate_of_the_card(tmp_path):
    table(tmp_path / "x.csv", ECG=simulated("ecg", 100, 30))
    text = "files: [x.csv]\nwaveforms: {ecg_mv: [ECG]}\n"
    with pytest.raises(ValueError, match="rate_hz"):
        prepare(card(tmp_path, text), tmp_path / "s", on_ray=False)
    prepared = prepare(card(tmp_path, text + "rate_hz: 100"), tmp_path / "s", on_ray=False)
    assert prepared.manifest["counts"]["hours"] == 0.01


# --- physiology is no error -----------------------------------------------------------------------------------------


def cleaned(channel, values, unit, **settings):
    about = BiosignalCard(name="x", files=("x",), waveforms={channel: ("x",)}, **settings)
    issues = Issues()
    return clean(
        Case("c", "a", {channel: Track(values.astype(np.float32), unit, rate_hz=125.0)}), about, issues=issues
    ), issues


def test_the_pulse_of_shock_is_low_and_good():
    t_s = np.arange(60 * 125) / 125
    shock = pressure(t_s, beat_times(60, 110), diastolic=28, pulse=15)
    one, _ = cleaned("abp_mmhg", shock, "mmHg")
    assert not one.rejected
    strict = {"quality": {"abp_pulse_mmhg": 20.0, "abp_mean_mmhg": 30.0}}
    assert cleaned("abp_mmhg", shock, "mmHg", **strict)[0].rejected


def test_an_ecg_that_points_down_is_left_unless_the_card_says():
    down = -simulated("ecg", 125, 30)
    left, issues = cleaned("ecg_ii_mv", down, "mV")
    turned, said = cleaned("ecg_ii_mv", down, "mV", upright=("ecg_ii_mv",))
    np.testing.assert_allclose(left.recording.channels["ecg_ii_mv"], -turned.recording.channels["ecg_ii_mv"], atol=1e-5)
    assert any("left as it is" in kind for kind in issues.counts) and any("turned over" in kind for kind in said.counts)
    with pytest.raises(ValueError, match=r"upright \['ppg'\]: expected ECG channels"):
        BiosignalCard(name="x", files=("x",), waveforms={"ppg": ("x",)}, upright=("ppg",))


def test_a_person_of_whom_nothing_is_good_is_named(tmp_path):
    flat = {"ECG": np.zeros(3000), "ECG.rate_hz": 100.0, "ECG.unit": "mV"}
    np.savez(tmp_path / "flat.npz", **flat)
    text = "files: ['*.npz']\nwaveforms: {ecg_mv: [ECG]}"
    issues = prepare(card(tmp_path, text), tmp_path / "s", on_ray=False).manifest["issues"]
    assert [k for k in issues if k.startswith("person of whom every window is rejected")]


def test_cases_that_are_called_alike_but_for_a_date(tmp_path):
    for day in ("2024-01-05", "2024-02-06"):
        arrays = {"ECG": simulated("ecg", 100, 30), "ECG.rate_hz": 100.0, "ECG.unit": "mV"}
        np.savez(tmp_path / f"p7_{day}.npz", **arrays)
    path = card(tmp_path, "files: ['*.npz']\nwaveforms: {ecg_mv: [ECG]}")
    with pytest.raises(ValueError, match="called alike but for a date.*name them in a table of cases"):
        prepare(path, tmp_path / "s", on_ray=False)
