"""What single models of a label promise: closed forms against scikit-learn, variables made by hand, what is refused."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from label_cases import CASES, PAT, REGRESS, SPEC, TREES, TTM, Held, prepared, windows
from pydantic import TypeAdapter
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from raycadian import config
from raycadian.models import features, logistic
from raycadian.models.base import trainable_parameters
from raycadian.models.build import build

SPECS = {"classify": SPEC, "regress": REGRESS}


@pytest.fixture(scope="module")
def data():
    return {task: windows(spec) for task, spec in SPECS.items()}


def rows(held, n=16):
    return held.batch(torch.arange(n))


def test_the_last_value_is_itself_or_a_logistic_regression(data):
    held = data["regress"]
    section = config.LastValue(channel="activity", over_s=60)
    scores = prepared(section, held, REGRESS)(rows(held)).score
    last = held.rows["past"][:16, -1, 0]
    seen = held.rows["past_mask"][:16, -1, 0]
    torch.testing.assert_close(scores[seen], last[seen])
    held = data["classify"]
    scores = prepared(section, held, replace(SPEC, balanced=False))(rows(held, 96)).score
    seen = held.rows["past_mask"][:, -1, 0]
    x, y = held.rows["past"][seen, -1].double().numpy(), held.rows["label"][seen].numpy()
    peer = LogisticRegression(C=1e6).fit(x, y).decision_function(x)
    torch.testing.assert_close(scores[seen], torch.from_numpy(peer).float(), rtol=0, atol=0.02)
    with pytest.raises(ValueError, match=r"last.channel 'map_mmhg' is none of the past channels \['activity'\]"):
        build(config.LastValue(channel="map_mmhg"), SPEC)


def test_the_linear_model_is_the_regression_of_scikit_learn(data):
    held = data["classify"]
    model = prepared(config.Statistics(), held, replace(SPEC, balanced=False))
    batch = rows(held, 96)
    x = features.compute("statistics", batch, SPEC).double().numpy()
    z = StandardScaler().fit_transform(x)
    peer = LogisticRegression(C=1 / (1e-3 * 96), tol=1e-10, max_iter=5000).fit(z, batch["label"].numpy())
    assert model(batch).score.numpy() == pytest.approx(peer.decision_function(z), abs=0.01)


def test_trees_that_validation_does_not_want_are_left_out(data):
    held = data["classify"]
    model = prepared(TREES, held)
    model.calibrate(held)
    kept = {name: value.clone() for name, value in model.trees.state_dict().items()}
    assert (kept["feature"][:, 0] >= 0).all()  # each does better on what it was grown on
    opposite = Held(held.rows | {"label": 1 - held.rows["label"]})
    model.calibrate(opposite)
    assert (model.trees.feature < 0).all()
    model.calibrate(held)  # what was left out stays out
    assert (model.trees.feature < 0).all() and model.trees.value.abs().max() == 0


def test_a_stack_is_no_worse_than_its_members_on_what_weighs_it(data):
    held = data["classify"]
    model = prepared(config.Stack(members=(config.Statistics(), TREES)), held)
    fresh = windows(seed=7)
    model.calibrate(fresh)
    assert (model.weight >= 0).all()
    everything = rows(fresh, 96)
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    ours = loss(model(everything).score, everything["label"])
    assert all(ours <= loss(m(everything).score, everything["label"]) + 1e-3 for m in model.members)
    mean = torch.sigmoid(model(everything).score).mean().item()
    assert mean == pytest.approx(everything["label"].mean().item(), abs=0.01)  # calibrated in the large
    with pytest.raises(ValueError, match="96 validation labels are known, all the same"):
        model.calibrate(Held(fresh.rows | {"label": torch.ones(96)}))


def test_regressions_are_those_of_scikit_learn():
    """With the same ridge: 1e-3 of the mean loss, on standardised variables."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3)) * [1.0, 20.0, 0.1] + 5
    odds = 0.8 * (x[:, 0] - 5) - 0.05 * (x[:, 1] - 5)
    label = (rng.random(300) < 1 / (1 + np.exp(-odds))).astype(float)
    each = rng.uniform(0.5, 2, 300)
    z = StandardScaler().fit_transform(x)
    weight, constant = logistic.fit(x, label, logistic=True, weight=each)
    peer = LogisticRegression(C=1 / (1e-3 * each.sum()), tol=1e-10).fit(z, label, sample_weight=each)
    assert x @ weight + constant == pytest.approx(peer.decision_function(z), abs=1e-4)
    weight, constant = logistic.fit(x, odds, logistic=False)
    peer = Ridge(alpha=1e-3 * 300).fit(z, odds)
    assert x @ weight + constant == pytest.approx(peer.predict(z), abs=1e-4)
    weight, _ = logistic.fit(x, label, logistic=True, nonnegative=True)
    assert weight[0] > 0 and weight[1] == 0 and weight[2] >= 0


def test_rhythms_are_circadians_of_the_worn_minutes(data):
    from raycadian.physiology.rhythms.circadian import rhythm

    spec = replace(SPEC, context=3 * 1440)
    held = windows(spec, n=12)
    batch = rows(held, 12)
    section = config.Boosting(trees=5, features="rhythm", min_weight=0.0)
    variables = prepared(section, held, spec)._variables(batch).numpy()
    days = torch.where(batch["past_mask"], batch["past"], torch.nan).double().numpy().reshape(12, 3, 1440)
    expected = rhythm(days)
    by_name = dict(zip(features.names("rhythm", spec), variables.T, strict=True))
    np.testing.assert_allclose(by_name["intradaily_variability"], expected["intradaily_variability"], rtol=1e-5)
    angle = expected["l5_onset_h"] * 2 * np.pi / 24
    np.testing.assert_allclose(by_name["sine of l5_onset_h"], np.sin(angle), atol=1e-4)
    np.testing.assert_allclose(by_name["worn"], batch["past_mask"].float().mean((1, 2)))


def test_rhythms_keep_the_clock_wherever_a_window_begins(data):
    """The same three days over and over, seen from midnight and from six in the morning."""
    spec = replace(SPEC, context=3 * 1440)
    day = 50 + 40 * torch.sin(2 * torch.pi * (torch.arange(1440) / 1440 - 0.4)) + torch.rand(1440)
    series = day.repeat(4).view(1, -1, 1)
    tables = []
    for begin in (0, 360):
        past = series[:, begin : begin + spec.context]
        local_h = torch.tensor([(begin + spec.context - 1) / 60 % 24])
        batch = {"past": past, "past_mask": torch.ones_like(past, dtype=torch.bool), "local_h": local_h}
        batch["time_s"] = torch.tensor([60 * (begin + spec.context - 1)])
        tables.append(features.compute("rhythm", batch, spec))
    torch.testing.assert_close(
        tables[0], tables[1], rtol=0, atol=1e-3, equal_nan=True
    )  # so restless: no sleep is known
    with pytest.raises(ValueError, match="whole days of one channel by the minute; found .*180 points"):
        build(config.Statistics(features="rhythm"), SPEC)


@pytest.mark.parametrize("offset_h", [-10, 0, 5.5, 13])
def test_sleep_among_the_rhythms(offset_h):
    """A week from Sunday's midnight, asleep from 23 to 7, into Saturday and Sunday from 1 to 9: two hours of social jet
    lag wherever on earth; off at night, nothing is known of it."""
    minute = np.arange(7 * 1440)
    hour, day = minute / 60 % 24, minute // 1440  # day 0 is Sunday
    asleep = np.where(np.isin(day, (0, 6)), (hour >= 1) & (hour < 9), hour < 7) | ((hour >= 23) & (day < 5))
    counts = np.where(asleep, 0.5, 200 + 50 * np.random.default_rng(0).random(len(minute))).astype(np.float32)
    past = torch.from_numpy(counts).view(1, -1, 1)
    spec = replace(SPEC, context=len(minute))
    last_s = int(np.datetime64("2026-01-17T23:59", "s").astype(np.int64) - 3600 * offset_h)
    batch = {"past": past, "past_mask": torch.ones_like(past, dtype=torch.bool), "time_s": torch.tensor([last_s]),
             "local_h": torch.tensor([23 + 59 / 60])}  # fmt: skip
    rhythms = dict(
        zip(features.names("rhythm", spec), features.compute("rhythm", batch, spec)[0].tolist(), strict=True)
    )
    assert rhythms["social_jet_lag_h"] == pytest.approx(2, abs=0.1)
    assert 80 < rhythms["sleep_regularity"] < 100
    unworn = torch.from_numpy((hour >= 22) | (hour < 10)).view(1, -1, 1)
    rhythms = features.compute("rhythm", batch | {"past_mask": ~unworn}, spec)[0]
    assert rhythms[features.names("rhythm", spec).index("social_jet_lag_h")].isnan()


def test_settings_that_do_not_fit_are_refused():
    for section, message in {
        TTM.model_copy(update={"pieces": 7}): "pieces 7 don't divide the window's 180 points",
        TTM.model_copy(update={"pieces": 6}): "two patches or more of equal length; found patch_length 30",
        config.CNN(blocks=5): r"shortens the window 4\^5 times; found 180 points",
    }.items():
        with pytest.raises(ValueError, match=message):
            build(section, SPEC)
    with pytest.raises(ValueError, match="one channel of activity by the minute; found .* every 0.5 min"):
        build(PAT, replace(SPEC, dt_min=0.5))


def test_two_channels(data):
    spec = replace(SPEC, past=("ecg_mv", "abp_mmhg"))
    held = windows(spec)
    for name in ("statistics", "boosting", "cnn", "ttm", "ttm-mixed-pieces"):
        model = prepared(CASES[name], held, spec)
        assert model(rows(held)).score.isfinite().all()
    swapped = {**rows(held), "past": rows(held)["past"].flip(-1)}
    mixed = prepared(
        config.Masked(inner=CASES["ttm-mixed-pieces"]),
        windows(replace(spec, task="pretrain")),
        replace(spec, task="pretrain"),
    )
    assert mixed(swapped).signal.shape == swapped["past"].shape


def test_every_model_of_the_page_is_one():
    page = Path("docs/concepts/labels.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(text) for text in re.findall(r"(?ms)^```yaml\n(.*?)^```$", page)]
    sections = [TypeAdapter(config.Model).validate_python(block["model"]) for block in blocks if "model" in block]
    assert {model.kind for model in sections} == {"pat", "masked", "ttm_label", "stack"}
    lora = build(sections[0].model_copy(update={"pretrained": None}), replace(SPEC, context=10080))
    assert f"{trainable_parameters(lora):,} LoRA" in page
