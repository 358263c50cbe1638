"""`raycadian prepare CARD --json` on the real files beside the repository: every count is the file's own."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from raycadian.cli.main import main

pytestmark = pytest.mark.ray
CARDS = Path(__file__).parents[2] / "datasets"


@pytest.fixture(scope="module")
def prepare(ray_local, shared, tmp_path_factory):
    """Prepare a card by its name, through the command line; its JSON."""
    folder = tmp_path_factory.mktemp("snapshots")

    def one(name: str) -> dict[str, Any]:
        done = CliRunner().invoke(main, ["prepare", str(CARDS / f"{name}.yaml"), "--snapshots", str(folder), "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    return one


def issues(found: dict[str, Any]) -> dict[str, int]:
    return {kind: issue["count"] for kind, issue in found["issues"].items()}


def test_dexcom_clarity(prepare):
    found = prepare("dexcom_clarity")
    counts, met = found["counts"], issues(found)
    assert counts["readings"] == 24_542
    assert met["low"] == 64
    assert met["duplicate time on the clock (both kept, told apart by the transmitter's seconds)"] == 4
    assert met["row out of time order (sorted)"] == 8
    assert met["change of the UTC offset (DST or travel)"] == 2
    assert (counts["recordings"], counts["gaps"], counts["interruptions"]) == (11, 11, 61)
    assert counts["points"] - counts["observed"] == 73  # interpolated or missing, never counted as measured
    assert found["quality"]["clarity-1"]["min_mgdl"] == 39.0  # "Low" reads as the value just below the sensor's range


def test_libreview_is_converted_to_mgdl(prepare):
    found = prepare("libreview")
    assert found["counts"]["readings"] == 1_339
    assert found["counts"]["recordings"] == 1
    measured = found["quality"]["libreview-1"]
    assert measured["interval_min"] == 15
    assert measured["min_mgdl"] == 58
    assert measured["max_mgdl"] == 139


def test_iglu(prepare):
    found = prepare("iglu")
    assert (found["counts"]["readings"], found["counts"]["subjects"]) == (13_866, 5)
    assert sorted(found["subjects"]) == [f"Subject {i}" for i in range(1, 6)]
    assert found["quality"]["Subject 1"]["readings"] == 2_915
    assert issues(found)["recording shorter than min_points"] == 6


def test_colas_names_the_person_who_stands_there_twice(prepare):
    found = prepare("colas")
    assert (found["counts"]["readings"], found["counts"]["subjects"]) == (114_253, 208)
    assert issues(found)["two subjects that share readings (one person under two names?)"] == 1


def test_dubosson_without_its_excluded_subject(prepare):
    found = prepare("dubosson")
    assert (found["counts"]["readings"], found["counts"]["subjects"]) == (8_055 - 117, 8)
    assert "9" not in found["subjects"]
    assert issues(found)["row of a subject that the card excludes"] == 117


def test_every_snapshot_is_what_the_card_says(prepare):
    again = prepare("iglu")
    assert again["snapshot"] == prepare("iglu")["snapshot"]  # the second is the first: nothing is read twice
    assert Path(again["path"]).name == again["snapshot"]
    assert again["card"]["license"] == "GPL-2"
