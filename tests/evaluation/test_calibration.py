"""Reliability, coverage and the PIT of forecasts that are calibrated by construction, and of some that are not."""

from dataclasses import replace

import numpy as np
import pytest
from prediction_cases import forecasts, shifted

from raycadian.config import Evaluation
from raycadian.evaluation.bootstrap import SubjectBootstrap
from raycadian.evaluation.forecast.calibration import coverage_by_horizon, pit, reliability
from raycadian.evaluation.forecast.metrics import score


def test_calibrated_forecasts_lie_on_the_diagonal():
    p = forecasts(people=20, windows=100)
    observed = reliability(p)
    assert observed.observed.to_numpy() == pytest.approx(p.levels, abs=0.01)
    assert ((observed.low <= observed.observed) & (observed.observed <= observed.high)).all()
    edges, density = pit(p)
    assert edges == pytest.approx([0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
    assert density == pytest.approx(np.ones(6), abs=0.15)


def test_forecasts_that_are_too_low_show_it():
    p = shifted(forecasts(), -30)
    assert (reliability(p).observed < p.levels).all()
    assert pit(p)[1].argmax() == 5  # truth falls above the highest quantile


def test_density_integrates_to_one():
    edges, density = pit(shifted(forecasts(), 7))
    assert (density * np.diff(edges)).sum() == pytest.approx(1)


def test_coverage_is_that_of_the_score():
    p = forecasts(missing=0.2)
    people = SubjectBootstrap(p.subject, Evaluation(bootstrap=100, seed=0))
    covered = coverage_by_horizon(p, people)
    table = score(p, Evaluation(bootstrap=100, seed=0))
    for percent in (50, 90):
        mine = covered[covered.nominal_pct == percent]
        theirs = table[(table.scope == "all") & (table.metric == f"coverage_{percent}_pct") & (table.kind == "step")]
        for column, other in (("observed_pct", "value"), ("low", "low"), ("high", "high")):
            assert mine[column].to_numpy() == pytest.approx(theirs[other].to_numpy())


def test_without_truth_or_pairs_nothing_is_invented():
    p = forecasts(people=3, windows=2)
    p = replace(p, truth=np.full_like(p.truth, np.nan))
    assert reliability(p).observed.isna().all() and np.isnan(pit(p)[1]).all()
    assert coverage_by_horizon(forecasts(levels=[0.5])).empty
