"""Streamed training beside mapped, and the cutter in Ray Data beside rows of pandas.

`trained`: windows a second that two workers of Ray Train train on (a TTM of width 16, one layer, 144 + 12 points,
batches of 512), from shards that Ray Data reads and cuts, and from a table that both map: each training has a first
epoch that isn't counted. `cut`: windows a second (512 + 96 points) that reach one process through Ray Data, from
`map_batches` with our cutter, and from one that makes a pandas table of each person and takes the windows from
tsfm_public.ForecastDFDataset; both by two tasks at a time, after a round that isn't counted.
Run on a quiet machine of at least 2 cores: `python benchmarks/streaming.py [--people 48] [--days 60] [--json]`
"""

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from people import write_people

from raycadian.config import TTM, Split, Training, Window
from raycadian.data.snapshot import Snapshot
from raycadian.data.split import make_split
from raycadian.modalities.prepare import prepare

CHANNELS = ("glucose_mgdl",)
TRAINED, CUT = Window(), Window(context=512, horizon=96, known=())
BATCH, STEPS, EPOCHS, ROUNDS = 512, 150, 3, 3
SHUFFLE_BYTES = 1_000_000  # several groups of shards for each worker, as a large data set gives
PEERS_PEOPLE = 6  # of whom the slow peer cuts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=48)
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        card = write_people(Path(folder), options.people, options.days)
        snapshot = prepare(card, Path(folder) / "snapshots")
        from raycadian.cluster import connect

        connect(num_cpus=2)
        rows = [trained(snapshot, Path(folder)), cut(snapshot)]
    print(json.dumps(rows, indent=1) if options.json else pd.DataFrame(rows).to_string(index=False))


def windows_of(snapshot: Snapshot, window: Window, mode: str) -> list[Any]:
    """To train on and to validate with."""
    from raycadian.data.series import open_series
    from raycadian.data.stream import open_shards
    from raycadian.data.windows import cut_windows

    streamed = mode == "streamed"
    series = (
        open_shards(snapshot, CHANNELS, shuffle_bytes=SHUFFLE_BYTES) if streamed else open_series(snapshot, CHANNELS)
    )
    split = make_split(series.lengths, Split(kind="time"))
    return [cut_windows(series, split.of(part), window, stride) for part, stride in (("train", 1), ("val", 24))]


def row(what: str, ours: list[float], peer: str, theirs: list[float], target: float, **more: Any) -> dict[str, Any]:
    """The ratio is the median over the rounds: both sides of each were measured one after the other."""
    ratio = round(float(np.median(np.divide(ours, theirs))), 2)
    return {
        "what": what, "windows_per_s": round(float(np.median(ours))), "peer": peer,
        "peer_windows_per_s": round(float(np.median(theirs))), "ratio": ratio, "target": target, **more,
    }  # fmt: skip


# --- trained on -------------------------------------------------------------------------------------------------------


def trained(snapshot: Snapshot, folder: Path) -> dict[str, Any]:
    rounds = [
        {mode: train(snapshot, mode, folder / f"{mode}-{n}") for mode in ("streamed", "mapped")} for n in range(ROUNDS)
    ]
    rates = {mode: [one[mode]["windows_per_s"] for one in rounds] for mode in ("streamed", "mapped")}
    wait = round(float(np.median([one["streamed"]["data/wait"] for one in rounds])), 3)
    return row("trained by 2 workers, streamed", rates["streamed"], "mapped", rates["mapped"], 0.85, wait=wait)


def train(snapshot: Snapshot, mode: str, state: Path) -> dict[str, float]:
    """Medians over the epochs but the first."""
    import torch

    from raycadian.models.base import ModelSpec
    from raycadian.models.build import build
    from raycadian.training import distributed

    settings = Training(
        epochs=EPOCHS, batch_size=BATCH, max_steps_per_epoch=STEPS, workers=2, schedule="constant", warmup_steps=0,
        early_stopping=None, device="cpu", precision="fp32",
    )  # fmt: skip
    torch.manual_seed(0)
    spec = ModelSpec(TRAINED.context, TRAINED.horizon, 5.0, CHANNELS, TRAINED.known, (0.05, 0.25, 0.5, 0.75, 0.95))
    model = build(TTM(d_model=16, layers=1), spec)
    done = distributed.train(
        model, *windows_of(snapshot, TRAINED, mode), settings, state=state, on_epoch=lambda metrics: None
    )
    rows = done.history[1:]
    return {name: float(np.median([one[name] for one in rows])) for name in ("windows_per_s", "data/wait")}


# --- cut --------------------------------------------------------------------------------------------------------------


def cut(snapshot: Snapshot) -> dict[str, Any]:
    ours(snapshot), rows_of_pandas(snapshot)  # Ray's workers start, and import
    rounds = [(ours(snapshot), rows_of_pandas(snapshot)) for _ in range(ROUNDS)]
    mine, theirs = zip(*rounds, strict=True)
    return row("cut in map_batches", list(mine), "pandas rows, ForecastDFDataset", list(theirs), 20.0)


def rate(batches: Iterator[dict[str, Any]]) -> float:
    """From the first batch asked for to the last, reading included."""
    began, count = time.perf_counter(), 0
    for batch in batches:
        count += len(next(iter(batch.values())))
    return count / (time.perf_counter() - began)


def ours(snapshot: Snapshot) -> float:
    from raycadian.training.engines import Process
    from raycadian.training.feed import Streamed
    from raycadian.training.ray_feed import read_on_ray

    windows, _ = windows_of(snapshot, CUT, "streamed")
    feed = Streamed(windows, Training(batch_size=BATCH), Process(), read_on_ray)
    return rate(parts[0][0] for parts in feed.epoch(1, 1))


def rows_of_pandas(snapshot: Snapshot) -> float:
    import ray

    people = [{"subject": subject} for subject in snapshot.subjects[:PEERS_PEOPLE]]
    data = ray.data.from_items(people, override_num_blocks=len(people))
    data.context.enable_progress_bars = False
    at_once = ray.data.TaskPoolStrategy(size=2)
    cut = data.map_batches(_rows, fn_args=(str(snapshot.path),), batch_size=1, num_cpus=0, compute=at_once)
    return rate(cut.iter_batches(batch_size=BATCH, batch_format="numpy", prefetch_batches=2))


def _rows(batch: dict[str, np.ndarray], path: str) -> Iterator[dict[str, np.ndarray]]:
    """A person's windows, by way of a table in pandas and tsfm_public's data set."""
    import torch
    from tsfm_public import ForecastDFDataset

    torch.set_num_threads(1)
    (recording,) = Snapshot.open(path).recordings(str(batch["subject"][0]))
    times = recording.start_utc + np.arange(len(recording)) * np.timedelta64(300, "s")
    frame = pd.DataFrame({"time": times.astype("datetime64[ns]"), "glucose": recording.channels[CHANNELS[0]]})
    data = ForecastDFDataset(
        frame[: int(len(frame) * 0.7)], timestamp_column="time", target_columns=["glucose"],
        context_length=CUT.context, prediction_length=CUT.horizon,
    )  # fmt: skip
    for begin in range(0, len(data), BATCH):
        rows = [data[i] for i in range(begin, min(begin + BATCH, len(data)))]
        tensors = torch.utils.data.default_collate([{k: v for k, v in r.items() if torch.is_tensor(v)} for r in rows])
        yield {name: value.numpy() for name, value in tensors.items()}


if __name__ == "__main__":
    main()
