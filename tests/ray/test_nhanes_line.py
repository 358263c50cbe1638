"""From XPT files to a registered, calibrated, served model: made-up participants, and NHANES's own wear flags."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyreadstat")
from raycadian import workflow
from raycadian.config import load_recipe, override
from raycadian.data.snapshot import Snapshot
from raycadian.experiments import runner
from raycadian.modalities.actigraphy.request import Activity
from raycadian.modalities.actigraphy.simulate import simulate_nhanes
from raycadian.modalities.quality import quality_page
from raycadian.runs import Run
from raycadian.serving.label import LabelPredictor
from raycadian.tracking import registry
from raycadian.training.pipeline import load_data, results_of, train_run

ROOT = Path(__file__).parents[2]
PEOPLE = 60
SMALL = {
    "split.test_subjects": 0.4, "split.val_subjects": 0.4, "training.epochs": 2, "training.device": "cpu",
    "training.precision": "fp32", "evaluation.bootstrap": 200, "tracking": {"tensorboard": False},
}  # fmt: skip
SSRI, BENZODIAZEPINE = ({"kind": "column", "name": name} for name in ("ssri", "benzodiazepine"))
HEAD = {"kind": "pat", "adapter": {"kind": "head"}}
LORA = {"kind": "pat", "adapter": {"kind": "lora", "rank": 8}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, ray_local) -> Path:
    folder = tmp_path_factory.mktemp("nhanes")
    simulate_nhanes(PEOPLE, folder / "participants", "D", seed=5, effect=2.0, prevalence=0.4)
    return folder


@pytest.fixture(scope="module")
def outcome(folder) -> workflow.Outcome:
    """The recipe at a tiny size, with three labels at once and a weighed loss; PAT by its head alone and by LoRA beside
    it."""
    changes = SMALL | {
        "dataset": str(folder / "participants.yaml"), "task.also": [SSRI, BENZODIAZEPINE], "task.weighted_loss": True,
        "model": {"kind": "stack", "members": [HEAD, {"kind": "boosting", "features": "rhythm"}]},
        "compare": [{"kind": "statistics", "features": "rhythm"}, HEAD, LORA],
    }  # fmt: skip
    recipe = override(load_recipe(ROOT / "jobs/recipes/nhanes_depression.yaml"), changes)
    return workflow.run(recipe, workflow.Quiet(), runs=folder / "runs", snapshots=folder / "snapshots")


pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_from_xpt_to_a_champion_of_several_labels(outcome, folder):
    run = outcome.main
    assert set(run.summary) == {f"{s}{n}" for s in ("val", "test") for n in ("", "_ssri", "_benzodiazepine")}
    assert registry.champion(runs=folder / "runs").name == outcome.ranked[0].name
    assert outcome.leaderboard.auroc.max() > 0.6
    for label in ("", "ssri", "benzodiazepine"):
        said, decision = results_of(run, label)
        assert decision.calibration.kind == "platt" and len(set(said.weight)) > 10


def snapshot_of(folder: Path) -> Snapshot:
    return Snapshot.open(next((folder / "snapshots").glob("participants-*")))


def test_the_flow_chart_ends_with_those_who_are_scored(outcome, folder):
    run = outcome.main
    cohort = run.metadata["cohort"]
    assert cohort["steps"][1] == {"step": "people interviewed", "excluded": 0, "left": PEOPLE}
    for before, step in zip(cohort["steps"][1:], cohort["steps"][2:], strict=False):
        assert before["left"] - step["excluded"] == step["left"]
    assert cohort["steps"][-1]["left"] == sum(cohort["people"].values())
    said, _ = results_of(run)
    assert cohort["people"]["test"] == len(set(said.subject))
    html = (run.path / "report.html").read_text()
    assert "Who is left: ssri" in quality_page(snapshot_of(folder))
    assert "Who is in it" in html and "people interviewed" in html and "Also: benzodiazepine" in html


def test_runs_differ_as_their_counts_of_weights_say(outcome):
    """Of PAT-S with three labels: a head of 12,545 and two outputs of 129 more; LoRA of rank 8 adds 4 x 8 x (96 +
    576)."""
    by_model = {r.metadata["model"]: r.metadata for r in outcome.ranked}
    head = 12_545 + 2 * 129
    assert by_model["pat_head"]["trainable"] == head
    assert by_model["pat_lora"]["trainable"] == head + 4 * 8 * (96 + 576)
    assert by_model["pat_lora"]["parameters"] - by_model["pat_head"]["parameters"] == 4 * 8 * (96 + 576)


def test_what_is_served_is_what_was_scored(outcome, folder):
    run, recipe = outcome.main, outcome.main.recipe
    snapshot = snapshot_of(folder)
    served = LabelPredictor.load(run.path)
    scored = {label: results_of(run, label) for label in recipe.task.labels}
    subject = scored[""][0].subject[0]
    (recording,) = snapshot.recordings(subject)
    values = np.where(recording.observed, recording.channels["activity_counts"], np.nan)
    local = recording.start_utc.astype("datetime64[s]")
    found = served.answer(Activity(None, "activity_counts", local, 60.0, values, ~recording.observed)).as_dict()
    window = found["windows"][0]
    for label, (said, decision) in scored.items():
        at = said.subject == subject
        if at.any():
            expected = decision.probability(said.score[at], said.case[at])[0]
            own = window["also"][label] if label else window
            assert own["probability"] == pytest.approx(expected, abs=1e-6), label
    assert set(found["also"]) == {"ssri", "benzodiazepine"}


def test_a_task_on_the_cycle_of_the_pretraining_is_refused_unless_forced(folder):
    """The snapshot's people are of cycle D, which the masked run records though nobody says so; its people are refused
    whatever is forced."""
    pretrain = override(
        load_recipe(ROOT / "jobs/recipes/nhanes_pretrain.yaml"),
        SMALL | {"dataset": str(folder / "participants.yaml"), "training.epochs": 1, "training.workers": 1,
        "window.windows": 2},
    )  # fmt: skip
    seen = train_run(pretrain, load_data(pretrain, folder / "snapshots"), runs=folder / "runs")
    assert seen.metadata["test_looks"] == []
    assert "| NHANES cycles in training | D |" in (seen.path / "MODEL_CARD.md").read_text()
    model = HEAD | {"pretrained": str(seen.path / "checkpoint")}
    changes = SMALL | {
        "dataset": str(folder / "participants.yaml"),
        "window.windows": 2,
        "training.epochs": 1,
        "model": model,
        "compare": [],
    }
    recipe = override(load_recipe(ROOT / "jobs/recipes/nhanes_depression.yaml"), changes)
    data = load_data(recipe, folder / "snapshots")
    with pytest.raises(
        ValueError, match=r"leakage: pat.pretrained .* has learnt from \d+ of the people.*split: {kind: run"
    ):
        train_run(override(recipe, {"model.seen": "allow"}), data, runs=folder / "runs")
    recipe = override(recipe, {"split.kind": "run", "split.run": str(seen.path)})
    data = load_data(recipe, folder / "snapshots")
    with pytest.raises(ValueError, match=r"leakage: the data hold NHANES cycles \['D'\].*pat.seen: allow"):
        train_run(recipe, data, runs=folder / "runs")
    forced = override(recipe, {"model.seen": "allow"})
    run = train_run(forced, data, runs=folder / "runs")
    assert run.metadata["seen"]["pretraining_cycles"] == ["D"] and run.metadata["seen"]["runs"].keys() == {seen.name}
    card = (run.path / "MODEL_CARD.md").read_text()
    assert "| NHANES cycles in pretraining | D |" in card and f"people of {seen.name}" in card and "AUROC 0." in card


def test_shuffled_labels_score_by_chance_with_a_model_that_learns(outcome, folder):
    """The same regression on the same weeks, whose labels were put in random order."""
    changes = SMALL | {"dataset": str(folder / "participants.yaml"), "compare": [], "task.shuffled": True,
                       "model": {"kind": "statistics", "features": "rhythm"}}  # fmt: skip
    recipe = override(load_recipe(ROOT / "jobs/recipes/nhanes_depression.yaml"), changes)
    found = {}
    for shuffled in (True, False):
        one = override(recipe, {"task.shuffled": shuffled})
        found[shuffled] = train_run(one, load_data(one, folder / "snapshots"), runs=folder / "runs").summary["test"][
            "auroc"
        ]
    assert found[True]["low"] <= 0.5 <= found[True]["high"]
    assert found[False]["low"] > 0.5, found


def test_the_score_by_the_number_of_people_learnt_from(folder):
    changes = SMALL | {"dataset": str(folder / "participants.yaml"), "compare": [{"kind": "statistics",
        "features": "rhythm"}],
                       "model": {"kind": "boosting", "features": "rhythm"},
                       "experiment": {"kind": "data_efficiency", "windows": [10, "all"]}}  # fmt: skip
    recipe = override(load_recipe(ROOT / "jobs/recipes/nhanes_depression.yaml"), changes)
    done = runner.run(recipe, workflow.Quiet(), runs=folder / "runs", snapshots=folder / "snapshots")
    names = {"recipe.yaml", "table.csv", "table.json", "differences.csv", "figure.svg", "report.html"}
    assert {p.name for p in done.path.iterdir()} == names
    rows = [row for row in done.table["rows"] if row["metric"] == "auroc"]
    assert len(rows) == 4 and len({row["n_windows"] for row in rows}) == 1  # identical test people
    sizes = sorted({row["x"] for row in rows})
    runs = [Run(folder / "runs" / name) for point in done.table["runs"] for name in point["runs"]]
    assert sizes[0] == 10 and sizes[1] == max(r.metadata["windows"]["train"]["windows"] for r in runs)
    assert len(done.table["differences"]) == 2  # of the models at each size
    html = (done.path / "report.html").read_text()
    assert "training windows" in html and "<svg" in html and "identical" not in done.table["notes"][0]
    json.dumps(done.table)
    with pytest.raises(ValueError, match="1000 windows are asked for"):
        runner.run(override(recipe, {"experiment.windows": [10, 1000]}), workflow.Quiet(), runs=folder / "runs",
                   snapshots=folder / "snapshots")  # fmt: skip
    with pytest.raises(ValueError, match="not one of task classify; there is data_efficiency"):
        override(recipe, {"experiment": {"kind": "nocturnal"}})


def test_everybody_is_tested_once_by_models_of_the_others(folder):
    changes = SMALL | {"dataset": str(folder / "participants.yaml"), "compare": [{"kind": "statistics",
        "features": "rhythm"}],
                       "model": {"kind": "boosting", "features": "rhythm"}, "split.test_subjects": 0.2,
                       "experiment": {"kind": "cross_validation", "folds": 3}}  # fmt: skip
    recipe = override(load_recipe(ROOT / "jobs/recipes/nhanes_depression.yaml"), changes)
    done = runner.run(recipe, workflow.Quiet(), runs=folder / "runs", snapshots=folder / "snapshots")
    everybody = {r.subject for r in load_data(recipe, folder / "snapshots").split.ranges}
    for point in done.table["runs"]:
        runs = [Run(folder / "runs" / name) for name in point["runs"]]
        tested = [s for run in runs for s in results_of(run)[0].subject]
        assert len(runs) == 3 and sorted(tested) == sorted(everybody)
        for run in runs:
            split = json.loads((run.path / "split.json").read_text())["ranges"]
            own = {r["subject"] for r in split if r["split"] == "test"}
            assert own and not own & {r["subject"] for r in split if r["split"] != "test"}
    rows = {row["model"]: row for row in done.table["rows"] if row["metric"] == "auroc"}
    assert {row["n_subjects"] for row in rows.values()} == {len(everybody)} and rows["statistics"]["low"] > 0.5
    assert len(done.table["differences"]) == 1 and done.table["notes"][0].startswith("Everybody is tested once")


@pytest.mark.long
def test_real_wear_flags_from_files_to_a_weighed_score(shared, tmp_path, ray_local, monkeypatch):
    """4,861 people with a questionnaire, 4,465 complete; wear is weak evidence, so the interval is all that is asked
    for."""
    monkeypatch.chdir(ROOT)
    recipe = override(load_recipe(ROOT / "jobs/recipes/nhanes_wear.yaml"), {"compare": [], "evaluation.bootstrap": 200})
    outcome = workflow.run(recipe, workflow.Quiet(), runs=tmp_path / "runs", snapshots=tmp_path / "snapshots")
    steps = {step["step"]: step["left"] for step in outcome.main.metadata["cohort"]["steps"]}
    assert (steps["without a PHQ-9 record"], steps["depressed not known"]) == (4_861, 4_465)
    found = outcome.main.summary["test"]["auroc"]
    assert 0.4 < found["low"] < found["value"] < found["high"] < 0.7
