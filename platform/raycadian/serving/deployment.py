"""The endpoint on Ray Serve: one deployment that answers requests together. The one door to ray.serve, with launch.py."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from ray import serve

from raycadian.config import Forecasting, model_name
from raycadian.personal.store import PEOPLE, Person, Store
from raycadian.serving.classifier import Classifier, Estimate, Sent
from raycadian.serving.forecaster import NOTE, Forecast, Forecaster, History
from raycadian.serving.personal import (
    Adapted,
    PersonalClassifier,
    PersonalEstimate,
    PersonalForecaster,
    drop_deleted,
)  # fmt: skip
from raycadian.serving.stream import SignalStream
from raycadian.serving.web import api_key, create_app, digest
from raycadian.training.run import RUNS, Run

log = logging.getLogger("ray.serve")
BATCH = 64
PERSONS = 32  # adapters that a replica holds at once; the least recently used leaves


@serve.deployment(name="forecaster", max_ongoing_requests=4 * BATCH, health_check_period_s=10)
@serve.ingress()
class Endpoint:
    """One process that holds a model. `user_config` says which; a new one is taken over without a restart.

    user_config: {run: path}, or {champion: registered name or null, runs: folder}; {cases: folder} beside either, where
    requests may name a stored case; {people: folder} where the people lie whose adapters may be asked for.
    """

    def __init__(self, key_sha256: str):
        self._key_sha256 = key_sha256
        self._served: Forecaster | Classifier | None = None
        self._run: Run | None = None
        self._people = Store(PEOPLE)
        self._adapted: WeakValueDictionary[str, Adapted] = WeakValueDictionary()
        self._description: dict[str, Any] | None = None
        self._rejected: str | None = None

    def __serve_build_asgi_app__(self) -> Any:
        return create_app(self, self._key_sha256)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load a run beside the one that answers, then change over. A run that can't be loaded is not taken over: the
        old one goes on, and /v1/model says why; without an old one this fails."""
        try:
            loaded = await asyncio.to_thread(_load, user_config)
        except ValueError as error:
            if self._served is None:
                raise
            log.error("promotion rejected, %s goes on: %s", self._served.name, error)
            self._rejected = str(error)
            return
        self._run, self._served, self._description = loaded
        self._people = Store(Path(user_config.get("people", PEOPLE)))
        self._rejected = None
        log.info("serving %s", self._served.name)

    def describe(self) -> dict[str, Any] | None:
        return self._description and self._description | {"rejected": self._rejected}

    async def answer(self, history: History) -> Forecast | ValueError:
        if not isinstance(self._served, Forecaster):
            return self._other("/v1/biosignal or /v1/actigraphy")
        return await self._together(history)

    async def answer_signals(self, sent: Sent) -> Estimate | ValueError:
        if not isinstance(self._served, Classifier):
            return self._other("/v1/forecast")
        try:
            return await asyncio.to_thread(self._served.estimate, sent)  # filters of long arrays leave the lock
        except ValueError as error:
            return error

    async def answer_person(self, asked: Sent | History, key: str) -> PersonalEstimate | Forecast | ValueError:
        try:
            person = await asyncio.to_thread(self._people.opened, asked.subject, key)
            own = await self._own(person)
            if isinstance(asked, History) != isinstance(own, PersonalForecaster):
                return self._other("/v1/forecast" if isinstance(own, PersonalForecaster) else "/v1/actigraphy")
            return await asyncio.to_thread(own.forecast if isinstance(own, PersonalForecaster) else own.estimate, asked)
        except ValueError as error:
            return error

    async def _own(self, person: Person) -> PersonalClassifier | PersonalForecaster:
        """The served model, adapted to the person. Raises ValueError."""
        place = await self.adapted(person.version)
        assert self._served is not None and self._run is not None
        return await asyncio.to_thread(place.filled, self._served, self._run, person, self._people)

    @serve.multiplexed(max_num_models_per_replica=PERSONS)
    async def adapted(self, version: str) -> Adapted:
        """A place for a person's model, by the random name of its version: Ray's logs and metrics show that name, never the
        person. A client that sends it back as the header serve_multiplexed_model_id reaches a replica that holds it."""
        place = self._adapted[version] = Adapted()
        return place

    async def check_health(self) -> None:
        """Every ten seconds: what was deleted, or calibrated anew, leaves the memory too."""
        drop_deleted(self._adapted, self._people)

    def open_stream(self, channels: dict[str, tuple[float, str]]) -> SignalStream:
        if not isinstance(self._served, Classifier):
            raise self._other("/v1/forecast")
        return SignalStream(self._served, channels)

    def _other(self, path: str) -> ValueError:
        assert self._served is not None
        return ValueError(f"{self._served.name} answers on {path}; serve another run for this path")

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.002)
    async def _together(self, histories: list[History]) -> list[Forecast | ValueError]:
        """What has arrived while the last batch was computed. On the event loop: a thread would wait for the interpreter's
        lock after each of the model's operations, and was measured three times slower."""
        assert isinstance(self._served, Forecaster)
        return self._served.forecast_batch(histories)


def application(args: dict[str, str]) -> Any:
    """The Serve application that `import_path` names. args: `key_sha256` of the key, else this machine's key is used."""
    return Endpoint.bind(args.get("key_sha256") or digest(api_key()))


def _load(user_config: dict[str, Any]) -> tuple[Run, Forecaster | Classifier, dict[str, Any]]:
    run = _run_of(user_config)
    if isinstance(run.recipe.task, Forecasting):
        served: Forecaster | Classifier = Forecaster.load(run.path)
    else:
        served = Classifier.load(run.path, user_config.get("cases"))
    return run, served, _description(run, served)


def _run_of(user_config: dict[str, Any]) -> Run:
    if "run" in user_config:
        return Run(Path(user_config["run"]))
    from raycadian.tracking.registry import champion  # MLflow, only where it is asked

    return champion(user_config.get("champion"), runs=Path(user_config.get("runs", RUNS)))


def _description(run: Run, served: Forecaster | Classifier) -> dict[str, Any]:
    spec = served.model.spec
    return {
        "model": run.name,
        "kind": model_name(served.model.config),
        "task": spec.task,
        "snapshot": run.metadata["snapshot"],
        "context": spec.context,
        "horizon": spec.horizon,
        "dt_min": spec.dt_min,
        "quantiles": list(spec.quantiles),
        "past": list(spec.past),
        "metrics": run.summary.get("test", {}),
        "note": NOTE,
    }
