import hashlib
import json
import os
import shutil

import pytest
import torch
from model_cases import CASES, LORA, SPEC, TTM, prepared
from safetensors.torch import load_file, save_file

from raycadian import config
from raycadian.errors import CheckpointError
from raycadian.models import checkpoint
from raycadian.models.build import build


@pytest.fixture
def saved(training, tmp_path):
    checkpoint.save(prepared(config.Ridge(lags=6), training), tmp_path / "run")
    return tmp_path / "run"


def perturb(model):
    """Weights as training leaves them: none at its start value (LoRA's begin at zero)."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.01 * torch.randn(weight.shape, generator=generator)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_round_trip_changes_nothing(name, training, batch, tmp_path):
    model = perturb(prepared(CASES[name], training))
    checkpoint.save(model, tmp_path / "run")
    loaded = checkpoint.load(tmp_path / "run")
    assert (loaded.config, loaded.spec, loaded.training) == (model.config, SPEC, False)
    assert torch.equal(loaded(batch).quantiles, model(batch).quantiles)
    trains = [name for name, p in loaded.named_parameters() if p.requires_grad]
    assert trains == [name for name, p in model.named_parameters() if p.requires_grad]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.slow
def test_loading_needs_no_pretrained_source(training, batch, tmp_path):
    source = tmp_path / "source"
    build(TTM, SPEC).network.save_pretrained(source)
    section = LORA.model_copy(update={"pretrained": str(source)})
    model = perturb(prepared(config.Residual(inner=section), training))
    checkpoint.save(model, tmp_path / "run")
    shutil.rmtree(source)
    assert torch.equal(checkpoint.load(tmp_path / "run")(batch).quantiles, model(batch).quantiles)


def test_saving_again_replaces_the_whole_folder(saved, training):
    (saved / "old.txt").write_text("")
    checkpoint.save(prepared(config.Persistence(), training), saved)
    assert checkpoint.load(saved).config == config.Persistence()
    assert [p.name for p in saved.parent.iterdir()] == ["run"] and not (saved / "old.txt").exists()


def test_a_full_disk_leaves_what_was_there(saved, training, monkeypatch):
    before = {p.name: p.read_bytes() for p in saved.iterdir()}

    def full(weights, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    for folder in (saved, saved.parent / "new"):
        with pytest.raises(ValueError, match="No space"):
            checkpoint.save(prepared(config.Persistence(), training), folder)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before
    assert [p.name for p in saved.parent.iterdir()] == ["run"]


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(folder):
    path = folder / "model.safetensors"
    body = bytearray(path.read_bytes())
    body[-3] ^= 1
    path.write_bytes(bytes(body))


def drop_the_weights(folder):
    (folder / "model.safetensors").unlink()


def rewrite(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def not_a_number(folder):
    """With the hash of the spoilt weights: whoever wrote them may have."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file({name: torch.full_like(value, torch.nan) for name, value in weights.items()}, path)
    rewrite(folder, weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def nested(folder):
    (folder / "config.json").write_text('{"model":' + "[" * 100_000 + "]" * 100_000 + "}")


def a_pipe(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


LONG = {"context": 10**12, "horizon": 1, "dt_min": 5, "past": ["glucose_mgdl"], "known": [], "quantiles": [0.5]}
DAMAGES = {
    "not a number": (not_a_number, "not a number in"),
    "far too wide": (lambda f: rewrite(f, model={"kind": "lstm", "hidden": 30_000}), "far larger than its weights"),
    "far too deep": (lambda f: rewrite(f, model={"kind": "mlp", "layers": 10**6}), "far larger than its weights"),
    "far too long": (lambda f: rewrite(f, spec=LONG), "points at most"),
    "no channel": (lambda f: rewrite(f, spec=LONG | {"context": 288, "past": []}), "channels are names"),
    "a number that is none": (lambda f: rewrite(f, spec=LONG | {"context": True}), "whole numbers"),
    "nested": (nested, "nested deeper"),
    "a pipe": (a_pipe, "no regular file"),
    "weights of text": (lambda f: rewrite(f, weights_sha256=[1]), "not the file that was saved"),
    "truncated": (truncate, "not the file that was saved"),
    "a bit flipped": (flip_a_bit, "not the file that was saved"),
    "weights gone": (drop_the_weights, "model.safetensors"),
    "another model": (lambda f: rewrite(f, model={"kind": "lstm"}), "Missing key"),
    "another size": (lambda f: rewrite(f, model={"kind": "ridge", "lags": 9}), "size mismatch"),
    "unknown model": (lambda f: rewrite(f, model={"kind": "pickle"}), "pickle"),
    "spec without levels": (lambda f: rewrite(f, spec={"context": 3}), "past"),
    "spec of another kind": (lambda f: rewrite(f, spec=None), "damaged"),
    "config cut short": (lambda f: (f / "config.json").write_text('{"model": '), "config.json"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "expected an object"),
    "config gone": (lambda f: (f / "config.json").unlink(), "config.json"),
}


def test_checkpoints_from_before_ensembles_load(training, batch, tmp_path):
    for name, model in (("ttm", prepared(TTM, training)), ("ridge", prepared(config.Ridge(lags=6), training))):
        checkpoint.save(model, tmp_path / name)
        raw = json.loads((tmp_path / name / "config.json").read_text())
        architectures = raw.pop("architectures")
        (tmp_path / name / "config.json").write_text(
            json.dumps(raw | {"architecture": architectures[0] if architectures else None})
        )
        assert torch.equal(checkpoint.load(tmp_path / name)(batch).quantiles, model(batch).quantiles)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_an_error_that_names_the_folder(damage, saved):
    spoil, message = DAMAGES[damage]
    spoil(saved)
    with pytest.raises(CheckpointError, match=message) as error:
        checkpoint.load(saved)
    assert str(saved) in str(error.value)


def test_a_damaged_ttm_architecture_is_an_error(training, tmp_path):
    checkpoint.save(prepared(TTM, training), tmp_path / "run")
    raw = json.loads((tmp_path / "run" / "config.json").read_text())
    rewrite(tmp_path / "run", architectures=[raw["architectures"][0] | {"d_model": 16}])
    with pytest.raises(ValueError, match="size mismatch"):
        checkpoint.load(tmp_path / "run")
