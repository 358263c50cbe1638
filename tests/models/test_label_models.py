"""What every model of a label, and every masked autoencoder, keeps."""

from dataclasses import replace

import pytest
import torch
from label_cases import CASES, MASKED, PAT, PRETRAIN, REGRESS, SPEC, TTM, Held, prepared, windows

from raycadian import config
from raycadian.models import checkpoint
from raycadian.models.base import ModelSpec, trainable_parameters
from raycadian.models.build import build
from raycadian.models.seen import require_unseen

SPECS = {"classify": SPEC, "regress": REGRESS}
NETWORKS = [name for name in CASES if name not in ("statistics", "last", "boosting")]  # the others are fitted at once
BOTH = [(name, task) for name in CASES for task in SPECS]


@pytest.fixture(scope="module")
def data():
    return {task: windows(spec) for task, spec in SPECS.items()} | {"pretrain": windows(PRETRAIN)}


def rows(held, n=16):
    return held.batch(torch.arange(n))


def fitted(section, held, spec=SPEC, steps=20, lr=3e-3):
    """(model, losses): trained on all windows, without dropout."""
    model = prepared(section, held, spec)
    batch = rows(held, len(held))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss, _ = model.loss(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


# --- every model -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("name", "task"), BOTH)
def test_every_model_gives_one_finite_score_that_ignores_the_label(name, task, data):
    model = prepared(CASES[name], data[task], SPECS[task])
    batch = rows(data[task])
    with torch.inference_mode():
        score = model(batch).score
        without = model({key: value for key, value in batch.items() if key != "label"}).score
    assert score.shape == (16,) and score.dtype == torch.float32 and score.isfinite().all()
    assert torch.equal(score, without)
    if task == "regress" and name != "last":
        assert 80 < score.mean() < 120  # the label's unit, not a scaled one


@pytest.mark.parametrize(("name", "task"), BOTH)
def test_float64_scores_do_not_depend_on_the_batch_they_stand_in(name, task, data):
    model = prepared(CASES[name], data[task], SPECS[task]).double()
    batch = rows(data[task])
    with torch.inference_mode():
        together = model(batch).score
        alone = [model({key: value[i : i + 1] for key, value in batch.items()}).score for i in range(0, 16, 4)]
    assert together.dtype == torch.float64
    assert torch.allclose(together[::4], torch.cat(alone), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_mixed_precision_keeps_the_score(name, data):
    model = prepared(CASES[name], data["regress"], REGRESS)
    batch = rows(data["regress"])
    exact = model(batch).score
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(batch).score
        loss, _ = model.loss(batch)
    assert mixed.dtype == loss.dtype == torch.float32
    assert (mixed - exact).abs().max() < 0.03 * exact.abs().max()


@pytest.mark.parametrize("name", MASKED)
def test_mixed_precision_keeps_the_reconstruction(name, data):
    model = prepared(MASKED[name], data["pretrain"], PRETRAIN)
    batch = rows(data["pretrain"])
    exact, _ = model.loss(batch)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _ = model.loss(batch)
    assert mixed.dtype == torch.float32
    assert mixed.item() == pytest.approx(exact.item(), rel=0.02)


@pytest.mark.parametrize("name", CASES)
def test_a_round_trip_through_a_checkpoint_changes_nothing(name, data, tmp_path):
    model = prepared(CASES[name], data["classify"])
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    model.calibrate(data["classify"])
    checkpoint.save(model, tmp_path / "run")
    loaded = checkpoint.load(tmp_path / "run")
    assert (loaded.config, loaded.spec) == (model.config, SPEC)
    batch = rows(data["classify"])
    assert torch.equal(loaded(batch).score, model(batch).score)
    trains = [name for name, p in loaded.named_parameters() if p.requires_grad]
    assert trains == [name for name, p in model.named_parameters() if p.requires_grad]


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_training_lowers_the_loss(name, data):
    lr = {"pat-conv": 3e-4, "ttm-lora": 0.03}.get(name, 3e-3)
    _, losses = fitted(CASES[name], data["classify"], lr=lr)
    assert losses[-1] < 0.9 * losses[0], losses


@pytest.mark.parametrize("name", NETWORKS)
def test_every_trainable_weight_gets_a_gradient(name, data):
    """DistributedDataParallel hangs on one that does not."""
    model = prepared(CASES[name], data["classify"]).train()
    model.loss(rows(data["classify"]))[0].backward()
    assert trainable_parameters(model) > 0
    for weight_name, weight in model.named_parameters():
        assert (weight.grad is not None) == weight.requires_grad, weight_name


@pytest.mark.parametrize("name", CASES)
def test_unknown_labels_count_for_nothing(name, data):
    held = data["classify"]
    some = rows(held, 32)
    unknown = torch.arange(32) % 3 == 0
    hidden = {**some, "label": some["label"].masked_fill(unknown, torch.nan)}
    kept = {key: value[~unknown] for key, value in some.items()}
    model = prepared(CASES[name], held)
    loss, diagnostics = model.loss(hidden)
    expected, other = model.loss(kept)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert diagnostics["n"] == other["n"] == (~unknown).sum()
    nobody = {**some, "label": torch.full((32,), torch.nan)}
    assert model.loss(nobody)[0] == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_seed_builds_the_same_weights(name, data):
    first, second = (prepared(CASES[name], data["classify"], seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = prepared(CASES[name], data["classify"], seed=4).state_dict()
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", CASES)
def test_a_window_in_which_nothing_was_measured_gives_a_finite_score(name, data):
    model = prepared(CASES[name], data["classify"]).train()
    batch = rows(data["classify"])
    empty = {**batch, "past": torch.zeros_like(batch["past"]), "past_mask": torch.zeros_like(batch["past_mask"])}
    assert model(empty).score.isfinite().all()
    loss, _ = model.loss(empty)
    if loss.requires_grad:
        loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


# --- masked pretraining ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", MASKED)
def test_masked_training_lowers_the_loss(name, data):
    """The error on all points, with the same patches hidden before and after."""
    model = prepared(MASKED[name], data["pretrain"], PRETRAIN)
    batch = rows(data["pretrain"], 64)
    before = model.loss(batch)[1]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    torch.manual_seed(0)
    for _ in range(25):
        optimizer.zero_grad()
        model.train().forward_loss(batch)[1].backward()
        optimizer.step()
    after = model.eval().loss(batch)[1]
    assert after["mse"] < 0.9 * before["mse"], (before, after)
    assert before["n"] == batch["past_mask"].sum()


@pytest.mark.parametrize("name", MASKED)
def test_masked_models_keep_their_weights_and_evaluate_alike(name, data, tmp_path):
    model = prepared(MASKED[name], data["pretrain"], PRETRAIN)
    batch = rows(data["pretrain"])
    reconstruction = model(batch)
    assert reconstruction.signal.shape == batch["past"].shape
    assert 0 < reconstruction.hidden.sum() < len(reconstruction.hidden)
    checkpoint.save(model, tmp_path / "run")
    again = checkpoint.load(tmp_path / "run")
    assert torch.equal(again(batch).signal, reconstruction.signal)
    model.train()
    torch.manual_seed(0)
    assert len({tuple(model(batch).hidden.tolist()) for _ in range(20)}) > 1  # another draw each time


@pytest.mark.parametrize("name", MASKED)
def test_hidden_points_do_not_reach_the_reconstruction(name, data):
    model = prepared(MASKED[name], data["pretrain"], PRETRAIN)
    batch = rows(data["pretrain"])
    signal = model.signal(batch)
    hidden = torch.arange(model.patches) % 2 == 0
    gone = hidden.repeat_interleave(signal.shape[1] // getattr(model.config.inner, "pieces", 1) // model.patches)
    gone = gone.repeat(signal.shape[1] // len(gone)).view(1, -1, 1)
    other = torch.where(gone, torch.randn_like(signal), signal)
    assert torch.equal(model.rebuild(other, batch, hidden), model.rebuild(signal, batch, hidden))
    assert not torch.equal(model.rebuild(-signal, batch, hidden), model.rebuild(signal, batch, hidden))


@pytest.mark.parametrize("name", ["masked-pat", "masked-ttm", "masked-ttm-mixed-pieces"])
def test_every_weight_of_a_masked_model_gets_a_gradient(name, data):
    model = prepared(MASKED[name], data["pretrain"], PRETRAIN).train()
    model.loss(rows(data["pretrain"]))[0].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("inner", "part", "other", "message"),
    [
        (PAT, "encoder", {"size": "medium"}, "size: small, here medium"),
        (TTM, "network", {"d_model": 16}, "d_model: 8, here 16"),
    ],
    ids=["pat", "ttm"],
)
def test_a_later_recipe_takes_up_what_was_pretrained(inner, part, other, message, data, tmp_path):
    first = prepared(config.Masked(inner=inner), data["pretrain"], PRETRAIN)
    first.remember_cycles(["C"])
    checkpoint.save(first, tmp_path / "run")
    section = type(inner)(pretrained=str(tmp_path / "run"), **inner.model_dump(exclude={"pretrained", "cycles"}))
    second = build(section, SPEC)
    theirs, ours = getattr(first, part).state_dict(), getattr(second, part).state_dict()
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)
    assert second.config.cycles == ("C",)
    with pytest.raises(ValueError, match=rf"leakage: .*\['C'\].*force it by {section.kind}.seen: allow"):
        require_unseen(second, ["C", "D"])
    require_unseen(build(section.model_copy(update={"seen": "allow"}), SPEC), ["C", "D"])
    with pytest.raises(ValueError, match=f"pretrained with another network: .*{message}"):
        build(section.model_copy(update=other), SPEC)
    checkpoint.save(prepared(config.Statistics(), data["classify"]), tmp_path / "other")
    with pytest.raises(ValueError, match="expected the checkpoint of a run of `masked`, found one of 'statistics'"):
        build(section.model_copy(update={"pretrained": str(tmp_path / "other")}), SPEC)
    (tmp_path / "run" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match="weights can't be read"):
        build(section, SPEC)


def test_granites_own_checkpoints_give_the_backbone(data, tmp_path):
    forecast = config.TTM(d_model=8, layers=2, patch_length=30)
    source = build(forecast, ModelSpec(180, 12, 1.0, ("glucose_mgdl",), (), (0.5,))).network
    source.save_pretrained(tmp_path / "granite")
    section = TTM.model_copy(update={"pretrained": str(tmp_path / "granite")})
    model = build(section, SPEC)
    theirs, ours = source.backbone.state_dict(), model.network.state_dict()
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[key], ours[key]) for key in theirs)
    batch = rows(data["classify"])
    expected = source.eval().backbone(batch["past"], past_observed_mask=batch["past_mask"]).last_hidden_state
    assert torch.equal(
        model.eval().network(batch["past"], past_observed_mask=batch["past_mask"]).last_hidden_state, expected
    )
    mixed = section.model_copy(update={"channels": "mixed"})
    two = build(mixed, replace(SPEC, past=("ecg_mv", "abp_mmhg"))).network.state_dict()  # what mixes channels is new
    assert all(torch.equal(value, two[key]) for key, value in theirs.items())
    with pytest.raises(ValueError, match=r"points of a piece .*: expected 180, found 90"):
        build(section.model_copy(update={"pieces": 2}), SPEC)
    with pytest.raises(ValueError, match="hf download"):
        build(TTM.model_copy(update={"pretrained": "nobody/no-such-ttm"}), SPEC)


# --- what trains -----------------------------------------------------------------------------------------------------


def trains(section, data):
    model = prepared(section, data["classify"])
    return {name for name, p in model.named_parameters() if p.requires_grad}, trainable_parameters(model)


def test_pats_adapters_train_what_they_say(data):
    whole, everything = trains(PAT, data)
    assert everything == 287_265 and any("encoder" in name for name in whole)
    head, probe = trains(CASES["pat-head"], data)
    assert probe == 96 * 128 + 128 + 128 + 1 and all(name.startswith("head.") for name in head)
    names, lora = trains(CASES["pat-lora"], data)
    assert {name.split(".")[-4] for name in names if "lora_" in name} == {"query", "key", "value", "output"}
    assert lora - probe == 4 * 2 * (96 + 6 * 96)  # four layers, rank 2, of 96 to 576 or back
    last, _ = trains(CASES["pat-last"], data)
    assert {name.split("layers.")[1][0] for name in last if name.startswith("encoder")} == {"1"}


def test_ttms_adapters_train_what_they_say(data):
    head, probe = trains(TTM.model_copy(update={"adapter": config.HeadOnly()}), data)
    assert all(name.startswith("head.") for name in head) and probe == 8 + 2 + 1
    names, _ = trains(CASES["ttm-lora"], data)
    assert {name.split(".")[-4] for name in names if "lora_" in name} == {"fc1", "fc2", "attn_layer"}


def test_what_is_frozen_stays(data):
    for name in ("pat-head", "pat-lora", "ttm-head", "ttm-lora"):
        before = prepared(CASES[name], data["classify"])
        frozen = {key: p.clone() for key, p in before.named_parameters() if not p.requires_grad}
        after, _ = fitted(CASES[name], data["classify"], steps=2)
        parameters = dict(after.named_parameters())
        assert frozen and all(torch.equal(parameters[key], value) for key, value in frozen.items()), name


# --- several labels, weighed windows ---------------------------------------------------------------------------------


SEVERAL = replace(SPEC, labels=3)
MULTI = ("statistics", "feature-net", "last", "boosting", "cnn", "pat", "pat-lora", "ttm-head", "stack")


@pytest.fixture(scope="module")
def several(data):
    """The label, its contrary, and one that is unknown of every other window."""
    label = data["classify"].rows["label"]
    half = torch.where(torch.arange(len(label)) % 2 == 0, torch.nan, label.roll(1))
    return Held(data["classify"].rows | {"label": torch.stack([label, 1 - label, half], dim=1)})


@pytest.mark.parametrize("name", MULTI)
def test_several_labels_at_once(name, several, tmp_path):
    model = prepared(CASES[name], several, SEVERAL)
    model.calibrate(several)
    batch = rows(several, 32)
    score, label = model(batch).score, batch["label"]
    assert score.shape == (32, 3) and score.isfinite().all()
    if name != "stack":
        each = model.each_loss(model.score(batch), label)
        loss, diagnostics = model.loss(batch)
        assert loss.item() == pytest.approx(each[~label.isnan()].mean().item(), rel=1e-5)
        assert diagnostics["n"] == 32 + 32 + 16 and diagnostics["ranks"].sum() == 32  # of the first
    if model.positive_weight.dim() and name != "stack":
        known = [column[~column.isnan()] for column in several.labels().T]
        torch.testing.assert_close(model.positive_weight, torch.tensor([(len(k) - k.sum()) / k.sum() for k in known]))
    checkpoint.save(model, tmp_path / "run")
    assert torch.equal(checkpoint.load(tmp_path / "run")(batch).score, score)


def test_one_network_has_a_head_for_each_label(several, data):
    one, three = trains(PAT, data)[1], trainable_parameters(prepared(PAT, several, SEVERAL))
    assert three - one == 2 * (128 + 1)  # two labels more from 128


@pytest.mark.parametrize("name", ["statistics", "boosting"])
def test_what_is_fitted_at_once_is_fitted_to_each_label_alone(name, several, data):
    together = prepared(CASES[name], several, SEVERAL)
    batch = rows(several, 96)
    for i in range(3):
        alone = prepared(CASES[name], Held(several.rows | {"label": several.labels()[:, i]}))
        torch.testing.assert_close(together(batch).score[:, i], alone(batch).score)


def test_a_label_that_is_all_the_same_is_refused_among_several(several):
    label = several.labels().clone()
    label[:, 2] = 1.0
    with pytest.raises(ValueError, match="96 known, all the same"):
        prepared(PAT, Held(several.rows | {"label": label}), SEVERAL)


@pytest.mark.parametrize("name", ["statistics", "last", "feature-net", "boosting", "pat", "stack"])
def test_a_weight_of_two_is_a_window_twice(name, data):
    held = data["classify"]
    twice = torch.arange(96) % 3 == 0
    weight = 1.0 + twice
    weighed = Held(held.rows | {"weight": weight / weight.mean()})
    doubled = held.batch(torch.cat([torch.arange(96), twice.nonzero().flatten()]))
    section = CASES[name].model_copy(update={"l2": 0.0, "min_weight": 0.0}) if name == "boosting" else CASES[name]
    one, other = (prepared(section, h) for h in (weighed, Held(doubled)))
    torch.testing.assert_close(one.positive_weight, other.positive_weight)
    if name in ("statistics", "last", "boosting"):  # up to how variables are standardised and cut into bins
        once = prepared(section, held)
        by_weight, by_copies, by_neither = (m(rows(held)).score for m in (one, other, once))
        assert (by_weight - by_copies).norm() < 0.4 * (by_neither - by_copies).norm()
    one.load_state_dict(other.state_dict())
    assert one.loss(weighed.rows)[0].item() == pytest.approx(other.loss(doubled)[0].item(), rel=1e-4)
    one.calibrate(weighed)
    other.calibrate(Held(doubled))
    torch.testing.assert_close(one(rows(held)).score, other(rows(held)).score, rtol=1e-2, atol=1e-2)
