"""What clients see while everything around the endpoint fails: a minute of benchmarks/chaos.py, whose five are in
docs/security.md."""

import sys
from pathlib import Path

import pytest
import served

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
pytestmark = [pytest.mark.ray, pytest.mark.long]


def test_nothing_wrong_nothing_hung_and_failures_in_flight_alone(monkeypatch):
    import chaos

    monkeypatch.setenv("RAYCADIAN_API_KEY", served.KEY)
    rows = {row["fault"]: row for row in chaos.measure(75.0, rate=20.0)}
    total = rows.pop("all")
    assert total["wrong"] == total["hung"] == 0 and total["sent"] > 500, rows
    assert {"replica killed", "registry locked", "champion swapped"} <= set(rows)
    assert rows["registry locked"]["answered"] == rows["registry locked"]["sent"], rows  # no replica hangs on it
    assert total["failed"] <= 0.01 * total["sent"] and rows["replica killed"]["refused"] <= 40, rows
