"""A classifier of days of activity as one person's: they label days beside the recording."""

from typing import Any

import numpy as np
import torch

from raycadian.config import LabelWindow, Training
from raycadian.data.label_windows import LabelledWindows
from raycadian.evaluation.label.decision import Decision
from raycadian.modalities.cards import parse_card
from raycadian.models.base import Model
from raycadian.models.scaling import Scaling
from raycadian.personal.days import (
    LabelledDays,
    Labels,
    activity_days,
    activity_of,
    labelled_days,
    read_labels,
    read_recording,
    series_of,
)  # fmt: skip
from raycadian.personal.store import PersonRecord
from raycadian.personal.task import (
    COMMON,
    HELD_OUT_SHARE,
    LEAST_DAYS,
    BaselineRule,
    CalibrationInputs,
    Parts,
    PersonalTask,
    PersonDays,
)  # fmt: skip
from raycadian.personal.verdict import PersonalDecision, Verdict, fit_personal, judge_probabilities
from raycadian.physiology.rhythms.daily import ACTIVITY, of_activity
from raycadian.runs import Run
from raycadian.tasks.label import decision_file
from raycadian.types import Issues, Recording

LEAST_LABELLED_DAYS = 14


class DayLabels(PersonalTask):
    """Days of activity, some of which the person labelled."""

    settings = Training(**COMMON, epochs=30, batch_size=8, lr=5e-3, weight_decay=0.01, early_stopping={"patience": 6})
    rule = BaselineRule(ACTIVITY, of_activity, 28, "worn long enough")

    def __init__(self, run: Run):
        super().__init__(run)
        recipe, self.card = run.recipe, parse_card(self.preprocessing["card"])
        if self.card.modality != "actigraphy" or recipe.task.also:
            raise ValueError(
                f"{run.name}: only a classifier of one label of activity can be calibrated to a person's days"
            )
        self.window: LabelWindow = recipe.window
        self.decision = Decision.read(run.path / "checkpoint" / decision_file(""))

    def labels(self, inputs: CalibrationInputs, before: PersonRecord | None) -> Labels:
        """Those kept and the new ones, which take the place of a kept one of the same day. Raises ValueError."""
        if inputs.episodes is None and before is None:
            raise ValueError(
                f"{self.run.name} estimates a label of days, and the recording has none: name a CSV with the columns "
                "start, end, label by --episodes"
            )
        kept = before.labels if before else {}
        return kept | (read_labels(inputs.episodes) if inputs.episodes else {})

    def days(
        self, inputs: CalibrationInputs, before: PersonRecord | None, population: Model, issues: Issues
    ) -> PersonDays:
        recordings = read_recording(inputs.recording, inputs.subject, self.card, inputs.card, self.run.name, issues)
        channel, factor = self._channel(inputs, before, recordings, population)
        series, days = activity_of(recordings, self.window, channel, factor, self.card.min_valid_hours)
        return PersonDays(series, days, {"channel": channel, "factor": factor})

    def _channel(
        self, inputs: CalibrationInputs, before: PersonRecord | None, recordings: list[Recording], population: Model
    ) -> tuple[str, float]:
        """The recording's channel that is read, and what it is multiplied by. An update keeps what was."""
        if len(self.window.past) != 1:
            raise ValueError(
                f"the model reads {', '.join(self.window.past)}; one channel of activity can be calibrated"
            )
        (wanted,) = self.window.past
        if before is not None:
            kept = before.metadata["channel"]
            if inputs.channel not in (None, kept):
                raise ValueError(f"{inputs.subject} calibrated by {kept}; leave out --channel, or forget first")
            return kept, before.metadata["factor"]
        if inputs.channel in (None, wanted):
            return wanted, 1.0
        return inputs.channel, self._factor(inputs, recordings, population)

    def _factor(self, inputs: CalibrationInputs, recordings: list[Recording], population: Model) -> float:
        """What brings another channel than the model's, over the days of the baseline, to the mean of the population's
        own."""
        scale = next((m for m in population.modules() if isinstance(m, Scaling)), None)
        if scale is None:
            raise ValueError(
                f"{self.run.name}: its model knows no level of {self.window.past[0]} that {inputs.channel} could be "
                "brought to; leave out --channel"
            )
        series = series_of(recordings, (inputs.channel,))
        level = float(np.nanmean(self.rule.first(activity_days(series, self.card.min_valid_hours))[1]))
        if not level > 0:
            raise ValueError(
                f"{inputs.recording}: {inputs.channel} never moves over the baseline; take another channel"
            )
        return float(scale.mean.mean()) / level

    def parts(self, person: PersonDays, labels: Labels, issues: Issues) -> Parts:
        """Raises ValueError also where the days that train all have one label."""
        days = labelled_days(person.series, person.days, labels, self.window, LEAST_LABELLED_DAYS, issues)
        train, val, held_out = in_time(days)
        if len(np.unique(train.windows.label)) < 2:
            raise ValueError(
                f"the {len(train)} labelled days that train ({train.date[0]} to {train.date[-1]}) all have the label "
                f"{train.windows.label[0]:g}; an adapter learns from days of both kinds: label earlier days too, in an "
                "episode and outside"
            )
        described = {name: _described(part) for name, part in (("train", train), ("val", val), ("held_out", held_out))}
        return Parts(train.windows, val.windows, held_out.windows, described, f"{len(days)} labelled days")

    def judge(self, model: Model, population: Model, parts: Parts) -> tuple[PersonalDecision, Verdict]:
        own = fit_personal(self.decision, _log_odds(model, parts.val), parts.val.label.astype(np.float64))
        share = (parts.train.label.sum() + 1) / (len(parts.train.label) + 2)  # Laplace's rule: never certain
        alone = np.zeros(len(parts.held_out.label), np.int8)
        probabilities = {
            "adapter": own.probability(_log_odds(model, parts.held_out), alone),
            "population": self.decision.probability(_log_odds(population, parts.held_out), alone),
            "base_rate": np.full(len(alone), share),
        }
        return own, judge_probabilities(probabilities, parts.held_out.label.astype(np.float64))


def in_time(days: LabelledDays) -> tuple[LabelledDays, LabelledDays, LabelledDays]:
    """To train on, to choose by, held out: one after the other."""
    n = len(days)
    last = max(LEAST_DAYS, round(HELD_OUT_SHARE * n))
    return days.take(slice(0, n - 2 * last)), days.take(slice(n - 2 * last, n - last)), days.take(slice(n - last, n))


@torch.inference_mode()
def _log_odds(model: Model, windows: LabelledWindows) -> np.ndarray:
    return np.concatenate([model.eval()(batch).score.double().numpy() for batch in windows.batches(16)])


def _described(days: LabelledDays) -> dict[str, Any]:
    first, last = str(days.date[0]), str(days.date[-1])
    return {"days": len(days), "with_label": int(days.windows.label.sum()), "first": first, "last": last}
