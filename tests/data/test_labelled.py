"""Windows that carry a label: which are good, what each label is, who is in which split, what statistics come from."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from labelled_people import CHANNELS, Cases, case, cases

from raycadian.config import (
    CNN,
    Ahead,
    Boosting,
    Classification,
    Column,
    Hypotension,
    LabelWindow,
    Pretraining,
    Regression,
    Split,
    Statistics,
    TTMLabel,
)  # fmt: skip
from raycadian.data.label_windows import cut_labelled
from raycadian.data.marks import good_starts
from raycadian.data.series import build_series
from raycadian.data.split import audit, make_split
from raycadian.models.base import ModelSpec
from raycadian.models.build import build
from raycadian.tasks.hypotension import events
from raycadian.tasks.window_index import find_windows, labels_of, strata

WINDOW = LabelWindow(past=CHANNELS, windows=3)
TASK = Classification(label=Hypotension(ahead_min=5))


def places_of(people: Cases, window: LabelWindow = WINDOW, task=TASK, seed: int = 0):
    series = build_series(people, window.past)
    return series, find_windows(people, series, window, task, seed)


# --- which windows are good ----------------------------------------------------------------------------------------


def test_a_window_with_a_rejected_stretch_is_not_cut():
    recording, marks = case("a", seconds=100, bad={"ppg": [5]})
    seen = recording.observed
    np.testing.assert_array_equal(good_starts(marks, seen, WINDOW, 10), [0, 10, 20, 60, 70])
    one = replace_window(past=("abp_mmhg",))  # the quality of a channel that is not read does not matter
    np.testing.assert_array_equal(good_starts(marks, seen, one, 20), [0, 20, 40, 60])
    some = replace_window(max_missing=0.34)
    assert len(good_starts(marks, seen, some, 10)) == 8


def test_a_channel_that_was_not_judged_is_not_good():
    recording, marks = case("a", seconds=100)
    assert not len(good_starts(marks, recording.observed, replace_window(past=("ecg_mv",)), 10))


def test_without_judged_stretches_what_was_observed_decides():
    recording, marks = case("a", seconds=100)
    seen = recording.observed.copy()
    seen[45:50] = False
    marks = replace(marks, judged=None)
    np.testing.assert_array_equal(good_starts(marks, seen, WINDOW, 10), [0, 10, 50, 60, 70])
    assert len(good_starts(marks, seen, replace_window(max_missing=0.2), 5)) == 15


@pytest.mark.parametrize(
    ("changes", "step_s", "words"),
    [
        ({"window_s": 20.0}, 20, "quality was judged on stretches of 10 s"),
        ({}, 5, "windows begin where quality was judged, every 10 s"),
        ({"window_s": 10.5}, 10, "no whole number of grid steps"),
        ({}, 0.5, "no whole number of grid steps"),
    ],
)
def test_windows_that_do_not_fit_what_was_judged_are_refused(changes, step_s, words):
    recording, marks = case("a", seconds=100)
    with pytest.raises(ValueError, match=words):
        good_starts(marks, recording.observed, replace_window(**changes), step_s)


def replace_window(**changes: object) -> LabelWindow:
    return LabelWindow.model_validate(WINDOW.model_dump() | changes)


# --- labels ----------------------------------------------------------------------------------------------------------


def test_labels_of_planted_episodes():
    people = Cases({"a": [case("a", seconds=3600)]})
    series, places = places_of(people)
    end = places.point + 30
    pressure = series.table[0]
    onsets = np.flatnonzero((pressure[1:] < 65) & (pressure[:-1] >= 65))
    assert len(places) and set(places.label) == {0.0, 1.0}
    first = places.label == 1
    lead_min = places.lead_s[first] / 60
    assert (lead_min > 0).all() and (lead_min <= 5).all()
    for e, lead in zip(end[first], places.lead_s[first], strict=True):
        assert np.abs(onsets - (e + lead)).min() <= 20  # noise about the threshold
    assert (pressure[end[first]] >= 60).all(), "no window of an episode that has begun"


def test_no_window_shows_an_episode_that_has_begun_or_just_ended():
    people = Cases({"a": [case("a", seconds=3600)]})
    _, places = places_of(people)
    marks = people.marks("a")[0]
    found = events(*reversed(marks.numerics["map_mmhg"])).certain
    begin, end = places.point, places.point + 30
    assert len(found) == 2
    for first, last in found:
        assert not ((begin < last) & (end > first)).any()
    label, _ = labels_of(marks, np.array([found[0, 1] + 5.0]), TASK)
    assert label == 0, "of its last moment alone it would be one without an episode"


def test_the_mean_ahead_and_a_column_as_labels():
    people = cases(2)
    series, places = places_of(people, task=Regression(label=Ahead(channel="map_mmhg", ahead_min=2)))
    at = series.offsets[places.recording] + places.point + 30 + 120
    expected = [series.table[0][i : i + 60 : 2].mean() for i in at]
    np.testing.assert_allclose(places.label, expected, atol=0.5)  # each value holds for 2 s
    for bound, inside in (("below", places.label < 65), ("at_least", places.label >= 65)):
        _, said = places_of(people, task=Classification(label=Ahead(channel="map_mmhg", ahead_min=2, **{bound: 65})))
        np.testing.assert_array_equal(said.label, inside)
        assert 0 < inside.mean() < 1 and len(said) == len(places)  # what isn't known is left out, not 0
    _, old = places_of(people, task=Classification(label=Column(name="age", at_least=35)))
    assert set(old.label[old.recording < 2]) == {0.0} and set(old.label[old.recording == 2]) == {1.0}


def test_pretraining_needs_no_label():
    _, places = places_of(cases(2), task=Pretraining())
    assert not places.label.any()


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (Column(name="sex"), "no column 'sex'.*clinical.keep"),
        (Column(name="case"), "expected a number; give label.equals"),
        (Column(name="age"), "expected 0 or 1; give label.at_least"),
    ],
)
def test_a_column_that_is_no_label_is_refused(label, words):
    with pytest.raises(ValueError, match=words):
        places_of(cases(2), task=Classification(label=label))


def test_a_numeric_that_nobody_has_leaves_no_window():
    with pytest.raises(ValueError, match="no window of 30 s is good"):
        places_of(cases(2), task=Classification(label=Hypotension(channel="art_mmhg")))


def test_weights_are_a_column_and_those_of_none_leave_out():
    people = cases(4)
    _, places = places_of(people, task=Classification(label=Hypotension(), weight="old"))
    assert set(places.weight) == {1.0} and {places.cases[i][:3] for i in places.recording} == {"s02", "s03"}


@pytest.mark.parametrize("also", [(), (Column(name="tall"),)])
def test_a_recording_without_a_good_window_leaves_the_others(also):
    people = Cases({**cases(3).found, "s99": [case("s99", seconds=20, old=0.0, tall=1.0)]})
    task = TASK.model_copy(update={"label": Column(name="old"), "also": also})
    _, places = places_of(people, task=task)
    assert len(places) and places.label.shape == (len(places), *([2] if also else []))
    assert not any(places.cases[i].startswith("s99") for i in places.recording)


def test_several_labels_keep_who_has_one_of_them():
    people = cases(6)
    task = TASK.model_copy(update={"label": Column(name="tall"), "also": (Column(name="old"),)})
    series, places = places_of(people, task=task)
    unknown = {s for s in people.subjects if people.marks(s)[0].attributes["tall"] is None}
    nan = {series.subjects[i] for i in series.subject_of[places.recording[np.isnan(places.label[:, 0])]]}
    assert unknown and nan == unknown and np.isfinite(places.label[:, 1]).all()
    along = strata(places, series)
    assert all(along[s] == -1 for s in unknown) and set(along) == set(people.subjects)
    _, shuffled = places_of(people, task=task.model_copy(update={"shuffled": True}))
    first = np.unique(places.recording, return_index=True)[1]
    one, other = (list(map(str, found.label[first].tolist())) for found in (places, shuffled))
    assert one != other and sorted(one) == sorted(other)  # a person's labels stay together


def test_shuffled_labels_are_the_same_in_another_order():
    people = cases(6)
    _, true = places_of(people)
    _, shuffled = places_of(people, task=TASK.model_copy(update={"shuffled": True}))
    assert sorted(true.label) == sorted(shuffled.label) and (true.label != shuffled.label).any()
    assert abs(np.corrcoef(true.label, shuffled.label)[0, 1]) < 0.1


# --- windows, splits, statistics
# ----------------------------------------------------------------------------------------


def test_a_batch_holds_the_samples_and_the_label_of_its_windows():
    series, places = places_of(cases(3))
    windows = cut_labelled(series, places, WINDOW)
    batch = windows.batch(torch.tensor([0, 7, len(windows) - 1]))
    assert batch["past"].shape == (3, 30, 2) and batch["known"].shape == (3, 30, 0) and batch["past_mask"].all()
    for row, i in enumerate((0, 7, len(windows) - 1)):
        begin = series.offsets[places.recording[i]] + places.point[i]
        np.testing.assert_array_equal(batch["past"][row].T, series.table[:, begin : begin + 30])
        assert batch["label"][row] == places.label[i]
    assert sum(len(b["label"]) for b in windows.batches(100)) == len(windows)
    assert len(windows.sample(10, 0)) == 10 and set(windows.sample(10, 0).first) <= set(windows.sample(20, 0).first)


@pytest.mark.parametrize("kind", ["subject", "kfold"])
def test_no_subject_is_in_two_splits_and_each_has_both_labels(kind):
    series, places = places_of(cases(20))
    along = strata(places, series)
    tested: list[str] = []
    for fold in range(4 if kind == "kfold" else 1):
        split = make_split(
            {s: [3600] * len(cases(20).found[s]) for s in along}, Split(kind=kind, folds=4, fold=fold), strata=along
        )
        audit(split.ranges, grouped=True)
        parts = {name: places.within(split, series, name) for name in ("train", "val", "test")}
        people = {name: {series.subjects[s] for s in series.subject_of[p.recording]} for name, p in parts.items()}
        assert not people["train"] & people["val"] and not people["test"] & (people["train"] | people["val"])
        assert sum(map(len, parts.values())) == len(places)
        share = {name: p.label.mean() for name, p in parts.items()}
        assert all(0.5 * places.label.mean() < v < 1.6 * places.label.mean() for v in share.values()), share
        tested += people["test"]
    assert kind == "subject" or sorted(tested) == sorted(along), "each is tested once"


@pytest.mark.parametrize(
    "section",
    [Statistics(), Boosting(trees=5), CNN(width=4, blocks=2), TTMLabel(d_model=8, layers=1, patch_length=10)],
    ids=lambda section: section.kind,
)
def test_statistics_come_from_training_windows_only(section):
    people = cases(12)
    split = make_split({s: [3600] * len(people.found[s]) for s in people.subjects}, Split(kind="subject"))
    training = {r.subject for r in split.of("train")}

    def prepared(source: Cases) -> dict[str, torch.Tensor]:
        series, places = places_of(source)
        torch.manual_seed(0)
        model = build(section, ModelSpec(30, 0, 1 / 60, CHANNELS, (), (), "classify", True))
        model.fit_statistics(cut_labelled(series, places.within(split, series, "train"), WINDOW))
        return model.state_dict()

    def spoilt(of: set[str]) -> Cases:
        return Cases({s: [_times_ten(*p) if s in of else p for p in found] for s, found in people.found.items()})

    one, other = prepared(people), prepared(spoilt(set(people.subjects) - training))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    changed = prepared(spoilt(training))
    assert any(not torch.equal(one[name], changed[name]) for name in one), "there is something to leak"


def _times_ten(recording, marks):
    return replace(recording, channels={c: 10 * v for c, v in recording.channels.items()}), marks
