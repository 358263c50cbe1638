import helpers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raycadian.config import PersonDays, Split, Window
from raycadian.data.series import build_series, map_series
from raycadian.data.split import Range, make_split
from raycadian.data.windows import cut_windows, latest, without_context
from raycadian.types import SPLITS

WINDOW = Window(context=24, horizon=6)


def whole(series):
    return tuple(
        Range(series.subjects[s], int(n), 0, int(k), "train", "id")
        for s, n, k in zip(series.subject_of, series.number_of, np.diff(series.offsets), strict=True)
    )


@given(st.lists(st.booleans(), min_size=60, max_size=160), st.integers(1, 5), st.integers(0, 9))
@settings(max_examples=60)
def test_windows_equal_slices_of_the_recording(missing, stride, seed):
    rng = np.random.default_rng(seed)
    glucose = np.where(missing, np.nan, rng.uniform(60, 300, len(missing))).astype(np.float32)
    glucose[0] = 100
    source = helpers.People({"a": [helpers.recording(glucose)]})
    series = build_series(source, ("glucose_mgdl",))
    expected = [
        i for i in range(0, len(glucose) - 29, stride)
        if not np.isnan(glucose[i + 23]) and np.isnan(glucose[i : i + 24]).sum() <= 0.3 * 24
        and not np.isnan(glucose[i + 24 : i + 30]).all()
    ]  # fmt: skip
    if not expected:
        with pytest.raises(ValueError, match="no window fits"):
            cut_windows(series, whole(series), WINDOW, stride)
        return
    windows = cut_windows(series, whole(series), WINDOW, stride)
    assert windows.starts(torch.arange(len(windows))).tolist() == expected
    batch = windows.batch(torch.arange(len(windows)))
    for row, i in enumerate(expected):
        seen = ~np.isnan(glucose[i : i + 24])
        assert np.array_equal(batch["past"][row, :, 0].numpy()[seen], glucose[i : i + 24][seen])
        assert np.array_equal(batch["past_mask"][row, :, 0].numpy(), seen)
        assert np.array_equal(batch["target"][row].numpy(), glucose[i + 24 : i + 30], equal_nan=True)
    assert torch.isfinite(batch["past"]).all()


def test_no_training_window_crosses_a_gap_an_edge_or_a_person():
    series = build_series(helpers.people(3, 2, gap_after=200), ("glucose_mgdl",))
    ranges = tuple(Range(r.subject, r.recording, 10, r.stop - 7, r.split, r.scope) for r in whole(series))
    windows = cut_windows(series, ranges, WINDOW, 1)
    inside = [(series.offsets[i] + r.start, series.offsets[i] + r.stop) for i, r in enumerate(ranges)]
    for start in windows.starts(torch.arange(len(windows))).tolist():
        assert any(a <= start and start + 30 <= b for a, b in inside)
    assert len(windows) == sum(b - a - 29 for a, b in inside)


LENGTHS = st.lists(st.lists(st.integers(40, 160), min_size=1, max_size=3), min_size=6, max_size=8)
SPLIT_KINDS = [Split(kind=kind) for kind in ("time", "hybrid", "subject", "kfold")] + [
    Split(kind="person", person=PersonDays(subject="p0", history_days=0.1, train_days=0.06, val_days=0.05))
]


@given(LENGTHS, st.sampled_from(SPLIT_KINDS), st.integers(1, 40), st.integers(1, 8), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_targets_stay_in_their_split_and_training_sees_nothing_else(lengths, how, context, horizon, stride):
    people = {f"p{i}": ns for i, ns in enumerate(lengths)}
    recordings = {s: [helpers.recording(np.full(n, 99.0), s, k) for k, n in enumerate(ns)] for s, ns in people.items()}
    series = build_series(helpers.People(recordings), ("glucose_mgdl",))
    if how.kind == "person" and sum(people["p0"]) < 60:
        return
    split = make_split(people, how)
    begin_of = {recording: series.offsets[i] for recording, i in series.positions().items()}
    owner = np.full(series.offsets[-1], -1)  # of each point of the series: 0 train, 1 val, 2 test
    held_out = np.zeros(series.offsets[-1], bool)
    for r in split.ranges:
        points = slice(begin_of[r.subject, r.recording] + r.start, begin_of[r.subject, r.recording] + r.stop)
        owner[points], held_out[points] = SPLITS.index(r.split), r.scope == "ood"
    for part, name in enumerate(SPLITS):
        try:
            windows = cut_windows(series, split.of(name), Window(context=context, horizon=horizon), stride)
        except ValueError:
            continue
        starts = windows.starts(torch.arange(len(windows))).numpy()
        past = starts[:, None] + np.arange(context)
        targets = starts[:, None] + context + np.arange(horizon)
        assert (owner[targets] == part).all()
        assert (owner[past] <= part).all()  # never of a later split; -1: days before a person's training
        assert (owner[past][held_out[targets[:, 0]]] == part).all()  # of who is held out, nothing else is seen
        assert name != "train" or (owner[past] == part).all()
        recording = np.searchsorted(series.offsets, [starts, targets[:, -1]], side="right")
        assert (recording[0] == recording[1]).all()
        if stride == 1 and name != "train":  # every target of the split that has its context is forecast
            possible = sum(max(r.stop - horizon - max(r.start, context) + 1, 0) for r in split.of(name))
            assert len(windows) == possible


def test_a_short_validation_range_takes_its_context_from_training():
    """colas: two days a person, of which 12 h of context would leave validation no window."""
    series = build_series(helpers.People({"a": [helpers.recording(np.arange(576.0) + 40)]}), ("glucose_mgdl",))
    window = Window(context=144, horizon=12)
    ranges = {"val": Range("a", 0, 404, 490, "val", "id"), "test": Range("a", 0, 490, 576, "test", "id")}
    for r in ranges.values():
        windows = cut_windows(series, (r,), window, 1)
        batch = windows.batch(torch.arange(len(windows)))
        assert len(windows) == 86 - 11
        assert batch["past"][0, -1, 0] == 40 + r.start - 1 and batch["target"][0, 0] == 40 + r.start
        assert batch["target"][-1, -1] == 40 + r.stop - 1
    with pytest.raises(ValueError, match="the longest stretch has 86"):
        cut_windows(series, (Range("a", 0, 404, 490, "train", "id"),), window, 1)
    with pytest.raises(ValueError, match="the longest stretch has 150"):
        cut_windows(series, (Range("a", 0, 404, 410, "val", "id"),), window, 1)  # half an hour holds no target


def test_who_and_when():
    source = helpers.People({
        "a": [helpers.recording(np.full(40, 100.0), "a", start="2026-01-05T22:00", offset_min=120)],
        "b": [helpers.recording(np.full(40, 100.0), "b", start="2026-01-05T06:30")],
    })  # fmt: skip
    series = build_series(source, ("glucose_mgdl",))
    batch = cut_windows(series, whole(series), WINDOW, 1).batch(torch.tensor([0, 11]))
    assert batch["subject"].tolist() == [0, 1]
    assert batch["time_s"][0] == np.datetime64("2026-01-05T22:00", "s").astype(int) + 23 * 300
    assert torch.allclose(batch["local_h"], torch.tensor([0 + 115 / 60, 6.5 + 115 / 60], dtype=torch.float64))
    hours = batch["local_h"][:, None] + (torch.arange(30) - 23) * 5 / 60
    wave = torch.stack([(hours * np.pi / 12).sin(), (hours * np.pi / 12).cos()], -1)
    assert torch.allclose(batch["known"], wave.float(), atol=1e-5)


def test_the_last_window_of_a_history_equals_the_cut_one():
    glucose = helpers.day_curve(1)
    full = build_series(helpers.People({"a": [helpers.recording(glucose)]}), ("glucose_mgdl",))
    cut = cut_windows(full, whole(full), WINDOW, 1).batch(torch.tensor([100]))
    history = build_series(helpers.People({"a": [helpers.recording(glucose[:124])]}), ("glucose_mgdl",))
    served = latest(history, WINDOW)
    for name in ("past", "past_mask", "known", "time_s", "local_h"):
        assert torch.equal(served[name], cut[name]), name
    assert torch.isnan(served["target"]).all()


@pytest.mark.parametrize(
    ("glucose", "message"),
    [
        (np.full(20, 100.0), r"needs 24 points \(2 h\) without a long gap; the last unbroken stretch has 20 "),
        (np.r_[np.full(30, 100.0), np.nan], "last point of the history"),
        (np.r_[np.full(6, 100.0), np.full(15, np.nan), np.full(9, 100.0)], "of the context is missing"),
    ],
)
def test_histories_that_cannot_be_forecast_from(glucose, message):
    series = build_series(helpers.People({"a": [helpers.recording(glucose)]}), ("glucose_mgdl",))
    with pytest.raises(ValueError, match=message):
        latest(series, WINDOW)


def test_of_a_data_set_a_change_of_the_clock_ends_a_recording_too():
    series = build_series(helpers.People({"a": [helpers.recording(np.full(20, 100.0))]}), ("glucose_mgdl",))
    assert "without a long gap or a change of the clock; the last" in without_context(series, WINDOW)["a"]


def test_the_mapped_series_equals_the_one_in_memory(tmp_path):
    source = helpers.people(3, 2, gap_after=150)
    built, opened = build_series(source, ("glucose_mgdl",)), map_series(source, ("glucose_mgdl",), tmp_path / "series")
    again = map_series(source, ("glucose_mgdl",), tmp_path / "series")
    for one in (opened, again):
        assert np.array_equal(one.table, built.table, equal_nan=True)
        assert isinstance(one.table, np.memmap)
        assert all(np.array_equal(getattr(one, k), getattr(built, k)) for k in ("offsets", "subject_of", "start_s"))
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_channel_that_nobody_recorded_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="carbs_g"):
        map_series(helpers.people(2, 1), ("glucose_mgdl", "carbs_g"), tmp_path / "series")
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_past_channels_come_along():
    carbs = np.zeros(40, dtype=np.float32)
    carbs[10] = 45
    source = helpers.People({"a": [helpers.recording(np.full(40, 100.0), carbs_g=carbs)]})
    series = build_series(source, ("glucose_mgdl", "carbs_g"))
    batch = cut_windows(series, whole(series), WINDOW, 1).batch(torch.tensor([3]))
    assert batch["past"].shape == (1, 24, 2)
    assert batch["past"][0, 7, 1] == 45
