"""SAS transport files: every value as pyreadstat's, any stretch alone, and files that are cut off, foreign or
damaged."""

import struct

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycadian.modalities.actigraphy.formats.xpt import Xpt, _numbers, ibm_floats

pyreadstat = pytest.importorskip("pyreadstat")

TABLE = pd.DataFrame(
    {
        "SEQN": [31127.0, 31128.0, 31129.0, 31130.0, 31131.0],
        "VALUE": [0.0, -1.5, np.nan, 1e-9, 123456.789],
        "DRUG": ["FLUOXETINE", "", "d00236", "a b", "ÉPICE"],
    }
)


def write(path, table=TABLE, name="TEST"):
    pyreadstat.write_xport(table, str(path), table_name=name, file_format_version=5)
    return path


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "test.xpt")


def test_values_and_header(path):
    xpt = Xpt.open(path)
    assert (xpt.table, xpt.rows, list(xpt.variables)) == ("TEST", 5, list(TABLE))
    table = xpt.frame()
    np.testing.assert_allclose(table["VALUE"], TABLE["VALUE"], rtol=1e-15)
    assert table["VALUE"].iloc[0] == 0.0  # pandas.read_sas gives 5.4e-79
    assert list(table["DRUG"][:4]) == list(TABLE["DRUG"][:4])


def test_any_stretch_is_the_same_as_the_whole(tmp_path):
    table = pd.DataFrame({"A": np.arange(1000.0), "B": np.arange(1000.0) ** 2, "C": [f"x{i % 7}" for i in range(1000)]})
    xpt = Xpt.open(write(tmp_path / "long.xpt", table))
    whole = xpt.read()
    blocks = list(xpt.blocks(["C", "A"], begin=13, end=987, rows=100))
    assert [len(b["A"]) for b in blocks] == [100] * 9 + [74]
    for name in ("C", "A"):
        assert np.array_equal(np.concatenate([b[name] for b in blocks]), whole[name][13:987])
    assert len(xpt.read(["A"], 990, 5000)["A"]) == 10


@pytest.mark.parametrize("rows", [*range(1, 24)])
def test_filling_blanks_are_no_rows(tmp_path, rows):
    """Short records leave room for whole records of blanks in the last 80 bytes."""
    table = pd.DataFrame({"A": np.arange(1.0, rows + 1)})
    assert Xpt.open(write(tmp_path / "short.xpt", table)).rows == rows


@pytest.mark.slow
@given(st.lists(st.floats(-1e60, 1e60, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 1e-60)))
def test_ibm_floats(values):
    np.testing.assert_allclose(ibm_floats(np.array([_ibm(v) for v in values], np.uint64)), values, rtol=2**-50)


def _ibm(value: float) -> int:
    """A double as IBM's: sign, power of 16 over 64, 56 bits of fraction. Written apart from the reader."""
    fraction, power = abs(value), 64
    if value == 0:
        return 0
    while fraction >= 1:
        fraction, power = fraction / 16, power + 1
    while fraction < 1 / 16:
        fraction, power = fraction * 16, power - 1
    return (int(value < 0) << 63) | (power << 56) | int(fraction * 2**56)


def test_missing_values_and_short_numbers():
    bits = np.array([0x2E << 56, ord("A") << 56, ord("_") << 56, 0, 1 << 63], np.uint64)
    assert np.array_equal(np.isnan(ibm_floats(bits)), [True, True, True, False, False])
    short = np.frombuffer(struct.pack(">Q", _ibm(3.5))[:3], np.uint8)[None]
    assert _numbers(short)[0] == 3.5


@pytest.mark.parametrize("left", [0.2, 0.5, 0.9, 0.999])
def test_truncated(path, left):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * left) // 7 * 7])
    with pytest.raises(ValueError, match="cut off|damaged"):
        Xpt.open(path)


def test_cut_off_at_a_line(tmp_path):
    table = pd.DataFrame({f"V{i}": np.arange(500.0) + 0.1 for i in range(7)})
    path = write(tmp_path / "lines.xpt", table)
    path.write_bytes(path.read_bytes()[: -80 * 20])
    with pytest.raises(ValueError, match=r"cut off after \d+ rows.*download it again"):
        Xpt.open(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a SAS transport file"),
        (b"<!DOCTYPE html><html>not found</html>", "a web page"),
        (b"SEQN,PAXN,PAXINTEN\n1,2,3\n" * 50, "not a SAS transport file"),
        (b"HEADER RECORD*******LIBV8   HEADER RECORD!!!!!!!" + b"0" * 800, "version 8"),
        (b"HEADER RECORD*******LIBRARY HEADER RECORD!!!!!!!" + b"0" * 800, "headers are cut off or damaged"),
    ],
)
def test_foreign_files(tmp_path, content, message):
    path = tmp_path / "foreign.xpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Xpt.open(path)


def test_damaged_descriptor(path):
    data = bytearray(path.read_bytes())
    data[640 + 84 + 140] = 99  # where the second column begins
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"column 2 \('VALUE'.* is damaged"):
        Xpt.open(path)


def test_two_tables_in_one_file(path):
    path.write_bytes(path.read_bytes() + path.read_bytes()[240:])
    with pytest.raises(ValueError, match="several tables|cut off"):
        Xpt.open(path).read()


def test_missing_column_says_what_the_table_is(path):
    with pytest.raises(ValueError, match="no column PAXN in table 'TEST', which has SEQN, VALUE, DRUG"):
        Xpt.open(path).read(["SEQN", "PAXN"])


def test_real_files_are_read_as_pyreadstat_reads_them(shared):
    for path in sorted((shared / "nhanes").glob("*.XPT")):
        theirs, _ = pyreadstat.read_xport(str(path))
        text = {name: "" for name in theirs if theirs[name].dtype == object}
        pd.testing.assert_frame_equal(Xpt.open(path).frame(), theirs.fillna(text), check_dtype=False)
