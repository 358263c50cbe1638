import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from model_cases import LORA, SPEC, TTM, prepared

from raycadian import config
from raycadian.models import adapters, checkpoint
from raycadian.models.base import ModelSpec, trainable_parameters
from raycadian.models.build import build

MIDDLE = SPEC.middle


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A checkpoint in Hugging Face's format: 288 -> 12 points, saved by the library itself."""
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("source") / "ttm"
    build(TTM, ModelSpec(288, 12, 5.0, SPEC.past, SPEC.known, SPEC.quantiles)).network.save_pretrained(folder)
    return folder


def from_source(source, **changes):
    return TTM.model_copy(update={"pretrained": str(source), **changes})


def trains(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


# --- forecasts -------------------------------------------------------------------------------------------------------


def test_the_median_is_granites_own_forecast(training, batch):
    model = prepared(TTM, training)
    own = model.network(past_values=batch["past"], past_observed_mask=batch["past_mask"]).prediction_outputs[..., 0]
    assert torch.equal(model(batch).quantiles[..., MIDDLE], own)


def test_it_scales_by_itself(training, batch):
    """An affine change of the input changes the forecast alike: statistics are the window's, not normalised twice."""
    model = prepared(TTM, training)
    changed = {**batch, "past": batch["past"] * 2 + 30}
    expected = model(batch).quantiles * 2 + 30
    assert torch.allclose(model(changed).quantiles, expected, atol=1e-2)


def test_what_was_not_measured_does_not_set_the_scale(training, batch):
    model = prepared(TTM, training)
    mask = batch["past_mask"].clone()
    mask[:, 96:192] = False
    past = batch["past"].clone()
    past[:, 96:192] = 110.0
    masked = model.network(past, past_observed_mask=mask)
    expected = past[mask].view(32, -1)
    assert torch.allclose(masked.loc.flatten(), expected.mean(dim=1), atol=1e-3)
    median = model({**batch, "past": past, "past_mask": mask}).quantiles[..., MIDDLE]
    assert torch.equal(median, masked.prediction_outputs[..., 0])


@pytest.mark.parametrize("patch_length", [7, 288])
def test_patches_that_do_not_fit_are_refused(patch_length):
    with pytest.raises(ValueError, match=f"context 288, ttm.patch_length {patch_length}"):
        build(TTM.model_copy(update={"patch_length": patch_length}), SPEC)


def test_other_past_channels_reach_the_forecast(source, training, batch):
    spec = ModelSpec(288, 6, 5.0, ("glucose_mgdl", "carbs_g"), SPEC.known, SPEC.quantiles)
    carbs = torch.zeros_like(batch["past"])
    both = {**batch, "past": torch.cat([batch["past"], carbs], -1), "past_mask": batch["past_mask"].expand(-1, -1, 2)}
    carbs[:, 280] = 60.0
    eaten = {**both, "past": torch.cat([batch["past"], carbs], -1)}
    for section in (TTM, from_source(source)):  # a one-channel checkpoint gets new channel-mixing layers
        model = build(section, spec).eval()
        assert model(both).quantiles.shape == (32, 6, 4)
        assert not torch.allclose(model(both).quantiles, model(eaten).quantiles, atol=1e-3)


# --- adapters --------------------------------------------------------------------------------------------------------


def test_full_trains_everything(training):
    model = prepared(TTM, training)
    assert trainable_parameters(model) == sum(p.numel() for p in model.parameters())


def test_lora_trains_the_adapter_and_the_head_alone(training, batch):
    model = prepared(LORA, training)
    names = trains(model)
    assert names == {
        n for n in dict(model.named_parameters()) if "lora_" in n or ".head." in n or n.startswith("steps")
    }
    assert sum("lora_A" in name for name in names) == 6 * (
        2 + 2
    )  # 2 x fc1, fc2, attn_layer; 2 mixers + 2 of the decoder
    assert 0 < trainable_parameters(model) < trainable_parameters(prepared(TTM, training))
    before = {name: p.clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(2):  # LoRA's A gets no gradient before B has left zero
        optimizer.zero_grad()
        model.loss(batch)[0].backward()
        optimizer.step()
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == names


@pytest.mark.slow
def test_lora_begins_as_the_network_it_adapts(source, training, batch):
    plain, lora = (prepared(from_source(source, adapter=a), training) for a in (config.NoAdapter(), LORA.adapter))
    assert torch.equal(plain(batch).quantiles[..., MIDDLE], lora(batch).quantiles[..., MIDDLE])


def test_head_freezes_the_backbone(training):
    model = prepared(TTM.model_copy(update={"adapter": config.HeadOnly()}), training)
    everything = set(dict(model.named_parameters()))
    assert trains(model) == {name for name in everything if not name.startswith("network.backbone")}


def test_last_n_trains_the_last_mixer_layers_too(training):
    def backbone(n):
        model = prepared(TTM.model_copy(update={"adapter": config.LastN(n=n)}), training)
        return {name.split("mixers.")[1][0] for name in trains(model) if name.startswith("network.backbone")}

    assert (backbone(1), backbone(2)) == ({"1"}, {"0", "1"})
    with pytest.raises(ValueError, match=r"adapter.n 3 exceeds the 2 layers"):
        backbone(3)


def test_unknown_target_modules_are_named_with_those_there_are():
    wrong = config.TTM(patch_length=48, d_model=8, adapter=config.Lora(target_modules=("q_proj", "fc1")))
    with pytest.raises(ValueError, match=r"\['q_proj'\].*attn_layer.*fc1.*fc2"):
        build(wrong, SPEC)


def test_merging_keeps_the_forecasts_and_leaves_a_plain_network(training, batch):
    model = prepared(LORA, training)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    merged = adapters.merged(model.network)
    assert not any("lora" in name for name in merged.state_dict())
    assert any("lora" in name for name in model.network.state_dict())  # the original goes on training
    median = merged(batch["past"], past_observed_mask=batch["past_mask"]).prediction_outputs[..., 0]
    assert torch.allclose(median, model(batch).quantiles[..., MIDDLE], atol=1e-3)
    base = build(TTM, SPEC).network
    assert set(merged.state_dict()) == set(base.state_dict())


# --- pretrained ------------------------------------------------------------------------------------------------------


def test_a_folder_is_loaded_whole_and_a_shorter_horizon_takes_its_first_steps(source, training, batch):
    from tsfm_public import TinyTimeMixerForPrediction

    reference = TinyTimeMixerForPrediction.from_pretrained(source).eval()
    expected = reference(batch["past"], past_observed_mask=batch["past_mask"]).prediction_outputs[:, :6, 0]
    model = prepared(from_source(source), training, seed=9)  # no weight comes from the seed
    assert torch.equal(model(batch).quantiles[..., MIDDLE], expected)


def test_the_recipe_decides_the_dropout(source, training, batch):
    model = build(from_source(source, dropout=0.0), SPEC).train()
    assert torch.equal(model(batch).quantiles, model(batch).quantiles)
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}


def test_an_export_starts_another_recipe_from_equal_forecasts(source, training, batch, tmp_path):
    lora = LORA.adapter
    hybrid = prepared(config.Residual(inner=from_source(source, adapter=lora)), training)
    with torch.no_grad():
        for name, weight in hybrid.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    checkpoint.export_pretrained(hybrid, tmp_path / "export")
    again = prepared(config.Residual(inner=from_source(tmp_path / "export")), training, seed=9)
    with torch.inference_mode():
        first, second = (m.double()(batch).quantiles[..., MIDDLE] for m in (hybrid, again))
    assert torch.allclose(first, second, rtol=0, atol=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == ["export"]
    with pytest.raises(ValueError, match="horizon: expected 6 at most, found 7"):  # the steps beyond were never trained
        build(from_source(tmp_path / "export"), replace(SPEC, horizon=7))
    with pytest.raises(ValueError, match="found 0 in residual-ridge"):
        checkpoint.export_pretrained(prepared(config.Residual(inner=config.Ridge(lags=2)), training), tmp_path / "none")
    assert not (tmp_path / "none").exists()


MISFITS = {
    "context": (ModelSpec(144, 6, 5.0, SPEC.past, (), (0.5,)), {}, "window.context: expected 288, found 144"),
    "horizon": (ModelSpec(288, 24, 5.0, SPEC.past, (), (0.5,)), {}, "window.horizon: expected 12 at most, found 24"),
    "patches": (SPEC, {"patch_length": 24}, "ttm.patch_length: expected 48, found 24"),
    "width": (SPEC, {"d_model": 64}, "ttm.d_model: expected 8, found 64"),
    "depth": (SPEC, {"layers": 5}, "ttm.layers: expected 2, found 5"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_checkpoint_that_does_not_fit_is_an_error_with_the_settings(name, source):
    spec, changes, message = MISFITS[name]
    with pytest.raises(ValueError, match=message):
        build(from_source(source, **changes), spec)


def test_channels_of_a_checkpoint_must_be_the_recipes(tmp_path):
    two = ModelSpec(288, 6, 5.0, ("glucose_mgdl", "carbs_g"), (), (0.5,))
    build(TTM, two).network.save_pretrained(tmp_path / "two")
    build(from_source(tmp_path / "two"), two)
    with pytest.raises(ValueError, match=r"window\.past: expected 2 channels, found 1"):
        build(from_source(tmp_path / "two"), SPEC)


def test_known_channels_can_be_added_to_a_checkpoint_and_come_back_with_it(source, training, batch, tmp_path):
    """A one-channel 288 -> 12 checkpoint forecasts 6 steps with two exogenous channels; what mixes them is new."""
    section = from_source(source, exogenous=True)
    model = prepared(section, training)
    network = model.network.config
    assert (network.num_input_channels, network.prediction_channel_indices) == (3, [0])
    assert (network.exogenous_channel_indices, network.prediction_filter_length) == ([1, 2], 6)
    later = {**batch, "known": batch["known"].clone()}
    later["known"][:, SPEC.context + 4] += 1.0  # over the horizon alone
    assert not torch.equal(model(later).quantiles, model(batch).quantiles)
    checkpoint.export_pretrained(model, tmp_path / "export")
    again = prepared(section.model_copy(update={"pretrained": str(tmp_path / "export")}), training)
    torch.testing.assert_close(again(batch).quantiles[..., MIDDLE], model(batch).quantiles[..., MIDDLE])
    with pytest.raises(ValueError, match=r"window\.past: expected 3 channels, found 1"):
        build(from_source(tmp_path / "export"), SPEC)


def test_with_known_channels_it_still_scales_by_itself(training, batch):
    model = prepared(TTM.model_copy(update={"exogenous": True}), training)
    changed = {**batch, "past": batch["past"] * 2 + 30}
    assert torch.allclose(model(changed).quantiles, model(batch).quantiles * 2 + 30, rtol=1e-4, atol=0.02)


def test_a_checkpoint_with_frequency_tokens_is_told_the_grid_step(tmp_path, training, batch):
    from tsfm_public.models.tinytimemixer import TinyTimeMixerConfig, TinyTimeMixerForPrediction

    settings = {"patch_length": 48, "patch_stride": 48, "d_model": 8, "decoder_d_model": 8, "num_layers": 2}
    torch.manual_seed(0)
    network = TinyTimeMixerForPrediction(
        TinyTimeMixerConfig(
            context_length=288,
            prediction_length=6,
            resolution_prefix_tuning=True,
            frequency_token_vocab_size=10,
            **settings,
        )
    )
    network.save_pretrained(tmp_path / "tokens")
    median = prepared(from_source(tmp_path / "tokens"), training)(batch).quantiles[..., MIDDLE]
    token = torch.full((32,), 3)  # granite's number of "5min"
    expected = network.eval()(batch["past"], past_observed_mask=batch["past_mask"], freq_token=token).prediction_outputs
    assert torch.equal(median, expected[..., 0])


def spoil_config(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))


def cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:500])


def lose_a_weight(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights.pop("backbone.encoder.patcher.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_config, "found 'bert'"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: not readable as JSON"),
        (lambda folder: (folder / "config.json").unlink(), "config.json: no such file"),
        (lambda folder: (folder / "model.safetensors").unlink(), "weights can't be read"),
        (cut_weights, "weights can't be read"),
        (lose_a_weight, "weights are missing.*patcher"),
    ],
)
def test_a_damaged_pretrained_folder_is_an_error(spoil, message, source, tmp_path):
    import shutil

    folder = shutil.copytree(source, tmp_path / "ttm")
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        build(from_source(folder), SPEC)


@pytest.mark.parametrize("name", ["nobody/no-such-ttm", "nobody/no-such-ttm@main", "./no/such/folder", "not a name!"])
def test_what_cannot_be_had_is_an_error_at_once(name):
    began = time.perf_counter()
    with pytest.raises(ValueError, match=r"hf download .* --local-dir FOLDER") as error:
        build(from_source(name), SPEC)
    assert repr(name) in str(error.value)
    assert time.perf_counter() - began < 5


@pytest.mark.long  # it waits
def test_an_unreachable_hub_is_not_tried_for_long(tmp_path):
    """Without HF_HUB_OFFLINE, against an address where nothing listens: an error in seconds, no other model instead."""
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from model_cases import SPEC, TTM, build\n"
        "import time; began = time.perf_counter()\n"
        "try: build(TTM.model_copy(update={'pretrained': 'nobody/no-such-ttm'}), SPEC)\n"
        "except ValueError as error: print(error, time.perf_counter() - began < 20)\n"
    )
    env = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    env |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert "bring FOLDER here" in done.stdout and done.stdout.rstrip().endswith("True"), done.stdout + done.stderr
