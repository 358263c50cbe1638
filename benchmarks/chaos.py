"""What clients see of `raycadian serve` while everything around it fails: one endpoint of two replicas under steady
load, while replicas and HAProxy are killed, the registry is locked and damaged, the runs' folder goes away and its disk
is filled, champions are swapped and one that can't be loaded is promoted.

Every answer is compared with what the run that it names forecasts offline. Two runs with random weights: what is
wrong doesn't depend on weights. Run: `python benchmarks/chaos.py [--seconds 300] [--rate 40] [--json]`. Needs Linux.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
import torch
from serve import random_run

from raycadian.evaluation.forecast.predictions import Predictions
from raycadian.modalities.cgm.request import ForecastRequest
from raycadian.runs import Run, predictions_file, write_json
from raycadian.serving.environment import free_port
from raycadian.serving.forecaster import Forecaster
from raycadian.serving.keys import api_key
from raycadian.tracking import registry

HUNG_S = 5.0
_BODIES = 12
_DISK_MB = 64
_EVERY_S = 16.0  # at least between faults, each of which lasts some seconds; and until both replicas are up
_SETTLED_S = 8.0  # at the end without a fault
_TOLERANCE_MGDL = 1e-5
_PROMOTE = """
import sys
from pathlib import Path
from raycadian.runs import Run
from raycadian.tracking import registry
registry.promote(Run(Path(sys.argv[1])), check=lambda run: "", runs=Path(sys.argv[2]), force=True)
"""
OUTCOMES = ("answered", "refused", "failed", "wrong", "hung")
"""refused: 429, 503, or no connection · failed: sent, and then the connection ended, or 500 · hung: nothing for 5 s."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--rate", type=float, default=40.0, help="requests a second")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = measure(arguments.seconds, arguments.rate)
    print(json.dumps(rows) if arguments.json else table(rows))


def measure(seconds: float, rate: float) -> list[dict[str, Any]]:
    """A row a fault, and one of all: requests by outcome, the slowest answer in s, and when the last was not answered,
    in s after the fault began."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, _disk(Path(folder) / "disk") as small:
        place = _prepare(Path(folder) / "disk", small)
        with _endpoint(place) as endpoint:
            load = Load(place, endpoint.url, rate)
            asyncio.run(_both(load, endpoint, place, seconds))
    return load.rows()


# --- what is served ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A folder of runs with its registry; what is asked, and what each run forecasts: name -> (bodies, H, Q). `small`:
    it lies on a disk of its own, which can be filled."""

    runs: Path
    served: tuple[Run, Run]
    bad: Run
    bodies: list[bytes]
    expected: dict[str, list[np.ndarray]]
    small: bool

    async def promote(self, run: Run) -> None:
        if refusal := await self.refusal(run):
            raise SystemExit(f"{run.name} was not promoted: {refusal}")

    async def refusal(self, run: Run) -> str:
        """Of a promotion in a process of its own, as a person's would be; nothing looks at the run before. Empty where
        it is promoted."""
        command = [sys.executable, "-c", _PROMOTE, str(run.path), str(self.runs)]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, text = await process.communicate()
        return text.decode().strip().rpartition("\n")[2] or "no reason given" if process.returncode else ""

    async def other(self) -> Run:
        """A run that is served, and is not the champion."""
        present = registry.champion(runs=self.runs)
        return next(run for run in self.served if run.name != present.name)


@contextmanager
def _disk(folder: Path) -> Iterator[bool]:
    """A folder, on a small disk of its own where one may be mounted here."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_MB}m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        print(f"storage filled: left out, no disk can be mounted here: {mounted.stderr.decode()}", file=sys.stderr)
    try:
        yield not mounted.returncode
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", "-l", folder], check=True)


def _prepare(folder: Path, small: bool) -> Place:
    runs = folder / "runs"
    served = tuple(_run(runs, name, seed) for name, seed in (("first", 0), ("second", 1)))
    bad = Run(shutil.copytree(served[1].path, runs / "bad-20260101T000000-00000000"))
    (bad.path / "checkpoint" / "config.json").write_text("[" * 100_000)
    requests = [_request(served[0].recipe.window.context, seed) for seed in range(_BODIES)]
    histories = [ForecastRequest.model_validate(request).data() for request in requests]
    expected = {}
    for run in served:
        expected[run.name] = [answer.quantiles for answer in Forecaster.load(run.path).predict(histories)]
    place = Place(runs, served, bad, [json.dumps(request).encode() for request in requests], expected, small)
    asyncio.run(place.promote(served[0]))
    return place


def _run(runs: Path, name: str, seed: int) -> Run:
    made = random_run(runs / ".making", seed)
    run = Run(made.rename(runs / f"{name}-20260101T000000-0000000{seed}"))
    headline = run.recipe.task.headline.name
    _missed_by(20.0, run).write_parquet(run.path / predictions_file("val"))  # what promotion computes its score from
    write_json(run.path / "metrics_summary.json", {"val": {headline: {"value": 20.0}}, "test": {}})
    return run


def _missed_by(error_mgdl: float, run: Run, n: int = 50) -> Predictions:
    """Forecasts of validation windows that nobody made."""
    steps, levels = run.recipe.window.horizon, np.array(run.recipe.task.quantiles)
    return Predictions(
        subject=np.full(n, "somebody"), time_utc=np.datetime64("2026-01-01T00:00:00") + 300 * np.arange(n),
        local_h=np.zeros(n), truth=np.full((n, steps), 120.0), levels=levels,
        quantiles=np.full((n, steps, len(levels)), 120.0 + error_mgdl),
    )  # fmt: skip


def _request(run_length: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    glucose = (
        130 + 25 * np.sin(np.arange(run_length) / 12 + rng.uniform(0, 6)) + np.cumsum(rng.normal(0, 1, run_length))
    )
    times = np.datetime64("2026-03-02T06:00:00") + 300 * np.arange(run_length)
    readings = [{"time": f"{t}Z", "glucose": round(float(g), 1)} for t, g in zip(times, glucose, strict=True)]
    return {"unit": "mg/dL", "utc_offset_min": 60, "readings": readings}


@dataclass(frozen=True)
class Endpoint:
    """`raycadian serve` as a process."""

    process: subprocess.Popen
    url: str

    def parts(self, *words: str) -> list[psutil.Process]:
        """The processes below it in whose command every word stands."""
        matching = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                command = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if all(word in command for word in words):
                matching.append(process)
        return matching

    async def replicas_up(self) -> int:
        """How many HAProxy sends requests to."""
        for process in self.parts("haproxy", "-db"):
            config = Path(process.cmdline()[process.cmdline().index("-f") + 1])
            with suppress(OSError):
                reader, writer = await asyncio.open_unix_connection(config.with_name("admin.sock"))
                writer.write(b"show stat\n")
                lines = (await reader.read()).decode().splitlines()
                writer.close()
                return sum("SERVE_REPLICA" in line and ",UP," in line for line in lines)
        return 0


@contextmanager
def _endpoint(place: Place) -> Iterator[Endpoint]:
    port = free_port()
    verb = ["serve", "--runs", str(place.runs), "--port", str(port), "--replicas", "2"]
    environment = os.environ | {"RAYCADIAN_API_KEY": api_key()}
    code = "import sys; from raycadian.cli.main import main; sys.argv[0] = 'raycadian'; main()"
    process = subprocess.Popen([sys.executable, "-c", code, *verb], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        first = process.stdout.readline()
        if "answers on" not in first:
            raise SystemExit(f"the endpoint did not start: {first}")
        yield Endpoint(process, f"http://127.0.0.1:{port}/v1/forecast")
        if process.poll() is not None:
            raise SystemExit(f"the endpoint ended with status {process.returncode}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(90)
        process.stdout.close()


# --- what fails -------------------------------------------------------------------------------------------------------


async def _kill_replica(endpoint: Endpoint, place: Place) -> None:
    random.choice(endpoint.parts("ServeReplica")).kill()


async def _kill_proxy(endpoint: Endpoint, place: Place) -> None:
    for process in endpoint.parts("haproxy", "-db"):
        process.kill()


async def _lock_registry(endpoint: Endpoint, place: Place) -> None:
    with closing(sqlite3.connect(place.runs / "mlflow.db", isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        await asyncio.sleep(12)
        connection.execute("ROLLBACK")


async def _damage_registry(endpoint: Endpoint, place: Place) -> None:
    database, kept = place.runs / "mlflow.db", place.runs / "kept.db"
    shutil.copy(database, kept)
    with database.open("r+b") as file:
        file.truncate(database.stat().st_size // 2)
    await asyncio.sleep(12)
    kept.replace(database)


async def _swap_champion(endpoint: Endpoint, place: Place) -> None:
    await place.promote(await place.other())
    await asyncio.sleep(12)


async def _promote_bad(endpoint: Endpoint, place: Place) -> None:
    """It stays champion while a replica is killed, then a good one is again."""
    present = registry.champion(runs=place.runs)
    await place.promote(place.bad)
    await asyncio.sleep(11)
    await _kill_replica(endpoint, place)
    await asyncio.sleep(4)
    await place.promote(present)


async def _take_storage_away(endpoint: Endpoint, place: Place) -> None:
    """A replica is killed while no run can be read: its successor waits until one can be."""
    away = place.runs.with_name("away")
    place.runs.rename(away)
    await _kill_replica(endpoint, place)
    await asyncio.sleep(12)
    away.rename(place.runs)


async def _fill_storage(endpoint: Endpoint, place: Place) -> None:
    """Nothing more can be written beside the runs and the registry: a promotion is refused, and a replica is killed,
    whose successor loads the champion."""
    filler, other = place.runs.with_name("filler"), await place.other()
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    refusal = await place.refusal(other)
    if "RegistryError" not in refusal and "StorageError" not in refusal:
        raise SystemExit(f"promoting on a full disk: expected an error of the registry or of storage, found {refusal}")
    await _kill_replica(endpoint, place)
    await asyncio.sleep(10)
    filler.unlink()


FAULTS: dict[str, Callable[[Endpoint, Place], Any]] = {
    "replica killed": _kill_replica,
    "registry locked": _lock_registry,
    "champion swapped": _swap_champion,
    "HAProxy killed": _kill_proxy,
    "registry damaged": _damage_registry,
    "bad champion, replica killed": _promote_bad,
    "storage away, replica killed": _take_storage_away,
    "storage filled, replica killed": _fill_storage,
}


async def _whole_again(endpoint: Endpoint) -> None:
    """Until both replicas answer: what two faults at once would show is another question."""
    for _ in range(120):
        if await endpoint.replicas_up() >= 2:
            return
        await asyncio.sleep(0.5)


async def _both(load: "Load", endpoint: Endpoint, place: Place, seconds: float) -> None:
    ending = asyncio.get_running_loop().time() + seconds
    asking = asyncio.create_task(load.ask_until(ending))
    await asyncio.sleep(3)
    faults = {name: fault for name, fault in FAULTS.items() if place.small or fault is not _fill_storage}
    for name, fault in itertools.cycle(faults.items()):
        left = ending - asyncio.get_running_loop().time() - _SETTLED_S
        if left < _EVERY_S:
            break
        await _whole_again(endpoint)
        load.begin(name)
        print(f"{seconds - left - _SETTLED_S:5.0f} s: {name}", file=sys.stderr)
        await asyncio.gather(fault(endpoint, place), asyncio.sleep(_EVERY_S))
    await asking


# --- what clients see -------------------------------------------------------------------------------------------------


@dataclass
class Load:
    """Requests at a steady rate, whatever became of those before."""

    place: Place
    url: str
    rate: float
    fault: str = "none yet"
    began_s: float = 0.0
    seen: list[tuple[str, str, float, float]] = field(default_factory=list)
    """Of each request: the last fault before its end, outcome, seconds it took, seconds from the fault to its end."""
    details: Counter[str] = field(default_factory=Counter)

    def begin(self, fault: str) -> None:
        self.fault, self.began_s = fault, time.monotonic()

    async def ask_until(self, ending: float) -> None:
        headers = {"Authorization": f"Bearer {api_key()}", "Content-Type": "application/json"}
        loop, asked = asyncio.get_running_loop(), set()
        async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session:
            for number in itertools.count():
                if loop.time() > ending:
                    break
                asked.add(asyncio.create_task(self._ask(session, number % _BODIES)))
                await asyncio.sleep(1 / self.rate)
            await asyncio.gather(*asked)

    async def _ask(self, session: aiohttp.ClientSession, body: int) -> None:
        began = time.monotonic()
        outcome = await self._outcome(session, body)
        ended = time.monotonic()
        self.seen.append((self.fault, outcome, ended - began, ended - self.began_s))

    async def _outcome(self, session: aiohttp.ClientSession, body: int) -> str:
        try:
            async with asyncio.timeout(HUNG_S), session.post(self.url, data=self.place.bodies[body]) as answer:
                return self._judged(answer.status, await answer.read(), body)
        except TimeoutError:
            return "hung"
        except aiohttp.ClientConnectorError:
            return "refused"
        except aiohttp.ClientError as error:
            self.details[type(error).__name__] += 1
            return "failed"

    def _judged(self, status: int, content: bytes, body: int) -> str:
        if status != 200:
            self.details[f"{status} {content[:80]!r}"] += 1
            return "refused" if status in (429, 503) and json.loads(content)["error"] else "failed"
        answer = json.loads(content)
        quantiles = np.array(list(answer["quantiles_mgdl"].values())).T
        away = np.abs(quantiles - self.place.expected[answer["model"]][body]).max()
        return "answered" if away <= _TOLERANCE_MGDL else "wrong"

    def rows(self) -> list[dict[str, Any]]:
        names = list(dict.fromkeys(fault for fault, *_ in self.seen))
        print(dict(self.details), file=sys.stderr)
        return [self._row(name, [s for s in self.seen if s[0] == name]) for name in names] + [
            self._row("all", self.seen)
        ]

    def _row(self, name: str, seen: list[tuple[str, str, float, float]]) -> dict[str, Any]:
        counts = Counter(outcome for _, outcome, *_ in seen)
        late = [after_s for _, outcome, _, after_s in seen if outcome != "answered"]
        last_s = round(max(late), 1) if late and name != "all" else None
        row = {"fault": name, "sent": len(seen)} | {outcome: counts[outcome] for outcome in OUTCOMES}
        return row | {"slowest_s": round(max(took for _, _, took, _ in seen), 2), "last_not_answered_s": last_s}


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown."""
    head = ["fault", "sent", *OUTCOMES, "slowest, s", "last not answered, s after"]
    lines = [[str("" if value is None else value) for value in row.values()] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
