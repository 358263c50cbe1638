"""Granite's networks: random ones, those of a checkpoint of ours, or a local folder's or a hub's with its weights.

The one door to granite-tsfm, whose import takes 4 s: only a model that is made of such a network pays them.
"""

from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from torch import nn
from tsfm_public.models.tinytimemixer import TinyTimeMixerConfig, TinyTimeMixerForPrediction, TinyTimeMixerModel
from tsfm_public.models.tinytimemixer.modeling_tinytimemixer import TinyTimeMixerLayer
from tsfm_public.toolkit.time_series_preprocessor import DEFAULT_FREQUENCY_MAPPING

from raycadian import config
from raycadian.files import read_json
from raycadian.models.base import ModelSpec

_FREQUENCY = {1: "min", 2: "2min", 5: "5min", 10: "10min", 15: "15min", 30: "30min", 60: "h", 1440: "D"}
_NEW_LAYERS = ("channel_feature_mixer", "fcm_block")  # mix channels; no one-channel checkpoint has them


def random_network(spec: ModelSpec, section: config.TTM) -> TinyTimeMixerForPrediction:
    """A network with random weights. Raises ValueError where patches don't fit the context."""
    if spec.context % section.patch_length or spec.context <= section.patch_length:
        raise ValueError(
            f"ttm cuts the context into two patches or more of equal length; found context {spec.context}, "
            f"ttm.patch_length {section.patch_length}; choose a smaller divisor of the context"
        )
    return TinyTimeMixerForPrediction(
        TinyTimeMixerConfig(
            context_length=spec.context, prediction_length=spec.horizon, patch_length=section.patch_length,
            patch_stride=section.patch_length, d_model=section.d_model, decoder_d_model=section.d_model,
            num_layers=section.layers, decoder_num_layers=2, **_for_recipe(spec, section),
        )
    )  # fmt: skip


def saved_network(architecture: dict[str, Any], spec: ModelSpec) -> TinyTimeMixerForPrediction:
    """A network of the architecture that a checkpoint holds, for its weights to be loaded into. Raises ValueError where
    it takes another context."""
    saved = TinyTimeMixerConfig.from_dict(architecture)
    if saved.context_length != spec.context:
        raise ValueError(f"a network of {saved.context_length} points of context in a model of {spec.context}")
    return TinyTimeMixerForPrediction(saved)


def pretrained_network(spec: ModelSpec, section: config.TTM) -> TinyTimeMixerForPrediction:
    """The checkpoint `section.pretrained`: a folder, a hub's name, or name@revision. Raises ValueError.

    It is loaded whole or not at all. A shorter horizon takes the first steps of its forecast (granite's
    `prediction_filter_length`); context, patches, width and layers must be those of the recipe.
    """
    folder = _locate(section.pretrained)
    architecture = _read_config(folder)
    _require_fit(architecture, spec, section)
    changes = _for_recipe(spec, section) | {"light_mode": False}
    if spec.horizon < architecture.prediction_length:
        changes["prediction_filter_length"] = spec.horizon
    architecture.update(changes)
    return _load(folder, architecture)


def _load(folder: Path, architecture: TinyTimeMixerConfig) -> TinyTimeMixerForPrediction:
    """The weights of `folder` in a network of that architecture; layers that mix channels may be new."""
    transformers.utils.logging.disable_progress_bar()  # 84 small tensors need no bar
    try:
        network, info = TinyTimeMixerForPrediction.from_pretrained(
            folder, config=architecture, output_loading_info=True, use_safetensors=True, local_files_only=True
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
    """Backbone of the checkpoint `section.pretrained`: a folder, a hub's name, or name@revision. Raises ValueError."""
    folder = _locate(section.pretrained)
    architecture = _read_config(folder)
    _require_equal(
        section.pretrained,
        {
            "points of a piece (window / ttm_label.pieces)": (architecture.context_length, context),
            "ttm_label.patch_length": (architecture.patch_length, section.patch_length),
            "ttm_label.d_model": (architecture.d_model, section.d_model),
            "ttm_label.layers": (architecture.num_layers, section.layers),
        },
    )
    architecture.update(_for_label(section, channels) | {"light_mode": False})
    return _load(folder, architecture).backbone


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


def _for_recipe(spec: ModelSpec, section: config.TTM) -> dict[str, Any]:
    """What the recipe decides whatever the checkpoint says: dropout, and which channels enter."""
    past, channels = len(spec.past), _channels(spec, section)
    several = channels > 1
    return {
        "dropout": section.dropout,
        "head_dropout": section.dropout,
        "num_input_channels": channels,
        "prediction_channel_indices": [0] if several else None,
        "decoder_mode": "mix_channel" if several else "common_channel",
        "exogenous_channel_indices": list(range(past, channels)) if channels > past else None,
        "enable_forecast_channel_mixing": channels > past,
    }


def _channels(spec: ModelSpec, section: config.TTM) -> int:
    return len(spec.past) + (len(spec.known) if section.exogenous else 0)


def _locate(source: str) -> Path:
    """The local folder of a checkpoint, downloaded where a hub has it and can be reached."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    name, _, revision = source.partition("@")
    try:
        downloaded = snapshot_download(
            name, revision=revision or None, allow_patterns=["config.json", "*.safetensors"], etag_timeout=5
        )
    except (OSError, HFValidationError) as error:
        raise ValueError(
            f"ttm.pretrained: {source!r} is no folder (working directory {Path.cwd()}) and can't be fetched from the "
            f"hub ({type(error).__name__}). Where the hub can be reached: `hf download {name} --local-dir FOLDER` "
            "(HF_HUB_OFFLINE unset); bring FOLDER here and set ttm.pretrained: FOLDER"
        ) from error
    return Path(downloaded)


def _read_config(folder: Path) -> TinyTimeMixerConfig:
    raw = read_json(folder / "config.json")
    if (kind := raw.get("model_type")) != "tinytimemixer" or raw.get("decompose"):
        raise ValueError(f"{folder}: expected a checkpoint of TinyTimeMixerForPrediction, found {kind!r}")
    return TinyTimeMixerConfig.from_dict(raw)


def _require_fit(saved: TinyTimeMixerConfig, spec: ModelSpec, section: config.TTM) -> None:
    """Every difference at once, as settings that can be copied into the recipe."""
    pairs = {
        "window.context": (saved.context_length, spec.context),
        "ttm.patch_length": (saved.patch_length, section.patch_length),
        "ttm.d_model": (saved.d_model, section.d_model),
        "ttm.layers": (saved.num_layers, section.layers),
    }
    longest = saved.prediction_filter_length or saved.prediction_length  # steps beyond the filter were not trained
    if spec.horizon > longest:
        pairs["window.horizon"] = (f"{longest} at most", spec.horizon)
    channels = _channels(spec, section)
    if saved.num_input_channels not in (1, channels):
        pairs["window.past"] = (f"{saved.num_input_channels} channels", f"{channels} channels")
    _require_equal(section.pretrained, pairs)


def _require_equal(source: str, pairs: dict[str, tuple[Any, Any]]) -> None:
    wrong = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if wrong:
        lines = "; ".join(f"{name}: expected {want}, found {have}" for name, (want, have) in wrong.items())
        raise ValueError(f"the checkpoint {source} does not fit the recipe: {lines}; set these to the expected")
