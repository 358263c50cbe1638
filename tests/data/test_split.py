import pytest
from hypothesis import given
from hypothesis import strategies as st

from raycadian.config import Split
from raycadian.data.split import Range, SplitManifest, audit, make_split

LENGTHS = st.dictionaries(
    st.text("abcdefgh0123", min_size=1, max_size=4), st.lists(st.integers(200, 900), min_size=1, max_size=4),
    min_size=6, max_size=12,
)  # fmt: skip


@given(LENGTHS, st.sampled_from(["subject", "time", "hybrid", "kfold"]), st.integers(0, 99))
def test_every_point_is_in_exactly_one_split(lengths, kind, seed):
    manifest = make_split(lengths, Split(kind=kind, seed=seed))
    for subject, recordings in lengths.items():
        for number, n in enumerate(recordings):
            own = [r for r in manifest.ranges if (r.subject, r.recording) == (subject, number)]
            covered = sorted(p for r in own for p in range(r.start, r.stop))
            assert covered == list(range(n))
    held = {r.subject for r in manifest.ranges if r.scope == "ood"}
    trained = {r.subject for r in manifest.of("train")}
    assert not held & trained
    assert make_split(lengths, Split(kind=kind, seed=seed)) == manifest


def test_time_split_is_chronological_across_recordings():
    ranges = make_split({"a": [100, 100], "b": [50]}, Split(kind="time", test_fraction=0.2, val_fraction=0.2)).ranges
    own = [(r.recording, r.start, r.stop, r.split) for r in ranges if r.subject == "a"]
    assert own == [(0, 0, 100, "train"), (1, 0, 20, "train"), (1, 20, 60, "val"), (1, 60, 100, "test")]


def test_kfold_tests_every_subject_once():
    lengths = {f"s{i}": [300] for i in range(11)}
    folds = [make_split(lengths, Split(kind="kfold", folds=5, fold=f)) for f in range(5)]
    tested = [r.subject for fold in folds for r in fold.of("test")]
    assert sorted(tested) == sorted(lengths)


def test_people_by_number():
    split = make_split(
        {f"s{i:02d}": [300] for i in range(70)}, Split(kind="subject", test_subjects=20, val_subjects=10)
    )
    assert {name: len({r.subject for r in split.of(name)}) for name in ("train", "val", "test")} == {
        "train": 40, "val": 10, "test": 20,
    }  # fmt: skip
    assert Split(test_subjects=0.2) == Split() and Split.model_validate({"test_subjects": 0}).test_subjects == 0
    with pytest.raises(ValueError, match="test_subjects 70 of 70 subjects"):
        make_split({f"s{i:02d}": [300] for i in range(70)}, Split(kind="subject", test_subjects=70))


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ([Range("a", 0, 0, 10, "train", "id"), Range("a", 0, 9, 20, "test", "id")], "overlap"),
        ([Range("a", 0, 0, 10, "test", "ood"), Range("a", 1, 0, 9, "train", "id")], "held out"),
        ([Range("a", 0, 0, 10, "test", "id"), Range("a", 0, 10, 20, "train", "id")], "trains on data after"),
    ],
)
def test_audit_refuses_leakage(ranges, message):
    with pytest.raises(ValueError, match=message):
        audit(ranges)


def test_too_few_subjects_say_what_to_do():
    with pytest.raises(ValueError, match="kind=time"):
        make_split({"a": [500]}, Split(kind="hybrid"))
    with pytest.raises(ValueError, match="lower folds"):
        make_split({"a": [500], "b": [500]}, Split(kind="kfold"))


def test_manifest_round_trip(tmp_path):
    manifest = make_split({"a": [500], "b": [400], "c": [300]}, Split(), "snap-1")
    manifest.write(tmp_path / "split.json")
    assert SplitManifest.read(tmp_path / "split.json") == manifest


def person(**more) -> Split:
    return Split(kind="person", person={"subject": "a", "history_days": 2, "train_days": 1, "val_days": 0.5} | more)


def test_a_persons_days_in_order():
    """The last day of two trains, half a day validates, the rest tests, over recordings; the fewer train, the same
    test."""
    found = make_split({"a": [300, 900], "b": [900]}, person(), dt_s=300.0)
    assert [(r.recording, r.start, r.stop, r.split) for r in found.ranges] == [
        (0, 288, 300, "train"), (1, 0, 276, "train"), (1, 276, 420, "val"), (1, 420, 900, "test"),
    ]  # fmt: skip
    more = make_split({"a": [300, 900]}, person(train_days=2), dt_s=300.0)
    assert more.of("test") == found.of("test") and more.of("val") == found.of("val")
    assert more.counts()["train"]["points"] == 576
    sparse = make_split({"a": [300]}, person(), dt_s=900.0)
    assert sparse.counts()["train"]["points"] == 96


def test_a_person_without_days_left_to_test():
    with pytest.raises(ValueError, match=r"a has 2\.0 days of data: nothing is left to test after history_days 2"):
        make_split({"a": [576]}, person(), dt_s=300.0)
    with pytest.raises(ValueError, match="'a': no such subject; there are b"):
        make_split({"b": [5760]}, person(), dt_s=300.0)
    with pytest.raises(ValueError, match="belong together"):
        Split(kind="person")
    with pytest.raises(ValueError, match="train_days 3 exceed history_days 2"):
        person(train_days=3)
