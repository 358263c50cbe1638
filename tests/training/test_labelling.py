"""The line of classify and regress: from cases to a snapshot, a run, a report, a champion; workers; labels in random
order."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import served_signals
import torch
from labelled_people import CHANNELS, Cases, cases
from served_signals import TRACKS

from raycadian import workflow
from raycadian.config import (
    CNN,
    Ahead,
    Boosting,
    Classification,
    Column,
    Evaluation,
    FeatureNet,
    Hypotension,
    LabelWindow,
    LastValue,
    Recipe,
    Regression,
    Split,
    Statistics,
    Tracking,
    Training,
)  # fmt: skip
from raycadian.data.label_windows import cut_labelled
from raycadian.data.series import build_series, open_series
from raycadian.data.snapshot import Snapshot
from raycadian.data.split import make_split
from raycadian.data.stream import open_shards
from raycadian.evaluation.label.classification import score_labels
from raycadian.modalities.biosignals.prepare import clean
from raycadian.modalities.biosignals.readers import read_case
from raycadian.modalities.cards import card_of
from raycadian.modalities.prepare import prepare
from raycadian.runs import Run
from raycadian.tasks import task_of
from raycadian.tasks.signal import SignalData
from raycadian.tasks.window_index import find_windows, strata
from raycadian.tracking import registry
from raycadian.training.engines import Process
from raycadian.training.feed import Streamed, read_here
from raycadian.training.pipeline import rescore, results_of, train_run


def recipe(**changes: object) -> Recipe:
    given = {
        "name": "labels", "dataset": "datasets/none.yaml", "split": Split(kind="subject", test_subjects=0.4,
        val_subjects=0.4),
        "window": LabelWindow(past=CHANNELS, windows=6, step_s=30, eval_step_s=30),
        "task": Classification(label=Hypotension()),
        "model": Statistics(), "training": Training(epochs=8, batch_size=64, lr=0.03, device="cpu"),
        "evaluation": Evaluation(bootstrap=100), "tracking": Tracking(tensorboard=False),
    }  # fmt: skip
    return Recipe(**given | changes)


def data(people: Cases, of: Recipe) -> SignalData:
    series = build_series(people, of.window.past)
    places = find_windows(people, series, of.window, of.task)
    lengths = {s: [len(r) for r in people.recordings(s)] for s in people.subjects}
    split = make_split(lengths, of.split, strata=strata(places, series))
    return SignalData("cases", series, split, card=served_signals.card(), index=places)


@pytest.fixture(scope="module")
def people() -> Cases:
    return cases(24)


@pytest.fixture(scope="module")
def runs(people, tmp_path_factory) -> Path:
    """A run of statistics, its peer `last` before it."""
    folder = tmp_path_factory.mktemp("runs")
    of = recipe()
    peer = train_run(
        of.model_copy(update={"name": "labels-last", "model": LastValue(channel="abp_mmhg")}),
        data(people, of),
        runs=folder,
    )
    train_run(of, data(people, of), runs=folder, against=[peer])
    return folder


@pytest.mark.slow
def test_a_cohort_is_told_what_the_run_was_and_windows_without_a_label_too(people, runs, tmp_path):
    run = Run(next(path for path in runs.iterdir() if path.name.startswith("labels-") and "last" not in path.name))
    task = task_of(run.recipe)
    every, refused = task.everybody(run, people, last=False)
    assert not refused and set(every.subject) == set(people.subjects)
    scored = task.frame(run.path, run.recipe)
    both = every.frame.merge(scored, on=["subject", "case", "time_utc"], suffixes=("", "_scored"))
    assert len(both) == len(scored) < len(every)
    np.testing.assert_allclose(both["probability"], both["probability_scored"], atol=1e-4)
    last, _ = task.everybody(run, people, last=True)
    assert last.subject.tolist() == people.subjects
    ends = every.frame.groupby("subject")["time_utc"].max()
    assert (last.frame.set_index("subject")["time_utc"] == ends).all()
    last.write_parquet(tmp_path / "part.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "part.parquet"), last.frame, check_dtype=False)


@pytest.mark.slow
def test_a_run_holds_its_scores_decision_and_report(runs):
    run = workflow.Run(next(runs.glob("labels-2*")))
    scored = run.summary["test"]
    assert (
        scored["auroc"]["low"] > 0.6 and scored["auroc"]["low"] <= scored["auroc"]["value"] <= scored["auroc"]["high"]
    )
    assert {"auprc", "f1", "sensitivity", "specificity", "ece", "ece_adaptive", "mce", "brier", "lead_time_min"} <= set(
        scored
    )
    said, decision = results_of(run)
    assert decision.calibration.kind == "platt" and set(said.label) == {0.0, 1.0}
    counts = run.metadata["windows"]
    assert counts["test"]["windows"] == len(said)
    html = (run.path / "report.html").read_text()
    for words in (
        "Do probabilities mean what they say?",
        "Alarms over a case",
        "ROC and precision-recall",
        "Leaderboard",
    ):
        assert words in html
    assert "val/auroc" in run.metadata["training"]["history"][0]
    card = (run.path / "MODEL_CARD.md").read_text()
    assert f"| scores, test | AUROC {scored['auroc']['value']:.3f} [{scored['auroc']['low']:.3f}, " in card
    assert (
        f"| people | {run.metadata['split']['train']['subjects']} trained, " in card and "not a medical device" in card
    )
    assert "| NHANES cycles in training | none |" in card and "went on from" not in card


def test_scores_again_are_the_same_and_a_second_look(runs):
    run = workflow.Run(next(runs.glob("labels-2*")))
    before, looks = run.summary, run.metadata["test_looks"]
    assert rescore(run).summary == before
    assert [look["by"] for look in looks] == ["run"]  # one look at the test data, recorded
    assert [look["by"] for look in run.metadata["test_looks"]] == ["run", "score"]


SEVERAL = Classification(label=Column(name="old"), also=(Column(name="tall"),), weight="age", weighted_loss=True)


@pytest.mark.slow
def test_several_labels_are_calibrated_and_scored_each_on_its_own(people, tmp_path):
    of = recipe(task=SEVERAL, model=FeatureNet())
    peer = train_run(of.model_copy(update={"name": "peer", "model": Statistics()}), data(people, of), runs=tmp_path)
    run = train_run(of, data(people, of), runs=tmp_path, against=[peer])
    assert set(run.summary) == {"val", "test", "val_tall", "test_tall"}
    assert of.protocol.startswith("classify old, also tall;")
    first, second = (results_of(run, label) for label in ("", "tall"))
    unknown = {s for s in people.subjects if people.marks(s)[0].attributes["tall"] is None}
    assert unknown & set(first[0].subject) and not unknown & set(second[0].subject)
    assert first[1] != second[1]  # thresholds and calibrations of their own
    for (said, decision), name in ((first, "test"), (second, "test_tall")):
        assert score_labels(said, decision, Evaluation(bootstrap=100)).set_index("metric").value[
            "auroc"
        ] == pytest.approx(run.summary[name]["auroc"]["value"])
    weighing = run.metadata["weights"]
    assert (weighing["column"], weighing["loss"]) == ("age", True)
    assert 0 < weighing["people"]["train"]["effective"] < weighing["people"]["train"]["people"]
    assert run.metadata["windows"]["train"]["tall"]["known"] < run.metadata["windows"]["train"]["windows"]
    table = pd.read_csv(run.path / "detailed_results.csv")
    assert set(table.label.dropna()) == {"tall"} and (table.metric == "auroc").sum() == 2
    html = (run.path / "report.html").read_text()
    assert "Also: tall" in html and html.count("statistics") > 2
    before = run.summary
    assert rescore(run).summary == before
    assert len(workflow.compare([run, peer]).leaderboard) == 2


@pytest.mark.slow
def test_a_weighed_loss_follows_the_weights(people, tmp_path):
    """Weights that grow with age draw the logistic regression's base rate towards the old."""
    rates = {}
    for weighted in (False, True):
        task = SEVERAL.model_copy(update={"weighted_loss": weighted, "also": (), "balance": "none"})
        of = recipe(task=task)
        run = train_run(of, data(people, of), runs=tmp_path / str(weighted))
        rates[weighted] = np.mean(1 / (1 + np.exp(-results_of(run)[0].score)))
        assert run.metadata["weights"]["loss"] == weighted
    assert rates[True] > rates[False] + 0.05


def test_labels_that_do_not_go_together_are_refused():
    for task, words in (
        ({"label": Hypotension(), "also": (Column(name="old"),)}, "columns of the table of people"),
        ({"label": Column(name="old"), "also": (Column(name="old"),)}, "not distinct"),
        ({"label": Column(name="old"), "also": (Column(name="../x"),)}, "name files"),
        ({"label": Column(name="old"), "weighted_loss": True}, "weighs by the column `weight`; name it"),
    ):
        with pytest.raises(ValueError, match=words):
            Classification(**task)


@pytest.mark.slow
def test_runs_are_compared_and_the_best_is_champion(runs):
    both = [workflow.Run(p) for p in sorted(runs.glob("labels-*"))]
    found = workflow.compare(both)
    assert found.protocol.startswith("classify map_mmhg < 65") and len(found.leaderboard) == 2
    assert found.differences.sentence[0]
    best = max(both, key=lambda r: r.summary["val"]["auroc"]["value"])
    worse = min(both, key=lambda r: r.summary["val"]["auroc"]["value"])
    assert workflow.promote(worse, runs=runs).promoted
    done = workflow.promote(best, runs=runs)
    assert done.promoted and done.registered == "none-classify-hypotension-5min" and "AUROC" in done.reason
    assert not workflow.promote(worse, runs=runs).promoted
    assert registry.champion(runs=runs).name == best.name


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"task": Classification(label=Hypotension(ahead_min=10))},
        {"task": Classification(label=Hypotension(), vote=3)},
        {"window": LabelWindow(past=CHANNELS, windows=3, step_s=30, eval_step_s=30)},
    ],
)
def test_runs_of_other_protocols_are_not_compared(runs, people, tmp_path, changes):
    of = recipe(name="other", training=Training(epochs=1, device="cpu"), **changes)
    other = train_run(of, data(people, of), runs=tmp_path)
    with pytest.raises(ValueError, match="is scored by another protocol"):
        workflow.compare([workflow.Run(next(runs.glob("labels-2*"))), other])


@pytest.mark.slow
@pytest.mark.parametrize("model", [Statistics(), Boosting(trees=60)], ids=lambda m: m.kind)
def test_labels_in_random_order_teach_nothing(people, tmp_path, model):
    """A model that finds the labels where they are (0.5 is below its interval) finds nothing of them in random
    order."""
    window = LabelWindow(past=CHANNELS, windows=6, step_s=10, eval_step_s=10)
    score = {}
    for shuffled in (False, True):
        task = Classification(label=Hypotension(), shuffled=shuffled)
        of = recipe(
            name=f"shuffled-{shuffled}", window=window, model=model, task=task,
            evaluation=Evaluation(bootstrap=1000, confidence=0.99),
        )  # fmt: skip
        run = train_run(of, data(people, of), runs=tmp_path)
        score[shuffled] = run.summary["test"]["auroc"]
        assert run.metadata["windows"]["train"]["windows"] > 2000
    assert score[False]["low"] > 0.6, score
    low, high = score[True]["low"], score[True]["high"]
    assert low <= 0.5 <= high and high - low < 0.2, score  # 0.5 itself where calibration finds nothing in the score


def test_a_number_ahead(people, tmp_path):
    of = recipe(task=Regression(label=Ahead(channel="map_mmhg", ahead_min=1)))
    run = train_run(of, data(people, of), runs=tmp_path)
    found = run.summary["test"]
    assert set(found) == {"mae", "rmse", "ccc", "r2", "bias"} and found["r2"]["value"] > 0.3
    assert "Truth and estimate" in (run.path / "report.html").read_text()


def test_whether_a_number_ahead_is_below_a_bound(people, tmp_path):
    of = recipe(task=Classification(label=Ahead(channel="map_mmhg", ahead_min=1, below=65)))
    run = train_run(of, data(people, of), runs=tmp_path)
    assert run.summary["test"]["auroc"]["low"] > 0.6 and "mean map_mmhg < 65 over 60 s" in of.protocol


@pytest.mark.slow
def test_weights_of_people_enter_the_scores(people, tmp_path):
    of = recipe(task=Classification(label=Column(name="old"), weight="age"))
    run = train_run(of, data(people, of), runs=tmp_path)
    said, _ = results_of(run)
    assert len(set(said.weight)) == len(set(said.subject))


# --- on Ray ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def card(tmp_path_factory) -> Path:
    """Four synthetic cases of three people as .vital files, one of them torn, and one outside the clinical table."""
    from raycadian.modalities.biosignals.simulate import make_case, make_person, write_vital

    folder = tmp_path_factory.mktemp("cases")
    for i in range(5):
        tracks, _ = make_case(make_person(np.random.default_rng([5, i])), 360, 250.0, np.random.default_rng([6, i]))
        write_vital(folder / f"{i}.vital", tracks)
    torn = folder / "3.vital"
    torn.write_bytes(torn.read_bytes()[:5000])
    (folder / "clinical.csv").write_text("caseid,subjectid,old\n0,10,0\n1,10,1\n2,11,0\n3,12,1\n")
    waveforms = "".join(f"  {c}: [{t}]\n" for c, t in TRACKS.items())
    text = f"name: few\nmodality: biosignals\nfiles: ['*.vital']\nwaveforms:\n{waveforms}"
    text += "numerics: {map_mmhg: [Solar8000/ART_MBP]}\n"
    (folder / "few.yaml").write_text(text + "clinical: {file: clinical.csv, keep: [old]}\n")
    return folder / "few.yaml"


@pytest.mark.ray
def test_a_snapshot_of_cases(card, tmp_path, ray_local):
    snapshot = prepare(card, tmp_path)
    assert snapshot.subjects == ["10", "11"] and snapshot.manifest["counts"]["cases"] == 4
    issues = snapshot.manifest["issues"]
    assert issues["case that can't be used (left out)"]["count"] == 1
    assert "3.vital" in issues["case that can't be used (left out)"]["examples"][0]
    assert issues["case not in the clinical table, or outside the cohort (left out)"]["examples"] == ["4"]
    first, second = snapshot.marks("10")
    assert (first.case, second.case) == ("0", "1") and (first.attributes["old"], second.attributes["old"]) == (0, 1)
    read = read_case(card.parent / "0.vital", tracks=TRACKS, units={"ecg_mv": "mV", "abp_mmhg": "mmHg"}, subject="10")
    expected = clean(read, card_of(snapshot))
    np.testing.assert_array_equal(snapshot.recordings("10")[0].channels["ppg"], expected.recording.channels["ppg"])
    for channel, reasons in expected.marks.judged.reasons.items():
        np.testing.assert_array_equal(first.judged.reasons[channel], reasons)
    times, values = first.numerics["map_mmhg"]
    assert (np.diff(times) > 0).all() and 40 < np.median(values) < 120
    snapshot.verify()
    assert prepare(card, tmp_path).id == snapshot.id
    (file,) = snapshot.path.glob("subjects-*.parquet")
    rows, schema = pq.read_table(file).to_pylist(), pq.read_schema(file)
    rows[0]["attributes"] = rows[0]["attributes"].replace('"old": 0', '"old": 1')
    pq.write_table(pa.Table.from_pylist(rows, schema), file)
    body = snapshot.manifest | {"files": snapshot.manifest["files"] | {file.name: file.stat().st_size}}
    (snapshot.path / "manifest.json").write_text(json.dumps(body))
    with pytest.raises(ValueError, match="are not what was written"):
        Snapshot.open(snapshot.path).verify()


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_follow_the_curve_of_one(people, tmp_path, ray_local):
    histories = {}
    for workers in (1, 2):
        of = recipe(
            model=CNN(width=4, blocks=2, dropout=0),
            training=Training(epochs=2, batch_size=64, workers=workers, device="cpu"),
        )
        histories[workers] = train_run(of, data(people, of), runs=tmp_path / str(workers)).metadata["training"][
            "history"
        ]
    for one, two in zip(histories[1], histories[2], strict=True):
        for name in ("train/loss", "val/loss", "val/auroc"):
            assert one[name] == pytest.approx(two[name], rel=1e-3), name


@pytest.mark.ray
def test_windows_with_labels_stream_as_they_are_mapped(card, tmp_path, ray_local):
    snapshot, window = prepare(card, tmp_path), LabelWindow(past=("abp_mmhg", "ppg"), step_s=20, eval_step_s=20)
    task = Regression(label=Ahead(channel="map_mmhg", ahead_min=0.5, over_s=30))
    cut = []
    for series in (open_series(snapshot, window.past), open_shards(snapshot, window.past, shuffle_bytes=10)):
        index = find_windows(snapshot, series, window, task)
        cut.append(cut_labelled(series, index, window, weighted=True))
    mapped, streamed = cut
    assert len(streamed.series.shards) == 2 and len(mapped) == len(streamed) > 20
    shuffled = torch.from_numpy(np.random.default_rng(0).permutation(len(mapped)))
    one, other = mapped.batch(shuffled), streamed.batch(shuffled)
    assert {name for name in one if not torch.equal(one[name], other[name])} == set()
    assert one.keys() == other.keys() > {"past", "past_mask", "label", "weight"}
    unlabelled = index.take(series.offsets[index.recording] >= series.shards[1].begin)  # nobody of the first shard
    windows = cut_labelled(series, unlabelled, window)
    feed = Streamed(windows, Training(batch_size=4), Process(), read_here)
    shown = torch.cat([batch["time_s"] for ((batch, _),) in feed.epoch(1, 1)])
    assert 0 < feed.windows == len(shown.unique()) and len(windows) - feed.windows < 4


@pytest.mark.ray
def test_the_quality_of_cases_as_a_page(card, tmp_path, ray_local):
    from raycadian.modalities.quality import quality_page

    html = quality_page(prepare(card, tmp_path))
    for words in ("windows_judged", "stretches rejected, by channel and reason", "<td>10</td>", "<td>11</td>"):
        assert words in html
