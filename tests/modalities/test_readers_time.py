"""Clocks: offsets, time zones, DST, and the transmitter's seconds."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_readers import PEOPLE, read, table, write

from raycadian.data import clock
from raycadian.modalities.cgm.card import CGMCard
from raycadian.modalities.cgm.formats import tables
from raycadian.modalities.cgm.readers import read_files
from raycadian.modalities.detect import make_card
from raycadian.types import TIME_UTC, Issues

MADRID = "Europe/Madrid"  # back from 03:00 to 02:00 on 2024-10-27, forward from 02:00 to 03:00 on 2024-03-31


def local_of(readings):
    return (readings.glucose[TIME_UTC] + pd.to_timedelta(readings.glucose["utc_offset_min"], unit="min")).tolist()


def utc_of(readings):
    return readings.glucose[TIME_UTC].dt.strftime("%H:%M").tolist()


def madrid_clock(start_utc, n, minutes=15):
    """What a wall clock in Madrid shows, and the UTC times."""
    utc = pd.date_range(start_utc, periods=n, freq=f"{minutes}min")
    shown = utc.tz_localize("UTC").tz_convert(ZoneInfo(MADRID)).tz_localize(None)
    return shown.strftime("%Y-%m-%d %H:%M").tolist(), utc.tolist()


def test_a_zone_gives_utc_and_keeps_local_hours(tmp_path):
    path = write(tmp_path / "x.csv", table(["2024-01-10 08:00", "2024-07-10 08:00"], [100, 110]))
    (found,) = read([path], timezone=MADRID).values()
    assert utc_of(found) == ["07:00", "06:00"] and found.glucose["utc_offset_min"].tolist() == [60, 120]


def test_without_a_zone_the_clock_is_kept_and_said_so(tmp_path):
    issues = Issues()
    path = write(tmp_path / "x.csv", table(["2024-01-10 08:00"], [100]))
    (found,) = read([path], issues).values()
    assert utc_of(found) == ["08:00"] and found.glucose["utc_offset_min"].tolist() == [0]
    assert issues.counts["local clock without a time zone (kept, its UTC offset taken as 0)"] == 1


def test_offsets_in_the_file_are_kept_utc_takes_the_zone(tmp_path):
    times = ["2024-01-10T08:00:00+05:30", "2024-01-10T03:00:00Z", "2024-01-10T03:30:00.123+00:00", "2024-01-10 05:00"]
    path = write(tmp_path / "x.csv", table(times, [100, 110, 120, 130]))
    (found,) = read([path], timezone=MADRID).values()
    assert utc_of(found) == ["02:30", "03:00", "03:30", "04:00"]
    assert found.glucose["utc_offset_min"].tolist() == [330, 60, 60, 60]
    issues = Issues()
    (found,) = read([path], issues).values()
    assert found.glucose["utc_offset_min"].tolist() == [330, 0, 0, 0]
    assert issues.counts["UTC time without a time zone (local hours unknown, UTC offset taken as 0)"] == 2
    assert issues.counts["local clock without a time zone (kept, its UTC offset taken as 0)"] == 1


def test_a_strptime_format_may_hold_the_offset(tmp_path):
    path = write(tmp_path / "x.csv", table(["10/01/2024 08:00 +0100", "10/01/2024 08:05 +0100"], [100, 101]))
    (found,) = read([path], time_format="%d/%m/%Y %H:%M %z").values()
    assert utc_of(found) == ["07:00", "07:05"] and found.glucose["utc_offset_min"].tolist() == [60, 60]


@pytest.mark.parametrize("newest_first", [False, True])
def test_the_hour_that_happens_twice_is_told_by_the_order_of_rows(tmp_path, newest_first):
    shown, utc = madrid_clock("2024-10-26 22:00", 24)
    assert len(set(shown)) == len(shown) - 4
    values = list(range(100, 124))
    if newest_first:
        shown, values = shown[::-1], values[::-1]
    issues = Issues()
    (found,) = read([write(tmp_path / "x.csv", table(shown, values))], issues, timezone=MADRID).values()
    assert found.glucose[TIME_UTC].tolist() == utc and found.glucose["glucose_mgdl"].tolist() == list(range(100, 124))
    assert found.glucose["utc_offset_min"].tolist() == [120] * 12 + [60] * 12
    assert issues.counts["local time that happens twice (told by the order of rows)"] == 8
    assert not any(kind.startswith(("duplicate", "row out")) for kind in issues.counts)


def test_the_repeated_hour_is_told_over_the_edges_of_blocks(tmp_path, monkeypatch):
    shown, utc = madrid_clock("2024-10-26 22:00", 72, minutes=5)
    rows = [f"{person},{t},{v + more}" for v, t in enumerate(shown, start=100) for more, person in enumerate("ab")]
    path = write(tmp_path / "x.csv", "person,time,glucose\n" + "\n".join(rows) + "\n")
    for size in (150, 333, 1000):
        monkeypatch.setattr(tables, "_BLOCK_BYTES", size)
        for found in read([path], columns=PEOPLE, timezone=MADRID).values():
            assert found.glucose[TIME_UTC].tolist() == utc


def test_a_repeated_time_without_a_jump_is_the_first(tmp_path):
    times = ["2024-10-27 01:50", "2024-10-27 02:30", "2024-10-27 04:00"]
    (found,) = read([write(tmp_path / "x.csv", table(times, [100, 101, 102]))], timezone=MADRID).values()
    assert utc_of(found) == ["23:50", "00:30", "03:00"]


def test_a_time_that_the_clock_skips_keeps_the_offset_from_before(tmp_path):
    times = ["2024-03-31 01:55", "2024-03-31 02:10", "2024-03-31 03:20"]
    issues = Issues()
    (found,) = read([write(tmp_path / "x.csv", table(times, [100, 101, 102]))], issues, timezone=MADRID).values()
    assert utc_of(found) == ["00:55", "01:10", "01:20"] and found.glucose["utc_offset_min"].tolist() == [60, 120, 120]
    kind = "local time that the clock skipped (kept the offset from before)"
    assert issues.counts[kind] == 1 and issues.examples[kind] == ["x.csv:3"]


@settings(max_examples=60)
@given(
    zone=st.sampled_from([MADRID, "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Europe/Dublin", "UTC"]),
    start=st.datetimes(datetime(2000, 1, 1), datetime(2035, 1, 1)),
    minutes=st.lists(st.integers(0, 3 * 365 * 24 * 60), min_size=1, max_size=50),
)
def test_local_clocks_agree_with_the_standard_library(zone, start, minutes):
    """zoneinfo (PEP 495) is the reference, for both times of a repeated hour and for skipped ones."""
    clocks = np.array([start.replace(microsecond=0) + timedelta(minutes=m) for m in minutes], "datetime64[ns]")
    for second in (False, True):
        repeated = clock.repeated(clocks, zone)
        utc, exists = clock.to_utc(clocks, zone, repeated & second)
        for shown, found, real, twice in zip(clocks, utc, exists, repeated, strict=True):
            aware = shown.astype("datetime64[us]").item().replace(tzinfo=ZoneInfo(zone), fold=int(second and twice))
            assert found == np.datetime64(aware.astimezone(UTC).replace(tzinfo=None), "ns")
            round_trip = aware.astimezone(UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
            assert real == (np.datetime64(round_trip, "ns") == shown)
        offsets = clock.offset_at(utc, zone)
        expected = [t.astype("datetime64[us]").item().replace(tzinfo=UTC).astimezone(ZoneInfo(zone)) for t in utc]
        assert offsets.tolist() == [t.utcoffset() // timedelta(minutes=1) for t in expected]


def test_the_sensors_seconds_tell_dst_and_travel():
    elapsed = np.arange(0.0, 6000, 300)  # 20 readings, 5 min apart
    utc = np.datetime64("2024-10-27T00:00", "ns") + elapsed.astype("timedelta64[s]")
    shown = utc + np.where(np.arange(20) < 12, 120, 60).astype("timedelta64[m]")  # Madrid sets back at 01:00 UTC
    sensor = np.array(["A"] * 20)
    assert clock.offset_by_elapsed(shown, elapsed + 7, sensor, MADRID).tolist() == [120] * 12 + [60] * 8
    assert clock.offset_by_elapsed(shown, elapsed + 7, sensor, None).tolist() == [0] * 12 + [-60] * 8
    travelled = shown - np.timedelta64(60, "m") * (np.arange(20) >= 16)  # to Lisbon
    found = clock.offset_by_elapsed(travelled, elapsed, sensor, MADRID)
    assert found.tolist() == [120] * 12 + [60] * 4 + [0] * 4
    there = travelled[-3:] + np.timedelta64(60, "m")  # the next sensor starts in Lisbon, an hour later
    both = (
        np.concatenate([travelled, there]),
        np.concatenate([elapsed, [0.0, 300, 600]]),
        np.array(["A"] * 20 + ["B"] * 3),
    )
    assert clock.offset_by_elapsed(*both, MADRID).tolist() == [120] * 12 + [60] * 4 + [0] * 7


def test_seconds_that_are_not_one_sensors_are_not_used():
    shown = np.datetime64("2024-01-10T08:00", "ns") + np.arange(4) * np.timedelta64(5, "m")
    assert clock.offset_by_elapsed(shown, np.array([0.0, 300, 600 + 450, 900]), np.array(["A"] * 4), None) is None
    assert clock.offset_by_elapsed(shown, np.array([0.0, 300, 9e6, 9e6 + 300]), np.array(["A"] * 4), None) is None


def test_epochs():
    found = clock.clock_of_epoch_ms(np.array([0.0, 1.7e12, np.nan, 1e300, np.inf]))
    assert found[:2].tolist() == [0, 1_700_000_000 * 10**9] and np.isnat(found[2:]).all()


def test_a_file_of_two_orders_of_day_and_month_is_refused(tmp_path):
    rows = [f"{d}/01/2024 08:00" for d in range(1, 31)] + [f"02/{d}/2024 08:00" for d in range(13, 20)]
    text = "time,glucose\n" + "".join(f"{t},{100 + i}\n" for i, t in enumerate(rows))
    (tmp_path / "x.csv").write_text(text)
    card = CGMCard(name="x", files=("x",), time_format="%d/%m/%Y %H:%M")
    with pytest.raises(ValueError, match=r"x\.csv: 7 times, such as '02/13/2024 08:00', have day and month in"):
        list(read_files([tmp_path / "x.csv"], card, Issues()))


def test_day_and_month_are_told_by_rows_far_down(tmp_path):
    """The first 64 KiB are of one day, which may be 3 January or 1 March."""
    first = pd.date_range("2024-03-01", periods=4000, freq="15s").strftime("%m/%d/%Y %H:%M")
    later = pd.date_range("2024-03-13", periods=300, freq="5min").strftime("%m/%d/%Y %H:%M")
    rows = [f"{t},{100 + i % 9},{'x' * 6}\n" for i, t in enumerate([*first, *later])]
    (tmp_path / "x.csv").write_text("time,glucose,note\n" + "".join(rows))
    assert make_card([tmp_path / "x.csv"])[0].time_format == "%m/%d/%Y %H:%M"
