"""Inside .bench-venv/forecasters: every window of some people by a peer, from a data frame, one thread. Random weights:
speed does not depend on them.

bolt: Chronos-Bolt in the architecture of amazon/chronos-bolt-tiny as published, `predict_quantiles` on windows that
numpy cuts from the frame. neuralforecast: its PatchTST in the width of our TTM (patches of 48, width 16), `predict` on
a frame in which each window is a series. `python forecast_peers.py WAY people.csv PEOPLE CONTEXT HORIZON`
"""

import json
import logging
import sys
import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch

QUANTILES = [0.05, 0.25, 0.5, 0.75, 0.95]
_BATCH = 256
_TINY = {
    "d_model": 256, "d_kv": 64, "d_ff": 1024, "num_layers": 4, "num_decoder_layers": 4, "num_heads": 4,
    "feed_forward_proj": "relu", "is_encoder_decoder": True, "vocab_size": 2, "pad_token_id": 0, "eos_token_id": 1,
    "decoder_start_token_id": 0,
    "chronos_config": {
        "context_length": 2048, "prediction_length": 64, "input_patch_size": 16, "input_patch_stride": 16,
        "quantiles": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], "use_reg_token": True,
    },
}  # fmt: skip


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    way, file, people, context, horizon = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    frame = pd.read_csv(file, parse_dates=["time"])
    frame = frame[frame["subject"].isin(frame["subject"].unique()[:people])]
    print(json.dumps(WAYS[way](frame, context, horizon)))


def cut(frame: pd.DataFrame, context: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """(W, L) glucose and (W, L) time of every window that a horizon follows, as ours are."""
    pieces = []
    for _, own in frame.groupby("subject", sort=False):
        columns = (own["glucose"].to_numpy(np.float32), own["time"].to_numpy())
        pieces.append([np.lib.stride_tricks.sliding_window_view(c, context)[:-horizon] for c in columns])
    glucose, when = zip(*pieces, strict=True)
    return np.concatenate(glucose), np.concatenate(when)


def bolt(frame: pd.DataFrame, context: int, horizon: int) -> dict[str, Any]:
    from chronos.chronos_bolt import ChronosBoltModelForForecasting, ChronosBoltPipeline
    from transformers import T5Config

    pipeline = ChronosBoltPipeline(ChronosBoltModelForForecasting(T5Config(**_TINY)).eval())
    levels = [level for level in QUANTILES if 0.1 <= level <= 0.9]  # beyond, it only repeats its outermost

    def forecast(some: pd.DataFrame) -> int:
        windows = torch.from_numpy(cut(some, context, horizon)[0].copy())
        batches = windows.split(_BATCH)
        tables = [pipeline.predict_quantiles(b, prediction_length=horizon, quantile_levels=levels)[0] for b in batches]
        return len(torch.cat(tables))

    return _timed(forecast, frame, pipeline.model)


def neuralforecast(frame: pd.DataFrame, context: int, horizon: int) -> dict[str, Any]:
    from neuralforecast import NeuralForecast
    from neuralforecast.losses.pytorch import MQLoss
    from neuralforecast.models import PatchTST

    model = PatchTST(
        h=horizon, input_size=context, patch_len=48, stride=48, hidden_size=16, linear_hidden_size=32, n_heads=4,
        encoder_layers=2, loss=MQLoss(quantiles=QUANTILES), max_steps=1, batch_size=_BATCH,
        inference_windows_batch_size=_BATCH, valid_batch_size=_BATCH, accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    forecaster = NeuralForecast(models=[model], freq="5min")
    first = frame["subject"].iloc[0]
    forecaster.fit(_series(frame[frame["subject"] == first], 2 * context, horizon))
    series = _series(frame, context, horizon)  # what the user would hold is not timed
    return _timed(lambda some: len(forecaster.predict(df=some)) // horizon, series, forecaster.models[0], "unique_id")


def _series(frame: pd.DataFrame, context: int, horizon: int) -> pd.DataFrame:
    glucose, when = cut(frame, context, horizon)
    names = np.repeat([f"{i:07d}" for i in range(len(glucose))], context)
    return pd.DataFrame({"unique_id": names, "ds": when.ravel(), "y": glucose.ravel()})


def _timed(forecast: Any, frame: pd.DataFrame, model: torch.nn.Module, column: str = "subject") -> dict[str, Any]:
    """Seconds of the processor: once over some to warm up, then over all."""
    names = frame[column].unique()
    forecast(frame[frame[column].isin(names[: max(1, len(names) // 20)])])
    began = time.process_time()
    windows = forecast(frame)
    weights = sum(parameter.numel() for parameter in model.parameters())
    return {"windows": windows, "seconds": time.process_time() - began, "weights": weights}


WAYS = {"bolt": bolt, "neuralforecast": neuralforecast}


if __name__ == "__main__":
    main()
