import pytest
import torch
from model_cases import CASES, SPEC, TTM, Sine, prepared, windows

from raycadian import config
from raycadian.models.build import build
from raycadian.models.hybrid import left_over


@pytest.mark.parametrize("name", ["persistence", "seasonal", "ridge", "lstm", "ttm-lora"])
def test_with_a_mechanism_of_zero_it_is_the_inner_model(name):
    nothing = windows(Sine(0.0, 0.0))
    batch = nothing.batch(torch.arange(16))
    alone, hybrid = (prepared(section, nothing) for section in (CASES[name], config.Residual(inner=CASES[name])))
    assert torch.equal(alone(batch).quantiles, hybrid(batch).quantiles)
    assert torch.equal(alone.loss(batch)[0], hybrid.loss(batch)[0])


def test_the_inner_model_sees_what_the_mechanism_leaves_over(batch):
    seen = {}
    hybrid = build(config.Residual(inner=config.Persistence()), SPEC)
    hybrid.inner.register_forward_pre_hook(lambda _, args: seen.update(args[0]))
    before = {key: value.clone() for key, value in batch.items()}
    hybrid(batch)
    assert torch.equal(seen["past"][..., 0], batch["past"][..., 0] - batch["mechanism"][:, :288])
    assert torch.equal(seen["target"], batch["target"] - batch["mechanism"][:, 288:])
    assert torch.equal(seen["past"][..., 0] + seen["shift"][:, :288], batch["past"][..., 0])
    assert all(torch.equal(before[key], batch[key]) for key in batch)  # the outer batch is untouched


def test_the_inner_statistics_come_from_what_is_left_over(training):
    """The mechanism plus a lag-free ridge: what persistence of the remainder says, learned on the remainder."""
    hybrid = prepared(config.Residual(inner=config.Ridge(lags=1)), training)
    rest = torch.cat([left_over(batch)["past"][:, -1, 0] for batch in training.batches(256)])
    change = torch.cat([left_over(batch)["target"][:, 0] for batch in training.batches(256)]) - rest
    slope = torch.cov(torch.stack([rest, change]).double())[0, 1] / rest.double().var()
    assert hybrid.inner.weight[0, 0].item() == pytest.approx(slope.item(), abs=1e-4)


def test_the_loss_is_that_of_the_correction(training, batch):
    """Shifting forecast and truth alike changes no error."""
    hybrid = prepared(config.Residual(inner=TTM), training)
    inner, _ = hybrid.inner.loss(left_over(batch))
    assert hybrid.loss(batch)[0].item() == pytest.approx(inner.item(), rel=1e-5)


def test_wrappers_nest(training, batch):
    """Twice the mechanism taken off and twice put back: the correction of the outer holds the inner's mechanism."""
    nested = prepared(config.Residual(inner=config.Residual(inner=config.Persistence())), training)
    prediction = nested(batch)
    future, rest = batch["mechanism"][:, 288:], batch["past"][:, -1:, 0] - 2 * batch["mechanism"][:, 287:288]
    assert torch.allclose(prediction.quantiles[..., SPEC.middle], 2 * future + rest, atol=1e-3)
    assert torch.equal(prediction.parts["mechanism"], future)


def test_left_over_adds_up_what_wrappers_subtract(batch):
    twice = left_over(left_over(batch))
    assert torch.allclose(twice["past"][..., 0] + twice["shift"][:, :288], batch["past"][..., 0], atol=1e-3)


def test_batches_without_a_mechanism_are_refused(batch):
    without = {key: value for key, value in batch.items() if key != "mechanism"}
    for section in (config.CMA(), config.Residual(inner=config.Persistence())):
        with pytest.raises(AssertionError, match="mechanism"):
            build(section, SPEC)(without)
    build(config.Persistence(), SPEC)(without)
