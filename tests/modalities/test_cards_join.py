"""What a card says of several files: events in files of their own, whose a file is, which rows, a table of people."""

import numpy as np
import pandas as pd
import pytest

from raycadian.modalities.cards import load_card
from raycadian.modalities.cgm.card import CGMCard
from raycadian.modalities.prepare import prepare
from raycadian.types import BASAL, BOLUS, CARBS, FIBRE, LONG_ACTING, PROTEIN

CGM_CARD = r"""
name: cohort
files: [glucose*.csv]
format: generic
subject_from: '(\d+)\.csv'
unit: mmol/L
time_format: '%d/%m/%Y %H:%M'
columns: {time: bg_ts, glucose: value}
events:
  - {files: [bolus*.csv], columns: {time: ts, bolus_u: dose}}
  - {files: [basal*.csv], columns: {time: ts, long_acting_u: dose}, keep_rows: {kind: L}}
  - {files: [basal*.csv], columns: {time: ts, basal_uph: dose}, keep_rows: {kind: [r]}}
  - {files: [meals*.csv], columns: {time: ts, carbs_g: carbs, protein_g: prot, fibre_g: fibre}}
people: {file: people.csv, subject: id, keep: [hba1c, group]}
"""


def cohort(folder):
    for person in ("007", "12"):
        times = pd.date_range("2024-03-01", periods=60, freq="5min").strftime("%d/%m/%Y %H:%M")
        glucose = pd.DataFrame({"bg_ts": times, "value": [7 + i % 9 / 10 + len(person) / 10 for i in range(60)]})
        glucose.to_csv(folder / f"glucose{person}.csv", index=False)
    (folder / "bolus007.csv").write_text("ts,dose\n01/03/2024 01:00,3\n")
    (folder / "basal007.csv").write_text("ts,dose,kind\n01/03/2024 00:30,12,L\n01/03/2024 02:00,0.8,R\n")
    (folder / "meals007.csv").write_text("ts,carbs,prot,fibre\n01/03/2024 01:00,45,20,\n01/03/2024 02:00,0,5,3\n")
    (folder / "people.csv").write_text("id;hba1c;group;note\n7;6,1;b;x\n12;5,4;;y\n99;5,0;a;z\n")
    (folder / "card.yaml").write_text(CGM_CARD)
    return folder / "card.yaml"


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    return prepare(cohort(folder), folder / "snapshots", on_ray=False)


def test_events_of_a_persons_other_files_are_channels(snapshot):
    assert snapshot.subjects == ["007", "12"]
    events = snapshot.events("007").sort_values(["time_utc", "kind"])
    expected = {(LONG_ACTING, 12), (BOLUS, 3), (CARBS, 45), (PROTEIN, 20), (BASAL, 0.8), (PROTEIN, 5), (FIBRE, 3)}
    assert set(zip(events["kind"], events["value"], strict=True)) == expected
    (recording,) = snapshot.recordings("007")
    assert recording.channels[CARBS][12] == 45 and recording.channels[LONG_ACTING][6] == 12
    assert np.isnan(recording.channels[BASAL][23]) and recording.channels[BASAL][24] == np.float32(0.8)
    assert not len(snapshot.events("12"))


def test_labels_come_from_the_table_of_people(snapshot):
    assert snapshot.attributes["007"] == [{"hba1c": 6.1, "group": "b"}]
    assert snapshot.attributes["12"] == [{"hba1c": 5.4, "group": None}]
    issues = snapshot.manifest["issues"]
    assert issues["person of the table of people without a recording"]["count"] == 1
    assert issues["row that keep_rows leaves out"]["count"] == 2


def test_other_labels_are_another_snapshot(snapshot):
    folder = snapshot.path.parents[1]
    (folder / "people.csv").write_text("id;hba1c;group\n7;6,5;b\n12;5,4;a\n")
    again = prepare(folder / "card.yaml", folder / "snapshots", on_ray=False)
    assert again.attributes["007"] == [{"hba1c": 6.5, "group": "b"}] and again.id != snapshot.id


def test_labels_of_a_cohort_of_devices(tmp_path):
    times = pd.date_range("2024-03-01", periods=2 * 1440, freq="1min").strftime("%Y-%m-%d %H:%M")
    table = pd.DataFrame({"time": times, "activity": np.arange(2880) % 50, "axis": "x"})
    both = pd.concat([table, table.assign(axis="y", activity=1000)])
    both.sort_values("time", kind="stable").to_csv(tmp_path / "P-01.csv", index=False)
    (tmp_path / "people.csv").write_text("who,sleepy,age\n1,yes,40\n")
    (tmp_path / "card.yaml").write_text(
        "name: d\nmodality: actigraphy\nfiles: ['P*.csv']\ncolumns: {time: time}\nkeep_rows: {axis: x}\n"
        "subject_from: 'P-(\\d+)'\npeople: {file: people.csv, subject: who}\n"
    )
    snapshot = prepare(tmp_path / "card.yaml", tmp_path / "s", on_ray=False)
    assert snapshot.subjects == ["01"] and snapshot.attributes["01"] == [{"sleepy": "yes", "age": 40}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"people": "{file: nobody.csv}"}, r"no table of people at .*nobody\.csv; correct people\.file"),
        ({"people": "{file: people.csv, subject: who}"}, r"people\.csv: no column 'who'; found 'id', 'hba1c'"),
        ({"subject_from": "'(x)'"}, r"glucose007\.csv: subject_from '\(x\)' finds no subject in its name"),
        ({"events": "[{files: [none*.csv], columns: {time: ts}}]"}, r"events: no file matches 'none\*\.csv'"),
    ],
)
def test_what_a_card_says_wrongly(tmp_path, change, message):
    card = cohort(tmp_path)
    text = card.read_text()
    for name, value in change.items():
        kept = [b for b in text.split("\n") if not b.startswith(f"{name}:") and not (name == "events" and "  - {" in b)]
        text = "\n".join(kept) + f"\n{name}: {value}\n"
    card.write_text(text)
    with pytest.raises(ValueError, match=message):
        prepare(card, tmp_path / "s", on_ray=False)


def test_a_pattern_needs_its_group_and_cards_of_before_say_what_they_said():
    for pattern, message in (("P\\d+", "has 0 groups"), ("(", "no regular expression")):
        with pytest.raises(ValueError, match=message):
            CGMCard(name="x", files=("x",), subject_from=pattern)
    stated = CGMCard(name="x", files=("x",)).stated()
    assert not {"people", "keep_rows", "events", "sheet"} & set(stated) and "protein_g" not in stated["columns"]
    assert load_card is not None


def test_one_recording_under_two_ids_is_leakage_in_every_modality(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("time_s,ECG\n" + "".join(f"{n / 125},{n % 99}\n" for n in range(9)))
        table = "".join(f"2024-03-0{1 + n // 1440} {n % 1440 // 60:02d}:{n % 60:02d},{n % 50}\n" for n in range(2880))
        (tmp_path / f"{name}.txt").write_text("time,activity\n" + table)
    cards = (
        "modality: actigraphy\nfiles: ['*.txt']\ncolumns: {time: time}",
        "modality: biosignals\nfiles: ['*.csv']\nwaveforms: {ecg_mv: [ECG]}",
    )
    for text in cards:
        (tmp_path / "card.yaml").write_text(f"name: x\n{text}\n")
        with pytest.raises(ValueError, match="'a' and 'b' share readings.*leakage.*same_readings"):
            prepare(tmp_path / "card.yaml", tmp_path / "s", on_ray=False)
    (tmp_path / "card.yaml").write_text(f"name: x\n{cards[0]}\nsame_readings: kept\n")
    assert prepare(tmp_path / "card.yaml", tmp_path / "s", on_ray=False).subjects == ["a", "b"]
