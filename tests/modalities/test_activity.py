"""A card of actigraphy prepared: whole days, labels and weights beside them, exclusions counted, any file format."""

import numpy as np
import pytest

from raycadian.modalities.actigraphy import prepare as activity
from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.actigraphy.readers import read_activity
from raycadian.modalities.base import Preparation
from raycadian.modalities.cards import card_of
from raycadian.modalities.prepare import prepare
from raycadian.types import ACTIVITY_COUNTS, ACTIVITY_MIMS, Issues, Recording

pytest.importorskip("pyreadstat")
from raycadian.modalities.actigraphy.simulate import simulate_nhanes


def recording(start: str, n: int, offset_min: int = 0) -> Recording:
    values = np.arange(n, dtype=np.float32)
    return Recording("a", 0, np.datetime64(start, "s"), offset_min, 60.0, {ACTIVITY_COUNTS: values}, np.ones(n, bool))


def test_recordings_begin_at_local_midnight():
    issues = Issues()
    found = activity.whole_days(
        [recording("2024-01-01T00:00", 1440), recording("2024-01-02T10:30", 3000), recording("2024-01-05T10:00", 2000)],
        issues,
    )
    assert [(r.index, str(r.start_utc), len(r)) for r in found] == [
        (0, "2024-01-01T00:00:00", 1440), (1, "2024-01-03T00:00:00", 3000 - 810),
    ]  # fmt: skip
    assert found[1].channels[ACTIVITY_COUNTS][0] == 810
    assert issues.counts == {"recording without a whole day (left out)": 1}
    (moved,) = activity.whole_days([recording("2024-01-01T20:00", 3000, offset_min=120)], issues)
    assert str(moved.start_utc) == "2024-01-01T22:00:00"  # 0:00 two hours ahead of UTC


@pytest.mark.ray
@pytest.mark.parametrize(("cycle", "channel", "days"), [("D", ACTIVITY_COUNTS, 7), ("G", ACTIVITY_MIMS, None)])
def test_simulated_nhanes(ray_local, tmp_path, cycle, channel, days):
    card = simulate_nhanes(8, tmp_path / "files", cycle, seed=3)
    snapshot = prepare(card, tmp_path / "snapshots")
    snapshot.verify()
    direct = {
        r.subject: r for r in read_activity(sorted((tmp_path / "files").glob("*.XPT")), card_of(snapshot), Issues())
    }
    assert snapshot.subjects == sorted(direct)
    for subject in snapshot.subjects:
        (found,) = snapshot.recordings(subject)
        first = len(direct[subject]) - len(found)
        assert np.array_equal(found.channels[channel], direct[subject].channels[channel][first:], equal_nan=True)
        assert np.array_equal(found.observed, direct[subject].observed[first:])
        assert found.start_utc.astype("datetime64[D]") == found.start_utc  # midnight
        assert days is None or len(found) == days * 1440
        (row,) = snapshot.attributes[subject]
        assert {"depressed", "ssri", "benzodiazepine", "sleep_disorder", "weight", "phq9"} <= set(row)
        assert row["depressed"] in (0.0, 1.0, None) and row["weight"] > 0
    flow = snapshot.manifest["cohorts"]["depressed"]
    assert flow[1] == {"step": "people interviewed", "excluded": 0, "left": 8}
    assert flow[-1]["left"] == sum(snapshot.attributes[s][0]["depressed"] is not None for s in snapshot.subjects)
    assert snapshot.manifest["counts"]["minutes"] == sum(map(sum, snapshot.lengths.values()))


@pytest.mark.ray
def test_tables_and_people_with_too_few_days(ray_local, tmp_path):
    lines = ["id,minute,activity"]
    for name, days in (("p/../1", 3), ("b", 1)):
        lines += [f"{name},{m + 1},{50 + m % 9}" for m in range(days * 1440)]
    (tmp_path / "minutes.csv").write_text("\n".join(lines))
    card = (
        "name: small\nmodality: actigraphy\nfiles: [minutes.csv]\n"
        "columns: {subject: id, minute: minute}\nmin_valid_days: 2\n"
    )
    (tmp_path / "small.yaml").write_text(card)
    snapshot = prepare(tmp_path / "small.yaml", tmp_path / "snapshots")
    assert snapshot.subjects == ["p/../1"]
    assert snapshot.manifest["issues"]["person with fewer than 2 valid days (left out)"]["count"] == 1
    assert {p.name for p in tmp_path.iterdir()} == {
        "minutes.csv",
        "small.yaml",
        "snapshots",
    }  # nothing outside its place
    (found,) = snapshot.recordings("p/../1")
    assert len(found) == 3 * 1440 and "cohorts" not in snapshot.manifest


def job(card, files, folder):
    return Preparation(card, files, folder, folder / "work", Issues(), lambda *_: None)


def test_counts_and_mims_don_t_mix(tmp_path):
    files = [p for c in "DG" for p in simulate_nhanes(2, tmp_path / c, c).with_suffix("").glob("*.XPT")]
    card = ActigraphyCard(name="both", files=("*",))
    with pytest.raises(ValueError, match=r"counts \(PAXRAW\) and MIMS \(PAXMIN\) are different units"):
        activity.items(job(card, files, tmp_path))


def test_labels_and_recordings_without_one_another(tmp_path):
    folder = simulate_nhanes(3, tmp_path / "one", "D", seed=1).with_suffix("")
    other = simulate_nhanes(3, tmp_path / "other", "G", seed=1).with_suffix("")
    files = [folder / "PAXRAW_D.XPT", other / "DEMO_G.XPT"]
    prepared = job(ActigraphyCard(name="x", files=("*",)), files, tmp_path)
    found = activity.items(prepared)
    assert prepared.issues.counts == {
        "person who is not in DEMO (no labels)": 3,
        "person of DEMO without a recording": 3,
    }
    assert all(set(item["row"].values()) == {None} for item in found)
