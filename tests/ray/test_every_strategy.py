"""Each strategy through one recipe and the line that every model takes: swept, trained, scored, registered, served."""

import json
from pathlib import Path

import helpers
import numpy as np
import pytest
import served
import yaml

from raycadian import workflow
from raycadian.config import load_recipe, model_name, override
from raycadian.modalities.cards import load_card
from raycadian.modalities.cgm.card import CGMCard
from raycadian.modalities.cgm.readers import read_files
from raycadian.modalities.cgm.request import History
from raycadian.serving.forecaster import Forecaster
from raycadian.tracking import registry
from raycadian.training.pipeline import read_predictions
from raycadian.types import Issues

SMALL = {"kind": "ttm", "d_model": 8, "layers": 1, "patch_length": 12}
FORMS = {
    "residual": {"kind": "residual", "inner": SMALL},
    "exogenous": {"kind": "exogenous", "inner": SMALL | {"exogenous": True}},
    "physics": {"kind": "physics", "weight": 1e-3, "inner": SMALL},
    "staged": {
        "kind": "staged", "simulated": {"subjects": 3, "days": 3}, "pretrain_epochs": 1, "frozen_epochs": 1,
        "rounds": 1,
        "inner": {"kind": "residual", "mechanism": None, "inner": SMALL},
    },
    "ensemble": {"kind": "ensemble", "members": [{"kind": "residual", "inner": SMALL}, SMALL]},
    "conformal": {"kind": "conformal", "folds": 2, "inner": {"kind": "residual", "inner": SMALL}},
}  # fmt: skip
CARD = {
    "name": "people",
    "files": ["people.csv"],
    "unit": "mg/dL",
    "columns": {"subject": "subject", "time": "time", "glucose": "glucose"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory, ray_local) -> Path:
    folder = tmp_path_factory.mktemp("strategies")
    helpers.write_csv(folder / "people.csv", n=4, days=4)
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD))
    (folder / "space.yaml").write_text("parameters: {training.lr: {loguniform: {low: 1.0e-3, high: 1.0e-2}}}")
    recipe = {
        "name": "line", "dataset": str(folder / "card.yaml"), "split": {"kind": "time"},
        "window": {"context": 36, "horizon": 6, "stride": 6, "eval_stride": 12}, "model": FORMS["residual"],
        "training": {"epochs": 1, "batch_size": 64}, "evaluation": {"bootstrap": 20},
        "tuning": {"space": str(folder / "space.yaml"), "trials": 2}, "tracking": {"tensorboard": False},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def test_no_strategy_is_left_out():
    pages = {path.stem for path in Path("docs/concepts/strategies").glob("*.md")} - {"index"}
    assert pages == set(FORMS)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", FORMS)
def test_from_recipe_to_forecast(name, place):
    recipe = override(load_recipe(place / "recipe.yaml"), {"name": name, "model": FORMS[name]})
    runs = place / name
    outcome = workflow.run(recipe, workflow.Quiet(), runs=runs, snapshots=place / "snapshots")
    assert len(list((outcome.sweep / "trials").glob("*/trial.json"))) == 2
    champion = registry.champion(runs=runs)
    assert champion.name == outcome.main.name and model_name(champion.recipe.model).startswith(name)
    assert json.loads((champion.path / "metrics_summary.json").read_text())["test"]
    assert_served_as_scored(champion, place)


def assert_served_as_scored(run, place: Path, n: int = 4) -> None:
    card: CGMCard = load_card(place / "card.yaml")
    people = {r.subject: r for r in read_files([place / "people.csv"], card, Issues())}
    p, forecaster = read_predictions(run), Forecaster.load(run.path)
    for i in np.linspace(0, len(p) - 1, n).astype(int):
        found = forecaster.answer(History.of(served.until(people[p.subject[i]], p.time_utc[i])))
        np.testing.assert_allclose(found.quantiles, p.quantiles[i], rtol=0, atol=1e-5)
