import hashlib
import json
import re
import textwrap
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from raycadian import config
from raycadian.config import Recipe, SearchSpace, load_recipe, load_space, override, parse, with_value
from raycadian.files import kind_of
from raycadian.modalities import cards
from raycadian.modalities.cards import load_card
from raycadian.modalities.cgm.card import CGMCard
from raycadian.models.base import ModelSpec

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
        ("compare=[{kind: rigde}]", "compare.0: unknown 'rigde'; did you mean 'ridge'"),
        ("split.kind=tme", "split.kind: unknown 'tme'; did you mean 'time'"),
        ("task.kind=clasify", "task: unknown 'clasify'; did you mean 'classify'"),
        ("training.epochs=0", "greater than or equal to 1"),
        ("training.lr=.nan", "finite"),
        ("split.fold=9", "folds count from 0"),
        ("task.quantiles=[0.1, 0.9]", "contain 0.5"),
        ("window.context=100", "multiple of ttm.patch_length"),
        ("window.past=[carbs_g]", "begin with what is forecast, glucose_mgdl"),
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


@pytest.mark.parametrize("name", [".", "..", ".hidden", "", "a/b", "a" * 101, "a\n"])
def test_names_that_would_hide_a_run_or_lead_elsewhere(name):
    with pytest.raises(ValueError, match="name"):
        parse(Recipe, MINIMAL | {"name": name})
    with pytest.raises(ValueError, match="name"):
        CGMCard(name=name, files=("x.csv",))


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
        parse(CGMCard, {"name": "x", "files": ["a"], "timezone": "Mars/Base"})
    with pytest.raises(ValueError, match="exceeds gap_min"):
        parse(CGMCard, {"name": "x", "files": ["a"], "grid": {"gap_min": 10, "interpolate_min": 20}})


def test_spaces_check_their_ranges():
    for wrong in (
        {"uniform": {"low": 2, "high": 1}},
        {"loguniform": {"low": 0, "high": 1}},
        {"choice": []},
        {"normal": 1},
    ):
        with pytest.raises(ValueError, match="not a valid search space"):
            parse(SearchSpace, {"parameters": {"a": wrong}})


INTERNAL = re.compile(
    r"Value error|[a-z]card|\b(dict|str|list|NoneType|int)\b|\.(signal|points|masked|ridge)\.|[A-Z]\w+\(\w+="
)
OF_RIDGE = {"name": "x", "dataset": "d", "model": {"kind": "ridge"}}
PRETRAINING = OF_RIDGE | {"model": {"kind": "statistics"}, "task": {"kind": "pretrain"}}
MISTAKES = {
    "card": (CGMCard, {"name": "x", "files": ["a"], "timezone": "Mars/Base"}, "not a valid CGM card:\n  timezone: "),
    "typo": (CGMCard, {"name": "x", "file": ["a"]}, "not a valid CGM card:"),
    "window": (
        Recipe, PRETRAINING | {"window": {"kind": "signal", "past": ["a"], "steps": 3}}, "  window.steps: unknown key"
    ),
    "inner": (
        Recipe, OF_RIDGE | {"model": {"kind": "residual", "inner": {"kind": "ridge", "lag": 3}}},
        "  model.inner.lag: unknown key",
    ),
    "rule": (Recipe, OF_RIDGE | {"split": {"kind": "run"}}, "not a valid recipe"),
    "missing": (Recipe, {"name": "x", "dataset": "d"}, "  model: Field required"),
    "listed": (Recipe, OF_RIDGE | {"compare": [{"kind": "ridge", "lag": 1}]}, "  compare.0.lag: unknown key"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_message_names_what_the_user_wrote_and_nothing_of_ours(name):
    schema, raw, message = MISTAKES[name]
    with pytest.raises(ValueError) as error:
        parse(schema, raw)
    assert message in str(error.value) and not INTERNAL.search(str(error.value)), str(error.value)


def test_what_a_model_must_fit_is_told_in_words():
    spec = ModelSpec(24, 6, 5.0, ("glucose_mgdl",), ("hour_sin",), (0.25, 0.5, 0.75))
    assert f"{spec}" == (
        "forecast from glucose_mgdl: 24 -> 6 points of 5.0 min, known ahead hour_sin, quantiles 0.25, 0.5, 0.75"
    )


KINDS = [({}, "an object"), ([], "a list"), (None, "nothing"), (True, "true or false"), ("", "text"), (1.5, "a number")]


@pytest.mark.parametrize(("value", "words"), KINDS)
def test_kinds_of_values_are_told_in_words(value, words):
    assert kind_of(value) == words


KEYS = st.text("abc", min_size=1, max_size=3)


@given(st.lists(KEYS, min_size=1, max_size=4), st.integers())
def test_with_value_sets_exactly_one_path(path, value):
    raw = with_value({"z": {"y": 1}}, ".".join(path), value)
    inner = raw
    for part in path:
        inner = inner[part]
    assert inner == value
    assert raw["z"] == {"y": 1}


def test_schemas_are_json():
    for schema in cards.SCHEMAS.values():
        written = schema.model_json_schema()
        assert written.get("properties") or written["oneOf"]


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


def test_every_model_of_the_strategies_pages_is_one():
    pages = Path("docs/concepts/strategies").glob("*.md")
    blocks = [block for page in pages for block in re.findall(r"(?ms)^```yaml\n(.*?)^```$", page.read_text())]
    models = [text for block in blocks for text in re.split(r"(?m)^(?=model:)", block) if text.strip()]
    assert len(models) >= 8
    for text in models:
        recipe = parse(Recipe, {**MINIMAL, **yaml.safe_load(textwrap.dedent(text))})
        assert config.model_name(recipe.model)


@pytest.mark.parametrize(
    ("path", "key"),
    [("jobs/recipes/demo.yaml", "f9b265547a5f"), ("jobs/recipes/iglu.yaml", "68bcbab5a22b")],
)
def test_recipes_of_forecasts_keep_their_keys(path, key):
    """A new field of a schema would make every run of before a stranger to --resume: give it a place of its own."""
    body = json.dumps(load_recipe(path).model_dump(mode="json"), sort_keys=True)
    assert hashlib.sha256(body.encode()).hexdigest()[:12] == key


LABELS = {
    "name": "x", "dataset": "datasets/x.yaml", "split": {"kind": "subject"}, "model": {"kind": "statistics"},
    "window": {"kind": "signal", "past": ["ppg"]}, "task": {"kind": "classify", "label": {"kind": "hypotension"}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("window.contxt=3", "window.contxt: unknown key; valid"),
        ("task.label.belw=3", "did you mean 'below'"),
        ("task.label.gap_min=5", "gap_min 5 reaches ahead_min 5"),
        ("task.label.gray_mmhg=60", "is not above below 65"),
        ("task={kind: regress, label: {kind: hypotension}}", "classify it"),
        (
            "task.label={kind: ahead, channel: map_mmhg, ahead_min: 5}",
            "expected yes or no: give label.below or label.at_least",
        ),
        ("task.label={kind: ahead, channel: a, ahead_min: 5, below: 65, at_least: 3}", "exclude one another"),
        (
            "task={kind: regress, label: {kind: ahead, channel: a, ahead_min: 5, below: 65}}",
            "a < 65 is yes or no: leave",
        ),
        ("task={kind: classify, label: {kind: column, name: a, at_least: 1, equals: b}}", "exclude one another"),
        ("split.kind=time", "holds out whole subjects"),
        ("model={kind: ridge}", "ridge: no model of task classify; there are"),
        ("window={context: 24}", "needs windows of a signal"),
        ("window.past=[ppg, ppg]", "distinct"),
        ("task={kind: forecast}", "a forecast's window has no kind"),
        (
            "experiment={kind: ablation}",
            "experiment ablation is not one of task classify; there is data_efficiency, cross_validation",
        ),
        ("experiment={kind: cross_validation, folds: 1}", "greater than or equal to 2"),
    ],
)
def test_a_wrong_recipe_of_a_label_says_what_and_how(assignment, message):
    assert parse(Recipe, LABELS).task.kind == "classify"
    with pytest.raises(ValueError, match=message):
        parse(Recipe, LABELS, (assignment,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "cases come from `files` or from `vitaldb`"),
        ({"files": ["a"], "vitaldb": [1]}, "cases come from `files` or from `vitaldb`"),
        ({"files": ["a"], "cohort": "age > 3"}, "give `clinical` too"),
        ({"vitaldb": "cohort", "clinical": {}}, "write the query"),
        ({"files": ["a"], "waveforms": {"ecg": ["ECG"]}}, "expected names such as ecg_mv"),
        ({"files": ["a"], "waveforms": {"resp_mv": ["R"]}}, "expected names such as ecg_mv"),
        ({"files": ["a"], "waveforms": {"ppg": []}}, "name no track"),
        ({"files": ["a"], "modality": "eeg"}, "modality 'eeg'; there are cgm, biosignals, actigraphy"),
    ],
)
def test_a_wrong_card_of_biosignals_says_what_and_how(changes, message):
    raw = {"name": "x", "modality": "biosignals", "waveforms": {"ppg": ["PLETH"]}}
    with pytest.raises(ValueError, match=message):
        cards.parse_card(raw | changes)


PAT = {"kind": "pat", "hidden": 8}


@pytest.mark.parametrize(
    ("task", "model", "message"),
    [
        ("forecast", PAT, "pat: no model of task forecast; there are cma, conformal, .*task.kind: classify or regress"),
        ("forecast", {"kind": "masked", "inner": PAT}, "masked-pat: no model of task forecast.*task.kind: pretrain"),
        ("forecast", {"kind": "conformal", "inner": PAT}, "conformal-pat: no model of task forecast; there are"),
        (
            "classify",
            {"kind": "masked", "inner": PAT},
            "masked-pat: no model of task classify; there are boosting, cnn",
        ),
        ("classify", {"kind": "stack", "members": [PAT, {"kind": "ridge"}]}, "ridge: no model of a label; there are"),
        ("pretrain", PAT, "pat: no model of task pretrain; there are masked; or set task.kind: classify or regress"),
    ],
)
def test_a_model_is_refused_by_the_tasks_that_it_does_not_serve(task, model, message):
    raw = LABELS if task != "forecast" else MINIMAL
    label = {"label": {"kind": "hypotension"}} if task == "classify" else {}
    with pytest.raises(ValueError, match=message):
        parse(Recipe, raw | {"model": model, "task": {"kind": task} | label})


def test_every_model_can_be_taken_apart_and_put_together():
    from label_cases import CASES as labels
    from label_cases import MASKED
    from model_cases import CASES as forecasters

    for model in [*forecasters.values(), *labels.values(), *MASKED.values()]:
        assert model.with_parts(model.parts()) == model
        assert config.innermost(model, lambda part: part) == model
        assert config.unwrap(model)[0] is model and model.served_tasks()
        assert all(name.startswith(("without ", "member ")) for name, _ in model.reduced())
