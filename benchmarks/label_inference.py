"""Windows classified per second: the frozen TTM with a linear head against PatchTST (transformers), and PAT against its
own equations with the attention written out, as Keras computes it.

TTM and PatchTST have the same patches, width and layers, and see windows of 10 s of three channels at 125 Hz. PAT sees
weeks of 10080 minutes, one at a time. Random weights: speed does not depend on them. Batches, threads and rounds are
the same for both; rounds are interleaved. Run on a quiet machine: `python benchmarks/label_inference.py [--json]`.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PatchTSTConfig, PatchTSTForClassification

from raycadian import config
from raycadian.models.base import ModelSpec
from raycadian.models.build import build
from raycadian.models.pat_encoder import SIZES, WIDTH, Attention

THREADS, ROUNDS = 2, 5
BATCH, BATCHES = 64, 8
WAVEFORM = ModelSpec(1250, 0, 1 / 125 / 60, ("ecg_mv", "ppg", "abp_mmhg"), (), (), task="classify")
WEEK = ModelSpec(10080, 0, 1.0, ("activity",), (), (), task="classify")
WANTED_PER_S = 1000  # windows of 10 s, of the project's own demands
Run = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    with torch.inference_mode():
        rows = [waveforms(), *(weeks(size) for size in ("small", "medium", "large"))]
    print(json.dumps(rows) if arguments.json else pd.DataFrame(rows).to_string(index=False))


def waveforms() -> dict[str, object]:
    section = config.TTMLabel(adapter=config.HeadOnly())
    ours, batch = build(section, WAVEFORM).eval(), _batch(WAVEFORM, BATCH)
    peer = PatchTSTForClassification(
        PatchTSTConfig(
            num_input_channels=3, context_length=1250, patch_length=section.patch_length,
                patch_stride=section.patch_length,
            d_model=section.d_model, num_hidden_layers=section.layers, num_attention_heads=4,
                ffn_dim=2 * section.d_model,
            num_targets=1, pooling_type="mean",
        )
    ).eval()  # fmt: skip
    runs = (lambda: ours(batch), lambda: peer(past_values=batch["past"], past_observed_mask=batch["past_mask"]))
    return _row("TTM, frozen, linear head: 10 s of 3 channels", "PatchTST", runs, BATCH, BATCHES, WANTED_PER_S)


def weeks(size: str) -> dict[str, object]:
    ours, batch = build(config.PAT(size=size), WEEK).eval(), _batch(WEEK, 1)
    peer = build(config.PAT(size=size), WEEK).eval()
    peer.load_state_dict(ours.state_dict())
    for layer in peer.encoder.layers:
        layer.attention.forward = _written_out(layer.attention)
    assert torch.allclose(ours(batch).score, peer(batch).score, atol=1e-4)
    runs = (lambda: ours(batch), lambda: peer(batch))
    return _row(f"PAT {size} ({SIZES[size].layers} layers): a week", "attention written out", runs, 1, 4, None)


def _written_out(attention: Attention) -> Callable[[Tensor], Tensor]:
    """softmax(q k / sqrt(W)) v with the scores (B, heads, P, P) as a tensor."""

    def forward(patches: Tensor) -> Tensor:
        q, k, v = (
            project(patches).unflatten(-1, (attention.heads, WIDTH)).transpose(1, 2)
            for project in (attention.query, attention.key, attention.value)
        )
        found = torch.softmax(q / WIDTH**0.5 @ k.mT, dim=-1) @ v
        return attention.output(found.transpose(1, 2).flatten(2))

    return forward


def _batch(spec: ModelSpec, n: int) -> dict[str, Tensor]:
    past = torch.randn(n, spec.context, len(spec.past))
    return {"past": past, "past_mask": torch.ones_like(past, dtype=torch.bool)}


def _row(
    what: str, peer: str, runs: tuple[Run, Run], batch: int, batches: int, wanted_per_s: float | None
) -> dict[str, object]:
    """The ratio is the median over rounds: both sides of each were measured one after the other."""
    for run in runs:
        run()
    rates = np.array([[_per_s(run, batch, batches) for run in runs] for _ in range(ROUNDS)])
    ours, theirs = np.median(rates, axis=0)
    return {
        "what": what, "per_s": round(float(ours), 1), "ms": round(1000 / float(ours), 2), "peer": peer,
        "peer_per_s": round(float(theirs), 1), "ratio": round(float(np.median(rates[:, 0] / rates[:, 1])), 2),
        "wanted_per_s": wanted_per_s,
    }  # fmt: skip


def _per_s(run: Run, batch: int, batches: int) -> float:
    began = time.perf_counter()
    for _ in range(batches):
        run()
    return batch * batches / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
