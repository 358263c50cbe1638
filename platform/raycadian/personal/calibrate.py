"""From one person's export to what the store keeps of them: which days count, what is usual, an adapter, a verdict.

One path for every task: a person's days are cut in time, an adapter is trained on the first, chosen and calibrated on
the next, and judged on the last, which nothing has seen. No cluster is asked.
"""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from torch import Tensor

from raycadian.models import checkpoint
from raycadian.models.base import Model, trainable_parameters
from raycadian.personal.adapter import personal, weights_of
from raycadian.personal.day_labels import DayLabels
from raycadian.personal.forecasts import Forecasts
from raycadian.personal.store import PersonRecord, Store, digest, new_key
from raycadian.personal.task import CalibrationInputs, Parts, PersonalTask
from raycadian.personal.verdict import PersonalDecision, Verdict
from raycadian.physiology.rhythms.daily import Baseline
from raycadian.runs import Run, source_hash
from raycadian.training import loop
from raycadian.training.loop import OnEpoch
from raycadian.types import Issues

_TASKS: dict[str, type[PersonalTask]] = {"classify": DayLabels, "forecast": Forecasts}


@dataclass(frozen=True)
class Calibrated:
    """`key`: the person's, to be shown once; None where they had one already."""

    person: PersonRecord
    key: str | None
    issues: Issues


@dataclass(frozen=True)
class FittedAdapter:
    """weights: of the adapter · decision: how its log odds become a probability (forecasts have none) · days: what each
    part held · epochs: trained, of which the best is kept."""

    weights: Mapping[str, Tensor]
    parameters: int
    decision: PersonalDecision | None
    verdict: Verdict
    days: dict[str, Any]
    epochs: int


def calibrate(
    inputs: CalibrationInputs, store: Store, *, update: bool = False, report: Callable[[str], None] = lambda text: None,
    on_epoch: OnEpoch = lambda metrics: None,
) -> Calibrated:  # fmt: skip
    """Calibrate the run's model to one person and keep the result; `update`: with the labels that are kept already, the
    new ones first. Whatever fails leaves the store as it was. Raises ValueError."""
    began = time.perf_counter()
    before, task, issues = _before(inputs, store, update), _task(inputs.run), Issues()
    report("reading the recording")
    labels = task.labels(inputs, before)
    population = checkpoint.load(inputs.run.path / "checkpoint")
    days = task.days(inputs, before, population, issues)
    baseline = before.baseline if before else task.rule.baseline(days.days)
    parts = task.parts(days, labels, issues)
    report(f"training an adapter on {parts.words}")
    fitted = fit_adapter(task, population, baseline, parts, on_epoch)
    key = None if before else new_key()
    metadata = _metadata(inputs, fitted) | days.about | _decision(fitted.decision) | {
        "seconds": round(time.perf_counter() - began, 1),
        "issues": issues.counts,
        "updates": 0 if before is None else before.metadata["updates"] + 1,
    }  # fmt: skip
    person = PersonRecord(inputs.subject, baseline, labels, digest(key) if key else before.key_sha256, metadata)
    store.write(person, fitted.weights if fitted.verdict.adapter_kept else {})
    return Calibrated(person, key, issues)


def fit_adapter(
    task: PersonalTask, population: Model, baseline: Baseline, parts: Parts, on_epoch: OnEpoch, seed: int = 0
) -> FittedAdapter:
    """An adapter on the population's model, trained in the one loop and judged on held-out days. Raises ValueError."""
    settings = task.settings.model_copy(update={"seed": seed})
    loop.seed_everything(seed)
    model = personal(population, baseline)
    epochs = len(loop.train(model, parts.train, parts.val, settings, on_epoch=on_epoch).history)
    decision, verdict = task.judge(model.eval(), population, parts)
    return FittedAdapter(
        weights_of(model), trainable_parameters(model), decision, verdict, parts.described, epochs
    )  # fmt: skip


def give_new_key(subject: str, store: Store) -> str:
    """A new key for a person who lost theirs; the old one opens nothing any more."""
    person, adapter, key = store.read(subject), store.adapter(subject), new_key()
    store.write(replace(person, key_sha256=digest(key)), adapter)
    return key


def weights_sha256(run: Run) -> str:
    """Which population's model: of the checkpoint's weights."""
    return checkpoint.weights_sha256(run.path / "checkpoint")


def require_same_weights(person: PersonRecord, run: Run) -> None:
    """Raises ValueError where the person calibrated another population's model than the run's."""
    if person.metadata["weights_sha256"] != weights_sha256(run):
        raise ValueError(
            f"{person.subject} calibrated {person.metadata['run']}, this is {run.name}: an adapter fits no other "
            "weights; forget and calibrate again"
        )


def _before(inputs: CalibrationInputs, store: Store, update: bool) -> PersonRecord | None:
    """Who is kept already, where that is to be updated."""
    subject, there = inputs.subject, inputs.subject in store
    if there and not update:
        raise ValueError(
            f"{subject} has calibrated already; --update adds labels and days, `raycadian forget --subject {subject}` "
            "deletes what is kept"
        )
    if update and not there:
        raise ValueError(f"{subject} has not calibrated in {store.root.absolute()}: leave out --update")
    if not there:
        return None
    before = store.read(subject)
    require_same_weights(before, inputs.run)  # its baseline, level and labels mean nothing to another model
    return before


def _task(run: Run) -> PersonalTask:
    kind = run.recipe.task.kind
    if kind not in _TASKS:
        raise ValueError(f"{run.name}: task {kind}; a run of classify or of forecast can be calibrated to a person")
    return _TASKS[kind](run)


def _decision(decision: PersonalDecision | None) -> dict[str, Any]:
    if decision is None:
        return {}
    return {"decision": {name: getattr(decision, name) for name in ("slope", "offset", "covariance")}}


def _metadata(inputs: CalibrationInputs, fitted: FittedAdapter) -> dict[str, Any]:
    verdict = fitted.verdict
    return {
        "subject": inputs.subject,
        "adapter": secrets.token_hex(8),
        "run": inputs.run.name,
        "weights_sha256": weights_sha256(inputs.run),
        "task": inputs.run.recipe.task.kind,
        "kept": "adapter" if verdict.adapter_kept else "population",
        "verdict": verdict.sentence,
        "held_out": verdict.scores,
        "days": fitted.days,
        "parameters": fitted.parameters,
        "epochs": fitted.epochs,
        "source": source_hash(),
        "calibrated_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }
