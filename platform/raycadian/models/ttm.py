"""Tiny Time Mixer (Ekambaram et al. 2024) from granite-tsfm: random start, a local folder, or a hub's checkpoint.

The one door to granite-tsfm.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from torch import Tensor, nn
from tsfm_public.models.tinytimemixer import TinyTimeMixerConfig, TinyTimeMixerForPrediction
from tsfm_public.models.tinytimemixer.modeling_tinytimemixer import TinyTimeMixerLayer
from tsfm_public.toolkit.time_series_preprocessor import DEFAULT_FREQUENCY_MAPPING

from raycadian import config
from raycadian.models import adapters
from raycadian.models.base import Model, Spec
from raycadian.models.heads import around
from raycadian.types import Batch, Prediction

_FREQUENCY = {1: "min", 2: "2min", 5: "5min", 10: "10min", 15: "15min", 30: "30min", 60: "h", 1440: "D"}
_NEW_LAYERS = "channel_feature_mixer"  # mixes channels in the decoder; no one-channel checkpoint has it


class TTM(Model):
    """TTM's forecast as the median, with increments to the other quantiles from the decoder's state.

    It scales every window itself by the mean and standard deviation of what was measured. All past channels enter
    (`mix_channel` in the decoder where there are several), glucose alone is forecast; the known channels aren't used.
    """

    def __init__(self, spec: Spec, config: config.TTM, network: TinyTimeMixerForPrediction):
        super().__init__(spec, config)
        self.network = network
        self.steps = Steps(spec, network.config)
        layers = [module for module in network.backbone.modules() if isinstance(module, TinyTimeMixerLayer)]
        adapters.apply(config.adapter, network, network.backbone, layers, network.head)
        frequency = DEFAULT_FREQUENCY_MAPPING[_FREQUENCY.get(spec.dt_min, "oov")]
        self.frequency = frequency if network.config.resolution_prefix_tuning else None

    def forward(self, batch: Batch) -> Prediction:
        past = batch["past"].to(self.levels.dtype)
        token = None if self.frequency is None else torch.full((len(past),), self.frequency, device=past.device)
        found = self.network(past, past_observed_mask=batch["past_mask"], return_loss=False, freq_token=token)
        steps = self.steps(found.decoder_hidden_state[:, 0], found.scale)
        return Prediction(around(found.prediction_outputs[..., 0], steps, self.spec.middle))


class Steps(nn.Module):
    """Positive steps between neighbouring quantiles from the decoder's state, in the window's standard deviations.

    Granite's own `multi_quantile_head` sees the shape of the forecast alone, and takes symmetric levels only.
    """

    def __init__(self, spec: Spec, network: TinyTimeMixerConfig):
        super().__init__()
        self.shape = (spec.horizon, len(spec.quantiles) - 1)
        width = network.decoder_d_model if network.use_decoder else network.d_model
        steps = math.prod(self.shape)
        self.linear = (
            nn.Linear(network.num_patches * width, steps) if steps else None
        )  # none: the median alone is wanted

    def forward(self, state: Tensor, scale: Tensor) -> Tensor:
        """state (B, patches, width), scale (B, 1, 1) mg/dL -> (B, H, Q-1) mg/dL."""
        if self.linear is None:
            return scale.new_empty(len(scale), *self.shape)
        return F.softplus(self.linear(state.flatten(1))).unflatten(1, self.shape).to(scale.dtype) * scale


def random_network(spec: Spec, config: config.TTM) -> TinyTimeMixerForPrediction:
    """A network with random weights. Raises ValueError where patches don't fit the context."""
    if spec.context % config.patch_length or spec.context <= config.patch_length:
        raise ValueError(
            f"ttm cuts the context into two patches or more of equal length; found context {spec.context}, "
            f"ttm.patch_length {config.patch_length}; choose a smaller divisor of the context"
        )
    return TinyTimeMixerForPrediction(
        TinyTimeMixerConfig(
            context_length=spec.context, prediction_length=spec.horizon, patch_length=config.patch_length,
            patch_stride=config.patch_length, d_model=config.d_model, decoder_d_model=config.d_model,
            num_layers=config.layers, decoder_num_layers=2, **_for_recipe(spec, config),
        )
    )  # fmt: skip


def saved_network(architecture: dict[str, Any]) -> TinyTimeMixerForPrediction:
    """A network of the architecture that a checkpoint holds, for its weights to be loaded into."""
    return TinyTimeMixerForPrediction(TinyTimeMixerConfig.from_dict(architecture))


def pretrained_network(spec: Spec, config: config.TTM) -> TinyTimeMixerForPrediction:
    """The checkpoint `config.pretrained`: a folder, a hub's name, or name@revision. Raises ValueError.

    It is loaded whole or not at all. A shorter horizon takes the first steps of its forecast (granite's
    `prediction_filter_length`); context, patches, width and layers must be those of the recipe.
    """
    folder = _locate(config.pretrained)
    found = _read_config(folder)
    _require_fit(found, spec, config)
    changes = _for_recipe(spec, config) | {"light_mode": False}
    if spec.horizon < found.prediction_length:
        changes["prediction_filter_length"] = spec.horizon
    found.update(changes)
    transformers.utils.logging.disable_progress_bar()  # 84 small tensors need no bar
    try:
        network, info = TinyTimeMixerForPrediction.from_pretrained(
            folder, config=found, output_loading_info=True, use_safetensors=True, local_files_only=True
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder}: the weights can't be read: {error}; fetch the checkpoint again") from error
    if absent := sorted(name for name in info["missing_keys"] if _NEW_LAYERS not in name):
        raise ValueError(f"{folder}: not a whole TTM checkpoint, weights are missing: {absent[:3]}; fetch it again")
    return network


def _for_recipe(spec: Spec, config: config.TTM) -> dict[str, Any]:
    """What the recipe decides whatever the checkpoint says: dropout, and which channels enter."""
    several = len(spec.past) > 1
    return {
        "dropout": config.dropout,
        "head_dropout": config.dropout,
        "num_input_channels": len(spec.past),
        "prediction_channel_indices": [0] if several else None,
        "decoder_mode": "mix_channel" if several else "common_channel",
    }


def _locate(source: str) -> Path:
    """The local folder of a checkpoint, downloaded where a hub has it and can be reached."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    name, _, revision = source.partition("@")
    try:
        found = snapshot_download(
            name, revision=revision or None, allow_patterns=["config.json", "*.safetensors"], etag_timeout=5
        )
    except (OSError, HFValidationError) as error:
        raise ValueError(
            f"ttm.pretrained: {source!r} is no folder (working directory {Path.cwd()}) and can't be fetched from the hub "
            f"({type(error).__name__}). Where the hub can be reached: `hf download {name} --local-dir FOLDER` "
            "(HF_HUB_OFFLINE unset); bring FOLDER here and set ttm.pretrained: FOLDER"
        ) from error
    return Path(found)


def _read_config(folder: Path) -> TinyTimeMixerConfig:
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: no readable config.json ({error}); it is not a checkpoint's folder") from error
    if not isinstance(raw, dict) or raw.get("model_type") != "tinytimemixer" or raw.get("decompose"):
        kind = raw.get("model_type") if isinstance(raw, dict) else type(raw).__name__
        raise ValueError(f"{folder}: expected a checkpoint of TinyTimeMixerForPrediction, found {kind!r}")
    return TinyTimeMixerConfig.from_dict(raw)


def _require_fit(found: TinyTimeMixerConfig, spec: Spec, config: config.TTM) -> None:
    """Every difference at once, as settings that can be copied into the recipe."""
    pairs = {
        "window.context": (found.context_length, spec.context),
        "ttm.patch_length": (found.patch_length, config.patch_length),
        "ttm.d_model": (found.d_model, config.d_model),
        "ttm.layers": (found.num_layers, config.layers),
    }
    wrong = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    longest = found.prediction_filter_length or found.prediction_length  # steps beyond the filter were not trained
    if spec.horizon > longest:
        wrong["window.horizon"] = (f"{longest} at most", spec.horizon)
    if found.num_input_channels not in (1, len(spec.past)):
        wrong["window.past"] = (f"{found.num_input_channels} channels", f"{len(spec.past)} channels")
    if wrong:
        lines = "; ".join(f"{name}: expected {want}, found {have}" for name, (want, have) in wrong.items())
        raise ValueError(
            f"the checkpoint {config.pretrained} does not fit the recipe: {lines}; set these to the expected"
        )
