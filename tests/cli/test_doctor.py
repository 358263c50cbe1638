"""`raycadian doctor`: what it finds is what is there, and what is missing comes with its fix."""

from __future__ import annotations

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
