"""`raycadian doctor`: what it finds is what is there, and what is missing comes with its fix."""

import json
from importlib.metadata import version

import pytest
from click.testing import CliRunner

from raycadian.cli import doctor
from raycadian.cli.doctor import examine
from raycadian.cli.main import main


def _findings(*flags: str) -> tuple[dict[str, dict], int]:
    done = CliRunner().invoke(main, ["doctor", "--json", *flags])
    return {item["name"]: item for item in json.loads(done.stdout)}, done.exit_code


def test_doctor_reports_this_machine_as_json_and_starts_no_cluster(monkeypatch):
    monkeypatch.setattr("raycadian.cluster.connect", lambda: pytest.fail("Ray is started behind --ray alone"))
    findings, exit_code = _findings()
    assert {"Python", "ray", "torch", "CPUs", "memory", "GPU", "storage"} <= set(findings)
    assert findings["torch"]["found"] == version("torch")
    assert exit_code == (0 if all(item["ok"] for item in findings.values()) else 1)


@pytest.mark.ray
def test_with_ray_a_task_runs(ray_local):
    findings, _ = _findings("--ray")
    assert findings["Ray"]["ok"] and "a task ran on" in findings["Ray"]["found"]


def test_what_is_missing_comes_with_its_fix_and_exit_code_1(monkeypatch):
    monkeypatch.setattr(doctor, "_NEEDED", ("ray", "no-such-package"))
    monkeypatch.setattr(doctor, "_OPTIONAL", {"no-such-extra": "sim"})
    monkeypatch.setattr(doctor, "_MIN_FREE_GB", 1e9)
    found = {item.name: item for item in examine()}
    assert not found["no-such-package"].ok
    assert not found["storage"].ok
    assert found["no-such-extra (extra sim)"].ok  # optional: said, but no reason to fail
    assert "[sim]" in found["no-such-extra (extra sim)"].fix
    assert all(item.fix for item in found.values() if not item.ok)
    done = CliRunner().invoke(main, ["doctor"])
    assert done.exit_code == 1
    assert "MISSING  no-such-package: not installed\n         pip install" in done.output


def test_a_cluster_that_cannot_be_reached_is_a_finding(monkeypatch):
    def refuse():
        raise ConnectionError("no cluster at 10.0.0.1:6379")

    monkeypatch.setattr("raycadian.cluster.connect", refuse)
    found = doctor._ray()
    assert not found.ok
    assert found.found == "ConnectionError: no cluster at 10.0.0.1:6379"
    assert "RAY_ADDRESS" in found.fix


def test_what_others_may_read_or_reach_is_found_with_its_fix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "runs").mkdir(mode=0o755)
    (tmp_path / "people").mkdir(mode=0o700)
    (tmp_path / "runs" / "mlflow.db").touch(mode=0o640)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").touch(mode=0o644)
    found = {item.name.split("/")[-1]: item for item in doctor._private()}
    assert [(name, item.ok, item.found) for name, item in found.items()] == [
        ("auth_token (private)", False, "mode 644"),
        ("people (private)", True, "mode 700"),
        ("runs (private)", False, "mode 755"),
        ("mlflow.db (private)", False, "mode 640"),
    ]
    assert found["runs (private)"].fix.endswith("chmod 700 runs")
    assert found["mlflow.db (private)"].fix.endswith("chmod 600 runs/mlflow.db")
    monkeypatch.setenv("RAYCADIAN_UMASK", "027")  # a group reads them, and nothing else
    fixes = [item.fix.partition(": ")[2] for item in doctor._private()]
    assert fixes == ["chmod 600 " + str(tmp_path / ".ray" / "auth_token"), "", "chmod 750 runs", ""]
    monkeypatch.setattr(doctor, "_reachable", lambda: iter([("raylet", "0.0.0.0:8076")]))
    assert not doctor._ports().ok and "raylet on 0.0.0.0:8076" in doctor._ports().found
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert doctor._ports().ok


@pytest.mark.parametrize(
    ("address", "ours"), [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("::", False),
                          ("0.0.0.0", False), ("192.0.2.2", False)],
)  # fmt: skip
def test_loopback(address, ours):
    assert doctor.is_loopback(address) is ours
