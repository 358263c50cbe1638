"""From one person's export to what the store keeps of them: which days count, what is usual, an adapter, a verdict.

The run's task decides: a classifier of days takes labels beside the recording, a forecaster learns from the readings alone.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from raycadian.config import Classification, Forecasting, Grid, LabelWindow
from raycadian.data.series import Series
from raycadian.evaluation.label.decision import Decision
from raycadian.modalities.actigraphy.card import ActigraphyCard
from raycadian.modalities.cards import load_card, modality_of, parse_card
from raycadian.modalities.cgm.card import CGMCard
from raycadian.models import checkpoint
from raycadian.models.base import Model
from raycadian.models.scaling import Scaling
from raycadian.personal.days import (
    VALID_SHARE,
    Days,
    Labels,
    activity_days,
    glucose_days,
    in_place_of,
    labelled_days,
    read_labels,
    series_of,
)  # fmt: skip
from raycadian.personal.store import Person, Store, digest, new_key
from raycadian.personal.training import Adapted, adapt_forecast, adapt_label
from raycadian.physiology.rhythms.daily import ACTIVITY, GLUCOSE, Baseline, of_activity, of_glucose
from raycadian.training.labelling import decision_file
from raycadian.training.loop import OnEpoch
from raycadian.training.run import Run, source_hash
from raycadian.types import Issues, Recording

BASELINE_DAYS = 28
GLUCOSE_BASELINE_DAYS = 14  # of sensor readings, what reports ask for (Battelino et al., Diabetes Care 42:1593, 2019)
LABELLED_DAYS = 14


@dataclass(frozen=True)
class Asked:
    """What one calibration is made from. `channel`: of the recording, in place of the one the model reads."""

    run: Run
    subject: str
    recording: Path
    episodes: Path | None = None
    card: Path | None = None
    channel: str | None = None


@dataclass(frozen=True)
class Calibrated:
    """`key`: the person's, to be shown once; None where they had one already."""

    person: Person
    key: str | None
    issues: Issues


def calibrate(
    asked: Asked, store: Store, *, update: bool = False, tell: Callable[[str], None] = lambda text: None,
    on_epoch: OnEpoch = lambda metrics: None,
) -> Calibrated:  # fmt: skip
    """Calibrate the run's model to one person and keep the result; `update`: with the labels that are kept already, the new
    ones first. Whatever fails leaves the store as it was. Raises ValueError."""
    began = time.perf_counter()
    before = _before(asked, store, update)
    issues = Issues()
    tell("reading the recording")
    match asked.run.recipe.task:
        case Classification():
            made = _label(asked, before, issues, tell, on_epoch)
        case Forecasting():
            made = _forecast(asked, before, issues, tell, on_epoch)
        case task:
            raise ValueError(
                f"{asked.run.name}: task {task.kind}; a run of classify or of forecast can be calibrated to a person"
            )
    key = None if before else new_key()
    known = {
        "seconds": round(time.perf_counter() - began, 1),
        "issues": issues.counts,
        "updates": 0 if before is None else before.metadata["updates"] + 1,
    }
    person = Person(
        asked.subject, made.baseline, made.labels, digest(key) if key else before.key_sha256, made.metadata | known
    )
    store.write(person, made.adapted.weights if made.adapted.verdict.adapter_kept else {})
    return Calibrated(person, key, issues)


def give_new_key(subject: str, store: Store) -> str:
    """A new key for a person who lost theirs; the old one opens nothing any more."""
    person, adapter, key = store.read(subject), store.adapter(subject), new_key()
    store.write(replace(person, key_sha256=digest(key)), adapter)
    return key


def weights_sha256(run: Run) -> str:
    """Which population's model: of the checkpoint's weights."""
    return json.loads((run.path / "checkpoint" / "config.json").read_text(encoding="utf-8"))["weights_sha256"]


def require_same_weights(person: Person, run: Run) -> None:
    """Raises ValueError where the person calibrated another population's model than the run's."""
    if person.metadata["weights_sha256"] != weights_sha256(run):
        raise ValueError(
            f"{person.subject} calibrated {person.metadata['run']}, this is {run.name}: an adapter fits no other weights; forget and calibrate again"
        )


@dataclass(frozen=True)
class _Made:
    baseline: Baseline
    labels: Labels
    adapted: Adapted
    metadata: dict[str, Any]


def _before(asked: Asked, store: Store, update: bool) -> Person | None:
    there = asked.subject in store
    if there and not update:
        raise ValueError(
            f"{asked.subject} has calibrated already; --update adds labels and days, `raycadian forget --subject {asked.subject}` deletes what is kept"
        )
    if update and not there:
        raise ValueError(f"{asked.subject} has not calibrated in {store.root.absolute()}: leave out --update")
    if not there:
        return None
    before = store.read(asked.subject)
    require_same_weights(before, asked.run)  # its baseline, level and labels mean nothing to another model
    return before


# --- labels of days ---------------------------------------------------------------------------------------------------


def _label(asked: Asked, before: Person | None, issues: Issues, tell: Callable, on_epoch: OnEpoch) -> _Made:
    run, recipe = asked.run, asked.run.recipe
    window, card = recipe.window, parse_card(_preprocessing(run)["card"])
    if not isinstance(card, ActigraphyCard) or getattr(recipe.task, "also", ()):
        raise ValueError(f"{run.name}: only a classifier of one label of activity can be calibrated to a person's days")
    labels = _labels(asked, before)
    recordings = read_recording(asked.recording, asked.subject, run, asked.card, issues)
    population, decision = (
        checkpoint.load(run.path / "checkpoint"),
        Decision.read(run.path / "checkpoint" / decision_file("")),
    )
    channel, factor = _channel(asked, before, window, recordings, population, card.min_valid_hours)
    series, days = activity_of(recordings, window, channel, factor, card.min_valid_hours)
    baseline = before.baseline if before else usual(ACTIVITY, of_activity, days, BASELINE_DAYS, "worn long enough")
    chosen = labelled_days(series, days, labels, window, LABELLED_DAYS, issues)
    tell(f"training an adapter on {len(chosen)} labelled days")
    adapted = adapt_label(population, decision, baseline, chosen, on_epoch)
    own = adapted.decision
    assert own is not None
    personal = {"slope": own.slope, "offset": own.offset, "covariance": own.covariance}
    return _Made(
        baseline,
        labels,
        adapted,
        _metadata(asked, adapted) | {"channel": channel, "factor": factor, "decision": personal},
    )


def _labels(asked: Asked, before: Person | None) -> Labels:
    """Those kept and the new ones, which take the place of a kept one of the same day."""
    if asked.episodes is None and before is None:
        raise ValueError(
            f"{asked.run.name} estimates a label of days, and the recording has none: name a CSV with the columns start, end, label by --episodes"
        )
    return (before.labels if before else {}) | (read_labels(asked.episodes) if asked.episodes else {})


def read_recording(path: Path, subject: str, run: Run, card: Path | None, issues: Issues) -> list[Recording]:
    """One person's recordings from a file, as the run's model takes them. Raises ValueError."""
    stated, like = load_card(card) if card else None, _card_like(_preprocessing(run))
    modality = modality_of(like)
    if stated is not None and modality_of(stated) is not modality:
        raise ValueError(
            f"{card}: {stated.modality}; {run.name} reads {modality.name}: a card of modality {modality.name}"
        )
    recordings = modality.read_person(path, stated, like, issues)
    return [replace(r, subject=subject, index=i) for i, r in enumerate(recordings)]


def _card_like(preprocessing: dict[str, Any]) -> Any:
    """The card of the data set that the model was trained on; a forecaster's run keeps its grid alone."""
    if "card" in preprocessing:
        return parse_card(preprocessing["card"])
    return CGMCard(name="history", files=("history",), grid=preprocessing["grid"])


def activity_of(
    recordings: list[Recording], window: LabelWindow, channel: str, factor: float, min_valid_hours: float
) -> tuple[Series, Days]:
    """The series of the model's channel, and its days. `channel`: of the recording, times `factor`. Raises ValueError."""
    (wanted,) = window.past
    if channel != wanted:
        recordings = in_place_of(recordings, channel, wanted, factor)
    series = series_of(recordings, window.past)
    return series, activity_days(series, min_valid_hours)


def _channel(
    asked: Asked, before: Person | None, window: LabelWindow, recordings: list[Recording], population: Model,
    min_valid_hours: float,
) -> tuple[str, float]:  # fmt: skip
    """The recording's channel that is read, and what it is multiplied by: another one than the model's has, over the days
    of the baseline, the mean of the population's own. An update keeps what was."""
    if len(window.past) != 1:
        raise ValueError(f"the model reads {', '.join(window.past)}; one channel of activity can be calibrated")
    (wanted,) = window.past
    if before is not None:
        if asked.channel not in (None, before.metadata["channel"]):
            raise ValueError(
                f"{asked.subject} calibrated by {before.metadata['channel']}; leave out --channel, or forget first"
            )
        return before.metadata["channel"], before.metadata["factor"]
    if asked.channel in (None, wanted):
        return wanted, 1.0
    scale = next((m for m in population.modules() if isinstance(m, Scaling)), None)
    if scale is None:
        raise ValueError(
            f"{asked.run.name}: its model knows no level of {wanted} that {asked.channel} could be brought to; leave out --channel"
        )
    series = series_of(recordings, (asked.channel,))
    days = activity_days(series, min_valid_hours)
    level = float(np.nanmean(_first(days, BASELINE_DAYS, "worn long enough")[1]))
    if not level > 0:
        raise ValueError(f"{asked.recording}: {asked.channel} never moves over the baseline; take another channel")
    return asked.channel, float(scale.mean.mean()) / level


# --- forecasts --------------------------------------------------------------------------------------------------------


def _forecast(asked: Asked, before: Person | None, issues: Issues, tell: Callable, on_epoch: OnEpoch) -> _Made:
    if asked.episodes is not None or asked.channel is not None:
        raise ValueError(
            f"{asked.run.name} forecasts glucose: the readings after it are its labels; leave out --episodes and --channel"
        )
    run, grid = asked.run, Grid.model_validate(_preprocessing(asked.run)["grid"])
    series = series_of(read_recording(asked.recording, asked.subject, run, asked.card, issues), run.recipe.window.past)
    days = glucose_days(series)
    words = f"with {VALID_SHARE:.0%} of their readings"
    baseline = before.baseline if before else usual(GLUCOSE, of_glucose, days, GLUCOSE_BASELINE_DAYS, words)
    tell(f"training an adapter on {int(days.valid.sum())} days of readings")
    adapted = adapt_forecast(run, checkpoint.load(run.path / "checkpoint"), baseline, series, grid, on_epoch)
    return _Made(baseline, {}, adapted, _metadata(asked, adapted))


# --- both -------------------------------------------------------------------------------------------------------------


def usual(names: tuple[str, ...], features: Callable, days: Days, least: int, words: str) -> Baseline:
    """The baseline: the first valid days, BASELINE_DAYS at most. Raises ValueError where there are fewer than `least`."""
    date, values = _first(days, least, words)
    return Baseline.of(names, features(values), date)


def _first(days: Days, least: int, words: str) -> tuple[np.ndarray, np.ndarray]:
    valid = np.flatnonzero(days.valid)[:BASELINE_DAYS]
    if len(valid) < least:
        raise ValueError(
            f"a baseline needs {least} days {words}, found {int(days.valid.sum())} of the recording's {len(days.date)} ({days.date[0]} to "
            f"{days.date[-1]}); record longer, or wear the device for more of the day"
        )
    return days.date[valid], days.values[valid]


def _metadata(asked: Asked, adapted: Adapted) -> dict[str, Any]:
    verdict = adapted.verdict
    return {
        "subject": asked.subject,
        "adapter": secrets.token_hex(8),
        "run": asked.run.name,
        "weights_sha256": weights_sha256(asked.run),
        "task": asked.run.recipe.task.kind,
        "kept": "adapter" if verdict.adapter_kept else "population",
        "verdict": verdict.sentence,
        "held_out": verdict.scores,
        "days": adapted.days,
        "parameters": adapted.parameters,
        "epochs": adapted.epochs,
        "source": source_hash(),
        "calibrated_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _preprocessing(run: Run) -> dict[str, Any]:
    return json.loads((run.path / "checkpoint" / "preprocessing.json").read_text(encoding="utf-8"))
