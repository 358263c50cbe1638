"""Every strategy against one process: the engine and optimizer that ran, the distance of its loss curve, its
checkpoint.

The demo cohort's TTM, the same seed and global batch, on Ray Train with as many local workers as the rows say.
`distance` is the largest relative difference of training loss and validation RMSE over the epochs from those of one
process; `loads back` compares the validation RMSE of the consolidated checkpoint in a plain model with the one of
training. Run: `python benchmarks/strategies.py [--json] [--update-docs]`; the table in docs/concepts/training.md comes
from here.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from between import markdown, write_between

from raycadian.cluster import connect
from raycadian.config import Recipe, load_recipe, override
from raycadian.models.build import build
from raycadian.tasks import task_of
from raycadian.tasks.base import Data
from raycadian.training import distributed, loop
from raycadian.training.engines import Process
from raycadian.training.pipeline import load_data

DOCS, BEGIN, END = Path("docs/concepts/training.md"), "<!-- strategies -->", "<!-- /strategies -->"
LORA = {"model.adapter": {"kind": "lora", "rank": 4}}
CASES: dict[str, dict[str, Any]] = {
    "DDP, 2 workers": {"workers": 2},
    "DDP, 4 workers": {"workers": 4},
    "DDP, 2 workers, LoRA": {"workers": 2} | LORA,
    "FSDP, 2 workers": {"workers": 2, "strategy": "fsdp"},
    "FSDP, 2 workers, LoRA": {"workers": 2, "strategy": "fsdp"} | LORA,
    "ZeRO-1, 2 workers": {"workers": 2, "strategy": "deepspeed", "zero.stage": 1},
    "ZeRO-2, 2 workers": {"workers": 2, "strategy": "deepspeed", "zero.stage": 2},
    "ZeRO-2, 4 workers": {"workers": 4, "strategy": "deepspeed", "zero.stage": 2},
    "ZeRO-2 offload, 2 workers, "
    "LoRA": {"workers": 2, "strategy": "deepspeed", "zero.stage": 2, "zero.offload": True} | LORA,
    "ZeRO-3, 2 workers": {"workers": 2, "strategy": "deepspeed", "zero.stage": 3},
    "ZeRO-3 offload, 2 workers": {"workers": 2, "strategy": "deepspeed", "zero.stage": 3, "zero.offload": True},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--update-docs", action="store_true")
    arguments = parser.parse_args()
    connect(num_cpus=4)
    recipe = override(load_recipe("jobs/recipes/demo_base.yaml"), {
        "model.d_model": 32, "model.dropout": 0.0, "training.epochs": 3, "training.batch_size": 256,
        "training.early_stopping": None, "training.device": "cpu", "window.stride": 6,
    })  # fmt: skip
    data = load_data(recipe)
    rows = [measure(name, changes, recipe, data) for name, changes in CASES.items()]
    table = pd.DataFrame(rows)
    print(json.dumps(rows) if arguments.json else table.to_string(index=False))
    if arguments.update_docs:
        write_between(DOCS, BEGIN, END, markdown(list(table.columns), table.to_numpy()))


def measure(name: str, changes: dict[str, Any], recipe: Recipe, data: Data) -> dict[str, Any]:
    changed = {
        path if "." in path and not path.startswith("zero") else f"training.{path}": v for path, v in changes.items()
    }
    recipe = override(recipe, changed | {"window.stride": 6, "window.eval_stride": 6})
    train, val = (task_of(recipe).windows(data, recipe, split) for split in ("train", "val"))

    def model() -> Any:
        torch.manual_seed(0)
        return build(recipe.model, task_of(recipe).spec(recipe, data.series.dt_s))

    one = recipe.training.model_copy(update={"strategy": "ddp", "workers": 1})
    alone = loop.train(model(), train, val, one)
    trained = model()
    with tempfile.TemporaryDirectory() as state:
        found = distributed.train(
            trained, train, val, recipe.training, state=Path(state), on_epoch=lambda metrics: None
        )
    pairs = [
        (a[key], b[key])
        for a, b in zip(alone.history, found.history, strict=True)
        for key in ("train/loss", "val/rmse")
    ]
    again = loop._Session(trained, train, val, one, Process())._validate()
    best = min(m["val/rmse"] for m in found.history)
    return {
        "strategy": name, "engine": found.how["engine"], "optimizer": found.how["optimizer"],
        "ZeRO stage": found.how.get("zero_stage", ""), "distance": f"{max(abs(b / a - 1) for a, b in pairs):.1e}",
        "loads back": f"val RMSE {again['val/rmse']:.3f}, in training {best:.3f}",
        "windows an epoch": f"{found.history[0]['windows']:.0f} of {len(train)}",
    }  # fmt: skip


if __name__ == "__main__":
    main()
