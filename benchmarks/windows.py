"""Windows per second in the process that trains: ours against tsfm_public.ForecastDFDataset and against a plain copy.

All three deliver the same windows (context 512, horizon 96, one channel with its mask) in shuffled batches of 512.
The plain copy gathers rows of a window matrix that was materialised beforehand, which no real data set could afford:
it is the memory's own speed. Run: `python benchmarks/windows.py [--json]`.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch

from raycadian.config import Window
from raycadian.data.series import Series
from raycadian.data.split import Range
from raycadian.data.windows import cut_windows

CONTEXT, HORIZON, BATCH, POINTS, SECONDS = 512, 96, 512, 60_000, 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as in a Ray worker of one CPU
    glucose = (120 + 40 * np.sin(np.arange(POINTS) / 40)).astype(np.float32)
    peers = {"raycadian": ours(glucose), "plain copy": plain_copy(glucose), "ForecastDFDataset": tsfm(glucose)}
    # interleaved rounds: the machine's noise falls on all alike
    rounds = [{name: rate(peer) for name, peer in peers.items()} for _ in range(3)]
    rates = {name: float(np.median([r[name] for r in rounds])) for name in peers}
    rows = [
        {
            "peer": name,
            "windows_per_s": round(rates[name]),
            "raycadian_over_peer": round(rates["raycadian"] / rates[name], 2),
        }
        for name in peers
    ]
    print(json.dumps(rows) if arguments.json else pd.DataFrame(rows).to_string(index=False))


def rate(batch: Callable[[], int]) -> float:
    """Windows per second over SECONDS / 3."""
    batch()
    began, windows = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS / 3:
        windows += batch()
    return windows / (time.perf_counter() - began)


def ours(glucose: np.ndarray) -> Callable[[], int]:
    series = Series(
        table=np.stack([glucose, glucose]), observed=~np.isnan(glucose), offsets=np.array([0, POINTS]),
            subject_of=np.array([0]), number_of=np.array([0]),
        start_s=np.array([0]), utc_offset_min=np.array([0]), subjects=("a",), channels=("glucose_mgdl",), dt_s=300.0,
    )  # fmt: skip
    window = Window(context=CONTEXT, horizon=HORIZON, known=())
    windows = cut_windows(series, (Range("a", 0, 0, POINTS, "train", "id"),), window, 1)
    order = torch.randperm(len(windows))

    def batch() -> int:
        found = windows.batch(_next(order))
        return len(found["target"])

    return batch


def plain_copy(glucose: np.ndarray) -> Callable[[], int]:
    """Rows of a materialised window matrix and of its mask."""
    matrix = torch.from_numpy(glucose).unfold(0, CONTEXT + HORIZON, 1).contiguous()
    mask = ~torch.isnan(matrix)
    order = torch.randperm(len(matrix))

    def batch() -> int:
        index = _next(order)
        mask.index_select(0, index)
        return len(matrix.index_select(0, index))

    return batch


def tsfm(glucose: np.ndarray) -> Callable[[], int]:
    from tsfm_public import ForecastDFDataset

    frame = pd.DataFrame({"time": pd.date_range("2026-01-01", periods=POINTS, freq="5min"), "glucose": glucose})
    data = ForecastDFDataset(
        frame, timestamp_column="time", target_columns=["glucose"], context_length=CONTEXT, prediction_length=HORIZON
    )
    order = torch.randperm(len(data))

    def batch() -> int:
        rows = [
            {k: v for k, v in data[int(i)].items() if torch.is_tensor(v)} for i in _next(order)
        ]  # timestamps don't collate
        return len(torch.utils.data.default_collate(rows)["past_values"])

    return batch


def _next(order: torch.Tensor) -> torch.Tensor:
    begin = int(torch.randint(len(order) - BATCH, ()))
    return order[begin : begin + BATCH]


if __name__ == "__main__":
    main()
