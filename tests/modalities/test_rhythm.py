"""Rhythm and sleep by person and night: planted nights are found, what is missing has a word, and so has each wrong
input."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from test_actigraphy import write_awd

import raycadian as rc
from raycadian.cli.main import main
from raycadian.modalities.actigraphy.actogram import actogram, write_figure
from raycadian.modalities.actigraphy.rhythm import Minutes, rhythm_of, tables
from raycadian.physiology.rhythms import scoring
from raycadian.physiology.rhythms.blocks import sleep_blocks
from raycadian.physiology.rhythms.circadian import binned, rest_activity
from raycadian.physiology.rhythms.wear import DAY_MIN
from raycadian.types import ACTIVITY_WRIST, WORN, Recording

START = np.datetime64("2026-03-02T09:00", "s")  # a Monday


def counts(days=5.0, bed_h=23.5, wake_h=7.0, restless=2.0, start=START):
    """Minutes of somebody who sleeps from bed_h to wake_h by the clock of `start`."""
    rng = np.random.default_rng(0)
    minute = (start - start.astype("datetime64[D]")).astype(np.int64) // 60 + np.arange(round(days * DAY_MIN))
    hour = minute / 60 % 24
    asleep = (hour >= bed_h) | (hour < wake_h) if bed_h > wake_h else (hour >= bed_h) & (hour < wake_h)
    return np.where(asleep, rng.poisson(restless, len(hour)), rng.gamma(2, 150, len(hour))).astype(np.float32)


def recording(values, start=START, offset_min=0, worn=True, index=0, channel=ACTIVITY_WRIST):
    utc = start - np.timedelta64(offset_min, "m")
    return Recording("a", index, utc, offset_min, 60.0, {channel: values}, ~np.isnan(values) & worn)


def told(*recordings, rule="oakley"):
    return rhythm_of(Minutes.of(recordings, [Path("a.AWD")]), rule, 10.0)


def nights_of(*recordings):
    return tables([told(*recordings)])[1].set_index("night")


def every_gap_has_a_word(rhythm):
    for row in [rhythm.person, *rhythm.nights]:
        lacks = [name for name, value in row.items() if pd.isna(value)]
        assert (row["status"] == "ok") == (not lacks), (lacks, row["status"])


# --- what is planted is found ---------------------------------------------------------------------------------------


def test_planted_nights_are_found_to_the_minute_and_days_are_as_published():
    rhythm = told(recording(counts()))
    every_gap_has_a_word(rhythm)
    persons, nights = tables([rhythm])
    whole = nights[nights["status"] == "ok"]
    assert list(whole["night"].dt.strftime("%a")) == ["Mon", "Tue", "Wed", "Thu", "Fri"]
    assert set(whole["sleep_onset"].dt.strftime("%H:%M")) == {"23:30"}
    assert set(whole["sleep_offset"].dt.strftime("%H:%M")) == {"07:00"} and set(whole["sleep_h"]) == {7.5}
    assert whole["efficiency_pct"].min() > 98 and (whole["worn_h"] > 20).all()
    assert whole["l5_onset_h"].map(lambda h: h > 23 or h < 2.5).all() and whole["m10_onset_h"].between(6.5, 14).all()
    person = persons.iloc[0]
    days = counts()[15 * 60 :][: 4 * DAY_MIN].reshape(4, DAY_MIN)
    published = rest_activity(days.astype(np.float64))
    for ours, theirs in (("is", "interdaily_stability"), ("iv", "intradaily_variability"), ("m10", "m10")):
        assert person[ours] == pytest.approx(float(published[theirs]))
    assert person["days"] == person["valid_days"] == 4 and person["nights"] == 5 and person["sri"] > 97
    assert person["sleep_onset_h"] == pytest.approx(23.5) and person["sleep_offset_h"] == pytest.approx(7.0)


def test_a_block_holds_together_and_a_nap_is_no_night():
    values = counts(3, start=np.datetime64("2026-03-02T00:00", "s"))
    values[26 * 60 : 26 * 60 + 12] = 400  # up for 12 minutes at two
    values[38 * 60 : 38 * 60 + 50] = 0  # a nap after lunch
    blocks = [tuple(block) for block in sleep_blocks(values.astype(np.float64))]
    assert (23 * 60 + 30, 31 * 60) in blocks and (38 * 60, 38 * 60 + 50) in blocks
    restless = sleep_blocks(counts(3, restless=24.0).astype(np.float64))  # no half hour of still minutes: bins of ten
    assert (np.diff(restless, axis=1) >= 7 * 60).sum() == 3
    assert (
        len(sleep_blocks(np.zeros(3000)))
        == len(sleep_blocks(np.full(3000, np.nan)))
        == len(sleep_blocks(np.zeros(0)))
        == 0
    )


def test_day_sleep_of_a_shift_worker():
    found = nights_of(recording(counts(5, bed_h=8.5, wake_h=15.0)))
    assert (found["status"] == "ok").sum() >= 4
    assert set(found["sleep_onset"].dropna().dt.strftime("%H:%M")) == {"08:30"}


@pytest.mark.parametrize("rule", scoring.RULES)
def test_rules_of_minutes_asleep(rule):
    values = counts(2, start=np.datetime64("2026-03-02T00:00", "s")).astype(np.float64)
    values[100] = np.nan
    asleep = scoring.RULES[rule](values)
    night, day = asleep[10 : 7 * 60 - 10], asleep[8 * 60 : 23 * 60]
    assert np.nanmean(night) > 0.95 and np.isnan(asleep[100]) and np.nanmean(day) < 0.1


def test_rules_are_as_published():
    values = np.zeros(40)
    values[20] = 100.0  # 0.001 * 230 * 1 < 1, and 100 > 40
    assert scoring.cole_kripke(values).all() and scoring.oakley(values)[20] == 0 and scoring.oakley(values)[19] == 1
    values[20] = 500.0
    awake = np.flatnonzero(scoring.cole_kripke(values) == 0)
    assert awake.tolist() == [20]  # 0.001 * 230 * 5; 0.53 of four minutes later
    values[20] = 2000.0
    assert np.flatnonzero(scoring.cole_kripke(values) == 0).tolist() == [18, 19, 20, 21, 22, 23, 24]
    one = 7.601 - 0.065 * (60 / 11) - 1.08 - 0.056 * np.std([60, 0, 0, 0, 0, 0], ddof=1) - 0.703 * np.log(61)
    values[20] = 60.0
    assert (scoring.sadeh(values)[20] == 1) == (one >= 0)


# --- wrong inputs, each with its word -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "person", "night"),
    [
        (counts(1.2), "IS: whole days worn 10 h or more: 0; SRI: no 24 hours known twice", "ok"),
        (counts(0.3), "sleep: no night that tells it", "only"),
        (np.zeros(3 * DAY_MIN, np.float32), "no movement at all", "sleep: no movement at all"),
        (np.full(3 * DAY_MIN, np.nan, np.float32), "whole days worn 10 h or more: 0", "sleep: not worn"),
    ],
    ids=["one night", "less than a day", "zeros", "never worn"],
)
def test_what_is_too_little_is_said(values, person, night):
    rhythm = told(recording(values))
    every_gap_has_a_word(rhythm)
    assert any(words in rhythm.person["status"] for words in (person, person.replace("IS:", "IS, IV, RA, L5, M10:")))
    assert any(night in row["status"] for row in rhythm.nights)


def test_a_night_that_is_cut_off_or_not_worn_has_no_sleep():
    values = counts(4, start=np.datetime64("2026-03-02T03:00", "s"))
    values[2 * DAY_MIN - 6 * 60 : 2 * DAY_MIN + 6 * 60] = np.nan  # taken off from 21 to 9 around the third night
    rhythm = told(recording(values, np.datetime64("2026-03-02T03:00", "s")))
    every_gap_has_a_word(rhythm)
    status = {str(row["night"]): row["status"] for row in rhythm.nights}
    assert status["2026-03-01"].startswith("sleep: the recording begins in it")
    assert status["2026-03-02"] == status["2026-03-04"] == "ok"
    assert status["2026-03-03"].startswith(("sleep: no 3 hours at rest", "sleep: worn"))
    assert status["2026-03-05"].startswith("sleep: the recording ends in it")


def test_a_monitor_that_is_off_at_night_knows_no_l5():
    values = counts(5, start=np.datetime64("2026-03-02T00:00", "s"))
    hour = np.arange(len(values)) / 60 % 24
    rhythm = told(
        recording(np.where(hour < 7, np.nan, values).astype(np.float32), np.datetime64("2026-03-02T00:00", "s"))
    )
    every_gap_has_a_word(rhythm)
    assert "RA, L5: hours of the day known on fewer than half" in rhythm.person["status"]
    assert rhythm.person["m10"] > 250 and rhythm.person["valid_days"] == 5


def test_summer_time_moves_the_clock_and_no_hour_is_counted_twice():
    """From 23:30 to 7:00 by the clock are six and a half hours where it is set forward, eight and a half set back."""
    for change, offsets, hours in (("2026-03-29T02:00", (60, 120), 6.5), ("2026-10-25T03:00", (120, 60), 8.5)):
        at = np.datetime64(change, "s")
        begins = at.astype("datetime64[D]").astype("datetime64[s]") - np.timedelta64(39, "h")
        before = counts((at - begins) / np.timedelta64(1, "D"), start=begins)
        after_clock = at + np.timedelta64(offsets[1] - offsets[0], "m")
        after = counts(2.2, start=after_clock)
        rhythm = told(recording(before, begins, offsets[0]), recording(after, after_clock, offsets[1], index=1))
        every_gap_has_a_word(rhythm)
        (night,) = [row for row in rhythm.nights if row["clock_change_min"]]
        assert night["clock_change_min"] == offsets[1] - offsets[0] and night["sleep_h"] == hours
        assert str(night["sleep_onset"])[11:] == "23:30" and str(night["sleep_offset"])[11:] == "07:00"


def test_what_is_no_activity_or_lies_over_itself_is_refused():
    flags = recording(np.ones(2 * DAY_MIN, np.float32), channel=WORN)
    with pytest.raises(ValueError, match="worn by the minute don't tell rest from activity"):
        Minutes.of([flags], [Path("wear.npz")])
    with pytest.raises(ValueError, match="two recordings at 2026-03-02T09:00 UTC"):
        Minutes.of([recording(counts(1)), recording(counts(1), index=1)], [])


# --- the verb, the function, the figure ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_awd(
        tmp_path_factory.mktemp("awd") / "anna.AWD", counts(3.5).astype(int), start=("02-Mar-2026", "09:00")
    )


@pytest.mark.slow
def test_the_verb_and_the_function_say_the_same(file, tmp_path):
    done = CliRunner().invoke(main, ["rhythm", str(file), "--json"], catch_exceptions=False)
    body = json.loads(done.stdout)
    (person,), nights = body["people"], body["nights"]
    table = rc.rhythm(file, by="night", quiet=True)
    assert person["subject"] == "example" and person["scoring"] == "oakley" and person["status"] == "ok"
    assert [night["night"] for night in nights] == list(table["night"].dt.strftime("%Y-%m-%d"))
    assert nights[1]["sleep_onset"] == "2026-03-02T23:30:00" and nights[1]["sleep_h"] == table["sleep_h"][1]
    assert rc.rhythm(file, quiet=True)["is"][0] == person["is"]
    shown = CliRunner().invoke(main, ["rhythm", str(file), "--scoring", "sadeh"], catch_exceptions=False).stdout
    assert "23:30" in shown and "minutes asleep by sadeh" in shown and "nan" not in shown.lower()
    with pytest.raises(ValueError, match="expected 'person' or 'night'"):
        rc.rhythm(file, by="day")


@pytest.mark.slow
def test_the_figure_shows_each_day_twice(tmp_path):
    rhythm = told(recording(counts(4)))
    (axis,) = actogram([rhythm]).axes
    image = axis.images[0].get_array()
    assert image.shape == (5, 576) and axis.get_xlim() == (0, 48)
    assert np.array_equal(image[1, 288:], image[2, :288]) and len(axis.collections) >= 8  # four windows, twice each
    with pytest.raises(ValueError, match=r"ends in \.png, \.svg, \.pdf"):
        write_figure([rhythm], tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="at most 20 people"):
        actogram([rhythm] * 21)


@pytest.mark.slow
def test_thirteen_real_nights_are_those_of_pyactigraphy(shared):
    """Sleep onset and offset as its Roenneberg_AoT (1.2.2) gives them on the same minutes, from 1918-01-31 on."""
    theirs = (
        "22:57-08:12 00:19-08:01 00:15-07:53 00:11-08:41 22:46-07:46 23:29-08:30 22:54-07:28 23:54-08:37 00:54-07:57 "
        "23:22-08:12 00:02-08:54 22:50-08:25 01:34-07:30"
    )
    (file,) = (shared.parent / "trouble" / "F01_wrist_sleep_as_nonwear").glob("*.AWD")
    nights = rc.rhythm(file, by="night", quiet=True).dropna(subset="sleep_onset")
    onset, offset = (nights[name].dt.strftime("%H:%M") for name in ("sleep_onset", "sleep_offset"))
    assert " ".join(onset + "-" + offset) == theirs


def test_hours_of_known_minutes_only():
    """A shower leaves the 24 hours of a night their M10; half a day off doesn't."""
    day = counts(1, start=np.datetime64("2026-03-02T12:00", "s")).astype(np.float64)[None]
    whole = rest_activity(day)
    day[0, 60:80] = np.nan
    assert np.isfinite(rest_activity(day, 0.8)["m10"]) and rest_activity(day, 0.8)["m10"] >= whole["m10"] * 0.97
    assert binned(day, 60).shape == (1, 24)
    day[0, 60:1100] = np.nan
    assert np.isnan(rest_activity(day, 0.8)["m10"])
