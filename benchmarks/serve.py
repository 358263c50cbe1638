"""Requests per second and latency: our endpoint against the same model behind plain FastAPI and uvicorn.

Both answer the same request (144 readings, one context) with the same Forecaster, side by side on this machine, one
after the other, loaded by a separate process (wrk where installed, else an asyncio client of aiohttp). The plain peer
is written as FastAPI's documentation says for work that computes: a `def` endpoint, which runs in a pool of threads,
one forward pass a request. `async def`, which computes on the event loop, is shown beside it.
Run: `python benchmarks/serve.py [--run RUN] [--json]`. Without a run, a residual TTM with random weights: speed doesn't
depend on weights.
"""

import argparse
import asyncio
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from raycadian.cluster import connect
from raycadian.config import TTM, Grid, Recipe, Residual
from raycadian.files import write_json
from raycadian.modalities.cgm.request import ForecastRequest
from raycadian.models import checkpoint
from raycadian.models.base import ModelSpec
from raycadian.models.build import build
from raycadian.physiology.cma.fit import fit_cma
from raycadian.physiology.cma.meals import meal_times
from raycadian.runs import Run, write_recipe
from raycadian.serving.app import free_port, serving
from raycadian.serving.forecaster import Forecaster
from raycadian.serving.keys import api_key

PEERS = ("raycadian", "plain def", "plain async def")
_LUA = """wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer %s"
local file = io.open("%s", "r")
wrk.body = file:read("*all")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of a run")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 64])
    parser.add_argument(
        "--replicas", type=int, default=1, help="of ours; the plain peer is one process that takes all cores"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of load for each figure")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plain", nargs=2, metavar=("PORT", "KIND"), help=argparse.SUPPRESS)
    parser.add_argument("--client", nargs=5, metavar="X", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain:
        return serve_plain(arguments.run, int(arguments.plain[0]), arguments.plain[1])
    if arguments.client:
        return aiohttp_client(*arguments.client)
    rows = measure(arguments)
    found = {"client": "wrk" if shutil.which("wrk") else "aiohttp", "rows": rows, "ratios": ratios(rows)}
    if arguments.json:
        print(json.dumps(found))
    else:
        print(pd.DataFrame(rows).to_string(index=False))
        print(pd.DataFrame(found["ratios"]).to_string(index=False))


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        run = Run(arguments.run or random_run(Path(folder)))
        body = Path(folder) / "body.json"
        body.write_text(json.dumps(request(run)), encoding="utf-8")
        rows = []
        for peer in arguments.peers:
            with serving_peer(peer, run, arguments.replicas) as url:
                for clients in arguments.clients:
                    load(url, clients, 2.0, body)  # warm
                    rows.append({"peer": peer, "clients": clients} | load(url, clients, arguments.seconds, body))
                    print(rows[-1], file=sys.stderr)
        return rows


def ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ours over each peer, at each number of clients."""
    at = {(r["peer"], r["clients"]): r for r in rows}
    return [
        {
            "against": peer, "clients": clients,
            **{
                name: round(ours[key] / at[peer, clients][key], 3) if at[peer, clients][key] else None
                for name, key in (("requests_per_s", "requests_per_s"), ("p50", "p50_ms"), ("p99", "p99_ms"))
            },
        }
        for (name, clients), ours in at.items() if name == PEERS[0]
        for peer in PEERS[1:] if (peer, clients) in at
    ]  # fmt: skip


# --- what is served -----------------------------------------------------------------------------------------------


def random_run(folder: Path, seed: int = 0) -> Path:
    """A run's folder around a model that was never trained, as far as serving reads it."""
    recipe = Recipe(name="random", dataset="none", model=Residual(inner=TTM()))
    window, run = recipe.window, folder / "random-20260101T000000-00000000"
    torch.manual_seed(seed)
    spec = ModelSpec(window.context, window.horizon, 5.0, window.past, window.known, recipe.task.quantiles)
    checkpoint.save(build(recipe.model, spec), run / "checkpoint")
    day_h, glucose = torch.arange(288, dtype=torch.float64)[None] / 12, torch.from_numpy(curve(288))[None]
    population = fit_cma(day_h, glucose, tM=meal_times(day_h, glucose, recipe.model.mechanism.meals)).to_records()[0]
    write_json(run / "checkpoint" / "preprocessing.json", {
        "grid": Grid().model_dump(), "window": window.model_dump(mode="json"), "snapshot": "none",
        "mechanism": recipe.model.mechanism.model_dump(mode="json"), "population": population,
    })  # fmt: skip
    write_recipe(run / "recipe.yaml", recipe)
    write_json(run / "metrics_summary.json", {"test": {}})
    write_json(run / "metadata.json", {"snapshot": "none", "status": "complete"})
    return run


def request(run: Run) -> dict[str, Any]:
    """One context of readings every 5 minutes."""
    n = run.recipe.window.context
    times = np.datetime64("2026-03-02T06:00:00") + 300 * np.arange(n)
    readings = [{"time": f"{t}Z", "glucose": round(float(g), 1)} for t, g in zip(times, curve(n), strict=True)]
    return {"unit": "mg/dL", "utc_offset_min": 60, "readings": readings}


def curve(n: int) -> np.ndarray:
    hour = np.arange(n) / 12
    return 110 + sum(50 * np.exp(-((hour % 24 - meal) ** 2) / 2) for meal in (8, 13, 20))


@contextmanager
def serving_peer(peer: str, run: Run, replicas: int) -> Iterator[str]:
    """The address that answers forecasts, for the length of a block."""
    port = free_port()
    if peer == PEERS[0]:
        with serving(run, port=port, replicas=replicas) as server:
            print(server.proxy, file=sys.stderr)
            yield f"{server.url}/v1/forecast"
        connect().shutdown()  # the peers have the machine to themselves
        return
    kind = peer.removeprefix("plain ")
    process = subprocess.Popen([sys.executable, __file__, "--run", str(run.path), "--plain", str(port), kind])
    try:
        wait_for(f"http://127.0.0.1:{port}/healthz", process)
        yield f"http://127.0.0.1:{port}/forecast"
    finally:
        process.terminate()
        process.wait()


def wait_for(url: str, process: subprocess.Popen) -> None:
    while process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"the plain peer ended with status {process.returncode}")


def serve_plain(run: Path, port: int, kind: str) -> None:
    """The peer as people write it: load once, a body that pydantic checks, one forecast a request."""
    import uvicorn
    from fastapi import FastAPI

    app, forecaster = FastAPI(), Forecaster.load(run)

    def forecast(body: ForecastRequest) -> dict:
        return forecaster.answer(body.data()).as_dict()

    async def forecast_on_the_loop(body: ForecastRequest) -> dict:
        return forecast(body)

    app.post("/forecast")(forecast if kind == "def" else forecast_on_the_loop)
    app.get("/healthz")(lambda: {})
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


# --- the load -------------------------------------------------------------------------------------------------------


def load(url: str, clients: int, seconds: float, body: Path) -> dict[str, float]:
    """Requests per second, p50 and p99 in ms of `clients` that ask again as soon as they are answered."""
    if shutil.which("wrk"):
        return wrk(url, clients, seconds, body)
    arguments = [url, str(clients), str(seconds), str(body), api_key()]
    done = subprocess.run(
        [sys.executable, __file__, "--client", *arguments], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def wrk(url: str, clients: int, seconds: float, body: Path) -> dict[str, float]:
    script = body.with_name("post.lua")
    script.write_text(_LUA % (api_key(), body), encoding="utf-8")
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--timeout", "10s", "--latency", "-s", str(script), url]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if failed := re.search(r"Non-2xx.*|Socket errors.*", out):
        raise SystemExit(f"{url}: {failed[0]}")
    unit = {"us": 1e-3, "ms": 1.0, "s": 1e3}
    at = {p: float(v) * unit[u] for p, v, u in re.findall(r"(\d+)%\s+([\d.]+)(us|ms|s)", out)}
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])
    return {"requests_per_s": round(rate, 1), "p50_ms": round(at["50"], 2), "p99_ms": round(at["99"], 2)}


def aiohttp_client(url: str, clients: str, seconds: str, body: str, key: str) -> None:
    """The same load from Python, for machines without wrk; it takes more of the processor, from both peers alike."""
    import aiohttp

    data, took = Path(body).read_bytes(), []
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    async def client(session: aiohttp.ClientSession, end: float) -> None:
        while (began := time.perf_counter()) < end:
            async with session.post(url, data=data, headers=headers) as answer:
                await answer.read()
                answer.raise_for_status()
            took.append(1000 * (time.perf_counter() - began))

    async def run() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            end = time.perf_counter() + float(seconds)
            await asyncio.gather(*(client(session, end) for _ in range(int(clients))))

    asyncio.run(run())
    p50, p99 = np.percentile(took, [50, 99])
    print(
        json.dumps(
            {"requests_per_s": round(len(took) / float(seconds), 1), "p50_ms": round(p50, 2), "p99_ms": round(p99, 2)}
        )
    )


if __name__ == "__main__":
    main()
