"""The line of tasks without a horizon (classify, regress, pretrain): what lies between a snapshot and a report, where it differs
from that of forecasts. experiment.py calls it, and says where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from raycadian.config import AnyCard, Classification, Pretraining, Recipe, headline, model_name, protocol_of
from raycadian.data.labelled import LabelledWindows, Places, cut_labelled, find_places, strata
from raycadian.data.marks import context_points, points_of
from raycadian.data.series import Series, open_series
from raycadian.data.snapshot import Snapshot
from raycadian.data.split import SplitManifest, make_split
from raycadian.evaluation import report_labels
from raycadian.evaluation.classification import differences, leaderboard, score_labels
from raycadian.evaluation.decision import Decision, fit_decision
from raycadian.evaluation.labels import LabelPredictions
from raycadian.models import base
from raycadian.training.run import Run, predictions_file, write_json
from raycadian.types import SPLITS

DECISION = "decision.json"  # in the checkpoint: what the endpoint makes of log odds
_BATCH_VALUES = 4_000_000  # of inputs predicted at once


def load(recipe: Recipe, snapshot: Snapshot) -> tuple[Series, SplitManifest, Places]:
    """Series, split by subject along the label, and every place where a window may begin. Raises ValueError."""
    series = open_series(snapshot, recipe.window.past)
    places = find_places(snapshot, series, recipe.window, recipe.task, recipe.split.seed)
    lengths: dict[str, list[int]] = {}
    for subject, n in zip(series.subject_of, np.diff(series.offsets), strict=True):
        lengths.setdefault(series.subjects[subject], []).append(int(n))
    along = strata(places, series)
    known = {s: lengths[s] for s in along}
    labelled = None if isinstance(recipe.task, Pretraining) else along
    return series, make_split(known, recipe.split, snapshot.id, series.dt_s, labelled), places


def cycles_of(snapshot: Snapshot) -> frozenset[str]:
    """Letters of the NHANES cycles whose people have recordings; none of other data."""
    rows = [row for found in snapshot.attributes.values() for row in found]
    return frozenset(str(row["cycle"]) for row in rows if row.get("cycle") is not None)


def places_of(series: Series, split: SplitManifest, places: Places, recipe: Recipe, name: str) -> Places:
    """The places of one split that are trained on, or scored."""
    training = name == "train"
    step_s = recipe.window.step_s if training else recipe.window.eval_step_s
    found = places.within(split, series, name).every(points_of(step_s, series.dt_s, "window.step_s"))
    if not len(found):
        raise ValueError(f"{name}: no window; raise its share of subjects or lower window.step_s")
    return found


def windows_of(series: Series, split: SplitManifest, places: Places, recipe: Recipe, name: str) -> LabelledWindows:
    found = cut_labelled(series, places_of(series, split, places, recipe, name), recipe.window)
    most = recipe.window.train_windows
    return found.sample(most, recipe.training.seed) if name == "train" and most else found


def spec_of(recipe: Recipe, dt_s: float) -> base.Spec:
    task = recipe.task
    return base.Spec(
        context=context_points(recipe.window, dt_s), horizon=0, dt_min=dt_s / 60, past=recipe.window.past, known=(),
        quantiles=(), task=task.kind, balanced=isinstance(task, Classification) and task.balance == "training",
    )  # fmt: skip


def window_counts(series: Series, split: SplitManifest, places: Places, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """split -> windows, and the mean of their labels."""
    found = {name: places_of(series, split, places, recipe, name) for name in SPLITS}
    return {name: {"windows": len(p), "mean_label": float(p.label.mean())} for name, p in found.items()}


# --- predictions -----------------------------------------------------------------------------------------------------


def predict_splits(
    series: Series, split: SplitManifest, places: Places, recipe: Recipe, model: base.Model
) -> dict[str, LabelPredictions]:
    """Of validation and test windows; empty of a pretraining, which says nothing of a window."""
    if isinstance(recipe.task, Pretraining):
        return {}
    return {
        name: _predict(series, places_of(series, split, places, recipe, name), recipe, model) for name in SPLITS[1:]
    }


def _predict(series: Series, places: Places, recipe: Recipe, model: base.Model) -> LabelPredictions:
    windows = cut_labelled(series, places, recipe.window)
    subject = np.array(series.subjects)[series.subject_of[places.recording]]
    end_s = series.start_s[places.recording] + (places.point + windows.context) * series.dt_s
    return LabelPredictions(
        subject=subject, case=np.array(places.cases)[places.recording], time_utc=np.floor(end_s).astype("datetime64[s]"),
        label=places.label.astype(np.float64), score=np.concatenate(list(_scores(model, windows))), weight=places.weight,
        lead_s=places.lead_s, kind=recipe.task.kind, step_s=recipe.window.eval_step_s,
    )  # fmt: skip


@torch.inference_mode()
def _scores(model: base.Model, windows: LabelledWindows) -> Iterator[np.ndarray]:
    model = model.eval()
    size = max(1, _BATCH_VALUES // (windows.context * len(windows.series.channels)))
    for batch in windows.batches(size):
        yield model(batch).score.double().numpy()


def read_predictions(folder: Path, split: str = "test") -> LabelPredictions:
    return LabelPredictions.read_parquet(folder / predictions_file(split))


# --- scores and report -----------------------------------------------------------------------------------------------


def write_scores(folder: Path, recipe: Recipe, predictions: dict[str, LabelPredictions], history: list[dict]) -> None:
    """checkpoint/decision.json (of classify), detailed_results.csv, metrics_summary.json."""
    task = recipe.task
    if isinstance(task, Pretraining):
        least = min(row["val/loss"] for row in history)
        write_json(folder / "metrics_summary.json", {s: {"loss": _alone(least)} for s in ("val",)})
        return
    decision = fit_decision(task, predictions["val"]) if isinstance(task, Classification) else None
    if decision is not None:
        decision.write(folder / "checkpoint" / DECISION)
    tables = {name: score_labels(p, decision, **_drawn(recipe)) for name, p in predictions.items()}
    tables["test"].to_csv(folder / "detailed_results.csv", index=False)
    summary = {
        name: {r.metric: {"value": r.value, "low": r.low, "high": r.high} for r in t.itertuples()}
        for name, t in tables.items()
    }
    write_json(folder / "metrics_summary.json", summary)


def _alone(value: float) -> dict[str, float | None]:
    return {"value": value, "low": None, "high": None}


def _drawn(recipe: Recipe) -> dict[str, Any]:
    return {
        "bootstrap": recipe.evaluation.bootstrap,
        "confidence": recipe.evaluation.confidence,
        "seed": recipe.evaluation.seed,
    }


def said_by(folder: Path, recipe: Recipe) -> tuple[LabelPredictions, Decision | None]:
    """What a run said of the test windows, and what it decided on validation windows."""
    known = isinstance(recipe.task, Classification)
    return read_predictions(folder), Decision.read(folder / "checkpoint" / DECISION) if known else None


def board_of(named: dict[str, tuple[LabelPredictions, Decision | None]], recipe: Recipe) -> pd.DataFrame:
    return leaderboard(named, headline(recipe.task).metric, **_drawn(recipe))


def differences_of(named: dict[str, tuple[LabelPredictions, Decision | None]], recipe: Recipe) -> pd.DataFrame:
    return differences(named, headline(recipe.task).metric, **_drawn(recipe))


def write_report(folder: Path, recipe: Recipe, metadata: dict[str, Any], against: Sequence[Run]) -> Path:
    """(Re)write report.html and leaderboard.csv of a run folder."""
    subtitle = f"{recipe.description or recipe.dataset}; {recipe.split.kind} split; {protocol_of(recipe)}"
    if isinstance(recipe.task, Pretraining):
        return report_labels.write_pretraining(folder, recipe.name, subtitle, metadata)
    named = {model_name(recipe.model): said_by(folder, recipe)}
    for other in against:
        named.setdefault(model_name(other.recipe.model), said_by(other.path, recipe))
    board = board_of(named, recipe)
    board.to_csv(folder / "leaderboard.csv", index=False)
    return report_labels.write_report(
        folder, title=recipe.name, subtitle=subtitle, leaderboard=board, predictions=named, metadata=metadata
    )


def preprocessing(card: AnyCard, snapshot_id: str, recipe: Recipe) -> dict[str, Any]:
    """What serving needs to cut the same windows: the card, the windows, the task."""
    return {
        "card": card.model_dump(mode="json"),
        "window": recipe.window.model_dump(mode="json"),
        "task": recipe.task.model_dump(mode="json"),
        "snapshot": snapshot_id,
    }
