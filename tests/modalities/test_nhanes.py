"""Labels from questionnaires and prescriptions, survey weights, and cohorts counted step by step."""

import numpy as np
import pandas as pd
import pytest

from raycadian.modalities.actigraphy import nhanes
from raycadian.modalities.actigraphy.formats.xpt import Xpt

pyreadstat = pytest.importorskip("pyreadstat")

DRUGS = pd.DataFrame(
    [
        ["d00236", "FLUOXETINE", "PSYCHOTHERAPEUTIC AGENTS", "SSRI ANTIDEPRESSANTS"],
        ["d04917", "FLUOXETINE; OLANZAPINE", "PSYCHOTHERAPEUTIC AGENTS", ""],
        ["d00149", "LORAZEPAM", "CENTRAL NERVOUS SYSTEM AGENTS", "BENZODIAZEPINE ANTICONVULSANTS"],
        ["h00001", "NEWAZEPAM", "CENTRAL NERVOUS SYSTEM AGENTS", "BENZODIAZEPINES"],
        ["d03492", "CHLORDIAZEPOXIDE; CLIDINIUM", "GASTROINTESTINAL AGENTS", "ANTICHOLINERGICS/ANTISPASMODICS"],
        ["d00004", "ATENOLOL", "CARDIOVASCULAR AGENTS", "BETA BLOCKERS, CARDIOSELECTIVE"],
    ],
    columns=["RXDDRGID", "RXDDRUG", "RXDDCN1A", "RXDDCN1C"],
)


def write(folder, name, table):
    path = folder / f"{name}.XPT"
    pyreadstat.write_xport(table, str(path), table_name=name, file_format_version=5)
    return path


def demo(seqn, cycle=4.0, **columns):
    n = len(seqn)
    table = {"SEQN": np.array(seqn, float), "SDDSRVYR": cycle, "RIDAGEYR": 40.0, "RIAGENDR": 2.0, "WTMEC2YR": 1000.0}
    return pd.DataFrame({**table, "SDMVPSU": 1.0, "SDMVSTRA": 44.0, **columns}, index=range(n))


def dpq(answers):
    """SEQN -> nine answers."""
    table = pd.DataFrame(list(answers.values()), columns=list(nhanes.PHQ9_ITEMS), dtype=float)
    return table.assign(SEQN=np.array(list(answers), float))


def prescriptions(rows):
    return pd.DataFrame(rows, columns=["SEQN", "RXDUSE", "RXDDRGID"]).astype({"SEQN": float, "RXDUSE": float})


# --- PHQ-9 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "most_missing", "total", "depressed"),
    [
        ([0] * 9, 0, 0, 0),
        ([1] * 9, 0, 9, 0),
        ([3, 3, 3, 1, 0, 0, 0, 0, 0], 0, 10, 1),
        ([7, 1, 1, 1, 1, 1, 1, 1, 1], 0, np.nan, np.nan),  # refused: not 15
        ([9] * 9, 8, np.nan, np.nan),  # nothing known: missing, not 0
        ([np.nan] * 9, 8, np.nan, np.nan),
        ([9, 2, 2, 2, 2, 1, 1, 1, 1], 1, 14, 1),  # 12 over 8 items: 13.5 over 9
        ([9, 7, 2, 2, 2, 2, 1, 1, 1], 1, np.nan, np.nan),
        ([np.nan, 9, 1, 1, 1, 1, 1, 1, 1], 2, 9, 0),
    ],
)
def test_phq9(answers, most_missing, total, depressed):
    found = nhanes.phq9(dpq({1: answers}).set_index("SEQN"), most_missing).iloc[0]
    np.testing.assert_equal([found["phq9"], found["depressed"]], [total, depressed])


def test_impossible_answer():
    with pytest.raises(ValueError, match=r"SEQN 2.0: DPQ030 is 4; expected 0 to 3, 7 or 9"):
        nhanes.phq9(dpq({1: [0] * 9, 2: [0, 0, 4, 0, 0, 0, 0, 0, 0]}).set_index("SEQN"))
    with pytest.raises(ValueError, match="most_missing: expected 0 to 8"):
        nhanes.phq9(dpq({1: [0] * 9}), 9)


# --- drugs ----------------------------------------------------------------------------------------------------------


def test_drugs_by_ingredient_and_by_class():
    rows = [
        (1, 1, "d00236"), (1, 1, "d00004"), (2, 1, "d04917"), (3, 1, "d00149"), (4, 1, "h00001"), (5, 1, "d03492"),
        (6, 2, ""), (7, 7, ""), (8, 1, "99999"), (9, 1, "99999"), (9, 1, "d00236"),
    ]  # fmt: skip
    found = nhanes.drug_use(prescriptions(rows), DRUGS)
    assert list(found.index) == [str(i) for i in range(1, 10)]
    np.testing.assert_equal(found["ssri"].tolist(), [1, 1, 0, 0, 0, 0, np.nan, np.nan, 1])
    np.testing.assert_equal(found["benzodiazepine"].tolist(), [0, 0, 1, 1, 0, 0, np.nan, np.nan, np.nan])
    assert found["ssri_by_name"].sum() == 3 and found["ssri_by_class"].sum() == 2  # the combination has no class
    assert found["benzodiazepine_by_name"].sum() == 1 and found["benzodiazepine_by_class"].sum() == 2


# --- people ---------------------------------------------------------------------------------------------------------


def test_people_of_two_cycles(tmp_path):
    paths = [
        write(tmp_path, "DEMO_D", demo([31127, 31128])),
        write(tmp_path, "DEMO_E", demo([41475], cycle=5.0, RIAGENDR=1.0)),
        write(tmp_path, "DPQ_D", dpq({31127: [1] * 9})),
        write(tmp_path, "SLQ_E", pd.DataFrame({"SEQN": [41475.0], "SLQ050": [9.0], "SLQ060": [1.0]})),
        write(tmp_path, "RXQ_RX_D", prescriptions([(31127, 1, "d00236"), (31128, 2, "")])),
        write(tmp_path, "RXQ_DRUG", DRUGS),
    ]
    table = nhanes.people(paths)
    assert list(table.index) == ["31127", "31128", "41475"]
    assert list(table["cycle"]) == ["D", "D", "E"]
    assert list(table["weight"]) == [500.0] * 3  # two cycles pooled
    assert list(table["female"]) == [1, 1, 0]
    np.testing.assert_equal(table["phq9"].tolist(), [9, np.nan, np.nan])
    np.testing.assert_equal(table["ssri"].tolist(), [1, 0, np.nan])
    np.testing.assert_equal(table["sleep_disorder"].tolist(), [np.nan, np.nan, 1])
    assert table["sleep_trouble"].isna().all()  # don't know


def test_files_that_don_t_do(tmp_path):
    one = write(tmp_path, "DEMO_D", demo([1, 2]))
    with pytest.raises(ValueError, match=r"SEQN 1 is there twice, and 2 such rows.*given twice"):
        nhanes.people([one, one])
    with pytest.raises(ValueError, match="SEQN 2 is there twice"):
        nhanes.people([one, write(tmp_path, "DPQ_D", pd.concat([dpq({2: [0] * 9})] * 2))])
    with pytest.raises(ValueError, match="no DEMO file"):
        nhanes.people([write(tmp_path, "DPQ_D", dpq({2: [0] * 9}))])
    with pytest.raises(ValueError, match="without RXQ_DRUG"):
        nhanes.people([one, write(tmp_path, "RXQ_RX_D", prescriptions([(1, 2, "")]))])
    with pytest.raises(ValueError, match=r"table 'BMX_D' is none of .*DEMO.*begin with SEQN, BMXWT"):
        nhanes.people([one, write(tmp_path, "BMX_D", pd.DataFrame({"SEQN": [1.0], "BMXWT": [70.0]}))])
    with pytest.raises(ValueError, match="no column WTMEC2YR"):
        nhanes.people([write(tmp_path, "DEMO_X", demo([1]).drop(columns="WTMEC2YR"))])
    with pytest.raises(ValueError, match=r"SEQN 1.5: expected a whole number"):
        nhanes.people([write(tmp_path, "DEMO_Y", demo([1.5]))])


# --- cohorts --------------------------------------------------------------------------------------------------------


def table_of_people():
    """Six people: complete; young; no weight; no questionnaire; incomplete; complete without a recording."""
    return pd.DataFrame(
        {
            "age_y": [40, 15, 40, 40, 40, 40],
            "weight": [1.0, 1, 0, 1, 1, 1],
            "phq9_answered": [9, 9, 9, np.nan, 8, 9],
            "depressed": [1, 0, 0, np.nan, np.nan, 0],
        },
        index=list("abcdef"),
    )


def test_cohort_counts_every_exclusion():
    left, flow = nhanes.cohort(
        table_of_people(), ["a", "b", "c", "d", "e", "x"], "depressed", min_age_y=18, valid_days=pd.Series({"a": 4})
    )
    assert list(left.index) == ["a"]
    assert [(s["step"], s["excluded"], s["left"]) for s in flow.steps] == [
        ("recordings of people who are not in DEMO", 1, 5),
        ("people interviewed", 0, 6),
        ("without a recording", 1, 5),
        ("not examined (no weight)", 1, 4),
        ("younger than 18", 1, 3),
        ("without a PHQ-9 record", 1, 2),
        ("depressed not known", 1, 1),
        ("fewer than 4 valid days", 0, 1),
    ]


def test_cohort_of_nobody():
    left, flow = nhanes.cohort(table_of_people(), ["x", "y"], "depressed")
    assert left.empty and flow.steps[2] == {"step": "without a recording", "excluded": 6, "left": 0}
    with pytest.raises(ValueError, match=r"no label 'ssri': the files give depressed"):
        nhanes.cohort(table_of_people(), ["a"], "ssri")
    left, flow = nhanes.cohort(table_of_people(), ["a"], "depressed", valid_days=pd.Series({"a": 3}))
    assert left.empty and flow.steps[-1] == {"step": "fewer than 4 valid days", "excluded": 1, "left": 0}


# --- the real files -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(shared):
    names = ("DEMO_D", "DEMO_E", "DPQ_D", "DPQ_E", "RXQ_RX_E", "RXQ_DRUG")
    return nhanes.people([shared / "nhanes" / f"{name}.XPT" for name in names])


def test_real_labels(real):
    d, e = real[real["cycle"] == "D"], real[real["cycle"] == "E"]
    assert (len(d), len(e)) == (10_348, 10_149)
    assert (d["phq9"].count(), d["depressed"].sum()) == (4_799, 297)
    assert (e["phq9"].count(), e["depressed"].sum()) == (5_415, 523)
    assert (e["ssri"].sum(), e["ssri_by_name"].sum(), e["ssri_by_class"].sum()) == (417, 417, 416)
    assert e["benzodiazepine"].sum() == 237
    assert d["ssri"].isna().all()  # no prescriptions of cycle D here
    assert real["weight"].sum() == pytest.approx(294.4e6, rel=1e-3)  # the civilian population of the United States


def test_real_wear_flags_join_the_questionnaires(real, shared):
    with np.load(shared / "nhanes" / "wear_flags_D.npz") as flags:
        recorded = np.unique(flags["SEQN"]).astype(str)
    left, flow = nhanes.cohort(real[real["cycle"] == "D"], recorded, "depressed")
    counts = {step["step"]: step["left"] for step in flow.steps}
    assert counts["without a recording"] == 7_455
    assert counts["without a PHQ-9 record"] == 4_861
    assert counts["depressed not known"] == len(left) == 4_465


def test_real_kinds(shared):
    found = {p.stem: nhanes.kind_of(Xpt.open(p)) for p in (shared / "nhanes").glob("*.XPT")}
    assert found == {
        "DEMO_D": "demographics", "DEMO_E": "demographics", "DPQ_D": "depression", "DPQ_E": "depression",
        "RXQ_RX_E": "prescriptions", "RXQ_DRUG": "drugs",
    }  # fmt: skip
