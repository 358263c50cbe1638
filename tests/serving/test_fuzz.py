"""Requests made of the endpoint's own description, and messages of a stream: none is answered 5xx, none in words that
the description hasn't got, and the catch-all never fires."""

import json
from collections import Counter

import pytest
import schemathesis
import served
import served_signals
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis.engine import events, from_schema
from starlette.testclient import TestClient

from raycadian.modalities.biosignals.request import BiosignalRequest
from raycadian.personal.store import Store, digest
from raycadian.serving import web
from raycadian.serving.load import load_predictor

pytestmark = pytest.mark.long
AUTH = {"Authorization": f"Bearer {served.KEY}"}
STREAM = f"{BiosignalRequest.path}/stream"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {
        "forecast": served.make_run(folder, served.people(3, 4)),
        "signals": served_signals.make_run(folder, filters="causal"),
    }


def application(run, folder):
    return web.create_app(served.Direct(load_predictor(run.path), run, Store(folder / "people")), digest(served.KEY))


def settings_of(examples):
    """All checks. What a schema allows a model may refuse (422: too little history, another unit), and what it forbids
    may be too long to be read (413)."""
    refused = [400, 401, 403, 404, 405, 413, 415, 422, 429]
    return schemathesis.Config.from_dict({
        "headers": AUTH, "seed": 1,
        "generation": {"max-examples": examples, "deterministic": True, "database": "none"},
        "checks": {
            "positive_data_acceptance": {"expected-statuses": [200, *refused]},
            "negative_data_rejection": {"expected-statuses": refused},
        },
    })  # fmt: skip


@pytest.mark.parametrize(("name", "examples", "least"), [("forecast", 1700, 5000), ("signals", 100, 500)])
def test_requests_made_of_the_description(runs, name, examples, least, tmp_path):
    app = application(runs[name], tmp_path)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=settings_of(examples))
    statuses, failures = Counter(), Counter()
    for event in from_schema(schema).execute():
        assert not isinstance(event, events.NonFatalError | events.FatalError), event  # ours raised
        if isinstance(event, events.ScenarioFinished):
            answers = (i.response for i in event.recorder.interactions.values())
            statuses.update((event.phase.value, answer.status_code) for answer in answers)
            checks = (check for group in event.recorder.checks.values() for check in group)
            failures.update(f"{c.name}: {c.failure_info.failure}" for c in checks if c.failure_info)
    assert not failures, "\n".join(failures)
    assert statuses.total() >= least and not [s for _, s in statuses if s >= 500], statuses
    assert statuses["examples", 200] >= 1 and ("examples", 422) not in statuses  # what is documented is answered


# --- a stream ---------------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
CHANNELS = st.dictionaries(st.sampled_from([*served_signals.TRACKS, "map_mmhg", ""]), JSON, max_size=4)
RATES = st.fixed_dictionaries(
    {c: st.fixed_dictionaries({"rate_hz": st.sampled_from([125.0, 250.0, 0.001, 49_999.0]),
                               "unit": st.sampled_from(["", "mV", "mmHg", "kPa", "V", "x"])})
     for c in served_signals.TRACKS}
)  # fmt: skip
NUMBERS = st.none() | st.floats(-1e6, 1e6) | st.just(1e38)
SAMPLES = st.fixed_dictionaries({}, optional={c: st.lists(NUMBERS, max_size=40) for c in served_signals.TRACKS})
LONG = st.builds(
    lambda n, value: {c: [value] * n for c in served_signals.TRACKS}, st.integers(0, 9000), NUMBERS | st.just(80.0)
)
TEXT = st.builds(lambda body: json.dumps({"channels": body}), st.one_of(CHANNELS, SAMPLES, LONG))
MESSAGES = st.one_of(TEXT, st.text(max_size=30), st.binary(max_size=30), JSON.map(json.dumps))
STARTS = st.one_of(RATES.map(lambda rates: json.dumps({"channels": rates})), MESSAGES)


@pytest.fixture(scope="module")
def client(runs, tmp_path_factory):
    return TestClient(application(runs["signals"], tmp_path_factory.mktemp("fuzz")), headers=AUTH)


@settings(max_examples=400, derandomize=True, database=None)
@given(start=STARTS, messages=st.lists(MESSAGES, max_size=4))
def test_messages_of_a_stream(client, start, messages):
    """Each is answered with windows, or the stream ends in words; whatever a server raises comes out of the client."""
    with client.websocket_connect(STREAM) as socket:
        for message in (start, *messages):
            (socket.send_bytes if isinstance(message, bytes) else socket.send_text)(message)
            answer = socket.receive_json()
            if "error" in answer:
                assert answer["detail"] and answer["error"] in ("invalid_request", "cannot_estimate", "too_large")
                assert socket.receive()["code"] == 1008
                return
            assert set(answer) == {"model", "windows"}
