"""The exports of vendors and studies, from small files that the tests write; and the real ones where they are."""

import json

import numpy as np
import pandas as pd
import pytest
from test_readers import card, read, values_of, write

from raycadian.data.source import Source
from raycadian.modalities.cgm.readers import detect_format
from raycadian.types import BASAL, BOLUS, CARBS, GLUCOSE, TIME_UTC, Issues

LOCAL = "local clock without a time zone (kept, its UTC offset taken as 0)"


def events_of(readings):
    return [(t.strftime("%d %H:%M"), kind, value) for t, kind, value in readings.events.itertuples(index=False)]


def utc_of(readings):
    return readings.glucose[TIME_UTC].dt.strftime("%d %H:%M").tolist()


def format_of(path):
    return detect_format(Source.of(path), card())


# --- Dexcom Clarity ------------------------------------------------------------------------------------------------

CLARITY = (
    '"Index","Timestamp (YYYY-MM-DDThh:mm:ss)","Event Type","Event Subtype","Patient Info","Device Info",'
    '"Source Device ID","Glucose Value (mg/dL)","Insulin Value (u)","Carb Value (grams)","Duration (hh:mm:ss)",'
    '"Glucose Rate of Change (mg/dL/min)","Transmitter Time (Long Integer)","Transmitter ID"'
)
PREAMBLE = (
    '"1","","FirstName","","Jo","","","","","","","",""',
    '"2","","Alert","High","","","iOS","200","","","","",""',
)


def clarity_row(i, time, kind, subtype="", glucose="", insulin="", carbs="", seconds="", sensor="8X"):
    fields = (i, time, kind, subtype, "", "", "iOS", glucose, insulin, carbs, "", "", seconds, sensor)
    return ",".join(f'"{field}"' for field in fields)


def clarity(path, rows, header=CLARITY):
    return write(path, ("﻿" + "\r\n".join([header, *PREAMBLE, *rows]) + "\r\n").encode())


def test_clarity(tmp_path):
    rows = [
        clarity_row(3, "2024-06-06T00:00:41", "EGV", "", "128", seconds=300),
        clarity_row(4, "2024-06-06T00:02:00", "Insulin", "Fast-Acting", "", "4.5"),
        clarity_row(5, "2024-06-06T00:02:00", "Insulin", "Long-Acting", "", "18"),
        clarity_row(6, "2024-06-06T00:03:00", "Carbs", "", "", "", "40"),
        clarity_row(7, "2024-06-06T00:04:00", "Calibration", "", "131"),
        clarity_row(8, "2024-06-06T00:05:41", "EGV", "Low", "Low", seconds=600),
        clarity_row(9, "2024-06-06T00:10:41", "EGV", "High", "High", seconds=900),
    ]
    path, issues = clarity(tmp_path / "export.csv", rows), Issues()
    assert format_of(path) == "dexcom_clarity"
    (found,) = read([path], issues, timezone="Europe/Madrid", subject="jo").values()
    assert found.subject == "jo" and values_of(found) == [128, 39, 401]
    assert utc_of(found) == ["05 22:00", "05 22:05", "05 22:10"] and set(found.glucose["utc_offset_min"]) == {120}
    assert events_of(found) == [("05 22:02", BOLUS, 4.5), ("05 22:03", CARBS, 40)]
    assert issues.as_dict() == {
        "finger-stick or calibration (not a CGM reading)": {"count": 1, "examples": ["export.csv:8"]},
        "high": {"count": 1, "examples": ["export.csv:10"]},
        "insulin other than fast-acting (neither a bolus nor a rate)": {"count": 1, "examples": ["export.csv:6"]},
        "low": {"count": 1, "examples": ["export.csv:9"]},
    }


def test_clarity_in_german_with_semicolons_and_mmoll(tmp_path):
    header = CLARITY.replace("(YYYY-MM-DDThh:mm:ss)", "(JJJJ-MM-TTThh:mm:ss)").replace("Timestamp", "Zeitstempel")
    header = header.replace("Glucose Value (mg/dL)", "Glukosewert (mmol/L)").replace(",", ";")
    row = clarity_row(3, "2024-06-06T00:00:41", "EGV", "", "7|1").replace(",", ";").replace("|", ",")
    low = clarity_row(4, "2024-06-06T00:05:41", "EGV", "", "Niedrig").replace(",", ";")
    path = clarity(tmp_path / "x.csv", [row, low], header)
    assert format_of(path) == "dexcom_clarity"
    (found,) = read([path]).values()
    np.testing.assert_allclose(values_of(found), [128, 39])


def test_clarity_without_the_transmitters_seconds_uses_the_clock(tmp_path):
    rows = [
        clarity_row(3, "2024-06-06T00:00:41", "EGV", "", "128"),
        clarity_row(4, "2024-06-06T00:05:41", "EGV", "", "130"),
    ]
    issues = Issues()
    (found,) = read([clarity(tmp_path / "x.csv", rows)], issues).values()
    assert values_of(found) == [128, 130] and issues.counts == {LOCAL: 2}


def test_clarity_on_a_journey_west_keeps_both_readings_of_the_repeated_hour(tmp_path):
    """The export sorts by the clock: hours that the phone showed twice are shuffled together."""
    seconds = np.arange(0, 3 * 3600, 300)
    shown = pd.Timestamp("2024-07-11 11:00") + pd.to_timedelta(np.where(seconds < 5400, seconds, seconds - 3600), "s")
    rows = sorted((t.isoformat(), f"{100 + i}", int(s)) for i, (t, s) in enumerate(zip(shown, seconds, strict=True)))
    path = clarity(tmp_path / "x.csv", [clarity_row(3, t, "EGV", "", v, seconds=s) for t, v, s in rows])
    issues = Issues()
    (found,) = read([path], issues).values()
    assert values_of(found) == list(range(100, 136))
    assert set(np.diff(found.glucose[TIME_UTC])) == {np.timedelta64(300, "s").astype("timedelta64[ns]")}
    assert found.glucose["utc_offset_min"].tolist() == [0] * 18 + [-60] * 18
    assert issues.counts["duplicate time on the clock (both kept, told apart by the transmitter's seconds)"] == 12
    assert issues.counts["clock set forward or back (told by the transmitter's seconds)"] == 1


def test_real_clarity_export(shared):
    path, issues = shared / "cgm" / "exports" / "dexcom_clarity.csv", Issues()
    assert format_of(path) == "dexcom_clarity"
    (found,) = read([path], issues).values()
    assert len(found.glucose) == 24_542 and issues.counts["low"] == 64
    assert (found.glucose[GLUCOSE] == 39).sum() == 64 and found.glucose[GLUCOSE].max() == 336
    assert issues.counts["duplicate time on the clock (both kept, told apart by the transmitter's seconds)"] == 4
    assert issues.counts["clock set forward or back (told by the transmitter's seconds)"] == 2  # a journey, and back
    apart_s = np.diff(found.glucose[TIME_UTC]).astype("timedelta64[s]").astype(int)
    assert (apart_s < 240).sum() == 0, "the repeated hour of the journey is untangled"
    assert (apart_s > 6 * 60).sum() >= 38
    assert set(found.glucose["utc_offset_min"]) == {0, -60}


# --- LibreView -----------------------------------------------------------------------------------------------------

LIBRE_ES = (
    "Dispositivo,Número de serial,Sello de tiempo del dispositivo,Tipo de registro,Historial de glucosa mmol/L,Escaneo "
    "de "
    "glucosa mmol/L,Insulina de acción rápida no numérica,Insulina de acción rápida (unidades),Alimento no numérico,"
    "Carbohidratos (gramos),Carbohidratos (porciones),Insulina de acción larga no numérica,Insulina de acción larga "
    "(unidades),Notas,Tira reactiva para glucosa mmol/L,Cuerpos cetónicos mmol/L,Comida e insulina (unidades),Insulina "
    "de "
    "corrección (unidades),Insulina del cambio de usuario (unidades)"
)
LIBRE_US = "Device,Serial Number,Device Timestamp,Record Type,Historic Glucose mg/dL,Scan Glucose mg/dL," + ",".join(
    "abcdefghijklm"
)


def libre_row(time, kind, **cells):
    fields = ["FreeStyle Libre", "SN", time, str(kind)] + [""] * 15
    places = {
        "history": 4,
        "scan": 5,
        "mark": 6,
        "insulin": 7,
        "carbs": 9,
        "long": 12,
        "strip": 14,
        "meal": 16,
        "fix": 17,
    }
    for name, value in cells.items():
        fields[places[name]] = f'"{value}"'
    return ",".join(fields)


def libre(path, rows, header=LIBRE_ES):
    return write(path, "\n".join(["Informe del paciente,Generado el,20-04-2024 15:09 UTC", "NAME,DOB", header, *rows]))


def test_libreview_in_spanish(tmp_path):
    rows = [
        libre_row("13-04-2024 08:00", 0, history="5,7"),
        libre_row("13-04-2024 08:15", 0, history="6,0"),
        libre_row("13-04-2024 08:05", 1, scan="5,9"),
        libre_row("13-04-2024 08:15", 1, scan="6,3"),
        libre_row("13-04-2024 08:20", 4, insulin="3,5"),
        libre_row("13-04-2024 08:21", 4, long="20"),
        libre_row("13-04-2024 08:22", 4, mark="1"),
        libre_row("13-04-2024 08:23", 4, meal="2,0", fix="1,5"),
        libre_row("13-04-2024 08:24", 5, carbs="45"),
        libre_row("13-04-2024 08:25", 2, strip="5,5"),
        libre_row("13-04-2024 08:26", 6),
        libre_row("13-04-2024 08:30", 0, history="HI"),
    ]
    path, issues = libre(tmp_path / "x.csv", rows), Issues()
    assert format_of(path) == "libreview"
    (found,) = read([path], issues).values()
    expected = [103, 106, 108, 501]  # history before a scan
    np.testing.assert_allclose(values_of(found), expected)
    assert utc_of(found) == ["13 08:00", "13 08:05", "13 08:15", "13 08:30"]
    assert events_of(found) == [("13 08:20", BOLUS, 3.5), ("13 08:23", BOLUS, 3.5), ("13 08:24", CARBS, 45)]
    counts = {kind: issues.examples[kind] for kind in issues.counts if kind != LOCAL}
    assert counts == {
        "duplicate time, conflicting value (first kept)": ["subject x at 2024-04-13T08:15:00 UTC"],
        "finger-stick or calibration (not a CGM reading)": ["x.csv:13"],
        "high": ["x.csv:15"],
        "insulin other than fast-acting (neither a bolus nor a rate)": ["x.csv:9"],
        "meal or insulin without an amount": ["x.csv:10"],
    }


@pytest.mark.parametrize(
    ("times", "first"),
    [
        (["03-31-2024 11:50 PM", "04-01-2024 12:05 AM"], "2024-03-31 23:50"),  # only month-day fits
        (["04-01-2024 11:50 PM", "04-02-2024 12:05 AM"], "2024-04-01 23:50"),  # day-month would leap a month
        (["2024/04/01 23:50", "2024/04/02 00:05"], "2024-04-01 23:50"),
        (["01/04/2024 23:50", "02/04/2024 00:05"], "2024-04-01 23:50"),
    ],
)
def test_libreview_dates_of_any_country(tmp_path, times, first):
    rows = [libre_row(t, 0, history=100 + i) for i, t in enumerate(times)]
    (found,) = read([libre(tmp_path / "x.csv", rows, LIBRE_US)]).values()
    assert found.glucose[TIME_UTC][0] == pd.Timestamp(first) and values_of(found) == [100, 101]
    assert found.glucose[TIME_UTC][1] - found.glucose[TIME_UTC][0] == pd.Timedelta("15min")


def test_libreview_dates_that_can_be_either_ask(tmp_path):
    path = libre(tmp_path / "x.csv", [libre_row("05-04-2024 23:50", 0, history=100)], LIBRE_US)
    with pytest.raises(ValueError, match=r"x\.csv: '05-04-2024 23:50' may be day first or month first, .*: add --set"):
        read([path])
    (found,) = read([path], time_format="%d-%m-%Y %H:%M").values()
    assert found.glucose[TIME_UTC][0] == pd.Timestamp("2024-04-05 23:50")


def test_real_libreview_export(shared):
    path, issues = shared / "cgm" / "exports" / "libreview_es_mmol.csv", Issues()
    assert format_of(path) == "libreview"
    (found,) = read([path], issues).values()
    assert len(found.glucose) == 1339 and issues.counts == {LOCAL: 1339}
    assert found.glucose[TIME_UTC].iloc[0] == pd.Timestamp("2024-04-01 18:13")
    assert found.glucose[TIME_UTC].iloc[-1] == pd.Timestamp("2024-04-15 16:43")
    assert values_of(found)[:2] == [103, 97]
    assert 60 < found.glucose[GLUCOSE].median() < 150


# --- Nightscout ----------------------------------------------------------------------------------------------------

T0_MS = 1_704_873_600_000  # 2024-01-10 08:00 UTC


def entry(minute, sgv, **more):
    return {"type": "sgv", "sgv": sgv, "date": T0_MS + minute * 60_000, "dateString": "2024-01-10T08:00:00.000Z"} | more


def test_nightscout_entries_and_treatments(tmp_path):
    folder = tmp_path / "anna"
    folder.mkdir()
    entries = [
        entry(10, 120, utcOffset=60),
        entry(5, 110, utcOffset=60),
        entry(0, 100, utcOffset=60),
        {"type": "mbg", "mbg": 99},
    ]
    treatments = [
        {"eventType": "Meal Bolus", "created_at": "2024-01-10T08:02:00Z", "carbs": 45, "insulin": 4.5},
        {"eventType": "Temp Basal", "created_at": "2024-01-10T08:00:00Z", "absolute": 0.5, "duration": 30},
        {"eventType": "Temp Basal", "created_at": "2024-01-10T08:20:00Z", "absolute": 1.5, "duration": 30},
        {"eventType": "Temp Basal", "created_at": "2024-01-10T10:00:00Z", "percent": -50, "duration": 30},
        {"eventType": "Note", "created_at": "2024-01-10T08:07:00Z", "notes": "walk"},
        {"eventType": "Correction", "created_at": "2024-01-10T08:09:00Z", "insulin": 1, "isValid": False},
    ]
    paths = [
        write(folder / "entries.json", json.dumps(entries)),
        write(folder / "treatments.json", json.dumps(treatments)),
    ]
    assert [format_of(path) for path in paths] == ["nightscout", "nightscout"]
    issues = Issues()
    (found,) = read(paths, issues).values()
    assert found.subject == "anna" and values_of(found) == [100, 110, 120]
    assert utc_of(found)[0] == "10 08:00" and found.glucose["utc_offset_min"].tolist() == [60, 60, 60]
    assert events_of(found)[:4] == [
        ("10 08:00", BASAL, 0.5), ("10 08:02", CARBS, 45), ("10 08:02", BOLUS, 4.5), ("10 08:20", BASAL, 1.5)
    ]  # fmt: skip
    after = events_of(found)[4:]  # the schedule is not in the file: unknown
    assert [(t, k) for t, k, v in after if np.isnan(v)] == [
        ("10 08:50", BASAL),
        ("10 10:00", BASAL),
        ("10 10:30", BASAL),
    ]
    assert issues.examples["temporary basal rate in percent of an unknown profile"] == ["treatments.json record 4"]
    assert issues.examples["finger-stick or calibration (not a CGM reading)"] == ["entries.json record 4"]
    assert not any(kind.startswith("row out of time") for kind in issues.counts)


def test_nightscout_as_one_object_or_one_record_a_line(tmp_path):
    both = {
        "entries": [entry(0, 100)],
        "treatments": [{"eventType": "Meal", "created_at": "2024-01-10T08:00:00Z", "carbs": 9}],
    }
    (found,) = read([write(tmp_path / "jo.json", json.dumps(both))]).values()
    assert values_of(found) == [100] and events_of(found) == [("10 08:00", CARBS, 9)] and found.subject == "jo"
    lines = "\n".join(json.dumps(entry(5 * i, 100 + i)) for i in range(3))
    (found,) = read([write(tmp_path / "li.json.gz", lines)], timezone="America/New_York").values()
    assert values_of(found) == [100, 101, 102] and set(found.glucose["utc_offset_min"]) == {-300}


def test_nightscout_treatments_alone_ask_for_the_entries(tmp_path):
    path = write(
        tmp_path / "t.json", json.dumps([{"eventType": "Meal", "created_at": "2024-01-10T08:00:00Z", "carbs": 9}])
    )
    with pytest.raises(ValueError, match=r"t\.json: no glucose reading, only events; add the entries' file"):
        read([path])


def test_json_that_is_cut_or_odd(tmp_path):
    text = json.dumps([entry(5 * i, 100) for i in range(3)])
    with pytest.raises(ValueError, match=r"cut\.json: not whole JSON: .* at line 1"):
        read([write(tmp_path / "cut.json", text[:-30])])
    odd, issues = write(tmp_path / "odd.json", json.dumps([entry(0, 100), 5, entry(5, "x"), entry(9, None)])), Issues()
    (found,) = read([odd], issues).values()
    assert values_of(found) == [100]
    assert issues.examples["record that is not an object"] == ["odd.json record 2"]
    assert issues.examples["glucose is not a number"] == ["odd.json record 3"]
    assert issues.examples["row without a glucose value"] == ["odd.json record 4"]


# --- Tidepool ------------------------------------------------------------------------------------------------------


def record(kind, time, **more):
    return {
        "type": kind,
        "time": f"2024-01-10T{time}:00.000Z",
        "deviceTime": f"2024-01-10T{time}:00",
        "id": time,
    } | more


def test_tidepool(tmp_path):
    hour = 3_600_000
    records = [
        record("upload", "07:00"),
        record("cbg", "08:00", value=5.55, units="mmol/L", timezoneOffset=-300),
        record("cbg", "08:05", value=108, units="mg/dL", timezoneOffset=-300),
        record("cbg", "08:10", value=6.5, units="mmol/L", deviceTime="2024-01-10T03:10:00"),
        record("smbg", "08:11", value=6.4, units="mmol/L"),
        record("bolus", "08:00", subType="dual/square", normal=2.0, extended=1.5),
        record("wizard", "08:00", carbInput=45),
        record("wizard", "08:30", carbInput=3, carbUnits="exchanges"),
        record("food", "08:31", nutrition={"carbohydrate": {"net": 12, "units": "grams"}}),
        record("basal", "08:00", deliveryType="scheduled", rate=0.8, duration=hour),
        record("basal", "09:00", deliveryType="suspend", duration=hour),
    ]
    path, issues = write(tmp_path / "x.json", json.dumps(records)), Issues()
    assert format_of(path) == "tidepool"
    (found,) = read([path], issues).values()
    np.testing.assert_allclose(values_of(found), [100, 108, 117])
    assert found.glucose["utc_offset_min"].tolist() == [-300, -300, -300] and utc_of(found)[0] == "10 08:00"
    assert events_of(found)[:6] == [
        ("10 08:00", BOLUS, 2.0), ("10 08:00", BOLUS, 1.5), ("10 08:00", CARBS, 45), ("10 08:00", BASAL, 0.8),
        ("10 08:31", CARBS, 12),
        ("10 09:00", BASAL, 0.0),
    ]  # fmt: skip
    assert events_of(found)[6][0] == "10 10:00" and np.isnan(events_of(found)[6][2])
    assert issues.examples["extended bolus without a duration (taken at its beginning)"] == ["x.json record 6"]
    assert issues.examples["carbohydrates in exchanges (grams unknown)"] == ["x.json record 8"]
    with pytest.raises(ValueError, match="the file says mmol/L, not mg/dL; leave out --unit"):
        read([path], unit="mg/dL")


# --- OhioT1DM ------------------------------------------------------------------------------------------------------

OHIO = """<?xml version="1.0" encoding="UTF-8"?>
<patient id="559" weight="99" insulin_type="Novalog">
<glucose_level>
<event ts="07-12-2021 01:17:00" value="101"/><event ts="07-12-2021 01:22:00" value="98"/>
<event ts="07-12-2021 01:27:00" value="x"/><event ts="oops" value="98"/>
</glucose_level>
<finger_stick><event ts="07-12-2021 01:20:00" value="111"/></finger_stick>
<basal><event ts="07-12-2021 00:00:00" value="0.7"/><event ts="07-12-2021 05:30:00" value="0.9"/></basal>
<temp_basal>
<event ts_begin="07-12-2021 05:00:00" ts_end="07-12-2021 06:00:00" value="0.0"/>
<event ts_begin="07-12-2021 08:00:00" ts_end="07-12-2021 07:00:00" value="0.0"/>
</temp_basal>
<bolus><event ts_begin="07-12-2021 07:00:00" ts_end="07-12-2021 07:00:00" type="normal" dose="8.5"
bwz_carb_input="60"/></bolus>
<meal><event ts="07-12-2021 07:00:00" type="Breakfast" carbs="60"/></meal>
<sleep><event ts_begin="07-12-2021 23:00:00" ts_end="08-12-2021 07:00:00" quality="3"/></sleep>
</patient>
"""  # fmt: skip


def test_ohio(tmp_path):
    path, issues = write(tmp_path / "559-ws-training.xml", OHIO), Issues()
    assert format_of(path) == "ohio_t1dm"
    (found,) = read([path], issues).values()
    assert found.subject == "559" and values_of(found) == [101, 98] and utc_of(found) == ["07 01:17", "07 01:22"]
    assert events_of(found) == [
        ("07 00:00", BASAL, 0.7), ("07 05:00", BASAL, 0.0), ("07 06:00", BASAL, 0.9), ("07 07:00", CARBS, 60),
        ("07 07:00", BOLUS, 8.5),
    ]  # fmt: skip
    del issues.counts[LOCAL]
    assert {kind: issues.examples[kind][0] for kind in issues.counts} == {
        "glucose is not a number": "559-ws-training.xml event 3",
        "time not understood": "559-ws-training.xml event 4",
        "finger-stick or calibration (not a CGM reading)": "559-ws-training.xml event 5",
        "temporary basal rate without a rate or an end (skipped)": "559-ws-training.xml event 9",
    }


def test_ohio_training_and_testing_files_are_one_subject(tmp_path):
    later = OHIO.replace("07-12-2021", "08-12-2021")
    paths = [write(tmp_path / "559-ws-training.xml", OHIO), write(tmp_path / "559-ws-testing.xml.gz", later)]
    (found,) = read(paths).values()
    assert len(found.glucose) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (OHIO[:600], "can't be understood: (no element found|unclosed token|not well-formed)"),
        (OHIO.replace("<patient ", '<!DOCTYPE p [<!ENTITY a "b">]><patient ', 1), "declares entities"),
    ],
)
def test_ohio_that_is_cut_or_hostile(tmp_path, text, message):
    with pytest.raises(ValueError, match=rf"559\.xml: {message}"):
        read([write(tmp_path / "559.xml", text)])


# --- pump version 2.0 ----------------------------------------------------------------------------------------------


def pump(path, start, values, serial="SN1", role="train"):
    path.parent.mkdir(parents=True, exist_ok=True)
    times = pd.date_range(start, periods=len(values), freq="5min").strftime("%Y-%m-%d %H:%M:%S")
    rows = [
        f"{t},{v},0,0.8,{1.5 if i == 1 else 0.0},0,1,{int(v == 600)},{int(v != v)}"
        for i, (t, v) in enumerate(zip(times, values, strict=True))
    ]
    head = f"# data_version: 2.0\n# pump_serial: {serial}\n# file_role: {role}\n"
    head += "# tz_handling: UTC\n# bg_range_policy: clip\n"
    names = "timestamp,bg,delta_bg,basal_rate,bolus_dose,sin_time,cos_time,bg_clip_flag,bg_missing_flag\n"
    return write(path, head + names + "\n".join(rows) + "\n")


def test_pump_files_of_one_pump_newest_wins(tmp_path):
    folder, issues = tmp_path / "pump_SN1", Issues()
    nan = float("nan")
    paths = [
        pump(folder / "train" / "lstm_20240102.csv", "2024-01-10 08:00", [100, 110, nan, 600]),
        pump(folder / "train" / "lstm_20240101.csv", "2024-01-10 08:00", [1, 2, 3, 4]),
        pump(folder / "test" / "lstm_20240101.csv", "2024-01-10 08:15", [600, 130], role="test"),
    ]
    assert {format_of(path) for path in paths} == {"pump_v2"}
    (found,) = read(paths, issues, timezone="Europe/Madrid").values()
    assert found.subject == "SN1" and values_of(found) == [100, 110, 600, 130]
    assert utc_of(found)[0] == "10 08:00" and set(found.glucose["utc_offset_min"]) == {60}
    assert events_of(found)[:2] == [("10 08:00", BASAL, 0.8), ("10 08:05", BOLUS, 1.5)]
    assert issues.examples["pump file superseded by a newer one (not read)"] == ["train/lstm_20240101.csv"]
    assert (
        issues.counts["row without a glucose value"] == 1 and issues.counts["glucose clipped by the pump's export"] == 2
    )
    assert issues.counts["duplicate time, same value (kept once)"] == 1


def test_two_pumps_of_one_person_that_overlap_are_an_error(tmp_path):
    paths = [
        pump(tmp_path / "pump_A" / "train" / "lstm_1.csv", "2024-01-10 08:00", [100, 110, 120], serial="A"),
        pump(tmp_path / "pump_B" / "test" / "lstm_1.csv", "2024-01-10 08:05", [150, 160, 170], serial="B", role="test"),
    ]
    assert list(read(paths)) == ["A", "B"]
    with pytest.raises(ValueError, match="subject 'jo' is in both from 2024-01-10T08:05:00 to 2024-01-10T08:10:00 UTC"):
        read(paths, subject="jo")


def test_pump_times_that_are_not_utc_are_refused(tmp_path):
    path = pump(tmp_path / "x" / "lstm_1.csv", "2024-01-10 08:00", [100, 110])
    path.write_text(path.read_text().replace("tz_handling: UTC", "tz_handling: naive local"))
    with pytest.raises(ValueError, match="tz_handling is 'naive local', expected UTC"):
        read([path])
