"""Metrics on a real Ray's Prometheus endpoint, the dashboard that shows them, logs as text and as JSON."""

import json
import logging
import re
import time
import urllib.request
from pathlib import Path

import pytest

from raycadian import telemetry

DASHBOARD = json.loads((Path(__file__).parents[1] / "deploy" / "grafana.json").read_text())
EPOCH = {"windows": 640.0, "windows_per_s": 1280.0, "data/wait": 0.25, "data/bytes": 4e6, "val/rmse": 17.5}


def exported(name: str) -> str:
    return f"ray_{name}" + ("_total" if telemetry.METRICS[name][0] == "Counter" else "")


@pytest.mark.ray
@pytest.mark.slow
def test_prometheus_gets_every_metric(ray_local):
    with telemetry.bound(recipe="told"):
        telemetry.epoch(EPOCH)
        telemetry.epoch(EPOCH)
        telemetry.epoch({"windows": 0.0, "val/rmse": 17.5})  # in closed form, mapped
    telemetry.record("raycadian_trials", recipe="told", status="finished")
    telemetry.record("raycadian_failures", recipe="told", kind="trial")
    telemetry.record("raycadian_fits", 12, mechanism="told")
    (node,) = ray_local.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline, found = time.monotonic() + 90, {}
    while set(found) != set(telemetry.METRICS) and time.monotonic() < deadline:
        text = urllib.request.urlopen(address, timeout=10).read().decode()
        lines = {n: re.search(rf'^{exported(n)}{{.*"told".*}} (.*)$', text, re.M) for n in telemetry.METRICS}
        found = {name: float(line[1]) for name, line in lines.items() if line}
        time.sleep(1)
    assert found == {
        "raycadian_windows": 1280, "raycadian_windows_per_second": 1280, "raycadian_epochs": 3,
        "raycadian_data_wait_ratio": 0.25, "raycadian_data_bytes": 8e6,
        "raycadian_val_rmse_mgdl": 17.5, "raycadian_trials": 1, "raycadian_failures": 1, "raycadian_fits": 12,
    }  # fmt: skip


def test_the_dashboard_shows_every_metric_and_no_other():
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    shown = set(re.findall(r"ray_raycadian_\w+", " ".join(queries)))
    assert shown == {exported(name) for name in telemetry.METRICS}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_without_ray_nothing_is_recorded_and_nothing_fails(monkeypatch):
    monkeypatch.setitem(telemetry.sys.modules, "ray", None)
    telemetry.record("raycadian_epochs", recipe="x")


@pytest.fixture
def lines(monkeypatch, capsys):
    """What the package's logger writes on stderr, in the format that the environment asks for."""
    logger = logging.getLogger("raycadian")
    before = logger.level, logger.propagate
    monkeypatch.setattr(logger, "handlers", [])

    def write(as_json, **fields):
        logger.handlers = []
        monkeypatch.setenv("RAYCADIAN_LOG", "json" if as_json else "")
        telemetry.configure_logs()
        telemetry.configure_logs()  # twice is once
        with telemetry.bound(recipe="demo", trial="3f2a"), telemetry.bound(**fields):
            logging.getLogger("raycadian.training.loop").info("an epoch ended", extra={"metrics": {"epoch": 3}})
            logging.getLogger("raycadian.training.loop").warning("slow storage")
        return capsys.readouterr().err.splitlines()

    yield write
    logger.setLevel(before[0])
    logger.propagate = before[1]


def test_json_lines_carry_what_is_bound(lines):
    first, second = map(json.loads, lines(True, rank=0))
    assert (first["recipe"], first["trial"], first["rank"], first["level"]) == ("demo", "3f2a", 0, "INFO")
    assert first["metrics"] == {"epoch": 3}
    assert second["message"] == "slow storage"


def test_only_the_first_rank_tells_less_than_warnings(lines):
    (only,) = map(json.loads, lines(True, rank=1))
    assert (only["message"], only["rank"]) == ("slow storage", 1)


def test_what_holds_of_all_runs_is_said_to_people_once(lines):
    log = logging.getLogger("raycadian.data")
    about = {"level": logging.WARNING, "fn": "", "lno": 0, "args": (), "exc_info": None, "extra": {"once": "fits"}}
    records = [log.makeRecord(log.name, msg=f"fits of {name}", **about) for name in "ab"]
    for as_json, expected in ((False, [True, False]), (True, [True, True])):  # machines get all
        lines(as_json)
        (handler,) = logging.getLogger("raycadian").handlers
        assert [bool(handler.filter(record)) for record in records] == expected


def test_text_is_for_people(lines):
    assert lines(False, rank=0) == ["WARNING slow storage recipe=demo trial=3f2a rank=0"]
