"""From samples of one person to calibrated probabilities: a run's model behind the code that prepared its training cases.

No Ray, no HTTP. W windows of a request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from raycadian.config import Classification, LabelTask, LabelWindow, Task, unit_of
from raycadian.data.label_windows import LabelledWindows
from raycadian.data.marks import Marks, context_points, good_starts, points_of
from raycadian.data.series import build_series
from raycadian.evaluation.label.decision import Decision
from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.actigraphy.formats.apple_health import STEPS
from raycadian.modalities.actigraphy.formats.devices import Epochs
from raycadian.modalities.actigraphy.prepare import whole_days
from raycadian.modalities.actigraphy.readers import to_recordings
from raycadian.modalities.biosignals.card import BiosignalCard
from raycadian.modalities.biosignals.prepare import clean
from raycadian.modalities.biosignals.readers import read_case
from raycadian.modalities.biosignals.tracks import in_unit
from raycadian.modalities.cards import parse_card
from raycadian.models import checkpoint
from raycadian.models.base import Model
from raycadian.physiology.waveforms.repair import Reason
from raycadian.training.labelling import decision_file
from raycadian.training.run import Run
from raycadian.types import Case, Issues, Recording, Track

MAX_STORED_BYTES = 500_000_000  # of a case on the server; a day of three waveforms has 150 MB
NOTE = "A statistical estimate for research: not a medical device, not a diagnosis, no basis for treatment."


@dataclass(frozen=True)
class Signals:
    """One person's samples: tracks by channel, of one clock."""

    subject: str | None
    tracks: Mapping[str, Track]


@dataclass(frozen=True)
class Activity:
    """One person's epochs in a row: start, the local clock of the first, datetime64[s] · values (N,), NaN missing · off (N,)
    bool where the device says that it was not worn, or None."""

    subject: str | None
    channel: str
    start: np.datetime64
    epoch_s: float
    values: np.ndarray
    off: np.ndarray | None = None


@dataclass(frozen=True)
class Stored:
    """A case that lies on the server: `name`, a path below the folder that the operator named."""

    subject: str | None
    name: str

    def file(self, folder: Path | str | None) -> Path:
        """The file that is meant. Raises ValueError where there is no such folder, for a path that leads out of it (also by
        links), for what is no file below it, and for one that is too large."""
        if folder is None:
            raise ValueError(
                "this server holds no cases: its operator named no folder (`raycadian serve --cases FOLDER`)"
            )
        root = Path(folder).resolve()
        path = (root / self.name).resolve()
        if not path.is_relative_to(root) or not path.is_file():  # the same words: nothing is said of what lies outside
            raise ValueError(f"case {self.name!r}: no such file below the server's folder of cases")
        if path.stat().st_size > MAX_STORED_BYTES:
            raise ValueError(f"case {self.name!r}: {path.stat().st_size:,} bytes, at most {MAX_STORED_BYTES:,}")
        return path


Sent = Signals | Activity | Stored


@dataclass(frozen=True)
class Estimate:
    """What is said of W windows, seconds after the first sample's clock: begin_s, end_s (W,) · value (W,), of several labels
    (W, labels): probability (classify) or the label's unit (regress), NaN where the window was rejected · rejected (W,) channel -> reasons."""

    subject: str | None
    by: "Classifier"
    begin_s: np.ndarray
    end_s: np.ndarray
    value: np.ndarray
    rejected: list[dict[str, list[str]]]
    warnings: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as the endpoint answers."""
        values = [None if np.isnan(v).any() else v.tolist() for v in self.value]
        rows = zip(self.begin_s.tolist(), self.end_s.tolist(), values, self.rejected, strict=True)
        return {
            "subject": self.subject,
            **self.by.describe(),
            "windows": [self.by.window_dict(*row) for row in rows],
            "warnings": self.warnings,
            "note": NOTE,
        }


class Classifier:
    """A run's model of a label with the card and the windows it was trained on."""

    def __init__(
        self, name: str, model: Model, card: BiosignalCard | ActigraphyCard, window: LabelWindow, task: LabelTask,
        decision: Decision | None, cases: Path | str | None = None, also: Sequence[Decision | None] = (),
    ):  # fmt: skip
        """`name`: the run. `decision`: of classify, from validation windows; `also`: of each further label.
        `cases`: folder of what `Stored` names."""
        self.cases, self.also = cases, tuple(also)
        self.name, self.model, self.window, self.task, self.decision = name, model.eval(), window, task, decision
        if isinstance(card, BiosignalCard):  # channels that the model doesn't read needn't be sent
            card = card.model_copy(update={"waveforms": {c: card.waveforms[c] for c in window.past}})
        self.card = card

    @staticmethod
    def load(run_path: Path | str, cases: Path | str | None = None) -> "Classifier":
        """The classifier of a complete run; `cases`: the folder of files that requests may name. Raises ValueError for what
        is missing, damaged, or can't be served."""
        run = Run(Path(run_path))
        folder = run.path / "checkpoint"
        model, file = checkpoint.load(folder), folder / "preprocessing.json"
        try:
            raw = json.loads(file.read_text(encoding="utf-8"))
            card, window = parse_card(raw["card"]), LabelWindow.model_validate(raw["window"])
            task = TypeAdapter(Task).validate_python(raw["task"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: damaged: {error}; copy the run again") from error
        if not hasattr(task, "label"):
            raise ValueError(f"{run.name}: a run of {task.kind} says nothing of a window; serve one that takes it up")
        known = isinstance(task, Classification)
        decision, *also = (Decision.read(folder / decision_file(n)) if known else None for n in task.labels)
        return Classifier(run.name, model, card, window, task, decision, cases, also)

    def estimate(self, sent: Sent) -> Estimate:
        """What the model says of every window of what was sent. Raises ValueError where there is none to cut, or it is of
        another modality, channel, unit or rate than the model's."""
        issues = Issues()
        parts = [self._windows(*one) for one in self._recordings(sent, issues)]
        if not sum(len(begin_s) for begin_s, *_ in parts):
            raise ValueError(f"nothing is as long as a window, which has {self.window.length_s:g} s; send more")
        begin_s, value = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        reasons = [reason for part in parts for reason in part[2]]
        return Estimate(sent.subject, self, begin_s, begin_s + self.window.length_s, value, reasons, issues.counts)

    def _recordings(self, sent: Sent, issues: Issues) -> list[tuple[Recording, Marks, float]]:
        """As in a snapshot, with the seconds from the first sample to each one's start."""
        match self.card, sent:
            case BiosignalCard() as card, Signals():
                found = clean(self._case(sent), card, issues=issues)
                return [(found.recording, found.marks, 0.0)]
            case BiosignalCard() as card, Stored():
                found = clean(self._stored(sent, issues), card, issues=issues)
                return [(found.recording, found.marks, 0.0)]
            case ActigraphyCard() as card, Activity():
                if (sent.channel,) != self.window.past:
                    raise ValueError(
                        f"the model reads {', '.join(self.window.past)}, found {sent.channel}; send that unit"
                    )
                return self.days_of(sent, card, issues)
        path = "biosignal" if isinstance(self.card, BiosignalCard) else "actigraphy"
        raise ValueError(f"{self.name} answers on /v1/{path}; serve another run for this path")

    def days_of(self, sent: Activity, card: ActigraphyCard, issues: Issues) -> list[tuple[Recording, Marks, float]]:
        """Whole local days, with the seconds from the first epoch to each recording's start. Raises ValueError."""
        if sent.channel == STEPS and sent.off is None:  # an export tells wear from all of its records, not from steps
            raise ValueError("steps don't say when nothing was worn: expected `worn` beside them, found none; send it")
        clock = sent.start + (sent.epoch_s * np.arange(len(sent.values))).astype("timedelta64[s]")
        epochs = Epochs("request", clock, sent.values, sent.epoch_s, sent.channel, sent.off)
        zone = card.model_copy(update={"timezone": None})  # the clock that was sent is the local one
        found = whole_days(to_recordings(epochs, zone, issues), issues)
        after = [float((r.start_utc - sent.start) / np.timedelta64(1, "s")) for r in found]
        return [(r, Marks("request", r.index, len(r), r.dt_s), s) for r, s in zip(found, after, strict=True)]

    def _windows(
        self, recording: Recording, marks: Marks, after_s: float
    ) -> tuple[np.ndarray, np.ndarray, list[dict[str, list[str]]]]:
        """begin_s, value and reasons against each window of a recording that begins `after_s`."""
        series = build_series(One(recording), self.window.past)
        context = context_points(self.window, series.dt_s)
        step = points_of(self.window.eval_step_s, series.dt_s, "window.eval_step_s")
        starts = np.arange(0, max(len(series) - context + 1, 0), step)
        good = np.isin(starts, good_starts(marks, series.observed, self.window, self.window.eval_step_s))
        value = np.full((len(starts), *self.model.spec.label_shape), np.nan)
        if good.any():
            value[good] = self.values(LabelledWindows(series, starts[good], np.zeros(good.sum(), np.float32), context))
        reasons = [{} if ok else self.reasons(marks, start) for ok, start in zip(good, starts, strict=True)]
        return after_s + starts * series.dt_s, value, reasons

    def describe(self) -> dict[str, Any]:
        """Who answers, and what is estimated."""
        own, *also = (
            {"label": label.model_dump(mode="json"), "threshold": None if how is None else how.threshold}
            for label, how in zip(self.task.labels.values(), (self.decision, *self.also), strict=True)
        )
        several = {"also": dict(zip((c.name for c in self.task.also), also, strict=True))} if also else {}
        return {"model": self.name, "task": self.task.kind, **own, **several}

    def values(self, windows: LabelledWindows) -> np.ndarray:
        """(W,), or (W, labels), of good windows of one case, in order: probabilities, or the label. Raises ValueError where not
        finite."""
        return self.decided(self.scores(windows))

    @torch.inference_mode()
    def scores(self, windows: LabelledWindows) -> np.ndarray:
        """(W,) or (W, labels): log odds, or the label. Raises ValueError where not finite."""
        score = np.concatenate([self.model(batch).score.double().numpy() for batch in windows.batches(256)])
        if not np.isfinite(score).all():
            raise ValueError("the model gives no finite estimate for these samples; check them")
        return score

    def decided(self, score: np.ndarray) -> np.ndarray:
        """Scores of one case as probabilities, each with the votes of those before it; of a regression as they are."""
        if self.decision is None:
            return score
        case, columns = np.zeros(len(score), np.int8), score.reshape(len(score), -1).T
        said = [how.probability(s, case) for how, s in zip((self.decision, *self.also), columns, strict=True)]
        return np.stack(said, axis=1).reshape(score.shape)

    def window_dict(
        self, begin_s: float, end_s: float, value: float | list[float] | None, rejected: dict[str, list[str]]
    ) -> dict[str, Any]:
        """A window in plain values, as the endpoint answers."""
        found: dict[str, Any] = {"begin_s": round(begin_s, 6), "end_s": round(end_s, 6), "rejected": rejected}
        several = value if isinstance(value, list) else [value] * (1 + len(self.also))
        own, *also = (_said(v, how) for v, how in zip(several, (self.decision, *self.also), strict=True))
        return found | own | ({"also": dict(zip((c.name for c in self.task.also), also, strict=True))} if also else {})

    def _case(self, signals: Signals) -> Case:
        if lacking := [c for c in self.window.past if c not in signals.tracks]:
            raise ValueError(f"the model reads {', '.join(self.window.past)}; {', '.join(lacking)} is not sent")
        if odd := sorted(set(signals.tracks) - set(self.window.past)):
            raise ValueError(f"the model reads {', '.join(self.window.past)}, not {', '.join(odd)}; leave it out")
        tracks = {c: as_channel(track, c) for c, track in signals.tracks.items()}
        return Case("request", signals.subject or "", tracks)

    def _stored(self, sent: Stored, issues: Issues) -> Case:
        """A case on the server, its tracks found by the names of the card. Raises ValueError, without the server's paths."""
        path = sent.file(self.cases)
        units = {c: unit for c in self.card.waveforms if (unit := unit_of(c))}
        try:
            return read_case(path, tracks=self.card.waveforms, units=units, subject=sent.subject or "", issues=issues)
        except ValueError as error:
            raise ValueError(str(error).replace(f"{path.parent}/", "")) from None

    def reasons(self, marks: Marks, start: int) -> dict[str, list[str]]:
        """channel -> why the stretches of the window that begins at `start` are bad."""
        judged = marks.judged
        if judged is None:  # then what is missing is all that speaks against a window
            return {channel: [Reason.MISSING.label] for channel in self.window.past}
        first = start // judged.hop
        at = first + np.arange(self.window.windows) * (judged.length // judged.hop)
        found = {}
        for channel, reasons in judged.reasons.items():
            bits = int(np.bitwise_or.reduce(reasons[at[at < len(reasons)]])) if (at < len(reasons)).any() else 0
            if bits:
                found[channel] = [reason.label for reason in Reason if bits & reason]
        return found


def _said(value: float | None, decision: Decision | None) -> dict[str, Any]:
    if decision is None:
        return {"value": value}
    return {"probability": value, "alarm": None if value is None else value > decision.threshold}


def as_channel(track: Track, channel: str) -> Track:
    """In the unit that the channel's name says. Raises ValueError for another quantity's."""
    unit = unit_of(channel)
    return in_unit(track, unit, channel) if unit else track


@dataclass(frozen=True)
class One:
    """One recording as a source of a series."""

    recording: Recording
    id: str = "request"

    @property
    def subjects(self) -> list[str]:
        return [self.recording.subject]

    def recordings(self, subject: str) -> list[Recording]:
        return [self.recording]
