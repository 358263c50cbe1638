"""NHANES's minutes of both layouts: from made-up files of the genuine columns, whole and in stretches, and what is
wrong."""

import io

import numpy as np
import pandas as pd
import pytest

from raycadian.modalities.actigraphy import nhanes
from raycadian.modalities.actigraphy.formats import nhanes_minutes
from raycadian.modalities.actigraphy.formats.nhanes_minutes import (
    minutes_reader,
    monitor_spans,
    people_of,
)
from raycadian.modalities.actigraphy.formats.xpt import Xpt
from raycadian.physiology.rhythms.wear import choi
from raycadian.types import ACTIVITY_COUNTS, ACTIVITY_MIMS, Issues

pytest.importorskip("pyreadstat")
from raycadian.modalities.actigraphy.simulate import join_xpt, simulate_nhanes, write_xpt


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    return simulate_nhanes(5, tmp_path_factory.mktemp("d") / "files", "D", seed=1).with_suffix("")


@pytest.fixture(scope="module")
def mims(tmp_path_factory):
    return simulate_nhanes(3, tmp_path_factory.mktemp("g") / "files", "G", seed=1).with_suffix("")


def read(folder, **options):
    """Recordings and issues of the minutes of a folder of simulated files."""
    monitors = next(folder.glob("PAXHD*"), None)
    issues = Issues()
    reader = minutes_reader(Xpt.open(next(folder.glob("PAX[RM]*"))), monitors and Xpt.open(monitors), **options)
    return list(reader(issues)), issues


def person(seqn=21005.0, n=10080, weekday=3, **columns):
    """Rows of PAXRAW of one person."""
    minute = np.arange(n)
    table = {
        "SEQN": seqn, "PAXSTAT": 1.0, "PAXCAL": 1.0, "PAXDAY": (weekday - 1 + minute // 1440) % 7 + 1.0,
        "PAXN": minute + 1.0,
        "PAXHOUR": minute // 60 % 24.0, "PAXMINUT": minute % 60.0, "PAXINTEN": 100.0 + minute % 50,
    }  # fmt: skip
    return pd.DataFrame({**table, **columns})


def read_table(folder, table, name="PAXRAW_C"):
    write_xpt(table, folder / f"{name}.XPT")
    return read(folder)


# --- the two layouts ------------------------------------------------------------------------------------------------


def test_counts(counts):
    recordings, issues = read(counts)
    table = Xpt.open(counts / "PAXRAW_D.XPT").frame()
    assert [r.subject for r in recordings] == [str(s) for s in range(31127, 31132)]
    for recording in recordings:
        rows = table[table["SEQN"] == float(recording.subject)]
        assert (len(recording), recording.dt_s, recording.utc_offset_min) == (10_080, 60.0, 0)
        assert np.array_equal(recording.channels[ACTIVITY_COUNTS], rows["PAXINTEN"])
        assert np.array_equal(recording.observed, choi(rows["PAXINTEN"].to_numpy()))
        assert pd.Timestamp(recording.start_utc).isoweekday() % 7 + 1 == rows["PAXDAY"].iloc[0]
    assert not issues.counts


def test_mims(mims):
    recordings, issues = read(mims)
    table, monitors = Xpt.open(mims / "PAXMIN_G.XPT").frame(), Xpt.open(mims / "PAXHD_G.XPT").frame()
    for recording, head in zip(recordings, monitors.itertuples(), strict=True):
        rows = table[table["SEQN"] == float(recording.subject)]
        start = pd.Timestamp(recording.start_utc)
        assert (start.strftime("%H:%M:%S"), str(start.isoweekday() % 7 + 1)) == (head.PAXFTIME, head.PAXFDAY)
        midnight = 1440 - start.hour * 60
        assert rows["PAXDAYM"].iloc[midnight - 1] == "1" and rows["PAXDAYM"].iloc[midnight] == "2"
        good = rows["PAXQFM"].to_numpy() == 0
        values = recording.channels[ACTIVITY_MIMS]
        assert np.array_equal(np.isnan(values), ~good)
        np.testing.assert_array_equal(values[good], rows["PAXMTSM"].to_numpy(np.float32)[good])
        assert np.array_equal(recording.observed, good & (rows["PAXPREDM"] != "3").to_numpy())
    assert issues.counts == {"minute of bad quality (missing)": int((table["PAXQFM"] > 0).sum())}


# PAXHD_G as CDC documents and publishes it: numbers are SEQN and PAXSTS, all else is text; nobody's data
HEADERS = """
SEQN  PAXSTS PAXSENID      PAXFDAY PAXLDAY PAXFTIME PAXETLDY PAXHAND PAXORENT
62161 1      NEO1B41100001 1       9       15:30:00 15:39:00 1       1
62163 2      -             -       -       -        -        -       -
62164 1      NEO1B41100002 6       2       21:00:00 00:05:00 1       2
62165 1      NEO1B41100001 7       2       09:11:00 00:00:00 2       1
62169 1      NEO1B41100003 4       3       12:00:00 12:00:30 1       1
"""
MINUTES = {"62161": 8 * 1440 + 9, "62164": 185, "62165": 2 * 1440 - 551, "62169": 1440}  # the last stopped a day short


def genuine_rows(seqn, n):
    """PAXMIN_G's columns of one person whose movement counts its minutes."""
    minute = np.arange(n)
    text = {"PAXDAYM": "1", "PAXDAYWM": "1", "PAXPREDM": np.where(minute < 5, "3", "2"), "PAXFLGSM": ""}
    numbers = {"PAXSSNMP": 4800.0 * minute, "PAXTSM": 60.0, "PAXAISMM": 0.0, "PAXMTSM": 0.001 * minute, "PAXMXM": 0.0}
    numbers |= dict.fromkeys(("PAXMYM", "PAXMZM", "PAXLXMM", "PAXLXSDM", "PAXTRANM", "PAXQFM"), 0.0)
    return pd.DataFrame({"SEQN": np.full(n, float(seqn)), **text, **numbers})


def genuine(folder, **changed):
    heads = pd.read_csv(io.StringIO(HEADERS), sep=r"\s+", dtype=str, keep_default_na=False).replace("-", "")
    heads = heads.assign(SEQN=heads["SEQN"].astype(float), PAXSTS=heads["PAXSTS"].astype(float), **changed)
    write_xpt(heads, folder / "PAXHD_G.XPT")
    write_xpt(pd.concat([genuine_rows(*one) for one in MINUTES.items()], ignore_index=True), folder / "PAXMIN_G.XPT")
    return read(folder)


def test_the_genuine_layout_of_2011_to_2014(tmp_path):
    """Weekdays are codes, PAXLDAY numbers the last day of wear, PAXETLDY is the clock on it."""
    recordings, issues = genuine(tmp_path)
    assert {r.subject: len(r) for r in recordings} == MINUTES
    assert [pd.Timestamp(r.start_utc).strftime("%A %H:%M") for r in recordings] == [
        "Sunday 15:30", "Friday 21:00", "Saturday 09:11", "Wednesday 12:00",
    ]  # fmt: skip
    assert all(np.flatnonzero(~r.observed).tolist() == [0, 1, 2, 3, 4] for r in recordings)
    assert issues.examples == {"recording that doesn't end when its monitor did (PAXLDAY, PAXETLDY)": ["SEQN 62169"]}


def test_weekdays_by_name(tmp_path):
    coded, _ = genuine(tmp_path)
    named, _ = genuine(tmp_path, PAXFDAY=["Sunday", "", "Friday", "SATURDAY", "Wednesday"])
    assert [r.start_utc for r in named] == [r.start_utc for r in coded]


def test_gaps_in_the_samples_stay_gaps(mims, tmp_path):
    table = Xpt.open(mims / "PAXMIN_G.XPT").frame()
    table = table[table["SEQN"] == table["SEQN"].iloc[0]].drop(index=range(100, 150))
    write_xpt(table, tmp_path / "PAXMIN_G.XPT")
    (tmp_path / "PAXHD_G.XPT").write_bytes((mims / "PAXHD_G.XPT").read_bytes())
    (recording,), _ = read(tmp_path)
    assert len(recording) == 8 * 1440
    assert np.isnan(recording.channels[ACTIVITY_MIMS][100:150]).all() and not recording.observed[100:150].any()


def test_a_recording_without_its_end(mims, tmp_path):
    """What is cut off at a row's end can't be told from the file alone."""
    table = Xpt.open(mims / "PAXMIN_G.XPT").frame()
    write_xpt(table.iloc[:-3000], tmp_path / "PAXMIN_G.XPT")
    (tmp_path / "PAXHD_G.XPT").write_bytes((mims / "PAXHD_G.XPT").read_bytes())
    found, issues = read(tmp_path)
    assert [len(r) for r in found] == [11_520, 11_520, 8_520]
    assert issues.counts["recording that doesn't end when its monitor did (PAXLDAY, PAXETLDY)"] == 1


def test_a_minute_is_where_its_number_says(tmp_path):
    table = person(weekday=6).drop(index=range(500)).drop(index=range(3000, 10080))
    (recording,), issues = read_table(tmp_path, table)
    values = recording.channels[ACTIVITY_COUNTS]
    assert np.isnan(values[:500]).all() and np.isnan(values[3000:]).all() and values[500] == 100.0
    assert pd.Timestamp(recording.start_utc).day_name() == "Friday"
    assert issues.counts == {"recording of fewer than 10,080 minutes": 1}


# --- stretches, and Parquet ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 777, 10_080, 12_345, 60_000])
def test_everybody_belongs_to_one_stretch(counts, rows, monkeypatch):
    monkeypatch.setattr(nhanes_minutes, "BLOCK_ROWS", 4_321)
    xpt = Xpt.open(counts / "PAXRAW_D.XPT")
    begins = range(0, xpt.rows, rows) if rows > 1 else [*range(0, 3), *range(10_079, 10_082)]
    found = [p for b in begins for p in people_of(xpt, ("SEQN", "PAXN"), b, b + rows)]
    assert [subject for subject, _ in found] == [str(31127 + i) for i in range(5 if rows > 1 else 2)]
    assert all(np.array_equal(one["PAXN"], np.arange(1.0, 10_081)) for _, one in found)


def test_a_person_in_two_places(counts, tmp_path):
    both = tmp_path / "PAXRAW_C.XPT"
    join_xpt([counts / "PAXRAW_D.XPT"] * 2, both)
    with pytest.raises(ValueError, match="SEQN 31127 comes again at row 50,401"):
        list(minutes_reader(Xpt.open(both), None)(Issues()))


# --- what is wrong --------------------------------------------------------------------------------------------------


def test_impossible_and_repeated_minutes_are_counted(tmp_path):
    table = person(n=3000)
    table.loc[10, "PAXN"], table.loc[11, "PAXN"], table.loc[12, "PAXN"] = 0, 10_081, 5.5
    table.loc[20, "PAXN"] = 5
    (recording,), issues = read_table(tmp_path, table)
    assert issues.counts["impossible minute (row left out)"] == 3
    assert issues.counts["minute twice (the first is kept)"] == 1
    assert np.flatnonzero(np.isnan(recording.channels[ACTIVITY_COUNTS][:100])).tolist() == [10, 11, 12, 20]


def test_faults_of_the_monitor(tmp_path):
    people = [person(1.0), person(2.0, PAXCAL=2.0), person(3.0, PAXSTAT=2.0)]
    people[0].loc[[7, 8], "PAXINTEN"] = 32_767, -1
    (recording,), issues = read_table(tmp_path, pd.concat(people))
    assert recording.subject == "1"
    assert np.isnan(recording.channels[ACTIVITY_COUNTS][7:9]).all()
    assert issues.counts["monitor unreliable or out of calibration (person left out)"] == 2
    assert issues.counts["minute with a full or negative counter (missing)"] == 2


def test_never_worn(tmp_path):
    (recording,), issues = read_table(tmp_path, person(PAXINTEN=0.0))
    assert not recording.observed.any()
    assert issues.counts["recording that was never worn"] == 1


def test_weekdays_that_jump(tmp_path):
    table = person()
    table.loc[5000, "PAXDAY"] = 1
    with pytest.raises(ValueError, match=r"SEQN 21005: the weekdays PAXDAY .* don't follow one another"):
        read_table(tmp_path, table)


def test_another_table_and_no_start(counts, mims, tmp_path):
    demo, minutes = Xpt.open(counts / "DEMO_D.XPT"), Xpt.open(mims / "PAXMIN_G.XPT")
    with pytest.raises(ValueError, match=r"expected minutes \(PAXRAW or PAXMIN\), found table 'DEMO_D'"):
        minutes_reader(demo, None)
    with pytest.raises(ValueError, match="minutes without PAXHD"):
        minutes_reader(minutes, None)
    with pytest.raises(ValueError, match="no column PAXFDAY, PAXFTIME, PAXLDAY, PAXETLDY in table 'DEMO_D'"):
        list(minutes_reader(minutes, demo)(Issues()))
    heads = Xpt.open(mims / "PAXHD_G.XPT").frame()
    write_xpt(heads.iloc[1:], tmp_path / "PAXHD_G.XPT")
    issues = Issues()
    assert len(list(minutes_reader(minutes, Xpt.open(tmp_path / "PAXHD_G.XPT"))(issues))) == 2
    assert issues.counts["person without a row in PAXHD (left out)"] == 1


@pytest.mark.parametrize(
    ("column", "value"),
    [("PAXFTIME", "25:00:00"), ("PAXETLDY", ""), ("PAXFDAY", "8"), ("PAXLDAY", "10"), ("PAXLDAY", "Tuesday")],
)
def test_monitors_that_can_t_be(mims, tmp_path, column, value):
    write_xpt(Xpt.open(mims / "PAXHD_G.XPT").frame().assign(**{column: value}), tmp_path / "PAXHD_G.XPT")
    with pytest.raises(ValueError, match=f"SEQN 62161: the monitor ran from .*{column} '{value}'.*; expected one row"):
        monitor_spans(Xpt.open(tmp_path / "PAXHD_G.XPT"))


# --- made-up participants -------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_files(tmp_path):
    """But for the time of writing in the headers."""
    one, other = (simulate_nhanes(2, tmp_path / name, "D", seed=5).with_suffix("") for name in "ab")
    for path in sorted(one.glob("*.XPT")):
        pd.testing.assert_frame_equal(Xpt.open(path).frame(), Xpt.open(other / path.name).frame())


@pytest.mark.slow
def test_labels_are_as_drawn(tmp_path):
    folder = simulate_nhanes(40, tmp_path / "files", "D", seed=2, prevalence=0.25).with_suffix("")
    people = nhanes.people(p for p in folder.glob("*.XPT") if not p.name.startswith("PAX"))
    assert people.index.tolist() == [str(31127 + i) for i in range(40)]
    assert 4 <= people["depressed"].sum() <= 18 and people["phq9"].max() <= 27
    assert people["ssri"].notna().all() and set(people["sleep_disorder"]) == {0, 1}
    recordings, _ = read(folder)
    left, flow = nhanes.cohort(people, [r.subject for r in recordings], "depressed")
    assert len(left) == people["depressed"].notna().sum() and flow.steps[-1]["left"] == len(left)
    activity = pd.Series({r.subject: r.channels[ACTIVITY_COUNTS].mean() for r in recordings})
    assert activity[people["depressed"] == 1].mean() < activity[people["depressed"] == 0].mean()


def test_simulated_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="cycle: expected one of C, D, G, H, found 'E'"):
        simulate_nhanes(3, tmp_path / "x", "E")
    with pytest.raises(ValueError, match="people 0"):
        simulate_nhanes(0, tmp_path / "x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is there already, and not empty"):
        simulate_nhanes(3, tmp_path)
