"""Tables, recognition by content, units, bad input, and one subject in several files."""

import gzip
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from raycadian.data import source as source_module
from raycadian.data.source import Source
from raycadian.modalities.cgm.card import CGMCard, Columns
from raycadian.modalities.cgm.formats import tables
from raycadian.modalities.cgm.parts import hashed
from raycadian.modalities.cgm.readers import detect_format, merge, read_files
from raycadian.modalities.cgm.twins import sharing, sketch_of
from raycadian.types import BASAL, BOLUS, CARBS, GLUCOSE, MGDL_PER_MMOLL, TIME_UTC, Issues

PEOPLE = Columns(subject="person")


def card(**fields):
    return CGMCard(**({"name": "test", "files": ("*",)} | fields))


def read(paths, issues=None, **fields):
    """Every subject's readings, merged."""
    issues = Issues() if issues is None else issues
    parts = defaultdict(list)
    for readings in read_files(paths, card(**fields), issues):
        times = readings.glucose[TIME_UTC].to_numpy()
        assert (np.diff(times) > np.timedelta64(0)).all(), "each part is sorted and unique"
        parts[readings.subject].append(readings)
    repeat_s = card(**fields).repeat_s
    return {subject: merge(found, issues, repeat_s) for subject, found in parts.items()}


def write(path, text):
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def table(times, values, header="time,glucose"):
    return "\n".join([header, *(f"{t},{v}" for t, v in zip(times, values, strict=True))]) + "\n"


def clock(n, start="2024-01-10 08:00:00", minutes=5):
    return pd.date_range(start, periods=n, freq=f"{minutes}min").strftime("%Y-%m-%d %H:%M:%S").tolist()


def values_of(readings):
    return readings.glucose[GLUCOSE].tolist()


# --- tables --------------------------------------------------------------------------------------------------------


def test_generic_csv_of_one_person_named_by_the_file(tmp_path):
    issues = Issues()
    (found,) = read([write(tmp_path / "anna.csv", table(clock(3), [100, 110, 120]))], issues).values()
    assert found.subject == "anna" and values_of(found) == [100, 110, 120]
    assert found.glucose.dtypes.astype(str).to_dict() == {
        TIME_UTC: "datetime64[ns]",
        GLUCOSE: "float64",
        "utc_offset_min": "int64",
    }
    assert found.glucose[TIME_UTC].tolist() == [pd.Timestamp(t) for t in clock(3)]
    assert issues.counts == {
        "unit taken from the values: mg/dL": 1,
        "local clock without a time zone (kept, its UTC offset taken as 0)": 3,
    }


def test_columns_that_the_card_names_and_events(tmp_path):
    text = (
        "note,person,when,sugar,carbs,bolus,basal\n"
        "a,p1,2024-01-10 08:00,100,45,4.5,0.8\n"
        "b,p1,2024-01-10 08:05,101,0,,0.8\n"
        "c,p1,2024-01-10 08:10,,30,,1.1\n"
        "d,p2,2024-01-10 08:00,90,,2,0.5\n"
    )
    columns = Columns(
        subject="person", time="when", glucose="sugar", carbs_g="carbs", bolus_u="bolus", basal_uph="basal"
    )
    issues = Issues()
    found = read([write(tmp_path / "x.csv", text)], issues, columns=columns, unit="mg/dL")
    assert list(found) == ["p1", "p2"] and values_of(found["p1"]) == [100, 101]
    events = [(t.strftime("%H:%M"), kind, value) for t, kind, value in found["p1"].events.itertuples(index=False)]
    assert sorted(events) == [
        ("08:00", BASAL, 0.8), ("08:00", BOLUS, 4.5), ("08:00", CARBS, 45.0), ("08:10", BASAL, 1.1), ("08:10", CARBS,
        30),
    ]  # fmt: skip
    assert set(found["p2"].events["kind"]) == {BOLUS, BASAL}
    assert issues.counts["row without a glucose value"] == 1 and issues.examples["row without a glucose value"] == [
        "x.csv:4"
    ]


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.parquet"])
def test_text_gzip_and_parquet_give_the_same(tmp_path, name):
    frame = pd.DataFrame(
        {"person": ["7", "7", "8"], "time": pd.to_datetime(clock(3)), "glucose": [100.0, 105.5, 250.0]}
    )
    if name.endswith("parquet"):
        frame.to_parquet(tmp_path / name)
    else:
        write(tmp_path / name, frame.to_csv(index=False))
    found = read([tmp_path / name], columns=PEOPLE)
    assert {s: values_of(r) for s, r in found.items()} == {"7": [100, 105.5], "8": [250]}
    assert found["8"].glucose[TIME_UTC][0] == pd.Timestamp(clock(3)[2])


def test_demo_parquet_layout_with_zone_aware_times(tmp_path):
    times = pd.to_datetime(clock(3)).tz_localize("UTC").tz_convert("Europe/Madrid")
    frame = pd.DataFrame(
        {"subject": "adult#001", "time": times, "glucose_mgdl": [100.0, np.nan, 90], CARBS: [0, 50.0, 0], BASAL: 0.7}
    )
    frame.to_parquet(tmp_path / "demo.parquet")
    columns = Columns(subject="subject", glucose="glucose_mgdl", carbs_g=CARBS, basal_uph=BASAL)
    (found,) = read([tmp_path / "demo.parquet"], columns=columns).values()
    assert values_of(found) == [100, 90] and found.glucose["utc_offset_min"].tolist() == [60, 60]
    assert found.glucose[TIME_UTC][0] == pd.Timestamp("2024-01-10 08:00")
    assert found.events["kind"].tolist() == [BASAL, CARBS]


def test_glucobench_by_its_header_with_whole_number_ids(tmp_path):
    rows = ("1.0,2014-10-01 19:14:00,185.4,66", "1.0,2014-10-01 19:19:00,178.2,77", "9.0,2014-10-01 19:14:00,99,1")
    text = "\n".join(("id,time,gl,HR", *rows, ""))
    issues = Issues()
    found = read([write(tmp_path / "d.csv.gz", text)], issues, exclude_subjects=("9",))
    assert {s: values_of(r) for s, r in found.items()} == {"1": [185.4, 178.2]}
    assert issues.counts["row of a subject that the card excludes"] == 1
    assert "unit taken from the values: mg/dL" not in issues.counts


def test_separators_decimal_commas_encodings_and_marks(tmp_path):
    text = "time;glucose;name\n2024-01-10 08:00;5,5;Zoë\n2024-01-10 08:15;6,1;Zoë\n"
    for name, encoding in (("a", "utf-8-sig"), ("b", "cp1252"), ("c", "utf-16")):
        path = write(tmp_path / f"{name}.csv", text.encode(encoding))
        issues = Issues()
        (found,) = read([path], issues).values()
        assert ("text that is not UTF-8 (read as Windows-1252)" in issues.counts) == (encoding == "cp1252")
        np.testing.assert_allclose(values_of(found), [99, 110])


def test_blocks_of_a_big_table_change_nothing(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    rows = [
        f"p{p},{t},{v}"
        for t in clock(200)
        for p, v in zip(range(4), rng.integers(60, 250, 4), strict=True)
        if rng.random() > 0.1
    ]
    rows[40:43] = [rows[42], rows[40], rows[40]]  # disorder and a duplicate
    rows[300], rows[301], rows[500] = "p0,nonsense,100", "p1,2024-01-10 09:00:00", "p2,2024-01-10 09:00:00,x"
    path = write(tmp_path / "x.csv", "person,time,glucose\n" + "\n".join(rows) + "\n")
    whole, small = Issues(), Issues()
    expected = read([path], whole, columns=PEOPLE)
    monkeypatch.setattr(tables, "_BLOCK_BYTES", 500)
    found = read([path], small, columns=PEOPLE)
    assert list(found) == list(expected)
    for subject in expected:
        pd.testing.assert_frame_equal(found[subject].glucose, expected[subject].glucose)
    places = ("time not understood", "row without its 3 fields", "glucose is not a number")
    assert whole.counts["row without its 3 fields"] == 1
    assert {k: whole.examples[k] for k in places} == {k: small.examples[k] for k in places}
    assert whole.examples["time not understood"] == ["x.csv:302"]
    assert whole.examples["row without its 3 fields"] == ["x.csv:303"]
    assert whole.examples["glucose is not a number"] == ["x.csv:502"]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.lists(st.tuples(st.integers(0, 100_000), st.integers(20, 600)), min_size=1, max_size=60,
        unique_by=lambda d: d[0]),
    unit=st.sampled_from(["mg/dL", "mmol/L"]),
    people=st.integers(1, 3),
)  # fmt: skip
def test_what_is_written_is_read_in_either_unit(tmp_path, data, unit, people):
    """Any times in any order, any values: read back sorted, to the precision of the file."""
    start = pd.Timestamp("2024-01-10")
    frame = pd.DataFrame(data, columns=["minute", "value"]).assign(
        person=lambda d: "p" + (d.index % people).astype(str)
    )
    shown = frame["value"].median() / (MGDL_PER_MMOLL if unit == "mmol/L" else 1)
    assume(shown >= 30 if unit == "mg/dL" else shown < 30)  # the others contradict the unit: tested below
    frame["time"] = start + pd.to_timedelta(frame["minute"], unit="min")
    frame["glucose"] = frame["value"] / (MGDL_PER_MMOLL if unit == "mmol/L" else 1)
    frame[["person", "time", "glucose"]].to_csv(tmp_path / "x.csv", index=False)
    found = read([tmp_path / "x.csv"], columns=PEOPLE, unit=unit)
    for person, own in frame.sort_values("time").groupby("person"):
        assert found[person].glucose[TIME_UTC].tolist() == own["time"].tolist()
        np.testing.assert_allclose(values_of(found[person]), own["value"], atol=1e-6)


# --- units ---------------------------------------------------------------------------------------------------------


def test_unit_from_the_card_the_header_or_the_values(tmp_path):
    for i, (header, fields) in enumerate(
        [("time,glucose", {"unit": "mmol/L"}), ("time,glucose", {}), ("time,glucose "
            "(mmol/L)", {"columns": Columns(glucose="glucose (mmol/L)")})]
    ):  # fmt: skip
        path = write(tmp_path / f"{i}.csv", table(clock(2), [5.0, 10.0], header))
        (found,) = read([path], **fields).values()
        np.testing.assert_allclose(values_of(found), [90, 180])


@pytest.mark.parametrize(("unit", "values"), [("mg/dL", [5.1, 6.2, 9.9]), ("mmol/L", [95, 120, 140])])
def test_a_card_with_the_wrong_unit_is_refused_with_the_fix(tmp_path, unit, values):
    path = write(tmp_path / "x.csv", table(clock(3), values))
    other = "mmol/L" if unit == "mg/dL" else "mg/dL"
    with pytest.raises(ValueError, match=rf"the card says {unit}.* plainly {other}; add --unit {other}"):
        read([path], unit=unit)


def test_values_that_fit_no_unit_ask_for_one(tmp_path):
    path = write(tmp_path / "x.csv", table(clock(3), [34, 35, 36]))
    with pytest.raises(ValueError, match=r"not stated, and a median of 35\.0 fits neither .* add --unit mg/dL"):
        read([path])
    (found,) = read([path], unit="mg/dL").values()
    assert values_of(found) == [34, 35, 36]


def test_one_person_in_another_unit_is_refused(tmp_path):
    rows = [f"a,{t},100" for t in clock(40)] + [f"b,{t},5.5" for t in clock(20)]
    path = write(tmp_path / "x.csv", "person,time,glucose\n" + "\n".join(rows))
    with pytest.raises(ValueError, match=r"values of subject 'b' have a median of 5\.5 and are plainly mmol/L"):
        read([path], columns=PEOPLE, unit="mg/dL")


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.csv", b"", r"empty\.csv: the file is empty"),
        ("blank.csv", b"\n  \n", r"blank\.csv: the file is empty"),
        ("header.csv", b"time,glucose\n", r"header\.csv: no row below its header"),
        ("cut.csv", b"time,glucose", r"cut\.csv: no row below its header"),
        ("book.xlsx", b"PK\x03\x04" + bytes(500), r"book\.xlsx: a ZIP archive that is damaged"),
        ("a.pkl", b"\x80\x04\x95" + bytes(50), r"a\.pkl: this is a pickle, which is never loaded"),
        ("noise.csv", bytes(range(256)) * 20, r"noise\.csv: neither text nor Parquet"),
        ("other.csv", b"a,b,c\n1,2,3\n", r"other\.csv: not a CGM format that is known .* columns found: 'a', 'b', 'c'"),
        ("prose.txt", b"Dear doctor,\nI feel fine.\n", r"prose\.txt: not a CGM format that is known"),
        ("page.html", b"<html><body>login</body></html>", r"page\.html: not a CGM format"),
        ("x.json", b'[{"a": 1}]', r"x\.json: not a CGM format"),
        ("cut.csv.gz", gzip.compress(b"time,glucose\n" + b"2024-01-10,100\n" * 999, mtime=0)[:60], r"cut\.csv\.gz: "
            r".*corrupted"),
        ("cut.parquet", b"PAR1" + bytes(100), r"cut\.parquet: can't be understood"),
    ],
)  # fmt: skip
def test_files_that_are_no_readings_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read([path])


def test_absent_files_folders_and_no_files(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.csv: no such file"):
        read([tmp_path / "gone.csv"])
    with pytest.raises(ValueError, match="a folder, not a file"):
        read([tmp_path])
    with pytest.raises(ValueError, match=r"card 'test': no files found; `files` lists \*"):
        read([])


def test_an_unknown_file_stops_before_anything_is_read(tmp_path):
    good = write(tmp_path / "a.csv", table(clock(3), [100, 110, 120]))
    bad = write(tmp_path / "b.csv", "a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"b\.csv"):
        next(read_files([good, bad], card(), Issues()))


def test_one_reading_is_read(tmp_path):
    (found,) = read([write(tmp_path / "x.csv", table(clock(1), [100]))]).values()
    assert values_of(found) == [100]


@pytest.mark.parametrize("values", [["", "", "NaN"], ["700", "2", "900"], ["x", "y", "z"]])
def test_no_reading_at_all_is_an_error_that_says_what_was_found(tmp_path, values):
    path = write(tmp_path / "x.csv", table(clock(3), values))
    with pytest.raises(ValueError, match=r"x\.csv: no glucose reading in 3 rows: expected .* found .*x\.csv:\d"):
        read([path], unit="mg/dL")


def test_missing_columns_name_those_found(tmp_path):
    path = write(tmp_path / "x.csv", table(clock(2), [1, 2], "when,sugar"))
    with pytest.raises(
        ValueError, match=r"no column 'time', 'glucose'; found 'when', 'sugar'; name the columns in the card"
    ):
        read([path], format="generic")


def test_a_column_that_tells_people_apart_is_not_ignored(tmp_path):
    path = write(tmp_path / "x.csv", "subject,time,glucose\na,2024-01-10 08:00,100\nb,2024-01-10 08:00,200\n")
    with pytest.raises(ValueError, match=r"the column 'subject' seems to tell people apart"):
        read([path])


def test_times_in_another_format_name_the_fix(tmp_path):
    times = pd.to_datetime(clock(30)).strftime("%d/%m/%Y %H:%M").tolist()
    path = write(tmp_path / "x.csv", table(times, range(100, 130)))
    with pytest.raises(ValueError, match=r"30 of 30 times are not understood: expected ISO 8601 .* '10/01/2024 08:00'"):
        read([path])
    (found,) = read([path], time_format="%d/%m/%Y %H:%M").values()
    assert found.glucose[TIME_UTC][0] == pd.Timestamp("2024-01-10 08:00")


def test_malformed_rows_are_counted_by_kind_and_line(tmp_path):
    text = (
        "# a comment\ntime,glucose,person\n2024-01-10 08:00,100,a\n2024-01-10 08:05,abc,a\nyesterday,100,a\n"
        "2024-01-10 08:10,110\n2024-01-10 08:15,111,a,more\n\n2024-01-10 08:20,,a\n2024-01-10 08:25,Infinity,a\n"
        "2024-01-10 08:30,120,\n1970-01-01 00:00,120,a\n2024-01-10 08:35,130,a\n2024-01-10 08:40,131,a\n"
        "2024-01-10 08:45,132,a\n2024-01-10 08:50,133,a\n"
    )
    issues = Issues()
    (found,) = read([write(tmp_path / "x.csv", text)], issues, columns=PEOPLE, unit="mg/dL").values()
    assert values_of(found) == [100, 130, 131, 132, 133]
    del issues.counts["local clock without a time zone (kept, its UTC offset taken as 0)"]
    assert {kind: issues.examples[kind] for kind in issues.counts} == {
        "glucose is not a number": ["x.csv:4", "x.csv:10"],
        "time not understood": ["x.csv:5"],
        "row without its 3 fields": ["x.csv:6", "x.csv:7"],
        "blank row": ["x.csv:8"],
        "row without a glucose value": ["x.csv:9"],
        "row without a subject": ["x.csv:11"],
        "time outside 1990-2099": ["x.csv:12"],
    }


def test_a_quote_that_is_not_closed_loses_no_line_in_silence(tmp_path):
    issues, t = Issues(), clock(6)
    lines = ["time,glucose", *(f"{a},{100 + i}" for i, a in enumerate(t))]
    lines[3] = f'"{t[2]},102'
    (found,) = read([write(tmp_path / "x.csv", "\n".join(lines))], issues).values()
    lost = (
        issues.counts["row without its 2 fields"]
        + issues.counts["line inside the row before (a quote that isn't closed)"]
    )
    assert len(found.glucose) + lost == 6


def test_a_column_named_twice_is_refused(tmp_path):
    path = write(tmp_path / "x.csv", "time,glucose,glucose\n2024-01-10,100,5\n")
    with pytest.raises(ValueError, match=r"x\.csv: several columns are called 'glucose'; rename all but one"):
        read([path])


def test_one_file_named_twice_is_read_once(tmp_path, monkeypatch):
    path = write(tmp_path / "x.csv", table(clock(2), [100, 101]))
    monkeypatch.chdir(tmp_path)
    (found,) = read([path, path.relative_to(tmp_path)]).values()
    assert values_of(found) == [100, 101]


def test_low_and_high_are_the_nearest_values_outside_the_range(tmp_path):
    issues = Issues()
    values = ["Low", "100", "High", "<40", ">400", "bajo"]
    (found,) = read([write(tmp_path / "x.csv", table(clock(6), values))], issues).values()
    assert values_of(found) == [39, 100, 401, 39, 401, 39]
    assert (
        issues.counts["low"] == 3 and issues.counts["high"] == 2 and issues.examples["high"] == ["x.csv:4", "x.csv:6"]
    )


def test_readings_outside_20_600_are_set_missing_and_counted(tmp_path):
    issues = Issues()
    (found,) = read([write(tmp_path / "x.csv", table(clock(5), [100, 19.9, 20, 600, 601]))], issues).values()
    np.testing.assert_array_equal(values_of(found), [100, np.nan, 20, 600, np.nan])
    kind = "glucose outside 20-600 mg/dL (set missing)"
    assert issues.counts[kind] == 2 and issues.examples[kind] == ["x.csv:3", "x.csv:6"]


def test_duplicate_times_same_or_conflicting_keep_the_first(tmp_path):
    t = clock(3)
    path = write(tmp_path / "x.csv", table([t[0], t[0], t[1], t[1], t[1], t[2]], [100, 100, 700, 110, 115, 120]))
    issues = Issues()
    (found,) = read([path], issues).values()
    assert values_of(found) == [100, 110, 120]  # an impossible value never hides a possible one
    assert issues.counts["duplicate time, same value (kept once)"] == 2
    assert issues.counts["duplicate time, conflicting value (first kept)"] == 1


def test_rows_out_of_order_are_sorted_and_counted_newest_first_is_an_order(tmp_path):
    t, kind = clock(5), "row out of time order (sorted)"
    issues = Issues()
    path = write(tmp_path / "x.csv", table([t[0], t[2], t[1], t[3], t[4]], [100, 102, 101, 103, 104]))
    (found,) = read([path], issues).values()
    assert values_of(found) == [100, 101, 102, 103, 104]
    assert issues.counts[kind] == 1 and issues.examples[kind] == ["x.csv:4"]
    backwards = Issues()
    (found,) = read([write(tmp_path / "y.csv", table(t[::-1], [104, 103, 102, 101, 100]))], backwards).values()
    assert values_of(found) == [100, 101, 102, 103, 104] and kind not in backwards.counts


def test_a_gzip_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(source_module, "_RATIO_FROM", 200_000)
    text = "time,glucose\n" + "2024-01-10 08:00,100\n" * 500_000
    path = write(tmp_path / "bomb.csv.gz", text)
    with pytest.raises(ValueError, match=r"bomb\.csv\.gz: more than .* MiB when unpacked from"):
        read([path])


# --- one subject in several files ----------------------------------------------------------------------------------


def people(path, person, times, values):
    rows = "\n".join(f"{person},{t},{v}" for t, v in zip(times, values, strict=True))
    return write(path, f"person,time,glucose\n{rows}\n")


def test_files_that_follow_one_another_are_joined(tmp_path):
    t, issues = clock(6), Issues()
    later = people(tmp_path / "1.csv", "a", t[3:], [103, 104, 105])
    earlier = people(tmp_path / "2.csv", "a", t[:3], [100, 101, 102])
    (found,) = read([later, earlier], issues, columns=PEOPLE).values()
    assert values_of(found) == [100, 101, 102, 103, 104, 105]
    assert issues.examples["subject in several files (joined)"] == ["subject a: 1.csv, 2.csv"]
    assert not any(kind.startswith(("duplicate", "row out")) for kind in issues.counts)


def test_files_that_overlap_with_the_same_readings_are_kept_once(tmp_path):
    t, issues = clock(6), Issues()
    one = people(tmp_path / "1.csv", "a", t[:4], [100, 101, 102, 103])
    two = people(tmp_path / "2.csv", "a", t[2:], [102, 103, 104, 105])
    (found,) = read([one, two], issues, columns=PEOPLE).values()
    assert values_of(found) == [100, 101, 102, 103, 104, 105]
    assert issues.counts["duplicate time, same value (kept once)"] == 2


@pytest.mark.parametrize("shift", ["other values", "other times"])
def test_files_that_overlap_with_other_readings_are_an_error(tmp_path, shift):
    t = clock(6)
    one = people(tmp_path / "1.csv", "a", t[:4], [100, 101, 102, 103])
    if shift == "other values":
        two = people(tmp_path / "2.csv", "a", t[2:], [102, 109, 104, 105])
    else:
        two = people(tmp_path / "2.csv", "a", clock(4, "2024-01-10 08:11:00"), [102, 103, 104, 105])
    with pytest.raises(
        ValueError, match=r"1\.csv and .*2\.csv: subject 'a' is in both from .* with different readings"
    ):
        read([one, two], columns=PEOPLE)


def test_two_files_called_alike_that_name_nobody_are_an_error(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
    one = write(tmp_path / "x" / "export.csv", table(clock(3), [100, 101, 102]))
    two = write(tmp_path / "y" / "export.csv", table(clock(3, "2024-02-01"), [100, 101, 102]))
    with pytest.raises(ValueError, match=r"both name no person and are called 'export'; rename one"):
        read([one, two])
    (found,) = read([one, two], subject="anna").values()
    assert found.subject == "anna" and len(found.glucose) == 6


def test_one_export_under_two_names_is_leakage(tmp_path):
    issues = Issues()
    for name in ("export.csv", "export (1).csv"):
        write(tmp_path / name, table(clock(12), range(100, 112)))
    paths = sorted(tmp_path.glob("*.csv"))
    with pytest.raises(
        ValueError, match=r"'export \(1\)' and 'export' share readings.*leakage.*add --set same_readings"
    ):
        read(paths)
    assert len(read(paths, issues, same_readings="kept")) == 2
    assert issues.examples["two subjects that share readings (one person under two names?)"] == ["export (1), export"]


@pytest.mark.parametrize(("own", "shared", "leaks"), [(600, 300, True), (1200, 300, True), (600, 5, False)])
def test_readings_that_two_ids_share_in_part_are_leakage(tmp_path, own, shared, leaks):
    """`own` readings of one, whose last `shared` are the first of the other's 600."""
    t, values = clock(own + 600), 100 + np.random.default_rng(0).integers(0, 150, own + 600)
    mine = write(tmp_path / "ann.csv", table(t[:own], values[:own]))
    theirs = write(tmp_path / "p17.csv", table(t[own - shared : own + 300], values[own - shared : own + 300]))
    if leaks:
        with pytest.raises(ValueError, match="'ann' and 'p17' share readings"):
            read([mine, theirs])
    else:
        assert len(read([mine, theirs])) == 2


def test_a_cohort_on_one_grid_is_no_leak():
    rng, time_s = np.random.default_rng(0), np.arange(2000) * 300 + 1_700_000_000
    people = [rng.normal(140, 40, 2000).round() for _ in range(100)]
    sketches = [sketch_of(hashed(time_s, values), values) for values in people]
    assert not list(sharing(sketches))
    assert list(sharing([*sketches, sketches[3]])) == [(3, 100)]


def test_merge_joins_parts_and_counts(tmp_path):
    path = people(tmp_path / "1.csv", "a", clock(3), [100, 101, 102])
    (part,) = read_files([path], card(columns=PEOPLE), Issues())
    issues = Issues()
    whole = merge([part, part], issues)
    pd.testing.assert_frame_equal(whole.glucose, part.glucose)
    assert issues.counts == {"duplicate time, same value (kept once)": 3}


# --- real files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "subjects", "rows"), [("iglu", 5, 13_866), ("colas", 208, 114_253), ("dubosson", 9, 8_055)]
)
def test_glucobench_files(shared, name, subjects, rows):
    path, issues = shared / "cgm" / "glucobench" / f"{name}.csv.gz", Issues()
    assert detect_format(Source.of(path), card()) == "glucobench"
    found = read([path], issues, same_readings="kept")
    assert len(found) == subjects and sum(len(r.glucose) for r in found.values()) == rows
    assert "9.0" not in found
    expected = {"local clock without a time zone (kept, its UTC offset taken as 0)"}
    if name == "colas":  # 17 and 18 are equal, row for row, in the published file
        expected.add("two subjects that share readings (one person under two names?)")
    assert set(issues.counts) == expected
    published = pd.read_csv(path).dropna(subset=["id", "time", "gl"])
    total = sum(r.glucose[GLUCOSE].sum() for r in found.values())
    assert total == pytest.approx(published["gl"].sum(), rel=1e-12)
