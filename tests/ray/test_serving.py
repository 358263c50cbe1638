"""The endpoint on real Ray Serve: equality with the scored forecasts, batches, promotion in place, start and stop."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import served
import yaml
from clusters import reachable

from raycadian.personal.store import digest
from raycadian.runs import Run
from raycadian.serving import app
from raycadian.training.pipeline import read_predictions

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
AUTH = {"Authorization": f"Bearer {served.KEY}"}
PATH = "/v1/forecast"


@pytest.fixture(scope="module")
def readings():
    return served.people(4, 5)


@pytest.fixture(scope="module")
def runs(readings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [served.make_run(folder, readings, seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def server(ray_local, runs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYCADIAN_API_KEY", served.KEY)
        with app.serving(runs[0], port=app.free_port()) as found:
            yield found


def request_of(readings, time_utc):
    """The history up to a scored window, as a person would send it."""
    known = served.until(readings, time_utc)
    times = known.glucose["time_utc"].to_numpy("datetime64[s]")
    return {
        "unit": "mg/dL", "utc_offset_min": 60, "subject": readings.subject,
        "readings": [
            {"time": f"{t}Z", "glucose": g} for t, g in zip(times, known.glucose["glucose_mgdl"].tolist(), strict=True)
        ],
    }  # fmt: skip


def requests_of(run, readings, n):
    p = read_predictions(run)
    rows = np.linspace(0, len(p) - 1, n).astype(int)
    return p, rows, [request_of(readings[p.subject[i]], p.time_utc[i]) for i in rows]


def ask_at_once(url, bodies):
    """All requests in flight together; answers in order."""

    async def ask():
        limits = httpx.Limits(max_connections=len(bodies))
        async with httpx.AsyncClient(base_url=url, headers=AUTH, limits=limits, timeout=60) as client:
            return await asyncio.gather(*(client.post(PATH, content=body) for body in bodies))

    return asyncio.run(ask())


def assert_equal(answer, p, i):
    quantiles = np.array(list(answer["quantiles_mgdl"].values())).T
    np.testing.assert_allclose(quantiles, p.quantiles[i], rtol=0, atol=1e-5)
    assert answer["origin_utc"] == f"{p.time_utc[i]}Z"
    for name, part in answer["parts_mgdl"].items():
        np.testing.assert_allclose(part, p.parts[name][i], rtol=0, atol=1e-5)


def test_offline_equals_served_over_http(server, runs, readings):
    p, rows, bodies = requests_of(runs[0], readings, 12)
    for i, body in zip(rows, bodies, strict=True):
        answer = server.post(PATH, body)
        assert_equal(answer, p, i)
        assert answer["model"] == runs[0].name and answer["subject"] == p.subject[i]


def test_64_at_once_are_answered_as_one_by_one_and_bad_ones_spoil_none(server, runs, readings):
    p, rows, bodies = requests_of(runs[0], readings, 64)
    contents = [json.dumps(b).encode() for b in bodies]
    bad = [b"{", json.dumps(bodies[0] | {"readings": bodies[0]["readings"][:5]}).encode()]
    answers = ask_at_once(server.url, [part for c in contents for part in (c, bad[0], bad[1])])
    assert {a.status_code for a in answers[1::3]} == {a.status_code for a in answers[2::3]} == {422}
    for i, answer in zip(rows, answers[::3], strict=True):
        assert_equal(answer.json(), p, i)


def test_refusals_over_http(server, runs, readings):
    _, _, (body,) = requests_of(runs[0], readings, 1)
    with httpx.Client(base_url=server.url, timeout=60) as bare:
        assert bare.get("/healthz").json() == {"status": "alive"}
        assert bare.get("/readyz").json()["model"] == runs[0].name
        assert bare.post(PATH, json=body).json()["error"] == "unauthorized"
        assert bare.post(PATH, json=body, headers={"Authorization": "Bearer wrong"}).status_code == 401
        for text in ("NaN", "Infinity", "-Infinity"):
            sent = json.dumps(body).replace(f'"glucose": {body["readings"][3]["glucose"]}', f'"glucose": {text}')
            answer = bare.post(PATH, content=sent.encode(), headers=AUTH)
            assert answer.status_code == 422 and "finite" in answer.json()["detail"]
        assert bare.post(PATH, json=body, headers=AUTH).status_code == 200


def test_a_50_mb_request_is_refused_and_the_next_answered(server, runs, readings):
    _, _, (body,) = requests_of(runs[0], readings, 1)

    def chunks():
        for _ in range(50):
            yield b" " * 1_000_000

    for content in (b" " * 50_000_000, chunks()):
        try:
            answer = httpx.post(server.url + PATH, content=content, headers=AUTH, timeout=60)
            assert answer.status_code == 413 and answer.json()["error"] == "too_large"
        except httpx.WriteError:
            pass  # the server may hang up on who goes on sending after the refusal
        assert server.post(PATH, body)["model"] == runs[0].name


def replica_pids():
    import ray
    from ray.util.state import list_actors

    address = ray.get_runtime_context().gcs_address
    found = list_actors(address=address, filters=[("state", "=", "ALIVE")], limit=1000)
    return {actor.pid for actor in found if "ServeReplica" in actor.class_name}


def test_promotion_in_place_and_one_that_fails(server, runs, readings, tmp_path):
    p, rows, bodies = requests_of(runs[1], readings, 4)
    before = replica_pids()
    promoted = server.promote(runs[1])
    assert promoted.run == runs[1] and server.get("/v1/model")["model"] == runs[1].name
    for i, body in zip(rows, bodies, strict=True):
        assert_equal(server.post(PATH, body), p, i)

    damaged = tmp_path / "damaged"
    shutil.copytree(runs[0].path, damaged)
    (damaged / "manifest.json").unlink()  # as in a run of before
    weights = damaged / "checkpoint" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match="was not taken over.*damaged checkpoint"):
        promoted.promote(Run(damaged))
    model = server.get("/v1/model")
    assert model["model"] == runs[1].name and "damaged checkpoint" in model["rejected"]

    server.promote(runs[0])
    assert server.get("/v1/model")["rejected"] is None
    assert replica_pids() == before  # nothing was restarted


def test_no_log_or_file_of_the_session_holds_the_key_or_its_hash(server, ray_local):
    session = Path(ray_local._private.worker._global_node.get_session_dir_path())
    secrets = (served.KEY.encode(), digest(served.KEY).encode())
    files = [file for file in session.rglob("*") if file.is_file() and not file.is_symlink()]
    assert any("controller_build" in file.name for file in files)
    assert not [file for file in files if any(secret in file.read_bytes() for secret in secrets)]


def test_one_endpoint_a_cluster_and_a_port_of_its_own(server, runs):
    with pytest.raises(ValueError, match="--port"):
        app.start(runs[0], port=server.port)
    with pytest.raises(ValueError, match="runs on this cluster already"):
        app.start(runs[0], port=app.free_port())
    assert server.get("/readyz")["model"] == runs[0].name


def test_the_serve_configurations_are_valid():
    from ray._common.utils import import_attr
    from ray.serve.schema import ServeDeploySchema

    for path in sorted((ROOT / "serve").glob("*.yaml")):
        config = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
        (application,) = config.applications
        assert callable(import_attr(application.import_path))
        assert [d.name for d in application.deployments] == ["forecaster"]
    assert not list((ROOT / "serve").rglob("*.py"))


FOREVER = """
import sys
from pathlib import Path
from raycadian.serving.app import serve_forever
from raycadian.runs import Run
first, second, flag, port = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
def champion():
    if flag.with_name("away").exists():
        raise OSError("no registry")
    return Run(second if flag.exists() else first)
serve_forever(Run(first), port=port, follow=champion, every_s=0.5, tell=lambda text: print(text, flush=True))
"""


@contextmanager
def asked_without_pause(url, body):
    """What two clients are answered in the block: (status, model) of each request."""
    answers, ended = [], threading.Event()

    def ask():
        with httpx.Client(base_url=url, headers=AUTH, timeout=20) as client:
            while not ended.is_set():
                answer = client.post(PATH, json=body)
                answers.append((answer.status_code, answer.json().get("model")))
                time.sleep(0.01)

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        try:
            yield answers
        finally:
            ended.set()
        for one in asking:
            one.result()


@pytest.mark.long
def test_serve_forever_follows_the_champion_and_ends_on_a_signal(runs, readings, tmp_path):
    """As `raycadian serve` runs it: a Ray of its own with HAProxy before the replicas."""
    flag, port = tmp_path / "promoted", app.free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "OMP_"))}
    environment |= {"RAYCADIAN_API_KEY": served.KEY, "PYTHONPATH": str(ROOT / "platform")}
    process = subprocess.Popen(
        [sys.executable, "-c", FOREVER, str(runs[0].path), str(runs[1].path), str(flag), str(port)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        told = process.stdout.readline()
        assert re.search(r"answers on http://127.0.0.1:\d+/v1/forecast .*HAProxy.*throughput", told), told
        assert served.KEY not in told
        p, rows, bodies = requests_of(runs[0], readings, 3)
        for i, body in zip(rows, bodies, strict=True):
            assert_equal(httpx.post(f"http://127.0.0.1:{port}{PATH}", json=body, headers=AUTH, timeout=60).json(), p, i)
        assert not reachable(psutil.Process(process.pid))
        too_much = httpx.post(f"http://127.0.0.1:{port}{PATH}", content=b" " * 1_000_001, headers=AUTH)
        assert too_much.status_code == 413
        with asked_without_pause(f"http://127.0.0.1:{port}", bodies[0]) as answers:  # of one replica
            flag.with_name("away").touch()
            assert "can't be read" in process.stdout.readline()
            flag.with_name("away").unlink()
            assert "can be read again" in process.stdout.readline()
            flag.touch()
            assert process.stdout.readline() == f"promoted in place: {runs[1].name}\n"
        assert Counter(status for status, _ in answers) == {200: len(answers)} and len(answers) > 10
        assert {model for _, model in answers} <= {run.name for run in runs}
        assert httpx.get(f"http://127.0.0.1:{port}/readyz").json()["model"] == runs[1].name
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0 and "ending" in process.stdout.read()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/healthz")
