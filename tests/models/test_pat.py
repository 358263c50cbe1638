"""PAT's network, its published weight files, what they have seen, its masked autoencoder."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from label_cases import Held

from raycadian import config
from raycadian.models import checkpoint, pat_encoder, pat_weights
from raycadian.models.base import ModelSpec, trainable_parameters
from raycadian.models.build import build
from raycadian.models.masked import draw
from raycadian.models.pat_encoder import SIZES, WIDTH, Encoder, Head
from raycadian.models.seen import require_unseen

WEEK = 10080
DAY = 1440
TINY = pat_encoder.Size(patch=18, heads=2, layers=2)


# --- a plain NumPy forward pass, from Keras' names and shapes alone -------------------------------------------------


def keras_weights(size, convolution=False, seed=0):
    """Random weights by the names that Keras gives them."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return (rng.normal(size=shape) / np.sqrt(WIDTH)).astype(np.float32)

    if convolution:
        name = "conv1d_patch_embedding/conv1d_patch_embedding"
        weights = {f"{name}/kernel:0": normal(3, 1, WIDTH), f"{name}/bias:0": normal(WIDTH)}
    else:
        weights = {"dense/dense/kernel:0": normal(size.patch, WIDTH), "dense/dense/bias:0": normal(WIDTH)}
    for i in range(1, size.layers + 1):
        layer = f"encoder_layer_{i}_transformer/encoder_layer_{i}"
        for name in ("query", "key", "value"):
            weights[f"{layer}_attention/{name}/kernel:0"] = normal(WIDTH, size.heads, WIDTH)
            weights[f"{layer}_attention/{name}/bias:0"] = normal(size.heads, WIDTH)
        weights[f"{layer}_attention/attention_output/kernel:0"] = normal(size.heads, WIDTH, WIDTH)
        weights[f"{layer}_attention/attention_output/bias:0"] = normal(WIDTH)
        weights[f"{layer}_ff1/kernel:0"], weights[f"{layer}_ff1/bias:0"] = normal(WIDTH, 256), normal(256)
        weights[f"{layer}_ff2/kernel:0"], weights[f"{layer}_ff2/bias:0"] = normal(256, WIDTH), normal(WIDTH)
        for name in ("norm1", "norm2"):
            weights[f"{layer}_{name}/gamma:0"] = 1 + normal(WIDTH)
            weights[f"{layer}_{name}/beta:0"] = normal(WIDTH)
    return weights


def write(path, weights, root=""):
    """As Keras does: a group a layer, also for layers without weights."""
    with h5py.File(path, "w") as file:
        file.create_group(f"{root}reshape")
        for name, value in weights.items():
            file[root + name] = value
    return path


def numpy_layers(weights, size, activity):
    """The output of the patch embedding and of each block, float64: loops over heads, no shape tricks."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    patches = activity.astype(np.float64).reshape(len(activity), -1, size.patch)
    if "dense/dense/kernel:0" in w:
        x = patches @ w["dense/dense/kernel:0"] + w["dense/dense/bias:0"]
    else:
        name = "conv1d_patch_embedding/conv1d_patch_embedding"
        padded = np.pad(patches, ((0, 0), (0, 0), (1, 1)))
        seen = [np.outer(padded[..., m : m + 3].reshape(-1, 3)[:, k], w[f"{name}/kernel:0"][k, 0])
                for m in range(size.patch) for k in range(3)]  # fmt: skip
        each = np.stack(seen).reshape(size.patch, 3, *patches.shape[:2], WIDTH).sum(1) + w[f"{name}/bias:0"]
        x = np.maximum(each, 0).mean(0)
    x = x + numpy_positions(x.shape[1])
    states = [x]
    for i in range(1, size.layers + 1):
        layer = f"encoder_layer_{i}_transformer/encoder_layer_{i}"
        x = numpy_norm(x + numpy_attention(w, f"{layer}_attention", size.heads, x), w, f"{layer}_norm1")
        inner = np.maximum(x @ w[f"{layer}_ff1/kernel:0"] + w[f"{layer}_ff1/bias:0"], 0)
        x = numpy_norm(x + inner @ w[f"{layer}_ff2/kernel:0"] + w[f"{layer}_ff2/bias:0"], w, f"{layer}_norm2")
        states.append(x)
    return states


def numpy_positions(patches):
    table = np.empty((patches, WIDTH))
    for position in range(patches):
        for k in range(WIDTH // 2):
            angle = position * np.exp(-np.log(10000) / WIDTH * 2 * k)
            table[position, k], table[position, WIDTH // 2 + k] = np.sin(angle), np.cos(angle)
    return table


def numpy_attention(w, name, heads, x):
    total = np.zeros_like(x) + w[f"{name}/attention_output/bias:0"]
    for h in range(heads):
        q, k, v = (x @ w[f"{name}/{n}/kernel:0"][:, h] + w[f"{name}/{n}/bias:0"][h] for n in ("query", "key", "value"))
        score = q @ k.transpose(0, 2, 1) / np.sqrt(96)
        score = np.exp(score - score.max(-1, keepdims=True))
        total = total + (score / score.sum(-1, keepdims=True)) @ v @ w[f"{name}/attention_output/kernel:0"][h]
    return total


def numpy_norm(x, w, name):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return scaled * w[f"{name}/gamma:0"] + w[f"{name}/beta:0"]


def torch_layers(encoder, activity):
    states = [encoder.embed(activity)]
    for layer in encoder.layers:
        states.append(layer(states[-1]))
    return states


@pytest.mark.parametrize("root", ["", "model_weights/"])
@pytest.mark.parametrize("convolution", [False, True], ids=["dense", "conv"])
def test_a_published_file_gives_every_layers_output_of_a_plain_forward_pass(convolution, root, tmp_path):
    weights = keras_weights(TINY, convolution)
    encoder = Encoder(TINY, DAY, convolution=convolution).eval()
    pat_weights.load(encoder, write(tmp_path / "encoder.h5", weights, root))
    activity = np.random.default_rng(1).normal(size=(3, DAY)).astype(np.float32)
    expected = numpy_layers(weights, TINY, activity)
    with torch.inference_mode():
        states = torch_layers(encoder, torch.from_numpy(activity))
        assert torch.equal(states[-1], encoder(torch.from_numpy(activity)))
    assert len(states) == len(expected) == 3
    for ours, theirs in zip(states, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SIZES)
def test_a_week_through_the_published_sizes(name, tmp_path):
    """Last layer of each published size, on a whole week, against the plain forward pass."""
    size = SIZES[name]
    minutes = WEEK if name == "small" else 90  # the plain pass of the larger ones takes too long
    weights = keras_weights(size)
    encoder = Encoder(size, minutes).eval()
    pat_weights.load(encoder, write(tmp_path / "encoder.h5", weights))
    activity = np.random.default_rng(1).normal(size=(1, minutes)).astype(np.float32)
    with torch.inference_mode():
        states = encoder(torch.from_numpy(activity)).numpy()
    assert states.shape == (1, minutes // size.patch, WIDTH)
    np.testing.assert_allclose(states, numpy_layers(weights, size, activity)[-1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "count"), [("small", 285_000), ("medium", 1_000_000), ("large", 1_990_000)])
def test_parameter_counts_are_the_published_ones(name, count):
    network = torch.nn.ModuleList([Encoder(SIZES[name], WEEK), Head(1)])
    assert trainable_parameters(network) == pytest.approx(count, rel=0.01)


def test_patches_must_fill_the_window():
    with pytest.raises(ValueError, match="patches of 18 minutes; found a window of 10000"):
        Encoder(SIZES["small"], 10000)


def test_two_windows_do_not_see_each_other():
    torch.manual_seed(0)
    encoder = Encoder(TINY, DAY).eval()
    activity = torch.randn(2, DAY)
    torch.testing.assert_close(encoder(activity)[:1], encoder(activity[:1]), rtol=0, atol=1e-5)


# --- files that are not what they should be --------------------------------------------------------------------------


def without(name):
    return lambda weights: {key: value for key, value in weights.items() if key != name}


def changed(name, value):
    return lambda weights: {**weights, name: value(weights[name])}


FIRST = "encoder_layer_1_transformer/encoder_layer_1"
DAMAGES = {
    "missing": (without(f"{FIRST}_norm2/beta:0"), "missing encoder_layer_1_transformer/encoder_layer_1_norm2/beta:0"),
    "no embedding": (without("dense/dense/kernel:0"), "missing dense/dense/kernel:0"),
    "superfluous": (lambda w: w | {"decoder/kernel:0": np.zeros(3, np.float32)}, "superfluous decoder/kernel:0"),
    "another layer": (
        lambda w: w | {k.replace("layer_1", "layer_3"): v for k, v in w.items() if "layer_1" in k},
        "superfluous encoder_layer_3.* more",
    ),
    "another patch": (
        changed("dense/dense/kernel:0", lambda v: v[:9]),
        r"dense/dense/kernel:0: expected \(18, 96\), found \(9, 96\)",
    ),
    "heads and widths swapped": (
        changed(f"{FIRST}_attention/query/kernel:0", lambda v: v.transpose(1, 0, 2)),
        r"query/kernel:0: expected \(96, 2, 96\), found \(2, 96, 96\)",
    ),
    "integers": (changed(f"{FIRST}_ff1/bias:0", lambda v: v.astype(int)), "ff1/bias:0: expected floating-point"),
    "not a number": (changed(f"{FIRST}_ff1/bias:0", lambda v: v * np.nan), "not finite: .*ff1/bias:0"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_another_encoders_file_is_an_error_and_loads_nothing(damage, tmp_path):
    spoil, message = DAMAGES[damage]
    path = write(tmp_path / "encoder.h5", spoil(keras_weights(TINY)))
    encoder = Encoder(TINY, DAY)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(ValueError, match=message) as error:
        pat_weights.load(encoder, path)
    assert str(path) in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_files_that_are_not_hdf5(tmp_path):
    path = tmp_path / "encoder.h5"
    encoder = Encoder(TINY, DAY)
    with pytest.raises(ValueError, match="no such file"):
        pat_weights.load(encoder, path)
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="not a whole HDF5 file"):
        pat_weights.load(encoder, path)
    write(path, keras_weights(TINY))
    whole = path.read_bytes()
    for kept in (len(whole) // 2, 100, 0):
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match="not a whole HDF5 file"):
            pat_weights.load(encoder, path)


def test_links_to_other_files_are_not_followed(tmp_path):
    secret = write(tmp_path / "other.h5", keras_weights(TINY))
    with h5py.File(tmp_path / "encoder.h5", "w") as file:
        for group in ("dense", *(f"encoder_layer_{i}_transformer" for i in (1, 2))):
            file[group] = h5py.ExternalLink(secret, group)
    with pytest.raises(ValueError, match="missing dense/dense/bias:0"):
        pat_weights.load(Encoder(TINY, DAY), tmp_path / "encoder.h5")


# --- the model -------------------------------------------------------------------------------------------------------

SPEC = ModelSpec(WEEK, 0, 1.0, ("activity",), (), (), task="classify")
SMALL = config.PAT()


def published(folder, name="PAT-S_21k_weights.h5"):
    return str(write(folder / name, keras_weights(SIZES["small"])))


def week(n=2, seed=0):
    """Counts with a rhythm, a tenth of the minutes not worn."""
    generator = torch.Generator().manual_seed(seed)
    day = 300 * (1.1 + torch.sin(2 * torch.pi * torch.arange(WEEK) / DAY)).view(1, -1, 1)
    past = (day * torch.rand(n, WEEK, 1, generator=generator)).round()
    mask = torch.rand(past.shape, generator=generator) > 0.1
    return Held({"past": past, "past_mask": mask, "label": torch.arange(n) % 2.0})


@pytest.mark.parametrize("standardise", ["minute", "window"])
def test_activity_is_standardised_by_what_training_people_wore(standardise):
    held = week(20)
    model = build(SMALL.model_copy(update={"standardise": standardise}), SPEC)
    model.fit_statistics(held)
    scaled = model.scaling(held.rows)[..., 0]
    worn = held.rows["past_mask"][..., 0]
    assert (scaled[~worn] == 0).all()
    values = held.rows["past"][..., 0].masked_fill(~worn, torch.nan).numpy()
    axis = 0 if standardise == "minute" else None
    expected = (values - np.nanmean(values, axis)) / np.maximum(np.nanstd(values, axis), 0.1 * np.nanstd(values))
    np.testing.assert_allclose(scaled[worn], expected[worn.numpy()], atol=1e-3)
    other = {**held.rows, "past": held.rows["past"].masked_fill(~held.rows["past_mask"], 1e6)}
    assert torch.equal(model.scaling(other), model.scaling(held.rows))  # what was not worn says nothing


def test_statistics_stay_with_the_weights(tmp_path):
    held = week(4)
    model = build(SMALL, SPEC)
    model.fit_statistics(held)
    checkpoint.save(model, tmp_path / "run")
    again = checkpoint.load(tmp_path / "run")
    assert torch.equal(again.scaling.mean, model.scaling.mean) and again.scaling.mean.shape == (WEEK, 1)
    assert torch.equal(again(held.rows).score, model.eval()(held.rows).score)


def test_a_minute_at_which_nobody_moved_makes_no_giant_of_one_who_does():
    held = week(4)
    held.rows["past"][:, 100], held.rows["past_mask"][:, 100] = 0.0, True
    held.rows["past_mask"][:, 101] = False
    model = build(SMALL, SPEC)
    model.fit_statistics(held)
    assert (model.scaling(held.rows)[:, 100] == 0).all()
    held.rows["past"][0, 100:102], held.rows["past_mask"][0, 101] = 300.0, True
    assert (model.scaling(held.rows)[0, 100:102] < 25).all()
    held.rows["past_mask"][:] = False
    with pytest.raises(ValueError, match="no measured point in any training window"):
        model.fit_statistics(held)


def test_published_weights_say_what_they_have_seen(tmp_path):
    section = SMALL.model_copy(update={"pretrained": published(tmp_path)})
    model = build(section, SPEC)
    assert model.config.cycles == ("C", "D", "G")
    weights = keras_weights(SIZES["small"])["dense/dense/kernel:0"]
    torch.testing.assert_close(model.encoder.embedding.weight, torch.from_numpy(weights.T))
    model.fit_statistics(week())
    checkpoint.save(model, tmp_path / "run")
    (tmp_path / "PAT-S_21k_weights.h5").unlink()
    again = checkpoint.load(tmp_path / "run")  # needs the file no more, and still knows
    assert again.config.cycles == ("C", "D", "G")
    with pytest.raises(ValueError, match=r"leakage: the data hold NHANES cycles \['G'\].*PAT-S_21k"):
        require_unseen(again, ["G", "H"])


def test_a_task_on_a_cycle_of_the_pretraining_is_refused_unless_forced(tmp_path):
    def model(name, **changes):
        return build(SMALL.model_copy(update={"pretrained": published(tmp_path, name), **changes}), SPEC)

    require_unseen(model("PAT-S_21k_weights.h5"), ["H"])
    with pytest.raises(ValueError, match=r"\['H'\].*take weights without them.*pat.seen: allow"):
        require_unseen(model("pat-s_29k.h5"), ["H"])
    require_unseen(model("PAT-S_29k.h5", seen="allow"), ["H"])
    require_unseen(build(SMALL, SPEC), ["C", "D", "G", "H"])  # nothing was pretrained
    inside = build(config.Stack(members=(SMALL.model_copy(update={"pretrained": published(tmp_path, "PAT-S_29k.h5")}),
                                         config.Boosting())), SPEC)  # fmt: skip
    with pytest.raises(ValueError, match="leakage"):
        require_unseen(inside, ["C"])


def test_weights_of_unknown_people_are_refused_until_somebody_says(tmp_path):
    section = SMALL.model_copy(update={"pretrained": published(tmp_path, "encoder.h5")})
    with pytest.raises(ValueError, match=r"nobody says which NHANES cycles.*pat.cycles: \[C, D, G\]"):
        build(section, SPEC)
    assert build(section.model_copy(update={"cycles": ()}), SPEC).config.cycles == ()
    more = SMALL.model_copy(update={"pretrained": published(tmp_path), "cycles": ("H",)})
    assert build(more, SPEC).config.cycles == ("C", "D", "G", "H")  # and trained on since
    with pytest.raises(ValueError, match="does not hold the encoder"):
        build(more.model_copy(update={"size": "large"}), SPEC)


# --- the masked autoencoder ------------------------------------------------------------------------------------------


def test_nine_in_ten_patches_are_hidden():
    hidden = draw(560, 0.9, torch.Generator().manual_seed(0))
    assert (hidden.sum(), len(hidden)) == (504, 560)
    assert not torch.equal(hidden, draw(560, 0.9, torch.Generator().manual_seed(1)))
    assert (draw(2, 0.9).sum(), draw(5, 0.01).sum()) == (1, 1)
    with pytest.raises(ValueError, match="found 1"):
        draw(1, 0.9)


def test_the_error_is_over_all_worn_minutes_or_the_hidden_ones():
    torch.manual_seed(0)
    spec = replace(SPEC, context=DAY, task="pretrain")
    held = week()
    batch = {name: held.rows[name][:, :DAY] for name in ("past", "past_mask")}
    for error in ("all", "hidden"):
        model = build(config.Masked(inner=SMALL, error=error), spec).eval()
        reconstruction, signal, counted = model(batch), model.signal(batch), batch["past_mask"]
        assert reconstruction.signal.abs().max() <= 2 and reconstruction.hidden.sum() == 72
        if error == "hidden":
            counted = counted & reconstruction.hidden.repeat_interleave(18).view(1, -1, 1)
        loss, diagnostics = model.loss(batch)
        assert loss.item() == pytest.approx((reconstruction.signal - signal).square()[counted].mean().item(), rel=1e-5)
        whole = (reconstruction.signal - signal).square()[batch["past_mask"]].mean()
        assert diagnostics["mse"].item() == pytest.approx(whole.item(), rel=1e-5)


@pytest.mark.slow
def test_the_autoencoder_learns_a_rhythm():
    """Half days of one shape at a random phase: a tenth of the patches tells the rest."""
    torch.manual_seed(0)
    spec = replace(SPEC, context=720, task="pretrain")
    phase = 2 * torch.pi * torch.rand(16, 1, 1)
    past = 100 + 50 * torch.sin(2 * torch.pi * torch.arange(720).view(1, -1, 1) / 720 + phase)
    held = Held({"past": past, "past_mask": torch.ones_like(past, dtype=torch.bool)})
    model = build(config.Masked(inner=SMALL.model_copy(update={"dropout": 0.0, "standardise": "window"})), spec)
    model.fit_statistics(held)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss, _ = model.loss(held.rows)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.4 * losses[0], losses
