import re
import textwrap
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from raycadian import config
from raycadian.config import Card, Recipe, SearchSpace, load_card, load_recipe, load_space, override, parse, with_value

MINIMAL = {"name": "x", "dataset": "datasets/x.yaml", "model": {"kind": "residual", "inner": {"kind": "ttm"}}}


@pytest.mark.parametrize("path", sorted(p for p in Path("jobs/recipes").glob("*.yaml")), ids=str)
def test_recipes_in_the_repository_are_valid(path):
    recipe = load_recipe(path)
    assert load_card(recipe.dataset).name
    if recipe.tuning:
        for dotted, distribution in load_space(recipe.tuning.space).parameters.items():
            choice = getattr(distribution, "choice", None)
            if choice:
                override(recipe, {dotted: choice[0]})


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("trainng.epochs=3", "trainng: unknown key; did you mean 'training'"),
        ("model.inner.d_modle=3", "did you mean 'd_model'"),
        ("model.mechanism.prior.tagu=1", "did you mean 'taug' or|did you mean 'taup'|did you mean 'taug'"),
        ("training.epochs=0", "greater than or equal to 1"),
        ("training.lr=.nan", "finite"),
        ("split.fold=9", "folds count from 0"),
        ("task.quantiles=[0.1, 0.9]", "contain 0.5"),
        ("window.context=100", "multiple of ttm.patch_length"),
        ("window.past=[carbs_g]", "begin with glucose_mgdl"),
        ("training.epochs", "expected dotted.path=value"),
        ("name.first=1", "below a plain value"),
        ("compare.3.kind=ridge", "expected an index"),
    ],
)
def test_a_wrong_override_says_what_and_how(assignment, message):
    with pytest.raises(ValueError, match=message):
        parse(Recipe, MINIMAL, (assignment,))


def test_override_reaches_defaults_and_lists():
    recipe = parse(
        Recipe, {**MINIMAL, "compare": [{"kind": "ridge"}]}, ("compare.0.lags=5", "model.mechanism.prior.taug.sd=0.3")
    )
    assert recipe.compare[0].lags == 5
    assert recipe.model.mechanism.prior.taug.sd == 0.3
    assert recipe.model.mechanism.prior.taug.mean == 1.0


def test_names():
    recipe = parse(Recipe, MINIMAL)
    assert config.model_name(recipe.model) == "residual-ttm"
    assert config.mechanism_of(recipe.model) is recipe.model.mechanism
    assert config.mechanism_of(parse(Recipe, {**MINIMAL, "model": {"kind": "ridge"}}).model) is None


def test_a_recipe_is_frozen_and_survives_yaml():
    recipe = parse(Recipe, MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "y"
    assert parse(Recipe, yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json")))) == recipe


def test_yaml_off_is_off():
    assert parse(Recipe, MINIMAL | {"tracking": yaml.safe_load("{mlflow: off, wandb: off}")}).tracking.wandb == "off"


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a\n- b", "expected a mapping"), ("a: [", "not readable as YAML"), ("name: x", "Field required")],
)
def test_files_that_are_no_recipe(tmp_path, text, message):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_recipe(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        load_recipe(tmp_path / "none.yaml")


def test_cards_check_zone_and_grid():
    with pytest.raises(ValueError, match="IANA"):
        parse(Card, {"name": "x", "files": ["a"], "timezone": "Mars/Base"})
    with pytest.raises(ValueError, match="exceeds gap_min"):
        parse(Card, {"name": "x", "files": ["a"], "grid": {"gap_min": 10, "interpolate_min": 20}})


def test_spaces_check_their_ranges():
    for wrong in (
        {"uniform": {"low": 2, "high": 1}},
        {"loguniform": {"low": 0, "high": 1}},
        {"choice": []},
        {"normal": 1},
    ):
        with pytest.raises(ValueError, match="not a valid searchspace"):
            parse(SearchSpace, {"parameters": {"a": wrong}})


KEYS = st.text("abc", min_size=1, max_size=3)


@given(st.lists(KEYS, min_size=1, max_size=4), st.integers())
def test_with_value_sets_exactly_one_path(path, value):
    raw = with_value({"z": {"y": 1}}, ".".join(path), value)
    found = raw
    for part in path:
        found = found[part]
    assert found == value
    assert raw["z"] == {"y": 1}


def test_schemas_are_json():
    for schema in config.SCHEMAS.values():
        assert schema.model_json_schema()["properties"]


@pytest.mark.parametrize("path", sorted(Path("search_spaces").glob("*.yaml")), ids=str)
def test_every_value_of_every_space_fits_a_hybrid_recipe(path):
    from raycadian.training.tune import _check_space

    recipe = load_recipe("jobs/recipes/demo.yaml")
    wrapper = path.stem.removeprefix("strategies_")
    if wrapper in ("physics", "staged"):  # these are for recipes of that model
        recipe = override(
            recipe, {"model": {"kind": wrapper, "inner": {**recipe.model.model_dump(), "mechanism": None}}}
        )
    _check_space(recipe, load_space(path))


def test_every_model_of_the_strategies_page_is_one():
    blocks = re.findall(r"(?:^    .*\n)+", Path("docs/strategies.md").read_text(), re.MULTILINE)
    models = [text for block in blocks for text in re.split(r"(?m)^(?=    model:)", block) if text.strip()]
    assert len(models) >= 8
    for text in models:
        recipe = parse(Recipe, {**MINIMAL, **yaml.safe_load(textwrap.dedent(text))})
        assert config.model_name(recipe.model)
