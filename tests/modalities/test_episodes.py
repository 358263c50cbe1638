"""Sleep episodes from tables, Apple Health and activity, and `raycadian indices`: what is read, and what is wrong."""

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from test_apple_health import HEAD, sleep

from raycadian.cli.main import main
from raycadian.modalities.actigraphy.episodes import card_of, read_episodes
from raycadian.physiology.rhythms.sleep import COLUMNS
from raycadian.types import Issues

HEADER = "sleep_start,sleep_end,time_in_bed,minutes_sleep,minutes_awake\n"
NIGHTS = "".join(f"2024-01-0{d} 23:30,2024-01-0{d + 1} 07:3{d},48{d},440,4{d}\n" for d in range(1, 6))


def indices(*arguments):
    done = CliRunner().invoke(main, ["indices", *map(str, arguments)])
    return done.exit_code, done.output


def check(table, days):
    assert list(table.columns) == ["date", *COLUMNS] and len(table) == days
    assert np.isfinite(table[list(COLUMNS)].to_numpy(float)).all()
    total = table["ST_long_MN"] + table["WT_long_MN"]
    np.testing.assert_allclose(table["LongSleepWindow_length_MN"], total, atol=1e-8)


def written(folder, text, name="nights.csv"):
    (folder / name).write_text(text)
    return folder / name


def activity(folder, days=6):
    """A table of active minutes from 7 h to 23 h, and next to none at night."""
    time = pd.date_range("2024-03-04", periods=days * 1440, freq="min")
    rng = np.random.default_rng(0)
    awake = (time.hour >= 7) & (time.hour < 23)
    counts = np.where(awake, rng.gamma(2, 150, len(time)), rng.poisson(1, len(time))).round(1)
    pd.DataFrame({"time": time, "activity": counts}).to_csv(folder / "watch.csv", index=False)
    return folder / "watch.csv"


# --- the three sources ----------------------------------------------------------------------------------------------


def test_mood_ml_example(shared, tmp_path):
    """Its 131 episodes give the columns of test.csv."""
    folder = shared / "nhanes" / "mood_ml"
    code, said = indices(folder / "example.csv", "--out", tmp_path / "made.csv")
    assert code == 0 and said.endswith("made.csv: 109 days from 131 sleep episodes\n")
    found = pd.read_csv(tmp_path / "made.csv")
    check(found, 109)
    assert list(found.columns) == list(pd.read_csv(folder / "test.csv", nrows=1).columns)


def test_a_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = indices(written(tmp_path, HEADER + NIGHTS))
    assert (code, said) == (0, "indices.csv: 5 days from 5 sleep episodes\n")
    found = pd.read_csv("indices.csv")
    check(found, 5)
    assert found["date"].tolist() == [f"2024-01-0{d}" for d in range(2, 7)]
    assert found["ST_long_MN"].to_numpy() == pytest.approx(440 / 60)


def test_any_delimiter_and_order(tmp_path):
    rows = [line.split(",") for line in (HEADER + NIGHTS).splitlines()]
    turned = "\n".join(";".join(reversed(row)) for row in [rows[0], *reversed(rows[1:])])
    found, plain = (read_episodes(written(tmp_path, text), None, Issues()) for text in (turned, HEADER + NIGHTS))
    assert np.array_equal(found.start, plain.start) and np.array_equal(found.asleep_h, plain.asleep_h)


def test_apple_health(tmp_path):
    records = "".join(sleep("AsleepCore", f"0{d} 22:{d}0:00", f"0{d + 1} 06:00:00") for d in range(1, 5))
    path = written(tmp_path, HEAD + records + "</HealthData>\n", "export.xml")
    code, said = indices(path, "--json")
    body = json.loads(said)
    assert code == 0 and (body["episodes"], body["days"], body["issues"]) == (4, 4, {})
    check(pd.DataFrame(body["indices"]), 4)
    assert not list(tmp_path.glob("*.csv"))
    card = written(tmp_path, "{name: x, modality: actigraphy, files: [x], timezone: Asia/Tokyo}", "card.yaml")
    code, said = indices(path, "--card", card, "--out", tmp_path / "x.csv", "--json")
    assert pd.read_csv(tmp_path / "x.csv")["date"].tolist() == [row["date"] for row in json.loads(said)["indices"]]
    first = read_episodes(path, None, Issues()).start[0]
    assert read_episodes(path, card_of(card), Issues()).start[0] - first == np.timedelta64(7, "h")


def test_activity(tmp_path):
    code, said = indices(activity(tmp_path), "--json")
    found = pd.DataFrame(json.loads(said)["indices"])
    assert code == 0
    check(found, 7)  # the last night ends with the recording, at midnight
    assert found["ST_long_MN"][0] + found["ST_short_MN"][0] == pytest.approx(48 / 7, abs=0.3)


# --- what is wrong --------------------------------------------------------------------------------------------------


def test_bad_rows_are_counted(tmp_path):
    bad = [
        "2024-02-01 23:30,,480,440,40",
        "2024-02-03 23:30,2024-02-03 07:30,480,440,40",
        "2024-02-05 23:30,2024-02-06 07:30,480,many,40",
        "2024-02-07 23:30,2024-02-08 07:30,480,540,0",
    ]
    code, said = indices(written(tmp_path, HEADER + NIGHTS + "\n".join(bad)), "--out", tmp_path / "x.csv")
    assert code == 0 and said.splitlines()[:2] == [
        "  row not understood (left out): 2", "  sleep episode that can't be (left out): 2",
    ]  # fmt: skip
    check(pd.read_csv(tmp_path / "x.csv"), 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER, "no sleep episode in it that can be used"),
        (HEADER + "2024-01-01 23:30,2024-01-02 07:30,480,440,40\n", "1 day with sleep: means and deviations need two"),
        ("sleep_start,end\n2024-01-01 23:30,x\n", "no column sleep_end, minutes_sleep; found sleep_start, end"),
        (HEADER + NIGHTS + "2024-01-02 05:00,2024-01-02 09:00,240,230,10\n", "begins before the one from"),
        ("a,b\n1,2\n", "no column 'activity'"),
        ("time,worn\n2024-01-01 00:00,1\n", "no column 'activity'"),
    ],
)
def test_tables_that_can_t_be(tmp_path, text, message):
    code, said = indices(written(tmp_path, text), "--out", tmp_path / "x.csv")
    assert code == 2 and said.startswith("raycadian: ") and message in said
    assert not (tmp_path / "x.csv").exists()


def test_files_that_tell_no_sleep(tmp_path):
    flags = np.ones((3, 1440), np.uint8)
    np.savez(tmp_path / "wear.npz", SEQN=np.full(3, 1), WEEKDAY=np.array([1, 2, 3]), wear=flags)
    code, said = indices(tmp_path / "wear.npz")
    assert code == 2 and "worn by the minute doesn't tell sleep; give activity" in said
    code, said = indices(tmp_path / "absent.csv")
    assert code == 2 and "no such file" in said
    card = written(tmp_path, "{name: x, files: [x.csv]}", "card.yaml")
    code, said = indices(activity(tmp_path), "--card", card)
    assert code == 2 and "expected a card of `modality: actigraphy`, found cgm" in said
