"""Before a run is promoted it is loaded as it will be served, and has to say what it said when it was scored."""

import json
import re
import shutil

import numpy as np
import pytest
import served
from safetensors.torch import load_file, save_file

from raycadian import manifest, workflow
from raycadian.config import CMA, CMAMechanism, Ridge
from raycadian.errors import CheckpointError
from raycadian.files import write_json
from raycadian.models import checkpoint
from raycadian.runs import Run, write_recipe
from raycadian.serving import plausible
from raycadian.serving.canary import require_as_scored
from raycadian.serving.load import load_predictor
from raycadian.tracking import registry
from raycadian.training.pipeline import read_predictions

pytestmark = pytest.mark.slow  # trained runs behind them

MODELS = {"ridge": Ridge(lags=6), "cma": CMA(mechanism=CMAMechanism(refit_days=2))}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder, readings = tmp_path_factory.mktemp("runs"), served.people(3, 5)
    return {name: served.make_run(folder, readings, model=model) for name, model in MODELS.items()}


@pytest.fixture
def copy(runs, tmp_path):
    """A function: a copy of a run to spoil, of before manifests unless told otherwise."""

    def copied(name, manifested=False):
        path = tmp_path / "runs" / runs[name].path.name
        shutil.copytree(runs[name].path, path)
        if not manifested:
            (path / manifest.FILE).unlink()
        return Run(path)

    return copied


def test_a_sound_run_says_how_it_was_checked(runs, tmp_path):
    assert require_as_scored(runs["cma"], tmp_path) == "checked: 6 windows predicted as scored"
    assert require_as_scored(runs["ridge"], tmp_path) == "checked: 6 windows predicted as scored, 2 answered"
    assert manifest.verify(runs["ridge"].path).problems == ()


def test_a_run_whose_forecast_leaves_what_glucose_can_be_is_promoted(runs, tmp_path, monkeypatch):
    """Its answers are kept within bounds, its predictions are not."""
    monkeypatch.setattr(plausible, "GLUCOSE_MAX_MGDL", float(np.median(read_predictions(runs["ridge"]).quantiles)))
    assert "answered" in require_as_scored(runs["ridge"], tmp_path)


def rewrite(run, **changes):
    path = run.path / "checkpoint" / "preprocessing.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewritten(run, file, **changes):
    """GET /v1/model was a 500 for the champion."""
    write_json(run.path / file, json.loads((run.path / file).read_text()) | changes)


def other_weights(run):
    """A sound checkpoint of another training."""
    model = checkpoint.load(run.path / "checkpoint")
    for buffer in model.buffers():
        if buffer.is_floating_point() and buffer.numel() > 10:
            buffer.mul_(1.01)
    kept = (run.path / "checkpoint" / "preprocessing.json").read_bytes()
    checkpoint.save(model, run.path / "checkpoint")
    (run.path / "checkpoint" / "preprocessing.json").write_bytes(kept)


def other_scale(run):
    grid = json.loads((run.path / "checkpoint" / "preprocessing.json").read_text())["grid"]
    rewrite(run, grid=grid | {"dt_min": 10})


def a_damaged_canary(run):
    (run.path / "canary.safetensors").write_bytes(b"{")


def rows_beyond(run):
    file = run.path / "canary.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"rows": tensors["rows"] + 10**9}, file)


def another_horizon(run):
    """It became the champion of forecasts twice as long."""
    recipe = run.recipe
    write_recipe(run.path / "recipe.yaml", recipe.model_copy(update={"window": recipe.window.model_copy(
        update={"horizon": 12})}))  # fmt: skip


def another_dataset(run):
    """It was registered as the champion of a data set that it never saw."""
    write_json(run.path / "metadata.json", run.metadata | {"snapshot": "none-0123456789ab"})
    card = run.path.parent / "renamed.yaml"
    card.write_text("{name: none, modality: cgm, files: [a.csv], unit: mg/dL}")
    for dataset in ("none.yaml", str(card)):
        write_recipe(run.path / "recipe.yaml", run.recipe.model_copy(update={"dataset": dataset}))
        require_as_scored(run, run.path)
    write_recipe(run.path / "recipe.yaml", run.recipe.model_copy(update={"dataset": "cards/other.yaml"}))


DAMAGES = {
    "another data set": ("ridge", another_dataset, "dataset: .*other.yaml is not of .*none-0123456789ab"),
    "another recipe": ("ridge", another_horizon, "recipe.yaml asks for forecast .*36 -> 12 .* has .*36 -> 6 "),
    "other weights": ("ridge", other_weights, "does not say what its predictions say"),
    "another grid": ("ridge", other_scale, "."),
    "no population": ("cma", lambda run: rewrite(run, population=None), "population: expected"),
    "population of nothing": ("cma", lambda run: rewrite(run, population={}), "not records of CMA fits"),
    "nested": ("ridge", lambda run: (run.path / "checkpoint/config.json").write_text("[" * 10**5), "nested deeper"),
    "no scores": (
        "ridge",
        lambda run: (run.path / "metrics_summary.json").unlink(),
        "metrics_summary.json: no such",
    ),
    "no scores of a model": (
        "ridge",
        lambda run: rewritten(run, "metrics_summary.json", test=[1]),
        "metrics: Input should",
    ),
    "a snapshot in numbers": (
        "ridge",
        lambda run: rewritten(run, "metadata.json", snapshot=5),
        "snapshot: Input should",
    ),
    "half a character": (
        "ridge",
        lambda run: rewritten(run, "metrics_summary.json", test={"a": "\ud800"}),
        "surrogates",
    ),
    "a damaged canary": ("ridge", a_damaged_canary, "canary.safetensors: damaged"),
    "rows beyond the table": ("ridge", rows_beyond, "the predictions have"),
}


WRONG_KINDS = [  # of 17,000 changes of one value, what a request met as a TypeError, RuntimeError or OverflowError
    ("training_range", {"channels": 3}), ("window", {"context": 120}), ("grid", {"dt_min": 10}),
    ("mechanism", {"prior": {"taup": {"mean": 1, "sd": 1e300}}}),
    *(("population", {key: value}) for key, value in (
        ("taug", {}), ("tM", None), ("tM", True), ("informed", 0), ("Cm", []), ("ok", [1, 1]), ("sd_Cm", "x"),
    )),
]  # fmt: skip


def test_a_value_of_the_wrong_kind_is_met_when_a_run_is_loaded(copy):
    run = copy("cma")
    path = run.path / "checkpoint" / "preprocessing.json"
    sound = json.loads(path.read_text())
    for section, change in WRONG_KINDS:
        path.write_text(json.dumps(sound | {section: sound[section] | change}))
        with pytest.raises(CheckpointError, match=re.escape(str(run.path))):
            load_predictor(run.path)
    path.write_text(json.dumps(sound))
    assert load_predictor(run.path).name == run.name


@pytest.mark.parametrize("name", DAMAGES)
def test_what_says_something_else_is_not_promoted(name, copy, tmp_path, monkeypatch):
    """A run without population became champion and gave 2,235 times 500; a deeply nested config.json and a missing
    metrics_summary.json took the endpoint down."""
    which, spoil, message = DAMAGES[name]
    run = copy(which)
    spoil(run)
    monkeypatch.setattr(registry, "_client", lambda *a: pytest.fail("the registry was changed"))
    for force in (False, True):
        with pytest.raises(CheckpointError, match=message):
            workflow.promote(run, runs=run.path.parent, snapshots=tmp_path, force=force)


def test_an_edited_score_is_not_promoted(copy, tmp_path, monkeypatch):
    """It was, with an RMSE of 0.01."""
    run = copy("ridge", manifested=True)
    summary = run.summary
    summary["val"]["rmse_mgdl"]["value"] = 0.01
    (run.path / "metrics_summary.json").write_text(json.dumps(summary))
    monkeypatch.setattr(registry, "_client", lambda *a: pytest.fail("the registry was changed"))
    with pytest.raises(CheckpointError, match="metrics_summary.json: is not what was written"):
        workflow.promote(run, runs=run.path.parent, snapshots=tmp_path)


def test_of_a_run_of_before_it_is_said_that_nothing_was_compared(copy, tmp_path):
    for name, why in (("ridge", "its snapshot can't be read"), ("cma", "its mechanism would have to be fitted again")):
        run = copy(name)
        (run.path / "canary.safetensors").unlink()
        words = require_as_scored(run, tmp_path)
        assert words.startswith("NOT checked against its predictions") and why in words


def test_promotion_says_what_was_checked(runs, tmp_path, monkeypatch):
    run = runs["ridge"]
    monkeypatch.setattr(registry, "_move", lambda run, own, judged, runs, force: judged)
    done = workflow.promote(run, runs=run.path.parent, snapshots=tmp_path)
    assert done.promoted and done.reason.startswith("the first champion; checked: 6 windows")
