"""The endpoint's words, limits and errors, with the real model and without Ray."""

import copy
import json
import os
import re
from datetime import datetime
from zoneinfo import ZoneInfo, available_timezones

import jsonschema
import numpy as np
import pytest
import served
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from raycadian.data import clock as clocks
from raycadian.modalities.cgm.request import EXAMPLE_RESPONSE, MAX_BYTES, ForecastRequest, ForecastResponse
from raycadian.personal.store import digest
from raycadian.serving import keys, web
from raycadian.serving.forecaster import Forecaster
from raycadian.serving.schemas import Problem

AUTH = {"Authorization": f"Bearer {served.KEY}"}
PATH = "/v1/forecast"


@pytest.fixture(scope="module")
def forecaster(tmp_path_factory):
    return Forecaster.load(served.make_run(tmp_path_factory.mktemp("runs"), served.people(3, 4)).path)


@pytest.fixture(scope="module")
def client(forecaster):
    return TestClient(
        web.create_app(served.Direct(forecaster), digest(served.KEY)), headers=AUTH, raise_server_exceptions=False
    )


def body(n=60, unit="mg/dL", **more):
    times = np.datetime64("2026-02-02T08:00:00") + 300 * np.arange(n)
    glucose = 120 + 30 * np.sin(np.arange(n) / 9)
    glucose = glucose / 18.0182 if unit == "mmol/L" else glucose
    readings = [{"time": f"{t}Z", "glucose": float(g)} for t, g in zip(times, glucose, strict=True)]
    return {"unit": unit, "utc_offset_min": 0, "readings": readings} | more


def refused(answer, status, error, text=""):
    """Every refusal is plain JSON of two words."""
    assert answer.status_code == status, answer.text
    problem = Problem.model_validate_json(answer.text, strict=True, extra="forbid")
    assert problem.error == error and re.search(text, problem.detail), problem
    json.loads(answer.text, parse_constant=pytest.fail)
    return problem


# --- what is answered -------------------------------------------------------------------------------------------------


def test_a_forecast(client, forecaster):
    answer = client.post(PATH, json=body(subject="me"))
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    answered = ForecastResponse.model_validate_json(answer.text)
    assert answered.subject == "me" and answered.model == forecaster.name and answered.warnings == {}
    assert len(answered.time_utc) == len(answered.median_mgdl) == 6 and answered.mechanism_fit == "population"
    direct = forecaster.answer(ForecastRequest.model_validate(body()).data())
    np.testing.assert_allclose(answered.median_mgdl, direct.median, rtol=0, atol=1e-5)
    total = np.add(answered.parts_mgdl["mechanism"], answered.parts_mgdl["correction"])
    np.testing.assert_allclose(total, answered.median_mgdl, rtol=0, atol=3e-6)


def test_what_if(client):
    usual = client.post(PATH, json=body()).json()
    request = body(what_if={"meals": [{"time": "13:10", "size": 2.0}]})  # the last reading is at 12:55
    answered = client.post(PATH, json=request).json()
    other = answered.pop("what_if")
    assert usual.pop("what_if") is None and answered == usual
    assert other["meals"] == [{"time": "13:10", "size": 2.0}] and len(other["usual_meals"]) == 3
    difference = np.subtract(other["median_mgdl"], usual["median_mgdl"])
    np.testing.assert_allclose(other["difference_mgdl"], difference, rtol=0, atol=3e-6)
    nothing = client.post(PATH, json=body(what_if={"meals": []})).json()["what_if"]
    assert nothing["median_mgdl"][-1] < other["median_mgdl"][-1] and "associates" in nothing["note"]


def test_units_are_converted(client):
    mgdl, mmol = (client.post(PATH, json=body(unit=u)).json() for u in ("mg/dL", "mmol/L"))
    np.testing.assert_allclose(mgdl["median_mgdl"], mmol["median_mgdl"], atol=1e-3)


def test_order_duplicates_and_wild_values_are_repaired_and_counted(client):
    clean = client.post(PATH, json=body()).json()
    request = body()
    request["readings"] = request["readings"][::-1] + request["readings"][:3]
    request["readings"] += [{"time": "2026-02-02T08:02:00Z", "glucose": g} for g in (-5.0, 0.0, 19.0, 601.0, 1e300)]
    answered = client.post(PATH, json=request).json()
    assert answered["median_mgdl"] == clean["median_mgdl"]
    assert answered["warnings"]["reading out of time order (sorted)"] > 50
    assert answered["warnings"]["reading at the same second as another"] == 3
    assert answered["warnings"]["glucose outside 20-600 mg/dL (set missing)"] == 5


def test_a_missing_reading_is_counted(client):
    request = body()
    del request["readings"][50:52]
    answered = client.post(PATH, json=request).json()
    assert answered["warnings"] == {"point of the context without a reading (interpolated or carried forward)": 2}


def test_the_same_instants_in_other_words(client):
    expected = client.post(PATH, json=body()).json()
    words = {
        "+02:00": lambda t: f"{t + np.timedelta64(2, 'h')}+02:00",
        "fraction": lambda t: f"{t}.250Z",
        "blank": lambda t: str(t).replace("T", " ") + "Z",
        "local": str,
    }
    for name, word in words.items():
        request = body()
        for reading in request["readings"]:
            reading["time"] = word(np.datetime64(reading["time"][:-1]))
        assert client.post(PATH, json=request).json()["median_mgdl"] == expected["median_mgdl"], name


def test_health_needs_no_key_and_waits_for_a_model(client):
    bare = TestClient(client.app)
    assert bare.get("/healthz").json() == {"status": "alive"}
    assert bare.get("/readyz").status_code == 200
    empty = TestClient(web.create_app(served.Direct(None), digest(served.KEY)), headers=AUTH)
    assert empty.get("/healthz").status_code == 200
    for answer in (empty.get("/readyz"), empty.get("/v1/model"), empty.post(PATH, json=body())):
        refused(answer, 503, "not_ready")
    assert client.get("/v1/model").json()["context"] == 36


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Basic {served.KEY}",
        served.KEY,
        f"Bearer {served.KEY}x",
        "Bearer ké",
    ],
)
def test_nobody_gets_in_without_the_key(client, header):
    bare = TestClient(client.app)
    headers = {} if header is None else {"Authorization": header.encode()}
    for answer in (bare.post(PATH, json=body(), headers=headers), bare.get("/v1/model", headers=headers)):
        problem = refused(answer, 401, "unauthorized")
        assert served.KEY not in problem.detail and answer.headers["www-authenticate"] == "Bearer"


def raw(text):
    return text.encode() if isinstance(text, str) else text


def altered(**changes):
    """The request with its last reading changed."""
    request = body()
    request["readings"][-1] |= changes
    return json.dumps(request)


INVALID = {
    "empty": ("", "body: Invalid JSON"),
    "not JSON": ("time,glucose\n", "body: Invalid JSON"),
    "not text": (b"\xff\xfe\x00", "body: Invalid JSON"),
    "cut off": (json.dumps(body())[:-9], "body: Invalid JSON"),
    "too deep": ("[" * 100_000, "recursion"),
    "a list": ("[]", "body: "),
    "NaN": (altered(glucose=float("nan")), "readings.59.glucose: .*finite"),
    "Infinity": (altered(glucose=float("inf")), "readings.59.glucose: .*finite"),
    "-Infinity": (altered(glucose=float("-inf")), "readings.59.glucose: .*finite"),
    "too large to be a number": (altered(glucose=1).replace('"glucose": 1}', '"glucose": 1e999}'), "finite"),
    "text for a number": (altered(glucose="120"), "readings.59.glucose: .*number"),
    "a truth for a number": (altered(glucose=True), "readings.59.glucose: .*number"),
    "null for a number": (altered(glucose=None), "readings.59.glucose: .*number"),
    "a number for a time": (altered(time=1770000000), "readings.59.time: .*string"),
    "no time": (altered(time="yesterday"), "'yesterday': expected RFC 3339"),
    "NaT": (altered(time="NaT"), "expected RFC 3339"),
    "no seconds": (altered(time="2026-02-02T08:00Z"), "expected RFC 3339"),
    "no such month": (altered(time="2026-13-02T08:00:00Z"), "[Mm]onth"),
    "no such day": (altered(time="2026-02-30T08:00:00Z"), "[Dd]ay"),
    "no such offset": (altered(time="2026-02-02T08:00:00+25:00"), "expected RFC 3339"),
    "a clock never set": (altered(time="1970-01-01T00:00:00Z"), "from 1990 on"),
    "other digits": (altered(time="２026-02-02T08:00:00Z"), "expected RFC 3339"),
    "an unknown key": (altered(sugar=1), "readings.59.sugar: Extra"),
    "an unknown word": (json.dumps(body(glucose_unit="mg/dL")), "glucose_unit: Extra"),
    "no unit": (json.dumps({k: v for k, v in body().items() if k != "unit"}), "unit: Field required"),
    "another unit": (json.dumps(body() | {"unit": "mg/dl"}), "unit: .*'mg/dL' or 'mmol/L'"),
    "no readings": (json.dumps(body() | {"readings": []}), "readings: .*at least 1"),
    "two clocks": (json.dumps(body(timezone="Europe/Madrid")), "exclude one another"),
    "no such zone": (json.dumps(body(timezone="Mars/Olympus") | {"utc_offset_min": None}), "timezone: .*not an IANA"),
    "a path for a zone": (json.dumps(body(timezone="../../etc/passwd")), "timezone: .*not an IANA"),
    "a folder for a zone": (json.dumps(body(timezone="Europe")), "timezone: .*not an IANA"),
    "an offset of days": (json.dumps(body() | {"utc_offset_min": 6000}), "utc_offset_min"),
    "a meal of tons": (json.dumps(body(meals=[{"time": "2026-02-02T08:00:00Z", "carbs_g": 1e6}])), "meals.0.carbs_g"),
    "a dose of nothing": (json.dumps(body(insulin=[{"time": "2026-02-02T08:00:00Z"}])), "insulin: .*bolus_u"),
    "a dose before time": (json.dumps(body(insulin=[{"bolus_u": 1.0}])), "insulin.0.time"),
    "a question of nothing": (json.dumps(body(what_if={})), "what_if.meals"),
    "a meal at no time": (json.dumps(body(what_if={"meals": [{"size": 1.0}]})), "what_if.meals.0.time"),
    "a meal after midnight": (json.dumps(body(what_if={"meals": [{"time": "24:30"}]})), "what_if.meals.0.time"),
    "a feast": (json.dumps(body(what_if={"meals": [{"time": "20:00", "size": 50}]})), "what_if.meals.0.size"),
    "too many meals": (json.dumps(body(what_if={"meals": [{"time": "20:00"}] * 13})), "what_if.meals: .*at most 12"),
    "mmol/L called mg/dL": (json.dumps(body(unit="mmol/L") | {"unit": "mg/dL"}), "plainly mmol/L"),
    "mg/dL called mmol/L": (json.dumps(body() | {"unit": "mmol/L"}), "plainly mg/dL"),
}  # fmt: skip


@pytest.mark.parametrize("name", INVALID)
def test_invalid_requests(client, name):
    text, message = INVALID[name]
    refused(client.post(PATH, content=raw(text)), 422, "invalid_request", message)


@pytest.mark.parametrize(
    ("readings", "message"),
    [
        (1, r"needs 36 points \(3 h\) .* has 1 .*send a longer history"),
        (35, "needs 36 points .* has 35 "),
    ],
)
def test_too_few_points(client, readings, message):
    refused(client.post(PATH, json=body(readings)), 422, "cannot_forecast", message)


def test_nothing_measured(client):
    request = body()
    for reading in request["readings"]:
        reading["glucose"] = 700.0
    refused(
        client.post(PATH, json=request),
        422,
        "cannot_forecast",
        r"no glucose reading in 60 rows \(60 lie outside 20-600 mg/dL",
    )


def test_too_many_readings(client):
    request = {"unit": "mg/dL", "readings": [{"time": "", "glucose": 9}] * 20_001}
    text = json.dumps(request, separators=(",", ":"))
    assert len(text) < MAX_BYTES
    refused(client.post(PATH, content=text.encode()), 422, "invalid_request", "20000")


def test_too_many_bytes_are_not_parsed(client):
    def chunks():
        for _ in range(50):
            yield b" " * 1_000_000

    for content in (b"{" * (MAX_BYTES + 1), b" " * 50_000_000, chunks()):
        refused(client.post(PATH, content=content), 413, "too_large", "1,000,000 bytes")
    exact = json.dumps(body()).encode()
    assert client.post(PATH, content=exact.ljust(MAX_BYTES)).status_code == 200


def test_wrong_paths_and_methods(client):
    refused(client.get("/v2/forecast"), 404, "not_found")
    refused(client.get(PATH), 405, "method_not_allowed")
    refused(client.get("/docs"), 404, "not_found")


def test_a_failure_of_ours_says_nothing_of_the_request(client, monkeypatch):
    def broken(self, histories):
        raise RuntimeError(f"secret {histories}")

    monkeypatch.setattr(Forecaster, "predict", broken)
    problem = refused(client.post(PATH, json=body()), 500, "internal")
    assert "secret" not in problem.detail


# --- times ------------------------------------------------------------------------------------------------------------


def history_in(zone, local_times):
    readings = [{"time": t, "glucose": 100.0} for t in local_times]
    return ForecastRequest(unit="mg/dL", timezone=zone, readings=readings).data()


@settings(max_examples=60)
@given(
    zone=st.sampled_from(["Europe/Madrid", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"]),
    start_s=st.integers(1_700_000_000, 1_760_000_000), n=st.integers(2, 200),
)  # fmt: skip
def test_local_times_in_a_zone_equal_zoneinfo(zone, start_s, n):
    from datetime import UTC, datetime

    instants = start_s + 300 * np.arange(n)
    local = [datetime.fromtimestamp(int(s), UTC).astimezone(ZoneInfo(zone)) for s in instants]
    if sum(t.fold for t in local) in range(1, n) and local[0].fold:
        return  # a history that begins in the second time of a repeated hour can't be told from its clock
    h = history_in(zone, [t.strftime("%Y-%m-%dT%H:%M:%S") for t in local])
    changes = len({t.utcoffset() for t in local}) > 1
    if not changes:
        if not any(
            t.fold or ZoneInfo(zone).utcoffset(t.replace(tzinfo=None, fold=1 - t.fold)) != t.utcoffset() for t in local
        ):
            np.testing.assert_array_equal(h.time_s, instants)
        return
    np.testing.assert_array_equal(h.time_s, instants)
    np.testing.assert_array_equal(h.utc_offset_min, [t.utcoffset().total_seconds() / 60 for t in local])


# Madrid: 2026-03-29, 02:00 becomes 03:00; 2026-10-25, 03:00 becomes 02:00. 4 h before and 2 h after; a context is 3 h
@pytest.mark.parametrize(("first", "before", "after"), [("03-28T21:00", 60, 120), ("10-24T21:00", 120, 60)])
def test_a_change_of_the_clock_within_the_context_is_answered_by_the_present_clock(client, first, before, after):
    times = np.datetime64(f"2026-{first}:00") + 300 * np.arange(72)
    readings = [{"time": f"{t}Z", "glucose": round(110 + 9 * np.sin(i / 9), 1)} for i, t in enumerate(times)]
    request = {"unit": "mg/dL", "timezone": "Europe/Madrid", "readings": readings}
    answered = client.post(PATH, json=request).json()
    assert answered["time_local"][0].endswith(f"+0{after // 60}:00")
    assert answered["warnings"].pop(clocks.CHANGED) == 12
    del request["timezone"]
    offsets = [before] * 48 + [after] * 24
    stated = [
        r | {"time": f"{t + np.timedelta64(ahead, 'm')}+0{ahead // 60}:00"}
        for r, t, ahead in zip(readings, times, offsets, strict=True)
    ]
    for other in (request | {"utc_offset_min": after}, request | {"readings": stated}):
        assert client.post(PATH, json=other).json()["quantiles_mgdl"] == answered["quantiles_mgdl"]
    assert answered["warnings"]["change of the UTC offset (DST or travel)"] == 1
    later = times + np.timedelta64(2, "h")  # the context is past the change
    request |= {"timezone": "Europe/Madrid", "readings": [{"time": f"{t}Z", "glucose": 110.0} for t in later]}
    assert clocks.CHANGED not in client.post(PATH, json=request).json()["warnings"]


def test_the_hour_that_happens_twice_is_told_newest_first_too_or_refused(client):
    utc = np.datetime64("2026-10-24T22:00:00") + 300 * np.arange(72)  # the change is at 01:00
    local = utc + np.where(utc < np.datetime64("2026-10-25T01:00:00"), 120, 60).astype("timedelta64[m]")
    readings = [{"time": str(t), "glucose": round(110 + 9 * np.sin(i / 9), 1)} for i, t in enumerate(local)]
    request = {"unit": "mg/dL", "timezone": "Europe/Madrid"}
    oldest, newest = (
        client.post(PATH, json=request | {"readings": rows}).json() for rows in (readings, readings[::-1])
    )
    assert oldest["origin_utc"] == f"{utc[-1]}Z" == newest["origin_utc"]
    assert newest["quantiles_mgdl"] == oldest["quantiles_mgdl"]
    until_half_past = readings[:42]  # 02:30 for the second time, newest first: a wrong origin was answered
    assert client.post(PATH, json=request | {"readings": until_half_past[::-1]}).json()["origin_utc"] == f"{utc[41]}Z"
    mixed = [readings[i] for i in np.random.default_rng(0).permutation(72)]
    refused(
        client.post(PATH, json=request | {"readings": mixed}), 422, "invalid_request", "happens twice.*state offsets"
    )


def test_times_without_any_zone_are_told(client):
    request = body()
    del request["utc_offset_min"]
    answered = client.post(PATH, json=request).json()
    assert answered["warnings"] == {"time without a zone (its hour taken as the local hour)": 60}


@pytest.mark.slow
def test_every_name_of_a_time_zone_is_one_library_s(client):
    """pytz lacks half of zoneinfo's names: a request of such a zone was a 500."""
    times = ["2026-03-28T23:00:00", "2026-10-25T02:30:00"]
    names = available_timezones() | {"Factory", "localtime", "posix/Europe/Madrid", "right/Asia/Tokyo", "Europe/madrid"}
    for name in sorted(names | {"", ".", "..", "Europe/", "zone.tab", "\x00", "é", "UTC+1", "a" * 64}):
        try:
            history = history_in(name, times)
        except ValueError:
            continue
        here = [datetime.fromisoformat(t).replace(tzinfo=ZoneInfo(name)) for t in times]
        np.testing.assert_array_equal(history.time_s, [round(t.timestamp()) for t in here], name)
    named = {name: body(timezone=name) | {"utc_offset_min": None} for name in ("posix/Europe/Madrid", "UTC")}
    assert [client.post(PATH, json=request).status_code for request in named.values()] == [200, 200]


def test_a_name_without_end_is_not_answered_with_all_of_it(client):
    for content in (b'{"' + b"k" * 900_000 + b'": 1}', b"[" * 900_000):
        answer = client.post(PATH, content=content)
        refused(answer, 422, "invalid_request")
        assert len(answer.content) < 500


@pytest.mark.parametrize("name", ["Factory", "localtime", "posixrules", "posix/Factory", "right/Factory"])
def test_a_file_beside_the_zones_is_none(client, name):
    """The server's own zone, or none at all, under the name of a zone: what is meant by it nobody knows."""
    request = body(timezone=name) | {"utc_offset_min": None}
    refused(client.post(PATH, json=request), 422, "invalid_request", "timezone: .* is not an IANA time zone")


# --- description and key ----------------------------------------------------------------------------------------------


def test_the_examples_are_true(client):
    described = client.get("/openapi.json").json()
    operation = described["paths"][PATH]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    assert content["example"] == ForecastRequest.example and operation["security"] == [{"key": []}]
    root = {"components": described["components"]}
    jsonschema.Draft202012Validator(root | content["schema"]).validate(ForecastRequest.example)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(root | content["schema"]).validate(
            copy.deepcopy(ForecastRequest.example) | {"unit": "x"}
        )
    ForecastResponse.model_validate(EXAMPLE_RESPONSE)
    answered = operation["responses"]["200"]["content"]["application/json"]
    assert answered["example"] == EXAMPLE_RESPONSE
    jsonschema.Draft202012Validator(root | answered["schema"]).validate(EXAMPLE_RESPONSE)
    answer = client.post(PATH, json=ForecastRequest.example)
    assert answer.status_code == 200
    jsonschema.Draft202012Validator(root | answered["schema"]).validate(answer.json())
    assert described["paths"]["/healthz"]["get"]["security"] == []


def test_the_key_is_made_once_for_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.delenv(keys.KEY_VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    key = keys.api_key()
    path = tmp_path / ".config" / "raycadian" / "api_key"
    assert len(key) >= 32 and path.read_text() == key and path.stat().st_mode & 0o777 == 0o600
    assert keys.api_key() == key and [p.name for p in path.parent.iterdir()] == ["api_key"]
    path.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        keys.api_key()


@pytest.mark.parametrize("key", ["", "short", "long enough but ké", "two\nlines of a long key"])
def test_keys_that_are_no_keys(monkeypatch, key):
    monkeypatch.setenv(keys.KEY_VARIABLE, key)
    with pytest.raises(ValueError, match=keys.KEY_VARIABLE):
        keys.api_key()


def test_the_key_of_the_environment_comes_first(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(keys.KEY_VARIABLE, served.KEY)
    assert keys.api_key() == served.KEY and not os.listdir(tmp_path)
