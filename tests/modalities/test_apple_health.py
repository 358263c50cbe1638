"""Apple Health's export: what is counted, spread and joined; broken tails, bombs and foreign files."""

import zipfile

import numpy as np
import pytest

from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.actigraphy.formats.apple_health import (
    ASLEEP,
    ENERGY,
    HEART_RATE,
    STEPS,
    parse_export,
    sleep_episodes,
)
from raycadian.modalities.actigraphy.readers import detect_format, read_activity
from raycadian.types import Issues

HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE HealthData [
<!ELEMENT HealthData (ExportDate,Me,(Record)*)>
<!ATTLIST Record type CDATA #REQUIRED>
]>
<HealthData locale="en_GB">
 <ExportDate value="2024-06-10 09:00:00 +0200"/>
"""
QUANTITY = "HKQuantityTypeIdentifier"
SLEEP = "HKCategoryTypeIdentifierSleepAnalysis"


def record(kind, start, end, value, unit="count", source="Watch", zone="+0200"):
    start, end = (f"2024-06-{t} {zone}" for t in (start, end))
    when = f'startDate="{start}" endDate="{end}"'
    return f' <Record type="{kind}" sourceName="{source}" unit="{unit}" {when} value="{value}"/>\n'


def sleep(state, start, end, source="Watch"):
    return record(SLEEP, start, end, f"HKCategoryValueSleepAnalysis{state}", source=source)


DAY = "".join(
    [
        sleep("InBed", "01 23:00:00", "02 07:00:00", "Phone"),
        sleep("AsleepCore", "01 23:30:00", "02 03:00:00"),
        sleep("Awake", "02 03:00:00", "02 03:20:00"),
        sleep("AsleepREM", "02 03:20:00", "02 06:50:00"),
        record(QUANTITY + "HeartRate", "02 08:00:10", "02 08:00:10", 60, "count/min"),
        record(QUANTITY + "HeartRate", "02 08:00:50", "02 08:00:50", 80, "count/min"),
        record(QUANTITY + "StepCount", "02 08:00:00", "02 08:10:00", 1000),
        record(QUANTITY + "StepCount", "02 08:05:00", "02 08:06:00", 130, source="Phone"),
        record(QUANTITY + "ActiveEnergyBurned", "02 08:00:00", "02 08:02:00", 8.368, "kJ"),
        ' <Record type="HKQuantityTypeIdentifierBodyMass" unit="kg" startDate="x" endDate="y" value="70"/>\n',
    ]
)


def write(path, body=DAY, tail="</HealthData>\n"):
    path.write_text(HEAD + body + tail, encoding="utf-8")
    return path


def pack(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(f"apple_health_export/{name}.xml", text)
    return path


def read(path, **settings):
    issues = Issues()
    return list(read_activity([path], ActigraphyCard(name="t", files=("*",), **settings), issues)), issues.counts


@pytest.mark.parametrize("zipped", [False, True])
def test_channels(tmp_path, zipped):
    path = write(tmp_path / "export.xml")
    if zipped:
        path = pack(tmp_path / "anna.zip", export=path.read_text(), export_cda="<ClinicalDocument/>" * 1000)
    assert detect_format(path) == "apple_health"
    (recording,), issues = read(path, subject="anna")
    assert (recording.subject, recording.utc_offset_min) == ("anna", 120)
    assert str(recording.start_utc) == "2024-06-01T21:00:00"
    steps, energy, heart, asleep = (recording.channels[name] for name in (STEPS, ENERGY, HEART_RATE, ASLEEP))
    eight = 9 * 60  # from 23:00
    np.testing.assert_allclose(
        steps[eight : eight + 10], [100] * 5 + [130] + [100] * 4, rtol=1e-6
    )  # the most, not the sum
    assert steps[:eight].sum() == 0
    np.testing.assert_allclose(energy[eight : eight + 3], [1, 1, 0], rtol=1e-6)
    assert heart[eight] == 70 and np.isnan(heart[eight + 1])
    assert np.flatnonzero(np.diff(asleep)).tolist() == [29, 239, 259, 469]
    assert np.flatnonzero(~recording.observed).tolist() == list(range(8 * 60 + 15, eight - 15))
    assert not issues


def test_episodes(tmp_path):
    health = parse_export(write(tmp_path / "export.xml"), Issues())
    (row,) = sleep_episodes(health).itertuples(index=False)
    assert (str(row.sleep_start), str(row.sleep_end)) == ("2024-06-01 23:00:00", "2024-06-02 07:00:00")
    assert (row.time_in_bed, row.minutes_sleep, row.minutes_awake) == (480, 420, 60)


@pytest.mark.parametrize("cut", [80, 700])
def test_broken_tail_is_reported(tmp_path, cut):
    text = HEAD + DAY * 20
    path = tmp_path / "export.xml"
    path.write_text(text[:-cut])
    found, issues = read(path)
    assert len(found) == 1 and issues["export cut off or broken (what comes before is kept)"] == 1


def test_broken_at_once(tmp_path):
    with pytest.raises(ValueError, match="no whole record before line"):
        read(write(tmp_path / "export.xml", " <Record type=<<", ""))
    with pytest.raises(ValueError, match="no record of steps, energy, heart rate or sleep"):
        read(write(tmp_path / "export.xml", ""))
    whole = pack(tmp_path / "x.zip", export=HEAD + DAY + "</HealthData>").read_bytes()
    (tmp_path / "x.zip").write_bytes(whole[:-30])
    with pytest.raises(ValueError, match="ZIP archive|can't be unpacked"):
        read(tmp_path / "x.zip")


def test_an_encrypted_archive(tmp_path):
    """Its flags say so, in the entry's header and in the archive's directory."""
    data = bytearray(pack(tmp_path / "x.zip", export=HEAD + DAY + "</HealthData>").read_bytes())
    data[6] |= 1
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"x.zip: .*export.xml is encrypted.*unpack it with its password"):
        read(tmp_path / "x.zip")


def test_an_archive_damaged_inside(tmp_path):
    """A way of packing that zipfile doesn't know, and a stream that is no deflate's."""
    path = pack(tmp_path / "x.zip", export=HEAD + DAY + "</HealthData>")
    whole = path.read_bytes()
    odd, broken = bytearray(whole), bytearray(whole)
    odd[8] = odd[odd.rindex(b"PK\x01\x02") + 10] = 99
    begins = 30 + len("apple_health_export/export.xml")
    broken[begins : begins + 8] = b"\xff" * 8
    for data in (odd, broken):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="x.zip: can't be unpacked: .*; export it again"):
            read(path)


def test_bombs(tmp_path):
    many = HEAD + "<Record/>" * 9_000_000 + "</HealthData>"
    with pytest.raises(ValueError, match=r"unpacks from [\d,]+ to [\d,]+ bytes, expected at most .*bomb"):
        read(pack(tmp_path / "bomb.zip", export=many))
    laughs = '<!DOCTYPE HealthData [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><HealthData>&b;</HealthData>'
    (tmp_path / "laughs.xml").write_text(laughs)
    with pytest.raises(ValueError, match="not an Apple Health export.*declares entities"):
        read(tmp_path / "laughs.xml")
    outside = '<!DOCTYPE HealthData [<!ENTITY a SYSTEM "file:///etc/passwd">]><HealthData>&a;</HealthData>'
    (tmp_path / "outside.xml").write_text(outside)
    with pytest.raises(ValueError, match="not an Apple Health export"):
        read(tmp_path / "outside.xml")


def test_records_that_can_t_be(tmp_path):
    body = DAY + "".join(
        [
            record(QUANTITY + "StepCount", "03 08:00:00", "02 08:00:00", 5),  # ends before it begins
            record(QUANTITY + "StepCount", "03 08:00:00", "03 08:10:00", -5),
            record(QUANTITY + "StepCount", "03 08:00:00", "03 08:10:00", "many"),
            record(QUANTITY + "HeartRate", "03 08:00:00", "03 08:00:00", 70, "bananas"),
            record(QUANTITY + "StepCount", "99 08:00:00", "99 08:10:00", 5),
        ]
    )
    found, issues = read(write(tmp_path / "export.xml", body))
    assert issues == {"record that can't be (left out)": 2, "record not understood (left out)": 3}
    assert len(found) == 1


def test_gaps_and_travel_end_recordings(tmp_path):
    body = "".join(
        [
            record(QUANTITY + "StepCount", "01 08:00:00", "01 08:10:00", 100),
            record(QUANTITY + "StepCount", "01 20:00:00", "01 20:10:00", 100),
            record(QUANTITY + "StepCount", "04 08:00:00", "04 08:10:00", 100),
            record(QUANTITY + "StepCount", "04 12:00:00", "04 12:10:00", 100, zone="+0900"),
        ]
    )
    found, issues = read(write(tmp_path / "export.xml", body))
    assert [(str(r.start_utc), r.utc_offset_min) for r in found] == [
        ("2024-06-01T06:00:00", 120), ("2024-06-04T03:00:00", 540), ("2024-06-04T06:00:00", 120),
    ]  # fmt: skip
    assert [round(float(r.channels[STEPS].sum())) for r in found] == [200, 100, 100]
    assert issues == {"change of the UTC offset (DST or travel)": 2}
    zoned, _ = read(write(tmp_path / "export.xml", body), timezone="Europe/Madrid")
    assert [r.utc_offset_min for r in zoned] == [120, 120]  # the card's zone, not the phone's at the time of exporting
