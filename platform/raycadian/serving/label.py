"""From one person's samples to what is said of each window: a run's model behind the code that prepared its training
cases.

No Ray, no HTTP. W windows of a request.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import TypeAdapter
from torch import Tensor

from raycadian.config import LabelTask, LabelWindow, Task
from raycadian.data.label_windows import LabelledWindows
from raycadian.data.marks import Marks, context_points, good_starts, points_of
from raycadian.data.series import Recordings, Series, build_series
from raycadian.data.training_range import TrainingRange
from raycadian.errors import CheckpointError
from raycadian.evaluation.label.decision import Decision
from raycadian.files import read_json
from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.biosignals.card import BiosignalCard
from raycadian.modalities.cards import modality_of, parse_card
from raycadian.modalities.request import ESTIMATE_NOTE, LabelRequest, Stretch
from raycadian.models import checkpoint
from raycadian.models.base import Model, ModelSpec
from raycadian.personal.store import PersonRecord
from raycadian.physiology.waveforms.repair import Reason
from raycadian.runs import Run
from raycadian.serving.personal import DayPredictor
from raycadian.serving.predictor import NotServed, Predictor, each
from raycadian.serving.stream import SignalStream
from raycadian.tasks.label import decision_file
from raycadian.types import Issues

_UNLIKE_SHARE = 0.05
UNLIKE = "window of which more than 5% is beyond what the model was trained on"
_DECISIONS: dict[str, Callable[[Path], Decision | None]] = {"classify": Decision.read, "regress": lambda path: None}
"""Of each task that says something of a window: how its score becomes a probability, if it does."""


@dataclass(frozen=True)
class Estimate:
    """What is said of W windows.

    begin_s, end_s (W,) seconds after the first sample's clock · value (W,), of several labels (W, labels): probability
    (classify) or the label's unit (regress), NaN where the window was rejected · rejected (W,) channel -> reasons.
    """

    subject: str | None
    by: "LabelPredictor"
    begin_s: np.ndarray
    end_s: np.ndarray
    value: np.ndarray
    rejected: list[dict[str, list[str]]]
    warnings: dict[str, int]

    @property
    def title(self) -> str:
        return f"{self.subject or 'one person'} by {self.by.name}; seconds after the first sample. {ESTIMATE_NOTE}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as the endpoint answers."""
        values = [None if np.isnan(v).any() else v.tolist() for v in self.value]
        rows = zip(self.begin_s.tolist(), self.end_s.tolist(), values, self.rejected, strict=True)
        return {
            "subject": self.subject,
            **self.by.labels_dict(),
            "windows": [self.by.window_dict(*row) for row in rows],
            "warnings": self.warnings,
            "note": ESTIMATE_NOTE,
        }

    def as_frame(self) -> pd.DataFrame:
        """A row a window, a column a label."""
        columns = self.value.reshape(len(self.value), -1).T
        values = {name or "value": column for name, column in zip(self.by.task.labels, columns, strict=True)}
        return pd.DataFrame({"begin_s": self.begin_s, "end_s": self.end_s} | values)

    def of_day(self, day: str | None) -> "Estimate":
        """All of it; windows of samples are told apart by seconds. Raises ValueError for a day."""
        if day is not None:
            raise ValueError("estimates of windows have no days; leave out --day")
        return self


def _require_of_one_model(spec: ModelSpec, window: LabelWindow) -> None:
    """Raises ValueError where the windows are another model's: of days in place of seconds, say."""
    cut, fits = (context_points(window, spec.dt_min * 60), window.past), (spec.context, spec.past)
    if cut != fits:
        raise ValueError(f"windows of {cut} (points, channels), the model takes {fits}")


class LabelPredictor(Predictor):
    """A run's model of a label with the card and the windows it was trained on."""

    def __init__(
        self, name: str, model: Model, card: BiosignalCard | ActigraphyCard, window: LabelWindow, task: LabelTask,
        decision: Decision | None, cases: Path | str | None = None, also: Sequence[Decision | None] = (),
        seen: TrainingRange | None = None,
    ):  # fmt: skip
        """`name`: the run. `decision`: of classify, from validation windows; `also`: of each further label.
        `cases`: folder of what `Stored` names. `seen`: what the model was trained on."""
        self.name, self.model, self.path = name, model.eval(), modality_of(card).request().path
        self.card, self.window, self.task = card, window, task
        self.decision, self.also, self.cases = decision, tuple(also), cases
        self.seen = seen or TrainingRange()

    @staticmethod
    def load(run_path: Path | str, cases: Path | str | None = None) -> "LabelPredictor":
        """The predictor of a complete run; `cases`: the folder of files that requests may name. Raises ValueError for
        what is missing, damaged, or can't be served."""
        run = Run(Path(run_path))
        folder = run.path / "checkpoint"
        model, file = checkpoint.load(folder), folder / "preprocessing.json"
        try:
            raw = read_json(file)
            card, window = parse_card(raw["card"]), LabelWindow.model_validate(raw["window"])
            task = TypeAdapter(Task).validate_python(raw["task"])
            _require_of_one_model(model.spec, window)
            seen = TrainingRange.read(raw.get("training_range"))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{file}: damaged: {error}; copy the run again") from error
        if task.kind not in _DECISIONS:
            raise NotServed(f"{run.name}: a run of {task.kind} says nothing of a window; serve one that takes it up")
        decision, *also = (_DECISIONS[task.kind](folder / decision_file(name)) for name in task.labels)
        return LabelPredictor(run.name, model, card, window, task, decision, cases, also, seen)

    def personalised(self, person: PersonRecord, weights: Mapping[str, Tensor]) -> DayPredictor:
        return DayPredictor(self, person, weights)

    def read(self, path: Path, card: Path | None = None) -> LabelRequest:
        raise ValueError(f"{self.name} takes requests on {self.path}; a file is read for a person who calibrated it")

    def example_request(self) -> LabelRequest:
        schema = modality_of(self.card).request()
        return schema.model_validate_json(json.dumps(self.example())).data()

    def example(self) -> dict[str, Any]:
        return modality_of(self.card).request().example_of(self.window.past, self.window.length_s)

    def open_stream(self, channels: Mapping[str, tuple[float, str]]) -> SignalStream:
        return SignalStream(self, channels)

    def _answers(self, requests: Sequence[LabelRequest]) -> list[Estimate | ValueError]:
        return each(self._estimate, requests)

    def _estimate(self, request: LabelRequest) -> Estimate:
        """What the model says of every window of what was sent. Raises ValueError where there is none to cut, or it is
        of another channel, unit or rate than the model's."""
        issues = Issues()
        parts = [self._windows(one) for one in request.stretches(self.card, self.window.past, issues, self.cases)]
        if not sum(len(begin_s) for begin_s, *_ in parts):
            raise ValueError(f"nothing is as long as a window, which has {self.window.length_s:g} s; send more")
        begin_s, value = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        reasons = [reason for part in parts for reason in part[2]]
        issues.add(UNLIKE, n=sum(part[3] for part in parts))
        return Estimate(request.subject, self, begin_s, begin_s + self.window.length_s, value, reasons, issues.counts)

    def _windows(self, stretch: Stretch) -> tuple[np.ndarray, np.ndarray, list[dict[str, list[str]]], int]:
        """begin_s, value and reasons against each window of a recording; how many are unlike the training data."""
        recording, marks, after_s = stretch
        series = build_series(Recordings.of([recording]), self.window.past)
        context = context_points(self.window, series.dt_s)
        step = points_of(self.window.eval_step_s, series.dt_s, "window.eval_step_s")
        starts = np.arange(0, max(len(series) - context + 1, 0), step)
        good = np.isin(starts, good_starts(marks, series.observed, self.window, self.window.eval_step_s))
        value = np.full((len(starts), *self.model.spec.label_shape), np.nan)
        if good.any():
            windows = LabelledWindows(series, starts[good], np.zeros(good.sum(), np.float32), context)
            value[good] = self.decided(self.scores(windows))
        reasons = [{} if ok else self.reasons(marks, start) for ok, start in zip(good, starts, strict=True)]
        return after_s + starts * series.dt_s, value, reasons, self._n_unlike(series, starts[good], context)

    def _n_unlike(self, series: Series, starts: np.ndarray, context: int) -> int:
        """Of windows that begin at `starts`, those of which more is beyond the training data than may be by chance."""
        rows = series.table[-len(series.channels) :]
        outside = np.stack([self.seen.outside(name, row) for name, row in zip(series.channels, rows, strict=True)])
        before = np.concatenate([[0], np.cumsum(outside.any(axis=0))])
        return int((before[starts + context] - before[starts] > _UNLIKE_SHARE * context).sum())

    @torch.inference_mode()
    def scores(self, windows: LabelledWindows) -> np.ndarray:
        """(W,) or (W, labels), of good windows of one case, in order: log odds, or the label. Raises ValueError where
        not finite."""
        score = np.concatenate([self.model(batch).score.double().numpy() for batch in windows.batches(256)])
        if not np.isfinite(score).all():
            raise ValueError("the model gives no finite estimate for these samples; check them")
        return score

    def decided(self, score: np.ndarray) -> np.ndarray:
        """Scores of one case as probabilities, each with the votes of those before it; of a regression as they are,
        within what the label can be."""
        if self.decision is None:
            return self.seen.bounded(score)
        case, columns = np.zeros(len(score), np.int8), score.reshape(len(score), -1).T
        decisions = zip((self.decision, *self.also), columns, strict=True)
        probabilities = [decision.probability(column, case) for decision, column in decisions]
        return np.stack(probabilities, axis=1).reshape(score.shape)

    def labels_dict(self) -> dict[str, Any]:
        """Who answers, and what is estimated."""
        own, *also = (
            {"label": label.model_dump(mode="json"), "threshold": None if decision is None else decision.threshold}
            for label, decision in zip(self.task.labels.values(), (self.decision, *self.also), strict=True)
        )
        return {"model": self.name, "task": self.task.kind, **own, **self._further(also)}

    def window_dict(
        self, begin_s: float, end_s: float, value: float | list[float] | None, rejected: dict[str, list[str]]
    ) -> dict[str, Any]:
        """A window in plain values, as the endpoint answers."""
        window = {"begin_s": round(begin_s, 6), "end_s": round(end_s, 6), "rejected": rejected}
        values = value if isinstance(value, list) else [value] * (1 + len(self.also))
        own, *also = (_label_dict(v, d) for v, d in zip(values, (self.decision, *self.also), strict=True))
        return window | own | self._further(also)

    def _further(self, also: list[dict[str, Any]]) -> dict[str, Any]:
        """Of the labels beside the first, where there are any."""
        return {"also": dict(zip((c.name for c in self.task.also), also, strict=True))} if also else {}

    def reasons(self, marks: Marks, start: int) -> dict[str, list[str]]:
        """channel -> why the stretches of the window that begins at `start` are bad."""
        judged = marks.judged
        if judged is None:  # then what is missing is all that speaks against a window
            return {channel: [Reason.MISSING.label] for channel in self.window.past}
        rows = start // judged.hop + np.arange(self.window.windows) * (judged.length // judged.hop)
        named = {channel: _named(reasons[rows[rows < len(reasons)]]) for channel, reasons in judged.reasons.items()}
        return {channel: names for channel, names in named.items() if names}


def _named(reasons: np.ndarray) -> list[str]:
    """Of the bits of several stretches, the reasons that any of them has."""
    bits = int(np.bitwise_or.reduce(reasons)) if len(reasons) else 0
    return [reason.label for reason in Reason if bits & reason]


def _label_dict(value: float | None, decision: Decision | None) -> dict[str, Any]:
    if decision is None:
        return {"value": value}
    return {"probability": value, "alarm": None if value is None else value > decision.threshold}
