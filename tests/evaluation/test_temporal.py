"""Temporal gain: known delays come out as they were put in."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction_cases import forecasts

from raycadian.config import Evaluation
from raycadian.evaluation.bootstrap import SubjectBootstrap
from raycadian.evaluation.forecast.metrics import score
from raycadian.evaluation.forecast.summaries import temporal_gain_min

H = 12


def delayed(delay_steps: int, people: int = 3, windows: int = 80, seed: int = 0):
    """At each step the forecast is the truth of `delay_steps` earlier, up to the origin."""
    p = forecasts(people=people, windows=windows, seed=seed, missing=0)
    rng = np.random.default_rng(seed)
    path = 140 + rng.normal(0, 8, (len(p), H + 1)).cumsum(1)  # the origin, then the horizon
    back = np.maximum(np.arange(1, H + 1) - delay_steps, 0)
    quantiles = np.repeat(path[:, back, None], 5, axis=2)
    return replace(p, truth=path[:, 1:], past=path[:, :1], quantiles=quantiles, parts={})


@given(st.integers(0, H), st.integers(0, 1000))
@settings(max_examples=25)
def test_a_known_delay_is_found(delay, seed):
    p = delayed(delay, seed=seed)
    people = SubjectBootstrap(p.subject, Evaluation(bootstrap=2))
    for step in (5, H - 1):
        expected = 5.0 * (step + 1 - min(delay, step + 1))
        assert temporal_gain_min(p, step, people) == pytest.approx(np.full(3, expected))


def test_it_is_in_the_score_at_30_60_and_the_last_step():
    p = delayed(3)
    table = score(p, Evaluation(bootstrap=20))
    rows = table[(table.metric == "temporal_gain_min") & (table.scope == "all")]
    assert list(rows.horizon_min) == [30, 60] and list(rows.value) == [15, 45]
    assert list(rows.low) == list(rows.high) == [15, 45] and (rows.kind == "person").all()
    assert p.key_steps == [5, 11] and forecasts(people=1, windows=2, steps=4).key_steps == [3]


def test_too_little_gives_none():
    p = delayed(0)
    people = SubjectBootstrap(p.subject, Evaluation(bootstrap=2))
    assert np.isnan(temporal_gain_min(replace(p, past=None), 5, people)).all()
    few = p.select(np.arange(8))
    assert np.isnan(temporal_gain_min(few, 5, SubjectBootstrap(few.subject, Evaluation(bootstrap=2)))).all()
    flat = replace(p, quantiles=np.full_like(p.quantiles, 120.0))
    assert np.isnan(temporal_gain_min(flat, 5, people)).all()
