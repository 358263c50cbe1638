"""Biosignals at the endpoint: what is served is what was scored, quality is said, limits hold; without Ray."""

import json
import re
import shutil
from dataclasses import replace

import jsonschema
import numpy as np
import pandas as pd
import pytest
import served
import served_signals
import yaml
from starlette.testclient import TestClient

from raycadian import manifest
from raycadian.cohort import forecast_everybody
from raycadian.evaluation.label.decision import Decision
from raycadian.evaluation.label.predictions import LabelPredictions
from raycadian.modalities.biosignals.readers import read_case
from raycadian.modalities.biosignals.request import MAX_SAMPLES, BiosignalRequest, Signals, Stored
from raycadian.modalities.biosignals.simulate import make_case, make_person, write_vital
from raycadian.modalities.cgm.request import ForecastRequest
from raycadian.modalities.prepare import prepare
from raycadian.modalities.request import MAX_SIGNAL_BYTES, BiosignalResponse
from raycadian.personal.store import digest
from raycadian.serving import web
from raycadian.serving.forecaster import Forecaster
from raycadian.serving.label import LabelPredictor
from raycadian.serving.stream import SignalStream
from raycadian.types import Track

KEY = "a key that tests know"
PATH = "/v1/biosignal"
UNITS = {"ecg_mv": "mV", "abp_mmhg": "mmHg"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return served_signals.make_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def classifier(run):
    return LabelPredictor.load(run.path)


@pytest.fixture(scope="module")
def client(classifier):
    app = web.create_app(served.Direct(classifier), digest(KEY))
    return TestClient(app, headers={"Authorization": f"Bearer {KEY}"}, raise_server_exceptions=False)


def body(i: int = 0, seconds: float = 60.0, **more: object) -> dict:
    """The first seconds of case i as raw samples."""
    channels = {}
    for name, track in served_signals.raw_case(i).tracks.items():
        samples = track.values[: round(seconds * track.rate_hz)].tolist()
        plain = [None if v != v else v for v in samples]
        channels[name] = {"rate_hz": track.rate_hz, "unit": track.unit, "samples": plain}
    return {"channels": channels} | more


# --- the same as was scored -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_served_case_has_the_probabilities_that_were_scored(run, classifier):
    scored = LabelPredictions.read_parquet(run.path / "predictions.parquet")
    decision = Decision.read(run.path / "checkpoint" / "decision.json")
    for name in sorted(set(scored.case.tolist())):
        own = scored.select(scored.case == name)
        case = served_signals.raw_case(int(name.removeprefix("case-")))
        estimate = classifier.answer(Signals(None, case.tracks))
        good = ~np.isnan(estimate.value)
        np.testing.assert_array_equal(estimate.value[good], decision.probability(own.score, own.case))
        ends = (own.time_utc - np.datetime64("2000-01-01")).astype(int)
        np.testing.assert_array_equal(estimate.end_s[good].astype(int), ends)
        assert [bool(r) for r in estimate.rejected] == (~good).tolist()


@pytest.mark.slow
def test_a_cohort_from_files_is_told_what_the_endpoint_says(run, classifier, tmp_path):
    for i in range(2):
        tracks, _ = make_case(make_person(np.random.default_rng([5, i])), 360, 250.0, np.random.default_rng([6, i]))
        write_vital(tmp_path / f"{i}.vital", tracks)
    card = {"name": "few", "modality": "biosignals", "files": ["*.vital"]}
    card["waveforms"] = {channel: [track] for channel, track in served_signals.TRACKS.items()}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(card))
    done = forecast_everybody(run, prepare(tmp_path / "few.yaml", tmp_path), tmp_path / "out", on_ray=False)
    table = pd.read_parquet(tmp_path / "out" / "part-00000.parquet")
    assert done.people == 2 and not done.refused and len(table) == done.windows > 20
    for subject, own in table.groupby("subject"):
        case = read_case(tmp_path / f"{subject}.vital", tracks=served_signals.TRACKS, units=UNITS, subject="x")
        value = classifier.answer(Signals(None, case.tracks)).value
        np.testing.assert_allclose(own["probability"], value[~np.isnan(value)], atol=1e-6)


def test_units_and_rates_are_the_senders(classifier):
    tracks = dict(served_signals.raw_case(1).tracks)
    plain = classifier.answer(Signals(None, tracks))
    abp = tracks["abp_mmhg"]
    kpa = Track(abp.values / np.float32(7.500617), "kPa", rate_hz=abp.rate_hz)
    other = classifier.answer(Signals(None, tracks | {"abp_mmhg": kpa}))
    np.testing.assert_allclose(other.value, plain.value, atol=1e-4)


def test_a_flat_line_is_rejected_by_name(classifier):
    tracks = dict(served_signals.raw_case(2).tracks)
    values = tracks["ppg"].values.copy()
    values[: round(60 * served_signals.RATE_HZ)] = 0.5
    estimate = classifier.answer(Signals(None, tracks | {"ppg": replace(tracks["ppg"], values=values)}))
    assert np.isnan(estimate.value[:5]).all() and not np.isnan(estimate.value[10:]).all()
    assert all("flat" in r["ppg"] for r in estimate.rejected[:4]) and estimate.warnings


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ppg": None}, "the model reads ecg_mv, ppg, abp_mmhg; ppg is not sent"),
        ({"resp": Track(np.zeros(5000, np.float32), "", rate_hz=100.0)}, "not resp; leave it out"),
        ({"abp_mmhg": Track(np.zeros(5000, np.float32), "mV", rate_hz=100.0)}, "expected a unit that can be 'mmHg'"),
        ({"ppg": Track(np.zeros(5, np.float32), "", rate_hz=0.5)}, "a numeric track"),
    ],
)
def test_samples_that_can_not_be_used_are_refused(classifier, changes, words):
    tracks = dict(served_signals.raw_case(0).tracks) | changes
    with pytest.raises(ValueError, match=words):
        classifier.answer(Signals(None, {c: t for c, t in tracks.items() if t is not None}))


def test_too_few_samples(classifier):
    tracks = {c: replace(t, values=t.values[:2000]) for c, t in served_signals.raw_case(0).tracks.items()}
    with pytest.raises(ValueError, match="nothing is as long as a window, which has 20 s; send more"):
        classifier.answer(Signals(None, tracks))


def test_a_run_whose_files_are_damaged_is_not_served(run, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    (copy / "manifest.json").unlink()  # as in a run of before
    (copy / "checkpoint" / "decision.json").write_text("{}")
    with pytest.raises(ValueError, match="no decision of a classifier"):
        LabelPredictor.load(copy)
    (copy / "checkpoint" / "preprocessing.json").write_text("[]")
    with pytest.raises(ValueError, match="damaged"):
        LabelPredictor.load(copy)


def test_a_classifier_does_not_forecast(run):
    with pytest.raises(ValueError, match="does not forecast but classify: serve it"):
        Forecaster.load(run.path)


# --- over HTTP --------------------------------------------------------------------------------------------------------


def test_an_answer_over_http(client, classifier):
    answer = client.post(PATH, json=body(subject="anyone"))
    assert answer.status_code == 200, answer.text
    answered = answer.json()
    BiosignalResponse.model_validate_json(answer.text, strict=True)
    assert answered["subject"] == "anyone" and len(answered["windows"]) == 5
    for window in answered["windows"]:
        assert (window["probability"] is None) == bool(window["rejected"])
        if window["probability"] is not None:
            assert window["alarm"] == (window["probability"] > answered["threshold"])
    json.loads(answer.text, parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("change", "status", "error", "words"),
    [
        (lambda b: b["channels"].pop("ppg"), 422, "cannot_estimate", "ppg is not sent"),
        (lambda b: b["channels"]["ppg"].update(rate_hz=0), 422, "invalid_request", "channels.ppg.rate_hz"),
        (lambda b: b["channels"]["ppg"].update(samples=[]), 422, "invalid_request", "samples"),
        (lambda b: b["channels"]["ppg"].update(samples=["a"]), 422, "invalid_request", "samples.0"),
        (lambda b: b["channels"]["ppg"].update(start_s=1e9), 422, "invalid_request", "start_s"),
        (lambda b: b.update(channels={}), 422, "invalid_request", "channels"),
        (lambda b: b.update(more=1), 422, "invalid_request", "more"),
    ],
)
def test_what_is_no_request(client, change, status, error, words):
    sent = body(seconds=25)
    change(sent)
    answer = client.post(PATH, json=sent)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"] == error and re.search(words, answer.json()["detail"]), answer.text


@pytest.mark.parametrize(
    "channels",
    [
        {"ppg": {"rate_hz": 50_000.0, "samples": [80.0], "start_s": 3600.0}},
        {
            "ppg": {"rate_hz": 50_000.0, "samples": [80.0]},
            "ecg_mv": {"rate_hz": 100.0, "samples": [0.1], "start_s": 3600.0},
        },
        {"ppg": {"rate_hz": 1e-300, "samples": [80.0]}, "ecg_mv": {"rate_hz": 500.0, "samples": [0.1]}},
    ],
)  # fmt: skip
def test_few_samples_that_would_be_laid_out_on_hours_are_refused(channels):
    """180 million values at 50 kHz would be 720 MB."""
    with pytest.raises(ValueError, match="samples from 0 s to the end of all channels, at most 1,500,000"):
        BiosignalRequest.model_validate({"channels": channels})


def test_as_many_samples_as_are_said_may_be_sent():
    most = {"rate_hz": 499.9, "samples": [None] * (MAX_SAMPLES // 2)}
    BiosignalRequest.model_validate({"channels": {"ppg": most, "ecg_mv": most}})


def test_the_key_comes_first_and_the_limit_second(client):
    assert client.post(PATH, json={}, headers={"Authorization": "Bearer other"}).status_code == 401
    large = client.post(PATH, content=b" " * (MAX_SIGNAL_BYTES + 1))
    assert large.status_code == 413 and "twenty minutes" in large.json()["detail"]


def test_the_description_holds_the_schemas_and_examples(client):
    described = client.get("/openapi.json").json()
    assert described["paths"][PATH]["post"]["security"] == [{"key": []}]
    BiosignalRequest.model_validate_json(json.dumps(BiosignalRequest.example))
    BiosignalResponse.model_validate_json(json.dumps(BiosignalRequest.answer_example))
    schema = described["components"]["schemas"]["BiosignalRequest"]
    jsonschema.validate(BiosignalRequest.example, schema | {"components": described["components"]})


@pytest.mark.parametrize("change", [{"window_s": 1e9}, {"window_s": 1e-9}, {"past": ["ecg_mv"]}])
def test_windows_of_another_model_are_refused_before_they_are_cut(run, change, tmp_path):
    copy = shutil.copytree(run.path, tmp_path / run.name)
    (copy / manifest.FILE).unlink(missing_ok=True)
    file = copy / "checkpoint" / "preprocessing.json"
    body = json.loads(file.read_text())
    file.write_text(json.dumps(body | {"window": body["window"] | change}))
    with pytest.raises(ValueError, match="damaged.*(the model takes|window)"):
        LabelPredictor.load(copy)


# --- a case that the server holds -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored(run, tmp_path_factory):
    """A classifier with a folder of two .vital files, one of them torn; a file outside, and a link to it inside."""
    folder = tmp_path_factory.mktemp("server")
    held = folder / "cases"
    (held / "ward").mkdir(parents=True)
    tracks, _ = make_case(make_person(np.random.default_rng([5, 0])), 360, 250.0, np.random.default_rng([6, 0]))
    write_vital(held / "ward" / "0.vital", tracks)
    write_vital(folder / "outside.vital", tracks)
    (held / "torn.vital").write_bytes((folder / "outside.vital").read_bytes()[:5000])
    (held / "link.vital").symlink_to(folder / "outside.vital")
    return LabelPredictor.load(run.path, held)


def test_a_stored_case_is_answered_as_its_samples_are(stored):
    app = web.create_app(served.Direct(stored), digest(KEY))
    with TestClient(app, headers={"Authorization": f"Bearer {KEY}"}) as client:
        answer = client.post(PATH, json={"case": "ward/0.vital", "subject": "someone"})
        assert answer.status_code == 200, answer.text
        read = read_case(stored.cases / "ward" / "0.vital", tracks=served_signals.TRACKS, subject="someone")
        assert answer.json() == json.loads(json.dumps(stored.answer(Signals("someone", read.tracks)).as_dict()))
    assert sum(w["probability"] is not None for w in answer.json()["windows"]) > 20


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../outside.vital", "no such file below"),
        ("ward/../../outside.vital", "no such file below"),
        ("link.vital", "no such file below"),
        ("none.vital", "no such file below"),
        ("ward", "no such file below"),
        ("torn.vital", "torn.vital: .*(truncated|ends)"),
        ("/etc/passwd", "case: String should match"),
        ("a\\b", "case: String should match"),
        ("vitaldb:1", "no such file below"),
    ],
)
def test_what_lies_outside_the_folder_is_not_read(stored, name, words):
    app = web.create_app(served.Direct(stored), digest(KEY))
    with TestClient(app, headers={"Authorization": f"Bearer {KEY}"}) as client:
        answer = client.post(PATH, json={"case": name})
        assert answer.status_code == 422 and re.search(words, answer.text), answer.text
        assert str(stored.cases.parent) not in answer.text, "nothing of the server's paths"


def test_a_case_and_samples_exclude_one_another_and_need_a_folder(client, stored, monkeypatch):
    for sent in ({}, body(seconds=25) | {"case": "a.vital"}):
        assert "one of both" in client.post(PATH, json=sent).text
    assert "its operator named no folder" in client.post(PATH, json={"case": "a.vital"}).text
    monkeypatch.setattr("raycadian.modalities.biosignals.request.MAX_STORED_BYTES", 1000)
    with pytest.raises(ValueError, match="at most 1,000"):
        stored.answer(Stored(None, "ward/0.vital"))


# --- as a stream ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    return LabelPredictor.load(served_signals.make_run(tmp_path_factory.mktemp("causal"), filters="causal").path)


def rates(i: int) -> dict[str, tuple[float, str]]:
    return {c: (t.rate_hz, t.unit) for c, t in served_signals.raw_case(i).tracks.items()}


@pytest.mark.slow
@pytest.mark.parametrize("piece_s", [0.5, 7.3, 60.0])
def test_a_stream_says_what_the_whole_record_says(causal, piece_s):
    tracks = served_signals.raw_case(3).tracks
    whole = causal.answer(Signals(None, tracks)).as_dict()["windows"]
    stream, windows = SignalStream(causal, rates(3)), []
    for begin in np.arange(0, 360, piece_s):
        pieces = {
            c: t.values[round(begin * t.rate_hz) : round((begin + piece_s) * t.rate_hz)] for c, t in tracks.items()
        }
        windows += stream.push(pieces)
    assert len(windows) >= len(whole) - 1, "the last window waits for the resampler"
    both = [
        (a["probability"], b["probability"])
        for a, b in zip(whole, windows, strict=False)
        if a["probability"] and b["probability"]
    ]
    assert len(both) > 20
    for one, other in both:
        assert one == pytest.approx(other, abs=1e-6)
    same = [bool(a["rejected"]) == bool(b["rejected"]) for a, b in zip(whole, windows, strict=False)]
    assert np.mean(same) >= 0.9, "beats at the edge of what is kept may be judged otherwise"


@pytest.mark.parametrize("stated", [True, False])
def test_a_clipped_pressure_is_rejected_in_a_stream_as_in_the_whole_record(causal, monkeypatch, stated):
    tracks = dict(served_signals.raw_case(3).tracks)
    abp = tracks["abp_mmhg"]
    top = float(np.nanpercentile(abp.values, 60))
    tracks["abp_mmhg"] = replace(abp, values=np.minimum(abp.values, np.float32(top)))
    if stated:
        monkeypatch.setattr(causal, "card", causal.card.model_copy(update={"rails": {"abp_mmhg": (0.0, top)}}))
    whole = causal.answer(Signals(None, tracks)).as_dict()["windows"]
    stream, windows = SignalStream(causal, rates(3)), []
    for begin in range(0, 360, 30):
        windows += stream.push(
            {c: t.values[round(begin * t.rate_hz) : round((begin + 30) * t.rate_hz)] for c, t in tracks.items()}
        )
    assert len(windows) > 5 and [w["rejected"] for w in windows] == [w["rejected"] for w in whole[: len(windows)]]
    assert sum("saturated" in w["rejected"].get("abp_mmhg", ()) for w in windows) > 0.8 * len(windows)


def test_a_stream_over_a_socket(causal):
    app = web.create_app(served.Direct(causal), digest(KEY))
    with TestClient(app).websocket_connect(f"{PATH}/stream", headers={"Authorization": f"Bearer {KEY}"}) as socket:
        first = {c: {"rate_hz": rate, "unit": unit} for c, (rate, unit) in rates(0).items()}
        socket.send_json({"channels": first})
        assert socket.receive_json()["windows"] == []
        windows = []
        for second in range(0, 40, 10):
            samples = {
                c: [None if v != v else v for v in t.values[second * 250 : (second + 10) * 250].tolist()]
                for c, t in served_signals.raw_case(0).tracks.items()
            }
            socket.send_json({"channels": samples})
            windows += socket.receive_json()["windows"]
        assert [w["begin_s"] for w in windows] == [0.0, 10.0]
        socket.send_json({"channels": {"resp": [1.0]}})
        assert socket.receive_json()["error"] == "cannot_estimate"


def test_a_stream_needs_the_key_and_a_causal_model(classifier, causal):
    with TestClient(web.create_app(served.Direct(causal), digest(KEY))).websocket_connect(f"{PATH}/stream") as socket:
        assert socket.receive_json()["error"] == "unauthorized"
    with pytest.raises(ValueError, match="filters: causal"):
        SignalStream(classifier, rates(0))
    with pytest.raises(ValueError, match="the model reads"):
        SignalStream(causal, {"ppg": (100.0, "")})
    with pytest.raises(ValueError, match="90 s in one message"):
        SignalStream(causal, rates(0)).push({"ppg": np.zeros(90 * 250, np.float32)})


@pytest.mark.ray
@pytest.mark.slow
def test_both_paths_on_ray_serve(ray_local, causal, tmp_path_factory, monkeypatch):
    from websockets.sync.client import connect

    from raycadian.serving import app

    monkeypatch.setenv("RAYCADIAN_API_KEY", KEY)
    run = served_signals.make_run(tmp_path_factory.mktemp("ray"), filters="causal")
    expected = LabelPredictor.load(run.path).answer(BiosignalRequest.model_validate(body(1)).data()).as_dict()
    with app.serving(run, port=app.free_port()) as server:
        assert server.get("/v1/model")["task"] == "classify"
        assert server.post(PATH, body(1)) == expected
        with pytest.raises(ValueError, match="answers on /v1/biosignal"):
            server.post("/v1/forecast", ForecastRequest.example)
        headers = {"Authorization": f"Bearer {KEY}"}
        with connect(server.url.replace("http", "ws") + f"{PATH}/stream", additional_headers=headers) as socket:
            channels = body(1)["channels"]
            socket.send(
                json.dumps({"channels": {c: {k: v[k] for k in ("rate_hz", "unit")} for c, v in channels.items()}})
            )
            assert json.loads(socket.recv())["model"] == run.name
            socket.send(json.dumps({"channels": {c: v["samples"] for c, v in channels.items()}}))
            windows = json.loads(socket.recv())["windows"]
    for one, other in zip(windows, expected["windows"], strict=False):
        if one["probability"] and other["probability"]:
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-6)
    assert len(windows) >= len(expected["windows"]) - 1


# --- actigraphy -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def week():
    """A model of two days of counts a minute, not trained: what is cut and answered is what is tested."""
    from raycadian.config import Classification, Column, LabelWindow, Statistics
    from raycadian.evaluation.label.decision import Calibration
    from raycadian.modalities.actigraphy.card import ActigraphyCard
    from raycadian.models.base import ModelSpec
    from raycadian.models.build import build

    model = build(Statistics(), ModelSpec(2880, 0, 1.0, ("activity_counts",), (), (), "classify"))
    window = LabelWindow(window_s=172800, step_s=86400, eval_step_s=86400, past=("activity_counts",), max_missing=0.3)
    card = ActigraphyCard(name="few", files=("none.xpt",))
    task = Classification(label=Column(name="depressed"))
    return LabelPredictor("week", model, card, window, task, Decision(1, "soft", 0.0, Calibration("none"), 0.4))


def days(n: float = 4.5, **more: object) -> dict:
    minutes = np.arange(round(n * 1440))
    counts = (
        200 * (1 + np.sin(2 * np.pi * (minutes / 1440 - 0.4))) * (np.random.default_rng(0).random(len(minutes)) + 0.5)
    )
    return {"unit": "counts", "start": "2026-03-01T18:00:00", "values": counts.round().tolist()} | more


def test_several_labels_are_answered_each_with_its_own_threshold(week):
    from raycadian.config import PAT, Column
    from raycadian.evaluation.label.decision import Calibration
    from raycadian.models.build import build

    model = build(PAT(), replace(week.model.spec, labels=2))
    task = week.task.model_copy(update={"also": (Column(name="ssri"),)})
    own, other = (Decision(1, "soft", 0.0, Calibration("platt", (1.0, b)), t) for b, t in ((0.0, 0.0), (1.0, 1.0)))
    both = LabelPredictor("both", model, week.card, week.window, task, own, also=[other])
    app = web.create_app(served.Direct(both), digest(KEY))
    with TestClient(app, headers={"Authorization": f"Bearer {KEY}"}) as client:
        answer = client.post("/v1/actigraphy", json=days())
        assert answer.status_code == 200, answer.text
        BiosignalResponse.model_validate_json(answer.text, strict=True)
        answered = answer.json()
        off = client.post("/v1/actigraphy", json=days(worn=[i > 2.5 * 1440 for i in range(round(4.5 * 1440))])).json()
    assert answered["also"]["ssri"]["label"]["name"] == "ssri" and answered["also"]["ssri"]["threshold"] == 1.0
    for window in answered["windows"]:
        assert window["alarm"] and not window["also"]["ssri"]["alarm"]
        assert window["also"]["ssri"]["probability"] != pytest.approx(window["probability"])
    assert off["windows"][0]["also"]["ssri"] == {"probability": None, "alarm": None}
    with pytest.raises(ValueError, match="says several labels, a stream one"):
        both.card = served_signals.card(filters="causal")
        SignalStream(both, dict.fromkeys(both.window.past, (100.0, "")))


def test_windows_of_activity_begin_at_local_midnights(week):
    app = web.create_app(served.Direct(week), digest(KEY))
    with TestClient(app, headers={"Authorization": f"Bearer {KEY}"}) as client:
        answer = client.post("/v1/actigraphy", json=days(subject="anyone"))
        assert answer.status_code == 200, answer.text
        BiosignalResponse.model_validate_json(answer.text, strict=True)
        windows = answer.json()["windows"]
        assert [w["begin_s"] for w in windows] == [6 * 3600, 30 * 3600, 54 * 3600]
        assert all(w["probability"] == pytest.approx(0.5) and w["alarm"] for w in windows)
        off = days(worn=[i > 2.5 * 1440 for i in range(round(4.5 * 1440))])
        rejected = [w["rejected"] for w in client.post("/v1/actigraphy", json=off).json()["windows"]]
        assert rejected[0] == {"activity_counts": ["missing"]} and not rejected[2]


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (days(1.5), "nothing is as long as a window"),
        (days(unit="mims"), "reads activity_counts, found activity_mims"),
        (days(worn=[True]), "worn has 1 epochs"),
        (days(start="2026-02-30T00:00:00"), "start"),
        (days(start="yesterday"), "start"),
        (days(epoch_s=45.0), "expected a part of a minute"),
    ],
)
def test_activity_that_can_not_be_used_is_refused(week, sent, words):
    app = web.create_app(served.Direct(week), digest(KEY))
    with TestClient(app, headers={"Authorization": f"Bearer {KEY}"}) as client:
        answer = client.post("/v1/actigraphy", json=sent)
        assert answer.status_code == 422 and re.search(words, answer.text), answer.text
        assert "answers on /v1/actigraphy" in client.post(PATH, json=body(seconds=25)).text
