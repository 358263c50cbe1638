"""Experiments: every recipe in jobs/recipes/experiments at a tiny size, what their points are, and what they refuse."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from raycadian import workflow
from raycadian.cli.main import main
from raycadian.config import Recipe as RecipeSchema
from raycadian.config import load_recipe, model_name, override, parse
from raycadian.experiments import points, runner
from raycadian.experiments.ablation import variants
from raycadian.models import checkpoint
from raycadian.runs import list_runs, open_run
from raycadian.serving.forecaster import Forecaster
from raycadian.tasks import task_of
from raycadian.training.pipeline import load_data, read_predictions

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "jobs" / "recipes" / "experiments"
TTM = {"kind": "ttm", "d_model": 8, "layers": 1, "dropout": 0.0}
RIDGE = {"kind": "ridge", "lags": 6}
TINY = {  # one name, so that experiments share runs
    "name": "tiny",
    "window.context": 36,
    "window.horizon": 6,
    "window.stride": 24,
    "window.eval_stride": 24,
    "training.epochs": 1,
    "model": TTM,
    "compare": [RIDGE],
    "evaluation.bootstrap": 50,
}
OWN = {
    "sliding_window": {},
    "nocturnal": {},
    "prandial": {"window.past": ["glucose_mgdl", "carbs_g"]},
    "personalisation": {"experiment.days": [0, 4], "experiment.people": 1, "experiment.epochs": 1},
    "transfer": {"model": RIDGE, "compare": []},
    "data_efficiency": {"experiment.windows": [100, 400], "compare": []},
    "ablation": {
        "compare": [],
        "window.past": ["glucose_mgdl", "carbs_g"],
        "model": {
            "kind": "residual",
            "mechanism": {"kind": "cma", "refit_days": 7, "starts": 1},
            "inner": RIDGE | {"exogenous": True},
        },
    },
    "cross_validation": {"experiment.folds": 3},
    "scaling": {"experiment.values": [8, 16]},
}


@dataclass(frozen=True)
class Place:
    folder: Path

    def run(self, recipe: RecipeSchema, **options) -> runner.Done:
        return runner.run(
            recipe, workflow.Quiet(), runs=self.folder / "runs", snapshots=self.folder / "snapshots", **options
        )

    def data(self, recipe: RecipeSchema):
        return load_data(recipe, self.folder / "snapshots")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("experiments"))


def tiny(name: str, **more) -> RecipeSchema:
    return override(load_recipe(RECIPES / f"{name}.yaml"), TINY | OWN[name] | more)


def points_of(place: Place, recipe: RecipeSchema) -> list[points.ExperimentPoint]:
    return points.points(recipe, place.data(recipe))


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)  # recipes name their cards from there


def test_every_recipe_is_tested():
    assert {p.stem for p in RECIPES.glob("*.yaml")} == set(OWN)
    kinds = [load_recipe(p).experiment.kind for p in RECIPES.glob("*.yaml")]
    assert sorted(kinds) == sorted(OWN)


@pytest.fixture(scope="module")
def done(place):
    """What each experiment left; run when first asked for."""
    result: dict[str, runner.Done] = {}

    def ask(name: str) -> runner.Done:
        if name not in result:
            result[name] = place.run(tiny(name), resume=True)
        return result[name]

    return ask


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_an_experiment_leaves_table_figure_and_words(name, done):
    path = done(name).path
    assert {p.name for p in path.iterdir()} == {
        "recipe.yaml", "table.csv", "table.json", "differences.csv", "figure.svg", "report.html",
    }  # fmt: skip
    body, recipe = done(name).table, tiny(name)
    table = pd.read_csv(path / "table.csv")
    assert len(body["rows"]) == len(table) and set(table.protocol) == {recipe.protocol} == {body["protocol"]}
    assert np.isfinite(table.value).all() and (table.value > 0).all()
    html = (path / "report.html").read_text()
    assert html.count("<svg") >= 1 and recipe.protocol.replace(">", "&gt;") in html and "http://" not in _links(html)
    for row in body["differences"]:
        assert row["kind"] == "step" or row["sentence"].split(" over ")[0] in html
    assert len(body["runs"]) == len(points_of(Place(path.parents[2]), recipe))


def _links(html: str) -> str:
    """Addresses that a browser would follow or load."""
    return " ".join(part.split('"')[0] for part in html.split('src="')[1:] + html.split('<link href="')[1:])


@pytest.mark.slow
def test_all_models_forecast_the_same_nights(done, place):
    """Windows end at local midnight, and only there; each model has exactly the same."""
    predictions = [
        read_predictions(open_run(p["runs"][0], place.folder / "runs")) for p in done("nocturnal").table["runs"]
    ]
    assert len(predictions) == 2
    assert set(predictions[0].local_h.tolist()) == {0.0}
    assert (predictions[0].subject == predictions[1].subject).all() and (
        predictions[0].time_utc == predictions[1].time_utc
    ).all()
    sliding = [
        read_predictions(open_run(p["runs"][0], place.folder / "runs")) for p in done("sliding_window").table["runs"]
    ]
    assert len(set(sliding[0].local_h.tolist())) > 3


@pytest.mark.slow
def test_few_nights_are_tested_and_other_windows_choose_the_epoch(place):
    planned = points_of(place, tiny("nocturnal", **{"experiment.epochs_on": "any"}))
    for (unit,) in (point.units for point in planned):
        assert (unit.recipe.window.anchor, unit.on.window.anchor) == ("any", "midnight")


@pytest.mark.slow
def test_protocols_never_share_a_leaderboard(done, place):
    names = [done(kind).table["runs"][0]["runs"][0] for kind in ("sliding_window", "nocturnal")]
    result = CliRunner().invoke(main, ["compare", *names, "--runs", str(place.folder / "runs")])
    assert result.exit_code == 2
    assert "another protocol: nocturnal, from local midnight, 36 -> 6 points" in result.output


@pytest.mark.slow
def test_meals_are_where_carbohydrate_is(done, place):
    (run,) = done("prandial").table["runs"][0]["runs"]
    p = read_predictions(open_run(run, place.folder / "runs"))
    eaten = pd.read_parquet(ROOT / "datasets" / "demo_cgm.parquet")
    eaten = eaten[eaten.carbs_g >= 10].set_index(["subject", "time"])
    assert all((s, t) in eaten.index for s, t in zip(p.subject, pd.to_datetime(p.time_utc), strict=True))
    estimated = points_of(place, tiny("prandial", **{"experiment.meals": "estimated"}))
    assert {unit.recipe.window.anchor for p in estimated for unit in p.units} == {"estimated_meal"}


@pytest.mark.slow
def test_personalisation_goes_on_from_the_population(done, place):
    """0 days is the population's model on the same windows; more days start from its weights and see only that
    person."""
    body = done("personalisation").table
    runs = {(p["line"], p["x"]): open_run(p["runs"][0], place.folder / "runs") for p in body["runs"]}
    population, four = runs["ttm", 0], runs["ttm", 4]
    assert four.recipe.start == str(population.path) and population.recipe.start is None
    person = four.recipe.split.person
    assert (person.history_days, person.train_days) == (4, 4)
    assert four.metadata["split"]["train"] == {"subjects": 1, "points": 4 * 288}
    assert person.subject not in {r["subject"] for r in _ranges(population) if r["scope"] == "id"}
    tuned, untuned = (
        read_predictions(four),
        task_of(four.recipe).test_on(population, four.recipe, place.data(four.recipe)),
    )
    assert (tuned.time_utc == untuned.time_utc).all() and abs(tuned.median - untuned.median).max() > 1e-3
    rows = pd.DataFrame(body["rows"])
    ridge = rows[
        (rows.model == "ridge") & (rows.metric == "rmse_mgdl") & (rows.kind == "cumulative") & (rows.horizon_min == 30)
    ]
    assert ridge.value.nunique() == 1  # closed form: nothing to tune
    assert {d["verdict"] for d in body["differences"] if d["group"] == "ridge"} == {"the same"}
    assert {d[side] for d in body["differences"] for side in ("model", "other")} == {"0 days", "4 days"}


def _ranges(run) -> list[dict]:
    return json.loads((run.path / "split.json").read_text())["ranges"]


@pytest.mark.slow
def test_transfer_goes_both_ways(done, place):
    body = done("transfer").table
    runs = {(p["line"], p["x"]): p["runs"][0] for p in body["runs"]}
    first, second = "tested on demo_cgm_1_5", "tested on demo_cgm_6_10"
    assert runs["ridge, trained on the same", first] == runs["ridge, trained on the other", second]
    assert runs["ridge, trained on the same", second] == runs["ridge, trained on the other", first]
    assert len({d["group"] for d in body["differences"]}) == 2


@pytest.mark.slow
def test_more_windows_hold_fewer(done, place):
    body = done("data_efficiency").table
    runs = [open_run(p["runs"][0], place.folder / "runs") for p in body["runs"] if p["line"] == "ttm"]
    assert [run.metadata["training"]["history"][0]["windows"] for run in runs] == [100, 400]
    with pytest.raises(ValueError, match=r"99999 windows are asked for, there are \d+"):
        points_of(place, tiny("data_efficiency", **{"experiment.windows": [100, 99999]}))


@pytest.mark.slow
def test_ablation_compares_with_the_whole(done):
    body = done("ablation").table
    assert [p["x"] for p in body["runs"]] == [
        "whole",
        "without carbs_g",
        "without hour_sin and hour_cos",
        "without residual",
    ]
    pairs = {frozenset((d["model"], d["other"])) for d in body["differences"]}
    assert len(pairs) == 3 and all("whole" in pair for pair in pairs)


@pytest.mark.slow
def test_scaling_changes_the_network_alone(done, place):
    result = {(p.line, p.x): p.units[0].recipe for p in points_of(place, tiny("scaling"))}
    assert [result["ttm", n].model.d_model for n in (8, 16)] == [8, 16]
    assert result["ridge", 8] == result["ridge", 16]
    body = done("scaling").table
    assert len({r["runs"][0] for r in body["runs"]}) == 3  # the level is trained once
    nested = override(
        tiny("scaling"),
        {"model": {"kind": "ensemble", "members": [{"kind": "residual", "inner": TTM}, {"kind": "lstm"}]}},
    )
    wider = points.resized(nested, "width", 24).model
    assert wider.members[0].inner.d_model == wider.members[1].hidden == 24
    assert points.resized(nested, "layers", 4).model.members[0].inner.layers == 4


@pytest.mark.slow
def test_resume_reuses_the_experiment_and_its_runs(done, place):
    first = done("sliding_window")
    before = {r.name for r in list_runs(place.folder / "runs")}
    stamp, words = (first.path / "table.json").stat().st_mtime_ns, first.table
    again = place.run(tiny("sliding_window"), resume=True)
    assert again.path == first.path and (again.path / "table.json").stat().st_mtime_ns == stamp
    shutil.rmtree(first.path)
    assert place.run(tiny("sliding_window"), resume=True).table == words
    assert {r.name for r in list_runs(place.folder / "runs")} == before
    assert not list(place.folder.glob("runs/experiments/.partial*"))


@pytest.mark.slow
def test_the_verb_says_what_is_better(done, place):
    done("sliding_window")
    options = ["--runs", str(place.folder / "runs"), "--snapshots", str(place.folder / "snapshots"), "--resume"]
    overrides = [x for k, v in (TINY | {"compare": [RIDGE]}).items() for x in ("--set", f"{k}={json.dumps(v)}")]
    command = ["experiment", str(RECIPES / "sliding_window.yaml"), *overrides, *options]
    shown = CliRunner().invoke(main, command)
    assert shown.exit_code == 0, shown.output
    assert "sliding windows, every 24 points, 36 -> 6 points" in shown.output and "report.html" in shown.output
    body = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)
    assert body["path"] == str(done("sliding_window").path) and body["experiment"] == {"kind": "sliding_window"}
    assert any(d["sentence"] in shown.output for d in body["differences"])


@pytest.mark.slow
def test_an_anchored_run_serves_the_same_forecasts(done, place):
    """Train -> checkpoint -> Forecaster.load: where windows are scored from is nothing that serving minds."""
    (name,) = done("nocturnal").table["runs"][0]["runs"]
    run = open_run(name, place.folder / "runs")
    model, served = checkpoint.load(run.path / "checkpoint"), Forecaster.load(run.path)
    assert served.model.config == model.config and served.window == run.recipe.window


@pytest.mark.slow
def test_what_an_experiment_refuses(place):
    with pytest.raises(
        ValueError, match="scores windows anchored at midnight; the recipe says window.anchor: estimated_meal"
    ):
        points_of(place, tiny("nocturnal", **{"window.anchor": "estimated_meal"}))
    with pytest.raises(ValueError, match=r"3 are held out, the longest record has 13.8 days; shorten experiment.days"):
        points_of(place, tiny("personalisation", **{"experiment.days": [0, 30]}))
    with pytest.raises(ValueError, match="no section `experiment`"):
        points_of(place, tiny("nocturnal", experiment=None))
    with pytest.raises(ValueError, match="add it to window.past, or take estimated_meal"):
        points_of(place, tiny("prandial", **{"window.past": ["glucose_mgdl"]}))
    with pytest.raises(ValueError, match="days rise strictly"):
        tiny("personalisation", **{"experiment.days": [4, 2]})


@pytest.mark.slow
def test_a_start_must_be_the_same_model(done, place):
    (name,) = done("sliding_window").table["runs"][0]["runs"]
    other = override(
        tiny("sliding_window"),
        {"start": str(place.folder / "runs" / name), "model": TTM | {"d_model": 16}, "compare": [], "experiment": None},
    )
    with pytest.raises(ValueError, match="model, window and quantiles must be the same"):
        workflow.train(other, place.data(other), workflow.Quiet(), runs=place.folder / "other")


def test_equal_names_are_numbered():
    recipe = tiny("sliding_window", compare=[RIDGE, RIDGE | {"lags": 12}])
    assert list(points.models(recipe)) == ["ttm", "ridge 1", "ridge 2"]


def test_ablation_of_nested_wrappers():
    """The mechanism moves on to the next wrapper that needs it; what is no recipe is told, not left out in silence."""
    inner = {"kind": "residual", "mechanism": None, "inner": {"kind": "lstm", "exogenous": True}}
    model = {"kind": "conformal", "inner": {"kind": "exogenous", "signals": ["I_S", "m"], "inner": inner}}
    recipe = parse(RecipeSchema, {"name": "a", "dataset": "d.yaml", "model": model})
    left_out = variants(recipe)
    names = {name: model_name(one.model) for name, one in left_out.recipes.items()}
    assert names == {
        "without hour_sin and hour_cos": "conformal-exogenous-residual-lstm",
        "without conformal": "exogenous-residual-lstm",
        "without exogenous": "conformal-residual-lstm",
        "without signal I_S": "conformal-exogenous-residual-lstm",
        "without signal m": "conformal-exogenous-residual-lstm",
        "without residual": "conformal-exogenous-lstm",
    }
    assert left_out.recipes["without exogenous"].model.inner.mechanism == recipe.model.inner.mechanism
    assert left_out.recipes["without signal m"].model.inner.signals == ("I_S",)
    staged = {
        "kind": "staged",
        "rounds": 1,
        "inner": {"kind": "residual", "mechanism": None, "inner": {"kind": "lstm"}},
    }
    refused = variants(parse(RecipeSchema, {"name": "a", "dataset": "d.yaml", "model": staged})).refused
    assert "put one inside or set rounds: 0" in refused["without residual"]
    members = {"kind": "ensemble", "members": [RIDGE, {"kind": "persistence"}, {"kind": "lstm"}]}
    ensemble = variants(parse(RecipeSchema, {"name": "a", "dataset": "d.yaml", "model": members})).recipes
    assert model_name(ensemble["without member 2"].model) == "ensemble-ridge_lstm"
