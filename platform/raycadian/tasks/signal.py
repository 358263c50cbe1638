"""What tasks without a horizon share: windows of a signal, a split by subject, who is in the cohort."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raycadian.config import Recipe
from raycadian.data.label_windows import LabelledWindows, WindowIndex, cut_labelled
from raycadian.data.marks import context_points, points_of
from raycadian.data.mechanism import Mechanism
from raycadian.data.reading import reading_of
from raycadian.data.series import Series
from raycadian.data.snapshot import Snapshot
from raycadian.data.split import SplitManifest, make_split
from raycadian.data.training_range import TrainingRange
from raycadian.modalities.cards import card_of
from raycadian.models.base import ModelSpec
from raycadian.runs import open_run
from raycadian.tasks.base import Cut, Data, Task
from raycadian.tasks.window_index import find_windows, strata
from raycadian.types import SPLITS


@dataclass(frozen=True, kw_only=True)
class SignalData(Data):
    """card: of the data set · index: every place where a window may begin · cohort: who was left out at each step."""

    card: Any
    index: WindowIndex
    cohort: tuple[dict[str, Any], ...] = ()


class SignalTask(Task[SignalData]):
    """Windows of a signal at many samples a second, or of activity by the minute."""

    stratified = True
    """Whether a split by subject draws along the label."""

    def load(self, recipe: Recipe, snapshot: Snapshot) -> SignalData:
        reading = reading_of(recipe.training, snapshot, recipe.window.past)
        series = reading.open(snapshot, recipe.window.past)
        index = find_windows(snapshot, series, recipe.window, recipe.task, recipe.split.seed)
        card = card_of(snapshot)
        return SignalData(
            snapshot_id=snapshot.id, series=series, split=self.split(recipe, snapshot.id, series, index),
            licence=card.license, citation=card.citation, cycles=_cycles_of(snapshot), card=card, index=index,
            cohort=_cohort_of(snapshot, recipe), reading=reading,
        )  # fmt: skip

    def split(self, recipe: Recipe, snapshot_id: str, series: Series, index: WindowIndex) -> SplitManifest:
        """By subject, along the label, of those who have a window."""
        along, lengths, run = strata(index, series), series.lengths, recipe.split.run
        known = {subject: lengths[subject] for subject in along}
        shared = None if run is None else SplitManifest.read(open_run(run).path / "split.json")
        return make_split(known, recipe.split, snapshot_id, series.dt_s, along if self.stratified else None, shared)

    def spec(self, recipe: Recipe, dt_s: float) -> ModelSpec:
        task = recipe.task
        return ModelSpec(
            context=context_points(recipe.window, dt_s), horizon=0, dt_min=dt_s / 60, past=recipe.window.past,
            known=(), quantiles=(), task=task.kind, balanced=getattr(task, "balance", "none") == "training",
            labels=len(getattr(task, "labels", ("",))),
        )  # fmt: skip

    def windows(
        self, data: SignalData, recipe: Recipe, split: str, mechanism: Mechanism | None = None
    ) -> LabelledWindows:
        weighted = getattr(recipe.task, "weighted_loss", False)
        windows = cut_labelled(data.series, places(data, recipe, split), recipe.window, weighted)
        most = recipe.window.train_windows if split == "train" else None
        return windows.sample(most, recipe.training.seed) if most else windows

    def cut(self, data: SignalData, recipe: Recipe, correction_mgdl: Any = None) -> Cut:
        return Cut(None, *(self.windows(data, recipe, split) for split in ("train", "val")))

    def preprocessing(self, data: SignalData, recipe: Recipe, mechanism: Mechanism | None) -> dict[str, Any]:
        """The card, the windows, the task, and where the training data lie."""
        seen = TrainingRange.of(data.series, data.split.of("train"), places(data, recipe, "train").label)
        return {
            "card": data.card.model_dump(mode="json"),
            "window": recipe.window.model_dump(mode="json"),
            "task": recipe.task.model_dump(mode="json"),
            "snapshot": data.snapshot_id,
            "training_range": seen.as_dict(),
        }

    def record(self, data: SignalData, recipe: Recipe) -> dict[str, Any]:
        return {
            "windows": window_counts(data, recipe),
            "weights": weighing(data, recipe),
            "cohort": _followed(data, recipe),
        }


def places(data: SignalData, recipe: Recipe, split: str) -> WindowIndex:
    """Where the windows of one part begin that are trained on, or scored. Raises ValueError where there is none."""
    index = on_grid(data.index.within(data.split, data.series, split), recipe, data.series, split)
    if not len(index):
        raise ValueError(f"{split}: no window; raise its share of subjects or lower {_step_key(split)}")
    return index


def on_grid(index: WindowIndex, recipe: Recipe, series: Series, split: str) -> WindowIndex:
    """Those that begin where windows of a part do."""
    step_s = recipe.window.step_s if split == "train" else recipe.window.eval_step_s
    return index.every(points_of(step_s, series.dt_s, _step_key(split)))


def _step_key(split: str) -> str:
    """What the recipe calls the step between windows of a part."""
    return "window.step_s" if split == "train" else "window.eval_step_s"


def window_counts(data: SignalData, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """split -> windows, and the mean of their labels; of several the number known and the mean of each further one."""
    counts: dict[str, dict[str, Any]] = {}
    for name in SPLITS:
        own = places(data, recipe, name)
        first, *others = own.label.reshape(len(own), -1).T
        counts[name] = {"windows": len(own), "mean_label": float(np.nanmean(first))}
        for column, label in zip(getattr(recipe.task, "also", ()), others, strict=True):
            known = int(np.isfinite(label).sum())
            counts[name][column.name] = {"known": known, "mean_label": float(np.nanmean(label))}
    return counts


def weighing(data: SignalData, recipe: Recipe) -> dict[str, Any] | None:
    """Who weighs how much, for the record: the column, whether it weighs the loss too, and how many people of equal
    weight each split is worth (Kish's effective size)."""
    column = getattr(recipe.task, "weight", None)
    if column is None:
        return None
    worth = {}
    for name in SPLITS:
        own = places(data, recipe, name)
        weight = own.weight[np.unique(data.series.subject_of[own.recording], return_index=True)[1]]
        effective = float(weight.sum() ** 2 / (weight**2).sum())
        worth[name] = {"people": len(weight), "effective": round(effective, 1)}
    return {"column": column, "scores": True, "loss": recipe.task.weighted_loss, "people": worth}


def _cycles_of(snapshot: Snapshot) -> frozenset[str]:
    """Letters of the NHANES cycles whose people have recordings; none of other data."""
    rows = [row for own in snapshot.attributes.values() for row in own]
    return frozenset(str(row["cycle"]) for row in rows if row.get("cycle") is not None)


def _cohort_of(snapshot: Snapshot, recipe: Recipe) -> tuple[dict[str, Any], ...]:
    """Who was left out at each step before there was a recording with the label; empty of data that don't count it."""
    label = getattr(recipe.task, "label", None)
    return tuple(snapshot.manifest.get("cohorts", {}).get(getattr(label, "name", None), ()))


def _followed(data: SignalData, recipe: Recipe) -> dict[str, Any] | None:
    """The cohort to its end: steps, and people of each split, who have a window with the (first) label."""
    if not data.cohort:
        return None
    people = {name: _people_with_label(data, places(data, recipe, name)) for name in SPLITS}
    before, left, window = data.cohort[-1]["left"], sum(people.values()), recipe.window
    step = f"no window of {window.length_s / 3600:g} h that misses at most {window.max_missing:.0%}"
    if left > before:  # the cohort has people with a weight only
        step = "have no weight, but the recipe asks for none"
    steps: Sequence[dict[str, Any]] = [*data.cohort, {"step": step, "excluded": before - left, "left": left}]
    return {"steps": steps, "people": people}


def _people_with_label(data: SignalData, index: WindowIndex) -> int:
    known = np.isfinite(index.label.reshape(len(index), -1)[:, 0])
    return len(np.unique(data.series.subject_of[index.recording[known]]))
