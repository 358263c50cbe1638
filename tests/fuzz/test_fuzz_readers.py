"""Readers under mutated bytes: see fuzzing.py, of which `make fuzz` runs twenty minutes. What it found once stays."""

from collections import Counter

import pytest
from fuzzing import fuzz
from seeds import Seed, activity, all_seeds, glucose

from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.actigraphy.readers import _EPOCHS, MINUTES, read_activity
from raycadian.modalities.biosignals.readers import _READERS as SIGNALS
from raycadian.modalities.cgm.card import CGM_FORMATS
from raycadian.modalities.detect import make_card
from raycadian.types import Issues

SECONDS = 20


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> list[Seed]:
    return all_seeds(tmp_path_factory.mktemp("seeds"))


@pytest.mark.slow
def test_every_format_has_a_seed_and_each_is_read(seeds, tmp_path):
    formats = {seed.format for seed in seeds}
    known = {*CGM_FORMATS, *_EPOCHS, *MINUTES, *SIGNALS, "apple_health", "episodes", "xpt", "signal_table"}
    assert known - formats == {"minutes_mims"}  # of the same reader as minutes_counts, with a table beside it
    for seed in seeds:
        assert seed.read(seed.write(tmp_path, seed.content)) is not None, seed.format


@pytest.mark.long
def test_mutated_bytes_give_a_value_or_a_value_error_that_names_the_file(seeds, tmp_path):
    tallies = fuzz(seeds, SECONDS, 1, tmp_path)
    assert not {name: tally.wrong for name, tally in tallies.items() if tally.wrong}
    assert min(tally.inputs for tally in tallies.values()) >= 10 and sum(t.read for t in tallies.values()) > 100


def written(folder, name, content):
    (folder / name).write_bytes(content)
    return folder / name


CARELINK = b"-------;MiniMed;Pump;N;-------\nIndex;When;Sensor\n0;1;2\n"
ACTILIFE = b"-- Data File Created By ActiGraph date format M/d/yyyy --\nStart Time 99:99:99:99\nStart Date 8/6/2013\n"
FOUND = {
    "a section without its header": ("x.csv", CARELINK, glucose("carelink"), "no section of a pump or sensor"),
    "a clock that is none": (
        "x.csv", ACTILIFE + b"Epoch Period (hh:mm:ss) 00:01:00\n" + b"-\n" * 6 + b"1\n2\n", activity(),
        "start time '99:99:99:99' is no clock of a day",
    ),
    "bytes that are no UTF-32": ("x.AWD", b"\xff\xfe\x00\x00\xff\xff\xff\xff" * 9, activity(), "not utf-32"),
    "XML in no encoding that there is": (
        "x.xml", b'<?xml version="1.0" encoding="U-8"?><patient id="1"/>', glucose("ohio_t1dm"), "encoding: U-8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FOUND)
def test_what_was_found_is_said_with_the_file(case, tmp_path):
    name, content, read, words = FOUND[case]
    with pytest.raises(ValueError, match=words) as error:
        read(written(tmp_path, name, content))
    assert name in str(error.value)


def test_a_clock_that_is_none_is_one_row(tmp_path):
    """It was an error of the library's that named no file."""
    rows = "\n".join(
        f"7,{t},0,{i},5" for i, t in enumerate(["23:58:00", "23:59:00", "99:00:00", "00:01:00", "00:02:00"])
    )
    path = written(tmp_path, "x.csv", f"mesaid,linetime,offwrist,activity,dayofweek\n{rows}\n".encode())
    issues = Issues()
    (recording,) = read_activity([path], ActigraphyCard(name="t", files=("*",)), issues)
    assert issues.counts == {"time not understood (row left out)": 1} and len(recording) == 5
    assert Counter(recording.channels["activity_counts"].tolist()[:2]) == Counter([0.0, 1.0])


def test_detection_names_the_file_whatever_a_library_says(tmp_path):
    for name, content in (("x.gz", b"\x1f\x8b\x08\x00rubbish"), ("x.parquet", b"PAR1rubbishPAR1")):
        with pytest.raises(ValueError, match=f"{name}: "):
            make_card([written(tmp_path, name, content)])
