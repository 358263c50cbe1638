"""Personal calibration: from an export to a prediction, honest where it does not help, and deleted whole."""

import json
import os
import re
import sqlite3
from dataclasses import replace

import helpers
import numpy as np
import one_person
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from raycadian.cli import main as cli
from raycadian.config import PAT
from raycadian.data.series import Recordings, build_series
from raycadian.evaluation.label.decision import Calibration, Decision
from raycadian.models import checkpoint
from raycadian.models.base import ModelSpec, trainable_parameters
from raycadian.models.build import build
from raycadian.personal import days as personal_days
from raycadian.personal.adapter import load_weights, personal, weights_of
from raycadian.personal.calibrate import calibrate, give_new_key
from raycadian.personal.store import ADAPTER, DATABASE, METADATA, Forbidden, PersonRecord, Store
from raycadian.personal.task import CalibrationInputs
from raycadian.personal.verdict import fit_personal, judge_forecasts, judge_probabilities
from raycadian.physiology.rhythms.daily import ACTIVITY, FURTHEST, GLUCOSE, Baseline, of_activity, of_glucose
from raycadian.serving.load import open_person
from raycadian.types import Issues

SUBJECT = "zq-17.b"


def of_file(predictor, path):
    return predictor.answer(predictor.read(path))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return one_person.population(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    ill = one_person.ill_days()
    recording = one_person.write_recording(folder / "watch.csv", one_person.counts(ill, seed=1))
    return recording, one_person.write_labels(folder / "episodes.csv", ill)


@pytest.fixture(scope="module")
def calibrated(run, export, tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store") / "people")
    return store, calibrate(CalibrationInputs(run, SUBJECT, *export), store)


# --- from export to prediction ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_calibrated_to_one_person(calibrated, run, export):
    store, made = calibrated
    about = made.person.metadata
    assert about["kept"] == "adapter" and "the adapter is kept" in about["verdict"]
    brier = about["held_out"]["brier"]
    assert (
        brier["adapter"] < min(brier["population"], brier["base_rate"]) and about["held_out"]["auroc"]["adapter"] > 0.9
    )
    assert 1_000 < about["parameters"] < 10_000 and about["seconds"] < 300
    assert [about["days"][part]["days"] for part in ("train", "val", "held_out")] == [35, 11, 11]
    assert about["days"]["train"]["last"] < about["days"]["val"]["first"] < about["days"]["held_out"]["first"]
    assert made.person.baseline.days == 28 and made.person.baseline.first == one_person.START

    estimate = of_file(open_person(run, store.read(SUBJECT), store), export[0])
    ill = one_person.ill_days()
    assert estimate.value[ill].mean() > estimate.value[~ill].mean() + 0.3
    assert ((estimate.low < estimate.value) & (estimate.value < estimate.high)).all()
    one = estimate.of_day("2026-03-12").as_dict()
    (window,) = one["windows"]
    assert window["day"] == "2026-03-12" and window["deviations"].keys() == set(ACTIVITY)
    assert one["personal"]["kept"] == "adapter" and one["subject"] == SUBJECT
    with pytest.raises(ValueError, match="nothing is said of it; the recording gives 2026-03-02 to"):
        estimate.of_day("2030-01-01")


@pytest.mark.slow
def test_what_is_stored_is_private_and_holds_no_recording(calibrated, export):
    store, made = calibrated
    folder = store.folder(SUBJECT)
    assert sorted(p.name for p in folder.iterdir()) == [ADAPTER, METADATA, DATABASE]
    assert {oct(p.stat().st_mode & 0o777) for p in folder.iterdir()} == {"0o600"}
    assert {oct(p.stat().st_mode & 0o777) for p in (store.root, folder)} == {"0o700"}
    assert (store.root / ".gitignore").read_text() == "*\n"  # neither a commit nor a job's upload takes them along
    assert sum(p.stat().st_size for p in folder.iterdir()) < 100_000 < export[0].stat().st_size
    with sqlite3.connect(folder / DATABASE) as base:
        assert base.execute("SELECT COUNT(*) FROM labels").fetchone() == (57,)
    base.close()
    assert made.key not in "".join(p.read_bytes().decode("latin-1") for p in folder.iterdir())
    again = store.read(SUBJECT)
    assert again.labels == made.person.labels and again.metadata == json.loads(json.dumps(made.person.metadata))
    np.testing.assert_array_equal(again.baseline.mean, made.person.baseline.mean)


@pytest.mark.slow
def test_forgetting_leaves_nothing_anywhere(run, export, tmp_path, monkeypatch):
    """Whatever the verb writes below its folders and the home is searched for the id, the key and the adapter's
    values."""
    for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.chdir(tmp_path)
    store, keeps = Store(tmp_path / "people"), "other"
    calibrate(
        CalibrationInputs(
            run, keeps, export[0], one_person.write_labels(tmp_path / "e.csv", one_person.ill_days(), first=8)
        ),
        store,
    )
    untouched = {p: p.read_bytes() for p in store.folder(keeps).iterdir()}
    made = calibrate(CalibrationInputs(run, SUBJECT, *export), store)
    (store.root / f".{SUBJECT}-0123abcd").mkdir()  # an interrupted calibration left this
    (store.root / f".{SUBJECT}-0123abcd" / ADAPTER).write_bytes(store.folder(SUBJECT).joinpath(ADAPTER).read_bytes())
    kept = {SUBJECT.encode(), made.person.key_sha256.encode(), made.person.version.encode()}
    kept |= {store.adapter(SUBJECT)["usual.weight"].numpy().tobytes()}
    assert all(any(value in data for data in _contents(tmp_path).values()) for value in kept)
    assert store.forget(SUBJECT) == 4
    left = _contents(tmp_path)
    assert not any(value in data or SUBJECT in str(path) for value in kept for path, data in left.items())
    assert not any(SUBJECT.encode() in data for data in _contents(run.path).values())
    assert {p: p.read_bytes() for p in store.folder(keeps).iterdir()} == untouched
    with pytest.raises(ValueError, match="nothing is kept of them"):
        store.forget(SUBJECT)


def _contents(folder):
    return {p: p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


@pytest.mark.slow
def test_labels_that_come_later_give_what_all_at_once_gives(run, export, calibrated, tmp_path):
    _, whole = calibrated
    ill, store = one_person.ill_days(), Store(tmp_path / "people")
    first = one_person.write_labels(tmp_path / "first.csv", ill, last=40)
    later = one_person.write_labels(tmp_path / "later.csv", ill, first=40)
    before = calibrate(CalibrationInputs(run, SUBJECT, export[0], first), store)
    with pytest.raises(ValueError, match="has calibrated already; --update adds labels"):
        calibrate(CalibrationInputs(run, SUBJECT, export[0], later), store)
    after = calibrate(CalibrationInputs(run, SUBJECT, export[0], later), store, update=True)
    assert after.key is None and after.person.key_sha256 == before.person.key_sha256
    assert after.person.metadata["updates"] == 1 and after.person.version != before.person.version
    assert after.person.metadata["held_out"] == whole.person.metadata["held_out"]
    mine, theirs = store.adapter(SUBJECT), calibrated[0].adapter(SUBJECT)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.slow
def test_labels_that_say_nothing_keep_the_population_and_say_so(run, tmp_path):
    kept = []
    for seed in range(4):
        ill = np.random.default_rng(seed).random(40) < 0.4
        recording = one_person.write_recording(tmp_path / "r.csv", one_person.counts(np.zeros(40, bool), seed=seed))
        store = Store(tmp_path / f"people-{seed}")
        made = calibrate(
            CalibrationInputs(run, "p", recording, one_person.write_labels(tmp_path / "e.csv", ill)), store
        )
        kept.append(made.person.metadata["kept"])
        if kept[-1] == "population":
            assert "POPULATION MODEL KEPT" in made.person.metadata["verdict"] and store.adapter("p") == {}
            own = open_person(run, store.read("p"), store)
            assert own.model is own.served.model and np.isnan(own.answer(own.read(recording)).low).all()
    assert kept.count("population") >= 3


@pytest.mark.slow
def test_steps_of_an_apple_health_export_stand_for_counts(run, export, tmp_path):
    """Whether they may is what the held-out days say: the model has never seen steps."""
    ill, store = one_person.ill_days(), Store(tmp_path / "people")
    path = one_person.write_apple_health(tmp_path / "export.zip", one_person.counts(ill, seed=1))
    with pytest.raises(ValueError, match="reads activity_counts, the recording has .*steps; .*--channel NAME"):
        calibrate(CalibrationInputs(run, SUBJECT, path, export[1]), store)
    with pytest.raises(ValueError, match="the model reads stairs, the recording has"):
        calibrate(CalibrationInputs(run, SUBJECT, path, export[1], channel="stairs"), store)
    about = calibrate(CalibrationInputs(run, SUBJECT, path, export[1], channel="steps"), store).person.metadata
    assert about["channel"] == "steps" and about["factor"] > 1 and about["kept"] == "adapter", about["verdict"]
    value = of_file(open_person(run, store.read(SUBJECT), store), path).value
    assert value[ill].mean() > value[~ill].mean() + 0.3


# --- what is refused --------------------------------------------------------------------------------------------------


def days_of(values, subject="p"):
    recordings = personal_days.read_recording(values, subject, one_person.CARD, None, "model", Issues())
    series = build_series(Recordings.of(recordings), ("activity_counts",))
    return series, personal_days.activity_days(series, 10.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("days", "labelled", "words"),
    [
        (20, 20, "a baseline needs 28 days worn long enough, found 20 of the recording's 20"),
        (40, 10, "10 labelled days can be learnt from, 14 are needed: 10 days have a label, 0 of them outside"),
        (40, 0, "no labelled day in it"),
    ],
)
def test_too_few_days(run, tmp_path, days, labelled, words):
    ill = one_person.ill_days(days)
    recording = one_person.write_recording(tmp_path / "r.csv", one_person.counts(ill, seed=1))
    labels = one_person.write_labels(tmp_path / "e.csv", ill, first=0, last=labelled or 1)
    if not labelled:
        labels.write_text("start,end,label\n")
    store = Store(tmp_path / "people")
    with pytest.raises(ValueError, match=words):
        calibrate(CalibrationInputs(run, SUBJECT, recording, labels), store)
    assert store.subjects == [] and not (store.root.is_dir() and any(store.root.iterdir()))


@pytest.mark.slow
def test_a_watch_that_was_never_worn(run, tmp_path):
    recording = one_person.write_recording(tmp_path / "r.csv", np.zeros(40 * 1440))
    labels = one_person.write_labels(tmp_path / "e.csv", one_person.ill_days(40))
    with pytest.raises(ValueError, match="28 days worn long enough, found 0 of the recording's 40"):
        calibrate(CalibrationInputs(run, SUBJECT, recording, labels), Store(tmp_path / "people"))


@pytest.mark.slow
def test_episodes_outside_the_recording(run, export, tmp_path):
    ill = one_person.ill_days()
    elsewhere = one_person.write_labels(tmp_path / "e.csv", ill, start=one_person.START + 1000)
    with pytest.raises(
        ValueError, match=r"0 labelled days .* 57 of them outside the recording \(2026-03-02 to 2026-04-30\)"
    ):
        calibrate(CalibrationInputs(run, SUBJECT, export[0], elsewhere), Store(tmp_path / "people"))


@pytest.mark.slow
def test_labels_without_a_recording_and_the_reverse(run, export, tmp_path):
    store = Store(tmp_path / "people")
    with pytest.raises(ValueError, match="the recording has none: name a CSV with the columns start, end, label"):
        calibrate(CalibrationInputs(run, SUBJECT, export[0]), store)
    with pytest.raises(ValueError, match="no such file"):
        calibrate(CalibrationInputs(run, SUBJECT, tmp_path / "none.csv", export[1]), store)
    with pytest.raises(ValueError, match="has not calibrated in .*: leave out --update"):
        calibrate(CalibrationInputs(run, SUBJECT, *export), store, update=True)


@pytest.mark.slow
def test_days_that_train_all_alike(run, tmp_path):
    ill = one_person.ill_days(40, ((30, 40),))
    recording = one_person.write_recording(tmp_path / "r.csv", one_person.counts(ill, seed=1))
    labels = one_person.write_labels(tmp_path / "e.csv", ill)
    with pytest.raises(
        ValueError, match="that train .* all have the label 0; an adapter learns from days of both kinds"
    ):
        calibrate(CalibrationInputs(run, SUBJECT, recording, labels), Store(tmp_path / "people"))


def test_what_can_not_be_learnt_from_is_counted(tmp_path):
    values = one_person.counts(one_person.ill_days(20), seed=1)
    values[5 * 1440 : 6 * 1440] = 0  # not worn
    series, days = days_of(one_person.write_recording(tmp_path / "r.csv", values))
    window = one_person.LabelWindow(window_s=86400, windows=3, past=("activity_counts",), max_missing=0.8)
    issues, labels = Issues(), {one_person.START + d: float(d % 2) for d in range(-2, 18)}
    learnt = personal_days.labelled_days(series, days, labels, window, 14, issues)
    assert issues.counts == {
        "labelled day without a recording (left out)": 2,
        "labelled day that was not worn long enough (left out)": 1,
        "labelled day without the days before it that the model sees (left out)": 2,
        "valid day without a label (not learnt from)": 2,
    }
    assert (learnt.date - one_person.START).astype(int).tolist() == [2, 3, 4, *range(6, 18)]
    batch = learnt.windows.batch(torch.tensor([3]))
    np.testing.assert_array_equal(batch["past"][0, :, 0].numpy(), values[4 * 1440 : 7 * 1440])


@pytest.mark.parametrize(
    "subject", ["", ".", "..", "../ann", "a/b", "a\\b", "/etc", ".ann", "a\0b", "a" * 65, "ä", "a b", "a\n"]
)
def test_an_id_with_path_characters(subject, tmp_path):
    store = Store(tmp_path / "people")
    for refuse in (store.folder, store.read, store.adapter, store.forget, store.__contains__):
        with pytest.raises(ValueError, match="expected 1 to 64 of the letters"):
            refuse(subject)
    with pytest.raises(Forbidden):
        store.opened(subject, "key")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("day,mood\n2026-03-02,1\n", "no column start, label; found day, mood"),
        ("sleep_start,sleep_end\n2026-03-02,2026-03-03\n", "these are sleep episodes"),
        ("start,end,label\nyesterday,,1\n", r":2: 'yesterday' is no date such as 2026-03-02"),
        ("start,end,label\n2026-03-05,2026-03-02,1\n", "expected an end on or after the start"),
        ("start,end,label\n2026-03-05,2126-03-02,1\n", "within ten years"),
        ("start,end,label\n2026-03-05,,2\n", "label '2', expected 1 .* or 0"),
        (
            "start,end,label\n2026-03-02,2026-03-05,1\n2026-03-05,,0\n",
            r":3: 2026-03-05 is labelled 1 above and 0 here; keep one",
        ),
        ("start,label\n2026-03-02 08:00,1,7,7\n2026-03-02,1\n", "can't be understood|is no date"),
    ],
)  # fmt: skip
def test_a_table_of_labels_that_can_not_be_read(tmp_path, text, words):
    path = tmp_path / "episodes.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        personal_days.read_labels(path)


def test_labels_are_days(tmp_path):
    path = tmp_path / "episodes.csv"
    path.write_text(
        "\ufeffstart;end;label;note\n2026-03-02 23:00;2026-03-03;1;low\n2026-03-05;;0;\n2026-03-03;;1;again\n", "utf-8"
    )
    day = np.datetime64("2026-03-02")
    assert personal_days.read_labels(path) == {day: 1.0, day + 1: 1.0, day + 3: 0.0}


def test_a_file_of_two_people(tmp_path):
    path = tmp_path / "two.csv"
    rows = pd.DataFrame(
        {"SEQN": np.repeat([1, 2], 2 * 1440), "PAXINTEN": 5, "PAXDAY": 1, "PAXN": np.tile(np.arange(1, 2881), 2)}
    )
    rows.to_csv(path, index=False)
    with pytest.raises(ValueError, match="expected one person, found 2"):
        days_of(path)


# --- the store --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_persons_files_open_with_their_key_alone(calibrated, run):
    store, made = calibrated
    assert store.opened(SUBJECT, made.key).subject == SUBJECT
    messages = set()
    for subject, key in ((SUBJECT, "wrong"), (SUBJECT, ""), ("nobody", made.key), (None, "x"), ("../x", "x")):
        with pytest.raises(Forbidden) as error:
            store.opened(subject, key)
        messages.add(str(error.value))
    assert messages == {"no such person here, or not their key"}
    key = give_new_key(SUBJECT, store)
    assert store.opened(SUBJECT, key).metadata == json.loads(json.dumps(made.person.metadata))
    with pytest.raises(Forbidden):
        store.opened(SUBJECT, made.key)


@pytest.mark.slow
def test_damaged_files_are_not_used(calibrated, run, tmp_path):
    store, made = calibrated
    copy = Store(tmp_path / "people")
    copy.write(made.person, store.adapter(SUBJECT))
    (copy.folder(SUBJECT) / ADAPTER).write_bytes(b"none")
    with pytest.raises(ValueError, match="damaged: .*; forget the person and calibrate again"):
        open_person(run, copy.read(SUBJECT), copy)
    copy.write(made.person, store.adapter(SUBJECT) | {"usual.bias": torch.zeros(2)})
    with pytest.raises(ValueError, match="the adapter is of another model: 2 weights differ, e.g. usual.bias"):
        open_person(run, copy.read(SUBJECT), copy)
    other = replace(made.person, metadata=made.person.metadata | {"weights_sha256": "0", "run": "older"})
    with pytest.raises(ValueError, match="calibrated older, this is population"):
        open_person(run, other, store)
    (copy.folder(SUBJECT) / DATABASE).write_bytes(b"none")
    with pytest.raises(ValueError, match="damaged"):
        copy.read(SUBJECT)


def test_a_folder_that_others_may_read_is_refused(tmp_path):
    store = Store(tmp_path / "people")
    store.root.mkdir(mode=0o755)
    with pytest.raises(ValueError, match=r"others may look into it \(mode 755\)"):
        store.write(PersonRecord("p", None, {}, "", {}), {})


def test_people_stay_out_of_commits_in_a_folder_that_was_there(tmp_path):
    store, nothing = Store(tmp_path / "people"), Baseline((), np.empty(0), np.empty(0), 0, *[one_person.START] * 2)
    store.root.mkdir(mode=0o700)
    store.write(PersonRecord("p", nothing, {}, "", {}), {})
    assert (store.root / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize("alone", ["--delete", "--new-key"])
def test_deleting_takes_nothing_else(alone, tmp_path):
    where = ["--subject", SUBJECT, "--people", str(tmp_path / "people"), alone]
    for more in (["--update"], ["--recording", "r.csv"], ["--run", "r", "--episodes", "e.csv"]):
        result = CliRunner().invoke(cli.main, ["calibrate", *where, *more])
        assert (
            result.exit_code == 2 and f"{alone} calibrates nobody, found" in result.stderr and more[0] in result.stderr
        )
    both = CliRunner().invoke(cli.main, ["calibrate", *where, "--delete", "--new-key"])
    assert both.exit_code == 2 and "found --new-key too" in both.stderr


def test_forgetting_a_link_leaves_what_it_points_at(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("kept")
    store = Store(tmp_path / "people")
    store.root.mkdir(mode=0o700)
    (store.root / "p").symlink_to(tmp_path / "elsewhere")
    store.forget("p")
    assert (tmp_path / "elsewhere" / "file").read_text() == "kept" and not os.path.lexists(store.root / "p")


# --- the parts --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_untrained_it_is_the_population(run):
    population = checkpoint.load(run.path / "checkpoint")
    before = {name: value.clone() for name, value in population.state_dict().items()}
    days = of_activity(one_person.counts(one_person.ill_days(30), seed=3).reshape(-1, 1440))
    baseline = Baseline.of(ACTIVITY, days, one_person.START + np.arange(30))
    model = personal(population, baseline).eval()
    values = torch.from_numpy(one_person.counts(one_person.ill_days(6), seed=3).reshape(6, 1440, 1)).float()
    batch = {
        "past": values,
        "past_mask": torch.ones_like(values, dtype=torch.bool),
        "label": torch.tensor([0.0, 1] * 3),
    }
    assert torch.equal(model(batch).score, population(batch).score)
    assert trainable_parameters(model) == sum(w.numel() for w in weights_of(model).values()) < 10_000
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model.loss(batch)[0].backward()
    optimizer.step()
    assert not torch.equal(model(batch).score, population(batch).score)
    assert all(torch.equal(value, before[name]) for name, value in population.state_dict().items())
    again = personal(population, baseline).eval()
    load_weights(again, weights_of(model))
    assert torch.equal(again(batch).score, model(batch).score)


@pytest.mark.parametrize(("size", "layers"), [("small", {"0"}), ("medium", {"0", "1"}), ("large", {"2", "3"})])
def test_an_adapter_keeps_within_its_budget_in_the_last_layers(size, layers):
    spec = ModelSpec(7 * 1440, 0, 1.0, ("activity_counts",), (), (), task="classify")
    baseline = Baseline.of(ACTIVITY, np.ones((3, len(ACTIVITY))), one_person.START + np.arange(3))
    model = personal(build(PAT(size=size), spec), baseline)
    added = {name: weight for name, weight in weights_of(model).items() if "lora_" in name}
    assert 2_000 < sum(weight.numel() for weight in added.values()) <= 5_000
    assert {re.search(r"\.(\d+)\.", name)[1] for name in added} == layers


def test_usual_and_deviations():
    rng = np.random.default_rng(0)
    values = np.column_stack([rng.normal(10, 2, 28), (23.5 + rng.normal(0, 1, 28)) % 24, np.full(28, 3.0)])
    baseline = Baseline.of(("level", "l5_onset_h", "constant"), values, one_person.START + np.arange(28))
    assert abs(baseline.mean[1] - 23.5) < 0.5 or baseline.mean[1] < 0.5
    assert abs(baseline.spread[1] - 1) < 0.4
    z = baseline.deviations(np.array([[12.0, 0.5, 4.0], [np.nan, 1e3 % 24, 3.0], [1e9, 23.5, 3.0]]))
    assert abs(z[0, 0] - 1) < 0.5 and abs(z[0, 1] - 1) < 0.6 and z[0, 2] == 0
    assert np.isnan(z[1, 0]) and z[2, 0] == FURTHEST


@given(st.lists(st.floats(40, 400), min_size=12, max_size=12), st.integers(0, 10))
def test_glucose_days(readings, missing):
    day = np.array(readings)[None]
    day[0, :missing] = np.nan
    features = dict(zip(GLUCOSE, of_glucose(day)[0], strict=True))
    known = day[~np.isnan(day)]
    assert np.isclose(features["mean_mgdl"], known.mean()) and np.isclose(features["sd_mgdl"], known.std(), atol=1e-9)
    shares = [features[name] for name in ("time_in_range_pct", "time_below_70_pct", "time_above_180_pct")]
    assert np.isclose(sum(shares), 100) and np.isclose(shares[1], 100 * (known < 70).mean())


DECISION = Decision(1, "soft", 0.0, Calibration("platt", (1.5, -0.5)), 0.4)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(0, 40))
def test_calibration_of_few_days_stays_near_the_population(seed, n):
    rng = np.random.default_rng(seed)
    score = rng.normal(0, 2, n)
    decision = fit_personal(DECISION, score, (rng.random(n) < 0.5).astype(float))
    grid = np.linspace(-4, 4, 9)
    p = decision.probability(grid, np.zeros(9, np.int8))
    low, high = decision.interval(p)
    assert (np.diff(p) >= 0).all() and ((low < p) & (p < high)).all()  # rising: the order of days is the adapter's
    if n == 0:
        np.testing.assert_allclose(p, DECISION.probability(grid, np.zeros(9, np.int8)))


def test_calibration_learns_from_many_days():
    rng = np.random.default_rng(0)
    score = rng.normal(0, 2, 4000)
    truth = 1 / (1 + np.exp(-(0.5 * score - 1.0)))
    few, many = (fit_personal(DECISION, score[:n], (rng.random(n) < truth[:n]).astype(float)) for n in (20, 4000))
    case = np.zeros(len(score), np.int8)
    assert (
        np.abs(many.probability(score, case) - truth).max()
        < 0.06
        < np.abs(DECISION.probability(score, case) - truth).max()
    )
    width = [np.subtract(*reversed(d.interval(d.probability(np.zeros(1), case[:1]))))[0] for d in (few, many)]
    assert width[1] < width[0] / 5


def test_the_verdict_asks_for_more_than_a_base_rate():
    label = np.array([0.0, 0, 0, 1])
    probabilities = {"adapter": np.full(4, 0.3), "population": np.full(4, 0.9), "base_rate": np.full(4, 0.25)}
    assert not judge_probabilities(
        probabilities, label
    ).adapter_kept  # better than the population, not than the person's own share
    verdict = judge_probabilities(probabilities | {"adapter": np.array([0.1, 0.1, 0.1, 0.9])}, label)
    assert (
        verdict.adapter_kept
        and verdict.scores["auroc"]["adapter"] == 1
        and "4 held-out days, 1 with" in verdict.sentence
    )
    chance = judge_probabilities(
        probabilities | {"adapter": np.array([0.3, 0.1, 0.3, 0.3])}, label
    )  # lower, by less than its error
    assert chance.scores["brier"]["adapter"] < chance.scores["brier"]["base_rate"] and not chance.adapter_kept
    day, loss = np.repeat(one_person.START + np.arange(4), 5), np.tile(np.arange(5.0), 4)
    forecasts = judge_forecasts({"adapter": loss, "population": loss}, {"adapter": 9.0, "population": 9.1}, day)
    assert not forecasts.adapter_kept and re.search(
        "20 held-out forecasts of 4 days.*POPULATION MODEL KEPT", forecasts.sentence
    )
    assert judge_forecasts(
        {"adapter": loss, "population": loss + 1}, {"adapter": 9.0, "population": 9.1}, day
    ).adapter_kept


# --- a forecaster -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def glucose(tmp_path_factory):
    import served

    from raycadian.config import TTM

    folder = tmp_path_factory.mktemp("glucose")
    run = served.make_run(folder / "runs", served.people(4, 6), model=TTM(d_model=16, layers=1, patch_length=12))
    values = helpers.day_curve(20, phase_h=3, seed=50)
    time = np.datetime64("2026-02-01T00:00", "s") + 300 * np.arange(len(values))
    table = pd.DataFrame({"time": time.astype(str), "glucose": values.round(1)})
    table.to_csv(folder / "cgm.csv", index=False)
    return run, folder / "cgm.csv"


@pytest.mark.slow
def test_the_same_verb_takes_a_forecaster(glucose, tmp_path):
    run, path = glucose
    store = Store(tmp_path / "people")
    about = calibrate(CalibrationInputs(run, SUBJECT, path), store).person.metadata
    assert about["held_out"].keys() == {"pinball_mgdl", "rmse_mgdl"} and about["parameters"] < 10_000
    assert about["kept"] == "adapter", about["verdict"]  # the run is hardly trained
    assert store.read(SUBJECT).baseline.names == GLUCOSE
    from raycadian.serving.forecaster import Forecaster, read_history

    history = read_history(path)
    own = open_person(run, store.read(SUBJECT), store).answer(history)
    plain = Forecaster.load(run.path).answer(history)
    assert own.as_dict()["personal"]["kept"] == "adapter" and "personal" not in plain.as_dict()
    assert not np.allclose(own.median, plain.median)


@pytest.mark.slow
def test_a_forecaster_is_refused_what_is_not_its(glucose, export, tmp_path):
    run, path = glucose
    store = Store(tmp_path / "people")
    with pytest.raises(ValueError, match="leave out --episodes and --channel"):
        calibrate(CalibrationInputs(run, SUBJECT, path, export[1]), store)
    short = tmp_path / "short.csv"
    pd.read_csv(path).head(288 * 9).to_csv(short, index=False)
    with pytest.raises(ValueError, match="needs 14 days with 70% of their readings, found 9"):
        calibrate(CalibrationInputs(run, SUBJECT, short), store)


# --- the verbs --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_verbs(run, export, tmp_path):
    where = ["--people", str(tmp_path / "people"), "--runs", str(run.path.parent)]

    def ask(*words, code=0):
        result = CliRunner().invoke(cli.main, [str(w) for w in words])
        assert result.exit_code == code, result.output
        return result

    person = ["--subject", SUBJECT, "--recording", export[0]]
    made = json.loads(ask("calibrate", *person, "--episodes", export[1], "--run", run.name, *where, "--json").stdout)
    assert made["kept"] == "adapter" and len(made["key"]) > 40
    one = json.loads(ask("predict", *person, "--day", "2026-03-12", *where, "--json").stdout)
    assert one["windows"][0]["probability"] > 0.5 and one["personal"]["adapter"] == made["adapter"]
    assert "furthest from usual" in ask("predict", *person, *where).stdout
    assert made["key"] not in ask("calibrate", "--subject", SUBJECT, "--new-key", *where).stdout
    assert "has calibrated already" in ask("calibrate", *person, "--run", run.name, *where, code=2).stderr
    assert json.loads(ask("forget", "--subject", SUBJECT, *where[:2], "--json").stdout)["files"] == 3
    assert "has not calibrated" in ask("predict", *person, *where, code=2).stderr
    assert "nothing is kept" in ask("calibrate", "--subject", SUBJECT, "--delete", *where, code=2).stderr
    assert "expected 1 to 64" in ask("calibrate", "--subject", "../x", *where, code=2).stderr
    assert "--recording is missing" in ask("calibrate", "--subject", "x", *where, code=2).stderr
