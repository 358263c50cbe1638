"""The endpoint on Ray Serve: one deployment that answers requests together. The one door to ray.serve, with app.py."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from ray import serve

from raycadian.modalities.cgm.request import FORECAST_NOTE
from raycadian.modalities.request import Request
from raycadian.personal.store import PEOPLE, Store, digest
from raycadian.runs import RUNS, Run
from raycadian.serving.keys import api_key, shared
from raycadian.serving.load import load_predictor
from raycadian.serving.ports import listen_at_node
from raycadian.serving.predictor import Answer, Predictor
from raycadian.serving.slots import AdapterSlot, drop_deleted
from raycadian.serving.stream import SignalStream
from raycadian.serving.web import create_app

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
        listen_at_node()
        self._key_sha256 = key_sha256
        self._served: Predictor | None = None
        self._run: Run | None = None
        self._people = Store(PEOPLE)
        self._adapted: WeakValueDictionary[str, AdapterSlot] = WeakValueDictionary()
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

    async def answer(self, request: Request, key: str | None = None) -> Answer | ValueError:
        try:
            predictor = self._served if key is None else await self._own(request.subject, key)
            assert predictor is not None
            if predictor is self._served and predictor.batched:
                return await self._together(request)
            return await asyncio.to_thread(predictor.answer, request)  # filters of long arrays leave the lock
        except ValueError as error:
            return error

    async def _own(self, subject: str | None, key: str) -> Predictor:
        """The served model, adapted to the person whose key this is. Raises ValueError."""
        person = await asyncio.to_thread(self._people.opened, subject, key)
        slot = await self.adapted(person.version)
        assert self._served is not None and self._run is not None
        return await asyncio.to_thread(slot.filled, self._served, self._run, person, self._people)

    @serve.multiplexed(max_num_models_per_replica=PERSONS)
    async def adapted(self, version: str) -> AdapterSlot:
        """A slot for a person's model, by the random name of its version: Ray's logs and metrics show that name, never
        the person. A client that sends it back as the header serve_multiplexed_model_id reaches a replica that holds
        it."""
        slot = self._adapted[version] = AdapterSlot()
        return slot

    async def check_health(self) -> None:
        """Every ten seconds: what was deleted, or calibrated anew, leaves the memory too."""
        drop_deleted(self._adapted, self._people)

    def open_stream(self, channels: dict[str, tuple[float, str]]) -> SignalStream:
        assert self._served is not None
        return self._served.open_stream(channels)

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.002)
    async def _together(self, requests: list[Request]) -> list[Answer | ValueError]:
        """What has arrived while the last batch was computed. On the event loop: a thread would wait for the
        interpreter's lock after each of the model's operations, and was measured three times slower."""
        assert self._served is not None
        return self._served.predict(requests)


def application(args: dict[str, str]) -> Any:
    """The Serve application that `import_path` names. args: `key`, shared where `keys.share` has told the cluster,
    else this machine's key is used."""
    return Endpoint.bind(shared() if args.get("key") == "shared" else digest(api_key()))


def _load(user_config: dict[str, Any]) -> tuple[Run, Predictor, dict[str, Any]]:
    run = _run_of(user_config)
    served = load_predictor(run.path, user_config.get("cases"))
    return run, served, _description(run, served)


def _run_of(user_config: dict[str, Any]) -> Run:
    if "run" in user_config:
        return Run(Path(user_config["run"]))
    from raycadian.tracking.registry import champion  # MLflow, only where it is asked

    return champion(user_config.get("champion"), runs=Path(user_config.get("runs", RUNS)))


def _description(run: Run, served: Predictor) -> dict[str, Any]:
    about = {"model": run.name, "snapshot": run.metadata["snapshot"], "metrics": run.summary.get("test", {})}
    return about | served.describe() | {"note": FORECAST_NOTE}
