"""Wrappers beside the residual: what each adds, and that all train, nest, are searched and served alike."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import served
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cases import CASES, SPEC, TTM, prepared
from scipy.stats import t as student

from raycadian import config
from raycadian.config import CMAMechanism, override
from raycadian.data.split import make_split
from raycadian.modalities.cgm.request import History
from raycadian.models.base import pinball
from raycadian.models.build import build
from raycadian.models.conformal import conformal_offsets
from raycadian.models.heads import StudentT
from raycadian.serving.forecaster import Forecaster
from raycadian.tasks.forecast import ForecastData
from raycadian.training import crossfit
from raycadian.training.pipeline import fit_model, read_predictions
from raycadian.types import Prediction, Readings

MIDDLE = SPEC.middle


# --- exogenous -------------------------------------------------------------------------------------------------------


def with_known(batch, step, change=1.0):
    """The batch with every signal changed at one step of the horizon."""
    changed = {name: value.clone() for name, value in batch.items()}
    for name in ("mechanism", "signal_c", "signal_I_E"):
        changed[name][:, SPEC.context + step] += change
    return changed


@pytest.mark.parametrize("name", ["exogenous-ridge", "exogenous-lstm", "exogenous-ttm"])
def test_signals_over_the_horizon_reach_the_forecast(name, training, batch):
    model = prepared(CASES[name], training)
    with torch.no_grad():
        for weight in model.parameters():  # what mixes the channels may begin at 0
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        change = model(with_known(batch, 3)).quantiles[..., MIDDLE] - model(batch).quantiles[..., MIDDLE]
    assert change[:, 3].abs().min() > 0
    if name == "exogenous-ridge":  # each step takes the channels at its own time
        assert (change[:, [0, 1, 2, 4, 5]] == 0).all()


def test_without_the_key_known_channels_stay_out(training, batch):
    section = config.Ensemble(members=(config.Ridge(lags=6), config.Ridge(lags=6, exogenous=True)))
    model = prepared(config.Exogenous(signals=("c",), inner=section), training)
    changed = with_known(batch, 2)
    plain, exogenous = (member(model.view(changed)).quantiles for member in model.inner.members)
    before = [member(model.view(batch)).quantiles for member in model.inner.members]
    assert torch.equal(plain, before[0]) and not torch.equal(exogenous, before[1])


def test_ridge_with_known_channels_is_least_squares_on_both(training):
    """Against an explicit design matrix, at one step, with no penalty."""
    model = prepared(
        config.Exogenous(signals=("I_E",), inner=config.Ridge(lags=3, alpha=0.0, exogenous=True)), training
    )
    whole = training.batch(torch.arange(len(training)))
    glucose, step = whole["past"][..., 0].double(), 4
    last = glucose[:, -1:]
    known = torch.cat([whole["known"], whole["signal_I_E"].unsqueeze(-1)], -1)[:, SPEC.context + step].double()
    x = torch.cat([last, glucose[:, [-2, -3]] - last, known, torch.ones_like(last)], 1)
    y = whole["target"][:, step].double()
    seen = ~y.isnan()
    expected = last[:, 0] + x @ torch.linalg.lstsq(x[seen], (y - last[:, 0])[seen], driver="gelsd").solution
    # sine and cosine of one day and the signal, a cosine of two, are independent: one solution
    assert torch.allclose(model.inner.point(model.view(whole))[:, step].double(), expected, atol=0.05)


def test_known_channels_are_standardised_by_training_windows(training):
    model = prepared(CASES["exogenous-lstm"], training)
    known = torch.cat([model.inner.known(model.view(b)) for b in training.batches(256)]).flatten(0, 1)
    assert torch.allclose(known.mean(0), torch.zeros(4), atol=0.05)
    assert torch.allclose(known.std(0), torch.ones(4), atol=0.05)


# --- physics ---------------------------------------------------------------------------------------------------------


class Path(torch.nn.Module):
    """Forecasts what it is given."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def forward_loss(self, batch):
        quantiles = self.path.unsqueeze(-1).expand(-1, -1, len(SPEC.quantiles))
        return Prediction(quantiles), pinball(quantiles, batch["target"], torch.tensor(SPEC.quantiles)).mean()


def test_the_penalty_is_the_mean_squared_difference_of_the_rates(batch):
    future = batch["mechanism"][:, SPEC.context :]
    start = batch["past"][:, -1:, 0] - batch["mechanism"][:, SPEC.context - 1 : SPEC.context]
    physics = build(config.Physics(weight=0.5, inner=config.Persistence()), SPEC)
    for extra, expected in ((0.0, 0.0), (0.25 * torch.arange(1, 7), 9.0)):  # 0.25 mg/dL in 5 min are 3 mg/dL per hour
        physics.inner = Path(future + start + extra)
        full = {**batch, "target": torch.nan_to_num(batch["target"], nan=100.0)}
        prediction, loss = physics.forward_loss(full)
        assert physics.penalty(prediction, full).item() == pytest.approx(expected, abs=1e-3)
        assert (loss - physics.inner.forward_loss(full)[1]).item() == pytest.approx(0.5 * expected, abs=1e-3)


def test_the_penalty_inside_a_residual_is_the_same(batch, training):
    """There the inner forecast is the correction, and glucose is what is left over plus what was subtracted."""
    outside = prepared(config.Physics(inner=config.Residual(mechanism=None, inner=config.Ridge(lags=6))), training)
    inside = prepared(config.Residual(inner=config.Physics(mechanism=None, inner=config.Ridge(lags=6))), training)
    assert inside.forward_loss(batch)[1].item() == pytest.approx(outside.forward_loss(batch)[1].item(), rel=1e-4)


def test_a_great_weight_bends_the_forecast_to_the_mechanism(training, batch):
    penalties = []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        model = build(config.Physics(weight=weight, inner=TTM), SPEC)
        model.fit_statistics(training)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(40):
            optimizer.zero_grad()
            model.loss(batch)[0].backward()
            optimizer.step()
        penalties.append(model.penalty(model(batch), batch).item())
    assert penalties[1] < 0.7 * penalties[0]


# --- ensemble --------------------------------------------------------------------------------------------------------


def test_an_ensemble_of_equals_is_the_member(training, batch):
    ridge = prepared(config.Ridge(lags=6), training)
    both = prepared(config.Ensemble(members=(config.Ridge(lags=6),), size=2), training)
    assert torch.allclose(both(batch).quantiles, ridge(batch).quantiles, atol=1e-4)


def test_members_that_differ_widen_as_a_mixture_does(training):
    """Two normals of one width: the quantiles of their mixture, to the second moment."""
    model = build(config.Ensemble(members=(config.Persistence(), config.Seasonal())), SPEC)
    normal = torch.special.ndtri(torch.tensor(SPEC.quantiles))
    prediction = model._joined([Prediction(centre + 5.0 * normal.expand(1, 6, -1)) for centre in (90.0, 110.0)])
    sample = np.r_[np.random.default_rng(0).normal(90, 5, 40000), np.random.default_rng(1).normal(110, 5, 40000)]
    assert prediction.quantiles[0, 0, MIDDLE] == 100.0
    wide = prediction.quantiles[0, 0] - 100.0
    assert torch.allclose(wide, np.std(sample) * normal, atol=0.2)


def test_members_train_as_alone_and_start_apart(training, batch):
    model = prepared(config.Ensemble(members=(config.LSTM(hidden=8),), size=2), training)
    first, second = model.members
    assert not torch.equal(first.lstm.weight_hh_l0, second.lstm.weight_hh_l0)
    model.loss(batch)[0].backward()
    together = first.lstm.weight_hh_l0.grad.clone()
    first.zero_grad()
    first.loss(batch)[0].backward()
    assert torch.allclose(2 * together, first.lstm.weight_hh_l0.grad, rtol=1e-4, atol=1e-6)


# --- conformal -------------------------------------------------------------------------------------------------------


def test_offsets_are_the_conformal_quantiles():
    """99 scores 1..99 of one person: the levels' ranks among 100."""
    scores = np.arange(1.0, 100.0)[::-1, None, None].repeat(3, axis=2)
    offsets = conformal_offsets(scores, np.zeros(99), (0.05, 0.5, 0.95))
    assert offsets[0].tolist() == [5.0, 50.0, 95.0]
    scores[0] = np.nan  # the missing one is left out
    assert conformal_offsets(scores, np.zeros(99), (0.05, 0.5, 0.95))[0, 2] == 95.0
    with pytest.raises(ValueError, match="can't place the quantile 0.999"):
        conformal_offsets(scores, np.zeros(99), (0.5, 0.999, 0.9995))


def test_every_person_weighs_the_same():
    """Nine quiet people with many windows each, three wild ones with few: a quarter of people is wild, so 0.875 is
    among the wild half, though 1 window in 100 is theirs."""
    rng = np.random.default_rng(0)
    quiet, wild = rng.normal(0, 1, 9 * 1000), rng.normal(0, 50, 3 * 30)
    scores = np.r_[quiet, wild][:, None, None]
    subject = np.r_[np.repeat(np.arange(9), 1000), np.repeat(np.arange(9, 12), 30)]
    by_person = conformal_offsets(scores, subject, (0.9,))[0, 0]
    by_window = conformal_offsets(scores, np.zeros(len(scores)), (0.9,))[0, 0]
    assert by_window < 3 < 10 < by_person


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.floats(0.1, 40))
def test_moved_quantiles_never_cross_and_the_median_stays(seed, size):
    generator = torch.Generator().manual_seed(seed)
    model = build(config.Conformal(inner=config.Persistence()), SPEC)
    model.offset_mgdl.copy_(size * torch.randn(6, 4, generator=generator))
    quantiles = (100 + 20 * torch.randn(5, 6, 4, generator=generator)).sort(-1).values
    moved = model.restore(Prediction(quantiles), {}).quantiles
    assert (moved.diff(dim=-1) >= 0).all()
    assert torch.equal(moved[..., MIDDLE], quantiles[..., MIDDLE])


def test_calibration_gives_the_coverage_it_is_asked_for(training):
    """On the windows it was calibrated on, and against quantiles that were far too narrow."""
    model = prepared(config.Conformal(inner=config.Ridge(lags=6)), training)
    model.inner.offsets_mgdl.mul_(0.2)
    model.calibrate(training)
    inside = [
        (b["target"] >= quantiles[..., 0]) & (b["target"] <= quantiles[..., 3])
        for b in training.batches(256)
        for quantiles in [model(b).quantiles]
    ]
    assert torch.cat(inside).float().mean(0) == pytest.approx(0.9, abs=0.01)


# --- distributions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lstm-student", "ttm-student"])
def test_the_quantiles_are_those_of_the_distribution_that_is_trained(name, training, batch):
    distribution = prepared(CASES[name], training).distribution(batch)
    assert isinstance(distribution, StudentT)
    reference = student(distribution.freedom.detach(), distribution.loc.detach(), distribution.scale.detach())
    for k, level in enumerate(SPEC.quantiles):
        np.testing.assert_allclose(distribution.quantiles[..., k].detach(), reference.ppf(level), rtol=1e-4)
    np.testing.assert_allclose(
        distribution.loss(torch.full_like(distribution.loc, 150.0)).detach(), -reference.logpdf(150.0), rtol=1e-3
    )


# --- all of them, as recipes -----------------------------------------------------------------------------------------

MECHANISM = CMAMechanism(refit_days=2, starts=1)
SMALL = config.TTM(d_model=8, layers=1, patch_length=12)
LOOKING = SMALL.model_copy(update={"exogenous": True, "head": "student_t"})
EVERYTHING = config.Conformal(
    inner=config.Ensemble(
        members=(
            config.Residual(mechanism=MECHANISM, inner=config.Physics(mechanism=None, inner=SMALL)),
            config.Exogenous(mechanism=None, signals=("glucose", "c", "meal_distr"), inner=LOOKING),
        )
    )
)


@pytest.fixture(scope="module")
def readings():
    return served.people(4, 5)


@pytest.fixture(scope="module")
def run(readings, tmp_path_factory):
    return served.make_run(tmp_path_factory.mktemp("runs"), readings, model=EVERYTHING)


def assert_served_as_scored(run, readings, n=8):
    p, forecaster = read_predictions(run), Forecaster.load(run.path)
    for i in np.linspace(0, len(p) - 1, n).astype(int):
        forecast = forecaster.answer(History.of(served.until(readings[p.subject[i]], p.time_utc[i])))
        np.testing.assert_allclose(forecast.quantiles, p.quantiles[i], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_what_is_nested_is_served_as_it_was_scored(run, readings):
    assert_served_as_scored(run, readings)
    assert config.model_name(run.recipe.model) == "conformal-ensemble-residual-physics-ttm_exogenous-ttm"


@pytest.mark.slow
def test_planned_carbohydrate_is_served_as_it_was_scored(readings, tmp_path):
    known = ("hour_sin", "hour_cos", "planned_carbs")
    model = config.Ridge(lags=6, exogenous=True)
    run = served.make_run(tmp_path, readings, past=("glucose_mgdl", "carbs_g"), known=known, model=model)
    p, forecaster = read_predictions(run), Forecaster.load(run.path)
    eaten = {name: pd.to_datetime(r.events["time_utc"]).to_numpy() for name, r in readings.items()}
    ahead = [eaten[subject] - origin for subject, origin in zip(p.subject, p.time_utc, strict=True)]
    fed = np.array([((a > np.timedelta64(3, "m")) & (a <= np.timedelta64(28, "m"))).any() for a in ahead])
    assert fed.any()
    for i in [*np.flatnonzero(fed)[:5], *np.flatnonzero(~fed)[::30]]:
        whole = readings[p.subject[i]]
        known = served.until(whole, p.time_utc[i])
        planned = forecaster.answer(History.of(Readings(whole.subject, known.glucose, whole.events)))  # the plan too
        np.testing.assert_allclose(planned.quantiles, p.quantiles[i], rtol=0, atol=1e-5)
        if fed[i]:
            assert not np.allclose(forecaster.answer(History.of(known)).quantiles, p.quantiles[i], atol=0.01)


SWEPT = {
    "model.inner.members.0.mechanism.prior.taug.sd": 0.2,
    "model.inner.members.0.inner.weight": 0.01,
    "model.inner.members.1.signals": ["c"],
    "model.inner.members.1.inner.head": "quantiles",
    "model.inner.size": 2,
}


@pytest.mark.slow
def test_a_trial_sets_what_is_nested(run, readings):
    changed = override(run.recipe, SWEPT)
    members = changed.model.inner.members
    assert (members[0].mechanism.prior.taug.sd, members[0].inner.weight, members[1].signals) == (0.2, 0.01, ("c",))
    model = build(changed.model, replace(SPEC, context=36))
    assert [type(m).__name__ for m in model.inner.members] == ["Residual", "Exogenous"] * 2


def test_mechanisms_that_differ_are_refused(run):
    with pytest.raises(ValueError, match="a model has one mechanism, found 2 that differ"):
        override(run.recipe, {"model.inner.members.1.mechanism": {"meals": 2}})


def test_groups_of_people_are_scored_by_models_that_never_saw_them(run, readings, monkeypatch):
    import helpers

    people = helpers.people(4, 3)
    recipe = override(run.recipe, {"model": {"kind": "conformal", "folds": 2, "inner": {"kind": "ridge"}}})
    split = make_split(people.lengths, recipe.split, "made-up")
    data, trained = ForecastData("made-up", helpers.series(4, 3), split, grid=served.GRID), []

    def fit(given, inner, **options):
        trained.append({r.subject for r in given.split.of("train")})
        return fit_model(given, inner, **options)

    model, placed = fit_model(data, recipe).model, []
    assert not model.offset_mgdl.any()  # nothing from validation windows: the groups are to place it
    monkeypatch.setattr(type(model), "place", lambda self, scores, subject: placed.append((scores, subject)))
    crossfit.calibrate(model, data, recipe, fit, None)
    ((scores, subject),) = placed
    assert set(subject) == {0, 1, 2, 3} and np.isfinite(scores).any()
    assert len(trained) == 2 and trained[0] & trained[1] == set()
    assert trained[0] | trained[1] == set(people.subjects)
    with pytest.raises(ValueError, match=r"conformal\.folds 9 exceeds the 4 people"):
        crossfit.calibrate(model, data, override(recipe, {"model.folds": 9}), partial(fit), None)


@pytest.mark.slow
def test_a_run_is_calibrated_across_people(readings, tmp_path):
    model = config.Conformal(folds=2, inner=config.Ridge())
    across = Forecaster.load(served.make_run(tmp_path, readings, model=model).path).model
    assert (across.offset_mgdl[:, 0] != 0).all() and (across.offset_mgdl[:, MIDDLE + 1] == 0).all()
