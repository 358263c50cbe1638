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
from tsfm_public.models.tinytimemixer import TinyTimeMixerConfig, TinyTimeMixerForPrediction, TinyTimeMixerModel
from tsfm_public.models.tinytimemixer.modeling_tinytimemixer import TinyTimeMixerLayer
from tsfm_public.toolkit.time_series_preprocessor import DEFAULT_FREQUENCY_MAPPING

from raycadian import config
from raycadian.models import adapters
from raycadian.models.base import ModelSpec, TrainingWindows
from raycadian.models.heads import Headed, QuantileOffsets, Quantiles, StudentT, around
from raycadian.models.known import KnownCovariates
from raycadian.types import Batch

_FREQUENCY = {1: "min", 2: "2min", 5: "5min", 10: "10min", 15: "15min", 30: "30min", 60: "h", 1440: "D"}
_NEW_LAYERS = ("channel_feature_mixer", "fcm_block")  # mix channels; no one-channel checkpoint has them


ADAPTED_LAYERS = ("fc1", "fc2", "attn_layer")
"""Linear layers that a person's adapter adds to."""


class TTM(Headed):
    """TTM's forecast as the median, with increments to the other quantiles (or the width of a Student's t) from the
    decoder's state.

    It scales every window itself by the mean and standard deviation of what was measured. All past channels enter
    (`mix_channel` in the decoder where there are several), glucose alone is forecast. `exogenous`: the known channels
    enter too, standardised, as granite's exogenous channels: over the context beside glucose, and over the horizon into a
    block that mixes them into every step with its neighbours. It mixes what it is given, so glucose is scaled before.
    """

    adaptable = "network", ADAPTED_LAYERS

    def __init__(self, spec: ModelSpec, config: config.TTM, network: TinyTimeMixerForPrediction):
        super().__init__(spec, config)
        self.network = network
        self.steps = Steps(spec, network.config, config.head)
        self.tails = QuantileOffsets(spec) if config.head == "student_t" else None
        self.known = KnownCovariates(spec) if config.exogenous else None
        adapters.apply(config.adapter, network, network.backbone, backbone_layers(network.backbone), network.head)
        self.frequency = frequency(network.config, spec.dt_min)

    @property
    def backbone(self) -> nn.Module:
        return self.network.backbone

    def distribution(self, batch: Batch) -> Quantiles | StudentT:
        median, state, scale = self._forecast(batch) if self.known is None else self._with_known(batch)
        raw = self.steps(state)
        if self.tails is not None:
            return self.tails(median, raw[..., 0], scale)
        return Quantiles(around(median, raw.to(scale.dtype) * scale.unsqueeze(-1), self.spec.middle), self.levels)

    def fit_statistics(self, windows: TrainingWindows) -> None:
        if self.known is not None:
            self.known.fit_statistics(windows)

    def _forecast(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Median (B, H) mg/dL, the decoder's state (B, patches, width), the window's standard deviation (B, 1) mg/dL."""
        past = batch["past"].to(self.levels.dtype)
        found = self._run(past, batch["past_mask"])
        return found.prediction_outputs[..., 0], found.decoder_hidden_state[:, 0], found.scale[:, 0]

    def _with_known(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The same, with the known channels behind the past ones."""
        past, known = batch["past"].to(self.levels.dtype), self.known(batch)
        mask, context = batch["past_mask"], self.spec.context
        past, centre, scale = self.network.backbone.scaler(past, mask)
        seen = mask.new_ones(len(past), context, known.shape[-1])
        unknown = past.new_zeros(len(past), self.spec.horizon, past.shape[-1])
        found = self._run(
            torch.cat([past, known[:, :context]], dim=-1),
            torch.cat([mask, seen], dim=-1),
            torch.cat([unknown, known[:, context:]], dim=-1),
        )
        median = found.prediction_outputs[..., 0] * scale[..., 0] + centre[..., 0]
        return median, found.decoder_hidden_state[:, 0], scale[..., 0]

    def _run(self, past: Tensor, mask: Tensor, future: Tensor | None = None) -> Any:
        token = None if self.frequency is None else torch.full((len(past),), self.frequency, device=past.device)
        return self.network(past, past_observed_mask=mask, future_values=future, return_loss=False, freq_token=token)


class Steps(nn.Module):
    """Positive steps between neighbouring quantiles from the decoder's state, in the window's standard deviations; or the
    one raw width of a distribution.

    Granite's own `multi_quantile_head` sees the shape of the forecast alone, and takes symmetric levels only.
    """

    def __init__(self, spec: ModelSpec, network: TinyTimeMixerConfig, head: config.Head):
        super().__init__()
        self.positive = head == "quantiles"
        self.shape = (spec.horizon, len(spec.quantiles) - 1 if self.positive else 1)
        width = network.decoder_d_model if network.use_decoder else network.d_model
        steps = math.prod(self.shape)
        self.linear = (
            nn.Linear(network.num_patches * width, steps) if steps else None
        )  # none: the median alone is wanted

    def forward(self, state: Tensor) -> Tensor:
        """state (B, patches, width) -> (B, H, Q-1), or (B, H, 1)."""
        if self.linear is None:
            return state.new_empty(len(state), *self.shape)
        raw = self.linear(state.flatten(1)).unflatten(1, self.shape)
        return F.softplus(raw) if self.positive else raw


def random_network(spec: ModelSpec, config: config.TTM) -> TinyTimeMixerForPrediction:
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


def pretrained_network(spec: ModelSpec, config: config.TTM) -> TinyTimeMixerForPrediction:
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
    return _load(folder, found)


def _load(folder: Path, found: TinyTimeMixerConfig) -> TinyTimeMixerForPrediction:
    """The weights of `folder` in a network as `found` describes it; layers that mix channels may be new."""
    transformers.utils.logging.disable_progress_bar()  # 84 small tensors need no bar
    try:
        network, info = TinyTimeMixerForPrediction.from_pretrained(
            folder, config=found, output_loading_info=True, use_safetensors=True, local_files_only=True
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{folder}: the weights can't be read: {error}; fetch the checkpoint again") from error
    if absent := sorted(name for name in info["missing_keys"] if not any(new in name for new in _NEW_LAYERS)):
        raise ValueError(f"{folder}: not a whole TTM checkpoint, weights are missing: {absent[:3]}; fetch it again")
    return network


def random_backbone(section: config.TTMLabel, context: int, channels: int) -> TinyTimeMixerModel:
    """TTM without its forecasting parts, random weights: (B, L, C) -> (B, C, patches, d_model). Raises ValueError."""
    if context % section.patch_length or context <= section.patch_length:
        raise ValueError(
            f"ttm cuts {context} points into two patches or more of equal length; found patch_length "
            f"{section.patch_length}; choose a smaller divisor of {context}"
        )
    return saved_backbone(
        {
            "context_length": context, "prediction_length": section.patch_length, "patch_length": section.patch_length,
            "patch_stride": section.patch_length, "d_model": section.d_model, "num_layers": section.layers,
            **_for_label(section, channels),
        }
    )  # fmt: skip


def pretrained_backbone(section: config.TTMLabel, context: int, channels: int) -> TinyTimeMixerModel:
    """The backbone of the checkpoint `section.pretrained`: a folder, a hub's name, or name@revision. Raises ValueError."""
    folder = _locate(section.pretrained)
    found = _read_config(folder)
    _require_equal(
        section.pretrained,
        {
            "points of a piece (window / ttm_label.pieces)": (found.context_length, context),
            "ttm_label.patch_length": (found.patch_length, section.patch_length),
            "ttm_label.d_model": (found.d_model, section.d_model),
            "ttm_label.layers": (found.num_layers, section.layers),
        },
    )
    found.update(_for_label(section, channels) | {"light_mode": False})
    return _load(folder, found).backbone


def saved_backbone(architecture: dict[str, Any]) -> TinyTimeMixerModel:
    return TinyTimeMixerModel(TinyTimeMixerConfig.from_dict(architecture))


def backbone_layers(backbone: TinyTimeMixerModel) -> list[nn.Module]:
    return [module for module in backbone.modules() if isinstance(module, TinyTimeMixerLayer)]


def frequency(network: TinyTimeMixerConfig, dt_min: float) -> int | None:
    """Granite's number of a grid step, of a network that wants one."""
    if not network.resolution_prefix_tuning:
        return None
    return DEFAULT_FREQUENCY_MAPPING[_FREQUENCY.get(dt_min, "oov")]


def _for_label(section: config.TTMLabel, channels: int) -> dict[str, Any]:
    """What the recipe decides whatever the checkpoint says."""
    return {
        "dropout": section.dropout,
        "head_dropout": section.dropout,
        "num_input_channels": channels,
        "mode": "mix_channel" if section.channels == "mixed" and channels > 1 else "common_channel",
        "decoder_mode": "common_channel",
        "prediction_channel_indices": None,
        "exogenous_channel_indices": None,
        "enable_forecast_channel_mixing": False,
    }


def _for_recipe(spec: ModelSpec, config: config.TTM) -> dict[str, Any]:
    """What the recipe decides whatever the checkpoint says: dropout, and which channels enter."""
    past, channels = len(spec.past), _channels(spec, config)
    several = channels > 1
    return {
        "dropout": config.dropout,
        "head_dropout": config.dropout,
        "num_input_channels": channels,
        "prediction_channel_indices": [0] if several else None,
        "decoder_mode": "mix_channel" if several else "common_channel",
        "exogenous_channel_indices": list(range(past, channels)) if channels > past else None,
        "enable_forecast_channel_mixing": channels > past,
    }


def _channels(spec: ModelSpec, config: config.TTM) -> int:
    return len(spec.past) + (len(spec.known) if config.exogenous else 0)


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


def _require_fit(found: TinyTimeMixerConfig, spec: ModelSpec, config: config.TTM) -> None:
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
    channels = _channels(spec, config)
    if found.num_input_channels not in (1, channels):
        wrong["window.past"] = (f"{found.num_input_channels} channels", f"{channels} channels")
    _require_equal(config.pretrained, wrong)


def _require_equal(source: str, pairs: dict[str, tuple[Any, Any]]) -> None:
    wrong = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if wrong:
        lines = "; ".join(f"{name}: expected {want}, found {have}" for name, (want, have) in wrong.items())
        raise ValueError(f"the checkpoint {source} does not fit the recipe: {lines}; set these to the expected")
