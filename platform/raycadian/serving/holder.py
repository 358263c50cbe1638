"""The model that a replica holds: loaded, changed over in place, never lost to a run that can't be loaded. No Ray, no
HTTP."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenacity import AsyncRetrying, stop_after_delay, wait_exponential

from raycadian.personal.store import PEOPLE, Store
from raycadian.runs import RUNS, Run
from raycadian.serving.load import describe, load_predictor
from raycadian.serving.predictor import Predictor

log = logging.getLogger("ray.serve")
_LOAD_S = 300.0  # until a run is given up that can't be loaded
_AGAIN_S, _AGAIN_MOST_S = 1.0, 30.0  # between tries, as long as nothing is loaded
_SOURCE = ("run", "cases", "people")  # what of a configuration says what is loaded


@dataclass(frozen=True)
class Loaded:
    """A run and its predictor, the people who calibrated it, what /v1/model says of it, and where they came from."""

    run: Run
    predictor: Predictor
    people: Store
    description: dict[str, Any]
    source: dict[str, Any]


class Holder:
    """What is served now (None: nothing), and what is said of it: `rejected`, `following`, as in ModelResponse.
    config: the last configuration that was looked at · `changed` is called after each look at one."""

    def __init__(self, changed: Callable[["Holder"], None] = lambda holder: None):
        self.loaded: Loaded | None = None
        self.rejected: str | None = None
        self.following: str | None = None
        self.config: dict[str, Any] = {}
        self._changed, self._one_at_a_time = changed, asyncio.Lock()

    async def configure(self, wanted: Callable[[], dict[str, Any]]) -> None:
        """Load the run that is `wanted` beside the one that answers, then change over; where it can't be loaded the old
        one goes on, of a new replica the configuration's `fallback`. Raises ValueError where there is neither, after
        trying again, with what is wanted by then, for `patience_s`: until then, as whenever this raises, Serve sends a
        new replica no requests."""
        async with self._one_at_a_time:
            if not await self._look(wanted) and self.loaded is None:
                await self._keep_trying(wanted)
            self._changed(self)

    def describe(self) -> dict[str, Any] | None:
        if self.loaded is None:
            return None
        return self.loaded.description | {"rejected": self.rejected, "following": self.following}

    async def _look(self, wanted: Callable[[], dict[str, Any]]) -> bool:
        """Whether what is wanted, or of a new replica its fallback, is served now."""
        config = self.config = await asyncio.to_thread(wanted)
        self.rejected, self.following = config.get("rejected"), config.get("following")
        return await self._take_over(config) or (self.loaded is None and await self._fall_back(config))

    async def _take_over(self, config: dict[str, Any]) -> bool:
        """Whether what is wanted is served now."""
        if self.loaded and "run" in config and self.loaded.source == _source(config):
            return True
        try:
            self.loaded = await asyncio.wait_for(asyncio.to_thread(_load, config), _LOAD_S)
        except Exception as error:  # whatever a folder from elsewhere makes a library raise
            self.rejected = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            log.error("run rejected, %s: %s", self._who_goes_on(), self.rejected)
            return False
        log.info("serving %s", self.loaded.run.name)
        return True

    async def _fall_back(self, config: dict[str, Any]) -> bool:
        """Whether a new replica serves the run before the one that it can't load; that one stays rejected."""
        if not config.get("fallback"):
            return False
        reason = self.rejected
        taken = await self._take_over(config | {"run": config["fallback"]})
        self.rejected = reason
        return taken

    async def _keep_trying(self, wanted: Callable[[], dict[str, Any]]) -> None:
        waits, patience = wait_exponential(multiplier=_AGAIN_S, max=_AGAIN_MOST_S), self.config.get("patience_s") or 0.0
        async for attempt in AsyncRetrying(wait=waits, stop=stop_after_delay(patience), reraise=True):
            with attempt:
                if not (patience and await self._look(wanted)):
                    raise ValueError(self.rejected)

    def _who_goes_on(self) -> str:
        return f"{self.loaded.run.name} goes on" if self.loaded else "nothing is served"


def _load(config: dict[str, Any]) -> Loaded:
    run = _run_of(config)
    predictor = load_predictor(run.path, config.get("cases"))
    people = Store(Path(config.get("people") or PEOPLE))
    return Loaded(run, predictor, people, describe(run, predictor), _source(config))


def _source(config: dict[str, Any]) -> dict[str, Any]:
    return {name: config.get(name) for name in _SOURCE}


def _run_of(config: dict[str, Any]) -> Run:
    if "run" in config:
        return Run(Path(config["run"]))
    from raycadian.tracking.registry import champion  # MLflow, only where it is asked

    return champion(config.get("champion"), runs=Path(config.get("runs", RUNS)))
