"""The line of tasks without a horizon (classify, regress, pretrain): what lies between a snapshot and a report, where it differs
from that of forecasts. experiment.py calls it, and says where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from raycadian.config import Classification, Pretraining, Recipe, headline, model_name, protocol_of
from raycadian.data.label_windows import LabelledWindows, WindowIndex, cut_labelled, find_places, strata
from raycadian.data.marks import context_points, points_of
from raycadian.data.series import Series, open_series
from raycadian.data.snapshot import Snapshot
from raycadian.data.split import SplitManifest, make_split
from raycadian.evaluation.label import classification
from raycadian.evaluation.label import report as label_report
from raycadian.evaluation.label.classification import score_labels
from raycadian.evaluation.label.compare import differences, leaderboard
from raycadian.evaluation.label.decision import Decided, Decision, fit_decision
from raycadian.evaluation.label.predictions import LabelPredictions
from raycadian.evaluation.report import write_report as write_page
from raycadian.modalities.cards import AnyCard
from raycadian.models import base
from raycadian.training.run import Run, open_run, predictions_file, write_json
from raycadian.types import SPLITS

_BATCH_VALUES = 4_000_000  # of inputs predicted at once


def load(recipe: Recipe, snapshot: Snapshot) -> tuple[Series, SplitManifest, WindowIndex]:
    """Series, split by subject along the label, and every place where a window may begin. Raises ValueError."""
    series = open_series(snapshot, recipe.window.past)
    places = find_places(snapshot, series, recipe.window, recipe.task, recipe.split.seed)
    lengths: dict[str, list[int]] = {}
    for subject, n in zip(series.subject_of, np.diff(series.offsets), strict=True):
        lengths.setdefault(series.subjects[subject], []).append(int(n))
    along = strata(places, series)
    known = {s: lengths[s] for s in along}
    labelled = None if isinstance(recipe.task, Pretraining) else along
    shared = None if recipe.split.run is None else SplitManifest.read(open_run(recipe.split.run).path / "split.json")
    return series, make_split(known, recipe.split, snapshot.id, series.dt_s, labelled, shared), places


def cycles_of(snapshot: Snapshot) -> frozenset[str]:
    """Letters of the NHANES cycles whose people have recordings; none of other data."""
    rows = [row for found in snapshot.attributes.values() for row in found]
    return frozenset(str(row["cycle"]) for row in rows if row.get("cycle") is not None)


def cohort_of(snapshot: Snapshot, recipe: Recipe) -> tuple[dict[str, Any], ...]:
    """Who was left out at each step before there was a recording with the label; empty of data that don't count it."""
    label = getattr(recipe.task, "label", None)
    return tuple(snapshot.manifest.get("cohorts", {}).get(getattr(label, "name", None), ()))


def followed(
    cohort: Sequence[dict[str, Any]], series: Series, split: SplitManifest, places: WindowIndex, recipe: Recipe
) -> dict[str, Any] | None:
    """The cohort to its end: steps, and people of each split, who have a window with the (first) label."""
    if not cohort:
        return None
    people = {}
    for name in SPLITS:
        own = places_of(series, split, places, recipe, name)
        known = np.isfinite(own.label.reshape(len(own), -1)[:, 0])
        people[name] = len(np.unique(series.subject_of[own.recording[known]]))
    before, left = cohort[-1]["left"], sum(people.values())
    step = f"no window of {recipe.window.length_s / 3600:g} h that misses at most {recipe.window.max_missing:.0%}"
    if left > before:  # the cohort has people with a weight only
        step = "have no weight, but the recipe asks for none"
    return {"steps": [*cohort, {"step": step, "excluded": before - left, "left": left}], "people": people}


def places_of(series: Series, split: SplitManifest, places: WindowIndex, recipe: Recipe, name: str) -> WindowIndex:
    """The places of one split that are trained on, or scored."""
    training = name == "train"
    step_s = recipe.window.step_s if training else recipe.window.eval_step_s
    found = places.within(split, series, name).every(points_of(step_s, series.dt_s, "window.step_s"))
    if not len(found):
        raise ValueError(f"{name}: no window; raise its share of subjects or lower window.step_s")
    return found


def windows_of(series: Series, split: SplitManifest, places: WindowIndex, recipe: Recipe, name: str) -> LabelledWindows:
    weighted = getattr(recipe.task, "weighted_loss", False)
    found = cut_labelled(series, places_of(series, split, places, recipe, name), recipe.window, weighted)
    most = recipe.window.train_windows
    return found.sample(most, recipe.training.seed) if name == "train" and most else found


def spec_of(recipe: Recipe, dt_s: float) -> base.ModelSpec:
    task = recipe.task
    return base.ModelSpec(
        context=context_points(recipe.window, dt_s), horizon=0, dt_min=dt_s / 60, past=recipe.window.past, known=(),
        quantiles=(), task=task.kind, balanced=isinstance(task, Classification) and task.balance == "training",
        labels=1 if isinstance(task, Pretraining) else len(task.labels),
    )  # fmt: skip


def window_counts(
    series: Series, split: SplitManifest, places: WindowIndex, recipe: Recipe
) -> dict[str, dict[str, Any]]:
    """split -> windows, and the mean of their labels; of several the number known and the mean of each further one too."""
    found = {}
    for name in SPLITS:
        own = places_of(series, split, places, recipe, name)
        first, *others = own.label.reshape(len(own), -1).T
        found[name] = {"windows": len(own), "mean_label": float(np.nanmean(first))}
        for column, label in zip(getattr(recipe.task, "also", ()), others, strict=True):
            found[name] |= {
                column.name: {"known": int(np.isfinite(label).sum()), "mean_label": float(np.nanmean(label))}
            }
    return found


def weighing(series: Series, split: SplitManifest, places: WindowIndex, recipe: Recipe) -> dict[str, Any] | None:
    """Who weighs how much, for the record: the column, whether it weighs the loss too, and how many people of equal weight
    each split is worth (Kish's effective size)."""
    task = recipe.task
    if isinstance(task, Pretraining) or task.weight is None:
        return None
    worth = {}
    for name in SPLITS:
        own = places_of(series, split, places, recipe, name)
        weight = own.weight[np.unique(series.subject_of[own.recording], return_index=True)[1]]
        worth[name] = {"people": len(weight), "effective": round(float(weight.sum() ** 2 / (weight**2).sum()), 1)}
    return {"column": task.weight, "scores": True, "loss": task.weighted_loss, "people": worth}


# --- predictions -----------------------------------------------------------------------------------------------------


def predict_splits(
    series: Series, split: SplitManifest, places: WindowIndex, recipe: Recipe, model: base.Model
) -> dict[str, LabelPredictions]:
    """Of validation and test windows, by the names of `parts_of`; empty of a pretraining, which says nothing of a window."""
    if isinstance(recipe.task, Pretraining):
        return {}
    found = {}
    for name in SPLITS[1:]:
        told = _predict(series, places_of(series, split, places, recipe, name), recipe, model)
        found |= {part(name, label): own for label, own in zip(recipe.task.labels, told, strict=True)}
    return found


def part(split: str, label: str) -> str:
    """What the predictions and scores of a label in a split are named: test, and of a further label test_ssri."""
    return f"{split}_{label}" if label else split


def parts_of(recipe: Recipe) -> list[str]:
    if isinstance(recipe.task, Pretraining):
        return []
    return [part(split, label) for label in recipe.task.labels for split in SPLITS[1:]]


def _predict(series: Series, places: WindowIndex, recipe: Recipe, model: base.Model) -> Iterator[LabelPredictions]:
    """Of each label, at the windows of which it is known."""
    windows = cut_labelled(series, places, recipe.window)
    subject = np.array(series.subjects)[series.subject_of[places.recording]]
    end_s = series.start_s[places.recording] + (places.point + windows.context) * series.dt_s
    scores, labels = np.concatenate(list(_scores(model, windows))), places.label.astype(np.float64)
    for label, score in zip(labels.reshape(len(places), -1).T, scores.reshape(len(places), -1).T, strict=True):
        at = np.isfinite(label)
        yield LabelPredictions(
            subject=subject[at], case=np.array(places.cases)[places.recording[at]],
            time_utc=np.floor(end_s[at]).astype("datetime64[s]"), label=label[at], score=score[at], weight=places.weight[at],
            lead_s=places.lead_s[at], kind=recipe.task.kind, step_s=recipe.window.eval_step_s,
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
    """checkpoint/decision.json (of classify; one each further label), detailed_results.csv, metrics_summary.json."""
    task = recipe.task
    if isinstance(task, Pretraining):
        least = min(row["val/loss"] for row in history)
        write_json(folder / "metrics_summary.json", {s: {"loss": _alone(least)} for s in ("val",)})
        return
    tables = {}
    for label in task.labels:
        decision = fit_decision(task, predictions[part("val", label)]) if isinstance(task, Classification) else None
        if decision is not None:
            decision.write(folder / "checkpoint" / decision_file(label))
        for split in SPLITS[1:]:
            own = part(split, label)
            tables[own] = score_labels(predictions[own], decision, **_drawn(recipe))
    tests = [tables[part("test", label)].assign(**{"label": label} if label else {}) for label in task.labels]
    pd.concat(tests, ignore_index=True).to_csv(folder / "detailed_results.csv", index=False)
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


def decision_file(label: str) -> str:
    """In the checkpoint: what the endpoint makes of a label's log odds."""
    return f"decision_{label}.json" if label else "decision.json"


def said_by(folder: Path, recipe: Recipe, label: str = "") -> Decided:
    """What a run said of the test windows, and what it decided on validation windows; of a further label by its name."""
    known = isinstance(recipe.task, Classification)
    decision = Decision.read(folder / "checkpoint" / decision_file(label)) if known else None
    return Decided(read_predictions(folder, part("test", label)), decision)


def board_of(named: dict[str, Decided], recipe: Recipe) -> pd.DataFrame:
    return leaderboard(named, headline(recipe.task).name, **_drawn(recipe))


def differences_of(named: dict[str, Decided], recipe: Recipe) -> pd.DataFrame:
    return differences(named, headline(recipe.task).name, **_drawn(recipe))


def write_report(folder: Path, recipe: Recipe, metadata: dict[str, Any], against: Sequence[Run]) -> Path:
    """(Re)write report.html and leaderboard.csv of a run folder."""
    subtitle = f"{recipe.description or recipe.dataset}; {recipe.split.kind} split; {protocol_of(recipe)}"
    if isinstance(recipe.task, Pretraining):
        shown = label_report.pretraining_sections(metadata["training"]["history"])
        return write_page(folder, title=recipe.name, subtitle=subtitle, sections=shown, metadata=metadata)
    named, *further = (_beside(folder, recipe, against, label) for label in recipe.task.labels)
    board = board_of(named, recipe)
    board.to_csv(folder / "leaderboard.csv", index=False)
    others = {column.name: (o, board_of(o, recipe)) for column, o in zip(recipe.task.also, further, strict=True)}
    shown = label_report.sections(named, board, headline(recipe.task).unit, metadata.get("cohort"), others)
    return write_page(
        folder, title=recipe.name, subtitle=subtitle, sections=shown, metadata=metadata,
        definitions=classification.__doc__ or "",
    )  # fmt: skip


def _beside(folder: Path, recipe: Recipe, against: Sequence[Run], label: str) -> dict[str, Decided]:
    """What this run and the others said of a label, by model."""
    named = {model_name(recipe.model): said_by(folder, recipe, label)}
    for other in against:
        named.setdefault(model_name(other.recipe.model), said_by(other.path, recipe, label))
    return named


def preprocessing(card: AnyCard, snapshot_id: str, recipe: Recipe) -> dict[str, Any]:
    """What serving needs to cut the same windows: the card, the windows, the task."""
    return {
        "card": card.model_dump(mode="json"),
        "window": recipe.window.model_dump(mode="json"),
        "task": recipe.task.model_dump(mode="json"),
        "snapshot": snapshot_id,
    }
