"""The .vital reader against the package vitaldb, and against files that are cut off, torn or made up."""

import gzip
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vitaldb.utils import VitalFile

from raycadian.modalities.biosignals.formats.vital_files import read_vital, track_names
from raycadian.types import Issues

START = 1_700_000_000.0
RATE = 50.0


def make(path: Path, tracks: dict, packed: bool = True) -> Path:
    """By the package: name -> (records, srate, fmt, gain, offset)."""
    file = VitalFile()
    file.dgmt, file.dtstart, file.dtend = 0, START, START + 20
    for name, (records, rate, code, gain, offset) in tracks.items():
        track = file.add_track(name, records, srate=rate, unit="mmHg")
        track.fmt, track.gain, track.offset = code, gain, offset
    file.to_vital(str(path), packed=packed)
    return path


def second_by_second(values: np.ndarray, skip: tuple[int, ...] = ()) -> list[dict]:
    n = int(RATE)
    return [{"dt": START + i, "val": values[i * n : (i + 1) * n]} for i in range(len(values) // n) if i not in skip]


def by_the_package(path: Path, name: str) -> np.ndarray:
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # it leaves the file open
        return VitalFile(str(path)).get_track_samples(name, 1 / RATE)


WAVE = 100 * np.sin(np.arange(1000) / 9)
TYPES = {1: "f4", 2: "f8", 3: "i1", 4: "u1", 5: "i2", 6: "u2"}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("code", TYPES)
def test_samples_are_the_package_s(tmp_path, code, packed):
    values = (np.abs(WAVE) if code in (4, 6) else WAVE).astype(TYPES[code])
    gain, offset = (1.0, 0.0) if code < 3 else (0.5, -3.0)
    path = make(
        tmp_path / "a.vital", {"SNUADC/ART": (second_by_second(values, (3, 4, 11)), RATE, code, gain, offset)}, packed
    )
    track = read_vital(path, None, Issues()).tracks["SNUADC/ART"]
    there = np.ones(1000, dtype=bool)
    there[150:250] = there[550:600] = False
    np.testing.assert_allclose(track.values[there], (values * gain + offset)[there], rtol=1e-6, atol=1e-5)
    assert np.isnan(track.values[~there]).all() and track.rate_hz == RATE and track.unit == "mmHg"
    if code < 3 or not packed:  # of a packed file's integers the package takes the mark of a gap for a value
        np.testing.assert_allclose(track.values, by_the_package(path, "SNUADC/ART"), rtol=1e-6, atol=1e-5)


def test_integers_of_32_bits_which_the_package_cannot_write(tmp_path):
    """Written as 16 bits, declared and stored as 32 by hand."""
    path = tmp_path / "a.vital"
    write_packets(
        path, [device(1, "SNUADC"), track(1, "ART", 1, 7, RATE, 1), record(1, START, wave(np.arange(100, dtype="<i4")))]
    )
    assert read_vital(path, None, Issues()).tracks["SNUADC/ART"].values.tolist() == list(range(100))


def test_numbers_are_the_package_s(tmp_path):
    records = [
        {"dt": START + t, "val": v} for t, v in ((0, 70.0), (2, 71.0), (8, 72.0), (4, 73.0), (4, 74.0), (6, np.nan))
    ]
    path = make(tmp_path / "a.vital", {"Solar8000/ART_MBP": (records, 0, 1, 1, 0)}, packed=False)
    issues = Issues()
    found = read_vital(path, ["ART_MBP"], issues).tracks["Solar8000/ART_MBP"]
    assert found.times_s.tolist() == [0, 2, 4, 8] and found.values.tolist() == [70, 71, 74, 72]
    assert issues.counts == {"several numbers at one time (the last kept)": 1}


def test_only_the_tracks_that_are_wanted(tmp_path):
    one = (second_by_second(WAVE.astype("f4")), RATE, 1, 1, 0)
    text = ([{"dt": START, "val": "intubation"}], 0, 1, 1, 0)
    path = make(tmp_path / "a.vital", {"SNUADC/ART": one, "SNUADC/CVP": one, "EVENT": text})
    assert list(read_vital(path, ["ART", "ABSENT"], Issues()).tracks) == ["SNUADC/ART"]
    assert sorted(read_vital(path, None, Issues()).tracks) == ["SNUADC/ART", "SNUADC/CVP"]
    assert track_names(path) == ["SNUADC/ART", "SNUADC/CVP"]  # what is text is no signal


def test_the_clock_of_every_track_is_the_case_s(tmp_path):
    """Whichever tracks are asked for, their times count from the first record of the file."""
    late = [{"dt": START + 5 + r["dt"] - START, "val": r["val"]} for r in second_by_second(WAVE.astype("f4"))]
    path = make(
        tmp_path / "a.vital",
        {"A/ONE": (second_by_second(WAVE.astype("f4")), RATE, 1, 1, 0), "A/TWO": (late, RATE, 1, 1, 0)},
    )
    case = read_vital(path, ["TWO"], Issues())
    assert case.tracks["A/TWO"].start_s == 5 and case.start_utc == np.datetime64("2023-11-14T22:13:20.000")


def test_a_jittering_clock_and_samples_that_stand_twice(tmp_path):
    values = WAVE.astype("f4")
    records = second_by_second(values)
    for i in range(1, len(records)):
        records[i]["dt"] += 0.007 * (-1) ** i  # a third of a sample
    issues = Issues()
    path = make(tmp_path / "a.vital", {"A/ONE": (records, RATE, 1, 1, 0)}, packed=False)
    np.testing.assert_allclose(read_vital(path, None, issues).tracks["A/ONE"].values, values)
    assert not issues.counts
    records[7]["dt"] -= 0.5  # 25 samples over those before
    path = make(tmp_path / "b.vital", {"A/ONE": (records[::-1], RATE, 1, 1, 0)}, packed=False)
    assert len(read_vital(path, None, issues).tracks["A/ONE"]) == 1000
    assert issues.counts == {"sample recorded twice (the later kept)": 25}


# --- packets by hand
# ---------------------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    return struct.pack("<L", len(value)) + value.encode()


def packet(kind: int, body: bytes) -> bytes:
    return struct.pack("<BL", kind, len(body)) + body


def device(number: int, name: str) -> bytes:
    return packet(9, struct.pack("<L", number) + text(name) + text(name) + text(""))


def track(number: int, name: str, kind: int, code: int, rate: float, owner: int) -> bytes:
    tail = struct.pack("<ffLfddBL", 0, 0, 0, rate, 1.0, 0.0, 0, owner)
    return packet(0, struct.pack("<HBB", number, kind, code) + text(name) + text("mmHg") + tail)


def wave(samples: np.ndarray, n: int | None = None) -> bytes:
    return struct.pack("<L", len(samples) if n is None else n) + samples.tobytes()


def record(number: int, time: float, body: bytes) -> bytes:
    return packet(1, struct.pack("<HdH", 10, time, number) + body)


def write_packets(path: Path, packets: list[bytes]) -> None:
    header = struct.pack("<hLLddB", 0, 0, 0, START, START + 20, 0)
    path.write_bytes(gzip.compress(b"VITA" + struct.pack("<LH", 3, len(header)) + header + b"".join(packets), 1))


FLOATS = np.arange(100, dtype="<f4")
GOOD = [device(1, "A"), track(1, "ONE", 1, 1, RATE, 1), record(1, START, wave(FLOATS))]


def read(tmp_path: Path, packets: list[bytes], issues: Issues | None = None):
    write_packets(tmp_path / "a.vital", packets)
    return read_vital(tmp_path / "a.vital", None, Issues() if issues is None else issues).tracks


@pytest.mark.parametrize(
    "packets, said",
    [
        ([*GOOD[:2], record(1, START, wave(FLOATS, 101))], "a record of 101 samples"),
        ([*GOOD, b"\x01\xff\xff\xff\x7f"], "truncated or corrupted after 3 packets"),
        ([*GOOD, b"\x01\x00"], "truncated or corrupted after 3 packets"),
        ([GOOD[0], packet(0, b"\x01\x00\x01\x01\xff\x00\x00\x00A")], "a name ends outside"),
        ([GOOD[0], track(1, "ONE", 1, 1, 0.0, 1), GOOD[2]], "expected a sampling rate above 0"),
        ([GOOD[0], track(1, "ONE", 1, 1, np.nan, 1), GOOD[2]], "expected a sampling rate above 0"),
        ([*GOOD, record(1, START + 1e9, wave(FLOATS))], "samples, at most"),
        ([*GOOD, record(1, np.nan, wave(FLOATS))], "a record without a time"),
        ([*GOOD, record(1, np.inf, wave(FLOATS))], "a record without a time"),
    ],
)
def test_packets_that_can_not_be(tmp_path, packets, said):
    with pytest.raises(ValueError, match=f"a.vital.*{said}"):
        read(tmp_path, packets)


def test_a_track_without_samples_is_left_out_and_counted(tmp_path):
    issues = Issues()
    packets = [*GOOD, track(2, "TWO", 1, 1, RATE, 1), track(3, "THREE", 2, 1, 0, 1), record(2, START, wave(FLOATS[:0]))]
    assert list(read(tmp_path, packets, issues)) == ["A/ONE"]
    assert issues.counts == {"track without samples (left out)": 2}


def test_a_track_declared_twice(tmp_path):
    issues = Issues()
    packets = [*GOOD, track(2, "ONE", 1, 1, RATE, 1), record(2, START, wave(-FLOATS))]
    assert read(tmp_path, packets, issues)["A/ONE"].values[1] == 1
    assert issues.counts == {"track declared twice (the first kept)": 1}


def test_records_of_no_track_and_packets_of_other_kinds_are_passed_over(tmp_path):
    packets = [
        packet(6, b"\x05\x00"),
        *GOOD,
        record(9, START, wave(FLOATS)),
        packet(10, b"raw"),
        packet(1, b"\x0a\x00"),
    ]
    assert list(read(tmp_path, packets)) == ["A/ONE"]


def test_a_declaration_may_end_after_the_name(tmp_path):
    short = packet(0, struct.pack("<HBB", 1, 2, 1) + text("HR"))
    tracks = read(tmp_path, [short, record(1, START + 2, struct.pack("<f", 71))])
    assert tracks["HR"].values.tolist() == [71] and tracks["HR"].times_s.tolist() == [2]


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_an_error(tmp_path, share):
    path = make(tmp_path / "a.vital", {"SNUADC/ART": (second_by_second(WAVE.astype("f4")), RATE, 1, 1, 0)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=r"a\.vital: .*(truncated or corrupted|not a .vital file|can't be read)"):
        read_vital(path, None, Issues())


def test_a_file_that_unpacks_to_more_than_it_may(tmp_path):
    (tmp_path / "a.vital").write_bytes(gzip.compress(b"VITA" + bytes(200_000_000), 1))
    with pytest.raises(ValueError, match="when unpacked|truncated or corrupted"):
        read_vital(tmp_path / "a.vital", None, Issues())


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(10, 600), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, 600))
@settings(max_examples=200)
def test_torn_bytes_are_an_error_or_a_case_but_never_anything_else(tmp_path_factory, changes, cut):
    path = tmp_path_factory.getbasetemp() / "torn.vital"
    write_packets(path, [*GOOD, track(2, "HR", 2, 1, 0, 1), record(2, START + 1, struct.pack("<f", 70))])
    body = bytearray(gzip.decompress(path.read_bytes()))
    for at, byte in changes:
        body[at % len(body)] = byte
    path.write_bytes(gzip.compress(bytes(body[: len(body) - cut % 40]), 1))
    try:
        case = read_vital(path, None, Issues())
    except ValueError as error:
        assert "torn.vital" in str(error)
    else:
        assert all(len(track) for track in case.tracks.values())
