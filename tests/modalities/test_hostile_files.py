"""Small files that are made to fill the memory: each reader refuses them, or counts and leaves out what can't be,
within 1 GB."""

import gzip
import io
import resource
import sqlite3
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycadian.data import source
from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.actigraphy.formats import devices
from raycadian.modalities.actigraphy.readers import read_activity
from raycadian.modalities.biosignals import tracks
from raycadian.modalities.biosignals.readers import read_case
from raycadian.modalities.cgm.card import CGMCard
from raycadian.modalities.cgm.formats import ohio, tables
from raycadian.modalities.cgm.readers import read_files
from raycadian.modalities.detect import make_card
from raycadian.types import Issues

MOST_BYTES = 1_000_000_000


COLUMNS = {"subject": "subject", "time": "time", "activity": "activity"}


@contextmanager
def little_memory() -> Iterator[None]:
    """Nobody gets a gigabyte more than there is now: a MemoryError, at once, where it is asked for."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MOST_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def activity(path: Path) -> dict[str, int]:
    issues = Issues()
    list(read_activity([path], ActigraphyCard(name="t", files=("*",), columns=COLUMNS), issues))
    return issues.counts


def signals(path: Path) -> dict[str, int]:
    issues = Issues()
    read_case(path, subject="a", issues=issues)
    return issues.counts


def glucose(path: Path) -> dict[str, int]:
    issues = Issues()
    list(read_files([path], CGMCard(name="t", files=("*",), unit="mg/dL"), issues))
    return issues.counts


def _health(years: range) -> str:
    days = (f"{year:04}-{month:02}-{day:02}" for year in years for month in range(1, 13) for day in range(1, 29))
    kind = "HKQuantityTypeIdentifierStepCount"
    records = (
        f'<Record type="{kind}" startDate="{d} 08:00:00 +0000" endDate="{d} 23:00:00 +0000" value="1"/>' for d in days
    )
    return f"<HealthData>{''.join(records)}</HealthData>"


def apple_daily_records_for_25_years(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "export.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("apple_health_export/export.xml", _health(range(1990, 2016)).replace("-28 23", "-31 23"))
    return folder / "export.zip"


def awd_of_35_million_lines(folder: Path) -> Path:
    header = b"A\n23-Jan-2018\n13:58\n4\n30\nX\nM\n"
    (folder / "a.AWD").write_bytes(gzip.compress(header + b"0\n" * 35_000_000, 1))
    return folder / "a.AWD"


def respironics_without_end(folder: Path) -> Path:
    (folder / "a.csv").write_bytes(gzip.compress(b'"Epoch-by-Epoch Data"\n' + b"1,2\n" * 17_000_000, 1))
    return folder / "a.csv"


def activity_40_years_apart(folder: Path) -> Path:
    times = ("1990-01-01T00:00", "1990-01-01T00:01", "1990-01-01T00:02", "2030-01-01T00:00")
    (folder / "a.csv").write_text("\n".join(["subject,time,activity", *(f"a,{time},1" for time in times)]))
    return folder / "a.csv"


def wear_flags_bomb(folder: Path) -> Path:
    days = 250_000
    arrays = {"SEQN": np.zeros(days), "WEEKDAY": np.ones(days), "wear": np.zeros((days, 1440), np.uint8)}
    np.savez_compressed(folder / "wear.npz", **arrays)
    return folder / "wear.npz"


def _vital(folder: Path, packets: list[bytes]) -> Path:
    header = struct.pack("<hLLddB", 0, 0, 0, 1e9, 1e9 + 20, 0)
    content = b"VITA" + struct.pack("<LH", 3, len(header)) + header + b"".join(packets)
    (folder / "a.vital").write_bytes(gzip.compress(content, 1))
    return folder / "a.vital"


def _text(value: str) -> bytes:
    return struct.pack("<L", len(value)) + value.encode()


def _packet(kind: int, body: bytes) -> bytes:
    return struct.pack("<BL", kind, len(body)) + body


def vital_of_64_long_tracks(folder: Path) -> Path:
    """Two samples each, 55 hours apart at 500 Hz: 100 million points a track."""
    packets = []
    for number in range(64):
        tail = struct.pack("<ffLfddBL", 0, 0, 0, 500.0, 1.0, 0.0, 0, 1)
        declared = struct.pack("<HBB", number, 1, 1) + _text(f"T{number}") + _text("mmHg") + tail
        packets.append(_packet(0, declared))
        for at in (1e9, 1e9 + 200_000):
            packets.append(_packet(1, struct.pack("<HdHLf", 10, at, number, 1, 1.0)))
    return _vital(folder, packets)


def waveform_table_with_a_gap(folder: Path) -> Path:
    names = [f"c{i}" for i in range(64)]
    rows = [",".join([f"{t / 100}", *["1"] * 64]) for t in (*range(200), *range(5_000_000, 5_000_200))]
    (folder / "a.csv").write_text("\n".join([",".join(["time_s", *names]), *rows]))
    return folder / "a.csv"


def wfdb_of_nothing(folder: Path) -> Path:
    signals = "\n".join(f"~ 0 100/mV 16 0 0 0 0 S{i}" for i in range(1000))
    (folder / "r.hea").write_text(f"r 1000 100 100000000\n{signals}\n")
    return folder / "r.hea"


def npz_whose_header_lies(folder: Path) -> Path:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(folder / "a.npz", "w") as archive:
        archive.writestr("ART.npy", header.getvalue() + b"\0" * 80)
    return folder / "a.npz"


def npz_bomb(folder: Path) -> Path:
    np.savez_compressed(folder / "a.npz", ART=np.zeros(60_000_000), rate_hz=100.0)
    return folder / "a.npz"


def parquet_of_constants(folder: Path) -> Path:
    n = np.zeros(20_000_000, np.int8)
    columns = {"time": pa.array(["2024-01-01T00:00"]), "glucose": pa.array([100])}
    table = pa.table({name: pa.DictionaryArray.from_arrays(n, values) for name, values in columns.items()})
    pq.write_table(table, folder / "a.parquet", row_group_size=len(table), data_page_size=1 << 30)
    return folder / "a.parquet"


def nightscout_of_empty_records(folder: Path) -> Path:
    (folder / "a.json").write_bytes(gzip.compress(b'[{"sgv":1}' + b",{}" * 11_000_000 + b"]", 1))
    return folder / "a.json"


def nested_json(folder: Path) -> Path:
    (folder / "a.json").write_text('[{"sgv":' + "[" * 200_000 + "]" * 200_000 + "}]")
    return folder / "a.json"


def ohio_of_many_events(folder: Path) -> Path:
    events = '<event ts="01-01-2024 00:00:00" value="100"/>' * 2_000
    (folder / "a.xml").write_text(f'<patient id="1"><glucose_level>{events}</glucose_level></patient>')
    return folder / "a.xml"


def clarity_of_many_rows(folder: Path) -> Path:
    names = ["Index", "Timestamp (YYYY-MM-DDThh:mm:ss)", "Event Type", "Event Subtype", "Patient Info", "Device Info",
             "Source Device ID", "Glucose Value (mg/dL)", "Insulin Value (u)", "Carb Value (grams)"]  # fmt: skip
    rows = [f"{i},2024-01-01T{i // 3600:02}:{i // 60 % 60:02}:{i % 60:02},EGV,,,,,100,," for i in range(2_000)]
    (folder / "a.csv").write_text("\n".join([",".join(names), *rows]))
    return folder / "a.csv"


REFUSED: dict[Callable[[Path], Path], tuple[Callable[[Path], dict[str, int]], str]] = {
    apple_daily_records_for_25_years: (activity, "minutes, at most 10,540,800"),
    awd_of_35_million_lines: (activity, "MiB when unpacked"),
    respironics_without_end: (activity, "MiB when unpacked"),
    activity_40_years_apart: (activity, "minutes, at most 10,540,800"),
    wear_flags_bomb: (activity, "archive bomb"),
    vital_of_64_long_tracks: (signals, "more than 120,000,000 samples in all"),
    waveform_table_with_a_gap: (signals, "more than 120,000,000 samples in all"),
    wfdb_of_nothing: (signals, "more than 120,000,000 samples in all"),
    npz_whose_header_lies: (signals, "truncated, corrupted"),
    npz_bomb: (signals, "archive bomb"),
    parquet_of_constants: (glucose, "rows, at most"),
    nightscout_of_empty_records: (glucose, "records, at most"),
    nested_json: (glucose, "nested too deeply"),
    ohio_of_many_events: (glucose, "events, at most"),
    clarity_of_many_rows: (glucose, "rows, at most"),
}


@pytest.mark.slow
@pytest.mark.parametrize("write", REFUSED, ids=lambda write: write.__name__)
def test_a_file_made_to_fill_the_memory_is_refused(write, tmp_path, monkeypatch):
    few = partial(source.check_count, most=1000)
    monkeypatch.setattr(ohio, "check_count", few)
    monkeypatch.setattr(tables, "check_count", few)
    monkeypatch.setattr(tracks, "MAX_FILE_SAMPLES", 120_000_000)  # of 4 bytes
    path, (read, words) = write(tmp_path), REFUSED[write]
    assert path.stat().st_size < 3_000_000
    with little_memory(), pytest.raises(ValueError, match=words):
        read(path)


def brackets(folder: Path) -> Path:
    (folder / "a.json").write_text("[" * 500_000)
    return folder / "a.json"


def one_long_name(folder: Path) -> Path:
    (folder / "a.csv").write_text("time,glucose" + "([" * 200_000 + "\n2024-01-01 00:00,100\n")
    return folder / "a.csv"


def rows_that_unpack_to_too_much(folder: Path) -> Path:
    (folder / "a.csv.gz").write_bytes(gzip.compress(b"time,glucose\n" + b"2024-01-01 00:00,100\n" * 6_000_000, 9))
    return folder / "a.csv.gz"


def laughs(folder: Path) -> Path:
    entities = '<!DOCTYPE patient [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>'
    (folder / "a.xml").write_text(f'{entities}<patient id="1"><glucose_level/>&b;</patient>')
    return folder / "a.xml"


def elements_in_elements(folder: Path) -> Path:
    (folder / "a.xml").write_text('<patient id="1">' + "<a>" * 300_000)
    return folder / "a.xml"


AT_ONCE: dict[Callable[[Path], Path], str] = {
    brackets: "not a file of",
    nested_json: "nested too deeply",
    one_long_name: "a name of its first line has 65,531 characters",
    rows_that_unpack_to_too_much: "more than 64 MiB when unpacked",
    laughs: "declares entities or a document type, which are never read",
    elements_in_elements: "nested too deeply",
}


@pytest.mark.slow
@pytest.mark.parametrize("write", AT_ONCE, ids=lambda write: write.__name__)
def test_what_is_no_export_is_refused_at_once_and_in_few_words(write, tmp_path):
    """As `inspect` does it: recognised, then read. These took up to 55 s, and 65 kB of words."""
    path = write(tmp_path)
    began = time.perf_counter()
    with pytest.raises(ValueError, match=AT_ONCE[write]) as error:
        list(read_files([path], make_card([path])[0], Issues()))
    assert time.perf_counter() - began < 20 and len(str(error.value)) < 1000 and "Forbidden" not in str(error.value)


def test_records_from_year_1_are_left_out_and_counted(tmp_path):
    path = tmp_path / "export.xml"
    path.write_text(_health(range(1, 30)) + "")
    with little_memory(), pytest.raises(ValueError, match="no record of steps"):
        activity(path)
    path.write_text(_health(range(1, 30)).replace("</HealthData>", _health(range(2024, 2025))[12:]))
    with little_memory():
        assert activity(path)["record that can't be (left out)"] == 29 * 336


def test_epochs_before_there_were_devices_are_left_out_and_counted(tmp_path):
    path = tmp_path / "a.csv"
    rows = [f"a,1804-01-01T00:{i:02},1" for i in range(9)] + [f"a,2024-01-01T00:{i:02},1" for i in range(9)]
    path.write_text("\n".join(["subject,time,activity", *rows]))
    assert activity(path)["time outside 1900-2099"] == 9


def test_more_epochs_than_a_person_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "MAX_EPOCHS", 100)
    with sqlite3.connect(tmp_path / "a.agd") as base:
        base.execute("CREATE TABLE settings (settingName TEXT, settingValue TEXT)")
        base.execute("CREATE TABLE data (dataTimestamp INTEGER, axis1 INTEGER)")
        base.execute("INSERT INTO settings VALUES ('epochlength', '60')")
        base.executemany("INSERT INTO data VALUES (?, 1)", ((638_000_000_000_000_000 + i,) for i in range(101)))
    base.close()
    (tmp_path / "a.csv").write_text("subject,time,activity\n" + "a,2024-01-01T00:00,1\n" * 101)
    for name, words in (("a.agd", "101 epochs, at most 100"), ("a.csv", "101 rows, at most 100")):
        with pytest.raises(ValueError, match=words):
            activity(tmp_path / name)
