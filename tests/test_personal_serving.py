"""A person's adapter at the endpoint: theirs with their key, nobody's without, the same as offline; on Ray Serve too."""

from __future__ import annotations

import time
from dataclasses import replace

import helpers
import httpx
import numpy as np
import one_person
import pandas as pd
import pytest
import served
from starlette.testclient import TestClient

from raycadian.config import TTM
from raycadian.people.calibrate import Asked, calibrate
from raycadian.people.store import Store
from raycadian.serving import app, web
from raycadian.serving.classifier import Classifier
from raycadian.serving.forecaster import Forecaster, read_history
from raycadian.serving.personal import Adapted, drop_deleted, load_person, open_person
from raycadian.serving.schemas import ForecastResponse, Problem
from raycadian.serving.signal_schemas import BiosignalResponse

pytestmark = pytest.mark.slow
SUBJECT = "zq-17.b"
AUTH = {"Authorization": f"Bearer {served.KEY}"}
PATH = "/v1/actigraphy"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return one_person.population(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def values():
    return one_person.counts(one_person.ill_days(), seed=1)


@pytest.fixture(scope="module")
def recording(values, tmp_path_factory):
    return one_person.write_recording(tmp_path_factory.mktemp("export") / "watch.csv", values)


@pytest.fixture(scope="module")
def known(run, recording, tmp_path_factory):
    """A store with two people, and their keys."""
    folder = tmp_path_factory.mktemp("people")
    store, labels = Store(folder / "people"), one_person.write_labels(folder / "episodes.csv", one_person.ill_days())
    keys = {who: calibrate(Asked(run, who, recording, labels), store).key for who in (SUBJECT, "other")}
    return store, keys


def body(values, **more):
    return {
        "unit": "counts",
        "start": f"{one_person.START}T00:00:00",
        "values": values.tolist(),
        "subject": SUBJECT,
    } | more


class Direct:
    """The service without Ray."""

    def __init__(self, run, store):
        self.run, self.store = run, store
        self.served = (Forecaster if run.recipe.task.kind == "forecast" else Classifier).load(run.path)

    def describe(self):
        return {"model": self.run.name}

    async def answer_signals(self, sent):
        return self.served.estimate(sent)

    async def answer(self, history):
        return self.served.forecast_batch([history])[0]

    async def answer_person(self, asked, key):
        try:
            own = load_person(self.served, self.run, self.store.opened(asked.subject, key), self.store)
            return own.estimate(asked) if hasattr(own, "estimate") else own.forecast(asked)
        except ValueError as error:
            return error


def client_of(run, store):
    return TestClient(web.create_app(Direct(run, store), web.digest(served.KEY)), headers=AUTH)


def test_served_equals_offline(run, known, values, recording):
    store, keys = known
    client = client_of(run, store)
    answer = client.post(PATH, json=body(values), headers={"X-Raycadian-Person-Key": keys[SUBJECT]})
    assert answer.status_code == 200, answer.text
    found = BiosignalResponse.model_validate_json(answer.text)
    offline = open_person(run, store.read(SUBJECT), store).of_file(recording)
    np.testing.assert_allclose([w.probability for w in found.windows], offline.value, atol=1e-12)
    assert [w.day for w in found.windows] == offline.day.astype(str).tolist()
    assert [w.end_s for w in found.windows] == [86400.0 * (d + 1) for d in range(60)]
    assert found.personal["kept"] == "adapter" and found.windows[0].low < found.windows[0].probability
    plain = BiosignalResponse.model_validate_json(client.post(PATH, json=body(values)).text)
    assert plain.personal is None and plain.windows[0].day is None
    assert max(abs(a.probability - b.probability) for a, b in zip(plain.windows, found.windows, strict=True)) > 0.1


def refused(answer):
    assert answer.status_code == 403, answer.text
    problem = Problem.model_validate_json(answer.text)
    assert (problem.error, problem.detail) == ("forbidden", "no such person here, or not their key")
    return answer.text


def test_no_adapter_without_its_persons_key(run, known, values):
    store, keys = known
    client, day = client_of(run, store), values[: 2 * 1440]
    wrong = [
        (SUBJECT, "wrong"),
        (SUBJECT, ""),
        (SUBJECT, keys["other"]),
        ("nobody", keys[SUBJECT]),
        ("../people", "x"),
        (None, "x"),
    ]
    told = {refused(client.post(PATH, json=body(day, subject=s), headers={web.PERSON_KEY: k})) for s, k in wrong}
    assert len(told) == 1  # nothing is said of who is there
    alone = client.post(PATH, json=body(day), headers={web.PERSON_KEY: keys[SUBJECT], "Authorization": "Bearer no"})
    assert alone.status_code == 401  # a person's key is not the server's


def test_what_the_person_did_not_calibrate_by(run, known, values):
    store, keys = known
    client, header = client_of(run, store), {web.PERSON_KEY: keys[SUBJECT]}
    other = client.post(PATH, json=body(values[:2880], unit="mims"), headers=header)
    assert other.status_code == 422 and "calibrated by activity_counts, found activity_mims" in other.json()["detail"]
    short = client.post(PATH, json=body(values[:100]), headers=header)
    assert short.status_code == 422 and "no whole day" in short.json()["detail"]
    unworn = client.post(PATH, json=body(0 * values[:2880]), headers=header).json()
    assert [w["probability"] for w in unworn["windows"]] == [None, None]
    assert unworn["windows"][0]["rejected"] == {"activity_counts": ["missing"]}


def test_another_channel_is_brought_to_the_models_level(run, known, values, tmp_path):
    store, keys = known
    person, copy = store.read(SUBJECT), Store(tmp_path / "people")
    by_steps = replace(person, metadata=person.metadata | {"channel": "steps", "factor": 2.0})
    copy.write(by_steps, store.adapter(SUBJECT))
    header, days = {web.PERSON_KEY: keys[SUBJECT]}, values[: 4 * 1440]
    counts = client_of(run, store).post(PATH, json=body(days), headers=header).json()
    steps = client_of(run, copy).post(PATH, json=body(days / 2, unit="steps"), headers=header).json()
    assert [w["probability"] for w in steps["windows"]] == [w["probability"] for w in counts["windows"]]


def test_a_forecast_by_a_persons_own_adapter(tmp_path):
    run = served.make_run(tmp_path / "runs", served.people(3, 5), model=TTM(d_model=8, layers=1, patch_length=12))
    glucose = helpers.day_curve(16, phase_h=3, seed=50)
    when = np.datetime64("2026-02-01T00:00", "s") + 300 * np.arange(len(glucose))
    pd.DataFrame({"time": when.astype(str), "glucose": glucose.round(1)}).to_csv(tmp_path / "cgm.csv", index=False)
    store = Store(tmp_path / "people")
    key = calibrate(Asked(run, SUBJECT, tmp_path / "cgm.csv"), store).key
    readings = [
        {"time": f"{t}Z", "glucose": float(g)} for t, g in zip(when[-100:], glucose[-100:].round(1), strict=True)
    ]
    asked = {"unit": "mg/dL", "utc_offset_min": 0, "subject": SUBJECT, "readings": readings}
    client = client_of(run, store)
    answer = client.post("/v1/forecast", json=asked, headers={web.PERSON_KEY: key})
    found = ForecastResponse.model_validate_json(answer.text)
    own = open_person(run, store.read(SUBJECT), store).forecast(read_history(tmp_path / "cgm.csv"))
    np.testing.assert_allclose(found.median_mgdl, own.median, atol=1e-5)
    assert found.personal["adapter"] == store.read(SUBJECT).version
    refused(client.post("/v1/forecast", json=asked, headers={web.PERSON_KEY: "wrong"}))


def test_what_was_deleted_leaves_the_memory(run, known, tmp_path):
    store, _ = known
    person, copy = store.read(SUBJECT), Store(tmp_path / "people")
    copy.write(person, store.adapter(SUBJECT))
    held = {v: Adapted(SUBJECT, open_person(run, person, copy)) for v in (person.version, "an older one")}
    drop_deleted(held, copy)
    assert held[person.version].model is not None and held["an older one"].model is None
    copy.forget(SUBJECT)
    drop_deleted(held, copy)
    assert held[person.version].model is None


# --- Ray Serve --------------------------------------------------------------------------------------------------------


@pytest.mark.ray
def test_on_ray_serve(ray_local, run, known, values, recording, tmp_path, monkeypatch):
    monkeypatch.setenv("RAYCADIAN_API_KEY", served.KEY)
    store, keys = known
    copy = Store(tmp_path / "people")
    for who in keys:
        copy.write(store.read(who), store.adapter(who))
    days, offline = values[: 20 * 1440], open_person(run, store.read(SUBJECT), store).of_file(recording)
    with (
        app.serving(run, port=app.free_port(), people=copy.root) as server,
        httpx.Client(base_url=server.url, headers=AUTH, timeout=60) as client,
    ):

        def ask(who, key, **headers):
            return client.post(PATH, json=body(days, subject=who), headers={web.PERSON_KEY: key} | headers)

        found = ask(SUBJECT, keys[SUBJECT])
        assert found.status_code == 200, found.text
        np.testing.assert_allclose([w["probability"] for w in found.json()["windows"]], offline.value[:20], atol=1e-6)
        version = found.json()["personal"]["adapter"]
        began = time.perf_counter()
        again = ask(SUBJECT, keys[SUBJECT], serve_multiplexed_model_id=version)  # to a replica that holds it
        assert again.json() == found.json() and time.perf_counter() - began < 5
        assert ask("other", keys["other"]).json()["personal"]["adapter"] != version
        plain = client.post(PATH, json=body(days))
        assert plain.status_code == 200 and plain.json().get("personal") is None
        for who, key in ((SUBJECT, keys["other"]), ("nobody", "x"), (SUBJECT, "x")):
            refused(ask(who, key, serve_multiplexed_model_id=version))
        copy.forget(SUBJECT)
        refused(ask(SUBJECT, keys[SUBJECT], serve_multiplexed_model_id=version))
        assert ask("other", keys["other"]).status_code == 200
