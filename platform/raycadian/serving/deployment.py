"""The endpoint on Ray Serve: one deployment that answers requests together. The one door to ray.serve, with app.py."""

import asyncio
import logging
from typing import Any
from weakref import WeakValueDictionary

from ray import serve
from ray.util.metrics import Gauge

from raycadian.modalities.cgm.request import History
from raycadian.modalities.request import Request
from raycadian.personal.store import Forbidden, PersonRecord, digest
from raycadian.serving.holder import Holder, Loaded
from raycadian.serving.keys import api_key, shared
from raycadian.serving.ports import listen_at_node
from raycadian.serving.predictor import Answer, Predictor
from raycadian.serving.slots import AdapterSlot, drop_deleted
from raycadian.serving.stream import SignalStream
from raycadian.serving.told import told
from raycadian.serving.web import create_app

log = logging.getLogger("ray.serve")
BATCH = 64
_READINGS = 500  # of a usual request, at most
PERSONS = 32  # adapters that a replica holds at once; the least recently used leaves
_MOST_ONGOING = 10_000  # requests that a replica takes in; limits.py says how many it works on
_REFUSAL_S = 0.05  # of a person's key, whether there is such a person or not


def batch_size(requests: list[History]) -> int:
    """In usual requests: whoever sends three weeks takes the place of a dozen. Health is not answered meanwhile."""
    return sum(min(max(1, len(request.time_s) // _READINGS), BATCH) for request in requests)


@serve.deployment(
    name="forecaster", max_ongoing_requests=_MOST_ONGOING, health_check_period_s=2, graceful_shutdown_timeout_s=30
)
@serve.ingress()
class Endpoint:
    """One process that holds a model. `user_config` says which; a new one is taken over without a restart.

    user_config: {told: place} where the cluster was told the rest (`serving.told`), which alone changes a model without
    a pause: Serve sends a replica no requests while it reconfigures it. Else {run: path}, or {champion: registered
    name or null, runs: folder}; {cases: folder} beside either, where requests may name a stored case; {people: folder}
    where the people lie whose adapters may be asked for; {fallback: path} of the run that a new replica loads where the
    first can't be; {patience_s} for which it tries; {rejected, following: why}, as in ModelResponse.
    """

    def __init__(self, key_sha256: str):
        listen_at_node()
        self._key_sha256 = key_sha256
        self._holder = Holder(_Gauges())
        self._declared: dict[str, Any] = {}
        self._looking: asyncio.Task[None] | None = None
        self._adapted: WeakValueDictionary[str, AdapterSlot] = WeakValueDictionary()

    def __serve_build_asgi_app__(self) -> Any:
        return create_app(self, self._key_sha256)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """As Holder.configure: once a model is loaded nothing takes it away."""
        self._declared = user_config
        await self._holder.configure(self._wanted)

    async def take_over(self) -> dict[str, Any] | None:
        """Look at once at what the cluster was told, and answer what is served then; called of every replica."""
        await self._holder.configure(self._wanted)
        return self.describe()

    def _wanted(self) -> dict[str, Any]:
        return told(self._declared["told"]) if "told" in self._declared else self._declared

    def describe(self) -> dict[str, Any] | None:
        return self._holder.describe()

    def example(self) -> dict[str, Any] | None:
        return self._holder.loaded and self._served.predictor.example()

    async def answer(self, request: Request, key: str | None = None) -> Answer | ValueError:
        try:
            served = self._served.predictor
            predictor = served if key is None else await self._own(request.subject, key)
            if predictor is served and predictor.batched and request.path == predictor.path:
                return await self._together(request)
            return await asyncio.to_thread(predictor.answer, request)  # filters of long arrays leave the lock
        except ValueError as error:
            return error

    @property
    def _served(self) -> Loaded:
        assert self._holder.loaded is not None  # asked before: web.py answers 503 until a model is loaded
        return self._holder.loaded

    async def _own(self, subject: str | None, key: str) -> Predictor:
        """The served model, adapted to the person whose key this is. Raises ValueError."""
        served = self._served
        person = await self._opened(subject, key)
        slot = await self.adapted(person.version)
        return await asyncio.to_thread(slot.filled, served.predictor, served.run, person, served.people)

    async def _opened(self, subject: str | None, key: str) -> PersonRecord:
        """The person whose key this is. Refusals take one time, so that none tells whether there is such a person."""
        begun = asyncio.get_running_loop().time()
        try:
            return await asyncio.to_thread(self._served.people.opened, subject, key)
        except Forbidden:
            await asyncio.sleep(begun + _REFUSAL_S - asyncio.get_running_loop().time())
            raise

    @serve.multiplexed(max_num_models_per_replica=PERSONS)
    async def adapted(self, version: str) -> AdapterSlot:
        """A slot for a person's model, by the random name of its version: Ray's logs and metrics show that name, never
        the person. A client that sends it back as the header serve_multiplexed_model_id reaches a replica that holds
        it."""
        slot = self._adapted[version] = AdapterSlot()
        return slot

    async def check_health(self) -> None:
        """Every two seconds: what was deleted, or calibrated anew, leaves the memory too, and what this replica was
        told while it started is taken over. Nothing here makes it a bad one."""
        if self._holder.loaded is not None:
            drop_deleted(self._adapted, self._served.people)
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look_for_change())

    async def _look_for_change(self) -> None:
        try:
            if await asyncio.to_thread(self._wanted) != self._holder.config:
                await self._holder.configure(self._wanted)
        except Exception as error:  # of the cluster's memory
            log.warning("can't look at what is wanted: %s", error)

    def open_stream(self, channels: dict[str, tuple[float, str]]) -> SignalStream:
        return self._served.predictor.open_stream(channels)

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0.002, batch_size_fn=batch_size)
    async def _together(self, requests: list[History]) -> list[Answer | ValueError]:
        """What has arrived while the last batch was computed, up to BATCH usual requests. On the event loop: a thread
        would wait for the interpreter's lock after each of the model's operations, and was measured three times
        slower."""
        return self._served.predictor.predict(requests)


class _Gauges:
    """What a replica says of its model to whoever scrapes Ray's metrics."""

    def __init__(self) -> None:
        self._loaded = Gauge("raycadian_model_loaded", "1: a model answers")
        self._rejected = Gauge("raycadian_run_rejected", "1: the run that is wanted could not be loaded")
        self._unread = Gauge("raycadian_registry_unreadable", "1: the registry that is followed can't be read")

    def __call__(self, holder: Holder) -> None:
        gauges = ((self._loaded, holder.loaded), (self._rejected, holder.rejected), (self._unread, holder.following))
        for gauge, value in gauges:
            gauge.set(float(value is not None))


def application(args: dict[str, str]) -> Any:
    """The Serve application that `import_path` names. args: `key`, shared where `keys.share` has told the cluster,
    else this machine's key is used."""
    return Endpoint.bind(shared() if args.get("key") == "shared" else digest(api_key()))
