"""Labels of windows: whether, as a calibrated probability (classify), or how much (regress)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from raycadian import manifest
from raycadian.config import Evaluation, Recipe, model_name
from raycadian.data.label_windows import WindowIndex, cut_labelled
from raycadian.data.marks import context_points
from raycadian.data.mechanism import Mechanism
from raycadian.data.series import Series, build_series
from raycadian.data.snapshot import Snapshot
from raycadian.evaluation.bootstrap import SubjectBootstrap
from raycadian.evaluation.forecast.predictions import write_table
from raycadian.evaluation.label import classification, compare, report
from raycadian.evaluation.label.decision import Decided, Decision, fit_decision, joined
from raycadian.evaluation.label.predictions import LabelPredictions
from raycadian.evaluation.label.report import longest_case, scatter
from raycadian.evaluation.report import write_report
from raycadian.files import write_json
from raycadian.models import checkpoint
from raycadian.models.base import Model
from raycadian.runs import Run, predictions_file
from raycadian.tasks.canary import Canary, rows_of, spread
from raycadian.tasks.forecast import subtitle_of
from raycadian.tasks.over import over
from raycadian.tasks.signal import SignalData, SignalTask, on_grid, places
from raycadian.tasks.window_index import NoGoodWindow, find_windows
from raycadian.types import SPLITS, Batch


@dataclass(frozen=True)
class CohortTable:
    """What is said of the windows of a cohort, a row each: subject, case, time_utc of the last point, then by label."""

    frame: pd.DataFrame

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def subject(self) -> np.ndarray:
        return self.frame["subject"].to_numpy()

    def write_parquet(self, path: Path) -> None:
        """Whole or not at all."""
        write_table(path, pa.Table.from_pandas(self.frame, preserve_index=False), {})


_BATCH_VALUES = 4_000_000  # of inputs predicted at once


class LabelTask(SignalTask):
    """What classify and regress share; further labels (`also`) are calibrated, scored and kept each on its own."""

    tolerance = (1e-3, 1e-3)  # float32, in batches of another size

    def parts(self, recipe: Recipe) -> list[str]:
        return [part_of(split, label) for label in recipe.task.labels for split in SPLITS[1:]]

    def predict(
        self, data: SignalData, recipe: Recipe, model: Model, mechanism: Mechanism | None
    ) -> dict[str, LabelPredictions]:
        predictions = {}
        for split in SPLITS[1:]:
            own = _predict(data, recipe, split, model)
            predictions |= {part_of(split, label): p for label, p in zip(recipe.task.labels, own, strict=True)}
        return predictions

    def canary(self, data: SignalData, recipe: Recipe, mechanism: Mechanism | None) -> Canary:
        windows = self.windows(data, recipe, "test")
        chosen = spread(len(windows))
        known = np.isfinite(windows.label.reshape(len(windows), -1))
        rows = np.where(known, known.cumsum(0) - 1, -1)  # of each label's table, which holds where it is known
        return Canary(windows.batch(torch.from_numpy(chosen)), rows[chosen])

    def scored(self, run: Run, canary: Canary) -> np.ndarray:
        names = [part_of("test", label) for label in run.recipe.task.labels]
        tables = zip((self.read(run.path, name).score for name in names), canary.rows.T, strict=True)
        return np.stack([rows_of(score, rows) for score, rows in tables], axis=1)

    @torch.inference_mode()
    def predicted(self, model: Model, canary: Canary) -> np.ndarray:
        return model.eval()(canary.batch).score.double().numpy().reshape(len(canary.rows), -1)

    def read(self, folder: Path, part: str = "test") -> LabelPredictions:
        manifest.require_intact(folder, predictions_file(part))
        return LabelPredictions.read_parquet(folder / predictions_file(part))

    def frame(self, folder: Path, recipe: Recipe, part: str = "test") -> pd.DataFrame:
        return self.read(folder, part).as_frame()

    def results(self, folder: Path, recipe: Recipe, label: str = "") -> Decided:
        return Decided(self.read(folder, part_of("test", label)), self.decision(folder, label))

    def join(self, results: Sequence[Decided]) -> Decided:
        return joined(list(results))

    def require_same_windows(self, one: Decided, other: Decided, name: str) -> None:
        compare.require_same_labels(one[0], other[0], name)

    def test_on(self, run: Run, recipe: Recipe, data: SignalData) -> Decided:
        raise ValueError(f"{run.name}: a model of a label is tested on the data set of its recipe; train one there")

    def everybody(self, run: Run, snapshot: Snapshot, *, last: bool) -> tuple["CohortTable | None", dict[str, str]]:
        """Of every good window on the grid of test windows, whether or not its label is known."""
        recipe, series = run.recipe, build_series(snapshot, run.recipe.window.past)
        model = checkpoint.load(run.path / "checkpoint")
        if (spec := self.spec(recipe, series.dt_s)) != model.spec:
            raise ValueError(f"{run.name} reads {model.spec}, of {snapshot.id} it would read {spec}")
        why = f"no window of {recipe.window.length_s:g} s is good in {', '.join(recipe.window.past)}"
        try:
            index = on_grid(find_windows(snapshot, series, recipe.window, None), recipe, series, "test")
        except NoGoodWindow:
            return None, dict.fromkeys(series.subjects, why)
        table = self._table(run, series, index, _scored(model, series, index, recipe))
        if last:
            table = table[~table.duplicated("subject", keep="last")]
        without = sorted(set(series.subjects) - set(table["subject"]))
        return CohortTable(table.reset_index(drop=True)), dict.fromkeys(without, why)

    def _table(self, run: Run, series: Series, index: WindowIndex, score: np.ndarray) -> pd.DataFrame:
        """A row a window: of classify a probability and an alarm by label, of regress its estimate."""
        subject, case, time_utc = _whose(series, index, context_points(run.recipe.window, series.dt_s))
        table = pd.DataFrame({"subject": subject, "case": case, "time_utc": time_utc})
        for label, own in zip(run.recipe.task.labels, score.reshape(len(index), -1).T, strict=True):
            decision = self.decision(run.path, label)
            if decision is None:
                table[part_of("estimate", label)] = own
                continue
            table[part_of("probability", label)] = probability = decision.probability(own, case)
            table[part_of("alarm", label)] = probability > decision.threshold
        return table

    def fit_decision(self, recipe: Recipe, predictions: LabelPredictions) -> Decision | None:
        """What validation windows decide: how log odds become a probability and an alarm."""
        return None

    def decision(self, folder: Path, label: str = "") -> Decision | None:
        """What `fit_decision` gave, from a run's folder."""
        return None

    def score(
        self, folder: Path, recipe: Recipe, predictions: Mapping[str, LabelPredictions],
        history: list[dict[str, float]],
    ) -> None:  # fmt: skip
        """checkpoint/decision.json (of classify; one a further label), detailed_results.csv, metrics_summary.json."""
        tables = {}
        for label in recipe.task.labels:
            decision = self.fit_decision(recipe, predictions[part_of("val", label)])
            if decision is not None:
                decision.write(folder / "checkpoint" / decision_file(label))
            for part in (part_of(split, label) for split in SPLITS[1:]):
                tables[part] = classification.score_labels(predictions[part], decision, recipe.evaluation)
        named = {label: tables[part_of("test", label)] for label in recipe.task.labels}
        tests = [table.assign(**{"label": label} if label else {}) for label, table in named.items()]
        pd.concat(tests, ignore_index=True).to_csv(folder / "detailed_results.csv", index=False)
        write_json(folder / "metrics_summary.json", {part: _summary(table) for part, table in tables.items()})

    def validation_score(self, run: Run) -> float:
        predictions, decision = self.read(run.path, "val"), self.decision(run.path)
        people = SubjectBootstrap(predictions.subject, Evaluation(bootstrap=1))
        return classification.metric_draws(predictions, decision, run.recipe.task.headline.name, people)[0]

    def leaderboard(self, named: Mapping[str, Decided], recipe: Recipe) -> pd.DataFrame:
        return compare.leaderboard(dict(named), recipe.task.headline.name, recipe.evaluation)

    def differences(self, named: Mapping[str, Decided], recipe: Recipe) -> pd.DataFrame:
        return compare.differences(dict(named), recipe.task.headline.name, recipe.evaluation)

    def report(self, folder: Path, recipe: Recipe, metadata: dict[str, Any], against: Sequence[Run]) -> Path:
        named, *further = (self._beside(folder, recipe, against, label) for label in recipe.task.labels)
        board = self.leaderboard(named, recipe)
        board.to_csv(folder / "leaderboard.csv", index=False)
        pairs = zip(recipe.task.also, further, strict=True)
        others = {column.name: (other, self.leaderboard(other, recipe)) for column, other in pairs}
        sections = report.sections(named, board, recipe.task.headline.unit, metadata.get("cohort"), others)
        return write_report(
            folder, title=recipe.name, subtitle=subtitle_of(recipe), sections=sections, metadata=metadata,
            definitions=classification.__doc__ or "",
        )  # fmt: skip

    def _beside(self, folder: Path, recipe: Recipe, against: Sequence[Run], label: str) -> dict[str, Decided]:
        """What this run and the others say of a label, by model."""
        named = {model_name(recipe.model): self.results(folder, recipe, label)}
        for other in against:
            named.setdefault(model_name(other.recipe.model), self.results(other.path, recipe, label))
        return named


class ClassifyTask(LabelTask):
    """Whether: log odds become a calibrated probability and an alarm by what validation windows decide."""

    def fit_decision(self, recipe: Recipe, predictions: LabelPredictions) -> Decision:
        return fit_decision(recipe.task, predictions)

    def decision(self, folder: Path, label: str = "") -> Decision:
        return Decision.read(folder / "checkpoint" / decision_file(label))

    def frame(self, folder: Path, recipe: Recipe, part: str = "test") -> pd.DataFrame:
        """With the calibrated probability of each window, and whether it is an alarm."""
        decision, table = self.decision(folder, part.partition("_")[2]), super().frame(folder, recipe, part)
        probability = decision.probability(table["score"].to_numpy(), table["case"].to_numpy())
        return table.assign(probability=probability, alarm=probability > decision.threshold)

    def figure(self, folder: Path, recipe: Recipe) -> Any:
        return longest_case(self.read(folder), self.decision(folder))[0]


class RegressTask(LabelTask):
    """How much: nothing is decided after training."""

    def figure(self, folder: Path, recipe: Recipe) -> Any:
        return scatter(self.read(folder), recipe.task.headline.unit)[0]


def part_of(split: str, label: str) -> str:
    """What the predictions and scores of a label in a split are named: test, and of a further label test_ssri."""
    return f"{split}_{label}" if label else split


def decision_file(label: str) -> str:
    """In the checkpoint: what the endpoint makes of a label's log odds."""
    return f"decision_{label}.json" if label else "decision.json"


def _predict(data: SignalData, recipe: Recipe, split: str, model: Model) -> Iterator[LabelPredictions]:
    """Of each label, at the windows of which it is known."""
    series, index = data.series, places(data, recipe, split)
    subject, case, time_utc = _whose(series, index, context_points(recipe.window, series.dt_s))
    scores, labels = _scored(model, series, index, recipe), index.label.astype(np.float64)
    for label, score in zip(labels.reshape(len(index), -1).T, scores.reshape(len(index), -1).T, strict=True):
        at = np.isfinite(label)
        yield LabelPredictions(
            subject=subject[at], case=case[at], time_utc=time_utc[at], label=label[at], score=score[at],
            weight=index.weight[at], lead_s=index.lead_s[at], kind=recipe.task.kind, step_s=recipe.window.eval_step_s,
        )  # fmt: skip


def _whose(series: Series, index: WindowIndex, context: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """subject, case, and time of the last point of each window."""
    end_s = series.start_s[index.recording] + (index.point + context) * series.dt_s
    subject = np.array(series.subjects)[series.subject_of[index.recording]]
    return subject, np.array(index.cases)[index.recording], np.floor(end_s).astype("datetime64[s]")


def _scored(model: Model, series: Series, index: WindowIndex, recipe: Recipe) -> np.ndarray:
    """Log odds or the label's unit of each window, (W,), of several labels (W, labels)."""
    windows = cut_labelled(series, index, recipe.window)
    size = max(1, _BATCH_VALUES // (windows.context * len(series.channels)))
    return over(windows, partial(_score, model.eval()), size)["score"]


@torch.inference_mode()
def _score(model: Model, batch: Batch) -> dict[str, np.ndarray]:
    return {"score": model(batch).score.double().numpy()}


def _summary(table: pd.DataFrame) -> dict[str, Any]:
    return {row.metric: {"value": row.value, "low": row.low, "high": row.high} for row in table.itertuples()}
