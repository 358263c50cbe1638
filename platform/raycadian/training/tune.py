"""Sweeps on Ray Tune: trials in their own processes, or on Ray Train's workers each; resumable from our own records.

The truth of a sweep is `trials/<id>/trial.json`, written when a trial starts and when it ends. Resuming reads those
(never Tune's pickles): finished trials teach the search and are not run again; interrupted and failed ones run
first, from their last epoch.
"""

import hashlib
import json
import logging
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import ray
from ray import PlacementGroupID, tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler, HyperBandScheduler, PopulationBasedTraining
from ray.tune.search import BasicVariantGenerator, Searcher
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.state import list_actors, list_placement_groups

from raycadian import telemetry
from raycadian.cluster import capacity, connect
from raycadian.config import (
    MONITORS,
    Choice,
    LogUniform,
    RandInt,
    Recipe,
    SearchSpace,
    Tuning,
    Uniform,
    load_space,
    override,
    total_epochs,
)  # fmt: skip
from raycadian.files import own_folder, read_json, write_json
from raycadian.runs import RUNS, experiment_key, find_complete, finish, write_recipe, writing_folder
from raycadian.tasks.base import Data
from raycadian.training.pipeline import fit_model

OnTrial = Callable[[dict[str, Any]], None]
_MUTABLE = {"training.lr", "training.weight_decay", "training.clip_norm"}  # in the middle of a training
_DRIVER_BYTES = 5e8  # what a trial needs that waits for its workers
_WORKER = "RayTrainWorker"  # Ray Train's name for its actors
_ERROR = "error.txt"  # in a trial's folder: what the user has to change; another try can't heal it


@dataclass(frozen=True)
class Sweep:
    """A complete sweep. `table`: one row a trial, best first: id, status, epochs, metrics, seconds, parameters."""

    path: Path
    table: pd.DataFrame
    best: dict[str, Any]
    """dotted.path: value of the best trial; apply with config.override."""


def sweep(
    recipe: Recipe, data: Data, *, runs: Path = RUNS, resume: bool = False, on_trial: OnTrial = lambda record: None
) -> Sweep:
    """Run `recipe.tuning`; choose on validation data. `on_trial` gets each trial's record as it ends.

    Raises ValueError for a recipe without tuning, a space whose paths don't fit the recipe, a cluster without room for
    one trial, or where every trial failed.
    """
    tuning = _require_tuning(recipe)
    space = load_space(tuning.space)
    _check_space(recipe, space)
    _first_points(recipe, space)
    _require_population(recipe, tuning, space)
    _room(recipe)
    key = _key(recipe, space, data.snapshot_id)
    complete = find_complete(runs / "sweeps", recipe.name, key) if resume else None
    if complete is not None and sum(r["status"] == "finished" for r in _read_records(complete)) >= tuning.trials:
        return Sweep(complete, *_table(_read_records(complete), recipe.tuned_by))
    with writing_folder(runs / "sweeps", recipe.name, key, resume) as folder:
        write_recipe(folder / "recipe.yaml", recipe)
        write_json(folder / "space.json", space.model_dump(mode="json"))
        records = _read_records(folder)
        done = [r for r in records if r["status"] == "finished"]
        if len(done) < tuning.trials:
            _run(recipe, tuning, space, data, folder, done, [r for r in records if r not in done], on_trial)
        table, best = _table(_read_records(folder), recipe.tuned_by)
        table.to_csv(folder / "trials.csv", index=False)
        write_json(folder / "best.json", best)
        shutil.rmtree(folder / "tune", ignore_errors=True)
        return Sweep(finish(folder), table, best)


def _require_tuning(recipe: Recipe) -> Tuning:
    if recipe.tuning is None:
        raise ValueError(
            f"recipe {recipe.name} has no `tuning`; add one, e.g. --set 'tuning={{space: search_spaces/x.yaml}}'"
        )
    return recipe.tuning


def _require_population(recipe: Recipe, tuning: Tuning, space: SearchSpace) -> None:
    """Population-based training changes rates in the middle and copies states between trials: where that works."""
    if tuning.scheduler != "pbt":
        return
    if others := set(space.parameters) - _MUTABLE:
        raise ValueError(
            f"tuning.scheduler=pbt changes parameters in the middle of a training; {sorted(others)} can't; it takes "
            f"{sorted(_MUTABLE)}; use asha for the rest"
        )
    if any(not isinstance(d, Uniform | LogUniform) for d in space.parameters.values()):
        raise ValueError("tuning.scheduler=pbt takes uniform and loguniform ranges")
    if not recipe.training.in_process or recipe.training.schedule != "constant":
        raise ValueError("tuning.scheduler=pbt needs training.workers=1, strategy ddp and training.schedule=constant")


def _check_space(recipe: Recipe, space: SearchSpace) -> None:
    """Every path must fit the recipe: found out before the first trial."""
    for path, distribution in space.parameters.items():
        for value in _examples(distribution):
            override(recipe, {path: value}, f"search space at {path}: {recipe.name}")


def _key(recipe: Recipe, space: SearchSpace, snapshot_id: str) -> str:
    """What determines a sweep; more trials of the same sweep are the same sweep."""
    assert recipe.tuning is not None
    same = recipe.model_copy(update={"tuning": recipe.tuning.model_copy(update={"trials": 1, "max_concurrent": None})})
    return experiment_key(same, snapshot_id + json.dumps(space.model_dump(mode="json"), sort_keys=True))


# --- search ----------------------------------------------------------------------------------------------------------


class _Search(Searcher):
    """Optuna behind Tune's public searcher interface, taught by the records of an earlier session."""

    def __init__(self, space: SearchSpace, recipe: Recipe, done: list[dict], interrupted: list[dict]):
        tuning, metric = _require_tuning(recipe), f"best/{recipe.tuned_by}"
        super().__init__(metric=metric, mode=_mode(recipe))
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = {"random": optuna.samplers.RandomSampler, "optuna": optuna.samplers.TPESampler}[tuning.search]
        # the number of earlier records is part of the seed: a resumed search doesn't draw the same points again
        direction = {"min": "minimize", "max": "maximize"}[_mode(recipe)]
        self.study = optuna.create_study(sampler=sampler(seed=tuning.seed + len(done)), direction=direction)
        self.space = {path: _optuna(distribution) for path, distribution in space.parameters.items()}
        self.suggested: dict[str, optuna.Trial] = {}
        for record in done:
            if record.get(metric) is not None:
                self.study.add_trial(optuna.trial.create_trial(
                    params=_encode(record["params"]), distributions=self.space, value=record[metric]
                ))  # fmt: skip
        for record in interrupted:
            self.study.enqueue_trial(_encode(record["params"]))
        if not done and not interrupted:
            for point in _first_points(recipe, space):
                self.study.enqueue_trial(point)

    def suggest(self, trial_id: str) -> dict[str, Any]:
        self.suggested[trial_id] = self.study.ask(self.space)
        return _decode(self.suggested[trial_id].params)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        value = (result or {}).get(self.metric)
        failed = error or value is None
        state = optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE
        self.study.tell(self.suggested.pop(trial_id), None if failed else value, state=state)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the trial records are the state."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("sweeps resume from their trial records")


def _mode(recipe: Recipe) -> str:
    """Which way is better, as Tune says it."""
    return {"low": "min", "high": "max"}[MONITORS[recipe.tuned_by]]


def _first_points(recipe: Recipe, space: SearchSpace) -> list[dict[str, Any]]:
    """The points that the recipe names, then the best ones of earlier sweeps, as Optuna takes them."""
    tuning, metric = _require_tuning(recipe), f"best/{recipe.tuned_by}"
    points = [dict(point) for point in tuning.first]
    for earlier in tuning.warm_start:
        records = [r for r in _read_records(Path(earlier)) if r.get(metric) is not None]
        if not records:
            raise ValueError(f"tuning.warm_start: {earlier} has no finished trial; name the folder of a sweep")
        best = sorted(records, key=lambda r: r[metric], reverse=_mode(recipe) == "max")[: max(1, tuning.trials // 4)]
        points += [_values(r["params"]) for r in best]
    for point in points:
        if unknown := set(point) - set(space.parameters):
            raise ValueError(f"a point to start from names {sorted(unknown)}, which the search space lacks")
    choices = {path for path, distribution in space.parameters.items() if isinstance(distribution, Choice)}
    return [{path: json.dumps(v) if path in choices else v for path, v in point.items()} for point in points]


def _optuna(distribution: Any) -> optuna.distributions.BaseDistribution:
    match distribution:
        case Choice():
            return optuna.distributions.CategoricalDistribution([json.dumps(v) for v in distribution.choice])
        case Uniform(uniform=r):
            return optuna.distributions.FloatDistribution(r.low, r.high)
        case LogUniform(loguniform=r):
            return optuna.distributions.FloatDistribution(r.low, r.high, log=True)
        case RandInt(randint=r):
            return optuna.distributions.IntDistribution(int(r.low), int(r.high))
    raise AssertionError(distribution)


def _examples(distribution: Any) -> list[Any]:
    match distribution:
        case Choice():
            return list(distribution.choice)
        case Uniform(uniform=r) | LogUniform(loguniform=r):
            return [r.low, r.high]
        case RandInt(randint=r):
            return [int(r.low), int(r.high)]
    raise AssertionError(distribution)


def _encode(params: dict[str, Any]) -> dict[str, Any]:
    """Choices are JSON text for Optuna, which takes plain values only."""
    return {
        path: value["choice"] if isinstance(value, dict) and "choice" in value else value
        for path, value in params.items()
    }


def _decode(params: dict[str, Any]) -> dict[str, Any]:
    return {path: {"choice": value} if isinstance(value, str) else value for path, value in params.items()}


def _values(params: dict[str, Any]) -> dict[str, Any]:
    """dotted.path: value as the recipe takes it."""
    return {path: json.loads(v["choice"]) if isinstance(v, dict) else v for path, v in params.items()}


# --- trials ----------------------------------------------------------------------------------------------------------


def _run(
    recipe: Recipe, tuning: Tuning, space: SearchSpace, data: Data, folder: Path,
    done: list[dict], interrupted: list[dict], on_trial: OnTrial,
) -> None:  # fmt: skip
    connect()
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failed trial's error is in its record
    payload = ray.put((recipe, data, str(folder.absolute())))  # one copy for all trials
    at_once, resources = _room(recipe)
    population = tuning.scheduler == "pbt"
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(_trial, payload=[payload]), resources),
        param_space={path: _tune(d) for path, d in space.parameters.items()} if population else {},
        tune_config=tune.TuneConfig(
            search_alg=_population(recipe, space) if population else _Search(space, recipe, done, interrupted),
            scheduler=_scheduler(recipe, tuning, space),
            num_samples=tuning.trials - len(done),
            max_concurrent_trials=min(at_once, tuning.max_concurrent or at_once),
            reuse_actors=recipe.training.in_process,  # else a stopped trial's workers would live on
        ),
        run_config=tune.RunConfig(
            name=f"tune-{time.time_ns()}", storage_path=str((folder / "tune").absolute()), verbose=0,
            callbacks=[_Records(folder, recipe, len(done), on_trial)],
            failure_config=tune.FailureConfig(max_failures=recipe.training.max_failures),
        ),
    )  # fmt: skip
    with nullcontext() if recipe.training.in_process else _workers_ended():
        tuner.fit()
    for state in folder.glob("trials/*/state"):
        shutil.rmtree(state, ignore_errors=True)
    if not any(r["status"] == "finished" for r in _read_records(folder)):
        first = next((r for r in _read_records(folder) if r.get("error")), {})
        raise ValueError(f"every trial of the sweep failed; the first: {first.get('error', 'no error was recorded')}")


@contextmanager
def _workers_ended() -> Iterator[None]:
    """Afterwards the workers of trials that were stopped in the middle have ended: until then they write.

    They end with their placement group. Ray Train's own cleaner removes that after a while, and finds its cluster only
    where no other Ray runs on the machine.
    """
    others = {group.placement_group_id for group in _of_this_job(list_placement_groups, "creator_job_id")}
    yield
    for _ in range(60):
        for group in _of_this_job(list_placement_groups, "creator_job_id"):
            if group.placement_group_id not in others and group.state != "REMOVED":
                remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group.placement_group_id))))
        if all(actor.state == "DEAD" for actor in _of_this_job(list_actors, "job_id") if actor.class_name == _WORKER):
            return
        time.sleep(0.5)


def _of_this_job(listing: Callable[..., list[Any]], column: str) -> list[Any]:
    """What Ray's state API lists for the job of this process."""
    context = ray.get_runtime_context()
    return listing(address=context.gcs_address, filters=[(column, "=", context.get_job_id())], limit=10_000)


def _room(recipe: Recipe) -> tuple[int, dict[str, float]]:
    """How many trials run at once, and what Tune reserves for one. Raises ValueError where not even one fits.

    A trial that trains on Ray Train's workers only waits for them itself: its place is a node that stays, where the
    cluster has marked such nodes with the resource `driver`.
    """
    have, training = capacity(), recipe.training
    gpu = have.gpus > 0 and training.device != "cpu"
    units, kind = (have.gpus, "GPU") if gpu else (have.cpus, "CPU")
    if training.in_process:
        return max(1, units), {"CPU": 1, "GPU": 1 if gpu else 0}
    if units < training.most_workers:
        raise ValueError(
            f"a trial of {training.most_workers} workers needs as many {kind}s; the cluster has {units} at most; lower "
            "training.workers"
        )
    place = {"memory": _DRIVER_BYTES} | ({"driver": 0.001} if have.driver else {})
    return units // training.most_workers, place


def _scheduler(recipe: Recipe, tuning: Tuning, space: SearchSpace) -> Any:
    metric, mode, epochs = f"best/{recipe.tuned_by}", _mode(recipe), total_epochs(recipe)
    match tuning.scheduler:
        case "fifo":
            return None
        case "asha":
            return ASHAScheduler(
                time_attr="epoch", metric=metric, mode=mode, max_t=epochs + 1, grace_period=1, reduction_factor=3
            )
        case "hyperband":
            return HyperBandScheduler(time_attr="epoch", metric=metric, mode=mode, max_t=epochs)
        case "pbt":
            return PopulationBasedTraining(
                time_attr="epoch", metric=recipe.tuned_by, mode=mode, perturbation_interval=max(1, epochs // 6),
                synch=True,  # else members that must wait for room never meet those that ran before them
                hyperparam_mutations={path: _tune(distribution) for path, distribution in space.parameters.items()},
            )  # fmt: skip
    raise AssertionError(tuning.scheduler)


def _population(recipe: Recipe, space: SearchSpace) -> BasicVariantGenerator:
    """The first members at random; the scheduler changes them from there, which Tune allows with no other search."""
    return BasicVariantGenerator(
        points_to_evaluate=_first_points(recipe, space), random_state=_require_tuning(recipe).seed
    )


def _tune(distribution: Any) -> Any:
    if isinstance(distribution, LogUniform):
        return tune.loguniform(distribution.loguniform.low, distribution.loguniform.high)
    return tune.uniform(distribution.uniform.low, distribution.uniform.high)


def _trial(params: dict[str, Any], payload: list[Any]) -> None:
    """One trial: train and report every epoch. Started again after its process or node died (or after a scheduler's
    pause), it goes on from its last epoch."""
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # shared memory; nobody writes
    telemetry.configure_logs()
    recipe, data, folder = ray.get(payload[0])
    place = Path(folder) / "trials" / _trial_id(params, recipe, tune.get_context().get_trial_id())
    report, state = tune.report, place / "state"
    if recipe.tuning.scheduler == "pbt":
        report = partial(_report_state, state=state)
        if checkpoint := tune.get_checkpoint():  # its own, or a leader's
            checkpoint.to_directory(str(state))
    epochs: list[dict[str, float]] = []

    def on_epoch(metrics: dict[str, float]) -> None:
        epochs.append(metrics)
        report(metrics)

    try:
        recipe = override(recipe, _values(params))
        with telemetry.bound(recipe=recipe.name, sweep=Path(folder).name, trial=place.name):
            if recipe.training.in_process:
                trained = fit_model(data, recipe, state=state, on_epoch=on_epoch).trained
            else:
                callbacks = [TuneReportCallback()]
                trained = fit_model(data, recipe, state=state, on_epoch=epochs.append, callbacks=callbacks).trained
            if not epochs:  # paused after its last epoch: the scheduler waits for a result all the same
                report(trained.history[-1])
    except ValueError as error:
        (place / _ERROR).write_text(str(error), encoding="utf-8")


def _report_state(metrics: dict[str, float], state: Path) -> None:
    tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(str(state)))


def _trial_id(params: dict[str, Any], recipe: Recipe, tune_id: str) -> str:
    """The same for the same parameters, so that an interrupted trial finds its state; a member of a population, whose
    parameters change, has Tune's."""
    if recipe.tuning is not None and recipe.tuning.scheduler == "pbt":
        return tune_id
    return hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()[:10]


class _Records(tune.Callback):
    """Keeps each trial's record: `running` from its start, its end when it ends."""

    def __init__(self, folder: Path, recipe: Recipe, ended: int, on_trial: OnTrial):
        assert recipe.tuning is not None
        self.folder, self.recipe, self.trials, self.on_trial = folder, recipe, recipe.tuning.trials, on_trial
        self.ended = ended

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._write(trial, "running")

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._write(trial, "failed" if (self._place(trial) / _ERROR).is_file() else "finished")

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._write(trial, "failed")

    def _place(self, trial: Any) -> Path:
        return self.folder / "trials" / _trial_id(trial.config, self.recipe, trial.trial_id)

    def _write(self, trial: Any, status: str) -> None:
        result, place = trial.last_result or {}, self._place(trial)
        own_folder(place)
        if status == "running":
            (place / _ERROR).unlink(missing_ok=True)
        record = {
            "trial": place.name, "status": status, "epochs": int(result.get("epoch", 0)),
            **{f"best/{name}": result.get(f"best/{name}") for name in MONITORS if f"best/{name}" in result},
            "seconds": result.get("time_total_s"), "params": trial.config, "error": _error(trial, place),
        }  # fmt: skip
        write_json(place / "trial.json", record)
        if status != "running":
            shutil.rmtree(place / "state", ignore_errors=True)
            telemetry.record("raycadian_trials", recipe=self.recipe.name, status=status)
            if status == "failed":
                telemetry.record("raycadian_failures", recipe=self.recipe.name, kind="trial")
            self.ended += 1
            self.on_trial(record | {"params": _values(record["params"]), "ended": self.ended, "of": self.trials})


def _error(trial: Any, place: Path) -> str | None:
    if (place / _ERROR).is_file():
        return (place / _ERROR).read_text(encoding="utf-8")[:500]
    text = trial.error_file and Path(trial.error_file).is_file() and Path(trial.error_file).read_text(encoding="utf-8")
    return text.strip().splitlines()[-1][:500] if text else None


def _read_records(folder: Path) -> list[dict[str, Any]]:
    paths = sorted((folder / "trials").glob("*/trial.json"), key=lambda p: p.stat().st_mtime)
    return [read_json(p) for p in paths]


def _table(records: list[dict[str, Any]], metric: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """All trials, best first, and the best one's parameters."""
    rows = [{k: v for k, v in r.items() if k != "params"} | _values(r["params"]) for r in records]
    rising, column = MONITORS[metric] == "low", f"best/{metric}"
    table = pd.DataFrame(rows).sort_values(column, ascending=rising, na_position="last", ignore_index=True)
    best = next(r for r in records if r["trial"] == table.trial[0])
    return table, _values(best["params"])
