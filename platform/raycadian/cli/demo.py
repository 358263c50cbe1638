"""`raycadian demo`: the whole line on the demo cohort, ending with a forecast from a live endpoint."""

import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from raycadian import workflow
from raycadian.cli.results import show_outcome
from raycadian.cli.terminal import Terminal, show_table
from raycadian.cluster import connect
from raycadian.config import Recipe, load_recipe, override
from raycadian.data.snapshot import Snapshot
from raycadian.models import checkpoint
from raycadian.runs import Run
from raycadian.training.pipeline import load_data

_BASE, _HYBRID = "jobs/recipes/demo_base.yaml", "jobs/recipes/demo.yaml"


_USUAL_S = {"train ttm": 40, "tune": 30, "train residual-ttm": 15, "serve": 15}  # two quiet cores


class DemoTerminal(Terminal):
    """Each stage with the seconds since the demo began, and those that it usually takes where they are many."""

    def __init__(self, unit: str) -> None:
        super().__init__(unit)
        self._began_s = time.perf_counter()

    def stage(self, text: str) -> None:
        usual = next((f", usually {seconds} s" for name, seconds in _USUAL_S.items() if text.startswith(name)), "")
        super().stage(f"{time.perf_counter() - self._began_s:4.0f} s · {text}{usual}")


def run_demo(runs: Path, snapshots: Path, port: int, progress: workflow.Progress) -> None:
    """Base model on two Ray Train workers -> sweep -> leaderboard and report -> champion -> served forecast.

    What is complete from an earlier demo is reused.
    """
    began = time.perf_counter()
    from raycadian.serving.app import prepare_environment

    prepare_environment()  # Serve's switches must be set before Ray starts
    connect()
    base = _train_base(runs, snapshots, progress)
    pretrained = _exported(base, runs)
    recipe = override(load_recipe(_HYBRID), {"model.inner.pretrained": str(pretrained)})
    outcome = workflow.run(recipe, progress, runs=runs, snapshots=snapshots, resume=True, also=[base])
    show_outcome(outcome)
    _serve_once(outcome, recipe, runs, snapshots, port, progress)
    click.echo(f"demo finished in {time.perf_counter() - began:.0f} s")


def _train_base(runs: Path, snapshots: Path, progress: workflow.Progress) -> Run:
    recipe = load_recipe(_BASE)
    progress.stage(f"prepare {recipe.dataset}")
    return workflow.train(recipe, load_data(recipe, snapshots), progress, runs=runs, resume=True)


def _exported(base: Run, runs: Path) -> Path:
    target = runs / "exports" / base.name
    if not target.is_dir():
        checkpoint.export_pretrained(checkpoint.load(base.path / "checkpoint"), target)
    return target


def _serve_once(
    outcome: workflow.Outcome, recipe: Recipe, runs: Path, snapshots: Path, port: int, progress: workflow.Progress
) -> None:
    """Serve the champion, ask it for a forecast of a held-out person, stop."""
    from raycadian.serving.app import serving
    from raycadian.tracking import registry

    champion = registry.champion(registry.registered_name(recipe), runs=runs)
    progress.stage(f"serve {champion.name} on port {port}")
    request = example_request(champion, snapshots)
    with serving(champion, port=port) as endpoint:
        answer = endpoint.post("/v1/forecast", request)
    click.echo(f"POST http://127.0.0.1:{port}/v1/forecast with {len(request['readings'])} readings answered:")
    show_table(_as_frame(answer), f"{answer['model']} · glucose, mg/dL · {answer['note']}")


def _as_frame(answer: dict[str, Any]) -> pd.DataFrame:
    """The endpoint's answer as rows: minutes ahead, quantiles, parts."""
    columns = {f"q{level}": values for level, values in answer["quantiles_mgdl"].items()}
    return pd.DataFrame({"time_local": answer["time_local"]} | columns | answer["parts_mgdl"])


def example_request(run: Run, snapshots: Path) -> dict[str, Any]:
    """The last day and a half of a held-out person, as a request."""
    snapshot = Snapshot.open(snapshots / run.metadata["snapshot"])
    recording = snapshot.recordings(snapshot.subjects[-1])[-1]
    seen = np.flatnonzero(recording.observed)[-432:]
    step = (seen * recording.dt_s * 1000).astype("timedelta64[ms]")
    times = recording.start_utc.astype("datetime64[ms]") + step
    values = recording.channels["glucose_mgdl"][seen]
    readings = [{"time": f"{t}Z", "glucose": round(float(v), 1)} for t, v in zip(times, values, strict=True)]
    return {"unit": "mg/dL", "utc_offset_min": recording.utc_offset_min, "readings": readings}
