"""Files that read well and mean something else: several people in one, two units in one, a name that lies, times that
are numbers. Each is refused, and what its message says, done literally, leads on."""

import re
import shlex

import numpy as np
import pandas as pd
import pytest
from helpers import day_curve

from raycadian.modalities.detect import make_card
from raycadian.modalities.prepare import prepare_card
from raycadian.types import MGDL_PER_MMOLL

TIMES = np.datetime64("2026-01-05") + np.arange(576) * np.timedelta64(300, "s")
MGDL = day_curve(2).round(1)
MMOLL = (MGDL / MGDL_PER_MMOLL).round(1)


def snapshot(folder, *paths, **named):
    """Of data files, as `raycadian prepare` makes it; `options`: what is said on the command line."""
    words = shlex.split(named.get("options", ""))
    settings = [value for option, value in zip(words[::2], words[1::2], strict=True) if option == "--set"]
    named = {o[2:]: v for o, v in zip(words[::2], words[1::2], strict=True) if o not in ("--set", "--modality")}
    modality = dict(zip(words[::2], words[1::2], strict=True)).get("--modality")
    overrides = (*(f"{name}={value}" for name, value in named.items()), *settings)
    card, _ = make_card(paths, modality=modality, overrides=overrides)
    return prepare_card(card, folder, folder / "snapshots")


def advice(error) -> str:
    """The options that a message says to add: the first of them."""
    return re.search(r"add (--\w+ (?:'[^']*'|\S+))", str(error.value))[1].rstrip(",.;")


def people(columns, order):
    """Three people's readings, each with values of their own at the same times."""
    frames = [pd.DataFrame({"time": TIMES, "Teilnehmer": f"T{i}", "device": "G6"} | columns(i)) for i in range(3)]
    return pd.concat(frames).sort_values(order, kind="stable")


@pytest.mark.parametrize("order", ["Teilnehmer", "time"])
def test_people_under_an_unknown_column_are_refused_and_the_column_is_named(tmp_path, order):
    path = tmp_path / "study.csv"
    people(lambda i: {"glucose_mgdl": MGDL + 5 * i, "heart_rate": 60 + np.arange(576) % 40}, order).to_csv(
        path, index=False
    )
    with pytest.raises(ValueError, match=r"study\.csv: 1,152 of 1,728 readings of 'study' .* several people") as error:
        snapshot(tmp_path, path)
    assert advice(error) == "--set columns.subject=Teilnehmer" and "heart_rate" not in str(error.value)
    assert snapshot(tmp_path, path, options=advice(error)).subjects == ["T0", "T1", "T2"]


def test_people_in_a_table_of_activity_too(tmp_path):
    path, counts = tmp_path / "wrists.csv", np.arange(576) % 400
    minutes = np.datetime64("2026-01-05") + np.arange(576 * 6) * np.timedelta64(60, "s")
    frames = [
        pd.DataFrame({"time": minutes, "Teilnehmer": f"T{i}", "activity": np.tile(counts, 6) + i}) for i in range(3)
    ]
    pd.concat(frames).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"wrists\.csv: 6,912 of 10,368 readings .* several people") as error:
        snapshot(tmp_path, path, options="--timezone UTC")
    assert snapshot(tmp_path, path, options=f"--timezone UTC {advice(error)}").subjects == ["T0", "T1", "T2"]


def test_people_that_no_column_tells_apart_are_refused_too(tmp_path):
    path = tmp_path / "study.csv"
    people(lambda i: {"glucose_mgdl": MGDL + 5 * i}, "time").drop(columns="Teilnehmer").to_csv(path, index=False)
    with pytest.raises(ValueError, match="no column tells them apart: make a file of each person"):
        snapshot(tmp_path, path)


def test_a_unit_that_changes_within_a_file_is_refused_with_where_it_does(tmp_path):
    path = tmp_path / "mixed.csv"
    half = np.where(np.arange(576) < 288, MGDL, MMOLL)
    pd.DataFrame({"time": TIMES, "glucose": half}).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"mixed\.csv: 288 of 576 readings are outside 20-600 mg/dL") as error:
        snapshot(tmp_path, path)
    assert "from mixed.csv:290 (2026-01-06T00:00) to mixed.csv:577 (2026-01-06T23:55)" in str(error.value)
    assert "make a file of each unit" in str(error.value)
    parts = [tmp_path / "first.csv", tmp_path / "second.csv"]
    for part, rows in zip(parts, (slice(288), slice(288, None)), strict=True):
        pd.DataFrame({"time": TIMES[rows], "glucose": half[rows]}).to_csv(part, index=False)
    prepared = snapshot(tmp_path, *parts, options="--subject ann")
    assert prepared.manifest["counts"]["readings"] == 576 and prepared.quality["ann"]["min_mgdl"] > 50


def test_a_few_impossible_readings_are_counted(tmp_path):
    path = tmp_path / "few.csv"
    pd.DataFrame({"time": TIMES, "glucose": np.where(np.arange(576) % 40 == 3, 5.0, MGDL)}).to_csv(path, index=False)
    assert snapshot(tmp_path, path).manifest["issues"]["glucose outside 20-600 mg/dL (set missing)"]["count"] == 15


def test_a_column_whose_name_lies_gives_way_to_what_is_said_and_the_values_decide(tmp_path):
    path = tmp_path / "lying.csv"
    pd.DataFrame({"time": TIMES, "glucose_mgdl": MMOLL}).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"'glucose_mgdl' says mg/dL, but its values have a median of 6\.") as error:
        snapshot(tmp_path, path)
    manifest = snapshot(tmp_path, path, options=advice(error)).manifest
    assert manifest["counts"]["readings"] == 576
    assert "unit of the card (mmol/L) in place of the column's name (mg/dL)" in manifest["issues"]
    pd.DataFrame({"time": TIMES, "glucose_mgdl": MGDL}).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"the card says mmol/L, .* plainly mg/dL; add --unit mg/dL"):
        snapshot(tmp_path, path, options="--unit mmol/L")


@pytest.mark.parametrize("per_s", [1, 1000])
def test_times_that_count_from_1970(tmp_path, per_s):
    path = tmp_path / "sgv.csv"
    epoch = TIMES.astype("datetime64[s]").astype(np.int64)
    pd.DataFrame({"timestamp": epoch * per_s, "sgv": MGDL}).iloc[::3].to_csv(path, index=False)
    with pytest.raises(ValueError, match="times are in UTC and the local time zone is not stated") as error:
        snapshot(tmp_path, path)
    assert advice(error) == "--timezone Europe/Madrid"
    prepared = snapshot(tmp_path, path, options=advice(error))
    (recording,) = prepared.recordings("sgv")
    assert (str(recording.start_utc)[:16], recording.utc_offset_min) == ("2026-01-05T00:00", 60)
    assert prepared.manifest["card"]["grid"]["dt_min"] == 15


def test_days_as_a_workbook_counts_them_are_times(tmp_path):
    pd.DataFrame({"timestamp": 45_000 + np.arange(576) / 288, "sgv": MGDL}).to_csv(tmp_path / "x.csv", index=False)
    (recording,) = snapshot(tmp_path, tmp_path / "x.csv").recordings("x")
    assert str(recording.start_utc)[:16] == "2023-03-15T00:00" and len(recording) == 576


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"timestamp": 45_000 + np.arange(576) * 5}, r"'timestamp' holds numbers such as 45000, .* write them as"),
        ({"time": [str(t)[11:16] for t in TIMES]}, "times such as '00:00' have no date: write both in one column"),
    ],
)
def test_times_that_are_none_say_what_to_write(tmp_path, table, message):
    path = tmp_path / "x.csv"
    pd.DataFrame(table | {"sgv": MGDL}).to_csv(path, index=False)
    with pytest.raises(ValueError, match=message):
        snapshot(tmp_path, path)
    when = [f"{t}".replace("T", " ")[:16] for t in TIMES]  # as the message writes it
    pd.DataFrame({"time": when, "sgv": MGDL}).to_csv(path, index=False)
    assert snapshot(tmp_path, path).manifest["counts"]["readings"] == 576


def test_an_empty_file_says_so_alone(tmp_path):
    (tmp_path / "x.csv").touch()
    with pytest.raises(ValueError, match=r"x\.csv: the file is empty; export it again$"):
        snapshot(tmp_path, tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("rows", "message"),
    [([], "no row below its header"), (["Low"] * 300, "all 300 readings are beyond what the sensor measures")],
)
def test_a_file_without_a_measured_value_says_so(tmp_path, rows, message):
    path = tmp_path / "x.csv"
    pd.DataFrame({"time": TIMES[: len(rows)], "glucose_mgdl": rows}).to_csv(path, index=False)
    with pytest.raises(ValueError, match=message):
        snapshot(tmp_path, path)


def test_a_short_file_says_how_short_ones_are_kept(tmp_path):
    path = tmp_path / "x.csv"
    pd.DataFrame({"time": TIMES[:20], "glucose_mgdl": MGDL[:20]}).to_csv(path, index=False)
    with pytest.raises(ValueError, match="found 1 subjects with 20 readings") as error:
        snapshot(tmp_path, path)
    assert snapshot(tmp_path, path, options=advice(error)).manifest["counts"]["points"] == 20


def test_a_date_and_a_clock_apart_are_joined(tmp_path):
    table = {"date": TIMES.astype("datetime64[D]"), "time": [str(t)[11:16] for t in TIMES], "sgv": MGDL}
    pd.DataFrame(table).to_csv(tmp_path / "x.csv", index=False)
    prepared = snapshot(tmp_path, tmp_path / "x.csv")
    assert prepared.manifest["counts"]["readings"] == 576 and prepared.manifest["card"]["columns"]["date"] == "date"
    assert prepared.recordings("x")[0].start_utc == TIMES[0].astype("datetime64[s]")
