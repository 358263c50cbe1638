"""Which cases of a card are read, and what becomes of a case's tracks before windows are cut."""

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from signals import real_track, simulated

from raycadian.data.blocks import BlockWriter
from raycadian.modalities.biosignals.card import BiosignalCard, Subset
from raycadian.modalities.biosignals.prepare import clean, items, write
from raycadian.modalities.biosignals.simulate import write_vital
from raycadian.physiology.waveforms.pipeline import prepare
from raycadian.types import Case, Issues, Track

ECG = {"name": "few", "files": ["*.vital"], "waveforms": {"ecg_mv": ["SNUADC/ECG_II"]}}


# --- a subset of a cohort
# ----------------------------------------------------------------------------------------------


@pytest.fixture
def cohort(tmp_path) -> tuple[Path, list[Path]]:
    """120 files of 100 people: every fifth has a second case; every tenth person is a child."""
    people = [f"p{i:03d}" for i in range(100)] + [f"p{i:03d}" for i in range(0, 100, 5)]
    rows = [f"{case},{person},{8 if int(person[1:]) % 10 == 9 else 50}" for case, person in enumerate(people)]
    (tmp_path / "clinical.csv").write_text("caseid,subjectid,age\n" + "\n".join(rows) + "\n")
    files = [tmp_path / f"{case}.vital" for case in range(len(people))]
    for file in files:
        file.touch()
    return tmp_path, files


def card(**changes: object) -> BiosignalCard:
    return BiosignalCard.model_validate(ECG | {"clinical": {"file": "clinical.csv"}, "cohort": "age >= 18"} | changes)


def test_a_subset_has_one_case_of_each_of_so_many_people_and_grows_with_its_size(cohort):
    """The FastTrack subset: 70 cases, of which the split tests on 20."""
    folder, paths = cohort

    def drawn(cases: int, seed: int = 0) -> dict[str, list[str]]:
        found = items(card(subset=Subset(cases=cases, seed=seed)), paths, folder, Issues())
        return {item["subject"]: [c["case"] for c in item["cases"]] for item in found}

    some, more = drawn(70), drawn(80)
    assert len(some) == 70 and all(len(cases) == 1 for cases in some.values())
    assert some.items() <= more.items() and drawn(70) == some != drawn(70, seed=1)
    assert not any(int(person[1:]) % 10 == 9 for person in some), "the cohort's query comes first"
    everyone = items(card(), paths, folder, Issues())
    assert sum(len(item["cases"]) for item in everyone) == 110 and len(everyone) == 90


def test_a_subset_larger_than_the_cohort_is_refused(cohort):
    folder, paths = cohort
    with pytest.raises(ValueError, match="subset of 91 cases.*the cohort has 90 people"):
        items(card(subset=Subset(cases=91)), paths, folder, Issues())


# --- an ECG that points down
# -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("channel", ["ecg_mv", "ecg_ii_mv", "ecg_v1_mv"])
def test_a_lead_that_the_card_names_is_turned_over(channel, turned):
    values, issues = simulated("ecg"), Issues()
    case = Case("a", "s", {channel: Track(-values, "mV", rate_hz=500)})
    settings = {"waveforms": {channel: ["any"]}, "upright": [channel] if turned else []}
    found = clean(case, BiosignalCard.model_validate(ECG | settings), issues=issues)
    upright = prepare(values, 500, "ecg").values
    np.testing.assert_allclose(found.recording.channels[channel], upright if turned else -upright, atol=1e-6)
    kinds = {True: ["turned over"], False: [] if "v1" in channel else ["left as it is"]}[turned]
    assert [kind for kind in issues.counts if "points down" in kind and kinds and kinds[0] in kind] == list(
        issues.counts
    )


@pytest.mark.parametrize(
    ("record", "lead"), [("a103l", "II"), ("a103l", "V"), ("mixedsignals", "II"), ("mixedsignals", "V")]
)
def test_real_leads_come_out_as_they_were_recorded(shared, record, lead):
    values, rate_hz = real_track(shared, record, lead)
    channel = f"ecg_{lead.lower()}_mv"
    how = BiosignalCard.model_validate(ECG | {"waveforms": {channel: ["any"]}})
    found = clean(Case("a", "s", {channel: Track(values.astype(np.float32), "mV", rate_hz=rate_hz)}), how)
    plain = prepare(values.astype(np.float32), rate_hz, "ecg").values
    np.testing.assert_array_equal(found.recording.channels[channel], plain[: len(found.recording)])


# --- the recorder's range, where signals are filtered as they come
# ---------------------------------------------------------


def test_rails_of_the_card_are_known_from_the_first_beat():
    values = np.minimum(simulated("abp"), 105.0).astype(np.float32)
    case = Case("a", "s", {"abp_mmhg": Track(values, "mmHg", rate_hz=500)})
    raw = ECG | {"waveforms": {"abp_mmhg": ["any"]}, "filters": "causal"}
    found = {}
    for name, rails in {"told": {"abp_mmhg": [0, 105]}, "found": {}}.items():
        issues = Issues()
        cleaned = clean(case, BiosignalCard.model_validate(raw | {"rails": rails}), issues=issues)
        assert cleaned.rejected == {"abp_mmhg: saturated": 6}
        found[name] = issues.counts["sample saturated: abp_mmhg"]
    assert 0 < found["told"] - found["found"] < 0.05 * found["told"]  # two beats of 75


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"filters": "causal", "rails": {"ppg": [0, 1]}}, "a channel of `waveforms`"),
        ({"filters": "causal", "rails": {"ecg_mv": [5, -5]}}, "its lowest below its highest"),
        ({"rails": {"ecg_mv": [-5, 5]}}, "rails are for filters: causal"),
    ],
)
def test_rails_that_are_wrong(changes, said):
    with pytest.raises(ValueError, match=said):
        BiosignalCard.model_validate(ECG | changes)


def written(item, snapshot, card):
    """The row of a person whose tables lie below `snapshot`."""
    with BlockWriter(snapshot, 0) as blocks:
        return write(item, blocks, card)


# --- times that can't be
# ------------------------------------------------------------------------------------------------


def test_one_wrong_time_of_a_numeric_costs_that_value_alone(tmp_path):
    """Not the memory of 115 days at 500 Hz, and not the case."""
    times = np.append(np.arange(0, 600, 2.0), 1e7)
    tracks = {
        "SNUADC/ECG_II": {"values": simulated("ecg"), "unit": "mV", "rate_hz": 500.0, "gain": 0.001},
        "Solar8000/ART_MBP": {"values": np.full(len(times), 80.0), "unit": "mmHg", "times_s": times},
    }
    write_vital(tmp_path / "1.vital", tracks)
    how = BiosignalCard.model_validate(ECG | {"numerics": {"map_mmhg": ["ART_MBP"]}})
    case = {"case": "1", "source": str(tmp_path / "1.vital"), "clinical": {}}
    row = written({"subject": "s", "cases": [case]}, tmp_path, how)
    assert row["quality"]["read"] == 1 and row["events"] == 300
    assert row["heads"][0][-1] == 598 * 125, "numerics after the waveforms stay: labels look ahead"
    assert row["issues"]["numeric long after the waveforms (left out): map_mmhg"]["count"] == 1


def test_a_waveform_at_an_impossible_time_leaves_its_case_out(tmp_path):
    for case, start_s in ((1, 0.0), (2, 1e7)):
        track = {"ecg": simulated("ecg"), "ecg.rate_hz": 500.0, "ecg.unit": "mV", "ecg.start_s": start_s}
        np.savez(tmp_path / f"{case}.npz", **track)
    how = BiosignalCard.model_validate(ECG | {"waveforms": {"ecg_mv": ["ecg"]}})
    cases = [{"case": c, "source": str(tmp_path / f"{c}.npz"), "clinical": {}} for c in "12"]
    row = written({"subject": "s", "cases": cases}, tmp_path, how)
    assert row["quality"]["read"] == 1
    (said,) = row["issues"]["case that can't be used (left out)"]["examples"]
    assert "case 2: ecg_mv: 5,000,030,000 samples, at most 200,000,000; a time or the rate is wrong" in said


# --- memory
# -------------------------------------------------------------------------------------------------------------


def test_memory_is_that_of_one_case_however_many_a_person_has(tmp_path):
    """Written case by case; as recorded, a waveform is gone once it is prepared."""
    names = {"ecg_mv": "mV", "ppg": "", "abp_mmhg": "mmHg"}
    arrays = {c: np.tile(simulated(c.partition("_")[0]), 5) for c in names}
    units = {f"{c}.unit": unit for c, unit in names.items()}
    np.savez(tmp_path / "1.npz", **arrays, **units, **{f"{c}.rate_hz": 500.0 for c in names})
    how = BiosignalCard.model_validate(ECG | {"waveforms": {c: [c] for c in names}})

    def peak(cases: int, out: Path) -> int:
        out.mkdir()
        read = [{"case": str(i), "source": str(tmp_path / "1.npz"), "clinical": {}} for i in range(cases)]
        tracemalloc.start()
        row = written({"subject": "s", "cases": read}, out, how)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert row["quality"]["read"] == cases and [head[0] for head in row["heads"]] == list(range(cases))
        with pq.ParquetFile(out / "blocks" / "00000-00-recordings.parquet") as file:
            assert file.metadata.num_rows == sum(head[-1] for head in row["heads"])
        return found

    peak(1, tmp_path / "imports")
    two, six = peak(2, tmp_path / "two"), peak(6, tmp_path / "six")  # of which one waits for its row group to fill
    as_read = sum(a.nbytes for a in arrays.values())
    assert six < 1.1 * two and two < 3 * as_read, (two / as_read, six / as_read)
