"""A person's adapter at the endpoint: theirs with their key, nobody's without, the same as offline; on Ray Serve
too."""

import asyncio
import gc
import logging
import shutil
import time
import weakref
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import helpers
import httpx
import numpy as np
import one_person
import pandas as pd
import pytest
import served
from ray.serve import multiplex
from starlette.testclient import TestClient

from raycadian.config import TTM
from raycadian.modalities.actigraphy.formats.apple_health import read_apple_health
from raycadian.modalities.actigraphy.request import Activity
from raycadian.modalities.cgm.request import ForecastResponse
from raycadian.modalities.request import BiosignalResponse
from raycadian.personal.calibrate import calibrate
from raycadian.personal.store import ADAPTER, Forbidden, Store, digest
from raycadian.personal.task import CalibrationInputs
from raycadian.serving import app, web
from raycadian.serving.deployment import Endpoint
from raycadian.serving.label import LabelPredictor
from raycadian.serving.load import load_predictor, open_person, personalise
from raycadian.serving.personal import PersonalEstimate
from raycadian.serving.schemas import Problem
from raycadian.serving.slots import AdapterSlot, drop_deleted
from raycadian.types import ACTIVITY_COUNTS, ACTIVITY_MIMS, Issues

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
    keys = {who: calibrate(CalibrationInputs(run, who, recording, labels), store).key for who in (SUBJECT, "other")}
    return store, keys


def body(values, **more):
    return {
        "unit": "counts",
        "start": f"{one_person.START}T00:00:00",
        "values": values.tolist(),
        "subject": SUBJECT,
    } | more


def of_file(predictor, path):
    return predictor.answer(predictor.read(path))


def client_of(run, store):
    return TestClient(
        web.create_app(served.Direct(load_predictor(run.path), run, store), digest(served.KEY)), headers=AUTH
    )


def test_served_equals_offline(run, known, values, recording):
    store, keys = known
    client = client_of(run, store)
    answer = client.post(PATH, json=body(values), headers={"X-Raycadian-Person-Key": keys[SUBJECT]})
    assert answer.status_code == 200, answer.text
    answered = BiosignalResponse.model_validate_json(answer.text)
    offline = of_file(open_person(run, store.read(SUBJECT), store), recording)
    np.testing.assert_allclose([w.probability for w in answered.windows], offline.value, atol=1e-12)
    assert [w.day for w in answered.windows] == offline.day.astype(str).tolist()
    assert [w.end_s for w in answered.windows] == [86400.0 * (d + 1) for d in range(60)]
    assert answered.personal["kept"] == "adapter" and answered.windows[0].low < answered.windows[0].probability
    plain = BiosignalResponse.model_validate_json(client.post(PATH, json=body(values)).text)
    assert plain.personal is None and plain.windows[0].day is None
    assert max(abs(a.probability - b.probability) for a, b in zip(plain.windows, answered.windows, strict=True)) > 0.1


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
    messages = {refused(client.post(PATH, json=body(day, subject=s), headers={web.PERSON_KEY: k})) for s, k in wrong}
    assert len(messages) == 1  # nothing is said of who is there
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
    worn = [True] * len(days)
    counts = client_of(run, store).post(PATH, json=body(days, worn=worn), headers=header).json()
    steps = client_of(run, copy).post(PATH, json=body(days / 2, unit="steps", worn=worn), headers=header).json()
    assert [w["probability"] for w in steps["windows"]] == [w["probability"] for w in counts["windows"]]


def test_wear_is_told_before_the_level_is_changed(run, known, values):
    """Troiano's 100 counts are of what was recorded: small movements are none, however large they become."""
    store, _ = known
    person = store.read(SUBJECT)
    by_mims = replace(person, metadata=person.metadata | {"channel": ACTIVITY_MIMS, "factor": 100.0})
    own = personalise(LabelPredictor.load(run.path), run, by_mims, store)
    own.card = own.card.model_copy(update={"wear": "troiano"})
    rarely = np.where(np.arange(1440) % 30 == 0, 5.0, 0.0)
    days = np.concatenate([values[:1440] / 100, rarely])
    estimate = own.answer(Activity(SUBJECT, ACTIVITY_MIMS, one_person.START.astype("datetime64[s]"), 60.0, days))
    assert np.isfinite(estimate.value[0]) and np.isnan(estimate.value[1])


def test_steps_of_an_export_are_answered_as_offline(run, tmp_path):
    """An export knows from all of its records when nothing was worn; whoever sends its steps alone has to say."""
    values = one_person.counts(one_person.ill_days(), seed=1)
    export, store = one_person.write_apple_health(tmp_path / "export.zip", values), Store(tmp_path / "people")
    labels = one_person.write_labels(tmp_path / "episodes.csv", one_person.ill_days())
    key = calibrate(CalibrationInputs(run, SUBJECT, export, labels, channel="steps"), store).key
    (recording,) = read_apple_health(export, one_person.CARD, Issues())
    sent = body(recording.channels["steps"].astype(float), unit="steps", worn=recording.observed.tolist())
    client, header = client_of(run, store), {web.PERSON_KEY: key}
    answered = client.post(PATH, json=sent, headers=header).json()
    offline = of_file(open_person(run, store.read(SUBJECT), store), export).as_dict()
    assert [w["probability"] for w in answered["windows"]] == [w["probability"] for w in offline["windows"]]
    assert [w["deviations"] for w in answered["windows"]] == [w["deviations"] for w in offline["windows"]]
    alone = client.post(PATH, json=sent | {"worn": None}, headers=header)
    assert alone.status_code == 422 and "steps don't say when nothing was worn" in alone.json()["detail"]


def test_signals_with_a_persons_key(run, known):
    store, keys = known
    sent = [{"case": "1.vital"}, {"channels": {"ppg": {"rate_hz": 100.0, "samples": [0.0, 1.0]}}}]
    for one in sent:
        header = {web.PERSON_KEY: keys[SUBJECT]}
        response = client_of(run, store).post("/v1/biosignal", json=one | {"subject": SUBJECT}, headers=header)
        assert response.status_code == 422 and "answers on /v1/actigraphy" in response.json()["detail"], response.text


def test_an_update_stays_with_the_model_that_was_calibrated(run, known, recording, tmp_path):
    store, _ = known
    labels = one_person.write_labels(tmp_path / "episodes.csv", one_person.ill_days())
    copy, person = Store(tmp_path / "people"), store.read(SUBJECT)
    other = replace(person, metadata=person.metadata | {"weights_sha256": "0" * 64, "run": "older"})
    copy.write(other, store.adapter(SUBJECT))
    with pytest.raises(ValueError, match=f"calibrated older, this is {run.name}.*forget and calibrate again"):
        calibrate(CalibrationInputs(run, SUBJECT, recording, labels), copy, update=True)
    assert copy.read(SUBJECT).labels == person.labels and copy.read(SUBJECT).version == person.version


def test_a_forecast_by_a_persons_own_adapter(tmp_path):
    run = served.make_run(tmp_path / "runs", served.people(3, 5), model=TTM(d_model=8, layers=1, patch_length=12))
    glucose = helpers.day_curve(16, phase_h=3, seed=50)
    when = np.datetime64("2026-02-01T00:00", "s") + 300 * np.arange(len(glucose))
    pd.DataFrame({"time": when.astype(str), "glucose": glucose.round(1)}).to_csv(tmp_path / "cgm.csv", index=False)
    store = Store(tmp_path / "people")
    key = calibrate(CalibrationInputs(run, SUBJECT, tmp_path / "cgm.csv"), store).key
    readings = [
        {"time": f"{t}Z", "glucose": float(g)} for t, g in zip(when[-100:], glucose[-100:].round(1), strict=True)
    ]
    request = {"unit": "mg/dL", "utc_offset_min": 0, "subject": SUBJECT, "readings": readings}
    client = client_of(run, store)
    answer = client.post("/v1/forecast", json=request, headers={web.PERSON_KEY: key})
    answered = ForecastResponse.model_validate_json(answer.text)
    own = of_file(open_person(run, store.read(SUBJECT), store), tmp_path / "cgm.csv")
    np.testing.assert_allclose(answered.median_mgdl, own.median, atol=1e-5)
    assert answered.personal["adapter"] == store.read(SUBJECT).version
    refused(client.post("/v1/forecast", json=request, headers={web.PERSON_KEY: "wrong"}))


def filled(run, person, store):
    slot = AdapterSlot()
    slot.filled(load_predictor(run.path), run, person, store)
    return slot


def test_what_was_deleted_leaves_the_memory(run, known, tmp_path):
    store, _ = known
    person, copy = store.read(SUBJECT), Store(tmp_path / "people")
    copy.write(person, store.adapter(SUBJECT))
    held = {v: filled(run, person, copy) for v in (person.version, "an older one")}
    drop_deleted(held, copy)
    assert held[person.version].predictor is not None and held["an older one"].predictor is None
    copy.forget(SUBJECT)
    drop_deleted(held, copy)
    assert held[person.version].predictor is None


# --- the deployment, in this process ----------------------------------------------------------------------------------


@pytest.fixture
def replica(monkeypatch, known, tmp_path):
    """The deployment's class with Ray's own multiplexer and a copy of the people, without a cluster."""
    where = SimpleNamespace(app_name="app", deployment="forecaster", replica_id="one")
    monkeypatch.setattr(multiplex, "_get_internal_replica_context", lambda: where)
    monkeypatch.setattr(multiplex._ModelMultiplexWrapper, "_push_model_ids_info", lambda self: None)
    store, keys = known
    copy = Store(tmp_path / "people")
    for who in keys:
        copy.write(store.read(who), store.adapter(who))
    plain = Endpoint.func_or_class.__mro__[1]  # without what Ray puts round it
    return plain(digest(served.KEY)), copy


def sent_by(subject, values):
    return Activity(subject, ACTIVITY_COUNTS, one_person.START.astype("datetime64[s]"), 60.0, values[:2880])


def test_no_id_reaches_rays_logs(replica, run, known, values, monkeypatch):
    endpoint, store = replica
    key, records = known[1][SUBJECT], []
    handler, log = logging.Handler(), logging.getLogger("ray.serve")
    for name, value in {"disabled": False, "level": logging.INFO}.items():  # whatever other tests have left
        monkeypatch.setattr(log, name, value)
    log.manager._clear_cache()
    handler.emit = lambda record: records.append(record.getMessage())
    adapter = {name: weight.clone() for name, weight in store.adapter(SUBJECT).items()}  # not of the file below
    (store.folder(SUBJECT) / ADAPTER).write_bytes(b"none")

    async def ask():
        await endpoint.reconfigure({"run": str(run.path), "people": str(store.root)})
        damaged = await endpoint.answer(sent_by(SUBJECT, values), key)
        store.write(store.read(SUBJECT), adapter)
        return damaged, await endpoint.answer(sent_by(SUBJECT, values), key)

    log.addHandler(handler)
    try:
        damaged, repaired = asyncio.run(ask())
    finally:
        log.removeHandler(handler)
    assert isinstance(damaged, ValueError) and "damaged" in str(damaged)
    assert isinstance(repaired, PersonalEstimate)  # the refusal is not kept
    assert records and not any(SUBJECT in text for text in records)


def test_after_a_promotion_nobody_is_answered_by_the_old_model(replica, run, known, values, tmp_path):
    endpoint, store = replica
    key, other = known[1][SUBJECT], one_person.population(tmp_path / "runs", people=8, days=2, epochs=1)
    again = shutil.copytree(run.path, tmp_path / "runs" / "again")  # the same weights in another run

    async def ask():
        answers = []
        for path in (run.path, other.path, again):
            await endpoint.reconfigure({"run": str(path), "people": str(store.root)})
            answers.append(await endpoint.answer(sent_by(SUBJECT, values), key))
        return answers

    first, refusal, last = asyncio.run(ask())
    assert isinstance(refusal, ValueError) and "an adapter fits no other weights" in str(refusal)
    assert first.as_dict()["model"] == run.name and last.as_dict()["model"] == "again"
    np.testing.assert_array_equal(first.value, last.value)


def test_a_refusal_takes_as_long_whether_there_is_such_a_person_or_not(replica, run):
    """A known one's file took 1 ms to read."""
    endpoint, store = replica

    async def ask():
        await endpoint.reconfigure({"run": str(run.path), "people": str(store.root)})
        for subject in (SUBJECT, "nobody"):
            begun = time.perf_counter()
            for _ in range(3):
                with pytest.raises(Forbidden):
                    await endpoint._opened(subject, "wrong")
            yield (time.perf_counter() - begun) / 3

    async def times():
        return [seconds async for seconds in ask()]

    assert all(seconds >= 0.049 for seconds in asyncio.run(times()))


class Watched(Store):
    """Remembers whom it gave out, as long as somebody else does."""

    given: ClassVar[list[weakref.ref]] = []

    def opened(self, subject, key):
        person = super().opened(subject, key)
        self.given.append(weakref.ref(person))
        return person


def test_a_replica_keeps_nothing_of_who_is_deleted(replica, run, known, values):
    endpoint, store = replica
    asks, key = sent_by(SUBJECT, values), known[1][SUBJECT]

    async def ask():
        await endpoint.reconfigure({"run": str(run.path), "people": str(store.root)})
        endpoint._holder.loaded = replace(endpoint._holder.loaded, people=Watched(store.root))
        together = [endpoint.answer(asks, key) for _ in range(2)]
        for answer in (*await asyncio.gather(*together), await endpoint.answer(asks, key)):
            assert isinstance(answer, PersonalEstimate)
        del answer, together
        store.forget(SUBJECT)
        await endpoint.check_health()
        await asyncio.sleep(0.01)  # the loop itself lets go of its last task
        gc.collect()
        return [person() for person in Watched.given]

    assert asyncio.run(ask()) == [None, None, None]


# --- Ray Serve --------------------------------------------------------------------------------------------------------


@pytest.mark.ray
def test_on_ray_serve(ray_local, run, known, values, recording, tmp_path, monkeypatch):
    monkeypatch.setenv("RAYCADIAN_API_KEY", served.KEY)
    store, keys = known
    copy = Store(tmp_path / "people")
    for who in keys:
        copy.write(store.read(who), store.adapter(who))
    days, offline = values[: 20 * 1440], of_file(open_person(run, store.read(SUBJECT), store), recording)
    with (
        app.serving(run, port=app.free_port(), people=copy.root) as server,
        httpx.Client(base_url=server.url, headers=AUTH, timeout=60) as client,
    ):

        def ask(who, key, **headers):
            return client.post(PATH, json=body(days, subject=who), headers={web.PERSON_KEY: key} | headers)

        response = ask(SUBJECT, keys[SUBJECT])
        assert response.status_code == 200, response.text
        np.testing.assert_allclose(
            [w["probability"] for w in response.json()["windows"]], offline.value[:20], atol=1e-6
        )
        version = response.json()["personal"]["adapter"]
        began = time.perf_counter()
        again = ask(SUBJECT, keys[SUBJECT], serve_multiplexed_model_id=version)  # to a replica that holds it
        assert again.json() == response.json() and time.perf_counter() - began < 5
        assert ask("other", keys["other"]).json()["personal"]["adapter"] != version
        plain = client.post(PATH, json=body(days))
        assert plain.status_code == 200 and plain.json().get("personal") is None
        for who, key in ((SUBJECT, keys["other"]), ("nobody", "x"), (SUBJECT, "x")):
            refused(ask(who, key, serve_multiplexed_model_id=version))
        copy.forget(SUBJECT)
        refused(ask(SUBJECT, keys[SUBJECT], serve_multiplexed_model_id=version))
        assert ask("other", keys["other"]).status_code == 200
