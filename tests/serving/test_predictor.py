"""One contract for everything that answers: requests of its path, refusals in their place, and one POST path a
modality."""

import numpy as np
import pytest
import served
import served_signals
from starlette.testclient import TestClient

from raycadian.modalities import MODALITIES
from raycadian.modalities.actigraphy.request import Activity
from raycadian.modalities.biosignals.request import Signals
from raycadian.modalities.cgm.request import History
from raycadian.personal.store import digest
from raycadian.serving import web
from raycadian.serving.forecaster import Forecaster
from raycadian.serving.label import Estimate, LabelPredictor
from raycadian.serving.load import load_predictor

pytestmark = pytest.mark.slow  # a trained run behind them


REQUESTS = [modality.request() for modality in MODALITIES.values()]


@pytest.fixture(scope="module")
def readings():
    return served.people(3, 4)


@pytest.fixture(scope="module")
def forecaster(readings, tmp_path_factory):
    return load_predictor(served.make_run(tmp_path_factory.mktemp("runs"), readings).path)


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    return load_predictor(served_signals.make_run(tmp_path_factory.mktemp("runs")).path)


def test_a_run_gets_the_predictor_of_its_task(forecaster, labels):
    assert isinstance(forecaster, Forecaster) and isinstance(labels, LabelPredictor)
    assert (forecaster.path, labels.path) == ("/v1/forecast", "/v1/biosignal")
    assert forecaster.batched and not labels.batched
    assert (forecaster.describe()["task"], labels.describe()["task"]) == ("forecast", "classify")


def test_a_request_of_another_path_is_refused_in_its_place(forecaster, labels, readings):
    """In a batch, whoever asks: the others are answered."""
    own, signals = History.of(readings["p1"]), Signals(None, served_signals.raw_case(0).tracks)
    week = Activity(None, "activity_counts", np.datetime64("2026-03-02T00:00:00"), 60.0, np.ones(10_080))
    first, refusal, other, last = forecaster.predict([own, signals, week, own])
    np.testing.assert_allclose(first.quantiles, last.quantiles, rtol=1e-12)  # other rows of one batch
    for answer in (refusal, other):
        assert isinstance(answer, ValueError) and "answers on /v1/forecast; serve another run" in str(answer)
    estimate, refusal, other = labels.predict([signals, own, week])
    assert isinstance(estimate, Estimate)
    assert "answers on /v1/biosignal" in str(refusal) and "answers on /v1/biosignal" in str(other)
    with pytest.raises(ValueError, match="answers on /v1/biosignal"):
        labels.answer(own)
    with pytest.raises(ValueError, match="answers on /v1/forecast"):
        forecaster.open_stream({"ppg": (100.0, "")})


def test_an_answer_is_a_table_too(forecaster, labels, readings):
    forecast = forecaster.answer(History.of(readings["p1"]))
    estimate = labels.answer(Signals("me", served_signals.raw_case(0).tracks))
    assert len(forecast.as_frame()) == 6 and forecast.of_day(None) is forecast
    frame = estimate.as_frame()
    np.testing.assert_array_equal(frame["value"], estimate.value)
    assert list(frame) == ["begin_s", "end_s", "value"] and estimate.title.startswith("me by served")
    for answer in (forecast, estimate):
        with pytest.raises(ValueError, match="leave out --day"):
            answer.of_day("2026-03-02")


def test_nobody_asked_nobody_answered(forecaster, labels):
    assert forecaster.predict([]) == labels.predict([]) == []


@pytest.mark.parametrize("schema", REQUESTS, ids=lambda s: s.__name__)
def test_a_modality_has_a_post_path_with_examples_that_hold(forecaster, schema):
    """Adding a modality adds its path: the routes are made of the table."""
    client = TestClient(web.create_app(served.Direct(forecaster), digest(served.KEY)))
    operation = client.get("/openapi.json").json()["paths"][schema.path]["post"]
    assert operation["description"] == schema.summary and operation["security"] == [{"key": []}]
    content = operation["requestBody"]["content"]["application/json"]
    assert ("example" in content) == (schema.path == forecaster.path)  # the others are answered by no request
    request = schema.model_validate(schema.example).data()
    assert request.path == schema.path and request.subject == "anyone"
    schema.answer.model_validate(schema.answer_example)
    large = client.post(
        schema.path, content=b" " * (schema.most_bytes + 1), headers={"Authorization": f"Bearer {served.KEY}"}
    )
    assert large.status_code == 413 and schema.enough in large.json()["detail"]
    assert client.post(schema.path, json=schema.example).status_code == 401
