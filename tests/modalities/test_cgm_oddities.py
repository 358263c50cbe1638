"""Oddities of real exports of glucose, in inputs of our own: each gives its right answer, or an error that says so."""

import json

import numpy as np
import pytest
from test_readers import read, table, values_of, write
from test_readers_formats import (
    T0_MS,
    clarity,
    clarity_row,
    entry,
    events_of,
    libre,
    libre_row,
    record,
    utc_of,
)  # fmt: skip

from raycadian.modalities.cgm.builder import LOCAL_CLOCK, mgdl_of
from raycadian.modalities.cgm.formats.words import insulin_kind
from raycadian.modalities.cgm.quality import quality
from raycadian.types import BASAL, BOLUS, CARBS, Issues

CURVE = [120 + 3 * i % 41 for i in range(40)]


def known(issues):
    return {kind: n for kind, n in issues.counts.items() if kind != LOCAL_CLOCK}


def times(n, start=0):
    return [f"2024-06-{6 + (start + 5 * i) // 1440:02d}T{(start + 5 * i) // 60 % 24:02d}:{(start + 5 * i) % 60:02d}:00"
            for i in range(n)]  # fmt: skip


# --- Clarity and LibreView ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("egv", "fast", "slow"),
    [
        ("EGV", "Rapid-Acting", "Long-Acting"), ("EGW", "Schnell wirkend", "Lang wirkend"),
        ("Niveles estimados de glucosa", "Acción rápida", "Acción prolongada"), ("VGE", "Action rapide",
        "Action lente"),
    ],
)  # fmt: skip
def test_clarity_in_other_languages(tmp_path, egv, fast, slow):
    rows = [
        clarity_row(1, "2024-06-06T00:00:41", egv, "", "128", seconds=300),
        clarity_row(2, "2024-06-06T00:02:00", "Insulin", fast, "", "4.5"),
        clarity_row(3, "2024-06-06T00:03:00", "Insulin", slow, "", "18"),
        clarity_row(4, "2024-06-06T00:04:00", "Calibration", "", "131"),
        clarity_row(5, "2024-06-06T00:05:41", egv, "", "130", seconds=600),
    ]
    issues = Issues()
    (found,) = read([clarity(tmp_path / "x.csv", rows)], issues).values()
    assert values_of(found) == [128, 130] and events_of(found) == [("06 00:02", BOLUS, 4.5)]
    assert set(known(issues)) == {
        "finger-stick or calibration (not a CGM reading)",
        "insulin other than fast-acting (neither a bolus nor a rate)",
    }


def test_words_that_clarity_never_wrote_are_named(tmp_path):
    rows = [
        clarity_row(i, time, "Xyz", "", "128", seconds=300 * i) for i, time in enumerate(times(14), 1)
    ] + [
        clarity_row(20, "2024-06-06T00:02:00", "Abc", "", "99"),
        clarity_row(21, "2024-06-06T00:02:00", "Insulin", "Wow", "", "4.5"),
    ]  # fmt: skip
    issues = Issues()
    (found,) = read([clarity(tmp_path / "x.csv", rows)], issues).values()
    assert len(values_of(found)) == 14 and not len(found.events)
    assert known(issues) == {
        "type of row that is not known, 'xyz' (read as the sensor's, which the transmitter's seconds say)": 14,
        "type of row that is not known, 'abc' (left out)": 1,
        "insulin of a kind that is not known, 'Wow' (left out)": 1,
    }
    assert [insulin_kind(w) for w in ("À action rapide", "Langwirkend", "?")] == ["fast", "slow", None]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16"])
def test_libreview_with_a_comma_more_in_any_encoding(tmp_path, encoding):
    rows = [libre_row(f"13-04-2024 08:{m:02d}", 0, history="5,7") + "," for m in (0, 15, 30)]
    path = libre(tmp_path / "x.csv", rows)
    path.write_bytes(path.read_text("utf-8").encode(encoding))
    (found,) = read([path], unit="mmol/L").values()
    assert values_of(found) == [103] * 3


def test_the_hour_that_happens_twice_sorted_by_the_clock(tmp_path):
    clocks = ["26-10-2024 23:45", *(f"27-10-2024 {h:02d}:{m:02d}" for h in (0, 1) for m in (0, 15, 30, 45))]
    rows = [libre_row(clock, 0, history=f"{100 + i}") for i, clock in enumerate(clocks)]
    for i, m in enumerate((0, 15, 30, 45)):  # 02:00 to 02:45, summer and winter
        rows += [libre_row(f"27-10-2024 02:{m:02d}", 0, history=str(109 + i + more)) for more in (0, 4)]
    rows.append(libre_row("27-10-2024 03:00", 0, history="117"))
    header = "Device,Serial,Time,Type,Historic Glucose mg/dL,Scan Glucose mg/dL" + "," * 13
    issues = Issues()
    (found,) = read([libre(tmp_path / "x.csv", rows, header)], issues, timezone="Europe/Madrid").values()
    assert values_of(found) == list(range(100, 118))
    assert np.diff(found.glucose["time_utc"]).astype("timedelta64[m]").astype(int).tolist() == [15] * 17
    assert issues.counts["local time that happens twice (told by the order of rows)"] == 8


def test_two_sensors_at_once_are_told_apart_by_the_card(tmp_path):
    header = "Device,Serial,Time,Type,Historic Glucose mg/dL,Scan Glucose mg/dL" + "," * 13
    rows = []
    for i in range(20):
        clock = f"13-04-2024 {8 + i // 4:02d}:{15 * (i % 4):02d}"
        rows += [libre_row(clock, 0, history="100"), libre_row(clock, 0, history="150").replace("SN", "OTHER")]
    path = libre(tmp_path / "x.csv", rows, header)
    with pytest.raises(ValueError, match=r"devices 'OTHER' and 'SN' both gave readings .* add --set device=OTHER"):
        read([path])
    issues = Issues()
    (found,) = read([path], issues, device="OTHER").values()
    assert values_of(found) == [150] * 20
    assert known(issues) == {"reading of another device than the card's (left out)": 20}


def test_high_is_never_less_than_the_readings_beside_it(tmp_path):
    issues = Issues()
    path = write(tmp_path / "x.csv", table(times(6), [380, 450, "HI", "HI", 44, "LO"]))
    (found,) = read([path], issues).values()
    assert values_of(found) == [380, 450, 450, 450, 44, 39]
    assert known(issues) == {"unit taken from the values: mg/dL": 1, "high": 2, "low": 1}


def test_mmol_on_the_limits_of_the_ranges(tmp_path):
    assert mgdl_of(np.array([3.0, 3.9, 10.0, 13.9])).tolist() == [54, 70, 180, 250]
    path = write(
        tmp_path / "x.csv", table(times(4), ["10.0", "10,0", "13.9", "3.9"], "time;glucose").replace(",", ";", 2)
    )
    path = write(tmp_path / "y.csv", table(times(4), [10.0, 10.0, 13.9, 3.9]))
    (found,) = read([path], unit="mmol/L").values()
    from raycadian.modalities.cgm.card import CGMCard

    shares = quality(found, [], CGMCard(name="x", files=("x",)).grid)
    assert (shares["in_range_pct"], shares["from_181_to_250_pct"], shares["above_250_pct"]) == (75, 25, 0)


# --- the same thing twice -------------------------------------------------------------------------------------------


def entries(path, *lists):
    return write(path, json.dumps([one for many in lists for one in many]))


def test_readings_and_doses_told_again_within_seconds(tmp_path):
    twice = [entry(5 * i + later, v) for i, v in enumerate(CURVE) for later in (0, 0.05)]
    dose = {"eventType": "Bolus", "insulin": 5.0, "created_at": "2024-01-10T08:00:00Z"}
    again = dose | {"created_at": "2024-01-10T08:00:03Z", "enteredBy": "xdrip"}
    later = dose | {"created_at": "2024-01-10T08:05:00Z"}
    path, issues = entries(tmp_path / "x.json", twice, [dose, again, later]), Issues()
    (found,) = read([path], issues).values()
    assert values_of(found) == CURVE and events_of(found) == [("10 08:00", BOLUS, 5.0), ("10 08:05", BOLUS, 5.0)]
    assert issues.counts["reading told again within seconds (kept once)"] == 40
    assert issues.counts["dose told again within seconds (kept once)"] == 1
    (found,) = read([path], repeat_s=0).values()
    assert len(values_of(found)) == 80 and len(found.events) == 3


def test_a_series_stored_again_after_a_journey(tmp_path):
    wave = [round(130 + 40 * np.sin(i / 7) + 9 * np.cos(i / 3)) for i in range(200)]
    first = [entry(5 * i, v) for i, v in enumerate(wave)]
    copy = [entry(5 * i + 300 + 7 / 60, v) for i, v in enumerate(wave[:120])]
    issues = Issues()
    (found,) = read([entries(tmp_path / "x.json", first, copy)], issues).values()
    assert values_of(found) == wave
    assert issues.counts["series stored again 5 h apart (one copy kept)"] > 110


def test_uploaders_of_one_sensor_are_no_two_sensors(tmp_path):
    mixed = [entry(5 * i, v, device=("xDrip", "loop")[i % 2], utcOffset=(120, 0)[i % 2]) for i, v in enumerate(CURVE)]
    issues = Issues()
    (found,) = read([entries(tmp_path / "x.json", mixed)], issues).values()
    assert set(found.glucose["utc_offset_min"]) == {120}
    assert known(issues) == {"UTC offset that flips between programs (the steady one kept)": 20}
    apart = [entry(5 * i, v + 60 * (i % 2), device=("a", "b")[i % 2]) for i, v in enumerate(CURVE)]
    with pytest.raises(ValueError, match="devices 'a' and 'b' both gave readings"):
        read([entries(tmp_path / "y.json", apart)])


def test_what_is_given_over_a_time_is_spread(tmp_path):
    treatments = [
        {"eventType": "Carb Correction", "carbs": 60, "duration": 30, "created_at": "2024-01-10T08:00:00Z"},
        {"eventType": "Combo Bolus", "enteredinsulin": "6.0", "insulin": 2.4, "splitNow": "40", "splitExt": "60",
         "duration": 15, "created_at": "2024-01-10T09:00:00Z"},
        {"eventType": "Correction", "created_at": "2024-01-10T08:09:00Z", "insulin": 1, "isValid": False},
    ]  # fmt: skip
    issues = Issues()
    (found,) = read([entries(tmp_path / "x.json", [entry(0, 100)], treatments)], issues).values()
    events = events_of(found)
    assert [amount for _, kind, amount in events if kind == CARBS] == [10] * 6
    insulin = [(when, amount) for when, kind, amount in events if kind == BOLUS]
    assert sorted(when for when, _ in insulin) == ["10 09:00", "10 09:00", "10 09:05", "10 09:10"]
    assert sorted(amount for _, amount in insulin) == pytest.approx([1.2, 1.2, 1.2, 2.4])
    assert issues.counts["carbs_g given over a time (spread over it)"] == 1
    assert issues.counts["treatment that its source marks deleted (left out)"] == 1


def test_tidepool_pens_and_square_boluses(tmp_path):
    records = [
        record("cbg", "08:00", value=9.99135, units="mmol/L"),
        record("bolus", "08:00", subType="square", extended=3.0, duration=600_000),
        record("insulin", "08:30", dose={"total": 6.5}, formulation={"simple": {"actingType": "rapid"}}),
        record("insulin", "09:30", dose={"total": 20}, formulation={"simple": {"actingType": "long"}}),
    ]
    issues = Issues()
    (found,) = read([write(tmp_path / "x.json", json.dumps(records))], issues).values()
    assert values_of(found) == [180]
    assert events_of(found) == [("10 08:00", BOLUS, 1.5), ("10 08:05", BOLUS, 1.5), ("10 08:30", BOLUS, 6.5)]
    assert issues.counts["insulin other than fast-acting (neither a bolus nor a rate)"] == 1


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("anna/entries_2023.json", "anna"), ("p/123_entries_2018-06-07_to_2018-10-22.json", "123"),
        ("p/123_entries__to__2018-06-07.json", "123"), ("p/entries_bob.json", "bob"), ("ann/nightscout.json", "ann"),
        ("p/19201_entries.json", "19201"), ("p/entries-tony.json", "tony"),
    ],
)  # fmt: skip
def test_one_person_by_year_is_one_subject(tmp_path, name, subject):
    path = tmp_path / name
    path.parent.mkdir()
    assert list(read([entries(path, [entry(0, 100)])])) == [subject]


# --- CareLink and tables --------------------------------------------------------------------------------------------

CARELINK = """Last Name;First Name;Patient ID;Start Date;End Date;;Device;MiniMed 780G
X;Y;P5;2024/06/06;2024/06/07;;Serial Number;N1
;;;;;;CGM;G4

-------;MiniMed 780G;Pump;N1;-------
{header}
0;2024/06/06;12:00:00;;0,85;4,2;;
1;2024/06/06;11:59:00;;;;45;
2;2024/06/06;11:57:00;8,1;;;;

-------;MiniMed 780G;Sensor;N1;-------
{header}
3;2024/06/06;12:00:00;;;;;6,7
4;2024/06/06;11:55:00;;;;;6,9
5;2024/06/06;11:50:00;;;;;7,1
"""
HEADER = (
    "Index;Date;Time;BG Reading (mmol/L);Basal Rate (U/h);Bolus Volume Delivered (U);BWZ Carb Input (grams);"
    "Sensor Glucose (mmol/L)"
)


def test_carelink(tmp_path):
    path, issues = write(tmp_path / "x.csv", CARELINK.format(header=HEADER)), Issues()
    ((subject, found),) = read([path], issues).items()
    assert subject == "P5" and values_of(found) == [128, 124, 121] and utc_of(found)[0] == "06 11:50"
    assert events_of(found) == [("06 11:59", CARBS, 45), ("06 12:00", BOLUS, 4.2), ("06 12:00", BASAL, 0.85)]
    assert known(issues) == {"finger-stick or calibration (not a CGM reading)": 1}


def test_a_table_below_a_preamble_with_date_and_clock_apart(tmp_path):
    rows = "\n".join(
        f"{6 + i // 288:02d}.06.2024;{5 * i // 60 % 24:02d}:{5 * i % 60:02d};{v};" for i, v in enumerate(CURVE)
    )
    path = write(tmp_path / "x.csv", f"Name:Anna;2024\nDAY;TIME;CGM;NOTE\n{rows}\n")
    columns = {"date": "DAY", "time": "TIME", "glucose": "CGM"}
    (found,) = read([path], columns=columns, time_format="%d.%m.%Y %H:%M").values()
    assert values_of(found) == CURVE and utc_of(found)[:2] == ["06 00:00", "06 00:05"]
    assert T0_MS


def test_a_column_of_words_in_place_of_glucose(tmp_path):
    path = write(tmp_path / "x.csv", table(times(6), ["a", "b", "c", "d", 100, 101]))
    with pytest.raises(ValueError, match="glucose: 4 of 6 values are no numbers, such as 'a'"):
        read([path])


@pytest.mark.parametrize(
    ("names", "apart"),
    [
        (("anna_2023", "anna_2024"), False), (("export 2023-05-01", "export 2023-06-01"), False),
        (("2018", "2019"), True), (("anna_2023", "bob_2023"), True), (("S2001", "S2002"), True),
        (tuple(f"p_{2001 + i}" for i in range(12)), True),
    ],
)  # fmt: skip
def test_files_that_are_called_alike_but_for_a_date(tmp_path, names, apart):
    paths = [write(tmp_path / f"{name}.csv", table(times(6, 60 * i), CURVE[i : i + 6])) for i, name in enumerate(names)]
    if apart:
        assert len(read(paths)) == len(names)
        return
    with pytest.raises(ValueError, match="called alike but for a date, and would be 2 subjects.* add --subject NAME"):
        read(paths)
    assert list(read(paths, subject="anna")) == ["anna"]
