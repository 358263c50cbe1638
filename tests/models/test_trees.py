"""Boosted trees: as XGBoost grows them, computed in torch."""

import numpy as np
import pytest
import torch
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from raycadian.models.trees import Trees

SETTINGS = {"lr": 0.1, "l2": 1.0, "min_weight": 1.0}


def cohort(n=400, seed=0):
    """Four features, a tenth of their values missing, a label from two of them and from whether the third is
    missing."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 4)).astype(np.float32)
    features[rng.random(features.shape) < 0.1] = np.nan
    odds = 2 * np.nan_to_num(features[:, 0]) - np.nan_to_num(features[:, 1]) ** 2 + 2 * np.isnan(features[:, 2])
    return features, (rng.random(n) < 1 / (1 + np.exp(-odds))).astype(float)


def grown(trees=30, depth=3, objective="binary:logistic", label=None, weight=None, **changes):
    features, drawn = cohort()
    label = drawn if label is None else label
    model = Trees(trees, depth)
    model.grow(
        features, label, np.ones(len(label)) if weight is None else weight, objective=objective, **SETTINGS | changes
    )
    return model, features, label


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
@pytest.mark.parametrize("depth", [1, 3, 6])
def test_torch_gives_what_xgboost_gives(objective, depth):
    weight = np.random.default_rng(2).uniform(0.5, 2.0, 400)
    model, features, label = grown(depth=depth, objective=objective, weight=weight)
    data = xgboost.DMatrix(features, label=label, weight=weight)
    own = {"objective": objective, "max_depth": depth, "learning_rate": 0.1, "reg_lambda": 1.0, "tree_method": "hist"}
    booster = xgboost.train(own, data, num_boost_round=30)
    fresh = cohort(seed=5)[0]
    expected = booster.predict(xgboost.DMatrix(fresh), output_margin=True)
    np.testing.assert_allclose(model(torch.from_numpy(fresh)), expected, rtol=0, atol=1e-5)


def test_it_ranks_strangers_as_well_as_scikit_learn():
    model, features, label = grown(trees=60)
    fresh, truth = cohort(2000, seed=9)
    peer = HistGradientBoostingClassifier(max_iter=60, max_depth=3, early_stopping=False).fit(features, label)
    ours = roc_auc_score(truth, model(torch.from_numpy(fresh)))
    assert ours > roc_auc_score(truth, peer.predict_proba(fresh)[:, 1]) - 0.02
    assert ours > 0.8


def test_a_row_of_weight_two_is_two_rows():
    features, label = cohort()
    weight = np.where(np.arange(len(label)) % 3 == 0, 2.0, 1.0)
    first, second = Trees(10, 3), Trees(10, 3)
    first.grow(features, label, weight, objective="binary:logistic", **SETTINGS)
    twice = np.repeat(np.arange(len(label)), weight.astype(int))
    second.grow(features[twice], label[twice], np.ones(len(twice)), objective="binary:logistic", **SETTINGS)
    torch.testing.assert_close(first(torch.from_numpy(features)), second(torch.from_numpy(features)), rtol=0, atol=0.05)


def test_growing_again_gives_the_same_trees():
    first, second = grown()[0].state_dict(), grown()[0].state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_first_trees_alone():
    model, features, _ = grown(trees=8)
    x = torch.from_numpy(features)
    expected = model.base + model.leaves(x)[:, :3].sum(1)
    model.keep(3)
    torch.testing.assert_close(model(x), expected)


@settings(max_examples=25)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=4, max_size=4))
def test_any_value_finds_a_leaf(row):
    model = grown(trees=5)[0]
    score = model(torch.tensor([row], dtype=torch.float32))
    assert score.isfinite().all()
