"""Actigraphy files of every format as minutes: what each says, how clocks and epochs become a grid, and what is
wrong."""

import sqlite3

import numpy as np
import pandas as pd
import pytest

from raycadian.modalities.actigraphy import readers as actigraphy
from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.actigraphy.formats.devices import Epochs
from raycadian.modalities.actigraphy.readers import (
    detect_format,
    labels,
    parts,
    read_activity,
    read_part,
    to_recordings,
)
from raycadian.physiology.rhythms.wear import choi
from raycadian.types import ACTIVITY_COUNTS, ACTIVITY_WRIST, WORN, Issues

DAY = 1440


def card(**settings) -> ActigraphyCard:
    return ActigraphyCard(name="test", files=("*",), **settings)


def read(*paths, **settings):
    issues = Issues()
    return list(read_activity(list(paths), card(**settings), issues)), issues.counts


def epochs(clock, values, epoch_s=60.0, **rest):
    return Epochs("a", np.array(clock, "datetime64[s]"), np.array(values, float), epoch_s, **rest)


def minutes(start, n, step_s=60):
    return np.datetime64(start, "s") + np.arange(n) * np.timedelta64(step_s, "s")


def write_awd(path, counts, code=4, start=("23-Jan-2018", "13:58")):
    lines = ["example", *start, f" {code} ", "00", "V664055", "X", *map(str, counts)]
    path.write_bytes("\r\n".join(lines).encode() + b"\r\n")
    return path


def write_agd(path, start, counts, epoch_s=60, name="Anna"):
    ticks = np.datetime64(start, "s").astype(np.int64) * 10**7 + 621_355_968_000_000_000
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE settings (settingID INTEGER, settingName TEXT, settingValue TEXT)")
        base.executemany(
            "INSERT INTO settings VALUES (?, ?, ?)", [(1, "subjectname", name), (2, "epochlength", str(epoch_s))]
        )
        base.execute("CREATE TABLE data (dataTimestamp INTEGER, axis1 INTEGER, axis2 INTEGER, axis3 INTEGER)")
        rows = [(int(ticks + i * epoch_s * 10**7), int(c), 1, 1) for i, c in enumerate(counts)]
        base.executemany("INSERT INTO data VALUES (?, ?, ?, ?)", rows)
    base.close()
    return path


RESPIRONICS = """"-------------------- Subject Properties --------------------"
"Subject Identity:","ignored"
"Subject Identity","R-7"
"Epoch Length","00:30"

"-------------------- Epoch-by-Epoch Data -------------------"
"Line","Date","Time","Off-Wrist Status","Activity","Marker","Sleep/Wake","Interval Status"
"""


def write_respironics(path, start, counts, off, style="%d/%m/%Y,%H:%M:%S"):
    clock = pd.to_datetime(minutes(start, len(counts), 30))
    rows = [
        f'"{i}","{date}","{time}","{o}","{c}","0","1.0","ACTIVE"'
        for i, ((date, time), o, c) in enumerate(
            zip((c.split(",") for c in clock.strftime(style)), off, counts, strict=True), 1
        )
    ]
    path.write_text(RESPIRONICS + "\n".join(rows) + "\n", encoding="utf-8")
    return path


# --- formats --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "a_minute"), [(1, 4), (2, 2), (4, 1)])
def test_awd(tmp_path, code, a_minute):
    counts = np.arange(1, 3 * DAY * a_minute + 1) % 97
    path = write_awd(tmp_path / "x.AWD", [*counts[:-1], f"{counts[-1]} M"], code)
    assert detect_format(path) == "awd"
    (recording,), issues = read(path)
    assert recording.subject == "example" and str(recording.start_utc) == "2018-01-23T13:58:00"
    assert np.array_equal(recording.channels[ACTIVITY_WRIST], counts.reshape(-1, a_minute).sum(axis=1))
    assert recording.observed.all() and not issues


def test_awd_of_two_minutes_or_damaged(tmp_path):
    with pytest.raises(ValueError, match="epochs of 120 s; expected a part of a minute"):
        read(write_awd(tmp_path / "x.AWD", [1, 2, 3], code=8))
    with pytest.raises(ValueError, match=r"x.AWD:9: '\?\?' is no activity count"):
        read(write_awd(tmp_path / "x.AWD", [1, "??", 3]))
    with pytest.raises(ValueError, match="not an Actiwatch file"):
        read(write_awd(tmp_path / "x.AWD", [1, 2, 3], start=("31-Foo-2018", "13:58")))


@pytest.mark.parametrize("epoch_s", [10, 60])
def test_agd(tmp_path, epoch_s):
    counts = np.random.default_rng(0).integers(1, 500, DAY * 60 // epoch_s)
    path = write_agd(tmp_path / "x.agd", "2024-05-01T10:30", counts, epoch_s)
    assert detect_format(path) == "agd"
    (recording,), _ = read(path)
    assert recording.subject == "Anna" and str(recording.start_utc) == "2024-05-01T10:30:00"
    assert np.array_equal(recording.channels[ACTIVITY_COUNTS], counts.reshape(DAY, -1).sum(axis=1))


def test_other_sqlite_files_and_broken_ones(tmp_path):
    path = tmp_path / "x.agd"
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE passwords (x)")
        base.execute("CREATE VIEW data AS SELECT 1")
    base.close()
    with pytest.raises(ValueError, match="an SQLite file with passwords, not an ActiGraph .agd"):
        read(path)
    whole = write_agd(tmp_path / "y.agd", "2024-05-01", range(5000)).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"can't be read as an ActiGraph .agd"):
        read(path)
    with pytest.raises(ValueError, match="setting epochlength: expected a number of seconds"):
        read(write_agd(tmp_path / "z.agd", "2024-05-01", [1], epoch_s=0))


@pytest.mark.parametrize("style", ["%d/%m/%Y,%H:%M:%S", "%m/%d/%Y,%I:%M:%S %p", "%Y-%m-%d,%H:%M:%S"])
def test_respironics(tmp_path, style):
    counts = np.arange(4 * DAY)
    off = (np.arange(4 * DAY) // 120 == 5).astype(int)
    path = write_respironics(tmp_path / "x.csv", "2024-02-11T22:00", [*counts[:-1], "NaN"], off, style)
    assert detect_format(path) == "respironics"
    (recording,), issues = read(path)
    assert recording.subject == "R-7" and str(recording.start_utc) == "2024-02-11T22:00:00"
    values = recording.channels[ACTIVITY_WRIST]
    assert np.array_equal(values[:-1], counts.reshape(-1, 2).sum(axis=1)[:-1]) and np.isnan(values[-1])
    assert np.flatnonzero(~recording.observed).tolist() == [*range(300, 360), 2 * DAY - 1]
    assert not issues


def test_respironics_without_epochs(tmp_path):
    (tmp_path / "x.csv").write_text(RESPIRONICS.split('"Line"')[0])
    with pytest.raises(ValueError, match="without its epochs"):
        read(tmp_path / "x.csv")


def test_table_of_people(tmp_path):
    path = tmp_path / "x.csv"
    time = pd.Series(minutes("2024-06-01T08:00", 120)).dt.strftime("%Y-%m-%d %H:%M")
    table = pd.DataFrame(
        {"id": ["p/../1"] * 120 + ["b"] * 120, "when": [*time, *time], "steps": range(240), "on": [1, 0] * 120}
    )
    table.to_csv(path, index=False)
    found, _ = read(path, columns={"subject": "id", "time": "when", "activity": "steps", "worn": "on"})
    assert [r.subject for r in found] == ["p/../1", "b"]  # quoted where a folder is named after it
    assert np.array_equal(found[1].channels[ACTIVITY_COUNTS], np.arange(120, 240))
    assert np.array_equal(found[0].observed, [True, False] * 60)


def test_nhanes_table_without_minutes(tmp_path):
    path = tmp_path / "x.csv"
    day = np.repeat([5, 6, 7, 1, 2, 3, 4], DAY)
    pd.DataFrame({"SEQN": 21005, "PAXDAY": day, "PAXINTEN": np.arange(7 * DAY)}).to_csv(path, index=False)
    (recording,), _ = read(path)
    assert (recording.subject, len(recording)) == ("21005", 7 * DAY)
    assert pd.Timestamp(recording.start_utc).strftime("%A %H:%M") == "Thursday 00:00"


def test_table_with_other_columns(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("id,index,raw\n7,1,10\n7,2,20\n7,4,40\n7,2.5,0\n7,,0\n")
    with pytest.raises(
        ValueError, match="no column 'activity'; found 'id', 'index', 'raw'; name the columns in the card"
    ):
        read(path)
    (recording,), issues = read(path, columns={"subject": "id", "minute": "index", "activity": "raw"})
    np.testing.assert_equal(recording.channels[ACTIVITY_COUNTS], np.array([10, 20, np.nan, 40], np.float32))
    assert issues == {"time not understood (row left out)": 2}


def test_wear_flags(tmp_path):
    flags = np.ones((3, DAY), np.uint8)
    flags[0, :60], flags[2, -60:] = 0, 255
    np.savez(tmp_path / "x.npz", SEQN=[8, 8, 9], WEEKDAY=[7, 1, 2], wear=flags)
    found, _ = read(tmp_path / "x.npz")
    assert [(r.subject, len(r)) for r in found] == [("8", 2 * DAY), ("9", DAY)]
    assert pd.Timestamp(found[0].start_utc).day_name() == "Saturday"
    assert found[0].channels[WORN][:61].tolist() == [0] * 60 + [1] and found[0].observed.all()
    assert np.isnan(found[1].channels[WORN][-60:]).all() and found[1].observed.sum() == DAY - 60
    np.savez(tmp_path / "y.npz", other=[1])
    with pytest.raises(ValueError, match="not wear flags"):
        read(tmp_path / "y.npz")


# --- the grid -------------------------------------------------------------------------------------------------------


def test_a_minute_without_all_its_epochs_is_missing():
    clock = np.delete(minutes("2024-01-01T00:00:20", 30, 10), 15)
    (recording,) = to_recordings(epochs(clock, np.ones(29), 10.0), card(), Issues())
    np.testing.assert_equal(recording.channels[ACTIVITY_COUNTS], np.array([np.nan, 6, np.nan, 6, 6], np.float32))
    assert str(recording.start_utc) == "2024-01-01T00:00:00"


def test_repeated_unordered_and_impossible_rows():
    clock = minutes("2024-01-01", 6)[[0, 1, 3, 2, 2, 4, 5]]
    issues = Issues()
    (recording,) = to_recordings(epochs(clock, [1, 2, 3, 4, 99, -7, 1e9]), card(), issues)
    np.testing.assert_equal(recording.channels[ACTIVITY_COUNTS], np.array([1, 2, 4, 3, np.nan, np.nan], np.float32))
    assert issues.counts == {
        "row out of time order (sorted)": 1,
        "epoch twice (the first is kept)": 1,
        "value that is no activity (missing)": 2,
    }


def test_a_day_without_data_ends_a_recording():
    clock = np.concatenate([minutes("2024-01-01", 90), minutes("2024-01-01T20:00", 90), minutes("2024-01-05", 90)])
    found = to_recordings(epochs(clock, np.full(270, 5)), card(), Issues())
    assert [(r.index, str(r.start_utc)[:10], len(r)) for r in found] == [(0, "2024-01-01", 1290), (1, "2024-01-05", 90)]


@pytest.mark.parametrize(("day", "offsets"), [("2024-03-31", [60, 120]), ("2024-10-27", [120, 60])])
def test_dst_ends_a_recording(day, offsets):
    """A device's clock runs on through the change; a phone's follows it. Both are whole in UTC."""
    issues = Issues()
    found = to_recordings(epochs(minutes(day, DAY), np.ones(DAY)), card(timezone="Europe/Madrid"), issues)
    assert [r.utc_offset_min for r in found] == offsets
    assert sum(map(len, found)) == DAY
    assert issues.counts == {"change of the UTC offset (DST or travel)": 1}
    utc = pd.date_range(day, periods=DAY + 60, freq="1min", tz="Europe/Madrid")
    phone = utc.tz_localize(None).to_numpy()
    found = to_recordings(epochs(phone, np.ones(DAY + 60), even=False), card(timezone="Europe/Madrid"), Issues())
    assert [r.utc_offset_min for r in found] == offsets
    assert sum(map(len, found)) == DAY + 60 and all(np.all(r.channels[ACTIVITY_COUNTS] == 1) for r in found)


def test_clocks_that_can_t_be():
    clock = np.concatenate([minutes("1995-01-01", 5), minutes("2024-01-01", 5)])
    with pytest.raises(ValueError, match=r"from 1995-01-01.* to 2024-.*: .* minutes, at most"):
        to_recordings(epochs(clock, np.ones(10)), card(), Issues())
    issues = Issues()
    assert to_recordings(epochs(["NaT", "NaT"], [1, 1]), card(), issues) == []
    assert issues.counts["person without a usable epoch (left out)"] == 1


# --- many files -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nhanes(tmp_path_factory):
    pytest.importorskip("pyreadstat")
    from raycadian.modalities.actigraphy.simulate import simulate_nhanes

    return simulate_nhanes(4, tmp_path_factory.mktemp("g") / "files", "G", seed=1).with_suffix("")


def test_nhanes_files_together(nhanes):
    files = sorted(nhanes.glob("*.XPT"))
    found = parts(files, Issues())
    assert [(p.subject, p.begin, p.end) for p in found] == [
        (str(62161 + i), 11520 * i, 11520 * (i + 1)) for i in range(4)
    ]
    alone = list(read_part(found[2], card(), Issues()))
    together = list(read_activity(files, card(exclude_subjects=("62161",)), Issues()))
    assert [r.subject for r in together] == ["62162", "62163", "62164"]
    assert len(alone) == 1 and alone[0].start_utc == together[1].start_utc
    np.testing.assert_array_equal(alone[0].channels["activity_mims"], together[1].channels["activity_mims"])
    assert list(labels(files).index) == list(map(str, range(62161, 62165)))


def test_files_without_activity_and_twice(nhanes, tmp_path):
    with pytest.raises(ValueError, match="no file with activity among them"):
        parts([nhanes / "DEMO_G.XPT"], Issues())
    copy = tmp_path / "PAXMIN_X.XPT"
    copy.write_bytes((nhanes / "PAXMIN_G.XPT").read_bytes())
    files = [*nhanes.glob("PAX*.XPT"), copy]
    with pytest.raises(ValueError, match="SEQN 62161 is in .* and in .*is a file given twice"):
        parts(files, Issues())
    with pytest.raises(ValueError, match="no PAXHD file with its people"):
        parts([copy], Issues())


def test_truncated_xpt(nhanes, tmp_path):
    cut = tmp_path / "PAXMIN_G.XPT"
    cut.write_bytes((nhanes / "PAXMIN_G.XPT").read_bytes()[:-50_080])
    with pytest.raises(ValueError, match="cut off after"):
        detect_format(cut)


# --- real files -----------------------------------------------------------------------------------------------------


def test_real_awd(shared):
    (recording,), issues = read(shared / "nhanes" / "example_01.AWD")
    assert (recording.subject, len(recording)) == ("example_01", 18_401)
    assert str(recording.start_utc) == "1918-01-23T13:58:00"  # as the file has it
    counts = recording.channels[ACTIVITY_WRIST]
    assert counts[:6].tolist() == [0, 0, 0, 149, 144, 57] and counts.sum() == 2_596_555
    assert not issues


def test_real_counts(shared):
    found, _ = read(shared / "nhanes" / "nhanes_2003_2004_unidata_5subj.csv.gz")
    assert [len(r) for r in found] == [10_080] * 5
    columns = {"subject": "id", "minute": "index", "activity": "raw_activity"}
    fifty, _ = read(shared / "nhanes" / "nhanes_2003_2004_50subj_1day.csv.gz", columns=columns)
    assert len({r.subject for r in fifty}) == 50 and {len(r) for r in fifty} == {1440}
    assert np.array_equal(fifty[3].observed, choi(fifty[3].channels[ACTIVITY_COUNTS]))


@pytest.mark.slow
def test_real_wear_flags(shared):
    found, issues = read(shared / "nhanes" / "wear_flags_D.npz")
    assert len(found) == 7_455 and {len(r) for r in found} == {10_080} and not issues
    with np.load(shared / "nhanes" / "wear_flags_D.npz") as flags:
        assert sum(int(np.nansum(r.channels[WORN])) for r in found[:100]) == int((flags["wear"][:700] == 1).sum())


def test_kinds_are_not_by_name(shared, tmp_path):
    (tmp_path / "x.csv").write_bytes((shared / "nhanes" / "example_01.AWD").read_bytes())
    assert detect_format(tmp_path / "x.csv") == "awd"
    assert actigraphy.detect_format(shared / "nhanes" / "DPQ_D.XPT") == "depression"
