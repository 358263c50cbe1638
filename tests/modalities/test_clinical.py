"""The clinical table: types, bounds such as >89, subjects, and cohorts by a query that can do nothing but select."""

import numpy as np
import pytest

from raycadian.modalities.biosignals.clinical import (
    cohort,
    read_clinical,
    row_of,
    tracks_of_cases,
)
from raycadian.types import Issues

TEXT = """caseid,subjectid,age,sex,asa,optype,preop_cr
1,11,77,M,2,Stomach ,0.82
2,12,>89,F,,Breast,<0.1
3,11,54,M,3,"Biliary, Pancreas",1.1
4,13,61,F,1,Stomach,1.2
5,14,40,F,2,Stomach,0.9
6,15,45,M,2,Stomach,0.9
7,16,45,M,2,Stomach,0.9
8,17,45,M,2,Stomach,0.9
9,18,45,M,2,Stomach,0.9
10,19,45,M,2,Stomach,0.9
"""


def table(tmp_path, text: str = TEXT, issues: Issues | None = None):
    path = tmp_path / "clinical.csv"
    path.write_text(text, encoding="utf-8-sig")
    return read_clinical(path, Issues() if issues is None else issues)


def test_the_real_table(shared):
    issues = Issues()
    found = read_clinical(shared / "biosignals" / "vitaldb_clinical_data.csv", issues)
    assert (len(found), found["subjectid"].nunique()) == (6_388, 6_090)
    assert found["age_beyond"].sum() == 8 and (found.loc[found["age_beyond"], "age"] == 90).all()
    kinds = found.dtypes.map(lambda kind: kind.kind).value_counts().to_dict()
    assert kinds["O"] == 19 and found["subjectid"].dtype == np.int64 and found["asa"].dtype == np.float64
    assert {name: issue["count"] for name, issue in issues.as_dict().items()} == {
        "value beyond a bound (kept, age_beyond says where)": 8
    }
    adults = cohort(found, "18 <= age < 65 and asa in [1, 2] and emop == 0 and optype == 'Stomach'")
    raw = found[
        (found.age >= 18) & (found.age < 65) & found.asa.isin([1, 2]) & (found.emop == 0) & (found.optype == "Stomach")
    ]
    assert len(adults) == len(raw) > 100


def test_types_and_bounds(tmp_path):
    issues = Issues()
    found = table(tmp_path, issues=issues)
    assert found["age"].tolist()[:3] == [77, 90, 54] and found["age_beyond"].tolist()[:3] == [False, True, False]
    assert found["age"].dtype == np.int64
    assert found["preop_cr"].tolist()[:2] == [0.82, 0.1]  # the bound itself, where values are no whole numbers
    assert found["optype"].iloc[0] == "Stomach" and np.isnan(found["asa"].iloc[1])
    assert sum(issues.counts.values()) == 2
    assert row_of(found, "0003") == {
        "caseid": 3, "subjectid": 11, "age": 54, "age_beyond": False, "sex": "M", "asa": 3.0,
        "optype": "Biliary, Pancreas", "preop_cr": 1.1, "preop_cr_beyond": False,
    }  # fmt: skip
    assert "asa" not in row_of(found, "2")


def test_a_case_without_a_subject_is_counted(tmp_path):
    issues = Issues()
    found = table(tmp_path, TEXT.replace("4,13,", "4,,"), issues)
    assert "4" not in found.index and issues.counts["case without a subject (left out)"] == 1


@pytest.mark.parametrize(
    "text, said",
    [
        (TEXT.replace("2,12,", "1,12,"), "case 1 stands there more than once"),
        (TEXT.replace("subjectid", "who"), "no column subjectid"),
        (TEXT.replace("sex", "age"), "several columns are called"),
        (TEXT + "11,20,45,M,2,Stomach,0.9,7,8\n", "9 fields below 7 columns"),
        ("", "empty"),
    ],
)
def test_a_table_that_is_wrong(tmp_path, text, said):
    with pytest.raises(ValueError, match=said):
        table(tmp_path, text)


def test_an_unknown_case_names_the_table(tmp_path):
    with pytest.raises(ValueError, match="'99' is not among the 10"):
        row_of(table(tmp_path), "99")


@pytest.mark.parametrize(
    "query, cases",
    [
        ("age >= 60 and sex == 'M'", ["1"]),
        ("age >= 90 or asa == 3", ["2", "3"]),
        ("optype in ['Breast', 'Biliary, Pancreas']", ["2", "3"]),
        ("not (optype == 'Stomach')", ["2", "3"]),
        ("age / 2 + 10 > 50", ["2"]),
        ("optype not in ['Stomach'] and caseid != 2", ["3"]),
    ],
)
def test_a_query_selects(tmp_path, query, cases):
    assert cohort(table(tmp_path), query).index.tolist() == cases


@pytest.mark.parametrize(
    "query, said",
    [
        ("aeg > 3", "no column 'aeg'; the table has caseid, subjectid, age"),
        ("age > '3'", "age holds numbers; found '3'"),
        ("sex == 1", "sex holds text, such as 'M', 'F'; found 1"),
        ("age", "expected a condition"),
        ("age > ", "not a condition"),
        ("age > @limit", "not a condition"),
        ("age.map(print)", "a call is not allowed"),
        ("__import__('os').system('true')", "is not allowed"),
        ("sex.str.len() > 0", "is not allowed"),
        ("age ** 99 > 1", "a power is not allowed"),
        ("'a' * 99999999 == sex", "arithmetic with text"),
        ("[x for x in age]", "is not allowed"),
        ("(lambda: 1)()", "is not allowed"),
        ("age > 200", "no case of 10"),
        ("age > 3 " + "and age > 3 " * 500, "characters, at most"),
    ],
)
def test_a_query_can_do_nothing_else(tmp_path, query, said):
    with pytest.raises(ValueError, match=said):
        cohort(table(tmp_path), query)


def test_a_cohort_by_available_tracks(tmp_path):
    import pandas as pd

    trks = pd.DataFrame({"caseid": [1, 1, 3, 4], "tname": ["SNUADC/ART", "SNUADC/ECG_II", "SNUADC/ART", "CardioQ/ABP"]})
    available = tracks_of_cases(trks)
    found = table(tmp_path)
    assert cohort(found, "age > 50", ["SNUADC/ART"], available).index.tolist() == ["1", "3"]
    assert cohort(found, None, ["ART", "ECG_II"], available).index.tolist() == ["1"]
    assert cohort(found, None, [("SNUADC/ART", "CardioQ/ABP")], available).index.tolist() == ["1", "3", "4"]
    with pytest.raises(ValueError, match="no case of 10"):
        cohort(found, None, ["BIS/BIS"], available)
    with pytest.raises(ValueError, match="available"):
        cohort(found, None, ["BIS/BIS"])
