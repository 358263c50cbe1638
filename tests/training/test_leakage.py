"""A training that goes on from an earlier run is validated and tested on nobody that the run has learnt from."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from labelled_people import CHANNELS, Cases, cases

from raycadian.config import Recipe, load_recipe, override, parse
from raycadian.data.series import build_series
from raycadian.data.split import SplitManifest, make_split, met
from raycadian.runs import write_recipe
from raycadian.tasks import task_of
from raycadian.tasks.signal import SignalData
from raycadian.tasks.window_index import find_windows
from raycadian.training.leakage import require_apart
from raycadian.training.pipeline import fit_model

TASK = {
    "name": "x", "dataset": "datasets/x.yaml", "split": {"kind": "subject", "test_subjects": 0.25,
    "val_subjects": 0.25},
    "window": {"kind": "signal", "past": list(CHANNELS), "windows": 6, "step_s": 30, "eval_step_s": 30},
    "task": {"kind": "classify", "label": {"kind": "column", "name": "old"}},
    "model": {"kind": "ttm_label", "d_model": 8, "layers": 1, "patch_length": 10},
}  # fmt: skip
PRETRAIN = TASK | {"task": {"kind": "pretrain"}, "model": {"kind": "masked", "inner": TASK["model"]}}
FORECAST = {"name": "x", "dataset": "datasets/x.yaml", "model": {"kind": "persistence"}}
LENGTHS = {f"s{i}": [400, 300] for i in range(10)}


@pytest.fixture
def people() -> Cases:
    return replace(cases(24), id="cases-1")


def load(people: Cases, of: Recipe) -> SignalData:
    series = build_series(people, of.window.past)
    index = find_windows(people, series, of.window, of.task, of.split.seed)
    split = task_of(of).split(of, people.id, series, index)
    return SignalData(people.id, series, split, card=None, index=index)


def run_of(folder: Path, of: Recipe, split: SplitManifest) -> Path:
    """What a run leaves that says whom it has learnt from."""
    (folder / "checkpoint").mkdir(parents=True)
    split.write(folder / "split.json")
    write_recipe(folder / "recipe.yaml", of)
    (folder / "metadata.json").write_text("{}")
    (folder / "checkpoint" / "config.json").write_text(json.dumps({"weights_sha256": "0"}))
    return folder


def whose(split: SplitManifest) -> dict[str, str]:
    return {r.subject: r.split for r in split.ranges}


def test_a_task_on_people_of_its_pretraining_is_refused_until_they_share_a_split(people, tmp_path):
    pretraining, task = parse(Recipe, PRETRAIN), parse(Recipe, TASK)
    before = load(people, pretraining).split
    run = run_of(tmp_path / "pretraining", pretraining, before)
    task = override(task, {"model.pretrained": str(run / "checkpoint")})
    data = load(people, task)
    assert whose(before) != whose(data.split)  # the same section, but along the label
    with pytest.raises(ValueError, match=rf"leakage: ttm_label.pretrained {run}.*kind: run, run: {run}"):
        fit_model(data, task)
    shared = override(task, {"split.kind": "run", "split.run": str(run)})
    assert whose(load(people, shared).split) == whose(before)
    require_apart(shared, load(people, shared).split)


def test_a_pretraining_takes_the_split_of_its_task_and_learns_from_those_without_the_label(people, tmp_path):
    task = override(parse(Recipe, TASK), {"task.label.name": "tall"})
    split = load(people, task).split
    run = run_of(tmp_path / "task", task, split)
    pretraining = override(parse(Recipe, PRETRAIN), {"split.kind": "run", "split.run": str(run)})
    before = load(people, pretraining).split
    unlabelled = whose(before).keys() - whose(split).keys()
    assert unlabelled and {whose(before)[s] for s in unlabelled} == {"train"}
    assert {s: whose(before)[s] for s in whose(split)} == whose(split)
    first = run_of(tmp_path / "pretraining", pretraining, before)
    require_apart(override(task, {"model.pretrained": str(first / "checkpoint")}), split)


def test_what_went_before_the_pretraining_counts_too(people, tmp_path):
    pretraining = parse(Recipe, PRETRAIN)
    before = load(people, pretraining).split
    first = run_of(tmp_path / "first", pretraining, before)
    task = parse(Recipe, TASK)
    split = load(people, task).split
    second = override(pretraining, {"model.inner.pretrained": str(first / "checkpoint")})
    run = run_of(tmp_path / "second", second, split)  # itself apart
    with pytest.raises(ValueError, match=rf"leakage: ttm_label.pretrained {first}"):
        require_apart(override(task, {"model.pretrained": str(run / "checkpoint")}), split)


def test_another_version_of_the_data_set_has_the_same_people_and_another_data_set_has_not(people, tmp_path):
    pretraining, task = parse(Recipe, PRETRAIN), parse(Recipe, TASK)
    before = load(people, pretraining).split
    split = load(replace(people, id="cases-2"), task).split
    for name, snapshot in (("same", "cases-1"), ("other", "others-1")):
        run = run_of(tmp_path / name, pretraining, replace(before, snapshot=snapshot))
        one = override(task, {"model.pretrained": str(run / "checkpoint")})
        if name == "same":
            with pytest.raises(ValueError, match="leakage"):
                require_apart(one, split)
        else:
            require_apart(one, split)
    with pytest.raises(ValueError, match="splits the people of others-1, not those of cases-1"):
        load(people, override(task, {"split.kind": "run", "split.run": str(tmp_path / "other")}))


def test_a_checkpoint_taken_out_of_its_run_is_refused(people, tmp_path):
    pretraining = parse(Recipe, PRETRAIN)
    data = load(people, pretraining)
    run = run_of(tmp_path / "run", pretraining, data.split)
    (run / "split.json").unlink()
    with pytest.raises(ValueError, match=r"has no split.json; copy the whole run"):
        require_apart(override(pretraining, {"model.inner.pretrained": str(run / "checkpoint")}), data.split)


def test_forecasts_go_on_over_the_same_split_and_over_days_of_a_person_held_out(tmp_path):
    population = parse(Recipe, FORECAST)
    split = make_split(LENGTHS, population.split, "cgm-1")
    run = run_of(tmp_path / "run", population, split)
    later = override(population, {"start": str(run)})
    require_apart(later, split)
    (held, *_) = sorted({r.subject for r in split.ranges if r.scope == "ood"})
    (known, *_) = sorted({r.subject for r in split.of("train")})
    for person, refused in ((held, False), (known, True)):
        days = {"subject": person, "history_days": 1, "train_days": 1, "val_days": 0.5}
        own = override(later, {"split.kind": "person", "split.person": days})
        own_split = make_split(LENGTHS, own.split, "cgm-1")
        if refused:
            with pytest.raises(ValueError, match="leakage: start .* 's1'.*the same `split` section"):
                require_apart(own, own_split)
        else:
            require_apart(own, own_split)
    reseeded = make_split(LENGTHS, override(later, {"split.seed": 7}).split, "cgm-1")
    with pytest.raises(ValueError, match="leakage: start"):
        require_apart(later, reseeded)


def test_ranges_meet_where_they_share_points():
    ranges = make_split({"a": [100], "b": [100]}, parse(Recipe, FORECAST | {"split": {"kind": "time"}}).split).ranges
    train, val = ([r for r in ranges if r.split == name] for name in ("train", "val"))
    assert met(train, val) == [] and met(train, train) == ["a", "b"]
    assert met([replace(train[0], recording=1)], train) == []


@pytest.mark.parametrize(
    ("recipe", "split", "message"),
    [
        (TASK, {"kind": "run"}, "split.kind run and split.run belong together"),
        (TASK, {"kind": "subject", "run": "runs/x"}, "split.kind run and split.run belong together"),
        (FORECAST, {"kind": "run", "run": "runs/x"}, "split.kind run is one of classify, regress and pretrain"),
    ],
)
def test_a_split_of_a_run_that_makes_no_sense(recipe, split, message):
    with pytest.raises(ValueError, match=message):
        parse(Recipe, recipe | {"split": split})


def test_a_recipe_without_it_keeps_its_key():
    path = Path(__file__).parents[2] / "jobs/recipes/nhanes_depression.yaml"
    assert "run" not in load_recipe(path).model_dump(mode="json")["split"]
