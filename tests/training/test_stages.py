"""Training in stages: simulated people, frozen backbones, mechanism and weights in turn; resumed, and served."""

import helpers
import numpy as np
import pytest
import served
import torch

from raycadian import config
from raycadian.config import (
    LSTM,
    TTM,
    CMAMechanism,
    Normal,
    Prior,
    Recipe,
    Residual,
    Simulated,
    Split,
    Staged,
    Training,
)
from raycadian.data.split import make_split
from raycadian.modalities.cgm.request import History
from raycadian.physiology.cma import equations as cma
from raycadian.physiology.cma import virtual
from raycadian.serving.forecaster import Forecaster
from raycadian.tasks.forecast import ForecastData
from raycadian.training import stages
from raycadian.training.pipeline import fit_model, read_predictions

MECHANISM = CMAMechanism(refit_days=2, starts=1)
INNER = TTM(d_model=8, layers=1, patch_length=12)


def staged(**changes):
    few = Simulated(subjects=4, days=2)
    section = Residual(mechanism=None, inner=INNER)
    return Staged(
        **{
            "mechanism": MECHANISM,
            "simulated": few,
            "pretrain_epochs": 2,
            "frozen_epochs": 1,
            "rounds": 1,
            "inner": section,
            **changes,
        }
    )


def recipe(model, **training):
    return Recipe(
        name="staged", dataset="none.yaml", split=Split(kind="time"), model=model,
        window=config.Window(context=36, horizon=6, stride=3, eval_stride=6),
        training=Training(**{"epochs": 2, "batch_size": 64, "max_steps_per_epoch": 4, "device": "cpu",
            "precision": "fp32", **training}),
        evaluation=config.Evaluation(bootstrap=10), tracking=config.Tracking(mlflow="off", tensorboard=False),
    )  # fmt: skip


@pytest.fixture(scope="module")
def data():
    people = helpers.people(3, 4)
    series = helpers.series(3, 4)
    return ForecastData("made-up", series, make_split(people.lengths, Split(kind="time"), "made-up"), grid=served.GRID)


class Killed(Exception):
    pass


def test_stages_follow_one_another_and_the_best_epoch_is_kept(data):
    told = []
    found = fit_model(data, recipe(staged()), on_epoch=told.append)
    assert [row["epoch"] for row in told] == [1, 2, 3, 4, 5, 6, 7]  # 2 simulated, 1 frozen, 2 joint, 2 after the refit
    assert [row["val/rmse"] for row in found.trained.history] == [row["val/rmse"] for row in told]
    assert found.trained.best_epoch == 1 + int(np.argmin([row["val/rmse"] for row in told]))
    least = np.minimum.accumulate([row["val/rmse"] for row in told])
    assert [row["best/val/rmse"] for row in told] == least.tolist()


def test_the_backbone_rests_while_it_is_frozen_and_moves_before_and_after(data):
    seen = []

    def look(self, name, cut, epochs):
        before = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        run(self, name, cut, epochs)
        moved = {n for n, p in self.model.named_parameters() if not torch.equal(p, before[n])}
        seen.append((name, moved))

    run, stages._Stages.run = stages._Stages.run, look
    try:
        fitted = fit_model(data, recipe(staged(), early_stopping=None))
    finally:
        stages._Stages.run = run
    moved = dict(seen)
    assert list(moved) == ["simulated", "frozen", "joint", "round-1"]
    backbone = {n for n, _ in fitted.model.named_parameters() if "network.backbone" in n}
    assert moved["simulated"] & backbone and not moved["frozen"] & backbone and moved["frozen"]
    assert all(p.requires_grad for p in fitted.model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, 4, 6])
def test_a_killed_training_goes_on_exactly(data, tmp_path, stop_after):
    whole = fit_model(data, recipe(staged()))

    def kill(row):
        if row["epoch"] == stop_after:
            raise Killed

    with pytest.raises(Killed):
        fit_model(data, recipe(staged()), state=tmp_path, on_epoch=kill)
    resumed = fit_model(data, recipe(staged()), state=tmp_path)
    weights = resumed.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in whole.model.state_dict().items())
    assert torch.equal(whole.mechanism.curves, resumed.mechanism.curves)
    assert [row["val/rmse"] for row in resumed.trained.history] == [row["val/rmse"] for row in whole.trained.history]


@pytest.mark.slow
def test_a_refitted_mechanism_is_served_as_it_was_scored(tmp_path, monkeypatch):
    """The best epoch is made to lie after the refit, so that the population's record holds a correction."""
    run = stages._Stages.run

    def last_wins(self, name, cut, epochs):
        self.best = None
        run(self, name, cut, epochs)

    monkeypatch.setattr(stages._Stages, "run", last_wins)
    readings = served.people(3, 5)
    made = served.make_run(tmp_path, readings, model=config.Conformal(inner=staged()))
    population = Forecaster.load(made.path).population
    assert len(population["correction_mgdl"]) == 288
    p = read_predictions(made)
    for i in np.linspace(0, len(p) - 1, 6).astype(int):
        found = Forecaster.load(made.path).answer(History.of(served.until(readings[p.subject[i]], p.time_utc[i])))
        np.testing.assert_allclose(found.quantiles, p.quantiles[i], rtol=0, atol=1e-5)


def test_the_mean_correction_is_that_of_the_hour(data):
    """A model whose correction is the local hour gives the hours back, those between windows interpolated."""

    class Hours(torch.nn.Module):
        def forward(self, batch):
            from raycadian.types import Prediction

            hours = (batch["local_h"][:, None] + torch.arange(1, 7) / 12) % 24
            return Prediction(hours, {"correction": hours})

    windows = stages.cut_windows(data.series, data.split.of("train"), recipe(staged()).window, 7)
    found = stages.mean_correction(Hours(), windows)
    np.testing.assert_allclose(found, np.arange(288) / 12, atol=1 / 12)


def test_priors_are_drawn_within_the_bounds():
    prior = Prior(taug=Normal(mean=2.9, sd=1.0), Cm=None)
    found = virtual.draw(prior, 4000, np.random.default_rng(0))
    for name, (low, high) in cma.BOUNDS.items():
        assert low <= found[name].min() and found[name].max() <= high
    assert found["taup"].mean().item() == pytest.approx(1.14, abs=0.04)  # cut off at 0.5
    assert found["Cm"].mean().item() == pytest.approx(1.0, abs=0.05)  # even between 0 and 2


def test_simulated_glucose_is_the_curve_plus_noise_of_the_asked_kind():
    options = {"tM": [7.0, 12.0, 18.0], "offset_mgdl": 110.0, "gain_mgdl": [30.0, 30.0, 30.0]}
    quiet, loud = (
        virtual.simulate(Prior(), 60, 288 * 4, 300.0, noise_mgdl=s, rng=np.random.default_rng(1), **options)
        for s in (0.0, 10.0)
    )
    noise = loud - quiet
    assert quiet.min() >= 40 and loud.max() <= 400
    np.testing.assert_allclose(quiet[:, :288], quiet[:, 288:576], atol=1e-9)  # the same day every day
    assert noise.std() == pytest.approx(10.0, rel=0.1)
    assert np.mean(noise[:, 24:] * noise[:, :-24]) / noise.var() == pytest.approx(np.exp(-1), abs=0.1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: staged(inner=config.Ridge()), "weights that train"),
        (lambda: staged(inner=INNER), "rounds: 0"),
        (lambda: config.Ensemble(members=(staged(),), size=2), "around the ensemble"),
        (lambda: staged(inner=staged(mechanism=None)), "staged inside staged"),
        (lambda: staged(inner=Residual(mechanism=CMAMechanism(meals=2), inner=LSTM())), "one mechanism, found 2"),
        (lambda: staged(mechanism=None), "no part names its mechanism"),
        (lambda: config.Exogenous(inner=LSTM()), "set `exogenous: true`"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_a_fix(model, message):
    with pytest.raises(ValueError, match=message):
        recipe(model())
