from dataclasses import replace

import helpers
import numpy as np
import pytest
import torch
from model_cases import CASES, SPEC, WINDOW, Sine, prepared
from sklearn.linear_model import Ridge as ReferenceRidge
from sklearn.metrics import mean_pinball_loss
from sklearn.preprocessing import RobustScaler

from raycadian import config
from raycadian.data.series import build_series
from raycadian.data.split import Range
from raycadian.data.windows import cut_windows
from raycadian.models.base import ModelSpec, pinball, spaced, trainable_parameters
from raycadian.models.build import build
from raycadian.models.heads import around, residual_offsets

TRAINABLE = [name for name in CASES if "ttm" in name or "lstm" in name]


def with_gaps(batch, share=0.3):
    lost = torch.rand(batch["target"].shape, generator=torch.Generator().manual_seed(0)) < share
    return {**batch, "target": batch["target"].masked_fill(lost, torch.nan)}


# --- every model -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_model_gives_finite_quantiles_that_never_cross(name, training, batch):
    model = prepared(CASES[name], training)
    with torch.inference_mode():
        prediction = model(batch)
    assert prediction.quantiles.shape == (32, 6, 4)
    assert prediction.quantiles.dtype == torch.float32
    assert prediction.quantiles.isfinite().all()
    assert (prediction.quantiles.diff(dim=-1) >= 0).all()
    assert (prediction.quantiles[..., 3] > prediction.quantiles[..., 0]).all()
    assert 0 < prediction.quantiles[..., SPEC.middle].mean() < 400  # mg/dL, not a scaled unit


@pytest.mark.parametrize("name", CASES)
def test_parts_add_up_to_the_median_exactly(name, training, batch):
    prediction = prepared(CASES[name], training)(batch)
    assert set(prediction.parts) == ({"mechanism", "correction"} if "residual" in name else set())
    if prediction.parts:
        assert torch.equal(
            prediction.parts["mechanism"] + prediction.parts["correction"], prediction.quantiles[..., SPEC.middle]
        )


@pytest.mark.parametrize("name", CASES)
def test_float64_forecasts_do_not_depend_on_the_batch_they_stand_in(name, training, batch):
    model = prepared(CASES[name], training).double()
    with torch.inference_mode():
        together = model(batch).quantiles
        alone = [model({key: value[i : i + 1] for key, value in batch.items()}).quantiles for i in range(0, 32, 8)]
    assert together.dtype == torch.float64
    assert torch.allclose(together[::8], torch.cat(alone), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_forecasts_ignore_the_target(name, training, batch):
    model = prepared(CASES[name], training)
    without = {key: value for key, value in batch.items() if key != "target"}
    assert torch.equal(model(batch).quantiles, model(without).quantiles)


@pytest.mark.parametrize("name", CASES)
def test_the_median_alone_can_be_asked_for(name, training, batch):
    model = build(CASES[name], replace(SPEC, quantiles=(0.5,)))
    model.fit_statistics(training)
    assert model(batch).quantiles.shape == (32, 6, 1)


@pytest.mark.parametrize("name", CASES)
def test_mixed_precision_keeps_milligrams(name, training, batch):
    """The parts that carry mg/dL stay in float32: bfloat16 would round 130 to whole mg/dL."""
    model = prepared(CASES[name], training)
    exact = model(batch).quantiles
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(batch).quantiles
    assert mixed.dtype == torch.float32
    assert (mixed - exact).abs().max() < 0.03 * exact.std() + 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINABLE)
def test_training_lowers_the_loss(name, training):
    torch.manual_seed(0)
    model = build(CASES[name], SPEC)
    model.fit_statistics(training)
    model.eval()  # no dropout: the loss must fall on these very windows
    few = training.batch(torch.arange(0, len(training), 8))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss, _ = model.loss(few)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if "student" in name:  # log-likelihood, in nats
        assert losses[-1] < losses[0] - 0.5, losses
    else:
        assert losses[-1] < 0.75 * losses[0], losses


@pytest.mark.parametrize("name", TRAINABLE)
def test_every_trainable_weight_gets_a_gradient(name, training, batch):
    """DistributedDataParallel hangs on one that does not."""
    model = prepared(CASES[name], training).train()
    model.loss(batch)[0].backward()
    assert trainable_parameters(model) > 0
    for weight_name, weight in model.named_parameters():
        assert (weight.grad is not None) == weight.requires_grad, weight_name


@pytest.mark.parametrize("name", TRAINABLE)
def test_the_same_seed_builds_the_same_weights(name, training):
    first, second = (prepared(CASES[name], training, seed=3).state_dict() for _ in range(2))
    other = prepared(CASES[name], training, seed=4).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", TRAINABLE)
def test_a_constant_context_gives_a_finite_forecast_and_gradient(name, training, batch):
    model = prepared(CASES[name], training).train()
    flat = {
        **batch,
        "past": torch.full_like(batch["past"], 120.0),
        "mechanism": torch.full_like(batch["mechanism"], 110.0),
    }
    loss, _ = model.loss(flat)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


# --- the loss --------------------------------------------------------------------------------------------------------


def test_pinball_is_that_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    target, quantiles = torch.rand(50, 6, generator=generator), torch.rand(50, 6, 4, generator=generator)
    ours = pinball(quantiles, target, torch.tensor(SPEC.quantiles)).mean()
    reference = np.mean(
        [
            mean_pinball_loss(target.flatten(), quantiles[..., i].flatten(), alpha=level)
            for i, level in enumerate(SPEC.quantiles)
        ]
    )
    assert ours.item() == pytest.approx(reference, rel=1e-6)


def test_losses_weighted_by_points_are_the_mean_over_all(training):
    model = prepared(config.Persistence(), training)
    whole = with_gaps(training.batch(torch.arange(60)))
    parts = [{key: value[a:b] for key, value in whole.items()} for a, b in ((0, 7), (7, 8), (8, 60))]
    losses = [model.loss(part) for part in parts]
    n = torch.stack([diagnostics["n"] for _, diagnostics in losses])
    loss, diagnostics = model.loss(whole)
    assert n.sum() == diagnostics["n"] == (~torch.isnan(whole["target"])).sum()
    assert (torch.stack([part for part, _ in losses]) * n).sum() / n.sum() == pytest.approx(loss.item(), rel=1e-5)
    error = (model(whole).quantiles[..., SPEC.middle] - whole["target"])[~torch.isnan(whole["target"])]
    assert diagnostics["mae"].item() == pytest.approx(error.abs().mean().item(), rel=1e-5)
    assert diagnostics["mse"].item() == pytest.approx(error.square().mean().item(), rel=1e-5)


@pytest.mark.parametrize("name", ["persistence", "ttm"])
def test_without_a_measured_target_the_loss_is_zero(name, training, batch):
    model = prepared(CASES[name], training)
    empty = {**batch, "target": torch.full_like(batch["target"], torch.nan)}
    loss, diagnostics = model.loss(empty)
    assert loss == 0 and diagnostics["n"] == 0
    if name == "ttm":
        loss.backward()
        assert all((p.grad == 0).all() for p in model.parameters())


# --- quantiles -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("middle", [0, 1, 3])
def test_steps_lead_outwards_from_the_median(middle):
    quantiles = around(torch.tensor([[100.0]]), torch.tensor([[[1.0, 2.0, 4.0]]]), middle)
    expected = torch.tensor([0.0, 1.0, 3.0, 7.0])
    assert torch.equal(quantiles[0, 0], expected - expected[middle] + 100)


def test_offsets_are_the_residuals_quantiles_and_zero_at_the_median():
    residual = torch.from_numpy(np.random.default_rng(0).normal(0, 10, (20000, 2)).astype(np.float32))
    residual[::3, 1] = torch.nan
    offsets = residual_offsets(residual, (0.05, 0.25, 0.5, 0.95))
    assert offsets[0].numpy() == pytest.approx([-16.45, -6.74, 0, 16.45], abs=0.4)
    assert offsets[1].numpy() == pytest.approx([-16.45, -6.74, 0, 16.45], abs=0.5)
    biased = residual_offsets(residual + 30, (0.05, 0.25, 0.5, 0.95))  # every quantile above the point forecast
    assert biased[0, :3].tolist() == [0, 0, 0] and biased[0, 3] == pytest.approx(46.45, abs=0.4)


def test_a_step_without_any_measured_target_is_an_error():
    residual = torch.zeros(10, 3)
    residual[:, 1] = torch.nan
    with pytest.raises(ValueError, match="horizon step 2"):
        residual_offsets(residual, (0.5,))


def test_intervals_of_closed_form_models_cover_what_they_say(training):
    for section in (config.Persistence(), config.Ridge(lags=6), config.CMA()):
        model = prepared(section, training)
        whole = training.batch(torch.arange(len(training)))
        below = (whole["target"].unsqueeze(-1) <= model(whole).quantiles).float().mean(dim=0)  # (H, Q)
        assert below[:, 0].numpy() == pytest.approx(np.full(6, 0.05), abs=0.01), section.kind
        assert below[:, 3].numpy() == pytest.approx(np.full(6, 0.95), abs=0.01), section.kind


def test_spec_round_trip_and_its_errors():
    assert ModelSpec.from_dict(SPEC.to_dict()) == SPEC
    with pytest.raises(ValueError, match=r"contain 0\.5"):
        ModelSpec(24, 6, 5.0, ("glucose_mgdl",), (), (0.1, 0.9))
    with pytest.raises(ValueError, match="positive"):
        ModelSpec(24, 0, 5.0, ("glucose_mgdl",), (), (0.5,))


def test_spaced_takes_windows_evenly_and_none_twice(training):
    took = torch.cat([batch["time_s"] + 10**10 * batch["subject"] for batch in spaced(training, 50, batch_size=7)])
    every = torch.cat([batch["time_s"] + 10**10 * batch["subject"] for batch in spaced(training, 10**6)])
    assert len(took) == len(took.unique()) == 50
    assert len(every) == len(every.unique()) == len(training)
    assert took[0] == every[0] and took[-1] == every[-1]


# --- baselines -------------------------------------------------------------------------------------------------------


def test_persistence_repeats_the_last_value(training, batch):
    median = prepared(config.Persistence(), training)(batch).quantiles[..., SPEC.middle]
    assert torch.equal(median, batch["past"][:, -1:, 0].expand(-1, 6))


def test_seasonal_is_exact_on_a_series_that_repeats_daily():
    day = np.tile(helpers.day_curve(1), 4)
    series = build_series(helpers.People({"p": [helpers.recording(day, "p")]}), WINDOW.past)
    daily = cut_windows(series, (Range("p", 0, 0, len(day), "train", "id"),), WINDOW, 7)
    batch = daily.batch(torch.arange(len(daily)))
    assert torch.equal(prepared(config.Seasonal(), daily)(batch).quantiles[..., SPEC.middle], batch["target"])


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec(287, 6, 5.0, WINDOW.past, (), (0.5,)),  # yesterday's value of the first step lies before the context
        ModelSpec(600, 289, 5.0, WINDOW.past, (), (0.5,)),  # 24 h before the last step lies in the horizon itself
        ModelSpec(600, 6, 7.0, WINDOW.past, (), (0.5,)),  # no grid point at the same hour
    ],
)
def test_seasonal_refuses_windows_without_yesterday(spec):
    with pytest.raises(ValueError, match="24 h"):
        build(config.Seasonal(), spec)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 300.0])
def test_ridge_equals_scikit_learn(training, alpha):
    holes = _Holes(training)
    model = prepared(config.Ridge(lags=6, alpha=alpha), holes)
    whole = holes.batch(torch.arange(len(training)))
    recent = whole["past"][:, -6:, 0].double().flip(1).numpy()
    x = np.column_stack([recent[:, 0], recent[:, 1:] - recent[:, :1]])
    for step in (0, 5):
        y = whole["target"][:, step].double().numpy() - recent[:, 0]
        seen = ~np.isnan(y)
        penalty = alpha * np.square(x[seen, 1:]).mean()
        reference = ReferenceRidge(alpha=penalty, tol=1e-12).fit(x[seen], y[seen])
        assert model.weight[step].numpy() == pytest.approx(reference.coef_, abs=1e-4)
        assert model.bias[step].item() == pytest.approx(reference.intercept_, abs=1e-2)


class _Holes:
    """Training windows some of whose targets are missing."""

    def __init__(self, training):
        self.training = training

    def __len__(self):
        return len(self.training)

    def batch(self, index):
        batch = self.training.batch(index)
        lost = (batch["time_s"][:, None] // 300 + torch.arange(6)) % 5 == 0
        return {**batch, "target": batch["target"].masked_fill(lost, torch.nan)}

    def batches(self, batch_size):
        return (self.batch(part) for part in torch.arange(len(self)).split(batch_size))


def test_ridge_recovers_a_planted_process():
    """y(t+1) - m = 1.6 (y(t) - m) - 0.7 (y(t-1) - m) + noise, m = 140 mg/dL."""
    rng, y = np.random.default_rng(0), np.full(20000, 140.0)
    for t in range(2, len(y)):
        y[t] = 140 + 1.6 * (y[t - 1] - 140) - 0.7 * (y[t - 2] - 140) + rng.normal(0, 3)
    series = build_series(helpers.People({"p": [helpers.recording(y, "p")]}), WINDOW.past)
    planted = cut_windows(series, (Range("p", 0, 0, len(y), "train", "id"),), WINDOW, 1)
    model = prepared(config.Ridge(lags=2), planted)
    # in the model's terms: y' - v = (1.6 - 0.7 - 1) v - 0.7 (v_before - v) + 0.1 m
    assert model.weight[0].numpy() == pytest.approx([-0.1, -0.7], abs=0.02)
    assert model.bias[0].item() == pytest.approx(14.0, abs=1.0)


def test_a_heavy_penalty_leaves_persistence_plus_a_constant(training, batch):
    model = prepared(config.Ridge(lags=6, alpha=1e12), training)
    assert model.weight.abs().max() < 1e-6
    change = torch.cat([b["target"] - b["past"][:, -1:, 0] for b in training.batches(512)]).mean(dim=0)
    assert model.bias.numpy() == pytest.approx(change.numpy(), abs=0.01)


def test_ridge_refuses_constant_glucose_and_too_many_lags():
    series = build_series(helpers.People({"p": [helpers.recording(np.full(800, 120.0), "p")]}), WINDOW.past)
    flat = cut_windows(series, (Range("p", 0, 0, 800, "train", "id"),), WINDOW, 1)
    with pytest.raises(ValueError, match="constant"):
        prepared(config.Ridge(lags=6), flat)
    with pytest.raises(ValueError, match=r"lags 289 exceeds the context of 288"):
        build(config.Ridge(lags=289), SPEC)


def test_the_cma_alone_is_the_mechanism(training, batch):
    median = prepared(config.CMA(), training)(batch).quantiles[..., SPEC.middle]
    assert torch.equal(median, batch["mechanism"][:, 288:])


# --- LSTM ------------------------------------------------------------------------------------------------------------


def event_windows():
    """Windows with basal and bolus beside glucose, a sensor at its limit, and a gap."""
    glucose = helpers.day_curve(3).astype(np.float32)
    glucose[300:305], glucose[400:403] = 400.0, 40.0
    glucose[350:352] = np.nan
    n = len(glucose)
    bolus = np.zeros(n, dtype=np.float32)
    bolus[::60] = 4.0
    channels = {"basal_uph": np.linspace(0.5, 1.5, n, dtype=np.float32), "bolus_u": bolus}
    past = ("glucose_mgdl", "basal_uph", "bolus_u")
    series = build_series(helpers.People({"p": [helpers.recording(glucose, "p", **channels)]}), past)
    window = WINDOW.model_copy(update={"past": past})
    cut = cut_windows(series, (Range("p", 0, 0, n, "train", "id"),), window, 5)
    return ModelSpec(288, 6, 5.0, past, WINDOW.known, (0.5,)), cut


def test_lstm_features_are_bloodtwins_and_scaled_like_scikit_learns():
    spec, cut = event_windows()
    model = build(config.LSTM(hidden=8), spec)
    model.fit_statistics(cut)
    whole = cut.batch(torch.arange(len(cut)))
    features = model._features(whole)
    glucose, delta, basal, bolus, sine, cosine, clipped, missing = features.unbind(-1)
    assert torch.equal(glucose, whole["past"][..., 0])
    assert torch.equal(delta[:, 1:], glucose.diff(dim=1)) and (delta[:, 0] == 0).all()
    assert torch.equal(basal, whole["past"][..., 1]) and torch.equal(bolus, whole["past"][..., 2])
    assert torch.allclose(sine.square() + cosine.square(), torch.ones(()), atol=1e-5)
    assert torch.equal(clipped.bool(), (glucose == 400) | (glucose == 40)) and clipped.sum() > 0
    assert torch.equal(missing.bool(), ~whole["past_mask"][..., 0]) and missing.sum() > 0
    reference = RobustScaler().fit(features[..., :6].flatten(0, 1).numpy())
    assert model.centre[:6].numpy() == pytest.approx(reference.center_, abs=1e-4)
    assert model.scale[:6].numpy() == pytest.approx(reference.scale_, rel=1e-4)
    assert model.centre[6:].tolist() == [0, 0] and model.scale[6:].tolist() == [1, 1]


def test_channels_that_the_windows_lack_are_zeros(batch):
    spec = ModelSpec(288, 6, 5.0, WINDOW.past, (), (0.5,))
    features = build(config.LSTM(hidden=8), spec)._features({**batch, "known": torch.empty(32, 294, 0)})
    assert (features[..., 2:6] == 0).all() and (features[..., 0] > 0).all()


def test_lstm_within_a_hybrid_knows_the_sensors_limits_in_glucose():
    _, cut = event_windows()
    cut = cut_windows(cut.series, (Range("p", 0, 0, 864, "train", "id"),), cut.window, 5, Sine())
    batch = cut.batch(torch.arange(len(cut)))
    spec = ModelSpec(288, 6, 5.0, cut.window.past, WINDOW.known, (0.5,))
    seen = {}
    hybrid = build(config.Residual(inner=config.LSTM(hidden=8)), spec)
    hybrid.inner.lstm.register_forward_pre_hook(lambda _, args: seen.update(features=args[0]))
    hybrid(batch)
    glucose = batch["past"][..., 0]
    assert torch.equal(seen["features"][..., 6].bool(), (glucose - 400).abs().lt(1e-4) | (glucose - 40).abs().lt(1e-4))


def test_lstm_forecasts_stay_within_what_glucose_can_be(batch, training):
    for name in ("lstm", "residual-lstm"):
        model = prepared(CASES[name], training)
        inner = getattr(model, "inner", model)
        with torch.no_grad():
            inner.head[-1].bias.fill_(1e4)
        assert model(batch).quantiles[..., SPEC.middle :].detach().numpy() == pytest.approx(600, abs=1e-3)


def test_noise_on_the_level_is_of_training_alone(training, batch):
    noisy, plain = (prepared(config.MLP(lags=12, hidden=8, level_noise=n, dropout=0), training) for n in (1, 0))
    noisy.load_state_dict(plain.state_dict())
    forecast = [model.eval()(batch).quantiles for model in (noisy, plain)]
    assert torch.equal(*forecast)
    noisy.train(), plain.train()
    assert torch.equal(plain(batch).quantiles, plain(batch).quantiles)
    assert not torch.equal(noisy(batch).quantiles, noisy(batch).quantiles)
