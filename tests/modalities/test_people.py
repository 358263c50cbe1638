"""Who a reading is of: one person under several ids, several under one, nobody; and what is said of it leads on."""

import re
import shlex

import numpy as np
import pandas as pd
import pytest

from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.actigraphy.readers import read_activity
from raycadian.modalities.conflicts import ALIKE, UNNAMED, alike
from raycadian.quickstart import CardOptions, prepare, sources_of
from raycadian.types import Issues


def table(**columns):
    """Half a day of somebody's readings."""
    time = pd.date_range("2024-01-25", periods=144, freq="5min")
    level = sum(n * ord(letter) for n, letter in enumerate("".join(columns.values()), 1))
    glucose = (120 + 30 * np.sin(np.arange(144) / 20 + level)).round(1)
    return pd.DataFrame({**columns, "time": time, "glucose": glucose})


def read(frame, tmp_path, *settings, name="mine.csv", **options):
    frame.to_csv(tmp_path / name, **options)
    return follow(tmp_path / name, tmp_path, *settings)


def follow(path, tmp_path, *settings):
    return prepare(sources_of([path]), CardOptions(settings=settings), tmp_path / "snapshots").snapshot


SAME = [["P01", "p01", "P1", "p-1", "P 001"], ["7", "007"], ["Zoë_3", "zoë.03"]]
OTHERS = ["P10", "P2", "1.0", "10", "A1-2", "A12", "Q", "0", "00A", "x0"]


def test_ids_that_are_nearly_the_same_are_grouped():
    assert sorted(alike([*OTHERS, *(id for ids in SAME for id in ids)])) == sorted(SAME)


def test_ids_that_may_be_one_person_are_counted(tmp_path, caplog):
    """They went into training and test in silence."""
    frame = pd.concat(table(subject=name) for name in ("P01", "p01 ", "P1", "P2"))
    issue = read(frame, tmp_path, index=False).manifest["issues"][ALIKE]
    assert issue["count"] == 2 and issue["examples"] == ["P01, P1, p01"]
    assert f"{ALIKE}: P01, P1, p01" in caplog.text


@pytest.mark.slow
def test_rows_of_nobody_are_counted_and_a_table_of_nobody_is_refused(tmp_path):
    frame = pd.concat([table(subject="a"), table(subject="")])
    assert read(frame, tmp_path, index=False).manifest["issues"]["row without a subject"]["count"] == 144
    nobody = table(subject="", patient="b")
    with pytest.raises(ValueError, match="none of 144 rows says whose it is: 'subject' is empty") as error:
        read(nobody, tmp_path, "columns.subject=subject", index=False)
    (setting,) = re.findall(r"--set (columns\S+)", str(error.value))
    assert read(nobody, tmp_path, setting.replace("NAME", "patient"), index=False).subjects == ["b"]
    assert read(nobody[["time", "glucose"]], tmp_path, index=False).subjects == ["mine"]  # the column is out


LAYOUTS = {"comma": {}, "German": {"sep": ";", "encoding": "utf-16"}, "parquet": None}


def test_rows_of_nobody_in_a_table_of_activity_too(tmp_path):
    """One such row refused the table, without saying what to do."""
    path, issues = tmp_path / "mine.csv", Issues()
    card = ActigraphyCard(name="x", files=("mine.csv",), columns={"subject": "who", "activity": "n", "minute": "at"})
    frame = pd.DataFrame({"who": ["a", "a", " ", ""], "n": 1, "at": [1, 2, 1, 2]})
    frame.to_csv(path, index=False)
    assert {r.subject for r in read_activity([path], card, issues)} == {"a"} and issues.counts[UNNAMED] == 2
    frame.assign(who="").to_csv(path, index=False)
    with pytest.raises(ValueError, match="none of 4 rows says whose it is: 'who' is empty; take that column out"):
        list(read_activity([path], card, issues))


def of_sites(site_column, days_apart=0):
    """Patients 1 and 2 of two sites, at the same time or one site after the other."""
    tables = [table(**{site_column: site, "patient_id": patient}) for site in "AB" for patient in "12"]
    apart = pd.to_timedelta([0, 0, days_apart, days_apart], unit="D")
    return pd.concat(one.assign(time=one.time + later) for one, later in zip(tables, apart, strict=True))


def follow_join(message, path, tmp_path):
    """Run the command that a message names, in this process, and prepare what it says."""
    command, setting = re.search(r"`(.+)`, then prepare that file, with --set (columns\.subject=\w+)", message).groups()
    exec(shlex.split(command)[2], {})  # of python -c
    return follow(path.with_name(f"{path.stem}-joined.csv"), tmp_path, setting).subjects


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_patients_number_that_repeats_is_joined_as_advised(layout, tmp_path):
    """No column told them apart, and nothing was said of two that do."""
    path = tmp_path / f"it's.{'csv' if LAYOUTS[layout] is not None else 'parquet'}"
    frame = of_sites("arm")
    frame.to_parquet(path) if LAYOUTS[layout] is None else frame.to_csv(path, index=False, **LAYOUTS[layout])
    with pytest.raises(ValueError, match="'patient_id' says whose .* only together with 'arm'") as error:
        follow(path, tmp_path)
    assert follow_join(str(error.value), path, tmp_path) == ["A-1", "A-2", "B-1", "B-2"]


@pytest.mark.slow
def test_patients_of_several_sites_are_asked_about_though_their_times_differ(tmp_path):
    """Two people were one, without a word."""
    path = tmp_path / "mine.csv"
    of_sites("Site ID", days_apart=40).to_csv(path, index=False)
    with pytest.raises(ValueError, match="2 of 2 ids in 'patient_id' occur under several values of 'Site ID'") as error:
        follow(path, tmp_path)
    assert follow_join(str(error.value), path, tmp_path) == ["A-1", "A-2", "B-1", "B-2"]
    (setting,) = re.findall(r"one person everywhere, add --set (\S+)", str(error.value))
    assert follow(path, tmp_path, setting).subjects == ["1", "2"]
    alone = of_sites("site").assign(patient_id=lambda f: f.site + f.patient_id)
    assert read(alone, tmp_path, index=False).subjects == ["A1", "A2", "B1", "B2"]
