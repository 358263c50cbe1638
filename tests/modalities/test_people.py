"""Who a reading is of: one person under several ids, several under one, nobody; and what is said of it leads on."""

import re
import shlex

import numpy as np
import pandas as pd
import pytest

from raycadian.modalities.conflicts import ALIKE, alike
from raycadian.quickstart import CardOptions, prepare, sources_of


def table(**columns):
    """Half a day of somebody's readings."""
    time = pd.date_range("2024-01-25", periods=144, freq="5min")
    level = sum(map(ord, "".join(columns.values())))
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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_patients_number_of_several_sites_is_joined_as_advised(layout, tmp_path):
    """No column told them apart, and nothing was said of two that do."""
    frame = pd.concat(table(site=site, patient_id=patient) for site in "AB" for patient in "12")
    path = tmp_path / f"it's.{'csv' if LAYOUTS[layout] is not None else 'parquet'}"
    if LAYOUTS[layout] is None:
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, **LAYOUTS[layout])
    with pytest.raises(ValueError, match="'patient_id' says whose .* only together with 'site'") as error:
        follow(path, tmp_path)
    command, setting = re.search(r"`(.+)`, then prepare that file, with --set (\S+)", str(error.value)).groups()
    exec(shlex.split(command)[2], {})  # python -c, in this process
    joined = follow(tmp_path / "it's-joined.csv", tmp_path, setting)
    assert joined.subjects == ["A-1", "A-2", "B-1", "B-2"]
